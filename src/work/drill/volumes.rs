//! A set of volumes in the sandbox: its images, every block compared, mounted; the server that
//! lives there; the dump it is compared with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;

use super::{DrillState, RestoredDatastore};
use crate::config::plans::{CheckConfig, CheckQuestion, PlanStage, VolumeStage};
use crate::destination::postgres::TargetError;
use crate::domain::drill::{CheckKind, CheckOutcome, CheckResult, Scenario};
use crate::domain::fingerprint::{Fingerprint, HashKey};
use crate::domain::human_duration::{HumanDuration, format_duration};
use crate::domain::id::DatastoreName;
use crate::domain::manifest::{Manifest, PayloadRole};
use crate::domain::selector::BackupSelector;
use crate::domain::volumes::{PostgresCut, SetMember, VolumeSet};
use crate::pg::PgTools;
use crate::pg::rows::{ArchiveTally, assemble};
use crate::sandbox::SandboxError;
use crate::sandbox::volumes::UNSOUND;
use crate::volumes::damaged::DamagedVolumes;
use crate::work::compare::{compare, fingerprint_of};
use crate::work::shelf::{self, LoadedManifest};
use crate::work::snapshot::blocks::{self, RecordedBlocks};
use crate::work::snapshot::verify::{SnapshotSource, bytes_to_read, set_of};
use crate::work::verify::payload_of;
use crate::work::{WorkContext, WorkError};

/// A dump of the same database.
pub(super) struct SiblingDump {
    manifest: Manifest,
    recorded: Fingerprint,
}

fn gone() -> WorkError {
    WorkError::NotVerified("the sandbox is gone".to_owned())
}

/// Where a volume is mounted, as the plan says.
fn mount_of<'a>(stage: &'a VolumeStage, member: &SetMember) -> Result<&'a PathBuf, WorkError> {
    let device = member.attached.as_ref().map(|at| at.device.as_str());
    let of = |name: &str| name == member.volume.as_str() || Some(name) == device;
    stage.mounts.iter().find(|(name, _)| of(name)).map(|(_, at)| at).ok_or_else(|| {
        WorkError::Refused {
            what: format!("the restore plan of volume {}", member.volume),
            why: "it does not say where it is mounted".to_owned(),
            hint: format!(
                "write mounts = {{ \"{}\" = \"/path\" }}",
                device.unwrap_or(member.volume.as_str())
            ),
        }
    })
}

/// Brings a set back in the sandbox; returns the slot that opened its hashes.
pub(super) async fn restore_set(
    world: &mut DrillState<'_>,
    stage: &PlanStage,
    believed: &LoadedManifest,
) -> Result<String, WorkError> {
    let manifest = believed.manifest.clone();
    let set = set_of(&manifest)?;
    let plan = stage.volumes.clone().ok_or_else(|| {
        WorkError::Bug("a plan that was checked says nothing of volumes".to_owned())
    })?;
    fits(world, &manifest)?;
    // Mount points within others come after them.
    let mut members: Vec<(usize, &SetMember, &PathBuf)> = Vec::new();
    for (index, member) in set.members.iter().enumerate() {
        members.push((index, member, mount_of(&plan, member)?));
    }
    members.sort_by_key(|(_, _, at)| at.components().count());
    let opened = shelf::open_backup(&world.rig, &manifest).await?;
    let lost = world.drill.breaks.contains(&Scenario::RegionLost);
    let source = if lost {
        SnapshotSource::elsewhere(&world.rig, &manifest).await?
    } else {
        SnapshotSource::find(&world.rig, &manifest).await?
    };
    let stage_told = world.rig.progress.begin("read blocks", bytes_to_read(&manifest));
    for (index, member, at) in &members {
        let place = world.place.as_mut().ok_or_else(gone)?;
        let image = place.image(member.volume.as_str())?;
        let payload = blocks::payload_of(&manifest, *index).ok_or_else(|| {
            WorkError::NotVerified(format!(
                "no hashes were recorded of {} (hash = false), so nothing can be said about it",
                member.volume
            ))
        })?;
        let recorded = RecordedBlocks::open(&world.rig, payload, &opened.identity).await?;
        let snapshot = source
            .snapshot(member)
            .ok_or_else(|| WorkError::Bug("a copied set without a copy".to_owned()))?;
        let from = (source.volumes.as_ref(), snapshot);
        blocks::to_file(
            &world.rig,
            &manifest,
            from,
            Some(recorded),
            (&image, member.bytes),
            &stage_told,
        )
        .await?;
        world.found.moments.payload_reachable.get_or_insert(world.clock.seconds());
        place.mount_image(&image, at).await.map_err(unsound)?;
    }
    stage_told.end();
    let mounts = members.iter().map(|(_, _, at)| (*at).clone()).collect();
    let place = world.place.as_mut().ok_or_else(gone)?;
    place.adopt_server(mounts, &plan.data_directory, labels(set), &stage.settings).await?;
    world.found.moments.server_up = Some(world.clock.seconds());
    let dumped = dumped(world, stage, &manifest).await?;
    let recorded = dumped.as_ref().map_or_else(nothing_recorded, |dumped| dumped.recorded.clone());
    let tools = PgTools::find(world.rig.config.pg_bin.as_deref(), manifest.source.major())
        .await
        .map_err(TargetError::from)?;
    let connection = super::load::connection(world, &plan.database)?;
    world.restored.push(RestoredDatastore {
        manifest: manifest.clone(),
        recorded,
        without_rows_of: changing(world, stage),
        left_out: crate::work::compare::OmittedParts::default(),
        connection,
        tools,
        dumped,
    });
    Ok(opened.slot)
}

/// A file system that is not sound is the backup's fault; everything else the machine's.
fn unsound(error: SandboxError) -> WorkError {
    match error {
        SandboxError::Failed { what: UNSOUND, why } => {
            WorkError::Damaged { what: "a file system of the set".to_owned(), why }
        }
        other => other.into(),
    }
}

/// Images are in the sandbox's own memory.
fn fits(world: &DrillState<'_>, manifest: &Manifest) -> Result<(), WorkError> {
    let (needed, there) = (manifest.plain_bytes(), world.drill.sandbox.size_bytes);
    if needed < there {
        return Ok(());
    }
    Err(WorkError::NotVerified(format!(
        "the set holds {needed} bytes, and the sandbox {there}: write a larger size_mib in [local] of the drill"
    )))
}

/// Tables that a check says may differ: no row of theirs can show that damage is noticed.
fn changing(world: &DrillState<'_>, stage: &PlanStage) -> Vec<(String, String)> {
    let of = |check: &CheckConfig| match &check.ask {
        CheckQuestion::CrossCheck { changing, .. } if check.datastore == stage.datastore => {
            changing.clone()
        }
        _ => Vec::new(),
    };
    world.drill.checks.iter().flat_map(of).collect()
}

/// What an online backup needs before its server is started.
fn labels(set: &VolumeSet) -> Vec<(String, String)> {
    match &set.postgres {
        Some(PostgresCut::OnlineBackup { label, tablespace_map, .. }) => {
            let mut files = vec![("backup_label".to_owned(), label.clone())];
            if !tablespace_map.is_empty() {
                files.push(("tablespace_map".to_owned(), tablespace_map.clone()));
            }
            files
        }
        _ => Vec::new(),
    }
}

fn nothing_recorded() -> Fingerprint {
    assemble(HashKey::from_random(rand::random()), 0, ArchiveTally::default(), [])
}

/// The dump of the same database that was taken nearest to the set, if a check asks for it.
async fn dumped(
    world: &DrillState<'_>,
    stage: &PlanStage,
    manifest: &Manifest,
) -> Result<Option<SiblingDump>, WorkError> {
    let asks = |check: &&CheckConfig| check.datastore == stage.datastore;
    let with = world.drill.checks.iter().filter(asks).find_map(|check| match &check.ask {
        CheckQuestion::CrossCheck { with, .. } => Some(with),
        _ => None,
    });
    let Some(with) = with else { return Ok(None) };
    let Some(nearest) = nearest(&world.rig, with, manifest.source.snapshot_time).await? else {
        return Ok(None);
    };
    let identity = shelf::open_backup(&world.rig, &nearest).await?.identity;
    let recorded = Fingerprint::parse(
        &shelf::read_payload(
            &world.rig,
            payload_of(&nearest, PayloadRole::Fingerprint)?,
            &identity,
        )
        .await?,
    )?;
    Ok(Some(SiblingDump { manifest: nearest, recorded }))
}

async fn nearest(
    rig: &WorkContext,
    datastore: &DatastoreName,
    time: Timestamp,
) -> Result<Option<Manifest>, WorkError> {
    // Of those before it and around it; a dump long after it is looked for among the newest.
    let mut found: Vec<Manifest> = Vec::new();
    for which in [BackupSelector::At(time), BackupSelector::Latest] {
        match shelf::select_with_context(rig, datastore, &which).await {
            Ok(picked) => {
                found.push(picked.believed.manifest);
                found.extend(picked.others.into_iter().map(|other| other.manifest));
            }
            Err(WorkError::NoSuchBackup { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found
        .into_iter()
        .min_by_key(|manifest| manifest.source.snapshot_time.duration_since(time).abs()))
}

/// Compares what recovered with what was recorded when the same database was dumped: two
/// independent backups must agree.
pub(super) async fn cross_check(
    world: &DrillState<'_>,
    check: &CheckConfig,
    restored: &RestoredDatastore,
) -> CheckResult {
    let begun = Instant::now();
    let CheckQuestion::CrossCheck { with, within, changing } = &check.ask else {
        return result(
            check,
            (CheckOutcome::CouldNotLook, "it is no cross-check".to_owned(), Vec::new()),
            begun,
        );
    };
    let answer = compared(world, restored, with, *within, changing).await;
    result(check, answer, begun)
}

fn result(
    check: &CheckConfig,
    (answer, summary, detail): (CheckOutcome, String, Vec<String>),
    begun: Instant,
) -> CheckResult {
    CheckResult {
        name: check.name.clone(),
        datastore: check.datastore.clone(),
        kind: CheckKind::CrossCheck,
        answer,
        summary,
        seconds: begun.elapsed().as_secs_f64(),
        detail,
    }
}

async fn compared(
    world: &DrillState<'_>,
    restored: &RestoredDatastore,
    with: &DatastoreName,
    within: HumanDuration,
    changing: &[(String, String)],
) -> (CheckOutcome, String, Vec<String>) {
    let Some(dumped) = &restored.dumped else {
        return (CheckOutcome::CouldNotLook, format!("there is no dump of {with}"), Vec::new());
    };
    let (set, dump) =
        (restored.manifest.source.snapshot_time, dumped.manifest.source.snapshot_time);
    let apart = std::time::Duration::try_from(set.duration_since(dump).abs()).unwrap_or_default();
    let which = format!(
        "dump {} of {with}, taken {} {}",
        dumped.manifest.backup,
        format_duration(apart),
        if dump > set { "later" } else { "earlier" }
    );
    if apart > within.duration() {
        return (
            CheckOutcome::CouldNotLook,
            format!("the nearest is {which}, and no more than {within} are allowed"),
            Vec::new(),
        );
    }
    let found =
        match fingerprint_of(&world.rig, &restored.tools, &restored.connection, &dumped.recorded)
            .await
        {
            Ok(found) => found,
            Err(error) => {
                return (
                    CheckOutcome::CouldNotLook,
                    "the recovered database could not be read back".to_owned(),
                    vec![error.to_string()],
                );
            }
        };
    // Where a table may differ, so may its sequence; each is named by whoever says so.
    let mut expected = dumped.recorded.clone();
    let is_table = |(schema, name): &&(String, String)| {
        expected.tables.iter().any(|table| (&table.schema, &table.table) == (schema, name))
    };
    let is_known = |one: &&(String, String)| {
        is_table(one) || expected.sequences.contains_key(&format!("{}.{}", one.0, one.1))
    };
    if changing.iter().any(|one| !is_known(&one)) {
        let detail = changing
            .iter()
            .filter(|one| !is_known(one))
            .map(|(schema, name)| format!("{schema}.{name} is not in the dump"))
            .collect();
        return (
            CheckOutcome::CouldNotLook,
            "a table or sequence that may differ is not in the dump; is it mistyped?".to_owned(),
            detail,
        );
    }
    let left = expected.tables.len().saturating_sub(changing.iter().filter(is_table).count());
    if left == 0 {
        return (
            CheckOutcome::CouldNotLook,
            "every table may differ, so nothing is left to compare".to_owned(),
            Vec::new(),
        );
    }
    for (schema, name) in changing {
        for (sequence, statement) in &mut expected.sequences {
            if *sequence == format!("{schema}.{name}")
                && let Some(is) = found.sequences.get(sequence)
            {
                statement.clone_from(is);
            }
        }
    }
    let comparison = compare(&expected, &found, changing);
    if !comparison.agrees() {
        let count = comparison.differences.len();
        return (
            CheckOutcome::Fail,
            format!("{count} differences from {which}"),
            comparison.differences,
        );
    }
    let may = if changing.is_empty() {
        String::new()
    } else {
        format!("; {} may differ and were not compared", changing.len())
    };
    let rows: u64 = expected
        .tables
        .iter()
        .filter(|table| !changing.contains(&(table.schema.clone(), table.table.clone())))
        .map(|t| t.rows)
        .sum();
    let summary = format!("{left} tables with {rows} rows are as in {which}{may}");
    (CheckOutcome::Pass, summary, comparison.not_looked_at)
}

/// Turns one bit of a block and compares it with what was recorded.
pub(super) async fn block_damaged(
    rig: &WorkContext,
    manifest: &Manifest,
    elsewhere: bool,
) -> (Option<bool>, String) {
    let tried = async {
        let set = set_of(manifest)?;
        let identity = shelf::open_backup(rig, manifest).await?.identity;
        let source = if elsewhere {
            SnapshotSource::elsewhere(rig, manifest).await?
        } else {
            SnapshotSource::find(rig, manifest).await?
        };
        let smallest = set
            .members
            .iter()
            .enumerate()
            .min_by_key(|(_, member)| member.blocks.unwrap_or(u64::MAX));
        let (index, member) =
            smallest.ok_or_else(|| WorkError::NotVerified("the set is empty".to_owned()))?;
        let (Some(payload), Some(snapshot)) =
            (blocks::payload_of(manifest, index), source.snapshot(member))
        else {
            return Err(WorkError::NotVerified("no hashes were recorded".to_owned()));
        };
        let recorded = RecordedBlocks::open(rig, payload, &identity).await?;
        let damaged = DamagedVolumes::new(Arc::clone(&source.volumes));
        let stage = rig.progress.begin("read damaged blocks", None);
        let walked = blocks::walk(
            rig,
            manifest,
            (&damaged, snapshot),
            Some(recorded),
            &stage,
            |_, _| Ok(()),
        )
        .await;
        stage.end();
        Ok(walked)
    };
    match tried.await {
        Err(error) => {
            (None, format!("the blocks could not be read as they are: {}", error.class()))
        }
        Ok(Ok(_)) => (
            Some(false),
            "a bit of a block was turned, and the comparison found nothing".to_owned(),
        ),
        Ok(Err(WorkError::Damaged { .. })) => {
            (Some(true), "a turned bit of a block was noticed by its hash".to_owned())
        }
        Ok(Err(error)) => (None, format!("the volumes could not be read: {}", error.class())),
    }
}

/// What a drill of volumes can break so far.
///
/// # Errors
/// [`WorkError::Refused`] for what it cannot.
pub(super) fn breakable(drill: &str, scenario: Scenario) -> Result<(), WorkError> {
    match scenario {
        Scenario::LifeboatLost | Scenario::NewestDamaged => Err(WorkError::Refused {
            what: format!("drill {drill}: break {}", scenario.name()),
            why: "it is not rehearsed with volumes".to_owned(),
            hint: "remove it, or drill a dump with it".to_owned(),
        }),
        _ => Ok(()),
    }
}

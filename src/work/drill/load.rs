//! Choosing backups and restoring them, with what the drill breaks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::{DrillState, RestoredDatastore, at_fault, stock, volumes};
use crate::catalog::Catalog;
use crate::config::KeyKind;
use crate::config::plans::{BackupChoice, DrillPlan, PlanStage};
use crate::destination::postgres::TargetError;
use crate::destination::postgres::globals::TablespaceMap;
use crate::domain::ErrorClass;
use crate::domain::drill::{DrillHalt, Scenario};
use crate::domain::evidence::{ObjectVersion, RestoredBackup};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::human_duration::{format_bytes, format_duration};
use crate::domain::manifest::{Manifest, PayloadRole};
use crate::domain::selector::BackupSelector;
use crate::keyring::age_key::IdentityFile;
use crate::pg::sql::quote_identifier;
use crate::pg::{PgConnection, PgSession, PgTools};
use crate::progress::DrillEvent;
use crate::saga::SagaStep;
use crate::vault::damaged::{DamagedVault, VaultDamage};
use crate::work::compare::OmittedParts;
use crate::work::restore::{self, RestoreOptions};
use crate::work::shelf::{self, LoadedManifest};
use crate::work::thaw::{self, ThawOptions};
use crate::work::verify::payload_of;
use crate::work::{WorkContext, WorkError, rebuild};

/// Breaks what can be broken before anything is opened, and chooses.
pub(super) struct ChooseStep;
no_undo!(ChooseStep, "choose-backup");

/// The file with the age identity that stock tools open with: the drill's own, or the local one.
pub(super) fn stock_identity(rig: &WorkContext, drill: &DrillPlan) -> Option<PathBuf> {
    let local = rig.config.keys.iter().find_map(|key| match &key.kind {
        KeyKind::AgeIdentity(path) => Some(path.clone()),
        KeyKind::AwsKms { .. } | KeyKind::AgeRecipients(_) => None,
    });
    drill.recovery_identity.clone().or(local)
}

#[async_trait]
impl<'w> SagaStep<DrillState<'w>> for ChooseStep {
    type Output = Vec<String>;
    type Error = DrillHalt;
    async fn act(&self, world: &mut DrillState<'w>) -> Result<Vec<String>, DrillHalt> {
        for scenario in world.drill.breaks.clone() {
            world.team.tell(&DrillEvent::AboutToBreak { scenario, story: scenario.story() });
            // Talking before something is broken is no part of bringing it back.
            let begun = world.clock.seconds();
            world.team.pause().await;
            world.found.paused += world.clock.seconds() - begun;
            let outcome = break_it(world, scenario).await.map_err(at_fault)?;
            if let Some(outcome) = outcome {
                broke(world, scenario, outcome);
            }
        }
        // An offline key is used when nothing else opens, so it is tried last.
        if let Some(path) = &world.drill.recovery_identity {
            world.rig.openers.push(Arc::new(IdentityFile::new("the offline recovery key", path)));
        }
        let mut told = Vec::new();
        for stage in &world.drill.plan.stages {
            let (which, how) = match world.pinned.get(&stage.datastore) {
                Some((backup, how)) => (BackupSelector::Exactly(backup.clone()), how.clone()),
                None => which(world.drill),
            };
            let mut warnings = Vec::new();
            let believed = shelf::select(&world.rig, &stage.datastore, &which, &mut warnings)
                .await
                .map_err(at_fault)?;
            warnings.extend(frozen(&world.rig, &believed, world.drill).await.map_err(at_fault)?);
            for warning in warnings {
                world.team.tell(&DrillEvent::Warned { warning });
            }
            if !believed.verified {
                return Err(DrillHalt::backup(
                    "no signing key is pinned, so nobody can tell who wrote the backup".to_owned(),
                ));
            }
            let manifest = &believed.manifest;
            told.push(format!(
                "backup {} of {} ({how}), {}",
                manifest.backup,
                stage.datastore,
                format_bytes(manifest.plain_bytes())
            ));
            world.chosen.push((believed, how));
        }
        fits(world)?;
        let bytes = world.chosen.iter().map(|(chosen, _)| chosen.manifest.plain_bytes()).sum();
        world.found.predicted = super::predicted_seconds(world.series, &world.drill.name, bytes);
        let allowed = world.drill.rto.duration().as_secs_f64();
        if let Some(predicted) = world.found.predicted.filter(|predicted| *predicted > allowed) {
            world.team.tell(&DrillEvent::Warned {
                warning: format!("earlier drills let one expect {predicted:.0} s, and the RTO allows {allowed:.0} s"),
            });
        }
        world.team.tell(&DrillEvent::Chosen {
            backups: told.clone(),
            predicted_seconds: world.found.predicted,
        });
        Ok(told)
    }
}

/// What an empty cluster takes, with some WAL, in bytes.
const EMPTY_CLUSTER: u64 = 96 * 1024 * 1024;

/// Refuses a sandbox that the backup cannot fit into, before anything is loaded. One that it may
/// not fit into is tried.
fn fits(world: &DrillState<'_>) -> Result<(), DrillHalt> {
    let stages = world.drill.plan.stages.iter().zip(&world.chosen);
    // Of volumes every block is counted where they are laid out; rows that are left out take no
    // room.
    let whole = stages.filter(|(stage, _)| {
        stage.volumes.is_none() && stage.without_rows_of.is_empty() && stage.skip.is_empty()
    });
    let needed = whole
        .map(|(_, (chosen, _))| chosen.manifest.plain_bytes())
        .fold(EMPTY_CLUSTER, u64::saturating_add);
    let size = world.drill.sandbox.size_bytes;
    if needed <= size {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
    Err(DrillHalt::sandbox(format!(
        "nothing was restored: the backup's rows alone take {} MiB, and the sandbox has {} (size_mib in the drill file; indexes take more)",
        mib(needed),
        mib(size)
    )))
}

/// A payload that must be thawed first takes hours that no RTO of minutes has.
pub(super) async fn frozen(
    rig: &WorkContext,
    believed: &LoadedManifest,
    drill: &DrillPlan,
) -> Result<Option<String>, WorkError> {
    let frost = thaw::inspect_archive(rig, &believed.manifest).await?;
    let plan =
        thaw::ThawPlan::of(&frost, &hurry(drill, &believed.manifest), jiff::Timestamp::now())?;
    Ok(plan.and_then(|plan| {
        let offer = plan.offer()?;
        let takes = format_duration(std::time::Duration::from_secs(offer.seconds));
        let what = format!("{} objects are in {} and must be thawed before they can be read", plan.objects, thaw::name(plan.class));
        Some(match drill.thaw {
            Some(_) => format!("{what}: {} retrieval, within {takes}; the RTO allows {}", plan.tier, drill.rto),
            None => format!(
                "{what}, within {takes} by {} retrieval; the RTO allows {}; thaw = \"{}\" in the drill rehearses it",
                plan.tier, drill.rto, plan.tier
            ),
        })
    }))
}

/// How a drill thaws: at the tier it names.
#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn hurry(drill: &DrillPlan, manifest: &Manifest) -> ThawOptions {
    let load = std::time::Duration::from_secs_f64(
        manifest.plain_bytes() as f64 / thaw::BYTES_PER_SECOND_ASSUMED,
    );
    ThawOptions {
        tier: drill.thaw,
        days: None,
        allowed: drill.rto.duration().saturating_sub(load),
        load,
    }
}

/// Thaws what must be thawed, as on-call's restore does, if the drill means to rehearse that.
pub(super) async fn thawed(
    world: &DrillState<'_>,
    believed: &LoadedManifest,
) -> Result<(), WorkError> {
    if world.drill.thaw.is_some() {
        thaw::thaw_and_wait(
            &world.rig,
            &believed.manifest,
            &hurry(world.drill, &believed.manifest),
        )
        .await?;
    }
    Ok(())
}

pub(super) fn which(drill: &DrillPlan) -> (BackupSelector, String) {
    match &drill.chosen {
        BackupChoice::Latest => (BackupSelector::Latest, "the newest".to_owned()),
        BackupChoice::Oldest => (BackupSelector::Oldest, "the oldest".to_owned()),
        BackupChoice::At(time) => {
            (BackupSelector::At(*time), format!("the newest at or before {time}"))
        }
        BackupChoice::Exactly(id) => {
            (BackupSelector::Exactly(id.clone()), "named in the drill".to_owned())
        }
        BackupChoice::Random(window) => {
            let seed = drill.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
            let since = jiff::Timestamp::now()
                - jiff::SignedDuration::try_from(window.duration()).unwrap_or_default();
            (
                BackupSelector::Random { seed, since },
                format!("at random within {window}, seed {seed}"),
            )
        }
    }
}

fn broke(world: &mut DrillState<'_>, scenario: Scenario, outcome: String) {
    world.team.tell(&DrillEvent::Broke { scenario, outcome: outcome.clone() });
    world.found.broken.insert(scenario, outcome);
}

/// Breaks; the outcome, where it is known at once.
async fn break_it(
    world: &mut DrillState<'_>,
    scenario: Scenario,
) -> Result<Option<String>, WorkError> {
    match scenario {
        Scenario::CatalogLost => catalog_lost(world).await.map(Some),
        Scenario::HomeKeyLost => {
            lose_home_key(&mut world.rig);
            Ok(None)
        }
        Scenario::RegionLost => {
            let (name, replica) = region_left(&world.rig)
                .map(|(name, vault)| (name.to_owned(), Arc::clone(vault)))?;
            (world.rig.vault, world.region) = (replica, Some(name));
            lose_home_key(&mut world.rig);
            Ok(None)
        }
        Scenario::KmsGone => {
            world.rig.openers.clear();
            Ok(None)
        }
        Scenario::LifeboatLost | Scenario::NewestDamaged => Ok(None),
    }
}

/// The first configured key that can open does not open any more.
fn lose_home_key(rig: &mut WorkContext) {
    let home = rig
        .config
        .keys
        .iter()
        .find(|key| !matches!(key.kind, KeyKind::AgeRecipients(_)))
        .map(|key| key.name.clone());
    rig.openers.retain(|opener| Some(opener.name()) != home.as_deref());
}

/// The copy that is left when the home region is gone: the first that the configuration names.
pub(super) fn region_left(
    rig: &WorkContext,
) -> Result<(&str, &Arc<dyn crate::vault::Vault>), WorkError> {
    rig.replicas.iter().next().map(|(name, vault)| (name.as_str(), vault)).ok_or_else(|| {
        WorkError::Refused {
            what: format!("break {}", Scenario::RegionLost.name()),
            why: "lifeboat.toml names no other vault, so nothing would be left".to_owned(),
            hint: "add a section [vaults.NAME], and copy backups to it (`lifeboat copy NAME`)"
                .to_owned(),
        }
    })
}

/// A new, empty catalog learns everything again from the vault.
async fn catalog_lost(world: &mut DrillState<'_>) -> Result<String, WorkError> {
    let vault = shelf::vault_id(&world.rig).await?;
    let scratch = tempfile::tempdir()
        .map_err(|source| WorkError::File { what: "making a new catalog".to_owned(), source })?;
    world.rig.catalog = Ok(Catalog::open(&scratch.path().join("catalog.db")).await?);
    let (count, refused) = rebuild::rebuild(&world.rig).await?;
    let Ok(catalog) = &world.rig.catalog else {
        return Err(WorkError::Bug("a new catalog is no catalog".to_owned()));
    };
    for stage in &world.drill.plan.stages {
        let learned = catalog.known(&vault, &stage.datastore).await?;
        let lost = match &world.own.catalog {
            Ok(own) => own
                .known(&vault, &stage.datastore)
                .await?
                .into_keys()
                .filter(|id| !learned.contains_key(id))
                .count(),
            Err(_) => 0,
        };
        if learned.is_empty() || lost > 0 {
            return Err(WorkError::Damaged {
                what: format!("what the vault tells of {}", stage.datastore),
                why: format!(
                    "a new catalog learns {} backups from it, and {lost} that this host knew are not among them",
                    learned.len()
                ),
            });
        }
    }
    Ok(format!(
        "a new catalog learned {count} backups from the vault; {} manifests were not believed",
        refused.len()
    ))
}

/// Restores every datastore of the plan, in order.
pub(super) struct RestoreStep;
no_undo!(RestoreStep, "restore");

#[async_trait]
impl<'w> SagaStep<DrillState<'w>> for RestoreStep {
    type Output = ();
    type Error = DrillHalt;
    async fn act(&self, world: &mut DrillState<'w>) -> Result<(), DrillHalt> {
        let drill = world.drill;
        for (index, stage) in drill.plan.stages.iter().enumerate() {
            let (mut believed, mut how) = world
                .chosen
                .get(index)
                .cloned()
                .ok_or_else(|| DrillHalt::backup("nothing was chosen".to_owned()))?;
            if drill.breaks.contains(&Scenario::NewestDamaged) {
                (believed, how) = damaged(world, stage, believed).await?;
            }
            thawed(world, &believed).await.map_err(at_fault)?;
            let opened_with = match drill.breaks.contains(&Scenario::LifeboatLost) {
                _ if stage.volumes.is_some() => volumes::restore_set(world, stage, &believed).await,
                true => by_hand(world, &believed).await,
                false => restore_one(world, stage, &believed).await,
            };
            let opened_with = opened_with.map_err(at_fault)?;
            let facts = facts(&world.rig, &believed, how, Some(opened_with.clone()))
                .await
                .map_err(at_fault)?;
            world.found.backups.push(facts);
            for scenario in [Scenario::HomeKeyLost, Scenario::KmsGone, Scenario::RegionLost] {
                if drill.breaks.contains(&scenario) && !world.found.broken.contains_key(&scenario) {
                    let from = world
                        .region
                        .as_ref()
                        .map(|name| format!("restored from vault {name} and "))
                        .unwrap_or_default();
                    broke(
                        world,
                        scenario,
                        format!(
                            "the backup of {} was {from}opened with {opened_with}",
                            stage.datastore
                        ),
                    );
                }
            }
        }
        world.found.moments.loaded = Some(world.clock.seconds());
        for restored in &world.restored {
            first_query(restored).await.map_err(at_fault)?;
        }
        world.found.moments.first_query = Some(world.clock.seconds());
        Ok(())
    }
}

/// A datastore that does not answer has not come back.
async fn first_query(restored: &RestoredDatastore) -> Result<(), WorkError> {
    let mut session = PgSession::open(&restored.tools, &restored.connection)
        .await
        .map_err(TargetError::Restored)?;
    let question = match restored.recorded.tables.first() {
        Some(table) => {
            format!(
                "SELECT count(*) FROM (SELECT FROM {}.{} LIMIT 1) AS one",
                quote_identifier(&table.schema),
                quote_identifier(&table.table)
            )
        }
        None => "SELECT count(*) FROM pg_catalog.pg_class".to_owned(),
    };
    session.ask_one("the first query", &question).await.map_err(TargetError::Restored)?;
    Ok(())
}

async fn facts(
    rig: &WorkContext,
    believed: &LoadedManifest,
    chosen: String,
    opened_with: Option<String>,
) -> Result<RestoredBackup, WorkError> {
    let manifest = &believed.manifest;
    let mut objects = BTreeMap::new();
    for object in manifest.payloads.iter().flat_map(|payload| &payload.objects) {
        let version = rig.vault.find(&object.key).await?.and_then(|facts| facts.version);
        objects
            .insert(object.key.clone(), ObjectVersion { sha256: object.sha256.clone(), version });
    }
    let bytes = crate::vault::fetch::document(rig.vault.as_ref(), &manifest.place().manifest())
        .await?
        .unwrap_or_default();
    Ok(RestoredBackup {
        datastore: manifest.datastore.clone(),
        backup: manifest.backup.clone(),
        chosen,
        manifest_sha256: shelf::sha256(&bytes),
        signature_verified: believed.verified,
        opened_with,
        snapshot_time: manifest.source.snapshot_time,
        plain_bytes: manifest.plain_bytes(),
        objects,
    })
}

fn gone() -> WorkError {
    WorkError::NotVerified("the sandbox is gone".to_owned())
}

pub(super) fn connection(
    world: &DrillState<'_>,
    database: &str,
) -> Result<PgConnection, WorkError> {
    world.place.as_ref().map(|place| place.connection(database)).ok_or_else(gone)
}

/// Restores as on-call would; returns the slot that opened the backup.
async fn restore_one(
    world: &mut DrillState<'_>,
    stage: &PlanStage,
    believed: &LoadedManifest,
) -> Result<String, WorkError> {
    let target = connection(world, stage.datastore.as_str())?;
    // Tablespaces of the plan name directories of another machine; smoke commands are asked with
    // the checks.
    let wishes = RestoreOptions {
        tablespaces: TablespaceMap::default(),
        smoke: Vec::new(),
        ..RestoreOptions::of(stage)?
    };
    let prepared = restore::prepare(&world.rig, believed.manifest.clone(), target, wishes).await?;
    world.found.moments.payload_reachable.get_or_insert(world.clock.seconds());
    let (slot, left_out) = (prepared.slot.clone(), prepared.left_out_of_comparison());
    let report = restore::into_database(&world.rig, prepared).await.map_err(|(error, _)| error)?;
    world.found.restores.push(report);
    remember(
        world,
        &believed.manifest,
        stage.datastore.as_str(),
        stage.without_rows_of.clone(),
        left_out,
    )
    .await?;
    Ok(slot)
}

/// Keeps what the checks need of a restored datastore.
async fn remember(
    world: &mut DrillState<'_>,
    manifest: &Manifest,
    database: &str,
    without_rows_of: Vec<(String, String)>,
    left_out: OmittedParts,
) -> Result<(), WorkError> {
    let recorded = recorded(&world.rig, manifest).await?;
    let major = manifest.source.major().max(recorded.pg_dump_major);
    let tools = PgTools::find(world.rig.config.pg_bin.as_deref(), major)
        .await
        .map_err(TargetError::from)?;
    let connection = connection(world, database)?;
    world.restored.push(RestoredDatastore {
        manifest: manifest.clone(),
        recorded,
        without_rows_of,
        left_out,
        connection,
        tools,
        dumped: None,
    });
    Ok(())
}

async fn recorded(rig: &WorkContext, manifest: &Manifest) -> Result<Fingerprint, WorkError> {
    let identity = shelf::open_backup(rig, manifest).await?.identity;
    Ok(Fingerprint::parse(
        &shelf::read_payload(rig, payload_of(manifest, PayloadRole::Fingerprint)?, &identity)
            .await?,
    )?)
}

/// The newest backup turns out to be damaged: that must be noticed, and the one before it is taken.
async fn damaged(
    world: &mut DrillState<'_>,
    stage: &PlanStage,
    newest: LoadedManifest,
) -> Result<(LoadedManifest, String), DrillHalt> {
    let sound = Arc::clone(&world.rig.vault);
    let main = payload_of(&newest.manifest, PayloadRole::Main).map_err(at_fault)?;
    let object =
        main.objects.first().ok_or_else(|| DrillHalt::backup("it has no objects".to_owned()))?;
    // Behind the header, within what is read first: a later place would be noticed as well, but
    // only after a longer load.
    let damage =
        VaultDamage::BitTurned { key: object.key.clone(), at: (object.bytes / 2).min(128 * 1024) };
    world.rig.vault = Arc::new(DamagedVault::new(Arc::clone(&sound), damage));
    let tried = restore_one(world, stage, &newest).await;
    world.rig.vault = sound;
    match tried {
        Ok(_) => return Err(DrillHalt::backup("the newest backup was damaged and nobody noticed")),
        Err(error) if error.class() == ErrorClass::Integrity => {}
        // It failed, but not for the damage: nothing is known about noticing.
        Err(error) => return Err(at_fault(error)),
    }
    drop_database(world, stage.datastore.as_str()).await.map_err(at_fault)?;
    let before = newest.manifest.source.snapshot_time - jiff::SignedDuration::from_nanos(1);
    let which = BackupSelector::At(before);
    let older = shelf::select(&world.rig, &stage.datastore, &which, &mut Vec::new())
        .await
        .map_err(|error| match error.class() {
            ErrorClass::NoSuchBackup => DrillHalt::backup(
                "the newest backup is damaged, and there is none before it".to_owned(),
            ),
            _ => at_fault(error),
        })?;
    let cost =
        newest.manifest.source.snapshot_time.duration_since(older.manifest.source.snapshot_time);
    let cost = format_duration(std::time::Duration::try_from(cost).unwrap_or_default());
    let outcome = format!(
        "the restore refused it as damaged; backup {} was used instead, which costs {cost} of data",
        older.manifest.backup
    );
    broke(world, Scenario::NewestDamaged, outcome);
    Ok((older, "the one before the damaged newest".to_owned()))
}

/// Removes what a failed load left, as on-call would before starting over.
async fn drop_database(world: &DrillState<'_>, name: &str) -> Result<(), WorkError> {
    let tools =
        PgTools::find(world.rig.config.pg_bin.as_deref(), 0).await.map_err(TargetError::from)?;
    let mut session = PgSession::open(&tools, &connection(world, "postgres")?)
        .await
        .map_err(TargetError::Restored)?;
    let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_identifier(name));
    Ok(session.run("the half-loaded database", &statement).await.map_err(TargetError::Restored)?)
}

/// Restores with stock tools alone; returns the slot whose key opened it.
async fn by_hand(
    world: &mut DrillState<'_>,
    believed: &LoadedManifest,
) -> Result<String, WorkError> {
    let identity = stock_identity(world.own, world.drill).ok_or_else(gone)?;
    let place = world.place.as_ref().ok_or_else(gone)?;
    let done = stock::restore(&world.rig, place, &believed.manifest, &identity).await?;
    let backup = &believed.manifest.backup;
    broke(
        world,
        Scenario::LifeboatLost,
        format!("RESTORE.md of {backup} was followed with stock tools alone: {}", done.summary),
    );
    // RESTORE.md knows no plan and leaves nothing out.
    remember(world, &believed.manifest, &done.database, Vec::new(), OmittedParts::default())
        .await?;
    Ok(done.slot)
}

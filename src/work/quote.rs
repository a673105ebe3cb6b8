//! The restore estimate: from which backup, how old, how long it will take, what it costs, what
//! blocks it.
//!
//! Read-only, and its cost does not grow with the vault: it reads the newest manifests of one
//! datastore, the end of the evidence, the envelope of one backup, and the metadata of its
//! payloads.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::publish::without_catalog;
use super::restore::read_through;
use super::restore::{self, PreparedRestore, RestoreOptions, TargetInspection};
use super::snapshot::SetError;
use super::snapshot::restore::{VolumeRestoreOptions, place_of};
use super::snapshot::verify::set_of;
use super::thaw::{self, BYTES_PER_SECOND_ASSUMED, ThawOptions, ThawPlan};
use super::{WorkContext, WorkError, shelf, status, verify};
use crate::config::VaultConfig;
use crate::destination::postgres::globals::GlobalsPlan;
use crate::domain::drill::Verdict;
use crate::domain::evidence::RecordBody;
use crate::domain::human_duration::{format_bytes, format_duration};
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::manifest::Manifest;
use crate::domain::selector::BackupSelector;
use crate::domain::thaw::RetrievalTier;
use crate::domain::volumes::{SetMember, SnapshotProgress};
use crate::evidence::{self, EvidenceSeries};
use crate::pg::PgConnection;

/// Records of the evidence that are read at most.
const RECORDS_MAX: usize = 512;
/// Measured restores of a datastore that are enough to foretell the next.
const MEASURED_ENOUGH: usize = 5;
/// Backups that are named beside the chosen one.
const OTHERS_SHOWN: usize = 4;
/// What a database takes on disk for each byte of its dump, indexes included: a guess on the safe
/// side.
const ROOM_FACTOR: u64 = 2;
/// What decides the tier of a thaw where no objective is known.
const RTO_ASSUMED_SECONDS: u64 = 4 * 3_600;
/// A backup that is so many times smaller than the one before it may be one of what the damage
/// left.
const SHRUNK_FACTOR: u64 = 2;
/// Dollars for 1,000 GET requests, S3 Standard, us-east-1, 2023.
const GET_PER_THOUSAND: f64 = 0.0004;

/// A backup beside the chosen one.
#[derive(Debug, Serialize)]
pub struct OtherBackup {
    /// The backup.
    pub backup: BackupId,
    /// Its number.
    pub sequence: u64,
    /// When its snapshot was taken.
    pub taken: Timestamp,
    /// Bytes to load.
    pub plain_bytes: u64,
}

/// The newest drill of the datastore.
#[derive(Debug, Serialize)]
pub struct LastDrill {
    /// The run.
    pub run: String,
    /// When it was declared.
    pub declared: Timestamp,
    /// What came of it.
    pub verdict: Verdict,
    /// Whether it restored the very backup that is chosen.
    pub this_backup: bool,
}

/// How long it will take.
#[derive(Debug, Serialize)]
pub struct EstimatedDuration {
    /// Seconds of loading and checking as drills and restores of the same datastore let one
    /// expect; none if none was ever measured.
    pub load_seconds: Option<f64>,
    /// Of how many measured restores that is the median.
    pub measured: usize,
    /// Seconds until everything can be read, at most.
    pub thaw_seconds: u64,
    /// The objective, in seconds; none on a host that knows no objectives.
    pub rto_seconds: Option<u64>,
}

impl EstimatedDuration {
    /// The whole time, if it can be foretold.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "seconds for people")]
    pub fn total_seconds(&self) -> Option<f64> {
        Some(self.load_seconds? + self.thaw_seconds as f64)
    }

    /// What a load is taken to last where a limit has to be kept: what was measured, or a slow
    /// server.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "seconds for people")]
    pub fn load(&self, manifest: &Manifest) -> Duration {
        let assumed = manifest.plain_bytes() as f64 / BYTES_PER_SECOND_ASSUMED;
        Duration::try_from_secs_f64(self.load_seconds.unwrap_or(assumed)).unwrap_or(Duration::MAX)
    }
}

/// Something that stands in the way.
#[derive(Debug, Serialize)]
pub struct RestoreBlocker {
    /// What.
    pub what: String,
    /// What to do.
    pub next: Option<String>,
    /// What will be the error if nothing is done.
    #[serde(skip)]
    pub error: WorkError,
}

/// What a restore would be.
#[derive(Debug, Serialize)]
pub struct RestoreEstimate {
    /// The vault.
    pub vault: String,
    /// The datastore.
    pub datastore: DatastoreName,
    /// The chosen backup.
    pub backup: BackupId,
    /// Its number.
    pub sequence: u64,
    /// When its snapshot was taken.
    pub taken: Timestamp,
    /// How old that is, in seconds.
    pub age_seconds: i64,
    /// Why this one.
    pub chosen: String,
    /// Whether a pinned key signed it.
    pub verified: bool,
    /// Bytes in the vault, and bytes to load.
    pub sealed_bytes: u64,
    /// See `sealed_bytes`.
    pub plain_bytes: u64,
    /// Other backups, newest first.
    pub others: Vec<OtherBackup>,
    /// All backups of the datastore in the vault.
    pub backups: usize,
    /// When the oldest was begun.
    pub oldest: Timestamp,
    /// What whoever restores must know.
    pub warnings: Vec<String>,
    /// The newest drill.
    pub drilled: Option<LastDrill>,
    /// How long it will take.
    pub takes: EstimatedDuration,
    /// What must be thawed first.
    pub thaw: Option<ThawPlan>,
    /// What it costs at the store, in dollars; an estimate by list prices, transfer out of the
    /// region not included.
    pub dollars: f64,
    /// Whether every object is there, in the size that was signed.
    pub objects_there: bool,
    /// When it was last read in full on this host and found whole; none if that is not known.
    pub read_in_full: Option<Timestamp>,
    /// The slot that opens it.
    pub opens_with: Option<String>,
    /// What would be done, in order.
    pub steps: Vec<String>,
    /// What stands in the way.
    pub missing: Vec<RestoreBlocker>,
    /// The chosen backup's manifest.
    #[serde(skip)]
    pub manifest: Manifest,
}

/// What is asked for.
pub struct EstimateRequest<'a> {
    /// The datastore.
    pub datastore: &'a DatastoreName,
    /// Which backup.
    pub which: &'a BackupSelector,
    /// How it is wished to be thawed.
    pub tier: Option<RetrievalTier>,
    /// For how many days thawed copies are kept, if somebody chose.
    pub days: Option<u32>,
}

/// Looks at everything that does not depend on the target.
///
/// # Errors
/// [`WorkError`] if there is no such backup, or the vault cannot be read.
pub async fn quote(
    rig: &WorkContext,
    question: &EstimateRequest<'_>,
) -> Result<RestoreEstimate, WorkError> {
    let picked = shelf::select_with_context(rig, question.datastore, question.which).await?;
    let (manifest, now) = (picked.believed.manifest, Timestamp::now());
    let series = newest_evidence(rig, &manifest).await?;
    let frost = thaw::inspect_archive(rig, &manifest).await;
    let rto_seconds = rig
        .config
        .datastores
        .get(question.datastore)
        .map(|settings| settings.rto.duration().as_secs());
    let (load_seconds, measured) = foretold(&series, &manifest);
    let mut takes = EstimatedDuration { load_seconds, measured, thaw_seconds: 0, rto_seconds };
    let (mut missing, mut warnings) = (Vec::new(), picked.warnings);
    let objects_there = frost.is_ok();
    let thaw = match frost {
        Ok(frost) => ThawPlan::of(&frost, &hurry(question, &takes, &manifest), now)?,
        Err(error) => {
            let next = match picked
                .others
                .iter()
                .find(|other| other.manifest.sequence < manifest.sequence)
            {
                Some(before) => {
                    format!("restore the one before it: --backup {}", before.manifest.backup)
                }
                None => "restore another backup, or a copy (--vault)".to_owned(),
            };
            missing.push(RestoreBlocker { what: error.to_string(), next: Some(next), error });
            None
        }
    };
    takes.thaw_seconds = thaw.as_ref().and_then(ThawPlan::offer).map_or(0, |offer| offer.seconds);
    let opens_with = match shelf::open_backup(rig, &manifest).await {
        Ok(opened) => {
            warnings.extend(opened.defects);
            Some(opened.slot)
        }
        // Volumes open with their own keys; only their hashes need this one.
        Err(error) if manifest.set.is_some() => {
            warnings.push(format!("its hashes cannot be read: {error}"));
            None
        }
        Err(error) => {
            missing.push(RestoreBlocker {
                what: format!("a key: {error}"),
                next: error.hint(),
                error,
            });
            None
        }
    };
    let drilled =
        status::drill_reports(&series, question.datastore).next_back().map(|(_, report)| {
            LastDrill {
                run: report.run.clone(),
                declared: report.declared,
                verdict: report.verdict,
                this_backup: report.backups.iter().any(|backup| backup.backup == manifest.backup),
            }
        });
    let dollars = thaw.as_ref().and_then(ThawPlan::offer).map_or(0.0, |offer| offer.dollars)
        + requests(rig, &manifest);
    let other = |believed: &shelf::LoadedManifest| OtherBackup {
        backup: believed.manifest.backup.clone(),
        sequence: believed.manifest.sequence,
        taken: believed.manifest.source.snapshot_time,
        plain_bytes: believed.manifest.plain_bytes(),
    };
    let taken = manifest.source.snapshot_time;
    let before = picked
        .others
        .iter()
        .map(|other| &other.manifest)
        .find(|other| other.sequence < manifest.sequence);
    warnings.extend(before.filter(|before| before.plain_bytes() > manifest.plain_bytes().saturating_mul(SHRUNK_FACTOR)).map(|before| {
        format!(
            "it is much smaller than the one before it ({} after {}, {}): was the data damaged by then? --at TIME or --backup takes an older one",
            format_bytes(manifest.plain_bytes()),
            format_bytes(before.plain_bytes()),
            before.backup
        )
    }));
    // What was read of this vault says nothing of a copy.
    let read_in_full = match rig.catalog().filter(|_| !rig.is_elsewhere) {
        Some(catalog) => {
            let damaged =
                without_catalog(catalog.damaged(&manifest.vault).await).unwrap_or_default();
            if let Some(row) = damaged
                .into_iter()
                .find(|row| row.datastore == manifest.datastore && row.backup == manifest.backup)
            {
                let before =
                    picked.others.iter().find(|other| other.manifest.sequence < manifest.sequence);
                let next = before.map_or(String::new(), |before| {
                    format!("; the one before it: --backup {}", before.manifest.backup)
                });
                warnings.push(format!(
                    "it was found damaged at {}, and not found whole since: {}{next}",
                    row.found, row.why
                ));
            }
            without_catalog(catalog.verified(&manifest.vault, &manifest.datastore).await)
                .unwrap_or_default()
                .remove(&manifest.backup)
        }
        None => None,
    };
    Ok(RestoreEstimate {
        vault: rig.vault.address(),
        datastore: question.datastore.clone(),
        backup: manifest.backup.clone(),
        sequence: manifest.sequence,
        taken,
        age_seconds: now.duration_since(taken).as_secs(),
        chosen: why(question.which, &manifest, &picked.refused),
        verified: picked.believed.verified,
        sealed_bytes: manifest.sealed_bytes(),
        plain_bytes: manifest.plain_bytes(),
        others: picked.others.iter().take(OTHERS_SHOWN).map(other).collect(),
        backups: picked.count,
        oldest: picked.oldest,
        warnings,
        drilled,
        takes,
        thaw,
        dollars,
        objects_there,
        read_in_full,
        opens_with,
        steps: Vec::new(),
        missing,
        manifest,
    })
}

/// How a thaw of it would be wished.
#[must_use]
pub fn hurry(
    question: &EstimateRequest<'_>,
    takes: &EstimatedDuration,
    manifest: &Manifest,
) -> ThawOptions {
    let load = takes.load(manifest);
    let allowed =
        Duration::from_secs(takes.rto_seconds.unwrap_or(RTO_ASSUMED_SECONDS)).saturating_sub(load);
    ThawOptions { tier: question.tier, days: question.days, allowed, load }
}

impl RestoreEstimate {
    /// Looks at the target, and says what would become of it. What can be read at once is looked
    /// into as well: whether the server offers its extensions, and whether what was asked for
    /// is in it.
    pub async fn of_target(
        &mut self,
        rig: &WorkContext,
        connection: &PgConnection,
        wishes: &RestoreOptions,
    ) {
        let seen = match self.thaw.is_none() && self.opens_with.is_some() {
            true => {
                restore::prepare(rig, self.manifest.clone(), connection.clone(), wishes.clone())
                    .await
                    .map(|prepared| {
                        self.warnings.extend(prepared.left_out().iter().map(|key| {
                            format!("{key} is left out: its other table is not restored")
                        }));
                        self.warnings.extend(prepared.omitted().iter().map(|one| {
                            format!("not in the backup: {} ({})", one.what(), one.why())
                        }));
                        self.missing.extend(room(prepared.sight(), self.plain_bytes, wishes));
                        self.rights(&prepared, wishes);
                        steps(self, prepared.sight(), prepared.globals(), wishes)
                    })
            }
            false => restore::inspect(rig, &self.manifest, connection, wishes).await.map(|sight| {
                self.missing.extend(room(&sight, self.plain_bytes, wishes));
                steps(self, &sight, None, wishes)
            }),
        };
        match seen {
            Ok(steps) => self.steps = steps,
            Err(error) => {
                let before = self
                    .others
                    .iter()
                    .find(|other| other.sequence < self.sequence)
                    .filter(|_| error.is_damage());
                let next = before
                    .map(|before| format!("restore the one before it: --backup {}", before.backup));
                self.missing.push(RestoreBlocker {
                    what: error.in_one_line(),
                    next: next.or_else(|| error.hint()),
                    error,
                });
            }
        }
    }

    /// What the connecting role may not do, what is left out, and which powerful roles would be
    /// made.
    fn rights(&mut self, prepared: &PreparedRestore, wishes: &RestoreOptions) {
        if prepared.swaps_a_stranger() {
            self.warnings.push("the database that would be renamed has not one table of the backup: is it the right name?".to_owned());
        }
        self.warnings
            .extend(prepared.skipped().iter().map(|what| format!("left out as asked: {what}")));
        for lack in prepared.lacks() {
            match wishes.keep_going {
                true => self.warnings.push(format!(
                    "the connecting role may not {}: it will be left out",
                    lack.what
                )),
                false => {
                    let what = format!("a right of the connecting role: it may not {}", lack.what);
                    self.missing.push(RestoreBlocker {
                        what,
                        next: Some(lack.next.clone()),
                        error: restore::refusal(lack),
                    });
                }
            }
        }
    }

    /// Reads the whole backup.
    pub async fn verify(&mut self, rig: &WorkContext) {
        let read = verify::verify(rig, &self.manifest, self.verified).await;
        verify::remember(
            rig,
            &self.manifest.vault,
            &self.datastore,
            &self.backup,
            read.as_ref().map(drop),
        )
        .await;
        match read {
            Ok(_) => self.read_in_full = Some(Timestamp::now()),
            Err(error) => self.missing.push(RestoreBlocker {
                what: error.in_one_line(),
                next: error.hint(),
                error,
            }),
        }
    }

    /// Says what would become of a set of volumes in a zone.
    pub async fn of_volumes(&mut self, rig: &WorkContext, wishes: &VolumeRestoreOptions) {
        match volumes_of(rig, &self.manifest, wishes).await {
            Ok((steps, warnings)) => {
                self.steps = steps;
                self.warnings.extend(warnings);
            }
            Err(error) => self.missing.push(RestoreBlocker {
                what: error.in_one_line(),
                next: error.hint(),
                error,
            }),
        }
    }

    /// The first thing that stands in the way and would be an error.
    #[must_use]
    pub fn refusal(self) -> Option<WorkError> {
        self.missing.into_iter().next().map(|missing| missing.error)
    }
}

/// What would be done about a set, and what whoever restores must know.
async fn volumes_of(
    rig: &WorkContext,
    manifest: &Manifest,
    wishes: &VolumeRestoreOptions,
) -> Result<(Vec<String>, Vec<String>), WorkError> {
    let set = set_of(manifest)?;
    let (place, is_copy) = place_of(set, &wishes.zone)?;
    let failed = |error: crate::volumes::VolumesError| WorkError::Set {
        datastore: manifest.datastore.clone(),
        source: error.into(),
    };
    let volumes = rig.volumes.open(place).await.map_err(failed)?;
    let ids = set.snapshots(is_copy);
    let found = volumes.snapshots(&ids).await.map_err(failed)?;
    if let Some(gone) = ids.iter().find(|id| !found.iter().any(|one| one.id == **id)) {
        return Err(WorkError::Set {
            datastore: manifest.datastore.clone(),
            source: SetError::Vanished(gone.clone()),
        });
    }
    let mut steps = Vec::new();
    let archived = found
        .iter()
        .filter(|one| {
            matches!(one.progress, SnapshotProgress::Archived | SnapshotProgress::Recovering)
        })
        .count();
    if archived > 0 {
        steps.push(format!(
            "bring {archived} snapshots back from the archive tier, which takes up to 72 hours"
        ));
    }
    let class = |member: &SetMember| wishes.class.clone().unwrap_or_else(|| member.class.clone());
    let classes: std::collections::BTreeSet<String> = set.members.iter().map(class).collect();
    let what = format!(
        "{} volumes, {}, {}",
        set.members.len(),
        format_bytes(set.bytes()),
        classes.into_iter().collect::<Vec<_>>().join(", ")
    );
    let from = if is_copy {
        format!("the copies in {place}")
    } else {
        format!("the snapshots in {place}")
    };
    steps.push(format!(
        "make {what}, in {} of {from}; those of restore {:?} that are there already stay",
        wishes.zone, wishes.name
    ));
    match &wishes.attach {
        Some(instance) => {
            steps.push(format!("attach them to {instance} under the devices they had"))
        }
        None => steps.push("hand them over unattached".to_owned()),
    }
    let hydration = match wishes.rate {
        Some(rate) => {
            let seconds = set
                .members
                .iter()
                .map(|member| member.bytes / (1 << 20) / u64::from(rate))
                .max()
                .unwrap_or(0);
            format!(
                "read them in at {rate} MiB/s: up to {}",
                crate::domain::human_duration::format_duration(Duration::from_secs(seconds))
            )
        }
        None => {
            "read them in on first use, slowly (--initialization-rate 300 is faster)".to_owned()
        }
    };
    steps.push(hydration);
    let mut warnings = Vec::new();
    if !set.one_moment && set.postgres.is_none() {
        warnings.push(
            "its volumes were not cut at one moment: what spans them may not fit together"
                .to_owned(),
        );
    }
    Ok((steps, warnings))
}

fn why(which: &BackupSelector, manifest: &Manifest, refused: &[(BackupId, WorkError)]) -> String {
    let taken = manifest.source.snapshot_time;
    // Names tell the second; of the same second any may be the newer.
    let newer =
        refused.iter().filter(|(backup, _)| backup.begun() >= manifest.backup.begun()).count();
    let passed = match newer {
        0 => String::new(),
        1 => ", 1 newer one is damaged or not believed".to_owned(),
        count => format!(", {count} newer ones are damaged or not believed"),
    };
    match which {
        BackupSelector::Latest => format!("the newest{passed}"),
        BackupSelector::At(time) => {
            let gap = Duration::try_from(time.duration_since(taken)).unwrap_or_default();
            format!(
                "the newest at or before {time}: {} earlier{passed}",
                crate::domain::human_duration::format_duration(gap)
            )
        }
        BackupSelector::Exactly(_) => "named on the command line".to_owned(),
        BackupSelector::Oldest => "the oldest".to_owned(),
        BackupSelector::Random { seed, .. } => format!("at random, seed {seed}"),
    }
}

/// The end of the evidence, as far as it tells of the datastore.
async fn newest_evidence(
    rig: &WorkContext,
    manifest: &Manifest,
) -> Result<EvidenceSeries, WorkError> {
    let enough =
        |series: &EvidenceSeries| rates(series, &manifest.datastore).len() >= MEASURED_ENOUGH;
    Ok(evidence::newest(rig.vault.as_ref(), &manifest.vault, &rig.trusted, RECORDS_MAX, enough)
        .await?)
}

/// Seconds for each byte of every measured restore of a datastore.
#[allow(clippy::cast_precision_loss, reason = "rates")]
fn rates(series: &EvidenceSeries, datastore: &DatastoreName) -> Vec<f64> {
    let rate = |seconds: f64, bytes: u64| seconds / bytes.max(1) as f64;
    let measured = series.believed().filter_map(|(_, record)| match &record.body {
        RecordBody::Report(report)
            if report.backups.iter().any(|backup| &backup.datastore == datastore) =>
        {
            let bytes = report.backups.iter().map(|backup| backup.plain_bytes).sum();
            Some(rate(report.rto.measured_seconds?, bytes))
        }
        RecordBody::Restored(restored) if &restored.datastore == datastore => {
            Some(rate(restored.seconds, restored.plain_bytes))
        }
        _ => None,
    });
    measured.collect()
}

#[allow(clippy::cast_precision_loss, reason = "rates")]
fn foretold(series: &EvidenceSeries, manifest: &Manifest) -> (Option<f64>, usize) {
    let mut rates = rates(series, &manifest.datastore);
    rates.sort_by(f64::total_cmp);
    (rates.get(rates.len() / 2).map(|rate| rate * manifest.plain_bytes() as f64), rates.len())
}

#[allow(clippy::cast_precision_loss, reason = "an estimate of money")]
fn requests(rig: &WorkContext, manifest: &Manifest) -> f64 {
    match &rig.config.vault {
        VaultConfig::Directory(..) => 0.0,
        VaultConfig::S3(s3) => {
            manifest.sealed_bytes().div_ceil(s3.part_bytes.max(1) as u64) as f64 / 1000.0
                * GET_PER_THOUSAND
        }
    }
}

/// Whether the data fits, where that can be seen from here. An estimate: nobody knows how thin or
/// compressed the disk is.
fn room(
    sight: &TargetInspection,
    plain_bytes: u64,
    wishes: &RestoreOptions,
) -> Option<RestoreBlocker> {
    let directory = sight.data_directory.as_deref().filter(|_| !wishes.ignore_room)?;
    let free = free_bytes(directory)?;
    let needed = plain_bytes.saturating_mul(ROOM_FACTOR);
    if free >= needed {
        return None;
    }
    let room = format!(
        "about {} are needed in {}, and {} are free",
        format_bytes(needed),
        directory.display(),
        format_bytes(free)
    );
    let next =
        "make room, or restore to another server; if the disk is thin or compressed, --ignore-room"
            .to_owned();
    let error = WorkError::Refused {
        what: "room".to_owned(),
        why: format!("{room}; nothing was changed"),
        hint: next.clone(),
    };
    Some(RestoreBlocker { what: format!("room: {room}"), next: Some(next), error })
}

fn free_bytes(directory: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(directory).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

fn steps(
    quote: &RestoreEstimate,
    sight: &TargetInspection,
    globals: Option<&GlobalsPlan>,
    wishes: &RestoreOptions,
) -> Vec<String> {
    let mut steps = Vec::new();
    if let Some(thaw) = &quote.thaw {
        steps.push(format!(
            "thaw {} objects by {} retrieval, for {} days",
            thaw.objects, thaw.tier, thaw.days
        ));
    }
    if let Some(slot) = &quote.opens_with {
        steps.push(format!("open it with key slot {slot}"));
    }
    let unlisted = read_through::bytes_without_list(&quote.manifest);
    if unlisted > 0 && !wishes.without_reading_first {
        let takes = format_duration(Duration::from_secs_f64(
            unlisted as f64 / read_through::BYTES_PER_SECOND_ASSUMED,
        ));
        steps.push(format!(
            "read {} through before any of it is loaded, about {takes}: it has no lists of its chunks (--without-reading-first leaves it out)",
            format_bytes(unlisted)
        ));
    }
    if !wishes.no_globals {
        steps.push(
            "make roles and tablespaces that are missing; keep and compare those that exist"
                .to_owned(),
        );
    }
    if let Some(globals) = globals {
        // Who restores a backup gives these to whoever wrote it.
        for (what, names) in [
            ("superusers and the like", &globals.powerful),
            ("roles that can log in", &globals.logins),
        ] {
            if !names.is_empty() {
                steps.push(format!("make {what}: {}", names.join(", ")));
            }
        }
    }
    steps.push(sight.step());
    let what = match wishes.only.as_ref() {
        None => "schema, rows, then indexes and constraints".to_owned(),
        Some(only) => format!("{only}: schema, rows, then indexes and constraints"),
    };
    steps.push(format!("load {what} with {} jobs", wishes.jobs.max(1)));
    steps.push("apply the database's own settings and privileges, then ANALYZE".to_owned());
    if wishes.check {
        steps.push("compare every table with what was recorded at backup time".to_owned());
    }
    steps.extend(sight.swap_step());
    steps
}

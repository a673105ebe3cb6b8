//! Restoring a backup: into a database, a directory, or standard output.
//!
//! Into a database: everything that can refuse is asked first ([`inspect()`], [`prepare()`]), and
//! the answer is a plan that can be shown; [`into_database`] consumes it. The target carries a
//! checkpoint ([`crate::destination::postgres::checkpoint`]): after Ctrl-C, a lost connection or a
//! lost host the same command resumes after the last completed step. With `--swap` the old database
//! stays untouched under its name until the new one is loaded and compared. The result is always
//! reported: the state of the target on failure, and a record in the evidence on success.

mod files;
mod load;
mod prepare;
pub(super) mod read_through;
mod sight;

pub use files::{into_directory, to_stdout};
pub use load::into_database;
pub use prepare::{PreparedRestore, prepare, refusal};
use read_through::read_through;
pub use sight::{TargetInspection, inspect};

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::compare::FingerprintComparison;
use super::thaw::{self, ThawOptions};
use super::{WorkContext, WorkError, evidence};
use crate::config::plans::{PlanStage, SmokeCommand};
use crate::destination::postgres::globals::{GlobalsReport, TablespaceMap};
use crate::destination::postgres::rights::SkippedEntries;
use crate::destination::postgres::selection::RestoreFilter;
use crate::destination::postgres::swap::SwapNames;
use crate::domain::ErrorClass;
use crate::domain::drill::{CheckOutcome, CheckResult};
use crate::domain::evidence::{RecordBody, RestoreRecord};
use crate::domain::fingerprint::OmittedObject;
use crate::domain::manifest::Manifest;
use crate::pg::PgConnection;

/// What the person asked for beside backup and target.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Leave roles and tablespaces alone.
    pub no_globals: bool,
    /// Load beside relations that are there.
    pub beside_tables: bool,
    /// Drop what an interrupted restore of another backup has made, and begin in its place.
    pub take_over: bool,
    /// Load beside the database and trade their names in the end.
    pub swap: bool,
    /// Load into a server older than the backup's.
    pub older_server: bool,
    /// Less than everything.
    pub only: Option<RestoreFilter>,
    /// Objects belong to whoever restores.
    pub no_owner: bool,
    /// Privileges are left out.
    pub no_privileges: bool,
    /// The role that everything is done as.
    pub role: Option<String>,
    /// What somebody has asked to leave out.
    pub skips: SkippedEntries,
    /// What the server refuses is told in the end, and the rest is restored.
    pub keep_going: bool,
    /// The room that is estimated is not waited for.
    pub ignore_room: bool,
    /// What has no list of its chunks is loaded without being read through first.
    pub without_reading_first: bool,
    /// It was read through, or has lists: what stands in it may be acted upon.
    pub read_through: bool,
    /// Tables whose rows stay in the backup: schema and name.
    pub without_rows_of: Vec<(String, String)>,
    /// `name=/directory` pairs.
    pub tablespaces: TablespaceMap,
    /// Compare with the fingerprint afterwards.
    pub check: bool,
    /// How many things happen at once on the target: rows, indexes, constraints.
    pub jobs: usize,
    /// Major version the server must have.
    pub major: Option<u32>,
    /// Extensions the server must offer, by name or by name and version.
    pub extensions: Vec<String>,
    /// Settings of the sessions that load.
    pub settings: Vec<(String, String)>,
    /// Statements for the empty database.
    pub before: Vec<String>,
    /// Statements for the loaded database.
    pub after: Vec<String>,
    /// Programs that must succeed in the end.
    pub smoke: Vec<SmokeCommand>,
}

impl RestoreOptions {
    /// What a restore plan says about one datastore.
    ///
    /// # Errors
    /// [`WorkError::Refused`] if a tablespace is not written as it must be.
    pub fn of(stage: &PlanStage) -> Result<Self, WorkError> {
        let tablespaces =
            TablespaceMap::parse(&stage.tablespaces).map_err(|why| WorkError::Refused {
                what: format!("restore plan of {}", stage.datastore),
                why,
                hint: "write tablespaces = { name = \"/directory\" }".to_owned(),
            })?;
        let skips = SkippedEntries::parse(&stage.skip).map_err(|why| WorkError::Refused {
            what: format!("restore plan of {}", stage.datastore),
            why,
            hint: "write skip = [\"EXTENSION:postgis\"]; kinds and names are those of pg_restore --list".to_owned(),
        })?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            no_globals: !stage.globals,
            no_owner: stage.no_owner,
            no_privileges: stage.no_privileges,
            role: stage.role.clone(),
            skips,
            keep_going: stage.keep_going,
            without_rows_of: stage.without_rows_of.clone(),
            tablespaces,
            jobs: stage.jobs.unwrap_or(cores),
            major: stage.major,
            extensions: stage.extensions.clone(),
            settings: stage.settings.clone(),
            before: stage.before.clone(),
            after: stage.after.clone(),
            smoke: stage.smoke.clone(),
            ..Self::default()
        })
    }

    /// What is restored, in the words of the mark on the target.
    pub(super) fn what(&self) -> String {
        let mut what = self.only.as_ref().map_or("all".to_owned(), ToString::to_string);
        let less = [
            ("owners", self.no_owner),
            ("privileges", self.no_privileges),
            ("roles", self.no_globals),
        ]
        .into_iter()
        .filter(|(_, is)| *is);
        let rows =
            self.without_rows_of.iter().map(|(schema, table)| format!("rows of {schema}.{table}"));
        let mut without: Vec<String> =
            less.map(|(word, _)| word.to_owned()).chain(self.skips.words()).chain(rows).collect();
        without.sort();
        without.iter().for_each(|word| what.push_str(&format!(" without {word}")));
        self.role.iter().for_each(|role| what.push_str(&format!(" as {role}")));
        what.push_str(if self.keep_going { " going on after errors" } else { "" });
        what.replace(';', ",")
    }
}

/// How long a stage took.
#[derive(Debug, Serialize)]
pub struct StageTime {
    /// The stage.
    pub stage: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// Bytes that passed, where that says something.
    pub bytes: Option<u64>,
}

impl StageTime {
    fn since(stage: &'static str, begun: Instant, bytes: Option<u64>) -> Self {
        Self { stage, seconds: begun.elapsed().as_secs_f64(), bytes }
    }
}

/// What a restore did.
#[derive(Debug, Serialize)]
pub struct RestoreReport {
    /// The backup.
    pub backup: String,
    /// Target database.
    pub database: String,
    /// The names that were traded, with `--swap`.
    pub swapped: Option<SwapNames>,
    /// The slot that opened the backup.
    pub opened_with: String,
    /// What an interrupted restore had done already.
    pub resumed_after: Vec<String>,
    /// What happened to roles and tablespaces; none if they were left alone.
    pub globals: Option<GlobalsReport>,
    /// What was restored, if not everything.
    pub only: Option<String>,
    /// Foreign keys to tables that were not restored.
    pub left_out: Vec<String>,
    /// What the database held at backup time and the backup does not.
    pub omitted: Vec<OmittedObject>,
    /// What somebody asked to leave out, with what depends on it.
    pub skipped: Vec<String>,
    /// What the server refused, of a restore that was told to go on.
    pub failed: Vec<String>,
    /// Tables whose statistics could not be gathered.
    pub not_analyzed: Vec<String>,
    /// Plaintext bytes of the backup.
    pub plain_bytes: u64,
    /// Seconds from the first change to the end.
    pub seconds: f64,
    /// The stages, in order.
    pub stages: Vec<StageTime>,
    /// The comparison with the fingerprint, if asked for.
    pub comparison: Option<FingerprintComparison>,
    /// What the plan's smoke commands said.
    pub smoke: Vec<CheckResult>,
    /// The number of its record in the evidence.
    pub recorded: Option<u64>,
}

/// A restore that somebody has said yes to.
pub struct ConfirmedRestore {
    /// The backup.
    pub manifest: Manifest,
    /// Whether a pinned key signed it.
    pub verified: bool,
    /// The target, as it was named.
    pub target: PgConnection,
    /// How.
    pub wishes: RestoreOptions,
    /// How it is thawed, if it must be.
    pub hurry: ThawOptions,
}

/// Thaws what must be thawed, restores, and records it in the evidence.
///
/// # Errors
/// [`WorkError`], and what state the target is in then.
pub async fn carry_out(
    rig: &WorkContext,
    order: ConfirmedRestore,
) -> Result<RestoreReport, (WorkError, String)> {
    let manifest = order.manifest.clone();
    let done = carry_out_once(rig, order).await;
    // What is read whole here is not all of it; only damage can be known.
    if let Err((error, _)) = &done {
        remember_damage(rig, &manifest, error).await;
    }
    done
}

/// Remembers on this host that a backup proved damaged.
pub async fn remember_damage(rig: &WorkContext, manifest: &Manifest, error: &WorkError) {
    if error.class() == ErrorClass::Integrity {
        super::verify::remember(
            rig,
            &manifest.vault,
            &manifest.datastore,
            &manifest.backup,
            Err(error),
        )
        .await;
    }
}

async fn carry_out_once(
    rig: &WorkContext,
    order: ConfirmedRestore,
) -> Result<RestoreReport, (WorkError, String)> {
    let untouched = |error: WorkError| (error, "nothing was changed on the target".to_owned());
    let ConfirmedRestore { manifest, verified, target, wishes, hurry } = order;
    let begun = Timestamp::now();
    let thawed = thaw_first(rig, &manifest, &hurry).await?;
    let whole = wishes.only.is_none();
    let interrupted =
        |error| if rig.cancel.is_cancelled() { WorkError::Interrupted } else { error };
    let mut wishes = wishes;
    if !wishes.without_reading_first {
        // What stands in the way of the restore is told before what may take hours.
        inspect(rig, &manifest, &target.clone().as_role(wishes.role.clone()), &wishes)
            .await
            .map_err(|error| untouched(interrupted(error)))?;
        read_through(rig, &manifest).await.map_err(|error| untouched(interrupted(error)))?;
        wishes.read_through = true;
    }
    let prepared = prepare(rig, manifest.clone(), target, wishes)
        .await
        .map_err(|error| untouched(interrupted(error)))?;
    let server = prepared.sight.server.clone();
    let mut report = into_database(rig, prepared).await?;
    let record = RestoreRecord {
        datastore: manifest.datastore.clone(),
        backup: manifest.backup.clone(),
        signature_verified: verified,
        opened_with: report.opened_with.clone(),
        snapshot_time: manifest.source.snapshot_time,
        plain_bytes: manifest.plain_bytes(),
        begun,
        thaw_seconds: thawed.as_secs_f64(),
        seconds: report.seconds,
        whole,
        resumed: !report.resumed_after.is_empty(),
        swapped: report.swapped.is_some(),
        as_recorded: report.comparison.as_ref().map(FingerprintComparison::agrees),
        smoke: report.smoke.len(),
        smoke_failed: report
            .smoke
            .iter()
            .filter(|result| result.answer != CheckOutcome::Pass)
            .count(),
        server,
    };
    report.recorded = record_restore(rig, record).await;
    Ok(report)
}

/// Records a restore in the evidence; its number, if that could be done.
pub(super) async fn record_restore(rig: &WorkContext, record: RestoreRecord) -> Option<u64> {
    // There is one series, and it goes on in the vault that others were copied from.
    if rig.is_elsewhere {
        tracing::warn!(
            "the restore is not recorded in the evidence: this vault may be a copy, and the series goes on in its home"
        );
        return None;
    }
    // Whoever restores may not be able to sign. The data is what counts.
    match evidence::write(rig, RecordBody::Restored(record)).await {
        Ok(written) => Some(written.sequence),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the restore could not be recorded in the evidence"
            );
            None
        }
    }
}

/// Waits until everything can be read for as long as the load takes.
async fn thaw_first(
    rig: &WorkContext,
    manifest: &Manifest,
    hurry: &ThawOptions,
) -> Result<Duration, (WorkError, String)> {
    let begun = Instant::now();
    let state = "nothing was changed on the target; what was asked for goes on in the store, and the same command waits on for it";
    thaw::thaw_and_wait(rig, manifest, hurry).await.map_err(|error| (error, state.to_owned()))?;
    let frost =
        thaw::inspect_archive(rig, manifest).await.map_err(|error| (error, state.to_owned()))?;
    thaw::outlives(&frost, hurry.load, &manifest.backup, Timestamp::now())
        .map_err(|error| (error, state.to_owned()))?;
    Ok(begun.elapsed())
}

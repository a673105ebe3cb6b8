//! A drill: restore in a sandbox, check, damage, check again, tear down, prove it, sign it.
//!
//! The restore is the one that on-call runs ([`super::restore`]), with the same plan; only the
//! destination and the ending differ. `started` is written to the evidence before the first step,
//! and whatever happens afterwards ends in a report: the saga is unwound, the census is taken, and
//! the verdict follows from what was found.

/// Makes the undo of steps whose work vanishes with the sandbox: there is nothing left to do.
macro_rules! no_undo {
    ($step:ty, $name:literal) => {
        #[async_trait::async_trait]
        impl<'w> crate::saga::UndoStep<crate::work::drill::DrillState<'w>> for $step {
            fn name(&self) -> &'static str {
                $name
            }
            async fn undo(&self, _: &mut crate::work::drill::DrillState<'w>) -> Result<(), String> {
                Ok(())
            }
        }
    };
}

pub mod agent;
mod blame;
mod control;
mod examine;
mod follow;
mod load;
pub(super) mod order;
mod raise;
mod report;
mod stock;
mod volumes;
pub mod vpc;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use jiff::Timestamp;

use super::restore::RestoreReport;
use super::{HostLock, WorkContext, WorkError, evidence, scratch, shelf};
use crate::catalog::Catalog;
use crate::catalog::journal::DrillRun;
use crate::config::plans::{self, DrillPlace, DrillPlan};
use crate::destination::postgres::{LoadError, TargetError};
use crate::domain::drill::{CheckResult, ControlResult, DrillHalt, Scenario};
use crate::domain::evidence::{
    DrillMoments, DrillReport, DrillStarted, RecordBody, RestoredBackup, StepTime,
};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::manifest::Manifest;
use crate::domain::scratch::ScratchReport;
use crate::evidence::WrittenRecord;
use crate::failpoint;
use crate::pg::children::{ChildError, is_by_the_machine};
use crate::pg::{PgConnection, PgTools};
use crate::progress::{DrillAudience, DrillEvent};
use crate::saga::{Journal, JournalEvent, Saga, SagaHalted, SagaStep, UndoStep};
use crate::sandbox::local::{self, RaisedSandbox, SandboxLease};
use crate::sandbox::{IsolationReport, SandboxError};
use crate::work::compare::OmittedParts;
use crate::work::shelf::LoadedManifest;
pub use raise::{HostSandbox, place_of_this_host};
use raise::{IsolateStep, RaiseStep, StartServer};

/// What came of a drill.
pub struct DrillOutcome {
    /// The report as it was signed.
    pub report: DrillReport,
    /// Where it stands.
    pub written: WrittenRecord,
    /// What a person wants to see of the restores.
    pub restores: Vec<RestoreReport>,
}

/// A clock that nobody can set back while the drill runs.
#[derive(Clone, Copy)]
struct DrillClock {
    declared: Timestamp,
    before: f64,
    since: Instant,
}

impl DrillClock {
    fn from(declared: Timestamp) -> Self {
        // What another process had used up by then is known by the wall clock only.
        let before = Timestamp::now().duration_since(declared).as_secs_f64().max(0.0);
        Self { declared, before, since: Instant::now() }
    }
    fn seconds(&self) -> f64 {
        self.before + self.since.elapsed().as_secs_f64()
    }
}

/// A datastore that has been restored into the sandbox.
struct RestoredDatastore {
    manifest: Manifest,
    recorded: Fingerprint,
    without_rows_of: Vec<(String, String)>,
    /// What the plan leaves out beside rows.
    left_out: OmittedParts,
    connection: PgConnection,
    tools: PgTools,
    /// What a set of volumes is compared with.
    dumped: Option<volumes::SiblingDump>,
}

/// Everything the steps work on.
struct DrillState<'a> {
    /// The rig as it is.
    own: &'a WorkContext,
    /// The rig with what the drill breaks.
    rig: WorkContext,
    drill: &'a DrillPlan,
    team: &'a DrillAudience,
    run: String,
    clock: DrillClock,
    state: PathBuf,
    place: Option<RaisedSandbox>,
    lease: Option<SandboxLease>,
    chosen: Vec<(LoadedManifest, String)>,
    restored: Vec<RestoredDatastore>,
    found: DrillFindings,
    /// The vault that is left when the home region is lost.
    region: Option<String>,
    /// The evidence so far, for the prediction.
    series: &'a crate::evidence::EvidenceSeries,
    /// Backups that somebody else has chosen already, and how.
    pinned: BTreeMap<DatastoreName, (BackupId, String)>,
}

impl<'a> DrillState<'a> {
    fn new(
        rig: &'a WorkContext,
        drill: &'a DrillPlan,
        team: &'a DrillAudience,
        run: &str,
        clock: DrillClock,
        series: &'a crate::evidence::EvidenceSeries,
    ) -> Self {
        Self {
            own: rig,
            rig: rig.clone(),
            drill,
            team,
            run: run.to_owned(),
            clock,
            state: state_directory(rig),
            place: None,
            lease: None,
            chosen: Vec::new(),
            restored: Vec::new(),
            found: DrillFindings::default(),
            region: None,
            series,
            pinned: BTreeMap::new(),
        }
    }
}

/// What goes into the report.
#[derive(Default)]
struct DrillFindings {
    isolation: IsolationReport,
    backups: Vec<RestoredBackup>,
    restores: Vec<RestoreReport>,
    checks: Vec<CheckResult>,
    controls: Vec<ControlResult>,
    broken: BTreeMap<Scenario, String>,
    moments: DrillMoments,
    steps: Vec<StepTime>,
    sandbox: String,
    predicted: Option<f64>,
    /// Seconds in which the team talked before something was broken.
    paused: f64,
    /// The scratch VPC, where it is in one.
    scratch: Option<Box<ScratchReport>>,
}

/// Directory of this host's sandboxes.
#[must_use]
pub fn state_directory(rig: &WorkContext) -> PathBuf {
    let directory = rig.config.catalog.file.with_extension("sandboxes");
    // What runs in a sandbox is somewhere else.
    std::path::absolute(&directory).unwrap_or(directory)
}

/// Reads a drill script.
///
/// # Errors
/// [`WorkError::NoSuchDrill`] with a suggestion, or what is wrong with it.
pub fn script(rig: &WorkContext, name: &str) -> Result<DrillPlan, WorkError> {
    if let Some(drill) = plans::drill(&rig.config, name)? {
        return Ok(drill);
    }
    let known = plans::names(&rig.config, plans::DRILLS_DIRECTORY);
    let base = rig.config.file.parent().unwrap_or(std::path::Path::new("."));
    Err(WorkError::NoSuchDrill {
        name: name.to_owned(),
        file: base.join(plans::DRILLS_DIRECTORY).join(format!("{name}.toml")),
        suggestion: shelf::nearest(name, &known),
    })
}

fn catalog(rig: &WorkContext) -> Result<&Catalog, WorkError> {
    rig.catalog.as_ref().map_err(|error| WorkError::Refused {
        what: "the drill".to_owned(),
        why: format!("its journal stands in the catalog, and {error}"),
        hint: error.hint().to_owned(),
    })
}

fn lock(rig: &WorkContext, drill: &str) -> Result<HostLock, WorkError> {
    HostLock::acquire_named(&rig.config, &format!("drill-{drill}"), "a drill")?
        .ok_or_else(|| WorkError::DrillRunning { drill: drill.to_owned() })
}

/// Runs a drill from its declaration to its report.
///
/// # Errors
/// [`WorkError`] if it could not even be declared, or its report not be written.
pub async fn run(
    rig: &WorkContext,
    name: &str,
    team: &DrillAudience,
) -> Result<DrillOutcome, WorkError> {
    let drill = script(rig, name)?;
    validate_scenarios(rig, &drill)?;
    vpc::refuse_what_cannot_be(rig, &drill)?;
    let catalog = catalog(rig)?;
    let _lock = lock(rig, name)?;
    let vault = shelf::vault_id(rig).await?;
    let declared = Timestamp::now();
    let run = format!(
        "{}-{}",
        declared.strftime("%Y%m%dT%H%M%SZ"),
        hex::encode(rand::random::<[u8; 3]>())
    );
    let report_by =
        declared + jiff::SignedDuration::try_from(drill.report_within()).unwrap_or_default();
    let datastores = drill.plan.stages.iter().map(|stage| stage.datastore.clone()).collect();
    let started = DrillStarted {
        run: run.clone(),
        drill: name.to_owned(),
        datastores,
        script_sha256: shelf::sha256(drill.text.as_bytes()),
        plan_sha256: shelf::sha256(drill.plan.text.as_bytes()),
        report_by,
    };
    let written = evidence::write(rig, RecordBody::Started(started)).await?;
    let drill_run = DrillRun { run, drill: name.to_owned(), started: written.sequence, declared };
    catalog.begin_drill(&vault, &drill_run).await?;
    failpoint::reach("drill-started");
    perform(rig, &drill, team, &drill_run, true).await
}

/// Goes on with a drill whose process died: what is left of it is undone, and its steps are run
/// again.
///
/// # Errors
/// As [`run`]; also if there is no such drill, or it still runs.
pub async fn resume(
    rig: &WorkContext,
    run: &str,
    team: &DrillAudience,
) -> Result<DrillOutcome, WorkError> {
    let drill_run = open_run(rig, run).await?;
    let _lock = lock(rig, &drill_run.drill)?;
    let drill = script(rig, &drill_run.drill)?;
    same_as_declared(rig, &drill, &drill_run).await?;
    if scratch::is_over(rig, &shelf::vault_id(rig).await?, &drill_run.run).await? {
        return Err(WorkError::Refused {
            what: format!("run {} of drill {}", drill_run.run, drill_run.drill),
            why: "another host has taken it down, and said that it is over".to_owned(),
            hint: "end it with `lifeboat drill abort`, and begin another".to_owned(),
        });
    }
    perform(rig, &drill, team, &drill_run, true).await
}

/// A drill that could be changed while it is under way could be made to pass.
async fn same_as_declared(
    rig: &WorkContext,
    drill: &DrillPlan,
    run: &DrillRun,
) -> Result<(), WorkError> {
    let (series, _) = evidence::examine(rig).await?;
    let declared = series.believed().find_map(|(found, record)| match &record.body {
        RecordBody::Started(started) if found.sequence == run.started && started.run == run.run => {
            Some(started)
        }
        _ => None,
    });
    let (script, plan) =
        (shelf::sha256(drill.text.as_bytes()), shelf::sha256(drill.plan.text.as_bytes()));
    if declared
        .is_some_and(|started| started.script_sha256 == script && started.plan_sha256 == plan)
    {
        return Ok(());
    }
    Err(WorkError::Refused {
        what: format!("run {} of drill {}", run.run, run.drill),
        why: "its drill file or plan is not the one it was declared with".to_owned(),
        hint: "bring the file back, or end the run with `lifeboat drill abort`".to_owned(),
    })
}

/// Cleans up after a drill whose process died, and writes its report.
///
/// # Errors
/// As [`resume`].
pub async fn abort(
    rig: &WorkContext,
    run: &str,
    team: &DrillAudience,
) -> Result<DrillOutcome, WorkError> {
    let drill_run = open_run(rig, run).await?;
    let _lock = lock(rig, &drill_run.drill)?;
    let drill = script(rig, &drill_run.drill)?;
    perform(rig, &drill, team, &drill_run, false).await
}

/// A drill of this host without a report, by its run or by the drill's name.
async fn open_run(rig: &WorkContext, run: &str) -> Result<DrillRun, WorkError> {
    let open = catalog(rig)?.open_drills(&shelf::vault_id(rig).await?).await?;
    let names = open
        .iter()
        .map(|one| format!("{} ({})", one.run, one.drill))
        .collect::<Vec<_>>()
        .join(", ");
    open.into_iter().find(|one| one.run == run || one.drill == run).ok_or_else(|| {
        WorkError::Refused {
            what: format!("run {run}"),
            why: "this host began no such drill, or it has its report".to_owned(),
            hint: if names.is_empty() {
                "no drill of this host waits for its report".to_owned()
            } else {
                format!("these wait for their report: {names}")
            },
        }
    })
}

/// Refuses a drill that means to break what is not there.
///
/// # Errors
/// [`WorkError::Refused`]
pub fn validate_scenarios(rig: &WorkContext, drill: &DrillPlan) -> Result<(), WorkError> {
    let refuse = |scenario: Scenario, why: &str, hint: &str| {
        Err(WorkError::Refused {
            what: format!("drill {}: break {}", drill.name, scenario.name()),
            why: why.to_owned(),
            hint: hint.to_owned(),
        })
    };
    let kms =
        rig.config.keys.iter().any(|key| matches!(key.kind, crate::config::KeyKind::AwsKms { .. }));
    for scenario in &drill.breaks {
        if of_volumes(drill) {
            volumes::breakable(&drill.name, *scenario)?;
        }
        match scenario {
            Scenario::KmsGone if !kms => {
                return refuse(
                    *scenario,
                    "no KMS key is configured, so nothing would be lost",
                    "remove it, or use home-key-lost",
                );
            }
            Scenario::RegionLost => drop(load::region_left(rig)?),
            Scenario::HomeKeyLost
                if !rig
                    .config
                    .keys
                    .iter()
                    .any(|key| !matches!(key.kind, crate::config::KeyKind::AgeRecipients(_))) =>
            {
                return refuse(
                    *scenario,
                    "no key is configured that can open, so nothing would be lost",
                    "remove it",
                );
            }
            Scenario::LifeboatLost
                if drill.breaks.contains(&Scenario::HomeKeyLost)
                    && drill.recovery_identity.is_none() =>
            {
                return refuse(
                    *scenario,
                    "stock tools would open with the key that is lost",
                    "write recovery_identity = \"…\" in the drill",
                );
            }
            Scenario::LifeboatLost if load::stock_identity(rig, drill).is_none() => {
                return refuse(
                    *scenario,
                    "stock tools need a file with an age identity, and none is named",
                    "write recovery_identity = \"…\" in the drill",
                );
            }
            _ => {}
        }
    }
    Ok(())
}

async fn perform(
    rig: &WorkContext,
    drill: &DrillPlan,
    team: &DrillAudience,
    run: &DrillRun,
    all: bool,
) -> Result<DrillOutcome, WorkError> {
    let clock = DrillClock::from(run.declared);
    let (series, flaws) = evidence::examine(rig).await?;
    for flaw in flaws {
        team.tell(&DrillEvent::Warned { warning: format!("evidence: {flaw}") });
    }
    // A run has one report. What died behind it is only cleaned up.
    if let Some((found, report)) =
        series.believed().find_map(|(found, record)| match &record.body {
            RecordBody::Report(report) if report.run == run.run => Some((found, report)),
            _ => None,
        })
    {
        match drill.place {
            DrillPlace::Local => local::undo(&state_directory(rig), &run.run).await?,
            DrillPlace::Vpc => vpc::clean_up(rig, &run.run).await?,
        }
        catalog(rig)?.end_drill(&run.run).await?;
        let written = WrittenRecord { sequence: found.sequence, sha256: found.sha256.clone() };
        return Ok(DrillOutcome { report: report.as_ref().clone(), written, restores: Vec::new() });
    }
    let mut world = DrillState::new(rig, drill, team, &run.run, clock, &series);
    team.tell(&DrillEvent::Declared {
        drill: drill.name.clone(),
        run: run.run.clone(),
        rto_seconds: drill.rto.duration().as_secs_f64(),
    });
    let journal = catalog(rig)?;
    let mut saga = Saga::open(&run.run, journal)
        .await
        .map_err(|error| WorkError::NotVerified(error.to_string()))?;
    // Where a run has begun to make something, it ends there, whatever its file says by now.
    let place = if vpc::attempts_before(journal, &run.run).await > 0 {
        DrillPlace::Vpc
    } else {
        drill.place
    };
    let (halt, leftovers) = match place {
        DrillPlace::Local => in_a_cluster(&mut saga, &mut world, all).await,
        DrillPlace::Vpc => vpc::perform(&mut saga, journal, &mut world, all).await,
    };
    if leftovers.is_empty() {
        world.found.moments.torn_down = Some(clock.seconds());
    }
    team.tell(&DrillEvent::AboutToSign);
    team.pause().await;
    let attempts = attempts(journal, &run.run).await;
    let report = report::report(&world, run, attempts, halt, leftovers)?;
    let written = evidence::write(rig, RecordBody::Report(Box::new(report.clone())))
        .await
        .map_err(|source| WorkError::ReportNotWritten {
            run: run.run.clone(),
            verdict: report.verdict.name(),
            source: Box::new(source),
        })?;
    journal.end_drill(&run.run).await?;
    team.tell(&DrillEvent::Ended { verdict: report.verdict, reasons: report.reasons.clone() });
    Ok(DrillOutcome { report, written, restores: world.found.restores })
}

/// Runs the steps in a throwaway cluster on this host, and takes it down; returns why it stopped
/// early, and what is left.
async fn in_a_cluster(
    saga: &mut Saga<'_>,
    world: &mut DrillState<'_>,
    all: bool,
) -> (Option<DrillHalt>, Vec<String>) {
    let halt = if all { steps(saga, world).await.err() } else { Some(DrillHalt::Interrupted) };
    // An earlier process knew it; its census needs it after the directory is gone.
    world.lease = world.lease.take().or_else(|| local::lease(&world.state, &world.run));
    tear_down(saga, world).await;
    failpoint::reach("drill-torn-down");
    let census = local::census(&world.state, &world.run, world.lease.as_ref());
    (halt, census.processes.into_iter().chain(census.files).collect())
}

/// What earlier drills let one expect of a restore of so many bytes, in seconds: the median of
/// their seconds per byte.
fn predicted_seconds(
    series: &crate::evidence::EvidenceSeries,
    drill: &str,
    bytes: u64,
) -> Option<f64> {
    let same = evidence::reports(series).into_iter().filter(|(_, report)| report.drill == drill);
    let rate = |report: &DrillReport| {
        let restored: u64 = report.backups.iter().map(|backup| backup.plain_bytes).sum();
        Some(report.rto.measured_seconds? / restored.max(1) as f64)
    };
    let mut rates: Vec<f64> = same.filter_map(|(_, report)| rate(report)).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).map(|rate| rate * bytes as f64)
}

/// How often the first step was begun, as the journal knows it.
async fn attempts(journal: &dyn Journal, run: &str) -> u64 {
    let events = journal.events(run).await.unwrap_or_default();
    let first = events.first().map(|(step, _)| step.clone());
    events
        .iter()
        .filter(|(step, event)| Some(step) == first.as_ref() && *event == JournalEvent::Started)
        .count() as u64
}

async fn steps(saga: &mut Saga<'_>, world: &mut DrillState<'_>) -> Result<(), DrillHalt> {
    timed(saga, world, &load::ChooseStep).await?;
    timed(saga, world, &RaiseStep).await?;
    failpoint::reach("drill-raised");
    // Of volumes, the server lives on them, and comes with them.
    if !of_volumes(world.drill) {
        timed(saga, world, &StartServer).await?;
    }
    timed(saga, world, &IsolateStep).await?;
    timed(saga, world, &load::RestoreStep).await?;
    failpoint::reach("drill-loaded");
    timed(saga, world, &examine::ExamineStep).await?;
    failpoint::reach("drill-examined");
    timed(saga, world, &control::RunControls).await?;
    failpoint::reach("drill-damaged");
    Ok(())
}

/// Whether a drill is one of volumes, which are drilled alone.
fn of_volumes(drill: &DrillPlan) -> bool {
    drill.plan.stages.iter().any(|stage| stage.volumes.is_some())
}

const TEAR_DOWN: &str = "tear-down";

async fn tear_down(saga: &mut Saga<'_>, world: &mut DrillState<'_>) {
    let from = began(world, TEAR_DOWN);
    let undos: [&dyn UndoStep<DrillState<'_>>; 1] = [&RaiseStep];
    let failures = saga.unwind(world, &undos).await;
    ended(world, TEAR_DOWN, from, in_the_way(&failures).as_ref());
}

/// What could not be undone, if anything.
fn in_the_way(failures: &[String]) -> Option<DrillHalt> {
    (!failures.is_empty()).then(|| DrillHalt::sandbox(failures.join("; ")))
}

/// Tells that a step begins; returns when.
fn began(world: &DrillState<'_>, step: &str) -> f64 {
    let at_seconds = world.clock.seconds();
    world.team.tell(&DrillEvent::StepBegan { step: step.to_owned(), at_seconds });
    at_seconds
}

/// Notes the end of a step: what went wrong is told in all words, and stored in those that may be.
fn ended(world: &mut DrillState<'_>, step: &str, from: f64, halt: Option<&DrillHalt>) {
    let seconds = world.clock.seconds() - from;
    world.team.tell(&DrillEvent::StepEnded {
        step: step.to_owned(),
        seconds,
        error: halt.map(|halt| halt.detail().to_owned()),
    });
    let error = halt.map(|halt| halt.why().to_owned());
    world.found.steps.push(StepTime { step: step.to_owned(), from_seconds: from, seconds, error });
}

/// Does a step, tells of it and notes its time.
async fn timed<'w, S>(
    saga: &mut Saga<'_>,
    world: &mut DrillState<'w>,
    step: &S,
) -> Result<S::Output, DrillHalt>
where
    S: SagaStep<DrillState<'w>, Error = DrillHalt>,
{
    let (name, from) = (step.name(), began(world, step.name()));
    if world.own.cancel.is_cancelled() {
        return Err(DrillHalt::Interrupted);
    }
    let mark = world.place.as_ref().map(RaisedSandbox::mark).unwrap_or_default();
    let done = saga.step(world, step).await.map_err(|halted| match halted {
        SagaHalted::Step(halt) => halt,
        other => DrillHalt::sandbox(other.to_string()),
    });
    let done = match done {
        Err(halt) => Err(blame::judged(world, halt, mark).await),
        done => done,
    };
    ended(world, name, from, done.as_ref().err());
    done
}

/// Why a step's error halts the drill: the backup's fault, or the machine's.
fn at_fault(error: WorkError) -> DrillHalt {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    let halt = match &error {
        WorkError::Interrupted => DrillHalt::Interrupted,
        WorkError::Target(target) if target.class() == crate::domain::ErrorClass::Interrupted => {
            DrillHalt::Interrupted
        }
        WorkError::Target(TargetError::Lacks { .. } | TargetError::Tools(_)) => {
            DrillHalt::sandbox(error.to_string())
        }
        WorkError::Sandbox(SandboxError::Failed { what, .. }) => {
            DrillHalt::sandbox(format!("it could not {what}"))
        }
        WorkError::Sandbox(_) | WorkError::NotVerified(_) | WorkError::Catalog(_) => {
            DrillHalt::sandbox(error.to_string())
        }
        WorkError::Target(TargetError::Load {
            source: LoadError::Child(ChildError::Failed { signal: Some(signal), .. }),
            ..
        }) if is_by_the_machine(*signal) => DrillHalt::sandbox(
            "a program that loads was killed; was its memory used up? (size_mib in the drill file)",
        ),
        // A key that was not tried says nothing about whether it opens.
        WorkError::NothingOpens(nothing) if nothing.is_of_this_host() => {
            DrillHalt::sandbox("a key cannot be used on this host".to_owned())
        }
        // Whoever may not read knows nothing of what there is to read.
        WorkError::Vault(crate::vault::VaultError::Refused { .. }) => {
            DrillHalt::sandbox(error.to_string())
        }
        // It may be whole, and it is not to be had in time.
        WorkError::Vault(crate::vault::VaultError::Frozen { .. }) => {
            DrillHalt::backup(error.to_string())
        }
        // A full disk, a defect, a vault that does not answer: nothing is known about the backup.
        other
            if matches!(
                other.class(),
                crate::domain::ErrorClass::Unavailable | crate::domain::ErrorClass::Bug
            ) =>
        {
            DrillHalt::sandbox(error.to_string())
        }
        // What a program of the guide said may quote data.
        WorkError::CheckFailed(_) => DrillHalt::backup("RESTORE.md did not work as it stands"),
        _ => DrillHalt::backup(error.to_string()),
    };
    halt.with_detail(text)
}

#[cfg(test)]
mod tests {
    use super::DrillClock;

    #[test]
    fn a_clock_that_was_set_back_does_not_turn_time_around() {
        let later = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
        let clock = DrillClock::from(later);
        let first = clock.seconds();
        assert!((0.0..60.0).contains(&first), "{first}");
        assert!(clock.seconds() >= first);
    }
}

//! Executing due jobs: the commands that a person would type.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::scheduler::RunFailure;
use crate::catalog::ticks::TickClaim;
use crate::config::schedules::Schedule;
use crate::domain::ErrorClass;
use crate::domain::alarm::AlarmKind;
use crate::domain::drill::Verdict;
use crate::domain::human_duration::{HumanDuration, format_bytes};
use crate::domain::job::{Job, JobAction};
use crate::notify::Notifier;
use crate::progress::{DrillAudience, ProgressReporter};
use crate::work::fence::FencingToken;
use crate::work::{
    WorkContext, WorkError, back_up, copy, drill, prune, publish, shelf, sweep, verify,
};

/// Whoever does what is due.
#[async_trait]
pub trait JobExecutor: Send + Sync {
    /// Does it, and says in a few words what came of it.
    ///
    /// # Errors
    /// [`RunFailure`]
    async fn perform(
        &self,
        job: &Job,
        claim: &TickClaim,
        progress: ProgressReporter,
        cancel: CancellationToken,
    ) -> Result<String, RunFailure>;

    /// Confirms a claim where it counts, which may give it a later epoch.
    ///
    /// # Errors
    /// [`RunFailure`] if it is somebody else's by now.
    async fn confirm(&self, job: &Job, claim: TickClaim) -> Result<TickClaim, RunFailure> {
        let _ = job;
        Ok(claim)
    }
}

/// Something noticed on the way that somebody must hear of, though the run did what it should.
pub type RunNotice = tokio::sync::mpsc::UnboundedSender<(AlarmKind, String, String, String)>;

/// The verbs.
pub struct CommandExecutor {
    /// The rig.
    pub rig: WorkContext,
    /// Who wants to hear that we are alive.
    pub bell: Notifier,
    /// What is noticed on the way.
    pub news: RunNotice,
    /// The schedules in force, which say how long backups are kept.
    pub schedules: Vec<Schedule>,
}

/// Errors of verbs, in words without data: a server's own words may quote it, and stay with the
/// causes.
fn failure(error: &WorkError) -> RunFailure {
    let mut text = error.to_string();
    if let WorkError::Source { source, .. } = error {
        text.push_str(&format!(": {}", source.safe_cause()));
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!(" ({hint})"));
    }
    RunFailure { trouble: error.class(), text }
}

#[async_trait]
impl JobExecutor for CommandExecutor {
    async fn confirm(&self, job: &Job, claim: TickClaim) -> Result<TickClaim, RunFailure> {
        let JobAction::Backup(datastore) = &job.action else { return Ok(claim) };
        let mandate =
            FencingToken { tick: Some(claim.tick), epoch: claim.epoch, another_cluster: false };
        let confirmed =
            mandate.claim(&self.rig, datastore).await.map_err(|error| failure(&error))?;
        Ok(TickClaim { epoch: confirmed.epoch, ..claim })
    }

    async fn perform(
        &self,
        job: &Job,
        claim: &TickClaim,
        progress: ProgressReporter,
        cancel: CancellationToken,
    ) -> Result<String, RunFailure> {
        let rig = WorkContext {
            progress,
            cancel,
            reading: Arc::default(),
            lists: Arc::default(),
            ..self.rig.clone()
        };
        let done = match &job.action {
            JobAction::Backup(datastore) => {
                let mandate = FencingToken {
                    tick: Some(claim.tick),
                    epoch: claim.epoch,
                    another_cluster: false,
                };
                self.backup(&rig, datastore, mandate, claim.attempt).await
            }
            JobAction::Drill(name) => rehearse(&rig, name).await,
            JobAction::Verify(count) => read_back(&rig, *count).await,
            JobAction::Copy(vault) => replicate(&rig, vault).await,
            JobAction::Prune => self.prune(&rig).await,
            JobAction::Sweep => self.sweep(&rig).await,
            JobAction::Heartbeat => self.beat().await,
        };
        done.map_err(|error| {
            tracing::error!(job = %job.key, error = &error as &dyn std::error::Error, "the run failed");
            failure(&error)
        })
    }
}

async fn rehearse(rig: &WorkContext, name: &str) -> Result<String, WorkError> {
    let team = DrillAudience::new(|_| {}, false);
    // One that died here has no report yet; it gets one before the next begins.
    let vault = shelf::vault_id(rig).await?;
    if let Some(catalog) = rig.catalog() {
        for open in catalog.open_drills(&vault).await?.into_iter().filter(|open| open.drill == name)
        {
            drill::abort(rig, &open.run, &team).await?;
        }
    }
    let outcome = drill::run(rig, name, &team).await?;
    let report = outcome.report;
    let said = format!("{}, record {}", report.verdict.name(), outcome.written.sequence);
    match report.verdict {
        Verdict::Pass => Ok(said),
        Verdict::Fail => {
            Err(WorkError::CheckFailed(format!("{said}: {}", report.reasons.join("; "))))
        }
        Verdict::NotVerified if rig.cancel.is_cancelled() => Err(WorkError::Interrupted),
        Verdict::NotVerified => {
            Err(WorkError::NotVerified(format!("{said}: {}", report.reasons.join("; "))))
        }
    }
}

async fn read_back(rig: &WorkContext, count: usize) -> Result<String, WorkError> {
    let mut entries = shelf::list_entries(rig, None).await?;
    let mut read = 0;
    while read < count && !entries.is_empty() {
        let entry = entries.swap_remove(rand::random_range(0..entries.len()));
        let believed = entry.manifest?;
        verify::verify(rig, &believed.manifest, believed.verified).await?;
        read += 1;
    }
    Ok(format!("read {read} backups back"))
}

async fn replicate(rig: &WorkContext, vault: &str) -> Result<String, WorkError> {
    let report = copy::copy(rig, vault, None).await?;
    let refused = if report.refused.is_empty() {
        String::new()
    } else {
        format!("; left alone: {}", report.refused.join("; "))
    };
    Ok(format!(
        "{} new backups, {} updated, {}{refused}",
        report.backups,
        report.updated,
        format_bytes(report.bytes)
    ))
}

impl CommandExecutor {
    async fn prune(&self, rig: &WorkContext) -> Result<String, WorkError> {
        let (mut removed, mut left, mut busy) = (0, Vec::new(), Vec::new());
        for datastore in rig.config.datastores.keys() {
            let policies = prune::policies_of(&self.schedules, datastore);
            let done = match prune::plan_prune(rig, datastore, policies).await {
                Ok(pruning) => prune::apply(rig, pruning).await,
                Err(error) => Err(error),
            };
            let done = match done {
                // A run holds it; the others are not left for that.
                Err(WorkError::AlreadyRunning { .. }) => {
                    busy.push(datastore.to_string());
                    continue;
                }
                done => done?,
            };
            removed += done.removed.len();
            left.extend(done.left.into_iter().map(|(backup, why)| format!("{backup}: {why}")));
            if rig.cancel.is_cancelled() {
                return Err(WorkError::Interrupted);
            }
        }
        let passed = if busy.is_empty() {
            String::new()
        } else {
            format!("; passed over while a run held them: {}", busy.join(", "))
        };
        if left.is_empty() {
            Ok(format!("removed {removed} backups{passed}"))
        } else {
            Err(WorkError::Leftovers(left.join("; ")))
        }
    }

    async fn backup(
        &self,
        rig: &WorkContext,
        datastore: &crate::domain::DatastoreName,
        mandate: FencingToken,
        attempt: u32,
    ) -> Result<String, WorkError> {
        if attempt > 1
            && let Some(backup) = mandate.answered(rig, datastore).await?
        {
            return Ok(format!("an earlier attempt had published {backup}"));
        }
        let report = back_up::back_up_as(rig, datastore, mandate).await?;
        if !report.strangers.is_empty() {
            let text = format!("{datastore}: {}", publish::tell_strangers(&report.strangers));
            let next = "is a clone of this host running, or was the catalog restored from an earlier day? Two hosts share one catalog ([catalog] url), or have a datastore each".to_owned();
            let _ = self.news.send((AlarmKind::Stranger, datastore.to_string(), text, next));
        }
        let (bytes, seconds) = (format_bytes(report.sealed_bytes), report.seconds);
        Ok(format!("published {}, {bytes} in {seconds:.0} s", report.backup))
    }

    async fn sweep(&self, rig: &WorkContext) -> Result<String, WorkError> {
        let found = sweep::find_leftovers(rig, HumanDuration::seconds(86_400)).await?;
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        let leftovers = &found.leftovers;
        kinds.insert(
            "unfinished uploads",
            leftovers.in_vaults().map(|(_, found)| found.uploads.len()).sum(),
        );
        kinds.insert(
            "objects of unpublished backups",
            leftovers.in_vaults().flat_map(|(_, found)| found.orphans.values()).map(Vec::len).sum(),
        );
        kinds.insert("copies that do not answer", leftovers.not_looked_at.len());
        kinds.insert("snapshots without a backup", leftovers.snapshots.len());
        kinds.insert("file systems left frozen", leftovers.frozen);
        kinds.insert("sandboxes", leftovers.sandboxes.len());
        kinds.insert("scratch VPCs", leftovers.scratch.len());
        kinds.insert("drills without a report", leftovers.unreported.len());
        kinds.insert("backups whose manifest is gone", leftovers.lost.len());
        kinds.retain(|_, count| *count > 0);
        let said = kinds
            .iter()
            .map(|(what, count)| format!("{count} {what}"))
            .collect::<Vec<_>>()
            .join(", ");
        if !kinds.is_empty() {
            let next =
                "find out which run died and why (`lifeboat status`); what may go has been removed"
                    .to_owned();
            let _ = self.news.send((
                AlarmKind::Leftovers,
                "sweep".to_owned(),
                format!("a sweep found {said}"),
                next,
            ));
        }
        let removed = found.apply(rig).await?;
        Ok(if said.is_empty() {
            "found nothing".to_owned()
        } else {
            format!("found {said}; removed {removed} things")
        })
    }

    async fn beat(&self) -> Result<String, WorkError> {
        let mut silent = Vec::new();
        for pulse in &self.bell.pulses {
            let beat = tokio::time::timeout(crate::notify::DELIVERY_MAX, pulse.beat()).await;
            if let Err(why) = beat.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                silent.push(why);
            }
        }
        match silent.is_empty() {
            true => Ok(format!("{} switches told", self.bell.pulses.len())),
            false => Err(WorkError::NotTold(format!(
                "a dead man's switch was not reached: {}",
                silent.join("; ")
            ))),
        }
    }
}

/// A run that took longer than it may.
#[must_use]
pub fn timed_out(within: HumanDuration) -> RunFailure {
    RunFailure {
        trouble: ErrorClass::Unavailable,
        text: format!("it took longer than {within} and was stopped"),
    }
}

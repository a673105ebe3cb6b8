//! The daemon: plans, claims and runs what is due, sends alerts, and serves the status page.
//!
//! Its loop does little and never waits for a run: runs are tasks whose lease is renewed beside
//! them. All state that matters is in the catalog; while that is down, runs continue and no new
//! ones are started.

pub mod alerting;
mod connections;
pub mod executor;
pub mod metrics;
pub mod page;
pub mod scheduler;
pub mod web;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use jiff::Timestamp;
use sd_notify::NotifyState;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::catalog::ticks::{RunEnd, TickClaim};
use crate::catalog::{Catalog, CatalogError};
use crate::config::schedules::ConfiguredJobs;
use crate::config::serve::{ServeConfig, StopPolicy};
use crate::domain::ErrorClass;
use crate::domain::alarm::AlarmPhase;
use crate::domain::job::Job;
use crate::notify::Notifier;
use crate::progress::ProgressReporter;
use crate::work::status::{self, StatusCache, SystemStatus};
use crate::work::{WorkContext, WorkError, fence};
use executor::{CommandExecutor, JobExecutor, RunNotice};
use scheduler::{RunFailure, Scheduler, end_of};

/// How often the catalog is asked, if nothing happens before.
const POLL: Duration = Duration::from_secs(1);
/// How often it is looked how things stand.
const LOOK: Duration = Duration::from_secs(30);
/// How long the catalog may take for what is asked of it in one go.
const CATALOG_MAX: Duration = Duration::from_secs(30);
/// How long a look may take: the loop stands still meanwhile.
const LOOK_MAX: Duration = Duration::from_secs(45);
/// How long the catalog may be silent before somebody is told.
const CATALOG_PATIENCE: Duration = Duration::from_secs(40);
/// How long a run may take to end once it has been told to.
const GRACE: Duration = Duration::from_secs(60);
/// How long the end of a run is kept trying to be written down, one attempt after the other.
const WRITE_AGAIN: Duration = Duration::from_secs(2);
/// Ticks and messages are forgotten after this.
const HISTORY: jiff::SignedDuration = jiff::SignedDuration::from_hours(24 * 400);

/// What a configuration amounts to.
pub struct ServeSetup {
    /// The rig.
    pub rig: WorkContext,
    /// Whom to tell.
    pub bell: Notifier,
    /// What runs, and when.
    pub jobs: ConfiguredJobs,
}

/// Reads the configuration, now and on SIGHUP.
pub type ConfigLoader =
    Box<dyn Fn() -> BoxFuture<'static, Result<ServeSetup, WorkError>> + Send + Sync>;

/// A run that is under way on this host.
#[derive(Clone)]
pub struct RunningJob {
    /// The job.
    pub job: Job,
    /// Its claim.
    pub claim: TickClaim,
    /// How far it is.
    pub progress: ProgressReporter,
    /// Since when.
    pub since: Timestamp,
}

impl RunningJob {
    /// One run, and not another of the same job.
    fn key(&self) -> String {
        format!("{} {} {}", self.claim.job, self.claim.tick, self.claim.epoch)
    }
}

/// What the page and the metrics show. Written by the loop, read by everybody.
#[derive(Default)]
pub struct StatusBoard {
    /// How things stood when it was looked last.
    pub status: Mutex<Option<Arc<SystemStatus>>>,
    /// The evidence as it was read then.
    pub series: Mutex<Option<Arc<crate::evidence::EvidenceSeries>>>,
    /// Runs of this host.
    pub running: Mutex<BTreeMap<String, RunningJob>>,
    /// Runs of this host that have ended, by what they did and how.
    pub ended: Mutex<BTreeMap<(String, &'static str), u64>>,
}

impl StatusBoard {
    /// How things stood when it was looked last.
    #[must_use]
    pub fn status(&self) -> Option<Arc<SystemStatus>> {
        self.status.lock().ok().and_then(|status| status.clone())
    }
    /// The evidence as it was read then.
    #[must_use]
    pub fn series(&self) -> Option<Arc<crate::evidence::EvidenceSeries>> {
        self.series.lock().ok().and_then(|series| series.clone())
    }
    /// Runs of this host.
    #[must_use]
    pub fn running(&self) -> Vec<RunningJob> {
        self.running.lock().map(|running| running.values().cloned().collect()).unwrap_or_default()
    }
}

/// Runs until `cancel` is cancelled and what was begun has ended.
///
/// # Errors
/// [`WorkError`] if the first configuration is not acceptable, or the page cannot be served.
pub async fn run(
    load: ConfigLoader,
    cancel: CancellationToken,
    mut hangup: tokio::sync::mpsc::UnboundedReceiver<()>,
) -> Result<(), WorkError> {
    let setup = load().await?;
    let catalog = match &setup.rig.catalog {
        Ok(catalog) => catalog.clone(),
        Err(error) => {
            return Err(WorkError::Refused {
                what: "serve".to_owned(),
                why: format!("what ran and what is due stands in the catalog, and {error}"),
                hint: error.hint().to_owned(),
            });
        }
    };
    let board = Arc::new(StatusBoard::default());
    let serving = web::serve(&setup.rig.config.serve, Arc::clone(&board), cancel.clone()).await?;
    let (news, heard) = tokio::sync::mpsc::unbounded_channel();
    let mut daemon = ServeDaemon::new(setup, catalog, board, news).await?;
    tokio::spawn(alerting::pass_on(heard, daemon.catalog.clone(), Arc::clone(&daemon.telling)));
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let watched = std::env::var_os("WATCHDOG_USEC").is_some();
    let mut looked: Option<Instant> = None;
    while !cancel.is_cancelled() {
        if watched {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
        let begun = tokio::time::timeout(CATALOG_MAX, daemon.begin_what_is_due())
            .await
            .unwrap_or(Err(CatalogError::Silent));
        if let Err(error) = &begun {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "the catalog does not answer; nothing new is begun until it does"
            );
        }
        daemon.mind_the_catalog(begun.is_ok());
        if looked.is_none_or(|at| at.elapsed() > LOOK) || daemon.reap() {
            // A vault that does not answer keeps nobody from stopping.
            tokio::select! {
                () = cancel.cancelled() => continue,
                () = daemon.look() => looked = Some(Instant::now()),
            }
        }
        daemon.telling.deliver(&daemon.catalog);
        tokio::select! {
            () = cancel.cancelled() => {}
            Some(()) = hangup.recv() => {
                daemon.reload(&load).await;
                looked = None;
            }
            _ = daemon.tasks.join_next(), if !daemon.tasks.is_empty() => looked = None,
            () = tokio::time::sleep(POLL) => {}
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    daemon.stop().await;
    if let Some(serving) = serving {
        let _ = serving.await;
    }
    Ok(())
}

struct ServeDaemon {
    scheduler: Scheduler,
    catalog: Catalog,
    settings: ServeConfig,
    rig: WorkContext,
    verbs: Arc<CommandExecutor>,
    news: RunNotice,
    telling: Arc<alerting::AlertDispatcher>,
    board: Arc<StatusBoard>,
    cache: StatusCache,
    tasks: JoinSet<()>,
    running_cancel: CancellationToken,
    faults: Vec<crate::domain::alarm::Alarm>,
    cleaned: Option<Instant>,
    silent: Option<CatalogSilence>,
}

/// Since when the catalog does not answer, and whether somebody was told.
struct CatalogSilence {
    from: Instant,
    since: Timestamp,
    told: bool,
}

impl ServeDaemon {
    async fn new(
        setup: ServeSetup,
        catalog: Catalog,
        board: Arc<StatusBoard>,
        news: RunNotice,
    ) -> Result<Self, WorkError> {
        let settings = setup.rig.config.serve.clone();
        let mut scheduler = Scheduler::new(
            catalog.clone(),
            &settings.host,
            settings.lease.duration(),
            settings.runs_in_all,
        );
        scheduler.take_jobs(setup.jobs.jobs).await?;
        let telling = Arc::new(alerting::AlertDispatcher::new(
            setup.bell.clone(),
            setup.rig.vault.address(),
            &settings,
        ));
        Ok(Self {
            scheduler,
            settings,
            verbs: Arc::new(CommandExecutor {
                rig: setup.rig.clone(),
                bell: setup.bell,
                news: news.clone(),
                schedules: setup.jobs.schedules,
            }),
            rig: setup.rig,
            catalog,
            news,
            telling,
            board,
            cache: StatusCache::default(),
            tasks: JoinSet::new(),
            running_cancel: CancellationToken::new(),
            faults: Vec::new(),
            cleaned: None,
            silent: None,
        })
    }

    async fn begin_what_is_due(&mut self) -> Result<(), CatalogError> {
        self.scheduler.plan().await?;
        self.telling.tell_of_missed(&self.catalog).await?;
        while self.tasks.len() < self.settings.runs {
            let busy = self.board.running().iter().map(|run| run.claim.subject.clone()).collect();
            let Some((claim, job)) = self.scheduler.claim(&busy).await? else { return Ok(()) };
            tracing::info!(job = %job.key, tick = %claim.tick, attempt = claim.attempt, epoch = claim.epoch, "begun");
            let running = RunningJob {
                job,
                claim,
                progress: ProgressReporter::default(),
                since: Timestamp::now(),
            };
            if let Ok(mut all) = self.board.running.lock() {
                all.insert(running.key(), running.clone());
            }
            let run = JobRun {
                catalog: self.catalog.clone(),
                hands: Arc::clone(&self.verbs) as Arc<dyn JobExecutor>,
                lease: self.settings.lease.duration(),
                stop: self.running_cancel.clone(),
                running,
            };
            let board = Arc::clone(&self.board);
            self.tasks.spawn(async move {
                let (key, job) = (run.running.key(), run.running.job.key.clone());
                let what = run.running.job.describe();
                let (tick, attempt) = (run.running.claim.tick, run.running.claim.attempt);
                let span = tracing::info_span!("run", job, %tick, attempt);
                let how = run.perform().instrument(span).await;
                if let Ok(mut all) = board.running.lock() {
                    all.remove(&key);
                }
                if let Ok(mut ended) = board.ended.lock() {
                    let verb = what.split(' ').next().unwrap_or_default().to_owned();
                    *ended.entry((verb, how)).or_default() += 1;
                }
            });
        }
        Ok(())
    }

    /// A catalog that does not answer for long cannot keep the message about it: somebody is told
    /// directly, and when it is over.
    fn mind_the_catalog(&mut self, answers: bool) {
        let (phase, since) = match (&mut self.silent, answers) {
            (None, true) => return,
            (Some(silent), true) => {
                let (told, since) = (silent.told, silent.since);
                self.silent = None;
                if !told {
                    return;
                }
                (AlarmPhase::Recovered, since)
            }
            (None, false) => {
                self.silent = Some(CatalogSilence {
                    from: Instant::now(),
                    since: Timestamp::now(),
                    told: false,
                });
                return;
            }
            (Some(silent), false) if !silent.told && silent.from.elapsed() > CATALOG_PATIENCE => {
                silent.told = true;
                (AlarmPhase::Raised, silent.since)
            }
            (Some(_), false) => return,
        };
        let (telling, alarm) =
            (Arc::clone(&self.telling), alerting::catalog_gone(&self.settings.host));
        tokio::spawn(async move { telling.send_now(&alarm, phase, since).await });
    }

    /// Whether runs have ended since.
    fn reap(&mut self) -> bool {
        let mut any = false;
        while self.tasks.try_join_next().is_some() {
            any = true;
        }
        any
    }

    /// Looks how things stand, and raises and settles alarms.
    async fn look(&mut self) {
        let jobs: Vec<Job> = self.scheduler.jobs().values().cloned().collect();
        let looked = tokio::time::timeout(
            LOOK_MAX,
            status::collect_status(&self.rig, &jobs, &mut self.cache),
        )
        .await;
        let found = match looked {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(format!("{} ({error})", error.class())),
            Err(_) => Err(format!("no answer within {} seconds", LOOK_MAX.as_secs())),
        };
        let mut alarms = Vec::new();
        let vault = found.is_ok();
        let status = match found {
            Ok(status) => status,
            Err(why) => {
                tracing::warn!(why, "it could not be looked how things stand");
                alarms.push(alerting::vault_gone(&why));
                let mut status = SystemStatus::without_the_vault(&self.rig, Timestamp::now());
                status::of_jobs(&self.rig, &jobs, &mut status).await;
                status
            }
        };
        let skew = match self.catalog.now().await {
            Ok(now) => Timestamp::now().duration_since(now),
            Err(_) => return,
        };
        if let Err(error) = self
            .catalog
            .record_heartbeat(
                &self.settings.host,
                i64::try_from(skew.as_millis()).unwrap_or(i64::MAX),
            )
            .await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "this host could not say that it is there"
            );
        }
        let looked = alerting::AlarmScope {
            vault,
            jobs: status.not_looked_at.is_empty() || !vault && status.not_looked_at.len() == 1,
        };
        alarms.extend(alerting::alarms_of(&status));
        alarms.extend(alerting::clock_skew(&self.settings.host, skew));
        alarms.extend(self.faults.iter().cloned());
        if let Err(error) =
            self.telling.update(&self.catalog, &self.settings.host, alarms, looked).await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "alarms could not be noted in the catalog"
            );
        }
        let series = self.cache.read();
        if let Ok(mut at) = self.board.series.lock() {
            *at = series;
        }
        if let Ok(mut at) = self.board.status.lock() {
            *at = Some(Arc::new(status));
        }
        self.clean().await;
    }

    /// Forgets history, once a day.
    async fn clean(&mut self) {
        if self.cleaned.is_some_and(|at| at.elapsed() < Duration::from_secs(86_400)) {
            return;
        }
        self.cleaned = Some(Instant::now());
        let Ok(now) = self.catalog.now().await else { return };
        let before = now - HISTORY;
        let forgotten = async {
            Ok::<_, CatalogError>(
                self.catalog.forget_ticks(before).await?
                    + self.catalog.forget_messages(before).await?,
            )
        };
        match forgotten.await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "old ticks and messages are forgotten"),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "old ticks could not be forgotten"
            ),
        }
    }

    /// Takes a new configuration, or keeps the old one and says why.
    async fn reload(&mut self, load: &ConfigLoader) {
        let _ = sd_notify::notify(&[NotifyState::Reloading]);
        let taken = async {
            let setup = load().await?;
            refuse_another_place(&self.rig, &setup.rig)?;
            self.scheduler.take_jobs(setup.jobs.jobs.clone()).await?;
            Ok::<_, WorkError>(setup)
        };
        match taken.await {
            Ok(setup) => {
                self.faults.clear();
                self.settings = setup.rig.config.serve.clone();
                self.telling.replace(setup.bell.clone());
                self.rig = WorkContext { catalog: self.rig.catalog.clone(), ..setup.rig };
                self.verbs = Arc::new(CommandExecutor {
                    rig: self.rig.clone(),
                    bell: setup.bell,
                    news: self.news.clone(),
                    schedules: setup.jobs.schedules,
                });
                self.cache = StatusCache::default();
                tracing::info!("the configuration was read again and is in force");
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the new configuration is not acceptable; the old one stays in force"
                );
                self.faults = vec![alerting::configuration(&self.settings.host, &error)];
            }
        }
        let _ = sd_notify::notify(&[NotifyState::Ready]);
    }

    async fn stop(&mut self) {
        let count = self.tasks.len();
        if count > 0 {
            tracing::info!(count, "waiting for runs to end");
        }
        if self.settings.on_stop == StopPolicy::Finish {
            let all = async { while self.tasks.join_next().await.is_some() {} };
            if tokio::time::timeout(self.settings.stop_within.duration(), all).await.is_ok() {
                return;
            }
        }
        self.running_cancel.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, all).await;
    }
}

/// What this process holds, leases and locks, it holds there: another catalog, host name or page
/// needs another process.
fn refuse_another_place(old: &WorkContext, new: &WorkContext) -> Result<(), WorkError> {
    let place = |rig: &WorkContext| {
        let page = rig.config.serve.page.as_ref().map(|page| {
            (page.listen, page.tls.clone(), page.client_ca.clone(), page.token_file.clone())
        });
        (
            rig.config.catalog.place(),
            rig.config.catalog.file.clone(),
            rig.config.serve.host.clone(),
            rig.config.serve.lease,
            page,
        )
    };
    if place(old) == place(new) && new.catalog.is_ok() {
        return Ok(());
    }
    Err(WorkError::Refused {
        what: "reloading".to_owned(),
        why: "another catalog, host, lease or status page, or a catalog that does not answer, cannot be taken while runs are under way"
            .to_owned(),
        hint: "restart the service".to_owned(),
    })
}

/// One run, from its claim to its end in the catalog.
struct JobRun {
    catalog: Catalog,
    hands: Arc<dyn JobExecutor>,
    lease: Duration,
    stop: CancellationToken,
    running: RunningJob,
}

impl JobRun {
    /// Performs it; returns how it ended, as metrics count it.
    async fn perform(self) -> &'static str {
        let RunningJob { job, claim, progress, .. } = self.running;
        let (claim, result) = match self.hands.confirm(&job, claim.clone()).await {
            Err(failure) => (claim, Err(failure)),
            Ok(claim) => {
                let (lost, cancel) = (CancellationToken::new(), self.stop.child_token());
                let renewing = fence::renew(
                    self.catalog.clone(),
                    claim.subject.clone(),
                    claim.epoch,
                    self.lease,
                    lost.clone(),
                );
                let result = {
                    let work = self.hands.perform(&job, &claim, progress, cancel.clone());
                    tokio::pin!(work);
                    let limit = job.timeout.duration();
                    tokio::select! {
                        result = &mut work => Some(result),
                        () = tokio::time::sleep(limit) => {
                            cancel.cancel();
                            let _ = tokio::time::timeout(GRACE, &mut work).await;
                            Some(Err(executor::timed_out(job.timeout)))
                        }
                        () = lost.cancelled() => {
                            cancel.cancel();
                            let _ = tokio::time::timeout(GRACE, &mut work).await;
                            None
                        }
                    }
                };
                match result {
                    Some(result) => {
                        // Held until its end is known: else another host would run it again.
                        let how = write_down(&self.catalog, &job, &claim, result).await;
                        renewing.abort();
                        return how;
                    }
                    None => {
                        renewing.abort();
                        tracing::warn!(job = %job.key, tick = %claim.tick, "another host has taken over this run");
                        return "taken-over";
                    }
                }
            }
        };
        write_down(&self.catalog, &job, &claim, result).await
    }
}

/// Writes the end of a run into the catalog, as often as it takes: a run that ended and is not
/// known to have ended is run again.
async fn write_down(
    catalog: &Catalog,
    job: &Job,
    claim: &TickClaim,
    result: Result<String, RunFailure>,
) -> &'static str {
    let how = match &result {
        Ok(_) => "done",
        Err(failure) if failure.trouble == ErrorClass::Interrupted => "interrupted",
        Err(_) => "failed",
    };
    loop {
        let now = tokio::time::timeout(CATALOG_MAX, catalog.now())
            .await
            .unwrap_or(Err(CatalogError::Silent));
        let written = match now {
            Ok(now) => {
                let end = end_of(job, claim, result.clone(), now);
                tracing::info!(job = %job.key, tick = %claim.tick, end = ?end, "ended");
                let written = tokio::time::timeout(CATALOG_MAX, catalog.finish(claim, &end)).await;
                written.unwrap_or(Err(CatalogError::Silent)).map(|mine| (mine, end))
            }
            Err(error) => Err(error),
        };
        match written {
            Ok((true, RunEnd::Retry { .. })) => return "retried",
            Ok((true, _)) => return how,
            Ok((false, _)) => {
                tracing::warn!(job = %job.key, tick = %claim.tick, "it ended after another host had taken over");
                return "taken-over";
            }
            Err(error) => {
                tracing::warn!(job = %job.key, error = &error as &dyn std::error::Error, "its end could not be written down; trying again");
                tokio::time::sleep(WRITE_AGAIN).await;
            }
        }
    }
}

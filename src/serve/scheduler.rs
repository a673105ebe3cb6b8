//! The scheduler without clock and executor: what is due, who claims it, and what follows from its
//! result.
//!
//! It keeps no state that matters: ticks, leases and results are in the catalog, and any process
//! with the same schedules continues where another died. A simulation drives it with a virtual
//! clock; [`super::run`] with the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::catalog::ticks::{RunEnd, TickClaim};
use crate::catalog::{Catalog, CatalogError};
use crate::domain::ErrorClass;
use crate::domain::job::{Job, backoff};

/// How a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFailure {
    /// Class of the error.
    pub trouble: ErrorClass,
    /// In words that may be sent: no secrets, no names from inside the data.
    pub text: String,
}

/// The scheduler of one host.
pub struct Scheduler {
    catalog: Catalog,
    host: String,
    lease: Duration,
    in_all: Option<usize>,
    jobs: Arc<BTreeMap<String, Job>>,
    /// The next nominal time of every job, in order.
    upcoming: BTreeSet<(Timestamp, String)>,
    /// Up to when each job has been planned, as far as this process knows.
    planned: BTreeMap<String, Timestamp>,
}

impl Scheduler {
    /// A scheduler that knows no jobs yet.
    #[must_use]
    pub fn new(catalog: Catalog, host: &str, lease: Duration, in_all: Option<usize>) -> Self {
        Self {
            catalog,
            host: host.to_owned(),
            lease,
            in_all,
            jobs: Arc::default(),
            upcoming: BTreeSet::new(),
            planned: BTreeMap::new(),
        }
    }

    /// The jobs.
    #[must_use]
    pub fn jobs(&self) -> Arc<BTreeMap<String, Job>> {
        Arc::clone(&self.jobs)
    }

    /// Takes other jobs. Those that were not known are planned from now on.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn take_jobs(&mut self, jobs: Vec<Job>) -> Result<(), CatalogError> {
        let now = self.catalog.now().await?;
        let calendars: Vec<(String, String)> =
            jobs.iter().map(|job| (job.key.clone(), job.calendar.describe())).collect();
        let planned = self.catalog.register_jobs(&calendars, now).await?;
        // Only now: a catalog that does not answer leaves everything as it was.
        self.jobs = Arc::new(jobs.into_iter().map(|job| (job.key.clone(), job)).collect());
        self.look_up(planned, now);
        Ok(())
    }

    fn look_up(&mut self, known: BTreeMap<String, Timestamp>, now: Timestamp) {
        self.planned = self
            .jobs
            .keys()
            .map(|key| (key.clone(), known.get(key).copied().unwrap_or(now)))
            .collect();
        let next = |job: &Job| {
            self.planned.get(&job.key).and_then(|since| job.calendar.next_nominal(*since))
        };
        self.upcoming =
            self.jobs.values().filter_map(|job| Some((next(job)?, job.key.clone()))).collect();
    }

    /// Writes down every tick that has come, those that passed without a run as well.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn plan(&mut self) -> Result<(), CatalogError> {
        let now = self.catalog.now().await?;
        if self.planned.values().any(|until| *until > now + SignedDuration::from_hours(1)) {
            let concerned = self.catalog.discard_future_ticks(now).await?;
            tracing::warn!(
                concerned,
                "the clock was set back by more than an hour; what was planned in its future is planned again"
            );
            let known = self.catalog.planned().await?;
            self.look_up(known, now);
        }
        while let Some((next, key)) =
            self.upcoming.first().filter(|(next, _)| *next <= now).cloned()
        {
            let Some(job) = self.jobs.get(&key).cloned() else {
                self.upcoming.pop_first();
                continue;
            };
            let since = self.planned.get(&key).copied().unwrap_or(now);
            let planned = job.plan(since, now);
            self.catalog.plan(&job, &planned, now).await?;
            // Only now that it is written down: a catalog that does not answer must not make a job
            // forgotten.
            self.upcoming.remove(&(next, key.clone()));
            self.planned.insert(key.clone(), planned.until);
            if let Some(next) = job.calendar.next_nominal(planned.until) {
                self.upcoming.insert((next, key));
            }
        }
        self.catalog.give_up(now).await?;
        Ok(())
    }

    /// Takes a tick that is due, with its job. `busy` are subjects of runs in this process: one
    /// whose lease has run out meanwhile, because the host slept, is still its own.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn claim(
        &self,
        busy: &BTreeSet<String>,
    ) -> Result<Option<(TickClaim, Job)>, CatalogError> {
        let jobs = Arc::clone(&self.jobs);
        let known =
            move |key: &str| jobs.get(key).filter(|job| !busy.contains(&job.subject())).cloned();
        let claim = self.catalog.claim(&self.host, &known, self.lease, self.in_all).await?;
        Ok(claim.and_then(|claim| Some((claim.clone(), self.jobs.get(&claim.job)?.clone()))))
    }

    /// When the next tick of any job comes.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        self.upcoming.first().map(|(next, _)| *next)
    }
}

/// Decides what comes of how a run ended.
#[must_use]
pub fn end_of(
    job: &Job,
    claim: &TickClaim,
    result: Result<String, RunFailure>,
    now: Timestamp,
) -> RunEnd {
    let failure = match result {
        Ok(outcome) => return RunEnd::Done(outcome),
        Err(failure) => failure,
    };
    let text = format!("{}: {}", failure.trouble, failure.text);
    match failure.trouble {
        ErrorClass::Interrupted => RunEnd::Returned(failure.text),
        trouble if trouble.is_retryable() && claim.attempt <= job.retries => {
            let wait = SignedDuration::try_from(backoff(claim.attempt)).unwrap_or_default();
            RunEnd::Retry { at: now.checked_add(wait).unwrap_or(now), outcome: text }
        }
        _ => RunEnd::Failed(text),
    }
}

//! Scheduling: ticks are planned by every host, claimed by one, and protected by a lease.
//!
//! A tick is a row, inserted once however many hosts plan it (idempotent). To claim one, a host
//! locks the row of its *subject* (the datastore, the drill) with `FOR UPDATE SKIP LOCKED`, checks
//! that its lease has expired, and increments its *epoch*. Every later write names that epoch, so a
//! host that was suspended and wakes up changes nothing. Effects outside of the catalog are
//! protected by the same epoch as a fencing token in the vault (`work/fence.rs`).
//!
//! A run whose lease expires without a result is retried by the next host that looks, as another
//! attempt.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::patient::TimedTransaction;
use super::{Catalog, CatalogError, millis, time};
use crate::domain::alarm::AlarmKind;
use crate::domain::id::BackupId;
use crate::domain::job::{CatchUpPolicy, Job, PlannedTicks, SkipReason, TICKS_PLANNED_MAX};

/// Subjects of readers begin with it: the backup and something random follow.
pub const READING: &str = "reading/";
/// Candidates that are looked at for one claim.
const CANDIDATES_MAX: i64 = 64;
/// Any number, the same for every lifeboat: whoever counts all runs holds this advisory lock.
const COUNTING_LOCK: i64 = 0x6c69_6665_626f_6174;
/// A tick that nobody has taken for so long belongs to a job that there is no more.
const UNKNOWN_MILLIS: i64 = 7 * 86_400_000;
/// A clock that goes back by less is being corrected; by more, it was wrong.
const CLOCK_TOLERANCE_MILLIS: i64 = 3_600_000;

/// A tick that this host runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickClaim {
    /// The job.
    pub job: String,
    /// The tick.
    pub tick: Timestamp,
    /// What nobody else may touch meanwhile.
    pub subject: String,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// What every word about it must name.
    pub epoch: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// As it should.
    Done(String),
    /// Not, and it is tried again.
    Retry {
        /// When.
        at: Timestamp,
        /// Why.
        outcome: String,
    },
    /// Not, and that is that.
    Failed(String),
    /// It was stopped, by nobody's fault: it waits as if it had not begun.
    Returned(String),
}

/// A tick as the catalog knows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TickRow {
    /// The job.
    pub job: String,
    /// The scheduled time.
    pub tick: Timestamp,
    /// `waiting`, `running`, `done`, `failed`, `missed`, `covered` or `left-out`.
    pub state: String,
    /// How often it was begun.
    pub attempt: i64,
    /// The host that runs or ran it last.
    pub host: Option<String>,
    /// When it was begun last.
    pub begun: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// What came of it.
    pub outcome: Option<String>,
}

type RawTick = (String, i64, String, i64, Option<String>, Option<i64>, Option<i64>, Option<String>);

impl TickRow {
    fn of((job, tick, state, attempt, host, begun, ended, outcome): RawTick) -> Self {
        Self {
            job,
            tick: time(tick),
            state,
            attempt,
            host,
            begun: begun.map(time),
            ended: ended.map(time),
            outcome,
        }
    }
}

const COLUMNS: &str = "job, tick, state, attempt, host, begun, ended, outcome";

impl SkipReason {
    fn state(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Covered => "covered",
            Self::LeftOut => "left-out",
        }
    }
}

/// A scheduled time that passed without a run, and of which nobody has been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreportedMiss {
    /// The job.
    pub job: String,
    /// The scheduled time.
    pub tick: Timestamp,
    /// Whether a later run covers it.
    pub covered: bool,
}

/// A message and who gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressedMessage {
    /// Names of the channels.
    pub channels: Vec<String>,
    /// What it is about.
    pub kind: AlarmKind,
    /// What it says, as JSON of [`crate::domain::alarm::AlarmMessage`].
    pub body: String,
}

/// A host that was heard of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HostRow {
    /// Its name.
    pub host: String,
    /// When it was heard of last.
    pub seen: Timestamp,
    /// How far its clock is from the catalog's, in milliseconds.
    pub skew_millis: i64,
    /// Version of its lifeboat.
    pub version: String,
}

impl Catalog {
    /// Up to when every known job has been planned.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn planned(&self) -> Result<BTreeMap<String, Timestamp>, CatalogError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT job, planned_until FROM jobs").fetch_all(self.ask()).await?;
        Ok(rows.into_iter().map(|(job, until)| (job, time(until))).collect())
    }

    /// Notes jobs and their calendars. One that was not known, or whose calendar is another now, is
    /// planned from `now` on: the times of a calendar that was not in force were never missed.
    /// Returns up to when each has been planned.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn register_jobs(
        &self,
        jobs: &[(String, String)],
        now: Timestamp,
    ) -> Result<BTreeMap<String, Timestamp>, CatalogError> {
        let rows: Vec<(String, i64, String)> =
            sqlx::query_as("SELECT job, planned_until, calendar FROM jobs")
                .fetch_all(self.ask())
                .await?;
        let known: BTreeMap<String, (i64, String)> =
            rows.into_iter().map(|(job, until, calendar)| (job, (until, calendar))).collect();
        let mut planned = BTreeMap::new();
        let mut transaction = self.begin().await?;
        for (job, calendar) in jobs {
            if let Some((until, same)) = known.get(job)
                && same == calendar
            {
                planned.insert(job.clone(), time(*until));
                continue;
            }
            sqlx::query("INSERT INTO jobs (job, planned_until, calendar) VALUES ($1, $2, $3) ON CONFLICT (job) DO UPDATE SET planned_until = $2, calendar = $3")
                .bind(job)
                .bind(millis(now))
                .bind(calendar)
                .execute(transaction.ask())
                .await?;
            planned.insert(job.clone(), now);
        }
        transaction.commit().await?;
        Ok(planned)
    }

    /// Writes down what is to be done about a job's ticks. Another host may have done so; then
    /// nothing changes.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn plan(
        &self,
        job: &Job,
        planned: &PlannedTicks,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut transaction = self.begin().await?;
        let give_up =
            |due: i64| match job.catch_up {
                CatchUpPolicy::Skip(within) => Some(due.saturating_add(
                    i64::try_from(within.duration().as_millis()).unwrap_or(i64::MAX),
                )),
                CatchUpPolicy::Once => None,
            };
        let waiting = planned.waiting.iter().map(|tick| (tick, "waiting", None));
        let passed =
            planned.passed.iter().map(|(tick, fate)| (tick, fate.state(), Some(millis(now))));
        for (tick, state, ended) in waiting.chain(passed) {
            let mut why =
                if tick.why.is_empty() { "nobody ran".to_owned() } else { tick.why.join(", ") };
            if planned.unlisted > 0
                && planned.passed.first().is_some_and(|(first, _)| first.nominal == tick.nominal)
            {
                why =
                    format!("{why}; and {} earlier times, which are not listed", planned.unlisted);
            }
            let due = millis(tick.due.unwrap_or(tick.nominal));
            sqlx::query(
                "INSERT INTO ticks (job, tick, subject, give_up, due, not_before, state, attempts_max, ended, outcome)
                 VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8, $9)
                 ON CONFLICT DO NOTHING",
            )
            .bind(&job.key)
            .bind(millis(tick.nominal))
            .bind(job.subject())
            .bind(give_up(due))
            .bind(due)
            .bind(state)
            .bind(i64::from(job.retries) + 1)
            .bind(ended)
            .bind(ended.map(|_| why))
            .execute(transaction.ask())
            .await?;
        }
        sqlx::query("UPDATE jobs SET planned_until = $2 WHERE job = $1 AND planned_until < $2")
            .bind(&job.key)
            .bind(millis(planned.until))
            .execute(transaction.ask())
            .await?;
        Ok(transaction.commit().await?)
    }

    /// Ticks that waited longer than their job catches up, and those that no host has known for a
    /// week, are missed.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn give_up(&self, now: Timestamp) -> Result<(), CatalogError> {
        sqlx::query(
            "UPDATE ticks SET state = 'missed', ended = $1, outcome = 'no host was free in time'
             WHERE state = 'waiting' AND attempt = 0 AND (give_up < $1 OR due < $2)",
        )
        .bind(millis(now))
        .bind(millis(now) - UNKNOWN_MILLIS)
        .execute(self.ask())
        .await?;
        Ok(())
    }

    /// Ticks that passed without a run and of which nobody has been told. Each is returned once;
    /// the messages that `write` makes of them are kept in the same breath.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn tell_of_missed(
        &self,
        write: &(dyn Fn(&[UnreportedMiss]) -> Vec<AddressedMessage> + Sync),
    ) -> Result<usize, CatalogError> {
        let mut transaction = self.begin().await?;
        let locked = if self.shared { " FOR UPDATE SKIP LOCKED" } else { "" };
        let query = format!(
            "SELECT job, tick, state FROM ticks WHERE state IN ('missed', 'covered') AND told = 0 ORDER BY job, tick LIMIT 1000{locked}"
        );
        let rows: Vec<(String, i64, String)> =
            sqlx::query_as(AssertSqlSafe(query)).fetch_all(transaction.ask()).await?;
        let now = self.now_within(&mut transaction).await?;
        for (job, tick, _) in &rows {
            sqlx::query("UPDATE ticks SET told = $3 WHERE job = $1 AND tick = $2")
                .bind(job)
                .bind(tick)
                .bind(now)
                .execute(transaction.ask())
                .await?;
        }
        let told: Vec<UnreportedMiss> = rows
            .into_iter()
            .map(|(job, tick, state)| UnreportedMiss {
                job,
                tick: time(tick),
                covered: state == "covered",
            })
            .collect();
        for letter in write(&told) {
            for channel in letter.channels {
                super::alarms::enqueue_in_tx(
                    &mut transaction,
                    &channel,
                    letter.kind,
                    "",
                    &letter.body,
                    now,
                )
                .await?;
            }
        }
        transaction.commit().await?;
        Ok(told.len())
    }

    /// Takes a tick that is due, if there is one that this host may run. `known` tells the job of a
    /// key; `in_all` is how many runs there may be on all hosts.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn claim(
        &self,
        host: &str,
        known: &(dyn Fn(&str) -> Option<Job> + Sync),
        lease: Duration,
        in_all: Option<usize>,
    ) -> Result<Option<TickClaim>, CatalogError> {
        let now = millis(self.now().await?);
        if let Some(limit) = in_all {
            // Asked again under a lock before anything is taken.
            let (running,): (i64,) =
                sqlx::query_as("SELECT count(*) FROM subjects WHERE lease_until >= $1 AND subject NOT LIKE 'reading/%'")
                    .bind(now)
                    .fetch_one(self.ask())
                    .await?;
            if usize::try_from(running).unwrap_or(usize::MAX) >= limit {
                return Ok(None);
            }
        }
        // Leases run out while nobody can renew them: after a restart of the server their holders
        // come first.
        let grace = self.shared && {
            let (since,): (i64,) = sqlx::query_as(
                "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint",
            )
            .fetch_one(self.ask())
            .await?;
            now - since < i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)
        };
        let free = if grace { 1 } else { now };
        for page in 0.. {
            // Those of jobs that this host does not know, or may not run, are passed over, however
            // many they are.
            let candidates: Vec<(String, String)> = sqlx::query_as(
                "SELECT t.job, t.subject FROM ticks t LEFT JOIN subjects s ON s.subject = t.subject
                 WHERE t.state IN ('waiting', 'running') AND t.not_before <= $1 AND (s.lease_until IS NULL OR s.lease_until < $2)
                 GROUP BY t.job, t.subject ORDER BY min(t.due), t.job LIMIT $3 OFFSET $4",
            )
            .bind(now)
            .bind(free)
            .bind(CANDIDATES_MAX)
            .bind(page * CANDIDATES_MAX)
            .fetch_all(self.ask())
            .await?;
            let last = i64::try_from(candidates.len()).unwrap_or_default() < CANDIDATES_MAX;
            for (key, subject) in candidates {
                let Some(job) = known(&key).filter(|job| job.may_run_on(host)) else { continue };
                if let Some(claim) = self.take(host, &job, &subject, lease, in_all).await? {
                    return Ok(Some(claim));
                }
            }
            if last {
                break;
            }
        }
        Ok(None)
    }

    async fn take(
        &self,
        host: &str,
        job: &Job,
        subject: &str,
        lease: Duration,
        in_all: Option<usize>,
    ) -> Result<Option<TickClaim>, CatalogError> {
        let mut transaction = self.begin().await?;
        let now = self.now_within(&mut transaction).await?;
        if let Some(limit) = in_all {
            if self.shared {
                sqlx::query("SELECT pg_advisory_xact_lock($1)")
                    .bind(COUNTING_LOCK)
                    .execute(transaction.ask())
                    .await?;
            }
            let (running,): (i64,) =
                sqlx::query_as("SELECT count(*) FROM subjects WHERE lease_until >= $1 AND subject NOT LIKE 'reading/%'")
                    .bind(now)
                    .fetch_one(transaction.ask())
                    .await?;
            if usize::try_from(running).unwrap_or(usize::MAX) >= limit {
                return Ok(None);
            }
        }
        let Some(epoch) = self.lock_subject(&mut transaction, subject, now).await? else {
            return Ok(None);
        };
        // Whoever held it has not been heard of in time; each of its runs was an attempt.
        sqlx::query(
            "UPDATE ticks SET state = CASE WHEN attempt < attempts_max THEN 'waiting' ELSE 'failed' END, ended = $2,
               outcome = 'its host was not heard of any more' WHERE subject = $1 AND state = 'running'",
        )
        .bind(subject)
        .bind(now)
        .execute(transaction.ask())
        .await?;
        // Where one run covers all, the newest is run; else each in its order.
        let order = if job.catch_up == CatchUpPolicy::Once { "DESC" } else { "ASC" };
        let due = format!(
            "SELECT tick, attempt FROM ticks WHERE job = $1 AND state = 'waiting' AND not_before <= $2 ORDER BY tick {order} LIMIT 1"
        );
        let found: Option<(i64, i64)> = sqlx::query_as(AssertSqlSafe(due))
            .bind(&job.key)
            .bind(now)
            .fetch_optional(transaction.ask())
            .await?;
        let Some((tick, attempt)) = found else {
            transaction.commit().await?;
            return Ok(None);
        };
        if job.catch_up == CatchUpPolicy::Once {
            // One that was tried has failed, whatever the later one does.
            sqlx::query(
                "UPDATE ticks SET state = CASE WHEN attempt = 0 THEN 'covered' ELSE 'failed' END, ended = $3,
                   outcome = COALESCE(outcome, 'a later tick is run instead') WHERE job = $1 AND state = 'waiting' AND tick < $2",
            )
            .bind(&job.key)
            .bind(tick)
            .bind(now)
            .execute(transaction.ask())
            .await?;
        }
        let epoch = epoch + 1;
        sqlx::query(
            "UPDATE subjects SET epoch = $2, holder = $3, lease_until = $4 WHERE subject = $1",
        )
        .bind(subject)
        .bind(epoch)
        .bind(host)
        .bind(now + i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 2))
        .execute(transaction.ask())
        .await?;
        let begun = sqlx::query(
            "UPDATE ticks SET state = 'running', attempt = attempt + 1, epoch = $3, host = $4, begun = $5, ended = NULL, outcome = NULL
             WHERE job = $1 AND tick = $2 AND state = 'waiting'",
        )
        .bind(&job.key)
        .bind(tick)
        .bind(epoch)
        .bind(host)
        .bind(now)
        .execute(transaction.ask())
        .await?;
        if begun.rows_affected() != 1 {
            // Another host has given it up in this very moment.
            return Ok(None);
        }
        transaction.commit().await?;
        Ok(Some(TickClaim {
            job: job.key.clone(),
            tick: time(tick),
            subject: subject.to_owned(),
            attempt: u32::try_from(attempt).unwrap_or(u32::MAX).saturating_add(1),
            epoch: u64::try_from(epoch).unwrap_or_default(),
        }))
    }

    /// Locks the row of a subject whose lease has run out, and tells its epoch; none if somebody
    /// holds it.
    async fn lock_subject(
        &self,
        transaction: &mut TimedTransaction,
        subject: &str,
        now: i64,
    ) -> Result<Option<i64>, CatalogError> {
        sqlx::query("INSERT INTO subjects (subject, epoch, holder, lease_until) VALUES ($1, 0, '', 0) ON CONFLICT DO NOTHING")
            .bind(subject)
            .execute(transaction.ask())
            .await?;
        let locked = if self.shared { " FOR UPDATE SKIP LOCKED" } else { "" };
        let query =
            format!("SELECT epoch FROM subjects WHERE subject = $1 AND lease_until < $2{locked}");
        let free: Option<(i64,)> = sqlx::query_as(AssertSqlSafe(query))
            .bind(subject)
            .bind(now)
            .fetch_optional(transaction.ask())
            .await?;
        Ok(free.map(|(epoch,)| epoch))
    }

    /// Takes a subject for a run that no tick asked for. None if somebody holds it.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn hold(
        &self,
        host: &str,
        subject: &str,
        lease: Duration,
    ) -> Result<Option<u64>, CatalogError> {
        let mut transaction = self.begin().await?;
        let now = self.now_within(&mut transaction).await?;
        let Some(epoch) = self.lock_subject(&mut transaction, subject, now).await? else {
            return Ok(None);
        };
        sqlx::query(
            "UPDATE subjects SET epoch = $2, holder = $3, lease_until = $4 WHERE subject = $1",
        )
        .bind(subject)
        .bind(epoch + 1)
        .bind(host)
        .bind(now + i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 2))
        .execute(transaction.ask())
        .await?;
        transaction.commit().await?;
        Ok(u64::try_from(epoch + 1).ok())
    }

    /// Goes on holding a subject. False if it has been taken by somebody else.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn renew(
        &self,
        subject: &str,
        epoch: u64,
        lease: Duration,
    ) -> Result<bool, CatalogError> {
        let until =
            millis(self.now().await?) + i64::try_from(lease.as_millis()).unwrap_or(i64::MAX / 2);
        let done = sqlx::query("UPDATE subjects SET lease_until = $3 WHERE subject = $1 AND epoch = $2 AND lease_until > 0")
            .bind(subject)
            .bind(i64::try_from(epoch).unwrap_or(i64::MAX))
            .bind(until)
            .execute(self.ask())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Lets go of a subject. A reader's has no history and goes altogether.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn release(&self, subject: &str, epoch: u64) -> Result<(), CatalogError> {
        let query = match subject.starts_with(READING) {
            true => "DELETE FROM subjects WHERE subject = $1 AND epoch = $2",
            false => "UPDATE subjects SET lease_until = 0 WHERE subject = $1 AND epoch = $2",
        };
        sqlx::query(query)
            .bind(subject)
            .bind(i64::try_from(epoch).unwrap_or(i64::MAX))
            .execute(self.ask())
            .await?;
        Ok(())
    }

    /// Who reads a backup at this moment, on any host.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn readers(&self, backup: &BackupId) -> Result<Vec<String>, CatalogError> {
        let now = millis(self.now().await?);
        let rows: Vec<(String,)> =
            sqlx::query_as("SELECT holder FROM subjects WHERE subject LIKE $1 AND lease_until >= $2 ORDER BY holder")
                .bind(format!("{READING}{backup}/%"))
                .bind(now)
                .fetch_all(self.ask())
                .await?;
        Ok(rows.into_iter().map(|(holder,)| holder).collect())
    }

    /// The epoch of a subject; 0 if nobody has held it.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn epoch_of(&self, subject: &str) -> Result<u64, CatalogError> {
        let row: Option<(i64,)> = sqlx::query_as("SELECT epoch FROM subjects WHERE subject = $1")
            .bind(subject)
            .fetch_optional(self.ask())
            .await?;
        Ok(row.and_then(|(epoch,)| u64::try_from(epoch).ok()).unwrap_or_default())
    }

    /// The epoch of a subject goes up to at least this: the vault knew of a later one than a
    /// catalog that was lost.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn raise_epoch(
        &self,
        subject: &str,
        from: u64,
        to: u64,
    ) -> Result<bool, CatalogError> {
        let number = |epoch: u64| i64::try_from(epoch).unwrap_or(i64::MAX);
        let mut transaction = self.begin().await?;
        let done = sqlx::query("UPDATE subjects SET epoch = $3 WHERE subject = $1 AND epoch = $2")
            .bind(subject)
            .bind(number(from))
            .bind(number(to))
            .execute(transaction.ask())
            .await?;
        sqlx::query(
            "UPDATE ticks SET epoch = $3 WHERE subject = $1 AND epoch = $2 AND state = 'running'",
        )
        .bind(subject)
        .bind(number(from))
        .bind(number(to))
        .execute(transaction.ask())
        .await?;
        transaction.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes down how a run ended. False if it is no longer this host's to say.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn finish(&self, claim: &TickClaim, end: &RunEnd) -> Result<bool, CatalogError> {
        let mut transaction = self.begin().await?;
        let now = self.now_within(&mut transaction).await?;
        let epoch = i64::try_from(claim.epoch).unwrap_or(i64::MAX);
        let mine =
            sqlx::query("UPDATE subjects SET lease_until = 0 WHERE subject = $1 AND epoch = $2")
                .bind(&claim.subject)
                .bind(epoch)
                .execute(transaction.ask())
                .await?;
        if mine.rows_affected() != 1 {
            return Ok(false);
        }
        let (state, not_before, outcome, back) = match end {
            RunEnd::Done(outcome) => ("done", now, outcome, 0),
            RunEnd::Retry { at, outcome } => ("waiting", millis(*at), outcome, 0),
            RunEnd::Failed(outcome) => ("failed", now, outcome, 0),
            RunEnd::Returned(outcome) => ("waiting", now, outcome, 1),
        };
        let done = sqlx::query(
            "UPDATE ticks SET state = $4, not_before = $5, outcome = $6, ended = $7, attempt = attempt - $8
             WHERE job = $1 AND tick = $2 AND epoch = $3 AND state = 'running'",
        )
        .bind(&claim.job)
        .bind(millis(claim.tick))
        .bind(epoch)
        .bind(state)
        .bind(not_before)
        .bind(outcome)
        .bind(now)
        .bind(back)
        .execute(transaction.ask())
        .await?;
        transaction.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// After a clock that was wrong by more than an hour has been set back: what was planned in its
    /// future is planned again when it comes. Returns how many ticks that concerns.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn discard_future_ticks(&self, now: Timestamp) -> Result<u64, CatalogError> {
        let limit = millis(now) + CLOCK_TOLERANCE_MILLIS;
        let mut transaction = self.begin().await?;
        let gone = sqlx::query("DELETE FROM ticks WHERE tick > $1 AND state <> 'running'")
            .bind(limit)
            .execute(transaction.ask())
            .await?;
        let back = sqlx::query("UPDATE jobs SET planned_until = $2 WHERE planned_until > $1")
            .bind(limit)
            .bind(millis(now))
            .execute(transaction.ask())
            .await?;
        // A lease from the future would be held until then.
        sqlx::query("UPDATE subjects SET lease_until = $2 WHERE lease_until > $1")
            .bind(limit + CLOCK_TOLERANCE_MILLIS * 24)
            .bind(millis(now))
            .execute(transaction.ask())
            .await?;
        transaction.commit().await?;
        Ok(gone.rows_affected().max(back.rows_affected()))
    }

    /// The newest tick of each job that was done or failed, and everything that runs or waits.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn board(&self) -> Result<Vec<TickRow>, CatalogError> {
        let columns =
            COLUMNS.split(", ").map(|column| format!("t.{column}")).collect::<Vec<_>>().join(", ");
        // One step in the primary key for each job, however long its history.
        let query = format!(
            "SELECT {COLUMNS} FROM ticks WHERE state IN ('running', 'waiting')
             UNION ALL SELECT {columns} FROM jobs j JOIN ticks t ON t.job = j.job
               AND t.tick = (SELECT max(o.tick) FROM ticks o WHERE o.job = j.job AND o.state IN ('done', 'failed'))
             ORDER BY tick, job"
        );
        let rows: Vec<RawTick> = sqlx::query_as(AssertSqlSafe(query)).fetch_all(self.ask()).await?;
        Ok(rows.into_iter().map(TickRow::of).collect())
    }

    /// Ticks of a job, the newest first.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn ticks(&self, job: &str, limit: usize) -> Result<Vec<TickRow>, CatalogError> {
        let query =
            format!("SELECT {COLUMNS} FROM ticks WHERE job = $1 ORDER BY tick DESC LIMIT $2");
        let limit = i64::try_from(limit.min(TICKS_PLANNED_MAX)).unwrap_or(i64::MAX);
        let rows: Vec<RawTick> = sqlx::query_as(AssertSqlSafe(query))
            .bind(job)
            .bind(limit)
            .fetch_all(self.ask())
            .await?;
        Ok(rows.into_iter().map(TickRow::of).collect())
    }

    /// How many ticks are in each state.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn tick_counts(&self) -> Result<BTreeMap<String, u64>, CatalogError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT state, count(*) FROM ticks GROUP BY state")
                .fetch_all(self.ask())
                .await?;
        Ok(rows
            .into_iter()
            .map(|(state, count)| (state, u64::try_from(count).unwrap_or_default()))
            .collect())
    }

    /// Says that this host is there.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn record_heartbeat(&self, host: &str, skew_millis: i64) -> Result<(), CatalogError> {
        let now = millis(self.now().await?);
        sqlx::query(
            "INSERT INTO hosts (host, seen, skew, version) VALUES ($1, $2, $3, $4)
             ON CONFLICT (host) DO UPDATE SET seen = $2, skew = $3, version = $4",
        )
        .bind(host)
        .bind(now)
        .bind(skew_millis)
        .bind(env!("CARGO_PKG_VERSION"))
        .execute(self.ask())
        .await?;
        Ok(())
    }

    /// Hosts that were heard of.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn hosts(&self) -> Result<Vec<HostRow>, CatalogError> {
        let rows: Vec<(String, i64, i64, String)> =
            sqlx::query_as("SELECT host, seen, skew, version FROM hosts ORDER BY host")
                .fetch_all(self.ask())
                .await?;
        Ok(rows
            .into_iter()
            .map(|(host, seen, skew_millis, version)| HostRow {
                host,
                seen: time(seen),
                skew_millis,
                version,
            })
            .collect())
    }

    /// Forgets ticks that ended before a time.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn forget_ticks(&self, before: Timestamp) -> Result<u64, CatalogError> {
        let gone = sqlx::query(
            "DELETE FROM ticks WHERE ended < $1 AND state NOT IN ('running', 'waiting')",
        )
        .bind(millis(before))
        .execute(self.ask())
        .await?;
        // Readers that died.
        sqlx::query("DELETE FROM subjects WHERE subject LIKE 'reading/%' AND lease_until < $1")
            .bind(millis(before))
            .execute(self.ask())
            .await?;
        Ok(gone.rows_affected())
    }
}

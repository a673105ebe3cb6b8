//! Jobs: what the schedule runs, and the decisions about it that need no clock and no disk.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::calendar::{Calendar, Tick};
use super::id::DatastoreName;
use super::span::Span;

/// Ticks of one job that are looked at in one go after a long time down. Older ones are counted, not listed.
pub const TICKS_PLANNED_MAX: usize = 500;
/// A tick that is noticed this much after it was due was missed while nobody ran.
pub const LATE: SignedDuration = SignedDuration::from_mins(10);
const BACKOFF_FIRST: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(3_600);

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Takes a backup of a datastore.
    Backup(DatastoreName),
    /// Runs a drill.
    Drill(String),
    /// Reads so many backups back, chosen by chance.
    Verify(usize),
    /// Copies backups to another vault.
    Copy(String),
    /// Removes what retention does not keep.
    Prune,
    /// Removes what interrupted runs left.
    Sweep,
    /// Tells every channel of kind `ping` that somebody is alive.
    Heartbeat,
}

/// What becomes of ticks that nobody ran in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// One run covers all of them.
    Once,
    /// Those later than this are reported as missed.
    Skip(Span),
}

/// Something that runs by a calendar.
#[derive(Debug, Clone)]
pub struct Job {
    /// `schedule/datastore`, `drill/name`: the same on every host.
    pub key: String,
    /// What it does.
    pub action: Action,
    /// When.
    pub calendar: Calendar,
    /// What becomes of ticks that were missed.
    pub catch_up: CatchUp,
    /// How long one attempt may take.
    pub timeout: Span,
    /// How often it is tried again.
    pub retries: u32,
    /// The hosts that may run it; none: all.
    pub hosts: Vec<String>,
}

impl Job {
    /// What only one run may touch at a time.
    #[must_use]
    pub fn subject(&self) -> String {
        match &self.action {
            Action::Backup(datastore) => subject_of(datastore),
            Action::Drill(name) => format!("drill/{name}"),
            Action::Verify(_) => format!("verify/{}", self.key),
            Action::Copy(vault) => format!("copy/{vault}"),
            Action::Prune => "prune".to_owned(),
            Action::Sweep => "sweep".to_owned(),
            Action::Heartbeat => format!("heartbeat/{}", self.key),
        }
    }

    /// Whether a host may run it.
    #[must_use]
    pub fn may_run_on(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|allowed| allowed == host)
    }

    /// In a few words, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.action {
            Action::Backup(datastore) => format!("backup {datastore}"),
            Action::Drill(name) => format!("drill {name}"),
            Action::Verify(count) => format!("verify {count} backups"),
            Action::Copy(vault) => format!("copy to {vault}"),
            Action::Prune => "prune".to_owned(),
            Action::Sweep => "sweep".to_owned(),
            Action::Heartbeat => "heartbeat".to_owned(),
        }
    }

    /// What is to be done about every tick after `since`, up to `now`.
    #[must_use]
    pub fn plan(&self, since: Timestamp, now: Timestamp) -> Planned {
        let mut planned = Planned { waiting: Vec::new(), passed: Vec::new(), until: since, unlisted: 0 };
        let mut ticks = std::collections::VecDeque::new();
        let mut here = since;
        while let Some(nominal) = self.calendar.next_nominal(here).filter(|nominal| *nominal <= now) {
            here = nominal;
            planned.until = nominal;
            ticks.push_back(nominal);
            if ticks.len() > TICKS_PLANNED_MAX {
                ticks.pop_front();
                planned.unlisted += 1;
            }
        }
        let ticks: Vec<Tick> = ticks.into_iter().map(|nominal| self.calendar.tick(&self.key, nominal)).collect();
        let late = |tick: &Tick| tick.due.is_some_and(|due| now.duration_since(due) > LATE);
        let last_late = ticks.iter().rev().find(|tick| late(tick)).map(|tick| tick.nominal);
        for tick in ticks {
            let fate = match (tick.due, self.catch_up) {
                (None, _) => Fate::LeftOut,
                (Some(due), CatchUp::Skip(within)) if now.duration_since(due) > longer(within) => Fate::Missed,
                (Some(_), CatchUp::Once) if late(&tick) && Some(tick.nominal) != last_late => Fate::Covered,
                (Some(_), _) => {
                    planned.waiting.push(tick);
                    continue;
                }
            };
            planned.passed.push((tick, fate));
        }
        planned
    }
}

fn longer(within: Span) -> SignedDuration {
    SignedDuration::try_from(within.duration()).unwrap_or(SignedDuration::MAX)
}

/// The subject of everything that touches a datastore's backups.
#[must_use]
pub fn subject_of(datastore: &DatastoreName) -> String {
    format!("datastore/{datastore}")
}

/// What is to be done about a job's ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// To be run when they are due.
    pub waiting: Vec<Tick>,
    /// Not to be run, and why.
    pub passed: Vec<(Tick, Fate)>,
    /// The last tick that was looked at.
    pub until: Timestamp,
    /// How many more there were before the listed ones: missed, and covered or not.
    pub unlisted: usize,
}

/// Why a tick is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nobody ran in time, and the job does not catch up.
    Missed,
    /// Nobody ran in time; the run of a later tick covers it.
    Covered,
    /// A blackout window leaves it out.
    LeftOut,
}

/// How long to wait before an attempt, counted from 1 for the first repetition: a minute, two, four, up to an hour.
#[must_use]
pub fn backoff(repetition: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(1_u32.checked_shl(repetition.saturating_sub(1)).unwrap_or(u32::MAX)).min(BACKOFF_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::calendar::{InBlackout, Pattern, Zone};
    use proptest::prelude::*;

    fn job(cron: &str, catch_up: CatchUp) -> Job {
        let calendar = Calendar {
            pattern: Pattern::Cron(cron.parse().unwrap()),
            zone: Zone::utc(),
            jitter: Duration::ZERO,
            blackouts: Vec::new(),
            in_blackout: InBlackout::Postpone,
        };
        let hosts = Vec::new();
        Job { key: "nightly/chat".to_owned(), action: Action::Sweep, calendar, catch_up, timeout: Span::seconds(60), retries: 1, hosts }
    }
    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn after_a_week_down_a_job_runs_once_or_not_at_all_as_configured() {
        let (down, up) = (at("2026-11-17T03:30Z"), at("2026-11-24T09:00Z"));
        let once = job("0 3 * * *", CatchUp::Once).plan(down, up);
        assert_eq!((once.waiting.len(), once.passed.len(), once.unlisted), (1, 6, 0));
        assert_eq!(once.waiting[0].nominal, at("2026-11-24T03:00Z"), "the newest");
        assert!(once.passed.iter().all(|(_, fate)| *fate == Fate::Covered));
        let skip = job("0 3 * * *", CatchUp::Skip(Span::seconds(3_600))).plan(down, up);
        assert_eq!((skip.waiting.len(), skip.passed.len()), (0, 7));
        assert!(skip.passed.iter().all(|(_, fate)| *fate == Fate::Missed));
        // In time nothing is passed over.
        let soon = job("0 3 * * *", CatchUp::Once).plan(at("2026-11-24T02:59Z"), at("2026-11-24T03:00Z"));
        assert_eq!((soon.waiting.len(), soon.passed.len(), soon.until), (1, 0, at("2026-11-24T03:00Z")));
    }

    #[test]
    fn years_down_are_counted_and_not_listed() {
        let planned = job("*/5 * * * *", CatchUp::Once).plan(at("2026-01-01T00:00Z"), at("2026-02-01T00:00Z"));
        assert_eq!(planned.waiting.len() + planned.passed.len(), TICKS_PLANNED_MAX);
        assert_eq!(planned.unlisted + TICKS_PLANNED_MAX, 31 * 288);
    }

    #[test]
    fn waiting_grows_to_an_hour() {
        let minutes: Vec<u64> = (1..9).map(|n| backoff(n).as_secs() / 60).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }

    proptest! {
        /// However often and whenever one looks, each tick is decided exactly once, in order.
        #[test]
        fn each_tick_is_decided_once(looks in proptest::collection::vec(1..200_000i64, 1..30), which in 0..3usize) {
            let job = job(["0 3 * * *", "*/30 * * * *", "0 0 1 * *"][which], CatchUp::Once);
            let begin = at("2026-01-01T00:00Z");
            let (mut since, mut now, mut decided) = (begin, begin, 0);
            for step in looks {
                now += SignedDuration::from_secs(step);
                let planned = job.plan(since, now);
                prop_assert!(planned.until >= since && planned.until <= now);
                prop_assert!(planned.waiting.iter().all(|tick| tick.nominal > since));
                decided += planned.waiting.len() + planned.passed.len() + planned.unlisted;
                since = planned.until;
            }
            let (mut here, mut all) = (begin, 0);
            while let Some(next) = job.calendar.next_nominal(here).filter(|next| *next <= now) {
                (here, all) = (next, all + 1);
            }
            prop_assert_eq!(decided, all);
        }
    }
}

//! Jobs: what the scheduler runs, and the decisions about it that need neither clock nor disk.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::calendar::{Calendar, Tick};
use super::human_duration::HumanDuration;
use super::id::DatastoreName;

/// Ticks of one job that are looked at in one go after a long time down. Older ones are counted,
/// not listed.
pub const TICKS_PLANNED_MAX: usize = 500;
/// A tick that is noticed this much after it was due was missed while nobody ran.
pub const LATE: SignedDuration = SignedDuration::from_mins(10);
const BACKOFF_FIRST: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(3_600);

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobAction {
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
pub enum CatchUpPolicy {
    /// One run covers all of them.
    Once,
    /// Those later than this are reported as missed.
    Skip(HumanDuration),
}

/// Something that runs by a calendar.
#[derive(Debug, Clone)]
pub struct Job {
    /// `schedule/datastore`, `drill/name`: the same on every host.
    pub key: String,
    /// What it does.
    pub action: JobAction,
    /// When.
    pub calendar: Calendar,
    /// What becomes of ticks that were missed.
    pub catch_up: CatchUpPolicy,
    /// How long one attempt may take.
    pub timeout: HumanDuration,
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
            JobAction::Backup(datastore) => subject_of(datastore),
            JobAction::Drill(name) => format!("drill/{name}"),
            JobAction::Verify(_) => format!("verify/{}", self.key),
            JobAction::Copy(vault) => format!("copy/{vault}"),
            JobAction::Prune => "prune".to_owned(),
            JobAction::Sweep => "sweep".to_owned(),
            JobAction::Heartbeat => format!("heartbeat/{}", self.key),
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
            JobAction::Backup(datastore) => format!("backup {datastore}"),
            JobAction::Drill(name) => format!("drill {name}"),
            JobAction::Verify(count) => format!("verify {count} backups"),
            JobAction::Copy(vault) => format!("copy to {vault}"),
            JobAction::Prune => "prune".to_owned(),
            JobAction::Sweep => "sweep".to_owned(),
            JobAction::Heartbeat => "heartbeat".to_owned(),
        }
    }

    /// What is to be done about every tick after `since`, up to `now`.
    #[must_use]
    pub fn plan(&self, since: Timestamp, now: Timestamp) -> PlannedTicks {
        let mut planned =
            PlannedTicks { waiting: Vec::new(), passed: Vec::new(), until: since, unlisted: 0 };
        let mut ticks = std::collections::VecDeque::new();
        let mut here = since;
        while let Some(nominal) = self.calendar.next_nominal(here).filter(|nominal| *nominal <= now)
        {
            here = nominal;
            planned.until = nominal;
            ticks.push_back(nominal);
            if ticks.len() > TICKS_PLANNED_MAX {
                ticks.pop_front();
                planned.unlisted += 1;
            }
        }
        let ticks: Vec<Tick> =
            ticks.into_iter().map(|nominal| self.calendar.tick(&self.key, nominal)).collect();
        let late = |tick: &Tick| tick.due.is_some_and(|due| now.duration_since(due) > LATE);
        let last_late = ticks.iter().rev().find(|tick| late(tick)).map(|tick| tick.nominal);
        for tick in ticks {
            let fate = match (tick.due, self.catch_up) {
                (None, _) => SkipReason::LeftOut,
                (Some(due), CatchUpPolicy::Skip(within))
                    if now.duration_since(due) > longer(within) =>
                {
                    SkipReason::Missed
                }
                (Some(_), CatchUpPolicy::Once)
                    if late(&tick) && Some(tick.nominal) != last_late =>
                {
                    SkipReason::Covered
                }
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

fn longer(within: HumanDuration) -> SignedDuration {
    SignedDuration::try_from(within.duration()).unwrap_or(SignedDuration::MAX)
}

/// The subject of everything that touches a datastore's backups.
#[must_use]
pub fn subject_of(datastore: &DatastoreName) -> String {
    format!("datastore/{datastore}")
}

/// What is to be done about a job's ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTicks {
    /// To be run when they are due.
    pub waiting: Vec<Tick>,
    /// Not to be run, and why.
    pub passed: Vec<(Tick, SkipReason)>,
    /// The last tick that was looked at.
    pub until: Timestamp,
    /// How many more there were before the listed ones: missed, and covered or not.
    pub unlisted: usize,
}

/// Why a tick is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// Nobody ran in time, and the job does not catch up.
    Missed,
    /// Nobody ran in time; the run of a later tick covers it.
    Covered,
    /// A blackout window leaves it out.
    LeftOut,
}

/// How long to wait before an attempt, counted from 1 for the first repetition: a minute, two,
/// four, up to an hour.
#[must_use]
pub fn backoff(repetition: u32) -> Duration {
    BACKOFF_FIRST
        .saturating_mul(1_u32.checked_shl(repetition.saturating_sub(1)).unwrap_or(u32::MAX))
        .min(BACKOFF_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::calendar::{InBlackout, RecurrencePattern, TimeZoneName};
    use proptest::prelude::*;

    fn job(cron: &str, catch_up: CatchUpPolicy) -> Job {
        let calendar = Calendar {
            pattern: RecurrencePattern::Cron(cron.parse().unwrap()),
            zone: TimeZoneName::utc(),
            jitter: Duration::ZERO,
            blackouts: Vec::new(),
            in_blackout: InBlackout::Postpone,
        };
        let hosts = Vec::new();
        Job {
            key: "nightly/chat".to_owned(),
            action: JobAction::Sweep,
            calendar,
            catch_up,
            timeout: HumanDuration::seconds(60),
            retries: 1,
            hosts,
        }
    }
    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn after_a_week_down_a_job_runs_once_or_not_at_all_as_configured() {
        let (down, up) = (at("2026-11-17T03:30Z"), at("2026-11-24T09:00Z"));
        let once = job("0 3 * * *", CatchUpPolicy::Once).plan(down, up);
        assert_eq!((once.waiting.len(), once.passed.len(), once.unlisted), (1, 6, 0));
        assert_eq!(once.waiting[0].nominal, at("2026-11-24T03:00Z"), "the newest");
        assert!(once.passed.iter().all(|(_, fate)| *fate == SkipReason::Covered));
        let skip =
            job("0 3 * * *", CatchUpPolicy::Skip(HumanDuration::seconds(3_600))).plan(down, up);
        assert_eq!((skip.waiting.len(), skip.passed.len()), (0, 7));
        assert!(skip.passed.iter().all(|(_, fate)| *fate == SkipReason::Missed));
        // In time nothing is passed over.
        let soon = job("0 3 * * *", CatchUpPolicy::Once)
            .plan(at("2026-11-24T02:59Z"), at("2026-11-24T03:00Z"));
        assert_eq!(
            (soon.waiting.len(), soon.passed.len(), soon.until),
            (1, 0, at("2026-11-24T03:00Z"))
        );
    }

    #[test]
    fn years_down_are_counted_and_not_listed() {
        let planned = job("*/5 * * * *", CatchUpPolicy::Once)
            .plan(at("2026-01-01T00:00Z"), at("2026-02-01T00:00Z"));
        assert_eq!(planned.waiting.len() + planned.passed.len(), TICKS_PLANNED_MAX);
        assert_eq!(planned.unlisted + TICKS_PLANNED_MAX, 31 * 288);
    }

    #[test]
    fn waiting_grows_to_an_hour() {
        let minutes: Vec<u64> = (1..9).map(|n| backoff(n).as_secs() / 60).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);
    }

    fn hourly(catch_up: CatchUpPolicy) -> Job {
        job("0 * * * *", catch_up)
    }
    fn of(action: JobAction) -> Job {
        Job { action, ..hourly(CatchUpPolicy::Once) }
    }
    /// `HH:MM` of what waits, and of what does not with its fate.
    fn shown(planned: &PlannedTicks) -> (Vec<String>, Vec<(String, SkipReason)>) {
        let time = |tick: &Tick| tick.nominal.strftime("%H:%M").to_string();
        (
            planned.waiting.iter().map(time).collect(),
            planned.passed.iter().map(|(tick, fate)| (time(tick), *fate)).collect(),
        )
    }
    fn fates(times: &[&str], fate: SkipReason) -> Vec<(String, SkipReason)> {
        times.iter().map(|time| ((*time).to_owned(), fate)).collect()
    }

    #[test]
    fn a_job_says_in_a_few_words_what_it_does_and_what_it_holds_meanwhile() {
        for (action, said, subject) in [
            (JobAction::Backup("chat".parse().unwrap()), "backup chat", "datastore/chat"),
            (JobAction::Drill("region".to_owned()), "drill region", "drill/region"),
            (JobAction::Verify(3), "verify 3 backups", "verify/nightly/chat"),
            (JobAction::Copy("west".to_owned()), "copy to west", "copy/west"),
            (JobAction::Prune, "prune", "prune"),
            (JobAction::Sweep, "sweep", "sweep"),
            (JobAction::Heartbeat, "heartbeat", "heartbeat/nightly/chat"),
        ] {
            let job = of(action);
            assert_eq!((job.describe().as_str(), job.subject().as_str()), (said, subject));
        }
    }

    #[test]
    fn a_backup_by_hand_and_one_by_schedule_hold_the_same_datastore() {
        let chat = "chat".parse().unwrap();
        assert_eq!(subject_of(&chat), of(JobAction::Backup(chat.clone())).subject());
        assert_ne!(subject_of(&chat), subject_of(&"mail".parse().unwrap()));
    }

    #[test]
    fn a_job_runs_on_the_hosts_it_names_and_on_all_if_it_names_none() {
        let on = |hosts: &[&str]| Job {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..hourly(CatchUpPolicy::Once)
        };
        for (hosts, allowed) in [
            (&[][..], true),
            (&["one"], true),
            (&["two", "one"], true),
            (&["two"], false),
            (&["one-b", "on"], false),
        ] {
            assert_eq!(on(hosts).may_run_on("one"), allowed, "{hosts:?}");
        }
    }

    #[test]
    fn a_tick_is_decided_from_the_moment_it_is_there_and_not_again() {
        let job = hourly(CatchUpPolicy::Once);
        for (since, now, expected) in [
            ("2026-11-24T03:00:00Z", "2026-11-24T03:59:59Z", &[][..]),
            ("2026-11-24T03:00:00Z", "2026-11-24T04:00:00Z", &["04:00"]),
            ("2026-11-24T02:59:59Z", "2026-11-24T03:00:00Z", &["03:00"]),
            ("2026-11-24T04:00:00Z", "2026-11-24T03:00:00Z", &[]),
        ] {
            let planned = job.plan(at(since), at(now));
            assert_eq!(
                shown(&planned),
                (expected.iter().map(|time| (*time).to_owned()).collect(), vec![]),
                "{since} to {now}"
            );
            assert_eq!(planned.until, if expected.is_empty() { at(since) } else { at(now) });
        }
    }

    #[test]
    fn a_tick_that_is_no_more_than_ten_minutes_late_runs_beside_the_run_that_catches_up() {
        let since = at("2026-11-24T00:30Z");
        let once = |now: &str| shown(&hourly(CatchUpPolicy::Once).plan(since, at(now)));
        let waiting = |times: &[&str]| -> Vec<String> {
            times.iter().map(|time| (*time).to_owned()).collect()
        };
        // 04:00 is ten minutes late: not yet missed, so 03:00 covers what was missed, and 04:00
        // runs for itself.
        assert_eq!(
            once("2026-11-24T04:10:00Z"),
            (waiting(&["03:00", "04:00"]), fates(&["01:00", "02:00"], SkipReason::Covered))
        );
        assert_eq!(
            once("2026-11-24T04:10:01Z"),
            (waiting(&["04:00"]), fates(&["01:00", "02:00", "03:00"], SkipReason::Covered))
        );
    }

    #[test]
    fn a_job_that_does_not_catch_up_runs_what_is_within_its_time_and_reports_the_rest_as_missed() {
        let (since, now) = (at("2026-11-24T00:30Z"), at("2026-11-24T04:30Z"));
        for (within, missed, waiting) in [
            (HumanDuration::seconds(0), &["01:00", "02:00", "03:00", "04:00"][..], &[][..]),
            (HumanDuration::seconds(1_799), &["01:00", "02:00", "03:00", "04:00"], &[]),
            (HumanDuration::seconds(1_800), &["01:00", "02:00", "03:00"], &["04:00"]),
            (HumanDuration::seconds(9_000), &["01:00"], &["02:00", "03:00", "04:00"]),
            (HumanDuration::seconds(u64::MAX), &[], &["01:00", "02:00", "03:00", "04:00"]),
        ] {
            let waiting = waiting.iter().map(|time| (*time).to_owned()).collect();
            assert_eq!(
                shown(&hourly(CatchUpPolicy::Skip(within)).plan(since, now)),
                (waiting, fates(missed, SkipReason::Missed)),
                "{within}"
            );
        }
    }

    #[test]
    fn lateness_counts_from_when_a_tick_was_due_and_not_from_its_nominal_time() {
        let mut job = hourly(CatchUpPolicy::Skip(HumanDuration::seconds(600)));
        job.calendar.blackouts = vec!["01:30-03:30".parse().unwrap()];
        // 02:00 and 03:00 are put off to 03:30.
        let planned = job.plan(at("2026-11-24T00:30Z"), at("2026-11-24T03:40Z"));
        assert_eq!(
            shown(&planned),
            (vec!["02:00".to_owned(), "03:00".to_owned()], fates(&["01:00"], SkipReason::Missed))
        );
        assert!(planned.waiting.iter().all(|tick| tick.due == Some(at("2026-11-24T03:30Z"))));
    }

    #[test]
    fn what_a_blackout_leaves_out_is_neither_missed_nor_caught_up() {
        for catch_up in [CatchUpPolicy::Once, CatchUpPolicy::Skip(HumanDuration::seconds(1_800))] {
            let mut job = hourly(catch_up);
            job.calendar.blackouts = vec!["01:30-04:30".parse().unwrap()];
            job.calendar.in_blackout = InBlackout::Skip;
            let planned = job.plan(at("2026-11-24T01:30Z"), at("2026-11-24T05:20Z"));
            assert_eq!(
                shown(&planned),
                (
                    vec!["05:00".to_owned()],
                    fates(&["02:00", "03:00", "04:00"], SkipReason::LeftOut)
                ),
                "{catch_up:?}"
            );
            assert_eq!(planned.until, at("2026-11-24T05:00Z"));
        }
    }

    #[test]
    fn the_newest_ticks_are_the_ones_that_are_listed() {
        let begin = at("2026-11-01T00:00Z");
        let after = |hours: i64| {
            hourly(CatchUpPolicy::Once).plan(begin, begin + SignedDuration::from_hours(hours))
        };
        let most = i64::try_from(TICKS_PLANNED_MAX).unwrap();
        for (hours, unlisted) in [(most, 0), (most + 1, 1), (most + 3, 3)] {
            let planned = after(hours);
            assert_eq!(
                (planned.unlisted, planned.waiting.len(), planned.passed.len()),
                (unlisted, 2, TICKS_PLANNED_MAX - 2)
            );
            assert_eq!(planned.until, begin + SignedDuration::from_hours(hours));
            assert_eq!(
                planned.passed[0].0.nominal,
                begin + SignedDuration::from_hours(1 + i64::try_from(unlisted).unwrap())
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// However often and whenever one looks, each tick is decided exactly once, in order.
        #[test]
        fn each_tick_is_decided_once(looks in proptest::collection::vec(1..200_000i64, 1..30), which in 0..3usize) {
            let job = job(["0 3 * * *", "*/30 * * * *", "0 0 1 * *"][which], CatchUpPolicy::Once);
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

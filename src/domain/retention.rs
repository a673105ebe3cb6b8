//! Retention: which backups are kept, and why. A pure function from policies and facts to a plan
//! that explains each decision.
//!
//! Grandfather-father-son: of each of the last `daily` days that have a backup the newest one is
//! kept, and so on for hours, weeks, months and years, by the calendar of a time zone. Whatever the
//! policy says, some are never removed: the newest ones up to a floor, the last one that a drill
//! restored and passed, what is held, locked, in use, or would be paid for anyway. A
//! [`PlannedRemoval`] is made only here, so nothing else can be deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::calendar::TimeZoneName;
use super::human_duration::format_duration;
use super::id::{BackupId, DatastoreName};

/// Kinds of period of which one backup each is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeptPeriod {
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week from Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl KeptPeriod {
    /// All of them, with their names in `[keep]`.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Hour, "hourly"),
        (Self::Day, "daily"),
        (Self::Week, "weekly"),
        (Self::Month, "monthly"),
        (Self::Year, "yearly"),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(every, _)| *every == self).map_or("", |(_, name)| name)
    }

    /// The period a time is in: its first day, and its hour where that matters.
    fn period(self, time: Timestamp, zone: &TimeZoneName) -> (Date, i64) {
        let local = zone.zone().to_datetime(time);
        let date = local.date();
        match self {
            // By the clock that never is set: an hour that exists twice is two hours.
            Self::Hour => (date, time.as_second().div_euclid(3_600)),
            Self::Day => (date, 0),
            Self::Week => {
                let back = i64::from(date.weekday().to_monday_zero_offset());
                (date.checked_sub(SignedDuration::from_hours(24 * back)).unwrap_or(date), 0)
            }
            Self::Month => (date.first_of_month(), 0),
            Self::Year => (date.first_of_year(), 0),
        }
    }
}

/// How long backups are kept.
#[derive(Debug, Clone)]
pub struct RetentionPolicy {
    /// Whose days and weeks.
    pub zone: TimeZoneName,
    /// Of how many periods of each kind one backup is kept.
    pub counts: BTreeMap<KeptPeriod, usize>,
    /// So many of the newest are kept whatever else is said.
    pub at_least: usize,
    /// Everything younger is kept.
    pub all_within: Option<Duration>,
    /// Nothing older is kept, but for the floor and what is never removed.
    pub not_older_than: Option<Duration>,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            zone: TimeZoneName::utc(),
            counts: BTreeMap::new(),
            at_least: 2,
            all_within: None,
            not_older_than: None,
        }
    }
}

/// A backup and what keeps it from being removed.
#[derive(Debug, Clone)]
pub struct RetentionCandidate {
    /// The backup.
    pub backup: BackupId,
    /// Its number.
    pub sequence: u64,
    /// When its snapshot was taken.
    pub taken: Timestamp,
    /// Bytes it takes in the vault.
    pub bytes: u64,
    /// Whether it was found damaged, and not found whole since.
    pub damaged: bool,
    /// Why it must not go, beside what the policy says: each in words.
    pub guards: Vec<RemovalGuard>,
}

impl RetentionCandidate {
    /// Whether it takes a place of what is to be kept. One that cannot be relied upon is kept for
    /// what it is, and no other goes for it.
    fn counts(&self, now: Timestamp) -> bool {
        self.taken <= now && !self.damaged
    }
}

/// Why a backup must not be removed now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemovalGuard {
    /// It is the last that a drill restored and passed.
    LastDrilled,
    /// Somebody holds it, and says why.
    Held(String),
    /// A run is reading it.
    InUse(String),
    /// The store locks it until then.
    Locked(Timestamp),
    /// Its class is paid for until then.
    PaidUntil(Timestamp),
    /// Another backup has its number: nobody knows which of them is the newer one.
    SameNumber(BackupId),
}

impl RemovalGuard {
    fn why(&self) -> String {
        match self {
            Self::LastDrilled => "the last one that a drill restored and passed".to_owned(),
            Self::Held(reason) => format!("held: {reason}"),
            Self::InUse(by) => format!("in use: {by}"),
            Self::Locked(until) => {
                format!("locked by the store until {}", until.strftime("%Y-%m-%d %H:%M UTC"))
            }
            Self::PaidUntil(until) => {
                format!("its storage class is paid for until {}", until.strftime("%Y-%m-%d"))
            }
            Self::SameNumber(other) => {
                format!("backup {other} has the same number, which somebody must explain")
            }
        }
    }
}

/// What becomes of a backup, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionDecision {
    /// The backup.
    pub backup: BackupId,
    /// When its snapshot was taken.
    pub taken: Timestamp,
    /// Bytes it takes in the vault.
    pub bytes: u64,
    /// Whether it stays.
    pub keep: bool,
    /// Every reason for which it stays; or the one for which it goes.
    pub reasons: Vec<String>,
}

/// A backup that may be removed. Made only by [`plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRemoval {
    datastore: DatastoreName,
    backup: BackupId,
    sequence: u64,
    reason: String,
}

impl PlannedRemoval {
    /// The datastore.
    #[must_use]
    pub fn datastore(&self) -> &DatastoreName {
        &self.datastore
    }
    /// The backup.
    #[must_use]
    pub fn backup(&self) -> &BackupId {
        &self.backup
    }
    /// Its number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
    /// Why it goes.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// What becomes of a datastore's backups.
#[derive(Debug, Clone, Serialize)]
pub struct RetentionPlan {
    /// The datastore.
    pub datastore: DatastoreName,
    /// One decision for each backup, the newest first.
    pub decisions: Vec<RetentionDecision>,
    #[serde(skip)]
    removals: Vec<PlannedRemoval>,
}

impl RetentionPlan {
    /// What may be removed, the oldest first.
    #[must_use]
    pub fn removals(&self) -> &[PlannedRemoval] {
        &self.removals
    }
}

/// Decides. Without a policy everything is kept; with several, whatever one of them keeps.
#[must_use]
pub fn plan(
    datastore: &DatastoreName,
    policies: &[RetentionPolicy],
    candidates: &[RetentionCandidate],
    now: Timestamp,
) -> RetentionPlan {
    let mut newest_first: Vec<&RetentionCandidate> = candidates.iter().collect();
    // By the signed number: one backup taken under a wrong clock must not make others look older
    // than they are.
    newest_first
        .sort_by(|a, b| (b.sequence, b.taken, &b.backup).cmp(&(a.sequence, a.taken, &a.backup)));
    let counted: Vec<&RetentionCandidate> =
        newest_first.iter().copied().filter(|candidate| candidate.counts(now)).collect();
    let kept: Vec<BTreeMap<BackupId, Vec<String>>> =
        policies.iter().map(|policy| kept_by(policy, &counted, now)).collect();
    let with_damaged: Vec<&RetentionCandidate> =
        newest_first.iter().copied().filter(|candidate| candidate.taken <= now).collect();
    let as_if_whole: BTreeSet<BackupId> = policies
        .iter()
        .flat_map(|policy| kept_by(policy, &with_damaged, now).into_keys())
        .collect();
    let floor = policies.iter().map(|policy| policy.at_least).max().unwrap_or(usize::MAX).max(1);
    let mut plan =
        RetentionPlan { datastore: datastore.clone(), decisions: Vec::new(), removals: Vec::new() };
    // Hosts that do not see each other's numbers may count behind each other: what is newest by its
    // time stays as well.
    let mut by_time: Vec<&RetentionCandidate> =
        newest_first.iter().copied().filter(|candidate| candidate.counts(now)).collect();
    by_time.sort_by_key(|candidate| std::cmp::Reverse((candidate.taken, candidate.sequence)));
    let newest_by_time: BTreeSet<BackupId> =
        by_time.into_iter().take(floor).map(|candidate| candidate.backup.clone()).collect();
    let mut rank = 0;
    for candidate in newest_first {
        let mut reasons: BTreeSet<String> =
            kept.iter().filter_map(|kept| kept.get(&candidate.backup)).flatten().cloned().collect();
        if policies.is_empty() {
            reasons.insert("no schedule says how long".to_owned());
        } else if candidate.counts(now)
            && (rank < floor || newest_by_time.contains(&candidate.backup))
        {
            reasons.insert(format!("one of the newest {floor}"));
        }
        // It is kept for what it is, and takes no place of another.
        if candidate.taken > now {
            reasons.insert("its time lies in the future".to_owned());
        }
        if candidate.damaged && as_if_whole.contains(&candidate.backup) {
            reasons.insert(
                "found damaged: it would be kept if it were whole, and takes no place of another"
                    .to_owned(),
            );
        }
        if candidate.damaged && counted.len() < floor {
            reasons.insert(format!(
                "found damaged, and fewer than {floor} are whole: what is left of it may be needed"
            ));
        }
        rank += usize::from(candidate.counts(now));
        reasons.extend(candidate.guards.iter().map(RemovalGuard::why));
        let keep = !reasons.is_empty();
        let reasons = if keep {
            reasons.into_iter().collect()
        } else {
            vec![why_not(policies, candidate, now)]
        };
        if !keep {
            plan.removals.insert(
                0,
                PlannedRemoval {
                    datastore: datastore.clone(),
                    backup: candidate.backup.clone(),
                    sequence: candidate.sequence,
                    reason: reasons.join(", "),
                },
            );
        }
        plan.decisions.push(RetentionDecision {
            backup: candidate.backup.clone(),
            taken: candidate.taken,
            bytes: candidate.bytes,
            keep,
            reasons,
        });
    }
    plan
}

fn age(candidate: &RetentionCandidate, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(candidate.taken)).unwrap_or_default()
}

/// What one policy keeps, and for which reasons.
fn kept_by(
    policy: &RetentionPolicy,
    newest_first: &[&RetentionCandidate],
    now: Timestamp,
) -> BTreeMap<BackupId, Vec<String>> {
    let mut kept: BTreeMap<BackupId, Vec<String>> = BTreeMap::new();
    let is_young = |candidate: &&&RetentionCandidate| {
        policy.not_older_than.is_none_or(|oldest| age(candidate, now) <= oldest)
    };
    let young: Vec<&&RetentionCandidate> = newest_first.iter().filter(is_young).collect();
    let mut keep = |candidate: &RetentionCandidate, reason: String| {
        kept.entry(candidate.backup.clone()).or_default().push(reason)
    };
    for (every, count) in &policy.counts {
        let mut periods = BTreeSet::new();
        for candidate in &young {
            let period = every.period(candidate.taken, &policy.zone);
            if periods.len() < *count && periods.insert(period) {
                keep(candidate, format!("{} {} of {count}", every.name(), periods.len()));
            }
        }
    }
    for candidate in &young {
        if let Some(within) = policy.all_within.filter(|within| age(candidate, now) <= *within) {
            keep(candidate, format!("younger than {}", format_duration(within)));
        }
        // An age limit alone keeps everything until then.
        if let (Some(oldest), None, true) = (
            policy.not_older_than,
            policy.all_within,
            policy.counts.values().all(|count| *count == 0),
        ) {
            keep(candidate, format!("not older than {}", format_duration(oldest)));
        }
    }
    kept
}

fn why_not(policies: &[RetentionPolicy], candidate: &RetentionCandidate, now: Timestamp) -> String {
    let limit = policies.iter().filter_map(|policy| policy.not_older_than).max();
    match limit.filter(|limit| age(candidate, now) > *limit) {
        Some(limit) => format!("older than {}", format_duration(limit)),
        None => "no rule keeps it".to_owned(),
    }
}

/// Days for which a storage class is paid for at least.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-class-intro.html>
#[must_use]
pub fn minimum_days(class: &str) -> i64 {
    match class {
        "STANDARD_IA" | "ONEZONE_IA" => 30,
        "GLACIER_IR" | "GLACIER" => 90,
        "DEEP_ARCHIVE" => 180,
        _ => 0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: usize, taken: Timestamp) -> BackupId {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let tail: String =
            (0..6).map(|place| char::from(letters[(number / 26_usize.pow(place)) % 26])).collect();
        format!("{}-{tail}", taken.strftime("%Y%m%dT%H%M%SZ")).parse().unwrap()
    }
    fn candidate(number: usize, taken: Timestamp, guards: Vec<RemovalGuard>) -> RetentionCandidate {
        // The first is the newest.
        RetentionCandidate {
            backup: id(number, taken),
            sequence: sequence(number),
            taken,
            bytes: 1,
            damaged: false,
            guards,
        }
    }
    fn sequence(number: usize) -> u64 {
        1_000 - number as u64
    }
    fn store() -> DatastoreName {
        "chat".parse().unwrap()
    }

    #[test]
    fn each_decision_is_explained() {
        let now: Timestamp = "2026-11-24T10:00Z".parse().unwrap();
        let nights: Vec<RetentionCandidate> = (0..60)
            .map(|day| {
                candidate(day, now - SignedDuration::from_hours(24 * day as i64 + 7), Vec::new())
            })
            .collect();
        let policy = RetentionPolicy {
            counts: [(KeptPeriod::Day, 3), (KeptPeriod::Week, 2), (KeptPeriod::Month, 2)].into(),
            ..RetentionPolicy::default()
        };
        let plan = plan(&store(), &[policy], &nights, now);
        let kept: Vec<String> = plan
            .decisions
            .iter()
            .filter(|d| d.keep)
            .map(|d| format!("{} {}", d.taken.strftime("%m-%d"), d.reasons.join("; ")))
            .collect();
        assert_eq!(
            kept,
            [
                "11-24 daily 1 of 3; monthly 1 of 2; one of the newest 2; weekly 1 of 2",
                "11-23 daily 2 of 3; one of the newest 2",
                "11-22 daily 3 of 3; weekly 2 of 2",
                "10-31 monthly 2 of 2"
            ]
        );
        assert_eq!(plan.removals().len(), 56);
        assert_eq!(plan.removals()[0].reason(), "no rule keeps it");
    }

    #[test]
    fn guards_and_floor_outweigh_every_rule() {
        let now: Timestamp = "2026-11-24T10:00Z".parse().unwrap();
        let old = |number: usize, guards: Vec<RemovalGuard>| {
            candidate(number, now - SignedDuration::from_hours(24 * 400 + number as i64), guards)
        };
        let all = [
            old(0, vec![]),
            old(1, vec![]),
            old(2, vec![RemovalGuard::LastDrilled]),
            old(3, vec![RemovalGuard::Held("case 17".to_owned())]),
            old(4, vec![RemovalGuard::InUse("drill nightly".to_owned())]),
            old(5, vec![RemovalGuard::Locked(now)]),
            old(6, vec![RemovalGuard::PaidUntil(now)]),
            old(7, vec![]),
        ];
        let policy = RetentionPolicy {
            not_older_than: Some(Duration::from_secs(86_400)),
            at_least: 2,
            ..RetentionPolicy::default()
        };
        let plan = plan(&store(), &[policy], &all, now);
        let gone: Vec<u64> = plan.removals().iter().map(PlannedRemoval::sequence).collect();
        assert_eq!(gone, [sequence(7)]);
        assert_eq!(plan.removals()[0].reason(), "older than 24 h 0 min");
        assert!(
            super::plan(&store(), &[], &all, now).removals().is_empty(),
            "without a policy everything is kept"
        );
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * 86_400)
    }

    /// A policy without a floor but for the one backup that is always kept.
    fn only(counts: &[(KeptPeriod, usize)]) -> RetentionPolicy {
        RetentionPolicy {
            counts: counts.iter().copied().collect(),
            at_least: 1,
            ..RetentionPolicy::default()
        }
    }

    /// Reasons of the backups in the order in which they are given.
    fn reasons(
        policies: &[RetentionPolicy],
        all: &[RetentionCandidate],
        now: Timestamp,
    ) -> Vec<String> {
        let plan = plan(&store(), policies, all, now);
        let of = |c: &RetentionCandidate| {
            plan.decisions
                .iter()
                .find(|d| d.backup == c.backup)
                .map(|d| d.reasons.join("; "))
                .unwrap()
        };
        all.iter().map(of).collect()
    }

    #[test]
    fn two_backups_share_a_period_only_if_the_calendar_of_the_zone_says_so() {
        let now = at("2027-02-01T00:00Z");
        for (every, zone, older, newer, same) in [
            (KeptPeriod::Hour, "UTC", "2026-11-24T09:00:00Z", "2026-11-24T09:59:59Z", true),
            (KeptPeriod::Hour, "UTC", "2026-11-24T09:59:59Z", "2026-11-24T10:00:00Z", false),
            (KeptPeriod::Hour, "UTC", "2026-11-23T09:30:00Z", "2026-11-24T09:30:00Z", false),
            // 02:30 by the wall clock, before and after it is set back.
            (
                KeptPeriod::Hour,
                "Europe/Berlin",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:30:00Z",
                false,
            ),
            (KeptPeriod::Day, "UTC", "2026-11-24T00:00:00Z", "2026-11-24T23:59:59Z", true),
            (KeptPeriod::Day, "UTC", "2026-11-24T23:59:59Z", "2026-11-25T00:00:00Z", false),
            (
                KeptPeriod::Day,
                "Europe/Berlin",
                "2026-11-24T22:59:59Z",
                "2026-11-24T23:00:00Z",
                false,
            ),
            (
                KeptPeriod::Day,
                "Europe/Berlin",
                "2026-11-24T23:00:00Z",
                "2026-11-25T22:59:59Z",
                true,
            ),
            // 2026-11-23 is a Monday.
            (KeptPeriod::Week, "UTC", "2026-11-23T00:00:00Z", "2026-11-29T23:59:59Z", true),
            (KeptPeriod::Week, "UTC", "2026-11-22T23:59:59Z", "2026-11-23T00:00:00Z", false),
            (KeptPeriod::Week, "UTC", "2026-12-31T12:00:00Z", "2027-01-01T12:00:00Z", true),
            (KeptPeriod::Week, "UTC", "2026-11-18T12:00:00Z", "2026-11-25T12:00:00Z", false),
            (KeptPeriod::Month, "UTC", "2026-11-01T00:00:00Z", "2026-11-30T23:59:59Z", true),
            (KeptPeriod::Month, "UTC", "2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z", false),
            (KeptPeriod::Month, "UTC", "2025-11-15T12:00:00Z", "2026-11-15T12:00:00Z", false),
            (KeptPeriod::Year, "UTC", "2026-01-01T00:00:00Z", "2026-12-31T23:59:59Z", true),
            (KeptPeriod::Year, "UTC", "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z", false),
            (
                KeptPeriod::Year,
                "Pacific/Auckland",
                "2026-12-31T10:59:59Z",
                "2026-12-31T11:00:00Z",
                false,
            ),
        ] {
            let policy = RetentionPolicy { zone: zone.parse().unwrap(), ..only(&[(every, 9)]) };
            let all = [candidate(1, at(older), vec![]), candidate(0, at(newer), vec![])];
            let gone: Vec<u64> = plan(&store(), &[policy], &all, now)
                .removals()
                .iter()
                .map(PlannedRemoval::sequence)
                .collect();
            assert_eq!(
                gone,
                if same { vec![sequence(1)] } else { vec![] },
                "{every:?} of {older} and {newer} in {zone}"
            );
        }
    }

    #[test]
    fn an_age_limit_includes_its_last_second() {
        let now = at("2026-11-24T10:00Z");
        let all: Vec<RetentionCandidate> = [0, 10 * 86_400, 10 * 86_400 + 1]
            .into_iter()
            .enumerate()
            .map(|(number, age)| candidate(number, now - SignedDuration::from_secs(age), vec![]))
            .collect();
        let limit = RetentionPolicy { not_older_than: Some(days(10)), ..only(&[]) };
        let within = RetentionPolicy { all_within: Some(days(10)), ..only(&[]) };
        let (floor, gone) = ("one of the newest 1", "older than 10 d 0 h");
        for (policy, expected) in [
            (
                limit.clone(),
                [&format!("not older than 10 d 0 h; {floor}"), "not older than 10 d 0 h", gone],
            ),
            (
                within.clone(),
                [
                    &format!("{floor}; younger than 10 d 0 h"),
                    "younger than 10 d 0 h",
                    "no rule keeps it",
                ],
            ),
            // A limit beside a rule of periods keeps nothing by itself, and one that counts no
            // period is no such rule.
            (
                RetentionPolicy { counts: [(KeptPeriod::Year, 1)].into(), ..limit.clone() },
                [&format!("{floor}; yearly 1 of 1"), "no rule keeps it", gone],
            ),
            (
                RetentionPolicy { counts: [(KeptPeriod::Year, 0)].into(), ..limit.clone() },
                [&format!("not older than 10 d 0 h; {floor}"), "not older than 10 d 0 h", gone],
            ),
            // Nor beside one that keeps everything young.
            (
                RetentionPolicy { all_within: Some(days(1)), ..limit },
                [&format!("{floor}; younger than 24 h 0 min"), "no rule keeps it", gone],
            ),
            // Periods reach only as far back as the limit.
            (
                RetentionPolicy { not_older_than: Some(days(9)), ..only(&[(KeptPeriod::Day, 9)]) },
                [&format!("daily 1 of 9; {floor}"), "older than 9 d 0 h", "older than 9 d 0 h"],
            ),
        ] {
            assert_eq!(reasons(std::slice::from_ref(&policy), &all, now), expected, "{policy:?}");
        }
    }

    #[test]
    fn one_policy_of_several_is_enough_to_keep_a_backup() {
        let now = at("2026-11-24T10:00Z");
        let all: Vec<RetentionCandidate> = (0..5)
            .map(|week| {
                candidate(week, now - SignedDuration::from_hours(24 * 7 * week as i64), vec![])
            })
            .collect();
        let weekly =
            RetentionPolicy { not_older_than: Some(days(20)), ..only(&[(KeptPeriod::Week, 2)]) };
        let monthly = RetentionPolicy {
            not_older_than: Some(days(25)),
            at_least: 2,
            ..only(&[(KeptPeriod::Month, 2)])
        };
        assert_eq!(
            reasons(&[weekly, monthly], &all, now),
            [
                "monthly 1 of 2; one of the newest 2; weekly 1 of 2",
                "one of the newest 2; weekly 2 of 2",
                "no rule keeps it",
                "no rule keeps it",
                "older than 25 d 0 h"
            ]
        );
        assert_eq!(reasons(&[], &all[..1], now), ["no schedule says how long"]);
    }

    #[test]
    fn the_newest_backup_stays_even_where_the_floor_is_zero() {
        let now = at("2026-11-24T10:00Z");
        let taken = now - SignedDuration::from_hours(24 * 900);
        // Of two of the same second the one with the higher number is the newer.
        let all = [candidate(1, taken, vec![]), candidate(2, taken, vec![])];
        let none = RetentionPolicy { at_least: 0, ..only(&[]) };
        assert_eq!(reasons(&[none], &all, now), ["one of the newest 1", "no rule keeps it"]);
    }

    #[test]
    fn a_backup_from_the_future_stays_and_one_of_this_very_moment_is_not_from_the_future() {
        let now = at("2026-11-24T10:00Z");
        let all = [(0, 2), (1, 1), (2, 0), (3, -1)].map(|(number, ahead)| {
            candidate(number, now + SignedDuration::from_secs(ahead), vec![])
        });
        let expected = [
            "its time lies in the future",
            "its time lies in the future",
            "one of the newest 1",
            "no rule keeps it",
        ];
        assert_eq!(reasons(&[only(&[])], &all, now), expected);
    }

    #[test]
    fn no_whole_backup_goes_for_one_that_is_damaged() {
        let now = at("2026-11-24T10:00Z");
        let damaged = RetentionCandidate { damaged: true, ..candidate(0, now, vec![]) };
        let all = [
            damaged,
            candidate(1, now - SignedDuration::from_hours(1), vec![]),
            candidate(2, now - SignedDuration::from_hours(2), vec![]),
        ];
        let daily = only(&[(KeptPeriod::Day, 1)]);
        assert_eq!(
            reasons(&[daily], &all, now),
            [
                "found damaged: it would be kept if it were whole, and takes no place of another",
                "daily 1 of 1; one of the newest 1",
                "no rule keeps it"
            ]
        );
    }

    #[test]
    fn guards_say_in_words_what_keeps_a_backup() {
        let until = at("2027-03-01T06:05:59Z");
        for (guard, why) in [
            (RemovalGuard::LastDrilled, "the last one that a drill restored and passed"),
            (RemovalGuard::Held("case 17".to_owned()), "held: case 17"),
            (
                RemovalGuard::InUse("a run of db1 is reading it".to_owned()),
                "in use: a run of db1 is reading it",
            ),
            (RemovalGuard::Locked(until), "locked by the store until 2027-03-01 06:05 UTC"),
            (RemovalGuard::PaidUntil(until), "its storage class is paid for until 2027-03-01"),
        ] {
            let now = at("2026-11-24T10:00Z");
            let all = [
                candidate(0, now, vec![]),
                candidate(1, now - SignedDuration::from_hours(1), vec![guard]),
            ];
            assert_eq!(reasons(&[only(&[])], &all, now)[1], why);
        }
    }

    #[test]
    fn a_plan_lists_removals_oldest_first_and_decisions_newest_first() {
        let now = at("2026-11-24T10:00Z");
        let all: Vec<RetentionCandidate> = [2, 0, 3, 1]
            .into_iter()
            .map(|n| candidate(n, now - SignedDuration::from_hours(n as i64), vec![]))
            .collect();
        let plan = plan(&store(), &[only(&[])], &all, now);
        let decisions: Vec<_> =
            plan.decisions.iter().map(|d| (d.backup.clone(), d.taken, d.bytes, d.keep)).collect();
        let expected = [1, 3, 0, 2]
            .map(|place: usize| (all[place].backup.clone(), all[place].taken, 1, place == 1));
        assert_eq!(decisions, expected);
        let removals: Vec<_> = plan
            .removals()
            .iter()
            .map(|r| (r.datastore(), r.backup(), r.sequence(), r.reason()))
            .collect();
        let datastore = store();
        assert_eq!(
            removals,
            [2, 0, 3].map(|place: usize| (
                &datastore,
                &all[place].backup,
                all[place].sequence,
                "no rule keeps it"
            ))
        );
    }

    #[test]
    fn storage_classes_are_paid_for_at_least_as_long_as_the_provider_says() {
        for (class, days) in [
            ("STANDARD", 0),
            ("INTELLIGENT_TIERING", 0),
            ("STANDARD_IA", 30),
            ("ONEZONE_IA", 30),
            ("GLACIER_IR", 90),
            ("GLACIER", 90),
            ("DEEP_ARCHIVE", 180),
        ] {
            assert_eq!(minimum_days(class), days, "{class}");
        }
    }

    fn policies() -> impl Strategy<Value = Vec<RetentionPolicy>> {
        let counts = proptest::collection::btree_map(
            prop_oneof![
                Just(KeptPeriod::Hour),
                Just(KeptPeriod::Day),
                Just(KeptPeriod::Week),
                Just(KeptPeriod::Month),
                Just(KeptPeriod::Year)
            ],
            0..6usize,
            0..4,
        );
        let days = |most: u64| {
            proptest::option::of((1..most).prop_map(|days| Duration::from_secs(days * 86_400)))
        };
        let zone = prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("Pacific/Apia")];
        let one = (counts, 1..5usize, days(10), days(900), zone).prop_map(
            |(counts, at_least, all_within, not_older_than, zone)| RetentionPolicy {
                zone: zone.parse().unwrap(),
                counts,
                at_least,
                all_within,
                not_older_than,
            },
        );
        proptest::collection::vec(one, 1..3)
    }

    /// The same rules written as questions about one backup and all others, without order or state.
    fn model_keeps(
        policies: &[RetentionPolicy],
        all: &[RetentionCandidate],
        one: &RetentionCandidate,
        now: Timestamp,
    ) -> bool {
        let newer =
            |other: &RetentionCandidate| other.sequence > one.sequence && other.taken <= now;
        let age = |c: &RetentionCandidate| now.duration_since(c.taken);
        let limit = |d: Duration| SignedDuration::try_from(d).unwrap();
        let floor = policies.iter().map(|p| p.at_least).max().unwrap();
        let by_policy = |p: &RetentionPolicy| {
            let within_age = |c: &RetentionCandidate| {
                c.taken <= now && p.not_older_than.is_none_or(|oldest| age(c) <= limit(oldest))
            };
            if !within_age(one) {
                return false;
            }
            let only_age = p.counts.values().all(|n| *n == 0)
                && p.all_within.is_none()
                && p.not_older_than.is_some();
            let by_period = p.counts.iter().any(|(every, count)| {
                let period = |c: &RetentionCandidate| every.period(c.taken, &p.zone);
                let newest_of_period =
                    !all.iter().any(|o| newer(o) && within_age(o) && period(o) == period(one));
                let later: BTreeSet<_> = all
                    .iter()
                    .filter(|o| within_age(o) && newer(o) && period(o) != period(one))
                    .map(period)
                    .collect();
                newest_of_period && later.len() < *count
            });
            only_age || by_period || p.all_within.is_some_and(|within| age(one) <= limit(within))
        };
        let later = |o: &RetentionCandidate| {
            o.taken <= now && (o.taken, o.sequence) > (one.taken, one.sequence)
        };
        let among = |newer: &dyn Fn(&RetentionCandidate) -> bool| {
            one.taken <= now && all.iter().filter(|o| newer(o)).count() < floor
        };
        among(&newer)
            || among(&later)
            || !one.guards.is_empty()
            || one.taken > now
            || policies.iter().any(by_policy)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn plans_agree_with_a_brute_force_model(
            policies in policies(),
            hours in proptest::collection::vec((-30..24_000i64, proptest::bool::weighted(0.05)), 0..60),
        ) {
            let now: Timestamp = "2026-11-24T10:00Z".parse().unwrap();
            let guards = |guarded: bool| if guarded { vec![RemovalGuard::LastDrilled] } else { Vec::new() };
            let all: Vec<RetentionCandidate> = hours
                .iter()
                .enumerate()
                .map(|(number, (hours, guarded))| candidate(number, now - SignedDuration::from_mins(60 * hours + 17), guards(*guarded)))
                .collect();
            let plan = plan(&store(), &policies, &all, now);
            for decision in &plan.decisions {
                let one = all.iter().find(|c| c.backup == decision.backup).unwrap();
                prop_assert_eq!(decision.keep, model_keeps(&policies, &all, one, now), "{:?} of {:?}", decision, policies);
            }
            // What is promised, whatever the rules.
            let gone: BTreeSet<&BackupId> = plan.removals().iter().map(PlannedRemoval::backup).collect();
            prop_assert!(all.iter().filter(|c| !c.guards.is_empty()).all(|c| !gone.contains(&c.backup)));
            let left = all.len() - gone.len();
            prop_assert!(left >= policies.iter().map(|p| p.at_least).max().unwrap().min(all.len()));
            // A plan applied leaves nothing more to remove.
            let rest: Vec<RetentionCandidate> = all.iter().filter(|c| !gone.contains(&c.backup)).cloned().collect();
            prop_assert!(super::plan(&store(), &policies, &rest, now).removals().is_empty());
        }
    }
}

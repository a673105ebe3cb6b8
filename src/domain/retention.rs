//! Which backups are kept, and why. A pure function from policies and facts to a plan that explains each decision.
//!
//! Grandfather, father, son: of each of the last `daily` days that have a backup the newest one is kept, and so on for hours, weeks,
//! months and years, by the calendar of a time zone. Whatever the policy says, some are never removed: the newest ones up to a floor, the
//! last one that a drill restored and passed, what is held, locked, in use, or would be paid for anyway. A [`Removal`] is made only
//! here, so nothing else can be deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::calendar::Zone;
use super::id::{BackupId, DatastoreName};
use super::span::for_people;

/// Kinds of period of which one backup each is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Every {
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

impl Every {
    /// All of them, with their names in `[keep]`.
    pub const ALL: [(Self, &'static str); 5] =
        [(Self::Hour, "hourly"), (Self::Day, "daily"), (Self::Week, "weekly"), (Self::Month, "monthly"), (Self::Year, "yearly")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(every, _)| *every == self).map_or("", |(_, name)| name)
    }

    /// The period a time is in: its first day, and its hour where that matters.
    fn period(self, time: Timestamp, zone: &Zone) -> (Date, i64) {
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
pub struct Policy {
    /// Whose days and weeks.
    pub zone: Zone,
    /// Of how many periods of each kind one backup is kept.
    pub counts: BTreeMap<Every, usize>,
    /// So many of the newest are kept whatever else is said.
    pub at_least: usize,
    /// Everything younger is kept.
    pub all_within: Option<Duration>,
    /// Nothing older is kept, but for the floor and what is never removed.
    pub not_older_than: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { zone: Zone::utc(), counts: BTreeMap::new(), at_least: 2, all_within: None, not_older_than: None }
    }
}

/// A backup and what keeps it from being removed.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The backup.
    pub backup: BackupId,
    /// Its number.
    pub sequence: u64,
    /// When its snapshot was taken.
    pub taken: Timestamp,
    /// Bytes it takes in the vault.
    pub bytes: u64,
    /// Why it must not go, beside what the policy says: each in words.
    pub guards: Vec<Guard>,
}

/// Why a backup must not be removed now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
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
}

impl Guard {
    fn why(&self) -> String {
        match self {
            Self::LastDrilled => "the last one that a drill restored and passed".to_owned(),
            Self::Held(reason) => format!("held: {reason}"),
            Self::InUse(by) => format!("in use: {by}"),
            Self::Locked(until) => format!("locked by the store until {}", until.strftime("%Y-%m-%d %H:%M UTC")),
            Self::PaidUntil(until) => format!("its storage class is paid for until {}", until.strftime("%Y-%m-%d")),
        }
    }
}

/// What becomes of a backup, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
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
pub struct Removal {
    datastore: DatastoreName,
    backup: BackupId,
    sequence: u64,
    reason: String,
}

impl Removal {
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
pub struct Plan {
    /// The datastore.
    pub datastore: DatastoreName,
    /// One decision for each backup, the newest first.
    pub decisions: Vec<Decision>,
    #[serde(skip)]
    removals: Vec<Removal>,
}

impl Plan {
    /// What may be removed, the oldest first.
    #[must_use]
    pub fn removals(&self) -> &[Removal] {
        &self.removals
    }
}

/// Decides. Without a policy everything is kept; with several, whatever one of them keeps.
#[must_use]
pub fn plan(datastore: &DatastoreName, policies: &[Policy], candidates: &[Candidate], now: Timestamp) -> Plan {
    let mut newest_first: Vec<&Candidate> = candidates.iter().collect();
    newest_first.sort_by(|a, b| (b.taken, &b.backup).cmp(&(a.taken, &a.backup)));
    let kept: Vec<BTreeMap<BackupId, Vec<String>>> = policies.iter().map(|policy| kept_by(policy, &newest_first, now)).collect();
    let floor = policies.iter().map(|policy| policy.at_least).max().unwrap_or(usize::MAX).max(1);
    let mut plan = Plan { datastore: datastore.clone(), decisions: Vec::new(), removals: Vec::new() };
    for (rank, candidate) in newest_first.into_iter().enumerate() {
        let mut reasons: BTreeSet<String> = kept.iter().filter_map(|kept| kept.get(&candidate.backup)).flatten().cloned().collect();
        if policies.is_empty() {
            reasons.insert("no schedule says how long".to_owned());
        } else if rank < floor {
            reasons.insert(format!("one of the newest {floor}"));
        }
        if candidate.taken > now {
            reasons.insert("its time lies in the future".to_owned());
        }
        reasons.extend(candidate.guards.iter().map(Guard::why));
        let keep = !reasons.is_empty();
        let reasons = if keep { reasons.into_iter().collect() } else { vec![why_not(policies, candidate, now)] };
        if !keep {
            plan.removals.insert(
                0,
                Removal {
                    datastore: datastore.clone(),
                    backup: candidate.backup.clone(),
                    sequence: candidate.sequence,
                    reason: reasons.join(", "),
                },
            );
        }
        plan.decisions.push(Decision { backup: candidate.backup.clone(), taken: candidate.taken, bytes: candidate.bytes, keep, reasons });
    }
    plan
}

fn age(candidate: &Candidate, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(candidate.taken)).unwrap_or_default()
}

/// What one policy keeps, and for which reasons.
fn kept_by(policy: &Policy, newest_first: &[&Candidate], now: Timestamp) -> BTreeMap<BackupId, Vec<String>> {
    let mut kept: BTreeMap<BackupId, Vec<String>> = BTreeMap::new();
    let young: Vec<&&Candidate> =
        newest_first.iter().filter(|candidate| policy.not_older_than.is_none_or(|oldest| age(candidate, now) <= oldest)).collect();
    let mut keep = |candidate: &Candidate, reason: String| kept.entry(candidate.backup.clone()).or_default().push(reason);
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
            keep(candidate, format!("younger than {}", for_people(within)));
        }
        // An age limit alone keeps everything until then.
        if let (Some(oldest), None, true) = (policy.not_older_than, policy.all_within, policy.counts.values().all(|count| *count == 0)) {
            keep(candidate, format!("not older than {}", for_people(oldest)));
        }
    }
    kept
}

fn why_not(policies: &[Policy], candidate: &Candidate, now: Timestamp) -> String {
    let limit = policies.iter().filter_map(|policy| policy.not_older_than).max();
    match limit.filter(|limit| age(candidate, now) > *limit) {
        Some(limit) => format!("older than {}", for_people(limit)),
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
        let tail: String = (0..6).map(|place| char::from(letters[(number / 26_usize.pow(place)) % 26])).collect();
        format!("{}-{tail}", taken.strftime("%Y%m%dT%H%M%SZ")).parse().unwrap()
    }
    fn candidate(number: usize, taken: Timestamp, guards: Vec<Guard>) -> Candidate {
        Candidate { backup: id(number, taken), sequence: number as u64, taken, bytes: 1, guards }
    }
    fn store() -> DatastoreName {
        "chat".parse().unwrap()
    }

    #[test]
    fn each_decision_is_explained() {
        let now: Timestamp = "2026-11-24T10:00Z".parse().unwrap();
        let nights: Vec<Candidate> =
            (0..60).map(|day| candidate(day, now - SignedDuration::from_hours(24 * day as i64 + 7), Vec::new())).collect();
        let policy = Policy { counts: [(Every::Day, 3), (Every::Week, 2), (Every::Month, 2)].into(), ..Policy::default() };
        let plan = plan(&store(), &[policy], &nights, now);
        let kept: Vec<String> =
            plan.decisions.iter().filter(|d| d.keep).map(|d| format!("{} {}", d.taken.strftime("%m-%d"), d.reasons.join("; "))).collect();
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
        let old = |number: usize, guards: Vec<Guard>| candidate(number, now - SignedDuration::from_hours(24 * 400 + number as i64), guards);
        let all = [
            old(0, vec![]),
            old(1, vec![]),
            old(2, vec![Guard::LastDrilled]),
            old(3, vec![Guard::Held("case 17".to_owned())]),
            old(4, vec![Guard::InUse("drill nightly".to_owned())]),
            old(5, vec![Guard::Locked(now)]),
            old(6, vec![Guard::PaidUntil(now)]),
            old(7, vec![]),
        ];
        let policy = Policy { not_older_than: Some(Duration::from_secs(86_400)), at_least: 2, ..Policy::default() };
        let plan = plan(&store(), &[policy], &all, now);
        let gone: Vec<u64> = plan.removals().iter().map(Removal::sequence).collect();
        assert_eq!(gone, [7]);
        assert_eq!(plan.removals()[0].reason(), "older than 24 h 0 min");
        assert!(super::plan(&store(), &[], &all, now).removals().is_empty(), "without a policy everything is kept");
    }

    fn policies() -> impl Strategy<Value = Vec<Policy>> {
        let counts = proptest::collection::btree_map(
            prop_oneof![Just(Every::Hour), Just(Every::Day), Just(Every::Week), Just(Every::Month), Just(Every::Year)],
            0..6usize,
            0..4,
        );
        let days = |most: u64| proptest::option::of((1..most).prop_map(|days| Duration::from_secs(days * 86_400)));
        let zone = prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("Pacific/Apia")];
        let one = (counts, 1..5usize, days(10), days(900), zone).prop_map(|(counts, at_least, all_within, not_older_than, zone)| Policy {
            zone: zone.parse().unwrap(),
            counts,
            at_least,
            all_within,
            not_older_than,
        });
        proptest::collection::vec(one, 1..3)
    }

    /// The same rules written as questions about one backup and all others, without order or state.
    fn model_keeps(policies: &[Policy], all: &[Candidate], one: &Candidate, now: Timestamp) -> bool {
        let newer = |other: &Candidate| (other.taken, &other.backup) > (one.taken, &one.backup);
        let age = |c: &Candidate| now.duration_since(c.taken);
        let limit = |d: Duration| SignedDuration::try_from(d).unwrap();
        let floor = policies.iter().map(|p| p.at_least).max().unwrap();
        let by_policy = |p: &Policy| {
            let within_age = |c: &Candidate| p.not_older_than.is_none_or(|oldest| age(c) <= limit(oldest));
            if !within_age(one) {
                return false;
            }
            let only_age = p.counts.values().all(|n| *n == 0) && p.all_within.is_none() && p.not_older_than.is_some();
            let by_period = p.counts.iter().any(|(every, count)| {
                let period = |c: &Candidate| every.period(c.taken, &p.zone);
                let newest_of_period = !all.iter().any(|o| newer(o) && within_age(o) && period(o) == period(one));
                let later: BTreeSet<_> = all.iter().filter(|o| within_age(o) && newer(o) && period(o) != period(one)).map(period).collect();
                newest_of_period && later.len() < *count
            });
            only_age || by_period || p.all_within.is_some_and(|within| age(one) <= limit(within))
        };
        all.iter().filter(|o| newer(o)).count() < floor || !one.guards.is_empty() || one.taken > now || policies.iter().any(by_policy)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn plans_agree_with_a_brute_force_model(
            policies in policies(),
            hours in proptest::collection::vec((-30..24_000i64, proptest::bool::weighted(0.05)), 0..60),
        ) {
            let now: Timestamp = "2026-11-24T10:00Z".parse().unwrap();
            let guards = |guarded: bool| if guarded { vec![Guard::LastDrilled] } else { Vec::new() };
            let all: Vec<Candidate> = hours
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
            let gone: BTreeSet<&BackupId> = plan.removals().iter().map(Removal::backup).collect();
            prop_assert!(all.iter().filter(|c| !c.guards.is_empty()).all(|c| !gone.contains(&c.backup)));
            let left = all.len() - gone.len();
            prop_assert!(left >= policies.iter().map(|p| p.at_least).max().unwrap().min(all.len()));
            // A plan applied leaves nothing more to remove.
            let rest: Vec<Candidate> = all.iter().filter(|c| !gone.contains(&c.backup)).cloned().collect();
            prop_assert!(super::plan(&store(), &policies, &rest, now).removals().is_empty());
        }
    }
}

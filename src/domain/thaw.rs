//! Archive retrieval: what is archived, how it is requested, how long that takes and what it costs.
//!
//! Each object goes through the same states, and [`next`] is the transition function. It is pure
//! and total: the store tells the state, the clock tells the time, and what a dead process forgot
//! is asked again.
//!
//! ```text
//! Frozen ──request──▶ UnderWay ──hours──▶ Thawed until … ──expiry──▶ Frozen
//!    └── refused for want of capacity: the next slower tier ◀┘
//! ```
//!
//! Times and rules: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html>. Prices are list prices of us-east-1 as of 2023; they are for an estimate, not for an invoice.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How much hurry there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetrievalTier {
    /// Minutes, dear, and refused where there is no capacity.
    Expedited,
    /// Hours.
    Standard,
    /// Half a day to two, cheap.
    Bulk,
}

impl RetrievalTier {
    /// Every tier, fastest first.
    pub const ALL: [Self; 3] = [Self::Expedited, Self::Standard, Self::Bulk];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Expedited => "expedited",
            Self::Standard => "standard",
            Self::Bulk => "bulk",
        }
    }
}

impl std::fmt::Display for RetrievalTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for RetrievalTier {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|tier| tier.name() == text).ok_or_else(|| {
            format!("{text:?} is no retrieval tier; write expedited, standard or bulk")
        })
    }
}

/// A storage class whose objects must be thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ColdClass {
    /// `GLACIER`, Flexible Retrieval.
    Flexible,
    /// `DEEP_ARCHIVE`.
    DeepArchive,
}

const HOUR: u64 = 3_600;

impl ColdClass {
    /// The class of a name; `None` for one that can be read at once.
    #[must_use]
    pub fn of(class: &str) -> Option<Self> {
        match class {
            "GLACIER" => Some(Self::Flexible),
            "DEEP_ARCHIVE" => Some(Self::DeepArchive),
            _ => None,
        }
    }

    /// How long a tier takes, at most as documented; `None` if the class does not offer it.
    #[must_use]
    pub fn takes(self, tier: RetrievalTier) -> Option<Duration> {
        let seconds = match (self, tier) {
            (Self::Flexible, RetrievalTier::Expedited) => 5 * 60,
            (Self::Flexible, RetrievalTier::Standard) => 5 * HOUR,
            (Self::Flexible, RetrievalTier::Bulk) => 12 * HOUR,
            (Self::DeepArchive, RetrievalTier::Expedited) => return None,
            (Self::DeepArchive, RetrievalTier::Standard) => 12 * HOUR,
            (Self::DeepArchive, RetrievalTier::Bulk) => 48 * HOUR,
        };
        Some(Duration::from_secs(seconds))
    }

    /// Dollars for each GB retrieved and for each 1,000 requests.
    fn prices(self, tier: RetrievalTier) -> (f64, f64) {
        match (self, tier) {
            (Self::Flexible, RetrievalTier::Expedited) => (0.03, 10.0),
            (Self::Flexible, RetrievalTier::Standard) => (0.01, 0.05),
            (Self::Flexible, RetrievalTier::Bulk) => (0.0, 0.025),
            (Self::DeepArchive, RetrievalTier::Standard | RetrievalTier::Expedited) => (0.02, 0.10),
            (Self::DeepArchive, RetrievalTier::Bulk) => (0.0025, 0.025),
        }
    }
}

/// Dollars for each GB of readable copies, each 30 days.
const COPY_PER_GB: f64 = 0.023;
/// Bytes of a GB as it is billed.
const GB: f64 = 1_073_741_824.0;

/// What retrieving costs, in dollars, readable copies for `days` included. An estimate from list
/// prices.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "an estimate of money")]
pub fn dollars(
    class: ColdClass,
    tier: RetrievalTier,
    objects: usize,
    bytes: u64,
    days: u32,
) -> f64 {
    let (per_gb, per_thousand) = class.prices(tier);
    let gb = bytes as f64 / GB;
    gb * per_gb + objects as f64 / 1000.0 * per_thousand + gb * COPY_PER_GB * f64::from(days) / 30.0
}

/// Whether an object can be read, as its store tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// It can always be read.
    Warm,
    /// It must be thawed first.
    Frozen,
    /// A readable copy was asked for and is not there yet.
    UnderWay,
    /// A readable copy is there.
    Thawed {
        /// When it goes away; none if the store does not tell.
        until: Option<Timestamp>,
    },
}

impl Availability {
    /// Whether it can be read at a moment.
    #[must_use]
    pub fn is_readable(self, now: Timestamp) -> bool {
        match self {
            Self::Warm => true,
            Self::Frozen | Self::UnderWay => false,
            Self::Thawed { until } => until.is_none_or(|until| now < until),
        }
    }
}

/// What is wanted of a thaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThawRequest {
    /// How fast.
    pub tier: RetrievalTier,
    /// For how many days the copy is to stay.
    pub days: u32,
    /// Until when the copy must stay, at the least.
    pub needed_until: Timestamp,
    /// The tier of the request under way, where that is known.
    pub asked: Option<RetrievalTier>,
}

/// What to do about one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThawAction {
    /// It can be read for as long as needed.
    Nothing,
    /// Ask for a copy.
    Request,
    /// A copy is on its way; ask for it to come faster.
    Upgrade,
    /// A copy is on its way.
    Wait,
    /// A copy is there and goes away too early: ask again, which makes it stay longer.
    Prolong,
}

/// What to do about an object in a state.
#[must_use]
pub fn next(warmth: Availability, wish: &ThawRequest, now: Timestamp) -> ThawAction {
    match warmth {
        Availability::Warm => ThawAction::Nothing,
        Availability::Frozen => ThawAction::Request,
        // Faster tiers come first in the order.
        Availability::UnderWay if wish.asked.is_some_and(|asked| wish.tier < asked) => {
            ThawAction::Upgrade
        }
        Availability::UnderWay => ThawAction::Wait,
        Availability::Thawed { until: Some(until) } if until <= now => ThawAction::Request,
        Availability::Thawed { until: Some(until) } if until < wish.needed_until => {
            ThawAction::Prolong
        }
        Availability::Thawed { .. } => ThawAction::Nothing,
    }
}

/// The cheapest tier that is through in time, or else the fastest that there is.
#[must_use]
pub fn tier_within(class: ColdClass, allowed: Duration) -> RetrievalTier {
    let offered =
        || RetrievalTier::ALL.into_iter().filter_map(|tier| Some((tier, class.takes(tier)?)));
    let slowest = offered().rfind(|(_, takes)| *takes <= allowed);
    slowest.or_else(|| offered().next()).map_or(RetrievalTier::Standard, |(tier, _)| tier)
}

/// The next slower tier that a class offers, for when a faster one is refused.
#[must_use]
pub fn slower(class: ColdClass, tier: RetrievalTier) -> Option<RetrievalTier> {
    RetrievalTier::ALL.into_iter().find(|other| *other > tier && class.takes(*other).is_some())
}

/// When a copy that became readable at `from` goes away: `days` later, rounded up to the next
/// midnight UTC.
#[must_use]
pub fn expiry(from: Timestamp, days: u32) -> Timestamp {
    const DAY: i64 = 86_400;
    let end = from.as_second().saturating_add(i64::from(days) * DAY);
    Timestamp::from_second((end + DAY - 1).div_euclid(DAY) * DAY).unwrap_or(Timestamp::MAX)
}

/// How long to wait before looking again: a twentieth of what is left, not under a second, not over
/// five minutes. A request that is overdue is looked at less and less often.
#[must_use]
pub fn pause(since: Duration, expected: Duration) -> Duration {
    let left = expected.checked_sub(since).unwrap_or(since / 4);
    (left / 20).clamp(Duration::from_secs(1), Duration::from_secs(300))
}

/// A moment so much later.
#[must_use]
pub fn after(now: Timestamp, seconds: f64) -> Timestamp {
    now.checked_add(SignedDuration::try_from_secs_f64(seconds).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_cheapest_tier_that_is_in_time_is_taken() {
        let hours = |h: u64| Duration::from_secs(h * HOUR);
        assert_eq!(tier_within(ColdClass::Flexible, hours(24)), RetrievalTier::Bulk);
        assert_eq!(tier_within(ColdClass::Flexible, hours(6)), RetrievalTier::Standard);
        assert_eq!(tier_within(ColdClass::Flexible, hours(1)), RetrievalTier::Expedited);
        assert_eq!(
            tier_within(ColdClass::Flexible, Duration::from_secs(10)),
            RetrievalTier::Expedited,
            "none is in time: the fastest"
        );
        assert_eq!(
            tier_within(ColdClass::DeepArchive, hours(1)),
            RetrievalTier::Standard,
            "it offers no faster one"
        );
        assert_eq!(tier_within(ColdClass::DeepArchive, hours(72)), RetrievalTier::Bulk);
        assert_eq!(
            slower(ColdClass::Flexible, RetrievalTier::Expedited),
            Some(RetrievalTier::Standard)
        );
        assert_eq!(slower(ColdClass::DeepArchive, RetrievalTier::Bulk), None);
    }

    #[test]
    fn the_copy_goes_away_at_a_midnight() {
        assert_eq!(expiry(at("2026-11-25T13:00:00Z"), 1), at("2026-11-27T00:00:00Z"));
        assert_eq!(expiry(at("2026-11-25T00:00:00Z"), 1), at("2026-11-26T00:00:00Z"));
    }

    #[test]
    fn what_it_costs_is_what_the_price_list_says() {
        let cost =
            dollars(ColdClass::Flexible, RetrievalTier::Standard, 1000, 100 * 1_073_741_824, 30);
        assert!((cost - (1.0 + 0.05 + 2.3)).abs() < 1e-9, "{cost}");
    }

    fn warmth() -> impl Strategy<Value = Availability> {
        prop_oneof![
            Just(Availability::Warm),
            Just(Availability::Frozen),
            Just(Availability::UnderWay),
            Just(Availability::Thawed { until: None }),
            (0..4_000_i64)
                .prop_map(|s| Availability::Thawed { until: Timestamp::from_second(s).ok() }),
        ]
    }

    proptest! {
        /// Nothing is left undone that cannot be read for long enough, and nothing is asked for
        /// that can.
        #[test]
        fn every_state_leads_to_a_copy_that_stays(warmth in warmth(), now in 0..2_000_i64, need in 0..4_000_i64) {
            let now = Timestamp::from_second(now).unwrap();
            let needed_until = Timestamp::from_second(need).unwrap().max(now);
            let wish = ThawRequest { tier: RetrievalTier::Standard, days: 1, needed_until, asked: Some(RetrievalTier::Standard) };
            let act = next(warmth, &wish, now);
            let stays = match warmth {
                Availability::Warm | Availability::Thawed { until: None } => true,
                Availability::Thawed { until: Some(until) } => now < until && needed_until <= until,
                Availability::Frozen | Availability::UnderWay => false,
            };
            prop_assert_eq!(act == ThawAction::Nothing, stays);
            prop_assert_eq!(act == ThawAction::Wait, warmth == Availability::UnderWay);
        }
    }

    #[test]
    fn a_request_under_way_is_made_faster_and_never_slower() {
        let wish =
            |tier, asked| ThawRequest { tier, days: 1, needed_until: Timestamp::UNIX_EPOCH, asked };
        assert_eq!(
            next(
                Availability::UnderWay,
                &wish(RetrievalTier::Expedited, Some(RetrievalTier::Bulk)),
                Timestamp::UNIX_EPOCH
            ),
            ThawAction::Upgrade
        );
        assert_eq!(
            next(
                Availability::UnderWay,
                &wish(RetrievalTier::Bulk, Some(RetrievalTier::Expedited)),
                Timestamp::UNIX_EPOCH
            ),
            ThawAction::Wait
        );
        assert_eq!(
            next(
                Availability::UnderWay,
                &wish(RetrievalTier::Expedited, None),
                Timestamp::UNIX_EPOCH
            ),
            ThawAction::Wait,
            "nobody knows what was asked"
        );
    }

    #[test]
    fn tiers_are_written_and_read_by_the_same_names() {
        for (tier, name) in [
            (RetrievalTier::Expedited, "expedited"),
            (RetrievalTier::Standard, "standard"),
            (RetrievalTier::Bulk, "bulk"),
        ] {
            assert_eq!(tier.name(), name);
            assert_eq!(tier.to_string(), name);
            assert_eq!(name.parse::<RetrievalTier>(), Ok(tier));
            assert_eq!(
                serde_json::to_string(&tier).unwrap(),
                format!("{name:?}"),
                "on the wire it has the same name"
            );
        }
        for bad in ["", "Bulk", "fast", "bulk "] {
            let why = bad.parse::<RetrievalTier>().unwrap_err();
            assert!(why.contains("expedited, standard or bulk"), "{why}");
        }
    }

    #[test]
    fn only_the_two_archive_classes_must_be_thawed() {
        assert_eq!(ColdClass::of("GLACIER"), Some(ColdClass::Flexible));
        assert_eq!(ColdClass::of("DEEP_ARCHIVE"), Some(ColdClass::DeepArchive));
        for warm in [
            "STANDARD",
            "STANDARD_IA",
            "ONEZONE_IA",
            "INTELLIGENT_TIERING",
            "GLACIER_IR",
            "glacier",
            "",
        ] {
            assert_eq!(ColdClass::of(warm), None, "{warm} is read at once");
        }
    }

    #[test]
    fn a_thaw_takes_as_long_as_the_documentation_says() {
        let minutes = |class: ColdClass| {
            RetrievalTier::ALL.map(|tier| class.takes(tier).map(|takes| takes.as_secs_f64() / 60.0))
        };
        assert_eq!(minutes(ColdClass::Flexible), [Some(5.0), Some(300.0), Some(720.0)]);
        assert_eq!(
            minutes(ColdClass::DeepArchive),
            [None, Some(720.0), Some(2880.0)],
            "a deep archive has no expedited tier"
        );
    }

    #[test]
    fn gigabytes_requests_and_days_are_billed_each_at_its_price() {
        // For each tier: 2 GB retrieved with 4,000 requests.
        for (class, tier, retrieval) in [
            (ColdClass::Flexible, RetrievalTier::Expedited, 0.06 + 40.0),
            (ColdClass::Flexible, RetrievalTier::Standard, 0.02 + 0.2),
            (ColdClass::Flexible, RetrievalTier::Bulk, 0.1),
            (ColdClass::DeepArchive, RetrievalTier::Standard, 0.04 + 0.4),
            (ColdClass::DeepArchive, RetrievalTier::Bulk, 0.005 + 0.1),
        ] {
            for (days, copies) in [(0, 0.0), (3, 0.0046), (60, 0.092)] {
                let cost = dollars(class, tier, 4000, 2 * 1_073_741_824, days);
                assert!(
                    (cost - (retrieval + copies)).abs() < 1e-9,
                    "{class:?} {tier} {days} days: {cost}"
                );
            }
        }
        assert!(
            dollars(ColdClass::DeepArchive, RetrievalTier::Bulk, 0, 0, 30).abs() < 1e-12,
            "nothing costs nothing"
        );
    }

    #[test]
    fn an_object_is_readable_until_its_copy_goes_away() {
        let now = at("2026-11-25T13:00:00Z");
        let second = SignedDuration::from_secs(1);
        let thawed = |until| Availability::Thawed { until: Some(until) };
        for (warmth, readable) in [
            (Availability::Warm, true),
            (Availability::Frozen, false),
            (Availability::UnderWay, false),
            (Availability::Thawed { until: None }, true),
            (thawed(now + second), true),
            (thawed(now), false),
            (thawed(now - second), false),
        ] {
            assert_eq!(warmth.is_readable(now), readable, "{warmth:?}");
        }
    }

    #[test]
    fn a_copy_is_asked_for_again_when_it_is_gone_and_prolonged_when_it_goes_too_early() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let (now, needed_until) = (time(1000), time(2000));
        let wish =
            ThawRequest { tier: RetrievalTier::Standard, days: 1, needed_until, asked: None };
        for (until, act) in [
            (999, ThawAction::Request),
            (1000, ThawAction::Request),
            (1001, ThawAction::Prolong),
            (1999, ThawAction::Prolong),
            (2000, ThawAction::Nothing),
            (2001, ThawAction::Nothing),
        ] {
            assert_eq!(
                next(Availability::Thawed { until: Some(time(until)) }, &wish, now),
                act,
                "goes away at {until}"
            );
        }
        assert_eq!(next(Availability::Frozen, &wish, now), ThawAction::Request);
        assert_eq!(next(Availability::Thawed { until: None }, &wish, now), ThawAction::Nothing);
        let asked = |asked| ThawRequest { asked: Some(asked), ..wish };
        assert_eq!(
            next(Availability::UnderWay, &asked(RetrievalTier::Standard), now),
            ThawAction::Wait,
            "the same tier was asked for already"
        );
    }

    #[test]
    fn a_tier_that_is_through_to_the_second_is_in_time() {
        for class in [ColdClass::Flexible, ColdClass::DeepArchive] {
            for tier in RetrievalTier::ALL {
                let Some(takes) = class.takes(tier) else { continue };
                assert_eq!(tier_within(class, takes), tier, "{class:?}");
                let less = tier_within(class, takes.checked_sub(Duration::from_secs(1)).unwrap());
                assert!(less <= tier && class.takes(less).is_some(), "{class:?} {tier}: {less}");
                assert!(
                    less < tier
                        || RetrievalTier::ALL
                            .into_iter()
                            .all(|other| other >= tier || class.takes(other).is_none())
                );
            }
        }
    }

    #[test]
    fn a_refused_tier_is_followed_by_the_next_slower_one_that_is_offered() {
        for (class, tier, expected) in [
            (ColdClass::Flexible, RetrievalTier::Expedited, Some(RetrievalTier::Standard)),
            (ColdClass::Flexible, RetrievalTier::Standard, Some(RetrievalTier::Bulk)),
            (ColdClass::Flexible, RetrievalTier::Bulk, None),
            (ColdClass::DeepArchive, RetrievalTier::Expedited, Some(RetrievalTier::Standard)),
            (ColdClass::DeepArchive, RetrievalTier::Standard, Some(RetrievalTier::Bulk)),
            (ColdClass::DeepArchive, RetrievalTier::Bulk, None),
        ] {
            assert_eq!(slower(class, tier), expected, "{class:?} {tier}");
        }
    }

    #[test]
    fn a_copy_stays_for_at_least_the_days_asked_for_and_less_than_one_more() {
        for (from, days, until) in [
            ("2026-11-25T00:00:01Z", 1, "2026-11-27T00:00:00Z"),
            ("2026-11-25T23:59:59Z", 1, "2026-11-27T00:00:00Z"),
            ("2026-11-25T13:00:00Z", 7, "2026-12-03T00:00:00Z"),
            ("2026-11-25T13:00:00Z", 0, "2026-11-26T00:00:00Z"),
            ("2026-11-25T00:00:00Z", 30, "2026-12-25T00:00:00Z"),
            ("1969-12-30T12:00:00Z", 1, "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(expiry(at(from), days), at(until), "{from} {days}");
        }
        assert_eq!(
            expiry(Timestamp::MAX, u32::MAX),
            Timestamp::MAX,
            "later than any time there is"
        );
    }

    #[test]
    fn looks_are_a_twentieth_of_what_is_left_apart_and_ever_rarer_when_overdue() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (since, expected, seconds) in [
            (minutes(0), minutes(60), 180.0),
            (minutes(20), minutes(60), 120.0),
            (minutes(59), minutes(60), 3.0),
            // Not over five minutes, not under a second.
            (minutes(0), minutes(48 * 60), 300.0),
            (minutes(60), minutes(60), 1.0),
            // Overdue.
            (minutes(80), minutes(60), 60.0),
            (minutes(160), minutes(60), 120.0),
            (minutes(4000), minutes(60), 300.0),
        ] {
            assert!(
                (pause(since, expected).as_secs_f64() - seconds).abs() < 1e-6,
                "{since:?} of {expected:?}"
            );
        }
    }

    #[test]
    fn a_moment_later_is_so_many_seconds_later_and_never_beyond_the_end_of_time() {
        let now = at("2026-11-25T13:00:00Z");
        assert_eq!(after(now, 90.5), at("2026-11-25T13:01:30.5Z"));
        assert_eq!(after(now, 0.0), now);
        for endless in [1e15, 1e300, f64::INFINITY, f64::NAN] {
            assert_eq!(after(now, endless), Timestamp::MAX, "{endless}");
        }
    }
}

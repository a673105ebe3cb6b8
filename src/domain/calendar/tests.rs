//! Nights on which the clocks change, what cron cannot say, windows, and properties over decades and zones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use proptest::prelude::*;

fn calendar(pattern: Pattern, zone: &str) -> Calendar {
    Calendar { pattern, zone: zone.parse().unwrap(), jitter: Duration::ZERO, blackouts: Vec::new(), in_blackout: InBlackout::Postpone }
}
fn cron(text: &str, zone: &str) -> Calendar {
    calendar(Pattern::Cron(text.parse().unwrap()), zone)
}
fn ticks(calendar: &Calendar, from: &str, to: &str) -> Vec<String> {
    let (mut here, to): (Timestamp, Timestamp) = (from.parse().unwrap(), to.parse().unwrap());
    let mut found = Vec::new();
    while let Some(next) = calendar.next_nominal(here).filter(|next| *next <= to) {
        found.push(next.to_zoned(calendar.zone.zone().clone()).strftime("%d %H:%M %Z").to_string());
        here = next;
    }
    found
}

#[test]
fn a_fixed_time_runs_once_on_the_night_it_does_not_exist_and_on_the_night_it_exists_twice() {
    let nightly = cron("30 2 * * *", "Europe/Berlin");
    assert_eq!(ticks(&nightly, "2026-03-28T00:00Z", "2026-03-30T12:00Z"), ["28 02:30 CET", "29 03:30 CEST", "30 02:30 CEST"]);
    assert_eq!(ticks(&nightly, "2026-10-24T00:00Z", "2026-10-26T12:00Z"), ["24 02:30 CEST", "25 02:30 CEST", "26 02:30 CET"]);
    let tick = nightly.next("chat", "2026-03-28T12:00Z".parse().unwrap()).unwrap();
    assert_eq!(tick.why, ["02:30 does not exist that night"]);
    let tick = nightly.next("chat", "2026-10-24T12:00Z".parse().unwrap()).unwrap();
    assert_eq!(tick.why, ["02:30 exists twice that night"]);
    // Two fixed times that fall on one instant are one tick.
    let twice = cron("30 2,3 * * *", "Europe/Berlin");
    assert_eq!(ticks(&twice, "2026-03-28T22:00Z", "2026-03-29T12:00Z"), ["29 03:30 CEST"]);
}

#[test]
fn an_interval_keeps_its_interval_on_both_nights() {
    for text in ["*/15 * * * *", "*/30 * * * *", "0 * * * *", "7,37 * * * *"] {
        let calendar = cron(text, "America/New_York");
        for (from, to) in [("2026-03-07T12:00Z", "2026-03-09T12:00Z"), ("2026-10-31T12:00Z", "2026-11-02T12:00Z")] {
            let (mut here, to): (Timestamp, Timestamp) = (from.parse().unwrap(), to.parse().unwrap());
            let first = calendar.next_nominal(here).unwrap();
            let interval = calendar.next_nominal(first).unwrap().duration_since(first);
            here = first;
            while here < to {
                let next = calendar.next_nominal(here).unwrap();
                assert_eq!(next.duration_since(here), interval, "{text} at {here}");
                here = next;
            }
        }
    }
    // Hours keep the clock on the wall; no gap ever grows by more than the change itself.
    let six = cron("0 */6 * * *", "America/New_York");
    assert_eq!(ticks(&six, "2026-11-01T00:00Z", "2026-11-02T00:00Z"), ["01 00:00 EDT", "01 06:00 EST", "01 12:00 EST", "01 18:00 EST"]);
}

#[test]
fn what_cron_cannot_say() {
    let every = |period: &str, starting: &str, zone: &str| {
        calendar(Pattern::Every { period: period.parse::<Span>().unwrap().into(), starting: starting.parse().unwrap() }, zone)
    };
    let sessions = every("2 weeks", "2026-11-24T10:00", "Europe/Berlin");
    assert_eq!(
        ticks(&sessions, "2026-01-01T00:00Z", "2027-01-10T00:00Z"),
        ["24 10:00 CET", "08 10:00 CET", "22 10:00 CET", "05 10:00 CET"]
    );
    // Over a change of the clocks the time on the wall stays.
    assert!(ticks(&sessions, "2027-03-01T00:00Z", "2027-05-01T00:00Z").iter().all(|tick| tick.contains("10:00")));
    // Hours keep their distance instead.
    let hours = every("6h", "2026-03-28T00:00", "Europe/Berlin");
    assert_eq!(
        ticks(&hours, "2026-03-28T20:00Z", "2026-03-29T18:00Z"),
        ["29 00:00 CET", "29 07:00 CEST", "29 13:00 CEST", "29 19:00 CEST"]
    );
    let monthly = |text: &str| {
        let (nth, weekday) = nth_weekday(text).unwrap();
        calendar(Pattern::Monthly { nth, weekday, at: "09:30".parse().unwrap() }, "UTC")
    };
    assert_eq!(
        ticks(&monthly("first tuesday"), "2026-11-24T00:00Z", "2027-02-28T00:00Z"),
        ["01 09:30 UTC", "05 09:30 UTC", "02 09:30 UTC"]
    );
    assert_eq!(ticks(&monthly("last fri"), "2026-11-24T00:00Z", "2026-12-31T00:00Z"), ["27 09:30 UTC", "25 09:30 UTC"]);
    assert_eq!(ticks(&monthly("Fifth Sunday"), "2026-11-24T00:00Z", "2027-06-01T00:00Z"), ["29 09:30 UTC", "31 09:30 UTC", "30 09:30 UTC"]);
    for bad in ["tuesday", "sixth monday", "first doomsday", ""] {
        assert!(nth_weekday(bad).is_err(), "{bad}");
    }
}

#[test]
fn blackout_windows_postpone_or_leave_out() {
    let mut nightly = cron("0 7,12,20 * * *", "UTC");
    nightly.blackouts = vec!["mon-fri 08:00-18:00".parse().unwrap(), "19:30-02:00".parse().unwrap()];
    let day: Timestamp = "2026-11-24T00:00Z".parse().unwrap();
    let due = |calendar: &Calendar, nominal: &str| {
        let tick = calendar.tick("chat", nominal.parse().unwrap());
        tick.due.map(|due| due.strftime("%d %H:%M").to_string())
    };
    assert_eq!(due(&nightly, "2026-11-24T07:00Z").unwrap(), "24 07:00");
    assert_eq!(due(&nightly, "2026-11-24T12:00Z").unwrap(), "24 18:00");
    assert_eq!(due(&nightly, "2026-11-24T20:00Z").unwrap(), "25 02:00");
    assert_eq!(due(&nightly, "2026-11-25T01:00Z").unwrap(), "25 02:00");
    assert_eq!(due(&nightly, "2026-11-28T12:00Z").unwrap(), "28 12:00", "a Saturday");
    assert_eq!(nightly.next("chat", day + SignedDuration::from_hours(8)).unwrap().why, ["postponed by blackout mon-fri 08:00-18:00"]);
    nightly.in_blackout = InBlackout::Skip;
    assert_eq!(due(&nightly, "2026-11-24T12:00Z"), None);
    nightly.in_blackout = InBlackout::Postpone;
    nightly.blackouts = vec!["00:00-24:00".parse().unwrap()];
    assert_eq!(due(&nightly, "2026-11-24T12:00Z"), None, "there is no room");
    for bad in ["", "mon 8-18", "someday", "mon 25:00-26:00", "mon tue 08:00-09:00", "08:00"] {
        assert!(bad.parse::<Blackout>().is_err(), "{bad}");
    }
    let weekend: Blackout = "fri-mon 22:00-23:00".parse().unwrap();
    assert_eq!(weekend.days, [true, true, false, false, false, true, true]);
}

#[test]
fn jitter_is_the_same_for_everybody_and_within_its_bound() {
    let mut nightly = cron("0 3 * * *", "UTC");
    nightly.jitter = Duration::from_secs(600);
    let mut seen = std::collections::BTreeSet::new();
    let mut here: Timestamp = "2026-01-01T00:00Z".parse().unwrap();
    for _ in 0..200 {
        let tick = nightly.next("chat", here).unwrap();
        let late = tick.due.unwrap().duration_since(tick.nominal);
        assert!(late >= SignedDuration::ZERO && late <= SignedDuration::from_secs(600));
        assert_eq!(tick, nightly.clone().next("chat", here).unwrap());
        seen.insert(late);
        here = tick.nominal;
    }
    assert!(seen.len() > 100, "it is spread");
}

const ZONES: [&str; 9] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/Sao_Paulo",
    "Antarctica/Troll",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Over decades and many zones: a fixed daily time has one tick for each date, in order, and never two at one instant.
    #[test]
    fn a_daily_time_has_one_tick_for_each_date(zone in 0..ZONES.len(), hour in 0..24i8, minute in 0..60i8, day in 0..20_000i64) {
        let calendar = cron(&format!("{minute} {hour} * * *"), ZONES[zone]);
        let start = Date::constant(1985, 1, 1).checked_add(day.days()).unwrap();
        let noon = calendar.zone.zone().to_ambiguous_timestamp(start.to_datetime(Time::constant(12, 0, 0, 0))).compatible().unwrap();
        let mut here = noon;
        let mut dates = std::collections::BTreeSet::new();
        for _ in 0..60 {
            let next = calendar.next_nominal(here).unwrap();
            prop_assert!(next > here);
            let gap = next.duration_since(here);
            // A day, a change of the clocks, and once in Apia a whole date that never was.
            prop_assert!(here == noon || (gap >= SignedDuration::from_hours(22) && gap <= SignedDuration::from_hours(26)), "{} {}", gap, next);
            dates.insert(calendar.local(next).date());
            here = next;
        }
        prop_assert_eq!(dates.len(), 60);
    }

    /// The next tick does not depend on where one starts looking: from anywhere before it, and not before the one before, it is the same.
    #[test]
    fn the_next_tick_is_the_same_from_everywhere_before_it(
        zone in 0..ZONES.len(), which in 0..6usize, second in 500_000_000..2_200_000_000i64, back in 1..200_000i64,
    ) {
        let patterns = ["30 2 * * *", "*/20 1-3 * * *", "0 */4 * * *", "15 2 1,15 * 0", "0 0 * * *", "59 23 28-31 * *"];
        let calendar = cron(patterns[which], ZONES[zone]);
        let start = Timestamp::from_second(second).unwrap();
        let next = calendar.next_nominal(start).unwrap();
        prop_assert!(next > start);
        // Nothing lies between: stepping up to it from further back passes only earlier ones.
        let mut here = Timestamp::from_second(second - back).unwrap();
        loop {
            let step = calendar.next_nominal(here).unwrap();
            prop_assert!(step > here);
            if step > start {
                prop_assert_eq!(step, next);
                break;
            }
            here = step;
        }
    }

    /// Each local minute that matches is somebody's tick: none is lost at a change of the clocks.
    #[test]
    fn no_matching_minute_is_lost(zone in 0..ZONES.len(), change in 0..40usize, which in 0..3usize) {
        let patterns = ["*/5 * * * *", "30 1,2,3 * * *", "0 */2 * * *"];
        let calendar = cron(patterns[which], ZONES[zone]);
        let start = Timestamp::from_second(500_000_000).unwrap();
        let Some(transition) = calendar.zone.zone().following(start).nth(change) else { return Ok(()) };
        let from = transition.timestamp() - SignedDuration::from_hours(5);
        let to = transition.timestamp() + SignedDuration::from_hours(5);
        let mut found = std::collections::BTreeSet::new();
        let mut here = from;
        while let Some(next) = calendar.next_nominal(here).filter(|next| *next <= to) {
            found.insert(next);
            here = next;
        }
        let mut local = calendar.local(from);
        while local < calendar.local(to) {
            local = calendar.next_local(local).unwrap();
            let mut instants = calendar.instants(local).into_iter().flatten().filter(|instant| *instant > from && *instant <= to);
            prop_assert!(instants.all(|instant| found.contains(&instant)), "{} of {} is lost", local, ZONES[zone]);
        }
    }
}

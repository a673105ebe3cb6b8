//! Nights on which the clocks change, what cron cannot say, windows, and properties over decades
//! and zones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use proptest::prelude::*;

fn calendar(pattern: RecurrencePattern, zone: &str) -> Calendar {
    Calendar {
        pattern,
        zone: zone.parse().unwrap(),
        jitter: Duration::ZERO,
        blackouts: Vec::new(),
        in_blackout: InBlackout::Postpone,
    }
}
fn cron(text: &str, zone: &str) -> Calendar {
    calendar(RecurrencePattern::Cron(text.parse().unwrap()), zone)
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
    assert_eq!(
        ticks(&nightly, "2026-03-28T00:00Z", "2026-03-30T12:00Z"),
        ["28 02:30 CET", "29 03:30 CEST", "30 02:30 CEST"]
    );
    assert_eq!(
        ticks(&nightly, "2026-10-24T00:00Z", "2026-10-26T12:00Z"),
        ["24 02:30 CEST", "25 02:30 CEST", "26 02:30 CET"]
    );
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
        for (from, to) in
            [("2026-03-07T12:00Z", "2026-03-09T12:00Z"), ("2026-10-31T12:00Z", "2026-11-02T12:00Z")]
        {
            let (mut here, to): (Timestamp, Timestamp) =
                (from.parse().unwrap(), to.parse().unwrap());
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
    assert_eq!(
        ticks(&six, "2026-11-01T00:00Z", "2026-11-02T00:00Z"),
        ["01 00:00 EDT", "01 06:00 EST", "01 12:00 EST", "01 18:00 EST"]
    );
}

#[test]
fn what_cron_cannot_say() {
    let every = |period: &str, starting: &str, zone: &str| {
        calendar(
            RecurrencePattern::Every {
                period: period.parse::<HumanDuration>().unwrap().into(),
                starting: starting.parse().unwrap(),
            },
            zone,
        )
    };
    let sessions = every("2 weeks", "2026-11-24T10:00", "Europe/Berlin");
    assert_eq!(
        ticks(&sessions, "2026-01-01T00:00Z", "2027-01-10T00:00Z"),
        ["24 10:00 CET", "08 10:00 CET", "22 10:00 CET", "05 10:00 CET"]
    );
    // Over a change of the clocks the time on the wall stays.
    assert!(
        ticks(&sessions, "2027-03-01T00:00Z", "2027-05-01T00:00Z")
            .iter()
            .all(|tick| tick.contains("10:00"))
    );
    // Hours keep their distance instead.
    let hours = every("6h", "2026-03-28T00:00", "Europe/Berlin");
    assert_eq!(
        ticks(&hours, "2026-03-28T20:00Z", "2026-03-29T18:00Z"),
        ["29 00:00 CET", "29 07:00 CEST", "29 13:00 CEST", "29 19:00 CEST"]
    );
    let monthly = |text: &str| {
        let (nth, weekday) = nth_weekday(text).unwrap();
        calendar(RecurrencePattern::Monthly { nth, weekday, at: "09:30".parse().unwrap() }, "UTC")
    };
    assert_eq!(
        ticks(&monthly("first tuesday"), "2026-11-24T00:00Z", "2027-02-28T00:00Z"),
        ["01 09:30 UTC", "05 09:30 UTC", "02 09:30 UTC"]
    );
    assert_eq!(
        ticks(&monthly("last fri"), "2026-11-24T00:00Z", "2026-12-31T00:00Z"),
        ["27 09:30 UTC", "25 09:30 UTC"]
    );
    assert_eq!(
        ticks(&monthly("Fifth Sunday"), "2026-11-24T00:00Z", "2027-06-01T00:00Z"),
        ["29 09:30 UTC", "31 09:30 UTC", "30 09:30 UTC"]
    );
    for bad in ["tuesday", "sixth monday", "first doomsday", ""] {
        assert!(nth_weekday(bad).is_err(), "{bad}");
    }
}

#[test]
fn blackout_windows_postpone_or_leave_out() {
    let mut nightly = cron("0 7,12,20 * * *", "UTC");
    nightly.blackouts =
        vec!["mon-fri 08:00-18:00".parse().unwrap(), "19:30-02:00".parse().unwrap()];
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
    assert_eq!(
        nightly.next("chat", day + SignedDuration::from_hours(8)).unwrap().why,
        ["postponed by blackout mon-fri 08:00-18:00"]
    );
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
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Over decades and many zones: a fixed daily time has one tick for each date, in order, and
    /// never two at one instant.
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

    /// The next tick does not depend on where one starts looking: from anywhere before it, and not
    /// before the one before, it is the same.
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
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

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

fn every(period: &str, starting: &str, zone: &str) -> Calendar {
    calendar(
        RecurrencePattern::Every {
            period: period.parse::<HumanDuration>().unwrap().into(),
            starting: starting.parse().unwrap(),
        },
        zone,
    )
}
fn instant(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn whole_days_keep_the_time_on_the_wall_and_anything_else_its_distance() {
    for (span, period) in [
        ("1d", TickPeriod::Days(1)),
        ("24h", TickPeriod::Days(1)),
        ("2w", TickPeriod::Days(14)),
        ("36h", TickPeriod::Seconds(129_600)),
        ("86399s", TickPeriod::Seconds(86_399)),
        ("90s", TickPeriod::Seconds(90)),
        // Never nothing, which would be an endless number of ticks.
        ("0s", TickPeriod::Seconds(1)),
    ] {
        assert_eq!(TickPeriod::from(span.parse::<HumanDuration>().unwrap()), period, "{span}");
    }
}

#[test]
fn a_zone_is_known_by_its_name_and_shows_its_own_time() {
    let berlin: TimeZoneName = "Europe/Berlin".parse().unwrap();
    assert_eq!(berlin.name(), "Europe/Berlin");
    assert_eq!(format!("{berlin:?}"), "Zone(Europe/Berlin)");
    assert_eq!(berlin.show(instant("2026-03-29T00:30Z")), "Sun 2026-03-29 01:30 CET");
    assert_eq!(berlin.show(instant("2026-03-29T01:30Z")), "Sun 2026-03-29 03:30 CEST");
    let utc: TimeZoneName = "UTC".parse().unwrap();
    assert_eq!((utc.name(), TimeZoneName::utc().name()), ("UTC", "UTC"));
    assert_eq!(utc.show(instant("2026-03-29T01:30Z")), "Sun 2026-03-29 01:30 UTC");
    for bad in ["Europe/Berlín", "Europe/Nowhere", "", "CEST"] {
        let why = bad.parse::<TimeZoneName>().unwrap_err();
        assert_eq!(why, format!("{bad:?} is no time zone of the database"));
    }
}

#[test]
fn a_day_of_the_month_is_read_in_full_and_in_short() {
    const WHICH: [(&str, i8); 6] =
        [("first", 1), ("second", 2), ("third", 3), ("fourth", 4), ("fifth", 5), ("last", -1)];
    let days = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    for (which, nth) in WHICH {
        for (index, day) in days.into_iter().enumerate() {
            let weekday = Weekday::from_sunday_zero_offset(i8::try_from(index).unwrap()).unwrap();
            for text in
                [format!("{which} {day}"), format!(" {}  {} ", which.to_uppercase(), &day[..3])]
            {
                assert_eq!(nth_weekday(&text), Ok((nth, weekday)), "{text}");
            }
        }
    }
    for bad in ["first", "first tues", "last first", "1 monday", "first monday tuesday"] {
        let why = nth_weekday(bad).unwrap_err();
        assert!(why.contains("is no day of a month; write for example \"first tuesday\""), "{why}");
    }
}

#[test]
fn a_window_is_read_with_days_hours_or_both() {
    let days = |text: &str| text.parse::<Blackout>().unwrap().days.map(u8::from);
    for (text, expected) in [
        ("mon-fri 08:00-18:00", [0, 1, 1, 1, 1, 1, 0]),
        ("Monday,Wed-Thursday 08:00-18:00", [0, 1, 0, 1, 1, 0, 0]),
        ("22:00-06:00", [1; 7]),
        ("sat,sun", [1, 0, 0, 0, 0, 0, 1]),
        ("thu-tue", [1, 1, 1, 0, 1, 1, 1]),
        ("wed-wed", [0, 0, 0, 1, 0, 0, 0]),
    ] {
        assert_eq!(days(text), expected, "{text}");
    }
    for bad in [
        "mon-",
        "-fri",
        "mon,",
        "mon-fri-sat",
        "08:00-18:00 mon",
        "mon 08:00",
        "mon 08:00-18:00 sat",
        "08:00-",
        "08:00-24:01",
    ] {
        let why = bad.parse::<Blackout>().unwrap_err();
        assert_eq!(
            why,
            format!(
                "{bad:?} is no window; write for example \"mon-fri 08:00-18:00\", \"22:00-06:00\" or \"sat,sun\""
            )
        );
    }
}

#[test]
fn a_window_holds_its_first_moment_and_not_its_last_and_belongs_to_the_day_it_begins_on() {
    // The 23rd of November 2026 is a Monday.
    for (text, local, end) in [
        ("mon-fri 08:00-18:00", "2026-11-23T07:59:59", None),
        ("mon-fri 08:00-18:00", "2026-11-23T08:00", Some("2026-11-23T18:00")),
        ("mon-fri 08:00-18:00", "2026-11-27T17:59:59", Some("2026-11-27T18:00")),
        ("mon-fri 08:00-18:00", "2026-11-27T18:00", None),
        ("mon-fri 08:00-18:00", "2026-11-28T12:00", None),
        // Over midnight.
        ("fri 22:00-06:00", "2026-11-27T05:00", None),
        ("fri 22:00-06:00", "2026-11-27T21:59:59", None),
        ("fri 22:00-06:00", "2026-11-27T22:00", Some("2026-11-28T06:00")),
        ("fri 22:00-06:00", "2026-11-28T05:59:59", Some("2026-11-28T06:00")),
        ("fri 22:00-06:00", "2026-11-28T06:00", None),
        ("fri 22:00-06:00", "2026-11-28T22:00", None),
        ("22:00-24:00", "2026-11-27T23:00", Some("2026-11-28T00:00")),
        ("22:00-24:00", "2026-11-28T00:00", None),
        // Whole days.
        ("sat,sun", "2026-11-27T23:59:59", None),
        ("sat,sun", "2026-11-28T00:00", Some("2026-11-29T00:00")),
        ("sat,sun", "2026-11-29T23:59:59", Some("2026-11-30T00:00")),
        ("sat,sun", "2026-11-30T00:00", None),
        ("mon 08:00-08:00", "2026-11-24T07:59", Some("2026-11-24T08:00")),
    ] {
        let window: Blackout = text.parse().unwrap();
        let found = window
            .end_of(local.parse().unwrap())
            .map(|end| end.strftime("%Y-%m-%dT%H:%M").to_string());
        assert_eq!(found.as_deref(), end, "{text} at {local}");
    }
}

#[test]
fn a_tick_says_why_it_is_not_simply_when_the_pattern_says() {
    let windows = |in_blackout, texts: &[&str]| {
        let blackouts = texts.iter().map(|text| text.parse().unwrap()).collect();
        Calendar { blackouts, in_blackout, ..cron("0 12 * * *", "UTC") }
    };
    let noon = instant("2026-11-24T12:00Z");
    let tick = windows(InBlackout::Postpone, &["13:00-14:00"]).tick("chat", noon);
    assert_eq!(
        tick,
        Tick { nominal: noon, due: Some(noon), why: Vec::new() },
        "no window, no reason"
    );
    // From one window into the next, whatever their order.
    let tick = windows(InBlackout::Postpone, &["13:00-14:00", "11:00-13:00"]).tick("chat", noon);
    assert_eq!(tick.due, Some(instant("2026-11-24T14:00Z")));
    assert_eq!(
        tick.why,
        ["postponed by blackout 11:00-13:00", "postponed by blackout 13:00-14:00"]
    );
    let tick = windows(InBlackout::Skip, &["13:00-14:00", "11:00-13:00"]).tick("chat", noon);
    assert_eq!(
        tick,
        Tick { nominal: noon, due: None, why: vec!["left out by blackout 11:00-13:00".to_owned()] }
    );
    let tick = windows(InBlackout::Postpone, &["sun-sat"]).tick("chat", noon);
    assert_eq!(tick.due, None);
    assert_eq!(tick.why.last().unwrap(), "the blackout windows leave no room");
    let mut late = windows(InBlackout::Postpone, &["12:00-12:01"]);
    late.jitter = Duration::from_secs(3600);
    let tick = late.tick("chat", noon);
    assert!(
        tick.due.unwrap() >= instant("2026-11-24T12:01Z") && tick.why[0].ends_with(" of jitter"),
        "jitter comes before windows: {tick:?}"
    );
}

#[test]
fn jitter_is_spread_over_all_seconds_up_to_its_bound_and_differs_between_jobs() {
    let mut nightly = cron("0 3 * * *", "UTC");
    let late = |calendar: &Calendar, job: &str, day: i64| {
        let nominal = instant("2026-01-01T03:00Z") + SignedDuration::from_hours(24 * day);
        calendar.tick(job, nominal).due.unwrap().duration_since(nominal).as_secs()
    };
    assert_eq!(
        nightly.tick("chat", instant("2026-01-01T03:00Z")).why,
        Vec::<String>::new(),
        "none is none"
    );
    for most in [1, 2, 5] {
        nightly.jitter = Duration::from_secs(most);
        let seen: std::collections::BTreeSet<_> =
            (0..100).map(|day| late(&nightly, "chat", day)).collect();
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            (0..=i64::try_from(most).unwrap()).collect::<Vec<_>>()
        );
    }
    nightly.jitter = Duration::from_secs(3600);
    assert!(
        (0..100).filter(|day| late(&nightly, "chat", *day) != late(&nightly, "wiki", *day)).count()
            > 90
    );
    // Hosts of different versions must agree.
    assert_eq!([0, 1, 2].map(|day| late(&nightly, "chat", day)), [1111, 3127, 1460]);
    assert_eq!(nightly.tick("chat", instant("2026-01-01T03:00Z")).why, ["18 min 31 s of jitter"]);
}

#[test]
fn only_a_tick_that_a_change_of_the_clocks_moved_or_doubled_is_noted() {
    for (text, zone, nominal, note) in [
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T01:30Z", None),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-29T01:30Z",
            Some("02:30 does not exist that night"),
        ),
        ("30 2 * * *", "Europe/Berlin", "2026-03-30T00:30Z", None),
        // It stands there by itself.
        ("30 3 * * *", "Europe/Berlin", "2026-03-29T01:30Z", None),
        (
            "30 2,3 * * *",
            "Europe/Berlin",
            "2026-03-29T01:30Z",
            Some("02:30 does not exist that night"),
        ),
        // The same day, hours after the change.
        ("0 11,12 * * *", "Europe/Berlin", "2026-03-29T10:00Z", None),
        ("0 11,12 * * *", "Europe/Berlin", "2026-10-25T11:00Z", None),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30Z", Some("02:30 exists twice that night")),
        ("0 2 * * *", "Europe/Berlin", "2026-10-25T00:00Z", Some("02:00 exists twice that night")),
        ("0 3 * * *", "Europe/Berlin", "2026-10-25T02:00Z", None),
        (
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-25T01:30Z",
            Some("02:30 exists twice that night"),
        ),
        // Half an hour at Lord Howe.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T15:45Z",
            Some("02:15 does not exist that night"),
        ),
        ("30 2 * * *", "UTC", "2026-03-29T02:30Z", None),
    ] {
        let tick = cron(text, zone).tick("chat", instant(nominal));
        assert_eq!(
            (tick.why.first().map(String::as_str), tick.why.len()),
            (note, usize::from(note.is_some())),
            "{text} {nominal}"
        );
        assert_eq!(tick.due, Some(tick.nominal));
    }
}

#[test]
fn only_an_interval_runs_twice_in_the_repeated_hour() {
    let (from, to) = ("2026-10-24T12:00Z", "2026-10-25T12:00Z");
    for (calendar, expected) in [
        (cron("30 2 * * *", "Europe/Berlin"), vec!["25 02:30 CEST"]),
        (cron("30 */2 * * *", "Europe/Berlin"), vec!["25 02:30 CEST", "25 02:30 CET"]),
        (every("1d", "2026-10-20T02:30", "Europe/Berlin"), vec!["25 02:30 CEST"]),
        (
            calendar(
                RecurrencePattern::Monthly {
                    nth: -1,
                    weekday: Weekday::Sunday,
                    at: Time::constant(2, 30, 0, 0),
                },
                "Europe/Berlin",
            ),
            vec!["25 02:30 CEST"],
        ),
    ] {
        let mut found = ticks(&calendar, from, to);
        found.retain(|tick| tick.contains(" 02:"));
        assert_eq!(found, expected, "{}", calendar.describe());
    }
}

#[test]
fn every_so_often_begins_with_its_beginning() {
    for (period, starting, after, expected) in [
        ("6h", "2026-03-28T10:00", "2020-01-01T00:00Z", "2026-03-28T10:00Z"),
        ("6h", "2026-03-28T10:00", "2026-03-28T09:59:59.5Z", "2026-03-28T10:00Z"),
        ("6h", "2026-03-28T10:00", "2026-03-28T10:00Z", "2026-03-28T16:00Z"),
        ("6h", "2026-03-28T10:00", "2026-03-28T10:00:00.5Z", "2026-03-28T16:00Z"),
        ("6h", "2026-03-28T10:00", "2026-03-29T03:59:59Z", "2026-03-29T04:00Z"),
        ("3d", "2026-03-28T10:00", "2020-01-01T00:00Z", "2026-03-28T10:00Z"),
        ("3d", "2026-03-28T10:00", "2026-03-28T09:59:59Z", "2026-03-28T10:00Z"),
        ("3d", "2026-03-28T10:00", "2026-03-28T10:00Z", "2026-03-31T10:00Z"),
        ("3d", "2026-03-28T10:00", "2026-03-31T09:59Z", "2026-03-31T10:00Z"),
        ("3d", "2026-03-28T10:00", "2026-03-31T10:01Z", "2026-04-03T10:00Z"),
        ("3d", "2026-03-28T10:00", "2027-03-28T10:00Z", "2027-03-29T10:00Z"),
    ] {
        let calendar = every(period, starting, "UTC");
        assert_eq!(
            calendar.next_nominal(instant(after)),
            Some(instant(expected)),
            "{period} after {after}"
        );
    }
}

#[test]
fn a_monthly_time_is_never_after_itself_and_passes_months_without_it() {
    let monthly = |nth, weekday| {
        calendar(
            RecurrencePattern::Monthly { nth, weekday, at: Time::constant(9, 30, 0, 0) },
            "UTC",
        )
    };
    for (nth, after, expected) in [
        // Mondays: the 2nd and the 30th of November 2026, the 7th and the 28th of December; none
        // is the fifth.
        (1, "2026-11-02T09:29:59Z", "2026-11-02T09:30Z"),
        (1, "2026-11-02T09:30Z", "2026-12-07T09:30Z"),
        (-1, "2026-11-02T09:30Z", "2026-11-30T09:30Z"),
        (-1, "2026-11-30T09:30Z", "2026-12-28T09:30Z"),
        (5, "2026-11-02T09:30Z", "2026-11-30T09:30Z"),
        (5, "2026-11-30T09:30Z", "2027-03-29T09:30Z"),
    ] {
        assert_eq!(
            monthly(nth, Weekday::Monday).next_nominal(instant(after)),
            Some(instant(expected)),
            "{nth} after {after}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Seconds keep their distance from the beginning, whatever the clocks do.
    #[test]
    fn a_period_of_seconds_has_its_next_tick_within_a_period(zone in 0..ZONES.len(), seconds in 1..100_000i64, ahead in -500_000..500_000i64) {
        let starting: DateTime = "2026-10-25T02:30".parse().unwrap();
        let calendar = calendar(RecurrencePattern::Every { period: TickPeriod::Seconds(seconds), starting }, ZONES[zone]);
        let first = calendar.zone.zone().to_ambiguous_timestamp(starting).compatible().unwrap();
        let after = first + SignedDuration::from_secs(ahead);
        let next = calendar.next_nominal(after).unwrap();
        prop_assert!(next > after && next >= first);
        prop_assert!(next == first || next.as_second() - after.as_second() <= seconds);
        prop_assert_eq!((next.as_second() - first.as_second()) % seconds, 0);
    }
}

#[test]
fn what_recurs_is_described_in_words() {
    let monthly = |nth, weekday| {
        calendar(
            RecurrencePattern::Monthly { nth, weekday, at: Time::constant(9, 30, 0, 0) },
            "UTC",
        )
    };
    for (calendar, words) in [
        (cron("30 2 * * *", "Europe/Berlin"), "cron 30 2 * * *, Europe/Berlin"),
        (cron("@daily", "UTC"), "cron @daily, UTC"),
        (every("2w", "2026-11-24T10:00", "UTC"), "every 2 weeks from 2026-11-24 10:00, UTC"),
        (every("21d", "2026-11-24T10:00", "UTC"), "every 3 weeks from 2026-11-24 10:00, UTC"),
        (every("10d", "2026-11-24T10:00", "UTC"), "every 10 days from 2026-11-24 10:00, UTC"),
        (every("36h", "2026-11-24T10:00", "UTC"), "every 36h from 2026-11-24 10:00, UTC"),
        (every("15m", "2026-11-24T10:00", "UTC"), "every 15m from 2026-11-24 10:00, UTC"),
        (monthly(-1, Weekday::Friday), "last Friday of the month at 09:30, UTC"),
        (monthly(1, Weekday::Sunday), "first Sunday of the month at 09:30, UTC"),
        (monthly(2, Weekday::Monday), "second Monday of the month at 09:30, UTC"),
        (monthly(3, Weekday::Monday), "third Monday of the month at 09:30, UTC"),
        (monthly(4, Weekday::Monday), "fourth Monday of the month at 09:30, UTC"),
        (monthly(5, Weekday::Monday), "fifth Monday of the month at 09:30, UTC"),
    ] {
        assert_eq!(calendar.describe(), words);
    }
}

#[test]
fn a_beginning_without_a_time_of_day_is_midnight() {
    let date = Date::constant(2026, 11, 24);
    assert_eq!(beginning(date, None), "2026-11-24T00:00".parse().unwrap());
    assert_eq!(
        beginning(date, Some(Time::constant(10, 30, 0, 0))),
        "2026-11-24T10:30".parse().unwrap()
    );
}

#[test]
fn a_window_that_ends_in_the_repeated_hour_postpones_to_its_second_end_too() {
    let mut quarters = cron("*/15 * * * *", "Europe/Berlin");
    quarters.blackouts = vec!["01:00-02:30".parse().unwrap()];
    // 02:15 for the second time that night: the first 02:30 is over.
    let tick = quarters.tick("chat", "2026-10-25T01:15:00Z".parse().unwrap());
    assert_eq!(tick.due, Some("2026-10-25T01:30:00Z".parse().unwrap()), "{:?}", tick.why);
    let tick = quarters.tick("chat", "2026-10-25T00:15:00Z".parse().unwrap());
    assert_eq!(tick.due, Some("2026-10-25T00:30:00Z".parse().unwrap()), "{:?}", tick.why);
}

#[test]
fn a_period_longer_than_any_calendar_comes_once_and_then_never() {
    let every = calendar(
        RecurrencePattern::Every {
            period: TickPeriod::Days(10_500_000),
            starting: "2026-01-01T00:00".parse().unwrap(),
        },
        "UTC",
    );
    assert_eq!(
        every.next_nominal("2025-01-01T00:00:00Z".parse().unwrap()),
        Some("2026-01-01T00:00:00Z".parse().unwrap())
    );
    assert_eq!(every.next_nominal("2026-06-01T00:00:00Z".parse().unwrap()), None);
}

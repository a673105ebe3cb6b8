//! Cron expressions in the meaning that everybody knows from crontab.
//!
//! Five fields: minute, hour, day of month, month, day of week. 0 and 7 are Sunday. When day of
//! month and day of week are both given, either is enough; where one of them begins with `*` both
//! must match, as in Vixie's cron. The crate `cron` iterates the matching local times; it counts
//! days of the week from 1, knows seconds and joins the days with AND, so it is given lists of
//! plain numbers, and two schedules where either day is enough.

use std::collections::BTreeSet;
use std::str::FromStr;

use chrono::{DateTime as ChronoTime, Datelike, NaiveDate, Timelike, Utc};
use jiff::civil::DateTime;

/// A parsed expression.
#[derive(Debug, Clone)]
pub struct Crontab {
    text: String,
    schedules: Vec<cron::Schedule>,
    interval: bool,
}

struct CronField {
    name: &'static str,
    low: u8,
    high: u8,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
/// Names of the days as crontab numbers them.
pub const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [CronField; 5] = [
    CronField { name: "minute", low: 0, high: 59, names: &[] },
    CronField { name: "hour", low: 0, high: 23, names: &[] },
    CronField { name: "day of month", low: 1, high: 31, names: &[] },
    CronField { name: "month", low: 1, high: 12, names: &MONTHS },
    CronField { name: "day of week", low: 0, high: 7, names: &DAYS },
];
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl CronField {
    fn number(&self, text: &str) -> Result<u8, String> {
        if let Some(index) = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(self.low + u8::try_from(index).unwrap_or_default());
        }
        let plain = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        match text.parse() {
            Ok(number) if plain && (self.low..=self.high).contains(&number) => Ok(number),
            _ => Err(format!(
                "{text:?} is no {}; write a number from {} to {}",
                self.name, self.low, self.high
            )),
        }
    }

    fn parse(&self, text: &str) -> Result<BTreeSet<u8>, String> {
        let mut set = BTreeSet::new();
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => match step.parse::<u8>() {
                    Ok(step)
                        if step > 0
                            && step <= self.high
                            && step.to_string() == *step_text(part) =>
                    {
                        (range, step)
                    }
                    _ => {
                        return Err(format!(
                            "{part:?} has no usable step for the {}; write */N with N from 1 to {}",
                            self.name, self.high
                        ));
                    }
                },
                None => (part, 1),
            };
            let (from, to) = match range.split_once('-') {
                _ if range == "*" => (self.low, if self.high == 7 { 6 } else { self.high }),
                Some((from, to)) => (self.number(from)?, self.number(to)?),
                None if part.contains('/') => {
                    return Err(format!("{part:?}: a step needs a range or * before it"));
                }
                None => (self.number(range)?, self.number(range)?),
            };
            if from > to {
                return Err(format!("{range:?} runs backwards in the {}", self.name));
            }
            set.extend((from..=to).step_by(step.into()));
        }
        if self.high == 7 && set.remove(&7) {
            set.insert(0);
        }
        Ok(set)
    }
}

fn step_text(part: &str) -> &str {
    part.split_once('/').map_or("", |(_, step)| step)
}

fn list(set: &BTreeSet<u8>, add: u8) -> String {
    set.iter().map(|number| (number + add).to_string()).collect::<Vec<_>>().join(",")
}

impl FromStr for Crontab {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let expanded = match NICKNAMES.iter().find(|(name, _)| *name == text) {
            Some((_, fields)) => fields,
            None if text == "@reboot" => {
                return Err("@reboot is no time; use catch_up to run what was missed".to_owned());
            }
            None if text.starts_with('@') => {
                let known = NICKNAMES.map(|(name, _)| name).join(", ");
                return Err(format!("{text} is not known; known are {known}"));
            }
            None => text,
        };
        let words: Vec<&str> = expanded.split_whitespace().collect();
        let Ok(words) = <[&str; 5]>::try_from(words) else {
            let count = expanded.split_whitespace().count();
            return Err(format!(
                "{count} fields stand where five belong: minute, hour, day of month, month, day of week"
            ));
        };
        let mut sets = Vec::new();
        for (field, word) in FIELDS.iter().zip(words) {
            sets.push(field.parse(word)?);
        }
        let [_, _, days, _, weekdays] = words;
        let (minute, hour, month) = (list(&sets[0], 0), list(&sets[1], 0), list(&sets[3], 0));
        let day =
            |days: Option<&BTreeSet<u8>>| days.map_or_else(|| "*".to_owned(), |set| list(set, 0));
        // The crate counts the days of the week from 1.
        let weekday =
            |days: Option<&BTreeSet<u8>>| days.map_or_else(|| "*".to_owned(), |set| list(set, 1));
        let both_given = !days.starts_with('*') && !weekdays.starts_with('*');
        let pairs = if both_given {
            vec![(day(Some(&sets[2])), weekday(None)), (day(None), weekday(Some(&sets[4])))]
        } else {
            vec![(day(Some(&sets[2])), weekday(Some(&sets[4])))]
        };
        let schedule = |(day, weekday): (String, String)| {
            cron::Schedule::from_str(&format!("0 {minute} {hour} {day} {month} {weekday}"))
                .map_err(|error| error.to_string())
        };
        let schedules = pairs.into_iter().map(schedule).collect::<Result<Vec<_>, _>>()?;
        let crontab = Self {
            text: text.to_owned(),
            schedules,
            interval: words[0].starts_with('*') || words[1].starts_with('*'),
        };
        if crontab.after(DateTime::constant(2000, 1, 1, 0, 0, 0, 0)).is_none() {
            return Err("this time never comes".to_owned());
        }
        Ok(crontab)
    }
}

impl Crontab {
    /// The expression as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether minute or hour begin with `*`: such a job keeps an interval; any other has a fixed
    /// time.
    #[must_use]
    pub fn is_interval(&self) -> bool {
        self.interval
    }

    /// The first matching local time after another, whatever a time zone makes of it. None behind
    /// the year 2100.
    #[must_use]
    pub fn after(&self, local: DateTime) -> Option<DateTime> {
        let (year, month, day) = (
            i32::from(local.year()),
            u32::from(local.month().unsigned_abs()),
            u32::from(local.day().unsigned_abs()),
        );
        let date = NaiveDate::from_ymd_opt(year, month, day)?;
        let part = |number: i8| u32::from(number.unsigned_abs());
        let naive =
            date.and_hms_opt(part(local.hour()), part(local.minute()), part(local.second()))?;
        let after = ChronoTime::<Utc>::from_naive_utc_and_offset(naive, Utc);
        let next =
            self.schedules.iter().filter_map(|schedule| schedule.after(&after).next()).min()?;
        let small = |number: u32| i8::try_from(number).ok();
        DateTime::new(
            i16::try_from(next.year()).ok()?,
            small(next.month())?,
            small(next.day())?,
            small(next.hour())?,
            small(next.minute())?,
            0,
            0,
        )
        .ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use jiff::ToSpan;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime {
        text.parse().unwrap()
    }
    fn next(expression: &str, after: &str) -> String {
        expression.parse::<Crontab>().unwrap().after(at(after)).unwrap().to_string()
    }

    #[test]
    fn crontab_means_what_everybody_knows() {
        assert_eq!(next("30 2 * * *", "2026-11-24T02:30"), "2026-11-25T02:30:00");
        // 0 and 7 are Sunday, 1 is Monday.
        assert_eq!(next("0 4 * * 0", "2026-11-24T00:00"), "2026-11-29T04:00:00");
        assert_eq!(next("0 4 * * 7", "2026-11-24T00:00"), "2026-11-29T04:00:00");
        assert_eq!(next("0 4 * * 1", "2026-11-24T00:00"), "2026-11-30T04:00:00");
        assert_eq!(next("0 4 * * fri-7", "2026-11-28T05:00"), "2026-11-29T04:00:00");
        // Day of month OR day of week when both are given: the 13th, and Fridays.
        assert_eq!(next("0 0 13 * 5", "2026-11-24T00:00"), "2026-11-27T00:00:00");
        assert_eq!(next("0 0 13 * 5", "2026-12-12T00:00"), "2026-12-13T00:00:00");
        // AND where one of them begins with a star.
        assert_eq!(next("0 0 */2 * 5", "2026-11-24T00:00"), "2026-11-27T00:00:00");
        assert_eq!(next("0 0 */2 * 5", "2026-11-27T00:00"), "2026-12-11T00:00:00");
        assert_eq!(next("@daily", "2026-11-24T10:00"), "2026-11-25T00:00:00");
        assert_eq!(next("@weekly", "2026-11-24T10:00"), "2026-11-29T00:00:00");
        assert_eq!(
            next("5-20/5 9-17 * jan,jul mon-fri", "2026-11-24T10:00"),
            "2027-01-01T09:05:00"
        );
        assert_eq!(next("0 0 29 2 *", "2026-11-24T10:00"), "2028-02-29T00:00:00");
    }

    #[test]
    fn what_cron_cannot_say_is_refused_in_words() {
        for (bad, word) in [
            ("* * * *", "five belong"),
            ("0 30 2 * * *", "five belong"),
            ("60 * * * *", "from 0 to 59"),
            ("* 24 * * *", "no hour"),
            ("* * 0 * *", "from 1 to 31"),
            ("* * * 13 *", "no month"),
            ("* * * * 8", "from 0 to 7"),
            ("*/0 * * * *", "no usable step"),
            ("5/10 * * * *", "needs a range"),
            ("30-10 * * * *", "backwards"),
            ("0 0 30 2 *", "never comes"),
            ("@reboot", "catch_up"),
            ("@fortnightly", "known are"),
            ("0 0 * * tue#1", "no day of week"),
            ("0 0 L * *", "no day of month"),
            ("", "five belong"),
            ("+5 * * * *", "no minute"),
        ] {
            let why = bad.parse::<Crontab>().expect_err(bad);
            assert!(why.contains(word), "{bad}: {why}");
        }
    }

    fn expression() -> impl Strategy<Value = String> {
        let minute = prop_oneof![
            Just("*".to_owned()),
            Just("*/7".to_owned()),
            (0..60u8).prop_map(|m| m.to_string()),
            Just("5,35".to_owned())
        ];
        let hour = prop_oneof![
            Just("*".to_owned()),
            Just("*/5".to_owned()),
            (0..24u8).prop_map(|h| h.to_string()),
            Just("1-3".to_owned())
        ];
        let day = prop_oneof![3 => Just("*".to_owned()), 1 => (1..29u8).prop_map(|d| d.to_string()), 1 => Just("*/3".to_owned())];
        let month = prop_oneof![4 => Just("*".to_owned()), 1 => Just("feb,3,OCT-12".to_owned())];
        let weekday = prop_oneof![3 => Just("*".to_owned()), 1 => (0..8u8).prop_map(|d| d.to_string()), 1 => Just("mon-fri/2".to_owned())];
        (minute, hour, day, month, weekday)
            .prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}"))
    }

    /// The first local time after another that crontab(5) says matches, found by trying every
    /// minute of every hour of every day.
    fn scan(text: &str, start: DateTime) -> DateTime {
        let words: Vec<&str> = text.split_whitespace().collect();
        let sets: Vec<BTreeSet<u8>> =
            FIELDS.iter().zip(&words).map(|(field, word)| field.parse(word).unwrap()).collect();
        let has = |field: usize, number: i8| sets[field].contains(&number.unsigned_abs());
        let either = !words[2].starts_with('*') && !words[4].starts_with('*');
        let is_day = |day: DateTime| {
            let (date, weekday) =
                (has(2, day.day()), has(4, day.weekday().to_sunday_zero_offset()));
            has(3, day.month()) && if either { date || weekday } else { date && weekday }
        };
        // Each expression of `expression` comes at least once a year.
        let days = (0..400)
            .map(|day| start.date().to_datetime(jiff::civil::Time::midnight()) + day.days());
        let hours = |day: DateTime| {
            (0..24).filter(|hour| has(1, *hour)).map(move |hour| day + i64::from(hour).hours())
        };
        let minutes = |hour: DateTime| {
            (0..60)
                .filter(|minute| has(0, *minute))
                .map(move |minute| hour + i64::from(minute).minutes())
        };
        days.filter(|day| is_day(*day))
            .flat_map(hours)
            .flat_map(minutes)
            .find(|time| *time > start)
            .unwrap()
    }

    proptest! {
        /// The crate, as it is used here, against a scan of every minute.
        #[test]
        fn the_next_time_is_the_first_that_matches(text in expression(), day in 0..40_000i32, minute in 0..1440i32) {
            let crontab: Crontab = text.parse().unwrap();
            let start = at("1990-01-01T00:00") + i64::from(day).days() + i64::from(minute).minutes();
            let (found, scanned) = (crontab.after(start), scan(&text, start));
            if scanned.year() <= 2099 {
                prop_assert_eq!(found, Some(scanned));
            } else {
                prop_assert!(found.is_none_or(|found| found == scanned), "{:?} {}", found, scanned);
            }
        }
    }

    #[test]
    fn every_name_means_its_number() {
        for (index, name) in MONTHS.into_iter().enumerate() {
            let expected = format!("2027-{:02}-01T00:00:00", index + 1);
            assert_eq!(next(&format!("0 0 1 {name} *"), "2026-12-31T00:00"), expected);
            assert_eq!(
                next(&format!("0 0 1 {} *", name.to_uppercase()), "2026-12-31T00:00"),
                expected
            );
        }
        // The 29th of November 2026 is a Sunday.
        for (index, name) in DAYS.into_iter().enumerate() {
            let expected = ["29", "30", "24", "25", "26", "27", "28"][index];
            assert_eq!(
                next(&format!("0 0 * * {name}"), "2026-11-23T12:00"),
                format!("2026-11-{expected}T00:00:00")
            );
            assert_eq!(
                next(&format!("0 0 * * {index}"), "2026-11-23T12:00"),
                format!("2026-11-{expected}T00:00:00")
            );
        }
    }

    #[test]
    fn a_field_is_a_list_of_numbers_ranges_and_steps() {
        let [minute, hour, day, month, weekday] = &FIELDS;
        for (field, text, expected) in [
            (minute, "0,59", vec![0, 59]),
            (minute, "5-5", vec![5]),
            (minute, "*/59", vec![0, 59]),
            (minute, "10-30/10", vec![10, 20, 30]),
            (minute, "1,1-3,2", vec![1, 2, 3]),
            (hour, "*/23", vec![0, 23]),
            (hour, "22-23,0", vec![0, 22, 23]),
            (day, "*/15", vec![1, 16, 31]),
            (day, "31", vec![31]),
            (month, "*/5", vec![1, 6, 11]),
            (month, "nov-12", vec![11, 12]),
            (weekday, "*", vec![0, 1, 2, 3, 4, 5, 6]),
            (weekday, "*/3", vec![0, 3, 6]),
            (weekday, "7", vec![0]),
            (weekday, "6-7", vec![0, 6]),
            (weekday, "0-7", vec![0, 1, 2, 3, 4, 5, 6]),
            (weekday, "0-6/7", vec![0]),
        ] {
            assert_eq!(
                field.parse(text).unwrap().into_iter().collect::<Vec<_>>(),
                expected,
                "{text} as {}",
                field.name
            );
        }
        assert_eq!(
            day.parse("*").unwrap().into_iter().collect::<Vec<_>>(),
            (1..=31).collect::<Vec<_>>()
        );
        assert_eq!(
            hour.parse("*").unwrap().into_iter().collect::<Vec<_>>(),
            (0..=23).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_field_that_means_nothing_is_refused() {
        let [minute, hour, day, month, weekday] = &FIELDS;
        for (field, text, word) in [
            (minute, "*/60", "write */N with N from 1 to 59"),
            (minute, "*/0", "no usable step for the minute"),
            (minute, "*/05", "no usable step"),
            (minute, "*/+5", "no usable step"),
            (minute, "*/", "no usable step"),
            (minute, "*/5/5", "no usable step"),
            (minute, "*/300", "no usable step"),
            (minute, "5/5", "a step needs a range or * before it"),
            (minute, "1,", "\"\" is no minute; write a number from 0 to 59"),
            (minute, "-5", "is no minute"),
            (minute, "1-2-3", "is no minute"),
            (minute, "256", "is no minute"),
            (minute, "jan", "is no minute"),
            (hour, "*/24", "with N from 1 to 23"),
            (hour, "9-8", "runs backwards in the hour"),
            (day, "32", "from 1 to 31"),
            (month, "0", "from 1 to 12"),
            (month, "january", "is no month"),
            (weekday, "sat-sun", "runs backwards in the day of week"),
            (weekday, "*/8", "with N from 1 to 7"),
        ] {
            let why = field.parse(text).unwrap_err();
            assert!(why.contains(word), "{text} as {}: {why}", field.name);
        }
    }

    #[test]
    fn a_nickname_is_short_for_five_fields() {
        for (nickname, fields, interval) in [
            ("@yearly", "0 0 1 1 *", false),
            ("@annually", "0 0 1 1 *", false),
            ("@monthly", "0 0 1 * *", false),
            ("@weekly", "0 0 * * 0", false),
            ("@daily", "0 0 * * *", false),
            ("@midnight", "0 0 * * *", false),
            ("@hourly", "0 * * * *", true),
        ] {
            let crontab: Crontab = nickname.parse().unwrap();
            assert_eq!(crontab.text(), nickname, "it is shown as it was written");
            assert_eq!(crontab.is_interval(), interval, "{nickname}");
            for start in ["2026-11-24T10:17", "2026-12-31T23:59", "2028-02-28T00:00"] {
                assert_eq!(
                    crontab.after(at(start)).unwrap().to_string(),
                    next(fields, start),
                    "{nickname} after {start}"
                );
            }
        }
        let why = "@fortnightly".parse::<Crontab>().unwrap_err();
        assert_eq!(
            why,
            "@fortnightly is not known; known are @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly"
        );
    }

    #[test]
    fn minutes_or_hours_that_begin_with_a_star_make_an_interval() {
        for (text, interval) in [
            ("*/15 * * * *", true),
            ("*/15 3 * * *", true),
            ("0 */6 * * *", true),
            ("0 * * * *", true),
            ("30 2 * * *", false),
            ("0,30 2-4 * * *", false),
            ("30 2 */2 */3 *", false),
        ] {
            let crontab: Crontab = text.parse().unwrap();
            assert_eq!((crontab.is_interval(), crontab.text()), (interval, text));
        }
        assert_eq!("  30   2 * * *  ".parse::<Crontab>().unwrap().text(), "30   2 * * *");
    }

    #[test]
    fn either_day_is_enough_only_where_both_are_given_without_a_star() {
        // The 1st of December 2026 is a Tuesday, the 4th a Friday.
        for (text, expected) in [
            ("0 0 1 * 5", ["2026-12-01", "2026-12-04", "2026-12-11"]),
            ("0 0 1-7 * 5", ["2026-12-01", "2026-12-02", "2026-12-03"]),
            ("0 0 */7 * 5", ["2027-01-01", "2027-01-08", "2027-01-15"]),
            ("0 0 1 * */5", ["2027-01-01", "2027-08-01", "2027-10-01"]),
            ("0 0 1 * *", ["2026-12-01", "2027-01-01", "2027-02-01"]),
            ("0 0 * * 5", ["2026-12-04", "2026-12-11", "2026-12-18"]),
        ] {
            let crontab: Crontab = text.parse().unwrap();
            let mut here = at("2026-11-30T12:00");
            for day in expected {
                here = crontab.after(here).unwrap();
                assert_eq!(here, at(&format!("{day}T00:00")), "{text}");
            }
        }
    }

    #[test]
    fn a_time_is_never_after_itself_and_seconds_count() {
        assert_eq!(next("30 2 * * *", "2026-11-24T02:29:59"), "2026-11-24T02:30:00");
        assert_eq!(next("30 2 * * *", "2026-11-24T02:30:00"), "2026-11-25T02:30:00");
        assert_eq!(next("30 2 * * *", "2026-11-24T02:30:01"), "2026-11-25T02:30:00");
        assert_eq!(next("59 23 31 12 *", "2026-12-31T23:58:59"), "2026-12-31T23:59:00");
    }

    #[test]
    fn times_end_behind_the_year_2100() {
        let daily: Crontab = "30 2 * * *".parse().unwrap();
        assert_eq!(daily.after(at("2099-12-30T12:00")), Some(at("2099-12-31T02:30")));
        assert_eq!(daily.after(at("2101-01-01T00:00")), None);
        let leap: Crontab = "0 0 29 2 *".parse().unwrap();
        assert_eq!(leap.after(at("2096-03-01T00:00")), None, "2100 is no leap year");
    }

    #[test]
    fn the_number_of_fields_is_told() {
        for (text, count) in [("", 0), ("0 2 * *", 4), ("0 0 2 * * *", 6)] {
            let why = text.parse::<Crontab>().unwrap_err();
            assert_eq!(
                why,
                format!(
                    "{count} fields stand where five belong: minute, hour, day of month, month, day of week"
                )
            );
        }
    }
}

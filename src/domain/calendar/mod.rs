//! Calendars: cron expressions and recurrences that cron cannot express, in a named time zone,
//! DST-aware.
//!
//! A *tick* is one scheduled time of one job. It is identified by its nominal instant, the same on
//! every host, whatever jitter and blackout windows do to the moment at which it is due. Everything
//! here is a pure function of its arguments.
//!
//! On a DST change, a job with a fixed time runs exactly once: where its time does not exist, later
//! by the amount the clocks were set forward; where it exists twice, the first time. An interval
//! job (minute or hour begin with `*`) runs whenever local time matches, in the repeated hour as
//! well, so that its interval never grows by that hour.

pub mod crontab;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

pub use crontab::Crontab;

use super::human_duration::{HumanDuration, format_duration};

/// How often a tick is moved out of one blackout window into the next before it is given up.
const WINDOWS_CHAINED_MAX: usize = 32;

/// When a job runs.
#[derive(Debug, Clone)]
pub struct Calendar {
    /// What recurs.
    pub pattern: RecurrencePattern,
    /// Where the clock hangs.
    pub zone: TimeZoneName,
    /// Up to this much later than scheduled, by chance, the same on every host.
    pub jitter: Duration,
    /// When nothing may begin.
    pub blackouts: Vec<Blackout>,
    /// What becomes of a tick within a blackout window.
    pub in_blackout: InBlackout,
}

/// What recurs.
#[derive(Debug, Clone)]
pub enum RecurrencePattern {
    /// As crontab says.
    Cron(Crontab),
    /// Every so often, counted from a beginning.
    Every {
        /// How often.
        period: TickPeriod,
        /// The first time, by the clock on the wall.
        starting: DateTime,
    },
    /// A weekday of each month.
    Monthly {
        /// Which of them: 1 to 5, or -1 for the last.
        nth: i8,
        /// The weekday.
        weekday: Weekday,
        /// The time.
        at: Time,
    },
}

/// A length of time between two ticks: days keep the time on the wall, seconds keep the distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickPeriod {
    /// So many days.
    Days(i64),
    /// So many seconds.
    Seconds(i64),
}

impl From<HumanDuration> for TickPeriod {
    fn from(span: HumanDuration) -> Self {
        let seconds = i64::try_from(span.duration().as_secs()).unwrap_or(i64::MAX).max(1);
        if seconds % 86_400 == 0 { Self::Days(seconds / 86_400) } else { Self::Seconds(seconds) }
    }
}

/// What becomes of a tick within a blackout window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InBlackout {
    /// It is due when the window ends.
    Postpone,
    /// It is left out.
    Skip,
}

/// A time zone and its name.
#[derive(Clone)]
pub struct TimeZoneName(TimeZone);

impl TimeZoneName {
    /// UTC.
    #[must_use]
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }
    /// The zone itself.
    #[must_use]
    pub fn zone(&self) -> &TimeZone {
        &self.0
    }
    /// Its name in the time zone database.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }
    /// An instant as the clock on the wall shows it, with the zone's abbreviation.
    #[must_use]
    pub fn show(&self, instant: Timestamp) -> String {
        instant.to_zoned(self.0.clone()).strftime("%a %Y-%m-%d %H:%M %Z").to_string()
    }
}

impl fmt::Debug for TimeZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name())
    }
}

impl FromStr for TimeZoneName {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        if name == "UTC" {
            return Ok(Self::utc());
        }
        TimeZone::get(name)
            .map(Self)
            .map_err(|_| format!("{name:?} is no time zone of the database"))
    }
}

/// A weekday of the month, as written: `first tuesday`, `last fri`.
///
/// # Errors
/// In words.
pub fn nth_weekday(text: &str) -> Result<(i8, Weekday), String> {
    const WHICH: [(&str, i8); 6] =
        [("first", 1), ("second", 2), ("third", 3), ("fourth", 4), ("fifth", 5), ("last", -1)];
    let help = || {
        format!(
            "{text:?} is no day of a month; write for example \"first tuesday\" or \"last friday\""
        )
    };
    let lower = text.to_ascii_lowercase();
    let (which, day) = lower.trim().split_once(' ').ok_or_else(help)?;
    let nth =
        WHICH.iter().find(|(name, _)| *name == which).map(|(_, nth)| *nth).ok_or_else(help)?;
    Ok((nth, weekday(day.trim()).ok_or_else(help)?))
}

fn weekday(text: &str) -> Option<Weekday> {
    const FULL: [&str; 7] =
        ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    let index =
        FULL.iter().zip(crontab::DAYS).position(|(full, short)| *full == text || short == text)?;
    Weekday::from_sunday_zero_offset(i8::try_from(index).ok()?).ok()
}

/// A window in which nothing may begin, by the clock on the wall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blackout {
    text: String,
    /// Days on which the window begins, from Sunday.
    days: [bool; 7],
    from: Time,
    /// Not after `from`: on the next day.
    to: Time,
}

impl FromStr for Blackout {
    type Err = String;
    /// `mon-fri 08:00-18:00`, `22:00-06:00`, `sat,sun`.
    fn from_str(text: &str) -> Result<Self, String> {
        let help = || {
            format!(
                "{text:?} is no window; write for example \"mon-fri 08:00-18:00\", \"22:00-06:00\" or \"sat,sun\""
            )
        };
        let lower = text.to_ascii_lowercase();
        let words: Vec<&str> = lower.split_whitespace().collect();
        let is_time = |word: &str| word.contains(':');
        let (days, hours) = match words.as_slice() {
            [one] if is_time(one) => (None, Some(*one)),
            [one] => (Some(*one), None),
            [days, hours] if is_time(hours) => (Some(*days), Some(*hours)),
            _ => return Err(help()),
        };
        let mut set = [days.is_none(); 7];
        for part in days.into_iter().flat_map(|days| days.split(',')) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |day: &str| {
                weekday(day)
                    .map(|day| day.to_sunday_zero_offset().unsigned_abs() as usize)
                    .ok_or_else(help)
            };
            let (mut day, last) = (number(first)?, number(last)?);
            // Over the end of the week, as in fri-mon.
            loop {
                set[day] = true;
                if day == last {
                    break;
                }
                day = (day + 1) % 7;
            }
        }
        let time = |text: &str| {
            if text == "24:00" {
                Ok(Time::midnight())
            } else {
                Time::strptime("%H:%M", text).map_err(|_| help())
            }
        };
        let (from, to) = match hours {
            Some(hours) => {
                let (from, to) = hours.split_once('-').ok_or_else(help)?;
                (time(from)?, time(to)?)
            }
            None => (Time::midnight(), Time::midnight()),
        };
        Ok(Self { text: text.to_owned(), days: set, from, to })
    }
}

impl Blackout {
    /// When the window ends that a local time is in; none if it is in none.
    fn end_of(&self, local: DateTime) -> Option<DateTime> {
        let today = local.date();
        [today.yesterday().ok()?, today].into_iter().find_map(|date| {
            let begins = self.days[date.weekday().to_sunday_zero_offset().unsigned_abs() as usize];
            let begin = date.to_datetime(self.from);
            let end = if self.to > self.from {
                date.to_datetime(self.to)
            } else {
                date.tomorrow().ok()?.to_datetime(self.to)
            };
            (begins && begin <= local && local < end).then_some(end)
        })
    }
}

/// One scheduled time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// What it is known by.
    pub nominal: Timestamp,
    /// When it may begin; none if a blackout window leaves it out.
    pub due: Option<Timestamp>,
    /// Why it is not simply when the pattern says, in words.
    pub why: Vec<String>,
}

impl Calendar {
    /// The first tick after an instant. None if there is no more, which with cron is behind the
    /// year 2100.
    #[must_use]
    pub fn next(&self, job: &str, after: Timestamp) -> Option<Tick> {
        let nominal = self.next_nominal(after)?;
        Some(self.tick(job, nominal))
    }

    /// The nominal instant of the first tick after an instant.
    #[must_use]
    pub fn next_nominal(&self, after: Timestamp) -> Option<Timestamp> {
        if let RecurrencePattern::Every { period: TickPeriod::Seconds(seconds), starting } =
            self.pattern
        {
            let first = self.zone.0.to_ambiguous_timestamp(starting).compatible().ok()?;
            let gone = after.as_second() - first.as_second();
            let count = if after < first { 0 } else { gone.div_euclid(seconds) + 1 };
            return Timestamp::from_second(
                first.as_second().checked_add(seconds.checked_mul(count)?)?,
            )
            .ok();
        }
        let local = self.local(after);
        // Far from any change of the clocks local times and instants are in the same order.
        let reach = self.largest_change_near(after, local)?;
        let mut here = local.checked_sub(reach).ok()?;
        let mut best: Option<Timestamp> = None;
        while let Some(next) = self.next_local(here) {
            if let Some(best) = best
                && next > self.local(best).checked_add(reach).ok()?
            {
                break;
            }
            best = self
                .instants(next)
                .into_iter()
                .flatten()
                .filter(|instant| *instant > after)
                .chain(best)
                .min();
            if best.is_some() && reach.is_zero() {
                break;
            }
            here = next;
        }
        best
    }

    fn local(&self, instant: Timestamp) -> DateTime {
        self.zone.0.to_datetime(instant)
    }

    /// How far clocks are set between a day before the instant and a day behind the pattern's next
    /// local time.
    fn largest_change_near(&self, after: Timestamp, local: DateTime) -> Option<SignedDuration> {
        let day = SignedDuration::from_hours(26);
        let next = self.next_local(local)?;
        let until =
            self.zone.0.to_ambiguous_timestamp(next).compatible().ok()?.checked_add(day).ok()?;
        let from = after.checked_sub(day).ok()?;
        let mut offset = self.zone.0.to_offset(from);
        let mut largest = SignedDuration::ZERO;
        for change in self.zone.0.following(from).take_while(|change| change.timestamp() <= until) {
            largest = largest.max(
                SignedDuration::from_secs(i64::from(change.offset().seconds() - offset.seconds()))
                    .abs(),
            );
            offset = change.offset();
        }
        Some(largest)
    }

    /// The pattern's first local time after another.
    fn next_local(&self, local: DateTime) -> Option<DateTime> {
        match &self.pattern {
            RecurrencePattern::Cron(crontab) => crontab.after(local),
            RecurrencePattern::Every { period: TickPeriod::Seconds(_), .. } => None,
            RecurrencePattern::Every { period: TickPeriod::Days(days), starting } => {
                if local < *starting {
                    return Some(*starting);
                }
                let gone = i64::from(local.date().since(starting.date()).ok()?.get_days());
                let count = gone / days;
                // Beyond what a calendar holds there is no next time.
                let at = |count: i64| {
                    starting
                        .checked_add(jiff::Span::new().try_days(count.checked_mul(*days)?).ok()?)
                        .ok()
                };
                at(count).filter(|time| *time > local).or_else(|| at(count + 1))
            }
            RecurrencePattern::Monthly { nth, weekday, at } => {
                let mut month = local.date().first_of_month();
                // A fifth Friday comes at least four times a year.
                for _ in 0..24 {
                    if let Ok(date) = month.nth_weekday_of_month(*nth, *weekday)
                        && date.to_datetime(*at) > local
                    {
                        return Some(date.to_datetime(*at));
                    }
                    month = month.checked_add(1.month()).ok()?;
                }
                None
            }
        }
    }

    /// The instants of a local time: one, or two for an interval job in the repeated hour.
    fn instants(&self, local: DateTime) -> [Option<Timestamp>; 2] {
        let interval =
            matches!(&self.pattern, RecurrencePattern::Cron(crontab) if crontab.is_interval());
        let ambiguous = self.zone.0.to_ambiguous_timestamp(local);
        match ambiguous.offset() {
            AmbiguousOffset::Fold { .. } if interval => {
                [ambiguous.earlier().ok(), ambiguous.later().ok()]
            }
            _ => [ambiguous.compatible().ok(), None],
        }
    }

    /// When a nominal instant is due.
    #[must_use]
    pub fn tick(&self, job: &str, nominal: Timestamp) -> Tick {
        let mut why = Vec::new();
        if let Some(note) = self.note_of_change(nominal) {
            why.push(note);
        }
        let mut due = nominal;
        let jitter = self.jitter_of(job, nominal);
        if !jitter.is_zero() {
            due = due
                .checked_add(SignedDuration::try_from(jitter).unwrap_or_default())
                .unwrap_or(due);
            why.push(format!("{} of jitter", format_duration(jitter)));
        }
        for _ in 0..WINDOWS_CHAINED_MAX {
            let local = self.local(due);
            let Some((window, end)) =
                self.blackouts.iter().find_map(|window| Some((window, window.end_of(local)?)))
            else {
                return Tick { nominal, due: Some(due), why };
            };
            why.push(match self.in_blackout {
                InBlackout::Postpone => format!("postponed by blackout {}", window.text),
                InBlackout::Skip => format!("left out by blackout {}", window.text),
            });
            // In the night that has an hour twice the end of a window may come twice, and the first
            // one be over.
            let ends = self.zone.0.to_ambiguous_timestamp(end);
            let later = [ends.compatible().ok(), ends.later().ok()]
                .into_iter()
                .flatten()
                .find(|later| *later > due);
            match (self.in_blackout, later) {
                (InBlackout::Postpone, Some(later)) => due = later,
                _ => return Tick { nominal, due: None, why },
            }
        }
        why.push("the blackout windows leave no room".to_owned());
        Tick { nominal, due: None, why }
    }

    fn note_of_change(&self, nominal: Timestamp) -> Option<String> {
        let local = self.local(nominal);
        let before =
            self.zone.0.to_offset(nominal.checked_sub(SignedDuration::from_hours(26)).ok()?);
        let change = i64::from(self.zone.0.to_offset(nominal).seconds() - before.seconds());
        let missing = local.checked_sub(SignedDuration::from_secs(change)).ok()?;
        let skipped = change > 0
            && matches!(
                self.zone.0.to_ambiguous_timestamp(missing).offset(),
                AmbiguousOffset::Gap { .. }
            );
        // It may stand there by itself as well.
        let meant =
            skipped && self.next_local(missing.checked_sub(1.second()).ok()?) == Some(missing);
        if meant {
            return Some(format!("{} does not exist that night", missing.strftime("%H:%M")));
        }
        let ambiguous = self.zone.0.to_ambiguous_timestamp(local);
        matches!(ambiguous.offset(), AmbiguousOffset::Fold { .. })
            .then(|| format!("{} exists twice that night", local.strftime("%H:%M")))
    }

    /// The same on every host and on every day that one looks.
    fn jitter_of(&self, job: &str, nominal: Timestamp) -> Duration {
        let most = self.jitter.as_secs();
        if most == 0 {
            return Duration::ZERO;
        }
        let hash = blake3::hash(format!("{job}\0{}", nominal.as_second()).as_bytes());
        let mut number = [0; 8];
        number.copy_from_slice(&hash.as_bytes()[..8]);
        Duration::from_secs(u64::from_le_bytes(number) % (most + 1))
    }

    /// What recurs, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let what = match &self.pattern {
            RecurrencePattern::Cron(crontab) => format!("cron {}", crontab.text()),
            RecurrencePattern::Every { period: TickPeriod::Days(days), starting }
                if days % 7 == 0 =>
            {
                format!("every {} weeks from {}", days / 7, starting.strftime("%Y-%m-%d %H:%M"))
            }
            RecurrencePattern::Every { period: TickPeriod::Days(days), starting } => {
                format!("every {days} days from {}", starting.strftime("%Y-%m-%d %H:%M"))
            }
            RecurrencePattern::Every { period: TickPeriod::Seconds(seconds), starting } => {
                let every = HumanDuration::seconds(seconds.unsigned_abs());
                format!("every {every} from {}", starting.strftime("%Y-%m-%d %H:%M"))
            }
            RecurrencePattern::Monthly { nth, weekday, at } => {
                let which = ["last", "", "first", "second", "third", "fourth", "fifth"];
                let which = which
                    .get(usize::try_from(nth + 1).unwrap_or_default())
                    .copied()
                    .unwrap_or_default();
                format!("{which} {weekday:?} of the month at {}", at.strftime("%H:%M"))
            }
        };
        format!("{what}, {}", self.zone.name())
    }
}

/// The civil time of a date and an optional time of day.
#[must_use]
pub fn beginning(date: Date, at: Option<Time>) -> DateTime {
    date.to_datetime(at.unwrap_or(Time::midnight()))
}

#[cfg(test)]
mod tests;

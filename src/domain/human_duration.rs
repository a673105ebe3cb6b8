//! Durations as people write them in configuration: `90s`, `15m`, `24h`, `2d`, `2w`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time in whole seconds, written with one unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    /// A span of `seconds`.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
    /// A span of so many thousandths of a second.
    #[must_use]
    pub const fn milliseconds(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }
    /// The span as a [`Duration`].
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

const UNITS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Also understood, in the plural before the singular.
const WORDS: [(&str, u64); 10] = [
    ("weeks", 604_800),
    ("week", 604_800),
    ("days", 86_400),
    ("day", 86_400),
    ("hours", 3_600),
    ("hour", 3_600),
    ("minutes", 60),
    ("minute", 60),
    ("seconds", 1),
    ("second", 1),
];

impl FromStr for HumanDuration {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let help = || {
            format!(
                "{text:?} is not a length of time; write a number and a unit, like \"90s\", \"15m\", \"24h\", \"2d\" or \"2w\""
            )
        };
        if let Some(number) = text.strip_suffix("ms") {
            return number.trim().parse().map(Self::milliseconds).map_err(|_| help());
        }
        for (unit, seconds) in WORDS.into_iter().chain(UNITS) {
            if let Some(number) = text.strip_suffix(unit) {
                let count: u64 = number.trim().parse().map_err(|_| help())?;
                return count.checked_mul(seconds).map(Self::seconds).ok_or_else(help);
            }
        }
        Err(help())
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_secs();
        if self.0.subsec_millis() > 0 {
            return write!(f, "{}ms", self.0.as_millis());
        }
        let (unit, seconds) = UNITS
            .iter()
            .find(|(_, s)| total >= *s && total.is_multiple_of(*s))
            .unwrap_or(&("s", 1));
        write!(f, "{}{unit}", total / seconds)
    }
}

/// A duration for people: `4.2 s`, `3 min 10 s`, `5 h 2 min`, `3 d 4 h`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    // What would be shown as 60.0 s is a minute.
    let seconds = if duration < Duration::from_secs(60) {
        (duration + Duration::from_millis(50)).as_secs()
    } else {
        duration.as_secs()
    };
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A number of bytes for people, in powers of 1,000: `463.2 MB`.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_back_as_written() {
        for text in ["90s", "15m", "24h", "2d", "2w"] {
            let span: HumanDuration = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<HumanDuration>().unwrap(), span);
        }
        assert_eq!("24h".parse::<HumanDuration>().unwrap().to_string(), "1d");
        assert_eq!("2 weeks".parse::<HumanDuration>().unwrap(), "2w".parse().unwrap());
        assert_eq!("1 hour".parse::<HumanDuration>().unwrap(), "3600 seconds".parse().unwrap());
        for bad in [
            "",
            "weeks",
            "h",
            "1",
            "-1h",
            "1.5h",
            "99999999999999999999w",
            "9999999999999999w",
            "1 fortnight",
        ] {
            assert!(bad.parse::<HumanDuration>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_one_decimal_and_the_next_unit_in_time() {
        assert_eq!(format_bytes(999), "999 B");
        assert_eq!(format_bytes(999_960), "1.0 MB");
        assert_eq!(format_bytes(463_200_000), "463.2 MB");
    }

    #[test]
    fn a_length_of_time_is_read_in_every_unit_and_word() {
        for (text, seconds) in [
            ("0s", 0),
            ("1s", 1),
            ("1 second", 1),
            ("90 seconds", 90),
            ("1m", 60),
            ("1 minute", 60),
            ("15minutes", 900),
            ("1h", 3_600),
            ("1 hour", 3_600),
            ("24 hours", 86_400),
            ("1d", 86_400),
            ("1 day", 86_400),
            ("2 days", 172_800),
            (" 2 d", 172_800),
            ("1w", 604_800),
            ("1 week", 604_800),
            ("3 weeks", 1_814_400),
            ("30500568904943w", 30_500_568_904_943 * 604_800),
        ] {
            let span: HumanDuration = text.parse().unwrap();
            assert_eq!(span, HumanDuration::seconds(seconds), "{text}");
            assert_eq!(span.duration(), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(
            "250 ms".parse::<HumanDuration>().unwrap().duration(),
            Duration::from_millis(250)
        );
        assert_eq!("1500ms".parse::<HumanDuration>().unwrap(), HumanDuration::milliseconds(1_500));
    }

    #[test]
    fn what_is_no_length_of_time_is_refused_with_an_example() {
        for bad in [
            "ms",
            "xms",
            "1.5s",
            "-5ms",
            "30500568904944w",
            "5 H",
            "5 minute s",
            "5 months",
            "m",
            "5m30s",
        ] {
            let why = bad.parse::<HumanDuration>().unwrap_err();
            assert!(
                why.starts_with(&format!("{bad:?} is not a length of time"))
                    && why.contains("\"15m\""),
                "{why}"
            );
        }
    }

    #[test]
    fn a_span_is_written_in_the_largest_unit_that_fits() {
        for (span, text) in [
            (HumanDuration::seconds(0), "0s"),
            (HumanDuration::default(), "0s"),
            (HumanDuration::seconds(59), "59s"),
            (HumanDuration::seconds(60), "1m"),
            (HumanDuration::seconds(61), "61s"),
            (HumanDuration::seconds(5_400), "90m"),
            (HumanDuration::seconds(3_600), "1h"),
            (HumanDuration::seconds(86_400 * 3), "3d"),
            (HumanDuration::seconds(86_400 * 14), "2w"),
            (HumanDuration::seconds(86_400 * 15), "15d"),
            (HumanDuration::milliseconds(999), "999ms"),
            (HumanDuration::milliseconds(1_000), "1s"),
            (HumanDuration::milliseconds(61_001), "61001ms"),
        ] {
            assert_eq!(span.to_string(), text);
            assert_eq!(text.parse::<HumanDuration>().unwrap(), span);
        }
    }

    #[test]
    fn durations_are_shown_to_people_in_two_units_at_most() {
        for (millis, text) in [
            (0, "0.0 s"),
            (4_230, "4.2 s"),
            (59_900, "59.9 s"),
            (60_000, "1 min 0 s"),
            (190_000, "3 min 10 s"),
            (3_599_999, "59 min 59 s"),
            (3_600_000, "1 h 0 min"),
            (18_179_000, "5 h 2 min"),
            (172_799_000, "47 h 59 min"),
            (172_800_000, "2 d 0 h"),
            (273_600_000, "3 d 4 h"),
            (34_562_800_000, "400 d 0 h"),
            (345_599_000, "3 d 23 h"),
        ] {
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn sizes_are_shown_to_people_in_every_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1_000, "1.0 kB"),
            (1_049, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (2_500_000_000, "2.5 GB"),
            (7_000_000_000_000, "7.0 TB"),
            (8_100_000_000_000_000, "8.1 PB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }
}

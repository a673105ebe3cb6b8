//! Lengths of time as people write them in configuration: `90s`, `15m`, `24h`, `2d`, `2w`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A length of time in whole seconds, written with one unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
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

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let help =
            || format!("{text:?} is not a length of time; write a number and a unit, like \"90s\", \"15m\", \"24h\", \"2d\" or \"2w\"");
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

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.0.as_secs();
        if self.0.subsec_millis() > 0 {
            return write!(f, "{}ms", self.0.as_millis());
        }
        let (unit, seconds) = UNITS.iter().find(|(_, s)| total >= *s && total.is_multiple_of(*s)).unwrap_or(&("s", 1));
        write!(f, "{}{unit}", total / seconds)
    }
}

/// A duration for people: `4.2 s`, `3 min 10 s`, `5 h 2 min`, `3 d 4 h`.
#[must_use]
pub fn for_people(duration: Duration) -> String {
    let seconds = duration.as_secs();
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
pub fn bytes_for_people(bytes: u64) -> String {
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
            let span: Span = text.parse().unwrap();
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
        assert_eq!("24h".parse::<Span>().unwrap().to_string(), "1d");
        assert_eq!("2 weeks".parse::<Span>().unwrap(), "2w".parse().unwrap());
        assert_eq!("1 hour".parse::<Span>().unwrap(), "3600 seconds".parse().unwrap());
        for bad in ["", "weeks", "h", "1", "-1h", "1.5h", "99999999999999999999w", "9999999999999999w", "1 fortnight"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_one_decimal_and_the_next_unit_in_time() {
        assert_eq!(bytes_for_people(999), "999 B");
        assert_eq!(bytes_for_people(999_960), "1.0 MB");
        assert_eq!(bytes_for_people(463_200_000), "463.2 MB");
    }
}

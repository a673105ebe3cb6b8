//! The one list of settings that every session has which reads or writes content: lifeboat's own,
//! those of its children, those of `RESTORE.md`. With them values are written and read in one form
//! whatever server, database, role or service file say.
//!
//! How they arrive: in the connection string's `options`, merged behind whatever options the person
//! has, because libpq lets the string win over `PGOPTIONS`, and the server lets options win over
//! `ALTER DATABASE … SET` and `ALTER ROLE … SET`. Whether they *have* arrived is asked
//! of the server by each session as the first thing it does, and before each child by a session
//! with the same string and environment: a pooler in transaction mode drops options, and would hand
//! what a session sets later to the next client of its pool.

use std::fmt::Write;

/// Name, value as it is sent, and value as the server shows it where that differs.
struct PinnedSetting(&'static str, &'static str, Option<&'static str>);

/// How values and definitions are written. Not where they are loaded: what is written so is
/// understood under any of these, and what people wrote (checks, generated columns, materialized
/// views) must come out as their own settings make it.
const HOW_THEY_ARE_WRITTEN: [PinnedSetting; 7] = [
    PinnedSetting("bytea_output", "hex", None),
    PinnedSetting("DateStyle", "ISO,MDY", Some("ISO, MDY")),
    PinnedSetting("IntervalStyle", "postgres", None),
    PinnedSetting("TimeZone", "UTC", None),
    PinnedSetting("extra_float_digits", "3", None),
    PinnedSetting("xmlbinary", "base64", None),
    PinnedSetting("quote_all_identifiers", "off", None),
];

/// How they are understood, and whether and for how long a session may work. Any role may set each
/// of them, and every supported major knows it. Larger majors have more limits on time;
/// [`NO_TIME_LIMITS`] lifts those in each session that has its pins.
const ALWAYS: [PinnedSetting; 11] = [
    // Money is written and read by it.
    PinnedSetting("lc_monetary", "C", None),
    // With `array_nulls` off the NULLs of an array become the word; with `transform_null_equals`
    // on a view that says `= NULL` becomes another one.
    PinnedSetting("array_nulls", "on", None),
    PinnedSetting("transform_null_equals", "off", None),
    PinnedSetting("standard_conforming_strings", "on", None),
    PinnedSetting("xmloption", "content", None),
    PinnedSetting("backslash_quote", "safe_encoding", None),
    PinnedSetting("default_transaction_isolation", "read committed", None),
    PinnedSetting("default_transaction_deferrable", "off", None),
    PinnedSetting("statement_timeout", "0", None),
    PinnedSetting("idle_in_transaction_session_timeout", "0", None),
    PinnedSetting("client_min_messages", "warning", None),
];

/// Names in our own statements and in archives are qualified; those that people wrote are looked up
/// as for everybody else.
const NOT_FOR_PEOPLE: PinnedSetting = PinnedSetting("search_path", "", None);

/// A database that says of itself that it is read-only is one all the same while it is being
/// restored. On the source the backup role's own setting stays: it is a good one.
const WHERE_WE_WRITE: PinnedSetting = PinnedSetting("default_transaction_read_only", "off", None);

/// With these on, pages that are damaged are read as empty ones, or as they are. Only a superuser
/// may set them, so they are asked about and not sent.
const MUST_BE_OFF: [&str; 2] = ["zero_damaged_pages", "ignore_checksum_failure"];

/// Which of them a session gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinSelection {
    /// Whether the statements were written by people.
    pub format_duration: bool,
    /// Whether the server is one that is restored to.
    pub writes: bool,
    /// Whether an archive is loaded: values are read and none is written.
    pub loads: bool,
}

impl PinSelection {
    /// What a restore by hand needs.
    pub const TO_RESTORE: Self = Self { format_duration: false, writes: true, loads: true };

    fn pins(self) -> impl Iterator<Item = PinnedSetting> {
        let people = (!self.format_duration).then_some(NOT_FOR_PEOPLE);
        let writes = self.writes.then_some(WHERE_WE_WRITE);
        let written = HOW_THEY_ARE_WRITTEN.into_iter().filter(move |_| !self.loads);
        written.chain(ALWAYS).chain(people).chain(writes)
    }

    /// As command-line options of a server session, behind those that are there already.
    #[must_use]
    pub fn behind(self, options: &str) -> String {
        // A space at the end may be an escaped one.
        let mut all = options.trim_start().to_owned();
        self.pins().for_each(|PinnedSetting(name, value, _)| push(&mut all, name, value));
        all
    }

    /// A query that names each setting that is not as pinned, with its value; no row if all of them
    /// are in force.
    #[must_use]
    pub fn probe(self) -> String {
        let damaged = MUST_BE_OFF
            .into_iter()
            .filter(|_| !self.writes)
            .map(|name| PinnedSetting(name, "off", None));
        let wanted = self.pins().chain(damaged).map(|PinnedSetting(name, value, shown)| {
            format!("('{name}', '{}')", shown.unwrap_or(value))
        });
        format!(
            "SELECT wanted.name || ' is ' || pg_catalog.quote_literal(pg_catalog.current_setting(wanted.name)) FROM (VALUES {}) AS wanted (name, value) \
             WHERE pg_catalog.current_setting(wanted.name) <> wanted.value",
            wanted.collect::<Vec<_>>().join(", ")
        )
    }
}

/// One option. libpq hands the text to the server, which splits it at spaces that no backslash
/// precedes.
pub(crate) fn push(options: &mut String, name: &str, value: &str) {
    let separator = if options.is_empty() { "" } else { " " };
    let _ =
        write!(options, "{separator}-c {name}={}", value.replace('\\', "\\\\").replace(' ', "\\ "));
}

/// Lifts the limits on idle sessions and long transactions that the server's version has: a session
/// of ours may say nothing for hours.
pub const NO_TIME_LIMITS: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
    WHERE name IN ('idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_come_last_and_spaces_are_escaped() {
        let own = PinSelection { format_duration: false, writes: false, loads: false };
        let all = own.behind("-c geqo=off -c search_path=app");
        assert!(all.starts_with("-c geqo=off -c search_path=app -c bytea_output=hex "), "{all}");
        assert!(
            all.contains(r"-c default_transaction_isolation=read\ committed ")
                && all.ends_with("-c search_path="),
            "{all}"
        );
        assert!(
            own.behind(r"-c application_name=x\ ")
                .starts_with(r"-c application_name=x\  -c bytea_output=hex ")
        );
        let people = PinSelection { format_duration: true, ..own }.behind("");
        assert!(
            people.starts_with("-c bytea_output=hex") && !people.contains("search_path"),
            "{people}"
        );
        let restores = PinSelection::TO_RESTORE.behind("");
        assert!(
            restores.ends_with("-c search_path= -c default_transaction_read_only=off"),
            "{restores}"
        );
        assert!(restores.contains("lc_monetary") && !restores.contains("TimeZone"), "{restores}");
    }

    #[test]
    fn the_probe_asks_for_each_pin() {
        for (format_duration, writes, loads) in
            [(false, false, false), (false, true, true), (true, false, false), (true, true, false)]
        {
            let pinned = PinSelection { format_duration, writes, loads };
            let probe = pinned.probe();
            assert!(
                pinned
                    .pins()
                    .all(|PinnedSetting(name, ..)| probe.contains(&format!("('{name}', "))),
                "{probe}"
            );
        }
    }
}

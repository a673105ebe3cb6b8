//! Attributing a failure: to the backup, or to the place that it was restored in.
//!
//! By state and never by message text: how the sandbox and each of its processes are, and where in
//! the server's source an error was raised, with which SQLSTATE. Restored data can say anything, in
//! messages of its own and under any SQLSTATE; its functions cannot choose the place. What runs
//! there as a superuser can withhold a verdict, not obtain one. `docs/DRILLS.md` has the table.

use std::time::{Duration, Instant};

use super::DrillState;
use crate::domain::drill::DrillHalt;
use crate::pg::children::BY_THE_MACHINE;
use crate::sandbox::local::RaisedSandbox;
use crate::sandbox::server_log::{LogMark, LogSince, RaisedError};

/// What a sandbox lacks, told by an error of its server: the SQLSTATEs it has (or their
/// beginnings), the files of the server's source it is raised in (or any), and what is to be said.
struct SandboxLack {
    states: &'static [&'static str],
    files: &'static [&'static str],
    why: &'static str,
}

/// Where code of the data's own raises what it likes.
const RAISED_BY_DATA: [&str; 4] = ["pl_exec.c", "plperl.c", "plpy_elog.c", "pltcl.c"];

const OTHER_SERVER: &str = "the restore asks another server, and a sandbox has no network (skip in the plan leaves out what does)";

const LACKS: [SandboxLack; 10] = [
    SandboxLack {
        states: &["0A000", "58P01", "22023"],
        files: &["extension.c"],
        why: "an extension of the backup, or that version of it, is not installed on this host",
    },
    SandboxLack {
        states: &[""],
        files: &["dfmgr.c"],
        why: "a library that the backup's functions are in is not installed on this host",
    },
    SandboxLack {
        states: &["42809"],
        files: &["dbcommands.c"],
        why: "a locale of the backup is not installed on this host",
    },
    SandboxLack {
        states: &[""],
        files: &["pg_locale.c", "pg_locale_libc.c", "pg_locale_icu.c"],
        why: "a collation of the backup needs a locale that is not installed on this host",
    },
    SandboxLack {
        states: &["42704"],
        files: &["guc.c", "guc_funcs.c"],
        why: "the restore asks for a setting that the sandbox's server does not have: that of a library which must be loaded when the server \
              starts, or one of the source's own (preload and settings in the drill file)",
    },
    SandboxLack { states: &["53100"], files: &[], why: "it is full (size_mib in the drill file)" },
    SandboxLack {
        states: &["53"],
        files: &[],
        why: "its memory or one of its limits was used up (size_mib in the drill file)",
    },
    SandboxLack {
        states: &["08"],
        files: &["connection.c", "dblink.c", "libpqwalreceiver.c"],
        why: OTHER_SERVER,
    },
    SandboxLack { states: &["HV00N"], files: &[], why: OTHER_SERVER },
    SandboxLack {
        states: &["58P01", "42501", "F0000", "38000"],
        files: &[
            "genfile.c",
            "copyfrom.c",
            "copyto.c",
            "ts_locale.c",
            "ts_utils.c",
            "be-fsstubs.c",
            "spell.c",
            "fd.c",
        ],
        why: "the restore needs a file or program of the server's host that a sandbox does not show (programs in the drill file shows a \
              directory; skip in the plan leaves out what needs it)",
    },
];
/// Where libraries tell that they come too late.
const LOADED_LATE: &str = "_PG_init";
const NOT_PRELOADED: &str =
    "an extension of the backup must be loaded when the server starts (preload in the drill file)";

/// Signals of the machine after which a sandbox with more memory helps.
const WANTS_MEMORY: [i32; 2] = [libc::SIGKILL, libc::SIGBUS];

/// What a raised error says of the place, if it is the place's.
fn lack(raised: &RaisedError) -> Option<&'static str> {
    if raised.file.is_empty() || RAISED_BY_DATA.contains(&raised.file.as_str()) {
        return None;
    }
    if raised.function == LOADED_LATE {
        return Some(NOT_PRELOADED);
    }
    let fits = |lack: &&SandboxLack| {
        lack.states.iter().any(|state| raised.sqlstate.starts_with(state))
            && (lack.files.is_empty() || lack.files.contains(&raised.file.as_str()))
    };
    LACKS.iter().find(fits).map(|lack| lack.why)
}

/// Why the place is at fault, by what its server said while something failed with these words; none
/// if it is not known to be.
fn of_the_place(said: &LogSince, words: &str, counts_memory: bool) -> Option<String> {
    // Where whoever is ended for memory is counted, and nobody was, the restored code did it
    // itself.
    let may_be = |signal: i32| signal != libc::SIGKILL || !counts_memory;
    if let Some((signal, what)) =
        BY_THE_MACHINE.iter().find(|(signal, _)| said.killed.contains(signal) && may_be(*signal))
    {
        let next = if WANTS_MEMORY.contains(signal) { " (size_mib in the drill file)" } else { "" };
        return Some(format!("a process of its server {what}{next}"));
    }
    // Of several errors it is the one that was told. What fails for another cause, such as bytes
    // that are not those that were stored, takes sessions along whose errors say nothing.
    let causes = said
        .raised
        .iter()
        .filter(|raised| !raised.message.is_empty() && words.contains(&raised.message));
    // A message that was raised at two places is the data's as long as one of them is.
    let lacks: Option<Vec<&str>> = causes.map(lack).collect();
    lacks?.first().map(|why| (*why).to_owned())
}

/// How the place is, if it is at fault: what fails in a place that has ended says nothing about the
/// backup.
pub(super) fn fault_of(world: &mut DrillState<'_>) -> Option<String> {
    world
        .place
        .as_mut()
        .map_or_else(|| Some("it is gone".to_owned()), |place| place.condition().fault())
}

/// How long is waited for what a process that dies takes along: its parent and the log hear of it a
/// little later.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks at the place until it is at fault or has had time to be.
pub(super) async fn settled(world: &mut DrillState<'_>) -> Option<String> {
    let begun = Instant::now();
    loop {
        let fault = fault_of(world);
        if fault.is_some() || begun.elapsed() >= SETTLES_WITHIN {
            return fault;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Signals of a process that crashed by itself: on-call's server would.
const CRASHES: [i32; 4] = [libc::SIGSEGV, libc::SIGABRT, libc::SIGILL, libc::SIGFPE];

/// Looks at the place again after something failed: the backup may look at fault and not be, and
/// the other way round.
pub(super) async fn judged(
    world: &mut DrillState<'_>,
    halt: DrillHalt,
    since: LogMark,
) -> DrillHalt {
    if matches!(halt, DrillHalt::Interrupted) || world.found.moments.server_up.is_none() {
        return halt;
    }
    let detail = halt.detail().to_owned();
    if let Some(fault) = settled(world).await {
        return DrillHalt::sandbox(fault).with_detail(detail);
    }
    let counts_memory = world.place.as_ref().is_some_and(RaisedSandbox::counts_memory);
    let said = world.place.as_ref().map(|place| place.said_since(since)).unwrap_or_default();
    match &halt {
        DrillHalt::Backup(_) => match of_the_place(&said, &detail, counts_memory) {
            Some(why) => DrillHalt::sandbox(why).with_detail(detail),
            None => halt,
        },
        _ if said.killed.iter().any(|signal| CRASHES.contains(signal)) => {
            DrillHalt::backup("a process of its server crashed on it").with_detail(detail)
        }
        _ => halt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(sqlstate: &str, message: &str, function: &str, file: &str) -> RaisedError {
        RaisedError::at(sqlstate, message, function, file)
    }
    fn since(raised: Vec<RaisedError>, killed: &[i32]) -> LogSince {
        LogSince { raised, killed: killed.to_vec() }
    }

    #[test]
    fn the_place_of_an_error_decides_and_its_words_do_not() {
        let full = raised("53100", "could not extend file", "mdextend", "md.c");
        assert!(
            of_the_place(&since(vec![full.clone()], &[]), "could not extend file", false)
                .is_some_and(|why| why.contains("size_mib"))
        );
        // The same words and SQLSTATE, raised by a function of the data's.
        let said = raised("53100", "could not extend file", "exec_stmt_raise", "pl_exec.c");
        assert_eq!(
            of_the_place(&since(vec![said.clone()], &[]), "could not extend file", false),
            None
        );
        assert_eq!(
            of_the_place(&since(vec![full, said], &[]), "could not extend file", false),
            None,
            "one of them is the data's"
        );
        // Without a place nothing is known of it.
        assert_eq!(of_the_place(&since(vec![raised("53100", "x", "", "")], &[]), "x", false), None);
        let late =
            raised("XX000", "must be loaded via shared_preload_libraries", "_PG_init", "pg_cron.c");
        assert_eq!(
            of_the_place(
                &since(vec![late], &[]),
                "must be loaded via shared_preload_libraries",
                false
            )
            .as_deref(),
            Some(NOT_PRELOADED)
        );
    }

    #[test]
    fn the_error_that_was_told_is_the_cause_and_not_one_beside_it() {
        let unique = raised("23505", "duplicate key", "_bt_check_unique", "nbtinsert.c");
        let network = raised(
            "08001",
            "could not connect to server \"x\"",
            "connect_pg_server",
            "connection.c",
        );
        let both = since(vec![unique, network], &[]);
        assert_eq!(of_the_place(&both, "pg_restore: error: duplicate key", false), None);
        assert!(
            of_the_place(&both, "could not connect to server \"x\"", false)
                .is_some_and(|why| why.contains("network"))
        );
        // A chunk that differs ends the session that loads it: what its server says then is no
        // cause.
        let cut = raised(
            "08006",
            "unexpected EOF on client connection",
            "CopyGetData",
            "copyfromparse.c",
        );
        assert_eq!(of_the_place(&since(vec![cut], &[]), "the payload is damaged", false), None);
    }

    #[test]
    fn a_process_that_was_killed_is_the_machines_and_one_that_crashed_is_not() {
        assert!(of_the_place(&since(Vec::new(), &[libc::SIGKILL]), "", false).is_some());
        assert_eq!(
            of_the_place(&since(Vec::new(), &[libc::SIGKILL]), "", true),
            None,
            "nobody was ended for memory"
        );
        assert_eq!(of_the_place(&since(Vec::new(), &[libc::SIGSEGV]), "", false), None);
    }
}

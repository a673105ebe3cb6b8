//! Restoring with clients newer than the server: `pg_restore` of 17 and later begins every session
//! with a `SET` that older servers do not know, and stops there. So it writes a script, that one
//! line is taken out of the script's head, and `psql` runs the rest.
//!
//! The script is as hostile as the backup: `psql` would run lines of it as its own commands.
//! `pg_restore` guards against that with `\restrict` and a random key in the first line (since
//! 17.6; CVE-2025-8714), and a script that does not begin so is not run.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::LoadError;
use crate::pg::children::{ChildError, RunningChild, command};
use crate::pg::session::verbose_error;
use crate::pg::{PgConnection, PgTool, PgTools};

/// The first major whose `pg_restore` sends it, and the first whose server knows it.
const KNOWS_TRANSACTION_TIMEOUT: u32 = 17;
const UNKNOWN_LINE: &[u8] = b"SET transaction_timeout = 0;\n";
/// The settings stand within so many bytes from the script's beginning; no value of the backup
/// does.
const HEAD_BYTES: usize = 4 * 1024;
const COPY_BYTES: usize = 256 * 1024;

/// Whether `pg_restore` of these clients cannot talk to a server of that major itself.
#[must_use]
pub fn is_needed(clients: u32, server: u32) -> bool {
    clients >= KNOWS_TRANSACTION_TIMEOUT && server < KNOWS_TRANSACTION_TIMEOUT
}

/// A `pg_restore` that is loading, by itself or through `psql`.
pub struct RunningRestore {
    pg_restore: RunningChild,
    keep_going: bool,
    through: Option<(RunningChild, JoinHandle<Result<(), LoadError>>)>,
}

impl RunningRestore {
    /// Starts `pg_restore`, which has everything but where to write.
    ///
    /// # Errors
    /// [`LoadError::Child`] if a program cannot be started.
    pub fn start(
        mut pg_restore: Command,
        tools: &PgTools,
        connection: &PgConnection,
        target: &str,
        as_script: bool,
        keep_going: bool,
    ) -> Result<Self, LoadError> {
        if !as_script {
            if !keep_going {
                pg_restore.arg("--exit-on-error");
            }
            pg_restore.arg(format!("--dbname={target}")).stdout(Stdio::null());
            return Ok(Self {
                pg_restore: RunningChild::start(pg_restore, PgTool::PgRestore)?,
                keep_going,
                through: None,
            });
        }
        pg_restore.arg("--file=-").stdout(Stdio::piped());
        let mut pg_restore = RunningChild::start(pg_restore, PgTool::PgRestore)?;
        let mut psql = command(tools, PgTool::Psql, connection);
        let stop = if keep_going { "--set=ON_ERROR_STOP=0" } else { "--set=ON_ERROR_STOP=1" };
        // Of many errors each is told by its SQLSTATE, whatever language the server speaks.
        let verbosity =
            if keep_going { "--set=VERBOSITY=verbose" } else { "--set=VERBOSITY=terse" };
        psql.args(["-X", "--quiet", "--no-password", stop, verbosity, "--dbname", target]);
        psql.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut psql = RunningChild::start(psql, PgTool::Psql)?;
        let (Some(from), Some(to)) = (pg_restore.child().stdout.take(), psql.child().stdin.take())
        else {
            return Err(LoadError::ThreadDied);
        };
        Ok(Self { pg_restore, keep_going, through: Some((psql, tokio::spawn(pass_on(from, to)))) })
    }

    /// `pg_restore`, to take its standard input.
    pub fn child(&mut self) -> &mut tokio::process::Child {
        self.pg_restore.child()
    }

    /// Waits for the end; what the server refused while it was told to go on.
    ///
    /// # Errors
    /// What the server refused, if it did; else why `pg_restore` failed.
    pub async fn finish(self) -> Result<Vec<String>, LoadError> {
        let Some((psql, passing)) = self.through else {
            return match self.pg_restore.finish().await {
                Ok((_, said)) => Ok(refused(&said)),
                Err(ChildError::Failed { last_words, how, .. })
                    if self.keep_going && went_on(&last_words, &how) =>
                {
                    Ok(refused(&last_words))
                }
                Err(error) => Err(without_values(error).into()),
            };
        };
        let (written, passed, run) = tokio::join!(self.pg_restore.finish(), passing, psql.finish());
        match (passed.map_err(|_| LoadError::ThreadDied)?, run, written) {
            // A script that is not run is the cause, whatever became of the two programs.
            (Err(unsafe_script @ LoadError::Script(_)), ..) => Err(unsafe_script),
            (_, Err(refused), _) => Err(without_values(refused).into()),
            (_, Ok(_), Err(broken)) => Err(broken.into()),
            (Err(lost), Ok(_), Ok(_)) => Err(lost),
            (Ok(()), Ok((_, said)), Ok(_)) => Ok(refused(&said)),
        }
    }
}

const ERRORS_IGNORED: &str = "pg_restore: warning: errors ignored on restore: ";

/// Whether `pg_restore` went on after errors to its end, and did not lose its server: then it
/// "ignores" every statement that is left.
fn went_on(last_words: &str, how: &str) -> bool {
    const LOST: [&str; 4] = [
        "server closed the connection",
        "no connection to the server",
        "terminating connection",
        "FATAL:",
    ];
    how == "exited with 1"
        && last_words.lines().next_back().is_some_and(|line| line.starts_with(ERRORS_IGNORED))
        && !last_words.lines().any(|line| {
            line.starts_with("pg_restore: ") && LOST.iter().any(|lost| line.contains(lost))
        })
}

/// A failure as it may be shown: without the values of the statement, and without rows.
fn without_values(error: ChildError) -> ChildError {
    let ChildError::Failed { program, how, code, signal, last_words } = error else { return error };
    // What follows one of these quotes rows, to its last line.
    const QUOTING: [&str; 4] = ["CONTEXT:", "DETAIL:", "STATEMENT:", "QUERY:"];
    let mut is_quoting = false;
    let mut kept = Vec::new();
    for line in last_words.lines() {
        if let Some(statement) = line.strip_prefix("Command was: ") {
            is_quoting = true;
            kept.push(format!("Command was: {} …", beginning(statement)));
        } else if line.starts_with("pg_restore: ")
            || line.starts_with("psql:")
            || line.starts_with("HINT:")
        {
            is_quoting = false;
            kept.push(line.to_owned());
        } else if QUOTING.iter().any(|quoting| line.starts_with(quoting)) {
            is_quoting = true;
        } else if !is_quoting {
            kept.push(line.to_owned());
        }
    }
    ChildError::Failed { program, how, code, signal, last_words: kept.join("\n") }
}

/// What of a statement stands before its first value.
fn beginning(statement: &str) -> &str {
    statement.split(['\'', '(', ';']).next().unwrap_or_default().trim_end()
}

/// What the server refused, with the beginning of the statement. Of a statement only what stands
/// before its first value, which may be a secret; of an error only its first line: what follows may
/// quote rows.
fn refused(said: &str) -> Vec<String> {
    let mut refused: Vec<String> = Vec::new();
    for line in said.lines() {
        if let Some(error) = line.strip_prefix("pg_restore: error: ") {
            refused.push(error.trim_start_matches("could not execute query: ").to_owned());
        } else if let Some((sqlstate, message)) =
            verbose_error(line).filter(|_| line.starts_with("psql:"))
        {
            // Success, warnings and "no data" are no errors.
            if !["00", "01", "02"].iter().any(|class| sqlstate.starts_with(class)) {
                refused.push(format!("ERROR {sqlstate}: {message}"));
            }
        } else if let (Some(statement), Some(error)) =
            (line.strip_prefix("Command was: "), refused.last_mut())
        {
            *error = format!("{}: {error}", beginning(statement));
        } else if let Some(count) =
            line.strip_prefix(ERRORS_IGNORED).and_then(|count| count.parse::<usize>().ok())
            && count > refused.len()
        {
            refused.push(format!("and {} more, whose words were not kept", count - refused.len()));
        }
    }
    refused
}

async fn pass_on(mut from: ChildStdout, mut to: ChildStdin) -> Result<(), LoadError> {
    let pipe = |source| ChildError::Pipe { program: "psql".to_owned(), source };
    let mut head = Vec::new();
    (&mut from).take(HEAD_BYTES as u64).read_to_end(&mut head).await.map_err(pipe)?;
    let head = safe_head(head)?;
    to.write_all(&head).await.map_err(pipe)?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer).await.map_err(pipe)? {
            0 => return Ok(to.shutdown().await.map_err(pipe)?),
            count => to.write_all(&buffer[..count]).await.map_err(pipe)?,
        }
    }
}

/// The script's head without the line that the server does not know.
fn safe_head(mut head: Vec<u8>) -> Result<Vec<u8>, LoadError> {
    let first =
        head.split(|c| *c == b'\n').find(|line| !line.is_empty() && !line.starts_with(b"--"));
    if first.is_some() && !first.is_some_and(|line| line.starts_with(b"\\restrict ")) {
        return Err(LoadError::Script(
            "it does not begin with \\restrict: update the clients to 17.6, 18 or newer",
        ));
    }
    if let Some(at) = memchr::memmem::find(&head, UNKNOWN_LINE) {
        head.drain(at..at + UNKNOWN_LINE.len());
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_newer_clients_on_older_servers_need_a_script() {
        assert!(
            is_needed(17, 16)
                && is_needed(18, 12)
                && !is_needed(17, 17)
                && !is_needed(18, 17)
                && !is_needed(16, 15)
        );
    }

    #[test]
    fn what_was_refused_is_told_with_its_entry_and_without_rows() {
        let said = "pg_restore: error: could not execute query: ERROR:  role \"app\" does not exist\nCommand was: ALTER TABLE public.t OWNER TO app;\n\n\
                    pg_restore: error: COPY failed for table \"t\": ERROR:  invalid input\nCONTEXT:  COPY t, line 1: \"secret\"\n\
                    pg_restore: error: could not execute query: ERROR:  no\nCommand was: CREATE SUBSCRIPTION s CONNECTION 'password=secret' PUBLICATION p;\n\
                    pg_restore: warning: errors ignored on restore: 3";
        assert_eq!(
            refused(said),
            [
                "ALTER TABLE public.t OWNER TO app: ERROR:  role \"app\" does not exist",
                "COPY failed for table \"t\": ERROR:  invalid input",
                "CREATE SUBSCRIPTION s CONNECTION: ERROR:  no"
            ]
        );
        let german = "psql:<stdin>:7: FEHLER:  42P01: Relation »t« existiert nicht\nORT:  x, y.c:1\npsql:<stdin>:8: HINWEIS:  00000: nichts";
        assert_eq!(super::refused(german), ["ERROR 42P01: Relation »t« existiert nicht"]);
    }

    #[test]
    fn only_a_restore_that_reached_its_end_went_on() {
        let ended = "pg_restore: error: x\npg_restore: warning: errors ignored on restore: 1";
        assert!(went_on(ended, "exited with 1") && !went_on(ended, "was killed by signal 9"));
        assert!(!went_on(
            "pg_restore: error: pg_restore: warning: errors ignored on restore: 1\nmore",
            "exited with 1"
        ));
        assert!(!went_on(
            &format!("pg_restore: error: server closed the connection unexpectedly\n{ended}"),
            "exited with 1"
        ));
        assert_eq!(
            refused("pg_restore: error: a\npg_restore: warning: errors ignored on restore: 3")[1],
            "and 2 more, whose words were not kept"
        );
    }

    #[test]
    fn failures_show_no_values() {
        let last_words = "pg_restore: error: could not execute query: ERROR:  no\nCommand was: CREATE USER MAPPING FOR x SERVER y OPTIONS (\n    password 'secret'\n);\n\
                          pg_restore: error: COPY failed for table \"t\": ERROR:  bad\nDETAIL:  Key (a)=(secret)\nCONTEXT:  PL/pgSQL function f()\nCOPY t, line 1: \"secret\"";
        let error = ChildError::Failed {
            program: "pg_restore".to_owned(),
            how: "exited with 1".to_owned(),
            code: Some(1),
            signal: None,
            last_words: last_words.to_owned(),
        };
        let shown = without_values(error).to_string();
        assert!(
            !shown.contains("secret")
                && shown.contains("CREATE USER MAPPING FOR x SERVER y OPTIONS …")
                && shown.contains("COPY failed"),
            "{shown}"
        );
    }

    #[test]
    fn one_line_goes_and_a_script_without_its_guard_is_not_run() {
        let head =
            b"--\n-- PostgreSQL database dump\n--\n\n\\restrict k3y\n\nSET lock_timeout = 0;\nSET transaction_timeout = 0;\nSET x = 1;\n"
                .to_vec();
        let safe = safe_head(head).unwrap();
        assert!(
            safe.ends_with(b"SET lock_timeout = 0;\nSET x = 1;\n") && safe.starts_with(b"--\n"),
            "{}",
            String::from_utf8_lossy(&safe)
        );
        assert!(matches!(
            safe_head(b"--\n\nSET lock_timeout = 0;\n".to_vec()),
            Err(LoadError::Script(_))
        ));
        assert_eq!(safe_head(Vec::new()).unwrap(), b"");
    }
}

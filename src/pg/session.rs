//! A session of our own: one `psql` child that stays connected, one statement at a time.
//!
//! `psql` is used as a wire only. Answers come back as NUL-separated fields between random marks,
//! so that no name or value, however odd, can be taken for something else; statements made of bytes
//! from outside go through [`PgSession::run_opaque`], which hands them to the server without `psql`
//! ever reading them as its own language.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;

use super::children::command;
use super::pins::NO_TIME_LIMITS;
use super::sql::quote_text;
use super::{PgConnection, PgTool, PgTools, PinSelection};

/// Largest answer to one statement, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How much of `psql`'s standard error is kept, in bytes: the end of it.
const STDERR_BYTES_MAX: usize = 8 * 1024;
/// How long the mark on standard error may lag behind the one on standard output.
const STDERR_PATIENCE: Duration = Duration::from_secs(5);
/// From this major on `psql` forgets the error of a statement that `\gexec` ran: seen in 17 and 18.
const FORGETS_AFTER_GEXEC: u32 = 16;

/// Why a statement has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// `psql` could not be started.
    #[error("psql could not be started")]
    Start(#[source] std::io::Error),
    /// The server did not let us in, or went away.
    #[error("no connection to the server: {last_words}")]
    Lost {
        /// What `psql` said.
        last_words: String,
    },
    /// The server refused the statement.
    #[error("the server refused {what} ({sqlstate}): {message}")]
    Refused {
        /// What was asked.
        what: String,
        /// SQLSTATE, five characters.
        sqlstate: String,
        /// The server's message.
        message: String,
    },
    /// The settings that make values come out the same are not in force.
    #[error(
        "the server does not take the settings that every session of lifeboat sends with its connection ({settings}): something between here and the \
         server drops them, as a connection pooler does"
    )]
    NotPinned {
        /// The first of them, with their values.
        settings: String,
    },
    /// The answer does not have the shape that was expected.
    #[error("the server's answer to {what} has an unexpected shape")]
    Shape {
        /// What was asked.
        what: String,
    },
}

impl SessionError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotPinned { .. } => Some(
                "connect to the server itself, not through a pooler: PgBouncer in transaction mode drops `options`, and would hand what a session sets to other clients",
            ),
            _ => None,
        }
    }

    /// The SQLSTATE, if the server gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Refused { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }
}

/// A row of an answer: fields in order, `None` for NULL.
pub type Row = Vec<Option<String>>;

/// A size or a count from a system catalog, for weighing things against each other and for nothing
/// else. The catalogs hold estimates, and anybody who may write them can put anything there: -1
/// means "never analysed" or "a partitioned table", NULL "none". Below zero, NULL and nonsense
/// count as 0, and what is beyond a `u64` as the largest: no estimate is a reason to go without a
/// backup.
#[must_use]
pub fn estimate(field: &Option<String>) -> u64 {
    let Some(text) = field.as_deref().map(str::trim) else { return 0 };
    match text.parse() {
        Ok(number) => number,
        Err(error) if *error.kind() == std::num::IntErrorKind::PosOverflow => u64::MAX,
        Err(_) => 0,
    }
}

/// One connection to a server.
#[derive(Debug)]
pub struct PgSession {
    _child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    stderr: StderrTail,
    major: u32,
    mark: String,
    null: String,
}

/// The end of what `psql` writes to its standard error.
#[derive(Debug)]
struct StderrTail {
    heard: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<()>,
}

impl StderrTail {
    fn of(stream: Option<ChildStderr>) -> Self {
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let into = Arc::clone(&heard);
        let reading = tokio::spawn(async move {
            let Some(mut stream) = stream else { return };
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let mut heard = into.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend_from_slice(&buffer[..count]);
                let too_long = heard.len().saturating_sub(STDERR_BYTES_MAX);
                heard.drain(..too_long);
            }
        });
        Self { heard, reading }
    }

    /// All of it, once the stream has ended.
    async fn last_words(&mut self, mark: &str) -> String {
        let _ = (&mut self.reading).await;
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&heard);
        text.lines().filter(|line| *line != mark).collect::<Vec<_>>().join("\n").trim().to_owned()
    }

    /// SQLSTATE and message of the first error before a mark that was asked for. What was heard up
    /// to there is forgotten: it may quote a statement.
    async fn error_before(&self, mark: &str) -> Option<(String, String)> {
        let begun = tokio::time::Instant::now();
        loop {
            {
                let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(at) = find(&heard, mark.as_bytes()) {
                    let said: Vec<u8> = heard.drain(..at + mark.len()).collect();
                    // Warnings come before.
                    return String::from_utf8_lossy(&said)
                        .lines()
                        .filter_map(verbose_error)
                        .next_back();
                }
            }
            if begun.elapsed() > STDERR_PATIENCE {
                self.heard.lock().unwrap_or_else(PoisonError::into_inner).clear();
                return None;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// SQLSTATE and message of `psql:<stdin>:7: ERROR:  42710: role "x" already exists`, whatever
/// language the severity is in.
#[must_use]
pub fn verbose_error(line: &str) -> Option<(String, String)> {
    let (_, rest) = line.split_once(":  ")?;
    let (sqlstate, message) = rest.split_once(": ")?;
    let is_one = sqlstate.len() == 5
        && sqlstate.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
    is_one.then(|| (sqlstate.to_owned(), message.to_owned()))
}

impl PgSession {
    /// Connects, with the pinned settings.
    ///
    /// # Errors
    /// [`SessionError::Lost`] with `psql`'s own words if the server cannot be reached or refuses.
    pub async fn open(tools: &PgTools, connection: &PgConnection) -> Result<Self, SessionError> {
        Self::connect(tools, connection, connection.pins()).await
    }

    /// Connects for statements that people wrote: values come out pinned, names are looked up along
    /// the usual `search_path`.
    ///
    /// # Errors
    /// As [`PgSession::open`].
    pub async fn open_for_people(
        tools: &PgTools,
        connection: &PgConnection,
    ) -> Result<Self, SessionError> {
        Self::connect(
            tools,
            connection,
            PinSelection { format_duration: true, ..connection.pins() },
        )
        .await
    }

    async fn connect(
        tools: &PgTools,
        connection: &PgConnection,
        pinned: PinSelection,
    ) -> Result<Self, SessionError> {
        let mut psql = command(tools, PgTool::Psql, connection);
        psql.args([
            "-X",
            "--no-password",
            "-q",
            "-A",
            "-t",
            "-z",
            "-0",
            "--dbname",
            &connection.pinned(pinned, &[]),
        ]);
        psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().map_err(SessionError::Start)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(SessionError::Lost { last_words: "psql has no pipes".to_owned() });
        };
        let stderr = StderrTail::of(child.stderr.take());
        let random = || hex::encode(rand::random::<[u8; 16]>());
        let (mark, null) = (random(), random());
        let mut session = Self {
            _child: child,
            stdin,
            stdout: BufReader::with_capacity(64 * 1024, stdout),
            stderr,
            major: tools.major(),
            mark,
            null,
        };
        let setup = format!("\\set VERBOSITY terse\n\\pset null {}\n", session.null);
        let asked = match session.send(setup.as_bytes()).await {
            Ok(()) => session.is_pinned(pinned).await,
            Err(error) => Err(error),
        };
        match asked {
            // PgBouncer as it comes; its words, in its one language.
            Err(SessionError::Lost { last_words })
                if last_words.contains("unsupported startup parameter") =>
            {
                return Err(SessionError::NotPinned { settings: last_words });
            }
            answer => answer?,
        }
        session.ask("time limits on idle sessions", NO_TIME_LIMITS, 1).await?;
        if let Some(encoding) = session.other_encoding().await? {
            session
                .run("its encoding", &format!("SET client_encoding TO {}", quote_text(&encoding)))
                .await?;
        }
        Ok(session)
    }

    /// The encoding of the database, where a role's or database's own setting makes the session
    /// speak another.
    async fn other_encoding(&mut self) -> Result<Option<String>, SessionError> {
        let question = "SELECT pg_catalog.getdatabaseencoding() WHERE pg_catalog.getdatabaseencoding() <> pg_catalog.current_setting('client_encoding')";
        Ok(self.ask("its encoding", question, 1).await?.into_iter().flatten().flatten().next())
    }

    /// The first thing that a session does. It sets nothing, so that nothing of ours is left behind
    /// where it is not the only user of its connection.
    async fn is_pinned(&mut self, pinned: PinSelection) -> Result<(), SessionError> {
        let others: Vec<String> = self
            .ask("the settings of the session", &pinned.probe(), 1)
            .await?
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        Err(SessionError::NotPinned {
            settings: others.into_iter().take(3).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whether a child that connects as `connection` does would have the pinned settings; asked
    /// right before each of them. The answer is the one setting more that it needs: the
    /// database's encoding, which no list can name.
    ///
    /// # Errors
    /// [`SessionError::NotPinned`] if not.
    pub async fn probe(
        tools: &PgTools,
        connection: &PgConnection,
    ) -> Result<Vec<(String, String)>, SessionError> {
        let mut session = Self::open(tools, connection).await?;
        let encoding =
            session.ask_one("its encoding", "SELECT pg_catalog.getdatabaseencoding()").await?;
        Ok(vec![("client_encoding".to_owned(), encoding)])
    }

    /// Runs one statement of our own and returns its rows of `columns` fields.
    ///
    /// # Errors
    /// [`SessionError`]; after `Refused` the session can be used on.
    pub async fn ask(
        &mut self,
        what: &str,
        sql: &str,
        columns: usize,
    ) -> Result<Vec<Row>, SessionError> {
        self.send_statement(sql.as_bytes()).await?;
        let answer = self.accepted(what).await?;
        self.rows(&answer, columns).ok_or_else(|| SessionError::Shape { what: what.to_owned() })
    }

    /// Runs one statement of our own and returns its single field.
    ///
    /// # Errors
    /// As [`PgSession::ask`]; [`SessionError::Shape`] if there is not exactly one value.
    pub async fn ask_one(&mut self, what: &str, sql: &str) -> Result<String, SessionError> {
        let mut rows = self.ask(what, sql, 1).await?;
        match (rows.len(), rows.pop().and_then(|mut row| row.pop().flatten())) {
            (1, Some(value)) => Ok(value),
            _ => Err(SessionError::Shape { what: what.to_owned() }),
        }
    }

    /// Runs one statement of our own that returns nothing.
    ///
    /// # Errors
    /// As [`PgSession::ask`].
    pub async fn run(&mut self, what: &str, sql: &str) -> Result<(), SessionError> {
        self.ask(what, sql, 1).await.map(|_| ())
    }

    /// Runs one statement of our own that holds names in the database's encoding, all quoted, and
    /// returns nothing.
    ///
    /// # Errors
    /// As [`PgSession::ask`].
    pub async fn run_bytes(&mut self, what: &str, sql: &[u8]) -> Result<(), SessionError> {
        self.send_statement(sql).await?;
        self.accepted(what).await.map(|_| ())
    }

    async fn send_statement(&mut self, sql: &[u8]) -> Result<(), SessionError> {
        self.send(&[sql, b"\n;\n", self.ending().as_bytes()].concat()).await
    }

    /// What follows a statement and tells how it ended, between marks that no value can foresee.
    fn ending(&self) -> String {
        format!("\\echo\n\\echo {0} :SQLSTATE :LAST_ERROR_MESSAGE\n\\echo {0}.\n", self.mark)
    }

    /// Runs one statement whose text comes from outside, in the encoding named. `psql` sees only
    /// hexadecimal digits; the server sees the text.
    ///
    /// # Errors
    /// As [`PgSession::ask`].
    pub async fn run_opaque(
        &mut self,
        what: &str,
        sql: &[u8],
        encoding: &str,
    ) -> Result<(), SessionError> {
        let (hex, encoding) = (hex::encode(sql), quote_text(encoding));
        let select = format!(
            "SELECT pg_catalog.convert_from('\\x{hex}'::pg_catalog.bytea, {encoding}) \\gexec\n"
        );
        if self.major < FORGETS_AFTER_GEXEC {
            self.send((select + &self.ending()).as_bytes()).await?;
            return self.accepted(what).await.map(|_| ());
        }
        // These forget the error of what `\gexec` ran; it stands on their standard error only.
        let script = format!(
            "\\set VERBOSITY verbose\n{select}\\set VERBOSITY terse\n\\warn {}\n{}",
            self.mark,
            self.ending()
        );
        self.send(script.as_bytes()).await?;
        let accepted = self.accepted(what).await.map(|_| ());
        if matches!(accepted, Err(SessionError::Lost { .. })) {
            // It writes no mark any more.
            return accepted;
        }
        let said = self.stderr.error_before(&self.mark).await;
        match (accepted, said) {
            (Err(SessionError::Refused { what, sqlstate, .. }), Some((state, message)))
                if sqlstate.is_empty() =>
            {
                Err(SessionError::Refused { what, sqlstate: state, message })
            }
            (accepted, _) => accepted,
        }
    }

    /// The fields of an answer, if the server accepted the statement.
    async fn accepted(&mut self, what: &str) -> Result<Vec<u8>, SessionError> {
        let mut answer = self.receive(what).await?;
        let status_line = format!("\n{} ", self.mark).into_bytes();
        let at = find(&answer, &status_line)
            .ok_or_else(|| SessionError::Shape { what: what.to_owned() })?;
        let status = String::from_utf8_lossy(&answer[at + status_line.len()..]).into_owned();
        let (sqlstate, message) = status.split_once(' ').unwrap_or((&status, ""));
        if sqlstate != "00000" {
            return Err(SessionError::Refused {
                what: what.to_owned(),
                sqlstate: sqlstate.to_owned(),
                message: message.trim().to_owned(),
            });
        }
        answer.truncate(at);
        Ok(answer)
    }

    async fn send(&mut self, script: &[u8]) -> Result<(), SessionError> {
        let sent = async {
            self.stdin.write_all(script).await?;
            self.stdin.flush().await
        };
        match sent.await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.lost().await),
        }
    }

    /// Reads up to the line that ends an answer.
    async fn receive(&mut self, what: &str) -> Result<Vec<u8>, SessionError> {
        let end = format!("\n{}.\n", self.mark).into_bytes();
        let mut answer = Vec::new();
        loop {
            let mut limited = (&mut self.stdout).take(ANSWER_BYTES_MAX as u64);
            match limited.read_until(b'\n', &mut answer).await {
                Ok(1..) if answer.ends_with(&end) => {
                    answer.truncate(answer.len() - end.len());
                    return Ok(answer);
                }
                Ok(1..) if answer.len() < ANSWER_BYTES_MAX => {}
                Ok(1..) => return Err(SessionError::Shape { what: what.to_owned() }),
                _ => return Err(self.lost().await),
            }
        }
    }

    async fn lost(&mut self) -> SessionError {
        let last_words = self.stderr.last_words(&self.mark).await;
        let last_words = last_words.trim_start_matches("psql: error: ").to_owned();
        SessionError::Lost {
            last_words: if last_words.is_empty() {
                "psql ended without a word".to_owned()
            } else {
                last_words
            },
        }
    }

    fn rows(&self, fields: &[u8], columns: usize) -> Option<Vec<Row>> {
        if fields.is_empty() {
            return Some(Vec::new());
        }
        let fields = fields.strip_suffix(b"\0")?;
        let value = |field: &[u8]| {
            let text = String::from_utf8_lossy(field).into_owned();
            (text != self.null).then_some(text)
        };
        let all: Vec<Option<String>> = fields.split(|b| *b == 0).map(value).collect();
        (all.len().is_multiple_of(columns))
            .then(|| all.chunks(columns).map(<[_]>::to_vec).collect())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::{estimate, verbose_error};

    #[test]
    fn errors_are_read_in_any_language_and_from_nothing_else() {
        let of =
            |line: &str| verbose_error(line).map(|(state, message)| format!("{state} {message}"));
        assert_eq!(
            of("psql:<stdin>:7: ERROR:  42710: role \"x\" already exists").as_deref(),
            Some("42710 role \"x\" already exists")
        );
        assert_eq!(
            of("FEHLER:  42501: keine Berechtigung: x").as_deref(),
            Some("42501 keine Berechtigung: x")
        );
        for other in [
            "LOCATION:  CreateRole, user.c:340",
            "LINE 1: CREATE ROLE x",
            "DETAIL:  Key (a)=(1): x",
            "",
            "ERROR:  4271: x",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn an_estimate_is_never_an_error() {
        let said = |text: &str| estimate(&Some(text.to_owned()));
        assert_eq!((said("0"), said("8192"), said(" 7 ")), (0, 8192, 7));
        assert_eq!((said("-1"), said("-9223372036854775809"), estimate(&None)), (0, 0, 0));
        assert_eq!(
            (said("9223372036854775808"), said("18446744073709551615")),
            (1 << 63, u64::MAX)
        );
        assert_eq!(
            (said("18446744073709551616"), said("1e300"), said("NaN"), said("Infinity"), said("")),
            (u64::MAX, 0, 0, 0, 0)
        );
    }
}

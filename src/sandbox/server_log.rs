//! The log of the sandbox's server: which errors it raised and where in its source, and how its
//! processes ended.
//!
//! A drill judges by this and not by message texts. Messages may contain anything that the restored
//! data says, in any language; what decides is the SQLSTATE with the function and file that raised
//! it, which only the server writes: continuation lines of a message are indented by it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Settings of the server's log that no session can change: process and SQLSTATE come before every
/// line.
const OF_THE_SERVER: [&str; 2] = ["log_destination=stderr", "log_line_prefix=%p %e "];
/// Those that a restored database or role may set otherwise. Statements and rows do not stand in
/// the log.
const OF_EVERY_SESSION: [&str; 7] = [
    "log_error_verbosity=verbose",
    "log_min_messages=warning",
    "log_min_error_statement=panic",
    "log_statement=none",
    "log_min_duration_statement=-1",
    "log_duration=off",
    "lc_messages=C",
];
/// Errors that are kept: the newest.
const RAISED_MAX: usize = 256;
/// Bytes of a line that are looked at.
const LINE_BYTES_MAX: usize = 2048;
/// Ends by signals that are kept.
const KILLED_MAX: usize = 64;
/// Where the postmaster tells how a process of the server ended.
const CHILD_EXIT: (&str, &str) = ("LogChildExit", "postmaster.c");
/// Lines that are kept for people, should the server not start.
const LAST_LINES: usize = 12;

/// What stands on the server's command line.
pub(super) fn settings() -> impl Iterator<Item = &'static str> {
    OF_THE_SERVER.into_iter().chain(OF_EVERY_SESSION)
}

/// Options of lifeboat's own sessions, which win over what a restored database or role sets; nor
/// does such a setting load a library into them.
pub(super) fn session_options() -> String {
    let all = OF_EVERY_SESSION.into_iter().chain(["session_preload_libraries="]);
    all.map(|setting| format!("-c {setting}")).collect::<Vec<_>>().join(" ")
}

/// An error that the server raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaisedError {
    process: u32,
    /// SQLSTATE, five characters. Code of the data's own may choose any.
    pub sqlstate: String,
    /// The first line of the message, in the server's words or in the data's.
    pub message: String,
    /// The function of the server's source that raised it; empty if it was not told.
    pub function: String,
    /// The file of that function, without its directory.
    pub file: String,
}

impl RaisedError {
    /// An error as it would be raised at a place.
    #[cfg(test)]
    pub fn at(sqlstate: &str, message: &str, function: &str, file: &str) -> Self {
        let own = str::to_owned;
        Self {
            process: 0,
            sqlstate: own(sqlstate),
            message: own(message),
            function: own(function),
            file: own(file),
        }
    }
}

/// What has been heard, from the first line on.
#[derive(Debug, Default)]
pub struct LogContents {
    raised: VecDeque<RaisedError>,
    /// How many errors were dropped at the front.
    dropped: usize,
    killed: Vec<i32>,
    last: VecDeque<String>,
    /// What the newest line of a process that begins a message was, until its place is told.
    open: BTreeMap<u32, OpenMessage>,
}

/// A message whose place is still to come.
#[derive(Debug)]
enum OpenMessage {
    /// The newest error of that process.
    Error,
    /// The end of a process by a signal, if it is the postmaster that says so.
    Killed(i32),
}

/// A place in what is heard.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogMark {
    raised: usize,
    killed: usize,
}

/// What the server said since a mark.
#[derive(Debug, Clone, Default)]
pub struct LogSince {
    /// Errors it raised, the oldest first.
    pub raised: Vec<RaisedError>,
    /// Signals that ended processes of the server.
    pub killed: Vec<i32>,
}

/// Listens to a server's standard error until that ends.
#[derive(Debug, Clone, Default)]
pub struct ServerLog(Arc<Mutex<LogContents>>);

impl ServerLog {
    /// Begins to listen.
    pub fn listen(
        stream: Option<impl AsyncRead + Unpin + Send + 'static>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let log = Self::default();
        let heard = log.clone();
        let listening = tokio::spawn(async move {
            let Some(mut stream) = stream else { return };
            let (mut buffer, mut line) = (vec![0; 16 * 1024], Vec::new());
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                for byte in buffer.iter().take(count) {
                    match byte {
                        b'\n' => {
                            heard.with(|heard| heard.line(&String::from_utf8_lossy(&line)));
                            line.clear();
                        }
                        byte if line.len() < LINE_BYTES_MAX => line.push(*byte),
                        _ => {}
                    }
                }
            }
            heard.with(|heard| heard.line(&String::from_utf8_lossy(&line)));
        });
        (log, listening)
    }

    fn with<T>(&self, work: impl FnOnce(&mut LogContents) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it is now.
    #[must_use]
    pub fn mark(&self) -> LogMark {
        self.with(|heard| LogMark {
            raised: heard.dropped + heard.raised.len(),
            killed: heard.killed.len(),
        })
    }

    /// What was said since.
    #[must_use]
    pub fn since(&self, mark: LogMark) -> LogSince {
        self.with(|heard| LogSince {
            raised: heard
                .raised
                .iter()
                .skip(mark.raised.saturating_sub(heard.dropped))
                .cloned()
                .collect(),
            killed: heard.killed.iter().skip(mark.killed).copied().collect(),
        })
    }

    /// The last lines, for people.
    #[must_use]
    pub fn last_words(&self) -> String {
        self.with(|heard| heard.last.iter().cloned().collect::<Vec<_>>().join("\n"))
    }
}

impl LogContents {
    fn line(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        let Some((process, sqlstate, what, text)) = parts(line) else {
            self.last.push_back(line.to_owned());
            return;
        };
        let open = match what {
            "ERROR" | "FATAL" | "PANIC" => {
                if self.raised.len() == RAISED_MAX {
                    self.raised.pop_front();
                    self.dropped += 1;
                }
                // Verbose lines repeat the SQLSTATE.
                let message = text.split_once(": ").map_or(text, |(_, message)| message).to_owned();
                self.last.push_back(format!("{what}: {message}"));
                let (function, file) = (String::new(), String::new());
                self.raised.push_back(RaisedError {
                    process,
                    sqlstate: sqlstate.to_owned(),
                    message,
                    function,
                    file,
                });
                Some(OpenMessage::Error)
            }
            "LOCATION" => {
                let (function, place) = text.split_once(", ").unwrap_or(("", text));
                let file = place.rsplit_once(':').map_or(place, |(file, _)| file);
                let file = file.rsplit('/').next().unwrap_or(file);
                match self.open.remove(&process) {
                    Some(OpenMessage::Error) => {
                        if let Some(raised) =
                            self.raised.iter_mut().rev().find(|raised| raised.process == process)
                        {
                            (raised.function, raised.file) = (function.to_owned(), file.to_owned());
                        }
                    }
                    // Anybody can say it; only one place of the server's knows it.
                    Some(OpenMessage::Killed(signal))
                        if (function, file) == CHILD_EXIT && self.killed.len() < KILLED_MAX =>
                    {
                        self.killed.push(signal)
                    }
                    _ => {}
                }
                return;
            }
            "DETAIL" | "HINT" | "QUERY" | "CONTEXT" | "BACKTRACE" | "STATEMENT" => return,
            "LOG" => {
                // "server process (PID 7) was terminated by signal 9: Killed"
                let signal = text
                    .split_once(" was terminated by signal ")
                    .and_then(|(_, rest)| rest.split(':').next()?.trim().parse().ok());
                self.last.push_back(text.to_owned());
                signal.map(OpenMessage::Killed)
            }
            _ => {
                self.last.push_back(format!("{what}: {text}"));
                None
            }
        };
        // A message without a place ends where the next one of its process begins.
        match open {
            Some(open) if self.open.len() < RAISED_MAX || self.open.contains_key(&process) => {
                self.open.insert(process, open);
            }
            _ => {
                self.open.remove(&process);
            }
        }
    }
}

/// Process, SQLSTATE, what kind of line, and its text.
fn parts(line: &str) -> Option<(u32, &str, &str, &str)> {
    let (process, rest) = line.split_once(' ')?;
    let (sqlstate, rest) = rest.split_once(' ')?;
    let (what, text) = rest.split_once(":  ")?;
    let is_state = sqlstate.len() == 5
        && sqlstate.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase());
    Some((process.parse().ok().filter(|_| is_state)?, sqlstate, what, text))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hear(text: &str) -> LogContents {
        let mut heard = LogContents::default();
        text.lines().for_each(|line| heard.line(line));
        heard
    }

    #[test]
    fn an_error_has_its_place_and_words_of_the_data_have_none() {
        let heard = hear(
            "12 0A000 ERROR:  0A000: extension \"x\" is not available\n\
             12 0A000 DETAIL:  Could not open extension control file\n\
             12 0A000 LOCATION:  parse_extension_control_file, extension.c:560\n\
             13 P0001 ERROR:  P0001: item 1 is not available\n\
             \t14 58P01 ERROR:  58P01: could not open file\n\
             \t13 58P01 LOCATION:  mdextend, md.c:1\n\
             13 P0001 CONTEXT:  PL/pgSQL function\n\
             13 P0001 LOCATION:  exec_stmt_raise, pl_exec.c:3893\n",
        );
        let found: Vec<_> = heard
            .raised
            .iter()
            .map(|r| (r.sqlstate.as_str(), r.function.as_str(), r.file.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("0A000", "parse_extension_control_file", "extension.c"),
                ("P0001", "exec_stmt_raise", "pl_exec.c")
            ]
        );
    }

    #[test]
    fn processes_that_were_killed_are_told_by_their_signal() {
        let log = "LOG:  00000: server process (PID 77) was terminated by signal 9: Killed\n";
        let heard = hear(&format!(
            "1 00000 {log}1 00000 LOCATION:  LogChildExit, postmaster.c:3681\nnoise\n"
        ));
        assert_eq!(heard.killed, [9]);
        assert_eq!(heard.last.len(), 2);
        // Said by a function of the data's, which may log what it likes.
        let heard =
            hear(&format!("9 00000 {log}9 00000 LOCATION:  exec_stmt_raise, pl_exec.c:3893\n"));
        assert!(heard.killed.is_empty());
    }

    #[test]
    fn a_place_belongs_to_the_message_before_it() {
        let heard = hear(
            "5 53100 ERROR:  53100: full\n5 01000 WARNING:  01000: other\n5 01000 LOCATION:  mdextend, md.c:1\n",
        );
        assert_eq!(heard.raised[0].file, "", "its own place was not told");
    }

    #[tokio::test]
    async fn what_is_heard_is_bounded() {
        let endless = vec![b'x'; 3 * LINE_BYTES_MAX];
        let (log, listening) = ServerLog::listen(Some(std::io::Cursor::new(endless)));
        listening.await.unwrap();
        assert_eq!(log.last_words().len(), LINE_BYTES_MAX);
        let many: String = (0..1000).map(|n| format!("1 22012 ERROR:  22012: {n}\n")).collect();
        let (log, listening) = ServerLog::listen(Some(std::io::Cursor::new(many.into_bytes())));
        listening.await.unwrap();
        let all = log.since(LogMark::default());
        assert_eq!(
            (all.raised.len(), all.raised.last().unwrap().message.as_str()),
            (RAISED_MAX, "999")
        );
        assert_eq!(log.since(LogMark { raised: 998, killed: 0 }).raised.len(), 2);
    }
}

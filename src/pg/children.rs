//! Child processes: started with an explicit environment and no shell, killed when dropped, their
//! last words kept.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::{PgConnection, PgTool, PgTools};

/// Signals by which a machine ends a process, and what is to be said of it.
pub const BY_THE_MACHINE: [(i32, &str); 5] = [
    (libc::SIGKILL, "was killed; was its memory used up?"),
    (libc::SIGBUS, "got no more memory"),
    (libc::SIGSYS, "made a system call that a sandbox refuses"),
    (libc::SIGXCPU, "had no more time"),
    (libc::SIGXFSZ, "could not make a file that large"),
];

/// Whether a signal is one by which a machine ends a process.
#[must_use]
pub fn is_by_the_machine(signal: i32) -> bool {
    BY_THE_MACHINE.iter().any(|(one, _)| *one == signal)
}

/// How much of a child's standard error is kept, in bytes: the end of it, which is where the reason
/// stands.
const LAST_WORDS_BYTES_MAX: usize = 16 * 1024;

/// A child that failed, with its last words.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("{program} could not be started")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{program} {how}: {last_words}")]
    Failed {
        /// The program.
        program: String,
        /// Exit status or signal.
        how: String,
        /// The exit code, if it exited.
        code: Option<i32>,
        /// The signal that ended it, if one did.
        signal: Option<i32>,
        /// The end of its standard error.
        last_words: String,
    },
    /// Reading from it or writing to it failed.
    #[error("the pipe to {program} broke")]
    Pipe {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A Postgres program, with its connection in the arguments and its secrets in the environment.
#[must_use]
pub fn command(tools: &PgTools, tool: PgTool, connection: &PgConnection) -> Command {
    connection.command(&tools.path(tool))
}

/// A running child and the task that keeps its last words.
#[derive(Debug)]
pub struct RunningChild {
    program: &'static str,
    child: Child,
    last_words: JoinHandle<String>,
}

impl RunningChild {
    /// Starts a child; its standard error is read from the first byte on, so that it can never
    /// block on it.
    ///
    /// # Errors
    /// [`ChildError::Start`] if the program cannot be run.
    pub fn start(mut command: Command, tool: PgTool) -> Result<Self, ChildError> {
        let program = tool.name();
        command.stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| ChildError::Start {
            program: command.as_std().get_program().to_string_lossy().into_owned(),
            source,
        })?;
        let last_words = tokio::spawn(keep_last_words(child.stderr.take()));
        Ok(Self { program, child, last_words })
    }
    /// The child, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
    /// Waits for the end; the last words of a child that exited 0 are warnings.
    ///
    /// # Errors
    /// [`ChildError::Failed`] with the last words unless it exited 0.
    pub async fn finish(mut self) -> Result<(ExitStatus, String), ChildError> {
        let program = self.program.to_owned();
        let status = self
            .child
            .wait()
            .await
            .map_err(|source| ChildError::Pipe { program: program.clone(), source })?;
        let last_words = self.last_words.await.unwrap_or_default();
        if status.success() {
            if !last_words.is_empty() {
                tracing::debug!(program, last_words, "child wrote to standard error and exited 0");
            }
            Ok((status, last_words))
        } else {
            Err(ChildError::Failed {
                program,
                how: how_it_ended(status),
                code: status.code(),
                signal: status.signal(),
                last_words: or_silence(last_words),
            })
        }
    }
}

fn or_silence(last_words: String) -> String {
    if last_words.is_empty() { "it said nothing on standard error".to_owned() } else { last_words }
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

/// Reads a stream to its end and returns the last of it, trimmed.
pub async fn keep_last_words(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * LAST_WORDS_BYTES_MAX {
            kept.drain(..kept.len() - LAST_WORDS_BYTES_MAX);
        }
    }
    let from = kept.len().saturating_sub(LAST_WORDS_BYTES_MAX);
    String::from_utf8_lossy(&kept[from..]).trim().to_owned()
}

//! Running configured programs: password commands, notification commands, hooks around a snapshot,
//! smoke commands.
//!
//! Each has a limit of time and of output, is judged by its exit status alone, and is killed with
//! its whole process group: a background child can neither delay anybody nor outlive the run. Its
//! output is hostile.

use std::io::IsTerminal;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::domain::printable::printable;

/// How long what a program has said is waited for after it has ended: one that has left its group
/// may hold its output open for ever.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a program may take to end after it was asked to.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// Characters of a complaint that stand in an error.
const COMPLAINT_CHARACTERS_MAX: usize = 500;

/// What a program may take.
#[derive(Debug, Clone, Copy)]
pub struct ProgramLimits {
    /// Time, after which it is ended.
    pub within: Duration,
    /// Bytes that are kept of standard output, and of standard error; what is beyond is read and
    /// dropped.
    pub output_bytes: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct ProgramOutcome {
    /// How it exited.
    pub status: ExitStatus,
    /// What it wrote to standard output, from its beginning; it may be a secret.
    pub stdout: Zeroizing<Vec<u8>>,
    /// What it wrote to standard error, from its beginning.
    pub stderr: Zeroizing<Vec<u8>>,
    /// Whether it wrote more than was kept.
    pub is_cut: bool,
}

impl ProgramOutcome {
    /// The beginning of what it complained of, as it can be printed anywhere.
    #[must_use]
    pub fn complaint(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.stderr)
            .trim()
            .chars()
            .take(COMPLAINT_CHARACTERS_MAX)
            .collect();
        printable(&text.replace('\n', " | "))
    }
}

/// Why a program has no result.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started.
    #[error("it could not be started: {0}")]
    NotStarted(#[source] std::io::Error),
    /// It was ended.
    #[error("it did not end within {} seconds, and was ended", .0.as_secs())]
    TookTooLong(Duration),
}

/// A program and everything it started: ended when nobody waits for it any more.
struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // Nobody of it may be left, which is as good.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// What is kept of an output.
#[derive(Default)]
struct KeptOutput {
    bytes: Zeroizing<Vec<u8>>,
    is_cut: bool,
}

/// Runs a program. `input` is what it may read; one that does not is not wrong for it.
///
/// # Errors
/// [`ProgramError`]; how it exited is part of the result.
pub async fn run(
    mut command: Command,
    input: &[u8],
    limits: ProgramLimits,
) -> Result<ProgramOutcome, ProgramError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // Where somebody is at the keyboard it may ask at the terminal, which only the group in front
    // may.
    let is_alone = !std::io::stdin().is_terminal();
    if is_alone {
        command.process_group(0);
    }
    let mut child = command.spawn().map_err(ProgramError::NotStarted)?;
    let group = ProcessGroup(
        child
            .id()
            .filter(|_| is_alone)
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw),
    );
    if let Some(mut stdin) = child.stdin.take() {
        let input = Zeroizing::new(input.to_vec());
        tokio::spawn(async move { stdin.write_all(&input).await });
    }
    let (stdout, stderr) = (
        keep(child.stdout.take(), limits.output_bytes),
        keep(child.stderr.take(), limits.output_bytes),
    );
    let status = match tokio::time::timeout(limits.within, child.wait()).await {
        Ok(status) => status.map_err(ProgramError::NotStarted)?,
        Err(_) => {
            group.signal(Signal::TERM);
            let _ = tokio::time::timeout(ENDS_WITHIN, child.wait()).await;
            return Err(ProgramError::TookTooLong(limits.within));
        }
    };
    // What it left in the background holds its output open.
    group.signal(Signal::KILL);
    let (stdout, stderr) = (said(stdout).await, said(stderr).await);
    Ok(ProgramOutcome {
        status,
        is_cut: stdout.is_cut || stderr.is_cut,
        stdout: stdout.bytes,
        stderr: stderr.bytes,
    })
}

type OutputReader = (Arc<Mutex<KeptOutput>>, JoinHandle<()>);

fn keep(pipe: Option<impl AsyncRead + Unpin + Send + 'static>, bytes_max: usize) -> OutputReader {
    let kept = Arc::<Mutex<KeptOutput>>::default();
    let filling = Arc::clone(&kept);
    let reading = tokio::spawn(async move {
        let Some(mut pipe) = pipe else { return };
        let mut some = Zeroizing::new([0; 8192]);
        while let Ok(count @ 1..) = pipe.read(&mut some[..]).await {
            let Ok(mut kept) = filling.lock() else { return };
            let room = bytes_max.saturating_sub(kept.bytes.len());
            kept.is_cut |= count > room;
            kept.bytes.extend_from_slice(&some[..count.min(room)]);
        }
    });
    (kept, reading)
}

async fn said((kept, mut reading): OutputReader) -> KeptOutput {
    if tokio::time::timeout(LAST_WORDS, &mut reading).await.is_err() {
        reading.abort();
        if let Ok(mut kept) = kept.lock() {
            kept.is_cut = true;
        }
    }
    kept.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Instant;

    use super::*;

    const LIMITS: ProgramLimits =
        ProgramLimits { within: Duration::from_secs(60), output_bytes: 100 };

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    fn lives(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    /// Waits until a process is gone.
    async fn ends(pid: &str) {
        for _ in 0..100 {
            if !lives(pid) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{pid} lives");
    }

    #[tokio::test]
    async fn a_program_is_judged_by_how_it_exits_and_by_nothing_else() {
        let ended = run(shell("cat; echo no >&2; exit 3"), b"said to it", LIMITS).await.unwrap();
        assert_eq!(
            (ended.status.code(), &ended.stdout[..], ended.complaint().as_str()),
            (Some(3), &b"said to it"[..], "no")
        );
        assert!(
            run(shell("exit 0"), &[7; 1 << 20], LIMITS).await.unwrap().status.success(),
            "input that nobody reads"
        );
        let missing = run(Command::new("/no/such/program"), b"", LIMITS).await.unwrap_err();
        assert!(missing.to_string().starts_with("it could not be started"), "{missing}");
    }

    #[tokio::test]
    async fn what_it_leaves_in_the_background_keeps_nobody_waiting_and_is_ended() {
        let begun = Instant::now();
        let ended = run(shell("sleep 300 & echo $!"), b"", LIMITS).await.unwrap();
        assert!(
            ended.status.success() && begun.elapsed() < Duration::from_secs(30),
            "{:?}",
            begun.elapsed()
        );
        ends(std::str::from_utf8(&ended.stdout).unwrap()).await;
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_ended_with_its_children_even_if_it_will_not() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let script =
            format!("trap '' TERM; sleep 300 & echo $! > {}; wait; sleep 300", pid.display());
        let limits = ProgramLimits { within: Duration::from_millis(600), ..LIMITS };
        let error = run(shell(&script), b"", limits).await.unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
        ends(&std::fs::read_to_string(pid).unwrap()).await;
    }

    #[tokio::test]
    async fn what_it_says_has_a_limit_and_reaches_nobody_as_it_is() {
        let ended = run(shell("yes | head -c 1000000; printf 'a\\033[2Jb' >&2"), b"", LIMITS)
            .await
            .unwrap();
        assert!(ended.status.success() && ended.is_cut && ended.stdout.len() == 100);
        assert!(!ended.complaint().contains('\u{1b}'), "{}", ended.complaint());
    }
}

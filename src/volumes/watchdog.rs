//! Freezing file systems, and never for longer than allowed.
//!
//! File systems are frozen, and the team's own program is run, by a watchdog process: lifeboat
//! started again, in its own process group. It thaws everything when it is told to, at its timeout,
//! on a signal, and when lifeboat is gone, whichever is first. If the watchdog itself is killed,
//! lifeboat thaws; if both are, the note that is kept in the state directory while anything is
//! frozen is found by the next run or by `lifeboat sweep` ([`undo_abandoned`]).
//!
//! A process that writes to a frozen file system cannot even be killed, so neither of the two may:
//! the caller makes sure that state, vault and temporary files are elsewhere.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::program;

/// Name of the hidden command that runs [`watch`].
pub const COMMAND: &str = "freeze-watchdog";
/// How long undoing may take for each thing, whatever the limit was.
const UNDO_PATIENCE: Duration = Duration::from_secs(60);
/// How much longer than the limit lifeboat waits for the watchdog's answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of what a program says that are kept.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
const FSFREEZE: [&str; 3] = ["/usr/sbin/fsfreeze", "/sbin/fsfreeze", "/usr/bin/fsfreeze"];

/// What is to stand still, and for how long at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezePlan {
    /// Mount points to be frozen, in this order.
    pub freeze: Vec<PathBuf>,
    /// A program that is run first: its absolute path and arguments.
    pub before: Option<Vec<String>>,
    /// What undoes it; run last, whenever the first was begun.
    pub after: Option<Vec<String>>,
    /// After so long everything is undone.
    pub limit: Duration,
}

/// Why nothing stands still, or did not for as long as it should have.
#[derive(Debug, thiserror::Error)]
pub enum StandstillError {
    /// The watchdog could not be started.
    #[error("the watchdog could not be started: {0}")]
    NoWatchdog(String),
    /// Something could not be frozen, or the program failed; everything has been undone.
    #[error("{0}; everything was undone")]
    Failed(String),
    /// It was undone before it was asked for.
    #[error("nothing stood still any more when the volumes had been cut: {0}")]
    TooShort(String),
    /// Something could not be undone.
    #[error("{what} may still be frozen: {why}; `fsfreeze --unfreeze` thaws it")]
    StillFrozen {
        /// The mount point, or the program.
        what: String,
        /// What came of trying.
        why: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WatchdogReply {
    Still,
    Failed(String),
    Undone { seconds: f64, because: ThawReason, failures: Vec<String> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ThawReason {
    Told,
    TimeOver,
    Signal,
    LifeboatGone,
}

impl ThawReason {
    fn words(self) -> &'static str {
        match self {
            Self::Told => "it was told to",
            Self::TimeOver => "the time was over (freeze_limit)",
            Self::Signal => "a signal came",
            Self::LifeboatGone => "lifeboat was gone",
        }
    }
}

/// The time in which nothing is written. Ends when it is dropped, too: the watchdog sees that.
pub struct FrozenVolumes {
    plan: FreezePlan,
    state: PathBuf,
    child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl FrozenVolumes {
    /// Makes everything stand still. Returns when it does.
    ///
    /// # Errors
    /// [`StandstillError`]; nothing stands still then, unless it says so.
    pub async fn begin(plan: FreezePlan, state: &Path) -> Result<Self, StandstillError> {
        let no_watchdog = |error: std::io::Error| StandstillError::NoWatchdog(error.to_string());
        std::fs::create_dir_all(state).map_err(no_watchdog)?;
        let mut command = Command::new(crate::this_program::path());
        command
            .arg(COMMAND)
            .arg(state)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .process_group(0);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(no_watchdog)?;
        let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(StandstillError::NoWatchdog("it has no pipes".to_owned()));
        };
        let line = serde_json::to_string(&plan)
            .map_err(|error| StandstillError::NoWatchdog(error.to_string()))?
            + "\n";
        stdin.write_all(line.as_bytes()).await.map_err(no_watchdog)?;
        let mut still = Self {
            answers: BufReader::new(stdout).lines(),
            plan,
            state: state.to_owned(),
            child,
            stdin,
        };
        match still.answer(still.plan.limit + UNDO_PATIENCE).await {
            Some(WatchdogReply::Still) => Ok(still),
            Some(WatchdogReply::Failed(why)) => Err(StandstillError::Failed(why)),
            Some(WatchdogReply::Undone { failures, .. }) => Err(StandstillError::StillFrozen {
                what: failures.join("; "),
                why: "undoing it failed".to_owned(),
            }),
            _ => Err(still.gone().await),
        }
    }

    async fn answer(&mut self, within: Duration) -> Option<WatchdogReply> {
        let line = tokio::time::timeout(within, self.answers.next_line()).await.ok()?.ok()??;
        serde_json::from_str(&line).ok()
    }

    /// The watchdog is dead or mute: it is ended, and what it did is undone here.
    async fn gone(mut self) -> StandstillError {
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
        match undo(&self.plan, true).await.into_iter().next() {
            Some((what, why)) => StandstillError::StillFrozen { what, why },
            None => {
                // Undone: nobody need do it again.
                for note in abandoned(&self.state) {
                    let same = read_note(&note).is_some_and(|noted| noted.plan == self.plan);
                    if same {
                        let _ = std::fs::remove_file(note);
                    }
                }
                StandstillError::TooShort("the watchdog died".to_owned())
            }
        }
    }

    /// Ends it; how long it lasted.
    ///
    /// # Errors
    /// [`StandstillError`] if it had ended before, or something could not be undone.
    pub async fn end(mut self) -> Result<Duration, StandstillError> {
        if self.stdin.write_all(b"undo\n").await.is_err() {
            tracing::warn!("the watchdog no longer listens");
        }
        match self.answer(UNDO_PATIENCE + ANSWER_PATIENCE).await {
            Some(WatchdogReply::Undone { failures, .. }) if !failures.is_empty() => {
                Err(StandstillError::StillFrozen {
                    what: failures.join("; "),
                    why: "undoing it failed".to_owned(),
                })
            }
            Some(WatchdogReply::Undone { seconds, because: ThawReason::Told, .. }) => {
                let _ = self.child.wait().await;
                Ok(Duration::from_secs_f64(seconds.max(0.0)))
            }
            Some(WatchdogReply::Undone { seconds, because, .. }) => Err(StandstillError::TooShort(
                format!("it was undone after {seconds:.1} seconds, since {}", because.words()),
            )),
            _ => Err(self.gone().await),
        }
    }
}

/// The watchdog's own life: hears a plan on standard input, carries it out, waits, undoes.
///
/// # Errors
/// What kept it from beginning.
pub async fn watch(state: &Path) -> Result<(), String> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let line = lines.next_line().await.ok().flatten().ok_or("no plan came")?;
    let plan: FreezePlan =
        serde_json::from_str(&line).map_err(|error| format!("the plan cannot be read: {error}"))?;
    let mut signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
        .map(|kind| signal(kind).map_err(|error| error.to_string()))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let note = LockedNote::write(state, &plan)?;
    let begun = Instant::now();
    let [first, second, third] = signals.as_mut_slice() else {
        return Err("signals cannot be heard".to_owned());
    };
    let mut told = false;
    // Until it stands still, the same things end it as afterwards.
    let frozen = Mutex::new(Vec::new());
    let still = tokio::select! {
        still = stand_still(&plan, &frozen) => still,
        () = tokio::time::sleep(plan.limit) => Err(format!("nothing stood still within {} seconds", plan.limit.as_secs())),
        _ = first.recv() => Err("a signal came".to_owned()),
        _ = second.recv() => Err("a signal came".to_owned()),
        _ = third.recv() => Err("a signal came".to_owned()),
        line = lines.next_line() => Err(match line { Ok(Some(_)) => "it was called off".to_owned(), _ => "lifeboat was gone".to_owned() }),
    };
    // What was never begun is not undone: somebody else may have frozen it.
    let plan =
        FreezePlan { freeze: frozen.into_inner().unwrap_or_else(|_| plan.freeze.clone()), ..plan };
    if let Err(why) = still {
        let failures = undo(&plan, true).await;
        if failures.is_empty() {
            note.remove();
            say(&WatchdogReply::Failed(why));
        } else {
            let seconds = begun.elapsed().as_secs_f64();
            say(&WatchdogReply::Undone {
                seconds,
                because: ThawReason::TimeOver,
                failures: in_words(failures),
            });
        }
        return Ok(());
    }
    say(&WatchdogReply::Still);
    let because = tokio::select! {
        line = lines.next_line() => match line {
            Ok(Some(_)) => { told = true; ThawReason::Told }
            _ => ThawReason::LifeboatGone,
        },
        () = tokio::time::sleep(plan.limit.saturating_sub(begun.elapsed())) => ThawReason::TimeOver,
        _ = first.recv() => ThawReason::Signal,
        _ = second.recv() => ThawReason::Signal,
        _ = third.recv() => ThawReason::Signal,
    };
    let seconds = begun.elapsed().as_secs_f64();
    let failures = undo(&plan, false).await;
    if failures.is_empty() {
        note.remove();
    }
    // Nobody has asked yet: the answer waits for the question.
    if !told && because != ThawReason::LifeboatGone {
        let _ = lines.next_line().await;
    }
    say(&WatchdogReply::Undone { seconds, because, failures: in_words(failures) });
    Ok(())
}

fn in_words(failures: Vec<(String, String)>) -> Vec<String> {
    failures.into_iter().map(|(what, why)| format!("{what}: {why}")).collect()
}

/// An answer that nobody hears is no reason to do anything else.
fn say(said: &WatchdogReply) {
    use std::io::Write;
    if let Ok(line) = serde_json::to_string(said) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

async fn stand_still(plan: &FreezePlan, begun: &Mutex<Vec<PathBuf>>) -> Result<(), String> {
    if let Some(words) = &plan.before {
        run(words, plan.limit)
            .await
            .map_err(|why| format!("the program before the cut, {}: {why}", words.join(" ")))?;
    }
    let mut still = BTreeSet::new();
    for point in &plan.freeze {
        // One file system by another name: it stands still already, and thawing it twice would thaw
        // what somebody else has frozen since.
        let device = std::fs::metadata(point)
            .map_err(|error| format!("{}: {error}", point.display()))?
            .dev();
        if !still.insert(device) {
            continue;
        }
        let note = |change: &dyn Fn(&mut Vec<PathBuf>)| {
            begun.lock().map(|mut begun| change(&mut begun)).unwrap_or_default()
        };
        note(&|begun| begun.push(point.clone()));
        if let Err(why) = freeze(point, true, plan.limit).await {
            // Frozen by somebody else, whose work it would be to thaw.
            if why.contains("Device or resource busy") {
                note(&|begun| drop(begun.pop()));
            }
            return Err(format!("freezing {}: {why}", point.display()));
        }
    }
    Ok(())
}

/// Undoes a plan, in reverse order; what could not be undone, and why. What was never frozen may be
/// left: `maybe` says that a refusal may mean that.
async fn undo(plan: &FreezePlan, maybe: bool) -> Vec<(String, String)> {
    let mut failures = Vec::new();
    for point in plan.freeze.iter().rev() {
        // A freezer that was killed while it waited for a writer may still succeed, after a thaw
        // that found nothing to do.
        let waiting = Instant::now();
        while freezer_lives(point) && waiting.elapsed() < UNDO_PATIENCE {
            let _ = freeze(point, false, UNDO_PATIENCE).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if freezer_lives(point) {
            failures.push((
                point.display().to_string(),
                "a process that freezes it does not end".to_owned(),
            ));
        }
        // What is not there any more, or was never frozen, is not frozen.
        let gone = maybe && !point.exists();
        if let Err(why) = freeze(point, false, UNDO_PATIENCE).await
            && !gone
            && !(maybe && why.contains("Invalid argument"))
        {
            failures.push((point.display().to_string(), why));
        }
    }
    if let Some(words) = &plan.after
        && let Err(why) = run(words, UNDO_PATIENCE).await
    {
        failures.push((words.join(" "), why));
    }
    failures
}

/// Whether a process is still freezing a mount point.
fn freezer_lives(point: &Path) -> bool {
    let wanted = point.as_os_str().as_encoded_bytes();
    let freezes = |entry: std::fs::DirEntry| {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
        words.contains(&b"--freeze".as_slice()) && words.contains(&wanted)
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().any(freezes)
}

async fn freeze(point: &Path, still: bool, within: Duration) -> Result<(), String> {
    let program = FSFREEZE
        .iter()
        .find(|path| Path::new(path).exists())
        .ok_or("fsfreeze (util-linux) is not installed")?;
    let words = [
        (*program).to_owned(),
        if still { "--freeze" } else { "--unfreeze" }.to_owned(),
        point.display().to_string(),
    ];
    run(&words, within).await
}

/// Runs a program to its end, or ends it and everything it started.
async fn run(words: &[String], within: Duration) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("no program is named")?;
    let mut command = Command::new(program);
    // Its words are compared.
    command.env("LC_ALL", "C").args(arguments);
    let ended = program::run(
        command,
        b"",
        program::ProgramLimits { within, output_bytes: OUTPUT_BYTES_MAX },
    )
    .await
    .map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(());
    }
    let said = ended.complaint();
    Err(format!("{} ({})", if said.is_empty() { "it failed" } else { &said }, ended.status))
}

/// What stands in a note.
#[derive(Serialize, Deserialize)]
struct FreezeNote {
    plan: FreezePlan,
    /// A host that was started anew has nothing frozen.
    boot: String,
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

fn read_note(path: &Path) -> Option<FreezeNote> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// A note of what is frozen, locked by the watchdog while it lives.
struct LockedNote {
    path: PathBuf,
    _locked: std::fs::File,
}

impl LockedNote {
    fn write(state: &Path, plan: &FreezePlan) -> Result<Self, String> {
        let path = state.join(format!(
            "{}-{}.frozen",
            std::process::id(),
            hex::encode(rand::random::<[u8; 4]>())
        ));
        let file = std::fs::File::create_new(&path).map_err(|error| error.to_string())?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| error.to_string())?;
        serde_json::to_writer(&file, &FreezeNote { plan: plan.clone(), boot: boot() })
            .map_err(|error| error.to_string())?;
        file.sync_all().map_err(|error| error.to_string())?;
        Ok(Self { path, _locked: file })
    }
    fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Notes of watchdogs that were killed while something was frozen.
#[must_use]
pub fn abandoned(state: &Path) -> Vec<PathBuf> {
    let notes = std::fs::read_dir(state).into_iter().flatten().flatten().map(|entry| entry.path());
    let nobodys = |path: &PathBuf| {
        let locked = |file: std::fs::File| {
            rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
        };
        path.extension().is_some_and(|extension| extension == "frozen")
            && std::fs::File::open(path).is_ok_and(locked)
    };
    notes.filter(nobodys).collect()
}

/// Undoes what a watchdog that was killed has left; what was undone.
///
/// # Errors
/// [`StandstillError::StillFrozen`] if something could not be undone.
pub async fn undo_abandoned(state: &Path) -> Result<Vec<String>, StandstillError> {
    let (mut undone, mut failed) = (Vec::new(), None);
    for path in abandoned(state) {
        if let Some(mut noted) = read_note(&path) {
            if noted.boot != boot() {
                noted.plan.freeze.clear();
            }
            // One that cannot be thawed is no reason to leave the others.
            if let Some((what, why)) = undo(&noted.plan, true).await.into_iter().next() {
                failed.get_or_insert(StandstillError::StillFrozen { what, why });
                continue;
            }
            undone.extend(noted.plan.freeze.iter().map(|point| point.display().to_string()));
        }
        let _ = std::fs::remove_file(&path);
    }
    failed.map_or(Ok(undone), Err)
}

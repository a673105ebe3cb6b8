//! Traces of a sandbox on the host: how it is found and killed by somebody who knows only the run's
//! name.
//!
//! PIDs are never stored, since they are reused: a sandbox is identified by its uids, and by its
//! name in its directory and in the arguments of its processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::{RaisedSandbox, directory, failed};
use crate::sandbox::{LeftoverCensus, SandboxError, group, jail, users, volumes};

/// How often what is left is looked for and ended before it is given up.
const ROUNDS: usize = 100;
/// What a sandbox's directory holds for whoever finds it.
pub(super) const LEASE: &str = "lease.json";

/// What stands in a sandbox's directory, for whoever finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLease {
    /// The run.
    pub run: String,
    /// Uid of the server; clients have the next one. None where it has no uid of its own.
    pub uid: Option<u32>,
    /// When it should be gone.
    pub expires: Timestamp,
    /// Its control groups, where it has any.
    #[serde(default)]
    pub groups: Vec<PathBuf>,
}

/// Ends whatever there is of a run's sandbox, known by its tag alone. Doing it twice, or where
/// nothing is, is success.
///
/// # Errors
/// [`SandboxError`] if something cannot be ended or removed.
pub async fn undo(state: &Path, run: &str) -> Result<(), SandboxError> {
    let home = directory(state, run);
    let lease = read_lease(&home);
    let groups: Vec<PathBuf> = lease.iter().flat_map(|lease| lease.groups.clone()).collect();
    for round in 0..ROUNDS {
        let tagged = tagged(state, run, lease.as_ref());
        group::remove(&groups);
        if tagged.is_empty() && group::left(&groups).is_empty() {
            break;
        }
        for process in tagged {
            kill(&process, |again| is_tagged(again, state, run, lease.as_ref()));
        }
        // Those who led others in are of root, and go by themselves, or have no more to do.
        if round >= ROUNDS / 4 {
            for process in group::members(&groups).into_iter().filter_map(process) {
                kill(&process, |again| group::members(&groups).contains(&again.pid));
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    volumes::detach_all(run);
    if let Some(group) = group::left(&groups).first() {
        // Its directory stays, by which it is found again.
        let why = format!("control group {} still has processes", group.display());
        return Err(SandboxError::Failed { what: "remove its control group", why });
    }
    match std::fs::remove_dir_all(&home) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove its directory")(error))
        }
        _ => Ok(()),
    }
}

/// What there still is of a run's sandbox.
#[must_use]
pub fn census(state: &Path, run: &str, lease: Option<&SandboxLease>) -> LeftoverCensus {
    let home = directory(state, run);
    let lease = read_lease(&home).or_else(|| lease.cloned());
    let processes = tagged(state, run, lease.as_ref())
        .into_iter()
        .map(|p| format!("process {} ({})", p.pid, p.name))
        .collect();
    let mut files = if home.exists() { vec![home.display().to_string()] } else { Vec::new() };
    files.extend(
        lease
            .iter()
            .flat_map(|lease| group::left(&lease.groups))
            .map(|group| group.display().to_string()),
    );
    files.extend(volumes::attached(run).into_iter().map(|device| format!("/dev/{device}")));
    LeftoverCensus { processes, files }
}

/// Sandboxes that have a directory on this host.
#[must_use]
pub fn found(state: &Path) -> Vec<SandboxLease> {
    let entries = std::fs::read_dir(state).into_iter().flatten().flatten();
    let lease = |entry: std::fs::DirEntry| {
        let run = entry.file_name().into_string().ok()?;
        // One without a lease died while it was made; it has expired. The name is the directory's,
        // whatever the lease says.
        let found = read_lease(&entry.path());
        let none = SandboxLease {
            run: String::new(),
            uid: None,
            expires: Timestamp::UNIX_EPOCH,
            groups: Vec::new(),
        };
        Some(SandboxLease { run, ..found.unwrap_or(none) })
    };
    entries.filter_map(lease).collect()
}

/// The lease of a run's sandbox, if it has a directory.
#[must_use]
pub fn lease(state: &Path, run: &str) -> Option<SandboxLease> {
    read_lease(&directory(state, run))
}

pub(super) fn read_lease(home: &Path) -> Option<SandboxLease> {
    let lease: SandboxLease =
        serde_json::from_slice(&std::fs::read(home.join(LEASE)).ok()?).ok()?;
    // Where a sandbox has no uid of its own, what runs in it could write a lease that names
    // somebody else's.
    Some(SandboxLease { uid: lease.uid.filter(|uid| users::can_be(*uid)), ..lease })
}

pub(super) struct FoundProcess {
    pub(super) pid: u32,
    pub(super) parent: u32,
    uid: u32,
    name: String,
    arguments: Vec<u8>,
}

fn process(pid: u32) -> Option<FoundProcess> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // A zombie holds nothing and goes when its parent looks.
    if field("State:")?.starts_with('Z') {
        return None;
    }
    Some(FoundProcess {
        pid,
        parent: field("PPid:")?.parse().ok()?,
        uid: field("Uid:")?.split_whitespace().next()?.parse().ok()?,
        name: field("Name:")?.to_owned(),
        arguments: std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(),
    })
}

pub(super) fn processes() -> Vec<FoundProcess> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

fn is_tagged(
    process: &FoundProcess,
    state: &Path,
    run: &str,
    lease: Option<&SandboxLease>,
) -> bool {
    let uid = lease.and_then(|lease| lease.uid);
    let words = || process.arguments.split(|byte| *byte == 0);
    let first_process = words().any(|word| word == jail::COMMAND.as_bytes())
        && words().any(|word| word == run.as_bytes());
    let home = directory(state, run).into_os_string().into_encoded_bytes();
    let own = process.pid == std::process::id();
    // Anybody may write a run's name into their own arguments.
    let is_ours = process.uid == rustix::process::geteuid().as_raw();
    !own && (uid.is_some_and(|uid| process.uid == uid || process.uid == uid + 1)
        || (is_ours && (first_process || words().any(|word| word.starts_with(&home)))))
}

fn tagged(state: &Path, run: &str, lease: Option<&SandboxLease>) -> Vec<FoundProcess> {
    processes().into_iter().filter(|process| is_tagged(process, state, run, lease)).collect()
}

/// Kills the process that was looked at, and no other that got its number since: a handle is taken
/// first, and what it stands for is looked at once more.
fn kill(process: &FoundProcess, still: impl Fn(&FoundProcess) -> bool) {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if self::process(process.pid).is_some_and(|again| still(&again)) {
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
}

pub(super) fn used_uids() -> std::collections::BTreeSet<u32> {
    processes().iter().map(|process| process.uid).collect()
}

impl RaisedSandbox {
    /// Ends every process of the clients' user that still runs. Where they have no user of their
    /// own, only those that lifeboat started are known, and they end with their groups.
    pub fn end_clients(&self) {
        let Some(client) = self.lease.uid.map(|uid| uid + 1) else { return };
        // What is started meanwhile is ended in the next round.
        for _ in 0..ROUNDS {
            let clients: Vec<FoundProcess> =
                processes().into_iter().filter(|process| process.uid == client).collect();
            if clients.is_empty() {
                return;
            }
            for process in clients {
                kill(&process, |again| again.uid == client);
            }
        }
    }
}

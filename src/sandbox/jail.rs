//! The first process of a sandbox: lifeboat itself, started again inside new namespaces.
//!
//! It builds a root file system in memory (programs read-only, nothing else of the host), pivots
//! into it, and then waits: for requests on standard input ([`JailRequest`]), for the end of that
//! input, or for its time to live. When it exits, the kernel kills everything in its PID namespace
//! and drops the file system. Whoever started it need not be alive for that: standard input closes
//! with it.

use std::io::{BufRead, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use serde::{Deserialize, Serialize};

use super::filter::{self, FilterAudience};
use super::volumes;

/// Name of the hidden command that runs [`first_process`].
pub const COMMAND: &str = "sandbox-first-process";
/// Directories inside.
pub const SOCKET_DIRECTORY: &str = "/run/postgres";
/// The cluster's directory inside.
pub const DATA_DIRECTORY: &str = "/data";
/// The clients' own directory inside.
pub const CLIENT_DIRECTORY: &str = "/home/client";
/// Shared memory of System V that all processes may have together, in bytes.
pub const SHARED_MEMORY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Message queues that there may be; each holds 16 KiB.
const MESSAGE_QUEUES_MAX: u64 = 16;
/// How often orphans are collected.
const REAP_EVERY: Duration = Duration::from_millis(200);
/// Parts of the host's file system that programs need.
const PROGRAMS: [&str; 6] = ["usr", "bin", "sbin", "lib", "lib64", "lib32"];
/// Files below `/etc` that programs need and that hold nothing of the host but its installation.
const SETTINGS: [&str; 4] = ["ld.so.cache", "alternatives", "localtime", "ssl/openssl.cnf"];
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// What the first process is told, as one line of JSON on standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JailPlan {
    /// An empty directory of the host to build in.
    pub root: PathBuf,
    /// Size of the file system in bytes.
    pub size_bytes: u64,
    /// Seconds until everything ends by itself.
    pub time_to_live_seconds: u64,
    /// Uid and gid of the server; clients have the next one.
    pub uid: u32,
    /// Installations outside of `/usr`, visible read-only under their own path.
    pub programs: Vec<PathBuf>,
    /// Whether system calls are filtered.
    pub is_filtered: bool,
}

/// What the first process says when it is ready.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct JailReady {
    /// Whether the kernel may write the sandbox's files to the host's swap space.
    pub is_swapped: bool,
    /// Whether shared memory of System V has the sandbox's own limit.
    pub is_shared_memory_bounded: bool,
}

/// What the first process can be asked, each as one line of JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JailRequest {
    /// Mount a loop device of the host; answered with [`JailReply`].
    Mount {
        /// Its name, such as `loop7`.
        device: String,
        /// The file system: `ext4` or `xfs`.
        kind: String,
        /// Where, inside.
        at: PathBuf,
    },
    /// Undo a mount; answered with [`JailReply`].
    Unmount(PathBuf),
    /// Give what is mounted to the server, and make a data directory ready for it; answered with
    /// [`JailReply`].
    Adopt {
        /// The mount points.
        mounts: Vec<PathBuf>,
        /// The data directory.
        data: PathBuf,
        /// Files that are written, by their absolute path.
        files: Vec<(PathBuf, String)>,
    },
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JailReply {
    /// It is done.
    Well,
    /// It is not, and why.
    Failed(String),
}

/// Runs the first process until its end. Returns what went wrong before it was ready.
///
/// # Errors
/// The system's error, with what was being done.
pub fn first_process() -> Result<(), String> {
    let begun = Instant::now();
    // Whoever started the drill may let nobody read what it writes; the server must read what is
    // written here.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| format!("no plan came: {error}"))?;
    let plan: JailPlan =
        serde_json::from_str(&line).map_err(|error| format!("the plan cannot be read: {error}"))?;
    let is_shared_memory_bounded = bound_shared_memory(&plan);
    let built = JailReady { is_shared_memory_bounded, ..build(&plan)? };
    if plan.is_filtered {
        filter::apply(FilterAudience::FirstProcess)?;
    }
    answer(&built)?;
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    let time_to_live = Duration::from_secs(plan.time_to_live_seconds);
    while begun.elapsed() < time_to_live {
        match told.recv_timeout(REAP_EVERY) {
            Ok(line) => match serde_json::from_str(&line).map_err(|error| error.to_string())? {
                JailRequest::Mount { device, kind, at } => {
                    answer(&done(volumes::mount_device(&device, &kind, &at)))?
                }
                JailRequest::Unmount(at) => answer(&done(
                    unmount(&at, UnmountFlags::empty()).map_err(|error| error.to_string()),
                ))?,
                JailRequest::Adopt { mounts, data, files } => {
                    answer(&done(volumes::adopt(&mounts, &data, &files, plan.uid)))?
                }
            },
            Err(RecvTimeoutError::Timeout) => {
                while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG)
                {
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(())
}

fn done(outcome: Result<(), String>) -> JailReply {
    outcome.map_or_else(JailReply::Failed, |()| JailReply::Well)
}

fn answer(value: &impl Serialize) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(|error| error.to_string())?;
    out.write_all(b"\n").and_then(|()| out.flush()).map_err(|error| error.to_string())
}

/// Limits what stays in memory without being a file or a process's own: shared memory and message
/// queues of System V, which belong to the namespace. Postgres itself needs some bytes of it.
/// Whether that is possible: containers may see these settings and not change them.
fn bound_shared_memory(plan: &JailPlan) -> bool {
    let bytes = SHARED_MEMORY_BYTES_MAX.min(plan.size_bytes);
    let pages = bytes / u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let limits = [("shmmax", bytes), ("shmall", pages), ("msgmni", MESSAGE_QUEUES_MAX)];
    limits.iter().all(|(name, value)| {
        std::fs::write(Path::new("/proc/sys/kernel").join(name), value.to_string()).is_ok()
    })
}

/// Builds the file system and moves into it.
fn build(plan: &JailPlan) -> Result<JailReady, String> {
    let root = plan.root.as_path();
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let bare = MountFlags::NOSUID | MountFlags::NODEV;
    // What is restored must not reach a disk by being swapped out. Kernels before 6.4 do not know
    // the word.
    let in_memory = |more: &str| {
        let options = format!("size={},mode=755,nr_inodes=1000000{more}", plan.size_bytes);
        let options = std::ffi::CString::new(options).map_err(|e| e.to_string())?;
        mount("tmpfs", root, "tmpfs", bare, options.as_c_str())
            .map_err(|e| format!("mounting a file system in memory: {e}"))
    };
    let is_swapped = in_memory(",noswap").is_err();
    if is_swapped {
        in_memory("")?;
    }
    let mounts = mount_points();
    for name in PROGRAMS {
        let source = Path::new("/").join(name);
        match std::fs::symlink_metadata(&source) {
            Ok(facts) if facts.is_symlink() => {
                let target = std::fs::read_link(&source)
                    .map_err(|e| format!("reading {}: {e}", source.display()))?;
                symlink(target, at(name)).map_err(|e| format!("linking {name}: {e}"))?;
            }
            Ok(_) => show_with_mounts(&source, root, &mounts)?,
            Err(_) => {}
        }
    }
    for source in &plan.programs {
        show_with_mounts(source, root, &mounts)?;
    }
    for name in SETTINGS {
        let source = Path::new("/etc").join(name);
        if source.exists() {
            show(&source, &at("etc").join(name))?;
        }
    }
    let (server, client) = (plan.uid, plan.uid + 1);
    let users = format!(
        "root:x:0:0::/:/bin/false\npostgres:x:{server}:{server}::/:/bin/false\nclient:x:{client}:{client}::{CLIENT_DIRECTORY}:/bin/false\n"
    );
    for (name, text) in [
        ("etc/passwd", users.as_str()),
        ("etc/group", &format!("root:x:0:\npostgres:x:{server}:\nclient:x:{client}:\n")),
        ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
        ("etc/hosts", "127.0.0.1 localhost\n"),
    ] {
        write(&at(name), text)?;
    }
    for (name, mode, owner) in [
        (SOCKET_DIRECTORY, 0o755, server),
        (DATA_DIRECTORY, 0o700, server),
        (CLIENT_DIRECTORY, 0o700, client),
        ("/tmp", 0o1777, 0),
        ("/dev/shm", 0o1777, 0),
        ("/proc", 0o555, 0),
    ] {
        let path = at(name);
        std::fs::create_dir_all(&path).map_err(|e| format!("making {name}: {e}"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .map_err(|e| format!("{name}: {e}"))?;
        chown(&path, Some(owner), Some(owner))
            .map_err(|e| format!("giving {name} to uid {owner}: {e}"))?;
    }
    for name in DEVICES {
        let device = at("dev").join(name);
        write(&device, "")?;
        mount_bind(Path::new("/dev").join(name), &device)
            .map_err(|e| format!("showing /dev/{name}: {e}"))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, at("dev").join(name)).map_err(|e| format!("linking /dev/{name}: {e}"))?;
    }
    mount("proc", at("proc"), "proc", bare | MountFlags::NOEXEC, None)
        .map_err(|e| format!("mounting /proc: {e}"))?;
    std::env::set_current_dir(root).map_err(|e| format!("entering {}: {e}", root.display()))?;
    // The old root is stacked under the new one at the same place, and then dropped: nothing of it
    // has a name any more.
    rustix::process::pivot_root(".", ".").map_err(|e| format!("moving into the new root: {e}"))?;
    unmount(".", UnmountFlags::DETACH).map_err(|e| format!("dropping the old root: {e}"))?;
    std::env::set_current_dir("/").map_err(|e| e.to_string())?;
    Ok(JailReady { is_swapped, is_shared_memory_bounded: false })
}

/// Shows a file or directory of the host, read-only.
fn show(source: &Path, target: &Path) -> Result<(), String> {
    let fail = |e: rustix::io::Errno| format!("showing {} read-only: {e}", source.display());
    if source.is_dir() {
        std::fs::create_dir_all(target).map_err(|e| format!("making {}: {e}", target.display()))?;
    } else {
        write(target, "")?;
    }
    mount_bind(source, target).map_err(fail)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount_remount(target, flags, c"").map_err(fail)
}

/// Shows a directory of the host and whatever is mounted below it, each by itself: a mount's flags
/// are its own.
fn show_with_mounts(source: &Path, root: &Path, mounts: &[PathBuf]) -> Result<(), String> {
    let at = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    show(source, &at(source))?;
    mounts
        .iter()
        .filter(|mount| mount.starts_with(source) && *mount != source)
        .try_for_each(|mount| show(mount, &at(mount)))
}

/// Where file systems are mounted on the host, the outer ones first.
fn mount_points() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Names with octal escapes are nobody's programs.
    let points =
        text.lines().filter_map(|line| line.split(' ').nth(4)).filter(|path| !path.contains('\\'));
    let mut points: Vec<PathBuf> = points.map(PathBuf::from).collect();
    points.sort();
    points.dedup();
    points
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("writing {}: {e}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fail)?;
    }
    std::fs::write(path, text).map_err(fail)
}

//! The local sandbox: a throwaway cluster in its own namespaces, or as much isolation as the host
//! allows.
//!
//! Created by `unshare`, entered by `nsenter`, both from util-linux. Its first process
//! ([`super::jail`]) keeps it alive; its files are in memory and have no name on the host but an
//! empty directory. What outlives a drill is found by its tag, the run's name: in the directory,
//! and in the arguments of the first process. PIDs are never stored, since they are reused.

mod cluster;
mod proof;
mod traces;

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::jail::{self, CLIENT_DIRECTORY, DATA_DIRECTORY, SOCKET_DIRECTORY};
use super::{IsolationGap, SandboxError, group, launch, users};
use crate::pg::connection::SandboxLauncher;
use crate::pg::{PgConnection, PgTools};
use cluster::ClusterServer;
pub use cluster::SandboxCondition;
use traces::{LEASE, processes, used_uids};
pub use traces::{SandboxLease, census, found, lease, undo};

/// How long raising, stopping and probing may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Processes that the server's or the clients' uid may have.
const PROCESSES_MAX: u32 = 512;
/// Memory that processes may take beside the sandbox's files, in bytes, where a control group can
/// be made: at least this, or half as much as the files.
const MEMORY_BESIDE_FILES: u64 = 1024 * 1024 * 1024;
/// Options of `nsenter` and the namespaces they enter.
const NAMESPACES: [(&str, &str); 5] =
    [("--mount", "mnt"), ("--net", "net"), ("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts")];

/// What a sandbox is to be.
#[derive(Debug, Clone)]
pub struct LocalSandboxSpec {
    /// Name of the run, which tags everything.
    pub run: String,
    /// Directory of this host's sandboxes, private to whoever runs drills.
    pub state: PathBuf,
    /// Size of the sandbox's file system in bytes.
    pub size_bytes: u64,
    /// When everything ends by itself.
    pub time_to_live: Duration,
    /// The server's installation.
    pub tools: PgTools,
    /// Further directories that its programs need, read-only.
    pub programs: Vec<PathBuf>,
    /// Libraries that the server loads when it starts.
    pub preload: Vec<String>,
    /// Whether it gets a control group, where there can be one.
    pub is_limited: bool,
}

enum SandboxHold {
    /// The first process, which holds everything; its end is the sandbox's end.
    Jail(Box<JailHandle>),
    /// No namespaces: a directory on the host.
    Bare,
}

struct JailHandle {
    child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// The first process, as the host numbers it; it lives as long as `child` does.
    inside: u32,
    /// Its namespaces, held open: they are entered by these and not by a process number, which may
    /// be another's one day.
    namespaces: Vec<(&'static str, std::fs::File)>,
    built: jail::JailReady,
}

/// A raised sandbox.
pub struct RaisedSandbox {
    spec: LocalSandboxSpec,
    lease: SandboxLease,
    hold: SandboxHold,
    server: Option<ClusterServer>,
    gaps: Vec<IsolationGap>,
    /// Why there are no namespaces, where there are none.
    bare: Option<String>,
    /// When it was raised.
    raised: Instant,
    /// Why its processes have no common limit of memory, where they have none.
    unlimited: Option<String>,
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> SandboxError {
    move |error| SandboxError::Failed { what, why: error.to_string() }
}

fn directory(state: &Path, run: &str) -> PathBuf {
    state.join(run)
}

/// Raises a sandbox: jailed if the machine allows it, else bare with its gaps named.
///
/// # Errors
/// [`SandboxError`]; what was begun is found by the run's name.
pub async fn raise(spec: LocalSandboxSpec) -> Result<RaisedSandbox, SandboxError> {
    let raised = Instant::now();
    let root = rustix::process::geteuid().is_root();
    let uid = match root {
        true => Some(own_users()?),
        false => None,
    };
    let expires =
        Timestamp::now() + jiff::SignedDuration::try_from(spec.time_to_live).unwrap_or_default();
    let (groups, mut unlimited) = match root.then(|| group::planned(&spec.run)) {
        Some(Ok(groups)) if spec.is_limited => (groups, None),
        Some(Ok(_)) => (Vec::new(), None),
        Some(Err(why)) => (Vec::new(), Some(why)),
        None => (Vec::new(), Some("it was not started as root".to_owned())),
    };
    let mut lease = SandboxLease { run: spec.run.clone(), uid, expires, groups };
    let home = directory(&spec.state, &spec.run);
    private_directory(&spec.state).map_err(failed("make its state directory"))?;
    std::fs::create_dir(&home).map_err(failed("make its directory"))?;
    let text = serde_json::to_vec(&lease).map_err(|e| failed("write its lease")(e.into()))?;
    std::fs::write(home.join(LEASE), text).map_err(failed("write its lease"))?;
    // Written down before it is made: whoever finds the directory finds the group.
    if !lease.groups.is_empty()
        && let Err(why) = group::make(&lease.groups, &limits(&spec))
    {
        (lease.groups, unlimited) = (Vec::new(), Some(why));
    }
    let is_filtered = system_calls_are_filtered().await;
    let jailed = match uid {
        Some(uid) => jailed(&spec, &home, uid, &lease.groups, is_filtered).await,
        None => Err("it was not started as root, which may make namespaces".to_owned()),
    };
    let (hold, mut gaps, bare) = match jailed {
        Ok(hold) => (hold, Vec::new(), None),
        Err(why) => {
            tracing::warn!(why, "the sandbox is not isolated");
            bare_directories(&lease, &home)?;
            let own = if lease.uid.is_none() { Some(IsolationGap::Uid) } else { None };
            (
                SandboxHold::Bare,
                [
                    IsolationGap::Network,
                    IsolationGap::Files,
                    IsolationGap::Processes,
                    IsolationGap::Size,
                ]
                .into_iter()
                .chain(own)
                .collect(),
                Some(why),
            )
        }
    };
    if !is_filtered {
        gaps.push(IsolationGap::SystemCalls);
    }
    Ok(RaisedSandbox { spec, lease, hold, server: None, gaps, bare, raised, unlimited })
}

/// How much everything in it may take together: its files, what its processes have beside them, and
/// the shared memory that they may have.
fn limits(spec: &LocalSandboxSpec) -> group::GroupLimits {
    let beside = MEMORY_BESIDE_FILES.max(spec.size_bytes / 2);
    let memory_bytes =
        spec.size_bytes.saturating_add(beside).saturating_add(jail::SHARED_MEMORY_BYTES_MAX);
    group::GroupLimits { memory_bytes, processes: 2 * PROCESSES_MAX }
}

/// A pair of uids that nobody has.
fn own_users() -> Result<u32, SandboxError> {
    let used = used_uids();
    users::free_pair(&|uid| used.contains(&uid)).ok_or_else(|| SandboxError::Failed {
        what: "find users of its own",
        why: "lifeboat is root here, which no server may be, and this user namespace has no other ids; \
              give the container more (/etc/subuid), or start it as another user"
            .to_owned(),
    })
}

/// Whether the kernel takes the filter, tried with a program that does nothing.
async fn system_calls_are_filtered() -> bool {
    let mut tried = SandboxLauncher::new(launch::words(&[], true)).command(Path::new("/bin/true"));
    tried.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    tried.status().await.is_ok_and(|status| status.success())
}

/// Makes the directory of this host's sandboxes, or takes the one that is there if nobody else
/// could have put anything into it or could put another in its place: what stands in it is given to
/// others, by root.
fn private_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    // Others may pass through, as the server's uid must where there are no namespaces, but not
    // look.
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    let facts = std::fs::symlink_metadata(path)?;
    let refused = |why: &str| Err(std::io::Error::other(format!("{}: {why}", path.display())));
    if !facts.is_dir()
        || facts.uid() != rustix::process::geteuid().as_raw()
        || facts.mode() & 0o022 != 0
    {
        return refused("it is not a directory of lifeboat's user alone; remove it");
    }
    let above = std::fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
    if above.mode() & 0o002 != 0 && above.mode() & 0o1000 == 0 {
        return refused(
            "everybody may exchange it, by the mode of the directory that it is in; run: chmod o-w on that",
        );
    }
    Ok(())
}

async fn jailed(
    spec: &LocalSandboxSpec,
    home: &Path,
    uid: u32,
    groups: &[PathBuf],
    is_filtered: bool,
) -> Result<SandboxHold, String> {
    let root = home.join("root");
    std::fs::create_dir(&root).map_err(|e| e.to_string())?;
    // The first process filters its own system calls, after it has built what it may not build any
    // more.
    let mut unshare =
        SandboxLauncher::new(launch::words(groups, false)).command(Path::new("/usr/bin/unshare"));
    unshare.args([
        "--mount",
        "--net",
        "--pid",
        "--ipc",
        "--uts",
        "--fork",
        "--propagation",
        "private",
        "--",
    ]);
    unshare.arg(crate::this_program::path()).arg(jail::COMMAND).arg(&spec.run);
    unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = unshare.spawn().map_err(|e| format!("unshare could not be started: {e}"))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("no pipes".to_owned());
    };
    let mut answers = BufReader::new(stdout).lines();
    let plan = jail::JailPlan {
        root,
        size_bytes: spec.size_bytes,
        time_to_live_seconds: spec.time_to_live.as_secs().max(1),
        uid,
        programs: std::iter::once(spec.tools.directory().to_owned())
            .map(|bin| bin.parent().unwrap_or(&bin).to_owned())
            .chain(spec.programs.iter().cloned())
            .filter(|path| !path.starts_with("/usr"))
            .collect(),
        is_filtered,
    };
    let line = serde_json::to_string(&plan).map_err(|e| e.to_string())? + "\n";
    let ready = async {
        stdin.write_all(line.as_bytes()).await.ok()?;
        answers.next_line().await.ok().flatten()
    };
    let ready = tokio::time::timeout(PATIENCE, ready).await.ok().flatten();
    let Some(built) = ready.and_then(|line| serde_json::from_str::<jail::JailReady>(&line).ok())
    else {
        let _ = child.start_kill();
        // What unshare started ends with its standard input.
        drop(stdin);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        let output =
            output.ok().and_then(Result::ok).map(|output| output.stderr).unwrap_or_default();
        return Err(format!(
            "namespaces could not be made: {}",
            String::from_utf8_lossy(&output).trim()
        ));
    };
    // The first process is unshare's only child.
    let outer = child.id().ok_or("unshare is gone")?;
    let inside = processes()
        .into_iter()
        .find(|process| process.parent == outer)
        .ok_or("the first process is gone")?
        .pid;
    let open = |(option, name): (&'static str, &str)| {
        let file = std::fs::File::open(format!("/proc/{inside}/ns/{name}"));
        file.map(|file| (option, file))
            .map_err(|e| format!("its namespaces could not be held: {e}"))
    };
    let namespaces = NAMESPACES.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
    Ok(SandboxHold::Jail(Box::new(JailHandle { child, stdin, answers, inside, namespaces, built })))
}

/// The directories of a sandbox without namespaces.
fn bare_directories(lease: &SandboxLease, home: &Path) -> Result<(), SandboxError> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let inside = home.join("root");
    // The server and its clients have a group of their own here, which nobody else of this host is
    // in; what they share is theirs alone.
    let (passed, shared) = if lease.uid.is_some() { (0o710, 0o750) } else { (0o700, 0o700) };
    for directory in [home, &inside] {
        std::fs::create_dir_all(directory).map_err(failed("make its directories"))?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(passed))
            .map_err(failed("make its directories"))?;
        chown(directory, None, lease.uid).map_err(failed("make its directories"))?;
    }
    for (name, uid) in [(DATA_DIRECTORY, 0), (SOCKET_DIRECTORY, 0), (CLIENT_DIRECTORY, 1)] {
        let path = inside.join(name.trim_start_matches('/'));
        std::fs::create_dir_all(&path).map_err(failed("make its directories"))?;
        if let Some(above) = path.parent() {
            std::fs::set_permissions(above, std::fs::Permissions::from_mode(passed))
                .map_err(failed("make its directories"))?;
            chown(above, None, lease.uid).map_err(failed("make its directories"))?;
        }
        let mode = if name == SOCKET_DIRECTORY { shared } else { 0o700 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            .map_err(failed("make its directories"))?;
        if let Some(own) = lease.uid {
            chown(&path, Some(own + uid), Some(own)).map_err(failed("make its directories"))?;
        }
    }
    Ok(())
}

impl JailHandle {
    async fn ask(&mut self, question: &jail::JailRequest, patience: Duration) -> Option<String> {
        let line = serde_json::to_string(question).ok()? + "\n";
        let answer = async {
            self.stdin.write_all(line.as_bytes()).await.ok()?;
            self.answers.next_line().await.ok().flatten()
        };
        tokio::time::timeout(patience, answer).await.ok().flatten()
    }
}

impl RaisedSandbox {
    /// What is not isolated, before anything runs in it.
    #[must_use]
    pub fn gaps(&self) -> &[IsolationGap] {
        &self.gaps
    }

    /// Why it has no namespaces, where it has none.
    #[must_use]
    pub fn why_bare(&self) -> Option<&str> {
        self.bare.as_deref()
    }

    /// Why its processes have no common limit of memory, where they have none.
    #[must_use]
    pub fn why_unlimited(&self) -> Option<&str> {
        self.unlimited.as_deref()
    }

    /// A path of the sandbox as its programs see it.
    fn inside(&self, path: &str) -> PathBuf {
        match self.hold {
            SandboxHold::Jail(_) => PathBuf::from(path),
            SandboxHold::Bare => directory(&self.spec.state, &self.spec.run)
                .join("root")
                .join(path.trim_start_matches('/')),
        }
    }

    fn launcher(&self, client: bool) -> SandboxLauncher {
        // Where there are no namespaces, both are of one group, which their directories are for.
        self.launcher_as(self.lease.uid.map(|uid| match self.hold {
            SandboxHold::Jail(_) => (uid + u32::from(client), uid + u32::from(client)),
            SandboxHold::Bare => (uid + u32::from(client), uid),
        }))
    }

    fn launcher_as(&self, user: Option<(u32, u32)>) -> SandboxLauncher {
        let mut words =
            launch::words(&self.lease.groups, !self.gaps.contains(&IsolationGap::SystemCalls));
        let mut push = |more: &[&str]| words.extend(more.iter().map(OsString::from));
        match &self.hold {
            SandboxHold::Jail(jail) => {
                push(&["/usr/bin/nsenter"]);
                for (option, file) in &jail.namespaces {
                    push(&[&format!(
                        "{option}=/proc/{}/fd/{}",
                        std::process::id(),
                        file.as_raw_fd()
                    )]);
                }
                push(&["--"]);
                push(&[
                    "/usr/bin/prlimit",
                    &format!("--nproc={PROCESSES_MAX}"),
                    "--core=1",
                    "/usr/bin/choom",
                    "-n",
                    "1000",
                    "--",
                ]);
                push(&["/usr/bin/setpriv"]);
            }
            SandboxHold::Bare => {
                let seconds = self.spec.time_to_live.as_secs().max(1).to_string();
                push(&[
                    "/usr/bin/setpriv",
                    "--pdeathsig=KILL",
                    "/usr/bin/timeout",
                    "--signal=KILL",
                    &seconds,
                ]);
                if user.is_some() {
                    push(&["/usr/bin/prlimit", &format!("--nproc={PROCESSES_MAX}")]);
                }
                push(&[
                    "/usr/bin/choom",
                    "-n",
                    "1000",
                    "--",
                    "/usr/bin/setpriv",
                    "--pdeathsig=KILL",
                ]);
            }
        }
        if let Some((uid, group)) = user {
            let (uid, group) = (uid.to_string(), group.to_string());
            push(&[
                "--reuid",
                &uid,
                "--regid",
                &group,
                "--clear-groups",
                "--bounding-set=-all",
                "--inh-caps=-all",
            ]);
        }
        push(&["--no-new-privs", "--"]);
        SandboxLauncher::new(words)
    }

    /// A database of the sandbox's server. Its clients run inside too, under a uid of their own.
    #[must_use]
    pub fn connection(&self, database: &str) -> PgConnection {
        PgConnection::in_sandbox(
            &self.inside(SOCKET_DIRECTORY),
            "postgres",
            database,
            &super::server_log::session_options(),
            self.launcher(true),
        )
    }

    /// A command that runs inside, as clients do, with `PATH` and the variables of the server.
    #[must_use]
    pub fn command(&self, program: &Path, database: &str) -> tokio::process::Command {
        let mut command = self.launcher(true).command(program);
        let path =
            format!("{}:/usr/local/bin:/usr/bin:/bin", self.spec.tools.directory().display());
        command
            .env("PATH", path)
            .env("HOME", self.inside(CLIENT_DIRECTORY))
            .env("LC_ALL", "C.UTF-8");
        command
            .env("PGHOST", self.inside(SOCKET_DIRECTORY))
            .env("PGUSER", "postgres")
            .env("PGDATABASE", database);
        command
    }

    /// The directory that commands may write to.
    #[must_use]
    pub fn client_directory(&self) -> PathBuf {
        self.inside(CLIENT_DIRECTORY)
    }

    /// Has the first process do something.
    ///
    /// # Errors
    /// [`SandboxError::Failed`] with its words; also where there is no first process.
    pub(super) async fn have(
        &mut self,
        what: &'static str,
        question: &jail::JailRequest,
        patience: Duration,
    ) -> Result<(), SandboxError> {
        let SandboxHold::Jail(jail) = &mut self.hold else {
            let why = "there are no namespaces here, and volumes are mounted nowhere else; start the drill as root".to_owned();
            return Err(SandboxError::Failed { what, why });
        };
        match jail.ask(question, patience).await.and_then(|line| serde_json::from_str(&line).ok()) {
            Some(jail::JailReply::Well) => Ok(()),
            Some(jail::JailReply::Failed(why)) => Err(SandboxError::Failed { what, why }),
            None => Err(SandboxError::Failed {
                what,
                why: "its first process did not answer".to_owned(),
            }),
        }
    }

    /// A path inside, as the host reaches it; none where there are no namespaces.
    #[must_use]
    pub(super) fn seen_from_host(&self, inside: &Path) -> Option<PathBuf> {
        match &self.hold {
            SandboxHold::Jail(jail) => Some(
                Path::new("/proc")
                    .join(jail.inside.to_string())
                    .join("root")
                    .join(inside.strip_prefix("/").ok()?),
            ),
            SandboxHold::Bare => None,
        }
    }

    /// What it was raised as.
    pub(super) fn spec(&self) -> &LocalSandboxSpec {
        &self.spec
    }

    /// Ends the sandbox. What is left, if anything, is for [`census`] to find.
    ///
    /// # Errors
    /// [`SandboxError`] if it does not end.
    pub async fn tear_down(mut self) -> Result<(), SandboxError> {
        // A bare server has to be killed; a jailed one goes with its first process.
        if let Some(mut server) = self.server.take()
            && matches!(self.hold, SandboxHold::Bare)
        {
            server.stop().await;
        }
        if let SandboxHold::Jail(jail) = self.hold {
            let JailHandle { mut child, stdin, .. } = *jail;
            drop(stdin);
            if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
                let _ = child.start_kill();
            }
        }
        undo(&self.spec.state, &self.spec.run).await
    }
}

impl RaisedSandbox {
    /// The lease, which outlives the place for the census.
    #[must_use]
    pub fn lease(&self) -> &SandboxLease {
        &self.lease
    }
}

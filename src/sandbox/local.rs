//! The local sandbox: a throwaway cluster in namespaces of its own, or as much of that as the machine allows.
//!
//! Raised by `unshare`, entered by `nsenter`, both from util-linux. Its first process ([`super::jail`]) holds it; its files are in
//! memory and have no name on the host but an empty directory. Whatever of a sandbox outlives its drill is found by its tag, the
//! run's name: in the directory, and in the arguments of the first process. Process numbers are never remembered, since they
//! are used again.

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::jail::{self, CLIENT_DIRECTORY, DATA_DIRECTORY, SOCKET_DIRECTORY};
use super::{Census, Gap, Isolation, Probe, Reach, SandboxError};
use crate::pg::children::Running;
use crate::pg::connection::Launcher;
use crate::pg::{Connection, Session, Tool, Tools};

/// How long raising, stopping and probing may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a server may take to accept its first connection.
const SERVER_PATIENCE: Duration = Duration::from_secs(120);
/// Processes that the server's or the clients' uid may have.
const PROCESSES_MAX: u32 = 512;
/// Uids of sandboxes begin here; no system hands these out.
const UID_FIRST: u32 = 1_500_000_000;
const UID_PAIRS: u32 = 200_000_000;
/// Options of `nsenter` and the namespaces they enter.
const NAMESPACES: [(&str, &str); 5] = [("--mount", "mnt"), ("--net", "net"), ("--pid", "pid"), ("--ipc", "ipc"), ("--uts", "uts")];
const LEASE: &str = "lease.json";

/// Settings that keep the server inert, whatever the restored content says: they stand on its command line, above every file.
const INERT: [&str; 13] = [
    "listen_addresses=",
    "archive_mode=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_replication_slots=0",
    "max_logical_replication_workers=0",
    "primary_conninfo=",
    "shared_preload_libraries=",
    "session_preload_libraries=",
    "local_preload_libraries=",
    "ssl=off",
    "external_pid_file=",
    "logging_collector=off",
];

/// What a sandbox is to be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name of the run, which tags everything.
    pub run: String,
    /// Directory of this host's sandboxes, private to whoever runs drills.
    pub state: PathBuf,
    /// Size of the sandbox's file system in bytes.
    pub size_bytes: u64,
    /// When everything ends by itself.
    pub time_to_live: Duration,
    /// The server's installation.
    pub tools: Tools,
    /// Further directories that its programs need, read-only.
    pub programs: Vec<PathBuf>,
}

/// What stands in a sandbox's directory, for whoever finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The run.
    pub run: String,
    /// Uid of the server; clients have the next one. None where it has no uid of its own.
    pub uid: Option<u32>,
    /// When it should be gone.
    pub expires: Timestamp,
}

enum Hold {
    /// The first process, which holds everything; its end is the sandbox's end.
    Jail(Box<Jail>),
    /// No namespaces: a directory on the host.
    Bare,
}

struct Jail {
    child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// The first process, as the host numbers it; it lives as long as `child` does.
    inside: u32,
    /// Its namespaces, held open: they are entered by these and not by a process number, which may be another's one day.
    namespaces: Vec<(&'static str, std::fs::File)>,
}

/// A raised sandbox.
pub struct Place {
    spec: Spec,
    lease: Lease,
    hold: Hold,
    server: Option<Running>,
    gaps: Vec<Gap>,
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
pub async fn raise(spec: Spec) -> Result<Place, SandboxError> {
    let root = rustix::process::geteuid().is_root();
    let uid = root.then(free_uid);
    let expires = Timestamp::now() + jiff::SignedDuration::try_from(spec.time_to_live).unwrap_or_default();
    let lease = Lease { run: spec.run.clone(), uid, expires };
    let home = directory(&spec.state, &spec.run);
    private_directory(&spec.state).map_err(failed("make its state directory"))?;
    std::fs::create_dir(&home).map_err(failed("make its directory"))?;
    let text = serde_json::to_vec(&lease).map_err(|e| failed("write its lease")(e.into()))?;
    std::fs::write(home.join(LEASE), text).map_err(failed("write its lease"))?;
    let jailed = match uid {
        Some(uid) => jailed(&spec, &home, uid).await,
        None => Err("it was not started as root, which may make namespaces".to_owned()),
    };
    match jailed {
        Ok(hold) => Ok(Place { spec, lease, hold, server: None, gaps: Vec::new() }),
        Err(why) => {
            tracing::warn!(why, "the sandbox is not isolated");
            bare(spec, lease, &home)
        }
    }
}

fn private_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    // Others may pass through, as the server's uid must where there are no namespaces, but not look.
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}

async fn jailed(spec: &Spec, home: &Path, uid: u32) -> Result<Hold, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let root = home.join("root");
    std::fs::create_dir(&root).map_err(|e| e.to_string())?;
    let mut unshare = tokio::process::Command::new("/usr/bin/unshare");
    unshare.args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--propagation", "private", "--"]);
    unshare.arg(own).arg(jail::COMMAND).arg(&spec.run).env_clear().kill_on_drop(true).process_group(0);
    unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = unshare.spawn().map_err(|e| format!("unshare could not be started: {e}"))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else { return Err("no pipes".to_owned()) };
    let mut answers = BufReader::new(stdout).lines();
    let plan = jail::Plan {
        root,
        size_bytes: spec.size_bytes,
        time_to_live_seconds: spec.time_to_live.as_secs().max(1),
        uid,
        programs: std::iter::once(spec.tools.directory().to_owned())
            .map(|bin| bin.parent().unwrap_or(&bin).to_owned())
            .chain(spec.programs.iter().cloned())
            .filter(|path| !path.starts_with("/usr"))
            .collect(),
    };
    let line = serde_json::to_string(&plan).map_err(|e| e.to_string())? + "\n";
    let ready = async {
        stdin.write_all(line.as_bytes()).await.ok()?;
        answers.next_line().await.ok().flatten()
    };
    let ready = tokio::time::timeout(PATIENCE, ready).await.ok().flatten();
    if ready.is_none() {
        let _ = child.start_kill();
        let output = child.wait_with_output().await.map(|output| output.stderr).unwrap_or_default();
        return Err(format!("namespaces could not be made: {}", String::from_utf8_lossy(&output).trim()));
    }
    // The first process is unshare's only child.
    let outer = child.id().ok_or("unshare is gone")?;
    let inside = processes().into_iter().find(|process| process.parent == outer).ok_or("the first process is gone")?.pid;
    let open = |(option, name): (&'static str, &str)| {
        let file = std::fs::File::open(format!("/proc/{inside}/ns/{name}"));
        file.map(|file| (option, file)).map_err(|e| format!("its namespaces could not be held: {e}"))
    };
    let namespaces = NAMESPACES.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
    Ok(Hold::Jail(Box::new(Jail { child, stdin, answers, inside, namespaces })))
}

fn bare(spec: Spec, lease: Lease, home: &Path) -> Result<Place, SandboxError> {
    use std::os::unix::fs::{PermissionsExt, chown};
    let inside = home.join("root");
    // The server and its clients have a group of their own here, which nobody else of this host is in; what they share is theirs alone.
    let (passed, shared) = if lease.uid.is_some() { (0o710, 0o750) } else { (0o700, 0o700) };
    for directory in [home, &inside] {
        std::fs::create_dir_all(directory).map_err(failed("make its directories"))?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(passed)).map_err(failed("make its directories"))?;
        chown(directory, None, lease.uid).map_err(failed("make its directories"))?;
    }
    for (name, uid) in [(DATA_DIRECTORY, 0), (SOCKET_DIRECTORY, 0), (CLIENT_DIRECTORY, 1)] {
        let path = inside.join(name.trim_start_matches('/'));
        std::fs::create_dir_all(&path).map_err(failed("make its directories"))?;
        if let Some(above) = path.parent() {
            std::fs::set_permissions(above, std::fs::Permissions::from_mode(passed)).map_err(failed("make its directories"))?;
            chown(above, None, lease.uid).map_err(failed("make its directories"))?;
        }
        let mode = if name == SOCKET_DIRECTORY { shared } else { 0o700 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(failed("make its directories"))?;
        if let Some(own) = lease.uid {
            chown(&path, Some(own + uid), Some(own)).map_err(failed("make its directories"))?;
        }
    }
    let mut gaps = vec![Gap::Network, Gap::Files, Gap::Processes, Gap::Size];
    if lease.uid.is_none() {
        gaps.push(Gap::Uid);
    }
    Ok(Place { spec, lease, hold: Hold::Bare, server: None, gaps })
}

impl Jail {
    async fn ask(&mut self, question: &jail::Question, patience: Duration) -> Option<String> {
        let line = serde_json::to_string(question).ok()? + "\n";
        let answer = async {
            self.stdin.write_all(line.as_bytes()).await.ok()?;
            self.answers.next_line().await.ok().flatten()
        };
        tokio::time::timeout(patience, answer).await.ok().flatten()
    }
}

impl Place {
    /// What is not isolated, before anything runs in it.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// A path of the sandbox as its programs see it.
    fn inside(&self, path: &str) -> PathBuf {
        match self.hold {
            Hold::Jail(_) => PathBuf::from(path),
            Hold::Bare => directory(&self.spec.state, &self.spec.run).join("root").join(path.trim_start_matches('/')),
        }
    }

    fn launcher(&self, client: bool) -> Launcher {
        let mut words: Vec<OsString> = Vec::new();
        let mut push = |more: &[&str]| words.extend(more.iter().map(OsString::from));
        match &self.hold {
            Hold::Jail(jail) => {
                push(&["/usr/bin/nsenter"]);
                for (option, file) in &jail.namespaces {
                    push(&[&format!("{option}=/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())]);
                }
                push(&["--"]);
                push(&["/usr/bin/prlimit", &format!("--nproc={PROCESSES_MAX}"), "--core=0", "/usr/bin/choom", "-n", "1000", "--"]);
                push(&["/usr/bin/setpriv"]);
            }
            Hold::Bare => {
                let seconds = self.spec.time_to_live.as_secs().max(1).to_string();
                push(&["/usr/bin/setpriv", "--pdeathsig=KILL", "/usr/bin/timeout", "--signal=KILL", &seconds]);
                push(&["/usr/bin/setpriv", "--pdeathsig=KILL"]);
            }
        }
        if let Some(uid) = self.lease.uid {
            let group = match self.hold {
                Hold::Jail(_) => uid + u32::from(client),
                Hold::Bare => uid,
            };
            let uid = (uid + u32::from(client)).to_string();
            push(&["--reuid", &uid, "--regid", &group.to_string(), "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
        }
        push(&["--no-new-privs", "--"]);
        Launcher::new(words)
    }

    /// A database of the sandbox's server. Its clients run inside too, under a uid of their own.
    #[must_use]
    pub fn connection(&self, database: &str) -> Connection {
        Connection::in_sandbox(&self.inside(SOCKET_DIRECTORY), "postgres", database, self.launcher(true))
    }

    /// A command that runs inside, as clients do, with `PATH` and the variables of the server.
    #[must_use]
    pub fn command(&self, program: &Path, database: &str) -> tokio::process::Command {
        let mut command = self.launcher(true).command(program);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.spec.tools.directory().display());
        command.env("PATH", path).env("HOME", self.inside(CLIENT_DIRECTORY)).env("LC_ALL", "C.UTF-8");
        command.env("PGHOST", self.inside(SOCKET_DIRECTORY)).env("PGUSER", "postgres").env("PGDATABASE", database);
        command
    }

    /// The directory that commands may write to.
    #[must_use]
    pub fn client_directory(&self) -> PathBuf {
        self.inside(CLIENT_DIRECTORY)
    }

    /// Makes a cluster and starts its server, inert.
    ///
    /// # Errors
    /// [`SandboxError`] with the last words of `initdb` or the server.
    pub async fn start_server(&mut self, settings: &[(String, String)]) -> Result<(), SandboxError> {
        let lost = |what: &'static str| move |error: crate::pg::children::ChildError| SandboxError::Failed { what, why: error.to_string() };
        let data = self.inside(DATA_DIRECTORY);
        let mut initdb = self.launcher(false).command(&self.spec.tools.path(Tool::Initdb));
        initdb.env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").arg("--pgdata").arg(&data);
        initdb.args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        initdb.stdin(Stdio::null()).stdout(Stdio::null());
        Running::start(initdb, Tool::Initdb).map_err(lost("make a cluster"))?.finish().await.map_err(lost("make a cluster"))?;
        self.run_server(&data, settings, SERVER_PATIENCE).await
    }

    /// Starts a server on a data directory, inert, and waits until it answers.
    pub(super) async fn run_server(&mut self, data: &Path, settings: &[(String, String)], patience: Duration) -> Result<(), SandboxError> {
        let lost = |what: &'static str| move |error: crate::pg::children::ChildError| SandboxError::Failed { what, why: error.to_string() };
        let mut server = self.launcher(false).command(&self.spec.tools.path(Tool::Postgres));
        server.env("LC_ALL", "C").arg("-D").arg(data).stdin(Stdio::null()).stdout(Stdio::null());
        for (name, value) in settings {
            server.arg("-c").arg(format!("{name}={value}"));
        }
        // Last, so that nothing before it wins.
        for setting in INERT {
            server.arg("-c").arg(setting);
        }
        // In a jail nobody else sees it; where there is none, it is for its own group.
        let permissions = if matches!(self.hold, Hold::Jail(_)) { "0777" } else { "0770" };
        server.arg("-c").arg(format!("unix_socket_permissions={permissions}"));
        server.arg("-c").arg(format!("unix_socket_directories={}", self.inside(SOCKET_DIRECTORY).display()));
        let mut running = Running::start(server, Tool::Postgres).map_err(lost("start its server"))?;
        let (tools, connection) = (self.spec.tools.clone(), self.connection("postgres"));
        let answers = async {
            while Session::open(&tools, &connection).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            () = answers => {}
            _ = running.child().wait() => {
                let why = running.finish().await.map_or_else(|e| e.to_string(), |_| "it ended".to_owned());
                return Err(SandboxError::Failed { what: "start its server", why });
            }
            () = tokio::time::sleep(patience) => {
                let why = format!("it did not answer within {} seconds", patience.as_secs());
                return Err(SandboxError::Failed { what: "start its server", why });
            }
        }
        self.server = Some(running);
        Ok(())
    }

    /// Whether the server still runs; its last words if not.
    pub fn server_runs(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| matches!(server.child().try_wait(), Ok(None)))
    }

    /// Tries from inside to reach what must not be reachable.
    pub async fn isolation(&mut self, reaches: Vec<Reach>) -> Isolation {
        let mut probes = Vec::new();
        for tried in reaches {
            probes.push(self.probe(tried).await);
        }
        let mut holds = vec!["Unix socket only, no archiving, replication, preloaded libraries".to_owned()];
        if let Hold::Jail(_) = self.hold {
            holds.push(
                "network, mount, process, IPC and host-name namespaces of its own; programs read-only, no other file of the host"
                    .to_owned(),
            );
            holds.push(format!("files in memory, at most {} bytes", self.spec.size_bytes));
        }
        if let Some(uid) = self.lease.uid {
            holds.push(format!("uids of its own ({uid} for the server, {} for its clients), no capabilities, no new privileges", uid + 1));
        }
        holds.push(format!("ends by itself after {} seconds, and when lifeboat ends", self.spec.time_to_live.as_secs()));
        Isolation { holds, gaps: self.gaps.clone(), probes }
    }

    async fn probe(&mut self, tried: Reach) -> Probe {
        let unanswered = |tried| Probe { tried, reached: true, detail: "the sandbox's first process did not answer".to_owned() };
        match &mut self.hold {
            Hold::Bare => {
                let asked = tried.clone();
                tokio::task::spawn_blocking(move || jail::probe(asked)).await.unwrap_or_else(|_| unanswered(tried))
            }
            Hold::Jail(jail) => {
                let answer = jail.ask(&jail::Question::Probe(tried.clone()), PATIENCE).await;
                answer.and_then(|line| serde_json::from_str(&line).ok()).unwrap_or_else(|| unanswered(tried))
            }
        }
    }

    /// Has the first process do something.
    ///
    /// # Errors
    /// [`SandboxError::Failed`] with its words; also where there is no first process.
    pub(super) async fn have(&mut self, what: &'static str, question: &jail::Question, patience: Duration) -> Result<(), SandboxError> {
        let Hold::Jail(jail) = &mut self.hold else {
            let why = "there are no namespaces here, and volumes are mounted nowhere else; start the drill as root".to_owned();
            return Err(SandboxError::Failed { what, why });
        };
        match jail.ask(question, patience).await.and_then(|line| serde_json::from_str(&line).ok()) {
            Some(jail::Done::Well) => Ok(()),
            Some(jail::Done::Failed(why)) => Err(SandboxError::Failed { what, why }),
            None => Err(SandboxError::Failed { what, why: "its first process did not answer".to_owned() }),
        }
    }

    /// A path inside, as the host reaches it; none where there are no namespaces.
    #[must_use]
    pub(super) fn seen_from_host(&self, inside: &Path) -> Option<PathBuf> {
        match &self.hold {
            Hold::Jail(jail) => Some(Path::new("/proc").join(jail.inside.to_string()).join("root").join(inside.strip_prefix("/").ok()?)),
            Hold::Bare => None,
        }
    }

    /// What it was raised as.
    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Ends the sandbox. What is left, if anything, is for [`census`] to find.
    ///
    /// # Errors
    /// [`SandboxError`] if it does not end.
    pub async fn tear_down(mut self) -> Result<(), SandboxError> {
        // A bare server has to be killed; a jailed one goes with its first process.
        if let Some(mut server) = self.server.take()
            && matches!(self.hold, Hold::Bare)
        {
            let _ = server.child().start_kill();
            let _ = server.child().wait().await;
        }
        if let Hold::Jail(jail) = self.hold {
            let Jail { mut child, stdin, .. } = *jail;
            drop(stdin);
            if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
                let _ = child.start_kill();
            }
        }
        undo(&self.spec.state, &self.spec.run).await
    }
}

/// Ends whatever there is of a run's sandbox, known by its tag alone. Doing it twice, or where nothing is, is success.
///
/// # Errors
/// [`SandboxError`] if something cannot be ended or removed.
pub async fn undo(state: &Path, run: &str) -> Result<(), SandboxError> {
    let home = directory(state, run);
    let lease = read_lease(&home);
    for _ in 0..100 {
        let tagged = tagged(state, run, lease.as_ref());
        if tagged.is_empty() {
            break;
        }
        for process in tagged {
            kill(&process, |again| is_tagged(again, state, run, lease.as_ref()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    super::volumes::detach_all(run);
    match std::fs::remove_dir_all(&home) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove its directory")(error)),
        _ => Ok(()),
    }
}

/// What there still is of a run's sandbox.
#[must_use]
pub fn census(state: &Path, run: &str, lease: Option<&Lease>) -> Census {
    let home = directory(state, run);
    let lease = read_lease(&home).or_else(|| lease.cloned());
    let processes = tagged(state, run, lease.as_ref()).into_iter().map(|p| format!("process {} ({})", p.pid, p.name)).collect();
    let mut files = if home.exists() { vec![home.display().to_string()] } else { Vec::new() };
    files.extend(super::volumes::attached(run).into_iter().map(|device| format!("/dev/{device}")));
    Census { processes, files }
}

/// Sandboxes that have a directory on this host.
#[must_use]
pub fn found(state: &Path) -> Vec<Lease> {
    let entries = std::fs::read_dir(state).into_iter().flatten().flatten();
    let lease = |entry: std::fs::DirEntry| {
        let run = entry.file_name().into_string().ok()?;
        // One without a lease died while it was made; it has expired. The name is the directory's, whatever the lease says.
        let found = read_lease(&entry.path());
        Some(Lease { run, uid: found.as_ref().and_then(|l| l.uid), expires: found.map_or(Timestamp::UNIX_EPOCH, |l| l.expires) })
    };
    entries.filter_map(lease).collect()
}

impl Place {
    /// The lease, which outlives the place for the census.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

/// The lease of a run's sandbox, if it has a directory.
#[must_use]
pub fn lease(state: &Path, run: &str) -> Option<Lease> {
    read_lease(&directory(state, run))
}

fn read_lease(home: &Path) -> Option<Lease> {
    let lease: Lease = serde_json::from_slice(&std::fs::read(home.join(LEASE)).ok()?).ok()?;
    // Where a sandbox has no uid of its own, what runs in it could write a lease that names somebody else's.
    let ours = |uid: u32| (UID_FIRST..UID_FIRST + 2 * UID_PAIRS).contains(&uid);
    Some(Lease { uid: lease.uid.filter(|uid| ours(*uid)), ..lease })
}

struct Process {
    pid: u32,
    parent: u32,
    uid: u32,
    name: String,
    arguments: Vec<u8>,
}

fn process(pid: u32) -> Option<Process> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // A zombie holds nothing and goes when its parent looks.
    if field("State:")?.starts_with('Z') {
        return None;
    }
    Some(Process {
        pid,
        parent: field("PPid:")?.parse().ok()?,
        uid: field("Uid:")?.split_whitespace().next()?.parse().ok()?,
        name: field("Name:")?.to_owned(),
        arguments: std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(),
    })
}

fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(process).collect()
}

fn is_tagged(process: &Process, state: &Path, run: &str, lease: Option<&Lease>) -> bool {
    let uid = lease.and_then(|lease| lease.uid);
    let words = || process.arguments.split(|byte| *byte == 0);
    let first_process = words().any(|word| word == jail::COMMAND.as_bytes()) && words().any(|word| word == run.as_bytes());
    let home = directory(state, run).into_os_string().into_encoded_bytes();
    let own = process.pid == std::process::id();
    !own && (uid.is_some_and(|uid| process.uid == uid || process.uid == uid + 1)
        || first_process
        || words().any(|word| word.starts_with(&home)))
}

fn tagged(state: &Path, run: &str, lease: Option<&Lease>) -> Vec<Process> {
    processes().into_iter().filter(|process| is_tagged(process, state, run, lease)).collect()
}

/// Kills the process that was looked at, and no other that got its number since: a handle is taken first, and what it stands for is
/// looked at once more.
fn kill(process: &Process, still: impl Fn(&Process) -> bool) {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if self::process(process.pid).is_some_and(|again| still(&again)) {
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
}

fn free_uid() -> u32 {
    let used: std::collections::BTreeSet<u32> = processes().iter().map(|process| process.uid).collect();
    loop {
        let uid = UID_FIRST + 2 * (rand::random::<u32>() % UID_PAIRS);
        if !used.contains(&uid) && !used.contains(&(uid + 1)) {
            return uid;
        }
    }
}

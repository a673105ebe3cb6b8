//! The sandbox's own server: a new cluster, or the one that lives on restored volumes, started so
//! that it does nothing by itself.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Child;
use tokio::task::JoinHandle;

use super::traces::used_uids;
use super::{DATA_DIRECTORY, RaisedSandbox, SOCKET_DIRECTORY, SandboxHold, directory, failed};
use crate::pg::children::RunningChild;
use crate::pg::{PgSession, PgTool};
use crate::sandbox::server_log::{self, LogMark, LogSince, ServerLog};
use crate::sandbox::{SandboxError, group, users};

/// How long a server may take to stop at once.
const STOPS_WITHIN: Duration = Duration::from_secs(5);
/// How long making an empty cluster may take.
const INITDB_WITHIN: Duration = Duration::from_secs(120);
/// How long a server may take to accept its first connection.
const SERVER_PATIENCE: Duration = Duration::from_secs(120);

/// Settings that keep the server inert, whatever the restored content says: they stand on its
/// command line, above every file.
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

/// How a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxCondition {
    /// Everything that was started runs.
    Sound,
    /// Its time to live is over.
    TimeIsOver,
    /// Something in it was ended since its memory was used up.
    OutOfMemory,
    /// Its first process ended, and everything with it.
    Ended(ExitStatus),
    /// Its server ended.
    ServerEnded(ExitStatus),
}

impl SandboxCondition {
    /// What is wrong, in words that may be stored; none if it is sound.
    #[must_use]
    pub fn fault(self) -> Option<String> {
        match self {
            Self::Sound => None,
            Self::TimeIsOver => {
                Some("its time to live is over (time_to_live in the drill file)".to_owned())
            }
            Self::OutOfMemory => {
                Some("its memory was used up (size_mib in the drill file)".to_owned())
            }
            Self::Ended(status) => Some(format!("it ended ({status})")),
            Self::ServerEnded(status) => Some(format!("its server ended ({status})")),
        }
    }
}

/// A server that runs, and what it says.
pub(super) struct ClusterServer {
    child: Child,
    log: ServerLog,
    listening: JoinHandle<()>,
}

impl ClusterServer {
    fn start(mut command: tokio::process::Command) -> std::io::Result<Self> {
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let (log, listening) = ServerLog::listen(child.stderr.take());
        Ok(Self { child, log, listening })
    }

    /// Waits for what is left to be heard; a process that outlives its server may hold its standard
    /// error open.
    async fn hear_out(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut self.listening).await;
    }

    /// Ends it so that it takes its shared memory along, which a killed one leaves on the host.
    pub(super) async fn stop(&mut self) {
        let process = self
            .child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        if let Some(process) = process {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::QUIT);
        }
        if tokio::time::timeout(STOPS_WITHIN, self.child.wait()).await.is_err() {
            let _ = self.child.start_kill();
            let _ = self.child.wait().await;
        }
    }
}

/// Whom `initdb` runs as.
enum InitdbAccount {
    /// Whoever the server runs as.
    Own,
    /// An account of the host, for the moment.
    Idle(u32),
    /// Whoever runs lifeboat, with a name by a library.
    Wrapped { library: PathBuf, passwd: PathBuf },
}

impl RaisedSandbox {
    /// Under which account a cluster can be made: `initdb` runs under none that has no name, which
    /// a uid of our own has only in a jail. It makes an empty cluster and nothing of a backup
    /// is there yet, so an account that nothing else runs under may do it.
    fn account_for_initdb(&self, data: &Path) -> Result<InitdbAccount, SandboxError> {
        use std::os::unix::fs::chown;
        let what = "make a cluster";
        match (&self.hold, self.lease.uid) {
            (SandboxHold::Jail(_), _) => Ok(InitdbAccount::Own),
            (SandboxHold::Bare, Some(_)) => {
                let used = used_uids();
                let idle = users::idle_account(&|uid| used.contains(&uid)).ok_or_else(|| SandboxError::Failed {
                    what,
                    why: "initdb runs under an account only, and /etc/passwd has none that nothing else runs under".to_owned(),
                })?;
                chown(data, Some(idle), None).map_err(failed(what))?;
                Ok(InitdbAccount::Idle(idle))
            }
            (SandboxHold::Bare, None) => {
                let uid = rustix::process::getuid().as_raw();
                if users::has_account(uid) {
                    return Ok(InitdbAccount::Own);
                }
                let library = users::name_wrapper().ok_or_else(|| SandboxError::Failed {
                    what,
                    why: format!(
                        "initdb runs under an account only, and uid {uid} has none in /etc/passwd; add one, or install libnss-wrapper"
                    ),
                })?;
                let passwd = directory(&self.spec.state, &self.spec.run).join("passwd");
                let line = format!(
                    "postgres:x:{uid}:{}::/:/bin/false\n",
                    rustix::process::getgid().as_raw()
                );
                std::fs::write(&passwd, line).map_err(failed(what))?;
                Ok(InitdbAccount::Wrapped { library, passwd })
            }
        }
    }

    /// Makes a cluster and starts its server, inert.
    ///
    /// # Errors
    /// [`SandboxError`] with the last words of `initdb` or the server.
    pub async fn start_server(
        &mut self,
        settings: &[(String, String)],
    ) -> Result<(), SandboxError> {
        let lost = |what: &'static str| {
            move |error: crate::pg::children::ChildError| SandboxError::Failed {
                what,
                why: error.to_string(),
            }
        };
        let data = self.inside(DATA_DIRECTORY);
        let account = self.account_for_initdb(&data)?;
        let launcher = match account {
            InitdbAccount::Idle(uid) => {
                self.launcher_as(Some((uid, self.lease.uid.unwrap_or(uid))))
            }
            _ => self.launcher(false),
        };
        let mut initdb = launcher.command(&self.spec.tools.path(PgTool::Initdb));
        initdb.env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").arg("--pgdata").arg(&data);
        if let InitdbAccount::Wrapped { library, passwd } = &account {
            initdb
                .env("LD_PRELOAD", library)
                .env("NSS_WRAPPER_PASSWD", passwd)
                .env("NSS_WRAPPER_GROUP", "/etc/group");
        }
        initdb.args([
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        initdb.stdin(Stdio::null()).stdout(Stdio::null());
        let making = async { RunningChild::start(initdb, PgTool::Initdb)?.finish().await };
        match tokio::time::timeout(INITDB_WITHIN, making).await {
            Ok(made) => drop(made.map_err(lost("make a cluster"))?),
            Err(_) => {
                let why = format!("initdb did not end within {} seconds", INITDB_WITHIN.as_secs());
                return Err(SandboxError::Failed { what: "make a cluster", why });
            }
        }
        if let (InitdbAccount::Idle(_), Some(own)) = (&account, self.lease.uid) {
            give(&data, own).map_err(failed("give the cluster to its server"))?;
        }
        self.run_server(&data, settings, SERVER_PATIENCE).await
    }

    /// Starts a server on a data directory, inert, and waits until it answers.
    pub(in crate::sandbox) async fn run_server(
        &mut self,
        data: &Path,
        settings: &[(String, String)],
        patience: Duration,
    ) -> Result<(), SandboxError> {
        let mut server = self.launcher(false).command(&self.spec.tools.path(PgTool::Postgres));
        server.env("LC_ALL", "C").arg("-D").arg(data).stdin(Stdio::null()).stdout(Stdio::null());
        for (name, value) in settings {
            server.arg("-c").arg(format!("{name}={value}"));
        }
        // Last, so that nothing before it wins.
        for setting in INERT {
            server.arg("-c").arg(setting);
        }
        if !self.spec.preload.is_empty() {
            server
                .arg("-c")
                .arg(format!("shared_preload_libraries={}", self.spec.preload.join(",")));
            // What such a library does by itself, it does in a process of its own: there is none.
            server.arg("-c").arg("max_worker_processes=0");
        }
        // In a jail nobody else sees it; where there is none, it is for its own group.
        let permissions = if matches!(self.hold, SandboxHold::Jail(_)) { "0777" } else { "0770" };
        server.arg("-c").arg(format!("unix_socket_permissions={permissions}"));
        server
            .arg("-c")
            .arg(format!("unix_socket_directories={}", self.inside(SOCKET_DIRECTORY).display()));
        if matches!(self.hold, SandboxHold::Bare) {
            // Among its own files, which go with it, and not in the host's memory.
            server.arg("-c").arg("dynamic_shared_memory_type=mmap");
        }
        for setting in server_log::settings() {
            server.arg("-c").arg(setting);
        }
        let mut server = ClusterServer::start(server).map_err(failed("start its server"))?;
        let (tools, connection) = (self.spec.tools.clone(), self.connection("postgres"));
        let answers = async {
            while PgSession::open(&tools, &connection).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let why = tokio::select! {
            () = answers => {
                self.server = Some(server);
                return Ok(());
            }
            status = server.child.wait() => {
                let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                server.hear_out().await;
                format!("it ended ({how}): {}", server.log.last_words())
            }
            () = tokio::time::sleep(patience) => format!("it did not answer within {} seconds", patience.as_secs()),
        };
        Err(SandboxError::Failed { what: "start its server", why })
    }

    /// What the server has said up to now, as a mark for [`RaisedSandbox::said_since`].
    #[must_use]
    pub fn mark(&self) -> LogMark {
        self.server.as_ref().map(|server| server.log.mark()).unwrap_or_default()
    }

    /// Which errors the server raised since, and how its processes ended.
    #[must_use]
    pub fn said_since(&self, mark: LogMark) -> LogSince {
        self.server.as_ref().map(|server| server.log.since(mark)).unwrap_or_default()
    }

    /// Whether the system counts who is ended for memory in here.
    #[must_use]
    pub fn counts_memory(&self) -> bool {
        !self.lease.groups.is_empty()
    }

    /// How the sandbox is now, asked of the system. A server that was never started is none that
    /// ended.
    pub fn condition(&mut self) -> SandboxCondition {
        let time_is_over = self.raised.elapsed() >= self.spec.time_to_live;
        let first_process = match &mut self.hold {
            SandboxHold::Jail(jail) => jail.child.try_wait().ok().flatten(),
            SandboxHold::Bare => None,
        };
        let server = self.server.as_mut().and_then(|server| server.child.try_wait().ok().flatten());
        match (time_is_over, first_process, server) {
            (true, ..) => SandboxCondition::TimeIsOver,
            _ if group::out_of_memory(&self.lease.groups) => SandboxCondition::OutOfMemory,
            (_, Some(status), _) => SandboxCondition::Ended(status),
            (_, _, Some(status)) => SandboxCondition::ServerEnded(status),
            _ => SandboxCondition::Sound,
        }
    }
}

/// Gives a directory and all in it to a user and group.
fn give(path: &Path, uid: u32) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid))?;
    if std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path(), uid)?;
        }
    }
    Ok(())
}

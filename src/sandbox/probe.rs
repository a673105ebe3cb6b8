//! Isolation probes, run inside a sandbox and, as positive controls, beside it.
//!
//! "It cannot be reached" means something only if it can be reached from outside at that moment, by
//! the same code. So lifeboat opens [`HostBeacons`], which everybody on the host can reach; and
//! probes inside also look for things that must be there. Inside, lifeboat's own program runs as
//! the very users whose isolation is to be shown: the server's and the clients'.

use std::ffi::OsString;
use std::fs::File;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::{ProbeResult, ProbeTarget, jail};

/// Name of the hidden command that runs [`answer`].
pub const COMMAND: &str = "sandbox-probe";
/// The program on its own standard input: it needs no name inside.
pub const PROGRAM: &str = "/proc/self/fd/0";
/// How long a probe waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long all probes of a user may take: name servers that do not answer are asked for half a
/// minute.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much they may say, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Things of the host that can be reached from everywhere but a sandbox.
pub struct HostBeacons {
    tcp: TcpListener,
    /// Listens as long as it is held.
    _hidden: UnixListener,
    name: String,
}

impl HostBeacons {
    /// Lights them.
    ///
    /// # Errors
    /// The system's error.
    pub fn light() -> std::io::Result<Self> {
        let name = format!("lifeboat-beacon-{}", hex::encode(rand::random::<[u8; 8]>()));
        let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        Ok(Self { tcp: TcpListener::bind(("127.0.0.1", 0))?, _hidden: hidden, name })
    }

    /// What they are reached by. Valid as long as they burn.
    #[must_use]
    pub fn reaches(&self) -> Vec<ProbeTarget> {
        let tcp = self.tcp.local_addr().map(|address| ProbeTarget::Tcp(address.to_string()));
        tcp.into_iter().chain([ProbeTarget::Hidden(self.name.clone())]).collect()
    }
}

/// Tries from beside the sandbox, all at once.
pub async fn outside(all: Vec<ProbeTarget>) -> Vec<ProbeResult> {
    let unanswered = silent(&all, "it could not be tried");
    match tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(move || each(all))).await {
        Ok(Ok(probes)) => probes,
        _ => unanswered,
    }
}

/// Tries from inside, by a command that starts [`PROGRAM`] there. What gives no answer counts as
/// reached.
pub async fn inside(
    mut command: tokio::process::Command,
    all: Vec<ProbeTarget>,
) -> Vec<ProbeResult> {
    let tried = async {
        let question = serde_json::to_string(&all).map_err(|error| error.to_string())?;
        let program =
            program_for_everybody().map_err(|error| format!("lifeboat's own program: {error}"))?;
        command
            .arg(COMMAND)
            .arg(question)
            .stdin(Stdio::from(program))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output
            .map_err(|_| format!("no answer within {} seconds", PATIENCE.as_secs()))?
            .map_err(|error| error.to_string())?;
        let said =
            output.stdout.get(..ANSWER_BYTES_MAX.min(output.stdout.len())).unwrap_or_default();
        let probes: Vec<ProbeResult> = serde_json::from_slice(said).map_err(|_| {
            let complaint: String =
                String::from_utf8_lossy(&output.stderr).trim().chars().take(200).collect();
            format!("no answer: {}, {complaint}", output.status)
        })?;
        let answers_what_was_asked = probes.len() == all.len()
            && probes.iter().zip(&all).all(|(probe, asked)| &probe.tried == asked);
        answers_what_was_asked
            .then_some(probes)
            .ok_or_else(|| "something else was answered than was asked".to_owned())
    };
    tried.await.unwrap_or_else(|why: String| silent(&all, &why))
}

fn silent(all: &[ProbeTarget], why: &str) -> Vec<ProbeResult> {
    all.iter()
        .map(|tried| ProbeResult {
            tried: tried.clone(),
            reached: true,
            detail: why.to_owned(),
            outside: None,
        })
        .collect()
}

/// lifeboat's program as any user may start it: a copy in memory where its file is for some users
/// only.
fn program_for_everybody() -> std::io::Result<File> {
    let own = crate::this_program::open()?;
    if own.metadata()?.mode() & 0o005 == 0o005 {
        return Ok(own);
    }
    let copy: OwnedFd = rustix::fs::memfd_create("lifeboat", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut copy = File::from(copy);
    std::io::copy(&mut &own, &mut copy)?;
    rustix::fs::fchmod(&copy, rustix::fs::Mode::from_raw_mode(0o555))?;
    // What is open for writing is not started.
    File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))
}

/// Inside: answers the question on the command line, as JSON.
///
/// # Errors
/// What is wrong with the question.
pub fn answer(question: Option<OsString>) -> Result<String, String> {
    let question = question.and_then(|word| word.into_string().ok()).unwrap_or_default();
    let all: Vec<ProbeTarget> = serde_json::from_str(&question)
        .map_err(|error| format!("the question cannot be read: {error}"))?;
    serde_json::to_string(&each(all)).map_err(|error| error.to_string())
}

fn each(all: Vec<ProbeTarget>) -> Vec<ProbeResult> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .into_iter()
            .map(|tried| (tried.clone(), scope.spawn(move || probe(tried))))
            .collect();
        threads
            .into_iter()
            .map(|(tried, thread)| {
                thread.join().unwrap_or_else(|_| silent(&[tried], "the probe died").remove(0))
            })
            .collect()
    })
}

/// Tries to reach something.
#[must_use]
pub fn probe(tried: ProbeTarget) -> ProbeResult {
    let outcome = match &tried {
        ProbeTarget::Tcp(address) => resolve(address).and_then(|addresses| {
            let first = addresses.first().ok_or("it has no address")?;
            std::net::TcpStream::connect_timeout(first, CONNECT_TIMEOUT)
                .map(|_| "connected".to_owned())
                .map_err(|e| e.to_string())
        }),
        ProbeTarget::Socket(path) => socket(SocketAddr::from_pathname(path)),
        ProbeTarget::Hidden(name) => socket(SocketAddr::from_abstract_name(name)),
        ProbeTarget::File(path) => std::fs::symlink_metadata(path)
            .map(|_| "it is there".to_owned())
            .map_err(|e| e.to_string()),
        ProbeTarget::Name(name) => {
            resolve(&format!("{name}:1")).map(|addresses| format!("{} addresses", addresses.len()))
        }
        ProbeTarget::Processes => foreign_processes(Path::new("/proc/1/cmdline")),
        ProbeTarget::Interfaces => interfaces(),
    };
    let (reached, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(detail) => (false, detail),
    };
    ProbeResult { tried, reached, detail, outside: None }
}

/// A socket whose queue is full keeps whoever connects waiting, for ever: it is there all the same.
fn socket(address: std::io::Result<SocketAddr>) -> Result<String, String> {
    let address = address.map_err(|error| error.to_string())?;
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(UnixStream::connect_addr(&address).map(drop)));
    match told.recv_timeout(CONNECT_TIMEOUT) {
        Ok(outcome) => outcome.map(|()| "connected".to_owned()).map_err(|error| error.to_string()),
        Err(_) => Ok("it is there, and takes no connection".to_owned()),
    }
}

fn resolve(address: &str) -> Result<Vec<std::net::SocketAddr>, String> {
    // Resolving may take long where a name server does not answer; whoever asks has a limit of its
    // own.
    address.to_socket_addrs().map(Iterator::collect).map_err(|e| e.to_string())
}

/// Process 1 is the sandbox's own only inside of it.
fn foreign_processes(first: &Path) -> Result<String, String> {
    let words = std::fs::read(first).map_err(|e| e.to_string())?;
    match words.split(|byte| *byte == 0).any(|word| word == jail::COMMAND.as_bytes()) {
        true => Err("process 1 is the sandbox's own".to_owned()),
        false => Ok("the host's processes are visible".to_owned()),
    }
}

fn interfaces() -> Result<String, String> {
    let routes = std::fs::read_to_string("/proc/net/route").map_err(|e| e.to_string())?;
    let addresses = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let (routes, local) = (
        routes.lines().skip(1).count(),
        addresses.lines().filter(|line| line.contains("host LOCAL")).count(),
    );
    if routes + local == 0 {
        Err("no route and no address".to_owned())
    } else {
        Ok(format!("{routes} routes, {local} local addresses"))
    }
}

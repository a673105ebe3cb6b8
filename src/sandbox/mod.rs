//! Sandboxes: where drills restore. Isolated from everything, and deleted afterwards.
//!
//! What is restored is hostile: its functions, triggers and index expressions run as a superuser of
//! the sandbox's server. So a sandbox sees no network, no process and no file of the host but the
//! programs it needs, and clients of its server run inside as well. What the host cannot provide is
//! a named [`IsolationGap`], never silence.

mod filter;
mod group;
pub mod jail;
pub mod launch;
pub mod local;
pub mod probe;
pub mod server_log;
mod users;
pub mod volumes;
pub mod vpc;

use serde::{Deserialize, Serialize};

/// Why there is no sandbox, or why it did not do what was asked. The backup is not to blame.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// It could not be raised, or its server did not start.
    #[error("the sandbox could not {what}: {why}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What came of it.
        why: String,
    },
    /// Programs are missing.
    #[error(transparent)]
    Tools(#[from] crate::pg::tools::ToolsError),
}

/// Something that an isolated place has and this one lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IsolationGap {
    /// It shares the host's network.
    Network,
    /// It sees the host's files.
    Files,
    /// It sees the host's processes.
    Processes,
    /// It runs under the uid of whoever started the drill.
    Uid,
    /// What it writes is limited by the host's disk alone.
    Size,
    /// Names can be asked of a resolver, and so leave: a scratch VPC without a DNS firewall.
    Names,
    /// Every system call can be made: the kernel takes no filter.
    SystemCalls,
}

impl IsolationGap {
    /// All gaps and their names in drill files.
    pub const ALL: [(&'static str, Self); 7] = [
        ("network", Self::Network),
        ("files", Self::Files),
        ("processes", Self::Processes),
        ("uid", Self::Uid),
        ("size", Self::Size),
        ("names", Self::Names),
        ("system-calls", Self::SystemCalls),
    ];

    /// Its name in drill files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, gap)| *gap == self).map_or("", |(name, _)| name)
    }
}

/// Something that is tried from inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "of")]
pub enum ProbeTarget {
    /// A TCP connection to `host:port`.
    Tcp(String),
    /// A connection to a Unix socket.
    Socket(String),
    /// A connection to a Unix socket that has no file: such names belong to the network.
    Hidden(String),
    /// A file or directory.
    File(String),
    /// The addresses of a name.
    Name(String),
    /// Processes beside the sandbox's own.
    Processes,
    /// Network interfaces that are up.
    Interfaces,
}

impl ProbeTarget {
    /// The gap that would explain it.
    #[must_use]
    pub fn gap(&self) -> IsolationGap {
        match self {
            Self::Tcp(_) | Self::Hidden(_) | Self::Name(_) | Self::Interfaces => {
                IsolationGap::Network
            }
            Self::Socket(_) | Self::File(_) => IsolationGap::Files,
            Self::Processes => IsolationGap::Processes,
        }
    }
}

impl std::fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "TCP {address}"),
            Self::Socket(path) => write!(f, "socket {path}"),
            Self::Hidden(name) => write!(f, "socket @{name}"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Name(name) => write!(f, "the address of {name}"),
            Self::Processes => write!(f, "processes of the host"),
            Self::Interfaces => write!(f, "network interfaces"),
        }
    }
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// What was tried from inside.
    pub tried: ProbeTarget,
    /// Whether it was reached.
    pub reached: bool,
    /// What the system said.
    pub detail: String,
    /// Whether the same was reached from beside the place at the same time: "not reached" says
    /// little where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<bool>,
}

/// How a place is cut off.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct IsolationReport {
    /// What holds, in words.
    pub holds: Vec<String>,
    /// What does not.
    pub gaps: Vec<IsolationGap>,
    /// What was tried from inside and must have failed.
    pub probes: Vec<ProbeResult>,
    /// What must have succeeded, by the same code: from inside what belongs there, from beside it
    /// what is not to be reached from inside.
    #[serde(default)]
    pub controls: Vec<ProbeResult>,
}

impl IsolationReport {
    /// Probes that got through.
    pub fn reached(&self) -> impl Iterator<Item = &ProbeResult> {
        self.probes.iter().filter(|probe| probe.reached)
    }
    /// Controls that failed: as long as there are any, nothing is known of what could not be
    /// reached.
    pub fn blind(&self) -> impl Iterator<Item = &ProbeResult> {
        self.controls.iter().filter(|probe| !probe.reached)
    }
}

/// What was found of a place after it was torn down. Anything at all is a leftover.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverCensus {
    /// Processes that still run under the place's uids or as its first process.
    pub processes: Vec<String>,
    /// Files and directories.
    pub files: Vec<String>,
}

impl LeftoverCensus {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.files.is_empty()
    }
}

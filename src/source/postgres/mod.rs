//! Reading a Postgres database: one snapshot, every table locked before it is taken, all children
//! on the same snapshot.
//!
//! 1. A session of our own lists the tables, locks each ACCESS SHARE with a bounded wait, *then*
//!    exports the snapshot, lists again and compares ([`snapshot`]). `pg_dump --snapshot` alone
//!    loses data silently: a TRUNCATE between export and the child's lock gives no rows and exit 0.
//! 2. `pg_dump` children read in that snapshot: `main`, and with more than one job `data-NNN` for
//!    the largest tables ([`dump`]). Globals know no snapshot; they are taken before and after
//!    until two agree.
//! 3. Once the table of contents has arrived, every object it names must be what it was in the
//!    snapshot ([`definitions`]): locks keep tables as they are, and nothing else.
//! 4. The parsed archives must show the data of every locked table exactly once
//!    ([`dump::complete`]).

pub mod definitions;
pub mod dump;
pub mod extensions;
pub mod omitted;
pub mod online;
pub mod snapshot;
pub mod watch;

use crate::domain::ErrorClass;
use crate::pg::SessionError;
use crate::pg::children::ChildError;
use crate::pg::globals::GlobalsError;
use crate::pg::tools::ToolsError;

/// Why a database could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The client programs are missing or too old.
    #[error(transparent)]
    Tools(#[from] ToolsError),
    /// The password could not be had.
    #[error("{0}")]
    Password(String),
    /// The server cannot be reached or refuses.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A table is held by something else for too long.
    #[error("a lock was not given within {waited}: {message}")]
    Locked {
        /// How long was waited.
        waited: String,
        /// The server's words.
        message: String,
    },
    /// The snapshot has lasted longer than it may.
    #[error("the dump has held its snapshot for longer than {limit}, and was given up")]
    TooLong {
        /// The limit.
        limit: String,
    },
    /// Tables come and go faster than they can be locked.
    #[error(
        "tables were created, dropped or renamed during each of {attempts} attempts to lock them all"
    )]
    Restless {
        /// How often it was tried.
        attempts: u32,
    },
    /// Objects were altered or dropped between the snapshot and the moment `pg_dump` wrote them
    /// down.
    #[error("{} changed between the snapshot and the moment pg_dump wrote it down", shown(.names))]
    Changed {
        /// Their names.
        names: Vec<String>,
    },
    /// The same, every time.
    #[error("in each of {attempts} attempts {} changed between the snapshot and the moment pg_dump wrote it down", shown(.names))]
    KeepChanging {
        /// How often it was tried.
        attempts: u32,
        /// The names of the last attempt.
        names: Vec<String>,
    },
    /// A child failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The globals changed every time they were read.
    #[error("roles or tablespaces changed during each of {attempts} attempts to read them")]
    RestlessGlobals {
        /// How often it was tried.
        attempts: u32,
    },
    /// The globals hold something unknown.
    #[error(transparent)]
    Globals(#[from] GlobalsError),
    /// The dumped archives do not hold every table exactly once.
    #[error("the dump is not complete: {0}")]
    Incomplete(String),
}

/// The first of some names, and how many more there are.
fn shown(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

/// Why there is no connection, by words that libpq and the server have had for decades. In another
/// language it is the last of these.
fn login(last_words: &str) -> &'static str {
    const KNOWN: [(&str, &str); 12] = [
        ("password authentication failed", "the server refuses the password"),
        ("no password supplied", "the server wants a password, and none was given"),
        ("no pg_hba.conf entry", "pg_hba.conf lets nobody in from here"),
        ("certificate", "the server's certificate is not accepted"),
        ("ssl", "the server and this host do not agree on TLS"),
        ("connection refused", "nothing listens where the server should be"),
        ("could not translate host name", "the server's name is not known"),
        ("timeout expired", "the server does not answer"),
        ("too many clients", "the server has no connection left"),
        ("remaining connection slots", "the server has no connection left"),
        ("starting up", "the server is starting up"),
        ("does not exist", "the role or the database does not exist"),
    ];
    let said = last_words.to_ascii_lowercase();
    KNOWN
        .iter()
        .find(|(words, _)| said.contains(words))
        .map_or("the server cannot be reached, or lets nobody in", |(_, class)| class)
}

impl SourceError {
    /// What kind of thing it is, without a word of the server's or of the data: for messages that
    /// leave this host.
    #[must_use]
    pub fn safe_cause(&self) -> &'static str {
        match self {
            Self::Tools(_) => "the client programs of Postgres are missing or too old",
            Self::Password(_) => "password_command did not give the password",
            Self::Session(SessionError::Lost { last_words }) => login(last_words),
            Self::Session(SessionError::NotPinned { .. }) => {
                "a connection pooler stands before the server"
            }
            Self::Session(_) => "the server refused a statement, or answered something else",
            Self::Locked { .. } => "a table's lock was not given in time",
            Self::TooLong { .. } => "the snapshot lasted longer than snapshot_limit",
            Self::Restless { .. }
            | Self::Changed { .. }
            | Self::KeepChanging { .. }
            | Self::RestlessGlobals { .. } => "objects kept changing while they were read",
            Self::Child(_) => "pg_dump or pg_dumpall failed",
            Self::Globals(_) => "the roles hold something that is not known",
            Self::Incomplete(_) => "the dump is not complete",
        }
    }

    /// Class of the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Tools(_) | Self::Password(_) | Self::Session(SessionError::NotPinned { .. }) => {
                ErrorClass::Usage
            }
            Self::Session(SessionError::Lost { .. })
            | Self::Locked { .. }
            | Self::Restless { .. }
            | Self::RestlessGlobals { .. } => ErrorClass::Unavailable,
            Self::Changed { .. } | Self::KeepChanging { .. } | Self::TooLong { .. } => {
                ErrorClass::Unavailable
            }
            Self::Session(_) | Self::Child(_) | Self::Globals(_) | Self::Incomplete(_) => {
                ErrorClass::SourceFailed
            }
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tools(error) => Some(error.hint()),
            Self::Locked { .. } => Some(
                "end what holds it, or wait for it, then run the backup again; lock_wait in lifeboat.toml is how long it waits".to_owned(),
            ),
            Self::Session(SessionError::Lost { .. }) => {
                Some("try the same with psql: lifeboat connects exactly as it does; `lifeboat check` tries every connection".to_owned())
            }
            Self::Session(SessionError::Refused { sqlstate, .. }) if sqlstate == "42501" => Some(PRIVILEGES.to_owned()),
            Self::Child(ChildError::Failed { last_words, .. }) if last_words.contains("permission denied") => Some(PRIVILEGES.to_owned()),
            Self::Child(ChildError::Failed { last_words, .. }) if last_words.contains("max_locks_per_transaction") => {
                Some(LOCKS.to_owned())
            }
            Self::Session(SessionError::Refused { sqlstate, .. }) if sqlstate == "53200" => Some(LOCKS.to_owned()),
            Self::Session(error) => error.hint().map(str::to_owned),
            Self::TooLong { .. } => Some(
                "more jobs, or a standby as the source, make it shorter; snapshot_limit in lifeboat.toml is how long it may last"
                    .to_owned(),
            ),
            Self::Child(ChildError::Failed { last_words, .. }) if last_words.contains("invalid memory alloc request size") => Some(
                "a value of more than about 500 MB is too large to be written as text; pg_dump cannot dump it, and volumes can".to_owned(),
            ),
            Self::Changed { .. } | Self::KeepChanging { .. } => {
                Some("find out what changes it (a migration, a job that makes it anew), and run the backup when that is over".to_owned())
            }
            _ => None,
        }
    }
}

const LOCKS: &str = "the server has no room for a lock on each table: raise max_locks_per_transaction (a restart of the server is needed), or lower jobs";

const PRIVILEGES: &str = "the backup role lacks a privilege; docs/CONFIG.md (\"The backup role\") lists what it needs, large objects and role passwords included";

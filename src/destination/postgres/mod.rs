//! Writing a datastore back: into a Postgres server, step by step, saying at each failure what
//! state the target is in.
//!
//! The order of a load: what the role may do ([`rights`]), roles ([`globals`]), the database under
//! the target's name with its settings ([`database`]), tablespaces, the archive in three sections
//! ([`load`]), and last privileges, which could stand in the way of loading.

pub mod checkpoint;
pub mod database;
pub mod eager_indexes;
pub mod globals;
pub mod load;
pub mod restore_lock;
pub mod resume;
pub mod rights;
pub mod script;
pub mod selection;
pub mod swap;

use crate::domain::ErrorClass;
use crate::pg::SessionError;
use crate::pg::archive::ArchiveError;
use crate::pg::children::ChildError;
use crate::pg::connection::ConnectionError;
use crate::pg::globals::GlobalsError;
use crate::pg::sql::SqlError;
use crate::pg::tools::ToolsError;
use crate::seal::OpenError;

/// Why a target could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The address cannot be used.
    #[error("the target cannot be used")]
    Address(#[from] ConnectionError),
    /// The client programs are missing or too old.
    #[error(transparent)]
    Tools(#[from] ToolsError),
    /// It holds something.
    #[error(
        "the target database {database} is not empty: it holds {count} objects, such as {example}; nothing was changed"
    )]
    NotEmpty {
        /// The database.
        database: String,
        /// How many.
        count: u64,
        /// One of them.
        example: String,
    },
    /// It holds what an interrupted restore of something else left.
    #[error(
        "in the target database {database} a restore of backup {backup} ({what}) was begun and not finished; nothing was changed"
    )]
    Unfinished {
        /// The database.
        database: String,
        /// The backup that was being restored.
        backup: String,
        /// What of it.
        what: String,
    },
    /// Somebody else restores into it.
    #[error(
        "somebody else is restoring into the target database {database} at this moment; nothing was changed"
    )]
    Busy {
        /// The database.
        database: String,
    },
    /// The server is older than the backup's.
    #[error(
        "the target server is PostgreSQL {found}, and the backup was taken from {wanted}; an older server may not understand it; nothing was changed"
    )]
    Older {
        /// The target's version.
        found: String,
        /// The backup's.
        wanted: String,
    },
    /// It exists with an encoding that the data may not fit into.
    #[error(
        "the target database {database} has encoding {found}, and the backup's is {wanted}; nothing was changed"
    )]
    Encoding {
        /// The database.
        database: String,
        /// Its encoding.
        found: String,
        /// The backup's.
        wanted: String,
    },
    /// The server lacks what the restore plan expects.
    #[error("the target server lacks {what}; nothing was changed")]
    Lacks {
        /// What.
        what: String,
    },
    /// The server cannot be reached or refuses, before anything was changed.
    #[error("the target server cannot be used; nothing was changed")]
    Session(#[source] SessionError),
    /// The restored database does not answer.
    #[error("the restored database cannot be asked")]
    Restored(#[source] SessionError),
    /// What stands in the backup is not acceptable, found before it was used.
    #[error("the backup holds what does not belong there")]
    Content(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A role, tablespace or grant could not be made.
    #[error("{what} could not be restored")]
    Globals {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: SessionError,
    },
    /// The database or one of its properties could not be made.
    #[error("{what} of the target database could not be restored")]
    Database {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: SessionError,
    },
    /// Loading failed.
    #[error("loading the {section} section failed")]
    Load {
        /// `pre-data`, `data` or `post-data`.
        section: &'static str,
        /// Why.
        #[source]
        source: LoadError,
    },
}

/// Why a section could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `pg_restore` failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The payload is damaged.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The archive is malformed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A file in memory could not be made.
    #[error("a file in memory could not be made")]
    Memory(#[source] std::io::Error),
    /// The server cannot be asked whether the pinned settings arrive, or they do not.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A script of `pg_restore` is not one that may be run.
    #[error("the script that pg_restore wrote is not run: {0}")]
    Script(&'static str),
    /// A thread died.
    #[error("a thread died")]
    ThreadDied,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl TargetError {
    /// Class of the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Address(_) | Self::Tools(_) | Self::NotEmpty { .. } | Self::Unfinished { .. } => {
                ErrorClass::Usage
            }
            Self::Encoding { .. } | Self::Lacks { .. } | Self::Older { .. } => ErrorClass::Usage,
            Self::Busy { .. } => ErrorClass::AlreadyRunning,
            Self::Session(SessionError::Lost { .. })
            | Self::Restored(SessionError::Lost { .. }) => ErrorClass::Unavailable,
            Self::Session(SessionError::NotPinned { .. }) => ErrorClass::Usage,
            Self::Content(_) => ErrorClass::Integrity,
            Self::Load { source: LoadError::Open(OpenError::Fetch { .. }), .. } => {
                ErrorClass::Unavailable
            }
            Self::Load { source: LoadError::Open(_) | LoadError::Archive(_), .. } => {
                ErrorClass::Integrity
            }
            Self::Load { source: LoadError::Interrupted, .. } => ErrorClass::Interrupted,
            Self::Load { source: LoadError::Session(SessionError::NotPinned { .. }), .. } => {
                ErrorClass::Usage
            }
            Self::Session(_)
            | Self::Restored(_)
            | Self::Globals { .. }
            | Self::Database { .. }
            | Self::Load { .. } => ErrorClass::RestoreFailed,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotEmpty { .. } => Some("name a database that does not exist yet (lifeboat creates it) or an empty one; --swap loads beside it and then trades the names; --into-database-with-tables loads into it as it is".to_owned()),
            Self::Unfinished { backup, .. } => Some(format!("finish it with --backup {backup}, or begin in its place with --take-over, which drops it if that restore has made it")),
            Self::Busy { .. } => Some("find out who: SELECT pid, usename, client_addr FROM pg_stat_activity WHERE application_name = 'lifeboat'".to_owned()),
            Self::Older { .. } => Some("restore to a server of that version or newer, or give --into-older-server to try it all the same".to_owned()),
            Self::Encoding { wanted, .. } => Some(format!("name a database that does not exist yet, and lifeboat creates it with encoding {wanted}")),
            Self::Tools(error) => Some(error.hint()),
            Self::Lacks { .. } => Some("install it on the target's host, or correct the restore plan".to_owned()),
            Self::Globals { .. } => Some("restore as a role that may create roles, or give --no-globals and make the roles yourself".to_owned()),
            Self::Session(error) | Self::Restored(error) | Self::Load { source: LoadError::Session(error), .. } => error.hint().map(str::to_owned),
            _ => None,
        }
    }
}

impl From<GlobalsError> for TargetError {
    fn from(error: GlobalsError) -> Self {
        Self::Content(Box::new(error))
    }
}

impl From<SqlError> for TargetError {
    fn from(error: SqlError) -> Self {
        Self::Content(Box::new(error))
    }
}

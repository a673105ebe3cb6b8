//! Exit codes: constants, and the one match that maps every class of trouble to its code. `docs/EXIT_CODES.md` is the
//! same table; a test holds them against each other.

use std::process::ExitCode;

use crate::domain::Trouble;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked.
    Done = 0,
    /// A defect in lifeboat.
    Bug = 1,
    /// Command line, configuration or target not acceptable; nothing was changed.
    Usage = 2,
    /// No such backup.
    NoSuchBackup = 3,
    /// Another run holds the datastore.
    AlreadyRunning = 4,
    /// A key is missing or refused.
    KeyRefused = 5,
    /// Service, server or disk unavailable; try again.
    Unavailable = 6,
    /// Stored bytes are not what was signed.
    Integrity = 7,
    /// A check or drill failed.
    CheckFailed = 8,
    /// Could not look, so nothing is claimed.
    NotVerified = 9,
    /// Leftovers were found.
    Leftovers = 10,
    /// Too old.
    TooOld = 11,
    /// The datastore could not be read whole; nothing was published.
    SourceFailed = 12,
    /// A restore stopped half way.
    RestoreFailed = 13,
    /// Restored, but for what was skipped or refused.
    Incomplete = 14,
    /// Interrupted by a signal.
    Interrupted = 130,
}

/// Every code with its name in `docs/EXIT_CODES.md`.
pub const ALL: [(Exit, &str); 16] = [
    (Exit::Done, "done"),
    (Exit::Bug, "bug"),
    (Exit::Usage, "usage"),
    (Exit::NoSuchBackup, "no such backup"),
    (Exit::AlreadyRunning, "already running"),
    (Exit::KeyRefused, "key refused"),
    (Exit::Unavailable, "unavailable"),
    (Exit::Integrity, "integrity broken"),
    (Exit::CheckFailed, "check failed"),
    (Exit::NotVerified, "not verified"),
    (Exit::Leftovers, "leftovers remain"),
    (Exit::TooOld, "too old"),
    (Exit::SourceFailed, "source failed"),
    (Exit::RestoreFailed, "restore failed"),
    (Exit::Incomplete, "restored in part"),
    (Exit::Interrupted, "interrupted"),
];

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The exit of a class of trouble.
#[must_use]
pub fn of(trouble: Trouble) -> Exit {
    match trouble {
        Trouble::Bug => Exit::Bug,
        Trouble::Usage => Exit::Usage,
        Trouble::NoSuchBackup => Exit::NoSuchBackup,
        Trouble::AlreadyRunning => Exit::AlreadyRunning,
        Trouble::KeyRefused => Exit::KeyRefused,
        Trouble::Unavailable => Exit::Unavailable,
        Trouble::Integrity => Exit::Integrity,
        Trouble::SourceFailed => Exit::SourceFailed,
        Trouble::RestoreFailed => Exit::RestoreFailed,
        Trouble::CheckFailed => Exit::CheckFailed,
        Trouble::NotVerified => Exit::NotVerified,
        Trouble::Leftovers => Exit::Leftovers,
        Trouble::Interrupted => Exit::Interrupted,
    }
}

//! Exit codes, and the one match that maps every error class to its code. `docs/EXIT_CODES.md` is
//! the same table; a test compares the two.

use std::process::ExitCode;

use crate::domain::ErrorClass;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitKind {
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
pub const ALL: [(ExitKind, &str); 16] = [
    (ExitKind::Done, "done"),
    (ExitKind::Bug, "bug"),
    (ExitKind::Usage, "usage"),
    (ExitKind::NoSuchBackup, "no such backup"),
    (ExitKind::AlreadyRunning, "already running"),
    (ExitKind::KeyRefused, "key refused"),
    (ExitKind::Unavailable, "unavailable"),
    (ExitKind::Integrity, "integrity broken"),
    (ExitKind::CheckFailed, "check failed"),
    (ExitKind::NotVerified, "not verified"),
    (ExitKind::Leftovers, "leftovers remain"),
    (ExitKind::TooOld, "too old"),
    (ExitKind::SourceFailed, "source failed"),
    (ExitKind::RestoreFailed, "restore failed"),
    (ExitKind::Incomplete, "restored in part"),
    (ExitKind::Interrupted, "interrupted"),
];

impl ExitKind {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitKind> for ExitCode {
    fn from(exit: ExitKind) -> Self {
        Self::from(exit.code())
    }
}

/// The exit of a class of trouble.
#[must_use]
pub fn of(trouble: ErrorClass) -> ExitKind {
    match trouble {
        ErrorClass::Bug => ExitKind::Bug,
        ErrorClass::Usage => ExitKind::Usage,
        ErrorClass::NoSuchBackup => ExitKind::NoSuchBackup,
        ErrorClass::AlreadyRunning => ExitKind::AlreadyRunning,
        ErrorClass::KeyRefused => ExitKind::KeyRefused,
        ErrorClass::Unavailable => ExitKind::Unavailable,
        ErrorClass::Integrity => ExitKind::Integrity,
        ErrorClass::SourceFailed => ExitKind::SourceFailed,
        ErrorClass::RestoreFailed => ExitKind::RestoreFailed,
        ErrorClass::CheckFailed => ExitKind::CheckFailed,
        ErrorClass::NotVerified => ExitKind::NotVerified,
        ErrorClass::Leftovers => ExitKind::Leftovers,
        ErrorClass::Interrupted => ExitKind::Interrupted,
    }
}

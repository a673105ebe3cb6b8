//! Error classes: the ways in which a command can fail, as a script can act on them.
//!
//! Every error of every module has a class; the command line maps the class to an exit code in one
//! exhaustive match (`cli::exit`), and `docs/EXIT_CODES.md` is the same table in prose.

use std::fmt;

/// Class of an error: what a script, or a tired person, should do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// A defect in lifeboat, or a state it believed impossible.
    Bug,
    /// The command line, the configuration or the target asked for is not acceptable; nothing was
    /// changed.
    Usage,
    /// No backup fits what was asked for.
    NoSuchBackup,
    /// Another run holds the datastore; nothing was changed.
    AlreadyRunning,
    /// A key is missing, disabled, or refused to wrap, unwrap or sign.
    KeyRefused,
    /// A service, server or disk did not answer, is throttled or is full. Trying again later may
    /// help.
    Unavailable,
    /// Stored bytes are not what was signed, or do not decrypt, decompress or parse.
    Integrity,
    /// The datastore could not be read whole; nothing was published.
    SourceFailed,
    /// A restore stopped half way; the message says what state the target is in.
    RestoreFailed,
    /// Restored data differs from what was recorded at backup time.
    CheckFailed,
    /// Something could not be looked at, so nothing is claimed.
    NotVerified,
    /// Leavings of earlier runs were found.
    Leftovers,
    /// Interrupted by a signal; what was begun was undone.
    Interrupted,
}

impl ErrorClass {
    /// Whether the same command may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable | Self::AlreadyRunning | Self::SourceFailed)
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bug => "bug",
            Self::Usage => "usage",
            Self::NoSuchBackup => "no such backup",
            Self::AlreadyRunning => "already running",
            Self::KeyRefused => "key refused",
            Self::Unavailable => "unavailable, try again",
            Self::Integrity => "integrity broken",
            Self::SourceFailed => "source failed",
            Self::RestoreFailed => "restore failed",
            Self::CheckFailed => "check failed",
            Self::NotVerified => "not verified",
            Self::Leftovers => "leftovers remain",
            Self::Interrupted => "interrupted",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_words_and_only_what_passes_by_itself_is_worth_another_try() {
        for (trouble, words, retryable) in [
            (ErrorClass::Bug, "bug", false),
            (ErrorClass::Usage, "usage", false),
            (ErrorClass::NoSuchBackup, "no such backup", false),
            (ErrorClass::AlreadyRunning, "already running", true),
            (ErrorClass::KeyRefused, "key refused", false),
            (ErrorClass::Unavailable, "unavailable, try again", true),
            (ErrorClass::Integrity, "integrity broken", false),
            (ErrorClass::SourceFailed, "source failed", true),
            (ErrorClass::RestoreFailed, "restore failed", false),
            (ErrorClass::CheckFailed, "check failed", false),
            (ErrorClass::NotVerified, "not verified", false),
            (ErrorClass::Leftovers, "leftovers remain", false),
            (ErrorClass::Interrupted, "interrupted", false),
        ] {
            assert_eq!(
                (trouble.to_string().as_str(), trouble.is_retryable()),
                (words, retryable),
                "{trouble:?}"
            );
        }
    }
}

//! lifeboat's own program, as it runs: an upgrade that replaces its file changes nothing for what
//! is under way.

use std::fs::File;
use std::path::PathBuf;

/// The running program, to start it once more: by the process that runs it and not by its file,
/// which may be another by now.
#[must_use]
pub fn path() -> PathBuf {
    PathBuf::from(format!("/proc/{}/exe", std::process::id()))
}

/// The running program, opened.
///
/// # Errors
/// The system's error, where `/proc` is not there.
pub fn open() -> std::io::Result<File> {
    File::open("/proc/self/exe")
}

/// The bytes of the running program.
///
/// # Errors
/// The system's error, where `/proc` is not there.
pub fn bytes() -> std::io::Result<Vec<u8>> {
    std::fs::read("/proc/self/exe")
}

//! Entering a sandbox: lifeboat, started again, joins the sandbox's control group, applies the
//! seccomp filter, and executes the rest of the command line (`nsenter`, `prlimit`, `setpriv`, the
//! program).

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use super::filter::{self, FilterAudience};

/// Name of the hidden command that runs [`launch`].
pub const COMMAND: &str = "sandbox-launch";
/// Stands before a control group that is moved into.
const INTO: &str = "--into";
/// Ends the options.
const END: &str = "--";
/// Leaves system calls as they are: accepted as a gap.
const UNFILTERED: &str = "--unfiltered";

/// The words that start whatever follows them in the sandbox.
#[must_use]
pub fn words(group: &[PathBuf], is_filtered: bool) -> Vec<OsString> {
    let mut words = vec![crate::this_program::path().into_os_string(), COMMAND.into()];
    for door in super::group::doors(group) {
        words.extend([INTO.into(), door.into_os_string()]);
    }
    if !is_filtered {
        words.push(UNFILTERED.into());
    }
    words.push(END.into());
    words
}

/// Becomes the program that the arguments name. Returns only what went wrong before.
#[must_use]
pub fn launch(mut arguments: impl Iterator<Item = OsString>) -> String {
    let mut to = Some(FilterAudience::Everybody);
    loop {
        match arguments.next() {
            Some(word) if word == INTO => {
                let door = arguments.next().unwrap_or_default();
                if let Err(error) = std::fs::write(&door, "0") {
                    return format!(
                        "moving into control group {}: {error}",
                        Path::new(&door).display()
                    );
                }
            }
            Some(word) if word == UNFILTERED => to = None,
            Some(word) if word == END => break,
            other => {
                return format!(
                    "{} is no word of its command line",
                    other.unwrap_or_default().display()
                );
            }
        }
    }
    if let Some(Err(why)) = to.map(filter::apply) {
        return why;
    }
    let program = arguments.next().unwrap_or_default();
    let error = std::process::Command::new(&program).args(arguments).exec();
    format!("{}: {error}", program.display())
}

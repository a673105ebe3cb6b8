//! Files with secrets: read only where nobody else could have read them.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

/// Largest secret that is read, in bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedReaders {
    /// Its owner.
    Owner,
    /// Its group as well, as distributions keep keys of TLS.
    Group,
}

/// Reads a secret, if no others may.
///
/// # Errors
/// What is wrong with the file, and what to do, in words.
pub fn read(file: &Path, readers: AllowedReaders) -> Result<Zeroizing<String>, String> {
    let at = file.display();
    let problem = |error: std::io::Error| format!("{at}: {error}");
    // What is opened is what is looked at.
    let open = std::fs::File::open(file).map_err(problem)?;
    let (facts, (others, wanted)) = (
        open.metadata().map_err(problem)?,
        match readers {
            AllowedReaders::Owner => (0o077, "600"),
            AllowedReaders::Group => (0o027, "640"),
        },
    );
    if !facts.is_file() {
        return Err(format!("{at}: it is no file"));
    }
    if facts.mode() & others != 0 {
        return Err(format!(
            "{at}: others may read this secret (mode {:03o}); run: chmod {wanted} {at}",
            facts.mode() & 0o777
        ));
    }
    if facts.len() > BYTES_MAX {
        return Err(format!("{at}: {} bytes are too many for a secret", facts.len()));
    }
    let mut text = Zeroizing::new(String::new());
    open.take(BYTES_MAX).read_to_string(&mut text).map_err(problem)?;
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "secret").unwrap();
        for (mode, owner, group) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o640, false, true),
            (0o660, false, false),
            (0o644, false, false),
        ] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file, AllowedReaders::Owner).is_ok(), owner, "{mode:o}");
            assert_eq!(read(&file, AllowedReaders::Group).is_ok(), group, "{mode:o}");
        }
        let refused = read(&file, AllowedReaders::Owner).unwrap_err();
        assert!(
            refused.contains("others may read this secret (mode 644); run: chmod 600")
                && !refused.contains("secret\n"),
            "{refused}"
        );
        assert!(read(directory.path(), AllowedReaders::Owner).is_err());
    }
}

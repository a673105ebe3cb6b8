//! Clusters, homes and the program under test.

pub mod browser;
#[cfg(feature = "ec2")]
pub mod cloud;
pub mod cluster;
pub mod disks;
#[cfg(feature = "aws")]
pub mod front;
#[cfg(feature = "aws")]
pub mod glacier;
pub mod guide;
pub mod home;
#[cfg(feature = "aws")]
pub mod localstack;
#[cfg(feature = "ec2")]
pub mod machine;
pub mod rehearsal;
#[cfg(feature = "ec2")]
pub mod room;
pub mod scratch;

pub use cluster::{Cluster, Major};
pub use disks::Disks;
pub use home::{Home, Out};
pub use rehearsal::Rehearsal;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A cluster with one of everything that a dump can hold, in the database `everything`.
pub const EVERYTHING: &str = include_str!("everything.sql");

/// Versions whose leavings are under `tests/fixtures`.
pub const EARLIER_VERSIONS: [&str; 1] = ["0.1.0"];

/// A directory that the server's user may pass through.
pub fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::Builder::new().prefix("lifeboat-test-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    directory
}

/// Where `scripts/install test` put what is not in Debian.
#[cfg(feature = "aws")]
pub fn tools() -> PathBuf {
    let cache = || {
        std::env::var_os("XDG_CACHE_HOME").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
            PathBuf::from,
        )
    };
    let tools = std::env::var_os("LIFEBOAT_TEST_TOOLS")
        .map_or_else(|| cache().join("lifeboat/tools"), PathBuf::from);
    assert!(
        tools.join("venv/bin/python").exists(),
        "run scripts/install test first: {} is missing",
        tools.display()
    );
    tools
}

/// Waits until something is true; fails loudly instead of for ever.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited a minute for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every file below a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A program in a directory of `pg_bin` that does something before or instead of the real one.
pub fn wrap_pg_dump(home: &Home, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let bin = home.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for program in ["psql", "pg_dumpall", "pg_restore"] {
        std::os::unix::fs::symlink(
            format!("/usr/lib/postgresql/15/bin/{program}"),
            bin.join(program),
        )
        .unwrap();
    }
    let text = format!(
        "#!/bin/bash\nreal=/usr/lib/postgresql/15/bin/pg_dump\nif [ \"$1\" = --version ]; then exec $real --version; fi\n{script}\n"
    );
    std::fs::write(bin.join("pg_dump"), text).unwrap();
    std::fs::set_permissions(bin.join("pg_dump"), std::fs::Permissions::from_mode(0o755)).unwrap();
    home.configure("[postgres]\npg_bin = \"bin\"\n");
}

//! Named points at which a test can kill the process: `LIFEBOAT_FAILPOINT=name` sends SIGKILL
//! there.
//!
//! Only in builds with debug assertions, as tests use them; in a release build [`reach`] is empty.

/// Every name, in the order in which a backup passes them. The tests kill at each.
pub const ALL: [&str; 9] = [
    "snapshot-listed",
    "upload-begun",
    "part-sent",
    "payloads-done",
    "envelope-written",
    "signature-written",
    "about-to-publish",
    "manifest-written",
    "catalog-written",
];

/// The same for a drill.
pub const OF_DRILLS: [&str; 6] = [
    "drill-started",
    "drill-raised",
    "drill-loaded",
    "drill-examined",
    "drill-damaged",
    "drill-torn-down",
];

/// The same for a restore into a database, and for a rotation.
pub const OF_RESTORES: [&str; 10] = [
    "restore-role",
    "restore-created",
    "restore-marked",
    "restore-tablespace",
    "restore-schema",
    "restore-rows",
    "restore-indexes",
    "restore-privileges",
    "restore-swapped",
    "rekey-signed",
];

/// The same for a volume set.
pub const OF_SETS: [&str; 7] =
    ["set-still", "set-half", "set-cut", "set-noted", "set-whole", "set-copied", "set-locked"];

/// The same for a drill in a scratch VPC, beside those of drills.
pub const OF_SCRATCH: [&str; 5] =
    ["scratch-leased", "scratch-built", "scratch-gated", "scratch-launched", "scratch-ordered"];

/// Passes the named place, unless a test wants the process dead or slow here.
pub fn reach(name: &str) {
    debug_assert!(
        ALL.contains(&name)
            || OF_DRILLS.contains(&name)
            || OF_RESTORES.contains(&name)
            || OF_SETS.contains(&name)
            || OF_SCRATCH.contains(&name),
        "unknown failpoint {name}"
    );
    #[cfg(debug_assertions)]
    {
        if std::env::var("LIFEBOAT_FAILPOINT").is_ok_and(|wanted| wanted == name) {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
        // A test changes the world while the process waits for a file to appear.
        if let Ok(wait) = std::env::var("LIFEBOAT_WAITPOINT")
            && let Some((wanted, file)) = wait.split_once('=')
            && wanted == name
        {
            let _ = std::fs::write(format!("{file}.reached"), "");
            while !std::path::Path::new(file).exists() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

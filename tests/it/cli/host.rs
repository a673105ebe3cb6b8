//! What other users of the host can do: nothing.

use crate::support::{Cluster, Home};

/// Locks, catalog and state are for nobody else, and stand nowhere that somebody else could have
/// prepared.
#[test]
fn what_this_host_keeps_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    let home = Home::of(&source, "d");
    // As an earlier version left them.
    home.backup();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for file in [home.path("catalog.db"), home.path("catalog.locks/db.lock")] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    home.backup();
    let kept: Vec<_> = crate::support::files(&home.path("."))
        .into_iter()
        .filter(|file| file.display().to_string().contains("/catalog."))
        .collect();
    assert!(kept.len() >= 2, "{kept:?}");
    for file in kept {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    // Without a home there is no state in a directory of temporary files.
    let mut command = std::process::Command::new("/usr/bin/setpriv");
    command
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"])
        .arg(home.path("lifeboat"));
    std::fs::copy(env!("CARGO_BIN_EXE_lifeboat"), home.path("lifeboat")).unwrap();
    std::fs::set_permissions(home.path("."), std::fs::Permissions::from_mode(0o755)).unwrap();
    let vault = "s3://backups/prod".to_owned();
    let out = command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .args(["restore", "db", "--vault", &vault, "--to", "postgres:///x", "--plan"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.code() == Some(2)
            && said.contains("HOME is not set")
            && said.contains("XDG_STATE_HOME"),
        "{said}"
    );
}

/// Whoever may change a program, or put one in its place, decides what root runs.
#[test]
fn programs_that_somebody_else_may_change_are_passed_over() {
    use std::os::unix::fs::PermissionsExt;
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    let home = Home::of(&source, "d");
    let bin = home.path("bin");
    std::fs::create_dir(&bin).unwrap();
    for program in ["pg_dump", "psql", "pg_dumpall", "pg_restore"] {
        std::fs::copy(format!("/usr/lib/postgresql/15/bin/{program}"), bin.join(program)).unwrap();
    }
    home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", bin.display()));
    home.backup();
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o777)).unwrap();
    home.run(&["backup", "db"]).fails(2, &["everybody may write it"]);
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(
        std::process::Command::new("chown")
            .args(["nobody", bin.to_str().unwrap()])
            .status()
            .unwrap()
            .success()
    );
    home.run(&["backup", "db"]).fails(2, &["it belongs to another user, and this is root"]);
    let owner = |owner: &str, path: &std::path::Path| {
        assert!(
            std::process::Command::new("chown").arg(owner).arg(path).status().unwrap().success()
        );
    };
    let mode = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap()
    };
    owner("root:root", &bin);
    home.backup();
    // Not the one that is asked for its version, but one that is run as well.
    owner("nobody", &bin.join("psql"));
    home.run(&["backup", "db"]).fails(2, &["psql: it belongs to another user"]);
    owner("root", &bin.join("psql"));
    owner("root:nogroup", &bin);
    mode(&bin, 0o775);
    home.run(&["backup", "db"]).fails(2, &["a group may write it"]);
    owner("root:root", &bin);
    // Whoever may write the directory above can put another one in its place, but for the sticky
    // bit.
    let above = home.path("");
    mode(&above, 0o777);
    home.run(&["backup", "db"]).fails(2, &["everybody may write it"]);
    mode(&above, 0o1777);
    home.backup();
}

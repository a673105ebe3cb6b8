//! Privileges as people give them away: by others than the owner, on databases, tablespaces and parameters.

use std::process::Command;

use crate::support::{Cluster, Home, Major};

fn directory_of_the_server() -> tempfile::TempDir {
    let directory = crate::support::directory();
    assert!(Command::new("chown").arg("postgres").arg(directory.path()).status().unwrap().success());
    directory
}

#[test]
fn what_others_than_the_owner_granted_comes_back_as_theirs() {
    let (source, target) = (Cluster::start(), Cluster::start());
    let (here, there) = (directory_of_the_server(), directory_of_the_server());
    source.psql(
        "postgres",
        &format!(
            "CREATE ROLE a; CREATE ROLE \"b c\"; CREATE ROLE keeper; CREATE DATABASE d;
             CREATE TABLESPACE t OWNER keeper LOCATION '{}';",
            here.path().display()
        ),
    );
    source.psql(
        "postgres",
        "GRANT CREATE ON DATABASE d TO a WITH GRANT OPTION; GRANT CREATE ON TABLESPACE t TO a WITH GRANT OPTION; GRANT SET ON PARAMETER work_mem TO a WITH GRANT OPTION;
         SET ROLE a; GRANT CREATE ON DATABASE d TO \"b c\"; GRANT CREATE ON TABLESPACE t TO \"b c\"; GRANT SET ON PARAMETER work_mem TO \"b c\";",
    );
    source.psql("d", "CREATE TABLE x AS SELECT 1 AS y");
    let home = Home::of(&source, "d");
    home.run(&["check"]).ok();
    home.backup();
    home.run(&["verify", "--all"]).ok();
    let directory = format!("t={}", there.path().display());
    home.run(&["restore", "db", "--to", &target.conninfo("d"), "--tablespace", &directory, "--yes", "--check"]).ok();
    assert_eq!(target.dump("d", Major::Debian15), source.dump("d", Major::Debian15));
    let elsewhere = source.globals(Major::Debian15).replace(here.path().to_str().unwrap(), there.path().to_str().unwrap());
    assert_eq!(target.globals(Major::Debian15), elsewhere);
    // A second restore finds it all as it is.
    let again = home.run(&["restore", "db", "--to", &target.conninfo("again"), "--yes", "--check"]).ok();
    assert!(again.stdout.contains("all as recorded"), "{again:?}");
    assert_eq!(target.globals(Major::Debian15), elsewhere);
}

/// The clients of 17 and 18 forget why a statement was refused; the reason is told all the same, and decisions still hang on its SQLSTATE.
#[test]
fn a_refusal_has_its_reason_whatever_client_asked() {
    for major in [Major::Debian15, Major::V17, Major::V18] {
        let (source, target) = (Cluster::start_with(major, &[]), Cluster::start_with(major, &[]));
        source.psql("postgres", "CREATE ROLE taken; ALTER ROLE taken SET log_statement = 'all'; CREATE DATABASE d");
        source.psql("d", "CREATE TABLE x AS SELECT 1 AS y");
        target.psql("postgres", "CREATE ROLE weak LOGIN CREATEDB");
        let home = Home::of(&source, "d");
        home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", major.bin().display()));
        home.backup();
        let as_weak = target.conninfo("d").replace("user=postgres", "user=weak");
        home.run(&["restore", "db", "--to", &as_weak, "--yes"]).fails(2, &["the connecting role", "it may not make role taken"]);
        target.psql("postgres", "ALTER ROLE weak CREATEROLE");
        let refused = home.run(&["restore", "db", "--to", &as_weak, "--yes", "--no-owner"]);
        assert_eq!(refused.code, 13, "{major:?}: {refused:?}");
        assert!(refused.stderr.contains("nothing was changed on the target"), "{major:?}: {refused:?}");
        assert_eq!(target.psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'taken'"), "0", "all of it or nothing");
        assert!(refused.stderr.contains("(42501)") && refused.stderr.contains("permission denied"), "{major:?}: {refused:?}");
        home.run(&["restore", "db", "--to", &target.conninfo("d"), "--yes", "--check"]).ok();
    }
}

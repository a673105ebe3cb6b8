//! Privileges as people give them away: by others than the owner, on databases, tablespaces and
//! parameters.

use std::process::Command;

use crate::support::{Cluster, Home, Major};

fn directory_of_the_server() -> tempfile::TempDir {
    let directory = crate::support::directory();
    assert!(
        Command::new("chown").arg("postgres").arg(directory.path()).status().unwrap().success()
    );
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
    home.run(&[
        "restore",
        "db",
        "--to",
        &target.conninfo("d"),
        "--tablespace",
        &directory,
        "--yes",
        "--check",
    ])
    .ok();
    assert_eq!(target.dump("d", Major::Debian15), source.dump("d", Major::Debian15));
    let elsewhere = source
        .globals(Major::Debian15)
        .replace(here.path().to_str().unwrap(), there.path().to_str().unwrap());
    assert_eq!(target.globals(Major::Debian15), elsewhere);
    // A second restore finds it all as it is.
    let again =
        home.run(&["restore", "db", "--to", &target.conninfo("again"), "--yes", "--check"]).ok();
    assert!(again.stdout.contains("all as recorded"), "{again:?}");
    assert_eq!(target.globals(Major::Debian15), elsewhere);
}

/// The clients of 17 and 18 forget why a statement was refused; the reason is told all the same,
/// and decisions still hang on its SQLSTATE.
#[test]
fn a_refusal_has_its_reason_whatever_client_asked() {
    for major in [Major::Debian15, Major::V17, Major::V18] {
        let (source, target) = (Cluster::start_with(major, &[]), Cluster::start_with(major, &[]));
        source.psql(
            "postgres",
            "CREATE ROLE taken; ALTER ROLE taken SET log_statement = 'all'; CREATE DATABASE d",
        );
        source.psql("d", "CREATE TABLE x AS SELECT 1 AS y");
        target.psql("postgres", "CREATE ROLE weak LOGIN CREATEDB");
        let home = Home::of(&source, "d");
        home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", major.bin().display()));
        home.backup();
        let as_weak = target.conninfo("d").replace("user=postgres", "user=weak");
        home.run(&["restore", "db", "--to", &as_weak, "--yes"])
            .fails(2, &["the connecting role", "it may not make role taken"]);
        target.psql("postgres", "ALTER ROLE weak CREATEROLE");
        let refused = home.run(&["restore", "db", "--to", &as_weak, "--yes", "--no-owner"]);
        assert_eq!(refused.code, 13, "{major:?}: {refused:?}");
        assert!(
            refused.stderr.contains("nothing was changed on the target"),
            "{major:?}: {refused:?}"
        );
        assert_eq!(
            target.psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'taken'"),
            "0",
            "all of it or nothing"
        );
        assert!(
            refused.stderr.contains("(42501)") && refused.stderr.contains("permission denied"),
            "{major:?}: {refused:?}"
        );
        home.run(&["restore", "db", "--to", &target.conninfo("d"), "--yes", "--check"]).ok();
    }
}

/// Shared catalogs hold names in whatever encoding: a database of another one changes none of them.
#[test]
fn roles_keep_their_names_whatever_encoding_the_database_has() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE ROLE \"rené\" LOGIN; COMMENT ON ROLE \"rené\" IS 'é'; CREATE ROLE mate; GRANT \"rené\" TO mate; CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    source.psql("latin", "SET client_encoding = 'UTF8'; CREATE TABLE t AS SELECT 'ö'::text AS x; ALTER DATABASE latin SET my.word TO 'ö'; ALTER DATABASE latin CONNECTION LIMIT 7; COMMENT ON DATABASE latin IS 'ö'");
    // Its name in bytes that are no text of that database: given from where it was made.
    source.psql("postgres", "ALTER DATABASE latin OWNER TO \"rené\"");
    let home = Home::of(&source, "latin");
    home.backup();
    assert!(home.restore(&target.conninfo("latin")).ok().stdout.contains("all as recorded"));
    assert_eq!(source.globals(Major::Debian15), target.globals(Major::Debian15));
    let facts = "SELECT encode(convert_to(rolname, 'UTF8'), 'hex'), datconnlimit, (SELECT setconfig::text::bytea FROM pg_db_role_setting WHERE setdatabase = d.oid) FROM pg_database d JOIN pg_roles r ON r.oid = datdba WHERE datname = 'latin'";
    assert_eq!(source.psql("postgres", facts), target.psql("postgres", facts));
    assert_eq!(target.psql("latin", "SELECT x = U&'\\00f6' FROM t"), "t");
}

/// With other options than in the backup a membership is the target's own business, and said.
#[test]
fn memberships_that_differ_in_their_options_are_reported_and_limits_keep_nobody_out() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE ROLE a; CREATE ROLE b; GRANT a TO b WITH ADMIN OPTION; CREATE ROLE own LOGIN; CREATE DATABASE d OWNER own CONNECTION LIMIT 1");
    source.psql("d", "CREATE TABLE t (i int PRIMARY KEY, s serial); ALTER TABLE t OWNER TO own; COMMENT ON SCHEMA public IS 'hello'; CREATE TABLE u (i int REFERENCES t); INSERT INTO u VALUES (NULL); ALTER TABLE u OWNER TO own");
    target.psql(
        "postgres",
        "CREATE ROLE a; CREATE ROLE b; GRANT a TO b; CREATE ROLE weak LOGIN CREATEDB CREATEROLE",
    );
    let home = Home::of(&source, "d");
    home.backup();
    let out = home
        .run(&[
            "restore",
            "db",
            "--to",
            &target.conninfo("d").replace("user=postgres", "user=weak"),
            "--yes",
        ])
        .ok();
    assert!(
        out.stdout.contains("membership not made between roles that existed: a to b"),
        "{}",
        out.stdout
    );
    assert_eq!(
        target.psql("postgres", "SELECT datconnlimit FROM pg_database WHERE datname = 'd'"),
        "1"
    );
    // A table goes with the sequences that are its own.
    home.run(&[
        "restore",
        "db",
        "--to",
        &target.conninfo("less"),
        "--yes",
        "--check",
        "--skip",
        "TABLE:public.t",
    ])
    .fails(14, &["restored in part"]);
    // Foreign keys that are switched off are named.
    source.psql("d", "ALTER TABLE u DISABLE TRIGGER ALL");
    let report = home.run(&["backup", "db"]).ok().stdout;
    assert!(report.contains("NOT IN IT   foreign keys switched off on public.u"), "{report}");
}

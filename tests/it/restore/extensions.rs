//! Extensions keep rows of their own in their tables, beside those that people put there: a restore
//! that was interrupted loses neither.

use crate::support::{Cluster, Home};

const VERSION: &str = "lifeboat_test_ruled--1.0.sql";
const SCRIPT: &str = "CREATE TABLE rules (id int PRIMARY KEY, own bool DEFAULT true, text text);
INSERT INTO rules VALUES (1, false, 'of the extension'), (2, false, 'of the extension');
SELECT pg_catalog.pg_extension_config_dump('rules', 'WHERE own');
CREATE TABLE everything (x text);
SELECT pg_catalog.pg_extension_config_dump('everything', '');
CREATE TABLE layers (id int PRIMARY KEY, rule int NOT NULL REFERENCES rules);
INSERT INTO layers VALUES (1, 1);
SELECT pg_catalog.pg_extension_config_dump('layers', 'WHERE id >= 10');
CREATE FUNCTION stays() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''layers are not deleted''; END';
CREATE TRIGGER stays BEFORE DELETE ON layers FOR EACH ROW EXECUTE FUNCTION stays();
";

/// Puts an extension where the server looks for one; the files are the same for every test, come
/// whole, and stay.
pub fn install_extension() {
    let directory = std::path::Path::new("/usr/share/postgresql/15/extension");
    let control = "default_version = '1.0'\nrelocatable = true\n";
    for (name, text) in [(VERSION, SCRIPT), ("lifeboat_test_ruled.control", control)] {
        let own = directory.join(format!("{name}.{}", std::process::id()));
        std::fs::write(&own, text).unwrap();
        std::fs::rename(own, directory.join(name)).unwrap();
    }
}

#[test]
fn rows_that_an_extension_made_survive_an_interrupted_restore() {
    install_extension();
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql(
        "d",
        "CREATE EXTENSION lifeboat_test_ruled; INSERT INTO rules (id, text) SELECT i, 'ours' FROM generate_series(10, 60) i; INSERT INTO everything VALUES ('a'), ('b'); INSERT INTO layers SELECT i, i FROM generate_series(10, 60) i;
         CREATE TABLE big AS SELECT i, md5(i::text) AS x FROM generate_series(1, 20000) i; ALTER TABLE big ADD PRIMARY KEY (i)",
    );
    let rows = "SELECT string_agg(id || ':' || own || ':' || text, ',' ORDER BY id) || (SELECT string_agg(x, ',' ORDER BY x) FROM everything) || (SELECT count(*) FROM big) || (SELECT string_agg(id || ':' || rule, ',' ORDER BY id) FROM layers) FROM rules";
    for (jobs, place) in
        [(1, "restore-schema"), (1, "restore-rows"), (3, "restore-rows"), (3, "restore-indexes")]
    {
        let target = Cluster::start();
        let home = Home::new();
        home.add_datastore("db", &source.conninfo("d"), &format!("jobs = {jobs}"));
        home.backup();
        let arguments = ["restore", "db", "--to", &target.conninfo("d"), "--yes", "--check"];
        home.run_with(&[("LIFEBOAT_FAILPOINT", place)], &arguments).fails(137, &[]);
        if place == "restore-rows" {
            // As if it had died before it noted that the rows are there: all of them are half
            // loaded.
            let read =
                "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'd'";
            let mark = target.psql("postgres", read);
            let (before, done) = mark.split_once("done=").unwrap();
            let moment = done.split(',').find(|word| word.starts_with("schema-made-at-")).unwrap();
            target.psql(
                "postgres",
                &format!("COMMENT ON DATABASE d IS '{before}done={moment},schema'"),
            );
        }
        let resumed = home.run(&arguments).ok();
        assert!(
            resumed.stdout.contains("went on") && resumed.stdout.contains("all as recorded"),
            "{place}: {resumed:?}"
        );
        assert!(!resumed.stdout.contains("schema-made-at"), "{place}: {resumed:?}");
        assert_eq!(target.psql("d", rows), source.psql("d", rows), "{jobs} {place}");
    }
}

/// A mark of an earlier version does not say which rows were there before: then nothing is guessed,
/// and the restore begins anew.
#[test]
fn without_knowing_which_rows_were_there_a_restore_begins_anew() {
    install_extension();
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE DATABASE d");
    source.psql(
        "d",
        "CREATE EXTENSION lifeboat_test_ruled; INSERT INTO rules (id, text) VALUES (10, 'ours')",
    );
    let home = Home::of(&source, "d");
    home.backup();
    let arguments = ["restore", "db", "--to", &target.conninfo("d"), "--yes", "--check"];
    home.run_with(&[("LIFEBOAT_FAILPOINT", "restore-rows")], &arguments).fails(137, &[]);
    let read = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'd'";
    let mark = target.psql("postgres", read);
    let (before, _) = mark.split_once("done=").unwrap();
    target.psql("postgres", &format!("COMMENT ON DATABASE d IS '{before}done=schema'"));
    let anew = home.run(&arguments).ok();
    assert!(
        !anew.stdout.contains("went on") && anew.stdout.contains("all as recorded"),
        "{anew:?}"
    );
    assert_eq!(
        target.psql("d", "SELECT string_agg(id::text, ' ' ORDER BY id) FROM rules"),
        "1 2 10"
    );
}

/// With it every session of the database would be turned away, this restore's too, and that after
/// the setting is there.
#[test]
fn a_library_that_every_session_loads_is_missing_before_anything_is_changed() {
    let (source, target) = (Cluster::start(), Cluster::start_with(crate::support::Major::V17, &[]));
    let libraries = std::path::Path::new("/usr/lib/postgresql/15/lib");
    let own = libraries.join(format!("lifeboat_test_quiet.{}", std::process::id()));
    std::fs::copy(libraries.join("auto_explain.so"), &own).unwrap();
    std::fs::rename(own, libraries.join("lifeboat_test_quiet.so")).unwrap();
    source.psql("postgres", "CREATE ROLE clerk; CREATE DATABASE d");
    source.psql("d", "CREATE TABLE t (i int); ALTER DATABASE d SET session_preload_libraries = 'lifeboat_test_quiet'");
    let home = Home::of(&source, "d");
    home.configure(&format!(
        "\n[postgres]\npg_bin = \"{}\"\n",
        crate::support::Major::V18.bin().display()
    ));
    home.backup();
    home.restore(&target.conninfo("d"))
        .fails(2, &["lacks the library 'lifeboat_test_quiet'", "nothing was changed"]);
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'd'"),
        "0"
    );
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'clerk'"),
        "0"
    );
    let here = Cluster::start();
    assert!(home.restore(&here.conninfo("d")).ok().stdout.contains("all as recorded"));
}

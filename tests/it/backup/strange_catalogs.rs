//! System catalogs that say strange things of healthy databases, and `check`, which must find out
//! before the night what the night would.

use crate::support::{Cluster, Home, Out};

fn line<'a>(lines: &'a serde_json::Value, question: &str) -> &'a serde_json::Value {
    lines
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["question"] == question)
        .unwrap_or_else(|| panic!("{question}: {lines:#}"))
}

/// Answer and detail of one question that `check` asked.
fn answer(check: &Out, question: &str) -> (String, String) {
    let lines = check.json();
    let line = line(&lines, question);
    (line["answer"].as_str().unwrap().to_owned(), line["detail"].as_str().unwrap().to_owned())
}

const LOCKS: &str = "its tables can be listed and locked";
const SCHEMA: &str = "its schema can be dumped and read back";

fn partitioned() -> Cluster {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql(
        "d",
        "CREATE TABLE part (a int) PARTITION BY LIST (a); CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1); CREATE TABLE part2 PARTITION OF part DEFAULT;
         INSERT INTO part SELECT i % 3 FROM generate_series(1, 300) i; CREATE TABLE plain AS SELECT i FROM generate_series(1, 100) i; ANALYZE",
    );
    source
}

#[test]
fn an_analysed_partitioned_table_is_backed_up_and_so_is_what_its_restore_analysed() {
    let (source, target) = (partitioned(), Cluster::start());
    assert_eq!(
        source.psql("d", "SELECT relpages FROM pg_class WHERE relname = 'part'"),
        "-1",
        "that is what this test is about"
    );
    for jobs in [1, 3] {
        let home = Home::new();
        home.add_datastore("db", &source.conninfo("d"), &format!("jobs = {jobs}"));
        std::fs::create_dir_all(home.path("restore")).unwrap();
        std::fs::write(
            home.path("restore/db.toml"),
            "[[restore]]\ndatastore = \"db\"\nafter = [\"ANALYZE\"]\n",
        )
        .unwrap();
        let check = home.run(&["check", "--json"]).ok();
        assert_eq!(answer(&check, LOCKS), ("good".to_owned(), "4 tables".to_owned()));
        home.backup();
        let database = format!("back{jobs}");
        assert!(home.restore(&target.conninfo(&database)).ok().stdout.contains("all as recorded"));
        home.add_datastore("again", &target.conninfo(&database), &format!("jobs = {jobs}"));
        home.run(&["backup", "again"]).ok();
    }
}

/// Estimates that nobody can believe: as large as the column can be, negative, and of a TOAST table
/// that is not there.
#[test]
fn sizes_that_make_no_sense_cost_no_backup() {
    let source = partitioned();
    source.psql("d", "CREATE TABLE wide (x text); INSERT INTO wide SELECT repeat(md5(i::text), 100) FROM generate_series(1, 50) i");
    for change in [
        "UPDATE pg_class SET relpages = 2147483647, reltuples = 'Infinity' WHERE relnamespace IN ('public'::regnamespace, 'pg_toast'::regnamespace)",
        "UPDATE pg_class SET relpages = -2147483648, reltuples = 'NaN' WHERE relnamespace IN ('public'::regnamespace, 'pg_toast'::regnamespace)",
        "UPDATE pg_class SET reltoastrelid = 4294967295 WHERE relname = 'plain'",
    ] {
        source.psql("d", change);
        for jobs in [1, 4] {
            let home = Home::new();
            home.add_datastore("db", &source.conninfo("d"), &format!("jobs = {jobs}"));
            home.run(&["check"]).ok();
            home.backup();
            home.run(&["verify", "--all"]).ok();
        }
    }
}

/// Each of these stops a backup; none of them shows in privileges or in a server's answer to "who
/// are you".
#[test]
fn check_finds_what_would_stop_the_night() {
    let source = partitioned();
    let home = Home::of(&source, "d");
    home.run(&["check"]).ok();
    // A table that something else holds.
    let mut holding = std::process::Command::new("psql");
    holding.args([
        "-X",
        "-q",
        "-d",
        &source.conninfo("d"),
        "-c",
        "BEGIN; LOCK TABLE part1; SELECT pg_sleep(60)",
    ]);
    let mut holding = holding.stdout(std::process::Stdio::null()).spawn().unwrap();
    crate::support::eventually("the lock is held", || {
        source.psql("d", "SELECT count(*) FROM pg_locks WHERE relation = 'part1'::regclass AND mode = 'AccessExclusiveLock'") == "1"
    });
    let check = home.run(&["check", "--json"]);
    let night = home.run(&["backup", "db"]);
    assert_eq!((check.code, night.code), (6, 6), "{check:?}\n{night:?}");
    let (said, why) = answer(&check, LOCKS);
    assert!(
        said == "bad"
            && why.contains("a lock was not given within 2s: public.part1 is held by session")
            && why.contains("lock_wait"),
        "{why}"
    );
    source.psql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()",
    );
    holding.wait().unwrap();
    home.run(&["check"]).ok();
    // An object that pg_dump cannot make sense of.
    source.psql("d", "CREATE SCHEMA gone; CREATE FUNCTION gone.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; DELETE FROM pg_namespace WHERE nspname = 'gone'");
    let check = home.run(&["check", "--json"]);
    let night = home.run(&["backup", "db"]);
    assert_eq!((check.code, night.code), (12, 12), "{check:?}\n{night:?}");
    assert_eq!(answer(&check, LOCKS).0, "good");
    let (said, why) = answer(&check, SCHEMA);
    assert!(
        said == "bad" && why.contains("pg_dump exited with 1") && why.contains("schema with OID"),
        "{why}"
    );
}

/// What stock Postgres cannot mend is a note before the night, and stops nothing.
#[test]
fn check_warns_of_what_a_restore_will_meet() {
    let source = partitioned();
    source.psql("postgres", "CREATE ROLE gone");
    source.psql(
        "d",
        "CREATE TABLE other (i int); CREATE FUNCTION reads(i int) RETURNS bool LANGUAGE sql AS 'SELECT NOT EXISTS (SELECT FROM other o WHERE o.i = $1)';
         CREATE TABLE checked (i int CHECK (reads(i))); GRANT SELECT ON other TO gone; ANALYZE",
    );
    // As after an upgrade that went wrong: the role is gone, what it was granted is not.
    source.psql("d", "DELETE FROM pg_shdepend WHERE refobjid = 'gone'::regrole; DROP ROLE gone");
    let home = Home::new();
    home.add_datastore("db", &source.conninfo("d"), "role_passwords = false");
    home.backup();
    let check = home.run(&["check", "--json"]).ok();
    let note = |question: &str| answer(&check, question);
    for (question, detail) in [
        ("grants can be given again", "to roles that are gone, such as the one with OID"),
        (
            "checks depend on their rows alone",
            "1 checks call functions, such as that of public.checked",
        ),
        ("passwords of roles are in a backup", "role_passwords = false"),
        ("what a dump does to the server", "ALTER TABLE waits"),
    ] {
        let (found, said) = note(question);
        assert!(found == "note" && said.contains(detail), "{question}: {found} {said}");
    }
    assert_eq!(note("its first superuser is called postgres").0, "good");
    assert!(note("what a dump does to the server").1.contains("the last time"));
    home.reconfigure("dbname=", "load_balance_hosts=random dbname=");
    assert_eq!(home.run(&["check"]).code, 2);
    let target = Cluster::start();
    home.reconfigure("load_balance_hosts=random dbname=", "dbname=");
    home.restore(&target.conninfo("d")).fails(13, &["does not exist"]);
    let kept = home
        .run(&["restore", "db", "--to", &target.conninfo("kept"), "--yes", "--keep-going"])
        .fails(14, &[]);
    assert!(
        kept.stdout.contains("REFUSED: GRANT SELECT ON TABLE public.other TO"),
        "{}",
        kept.stdout
    );
}

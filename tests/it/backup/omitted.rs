//! What `pg_dump` leaves out is told: by the backup, in `status`, in the plan, and by the drill,
//! which does not pass without it.

use super::sources::documented_backup_role;
use crate::support::{Cluster, Home, Rehearsal, wrap_pg_dump};

fn omitted(home: &Home) -> Vec<String> {
    let report = home.run(&["backup", "db", "--json"]).ok().json();
    report[0]["omitted"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {}", one["kind"].as_str().unwrap(), one["name"].as_str().unwrap()))
        .collect()
}

#[test]
fn what_the_documented_role_may_not_read_is_told_everywhere() {
    let (source, target) = (
        Cluster::start_with(
            crate::support::Major::Debian15,
            &["max_prepared_transactions = 2", "wal_level = logical"],
        ),
        Cluster::start(),
    );
    source.psql(
        "postgres",
        "CREATE DATABASE d; CREATE ROLE app; ALTER ROLE ALL SET work_mem = '5MB'",
    );
    source.psql("d", &documented_backup_role("d"));
    source.psql(
        "d",
        "CREATE EXTENSION postgres_fdw; CREATE SERVER r FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere');
         CREATE USER MAPPING FOR app SERVER r OPTIONS (password 'p');
         CREATE SUBSCRIPTION s CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false);
         CREATE TABLE t AS SELECT i % 2 AS i FROM generate_series(1, 10) i;
         CREATE FUNCTION pg_catalog.own_function() RETURNS int LANGUAGE sql AS 'SELECT 1';
         SELECT pg_create_logical_replication_slot('feed', 'test_decoding')",
    );
    // One that fails leaves an index behind that is not valid.
    let _ = std::process::Command::new("psql")
        .args([
            "-Xq",
            "-d",
            &source.conninfo("d"),
            "-c",
            "CREATE UNIQUE INDEX CONCURRENTLY broken ON t (i)",
        ])
        .output();
    source.psql("d", "BEGIN; INSERT INTO t VALUES (7); PREPARE TRANSACTION 'gid 1'");
    let home = Home::new();
    home.add_datastore(
        "db",
        &format!("host={} user=lifeboat_backup dbname=d", source.socket().display()),
        "",
    );
    let expected = [
        "subscription s",
        "user-mapping app on r",
        "invalid-index public.broken",
        "setting-of-all-roles work_mem",
        "system-schema pg_catalog.own_function",
        "prepared-transaction gid 1",
        "replication-slot feed",
    ];
    assert_eq!(omitted(&home), expected);
    let told = home.run(&["backup", "db"]).ok().stdout;
    assert!(told.contains("NOT IN IT   subscription s: pg_dump leaves subscriptions out unless its role is a superuser"), "{told}");
    let check = home.run(&["check"]).stdout;
    assert!(
        check.contains("everything it holds is in a dump")
            && check.contains("user mapping app on r"),
        "{check}"
    );
    let status = home.run(&["status"]).stdout;
    assert!(
        status.contains("warning: not in the newest backup of db: user mapping app on r"),
        "{status}"
    );
    let to = target.conninfo("d");
    let plan = home.run(&["restore", "db", "--to", &to, "--plan"]).ok().stdout;
    assert!(plan.contains("not in the backup: subscription s (pg_dump leaves"), "{plan}");
    let restored = home.restore(&to).ok().stdout;
    assert!(
        restored.contains("not in it  prepared transaction gid 1")
            && restored.contains("all as recorded"),
        "{restored}"
    );
    // A superuser's backup holds what could not be read; the rest is in none.
    home.reconfigure("user=lifeboat_backup", "user=postgres");
    assert_eq!(omitted(&home), &expected[2..]);
    // What is over is over.
    source.psql("d", "ROLLBACK PREPARED 'gid 1'; DROP INDEX broken; SELECT pg_drop_replication_slot('feed'); DROP FUNCTION pg_catalog.own_function(); ALTER ROLE ALL RESET work_mem");
    // Backups of one second have no order of their own.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert!(omitted(&home).is_empty());
    assert!(!home.run(&["status"]).stdout.contains("not in the newest backup"));
    source.psql("d", "ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s");
}

#[test]
fn rows_that_a_standby_does_not_have_are_named_and_no_difference() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE DATABASE d");
    source.psql(
        "d",
        "CREATE UNLOGGED TABLE u AS SELECT i FROM generate_series(1, 100) i; CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i",
    );
    let standby = source.standby();
    let home = Home::of(&standby, "d");
    assert_eq!(omitted(&home), ["unlogged-rows public.u"]);
    let restored = home.restore(&target.conninfo("d")).ok().stdout;
    assert!(
        restored.contains("rows of unlogged table public.u")
            && restored.contains("all as recorded"),
        "{restored}"
    );
    assert_eq!(
        target.psql("d", "SELECT (SELECT count(*) FROM u), (SELECT count(*) FROM t)"),
        "0|100"
    );
}

#[test]
fn what_pg_dump_warns_of_is_kept() {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", "CREATE TABLE a (i int PRIMARY KEY, b int); CREATE TABLE b (i int PRIMARY KEY, a int REFERENCES a); ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b");
    let home = Home::of(&source, "d");
    wrap_pg_dump(
        &home,
        "echo 'pg_dump: warning: something was passed over' >&2; exec $real \"$@\"",
    );
    assert_eq!(omitted(&home), ["warning something was passed over"]);
}

#[test]
fn a_drill_of_less_than_there_was_does_not_pass_unless_it_is_accepted_by_name() {
    let r = Rehearsal::new();
    r.source.psql("postgres", "ALTER ROLE ALL SET work_mem = '5MB'");
    r.home.run(&["backup", "db"]).ok();
    r.script("");
    let report = r.report(8);
    assert_eq!(report["verdict"], "FAIL", "{report:#}");
    assert!(
        report["reasons"][0]
            .as_str()
            .unwrap()
            .contains("1 things that the database held are not in the backup"),
        "{report:#}"
    );
    r.script("accept_omitted = [\"setting of all roles work_mem\"]");
    assert_eq!(r.report(0)["verdict"], "PASS");
    // Accepting another thing accepts nothing.
    r.script("accept_omitted = [\"setting of all roles temp_buffers\"]");
    assert_eq!(r.report(8)["verdict"], "FAIL");
}

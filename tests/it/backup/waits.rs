//! Waits are bounded, whatever is waited for, and whoever holds it is named; who waits for the
//! backup is told of.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Cluster, Home, Major, eventually, wrap_pg_dump};

/// A session that runs a script and then keeps its transaction open.
struct Open(Child);

impl Open {
    fn new(cluster: &Cluster, script: &str) -> Self {
        use std::io::Write;
        let mut psql = Command::new("psql");
        psql.args(["-Xq", "-d", &cluster.conninfo("d")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut child = psql.spawn().unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "BEGIN; {script};").unwrap();
        Self(child)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn source() -> Cluster {
    let cluster = Cluster::start_with(Major::Debian15, &["max_prepared_transactions = 2"]);
    cluster.psql("postgres", "CREATE DATABASE d");
    cluster.psql("d", "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i; CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t; CREATE VIEW v AS SELECT * FROM m");
    cluster
}

fn is_held(cluster: &Cluster, relation: &str) {
    let question = format!(
        "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock' AND relation = '{relation}'::regclass"
    );
    eventually("it is held", || cluster.psql("d", &question) != "0");
}

#[test]
fn whatever_is_held_is_waited_for_no_longer_than_allowed_and_named_with_its_holder() {
    let cluster = source();
    let home = Home::of(&cluster, "d");
    {
        let _open = Open::new(&cluster, "REFRESH MATERIALIZED VIEW m");
        is_held(&cluster, "m");
        let begun = Instant::now();
        home.run(&["backup", "db"]).fails(
            6,
            &[
                "a lock was not given within 2s: public.m is held by session",
                "(postgres, psql, idle in transaction)",
            ],
        );
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    {
        let _open = Open::new(&cluster, "ALTER TABLE t ADD COLUMN x int");
        is_held(&cluster, "t");
        home.run(&["backup", "db"])
            .fails(6, &["a lock was not given within 2s: public.t is held by session", "psql"]);
    }
    cluster.psql("d", "BEGIN; ALTER TABLE t ADD COLUMN y int; PREPARE TRANSACTION 'forgotten'");
    home.run(&["backup", "db"]).fails(
        6,
        &["public.t is held by a prepared transaction that nobody has ended (forgotten)"],
    );
    cluster.psql("d", "ROLLBACK PREPARED 'forgotten'");
    home.run(&["backup", "db"]).ok();
}

#[test]
fn a_snapshot_lasts_no_longer_than_it_may_and_whoever_waits_for_it_is_told_of() {
    let cluster = source();
    let home = Home::new();
    home.add_datastore("db", &cluster.conninfo("d"), "snapshot_limit = \"3s\"");
    wrap_pg_dump(&home, "exec sleep 60");
    let begun = Instant::now();
    home.run(&["backup", "db"]).fails(
        6,
        &["has held its snapshot for longer than 3s, and was given up", "snapshot_limit"],
    );
    assert!(begun.elapsed() < Duration::from_secs(50));
    assert_eq!(home.run(&["list", "--json"]).ok().json(), serde_json::json!([]));
    // A dump that stands still until it was told that somebody waits.
    let home = Home::of(&cluster, "d");
    let done = home.path("done");
    wrap_pg_dump(
        &home,
        &format!("while [ ! -e {} ]; do sleep 0.1; done; exec $real \"$@\"", done.display()),
    );
    let backup = home.command(&["backup", "db"]).spawn().unwrap();
    eventually("the table is locked", || {
        cluster.psql("d", "SELECT count(*) FROM pg_locks WHERE mode = 'AccessShareLock' AND relation = 't'::regclass AND granted") != "0"
    });
    let _waiter = Open::new(&cluster, "ALTER TABLE t ADD COLUMN z int");
    std::thread::sleep(Duration::from_secs(14));
    std::fs::write(&done, "").unwrap();
    let out = crate::support::home::out(&backup.wait_with_output().unwrap());
    // pg_dump itself came too late, behind it in the queue: that ends as well.
    assert!(
        out.code == 12
            && out.stderr.contains("1 sessions have waited")
            && out.stderr.contains("such as that of public.t"),
        "{out:?}"
    );
}

#[test]
fn a_connection_limit_and_a_standby_say_what_they_are() {
    let (cluster, target) = (source(), Cluster::start());
    cluster.psql(
        "postgres",
        "CREATE ROLE narrow LOGIN CONNECTION LIMIT 1; GRANT pg_read_all_data TO narrow; GRANT SELECT ON pg_authid TO narrow",
    );
    let home = Home::new();
    home.add_datastore("db", &cluster.conninfo("d").replace("user=postgres", "user=narrow"), "");
    home.run(&["backup", "db"]).fails(6, &["too many connections for role \"narrow\""]);
    let home = Home::of(&cluster, "d");
    home.backup();
    let standby = target.standby();
    home.restore(&standby.conninfo("d"))
        .fails(2, &["it is a standby, which takes no writes; nothing was changed"]);
}

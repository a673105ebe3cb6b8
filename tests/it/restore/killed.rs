//! A restore that is killed, anywhere, and begun again ends where one that was left alone ends: in
//! the dump of its database, and in that of its roles.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};

use crate::support::{Cluster, EVERYTHING, Home, Major};

/// Kills of a restore of everything at moments that chance names.
const MOMENTS: usize = 20;

struct Scene {
    source: Cluster,
    homes: Vec<Home>,
    /// What an uninterrupted restore leaves, and how long it takes.
    whole: String,
    takes: Duration,
}

/// The dumps of the target's database and of its roles.
fn left_in(target: &Cluster) -> String {
    target.dump("everything", Major::Debian15) + &target.globals(Major::Debian15)
}

impl Scene {
    fn new() -> Self {
        let source = Cluster::start();
        source.psql("postgres", EVERYTHING);
        source.psql(
            "everything",
            "CREATE SUBSCRIPTION sleeping CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)",
        );
        let homes: Vec<Home> = [1, 3]
            .iter()
            .map(|jobs| {
                let home = Home::new();
                home.add_datastore("db", &source.conninfo("everything"), &format!("jobs = {jobs}"));
                home.backup();
                home
            })
            .collect();
        let target = Cluster::start();
        let begun = Instant::now();
        assert!(
            homes[0]
                .restore(&target.conninfo("everything"))
                .ok()
                .stdout
                .contains("all as recorded")
        );
        let takes = begun.elapsed();
        Self { source, homes, whole: left_in(&target), takes }
    }

    /// The same command once more ends where the uninterrupted one did.
    fn again(&self, home: &Home, target: &Cluster, what: &str) {
        let out = home.restore(&target.conninfo("everything"));
        // Killed behind its last statement it was done.
        let was_done = out.code == 2 && out.stderr.contains("is not empty");
        assert!(
            was_done || (out.code == 0 && out.stdout.contains("all as recorded")),
            "{what}: {out:?}"
        );
        let (left, whole) = (left_in(target), &self.whole);
        let first = left.lines().zip(whole.lines()).find(|(one, other)| one != other);
        assert!(
            left == *whole,
            "{what}: {} and {} lines; the first that differ: {first:?}",
            left.lines().count(),
            whole.lines().count()
        );
    }
}

#[test]
fn killed_at_every_failpoint_it_ends_where_it_would_have_ended() {
    let scene = Scene::new();
    assert!(
        scene.whole.contains("owner_two")
            && scene.source.psql("everything", "SELECT count(*) FROM pg_subscription") == "1"
    );
    // Of these two each has its own test.
    let elsewhere = ["restore-tablespace", "restore-swapped"];
    for place in lifeboat::failpoint::OF_RESTORES
        .iter()
        .filter(|place| place.starts_with("restore-") && !elsewhere.contains(place))
    {
        let (target, home) = (Cluster::start(), &scene.homes[place.len() % 2]);
        let arguments =
            ["restore", "db", "--to", &target.conninfo("everything"), "--yes", "--check"];
        home.run_with(&[("LIFEBOAT_FAILPOINT", place)], &arguments).fails(137, &[]);
        scene.again(home, &target, place);
    }
}

#[test]
fn killed_at_any_moment_it_ends_where_it_would_have_ended() {
    let scene = Scene::new();
    let seed = std::env::var("LIFEBOAT_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    let mut chance = rand::rngs::StdRng::seed_from_u64(seed);
    for number in 0..MOMENTS {
        let (target, home) = (Cluster::start(), &scene.homes[number % 2]);
        let mut restore = home.command(&[
            "restore",
            "db",
            "--to",
            &target.conninfo("everything"),
            "--yes",
            "--check",
        ]);
        let mut running = restore.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moment = scene.takes.mul_f64(chance.random_range(0.05..1.0));
        std::thread::sleep(moment);
        running.kill().unwrap();
        running.wait().unwrap();
        scene.again(
            home,
            &target,
            &format!("kill {number} after {moment:?} of {:?}, seed {seed}", scene.takes),
        );
    }
}

/// What has the name by then is what was restored: the same command takes its mark away, and trades
/// nothing once more.
#[test]
fn killed_behind_the_trade_of_names_the_same_command_ends_it() {
    let (source, target) = (Cluster::start(), Cluster::start());
    for cluster in [&source, &target] {
        cluster.psql("postgres", "CREATE DATABASE d");
        cluster.psql("d", "CREATE TABLE t (i int); INSERT INTO t VALUES (1)");
    }
    let home = Home::of(&source, "d");
    home.backup();
    let to = target.conninfo("d");
    let arguments = ["restore", "db", "--to", &to, "--swap", "--yes", "--check"];
    home.run_with(&[("LIFEBOAT_FAILPOINT", "restore-swapped")], &arguments).fails(137, &[]);
    let databases =
        "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE 'd%'";
    let after = target.psql("postgres", databases);
    assert!(after.starts_with("d d_before_"), "{after}");
    home.run(&arguments).ok();
    assert_eq!(target.psql("postgres", databases), after);
    let comment = "SELECT coalesce(shobj_description(oid, 'pg_database'), 'none') FROM pg_database WHERE datname = 'd'";
    assert_eq!(target.psql("postgres", comment), "none");
}

/// A script is sent statement by statement, so what makes something can have arrived without what
/// follows it.
#[test]
fn what_was_made_without_the_rest_of_its_entry_gets_the_rest() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE DATABASE d");
    source.psql(
        "d",
        "CREATE TABLE t (i int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE INDEX other ON t (i); ALTER TABLE t CLUSTER ON other;
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER off AFTER INSERT ON t EXECUTE FUNCTION f();
         ALTER TABLE t DISABLE TRIGGER off; CREATE RULE quiet AS ON UPDATE TO t DO ALSO NOTHING; ALTER TABLE t ENABLE ALWAYS RULE quiet;
         CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER never ON ddl_command_end EXECUTE FUNCTION e();
         ALTER EVENT TRIGGER never DISABLE",
    );
    let home = Home::of(&source, "d");
    home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", Major::V18.bin().display()));
    home.backup();
    let arguments = ["restore", "db", "--to", &target.conninfo("d"), "--yes", "--check"];
    home.run_with(&[("LIFEBOAT_FAILPOINT", "restore-indexes")], &arguments).fails(137, &[]);
    let cut = "ALTER TABLE t ENABLE TRIGGER off; ALTER TABLE t SET WITHOUT CLUSTER; ALTER TABLE t ENABLE RULE quiet; ALTER EVENT TRIGGER never ENABLE";
    target.psql("d", cut);
    assert_ne!(target.dump("d", Major::Debian15), source.dump("d", Major::Debian15));
    // As if it had died within the indexes.
    let read = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'd'";
    let mark = target.psql("postgres", read).replace(",indexes", "").replace("=indexes,", "=");
    target.psql("postgres", &format!("COMMENT ON DATABASE d IS '{mark}'"));
    home.run(&arguments).ok();
    assert_eq!(target.dump("d", Major::Debian15), source.dump("d", Major::Debian15));
}

#[test]
fn a_tablespace_that_was_half_made_is_this_restores_own() {
    let (source, target) = (Cluster::start(), Cluster::start());
    let directory = |cluster: &Cluster, name: &str| {
        let path = cluster.data().parent().unwrap().join(name);
        std::fs::create_dir(&path).unwrap();
        assert!(
            std::process::Command::new("chown")
                .arg("--reference")
                .arg(cluster.data())
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        path.display().to_string()
    };
    let (fast, wide, here) =
        (directory(&source, "fast"), directory(&source, "wide"), directory(&target, "fast"));
    source.psql(
        "postgres",
        &format!("CREATE ROLE o; CREATE ROLE r; CREATE TABLESPACE fast OWNER o LOCATION '{fast}'"),
    );
    source.psql("postgres", &format!("CREATE TABLESPACE \"wide, one\" LOCATION '{wide}'"));
    source.psql("postgres", "GRANT CREATE ON TABLESPACE fast TO r; COMMENT ON TABLESPACE fast IS 'words'; CREATE DATABASE everything");
    source.psql(
        "everything",
        "CREATE TABLE t (i int) TABLESPACE fast; CREATE TABLE u (i int) TABLESPACE \"wide, one\"; INSERT INTO u VALUES (1)",
    );
    let home = Home::of(&source, "everything");
    home.backup();
    let map = format!("fast={here}");
    let to = target.conninfo("everything");
    let arguments = ["restore", "db", "--to", &to, "--tablespace", &map, "--yes", "--check"];
    home.run_with(&[("LIFEBOAT_FAILPOINT", "restore-tablespace")], &arguments).fails(137, &[]);
    let facts = "SELECT spcname, spcowner::regrole, spcacl::text, shobj_description(oid, 'pg_tablespace') FROM pg_tablespace WHERE spcname = 'fast'";
    assert_ne!(
        source.psql("postgres", facts),
        target.psql("postgres", facts),
        "that is what this is about"
    );
    let out = home.run(&arguments).ok();
    assert!(
        out.stdout.contains("tablespace left out, its tables are in the default one: wide, one"),
        "{}",
        out.stdout
    );
    assert_eq!(source.psql("postgres", facts), target.psql("postgres", facts));
    // One that is missing takes nothing along with it.
    let place = "SELECT relname, COALESCE(spcname, 'default') FROM pg_class c LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE relname IN ('t', 'u') ORDER BY 1";
    assert_eq!(target.psql("everything", place), "t|fast\nu|default");
}

//! Faults on the way: each leaves the whole backup or none, nothing half-finished, and an exit code
//! of the table.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::disks::SmallDisk;
use crate::support::home::out;
use crate::support::{Cluster, Home, Out, eventually, files, wrap_pg_dump};

fn filled(rows: usize) -> Cluster {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d");
    cluster.psql("d", &format!("CREATE TABLE t (id int, x text); INSERT INTO t SELECT i, md5(i::text) || md5((-i)::text) FROM generate_series(1, {rows}) i; CREATE TABLE u (x int); INSERT INTO u VALUES (1)"));
    cluster
}

/// No manifest, no payload, no upload under way.
#[track_caller]
fn nothing_is_left(home: &Home) {
    let left: Vec<_> =
        files(&home.vault()).into_iter().filter(|f| !f.ends_with("vault.json")).collect();
    assert!(left.is_empty(), "{left:?}");
    home.run(&["sweep", "--older-than", "0s"]).ok();
    assert_eq!(home.run(&["list", "--json"]).ok().json(), serde_json::json!([]));
}

#[test]
fn a_truncated_dump_is_never_finalised_when_pg_dump_fails_late() {
    let cluster = filled(50_000);
    let home = Home::of(&cluster, "d");
    // The whole archive, then a failure: only the exit status tells.
    wrap_pg_dump(&home, "$real \"$@\"; echo 'disk on fire' >&2; exit 1");
    home.run(&["backup", "db"])
        .fails(12, &["reading datastore db failed", "pg_dump exited with 1: disk on fire"]);
    nothing_is_left(&home);
}

#[test]
fn a_dump_cut_short_with_exit_0_is_noticed() {
    let cluster = filled(50_000);
    for bytes in [3, 1000, 100_000] {
        let home = Home::of(&cluster, "d");
        wrap_pg_dump(&home, &format!("$real \"$@\" | head -c {bytes}; exit 0"));
        home.run(&["backup", "db"]).fails(12, &["the archive ends in the middle of"]);
        nothing_is_left(&home);
    }
}

#[test]
fn pg_dump_killed_in_mid_stream_leaves_nothing() {
    let cluster = filled(200_000);
    let home = Home::of(&cluster, "d");
    wrap_pg_dump(&home, "$real \"$@\" | head -c 3000000\nkill -9 $$");
    home.run(&["backup", "db"]).fails(12, &["pg_dump was killed by signal 9"]);
    nothing_is_left(&home);
}

#[test]
fn a_server_stopped_in_mid_dump_leaves_nothing() {
    let cluster = filled(200_000);
    let home = Home::of(&cluster, "d");
    let marker = home.path("stop");
    wrap_pg_dump(
        &home,
        &format!(
            "$real \"$@\" | (head -c 3000000; touch {0}.half; while [ ! -e {0} ]; do sleep 0.05; done; cat); exit ${{PIPESTATUS[0]}}",
            marker.display()
        ),
    );
    let child = spawn(home.command(&["backup", "db"]));
    eventually("half of the dump", || home.path("stop.half").exists());
    cluster.stop("immediate");
    std::fs::write(&marker, "").unwrap();
    let out = wait(child);
    assert!(out.code == 12 || out.code == 6, "{out:?}");
    assert!(out.stderr.contains("pg_dump exited with"), "{}", out.stderr);
    nothing_is_left(&home);
}

fn spawn(mut command: Command) -> Child {
    command.spawn().unwrap()
}

fn wait(child: Child) -> Out {
    out(&child.wait_with_output().unwrap())
}

#[test]
fn killed_at_every_failpoint_the_next_run_succeeds_and_sweep_removes_the_leavings() {
    let cluster = filled(20_000);
    for (number, name) in lifeboat::failpoint::ALL.iter().enumerate() {
        let home = Home::of(&cluster, "d");
        let killed = home.run_with(&[("LIFEBOAT_FAILPOINT", name)], &["backup", "db"]);
        assert_eq!(killed.code, 128 + 9, "{name}: {killed:?}");
        let published = home.run(&["list", "--json"]).ok().json().as_array().unwrap().len();
        assert_eq!(
            published,
            usize::from(*name == "manifest-written" || *name == "catalog-written"),
            "{name}"
        );
        // Whatever is listed is whole.
        if published == 1 {
            home.run(&["verify", "--all"]).ok();
        }
        home.backup();
        let found = home.run(&["sweep", "--older-than", "0s"]);
        // From the first upload to the manifest something is left; before and after, nothing.
        assert_eq!(found.code, if (1..=6).contains(&number) { 10 } else { 0 }, "{name}: {found:?}");
        home.run(&["sweep", "--older-than", "0s", "--confirm"]).ok();
        home.run(&["sweep", "--older-than", "0s"]).ok();
        assert_eq!(
            home.run(&["list", "--json"]).ok().json().as_array().unwrap().len(),
            published + 1,
            "{name}"
        );
        home.run(&["verify", "--all"]).ok();
    }
}

/// Runs a backup that stops between listing and locking until `change` was made.
fn change_between_listing_and_locking(cluster: &Cluster, change: &str) -> (Home, Out) {
    let home = Home::of(cluster, "d");
    let file = home.path("go");
    let mut command = home.command(&["backup", "db"]);
    command.env("LIFEBOAT_WAITPOINT", format!("snapshot-listed={}", file.display()));
    let child = spawn(command);
    eventually("the tables to be listed", || home.path("go.reached").exists());
    cluster.psql("d", change);
    std::fs::write(&file, "").unwrap();
    let out = wait(child);
    (home, out)
}

#[test]
fn a_table_truncated_altered_or_dropped_between_listing_and_dump_is_never_lost_silently() {
    // Each change commits before the locks, so the backup must show the world after it,
    // consistently.
    let changes = [
        ("TRUNCATE t", 0),
        ("TRUNCATE t; INSERT INTO t VALUES (7, 'new')", 1),
        ("ALTER TABLE t ALTER id TYPE bigint", 1000),
        ("DROP TABLE u", 1000),
        ("ALTER TABLE u RENAME TO v", 1000),
        ("DROP TABLE u; CREATE TABLE u (x int); INSERT INTO u VALUES (5), (6)", 1000),
        ("CREATE TABLE w (x int); INSERT INTO w VALUES (1)", 1000),
    ];
    for (change, rows) in changes {
        let (source, target) = (filled(1000), Cluster::start());
        let (home, run) = change_between_listing_and_locking(&source, change);
        run.ok();
        home.restore(&target.conninfo("d")).ok();
        assert_eq!(target.psql("d", "SELECT count(*) FROM t"), rows.to_string(), "{change}");
        let list = "SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        assert_eq!(source.psql("d", list), target.psql("d", list), "{change}");
    }
}

#[test]
fn a_truncate_during_the_dump_waits_for_it() {
    let cluster = filled(1000);
    let home = Home::of(&cluster, "d");
    let (go, conninfo) = (home.path("go"), cluster.conninfo("d"));
    wrap_pg_dump(
        &home,
        &format!(
            "touch {0}.reached; while [ ! -e {0} ]; do sleep 0.05; done; exec $real \"$@\"",
            go.display()
        ),
    );
    let child = spawn(home.command(&["backup", "db"]));
    eventually("pg_dump to be started", || home.path("go.reached").exists());
    // The snapshot is exported and pg_dump has not locked anything yet: the very gap that loses
    // data elsewhere.
    let refused = Command::new("psql")
        .args(["-X", "-d", &conninfo, "-c", "SET lock_timeout = '300ms'", "-c", "TRUNCATE t"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lock timeout"), "{refused:?}");
    std::fs::write(&go, "").unwrap();
    wait(child).ok();
    assert_eq!(home.run(&["verify", "--all", "--json"]).ok().json()[0]["comparison"]["rows"], 1001);
}

#[test]
fn a_server_that_ends_idle_sessions_does_not_take_the_locks_away() {
    let cluster = Cluster::start_with(
        crate::support::Major::Debian15,
        &["idle_in_transaction_session_timeout = '300ms'", "idle_session_timeout = '300ms'"],
    );
    cluster.psql("postgres", "CREATE DATABASE d");
    cluster.psql("d", "CREATE TABLE t AS SELECT 1 AS x");
    let home = Home::of(&cluster, "d");
    wrap_pg_dump(&home, "sleep 1.5; exec $real \"$@\"");
    home.backup();
}

#[test]
fn a_queued_exclusive_lock_is_waited_for_only_so_long_and_blocks_nobody_else() {
    let cluster = filled(1000);
    let home = Home::of(&cluster, "d");
    let conninfo = cluster.conninfo("d");
    let session = |script: &str| {
        Command::new("psql")
            .args(["-X", "-d", &conninfo, "-c", script])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let waiting = |mode: &str| {
        cluster.psql("d", &format!("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = '{mode}Lock' AND NOT granted"))
            != "0"
    };
    // One session reads for long; a migration queues behind it; the backup would queue behind the
    // migration.
    let mut reader = session("BEGIN; SELECT count(*) FROM t; SELECT pg_sleep(120)");
    eventually("the reader", || {
        cluster
            .psql("d", "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND granted")
            != "0"
    });
    let mut migration = session("ALTER TABLE t ADD COLUMN y int");
    eventually("the migration to queue", || waiting("AccessExclusive"));
    let begun = Instant::now();
    home.run(&["backup", "db"])
        .fails(6, &["a lock was not given within 2s: public.", "what next:"]);
    assert!(begun.elapsed() < Duration::from_secs(30));
    // Nothing of ours waits or holds anything now.
    assert_eq!(
        cluster
            .psql("d", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lifeboat'"),
        "0"
    );
    nothing_is_left(&home);
    reader.kill().unwrap();
    reader.wait().unwrap();
    cluster.psql("d", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()");
    migration.wait().unwrap();
    home.backup();
}

#[test]
fn a_full_disk_leaves_no_backup_and_says_so() {
    let cluster = filled(200_000);
    let home = Home::of(&cluster, "d");
    let disk = SmallDisk::mount(&home.path("small"), 3);
    crate::support::home::copy_tree(&home.vault(), &disk.0.join("vault"));
    home.reconfigure("directory = \"vault\"", "directory = \"small/vault\"");
    home.run(&["backup", "db"]).fails(
        6,
        &["the vault is not available", "No space left on device", "run the command again"],
    );
    home.run(&["sweep", "--older-than", "0s"]).ok();
    assert_eq!(files(&disk.0).len(), 1, "only vault.json is left");
}

#[test]
fn without_pg_dump_the_message_says_where_it_was_looked_for() {
    let cluster = filled(10);
    let home = Home::of(&cluster, "d");
    std::fs::create_dir(home.path("nothing")).unwrap();
    home.configure("[postgres]\npg_bin = \"nothing\"\n");
    home.run(&["backup", "db"])
        .fails(2, &["no pg_dump of version", "/nothing; found none", "postgresql-client"]);
}

#[test]
fn ctrl_c_aborts_uploads_and_exits_130() {
    let cluster = filled(700_000);
    let home = Home::of(&cluster, "d");
    wrap_pg_dump(
        &home,
        &format!(
            "$real \"$@\" | (head -c 40000000; touch {}; sleep 60; cat)",
            home.path("half").display()
        ),
    );
    let mut command = home.command(&["backup", "db"]);
    command.process_group(0);
    let child = spawn(command);
    let pid = rustix::process::Pid::from_child(&child);
    eventually("half of the dump", || home.path("half").exists());
    eventually("an upload", || !files(&home.vault().join(".unfinished")).is_empty());
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let begun = Instant::now();
    wait(child).fails(130, &["interrupted"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    nothing_is_left(&home);
}

#[test]
fn two_runs_of_one_datastore_do_not_overlap() {
    let cluster = filled(700_000);
    let home = Home::of(&cluster, "d");
    wrap_pg_dump(
        &home,
        &format!(
            "$real \"$@\" | (head -c 40000000; touch {0}.reached; while [ ! -e {0} ]; do sleep 0.05; done; cat)",
            home.path("go").display()
        ),
    );
    let child = spawn(home.command(&["backup", "db"]));
    eventually("the first run", || home.path("go.reached").exists());
    eventually("an upload", || !files(&home.vault().join(".unfinished")).is_empty());
    home.run(&["backup", "db"])
        .fails(4, &["a backup is already running for datastore db", "nothing was changed"]);
    // What is being written is not swept.
    let sweep = home.run(&["sweep", "--older-than", "0s"]);
    assert!(sweep.stderr.contains("a run is under way"), "{sweep:?}");
    std::fs::write(home.path("go"), "").unwrap();
    wait(child).ok();
}

#[test]
fn globals_that_change_during_the_dump_are_read_again() {
    let (cluster, target) = (filled(1000), Cluster::start());
    let home = Home::of(&cluster, "d");
    wrap_pg_dump(
        &home,
        &format!(
            "psql -X -q -d \"{}\" -c 'CREATE ROLE latecomer' >&2; exec $real \"$@\"",
            cluster.conninfo("d")
        ),
    );
    home.backup();
    home.restore(&target.conninfo("d")).ok();
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'latecomer'"),
        "1"
    );
}

#[test]
fn a_restore_that_fails_half_way_says_what_state_the_target_is_in() {
    let (source, target) = (filled(1000), Cluster::start());
    let home = Home::of(&source, "d");
    source.psql(
        "d",
        "CREATE FUNCTION f(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 < 1000000'; ALTER TABLE t ADD CHECK (f(id))",
    );
    home.backup();
    // The rows do not fit the check any more: a function that the restore cannot know about.
    target.psql("postgres", "CREATE DATABASE d; ");
    target.psql(
        "d",
        "CREATE FUNCTION public.f(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false'",
    );
    let failed = home
        .run(&[
            "restore",
            "db",
            "--to",
            &target.conninfo("d"),
            "--yes",
            "--into-database-with-tables",
        ])
        .fails(
            13,
            &[
                "pre-data section failed",
                "state of the target:",
                "To start over:",
                "The backup is untouched",
            ],
        );
    assert!(failed.stderr.contains("already exists"), "{}", failed.stderr);
    home.restore(&target.conninfo("d2")).ok();
}

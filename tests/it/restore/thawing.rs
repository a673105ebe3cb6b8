//! Backups in archive classes: quoted, asked for, waited for, upgraded, expired, restored.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::home::out;
use crate::support::{Cluster, Home, eventually};

/// A database in a vault whose payloads are cold. Hours pass so many times faster.
fn cold(class: &str, speed: u32) -> (Cluster, Home, String) {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source
        .psql("d", "CREATE TABLE t AS SELECT i, md5(i::text) AS text FROM generate_series(1, 20000) i; ALTER TABLE t ADD PRIMARY KEY (i)");
    let home = Home::of(&source, "d");
    home.reconfigure(
        "directory = \"vault\"",
        &format!("directory = \"vault\"\nstorage_class = \"{class}\"\ncold_speed = {speed}"),
    );
    let backup = home.backup();
    (source, home, backup)
}

#[test]
fn a_frozen_backup_is_quoted_thawed_and_restored_by_one_command() {
    let (source, home, backup) = cold("GLACIER", 7200);
    let to = source.conninfo("back");
    let plan = home.run(&["restore", "db", "--to", &to, "--plan"]).ok();
    for words in [
        "thaw     2 objects",
        "Glacier Flexible Retrieval",
        "* expedited within 5 min 0 s",
        "standard  within 5 h 0 min",
        "bulk      within 12 h 0 min",
        "1. thaw 2 objects by expedited retrieval, for 1 days",
        "opens    with key slot local",
    ] {
        assert!(plan.stdout.contains(words), "{words}: {}", plan.stdout);
    }
    // With time to spare the cheaper one is taken.
    home.reconfigure("lock_wait = \"2s\"", "rto = \"24h\"\nlock_wait = \"2s\"");
    let plan = home.run(&["restore", "db", "--to", &to, "--plan"]).ok();
    assert!(plan.stdout.contains("* bulk"), "{}", plan.stdout);
    home.run(&["verify", &backup])
        .fails(6, &["must be thawed before it can be read", "lifeboat thaw"]);
    home.run(&["restore", "db", "--to", home.path("out").to_str().unwrap()])
        .fails(2, &["2 objects must be thawed first", "--yes"]);
    let begun = Instant::now();
    home.run(&["restore", "db", "--to", &to, "--tier", "standard", "--yes", "--check"]).ok();
    assert!(begun.elapsed() > Duration::from_millis(2_400), "five hours at that speed");
    assert_eq!(source.psql("back", "SELECT count(*) FROM t"), "20000");
    let shown = home.run(&["evidence", "show", "1"]).ok();
    let seconds = shown
        .stdout
        .lines()
        .find_map(|line| line.trim().strip_prefix("\"thaw_seconds\": "))
        .unwrap()
        .trim_end_matches(',');
    assert!(seconds.parse::<f64>().unwrap() > 2.0, "{}", shown.stdout);
}

#[test]
fn a_thaw_goes_on_whatever_happens_to_whoever_asked_for_it() {
    let (source, home, backup) = cold("GLACIER", 3600);
    // Nothing is asked for without a word.
    home.run(&["thaw", "db"]).ok();
    let list = home.run(&["thaw", "list"]).ok();
    assert!(list.stderr.contains("nothing is thawed or on its way"), "{list:?}");
    home.run(&["thaw", "wait", &backup])
        .fails(2, &["nobody has asked for 2 of its objects", "lifeboat thaw resume"]);
    let asked = home.run(&["thaw", &backup, "--tier", "standard", "--confirm"]).ok();
    assert!(
        asked.stdout.contains("standard does not keep the RTO, expedited would"),
        "{}",
        asked.stdout
    );
    assert!(
        asked.stdout.contains("* standard") && asked.stderr.contains("lifeboat thaw wait"),
        "{asked:?}"
    );
    let rows = home.run(&["thaw", "list", "--json"]).ok().json();
    assert_eq!(
        (rows[0]["under_way"].as_u64(), rows[0]["tier"].as_str()),
        (Some(2), Some("standard")),
        "{rows:#}"
    );
    // Killed while it waits, and the catalog lost: the store knows.
    let mut command = home.command(&[
        "restore",
        "db",
        "--to",
        &source.conninfo("back"),
        "--tier",
        "standard",
        "--yes",
        "--check",
    ]);
    let waiting = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    kill_process(Pid::from_child(&waiting), Signal::INT).unwrap();
    out(&waiting.wait_with_output().unwrap())
        .fails(130, &["what was asked for goes on in the store"]);
    std::fs::remove_file(home.path("catalog.db")).unwrap();
    home.run(&["thaw", "wait", &backup]).ok();
    let rows = home.run(&["thaw", "list", "--json"]).ok().json();
    assert_eq!((rows[0]["ready"].as_u64(), rows[0]["tier"].as_str()), (Some(2), None), "{rows:#}");
    home.restore(&source.conninfo("back")).ok();
    // The copies go away; then all begins again.
    eventually("the copies are gone", || {
        home.run(&["thaw", "list", "--json"]).ok().stdout.trim() == "[]"
    });
    home.run(&["thaw", "resume", &backup]).ok();
}

/// Drills rehearse it with the same code: without a word about it they warn and fail.
#[test]
fn a_drill_rehearses_a_thaw() {
    let (_source, home, _) = cold("GLACIER", 3600);
    std::fs::create_dir_all(home.path("drills")).unwrap();
    std::fs::create_dir_all(home.path("restore")).unwrap();
    std::fs::write(home.path("restore/db.toml"), "[[restore]]\ndatastore = \"db\"\n").unwrap();
    let script = |thaw: &str| {
        let text =
            format!("plan = \"db\"\n{thaw}\n[[checks]]\nkind = \"fingerprint\"\nname = \"all\"\n");
        std::fs::write(home.path("drills/cold.toml"), text).unwrap();
    };
    script("");
    let failed = home
        .run(&["drill", "cold"])
        .fails(8, &["must be thawed before they can be read", "thaw = \"expedited\" in the drill"]);
    assert!(failed.stderr.contains("Glacier Flexible Retrieval"), "{}", failed.stderr);
    script("thaw = \"standard\"");
    let passed = home.run(&["drill", "cold"]).ok();
    assert!(passed.stdout.contains("PASS"), "{}", passed.stdout);
}

#[test]
fn a_request_is_made_faster_and_one_that_is_refused_takes_the_next_tier() {
    let (_source, home, backup) = cold("GLACIER", 600);
    home.run(&["thaw", "db", "--tier", "bulk", "--confirm"]).ok();
    // Twelve hours are over a minute at this speed; five minutes are half a second.
    let begun = Instant::now();
    home.run(&["thaw", "db", "--tier", "expedited", "--confirm"]).ok();
    home.run(&["thaw", "wait", &backup]).ok();
    assert!(begun.elapsed() < Duration::from_secs(40), "the request was upgraded");
    let (_source, home, backup) = cold("GLACIER", 7200);
    std::fs::create_dir_all(home.vault().join(".cold")).unwrap();
    std::fs::write(home.vault().join(".cold/no-capacity"), "").unwrap();
    let asked = home.run(&["thaw", "db", "--tier", "expedited", "--confirm"]).ok();
    assert!(
        asked.stderr.contains("no capacity for expedited retrieval; standard is asked for instead"),
        "{asked:?}"
    );
    home.run(&["thaw", "wait", &backup]).ok();
    home.run(&["thaw", "db", "--tier", "slow"]).fails(2, &["is no retrieval tier"]);
    let (_source, home, _) = cold("DEEP_ARCHIVE", 7200);
    home.run(&["thaw", "db", "--tier", "expedited"])
        .fails(2, &["Glacier Deep Archive has no such retrieval", "--tier standard"]);
}

/// A copy that goes away before the load is over is not begun with; one that goes away all the same
/// is an error that says what to do.
#[test]
fn a_restore_does_not_begin_with_copies_that_it_would_outlive() {
    let (source, home, _) = cold("GLACIER", 43_200);
    // Too much to be read ahead while nobody asks for more.
    source.psql("d", "CREATE TABLE much AS SELECT i, (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 40) j) AS text FROM generate_series(1, 90000) i");
    let backup = home.backup();
    let to = source.conninfo("back");
    // A day is two seconds at this speed, and nothing was measured: 118 MB may take half a minute.
    let refused =
        home.run(&["restore", "db", "--to", &to, "--tier", "expedited", "--days", "1", "--yes"]);
    refused.fails(
        2,
        &[
            "its thawed copies go away at",
            "nothing was changed",
            &format!("lifeboat thaw {backup} --days"),
        ],
    );
    assert_eq!(
        source.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'back'"),
        "0"
    );
    let waitpoint = format!("restore-schema={}", home.path("go").display());
    let mut command = home.command(&[
        "restore",
        "db",
        "--to",
        &to,
        "--tier",
        "expedited",
        "--days",
        "16",
        "--yes",
    ]);
    let child = command.env("LIFEBOAT_WAITPOINT", waitpoint).spawn().unwrap();
    eventually("it is at work", || home.path("go.reached").exists());
    eventually("the copies are gone", || {
        home.run(&["thaw", "list", "--json"]).ok().stdout.trim() == "[]"
    });
    std::fs::write(home.path("go"), "").unwrap();
    out(&child.wait_with_output().unwrap())
        .fails(6, &["must be thawed before it can be read", "The same command goes on from here"]);
    // And it does: what was loaded by then is begun again, behind a new thaw.
    home.run(&[
        "restore",
        "db",
        "--to",
        &to,
        "--tier",
        "expedited",
        "--days",
        "60",
        "--yes",
        "--check",
    ])
    .ok();
    assert_eq!(source.psql("back", "SELECT count(*) FROM much"), "90000");
}

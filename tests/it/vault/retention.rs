//! Retention on real vaults: what is shown, what goes, what never goes, and what a removal leaves
//! on record.

use serde_json::Value;

use crate::support::home::out;
use crate::support::{Cluster, Home, Rehearsal, files};

fn small() -> Cluster {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    source
}

fn keep(home: &Home, rules: &str) {
    std::fs::create_dir_all(home.path("schedules")).unwrap();
    std::fs::write(
        home.path("schedules/nightly.toml"),
        format!("cron = \"30 2 * * *\"\n[keep]\n{rules}\n"),
    )
    .unwrap();
}

fn listed(home: &Home) -> Vec<String> {
    let all = home.run(&["list", "db", "--json"]).ok().json();
    all.as_array()
        .unwrap()
        .iter()
        .map(|backup| backup["backup"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn prune_shows_first_acts_when_confirmed_and_leaves_a_signed_record_and_no_gap() {
    let source = small();
    let home = Home::of(&source, "d");
    let all: Vec<String> = (0..4).map(|_| home.backup()).collect();
    // Nothing says how long: everything stays.
    let shown = home.run(&["prune"]).ok();
    assert!(
        shown.stdout.contains("no schedule says how long") && !shown.stdout.contains("remove"),
        "{shown:?}"
    );
    keep(&home, "daily = 1\nat_least = 1");
    let shown = home.run(&["prune", "db"]).ok();
    assert_eq!(shown.stdout.matches(" remove").count(), 3, "{shown:?}");
    assert!(
        shown.stdout.contains("daily 1 of 1, one of the newest 1")
            && shown.stdout.contains("no rule keeps it"),
        "{shown:?}"
    );
    assert!(
        shown.stderr.contains("3 backups would be removed; --confirm removes them"),
        "{shown:?}"
    );
    assert_eq!(listed(&home).len(), 4, "showing removes nothing");
    home.run(&["prune", "dbb"]).fails(2, &["did you mean db?"]);
    // One of them is held.
    home.run(&["hold", &all[1], "--reason", "incident 17"]).ok();
    let shown = home.run(&["prune", "--json"]).ok().json();
    let held = shown[0]["plan"]["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["backup"] == all[1].as_str())
        .unwrap();
    assert_eq!(
        (&held["keep"], &held["reasons"][0]),
        (&Value::from(true), &Value::from("held: incident 17"))
    );
    let done = home.run(&["prune", "--confirm"]).ok();
    assert!(done.stdout.contains("db: removed 2 backups"), "{done:?}");
    assert_eq!(listed(&home), [all[1].clone(), all[3].clone()]);
    for gone in [&all[0], &all[2]] {
        assert!(
            !files(&home.vault()).iter().any(|file| file.to_str().unwrap().contains(gone.as_str())),
            "{gone}"
        );
    }
    // The numbers 1 and 3 are explained by the record: nobody is warned of a gap, and sweep finds
    // nothing lost.
    let target = Cluster::start();
    let restored = home.restore(&target.conninfo("back")).ok();
    assert!(!restored.stderr.contains("missing from the vault"), "{restored:?}");
    let swept = home.run(&["sweep", "--older-than", "0s"]).ok();
    assert!(!swept.stderr.contains("its manifest is gone"), "{swept:?}");
    home.run(&["evidence", "verify"]).ok();
    let record = home.run(&["evidence", "show", "2", "--json"]).ok().json();
    assert_eq!(record["body"]["kind"], "removed", "{record:#}");
    assert_eq!(record["body"]["of"]["backups"].as_array().unwrap().len(), 2);
    home.run(&["release", &all[1]]).ok();
    home.run(&["prune", "--confirm"]).ok();
    assert_eq!(listed(&home), [all[3].clone()]);
    home.run(&["hold", "20200101T000000Z-AAAAAA", "--reason", "x"])
        .fails(3, &["20200101T000000Z-AAAAAA"]);
    // Without the record the gap is told.
    std::fs::remove_dir_all(home.vault().join("evidence")).unwrap();
    home.backup();
    home.backup();
    let all = listed(&home);
    std::fs::remove_file(home.manifest(&all[1])).unwrap();
    let target = Cluster::start();
    let restored = home.restore(&target.conninfo("back"));
    assert!(restored.stderr.contains("gone from the vault"), "{restored:?}");
}

#[test]
fn the_last_drilled_backup_is_never_removed_and_without_sound_evidence_nothing_is() {
    let r = Rehearsal::new();
    r.script("");
    r.report(0);
    let drilled = listed(&r.home)[0].clone();
    for _ in 0..3 {
        r.home.backup();
    }
    keep(&r.home, "daily = 1\nat_least = 1");
    let shown = r.home.run(&["prune", "--confirm"]).ok();
    assert!(shown.stdout.contains("the last one that a drill restored and passed"), "{shown:?}");
    assert_eq!(listed(&r.home).len(), 2);
    assert!(listed(&r.home).contains(&drilled));
    // A later drill that passes lets it go.
    r.report(0);
    r.home.backup();
    r.home.run(&["prune", "--confirm"]).ok();
    assert!(!listed(&r.home).contains(&drilled));
    // Somebody removed a report: nobody knows any more what was drilled.
    for name in ["00000004.json", "00000004.json.sig"] {
        std::fs::remove_file(r.home.vault().join("evidence").join(name)).unwrap();
    }
    let before = listed(&r.home);
    r.home.backup();
    r.home.run(&["prune", "--confirm"]).fails(2, &["evidence", "flaw", "nothing is removed"]);
    assert_eq!(listed(&r.home).len(), before.len() + 1);
}

#[test]
fn a_backup_that_is_being_read_stays_and_a_removal_that_was_cut_short_is_finished() {
    let r = Rehearsal::new();
    let old = listed(&r.home)[0].clone();
    r.script(&format!("backup = \"{old}\""));
    r.home.backup();
    keep(&r.home, "daily = 1\nat_least = 1");
    let (drill, go_on) = r.loaded_and_waiting();
    let shown = r.home.run(&["prune", "--confirm"]).ok();
    assert!(shown.stdout.contains("in use: a run of this host is reading it"), "{shown:?}");
    assert_eq!(listed(&r.home).len(), 2);
    std::fs::write(go_on, "").unwrap();
    let report = out(&drill.wait_with_output().unwrap());
    assert_eq!(report.code, 0, "{report:?}");
    // It was the last drilled one; another takes its place, and then its payload cannot be deleted.
    r.script("");
    r.report(0);
    let payloads = r.home.vault().join(format!("payloads/db/{old}"));
    let immutable = |flag: &str| {
        std::process::Command::new("chattr").arg(flag).arg(payloads.join("main.zst.age")).output()
    };
    if !immutable("+i").is_ok_and(|done| done.status.success()) {
        eprintln!("NOT LOOKED AT: this file system has no immutable files");
        return;
    }
    let failed = r.home.run(&["prune", "--confirm"]);
    assert_eq!(failed.code, 10, "{failed:?}");
    assert!(
        failed.stderr.contains("could not be deleted") && failed.stderr.contains(&old),
        "{failed:?}"
    );
    assert_eq!(listed(&r.home).len(), 1, "it is no backup any more");
    let shown = r.home.run(&["prune"]).ok();
    assert!(
        shown.stdout.contains("objects of backups removed earlier are still there"),
        "{shown:?}"
    );
    assert!(immutable("-i").unwrap().status.success());
    r.home.run(&["prune", "--confirm"]).ok();
    assert!(!payloads.exists());
    let shown = r.home.run(&["prune"]).ok();
    assert!(!shown.stdout.contains("still there"), "{shown:?}");
}

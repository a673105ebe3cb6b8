//! What is gone, cut off or changed in the vault, or in a copy of it, is told by every verb that
//! looks, and by its exit code.

use std::path::PathBuf;

use crate::support::home::copy_tree;
use crate::support::{Cluster, Home, Rehearsal};

fn source() -> Cluster {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    source
}

/// All that `status` has alarms of, by kind.
fn alarms(home: &Home) -> Vec<String> {
    let out = home.run(&["status", "--json"]);
    let status: serde_json::Value =
        serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let alarms = status["status"]["alarms"].as_array().unwrap_or_else(|| panic!("{out:?}"));
    assert_eq!(out.code, if alarms.is_empty() { 0 } else { 11 }, "{out:?}");
    alarms.iter().map(|alarm| alarm["kind"].as_str().unwrap().to_owned()).collect()
}

/// A monitor that asks `status` alone hears of what no key believes, of what a restore would lack,
/// and of records that are gone.
#[test]
fn status_tells_of_what_is_not_believed_not_there_or_cut_off() {
    let r = Rehearsal::new();
    r.script("");
    r.home.run(&["drill", "nightly"]).ok();
    let home = &r.home;
    assert_eq!(alarms(home), Vec::<String>::new());
    let backup =
        home.run(&["list", "--json"]).ok().json()[0]["backup"].as_str().unwrap().to_owned();
    let evidence = |number: u64| home.vault().join(format!("evidence/{number:08}.json"));
    assert!(evidence(2).exists(), "{:?}", crate::support::files(&home.vault()));
    // One manifest more, which nobody signed.
    let forged = home.vault().join("manifests/db").join(format!("{}-AAAAAA.json", &backup[..16]));
    std::fs::copy(home.manifest(&backup), &forged).unwrap();
    assert_eq!(alarms(home), ["untrusted"]);
    let status = home.run(&["status", "--json"]).json()["status"].clone();
    assert_eq!(
        (&status["datastores"][0]["backups"], &status["datastores"][0]["not_believed"]),
        (&1.into(), &1.into()),
        "{status:#}"
    );
    std::fs::remove_file(forged).unwrap();
    let lost: [(PathBuf, &str); 5] = [
        (home.vault().join("payloads/db").join(&backup), "damaged"),
        (home.meta(&backup).join("slots"), "damaged"),
        (home.meta(&backup).join("envelope-0001.json"), "damaged"),
        (evidence(1), "evidence"),
        // The newest record: no number is missing, and this host remembers.
        (evidence(2), "evidence"),
    ];
    for (lost, kind) in &lost {
        let away = home.path("away");
        std::fs::rename(lost, &away).unwrap();
        let told = alarms(home);
        assert!(told.contains(&(*kind).to_owned()), "{lost:?}: {told:?}");
        std::fs::rename(&away, lost).unwrap();
    }
    assert_eq!(alarms(home), Vec::<String>::new());
}

/// Whoever cuts off the end of the evidence does not have its numbers used twice: what was cut off
/// can be put back.
#[test]
fn the_evidence_goes_on_behind_what_was_cut_off() {
    let source = source();
    let home = Home::of(&source, "d");
    let backup = home.backup();
    home.run(&["hold", &backup, "--reason", "one"]).ok();
    home.run(&["release", &backup]).ok();
    home.run(&["hold", &backup, "--reason", "two"]).ok();
    std::fs::create_dir_all(home.path("away/evidence")).unwrap();
    let move_away = |name: &str| {
        std::fs::rename(home.vault().join(name), home.path("away").join(name)).unwrap()
    };
    for number in [2, 3] {
        move_away(&format!("evidence/{number:08}.json"));
        move_away(&format!("evidence/{number:08}.json.sig"));
    }
    home.run(&["release", &backup]).ok();
    // The record alone, and its signature stays: its number looks claimed.
    move_away("evidence/00000004.json");
    home.run(&["hold", &backup, "--reason", "three"]).ok();
    home.run(&["evidence", "verify"]).fails(7, &["flaws"]);
    copy_tree(&home.path("away"), &home.vault());
    let verified = home.run(&["evidence", "verify"]).ok();
    assert!(verified.stderr.contains("5 records"), "{verified:?}");
}

/// A home that somebody emptied is not one that has nothing to do.
#[test]
fn an_emptied_vault_is_told_of_by_every_verb() {
    let source = source();
    let home = Home::of(&source, "d");
    home.configure("\n[vaults.dr]\ndirectory = \"elsewhere\"\n");
    let backup = home.backup();
    for directory in ["manifests", "payloads", "meta"] {
        std::fs::remove_dir_all(home.vault().join(directory)).unwrap();
    }
    let told = format!(
        "backup {backup} of db, number 1, is known here and gone from the vault, and no record says that it was removed"
    );
    for arguments in [
        &["list"][..],
        &["list", "db"],
        &["verify", "--all"],
        &["copy", "dr"],
        &["rekey"],
        &["rekey", "--confirm"],
        &["prune"],
        &["prune", "--confirm"],
    ] {
        home.run(arguments).fails(7, &[&told, "1 backups are gone from the vault"]);
    }
}

/// Numbers are missing in the middle, and this host remembers nothing.
#[test]
fn a_missing_number_is_told_of_by_list_and_verify_too() {
    let source = source();
    let home = Home::of(&source, "d");
    let (_, second, _) = (home.backup(), home.backup(), home.backup());
    std::fs::remove_file(home.manifest(&second)).unwrap();
    std::fs::remove_file(home.path("catalog.db")).unwrap();
    let told =
        "backup number 2 of db is missing from the vault, and no record says that it was removed";
    for arguments in [&["list"][..], &["verify", "--all"]] {
        assert!(home.run(arguments).ok().stderr.contains(told), "{arguments:?}");
    }
    home.backup();
    let known = home.run(&["list", "--json"]).ok();
    assert_eq!(known.json().as_array().unwrap().len(), 3);
}

/// A copy that was changed is not one that is there already.
#[test]
fn a_manifest_that_was_changed_in_a_copy_is_told_of_when_copying() {
    let source = source();
    let home = Home::of(&source, "d");
    home.configure("\n[vaults.dr]\ndirectory = \"elsewhere\"\n");
    let (first, second) = (home.backup(), home.backup());
    home.run(&["copy", "dr"]).ok();
    let there = |name: &str| home.path("elsewhere/manifests/db").join(name);
    let genuine = std::fs::read(there(&format!("{first}.json"))).unwrap();
    let mut changed = genuine.clone();
    let last = changed.len() - 3;
    changed[last] ^= 1;
    for (name, bytes) in
        [(format!("{first}.json"), &changed), (format!("{first}.json.sig"), &vec![7; 64])]
    {
        let kept = std::fs::read(there(&name)).unwrap();
        std::fs::write(there(&name), bytes).unwrap();
        let told = format!(
            "backup {first} of db: its manifest in the other vault, or the signature beside it, is not the one that is signed here"
        );
        home.run(&["copy", "dr"]).fails(7, &[&told]);
        std::fs::write(there(&name), kept).unwrap();
    }
    // As the message says.
    for name in [format!("{first}.json"), format!("{first}.json.sig")] {
        std::fs::remove_file(there(&name)).unwrap();
    }
    let copied = home.run(&["copy", "dr"]).ok();
    assert!(
        copied.stdout.contains("1 backups are new")
            && copied.stdout.contains("1 were there already"),
        "{second}: {copied:?}"
    );
    home.run(&["verify", "--all", "--vault", "dr"]).ok();
}

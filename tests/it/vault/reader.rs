//! A reader that shares no code with lifeboat, written from `docs/FORMAT.md` alone
//! (`tests/reader`), opens, verifies and compares what every version writes, and notices what was
//! changed.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Cluster, EARLIER_VERSIONS, EVERYTHING, Home, files};

/// What it says of a vault, opened with an identity.
pub fn read(vault: &Path, key: &Path, identity: &Path, environment: &[(&str, &str)]) -> Output {
    let mut python = Command::new("python3");
    python
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/read_vault.py"))
        .args([vault, key, identity]);
    python.envs(environment.iter().copied()).output().unwrap()
}

#[track_caller]
fn right(home: &Home, identity: &str, counts: &[&str]) {
    let out = read(&home.vault(), &home.path("keys/signing.pub.pem"), &home.path(identity), &[]);
    let said =
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && counts.iter().all(|count| said.contains(count)), "{said}");
}

#[test]
fn an_independent_reader_computes_what_is_recorded() {
    let source = Cluster::start();
    source.psql("postgres", EVERYTHING);
    let home = Home::new();
    home.add_datastore("db", &source.conninfo("everything"), "jobs = 3");
    home.backup();
    let held = home.backup();
    home.run(&["hold", &held, "--reason", "case 17"]).ok();
    let file = home.path("new.txt");
    let made =
        home.run(&["recovery-key", "new", "--out", file.to_str().unwrap(), "--json"]).ok().json();
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    let old = text.lines().find(|line| line.starts_with("recipients")).unwrap();
    home.reconfigure(old, &format!("recipients = [\"{}\"]", made["recipient"].as_str().unwrap()));
    home.run(&["rekey", "--confirm", "--per-second", "100"]).ok();
    home.backup();
    for identity in ["new.txt", "keys/identity.txt"] {
        right(&home, identity, &["3 backups"]);
    }
}

#[test]
fn an_independent_reader_reads_what_earlier_versions_wrote() {
    // A drill of the fixture is still within its time.
    let then = [
        ("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
        ("FAKETIME", "@2026-11-30 13:00:00"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    for version in EARLIER_VERSIONS {
        let home = Home::of_version(version);
        let out = read(
            &home.vault(),
            &home.path("keys/signing.pub.pem"),
            &home.path("keys/identity.txt"),
            &then,
        );
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{version}: {said}{}", String::from_utf8_lossy(&out.stderr));
    }
}

/// Of every file of a vault the first, the middle and the last byte: nothing is changed that
/// anybody reads or runs and nobody notices.
#[test]
fn what_is_changed_anywhere_is_noticed() {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", "CREATE TABLE t AS SELECT i FROM generate_series(1, 5) i");
    let home = Home::of(&source, "d");
    std::fs::create_dir_all(home.path("restore")).unwrap();
    std::fs::write(home.path("restore/db.toml"), "[[restore]]\ndatastore = \"db\"\n").unwrap();
    let backup = home.backup();
    home.run(&["hold", &backup, "--reason", "case 17"]).ok();
    // The id is pinned, so nobody reads it out of there.
    let means_the_same = |file: &Path| file.ends_with("vault.json");
    let mut tried = 0;
    for file in files(&home.vault()) {
        let sound = std::fs::read(&file).unwrap();
        for at in [0, sound.len() / 2, sound.len() - 1] {
            let mut turned = sound.clone();
            turned[at] ^= 1;
            std::fs::write(&file, &turned).unwrap();
            let verified = [vec!["verify", &backup], vec!["evidence", "verify"]]
                .map(|verb| home.run(&verb).code);
            assert!(means_the_same(&file) || verified != [0, 0], "byte {at} of {}", file.display());
            tried += 1;
        }
        std::fs::remove_file(&file).unwrap();
        let gone =
            [vec!["verify", "--all"], vec!["evidence", "verify"]].map(|verb| home.run(&verb).code);
        assert!(means_the_same(&file) || gone != [0, 0], "{} is gone", file.display());
        std::fs::write(&file, &sound).unwrap();
    }
    assert!(tried > 50, "{tried}");
    home.run(&["verify", "--all"]).ok();
}

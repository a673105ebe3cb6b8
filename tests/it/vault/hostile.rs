//! The vault as an adversary's: what stands in it was written by somebody who read `docs/FORMAT.md` and wants a backup lost, a key or a shell.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::guide::commands;
use crate::support::{Cluster, Home, Rehearsal, files};

fn source() -> Cluster {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", "CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 1000) i");
    source
}

fn copy(home: &Home, backup: &str, from: &str, to: &str) {
    std::fs::copy(home.meta(backup).join(from), home.meta(backup).join(to)).unwrap();
}

/// Who may only add objects puts the first envelope once more under a high number. A rotation that took it for the newest would retire the slots
/// that are in use.
#[test]
fn a_replayed_envelope_is_nobodys_newest() {
    let source = source();
    let home = Home::of(&source, "d");
    let backup = home.backup();
    let file = home.path("new.txt");
    let made = home.run(&["recovery-key", "new", "--out", file.to_str().unwrap(), "--json"]).ok().json();
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    let old = text.lines().find(|line| line.starts_with("recipients")).unwrap();
    home.reconfigure(old, &format!("recipients = [\"{}\"]", made["recipient"].as_str().unwrap()));
    home.run(&["rekey", "--confirm"]).ok();
    for extension in ["json", "json.sig"] {
        copy(&home, &backup, &format!("envelope-0001.{extension}"), &format!("envelope-0500.{extension}"));
    }
    home.run(&["verify", "--all"]).fails(7, &["envelope-0500.json is damaged: it says that it is envelope 1", "The payloads are whole"]);
    let plan = home.run(&["rekey"]).ok();
    assert!(plan.stdout.contains("1 backups are as lifeboat.toml asks"), "{}", plan.stdout);
    home.run(&["rekey", "--confirm"]).ok();
    std::fs::rename(home.path("keys/identity.txt"), home.path("away")).unwrap();
    let to = source.conninfo("back");
    home.run(&["restore", "db", "--to", &to, "--yes", "--check", "--identity", file.to_str().unwrap()]).ok();
    home.run(&["restore", "db", "--to", &source.conninfo("not"), "--yes", "--identity", &home.recovery()]).fails(5, &["no key opens"]);
}

/// A guide is handed the recovery key, so it is believed as little as anything else until its signature was checked.
#[test]
fn a_guide_that_somebody_else_wrote_is_run_by_nobody_and_goes_nowhere() {
    let r = Rehearsal::new();
    let home = &r.home;
    home.configure("\n[vaults.dr]\ndirectory = \"elsewhere\"\n");
    let backup = home.run(&["list", "--json"]).ok().json()[0]["backup"].as_str().unwrap().to_owned();
    r.script("break = [\"lifeboat-lost\"]\nrecovery_identity = \"recovery.txt\"");
    let guide = home.meta(&backup).join("RESTORE.md");
    let genuine = std::fs::read_to_string(&guide).unwrap();
    let hostile = genuine.replace("umask 077", "umask 077\ncat \"$IDENTITY\" >&2; yes >&2");
    assert_ne!(genuine, hostile);
    let signature = std::fs::read(home.meta(&backup).join("RESTORE.md.sig")).unwrap();
    // Changed, with the signature of the genuine one; without any; the genuine one of another backup.
    let other = home.backup();
    let of_other = std::fs::read_to_string(home.meta(&other).join("RESTORE.md")).unwrap();
    let its_signature = std::fs::read(home.meta(&other).join("RESTORE.md.sig")).unwrap();
    std::fs::remove_file(home.manifest(&other)).unwrap();
    for (text, signature, why) in [
        (&hostile, Some(&signature), "not that of a trusted key"),
        (&hostile, None, "not signed"),
        (&genuine, None, "not signed"),
        (&of_other, Some(&its_signature), "the guide to something else"),
    ] {
        std::fs::write(&guide, text).unwrap();
        let file = home.meta(&backup).join("RESTORE.md.sig");
        let _ = std::fs::remove_file(&file);
        if let Some(signature) = signature {
            std::fs::write(&file, signature).unwrap();
        }
        let drilled = home.run(&["drill", "nightly"]);
        let said = format!("{}{}", drilled.stdout, drilled.stderr);
        assert!(drilled.code != 0 && !said.contains("AGE-SECRET-KEY") && said.contains(why), "{why}: {drilled:?}");
        let verified = home.run(&["verify", &backup]);
        match signature {
            Some(_) => assert!(verified.code == 7 && verified.stderr.contains(why), "{why}: {verified:?}"),
            None => assert!(verified.code == 0 && verified.stdout.contains("nobody signed it"), "{why}: {verified:?}"),
        }
        home.run(&["copy", "dr"]).ok();
        let copied = files(&home.path("elsewhere")).into_iter().any(|file| file.to_string_lossy().contains("RESTORE"));
        assert!(!copied, "{why}: it was copied");
    }
    // A new one takes its place, beside a new envelope, and is run.
    let plan = home.run(&["rekey"]).ok();
    assert!(plan.stdout.contains("1 backups: write a signed RESTORE.md"), "{}", plan.stdout);
    home.run(&["rekey", "--confirm"]).ok();
    assert!(home.run(&["verify", &backup]).ok().stdout.contains("RESTORE") || home.meta(&backup).join("RESTORE-0002.md.sig").exists());
    home.run(&["drill", "nightly"]).ok();
    home.run(&["copy", "dr"]).ok();
    let copied = files(&home.path("elsewhere")).into_iter().filter(|file| file.to_string_lossy().contains("RESTORE")).count();
    assert_eq!(copied, 2, "the signed one and its signature");
}

/// Pasted into a shell, a step that fails holds back what follows and leaves the terminal open.
#[test]
fn pasted_into_a_shell_a_guide_stops_at_the_step_that_fails() {
    let (source, target) = (source(), Cluster::start());
    let home = Home::of(&source, "d");
    let backup = home.backup();
    let guide = std::fs::read_to_string(home.meta(&backup).join("RESTORE.md")).unwrap();
    let pasted = |directory: &str, key: &Path| {
        let directory = home.path(directory);
        std::fs::create_dir_all(&directory).unwrap();
        let mut bash = std::process::Command::new("bash");
        bash.args(["--norc", "--noprofile", "-i"]).current_dir(directory).env_clear();
        bash.env("PATH", "/usr/lib/postgresql/15/bin:/usr/bin:/bin").env("LC_ALL", "C.UTF-8").env("TRUSTED_KEY", key);
        bash.env("IDENTITY", home.recovery()).env("PGHOST", target.socket()).env("PGUSER", "postgres");
        let mut child = bash.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let text = commands(&guide, "recovery") + "\necho ENDED >&2\n";
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        child
    };
    // Another key than the one that signed.
    let stranger = home.path("stranger.pem");
    let pem = std::fs::read_to_string(home.path("keys/signing.pub.pem")).unwrap();
    let line = pem.lines().nth(1).unwrap();
    let turned: String = line.chars().rev().collect();
    std::fs::write(&stranger, pem.replace(&line[20..], &turned[turned.len() - line.len() + 20..])).unwrap();
    let mut child = pasted("wrong", &stranger);
    std::thread::sleep(Duration::from_secs(4));
    assert!(child.try_wait().unwrap().is_none(), "the terminal is closed");
    child.kill().unwrap();
    assert_eq!(target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'd'"), "0");
    // The one that did.
    let child = pasted("right", &home.path("keys/signing.pub.pem"));
    let out = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("ENDED"), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(target.psql("d", "SELECT count(*) FROM t"), "1000");
}

/// The key on the card is what the guide asks for.
#[test]
fn the_card_has_the_signing_key_as_the_guide_takes_it() {
    let source = source();
    let home = Home::of(&source, "d");
    home.backup();
    let card = home.run(&["recovery-key", "new"]).ok().stdout;
    let lines: Vec<&str> = card.lines().map(str::trim).collect();
    let begin = lines.iter().position(|line| *line == "-----BEGIN PUBLIC KEY-----").unwrap();
    let end = lines.iter().position(|line| *line == "-----END PUBLIC KEY-----").unwrap();
    let typed = lines[begin..=end].join("\n") + "\n";
    assert_eq!(typed, std::fs::read_to_string(home.path("keys/signing.pub.pem")).unwrap());
    let runbook = home.run(&["runbook", "db"]).ok().stdout;
    assert!(runbook.contains(&typed) && runbook.contains("-in RESTORE.md -sigfile RESTORE.md.sig"), "{runbook}");
}

/// Objects that are larger than anything of ours is are not read, whoever put them there and however large they say they are.
#[test]
fn nothing_in_a_vault_fills_the_memory_or_keeps_anybody_busy() {
    let source = source();
    let home = Home::of(&source, "d");
    let backup = home.backup();
    let newer = home.backup();
    let sparse = |path: &Path, bytes: u64| {
        std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap().set_len(bytes).unwrap();
    };
    let tebibyte = 1 << 40;
    sparse(&home.payload(&newer, "main"), tebibyte);
    sparse(&home.manifest(&newer).with_extension("json.sig"), tebibyte);
    sparse(&home.meta(&backup).join("envelope-0009.json"), tebibyte);
    sparse(&home.meta(&backup).join("envelope-0009.json.sig"), tebibyte);
    let memory = |arguments: &[&str]| {
        let begun = Instant::now();
        let mut limited = home.command(arguments);
        // Of what a process may map, much is never touched; beyond this something was read that should not be.
        let out = limited.output().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30), "{arguments:?}");
        out
    };
    for verb in [vec!["list"], vec!["verify", "--all"], vec!["restore", "db", "--to", "dbname=x", "--plan"], vec!["status"], vec!["check"]]
    {
        let _ = memory(&verb);
    }
    // The payload of a backup that is otherwise whole.
    sparse(&home.payload(&backup, "main"), tebibyte);
    home.run(&["verify", &backup]).fails(7, &["main", "the signed manifest says"]);
    let to = source.conninfo("back");
    home.run(&["restore", "db", "--backup", &backup, "--to", &to, "--yes"]).fails(7, &["the signed manifest says"]);
    assert_eq!(source.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'back'"), "0");
}

/// What is shown of a vault is shown verified, and a terminal acts on none of it.
#[test]
fn a_record_that_was_changed_is_not_shown() {
    let source = source();
    let home = Home::of(&source, "d");
    let backup = home.backup();
    home.run(&["hold", &backup, "--reason", "the audit \u{9b}31m of today"]).ok();
    let shown = home.run(&["evidence", "show", "1"]).ok().stdout;
    assert!(shown.contains("the audit") && !shown.contains('\u{9b}'), "{shown:?}");
    let record = home.vault().join("evidence/00000001.json");
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("the audit", "the \u{1b}[2Jodd")).unwrap();
    let refused = home.run(&["evidence", "show", "1"]).fails(7, &["not signed by a trusted key"]);
    assert!(refused.stdout.is_empty(), "{refused:?}");
}

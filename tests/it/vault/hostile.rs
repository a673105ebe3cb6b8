//! The vault as an adversary's: what stands in it was written by somebody who read `docs/FORMAT.md`
//! and wants a backup lost, a key or a shell.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::guide::commands;
use crate::support::{Cluster, Home, Major, Rehearsal, files};

fn source() -> Cluster {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source
        .psql("d", "CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 1000) i");
    source
}

fn copy(home: &Home, backup: &str, from: &str, to: &str) {
    std::fs::copy(home.meta(backup).join(from), home.meta(backup).join(to)).unwrap();
}

/// Who may only add objects puts the first envelope once more under a high number. A rotation that
/// took it for the newest would retire the slots that are in use.
#[test]
fn a_replayed_envelope_is_nobodys_newest() {
    let source = source();
    let home = Home::of(&source, "d");
    let backup = home.backup();
    let file = home.path("new.txt");
    let made =
        home.run(&["recovery-key", "new", "--out", file.to_str().unwrap(), "--json"]).ok().json();
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    let old = text.lines().find(|line| line.starts_with("recipients")).unwrap();
    home.reconfigure(old, &format!("recipients = [\"{}\"]", made["recipient"].as_str().unwrap()));
    home.run(&["rekey", "--confirm"]).ok();
    for extension in ["json", "json.sig"] {
        copy(
            &home,
            &backup,
            &format!("envelope-0001.{extension}"),
            &format!("envelope-0500.{extension}"),
        );
    }
    home.run(&["verify", "--all"]).fails(
        7,
        &["envelope-0500.json is damaged: it says that it is envelope 1", "The payloads are whole"],
    );
    let plan = home.run(&["rekey"]).ok();
    assert!(plan.stdout.contains("1 backups are as lifeboat.toml asks"), "{}", plan.stdout);
    home.run(&["rekey", "--confirm"]).ok();
    std::fs::rename(home.path("keys/identity.txt"), home.path("away")).unwrap();
    let to = source.conninfo("back");
    home.run(&[
        "restore",
        "db",
        "--to",
        &to,
        "--yes",
        "--check",
        "--identity",
        file.to_str().unwrap(),
    ])
    .ok();
    home.run(&[
        "restore",
        "db",
        "--to",
        &source.conninfo("not"),
        "--yes",
        "--identity",
        &home.recovery(),
    ])
    .fails(5, &["no key opens"]);
}

/// A guide is handed the recovery key, so it is believed as little as anything else until its
/// signature was checked.
#[test]
fn a_guide_that_somebody_else_wrote_is_run_by_nobody_and_goes_nowhere() {
    let r = Rehearsal::new();
    let home = &r.home;
    home.configure("\n[vaults.dr]\ndirectory = \"elsewhere\"\n");
    let backup =
        home.run(&["list", "--json"]).ok().json()[0]["backup"].as_str().unwrap().to_owned();
    r.script("break = [\"lifeboat-lost\"]\nrecovery_identity = \"recovery.txt\"");
    let guide = home.meta(&backup).join("RESTORE.md");
    let genuine = std::fs::read_to_string(&guide).unwrap();
    let hostile = genuine.replace("umask 077", "umask 077\ncat \"$IDENTITY\" >&2; yes >&2");
    assert_ne!(genuine, hostile);
    let signature = std::fs::read(home.meta(&backup).join("RESTORE.md.sig")).unwrap();
    // Changed, with the signature of the genuine one; without any; the genuine one of another
    // backup.
    let other = home.backup();
    let of_other = std::fs::read_to_string(home.meta(&other).join("RESTORE.md")).unwrap();
    let its_signature = std::fs::read(home.meta(&other).join("RESTORE.md.sig")).unwrap();
    std::fs::remove_file(home.manifest(&other)).unwrap();
    home.run(&["catalog", "rebuild"]).ok();
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
        assert!(
            drilled.code != 0 && !said.contains("AGE-SECRET-KEY") && said.contains(why),
            "{why}: {drilled:?}"
        );
        let verified = home.run(&["verify", &backup]);
        let said = if signature.is_some() { why } else { "its signature is missing" };
        assert!(verified.code == 7 && verified.stderr.contains(said), "{why}: {verified:?}");
        home.run(&["copy", "dr"]).ok();
        let copied = files(&home.path("elsewhere"))
            .into_iter()
            .any(|file| file.to_string_lossy().contains("RESTORE"));
        assert!(!copied, "{why}: it was copied");
    }
    // A new one takes its place, beside a new envelope, and is run.
    let plan = home.run(&["rekey"]).ok();
    assert!(plan.stdout.contains("1 backups: write a signed RESTORE.md"), "{}", plan.stdout);
    home.run(&["rekey", "--confirm"]).ok();
    assert!(
        home.run(&["verify", &backup]).ok().stdout.contains("RESTORE")
            || home.meta(&backup).join("RESTORE-0002.md.sig").exists()
    );
    home.run(&["drill", "nightly"]).ok();
    home.run(&["copy", "dr"]).ok();
    let copied = files(&home.path("elsewhere"))
        .into_iter()
        .filter(|file| file.to_string_lossy().contains("RESTORE"))
        .count();
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
        bash.env("PATH", "/usr/lib/postgresql/15/bin:/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("TRUSTED_KEY", key);
        bash.env("IDENTITY", home.recovery())
            .env("PGHOST", target.socket())
            .env("PGUSER", "postgres");
        let mut child = bash
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let text = commands(&guide, "recovery") + "\necho ENDED >&2\n";
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        child
    };
    // Another key than the one that signed.
    let stranger = home.path("stranger.pem");
    let pem = std::fs::read_to_string(home.path("keys/signing.pub.pem")).unwrap();
    let line = pem.lines().nth(1).unwrap();
    let turned: String = line.chars().rev().collect();
    std::fs::write(&stranger, pem.replace(&line[20..], &turned[turned.len() - line.len() + 20..]))
        .unwrap();
    let mut child = pasted("wrong", &stranger);
    std::thread::sleep(Duration::from_secs(4));
    assert!(child.try_wait().unwrap().is_none(), "the terminal is closed");
    child.kill().unwrap();
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'd'"),
        "0"
    );
    // The one that did.
    let child = pasted("right", &home.path("keys/signing.pub.pem"));
    let out = child.wait_with_output().unwrap();
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("ENDED"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
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
    assert!(
        runbook.contains(&typed) && runbook.contains("-in RESTORE.md -sigfile RESTORE.md.sig"),
        "{runbook}"
    );
}

/// Objects that are larger than anything of ours is are not read, whoever put them there and
/// however large they say they are.
#[test]
fn nothing_in_a_vault_fills_the_memory_or_keeps_anybody_busy() {
    let source = source();
    let home = Home::of(&source, "d");
    let backup = home.backup();
    let newer = home.backup();
    let sparse = |path: &Path, bytes: u64| {
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap()
            .set_len(bytes)
            .unwrap();
    };
    let tebibyte = 1 << 40;
    sparse(&home.payload(&newer, "main"), tebibyte);
    sparse(&home.manifest(&newer).with_extension("json.sig"), tebibyte);
    sparse(&home.meta(&backup).join("envelope-0009.json"), tebibyte);
    sparse(&home.meta(&backup).join("envelope-0009.json.sig"), tebibyte);
    // Names by the ten thousand, and one deeper than any path may be.
    std::fs::create_dir_all(home.vault().join("evidence")).unwrap();
    for number in 0..20_000 {
        std::fs::write(home.vault().join(format!("evidence/{number:08}.json.sig.{number}")), "")
            .unwrap();
    }
    let mut deep = std::fs::canonicalize(home.vault()).unwrap().join("payloads");
    for _ in 0..20 {
        deep = deep.join("d".repeat(200));
        if std::fs::create_dir(&deep).is_err() {
            break;
        }
    }
    let to = source.conninfo("nowhere");
    for verb in [
        vec!["list"],
        vec!["show", &newer],
        vec!["verify", "--all"],
        vec!["restore", "db", "--to", &to, "--plan"],
        vec!["status"],
        vec!["check"],
        vec!["prune"],
        vec!["rekey"],
        vec!["sweep", "--older-than", "0s"],
        vec!["evidence", "verify"],
        vec!["catalog", "rebuild"],
        vec!["thaw", "db"],
        vec!["runbook", "db"],
    ] {
        let begun = Instant::now();
        let peak = peak_of(&home, &verb);
        assert!(
            peak < 200 * 1024 && begun.elapsed() < Duration::from_secs(60),
            "{verb:?}: {peak} KiB, {:?}",
            begun.elapsed()
        );
    }
    // The payload of a backup that is otherwise whole.
    sparse(&home.payload(&backup, "main"), tebibyte);
    home.run(&["verify", &backup]).fails(7, &["main", "the signed manifest says"]);
    let to = source.conninfo("back");
    home.run(&["restore", "db", "--backup", &backup, "--to", &to, "--yes"])
        .fails(7, &["the signed manifest says"]);
    assert_eq!(
        source.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'back'"),
        "0"
    );
}

/// The most memory that a verb had, in KiB.
fn peak_of(home: &Home, arguments: &[&str]) -> u64 {
    const SCRIPT: &str = "import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let command = home.command(arguments);
    let mut python = std::process::Command::new("python3");
    python.args(["-c", SCRIPT]).arg(command.get_program()).args(command.get_args()).env_clear();
    python.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = python.output().unwrap();
    String::from_utf8_lossy(&out.stdout)
        .trim()
        .parse()
        .unwrap_or_else(|error| panic!("{error}: {out:?}"))
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

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// What is not what was stored is not opened, whoever knows the identity it is sealed to, and the
/// place of the damage is named.
#[test]
fn a_chunk_that_is_not_the_one_that_was_stored_reaches_nobody() {
    let (source, target) = (source(), Cluster::start());
    // Bytes that do not compress: three chunks.
    source.psql("d", "CREATE TABLE b AS SELECT i, (SELECT string_agg(sha512((i || '.' || j)::text::bytea), '') FROM generate_series(1, 64) j) AS x FROM generate_series(1, 4500) i");
    let home = Home::of(&source, "d");
    let backup = home.backup();
    let main = home.payload(&backup, "main");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.manifest(&backup)).unwrap()).unwrap();
    let objects = &manifest["payloads"]
        .as_array()
        .unwrap()
        .iter()
        .find(|payload| payload["role"] == "main")
        .unwrap()["objects"];
    let bytes = std::fs::metadata(&main).unwrap().len();
    assert!(bytes > 2 * 8_388_608, "{bytes}");
    // The list is what `docs/FORMAT.md` says.
    let list = std::fs::read(home.meta(&backup).join("main.zst.age.chunks")).unwrap();
    let sums: Vec<u8> = std::fs::read(&main).unwrap().chunks(8_388_608).flat_map(sha256).collect();
    assert_eq!(list, sums);
    assert_eq!(
        objects[0]["chunks"],
        serde_json::json!({ "bytes": 8_388_608, "sha256": hex::encode(sha256(&list)) })
    );
    for (at, range) in [
        (100, "0 to 8388608"),
        (8_388_608 + 5, "8388608 to 16777216"),
        (usize::try_from(bytes).unwrap() - 1, "16777216 to "),
    ] {
        flip(&main, at);
        home.run(&["verify", &backup])
            .fails(7, &["main.zst.age is damaged", range, "not those that were stored"]);
        let refused = home
            .run(&["restore", "db", "--to", &target.conninfo("d"), "--yes"])
            .fails(7, &["not those that were stored", range]);
        // What came before the damage was genuine; where nothing did, nothing was begun.
        let made = target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'd'");
        assert!(at > 8_388_608 || made == "0", "{refused:?}");
        flip(&main, at);
        target.psql("postgres", "DROP DATABASE IF EXISTS d WITH (FORCE)");
    }
    // A list that is lost or changed costs no backup, and is told.
    let file = home.meta(&backup).join("main.zst.age.chunks");
    flip(&file, 40);
    home.run(&["verify", &backup]).fails(
        7,
        &[
            "main.zst.age.chunks is damaged",
            "not the list that the signed manifest names",
            "The payloads are whole",
        ],
    );
    std::fs::remove_file(&file).unwrap();
    home.run(&["verify", &backup]).fails(7, &["main.zst.age.chunks is damaged: it is missing"]);
    flip(&main, usize::try_from(bytes).unwrap() - 1);
    home.run(&["restore", "db", "--to", &target.conninfo("d"), "--yes"])
        .fails(7, &["its SHA-256 is", "nothing was changed"]);
    flip(&main, usize::try_from(bytes).unwrap() - 1);
    home.run(&["restore", "db", "--to", &target.conninfo("d"), "--yes", "--check"]).ok();
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

/// Backups of versions that wrote no lists are read through before any of them reaches a server.
#[test]
fn what_has_no_list_of_chunks_is_read_through_first() {
    let home = Home::of_version("0.1.0");
    let target = Cluster::start();
    let newest = home
        .run(&["list", "chat", "--json"])
        .ok()
        .json()
        .as_array()
        .unwrap()
        .iter()
        .max_by_key(|b| b["sequence"].as_u64())
        .unwrap()["backup"]
        .as_str()
        .unwrap()
        .to_owned();
    let main = home.vault().join("payloads/chat").join(&newest).join("main.zst.age");
    let last = usize::try_from(std::fs::metadata(&main).unwrap().len()).unwrap() - 1;
    let to = target.conninfo("chat");
    let arguments = ["restore", "chat", "--backup", &newest, "--to", &to, "--yes"];
    let plan = home.run(&["restore", "chat", "--backup", &newest, "--to", &to, "--plan"]).ok();
    assert!(
        plan.stdout.contains("through before any of it is loaded, about")
            && plan.stdout.contains("--without-reading-first"),
        "{plan:?}"
    );
    flip(&main, last);
    home.run(&arguments).fails(7, &["its SHA-256 is"]);
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'chat'"),
        "0"
    );
    let unread = home.run(&[&arguments[..], &["--without-reading-first"]].concat());
    assert_eq!(unread.code, 7, "{unread:?}");
    flip(&main, last);
    target.psql("postgres", "DROP DATABASE IF EXISTS chat WITH (FORCE)");
    home.run(&arguments).ok();
}

/// A directory vault as its writer left it for a lifeboat that runs with more rights: links out of
/// it, and a pipe that nobody writes to.
#[test]
fn a_directory_is_never_left_through_a_link() {
    let source = source();
    let home = Home::of(&source, "d");
    let first = home.backup();
    let outside = home.path("outside");
    std::fs::create_dir_all(outside.join("inner")).unwrap();
    std::fs::write(outside.join("inner/precious"), "precious").unwrap();
    // A whole datastore behind a link: it is read, and told of; nothing is written or removed
    // there.
    let place = home.vault().join("manifests/db");
    std::fs::rename(&place, outside.join("db")).unwrap();
    std::os::unix::fs::symlink(outside.join("db"), &place).unwrap();
    for verb in [vec!["list", "--json"], vec!["list", "db", "--json"]] {
        let listed = home.run(&verb);
        assert_eq!(listed.json().as_array().map(Vec::len), Some(1), "{listed:?}");
    }
    let verified = home.run(&["verify", "--all"]).ok();
    assert!(verified.stderr.contains("a link in the vault is followed to read"), "{verified:?}");
    let before = files(&outside);
    home.run(&["backup", "db"]).fails(2, &["manifests/db", "leads through a link"]);
    let check = home.run(&["check"]);
    assert!(
        check.code == 2 && check.stdout.contains("manifests/db cannot be written"),
        "{check:?}"
    );
    assert_eq!(files(&outside), before);
    std::fs::remove_file(&place).unwrap();
    std::fs::rename(outside.join("db"), &place).unwrap();
    // Leftovers that are links: what they point to stays.
    let stray = home.vault().join("payloads/db/20200101T000000Z-AAAAAA");
    std::os::unix::fs::symlink(&outside, &stray).unwrap();
    home.run(&["sweep", "--older-than", "0s", "--confirm"]);
    assert_eq!(std::fs::read_to_string(outside.join("inner/precious")).unwrap(), "precious");
    std::fs::remove_file(&stray).unwrap();
    // Links that lead everywhere, and to what nobody may read, close no listing.
    std::os::unix::fs::symlink("/usr", home.vault().join("manifests/usr")).unwrap();
    std::os::unix::fs::symlink(home.vault(), home.vault().join("payloads/db/again")).unwrap();
    assert_eq!(home.run(&["list", "--json"]).json().as_array().map(Vec::len), Some(1));
    std::fs::remove_file(home.vault().join("manifests/usr")).unwrap();
    std::fs::remove_file(home.vault().join("payloads/db/again")).unwrap();
    // A link in the place of an object is no object; a pipe is not waited for.
    let main = home.payload(&first, "main");
    let moved = outside.join("main");
    std::fs::rename(&main, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &main).unwrap();
    home.run(&["verify", &first]).fails(7, &["main"]);
    std::fs::remove_file(&main).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&main).status().unwrap().success());
    let begun = Instant::now();
    home.run(&["verify", &first]).fails(7, &["main"]);
    assert!(begun.elapsed() < Duration::from_secs(20));
    std::fs::remove_file(&main).unwrap();
    std::fs::rename(&moved, &main).unwrap();
    home.run(&["verify", &first]).ok();
}

/// Objects that anybody may add: claims of epochs that nobody signed.
#[test]
fn a_claim_that_nobody_signed_ends_nobodys_right() {
    let (source, catalog) = (source(), Cluster::start());
    catalog.psql("postgres", "CREATE DATABASE catalog");
    let home = Home::of(&source, "d");
    let url = format!("postgres://postgres@localhost/catalog?host={}", catalog.socket().display());
    home.reconfigure("file = \"catalog.db\"", &format!("file = \"catalog.db\"\nurl = \"{url}\""));
    home.backup();
    let claims = home.vault().join("runs/epochs/db");
    let genuine = std::fs::read(claims.join("000000000001.json")).unwrap();
    assert!(claims.join("000000000001.json.sig").exists());
    for forged in
        ["18446744073709551615", "999999999999", "000000000002", "000000000003", "000000000004"]
    {
        std::fs::write(claims.join(format!("{forged}.json")), &genuine).unwrap();
        std::fs::copy(
            claims.join("000000000001.json.sig"),
            claims.join(format!("{forged}.json.sig")),
        )
        .unwrap();
    }
    home.backup();
    assert!(claims.join("000000000005.json").exists(), "{:?}", files(&claims));
    home.backup();
    home.run(&["sweep", "--older-than", "0s", "--confirm"]).ok();
    assert!(
        !claims.join("999999999999.json").exists() && claims.join("000000000006.json").exists(),
        "{:?}",
        files(&claims)
    );
}

/// Names that somebody writes are noise, and hide no backup: neither before what this host knows,
/// nor for a host that knows nothing.
#[test]
fn thousands_of_forged_names_hide_no_backup() {
    let source = source();
    let home = Home::of(&source, "d");
    let genuine = home.backup();
    let directory = home.vault().join("manifests/db");
    let manifest = std::fs::read(home.manifest(&genuine)).unwrap();
    let letters = |number: usize| -> String {
        (0..6)
            .map(|place| {
                char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[(number / 32_usize.pow(place)) % 32])
            })
            .collect()
    };
    for number in 0..21_000 {
        let year = if number % 2 == 0 { "2199" } else { &genuine[..4] };
        let name = format!("{year}1231T2359{:02}Z-{}", number % 60, letters(number));
        let name =
            if number % 2 == 0 { name } else { format!("{}-{}", &genuine[..16], letters(number)) };
        std::fs::write(directory.join(format!("{name}.json")), &manifest).unwrap();
        // Some have something that looks like a signature.
        if number % 30 == 0 {
            std::fs::write(directory.join(format!("{name}.json.sig")), [7; 64]).unwrap();
        }
    }
    let to = source.conninfo("back");
    let plan = home.run(&["restore", "db", "--to", &to, "--plan"]).ok();
    assert!(
        plan.stdout.contains(&genuine)
            && plan.stdout.contains("more names are passed over as well"),
        "{plan:?}"
    );
    std::fs::remove_file(home.path("catalog.db")).unwrap();
    let restored = home.run(&["restore", "db", "--to", &to, "--yes", "--check"]).ok();
    assert!(restored.stdout.contains(&genuine), "{restored:?}");
    home.backup();
    // One of the same id elsewhere is not the one that is held.
    let elsewhere = home.vault().join("manifests/aaa");
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::fs::write(elsewhere.join(format!("{genuine}.json")), &manifest).unwrap();
    std::fs::copy(
        home.manifest(&genuine).with_extension("json.sig"),
        elsewhere.join(format!("{genuine}.json.sig")),
    )
    .unwrap();
    let held = home.run(&["hold", &genuine, "--reason", "case 17"]).ok();
    let record = home.run(&["evidence", "show", "1"]).ok();
    assert!(
        record.stdout.contains("\"datastore\": \"db\"") || record.stdout.contains("\"db\""),
        "{held:?} {record:?}"
    );
    assert!(!record.stdout.contains("\"aaa\""), "{record:?}");
}

/// A vault that went back to an earlier day says so, as far as this host remembers.
#[test]
fn a_backup_that_is_gone_is_told_of_everywhere() {
    let (source, told) = (source(), "gone from the vault, and no record says that it was removed");
    let home = Home::of(&source, "d");
    let (first, second) = (home.backup(), home.backup());
    std::fs::remove_file(home.manifest(&second)).unwrap();
    std::fs::remove_file(home.manifest(&second).with_extension("json.sig")).unwrap();
    home.run(&["list"]).fails(7, &[told, "1 backups are gone"]);
    home.run(&["verify", "--all"]).fails(7, &[told, &second, "1 backups are gone"]);
    let plan = home.run(&["restore", "db", "--to", &source.conninfo("x"), "--plan"]).ok();
    assert!(plan.stdout.contains(told) && plan.stdout.contains(&first), "{plan:?}");
    let status = home.run(&["status"]);
    assert!(status.code == 11 && status.stdout.contains("are gone from the vault"), "{status:?}");
    // The next one has a number of its own, and what was removed by prune is no alarm.
    home.backup();
    let numbers: Vec<u64> = home
        .run(&["list", "--json"])
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [1, 3]);
}

/// A `vault.json` that says something else hides nothing and gets nothing.
#[test]
fn another_vaults_header_hides_nothing_and_gets_nothing() {
    let source = source();
    let home = Home::of(&source, "d");
    home.backup();
    let header = home.vault().join("vault.json");
    let text = std::fs::read_to_string(&header).unwrap();
    let id = serde_json::from_str::<serde_json::Value>(&text).unwrap()["vault"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        std::fs::read_to_string(home.path("lifeboat.toml"))
            .unwrap()
            .contains(&format!("id = \"{id}\""))
    );
    assert!(home.run(&["recovery-key", "new"]).ok().stdout.contains(&id));
    std::fs::write(&header, text.replace(&id, &"f".repeat(32))).unwrap();
    let before = files(&home.vault());
    home.run(&["backup", "db"])
        .fails(2, &["lifeboat.toml names", &id, "nothing is written into it"]);
    let check = home.run(&["check"]);
    assert!(check.code == 2 && check.stdout.contains("its id is the pinned one"), "{check:?}");
    home.run(&["restore", "db", "--to", &source.conninfo("back"), "--yes", "--check"]).ok();
    home.run(&["verify", "--all"]).ok();
    assert_eq!(files(&home.vault()), before);
    let status = home.run(&["status"]);
    assert!(status.code == 11 && status.stdout.contains("no backup can be taken"), "{status:?}");
    // Gone, it is put back as the hint says.
    std::fs::remove_file(&header).unwrap();
    home.run(&["verify", "--all"]).ok();
    home.run(&["backup", "db"]).fails(
        2,
        &["its vault.json is gone, and its backups are not", &format!("\"vault\": \"{id}\"")],
    );
    std::fs::write(&header, format!("{{ \"format\": \"lifeboat.vault/1\", \"vault\": \"{id}\" }}"))
        .unwrap();
    home.run(&["check"]).ok();
    for garbled in ["", "{", &"x".repeat(5 << 20)] {
        std::fs::write(&header, garbled).unwrap();
        home.run(&["verify", "--all"]).ok();
        assert_ne!(home.run(&["backup", "db"]).code, 0);
    }
    std::fs::write(&header, &text).unwrap();
    // A configuration from before goes on, and check prints the line.
    home.reconfigure(&format!("id = \"{id}\""), "# no id");
    home.backup();
    let check = home.run(&["check"]);
    assert!(
        check.stdout.contains("its id is pinned")
            && check.stdout.contains(&format!("id = \"{id}\"")),
        "{check:?}"
    );
}

/// One backup under a wrong clock is not the newest for ever, and costs no other its place.
#[test]
fn a_backup_from_the_future_is_told_of_and_removes_no_other() {
    let source = source();
    let home = Home::of(&source, "d");
    let faked = [
        ("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
        ("FAKETIME", "+40d"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    home.run_with(&faked, &["backup", "db"]).ok();
    let future =
        home.run(&["list", "--json"]).ok().json()[0]["backup"].as_str().unwrap().to_owned();
    // The server's clock, which is the one that counts, was as wrong as the host's.
    let manifest = home.manifest(&future);
    let mut stated: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    stated["source"]["snapshot_time"] = stated["begun"].clone();
    std::fs::write(&manifest, serde_json::to_string_pretty(&stated).unwrap()).unwrap();
    let mut sign = std::process::Command::new("openssl");
    sign.args(["pkeyutl", "-sign", "-rawin", "-inkey"])
        .arg(home.path("keys/signing.pem"))
        .arg("-in")
        .arg(&manifest);
    assert!(sign.arg("-out").arg(manifest.with_extension("json.sig")).status().unwrap().success());
    let (second, third) = (home.backup(), home.backup());
    let plan = home.run(&["restore", "db", "--to", &source.conninfo("x"), "--plan"]).ok();
    assert!(
        plan.stdout.contains(&format!("backup   {third}"))
            && plan.stdout.contains("which lies in the future"),
        "{plan:?}"
    );
    std::fs::create_dir_all(home.path("schedules")).unwrap();
    std::fs::write(
        home.path("schedules/keep.toml"),
        "every = \"1h\"\nstarting = 2026-01-01\n[keep]\ndaily = 1\nat_least = 1\n",
    )
    .unwrap();
    home.run(&["prune", "--confirm"]).ok();
    let left: Vec<String> = home
        .run(&["list", "--json"])
        .ok()
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["backup"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(left, [future, third], "{second} goes");
    assert!(home.run(&["status"]).stdout.contains("taken in the future"));
}

/// Whoever removes the payload, the slots or the envelope of the newest backup does not have
/// retention remove the whole ones for it.
#[test]
fn a_backup_that_lost_what_every_restore_needs_takes_no_whole_ones_place() {
    let source = source();
    let home = Home::of(&source, "d");
    let (first, second, third) = (home.backup(), home.backup(), home.backup());
    std::fs::create_dir_all(home.path("schedules")).unwrap();
    std::fs::write(
        home.path("schedules/keep.toml"),
        "every = \"1h\"\nstarting = 2026-01-01\n[keep]\ndaily = 1\nat_least = 1\n",
    )
    .unwrap();
    let payloads = home.vault().join("payloads/db").join(&third);
    let lost =
        [payloads, home.meta(&third).join("slots"), home.meta(&third).join("envelope-0001.json")];
    for (number, lost) in lost.iter().enumerate() {
        let away = home.path("away");
        std::fs::rename(lost, &away).unwrap();
        let plan = home.run(&["prune"]).ok();
        assert!(
            plan.stdout.contains("found damaged: it would be kept if it were whole"),
            "{lost:?}: {plan:?}"
        );
        if number + 1 < 3 {
            std::fs::rename(&away, lost).unwrap();
        }
    }
    let pruned = home.run(&["prune", "--confirm"]).ok();
    assert!(
        !home.manifest(&first).exists()
            && home.manifest(&second).exists()
            && home.manifest(&third).exists(),
        "{pruned:?}"
    );
}

/// The same, with something else in their place: names and presence say nothing. And where hardly
/// one is whole, nothing goes.
#[test]
fn slots_and_envelopes_that_are_not_those_that_were_signed_take_no_whole_ones_place() {
    let source = source();
    let home = Home::of(&source, "d");
    let (first, second, third) = (home.backup(), home.backup(), home.backup());
    std::fs::create_dir_all(home.path("schedules")).unwrap();
    std::fs::write(
        home.path("schedules/keep.toml"),
        "every = \"1h\"\nstarting = 2026-01-01\n[keep]\ndaily = 1\nat_least = 1\n",
    )
    .unwrap();
    let of = |backup: &str, file: &str| home.meta(backup).join(file);
    let envelope = ["envelope-0001.json"];
    let slots = ["slots/0001-local.age", "slots/0001-recovery.age"];
    let forged: [(&[&str], Option<&str>); 4] =
        [(&slots, None), (&slots, Some(&second)), (&envelope, None), (&envelope, Some(&second))];
    for (files, other) in forged {
        let kept: Vec<Vec<u8>> =
            files.iter().map(|file| std::fs::read(of(&third, file)).unwrap()).collect();
        for file in files {
            let bytes =
                other.map_or(b"y".to_vec(), |other| std::fs::read(of(other, file)).unwrap());
            std::fs::write(of(&third, file), bytes).unwrap();
        }
        let plan = home.run(&["prune"]).ok();
        let line = |backup: &str| {
            plan.stdout.lines().find(|line| line.contains(backup)).unwrap_or_default().to_owned()
        };
        assert!(
            line(&second).contains("keep") && line(&third).contains("found damaged"),
            "{files:?} {other:?}: {plan:?}"
        );
        let status = home.run(&["status"]);
        assert!(status.code == 11 && status.stdout.contains("found damaged"), "{status:?}");
        home.run(&["verify", &third]).fails(7, &["damaged"]);
        for (file, bytes) in files.iter().zip(kept) {
            std::fs::write(of(&third, file), bytes).unwrap();
        }
        home.run(&["verify", &third]).ok();
    }
    // One without its payload, and two that lost one of two slots each and were found to have.
    std::fs::remove_dir_all(home.vault().join("payloads/db").join(&third)).unwrap();
    for backup in [&first, &second] {
        std::fs::write(of(backup, slots[1]), "x").unwrap();
        home.run(&["verify", backup])
            .fails(7, &["The payloads are whole and open with slot local"]);
    }
    let pruned = home.run(&["prune", "--confirm"]).ok();
    for backup in [&first, &second, &third] {
        assert!(home.manifest(backup).exists(), "{pruned:?}");
    }
    home.run(&[
        "restore",
        "db",
        "--backup",
        &second,
        "--to",
        &source.conninfo("back"),
        "--yes",
        "--check",
    ])
    .ok();
}

/// Two backups of one number: somebody hid the one while the other was taken.
#[test]
fn two_backups_of_one_number_are_told_of_and_neither_is_removed() {
    let source = source();
    let home = Home::of(&source, "d");
    let first = home.backup();
    std::fs::create_dir_all(home.path("schedules")).unwrap();
    std::fs::write(
        home.path("schedules/keep.toml"),
        "every = \"1h\"\nstarting = 2026-01-01\n[keep]\ndaily = 1\nat_least = 1\n",
    )
    .unwrap();
    let (manifest, signature) =
        (home.manifest(&first), home.manifest(&first).with_extension("json.sig"));
    let kept = [&manifest, &signature].map(|file| std::fs::read(file).unwrap());
    std::fs::remove_file(&manifest).unwrap();
    std::fs::remove_file(&signature).unwrap();
    let rebuilt = home.run(&["catalog", "rebuild"]).ok();
    assert!(
        rebuilt
            .stderr
            .contains(&format!("forgotten by this host from now on: backup {first} of db")),
        "{rebuilt:?}"
    );
    let second = home.backup();
    for (file, bytes) in [&manifest, &signature].into_iter().zip(kept) {
        std::fs::write(file, bytes).unwrap();
    }
    let told = format!("backups {first} and {second} of db both have number 1");
    assert!(home.run(&["list"]).ok().stderr.contains(&told));
    let pruned = home.run(&["prune", "--confirm"]).ok();
    assert!(
        pruned.stdout.contains("has the same number")
            && home.manifest(&first).exists()
            && home.manifest(&second).exists(),
        "{pruned:?}"
    );
}

/// The catalog has forgotten a backup, its manifest is gone, and the evidence or a copy still speak
/// of it.
#[test]
fn what_the_evidence_or_a_copy_speaks_of_is_not_swept() {
    let source = source();
    let home = Home::of(&source, "d");
    home.configure("\n[vaults.dr]\ndirectory = \"elsewhere\"\n");
    let held = home.backup();
    home.run(&["hold", &held, "--reason", "case 17"]).ok();
    let copied = home.backup();
    home.run(&["copy", "dr"]).ok();
    for backup in [&held, &copied] {
        std::fs::remove_file(home.manifest(backup)).unwrap();
        std::fs::remove_file(home.manifest(backup).with_extension("json.sig")).unwrap();
    }
    home.run(&["catalog", "rebuild"]).ok();
    std::process::Command::new("find")
        .arg(home.vault())
        .args(["-exec", "touch", "-h", "-d", "2026-01-01", "{}", "+"])
        .status()
        .unwrap();
    let swept = home.run(&["sweep", "--confirm"]).ok();
    assert!(
        swept.stderr.contains(&format!(
            "backup {held} has no manifest, and a signed record of the evidence"
        )),
        "{swept:?}"
    );
    assert!(
        swept.stderr.contains(&format!("backup {copied} has no manifest, and a copy has it")),
        "{swept:?}"
    );
    assert!(home.payload(&held, "main").exists() && home.payload(&copied, "main").exists());
}

/// What is said of a copy is not so of its home, and a copy that lacks the newest says so.
#[test]
fn a_copy_is_not_its_home() {
    let source = source();
    let home = Home::of(&source, "d");
    home.configure("\n[vaults.dr]\ndirectory = \"elsewhere\"\n");
    let (first, second) = (home.backup(), home.backup());
    home.run(&["copy", "dr"]).ok();
    flip(&home.payload(&second, "main"), 4000);
    home.run(&["verify", &second]).fails(7, &["damaged"]);
    home.run(&["verify", &second, "--vault", "dr"]).ok();
    assert!(home.run(&["status"]).stdout.contains("were found damaged"));
    let there = home.path("elsewhere/manifests/db").join(format!("{second}.json"));
    std::fs::remove_file(&there).unwrap();
    std::fs::remove_file(home.path("elsewhere/vault.json")).unwrap();
    let told = format!("the newest of them {second}, number 2");
    assert!(home.run(&["list", "--vault", "dr"]).ok().stderr.contains(&told));
    let plan =
        home.run(&["restore", "db", "--vault", "dr", "--to", &source.conninfo("x"), "--plan"]);
    assert!(plan.stdout.contains(&told) && plan.stdout.contains(&first), "{plan:?}");
    home.run(&["show", "20260101T000000Z-AAAAAA"])
        .fails(3, &["there is no backup 20260101T000000Z-AAAAAA"]);
}

/// One backup whose slots are damaged is no reason for the others to go without a new key.
#[test]
fn rekey_leaves_alone_what_it_cannot_open_and_goes_on() {
    let source = source();
    let home = Home::of(&source, "d");
    let (first, second) = (home.backup(), home.backup());
    let file = home.path("new.txt");
    let made =
        home.run(&["recovery-key", "new", "--out", file.to_str().unwrap(), "--json"]).ok().json();
    home.configure(&format!(
        "\n[keys.k2]\nkind = \"age\"\nrecipients = [\"{}\"]\n",
        made["recipient"].as_str().unwrap()
    ));
    std::fs::write(home.meta(&first).join("slots/0001-local.age"), "x").unwrap();
    home.run(&["rekey", "--confirm"]).fails(7, &[&first]);
    let to = source.conninfo("back");
    std::fs::rename(home.path("keys/identity.txt"), home.path("away")).unwrap();
    home.run(&[
        "restore",
        "db",
        "--backup",
        &second,
        "--to",
        &to,
        "--yes",
        "--identity",
        file.to_str().unwrap(),
    ])
    .ok();
}

/// Another server under the same name would be the newest, and the others would go for it.
#[test]
fn another_cluster_is_refused_until_somebody_confirms_it() {
    let (source, other) = (source(), Cluster::start_with(Major::V17, &[]));
    other.psql("postgres", "CREATE DATABASE d");
    let home = Home::of(&source, "d");
    home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", Major::V18.bin().display()));
    home.backup();
    home.reconfigure(&source.conninfo("d"), &other.conninfo("d"));
    home.run(&["backup", "db"])
        .fails(2, &["the server is another one", "--another-cluster", "nothing was written"]);
    home.run(&["backup", "db", "--another-cluster"]).ok();
    home.backup();
    assert_eq!(home.run(&["list", "--json"]).ok().json().as_array().unwrap().len(), 3);
}

/// Reading the evidence while somebody writes it is no alarm.
#[test]
fn evidence_that_is_being_written_is_not_cut_off() {
    let source = source();
    let home = Home::of(&source, "d");
    let backup = home.backup();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..12 {
                home.run(&["hold", &backup, "--reason", &format!("case {number}")]).ok();
                home.run(&["release", &backup]).ok();
            }
        });
        while !writer.is_finished() {
            home.run(&["evidence", "verify"]).ok();
        }
    });
}

/// Somebody removed a manifest, and the catalog is lost: what is left of the backup looks like one
/// that was never published.
#[test]
fn what_may_have_been_a_backup_is_not_swept() {
    let source = source();
    let home = Home::of(&source, "d");
    let backups = [home.backup(), home.backup(), home.backup()];
    // Ids have whole seconds.
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(
        home.run_with(&[("LIFEBOAT_FAILPOINT", "envelope-written")], &["backup", "db"]).code,
        137
    );
    let manifest = home.path(&format!("vault/manifests/db/{}.json", backups[1]));
    let text = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    std::fs::remove_file(home.path("catalog.db")).unwrap();
    // Nobody knows any more that the killed run was this host's: a day must pass for it.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 86_400);
    for file in files(&home.path("vault")) {
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
    }
    let swept = home.run(&["sweep", "--confirm"]).ok();
    let told = format!(
        "backup {} has no manifest, and may have had one of the numbers that are missing",
        backups[1]
    );
    assert!(swept.stderr.contains(&told), "{}", swept.stderr);
    // That of the killed run is newer than the gap: it can have had none of the missing numbers.
    let payloads = files(&home.path("vault/payloads/db"));
    assert!(
        payloads.iter().all(|file| backups
            .iter()
            .any(|backup| file.display().to_string().contains(backup.as_str()))),
        "{payloads:?}"
    );
    std::fs::write(&manifest, text).unwrap();
    home.run(&["verify", "--all"]).ok();
}

/// What a copy that died left in the other vault goes as well, once nothing of it has changed for a
/// day.
#[test]
fn what_a_dead_copy_left_in_the_other_vault_is_swept() {
    let source = source();
    let home = Home::of(&source, "d");
    home.configure("\n[vaults.dr]\ndirectory = \"copy\"\n");
    home.backup();
    home.run(&["copy", "dr"]).ok();
    let stranger = home.path("copy/payloads/db/20260101T000000Z-AAAAAA/main.zst.age");
    let unfinished =
        home.path("copy/.unfinished/payloads~db~20260101T000000Z-AAAAAA~main.zst.age~00");
    for file in [&stranger, &unfinished] {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "left").unwrap();
    }
    home.run(&["sweep", "--older-than", "0s"]).ok();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 86_400);
    for file in [&stranger, &unfinished] {
        std::fs::File::options().write(true).open(file).unwrap().set_modified(old).unwrap();
    }
    let found = home.run(&["sweep"]);
    assert!(found.code == 10 && found.stdout.contains("in vault dr"), "{found:?}");
    home.run(&["sweep", "--confirm"]).ok();
    assert!(!stranger.exists() && !unfinished.exists());
    home.run(&["verify", "--all", "--vault", "dr"]).ok();
}

/// The same host twice, from one image: each notices the other by the vault's own numbers. So does
/// a catalog of an earlier day.
#[test]
fn a_cloned_host_and_a_catalog_of_an_earlier_day_are_noticed() {
    let source = source();
    let home = Home::of(&source, "d");
    let first = home.backup();
    // What was noted last may stand in the log beside it.
    let of_catalog = || {
        ["catalog.db", "catalog.db-wal"]
            .map(|file| (home.path(file), std::fs::read(home.path(file)).ok()))
    };
    let early = of_catalog();
    let told = "another host takes backups with these keys, or the catalog was restored from an earlier day";
    let second = home.backup();
    // What a killed run had published is its own.
    assert_eq!(
        home.run_with(&[("LIFEBOAT_FAILPOINT", "manifest-written")], &["backup", "db"]).code,
        137
    );
    let third = home.run(&["backup", "db"]).ok();
    assert!(!third.stderr.contains(told), "{third:?}");
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(home.path(file));
    }
    for (file, bytes) in early {
        bytes.into_iter().for_each(|bytes| std::fs::write(&file, bytes).unwrap());
    }
    let report = home.run(&["backup", "db", "--json"]).ok();
    assert!(
        report.stderr.contains(told)
            && report.stderr.contains(&second)
            && !report.stderr.contains(&first),
        "{report:?}"
    );
    assert_eq!(report.json()[0]["strangers"].as_array().unwrap().len(), 3, "{report:?}");
    // It is told once, and numbers go on.
    assert!(!home.run(&["backup", "db"]).ok().stderr.contains(told));
    let numbers: Vec<u64> = home
        .run(&["list", "--json"])
        .ok()
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    // A catalog that is new has nothing to compare with.
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(home.path(file));
    }
    assert!(!home.run(&["backup", "db"]).ok().stderr.contains(told));
}

//! Lost keys and rotated ones: the recovery key made, printed and proven; every backup given other
//! slots, payloads untouched.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use crate::support::home::out;
use crate::support::{Cluster, Home, browser, files};

fn source() -> Cluster {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    source
}

/// Runs a command with something on its standard input.
fn with_input(home: &Home, arguments: &[&str], input: &[u8]) -> crate::support::Out {
    let mut command = home.command(arguments);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    out(&child.wait_with_output().unwrap())
}

/// SHA-256 of every file under `payloads/` and `manifests/`: what rotation must not touch.
fn untouchable(home: &Home) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let all = files(&home.vault().join("payloads"))
        .into_iter()
        .chain(files(&home.vault().join("manifests")));
    all.map(|file| (file.clone(), std::fs::read(&file).unwrap())).collect()
}

#[test]
fn a_recovery_key_is_made_printed_once_and_proven() {
    let source = source();
    let home = Home::of(&source, "d");
    home.add_datastore("other", &source.conninfo("d"), "");
    home.run(&["backup", "db", "other"]).ok();
    // The key from `init` opens everything; nothing of it is left behind.
    let key = std::fs::read(home.recovery()).unwrap();
    let before = files(&home.path(""));
    let proven = with_input(&home, &["recovery-key", "test"], &key).ok();
    assert!(proven.stdout.matches("opens, slot recovery").count() == 2, "{}", proven.stdout);
    let kept = |name: &std::path::PathBuf| !name.to_string_lossy().contains("catalog");
    assert_eq!(
        files(&home.path("")).into_iter().filter(kept).collect::<Vec<_>>(),
        before.into_iter().filter(kept).collect::<Vec<_>>()
    );
    // A new one, on a card.
    let made = home.run(&["recovery-key", "new"]).ok();
    let secret = made
        .stdout
        .split_whitespace()
        .find(|word| word.starts_with("AGE-SECRET-KEY-1"))
        .unwrap()
        .to_owned();
    for words in [
        "LIFEBOAT RECOVERY KEY",
        "age -d -i recovery.txt",
        "--trust-key",
        "▀",
        "public half   age1",
    ] {
        assert!(made.stdout.contains(words), "{words}: {}", made.stdout);
    }
    assert!(!made.stderr.contains("AGE-SECRET-KEY"), "{}", made.stderr);
    let (file, card) = (home.path("new.txt"), home.path("card.html"));
    let made = home
        .run(&[
            "recovery-key",
            "new",
            "--out",
            file.to_str().unwrap(),
            "--card",
            card.to_str().unwrap(),
        ])
        .ok();
    assert!(
        !made.stdout.contains("AGE-SECRET-KEY") && !made.stderr.contains("AGE-SECRET-KEY"),
        "{made:?}"
    );
    for secret in [&file, &card] {
        assert_eq!(
            std::fs::metadata(secret).unwrap().permissions().mode() & 0o077,
            0,
            "{}",
            secret.display()
        );
    }
    home.run(&["recovery-key", "new", "--out", file.to_str().unwrap()])
        .fails(2, &["never written over another"]);
    browser::shows(&format!("file://{}", card.display()), "recovery-card");
    // It opens nothing yet, and that is said; nonsense is refused without being repeated.
    with_input(&home, &["recovery-key", "test"], &std::fs::read(&file).unwrap())
        .fails(5, &["does not open the newest backup of db, other", "lifeboat rekey"]);
    let refused = with_input(&home, &["recovery-key", "test"], b"AGE-SECRET-KEY-1NONSENSE")
        .fails(5, &["is not an age identity"]);
    assert!(!refused.stderr.contains("NONSENSE"), "{}", refused.stderr);
    with_input(&home, &["recovery-key", "test"], secret.as_bytes()).fails(5, &["does not open"]);
    // The key of this host proves nothing of the offline one.
    let own = std::fs::read(home.path("keys/identity.txt")).unwrap();
    let proven = with_input(&home, &["recovery-key", "test"], &own)
        .fails(9, &["this is a key of this host"]);
    assert!(proven.stdout.contains("this host's own key, and lost with it"), "{}", proven.stdout);
    // The stock tool reads the identity file.
    let recipient = std::process::Command::new("age-keygen")
        .args(["-y", file.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&recipient.stdout).starts_with("age1"));
}

#[test]
fn rotation_gives_old_backups_new_slots_touches_no_payload_and_retires_the_old_key() {
    let (source, target) = (source(), Cluster::start());
    let home = Home::of(&source, "d");
    let backups: Vec<String> = (0..4).map(|_| home.backup()).collect();
    let plan = home.run(&["rekey"]).ok();
    assert!(plan.stdout.contains("4 backups are as lifeboat.toml asks"), "{}", plan.stdout);
    // The recovery key is lost: a new one takes its place.
    let file = home.path("new.txt");
    let made =
        home.run(&["recovery-key", "new", "--out", file.to_str().unwrap(), "--json"]).ok().json();
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    let old = text.lines().find(|line| line.starts_with("recipients")).unwrap();
    home.reconfigure(old, &format!("recipients = [\"{}\"]", made["recipient"].as_str().unwrap()));
    let before = untouchable(&home);
    let plan = home.run(&["rekey"]).ok();
    assert!(plan.stdout.contains("4 backups: add recovery, retire recovery"), "{}", plan.stdout);
    assert!(plan.stderr.contains("nothing was changed"), "{}", plan.stderr);
    // In batches, and killed between signature and envelope: the next run goes on.
    let first = home.run(&["rekey", "--confirm", "--batch", "1", "--per-second", "100"]).ok();
    assert!(
        first.stdout.contains("1 backups have a new envelope")
            && first.stdout.contains("3 are left"),
        "{}",
        first.stdout
    );
    home.run_with(&[("LIFEBOAT_FAILPOINT", "rekey-signed")], &["rekey", "--confirm"])
        .fails(137, &[]);
    home.run(&["verify", "--all"]).ok();
    let done = home.run(&["rekey", "--confirm", "--per-second", "100"]).ok();
    for words in [
        "3 backups have a new envelope",
        "proven: local alone opens",
        "4 files of retired slots were removed",
    ] {
        assert!(done.stdout.contains(words), "{words}: {}", done.stdout);
    }
    assert_eq!(untouchable(&home), before, "no payload and no manifest was touched");
    let plan = home.run(&["rekey"]).ok();
    assert!(
        plan.stdout.contains("4 backups are as lifeboat.toml asks")
            && !plan.stdout.contains("still opens"),
        "{}",
        plan.stdout
    );
    // The new key opens all of them alone; the old one none.
    std::fs::rename(home.path("keys/identity.txt"), home.path("away")).unwrap();
    home.run(&["verify", "--all", "--identity", file.to_str().unwrap()]).ok();
    home.run(&["verify", "--all", "--identity", &home.recovery()])
        .fails(5, &["no key opens backup"]);
    home.run(&[
        "restore",
        "db",
        "--backup",
        &backups[0],
        "--to",
        &target.conninfo("d"),
        "--yes",
        "--check",
        "--identity",
        file.to_str().unwrap(),
    ])
    .ok();
    // By hand, with the newest guide.
    let guide = std::fs::read_to_string(
        files(&home.meta(&backups[0]))
            .into_iter()
            .rfind(|f| {
                f.to_string_lossy().contains("RESTORE-") && f.extension().is_some_and(|e| e == "md")
            })
            .unwrap(),
    )
    .unwrap();
    assert!(guide.contains("Slot `recovery` (age)"), "{guide}");
    let slot = guide
        .lines()
        .find_map(|line| {
            line.strip_prefix("age -d -i \"$IDENTITY\" ")?
                .strip_suffix(" > identity.txt")
                .filter(|slot| slot.contains("recovery"))
        })
        .unwrap();
    let opened = std::process::Command::new("age")
        .args(["-d", "-i", file.to_str().unwrap()])
        .arg(home.vault().join(slot))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&opened.stdout).starts_with("AGE-SECRET-KEY-1"), "{opened:?}");
}

/// Whoever may write to the vault cannot close a backup, nor make rotation believe in an envelope.
#[test]
fn a_forged_envelope_changes_nothing() {
    let source = source();
    let home = Home::of(&source, "d");
    let backup = home.backup();
    let envelope = std::fs::read_to_string(home.meta(&backup).join("envelope-0001.json")).unwrap();
    std::fs::write(
        home.meta(&backup).join("envelope-0007.json"),
        envelope.replace("\"number\": 1", "\"number\": 7"),
    )
    .unwrap();
    std::fs::write(home.meta(&backup).join("envelope-0007.json.sig"), [0; 64]).unwrap();
    home.run(&["verify", "--all"])
        .fails(7, &["envelope-0007.json is not signed by a trusted key", "open with slot local"]);
    home.run(&["restore", "db", "--to", &source.conninfo("back"), "--yes", "--check"]).ok();
    let plan = home.run(&["rekey"]).ok();
    assert!(plan.stdout.contains("1 backups are as lifeboat.toml asks"), "{}", plan.stdout);
}

fn in_days(days: i64) -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days))
        .strftime("%F")
        .to_string()
}

/// An offline key is renewed by people, who must know in time.
#[test]
fn a_key_that_expires_is_told_of_a_month_before() {
    let source = source();
    let home = Home::of(&source, "d");
    home.backup();
    for (days, answer, words) in
        [(60, "", ""), (10, "note", "it expires on"), (-1, "BAD", "it expired on")]
    {
        let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
        home.reconfigure(
            "[keys.recovery]",
            &format!("[keys.recovery]\nexpires = {}", in_days(days)),
        );
        let (check, status) = (home.run(&["check"]), home.run(&["status"]));
        let line = check
            .stdout
            .lines()
            .find(|line| line.starts_with("key recovery") && line.contains("can be used"))
            .unwrap_or_default();
        assert!(line.contains(answer) && line.contains(words), "{days}: {}", check.stdout);
        assert_eq!(
            status.stdout.contains(&format!("key recovery: {words}")),
            !words.is_empty(),
            "{days}: {status:?}"
        );
        // It wraps all the same: tonight's backup is not the place to enforce it.
        home.backup();
        std::fs::write(home.path("lifeboat.toml"), text).unwrap();
    }
}

/// A signing key that was stolen: what was stored before stays believed, whatever date is written
/// into what comes after.
#[test]
fn what_a_distrusted_key_signs_from_a_day_on_is_not_believed() {
    let source = source();
    let home = Home::of(&source, "d");
    let (before, after) = (home.backup(), home.backup());
    let trust = std::fs::read_to_string(home.path("keys/signing.pub.pem")).unwrap();
    let line: String = trust.lines().filter(|line| !line.starts_with("-----")).collect();
    let distrust = |days: i64| {
        home.configure(&format!(
            "\n[[signing.distrust]]\nkey = \"{line}\"\nfrom = {}\n",
            in_days(days)
        ))
    };
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    distrust(10);
    let (check, status) = (home.run(&["check"]).ok(), home.run(&["status"]));
    assert!(check.stdout.contains("what it signs will not be believed from"), "{}", check.stdout);
    assert!(
        status.stdout.contains("key signing: what it signs will not be believed from"),
        "{status:?}"
    );
    home.run(&["verify", "--all"]).ok();

    std::fs::write(home.path("lifeboat.toml"), text).unwrap();
    distrust(-3);
    // As the store says, which nobody who only has the key can write.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(9 * 86_400);
    for file in
        files(&home.vault()).iter().filter(|file| file.display().to_string().contains(&before))
    {
        std::fs::File::options().write(true).open(file).unwrap().set_modified(old).unwrap();
    }
    home.run(&["verify", &before]).ok();
    home.run(&["verify", &after]).fails(7, &["is not signed by a trusted key"]);
    let restored = home.run(&["restore", "db", "--to", &source.conninfo("back"), "--yes"]).ok();
    assert!(restored.stdout.contains(&before) || restored.stderr.contains(&before), "{restored:?}");
    let vault = files(&home.vault());
    home.run(&["backup", "db"])
        .fails(2, &["lifeboat.toml distrusts it in everything since", "make a new signing key"]);
    assert_eq!(files(&home.vault()), vault);
    let check = home.run(&["check"]);
    assert!(check.code == 5 && check.stdout.contains("make a new signing key"), "{check:?}");
    // A key that is not trusted need not be distrusted, and a day must be named.
    home.reconfigure(&format!("from = {}", in_days(-3)), "");
    home.run(&["check"]).fails(2, &["it is not said from when on", "write from = 2026-12-24"]);
}

//! Lost regions and lost hosts: a copy in another vault, opened by another key, on a host that has
//! nothing.

use std::path::Path;

use crate::support::home::{Out, finish};
use crate::support::{Cluster, Home, files};

fn source() -> Cluster {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 30000) i; ALTER TABLE t ADD PRIMARY KEY (i)");
    source
}

fn with_replica(source: &Cluster) -> Home {
    let home = Home::of(source, "d");
    home.configure("\n[vaults.dr]\ndirectory = \"elsewhere\"\n");
    home
}

/// The public half of the signing key, as a recovery card has it.
fn trust(home: &Home) -> String {
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    text.split("trust = [\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

/// lifeboat on a host that has no configuration at all.
fn on_a_fresh_laptop(home: &Home, arguments: &[&str]) -> Out {
    let laptop = tempfile::tempdir().unwrap();
    let mut command = home.command(arguments);
    command.env_remove("LIFEBOAT_CONFIG").env("HOME", laptop.path()).current_dir(laptop.path());
    finish(command)
}

/// Names and bytes of everything below a directory but what only one of two vaults has.
fn content(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let name = |file: &Path| file.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
    // What `check` wrote to see whether it may is no part of a vault.
    let all = files(directory).into_iter().filter(|file| !name(file).starts_with("probes/"));
    all.map(|file| (name(&file), std::fs::read(&file).unwrap())).collect()
}

#[test]
fn a_copy_is_the_same_vault_in_another_place_and_a_lost_region_is_restored_from_it() {
    let (source, target) = (source(), Cluster::start());
    let home = with_replica(&source);
    home.backup();
    let check = home.run(&["check"]).ok();
    assert!(
        check.stdout.contains("it lacks 1 backups; `lifeboat copy dr` brings them"),
        "{}",
        check.stdout
    );
    let copied = home.run(&["copy", "dr"]).ok();
    assert!(home.run(&["check"]).ok().stdout.contains("it has every backup"));
    assert!(copied.stdout.contains("1 backups are new in vault dr"), "{}", copied.stdout);
    assert_eq!(content(&home.vault()), content(&home.path("elsewhere")));
    // Only what is new is sent; envelopes of a rotation as well.
    home.backup();
    let copied = home.run(&["copy", "dr", "--json"]).ok().json();
    assert_eq!(
        (copied["backups"].as_u64(), copied["unchanged"].as_u64()),
        (Some(1), Some(1)),
        "{copied:#}"
    );
    home.configure("\n[keys.second]\nkind = \"age\"\nrecipients = [\"age1vxcjmuztxn2tgmyxlptnqwj89f63wvlyyr423rnfrflehkpkgfqscc9udr\"]\n");
    home.run(&["rekey", "--confirm", "--per-second", "100"]).ok();
    let copied = home.run(&["copy", "dr", "--json"]).ok().json();
    assert_eq!(
        (copied["backups"].as_u64(), copied["updated"].as_u64()),
        (Some(0), Some(2)),
        "{copied:#}"
    );
    assert_eq!(content(&home.vault()), content(&home.path("elsewhere")));
    assert_eq!(home.run(&["copy", "dr", "--json"]).ok().json()["objects"], 0);
    // The region is gone, its key as well.
    std::fs::rename(home.vault(), home.path("gone")).unwrap();
    std::fs::rename(home.path("keys/identity.txt"), home.path("gone-too")).unwrap();
    home.restore(&target.conninfo("d")).fails(2, &["there is no vault"]);
    let plan = home
        .run(&["restore", "db", "--vault", "dr", "--identity", &home.recovery(), "--plan"])
        .ok();
    assert!(
        plan.stdout.contains("elsewhere") && plan.stdout.contains("with key slot recovery"),
        "{}",
        plan.stdout
    );
    let arguments = [
        "restore",
        "db",
        "--vault",
        "dr",
        "--to",
        &target.conninfo("d"),
        "--yes",
        "--check",
        "--identity",
        &home.recovery(),
    ];
    home.run(&arguments).ok();
    assert_eq!(target.psql("d", "SELECT count(*) FROM t"), "30000");
    assert!(files(&home.path("elsewhere/evidence")).is_empty(), "a copy's series would fork");
    home.run(&["restore", "db", "--vault", "rd", "--plan"])
        .fails(2, &["it is no vault", "lifeboat.toml names dr"]);
    home.run(&["copy", "nowhere"]).fails(2, &["lifeboat.toml names dr", "[vaults.nowhere]"]);
}

#[test]
fn what_is_damaged_or_forged_is_not_copied_and_another_vault_is_not_written_to() {
    let source = source();
    let home = with_replica(&source);
    let (damaged, good) = (home.backup(), home.backup());
    let main = home.payload(&damaged, "main");
    let mut bytes = std::fs::read(&main).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&main, bytes).unwrap();
    let failed = home
        .run(&["copy", "dr"])
        .fails(7, &["is damaged", "not those that were stored", "and not everything"]);
    assert!(
        failed.stderr.contains(&damaged) && failed.stdout.contains("1 backups are new"),
        "{failed:?}"
    );
    let manifests = home.path("elsewhere/manifests");
    assert_eq!(
        files(&manifests).len(),
        2,
        "a damaged backup never looks like a whole one, and keeps no other from being copied"
    );
    assert!(files(&home.path("elsewhere/.unfinished")).is_empty(), "nothing unfinished is left");
    // A forged manifest is left alone and named.
    std::fs::remove_file(home.manifest(&damaged)).unwrap();
    std::fs::copy(home.manifest(&good), home.manifest(&damaged)).unwrap();
    home.run(&["copy", "dr"]).fails(7, &[&damaged, "not everything"]);
    // Something else under a payload's name in the other vault is noticed before a manifest names
    // it.
    let third = home.backup();
    let there = home.path(&format!("elsewhere/payloads/db/{third}/main.zst.age"));
    std::fs::create_dir_all(there.parent().unwrap()).unwrap();
    std::fs::write(&there, b"age-encryption.org/v1\nsomething else").unwrap();
    home.run(&["copy", "dr"]).fails(7, &[&third, "the signed manifest says"]);
    std::fs::remove_file(there).unwrap();
    assert_eq!(files(&manifests).len(), 2, "the good one and its signature");
    let other = Home::new();
    home.configure(&format!("\n[vaults.other]\ndirectory = \"{}\"\n", other.vault().display()));
    home.run(&["copy", "other"]).fails(2, &["a vault of its own", "nothing was copied"]);
}

#[test]
fn a_fresh_laptop_with_a_recovery_key_is_enough() {
    let (source, target) = (source(), Cluster::start());
    let home = Home::of(&source, "d");
    home.backup();
    let (vault, to, trust) =
        (home.vault().to_str().unwrap().to_owned(), target.conninfo("d"), trust(&home));
    let base = ["restore", "db", "--vault", &vault, "--identity", &home.recovery()];
    let plan =
        on_a_fresh_laptop(&home, &[&base[..], &["--plan", "--trust-key", &trust]].concat()).ok();
    assert!(
        plan.stdout.contains("signature verified")
            && plan.stdout.contains("with key slot recovery"),
        "{}",
        plan.stdout
    );
    let restored = on_a_fresh_laptop(
        &home,
        &[&base[..], &["--to", &to, "--yes", "--check", "--trust-key", &trust]].concat(),
    )
    .ok();
    assert!(restored.stdout.contains("all as recorded"), "{}", restored.stdout);
    assert!(restored.stderr.contains("is not recorded in the evidence"), "{}", restored.stderr);
    // Without a pin it says so; without a key it says what to give.
    let plan = on_a_fresh_laptop(&home, &[&base[..], &["--plan"]].concat()).ok();
    assert!(plan.stdout.contains("UNVERIFIED"), "{}", plan.stdout);
    on_a_fresh_laptop(
        &home,
        &["restore", "db", "--vault", &vault, "--plan", "--trust-key", &trust],
    )
    .fails(5, &["no key opens", "--identity FILE"]);
    on_a_fresh_laptop(&home, &["restore", "db", "--vault", "/nowhere", "--plan"])
        .fails(2, &["it is no vault", "recovery card"]);
    on_a_fresh_laptop(&home, &["restore", "bd", "--vault", &vault, "--plan"])
        .fails(2, &["did you mean db?"]);
}

/// The printed runbook's own commands bring the datastore back.
#[test]
fn the_runbook_of_a_datastore_is_followed_to_the_letter() {
    let (source, target) = (source(), Cluster::start());
    let home = with_replica(&source);
    home.backup();
    home.run(&["copy", "dr"]).ok();
    let page = home.run(&["runbook", "db"]).ok().stdout;
    for words in [
        home.vault().to_str().unwrap(),
        "its copy: `dr, file://",
        &trust(&home),
        "offline: fetch the card",
        "back within 4h",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    std::fs::copy(home.recovery(), home.path("recovery.copy")).unwrap();
    let blocks: Vec<&str> =
        page.split("```bash\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 8, "{page}");
    for block in blocks {
        // Each way starts from a server that has nothing but what went before it.
        let server = format!("host={} user=postgres", target.socket().display());
        let fresh = block.contains("--check --yes") && !block.contains("_rescue");
        if fresh {
            target.psql("postgres", "DROP DATABASE IF EXISTS d WITH (FORCE)");
        }
        // A person copies the recovery key to where they work.
        let block = block
            .replace("SCHEMA.TABLE", "public.t")
            .replace("recovery.txt", &home.path("recovery.copy").display().to_string());
        let lifeboat = Path::new(env!("CARGO_BIN_EXE_lifeboat")).parent().unwrap();
        let path = format!("{}:{}", lifeboat.display(), std::env::var("PATH").unwrap());
        let mut bash = std::process::Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &block])
            .env_clear()
            .env("PATH", path)
            .env("HOME", home.path(""))
            .env("TARGET", &server);
        if !block.contains("mktemp") {
            bash.env("LIFEBOAT_CONFIG", home.path("lifeboat.toml"));
        }
        let output = bash.current_dir(home.path("")).output().unwrap();
        assert!(
            output.status.success(),
            "{block}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if fresh {
            assert_eq!(target.psql("d", "SELECT count(*) FROM t"), "30000", "{block}");
        }
    }
    assert_eq!(target.psql("d_rescue", "SELECT count(*) FROM t"), "30000");
}

//! Damage has a way out: the damaged backup is named, the one before it and the command that
//! restores it; what is known is remembered until it is over.

use crate::support::{Cluster, Home, files};

/// Turns a bit in the middle of the main payload of a backup.
fn damage(home: &Home, backup: &str) -> (std::path::PathBuf, Vec<u8>) {
    let file = home.payload(backup, "main");
    let sound = std::fs::read(&file).unwrap();
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    (file, sound)
}

fn two_backups() -> (Cluster, Home, String, String) {
    two_backups_of(
        "CREATE TABLE t AS SELECT i, md5(i::text) AS x FROM generate_series(1, 100000) i",
    )
}

fn two_backups_of(tables: &str) -> (Cluster, Home, String, String) {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", tables);
    let home = Home::of(&source, "d");
    let older = home.backup();
    // Names tell the second.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let newest = home.backup();
    (source, home, older, newest)
}

#[test]
fn a_damaged_payload_names_the_backup_before_it_and_the_command_works() {
    // Several chunks: the plan reads the first.
    let (_source, home, older, newest) = two_backups_of(
        "CREATE TABLE t AS SELECT i, (SELECT string_agg(sha512((i || '.' || j)::text::bytea), '') FROM generate_series(1, 64) j) AS x FROM generate_series(1, 6000) i",
    );
    let target = Cluster::start();
    damage(&home, &newest);
    let to = target.conninfo("back");
    let plan = home.run(&["restore", "db", "--to", &to, "--plan"]).ok();
    assert!(plan.stdout.contains("not read in full"), "{}", plan.stdout);
    let out = home.run(&["restore", "db", "--to", &to, "--yes", "--check"]).fails(
        7,
        &[
            &format!("Backup {newest} is damaged; the one before it is {older}"),
            &format!("--backup {older} --take-over"),
        ],
    );
    assert!(!out.stderr.contains("The same command goes on"), "{}", out.stderr);
    // The very command, as it is printed.
    let command = out
        .stderr
        .lines()
        .find(|line| line.trim_start().starts_with("lifeboat restore"))
        .unwrap()
        .trim()
        .to_owned();
    let script = command.replacen("lifeboat", env!("CARGO_BIN_EXE_lifeboat"), 1);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).env("LIFEBOAT_CONFIG", home.path("lifeboat.toml"));
    let ran = crate::support::home::finish({
        shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        shell
    });
    assert!(ran.code == 0 && ran.stdout.contains("all as recorded"), "{command}: {ran:?}");
    // It is known from now on.
    let status = home.run(&["status"]);
    assert!(
        status.code == 11
            && status
                .stdout
                .contains(&format!("found damaged, and not found whole since: {newest}")),
        "{status:?}"
    );
    // What somebody else has put into a database is not taken over.
    target.psql("postgres", "CREATE DATABASE theirs");
    let theirs = target.conninfo("theirs");
    home.run(&["restore", "db", "--to", &theirs, "--yes"]).fails(7, &[]);
    home.run(&["restore", "db", "--to", &theirs, "--backup", &older, "--take-over", "--yes"])
        .fails(2, &["was begun and not finished"]);
}

/// Damage in what the plan reads anyway is found before anything is changed, and has the same way
/// out.
#[test]
fn damage_at_the_beginning_is_found_by_the_plan() {
    let (_source, home, older, newest) = two_backups();
    let target = Cluster::start();
    damage(&home, &newest);
    let to = target.conninfo("back");
    let plan = home
        .run(&["restore", "db", "--to", &to, "--plan"])
        .fails(7, &["not those that were stored"]);
    assert!(
        plan.stdout.contains(&format!("restore the one before it: --backup {older}")),
        "{}",
        plan.stdout
    );
    let out = home
        .run(&["restore", "db", "--to", &to, "--yes"])
        .fails(7, &[&format!("Backup {newest} is damaged; the one before it is {older}")]);
    assert!(
        out.stderr.contains("nothing was changed on the target")
            && !out.stderr.contains("--take-over"),
        "{}",
        out.stderr
    );
    assert!(home.run(&["status"]).stdout.contains("found damaged"));
    home.run(&["restore", "db", "--to", &to, "--backup", &older, "--yes", "--check"]).ok();
}

#[test]
fn verify_names_every_damaged_backup_and_remembers_it_until_it_is_whole() {
    let (_source, home, older, newest) = two_backups();
    let (file, sound) = damage(&home, &newest);
    let out = home.run(&["verify", "--all"]);
    assert!(
        out.code == 7
            && out.stderr.contains(&format!("backup {newest} of db:"))
            && out.stderr.contains("damaged: "),
        "{out:?}"
    );
    let listed = home.run(&["verify", "--all", "--json"]);
    let found: Vec<(String, Option<bool>)> =
        serde_json::from_str::<serde_json::Value>(&listed.stdout)
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["backup"].as_str().unwrap().to_owned(), one["whole"].as_bool()))
            .collect();
    assert!(
        found.contains(&(newest.clone(), Some(false)))
            && found.contains(&(older.clone(), Some(true))),
        "{found:?}"
    );
    assert!(home.run(&["status", "--json"]).stdout.contains("damaged"));
    let plan = home.run(&["restore", "db", "--backup", &older, "--plan"]).stdout;
    assert!(plan.contains("read in full"), "{plan}");
    let plan = home.run(&["restore", "db", "--plan", "--verify"]).fails(7, &[]);
    assert!(plan.stdout.contains("MISSING") && plan.stdout.contains("main"), "{plan:?}");
    std::fs::write(&file, &sound).unwrap();
    home.run(&["verify", &newest]).ok();
    assert!(!home.run(&["status"]).stdout.contains("found damaged"));
    home.run(&["restore", "db", "--plan", "--verify"]).ok();
    // What can be seen in seconds is seen in the plan: an object that is shorter than what was
    // signed, or gone.
    std::fs::write(&file, &sound[..sound.len() - 1]).unwrap();
    home.run(&["restore", "db", "--plan"]).fails(7, &["bytes, and", "were signed"]);
    std::fs::remove_file(&file).unwrap();
    let plan = home.run(&["restore", "db", "--plan"]).fails(7, &["it is not in the vault"]);
    assert!(
        plan.stdout.contains(&format!("restore the one before it: --backup {older}")),
        "{}",
        plan.stdout
    );
    assert!(
        plan.stdout.contains("NO: an object is gone")
            && !plan.stdout.contains("its objects are there"),
        "{}",
        plan.stdout
    );
    assert!(!files(&home.vault()).is_empty());
}

#[test]
fn what_was_there_before_is_seen_and_stays() {
    let (_source, home, ..) = two_backups();
    let target = Cluster::start();
    for (number, (there, example)) in [
        ("CREATE SCHEMA app", "schema app"),
        ("CREATE TYPE mood AS ENUM ('sad')", "type public.mood"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "function public.f"),
        ("CREATE DOMAIN email AS text", "type public.email"),
    ]
    .into_iter()
    .enumerate()
    {
        target.psql("postgres", &format!("CREATE DATABASE d{number}"));
        target.psql(&format!("d{number}"), there);
        home.restore(&target.conninfo(&format!("d{number}")))
            .fails(2, &["is not empty: it holds 1 objects", example]);
    }
    // An extension's own are not in the way, and a comment is put back.
    target.psql(
        "postgres",
        "CREATE DATABASE known; COMMENT ON DATABASE known IS 'made by a template'",
    );
    target.psql("known", "CREATE EXTENSION hstore");
    let out = home.restore(&target.conninfo("known"));
    assert!(
        out.code == 8 && out.stdout.contains("extension hstore: was not there at backup time"),
        "{out:?}"
    );
    let comment =
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'known'";
    assert_eq!(target.psql("postgres", comment), "made by a template");
}

#[test]
fn a_swap_with_a_stranger_is_told_and_one_with_nobody_is_refused() {
    let (_source, home, ..) = two_backups();
    let target = Cluster::start();
    target.psql("postgres", "CREATE DATABASE billing");
    target.psql("billing", "CREATE TABLE invoices (i int)");
    let plan = home
        .run(&["restore", "db", "--to", &target.conninfo("billing"), "--swap", "--plan"])
        .ok()
        .stdout;
    assert!(
        plan.contains("has not one table of the backup: is it the right name?")
            && plan.contains("sessions now)"),
        "{plan}"
    );
    target.psql("billing", "CREATE TABLE t (i int)");
    let plan = home
        .run(&["restore", "db", "--to", &target.conninfo("billing"), "--swap", "--plan"])
        .ok()
        .stdout;
    assert!(!plan.contains("is it the right name?"), "{plan}");
    home.run(&["restore", "db", "--to", &target.conninfo("biling"), "--swap", "--yes"])
        .fails(2, &["there is no database \"biling\" whose place"]);
}

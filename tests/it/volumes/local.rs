//! Volume sets on real file systems: frozen, cloned, hashed, read back; and what goes wrong on the
//! way.

use std::path::Path;

use crate::support::disks::run;
use crate::support::home::out;
use crate::support::{Cluster, Disks, Home, Major, Out, eventually};

const BASE: &str = "\n[datastores.disks]\nkind = \"local-volumes\"\ndirectory = \"volumes\"\nkms_keys = [\"local-key\"]\n";

fn frozen(points: &[&Path]) -> String {
    let points: Vec<String> =
        points.iter().map(|point| format!("\"{}\"", point.display())).collect();
    format!("consistency = \"filesystem\"\nfreeze = [{}]\n", points.join(", "))
}

/// A home with two volumes with files on them, frozen when they are cut.
fn two() -> (Home, Disks) {
    let home = Home::new();
    let mut disks = Disks::new(&home.path("."));
    for (id, kind) in [("vol-a", "ext4"), ("vol-b", "xfs")] {
        let inside = disks.volume(id, 400, kind);
        std::fs::write(inside.join("file"), id.repeat(100_000)).unwrap();
    }
    home.configure(&format!(
        "{BASE}instance = \"i-local\"\n{}",
        frozen(&[&disks.mounted("vol-a"), &disks.mounted("vol-b")])
    ));
    (home, disks)
}

/// A backup that stands still at a named place.
struct Paused {
    child: std::process::Child,
    go_on: std::path::PathBuf,
}

impl Paused {
    fn at(home: &Home, place: &str) -> Self {
        let go_on = home.path("go-on");
        let mut command = home.command(&["backup", "disks", "--json"]);
        command.env("LIFEBOAT_WAITPOINT", format!("{place}={}", go_on.display()));
        let child = command.spawn().unwrap();
        eventually(place, || home.path("go-on.reached").exists());
        Self { child, go_on }
    }

    fn goes_on(self) -> Out {
        std::fs::write(&self.go_on, "").unwrap();
        out(&self.child.wait_with_output().unwrap())
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn snapshots(disks: &Disks) -> usize {
    std::fs::read_dir(disks.directory().join("snapshots")).map_or(0, Iterator::count)
}

#[test]
fn a_set_is_frozen_cut_hashed_listed_verified_and_the_next_one_reads_only_what_changed() {
    let (home, disks) = two();
    let first = home.run(&["backup", "disks", "--json"]).ok().json();
    let set = &first[0]["set"];
    assert_eq!(
        (set["consistency"].as_str(), set["one_moment"].as_bool()),
        (Some("filesystem"), Some(true)),
        "{set}"
    );
    assert!(set["frozen_millis"].as_u64().unwrap() < 10_000);
    assert!(
        set["members"]
            .as_array()
            .unwrap()
            .iter()
            .all(|member| member["blocks"].as_u64() > Some(0) && member["changed"].is_null())
    );
    assert!(disks.is_writable("vol-a") && disks.is_writable("vol-b"));
    std::fs::write(disks.mounted("vol-a").join("pg/more"), "x".repeat(5_000_000)).unwrap();
    let second = home.run(&["backup", "disks", "--json"]).ok().json();
    let changed = second[0]["set"]["members"][0]["changed"].as_u64().unwrap();
    let blocks = second[0]["set"]["members"][0]["blocks"].as_u64().unwrap();
    assert!(changed >= 10 && changed < blocks, "{changed} of {blocks}");
    home.run(&["verify", "--all"]).ok();
    let shown = home.run(&["show", second[0]["backup"].as_str().unwrap()]).ok().stdout;
    assert!(
        shown.contains("filesystem: one moment, frozen for")
            && shown.contains(&format!("{changed} of {blocks} blocks changed")),
        "{shown}"
    );
    assert!(home.run(&["list"]).ok().stdout.contains("disks"));
    assert_eq!(snapshots(&disks), 4);
}

#[test]
fn what_must_not_be_in_a_set_is_named_and_nothing_is_done() {
    let (home, disks) = two();
    let facts = disks.directory().join("volumes/vol-b/volume.json");
    let sound = std::fs::read_to_string(&facts).unwrap();
    std::fs::write(&facts, sound.replace("\"encrypted\": true", "\"encrypted\": false")).unwrap();
    home.run(&["backup", "disks"])
        .fails(2, &["vol-b is not encrypted", "encrypt the volume", "nothing was done"]);
    std::fs::write(&facts, sound.replace("local-key", "alias/aws/ebs")).unwrap();
    home.run(&["backup", "disks"])
        .fails(2, &["vol-b is encrypted under alias/aws/ebs, which kms_keys does not allow"]);
    home.reconfigure("instance = \"i-local\"", "instance = \"i-nothing\"");
    home.run(&["backup", "disks"])
        .fails(2, &["no volume is selected", "a volume that is not there is not protected"]);
    home.reconfigure("instance = \"i-nothing\"", "volumes = [\"vol-a\", \"vol-none\"]");
    home.run(&["backup", "disks"]).fails(12, &["vol-none", "does not exist"]);
    home.reconfigure(
        "volumes = [\"vol-a\", \"vol-none\"]",
        "volumes = [\"vol-a\"]\nexclude = [\"vol-a\"]",
    );
    home.run(&["backup", "disks"]).fails(2, &["no volume is selected"]);
    assert_eq!(snapshots(&disks), 0);
}

#[test]
fn less_than_the_consistency_that_was_asked_for_is_a_failure() {
    let (home, disks) = two();
    let (a, b) = (disks.mounted("vol-a"), disks.mounted("vol-b"));
    let both = frozen(&[&a, &b]);
    home.reconfigure(&both, &frozen(&[&a]));
    home.run(&["backup", "disks"]).fails(
        2,
        &["filesystem consistency was asked for", "none of the frozen file systems lies on vol-b"],
    );
    home.reconfigure(&frozen(&[&a]), &frozen(&[&a.join("pg"), &b]));
    home.run(&["backup", "disks"]).fails(2, &["is no mount point"]);
    home.reconfigure(&frozen(&[&a.join("pg"), &b]), "consistency = \"crash\"\n");
    home.run(&["backup", "disks"])
        .fails(2, &["cannot be cut at one moment while they are written to"]);
    home.reconfigure("consistency = \"crash\"\n", &both);
    // What lifeboat itself writes to must not stand still.
    home.reconfigure(
        "\ndirectory = \"vault\"",
        &format!("\ndirectory = \"{}/vault\"", a.display()),
    );
    crate::support::home::copy_tree(&home.vault(), &a.join("vault"));
    home.run(&["backup", "disks"])
        .fails(2, &["would be frozen, and", "vault lies on it", "another file system"]);
    assert_eq!(snapshots(&disks), 0);
    assert!(disks.is_writable("vol-a") && disks.is_writable("vol-b"));
}

/// Processes whose arguments hold a word.
fn pids(word: &str) -> Vec<String> {
    let of = |entry: std::fs::DirEntry| {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let pid = entry.file_name().into_string().ok()?;
        String::from_utf8_lossy(&arguments).contains(word).then_some(pid)
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(of)
        .filter(|pid| pid.parse::<u32>().is_ok())
        .collect()
}

fn kill(pids: &[String]) {
    for pid in pids {
        let _ = std::process::Command::new("kill").args(["-9", pid]).status();
    }
}

#[test]
fn lifeboat_dies_between_freeze_and_thaw_and_nothing_stays_frozen() {
    let (home, disks) = two();
    let out = home.run_with(&[("LIFEBOAT_FAILPOINT", "set-still")], &["backup", "disks"]);
    assert_eq!(out.code, 137, "killed: {out:?}");
    eventually("the watchdog thaws", || disks.is_writable("vol-a") && disks.is_writable("vol-b"));
    home.run(&["backup", "disks"]).ok();
    assert_eq!(snapshots(&disks), 2);
}

#[test]
fn with_lifeboat_and_its_watchdog_killed_the_next_run_thaws() {
    let (home, disks) = two();
    let paused = Paused::at(&home, "set-still");
    let watchdogs = pids(&home.path("catalog.frozen").display().to_string());
    assert_eq!(watchdogs.len(), 1);
    kill(&watchdogs);
    paused.kill();
    assert!(!disks.is_writable("vol-a"), "nobody is left to thaw it");
    let out = home.run(&["backup", "disks"]).ok();
    assert!(out.stderr.contains("a dead run had left frozen was thawed"), "{}", out.stderr);
    assert!(disks.is_writable("vol-a"));
}

#[test]
fn a_watchdog_that_is_killed_is_replaced_by_lifeboat_itself() {
    let (home, disks) = two();
    let paused = Paused::at(&home, "set-still");
    kill(&pids(&home.path("catalog.frozen").display().to_string()));
    paused.goes_on().fails(12, &["the watchdog died"]);
    assert!(disks.is_writable("vol-a") && disks.is_writable("vol-b"));
    assert_eq!(snapshots(&disks), 0, "a set that may have been written to is none");
}

#[test]
fn a_watchdog_that_is_told_to_end_thaws_first() {
    let (home, disks) = two();
    let paused = Paused::at(&home, "set-still");
    for pid in pids(&home.path("catalog.frozen").display().to_string()) {
        run("kill", &["-TERM", &pid]);
    }
    eventually("the watchdog thaws", || disks.is_writable("vol-a") && disks.is_writable("vol-b"));
    paused.goes_on().fails(12, &["nothing stood still any more", "a signal came"]);
    assert_eq!(snapshots(&disks), 0);
}

#[test]
fn what_somebody_else_has_frozen_is_not_thawed() {
    let (home, disks) = two();
    let theirs = disks.mounted("vol-b");
    run("fsfreeze", &["--freeze", theirs.to_str().unwrap()]);
    home.run(&["backup", "disks"])
        .fails(12, &["freezing", "vol-b", "busy", "everything was undone"]);
    assert!(disks.is_writable("vol-a"));
    assert!(!disks.is_writable("vol-b"), "it is still theirs");
    run("fsfreeze", &["--unfreeze", theirs.to_str().unwrap()]);
    home.run(&["backup", "disks"]).ok();
    assert_eq!(snapshots(&disks), 2);
}

/// A bind mount, a link and a slash at the end are names of one file system: it is frozen once, and
/// let go.
#[test]
fn one_file_system_by_many_names_is_frozen_once_and_let_go() {
    let (home, disks) = two();
    let (a, b, again, link) =
        (disks.mounted("vol-a"), disks.mounted("vol-b"), home.path("again"), home.path("link"));
    std::fs::create_dir(&again).unwrap();
    run("mount", &["--bind", a.to_str().unwrap(), again.to_str().unwrap()]);
    std::os::unix::fs::symlink(&b, &link).unwrap();
    let names: [&Path; 6] = [&a, &a.join(""), &again, &b, &b, &a];
    home.reconfigure(&frozen(&[&a, &b]), &frozen(&names));
    let taken = home.run(&["backup", "disks"]);
    let writable = disks.is_writable("vol-a") && disks.is_writable("vol-b");
    run("umount", &[again.to_str().unwrap()]);
    taken.ok();
    assert!(writable);
    assert!(!home.path("catalog.frozen").read_dir().is_ok_and(|mut notes| notes.next().is_some()));
    // A link leads to a mount point, and is none.
    home.reconfigure(&frozen(&names), &frozen(&[&a, &link]));
    let through = home.run(&["backup", "disks"]);
    assert!(through.code == 0 || through.stderr.contains("is no mount point"), "{through:?}");
    assert!(disks.is_writable("vol-a") && disks.is_writable("vol-b"));
}

/// Two partitions of one volume, of which one is being written to: the claim would not be so.
#[test]
fn a_claim_of_consistency_covers_every_file_system_of_every_volume() {
    let (home, disks) = two();
    let (a, b, second) = (disks.mounted("vol-a"), disks.mounted("vol-b"), home.path("second"));
    let disk = disks.directory().join("volumes/vol-a/disk");
    std::fs::File::options().write(true).open(&disk).unwrap().set_len(464 << 20).unwrap();
    let (at, length) = ((400_u64 << 20).to_string(), (64_u64 << 20).to_string());
    let device = run(
        "losetup",
        &["--find", "--show", "--offset", &at, "--sizelimit", &length, disk.to_str().unwrap()],
    );
    run("mkfs.ext4", &["-qF", &device]);
    std::fs::create_dir(&second).unwrap();
    run("mount", &[&device, second.to_str().unwrap()]);
    let refused = home.run(&["backup", "disks"]);
    home.reconfigure(&frozen(&[&a, &b]), &frozen(&[&a, &b, &second]));
    let taken = home.run(&["backup", "disks"]);
    run("umount", &[second.to_str().unwrap()]);
    run("losetup", &["--detach", &device]);
    let told = format!("{} (vol-a); name them in freeze", second.display());
    refused.fails(2, &["these lie on volumes of the set and are not frozen", &told]);
    taken.ok();
}

#[test]
fn a_freeze_that_lasts_too_long_is_undone_and_there_is_no_set() {
    let (home, disks) = two();
    home.reconfigure(
        "consistency = \"filesystem\"",
        "consistency = \"filesystem\"\nfreeze_limit = \"2s\"",
    );
    let paused = Paused::at(&home, "set-still");
    // Undone without anybody having asked.
    eventually("the watchdog thaws", || disks.is_writable("vol-a"));
    paused.goes_on().fails(
        12,
        &[
            "nothing stood still any more",
            "the time was over (freeze_limit)",
            "nothing was published",
        ],
    );
    assert_eq!(snapshots(&disks), 0);
    assert!(home.run(&["list"]).ok().stderr.contains("there is no backup yet"));
}

#[test]
fn a_hook_that_hangs_or_fails_is_undone_and_there_is_no_set() {
    let (home, disks) = two();
    let script = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(home.path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(home.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        home.path(name).display().to_string()
    };
    let (before, after) =
        (script("before", "touch $0.ran; sleep 1000"), script("after", "touch $0.ran"));
    home.reconfigure(
        "consistency = \"filesystem\"",
        &format!("consistency = \"filesystem\"\nfreeze_limit = \"2s\"\nbefore = [\"{before}\"]\nafter = [\"{after}\"]"),
    );
    home.run(&["backup", "disks"]).fails(12, &["2 seconds", "everything was undone"]);
    assert!(home.path("before.ran").exists() && home.path("after.ran").exists());
    assert!(
        pids("sleep\u{0}1000").is_empty() || !pids(&before).iter().any(|_| true),
        "what the program started is gone"
    );
    script("before", "echo no snapshots on Sundays >&2; exit 3");
    std::fs::remove_file(home.path("after.ran")).unwrap();
    home.run(&["backup", "disks"]).fails(
        12,
        &["the program before the cut", "no snapshots on Sundays", "everything was undone"],
    );
    assert!(home.path("after.ran").exists());
    assert!(disks.is_writable("vol-a"));
    script("before", "exit 0");
    home.run(&["backup", "disks"]).ok();
    assert_eq!(snapshots(&disks), 2);
    // What cannot be undone is told, stays on record, and is undone once it can be.
    script("before", "exit 3");
    script("after", "exit 1");
    home.run(&["backup", "disks"]).fails(12, &["may still be frozen", "after", "do it now"]);
    let found = home.run(&["sweep"]).fails(10, &["1 things were left behind"]);
    assert!(
        found.stdout.contains("file systems that a dead run has left frozen"),
        "{}",
        found.stdout
    );
    script("after", "exit 0");
    home.run(&["sweep", "--confirm"]).ok();
    script("before", "exit 0");
    home.run(&["backup", "disks"]).ok();
}

#[test]
fn killed_anywhere_the_next_run_goes_on_and_no_set_claims_more_than_it_is() {
    for failpoint in [
        "set-cut",
        "set-noted",
        "set-whole",
        "set-copied",
        "set-locked",
        "envelope-written",
        "signature-written",
        "about-to-publish",
    ] {
        let (home, disks) = two();
        home.configure(
            "\n[datastores.disks.copy]\ndirectory = \"elsewhere\"\nkms_key = \"other-key\"\n",
        );
        let out = home.run_with(&[("LIFEBOAT_FAILPOINT", failpoint)], &["backup", "disks"]);
        assert_eq!(out.code, 137, "{failpoint}: {out:?}");
        assert!(home.run(&["list"]).ok().stderr.contains("there is no backup yet"), "{failpoint}");
        let taken = snapshots(&disks);
        let again = home.run(&["backup", "disks", "--json"]).ok();
        assert_eq!((taken, snapshots(&disks)), (2, 2), "{failpoint}: no snapshot is left over");
        let went_on = again.stderr.contains("going on with the set");
        assert_eq!(went_on, failpoint != "set-cut", "{failpoint}: {}", again.stderr);
        let copies = std::fs::read_dir(home.path("elsewhere/snapshots")).unwrap().count();
        assert_eq!(copies, 2, "{failpoint}");
        home.run(&["verify", "--all"]).ok();
    }
}

/// A server whose data is on one volume and whose WAL is on another, or on the same, and pgbench's
/// tables in it.
fn server(disks: &mut Disks, two_volumes: bool) -> (Cluster, String) {
    let data = disks.volume("vol-data", 700, "ext4");
    let wal = two_volumes.then(|| disks.volume("vol-wal", 400, "xfs"));
    let cluster = Cluster::start_at(
        Major::Debian15,
        &["max_wal_size = 128MB"],
        Some(data.join("main")),
        wal.map(|wal| wal.join("wal")).as_deref(),
    );
    cluster.psql("postgres", "CREATE DATABASE bench");
    run("pgbench", &["-q", "-i", "-s", "2", "-d", &cluster.conninfo("bench")]);
    cluster.psql("bench", "CREATE TABLE still (v text); INSERT INTO still SELECT repeat('x', 100) FROM generate_series(1, 1000)");
    let mounts = match two_volumes {
        true => {
            format!(
                "\"vol-data\" = \"{}\", \"vol-wal\" = \"{}\"",
                disks.mounted("vol-data").display(),
                disks.mounted("vol-wal").display()
            )
        }
        false => format!("\"vol-data\" = \"{}\"", disks.mounted("vol-data").display()),
    };
    (cluster, mounts)
}

/// A home that dumps the server and cuts its volumes, with a plan for them.
fn protected(home: &Home, cluster: &Cluster, mounts: &str, more: &str) {
    home.add_datastore("db", &cluster.conninfo("bench"), "");
    home.configure(&format!(
        "{BASE}instance = \"i-local\"\nconsistency = \"postgres\"\npostgres = \"db\"\n{more}\n"
    ));
    for directory in ["restore", "drills"] {
        std::fs::create_dir_all(home.path(directory)).unwrap();
    }
    let plan = format!(
        "[[restore]]\ndatastore = \"disks\"\nmounts = {{ {mounts} }}\ndata_directory = \"{}\"\ndatabase = \"bench\"\n",
        cluster.data().display()
    );
    std::fs::write(home.path("restore/disks.toml"), plan).unwrap();
}

fn script(home: &Home, checks: &str) {
    std::fs::write(
        home.path("drills/disks.toml"),
        format!("plan = \"disks\"\n{checks}\n\n[local]\nsize_mib = 1500\n"),
    )
    .unwrap();
}

/// Runs the drill; its report, and that nothing is left.
fn drill(home: &Home, code: i32) -> serde_json::Value {
    let out = home.run(&["drill", "disks", "--json"]);
    assert_eq!(out.code, code, "{}\n{}", out.stdout, out.stderr);
    let last: serde_json::Value = serde_json::from_str(out.stdout.lines().last().unwrap()).unwrap();
    let report = last["report"].clone();
    assert_eq!(report["leftovers"].as_array().unwrap().len(), 0, "{report}");
    let run = report["run"].as_str().unwrap();
    assert_eq!(
        lifeboat::sandbox::volumes::attached(run),
        Vec::<String>::new(),
        "no loop device is left"
    );
    report
}

/// pgbench at full speed in the background until it is dropped.
struct Writing(std::process::Child);

impl Writing {
    fn begin(cluster: &Cluster) -> Self {
        let mut command = std::process::Command::new("pgbench");
        command.args(["-n", "-c", "4", "-j", "2", "-T", "600", "-d", &cluster.conninfo("bench")]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let writing = Self(command.spawn().unwrap());
        eventually("pgbench writes", || committed(cluster) > 50);
        writing
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn committed(cluster: &Cluster) -> u64 {
    cluster.psql("bench", "SELECT count(*) FROM pgbench_history").parse().unwrap()
}

/// What must hold of pgbench's tables whenever they are consistent, and what was committed before
/// the cut.
fn bench_checks(at_least: u64) -> String {
    format!(
        "[[checks]]\nname = \"every committed transaction\"\nkind = \"sql\"\nquery = \"SELECT count(*) FROM pgbench_history\"\nat_least = {at_least}\n
[[checks]]\nname = \"no half transaction\"\nkind = \"sql\"\nquery = \"SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history) AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)\"\nis = \"t\"\n
[[checks]]\nname = \"the dump agrees\"\nkind = \"cross-check\"\nwith = \"db\"\nwithin = \"1h\"\nchanging = [\"public.pgbench_accounts\", \"public.pgbench_branches\", \"public.pgbench_tellers\", \"public.pgbench_history\"]\n
[[checks]]\nname = \"heap and indexes\"\nkind = \"amcheck\"\n"
    )
}

#[test]
fn cut_at_full_speed_one_volume_recovers_every_committed_transaction() {
    let home = Home::new();
    let mut disks = Disks::new(&home.path("."));
    let (cluster, mounts) = server(&mut disks, false);
    cluster.psql("bench", "CREATE EXTENSION amcheck");
    protected(&home, &cluster, &mounts, "");
    home.backup();
    let writing = Writing::begin(&cluster);
    let before = committed(&cluster);
    let report = home.run(&["backup", "disks", "--json"]).ok().json();
    let after = committed(&cluster);
    drop(writing);
    assert!(after > before, "it was written to meanwhile");
    assert_eq!(report[0]["set"]["postgres"]["by"], "checkpoint");
    script(&home, &bench_checks(before));
    let report = drill(&home, 0);
    assert_eq!(report["verdict"], "PASS", "{report}");
    let answers: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["answer"].as_str().unwrap())
        .collect();
    assert_eq!(answers, ["pass"; 4], "{report}");
    let controls = report["controls"].as_array().unwrap();
    assert!(controls.iter().all(|control| control["noticed"] == true), "{report}");
    assert!(
        controls
            .iter()
            .any(|control| control["summary"] == "a turned bit of a block was noticed by its hash"),
        "{report}"
    );
    // A check that asks for more than was committed does not pass.
    script(&home, &bench_checks(after + 1_000_000));
    assert_eq!(drill(&home, 8)["verdict"], "FAIL");
}

#[test]
fn cut_one_after_another_within_an_online_backup_two_volumes_recover() {
    let home = Home::new();
    let mut disks = Disks::new(&home.path("."));
    let (cluster, mounts) = server(&mut disks, true);
    protected(&home, &cluster, &mounts, "");
    home.run(&["backup", "disks"])
        .fails(2, &["postgres consistency was asked for", "wal_volume must name one of the set"]);
    home.reconfigure("postgres = \"db\"", "postgres = \"db\"\nwal_volume = \"vol-wal\"");
    home.backup();
    let writing = Writing::begin(&cluster);
    // Between the cut of the data and the end of the online backup the server goes on writing for a
    // while.
    let paused = Paused::at(&home, "set-half");
    let half = committed(&cluster);
    eventually("it is written to", || committed(&cluster) > half + 100);
    cluster.psql("bench", "CHECKPOINT");
    let before = committed(&cluster);
    let report = paused.goes_on().ok().json();
    drop(writing);
    let set = &report[0]["set"];
    assert_eq!(
        (set["postgres"]["by"].as_str(), set["one_moment"].as_bool()),
        (Some("online-backup"), Some(false)),
        "{set}"
    );
    assert!(set["postgres"]["label"].as_str().unwrap().contains("lifeboat"), "{set}");
    assert_eq!(
        cluster.psql("postgres", "SELECT count(*) FROM pg_replication_slots"),
        "0",
        "the slot went with the session"
    );
    let shown = home.run(&["show", report[0]["backup"].as_str().unwrap()]).ok().stdout;
    assert!(
        shown.contains("postgres: an online backup around")
            && shown.contains("vol-wal with the WAL last"),
        "{shown}"
    );
    script(
        &home,
        &bench_checks(before)
            .replace("[[checks]]\nname = \"heap and indexes\"\nkind = \"amcheck\"\n", ""),
    );
    let report = drill(&home, 0);
    assert_eq!(report["verdict"], "PASS", "{report}");
}

#[test]
fn two_independent_backups_that_do_not_agree_fail_the_drill() {
    let home = Home::new();
    let mut disks = Disks::new(&home.path("."));
    let (cluster, mounts) = server(&mut disks, false);
    protected(&home, &cluster, &mounts, "");
    script(&home, "");
    home.run(&["backup", "disks"]).ok();
    let alone = drill(&home, 9);
    assert!(
        alone["checks"][0]["summary"].as_str().unwrap().contains("there is no dump of db"),
        "{alone}"
    );
    home.backup();
    let agreed = drill(&home, 0);
    assert_eq!(agreed["verdict"], "PASS", "{agreed}");
    assert!(
        agreed["checks"][0]["summary"].as_str().unwrap().contains("are as in dump"),
        "{agreed}"
    );
    // One row more in the dump than on the volumes.
    cluster.psql(
        "bench",
        "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, 1, 1, now())",
    );
    home.backup();
    std::fs::remove_dir_all(home.vault().join("manifests/db")).unwrap();
    cluster.psql("bench", "SELECT 1");
    home.backup();
    let differs = drill(&home, 8);
    assert!(
        differs["checks"][0]["summary"].as_str().unwrap().contains("differences from dump"),
        "{differs}"
    );
}

#[test]
fn a_set_is_restored_as_volumes_and_as_images_and_the_same_command_goes_on() {
    let (home, disks) = two();
    home.run(&["backup", "disks"]).ok();
    home.run(&["restore", "disks", "--to", "zone:local-b"])
        .fails(2, &["nobody is there to confirm it"]);
    let plan = home
        .run(&["restore", "disks", "--to", "zone:local-b", "--attach", "i-new", "--plan"])
        .ok()
        .stdout;
    assert!(plan.contains("make 2 volumes") && plan.contains("attach them to i-new"), "{plan}");
    let first = home
        .run(&[
            "restore",
            "disks",
            "--to",
            "zone:local-b",
            "--attach",
            "i-new",
            "--until-hydrated",
            "--yes",
            "--json",
        ])
        .ok()
        .json();
    let made = first["volumes"].as_array().unwrap();
    assert!(
        made.iter().all(|one| one["was_there"] == false && one["attached"][0] == "i-new"),
        "{first}"
    );
    assert!(
        first["seconds_to_hydrated"].as_f64() >= first["seconds_to_first_use"].as_f64()
            && first["recorded"].as_u64().is_some()
    );
    let again = home
        .run(&["restore", "disks", "--to", "zone:local-b", "--attach", "i-new", "--yes", "--json"])
        .ok()
        .json();
    let ids = |report: &serde_json::Value| {
        report["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["volume"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&first), ids(&again));
    assert!(
        again["volumes"].as_array().unwrap().iter().all(|one| one["was_there"] == true)
            && again["recorded"].is_null()
    );
    let other = home
        .run(&[
            "restore",
            "disks",
            "--to",
            "zone:local-b",
            "--restore-name",
            "another",
            "--yes",
            "--json",
        ])
        .ok()
        .json();
    assert!(ids(&other).iter().all(|id| !ids(&first).contains(id)));
    // The restored volume holds what was cut.
    let disk =
        disks.directory().join("volumes").join(made[0]["volume"].as_str().unwrap()).join("disk");
    let at = home.path("look");
    crate::support::disks::mount(&disk, &at, "ro,noload");
    assert_eq!(std::fs::read_to_string(at.join("pg/file")).unwrap(), "vol-a".repeat(100_000));
    run("umount", &[at.to_str().unwrap()]);
    let images = home.path("images");
    home.run(&["restore", "disks", "--to", images.to_str().unwrap()]).ok();
    crate::support::disks::mount(&images.join("vol-a.img"), &at, "ro,noload");
    assert_eq!(std::fs::read_to_string(at.join("pg/file")).unwrap(), "vol-a".repeat(100_000));
    run("umount", &[at.to_str().unwrap()]);
    home.run(&["restore", "disks", "--to", "postgres:///x?host=/nowhere", "--yes"])
        .fails(2, &["is a set of volumes"]);
    home.run(&["restore", "disks", "--to", "-"]).fails(2, &["is a set of volumes"]);
    home.run(&["restore", "disks", "--to", "./files", "--attach", "i-new"])
        .fails(2, &["they are for volumes"]);
}

#[test]
fn a_snapshot_that_is_not_what_was_recorded_is_noticed_and_not_written() {
    let (home, disks) = two();
    let backup = home.run(&["backup", "disks", "--json"]).ok().json();
    let member = &backup[0]["set"]["members"][0];
    let disk =
        disks.directory().join("snapshots").join(member["snapshot"].as_str().unwrap()).join("disk");
    {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).read(true).open(&disk).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 1080).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 1080).unwrap();
    }
    home.run(&["verify", "--all"])
        .fails(7, &["block 0 of snapshot", "its SHA-256 is not what was recorded"]);
    let images = home.path("images");
    home.run(&["restore", "disks", "--to", images.to_str().unwrap()])
        .fails(7, &["its SHA-256 is not what was recorded"]);
    assert_eq!(std::fs::read_dir(&images).unwrap().count(), 0);
    std::fs::remove_dir_all(disk.parent().unwrap()).unwrap();
    home.run(&["verify", "--all"]).fails(12, &["has vanished"]);
    // A copy that is gone is noticed while the home is whole.
    let (home, disks) = two();
    home.configure(
        "\n[datastores.disks.copy]\ndirectory = \"elsewhere\"\nkms_key = \"other-key\"\n",
    );
    home.run(&["backup", "disks"]).ok();
    home.run(&["verify", "--all"]).ok();
    std::fs::remove_dir_all(home.path("elsewhere/snapshots")).unwrap();
    home.run(&["verify", "--all"]).fails(7, &["elsewhere is gone; the rest is whole"]);
    drop(disks);
}

#[test]
fn check_says_what_the_servers_role_lacks_before_a_night_goes_by() {
    let home = Home::new();
    let mut disks = Disks::new(&home.path("."));
    let (cluster, mounts) = server(&mut disks, true);
    cluster.psql(
        "bench",
        "CREATE ROLE keeper LOGIN IN ROLE pg_read_all_data; GRANT SELECT ON pg_authid TO keeper",
    );
    protected(&home, &cluster, &mounts, "wal_volume = \"vol-wal\"");
    home.reconfigure("user=postgres", "user=keeper");
    let told = |words: &str| {
        let out = home.run(&["check"]);
        assert_eq!(out.code, 12, "{out:?}");
        assert!(out.stdout.contains(words), "{words:?} is not in {}", out.stdout);
    };
    told("ALTER ROLE keeper REPLICATION");
    cluster.psql("bench", "ALTER ROLE keeper REPLICATION");
    told("GRANT EXECUTE ON FUNCTION pg_backup_start");
    cluster.psql("bench", "GRANT EXECUTE ON FUNCTION pg_backup_start, pg_backup_stop TO keeper");
    let out = home.run(&["check"]).ok();
    assert!(out.stdout.contains("files of this host stand in for EBS"), "{}", out.stdout);
    home.run(&["backup", "disks"]).ok();
    // With one volume fewer there is one moment, and a checkpoint does.
    home.reconfigure("wal_volume = \"vol-wal\"", "exclude = [\"vol-wal\"]");
    told("GRANT pg_checkpoint TO keeper");
    cluster.psql("bench", "GRANT pg_checkpoint TO keeper");
    home.run(&["check"]).ok();
}

#[test]
fn restore_md_of_a_set_works_as_it_stands() {
    let (home, disks) = two();
    let backup = home.run(&["backup", "disks", "--json"]).ok().json()[0]["backup"]
        .as_str()
        .unwrap()
        .to_owned();
    let guide =
        std::fs::read_to_string(home.vault().join(format!("meta/disks/{backup}/RESTORE.md")))
            .unwrap();
    let at = home.path("by-hand");
    std::fs::create_dir(&at).unwrap();
    let commands = lifeboat::work::guide::commands(&guide, "recovery");
    assert!(commands.len() >= 4, "{guide}");
    let mut script = format!(
        "cd {}\nexport TRUSTED_KEY={} IDENTITY={} ZONE=local-a\n",
        at.display(),
        home.path("trusted.pem").display(),
        home.recovery()
    );
    script.push_str(&commands.join("\n"));
    script.push_str("\nfor f in meta/disks/*/blocks-001.zst.age; do age -d -i identity.txt $f | zstd -dq > blocks.txt; done\n");
    script.push_str("while read number sum; do [ \"$(dd if=vol-a.img bs=512K skip=$number count=1 status=none | sha256sum | cut -d ' ' -f 1)\" = $sum ]; done < blocks.txt\n");
    let line = std::fs::read_to_string(home.path("lifeboat.toml"))
        .unwrap()
        .lines()
        .find(|line| line.starts_with("trust"))
        .unwrap()
        .to_owned();
    let key = line.split('"').nth(1).unwrap();
    let pem = lifeboat::keyring::sign::PublicKey::from_text(key).unwrap().to_pem();
    std::fs::write(home.path("trusted.pem"), pem).unwrap();
    run("bash", &["-euc", &script]);
    let look = home.path("look");
    crate::support::disks::mount(&at.join("vol-b.img"), &look, "ro,norecovery,nouuid");
    assert_eq!(std::fs::read_to_string(look.join("pg/file")).unwrap(), "vol-b".repeat(100_000));
    run("umount", &[look.to_str().unwrap()]);
    drop(disks);
}

#[test]
fn the_runbook_of_a_set_names_commands_that_work() {
    let (home, _disks) = two();
    home.run(&["backup", "disks"]).ok();
    let page = home.run(&["runbook", "disks"]).ok().stdout;
    let mut script = "set -eu\n".to_owned();
    for block in page.split("```bash\n").skip(1) {
        script.push_str(block.split("```").next().unwrap());
    }
    let lifeboat =
        Path::new(env!("CARGO_BIN_EXE_lifeboat")).parent().unwrap().display().to_string();
    let script = format!("cd {}\nPATH={lifeboat}:$PATH\n{script}", home.path(".").display());
    let mut command = home.command(&[]);
    let path = command
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()))
        .collect::<Vec<_>>();
    command = std::process::Command::new("bash");
    command.args(["-c", &script]).env_clear().envs(path);
    let out = crate::support::home::finish(command).ok();
    assert!(
        out.stdout.contains("restored backup") && home.path("disks-images/vol-a.img").exists(),
        "{out:?}\n{page}"
    );
}

#[test]
fn a_snapshot_that_is_deleted_before_the_manifest_is_written_makes_no_set() {
    let (home, disks) = two();
    home.reconfigure("consistency = \"filesystem\"", "consistency = \"filesystem\"\nhash = false");
    let paused = Paused::at(&home, "set-copied");
    let one = std::fs::read_dir(disks.directory().join("snapshots"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::remove_dir_all(one).unwrap();
    paused.goes_on().fails(12, &["has vanished", "the snapshots of this set were removed"]);
    assert!(home.run(&["list"]).ok().stderr.contains("there is no backup yet"));
    assert_eq!(snapshots(&disks), 0);
}

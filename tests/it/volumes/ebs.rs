//! EBS against the emulator behind a front that adds AWS' rules: a night of three volumes, and
//! every way in which it can go wrong.

use crate::support::cloud::{Cloud, Rule};
use crate::support::disks::{mount, run};
use crate::support::{Cluster, Home, Major};

const HOME: &str = "eu-west-1";
const AWAY: &str = "eu-central-1";
const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/11111111-1111-1111-1111-111111111111";
const AWAY_KEY: &str =
    "arn:aws:kms:eu-central-1:123456789012:key/22222222-2222-2222-2222-222222222222";
const MIB: u64 = 1 << 20;

/// A cloud with one instance that has three data volumes beside its own, and a home that protects
/// them.
struct Night {
    cloud: Cloud,
    home: Home,
    instance: String,
    volumes: Vec<String>,
}

impl Night {
    fn new(more: &str) -> Self {
        let cloud = Cloud::start();
        let instance = cloud.instance(HOME, "eu-west-1a");
        let mut volumes = Vec::new();
        for (index, device) in ["/dev/sdf", "/dev/sdg", "/dev/sdh"].into_iter().enumerate() {
            let volume = cloud.volume(
                HOME,
                "eu-west-1a",
                64 * MIB,
                Some(KEY),
                &[("Role", "db"), ("Name", device)],
            );
            cloud.attach(HOME, &volume, &instance, device);
            let noise: Vec<u8> = (0..3 * MIB / 32)
                .flat_map(|i| {
                    *blake3::hash(&[&i.to_le_bytes()[..], &[index as u8]].concat()).as_bytes()
                })
                .collect();
            write(&cloud, &volume, 5 * MIB, &noise);
            volumes.push(volume);
        }
        let mut home = Home::new();
        for (name, value) in cloud.env() {
            home.set(name, &value);
        }
        home.configure(&format!(
            "\n[datastores.disks]\nkind = \"ebs\"\nregion = \"{HOME}\"\ninstance = \"{instance}\"\nkms_keys = [\"{KEY}\"]\nconsistency = \"crash\"\n{more}\n"
        ));
        Self { cloud, home, instance, volumes }
    }

    fn copied() -> Self {
        let night = Self::new("");
        night.home.configure(&format!(
            "[datastores.disks.copy]\nregion = \"{AWAY}\"\nkms_key = \"{AWAY_KEY}\"\n"
        ));
        night
    }

    /// Snapshots of lifeboat's in a region.
    fn ours(&self, region: &str) -> usize {
        self.cloud
            .snapshots(region)
            .iter()
            .filter(|snapshot| snapshot.tags.contains_key("lifeboat:vault"))
            .count()
    }

    fn no_backup(&self) {
        assert!(self.home.run(&["list"]).ok().stderr.contains("there is no backup yet"));
    }
}

fn write(cloud: &Cloud, volume: &str, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    std::fs::OpenOptions::new()
        .write(true)
        .open(cloud.image(volume))
        .unwrap()
        .write_all_at(bytes, at)
        .unwrap();
}

#[test]
fn a_night_of_three_volumes_encrypted_copied_locked_listed_verified_and_restored() {
    let night = Night::copied();
    night.home.configure(
        "[datastores.disks.lock]\nmode = \"compliance\"\ndays = 14\ncooling_off_hours = 24\n",
    );
    night.home.run(&["check"]).ok();
    let report = night.home.run(&["backup", "disks", "--json"]).ok().json();
    let set = &report[0]["set"];
    assert_eq!(
        (
            set["one_moment"].as_bool(),
            set["consistency"].as_str(),
            set["members"].as_array().unwrap().len()
        ),
        (Some(true), Some("crash"), 3)
    );
    assert_eq!(
        (set["lock"]["kind"].as_str(), set["copied_to"]["region"].as_str()),
        (Some("compliance"), Some(AWAY)),
        "{set}"
    );
    assert_eq!(night.cloud.calls_of("CreateSnapshots").len(), 1, "one call, one moment");
    for (region, key) in [(HOME, KEY), (AWAY, AWAY_KEY)] {
        let ours: Vec<_> = night
            .cloud
            .snapshots(region)
            .into_iter()
            .filter(|one| one.tags.contains_key("lifeboat:vault"))
            .collect();
        assert_eq!(ours.len(), 3, "the boot volume is left out: {ours:#?}");
        for one in &ours {
            assert_eq!((one.key.as_deref(), one.state.as_str()), (Some(key), "completed"));
            assert_eq!(
                one.lock.as_ref().map(|lock| lock.state.as_str()),
                Some("compliance-cooloff")
            );
            assert!(
                night.volumes.contains(&one.tags["lifeboat:volume"]) && one.tags["Role"] == "db",
                "{one:#?}"
            );
        }
    }
    // The next night reads only what changed.
    write(&night.cloud, &night.volumes[0], 6 * MIB, &[7; 1000]);
    let second = night.home.run(&["backup", "disks", "--json"]).ok().json();
    let changed: Vec<u64> = second[0]["set"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["changed"].as_u64().unwrap())
        .collect();
    assert_eq!(changed.iter().sum::<u64>(), 1, "{second}");
    assert!(
        night.home.run(&["list"]).ok().stdout.lines().filter(|line| line.contains("disks")).count()
            == 2
    );
    night.home.run(&["verify", "--all"]).ok();
    // Back in the home zone, attached; and in the other region, from the copies.
    let restored = night.home.run(&[
        "restore",
        "disks",
        "--to",
        "zone:eu-west-1a",
        "--attach",
        &night.instance,
        "--volume-type",
        "gp3",
        "--yes",
        "--json",
    ]);
    // Its devices are taken by the volumes that are still there.
    assert_eq!(restored.code, 13, "{restored:?}");
    let other = night.cloud.instance(HOME, "eu-west-1a");
    let arguments = [
        "restore",
        "disks",
        "--to",
        "zone:eu-west-1a",
        "--attach",
        &other,
        "--initialization-rate",
        "200",
        "--until-hydrated",
        "--yes",
        "--json",
    ];
    let restored = night.home.run(&arguments).ok().json();
    assert!(
        restored["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["attached"][0] == other.as_str()),
        "{restored}"
    );
    let away = night
        .home
        .run(&["restore", "disks", "--to", "zone:eu-central-1a", "--yes", "--json"])
        .ok()
        .json();
    assert_eq!(away["place"]["region"], AWAY);
    for one in
        restored["volumes"].as_array().unwrap().iter().chain(away["volumes"].as_array().unwrap())
    {
        let (of, new) = (one["of"].as_str().unwrap(), one["volume"].as_str().unwrap());
        assert!(
            std::fs::read(night.cloud.image(new)).unwrap()
                == std::fs::read(night.cloud.image(of)).unwrap(),
            "{one}"
        );
    }
    night
        .home
        .run(&["restore", "disks", "--to", "zone:us-east-1a", "--yes"])
        .fails(2, &["the set has no snapshots there"]);
    // Drill in the region that is left: the home region is gone.
    night.cloud.rule(Rule::region_down(HOME));
    let again = night
        .home
        .run(&[
            "restore",
            "disks",
            "--to",
            "zone:eu-central-1a",
            "--restore-name",
            "second",
            "--yes",
            "--json",
        ])
        .ok()
        .json();
    assert_eq!(again["volumes"].as_array().unwrap().len(), 3);
    let verified =
        night.home.run(&["verify", second[0]["backup"].as_str().unwrap(), "--json"]).ok().json();
    assert_eq!(verified[0]["set"]["read_in"]["region"], AWAY, "{verified}");
}

#[test]
fn volumes_that_are_not_encrypted_as_the_policy_wants_are_refused_by_name() {
    let night = Night::new("");
    let plain = night.cloud.volume(HOME, "eu-west-1a", 8 * MIB, None, &[]);
    night.cloud.attach(HOME, &plain, &night.instance, "/dev/sdi");
    night
        .home
        .run(&["backup", "disks"])
        .fails(2, &[&format!("{plain} is not encrypted"), "nothing was done"]);
    night.home.reconfigure("kms_keys", &format!("exclude = [\"{plain}\"]\nkms_keys"));
    night.home.run(&["backup", "disks"]).ok();
    assert_eq!(night.ours(HOME), 3);
    night
        .home
        .reconfigure(&format!("instance = \"{}\"", night.instance), "tags = { Role = \"nobody\" }");
    night.home.run(&["backup", "disks"]).fails(2, &["no volume is selected"]);
}

#[test]
fn a_set_that_spans_instances_says_so() {
    let night = Night::new("");
    let other = night.cloud.instance(HOME, "eu-west-1a");
    let volume = night.cloud.volume(HOME, "eu-west-1a", 8 * MIB, Some(KEY), &[("Role", "db")]);
    night.cloud.attach(HOME, &volume, &other, "/dev/sdf");
    night
        .home
        .reconfigure(&format!("instance = \"{}\"", night.instance), "tags = { Role = \"db\" }");
    let out = night.home.run(&["backup", "disks", "--json"]).ok();
    assert!(out.stderr.contains("the set spans instances"), "{}", out.stderr);
    let set = &out.json()[0]["set"];
    assert_eq!(
        (set["one_moment"].as_bool(), set["members"].as_array().unwrap().len()),
        (Some(false), 4)
    );
}

#[test]
fn a_snapshot_that_fails_leaves_no_set_and_no_snapshot() {
    let night = Night::new("");
    night.cloud.rule(Rule::snapshot_fails().times(1));
    night
        .home
        .run(&["backup", "disks"])
        .fails(12, &["snapshot snap-", "failed", "the snapshots of this set were removed"]);
    assert_eq!(night.ours(HOME), 0);
    night.no_backup();
    night.home.run(&["backup", "disks"]).ok();
}

#[test]
fn a_copy_whose_key_is_refused_silently_is_noticed_and_gone_on_with_once_the_key_is_right() {
    let night = Night::copied();
    night.cloud.rule(Rule::copy_refused_silently().times(1));
    night.home.run(&["backup", "disks"]).fails(
        12,
        &[
            "the copy of snapshot",
            "failed",
            "is not accessible",
            "kms:CreateGrant",
            "goes on from here",
        ],
    );
    night.no_backup();
    assert_eq!(night.ours(HOME), 3, "what was cut is kept");
    let out = night.home.run(&["backup", "disks"]).ok();
    assert!(out.stderr.contains("going on with the set"), "{}", out.stderr);
    assert_eq!(
        (night.ours(HOME), night.ours(AWAY), night.cloud.calls_of("CreateSnapshots").len()),
        (3, 3, 1)
    );
}

#[test]
fn limits_of_the_service_are_waited_for() {
    let night = Night::copied();
    night.cloud.settings(|settings| settings.copies_per_region = 1);
    night
        .cloud
        .rule(Rule::refuse("CreateSnapshots", "ConcurrentSnapshotLimitExceeded", 400).times(1));
    night.cloud.rule(Rule::throttle("DescribeSnapshots", 2));
    night.home.run(&["backup", "disks"]).ok();
    assert_eq!((night.ours(HOME), night.ours(AWAY)), (3, 3));
}

#[test]
fn answers_that_are_lost_make_nothing_twice() {
    for action in ["CreateSnapshots", "CopySnapshot"] {
        let night = Night::copied();
        night.cloud.rule(Rule::lose_answer(action).times(1));
        night.home.run(&["backup", "disks"]).ok();
        assert_eq!((night.ours(HOME), night.ours(AWAY)), (3, 3), "{action}");
    }
    let night = Night::new("");
    night.home.run(&["backup", "disks"]).ok();
    let before = night.cloud.volumes(HOME).len();
    for action in ["CreateVolume", "AttachVolume"] {
        night.cloud.rule(Rule::lose_answer(action).times(1));
    }
    let other = night.cloud.instance(HOME, "eu-west-1a");
    night
        .home
        .run(&["restore", "disks", "--to", "zone:eu-west-1a", "--attach", &other, "--yes"])
        .ok();
    // The other instance brought its own.
    assert_eq!(night.cloud.volumes(HOME).len(), before + 3 + 1);
}

#[test]
fn a_region_that_is_down_ends_the_run_and_the_next_goes_on() {
    let night = Night::copied();
    night.cloud.rule(Rule::region_down(AWAY));
    night.home.run(&["backup", "disks"]).fails(6, &["eu-central-1"]);
    night.no_backup();
    night.cloud.clear_rules();
    let out = night.home.run(&["backup", "disks"]).ok();
    assert!(out.stderr.contains("going on with the set"), "{}", out.stderr);
    assert_eq!((night.ours(HOME), night.ours(AWAY)), (3, 3));
}

#[test]
fn a_volume_that_vanishes_or_never_arrives_is_told() {
    let night = Night::new("");
    night.home.run(&["backup", "disks"]).ok();
    // Seen once as being made, and then gone.
    night.cloud.settings(|settings| settings.volume = 8);
    night.cloud.rule(Rule::volume_vanishes().times(3));
    let plain = ["restore", "disks", "--to", "zone:eu-west-1a", "--yes"];
    night.home.run(&plain).fails(
        13,
        &["it was begun and is gone", "mostly that is its key", "the same command goes on with it"],
    );
    night.cloud.clear_rules();
    night.cloud.settings(|settings| settings.volume = 1);
    night.cloud.rule(Rule::never_attaches());
    let other = night.cloud.instance(HOME, "eu-west-1a");
    let attach = [
        "restore",
        "disks",
        "--to",
        "zone:eu-west-1a",
        "--attach",
        &other,
        "--patience",
        "3s",
        "--yes",
    ];
    night
        .home
        .run(&attach)
        .fails(6, &["it is not attached after 3.0 s", "the same command goes on waiting"]);
    let made = night.cloud.volumes(HOME).len();
    night.home.run(&attach).fails(6, &["it is not attached after"]);
    assert_eq!(night.cloud.volumes(HOME).len(), made, "nothing is made twice");
}

#[test]
fn killed_while_snapshots_are_pending_the_next_run_attaches_to_them() {
    let night = Night::copied();
    night.cloud.settings(|settings| settings.snapshot = 1_000_000);
    let mut command = night.home.command(&["backup", "disks"]);
    command.env("LIFEBOAT_FAILPOINT", "none");
    let mut child = command.spawn().unwrap();
    crate::support::eventually("snapshots are looked at", || {
        night.cloud.calls_of("DescribeSnapshots").len() > 3
    });
    child.kill().unwrap();
    child.wait().unwrap();
    night.cloud.settings(|settings| settings.snapshot = 2);
    night.cloud.settle();
    let out = night.home.run(&["backup", "disks"]).ok();
    assert!(out.stderr.contains("going on with the set"), "{}", out.stderr);
    assert_eq!((night.ours(HOME), night.cloud.calls_of("CreateSnapshots").len()), (3, 1));
}

#[test]
fn a_database_on_volumes_of_the_cloud_is_drilled_by_its_blocks() {
    let cloud = Cloud::start();
    let instance = cloud.instance(HOME, "eu-west-1a");
    let mut home = Home::new();
    for (name, value) in cloud.env() {
        home.set(name, &value);
    }
    let mut mounts = Vec::new();
    for (device, mib, kind) in
        [("/dev/sdf", 600, "ext4"), ("/dev/sdg", 400, "xfs"), ("/dev/sdh", 64, "ext4")]
    {
        let volume = cloud.volume(HOME, "eu-west-1a", mib * MIB, Some(KEY), &[]);
        cloud.attach(HOME, &volume, &instance, device);
        let image = cloud.image(&volume);
        run(
            &format!("mkfs.{kind}"),
            &[if kind == "ext4" { "-qF" } else { "-qf" }, image.to_str().unwrap()],
        );
        let at = home.path("mnt").join(kind).join(device.rsplit('/').next().unwrap());
        mount(&image, &at, "noatime");
        let inside = at.join("pg");
        std::fs::create_dir(&inside).unwrap();
        run("chown", &["postgres", inside.to_str().unwrap()]);
        mounts.push((device, at));
    }
    let mounted = Mounted(mounts.iter().map(|(_, at)| at.clone()).collect());
    let cluster = Cluster::start_at(
        Major::Debian15,
        &[],
        Some(mounts[0].1.join("pg/main")),
        Some(&mounts[1].1.join("pg/wal")),
    );
    cluster.psql("postgres", "CREATE DATABASE d");
    cluster.psql("d", "CREATE TABLE patients AS SELECT i AS id, 'patient ' || i AS name FROM generate_series(1, 20000) i");
    home.add_datastore("db", &cluster.conninfo("d"), "");
    home.configure(&format!(
        "\n[datastores.disks]\nkind = \"ebs\"\nregion = \"{HOME}\"\ninstance = \"{instance}\"\nkms_keys = [\"{KEY}\"]\nconsistency = \"postgres\"\npostgres = \"db\"\n[datastores.disks.copy]\nregion = \"{AWAY}\"\nkms_key = \"{AWAY_KEY}\"\n"
    ));
    for directory in ["restore", "drills"] {
        std::fs::create_dir_all(home.path(directory)).unwrap();
    }
    let pairs: Vec<String> =
        mounts.iter().map(|(device, at)| format!("\"{device}\" = \"{}\"", at.display())).collect();
    std::fs::write(
        home.path("restore/disks.toml"),
        format!(
            "[[restore]]\ndatastore = \"disks\"\nmounts = {{ {} }}\ndata_directory = \"{}\"\ndatabase = \"d\"\n",
            pairs.join(", "),
            cluster.data().display()
        ),
    )
    .unwrap();
    home.backup();
    // The stand-in copies the files of its volumes, which must hold what was written.
    run("sync", &[]);
    let report = home.run(&["backup", "disks", "--json"]).ok().json();
    assert_eq!(report[0]["set"]["postgres"]["by"], "checkpoint");
    for breaks in ["", "break = [\"region-lost\"]\nrecovery_identity = \"recovery.txt\""] {
        std::fs::write(
            home.path("drills/disks.toml"),
            format!("plan = \"disks\"\n{breaks}\n\n[local]\nsize_mib = 1500\n"),
        )
        .unwrap();
        if !breaks.is_empty() {
            home.configure("\n[vaults.dr]\ndirectory = \"dr\"\n");
            home.run(&["copy", "dr"]).ok();
            cloud.rule(Rule::region_down(HOME));
        }
        let out = home.run(&["drill", "disks", "--json"]).ok();
        let last: serde_json::Value =
            serde_json::from_str(out.stdout.lines().last().unwrap()).unwrap();
        assert_eq!(last["report"]["verdict"], "PASS", "{last}");
        assert!(
            last["report"]["checks"][0]["summary"]
                .as_str()
                .unwrap()
                .contains("1 tables with 20000 rows are as in dump"),
            "{last}"
        );
    }
    drop(cluster);
    drop(mounted);
}

struct Mounted(Vec<std::path::PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        for at in &self.0 {
            let _ = std::process::Command::new("umount").arg("-l").arg(at).status();
        }
    }
}

/// A schedule that keeps one set, and two sets.
fn two_sets(night: &Night) -> (String, String) {
    std::fs::create_dir_all(night.home.path("schedules")).unwrap();
    std::fs::write(
        night.home.path("schedules/nightly.toml"),
        "cron = \"0 3 * * *\"\ndatastores = [\"disks\"]\n[keep]\ndaily = 1\nat_least = 1\n",
    )
    .unwrap();
    let take = || {
        night.home.run(&["backup", "disks", "--json"]).ok().json()[0]["backup"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    (take(), take())
}

#[test]
fn retention_removes_snapshots_and_copies_and_stops_at_locks_images_readers_and_drills() {
    let night = Night::copied();
    let (old, new) = two_sets(&night);
    let of = |backup: &str, region: &str| {
        let ours = |one: &crate::support::cloud::SnapshotView| {
            one.tags.get("lifeboat:backup").is_some_and(|tag| tag == backup)
        };
        night.cloud.snapshots(region).into_iter().filter(ours).map(|one| one.id).collect::<Vec<_>>()
    };
    let plan = |words: &[&str]| {
        let shown = night.home.run(&["prune"]).ok().stdout;
        let line = shown.lines().find(|line| line.contains(&old)).unwrap().to_owned();
        words.iter().for_each(|word| assert!(line.contains(word), "{word:?} is not in {line}"));
    };
    plan(&["remove"]);
    // An image uses a copy of it.
    let image = night.cloud.image_of(AWAY, &of(&old, AWAY)[0]);
    plan(&["keep", &image]);
    night.home.run(&["prune", "--confirm"]).ok();
    assert_eq!((of(&old, HOME).len(), of(&old, AWAY).len()), (3, 3));
    night.cloud.call(AWAY, "DeregisterImage", &[("ImageId", &image)]);
    plan(&["remove"]);
    // Somebody locks one of its snapshots.
    let locked = &of(&old, HOME)[1];
    night.cloud.call(
        HOME,
        "LockSnapshot",
        &[("SnapshotId", locked), ("LockMode", "governance"), ("LockDuration", "1")],
    );
    plan(&["keep", "locked by the store until"]);
    night.cloud.call(HOME, "UnlockSnapshot", &[("SnapshotId", locked)]);
    plan(&["remove"]);
    // A run reads it. (So did the backups, which hashed every block: only a later call is its own.)
    let before = night.cloud.calls_of("GetSnapshotBlock").len();
    night.cloud.rule(Rule::delay("GetSnapshotBlock", std::time::Duration::from_secs(10)).times(1));
    let reading = night.home.command(&["verify", &old]).spawn().unwrap();
    crate::support::eventually("it is read", || {
        night.cloud.calls_of("GetSnapshotBlock").len() > before
    });
    plan(&["keep", "reading it"]);
    assert!(crate::support::home::out(&reading.wait_with_output().unwrap()).code == 0);
    night.home.run(&["hold", &old, "--reason", "incident"]).ok();
    plan(&["keep", "incident"]);
    night.home.run(&["release", &old]).ok();
    night.home.run(&["prune", "--confirm"]).ok();
    assert_eq!((of(&old, HOME), of(&old, AWAY)), (Vec::new(), Vec::new()));
    assert_eq!((of(&new, HOME).len(), of(&new, AWAY).len()), (3, 3));
    night.home.run(&["verify", &new]).ok();
}

#[test]
fn snapshots_without_a_backup_are_swept_and_nothing_else_is_touched() {
    let night = Night::copied();
    night.home.run(&["backup", "disks"]).ok();
    let foreign = night.cloud.foreign_snapshot(HOME);
    let other = night.cloud.call(HOME, "CreateSnapshot", &[("VolumeId", &night.volumes[0])]);
    assert!(other.contains("snap-"));
    // A run that died, on a host whose catalog is lost.
    let out = night.home.run_with(&[("LIFEBOAT_FAILPOINT", "set-copied")], &["backup", "disks"]);
    assert_eq!(out.code, 137, "{out:?}");
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(night.home.path(file));
    }
    assert_eq!((night.ours(HOME), night.ours(AWAY)), (6, 6));
    // Another host may still be at work with them: its catalog is not this one.
    let young = night.home.run(&["sweep", "--older-than", "0s"]).ok();
    assert!(young.stderr.contains("that this host has not begun are left alone"), "{young:?}");
    night.cloud.age_snapshots(jiff::SignedDuration::from_hours(25));
    let found = night.home.run(&["sweep", "--older-than", "0s"]).fails(10, &["were left behind"]);
    assert_eq!(
        found.stdout.lines().filter(|line| line.starts_with("snapshot without a backup")).count(),
        6,
        "{}",
        found.stdout
    );
    night.home.run(&["sweep", "--older-than", "0s", "--confirm"]).ok();
    assert_eq!((night.ours(HOME), night.ours(AWAY)), (3, 3));
    assert!(night.cloud.snapshots(HOME).iter().any(|one| one.id == foreign), "somebody else's");
    assert_eq!(night.cloud.snapshots(HOME).len(), 3 + 2);
    night.home.run(&["verify", "--all"]).ok();
}

/// Other tools copy the tags of what they work on. What they make is theirs: told of, never
/// removed, handed over or counted.
#[test]
fn what_another_tool_made_and_tagged_alike_is_left_alone() {
    let night = Night::copied();
    let (old, new) = two_sets(&night);
    let tags = |kind: &str, of: &[(String, String)]| -> Vec<(String, String)> {
        let mut params = vec![("TagSpecification.1.ResourceType".to_owned(), kind.to_owned())];
        for (number, (key, value)) in of.iter().enumerate() {
            params.push((format!("TagSpecification.1.Tag.{}.Key", number + 1), key.clone()));
            params.push((format!("TagSpecification.1.Tag.{}.Value", number + 1), value.clone()));
        }
        params
    };
    let call = |action: &str, own: &[(&str, &str)], more: &[(String, String)]| {
        let all: Vec<(&str, &str)> = own
            .iter()
            .copied()
            .chain(more.iter().map(|(key, value)| (key.as_str(), value.as_str())))
            .collect();
        night.cloud.call(HOME, action, &all)
    };
    // A policy of somebody's that snapshots the volumes and copies the tags of the set that is
    // about to go.
    let copied: Vec<(String, String)> = night
        .cloud
        .snapshots(HOME)
        .into_iter()
        .find(|one| one.tags.get("lifeboat:backup") == Some(&old))
        .unwrap()
        .tags
        .into_iter()
        .filter(|(key, _)| !key.starts_with("aws:"))
        .collect();
    call(
        "CreateSnapshot",
        &[("VolumeId", &night.volumes[0]), ("Description", "Created for policy: policy-1")],
        &tags("snapshot", &copied),
    );
    let theirs = || {
        night
            .cloud
            .snapshots(HOME)
            .into_iter()
            .filter(|one| one.tags.get("lifeboat:backup") == Some(&old))
            .count()
    };
    assert_eq!(theirs(), 4);
    let plan = night.home.run(&["prune"]).ok();
    let line = plan
        .stdout
        .lines()
        .find(|line| line.contains(&format!("with {old}: ")))
        .unwrap()
        .to_owned();
    assert_eq!(line.matches("snap-").count(), 6, "every id stands in the plan: {line}");
    night.home.run(&["prune", "--confirm"]).ok();
    assert_eq!(theirs(), 1);
    let swept = night.home.run(&["sweep", "--older-than", "0s", "--confirm"]).ok();
    assert!(
        swept.stderr.contains("and another tool made it: it is left alone"),
        "{}",
        swept.stderr
    );
    assert_eq!(theirs(), 1);

    // A volume that was cloned from a restored one, with its tags, while the restored one is gone.
    let zone = ["restore", "disks", "--backup", &new, "--to", "zone:eu-west-1a", "--yes", "--json"];
    let made = night.home.run(&zone).ok().json();
    let first =
        made["volumes"][0]["volume"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let of_it: Vec<(String, String)> = night
        .cloud
        .volumes(HOME)
        .into_iter()
        .find(|one| one.id == first)
        .unwrap()
        .tags
        .into_iter()
        .filter(|(key, _)| !key.starts_with("aws:"))
        .collect();
    let cloned = call(
        "CreateVolume",
        &[
            ("AvailabilityZone", "eu-west-1a"),
            ("Size", "1"),
            ("Encrypted", "true"),
            ("KmsKeyId", KEY),
            ("VolumeType", "gp3"),
        ],
        &tags("volume", &of_it),
    );
    let cloned = cloned.split("<volumeId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    night.cloud.call(HOME, "DeleteVolume", &[("VolumeId", &first)]);
    let again = night.home.run(&zone).ok();
    assert!(!again.stdout.contains(&cloned), "{}", again.stdout);
    assert!(
        again.stderr.contains(&cloned) && again.stderr.contains("was made of another snapshot"),
        "{}",
        again.stderr
    );
}

#[test]
fn old_sets_go_to_the_archive_tier_and_come_back_for_a_restore() {
    let night = Night::new("archive_after = \"1s\"");
    let (old, _) = two_sets(&night);
    std::fs::write(
        night.home.path("schedules/nightly.toml"),
        "cron = \"0 3 * * *\"\ndatastores = [\"disks\"]\n[keep]\ndaily = 1\nat_least = 5\n",
    )
    .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert!(
        night
            .home
            .run(&["prune"])
            .ok()
            .stdout
            .contains("1 sets are old enough for the archive tier")
    );
    night.cloud.settings(|settings| settings.tier = 0);
    night.home.run(&["prune", "--confirm"]).ok();
    assert_eq!(
        night.cloud.snapshots(HOME).iter().filter(|one| one.tier == "archive").count(),
        3,
        "the newest stays"
    );
    night.cloud.settings(|settings| settings.tier = 3);
    night.home.run(&["verify", &old]).fails(12, &["is in the archive tier"]);
    let plan = night
        .home
        .run(&["restore", "disks", "--backup", &old, "--to", "zone:eu-west-1a", "--plan"])
        .ok()
        .stdout;
    assert!(
        plan.contains("bring 3 snapshots back from the archive tier, which takes up to 72 hours"),
        "{plan}"
    );
    let back = night
        .home
        .run(&["restore", "disks", "--backup", &old, "--to", "zone:eu-west-1a", "--yes", "--json"])
        .ok()
        .json();
    assert_eq!(back["volumes"].as_array().unwrap().len(), 3);
}

#[test]
fn copies_go_to_another_account_that_is_let_copy_and_then_not_any_more() {
    let night = Night::new("");
    let key = AWAY_KEY.replace("123456789012", "222222222222");
    night.home.configure(&format!(
        "[datastores.disks.copy]\nregion = \"{AWAY}\"\nkms_key = \"{key}\"\nrole = \"arn:aws:iam::222222222222:role/dr\"\naccount = \"222222222222\"\n"
    ));
    night.home.run(&["backup", "disks"]).ok();
    let copies: Vec<_> = night
        .cloud
        .snapshots(AWAY)
        .into_iter()
        .filter(|one| one.account == "222222222222")
        .collect();
    assert!(
        copies.len() == 3 && copies.iter().all(|one| one.key.as_deref() == Some(&key)),
        "{copies:#?}"
    );
    assert!(
        night.cloud.snapshots(HOME).iter().all(|one| one.shared_with.is_empty()),
        "nobody is let any longer"
    );
}

//! What earlier versions left behind (`tests/fixtures`) goes on working: listed, verified,
//! restored, drilled, rotated, pruned, migrated, and what they were in the middle of is finished. A
//! document of a later format is refused by its name.

use std::path::{Path, PathBuf};

use crate::support::disks::Mount;
use crate::support::{Cluster, EARLIER_VERSIONS, Home, Major, files};

fn fixture(version: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(version).join(name)
}

/// Backups of a datastore, oldest first.
fn backups(home: &Home, datastore: &str) -> Vec<String> {
    let listed = home.run(&["list", datastore, "--json"]).ok().json();
    let mut ids: Vec<String> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|backup| backup["backup"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

fn source(socket: &Cluster) -> String {
    socket.conninfo("chat")
}

/// A server with the database that the fixtures are backups of.
fn chat() -> Cluster {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE ROLE clerk LOGIN; CREATE DATABASE chat OWNER clerk; COMMENT ON DATABASE chat IS 'the chat'");
    cluster.psql(
        "chat",
        &std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/source.sql"),
        )
        .unwrap(),
    );
    cluster
}

/// The clock shortly after the drill `halfway` of the fixture was begun: it may last for four
/// hours, and counts as failed after that.
const THEN: [(&str, &str); 3] = [
    ("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
    ("FAKETIME", "@2026-11-30 13:00:00"),
    ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
];

/// Of two databases, everything that `pg_dump` says.
#[track_caller]
fn same(one: (&Cluster, &str), other: (&Cluster, &str)) {
    let dump = |(cluster, database): (&Cluster, &str)| {
        let mut text = cluster.dump(database, Major::Debian15);
        for before in ["DATABASE ", "\\connect ", "Name: "] {
            text = text.replace(&format!("{before}{database}"), &format!("{before}ITS_NAME"));
        }
        text
    };
    let (one, other) = (dump(one), dump(other));
    let first = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    assert!(
        one == other,
        "the dumps have {} and {} lines; the first that differ: {first:?}",
        one.lines().count(),
        other.lines().count()
    );
}

#[test]
fn every_backup_of_an_earlier_version_is_verified_and_comes_back() {
    for version in EARLIER_VERSIONS {
        let (home, original) = (Home::of_version(version), chat());
        let target = Cluster::start();
        assert_eq!(
            (
                backups(&home, "chat").len(),
                backups(&home, "parallel").len(),
                backups(&home, "disks").len()
            ),
            (4, 1, 2)
        );
        let verified = home.run(&["verify", "--all"]).ok();
        assert_eq!(
            verified.stdout.lines().filter(|line| line.starts_with("backup ")).count(),
            7,
            "{}",
            verified.stdout
        );
        home.run_with(&THEN, &["evidence", "verify"]).ok();
        for (number, (datastore, backup)) in backups(&home, "chat")
            .iter()
            .map(|id| ("chat", id.clone()))
            .chain(backups(&home, "parallel").into_iter().map(|id| ("parallel", id)))
            .enumerate()
        {
            let database = format!("back{number}");
            let to = target.conninfo(&database);
            let mut arguments =
                vec!["restore", datastore, "--backup", &backup, "--to", &to, "--yes", "--check"];
            // The offline key of the rotation opens those from before it, too.
            let recovery = home.path("recovery-2.txt").display().to_string();
            if number % 2 == 1 {
                arguments.extend(["--identity", &recovery]);
                std::fs::rename(home.path("keys/identity.txt"), home.path("away")).unwrap();
            }
            let restored = home.run(&arguments).ok();
            if number % 2 == 1 {
                std::fs::rename(home.path("away"), home.path("keys/identity.txt")).unwrap();
            }
            assert!(restored.stdout.contains("all as recorded"), "{restored:?}");
            same((&original, "chat"), (&target, &database));
        }
        for backup in backups(&home, "disks") {
            home.run(&[
                "restore",
                "disks",
                "--backup",
                &backup,
                "--to",
                home.path(&backup).to_str().unwrap(),
                "--yes",
            ])
            .ok();
            let images = files(&home.path(&backup));
            assert_eq!(
                images.iter().map(|image| image.metadata().unwrap().len()).collect::<Vec<_>>(),
                [2 << 20, 2 << 20],
                "{images:?}"
            );
        }
    }
}

#[test]
fn the_vault_of_an_earlier_version_is_drilled_rotated_pruned_and_added_to() {
    for version in EARLIER_VERSIONS {
        let (home, original) = (Home::of_version(version), chat());
        home.reconfigure(
            "host=/tmp/lifeboat-fixture/source/socket user=postgres dbname=chat",
            &source(&original),
        );
        home.reconfigure("/tmp/lifeboat-fixture/mnt/", &format!("{}/", home.path("mnt").display()));
        let _mounted = ["vol-a", "vol-b"].map(|volume| {
            Mount::of(
                &home.path(&format!("volumes/volumes/{volume}/disk")),
                &home.path(&format!("mnt/{volume}")),
                "noatime",
            )
        });
        home.run(&["check"]).ok();
        // The fixture gets older every day.
        let script = home.path("drills/nightly.toml");
        let text = std::fs::read_to_string(&script).unwrap();
        assert!(!text.contains("[objectives]"), "{text}");
        std::fs::write(&script, format!("{text}\n[objectives]\nrpo = \"36500d\"\n")).unwrap();
        home.run(&["drill", "nightly"]).ok();
        // A rotation after theirs.
        let key = home.path("recovery-3.txt");
        let made = home
            .run(&["recovery-key", "new", "--out", key.to_str().unwrap(), "--json"])
            .ok()
            .json();
        let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
        let old = text.lines().find(|line| line.starts_with("recipients")).unwrap();
        home.reconfigure(
            old,
            &format!("recipients = [\"{}\"]", made["recipient"].as_str().unwrap()),
        );
        home.run(&["rekey", "--confirm", "--per-second", "100"]).ok();
        home.run(&["verify", "--all", "--identity", key.to_str().unwrap()]).ok();
        // The server is another one than that of the fixture.
        home.run(&["backup", "chat"]).fails(2, &["the server is another one", "--another-cluster"]);
        for datastore in ["chat", "parallel", "disks"] {
            home.run(&["backup", datastore, "--another-cluster"]).ok();
        }
        let before = backups(&home, "chat").len();
        home.run(&["prune", "--confirm"]).ok();
        let left = backups(&home, "chat");
        assert!(left.len() < before && !left.is_empty(), "{left:?} of {before}");
        home.run(&["verify", "--all"]).ok();
        // By now the drill that nobody went on with is one that failed; nothing else is wrong.
        let verified = home.run(&["evidence", "verify"]).fails(7, &[]);
        let flaws: Vec<&str> =
            verified.stdout.lines().filter(|line| line.starts_with("FLAW")).collect();
        assert!(
            !flaws.is_empty() && flaws.iter().all(|flaw| flaw.contains("drill halfway")),
            "{flaws:?}"
        );
        home.run(&["catalog", "rebuild"]).ok();
        home.run(&["list"]).ok();
    }
}

/// The drill died after loading, the restore after its rows.
#[test]
fn what_an_earlier_version_was_in_the_middle_of_is_finished() {
    for version in EARLIER_VERSIONS {
        let (home, original, target) = (Home::of_version(version), chat(), Cluster::start());
        let resumed = home.run_with(&THEN, &["drill", "resume", "halfway"]);
        assert_eq!(resumed.code, 0, "{resumed:?}");
        target.psql("postgres", "CREATE ROLE clerk LOGIN");
        target.psql(
            "postgres",
            &std::fs::read_to_string(fixture(version, "half-restored.sql")).unwrap(),
        );
        let finished = home
            .run(&["restore", "parallel", "--to", &target.conninfo("halfway"), "--yes", "--check"])
            .ok();
        assert!(
            finished.stdout.contains("went on") && finished.stdout.contains("all as recorded"),
            "{finished:?}"
        );
        same((&original, "chat"), (&target, "halfway"));
        // Another one that is not gone on with is given up.
        let home = Home::of_version(version);
        home.run_with(&THEN, &["drill", "abort", "halfway"]).fails(9, &[]);
        home.run_with(&THEN, &["evidence", "verify"]).ok();
    }
}

fn shared_catalog(version: &str) -> (Home, Cluster) {
    let (home, server) = (Home::of_version(version), Cluster::start());
    server.psql("postgres", "CREATE DATABASE catalog");
    server.psql("catalog", &std::fs::read_to_string(fixture(version, "catalog.sql")).unwrap());
    let url = format!("postgres:///catalog?host={}&user=postgres", server.socket().display());
    home.reconfigure("file = \"catalog.db\"", &format!("url = \"{url}\""));
    (home, server)
}

#[test]
fn catalogs_of_an_earlier_version_are_migrated_with_what_they_know() {
    for version in EARLIER_VERSIONS {
        let (home, server) = shared_catalog(version);
        let before = server.psql("catalog", "SELECT count(*), max(backup) FROM backups");
        home.run(&["list"]).ok();
        assert_eq!(server.psql("catalog", "SELECT count(*), max(backup) FROM backups"), before);
        let resumed = home.run_with(&THEN, &["drill", "resume", "halfway"]);
        assert_eq!(resumed.code, 0, "{resumed:?}");
    }
}

/// An older host finds a catalog that a newer one has migrated: it says so, and changes nothing.
/// What a host that has it open may go on doing is what migrations may not take away: they add.
#[test]
fn two_versions_on_one_catalog_never_corrupt_it() {
    let version = EARLIER_VERSIONS[0];
    let (home, server) = shared_catalog(version);
    home.run(&["list"]).ok();
    server.psql(
        "catalog",
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
         SELECT 9999, 'of tomorrow', now(), true, '\\x00', 1",
    );
    let dump = server.dump("catalog", Major::Debian15);
    home.reconfigure(
        "host=/tmp/lifeboat-fixture/source/socket user=postgres dbname=chat",
        &source(&chat()),
    );
    let refused = home.run(&["backup", "chat"]);
    assert!(
        refused.code != 0 && refused.stderr.contains("was migrated by a newer lifeboat (step 9999"),
        "{refused:?}"
    );
    home.run(&["drill", "resume", "halfway"])
        .fails(2, &["was migrated by a newer lifeboat", "use the newer lifeboat here too"]);
    assert_eq!(server.dump("catalog", Major::Debian15), dump);
    // Restoring needs no catalog.
    let target = Cluster::start();
    home.run(&["restore", "chat", "--to", &target.conninfo("back"), "--yes", "--check"]).ok();
}

/// Migrations that came after the first fixtures only add: a host of the version before goes on
/// with the catalog that it has open.
#[test]
fn migrations_only_add() {
    let frozen = [
        "0001_catalog.sql",
        "0002_thaws.sql",
        "0003_sets.sql",
        "0001_first.sql",
        "0002_drills.sql",
        "0003_ticks.sql",
        "0004_thaws.sql",
        "0005_sets.sql",
    ];
    let all = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/catalog/migrations"));
    assert!(all.len() >= frozen.len());
    for file in
        all.iter().filter(|file| !frozen.contains(&file.file_name().unwrap().to_str().unwrap()))
    {
        let text = std::fs::read_to_string(file).unwrap();
        let sql: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("--"))
            .collect::<Vec<_>>()
            .join("\n");
        for statement in sql.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            let upper = statement.to_uppercase();
            let adds = upper.starts_with("CREATE TABLE")
                || upper.starts_with("CREATE INDEX")
                || (upper.starts_with("ALTER TABLE") && upper.contains(" ADD COLUMN "));
            let must_be_given = upper.contains(" ADD COLUMN ")
                && upper.contains("NOT NULL")
                && !upper.contains("DEFAULT");
            assert!(
                adds && !must_be_given,
                "{}: a host of the version before would stumble over: {statement}",
                file.display()
            );
        }
    }
}

/// Each stored document names its format; one of tomorrow, signed as a later version would, is
/// refused by that name.
#[test]
fn a_document_of_a_later_format_is_refused_by_name() {
    let home = Home::of_version(EARLIER_VERSIONS[0]);
    let manifest = files(&home.vault().join("manifests/chat"))
        .into_iter()
        .rfind(|file| file.extension().is_some_and(|e| e == "json"))
        .unwrap();
    let id = manifest.file_stem().unwrap().to_str().unwrap().to_owned();
    // The first one has its hash in the manifest, those of rotations have not.
    let envelope = files(&home.vault().join("meta/chat"))
        .into_iter()
        .find(|file| file.ends_with("envelope-0002.json"))
        .unwrap();
    let rotated = envelope.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let record = home.vault().join("evidence/00000001.json");
    for (file, format, arguments) in [
        (&manifest, "lifeboat.manifest/", vec!["verify", id.as_str()]),
        (&envelope, "lifeboat.envelope/", vec!["verify", rotated.as_str()]),
        (&record, "lifeboat.evidence/", vec!["evidence", "verify"]),
        (&home.vault().join("vault.json"), "lifeboat.vault/", vec!["list"]),
    ] {
        let good = std::fs::read_to_string(file).unwrap();
        let at = good.find(format).unwrap() + format.len();
        std::fs::write(file, format!("{}99{}", &good[..at], &good[at + 1..])).unwrap();
        let signature = PathBuf::from(format!("{}.sig", file.display()));
        let signed_before = std::fs::read(&signature).ok();
        if signed_before.is_some() {
            let mut openssl = std::process::Command::new("openssl");
            openssl
                .args(["pkeyutl", "-sign", "-rawin", "-inkey"])
                .arg(home.path("keys/signing.pem"))
                .arg("-in")
                .arg(file)
                .arg("-out")
                .arg(&signature);
            assert!(openssl.status().unwrap().success());
        }
        let refused = home.run(&arguments);
        let said = refused.stdout.clone() + &refused.stderr;
        assert!(
            refused.code != 0
                && said.contains(&format!("{format}99"))
                && said.contains("newer lifeboat"),
            "{arguments:?}: {refused:?}"
        );
        std::fs::write(file, good).unwrap();
        signed_before.into_iter().for_each(|bytes| std::fs::write(&signature, bytes).unwrap());
    }
    home.run(&["verify", "--all"]).ok();
}

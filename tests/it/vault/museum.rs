//! A museum of broken backups. Every exhibit must be noticed, by `verify` and before or during a
//! restore, with the right exit code; none may pass, and none may crash the program.

use std::path::Path;

use crate::support::{Cluster, Home, Major};

/// The age header before the first chunk: everything after it is cut into chunks of 64 KiB and 16
/// bytes.
fn header_bytes(sealed: &[u8]) -> usize {
    let mac = sealed.windows(5).position(|w| w == b"\n--- ").unwrap() + 1;
    let end = mac + sealed[mac..].iter().position(|b| *b == b'\n').unwrap() + 1;
    end + 16
}

const CHUNK: usize = 64 * 1024 + 16;

struct Exhibit {
    _cluster: Cluster,
    home: Home,
    first: String,
    second: String,
}

impl Exhibit {
    fn new() -> Self {
        let cluster = Cluster::start();
        cluster.psql("postgres", "CREATE DATABASE d");
        // Enough bytes that do not compress for several chunks.
        cluster.psql("d", "CREATE TABLE t (id int, x bytea); INSERT INTO t SELECT i, sha256(i::text::bytea) || sha256((i * 3)::text::bytea) FROM generate_series(1, 4000) i; SELECT lo_from_bytea(0, sha256('x'))");
        let home = Home::of(&cluster, "d");
        let (first, second) = (home.backup(), home.backup());
        Self { _cluster: cluster, home, first, second }
    }

    /// Runs with a file changed, and puts it back.
    #[track_caller]
    fn with(
        &self,
        file: &Path,
        change: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
        check: impl FnOnce(&Home),
    ) {
        let good = std::fs::read(file).unwrap();
        std::fs::remove_file(file).unwrap();
        if let Some(bad) = change(&good) {
            assert!(bad != good, "the exhibit is not broken");
            std::fs::write(file, bad).unwrap();
        }
        check(&self.home);
        std::fs::write(file, good).unwrap();
    }

    #[track_caller]
    fn refused(&self, file: &Path, what: &str, change: impl FnOnce(&[u8]) -> Option<Vec<u8>>) {
        self.with(file, change, |home| {
            let out = home.run(&["verify", &self.first]);
            assert_eq!(out.code, 7, "{what}: {out:?}");
            assert!(
                out.stderr.starts_with("error: ") && !out.stderr.contains("panicked"),
                "{what}: {}",
                out.stderr
            );
            let out = home.run(&["restore", "db", "--backup", &self.first, "--to", "-"]);
            assert_eq!(out.code, 7, "{what}: restore: {}", out.stderr);
        });
    }
}

#[test]
fn a_payload_truncated_at_and_around_each_chunk_boundary_is_noticed() {
    let exhibit = Exhibit::new();
    let payload = exhibit.home.payload(&exhibit.first, "main");
    let sealed = std::fs::read(&payload).unwrap();
    let header = header_bytes(&sealed);
    assert!(sealed.len() > header + 3 * CHUNK, "{}", sealed.len());
    let boundaries = (0..).map(|n| header + n * CHUNK).take_while(|at| *at < sealed.len());
    let mut lengths: Vec<usize> = boundaries
        .flat_map(|at| [at - 1, at, at + 1, at + 16])
        .chain([0, 1, 100, header - 16, sealed.len() - 1, sealed.len() - 16, sealed.len() - 17])
        .collect();
    lengths.retain(|length| *length < sealed.len());
    for length in lengths {
        exhibit.refused(&payload, &format!("cut to {length} of {}", sealed.len()), |good| {
            Some(good[..length].to_vec())
        });
    }
    exhibit.refused(&payload, "bytes appended", |good| Some([good, b"x"].concat()));
    exhibit.refused(&payload, "a chunk appended", |good| {
        Some([good, &good[header..header + CHUNK]].concat())
    });
    exhibit.refused(&payload, "the file twice", |good| Some([good, good].concat()));
}

#[test]
fn any_byte_flipped_in_any_object_is_noticed() {
    let exhibit = Exhibit::new();
    let home = &exhibit.home;
    let meta = home.meta(&exhibit.first);
    let objects = [
        home.payload(&exhibit.first, "main"),
        home.payload(&exhibit.first, "globals.sql"),
        meta.join("fingerprint.json.zst.age"),
        home.manifest(&exhibit.first),
        home.vault().join(format!("manifests/db/{}.json.sig", exhibit.first)),
        meta.join("envelope-0001.json"),
        meta.join("envelope-0001.json.sig"),
    ];
    for object in objects {
        let size = std::fs::metadata(&object).unwrap().len() as usize;
        let steps = if size > 10_000 { 12 } else { 6 };
        for step in 0..=steps {
            let at = (size - 1) * step / steps;
            let flip = |good: &[u8]| {
                let mut bad = good.to_vec();
                bad[at] ^= 0x20;
                Some(bad)
            };
            exhibit.with(&object, flip, |home| {
                let out = home.run(&["verify", &exhibit.first]);
                assert_eq!(out.code, 7, "byte {at} of {}: {out:?}", object.display());
            });
        }
    }
    // A damaged slot is not the end: the other one opens the backup.
    exhibit.with(
        &meta.join("slots/0001-local.age"),
        |good| Some(good[..100].to_vec()),
        |home| {
            home.run(&["verify", &exhibit.first]).fails(5, &["no key opens backup", "--identity"]);
            // Opened with the other, and told all the same: some day this slot may be the only one
            // left.
            let words = ["key slot local", "is missing or damaged", "open with slot recovery"];
            home.run(&["verify", &exhibit.first, "--identity", &home.recovery()]).fails(7, &words);
            let restored = home.run(&[
                "restore",
                "db",
                "--backup",
                &exhibit.first,
                "--to",
                "-",
                "--identity",
                &home.recovery(),
            ]);
            assert_eq!(restored.code, 0, "{}", restored.stderr);
        },
    );
    exhibit.with(
        &meta.join("slots/0001-recovery.age"),
        |_| None,
        |home| {
            home.run(&["verify", &exhibit.first]).fails(7, &["key slot recovery"]);
        },
    );
}

#[test]
fn payloads_swapped_between_backups_or_with_each_other_are_noticed() {
    let exhibit = Exhibit::new();
    let home = &exhibit.home;
    for name in ["main", "globals.sql"] {
        let other = std::fs::read(home.payload(&exhibit.second, name)).unwrap();
        exhibit.with(
            &home.payload(&exhibit.first, name),
            |_| Some(other),
            |home| {
                home.run(&["verify", &exhibit.first]).fails(7, &[name]);
            },
        );
    }
    let globals = std::fs::read(home.payload(&exhibit.first, "globals.sql")).unwrap();
    exhibit.refused(&home.payload(&exhibit.first, "main"), "globals as main", |_| Some(globals));
    exhibit.refused(&home.payload(&exhibit.first, "main"), "no payload at all", |_| None);
}

#[test]
fn a_manifest_that_is_edited_moved_unsigned_or_from_the_future_is_refused() {
    let exhibit = Exhibit::new();
    let home = &exhibit.home;
    let manifest = home.manifest(&exhibit.first);
    let signature = home.vault().join(format!("manifests/db/{}.json.sig", exhibit.first));
    let edit = |from: &'static str, to: &'static str| {
        move |good: &[u8]| {
            Some(String::from_utf8(good.to_vec()).unwrap().replace(from, to).into_bytes())
        }
    };
    exhibit.refused(&manifest, "edited", edit("\"sequence\": 1", "\"sequence\": 9"));
    exhibit.with(
        &signature,
        |_| None,
        |home| {
            home.run(&["verify", &exhibit.first]).fails(7, &["is not signed by a trusted key"]);
            home.run(&["list"]).fails(7, &["not every manifest is believed"]);
            // The newest that is believed is used, and the other is told of.
            let warned = home.run(&["restore", "db", "--to", "-"]);
            assert!(
                warned.stderr.contains(&format!("backup {} is passed over", exhibit.first)),
                "{}",
                warned.stderr
            );
        },
    );
    // Both files of the second backup under the first one's name: signed, but out of place.
    let (other, other_signature) = (
        std::fs::read(home.manifest(&exhibit.second)).unwrap(),
        std::fs::read(home.vault().join(format!("manifests/db/{}.json.sig", exhibit.second)))
            .unwrap(),
    );
    exhibit.with(
        &signature,
        |_| Some(other_signature),
        |_| {
            exhibit.with(
                &manifest,
                |_| Some(other),
                |home| {
                    home.run(&["verify", &exhibit.first])
                        .fails(7, &["which is not where it stands"]);
                },
            )
        },
    );
    // Without a pinned key nothing is believed, and everything says so.
    let trust = std::fs::read_to_string(home.path("lifeboat.toml"))
        .unwrap()
        .lines()
        .find(|l| l.starts_with("trust"))
        .unwrap()
        .to_owned();
    home.reconfigure(&trust, "trust = []");
    assert!(home.run(&["verify", &exhibit.first]).ok().stdout.contains("UNVERIFIED"));
    assert!(home.run(&["restore", "db", "--to", "-"]).stderr.contains("UNVERIFIED"));
    exhibit.with(&manifest, edit("lifeboat.manifest/3", "lifeboat.manifest/4"), |home| {
        home.run(&["verify", &exhibit.first])
            .fails(7, &["has format \"lifeboat.manifest/4\"", "a newer lifeboat may be needed"]);
    });
    exhibit.with(&manifest, edit("lifeboat.manifest/3", "lifeboat.manifest/2"), |home| {
        home.run(&["verify", &exhibit.first])
            .fails(7, &["a manifest of format lifeboat.manifest/2 is of a volume set"]);
    });
    exhibit.with(&manifest, edit("payloads/db/", "payloads/other/"), |home| {
        home.run(&["verify", &exhibit.first]).fails(7, &["outside the backup's place"]);
    });
}

#[test]
fn an_envelope_of_another_backup_or_from_the_future_is_refused() {
    let exhibit = Exhibit::new();
    let home = &exhibit.home;
    let (own, other) = (home.meta(&exhibit.first), home.meta(&exhibit.second));
    let read = |path: &Path| std::fs::read(path).unwrap();
    let (envelope, signature) =
        (read(&other.join("envelope-0001.json")), read(&other.join("envelope-0001.json.sig")));
    exhibit.with(
        &own.join("envelope-0001.json.sig"),
        |_| Some(signature.clone()),
        |_| {
            exhibit.refused(&own.join("envelope-0001.json"), "another backup's envelope", |_| {
                Some(envelope.clone())
            });
        },
    );
    // As a second, rotated envelope it is signed and bound by no manifest; its own content refuses
    // it.
    std::fs::write(own.join("envelope-0002.json"), &envelope).unwrap();
    std::fs::write(own.join("envelope-0002.json.sig"), &signature).unwrap();
    home.run(&["verify", &exhibit.first]).fails(7, &["says it belongs to db/"]);
    // But it must not close the backup: whoever may write to the vault could close them all.
    let restored = || home.run(&["restore", "db", "--backup", &exhibit.first, "--to", "-"]).code;
    assert_eq!(restored(), 0);
    std::fs::write(own.join("envelope-0002.json"), "junk").unwrap();
    assert_eq!(restored(), 0);
    std::fs::remove_file(own.join("envelope-0002.json")).unwrap();
    // A slot of another backup does not open this one: its hash is not the envelope's.
    let slot = read(&other.join("slots/0001-local.age"));
    exhibit.with(
        &own.join("slots/0001-local.age"),
        |_| Some(slot),
        |home| {
            home.run(&["verify", &exhibit.first]).fails(5, &["no key opens backup"]);
        },
    );
    exhibit.refused(&own.join("envelope-0001.json"), "no envelope", |_| None);
    let vault = home.vault().join("vault.json");
    exhibit.with(
        &vault,
        |good| {
            Some(
                String::from_utf8(good.to_vec())
                    .unwrap()
                    .replace("vault/1", "vault/7")
                    .into_bytes(),
            )
        },
        |home| {
            home.run(&["list"]).fails(7, &["lifeboat.vault/7"]);
        },
    );
    exhibit.with(
        &vault,
        |_| None,
        |home| {
            home.run(&["backup", "db"]).fails(
                2,
                &["its vault.json is gone, and its backups are not", "put vault.json back"],
            );
        },
    );
}

#[test]
fn a_missing_key_is_named_and_never_made_anew() {
    let exhibit = Exhibit::new();
    let home = &exhibit.home;
    std::fs::remove_file(home.path("keys/identity.txt")).unwrap();
    home.run(&["backup", "db"])
        .fails(5, &["keys/identity.txt: the file is missing", "does not make a new key"]);
    home.run(&["verify", &exhibit.first]).fails(5, &["no key opens", "the file is missing"]);
    assert!(!home.path("keys/identity.txt").exists());
    home.run(&["verify", &exhibit.first, "--identity", &home.recovery()]).ok();
    // A new set-up beside the old vault is refused: its keys would open nothing of it.
    let elsewhere = home.path("elsewhere");
    home.run(&["init", elsewhere.to_str().unwrap(), "--vault", home.vault().to_str().unwrap()])
        .fails(2, &["it holds a vault already", "new keys would not open"]);
    assert!(!elsewhere.join("keys").exists());
    home.run(&["init", home.path("").to_str().unwrap()])
        .fails(2, &["lifeboat.toml: it exists already"]);
}

#[test]
fn a_gap_in_the_series_is_shown_before_the_newest_is_used() {
    let exhibit = Exhibit::new();
    let home = &exhibit.home;
    let third = home.backup();
    std::fs::remove_file(home.manifest(&exhibit.second)).unwrap();
    // Its payloads are no leavings: this host remembers that it published them.
    let sweep = home.run(&["sweep", "--older-than", "0s", "--confirm"]).ok();
    let told =
        format!("backup {} was published by this host, and its manifest is gone", exhibit.second);
    assert!(sweep.stderr.contains(&told), "{}", sweep.stderr);
    assert!(home.payload(&exhibit.second, "main").exists());
    let out = home.run(&["restore", "db", "--to", "-"]);
    assert!(
        out.stderr.contains("number 2, is known here and gone from the vault"),
        "{}",
        out.stderr
    );
    // A host that remembers nothing sees the gap.
    std::fs::remove_file(home.path("catalog.db")).unwrap();
    let out = home.run(&["restore", "db", "--to", "-"]);
    assert!(out.stderr.contains("backup number 2 of db is missing"), "{}", out.stderr);
    assert!(home.run(&["list"]).ok().stdout.contains(&third));
}

#[test]
fn a_restored_database_that_differs_from_the_fingerprint_is_noticed() {
    let exhibit = Exhibit::new();
    let target = Cluster::start_with(Major::Debian15, &[]);
    target.psql("postgres", "CREATE DATABASE d");
    // A trigger on the target's template changes a row while it is loaded: a stand-in for any
    // silent difference.
    target.psql("d", "CREATE FUNCTION gnaw() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF tg_tag = 'CREATE TABLE' THEN EXECUTE 'CREATE RULE gnaw AS ON INSERT TO public.t DO ALSO NOTHING'; EXECUTE 'DROP RULE gnaw ON public.t'; EXECUTE 'ALTER TABLE public.t ADD COLUMN extra int DEFAULT 1'; END IF; END $$; CREATE EVENT TRIGGER gnaw ON ddl_command_end EXECUTE FUNCTION gnaw()");
    let arguments = [
        "restore",
        "db",
        "--to",
        &target.conninfo("d"),
        "--yes",
        "--check",
        "--into-database-with-tables",
    ];
    exhibit
        .home
        .run(&arguments)
        .fails(8, &["is not what was recorded at backup time", "table public.t: columns"]);
}

/// Every byte of everything in a small vault, turned once. What is turned is noticed by what reads
/// it: manifests and what they name by `verify`, records by `evidence verify`, the header by
/// whoever writes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "some quarter of an hour: cargo test --test it -- --ignored every_byte_of_a_small_vault"]
async fn every_byte_of_a_small_vault_is_noticed() {
    use lifeboat::work::{evidence, shelf, verify};
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d");
    cluster.psql("d", "CREATE TABLE t AS SELECT i FROM generate_series(1, 10) i");
    let home = Home::of(&cluster, "d");
    let id = home.backup();
    home.run(&["hold", &id, "--reason", "a reason"]).ok();
    let config = lifeboat::config::Config::load(&home.path("lifeboat.toml")).unwrap();
    let rig = || {
        lifeboat::rig::assemble(
            config.clone(),
            Default::default(),
            Default::default(),
            Default::default(),
        )
    };
    let is_noticed = async || {
        let rig = rig().await.unwrap();
        if shelf::vault_to_write(&rig).await.is_err() {
            return true;
        }
        let (_, flaws) = evidence::examine(&rig).await.unwrap();
        let [entry] = &shelf::list_entries(&rig, None).await.unwrap()[..] else { return true };
        match &entry.manifest {
            Ok(believed) => {
                !flaws.is_empty()
                    || verify::verify(&rig, &believed.manifest, believed.verified).await.is_err()
            }
            Err(_) => true,
        }
    };
    assert!(!is_noticed().await);
    let (mut turned, mut silent) = (0, Vec::new());
    for file in crate::support::files(&home.vault()) {
        let good = std::fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&file, &bad).unwrap();
            turned += 1;
            if !is_noticed().await {
                silent.push(format!(
                    "{} byte {at}: {:?} for {:?}",
                    file.display(),
                    char::from(bad[at]),
                    char::from(good[at])
                ));
            }
        }
        std::fs::write(&file, good).unwrap();
    }
    assert!(
        turned > 10_000 && silent.is_empty(),
        "{turned} turned, {} not noticed: {:#?}",
        silent.len(),
        silent
    );
}

//! What a manifest is refused for, and what it says of a backup.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::domain::volumes::{Consistency, SetMember, SetPlace};

const BACKUP: &str = "20261122T031500Z-K3XQ7A";

fn object(key: &str, bytes: u64) -> StoredObject {
    let chunks =
        Some(ChunkList { bytes: CHUNK_BYTES as u64, sha256: "fedcba9876543210".repeat(4) });
    StoredObject { key: key.parse().unwrap(), bytes, sha256: "0123456789abcdef".repeat(4), chunks }
}

fn payload(name: &str, role: PayloadRole, plain_bytes: u64, pieces: &[u64]) -> Payload {
    let object = |(number, bytes): (usize, &u64)| {
        object(&format!("payloads/chat/{BACKUP}/{name}.zst.age.{number:04}"), *bytes)
    };
    Payload {
        name: name.to_owned(),
        role,
        plain_bytes,
        objects: pieces.iter().enumerate().map(object).collect(),
    }
}

fn statement() -> ManifestStatement {
    let time = |text: &str| text.parse().unwrap();
    ManifestStatement {
        vault: VaultId::from_random([7; 16]),
        datastore: "chat".parse().unwrap(),
        backup: BACKUP.parse().unwrap(),
        sequence: 17,
        tick: Some(time("2026-11-22T03:15:00Z")),
        epoch: 3,
        begun: time("2026-11-22T03:15:02Z"),
        published: time("2026-11-22T03:19:00Z"),
        source: SourceFacts {
            server_version: Some("15.18 (Debian 15.18-0+deb12u1)".to_owned()),
            server_version_num: Some(150_018),
            system_identifier: Some("7300000000000000001".to_owned()),
            snapshot_time: time("2026-11-22T03:15:01Z"),
            snapshot_lsn: Some("0/1A2B3C".to_owned()),
        },
        tools: ToolVersions {
            lifeboat: "0.1.0".to_owned(),
            pg_dump: Some("pg_dump 16.4".to_owned()),
            pg_dump_major: Some(16),
        },
        set: None,
        envelope_sha256: "e".repeat(64),
        slots: vec![SlotReference { name: "home".to_owned(), kind: "aws-kms".to_owned() }],
        evidence_head: Some("f".repeat(64)),
    }
}

/// What a dump with two parallel payloads is stored as.
fn dump() -> Manifest {
    let payloads = [
        payload("main", PayloadRole::Main, 1_000, &[300, 40]),
        payload("data-001", PayloadRole::Data, 20_000, &[5_000]),
        payload("data-002", PayloadRole::Data, 30_000, &[6_000]),
        payload("globals.sql", PayloadRole::Globals, 70, &[7]),
        Payload {
            name: "fingerprint.json".to_owned(),
            objects: vec![object(&format!("meta/chat/{BACKUP}/fingerprint.json.zst.age"), 80)],
            ..payload("", PayloadRole::Fingerprint, 400, &[])
        },
    ];
    let receipts: Vec<Receipt> = payloads.into_iter().map(Receipt::of_completed).collect();
    assert_eq!(receipts[0].payload().name, "main");
    Manifest::new(statement(), receipts)
}

/// What a set of two volumes is stored as, of which the blocks of one were counted.
fn set() -> Manifest {
    let member = |number: u8, blocks| SetMember {
        volume: format!("vol-{number}").parse().unwrap(),
        attached: None,
        bytes: 8 << 30,
        class: "gp3".to_owned(),
        iops: None,
        throughput: None,
        zone: "eu-west-1a".to_owned(),
        snapshot: format!("snap-{number}").parse().unwrap(),
        key: "arn:aws:kms:eu-west-1:1:key/1".to_owned(),
        started: "2026-11-22T03:15:01Z".parse().unwrap(),
        copy: None,
        blocks,
        changed: None,
    };
    let set = VolumeSet {
        place: SetPlace::Ebs { region: "eu-west-1".to_owned(), role: None },
        tagged: BACKUP.parse().unwrap(),
        consistency: Consistency::Crash,
        one_moment: true,
        cut_millis: 0,
        frozen_millis: None,
        postgres: None,
        members: vec![member(1, None), member(2, Some(3))],
        copied_to: None,
        lock: None,
    };
    let tools = ToolVersions { pg_dump: None, pg_dump_major: None, ..statement().tools };
    let source =
        SourceFacts { server_version: None, server_version_num: None, ..statement().source };
    let receipt = Receipt::of_completed(payload("vol-2.blocks", PayloadRole::Blocks, 96, &[50]));
    Manifest::new(ManifestStatement { set: Some(set), tools, source, ..statement() }, vec![receipt])
}

/// A manifest as it was before objects had lists of their chunks.
fn earlier(mut manifest: Manifest, format: &str) -> Manifest {
    manifest.format = format.to_owned();
    manifest
        .payloads
        .iter_mut()
        .flat_map(|payload| &mut payload.objects)
        .for_each(|object| object.chunks = None);
    manifest
}

/// Reads a manifest at the place of backup [`BACKUP`] of `chat`.
fn read(manifest: &Manifest) -> Result<Manifest, String> {
    let own = statement();
    let place = BackupKeys { datastore: &own.datastore, backup: &own.backup };
    Manifest::parse(&serde_json::to_vec(manifest).unwrap(), &own.vault, &place)
        .map_err(|error| error.to_string())
}

#[test]
fn a_manifest_reads_back_as_it_was_stated() {
    assert_eq!(read(&dump()).unwrap(), dump());
    assert_eq!(read(&set()).unwrap(), set());
    assert_eq!(
        (dump().format.as_str(), set().format.as_str()),
        ("lifeboat.manifest/3", "lifeboat.manifest/3")
    );
    for (format, manifest) in [(FORMAT_DUMP_WHOLE, dump()), (FORMAT_SET_WHOLE, set())] {
        let earlier = earlier(manifest, format);
        assert_eq!(read(&earlier).unwrap(), earlier, "{format}");
    }
    let plan = payload("plan.toml", PayloadRole::Plan, 9, &[1]);
    for mut planned in [dump(), set()] {
        planned.payloads.push(plan.clone());
        assert_eq!(
            read(&planned).unwrap(),
            planned,
            "a restore plan may be stored with any backup"
        );
    }
}

#[test]
fn a_manifest_that_stands_where_another_belongs_is_refused() {
    let says = |what: &str| {
        Err(format!(
            "the manifest at manifests/chat/{BACKUP}.json says it is {what}, which is not where it stands"
        ))
    };
    let vault = VaultId::from_random([8; 16]);
    assert_eq!(
        read(&Manifest { vault, ..dump() }),
        says("of vault 08080808080808080808080808080808")
    );
    assert_eq!(
        read(&Manifest { datastore: "mail".parse().unwrap(), ..dump() }),
        says("of datastore mail")
    );
    let backup = "20261122T031500Z-AAAAAA".parse().unwrap();
    assert_eq!(read(&Manifest { backup, ..dump() }), says("backup 20261122T031500Z-AAAAAA"));
}

#[test]
fn a_manifest_of_a_format_that_is_not_its_own_is_refused() {
    for (manifest, format, why) in [
        (
            earlier(dump(), FORMAT_SET_WHOLE),
            FORMAT_SET_WHOLE,
            "a manifest of format lifeboat.manifest/2 is of a volume set",
        ),
        (
            earlier(set(), FORMAT_DUMP_WHOLE),
            FORMAT_DUMP_WHOLE,
            "a manifest of format lifeboat.manifest/1 is not of a volume set",
        ),
        (
            dump(),
            FORMAT_DUMP_WHOLE,
            "payload \"main\" does not fit a manifest of format lifeboat.manifest/1: with or without lists of chunks",
        ),
        (
            earlier(dump(), FORMAT),
            FORMAT,
            "payload \"main\" does not fit a manifest of format lifeboat.manifest/3: with or without lists of chunks",
        ),
    ] {
        let refused = read(&Manifest { format: format.to_owned(), ..manifest }).unwrap_err();
        assert_eq!(refused, format!("the manifest of {BACKUP} is not acceptable: {why}"));
    }
    let newer = read(&Manifest { format: "lifeboat.manifest/4".to_owned(), ..dump() }).unwrap_err();
    assert!(
        newer.contains("\"lifeboat.manifest/4\"") && newer.contains("lifeboat.manifest/3"),
        "{newer}"
    );
    assert!(Manifest::parse(b"{}", &statement().vault, &dump().place()).is_err());
}

#[test]
fn a_dump_that_lacks_what_a_restore_needs_is_refused() {
    type Change = fn(&mut Manifest);
    let unknown = "it does not say which server it is of, or what dumped it";
    let changes: [(Change, &str); 8] = [
        (|m| m.source.server_version_num = None, unknown),
        (|m| m.tools.pg_dump_major = None, unknown),
        (|m| drop(m.payloads.remove(0)), "it lists 0 payloads of role Main, and must list 1"),
        (
            |m| m.payloads.push(payload("main-2", PayloadRole::Main, 1, &[1])),
            "it lists 2 payloads of role Main, and must list 1",
        ),
        (
            |m| m.payloads.retain(|p| p.role != PayloadRole::Globals),
            "it lists 0 payloads of role Globals, and must list 1",
        ),
        (
            |m| m.payloads.retain(|p| p.role != PayloadRole::Fingerprint),
            "it lists 0 payloads of role Fingerprint, and must list 1",
        ),
        (
            |m| m.payloads.push(payload("b", PayloadRole::Blocks, 1, &[1])),
            "it lists 1 payloads of role Blocks, and must list 0",
        ),
        (|m| m.payloads[1].objects.clear(), "payload \"data-001\" has no object"),
    ];
    for (change, why) in changes {
        let mut manifest = dump();
        change(&mut manifest);
        assert_eq!(
            read(&manifest).unwrap_err(),
            format!("the manifest of {BACKUP} is not acceptable: {why}")
        );
    }
}

#[test]
fn a_volume_set_that_contradicts_itself_is_refused() {
    let mut twice = set();
    let members = &mut twice.set.as_mut().unwrap().members;
    members[1].volume = members[0].volume.clone();
    assert!(read(&twice).unwrap_err().ends_with("a volume or a snapshot is in the set twice"));
    for role in
        [PayloadRole::Main, PayloadRole::Data, PayloadRole::Globals, PayloadRole::Fingerprint]
    {
        let mut manifest = set();
        manifest.payloads.push(payload("main", role, 1, &[1]));
        assert!(
            read(&manifest).unwrap_err().ends_with("payload \"main\" is not one of a volume set"),
            "{role:?}"
        );
    }
}

#[test]
fn payload_names_that_could_leave_a_directory_are_refused() {
    for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "Main", "a_b", "a b", "ä", "a\0", "main"]
    {
        let mut manifest = dump();
        bad.clone_into(&mut manifest.payloads[1].name);
        let refused = read(&manifest).unwrap_err();
        assert!(
            refused.ends_with(&format!("{bad:?} is not a payload's name, or is there twice")),
            "{bad:?}: {refused}"
        );
    }
    for good in ["z", "0", "-", "data-001", "a.b.", "vol-0a1.blocks"] {
        let mut manifest = dump();
        good.clone_into(&mut manifest.payloads[1].name);
        assert!(read(&manifest).is_ok(), "{good:?}");
    }
}

#[test]
fn objects_outside_of_the_backups_place_are_refused() {
    for (key, inside) in [
        (format!("payloads/chat/{BACKUP}/data-001.zst.age"), true),
        (format!("meta/chat/{BACKUP}/data-001.zst.age"), true),
        ("payloads/chat/20261122T031500Z-AAAAAA/main.zst.age".to_owned(), false),
        (format!("payloads/mail/{BACKUP}/main.zst.age"), false),
        (format!("payloads/chat/{BACKUP}.zst.age"), false),
        (format!("manifests/chat/{BACKUP}.json"), false),
        (format!("x/payloads/chat/{BACKUP}/main.zst.age"), false),
    ] {
        let mut manifest = dump();
        // The second object of a payload is looked at as the first is.
        manifest.payloads[0].objects[1].key = key.parse().unwrap();
        match read(&manifest) {
            Ok(_) => assert!(inside, "{key}"),
            Err(why) => {
                assert!(!inside, "{key}: {why}");
                assert!(
                    why.ends_with(&format!(
                        "payload \"main\" points at {key}, outside the backup's place"
                    )),
                    "{why}"
                );
            }
        }
    }
}

#[test]
fn only_64_lower_case_hexadecimal_digits_are_a_sha256() {
    for (sha256, proper) in [
        ("0".repeat(64), true),
        ("9af".repeat(21) + "0", true),
        ("0".repeat(63), false),
        ("0".repeat(65), false),
        (String::new(), false),
        ("A".repeat(64), false),
        ("g".repeat(64), false),
        ("ä".repeat(32), false),
    ] {
        let mut manifest = dump();
        manifest.payloads[0].objects[1].sha256.clone_from(&sha256);
        let read = read(&manifest).map(|_| ());
        assert_eq!(read.is_ok(), proper, "{sha256:?}");
        assert!(
            read.err().is_none_or(|why| why.ends_with("payload \"main\" has no proper SHA-256")),
            "{sha256:?}"
        );
    }
}

#[test]
fn sizes_add_up_over_all_payloads_and_their_pieces() {
    let dump = dump();
    assert_eq!(dump.payloads[0].sealed_bytes(), 340);
    assert_eq!(dump.sealed_bytes(), 340 + 5_000 + 6_000 + 7 + 80);
    assert_eq!(dump.plain_bytes(), 1_000 + 20_000 + 30_000 + 70 + 400);
    // A volume whose blocks were not counted counts as a whole, another as the blocks that hold
    // something.
    assert_eq!(set().plain_bytes(), (8 << 30) + 3 * 524_288);
    assert_eq!(set().sealed_bytes(), 50);
}

#[test]
fn payloads_are_found_by_their_role() {
    let dump = dump();
    assert_eq!(dump.payload(PayloadRole::Globals).map(|p| p.name.as_str()), Some("globals.sql"));
    assert_eq!(dump.payload(PayloadRole::Plan), None);
    assert_eq!(
        dump.data_payloads().map(|p| p.name.as_str()).collect::<Vec<_>>(),
        ["data-001", "data-002"]
    );
    assert_eq!(dump.place().manifest().as_str(), format!("manifests/chat/{BACKUP}.json"));
}

#[test]
fn versions_are_told_where_they_are_known() {
    let (dump, set) = (dump(), set());
    assert_eq!(
        (dump.source.version(), dump.source.major(), dump.tools.major()),
        ("15.18 (Debian 15.18-0+deb12u1)", 15, 16)
    );
    assert_eq!(
        (set.source.version(), set.source.major(), set.tools.major()),
        ("of an unknown version", 0, 0)
    );
    let fresh = SourceFacts { server_version_num: Some(170_000), ..dump.source };
    assert_eq!(fresh.major(), 17);
}

//! Identifiers, what protects a volume, and which sets are what they say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use proptest::prelude::*;
use serde_json::json;

const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/one";
const COPY_KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/two";

fn volume(number: usize) -> VolumeId {
    format!("vol-{number}").parse().unwrap()
}
fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}
fn frankfurt() -> SetPlace {
    SetPlace::Ebs { region: "eu-central-1".to_owned(), role: None }
}

fn member(number: usize) -> SetMember {
    SetMember {
        volume: volume(number),
        attached: None,
        bytes: 1 << 30,
        class: "gp3".to_owned(),
        iops: None,
        throughput: None,
        zone: "eu-west-1a".to_owned(),
        snapshot: format!("snap-{number}").parse().unwrap(),
        key: KEY.to_owned(),
        started: at("2026-11-25T02:00:00Z"),
        copy: None,
        blocks: None,
        changed: None,
    }
}
fn copied(number: usize) -> SetMember {
    let copy = SnapshotCopy {
        snapshot: format!("snap-copy{number}").parse().unwrap(),
        key: COPY_KEY.to_owned(),
    };
    SetMember { copy: Some(copy), ..member(number) }
}
fn set(members: Vec<SetMember>) -> VolumeSet {
    VolumeSet {
        place: SetPlace::Ebs { region: "eu-west-1".to_owned(), role: None },
        tagged: "20261125T020000Z-K3XQ7A".parse().unwrap(),
        consistency: Consistency::Crash,
        one_moment: true,
        cut_millis: 0,
        frozen_millis: None,
        postgres: None,
        members,
        copied_to: None,
        lock: None,
    }
}
fn snapshot() -> SnapshotInfo {
    SnapshotInfo {
        id: "snap-1".parse().unwrap(),
        volume: Some(volume(1)),
        bytes: 1 << 30,
        progress: SnapshotProgress::Completed,
        message: None,
        encrypted: true,
        key: Some(KEY.to_owned()),
        started: at("2026-11-25T02:00:00Z"),
        lock: None,
        tags: ResourceTags::new(),
        description: "lifeboat: chat 20261125T020000Z-AAAAAA".to_owned(),
    }
}

#[test]
fn what_other_tools_make_is_theirs_whatever_tags_they_copy() {
    assert!(!snapshot().is_foreign());
    for description in ["", "Created for policy: policy-0123", "copy of lifeboat: chat"] {
        assert!(
            SnapshotInfo { description: description.to_owned(), ..snapshot() }.is_foreign(),
            "{description}"
        );
    }
}

#[test]
fn identifiers_read_back_as_written() {
    let longest = format!("vol-{}", "a".repeat(40));
    for text in ["vol-0123456789abcdef0", "vol-a", "vol-data-1", &longest] {
        let id: VolumeId = text.parse().unwrap();
        assert_eq!(
            (id.as_str(), id.to_string().as_str(), String::from(id.clone()).as_str()),
            (text, text, text)
        );
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("{text:?}"));
        assert_eq!(serde_json::from_str::<VolumeId>(&format!("{text:?}")).unwrap(), id);
    }
    assert_eq!("snap-0f".parse::<SnapshotId>().unwrap().as_str(), "snap-0f");
    assert_eq!("i-0f".parse::<InstanceId>().unwrap().as_str(), "i-0f");
}

#[test]
fn what_is_unsafe_in_a_path_or_a_shell_is_no_identifier() {
    let too_long = format!("vol-{}", "a".repeat(41));
    for bad in [
        "", "vol-", "vol", "0f", "snap-0f", "Vol-0f", "vol-0F", "vol-../x", "vol-a b", "vol-a;b",
        "vol-a\n", "vol-ä", "vol-a_b", &too_long,
    ] {
        let why = bad.parse::<VolumeId>().unwrap_err();
        assert!(why.contains("is not the id of a volume (vol-…)"), "{why}");
        assert!(VolumeId::try_from(bad.to_owned()).is_err());
        assert!(
            serde_json::from_value::<VolumeId>(json!(bad)).is_err(),
            "nor in a document: {bad:?}"
        );
    }
    assert!("vol-0f".parse::<SnapshotId>().unwrap_err().contains("a snapshot (snap-…)"));
    assert!("vol-0f".parse::<InstanceId>().unwrap_err().contains("an instance (i-…)"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn no_text_makes_the_parser_panic_and_what_it_takes_is_safe(text in "(vol-)?[ -~ä]{0,44}") {
        if let Ok(id) = text.parse::<VolumeId>() {
            prop_assert_eq!(id.as_str(), text.as_str());
            prop_assert!(text.len() <= 44 && text.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-')));
        }
    }
}

#[test]
fn each_degree_of_consistency_is_more_than_the_one_before_and_keeps_its_name() {
    assert!(
        Consistency::Crash < Consistency::Filesystem
            && Consistency::Filesystem < Consistency::Postgres
    );
    for (consistency, name) in [
        (Consistency::Crash, "crash"),
        (Consistency::Filesystem, "filesystem"),
        (Consistency::Postgres, "postgres"),
    ] {
        assert_eq!((consistency.name(), consistency.to_string().as_str()), (name, name));
        assert_eq!(serde_json::to_value(consistency).unwrap(), json!(name));
    }
}

#[test]
fn a_place_is_named_for_people_and_kept_under_its_kind() {
    let role = "arn:aws:iam::111122223333:role/backup".to_owned();
    for (place, words, stored) in [
        (frankfurt(), "EBS in eu-central-1", json!({"kind": "ebs", "region": "eu-central-1"})),
        (
            SetPlace::Ebs { region: "eu-central-1".to_owned(), role: Some(role.clone()) },
            "EBS in eu-central-1 (by arn:aws:iam::111122223333:role/backup)",
            json!({"kind": "ebs", "region": "eu-central-1", "role": role}),
        ),
        (
            SetPlace::Local { directory: "/srv/volumes".to_owned() },
            "the files of /srv/volumes",
            json!({"kind": "local", "directory": "/srv/volumes"}),
        ),
    ] {
        assert_eq!(place.to_string(), words);
        assert_eq!(serde_json::to_value(&place).unwrap(), stored);
        assert_eq!(serde_json::from_value::<SetPlace>(stored).unwrap(), place);
    }
    assert!(
        serde_json::from_value::<SetPlace>(json!({"kind": "ebs", "region": "x", "bucket": "y"}))
            .is_err()
    );
}

#[test]
fn a_snapshot_protects_only_when_it_is_whole_encrypted_and_under_an_allowed_key() {
    let allowed = [COPY_KEY.to_owned(), KEY.to_owned()];
    for progress in [SnapshotProgress::Completed, SnapshotProgress::Archived] {
        let protected = SnapshotInfo { progress, ..snapshot() }.protect(&allowed).unwrap();
        assert_eq!(protected.key(), KEY);
        assert_eq!(protected.facts(), &SnapshotInfo { progress, ..snapshot() });
    }
    for (broken, why) in [
        (
            SnapshotInfo { progress: SnapshotProgress::Pending(99), ..snapshot() },
            "snapshot snap-1 is not whole: pending(99)",
        ),
        (
            SnapshotInfo { progress: SnapshotProgress::Failed, ..snapshot() },
            "snapshot snap-1 is not whole: failed",
        ),
        (
            SnapshotInfo { progress: SnapshotProgress::Recovering, ..snapshot() },
            "snapshot snap-1 is not whole: recovering",
        ),
        (
            SnapshotInfo {
                progress: SnapshotProgress::Failed,
                message: Some("the key was refused".to_owned()),
                ..snapshot()
            },
            "snapshot snap-1 is not whole: the key was refused",
        ),
        (SnapshotInfo { encrypted: false, ..snapshot() }, "snapshot snap-1 is not encrypted"),
        (
            SnapshotInfo { encrypted: false, key: None, ..snapshot() },
            "snapshot snap-1 is not encrypted",
        ),
        (
            SnapshotInfo { key: Some("alias/aws/ebs".to_owned()), ..snapshot() },
            "snapshot snap-1 is encrypted under alias/aws/ebs, which kms_keys does not allow",
        ),
        (
            SnapshotInfo { key: None, ..snapshot() },
            "snapshot snap-1 is encrypted under an unnamed key, which kms_keys does not allow",
        ),
    ] {
        assert_eq!(broken.protect(&allowed).unwrap_err().to_string(), why);
    }
    let why = snapshot().protect(&[]).unwrap_err();
    assert_eq!(
        why,
        NotProtected::OtherKey { id: "snap-1".parse().unwrap(), found: KEY.to_owned() },
        "no key is allowed by default"
    );
}

#[test]
fn a_copy_is_found_where_it_was_copied_and_nowhere_else() {
    let (plain, copied) = (member(1), copied(1));
    assert_eq!(plain.snapshot_in(false), Some((&plain.snapshot, KEY)));
    assert_eq!(plain.snapshot_in(true), None);
    assert_eq!(copied.snapshot_in(false), Some((&plain.snapshot, KEY)));
    assert_eq!(copied.snapshot_in(true), Some((&"snap-copy1".parse().unwrap(), COPY_KEY)));
}

#[test]
fn a_set_lists_its_places_its_snapshots_and_its_size() {
    let here = set(vec![member(2), SetMember { bytes: 5, ..member(1) }]);
    assert_eq!(
        here.places().map(|(place, copies)| (place.clone(), copies)).collect::<Vec<_>>(),
        [(here.place.clone(), false)]
    );
    assert_eq!(
        here.snapshots(false).iter().map(SnapshotId::as_str).collect::<Vec<_>>(),
        ["snap-2", "snap-1"]
    );
    assert!(here.snapshots(true).is_empty());
    assert_eq!(here.bytes(), (1 << 30) + 5);
    let both = VolumeSet { copied_to: Some(frankfurt()), ..set(vec![copied(2), copied(1)]) };
    assert_eq!(both.places().collect::<Vec<_>>(), [(&both.place, false), (&frankfurt(), true)]);
    assert_eq!(
        both.snapshots(true).iter().map(SnapshotId::as_str).collect::<Vec<_>>(),
        ["snap-copy2", "snap-copy1"]
    );
    assert_eq!(
        both.snapshots(false).iter().map(SnapshotId::as_str).collect::<Vec<_>>(),
        ["snap-2", "snap-1"]
    );
}

#[test]
fn a_block_is_half_a_mebibyte_as_the_ebs_direct_apis_have_it() {
    assert_eq!(BLOCK_BYTES, 524_288);
}

#[test]
fn a_set_has_1_to_128_volumes() {
    for (count, sound) in [(0, false), (1, true), (2, true), (128, true), (129, false)] {
        let set = set((0..count).map(member).collect());
        assert_eq!(set.sound().is_ok(), sound, "{count}");
    }
    assert_eq!(set(Vec::new()).sound().unwrap_err(), "a set has 1 to 128 volumes, and this one 0");
}

#[test]
fn a_set_that_contradicts_itself_is_not_sound() {
    let online = |wal_volume| {
        Some(PostgresCut::OnlineBackup {
            label: "START WAL LOCATION: 0/2000028".to_owned(),
            tablespace_map: String::new(),
            start_lsn: "0/2000028".to_owned(),
            stop_lsn: "0/2000138".to_owned(),
            wal_volume,
        })
    };
    let crash = || set(vec![member(1), member(2)]);
    let postgres = |cut, one_moment| VolumeSet {
        consistency: Consistency::Postgres,
        postgres: cut,
        one_moment,
        ..crash()
    };
    for (set, wrong) in [
        (crash(), ""),
        (VolumeSet { one_moment: false, cut_millis: 900, ..crash() }, ""),
        (
            VolumeSet { consistency: Consistency::Filesystem, frozen_millis: Some(12), ..crash() },
            "",
        ),
        (postgres(Some(PostgresCut::Checkpoint), true), ""),
        (postgres(online(volume(2)), false), ""),
        (postgres(online(volume(2)), true), ""),
        (VolumeSet { copied_to: Some(frankfurt()), ..set(vec![copied(1), copied(2)]) }, ""),
        (set(vec![member(1), SetMember { volume: volume(1), ..member(2) }]), "in the set twice"),
        (
            set(vec![member(1), SetMember { snapshot: member(1).snapshot, ..member(2) }]),
            "in the set twice",
        ),
        (VolumeSet { copied_to: Some(frankfurt()), ..crash() }, "not every volume has a copy"),
        (
            VolumeSet { copied_to: Some(frankfurt()), ..set(vec![copied(1), member(2)]) },
            "not every volume has a copy",
        ),
        (set(vec![copied(1), copied(2)]), "copied"),
        (postgres(None, true), "how Postgres was made ready"),
        (
            VolumeSet { postgres: Some(PostgresCut::Checkpoint), ..crash() },
            "how Postgres was made ready",
        ),
        (postgres(Some(PostgresCut::Checkpoint), false), "a checkpoint is not enough"),
        (postgres(online(volume(3)), false), "vol-3 is not in the set"),
    ] {
        match set.sound() {
            Ok(()) => assert_eq!(wrong, "", "{set:?}"),
            Err(why) => assert!(!wrong.is_empty() && why.contains(wrong), "{why}: {set:?}"),
        }
    }
}

#[test]
fn a_set_is_stored_without_what_is_not_known_and_reads_back() {
    let plain = set(vec![member(1)]);
    let stored = serde_json::to_value(&plain).unwrap();
    assert_eq!(
        stored,
        json!({
            "place": {"kind": "ebs", "region": "eu-west-1"},
            "tagged": "20261125T020000Z-K3XQ7A",
            "consistency": "crash",
            "one_moment": true,
            "cut_millis": 0,
            "members": [{
                "volume": "vol-1",
                "bytes": 1_073_741_824,
                "class": "gp3",
                "zone": "eu-west-1a",
                "snapshot": "snap-1",
                "key": KEY,
                "started": "2026-11-25T02:00:00Z",
            }],
        })
    );
    assert_eq!(serde_json::from_value::<VolumeSet>(stored).unwrap(), plain);
    let lock = LockState {
        kind: LockKind::Compliance,
        until: at("2027-11-25T02:00:00Z"),
        cooling_off_until: None,
    };
    let full = VolumeSet {
        consistency: Consistency::Postgres,
        postgres: Some(PostgresCut::Checkpoint),
        copied_to: Some(frankfurt()),
        lock: Some(lock),
        ..set(vec![copied(1)])
    };
    let stored = serde_json::to_value(&full).unwrap();
    assert_eq!(stored["postgres"], json!({"by": "checkpoint"}));
    assert_eq!(stored["lock"], json!({"kind": "compliance", "until": "2027-11-25T02:00:00Z"}));
    assert_eq!(stored["members"][0]["copy"], json!({"snapshot": "snap-copy1", "key": COPY_KEY}));
    assert_eq!(serde_json::from_value::<VolumeSet>(stored.clone()).unwrap(), full);
    let mut unknown = stored;
    unknown["colour"] = json!("red");
    assert!(
        serde_json::from_value::<VolumeSet>(unknown).is_err(),
        "a field that this program does not know is not overlooked"
    );
}

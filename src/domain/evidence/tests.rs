//! A series that nobody has been at has no flaw, and everything that can be done to one shows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}
fn vault() -> VaultId {
    "0123456789abcdef0123456789abcdef".parse().unwrap()
}
fn other_vault() -> VaultId {
    "ffffffffffffffffffffffffffffffff".parse().unwrap()
}
fn store() -> DatastoreName {
    "chat".parse().unwrap()
}
fn backup() -> BackupId {
    "20261122T031500Z-K3XQ7A".parse().unwrap()
}
const REPORT_BY: &str = "2026-11-24T12:00:00Z";

fn started(run: &str) -> RecordBody {
    RecordBody::Started(DrillStarted {
        run: run.to_owned(),
        drill: "nightly".to_owned(),
        datastores: vec![store()],
        script_sha256: "0".repeat(64),
        plan_sha256: "0".repeat(64),
        report_by: at(REPORT_BY),
    })
}
/// The report of a run whose `started` stands under a number.
fn report(run: &str, started: u64) -> RecordBody {
    let objective = Objective { allowed_seconds: 10.0, measured_seconds: Some(5.0) };
    RecordBody::Report(Box::new(DrillReport {
        schema: REPORT_SCHEMA.to_owned(),
        run: run.to_owned(),
        started,
        drill: "nightly".to_owned(),
        attempts: 1,
        script: SourceFile::default(),
        plan: SourceFile::default(),
        lifeboat_version: "0.1.0".to_owned(),
        lifeboat_sha256: "0".repeat(64),
        declared: at("2026-11-24T10:00:00Z"),
        ended: at("2026-11-24T11:00:00Z"),
        broken: BTreeMap::new(),
        backups: Vec::new(),
        sandbox: "docker".to_owned(),
        isolation: serde_json::Value::Null,
        scratch: None,
        gaps_accepted: Vec::new(),
        steps: Vec::new(),
        moments: DrillMoments::default(),
        rto: objective,
        rto_predicted_seconds: None,
        rpo: objective,
        checks: Vec::new(),
        controls: Vec::new(),
        halt: None,
        leftovers: Vec::new(),
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        notes: Vec::new(),
        reviewers: Vec::new(),
    }))
}
fn certify(report: u64, report_sha256: &str) -> RecordBody {
    let (reviewer, statement) = ("Ada".to_owned(), "seen".to_owned());
    RecordBody::Certify(Certificate {
        report,
        report_sha256: report_sha256.to_owned(),
        reviewer,
        statement,
    })
}
fn hold() -> HoldRecord {
    HoldRecord { datastore: store(), backup: backup(), reason: "case 17".to_owned() }
}
fn removed() -> RecordBody {
    let one =
        RemovedBackup { backup: backup(), sequence: 3, reason: "no rule keeps it".to_owned() };
    RecordBody::Removed(RemovalRecord { datastore: store(), backups: vec![one] })
}
fn restored() -> RecordBody {
    RecordBody::Restored(RestoreRecord {
        datastore: store(),
        backup: backup(),
        signature_verified: true,
        opened_with: "home".to_owned(),
        snapshot_time: at("2026-11-22T03:15:00Z"),
        plain_bytes: 1,
        begun: at("2026-11-24T10:00:00Z"),
        thaw_seconds: 0.0,
        seconds: 1.0,
        whole: true,
        resumed: false,
        swapped: false,
        as_recorded: None,
        smoke: 0,
        smoke_failed: 0,
        server: "17.2".to_owned(),
    })
}

/// The hash of the record under a number, as this module's series have it.
fn hash(sequence: u64) -> String {
    format!("{sequence:064x}")
}
fn record(sequence: u64, body: RecordBody) -> EvidenceRecord {
    let previous = (sequence > 1).then(|| hash(sequence - 1));
    EvidenceRecord {
        format: FORMAT.to_owned(),
        vault: vault(),
        sequence,
        previous,
        at: at("2026-11-24T10:00:00Z"),
        by: Actor::default(),
        body,
    }
}
fn found(record: EvidenceRecord) -> FoundRecord {
    FoundRecord {
        sequence: record.sequence,
        sha256: hash(record.sequence),
        record: Ok(record),
        signed: true,
    }
}
/// Signed records that follow each other.
fn series(bodies: Vec<RecordBody>) -> Vec<FoundRecord> {
    (1..).zip(bodies).map(|(sequence, body)| found(record(sequence, body))).collect()
}
/// So many records that refer to nothing.
fn holds(count: usize) -> Vec<FoundRecord> {
    series(vec![RecordBody::Hold(hold()); count])
}
/// Before any report is overdue.
fn early() -> Timestamp {
    at("2026-11-24T11:00:00Z")
}
/// After every report is overdue.
fn overdue() -> Timestamp {
    at("2026-11-24T13:00:00Z")
}
fn flaws_of(found: &[FoundRecord]) -> Vec<SeriesFlaw> {
    flaws(&vault(), found, &[], &[], early())
}
fn flaws_when_overdue(bodies: Vec<RecordBody>) -> Vec<SeriesFlaw> {
    flaws(&vault(), &series(bodies), &[], &[], overdue())
}
fn head(sequence: u64) -> SeenHead {
    SeenHead { sha256: hash(sequence), seen_by: format!("the manifest of backup {sequence}") }
}
fn change(found: &mut FoundRecord, change: impl FnOnce(&mut EvidenceRecord)) {
    change(found.record.as_mut().unwrap());
}

#[test]
fn a_series_that_nobody_has_been_at_has_no_flaw() {
    let bodies = vec![
        started("one"),
        report("one", 1),
        certify(2, &hash(2)),
        removed(),
        restored(),
        RecordBody::Hold(hold()),
        RecordBody::Release(hold()),
        started("two"),
        report("two", 8),
    ];
    let heads = [head(1), head(5), head(9)];
    assert_eq!(flaws(&vault(), &series(bodies), &[], &heads, overdue()), vec![]);
    assert_eq!(flaws(&vault(), &[], &[], &[], overdue()), vec![], "nothing was written yet");
}

#[test]
fn a_record_that_is_gone_shows_as_missing_and_only_as_that() {
    let without = |gone: &[u64]| -> Vec<FoundRecord> {
        holds(6).into_iter().filter(|one| !gone.contains(&one.sequence)).collect()
    };
    let missing = |from, to| SeriesFlaw::Missing { from, to };
    for (gone, expected) in [
        (vec![], vec![]),
        (vec![1], vec![missing(1, 1)]),
        (vec![1, 2], vec![missing(1, 2)]),
        (vec![3], vec![missing(3, 3)]),
        (vec![3, 4, 5], vec![missing(3, 5)]),
        (vec![2, 5], vec![missing(2, 2), missing(5, 5)]),
        (vec![2, 4], vec![missing(2, 2), missing(4, 4)]),
    ] {
        assert_eq!(flaws_of(&without(&gone)), expected, "without {gone:?}");
    }
}

#[test]
fn a_record_under_a_number_far_away_is_answered_at_once() {
    let mut two = holds(2);
    two[1].sequence = u64::MAX;
    change(&mut two[1], |record| record.sequence = u64::MAX);
    assert_eq!(flaws_of(&two), [SeriesFlaw::Missing { from: 2, to: u64::MAX - 1 }]);
}

#[test]
fn the_end_of_a_series_that_was_cut_off_shows_by_what_was_seen_of_it() {
    let cut = &holds(6)[..4];
    assert_eq!(flaws_of(cut), vec![], "the series alone does not know");
    let seen = flaws(&vault(), cut, &[], &[head(2), head(6), head(4)], early());
    assert_eq!(seen, [SeriesFlaw::HeadMissing { seen_by: "the manifest of backup 6".to_owned() }]);
}

#[test]
fn a_record_without_the_signature_of_a_trusted_key_is_a_flaw_and_what_follows_is_none() {
    let mut edited = holds(4);
    edited[1].signed = false;
    assert_eq!(flaws_of(&edited), [SeriesFlaw::NotSigned { sequence: 2 }]);
}

#[test]
fn a_record_that_cannot_be_read_is_a_flaw_and_the_next_still_follows_it() {
    let mut broken = holds(4);
    broken[1].record = Err("no JSON".to_owned());
    assert_eq!(
        flaws_of(&broken),
        [SeriesFlaw::Unreadable { sequence: 2, why: "no JSON".to_owned() }]
    );
    broken[1].signed = false;
    assert_eq!(
        flaws_of(&broken),
        [
            SeriesFlaw::NotSigned { sequence: 2 },
            SeriesFlaw::Unreadable { sequence: 2, why: "no JSON".to_owned() }
        ]
    );
}

#[test]
fn a_record_that_was_replaced_shows_at_the_one_that_follows_it() {
    let mut replaced = holds(4);
    replaced[1].sha256 = "another".to_owned();
    assert_eq!(flaws_of(&replaced), [SeriesFlaw::Forked { sequence: 3 }]);
    // The last one is followed by nothing: there the signature and whoever saw its hash must tell.
    let mut last = holds(4);
    last[3].sha256 = "another".to_owned();
    assert_eq!(flaws_of(&last), vec![]);
    assert_eq!(flaws(&vault(), &last, &[], &[head(4)], early()).len(), 1);
}

#[test]
fn a_first_record_that_follows_another_or_a_later_one_that_follows_none_is_forked() {
    let mut first = holds(3);
    change(&mut first[0], |record| record.previous = Some(hash(9)));
    assert_eq!(flaws_of(&first), [SeriesFlaw::Forked { sequence: 1 }]);
    let mut later = holds(3);
    change(&mut later[2], |record| record.previous = None);
    assert_eq!(flaws_of(&later), [SeriesFlaw::Forked { sequence: 3 }]);
}

#[test]
fn a_record_of_another_number_or_of_another_vault_is_misplaced() {
    let mut swapped = holds(4);
    let second = swapped[1].record.clone();
    swapped[1].record = swapped[2].record.clone();
    swapped[2].record = second;
    assert_eq!(
        flaws_of(&swapped),
        [SeriesFlaw::Misplaced { sequence: 2 }, SeriesFlaw::Misplaced { sequence: 3 }]
    );
    let mut foreign = holds(3);
    change(&mut foreign[1], |record| record.vault = other_vault());
    assert_eq!(flaws_of(&foreign), [SeriesFlaw::Misplaced { sequence: 2 }]);
    assert_eq!(
        flaws(&other_vault(), &holds(2), &[], &[], early()).len(),
        2,
        "a whole series that was copied to another vault"
    );
}

#[test]
fn a_gap_excuses_only_the_record_right_behind_it() {
    let mut two: Vec<FoundRecord> = holds(6).into_iter().filter(|one| one.sequence != 2).collect();
    change(&mut two[2], |record| record.previous = Some(hash(9)));
    assert_eq!(
        flaws_of(&two),
        [SeriesFlaw::Missing { from: 2, to: 2 }, SeriesFlaw::Forked { sequence: 4 }]
    );
    // Nor does it excuse a wrong signature or a wrong place.
    let mut behind: Vec<FoundRecord> =
        holds(4).into_iter().filter(|one| one.sequence != 2).collect();
    behind[1].signed = false;
    change(&mut behind[1], |record| record.vault = other_vault());
    let expected = [
        SeriesFlaw::Missing { from: 2, to: 2 },
        SeriesFlaw::NotSigned { sequence: 3 },
        SeriesFlaw::Misplaced { sequence: 3 },
    ];
    assert_eq!(flaws_of(&behind), expected);
}

#[test]
fn a_number_that_was_claimed_by_a_writer_that_died_is_not_missing() {
    // Record 3 never came to be: record 4 follows record 2.
    let skipping = || -> Vec<FoundRecord> {
        let mut found: Vec<FoundRecord> =
            holds(5).into_iter().filter(|one| one.sequence != 3).collect();
        change(&mut found[2], |record| record.previous = Some(hash(2)));
        found
    };
    let with = |claimed: &[u64]| flaws(&vault(), &skipping(), claimed, &[], early());
    assert_eq!(with(&[3]), vec![]);
    assert_eq!(with(&[2, 3, 4]), vec![]);
    assert_eq!(with(&[2, 4]), [SeriesFlaw::Missing { from: 3, to: 3 }]);
}

#[test]
fn a_claimed_number_whose_record_was_known_to_the_next_one_was_removed() {
    let removed: Vec<FoundRecord> = holds(5).into_iter().filter(|one| one.sequence != 3).collect();
    assert_eq!(flaws(&vault(), &removed, &[3], &[], early()), [SeriesFlaw::Forked { sequence: 4 }]);
}

#[test]
fn of_a_gap_that_was_claimed_in_part_the_rest_is_missing() {
    let ends = || -> Vec<FoundRecord> {
        holds(6).into_iter().filter(|one| matches!(one.sequence, 1 | 6)).collect()
    };
    for (claimed, from, to) in [
        (vec![2], 3, 5),
        (vec![5], 2, 4),
        (vec![2, 5], 3, 4),
        (vec![2, 3, 5], 4, 4),
        (vec![3], 2, 5),
    ] {
        assert_eq!(
            flaws(&vault(), &ends(), &claimed, &[], early()),
            [SeriesFlaw::Missing { from, to }],
            "claimed {claimed:?}"
        );
    }
}

#[test]
fn a_drill_without_a_report_is_a_flaw_as_soon_as_its_time_is_over_and_not_before() {
    let one = series(vec![started("one")]);
    let no_report = [SeriesFlaw::NoReport { started: 1, drill: "nightly".to_owned() }];
    assert_eq!(flaws(&vault(), &one, &[], &[], early()), vec![]);
    assert_eq!(flaws(&vault(), &one, &[], &[], at(REPORT_BY)), vec![], "its last moment");
    assert_eq!(flaws(&vault(), &one, &[], &[], at("2026-11-24T12:00:01Z")), no_report);
}

#[test]
fn the_report_of_another_run_is_no_report_of_this_one() {
    let flaws = flaws_when_overdue(vec![
        started("one"),
        started("two"),
        report("two", 2),
        RecordBody::Hold(hold()),
    ]);
    assert_eq!(flaws, [SeriesFlaw::NoReport { started: 1, drill: "nightly".to_owned() }]);
}

#[test]
fn a_second_report_of_a_run_is_a_flaw_of_the_later_one() {
    let flaws = flaws_when_overdue(vec![
        started("one"),
        report("one", 1),
        started("two"),
        report("two", 3),
        report("one", 1),
    ]);
    assert_eq!(flaws, [SeriesFlaw::ReportedTwice { sequence: 5 }]);
}

#[test]
fn a_report_must_name_the_start_of_its_own_run() {
    let dangling = |sequence| vec![SeriesFlaw::Dangling { sequence }];
    for (what, bodies, expected) in [
        ("its own", vec![started("one"), started("two"), report("one", 1)], vec![]),
        (
            "that of another run",
            vec![started("one"), started("two"), report("one", 2)],
            dangling(3),
        ),
        ("a number that is not there", vec![started("one"), report("one", 9)], dangling(2)),
        ("a record of another kind", vec![RecordBody::Hold(hold()), report("one", 1)], dangling(2)),
        ("a run that never began", vec![started("one"), report("two", 1)], dangling(2)),
    ] {
        assert_eq!(flaws_of(&series(bodies)), expected, "{what}");
    }
}

#[test]
fn a_certificate_must_name_a_report_by_its_number_and_its_hash() {
    for (number, sha256, expected) in [
        (2, hash(2), vec![]),
        (2, hash(1), vec![3]),
        (1, hash(2), vec![3]),
        (9, hash(9), vec![3]),
        (2, "another".to_owned(), vec![3]),
    ] {
        let flaws =
            flaws_when_overdue(vec![started("one"), report("one", 1), certify(number, &sha256)]);
        let expected: Vec<SeriesFlaw> =
            expected.into_iter().map(|sequence| SeriesFlaw::Dangling { sequence }).collect();
        assert_eq!(flaws, expected, "number {number}, hash {sha256}");
    }
}

#[test]
fn what_must_be_read_to_know_what_was_said_is_told_apart_from_what_only_lacks_a_report() {
    for (flaw, hides) in [
        (SeriesFlaw::NotSigned { sequence: 1 }, true),
        (SeriesFlaw::Unreadable { sequence: 1, why: String::new() }, true),
        (SeriesFlaw::Misplaced { sequence: 1 }, true),
        (SeriesFlaw::Missing { from: 1, to: 1 }, true),
        (SeriesFlaw::Forked { sequence: 1 }, true),
        (SeriesFlaw::HeadMissing { seen_by: String::new() }, true),
        (SeriesFlaw::NoReport { started: 1, drill: String::new() }, false),
        (SeriesFlaw::ReportedTwice { sequence: 1 }, false),
        (SeriesFlaw::Dangling { sequence: 1 }, false),
    ] {
        assert_eq!(flaw.hides_records(), hides, "{flaw:?}");
    }
}

#[test]
fn flaws_say_what_it_means_and_are_stored_under_fixed_names() {
    let text = |text: &str| text.to_owned();
    for (flaw, said, stored) in [
        (
            SeriesFlaw::NotSigned { sequence: 4 },
            "record 4 is not signed by a trusted key: it was edited, or somebody else wrote it",
            r#"{"kind":"not-signed","sequence":4}"#,
        ),
        (
            SeriesFlaw::Unreadable { sequence: 4, why: text("no JSON") },
            "record 4 cannot be read: no JSON",
            r#"{"kind":"unreadable","sequence":4,"why":"no JSON"}"#,
        ),
        (
            SeriesFlaw::Misplaced { sequence: 4 },
            "the record at number 4 belongs elsewhere: records were reordered or copied",
            r#"{"kind":"misplaced","sequence":4}"#,
        ),
        (
            SeriesFlaw::Missing { from: 4, to: 4 },
            "record 4 is missing",
            r#"{"kind":"missing","from":4,"to":4}"#,
        ),
        (
            SeriesFlaw::Missing { from: 4, to: 5 },
            "records 4 to 5 are missing",
            r#"{"kind":"missing","from":4,"to":5}"#,
        ),
        (
            SeriesFlaw::Forked { sequence: 4 },
            "record 4 follows another record than the one before it: the series was forked or a record replaced",
            r#"{"kind":"forked","sequence":4}"#,
        ),
        (
            SeriesFlaw::HeadMissing { seen_by: text("this host") },
            "a record that this host had seen is gone: the end of the series was cut off",
            r#"{"kind":"head-missing","seen_by":"this host"}"#,
        ),
        (
            SeriesFlaw::NoReport { started: 4, drill: text("nightly") },
            "drill nightly, started in record 4, has no report: it counts as FAIL",
            r#"{"kind":"no-report","started":4,"drill":"nightly"}"#,
        ),
        (
            SeriesFlaw::ReportedTwice { sequence: 4 },
            "record 4 is a second report of the same run",
            r#"{"kind":"reported-twice","sequence":4}"#,
        ),
        (
            SeriesFlaw::Dangling { sequence: 4 },
            "record 4 refers to a record that is not there",
            r#"{"kind":"dangling","sequence":4}"#,
        ),
    ] {
        assert_eq!(
            (flaw.to_string().as_str(), serde_json::to_string(&flaw).unwrap().as_str()),
            (said, stored)
        );
    }
}

#[test]
fn records_of_every_kind_are_read_as_they_were_written_under_fixed_names() {
    for (kind, body) in [
        ("started", started("one")),
        ("report", report("one", 1)),
        ("certify", certify(2, &hash(2))),
        ("removed", removed()),
        ("restored", restored()),
        ("hold", RecordBody::Hold(hold())),
        ("release", RecordBody::Release(hold())),
    ] {
        let written = record(3, body);
        let value = serde_json::to_value(&written).unwrap();
        assert_eq!(
            (&value["format"], &value["body"]["kind"]),
            (&"lifeboat.evidence/1".into(), &kind.into())
        );
        assert!(value["body"]["of"].is_object(), "{kind}");
        assert_eq!(
            EvidenceRecord::parse(&serde_json::to_vec_pretty(&value).unwrap()).unwrap(),
            written
        );
    }
}

#[test]
fn a_record_of_a_newer_format_or_with_unknown_fields_is_not_read() {
    let value = || serde_json::to_value(record(3, RecordBody::Hold(hold()))).unwrap();
    let refused = |value: &serde_json::Value| {
        EvidenceRecord::parse(&serde_json::to_vec(value).unwrap()).unwrap_err()
    };
    let mut newer = value();
    newer["format"] = "lifeboat.evidence/2".into();
    assert_eq!(
        refused(&newer).to_string(),
        r#"the evidence record has format "lifeboat.evidence/2", and this lifeboat reads "lifeboat.evidence/1"; a newer lifeboat may be needed"#
    );
    for (pointer, field) in [("", "note"), ("/by", "mail"), ("/body/of", "until")] {
        let mut unknown = value();
        unknown.pointer_mut(pointer).unwrap()[field] = 1.into();
        assert!(
            matches!(refused(&unknown), DocumentError::Malformed { what: "evidence record", .. }),
            "{pointer}/{field}"
        );
    }
    for bytes in [&b""[..], b"{}", b"[]", b"{\"format\":\"lifeboat.evidence/1\"}", b"\xff"] {
        assert!(
            matches!(EvidenceRecord::parse(bytes), Err(DocumentError::Malformed { .. })),
            "{bytes:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever one does to one record that another follows, a flaw that hides records names it or
    /// the one behind it.
    #[test]
    fn nothing_can_be_done_to_a_record_unseen(count in 2..12usize, which in 0..11usize, deed in 0..6usize) {
        let which = which % (count - 1);
        let mut touched = holds(count);
        let place = touched[which].sequence;
        match deed {
            0 => drop(touched.remove(which)),
            1 => touched[which].signed = false,
            2 => touched[which].record = Err("no JSON".to_owned()),
            3 => touched[which].sha256 = "another".to_owned(),
            4 => change(&mut touched[which], |record| record.vault = other_vault()),
            _ => change(&mut touched[which], |record| record.previous = Some("another".to_owned())),
        }
        let flaws = flaws_of(&touched);
        prop_assert_eq!(flaws.len(), 1, "{:?}", flaws);
        prop_assert!(flaws[0].hides_records());
        let named = match flaws[0] {
            SeriesFlaw::Missing { from, to } if from == to => from,
            SeriesFlaw::Forked { sequence } if deed == 3 => sequence - 1,
            SeriesFlaw::Forked { sequence } | SeriesFlaw::NotSigned { sequence } | SeriesFlaw::Unreadable { sequence, .. } | SeriesFlaw::Misplaced { sequence } => sequence,
            _ => 0,
        };
        prop_assert_eq!(named, place);
    }

    /// However long the series is and wherever it is cut, whoever has seen a record behind the cut
    /// notices.
    #[test]
    fn a_cut_is_noticed_by_whoever_saw_more(count in 1..12usize, cut in 0..12usize, seen in 1..12u64) {
        let (cut, seen) = (cut % (count + 1), 1 + (seen - 1) % count as u64);
        let flaws = flaws(&vault(), &holds(count)[..cut], &[], &[head(seen)], early());
        prop_assert_eq!(flaws.is_empty(), seen <= cut as u64);
    }
}

#[test]
fn a_forged_report_answers_for_no_drill() {
    let mut series = series(vec![started("r1"), report("r1", 1)]);
    series[1].signed = false;
    assert_eq!(
        flaws(&vault(), &series, &[], &[], overdue()),
        [
            SeriesFlaw::NotSigned { sequence: 2 },
            SeriesFlaw::NoReport { started: 1, drill: "nightly".to_owned() }
        ]
    );
}

#[test]
fn a_report_names_an_earlier_start_of_the_same_drill() {
    let mut before = series(vec![report("r1", 2), started("r1")]);
    assert_eq!(
        flaws(&vault(), &before, &[], &[], overdue()),
        [
            SeriesFlaw::Dangling { sequence: 1 },
            SeriesFlaw::NoReport { started: 2, drill: "nightly".to_owned() }
        ]
    );
    before = series(vec![started("r1"), report("r1", 1)]);
    change(&mut before[0], |record| {
        if let RecordBody::Started(started) = &mut record.body {
            started.drill = "weekly".to_owned();
        }
    });
    assert!(
        flaws(&vault(), &before, &[], &[], early()).contains(&SeriesFlaw::Dangling { sequence: 2 })
    );
}

#[test]
fn a_certificate_of_something_that_is_no_report_refers_to_nothing() {
    let all =
        series(vec![started("r1"), report("r1", 1), certify(1, &hash(1)), certify(2, &hash(2))]);
    assert_eq!(flaws(&vault(), &all, &[], &[], early()), [SeriesFlaw::Dangling { sequence: 3 }]);
}

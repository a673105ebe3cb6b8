//! Findings of a drill, and the verdict that follows from them. A pure function: the same findings
//! always give the same verdict.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::id::DatastoreName;

/// What a drill ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// The datastore came back, was checked, in time, and everything is gone again.
    Pass,
    /// Something could not be looked at, or the sandbox is at fault: nothing is known about the
    /// backup.
    NotVerified,
    /// The backup, the checks or the objectives failed.
    Fail,
}

impl Verdict {
    /// As it is written everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::NotVerified => "NOT_VERIFIED",
            Self::Fail => "FAIL",
        }
    }
}

/// The answer of a check. *Could not look* is never a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckOutcome {
    /// What was asked is so.
    Pass,
    /// It is not so.
    Fail,
    /// It could not be looked at.
    CouldNotLook,
}

/// Kinds of checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// Everything against what was recorded at backup time.
    Fingerprint,
    /// A set of volumes against what was recorded with the dump of the same database.
    CrossCheck,
    /// A query with an expected answer.
    Sql,
    /// The newest row against the RPO.
    Freshness,
    /// `pg_amcheck --heapallindexed`.
    Amcheck,
    /// Extensions, roles, invalid indexes, constraints that were never validated.
    Catalog,
    /// The team's own program.
    Command,
}

/// One check and its answer. Holds no names of tables and no values: those are shown, not stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckResult {
    /// Its name in the drill file.
    pub name: String,
    /// The datastore that was asked.
    pub datastore: DatastoreName,
    /// What kind it is.
    pub kind: CheckKind,
    /// The answer.
    pub answer: CheckOutcome,
    /// The answer in words that may be stored.
    pub summary: String,
    /// Seconds it took.
    pub seconds: f64,
    /// What a person wants to see, with names and values. Never stored.
    #[serde(skip)]
    pub detail: Vec<String>,
}

/// Damage done on purpose, to see whether it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NegativeControl {
    /// A row is deleted from the restored data.
    RowsDropped,
    /// A bit of a sealed payload is turned.
    ByteFlipped,
    /// A sealed payload ends early.
    PayloadTruncated,
    /// The envelope of another backup lies in this one's place.
    ForeignEnvelope,
}

impl NegativeControl {
    /// All of them, with their names in drill files.
    pub const ALL: [(&'static str, Self); 4] = [
        ("rows-dropped", Self::RowsDropped),
        ("byte-flipped", Self::ByteFlipped),
        ("payload-truncated", Self::PayloadTruncated),
        ("foreign-envelope", Self::ForeignEnvelope),
    ];
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, control)| *control == self).map_or("", |(name, _)| name)
    }
}

/// What came of a control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlResult {
    /// The damage.
    pub control: NegativeControl,
    /// Whether it was noticed; none if the damage could not be done.
    pub noticed: Option<bool>,
    /// In words.
    pub summary: String,
    /// Seconds it took.
    pub seconds: f64,
}

/// What a drill breaks before it restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// The catalog is lost: everything is learned again from the vault.
    CatalogLost,
    /// The home region's key is lost: another slot must open.
    HomeKeyLost,
    /// KMS is gone altogether: an offline key must open.
    KmsGone,
    /// lifeboat itself is lost: stock tools, by `RESTORE.md`.
    LifeboatLost,
    /// The newest backup is damaged: that must be noticed, and the one before it used.
    NewestDamaged,
    /// The home region is lost, its vault and its key: a copy in another vault must open with
    /// another key.
    RegionLost,
}

impl Scenario {
    /// All of them, with their names in drill files.
    pub const ALL: [(&'static str, Self); 6] = [
        ("catalog-lost", Self::CatalogLost),
        ("home-key-lost", Self::HomeKeyLost),
        ("kms-gone", Self::KmsGone),
        ("lifeboat-lost", Self::LifeboatLost),
        ("newest-damaged", Self::NewestDamaged),
        ("region-lost", Self::RegionLost),
    ];
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scenario)| *scenario == self).map_or("", |(name, _)| name)
    }
    /// What is lost, in words.
    #[must_use]
    pub fn story(self) -> &'static str {
        match self {
            Self::CatalogLost => "the catalog is lost",
            Self::HomeKeyLost => "the home region's key is lost",
            Self::KmsGone => "KMS is gone altogether",
            Self::LifeboatLost => "lifeboat itself is lost",
            Self::NewestDamaged => "the newest backup is damaged",
            Self::RegionLost => "the home region is lost, its vault and its key",
        }
    }
}

/// Why a drill did not get to its checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "at-fault", content = "why")]
pub enum DrillHalt {
    /// The backup, its keys or the restore.
    Backup(DrillFault),
    /// The sandbox, or this machine.
    Sandbox(DrillFault),
    /// Somebody interrupted it.
    Interrupted,
}

/// What went wrong. What a server or a program said may quote data: that is for people who look,
/// and is never stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DrillFault {
    why: String,
    #[serde(skip)]
    detail: Option<String>,
}

impl DrillHalt {
    /// The backup's fault, in words that may be stored.
    #[must_use]
    pub fn backup(why: impl Into<String>) -> Self {
        Self::Backup(DrillFault { why: why.into(), detail: None })
    }
    /// The sandbox's fault, in words that may be stored.
    #[must_use]
    pub fn sandbox(why: impl Into<String>) -> Self {
        Self::Sandbox(DrillFault { why: why.into(), detail: None })
    }
    /// With words that may not be stored.
    #[must_use]
    pub fn with_detail(self, detail: String) -> Self {
        match self {
            Self::Backup(fault) => Self::Backup(DrillFault { detail: Some(detail), ..fault }),
            Self::Sandbox(fault) => Self::Sandbox(DrillFault { detail: Some(detail), ..fault }),
            Self::Interrupted => Self::Interrupted,
        }
    }
    /// In words that may be stored.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Backup(fault) | Self::Sandbox(fault) => &fault.why,
            Self::Interrupted => "interrupted",
        }
    }
    /// In all words there are, for people who look.
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            Self::Backup(fault) | Self::Sandbox(fault) => {
                fault.detail.as_deref().unwrap_or(&fault.why)
            }
            Self::Interrupted => "interrupted",
        }
    }
}

impl std::fmt::Display for DrillHalt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.why())
    }
}

/// How long something took against how long it may.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Seconds allowed.
    pub allowed_seconds: f64,
    /// Seconds measured; none if it was not reached.
    pub measured_seconds: Option<f64>,
}

impl Objective {
    /// An objective.
    #[must_use]
    pub fn new(allowed: Duration, measured: Option<Duration>) -> Self {
        Self {
            allowed_seconds: allowed.as_secs_f64(),
            measured_seconds: measured.map(|m| m.as_secs_f64()),
        }
    }
    /// Whether it was met; none if it was not measured.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        self.measured_seconds.map(|measured| measured <= self.allowed_seconds)
    }
}

/// Everything the verdict depends on.
#[derive(Debug, Clone)]
pub struct VerdictFacts<'a> {
    /// Why the drill stopped early, if it did.
    pub halt: Option<&'a DrillHalt>,
    /// The datastores of the plan.
    pub datastores: &'a [DatastoreName],
    /// The checks that were asked.
    pub checks: &'a [CheckResult],
    /// The controls that were tried.
    pub controls: &'a [ControlResult],
    /// How long the restore took.
    pub rto: Objective,
    /// How old the data is.
    pub rpo: Objective,
    /// Gaps of the isolation that the drill file does not accept.
    pub gaps_not_accepted: &'a [String],
    /// What was reached from inside and must not have been, and is not covered by an accepted gap.
    pub reached: &'a [String],
    /// What the census found.
    pub leftovers: usize,
}

/// The verdict and its reasons; none for a pass.
#[must_use]
pub fn verdict(facts: &VerdictFacts<'_>) -> (Verdict, Vec<String>) {
    let mut reasons: Vec<(Verdict, String)> = Vec::new();
    let mut because = |verdict: Verdict, reason: String| reasons.push((verdict, reason));
    match facts.halt {
        Some(DrillHalt::Backup(DrillFault { why, .. })) => {
            because(Verdict::Fail, format!("the restore failed: {why}"))
        }
        Some(DrillHalt::Sandbox(DrillFault { why, .. })) => {
            because(Verdict::NotVerified, format!("the sandbox is at fault: {why}"))
        }
        Some(DrillHalt::Interrupted) => {
            because(Verdict::NotVerified, "it was interrupted".to_owned())
        }
        None => {}
    }
    for check in facts.checks {
        match check.answer {
            CheckOutcome::Pass => {}
            CheckOutcome::Fail => {
                because(Verdict::Fail, format!("check {}: {}", check.name, check.summary))
            }
            CheckOutcome::CouldNotLook => because(
                Verdict::NotVerified,
                format!("check {} could not look: {}", check.name, check.summary),
            ),
        }
    }
    let asked = |datastore: &DatastoreName| {
        let recorded = |kind| matches!(kind, CheckKind::Fingerprint | CheckKind::CrossCheck);
        facts.checks.iter().any(|check| recorded(check.kind) && &check.datastore == datastore)
    };
    // A fingerprint that was asked has its answer above.
    for datastore in
        facts.datastores.iter().filter(|datastore| facts.halt.is_none() && !asked(datastore))
    {
        because(
            Verdict::NotVerified,
            format!("nothing of {datastore} was compared with what was recorded at backup time"),
        );
    }
    for control in facts.controls {
        match control.noticed {
            Some(true) => {}
            Some(false) => because(
                Verdict::Fail,
                format!(
                    "the checks are blind: {} was not noticed: {}",
                    control.control.name(),
                    control.summary
                ),
            ),
            None => because(
                Verdict::NotVerified,
                format!(
                    "control {} could not be done: {}",
                    control.control.name(),
                    control.summary
                ),
            ),
        }
    }
    if facts.controls.is_empty() && facts.halt.is_none() {
        because(Verdict::NotVerified, "no negative control was run".to_owned());
    }
    for (name, objective) in [("RTO", facts.rto), ("RPO", facts.rpo)] {
        match objective.met() {
            Some(true) => {}
            Some(false) => because(Verdict::Fail, missed(name, objective)),
            None if facts.halt.is_none() => {
                because(Verdict::NotVerified, format!("{name} was not measured"))
            }
            None => {}
        }
    }
    for gap in facts.gaps_not_accepted {
        because(
            Verdict::NotVerified,
            format!("the sandbox is not isolated ({gap}), and the drill file does not accept that"),
        );
    }
    for reached in facts.reached {
        because(Verdict::NotVerified, format!("reached from inside the sandbox: {reached}"));
    }
    if facts.leftovers > 0 {
        because(Verdict::NotVerified, format!("{} things were left behind", facts.leftovers));
    }
    let verdict = reasons.iter().map(|(verdict, _)| *verdict).max().unwrap_or(Verdict::Pass);
    (verdict, reasons.into_iter().map(|(_, reason)| reason).collect())
}

/// How an objective was missed: with as many digits as it takes for the two to differ.
fn missed(name: &str, objective: Objective) -> String {
    let (measured, allowed) =
        (objective.measured_seconds.unwrap_or_default(), objective.allowed_seconds);
    let shown = |digits: usize| (format!("{measured:.digits$}"), format!("{allowed:.digits$}"));
    let (measured, allowed) = (0..6)
        .map(shown)
        .find(|(measured, allowed)| measured != allowed)
        .unwrap_or_else(|| shown(6));
    format!("{name} missed: {measured} s measured, {allowed} s allowed")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_said_is_not_stored() {
        let halt = DrillHalt::backup("loading failed")
            .with_detail("duplicate key (name)=(Ada)".to_owned());
        let stored = serde_json::to_string(&halt).unwrap_or_default();
        assert_eq!(stored, r#"{"at-fault":"backup","why":"loading failed"}"#);
        assert!(halt.detail().contains("Ada"));
    }

    #[test]
    fn an_objective_that_is_missed_by_little_reads_so() {
        let words = |measured, allowed_seconds| {
            missed("RTO", Objective { allowed_seconds, measured_seconds: Some(measured) })
        };
        assert_eq!(words(1.2, 1.0), "RTO missed: 1.2 s measured, 1.0 s allowed");
        assert_eq!(words(90.0, 60.0), "RTO missed: 90 s measured, 60 s allowed");
        assert_eq!(words(60.004, 60.0), "RTO missed: 60.004 s measured, 60.000 s allowed");
    }

    static STORES: std::sync::LazyLock<Vec<DatastoreName>> =
        std::sync::LazyLock::new(|| "one".parse().into_iter().collect());
    fn check(kind: CheckKind, answer: CheckOutcome) -> CheckResult {
        CheckResult {
            name: "one".to_owned(),
            datastore: STORES[0].clone(),
            kind,
            answer,
            summary: "so".to_owned(),
            seconds: 0.0,
            detail: Vec::new(),
        }
    }
    fn control(noticed: Option<bool>) -> ControlResult {
        ControlResult {
            control: NegativeControl::RowsDropped,
            noticed,
            summary: "so".to_owned(),
            seconds: 0.0,
        }
    }
    fn met() -> Objective {
        Objective { allowed_seconds: 10.0, measured_seconds: Some(5.0) }
    }
    fn good<'a>(checks: &'a [CheckResult], controls: &'a [ControlResult]) -> VerdictFacts<'a> {
        VerdictFacts {
            halt: None,
            datastores: &STORES,
            checks,
            controls,
            rto: met(),
            rpo: met(),
            gaps_not_accepted: &[],
            reached: &[],
            leftovers: 0,
        }
    }

    #[test]
    fn only_everything_together_is_a_pass() {
        let (checks, controls) =
            ([check(CheckKind::Fingerprint, CheckOutcome::Pass)], [control(Some(true))]);
        assert_eq!(verdict(&good(&checks, &controls)), (Verdict::Pass, vec![]));
        let text = ["x".to_owned()];
        let sandbox = DrillHalt::sandbox("x");
        let late = Objective { measured_seconds: Some(11.0), ..met() };
        let unmeasured = Objective { measured_seconds: None, ..met() };
        let blind = [control(Some(false))];
        let undone = [control(None)];
        let cases = [
            (VerdictFacts { leftovers: 1, ..good(&checks, &controls) }, Verdict::NotVerified),
            (VerdictFacts { reached: &text, ..good(&checks, &controls) }, Verdict::NotVerified),
            (
                VerdictFacts { gaps_not_accepted: &text, ..good(&checks, &controls) },
                Verdict::NotVerified,
            ),
            (
                VerdictFacts { halt: Some(&sandbox), ..good(&checks, &controls) },
                Verdict::NotVerified,
            ),
            (
                VerdictFacts { halt: Some(&DrillHalt::Interrupted), ..good(&checks, &controls) },
                Verdict::NotVerified,
            ),
            (VerdictFacts { rto: late, ..good(&checks, &controls) }, Verdict::Fail),
            (VerdictFacts { rpo: late, ..good(&checks, &controls) }, Verdict::Fail),
            (VerdictFacts { rpo: unmeasured, ..good(&checks, &controls) }, Verdict::NotVerified),
            (good(&checks, &blind), Verdict::Fail),
            (good(&checks, &undone), Verdict::NotVerified),
            (good(&checks, &[]), Verdict::NotVerified),
            (good(&[], &controls), Verdict::NotVerified),
        ];
        for (facts, expected) in cases {
            let (found, reasons) = verdict(&facts);
            assert_eq!((found, reasons.len()), (expected, 1), "{facts:?}");
        }
    }

    #[test]
    fn a_datastore_that_was_not_compared_keeps_the_others_from_passing() {
        let (checks, controls) =
            ([check(CheckKind::Fingerprint, CheckOutcome::Pass)], [control(Some(true))]);
        let both: Vec<DatastoreName> =
            ["one", "two"].iter().filter_map(|name| name.parse().ok()).collect();
        let (found, reasons) =
            verdict(&VerdictFacts { datastores: &both, ..good(&checks, &controls) });
        assert_eq!(found, Verdict::NotVerified);
        assert!(reasons[0].contains("nothing of two was compared"), "{reasons:?}");
    }

    #[test]
    fn without_a_fingerprint_check_nothing_passes_and_could_not_look_is_no_pass() {
        let controls = [control(Some(true))];
        assert_eq!(
            verdict(&good(&[check(CheckKind::Sql, CheckOutcome::Pass)], &controls)).0,
            Verdict::NotVerified
        );
        assert_eq!(
            verdict(&good(&[check(CheckKind::Fingerprint, CheckOutcome::CouldNotLook)], &controls))
                .0,
            Verdict::NotVerified
        );
        let both = [
            check(CheckKind::Fingerprint, CheckOutcome::Pass),
            check(CheckKind::Sql, CheckOutcome::CouldNotLook),
        ];
        assert_eq!(verdict(&good(&both, &controls)).0, Verdict::NotVerified);
        let failed = [
            check(CheckKind::Fingerprint, CheckOutcome::CouldNotLook),
            check(CheckKind::Sql, CheckOutcome::Fail),
        ];
        assert_eq!(
            verdict(&good(&failed, &controls)).0,
            Verdict::Fail,
            "a failure outweighs what could not be looked at"
        );
    }
    fn reasons(facts: &VerdictFacts<'_>) -> Vec<String> {
        verdict(facts).1
    }
    fn at_fault(halt: &DrillHalt) -> (Verdict, Vec<String>) {
        let unmeasured = Objective { measured_seconds: None, ..met() };
        verdict(&VerdictFacts {
            halt: Some(halt),
            rto: unmeasured,
            rpo: unmeasured,
            ..good(&[], &[])
        })
    }

    #[test]
    fn a_drill_that_stopped_early_says_only_why_and_not_what_was_not_reached() {
        let cases = [
            (
                DrillHalt::backup("no key opens it"),
                Verdict::Fail,
                "the restore failed: no key opens it",
            ),
            (
                DrillHalt::sandbox("no space"),
                Verdict::NotVerified,
                "the sandbox is at fault: no space",
            ),
            (DrillHalt::Interrupted, Verdict::NotVerified, "it was interrupted"),
        ];
        for (halt, expected, reason) in cases {
            assert_eq!(at_fault(&halt), (expected, vec![reason.to_owned()]));
            let told = halt.with_detail("key (name)=(Ada)".to_owned());
            assert_eq!(
                at_fault(&told),
                (expected, vec![reason.to_owned()]),
                "reasons are stored and quote no data"
            );
        }
    }

    #[test]
    fn what_was_found_before_a_drill_stopped_still_counts() {
        let (checks, controls) =
            ([check(CheckKind::Sql, CheckOutcome::Fail)], [control(Some(false))]);
        let late = Objective { measured_seconds: Some(11.0), ..met() };
        let facts = VerdictFacts {
            halt: Some(&DrillHalt::Interrupted),
            rto: late,
            ..good(&checks, &controls)
        };
        let expected = [
            "it was interrupted",
            "check one: so",
            "the checks are blind: rows-dropped was not noticed: so",
            "RTO missed: 11 s measured, 10 s allowed",
        ];
        assert_eq!(verdict(&facts), (Verdict::Fail, expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn every_reason_says_what_it_is_about() {
        let (checks, controls) =
            ([check(CheckKind::CrossCheck, CheckOutcome::Pass)], [control(Some(true))]);
        let (could_not, failed) = (
            [check(CheckKind::Fingerprint, CheckOutcome::CouldNotLook)],
            [check(CheckKind::Fingerprint, CheckOutcome::Fail)],
        );
        let (undone, two) = ([control(None)], ["dns".to_owned(), "https".to_owned()]);
        let (late, unmeasured) = (
            Objective { measured_seconds: Some(86_400.4), ..met() },
            Objective { measured_seconds: None, ..met() },
        );
        let cases: [(VerdictFacts<'_>, &[&str]); 11] = [
            (good(&checks, &controls), &[]),
            (good(&could_not, &controls), &["check one could not look: so"]),
            (good(&failed, &controls), &["check one: so"]),
            (
                good(&[], &controls),
                &["nothing of one was compared with what was recorded at backup time"],
            ),
            (good(&checks, &undone), &["control rows-dropped could not be done: so"]),
            (good(&checks, &[]), &["no negative control was run"]),
            (
                VerdictFacts { rpo: late, ..good(&checks, &controls) },
                &["RPO missed: 86400 s measured, 10 s allowed"],
            ),
            (
                VerdictFacts { rto: unmeasured, ..good(&checks, &controls) },
                &["RTO was not measured"],
            ),
            (
                VerdictFacts { gaps_not_accepted: &two, ..good(&checks, &controls) },
                &[
                    "the sandbox is not isolated (dns), and the drill file does not accept that",
                    "the sandbox is not isolated (https), and the drill file does not accept that",
                ],
            ),
            (
                VerdictFacts { reached: &two, ..good(&checks, &controls) },
                &["reached from inside the sandbox: dns", "reached from inside the sandbox: https"],
            ),
            (
                VerdictFacts { leftovers: 3, ..good(&checks, &controls) },
                &["3 things were left behind"],
            ),
        ];
        for (facts, expected) in cases {
            assert_eq!(reasons(&facts), expected);
        }
    }

    #[test]
    fn only_what_is_compared_with_the_time_of_the_backup_counts_as_compared() {
        let controls = [control(Some(true))];
        for (kind, compares) in [
            (CheckKind::Fingerprint, true),
            (CheckKind::CrossCheck, true),
            (CheckKind::Sql, false),
            (CheckKind::Freshness, false),
            (CheckKind::Amcheck, false),
            (CheckKind::Catalog, false),
            (CheckKind::Command, false),
        ] {
            let expected = if compares { Verdict::Pass } else { Verdict::NotVerified };
            assert_eq!(
                verdict(&good(&[check(kind, CheckOutcome::Pass)], &controls)).0,
                expected,
                "{kind:?}"
            );
        }
    }

    #[test]
    fn an_objective_is_met_to_the_last_moment_and_unknown_without_a_measurement() {
        let seconds = Duration::from_secs;
        let late = Some(seconds(10) + Duration::from_nanos(1_000));
        for (measured, expected) in [
            (Some(seconds(0)), Some(true)),
            (Some(seconds(10)), Some(true)),
            (late, Some(false)),
            (None, None),
        ] {
            let objective = Objective::new(seconds(10), measured);
            assert_eq!(objective.met(), expected, "{objective:?}");
        }
        let expected = Objective { allowed_seconds: 10.0, measured_seconds: Some(1.5) };
        assert_eq!(Objective::new(seconds(10), Some(Duration::from_millis(1_500))), expected);
        assert_eq!(
            Objective { measured_seconds: Some(f64::NAN), ..met() }.met(),
            Some(false),
            "no number is no pass"
        );
    }

    #[test]
    fn a_halt_has_words_for_the_report_and_words_for_people() {
        for (halt, why) in [
            (DrillHalt::backup("loading failed"), "loading failed"),
            (DrillHalt::sandbox("no space"), "no space"),
        ] {
            assert_eq!((halt.why(), halt.detail(), halt.to_string().as_str()), (why, why, why));
            let told = halt.clone().with_detail("key (name)=(Ada)".to_owned());
            assert_eq!(
                (told.why(), told.detail(), told.to_string().as_str()),
                (why, "key (name)=(Ada)", why)
            );
            let stored = serde_json::to_string(&told).unwrap();
            assert_eq!(serde_json::from_str::<DrillHalt>(&stored).unwrap(), halt, "{stored}");
        }
        let interrupted = DrillHalt::Interrupted.with_detail("by a signal".to_owned());
        assert_eq!(
            (interrupted.why(), interrupted.detail(), interrupted.to_string().as_str()),
            ("interrupted", "interrupted", "interrupted")
        );
        assert_eq!(serde_json::to_string(&interrupted).unwrap(), r#"{"at-fault":"interrupted"}"#);
    }

    #[test]
    fn names_in_drill_files_and_in_reports_are_the_same() {
        let stored = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        for verdict in [Verdict::Pass, Verdict::NotVerified, Verdict::Fail] {
            assert_eq!(stored(serde_json::to_value(verdict).unwrap()), verdict.name());
        }
        assert_eq!(
            [Verdict::Pass, Verdict::NotVerified, Verdict::Fail].map(Verdict::name),
            ["PASS", "NOT_VERIFIED", "FAIL"]
        );
        for (name, control) in NegativeControl::ALL {
            assert_eq!(
                (control.name(), stored(serde_json::to_value(control).unwrap()).as_str()),
                (name, name)
            );
        }
        let stories = Scenario::ALL.map(|(name, scenario)| {
            assert_eq!(
                (scenario.name(), stored(serde_json::to_value(scenario).unwrap()).as_str()),
                (name, name)
            );
            scenario.story()
        });
        let expected = [
            "the catalog is lost",
            "the home region's key is lost",
            "KMS is gone altogether",
            "lifeboat itself is lost",
            "the newest backup is damaged",
            "the home region is lost, its vault and its key",
        ];
        assert_eq!(stories, expected);
    }
}

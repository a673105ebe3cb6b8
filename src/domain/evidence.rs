//! Evidence: the signed, hash-chained log of drills, restores, holds and removals, and the
//! detection of tampering with it.
//!
//! Each record names the hash of its predecessor and is stored under the next number, where nothing
//! can be stored twice. A drill writes `started` before its first step, so that a missing report is
//! noticed even if it was the last record. Reports contain no table names, no values, and no hashes
//! of data.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::{DocumentError, format_of};
use super::drill::{CheckResult, ControlResult, DrillHalt, Objective, Scenario, Verdict};
use super::id::{BackupId, DatastoreName, VaultId};
use super::layout::ObjectKey;
use super::scratch::ScratchReport;

/// Format name of records.
pub const FORMAT: &str = "lifeboat.evidence/1";
/// Schema name of drill reports.
pub const REPORT_SCHEMA: &str = "lifeboat.drill-report/1";

/// One record of the series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRecord {
    /// Always [`FORMAT`].
    pub format: String,
    /// The vault whose series it is.
    pub vault: VaultId,
    /// Its number, from 1.
    pub sequence: u64,
    /// SHA-256 of the record before it, lower-case hexadecimal; none for the first.
    pub previous: Option<String>,
    /// When it was written, by this host's clock.
    pub at: Timestamp,
    /// Who wrote it.
    pub by: Actor,
    /// What it says.
    pub body: RecordBody,
}

/// Who did something, as the system names them. Not proof of a person: the signature is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// User name.
    pub user: String,
    /// Host name.
    pub host: String,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "of")]
pub enum RecordBody {
    /// A drill is about to begin.
    Started(DrillStarted),
    /// A drill has ended.
    Report(Box<DrillReport>),
    /// A reviewer has looked at a report.
    Certify(Certificate),
    /// Backups are about to be removed by retention.
    Removed(RemovalRecord),
    /// A backup was restored in earnest.
    Restored(RestoreRecord),
    /// A backup is held: retention leaves it alone.
    Hold(HoldRecord),
    /// A backup is held no more.
    Release(HoldRecord),
}

/// A restore that was no drill: an incident is the best of drills.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRecord {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// Whether a pinned key signed it.
    pub signature_verified: bool,
    /// The slot that opened it.
    pub opened_with: String,
    /// When its snapshot was taken.
    pub snapshot_time: Timestamp,
    /// Bytes of the backup before compression.
    pub plain_bytes: u64,
    /// When the restore was begun, waiting for a thaw included.
    pub begun: Timestamp,
    /// Seconds of waiting until everything could be read.
    pub thaw_seconds: f64,
    /// Seconds of loading and checking, by the run that ended it.
    pub seconds: f64,
    /// Whether all of it was restored.
    pub whole: bool,
    /// Whether an earlier run of it was interrupted.
    pub resumed: bool,
    /// Whether it took the place of an older database.
    pub swapped: bool,
    /// Whether the data was as recorded at backup time; none if nobody asked.
    pub as_recorded: Option<bool>,
    /// Smoke commands, and how many of them failed.
    pub smoke: usize,
    /// See `smoke`.
    pub smoke_failed: usize,
    /// Version of the target's server.
    pub server: String,
}

/// Backups that retention removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovalRecord {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backups.
    pub backups: Vec<RemovedBackup>,
}

/// A backup that retention removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovedBackup {
    /// The backup.
    pub backup: BackupId,
    /// Its number, which is missing from then on.
    pub sequence: u64,
    /// Why it went.
    pub reason: String,
}

/// A backup that somebody holds, or holds no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldRecord {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// Why.
    pub reason: String,
}

/// A drill is about to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillStarted {
    /// The run.
    pub run: String,
    /// The drill.
    pub drill: String,
    /// The datastores it restores.
    pub datastores: Vec<DatastoreName>,
    /// SHA-256 of the drill file, and of the plan's file. Nobody may change what is rehearsed
    /// while it is under way.
    pub script_sha256: String,
    /// See `script_sha256`; of no bytes where there is no file.
    pub plan_sha256: String,
    /// When the report must be there. Without one by then the drill counts as failed.
    pub report_by: Timestamp,
}

/// A reviewer's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Number of the report.
    pub report: u64,
    /// SHA-256 of the report's record.
    pub report_sha256: String,
    /// Who looked.
    pub reviewer: String,
    /// What they say.
    pub statement: String,
}

/// A file under version control.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its path, relative to the configuration.
    pub file: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// The commit that was checked out; none outside of version control.
    pub git_commit: Option<String>,
    /// Whether the working tree differed from that commit.
    pub git_dirty: Option<bool>,
}

/// The backup that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoredBackup {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// How it was chosen, with the seed where chance did.
    pub chosen: String,
    /// SHA-256 of its manifest.
    pub manifest_sha256: String,
    /// Whether a pinned key signed it.
    pub signature_verified: bool,
    /// The slot that opened it.
    pub opened_with: Option<String>,
    /// When its snapshot was taken.
    pub snapshot_time: Timestamp,
    /// Bytes to load.
    pub plain_bytes: u64,
    /// Its stored objects.
    pub objects: BTreeMap<ObjectKey, ObjectVersion>,
}

/// An object as it was when it was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectVersion {
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// The store's own name of this version, where the store keeps versions.
    pub version: Option<String>,
}

/// A moment of the drill, in seconds since it was declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTime {
    /// The step.
    pub step: String,
    /// When it began.
    pub from_seconds: f64,
    /// How long it took.
    pub seconds: f64,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

/// Something to be done about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillNote {
    /// What was found.
    pub text: String,
    /// Who takes care of it.
    pub owner: Option<String>,
    /// By when.
    pub due: Option<jiff::civil::Date>,
    /// When it was written down, in seconds since the drill was declared.
    pub at_seconds: f64,
}

/// Moments that matter, in seconds since the drill was declared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillMoments {
    /// The payload was open, its first bytes read.
    pub payload_reachable: Option<f64>,
    /// The sandbox's server answered.
    pub server_up: Option<f64>,
    /// Everything was loaded.
    pub loaded: Option<f64>,
    /// The first query of the restored data was answered. The RTO is measured to here, without the
    /// pauses before something is broken.
    pub first_query: Option<f64>,
    /// All checks were answered.
    pub verified: Option<f64>,
    /// Nothing of the sandbox was left.
    pub torn_down: Option<f64>,
}

/// A drill from its declaration to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillReport {
    /// Always [`REPORT_SCHEMA`].
    pub schema: String,
    /// The run.
    pub run: String,
    /// Number of the record that said it was about to begin.
    pub started: u64,
    /// The drill.
    pub drill: String,
    /// How often its steps were begun: more than once if a process died and the drill was resumed.
    pub attempts: u64,
    /// The drill file.
    pub script: SourceFile,
    /// The restore plan's file.
    pub plan: SourceFile,
    /// Version of lifeboat.
    pub lifeboat_version: String,
    /// SHA-256 of the binary that ran.
    pub lifeboat_sha256: String,
    /// When the drill was declared.
    pub declared: Timestamp,
    /// When its report was made.
    pub ended: Timestamp,
    /// What was broken on purpose, and what came of it.
    pub broken: BTreeMap<Scenario, String>,
    /// What was restored, in order.
    pub backups: Vec<RestoredBackup>,
    /// The sandbox's kind and the server's version.
    pub sandbox: String,
    /// How the sandbox was cut off: what holds, gaps, probes.
    pub isolation: serde_json::Value,
    /// The scratch VPC, where the drill was in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Box<ScratchReport>>,
    /// Gaps the drill file accepts.
    pub gaps_accepted: Vec<String>,
    /// Each step with its times.
    pub steps: Vec<StepTime>,
    /// Moments that matter.
    pub moments: DrillMoments,
    /// How long the restore took.
    pub rto: Objective,
    /// What had been predicted from earlier drills, in seconds.
    pub rto_predicted_seconds: Option<f64>,
    /// How old the data is.
    pub rpo: Objective,
    /// The checks.
    pub checks: Vec<CheckResult>,
    /// The negative controls.
    pub controls: Vec<ControlResult>,
    /// Why it stopped early, if it did.
    pub halt: Option<DrillHalt>,
    /// What was left behind.
    pub leftovers: Vec<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// Its reasons; none for a pass.
    pub reasons: Vec<String>,
    /// What the team wrote down, each with its moment.
    pub notes: Vec<DrillNote>,
    /// Who is to review it.
    pub reviewers: Vec<String>,
}

impl EvidenceRecord {
    /// Parses a record that was read from the place of number `sequence`.
    ///
    /// # Errors
    /// [`DocumentError`] for a format this program does not know or a malformed record.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        format_of(bytes, "evidence record", &[FORMAT])?;
        serde_json::from_slice(bytes)
            .map_err(|source| DocumentError::Malformed { what: "evidence record", source })
    }
}

/// A number of the series, as it was found.
#[derive(Debug, Clone)]
pub struct FoundRecord {
    /// The number its place names.
    pub sequence: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// The record; why not if it cannot be read.
    pub record: Result<EvidenceRecord, String>,
    /// Whether a pinned key signed it.
    pub signed: bool,
}

/// Something that is wrong with a series.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum SeriesFlaw {
    /// A record was changed, or written by somebody else.
    NotSigned {
        /// Number.
        sequence: u64,
    },
    /// A record cannot be read.
    Unreadable {
        /// Number.
        sequence: u64,
        /// Why.
        why: String,
    },
    /// A record says it belongs elsewhere: they were reordered, or copied from another vault.
    Misplaced {
        /// Number of its place.
        sequence: u64,
    },
    /// Numbers are missing.
    Missing {
        /// First missing number.
        from: u64,
        /// Last missing number.
        to: u64,
    },
    /// A record does not follow the one before it: the one before was replaced, or the series was
    /// forked.
    Forked {
        /// Number of the record that follows something else.
        sequence: u64,
    },
    /// A record that was seen earlier, by a manifest or by this host, is gone.
    HeadMissing {
        /// Who had seen it.
        seen_by: String,
    },
    /// A drill that began and has no report in time. Counts as failed.
    NoReport {
        /// Number of its `started` record.
        started: u64,
        /// The drill.
        drill: String,
    },
    /// A run has more than one report.
    ReportedTwice {
        /// Number of the later one.
        sequence: u64,
    },
    /// A report or certificate that refers to nothing.
    Dangling {
        /// Its number.
        sequence: u64,
    },
}

impl SeriesFlaw {
    /// Whether what a record said may be unknown for it. A drill without a report hides nothing.
    #[must_use]
    pub fn hides_records(&self) -> bool {
        !matches!(self, Self::NoReport { .. } | Self::ReportedTwice { .. } | Self::Dangling { .. })
    }
}

impl std::fmt::Display for SeriesFlaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSigned { sequence } => {
                write!(
                    f,
                    "record {sequence} is not signed by a trusted key: it was edited, or somebody else wrote it"
                )
            }
            Self::Unreadable { sequence, why } => {
                write!(f, "record {sequence} cannot be read: {why}")
            }
            Self::Misplaced { sequence } => {
                write!(
                    f,
                    "the record at number {sequence} belongs elsewhere: records were reordered or copied"
                )
            }
            Self::Missing { from, to } if from == to => write!(f, "record {from} is missing"),
            Self::Missing { from, to } => write!(f, "records {from} to {to} are missing"),
            Self::Forked { sequence } => {
                write!(
                    f,
                    "record {sequence} follows another record than the one before it: the series was forked or a record replaced"
                )
            }
            Self::HeadMissing { seen_by } => write!(
                f,
                "a record that {seen_by} had seen is gone: the end of the series was cut off"
            ),
            Self::NoReport { started, drill } => write!(
                f,
                "drill {drill}, started in record {started}, has no report: it counts as FAIL"
            ),
            Self::ReportedTwice { sequence } => {
                write!(f, "record {sequence} is a second report of the same run")
            }
            Self::Dangling { sequence } => {
                write!(f, "record {sequence} refers to a record that is not there")
            }
        }
    }
}

/// A hash that must be in the series, and who says so.
#[derive(Debug, Clone)]
pub struct SeenHead {
    /// SHA-256 of a record.
    pub sha256: String,
    /// Who had seen it.
    pub seen_by: String,
}

/// Looks for everything that can be wrong with a series. `claimed` are numbers whose signature
/// stands without a record: a writer that died between the two, unless the next record knows
/// better.
#[must_use]
pub fn flaws(
    vault: &VaultId,
    found: &[FoundRecord],
    claimed: &[u64],
    heads: &[SeenHead],
    now: Timestamp,
) -> Vec<SeriesFlaw> {
    let mut flaws = Vec::new();
    let mut expected = 1;
    let mut previous: Option<&str> = None;
    let mut gap_before = false;
    for one in found {
        if one.sequence > expected {
            // From both ends: somebody may have written under a number far away.
            let mut missing = (expected..one.sequence).filter(|number| !claimed.contains(number));
            if let Some(from) = missing.next() {
                let to = missing.next_back().unwrap_or(from);
                flaws.push(SeriesFlaw::Missing { from, to });
                gap_before = true;
            }
        }
        expected = one.sequence.saturating_add(1);
        if !one.signed {
            flaws.push(SeriesFlaw::NotSigned { sequence: one.sequence });
        }
        match &one.record {
            Err(why) => {
                flaws.push(SeriesFlaw::Unreadable { sequence: one.sequence, why: why.clone() })
            }
            Ok(record) if record.sequence != one.sequence || &record.vault != vault => {
                flaws.push(SeriesFlaw::Misplaced { sequence: one.sequence })
            }
            // After a gap the record names one that is not there; that is the gap's flaw, told
            // already.
            Ok(record) if record.previous.as_deref() != previous && !gap_before => {
                flaws.push(SeriesFlaw::Forked { sequence: one.sequence })
            }
            Ok(_) => {}
        }
        gap_before = false;
        previous = Some(&one.sha256);
    }
    let hashes: HashSet<&str> = found.iter().map(|one| one.sha256.as_str()).collect();
    for head in heads {
        if !hashes.contains(head.sha256.as_str()) {
            flaws.push(SeriesFlaw::HeadMissing { seen_by: head.seen_by.clone() });
        }
    }
    flaws.extend(contradictions(vault, found, now));
    flaws
}

/// What believed records say of each other. One that nobody signed, or that belongs elsewhere,
/// answers for no other.
fn contradictions(vault: &VaultId, found: &[FoundRecord], now: Timestamp) -> Vec<SeriesFlaw> {
    let believed = |one: &&FoundRecord| {
        one.signed
            && one.record.as_ref().is_ok_and(|r| r.sequence == one.sequence && &r.vault == vault)
    };
    let believed: BTreeMap<u64, &FoundRecord> =
        found.iter().filter(believed).map(|one| (one.sequence, one)).collect();
    fn body(one: &FoundRecord) -> Option<&RecordBody> {
        one.record.as_ref().ok().map(|record| &record.body)
    }
    let mut first_report: BTreeMap<&str, u64> = BTreeMap::new();
    for (sequence, one) in &believed {
        if let Some(RecordBody::Report(report)) = body(one) {
            first_report.entry(&report.run).or_insert(*sequence);
        }
    }
    let mut flaws = Vec::new();
    for (sequence, one) in &believed {
        match one.record.as_ref().map(|record| &record.body) {
            Ok(RecordBody::Started(started)) => {
                let reported =
                    first_report.get(started.run.as_str()).is_some_and(|report| report > sequence);
                if started.report_by < now && !reported {
                    flaws.push(SeriesFlaw::NoReport {
                        started: *sequence,
                        drill: started.drill.clone(),
                    });
                }
            }
            Ok(RecordBody::Report(report)) => {
                if first_report.get(report.run.as_str()) != Some(sequence) {
                    flaws.push(SeriesFlaw::ReportedTwice { sequence: *sequence });
                }
                let begun = believed
                    .get(&report.started)
                    .filter(|_| report.started < *sequence)
                    .copied()
                    .and_then(body);
                if !matches!(begun, Some(RecordBody::Started(started)) if (&started.run, &started.drill) == (&report.run, &report.drill))
                {
                    flaws.push(SeriesFlaw::Dangling { sequence: *sequence });
                }
            }
            Ok(RecordBody::Certify(certificate)) => {
                let report = believed
                    .get(&certificate.report)
                    .filter(|report| report.sha256 == certificate.report_sha256);
                if !matches!(report.copied().and_then(body), Some(RecordBody::Report(_))) {
                    flaws.push(SeriesFlaw::Dangling { sequence: *sequence });
                }
            }
            _ => {}
        }
    }
    flaws
}

#[cfg(test)]
mod tests;

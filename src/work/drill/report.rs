//! The report of a drill: what was found, as it is signed.

use jiff::Timestamp;

use super::DrillState;
use crate::catalog::journal::DrillRun;
use crate::domain::drill::{DrillHalt, Objective, VerdictFacts, verdict};
use crate::domain::evidence::{DrillReport, REPORT_SCHEMA, SourceFile};
use crate::work::{WorkContext, WorkError, shelf};

pub(super) fn report(
    world: &DrillState<'_>,
    run: &DrillRun,
    attempts: u64,
    halt: Option<DrillHalt>,
    leftovers: Vec<String>,
) -> Result<DrillReport, WorkError> {
    let found = &world.found;
    let drill = world.drill;
    // The time that counts: until the restored datastore answered. Checks come on top, and are
    // shown.
    let rto = Objective {
        allowed_seconds: drill.rto.duration().as_secs_f64(),
        measured_seconds: found.moments.first_query.map(|at| at - found.paused),
    };
    let oldest = found.backups.iter().map(|backup| backup.snapshot_time).min();
    let age = oldest.map(|snapshot| world.clock.declared.duration_since(snapshot).as_secs_f64());
    // A snapshot from the future says that a clock is wrong, and then its age is not known.
    let rpo = Objective {
        allowed_seconds: drill.rpo.duration().as_secs_f64(),
        measured_seconds: age.filter(|age| *age > -300.0).map(|age| age.max(0.0)),
    };
    let (verdict, reasons) = verdict(&VerdictFacts {
        halt: halt.as_ref(),
        datastores: &drill
            .plan
            .stages
            .iter()
            .map(|stage| stage.datastore.clone())
            .collect::<Vec<_>>(),
        checks: &found.checks,
        controls: &found.controls,
        rto,
        rpo,
        // The step that proves isolation halts the drill for both.
        gaps_not_accepted: &[],
        reached: &[],
        leftovers: leftovers.len(),
    });
    let binary = crate::this_program::bytes().map_err(|source| WorkError::File {
        what: "reading lifeboat's own binary".to_owned(),
        source,
    })?;
    Ok(DrillReport {
        schema: REPORT_SCHEMA.to_owned(),
        run: run.run.clone(),
        started: run.started,
        drill: drill.name.clone(),
        attempts,
        script: source_file(world.own, &drill.file, &drill.text),
        plan: drill
            .plan
            .file
            .as_ref()
            .map(|file| source_file(world.own, file, &drill.plan.text))
            .unwrap_or_default(),
        lifeboat_version: env!("CARGO_PKG_VERSION").to_owned(),
        lifeboat_sha256: shelf::sha256(&binary),
        declared: run.declared,
        ended: Timestamp::now(),
        broken: found.broken.clone(),
        backups: found.backups.clone(),
        sandbox: found.sandbox.clone(),
        isolation: serde_json::to_value(&found.isolation).unwrap_or_default(),
        scratch: found.scratch.clone(),
        gaps_accepted: drill.accept_gaps.iter().cloned().collect(),
        steps: found.steps.clone(),
        moments: found.moments,
        rto,
        rto_predicted_seconds: found.predicted,
        rpo,
        checks: found.checks.clone(),
        controls: found.controls.clone(),
        halt,
        leftovers,
        verdict,
        reasons,
        notes: world.team.notes(),
        reviewers: drill.reviewers.clone(),
    })
}

/// A file with its hash, and what git says of it.
fn source_file(rig: &WorkContext, file: &std::path::Path, text: &str) -> SourceFile {
    let base = rig.config.file.parent().unwrap_or(std::path::Path::new("."));
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(base)
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"]);
    SourceFile {
        file: file.strip_prefix(base).unwrap_or(file).display().to_string(),
        sha256: shelf::sha256(text.as_bytes()),
        git_dirty: commit
            .as_ref()
            .and_then(|_| git(&["status", "--porcelain", "--", "."]))
            .map(|changes| !changes.is_empty()),
        git_commit: commit,
    }
}

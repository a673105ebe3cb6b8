//! `lifeboat drill`: prints events line by line, as JSON, or on a full screen.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::arguments::OpenArgs;
use super::drill_view;
use super::exit::ExitKind;
use super::print::{self, CommandFailure, print_output, print_status, table};
use super::run::CommandContext;
use crate::config::plans;
use crate::domain::drill::{CheckOutcome, Verdict};
use crate::domain::evidence::DrillReport;
use crate::domain::human_duration::{format_bytes, format_duration};
use crate::domain::printable::printable_json;
use crate::progress::{DrillAudience, DrillEvent};
use crate::work::{WorkContext, WorkError, drill, evidence, scratch};

/// Arguments of `lifeboat drill`.
#[derive(Debug, Args)]
pub struct DrillArguments {
    /// The drill: a file in drills/, without .toml.
    pub name: Option<String>,
    /// Show it on a full screen, take notes, and wait before each break. Without a terminal:
    /// lines, as always.
    #[arg(long)]
    pub live: bool,
    /// Show every AWS call that the drill would make, in order, with the permissions each needs;
    /// make none. For sandbox = "vpc".
    #[arg(long, conflicts_with = "live")]
    pub plan: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub opening: OpenArgs,
    /// What else there is to do.
    #[command(subcommand)]
    pub verb: Option<DrillVerb>,
}

/// What else there is to do about drills.
#[derive(Debug, Subcommand)]
pub enum DrillVerb {
    /// List the drills that are configured, and when each was last passed.
    #[command(after_help = "Example:\n  lifeboat drill list")]
    List,
    /// List what was rehearsed, newest last.
    #[command(after_help = "Example:\n  lifeboat drill history --json | jq '.[-1].verdict'")]
    History {
        /// One drill; all if left out.
        name: Option<String>,
    },
    /// Sign that you have looked at a report.
    #[command(
        after_help = "Example:\n  lifeboat drill certify 20261124T090000Z-1a2b3c --reviewer 'A. Meyer' --statement 'seen, RTO is fine'"
    )]
    Certify {
        /// The run.
        run: String,
        /// Your name.
        #[arg(long)]
        reviewer: String,
        /// What you say.
        #[arg(long)]
        statement: String,
    },
    /// List the runs in scratch VPCs that any host has a lease for: what is under way, what is
    /// overdue.
    #[command(after_help = "Example:\n  lifeboat drill runs")]
    Runs,
    /// Go on with a drill whose process died: undo what is left of it, and run its steps again.
    #[command(after_help = "Example:\n  lifeboat drill resume nightly")]
    Resume {
        /// The run, or the name of the drill.
        run: String,
    },
    /// Clean up after a drill whose process died, and write its report.
    #[command(after_help = "Example:\n  lifeboat drill abort nightly")]
    Abort {
        /// The run, or the name of the drill.
        run: String,
    },
}

pub(super) async fn run(
    start: &CommandContext,
    arguments: DrillArguments,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&arguments.opening).await?;
    match (arguments.verb, arguments.name) {
        (Some(DrillVerb::List), _) => list(start, &rig).await,
        (Some(DrillVerb::History { name }), _) => history(start, &rig, name.as_deref()).await,
        (Some(DrillVerb::Certify { run, reviewer, statement }), _) => {
            let (written, is_listed) = evidence::certify(&rig, &run, &reviewer, &statement).await?;
            print_status(&format!("signed as record {} of the evidence", written.sequence));
            if !is_listed {
                print_status(&format!(
                    "warning: the drill names no reviewer {reviewer}; the report's page says so"
                ));
            }
            Ok(ExitKind::Done)
        }
        (Some(DrillVerb::Runs), _) => runs(start, &rig).await,
        (Some(DrillVerb::Resume { run }), _) => {
            let team = DrillAudience::new(tell(start.json), false);
            ended(start, drill::resume(&rig, &run, &team).await?)
        }
        (Some(DrillVerb::Abort { run }), _) => {
            let team = DrillAudience::new(tell(start.json), false);
            ended(start, drill::abort(&rig, &run, &team).await?)
        }
        (None, Some(name)) if arguments.plan => plan(start, &rig, &name).await,
        (None, Some(name))
            if arguments.live
                && std::io::stdout().is_terminal()
                && std::io::stdin().is_terminal() =>
        {
            let outcome = drill_view::run(&rig, &name, &start.cancel).await?;
            ended(start, outcome)
        }
        (None, Some(name)) => {
            let team = DrillAudience::new(tell(start.json), false);
            ended(start, drill::run(&rig, &name, &team).await?)
        }
        (None, None) => list(start, &rig).await,
    }
}

/// Tells what happens, a line each.
fn tell(json: bool) -> impl Fn(&DrillEvent) + Send + Sync {
    move |happening| {
        if json {
            print_output(&printable_json(&serde_json::to_string(happening).unwrap_or_default()));
        } else {
            for line in lines(happening) {
                print_status(&line);
            }
        }
    }
}

fn seconds(seconds: f64) -> String {
    format_duration(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default())
}

/// What happened, for people.
pub(super) fn lines(happening: &DrillEvent) -> Vec<String> {
    match happening {
        DrillEvent::Declared { drill, run, rto_seconds } => {
            vec![format!("drill {drill}, run {run}: back within {}", seconds(*rto_seconds))]
        }
        DrillEvent::Chosen { backups, predicted_seconds } => {
            let mut lines: Vec<String> =
                backups.iter().map(|backup| format!("    {backup}")).collect();
            lines.extend(predicted_seconds.map(|predicted| {
                format!("    expected from earlier drills: {}", seconds(predicted))
            }));
            lines
        }
        DrillEvent::Warned { warning } => vec![format!("    warning: {warning}")],
        DrillEvent::StepBegan { step, at_seconds } => {
            vec![format!("{:>8.1} s  {step}", at_seconds)]
        }
        DrillEvent::StepEnded { error: Some(error), .. } => vec![format!("    failed: {error}")],
        DrillEvent::StepEnded { error: None, .. } => Vec::new(),
        DrillEvent::AboutToBreak { story, .. } => vec![format!("    breaking: {story}")],
        DrillEvent::Broke { scenario, outcome } => {
            vec![format!("    {}: {outcome}", scenario.name())]
        }
        DrillEvent::Checked { result, detail } => {
            let word = match result.answer {
                CheckOutcome::Pass => "pass",
                CheckOutcome::Fail => "FAIL",
                CheckOutcome::CouldNotLook => "COULD NOT LOOK",
            };
            let shown = detail
                .iter()
                .take(10)
                .map(|line| format!("        {}", line.replace('\n', "\n        ")));
            let more = detail
                .len()
                .checked_sub(10)
                .filter(|more| *more > 0)
                .map(|more| format!("        and {more} more"));
            std::iter::once(format!("    {word}  {}: {}", result.name, result.summary))
                .chain(shown)
                .chain(more)
                .collect()
        }
        DrillEvent::Controlled { result } => {
            let word = match result.noticed {
                Some(true) => "noticed",
                Some(false) => "NOT NOTICED",
                None => "COULD NOT BE DONE",
            };
            vec![format!("    {word}  {}: {}", result.control.name(), result.summary)]
        }
        DrillEvent::Told { text } => vec![format!("    {text}")],
        DrillEvent::Worked { stage, done, total } => {
            let of = total.map(|total| format!(" of {}", format_bytes(total))).unwrap_or_default();
            vec![format!("    {stage}: {}{of}", format_bytes(*done))]
        }
        DrillEvent::AboutToSign | DrillEvent::Ended { .. } => Vec::new(),
    }
}

fn ended(start: &CommandContext, outcome: drill::DrillOutcome) -> Result<ExitKind, CommandFailure> {
    let report = &outcome.report;
    if start.json {
        // One document a line, like the events before it.
        let last = json!({ "event": "report", "record": outcome.written.sequence, "sha256": outcome.written.sha256, "report": report });
        print_output(&last.to_string());
    } else {
        print_output(&summary(report, outcome.written.sequence));
    }
    if start.cancel.is_cancelled() {
        return Ok(ExitKind::Interrupted);
    }
    Ok(match report.verdict {
        Verdict::Fail => ExitKind::CheckFailed,
        _ if !report.leftovers.is_empty() => ExitKind::Leftovers,
        Verdict::NotVerified => ExitKind::NotVerified,
        Verdict::Pass => ExitKind::Done,
    })
}

fn summary(report: &DrillReport, record: u64) -> String {
    let mut lines = vec![format!("drill {} {}", report.drill, report.verdict.name())];
    lines.extend(report.reasons.iter().map(|reason| format!("  because    {reason}")));
    for backup in &report.backups {
        let opened = backup.opened_with.as_deref().unwrap_or("nothing");
        lines.push(format!(
            "  restored   {} of {} ({}), {}, opened with {opened}",
            backup.backup,
            backup.datastore,
            backup.chosen,
            format_bytes(backup.plain_bytes)
        ));
    }
    let objective = |name: &str, objective: &crate::domain::drill::Objective| {
        let measured =
            objective.measured_seconds.map_or_else(|| "not measured".to_owned(), seconds);
        format!("  {name}        {measured}, {} allowed", seconds(objective.allowed_seconds))
    };
    lines.push(objective("RTO", &report.rto));
    lines.push(objective("RPO", &report.rpo));
    let moment = |name: &str, at: Option<f64>| at.map(|at| format!("{name} {}", seconds(at)));
    let moments = &report.moments;
    let times = [
        moment("reachable", moments.payload_reachable),
        moment("server up", moments.server_up),
        moment("loaded", moments.loaded),
        moment("first query", moments.first_query),
        moment("verified", moments.verified),
        moment("torn down", moments.torn_down),
    ];
    lines.push(format!(
        "  moments    {}",
        times.into_iter().flatten().collect::<Vec<_>>().join(", ")
    ));
    let passed = report.checks.iter().filter(|check| check.answer == CheckOutcome::Pass).count();
    let noticed = report.controls.iter().filter(|control| control.noticed == Some(true)).count();
    lines.push(format!(
        "  checks     {passed} of {} passed; {noticed} of {} kinds of damage noticed",
        report.checks.len(),
        report.controls.len()
    ));
    if !report.gaps_accepted.is_empty() {
        lines.push(format!(
            "  accepted   the sandbox need not be isolated in: {}",
            report.gaps_accepted.join(", ")
        ));
    }
    lines.extend(report.leftovers.iter().map(|leftover| format!("  left       {leftover}")));
    lines.push(format!("  evidence   record {record}; `lifeboat evidence show {record}`, `lifeboat evidence export DIRECTORY` for pages"));
    lines.join("\n")
}

/// What a drill would call. Calls that come in a row are one line.
async fn plan(
    start: &CommandContext,
    rig: &WorkContext,
    name: &str,
) -> Result<ExitKind, CommandFailure> {
    let script = drill::script(rig, name)?;
    if script.place == plans::DrillPlace::Local {
        return Err(WorkError::Refused {
            what: format!("drill {name} --plan"),
            why: "it restores on this host and calls nothing of AWS but what reading the vault takes".to_owned(),
            hint: "--plan is for drills with sandbox = \"vpc\"; `lifeboat restore DATASTORE --plan` shows what a restore would do"
                .to_owned(),
        }
        .into());
    }
    let phases = drill::vpc::plan(rig, &script, &DrillAudience::new(|_| {}, false)).await?;
    if start.json {
        let all = phases.iter().flat_map(|(phase, calls)| {
            calls.iter().map(
                move |call| json!({ "phase": phase, "action": call.action, "about": call.about, "permissions": call.all_permissions() }),
            )
        });
        print::json(&all.collect::<Vec<_>>());
        return Ok(ExitKind::Done);
    }
    let mut lines = Vec::new();
    for (phase, calls) in phases {
        lines.push(format!("{phase}:"));
        let mut before: Option<String> = None;
        for call in calls {
            let more = if call.permissions.is_empty() {
                String::new()
            } else {
                format!("  [with {}]", call.permissions.join(", "))
            };
            let about =
                if call.about.is_empty() { String::new() } else { format!("  {}", call.about) };
            let line = format!("  {}{about}{more}", call.action);
            // Looks are repeated until something is in the state that is waited for.
            if before.as_ref() != Some(&line) {
                lines.push(line.clone());
            }
            before = Some(line);
        }
    }
    print_output(&lines.join("\n"));
    Ok(ExitKind::Done)
}

async fn runs(start: &CommandContext, rig: &WorkContext) -> Result<ExitKind, CommandFailure> {
    let leases = scratch::leases(rig).await?;
    let now = jiff::Timestamp::now();
    let state = |leased: &scratch::LeasedScratch| match &leased.lease {
        Err(_) => "not believed",
        Ok(_) if leased.over => "over, nothing left",
        Ok(_) if leased.is_abandoned(now) => "overdue",
        Ok(_) => "under way",
    };
    if start.json {
        let all = leases.iter().map(|leased| json!({ "run": leased.run, "state": state(leased), "lease": leased.lease.as_ref().ok() }));
        print::json(&all.collect::<Vec<_>>());
    } else {
        let rows = leases.iter().map(|leased| match &leased.lease {
            Ok(lease) => {
                let (place, cost) =
                    (format!("{} {}", lease.account, lease.region), lease.cost_ceiling.to_string());
                vec![
                    leased.run.clone(),
                    lease.drill.clone(),
                    lease.host.clone(),
                    place,
                    lease.expires.to_string(),
                    cost,
                    state(leased).to_owned(),
                ]
            }
            Err(why) => {
                let unknown = || "?".to_owned();
                vec![
                    leased.run.clone(),
                    unknown(),
                    unknown(),
                    unknown(),
                    unknown(),
                    unknown(),
                    format!("not believed: {why}"),
                ]
            }
        });
        print_output(&table(
            &["run", "drill", "host", "account, region", "gone by", "at most", "state"],
            rows.collect(),
        ));
    }
    // A monitor may ask: something is overdue.
    Ok(if leases.iter().any(|leased| leased.is_abandoned(now)) {
        ExitKind::Leftovers
    } else {
        ExitKind::Done
    })
}

async fn list(start: &CommandContext, rig: &WorkContext) -> Result<ExitKind, CommandFailure> {
    let (series, _) = evidence::examine(rig).await?;
    let reports = evidence::reports(&series);
    let mut rows = Vec::new();
    for name in plans::names(&rig.config, plans::DRILLS_DIRECTORY) {
        let last = reports
            .iter()
            .rev()
            .find(|(_, report)| report.drill == name)
            .map(|(_, report)| report.verdict.name());
        let passed = reports
            .iter()
            .rev()
            .find(|(_, report)| report.drill == name && report.verdict == Verdict::Pass);
        let fault = drill::script(rig, &name).err().map(|error| error.to_string());
        rows.push((name, last, passed.map(|(_, report)| report.declared), fault));
    }
    if start.json {
        let all =
            rows.iter().map(|(name, last, passed, fault)| json!({ "drill": name, "last": last, "last_pass": passed, "fault": fault }));
        print::json(&all.collect::<Vec<_>>());
        return Ok(ExitKind::Done);
    }
    let header = ["drill", "last verdict", "last pass"];
    let shown = rows.iter().map(|(name, last, passed, fault)| {
        let last = if fault.is_some() { "has faults" } else { last.unwrap_or("never run") };
        vec![
            name.clone(),
            last.to_owned(),
            passed.map_or_else(|| "never".to_owned(), |time| time.to_string()),
        ]
    });
    print_output(&table(&header, shown.collect()));
    for fault in rows.into_iter().filter_map(|(.., fault)| fault) {
        print_status(&fault);
    }
    Ok(ExitKind::Done)
}

async fn history(
    start: &CommandContext,
    rig: &WorkContext,
    name: Option<&str>,
) -> Result<ExitKind, CommandFailure> {
    let (series, flaws) = evidence::examine(rig).await?;
    let reports: Vec<_> = evidence::reports(&series)
        .into_iter()
        .filter(|(_, report)| name.is_none_or(|name| report.drill == name))
        .collect();
    if start.json {
        let all = reports.iter().map(|(record, report)| json!({ "record": record, "run": report.run, "drill": report.drill, "verdict": report.verdict, "declared": report.declared, "rto_seconds": report.rto.measured_seconds, "rpo_seconds": report.rpo.measured_seconds }));
        print::json(&all.collect::<Vec<_>>());
    } else {
        let header = ["record", "run", "drill", "verdict", "RTO", "RPO"];
        let rows = reports.iter().map(|(record, report)| {
            let measured = |objective: &crate::domain::drill::Objective| {
                objective.measured_seconds.map_or_else(|| "-".to_owned(), seconds)
            };
            vec![
                record.to_string(),
                report.run.clone(),
                report.drill.clone(),
                report.verdict.name().to_owned(),
                measured(&report.rto),
                measured(&report.rpo),
            ]
        });
        print_output(&table(&header, rows.collect()));
    }
    for flaw in flaws {
        print_status(&format!("warning: {flaw}"));
    }
    Ok(ExitKind::Done)
}

//! `lifeboat rekey`: which backups lack which slots, and giving them what they lack.

use std::collections::BTreeMap;

use clap::Args;

use super::arguments::OpenArgs;
use super::exit::ExitKind;
use super::print::{self, CommandFailure, print_output, print_status};
use super::run::{CommandContext, datastore_name, tell_gone};
use crate::work::WorkError;
use crate::work::rekey::{self, RekeyPace, RekeyPlan, RekeyReport, RetiredSlot};

/// What `rekey` takes.
#[derive(Debug, Args)]
pub struct RekeyArguments {
    /// One datastore; all if left out.
    pub datastore: Option<String>,
    /// Write new envelopes, and remove what is retired.
    #[arg(long)]
    pub confirm: bool,
    /// Change no more backups than so many; the next run goes on.
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    pub batch: usize,
    /// Backups each second.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub per_second: u32,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub opening: OpenArgs,
}

pub(super) async fn run(
    start: &CommandContext,
    arguments: RekeyArguments,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&arguments.opening).await?;
    let datastore = arguments.datastore.as_deref().map(datastore_name).transpose()?;
    let plan = rekey::plan(&rig, datastore.as_ref()).await?;
    let gone = tell_gone(&rig, datastore.as_ref()).await?;
    let refused = match plan.refused.is_empty() {
        true => gone,
        false => Some(
            WorkError::NotAll { done: "backups were looked at", refused: plan.refused.clone() }
                .into(),
        ),
    };
    if !arguments.confirm {
        match start.json {
            true => print::json(&plan),
            false => print_output(&describe(&plan)),
        }
        if !plan.changes.is_empty() {
            print_status("\nnothing was changed; --confirm writes the new envelopes");
        }
        return refused.map_or(Ok(ExitKind::Done), Err);
    }
    let state = "envelopes that were written are whole; the same command goes on with the rest";
    let pace = RekeyPace { backups_max: arguments.batch, per_second: arguments.per_second };
    let report = plan.apply(&rig, pace).await.map_err(|error| CommandFailure {
        error: Box::new(error),
        state: Some(state.to_owned()),
    })?;
    match start.json {
        true => print::json(&report),
        false => print_output(&describe_report(&report)),
    }
    match report.refused.is_empty() {
        true => refused.map_or(Ok(ExitKind::Done), Err),
        false => Err(WorkError::NotAll {
            done: "the others have their envelopes",
            refused: report.refused,
        }
        .into()),
    }
}

fn describe(plan: &RekeyPlan) -> String {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for change in &plan.changes {
        let add = change.add.iter().map(|name| format!("add {name}"));
        let retire = change.retire.iter().map(|name| format!("retire {name}"));
        let guide = change.guide.then(|| "write a signed RESTORE.md".to_owned());
        let what = add.chain(retire).chain(guide).collect::<Vec<_>>().join(", ");
        *kinds.entry(what).or_default() += 1;
    }
    let mut lines: Vec<String> =
        kinds.into_iter().map(|(what, count)| format!("{count} backups: {what}")).collect();
    lines.push(format!("{} backups are as lifeboat.toml asks", plan.unchanged));
    lines.extend(still_open(&plan.retired));
    lines.extend(plan.refused.iter().map(|why| format!("left alone: {why}")));
    lines.join("\n")
}

/// What retired slots still open, by name.
fn still_open(retired: &[RetiredSlot]) -> Vec<String> {
    let mut names: BTreeMap<&str, (usize, Option<jiff::Timestamp>)> = BTreeMap::new();
    for one in retired {
        let entry = names.entry(&one.slot).or_default();
        entry.0 += 1;
        entry.1 = entry.1.max(one.locked_until);
    }
    let line = |(name, (count, until)): (&str, (usize, Option<jiff::Timestamp>))| match until {
        Some(until) => format!(
            "retired slot {name} still opens {count} backups; the last of its files is locked until {until}"
        ),
        None => format!("retired slot {name} still opens {count} backups; nothing locks its files"),
    };
    names.into_iter().map(line).collect()
}

fn describe_report(report: &RekeyReport) -> String {
    let mut lines = vec![format!("{} backups have a new envelope", report.changed)];
    if report.left > 0 {
        lines.push(format!("{} are left for the next run", report.left));
    }
    for (name, count) in &report.opens {
        lines.push(format!(
            "proven: {name} alone opens {count} of {} that were tried (the oldest, the newest, some between)",
            report.tried.len()
        ));
    }
    if report.removed > 0 {
        lines.push(format!("{} files of retired slots were removed", report.removed));
    }
    lines.extend(still_open(&report.still_open));
    lines.join("\n")
}

//! `serve`, and what shows and does the same by hand: `next`, `status`, `prune`, `hold`, `release`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::arguments::OpenArgs;
use super::exit::ExitKind;
use super::print::{self, CommandFailure, print_output, print_status, table};
use super::run::{CommandContext, backup_id, datastore_name, tell_gone};
use crate::config::{Config, VaultConfig, schedules};
use crate::domain::human_duration::{HumanDuration, format_bytes, format_duration};
use crate::progress::ProgressReporter;
use crate::rig::{self, CommandLineKeys};
use crate::serve::{self, ServeSetup};
use crate::work::status::{StatusCache, SystemStatus};
use crate::work::{WorkError, prune as pruning, shelf, status as standing};

/// Ticks that `next` shows, in all and of one job.
const SHOWN_MAX: usize = 200;
const SHOWN_OF_ONE_MAX: usize = 5;

/// Runs until it is stopped.
pub(super) async fn serve(start: &CommandContext) -> Result<ExitKind, CommandFailure> {
    let file = start.config.clone();
    let load = move || {
        let file = file.clone();
        let loading = async move {
            let config = Config::load(&file)?;
            let jobs = schedules::jobs(&config)?;
            let bell = rig::bell(&config).await?;
            let rig = rig::assemble(
                config,
                CommandLineKeys::default(),
                ProgressReporter::default(),
                CancellationToken::new(),
            )
            .await?;
            Ok::<_, WorkError>(ServeSetup { rig, bell, jobs })
        };
        Box::pin(loading) as futures::future::BoxFuture<'static, Result<ServeSetup, WorkError>>
    };
    let (reload, hangup) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
        while hangups.recv().await.is_some() && reload.send(()).is_ok() {}
    });
    serve::run(Box::new(load), start.cancel.clone(), hangup).await?;
    Ok(ExitKind::Done)
}

/// Shows what will run.
pub(super) async fn next(
    start: &CommandContext,
    within: HumanDuration,
) -> Result<ExitKind, CommandFailure> {
    let config = Config::load(&start.config).map_err(WorkError::from)?;
    let jobs = schedules::jobs(&config).map_err(WorkError::from)?.jobs;
    let now = Timestamp::now();
    let until = now
        .checked_add(SignedDuration::try_from(within.duration()).unwrap_or_default())
        .unwrap_or(Timestamp::MAX);
    let mut ticks = Vec::new();
    for job in &jobs {
        let mut here = now;
        for _ in 0..SHOWN_OF_ONE_MAX {
            let Some(tick) = job.calendar.next(&job.key, here).filter(|tick| tick.nominal <= until)
            else {
                break;
            };
            here = tick.nominal;
            ticks.push((job, tick));
        }
    }
    ticks.sort_by_key(|(job, tick)| (tick.due.unwrap_or(tick.nominal), job.key.clone()));
    let left_out = ticks.len().saturating_sub(SHOWN_MAX);
    ticks.truncate(SHOWN_MAX);
    if start.json {
        let all = ticks.iter().map(|(job, tick)| json!({ "job": job.key, "what": job.describe(), "tick": tick.nominal, "due": tick.due, "local": tick.due.map(|due| job.calendar.zone.show(due)), "calendar": job.calendar.describe(), "why": tick.why, "hosts": job.hosts }));
        print::json(&all.collect::<Vec<_>>());
        return Ok(ExitKind::Done);
    }
    let rows = ticks.iter().map(|(job, tick)| {
        let due =
            tick.due.map_or_else(|| "not at all".to_owned(), |due| job.calendar.zone.show(due));
        let soon = tick.due.map_or_else(String::new, |due| {
            format_duration(Duration::try_from(due.duration_since(now)).unwrap_or_default())
        });
        let mut why = vec![job.calendar.describe()];
        why.extend(tick.why.iter().cloned());
        vec![due, soon, job.describe(), why.join("; ")]
    });
    print_output(&table(&["when", "in", "what", "why"], rows.collect()));
    if jobs.is_empty() {
        print_status(
            "nothing is scheduled: there is no file in schedules/, and no drill has a [cadence]",
        );
    }
    if left_out > 0 {
        print_status(&format!("and {left_out} more; --within looks less far ahead"));
    }
    Ok(ExitKind::Done)
}

/// Shows how things stand.
pub(super) async fn status(start: &CommandContext) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    let (jobs, fault) = match schedules::jobs(&rig.config) {
        Ok(all) => (all.jobs, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let mut status = standing::collect_status(&rig, &jobs, &mut StatusCache::default()).await?;
    status.not_looked_at.extend(fault);
    if start.json {
        print::json(&json!({ "well": status.is_well(), "status": status }));
    } else {
        show(&status);
    }
    Ok(if status.is_well() { ExitKind::Done } else { ExitKind::TooOld })
}

fn show(status: &SystemStatus) {
    let now = status.at;
    let age = |age: Option<Duration>, allowed: u64| match age {
        None => "never !".to_owned(),
        Some(age) if age.as_secs() > allowed => format!("{} !", format_duration(age)),
        Some(age) => format_duration(age),
    };
    let rows = status.datastores.iter().map(|health| {
        vec![
            health.datastore.to_string(),
            age(health.backup_age(now), health.rpo_seconds),
            format_duration(Duration::from_secs(health.rpo_seconds)),
            age(health.drill_age(now), health.drilled_within_seconds),
            health.last_verdict.clone().unwrap_or_else(|| "-".to_owned()),
            health.backups.to_string(),
            format_bytes(health.newest_bytes),
        ]
    });
    print_output(&table(
        &[
            "datastore",
            "newest backup",
            "RPO",
            "last verified restore",
            "last drill",
            "backups",
            "size",
        ],
        rows.collect(),
    ));
    if !status.jobs.is_empty() {
        let rows = status.jobs.iter().map(|job| {
            let last = job.last.as_ref();
            let at = last.map(|last| {
                last.ended
                    .or(last.begun)
                    .unwrap_or(last.tick)
                    .strftime("%Y-%m-%d %H:%M UTC")
                    .to_string()
            });
            vec![
                job.what.clone(),
                job.next_local.clone().unwrap_or_else(|| "-".to_owned()),
                last.map_or_else(|| "never".to_owned(), |last| last.state.clone()),
                at.unwrap_or_default(),
                last.and_then(|last| last.outcome.clone()).unwrap_or_default(),
            ]
        });
        print_output("");
        print_output(&table(&["job", "next", "last", "at", "outcome"], rows.collect()));
    }
    print_output("");
    for standing in &status.standing {
        print_output(&format!(
            "! {} (since {})\n  what next: {}",
            standing.alarm.text,
            standing.since.strftime("%Y-%m-%d %H:%M UTC"),
            standing.alarm.next_step
        ));
    }
    for alarm in status
        .alarms
        .iter()
        .filter(|alarm| !status.standing.iter().any(|standing| standing.alarm.key() == alarm.key()))
    {
        print_output(&format!("! {}\n  what next: {}", alarm.text, alarm.next_step));
    }
    for health in &status.datastores {
        for what in &health.omitted {
            print_output(&format!(
                "warning: not in the newest backup of {}: {what}",
                health.datastore
            ));
        }
    }
    for message in &status.undelivered {
        let why = message.error.clone().unwrap_or_default();
        print_output(&format!(
            "! a message to {} was not delivered in {} attempts: {why}",
            message.channel, message.attempts
        ));
    }
    for what in &status.not_looked_at {
        print_output(&format!("! not looked at: {what}"));
    }
    if status.is_well() {
        print_output("every datastore is within its objectives");
    }
}

/// Shows which backups retention keeps and why; removes the others if confirmed.
pub(super) async fn prune(
    start: &CommandContext,
    datastore: Option<&str>,
    confirm: bool,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    let all = schedules::jobs(&rig.config).map_err(WorkError::from)?;
    let datastores: Vec<_> = match datastore {
        None => rig.config.datastores.keys().cloned().collect(),
        Some(name) => {
            let name = datastore_name(name)?;
            if !rig.config.datastores.contains_key(&name) {
                let known: Vec<String> =
                    rig.config.datastores.keys().map(ToString::to_string).collect();
                return Err(shelf::no_such_datastore(name.as_str(), &known).into());
            }
            vec![name]
        }
    };
    let gone = tell_gone(&rig, datastores.first().filter(|_| datastore.is_some())).await?;
    let (mut plans, mut left) = (Vec::new(), Vec::new());
    for datastore in &datastores {
        let found =
            pruning::plan_prune(&rig, datastore, pruning::policies_of(&all.schedules, datastore))
                .await?;
        let mut json = json!({ "plan": found.plan, "unfinished": found.unfinished, "not_believed": found.not_believed, "archive": found.archive.keys().collect::<Vec<_>>(), "snapshots": found.snapshots() });
        if !start.json {
            show_plan(&found, confirm);
        }
        if confirm {
            let done = pruning::apply(&rig, found).await?;
            left.extend(done.left.iter().map(|(backup, why)| format!("{backup}: {why}")));
            if !start.json && !done.removed.is_empty() {
                print_output(&format!("{datastore}: removed {} backups", done.removed.len()));
            }
            if !start.json && !done.archived.is_empty() {
                print_output(&format!(
                    "{datastore}: {} sets went to the archive tier",
                    done.archived.len()
                ));
            }
            json["done"] = json!(done);
        }
        plans.push(json);
    }
    if start.json {
        print::json(&plans);
    }
    if left.is_empty() {
        return gone.map_or(Ok(ExitKind::Done), Err);
    }
    Err(WorkError::Refused {
        what: "prune".to_owned(),
        why: format!(
            "{} backups were to go and could not be deleted: {}",
            left.len(),
            left.join("; ")
        ),
        hint: "the removal is on record; run it again when the cause is gone".to_owned(),
    })
    .or_else(|error: WorkError| {
        print::failure(&CommandFailure::from(error));
        Ok(ExitKind::Leftovers)
    })
}

fn show_plan(found: &pruning::PrunePlan, confirm: bool) {
    let rows = found.plan.decisions.iter().map(|decision| {
        vec![
            decision.backup.to_string(),
            decision.taken.strftime("%Y-%m-%d %H:%M UTC").to_string(),
            format_bytes(decision.bytes),
            if decision.keep { "keep" } else { "remove" }.to_owned(),
            decision.reasons.join(", "),
        ]
    });
    print_output(&format!("{}:", found.plan.datastore));
    print_output(&table(&["backup", "taken", "size", "", "because"], rows.collect()));
    for (backup, ids) in found.snapshots() {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        print_output(&format!("with {backup}: {}", ids.join(", ")));
    }
    if found.not_believed > 0 {
        print_status(&format!(
            "warning: {} manifests are not believed; they count for nothing and are left alone",
            found.not_believed
        ));
    }
    if !found.unfinished.is_empty() {
        print_output(&format!(
            "{} objects of backups removed earlier are still there",
            found.unfinished.len()
        ));
    }
    if !found.archive.is_empty() {
        print_output(&format!(
            "{} sets are old enough for the archive tier (archive_after)",
            found.archive.len()
        ));
    }
    let count = found.plan.removals().len();
    if count + found.unfinished.len() > 0 && !confirm {
        print_status(&format!("{count} backups would be removed; --confirm removes them"));
    }
}

/// Holds a backup or lets it go.
pub(super) async fn hold(
    start: &CommandContext,
    backup: &str,
    reason: Option<&str>,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    let backup = backup_id(backup)?;
    let datastore = pruning::hold(&rig, &backup, reason).await?;
    print_output(&match reason {
        Some(reason) => format!("backup {backup} of {datastore} is held: {reason}"),
        None => format!("backup {backup} of {datastore} is held no more"),
    });
    Ok(ExitKind::Done)
}

/// Days after which parts of an upload that nobody finished are removed by the bucket, should no
/// sweep come by.
const ABORT_UPLOADS_DAYS: u32 = 7;

/// Prints the bucket's lifecycle configuration.
pub(super) fn lifecycle(start: &CommandContext) -> Result<ExitKind, CommandFailure> {
    let config = Config::load(&start.config).map_err(WorkError::from)?;
    let VaultConfig::S3(s3) = &config.vault else {
        return Err(WorkError::Refused {
            what: "policy lifecycle".to_owned(),
            why: "the vault is a directory, which has no storage classes".to_owned(),
            hint: "lifecycle rules are for vaults in S3".to_owned(),
        }
        .into());
    };
    let transitions: Vec<_> = s3
        .colder
        .iter()
        .map(|step| json!({ "Days": step.after_days, "StorageClass": step.class }))
        .collect();
    let mut rules = vec![json!({
        "ID": "lifeboat-unfinished-uploads",
        "Status": "Enabled",
        "Filter": { "Prefix": s3.prefix },
        "AbortIncompleteMultipartUpload": { "DaysAfterInitiation": ABORT_UPLOADS_DAYS },
    })];
    if !transitions.is_empty() {
        // Payloads and nothing else: what tells how to open them must be readable at once.
        let prefix = format!("{}payloads/", s3.prefix);
        rules.push(json!({ "ID": "lifeboat-colder", "Status": "Enabled", "Filter": { "Prefix": prefix }, "Transitions": transitions }));
    }
    print::json(&json!({ "Rules": rules }));
    Ok(ExitKind::Done)
}

//! `lifeboat restore`: the estimate, the confirmation, the restore, and its result. Everything
//! printed can be pasted into an incident channel: names of backups, times and sizes, nothing from
//! inside the data.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use jiff::Timestamp;

use super::arguments::RestoreArguments;
use super::exit::ExitKind;
use super::print::{self, CommandFailure, print_output, print_status};
use super::run::{CommandContext, UNVERIFIED, backup_id, datastore_name};
use super::volumes;
use crate::config::plans;
use crate::destination::postgres::TargetError;
use crate::destination::postgres::globals::TablespaceMap;
use crate::destination::postgres::rights::SkippedEntries;
use crate::destination::postgres::selection::RestoreFilter;
use crate::domain::ErrorClass;
use crate::domain::drill::{CheckOutcome, CheckResult};
use crate::domain::human_duration::{format_bytes, format_duration};
use crate::domain::id::BackupId;
use crate::domain::selector::BackupSelector;
use crate::pg::PgConnection;
use crate::work::quote::{self, EstimateRequest, RestoreEstimate};
use crate::work::restore::{self, ConfirmedRestore, RestoreOptions};
use crate::work::{WorkContext, WorkError, shelf, thaw};

fn which(arguments: &RestoreArguments) -> Result<BackupSelector, WorkError> {
    match (&arguments.backup, &arguments.at) {
        (Some(id), _) => Ok(BackupSelector::Exactly(backup_id(id)?)),
        (None, Some(time)) => Ok(BackupSelector::At(time.parse().map_err(|_| {
            WorkError::Refused {
                what: "--at".to_owned(),
                why: format!("{time:?} is not a time with its zone"),
                hint: "write it like 2026-11-20T12:00:00Z (Z for UTC) or 2026-11-20T13:00:00+01:00"
                    .to_owned(),
            }
        })?)),
        (None, None) => Ok(BackupSelector::Latest),
    }
}

/// What the text after `--to` means.
enum RestoreTarget {
    /// Nothing was named: only a plan can be shown.
    Nowhere,
    Stdout,
    Directory(std::path::PathBuf),
    Zone(String),
    Database(PgConnection),
}

fn target(text: Option<&str>) -> Result<RestoreTarget, WorkError> {
    let Some(text) = text else { return Ok(RestoreTarget::Nowhere) };
    if text == "-" {
        Ok(RestoreTarget::Stdout)
    } else if let Some(zone) = text.strip_prefix("zone:") {
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        match !zone.is_empty() && zone.bytes().all(legal) {
            true => Ok(RestoreTarget::Zone(zone.to_owned())),
            false => Err(WorkError::Refused {
                what: format!("--to {text}"),
                why: "it names no availability zone".to_owned(),
                hint: "write --to zone:eu-west-1a".to_owned(),
            }),
        }
    } else if text.starts_with("postgres://")
        || text.starts_with("postgresql://")
        || (text.contains('=') && !text.starts_with(['/', '.']))
    {
        let connection = PgConnection::parse(text)
            .map(PgConnection::to_restore_to)
            .map_err(|error| WorkError::from(TargetError::from(error)))?;
        if connection.database().is_none() {
            return Err(WorkError::Refused {
                what: "--to".to_owned(),
                why: "it names a server and no database".to_owned(),
                hint: "add dbname=NAME, or /NAME to a URI; a database that does not exist yet is created".to_owned(),
            });
        }
        Ok(RestoreTarget::Database(connection))
    } else if text.contains('/') || text.starts_with('.') {
        Ok(RestoreTarget::Directory(text.into()))
    } else {
        // A database's name without a server would make a directory full of plaintext.
        Err(WorkError::Refused {
            what: format!("--to {text}"),
            why: "it may mean a database or a directory".to_owned(),
            hint: format!(
                "write postgres:///{text} or \"host=… dbname={text}\" for a database, ./{text} for files in the clear"
            ),
        })
    }
}

pub(super) async fn run(
    start: &CommandContext,
    arguments: RestoreArguments,
) -> Result<ExitKind, CommandFailure> {
    let (which, target) = (which(&arguments)?, target(arguments.to.as_deref())?);
    let wishes = wishes_of(&arguments)?;
    let rig = start.rig(&arguments.opening).await?;
    let name = datastore_name(&arguments.datastore)?;
    let question = EstimateRequest {
        datastore: &name,
        which: &which,
        tier: arguments.tier,
        days: arguments.days,
    };
    let mut quote = quote::quote(&rig, &question).await?;
    if !quote.verified {
        quote.warnings.push(UNVERIFIED.to_owned());
    }
    if !matches!(target, RestoreTarget::Zone(_)) {
        volumes::refuse_others(&arguments.volumes)?;
    }
    match target {
        RestoreTarget::Nowhere => {
            if arguments.verify {
                quote.verify(&rig).await;
            }
            plan(start, quote)
        }
        RestoreTarget::Zone(zone) => volumes::to_zone(start, &rig, &zone, quote, &arguments).await,
        RestoreTarget::Stdout | RestoreTarget::Directory(_) => {
            to_files(start, &rig, target, quote, &question, &arguments).await
        }
        RestoreTarget::Database(connection) => {
            if quote.manifest.set.is_some() {
                return Err(WorkError::Refused {
                    what: format!("restoring {name} into a database"),
                    why: "it is a set of volumes; nothing was changed".to_owned(),
                    hint:
                        "name a zone (--to zone:NAME), or a directory for disk images (--to ./DIR)"
                            .to_owned(),
                }
                .into());
            }
            let wishes = planned(&rig, &question, wishes)?;
            quote.of_target(&rig, &connection, &wishes).await;
            if arguments.verify {
                quote.verify(&rig).await;
            }
            if arguments.plan {
                return plan(start, quote);
            }
            if !start.json {
                print_status(&describe(&quote));
            }
            let order = ConfirmedRestore {
                hurry: quote::hurry(&question, &quote.takes, &quote.manifest),
                verified: quote.verified,
                manifest: quote.manifest.clone(),
                target: connection,
                wishes,
            };
            let backup = quote.backup.to_string();
            let mut older: Vec<_> = quote
                .others
                .iter()
                .filter(|other| other.sequence < quote.sequence)
                .map(|other| other.backup.clone())
                .collect();
            if let Some(error) = quote.refusal() {
                if !error.is_damage() {
                    return Err(error.into());
                }
                restore::remember_damage(&rig, &order.manifest, &error).await;
                let state =
                    damaged(&rig, &backup, older, "nothing was changed on the target.").await;
                return Err(CommandFailure { error: Box::new(error), state: Some(state) });
            }
            confirm(
                arguments.yes,
                &backup,
                "database",
                order.target.database().unwrap_or(name.as_str()),
            )?;
            let others = std::mem::take(&mut older);
            match restore::carry_out(&rig, order).await {
                Ok(report) => ended(start, report),
                Err((error, state)) => {
                    let state = if error.class() == ErrorClass::Integrity {
                        damaged(&rig, &backup, others, &state).await
                    } else {
                        state
                    };
                    Err(CommandFailure { error: Box::new(error), state: Some(state) })
                }
            }
        }
    }
}

/// What to do about a backup that has proved damaged: which other one, and how to have it in the
/// place of what was begun.
async fn damaged(rig: &WorkContext, backup: &str, older: Vec<BackupId>, state: &str) -> String {
    let known = match (&rig.catalog, shelf::vault_id(rig).await) {
        (Ok(catalog), Ok(vault)) => catalog.damaged(&vault).await.unwrap_or_default(),
        _ => Vec::new(),
    };
    let next = older.into_iter().find(|older| !known.iter().any(|row| row.backup == *older));
    // "The same command goes on from here" would fail in the same place for ever.
    let state = state.split(" The same command").next().unwrap_or_default();
    match next {
        Some(next) => format!(
            "{state} Backup {backup} is damaged; the one before it is {next}, of which no damage is known:\n  {}",
            command_with(&next.to_string(), !state.contains("nothing was changed"))
        ),
        None => format!(
            "{state} Backup {backup} is damaged, and there is none before it that is not; look for a copy (lifeboat list --vault NAME)"
        ),
    }
}

/// The command that was typed, with another backup.
fn command_with(backup: &str, take_over: bool) -> String {
    let typed: Vec<String> = std::env::args().skip(1).collect();
    let mut words = vec!["lifeboat".to_owned()];
    let mut typed = typed.into_iter();
    while let Some(word) = typed.next() {
        match word.as_str() {
            "--backup" | "--at" => drop(typed.next()),
            "--take-over" => {}
            _ if word.starts_with("--backup=") || word.starts_with("--at=") => {}
            _ => words.push(word),
        }
    }
    words.extend(["--backup".to_owned(), backup.to_owned()]);
    words.extend(take_over.then(|| "--take-over".to_owned()));
    let plain = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&c))
    };
    let quote = |word: String| {
        if plain(&word) { word } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    words.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// What the command line says, without the restore plan.
fn wishes_of(arguments: &RestoreArguments) -> Result<RestoreOptions, WorkError> {
    let tablespaces =
        TablespaceMap::parse(&arguments.tablespace).map_err(|why| WorkError::Refused {
            what: "--tablespace".to_owned(),
            why,
            hint: "write --tablespace fast=/mnt/fast".to_owned(),
        })?;
    let skips = SkippedEntries::parse(&arguments.skip).map_err(|why| WorkError::Refused {
        what: "--skip".to_owned(),
        why,
        hint: "write --skip EXTENSION:postgis; kinds and names are those of pg_restore --list"
            .to_owned(),
    })?;
    Ok(RestoreOptions {
        no_owner: arguments.no_owner,
        no_privileges: arguments.no_privileges,
        role: arguments.role.clone(),
        skips,
        keep_going: arguments.keep_going,
        take_over: arguments.take_over,
        ignore_room: arguments.ignore_room,
        without_reading_first: arguments.without_reading_first,
        no_globals: arguments.no_globals,
        beside_tables: arguments.into_database_with_tables,
        swap: arguments.swap,
        older_server: arguments.into_older_server,
        only: RestoreFilter::of(&arguments.table, &arguments.schema),
        check: arguments.check || arguments.swap,
        tablespaces,
        jobs: arguments.jobs.unwrap_or(0),
        ..RestoreOptions::default()
    })
}

/// What the restore plan says, and the command line over it.
fn planned(
    rig: &WorkContext,
    question: &EstimateRequest<'_>,
    typed: RestoreOptions,
) -> Result<RestoreOptions, WorkError> {
    let restore_plan = plans::plan_of(&rig.config, question.datastore)?;
    let Some(stage) = restore_plan.stage(question.datastore) else {
        return Err(WorkError::Bug("a plan without its datastore".to_owned()));
    };
    let plan = RestoreOptions::of(stage)?;
    Ok(RestoreOptions {
        no_globals: plan.no_globals || typed.no_globals,
        no_owner: plan.no_owner || typed.no_owner,
        no_privileges: plan.no_privileges || typed.no_privileges,
        role: typed.role.or(plan.role),
        skips: plan.skips.and(typed.skips),
        keep_going: plan.keep_going || typed.keep_going,
        ignore_room: typed.ignore_room,
        without_reading_first: typed.without_reading_first,
        take_over: typed.take_over,
        jobs: if typed.jobs > 0 { typed.jobs } else { plan.jobs },
        tablespaces: if typed.tablespaces.is_empty() {
            plan.tablespaces
        } else {
            typed.tablespaces
        },
        beside_tables: typed.beside_tables,
        swap: typed.swap,
        older_server: typed.older_server,
        only: typed.only,
        check: typed.check,
        ..plan
    })
}

async fn to_files(
    start: &CommandContext,
    rig: &WorkContext,
    target: RestoreTarget,
    mut quote: RestoreEstimate,
    question: &EstimateRequest<'_>,
    arguments: &RestoreArguments,
) -> Result<ExitKind, CommandFailure> {
    let of_databases = [
        arguments.check,
        arguments.swap,
        arguments.no_owner,
        arguments.no_privileges,
        arguments.keep_going,
    ];
    let lists = [&arguments.table, &arguments.schema, &arguments.skip];
    if of_databases.contains(&true)
        || arguments.role.is_some()
        || lists.iter().any(|list| !list.is_empty())
    {
        return Err(WorkError::Refused {
            what: "--check, --swap, --table, --schema, --skip, --no-owner, --no-privileges, --role and --keep-going".to_owned(),
            why: "they are for a restore into a database".to_owned(),
            hint: "leave them out, or name a database: --to postgres:///NAME".to_owned(),
        }
        .into());
    }
    quote.steps = match &target {
        RestoreTarget::Directory(path) if quote.manifest.set.is_some() => {
            vec![format!("write its volumes, in the clear, as disk images to {}", path.display())]
        }
        RestoreTarget::Directory(path) => {
            vec![format!("write its opened payloads, in the clear, to {}", path.display())]
        }
        _ => vec!["write the archive of its main payload to stdout".to_owned()],
    };
    if arguments.plan {
        return plan(start, quote);
    }
    quote.warnings.iter().for_each(|warning| print_status(&format!("warning: {warning}")));
    let (hurry, manifest) =
        (quote::hurry(question, &quote.takes, &quote.manifest), quote.manifest.clone());
    if let Some(thaw) = &quote.thaw
        && !arguments.yes
    {
        let what = format!(
            "{} objects must be thawed first, which takes time and costs money",
            thaw.objects
        );
        return Err(refused(&format!("restoring backup {}", quote.backup), &what).into());
    }
    let is_frozen = quote.thaw.is_some();
    if let Some(error) = quote.refusal() {
        return Err(error.into());
    }
    if is_frozen {
        thaw::thaw_and_wait(rig, &manifest, &hurry).await?;
    }
    match target {
        RestoreTarget::Directory(path) => {
            for (file, bytes) in restore::into_directory(rig, &manifest, &path).await? {
                print_output(&format!("{}\t{bytes}", path.join(file).display()));
            }
            print_status(
                "these files hold the data in the clear; remove them when they are no longer needed",
            );
        }
        _ => drop(restore::to_stdout(rig, &manifest).await?),
    }
    Ok(ExitKind::Done)
}

pub(super) fn plan(
    start: &CommandContext,
    quote: RestoreEstimate,
) -> Result<ExitKind, CommandFailure> {
    if start.json {
        print::json(&quote);
    } else {
        print_output(&describe(&quote));
    }
    match quote.refusal() {
        Some(error) => Err(error.into()),
        None => Ok(ExitKind::Done),
    }
}

fn seconds(seconds: f64) -> String {
    format_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

fn ago(time: Timestamp) -> String {
    let elapsed = Timestamp::now().duration_since(time);
    Duration::try_from(elapsed).map_or_else(
        |_| "in the future".to_owned(),
        |elapsed| format!("{} ago", format_duration(elapsed)),
    )
}

fn minute(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// The quote for people.
pub(super) fn describe(quote: &RestoreEstimate) -> String {
    let mut lines = vec![format!("restore of {} from {}", quote.datastore, quote.vault)];
    let mut line = |name: &str, text: String| lines.push(format!("  {name:<9}{text}"));
    line("backup", format!("{}, number {}, {}", quote.backup, quote.sequence, quote.chosen));
    line("data of", format!("{} ({})", minute(quote.taken), ago(quote.taken)));
    let signed = if quote.verified { "signature verified" } else { "UNVERIFIED" };
    line(
        "size",
        format!(
            "{} stored, {} to load, {signed}",
            format_bytes(quote.sealed_bytes),
            format_bytes(quote.plain_bytes)
        ),
    );
    line(
        "whole",
        match quote.read_in_full {
            _ if !quote.objects_there => "NO: an object is gone, or has another size than was signed".to_owned(),
            Some(at) => format!("read in full {}, {}", ago(at), minute(at)),
            None => "its objects are there, in their sizes; not read in full (lifeboat verify, or --plan --verify)".to_owned(),
        },
    );
    line("drilled", drilled(quote));
    line("takes", takes(quote));
    if let Some(thaw) = &quote.thaw {
        line(
            "thaw",
            format!(
                "{} objects, {} in {}",
                thaw.objects,
                format_bytes(thaw.bytes),
                thaw::name(thaw.class)
            ),
        );
        for offer in &thaw.offers {
            let mark = if offer.tier == thaw.tier { '*' } else { ' ' };
            let within = format_duration(Duration::from_secs(offer.seconds));
            line(
                "",
                format!(
                    "{mark} {:<9} within {within:<12} about ${:.2}",
                    offer.tier.name(),
                    offer.dollars
                ),
            );
        }
        if thaw.under_way > 0 {
            line("", format!("{} of them were asked for already", thaw.under_way));
        }
    }
    line("costs", costs(quote));
    match &quote.opens_with {
        Some(slot) => line("opens", format!("with key slot {slot}")),
        None => line("opens", "with no key that is here".to_owned()),
    }
    for (number, step) in quote.steps.iter().enumerate() {
        line(if number == 0 { "then" } else { "" }, format!("{}. {step}", number + 1));
    }
    for (number, other) in quote.others.iter().enumerate() {
        let text = format!(
            "{}  {} ({}), {}",
            other.backup,
            minute(other.taken),
            ago(other.taken),
            format_bytes(other.plain_bytes)
        );
        line(if number == 0 { "others" } else { "" }, text);
    }
    let more = quote.backups.saturating_sub(quote.others.len() + 1);
    if more > 0 {
        line(
            "",
            format!(
                "{more} more, the oldest of {} (`lifeboat list {}`)",
                minute(quote.oldest),
                quote.datastore
            ),
        );
    }
    for warning in &quote.warnings {
        line("warning:", format!(" {warning}"));
    }
    if quote.missing.is_empty() {
        line("missing", "nothing".to_owned());
    }
    for missing in &quote.missing {
        line("MISSING", missing.what.clone());
        if let Some(next) = &missing.next {
            line("", format!("what next: {next}"));
        }
    }
    lines.join("\n")
}

fn drilled(quote: &RestoreEstimate) -> String {
    match &quote.drilled {
        None => "never: nobody knows whether it can be restored".to_owned(),
        Some(drilled) => {
            let which =
                if drilled.this_backup { "this very backup" } else { "another backup of it" };
            format!(
                "{} {}, {} ({which}, run {})",
                drilled.verdict.name(),
                ago(drilled.declared),
                minute(drilled.declared),
                drilled.run
            )
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "seconds for people")]
fn takes(quote: &RestoreEstimate) -> String {
    let takes = &quote.takes;
    let allowed = takes.rto_seconds.map_or("not known here".to_owned(), |seconds| {
        format_duration(Duration::from_secs(seconds))
    });
    let basis = match takes.measured {
        0 => {
            return format!(
                "unknown: no drill or restore of it was ever measured; its RTO is {allowed}"
            );
        }
        1 => "one measured restore of it".to_owned(),
        count => format!("{count} measured restores of it"),
    };
    let Some(total) = takes.total_seconds() else { return "unknown".to_owned() };
    let thaw = match takes.thaw_seconds {
        0 => String::new(),
        seconds => {
            format!(", up to {} of it thawing", format_duration(Duration::from_secs(seconds)))
        }
    };
    let about = format!("about {} (median of {basis}, scaled to its size{thaw})", seconds(total));
    match takes.rto_seconds {
        None => about,
        Some(rto) if total <= rto as f64 => format!("{about}, within the RTO of {allowed}"),
        Some(_) => format!("{about}, MORE THAN the RTO of {allowed}"),
    }
}

fn costs(quote: &RestoreEstimate) -> String {
    match (quote.dollars, &quote.thaw) {
        (dollars, None) if dollars < 0.005 => "next to nothing at the store".to_owned(),
        (dollars, _) => format!(
            "about ${dollars:.2} at the store, by list prices, transfer out of the region not included"
        ),
    }
}

fn refused(what: &str, why: &str) -> WorkError {
    WorkError::Refused {
        what: what.to_owned(),
        why: format!("{why}; nothing was changed"),
        hint: "give --yes to go ahead, or --plan to see what would be done".to_owned(),
    }
}

/// Asks on a terminal for the target's name; elsewhere `--yes` must have been given.
pub(super) fn confirm(yes: bool, backup: &str, kind: &str, name: &str) -> Result<(), WorkError> {
    if yes {
        return Ok(());
    }
    let what = format!("restoring into {kind} {name:?}");
    if !std::io::stdin().is_terminal() {
        return Err(refused(&what, "nobody is there to confirm it"));
    }
    let _ = write!(
        std::io::stderr(),
        "\nto restore backup {backup}, type the name of the {kind} ({name}): "
    );
    let mut answer = String::new();
    match std::io::stdin().read_line(&mut answer) {
        Ok(_) if answer.trim() == name => Ok(()),
        _ => Err(refused(&what, "it was not confirmed")),
    }
}

fn ended(
    start: &CommandContext,
    report: restore::RestoreReport,
) -> Result<ExitKind, CommandFailure> {
    if start.json {
        print::json(&report);
    } else {
        print_output(&describe_restored(&report));
    }
    let failed: Vec<&CheckResult> =
        report.smoke.iter().filter(|result| result.answer != CheckOutcome::Pass).collect();
    if !failed.is_empty() {
        let said = failed
            .iter()
            .map(|result| format!("{}: {}", result.name, result.summary))
            .collect::<Vec<_>>()
            .join("; ");
        return Err(WorkError::CheckFailed(format!(
            "the data is restored, and the plan's smoke commands did not all succeed: {said}"
        ))
        .into());
    }
    let in_part = !report.skipped.is_empty() || !report.failed.is_empty();
    if in_part {
        print_status(&format!(
            "restored in part: {} things were left out as asked, {} were refused",
            report.skipped.len(),
            report.failed.len()
        ));
    }
    match report.comparison.filter(|comparison| !comparison.agrees()) {
        // What was refused is not there, and so it differs.
        Some(_) if !report.failed.is_empty() => Ok(ExitKind::Incomplete),
        None if in_part => Ok(ExitKind::Incomplete),
        None => Ok(ExitKind::Done),
        Some(comparison) => Err(WorkError::CheckFailed(format!(
            "the restored database is not what was recorded at backup time: {}",
            comparison.differences.join("; ")
        ))
        .into()),
    }
}

#[allow(clippy::cast_precision_loss, reason = "rates for people")]
fn describe_restored(report: &restore::RestoreReport) -> String {
    let mut text = format!(
        "restored backup {} into database {:?}\n  loaded     {}, opened with {}",
        report.backup,
        report.database,
        format_bytes(report.plain_bytes),
        report.opened_with
    );
    if let Some(only) = &report.only {
        text.push_str(&format!("\n  only       {only}, and what belongs to it"));
    }
    report.left_out.iter().for_each(|key| {
        text.push_str(&format!("\n  left out   {key}: its other table was not restored"))
    });
    report
        .omitted
        .iter()
        .for_each(|one| text.push_str(&format!("\n  not in it  {}: {}", one.what(), one.why())));
    if !report.resumed_after.is_empty() {
        text.push_str(&format!(
            "\n  went on    from an interrupted restore; done already: {}",
            report.resumed_after.join(", ")
        ));
    }
    if let Some(swap) = &report.swapped {
        text.push_str(&format!(
            "\n  swapped    the old database is {:?} now; the way back, from another database and with nobody connected to either: {}",
            swap.aside,
            swap.way_back()
        ));
    }
    let time = |t: &restore::StageTime| match t.bytes {
        Some(bytes) => format!(
            "{} {:.1} s ({}/s)",
            t.stage,
            t.seconds,
            format_bytes((bytes as f64 / t.seconds.max(0.001)) as u64)
        ),
        None => format!("{} {:.1} s", t.stage, t.seconds),
    };
    let times = report.stages.iter().map(time).collect::<Vec<_>>().join(", ");
    text.push_str(&format!("\n  time       {times}"));
    if let Some(globals) = &report.globals {
        text.push_str(&format!(
            "\n  roles      {} made, {} the same already",
            globals.roles_created.len(),
            globals.roles_same.len()
        ));
        for (what, names) in [
            ("role kept as it is on the target, though it differs", &globals.roles_kept),
            ("membership not made between roles that existed", &globals.memberships_left_out),
            (
                "grant on a parameter to a role that existed not made",
                &globals.parameter_grants_left_out,
            ),
            (
                "tablespace kept as it is on the target, though it differs",
                &globals.tablespaces_kept,
            ),
            (
                "tablespace left out, its tables are in the default one",
                &globals.tablespaces_left_out,
            ),
        ] {
            names.iter().for_each(|name| text.push_str(&format!("\n  {what}: {name}")));
        }
    }
    for (what, names) in [
        ("left out, as asked", &report.skipped),
        ("REFUSED", &report.failed),
        ("no statistics of", &report.not_analyzed),
    ] {
        names.iter().for_each(|name| text.push_str(&format!("\n  {what}: {name}")));
    }
    if let Some(number) = report.recorded {
        text.push_str(&format!("\n  recorded   as number {number} of the evidence"));
    }
    match &report.comparison {
        None => text.push_str("\n  compared   nothing; --check compares every table with what was recorded at backup time"),
        Some(comparison) => {
            let verdict = if comparison.agrees() { "all as recorded at backup time" } else { "NOT as recorded at backup time" };
            text.push_str(&format!("\n  compared   {} tables, {} rows: {verdict}", comparison.tables, comparison.rows));
            comparison.differences.iter().for_each(|d| text.push_str(&format!("\n  differs: {d}")));
            comparison.not_looked_at.iter().for_each(|n| text.push_str(&format!("\n  not looked at: {n}")));
        }
    }
    text
}

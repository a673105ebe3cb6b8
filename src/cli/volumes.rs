//! `lifeboat restore --to zone:NAME`: the quote, the question, the volumes.

use super::arguments::{RestoreArguments, VolumeArguments};
use super::exit::ExitKind;
use super::print::{self, CommandFailure, print_output, print_status, table};
use super::restore::{confirm, describe, plan};
use super::run::CommandContext;
use crate::domain::human_duration::format_duration;
use crate::work::quote::RestoreEstimate;
use crate::work::snapshot::restore::{self, VolumeRestoreOptions, VolumesRestored};
use crate::work::snapshot::verify::set_of;
use crate::work::{WorkContext, WorkError};

/// What was typed about volumes.
pub(super) fn wishes(zone: &str, typed: &VolumeArguments) -> VolumeRestoreOptions {
    VolumeRestoreOptions {
        zone: zone.to_owned(),
        class: typed.volume_type.clone(),
        iops: typed.iops,
        throughput: typed.throughput,
        key: typed.volume_key.clone(),
        rate: typed.initialization_rate,
        attach: typed.attach.clone(),
        name: typed.restore_name.clone(),
        until_hydrated: typed.until_hydrated,
        patience: typed.patience.duration(),
    }
}

/// Restores volumes to a zone, or shows what that would be.
pub(super) async fn to_zone(
    start: &CommandContext,
    rig: &WorkContext,
    zone: &str,
    mut quote: RestoreEstimate,
    arguments: &RestoreArguments,
) -> Result<ExitKind, CommandFailure> {
    if arguments.check
        || arguments.swap
        || !arguments.table.is_empty()
        || !arguments.schema.is_empty()
    {
        return Err(WorkError::Refused {
            what: "--check, --swap, --table and --schema".to_owned(),
            why: "they are for a restore into a database".to_owned(),
            hint: "leave them out; a drill says whether what lives on the volumes is as it was"
                .to_owned(),
        }
        .into());
    }
    let wishes = wishes(zone, &arguments.volumes);
    quote.of_volumes(rig, &wishes).await;
    if arguments.plan {
        return plan(start, quote);
    }
    if !start.json {
        print_status(&describe(&quote));
    }
    let (manifest, verified, backup) =
        (quote.manifest.clone(), quote.verified, quote.backup.to_string());
    set_of(&manifest)?;
    if let Some(error) = quote.refusal() {
        return Err(error.into());
    }
    confirm(arguments.yes, &backup, "zone", zone)?;
    let report = restore::to_zone(rig, &manifest, verified, &wishes).await;
    let report = report.map_err(|error| CommandFailure {
        error: Box::new(error),
        state: Some(
            "what was made is tagged lifeboat:restore; the same command goes on with it".to_owned(),
        ),
    })?;
    if start.json {
        print::json(&report);
    } else {
        print_output(&describe_restored(&report));
    }
    Ok(ExitKind::Done)
}

fn seconds(seconds: f64) -> String {
    format_duration(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

fn describe_restored(report: &VolumesRestored) -> String {
    let rows = report.volumes.iter().map(|made| {
        let at = made
            .attached
            .as_ref()
            .map_or("-".to_owned(), |(instance, device)| format!("{instance} {device}"));
        let hydrated =
            made.hydrated_percent.map_or("not known".to_owned(), |percent| format!("{percent}%"));
        let was = if made.was_there { "was there" } else { "made" };
        vec![
            made.volume.to_string(),
            made.of.to_string(),
            made.snapshot.to_string(),
            at,
            hydrated,
            was.to_owned(),
        ]
    });
    let hydrated = report
        .seconds_to_hydrated
        .map_or("not waited for: first reads may be slow".to_owned(), seconds);
    let mut text = format!(
        "restored backup {} as volumes in {} ({})\n  first use  {}\n  read in    {hydrated}\n",
        report.backup,
        report.zone,
        report.place,
        seconds(report.seconds_to_first_use)
    );
    if let Some(number) = report.recorded {
        text.push_str(&format!("  recorded   as evidence {number}\n"));
    }
    text.push('\n');
    text.push_str(&table(&["VOLUME", "OF", "SNAPSHOT", "ATTACHED", "READ IN", ""], rows.collect()));
    if report.needs_label {
        text.push_str(&format!(
            "\n\nbefore Postgres is started on them, remove postmaster.pid and write backup_label (and tablespace_map, if it has one) into its data directory:\n  rm -f \"$PGDATA/postmaster.pid\"\n  lifeboat show {} --json | jq -j .manifest.set.postgres.label > \"$PGDATA/backup_label\"",
            report.backup
        ));
    }
    text
}

/// Refuses options that are for volumes where none are restored.
pub(super) fn refuse_others(typed: &VolumeArguments) -> Result<(), WorkError> {
    let named = typed.attach.is_some()
        || typed.volume_type.is_some()
        || typed.iops.is_some()
        || typed.throughput.is_some()
        || typed.volume_key.is_some()
        || typed.initialization_rate.is_some()
        || typed.until_hydrated;
    if !named {
        return Ok(());
    }
    Err(WorkError::Refused {
        what: "--attach, --volume-type, --iops, --throughput, --volume-key, --initialization-rate and --until-hydrated".to_owned(),
        why: "they are for volumes".to_owned(),
        hint: "name a zone: --to zone:eu-west-1a".to_owned(),
    })
}

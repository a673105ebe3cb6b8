//! `lifeboat thaw`: what thawing a backup takes and costs, asking for it, and how far it is.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::arguments::OpenArgs;
use super::exit::ExitKind;
use super::print::{self, CommandFailure, print_output, print_status, table};
use super::run::{CommandContext, find_backup};
use crate::domain::human_duration::{format_bytes, format_duration};
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::manifest::Manifest;
use crate::domain::selector::BackupSelector;
use crate::domain::thaw::RetrievalTier;
use crate::work::thaw::{self, BYTES_PER_SECOND_ASSUMED, ThawOptions, ThawPlan};
use crate::work::{WorkContext, WorkError, shelf};

/// What `thaw` takes.
#[derive(Debug, Args)]
pub struct ThawArguments {
    /// A backup, or a datastore: its newest backup.
    #[arg(required = true, value_name = "BACKUP|DATASTORE")]
    pub what: Option<String>,
    /// How fast: expedited, standard or bulk; the cheapest that keeps the RTO if left out.
    #[arg(long, value_name = "TIER")]
    pub tier: Option<RetrievalTier>,
    /// For how many days the copies are kept.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=365))]
    pub days: Option<u32>,
    /// Ask for it.
    #[arg(long)]
    pub confirm: bool,
    #[command(subcommand)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub verb: Option<ThawVerb>,
}

/// What can be done with retrievals under way.
#[derive(Debug, Subcommand)]
pub enum ThawVerb {
    /// Show what is thawed or on its way, in the whole vault.
    #[command(after_help = "Example:\n  lifeboat thaw list")]
    List,
    /// Wait until a backup can be read. Asks for nothing.
    #[command(
        after_help = "Example:\n  lifeboat thaw wait 20261122T031500Z-K3XQ7A && lifeboat restore chat --to service=spare --yes"
    )]
    Wait {
        /// The backup, or a datastore: its newest backup.
        what: String,
    },
    /// Go on with a thaw that was interrupted: ask for what is still frozen, and wait.
    #[command(after_help = "Example:\n  lifeboat thaw resume 20261122T031500Z-K3XQ7A")]
    Resume {
        /// The backup, or a datastore: its newest backup.
        what: String,
    },
}

pub(super) async fn run(
    start: &CommandContext,
    arguments: ThawArguments,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    match (arguments.verb, arguments.what) {
        (Some(ThawVerb::List), _) => list(start, &rig).await,
        (Some(ThawVerb::Wait { what }), _) => {
            let manifest = find(&rig, &what).await?;
            told(&manifest, thaw::wait(&rig, &manifest).await)
        }
        (Some(ThawVerb::Resume { what }), _) => {
            let manifest = find(&rig, &what).await?;
            bring(&rig, &manifest, &hurry(&rig, &manifest, None, None)).await
        }
        (None, Some(what)) => {
            let manifest = find(&rig, &what).await?;
            let hurry = hurry(&rig, &manifest, arguments.tier, arguments.days);
            ask(start, &rig, &manifest, &hurry, arguments.confirm).await
        }
        (None, None) => Err(WorkError::Bug("clap let nothing through".to_owned()).into()),
    }
}

/// A backup by its id, or the newest of a datastore.
async fn find(rig: &WorkContext, what: &str) -> Result<Manifest, WorkError> {
    if what.parse::<BackupId>().is_ok() {
        return Ok(find_backup(rig, what).await?.manifest);
    }
    let datastore: DatastoreName = super::run::datastore_name(what)?;
    Ok(shelf::select(rig, &datastore, &BackupSelector::Latest, &mut Vec::new()).await?.manifest)
}

#[allow(clippy::cast_precision_loss, reason = "seconds")]
fn hurry(
    rig: &WorkContext,
    manifest: &Manifest,
    tier: Option<RetrievalTier>,
    days: Option<u32>,
) -> ThawOptions {
    let allowed = rig
        .config
        .datastores
        .get(&manifest.datastore)
        .map_or(Duration::from_secs(4 * 3_600), |settings| settings.rto.duration());
    let load = Duration::from_secs_f64(manifest.plain_bytes() as f64 / BYTES_PER_SECOND_ASSUMED);
    ThawOptions { tier, days, allowed: allowed.saturating_sub(load), load }
}

async fn ask(
    start: &CommandContext,
    rig: &WorkContext,
    manifest: &Manifest,
    hurry: &ThawOptions,
    confirm: bool,
) -> Result<ExitKind, CommandFailure> {
    let frost = thaw::inspect_archive(rig, manifest).await?;
    let Some(plan) = ThawPlan::of(&frost, hurry, Timestamp::now())? else {
        // Readable copies stay longer only if somebody says for how long.
        if let Some(until) = frost.until().filter(|_| hurry.days.is_some() && confirm) {
            let until = thaw::prolong(rig, manifest, hurry).await?.unwrap_or(until);
            print_output(&format!("backup {} can be read until {until}", manifest.backup));
            return Ok(ExitKind::Done);
        }
        match frost.until() {
            Some(until) => {
                print_output(&format!("backup {} can be read, until {until}", manifest.backup))
            }
            None => print_output(&format!(
                "backup {} can be read at once: it is in no archive class",
                manifest.backup
            )),
        }
        return Ok(ExitKind::Done);
    };
    if start.json {
        print::json(&plan);
    } else {
        print_output(&describe(&plan, manifest));
    }
    if !confirm {
        print_status("\nnothing was asked for; --confirm asks for it");
        return Ok(ExitKind::Done);
    }
    thaw::begin(rig, manifest, hurry).await?;
    print_status(&format!(
        "\nasked for; `lifeboat thaw wait {}` waits for it, and so does a restore",
        manifest.backup
    ));
    Ok(ExitKind::Done)
}

async fn bring(
    rig: &WorkContext,
    manifest: &Manifest,
    hurry: &ThawOptions,
) -> Result<ExitKind, CommandFailure> {
    told(manifest, thaw::thaw_and_wait(rig, manifest, hurry).await)
}

fn told(
    manifest: &Manifest,
    until: Result<Option<Timestamp>, WorkError>,
) -> Result<ExitKind, CommandFailure> {
    let state = "what was asked for goes on in the store; the same command waits on for it";
    match until {
        Ok(Some(until)) => {
            print_output(&format!("backup {} can be read until {until}", manifest.backup))
        }
        Ok(None) => print_output(&format!("backup {} can be read", manifest.backup)),
        Err(error) => {
            return Err(CommandFailure { error: Box::new(error), state: Some(state.to_owned()) });
        }
    }
    Ok(ExitKind::Done)
}

fn describe(plan: &ThawPlan, manifest: &Manifest) -> String {
    let mut lines = vec![format!(
        "backup {} of {}: {} objects, {} in {}",
        manifest.backup,
        manifest.datastore,
        plan.objects,
        format_bytes(plan.bytes),
        thaw::name(plan.class)
    )];
    if plan.under_way > 0 {
        lines.push(format!("  {} of them were asked for already", plan.under_way));
    }
    for offer in &plan.offers {
        let mark = if offer.tier == plan.tier { '*' } else { ' ' };
        let within = format_duration(Duration::from_secs(offer.seconds));
        lines.push(format!(
            "  {mark} {:<9} within {within:<12} about ${:.2}",
            offer.tier.name(),
            offer.dollars
        ));
    }
    lines.extend(match (plan.in_time, plan.in_time_would_be) {
        (true, _) => None,
        (false, Some(other)) => {
            Some(format!("  {} does not keep the RTO, {other} would", plan.tier))
        }
        (false, None) => Some("  no tier keeps the RTO".to_owned()),
    });
    lines.push(format!(
        "  copies stay for {} days; prices are list prices, for an estimate",
        plan.days
    ));
    lines.join("\n")
}

async fn list(start: &CommandContext, rig: &WorkContext) -> Result<ExitKind, CommandFailure> {
    let rows = thaw::list(rig).await?;
    if start.json {
        print::json(&rows);
    } else if rows.is_empty() {
        print_status("nothing is thawed or on its way");
    } else {
        let minute = |time: Option<Timestamp>| {
            time.map_or("-".to_owned(), |time| time.strftime("%Y-%m-%d %H:%MZ").to_string())
        };
        let row = |row: &thaw::ThawRow| {
            let tier = row.tier.map_or("-", RetrievalTier::name).to_owned();
            let counts = [row.ready, row.under_way, row.frozen].map(|count| count.to_string());
            [row.datastore.to_string(), row.backup.to_string()]
                .into_iter()
                .chain(counts)
                .chain([tier, minute(row.expected), minute(row.until)])
                .collect()
        };
        let header = [
            "DATASTORE",
            "BACKUP",
            "READY",
            "UNDER WAY",
            "FROZEN",
            "TIER",
            "EXPECTED BY",
            "READABLE UNTIL",
        ];
        print_output(&table(&header, rows.iter().map(row).collect()));
    }
    Ok(ExitKind::Done)
}

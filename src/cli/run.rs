//! One function per command: arguments in, a call into `work`, output.

use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::arguments::{Arguments, CatalogVerb, CliCommand, OpenArgs, PolicyVerb};
use super::exit::{self, ExitKind};
use super::print::{self, CommandFailure, print_output, print_status, table};
use super::{drill, evidence, sets, unattended};
use crate::config::Config;
use crate::domain::human_duration::{HumanDuration, format_bytes, format_duration};
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::manifest::Manifest;
use crate::progress::ProgressReporter;
use crate::rig::{self, CommandLineKeys};
use crate::work::check::SetupAnswer as Found;
use crate::work::shelf::{BackupEntry, LoadedManifest};
use crate::work::{
    WorkContext, WorkError, back_up, check, copy, init, policy, rebuild, runbook, shelf, sweep,
    verify,
};

pub(super) const UNVERIFIED: &str = "UNVERIFIED: no signing key is pinned, so nobody can tell who wrote this backup; pin one with trust = [\"…\"] in lifeboat.toml or --trust-key";

/// Everything a verb needs to begin.
pub(super) struct CommandContext {
    pub(super) config: std::path::PathBuf,
    pub(super) json: bool,
    pub(super) progress: ProgressReporter,
    pub(super) cancel: CancellationToken,
}

impl CommandContext {
    pub(super) async fn rig(&self, opening: &OpenArgs) -> Result<WorkContext, CommandFailure> {
        let vault = opening.vault.as_deref();
        let config = match vault {
            None => Config::load(&self.config).map_err(WorkError::from)?,
            Some(vault) => super::vault_override::config(&self.config, vault)?,
        };
        let extras = CommandLineKeys {
            identities: opening.identity.clone(),
            trust: opening.trust_key.clone(),
            ..CommandLineKeys::default()
        };
        let rig = rig::assemble(config, extras, self.progress.clone(), self.cancel.clone()).await?;
        Ok(WorkContext { is_elsewhere: vault.is_some(), ..rig })
    }
}

/// Runs the verb.
///
/// # Errors
/// [`CommandFailure`], which the caller prints and maps to an exit code.
pub async fn run(
    arguments: Arguments,
    progress: ProgressReporter,
    cancel: CancellationToken,
) -> Result<ExitKind, CommandFailure> {
    let start = CommandContext { config: arguments.config, json: arguments.json, progress, cancel };
    match arguments.verb {
        CliCommand::Init { directory, vault, recovery_recipient, new_recovery_key } => {
            run_init(
                &start,
                init::NewSetup { directory, vault, recovery_recipient, new_recovery_key },
            )
            .await
        }
        CliCommand::Check => run_check(&start).await,
        CliCommand::Backup { datastores, another_cluster } => {
            run_backup(&start, &datastores, another_cluster).await
        }
        CliCommand::List { datastore, opening } => {
            run_list(&start, datastore.as_deref(), &opening).await
        }
        CliCommand::Show { backup, opening } => run_show(&start, &backup, &opening).await,
        CliCommand::Verify { backup, sample, opening, .. } => {
            run_verify(&start, backup.as_deref(), sample, &opening).await
        }
        CliCommand::Restore(arguments) => super::restore::run(&start, *arguments).await,
        CliCommand::Copy { vault, datastore } => {
            run_copy(&start, &vault, datastore.as_deref()).await
        }
        CliCommand::Runbook { datastore } => run_runbook(&start, &datastore).await,
        CliCommand::RecoveryKey(verb) => super::recovery::run(&start, verb).await,
        CliCommand::Rekey(arguments) => super::rekey::run(&start, arguments).await,
        CliCommand::Thaw(arguments) => super::thaw::run(&start, arguments).await,
        CliCommand::Sweep { older_than, confirm } => run_sweep(&start, older_than, confirm).await,
        CliCommand::Serve => unattended::serve(&start).await,
        CliCommand::Next { within } => unattended::next(&start, within).await,
        CliCommand::Status => unattended::status(&start).await,
        CliCommand::Prune { datastore, confirm } => {
            unattended::prune(&start, datastore.as_deref(), confirm).await
        }
        CliCommand::Hold { backup, reason } => {
            unattended::hold(&start, &backup, Some(&reason)).await
        }
        CliCommand::Release { backup } => unattended::hold(&start, &backup, None).await,
        CliCommand::Policy(PolicyVerb::Lifecycle) => unattended::lifecycle(&start),
        CliCommand::Policy(verb) => run_policy(&start, verb).await,
        CliCommand::Agent { order } => super::agent::run(&start, &order).await,
        CliCommand::Drill(arguments) => drill::run(&start, *arguments).await,
        CliCommand::Evidence(verb) => evidence::run(&start, verb).await,
        CliCommand::Catalog(CatalogVerb::Rebuild { opening }) => {
            run_rebuild(&start, &opening).await
        }
        CliCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "lifeboat", &mut script);
            print_output(String::from_utf8_lossy(&script).trim_end());
            Ok(ExitKind::Done)
        }
        CliCommand::Man { directory } => run_man(&directory),
    }
}

pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
    what: &str,
    hint: &str,
) -> Result<T, WorkError> {
    text.parse().map_err(|error: T::Err| WorkError::Refused {
        what: what.to_owned(),
        why: error.to_string(),
        hint: hint.to_owned(),
    })
}

pub(super) fn datastore_name(text: &str) -> Result<DatastoreName, WorkError> {
    parse(text, "datastore", "datastores are named in lifeboat.toml, [datastores.NAME]")
}

pub(super) fn backup_id(text: &str) -> Result<BackupId, WorkError> {
    parse(text, "backup", "`lifeboat list` shows the ids of all backups")
}

async fn run_init(
    start: &CommandContext,
    setup: init::NewSetup,
) -> Result<ExitKind, CommandFailure> {
    let file = setup.directory.join(crate::config::FILE_NAME);
    if file.exists()
        && let Some(exit) = finish_init(&file, &setup).await?
    {
        return Ok(exit);
    }
    let report = init::write_files(&setup)?;
    let config = Config::load(&file).map_err(WorkError::from)?;
    let vault = rig::vault(&config).await?;
    let created = init::create_vault(vault.as_ref(), &report.vault).await;
    if start.json {
        print::json(&report);
    } else {
        for file in &report.files {
            print_output(&format!("wrote {}", file.display()));
        }
    }
    match created {
        Ok(()) => print_status(&format!("made vault {} ({})", vault.address(), report.vault)),
        Err(error) => {
            let state = match &error {
                WorkError::Refused { .. } => "the files above were written, the vault was not made",
                _ => {
                    "the files above were written; when the cause is mended, the same command goes on"
                }
            };
            return Err(CommandFailure { error: Box::new(error), state: Some(state.to_owned()) });
        }
    }
    print_status("\nnext:");
    match (&setup.new_recovery_key, &report.recovery_recipient) {
        (Some(path), _) => print_status(&format!(
            "  - move {} offline now: it opens every backup, and nothing on this host needs it",
            path.display()
        )),
        (None, None) => print_status(
            "  - add a recovery key ([keys.recovery]): with the local key alone, losing this host loses every backup",
        ),
        _ => {}
    }
    print_status("  - write the signing key's public half on your recovery card:");
    print_status(&format!("      {}", report.trust));
    print_status(&format!("  - name a datastore in {}, then run `lifeboat check`", file.display()));
    Ok(ExitKind::Done)
}

/// Makes the vault of a set-up whose files are there: the store was away when they were written.
/// `None` if there is nothing to go on with.
async fn finish_init(
    file: &std::path::Path,
    setup: &init::NewSetup,
) -> Result<Option<ExitKind>, CommandFailure> {
    let config = Config::load(file).map_err(WorkError::from)?;
    let vault = rig::vault(&config).await?;
    let asked = setup
        .vault
        .as_ref()
        .is_none_or(|asked| vault.address().contains(asked.trim_end_matches('/')));
    let Some(id) = config.vault_id.filter(|_| asked) else { return Ok(None) };
    if vault.find(&crate::domain::layout::vault_header()).await.map_err(WorkError::from)?.is_some()
    {
        return Ok(None);
    }
    init::create_vault(vault.as_ref(), &id).await?;
    print_status(&format!(
        "made vault {} ({id}); configuration and keys were there already and are as they were",
        vault.address()
    ));
    Ok(Some(ExitKind::Done))
}

async fn run_check(start: &CommandContext) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    let lines = check::check(&rig).await?;
    if start.json {
        print::json(&lines);
    } else {
        let mark = |answer| match answer {
            Found::Good => "ok",
            Found::Note => "note",
            Found::Bad => "BAD",
            Found::CouldNotLook => "could not look",
        };
        let rows = lines
            .iter()
            .map(|l| {
                vec![
                    l.subject.clone(),
                    l.question.clone(),
                    mark(l.answer).to_owned(),
                    l.detail.clone(),
                ]
            })
            .collect();
        print_output(&table(&["WHAT", "QUESTION", "ANSWER", "DETAIL"], rows));
    }
    match check::worst_class(&lines) {
        Some(trouble) => {
            print_status("\nsomething is not as it must be; see the lines marked BAD");
            Ok(exit::of(trouble))
        }
        None if lines.iter().any(|l| l.answer == Found::CouldNotLook) => Ok(ExitKind::NotVerified),
        None => Ok(ExitKind::Done),
    }
}

async fn run_backup(
    start: &CommandContext,
    names: &[String],
    another_cluster: bool,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    let names =
        names.iter().map(|name| datastore_name(name)).collect::<Result<BTreeSet<_>, _>>()?;
    let mut reports = Vec::new();
    let mut first_failure: Option<CommandFailure> = None;
    for name in &names {
        match back_up::back_up(&rig, name, another_cluster).await {
            Ok(report) => {
                if !start.json {
                    print_output(&describe_backup(&report));
                }
                reports.push(report);
            }
            // One datastore's trouble is no reason to leave the others without a backup.
            Err(error) => {
                let failure = CommandFailure::from(error);
                if names.len() > 1 {
                    print::failure(&failure);
                }
                first_failure.get_or_insert(failure);
            }
        }
        if start.cancel.is_cancelled() {
            break;
        }
    }
    if start.json {
        print::json(&reports);
    }
    first_failure.map_or(Ok(ExitKind::Done), Err)
}

#[allow(clippy::cast_precision_loss, reason = "ratios and rates for people")]
fn describe_backup(report: &back_up::BackupReport) -> String {
    let Some(dump) = &report.dump else { return sets::describe_backup(report) };
    let ratio = report.plain_bytes as f64 / report.sealed_bytes.max(1) as f64;
    let rate = format_bytes((report.plain_bytes as f64 / dump.dump_seconds.max(0.001)) as u64);
    let omitted = dump
        .omitted
        .iter()
        .map(|omitted| format!("\n  NOT IN IT   {}: {}", omitted.what(), omitted.why()));
    let omitted = omitted.collect::<String>();
    format!(
        "backup {} of {}\n  protected  {} tables, {} rows, {} large objects\n  size       {} dumped, {} stored ({ratio:.1}:1)\n  time       {:.1} s ({rate}/s while dumping)\n  opens with {}\n  manifest   {}{omitted}",
        report.backup,
        report.datastore,
        dump.tables,
        dump.rows,
        dump.large_objects,
        format_bytes(report.plain_bytes),
        format_bytes(report.sealed_bytes),
        report.seconds,
        report.slots.join(", or "),
        report.manifest,
    )
}

fn age(time: Timestamp) -> String {
    let elapsed = Timestamp::now().duration_since(time);
    std::time::Duration::try_from(elapsed)
        .map_or_else(|_| "in the future".to_owned(), format_duration)
}

async fn run_list(
    start: &CommandContext,
    name: Option<&str>,
    opening: &OpenArgs,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(opening).await?;
    let name = name.map(datastore_name).transpose()?;
    let entries = shelf::list_entries(&rig, name.as_ref()).await?;
    if start.json {
        print::json(&entries.iter().map(entry_json).collect::<Vec<_>>());
    } else if !entries.is_empty() {
        let rows = entries.iter().map(entry_row).collect();
        print_output(&table(
            &[
                "DATASTORE",
                "BACKUP",
                "SNAPSHOT",
                "AGE",
                "SIZE",
                "STORED",
                "OPENS WITH",
                "SIGNATURE",
            ],
            rows,
        ));
    }
    shelf::odd_numbers(&rig, &entries)
        .await?
        .iter()
        .for_each(|line| print_status(&format!("warning: {line}")));
    let gone = tell_gone(&rig, name.as_ref()).await?;
    if entries.is_empty() && gone.is_none() && !start.json {
        print_status("there is no backup yet");
    }
    let refused = entries.iter().find_map(|e| e.manifest.as_ref().err());
    match refused {
        Some(error) => {
            print_status(&format!("not every manifest is believed: {error}"));
            Ok(exit::of(error.class()))
        }
        None => gone.map_or(Ok(ExitKind::Done), Err),
    }
}

/// Tells of backups that are gone. What is returned is how a verb ends that could do everything
/// else: there may be nothing left to do it with.
pub(super) async fn tell_gone(
    rig: &WorkContext,
    only: Option<&DatastoreName>,
) -> Result<Option<CommandFailure>, WorkError> {
    let gone = shelf::all_gone(rig, only).await?;
    gone.iter().for_each(|line| print_status(&format!("warning: {line}")));
    Ok((!gone.is_empty()).then(|| WorkError::Gone(gone).into()))
}

fn entry_json(entry: &BackupEntry) -> serde_json::Value {
    match &entry.manifest {
        Ok(LoadedManifest { manifest, verified }) => json!({
            "datastore": entry.datastore, "backup": entry.backup, "sequence": manifest.sequence,
            "snapshot": manifest.source.snapshot_time, "plain_bytes": manifest.plain_bytes(), "sealed_bytes": manifest.sealed_bytes(),
            "slots": manifest.slots.iter().map(|s| &s.name).collect::<Vec<_>>(), "signature": if *verified { "verified" } else { "unverified" },
        }),
        Err(error) => {
            json!({ "datastore": entry.datastore, "backup": entry.backup, "signature": "refused", "error": error.to_string() })
        }
    }
}

fn entry_row(entry: &BackupEntry) -> Vec<String> {
    let mut row = vec![entry.datastore.to_string(), entry.backup.to_string()];
    match &entry.manifest {
        Ok(LoadedManifest { manifest, verified }) => row.extend([
            manifest.source.snapshot_time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            age(manifest.source.snapshot_time),
            format_bytes(manifest.plain_bytes()),
            format_bytes(manifest.sealed_bytes()),
            manifest.slots.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
            if *verified { "verified" } else { "UNVERIFIED" }.to_owned(),
        ]),
        Err(error) => row.extend(
            ["-", "-", "-", "-", "-"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("REFUSED: {error}")]),
        ),
    }
    row
}

/// Finds a backup by its id alone.
pub(super) async fn find_backup(rig: &WorkContext, id: &str) -> Result<LoadedManifest, WorkError> {
    let id = backup_id(id)?;
    shelf::find_by_id(rig, &id).await
}

async fn run_show(
    start: &CommandContext,
    id: &str,
    opening: &OpenArgs,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(opening).await?;
    let LoadedManifest { manifest, verified } = find_backup(&rig, id).await?;
    if start.json {
        print::json(&json!({ "verified": verified, "manifest": manifest }));
    } else {
        print_output(&describe_manifest(&manifest, &rig.vault.address()));
    }
    if !verified {
        print_status(UNVERIFIED);
    }
    Ok(ExitKind::Done)
}

fn describe_manifest(m: &Manifest, address: &str) -> String {
    if let Some(set) = &m.set {
        return sets::describe_manifest(m, set, address);
    }
    let mut text = format!(
        "backup      {} of {}, number {}\nsnapshot    {} ({} ago)\nserver      PostgreSQL {}\nmade by     lifeboat {}, {}\nopens with  {}\nby hand     {address}/{}\n\n",
        m.backup,
        m.datastore,
        m.sequence,
        m.source.snapshot_time,
        age(m.source.snapshot_time),
        m.source.version(),
        m.tools.lifeboat,
        m.tools.pg_dump.as_deref().unwrap_or_default(),
        m.slots
            .iter()
            .map(|s| format!("{} ({})", s.name, s.kind))
            .collect::<Vec<_>>()
            .join(", or "),
        m.place().restore_guide(1),
    );
    let rows = m.payloads.iter().map(|p| {
        let objects = p.objects.iter().map(|o| o.key.to_string()).collect::<Vec<_>>().join("\n");
        vec![p.name.clone(), format_bytes(p.plain_bytes), format_bytes(p.sealed_bytes()), objects]
    });
    text.push_str(&table(&["PAYLOAD", "SIZE", "STORED", "OBJECTS"], rows.collect()));
    text
}

async fn run_verify(
    start: &CommandContext,
    id: Option<&str>,
    sample: Option<usize>,
    opening: &OpenArgs,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(opening).await?;
    let mut chosen: Vec<BackupEntry> = match id {
        Some(id) => {
            let believed = find_backup(&rig, id).await?;
            let (datastore, backup) =
                (believed.manifest.datastore.clone(), believed.manifest.backup.clone());
            vec![BackupEntry { datastore, backup, manifest: Ok(believed) }]
        }
        None => shelf::list_entries(&rig, None).await?,
    };
    if chosen.is_empty() {
        let none = WorkError::NoSuchBackup { datastore: None, wanted: "at all".to_owned() };
        return Err(tell_gone(&rig, None).await?.unwrap_or_else(|| none.into()));
    }
    let vault = shelf::vault_id(&rig).await?;
    let mut reports = Vec::new();
    let mut damaged = Vec::new();
    let mut gone = None;
    if id.is_none() {
        shelf::odd_numbers(&rig, &chosen)
            .await?
            .iter()
            .for_each(|line| print_status(&format!("warning: {line}")));
        gone = tell_gone(&rig, None).await?;
    }
    let mut first_failure: Option<CommandFailure> = None;
    if let Some(count) = sample {
        use rand::seq::SliceRandom;
        chosen.shuffle(&mut rand::rng());
        chosen.truncate(count);
    }
    for BackupEntry { datastore, backup, manifest } in chosen {
        let verified = match manifest {
            Ok(believed) => verify::verify(&rig, &believed.manifest, believed.verified).await,
            Err(error) => Err(error),
        };
        if verified.as_ref().is_err_and(WorkError::is_damage)
            && shelf::is_removed(&rig, &datastore, &backup).await
        {
            print_status(&format!("backup {backup} of {datastore} was removed while it was read"));
            continue;
        }
        verify::remember(&rig, &vault, &datastore, &backup, verified.as_ref().map(drop)).await;
        match verified {
            Ok(report) => {
                if !start.json {
                    print_output(&describe_verified(&report));
                }
                reports.push(serde_json::to_value(report).unwrap_or_default());
            }
            Err(error) => {
                let whole = if error.is_damage() { json!(false) } else { json!(null) };
                if error.is_damage() {
                    damaged.push(format!("{backup} of {datastore}"));
                }
                let failure = CommandFailure::from(error);
                reports.push(json!({ "datastore": datastore, "backup": backup, "whole": whole, "error": failure.error.in_one_line() }));
                if id.is_none() {
                    print_status(&format!("backup {backup} of {datastore}:"));
                    print::failure(&failure);
                }
                first_failure.get_or_insert(failure);
            }
        }
        if start.cancel.is_cancelled() {
            break;
        }
    }
    if start.json {
        print::json(&reports);
    }
    if !damaged.is_empty() && id.is_none() {
        print_status(&format!(
            "damaged: {}; lifeboat status tells of them until they are verified and whole, or gone",
            damaged.join(", ")
        ));
    }
    first_failure.or(gone).map_or(Ok(ExitKind::Done), Err)
}

fn describe_verified(report: &verify::VerifyReport) -> String {
    let compared = match (&report.comparison, &report.set) {
        (Some(comparison), _) => {
            format!("{} tables, {} rows with the fingerprint", comparison.tables, comparison.rows)
        }
        (None, Some(set)) => format!(
            "{} blocks of {} volumes with their hashes, read in {}",
            set.blocks, set.volumes, set.read_in
        ),
        (None, None) => "nothing".to_owned(),
    };
    let mut text = format!(
        "backup {} of {}: every byte is whole\n  read       {} stored, {} plain, opened with {}\n  compared   {compared}\n  signature  {}",
        report.backup,
        report.datastore,
        format_bytes(report.sealed_bytes),
        format_bytes(report.plain_bytes),
        report.opened_with,
        if report.signature_verified { "verified" } else { "UNVERIFIED" },
    );
    for not in &report.not_looked_at {
        text.push_str(&format!("\n  not looked at: {not}"));
    }
    text
}

async fn run_sweep(
    start: &CommandContext,
    older_than: HumanDuration,
    confirm: bool,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    let found = sweep::find_leftovers(&rig, older_than).await?;
    for busy in &found.leftovers.busy {
        print_status(&format!("{busy}: a run is under way, left alone"));
    }
    let leftovers = &found.leftovers;
    for run in &leftovers.unreported {
        print_status(&format!(
            "warning: drill run {run} died without a report; `lifeboat drill resume` or `drill abort` ends it"
        ));
    }
    for ((datastore, backup), lost) in &leftovers.lost {
        print_status(&format!(
            "warning: {datastore}: backup {backup} {lost}; nothing of it is touched"
        ));
    }
    for sweep::StraySnapshot { place, id, owner: (datastore, backup), .. } in &leftovers.foreign {
        print_status(&format!(
            "{id} in {place} carries the tags of backup {backup} of {datastore}, and another tool made it: it is left alone"
        ));
    }
    for (copy, why) in &leftovers.not_looked_at {
        print_status(&format!("warning: vault {copy} could not be looked at: {why}"));
    }
    if leftovers.perhaps_running > 0 {
        print_status(&format!(
            "{} uploads or backups that this host has not begun are left alone: something of them has changed within a day",
            leftovers.perhaps_running
        ));
    }
    let bytes = leftovers.in_vaults().map(|(_, found)| found.bytes()).sum::<u64>();
    let place =
        |copy: Option<&str>| copy.map(|name| format!(" in vault {name}")).unwrap_or_default();
    if start.json {
        print::json(&json!({
            "uploads": leftovers.home.uploads.iter().map(|u| &u.key).collect::<Vec<_>>(),
            "orphans": leftovers.home.orphans.values().flatten().map(ToString::to_string).collect::<Vec<_>>(),
            "copies": leftovers.copies.iter().map(|(name, found)| (name, json!({
                "uploads": found.uploads.iter().map(|u| &u.key).collect::<Vec<_>>(),
                "orphans": found.orphans.values().flatten().map(ToString::to_string).collect::<Vec<_>>(),
            }))).collect::<std::collections::BTreeMap<_, _>>(),
            "left_alone": leftovers.lost.iter().map(|((datastore, backup), lost)| json!({
                "datastore": datastore, "backup": backup, "why": lost.to_string(),
            })).collect::<Vec<_>>(),
            "probes": leftovers.probes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "claims": leftovers.claims.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "bytes": bytes,
            "sandboxes": leftovers.sandboxes,
            "scratch": leftovers.scratch.iter().map(|stray| json!({ "run": stray.run, "expires": stray.expires, "things": stray.things })).collect::<Vec<_>>(),
            "papers": leftovers.papers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "snapshots": leftovers.snapshots.iter().map(|stray| stray.id.to_string()).collect::<Vec<_>>(),
            "foreign_snapshots": leftovers.foreign.iter().map(|stray| stray.id.to_string()).collect::<Vec<_>>(),
            "frozen": leftovers.frozen,
            "drills_without_report": leftovers.unreported,
        }));
    } else {
        for (copy, found) in leftovers.in_vaults() {
            found.uploads.iter().for_each(|u| {
                print_output(&format!(
                    "unfinished upload{}, begun {}: {}",
                    place(copy),
                    u.begun,
                    u.key
                ))
            });
            let told = |orphan: &sweep::OrphanObject| {
                print_output(&format!(
                    "object of a backup that was never published{}: {orphan}",
                    place(copy)
                ))
            };
            found.orphans.values().flatten().for_each(told);
        }
        leftovers.probes.iter().for_each(|key| print_output(&format!("probe: {key}")));
        leftovers
            .claims
            .iter()
            .for_each(|key| print_output(&format!("claim that later ones have outdone: {key}")));
        let told = |stray: &sweep::StraySnapshot| {
            print_output(&format!(
                "snapshot without a backup: {} of {} in {}",
                stray.id, stray.owner.0, stray.place
            ))
        };
        leftovers.snapshots.iter().for_each(told);
        if leftovers.frozen > 0 {
            print_output("file systems that a dead run has left frozen");
        }
        leftovers
            .sandboxes
            .iter()
            .for_each(|run| print_output(&format!("sandbox of drill run {run}")));
        for stray in &leftovers.scratch {
            let expired =
                stray.expires.map(|time| format!(", to be gone by {time}")).unwrap_or_default();
            let things = if stray.things.is_empty() {
                "perhaps grants".to_owned()
            } else {
                stray.things.join(", ")
            };
            print_output(&format!("scratch VPC of drill run {}{expired}: {things}", stray.run));
        }
        leftovers
            .papers
            .iter()
            .for_each(|key| print_output(&format!("paper of a drill run that is over: {key}")));
    }
    if leftovers.is_empty() {
        print_status(&format!("nothing older than {older_than} was left behind"));
        return Ok(ExitKind::Done);
    }
    if !confirm {
        let count = leftovers.count();
        return Err(WorkError::Leftovers(format!(
            "{count} things were left behind ({}); none was removed",
            format_bytes(bytes)
        ))
        .into());
    }
    let removed = found.apply(&rig).await?;
    print_status(&format!("removed {removed} things"));
    Ok(ExitKind::Done)
}

async fn run_policy(start: &CommandContext, verb: PolicyVerb) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    print::json(&match verb {
        PolicyVerb::DrillRole => policy::drill_role(&rig).await?,
        PolicyVerb::InstanceRole => policy::instance_role(&rig)?,
        PolicyVerb::Guardrails => policy::guardrails(&rig)?,
        PolicyVerb::Lifecycle => return unattended::lifecycle(start),
    });
    Ok(ExitKind::Done)
}

async fn run_copy(
    start: &CommandContext,
    vault: &str,
    datastore: Option<&str>,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    let datastore = datastore.map(datastore_name).transpose()?;
    let state = "backups that were copied are whole there; the same command goes on with the rest";
    let copied = copy::copy(&rig, vault, datastore.as_ref()).await;
    let begun = |error: &WorkError| {
        (error.class() != crate::domain::ErrorClass::Usage).then(|| state.to_owned())
    };
    let report =
        copied.map_err(|error| CommandFailure { state: begun(&error), error: Box::new(error) })?;
    let gone = tell_gone(&rig, datastore.as_ref()).await?;
    match start.json {
        true => print::json(&report),
        false => print_output(&format!(
            "{} backups are new in vault {vault}, {} got new envelopes, {} were there already\n  sent       {} objects, {}, {} records of the evidence",
            report.backups,
            report.updated,
            report.unchanged,
            report.objects,
            format_bytes(report.bytes),
            report.records
        )),
    }
    match report.refused.is_empty() {
        true => gone.map_or(Ok(ExitKind::Done), Err),
        false => {
            Err(WorkError::NotAll { done: "backups were copied", refused: report.refused }.into())
        }
    }
}

async fn run_runbook(start: &CommandContext, datastore: &str) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    let name = datastore_name(datastore)?;
    print_output(&runbook::runbook(&rig, &name).await?);
    Ok(ExitKind::Done)
}

async fn run_rebuild(
    start: &CommandContext,
    opening: &OpenArgs,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(opening).await?;
    let forgotten = shelf::all_gone(&rig, None).await?;
    let (known, refused) = rebuild::rebuild(&rig).await?;
    forgotten
        .iter()
        .for_each(|line| print_status(&format!("forgotten by this host from now on: {line}")));
    if start.json {
        print::json(&json!({ "backups": known, "refused": refused }));
    } else {
        print_output(&format!("{known} backups are known from the vault"));
    }
    print_status(
        "not in the vault, and so not known again if it was lost: what ran when, what waited to be run, alarms and their messages",
    );
    match refused.is_empty() {
        true => Ok(ExitKind::Done),
        false => Err(WorkError::NotSigned {
            what: format!("not everything in the vault: {}", refused.join("; ")),
        }
        .into()),
    }
}

fn run_man(directory: &Path) -> Result<ExitKind, CommandFailure> {
    let fail = |source| WorkError::File {
        what: format!("writing manual pages to {}", directory.display()),
        source,
    };
    std::fs::create_dir_all(directory).map_err(fail)?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(fail)?;
    print_status(&format!("wrote manual pages to {}", directory.display()));
    Ok(ExitKind::Done)
}

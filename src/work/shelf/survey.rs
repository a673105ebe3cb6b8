//! Selecting the backup that is meant among all names in a vault, and detecting backups that are
//! gone.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    BackupEntry, BackupKeys, LoadedManifest, is_outage, load_manifest, load_manifests,
    no_such_datastore_or_backup, vault_id,
};
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::layout::{self, parse_manifest_key};
use crate::domain::manifest::Manifest;
use crate::domain::selector::{BackupSelector, gaps, superseded};
use crate::vault::ObjectFacts;
use crate::work::publish::without_catalog;
use crate::work::{WorkContext, WorkError, evidence};

/// Manifests that are read of the end of a long series, at first.
const WINDOW: usize = 64;
/// Manifests that are not believed after which it is no use to go on: somebody writes them, or the
/// pinned key is the wrong one.
const REFUSED_MAX: usize = 20_000;
/// Manifests that are not believed which are named one by one.
const REFUSED_SHOWN: usize = 16;
/// How far the clocks of hosts may be apart.
const CLOCKS_DIFFER: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// What a copy lacks of the backups that this host's catalog knows in its home.
pub(super) async fn behind(
    rig: &WorkContext,
    vault: &VaultId,
    datastore: &DatastoreName,
    listed: &[BackupId],
) -> Option<String> {
    if !rig.is_elsewhere {
        return None;
    }
    let known = known_here(rig, vault, datastore).await;
    let listed: BTreeSet<&BackupId> = listed.iter().collect();
    let missing: BTreeMap<u64, &BackupId> = known
        .iter()
        .filter(|(id, _)| !listed.contains(id))
        .map(|(id, number)| (*number, id))
        .collect();
    let (number, newest) = missing.last_key_value()?;
    Some(format!(
        "this vault has not all backups of {datastore} that this host knows: {} are missing, the newest of them {newest}, number {number}; \
         it is a copy that is behind, or somebody removed them from it",
        missing.len()
    ))
}

/// Whether a backup has been removed since it was listed.
pub async fn is_removed(rig: &WorkContext, datastore: &DatastoreName, backup: &BackupId) -> bool {
    matches!(rig.vault.find(&BackupKeys { datastore, backup }.manifest()).await, Ok(None))
}

/// The backup of an id, whatever it is of. A name says nothing: somebody may have put a manifest of
/// the same id under another datastore, so only one that is believed counts, and of two that are,
/// none.
///
/// # Errors
/// [`WorkError`] if there is none, or none that is believed, or more than one.
pub async fn find_by_id(rig: &WorkContext, id: &BackupId) -> Result<LoadedManifest, WorkError> {
    let vault = vault_id(rig).await?;
    let listed = rig.vault.list(layout::MANIFESTS).await?;
    let (mut believed, mut refused): (Vec<LoadedManifest>, Option<WorkError>) = (Vec::new(), None);
    for (datastore, backup) in listed
        .iter()
        .filter_map(|facts| parse_manifest_key(facts.key.as_str()))
        .filter(|(_, backup)| backup == id)
    {
        match load_manifest(rig, &vault, &BackupKeys { datastore: &datastore, backup: &backup })
            .await
        {
            Ok(found) => believed.push(found),
            Err(WorkError::Vault(error)) if is_outage(&error) => return Err(error.into()),
            Err(error) => drop(refused.get_or_insert(error)),
        }
    }
    match (believed.len(), believed.pop(), refused) {
        (1, Some(found), refused) => {
            if let Some(error) = refused {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "another manifest of this id is passed over"
                );
            }
            Ok(found)
        }
        (0, _, Some(error)) => Err(error),
        (0, ..) => {
            let gone =
                all_gone(rig, None).await?.into_iter().find(|line| line.contains(id.as_str()));
            Err(gone.map_or(
                WorkError::NoSuchBackup { datastore: None, wanted: id.to_string() },
                |line| WorkError::Gone(vec![line]),
            ))
        }
        (_, one, _) => {
            let names = believed
                .iter()
                .chain(&one)
                .map(|found| found.manifest.datastore.to_string())
                .collect::<Vec<_>>()
                .join(", ");
            Err(WorkError::Refused {
                what: format!("backup {id}"),
                why: format!(
                    "the datastores {names} have one of this id each, and no key is pinned that tells which is genuine"
                ),
                hint: "pin the signing key: trust = [\"…\"] in lifeboat.toml, or --trust-key"
                    .to_owned(),
            })
        }
    }
}

/// A backup that was there, and of whose removal no signed record tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoneBackup {
    /// The backup.
    pub backup: BackupId,
    /// Its number, where this host's catalog knows it.
    pub number: Option<u64>,
    /// Whether its manifest is there all the same, behind a delete marker.
    pub is_hidden: bool,
}

/// Backups of a datastore that this host's catalog knows and the vault does not have, and those
/// whose manifest stands behind a delete marker: somebody or something removed them, and no signed
/// record says who. `listed` is what the vault has.
///
/// # Errors
/// [`WorkError`] if the evidence cannot be read, which is asked only where something is missing.
pub async fn gone_backups(
    rig: &WorkContext,
    vault: &VaultId,
    datastore: &DatastoreName,
    listed: &[BackupId],
) -> Result<Vec<GoneBackup>, WorkError> {
    // A copy may be behind; of it this host remembers nothing.
    let known =
        if rig.is_elsewhere { Default::default() } else { known_here(rig, vault, datastore).await };
    let hidden = hidden(rig, datastore).await;
    let listed: BTreeSet<&BackupId> = listed.iter().collect();
    let missing: BTreeSet<&BackupId> =
        known.keys().chain(&hidden).filter(|backup| !listed.contains(backup)).collect();
    let mut gone = Vec::new();
    for backup in missing {
        // What was published since it was listed is there by now.
        if is_removed(rig, datastore, backup).await {
            gone.push(GoneBackup {
                backup: backup.clone(),
                number: known.get(backup).copied(),
                is_hidden: hidden.contains(backup),
            });
        }
    }
    if !gone.is_empty() {
        let removed = evidence::removed(rig, datastore).await?;
        gone.retain(|one| !removed.iter().any(|(removed, _)| *removed == one.backup));
    }
    gone.sort_by_key(|one| (one.number, one.backup.begun()));
    Ok(gone)
}

/// Backups whose manifest the vault has, and shows to nobody who does not ask for versions. A role
/// that may not ask is told nothing.
async fn hidden(rig: &WorkContext, datastore: &DatastoreName) -> BTreeSet<BackupId> {
    let versions =
        rig.vault.versions(&layout::manifests_of(datastore)).await.unwrap_or_else(|error| {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "whether manifests are hidden is not looked at"
            );
            None
        });
    let manifests =
        versions.into_iter().flatten().filter(|version| !version.is_marker && !version.is_current);
    manifests.filter_map(|version| Some(parse_manifest_key(version.key.as_str())?.1)).collect()
}

/// What [`gone_backups`] finds of every datastore that is in the vault or configured, or of one, as
/// it is told.
///
/// # Errors
/// As [`gone_backups`].
pub async fn all_gone(
    rig: &WorkContext,
    only: Option<&DatastoreName>,
) -> Result<Vec<String>, WorkError> {
    let vault = vault_id(rig).await?;
    let mut listed: BTreeMap<DatastoreName, Vec<BackupId>> =
        rig.config.datastores.keys().map(|name| (name.clone(), Vec::new())).collect();
    let prefix = only.map_or(layout::MANIFESTS.to_owned(), layout::manifests_of);
    for (datastore, backup) in rig
        .vault
        .list(&prefix)
        .await?
        .iter()
        .filter_map(|facts| parse_manifest_key(facts.key.as_str()))
    {
        listed.entry(datastore).or_default().push(backup);
    }
    let mut lines = Vec::new();
    for (name, listed) in listed.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        if let Some(line) = behind(rig, &vault, name, listed).await {
            tracing::warn!("{line}");
        }
        lines.extend(describe_gone(name, &gone_backups(rig, &vault, name, listed).await?));
    }
    Ok(lines)
}

/// What is odd about the numbers of each datastore's backups, as it is told: those that are
/// missing, and of whose removal no record tells, and those that two backups have. All entries of a
/// datastore must be there.
///
/// # Errors
/// [`WorkError`] if there is no vault.
pub async fn odd_numbers(
    rig: &WorkContext,
    entries: &[BackupEntry],
) -> Result<Vec<String>, WorkError> {
    let vault = vault_id(rig).await?;
    let mut datastores: BTreeMap<&DatastoreName, Vec<&BackupEntry>> = BTreeMap::new();
    for entry in entries {
        datastores.entry(&entry.datastore).or_default().push(entry);
    }
    let (mut lines, mut removed) = (Vec::new(), None);
    for (datastore, entries) in datastores {
        let manifests: Vec<&Manifest> = entries
            .iter()
            .filter_map(|entry| Some(&entry.manifest.as_ref().ok()?.manifest))
            .collect();
        lines.extend(same_numbers(&manifests).into_iter().map(|(number, one, other)| {
            format!("backups {one} and {other} of {datastore} both have number {number}: one of them was taken while others were hidden")
        }));
        let known = known_here(rig, &vault, datastore).await;
        // One that is there and not trusted has a number that nobody knows.
        let is_unknown =
            |entry: &&BackupEntry| entry.manifest.is_err() && !known.contains_key(&entry.backup);
        if entries.iter().any(is_unknown) {
            continue;
        }
        let numbers: Vec<u64> = manifests
            .iter()
            .map(|manifest| manifest.sequence)
            .chain(known.values().copied())
            .collect();
        if gaps(numbers.clone()).is_empty() {
            continue;
        }
        // Only now is the evidence asked what retention removed, and once for all.
        if removed.is_none() {
            removed = match evidence::series(rig).await {
                Ok(series) => Some(evidence::removed_in(&series)),
                Err(error) => {
                    lines.push(format!(
                        "whether numbers are missing could not be looked at: {}",
                        error.in_one_line()
                    ));
                    break;
                }
            };
        }
        let removed = removed.as_ref().and_then(|all| all.get(datastore));
        let gaps = unexplained_gaps(numbers, removed.map_or(&[], Vec::as_slice));
        lines.extend(gaps.into_iter().map(|gap| tell_gap(datastore, gap)));
    }
    Ok(lines)
}

/// Pairs of backups that have the same number, with it. Two answers to one tick are no pair:
/// readers take the one of the higher epoch.
#[must_use]
pub fn same_numbers(manifests: &[&Manifest]) -> Vec<(u64, BackupId, BackupId)> {
    let mut by_number: BTreeMap<u64, Vec<&Manifest>> = BTreeMap::new();
    for manifest in manifests.iter().filter(|manifest| !superseded(manifest, manifests)) {
        by_number.entry(manifest.sequence).or_default().push(manifest);
    }
    let pairs = by_number.into_iter().filter(|(_, same)| same.len() > 1);
    pairs.map(|(number, same)| (number, same[0].backup.clone(), same[1].backup.clone())).collect()
}

/// What this host's catalog knows of a datastore's backups: their numbers. One that cannot be asked
/// knows nothing.
pub async fn known_here(
    rig: &WorkContext,
    vault: &VaultId,
    datastore: &DatastoreName,
) -> BTreeMap<BackupId, u64> {
    match rig.catalog() {
        Some(catalog) => without_catalog(catalog.known(vault, datastore).await).unwrap_or_default(),
        None => Default::default(),
    }
}

/// Gaps between numbers that no removal explains, as ranges. What was removed below the lowest
/// number that is there leaves no gap.
fn unexplained_gaps(mut numbers: Vec<u64>, removed: &[(BackupId, u64)]) -> Vec<(u64, u64)> {
    let lowest = numbers.iter().min().copied().unwrap_or_default();
    numbers.extend(removed.iter().map(|(_, number)| *number).filter(|number| *number > lowest));
    gaps(numbers)
}

fn tell_gap(datastore: &DatastoreName, (first, last): (u64, u64)) -> String {
    match first == last {
        true => format!(
            "backup number {first} of {datastore} is missing from the vault, and no record says that it was removed"
        ),
        false => {
            format!(
                "backups number {first} to {last} of {datastore} are missing from the vault, and no record says that they were removed"
            )
        }
    }
}

/// The same, as it is told.
#[must_use]
pub fn describe_gone(datastore: &DatastoreName, gone: &[GoneBackup]) -> Vec<String> {
    let line = |GoneBackup { backup, number, is_hidden }: &GoneBackup| {
        let number = number.map(|number| format!(", number {number},")).unwrap_or_default();
        match is_hidden {
            true => format!(
                "the manifest of backup {backup} of {datastore}{number} stands behind a delete marker, and no record says that it was removed; \
                 removing the marker brings the backup back"
            ),
            false => format!(
                "backup {backup} of {datastore}{number} is known here and gone from the vault, and no record says that it was removed"
            ),
        }
    };
    gone.iter().map(line).collect()
}

/// A backup that was picked, and what was seen on the way to it.
#[derive(Debug)]
pub struct SelectedBackup {
    /// The backup.
    pub believed: LoadedManifest,
    /// Other backups that were looked at and are believed, newest first.
    pub others: Vec<LoadedManifest>,
    /// Backups that were looked at and are not believed, newest first, and why.
    pub refused: Vec<(BackupId, WorkError)>,
    /// What whoever restores must know: backups that are passed over, numbers that are missing.
    pub warnings: Vec<String>,
    /// All backups of the datastore that stand in the vault, believed or not.
    pub count: usize,
    /// When the oldest of them was begun, as its name says.
    pub oldest: Timestamp,
}

/// Picks the backup that is asked for, telling of manifests that were passed over and of gaps.
///
/// # Errors
/// As [`select_with_context`].
pub async fn select(
    rig: &WorkContext,
    datastore: &DatastoreName,
    which: &BackupSelector,
    warnings: &mut Vec<String>,
) -> Result<LoadedManifest, WorkError> {
    if let BackupSelector::Exactly(backup) = which {
        let vault = vault_id(rig).await?;
        return load_manifest(rig, &vault, &BackupKeys { datastore, backup }).await;
    }
    let picked = select_with_context(rig, datastore, which).await?;
    warnings.extend(picked.warnings);
    Ok(picked.believed)
}

/// Picks the backup that is asked for and looks at those around it. Of thousands of backups only
/// the newest that may be meant are read: 64 at a time, until one of them fits.
///
/// Anybody who may write can put names there. So those that this host's catalog knows are looked at
/// by themselves, and so are those from the future: no number of forged names stands before a
/// backup that is known. Which of those that are believed is the newest, their numbers say.
///
/// # Errors
/// [`WorkError`] if there is none, or if the one asked for by id is not believed.
pub async fn select_with_context(
    rig: &WorkContext,
    datastore: &DatastoreName,
    which: &BackupSelector,
) -> Result<SelectedBackup, WorkError> {
    let vault = vault_id(rig).await?;
    let listed = rig.vault.list(&layout::manifests_of(datastore)).await?;
    let mut names: Vec<BackupId> =
        listed.iter().filter_map(|facts| Some(parse_manifest_key(facts.key.as_str())?.1)).collect();
    names.sort_by_key(BackupId::begun);
    let lacking = behind(rig, &vault, datastore, &names).await;
    let lost = gone_backups(rig, &vault, datastore, &names).await?;
    let Some(oldest) = names.first().map(BackupId::begun) else {
        return Err(no_such_datastore_or_backup(rig, datastore).await?);
    };
    let (count, all) =
        (names.len(), matches!(which, BackupSelector::Oldest | BackupSelector::Random { .. }));
    let newer = match which {
        // A snapshot is not older than the beginning of its run, by one clock; hosts' clocks differ
        // a little.
        BackupSelector::At(time) => {
            names.split_off(names.partition_point(|backup| backup.begun() <= *time + CLOCKS_DIFFER))
        }
        _ => Vec::new(),
    };
    let (mut believed, mut refused): (Vec<LoadedManifest>, Vec<(BackupId, WorkError)>) =
        (Vec::new(), Vec::new());
    if let BackupSelector::Exactly(backup) = which {
        // It, and the newest, which are shown beside it.
        let from = names.len().saturating_sub(WINDOW);
        names = names
            .iter()
            .enumerate()
            .filter(|(at, name)| *at >= from || *name == backup)
            .map(|(_, name)| name.clone())
            .collect();
    }
    let NameGroups { groups, unsigned, mut numbers } =
        NameGroups::of(rig, &vault, datastore, names, &listed).await;
    // Below this number not all were looked at, so nothing can be said of gaps.
    let mut from_number = 0;
    let fits = |manifests: &[LoadedManifest]| {
        which.pick(manifests.iter().map(|b| &b.manifest)).map(|m| m.backup.clone())
    };
    for (group, mut names) in groups.into_iter().enumerate() {
        let (from, refused_before) = (believed.len(), refused.len());
        let all = all || matches!(which, BackupSelector::Exactly(_));
        while fits(&believed[from..]).is_none()
            && refused.len() - refused_before < REFUSED_MAX
            && !names.is_empty()
        {
            let window = names.split_off(if all { 0 } else { names.len().saturating_sub(WINDOW) });
            for (backup, read) in load_manifests(rig, &vault, datastore, window).await? {
                match read {
                    Ok(manifest) => believed.push(manifest),
                    Err(error) => refused.push((backup, error)),
                }
            }
        }
        let lowest = believed[from..].iter().map(|b| b.manifest.sequence).min();
        if group == UNKNOWN && !names.is_empty() {
            from_number = lowest.unwrap_or(u64::MAX);
        }
    }
    let many = refused.len() >= REFUSED_MAX;
    refused.extend(unsigned);
    let picked = fits(&believed);
    if let BackupSelector::Exactly(backup) = which
        && let Some(at) = refused.iter().position(|(refused, _)| refused == backup)
    {
        return Err(refused.swap_remove(at).1);
    }
    refused.sort_by_key(|(backup, _)| std::cmp::Reverse(backup.begun()));
    let mut warnings = describe_gone(datastore, &lost);
    warnings.extend(lacking);
    warnings.extend(
        refused
            .iter()
            .take(REFUSED_SHOWN)
            .map(|(backup, error)| format!("backup {backup} is passed over: {error}")),
    );
    if let Some(more @ 1..) = refused.len().checked_sub(REFUSED_SHOWN) {
        warnings.push(format!("{more} more names are passed over as well: somebody writes them; `lifeboat list {datastore}` shows all"));
    }
    let now = Timestamp::now() + CLOCKS_DIFFER;
    for future in believed.iter().filter(|b| b.manifest.source.snapshot_time > now) {
        let Manifest { backup, source, sequence, .. } = &future.manifest;
        warnings.push(format!(
            "backup {backup}, number {sequence}, says that it is of {}, which lies in the future: a clock was wrong; its number says where it belongs",
            source.snapshot_time
        ));
    }
    numbers.extend(believed.iter().map(|b| b.manifest.sequence));
    numbers.extend(lost.iter().filter_map(|one| one.number));
    numbers.retain(|number| *number >= from_number);
    let mut gaps = gaps(numbers.clone());
    if !gaps.is_empty() {
        // Only now is the evidence asked what retention removed.
        gaps = unexplained_gaps(numbers, &evidence::removed(rig, datastore).await?);
    }
    warnings.extend(
        gaps.into_iter()
            .filter(|(first, _)| *first >= from_number)
            .map(|gap| tell_gap(datastore, gap)),
    );
    let wanted = match which {
        BackupSelector::At(time) => format!("at or before {time} ({} are newer)", newer.len()),
        BackupSelector::Random { since, .. } => format!("at or after {since}"),
        BackupSelector::Exactly(backup) => backup.to_string(),
        BackupSelector::Latest | BackupSelector::Oldest if many => {
            format!(
                "among {REFUSED_MAX} names that are not believed: somebody writes them. Name the backup with --backup; a catalog or an old `lifeboat list` has its id"
            )
        }
        BackupSelector::Latest | BackupSelector::Oldest => "that can be believed".to_owned(),
    };
    let at = picked.and_then(|id| believed.iter().position(|b| b.manifest.backup == id));
    let Some(at) = at else {
        // Where not one is believed, the pinned key is the wrong one, or all are damaged: that is
        // what must be said.
        return Err(
            match (believed.is_empty() && !many).then(|| refused.into_iter().next()).flatten() {
                Some((_, error)) => error,
                None => WorkError::NoSuchBackup { datastore: Some(datastore.to_string()), wanted },
            },
        );
    };
    let chosen = believed.swap_remove(at);
    believed.sort_by_key(|b| std::cmp::Reverse(b.manifest.sequence));
    Ok(SelectedBackup { believed: chosen, others: believed, refused, warnings, count, oldest })
}

/// What was found of the newest names of a datastore.
pub struct NewestBackups {
    /// The newest that is believed of those that this host's catalog knows, of others, and of
    /// those from the future.
    pub believed: Vec<LoadedManifest>,
    /// Names that were passed over for it.
    pub refused: usize,
}

/// Looks for the newest backup of each group of names, reading as few as it can and no more than
/// `tried_max` of each.
///
/// # Errors
/// [`WorkError`] if the vault does not answer.
pub async fn newest_of_each(
    rig: &WorkContext,
    vault: &VaultId,
    datastore: &DatastoreName,
    names: Vec<BackupId>,
    listed: &[ObjectFacts],
    tried_max: usize,
) -> Result<NewestBackups, WorkError> {
    let NameGroups { groups, unsigned, .. } =
        NameGroups::of(rig, vault, datastore, names, listed).await;
    let mut found = NewestBackups { believed: Vec::new(), refused: unsigned.len() };
    for mut names in groups {
        for _ in 0..tried_max {
            let Some(backup) = names.pop() else { break };
            match load_manifest(rig, vault, &BackupKeys { datastore, backup: &backup }).await {
                Ok(believed) => {
                    found.believed.push(believed);
                    break;
                }
                Err(WorkError::Vault(error)) if is_outage(&error) => return Err(error.into()),
                // Removed since it was listed.
                Err(WorkError::NoSuchBackup { .. }) => {}
                Err(_) => found.refused += 1,
            }
        }
    }
    Ok(found)
}

/// Names that this host's catalog does not know, and that are not from the future.
const UNKNOWN: usize = 1;

/// The names of a datastore as they are looked at.
struct NameGroups {
    /// Those that this host's catalog knows, by their numbers; others; those that say that they
    /// are from the future. Of each the newest is last.
    groups: [Vec<BackupId>; 3],
    /// Names without a signature need not be read to be refused.
    unsigned: Vec<(BackupId, WorkError)>,
    /// Numbers of those that the catalog knows.
    numbers: Vec<u64>,
}

impl NameGroups {
    async fn of(
        rig: &WorkContext,
        vault: &VaultId,
        datastore: &DatastoreName,
        names: Vec<BackupId>,
        listed: &[ObjectFacts],
    ) -> Self {
        let keys: BTreeSet<&str> = listed.iter().map(|facts| facts.key.as_str()).collect();
        let known = known_here(rig, vault, datastore).await;
        let soon = Timestamp::now() + CLOCKS_DIFFER;
        let mut sorted = Self {
            groups: [Vec::new(), Vec::new(), Vec::new()],
            unsigned: Vec::new(),
            numbers: Vec::new(),
        };
        for backup in names {
            let key = BackupKeys { datastore, backup: &backup }.manifest();
            if !rig.trusted.is_empty() && !keys.contains(key.signature().as_str()) {
                sorted
                    .unsigned
                    .push((backup, WorkError::NotSigned { what: format!("the manifest {key}") }));
                continue;
            }
            let is_known =
                known.get(&backup).inspect(|number| sorted.numbers.push(**number)).is_some();
            let group = match (backup.begun() > soon, is_known) {
                (true, _) => 2,
                (false, true) => 0,
                (false, false) => UNKNOWN,
            };
            sorted.groups[group].push(backup);
        }
        sorted.groups[0].sort_by_key(|backup| known.get(backup).copied());
        sorted.groups[2].sort_by_key(|backup| (known.get(backup).copied(), backup.begun()));
        sorted
    }
}

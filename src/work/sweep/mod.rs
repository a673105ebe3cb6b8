//! Garbage collection: unfinished uploads, and objects of backups that were never published.
//!
//! A sweep is shown first and acts only when confirmed. It touches nothing younger than an age,
//! nothing of a datastore whose lock is held by a run on this host, and nothing that may ever have
//! been a backup (`orphans` says how that is known).

mod orphans;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

pub use self::orphans::{BackupOwner, LostReason, OrphanObject};
use self::orphans::{KnowledgeCache, SILENCE, StoredObjects, UnpublishedFate};
use super::fence::{self, HeldDatastore};
use super::publish::without_catalog;
use super::scratch::{self, StrayRun};
pub use super::snapshot::stray::StraySnapshot;
use super::snapshot::{self, stray};
use super::{HostLock, WorkContext, WorkError, drill};
use crate::domain::human_duration::HumanDuration;
use crate::domain::id::{DatastoreName, VaultId};
use crate::domain::layout::{self, ObjectKey, parse_backup_key};
use crate::sandbox::local;
use crate::vault::{UnfinishedUpload, Vault, VaultError};
use crate::volumes::watchdog;

/// Claims of epochs that are kept of each datastore.
const CLAIMS_KEPT: usize = 10;

/// Things that cannot be removed which are named one by one.
const HELD_SHOWN: usize = 8;

/// What was left behind in one vault.
#[derive(Debug, Default)]
pub struct VaultLeftovers {
    /// Uploads that were begun and not ended.
    pub uploads: Vec<UnfinishedUpload>,
    /// Objects of backups that were never published.
    pub orphans: BTreeMap<BackupOwner, Vec<OrphanObject>>,
}

impl VaultLeftovers {
    fn count(&self) -> usize {
        self.uploads.len() + self.orphans.values().map(Vec::len).sum::<usize>()
    }
    /// Bytes in objects.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.orphans.values().flatten().map(OrphanObject::bytes).sum()
    }
}

/// What would be removed.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// In the vault.
    pub home: VaultLeftovers,
    /// In its copies, by name.
    pub copies: BTreeMap<String, VaultLeftovers>,
    /// Copies that do not answer, each with its reason.
    pub not_looked_at: Vec<(String, String)>,
    /// Probes of `lifeboat check`.
    pub probes: Vec<ObjectKey>,
    /// Claims of epochs that later ones have outdone.
    pub claims: Vec<ObjectKey>,
    /// Backups without a manifest that may have had one: left alone, and told of.
    pub lost: BTreeMap<BackupOwner, LostReason>,
    /// Backups and uploads that another host may still be writing: left alone for a day.
    pub perhaps_running: usize,
    /// Datastores that were passed over because a run holds them.
    pub busy: Vec<DatastoreName>,
    /// Snapshots of volume sets that were never published, or whose backup is removed.
    pub snapshots: Vec<StraySnapshot>,
    /// Snapshots that other tools have made, with tags of ours that they copied: left alone, and
    /// told of.
    pub foreign: Vec<StraySnapshot>,
    /// Mount points that a dead run has left frozen.
    pub frozen: usize,
    /// Runs of drills whose sandbox outlived them.
    pub sandboxes: Vec<String>,
    /// Runs of drills of which something stands in the cloud, or may, though their time is up or
    /// their process died.
    pub scratch: Vec<StrayRun>,
    /// Leases, orders and letters of such runs that are over.
    pub papers: Vec<ObjectKey>,
    /// Runs of drills of this host whose process died and which have no report: told of, for
    /// somebody to resume or abort.
    pub unreported: Vec<String>,
}

impl Leftovers {
    /// Whether there is nothing to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }
    /// How many things would be removed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.home.count()
            + self.copies.values().map(VaultLeftovers::count).sum::<usize>()
            + self.probes.len()
            + self.claims.len()
            + self.sandboxes.len()
            + self.snapshots.len()
            + self.scratch.iter().map(|stray| stray.things.len().max(1)).sum::<usize>()
            + self.papers.len()
            + self.frozen
    }
    /// Everything in vaults, with the name of the copy that it is in.
    pub fn in_vaults(&self) -> impl Iterator<Item = (Option<&str>, &VaultLeftovers)> {
        std::iter::once((None, &self.home))
            .chain(self.copies.iter().map(|(name, found)| (Some(name.as_str()), found)))
    }
}

/// A sweep that holds the locks of the datastores it concerns.
pub struct SweepRun {
    /// What it would remove.
    pub leftovers: Leftovers,
    locks: BTreeMap<DatastoreName, (HostLock, HeldDatastore)>,
    /// Those of drills whose process died: nobody goes on with one while it is taken away.
    drills: BTreeMap<String, HostLock>,
}

/// Looks for leavings older than `older_than`.
///
/// # Errors
/// [`WorkError`] if the vault cannot be listed.
pub async fn find_leftovers(
    rig: &WorkContext,
    older_than: HumanDuration,
) -> Result<SweepRun, WorkError> {
    let before = Timestamp::now()
        - jiff::SignedDuration::try_from(older_than.duration()).unwrap_or_default();
    let mut sweep = SweepRun {
        leftovers: Leftovers::default(),
        locks: BTreeMap::new(),
        drills: BTreeMap::new(),
    };
    let vault = super::shelf::vault_id(rig).await?;
    let mut remembered = KnowledgeCache::new(rig, &vault);
    let stored = StoredObjects::list(rig.vault.as_ref()).await?;
    for owner in &stored.hidden {
        if let UnpublishedFate::Lost(lost) = remembered.fate(owner, true).await? {
            sweep.leftovers.lost.insert(owner.clone(), lost);
        }
    }
    let has_manifest: BTreeSet<BackupOwner> =
        stored.published.union(&stored.hidden).cloned().collect();
    for (owner, things) in stored.others {
        let touched = orphans::last_change(&things);
        if touched <= before
            && sweep
                .may_go(
                    rig,
                    &mut remembered,
                    &owner,
                    touched,
                    orphans::has_manifest_signature(&things, &owner),
                )
                .await?
        {
            sweep.leftovers.home.orphans.insert(owner, things);
        }
    }
    for upload in rig.vault.unfinished().await? {
        if upload.touched <= before && sweep.upload_may_go(rig, &mut remembered, &upload).await? {
            sweep.leftovers.home.uploads.push(upload);
        }
    }
    for (name, copy) in &rig.replicas {
        match in_copy(copy.as_ref(), &has_manifest, before).await {
            Ok(mut found) => {
                let mut theirs = BTreeMap::new();
                // A copy may be the last that has a backup: what may have been one at home is left
                // alone there too.
                for (owner, things) in found.orphans {
                    if remembered.fate(&owner, false).await? == UnpublishedFate::Unpublished {
                        theirs.insert(owner, things);
                    }
                }
                found.orphans = theirs;
                sweep.leftovers.copies.insert(name.clone(), found);
            }
            // One that is away is no reason to leave the others.
            Err(error) => sweep.leftovers.not_looked_at.push((name.clone(), error.to_string())),
        }
    }
    sweep.leftovers.snapshots =
        sweep.snapshots(rig, &vault, &has_manifest, before, &mut remembered).await?;
    sweep.leftovers.frozen = watchdog::abandoned(&snapshot::state_directory(rig)).len();
    let probes = rig.vault.list(layout::PROBES).await?;
    let own =
        probes.into_iter().filter(|f| f.modified <= before && layout::is_probe(f.key.as_str()));
    sweep.leftovers.probes = own.map(|f| f.key).collect();
    claims(rig, before, &mut sweep.leftovers).await?;
    let dead = drills(rig, &vault, &mut sweep).await?;
    let leases = scratch::leases(rig).await?;
    sweep.leftovers.scratch = scratch::strays(rig, &dead, &leases).await?;
    for leased in leases {
        if leased.over && leased.written <= before {
            sweep.leftovers.papers.extend(leased.objects);
        }
    }
    Ok(sweep)
}

/// What a copy that died has left in another vault. Of what has a manifest here, the next copy goes
/// on with it; and nobody holds a lock there, so only what nothing has changed for a day is left
/// behind.
async fn in_copy(
    copy: &dyn Vault,
    has_manifest: &BTreeSet<BackupOwner>,
    before: Timestamp,
) -> Result<VaultLeftovers, VaultError> {
    let before = before.min(Timestamp::now() - SILENCE);
    let mut found = VaultLeftovers::default();
    let stored = StoredObjects::list(copy).await?;
    let is_old = |things: &[OrphanObject]| orphans::last_change(things) <= before;
    found.orphans = stored
        .others
        .into_iter()
        .filter(|(owner, things)| !has_manifest.contains(owner) && is_old(things))
        .collect();
    found.uploads = copy
        .unfinished()
        .await?
        .into_iter()
        .filter(|upload| upload.touched <= before && is_ours(upload))
        .collect();
    Ok(found)
}

/// Names that lifeboat does not use belong to somebody else who shares the bucket.
fn is_ours(upload: &UnfinishedUpload) -> bool {
    parse_backup_key(&upload.key).is_some()
        || upload.key == layout::vault_header().as_str()
        || layout::is_probe(&upload.key)
}

/// Claims of epochs, but for the last few of each datastore: those may still keep somebody from
/// publishing.
async fn claims(
    rig: &WorkContext,
    before: Timestamp,
    leftovers: &mut Leftovers,
) -> Result<(), WorkError> {
    let mut by_datastore: BTreeMap<DatastoreName, Vec<_>> = BTreeMap::new();
    for facts in rig.vault.list(layout::EPOCHS).await? {
        let datastore = facts
            .key
            .as_str()
            .strip_prefix(layout::EPOCHS)
            .and_then(|rest| rest.split('/').next()?.parse().ok());
        if let Some(datastore) = datastore
            && let Some(epoch) = layout::parse_epoch_key(&datastore, facts.key.as_str())
        {
            by_datastore.entry(datastore).or_default().push((epoch, facts));
        }
    }
    for (datastore, claims) in by_datastore {
        // What stands behind the highest genuine claim was written by somebody else.
        // Where none is genuine, all may be those of hosts of an earlier version, which signed
        // none.
        let highest = match fence::highest_claim(rig, &datastore).await? {
            0 => u64::MAX,
            highest => highest,
        };
        let numbers: BTreeSet<u64> =
            claims.iter().map(|(epoch, _)| *epoch).filter(|epoch| *epoch <= highest).collect();
        let kept: BTreeSet<u64> = numbers.into_iter().rev().take(CLAIMS_KEPT).collect();
        let goes = claims
            .into_iter()
            .filter(|(epoch, facts)| !kept.contains(epoch) && facts.modified <= before);
        leftovers.claims.extend(goes.map(|(_, facts)| facts.key));
    }
    Ok(())
}

/// A sandbox is left over if its time is up, or if nobody holds its drill's lock any more. Returns
/// the runs of this host that died.
async fn drills(
    rig: &WorkContext,
    vault: &VaultId,
    sweep: &mut SweepRun,
) -> Result<BTreeSet<String>, WorkError> {
    let open = match rig.catalog() {
        Some(catalog) => catalog.open_drills(vault).await?,
        None => Vec::new(),
    };
    let mut dead = BTreeSet::new();
    for run in open {
        // A drill may have died more than once.
        if !sweep.drills.contains_key(&run.drill)
            && let Some(lock) =
                HostLock::acquire_named(&rig.config, &format!("drill-{}", run.drill), "a sweep")?
        {
            sweep.drills.insert(run.drill.clone(), lock);
        }
        if sweep.drills.contains_key(&run.drill) {
            sweep.leftovers.unreported.push(format!("{} (drill {})", run.run, run.drill));
            dead.insert(run.run);
        }
    }
    let found = local::found(&drill::state_directory(rig)).into_iter();
    sweep.leftovers.sandboxes = found
        .filter(|lease| lease.expires <= Timestamp::now() || dead.contains(&lease.run))
        .map(|lease| lease.run)
        .collect();
    Ok(dead)
}

impl SweepRun {
    /// Snapshots without a backup. Those of a backup that this host published are left alone,
    /// unless a signed record says that it is removed.
    async fn snapshots(
        &mut self,
        rig: &WorkContext,
        vault: &VaultId,
        published: &BTreeSet<BackupOwner>,
        before: Timestamp,
        remembered: &mut KnowledgeCache<'_>,
    ) -> Result<Vec<StraySnapshot>, WorkError> {
        let mut found = Vec::new();
        for stray in stray::strays(rig, vault, published, before).await? {
            if stray.is_foreign {
                self.leftovers.foreign.push(stray);
                continue;
            }
            if stray.started > Timestamp::now() - SILENCE
                && !remembered.began_here(&stray.owner).await?
            {
                self.leftovers.perhaps_running += 1;
                continue;
            }
            if !self.may_touch(rig, &stray.owner.0).await? {
                continue;
            }
            // A set that was gone on with is published under another name than that of its tags:
            // with a manifest missing, any may be its.
            if self.leftovers.lost.keys().any(|(datastore, _)| *datastore == stray.owner.0) {
                continue;
            }
            match remembered.fate(&stray.owner, false).await? {
                UnpublishedFate::Lost(lost) => drop(self.leftovers.lost.insert(stray.owner, lost)),
                UnpublishedFate::Unpublished | UnpublishedFate::Removed => found.push(stray),
            }
        }
        Ok(found)
    }

    /// Whether a backup without a manifest was never published, and nobody is writing it. What was
    /// is told of.
    async fn may_go(
        &mut self,
        rig: &WorkContext,
        remembered: &mut KnowledgeCache<'_>,
        owner: &BackupOwner,
        touched: Timestamp,
        is_signed: bool,
    ) -> Result<bool, WorkError> {
        if !self.may_touch(rig, &owner.0).await? {
            return Ok(false);
        }
        let began_here = remembered.began_here(owner).await?;
        let fate = match remembered.fate(owner, false).await? {
            UnpublishedFate::Unpublished if is_signed && !began_here => {
                UnpublishedFate::Lost(LostReason::Signed)
            }
            fate => fate,
        };
        match fate {
            UnpublishedFate::Lost(lost) => {
                self.leftovers.lost.insert(owner.clone(), lost);
                return Ok(false);
            }
            // `prune` goes on with it.
            UnpublishedFate::Removed => return Ok(false),
            UnpublishedFate::Unpublished => {}
        }
        if touched > Timestamp::now() - SILENCE && !began_here {
            self.leftovers.perhaps_running += 1;
            return Ok(false);
        }
        Ok(true)
    }

    async fn upload_may_go(
        &mut self,
        rig: &WorkContext,
        remembered: &mut KnowledgeCache<'_>,
        upload: &UnfinishedUpload,
    ) -> Result<bool, WorkError> {
        match parse_backup_key(&upload.key) {
            Some(owner) => {
                if !self.may_touch(rig, &owner.0).await? {
                    return Ok(false);
                }
                let is_dead = upload.touched <= Timestamp::now() - SILENCE
                    || remembered.began_here(&owner).await?;
                self.leftovers.perhaps_running += usize::from(!is_dead);
                Ok(is_dead)
            }
            None => Ok(is_ours(upload)),
        }
    }

    /// Holds a datastore, on this host and, where hosts share a catalog, among them: a run of
    /// another host may have taken longer than any age.
    async fn may_touch(
        &mut self,
        rig: &WorkContext,
        datastore: &DatastoreName,
    ) -> Result<bool, WorkError> {
        if self.locks.contains_key(datastore) {
            return Ok(true);
        }
        if self.leftovers.busy.contains(datastore) {
            return Ok(false);
        }
        match HostLock::take(&rig.config, datastore, "a sweep") {
            Ok(lock) => {
                match HeldDatastore::take(rig, datastore, &rig.cancel.child_token()).await {
                    Ok(held) => {
                        self.locks.insert(datastore.clone(), (lock, held));
                        Ok(true)
                    }
                    Err(WorkError::AlreadyRunning { .. }) => {
                        self.leftovers.busy.push(datastore.clone());
                        Ok(false)
                    }
                    Err(error) => Err(error),
                }
            }
            Err(WorkError::AlreadyRunning { .. }) => {
                self.leftovers.busy.push(datastore.clone());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what was found. The manifest is looked for once more before the objects of its
    /// backup go.
    ///
    /// # Errors
    /// [`WorkError`] at the first thing that cannot be removed; it is found again by the next
    /// sweep.
    pub async fn apply(self, rig: &WorkContext) -> Result<usize, WorkError> {
        let mut removed = 0;
        for run in &self.leftovers.sandboxes {
            local::undo(&drill::state_directory(rig), run).await?;
            removed += 1;
        }
        let mut held = Vec::new();
        for stray in &self.leftovers.scratch {
            match scratch::remove(rig, &stray.run).await {
                Ok(()) => removed += stray.things.len().max(1),
                // One that cannot go keeps no other from going.
                Err(error) => held.push(error.to_string()),
            }
        }
        if self.leftovers.frozen > 0 {
            removed += watchdog::undo_abandoned(&snapshot::state_directory(rig))
                .await
                .map_err(|error| WorkError::Leftovers(error.to_string()))?
                .len();
        }
        let used = if self.leftovers.snapshots.is_empty() {
            stray::UsedSnapshots::default()
        } else {
            stray::UsedSnapshots::read(rig).await?
        };
        for stray in &self.leftovers.snapshots {
            let (datastore, backup) = &stray.owner;
            if used.holds(&stray.owner)
                || rig
                    .vault
                    .find(&layout::BackupKeys { datastore, backup }.manifest())
                    .await?
                    .is_some()
            {
                continue;
            }
            match stray::remove(rig, stray).await {
                Ok(()) => removed += 1,
                Err(WorkError::Set { source, .. }) => held.push(source.to_string()),
                Err(error) => return Err(error),
            }
        }
        let mut gone = Vec::new();
        for (copy, found) in self.leftovers.in_vaults() {
            let vault: &Arc<dyn Vault> = match copy {
                None => &rig.vault,
                Some(name) => super::copy::replica(rig, name)?,
            };
            for upload in &found.uploads {
                vault.discard(upload).await?;
                removed += 1;
            }
            for (owner, things) in &found.orphans {
                if !orphans::is_unpublished(vault.as_ref(), owner).await? {
                    continue;
                }
                let held_before = held.len();
                for thing in things {
                    match thing.remove(vault.as_ref()).await {
                        Ok(()) => removed += 1,
                        // One behind a link or under a lock keeps no other from going.
                        Err(error @ VaultError::Refused { .. }) => held.push(error.to_string()),
                        Err(error) => return Err(error.into()),
                    }
                }
                if copy.is_none() && held.len() == held_before {
                    gone.push(owner);
                }
            }
        }
        if let Some(catalog) = rig.catalog().filter(|_| !gone.is_empty()) {
            let vault = super::shelf::vault_id(rig).await?;
            for (datastore, backup) in gone {
                without_catalog(catalog.forget_begun(&vault, datastore, backup).await);
            }
        }
        for key in
            self.leftovers.probes.iter().chain(&self.leftovers.claims).chain(&self.leftovers.papers)
        {
            let gone = match rig.vault.find(key).await? {
                Some(facts) => rig.vault.erase(&facts).await,
                None => Ok(()),
            };
            match gone {
                Ok(()) => removed += 1,
                Err(error @ VaultError::Refused { .. }) => held.push(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        if held.is_empty() {
            Ok(removed)
        } else {
            let more = match held.len().saturating_sub(HELD_SHOWN) {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            held.truncate(HELD_SHOWN);
            Err(WorkError::Leftovers(format!(
                "{removed} things were removed, and not these: {}{more}",
                held.join("; ")
            )))
        }
    }
}

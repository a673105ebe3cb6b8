//! Removing what runs left behind: unfinished uploads, and objects of backups that were never published.
//!
//! A sweep is shown first and acts only when confirmed. It touches nothing younger than an age, nothing of a datastore
//! whose lock is held by a run on this host, and nothing whose manifest is in the vault.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::fence::{self, Held};
use super::scratch::{self, StrayRun};
pub use super::snapshot::stray::Stray;
use super::snapshot::{self, stray};
use super::{HostLock, Rig, WorkError, drill};
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::layout::{self, ObjectKey, parse_backup_key, parse_manifest_key};
use crate::domain::span::Span;
use crate::sandbox::local;
use crate::vault::{Unfinished, VaultError};
use crate::volumes::watchdog;

/// Claims of epochs that are kept of each datastore.
const CLAIMS_KEPT: usize = 10;

/// What would be removed.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Uploads that were begun and not ended.
    pub uploads: Vec<Unfinished>,
    /// Objects of backups without manifest.
    pub orphans: BTreeMap<(DatastoreName, BackupId), Vec<ObjectKey>>,
    /// Probes of `lifeboat check`.
    pub probes: Vec<ObjectKey>,
    /// Claims of epochs that later ones have outdone.
    pub claims: Vec<ObjectKey>,
    /// Bytes in orphans.
    pub bytes: u64,
    /// Backups that this host published and whose manifest is gone: left alone, and told of.
    pub lost: BTreeSet<(DatastoreName, BackupId)>,
    /// Datastores that were passed over because a run holds them.
    pub busy: Vec<DatastoreName>,
    /// Snapshots of volume sets that were never published, or whose backup is removed.
    pub snapshots: Vec<Stray>,
    /// Mount points that a dead run has left frozen.
    pub frozen: usize,
    /// Runs of drills whose sandbox outlived them.
    pub sandboxes: Vec<String>,
    /// Runs of drills of which something stands in the cloud, or may, though their time is up or their process died.
    pub scratch: Vec<StrayRun>,
    /// Leases, orders and letters of such runs that are over.
    pub papers: Vec<ObjectKey>,
    /// Runs of drills of this host whose process died and which have no report: told of, for somebody to resume or abort.
    pub unreported: Vec<String>,
}

impl Leftovers {
    /// Whether there is nothing to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uploads.is_empty()
            && self.orphans.is_empty()
            && self.probes.is_empty()
            && self.claims.is_empty()
            && self.sandboxes.is_empty()
            && self.snapshots.is_empty()
            && self.scratch.is_empty()
            && self.papers.is_empty()
            && self.frozen == 0
    }
    /// How many things would be removed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.uploads.len()
            + self.probes.len()
            + self.claims.len()
            + self.sandboxes.len()
            + self.snapshots.len()
            + self.scratch.iter().map(|stray| stray.things.len().max(1)).sum::<usize>()
            + self.papers.len()
            + self.frozen
            + self.orphans.values().map(Vec::len).sum::<usize>()
    }
}

/// A sweep that holds the locks of the datastores it concerns.
pub struct Sweep {
    /// What it would remove.
    pub leftovers: Leftovers,
    locks: BTreeMap<DatastoreName, (HostLock, Held)>,
    /// Those of drills whose process died: nobody goes on with one while it is taken away.
    drills: BTreeMap<String, HostLock>,
}

/// What the catalog knows, asked once for each datastore.
#[derive(Default)]
struct Remembered(BTreeMap<DatastoreName, BTreeSet<BackupId>>);

impl Remembered {
    async fn holds(&mut self, rig: &Rig, vault: &VaultId, (datastore, backup): &(DatastoreName, BackupId)) -> Result<bool, WorkError> {
        if !self.0.contains_key(datastore) {
            let known = match rig.catalog() {
                Some(catalog) => catalog.known(vault, datastore).await?.into_keys().collect(),
                None => BTreeSet::new(),
            };
            self.0.insert(datastore.clone(), known);
        }
        Ok(self.0.get(datastore).is_some_and(|known| known.contains(backup)))
    }
}

/// Looks for leavings older than `older_than`.
///
/// # Errors
/// [`WorkError`] if the vault cannot be listed.
pub async fn look(rig: &Rig, older_than: Span) -> Result<Sweep, WorkError> {
    let before = Timestamp::now() - jiff::SignedDuration::try_from(older_than.duration()).unwrap_or_default();
    let mut sweep = Sweep { leftovers: Leftovers::default(), locks: BTreeMap::new(), drills: BTreeMap::new() };
    // Payloads are listed before manifests: a backup published in between has its manifest in the second listing.
    let mut objects = rig.vault.list(layout::PAYLOADS).await?;
    objects.extend(rig.vault.list(layout::META).await?);
    let manifests = rig.vault.list(layout::MANIFESTS).await?;
    let published: BTreeSet<_> = manifests.iter().filter_map(|f| parse_manifest_key(f.key.as_str())).collect();
    objects.extend(manifests);
    let vault = super::shelf::vault_id(rig).await?;
    let mut remembered = Remembered::default();
    for facts in objects {
        let Some(owner) = parse_backup_key(facts.key.as_str()) else { continue };
        if published.contains(&owner) || facts.modified > before || !sweep.may_touch(rig, &owner.0).await? {
            continue;
        }
        if remembered.holds(rig, &vault, &owner).await? {
            sweep.leftovers.lost.insert(owner);
            continue;
        }
        sweep.leftovers.bytes += facts.bytes;
        sweep.leftovers.orphans.entry(owner).or_default().push(facts.key);
    }
    let removed_by_prune = sweep.snapshots(rig, &vault, &published, before, &mut remembered).await?;
    sweep.leftovers.snapshots.extend(removed_by_prune);
    sweep.leftovers.frozen = watchdog::abandoned(&snapshot::state_directory(rig)).len();
    sweep.forget_what_retention_removes(rig).await?;
    for upload in rig.vault.unfinished().await? {
        let free = match parse_backup_key(&upload.key) {
            Some((datastore, _)) => sweep.may_touch(rig, &datastore).await?,
            // Names that lifeboat does not use belong to somebody else who shares the bucket.
            None => upload.key == layout::vault_header().as_str() || layout::is_probe(&upload.key),
        };
        if free && upload.begun <= before {
            sweep.leftovers.uploads.push(upload);
        }
    }
    let probes = rig.vault.list(layout::PROBES).await?;
    let own = probes.into_iter().filter(|f| f.modified <= before && layout::is_probe(f.key.as_str()));
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

/// Claims of epochs, but for the last few of each datastore: those may still keep somebody from publishing.
async fn claims(rig: &Rig, before: Timestamp, leftovers: &mut Leftovers) -> Result<(), WorkError> {
    let mut by_datastore: BTreeMap<DatastoreName, Vec<_>> = BTreeMap::new();
    for facts in rig.vault.list(layout::EPOCHS).await? {
        let datastore = facts.key.as_str().strip_prefix(layout::EPOCHS).and_then(|rest| rest.split('/').next()?.parse().ok());
        if let Some(datastore) = datastore
            && let Some(epoch) = layout::parse_epoch_key(&datastore, facts.key.as_str())
        {
            by_datastore.entry(datastore).or_default().push((epoch, facts));
        }
    }
    for (datastore, claims) in by_datastore {
        // What stands behind the highest genuine claim was written by somebody else.
        // Where none is genuine, all may be those of hosts of an earlier version, which signed none.
        let highest = match fence::highest_claim(rig, &datastore).await? {
            0 => u64::MAX,
            highest => highest,
        };
        let numbers: BTreeSet<u64> = claims.iter().map(|(epoch, _)| *epoch).filter(|epoch| *epoch <= highest).collect();
        let kept: BTreeSet<u64> = numbers.into_iter().rev().take(CLAIMS_KEPT).collect();
        let goes = claims.into_iter().filter(|(epoch, facts)| !kept.contains(epoch) && facts.modified <= before);
        leftovers.claims.extend(goes.map(|(_, facts)| facts.key));
    }
    Ok(())
}

/// A sandbox is left over if its time is up, or if nobody holds its drill's lock any more. Returns the runs of this host that died.
async fn drills(rig: &Rig, vault: &VaultId, sweep: &mut Sweep) -> Result<BTreeSet<String>, WorkError> {
    let open = match rig.catalog() {
        Some(catalog) => catalog.open_drills(vault).await?,
        None => Vec::new(),
    };
    let mut dead = BTreeSet::new();
    for run in open {
        // A drill may have died more than once.
        if !sweep.drills.contains_key(&run.drill)
            && let Some(lock) = HostLock::named(&rig.config, &format!("drill-{}", run.drill), "a sweep")?
        {
            sweep.drills.insert(run.drill.clone(), lock);
        }
        if sweep.drills.contains_key(&run.drill) {
            sweep.leftovers.unreported.push(format!("{} (drill {})", run.run, run.drill));
            dead.insert(run.run);
        }
    }
    let found = local::found(&drill::state_directory(rig)).into_iter();
    sweep.leftovers.sandboxes =
        found.filter(|lease| lease.expires <= Timestamp::now() || dead.contains(&lease.run)).map(|lease| lease.run).collect();
    Ok(dead)
}

impl Sweep {
    /// Snapshots without a backup. Those of a backup that this host published are left alone, unless a signed record says that it is removed.
    async fn snapshots(
        &mut self,
        rig: &Rig,
        vault: &VaultId,
        published: &BTreeSet<(DatastoreName, BackupId)>,
        before: Timestamp,
        remembered: &mut Remembered,
    ) -> Result<Vec<Stray>, WorkError> {
        let mut found = Vec::new();
        for stray in stray::strays(rig, vault, published, before).await? {
            if !self.may_touch(rig, &stray.owner.0).await? {
                continue;
            }
            let removed = || super::evidence::removed(rig, &stray.owner.0);
            if remembered.holds(rig, vault, &stray.owner).await? && !removed().await?.iter().any(|(backup, _)| *backup == stray.owner.1) {
                self.leftovers.lost.insert(stray.owner);
                continue;
            }
            found.push(stray);
        }
        Ok(found)
    }

    /// What a signed record says is removed is not lost; `prune` goes on with it.
    async fn forget_what_retention_removes(&mut self, rig: &Rig) -> Result<(), WorkError> {
        let datastores: BTreeSet<DatastoreName> = self.leftovers.lost.iter().map(|(datastore, _)| datastore.clone()).collect();
        for datastore in datastores {
            for (backup, _) in super::evidence::removed(rig, &datastore).await? {
                self.leftovers.lost.remove(&(datastore.clone(), backup));
            }
        }
        Ok(())
    }

    /// Holds a datastore, on this host and, where hosts share a catalog, among them: a run of another host may have taken longer than any age.
    async fn may_touch(&mut self, rig: &Rig, datastore: &DatastoreName) -> Result<bool, WorkError> {
        if self.locks.contains_key(datastore) {
            return Ok(true);
        }
        if self.leftovers.busy.contains(datastore) {
            return Ok(false);
        }
        match HostLock::take(&rig.config, datastore, "a sweep") {
            Ok(lock) => match Held::take(rig, datastore, &rig.cancel.child_token()).await {
                Ok(held) => {
                    self.locks.insert(datastore.clone(), (lock, held));
                    Ok(true)
                }
                Err(WorkError::AlreadyRunning { .. }) => {
                    self.leftovers.busy.push(datastore.clone());
                    Ok(false)
                }
                Err(error) => Err(error),
            },
            Err(WorkError::AlreadyRunning { .. }) => {
                self.leftovers.busy.push(datastore.clone());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what was found. The manifest is looked for once more before the objects of its backup go.
    ///
    /// # Errors
    /// [`WorkError`] at the first thing that cannot be removed; it is found again by the next sweep.
    pub async fn apply(self, rig: &Rig) -> Result<usize, WorkError> {
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
        let used = if self.leftovers.snapshots.is_empty() { stray::Used::default() } else { stray::Used::read(rig).await? };
        for stray in &self.leftovers.snapshots {
            let (datastore, backup) = &stray.owner;
            if used.holds(&stray.owner) || rig.vault.find(&layout::Place { datastore, backup }.manifest()).await?.is_some() {
                continue;
            }
            match stray::remove(rig, stray).await {
                Ok(()) => removed += 1,
                Err(WorkError::Set { source, .. }) => held.push(source.to_string()),
                Err(error) => return Err(error),
            }
        }
        for upload in &self.leftovers.uploads {
            rig.vault.discard(upload).await?;
            removed += 1;
        }
        for ((datastore, backup), keys) in &self.leftovers.orphans {
            if rig.vault.find(&layout::Place { datastore, backup }.manifest()).await?.is_some() {
                continue;
            }
            for key in keys {
                match rig.vault.remove(key).await {
                    Ok(()) => removed += 1,
                    // One behind a link keeps no other from going.
                    Err(error @ VaultError::Refused { .. }) => held.push(error.to_string()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        for key in self.leftovers.probes.iter().chain(&self.leftovers.claims).chain(&self.leftovers.papers) {
            match rig.vault.remove(key).await {
                Ok(()) => removed += 1,
                Err(error @ VaultError::Refused { .. }) => held.push(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        if held.is_empty() {
            Ok(removed)
        } else {
            Err(WorkError::Leftovers(format!("{removed} things were removed, and not these: {}", held.join("; "))))
        }
    }
}

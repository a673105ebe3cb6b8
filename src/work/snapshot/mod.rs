//! Taking a backup of volumes: a set of snapshots that belong together.
//!
//! 1. Keys first, as for every backup; then the volumes are selected, and refused if one of them is
//!    not encrypted as the policy wants.
//! 2. What is about to be done is noted. Everything stands still as far as was asked for, the
//!    volumes are cut ([`cut`]), and what was achieved is noted with the snapshots' ids. From here
//!    on any run goes on where this one ended (`OpenSet`).
//! 3. Every snapshot is waited for, copied under the other place's key, waited for again, and
//!    locked ([`keep`]).
//! 4. Every block is hashed; only what differs from the set before is read ([`blocks`]).
//! 5. The manifest: the commit point. No manifest, no backup; snapshots without one are removed, at
//!    once or by `lifeboat sweep`.
//!
//! What was asked for and not achieved is a failure, never a lesser set.

pub mod blocks;
pub mod check;
pub mod cut;
pub mod keep;
pub mod restore;
pub mod stray;
pub mod verify;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::back_up::BackupReport;
use super::fence::FencingToken;
use super::payload::StagedPayload;
use super::publish::{self, BackupContents, PendingBackup, PublishedBackup, without_catalog};
use super::{WorkContext, WorkError, shelf};
use crate::config::{VolumesConfig, plans};
use crate::domain::ErrorClass;
use crate::domain::envelope::EncryptionContext;
use crate::domain::human_duration::HumanDuration;
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::layout::BackupKeys;
use crate::domain::manifest::{Manifest, PayloadRole, SourceFacts};
use crate::domain::selector::BackupSelector;
use crate::domain::volumes::{
    Consistency, NotProtected, ResourceTags, SnapshotId, VolumeId, VolumeSet, tag,
};
use crate::failpoint;
use crate::volumes::watchdog::{self, StandstillError};
use crate::volumes::{VolumeStore, VolumesError};

/// Why there is no set.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the variants say what they are")]
pub enum SetError {
    #[error("no volume is selected")]
    Empty,
    #[error("volumes that must not be in a set are selected: {}", .0.join("; "))]
    NotAllowed(Vec<String>),
    #[error(transparent)]
    Volumes(#[from] VolumesError),
    #[error(transparent)]
    Standstill(#[from] StandstillError),
    #[error(transparent)]
    NotProtected(#[from] NotProtected),
    #[error("{asked} consistency was asked for and cannot be had: {why}")]
    LessConsistent { asked: Consistency, why: String },
    #[error("snapshot {id} of {volume} failed: {why}")]
    SnapshotFailed { id: SnapshotId, volume: VolumeId, why: String },
    #[error("the copy of snapshot {id} of {volume} to {place} failed: {why}")]
    CopyFailed { id: SnapshotId, volume: VolumeId, place: String, why: String },
    #[error("snapshot {0} has vanished")]
    Vanished(SnapshotId),
    #[error("{frozen} would be frozen, and {needed} lies on it")]
    SawsItsOwnBranch { frozen: PathBuf, needed: PathBuf },
}

impl SetError {
    /// Its class.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Empty
            | Self::NotAllowed(_)
            | Self::SawsItsOwnBranch { .. }
            | Self::LessConsistent { .. } => ErrorClass::Usage,
            Self::Volumes(error) => error.class(),
            Self::Standstill(_)
            | Self::NotProtected(_)
            | Self::SnapshotFailed { .. }
            | Self::CopyFailed { .. }
            | Self::Vanished(_) => ErrorClass::SourceFailed,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Empty => "look at instance, tags, volumes, exclude and exclude_boot of the datastore in lifeboat.toml; a volume that is not there is not protected",
                Self::NotAllowed(_) => "encrypt the volume under a key of kms_keys (a snapshot copied under the key, and a volume made of it), or leave it out by exclude = [\"vol-…\"]; nothing was done",
                Self::Standstill(StandstillError::StillFrozen { .. }) => "do it now: everything that writes there waits. `lifeboat sweep --confirm` tries again",
                Self::Standstill(_) => "nothing was published. Is something very large being written? freeze_limit in lifeboat.toml is how long it may take",
                Self::CopyFailed { .. } => "may lifeboat's role, and EBS on its behalf (kms:CreateGrant, kms:ReEncrypt*, kms:GenerateDataKey*, kms:Decrypt, kms:DescribeKey), use the key there? The snapshots are kept: run the backup again, and it goes on from here",
                Self::SnapshotFailed { .. } | Self::Vanished(_) | Self::NotProtected(_) => "the snapshots of this set were removed; run the backup again",
                Self::SawsItsOwnBranch { .. } => "keep lifeboat's catalog and vault on another file system, or do not freeze this one",
                Self::LessConsistent { .. } => "nothing was done; ask for what can be had, or make it possible as it says",
                Self::Volumes(VolumesError::Refused { .. }) => "docs/AWS.md lists the permissions that this takes",
                Self::Volumes(_) => return None,
            }
            .to_owned(),
        )
    }

    /// Whether what there is of the set is worth keeping: the next run goes on with it.
    fn keeps_the_set(&self) -> bool {
        matches!(self, Self::CopyFailed { .. })
            || self.class().is_retryable() && matches!(self, Self::Volumes(_))
    }
}

/// A set that was begun: what a later run needs to go on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OpenSet {
    /// The tag of its snapshots, and its name unless that is used up.
    backup: BackupId,
    /// The name under which it was last to be published.
    publishing: Option<BackupId>,
    begun: Timestamp,
    cut: Option<SnapshotsTaken>,
}

/// The volumes have been cut, and this is what was achieved.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SnapshotsTaken {
    facts: SourceFacts,
    set: VolumeSet,
}

/// One run of this verb.
struct SetBackup<'a> {
    rig: &'a WorkContext,
    vault: VaultId,
    datastore: &'a DatastoreName,
    settings: &'a VolumesConfig,
    home: Arc<dyn VolumeStore>,
}

/// Where notes of frozen file systems stand.
#[must_use]
pub fn state_directory(rig: &WorkContext) -> PathBuf {
    rig.config.catalog.file.with_extension("frozen")
}

/// Whether something is not as old as a time that is allowed.
fn is_younger(than: Timestamp, allowed: HumanDuration) -> bool {
    Timestamp::now().duration_since(than)
        < jiff::SignedDuration::try_from(allowed.duration()).unwrap_or(jiff::SignedDuration::MAX)
}

/// Takes a backup of volumes, or goes on with one that was begun and is not older than the RPO.
///
/// # Errors
/// [`WorkError`]; nothing is published then. Snapshots are kept only where the next run can go on
/// with them.
pub async fn take(
    rig: &WorkContext,
    datastore: &DatastoreName,
    settings: &VolumesConfig,
    rpo: HumanDuration,
    mandate: FencingToken,
) -> Result<BackupReport, WorkError> {
    let clock = Instant::now();
    let failed = |source: SetError| WorkError::Set { datastore: datastore.clone(), source };
    for point in watchdog::undo_abandoned(&state_directory(rig))
        .await
        .map_err(|error| failed(error.into()))?
    {
        tracing::warn!(point, "a file system that a dead run had left frozen was thawed");
    }
    let vault = shelf::vault_to_write(rig).await?;
    let home = rig.volumes.open(&settings.place).await.map_err(|error| failed(error.into()))?;
    let run = SetBackup { rig, vault, datastore, settings, home };
    let mut open = run.open(rpo).await?;
    match run.to_the_end(&mut open, mandate).await {
        Ok(published) => {
            run.forget(&open.backup).await;
            Ok(BackupReport::of(rig, &published, None, clock))
        }
        Err(error) => {
            run.after(&open, &error).await;
            Err(error)
        }
    }
}

impl SetBackup<'_> {
    fn failed(&self, source: impl Into<SetError>) -> WorkError {
        WorkError::Set { datastore: self.datastore.clone(), source: source.into() }
    }

    /// Tags by which a set is found, whoever made it.
    fn tags(&self, backup: &BackupId) -> ResourceTags {
        tags(&self.vault, self.datastore, backup)
    }

    /// The set to go on with, or a new one.
    async fn open(&self, rpo: HumanDuration) -> Result<OpenSet, WorkError> {
        if let Some(open) = self.noted().await {
            if self.goes_on(&open, rpo).await? {
                tracing::warn!(backup = %open.backup, "going on with the set that an earlier run began");
                return Ok(open);
            }
            self.remove(&open).await;
            self.forget(&open.backup).await;
        }
        let begun = Timestamp::now();
        Ok(OpenSet {
            backup: BackupId::new(begun, rand::random()),
            publishing: None,
            begun,
            cut: None,
        })
    }

    async fn noted(&self) -> Option<OpenSet> {
        let noted =
            without_catalog(self.rig.catalog()?.noted_set(&self.vault, self.datastore).await)??;
        serde_json::from_str(&noted).ok()
    }

    /// A set whose cut was never noted is not known to be consistent; one that is older than the
    /// RPO is not tonight's backup; one whose manifest is there was published by a run that
    /// died behind it.
    async fn goes_on(&self, open: &OpenSet, rpo: HumanDuration) -> Result<bool, WorkError> {
        let Some(made) = &open.cut else { return Ok(false) };
        if self.published(open).await? {
            return Ok(false);
        }
        let ids = made.set.snapshots(false);
        let there = self.home.snapshots(&ids).await.map_err(|error| self.failed(error))?;
        // What is meant may have changed since.
        let meant = cut::select(self).await.map_err(|error| self.failed(error))?;
        let meant: BTreeSet<&VolumeId> = meant.iter().map(|volume| &volume.id).collect();
        let same = made.set.place == self.settings.place
            && made.set.consistency == self.settings.consistency
            && meant == made.set.members.iter().map(|member| &member.volume).collect();
        Ok(same && there.len() == ids.len() && is_younger(made.facts.snapshot_time, rpo))
    }

    async fn note(&self, open: &OpenSet) -> Result<(), WorkError> {
        let state =
            serde_json::to_string(open).map_err(|error| WorkError::Bug(error.to_string()))?;
        if let Some(catalog) = self.rig.catalog() {
            without_catalog(
                catalog.note_set(&self.vault, self.datastore, &open.backup, &state).await,
            );
        }
        Ok(())
    }

    async fn forget(&self, backup: &BackupId) {
        if let Some(catalog) = self.rig.catalog() {
            without_catalog(catalog.forget_set(&self.vault, backup).await);
        }
    }

    /// After a failure: the set stays for the next run where that can go on with it, else nothing
    /// stays.
    async fn after(&self, open: &OpenSet, error: &WorkError) {
        let keeps = match error {
            WorkError::Set { source, .. } => source.keeps_the_set(),
            WorkError::Interrupted => true,
            other => other.class().is_retryable(),
        };
        if open.cut.is_some() && keeps {
            tracing::warn!(backup = %open.backup, "the snapshots are kept: the next backup of this datastore goes on with them");
            return;
        }
        self.remove(open).await;
        self.forget(&open.backup).await;
    }

    /// Whether the manifest is there under either name.
    async fn published(&self, open: &OpenSet) -> Result<bool, WorkError> {
        for backup in std::iter::once(&open.backup).chain(&open.publishing) {
            let place = BackupKeys { datastore: self.datastore, backup };
            if self.rig.vault.find(&place.manifest()).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The name under which the set is published: its own, or a new one where a run that died has
    /// left objects under that. Nothing is stored under a name twice.
    async fn name(&self, open: &OpenSet) -> Result<BackupId, WorkError> {
        let last = open.publishing.as_ref().unwrap_or(&open.backup);
        let place = BackupKeys { datastore: self.datastore, backup: last };
        let used = !self.rig.vault.list(&place.meta_prefix()).await?.is_empty();
        Ok(if used { BackupId::new(open.begun, rand::random()) } else { last.clone() })
    }

    /// Removes what there is of a set that is not published. What cannot be removed now is left to
    /// `sweep`.
    async fn remove(&self, open: &OpenSet) {
        // Whoever cannot tell whether it is published leaves it alone.
        if !matches!(self.published(open).await, Ok(false)) {
            return;
        }
        let mut places = vec![Arc::clone(&self.home)];
        if let Some(copy) = &self.settings.copy {
            places.extend(self.rig.volumes.open(&copy.place).await.ok());
        }
        for place in places {
            if let Err(error) =
                keep::remove_own(place.as_ref(), &self.tags(&open.backup), None).await
            {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "snapshots are left behind; `lifeboat sweep` removes them"
                );
            }
        }
    }

    async fn to_the_end(
        &self,
        open: &mut OpenSet,
        mandate: FencingToken,
    ) -> Result<PublishedBackup, WorkError> {
        let name = self.name(open).await?;
        open.publishing = Some(name.clone());
        let context = EncryptionContext {
            vault: self.vault.clone(),
            datastore: self.datastore.clone(),
            backup: name,
        };
        let opening = PendingBackup::begin(self.rig, context, open.begun).await?;
        let made = match open.cut.take() {
            Some(made) => made,
            None => cut::cut(self, open).await?,
        };
        open.cut = Some(made.clone());
        self.note(open).await?;
        failpoint::reach("set-noted");
        let SnapshotsTaken { facts, mut set } = made;
        keep::whole(self, &mut set).await?;
        failpoint::reach("set-whole");
        keep::copied(self, &open.backup, &mut set).await?;
        failpoint::reach("set-copied");
        let arrived = self.payloads(&opening, &mut set).await?;
        // Copying and hashing take hours, in which anything may have been deleted.
        let kept = async {
            keep::still_there(self, &set).await?;
            keep::locked(self, &mut set).await
        };
        if let Err(error) = kept.await {
            futures::future::join_all(arrived.into_iter().map(StagedPayload::abort)).await;
            return Err(error);
        }
        failpoint::reach("set-locked");
        let contents = BackupContents { facts, pg_dump: None, set: Some(set), arrived };
        publish::commit(self.rig, opening, mandate, contents).await
    }

    /// The sealed payloads: hashes of every block, and the restore plan that is in force.
    async fn payloads(
        &self,
        opening: &PendingBackup,
        set: &mut VolumeSet,
    ) -> Result<Vec<StagedPayload>, WorkError> {
        let mut arrived = match self.settings.hash {
            true => {
                blocks::hash(
                    self.rig,
                    self.home.as_ref(),
                    opening,
                    set,
                    self.before().await.as_ref(),
                )
                .await?
            }
            false => Vec::new(),
        };
        if let Some(plan) = plans::text_of(&self.rig.config, self.datastore) {
            match super::back_up::memory(self.rig, opening, "plan.toml", PayloadRole::Plan, plan)
                .await
            {
                Ok(payload) => arrived.push(payload),
                Err(error) => {
                    futures::future::join_all(arrived.into_iter().map(StagedPayload::abort)).await;
                    return Err(error);
                }
            }
        }
        Ok(arrived)
    }

    /// The newest set, whose hashes of unchanged blocks still hold. Whoever may not read goes
    /// without.
    async fn before(&self) -> Option<Manifest> {
        let picked = shelf::select_with_context(self.rig, self.datastore, &BackupSelector::Latest)
            .await
            .ok()?;
        Some(picked.believed.manifest).filter(|manifest| {
            manifest.set.as_ref().is_some_and(|set| set.place == self.settings.place)
        })
    }
}

/// Tags of everything that belongs to a set.
#[must_use]
pub fn tags(vault: &VaultId, datastore: &DatastoreName, backup: &BackupId) -> ResourceTags {
    ResourceTags::from([
        (tag::VAULT.to_owned(), vault.to_string()),
        (tag::DATASTORE.to_owned(), datastore.to_string()),
        (tag::BACKUP.to_owned(), backup.to_string()),
    ])
}

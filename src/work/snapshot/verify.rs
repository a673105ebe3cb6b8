//! Verifying a set without an instance: every block of every snapshot is compared with the hash
//! recorded when it was taken.

use std::sync::Arc;

use serde::Serialize;

use super::blocks::{self, RecordedBlocks};
use crate::domain::manifest::Manifest;
use crate::domain::volumes::{
    NotProtected, SetMember, SetPlace, SnapshotId, SnapshotProgress, VolumeSet,
};
use crate::progress::ProgressStage;
use crate::volumes::VolumeStore;
use crate::work::verify::{VerifyReport, by_hand, not_looked_at};
use crate::work::{WorkContext, WorkError, shelf};

/// What was read of a set.
#[derive(Debug, Serialize)]
pub struct SetRead {
    /// Volumes whose snapshots were read.
    pub volumes: usize,
    /// Blocks that were read and compared.
    pub blocks: u64,
    /// Where they were read.
    pub read_in: SetPlace,
}

/// The set of a manifest.
///
/// # Errors
/// [`WorkError::Refused`] if it is a dump.
pub fn set_of(manifest: &Manifest) -> Result<&VolumeSet, WorkError> {
    manifest.set.as_ref().ok_or_else(|| WorkError::Refused {
        what: format!("backup {}", manifest.backup),
        why: "it is a dump, and no set of volumes".to_owned(),
        hint: "`lifeboat list` shows what there is".to_owned(),
    })
}

/// Where a set's snapshots can be read: where they were taken, or, if that does not have all of
/// them, where they were copied.
pub struct SnapshotSource {
    /// The place.
    pub volumes: Arc<dyn VolumeStore>,
    is_copy: bool,
}

impl SnapshotSource {
    /// Looks for a place that has every snapshot of a set, whole.
    ///
    /// # Errors
    /// [`WorkError::Set`] of the place where they were taken, if there is no other.
    pub async fn find(rig: &WorkContext, manifest: &Manifest) -> Result<Self, WorkError> {
        let set = set_of(manifest)?;
        let home = Self::open(rig, manifest, &set.place, false).await;
        match (home, &set.copied_to) {
            (Ok(home), _) => Ok(home),
            (Err(error), Some(copy)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the copies are used");
                Self::open(rig, manifest, copy, true).await
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The place where they were copied.
    ///
    /// # Errors
    /// [`WorkError::NotVerified`] if they were not.
    pub async fn elsewhere(rig: &WorkContext, manifest: &Manifest) -> Result<Self, WorkError> {
        match &set_of(manifest)?.copied_to {
            Some(copy) => Self::open(rig, manifest, copy, true).await,
            None => Err(WorkError::NotVerified(format!(
                "backup {} was not copied anywhere",
                manifest.backup
            ))),
        }
    }

    async fn open(
        rig: &WorkContext,
        manifest: &Manifest,
        place: &SetPlace,
        is_copy: bool,
    ) -> Result<Self, WorkError> {
        let failed = |source: super::SetError| WorkError::Set {
            datastore: manifest.datastore.clone(),
            source,
        };
        let volumes = rig.volumes.open(place).await.map_err(|error| failed(error.into()))?;
        let source = Self { volumes, is_copy };
        let ids = set_of(manifest)?.snapshots(is_copy);
        let found = source.volumes.snapshots(&ids).await.map_err(|error| failed(error.into()))?;
        for id in &ids {
            match found.iter().find(|snapshot| snapshot.id == *id) {
                None => return Err(failed(super::SetError::Vanished(id.clone()))),
                Some(snapshot) if snapshot.progress != SnapshotProgress::Completed => {
                    let why = snapshot.message.clone().unwrap_or_else(|| match snapshot.progress {
                        SnapshotProgress::Archived => {
                            "it is in the archive tier; a restore brings it back first".to_owned()
                        }
                        other => format!("{other:?}").to_lowercase(),
                    });
                    return Err(failed(NotProtected::Unfinished { id: id.clone(), why }.into()));
                }
                Some(_) => {}
            }
        }
        Ok(source)
    }

    /// The snapshot of a volume in this place.
    #[must_use]
    pub fn snapshot<'a>(&self, member: &'a SetMember) -> Option<&'a SnapshotId> {
        member.snapshot_in(self.is_copy).map(|(snapshot, _)| snapshot)
    }
}

/// Bytes that are read of a set.
#[must_use]
pub fn bytes_to_read(manifest: &Manifest) -> Option<u64> {
    manifest
        .set
        .as_ref()?
        .members
        .iter()
        .all(|member| member.blocks.is_some())
        .then(|| manifest.plain_bytes())
}

/// Whether every place has every snapshot: the blocks are read in one of them, and the other is
/// what a bad night needs.
async fn every_place(rig: &WorkContext, manifest: &Manifest) -> Result<(), WorkError> {
    let set = set_of(manifest)?;
    for (place, is_copy) in set.places() {
        match SnapshotSource::open(rig, manifest, place, is_copy).await {
            Err(WorkError::Set { source: super::SetError::Vanished(id), .. }) => {
                return Err(WorkError::Damaged {
                    what: format!("the set of backup {}", manifest.backup),
                    why: format!("snapshot {id} in {place} is gone; the rest is whole"),
                });
            }
            // Archived, or a region that does not answer: nothing is known to be missing.
            Err(error) => {
                tracing::warn!(%place, error = &error as &dyn std::error::Error, "a place of the set is not looked at")
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Verifies a set.
///
/// # Errors
/// [`WorkError`] for the first thing that is not whole; [`WorkError::NotVerified`] if no hashes
/// were recorded, so that nothing can be said.
pub async fn verify(
    rig: &WorkContext,
    manifest: &Manifest,
    signature_verified: bool,
) -> Result<VerifyReport, WorkError> {
    let set = set_of(manifest)?;
    let shelf::OpenedBackup { identity, slot, number, mut defects } =
        shelf::open_backup(rig, manifest).await?;
    let source = SnapshotSource::find(rig, manifest).await?;
    let stage: Arc<ProgressStage> = rig.progress.begin("verify", bytes_to_read(manifest));
    let mut blocks = 0;
    for (index, member) in set.members.iter().enumerate() {
        let Some(payload) = blocks::payload_of(manifest, index) else {
            return Err(WorkError::NotVerified(format!(
                "no hashes were recorded of {} (hash = false), so nothing can be said about its blocks",
                member.volume
            )));
        };
        let Some(snapshot) = source.snapshot(member) else { continue };
        stage.item(Some(member.volume.to_string()));
        let recorded = RecordedBlocks::open(rig, payload, &identity).await?;
        blocks += blocks::walk(
            rig,
            manifest,
            (source.volumes.as_ref(), snapshot),
            Some(recorded),
            &stage,
            |_, _| Ok(()),
        )
        .await?;
    }
    stage.end();
    let mut unseen = vec!["whether the file systems can be mounted, and what lives on them starts: only a drill shows that".to_owned()];
    by_hand(rig, manifest, &identity, number, &mut defects, &mut unseen).await?;
    if !defects.is_empty() {
        return Err(WorkError::Damaged {
            what: format!("what stands beside the hashes of backup {}", manifest.backup),
            why: format!(
                "{}. The snapshots are whole, and the hashes open with slot {slot}",
                defects.join("; ")
            ),
        });
    }
    every_place(rig, manifest).await?;
    if set.copied_to.is_some() && !source.is_copy {
        unseen.push("the blocks of the copies".to_owned());
    }
    let read =
        SetRead { volumes: set.members.len(), blocks, read_in: source.volumes.place().clone() };
    let unseen = not_looked_at(rig, manifest, signature_verified, &slot, unseen);
    Ok(VerifyReport {
        set: Some(read),
        ..VerifyReport::of(manifest, signature_verified, slot, unseen)
    })
}

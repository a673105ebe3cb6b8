//! A decorator that flips one bit of the first block that is read, for negative controls. The
//! volumes themselves are not touched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{BlockPage, BlockRef, NewVolume, SnapshotRequest, VolumeStore, VolumesError};
use crate::domain::volumes::{
    InstanceId, LockState, ResourceTags, SetPlace, SnapshotId, SnapshotInfo, SnapshotLock,
    VolumeId, VolumeInfo, VolumeSelection,
};

/// The decorator. It reads; whatever would change anything is refused.
pub struct DamagedVolumes {
    sound: Arc<dyn VolumeStore>,
    done: AtomicBool,
}

impl DamagedVolumes {
    /// Turns a bit of the next block that is read.
    #[must_use]
    pub fn new(sound: Arc<dyn VolumeStore>) -> Self {
        Self { sound, done: AtomicBool::new(false) }
    }

    fn refused<T>(&self, what: &str) -> Result<T, VolumesError> {
        Err(VolumesError::Refused {
            what: what.to_owned(),
            place: self.place().to_string(),
            why: "they are only looked at".to_owned(),
        })
    }
}

#[async_trait]
impl VolumeStore for DamagedVolumes {
    fn place(&self) -> &SetPlace {
        self.sound.place()
    }
    fn cuts_together(&self) -> bool {
        self.sound.cuts_together()
    }
    async fn select(&self, wanted: &VolumeSelection) -> Result<Vec<VolumeInfo>, VolumesError> {
        self.sound.select(wanted).await
    }
    async fn cut(&self, _: &SnapshotRequest) -> Result<Vec<SnapshotInfo>, VolumesError> {
        self.refused("taking snapshots")
    }
    async fn name(&self, _: &[SnapshotId]) -> Result<(), VolumesError> {
        self.refused("tagging snapshots")
    }
    async fn snapshots(&self, ids: &[SnapshotId]) -> Result<Vec<SnapshotInfo>, VolumesError> {
        self.sound.snapshots(ids).await
    }
    async fn tagged(&self, tags: &ResourceTags) -> Result<Vec<SnapshotInfo>, VolumesError> {
        self.sound.tagged(tags).await
    }
    async fn users(
        &self,
        ids: &[SnapshotId],
    ) -> Result<BTreeMap<SnapshotId, Vec<String>>, VolumesError> {
        self.sound.users(ids).await
    }
    async fn delete(&self, _: &SnapshotId) -> Result<(), VolumesError> {
        self.refused("deleting a snapshot")
    }
    async fn copy(
        &self,
        _: &dyn VolumeStore,
        _: &SnapshotId,
        _: &str,
        _: &ResourceTags,
    ) -> Result<SnapshotId, VolumesError> {
        self.refused("copying a snapshot")
    }
    async fn share(&self, _: &SnapshotId, _: &str, _: bool) -> Result<(), VolumesError> {
        self.refused("sharing a snapshot")
    }
    async fn lock(&self, _: &SnapshotId, _: &SnapshotLock) -> Result<LockState, VolumesError> {
        self.refused("locking a snapshot")
    }
    async fn archive(&self, _: &SnapshotId) -> Result<(), VolumesError> {
        self.refused("archiving a snapshot")
    }
    async fn recover(&self, _: &SnapshotId, _: u32) -> Result<(), VolumesError> {
        self.refused("bringing a snapshot back")
    }
    async fn blocks(
        &self,
        id: &SnapshotId,
        since: Option<&SnapshotId>,
        page: Option<&str>,
    ) -> Result<BlockPage, VolumesError> {
        self.sound.blocks(id, since, page).await
    }
    async fn read(&self, id: &SnapshotId, block: &BlockRef) -> Result<Bytes, VolumesError> {
        let bytes = self.sound.read(id, block).await?;
        if self.done.swap(true, Ordering::SeqCst) {
            return Ok(bytes);
        }
        let mut bytes = BytesMut::from(bytes);
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        Ok(bytes.freeze())
    }
    async fn create(&self, _: &NewVolume) -> Result<VolumeId, VolumesError> {
        self.refused("making a volume")
    }
    async fn volumes(&self, tags: &ResourceTags) -> Result<Vec<VolumeInfo>, VolumesError> {
        self.sound.volumes(tags).await
    }
    async fn attach(&self, _: &VolumeId, _: &InstanceId, _: &str) -> Result<(), VolumesError> {
        self.refused("attaching a volume")
    }
    async fn detach(&self, _: &VolumeId) -> Result<(), VolumesError> {
        self.refused("detaching a volume")
    }
    async fn delete_volume(&self, _: &VolumeId) -> Result<(), VolumesError> {
        self.refused("deleting a volume")
    }
}

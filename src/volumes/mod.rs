//! Volumes and their snapshots: EBS, or files that behave like it.
//!
//! The contract, which `tests/it/volumes/contract.rs` runs on every adapter:
//!
//! - A call that returned is not done. [`VolumeStore::cut`], [`VolumeStore::copy`] and
//!   [`VolumeStore::create`] begin something; only the state that [`VolumeStore::snapshots`] and
//!   [`VolumeStore::volumes`] tell later says what became of it, and a refused key shows up nowhere
//!   else.
//! - Everything is tagged in the call that makes it. After [`VolumesError::Unknown`] the thing may
//!   be there or not: look for the tags before trying again.
//! - Lists are complete or fail.
//! - [`VolumeStore::delete`], [`VolumeStore::delete_volume`] and [`VolumeStore::detach`] succeed if
//!   nothing is there. They take ids only of what was found by lifeboat's own tags.
//!
//! What is read is hostile until its hash has been compared by the caller.

pub mod damaged;
#[cfg(feature = "ec2")]
pub mod ebs;
pub mod local;
pub mod mounts;
pub mod watchdog;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::ErrorClass;
use crate::domain::volumes::{
    InstanceId, LockState, SetPlace, SnapshotId, SnapshotInfo, VolumeId, VolumeInfo,
};
pub use crate::domain::volumes::{ResourceTags, SnapshotLock, VolumeSelection};

/// Why volumes did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum VolumesError {
    /// There is no such thing (any more).
    #[error("{what} does not exist in {place}")]
    Missing {
        /// What.
        what: String,
        /// Where.
        place: String,
    },
    /// The service refused for good: permissions, a wrong argument, a thing in use.
    #[error("{what} was refused by {place}: {why}")]
    Refused {
        /// What was tried.
        what: String,
        /// Where.
        place: String,
        /// What the service said.
        why: String,
    },
    /// A limit of the service stands in the way for now: snapshots under way of one volume, copies
    /// under way to one region.
    #[error("{what} must wait in {place}: {why}")]
    Busy {
        /// What was tried.
        what: String,
        /// Where.
        place: String,
        /// What the service said.
        why: String,
    },
    /// A snapshot cannot be deleted: it is locked, or an image uses it.
    #[error("{id} cannot be deleted: {why}")]
    Held {
        /// The snapshot.
        id: SnapshotId,
        /// What the service said.
        why: String,
    },
    /// No answer, or one that says nothing: it may have happened or not.
    #[error("whether {what} happened in {place} is unknown: {why}")]
    Unknown {
        /// What was tried.
        what: String,
        /// Where.
        place: String,
        /// What came instead of an answer.
        why: String,
    },
    /// The service does not answer, or is throttled; nothing was changed.
    #[error("{place} cannot be reached for {what}: {why}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// Where.
        place: String,
        /// What came instead of an answer.
        why: String,
    },
    /// An answer that cannot be.
    #[error("the answer of {place} to {what} makes no sense: {why}")]
    Nonsense {
        /// What was asked.
        what: String,
        /// Where.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// This binary was built without what it takes.
    #[error("{0}")]
    Unusable(String),
}

impl VolumesError {
    /// Its class.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } | Self::Refused { .. } | Self::Held { .. } => {
                ErrorClass::SourceFailed
            }
            Self::Busy { .. } | Self::Unknown { .. } | Self::Unavailable { .. } => {
                ErrorClass::Unavailable
            }
            Self::Nonsense { .. } => ErrorClass::Integrity,
            Self::Unusable(_) => ErrorClass::Usage,
        }
    }
}

/// What is to be cut at one point in time.
#[derive(Debug, Clone)]
pub struct SnapshotRequest {
    /// The instance whose volumes are cut together; none: a single volume, attached or not.
    pub instance: Option<InstanceId>,
    /// The volumes; exactly one where there is no instance.
    pub volumes: Vec<VolumeId>,
    /// All other volumes of the instance, which must not be cut: boot and data.
    pub left_out: Vec<VolumeId>,
    /// Whether the instance's boot volume is among those left out.
    pub without_boot: bool,
    /// Whether nothing is written to the volumes until the call returns.
    pub still: bool,
    /// Tags of every snapshot, from its first moment.
    pub tags: ResourceTags,
    /// What people read in a console.
    pub description: String,
}

/// A block that a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRef {
    /// Which: its place in the volume in units of [`crate::domain::volumes::BLOCK_BYTES`].
    pub index: u32,
    /// What reads it; none if the snapshot no longer holds the block, which is possible for
    /// changes only.
    pub token: Option<String>,
}

/// Some of a snapshot's blocks, by index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockPage {
    /// The blocks, ascending.
    pub blocks: Vec<BlockRef>,
    /// What gives the next page.
    pub next: Option<String>,
}

/// A volume to be made from a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Availability zone.
    pub zone: String,
    /// Such as `gp3`.
    pub class: String,
    /// Provisioned I/O operations per second.
    pub iops: Option<u32>,
    /// Provisioned throughput in MiB/s.
    pub throughput: Option<u32>,
    /// The key it is encrypted under. Always named: without it a service takes its default key.
    pub key: String,
    /// MiB/s at which it is read in from the snapshot, from 100 to 300; none: on demand.
    pub initialization_rate: Option<u32>,
    /// The same text for the same wish: it is made once however often it is asked for. At most 64
    /// ASCII characters.
    pub token: String,
    /// Its tags.
    pub tags: ResourceTags,
}

/// One place where volumes and snapshots are: a region of an account, or a directory.
#[async_trait]
pub trait VolumeStore: Send + Sync {
    /// Where it is.
    fn place(&self) -> &SetPlace;

    /// Whether the volumes of one instance are cut at one moment while they are written to. If not,
    /// one volume is still cut at one.
    fn cuts_together(&self) -> bool;

    /// All volumes that are meant, the boot volume included, by id. Volumes that were asked for by
    /// id and are not there are an error; an empty list is not.
    async fn select(&self, wanted: &VolumeSelection) -> Result<Vec<VolumeInfo>, VolumesError>;

    /// Begins snapshots of volumes at one point in time: of all of them, or of none. They are there
    /// when this returns, and pending.
    async fn cut(&self, cut: &SnapshotRequest) -> Result<Vec<SnapshotInfo>, VolumesError>;

    /// Gives snapshots that were cut here the tags of their volumes, but for reserved ones, and
    /// each the id of its volume ([`crate::domain::volumes::tag::VOLUME`]). Apart from the cut,
    /// which may have to be quick; may be called again.
    async fn name(&self, ids: &[SnapshotId]) -> Result<(), VolumesError>;

    /// What is known of some snapshots, by id. Those that are not there are left out.
    async fn snapshots(&self, ids: &[SnapshotId]) -> Result<Vec<SnapshotInfo>, VolumesError>;

    /// The snapshots of this account that carry all of these tags, by id.
    async fn tagged(&self, tags: &ResourceTags) -> Result<Vec<SnapshotInfo>, VolumesError>;

    /// Images and other things that use a snapshot and keep it from being deleted, by name.
    async fn users(
        &self,
        ids: &[SnapshotId],
    ) -> Result<BTreeMap<SnapshotId, Vec<String>>, VolumesError>;

    /// Deletes a snapshot.
    async fn delete(&self, id: &SnapshotId) -> Result<(), VolumesError>;

    /// Begins a copy of a snapshot of another place into this one, under a key of this one.
    async fn copy(
        &self,
        from: &dyn VolumeStore,
        snapshot: &SnapshotId,
        key: &str,
        tags: &ResourceTags,
    ) -> Result<SnapshotId, VolumesError>;

    /// Lets another account copy a snapshot, or not any more.
    async fn share(&self, id: &SnapshotId, account: &str, may: bool) -> Result<(), VolumesError>;

    /// Locks a snapshot. One that is locked as long or longer stays as it is.
    async fn lock(&self, id: &SnapshotId, lock: &SnapshotLock) -> Result<LockState, VolumesError>;

    /// Moves a snapshot to the archive tier.
    async fn archive(&self, id: &SnapshotId) -> Result<(), VolumesError>;

    /// Asks for a snapshot to be brought back from the archive tier for so many days.
    async fn recover(&self, id: &SnapshotId, days: u32) -> Result<(), VolumesError>;

    /// A page of the blocks that a snapshot holds, or, with `since`, of those that differ from an
    /// older snapshot of the same volume.
    async fn blocks(
        &self,
        id: &SnapshotId,
        since: Option<&SnapshotId>,
        page: Option<&str>,
    ) -> Result<BlockPage, VolumesError>;

    /// Reads one block; [`crate::domain::volumes::BLOCK_BYTES`] bytes.
    async fn read(&self, id: &SnapshotId, block: &BlockRef) -> Result<Bytes, VolumesError>;

    /// Begins a volume.
    async fn create(&self, volume: &NewVolume) -> Result<VolumeId, VolumesError>;

    /// The volumes that carry all of these tags, by id.
    async fn volumes(&self, tags: &ResourceTags) -> Result<Vec<VolumeInfo>, VolumesError>;

    /// Begins to attach a volume.
    async fn attach(
        &self,
        volume: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), VolumesError>;

    /// Begins to detach a volume.
    async fn detach(&self, volume: &VolumeId) -> Result<(), VolumesError>;

    /// Deletes a volume.
    async fn delete_volume(&self, volume: &VolumeId) -> Result<(), VolumesError>;
}

/// Opens places by name. What is written in a manifest is opened like what is configured.
#[async_trait]
pub trait VolumeStores: Send + Sync {
    /// The place.
    ///
    /// # Errors
    /// [`VolumesError::Unusable`] if this binary cannot.
    async fn open(&self, place: &SetPlace) -> Result<Arc<dyn VolumeStore>, VolumesError>;
}

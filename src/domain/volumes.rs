//! Volumes, snapshots and the sets they form. A set is a backup: snapshots that belong together, of
//! which the manifest says how consistent they are with each other and in which way that is known.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::id::BackupId;

/// Bytes of a block of a snapshot: what the EBS direct APIs read and hash at once.
pub const BLOCK_BYTES: usize = 512 * 1024;
/// Volumes of one set.
pub const VOLUMES_MAX: usize = 128;

macro_rules! resource_id {
    ($name:ident, $prefix:literal, $what:literal) => {
        #[doc = concat!("Identifier of ", $what, ": `", $prefix, "` and up to 40 letters, digits and hyphens. Safe in paths, tags and shells.")]
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let rest = text.strip_prefix($prefix).unwrap_or_default();
                let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
                if rest.is_empty() || rest.len() > 40 || !rest.bytes().all(legal) {
                    return Err(format!(concat!("{:?} is not the id of ", $what, " (", $prefix, "…)"), text));
                }
                Ok(Self(text.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

resource_id!(VolumeId, "vol-", "a volume");
resource_id!(SnapshotId, "snap-", "a snapshot");
resource_id!(InstanceId, "i-", "an instance");

/// Tags by key.
pub type ResourceTags = BTreeMap<String, String>;

/// How consistent the volumes of a set are. Each is more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// As after a power cut: one point in time per instance.
    Crash,
    /// File systems were frozen around it: nothing was half written.
    Filesystem,
    /// Postgres can recover from it, whether or not the volumes were cut at one moment.
    Postgres,
}

impl Consistency {
    /// Its name in configuration and manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Filesystem => "filesystem",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where volumes and their snapshots are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum SetPlace {
    /// EBS, in one region of one account.
    Ebs {
        /// Region, such as `eu-west-1`.
        region: String,
        /// A role of the account that holds them, if it is another than the one lifeboat runs in.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<String>,
    },
    /// Files in a directory of this host: a stand-in for tests and demonstrations, which encrypts
    /// nothing.
    Local {
        /// The directory, absolute.
        directory: String,
    },
}

impl fmt::Display for SetPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ebs { region, role: None } => write!(f, "EBS in {region}"),
            Self::Ebs { region, role: Some(role) } => write!(f, "EBS in {region} (by {role})"),
            Self::Local { directory } => write!(f, "the files of {directory}"),
        }
    }
}

/// Where a volume is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeAttachment {
    /// The instance.
    pub instance: InstanceId,
    /// The device's name there, such as `/dev/sdf`.
    pub device: String,
    /// Whether the instance boots from it.
    pub boot: bool,
}

/// A volume as its place tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its id.
    pub id: VolumeId,
    /// Size in bytes.
    pub bytes: u64,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The key it is encrypted under, as an ARN.
    pub key: Option<String>,
    /// Availability zone.
    pub zone: String,
    /// Such as `gp3`.
    pub class: String,
    /// Provisioned I/O operations per second.
    pub iops: Option<u32>,
    /// Provisioned throughput in MiB/s.
    pub throughput: Option<u32>,
    /// The instance it is attached to, or about to be, or still.
    pub attached: Option<VolumeAttachment>,
    /// Whether it has arrived there: an attachment that was accepted may never come.
    pub arrived: bool,
    /// `creating`, `available`, `in-use`, `error` …
    pub state: String,
    /// The snapshot that it was made of, where the place tells.
    pub snapshot: Option<SnapshotId>,
    /// How much of it has been read in from its snapshot, in percent; none if it was not made from
    /// one or that is not known.
    pub hydrated_percent: Option<u8>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// Which volumes are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSelection {
    /// All that are attached to an instance.
    Instance(InstanceId),
    /// All that carry all of these tags.
    Tags(ResourceTags),
    /// These.
    Ids(Vec<VolumeId>),
}

/// How far a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotProgress {
    /// It is being made: so many percent.
    Pending(u8),
    /// It is whole.
    Completed,
    /// It failed; [`SnapshotInfo::message`] may say why.
    Failed,
    /// It must be brought back from the archive tier.
    Archived,
    /// It is being brought back.
    Recovering,
}

/// How a snapshot is protected against deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockKind {
    /// Whoever has the permission may unlock it.
    Governance,
    /// Nobody may, once the cooling-off is over.
    Compliance,
}

/// A lock to be put on a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotLock {
    /// Its kind.
    pub kind: LockKind,
    /// Days it holds, from 1 to 36,500.
    pub days: u32,
    /// Hours in which a compliance lock can still be undone, up to 72.
    pub cooling_off_hours: u32,
}

/// A lock as it stands on a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockState {
    /// Its kind.
    pub kind: LockKind,
    /// When it ends.
    pub until: Timestamp,
    /// Until when a compliance lock can still be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooling_off_until: Option<Timestamp>,
}

/// A snapshot as its place tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// The volume it was taken of; for a copy the place says nothing useful, and the tags do.
    pub volume: Option<VolumeId>,
    /// Size of the volume in bytes.
    pub bytes: u64,
    /// How far it is.
    pub progress: SnapshotProgress,
    /// What the place says about its state, such as a key that was refused.
    pub message: Option<String>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The key it is encrypted under, as an ARN.
    pub key: Option<String>,
    /// When it was begun.
    pub started: Timestamp,
    /// Its lock, if it has one that holds.
    pub lock: Option<LockState>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What whoever made it says of it.
    pub description: String,
}

/// How the description of every snapshot begins that lifeboat makes.
pub const OWN_DESCRIPTION: &str = "lifeboat: ";

impl SnapshotInfo {
    /// Whether it was made by something else, though it carries tags of ours: other tools copy the
    /// tags of the volumes and snapshots that they work on, and what they make is theirs.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        !self.description.starts_with(OWN_DESCRIPTION)
    }
}

/// A whole snapshot under a key of its owner. Made only from facts that say so; what a set says of
/// its keys comes from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedSnapshot(SnapshotInfo);

impl EncryptedSnapshot {
    /// The facts.
    #[must_use]
    pub fn facts(&self) -> &SnapshotInfo {
        &self.0
    }
    /// The key, as an ARN.
    #[must_use]
    pub fn key(&self) -> &str {
        self.0.key.as_deref().unwrap_or_default()
    }
}

/// Why a snapshot cannot stand for a volume in a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotProtected {
    /// It is not whole.
    #[error("snapshot {id} is not whole: {why}")]
    Unfinished {
        /// The snapshot.
        id: SnapshotId,
        /// Its state, and what its place says about it.
        why: String,
    },
    /// It is not encrypted.
    #[error("snapshot {0} is not encrypted")]
    Plain(SnapshotId),
    /// It is encrypted under a key that the policy does not allow, or nobody says under which.
    #[error("snapshot {id} is encrypted under {found}, which kms_keys does not allow")]
    OtherKey {
        /// The snapshot.
        id: SnapshotId,
        /// The key.
        found: String,
    },
}

impl SnapshotInfo {
    /// The snapshot as one that protects its volume: whole, encrypted, under one of the allowed
    /// keys.
    ///
    /// # Errors
    /// [`NotProtected`] says what is missing.
    pub fn protect(self, allowed: &[String]) -> Result<EncryptedSnapshot, NotProtected> {
        match self.progress {
            SnapshotProgress::Completed | SnapshotProgress::Archived => {}
            state => {
                let why =
                    self.message.clone().unwrap_or_else(|| format!("{state:?}").to_lowercase());
                return Err(NotProtected::Unfinished { id: self.id, why });
            }
        }
        if !self.encrypted {
            return Err(NotProtected::Plain(self.id));
        }
        match &self.key {
            Some(key) if allowed.iter().any(|allowed| allowed == key) => {
                Ok(EncryptedSnapshot(self))
            }
            found => {
                let found = found.clone().unwrap_or_else(|| "an unnamed key".to_owned());
                Err(NotProtected::OtherKey { id: self.id, found })
            }
        }
    }
}

/// A copy of a snapshot in another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotCopy {
    /// The copy.
    pub snapshot: SnapshotId,
    /// The key it is encrypted under, as an ARN.
    pub key: String,
}

/// One volume of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetMember {
    /// The volume.
    pub volume: VolumeId,
    /// Where it was attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<VolumeAttachment>,
    /// Its size in bytes.
    pub bytes: u64,
    /// Such as `gp3`.
    pub class: String,
    /// Provisioned I/O operations per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// Provisioned throughput in MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    /// Its availability zone.
    pub zone: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The key the snapshot is encrypted under, as an ARN.
    pub key: String,
    /// When the snapshot was begun, by its place's clock.
    pub started: Timestamp,
    /// Its copy in the set's other place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<SnapshotCopy>,
    /// Blocks that hold something, if they were hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<u64>,
    /// Blocks that differ from the set before, if that one was hashed too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<u64>,
}

impl SetMember {
    /// Its snapshot and the key of that, where it was taken or where it was copied; none if it was
    /// not copied.
    #[must_use]
    pub fn snapshot_in(&self, copies: bool) -> Option<(&SnapshotId, &str)> {
        match copies {
            true => self.copy.as_ref().map(|copy| (&copy.snapshot, copy.key.as_str())),
            false => Some((&self.snapshot, self.key.as_str())),
        }
    }
}

/// How Postgres was brought to a state it can recover from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "by", deny_unknown_fields)]
pub enum PostgresCut {
    /// All volumes were cut at one moment, just after a checkpoint: recovery is that after a crash.
    Checkpoint,
    /// The volumes were cut within an online backup, the one with `pg_wal` after its end: the label
    /// must stand in the data directory before the server is started.
    OnlineBackup {
        /// Content of `backup_label`.
        label: String,
        /// Content of `tablespace_map`, empty where there are no tablespaces.
        tablespace_map: String,
        /// Position in the WAL at which recovery begins.
        start_lsn: String,
        /// Position in the WAL that recovery must reach.
        stop_lsn: String,
        /// The volume with `pg_wal`, cut last.
        wal_volume: VolumeId,
    },
}

/// What a set is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSet {
    /// Where volumes and snapshots are.
    pub place: SetPlace,
    /// The value of the tag [`tag::BACKUP`] on its snapshots: the backup's own id, unless the run
    /// that cut them died while it published.
    pub tagged: BackupId,
    /// What was achieved; never less than was asked for.
    pub consistency: Consistency,
    /// Whether all volumes were cut at one point in time.
    pub one_moment: bool,
    /// From the first cut to the last, in milliseconds; 0 for one moment.
    pub cut_millis: u64,
    /// How long file systems stood still, in milliseconds; none if they were not frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_millis: Option<u64>,
    /// How Postgres was made ready, for `postgres`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresCut>,
    /// The volumes.
    pub members: Vec<SetMember>,
    /// Where the copies are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied_to: Option<SetPlace>,
    /// The lock that was put on every snapshot and copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockState>,
}

impl VolumeSet {
    /// Why the set cannot be what it says, if so.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn sound(&self) -> Result<(), String> {
        if self.members.is_empty() || self.members.len() > VOLUMES_MAX {
            return Err(format!(
                "a set has 1 to {VOLUMES_MAX} volumes, and this one {}",
                self.members.len()
            ));
        }
        let volumes: std::collections::BTreeSet<&VolumeId> =
            self.members.iter().map(|member| &member.volume).collect();
        let snapshots: std::collections::BTreeSet<&SnapshotId> =
            self.members.iter().map(|member| &member.snapshot).collect();
        if volumes.len() != self.members.len() || snapshots.len() != self.members.len() {
            return Err("a volume or a snapshot is in the set twice".to_owned());
        }
        if self.copied_to.is_some() != self.members.iter().all(|member| member.copy.is_some()) {
            return Err("it says that it is copied, and not every volume has a copy".to_owned());
        }
        if (self.consistency == Consistency::Postgres) != self.postgres.is_some() {
            return Err("it does not say how Postgres was made ready".to_owned());
        }
        let known = |volume: &VolumeId| volumes.contains(volume);
        match &self.postgres {
            Some(PostgresCut::Checkpoint) if !self.one_moment => {
                Err("a checkpoint is not enough for volumes cut one after another".to_owned())
            }
            Some(PostgresCut::OnlineBackup { wal_volume, .. }) if !known(wal_volume) => {
                Err(format!("{wal_volume} is not in the set"))
            }
            _ => Ok(()),
        }
    }

    /// The places that have its snapshots: where they were taken, and then where they were copied;
    /// and whether it is the latter.
    pub fn places(&self) -> impl Iterator<Item = (&SetPlace, bool)> {
        std::iter::once((&self.place, false))
            .chain(self.copied_to.as_ref().map(|place| (place, true)))
    }

    /// Its snapshots where they were taken, or where they were copied, in the order of the volumes.
    #[must_use]
    pub fn snapshots(&self, copies: bool) -> Vec<SnapshotId> {
        self.members
            .iter()
            .filter_map(|member| Some(member.snapshot_in(copies)?.0.clone()))
            .collect()
    }

    /// Bytes of all volumes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.bytes).sum()
    }
}

/// Tags that say whose a snapshot or volume is. Nothing that lacks them is ever touched.
pub mod tag {
    /// The vault's id.
    pub const VAULT: &str = "lifeboat:vault";
    /// The datastore's name.
    pub const DATASTORE: &str = "lifeboat:datastore";
    /// The backup's id.
    pub const BACKUP: &str = "lifeboat:backup";
    /// The volume a snapshot was taken of, or stands for.
    pub const VOLUME: &str = "lifeboat:volume";
    /// What a restored volume belongs to.
    pub const RESTORE: &str = "lifeboat:restore";
}

#[cfg(test)]
mod tests;

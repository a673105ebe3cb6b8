//! Volumes as files of a directory: a stand-in for EBS in tests and demonstrations, shipped and
//! documented (docs/VOLUMES.md).
//!
//! ```text
//! volumes/<vol-…>/disk, volume.json       a block device's content, and what EBS would tell of it
//! snapshots/<snap-…>/disk, snapshot.json  a clone of it
//! ```
//!
//! A disk is attached to the host with `losetup`. A snapshot is a reflink where the file system can
//! (XFS, btrfs), which is one moment of one volume; elsewhere a copy, which is a moment only while
//! nothing is written. Nothing is encrypted: `encrypted` and `key` in `volume.json` are
//! what the stand-in answers, so that the rules about them can be rehearsed. What it has in common
//! with EBS is the contract of [`super`]; what it has not: images, accounts, instances (any id is
//! one), pending states that take time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{BlockPage, BlockRef, NewVolume, SnapshotRequest, VolumeStore, VolumesError};
use crate::domain::volumes::{
    BLOCK_BYTES, InstanceId, LockKind, LockState, OWN_DESCRIPTION, ResourceTags, SetPlace,
    SnapshotId, SnapshotInfo, SnapshotLock, SnapshotProgress, VolumeAttachment, VolumeId,
    VolumeInfo, VolumeSelection, tag,
};

/// Blocks of one page.
const PAGE_BLOCKS: usize = 1000;
const DISK: &str = "disk";
const VOLUME: &str = "volume.json";
const SNAPSHOT: &str = "snapshot.json";

/// A directory of volumes and snapshots.
#[derive(Debug, Clone)]
pub struct LocalVolumes {
    place: SetPlace,
    directory: PathBuf,
}

/// `volume.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeFile {
    zone: String,
    class: String,
    encrypted: bool,
    key: Option<String>,
    #[serde(default)]
    iops: Option<u32>,
    #[serde(default)]
    throughput: Option<u32>,
    #[serde(default)]
    attached: Option<VolumeAttachment>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    tags: ResourceTags,
    /// What it was made of.
    #[serde(default)]
    snapshot: Option<SnapshotId>,
}

fn own_description() -> String {
    OWN_DESCRIPTION.to_owned()
}

/// `snapshot.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotFile {
    volume: Option<VolumeId>,
    encrypted: bool,
    key: Option<String>,
    started: Timestamp,
    tags: ResourceTags,
    /// Earlier versions wrote none.
    #[serde(default = "own_description")]
    description: String,
    #[serde(default)]
    lock: Option<LockState>,
    #[serde(default)]
    archived: bool,
    #[serde(default)]
    recovered_until: Option<Timestamp>,
}

impl LocalVolumes {
    /// The stand-in in a directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            place: SetPlace::Local { directory: directory.display().to_string() },
            directory: directory.to_owned(),
        }
    }

    fn home(&self, kind: &str, id: &str) -> PathBuf {
        self.directory.join(kind).join(id)
    }
    fn volume_home(&self, id: &VolumeId) -> PathBuf {
        self.home("volumes", id.as_str())
    }
    fn snapshot_home(&self, id: &SnapshotId) -> PathBuf {
        self.home("snapshots", id.as_str())
    }

    fn failed(&self, what: &str) -> impl Fn(std::io::Error) -> VolumesError {
        let (what, place) = (what.to_owned(), self.place.to_string());
        move |error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                VolumesError::Missing { what: what.clone(), place: place.clone() }
            }
            _ => VolumesError::Unavailable {
                what: what.clone(),
                place: place.clone(),
                why: error.to_string(),
            },
        }
    }
    fn refused(&self, what: impl Into<String>, why: impl Into<String>) -> VolumesError {
        VolumesError::Refused { what: what.into(), place: self.place.to_string(), why: why.into() }
    }

    fn load<T: DeserializeOwned>(&self, what: &str, file: &Path) -> Result<T, VolumesError> {
        let bytes = std::fs::read(file).map_err(self.failed(what))?;
        serde_json::from_slice(&bytes).map_err(|error| VolumesError::Nonsense {
            what: what.to_owned(),
            place: self.place.to_string(),
            why: format!("{}: {error}", file.display()),
        })
    }

    /// Replaces a file of facts as a whole.
    fn store(&self, what: &str, file: &Path, facts: &impl Serialize) -> Result<(), VolumesError> {
        let failed = self.failed(what);
        let parent = file.parent().unwrap_or(&self.directory);
        let mut draft = tempfile::NamedTempFile::new_in(parent).map_err(&failed)?;
        let text = serde_json::to_vec_pretty(facts).map_err(|error| failed(error.into()))?;
        draft.write_all(&text).map_err(&failed)?;
        draft.persist(file).map_err(|error| failed(error.error))?;
        Ok(())
    }

    fn ids<T: std::str::FromStr>(&self, kind: &str) -> Result<Vec<T>, VolumesError> {
        let directory = self.directory.join(kind);
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(&format!("listing {kind}"))(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(self.failed(&format!("listing {kind}")))?;
            names.extend(entry.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn volume(&self, id: &VolumeId) -> Result<VolumeInfo, VolumesError> {
        let (home, what) = (self.volume_home(id), format!("volume {id}"));
        let facts: VolumeFile = self.load(&what, &home.join(VOLUME))?;
        let bytes = std::fs::metadata(home.join(DISK)).map_err(self.failed(&what))?.len();
        let state = if facts.attached.is_some() { "in-use" } else { "available" }.to_owned();
        let VolumeFile {
            zone,
            class,
            encrypted,
            key,
            iops,
            throughput,
            attached,
            tags,
            snapshot,
            ..
        } = facts;
        Ok(VolumeInfo {
            id: id.clone(),
            bytes,
            encrypted,
            key,
            zone,
            class,
            iops,
            throughput,
            arrived: attached.is_some(),
            attached,
            state,
            snapshot,
            hydrated_percent: Some(100),
            tags,
        })
    }

    fn snapshot(&self, id: &SnapshotId) -> Result<SnapshotInfo, VolumesError> {
        let (home, what) = (self.snapshot_home(id), format!("snapshot {id}"));
        let facts: SnapshotFile = self.load(&what, &home.join(SNAPSHOT))?;
        let bytes = std::fs::metadata(home.join(DISK)).map_err(self.failed(&what))?.len();
        let now = Timestamp::now();
        let recovered = facts.recovered_until.is_some_and(|until| until > now);
        Ok(SnapshotInfo {
            id: id.clone(),
            volume: facts.volume,
            bytes,
            progress: if facts.archived && !recovered {
                SnapshotProgress::Archived
            } else {
                SnapshotProgress::Completed
            },
            message: None,
            encrypted: facts.encrypted,
            key: facts.key,
            started: facts.started,
            lock: facts.lock.filter(|lock| lock.until > now),
            tags: facts.tags,
            description: facts.description,
        })
    }

    fn all_volumes(&self) -> Result<Vec<VolumeInfo>, VolumesError> {
        self.ids::<VolumeId>("volumes")?.iter().map(|id| self.volume(id)).collect()
    }

    fn cut_one(&self, cut: &SnapshotRequest, id: &VolumeId) -> Result<SnapshotInfo, VolumesError> {
        let what = format!("taking a snapshot of {id}");
        let volume = self.volume(id)?;
        let snapshot = new_id();
        let home = self.snapshot_home(&snapshot);
        std::fs::create_dir_all(&home).map_err(self.failed(&what))?;
        let cloned = clone(&self.volume_home(id).join(DISK), &home.join(DISK), cut.still)
            .map_err(|why| self.refused(&what, why));
        let facts = SnapshotFile {
            volume: Some(id.clone()),
            encrypted: volume.encrypted,
            key: volume.key,
            started: Timestamp::now(),
            tags: cut.tags.clone(),
            description: cut.description.clone(),
            lock: None,
            archived: false,
            recovered_until: None,
        };
        let stored = cloned.and_then(|()| self.store(&what, &home.join(SNAPSHOT), &facts));
        if let Err(error) = stored {
            let _ = std::fs::remove_dir_all(&home);
            return Err(error);
        }
        self.snapshot(&snapshot)
    }

    fn change<T>(
        &self,
        id: &SnapshotId,
        change: impl FnOnce(&mut SnapshotFile) -> T,
    ) -> Result<T, VolumesError> {
        let (file, what) = (self.snapshot_home(id).join(SNAPSHOT), format!("snapshot {id}"));
        let mut facts: SnapshotFile = self.load(&what, &file)?;
        let done = change(&mut facts);
        self.store(&what, &file, &facts)?;
        Ok(done)
    }

    fn change_volume(
        &self,
        id: &VolumeId,
        change: impl FnOnce(&mut VolumeFile),
    ) -> Result<(), VolumesError> {
        let (file, what) = (self.volume_home(id).join(VOLUME), format!("volume {id}"));
        let mut facts: VolumeFile = self.load(&what, &file)?;
        change(&mut facts);
        self.store(&what, &file, &facts)
    }

    /// The disk of a snapshot that can be read.
    fn disk(&self, id: &SnapshotId) -> Result<File, VolumesError> {
        if self.snapshot(id)?.progress == SnapshotProgress::Archived {
            return Err(self.refused(format!("reading {id}"), "it is in the archive tier"));
        }
        File::open(self.snapshot_home(id).join(DISK))
            .map_err(self.failed(&format!("snapshot {id}")))
    }

    fn page(
        &self,
        id: &SnapshotId,
        since: Option<&SnapshotId>,
        page: Option<&str>,
    ) -> Result<BlockPage, VolumesError> {
        let what = format!("listing the blocks of {id}");
        let (disk, before) = (self.disk(id)?, since.map(|since| self.disk(since)).transpose()?);
        let mut index: u32 =
            page.unwrap_or("0").parse().map_err(|_| self.refused(&what, "no such page"))?;
        let length =
            |file: &File| file.metadata().map(|facts| facts.len()).map_err(self.failed(&what));
        let count =
            blocks_in(length(&disk)?.max(before.as_ref().map(length).transpose()?.unwrap_or(0)));
        let mut found = BlockPage::default();
        while index < count {
            if found.blocks.len() == PAGE_BLOCKS {
                found.next = Some(index.to_string());
                break;
            }
            // Over holes at once, where nothing is compared.
            if before.is_none() {
                index = match next_data(&disk, index) {
                    Some(next) => next,
                    None => break,
                };
            }
            let now = block(&disk, index).map_err(self.failed(&what))?;
            let holds = now.iter().any(|byte| *byte != 0);
            let listed = match &before {
                None => holds,
                Some(before) => block(before, index).map_err(self.failed(&what))? != now,
            };
            if listed {
                found
                    .blocks
                    .push(BlockRef { index, token: holds.then(|| format!("{id}-{index}")) });
            }
            index += 1;
        }
        Ok(found)
    }
}

fn blocks_in(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK_BYTES as u64)).unwrap_or(u32::MAX)
}

/// The next block at or after an index that is not a hole.
fn next_data(disk: &File, index: u32) -> Option<u32> {
    let from = u64::from(index) * BLOCK_BYTES as u64;
    match rustix::fs::seek(disk, rustix::fs::SeekFrom::Data(from)) {
        Ok(at) => Some(u32::try_from(at / BLOCK_BYTES as u64).unwrap_or(u32::MAX)),
        // Nothing but a hole to the end.
        Err(rustix::io::Errno::NXIO) => None,
        // A file system that does not know of holes.
        Err(_) => Some(index),
    }
}

/// One block; zeros behind the end.
fn block(disk: &File, index: u32) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; BLOCK_BYTES];
    let (mut filled, from) = (0, u64::from(index) * BLOCK_BYTES as u64);
    while filled < BLOCK_BYTES {
        match disk.read_at(&mut bytes[filled..], from + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(bytes)
}

/// A clone of a disk at one moment, or a copy of one that stands still.
fn clone(from: &Path, to: &Path, still: bool) -> Result<(), String> {
    let (source, target) = (
        File::open(from).map_err(|e| e.to_string())?,
        File::create_new(to).map_err(|e| e.to_string())?,
    );
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(()),
        Err(_) if still => copy_sparse(source, target).map_err(|error| error.to_string()),
        Err(error) => Err(format!(
            "the file system of {} cannot clone a file at one moment ({error}); keep volumes on XFS or btrfs, or freeze what is on them",
            from.display()
        )),
    }
}

fn copy_sparse(source: File, target: File) -> std::io::Result<()> {
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut index = 0;
    while let Some(next) = next_data(&source, index).filter(|next| *next < blocks_in(length)) {
        let bytes = block(&source, next)?;
        if bytes.iter().any(|byte| *byte != 0) {
            let at = u64::from(next) * BLOCK_BYTES as u64;
            let inside = usize::try_from(length - at).unwrap_or(BLOCK_BYTES).min(BLOCK_BYTES);
            target.write_all_at(&bytes[..inside], at)?;
        }
        index = next + 1;
    }
    Ok(())
}

fn new_id() -> SnapshotId {
    let text = format!("snap-{}", hex::encode(rand::random::<[u8; 8]>()));
    text.parse().unwrap_or_else(|_| unreachable!("hexadecimal digits are an id"))
}

fn carries(tags: &ResourceTags, wanted: &ResourceTags) -> bool {
    wanted.iter().all(|(key, value)| tags.get(key) == Some(value))
}

#[async_trait]
impl VolumeStore for LocalVolumes {
    fn place(&self) -> &SetPlace {
        &self.place
    }

    fn cuts_together(&self) -> bool {
        false
    }

    async fn select(&self, wanted: &VolumeSelection) -> Result<Vec<VolumeInfo>, VolumesError> {
        match wanted {
            VolumeSelection::Ids(ids) => ids.iter().map(|id| self.volume(id)).collect(),
            VolumeSelection::Tags(tags) => Ok(self
                .all_volumes()?
                .into_iter()
                .filter(|volume| carries(&volume.tags, tags))
                .collect()),
            VolumeSelection::Instance(instance) => {
                let of = |volume: &VolumeInfo| {
                    volume.attached.as_ref().is_some_and(|attached| attached.instance == *instance)
                };
                Ok(self.all_volumes()?.into_iter().filter(of).collect())
            }
        }
    }

    async fn cut(&self, cut: &SnapshotRequest) -> Result<Vec<SnapshotInfo>, VolumesError> {
        if cut.volumes.len() != 1 && !cut.still {
            return Err(self.refused(
                "taking snapshots",
                "several files cannot be cloned at one moment while they are written to",
            ));
        }
        let (this, cut) = (self.clone(), cut.clone());
        blocking(move || {
            let mut taken: Vec<SnapshotInfo> = Vec::new();
            for id in &cut.volumes {
                match this.cut_one(&cut, id) {
                    Ok(snapshot) => taken.push(snapshot),
                    Err(error) => {
                        for snapshot in taken {
                            let _ = std::fs::remove_dir_all(this.snapshot_home(&snapshot.id));
                        }
                        return Err(error);
                    }
                }
            }
            Ok(taken)
        })
        .await
    }

    async fn name(&self, ids: &[SnapshotId]) -> Result<(), VolumesError> {
        for id in ids {
            let Some(volume) = self.snapshot(id)?.volume else { continue };
            // The volume may be gone; its snapshot stands for it all the same.
            let mut own = self.volume(&volume).map(|volume| volume.tags).unwrap_or_default();
            own.retain(|key, _| !key.starts_with("lifeboat:"));
            self.change(id, |facts| {
                facts.tags.extend(own);
                facts.tags.insert(tag::VOLUME.to_owned(), volume.to_string());
            })?;
        }
        Ok(())
    }

    async fn snapshots(&self, ids: &[SnapshotId]) -> Result<Vec<SnapshotInfo>, VolumesError> {
        let mut found = Vec::new();
        for id in ids {
            match self.snapshot(id) {
                Ok(snapshot) => found.push(snapshot),
                Err(VolumesError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn tagged(&self, tags: &ResourceTags) -> Result<Vec<SnapshotInfo>, VolumesError> {
        let all = self.snapshots(&self.ids::<SnapshotId>("snapshots")?).await?;
        Ok(all.into_iter().filter(|snapshot| carries(&snapshot.tags, tags)).collect())
    }

    async fn users(
        &self,
        _: &[SnapshotId],
    ) -> Result<BTreeMap<SnapshotId, Vec<String>>, VolumesError> {
        Ok(BTreeMap::new())
    }

    async fn delete(&self, id: &SnapshotId) -> Result<(), VolumesError> {
        match self.snapshot(id) {
            Ok(SnapshotInfo { lock: Some(lock), .. }) => Err(VolumesError::Held {
                id: id.clone(),
                why: format!("it is locked until {}", lock.until),
            }),
            Ok(_) => std::fs::remove_dir_all(self.snapshot_home(id))
                .map_err(self.failed(&format!("deleting {id}"))),
            Err(VolumesError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn copy(
        &self,
        from: &dyn VolumeStore,
        snapshot: &SnapshotId,
        key: &str,
        tags: &ResourceTags,
    ) -> Result<SnapshotId, VolumesError> {
        let what = format!("copying {snapshot}");
        let SetPlace::Local { directory } = from.place() else {
            return Err(self.refused(what, "files are copied from files only"));
        };
        let source = LocalVolumes::new(Path::new(directory));
        let facts = source.snapshot(snapshot)?;
        let copy = SnapshotFile {
            volume: None,
            encrypted: facts.encrypted,
            key: Some(key.to_owned()),
            started: Timestamp::now(),
            tags: tags.clone(),
            description: format!("{OWN_DESCRIPTION}copy of {snapshot} in {directory}"),
            lock: None,
            archived: false,
            recovered_until: None,
        };
        let (this, disk) = (self.clone(), source.snapshot_home(snapshot).join(DISK));
        blocking(move || {
            let id = new_id();
            let home = this.snapshot_home(&id);
            std::fs::create_dir_all(&home).map_err(this.failed(&what))?;
            // A snapshot never changes.
            clone(&disk, &home.join(DISK), true).map_err(|why| this.refused(&what, why))?;
            this.store(&what, &home.join(SNAPSHOT), &copy)?;
            Ok(id)
        })
        .await
    }

    async fn share(&self, id: &SnapshotId, _: &str, _: bool) -> Result<(), VolumesError> {
        Err(self.refused(format!("sharing {id}"), "files of a directory belong to no account"))
    }

    async fn lock(&self, id: &SnapshotId, lock: &SnapshotLock) -> Result<LockState, VolumesError> {
        let now = Timestamp::now();
        let later = |hours: i64| {
            now.checked_add(SignedDuration::from_hours(hours)).unwrap_or(Timestamp::MAX)
        };
        let cooling_off = lock.kind == LockKind::Compliance && lock.cooling_off_hours > 0;
        let wanted = LockState {
            kind: lock.kind,
            until: later(24 * i64::from(lock.days)),
            cooling_off_until: cooling_off.then(|| later(i64::from(lock.cooling_off_hours))),
        };
        self.change(id, |facts| match facts.lock {
            Some(present)
                if present.until >= wanted.until
                    && (present.kind == wanted.kind || present.kind == LockKind::Compliance) =>
            {
                present
            }
            _ => *facts.lock.insert(wanted),
        })
    }

    async fn archive(&self, id: &SnapshotId) -> Result<(), VolumesError> {
        self.change(id, |facts| facts.archived = true)
    }

    async fn recover(&self, id: &SnapshotId, days: u32) -> Result<(), VolumesError> {
        let until = Timestamp::now()
            .checked_add(SignedDuration::from_hours(24 * i64::from(days)))
            .unwrap_or(Timestamp::MAX);
        self.change(id, |facts| facts.recovered_until = Some(until))
    }

    async fn blocks(
        &self,
        id: &SnapshotId,
        since: Option<&SnapshotId>,
        page: Option<&str>,
    ) -> Result<BlockPage, VolumesError> {
        let (this, id, since, page) =
            (self.clone(), id.clone(), since.cloned(), page.map(str::to_owned));
        blocking(move || this.page(&id, since.as_ref(), page.as_deref())).await
    }

    async fn read(&self, id: &SnapshotId, wanted: &BlockRef) -> Result<Bytes, VolumesError> {
        let (this, id, index) = (self.clone(), id.clone(), wanted.index);
        blocking(move || {
            block(&this.disk(&id)?, index)
                .map(Bytes::from)
                .map_err(this.failed(&format!("reading {id}")))
        })
        .await
    }

    async fn create(&self, volume: &NewVolume) -> Result<VolumeId, VolumesError> {
        let what = format!("making a volume of {}", volume.snapshot);
        for id in self.ids::<VolumeId>("volumes")? {
            let facts: VolumeFile = self.load(&what, &self.volume_home(&id).join(VOLUME))?;
            if facts.token.as_ref() == Some(&volume.token) {
                return Ok(id);
            }
        }
        self.disk(&volume.snapshot)?;
        let id: VolumeId = format!("vol-{}", hex::encode(rand::random::<[u8; 8]>()))
            .parse()
            .map_err(|why: String| self.refused(&what, why))?;
        let facts = VolumeFile {
            zone: volume.zone.clone(),
            class: volume.class.clone(),
            encrypted: true,
            key: Some(volume.key.clone()),
            iops: volume.iops,
            throughput: volume.throughput,
            attached: None,
            token: Some(volume.token.clone()),
            tags: volume.tags.clone(),
            snapshot: Some(volume.snapshot.clone()),
        };
        let (this, home, disk) =
            (self.clone(), self.volume_home(&id), self.snapshot_home(&volume.snapshot).join(DISK));
        blocking(move || {
            std::fs::create_dir_all(&home).map_err(this.failed(&what))?;
            clone(&disk, &home.join(DISK), true).map_err(|why| this.refused(&what, why))?;
            this.store(&what, &home.join(VOLUME), &facts)
        })
        .await?;
        Ok(id)
    }

    async fn volumes(&self, tags: &ResourceTags) -> Result<Vec<VolumeInfo>, VolumesError> {
        Ok(self.all_volumes()?.into_iter().filter(|volume| carries(&volume.tags, tags)).collect())
    }

    async fn attach(
        &self,
        volume: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), VolumesError> {
        let attachment =
            VolumeAttachment { instance: instance.clone(), device: device.to_owned(), boot: false };
        match self.volume(volume)?.attached {
            Some(present) if present != attachment => Err(self.refused(
                format!("attaching {volume}"),
                format!("it is attached to {} as {}", present.instance, present.device),
            )),
            _ => self.change_volume(volume, |facts| facts.attached = Some(attachment)),
        }
    }

    async fn detach(&self, volume: &VolumeId) -> Result<(), VolumesError> {
        match self.change_volume(volume, |facts| facts.attached = None) {
            Err(VolumesError::Missing { .. }) => Ok(()),
            done => done,
        }
    }

    async fn delete_volume(&self, volume: &VolumeId) -> Result<(), VolumesError> {
        match self.volume(volume) {
            Ok(VolumeInfo { attached: Some(attached), .. }) => Err(self.refused(
                format!("deleting {volume}"),
                format!("it is attached to {}", attached.instance),
            )),
            Ok(_) => std::fs::remove_dir_all(self.volume_home(volume))
                .map_err(self.failed(&format!("deleting {volume}"))),
            Err(VolumesError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumesError> + Send + 'static,
) -> Result<T, VolumesError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(VolumesError::Unusable(format!("a thread ended: {error}"))),
    }
}

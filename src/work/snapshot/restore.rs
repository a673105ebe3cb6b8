//! Restoring a set: as volumes in a zone, attached or handed over, or as disk images in a
//! directory.
//!
//! Everything is found by its tags and created under a client token, so the command is idempotent:
//! run again, it resumes, and reports the same when there is nothing left to do. A restore has a
//! name, for those who want the same set twice.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::blocks::{self, RecordedBlocks};
use super::verify::{SnapshotSource, bytes_to_read, set_of};
use super::{SetError, tags};
use crate::domain::evidence::RestoreRecord;
use crate::domain::human_duration::format_duration;
use crate::domain::manifest::Manifest;
use crate::domain::volumes::{
    InstanceId, ResourceTags, SetMember, SetPlace, SnapshotId, SnapshotProgress, VolumeId,
    VolumeInfo, VolumeSet, tag,
};
use crate::volumes::{NewVolume, VolumeStore, VolumesError};
use crate::work::restore::record_restore;
use crate::work::{WorkContext, WorkError, cancellable, shelf};

/// How long something that was asked for may be invisible: describing lags behind making.
const UNSEEN_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Days for which snapshots are brought back from the archive tier.
const RECOVERED_DAYS: u32 = 7;
/// How often in a row a place may fail to answer while something is waited for that takes days.
const SILENT_MAX: u32 = 60;
/// When a snapshot that is still archived is asked for again: what failed before is refused then,
/// and says why.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// How often a volume is made anew that ended in state `error` or was removed by its place.
const ATTEMPTS_MAX: u32 = 3;

/// What is wished for.
#[derive(Debug, Clone)]
pub struct VolumeRestoreOptions {
    /// Availability zone.
    pub zone: String,
    /// Such as `gp3`; none: as it was.
    pub class: Option<String>,
    /// Provisioned I/O operations per second; none: as it was.
    pub iops: Option<u32>,
    /// Provisioned throughput in MiB/s; none: as it was.
    pub throughput: Option<u32>,
    /// The key; none: the snapshot's.
    pub key: Option<String>,
    /// MiB/s at which volumes are read in; none: on demand.
    pub rate: Option<u32>,
    /// The instance they are attached to; none: they are handed over.
    pub attach: Option<InstanceId>,
    /// Tells this restore from another of the same set.
    pub name: String,
    /// Whether to wait until everything is read in.
    pub until_hydrated: bool,
    /// How long a volume may take to be made or attached before it is told; the same command goes
    /// on waiting.
    pub patience: Duration,
}

/// A volume that was made.
#[derive(Debug, Clone, Serialize)]
pub struct CreatedVolumes {
    /// The new volume.
    pub volume: VolumeId,
    /// The volume it stands for.
    pub of: VolumeId,
    /// The snapshot it was made of.
    pub snapshot: SnapshotId,
    /// Where it is attached.
    pub attached: Option<(InstanceId, String)>,
    /// How much of it has been read in, in percent, where that is known.
    pub hydrated_percent: Option<u8>,
    /// Whether it was there already.
    pub was_there: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct VolumesRestored {
    /// The backup.
    pub backup: String,
    /// Where the volumes are.
    pub place: SetPlace,
    /// Their zone.
    pub zone: String,
    /// The volumes.
    pub volumes: Vec<CreatedVolumes>,
    /// Seconds until every volume could be used. Blocks that are not read in yet are slow at
    /// first.
    pub seconds_to_first_use: f64,
    /// Seconds until everything was read in, if that was waited for.
    pub seconds_to_hydrated: Option<f64>,
    /// Whether `backup_label` must be written before Postgres is started.
    pub needs_label: bool,
    /// The number of its record in the evidence.
    pub recorded: Option<u64>,
}

struct SetRestore<'a> {
    rig: &'a WorkContext,
    manifest: &'a Manifest,
    set: &'a VolumeSet,
    wishes: &'a VolumeRestoreOptions,
    place: Arc<dyn VolumeStore>,
    is_copy: bool,
    /// Part of every token: a volume that vanished is remembered under its token, and a later run
    /// must get another. What an earlier run has made is found by its tags.
    run: u64,
}

/// Whether a zone lies in a place: zones of EBS are named like their region.
fn lies_in(zone: &str, place: &SetPlace) -> bool {
    match place {
        SetPlace::Ebs { region, .. } => zone.starts_with(region.as_str()),
        SetPlace::Local { .. } => true,
    }
}

/// The place whose snapshots a zone can use: where they were taken, or where they were copied.
///
/// # Errors
/// [`WorkError::Refused`] if the set has none there.
pub fn place_of<'a>(set: &'a VolumeSet, zone: &str) -> Result<(&'a SetPlace, bool), WorkError> {
    if lies_in(zone, &set.place) {
        return Ok((&set.place, false));
    }
    match set.copied_to.as_ref().filter(|place| lies_in(zone, place)) {
        Some(place) => Ok((place, true)),
        None => Err(WorkError::Refused {
            what: format!("--to zone:{zone}"),
            why: format!(
                "the set has no snapshots there: they are {}{}; nothing was changed",
                set.place,
                set.copied_to.as_ref().map(|place| format!(" and {place}")).unwrap_or_default()
            ),
            hint: "name a zone of one of these regions".to_owned(),
        }),
    }
}

/// Makes the volumes of a set, and attaches them if that is wished.
///
/// # Errors
/// [`WorkError`]; what was made is tagged, and the same command goes on with it.
pub async fn to_zone(
    rig: &WorkContext,
    manifest: &Manifest,
    verified: bool,
    wishes: &VolumeRestoreOptions,
) -> Result<VolumesRestored, WorkError> {
    let (begun, clock) = (Timestamp::now(), Instant::now());
    let set = set_of(manifest)?;
    let (place, is_copy) = place_of(set, &wishes.zone)?;
    let failed = |error: VolumesError| WorkError::Volumes {
        datastore: manifest.datastore.clone(),
        source: error.into(),
    };
    let volumes = rig.volumes.open(place).await.map_err(failed)?;
    let restoring =
        SetRestore { rig, manifest, set, wishes, place: volumes, is_copy, run: rand::random() };
    let recovering = restoring.recover().await?;
    let stage = rig.progress.begin("make volumes", None);
    let mut made = Vec::new();
    for member in &set.members {
        stage.item(Some(member.volume.to_string()));
        made.push(restoring.make(member).await?);
    }
    restoring.usable(&mut made).await?;
    if let Some(instance) = &wishes.attach {
        restoring.attach(instance, &mut made).await?;
    }
    stage.end();
    let first_use = clock.elapsed();
    let hydrated =
        if wishes.until_hydrated { Some(restoring.hydrate(&mut made, clock).await?) } else { None };
    let mut report = VolumesRestored {
        backup: manifest.backup.to_string(),
        place: place.clone(),
        zone: wishes.zone.clone(),
        volumes: made,
        seconds_to_first_use: first_use.as_secs_f64(),
        seconds_to_hydrated: hydrated.map(|took| took.as_secs_f64()),
        needs_label: matches!(
            set.postgres,
            Some(crate::domain::volumes::PostgresCut::OnlineBackup { .. })
        ),
        recorded: None,
    };
    // Nothing new was made: nothing new is recorded.
    if report.volumes.iter().any(|volume| !volume.was_there) {
        report.recorded = restoring.record(verified, begun, recovering, first_use).await;
    }
    Ok(report)
}

impl SetRestore<'_> {
    fn failed(&self, error: impl Into<SetError>) -> WorkError {
        WorkError::Volumes { datastore: self.manifest.datastore.clone(), source: error.into() }
    }

    async fn pause(&self) -> Result<(), WorkError> {
        cancellable(self.rig, tokio::time::sleep(LOOK_EVERY)).await
    }

    /// Brings snapshots back from the archive tier, which may take three days; how long it took.
    async fn recover(&self) -> Result<Duration, WorkError> {
        let begun = Instant::now();
        let ids = self.set.snapshots(self.is_copy);
        let (mut asked, mut silent): (Option<Instant>, u32) = (None, 0);
        let stage = self.rig.progress.begin("look at snapshots", None);
        loop {
            let found = match self.place.snapshots(&ids).await {
                Err(VolumesError::Unavailable { .. } | VolumesError::Unknown { .. })
                    if asked.is_some() && silent < SILENT_MAX =>
                {
                    silent += 1;
                    self.pause().await?;
                    continue;
                }
                found => found.map_err(|error| self.failed(error))?,
            };
            silent = 0;
            let ask = asked.is_none_or(|asked| asked.elapsed() > ASK_AGAIN);
            if let Some(gone) =
                ids.iter().find(|id| !found.iter().any(|snapshot| snapshot.id == **id))
            {
                return Err(self.failed(SetError::Vanished(gone.clone())));
            }
            let mut waiting = 0;
            for snapshot in &found {
                match snapshot.progress {
                    SnapshotProgress::Archived if ask => {
                        self.place
                            .recover(&snapshot.id, RECOVERED_DAYS)
                            .await
                            .map_err(|error| self.failed(error))?;
                        waiting += 1;
                    }
                    SnapshotProgress::Archived
                    | SnapshotProgress::Recovering
                    | SnapshotProgress::Pending(_) => waiting += 1,
                    SnapshotProgress::Completed => {}
                    SnapshotProgress::Failed => {
                        let why = snapshot
                            .message
                            .clone()
                            .unwrap_or_else(|| "its state is error".to_owned());
                        let id = snapshot.id.clone();
                        return Err(self
                            .failed(crate::domain::volumes::NotProtected::Unfinished { id, why }));
                    }
                }
            }
            if ask {
                asked = Some(Instant::now());
            }
            if waiting == 0 {
                stage.end();
                return Ok(begun.elapsed());
            }
            stage.item(Some(format!("{waiting} come back from the archive tier")));
            self.pause().await?;
        }
    }

    fn tags(&self, member: &SetMember) -> ResourceTags {
        let mut tags = tags(&self.manifest.vault, &self.manifest.datastore, &self.manifest.backup);
        tags.insert(tag::VOLUME.to_owned(), member.volume.to_string());
        tags.insert(tag::RESTORE.to_owned(), self.wishes.name.clone());
        tags
    }

    /// The volume that stands for a member in this restore, if there is one in this zone.
    async fn there(&self, member: &SetMember) -> Result<Option<VolumeInfo>, WorkError> {
        let found =
            self.place.volumes(&self.tags(member)).await.map_err(|error| self.failed(error))?;
        let is_here = |volume: &VolumeInfo| {
            volume.zone == self.wishes.zone && volume.state != "error" && volume.state != "deleting"
        };
        let is_of_it = |volume: &VolumeInfo| {
            volume.snapshot.as_ref()
                == member.snapshot_in(self.is_copy).map(|(snapshot, _)| snapshot)
        };
        let (of_it, others): (Vec<VolumeInfo>, Vec<VolumeInfo>) =
            found.into_iter().filter(is_here).partition(is_of_it);
        for other in others {
            tracing::warn!(volume = %other.id, "it carries the tags of this restore, and was made of another snapshot: it is left alone");
        }
        Ok(of_it.into_iter().next())
    }

    async fn make(&self, member: &SetMember) -> Result<CreatedVolumes, WorkError> {
        let Some((snapshot, key)) = member.snapshot_in(self.is_copy) else {
            return Err(WorkError::Bug("a copied set without a copy".to_owned()));
        };
        let of = |volume: VolumeId, was_there: bool| CreatedVolumes {
            volume,
            of: member.volume.clone(),
            snapshot: snapshot.clone(),
            attached: None,
            hydrated_percent: None,
            was_there,
        };
        let (mut attempt, mut lost) = (1, 0);
        while attempt <= ATTEMPTS_MAX && lost <= ATTEMPTS_MAX {
            if let Some(volume) = self.there(member).await? {
                return Ok(of(volume.id, attempt == 1 && lost == 0));
            }
            let mut wanted = self.wanted(member, snapshot, key);
            let wish = format!("{wanted:?} {attempt} {}", self.run);
            wanted.token = shelf::sha256(wish.as_bytes())[..48].to_owned();
            let id = match self.place.create(&wanted).await {
                Ok(id) => id,
                // The same token again: it is made once.
                Err(VolumesError::Unknown { .. }) => {
                    lost += 1;
                    self.pause().await?;
                    continue;
                }
                Err(error) => return Err(self.failed(error)),
            };
            attempt += 1;
            // A key that is refused shows up as a volume that is gone.
            if self.stays(member, &id, false).await? {
                return Ok(of(id, false));
            }
        }
        Err(self.never_came(snapshot))
    }

    fn never_came(&self, snapshot: &SnapshotId) -> WorkError {
        self.failed(VolumesError::Refused {
            what: format!("making a volume of {snapshot}"),
            place: self.place.place().to_string(),
            why: "it was begun and is gone; mostly that is its key, which EBS may not use"
                .to_owned(),
        })
    }

    fn wanted(&self, member: &SetMember, snapshot: &SnapshotId, key: &str) -> NewVolume {
        let wishes = self.wishes;
        let class = wishes.class.clone().unwrap_or_else(|| member.class.clone());
        let same = class == member.class;
        // What is fixed by the class must not be said.
        let provisioned = matches!(class.as_str(), "gp3" | "io1" | "io2");
        NewVolume {
            snapshot: snapshot.clone(),
            zone: wishes.zone.clone(),
            iops: wishes.iops.or(member.iops.filter(|_| same && provisioned)),
            throughput: wishes.throughput.or(member.throughput.filter(|_| same && class == "gp3")),
            class,
            key: wishes.key.clone().unwrap_or_else(|| key.to_owned()),
            initialization_rate: wishes.rate,
            token: String::new(),
            tags: self.tags(member),
        }
    }

    /// Whether a volume that was begun becomes one.
    async fn stays(
        &self,
        member: &SetMember,
        id: &VolumeId,
        mut seen: bool,
    ) -> Result<bool, WorkError> {
        let begun = Instant::now();
        loop {
            let found =
                self.place.volumes(&self.tags(member)).await.map_err(|error| self.failed(error))?;
            match found.iter().find(|volume| volume.id == *id).map(|volume| volume.state.as_str()) {
                Some("available" | "in-use") => return Ok(true),
                Some("error") => {
                    self.place.delete_volume(id).await.map_err(|error| self.failed(error))?;
                    return Ok(false);
                }
                Some(_) if begun.elapsed() > self.wishes.patience => {
                    return Err(self.late(id, "made"));
                }
                Some(_) => seen = true,
                None if seen || begun.elapsed() > UNSEEN_MAX => return Ok(false),
                None => {}
            }
            self.pause().await?;
        }
    }

    fn late(&self, id: &VolumeId, what: &str) -> WorkError {
        self.failed(VolumesError::Unavailable {
            what: format!("volume {id}"),
            place: self.place.place().to_string(),
            why: format!(
                "it is not {what} after {}; it keeps its tags, and the same command goes on waiting",
                format_duration(self.wishes.patience)
            ),
        })
    }

    /// Waits until every volume can be used.
    async fn usable(&self, made: &mut [CreatedVolumes]) -> Result<(), WorkError> {
        for (member, made) in self.set.members.iter().zip(made) {
            if !self.stays(member, &made.volume, true).await? {
                return Err(self.never_came(&made.snapshot));
            }
            self.tell(member, made).await?;
        }
        Ok(())
    }

    async fn tell(&self, member: &SetMember, made: &mut CreatedVolumes) -> Result<(), WorkError> {
        if let Some(volume) = self.there(member).await? {
            made.hydrated_percent = volume.hydrated_percent;
            made.attached =
                volume.attached.filter(|_| volume.arrived).map(|at| (at.instance, at.device));
        }
        Ok(())
    }

    /// Attaches every volume under the device it had, and waits until each has arrived.
    async fn attach(
        &self,
        instance: &InstanceId,
        made: &mut [CreatedVolumes],
    ) -> Result<(), WorkError> {
        for (index, (member, made)) in self.set.members.iter().zip(made).enumerate() {
            let device = member.attached.as_ref().filter(|at| !at.boot).map(|at| at.device.clone());
            let device = device.unwrap_or_else(|| {
                format!("/dev/sd{}", char::from(b'f' + u8::try_from(index % 11).unwrap_or(0)))
            });
            let begun = Instant::now();
            if made.attached.is_none() {
                match self.place.attach(&made.volume, instance, &device).await {
                    // Whether it happened is seen below.
                    Ok(()) | Err(VolumesError::Unknown { .. }) => {}
                    Err(error) => return Err(self.failed(error)),
                }
            }
            loop {
                self.tell(member, made).await?;
                match &made.attached {
                    Some((at, _)) if at == instance => break,
                    Some((at, _)) => {
                        return Err(self.failed(VolumesError::Refused {
                            what: format!("attaching {}", made.volume),
                            place: self.place.place().to_string(),
                            why: format!("it is attached to {at}"),
                        }));
                    }
                    None if begun.elapsed() > self.wishes.patience => {
                        return Err(self.late(&made.volume, "attached"));
                    }
                    None => self.pause().await?,
                }
            }
        }
        Ok(())
    }

    /// Waits until everything is read in.
    async fn hydrate(
        &self,
        made: &mut [CreatedVolumes],
        clock: Instant,
    ) -> Result<Duration, WorkError> {
        let stage = self.rig.progress.begin("read in", None);
        loop {
            for (member, made) in self.set.members.iter().zip(made.iter_mut()) {
                self.tell(member, made).await?;
            }
            let told: Vec<u8> = made.iter().filter_map(|made| made.hydrated_percent).collect();
            stage.item(told.iter().min().map(|percent| format!("{percent}%")));
            if told.iter().any(|percent| *percent < 100) {
                self.pause().await?;
            } else if told.len() == made.len() {
                break;
            } else {
                let silent = "nothing tells how much of every volume is read in; the volumes themselves are there";
                return Err(WorkError::NotVerified(silent.to_owned()));
            }
        }
        stage.end();
        Ok(clock.elapsed())
    }

    async fn record(
        &self,
        verified: bool,
        begun: Timestamp,
        recovering: Duration,
        took: Duration,
    ) -> Option<u64> {
        let manifest = self.manifest;
        let record = RestoreRecord {
            datastore: manifest.datastore.clone(),
            backup: manifest.backup.clone(),
            signature_verified: verified,
            opened_with: "snapshots".to_owned(),
            snapshot_time: manifest.source.snapshot_time,
            plain_bytes: manifest.plain_bytes(),
            begun,
            thaw_seconds: recovering.as_secs_f64(),
            seconds: took.saturating_sub(recovering).as_secs_f64(),
            whole: true,
            resumed: false,
            swapped: false,
            as_recorded: None,
            smoke: 0,
            smoke_failed: 0,
            server: format!("volumes in {}", self.wishes.zone),
        };
        record_restore(self.rig, record).await
    }
}

/// Name of the image of a volume.
#[must_use]
pub fn image_name(member: &SetMember) -> String {
    format!("{}.img", member.volume)
}

/// Writes every volume of a set as a disk image, sparse, each block compared with what was recorded
/// before it is written.
///
/// # Errors
/// [`WorkError`]; what was written is removed again.
pub async fn images(
    rig: &WorkContext,
    manifest: &Manifest,
    directory: &Path,
) -> Result<Vec<(String, u64)>, WorkError> {
    let set = set_of(manifest)?;
    let source = SnapshotSource::find(rig, manifest).await?;
    let identity = match set.members.iter().any(|member| member.blocks.is_some()) {
        true => Some(shelf::open_backup(rig, manifest).await?.identity),
        false => {
            tracing::warn!(
                "no hashes were recorded (hash = false): what is written is what the snapshots hold, compared with nothing"
            );
            None
        }
    };
    let stage = rig.progress.begin("read blocks", bytes_to_read(manifest));
    let mut written: Vec<(String, u64)> = Vec::new();
    for (index, member) in set.members.iter().enumerate() {
        stage.item(Some(member.volume.to_string()));
        let name = image_name(member);
        let write = async {
            let recorded = match (blocks::payload_of(manifest, index), &identity) {
                (Some(payload), Some(identity)) => {
                    Some(RecordedBlocks::open(rig, payload, identity).await?)
                }
                _ => None,
            };
            let snapshot = source
                .snapshot(member)
                .ok_or_else(|| WorkError::Bug("a copied set without a copy".to_owned()))?;
            let from = (source.volumes.as_ref(), snapshot);
            blocks::to_file(
                rig,
                manifest,
                from,
                recorded,
                (&directory.join(&name), member.bytes),
                &stage,
            )
            .await
        };
        if let Err(error) = write.await {
            for (name, _) in written.iter().chain([&(name, 0)]) {
                let _ = std::fs::remove_file(directory.join(name));
            }
            return Err(error);
        }
        written.push((name, member.bytes));
    }
    stage.end();
    Ok(written)
}

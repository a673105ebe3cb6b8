//! Selecting the volumes, and cutting them as consistently as was asked for.
//!
//! The strongest thing is one moment: all volumes of one instance in one call, or everything while
//! it stands still. Where there is no one moment, Postgres can still be had by an online backup,
//! whose label goes into the manifest and whose WAL is cut last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{OpenSet, SetBackup, SetError, SnapshotsTaken, keep};
use crate::config::VaultConfig;
use crate::domain::id::BackupId;
use crate::domain::manifest::SourceFacts;
use crate::domain::volumes::{
    Consistency, InstanceId, OWN_DESCRIPTION, PostgresCut, SetMember, SetPlace, SnapshotInfo,
    VOLUMES_MAX, VolumeId, VolumeInfo, VolumeSelection, VolumeSet,
};
use crate::failpoint;
use crate::pg::{PgConnection, PgSession, PgTools};
use crate::source::postgres::SourceError;
use crate::source::postgres::online::OnlineServer;
use crate::volumes::watchdog::{FreezePlan, FrozenVolumes};
use crate::volumes::{SnapshotRequest, VolumesError, mounts};
use crate::work::{WorkError, back_up, cancellable};

/// Pause before a limit of the service is tried again, and before a lost answer is looked for.
const PAUSE: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often a run stops the writers for a service that has no room; the next run tries again.
const STANDSTILLS_MAX: u32 = 3;
/// How often it asks while nobody waits.
const CUTS_MAX: u32 = 60;
/// How often a cut is made anew whose answer was lost and of which nothing is found.
const LOST_MAX: u32 = 5;

/// The volumes that the configuration means, each of them allowed.
///
/// # Errors
/// [`SetError::Empty`], [`SetError::NotAllowed`]
pub(super) async fn select(run: &SetBackup<'_>) -> Result<Vec<VolumeInfo>, SetError> {
    let settings = run.settings;
    let mut volumes = run.home.select(&settings.selection).await?;
    let boots =
        |volume: &VolumeInfo| volume.attached.as_ref().is_some_and(|attached| attached.boot);
    volumes.retain(|volume| {
        !settings.exclude.contains(&volume.id) && (!settings.exclude_boot || !boots(volume))
    });
    if volumes.is_empty() {
        return Err(SetError::Empty);
    }
    let mut refused: Vec<String> =
        volumes.iter().filter_map(|volume| why_not(volume, &settings.kms_keys)).collect();
    if volumes.len() > VOLUMES_MAX {
        refused.push(format!("{} volumes, and a set has {VOLUMES_MAX} at most", volumes.len()));
    }
    if refused.is_empty() { Ok(volumes) } else { Err(SetError::NotAllowed(refused)) }
}

/// Why a volume must not be in a set.
#[must_use]
pub fn why_not(volume: &VolumeInfo, allowed: &[String]) -> Option<String> {
    let key = volume.key.as_deref().unwrap_or("an unnamed key");
    if !volume.encrypted {
        Some(format!("{} is not encrypted", volume.id))
    } else if !allowed.iter().any(|allowed| allowed == key) {
        Some(format!("{} is encrypted under {key}, which kms_keys does not allow", volume.id))
    } else if !matches!(volume.state.as_str(), "available" | "in-use") {
        Some(format!("{} is in state {}", volume.id, volume.state))
    } else {
        None
    }
}

/// Which volumes are cut in one call.
struct CutGroup {
    instance: Option<InstanceId>,
    volumes: Vec<VolumeId>,
}

fn groups(volumes: &[&VolumeInfo], together: bool) -> Vec<CutGroup> {
    let mut attached: BTreeMap<InstanceId, Vec<VolumeId>> = BTreeMap::new();
    let mut single = Vec::new();
    for volume in volumes {
        match &volume.attached {
            Some(place) if together => {
                attached.entry(place.instance.clone()).or_default().push(volume.id.clone())
            }
            _ => single.push(CutGroup { instance: None, volumes: vec![volume.id.clone()] }),
        }
    }
    attached
        .into_iter()
        .map(|(instance, volumes)| CutGroup { instance: Some(instance), volumes })
        .chain(single)
        .collect()
}

/// Selects and cuts. What was cut is not noted yet when this returns.
pub(super) async fn cut(run: &SetBackup<'_>, open: &OpenSet) -> Result<SnapshotsTaken, WorkError> {
    let volumes = select(run).await.map_err(|error| run.failed(error))?;
    run.note(open).await?;
    let ConsistencyMethod { still, one_moment } =
        ConsistencyMethod::choose(run, &volumes).map_err(|error| run.failed(error))?;
    let cutting = SnapshotRun { run, tagged: &open.backup, volumes: &volumes, still, one_moment };
    let stage = run.rig.progress.begin("cut volumes", None);
    let mut pause = PAUSE;
    let mut attempts_left = if cutting.still.is_some() { STANDSTILLS_MAX } else { CUTS_MAX };
    let made = loop {
        attempts_left -= 1;
        // What stands still is let go when the future is dropped.
        match cancellable(run.rig, cutting.once()).await.flatten() {
            // Everything was let go before: nothing waits while this does.
            Err(WorkError::Set {
                source: SetError::Volumes(error @ VolumesError::Busy { .. }),
                ..
            }) if attempts_left > 0 => {
                stage.item(Some(error.to_string()));
                cutting.remove_partial().await?;
                cancellable(run.rig, tokio::time::sleep(pause)).await?;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            made => break made,
        }
    };
    stage.end();
    failpoint::reach("set-cut");
    made
}

/// How the configured consistency is had.
struct ConsistencyMethod {
    /// What stands still meanwhile.
    still: Option<FreezePlan>,
    /// Whether all volumes are cut at one point in time.
    one_moment: bool,
}

impl ConsistencyMethod {
    /// Chooses, and refuses what could not be had.
    fn choose(run: &SetBackup<'_>, volumes: &[VolumeInfo]) -> Result<Self, SetError> {
        let settings = run.settings;
        let less = |why: String| SetError::LessConsistent { asked: settings.consistency, why };
        let still =
            (!settings.freeze.is_empty() || settings.before.is_some()).then(|| FreezePlan {
                freeze: mounts::one_for_each(&settings.freeze),
                before: settings.before.clone(),
                after: settings.after.clone(),
                limit: settings.freeze_limit.duration(),
            });
        if let Some(plan) = &still {
            can_stand_still(run, plan)?;
            // A program of the team's own may stop writers that lifeboat knows nothing of; file
            // systems must all be frozen.
            let place = match &settings.place {
                SetPlace::Local { directory } => Some(Path::new(directory)),
                SetPlace::Ebs { .. } => None,
            };
            let bare = mounts::uncovered(&plan.freeze, place, volumes).map_err(less)?;
            if plan.before.is_none() && !bare.is_empty() {
                let bare: Vec<String> = bare.iter().map(|volume| volume.id.to_string()).collect();
                return Err(less(format!(
                    "none of the frozen file systems lies on {}",
                    bare.join(", ")
                )));
            }
            let written = mounts::written_to(&plan.freeze, place, volumes).map_err(less)?;
            if plan.before.is_none() && !written.is_empty() {
                let written: Vec<String> = written
                    .iter()
                    .map(|(at, volume)| format!("{} ({volume})", at.display()))
                    .collect();
                return Err(less(format!(
                    "these lie on volumes of the set and are not frozen: {}; name them in freeze",
                    written.join(", ")
                )));
            }
        }
        let all: Vec<&VolumeInfo> = volumes.iter().collect();
        let groups = groups(&all, run.home.cuts_together());
        let one_moment = still.is_some() || groups.len() == 1;
        let instances: std::collections::BTreeSet<&InstanceId> = volumes
            .iter()
            .filter_map(|volume| volume.attached.as_ref().map(|attached| &attached.instance))
            .collect();
        match settings.consistency {
            Consistency::Crash if !one_moment && !run.home.cuts_together() => {
                return Err(less(
                    "files cannot be cut at one moment while they are written to; freeze them"
                        .to_owned(),
                ));
            }
            Consistency::Postgres if !one_moment => {
                let known = settings
                    .wal_volume
                    .as_ref()
                    .is_some_and(|wal| volumes.iter().any(|volume| volume.id == *wal));
                if !known {
                    return Err(less(
                        "the volumes cannot be cut at one moment, so the one with pg_wal must be cut last; wal_volume must name one of the set"
                            .to_owned(),
                    ));
                }
            }
            _ => {}
        }
        if instances.len() > 1 && !one_moment {
            tracing::warn!(
                instances = instances.len(),
                "the set spans instances, whose volumes are not cut at one moment; the manifest says so"
            );
        }
        Ok(Self { still, one_moment })
    }
}

struct SnapshotRun<'a> {
    run: &'a SetBackup<'a>,
    /// The tag of the snapshots.
    tagged: &'a BackupId,
    volumes: &'a [VolumeInfo],
    still: Option<FreezePlan>,
    one_moment: bool,
}

impl SnapshotRun<'_> {
    fn failed(&self, source: impl Into<SetError>) -> WorkError {
        self.run.failed(source)
    }

    /// One attempt: make ready, stand still, cut, let go.
    async fn once(&self) -> Result<SnapshotsTaken, WorkError> {
        let begun = Instant::now();
        let (facts, postgres, snapshots, frozen) =
            match (self.run.settings.consistency, self.one_moment) {
                (Consistency::Postgres, true) => {
                    let facts = self
                        .online()
                        .await?
                        .checkpoint()
                        .await
                        .map_err(|source| self.source(source))?;
                    let (snapshots, frozen) = self.still(self.volumes.iter().collect()).await?;
                    (facts, Some(PostgresCut::Checkpoint), snapshots, frozen)
                }
                (Consistency::Postgres, false) => {
                    let (facts, postgres, snapshots) = self.online_backup().await?;
                    (facts, Some(postgres), snapshots, None)
                }
                _ => {
                    let facts = self.facts_now();
                    let (snapshots, frozen) = self.still(self.volumes.iter().collect()).await?;
                    (facts, None, snapshots, frozen)
                }
            };
        let cut_millis = if self.one_moment { 0 } else { millis(begun.elapsed()) };
        let members = self.members(snapshots).map_err(|error| self.failed(error))?;
        let set = VolumeSet {
            place: self.run.settings.place.clone(),
            tagged: self.tagged.clone(),
            consistency: self.run.settings.consistency,
            one_moment: self.one_moment,
            cut_millis,
            frozen_millis: frozen.map(millis),
            postgres,
            members,
            copied_to: None,
            lock: None,
        };
        Ok(SnapshotsTaken { facts, set })
    }

    fn facts_now(&self) -> SourceFacts {
        SourceFacts {
            server_version: None,
            server_version_num: None,
            system_identifier: None,
            snapshot_time: Timestamp::now(),
            snapshot_lsn: None,
        }
    }

    fn source(&self, source: SourceError) -> WorkError {
        WorkError::Source { datastore: self.run.datastore.clone(), source }
    }

    async fn online(&self) -> Result<OnlineServer, WorkError> {
        let (tools, connection) = server(self.run).await?;
        OnlineServer::open(&tools, &connection).await.map_err(|source| self.source(source))
    }

    /// Everything but the WAL within an online backup, the WAL behind it.
    async fn online_backup(
        &self,
    ) -> Result<(SourceFacts, PostgresCut, Vec<SnapshotInfo>), WorkError> {
        let wal = self
            .run
            .settings
            .wal_volume
            .clone()
            .ok_or_else(|| WorkError::Bug("no volume with the WAL".to_owned()))?;
        let (last, first): (Vec<&VolumeInfo>, Vec<&VolumeInfo>) =
            self.volumes.iter().partition(|volume| volume.id == wal);
        let backup = self
            .online()
            .await?
            .begin(&format!("lifeboat {}", self.tagged))
            .await
            .map_err(|source| self.source(source))?;
        let mut snapshots = self.groups(first, false).await?;
        failpoint::reach("set-half");
        let ended = backup.end().await.map_err(|source| self.source(source))?;
        snapshots.extend(self.groups(last, false).await?);
        let labels = ended.labels.clone();
        let postgres = PostgresCut::OnlineBackup {
            label: labels.label,
            tablespace_map: labels.tablespace_map,
            start_lsn: labels.start_lsn,
            stop_lsn: labels.stop_lsn,
            wal_volume: wal,
        };
        Ok((ended.facts.clone(), postgres, snapshots))
    }

    /// Cuts while everything stands still, if it should; how long it did.
    async fn still(
        &self,
        volumes: Vec<&VolumeInfo>,
    ) -> Result<(Vec<SnapshotInfo>, Option<Duration>), WorkError> {
        let Some(plan) = &self.still else { return Ok((self.groups(volumes, false).await?, None)) };
        // Everything that can be asked before is asked before.
        let cuts = self.cuts(volumes, true).await?;
        let still = FrozenVolumes::begin(plan.clone(), &super::state_directory(self.run.rig))
            .await
            .map_err(|error| self.failed(error))?;
        failpoint::reach("set-still");
        let cut = self.perform(&cuts).await;
        // Let go first, whatever came of the cut; what may still be frozen is told before
        // everything else.
        let lasted = still.end().await.map_err(|error| self.failed(error))?;
        Ok((cut?, Some(lasted)))
    }

    async fn groups(
        &self,
        volumes: Vec<&VolumeInfo>,
        still: bool,
    ) -> Result<Vec<SnapshotInfo>, WorkError> {
        let cuts = self.cuts(volumes, still).await?;
        self.perform(&cuts).await
    }

    /// The calls that cut some volumes.
    async fn cuts(
        &self,
        volumes: Vec<&VolumeInfo>,
        still: bool,
    ) -> Result<Vec<SnapshotRequest>, WorkError> {
        let mut cuts = Vec::new();
        for CutGroup { instance, volumes } in groups(&volumes, self.run.home.cuts_together()) {
            let (left_out, without_boot) = match &instance {
                Some(instance) => {
                    self.left_out(instance, &volumes).await.map_err(|error| self.failed(error))?
                }
                None => (Vec::new(), false),
            };
            let tags = self.run.tags(self.tagged);
            let description = format!("{OWN_DESCRIPTION}{} {}", self.run.datastore, self.tagged);
            cuts.push(SnapshotRequest {
                instance,
                volumes,
                left_out,
                without_boot,
                still,
                tags,
                description,
            });
        }
        Ok(cuts)
    }

    async fn perform(&self, cuts: &[SnapshotRequest]) -> Result<Vec<SnapshotInfo>, WorkError> {
        let mut taken = Vec::new();
        for cut in cuts {
            taken.extend(self.once_each(cut).await?);
        }
        Ok(taken)
    }

    /// Cuts, and looks for what was made where the answer was lost.
    async fn once_each(&self, cut: &SnapshotRequest) -> Result<Vec<SnapshotInfo>, WorkError> {
        let (tags, wanted) = (&cut.tags, &cut.volumes);
        for _ in 0..LOST_MAX {
            match self.run.home.cut(cut).await {
                // Made perhaps, and the answer lost: the tags tell.
                Err(VolumesError::Unknown { .. }) => {
                    let found =
                        self.run.home.tagged(tags).await.map_err(|error| self.failed(error))?;
                    let is_ours = |one: &SnapshotInfo| {
                        !one.is_foreign()
                            && one.volume.as_ref().is_some_and(|id| wanted.contains(id))
                    };
                    let ours: Vec<SnapshotInfo> = found.into_iter().filter(is_ours).collect();
                    if ours.len() == wanted.len() {
                        return Ok(ours);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done.map_err(|error| self.failed(error)),
            }
        }
        let place = self.run.home.place().to_string();
        Err(self.failed(VolumesError::Unavailable {
            what: "taking snapshots".to_owned(),
            place,
            why: "every answer was lost".to_owned(),
        }))
    }

    /// The other volumes of an instance, which must be named to be left out, and whether its boot
    /// volume is among them.
    async fn left_out(
        &self,
        instance: &InstanceId,
        wanted: &[VolumeId],
    ) -> Result<(Vec<VolumeId>, bool), VolumesError> {
        let all = self.run.home.select(&VolumeSelection::Instance(instance.clone())).await?;
        let (boot, data): (Vec<VolumeInfo>, Vec<VolumeInfo>) = all
            .into_iter()
            .filter(|volume| !wanted.contains(&volume.id))
            .partition(|one| one.attached.as_ref().is_some_and(|a| a.boot));
        Ok((data.into_iter().map(|volume| volume.id).collect(), !boot.is_empty()))
    }

    fn members(&self, snapshots: Vec<SnapshotInfo>) -> Result<Vec<SetMember>, SetError> {
        let mut by_volume: BTreeMap<VolumeId, SnapshotInfo> =
            snapshots.into_iter().filter_map(|one| Some((one.volume.clone()?, one))).collect();
        let member = |volume: &VolumeInfo| {
            let snapshot = by_volume.remove(&volume.id).ok_or_else(|| VolumesError::Nonsense {
                what: "taking snapshots".to_owned(),
                place: self.run.home.place().to_string(),
                why: format!("there is none of {}", volume.id),
            })?;
            Ok(SetMember {
                volume: volume.id.clone(),
                attached: volume.attached.clone(),
                bytes: volume.bytes,
                class: volume.class.clone(),
                iops: volume.iops,
                throughput: volume.throughput,
                zone: volume.zone.clone(),
                snapshot: snapshot.id,
                // Known for certain once it is whole.
                key: snapshot.key.or(volume.key.clone()).unwrap_or_default(),
                started: snapshot.started,
                copy: None,
                blocks: None,
                changed: None,
            })
        };
        self.volumes.iter().map(member).collect()
    }

    /// Snapshots of groups that were cut before another had to wait: they are of another moment.
    async fn remove_partial(&self) -> Result<(), WorkError> {
        let tags = self.run.tags(self.tagged);
        keep::remove_own(self.run.home.as_ref(), &tags, Some(self.volumes))
            .await
            .map_err(|error| self.failed(error))
    }
}

/// The server that lives on the volumes.
async fn server(run: &SetBackup<'_>) -> Result<(PgTools, PgConnection), WorkError> {
    let failed = |source| WorkError::Source { datastore: run.datastore.clone(), source };
    let server = run
        .settings
        .postgres
        .as_ref()
        .and_then(|name| run.rig.config.datastores.get(name)?.postgres());
    let server = server.ok_or_else(|| {
        WorkError::Bug("a server that is checked to be configured is not".to_owned())
    })?;
    let connection = server.connect().await.map_err(|why| failed(SourceError::Password(why)))?;
    let tools = back_up::fitting_tools(run.rig, &connection).await.map_err(failed)?;
    Ok((tools, connection))
}

/// A session on it.
pub(super) async fn session(run: &SetBackup<'_>) -> Result<PgSession, WorkError> {
    let (tools, connection) = server(run).await?;
    PgSession::open(&tools, &connection).await.map_err(|error| WorkError::Source {
        datastore: run.datastore.clone(),
        source: error.into(),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How the configured consistency would be had of some volumes, in words, and whether that takes an
/// online backup.
///
/// # Errors
/// [`SetError`] if it cannot be had.
pub(super) fn could(
    run: &SetBackup<'_>,
    volumes: &[VolumeInfo],
) -> Result<(String, bool), SetError> {
    let ConsistencyMethod { still, one_moment } = ConsistencyMethod::choose(run, volumes)?;
    let how = match (run.settings.consistency, one_moment, still.is_some()) {
        (Consistency::Postgres, false, _) => "an online backup, the WAL last",
        (Consistency::Postgres, true, _) => "a checkpoint, then one moment",
        (_, _, true) => "one moment, while file systems stand still",
        (_, true, false) => "one moment",
        (_, false, false) => "one moment per instance, and not of the whole",
    };
    let online = run.settings.consistency == Consistency::Postgres && !one_moment;
    Ok((format!("{}: {how}", run.settings.consistency), online))
}

/// A process that writes to a frozen file system cannot even be killed.
fn can_stand_still(run: &SetBackup<'_>, plan: &FreezePlan) -> Result<(), SetError> {
    let rig = run.rig;
    let mut needed: Vec<PathBuf> =
        vec![rig.config.catalog.file.clone(), std::env::temp_dir(), rig.config.file.clone()];
    if let VaultConfig::Directory(path, _) = &rig.config.vault {
        needed.push(path.clone());
    }
    needed.extend(std::env::current_exe().ok());
    if let SetPlace::Local { directory } = &run.settings.place {
        needed.push(PathBuf::from(directory));
    }
    let needed: Vec<PathBuf> =
        needed.into_iter().filter_map(|path| std::path::absolute(path).ok()).collect();
    for point in &plan.freeze {
        mounts::is_mount_point(point)
            .map_err(|why| SetError::LessConsistent { asked: run.settings.consistency, why })?;
        if let Some(needed) = mounts::lying_on(point, &needed) {
            return Err(SetError::SawsItsOwnBranch { frozen: point.clone(), needed });
        }
    }
    Ok(())
}

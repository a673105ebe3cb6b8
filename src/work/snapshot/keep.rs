//! From started snapshots to kept ones: waiting without a time limit, copying, locking.
//!
//! A call that returned is not done: a refused key shows up minutes later, in the state of a
//! snapshot and nowhere else. So states are polled with backoff until they are final, and their
//! messages are reported.

use std::sync::Arc;
use std::time::Duration;

use super::{SetBackup, SetError, stray};
use crate::config::CopyConfig;
use crate::domain::id::BackupId;
use crate::domain::volumes::{
    LockState, ResourceTags, SetMember, SnapshotCopy, SnapshotId, SnapshotInfo, SnapshotProgress,
    VolumeInfo, VolumeSet, tag,
};
use crate::progress::ProgressStage;
use crate::volumes::{VolumeStore, VolumesError};
use crate::work::{WorkError, cancellable};

/// Shortest and longest pause between two looks.
const LOOK_FIRST: Duration = Duration::from_millis(500);
const LOOK_MAX: Duration = Duration::from_secs(30);
/// How long a snapshot that was made may be missing from lists.
const UNSEEN_MAX: Duration = Duration::from_secs(30);
/// How often in a row the place may fail to answer before the run ends; the next run goes on.
const SILENT_MAX: u32 = 20;

/// Pauses that grow.
struct PollBackoff(Duration);

impl PollBackoff {
    async fn pause(&mut self, run: &SetBackup<'_>) -> Result<(), WorkError> {
        cancellable(run.rig, tokio::time::sleep(self.0)).await?;
        self.0 = (self.0 * 3 / 2).min(LOOK_MAX);
        Ok(())
    }
}

/// Waits until every snapshot of the set is whole, and sees to it that each is encrypted as the
/// policy wants.
pub(super) async fn whole(run: &SetBackup<'_>, set: &mut VolumeSet) -> Result<(), WorkError> {
    let ids = set.snapshots(false);
    run.home.name(&ids).await.map_err(|error| run.failed(error))?;
    let stage = run.rig.progress.begin("wait for snapshots", Some(set.bytes()));
    let found = wait(run, run.home.as_ref(), &ids, &stage).await?;
    stage.end();
    for (member, snapshot) in set.members.iter_mut().zip(found) {
        if snapshot.progress == SnapshotProgress::Failed {
            let why = snapshot.message.unwrap_or_else(|| "EBS does not say why".to_owned());
            return Err(run.failed(SetError::SnapshotFailed {
                id: snapshot.id,
                volume: member.volume.clone(),
                why,
            }));
        }
        let protected =
            snapshot.protect(&run.settings.kms_keys).map_err(|error| run.failed(error))?;
        member.key = protected.key().to_owned();
    }
    Ok(())
}

/// Waits for snapshots to be whole or failed; in the order of their ids as they were given.
async fn wait(
    run: &SetBackup<'_>,
    place: &dyn VolumeStore,
    ids: &[SnapshotId],
    stage: &Arc<ProgressStage>,
) -> Result<Vec<SnapshotInfo>, WorkError> {
    let (mut pauses, mut told) = (PollBackoff(LOOK_FIRST), 0);
    loop {
        let found = look(run, place, ids).await?;
        let done: u64 = found.iter().map(|snapshot| snapshot.bytes / 100 * percent(snapshot)).sum();
        stage.add(done.saturating_sub(told));
        told = told.max(done);
        let pending: Vec<String> = found
            .iter()
            .filter(|one| is_pending(one))
            .map(|one| format!("{} {}%", one.id, percent(one)))
            .collect();
        stage.item(pending.first().cloned());
        if pending.is_empty() {
            return Ok(found);
        }
        pauses.pause(run).await?;
    }
}

fn is_pending(snapshot: &SnapshotInfo) -> bool {
    matches!(snapshot.progress, SnapshotProgress::Pending(_) | SnapshotProgress::Recovering)
}

fn percent(snapshot: &SnapshotInfo) -> u64 {
    match snapshot.progress {
        SnapshotProgress::Pending(percent) => u64::from(percent),
        _ => 100,
    }
}

/// Whether every snapshot and every copy is there and whole, at the end.
pub(super) async fn still_there(run: &SetBackup<'_>, set: &VolumeSet) -> Result<(), WorkError> {
    for (place, ids) in stray::held_in(run.rig, set).await.map_err(|error| run.failed(error))? {
        for snapshot in look(run, place.as_ref(), &ids).await? {
            if snapshot.progress != SnapshotProgress::Completed {
                return Err(run.failed(SetError::Vanished(snapshot.id)));
            }
        }
    }
    Ok(())
}

/// What is known of all of them; a place that does not answer for a while is asked again.
async fn look(
    run: &SetBackup<'_>,
    place: &dyn VolumeStore,
    ids: &[SnapshotId],
) -> Result<Vec<SnapshotInfo>, WorkError> {
    let (mut silent, mut pauses, begun) = (0, PollBackoff(LOOK_FIRST), std::time::Instant::now());
    let mut found = loop {
        match place.snapshots(ids).await {
            // What was made a moment ago need not be in a list yet.
            Ok(found) if found.len() < ids.len() && begun.elapsed() < UNSEEN_MAX => {
                pauses.pause(run).await?
            }
            Ok(found) => break found,
            Err(VolumesError::Unavailable { .. } | VolumesError::Unknown { .. })
                if silent < SILENT_MAX =>
            {
                silent += 1;
                pauses.pause(run).await?;
            }
            Err(error) => return Err(run.failed(error)),
        }
    };
    let mut ordered = Vec::new();
    for id in ids {
        match found.iter().position(|snapshot| snapshot.id == *id) {
            Some(at) => ordered.push(found.swap_remove(at)),
            None => return Err(run.failed(SetError::Vanished(id.clone()))),
        }
    }
    Ok(ordered)
}

/// Copies every snapshot under the other place's key, if the configuration says so.
pub(super) async fn copied(
    run: &SetBackup<'_>,
    backup: &BackupId,
    set: &mut VolumeSet,
) -> Result<(), WorkError> {
    let Some(settings) = &run.settings.copy else { return Ok(()) };
    let elsewhere =
        run.rig.volumes.open(&settings.place).await.map_err(|error| run.failed(error))?;
    let stage = run.rig.progress.begin("copy snapshots", Some(set.bytes()));
    let copying = PendingCopy { run, settings, backup, elsewhere: elsewhere.as_ref() };
    // A key that was refused stays refused: earlier copies are looked at before new ones are begun.
    let mut under_way: Vec<(usize, SnapshotId)> = Vec::new();
    let mut pauses = PollBackoff(LOOK_FIRST);
    let mut next = 0;
    while next < set.members.len() || !under_way.is_empty() {
        while next < set.members.len() && under_way.len() < settings.at_once_max {
            match copying.begin(&set.members[next]).await {
                Ok(id) => under_way.push((next, id)),
                Err(VolumesError::Busy { why, .. }) => {
                    stage.item(Some(why));
                    break;
                }
                Err(error) => return Err(run.failed(error)),
            }
            next += 1;
        }
        let ids: Vec<SnapshotId> = under_way.iter().map(|(_, id)| id.clone()).collect();
        let states = look(run, elsewhere.as_ref(), &ids).await?;
        let mut waiting = Vec::new();
        for ((index, id), state) in under_way.into_iter().zip(states) {
            if is_pending(&state) {
                stage.item(Some(format!("{id} {}%", percent(&state))));
                waiting.push((index, id));
            } else {
                let member = &mut set.members[index];
                stage.add(member.bytes);
                member.copy = Some(copying.ended(member, state).await?);
            }
        }
        under_way = waiting;
        if next < set.members.len() || !under_way.is_empty() {
            pauses.pause(run).await?;
        }
    }
    stage.end();
    set.copied_to = Some(settings.place.clone());
    Ok(())
}

struct PendingCopy<'a> {
    run: &'a SetBackup<'a>,
    settings: &'a CopyConfig,
    backup: &'a BackupId,
    elsewhere: &'a dyn VolumeStore,
}

impl PendingCopy<'_> {
    fn tags(&self, member: &SetMember) -> ResourceTags {
        let mut tags = self.run.tags(self.backup);
        tags.insert(tag::VOLUME.to_owned(), member.volume.to_string());
        tags
    }

    /// Begins a copy, or finds the one that was begun. One that failed is removed.
    async fn begin(&self, member: &SetMember) -> Result<SnapshotId, VolumesError> {
        if let Some(found) = self.found(member).await? {
            return Ok(found);
        }
        if let Some(account) = &self.settings.account {
            self.run.home.share(&member.snapshot, account, true).await?;
        }
        let mut tags: ResourceTags = self
            .run
            .home
            .snapshots(std::slice::from_ref(&member.snapshot))
            .await?
            .pop()
            .map(|one| one.tags)
            .unwrap_or_default();
        // Those of AWS's own cannot be given.
        tags.retain(|key, _| !key.starts_with("aws:"));
        tags.extend(self.tags(member));
        match self
            .elsewhere
            .copy(self.run.home.as_ref(), &member.snapshot, &self.settings.key, &tags)
            .await
        {
            Err(VolumesError::Unknown { .. }) => {
                tokio::time::sleep(LOOK_FIRST * 4).await;
                self.found(member).await?.ok_or_else(|| VolumesError::Busy {
                    what: format!("copying {}", member.snapshot),
                    place: self.elsewhere.place().to_string(),
                    why: "the answer was lost, and there is no copy yet".to_owned(),
                })
            }
            begun => begun,
        }
    }

    async fn found(&self, member: &SetMember) -> Result<Option<SnapshotId>, VolumesError> {
        let mut good = None;
        for copy in self
            .elsewhere
            .tagged(&self.tags(member))
            .await?
            .into_iter()
            .filter(|copy| !copy.is_foreign())
        {
            match copy.progress {
                SnapshotProgress::Failed => self.elsewhere.delete(&copy.id).await?,
                // A lost answer may have left two.
                _ if good.is_some() => self.elsewhere.delete(&copy.id).await?,
                _ => good = Some(copy.id),
            }
        }
        Ok(good)
    }

    async fn ended(
        &self,
        member: &SetMember,
        state: SnapshotInfo,
    ) -> Result<SnapshotCopy, WorkError> {
        if self.settings.account.is_some()
            && let Err(error) = self
                .run
                .home
                .share(
                    &member.snapshot,
                    self.settings.account.as_deref().unwrap_or_default(),
                    false,
                )
                .await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, snapshot = %member.snapshot, "the snapshot is still shared with the other account");
        }
        if state.progress == SnapshotProgress::Failed {
            let why = state
                .message
                .clone()
                .unwrap_or_else(|| "EBS does not say why; mostly it is the key".to_owned());
            let failed = SetError::CopyFailed {
                id: member.snapshot.clone(),
                volume: member.volume.clone(),
                place: self.settings.place.to_string(),
                why,
            };
            return Err(self.run.failed(failed));
        }
        let id = state.id.clone();
        let protected = state
            .protect(std::slice::from_ref(&self.settings.key))
            .map_err(|error| self.run.failed(error))?;
        Ok(SnapshotCopy { snapshot: id, key: protected.key().to_owned() })
    }
}

/// Locks every snapshot and copy, if the configuration says so. The lock of the set is the one that
/// ends first.
pub(super) async fn locked(run: &SetBackup<'_>, set: &mut VolumeSet) -> Result<(), WorkError> {
    let Some(lock) = &run.settings.lock else { return Ok(()) };
    let mut locks: Vec<LockState> = Vec::new();
    let elsewhere = match &run.settings.copy {
        Some(copy) => {
            Some(run.rig.volumes.open(&copy.place).await.map_err(|error| run.failed(error))?)
        }
        None => None,
    };
    for member in &set.members {
        locks.push(run.home.lock(&member.snapshot, lock).await.map_err(|error| run.failed(error))?);
        if let (Some(elsewhere), Some(copy)) = (&elsewhere, &member.copy) {
            locks.push(
                elsewhere.lock(&copy.snapshot, lock).await.map_err(|error| run.failed(error))?,
            );
        }
    }
    set.lock = locks.into_iter().min_by_key(|lock| lock.until);
    Ok(())
}

/// Deletes every snapshot that a run has made and tagged, of some volumes if it is known which;
/// copies tell of no volume. What other tools have made and tagged in the same way is left alone.
/// Those that are held stay, and are an error.
///
/// # Errors
/// [`VolumesError`] of the first that could not be deleted; the others are.
pub async fn remove_own(
    place: &dyn VolumeStore,
    tags: &ResourceTags,
    of: Option<&[VolumeInfo]>,
) -> Result<(), VolumesError> {
    let is_of = |snapshot: &SnapshotInfo| match (of, &snapshot.volume) {
        (Some(volumes), Some(id)) => volumes.iter().any(|volume| volume.id == *id),
        _ => true,
    };
    let mut first = Ok(());
    for snapshot in place
        .tagged(tags)
        .await?
        .into_iter()
        .filter(|snapshot| !snapshot.is_foreign() && is_of(snapshot))
    {
        let deleted = place.delete(&snapshot.id).await;
        first = first.and(deleted);
    }
    first
}

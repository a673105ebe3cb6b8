//! Snapshots: found, put together from what EC2 tells of them, shared, deleted.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{
    self, CreateVolumePermission, CreateVolumePermissionModifications, Filter, SnapshotState,
    StorageTier,
};

use super::{EbsVolumes, FILTER_VALUES_MAX, PAGE_ITEMS, filter, gib, tag_map, texts, timestamp};
use crate::aws::AwsError;
use crate::domain::volumes::{LockState, SnapshotId, SnapshotInfo, SnapshotProgress};
use crate::volumes::{ResourceTags, VolumesError};

/// What EC2 names as the volume of a copied snapshot.
const NO_VOLUME: &str = "vol-ffffffff";

impl EbsVolumes {
    pub(super) async fn snapshots_by_id(
        &self,
        ids: &[SnapshotId],
    ) -> Result<Vec<SnapshotInfo>, VolumesError> {
        let what = "looking at snapshots";
        let mut raw = Vec::new();
        for some in ids.chunks(FILTER_VALUES_MAX) {
            raw.extend(
                self.describe_snapshots(what, vec![filter("snapshot-id", texts(some))]).await?,
            );
        }
        self.snapshots_of(what, &raw).await
    }

    pub(super) async fn snapshots_by_tags(
        &self,
        tags: &ResourceTags,
    ) -> Result<Vec<SnapshotInfo>, VolumesError> {
        let what = "listing snapshots by tags";
        let raw = self.describe_snapshots(what, self.tag_filters(what, tags)?).await?;
        self.snapshots_of(what, &raw).await
    }

    async fn describe_snapshots(
        &self,
        what: &str,
        filters: Vec<Filter>,
    ) -> Result<Vec<types::Snapshot>, VolumesError> {
        let filters = &filters;
        self.all(what, |token| async move {
            let request =
                self.ec2.describe_snapshots().owner_ids("self").set_filters(Some(filters.clone()));
            let sent = request.max_results(PAGE_ITEMS).set_next_token(token).send().await;
            let page = sent.map_err(|error| self.explain(what, AwsError::of(&error)))?;
            Ok((page.snapshots.unwrap_or_default(), page.next_token))
        })
        .await
    }

    /// Snapshots as the trait tells of them, by id: with their locks and with what the archive tier
    /// is doing to them.
    async fn snapshots_of(
        &self,
        what: &str,
        raw: &[types::Snapshot],
    ) -> Result<Vec<SnapshotInfo>, VolumesError> {
        let id = |snapshot: &types::Snapshot| snapshot.snapshot_id().map(ToOwned::to_owned);
        let ids: Vec<String> = raw.iter().filter_map(id).collect();
        let archived: Vec<String> =
            raw.iter().filter(|snapshot| is_archived(snapshot)).filter_map(id).collect();
        let locks = self.locks(what, &ids).await?;
        let returning = self.returning(what, &archived).await?;
        let mut found = Vec::new();
        for snapshot in raw {
            let id = snapshot.snapshot_id().unwrap_or_default();
            found.push(self.snapshot(
                what,
                snapshot,
                locks.get(id).copied(),
                returning.contains(id),
            )?);
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    pub(super) fn snapshot(
        &self,
        what: &str,
        raw: &types::Snapshot,
        lock: Option<LockState>,
        returning: bool,
    ) -> Result<SnapshotInfo, VolumesError> {
        let id = self.snapshot_id(what, raw.snapshot_id())?;
        let lacks = |part: &str| self.nonsense(what, format!("{id} has no {part}"));
        Ok(SnapshotInfo {
            volume: raw
                .volume_id()
                .filter(|volume| *volume != NO_VOLUME)
                .and_then(|volume| volume.parse().ok()),
            bytes: raw.volume_size().and_then(gib).ok_or_else(|| lacks("size"))?,
            progress: progress(raw, returning).ok_or_else(|| lacks("state that is known"))?,
            message: message(raw),
            encrypted: raw.encrypted().unwrap_or_default(),
            key: raw.kms_key_id().map(ToOwned::to_owned),
            started: raw.start_time().and_then(timestamp).ok_or_else(|| lacks("start"))?,
            lock,
            tags: tag_map(raw.tags()),
            description: raw.description().unwrap_or_default().to_owned(),
            id,
        })
    }

    /// Images of this account that a snapshot is part of, the disabled ones included: they keep it
    /// just the same.
    pub(super) async fn images_of(
        &self,
        ids: &[SnapshotId],
    ) -> Result<BTreeMap<SnapshotId, Vec<String>>, VolumesError> {
        let what = "listing the images of snapshots";
        let asked: BTreeSet<&str> = ids.iter().map(SnapshotId::as_str).collect();
        let mut users: BTreeMap<SnapshotId, Vec<String>> = BTreeMap::new();
        for some in ids.chunks(FILTER_VALUES_MAX) {
            for image in self.describe_images(what, &texts(some)).await? {
                let name = format!(
                    "{} ({})",
                    image.image_id().unwrap_or("an image"),
                    image.name().unwrap_or("no name")
                );
                let parts = image
                    .block_device_mappings()
                    .iter()
                    .filter_map(|mapping| mapping.ebs()?.snapshot_id());
                for part in parts.filter(|part| asked.contains(part)) {
                    let names = users.entry(self.snapshot_id(what, Some(part))?).or_default();
                    // An image of snapshots from two chunks is listed twice.
                    if !names.contains(&name) {
                        names.push(name.clone());
                    }
                }
            }
        }
        Ok(users)
    }

    async fn describe_images(
        &self,
        what: &str,
        snapshots: &[String],
    ) -> Result<Vec<types::Image>, VolumesError> {
        self.all(what, |token| async move {
            let parts = filter("block-device-mapping.snapshot-id", snapshots.to_vec());
            let request =
                self.ec2.describe_images().owners("self").include_disabled(true).filters(parts);
            let sent = request.max_results(PAGE_ITEMS).set_next_token(token).send().await;
            let page = sent.map_err(|error| self.explain(what, AwsError::of(&error)))?;
            Ok((page.images.unwrap_or_default(), page.next_token))
        })
        .await
    }

    pub(super) async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), VolumesError> {
        let answer = match self.ec2.delete_snapshot().snapshot_id(id.as_str()).send().await {
            Ok(_) => return Ok(()),
            Err(error) => AwsError::of(&error),
        };
        if is_held(&answer) {
            return Err(VolumesError::Held { id: id.clone(), why: answer.message });
        }
        match self.explain(&format!("deleting {id}"), answer) {
            VolumesError::Missing { .. } => Ok(()),
            error => Err(error),
        }
    }

    pub(super) async fn share_snapshot(
        &self,
        id: &SnapshotId,
        account: &str,
        may: bool,
    ) -> Result<(), VolumesError> {
        let what = if may {
            format!("sharing {id} with {account}")
        } else {
            format!("unsharing {id} with {account}")
        };
        let whom = CreateVolumePermission::builder().user_id(account).build();
        let change = CreateVolumePermissionModifications::builder();
        let change = if may { change.add(whom) } else { change.remove(whom) };
        let request = self
            .ec2
            .modify_snapshot_attribute()
            .snapshot_id(id.as_str())
            .create_volume_permission(change.build());
        request.send().await.map(|_| ()).map_err(|error| self.explain(&what, AwsError::of(&error)))
    }
}

fn is_archived(raw: &types::Snapshot) -> bool {
    raw.storage_tier() == Some(&StorageTier::Archive)
}

/// How far a snapshot is; none if that is not understood.
fn progress(raw: &types::Snapshot, returning: bool) -> Option<SnapshotProgress> {
    if is_archived(raw) {
        // Its state is that it is complete, which helps nobody who wants to read it.
        return Some(if returning {
            SnapshotProgress::Recovering
        } else {
            SnapshotProgress::Archived
        });
    }
    match raw.state()? {
        SnapshotState::Completed => Some(SnapshotProgress::Completed),
        SnapshotState::Pending => Some(SnapshotProgress::Pending(percent(raw.progress()))),
        SnapshotState::Recovering => Some(SnapshotProgress::Recovering),
        SnapshotState::Error | SnapshotState::Recoverable => Some(SnapshotProgress::Failed),
        _ => None,
    }
}

fn percent(progress: Option<&str>) -> u8 {
    progress.and_then(|text| text.trim_end_matches('%').parse().ok()).unwrap_or(0).min(100)
}

fn message(raw: &types::Snapshot) -> Option<String> {
    match raw.state_message() {
        Some(message) if !message.is_empty() => Some(message.to_owned()),
        // Somebody deleted it.
        _ if raw.state() == Some(&SnapshotState::Recoverable) => {
            Some("it lies in the recycle bin".to_owned())
        }
        _ => None,
    }
}

/// Whether an image or a lock keeps a snapshot. For a lock no code is documented, and the text has
/// to do.
fn is_held(answer: &AwsError) -> bool {
    let locked = answer.code.contains("Locked") || answer.message.contains(" locked");
    answer.code == "InvalidSnapshot.InUse"
        || (locked && answer.status.is_some_and(|status| (400..500).contains(&status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_archived_is_complete_and_not_readable() {
        let raw = |state: SnapshotState, tier: StorageTier| {
            types::Snapshot::builder().state(state).storage_tier(tier).progress("37%").build()
        };
        let archived = raw(SnapshotState::Completed, StorageTier::Archive);
        assert_eq!(progress(&archived, false), Some(SnapshotProgress::Archived));
        assert_eq!(progress(&archived, true), Some(SnapshotProgress::Recovering));
        assert_eq!(
            progress(&raw(SnapshotState::Completed, StorageTier::Standard), false),
            Some(SnapshotProgress::Completed)
        );
        assert_eq!(
            progress(&raw(SnapshotState::Pending, StorageTier::Standard), false),
            Some(SnapshotProgress::Pending(37))
        );
        assert_eq!(progress(&raw(SnapshotState::from("new"), StorageTier::Standard), false), None);
        assert_eq!((percent(None), percent(Some("")), percent(Some("250%"))), (0, 0, 100));
    }

    #[test]
    fn a_lock_and_an_image_hold() {
        let answer = |status, code: &str, message: &str| AwsError {
            status: Some(status),
            code: code.to_owned(),
            message: message.to_owned(),
            is_setup: false,
        };
        assert!(is_held(&answer(400, "InvalidSnapshot.InUse", "in use by ami-1")));
        assert!(is_held(&answer(400, "OperationNotPermitted", "The snapshot is locked")));
        assert!(is_held(&answer(400, "SnapshotLocked", "no")));
        assert!(!is_held(&answer(503, "Unavailable", "it is locked up")));
        assert!(!is_held(&answer(403, "OptInRequired", "the account is blocked")));
        assert!(!is_held(&answer(403, "UnauthorizedOperation", "no")));
    }
}

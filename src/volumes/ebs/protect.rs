//! Locks on snapshots, and the archive tier.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{
    self, LockMode, LockedSnapshotsInfo, SnapshotTierStatus, StorageTier, TargetStorageTier,
    TieringOperationStatus,
};
use jiff::Timestamp;

use super::{EbsVolumes, FILTER_VALUES_MAX, filter, timestamp, whole};
use crate::aws::AwsError;
use crate::domain::volumes::{LockKind, LockState, SnapshotId};
use crate::volumes::{SnapshotLock, VolumesError};

const DAY_SECONDS: i64 = 86_400;

/// What EC2 says of a lock, in one answer or another.
struct LockAnswer<'a> {
    state: Option<&'a types::LockState>,
    days: Option<i32>,
    created: Option<&'a DateTime>,
    expires: Option<&'a DateTime>,
    cooling_off: Option<&'a DateTime>,
}

impl EbsVolumes {
    /// The locks that hold, by snapshot.
    pub(super) async fn locks(
        &self,
        what: &str,
        ids: &[String],
    ) -> Result<BTreeMap<String, LockState>, VolumesError> {
        let mut locks = BTreeMap::new();
        for some in ids.chunks(FILTER_VALUES_MAX) {
            let infos = match self.locked(what, some).await {
                // There is no filter by id here: one that went meanwhile took the answer about the
                // others with it.
                Err(VolumesError::Missing { .. }) => self.locked_singly(what, some).await?,
                infos => infos?,
            };
            for info in infos {
                let told = LockAnswer {
                    state: info.lock_state(),
                    days: info.lock_duration(),
                    created: info.lock_created_on(),
                    expires: info.lock_expires_on(),
                    cooling_off: info.cool_off_period_expires_on(),
                };
                if let (Some(id), Some(lock)) = (info.snapshot_id(), told.lock()) {
                    locks.insert(id.to_owned(), lock);
                }
            }
        }
        Ok(locks)
    }

    async fn locked(
        &self,
        what: &str,
        ids: &[String],
    ) -> Result<Vec<LockedSnapshotsInfo>, VolumesError> {
        self.all(what, |token| async move {
            let request = self
                .ec2
                .describe_locked_snapshots()
                .set_snapshot_ids(Some(ids.to_vec()))
                .set_next_token(token);
            let page =
                request.send().await.map_err(|error| self.explain(what, AwsError::of(&error)))?;
            Ok((page.snapshots.unwrap_or_default(), page.next_token))
        })
        .await
    }

    async fn locked_singly(
        &self,
        what: &str,
        ids: &[String],
    ) -> Result<Vec<LockedSnapshotsInfo>, VolumesError> {
        let mut found = Vec::new();
        for id in ids {
            match self.locked(what, std::slice::from_ref(id)).await {
                Err(VolumesError::Missing { .. }) => {}
                infos => found.extend(infos?),
            }
        }
        Ok(found)
    }

    pub(super) async fn lock_snapshot(
        &self,
        id: &SnapshotId,
        lock: &SnapshotLock,
    ) -> Result<LockState, VolumesError> {
        let what = format!("locking {id}");
        let now = Timestamp::now();
        let present = self.locks(&what, &[id.to_string()]).await?.remove(id.as_str());
        if let Some(present) = present
            && suffices(&present, lock, now)
        {
            return Ok(present);
        }
        let mode = match lock.kind {
            LockKind::Governance => LockMode::Governance,
            LockKind::Compliance => LockMode::Compliance,
        };
        let request = self
            .ec2
            .lock_snapshot()
            .snapshot_id(id.as_str())
            .lock_mode(mode)
            .lock_duration(whole(lock.days));
        let sent =
            request.set_cool_off_period(cooling_off(present.as_ref(), lock, now)).send().await;
        let reply = sent.map_err(|error| self.explain(&what, AwsError::of(&error)))?;
        let told = LockAnswer {
            state: reply.lock_state(),
            days: reply.lock_duration(),
            created: reply.lock_created_on(),
            expires: reply.lock_expires_on(),
            cooling_off: reply.cool_off_period_expires_on(),
        };
        told.lock()
            .ok_or_else(|| self.nonsense(&what, "it does not say how the snapshot is locked"))
    }

    pub(super) async fn archive_snapshot(&self, id: &SnapshotId) -> Result<(), VolumesError> {
        let what = format!("archiving {id}");
        let request = self
            .ec2
            .modify_snapshot_tier()
            .snapshot_id(id.as_str())
            .storage_tier(TargetStorageTier::Archive);
        let failed = match request.send().await {
            Ok(_) => return Ok(()),
            Err(error) => self.explain(&what, AwsError::of(&error)),
        };
        let done = |status: &SnapshotTierStatus| {
            status.storage_tier() == Some(&StorageTier::Archive)
                || status.last_tiering_operation_status()
                    == Some(&TieringOperationStatus::ArchivalInProgress)
        };
        self.unless_tier(&what, id, failed, done).await
    }

    pub(super) async fn recover_snapshot(
        &self,
        id: &SnapshotId,
        days: u32,
    ) -> Result<(), VolumesError> {
        let what = format!("recovering {id}");
        let request = self
            .ec2
            .restore_snapshot_tier()
            .snapshot_id(id.as_str())
            .temporary_restore_days(whole(days));
        let failed = match request.send().await {
            Ok(_) => return Ok(()),
            Err(error) => self.explain(&what, AwsError::of(&error)),
        };
        self.unless_tier(&what, id, failed, is_returning).await
    }

    /// A refusal, unless the snapshot is already where it should go or on its way: EC2 has no code
    /// of its own for that.
    async fn unless_tier(
        &self,
        what: &str,
        id: &SnapshotId,
        failed: VolumesError,
        done: impl Fn(&SnapshotTierStatus) -> bool,
    ) -> Result<(), VolumesError> {
        if !matches!(failed, VolumesError::Refused { .. }) {
            return Err(failed);
        }
        match self.tiers(what, &[id.to_string()]).await {
            Ok(statuses) if statuses.iter().any(&done) => Ok(()),
            _ => Err(failed),
        }
    }

    /// Which archived snapshots are being brought back.
    pub(super) async fn returning(
        &self,
        what: &str,
        archived: &[String],
    ) -> Result<BTreeSet<String>, VolumesError> {
        let statuses = self.tiers(what, archived).await?;
        Ok(statuses
            .into_iter()
            .filter(is_returning)
            .filter_map(|status| status.snapshot_id)
            .collect())
    }

    async fn tiers(
        &self,
        what: &str,
        ids: &[String],
    ) -> Result<Vec<SnapshotTierStatus>, VolumesError> {
        let mut found = Vec::new();
        for some in ids.chunks(FILTER_VALUES_MAX) {
            let listed = self.all(what, |token| async move {
                let wanted = filter("snapshot-id", some.to_vec());
                let request =
                    self.ec2.describe_snapshot_tier_status().filters(wanted).set_next_token(token);
                let page = request
                    .send()
                    .await
                    .map_err(|error| self.explain(what, AwsError::of(&error)))?;
                Ok((page.snapshot_tier_statuses.unwrap_or_default(), page.next_token))
            });
            found.extend(listed.await?);
        }
        Ok(found)
    }
}

impl LockAnswer<'_> {
    /// The lock, if it holds. A kind that is not known is none: whoever relies on it asks for one
    /// and hears that it was refused.
    fn lock(&self) -> Option<LockState> {
        let kind = match self.state? {
            types::LockState::Governance => LockKind::Governance,
            types::LockState::Compliance | types::LockState::ComplianceCooloff => {
                LockKind::Compliance
            }
            _ => return None,
        };
        // On a snapshot that is pending the lock runs from its completion: not before this.
        let earliest = || {
            Timestamp::from_second(self.created?.secs() + i64::from(self.days?) * DAY_SECONDS).ok()
        };
        let until = self.expires.and_then(timestamp).or_else(earliest)?;
        Some(LockState { kind, until, cooling_off_until: self.cooling_off.and_then(timestamp) })
    }
}

fn is_returning(status: &SnapshotTierStatus) -> bool {
    matches!(
        status.last_tiering_operation_status(),
        Some(
            TieringOperationStatus::TemporaryRestoreInProgress
                | TieringOperationStatus::PermanentRestoreInProgress
        )
    )
}

/// Whether a lock is as strong as one that is wanted, and lasts as long.
fn suffices(present: &LockState, wanted: &SnapshotLock, now: Timestamp) -> bool {
    let strong = present.kind == LockKind::Compliance || wanted.kind == LockKind::Governance;
    strong && present.until.as_second() >= now.as_second() + i64::from(wanted.days) * DAY_SECONDS
}

/// Hours of cooling off to ask for. What has cooled off can only be prolonged, and asking for more
/// of it is refused.
fn cooling_off(present: Option<&LockState>, wanted: &SnapshotLock, now: Timestamp) -> Option<i32> {
    let cooled = present.is_some_and(|lock| {
        lock.kind == LockKind::Compliance && lock.cooling_off_until.is_none_or(|until| until <= now)
    });
    (wanted.kind == LockKind::Compliance && wanted.cooling_off_hours > 0 && !cooled)
        .then(|| whole(wanted.cooling_off_hours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn told(state: types::LockState, expires: Option<&DateTime>) -> Option<LockState> {
        let created = DateTime::from_secs(1_000);
        LockAnswer {
            state: Some(&state),
            days: Some(2),
            created: Some(&created),
            expires,
            cooling_off: None,
        }
        .lock()
    }

    #[test]
    fn a_lock_is_read() {
        let until = DateTime::from_secs(5_000);
        let lock =
            |kind, until| Some(LockState { kind, until: at(until), cooling_off_until: None });
        assert_eq!(
            told(types::LockState::Governance, Some(&until)),
            lock(LockKind::Governance, 5_000)
        );
        assert_eq!(
            told(types::LockState::ComplianceCooloff, Some(&until)),
            lock(LockKind::Compliance, 5_000)
        );
        assert_eq!(
            told(types::LockState::Compliance, None),
            lock(LockKind::Compliance, 1_000 + 2 * DAY_SECONDS)
        );
        assert_eq!(told(types::LockState::Expired, Some(&until)), None);
    }

    #[test]
    fn a_lock_stays_if_it_is_as_strong_and_as_long() {
        let now = at(0);
        let present = |kind, days: i64| LockState {
            kind,
            until: at(days * DAY_SECONDS),
            cooling_off_until: None,
        };
        let wanted = |kind| SnapshotLock { kind, days: 30, cooling_off_hours: 24 };
        assert!(suffices(&present(LockKind::Compliance, 30), &wanted(LockKind::Governance), now));
        assert!(!suffices(&present(LockKind::Governance, 300), &wanted(LockKind::Compliance), now));
        assert!(!suffices(&present(LockKind::Compliance, 29), &wanted(LockKind::Compliance), now));
        assert_eq!(cooling_off(None, &wanted(LockKind::Compliance), now), Some(24));
        assert_eq!(cooling_off(None, &wanted(LockKind::Governance), now), None);
        assert_eq!(
            cooling_off(
                Some(&present(LockKind::Compliance, 29)),
                &wanted(LockKind::Compliance),
                now
            ),
            None
        );
    }
}

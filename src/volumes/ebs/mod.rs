//! EBS volumes and their snapshots, in one region of one account.
//!
//! EC2 takes no token for what makes snapshots, copies and attachments: sent twice, it happens
//! twice. Such a request goes out once, without the SDK's retries, and silence is
//! [`VolumesError::Unknown`]; whoever asked looks for the tags. Everything else the SDK repeats.
//!
//! EC2 tells a thing in pieces: locks, tiers, images and how far a volume has been read in are each
//! a question of their own. What the trait promises is put together here, and a permission that is
//! missing for one piece fails the whole rather than leave it out.
//!
//! Lists are asked for by filter, never by id: an id that is gone fails a list by ids, and a filter
//! just does not find it.

mod blocks;
mod copy;
mod cut;
mod protect;
mod snapshots;
mod volumes;

use std::collections::BTreeMap;
use std::fmt::Display;

use async_trait::async_trait;
use aws_sdk_ec2::config::SharedCredentialsProvider;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::Filter;
use bytes::Bytes;
use jiff::Timestamp;

use super::{
    BlockPage, BlockRef, NewVolume, ResourceTags, SnapshotLock, SnapshotRequest, VolumeSelection,
    VolumeStore, VolumesError,
};
use crate::aws::ec2::{
    self, FILTER_VALUES_MAX, filter, is_throttled, once, tag, tag_map, tagged_as,
};
use crate::aws::{self, AwsError};
use crate::domain::volumes::{
    InstanceId, LockState, SetPlace, SnapshotId, SnapshotInfo, VolumeId, VolumeInfo,
};

/// Items of one page; what every list of EC2 used here allows.
const PAGE_ITEMS: i32 = 500;

/// Volumes and snapshots in EBS.
pub struct EbsVolumes {
    place: SetPlace,
    region: String,
    ec2: aws_sdk_ec2::Client,
    ebs: aws_sdk_ebs::Client,
    /// The clients have them too; here they sign what another region is to believe.
    credentials: Option<SharedCredentialsProvider>,
}

impl EbsVolumes {
    /// Clients for a region, by the role the place names if it names one. Makes no request.
    ///
    /// # Errors
    /// [`VolumesError::Unusable`] if the place is not in EBS.
    pub async fn new(place: &SetPlace) -> Result<Self, VolumesError> {
        let SetPlace::Ebs { region, role } = place else {
            return Err(VolumesError::Unusable(format!("{place} are not in EBS")));
        };
        let shared = aws::config_of(region, role.as_deref()).await;
        Ok(Self {
            place: place.clone(),
            region: region.clone(),
            ec2: aws_sdk_ec2::Client::new(&shared),
            ebs: aws_sdk_ebs::Client::new(&shared),
            credentials: shared.credentials_provider(),
        })
    }

    /// Why a request failed that changes nothing, or that may be repeated.
    fn explain(&self, what: &str, answer: AwsError) -> VolumesError {
        let (what, place, why) = (what.to_owned(), self.place.to_string(), answer.message.clone());
        let code = answer.code.as_str();
        if is_missing(code) {
            return VolumesError::Missing { what: format!("what {what} needs"), place };
        }
        if is_busy(code) {
            return VolumesError::Busy { what, place, why };
        }
        if is_throttled(code) || answer.is_passing() {
            return VolumesError::Unavailable { what, place, why };
        }
        // The service agreed, and what it said could not be read.
        if answer.status.is_some_and(|status| status < 400) {
            return VolumesError::Nonsense { what, place, why };
        }
        VolumesError::Refused { what, place, why }
    }

    /// Why a request failed that must not be sent twice.
    fn explain_once<E>(&self, what: &str, error: &SdkError<E>) -> VolumesError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let answer = AwsError::of(error);
        if ec2::may_have_happened(error, &answer) && !is_busy(&answer.code) {
            return self.unknown(what, answer.message);
        }
        // The SDK does not repeat what must not be sent twice. Nothing has happened, so whoever
        // asked asks again later.
        if is_throttled(&answer.code) {
            return VolumesError::Busy {
                what: what.to_owned(),
                place: self.place.to_string(),
                why: answer.message,
            };
        }
        self.explain(what, answer)
    }

    fn unknown(&self, what: &str, why: impl Into<String>) -> VolumesError {
        VolumesError::Unknown {
            what: what.to_owned(),
            place: self.place.to_string(),
            why: why.into(),
        }
    }

    fn nonsense(&self, what: &str, why: impl Into<String>) -> VolumesError {
        VolumesError::Nonsense {
            what: what.to_owned(),
            place: self.place.to_string(),
            why: why.into(),
        }
    }

    fn refused(&self, what: &str, why: impl Into<String>) -> VolumesError {
        VolumesError::Refused {
            what: what.to_owned(),
            place: self.place.to_string(),
            why: why.into(),
        }
    }

    fn missing(&self, what: impl Into<String>) -> VolumesError {
        VolumesError::Missing { what: what.into(), place: self.place.to_string() }
    }

    /// All pages of a list, one after another.
    async fn all<T, F, P>(&self, what: &str, page: F) -> Result<Vec<T>, VolumesError>
    where
        F: Fn(Option<String>) -> P,
        P: Future<Output = Result<(Vec<T>, Option<String>), VolumesError>>,
    {
        ec2::pages(page, |why| self.nonsense(what, why)).await
    }

    /// Filters for what carries all of some tags. Without any they would find everything, which
    /// nobody means.
    fn tag_filters(&self, what: &str, tags: &ResourceTags) -> Result<Vec<Filter>, VolumesError> {
        if tags.is_empty() {
            return Err(self.refused(what, "no tags are named"));
        }
        Ok(ec2::tag_filters(tags))
    }

    fn volume_id(&self, what: &str, id: Option<&str>) -> Result<VolumeId, VolumesError> {
        id.unwrap_or_default().parse().map_err(|why: String| self.nonsense(what, why))
    }

    fn snapshot_id(&self, what: &str, id: Option<&str>) -> Result<SnapshotId, VolumesError> {
        id.unwrap_or_default().parse().map_err(|why: String| self.nonsense(what, why))
    }
}

fn is_missing(code: &str) -> bool {
    code.ends_with(".NotFound") || code == "ResourceNotFoundException"
}

/// Whether a limit is in the way that goes by itself. Quotas of an account do not: they are
/// refusals.
fn is_busy(code: &str) -> bool {
    const CODES: [&str; 5] = [
        "PendingSnapshotLimitExceeded",
        "ResourceLimitExceeded",
        "SnapshotCreationPerVolumeRateExceeded",
        "InsufficientVolumeCapacity",
        "ServiceQuotaExceededException",
    ];
    code.starts_with("Concurrent") || CODES.contains(&code)
}

fn texts<T: Display>(ids: &[T]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn timestamp(time: &DateTime) -> Option<Timestamp> {
    Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok()
}

/// Bytes of so many GiB.
fn gib(size: i32) -> Option<u64> {
    u64::try_from(size).ok().filter(|size| *size > 0).map(|size| size << 30)
}

/// A number as EC2 takes it; what does not fit is refused there.
fn whole(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[async_trait]
impl VolumeStore for EbsVolumes {
    fn cuts_together(&self) -> bool {
        true
    }

    fn place(&self) -> &SetPlace {
        &self.place
    }

    async fn select(&self, wanted: &VolumeSelection) -> Result<Vec<VolumeInfo>, VolumesError> {
        self.select_volumes(wanted).await
    }

    async fn cut(&self, cut: &SnapshotRequest) -> Result<Vec<SnapshotInfo>, VolumesError> {
        self.take(cut).await
    }

    async fn name(&self, ids: &[SnapshotId]) -> Result<(), VolumesError> {
        self.name_snapshots(ids).await
    }

    async fn snapshots(&self, ids: &[SnapshotId]) -> Result<Vec<SnapshotInfo>, VolumesError> {
        self.snapshots_by_id(ids).await
    }

    async fn tagged(&self, tags: &ResourceTags) -> Result<Vec<SnapshotInfo>, VolumesError> {
        self.snapshots_by_tags(tags).await
    }

    async fn users(
        &self,
        ids: &[SnapshotId],
    ) -> Result<BTreeMap<SnapshotId, Vec<String>>, VolumesError> {
        self.images_of(ids).await
    }

    async fn delete(&self, id: &SnapshotId) -> Result<(), VolumesError> {
        self.delete_snapshot(id).await
    }

    async fn copy(
        &self,
        from: &dyn VolumeStore,
        snapshot: &SnapshotId,
        key: &str,
        tags: &ResourceTags,
    ) -> Result<SnapshotId, VolumesError> {
        let SetPlace::Ebs { region, .. } = from.place() else {
            return Err(self.refused(
                &format!("copying {snapshot}"),
                format!("its source is {}", from.place()),
            ));
        };
        self.copy_from(region, snapshot, key, tags).await
    }

    async fn share(&self, id: &SnapshotId, account: &str, may: bool) -> Result<(), VolumesError> {
        self.share_snapshot(id, account, may).await
    }

    async fn lock(&self, id: &SnapshotId, lock: &SnapshotLock) -> Result<LockState, VolumesError> {
        self.lock_snapshot(id, lock).await
    }

    async fn archive(&self, id: &SnapshotId) -> Result<(), VolumesError> {
        self.archive_snapshot(id).await
    }

    async fn recover(&self, id: &SnapshotId, days: u32) -> Result<(), VolumesError> {
        self.recover_snapshot(id, days).await
    }

    async fn blocks(
        &self,
        id: &SnapshotId,
        since: Option<&SnapshotId>,
        page: Option<&str>,
    ) -> Result<BlockPage, VolumesError> {
        match since {
            Some(since) => self.changed_blocks(id, since, page).await,
            None => self.held_blocks(id, page).await,
        }
    }

    async fn read(&self, id: &SnapshotId, block: &BlockRef) -> Result<Bytes, VolumesError> {
        self.read_block(id, block).await
    }

    async fn create(&self, volume: &NewVolume) -> Result<VolumeId, VolumesError> {
        self.create_volume(volume).await
    }

    async fn volumes(&self, tags: &ResourceTags) -> Result<Vec<VolumeInfo>, VolumesError> {
        self.volumes_by_tags(tags).await
    }

    async fn attach(
        &self,
        volume: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), VolumesError> {
        self.attach_volume(volume, instance, device).await
    }

    async fn detach(&self, volume: &VolumeId) -> Result<(), VolumesError> {
        self.detach_volume(volume).await
    }

    async fn delete_volume(&self, volume: &VolumeId) -> Result<(), VolumesError> {
        self.remove_volume(volume).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        assert!(
            is_missing("InvalidSnapshot.NotFound")
                && is_missing("InvalidVolume.NotFound")
                && is_missing("ResourceNotFoundException")
        );
        assert!(!is_missing("InvalidSnapshot.InUse"));
        assert!(is_busy("ConcurrentSnapshotLimitExceeded") && is_busy("ResourceLimitExceeded"));
        assert!(!is_busy("VolumeLimitExceeded"), "a quota does not go by itself");
        assert!(
            is_throttled("RequestLimitExceeded")
                && is_throttled("EC2ThrottledException")
                && is_throttled("RequestThrottledException")
        );
    }

    #[test]
    fn sizes_are_gibibytes() {
        assert_eq!(gib(8), Some(8 * 1024 * 1024 * 1024));
        assert_eq!((gib(0), gib(-1)), (None, None));
    }
}

//! Snapshots taken: of an instance's volumes at one moment, or of one volume.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_ec2::operation::create_snapshot::CreateSnapshotOutput;
use aws_sdk_ec2::types::{self, InstanceSpecification, ResourceType};
use futures::future::try_join_all;

use super::{EbsVolumes, once, tag, tag_map, tagged_as};
use crate::aws::AwsError;
use crate::domain::volumes::tag::VOLUME as VOLUME_TAG;
use crate::domain::volumes::{InstanceId, SnapshotId, SnapshotInfo, VolumeId};
use crate::volumes::{ResourceTags, SnapshotRequest, VolumesError};

/// Volumes that one request can leave out.
const LEFT_OUT_MAX: usize = 40;
/// Tags set at once: EC2 throttles.
const TAGGING_AT_ONCE: usize = 8;
/// Times a new snapshot is looked for when it is tagged: EC2 does not know everywhere at once what
/// it has just made.
const TAG_ATTEMPTS_MAX: u32 = 4;
const TAG_PAUSE: Duration = Duration::from_millis(500);

impl EbsVolumes {
    pub(super) async fn take(
        &self,
        cut: &SnapshotRequest,
    ) -> Result<Vec<SnapshotInfo>, VolumesError> {
        let mut taken = match &cut.instance {
            Some(instance) => self.take_together(instance, cut).await?,
            None => vec![self.take_one(cut).await?],
        };
        taken.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(taken)
    }

    async fn take_together(
        &self,
        instance: &InstanceId,
        cut: &SnapshotRequest,
    ) -> Result<Vec<SnapshotInfo>, VolumesError> {
        let what = format!("taking snapshots of {instance}");
        let left_out = self.left_out(&what, instance, cut).await?;
        if left_out.len() > LEFT_OUT_MAX {
            let why = format!(
                "{} data volumes are to be left out, and EC2 leaves out {LEFT_OUT_MAX} at most",
                left_out.len()
            );
            return Err(self.refused(&what, why));
        }
        let volumes = InstanceSpecification::builder()
            .instance_id(instance.as_str())
            .exclude_boot_volume(cut.without_boot)
            .set_exclude_data_volume_ids((!left_out.is_empty()).then_some(left_out));
        let request = self
            .ec2
            .create_snapshots()
            .instance_specification(volumes.build())
            .description(&cut.description)
            .tag_specifications(tagged_as(ResourceType::Snapshot, &cut.tags));
        let sent = request.customize().config_override(once()).send().await;
        let reply = sent.map_err(|error| self.explain_once(&what, &error))?;
        let mut taken = Vec::new();
        for info in reply.snapshots.unwrap_or_default() {
            taken.push(self.snapshot(&what, &of_several(info), None, false)?);
        }
        self.covers(&what, &cut.volumes, &taken)?;
        Ok(taken)
    }

    async fn take_one(&self, cut: &SnapshotRequest) -> Result<SnapshotInfo, VolumesError> {
        let [volume] = cut.volumes.as_slice() else {
            return Err(self.refused(
                "taking a snapshot",
                format!("{} volumes are named without an instance", cut.volumes.len()),
            ));
        };
        let what = format!("taking a snapshot of {volume}");
        let request =
            self.ec2.create_snapshot().volume_id(volume.as_str()).description(&cut.description);
        let request = request.tag_specifications(tagged_as(ResourceType::Snapshot, &cut.tags));
        let sent = request.customize().config_override(once()).send().await;
        let reply = sent.map_err(|error| self.explain_once(&what, &error))?;
        let taken = self.snapshot(&what, &of_one(reply), None, false)?;
        self.covers(&what, &cut.volumes, std::slice::from_ref(&taken))?;
        Ok(taken)
    }

    /// The data volumes to leave out. The boot volume has a switch of its own, and among these EC2
    /// refuses it.
    async fn left_out(
        &self,
        what: &str,
        instance: &InstanceId,
        cut: &SnapshotRequest,
    ) -> Result<Vec<String>, VolumesError> {
        let mut left_out: Vec<String> = cut.left_out.iter().map(ToString::to_string).collect();
        if cut.without_boot && !left_out.is_empty() {
            let found = self.describe_instances(what, &[instance.to_string()]).await?;
            let found = found.first().ok_or_else(|| self.missing(instance.to_string()))?;
            let boot = boot_volume(found)
                .ok_or_else(|| self.nonsense(what, "the instance boots from no volume"))?;
            left_out.retain(|volume| volume != boot);
        }
        Ok(left_out)
    }

    /// The own tags of several volumes. `CopyTagsFromSource` would bring those of a restored
    /// volume, which are lifeboat's and say other things.
    async fn own_tags_of(
        &self,
        what: &str,
        volumes: &[VolumeId],
    ) -> Result<BTreeMap<VolumeId, ResourceTags>, VolumesError> {
        // One that is gone by now is left out, and has no tags to give.
        let found = self.describe_volumes_by_id(what, volumes).await?;
        let own = |volume: &types::Volume| {
            Some((volume.volume_id()?.parse().ok()?, not_reserved(tag_map(volume.tags()))))
        };
        Ok(found.iter().filter_map(own).collect())
    }

    /// Whether snapshots are those of the volumes that were wanted, one of each.
    fn covers(
        &self,
        what: &str,
        wanted: &[VolumeId],
        taken: &[SnapshotInfo],
    ) -> Result<(), VolumesError> {
        let found: BTreeSet<&VolumeId> =
            taken.iter().filter_map(|snapshot| snapshot.volume.as_ref()).collect();
        let asked: BTreeSet<&VolumeId> = wanted.iter().collect();
        if found == asked && taken.len() == asked.len() {
            return Ok(());
        }
        let list = |volumes: &BTreeSet<&VolumeId>| {
            volumes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let why = format!(
            "{} snapshots were taken, of {}, and those of {} were wanted",
            taken.len(),
            list(&found),
            list(&asked)
        );
        Err(self.nonsense(what, why))
    }

    /// Tags each snapshot as its volume is, and with its volume's id. The request that takes them
    /// sets the same tags on all.
    pub(super) async fn name_snapshots(&self, ids: &[SnapshotId]) -> Result<(), VolumesError> {
        let what = "tagging snapshots";
        let found = self.snapshots_by_id(ids).await?;
        let named: Vec<(&SnapshotId, &VolumeId)> =
            found.iter().filter_map(|one| Some((&one.id, one.volume.as_ref()?))).collect();
        let volumes: Vec<VolumeId> = named.iter().map(|(_, volume)| (*volume).clone()).collect();
        let own = self.own_tags_of(what, &volumes).await?;
        for some in named.chunks(TAGGING_AT_ONCE) {
            try_join_all(
                some.iter().map(|(id, volume)| self.name_volume(id, volume, own.get(*volume))),
            )
            .await?;
        }
        Ok(())
    }

    async fn name_volume(
        &self,
        id: &SnapshotId,
        volume: &VolumeId,
        own: Option<&ResourceTags>,
    ) -> Result<(), VolumesError> {
        let mut attempt = 1;
        loop {
            let mut request = self
                .ec2
                .create_tags()
                .resources(id.as_str())
                .tags(tag(VOLUME_TAG, volume.as_str()));
            for (key, value) in own.into_iter().flatten() {
                request = request.tags(tag(key, value));
            }
            let error = match request.send().await {
                Ok(_) => return Ok(()),
                Err(error) => self.explain(&format!("tagging {id}"), AwsError::of(&error)),
            };
            if attempt >= TAG_ATTEMPTS_MAX || !matches!(error, VolumesError::Missing { .. }) {
                return Err(error);
            }
            attempt += 1;
            tokio::time::sleep(TAG_PAUSE).await;
        }
    }
}

fn not_reserved(mut tags: ResourceTags) -> ResourceTags {
    tags.retain(|key, _| !key.starts_with("aws:") && !key.starts_with("lifeboat:"));
    tags
}

fn boot_volume(instance: &types::Instance) -> Option<&str> {
    let root = instance.root_device_name()?;
    let mapping = instance
        .block_device_mappings()
        .iter()
        .find(|mapping| mapping.device_name() == Some(root))?;
    mapping.ebs()?.volume_id()
}

/// What EC2 says of one of several new snapshots, which is less than it says of others: the key is
/// not among it.
fn of_several(info: types::SnapshotInfo) -> types::Snapshot {
    types::Snapshot::builder()
        .set_snapshot_id(info.snapshot_id)
        .set_volume_id(info.volume_id)
        .set_volume_size(info.volume_size)
        .set_state(info.state)
        .set_progress(info.progress)
        .set_start_time(info.start_time)
        .set_encrypted(info.encrypted)
        .set_tags(info.tags)
        .build()
}

/// The same of a single new snapshot.
fn of_one(reply: CreateSnapshotOutput) -> types::Snapshot {
    types::Snapshot::builder()
        .set_snapshot_id(reply.snapshot_id)
        .set_volume_id(reply.volume_id)
        .set_volume_size(reply.volume_size)
        .set_state(reply.state)
        .set_progress(reply.progress)
        .set_start_time(reply.start_time)
        .set_encrypted(reply.encrypted)
        .set_kms_key_id(reply.kms_key_id)
        .set_tags(reply.tags)
        .build()
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{EbsInstanceBlockDevice, Instance, InstanceBlockDeviceMapping};

    use super::*;

    #[test]
    fn the_boot_volume_is_on_the_root_device() {
        let on = |device: &str, volume: &str| {
            let ebs = EbsInstanceBlockDevice::builder().volume_id(volume).build();
            InstanceBlockDeviceMapping::builder().device_name(device).ebs(ebs).build()
        };
        let bare = Instance::builder()
            .block_device_mappings(on("/dev/sdf", "vol-1"))
            .block_device_mappings(on("/dev/xvda", "vol-2"));
        assert_eq!(boot_volume(&bare.clone().root_device_name("/dev/xvda").build()), Some("vol-2"));
        assert_eq!(boot_volume(&bare.clone().root_device_name("/dev/sda1").build()), None);
        assert_eq!(boot_volume(&bare.build()), None);
    }
}

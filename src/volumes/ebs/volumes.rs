//! Volumes: found, made, attached, deleted.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::error::ProvideErrorMetadata;
use aws_sdk_ec2::types::{
    self, Filter, ResourceType, VolumeAttachmentState, VolumeState, VolumeType,
};

use super::{
    EbsVolumes, FILTER_VALUES_MAX, PAGE_ITEMS, filter, gib, once, tag_map, tagged_as, texts, whole,
};
use crate::aws::AwsError;
use crate::domain::volumes::{InstanceId, VolumeAttachment, VolumeId, VolumeInfo};
use crate::volumes::{NewVolume, ResourceTags, VolumeSelection, VolumesError};

impl EbsVolumes {
    pub(super) async fn select_volumes(
        &self,
        wanted: &VolumeSelection,
    ) -> Result<Vec<VolumeInfo>, VolumesError> {
        match wanted {
            VolumeSelection::Instance(instance) => {
                let what = format!("listing the volumes of {instance}");
                let raw = self
                    .describe_volumes(
                        &what,
                        vec![filter("attachment.instance-id", vec![instance.to_string()])],
                    )
                    .await?;
                self.volumes_of(&what, &raw, Some(instance)).await
            }
            VolumeSelection::Tags(tags) => {
                let what = "listing volumes by tags";
                let raw = self.describe_volumes(what, self.tag_filters(what, tags)?).await?;
                self.volumes_of(what, &raw, None).await
            }
            VolumeSelection::Ids(ids) => {
                let what = "looking at volumes";
                let raw = self.describe_volumes_by_id(what, ids).await?;
                let found = self.volumes_of(what, &raw, None).await?;
                match ids.iter().find(|id| !found.iter().any(|volume| volume.id == **id)) {
                    Some(id) => Err(self.missing(id.to_string())),
                    None => Ok(found),
                }
            }
        }
    }

    pub(super) async fn volumes_by_tags(
        &self,
        tags: &ResourceTags,
    ) -> Result<Vec<VolumeInfo>, VolumesError> {
        let what = "listing volumes by tags";
        let raw = self.describe_volumes(what, self.tag_filters(what, tags)?).await?;
        let restored: Vec<String> = raw
            .iter()
            .filter(|volume| volume.snapshot_id().is_some_and(|id| !id.is_empty()))
            .filter_map(|volume| volume.volume_id().map(ToOwned::to_owned))
            .collect();
        let hydrated = self.hydration(what, &restored).await?;
        let mut found = self.volumes_of(what, &raw, None).await?;
        for volume in &mut found {
            volume.hydrated_percent = hydrated.get(volume.id.as_str()).copied();
        }
        Ok(found)
    }

    pub(super) async fn create_volume(&self, volume: &NewVolume) -> Result<VolumeId, VolumesError> {
        let what = format!("creating a volume from {}", volume.snapshot);
        let sent = self
            .ec2
            .create_volume()
            .snapshot_id(volume.snapshot.as_str())
            .availability_zone(&volume.zone)
            .volume_type(VolumeType::from(volume.class.as_str()))
            .set_iops(volume.iops.map(whole))
            .set_throughput(volume.throughput.map(whole))
            .encrypted(true)
            .kms_key_id(&volume.key)
            .set_volume_initialization_rate(volume.initialization_rate.map(whole))
            .client_token(&volume.token)
            .tag_specifications(tagged_as(ResourceType::Volume, &volume.tags))
            .send()
            .await;
        let reply = sent.map_err(|error| self.explain(&what, AwsError::of(&error)))?;
        self.volume_id(&what, reply.volume_id())
    }

    pub(super) async fn attach_volume(
        &self,
        volume: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), VolumesError> {
        let what = format!("attaching {volume} to {instance}");
        let request = self
            .ec2
            .attach_volume()
            .volume_id(volume.as_str())
            .instance_id(instance.as_str())
            .device(device);
        let (in_use, failed) = match request.customize().config_override(once()).send().await {
            Ok(_) => return Ok(()),
            Err(error) => (error.code() == Some("VolumeInUse"), self.explain_once(&what, &error)),
        };
        // By an earlier request of ours, it may be.
        if in_use && self.is_attached(&what, volume, Some(instance)).await? {
            Ok(())
        } else {
            Err(failed)
        }
    }

    pub(super) async fn detach_volume(&self, volume: &VolumeId) -> Result<(), VolumesError> {
        let what = format!("detaching {volume}");
        let answer = match self.ec2.detach_volume().volume_id(volume.as_str()).send().await {
            Ok(_) => return Ok(()),
            Err(error) => AwsError::of(&error),
        };
        let gone =
            matches!(answer.code.as_str(), "InvalidVolume.NotFound" | "InvalidAttachment.NotFound");
        // What is not attached has this code, and so has what is just being attached.
        let free =
            answer.code == "IncorrectState" && !self.is_attached(&what, volume, None).await?;
        if gone || free { Ok(()) } else { Err(self.explain(&what, answer)) }
    }

    pub(super) async fn remove_volume(&self, volume: &VolumeId) -> Result<(), VolumesError> {
        match self.ec2.delete_volume().volume_id(volume.as_str()).send().await {
            Ok(_) => Ok(()),
            Err(error) => match self.explain(&format!("deleting {volume}"), AwsError::of(&error)) {
                VolumesError::Missing { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Whether a volume is attached, or about to be: to an instance, or to any.
    async fn is_attached(
        &self,
        what: &str,
        volume: &VolumeId,
        instance: Option<&InstanceId>,
    ) -> Result<bool, VolumesError> {
        let found = self.describe_volumes_by_id(what, std::slice::from_ref(volume)).await?;
        let held = |attachment: &types::VolumeAttachment| {
            let state = attachment.state();
            let holds = !matches!(
                state,
                Some(VolumeAttachmentState::Detached | VolumeAttachmentState::Detaching)
            );
            holds
                && instance
                    .is_none_or(|instance| attachment.instance_id() == Some(instance.as_str()))
        };
        Ok(found.iter().any(|volume| volume.attachments().iter().any(held)))
    }

    pub(super) async fn describe_volumes(
        &self,
        what: &str,
        filters: Vec<Filter>,
    ) -> Result<Vec<types::Volume>, VolumesError> {
        let filters = &filters;
        self.all(what, |token| async move {
            let request = self
                .ec2
                .describe_volumes()
                .set_filters(Some(filters.clone()))
                .max_results(PAGE_ITEMS)
                .set_next_token(token);
            let page =
                request.send().await.map_err(|error| self.explain(what, AwsError::of(&error)))?;
            Ok((page.volumes.unwrap_or_default(), page.next_token))
        })
        .await
    }

    /// The volumes of these that are there.
    pub(super) async fn describe_volumes_by_id(
        &self,
        what: &str,
        ids: &[VolumeId],
    ) -> Result<Vec<types::Volume>, VolumesError> {
        let mut found = Vec::new();
        for some in ids.chunks(FILTER_VALUES_MAX) {
            found
                .extend(self.describe_volumes(what, vec![filter("volume-id", texts(some))]).await?);
        }
        Ok(found)
    }

    /// The instances of these that are there.
    pub(super) async fn describe_instances(
        &self,
        what: &str,
        ids: &[String],
    ) -> Result<Vec<types::Instance>, VolumesError> {
        let mut found = Vec::new();
        for some in ids.chunks(FILTER_VALUES_MAX) {
            let reservations = self.all(what, |token| async move {
                let request =
                    self.ec2.describe_instances().filters(filter("instance-id", some.to_vec()));
                let sent = request.max_results(PAGE_ITEMS).set_next_token(token).send().await;
                let page = sent.map_err(|error| self.explain(what, AwsError::of(&error)))?;
                Ok((page.reservations.unwrap_or_default(), page.next_token))
            });
            for reservation in reservations.await? {
                found.extend(reservation.instances.unwrap_or_default());
            }
        }
        Ok(found)
    }

    /// How far volumes have been read in from their snapshots, in percent. If one is gone by now,
    /// it is known of none asked about with it.
    async fn hydration(
        &self,
        what: &str,
        ids: &[String],
    ) -> Result<BTreeMap<String, u8>, VolumesError> {
        let mut hydrated = BTreeMap::new();
        for some in ids.chunks(FILTER_VALUES_MAX) {
            // There is no filter by id here.
            let listed = self.all(what, |token| async move {
                let request = self
                    .ec2
                    .describe_volume_status()
                    .set_volume_ids(Some(some.to_vec()))
                    .set_next_token(token);
                let page = request
                    .send()
                    .await
                    .map_err(|error| self.explain(what, AwsError::of(&error)))?;
                Ok((page.volume_statuses.unwrap_or_default(), page.next_token))
            });
            let statuses = match listed.await {
                Err(VolumesError::Missing { .. }) => continue,
                listed => listed?,
            };
            for status in statuses {
                let percent =
                    status.initialization_status_details().and_then(|details| details.progress());
                if let (Some(id), Some(percent)) = (status.volume_id(), percent) {
                    hydrated.insert(
                        id.to_owned(),
                        u8::try_from(percent.clamp(0, 100)).unwrap_or_default(),
                    );
                }
            }
        }
        Ok(hydrated)
    }

    /// Volumes as the trait tells of them, by id; with what they are attached to, which is
    /// `instance` where one is meant.
    async fn volumes_of(
        &self,
        what: &str,
        raw: &[types::Volume],
        instance: Option<&InstanceId>,
    ) -> Result<Vec<VolumeInfo>, VolumesError> {
        let holders: BTreeSet<&str> = raw
            .iter()
            .flat_map(|volume| volume.attachments())
            .filter_map(|held| held.instance_id())
            .collect();
        let holders: Vec<String> = holders.into_iter().map(ToOwned::to_owned).collect();
        let mut roots = BTreeMap::new();
        for holder in self.describe_instances(what, &holders).await? {
            if let (Some(id), Some(device)) = (holder.instance_id, holder.root_device_name) {
                roots.insert(id, device);
            }
        }
        let mut found = Vec::new();
        for volume in raw {
            found.push(self.volume(what, volume, attachment(volume, &roots, instance))?);
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    fn volume(
        &self,
        what: &str,
        raw: &types::Volume,
        attached: Option<VolumeAttachment>,
    ) -> Result<VolumeInfo, VolumesError> {
        let id = self.volume_id(what, raw.volume_id())?;
        let lacks = |part: &str| self.nonsense(what, format!("{id} has no {part}"));
        let class = raw.volume_type().ok_or_else(|| lacks("type"))?.as_str();
        let number = |n: i32| u32::try_from(n).ok();
        Ok(VolumeInfo {
            bytes: raw.size().and_then(gib).ok_or_else(|| lacks("size"))?,
            encrypted: raw.encrypted().unwrap_or_default(),
            key: raw.kms_key_id().map(ToOwned::to_owned),
            zone: raw.availability_zone().ok_or_else(|| lacks("availability zone"))?.to_owned(),
            // EC2 tells a rate for gp2 too, which is not provisioned and cannot be asked for.
            iops: if matches!(class, "gp3" | "io1" | "io2") {
                raw.iops().and_then(number)
            } else {
                None
            },
            throughput: if class == "gp3" { raw.throughput().and_then(number) } else { None },
            class: class.to_owned(),
            arrived: attached.as_ref().is_some_and(|attached| arrived(raw, attached)),
            attached,
            state: raw.state().map_or("unknown", VolumeState::as_str).to_owned(),
            snapshot: raw.snapshot_id().and_then(|id| id.parse().ok()),
            hydrated_percent: None,
            tags: tag_map(raw.tags()),
            id,
        })
    }
}

/// Where a volume is attached. Of several instances, which io1 and io2 allow, it is the one that is
/// meant, or the first.
fn attachment(
    raw: &types::Volume,
    roots: &BTreeMap<String, String>,
    instance: Option<&InstanceId>,
) -> Option<VolumeAttachment> {
    let mut attached = raw
        .attachments()
        .iter()
        .filter(|held| held.state() != Some(&VolumeAttachmentState::Detached))
        .filter_map(|held| {
            // AWS's own services attach volumes to things that are not instances.
            let (id, device) = (held.instance_id()?, held.device()?);
            let boot = roots.get(id).is_some_and(|root| root == device);
            Some(VolumeAttachment { instance: id.parse().ok()?, device: device.to_owned(), boot })
        });
    match instance {
        Some(wanted) => attached.find(|held| held.instance == *wanted),
        None => attached.next(),
    }
}

/// Whether a volume is where it is said to be attached.
fn arrived(raw: &types::Volume, at: &VolumeAttachment) -> bool {
    let there = |held: &types::VolumeAttachment| {
        held.instance_id() == Some(at.instance.as_str())
            && held.state() == Some(&VolumeAttachmentState::Attached)
    };
    raw.attachments().iter().any(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(instance: &str, device: &str, state: VolumeAttachmentState) -> types::VolumeAttachment {
        types::VolumeAttachment::builder().instance_id(instance).device(device).state(state).build()
    }

    #[test]
    fn the_root_device_is_what_an_instance_boots_from() {
        let roots = BTreeMap::from([
            ("i-1".to_owned(), "/dev/xvda".to_owned()),
            ("i-2".to_owned(), "/dev/sda1".to_owned()),
        ]);
        let shared = types::Volume::builder()
            .attachments(held("i-0", "/dev/sdf", VolumeAttachmentState::Detached))
            .attachments(held("i-1", "/dev/xvda", VolumeAttachmentState::Attached))
            .attachments(held("i-2", "/dev/sdf", VolumeAttachmentState::Attached))
            .build();
        let of = |instance: Option<&str>| {
            attachment(&shared, &roots, instance.and_then(|id| id.parse().ok()).as_ref())
        };
        assert!(of(None).is_some_and(|held| held.boot && held.instance.as_str() == "i-1"));
        assert!(of(Some("i-2")).is_some_and(|held| !held.boot && held.device == "/dev/sdf"));
        assert_eq!(of(Some("i-0")), None, "it is not attached there any more");
    }
}

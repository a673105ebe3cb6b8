//! RunInstances: one instance without a public address, metadata by token only, volumes under the
//! drill's key that go with it.

use aws_sdk_ec2::error::ProvideErrorMetadata;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, HttpTokensState, IamInstanceProfileSpecification,
    InstanceMetadataEndpointState, InstanceMetadataOptionsRequest, InstanceMetadataTagsState,
    InstanceNetworkInterfaceSpecification, InstanceType, Placement, ResourceType, ShutdownBehavior,
    Tenancy, VolumeType,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::api_calls::{CallFailed, CallMode};
use super::{AwsCloud, once};
use crate::aws::AwsError;
use crate::sandbox::vpc::cloud::{CallOutcome, CloudError, LaunchSpec, LaunchVolume};

/// Hops that an answer of the metadata service may go: no further than the instance, so no
/// container gets its credentials.
const HOPS: i32 = 1;

impl AwsCloud {
    pub(super) async fn run_instance(
        &self,
        call: &CallMode<'_>,
        launch: &LaunchSpec,
    ) -> Result<CallOutcome, CallFailed> {
        let request = self
            .ec2
            .run_instances()
            .min_count(1)
            .max_count(1)
            .image_id(&launch.image)
            .instance_type(InstanceType::from(launch.instance_type.as_str()))
            .network_interfaces(interface(launch))
            .iam_instance_profile(
                IamInstanceProfileSpecification::builder().arn(&launch.profile).build(),
            )
            .metadata_options(metadata())
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Terminate)
            .placement(Placement::builder().tenancy(Tenancy::from(launch.tenancy.as_str())).build())
            .set_block_device_mappings(Some(launch.volumes.iter().map(mapping).collect()))
            .user_data(STANDARD.encode(launch.user_data.as_bytes()))
            .tag_specifications(call.tagged(ResourceType::Instance))
            .tag_specifications(call.tagged(ResourceType::Volume))
            .tag_specifications(call.tagged(ResourceType::NetworkInterface))
            .set_client_token(call.token())
            .set_dry_run(call.dry());
        // Where there is no capacity EC2 answers as if it were broken: another zone is asked rather
        // than this one again.
        let sent = request.customize().config_override(once()).send().await;
        // The type is not offered in the zone, which is as good as none being left there.
        if let Err(error) = &sent
            && error.code() == Some("Unsupported")
        {
            return Err(CloudError::NoCapacity {
                what: call.what.clone(),
                why: AwsError::of(error).message,
            }
            .into());
        }
        call.made(sent, |reply| reply.instances?.into_iter().next()?.instance_id)
    }
}

fn interface(launch: &LaunchSpec) -> InstanceNetworkInterfaceSpecification {
    InstanceNetworkInterfaceSpecification::builder()
        .device_index(0)
        .subnet_id(&launch.subnet)
        .groups(&launch.group)
        .associate_public_ip_address(false)
        .delete_on_termination(true)
        .build()
}

fn metadata() -> InstanceMetadataOptionsRequest {
    InstanceMetadataOptionsRequest::builder()
        .http_endpoint(InstanceMetadataEndpointState::Enabled)
        .http_tokens(HttpTokensState::Required)
        .http_put_response_hop_limit(HOPS)
        .instance_metadata_tags(InstanceMetadataTagsState::Disabled)
        .build()
}

fn mapping(volume: &LaunchVolume) -> BlockDeviceMapping {
    // Of an image's own volume there is nothing to tell how fast it is read in.
    let rate = volume.snapshot.as_ref().and(volume.initialization_rate);
    let ebs = EbsBlockDevice::builder()
        .set_snapshot_id(volume.snapshot.clone())
        .encrypted(true)
        .kms_key_id(&volume.key)
        .delete_on_termination(true)
        .set_volume_size(volume.gib)
        .volume_type(VolumeType::Gp3)
        .set_volume_initialization_rate(rate);
    BlockDeviceMapping::builder().device_name(&volume.device).ebs(ebs.build()).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_volume_is_under_the_drills_key_and_goes_with_the_instance() {
        let volume = |snapshot: Option<&str>| LaunchVolume {
            device: "/dev/sdf".to_owned(),
            snapshot: snapshot.map(ToOwned::to_owned),
            key: "key".to_owned(),
            gib: Some(8),
            initialization_rate: Some(200),
        };
        for (snapshot, rate) in [(Some("snap-1"), Some(200)), (None, None)] {
            let mapping = mapping(&volume(snapshot));
            assert_eq!(mapping.device_name(), Some("/dev/sdf"));
            let told = mapping.ebs().map(|ebs| {
                (ebs.snapshot_id(), ebs.encrypted(), ebs.kms_key_id(), ebs.delete_on_termination())
            });
            assert_eq!(told, Some((snapshot, Some(true), Some("key"), Some(true))));
            assert_eq!(mapping.ebs().and_then(|ebs| ebs.volume_initialization_rate()), rate);
        }
    }

    #[test]
    fn metadata_take_a_token_and_go_no_further() {
        let told = metadata();
        assert_eq!(told.http_tokens(), Some(&HttpTokensState::Required));
        assert_eq!(told.http_put_response_hop_limit(), Some(1));
    }
}

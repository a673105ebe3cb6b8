//! Instances, volumes and network interfaces as they are.
//!
//! Those that AWS's own services manage are listed too, even where the account hides them: they may
//! hold things, and be ways out.

use aws_sdk_ec2::types::{self, Filter, VolumeAttachmentState};

use super::describe::{made, thing};
use super::{AwsCloud, PAGE_ITEMS, explain, pages, sorted, tag_map, text};
use crate::aws::AwsError;
use crate::sandbox::vpc::cloud::{
    CloudError, CloudResource, InstanceFacts, ResourceFacts, ResourceKind,
};

/// Instances of one page. There may be thousands in an account, of which the quota of cores takes
/// stock.
const PAGE_INSTANCES: i32 = 500;

impl AwsCloud {
    pub(super) async fn describe_instances(
        &self,
        what: &str,
        filters: &[Filter],
    ) -> Result<Vec<types::Instance>, CloudError> {
        let reservations = pages(what, |token| async move {
            let request = self
                .ec2
                .describe_instances()
                .set_filters(Some(filters.to_vec()))
                .include_managed_resources(true);
            let sent = request.max_results(PAGE_INSTANCES).set_next_token(token).send().await;
            let page = sent.map_err(|error| explain(what, AwsError::of(&error)))?;
            Ok((page.reservations.unwrap_or_default(), page.next_token))
        });
        Ok(reservations
            .await?
            .into_iter()
            .flat_map(|reservation| reservation.instances.unwrap_or_default())
            .collect())
    }

    pub(super) async fn instances(
        &self,
        what: &str,
        filters: &[Filter],
    ) -> Result<Vec<CloudResource>, CloudError> {
        made(what, &self.describe_instances(what, filters).await?, instance)
    }

    pub(super) async fn volumes(
        &self,
        what: &str,
        filters: &[Filter],
    ) -> Result<Vec<CloudResource>, CloudError> {
        let found = pages(what, |token| async move {
            let request = self
                .ec2
                .describe_volumes()
                .set_filters(Some(filters.to_vec()))
                .include_managed_resources(true);
            let sent = request.max_results(PAGE_ITEMS).set_next_token(token).send().await;
            let page = sent.map_err(|error| explain(what, AwsError::of(&error)))?;
            Ok((page.volumes.unwrap_or_default(), page.next_token))
        });
        made(what, &found.await?, volume)
    }

    pub(super) async fn interfaces(
        &self,
        what: &str,
        filters: &[Filter],
    ) -> Result<Vec<CloudResource>, CloudError> {
        let found = pages(what, |token| async move {
            let request = self
                .ec2
                .describe_network_interfaces()
                .set_filters(Some(filters.to_vec()))
                .include_managed_resources(true);
            let sent = request.max_results(PAGE_ITEMS).set_next_token(token).send().await;
            let page = sent.map_err(|error| explain(what, AwsError::of(&error)))?;
            Ok((page.network_interfaces.unwrap_or_default(), page.next_token))
        });
        made(what, &found.await?, interface)
    }
}

fn instance(what: &str, raw: &types::Instance) -> Result<CloudResource, CloudError> {
    let placement = raw.placement();
    let metadata = raw.metadata_options();
    let volume = |mapping: &types::InstanceBlockDeviceMapping| {
        let ebs = mapping.ebs()?;
        Some((
            text(mapping.device_name()),
            text(ebs.volume_id()),
            ebs.delete_on_termination().unwrap_or_default(),
        ))
    };
    let facts = InstanceFacts {
        vpc: text(raw.vpc_id()),
        subnet: text(raw.subnet_id()),
        zone: text(placement.and_then(|placement| placement.availability_zone())),
        instance_type: raw.instance_type().map(|name| name.as_str().to_owned()).unwrap_or_default(),
        image: text(raw.image_id()),
        tenancy: placement
            .and_then(|placement| placement.tenancy())
            .map(|tenancy| tenancy.as_str().to_owned())
            .unwrap_or_default(),
        http_tokens: metadata
            .and_then(|options| options.http_tokens())
            .map(|state| state.as_str().to_owned())
            .unwrap_or_default(),
        hop_limit: metadata
            .and_then(|options| options.http_put_response_hop_limit())
            .unwrap_or_default(),
        public_ip: public_ip(raw),
        groups: sorted(raw.security_groups().iter().map(|group| text(group.group_id()))),
        volumes: sorted(raw.block_device_mappings().iter().filter_map(volume)),
    };
    let state =
        raw.state().and_then(|state| state.name()).map(|name| name.as_str()).unwrap_or_default();
    let mut found = thing(
        what,
        ResourceKind::Instance,
        raw.instance_id(),
        state,
        tag_map(raw.tags()),
        ResourceFacts::Instance(Box::new(facts)),
    )?;
    found.reason = raw.state_reason().map(|reason| match (reason.code(), reason.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (code, message) => text(code.or(message)),
    });
    Ok(found)
}

/// An address that the world can reach. Every IPv6 address is one.
fn public_ip(raw: &types::Instance) -> Option<String> {
    let of_interface = |interface: &types::InstanceNetworkInterface| {
        let v4 = interface.association().and_then(|association| association.public_ip());
        let v6 = || interface.ipv6_addresses().first().and_then(|address| address.ipv6_address());
        v4.or_else(v6).map(ToOwned::to_owned)
    };
    let own = raw.public_ip_address().or(raw.ipv6_address()).filter(|address| !address.is_empty());
    own.map(ToOwned::to_owned).or_else(|| raw.network_interfaces().iter().find_map(of_interface))
}

fn volume(what: &str, raw: &types::Volume) -> Result<CloudResource, CloudError> {
    let mut held = raw
        .attachments()
        .iter()
        .filter(|held| held.state() != Some(&VolumeAttachmentState::Detached));
    let facts = ResourceFacts::Volume {
        encrypted: raw.encrypted().unwrap_or_default(),
        key: raw.kms_key_id().map(ToOwned::to_owned),
        zone: text(raw.availability_zone()),
        instance: held.find_map(|held| held.instance_id()).map(ToOwned::to_owned),
    };
    let state = raw.state().map(|state| state.as_str()).unwrap_or_default();
    thing(what, ResourceKind::Volume, raw.volume_id(), state, tag_map(raw.tags()), facts)
}

fn interface(what: &str, raw: &types::NetworkInterface) -> Result<CloudResource, CloudError> {
    let facts = ResourceFacts::Interface {
        vpc: text(raw.vpc_id()),
        subnet: text(raw.subnet_id()),
        groups: sorted(raw.groups().iter().map(|group| text(group.group_id()))),
        description: text(raw.description()),
    };
    let state = raw.status().map(|status| status.as_str()).unwrap_or_default();
    thing(
        what,
        ResourceKind::Interface,
        raw.network_interface_id(),
        state,
        tag_map(raw.tag_set()),
        facts,
    )
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{
        InstanceNetworkInterface, InstanceNetworkInterfaceAssociation, InstanceState,
        InstanceStateName, StateReason, VolumeAttachment,
    };

    use super::*;

    #[test]
    fn a_terminated_instance_is_there_and_says_why() {
        let raw = types::Instance::builder()
            .instance_id("i-1")
            .state(InstanceState::builder().name(InstanceStateName::Terminated).build())
            .state_reason(
                StateReason::builder()
                    .code("Client.InternalError")
                    .message("the key is gone")
                    .build(),
            )
            .build();
        let found = instance("it", &raw);
        assert!(found.is_ok_and(|found| found.state == "terminated"
            && found.reason.as_deref() == Some("Client.InternalError: the key is gone")));
        assert!(instance("it", &types::Instance::builder().build()).is_err(), "it has no id");
    }

    #[test]
    fn a_public_address_is_found_wherever_it_is() {
        let association =
            InstanceNetworkInterfaceAssociation::builder().public_ip("198.51.100.1").build();
        let behind = InstanceNetworkInterface::builder().association(association).build();
        assert_eq!(
            public_ip(&types::Instance::builder().network_interfaces(behind).build()).as_deref(),
            Some("198.51.100.1")
        );
        assert_eq!(
            public_ip(&types::Instance::builder().ipv6_address("2001:db8::1").build()).as_deref(),
            Some("2001:db8::1")
        );
        assert_eq!(
            public_ip(&types::Instance::builder().private_ip_address("10.0.0.4").build()),
            None
        );
    }

    #[test]
    fn a_volume_is_attached_where_it_has_not_been_detached() {
        let held =
            |id: &str, state| VolumeAttachment::builder().instance_id(id).state(state).build();
        let raw = types::Volume::builder()
            .volume_id("vol-1")
            .encrypted(true)
            .attachments(held("i-0", VolumeAttachmentState::Detached))
            .attachments(held("i-1", VolumeAttachmentState::Attached))
            .build();
        let facts = volume("it", &raw).map(|found| found.facts);
        let instance = Some("i-1".to_owned());
        assert_eq!(
            facts,
            Ok(ResourceFacts::Volume { encrypted: true, key: None, zone: String::new(), instance })
        );
    }
}

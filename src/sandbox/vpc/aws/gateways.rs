//! Ways out of a VPC. What has been taken away may be listed for a while, and is none.

use aws_sdk_ec2::types::{
    self, AttachmentStatus, CarrierGatewayState, Ec2InstanceConnectEndpointState, Filter,
    NatGatewayState, TransitGatewayAttachmentState,
    VpcPeeringConnectionStateReasonCode as PeeringCode, VpnState,
};

use super::describe::thing;
use super::{AwsCloud, PAGE_ITEMS, explain, filter, literal, pages, tag_map};
use crate::aws::AwsError;
use crate::sandbox::vpc::cloud::{
    CloudError, CloudResource, ResourceFacts, ResourceKind, ResourceScope,
};

impl AwsCloud {
    pub(super) async fn internet_gateways(
        &self,
        what: &str,
        filters: &[Filter],
        at: &ResourceScope,
    ) -> Result<Vec<CloudResource>, CloudError> {
        let found = listed!(self.ec2, what, describe_internet_gateways.set_filters(filters) -> internet_gateways)?;
        let there = found.iter().filter(|raw| is_attached(raw.attachments(), at));
        let way = |raw: &types::InternetGateway| -> Result<CloudResource, CloudError> {
            let state = state_of(raw.attachments());
            way_out(
                what,
                ResourceKind::InternetGateway,
                raw.internet_gateway_id(),
                state,
                raw.tags(),
            )
        };
        there.map(way).collect()
    }

    /// There is no filter by VPC.
    pub(super) async fn egress_only_gateways(
        &self,
        what: &str,
        filters: &[Filter],
        at: &ResourceScope,
    ) -> Result<Vec<CloudResource>, CloudError> {
        let found = listed!(self.ec2, what, describe_egress_only_internet_gateways.set_filters(filters) -> egress_only_internet_gateways)?;
        let there = found.iter().filter(|raw| is_attached(raw.attachments(), at));
        let way = |raw: &types::EgressOnlyInternetGateway| -> Result<CloudResource, CloudError> {
            let state = state_of(raw.attachments());
            way_out(
                what,
                ResourceKind::EgressOnlyGateway,
                raw.egress_only_internet_gateway_id(),
                state,
                raw.tags(),
            )
        };
        there.map(way).collect()
    }

    pub(super) async fn nat_gateways(
        &self,
        what: &str,
        filters: &[Filter],
    ) -> Result<Vec<CloudResource>, CloudError> {
        let found =
            listed!(self.ec2, what, describe_nat_gateways.set_filter(filters) -> nat_gateways)?;
        let there = found.iter().filter(|raw| raw.state() != Some(&NatGatewayState::Deleted));
        let way = |raw: &types::NatGateway| -> Result<CloudResource, CloudError> {
            let state = raw.state().map(|state| state.as_str());
            let mut way =
                way_out(what, ResourceKind::NatGateway, raw.nat_gateway_id(), state, raw.tags())?;
            way.reason = raw.failure_message().map(ToOwned::to_owned);
            Ok(way)
        };
        there.map(way).collect()
    }

    /// The list has no pages.
    pub(super) async fn vpn_gateways(
        &self,
        what: &str,
        filters: &[Filter],
        at: &ResourceScope,
    ) -> Result<Vec<CloudResource>, CloudError> {
        let sent =
            self.ec2.describe_vpn_gateways().set_filters(Some(filters.to_vec())).send().await;
        let found = sent
            .map_err(|error| explain(what, AwsError::of(&error)))?
            .vpn_gateways
            .unwrap_or_default();
        let here = |raw: &types::VpnGateway| match at {
            ResourceScope::Vpc(vpc) => {
                raw.vpc_attachments().iter().any(|held| holds(held.vpc_id(), held.state(), vpc))
            }
            ResourceScope::Id(_) | ResourceScope::Tagged(_) => true,
        };
        let there = found.iter().filter(|raw| raw.state() != Some(&VpnState::Deleted) && here(raw));
        let way = |raw: &types::VpnGateway| -> Result<CloudResource, CloudError> {
            let state = raw.state().map(|state| state.as_str());
            way_out(what, ResourceKind::VpnGateway, raw.vpn_gateway_id(), state, raw.tags())
        };
        there.map(way).collect()
    }

    pub(super) async fn carrier_gateways(
        &self,
        what: &str,
        filters: &[Filter],
    ) -> Result<Vec<CloudResource>, CloudError> {
        let found = listed!(self.ec2, what, describe_carrier_gateways.set_filters(filters) -> carrier_gateways)?;
        let there = found.iter().filter(|raw| raw.state() != Some(&CarrierGatewayState::Deleted));
        let way = |raw: &types::CarrierGateway| -> Result<CloudResource, CloudError> {
            let state = raw.state().map(|state| state.as_str());
            way_out(what, ResourceKind::CarrierGateway, raw.carrier_gateway_id(), state, raw.tags())
        };
        there.map(way).collect()
    }

    /// A VPC is on either side of a connection, and there is no filter for both at once.
    pub(super) async fn peerings(
        &self,
        what: &str,
        filters: &[Filter],
        at: &ResourceScope,
    ) -> Result<Vec<CloudResource>, CloudError> {
        let lists = match at {
            ResourceScope::Vpc(vpc) => ["requester-vpc-info.vpc-id", "accepter-vpc-info.vpc-id"]
                .map(|name| vec![filter(name, vec![literal(vpc)])])
                .to_vec(),
            ResourceScope::Id(_) | ResourceScope::Tagged(_) => vec![filters.to_vec()],
        };
        let mut found: Vec<types::VpcPeeringConnection> = Vec::new();
        for filters in &lists {
            let listed = listed!(self.ec2, what, describe_vpc_peering_connections.set_filters(filters.as_slice()) -> vpc_peering_connections)?;
            found.extend(listed);
        }
        let gone = |raw: &types::VpcPeeringConnection| {
            matches!(
                raw.status().and_then(|status| status.code()),
                Some(
                    PeeringCode::Deleted
                        | PeeringCode::Rejected
                        | PeeringCode::Failed
                        | PeeringCode::Expired
                )
            )
        };
        let way = |raw: &types::VpcPeeringConnection| -> Result<CloudResource, CloudError> {
            let state = raw.status().and_then(|status| status.code()).map(|code| code.as_str());
            let mut way = way_out(
                what,
                ResourceKind::Peering,
                raw.vpc_peering_connection_id(),
                state,
                raw.tags(),
            )?;
            way.reason = raw.status().and_then(|status| status.message()).map(ToOwned::to_owned);
            Ok(way)
        };
        found.iter().filter(|raw| !gone(raw)).map(way).collect()
    }

    pub(super) async fn transit_attachments(
        &self,
        what: &str,
        filters: &[Filter],
    ) -> Result<Vec<CloudResource>, CloudError> {
        let found = listed!(
            self.ec2,
            what,
            describe_transit_gateway_vpc_attachments.set_filters(filters) -> transit_gateway_vpc_attachments
        )?;
        let there =
            found.iter().filter(|raw| raw.state() != Some(&TransitGatewayAttachmentState::Deleted));
        let way = |raw: &types::TransitGatewayVpcAttachment| -> Result<CloudResource, CloudError> {
            let state = raw.state().map(|state| state.as_str());
            way_out(
                what,
                ResourceKind::TransitAttachment,
                raw.transit_gateway_attachment_id(),
                state,
                raw.tags(),
            )
        };
        there.map(way).collect()
    }

    pub(super) async fn connect_endpoints(
        &self,
        what: &str,
        filters: &[Filter],
    ) -> Result<Vec<CloudResource>, CloudError> {
        let found = listed!(self.ec2, what, describe_instance_connect_endpoints.set_filters(filters) -> instance_connect_endpoints)?;
        let there = found
            .iter()
            .filter(|raw| raw.state() != Some(&Ec2InstanceConnectEndpointState::DeleteComplete));
        let way = |raw: &types::Ec2InstanceConnectEndpoint| -> Result<CloudResource, CloudError> {
            let state = raw.state().map(|state| state.as_str());
            let mut way = way_out(
                what,
                ResourceKind::ConnectEndpoint,
                raw.instance_connect_endpoint_id(),
                state,
                raw.tags(),
            )?;
            way.reason = raw.state_message().map(ToOwned::to_owned);
            Ok(way)
        };
        there.map(way).collect()
    }
}

/// Whether an attachment is one to a VPC, or on its way there or from there.
fn holds(to: Option<&str>, state: Option<&AttachmentStatus>, vpc: &str) -> bool {
    to == Some(vpc) && state != Some(&AttachmentStatus::Detached)
}

/// Whether a gateway is attached to the VPC that is looked at, if it is one.
fn is_attached(attachments: &[types::InternetGatewayAttachment], at: &ResourceScope) -> bool {
    match at {
        ResourceScope::Vpc(vpc) => {
            attachments.iter().any(|held| holds(held.vpc_id(), held.state(), vpc))
        }
        ResourceScope::Id(_) | ResourceScope::Tagged(_) => true,
    }
}

/// Internet gateways have no state but that of being attached.
fn state_of(attachments: &[types::InternetGatewayAttachment]) -> Option<&str> {
    attachments.first().and_then(|held| held.state()).map(|state| state.as_str())
}

fn way_out(
    what: &str,
    kind: ResourceKind,
    id: Option<&str>,
    state: Option<&str>,
    tags: &[types::Tag],
) -> Result<CloudResource, CloudError> {
    thing(what, kind, id, state.unwrap_or_default(), tag_map(tags), ResourceFacts::WayOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_counts_until_it_is_detached() {
        let held = |vpc: &str, state: &str| {
            types::InternetGatewayAttachment::builder()
                .vpc_id(vpc)
                .state(AttachmentStatus::from(state))
                .build()
        };
        let at = ResourceScope::Vpc("vpc-1".to_owned());
        assert!(is_attached(&[held("vpc-1", "available")], &at));
        assert!(is_attached(&[held("vpc-1", "detaching")], &at));
        assert!(!is_attached(&[held("vpc-1", "detached")], &at));
        assert!(!is_attached(&[held("vpc-2", "available")], &at));
        assert!(is_attached(&[], &ResourceScope::Id("eigw-1".to_owned())));
    }
}

//! Ways out of a VPC. moto keeps them, but instance connect endpoints; the front only cuts the
//! lists into pages.

use super::listing::{Listing, found};
use super::network::{done, missing, subnet};
use super::query::Query;
use super::things;
use super::world::{Answer, World};
use super::xml::Node;

struct Way {
    /// Actions that make one; none was ever called: there is none.
    made_by: &'static str,
    describe: &'static str,
    listing: Listing,
    /// Where it tells of a VPC it is attached to.
    vpcs: &'static [&'static str],
}

const fn listing(
    set: &'static str,
    id: &'static str,
    asked: &'static str,
    missing: &'static str,
    values: super::listing::Values,
) -> Listing {
    Listing { set, id, asked, missing: Some(missing), values }
}

/// The pages of DescribeInternetGateways and of the other actions name the filters.
const WAYS: [Way; 8] = [
    Way {
        made_by: "CreateInternetGateway",
        describe: "DescribeInternetGateways",
        listing: listing(
            "internetGatewaySet",
            "internetGatewayId",
            "InternetGatewayId",
            "InvalidInternetGatewayID.NotFound",
            |item, filter| {
                let paths = [
                    ("attachment.state", "attachmentSet/item/state"),
                    ("attachment.vpc-id", "attachmentSet/item/vpcId"),
                    ("internet-gateway-id", "internetGatewayId"),
                    ("owner-id", "ownerId"),
                ];
                found(item, filter, &paths)
            },
        ),
        vpcs: &["attachmentSet/item/vpcId"],
    },
    Way {
        made_by: "CreateEgressOnlyInternetGateway",
        describe: "DescribeEgressOnlyInternetGateways",
        // Filters by tags only.
        listing: listing(
            "egressOnlyInternetGatewaySet",
            "egressOnlyInternetGatewayId",
            "EgressOnlyInternetGatewayId",
            "InvalidEgressOnlyInternetGatewayId.NotFound",
            |_, _| None,
        ),
        vpcs: &["attachmentSet/item/vpcId"],
    },
    Way {
        made_by: "CreateNatGateway",
        describe: "DescribeNatGateways",
        listing: listing(
            "natGatewaySet",
            "natGatewayId",
            "NatGatewayId",
            "NatGatewayNotFound",
            |item, filter| {
                found(
                    item,
                    filter,
                    &[
                        ("nat-gateway-id", "natGatewayId"),
                        ("state", "state"),
                        ("subnet-id", "subnetId"),
                        ("vpc-id", "vpcId"),
                    ],
                )
            },
        ),
        vpcs: &["vpcId"],
    },
    Way {
        made_by: "CreateVpnGateway",
        describe: "DescribeVpnGateways",
        listing: listing(
            "vpnGatewaySet",
            "vpnGatewayId",
            "VpnGatewayId",
            "InvalidVpnGatewayID.NotFound",
            |item, filter| {
                let paths = [
                    ("attachment.state", "attachments/item/state"),
                    ("attachment.vpc-id", "attachments/item/vpcId"),
                    ("state", "state"),
                    ("type", "type"),
                    ("vpn-gateway-id", "vpnGatewayId"),
                ];
                found(item, filter, &paths)
            },
        ),
        vpcs: &["attachments/item/vpcId"],
    },
    Way {
        made_by: "CreateCarrierGateway",
        describe: "DescribeCarrierGateways",
        listing: listing(
            "carrierGatewaySet",
            "carrierGatewayId",
            "CarrierGatewayId",
            "InvalidCarrierGatewayID.NotFound",
            |item, filter| {
                let paths = [
                    ("carrier-gateway-id", "carrierGatewayId"),
                    ("owner-id", "ownerId"),
                    ("state", "state"),
                    ("vpc-id", "vpcId"),
                ];
                found(item, filter, &paths)
            },
        ),
        vpcs: &["vpcId"],
    },
    Way {
        made_by: "CreateVpcPeeringConnection",
        describe: "DescribeVpcPeeringConnections",
        listing: listing(
            "vpcPeeringConnectionSet",
            "vpcPeeringConnectionId",
            "VpcPeeringConnectionId",
            "InvalidVpcPeeringConnectionID.NotFound",
            |item, filter| {
                let paths = [
                    ("accepter-vpc-info.cidr-block", "accepterVpcInfo/cidrBlock"),
                    ("accepter-vpc-info.owner-id", "accepterVpcInfo/ownerId"),
                    ("accepter-vpc-info.vpc-id", "accepterVpcInfo/vpcId"),
                    ("requester-vpc-info.cidr-block", "requesterVpcInfo/cidrBlock"),
                    ("requester-vpc-info.owner-id", "requesterVpcInfo/ownerId"),
                    ("requester-vpc-info.vpc-id", "requesterVpcInfo/vpcId"),
                    ("status-code", "status/code"),
                    ("vpc-peering-connection-id", "vpcPeeringConnectionId"),
                ];
                found(item, filter, &paths)
            },
        ),
        vpcs: &["accepterVpcInfo/vpcId", "requesterVpcInfo/vpcId"],
    },
    Way {
        made_by: "CreateTransitGatewayVpcAttachment",
        describe: "DescribeTransitGatewayVpcAttachments",
        listing: listing(
            "transitGatewayVpcAttachments",
            "transitGatewayAttachmentId",
            "TransitGatewayAttachmentIds",
            "InvalidTransitGatewayAttachmentID.NotFound",
            |item, filter| {
                let paths = [
                    ("state", "state"),
                    ("transit-gateway-attachment-id", "transitGatewayAttachmentId"),
                    ("transit-gateway-id", "transitGatewayId"),
                    ("vpc-id", "vpcId"),
                ];
                found(item, filter, &paths)
            },
        ),
        vpcs: &["vpcId"],
    },
    Way {
        made_by: "CreateTransitGatewayVpcAttachment",
        describe: "DescribeTransitGatewayAttachments",
        listing: listing(
            "transitGatewayAttachments",
            "transitGatewayAttachmentId",
            "TransitGatewayAttachmentIds",
            "InvalidTransitGatewayAttachmentID.NotFound",
            |item, filter| {
                let paths = [
                    ("resource-id", "resourceId"),
                    ("resource-type", "resourceType"),
                    ("state", "state"),
                    ("transit-gateway-attachment-id", "transitGatewayAttachmentId"),
                    ("transit-gateway-id", "transitGatewayId"),
                ];
                found(item, filter, &paths)
            },
        ),
        vpcs: &["resourceId"],
    },
];

async fn all_of(world: &World, query: &Query, way: &Way) -> Answer {
    if !world.state().used(way.made_by) {
        return Ok(Vec::new());
    }
    let mut items = world.listed(query, way.describe, way.listing.set).await?;
    items.retain(|item| {
        !["deleted", "detached"].contains(&item.get("state"))
            && item.get("status/code") != "deleted"
    });
    Ok(items)
}

pub fn is_one(action: &str) -> bool {
    WAYS.iter().any(|way| way.describe == action)
}

pub async fn describe(world: &World, query: &Query) -> Answer {
    let way = WAYS.iter().find(|way| way.describe == query.action).unwrap();
    let items = all_of(world, query, way).await?;
    if query.action == "DescribeVpnGateways" {
        // It has no pages.
        return Ok(vec![Node::new(way.listing.set, way.listing.matching(query, items)?)]);
    }
    things::look(world, query, &way.listing, items)
}

/// All of them, but each attachment of a transit gateway once.
pub async fn all(world: &World, query: &Query) -> Answer<Vec<(String, Node)>> {
    let mut found = Vec::new();
    for way in &WAYS[..7] {
        let items = all_of(world, query, way).await?;
        found.extend(items.into_iter().map(|item| (item.get(way.listing.id).to_owned(), item)));
    }
    let state = world.state();
    let here = state.connect_endpoints.iter().filter(|(_, (region, _))| *region == query.region);
    found.extend(here.map(|(id, (_, item))| (id.clone(), item.clone())));
    Ok(found)
}

/// Whether any is attached to a VPC.
pub async fn attached(world: &World, query: &Query, vpc: &str) -> Answer<bool> {
    for way in &WAYS[..7] {
        let to =
            |item: &Node| way.vpcs.iter().any(|path| item.all(path).iter().any(|id| id == vpc));
        if all_of(world, query, way).await?.iter().any(to) {
            return Ok(true);
        }
    }
    Ok(world.state().connect_endpoints.values().any(|(_, item)| item.get("vpcId") == vpc))
}

/// Whether a NAT gateway is in a subnet.
pub async fn nat_in(world: &World, query: &Query, subnet: &str) -> Answer<bool> {
    Ok(all_of(world, query, &WAYS[2]).await?.iter().any(|item| item.get("subnetId") == subnet))
}

const CONNECT: Listing = Listing {
    set: "instanceConnectEndpointSet",
    id: "instanceConnectEndpointId",
    asked: "InstanceConnectEndpointId",
    missing: Some("InvalidInstanceConnectEndpointId.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceConnectEndpoints.html>
    values: |item, filter| {
        let paths = [
            ("instance-connect-endpoint-id", "instanceConnectEndpointId"),
            ("state", "state"),
            ("subnet-id", "subnetId"),
            ("vpc-id", "vpcId"),
        ];
        found(item, filter, &paths)
    },
};

/// There at once, and without an interface. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateInstanceConnectEndpoint.html>
pub async fn connect(world: &World, query: &Query, account: &str) -> Answer {
    let subnet = subnet(world, query, query.get("SubnetId").unwrap_or_default()).await?;
    let mut state = world.state();
    let id = state.new_id("eice");
    let fields = [
        ("ownerId", account),
        ("instanceConnectEndpointId", &id),
        ("state", "create-complete"),
        ("vpcId", subnet.get("vpcId")),
        ("subnetId", subnet.get("subnetId")),
        ("availabilityZone", subnet.get("availabilityZone")),
    ];
    let mut fields: Vec<Node> =
        fields.into_iter().map(|(name, value)| Node::leaf(name, value)).collect();
    fields.push(super::world::tag_set(&query.tags("instance-connect-endpoint")));
    let item = Node::new("item", fields);
    state.connect_endpoints.insert(id, (query.region.clone(), item.clone()));
    Ok(vec![Node { name: "instanceConnectEndpoint".to_owned(), ..item }])
}

pub fn describe_connects(world: &World, query: &Query) -> Answer {
    let items = {
        let state = world.state();
        let here = state.connect_endpoints.values().filter(|(region, _)| *region == query.region);
        here.map(|(_, item)| item.clone()).collect()
    };
    things::look(world, query, &CONNECT, items)
}

pub fn disconnect(world: &World, query: &Query) -> Answer {
    let id = query.get("InstanceConnectEndpointId").unwrap_or_default();
    let known = world.state().connect_endpoints.remove(id);
    known.ok_or_else(|| {
        missing("InvalidInstanceConnectEndpointId.NotFound", "instance connect endpoint", id)
    })?;
    Ok(done())
}

//! VPCs and subnets. moto keeps them; it does not know what depends on what.

use super::gateways;
use super::interfaces;
use super::listing::{Listing, found};
use super::query::Query;
use super::things::{self, Fate};
use super::world::{Answer, Refusal, World, refusal};
use super::xml::Node;
use super::{acls, endpoints, flow_logs, groups, tables};

/// DependencyViolation does not tell what depends. <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>
pub fn depended_on(kind: &str, id: &str) -> Refusal {
    refusal(
        "DependencyViolation",
        format!("The {kind} '{id}' has dependencies and cannot be deleted."),
    )
}

pub fn missing(code: &str, kind: &str, id: &str) -> Refusal {
    refusal(code, format!("The {kind} ID '{id}' does not exist"))
}

/// The children of moto's answer, without what is moto's.
pub fn children(mut answer: Node) -> Vec<Node> {
    answer.remove("requestId");
    answer.children
}

pub fn done() -> Vec<Node> {
    vec![Node::leaf("return", true)]
}

const VPCS: Listing = Listing {
    set: "vpcSet",
    id: "vpcId",
    asked: "VpcId",
    missing: Some("InvalidVpcID.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVpcs.html>
    values: |item, filter| {
        let paths = [
            ("cidr", "cidrBlock"),
            ("cidr-block-association.association-id", "cidrBlockAssociationSet/item/associationId"),
            ("cidr-block-association.cidr-block", "cidrBlockAssociationSet/item/cidrBlock"),
            ("cidr-block-association.state", "cidrBlockAssociationSet/item/cidrBlockState/state"),
            ("dhcp-options-id", "dhcpOptionsId"),
            (
                "ipv6-cidr-block-association.ipv6-cidr-block",
                "ipv6CidrBlockAssociationSet/item/ipv6CidrBlock",
            ),
            ("is-default", "isDefault"),
            ("owner-id", "ownerId"),
            ("state", "state"),
            ("vpc-id", "vpcId"),
        ];
        found(item, filter, &paths)
    },
};

pub async fn vpcs(world: &World, query: &Query) -> Answer {
    world.listed(query, "DescribeVpcs", "vpcSet").await
}

pub async fn vpc(world: &World, query: &Query, id: &str) -> Answer<Node> {
    let found = vpcs(world, query).await?.into_iter().find(|item| item.get("vpcId") == id);
    found.ok_or_else(|| missing("InvalidVpcID.NotFound", "vpc", id))
}

/// Pending first. More than the quota, which the default VPC counts for: VpcLimitExceeded.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateVpc.html>,
/// <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>
pub async fn create_vpc(world: &World, query: &Query) -> Answer {
    let (most, looks) = {
        let settings = &world.state().settings;
        (settings.vpcs, settings.vpc)
    };
    if vpcs(world, query).await?.len() >= most {
        return Err(refusal("VpcLimitExceeded", "The maximum number of VPCs has been reached."));
    }
    let mut answer = world.moto(query, "CreateVpc", &query.sent()).await?;
    things::made(world, query, answer.get("vpc/vpcId"), looks, Fate::Ready);
    answer.children[0].set("state", "pending");
    Ok(children(answer))
}

pub async fn describe_vpcs(world: &World, query: &Query) -> Answer {
    let mut items = vpcs(world, query).await?;
    with_state(world, &mut items, "vpcId");
    things::look(world, query, &VPCS, items)
}

fn with_state(world: &World, items: &mut [Node], id: &str) {
    let state = world.state();
    for item in items {
        let word = things::state_of(&state, item.get(id), ["pending", "available", "failed"]);
        item.set("state", word);
    }
}

/// One attribute in a call. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyVpcAttribute.html>
pub async fn modify_vpc(world: &World, query: &Query) -> Answer {
    vpc(world, query, query.get("VpcId").unwrap_or_default()).await?;
    let changed = ["EnableDnsSupport", "EnableDnsHostnames"]
        .iter()
        .filter(|name| query.get(&format!("{name}.Value")).is_some());
    if changed.count() != 1 {
        return Err(refusal(
            "InvalidParameterCombination",
            "Exactly one attribute can be modified in a request",
        ));
    }
    world.moto(query, "ModifyVpcAttribute", &query.sent()).await?;
    Ok(done())
}

pub async fn attribute(world: &World, query: &Query, vpc: &str, attribute: &str) -> Answer<bool> {
    let params = [("VpcId", vpc), ("Attribute", attribute)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(world.moto(query, "DescribeVpcAttribute", &params).await?.get(&format!("{attribute}/value"))
        == "true")
}

/// Nothing may be in it or attached to it but what came with it: subnets, groups, tables, ACLs,
/// endpoints, interfaces, gateways, and associations of DNS firewall rule groups. <https://docs.aws.amazon.com/vpc/latest/userguide/delete-vpc.html>,
/// <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/resolver-dns-firewall-vpc-protections.html>
pub async fn delete_vpc(world: &World, query: &Query) -> Answer {
    let id = query.get("VpcId").unwrap_or_default();
    vpc(world, query, id).await?;
    let inside = |item: &Node| item.get("vpcId") == id;
    let needed = subnets(world, query).await?.iter().any(inside)
        || groups::all(world, query)
            .await?
            .iter()
            .any(|item| inside(item) && item.get("groupName") != "default")
        || tables::all(world, query)
            .await?
            .iter()
            .any(|item| inside(item) && !tables::is_main(item))
        || acls::all(world, query)
            .await?
            .iter()
            .any(|item| inside(item) && item.get("default") != "true")
        || endpoints::all(world, query)
            .await?
            .iter()
            .any(|item| inside(item) && item.get("state") != "deleting")
        || gateways::attached(world, query, id).await?;
    // A refused deletion is a look at what goes away by itself.
    let lingers = interfaces::in_use(world, query, |item| item.get("vpcId") == id).await?;
    let protected = world.state().firewall.in_use(id);
    if needed || lingers || protected {
        return Err(depended_on("vpc", id));
    }
    world.moto(query, "DeleteVpc", &query.sent()).await?;
    let mut state = world.state();
    state.things.remove(id);
    flow_logs::orphan(&mut state, id);
    Ok(done())
}

const SUBNETS: Listing = Listing {
    set: "subnetSet",
    id: "subnetId",
    asked: "SubnetId",
    missing: Some("InvalidSubnetID.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSubnets.html>
    values: |item, filter| {
        let paths = [
            ("availability-zone", "availabilityZone"),
            ("availabilityZone", "availabilityZone"),
            ("availability-zone-id", "availabilityZoneId"),
            ("available-ip-address-count", "availableIpAddressCount"),
            ("cidr-block", "cidrBlock"),
            ("default-for-az", "defaultForAz"),
            ("map-public-ip-on-launch", "mapPublicIpOnLaunch"),
            ("owner-id", "ownerId"),
            ("state", "state"),
            ("subnet-id", "subnetId"),
            ("vpc-id", "vpcId"),
        ];
        found(item, filter, &paths)
    },
};

pub async fn subnets(world: &World, query: &Query) -> Answer {
    world.listed(query, "DescribeSubnets", "subnetSet").await
}

pub async fn subnet(world: &World, query: &Query, id: &str) -> Answer<Node> {
    let found = subnets(world, query).await?.into_iter().find(|item| item.get("subnetId") == id);
    found.ok_or_else(|| missing("InvalidSubnetID.NotFound", "subnet", id))
}

/// moto takes zones of any region. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSubnet.html>
pub async fn create_subnet(world: &World, query: &Query) -> Answer {
    let zone =
        query.get("AvailabilityZone").map_or_else(|| format!("{}a", query.region), str::to_owned);
    if zone.strip_prefix(query.region.as_str()).is_none_or(|letter| letter.len() != 1) {
        let why = format!(
            "Value ({zone}) for parameter availabilityZone is invalid. Subnets can only be created in this region."
        );
        return Err(refusal("InvalidParameterValue", why));
    }
    let mut params = query.sent();
    params.retain(|(name, _)| name != "AvailabilityZone");
    params.push(("AvailabilityZone".to_owned(), zone));
    let mut answer = world.moto(query, "CreateSubnet", &params).await?;
    let looks = world.state().settings.subnet;
    things::made(world, query, answer.get("subnet/subnetId"), looks, Fate::Ready);
    answer.children[0].set("state", "pending");
    Ok(children(answer))
}

pub async fn describe_subnets(world: &World, query: &Query) -> Answer {
    let mut items = subnets(world, query).await?;
    with_state(world, &mut items, "subnetId");
    things::look(world, query, &SUBNETS, items)
}

/// Not while there are interfaces in it; its associations with a route table and an ACL go with it,
/// which moto forgets. <https://docs.aws.amazon.com/vpc/latest/userguide/subnet-deleting.html>
pub async fn delete_subnet(world: &World, query: &Query) -> Answer {
    let id = query.get("SubnetId").unwrap_or_default();
    let item = subnet(world, query, id).await?;
    let in_it = |item: &Node| item.get("subnetId") == id;
    if interfaces::in_use(world, query, in_it).await? || gateways::nat_in(world, query, id).await? {
        return Err(depended_on("subnet", id));
    }
    for table in tables::all(world, query).await? {
        for item in table.items("associationSet").iter().filter(|item| in_it(item)) {
            let association = item.get("routeTableAssociationId").to_owned();
            world
                .moto(query, "DisassociateRouteTable", &[("AssociationId".to_owned(), association)])
                .await?;
        }
    }
    acls::free(world, query, item.get("vpcId"), id).await?;
    world.moto(query, "DeleteSubnet", &query.sent()).await?;
    world.state().things.remove(id);
    Ok(done())
}

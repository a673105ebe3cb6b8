//! Network interfaces. moto has those of instances; those of endpoints are the front's: they are in
//! a subnet, use groups, and linger on after their endpoint. <https://docs.aws.amazon.com/vpc/latest/privatelink/create-interface-endpoint.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/requester-managed-eni.html>

use super::listing::{Listing, found};
use super::network::{done, missing};
use super::query::Query;
use super::things;
use super::world::{Answer, Countdown, World, refusal};
use super::xml::Node;

/// Of an endpoint.
pub struct Interface {
    pub region: String,
    /// What is told of it.
    pub item: Node,
    /// Looks until it goes; none: its endpoint is there.
    pub lingers: Option<Countdown>,
}

const LISTING: Listing = Listing {
    set: "networkInterfaceSet",
    id: "networkInterfaceId",
    asked: "NetworkInterfaceId",
    missing: Some("InvalidNetworkInterfaceID.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeNetworkInterfaces.html>
    values: |item, filter| {
        let paths = [
            ("addresses.private-ip-address", "privateIpAddressesSet/item/privateIpAddress"),
            ("attachment.instance-id", "attachment/instanceId"),
            ("attachment.status", "attachment/status"),
            ("availability-zone", "availabilityZone"),
            ("description", "description"),
            ("group-id", "groupSet/item/groupId"),
            ("group-name", "groupSet/item/groupName"),
            ("interface-type", "interfaceType"),
            ("network-interface-id", "networkInterfaceId"),
            ("owner-id", "ownerId"),
            ("private-ip-address", "privateIpAddress"),
            ("requester-managed", "requesterManaged"),
            ("status", "status"),
            ("subnet-id", "subnetId"),
            ("vpc-id", "vpcId"),
        ];
        found(item, filter, &paths)
    },
};

pub async fn all(world: &World, query: &Query) -> Answer {
    let mut items = world.listed(query, "DescribeNetworkInterfaces", "networkInterfaceSet").await?;
    let state = world.state();
    items.extend(
        state
            .interfaces
            .values()
            .filter(|interface| interface.region == query.region)
            .map(|interface| interface.item.clone()),
    );
    Ok(items)
}

pub async fn describe(world: &World, query: &Query) -> Answer {
    let (answer, ids) = things::page(world, query, &LISTING, all(world, query).await?)?;
    ids.iter().for_each(|id| linger(world, id));
    Ok(answer)
}

/// A look at one that its endpoint left: the last one makes it go.
pub fn linger(world: &World, id: &str) {
    let mut state = world.state();
    let lingers = state.interfaces.get_mut(id).and_then(|interface| interface.lingers.as_mut());
    if lingers.is_some_and(|countdown| countdown.tick() || countdown.done()) {
        state.interfaces.remove(id);
        state.things.remove(id);
    }
}

/// Whether any is in use so; what lingers is looked at by that, so that what is only ever retried
/// comes to an end, too.
pub async fn in_use(world: &World, query: &Query, so: impl Fn(&Node) -> bool) -> Answer<bool> {
    let ids: Vec<String> = {
        let items = all(world, query).await?;
        items
            .iter()
            .filter(|item| so(item))
            .map(|item| item.get("networkInterfaceId").to_owned())
            .collect()
    };
    ids.iter().for_each(|id| linger(world, id));
    Ok(!ids.is_empty())
}

/// One of an endpoint, in a subnet. The endpoint's tags do not reach it.
pub async fn make(
    world: &World,
    query: &Query,
    account: &str,
    endpoint: &str,
    subnet: &Node,
    groups: &[Node],
) -> Answer<String> {
    let taken: Vec<String> =
        all(world, query).await?.iter().flat_map(|item| item.all("privateIpAddress")).collect();
    let address = address(subnet.get("cidrBlock"), &taken);
    let id = world.state().new_id("eni");
    let fields = [
        ("networkInterfaceId", id.as_str()),
        ("subnetId", subnet.get("subnetId")),
        ("vpcId", subnet.get("vpcId")),
        ("availabilityZone", subnet.get("availabilityZone")),
        ("description", &format!("VPC Endpoint Interface {endpoint}")),
        ("ownerId", account),
        ("requesterId", "727180483921"),
        ("requesterManaged", "true"),
        ("status", "in-use"),
        ("macAddress", "02:00:00:00:00:01"),
        ("privateIpAddress", &address),
        ("sourceDestCheck", "true"),
        ("interfaceType", "vpc_endpoint"),
        ("tagSet", ""),
    ];
    let mut fields: Vec<Node> =
        fields.into_iter().map(|(name, value)| Node::leaf(name, value)).collect();
    fields.push(Node::new("groupSet", groups.iter().map(group_item).collect()));
    let attachment = [
        ("attachmentId", "ela-attach-00000000000000001"),
        ("instanceOwnerId", "amazon-aws"),
        ("status", "attached"),
    ];
    fields.push(Node::new(
        "attachment",
        attachment.into_iter().map(|(name, value)| Node::leaf(name, value)).collect(),
    ));
    let private = vec![Node::leaf("privateIpAddress", &address), Node::leaf("primary", true)];
    fields.push(Node::new("privateIpAddressesSet", vec![Node::new("item", private)]));
    things::came(world, query, &id);
    let interface =
        Interface { region: query.region.clone(), item: Node::new("item", fields), lingers: None };
    world.state().interfaces.insert(id.clone(), interface);
    Ok(id)
}

pub fn group_item(group: &Node) -> Node {
    Node::new("item", ["groupId", "groupName"].map(|name| Node::leaf(name, group.get(name))).into())
}

/// From the end of the subnet, whose last address is not for use; moto takes those for instances
/// from its beginning.
fn address(cidr: &str, taken: &[String]) -> String {
    let (first, bits) = cidr.split_once('/').unwrap();
    let (first, bits): (std::net::Ipv4Addr, u32) = (first.parse().unwrap(), bits.parse().unwrap());
    let last = u32::from(first) | (u32::MAX >> bits);
    let mut from_end = (1..).map(|n| std::net::Ipv4Addr::from(last - n).to_string());
    from_end.find(|address| !taken.contains(address)).unwrap()
}

/// Not that of an endpoint, nor while an instance uses it.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/requester-managed-eni.html>,
/// <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>
pub async fn delete(world: &World, query: &Query) -> Answer {
    let id = query.get("NetworkInterfaceId").unwrap_or_default();
    let items = all(world, query).await?;
    let item = items.iter().find(|item| item.get("networkInterfaceId") == id);
    let item =
        item.ok_or_else(|| missing("InvalidNetworkInterfaceID.NotFound", "networkInterface", id))?;
    if item.get("requesterManaged") == "true" {
        return Err(refusal(
            "OperationNotPermitted",
            format!("You are not allowed to manage '{id}', which a service manages"),
        ));
    }
    if item.get("status") == "in-use" {
        return Err(refusal(
            "InvalidNetworkInterface.InUse",
            format!("Network interface '{id}' is currently in use."),
        ));
    }
    world.moto(query, "DeleteNetworkInterface", &query.sent()).await?;
    world.state().things.remove(id);
    Ok(done())
}

//! VPC endpoints. moto keeps them; interfaces, states and the rules are the front's.

use super::groups;
use super::interfaces;
use super::listing::{Listing, found};
use super::network::{attribute, children, missing, subnet, vpc};
use super::query::Query;
use super::rules::Fault;
use super::tables;
use super::things::{self, Fate};
use super::world::{Answer, Countdown, Refusal, World, refusal};
use super::xml::Node;

/// What moto does not know of one.
pub struct Endpoint {
    pub region: String,
    pub subnets: Vec<String>,
    pub interfaces: Vec<String>,
    pub names: Vec<String>,
    /// What was told of it, while it goes.
    pub leaving: Option<Node>,
}

const LISTING: Listing = Listing {
    set: "vpcEndpointSet",
    id: "vpcEndpointId",
    asked: "VpcEndpointId",
    missing: Some("InvalidVpcEndpointId.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVpcEndpoints.html>
    values: |item, filter| {
        let paths = [
            ("service-name", "serviceName"),
            ("vpc-endpoint-id", "vpcEndpointId"),
            ("vpc-endpoint-state", "state"),
            ("vpc-endpoint-type", "vpcEndpointType"),
            ("vpc-id", "vpcId"),
        ];
        found(item, filter, &paths)
    },
};

/// Those that are there, or going.
pub async fn all(world: &World, query: &Query) -> Answer {
    if !world.state().used("CreateVpcEndpoint") {
        return Ok(Vec::new());
    }
    // moto never forgets any.
    let there = [("Filter.1.Name", "vpc-endpoint-state"), ("Filter.1.Value.1", "available")];
    let params = there.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut items =
        world.moto(query, "DescribeVpcEndpoints", &params).await?.items("vpcEndpointSet").to_vec();
    let mut state = world.state();
    for item in &mut items {
        told(state.endpoints.get(item.get("vpcEndpointId")), item);
    }
    let state = &mut *state;
    let interfaces = &state.interfaces;
    let gone = |endpoint: &Endpoint| {
        endpoint.leaving.is_some()
            && !endpoint.interfaces.iter().any(|id| interfaces.contains_key(id))
    };
    state.endpoints.retain(|_, endpoint| !gone(endpoint));
    items.extend(
        state
            .endpoints
            .values()
            .filter(|endpoint| endpoint.region == query.region)
            .filter_map(|endpoint| endpoint.leaving.clone()),
    );
    Ok(items)
}

fn told(endpoint: Option<&Endpoint>, item: &mut Node) {
    let Some(endpoint) = endpoint else { return };
    let set = |name: &str, ids: &[String]| {
        Node::new(name, ids.iter().map(|id| Node::leaf("item", id)).collect())
    };
    item.put(set("subnetIdSet", &endpoint.subnets));
    item.put(set("networkInterfaceIdSet", &endpoint.interfaces));
    let names = endpoint
        .names
        .iter()
        .map(|name| Node::new("item", vec![Node::leaf("dnsName", name)]))
        .collect();
    item.put(Node::new("dnsEntrySet", names));
    if item.get("vpcEndpointType") == "Gateway" {
        item.set("privateDnsEnabled", false);
    }
    item.set("requesterManaged", false);
}

pub async fn describe(world: &World, query: &Query) -> Answer {
    let mut items = all(world, query).await?;
    {
        let state = world.state();
        for item in items.iter_mut().filter(|item| item.get("state") != "deleting") {
            let word = things::state_of(
                &state,
                item.get("vpcEndpointId"),
                ["pending", "available", "failed"],
            );
            item.set("state", word);
            if word == "failed" {
                let why =
                    [("code", "InternalError"), ("message", "The endpoint could not be created")];
                item.put(Node::new(
                    "lastError",
                    why.into_iter().map(|(name, value)| Node::leaf(name, value)).collect(),
                ));
            }
        }
    }
    let (answer, ids) = things::page(world, query, &LISTING, items)?;
    let lingering: Vec<String> = {
        let state = world.state();
        let leaving = ids
            .iter()
            .filter_map(|id| state.endpoints.get(id))
            .filter(|endpoint| endpoint.leaving.is_some());
        leaving.flat_map(|endpoint| endpoint.interfaces.clone()).collect()
    };
    lingering.iter().for_each(|id| interfaces::linger(world, id));
    Ok(answer)
}

fn invalid(message: impl Into<String>) -> Refusal {
    refusal("InvalidParameter", message)
}

/// - S3 and DynamoDB have gateways; a gateway is for route tables, each of which has one route to a
///   service. <https://docs.aws.amazon.com/vpc/latest/privatelink/gateway-endpoints.html>
/// - An interface is for subnets, one of a zone, and groups of the VPC, else its default one. <https://docs.aws.amazon.com/vpc/latest/privatelink/create-interface-endpoint.html>
/// - Private names need both DNS attributes of the VPC, and can be had once. <https://docs.aws.amazon.com/vpc/latest/privatelink/manage-dns-names.html>
/// - The policy is JSON. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateVpcEndpoint.html>
pub async fn create(world: &World, query: &Query, account: &str) -> Answer {
    let [id, service] = ["VpcId", "ServiceName"].map(|name| query.get(name).unwrap_or_default());
    vpc(world, query, id).await?;
    let name =
        service.strip_prefix(&format!("com.amazonaws.{}.", query.region)).unwrap_or_default();
    let gateway = match query.get("VpcEndpointType").unwrap_or("Gateway") {
        "Gateway" => true,
        "Interface" => false,
        other => return Err(invalid(format!("VpcEndpointType {other}"))),
    };
    if name.is_empty() || (gateway && !["s3", "dynamodb"].contains(&name)) {
        return Err(refusal(
            "InvalidServiceName",
            format!("The Vpc Endpoint Service '{service}' does not exist"),
        ));
    }
    let policy = query.get("PolicyDocument").map(serde_json::from_str::<serde_json::Value>);
    if policy.is_some_and(|policy| {
        !policy
            .is_ok_and(|policy| policy["Statement"].is_array() || policy["Statement"].is_object())
    }) {
        return Err(refusal("InvalidPolicyDocument", "The policy document is not valid"));
    }
    let subnets = if gateway {
        for_tables(world, query, id, service).await?;
        Vec::new()
    } else {
        for_subnets(world, query, id, service).await?
    };
    let mut ids = query.list("SecurityGroupId");
    if !gateway && ids.is_empty() {
        let default = groups::all(world, query).await?;
        let default = default
            .iter()
            .find(|item| item.get("vpcId") == id && item.get("groupName") == "default");
        ids.extend(default.map(|item| item.get("groupId").to_owned()));
    }
    let used = groups::of_vpc(world, query, &ids, id).await?;
    let mut params = query.sent();
    // moto would make interfaces of its own.
    params.retain(|(name, _)| {
        !name.starts_with("SubnetId.") && !name.starts_with("SecurityGroupId.")
    });
    params.extend(
        ids.iter().enumerate().map(|(n, id)| (format!("SecurityGroupId.{}", n + 1), id.clone())),
    );
    if query.get("VpcEndpointType").is_none() {
        // Without it moto cannot delete what it made.
        params.push(("VpcEndpointType".to_owned(), "Gateway".to_owned()));
    }
    if !gateway && query.get("PrivateDnsEnabled").is_none() {
        params.push(("PrivateDnsEnabled".to_owned(), "true".to_owned()));
    }
    let mut answer = world.moto(query, "CreateVpcEndpoint", &params).await?;
    let made = answer.get("vpcEndpoint/vpcEndpointId").to_owned();
    let mut endpoint = Endpoint {
        region: query.region.clone(),
        subnets: Vec::new(),
        interfaces: Vec::new(),
        names: Vec::new(),
        leaving: None,
    };
    for item in &subnets {
        endpoint.subnets.push(item.get("subnetId").to_owned());
        endpoint
            .interfaces
            .push(interfaces::make(world, query, account, &made, item, &used).await?);
    }
    if !gateway {
        endpoint.names.push(format!("{made}-front.{name}.{}.vpce.amazonaws.com", query.region));
        if query.get("PrivateDnsEnabled") != Some("false") {
            endpoint.names.push(format!("{name}.{}.amazonaws.com", query.region));
        }
    }
    let looks = world.state().settings.endpoint;
    let of_fate = |fault: &Fault| matches!(fault, Fault::EndpointFails | Fault::EndpointNever);
    let fate = match world.rules.take(query, &[id, service, name], of_fate) {
        Some(Fault::EndpointFails) => Fate::Fails,
        Some(_) => Fate::Never,
        None => Fate::Ready,
    };
    // A gateway is there at once.
    things::made(world, query, &made, if gateway && fate == Fate::Ready { 0 } else { looks }, fate);
    let item = &mut answer.children[0];
    told(Some(&endpoint), item);
    let mut state = world.state();
    item.set("state", things::state_of(&state, &made, ["pending", "available", "failed"]));
    state.endpoints.insert(made, endpoint);
    Ok(children(answer))
}

async fn for_tables(world: &World, query: &Query, vpc: &str, service: &str) -> Answer<()> {
    let lists = world.listed(query, "DescribeManagedPrefixLists", "prefixListSet").await?;
    let list = lists.iter().find(|list| list.get("prefixListName") == service);
    for id in query.list("RouteTableId") {
        let table = tables::table(world, query, &id).await?;
        if table.get("vpcId") != vpc {
            return Err(invalid(format!("Route table {id} is not in {vpc}")));
        }
        let routes = table.all("routeSet/item/destinationPrefixListId");
        if list.is_some_and(|list| routes.iter().any(|to| to == list.get("prefixListId"))) {
            let why = format!(
                "route table {id} already has a route with destination-prefix-list-id {service}"
            );
            return Err(refusal("RouteAlreadyExists", why));
        }
    }
    Ok(())
}

async fn for_subnets(world: &World, query: &Query, vpc: &str, service: &str) -> Answer {
    let mut subnets: Vec<Node> = Vec::new();
    for id in query.list("SubnetId") {
        let item = subnet(world, query, &id).await?;
        if item.get("vpcId") != vpc {
            return Err(invalid(format!("Subnet {id} is not in {vpc}")));
        }
        if subnets.iter().any(|other| other.get("availabilityZone") == item.get("availabilityZone"))
        {
            return Err(refusal(
                "DuplicateSubnetsInSameZone",
                "Found another VPC endpoint subnet in the availability zone",
            ));
        }
        subnets.push(item);
    }
    if query.get("PrivateDnsEnabled") != Some("false") {
        for name in ["enableDnsSupport", "enableDnsHostnames"] {
            if !attribute(world, query, vpc, name).await? {
                let why = format!(
                    "Enabling private DNS requires both enableDnsSupport and enableDnsHostnames VPC attributes set to true for {vpc}"
                );
                return Err(invalid(why));
            }
        }
        let same = |item: &Node| {
            item.get("vpcId") == vpc
                && item.get("serviceName") == service
                && item.get("privateDnsEnabled") == "true"
        };
        if all(world, query)
            .await?
            .iter()
            .any(|item| same(item) && item.get("vpcEndpointType") == "Interface")
        {
            let why = format!(
                "private-dns-enabled cannot be set because there is already a conflicting DNS domain for {service} in {vpc}"
            );
            return Err(invalid(why));
        }
    }
    Ok(subnets)
}

/// What could not be deleted is in the answer, which is no error. An interface is `deleting` for as
/// long as its interfaces linger. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteVpcEndpoints.html>
pub async fn delete(world: &World, query: &Query) -> Answer {
    let mut failed = Vec::new();
    for id in query.list("VpcEndpointId") {
        if let Err(why) = delete_one(world, query, &id).await {
            failed.push(unsuccessful(&id, &why));
        }
    }
    Ok(vec![Node::new("unsuccessful", failed)])
}

pub fn unsuccessful(id: &str, why: &Refusal) -> Node {
    let error = Node::new(
        "error",
        vec![Node::leaf("code", &why.code), Node::leaf("message", &why.message)],
    );
    Node::new("item", vec![Node::leaf("resourceId", id), error])
}

async fn delete_one(world: &World, query: &Query, id: &str) -> Answer<()> {
    let found = all(world, query).await?.into_iter().find(|item| item.get("vpcEndpointId") == id);
    let mut item =
        found.ok_or_else(|| missing("InvalidVpcEndpoint.NotFound", "VpcEndpoint", id))?;
    if item.get("state") == "deleting" {
        return Ok(());
    }
    if world.rules.strikes(
        query,
        &[id, item.get("serviceName"), item.get("vpcId")],
        &Fault::EndpointStays,
    ) {
        return Err(refusal("InternalError", "The front was told to leave it"));
    }
    world
        .moto(query, "DeleteVpcEndpoints", &[("VpcEndpointId.1".to_owned(), id.to_owned())])
        .await?;
    item.set("state", "deleting");
    let mut state = world.state();
    let looks = state.settings.interface_lingers;
    state.things.remove(id);
    let Some(endpoint) = state.endpoints.get_mut(id) else { return Ok(()) };
    endpoint.leaving = Some(item);
    for interface in endpoint.interfaces.clone() {
        if looks == 0 {
            state.interfaces.remove(&interface);
        } else if let Some(interface) = state.interfaces.get_mut(&interface) {
            interface.lingers = Some(Countdown::of(looks));
        }
    }
    Ok(())
}

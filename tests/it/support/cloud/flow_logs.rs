//! Flow logs. moto wants buckets and log groups that are not there; they are the front's.

use super::endpoints::unsuccessful;
use super::listing::{Listing, found};
use super::network::vpc;
use super::query::Query;
use super::rules::Fault;
use super::things::{self, Fate};
use super::world::{Answer, Countdown, State, World, refusal, tag_set, written_time};
use super::xml::Node;

pub struct FlowLog {
    pub region: String,
    pub item: Node,
    /// Looks until it goes, since its VPC is gone.
    lingers: Option<Countdown>,
}

const LISTING: Listing = Listing {
    set: "flowLogSet",
    id: "flowLogId",
    asked: "FlowLogId",
    missing: Some("InvalidFlowLogId.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeFlowLogs.html>
    values: |item, filter| {
        let paths = [
            ("deliver-log-status", "deliverLogsStatus"),
            ("flow-log-id", "flowLogId"),
            ("log-destination-type", "logDestinationType"),
            ("log-group-name", "logGroupName"),
            ("resource-id", "resourceId"),
            ("traffic-type", "trafficType"),
        ];
        found(item, filter, &paths)
    },
};

pub fn all(world: &World, query: &Query) -> Vec<Node> {
    let state = world.state();
    state
        .flow_logs
        .values()
        .filter(|log| log.region == query.region)
        .map(|log| log.item.clone())
        .collect()
}

/// Active at once. A log group wants a role, a bucket does not; the same log twice:
/// FlowLogAlreadyExists. What is wrong with one resource is told in the answer. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateFlowLogs.html>,
/// <https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-s3.html>,
/// <https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-cwl.html>
pub async fn create(world: &World, query: &Query) -> Answer {
    let get = |name: &str| query.get(name).unwrap_or_default();
    let (kind, destination) =
        (query.get("LogDestinationType").unwrap_or("cloud-watch-logs"), get("LogDestination"));
    let service = match kind {
        "s3" => "arn:aws:s3:::",
        "cloud-watch-logs" => "arn:aws:logs:",
        _ => return Err(refusal("InvalidParameter", format!("LogDestinationType {kind}"))),
    };
    if !destination.starts_with(service) {
        return Err(refusal(
            "InvalidParameter",
            format!("LogDestination {destination} is not of the type {kind}"),
        ));
    }
    let role = query.get("DeliverLogsPermissionArn");
    if role.is_some() != (kind == "cloud-watch-logs") {
        return Err(refusal(
            "InvalidParameter",
            format!("DeliverLogsPermissionArn {role:?} does not go with {kind}"),
        ));
    }
    if get("ResourceType") != "VPC" || !["ALL", "ACCEPT", "REJECT"].contains(&get("TrafficType")) {
        return Err(refusal(
            "InvalidParameter",
            "Only VPCs are modelled; TrafficType is ALL, ACCEPT or REJECT",
        ));
    }
    let (mut made, mut failed) = (Vec::new(), Vec::new());
    for resource in query.list("ResourceId") {
        if let Err(why) = vpc(world, query, &resource).await {
            failed.push(unsuccessful(&resource, &why));
            continue;
        }
        let same = |item: &Node| {
            item.get("resourceId") == resource && item.get("logDestination") == destination
        };
        if all(world, query).iter().any(same) {
            let why =
                "There is an existing Flow Log with the same configuration and log destination.";
            return Err(refusal("FlowLogAlreadyExists", why));
        }
        if world.rules.strikes(query, &[&resource, destination], &Fault::FlowLogRefused) {
            failed
                .push(unsuccessful(&resource, &refusal("400", "Access Denied for LogDestination")));
            continue;
        }
        let id = world.state().new_id("fl");
        let fields = [
            ("flowLogId", id.as_str()),
            ("flowLogStatus", "ACTIVE"),
            ("deliverLogsStatus", "SUCCESS"),
            ("resourceId", &resource),
            ("trafficType", get("TrafficType")),
            ("logDestinationType", kind),
            ("logDestination", destination),
            ("maxAggregationInterval", query.get("MaxAggregationInterval").unwrap_or("600")),
            (
                "logFormat",
                query.get("LogFormat").unwrap_or(
                    "${version} ${account-id} ${interface-id} ${srcaddr} ${dstaddr} ${action}",
                ),
            ),
            ("creationTime", &written_time(world.state().now())),
        ];
        let mut fields: Vec<Node> =
            fields.into_iter().map(|(name, value)| Node::leaf(name, value)).collect();
        fields.extend(role.map(|role| Node::leaf("deliverLogsPermissionArn", role)));
        fields.push(tag_set(&query.tags("vpc-flow-log")));
        things::made(world, query, &id, 0, Fate::Ready);
        let log = FlowLog {
            region: query.region.clone(),
            item: Node::new("item", fields),
            lingers: None,
        };
        world.state().flow_logs.insert(id.clone(), log);
        made.push(Node::leaf("item", id));
    }
    let mut answer = vec![Node::new("flowLogIdSet", made), Node::new("unsuccessful", failed)];
    answer.extend(query.get("ClientToken").map(|token| Node::leaf("clientToken", token)));
    Ok(answer)
}

pub fn describe(world: &World, query: &Query) -> Answer {
    let (answer, ids) = things::page(world, query, &LISTING, all(world, query))?;
    let mut state = world.state();
    for id in ids {
        let lingers = state.flow_logs.get_mut(&id).and_then(|log| log.lingers.as_mut());
        if lingers.is_some_and(|countdown| countdown.tick() || countdown.done()) {
            state.flow_logs.remove(&id);
        }
    }
    Ok(answer)
}

/// Those of a deleted VPC go by themselves, eventually. <https://docs.aws.amazon.com/vpc/latest/userguide/delete-vpc.html>
pub fn orphan(state: &mut State, vpc: &str) {
    let looks = state.settings.orphaned_logs;
    for log in state.flow_logs.values_mut().filter(|log| log.item.get("resourceId") == vpc) {
        log.lingers = Some(Countdown::of(looks));
    }
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteFlowLogs.html>
pub fn delete(world: &World, query: &Query) -> Answer {
    let mut state = world.state();
    let here = |id: &String| state.flow_logs.get(id).is_some_and(|log| log.region == query.region);
    let ids = query.list("FlowLogId");
    if let Some(id) = ids.iter().find(|id| !here(id)) {
        return Err(refusal(
            "InvalidFlowLogId.NotFound",
            format!("The specified flow log ids do not exist: {id}"),
        ));
    }
    for id in ids {
        state.flow_logs.remove(&id);
        state.things.remove(&id);
    }
    Ok(vec![Node::leaf("unsuccessful", "")])
}

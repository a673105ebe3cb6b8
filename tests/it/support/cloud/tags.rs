//! Tags: of what the front keeps itself, and what they may be.
//!
//! - Keys have up to 128 characters and do not begin with `aws:`, values up to 256; 50 of a thing. <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions>
//! - An action tags what it makes, and nothing else. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TagSpecification.html>

use std::collections::BTreeMap;

use super::query::Query;
use super::views::tags_of;
use super::world::{Answer, State, World, refusal, tag_set};
use super::xml::Node;

/// What may be tagged by an action; nothing known: anything.
fn kinds(action: &str) -> &'static [&'static str] {
    match action {
        "CreateVpc" => &["vpc"],
        "CreateSubnet" => &["subnet"],
        "CreateRouteTable" => &["route-table"],
        "CreateNetworkAcl" => &["network-acl"],
        "CreateSecurityGroup" => &["security-group"],
        "CreateVpcEndpoint" => &["vpc-endpoint"],
        "CreateFlowLogs" => &["vpc-flow-log"],
        "CreateVolume" => &["volume"],
        "RunInstances" => &["instance", "volume", "network-interface", "spot-instances-request"],
        _ => &[],
    }
}

pub fn check(query: &Query) -> Answer<()> {
    let kinds = kinds(&query.action);
    for kind in (1..).map_while(|n| query.get(&format!("TagSpecification.{n}.ResourceType"))) {
        if !kinds.is_empty() && !kinds.contains(&kind) {
            let why = format!("'{kind}' is not a valid taggable resource type for this operation.");
            return Err(refusal("InvalidParameterValue", why));
        }
        check_all(&query.tags(kind))?;
    }
    Ok(())
}

fn check_all(tags: &BTreeMap<String, String>) -> Answer<()> {
    if tags.len() > 50 {
        return Err(refusal("TagLimitExceeded", "More than 50 tags"));
    }
    for (key, value) in tags {
        if key.is_empty()
            || key.chars().count() > 128
            || value.chars().count() > 256
            || key.starts_with("aws:")
        {
            return Err(refusal(
                "InvalidParameterValue",
                format!("Tag {key}={value}: keys of 1 to 128 characters, values of up to 256"),
            ));
        }
    }
    Ok(())
}

/// What the front keeps of a thing, as far as moto does not.
fn kept<'a>(state: &'a mut State, id: &str) -> Option<&'a mut Node> {
    let State { flow_logs, interfaces, connect_endpoints, machines, .. } = state;
    let log = flow_logs.get_mut(id).map(|log| &mut log.item);
    let interface = interfaces.get_mut(id).map(|interface| &mut interface.item);
    let connect = connect_endpoints.get_mut(id).map(|(_, item)| item);
    log.or(interface)
        .or(connect)
        .or_else(|| machines.get_mut(id).and_then(|machine| machine.last.as_mut()))
}

/// CreateTags and DeleteTags. Without a value a tag is deleted whatever its value is.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteTags.html>
pub async fn change(world: &World, query: &Query) -> Answer {
    let mut tags = BTreeMap::new();
    for n in 1.. {
        let Some(key) = query.get(&format!("Tag.{n}.Key")) else { break };
        tags.insert(key.to_owned(), query.get(&format!("Tag.{n}.Value")).map(str::to_owned));
    }
    let of_moto: Vec<String> = {
        let mut state = world.state();
        let mut others = query.list("ResourceId");
        others.retain(|id| {
            let Some(item) = kept(&mut state, id) else { return true };
            let mut all = tags_of(item);
            for (key, value) in &tags {
                if query.action == "CreateTags" {
                    all.insert(key.clone(), value.clone().unwrap_or_default());
                } else if value.as_ref().is_none_or(|value| all.get(key) == Some(value)) {
                    all.remove(key);
                }
            }
            item.put(tag_set(&all));
            false
        });
        others
    };
    if !of_moto.is_empty() {
        let mut params = query.those(&["Tag."]);
        params.extend(
            of_moto.into_iter().enumerate().map(|(n, id)| (format!("ResourceId.{}", n + 1), id)),
        );
        world.moto(query, &query.action, &params).await?;
    }
    Ok(super::network::done())
}

//! Everything there is in a region, in a form that can be compared: looking changes nothing, and
//! what only time changes is left out.

use std::collections::BTreeMap;

use super::query::Query;
use super::views::tags_of;
use super::world::{Answer, World};
use super::xml::Node;
use super::{
    Cloud, acls, endpoints, flow_logs, gateways, groups, images, instances, interfaces, network,
    snapshots, tables, things, volumes,
};

/// A thing as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InventoryItem {
    /// What its id begins with: `vpc`, `rtb`, `acl`, `i` …
    pub kind: String,
    pub tags: BTreeMap<String, String>,
    /// What is told of it, in a fixed order.
    pub text: String,
}

impl Cloud {
    /// By id. Of instances those that are not terminated.
    pub fn inventory(&self, region: &str) -> BTreeMap<String, InventoryItem> {
        let query = self.query(region, "");
        let items = self.look(async {
            let account = self.world.account(&query).await?;
            all(&self.world, &query, &account).await
        });
        let state = self.world.state();
        let mut found = BTreeMap::new();
        for (id, item) in items {
            let snap = state.snapshots.get(&id).map(|snap| {
                format!(" shared with {:?}, {:?}, {}", snap.shared, snap.lock, snap.description)
            });
            let text = canonical(&item) + &snap.unwrap_or_default();
            found.insert(
                id.clone(),
                InventoryItem { kind: things::prefix(&id).to_owned(), tags: tags_of(&item), text },
            );
        }
        for (id, one) in state.firewall.associations.iter().filter(|(_, one)| one.region == region)
        {
            let item = InventoryItem {
                kind: things::prefix(id).to_owned(),
                tags: one.tags.clone(),
                text: one.text(),
            };
            found.insert(id.clone(), item);
        }
        found
    }
}

async fn all(world: &World, query: &Query, account: &str) -> Answer<Vec<(String, Node)>> {
    let mut items = gateways::all(world, query).await?;
    let mut add = |id: &str, found: Vec<Node>| {
        items.extend(found.into_iter().map(|item| (item.get(id).to_owned(), item)))
    };
    add("vpcId", network::vpcs(world, query).await?);
    add("subnetId", network::subnets(world, query).await?);
    add("routeTableId", tables::all(world, query).await?);
    add("networkAclId", acls::all(world, query).await?);
    add("groupId", groups::all(world, query).await?);
    add("vpcEndpointId", endpoints::all(world, query).await?);
    add("networkInterfaceId", interfaces::all(world, query).await?);
    add("flowLogId", flow_logs::all(world, query));
    add("imageId", images::all(world, query, account));
    let mut instances = instances::all(world, query).await?;
    instances.retain(|item| item.get("instanceState/name") != "terminated");
    add("instanceId", instances);
    add("volumeId", volumes::all(world, query).await?);
    let mut snapshots = snapshots::all(world, query, account).await?;
    snapshots.retain(|item| item.get("ownerId") == account);
    add("snapshotId", snapshots);
    Ok(items)
}

/// What comes and goes by itself, or with others: states of things that come, times, counts of what
/// is inside.
const PASSING: [&str; 14] = [
    "state",
    "status",
    "progress",
    "instanceState",
    "stateReason",
    "attachTime",
    "attachmentId",
    "availableIpAddressCount",
    "creationTimestamp",
    "restoreExpiryTime",
    "storageTier",
    "statusMessage",
    "reason",
    "lastError",
];

/// Elements in the order of their names, items in that of their texts.
fn canonical(node: &Node) -> String {
    if node.children.is_empty() {
        return format!("{}={}", node.name, node.text);
    }
    let told = node.children.iter().filter(|child| !PASSING.contains(&child.name.as_str()));
    let mut parts: Vec<String> = told.map(canonical).collect();
    parts.sort();
    format!("{}{{{}}}", node.name, parts.join(" "))
}

//! Network ACLs. moto forgets neither the associations of deleted subnets nor the default ACLs of
//! deleted VPCs, and gives new ones no last word.

use super::listing::{Listing, found};
use super::network::{children, depended_on, done, missing, subnets, vpcs};
use super::query::Query;
use super::things::{self, Fate};
use super::world::{Answer, World, refusal};
use super::xml::Node;

const LISTING: Listing = Listing {
    set: "networkAclSet",
    id: "networkAclId",
    asked: "NetworkAclId",
    missing: Some("InvalidNetworkAclID.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeNetworkAcls.html>
    values: |item, filter| {
        let paths = [
            ("association.association-id", "associationSet/item/networkAclAssociationId"),
            ("association.network-acl-id", "associationSet/item/networkAclId"),
            ("association.subnet-id", "associationSet/item/subnetId"),
            ("default", "default"),
            ("entry.cidr", "entrySet/item/cidrBlock"),
            ("entry.egress", "entrySet/item/egress"),
            ("entry.protocol", "entrySet/item/protocol"),
            ("entry.rule-action", "entrySet/item/ruleAction"),
            ("entry.rule-number", "entrySet/item/ruleNumber"),
            ("network-acl-id", "networkAclId"),
            ("owner-id", "ownerId"),
            ("vpc-id", "vpcId"),
        ];
        found(item, filter, &paths)
    },
};

/// Those of VPCs that are there, with associations of subnets that are there.
pub async fn all(world: &World, query: &Query) -> Answer {
    let mut params = vec![("Filter.1.Name".to_owned(), "vpc-id".to_owned())];
    for (n, item) in vpcs(world, query).await?.iter().enumerate() {
        params.push((format!("Filter.1.Value.{}", n + 1), item.get("vpcId").to_owned()));
    }
    let mut items =
        world.moto(query, "DescribeNetworkAcls", &params).await?.items("networkAclSet").to_vec();
    let subnets: Vec<String> =
        subnets(world, query).await?.iter().map(|item| item.get("subnetId").to_owned()).collect();
    for item in &mut items {
        told(item);
        let set = item.children.iter_mut().find(|child| child.name == "associationSet");
        set.into_iter().for_each(|set| {
            set.children.retain(|item| subnets.iter().any(|id| id == item.get("subnetId")))
        });
    }
    Ok(items)
}

/// The last word of every ACL denies. <https://docs.aws.amazon.com/vpc/latest/userguide/nacl-basics.html>
fn told(item: &mut Node) {
    let last = |egress: bool| {
        let fields = [
            ("cidrBlock", "0.0.0.0/0"),
            ("protocol", "-1"),
            ("ruleAction", "deny"),
            ("ruleNumber", "32767"),
        ];
        let fields = fields.into_iter().map(|(name, value)| Node::leaf(name, value));
        Node::new("item", fields.chain([Node::leaf("egress", egress)]).collect())
    };
    let Some(entries) = item.children.iter_mut().find(|child| child.name == "entrySet") else {
        return;
    };
    if !entries.children.iter().any(|entry| entry.get("ruleNumber") == "32767") {
        entries.children.extend([last(true), last(false)]);
    }
}

async fn acl(world: &World, query: &Query, id: &str) -> Answer<Node> {
    let found = all(world, query).await?.into_iter().find(|item| item.get("networkAclId") == id);
    found.ok_or_else(|| missing("InvalidNetworkAclID.NotFound", "networkAcl", id))
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateNetworkAcl.html>
pub async fn create(world: &World, query: &Query) -> Answer {
    let mut answer = world.moto(query, "CreateNetworkAcl", &query.sent()).await?;
    things::made(world, query, answer.get("networkAcl/networkAclId"), 0, Fate::Ready);
    told(&mut answer.children[0]);
    Ok(children(answer))
}

pub async fn describe(world: &World, query: &Query) -> Answer {
    things::look(world, query, &LISTING, all(world, query).await?)
}

/// Numbers from 1 to 32766, ports where the protocol has any, and 20 entries of a direction.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateNetworkAclEntry.html>,
/// <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>
pub async fn create_entry(world: &World, query: &Query) -> Answer {
    let item = acl(world, query, query.get("NetworkAclId").unwrap_or_default()).await?;
    let number = query.get("RuleNumber").and_then(|number| number.parse::<u32>().ok());
    if !number.is_some_and(|number| (1..=32_766).contains(&number)) {
        return Err(refusal("InvalidParameterValue", "RuleNumber must be from 1 to 32766"));
    }
    let ports = ["From", "To"].iter().all(|end| query.get(&format!("PortRange.{end}")).is_some());
    if ["6", "17"].contains(&query.get("Protocol").unwrap_or_default()) && !ports {
        return Err(refusal(
            "MissingParameter",
            "The request must contain the parameter PortRange",
        ));
    }
    let egress = query.get("Egress").unwrap_or("false");
    // Its last word does not count.
    let so_far =
        item.items("entrySet").iter().filter(|entry| entry.get("egress") == egress).count() - 1;
    let most = world.state().settings.acl_entries;
    if so_far >= most {
        return Err(refusal(
            "NetworkAclEntryLimitExceeded",
            format!("The maximum number of network acl entries ({most}) has been reached."),
        ));
    }
    world.moto(query, "CreateNetworkAclEntry", &query.sent()).await?;
    Ok(done())
}

/// Idempotent: again for what was replaced so, the same answer.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ReplaceNetworkAclAssociation.html>,
/// <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html>
pub async fn replace(world: &World, query: &Query) -> Answer {
    let [association, id] =
        ["AssociationId", "NetworkAclId"].map(|name| query.get(name).unwrap_or_default());
    let wanted = acl(world, query, id).await?;
    let before = world.state().replaced.get(association).cloned();
    if let Some((_, new)) = before.filter(|(by, _)| by == id) {
        return Ok(vec![Node::leaf("newAssociationId", new)]);
    }
    let has = |item: &&Node| {
        item.all("associationSet/item/networkAclAssociationId")
            .iter()
            .any(|other| other == association)
    };
    let acls = all(world, query).await?;
    let old = acls
        .iter()
        .find(has)
        .ok_or_else(|| missing("InvalidAssociationID.NotFound", "association", association))?;
    if old.get("vpcId") != wanted.get("vpcId") {
        return Err(refusal(
            "InvalidParameterValue",
            format!("{association} and {id} belong to different networks"),
        ));
    }
    let answer = world.moto(query, "ReplaceNetworkAclAssociation", &query.sent()).await?;
    let new = answer.get("newAssociationId").to_owned();
    world.state().replaced.insert(association.to_owned(), (id.to_owned(), new));
    Ok(children(answer))
}

/// Not the default one, and not while subnets use it.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteNetworkAcl.html>
pub async fn delete(world: &World, query: &Query) -> Answer {
    let id = query.get("NetworkAclId").unwrap_or_default();
    let item = acl(world, query, id).await?;
    if item.get("default") == "true" {
        return Err(refusal(
            "InvalidParameterValue",
            format!("cannot delete default network ACL {id}"),
        ));
    }
    if !item.items("associationSet").is_empty() {
        return Err(depended_on("network ACL", id));
    }
    world.moto(query, "DeleteNetworkAcl", &query.sent()).await?;
    world.state().things.remove(id);
    Ok(done())
}

/// Takes a subnet from whatever ACL it uses, before it goes: moto would hold on to that ACL.
pub async fn free(world: &World, query: &Query, vpc: &str, subnet: &str) -> Answer<()> {
    let acls = all(world, query).await?;
    let default =
        acls.iter().find(|item| item.get("vpcId") == vpc && item.get("default") == "true");
    for item in acls.iter().filter(|item| item.get("default") != "true") {
        for used in
            item.items("associationSet").iter().filter(|item| item.get("subnetId") == subnet)
        {
            let ids = [
                ("AssociationId", used.get("networkAclAssociationId")),
                ("NetworkAclId", default.unwrap().get("networkAclId")),
            ];
            world
                .moto(
                    query,
                    "ReplaceNetworkAclAssociation",
                    &ids.map(|(name, id)| (name.to_owned(), id.to_owned())),
                )
                .await?;
        }
    }
    Ok(())
}

//! Security groups. moto keeps them and their rules; it does not know who uses a group, and takes
//! peers that are not there.

use super::interfaces;
use super::listing::{Listing, found};
use super::network::{children, depended_on, done, missing, vpc};
use super::query::Query;
use super::things::{self, Fate};
use super::world::{Answer, World, refusal, tag_set};
use super::xml::Node;

const LISTING: Listing = Listing {
    set: "securityGroupInfo",
    id: "groupId",
    asked: "GroupId",
    missing: Some("InvalidGroup.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSecurityGroups.html>
    values: |item, filter| {
        let paths = [
            ("description", "groupDescription"),
            ("egress.ip-permission.cidr", "ipPermissionsEgress/item/ipRanges/item/cidrIp"),
            ("egress.ip-permission.group-id", "ipPermissionsEgress/item/groups/item/groupId"),
            (
                "egress.ip-permission.prefix-list-id",
                "ipPermissionsEgress/item/prefixListIds/item/prefixListId",
            ),
            ("group-id", "groupId"),
            ("group-name", "groupName"),
            ("ip-permission.cidr", "ipPermissions/item/ipRanges/item/cidrIp"),
            ("ip-permission.group-id", "ipPermissions/item/groups/item/groupId"),
            ("ip-permission.prefix-list-id", "ipPermissions/item/prefixListIds/item/prefixListId"),
            ("owner-id", "ownerId"),
            ("vpc-id", "vpcId"),
        ];
        found(item, filter, &paths)
    },
};

pub async fn all(world: &World, query: &Query) -> Answer {
    world.listed(query, "DescribeSecurityGroups", "securityGroupInfo").await
}

pub async fn group(world: &World, query: &Query, id: &str) -> Answer<Node> {
    let found = all(world, query).await?.into_iter().find(|item| item.get("groupId") == id);
    found.ok_or_else(|| missing("InvalidGroup.NotFound", "security group", id))
}

/// Groups of an interface must be of its VPC. <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>, InvalidParameter
pub async fn of_vpc(world: &World, query: &Query, ids: &[String], vpc: &str) -> Answer {
    let mut found = Vec::new();
    for id in ids {
        let item = group(world, query, id).await?;
        if item.get("vpcId") != vpc {
            return Err(refusal(
                "InvalidParameter",
                format!("Security group {id} and subnet belong to different networks."),
            ));
        }
        found.push(item);
    }
    Ok(found)
}

/// Names and descriptions have up to 255 characters, of these.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html>
pub async fn create(world: &World, query: &Query) -> Answer {
    let id = query.get("VpcId").unwrap_or_default();
    if !id.is_empty() {
        vpc(world, query, id).await?;
    }
    for name in ["GroupName", "GroupDescription"] {
        let text = query.get(name).unwrap_or_default();
        let may =
            |byte: u8| byte.is_ascii_alphanumeric() || b" ._-:/()#,@[]+=&;{}!$*".contains(&byte);
        if text.is_empty()
            || text.len() > 255
            || !text.bytes().all(may)
            || (name == "GroupName" && text.starts_with("sg-"))
        {
            return Err(refusal(
                "InvalidParameterValue",
                format!("Invalid value '{text}' for {name}"),
            ));
        }
    }
    let mut answer = world.moto(query, "CreateSecurityGroup", &query.sent()).await?;
    things::made(world, query, answer.get("groupId"), 0, Fate::Ready);
    answer.put(tag_set(&query.tags("security-group")));
    Ok(children(answer))
}

pub async fn describe(world: &World, query: &Query) -> Answer {
    let mut items = all(world, query).await?;
    let names = query.list("GroupName");
    items.retain(|item| names.is_empty() || names.iter().any(|name| name == item.get("groupName")));
    things::look(world, query, &LISTING, items)
}

/// Peers have to be there, groups in the same VPC or one that it is peered with, which is not
/// modelled. Refused are duplicates (InvalidPermission.Duplicate) and revoking what is not there
/// (InvalidPermission.NotFound), which moto knows. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AuthorizeSecurityGroupEgress.html>,
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RevokeSecurityGroupEgress.html>
pub async fn change(world: &World, query: &Query) -> Answer {
    let item = group(world, query, query.get("GroupId").unwrap_or_default()).await?;
    let lists = world.listed(query, "DescribeManagedPrefixLists", "prefixListSet").await?;
    for (name, id) in query.params.iter().filter(|(name, _)| name.starts_with("IpPermissions.")) {
        if name.ends_with(".PrefixListId")
            && !lists.iter().any(|list| list.get("prefixListId") == id)
        {
            return Err(missing("InvalidPrefixListId.NotFound", "prefix list", id));
        }
        if name.ends_with(".GroupId")
            && group(world, query, id).await?.get("vpcId") != item.get("vpcId")
        {
            return Err(refusal(
                "InvalidGroup.NotFound",
                format!("You have specified two resources that belong to different networks: {id}"),
            ));
        }
    }
    Ok(children(world.moto(query, &query.action, &query.sent()).await?))
}

/// Not the default one, nor one that an interface uses or a rule of another group names.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteSecurityGroup.html>
pub async fn delete(world: &World, query: &Query) -> Answer {
    let id = query.get("GroupId").unwrap_or_default();
    if group(world, query, id).await?.get("groupName") == "default" {
        return Err(refusal(
            "CannotDelete",
            format!("the specified group: \"{id}\" name: \"default\" cannot be deleted by a user"),
        ));
    }
    let paths =
        ["ipPermissions/item/groups/item/groupId", "ipPermissionsEgress/item/groups/item/groupId"];
    let names = |item: &Node| {
        item.get("groupId") != id
            && paths.iter().any(|path| item.all(path).iter().any(|other| other == id))
    };
    let referenced = all(world, query).await?.iter().any(names);
    let used = |item: &Node| item.all("groupSet/item/groupId").iter().any(|other| other == id);
    if interfaces::in_use(world, query, used).await? || referenced {
        return Err(refusal(
            "DependencyViolation",
            format!("resource {id} has a dependent object"),
        ));
    }
    world.moto(query, "DeleteSecurityGroup", &query.sent()).await?;
    world.state().things.remove(id);
    Ok(done())
}

const PREFIX_LISTS: Listing = Listing {
    set: "prefixListSet",
    id: "prefixListId",
    asked: "PrefixListId",
    missing: Some("InvalidPrefixListId.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeManagedPrefixLists.html>
    values: |item, filter| {
        found(
            item,
            filter,
            &[
                ("owner-id", "ownerId"),
                ("prefix-list-id", "prefixListId"),
                ("prefix-list-name", "prefixListName"),
            ],
        )
    },
};

pub async fn describe_prefix_lists(world: &World, query: &Query) -> Answer {
    let items = world.listed(query, &query.action, "prefixListSet").await?;
    things::look(world, query, &PREFIX_LISTS, items)
}

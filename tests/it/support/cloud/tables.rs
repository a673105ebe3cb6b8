//! Route tables.

use super::listing::{Listing, found};
use super::network::{children, depended_on, done, missing, subnet};
use super::query::Query;
use super::things::{self, Fate};
use super::world::{Answer, World, refusal};
use super::xml::Node;

const LISTING: Listing = Listing {
    set: "routeTableSet",
    id: "routeTableId",
    asked: "RouteTableId",
    missing: Some("InvalidRouteTableID.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeRouteTables.html>
    values: |item, filter| {
        let paths = [
            ("association.gateway-id", "associationSet/item/gatewayId"),
            ("association.main", "associationSet/item/main"),
            (
                "association.route-table-association-id",
                "associationSet/item/routeTableAssociationId",
            ),
            ("association.route-table-id", "associationSet/item/routeTableId"),
            ("association.subnet-id", "associationSet/item/subnetId"),
            ("owner-id", "ownerId"),
            ("route-table-id", "routeTableId"),
            ("route.destination-cidr-block", "routeSet/item/destinationCidrBlock"),
            ("route.destination-prefix-list-id", "routeSet/item/destinationPrefixListId"),
            ("route.gateway-id", "routeSet/item/gatewayId"),
            ("route.nat-gateway-id", "routeSet/item/natGatewayId"),
            ("route.origin", "routeSet/item/origin"),
            ("route.state", "routeSet/item/state"),
            ("route.transit-gateway-id", "routeSet/item/transitGatewayId"),
            ("route.vpc-peering-connection-id", "routeSet/item/vpcPeeringConnectionId"),
            ("vpc-id", "vpcId"),
        ];
        found(item, filter, &paths)
    },
};

pub async fn all(world: &World, query: &Query) -> Answer {
    world.listed(query, "DescribeRouteTables", "routeTableSet").await
}

pub async fn table(world: &World, query: &Query, id: &str) -> Answer<Node> {
    let found = all(world, query).await?.into_iter().find(|item| item.get("routeTableId") == id);
    found.ok_or_else(|| missing("InvalidRouteTableID.NotFound", "routeTable", id))
}

pub fn is_main(item: &Node) -> bool {
    item.items("associationSet").iter().any(|item| item.get("main") == "true")
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateRouteTable.html>
pub async fn create(world: &World, query: &Query) -> Answer {
    let answer = world.moto(query, "CreateRouteTable", &query.sent()).await?;
    things::made(world, query, answer.get("routeTable/routeTableId"), 0, Fate::Ready);
    Ok(children(answer))
}

pub async fn describe(world: &World, query: &Query) -> Answer {
    things::look(world, query, &LISTING, all(world, query).await?)
}

/// Again with the same table: the same association; with another one: Resource.AlreadyAssociated.
/// moto answers any with the old one. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AssociateRouteTable.html>,
/// <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>
pub async fn associate(world: &World, query: &Query) -> Answer {
    let id = query.get("RouteTableId").unwrap_or_default();
    let wanted = table(world, query, id).await?;
    if let Some(subnet_id) = query.get("SubnetId") {
        if subnet(world, query, subnet_id).await?.get("vpcId") != wanted.get("vpcId") {
            let why =
                format!("Route table {id} and subnet {subnet_id} belong to different networks");
            return Err(refusal("InvalidParameterValue", why));
        }
        for item in all(world, query).await? {
            let has =
                item.items("associationSet").iter().any(|item| item.get("subnetId") == subnet_id);
            if has && item.get("routeTableId") != id {
                let why = format!(
                    "The specified association for route table {id} conflicts with an existing association"
                );
                return Err(refusal("Resource.AlreadyAssociated", why));
            }
        }
    }
    Ok(children(world.moto(query, "AssociateRouteTable", &query.sent()).await?))
}

/// Not while it is the main one or subnets use it, nor while an endpoint routes through it.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteRouteTable.html>,
/// <https://docs.aws.amazon.com/vpc/latest/privatelink/gateway-endpoints.html>
pub async fn delete(world: &World, query: &Query) -> Answer {
    let id = query.get("RouteTableId").unwrap_or_default();
    let item = table(world, query, id).await?;
    let by_endpoint =
        item.all("routeSet/item/gatewayId").iter().any(|via| via.starts_with("vpce-"));
    if !item.items("associationSet").is_empty() || by_endpoint {
        return Err(depended_on("routeTable", id));
    }
    world.moto(query, "DeleteRouteTable", &query.sent()).await?;
    world.state().things.remove(id);
    Ok(done())
}

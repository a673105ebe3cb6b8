//! The actions of EC2 that are modelled.

use super::query::Query;
use super::world::{Answer, World};
use super::xml::Node;
use super::{
    acls, endpoints, flow_logs, gateways, groups, guards, images, instances, interfaces, locks,
    machines, network, snapshots, tables,
};
use super::{tags, tiers, tokens, volumes};

/// None: it is not modelled.
pub async fn answer(world: &World, query: &Query, account: &str) -> Answer<Option<Vec<Node>>> {
    tokens::tried_out(query)?;
    tokens::well_formed(query, tokens::NETWORK)?;
    tags::check(query)?;
    if let Some(before) = tokens::remembered(world, query, account)? {
        return Ok(Some(before));
    }
    let answer = match query.action.as_str() {
        "CreateSnapshot" => snapshots::create(world, query, account).await,
        "CreateSnapshots" => snapshots::create_together(world, query, account).await,
        "CopySnapshot" => snapshots::copy(world, query, account).await,
        "DescribeSnapshots" => snapshots::describe(world, query, account).await,
        "DeleteSnapshot" => snapshots::delete(world, query, account).await,
        "ModifySnapshotAttribute" => snapshots::share(world, query, account),
        "DescribeSnapshotAttribute" => snapshots::describe_sharing(world, query, account),
        "LockSnapshot" => locks::lock(world, query, account),
        "UnlockSnapshot" => locks::unlock(world, query, account),
        "DescribeLockedSnapshots" => locks::describe(world, query, account),
        "ModifySnapshotTier" => tiers::archive(world, query, account),
        "RestoreSnapshotTier" => tiers::restore(world, query, account),
        "DescribeSnapshotTierStatus" => tiers::describe(world, query, account).await,
        "CreateVolume" => volumes::create(world, query, account).await,
        "DescribeVolumes" => volumes::describe(world, query).await,
        "DescribeVolumeStatus" => volumes::describe_status(world, query).await,
        "AttachVolume" => volumes::attach(world, query).await,
        "DetachVolume" => volumes::detach(world, query).await,
        "DeleteVolume" => volumes::delete(world, query).await,
        "DescribeImages" => images::describe(world, query, account),
        "DeregisterImage" => images::deregister(world, query),
        "RunInstances" => machines::run(world, query, account).await,
        "DescribeInstances" => instances::describe(world, query, account).await,
        "DescribeInstanceAttribute" => instances::attribute(world, query).await,
        "TerminateInstances" => instances::terminate(world, query).await,
        "StopInstances" | "StartInstances" => instances::stop_or_start(world, query).await,
        "GetConsoleOutput" => instances::console(world, query),
        "DescribeInstanceTypes" => guards::describe_types(world, query),
        "DescribeInstanceTypeOfferings" => guards::describe_offerings(world, query),
        _ => return network(world, query, account).await,
    }?;
    tokens::remember(world, query, account, &answer);
    Ok(Some(answer))
}

async fn network(world: &World, query: &Query, account: &str) -> Answer<Option<Vec<Node>>> {
    let answer = match query.action.as_str() {
        "CreateVpc" => network::create_vpc(world, query).await,
        "DescribeVpcs" => network::describe_vpcs(world, query).await,
        "ModifyVpcAttribute" => network::modify_vpc(world, query).await,
        "DeleteVpc" => network::delete_vpc(world, query).await,
        "CreateSubnet" => network::create_subnet(world, query).await,
        "DescribeSubnets" => network::describe_subnets(world, query).await,
        "DeleteSubnet" => network::delete_subnet(world, query).await,
        "CreateRouteTable" => tables::create(world, query).await,
        "DescribeRouteTables" => tables::describe(world, query).await,
        "AssociateRouteTable" => tables::associate(world, query).await,
        "DeleteRouteTable" => tables::delete(world, query).await,
        "CreateNetworkAcl" => acls::create(world, query).await,
        "CreateNetworkAclEntry" => acls::create_entry(world, query).await,
        "DescribeNetworkAcls" => acls::describe(world, query).await,
        "ReplaceNetworkAclAssociation" => acls::replace(world, query).await,
        "DeleteNetworkAcl" => acls::delete(world, query).await,
        "CreateSecurityGroup" => groups::create(world, query).await,
        "DescribeSecurityGroups" => groups::describe(world, query).await,
        "DeleteSecurityGroup" => groups::delete(world, query).await,
        "AuthorizeSecurityGroupEgress"
        | "AuthorizeSecurityGroupIngress"
        | "RevokeSecurityGroupEgress"
        | "RevokeSecurityGroupIngress" => groups::change(world, query).await,
        "DescribeManagedPrefixLists" | "DescribePrefixLists" => {
            groups::describe_prefix_lists(world, query).await
        }
        "CreateVpcEndpoint" => endpoints::create(world, query, account).await,
        "DescribeVpcEndpoints" => endpoints::describe(world, query).await,
        "DeleteVpcEndpoints" => endpoints::delete(world, query).await,
        "DescribeNetworkInterfaces" => interfaces::describe(world, query).await,
        "DeleteNetworkInterface" => interfaces::delete(world, query).await,
        "CreateFlowLogs" => flow_logs::create(world, query).await,
        "DescribeFlowLogs" => flow_logs::describe(world, query),
        "DeleteFlowLogs" => flow_logs::delete(world, query),
        "CreateInstanceConnectEndpoint" => gateways::connect(world, query, account).await,
        "DescribeInstanceConnectEndpoints" => gateways::describe_connects(world, query),
        "DeleteInstanceConnectEndpoint" => gateways::disconnect(world, query),
        "DescribeVpcBlockPublicAccessOptions" => guards::block_public_access(world, query, account),
        "GetEbsEncryptionByDefault" => guards::encryption_by_default(world),
        "GetSerialConsoleAccessStatus" => guards::serial_console(world),
        "CreateTags" | "DeleteTags" => tags::change(world, query).await,
        action if gateways::is_one(action) => gateways::describe(world, query).await,
        _ => return Ok(None),
    }?;
    tokens::remember(world, query, account, &answer);
    Ok(Some(answer))
}

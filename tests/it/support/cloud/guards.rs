//! What an account has whatever anybody does: settings that guard it, its quotas, and what is
//! offered where.

use serde_json::{Value, json};

use super::listing::{Listing, found};
use super::query::Query;
use super::things;
use super::world::{Answer, World, refusal, written_time};
use super::xml::Node;

/// <https://docs.aws.amazon.com/vpc/latest/userguide/security-vpc-bpa.html>,
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_VpcBlockPublicAccessOptions.html>
pub fn block_public_access(world: &World, query: &Query, account: &str) -> Answer {
    let state = world.state();
    let mode = state.settings.block_public_access.clone();
    let fields = [
        ("awsAccountId", account),
        ("awsRegion", &query.region),
        ("state", if mode == "off" { "default-state" } else { "update-complete" }),
        ("internetGatewayBlockMode", &mode),
        ("lastUpdateTimestamp", &written_time(state.now())),
        ("managedBy", "account"),
        ("exclusionsAllowed", "allowed"),
    ];
    let fields = fields.into_iter().map(|(name, value)| Node::leaf(name, value)).collect();
    Ok(vec![Node::new("vpcBlockPublicAccessOptions", fields)])
}

/// It is told, not enforced. <https://docs.aws.amazon.com/ebs/latest/userguide/encryption-by-default.html>
pub fn encryption_by_default(world: &World) -> Answer {
    Ok(vec![Node::leaf("ebsEncryptionByDefault", world.state().settings.encryption_by_default)])
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetSerialConsoleAccessStatus.html>
pub fn serial_console(world: &World) -> Answer {
    let allowed = world.state().settings.serial_console;
    Ok(vec![Node::leaf("serialConsoleAccessEnabled", allowed), Node::leaf("managedBy", "account")])
}

pub const QUOTA_ACTIONS: [&str; 2] = ["GetServiceQuota", "GetAWSDefaultServiceQuota"];

/// VPCs of a Region, and vCPUs of running standard on-demand instances.
/// <https://docs.aws.amazon.com/servicequotas/2019-06-24/apireference/API_GetServiceQuota.html>,
/// <https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html>,
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html>
pub fn quota(world: &World, query: &Query, account: &str) -> Answer<Value> {
    if !QUOTA_ACTIONS.contains(&query.action.as_str()) {
        return Err(refusal(
            "UnknownOperationException",
            format!("{} is not modelled", query.action),
        ));
    }
    let (vpcs, vcpus) = {
        let settings = &world.state().settings;
        (settings.vpcs as f64, f64::from(settings.vcpus))
    };
    let [service, code] =
        ["ServiceCode", "QuotaCode"].map(|name| query.get(name).unwrap_or_default());
    let (name, value, of_aws) = match (service, code) {
        ("vpc", "L-F678F1CE") => ("VPCs per Region", vpcs, 5.0),
        ("ec2", "L-1216C47A") => {
            ("Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", vcpus, 5.0)
        }
        _ => {
            return Err(refusal(
                "NoSuchResourceException",
                "The request failed because the specified service or quota does not exist.",
            ));
        }
    };
    let value = if query.action == "GetServiceQuota" { value } else { of_aws };
    let arn = format!("arn:aws:servicequotas:{}:{account}:{service}/{code}", query.region);
    Ok(
        json!({"Quota": {"ServiceCode": service, "ServiceName": service, "QuotaArn": arn, "QuotaCode": code, "QuotaName": name,
        "Value": value, "Unit": "None", "Adjustable": true, "GlobalQuota": false}}),
    )
}

/// Sizes of one family have the same numbers of cores. <https://docs.aws.amazon.com/ec2/latest/instancetypes/gp.html>
pub fn vcpus(kind: &str) -> u32 {
    match kind.split_once('.').map_or("", |(_, size)| size) {
        "4xlarge" => 16,
        "2xlarge" => 8,
        "xlarge" => 4,
        _ => 2,
    }
}

const TYPES: Listing = Listing {
    set: "instanceTypeSet",
    id: "instanceType",
    asked: "InstanceType",
    missing: Some("InvalidInstanceType"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html>
    values: |item, filter| {
        let paths = [
            ("hypervisor", "hypervisor"),
            ("instance-type", "instanceType"),
            ("processor-info.supported-architecture", "processorInfo/supportedArchitectures/item"),
            ("vcpu-info.default-vcpus", "vCpuInfo/defaultVCpus"),
        ];
        found(item, filter, &paths)
    },
};

pub fn describe_types(world: &World, query: &Query) -> Answer {
    let types: Vec<String> = world.state().settings.offerings.keys().cloned().collect();
    let item = |kind: &String| {
        let cores = vcpus(kind);
        let architectures = Node::new("supportedArchitectures", vec![Node::leaf("item", "x86_64")]);
        let fields = vec![
            Node::leaf("instanceType", kind),
            Node::leaf("currentGeneration", true),
            Node::leaf("bareMetal", false),
            Node::leaf("hypervisor", "nitro"),
            Node::new("processorInfo", vec![architectures]),
            Node::new(
                "vCpuInfo",
                vec![Node::leaf("defaultVCpus", cores), Node::leaf("defaultCores", cores / 2)],
            ),
            Node::new("memoryInfo", vec![Node::leaf("sizeInMiB", cores * 4096)]),
        ];
        Node::new("item", fields)
    };
    let items = types.iter().map(item).collect();
    things::look(world, query, &TYPES, items)
}

/// By their places in the list, which is what the pages go by.
const OFFERINGS: Listing = Listing {
    set: "instanceTypeOfferingSet",
    id: "place",
    asked: "",
    missing: None,
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypeOfferings.html>
    values: |item, filter| {
        found(item, filter, &[("instance-type", "instanceType"), ("location", "location")])
    },
};

pub fn describe_offerings(world: &World, query: &Query) -> Answer {
    let zones = match query.get("LocationType").unwrap_or("region") {
        "region" => false,
        "availability-zone" => true,
        other => return Err(refusal("InvalidParameterValue", format!("LocationType {other}"))),
    };
    let mut places = Vec::new();
    for (kind, letters) in &world.state().settings.offerings {
        match zones {
            true => places.extend(
                letters.chars().map(|letter| (kind.clone(), format!("{}{letter}", query.region))),
            ),
            false => places.push((kind.clone(), query.region.clone())),
        }
    }
    let item = |(kind, location): (String, String)| {
        let fields = [
            ("place", format!("{kind} {location}")),
            ("instanceType", kind),
            ("locationType", if zones { "availability-zone" } else { "region" }.to_owned()),
            ("location", location),
        ];
        Node::new("item", fields.into_iter().map(|(name, value)| Node::leaf(name, value)).collect())
    };
    things::look(world, query, &OFFERINGS, places.into_iter().map(item).collect())
}

//! The steps that make a scratch VPC, in order. Each undoes itself by the run's tags alone.

use async_trait::async_trait;

use super::cloud::{
    AclEntry, ApiCall, CloudError, CloudResource, GroupRule, LaunchSpec, LaunchVolume,
    ResourceFacts, ResourceKind, ResourceScope, RulePeer,
};
use super::{ScratchError, ScratchVpc, policies};
use crate::saga::{SagaStep, UndoStep};

/// Where the resolver, S3 and KMS answer: TLS and nothing else.
const HTTPS: (i32, i32) = (443, 443);
/// Ports from which answers come back to whoever asked.
const ANSWERS: (i32, i32) = (1024, 65_535);
/// The first entry that denies, and the ones that let through behind all of these.
const DENY_FIRST: i32 = 100;
const ALLOW: i32 = 1000;
/// Names of the two groups.
pub const INSTANCE_GROUP: &str = "lifeboat-scratch-instance";
/// See [`INSTANCE_GROUP`].
pub const ENDPOINT_GROUP: &str = "lifeboat-scratch-endpoint";

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $name:literal, $undo:expr;)*) => { $(
        $(#[$doc])*
        pub struct $step;
        #[async_trait]
        impl UndoStep<ScratchVpc> for $step {
            fn name(&self) -> &'static str {
                $name
            }
            async fn undo(&self, scratch: &mut ScratchVpc) -> Result<(), String> {
                let kinds: &[ResourceKind] = &$undo;
                for kind in kinds {
                    scratch.remove_all(*kind).await?;
                }
                Ok(())
            }
        }
    )* };
}

steps! {
    /// The route table: local, and later S3.
    CreateRouteTable = "route-table", [ResourceKind::RouteTable];
    /// The network ACL, which denies production before it lets anything through.
    CreateNetworkAcl = "network-acl", [ResourceKind::NetworkAcl];
    /// The security groups of instance and endpoint.
    CreateSecurityGroups = "security-groups", [ResourceKind::SecurityGroup];
    /// The subnet, in one zone.
    CreateSubnet = "subnet", [ResourceKind::Subnet];
    /// The door to S3.
    CreateS3Endpoint = "s3-endpoint", [ResourceKind::Endpoint];
    /// The DNS firewall, if there is one.
    AssociateDnsFirewall = "dns-firewall", [ResourceKind::FirewallAssociation];
    /// The flow log.
    CreateFlowLogs = "flow-logs", [ResourceKind::FlowLog];
    /// The instance, and its volumes.
    LaunchInstance = "instance", [ResourceKind::Instance, ResourceKind::Volume];
}

/// The door to KMS. It stands in the subnet; the door to S3 does not, and outlives it where another
/// zone is tried.
pub struct CreateKmsEndpoint;

#[async_trait]
impl UndoStep<ScratchVpc> for CreateKmsEndpoint {
    fn name(&self) -> &'static str {
        "kms-endpoint"
    }
    async fn undo(&self, scratch: &mut ScratchVpc) -> Result<(), String> {
        let in_the_subnet = |thing: &CloudResource| matches!(&thing.facts, ResourceFacts::Endpoint { form, .. } if form == "Interface");
        scratch.remove_those(ResourceKind::Endpoint, in_the_subnet).await?;
        scratch.remove_all(ResourceKind::Interface).await
    }
}

/// The VPC. The last to be undone: everything that other steps have left goes with it.
pub struct CreateVpc;

#[async_trait]
impl UndoStep<ScratchVpc> for CreateVpc {
    fn name(&self) -> &'static str {
        "vpc"
    }
    async fn undo(&self, scratch: &mut ScratchVpc) -> Result<(), String> {
        scratch.delete_all_tagged().await
    }
}

/// Grants on keys.
pub struct GrantKeys;

#[async_trait]
impl UndoStep<ScratchVpc> for GrantKeys {
    fn name(&self) -> &'static str {
        "kms-grant"
    }
    async fn undo(&self, scratch: &mut ScratchVpc) -> Result<(), String> {
        scratch.revoke_grants().await
    }
}

/// All steps that make something, in order, for the way back.
#[must_use]
pub fn undos() -> [&'static dyn UndoStep<ScratchVpc>; 11] {
    [
        &CreateVpc,
        &CreateRouteTable,
        &CreateNetworkAcl,
        &CreateSecurityGroups,
        &CreateS3Endpoint,
        &AssociateDnsFirewall,
        &CreateFlowLogs,
        &CreateSubnet,
        &CreateKmsEndpoint,
        &GrantKeys,
        &LaunchInstance,
    ]
}

/// Those that are done again in another zone.
#[must_use]
pub fn undos_of_a_zone() -> [&'static dyn UndoStep<ScratchVpc>; 3] {
    [&CreateSubnet, &CreateKmsEndpoint, &LaunchInstance]
}

macro_rules! makes {
    ($step:ty, $output:ty, $self:ident, $scratch:ident, $act:block) => {
        #[async_trait]
        impl SagaStep<ScratchVpc> for $step {
            type Output = $output;
            type Error = ScratchError;
            async fn act(&$self, $scratch: &mut ScratchVpc) -> Result<$output, ScratchError> {
                if $scratch.cancel.is_cancelled() {
                    return Err(ScratchError::Interrupted);
                }
                $act
            }
        }
    };
}

makes!(CreateVpc, String, self, scratch, {
    let (cidr, tenancy) =
        (scratch.spec.settings.cidr.to_string(), scratch.spec.settings.tenancy.clone());
    let id = scratch.act(&ApiCall::CreateVpc { cidr, tenancy }).await?.id;
    scratch.until(ResourceKind::Vpc, &id, "available", &[]).await?;
    scratch.act(&ApiCall::EnableDns { vpc: id.clone() }).await?;
    scratch.made.vpc.clone_from(&id);
    Ok(id)
});

makes!(CreateRouteTable, String, self, scratch, {
    let id = scratch.act(&ApiCall::CreateRouteTable { vpc: scratch.made.vpc.clone() }).await?.id;
    scratch.made.table.clone_from(&id);
    Ok(id)
});

/// What the network ACL says, but for the service's own last words.
#[must_use]
pub fn acl_entries(scratch: &ScratchVpc) -> Vec<AclEntry> {
    let mut entries = Vec::new();
    for egress in [true, false] {
        for (number, cidr) in (DENY_FIRST..).zip(&scratch.spec.settings.production_cidrs) {
            entries.push(AclEntry {
                egress,
                number,
                allow: false,
                protocol: "-1".to_owned(),
                cidr: cidr.to_string(),
                ports: None,
            });
        }
        let ports = Some(if egress { HTTPS } else { ANSWERS });
        let cidr = "0.0.0.0/0".to_owned();
        entries.push(AclEntry {
            egress,
            number: ALLOW,
            allow: true,
            protocol: "6".to_owned(),
            cidr,
            ports,
        });
    }
    entries.sort();
    entries
}

makes!(CreateNetworkAcl, String, self, scratch, {
    let id = scratch.act(&ApiCall::CreateNetworkAcl { vpc: scratch.made.vpc.clone() }).await?.id;
    for entry in acl_entries(scratch) {
        scratch.act(&ApiCall::AddAclEntry { acl: id.clone(), entry }).await?;
    }
    scratch.made.acl.clone_from(&id);
    Ok(id)
});

fn https(peer: RulePeer) -> GroupRule {
    GroupRule { protocol: "tcp".to_owned(), ports: Some(HTTPS), peer }
}

/// What the instance may reach: S3, and the door to KMS.
#[must_use]
pub fn instance_egress(prefix_list: &str, endpoint_group: &str) -> Vec<GroupRule> {
    let mut rules = vec![
        https(RulePeer::PrefixList(prefix_list.to_owned())),
        https(RulePeer::Group(endpoint_group.to_owned())),
    ];
    rules.sort();
    rules
}

/// Who may come to the door to KMS: the instance.
#[must_use]
pub fn endpoint_ingress(instance_group: &str) -> Vec<GroupRule> {
    vec![https(RulePeer::Group(instance_group.to_owned()))]
}

/// What a new group lets out, unless it is taken away.
fn everything() -> Vec<GroupRule> {
    vec![GroupRule {
        protocol: "-1".to_owned(),
        ports: None,
        peer: RulePeer::Cidr("0.0.0.0/0".to_owned()),
    }]
}

makes!(CreateSecurityGroups, (String, String), self, scratch, {
    let mut made = Vec::new();
    for (name, what) in [
        (INSTANCE_GROUP, "lifeboat: the instance of a drill"),
        (ENDPOINT_GROUP, "lifeboat: the KMS endpoint of a drill"),
    ] {
        let (vpc, name, description) = (scratch.made.vpc.clone(), name.to_owned(), what.to_owned());
        let group = scratch.act(&ApiCall::CreateSecurityGroup { vpc, name, description }).await?.id;
        scratch
            .act(&ApiCall::DropRules { group: group.clone(), egress: true, rules: everything() })
            .await?;
        made.push(group);
    }
    let (instance, endpoint) = (made.swap_remove(0), made.swap_remove(0));
    let rules = instance_egress(&scratch.prefix_list, &endpoint);
    scratch.act(&ApiCall::AddRules { group: instance.clone(), egress: true, rules }).await?;
    scratch
        .act(&ApiCall::AddRules {
            group: endpoint.clone(),
            egress: false,
            rules: endpoint_ingress(&instance),
        })
        .await?;
    (scratch.made.instance_group, scratch.made.endpoint_group) =
        (instance.clone(), endpoint.clone());
    Ok((instance, endpoint))
});

makes!(CreateS3Endpoint, String, self, scratch, {
    let service = s3_service(scratch);
    let policy = policies::s3(&scratch.spec.settings.account, &scratch.spec.reads);
    let (vpc, table) = (scratch.made.vpc.clone(), scratch.made.table.clone());
    let id = scratch.act(&ApiCall::CreateGatewayEndpoint { vpc, service, table, policy }).await?.id;
    scratch
        .until(ResourceKind::Endpoint, &id, "available", &["failed", "rejected", "expired"])
        .await?;
    scratch.made.gateway.clone_from(&id);
    Ok(id)
});

/// The full name of S3 in the region.
#[must_use]
pub fn s3_service(scratch: &ScratchVpc) -> String {
    format!("com.amazonaws.{}.s3", scratch.spec.settings.region)
}

/// The full name of KMS in the region.
#[must_use]
pub fn kms_service(scratch: &ScratchVpc) -> String {
    format!("com.amazonaws.{}.kms", scratch.spec.settings.region)
}

makes!(AssociateDnsFirewall, String, self, scratch, {
    let Some(rules) = scratch.spec.settings.dns_firewall.clone() else { return Ok(String::new()) };
    let (vpc, name) = (scratch.made.vpc.clone(), format!("lifeboat-{}", scratch.spec.run));
    let id = scratch.act(&ApiCall::AssociateFirewall { vpc, rules, name }).await?.id;
    scratch.until(ResourceKind::FirewallAssociation, &id, "COMPLETE", &["DELETING"]).await?;
    scratch.made.firewall.clone_from(&id);
    Ok(id)
});

makes!(CreateFlowLogs, String, self, scratch, {
    let (destination, role) =
        (scratch.spec.settings.flow_logs.clone(), scratch.spec.settings.flow_logs_role.clone());
    let id = scratch
        .act(&ApiCall::CreateFlowLogs { vpc: scratch.made.vpc.clone(), destination, role })
        .await?
        .id;
    scratch.made.flow_log.clone_from(&id);
    Ok(id)
});

makes!(CreateSubnet, String, self, scratch, {
    let (vpc, cidr, zone) =
        (scratch.made.vpc.clone(), scratch.spec.settings.cidr.to_string(), scratch.zone.clone());
    let id = scratch.act(&ApiCall::CreateSubnet { vpc, cidr, zone }).await?.id;
    scratch
        .until(ResourceKind::Subnet, &id, "available", &["failed", "failed-insufficient-capacity"])
        .await?;
    scratch
        .act(&ApiCall::AssociateRouteTable {
            table: scratch.made.table.clone(),
            subnet: id.clone(),
        })
        .await?;
    let association = association_of(scratch, &id).await?;
    match scratch
        .act(&ApiCall::ReplaceAclAssociation { association, acl: scratch.made.acl.clone() })
        .await
    {
        // It was replaced already, by a call whose answer was lost.
        Err(CloudError::Missing { .. }) if is_associated(scratch, &id).await? => {}
        other => drop(other?),
    }
    scratch.made.subnet.clone_from(&id);
    Ok(id)
});

/// Of some network ACLs the one that a subnet uses: association and ACL.
fn acl_with(acls: &[CloudResource], subnet: &str) -> Option<(String, String)> {
    let of = |acl: &CloudResource| match &acl.facts {
        ResourceFacts::NetworkAcl { subnets, .. } => subnets
            .iter()
            .find(|(_, associated)| associated == subnet)
            .map(|(association, _)| (association.clone(), acl.id.clone())),
        _ => None,
    };
    acls.iter().find_map(of)
}

/// The association with the network ACL that a new subnet got by itself.
async fn association_of(scratch: &mut ScratchVpc, subnet: &str) -> Result<String, ScratchError> {
    let (at, what) = (ResourceScope::Vpc(scratch.made.vpc.clone()), format!("subnet {subnet}"));
    let judge = |acls: &[CloudResource]| {
        Ok(acl_with(acls, subnet)
            .map(|(association, _)| association)
            .ok_or_else(|| "not".to_owned()))
    };
    scratch
        .wait_for((ResourceKind::NetworkAcl, &at), (&what, "associated with a network ACL"), judge)
        .await
}

async fn is_associated(scratch: &mut ScratchVpc, subnet: &str) -> Result<bool, ScratchError> {
    let acls = scratch
        .look(ResourceKind::NetworkAcl, &ResourceScope::Vpc(scratch.made.vpc.clone()))
        .await?;
    Ok(acl_with(&acls, subnet).is_some_and(|(_, acl)| acl == scratch.made.acl))
}

makes!(CreateKmsEndpoint, String, self, scratch, {
    let service = kms_service(scratch);
    let policy = policies::kms(&scratch.spec.settings.account, &scratch.spec.grants);
    let (vpc, subnet, group) = (
        scratch.made.vpc.clone(),
        scratch.made.subnet.clone(),
        scratch.made.endpoint_group.clone(),
    );
    let id = scratch
        .act(&ApiCall::CreateInterfaceEndpoint { vpc, service, subnet, group, policy })
        .await?
        .id;
    scratch
        .until(ResourceKind::Endpoint, &id, "available", &["failed", "rejected", "expired"])
        .await?;
    scratch.made.keys_endpoint.clone_from(&id);
    Ok(id)
});

makes!(GrantKeys, Vec<String>, self, scratch, {
    let (grantee, name) = (scratch.spec.settings.instance_role.clone(), scratch.grant_name());
    let mut tokens = Vec::new();
    for grant in scratch.spec.grants.clone() {
        let (key, context) = (grant.key, grant.context);
        let granted = scratch
            .act(&ApiCall::CreateGrant {
                key,
                grantee: grantee.clone(),
                context,
                name: name.clone(),
            })
            .await?;
        tokens.extend(granted.grant_token);
    }
    scratch.made.grant_tokens.clone_from(&tokens);
    Ok(tokens)
});

impl ScratchVpc {
    /// What is launched, of a type.
    #[must_use]
    pub fn launch(&self, instance_type: &str, root_device: &str) -> LaunchSpec {
        let settings = &self.spec.settings;
        let root = LaunchVolume {
            device: root_device.to_owned(),
            snapshot: None,
            key: settings.kms_key.clone(),
            gib: settings.root_gib,
            initialization_rate: None,
        };
        LaunchSpec {
            image: self.image.clone(),
            instance_type: instance_type.to_owned(),
            subnet: self.made.subnet.clone(),
            group: self.made.instance_group.clone(),
            profile: settings.instance_profile.clone(),
            tenancy: settings.tenancy.clone(),
            volumes: std::iter::once(root).chain(self.spec.volumes.iter().cloned()).collect(),
            user_data: self.user_data.clone(),
        }
    }
}

makes!(LaunchInstance, String, self, scratch, {
    let image = scratch.cloud.image(&scratch.image.clone()).await?;
    let root = image
        .ok_or_else(|| ScratchError::Wrong(format!("image {} is gone", scratch.image)))?
        .root_device;
    let mut refused = Vec::new();
    for instance_type in scratch.spec.settings.instance_types.clone() {
        let launch = scratch.launch(&instance_type, &root);
        match scratch.act(&ApiCall::RunInstances(Box::new(launch.clone()))).await {
            Ok(acted) => {
                (scratch.made.instance, scratch.made.instance_type) =
                    (acted.id.clone(), instance_type);
                // What the keys refuse shows up here, and nowhere else.
                let hopeless = ["terminated", "shutting-down", "stopped"];
                let instance = scratch
                    .until(ResourceKind::Instance, &acted.id, "running", &hopeless)
                    .await
                    .map_err(explained)?;
                as_asked(scratch, &instance, &launch).await?;
                return Ok(acted.id);
            }
            Err(CloudError::NoCapacity { why, .. }) => {
                refused.push(format!("{instance_type}: {why}"))
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ScratchError::NoCapacity { zone: scratch.zone.clone(), why: refused.join("; ") })
});

/// `Client.InternalError` at launch is how EC2 says that a key refused.
fn explained(error: ScratchError) -> ScratchError {
    match error {
        ScratchError::Wrong(why) if why.contains("Client.InternalError") => {
            ScratchError::Wrong(format!(
                "{why}; EC2 says this where it may not use a volume's key: look at the key policies of the drill's key and of the snapshots'"
            ))
        }
        other => other,
    }
}

/// The volumes of an instance, as soon as all of them are to be seen.
async fn volumes_of(
    scratch: &mut ScratchVpc,
    instance: &CloudResource,
    count: usize,
) -> Result<Vec<CloudResource>, ScratchError> {
    let (at, what) =
        (ResourceScope::Tagged(scratch.own.clone()), format!("instance {}", instance.id));
    let judge = |volumes: &[CloudResource]| {
        let of_instance = |volume: &&CloudResource| matches!(&volume.facts, ResourceFacts::Volume { instance: Some(of), .. } if *of == instance.id);
        let volumes: Vec<CloudResource> = volumes.iter().filter(of_instance).cloned().collect();
        Ok(if volumes.len() >= count && count > 0 {
            Ok(volumes)
        } else {
            Err(format!("with {}", volumes.len()))
        })
    };
    scratch
        .wait_for(
            (ResourceKind::Volume, &at),
            (&what, &format!("seen with its {count} volumes")),
            judge,
        )
        .await
}

/// What runs must be what was asked for, before it gets anything to do.
async fn as_asked(
    scratch: &mut ScratchVpc,
    instance: &CloudResource,
    launch: &LaunchSpec,
) -> Result<(), ScratchError> {
    let ResourceFacts::Instance(is) = &instance.facts else {
        return Err(ScratchError::Wrong("an instance is no instance".to_owned()));
    };
    let mut wrong = Vec::new();
    let mut must = |what: &str, is: &str, asked: &str| {
        if is != asked {
            wrong.push(format!("its {what} is {is:?} instead of {asked:?}"));
        }
    };
    must("type", &is.instance_type, &launch.instance_type);
    must("image", &is.image, &launch.image);
    must("tenancy", &is.tenancy, &launch.tenancy);
    must("subnet", &is.subnet, &launch.subnet);
    must("metadata service", &is.http_tokens, "required");
    must("hop limit", &is.hop_limit.to_string(), "1");
    must("groups", &is.groups.join(","), &launch.group);
    must("public address", is.public_ip.as_deref().unwrap_or("none"), "none");
    let staying: Vec<&str> = is
        .volumes
        .iter()
        .filter(|(_, _, goes)| !goes)
        .map(|(_, volume, _)| volume.as_str())
        .collect();
    must("volumes that outlive it", &staying.join(","), "");
    for volume in &volumes_of(scratch, instance, is.volumes.len()).await? {
        if let ResourceFacts::Volume { encrypted, key, .. } = &volume.facts
            && (!encrypted || key.as_ref() != Some(&scratch.spec.settings.kms_key))
        {
            wrong.push(format!("volume {} is not encrypted under the drill's key", volume.id));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(ScratchError::Wrong(format!("instance {}: {}", instance.id, wrong.join("; "))))
    }
}

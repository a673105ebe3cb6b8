//! Calls that change a cloud: each has a name, a permission and a subject before it is made. Only
//! resources that carry a run's own tags can be removed ([`OwnedResource`]).

use std::collections::BTreeMap;

use serde::Serialize;

use super::cloud::ResourceTags;
use super::resources::{AclEntry, CloudResource, GroupRule, ResourceKind, RulePeer};

/// A volume of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaunchVolume {
    /// The device name.
    pub device: String,
    /// The snapshot it is made from; none: the image's own root volume, made as this says.
    pub snapshot: Option<String>,
    /// The drill's key; never production's.
    pub key: String,
    /// GiB; none: as the snapshot.
    pub gib: Option<i32>,
    /// MiB/s at which it is read in.
    pub initialization_rate: Option<i32>,
}

/// One RunInstances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaunchSpec {
    /// The image.
    pub image: String,
    /// The type.
    pub instance_type: String,
    /// The subnet.
    pub subnet: String,
    /// The security group.
    pub group: String,
    /// ARN of the instance profile.
    pub profile: String,
    /// `default` or `dedicated`.
    pub tenancy: String,
    /// Volumes. All go with the instance.
    pub volumes: Vec<LaunchVolume>,
    /// The script it runs at boot.
    pub user_data: String,
}

/// Something that changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiCall {
    /// CreateVpc
    CreateVpc {
        /// IPv4 CIDR.
        cidr: String,
        /// `default` or `dedicated`.
        tenancy: String,
    },
    /// ModifyVpcAttribute, twice: a private name for an endpoint needs both.
    EnableDns {
        /// The VPC.
        vpc: String,
    },
    /// CreateRouteTable
    CreateRouteTable {
        /// The VPC.
        vpc: String,
    },
    /// CreateNetworkAcl
    CreateNetworkAcl {
        /// The VPC.
        vpc: String,
    },
    /// CreateNetworkAclEntry
    AddAclEntry {
        /// The ACL.
        acl: String,
        /// The entry.
        entry: AclEntry,
    },
    /// CreateSecurityGroup
    CreateSecurityGroup {
        /// The VPC.
        vpc: String,
        /// Its name.
        name: String,
        /// What it is for.
        description: String,
    },
    /// AuthorizeSecurityGroupEgress, …Ingress
    AddRules {
        /// The group.
        group: String,
        /// What leaves, or what comes.
        egress: bool,
        /// The rules.
        rules: Vec<GroupRule>,
    },
    /// RevokeSecurityGroupEgress, …Ingress
    DropRules {
        /// The group.
        group: String,
        /// What leaves, or what comes.
        egress: bool,
        /// The rules.
        rules: Vec<GroupRule>,
    },
    /// CreateSubnet
    CreateSubnet {
        /// The VPC.
        vpc: String,
        /// IPv4 CIDR.
        cidr: String,
        /// The zone.
        zone: String,
    },
    /// AssociateRouteTable
    AssociateRouteTable {
        /// The table.
        table: String,
        /// The subnet.
        subnet: String,
    },
    /// ReplaceNetworkAclAssociation
    ReplaceAclAssociation {
        /// The association the subnet has.
        association: String,
        /// The ACL it gets.
        acl: String,
    },
    /// CreateVpcEndpoint of form Gateway
    CreateGatewayEndpoint {
        /// The VPC.
        vpc: String,
        /// The service's full name.
        service: String,
        /// The route table.
        table: String,
        /// Its policy.
        policy: serde_json::Value,
    },
    /// CreateVpcEndpoint of form Interface, with private names
    CreateInterfaceEndpoint {
        /// The VPC.
        vpc: String,
        /// The service's full name.
        service: String,
        /// The subnet.
        subnet: String,
        /// The security group.
        group: String,
        /// Its policy.
        policy: serde_json::Value,
    },
    /// AssociateFirewallRuleGroup
    AssociateFirewall {
        /// The VPC.
        vpc: String,
        /// The rule group.
        rules: String,
        /// The association's name.
        name: String,
    },
    /// CreateFlowLogs, of all traffic of a VPC
    CreateFlowLogs {
        /// The VPC.
        vpc: String,
        /// ARN of a bucket (and prefix), or of a log group.
        destination: String,
        /// ARN of the role that writes into a log group.
        role: Option<String>,
    },
    /// kms:CreateGrant: Decrypt, under one encryption context
    CreateGrant {
        /// The key's ARN.
        key: String,
        /// ARN of the role that may decrypt.
        grantee: String,
        /// The encryption context it is bound to.
        context: BTreeMap<String, String>,
        /// Its name, by which it is found again.
        name: String,
    },
    /// kms:RevokeGrant
    RevokeGrant {
        /// The key's ARN.
        key: String,
        /// The grant's id.
        grant: String,
    },
    /// RunInstances
    RunInstances(Box<LaunchSpec>),
    /// Whatever removes a thing of its kind.
    Remove(OwnedResource),
}

/// A thing that carries a run's own tags: nothing else can be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnedResource {
    kind: ResourceKind,
    id: String,
}

impl OwnedResource {
    /// Takes hold of a thing if it carries every one of the tags, with their very values, and there
    /// are any.
    #[must_use]
    pub fn of(thing: &CloudResource, tags: &ResourceTags) -> Option<Self> {
        thing.carries(tags).then(|| Self { kind: thing.kind, id: thing.id.clone() })
    }
    /// A stand-in that names nothing, for asking whether removing would be allowed, and for showing
    /// what would be done.
    #[must_use]
    pub fn nothing(kind: ResourceKind) -> Self {
        Self { kind, id: placeholder(kind).to_owned() }
    }
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        self.kind
    }
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// An id of a kind that nothing has.
#[must_use]
pub fn placeholder(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Vpc => "vpc-00000000000000000",
        ResourceKind::Subnet => "subnet-00000000000000000",
        ResourceKind::RouteTable => "rtb-00000000000000000",
        ResourceKind::NetworkAcl => "acl-00000000000000000",
        ResourceKind::SecurityGroup => "sg-00000000000000000",
        ResourceKind::Endpoint => "vpce-00000000000000000",
        ResourceKind::FirewallAssociation => "rslvr-frgassoc-00000000000000000",
        ResourceKind::FlowLog => "fl-00000000000000000",
        ResourceKind::Instance => "i-00000000000000000",
        ResourceKind::Volume => "vol-00000000000000000",
        ResourceKind::Interface => "eni-00000000000000000",
        ResourceKind::InternetGateway => "igw-00000000000000000",
        ResourceKind::EgressOnlyGateway => "eigw-00000000000000000",
        ResourceKind::NatGateway => "nat-00000000000000000",
        ResourceKind::VpnGateway => "vgw-00000000000000000",
        ResourceKind::CarrierGateway => "cagw-00000000000000000",
        ResourceKind::Peering => "pcx-00000000000000000",
        ResourceKind::TransitAttachment => "tgw-attach-00000000000000000",
        ResourceKind::ConnectEndpoint => "eice-00000000000000000",
    }
}

impl ApiCall {
    /// The action's name with its service, as policies and CloudTrail have it.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::CreateVpc { .. } => "ec2:CreateVpc",
            Self::EnableDns { .. } => "ec2:ModifyVpcAttribute",
            Self::CreateRouteTable { .. } => "ec2:CreateRouteTable",
            Self::CreateNetworkAcl { .. } => "ec2:CreateNetworkAcl",
            Self::AddAclEntry { .. } => "ec2:CreateNetworkAclEntry",
            Self::CreateSecurityGroup { .. } => "ec2:CreateSecurityGroup",
            Self::AddRules { egress: true, .. } => "ec2:AuthorizeSecurityGroupEgress",
            Self::AddRules { egress: false, .. } => "ec2:AuthorizeSecurityGroupIngress",
            Self::DropRules { egress: true, .. } => "ec2:RevokeSecurityGroupEgress",
            Self::DropRules { egress: false, .. } => "ec2:RevokeSecurityGroupIngress",
            Self::CreateSubnet { .. } => "ec2:CreateSubnet",
            Self::AssociateRouteTable { .. } => "ec2:AssociateRouteTable",
            Self::ReplaceAclAssociation { .. } => "ec2:ReplaceNetworkAclAssociation",
            Self::CreateGatewayEndpoint { .. } | Self::CreateInterfaceEndpoint { .. } => {
                "ec2:CreateVpcEndpoint"
            }
            Self::AssociateFirewall { .. } => "route53resolver:AssociateFirewallRuleGroup",
            Self::CreateFlowLogs { .. } => "ec2:CreateFlowLogs",
            Self::CreateGrant { .. } => "kms:CreateGrant",
            Self::RevokeGrant { .. } => "kms:RevokeGrant",
            Self::RunInstances(_) => "ec2:RunInstances",
            Self::Remove(owned) => match owned.kind {
                ResourceKind::Vpc => "ec2:DeleteVpc",
                ResourceKind::Subnet => "ec2:DeleteSubnet",
                ResourceKind::RouteTable => "ec2:DeleteRouteTable",
                ResourceKind::NetworkAcl => "ec2:DeleteNetworkAcl",
                ResourceKind::SecurityGroup => "ec2:DeleteSecurityGroup",
                ResourceKind::Endpoint => "ec2:DeleteVpcEndpoints",
                ResourceKind::FirewallAssociation => {
                    "route53resolver:DisassociateFirewallRuleGroup"
                }
                ResourceKind::FlowLog => "ec2:DeleteFlowLogs",
                ResourceKind::Instance => "ec2:TerminateInstances",
                ResourceKind::Volume => "ec2:DeleteVolume",
                ResourceKind::Interface => "ec2:DeleteNetworkInterface",
                // Ways out are never ours: there is no call that removes one.
                _ => "",
            },
        }
    }

    /// Further permissions that the action takes.
    #[must_use]
    pub fn permissions(&self) -> &'static [&'static str] {
        match self {
            Self::CreateVpc { .. }
            | Self::CreateRouteTable { .. }
            | Self::CreateNetworkAcl { .. }
            | Self::CreateSecurityGroup { .. }
            | Self::CreateSubnet { .. }
            | Self::CreateGatewayEndpoint { .. } => &["ec2:CreateTags"],
            Self::CreateInterfaceEndpoint { .. } => {
                &["ec2:CreateTags", "route53:AssociateVPCWithHostedZone"]
            }
            Self::CreateFlowLogs { role: None, .. } => {
                &["ec2:CreateTags", "logs:CreateLogDelivery", "logs:DeleteLogDelivery"]
            }
            Self::CreateFlowLogs { role: Some(_), .. } => &["ec2:CreateTags", "iam:PassRole"],
            Self::AssociateFirewall { .. } => &["ec2:DescribeVpcs", "route53resolver:TagResource"],
            Self::RunInstances(_) => &[
                "ec2:CreateTags",
                "iam:PassRole",
                "kms:CreateGrant",
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncrypt*",
            ],
            _ => &[],
        }
    }

    /// Whether the service can be asked if it would be allowed. Attributes of a VPC and the DNS
    /// firewall have no such question, and a grant must be there to be asked about.
    #[must_use]
    pub fn can_be_tried_out(&self) -> bool {
        !matches!(
            self,
            Self::EnableDns { .. } | Self::AssociateFirewall { .. } | Self::RevokeGrant { .. }
        ) && !matches!(self, Self::Remove(owned) if owned.kind == ResourceKind::FirewallAssociation)
    }

    /// What it is about, in a few words.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::CreateVpc { cidr, tenancy } => format!("{cidr}, tenancy {tenancy}"),
            Self::EnableDns { .. } => "enableDnsSupport, enableDnsHostnames".to_owned(),
            Self::CreateRouteTable { .. } => "no route but local and S3".to_owned(),
            Self::CreateNetworkAcl { .. } => "denies production first".to_owned(),
            Self::AddAclEntry { entry, .. } => {
                let way = if entry.egress { "to" } else { "from" };
                let ports = entry
                    .ports
                    .map(|(first, last)| format!(" ports {first}-{last}"))
                    .unwrap_or_default();
                format!(
                    "{} {} {way} {}{ports}",
                    entry.number,
                    if entry.allow { "allow" } else { "deny" },
                    entry.cidr
                )
            }
            Self::CreateSecurityGroup { name, .. } => name.clone(),
            Self::AddRules { rules, .. } | Self::DropRules { rules, .. } => {
                let one = |rule: &GroupRule| match &rule.peer {
                    RulePeer::Cidr(text) | RulePeer::PrefixList(text) | RulePeer::Group(text) => {
                        let ports = rule
                            .ports
                            .map(|(first, last)| format!(" {first}-{last}"))
                            .unwrap_or_default();
                        format!(
                            "{}{ports} {text}",
                            if rule.protocol == "-1" { "all" } else { &rule.protocol }
                        )
                    }
                };
                rules.iter().map(one).collect::<Vec<_>>().join(", ")
            }
            Self::CreateSubnet { cidr, zone, .. } => format!("{cidr} in {zone}"),
            Self::AssociateRouteTable { .. } => "subnet uses the route table".to_owned(),
            Self::ReplaceAclAssociation { .. } => "subnet uses the network ACL".to_owned(),
            Self::CreateGatewayEndpoint { service, .. }
            | Self::CreateInterfaceEndpoint { service, .. } => service.clone(),
            Self::AssociateFirewall { rules, .. } => rules.clone(),
            Self::CreateFlowLogs { destination, .. } => format!("all traffic to {destination}"),
            Self::CreateGrant { key, grantee, context, .. } => {
                let context = context
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect::<Vec<_>>()
                    .join(", ");
                format!("{key}: Decrypt under {context} for {grantee}")
            }
            Self::RevokeGrant { key, .. } => format!("the grant on {key}"),
            Self::RunInstances(launch) => {
                format!(
                    "{} from {}, tenancy {}, {} volumes",
                    launch.instance_type,
                    launch.image,
                    launch.tenancy,
                    launch.volumes.len()
                )
            }
            Self::Remove(owned) => owned.id.clone(),
        }
    }
}

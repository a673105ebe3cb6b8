//! Resources in a VPC or beside it, as far as isolation and teardown depend on them.

use serde::{Deserialize, Serialize};

use super::cloud::ResourceTags;

/// Kinds of things in a VPC, or beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceKind {
    /// The VPC itself.
    Vpc,
    /// A subnet.
    Subnet,
    /// A route table.
    RouteTable,
    /// A network ACL.
    NetworkAcl,
    /// A security group.
    SecurityGroup,
    /// A VPC endpoint, gateway or interface.
    Endpoint,
    /// The association of a DNS firewall rule group with the VPC.
    FirewallAssociation,
    /// A flow log.
    FlowLog,
    /// An instance.
    Instance,
    /// A volume.
    Volume,
    /// A network interface.
    Interface,
    /// An internet gateway.
    InternetGateway,
    /// An egress-only internet gateway.
    EgressOnlyGateway,
    /// A NAT gateway.
    NatGateway,
    /// A virtual private gateway.
    VpnGateway,
    /// A carrier gateway.
    CarrierGateway,
    /// A peering connection, whichever side asked for it.
    Peering,
    /// An attachment of a transit gateway.
    TransitAttachment,
    /// An instance connect endpoint.
    ConnectEndpoint,
}

impl ResourceKind {
    /// Kinds that lifeboat makes, in the order in which they can be removed.
    pub const OURS: [Self; 11] = [
        Self::Instance,
        Self::Volume,
        Self::FlowLog,
        Self::FirewallAssociation,
        Self::Endpoint,
        Self::Interface,
        Self::Subnet,
        Self::SecurityGroup,
        Self::NetworkAcl,
        Self::RouteTable,
        Self::Vpc,
    ];
    /// Kinds of ways out, none of which a scratch VPC may have.
    pub const WAYS_OUT: [Self; 8] = [
        Self::InternetGateway,
        Self::EgressOnlyGateway,
        Self::NatGateway,
        Self::VpnGateway,
        Self::CarrierGateway,
        Self::Peering,
        Self::TransitAttachment,
        Self::ConnectEndpoint,
    ];
    /// The action that looks for it.
    #[must_use]
    pub fn look_action(self) -> &'static str {
        match self {
            Self::Vpc => "ec2:DescribeVpcs",
            Self::Subnet => "ec2:DescribeSubnets",
            Self::RouteTable => "ec2:DescribeRouteTables",
            Self::NetworkAcl => "ec2:DescribeNetworkAcls",
            Self::SecurityGroup => "ec2:DescribeSecurityGroups",
            Self::Endpoint => "ec2:DescribeVpcEndpoints",
            Self::FirewallAssociation => "route53resolver:ListFirewallRuleGroupAssociations",
            Self::FlowLog => "ec2:DescribeFlowLogs",
            Self::Instance => "ec2:DescribeInstances",
            Self::Volume => "ec2:DescribeVolumes",
            Self::Interface => "ec2:DescribeNetworkInterfaces",
            Self::InternetGateway => "ec2:DescribeInternetGateways",
            Self::EgressOnlyGateway => "ec2:DescribeEgressOnlyInternetGateways",
            Self::NatGateway => "ec2:DescribeNatGateways",
            Self::VpnGateway => "ec2:DescribeVpnGateways",
            Self::CarrierGateway => "ec2:DescribeCarrierGateways",
            Self::Peering => "ec2:DescribeVpcPeeringConnections",
            Self::TransitAttachment => "ec2:DescribeTransitGatewayVpcAttachments",
            Self::ConnectEndpoint => "ec2:DescribeInstanceConnectEndpoints",
        }
    }
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vpc => "VPC",
            Self::Subnet => "subnet",
            Self::RouteTable => "route table",
            Self::NetworkAcl => "network ACL",
            Self::SecurityGroup => "security group",
            Self::Endpoint => "endpoint",
            Self::FirewallAssociation => "DNS firewall association",
            Self::FlowLog => "flow log",
            Self::Instance => "instance",
            Self::Volume => "volume",
            Self::Interface => "network interface",
            Self::InternetGateway => "internet gateway",
            Self::EgressOnlyGateway => "egress-only gateway",
            Self::NatGateway => "NAT gateway",
            Self::VpnGateway => "VPN gateway",
            Self::CarrierGateway => "carrier gateway",
            Self::Peering => "peering connection",
            Self::TransitAttachment => "transit gateway attachment",
            Self::ConnectEndpoint => "instance connect endpoint",
        }
    }
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceScope {
    /// What carries all of these tags.
    Tagged(ResourceTags),
    /// What is in, or attached to, a VPC. Volumes are in none.
    Vpc(String),
    /// This one.
    Id(String),
}

/// Something that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CloudResource {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its id.
    pub id: String,
    /// Its state in the service's own word; empty where there is none.
    pub state: String,
    /// Why it is in that state, if the service tells.
    pub reason: Option<String>,
    /// Its tags.
    pub tags: ResourceTags,
    /// What it is.
    pub facts: ResourceFacts,
}

impl CloudResource {
    /// Whether it carries all of some tags, with their very values. Without any nothing is meant.
    #[must_use]
    pub fn carries(&self, tags: &ResourceTags) -> bool {
        !tags.is_empty() && tags.iter().all(|(key, value)| self.tags.get(key) == Some(value))
    }

    /// Whether it counts as gone, though the service still tells of it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self.kind {
            ResourceKind::Instance => self.state == "terminated",
            ResourceKind::Endpoint => self.state.eq_ignore_ascii_case("deleted"),
            ResourceKind::Volume => self.state == "deleted",
            _ => false,
        }
    }
}

/// A route of a route table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct VpcRoute {
    /// CIDR or prefix list.
    pub to: String,
    /// Gateway, endpoint, interface, `local`.
    pub via: String,
}

/// An entry of a network ACL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AclEntry {
    /// Direction: of what leaves.
    pub egress: bool,
    /// Number; lower ones decide first. 32767 is the service's own last word.
    pub number: i32,
    /// Allowed or denied.
    pub allow: bool,
    /// Protocol number; `-1` for all.
    pub protocol: String,
    /// The CIDR it speaks of.
    pub cidr: String,
    /// First and last port; none for all.
    pub ports: Option<(i32, i32)>,
}

/// The other side of a security group's rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RulePeer {
    /// Addresses.
    Cidr(String),
    /// A prefix list.
    PrefixList(String),
    /// Another group.
    Group(String),
}

/// A rule of a security group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct GroupRule {
    /// Protocol: `tcp`, or `-1` for all.
    pub protocol: String,
    /// First and last port; none for all.
    pub ports: Option<(i32, i32)>,
    /// The other side.
    pub peer: RulePeer,
}

/// What a thing is, as far as isolation and teardown depend on it. Lists are sorted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceFacts {
    /// See [`ResourceKind::Vpc`].
    Vpc {
        /// IPv4 CIDRs.
        cidrs: Vec<String>,
        /// IPv6 CIDRs.
        ipv6: Vec<String>,
        /// `default` or `dedicated`.
        tenancy: String,
        /// Whether it is the account's default VPC.
        is_default: bool,
    },
    /// See [`ResourceKind::Subnet`].
    Subnet {
        /// The VPC.
        vpc: String,
        /// IPv4 CIDR.
        cidr: String,
        /// The availability zone.
        zone: String,
        /// IPv6 CIDRs.
        ipv6: Vec<String>,
        /// Whether instances get public addresses.
        public_ips: bool,
    },
    /// See [`ResourceKind::RouteTable`].
    RouteTable {
        /// The VPC.
        vpc: String,
        /// Routes.
        routes: Vec<VpcRoute>,
        /// Associated subnets.
        subnets: Vec<String>,
        /// Whether subnets without a table use it.
        is_main: bool,
    },
    /// See [`ResourceKind::NetworkAcl`].
    NetworkAcl {
        /// The VPC.
        vpc: String,
        /// Entries.
        entries: Vec<AclEntry>,
        /// Association and subnet.
        subnets: Vec<(String, String)>,
        /// Whether it came with the VPC.
        is_default: bool,
    },
    /// See [`ResourceKind::SecurityGroup`].
    SecurityGroup {
        /// The VPC.
        vpc: String,
        /// Name; `default` for the one that came with the VPC.
        name: String,
        /// What may come in.
        ingress: Vec<GroupRule>,
        /// What may go out.
        egress: Vec<GroupRule>,
    },
    /// See [`ResourceKind::Endpoint`].
    Endpoint {
        /// The VPC.
        vpc: String,
        /// The service's full name.
        service: String,
        /// `Gateway` or `Interface`.
        form: String,
        /// Its policy, parsed.
        policy: serde_json::Value,
        /// Route tables of a gateway.
        tables: Vec<String>,
        /// Subnets of an interface.
        subnets: Vec<String>,
        /// Security groups of an interface.
        groups: Vec<String>,
        /// Whether the service's own name leads to it.
        private_dns: bool,
    },
    /// See [`ResourceKind::FirewallAssociation`].
    FirewallAssociation {
        /// The VPC.
        vpc: String,
        /// The rule group.
        rules: String,
        /// Priority.
        priority: i32,
    },
    /// See [`ResourceKind::FlowLog`].
    FlowLog {
        /// What is logged: the VPC.
        resource: String,
        /// Where to.
        destination: String,
        /// `ALL`, `ACCEPT` or `REJECT`.
        traffic: String,
    },
    /// See [`ResourceKind::Instance`].
    Instance(Box<InstanceFacts>),
    /// See [`ResourceKind::Volume`].
    Volume {
        /// Whether it is encrypted.
        encrypted: bool,
        /// The key.
        key: Option<String>,
        /// The zone.
        zone: String,
        /// The instance it is attached to.
        instance: Option<String>,
    },
    /// See [`ResourceKind::Interface`].
    Interface {
        /// The VPC.
        vpc: String,
        /// The subnet.
        subnet: String,
        /// Groups.
        groups: Vec<String>,
        /// What the service says it is for.
        description: String,
    },
    /// A way out.
    WayOut,
}

/// What an instance is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InstanceFacts {
    /// The VPC.
    pub vpc: String,
    /// The subnet.
    pub subnet: String,
    /// The zone.
    pub zone: String,
    /// Its type.
    pub instance_type: String,
    /// The image it booted.
    pub image: String,
    /// `default`, `dedicated` or `host`.
    pub tenancy: String,
    /// `required` or `optional`.
    pub http_tokens: String,
    /// Hops that an answer of the metadata service may go.
    pub hop_limit: i32,
    /// A public address, which it must not have.
    pub public_ip: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Device, volume, and whether it goes with the instance.
    pub volumes: Vec<(String, String, bool)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tags_must_be_there_and_no_tags_mean_nothing() {
        let tags = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<ResourceTags>()
        };
        let mine = CloudResource {
            kind: ResourceKind::Vpc,
            id: String::new(),
            state: String::new(),
            reason: None,
            tags: tags(&[("run", "1"), ("vault", "v"), ("Name", "n")]),
            facts: ResourceFacts::WayOut,
        };
        assert!(mine.carries(&tags(&[("run", "1"), ("vault", "v")])));
        assert!(!mine.carries(&tags(&[("run", "2"), ("vault", "v")])));
        assert!(!mine.carries(&tags(&[])));
    }
}

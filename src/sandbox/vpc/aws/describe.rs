//! Read-only calls: the resources of each kind, and the parts of a network.

use aws_sdk_ec2::types::{
    self, Filter, RouteState, RuleAction, State, SubnetCidrBlockState, SubnetCidrBlockStateCode,
    VpcCidrBlockState, VpcCidrBlockStateCode,
};

use super::api_calls::rules_of;
use super::{
    AwsCloud, PAGE_ITEMS, explain, filter, literal, nonsense, pages, refused, sorted, tag_map, text,
};
use crate::aws::AwsError;
use crate::aws::ec2::tag_filters;
use crate::sandbox::vpc::cloud::{
    AclEntry, CloudError, CloudResource, ResourceFacts, ResourceKind, ResourceScope, ResourceTags,
    VpcRoute,
};

impl AwsCloud {
    pub(super) async fn things(
        &self,
        kind: ResourceKind,
        at: &ResourceScope,
    ) -> Result<Vec<CloudResource>, CloudError> {
        let what = format!("listing {}s {}", kind.name(), place(at));
        let what = what.as_str();
        let filters = filters(what, kind, at)?;
        let filters = filters.as_slice();
        let mut found = match kind {
            // A volume is in a zone, not in a network.
            ResourceKind::Volume if matches!(at, ResourceScope::Vpc(_)) => Vec::new(),
            ResourceKind::Vpc => made(
                what,
                &listed!(self.ec2, what, describe_vpcs.set_filters(filters) -> vpcs)?,
                vpc,
            )?,
            ResourceKind::Subnet => made(
                what,
                &listed!(self.ec2, what, describe_subnets.set_filters(filters) -> subnets)?,
                subnet,
            )?,
            ResourceKind::RouteTable => made(
                what,
                &listed!(self.ec2, what, describe_route_tables.set_filters(filters) -> route_tables)?,
                table,
            )?,
            ResourceKind::NetworkAcl => made(
                what,
                &listed!(self.ec2, what, describe_network_acls.set_filters(filters) -> network_acls)?,
                acl,
            )?,
            ResourceKind::SecurityGroup => made(
                what,
                &listed!(self.ec2, what, describe_security_groups.set_filters(filters) -> security_groups)?,
                group,
            )?,
            ResourceKind::Endpoint => {
                let mut raw = listed!(self.ec2, what, describe_vpc_endpoints.set_filters(filters) -> vpc_endpoints)?;
                // The service writes its states in small letters, and its description in large
                // ones.
                raw.retain(|raw| {
                    raw.state().is_none_or(|state| {
                        !state.as_str().eq_ignore_ascii_case(State::Deleted.as_str())
                    })
                });
                made(what, &raw, endpoint)?
            }
            ResourceKind::FlowLog => made(
                what,
                &listed!(self.ec2, what, describe_flow_logs.set_filter(filters) -> flow_logs)?,
                flow_log,
            )?,
            ResourceKind::FirewallAssociation => self.firewall_associations(what, at).await?,
            ResourceKind::Instance => self.instances(what, filters).await?,
            ResourceKind::Volume => self.volumes(what, filters).await?,
            ResourceKind::Interface => self.interfaces(what, filters).await?,
            ResourceKind::InternetGateway => self.internet_gateways(what, filters, at).await?,
            ResourceKind::EgressOnlyGateway => self.egress_only_gateways(what, filters, at).await?,
            ResourceKind::NatGateway => self.nat_gateways(what, filters).await?,
            ResourceKind::VpnGateway => self.vpn_gateways(what, filters, at).await?,
            ResourceKind::CarrierGateway => self.carrier_gateways(what, filters).await?,
            ResourceKind::Peering => self.peerings(what, filters, at).await?,
            ResourceKind::TransitAttachment => self.transit_attachments(what, filters).await?,
            ResourceKind::ConnectEndpoint => self.connect_endpoints(what, filters).await?,
        };
        found.retain(|thing| is_meant(thing, at));
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found.dedup_by(|a, b| a.id == b.id);
        Ok(found)
    }
}

/// Things of what was listed.
pub(super) fn made<T>(
    what: &str,
    raw: &[T],
    thing: fn(&str, &T) -> Result<CloudResource, CloudError>,
) -> Result<Vec<CloudResource>, CloudError> {
    raw.iter().map(|raw| thing(what, raw)).collect()
}

pub(super) fn thing(
    what: &str,
    kind: ResourceKind,
    id: Option<&str>,
    state: &str,
    tags: ResourceTags,
    facts: ResourceFacts,
) -> Result<CloudResource, CloudError> {
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| nonsense(what, format!("a {} has no id", kind.name())))?;
    Ok(CloudResource {
        kind,
        id: id.to_owned(),
        state: state.to_owned(),
        reason: None,
        tags,
        facts,
    })
}

fn place(at: &ResourceScope) -> String {
    match at {
        ResourceScope::Tagged(_) => "by tags".to_owned(),
        ResourceScope::Vpc(vpc) => format!("of {vpc}"),
        ResourceScope::Id(id) => format!("by id, {id}"),
    }
}

/// Names of the filters by VPC and by id; empty where the service has none.
fn filter_names(kind: ResourceKind) -> (&'static str, &'static str) {
    match kind {
        ResourceKind::Vpc => ("vpc-id", "vpc-id"),
        ResourceKind::Subnet => ("vpc-id", "subnet-id"),
        ResourceKind::RouteTable => ("vpc-id", "route-table-id"),
        ResourceKind::NetworkAcl => ("vpc-id", "network-acl-id"),
        ResourceKind::SecurityGroup => ("vpc-id", "group-id"),
        ResourceKind::Endpoint => ("vpc-id", "vpc-endpoint-id"),
        ResourceKind::FlowLog => ("resource-id", "flow-log-id"),
        ResourceKind::Instance => ("vpc-id", "instance-id"),
        ResourceKind::Volume => ("", "volume-id"),
        ResourceKind::Interface => ("vpc-id", "network-interface-id"),
        ResourceKind::InternetGateway => ("attachment.vpc-id", "internet-gateway-id"),
        ResourceKind::NatGateway => ("vpc-id", "nat-gateway-id"),
        ResourceKind::VpnGateway => ("attachment.vpc-id", "vpn-gateway-id"),
        ResourceKind::CarrierGateway => ("vpc-id", "carrier-gateway-id"),
        // The two filters by VPC are its own matter.
        ResourceKind::Peering => ("", "vpc-peering-connection-id"),
        ResourceKind::TransitAttachment => ("vpc-id", "transit-gateway-attachment-id"),
        ResourceKind::ConnectEndpoint => ("vpc-id", "instance-connect-endpoint-id"),
        ResourceKind::EgressOnlyGateway | ResourceKind::FirewallAssociation => ("", ""),
    }
}

fn filters(what: &str, kind: ResourceKind, at: &ResourceScope) -> Result<Vec<Filter>, CloudError> {
    let (by_vpc, by_id) = filter_names(kind);
    let (name, value) = match at {
        // Without any they would find everything, which nobody means.
        ResourceScope::Tagged(tags) if tags.is_empty() => {
            return Err(refused(what, "no tags are named"));
        }
        // It has no filter by tags.
        ResourceScope::Tagged(_) if kind == ResourceKind::TransitAttachment => {
            return Ok(Vec::new());
        }
        ResourceScope::Tagged(tags) => return Ok(tag_filters(tags)),
        ResourceScope::Vpc(vpc) => (by_vpc, vpc),
        ResourceScope::Id(id) => (by_id, id),
    };
    if name.is_empty() { Ok(Vec::new()) } else { Ok(vec![filter(name, vec![literal(value)])]) }
}

/// Whether something is what was looked for. Of a VPC the filters alone know.
fn is_meant(thing: &CloudResource, at: &ResourceScope) -> bool {
    match at {
        ResourceScope::Tagged(tags) => thing.carries(tags),
        ResourceScope::Vpc(_) => true,
        ResourceScope::Id(id) => thing.id == *id,
    }
}

/// Whether a VPC has a CIDR. One on its way in or out is had: what is looked for is isolation.
fn vpc_has(state: Option<&VpcCidrBlockState>) -> bool {
    !matches!(
        state.and_then(|state| state.state()),
        Some(VpcCidrBlockStateCode::Disassociated | VpcCidrBlockStateCode::Failed)
    )
}

/// The same for a subnet.
fn subnet_has(state: Option<&SubnetCidrBlockState>) -> bool {
    !matches!(
        state.and_then(|state| state.state()),
        Some(SubnetCidrBlockStateCode::Disassociated | SubnetCidrBlockStateCode::Failed)
    )
}

fn vpc(what: &str, raw: &types::Vpc) -> Result<CloudResource, CloudError> {
    let v4 =
        raw.cidr_block_association_set().iter().filter(|held| vpc_has(held.cidr_block_state()));
    let v6 = raw
        .ipv6_cidr_block_association_set()
        .iter()
        .filter(|held| vpc_has(held.ipv6_cidr_block_state()));
    let facts = ResourceFacts::Vpc {
        cidrs: sorted(v4.map(|held| text(held.cidr_block()))),
        ipv6: sorted(v6.map(|held| text(held.ipv6_cidr_block()))),
        tenancy: raw
            .instance_tenancy()
            .map(|tenancy| tenancy.as_str().to_owned())
            .unwrap_or_default(),
        is_default: raw.is_default().unwrap_or_default(),
    };
    let state = raw.state().map(|state| state.as_str()).unwrap_or_default();
    thing(what, ResourceKind::Vpc, raw.vpc_id(), state, tag_map(raw.tags()), facts)
}

fn subnet(what: &str, raw: &types::Subnet) -> Result<CloudResource, CloudError> {
    let v6 = raw
        .ipv6_cidr_block_association_set()
        .iter()
        .filter(|held| subnet_has(held.ipv6_cidr_block_state()));
    let facts = ResourceFacts::Subnet {
        vpc: text(raw.vpc_id()),
        cidr: text(raw.cidr_block()),
        zone: text(raw.availability_zone()),
        ipv6: sorted(v6.map(|held| text(held.ipv6_cidr_block()))),
        public_ips: raw.map_public_ip_on_launch().unwrap_or_default(),
    };
    let state = raw.state().map(|state| state.as_str()).unwrap_or_default();
    thing(what, ResourceKind::Subnet, raw.subnet_id(), state, tag_map(raw.tags()), facts)
}

fn table(what: &str, raw: &types::RouteTable) -> Result<CloudResource, CloudError> {
    let facts = ResourceFacts::RouteTable {
        vpc: text(raw.vpc_id()),
        routes: sorted(raw.routes().iter().map(route)),
        subnets: sorted(
            raw.associations()
                .iter()
                .filter_map(|association| association.subnet_id().map(ToOwned::to_owned)),
        ),
        is_main: raw.associations().iter().any(|association| association.main() == Some(true)),
    };
    thing(what, ResourceKind::RouteTable, raw.route_table_id(), "", tag_map(raw.tags()), facts)
}

fn route(raw: &types::Route) -> VpcRoute {
    let to = raw
        .destination_cidr_block()
        .or(raw.destination_ipv6_cidr_block())
        .or(raw.destination_prefix_list_id());
    let via = raw
        .gateway_id()
        .or(raw.nat_gateway_id())
        .or(raw.transit_gateway_id())
        .or(raw.vpc_peering_connection_id())
        .or(raw.egress_only_internet_gateway_id())
        .or(raw.carrier_gateway_id())
        .or(raw.local_gateway_id())
        .or(raw.network_interface_id())
        .or(raw.instance_id())
        .or(raw.core_network_arn())
        .or(raw.odb_network_arn())
        .or(raw.ip_address());
    let mark = if raw.state() == Some(&RouteState::Blackhole) { " (blackhole)" } else { "" };
    VpcRoute { to: text(to), via: format!("{}{mark}", via.unwrap_or("unknown")) }
}

fn acl(what: &str, raw: &types::NetworkAcl) -> Result<CloudResource, CloudError> {
    let association = |held: &types::NetworkAclAssociation| {
        Some((held.network_acl_association_id()?.to_owned(), held.subnet_id()?.to_owned()))
    };
    let mut entries = Vec::new();
    for entry in raw.entries() {
        entries.push(
            acl_entry(entry).ok_or_else(|| nonsense(what, "an entry does not say what it does"))?,
        );
    }
    let facts = ResourceFacts::NetworkAcl {
        vpc: text(raw.vpc_id()),
        entries: sorted(entries),
        subnets: sorted(raw.associations().iter().filter_map(association)),
        is_default: raw.is_default().unwrap_or_default(),
    };
    thing(what, ResourceKind::NetworkAcl, raw.network_acl_id(), "", tag_map(raw.tags()), facts)
}

fn acl_entry(raw: &types::NetworkAclEntry) -> Option<AclEntry> {
    Some(AclEntry {
        egress: raw.egress()?,
        number: raw.rule_number()?,
        allow: raw.rule_action()? == &RuleAction::Allow,
        protocol: text(raw.protocol()),
        cidr: text(raw.cidr_block().or(raw.ipv6_cidr_block())),
        ports: raw.port_range().and_then(|range| range.from().zip(range.to())),
    })
}

fn group(what: &str, raw: &types::SecurityGroup) -> Result<CloudResource, CloudError> {
    let facts = ResourceFacts::SecurityGroup {
        vpc: text(raw.vpc_id()),
        name: text(raw.group_name()),
        ingress: sorted(raw.ip_permissions().iter().flat_map(rules_of)),
        egress: sorted(raw.ip_permissions_egress().iter().flat_map(rules_of)),
    };
    thing(what, ResourceKind::SecurityGroup, raw.group_id(), "", tag_map(raw.tags()), facts)
}

fn endpoint(what: &str, raw: &types::VpcEndpoint) -> Result<CloudResource, CloudError> {
    let policy = match raw.policy_document() {
        Some(policy) => serde_json::from_str(policy)
            .map_err(|error| nonsense(what, format!("a policy is not JSON: {error}")))?,
        None => serde_json::Value::Null,
    };
    let facts = ResourceFacts::Endpoint {
        vpc: text(raw.vpc_id()),
        service: text(raw.service_name()),
        form: raw.vpc_endpoint_type().map(|form| form.as_str().to_owned()).unwrap_or_default(),
        policy,
        tables: sorted(raw.route_table_ids().iter().cloned()),
        subnets: sorted(raw.subnet_ids().iter().cloned()),
        groups: sorted(raw.groups().iter().map(|group| text(group.group_id()))),
        private_dns: raw.private_dns_enabled().unwrap_or_default(),
    };
    let state = raw.state().map(|state| state.as_str()).unwrap_or_default();
    let mut found = thing(
        what,
        ResourceKind::Endpoint,
        raw.vpc_endpoint_id(),
        state,
        tag_map(raw.tags()),
        facts,
    )?;
    found.reason = raw
        .last_error()
        .and_then(|error| error.message())
        .or(raw.failure_reason())
        .map(ToOwned::to_owned);
    Ok(found)
}

fn flow_log(what: &str, raw: &types::FlowLog) -> Result<CloudResource, CloudError> {
    let facts = ResourceFacts::FlowLog {
        resource: text(raw.resource_id()),
        // A log group may be told by its name alone.
        destination: text(raw.log_destination().or(raw.log_group_name())),
        traffic: raw.traffic_type().map(|traffic| traffic.as_str().to_owned()).unwrap_or_default(),
    };
    let state = raw.flow_log_status().unwrap_or_default();
    let mut found =
        thing(what, ResourceKind::FlowLog, raw.flow_log_id(), state, tag_map(raw.tags()), facts)?;
    found.reason = raw.deliver_logs_error_message().map(ToOwned::to_owned);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{
        NetworkAclEntry, PortRange, VpcCidrBlockAssociation, VpcEndpointType,
    };

    use super::*;

    #[test]
    fn a_look_without_tags_is_refused_and_values_mean_themselves() {
        assert!(
            filters("it", ResourceKind::Vpc, &ResourceScope::Tagged(ResourceTags::new())).is_err()
        );
        let found = filters("it", ResourceKind::Subnet, &ResourceScope::Id("subnet-*".to_owned()));
        assert_eq!(found, Ok(vec![filter("subnet-id", vec![r"subnet-\*".to_owned()])]));
        assert_eq!(
            filters("it", ResourceKind::EgressOnlyGateway, &ResourceScope::Vpc("vpc-1".to_owned())),
            Ok(Vec::new())
        );
        let tags = ResourceTags::from([("lifeboat:run".to_owned(), "r?1".to_owned())]);
        assert_eq!(
            filters("it", ResourceKind::Vpc, &ResourceScope::Tagged(tags.clone())),
            Ok(vec![filter("tag:lifeboat:run", vec![r"r\?1".to_owned()])])
        );
        assert_eq!(
            filters("it", ResourceKind::TransitAttachment, &ResourceScope::Tagged(tags)),
            Ok(Vec::new())
        );
    }

    #[test]
    fn routes_say_where_they_lead_and_whether_they_do() {
        let local = types::Route::builder()
            .destination_cidr_block("10.0.0.0/16")
            .gateway_id("local")
            .build();
        assert_eq!(
            route(&local),
            VpcRoute { to: "10.0.0.0/16".to_owned(), via: "local".to_owned() }
        );
        let lost = types::Route::builder()
            .destination_prefix_list_id("pl-1")
            .gateway_id("vpce-1")
            .state(RouteState::Blackhole)
            .build();
        assert_eq!(
            route(&lost),
            VpcRoute { to: "pl-1".to_owned(), via: "vpce-1 (blackhole)".to_owned() }
        );
        let unknown = types::Route::builder().destination_ipv6_cidr_block("::/0").build();
        assert_eq!(route(&unknown), VpcRoute { to: "::/0".to_owned(), via: "unknown".to_owned() });
    }

    #[test]
    fn an_entry_is_read_or_it_is_none() {
        let ports = PortRange::builder().from(443).to(443).build();
        let raw = NetworkAclEntry::builder()
            .egress(true)
            .rule_number(1000)
            .rule_action(RuleAction::Allow)
            .protocol("6");
        let read = acl_entry(&raw.clone().cidr_block("0.0.0.0/0").port_range(ports).build());
        let (protocol, cidr) = ("6".to_owned(), "0.0.0.0/0".to_owned());
        assert_eq!(
            read,
            Some(AclEntry {
                egress: true,
                number: 1000,
                allow: true,
                protocol,
                cidr,
                ports: Some((443, 443))
            })
        );
        assert_eq!(acl_entry(&NetworkAclEntry::builder().egress(true).build()), None);
        assert_eq!(
            acl_entry(&raw.ipv6_cidr_block("::/0").build()).map(|entry| entry.cidr).as_deref(),
            Some("::/0")
        );
    }

    #[test]
    fn a_cidr_counts_until_it_is_gone() {
        let held = |cidr: &str, state: VpcCidrBlockStateCode| {
            let state = VpcCidrBlockState::builder().state(state).build();
            VpcCidrBlockAssociation::builder().cidr_block(cidr).cidr_block_state(state).build()
        };
        let raw = types::Vpc::builder()
            .vpc_id("vpc-1")
            .cidr_block_association_set(held("10.2.0.0/16", VpcCidrBlockStateCode::Associating))
            .cidr_block_association_set(held("10.1.0.0/16", VpcCidrBlockStateCode::Associated))
            .cidr_block_association_set(held("10.0.0.0/16", VpcCidrBlockStateCode::Disassociated))
            .build();
        let cidrs = vec!["10.1.0.0/16".to_owned(), "10.2.0.0/16".to_owned()];
        let facts = ResourceFacts::Vpc {
            cidrs,
            ipv6: Vec::new(),
            tenancy: String::new(),
            is_default: false,
        };
        assert_eq!(vpc("it", &raw).map(|found| found.facts), Ok(facts));
    }

    #[test]
    fn a_policy_that_is_no_json_makes_no_sense() {
        let raw = types::VpcEndpoint::builder()
            .vpc_endpoint_id("vpce-1")
            .vpc_endpoint_type(VpcEndpointType::Gateway);
        assert!(
            endpoint("it", &raw.clone().policy_document(r#"{"Statement":[]}"#).build()).is_ok()
        );
        assert!(matches!(
            endpoint("it", &raw.policy_document("{").build()),
            Err(CloudError::Nonsense { .. })
        ));
    }
}

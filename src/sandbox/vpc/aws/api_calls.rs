//! Acts, as requests: those that make the network, and what holds for all.
//!
//! A request that is only to be tried out goes the same way with `DryRun` set; the answer then is
//! an error that says it would have worked.

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{
    AttributeBooleanValue, FlowLogsResourceType, IpAddressType, IpPermission, IpRange, Ipv6Range,
    LogDestinationType, PortRange, PrefixListId, ResourceType, RuleAction, TagSpecification,
    Tenancy, TrafficType, UnsuccessfulItem, UserIdGroupPair, VpcEndpointType,
};

use super::{
    AwsCloud, explain, is_busy, is_missing, lacks_capacity, once, refused, tagged_as, unknown,
};
use crate::aws::AwsError;
use crate::aws::ec2::may_have_happened;
use crate::sandbox::vpc::cloud::{
    AclEntry, ApiCall, CallOutcome, CloudError, GroupRule, ResourceTags, RulePeer,
};

/// Seconds over which a flow log sums up; the shortest there is, since drills are.
const FLOW_LOG_SECONDS: i32 = 60;
/// All ports, where a protocol has them and the service wants to be told.
const ALL_PORTS: (i32, i32) = (0, 65_535);

/// Why an act has no outcome.
pub(super) enum CallFailed {
    /// It was tried out only, and would have worked.
    WouldWork,
    /// It failed.
    Cloud(CloudError),
}

impl From<CloudError> for CallFailed {
    fn from(error: CloudError) -> Self {
        Self::Cloud(error)
    }
}

/// How an act is asked for.
pub(super) struct CallMode<'a> {
    pub(super) what: String,
    pub(super) tags: &'a ResourceTags,
    pub(super) token: &'a str,
    /// Whether it is only tried out. Nothing counts as done already then: what is named is not
    /// there.
    pub(super) dry: bool,
}

impl CallMode<'_> {
    pub(super) fn dry(&self) -> Option<bool> {
        self.dry.then_some(true)
    }

    pub(super) fn token(&self) -> Option<String> {
        (!self.token.is_empty()).then(|| self.token.to_owned())
    }

    pub(super) fn tagged(&self, kind: ResourceType) -> TagSpecification {
        tagged_as(kind, self.tags)
    }

    /// Why a request failed that may have changed something.
    pub(super) fn failed<E>(&self, error: &SdkError<E>) -> CallFailed
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let answer = AwsError::of(error);
        if self.dry {
            return match answer.code.as_str() {
                "DryRunOperation" | "DryRunOperationException" => CallFailed::WouldWork,
                _ => explain(&self.what, answer).into(),
            };
        }
        if may_have_happened(error, &answer) && !is_busy(&answer) && !lacks_capacity(&answer.code) {
            return unknown(&self.what, answer.message).into();
        }
        explain(&self.what, answer).into()
    }

    /// Something was made.
    pub(super) fn made<T, E>(
        &self,
        sent: Result<T, SdkError<E>>,
        id: impl FnOnce(T) -> Option<String>,
    ) -> Result<CallOutcome, CallFailed>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let reply = sent.map_err(|error| self.failed(&error))?;
        // Something is there without a name: whoever asked looks for the tags.
        let nameless = || unknown(&self.what, "the answer does not say what was made");
        let id = id(reply).filter(|id| !id.is_empty()).ok_or_else(nameless)?;
        Ok(CallOutcome { id, grant_token: None })
    }

    /// Something was done, or has been done `already` as a code says.
    pub(super) fn done<T, E>(
        &self,
        sent: Result<T, SdkError<E>>,
        already: fn(&str) -> bool,
    ) -> Result<CallOutcome, CallFailed>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match sent {
            Ok(_) => Ok(CallOutcome::default()),
            Err(error) if !self.dry && error.code().is_some_and(already) => {
                Ok(CallOutcome::default())
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Things were removed, or are gone already, by a request that can do so in part.
    pub(super) fn removed<T, E>(
        &self,
        sent: Result<T, SdkError<E>>,
        unsuccessful: impl FnOnce(T) -> Option<Vec<UnsuccessfulItem>>,
    ) -> Result<CallOutcome, CallFailed>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let reply = match sent {
            Ok(reply) => reply,
            Err(error) => return self.done(Err::<T, _>(error), is_missing),
        };
        for item in unsuccessful(reply).unwrap_or_default() {
            match self.item_failed(&item) {
                CloudError::Missing { .. } => {}
                error => return Err(error.into()),
            }
        }
        Ok(CallOutcome::default())
    }

    /// Why a request failed for one thing. Some services have a status for a code there.
    fn item_failed(&self, item: &UnsuccessfulItem) -> CloudError {
        let code = item.error().and_then(|error| error.code()).unwrap_or_default();
        let message = item.error().and_then(|error| error.message()).unwrap_or_default();
        let status =
            code.parse().ok().filter(|status: &u16| (400..600).contains(status)).unwrap_or(400);
        explain(
            &self.what,
            AwsError {
                status: Some(status),
                code: code.to_owned(),
                message: format!("{code}: {message}"),
                is_setup: false,
            },
        )
    }
}

impl AwsCloud {
    pub(super) async fn perform(
        &self,
        act: &ApiCall,
        call: &CallMode<'_>,
    ) -> Result<CallOutcome, CallFailed> {
        match act {
            ApiCall::CreateVpc { cidr, tenancy } => self.create_vpc(call, cidr, tenancy).await,
            ApiCall::EnableDns { vpc } => self.enable_dns(call, vpc).await,
            ApiCall::CreateRouteTable { vpc } => self.create_table(call, vpc).await,
            ApiCall::CreateNetworkAcl { vpc } => self.create_acl(call, vpc).await,
            ApiCall::AddAclEntry { acl, entry } => self.add_acl_entry(call, acl, entry).await,
            ApiCall::CreateSecurityGroup { vpc, name, description } => {
                self.create_group(call, vpc, name, description).await
            }
            ApiCall::AddRules { group, egress, rules } => {
                self.add_rules(call, group, *egress, rules).await
            }
            ApiCall::DropRules { group, egress, rules } => {
                self.drop_rules(call, group, *egress, rules).await
            }
            ApiCall::CreateSubnet { vpc, cidr, zone } => {
                self.create_subnet(call, vpc, cidr, zone).await
            }
            ApiCall::AssociateRouteTable { table, subnet } => {
                self.associate_table(call, table, subnet).await
            }
            ApiCall::ReplaceAclAssociation { association, acl } => {
                self.replace_acl(call, association, acl).await
            }
            ApiCall::CreateGatewayEndpoint { vpc, service, table, policy } => {
                self.create_gateway_endpoint(call, vpc, service, table, policy).await
            }
            ApiCall::CreateInterfaceEndpoint { vpc, service, subnet, group, policy } => {
                self.create_interface_endpoint(
                    call,
                    vpc,
                    service,
                    (subnet.as_str(), group.as_str()),
                    policy,
                )
                .await
            }
            ApiCall::AssociateFirewall { vpc, rules, name } => {
                self.associate_firewall(call, vpc, rules, name).await
            }
            ApiCall::CreateFlowLogs { vpc, destination, role } => {
                self.create_flow_log(call, vpc, destination, role.as_deref()).await
            }
            ApiCall::CreateGrant { key, grantee, context, name } => {
                self.create_grant(call, key, grantee, context, name).await
            }
            ApiCall::RevokeGrant { key, grant } => self.revoke_grant(call, key, grant).await,
            ApiCall::RunInstances(launch) => self.run_instance(call, launch).await,
            ApiCall::Remove(owned) => self.remove(call, owned).await,
        }
    }

    async fn create_vpc(
        &self,
        call: &CallMode<'_>,
        cidr: &str,
        tenancy: &str,
    ) -> Result<CallOutcome, CallFailed> {
        let request = self
            .ec2
            .create_vpc()
            .cidr_block(cidr)
            .instance_tenancy(Tenancy::from(tenancy))
            .set_dry_run(call.dry());
        let request = request.tag_specifications(call.tagged(ResourceType::Vpc));
        call.made(request.customize().config_override(once()).send().await, |reply| {
            reply.vpc?.vpc_id
        })
    }

    /// Each of the two needs a request of its own.
    async fn enable_dns(&self, call: &CallMode<'_>, vpc: &str) -> Result<CallOutcome, CallFailed> {
        let on = || AttributeBooleanValue::builder().value(true).build();
        let support = self.ec2.modify_vpc_attribute().vpc_id(vpc).enable_dns_support(on());
        call.done(support.send().await, |_| false)?;
        let names = self.ec2.modify_vpc_attribute().vpc_id(vpc).enable_dns_hostnames(on());
        call.done(names.send().await, |_| false)
    }

    async fn create_table(
        &self,
        call: &CallMode<'_>,
        vpc: &str,
    ) -> Result<CallOutcome, CallFailed> {
        let request = self
            .ec2
            .create_route_table()
            .vpc_id(vpc)
            .set_client_token(call.token())
            .set_dry_run(call.dry());
        let request = request.tag_specifications(call.tagged(ResourceType::RouteTable));
        call.made(request.send().await, |reply| reply.route_table?.route_table_id)
    }

    async fn create_acl(&self, call: &CallMode<'_>, vpc: &str) -> Result<CallOutcome, CallFailed> {
        let request = self
            .ec2
            .create_network_acl()
            .vpc_id(vpc)
            .set_client_token(call.token())
            .set_dry_run(call.dry());
        let request = request.tag_specifications(call.tagged(ResourceType::NetworkAcl));
        call.made(request.send().await, |reply| reply.network_acl?.network_acl_id)
    }

    async fn add_acl_entry(
        &self,
        call: &CallMode<'_>,
        acl: &str,
        entry: &AclEntry,
    ) -> Result<CallOutcome, CallFailed> {
        let (ipv4, ipv6) = families(&entry.cidr);
        let request = self
            .ec2
            .create_network_acl_entry()
            .network_acl_id(acl)
            .egress(entry.egress)
            .rule_number(entry.number)
            .rule_action(if entry.allow { RuleAction::Allow } else { RuleAction::Deny })
            .protocol(&entry.protocol)
            .set_cidr_block(ipv4)
            .set_ipv6_cidr_block(ipv6)
            .set_port_range(port_range(&entry.protocol, entry.ports))
            .set_dry_run(call.dry());
        call.done(request.send().await, |code| code == "NetworkAclEntryAlreadyExists")
    }

    async fn create_group(
        &self,
        call: &CallMode<'_>,
        vpc: &str,
        name: &str,
        description: &str,
    ) -> Result<CallOutcome, CallFailed> {
        let request = self
            .ec2
            .create_security_group()
            .vpc_id(vpc)
            .group_name(name)
            .description(description)
            .set_dry_run(call.dry());
        let request = request.tag_specifications(call.tagged(ResourceType::SecurityGroup));
        call.made(request.customize().config_override(once()).send().await, |reply| reply.group_id)
    }

    async fn add_rules(
        &self,
        call: &CallMode<'_>,
        group: &str,
        egress: bool,
        rules: &[GroupRule],
    ) -> Result<CallOutcome, CallFailed> {
        // Of several rules one that is there fails all: whoever adds some adds the same again, all
        // of which are there then.
        let already = |code: &str| code == "InvalidPermission.Duplicate";
        let rules = Some(permissions(rules));
        if egress {
            let request = self
                .ec2
                .authorize_security_group_egress()
                .group_id(group)
                .set_ip_permissions(rules);
            call.done(request.set_dry_run(call.dry()).send().await, already)
        } else {
            let request = self
                .ec2
                .authorize_security_group_ingress()
                .group_id(group)
                .set_ip_permissions(rules);
            call.done(request.set_dry_run(call.dry()).send().await, already)
        }
    }

    async fn drop_rules(
        &self,
        call: &CallMode<'_>,
        group: &str,
        egress: bool,
        rules: &[GroupRule],
    ) -> Result<CallOutcome, CallFailed> {
        let already = |code: &str| code == "InvalidPermission.NotFound";
        let rules = Some(permissions(rules));
        if egress {
            let request =
                self.ec2.revoke_security_group_egress().group_id(group).set_ip_permissions(rules);
            call.done(request.set_dry_run(call.dry()).send().await, already)
        } else {
            let request =
                self.ec2.revoke_security_group_ingress().group_id(group).set_ip_permissions(rules);
            call.done(request.set_dry_run(call.dry()).send().await, already)
        }
    }

    async fn create_subnet(
        &self,
        call: &CallMode<'_>,
        vpc: &str,
        cidr: &str,
        zone: &str,
    ) -> Result<CallOutcome, CallFailed> {
        let request = self
            .ec2
            .create_subnet()
            .vpc_id(vpc)
            .cidr_block(cidr)
            .availability_zone(zone)
            .set_dry_run(call.dry());
        let request = request.tag_specifications(call.tagged(ResourceType::Subnet));
        call.made(request.customize().config_override(once()).send().await, |reply| {
            reply.subnet?.subnet_id
        })
    }

    async fn associate_table(
        &self,
        call: &CallMode<'_>,
        table: &str,
        subnet: &str,
    ) -> Result<CallOutcome, CallFailed> {
        let request = self
            .ec2
            .associate_route_table()
            .route_table_id(table)
            .subnet_id(subnet)
            .set_dry_run(call.dry());
        call.done(request.send().await, |code| code == "Resource.AlreadyAssociated")
    }

    async fn replace_acl(
        &self,
        call: &CallMode<'_>,
        association: &str,
        acl: &str,
    ) -> Result<CallOutcome, CallFailed> {
        let request = self
            .ec2
            .replace_network_acl_association()
            .association_id(association)
            .network_acl_id(acl);
        // Replaced twice, the first association is gone: the caller looks which one there is.
        call.done(request.set_dry_run(call.dry()).send().await, |_| false)
    }

    async fn create_gateway_endpoint(
        &self,
        call: &CallMode<'_>,
        vpc: &str,
        service: &str,
        table: &str,
        policy: &serde_json::Value,
    ) -> Result<CallOutcome, CallFailed> {
        let request = self
            .ec2
            .create_vpc_endpoint()
            .vpc_endpoint_type(VpcEndpointType::Gateway)
            .vpc_id(vpc)
            .service_name(service)
            .route_table_ids(table)
            .policy_document(policy.to_string())
            .set_client_token(call.token())
            .tag_specifications(call.tagged(ResourceType::VpcEndpoint))
            .set_dry_run(call.dry());
        call.made(request.send().await, |reply| reply.vpc_endpoint?.vpc_endpoint_id)
    }

    async fn create_interface_endpoint(
        &self,
        call: &CallMode<'_>,
        vpc: &str,
        service: &str,
        (subnet, group): (&str, &str),
        policy: &serde_json::Value,
    ) -> Result<CallOutcome, CallFailed> {
        let request = self
            .ec2
            .create_vpc_endpoint()
            .vpc_endpoint_type(VpcEndpointType::Interface)
            .vpc_id(vpc)
            .service_name(service)
            .subnet_ids(subnet)
            .security_group_ids(group)
            .ip_address_type(IpAddressType::Ipv4)
            .private_dns_enabled(true)
            .policy_document(policy.to_string())
            .set_client_token(call.token())
            .tag_specifications(call.tagged(ResourceType::VpcEndpoint))
            .set_dry_run(call.dry());
        call.made(request.send().await, |reply| reply.vpc_endpoint?.vpc_endpoint_id)
    }

    async fn create_flow_log(
        &self,
        call: &CallMode<'_>,
        vpc: &str,
        destination: &str,
        role: Option<&str>,
    ) -> Result<CallOutcome, CallFailed> {
        let to = match destination.split(':').nth(2) {
            Some("s3") => LogDestinationType::S3,
            Some("logs") => LogDestinationType::CloudWatchLogs,
            _ => {
                return Err(refused(
                    &call.what,
                    format!("{destination} is neither a bucket's ARN nor a log group's"),
                )
                .into());
            }
        };
        let request = self
            .ec2
            .create_flow_logs()
            .resource_type(FlowLogsResourceType::Vpc)
            .resource_ids(vpc)
            .traffic_type(TrafficType::All)
            .log_destination_type(to)
            .log_destination(destination)
            .set_deliver_logs_permission_arn(role.map(ToOwned::to_owned))
            .max_aggregation_interval(FLOW_LOG_SECONDS)
            .set_client_token(call.token())
            .tag_specifications(call.tagged(ResourceType::VpcFlowLog))
            .set_dry_run(call.dry());
        let reply = request.send().await.map_err(|error| call.failed(&error))?;
        // It agrees, and says among what it did that it did not.
        if let Some(item) = reply.unsuccessful().first() {
            return Err(call.item_failed(item).into());
        }
        let id = reply.flow_log_ids().first().cloned();
        Ok(CallOutcome {
            id: id.ok_or_else(|| unknown(&call.what, "the answer does not say what was made"))?,
            grant_token: None,
        })
    }
}

/// A CIDR as IPv4, or as IPv6.
fn families(cidr: &str) -> (Option<String>, Option<String>) {
    let cidr_text = Some(cidr.to_owned());
    if cidr.contains(':') { (None, cidr_text) } else { (cidr_text, None) }
}

/// The ports of an entry. Protocols that have none must not be given any, and those that have some
/// must.
fn port_range(protocol: &str, ports: Option<(i32, i32)>) -> Option<PortRange> {
    let (first, last) = ports.unwrap_or(ALL_PORTS);
    matches!(protocol, "6" | "17").then(|| PortRange::builder().from(first).to(last).build())
}

/// Rules as the service takes them, each by itself.
fn permissions(rules: &[GroupRule]) -> Vec<IpPermission> {
    rules.iter().map(permission).collect()
}

fn permission(rule: &GroupRule) -> IpPermission {
    let ports = match rule.protocol.as_str() {
        "-1" => None,
        "tcp" | "udp" | "6" | "17" => Some(rule.ports.unwrap_or(ALL_PORTS)),
        _ => rule.ports,
    };
    let permission = IpPermission::builder()
        .ip_protocol(&rule.protocol)
        .set_from_port(ports.map(|(first, _)| first))
        .set_to_port(ports.map(|(_, last)| last));
    let permission = match &rule.peer {
        RulePeer::Cidr(cidr) if cidr.contains(':') => {
            permission.ipv6_ranges(Ipv6Range::builder().cidr_ipv6(cidr).build())
        }
        RulePeer::Cidr(cidr) => permission.ip_ranges(IpRange::builder().cidr_ip(cidr).build()),
        RulePeer::PrefixList(list) => {
            permission.prefix_list_ids(PrefixListId::builder().prefix_list_id(list).build())
        }
        RulePeer::Group(group) => {
            permission.user_id_group_pairs(UserIdGroupPair::builder().group_id(group).build())
        }
    };
    permission.build()
}

/// The rules that a permission stands for, one for each other side.
pub(super) fn rules_of(permission: &IpPermission) -> Vec<GroupRule> {
    let protocol = permission.ip_protocol().unwrap_or_default();
    let ports =
        if protocol == "-1" { None } else { permission.from_port().zip(permission.to_port()) };
    let owned = |text: &str| text.to_owned();
    let v4 = permission
        .ip_ranges()
        .iter()
        .filter_map(|range| range.cidr_ip().map(owned).map(RulePeer::Cidr));
    let v6 = permission
        .ipv6_ranges()
        .iter()
        .filter_map(|range| range.cidr_ipv6().map(owned).map(RulePeer::Cidr));
    let lists = permission
        .prefix_list_ids()
        .iter()
        .filter_map(|list| list.prefix_list_id().map(owned).map(RulePeer::PrefixList));
    let groups = permission
        .user_id_group_pairs()
        .iter()
        .filter_map(|pair| pair.group_id().map(owned).map(RulePeer::Group));
    let rule = |peer| GroupRule { protocol: protocol.to_owned(), ports, peer };
    v4.chain(v6).chain(lists).chain(groups).map(rule).collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::UnsuccessfulItemError;

    use super::*;

    fn rule(protocol: &str, ports: Option<(i32, i32)>, peer: RulePeer) -> GroupRule {
        GroupRule { protocol: protocol.to_owned(), ports, peer }
    }

    #[test]
    fn rules_come_back_as_they_went() {
        for rule in [
            rule("tcp", Some((443, 443)), RulePeer::PrefixList("pl-1".to_owned())),
            rule("tcp", Some((443, 443)), RulePeer::Group("sg-1".to_owned())),
            rule("-1", None, RulePeer::Cidr("0.0.0.0/0".to_owned())),
            rule("-1", None, RulePeer::Cidr("::/0".to_owned())),
        ] {
            assert_eq!(rules_of(&permission(&rule)), [rule]);
        }
    }

    #[test]
    fn a_permission_with_several_other_sides_is_several_rules() {
        let several = IpPermission::builder()
            .ip_protocol("-1")
            .from_port(-1)
            .to_port(-1)
            .ip_ranges(IpRange::builder().cidr_ip("10.0.0.0/8").build())
            .user_id_group_pairs(UserIdGroupPair::builder().group_id("sg-1").build())
            .build();
        let rules = [
            rule("-1", None, RulePeer::Cidr("10.0.0.0/8".to_owned())),
            rule("-1", None, RulePeer::Group("sg-1".to_owned())),
        ];
        assert_eq!(rules_of(&several), rules);
    }

    #[test]
    fn ports_are_told_where_a_protocol_has_some() {
        assert_eq!(port_range("-1", Some((1, 2))), None);
        assert_eq!(
            port_range("6", Some((443, 444))),
            Some(PortRange::builder().from(443).to(444).build())
        );
        assert_eq!(port_range("17", None), Some(PortRange::builder().from(0).to(65_535).build()));
        assert_eq!(families("10.0.0.0/8"), (Some("10.0.0.0/8".to_owned()), None));
        assert_eq!(families("::/0"), (None, Some("::/0".to_owned())));
    }

    #[test]
    fn what_failed_in_part_is_read_like_what_failed() {
        let tags = ResourceTags::new();
        let call = CallMode { what: "it".to_owned(), tags: &tags, token: "", dry: false };
        let item = |code: &str| {
            let error = UnsuccessfulItemError::builder().code(code).message("so it is").build();
            call.item_failed(&UnsuccessfulItem::builder().error(error).build())
        };
        assert!(matches!(item("InvalidFlowLogId.NotFound"), CloudError::Missing { .. }));
        assert!(matches!(item("400"), CloudError::Refused { why, .. } if why == "400: so it is"));
        assert!(matches!(item("500"), CloudError::Unavailable { .. }));
    }
}

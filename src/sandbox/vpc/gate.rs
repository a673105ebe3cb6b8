//! The isolation gate: everything that exists in the VPC is listed and must be exactly what was
//! meant. Nothing is restored before it passes.
//!
//! An allow list: whatever else is found is a violation. What was seen goes into the report, with
//! its hash.

use std::time::Instant;

use serde_json::{Value, json};

use super::cloud::{
    CloudResource, FirewallRule, ResourceFacts, ResourceKind, ResourceScope, VpcRoute,
};
use super::steps::{
    ENDPOINT_GROUP, INSTANCE_GROUP, acl_entries, endpoint_ingress, instance_egress, kms_service,
    s3_service,
};
use super::{ScratchError, ScratchVpc, policies, sha256};

/// What stood when the gate passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatePassed {
    /// Everything in the VPC, canonical: sorted by kind and id.
    pub state: Value,
    /// SHA-256 over it, as compact JSON.
    pub sha256: String,
    /// Whether names can leave: there is no DNS firewall.
    pub names_leave: bool,
}

/// Something that is not as it was meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GateViolation {
    text: String,
    /// It may only not be visible yet.
    may_pass: bool,
}

/// What is looked at.
const KINDS: [ResourceKind; 9] = [
    ResourceKind::Subnet,
    ResourceKind::RouteTable,
    ResourceKind::NetworkAcl,
    ResourceKind::SecurityGroup,
    ResourceKind::Endpoint,
    ResourceKind::FirewallAssociation,
    ResourceKind::FlowLog,
    ResourceKind::Interface,
    ResourceKind::Instance,
];

impl ScratchVpc {
    async fn gather(&mut self) -> Result<Vec<CloudResource>, ScratchError> {
        let vpc = self.made.vpc.clone();
        let mut all = self.look(ResourceKind::Vpc, &ResourceScope::Id(vpc.clone())).await?;
        for kind in KINDS.into_iter().chain(ResourceKind::WAYS_OUT) {
            all.extend(self.look(kind, &ResourceScope::Vpc(vpc.clone())).await?);
        }
        // Of those the service tells for an hour.
        all.retain(|thing| thing.kind != ResourceKind::Instance || !thing.is_gone());
        all.sort_by(|one, other| (one.kind, &one.id).cmp(&(other.kind, &other.id)));
        Ok(all)
    }

    /// Looks at everything, and again while something is only not visible yet.
    ///
    /// # Errors
    /// [`ScratchError::NotIsolated`] with every violation.
    pub async fn pass_gate(&mut self) -> Result<GatePassed, ScratchError> {
        let begun = Instant::now();
        loop {
            let all = self.gather().await?;
            let mut violations = self.violations(&all);
            let rules = self.firewall_violations(&mut violations).await?;
            if violations.is_empty() {
                let state = canonical(&all, &rules);
                let sha256 = sha256(state.to_string().as_bytes());
                return Ok(GatePassed {
                    state,
                    sha256,
                    names_leave: self.spec.settings.dns_firewall.is_none(),
                });
            }
            let waited = begun.elapsed() > self.spec.settings.settle_within.duration();
            if waited || violations.iter().any(|violation| !violation.may_pass) {
                return Err(ScratchError::NotIsolated(
                    violations.into_iter().map(|violation| violation.text).collect(),
                ));
            }
            self.wait().await?;
        }
    }

    /// Looks once more when the instance has done its work: whoever opened the VPC meanwhile is
    /// seen.
    ///
    /// # Errors
    /// [`ScratchError::Opened`] with every violation.
    pub async fn still_holds(&mut self) -> Result<(), ScratchError> {
        let all = self.gather().await?;
        let mut violations = self.violations(&all);
        self.firewall_violations(&mut violations).await?;
        match violations.is_empty() {
            true => Ok(()),
            false => Err(ScratchError::Opened(
                violations.into_iter().map(|violation| violation.text).collect(),
            )),
        }
    }

    fn violations(&self, all: &[CloudResource]) -> Vec<GateViolation> {
        let mut found = Vec::new();
        for thing in all {
            if let Some(text) = self.judge(thing) {
                found.push(GateViolation {
                    text: format!("{} {}: {text}", thing.kind.name(), thing.id),
                    may_pass: false,
                });
            }
        }
        let made = &self.made;
        let mut needed = vec![
            (ResourceKind::Vpc, &made.vpc),
            (ResourceKind::Subnet, &made.subnet),
            (ResourceKind::RouteTable, &made.table),
            (ResourceKind::NetworkAcl, &made.acl),
            (ResourceKind::SecurityGroup, &made.instance_group),
            (ResourceKind::SecurityGroup, &made.endpoint_group),
            (ResourceKind::Endpoint, &made.gateway),
            (ResourceKind::Endpoint, &made.keys_endpoint),
            (ResourceKind::FlowLog, &made.flow_log),
        ];
        if self.spec.settings.dns_firewall.is_some() {
            needed.push((ResourceKind::FirewallAssociation, &made.firewall));
        }
        for (kind, id) in needed {
            if !all.iter().any(|thing| thing.kind == kind && thing.id == *id) {
                found.push(GateViolation {
                    text: format!("{} {id} is not there", kind.name()),
                    may_pass: true,
                });
            }
        }
        found
    }

    /// What is wrong with a thing; none if it may be there as it is.
    fn judge(&self, thing: &CloudResource) -> Option<String> {
        let (made, settings) = (&self.made, &self.spec.settings);
        let wrong = |is: bool, what: &str| (!is).then(|| what.to_owned());
        match &thing.facts {
            ResourceFacts::Vpc { cidrs, ipv6, tenancy, is_default } => {
                wrong(!is_default, "it is the default VPC")
                    .or_else(|| {
                        wrong(
                            *cidrs == [settings.cidr.to_string()],
                            &format!("its networks are {}", cidrs.join(", ")),
                        )
                    })
                    .or_else(|| wrong(ipv6.is_empty(), "it has IPv6"))
                    .or_else(|| {
                        wrong(*tenancy == settings.tenancy, &format!("its tenancy is {tenancy}"))
                    })
            }
            ResourceFacts::Subnet { public_ips, ipv6, zone, .. } => {
                wrong(thing.id == made.subnet, "it is not ours")
                    .or_else(|| wrong(!public_ips, "instances get public addresses"))
                    .or_else(|| wrong(ipv6.is_empty(), "it has IPv6"))
                    .or_else(|| wrong(*zone == self.zone, &format!("it is in {zone}")))
            }
            ResourceFacts::RouteTable { routes, subnets, is_main, .. } => {
                self.judge_table(thing, routes, subnets, *is_main)
            }
            ResourceFacts::NetworkAcl { entries, subnets, is_default, .. }
                if thing.id == made.acl =>
            {
                let own: Vec<_> =
                    entries.iter().filter(|entry| entry.number < 32_767).cloned().collect();
                wrong(
                    !is_default && own == acl_entries(self),
                    "its entries are not those it was given",
                )
                .or_else(|| {
                    wrong(
                        subnets.iter().any(|(_, subnet)| *subnet == made.subnet),
                        "the subnet does not use it",
                    )
                })
            }
            ResourceFacts::NetworkAcl { subnets, is_default, .. } => {
                wrong(*is_default, "it is not ours")
                    .or_else(|| wrong(subnets.is_empty(), "the subnet uses it instead of ours"))
            }
            ResourceFacts::SecurityGroup { name, ingress, egress, .. }
                if thing.id == made.instance_group =>
            {
                let asked = instance_egress(&self.prefix_list, &made.endpoint_group);
                wrong(name == INSTANCE_GROUP && ingress.is_empty(), "something may come in")
                    .or_else(|| {
                        wrong(*egress == asked, "what may go out is not what was asked for")
                    })
            }
            ResourceFacts::SecurityGroup { name, ingress, egress, .. }
                if thing.id == made.endpoint_group =>
            {
                wrong(name == ENDPOINT_GROUP && egress.is_empty(), "something may go out").or_else(
                    || {
                        wrong(
                            *ingress == endpoint_ingress(&made.instance_group),
                            "others than the instance may come in",
                        )
                    },
                )
            }
            // The one that comes with every VPC; that nothing uses it is seen at the interfaces.
            ResourceFacts::SecurityGroup { name, .. } => wrong(name == "default", "it is not ours"),
            ResourceFacts::Endpoint {
                service,
                form,
                policy,
                tables,
                subnets,
                groups,
                private_dns,
                ..
            } => {
                let account = &settings.account;
                if thing.id == made.gateway {
                    wrong(
                        *service == s3_service(self) && form == "Gateway",
                        "it is no gateway to S3",
                    )
                    .or_else(|| {
                        wrong(
                            *policy == policies::s3(account, &self.spec.reads),
                            "its policy is not the one it was given",
                        )
                    })
                    .or_else(|| wrong(*tables == [made.table.clone()], "other route tables use it"))
                } else if thing.id == made.keys_endpoint {
                    wrong(
                        *service == kms_service(self) && form == "Interface",
                        "it is no interface to KMS",
                    )
                    .or_else(|| {
                        wrong(
                            *policy == policies::kms(account, &self.spec.grants),
                            "its policy is not the one it was given",
                        )
                    })
                    .or_else(|| {
                        wrong(
                            *subnets == [made.subnet.clone()]
                                && *groups == [made.endpoint_group.clone()],
                            "it is elsewhere",
                        )
                    })
                    .or_else(|| wrong(*private_dns, "its private name is off"))
                } else {
                    Some("it is not ours".to_owned())
                }
            }
            ResourceFacts::FirewallAssociation { rules, .. } => wrong(
                settings.dns_firewall.as_ref() == Some(rules),
                "it is not the one that was asked for",
            ),
            ResourceFacts::FlowLog { destination, traffic, .. } => {
                wrong(traffic == "ALL", "it does not log everything")
                    .or_else(|| {
                        thing.reason.as_ref().map(|reason| format!("it is not delivered: {reason}"))
                    })
                    .or_else(|| {
                        wrong(
                            thing.id != made.flow_log || goes_to(destination, &settings.flow_logs),
                            "it goes elsewhere",
                        )
                    })
            }
            ResourceFacts::Interface { subnet, groups, .. } => {
                let of = |group: &String| *groups == [group.clone()];
                let is_known = of(&made.endpoint_group)
                    || (!made.instance.is_empty() && of(&made.instance_group));
                wrong(
                    *subnet == made.subnet && is_known,
                    "it is neither that of the KMS endpoint nor the instance's",
                )
            }
            ResourceFacts::Instance(_) => wrong(thing.id == made.instance, "it is not ours"),
            ResourceFacts::Volume { .. } => None,
            ResourceFacts::WayOut => Some("it is a way out".to_owned()),
        }
    }

    fn judge_table(
        &self,
        thing: &CloudResource,
        routes: &[VpcRoute],
        subnets: &[String],
        is_main: bool,
    ) -> Option<String> {
        let made = &self.made;
        let local = |route: &VpcRoute| {
            route.via == "local" && route.to == self.spec.settings.cidr.to_string()
        };
        let bucket = |route: &VpcRoute| route.to == self.prefix_list && route.via == made.gateway;
        let ours = thing.id == made.table;
        if let Some(route) = routes.iter().find(|route| !(local(route) || (ours && bucket(route))))
        {
            return Some(format!("it has a route to {} by {}", route.to, route.via));
        }
        match (ours, is_main) {
            (true, true) => Some("it is the main one".to_owned()),
            (true, false) if *subnets != [made.subnet.clone()] => {
                Some("the subnet does not use it".to_owned())
            }
            (true, false) if !routes.iter().any(bucket) => Some("it has no route to S3".to_owned()),
            (true, false) => None,
            (false, true) if subnets.is_empty() => None,
            (false, true) => Some("the subnet uses it instead of ours".to_owned()),
            (false, false) => Some("it is not ours".to_owned()),
        }
    }

    /// A DNS firewall that lets every name through closes nothing.
    async fn firewall_violations(
        &mut self,
        violations: &mut Vec<GateViolation>,
    ) -> Result<Vec<FirewallRule>, ScratchError> {
        let Some(group) = self.spec.settings.dns_firewall.clone() else { return Ok(Vec::new()) };
        let rules = self.cloud().clone().firewall_rules(&group).await?;
        if let Some(text) = open_names(&rules) {
            violations.push(GateViolation {
                text: format!("DNS firewall {group}: {text}"),
                may_pass: false,
            });
        }
        Ok(rules)
    }
}

/// Whether two names mean one destination: of a log group EC2 may tell the name only, and of a
/// bucket with or without a last slash.
fn goes_to(told: &str, asked: &str) -> bool {
    let plain = |text: &str| text.trim_end_matches(":*").trim_end_matches('/').to_owned();
    let (told, asked) = (plain(told), plain(asked));
    told == asked || asked.split_once(":log-group:").is_some_and(|(_, name)| name == told)
}

/// What is wrong with an allow-list: it must end with a block of everything, and allow nothing so
/// wide before it.
#[must_use]
pub fn open_names(rules: &[FirewallRule]) -> Option<String> {
    let is_all = |domain: &String| domain.trim_end_matches('.') == "*";
    let blocks = rules.iter().position(|rule| {
        rule.action == "BLOCK" && rule.question.is_none() && rule.domains.iter().any(is_all)
    });
    let Some(blocks) = blocks else {
        return Some("it blocks no name by default: its last rule must block *".to_owned());
    };
    let through = rules[..blocks].iter().filter(|rule| rule.action != "BLOCK");
    let is_aws = |domain: &String| {
        let name = domain.trim_end_matches('.');
        name.ends_with(".amazonaws.com") || name.ends_with(".amazonaws.com.cn")
    };
    for rule in through {
        if rule.domains.is_empty() {
            return Some(format!("rule {} lets through a list that cannot be read", rule.priority));
        }
        if let Some(domain) = rule.domains.iter().find(|domain| !is_aws(domain)) {
            return Some(format!("rule {} lets {domain} through", rule.priority));
        }
    }
    None
}

/// Everything that was looked at. Tags are left out: they say when it expires.
fn canonical(all: &[CloudResource], rules: &[FirewallRule]) -> Value {
    let things: Vec<Value> =
        all.iter().map(|thing| json!({ "kind": thing.kind, "id": thing.id, "state": thing.state, "is": thing.facts })).collect();
    json!({ "things": things, "dns_firewall_rules": rules })
}

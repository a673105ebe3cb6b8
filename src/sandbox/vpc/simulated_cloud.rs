//! A simulated cloud: resources exist at once, nothing costs anything, and every call is recorded.
//!
//! `drill --plan` runs the very steps on it and shows what they called; preflight asks AWS about
//! the same calls; and the property tests inject faults: failures, lost replies, eventual
//! consistency. It models what the steps depend on and no more: what comes with a VPC, what an
//! endpoint adds, what goes with an instance, what blocks the removal of what. The behaviour it
//! shares with AWS is tested by one contract.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::cloud::{
    AccountGuards, AclEntry, ApiCall, CallOutcome, CallerIdentity, CloudError, CloudResource,
    FirewallRule, GroupRule, InstanceFacts, KeyGrant, MachineImage, ResourceFacts, ResourceKind,
    ResourceScope, ResourceTags, RulePeer, ScratchCloud, ServiceQuota, VpcRoute, placeholder,
};
use super::{ScratchError, ScratchVpc, steps};
use crate::domain::human_duration::HumanDuration;

/// A call as it was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedCall {
    /// The action, with its service.
    pub action: String,
    /// What it is about; empty for looks.
    pub about: String,
    /// Further permissions that it takes.
    pub permissions: &'static [&'static str],
    /// The act; none for looks.
    pub act: Option<ApiCall>,
}

impl RecordedCall {
    /// The action and whatever else it takes.
    #[must_use]
    pub fn all_permissions(&self) -> Vec<&str> {
        std::iter::once(self.action.as_str()).chain(self.permissions.iter().copied()).collect()
    }
}

/// What goes wrong with an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectedFault {
    /// It is refused; nothing happens.
    Refuse,
    /// It is throttled; nothing happens.
    Throttle,
    /// It happens, and its answer is lost.
    LoseAnswer,
    /// It does not happen, and no answer comes.
    Drop,
    /// There is no capacity.
    NoCapacity,
}

type FaultPlan = Box<dyn FnMut(&ApiCall) -> Option<InjectedFault> + Send>;

#[derive(Default)]
struct CloudState {
    things: BTreeMap<String, CloudResource>,
    grants: BTreeMap<String, (String, String)>,
    tokens: BTreeMap<String, (ApiCall, CallOutcome)>,
    written: Vec<RecordedCall>,
    /// How often a thing is still not shown.
    hidden: BTreeMap<String, u32>,
    made: u64,
}

/// The model.
pub struct SimulatedCloud {
    region: String,
    account: String,
    image: String,
    prefix_list: String,
    state: Mutex<CloudState>,
    weather: Mutex<Option<FaultPlan>>,
    /// Looks that do not show what was made.
    lag: u32,
}

const PREFIX_LIST: &str = "pl-00000000";

impl SimulatedCloud {
    /// An empty region of an account.
    #[must_use]
    pub fn new(region: &str, account: &str, image: &str) -> Self {
        let (region, account, image) = (region.to_owned(), account.to_owned(), image.to_owned());
        Self {
            region,
            account,
            image,
            prefix_list: PREFIX_LIST.to_owned(),
            state: Mutex::default(),
            weather: Mutex::new(None),
            lag: 0,
        }
    }

    /// The same, with things that go wrong, and looks that show what was made only after so many of
    /// them.
    #[must_use]
    pub fn with_weather(
        mut self,
        lag: u32,
        weather: impl FnMut(&ApiCall) -> Option<InjectedFault> + Send + 'static,
    ) -> Self {
        self.lag = lag;
        self.weather = Mutex::new(Some(Box::new(weather)));
        self
    }

    /// Good weather from now on.
    pub fn calm(&self) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn state(&self) -> MutexGuard<'_, CloudState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call so far.
    #[must_use]
    pub fn written(&self) -> Vec<RecordedCall> {
        self.state().written.clone()
    }

    /// Everything that is there.
    #[must_use]
    pub fn things(&self) -> Vec<CloudResource> {
        self.state().things.values().cloned().collect()
    }

    /// Grants that are there, by name.
    #[must_use]
    pub fn grant_names(&self) -> Vec<String> {
        self.state().grants.values().map(|(_, name)| name.clone()).collect()
    }

    /// Puts something there that is not ours.
    pub fn put(&self, thing: CloudResource) {
        self.state().things.insert(thing.id.clone(), thing);
    }

    fn write(&self, action: &str) {
        let action = action.to_owned();
        self.state().written.push(RecordedCall {
            action,
            about: String::new(),
            permissions: &[],
            act: None,
        });
    }
}

impl CloudState {
    fn id(&mut self, kind: ResourceKind) -> String {
        self.made += 1;
        let pattern = placeholder(kind);
        let number = self.made.to_string();
        format!("{}{number}", &pattern[..pattern.len() - number.len()])
    }

    fn add(
        &mut self,
        kind: ResourceKind,
        state: &str,
        tags: &ResourceTags,
        facts: ResourceFacts,
    ) -> String {
        let id = self.id(kind);
        let thing = CloudResource {
            kind,
            id: id.clone(),
            state: state.to_owned(),
            reason: None,
            tags: tags.clone(),
            facts,
        };
        self.things.insert(id.clone(), thing);
        id
    }

    fn facts(&mut self, id: &str) -> Result<&mut ResourceFacts, CloudError> {
        let missing = || CloudError::Missing {
            what: id.to_owned(),
            why: "it does not exist on paper".to_owned(),
        };
        self.things.get_mut(id).map(|thing| &mut thing.facts).ok_or_else(missing)
    }

    fn of_vpc(&self, vpc: &str) -> impl Iterator<Item = &CloudResource> {
        self.things.values().filter(move |thing| vpc_of(thing) == Some(vpc))
    }

    /// What keeps a thing from being removed.
    fn holds(&self, id: &str) -> bool {
        let Some(thing) = self.things.get(id) else { return false };
        match thing.kind {
            ResourceKind::Vpc => self.of_vpc(id).any(|other| !comes_with(other)),
            ResourceKind::Subnet => self.things.values().any(|other| match &other.facts {
                ResourceFacts::Interface { subnet, .. } => subnet == id,
                ResourceFacts::Instance(facts) => facts.subnet == id && other.state != "terminated",
                _ => false,
            }),
            ResourceKind::SecurityGroup => {
                self.things.values().filter(|other| other.id != id).any(|other| {
                    match &other.facts {
                        ResourceFacts::Interface { groups, .. } => {
                            groups.iter().any(|group| group == id)
                        }
                        ResourceFacts::SecurityGroup { ingress, egress, .. } => {
                            ingress.iter().chain(egress).any(
                                |rule| matches!(&rule.peer, RulePeer::Group(group) if group == id),
                            )
                        }
                        _ => false,
                    }
                })
            }
            ResourceKind::RouteTable => {
                matches!(&thing.facts, ResourceFacts::RouteTable { routes, subnets, .. } if !subnets.is_empty() || routes.len() > 1)
            }
            ResourceKind::NetworkAcl => {
                matches!(&thing.facts, ResourceFacts::NetworkAcl { subnets, .. } if !subnets.is_empty())
            }
            _ => false,
        }
    }

    fn remove(&mut self, id: &str) {
        let Some(thing) = self.things.remove(id) else { return };
        match &thing.facts {
            ResourceFacts::Vpc { .. } => {
                let gone: Vec<String> = self.of_vpc(id).map(|thing| thing.id.clone()).collect();
                gone.iter().for_each(|id| drop(self.things.remove(id)));
            }
            ResourceFacts::Subnet { .. } => {
                for other in self.things.values_mut() {
                    match &mut other.facts {
                        ResourceFacts::RouteTable { subnets, .. } => {
                            subnets.retain(|subnet| subnet != id)
                        }
                        ResourceFacts::NetworkAcl { subnets, .. } => {
                            subnets.retain(|(_, subnet)| subnet != id)
                        }
                        _ => {}
                    }
                }
            }
            ResourceFacts::Endpoint { .. } => {
                let description = format!("VPC Endpoint Interface {id}");
                self.things
                    .retain(|_, other| !matches!(&other.facts, ResourceFacts::Interface { description: of, .. } if *of == description));
                for other in self.things.values_mut() {
                    if let ResourceFacts::RouteTable { routes, .. } = &mut other.facts {
                        routes.retain(|route| route.via != id);
                    }
                }
            }
            ResourceFacts::Instance(facts) => {
                let volumes: Vec<String> =
                    facts.volumes.iter().map(|(_, volume, _)| volume.clone()).collect();
                self.things.retain(|other, _| !volumes.contains(other));
                let description = format!("Primary network interface of {id}");
                self.things
                    .retain(|_, other| !matches!(&other.facts, ResourceFacts::Interface { description: of, .. } if *of == description));
            }
            _ => {}
        }
    }
}

/// What came with its VPC, and goes with it.
fn comes_with(thing: &CloudResource) -> bool {
    match &thing.facts {
        ResourceFacts::RouteTable { is_main, .. } => *is_main,
        ResourceFacts::NetworkAcl { is_default, .. } => *is_default,
        ResourceFacts::SecurityGroup { name, .. } => name == "default",
        ResourceFacts::FlowLog { .. } => true,
        _ => false,
    }
}

fn vpc_of(thing: &CloudResource) -> Option<&str> {
    match &thing.facts {
        ResourceFacts::Subnet { vpc, .. }
        | ResourceFacts::RouteTable { vpc, .. }
        | ResourceFacts::NetworkAcl { vpc, .. }
        | ResourceFacts::SecurityGroup { vpc, .. }
        | ResourceFacts::Endpoint { vpc, .. }
        | ResourceFacts::FirewallAssociation { vpc, .. }
        | ResourceFacts::Interface { vpc, .. } => Some(vpc),
        ResourceFacts::FlowLog { resource, .. } => Some(resource),
        ResourceFacts::Instance(facts) => Some(&facts.vpc),
        ResourceFacts::Vpc { .. } | ResourceFacts::Volume { .. } | ResourceFacts::WayOut => None,
    }
}

fn last_word() -> Vec<AclEntry> {
    let word = |egress| AclEntry {
        egress,
        number: 32_767,
        allow: false,
        protocol: "-1".to_owned(),
        cidr: "0.0.0.0/0".to_owned(),
        ports: None,
    };
    vec![word(false), word(true)]
}

impl CloudState {
    #[allow(clippy::too_many_lines, reason = "one arm for each act")]
    fn act(
        &mut self,
        act: &ApiCall,
        tags: &ResourceTags,
        prefix_list: &str,
    ) -> Result<CallOutcome, CloudError> {
        let none = ResourceTags::new();
        let made = |id: String| Ok(CallOutcome { id, grant_token: None });
        match act {
            ApiCall::CreateVpc { cidr, tenancy } => {
                let (cidrs, tenancy) = (vec![cidr.clone()], tenancy.clone());
                let vpc = self.add(
                    ResourceKind::Vpc,
                    "available",
                    tags,
                    ResourceFacts::Vpc { cidrs, ipv6: vec![], tenancy, is_default: false },
                );
                let local = vec![VpcRoute { to: cidr.clone(), via: "local".to_owned() }];
                let table = ResourceFacts::RouteTable {
                    vpc: vpc.clone(),
                    routes: local,
                    subnets: vec![],
                    is_main: true,
                };
                self.add(ResourceKind::RouteTable, "", &none, table);
                let acl = ResourceFacts::NetworkAcl {
                    vpc: vpc.clone(),
                    entries: last_word(),
                    subnets: vec![],
                    is_default: true,
                };
                self.add(ResourceKind::NetworkAcl, "", &none, acl);
                let group = ResourceFacts::SecurityGroup {
                    vpc: vpc.clone(),
                    name: "default".to_owned(),
                    ingress: vec![],
                    egress: vec![],
                };
                self.add(ResourceKind::SecurityGroup, "", &none, group);
                made(vpc)
            }
            ApiCall::EnableDns { vpc } => self.facts(vpc).map(|_| CallOutcome::default()),
            ApiCall::CreateRouteTable { vpc } => {
                let ResourceFacts::Vpc { cidrs, .. } = self.facts(vpc)?.clone() else {
                    return made(String::new());
                };
                let routes =
                    cidrs.into_iter().map(|to| VpcRoute { to, via: "local".to_owned() }).collect();
                made(self.add(
                    ResourceKind::RouteTable,
                    "",
                    tags,
                    ResourceFacts::RouteTable {
                        vpc: vpc.clone(),
                        routes,
                        subnets: vec![],
                        is_main: false,
                    },
                ))
            }
            ApiCall::CreateNetworkAcl { vpc } => {
                self.facts(vpc)?;
                let facts = ResourceFacts::NetworkAcl {
                    vpc: vpc.clone(),
                    entries: last_word(),
                    subnets: vec![],
                    is_default: false,
                };
                made(self.add(ResourceKind::NetworkAcl, "", tags, facts))
            }
            ApiCall::AddAclEntry { acl, entry } => {
                if let ResourceFacts::NetworkAcl { entries, .. } = self.facts(acl)?
                    && !entries.contains(entry)
                {
                    entries.push(entry.clone());
                    entries.sort();
                }
                made(String::new())
            }
            ApiCall::CreateSecurityGroup { vpc, name, .. } => {
                self.facts(vpc)?;
                let everything = GroupRule {
                    protocol: "-1".to_owned(),
                    ports: None,
                    peer: RulePeer::Cidr("0.0.0.0/0".to_owned()),
                };
                let (vpc, name) = (vpc.clone(), name.clone());
                made(self.add(
                    ResourceKind::SecurityGroup,
                    "",
                    tags,
                    ResourceFacts::SecurityGroup {
                        vpc,
                        name,
                        ingress: vec![],
                        egress: vec![everything],
                    },
                ))
            }
            ApiCall::AddRules { group, egress, rules }
            | ApiCall::DropRules { group, egress, rules } => {
                if let ResourceFacts::SecurityGroup { ingress, egress: out, .. } =
                    self.facts(group)?
                {
                    let list = if *egress { out } else { ingress };
                    list.retain(|rule| !rules.contains(rule));
                    if matches!(act, ApiCall::AddRules { .. }) {
                        list.extend(rules.iter().cloned());
                    }
                    list.sort();
                }
                made(String::new())
            }
            ApiCall::CreateSubnet { vpc, cidr, zone } => {
                self.facts(vpc)?;
                let (of, cidr, zone) = (vpc.clone(), cidr.clone(), zone.clone());
                let subnet = self.add(
                    ResourceKind::Subnet,
                    "available",
                    tags,
                    ResourceFacts::Subnet { vpc: of, cidr, zone, ipv6: vec![], public_ips: false },
                );
                for thing in self.things.values_mut() {
                    if let ResourceFacts::NetworkAcl { vpc: of, subnets, is_default: true, .. } =
                        &mut thing.facts
                        && of == vpc
                    {
                        subnets.push((subnet.replace("subnet-", "aclassoc-"), subnet.clone()));
                    }
                }
                made(subnet)
            }
            ApiCall::AssociateRouteTable { table, subnet } => {
                if let ResourceFacts::RouteTable { subnets, .. } = self.facts(table)?
                    && !subnets.contains(subnet)
                {
                    subnets.push(subnet.clone());
                }
                made(String::new())
            }
            ApiCall::ReplaceAclAssociation { association, acl } => {
                let mut moved = None;
                for thing in self.things.values_mut() {
                    if let ResourceFacts::NetworkAcl { subnets, .. } = &mut thing.facts
                        && let Some(at) = subnets.iter().position(|(id, _)| id == association)
                    {
                        moved = Some(subnets.remove(at).1);
                    }
                }
                let missing = || CloudError::Missing {
                    what: association.clone(),
                    why: "it is no association".to_owned(),
                };
                let subnet = moved.ok_or_else(missing)?;
                if let ResourceFacts::NetworkAcl { subnets, .. } = self.facts(acl)? {
                    subnets.push((association.replace("aclassoc-0", "aclassoc-1"), subnet));
                }
                made(String::new())
            }
            ApiCall::CreateGatewayEndpoint { vpc, service, table, policy } => {
                self.facts(vpc)?;
                let facts = ResourceFacts::Endpoint {
                    vpc: vpc.clone(),
                    service: service.clone(),
                    form: "Gateway".to_owned(),
                    policy: policy.clone(),
                    tables: vec![table.clone()],
                    subnets: vec![],
                    groups: vec![],
                    private_dns: false,
                };
                let id = self.add(ResourceKind::Endpoint, "available", tags, facts);
                if let ResourceFacts::RouteTable { routes, .. } = self.facts(table)? {
                    routes.push(VpcRoute { to: prefix_list.to_owned(), via: id.clone() });
                    routes.sort();
                }
                made(id)
            }
            ApiCall::CreateInterfaceEndpoint { vpc, service, subnet, group, policy } => {
                self.facts(subnet)?;
                let (subnets, groups) = (vec![subnet.clone()], vec![group.clone()]);
                let facts = ResourceFacts::Endpoint {
                    vpc: vpc.clone(),
                    service: service.clone(),
                    form: "Interface".to_owned(),
                    policy: policy.clone(),
                    tables: vec![],
                    subnets,
                    groups: groups.clone(),
                    private_dns: true,
                };
                let id = self.add(ResourceKind::Endpoint, "available", tags, facts);
                let description = format!("VPC Endpoint Interface {id}");
                let facts = ResourceFacts::Interface {
                    vpc: vpc.clone(),
                    subnet: subnet.clone(),
                    groups,
                    description,
                };
                self.add(ResourceKind::Interface, "in-use", &none, facts);
                made(id)
            }
            ApiCall::AssociateFirewall { vpc, rules, .. } => {
                let facts = ResourceFacts::FirewallAssociation {
                    vpc: vpc.clone(),
                    rules: rules.clone(),
                    priority: 101,
                };
                made(self.add(ResourceKind::FirewallAssociation, "COMPLETE", tags, facts))
            }
            ApiCall::CreateFlowLogs { vpc, destination, .. } => {
                self.facts(vpc)?;
                let facts = ResourceFacts::FlowLog {
                    resource: vpc.clone(),
                    destination: destination.clone(),
                    traffic: "ALL".to_owned(),
                };
                made(self.add(ResourceKind::FlowLog, "ACTIVE", tags, facts))
            }
            ApiCall::CreateGrant { key, name, .. } => {
                if let Some((id, _)) =
                    self.grants.iter().find(|(_, grant)| **grant == (key.clone(), name.clone()))
                {
                    return Ok(CallOutcome {
                        id: id.clone(),
                        grant_token: Some(format!("token-of-{id}")),
                    });
                }
                self.made += 1;
                let id = format!("grant-{}", self.made);
                self.grants.insert(id.clone(), (key.clone(), name.clone()));
                Ok(CallOutcome { grant_token: Some(format!("token-of-{id}")), id })
            }
            ApiCall::RevokeGrant { grant, .. } => {
                self.grants.remove(grant);
                made(String::new())
            }
            ApiCall::RunInstances(launch) => {
                let ResourceFacts::Subnet { vpc, zone, .. } = self.facts(&launch.subnet)?.clone()
                else {
                    return made(String::new());
                };
                let instance = self.id(ResourceKind::Instance);
                let mut volumes = Vec::new();
                for volume in &launch.volumes {
                    let facts = ResourceFacts::Volume {
                        encrypted: true,
                        key: Some(volume.key.clone()),
                        zone: zone.clone(),
                        instance: Some(instance.clone()),
                    };
                    volumes.push((
                        volume.device.clone(),
                        self.add(ResourceKind::Volume, "in-use", tags, facts),
                        true,
                    ));
                }
                let groups = vec![launch.group.clone()];
                let description = format!("Primary network interface of {instance}");
                let interface = ResourceFacts::Interface {
                    vpc: vpc.clone(),
                    subnet: launch.subnet.clone(),
                    groups: groups.clone(),
                    description,
                };
                self.add(ResourceKind::Interface, "in-use", tags, interface);
                let facts = ResourceFacts::Instance(Box::new(InstanceFacts {
                    vpc,
                    subnet: launch.subnet.clone(),
                    zone,
                    instance_type: launch.instance_type.clone(),
                    image: launch.image.clone(),
                    tenancy: launch.tenancy.clone(),
                    http_tokens: "required".to_owned(),
                    hop_limit: 1,
                    public_ip: None,
                    groups,
                    volumes,
                }));
                let thing = CloudResource {
                    kind: ResourceKind::Instance,
                    id: instance.clone(),
                    state: "running".to_owned(),
                    reason: None,
                    tags: tags.clone(),
                    facts,
                };
                self.things.insert(instance.clone(), thing);
                made(instance)
            }
            ApiCall::Remove(owned) => {
                if self.holds(owned.id()) {
                    return Err(CloudError::Busy {
                        what: owned.id().to_owned(),
                        why: "DependencyViolation".to_owned(),
                    });
                }
                self.remove(owned.id());
                made(String::new())
            }
        }
    }
}

#[async_trait]
impl ScratchCloud for SimulatedCloud {
    fn region(&self) -> &str {
        &self.region
    }

    async fn caller(&self) -> Result<CallerIdentity, CloudError> {
        self.write("sts:GetCallerIdentity");
        Ok(CallerIdentity {
            account: self.account.clone(),
            arn: format!("arn:aws:iam::{}:role/paper", self.account),
        })
    }

    async fn act(
        &self,
        act: &ApiCall,
        tags: &ResourceTags,
        token: &str,
    ) -> Result<CallOutcome, CloudError> {
        let (action, about) = (act.action().to_owned(), act.subject());
        self.state().written.push(RecordedCall {
            action,
            about,
            permissions: act.permissions(),
            act: Some(act.clone()),
        });
        let fault = self
            .weather
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .and_then(|weather| weather(act));
        let what = act.action().to_owned();
        match fault {
            Some(InjectedFault::Refuse) => {
                return Err(CloudError::Refused { what, why: "bad weather".to_owned() });
            }
            Some(InjectedFault::Throttle) => {
                return Err(CloudError::Unavailable { what, why: "bad weather".to_owned() });
            }
            Some(InjectedFault::Drop) => {
                return Err(CloudError::Unknown { what, why: "bad weather".to_owned() });
            }
            Some(InjectedFault::NoCapacity) => {
                return Err(CloudError::NoCapacity { what, why: "bad weather".to_owned() });
            }
            Some(InjectedFault::LoseAnswer) | None => {}
        }
        let mut state = self.state();
        let takes_token = matches!(
            act,
            ApiCall::CreateRouteTable { .. }
                | ApiCall::CreateNetworkAcl { .. }
                | ApiCall::CreateGatewayEndpoint { .. }
                | ApiCall::CreateInterfaceEndpoint { .. }
                | ApiCall::CreateFlowLogs { .. }
                | ApiCall::AssociateFirewall { .. }
                | ApiCall::RunInstances(_)
        );
        let before = state.tokens.get(token).filter(|_| takes_token).cloned();
        let acted = match before {
            Some((same, acted)) if same == *act => acted,
            Some(_) => {
                return Err(CloudError::Refused {
                    what,
                    why: "IdempotentParameterMismatch".to_owned(),
                });
            }
            None => {
                let there: BTreeSet<String> = state.things.keys().cloned().collect();
                let acted = state.act(act, tags, &self.prefix_list)?;
                let new: Vec<String> =
                    state.things.keys().filter(|id| !there.contains(*id)).cloned().collect();
                state.hidden.extend(new.into_iter().map(|id| (id, self.lag)));
                if takes_token {
                    state.tokens.insert(token.to_owned(), (act.clone(), acted.clone()));
                }
                acted
            }
        };
        if fault == Some(InjectedFault::LoseAnswer) {
            return Err(CloudError::Unknown { what, why: "bad weather".to_owned() });
        }
        Ok(acted)
    }

    async fn dry_run(&self, _: &ApiCall, _: &ResourceTags) -> Result<(), CloudError> {
        Ok(())
    }

    async fn describe(
        &self,
        kind: ResourceKind,
        at: &ResourceScope,
    ) -> Result<Vec<CloudResource>, CloudError> {
        self.write(kind.look_action());
        let mut state = self.state();
        let matches = |thing: &CloudResource| {
            thing.kind == kind
                && match at {
                    ResourceScope::Id(id) => thing.id == *id,
                    ResourceScope::Vpc(vpc) => vpc_of(thing) == Some(vpc),
                    ResourceScope::Tagged(tags) => thing.carries(tags),
                }
        };
        let found: Vec<CloudResource> =
            state.things.values().filter(|thing| matches(thing)).cloned().collect();
        let mut shown = Vec::new();
        for thing in found {
            match state.hidden.get_mut(&thing.id) {
                Some(left) if *left > 0 => *left -= 1,
                _ => shown.push(thing),
            }
        }
        Ok(shown)
    }

    async fn offers(&self, types: &[String]) -> Result<BTreeSet<(String, String)>, CloudError> {
        self.write("ec2:DescribeInstanceTypeOfferings");
        let zones = ["a", "b", "c"].map(|letter| format!("{}{letter}", self.region));
        Ok(types
            .iter()
            .flat_map(|kind| zones.iter().map(|zone| (kind.clone(), zone.clone())))
            .collect())
    }

    async fn image(&self, id: &str) -> Result<Option<MachineImage>, CloudError> {
        self.write("ec2:DescribeImages");
        let image = MachineImage {
            id: id.to_owned(),
            owner: self.account.clone(),
            name: "paper".to_owned(),
            created: String::new(),
            architecture: "x86_64".to_owned(),
            state: "available".to_owned(),
            root_device: "/dev/xvda".to_owned(),
            snapshots: Vec::new(),
        };
        Ok((id == self.image || self.image.is_empty()).then_some(image))
    }

    async fn prefix_list(&self, _: &str) -> Result<String, CloudError> {
        self.write("ec2:DescribePrefixLists");
        Ok(self.prefix_list.clone())
    }

    async fn quotas(&self, _: &str) -> Result<Vec<ServiceQuota>, CloudError> {
        for action in [
            "servicequotas:GetServiceQuota",
            "ec2:DescribeVpcs",
            "ec2:DescribeInstances",
            "ec2:DescribeInstanceTypes",
        ] {
            self.write(action);
        }
        Ok(Vec::new())
    }

    async fn console(&self, _: &str) -> Result<String, CloudError> {
        self.write("ec2:GetConsoleOutput");
        Ok(String::new())
    }

    async fn firewall_rules(&self, _: &str) -> Result<Vec<FirewallRule>, CloudError> {
        self.write("route53resolver:ListFirewallRules");
        self.write("route53resolver:ListFirewallDomains");
        let rule = |priority, action: &str, domain: &str| FirewallRule {
            priority,
            action: action.to_owned(),
            domains: vec![domain.to_owned()],
            question: None,
        };
        Ok(vec![rule(1, "ALLOW", "kms.amazonaws.com."), rule(2, "BLOCK", "*.")])
    }

    async fn grants(&self, key: &str) -> Result<Vec<KeyGrant>, CloudError> {
        self.write("kms:ListGrants");
        let state = self.state();
        let of_key = state.grants.iter().filter(|(_, (of, _))| of == key);
        Ok(of_key.map(|(id, (_, name))| KeyGrant { id: id.clone(), name: name.clone() }).collect())
    }

    async fn guards(&self) -> Result<AccountGuards, CloudError> {
        for action in [
            "ec2:DescribeVpcBlockPublicAccessOptions",
            "ec2:GetEbsEncryptionByDefault",
            "ec2:GetSerialConsoleAccessStatus",
        ] {
            self.write(action);
        }
        Ok(AccountGuards {
            block_public_access: "block-bidirectional".to_owned(),
            encryption_by_default: true,
            serial_console: false,
        })
    }
}

/// A phase of a run and the calls it makes.
pub type RunPhase = (&'static str, Vec<RecordedCall>);

/// Runs everything that a drill does with the cloud on paper, from preflight to census; returns
/// what each phase called.
///
/// # Errors
/// [`ScratchError`] if the settings cannot come to a good end even on paper.
pub async fn rehearse(
    of: &ScratchVpc,
    time_to_live: HumanDuration,
) -> Result<Vec<RunPhase>, ScratchError> {
    let settings = &of.spec.settings;
    let mut paper = SimulatedCloud::new(&settings.region, &settings.account, "");
    if !of.prefix_list.is_empty() {
        paper.prefix_list.clone_from(&of.prefix_list);
    }
    let paper = Arc::new(paper);
    let mut spec = of.spec.clone();
    spec.settings.poll = HumanDuration::seconds(0);
    let cloud: Arc<dyn ScratchCloud> = Arc::<SimulatedCloud>::clone(&paper);
    let mut scratch = ScratchVpc::new(cloud, spec, 0.0, CancellationToken::new());
    (scratch.image, scratch.prefix_list) = (of.image.clone(), paper.prefix_list.clone());
    let mut phases: Vec<RunPhase> = Vec::new();
    let mut seen = 0;
    let mut phase = |name: &'static str| {
        let all = paper.written();
        phases.push((name, all[seen..].to_vec()));
        seen = all.len();
    };
    // On paper there is nothing to try out, and asking would ask for this very list.
    let _ = scratch.cloud().clone().caller().await;
    let ask = scratch.cloud().clone();
    let _ = (
        ask.image(&scratch.image).await,
        ask.prefix_list("").await,
        ask.offers(&[]).await,
        ask.quotas("").await,
    );
    if let Some(group) = &scratch.spec.settings.dns_firewall {
        let _ = ask.firewall_rules(group).await;
    }
    let _ = (ask.guards().await, time_to_live);
    phase("preflight (and a dry run of everything below that has one)");
    macro_rules! make {
        ($($step:expr),*) => { $( drop(crate::saga::SagaStep::act(&$step, &mut scratch).await?); )* };
    }
    make!(
        steps::CreateVpc,
        steps::CreateRouteTable,
        steps::CreateNetworkAcl,
        steps::CreateSecurityGroups,
        steps::CreateS3Endpoint,
        steps::AssociateDnsFirewall,
        steps::CreateFlowLogs
    );
    make!(steps::CreateSubnet, steps::CreateKmsEndpoint);
    phase("the place");
    scratch.pass_gate().await?;
    phase("the isolation gate");
    make!(steps::GrantKeys, steps::LaunchInstance);
    phase("the instance");
    let instance = scratch.made.instance.clone();
    let _ = (
        ask.console(&instance).await,
        scratch.look(ResourceKind::Instance, &ResourceScope::Id(instance.clone())).await,
    );
    scratch.still_holds().await?;
    phase("following it, and a last look at the place");
    for undo in steps::undos().iter().rev() {
        undo.undo(&mut scratch).await.map_err(ScratchError::Wrong)?;
    }
    phase("teardown");
    let (_, left) = scratch.census().await;
    phase("the census");
    if left.is_empty() {
        Ok(phases)
    } else {
        Err(ScratchError::Wrong(format!("on paper these are left: {}", left.join(", "))))
    }
}

/// Every act of a run, as it would be called with things that do not exist.
pub async fn acts(of: &ScratchVpc) -> Vec<ApiCall> {
    let phases = rehearse(of, HumanDuration::seconds(3600)).await.unwrap_or_default();
    phases.into_iter().flat_map(|(_, written)| written).filter_map(|written| written.act).collect()
}

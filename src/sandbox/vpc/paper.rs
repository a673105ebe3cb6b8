//! A model of the cloud on paper: things are there at once, nothing costs anything, and every call is written down.
//!
//! `drill --plan` runs the very steps on it and shows what they called; preflight asks AWS about the same calls; and the property tests let
//! it fail, lose answers and forget for a while what was made. It knows what the steps depend on and no more: what comes with a VPC, what an
//! endpoint adds, what goes with an instance, what holds what when it is removed. What it shares with AWS is tested by one contract.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::cloud::{
    AclEntry, Act, Acted, At, Caller, Cloud, CloudError, Facts, FirewallRule, Grant, GroupRule, Guards, Image, InstanceFacts, Kind, Peer,
    Quota, Route, Tags, Thing, placeholder,
};
use super::{Scratch, ScratchError, steps};
use crate::domain::span::Span;

/// A call as it was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The action, with its service.
    pub action: String,
    /// What it is about; empty for looks.
    pub about: String,
    /// Further permissions that it takes.
    pub permissions: &'static [&'static str],
    /// The act; none for looks.
    pub act: Option<Act>,
}

impl Written {
    /// The action and whatever else it takes.
    #[must_use]
    pub fn all_permissions(&self) -> Vec<&str> {
        std::iter::once(self.action.as_str()).chain(self.permissions.iter().copied()).collect()
    }
}

/// What goes wrong with an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
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

type Weather = Box<dyn FnMut(&Act) -> Option<Fault> + Send>;

#[derive(Default)]
struct State {
    things: BTreeMap<String, Thing>,
    grants: BTreeMap<String, (String, String)>,
    tokens: BTreeMap<String, (Act, Acted)>,
    written: Vec<Written>,
    /// How often a thing is still not shown.
    hidden: BTreeMap<String, u32>,
    made: u64,
}

/// The model.
pub struct Paper {
    region: String,
    account: String,
    image: String,
    prefix_list: String,
    state: Mutex<State>,
    weather: Mutex<Option<Weather>>,
    /// Looks that do not show what was made.
    lag: u32,
}

const PREFIX_LIST: &str = "pl-00000000";

impl Paper {
    /// An empty region of an account.
    #[must_use]
    pub fn new(region: &str, account: &str, image: &str) -> Self {
        let (region, account, image) = (region.to_owned(), account.to_owned(), image.to_owned());
        Self { region, account, image, prefix_list: PREFIX_LIST.to_owned(), state: Mutex::default(), weather: Mutex::new(None), lag: 0 }
    }

    /// The same, with things that go wrong, and looks that show what was made only after so many of them.
    #[must_use]
    pub fn with_weather(mut self, lag: u32, weather: impl FnMut(&Act) -> Option<Fault> + Send + 'static) -> Self {
        self.lag = lag;
        self.weather = Mutex::new(Some(Box::new(weather)));
        self
    }

    /// Good weather from now on.
    pub fn calm(&self) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call so far.
    #[must_use]
    pub fn written(&self) -> Vec<Written> {
        self.state().written.clone()
    }

    /// Everything that is there.
    #[must_use]
    pub fn things(&self) -> Vec<Thing> {
        self.state().things.values().cloned().collect()
    }

    /// Grants that are there, by name.
    #[must_use]
    pub fn grant_names(&self) -> Vec<String> {
        self.state().grants.values().map(|(_, name)| name.clone()).collect()
    }

    /// Puts something there that is not ours.
    pub fn put(&self, thing: Thing) {
        self.state().things.insert(thing.id.clone(), thing);
    }

    fn write(&self, action: &str) {
        let action = action.to_owned();
        self.state().written.push(Written { action, about: String::new(), permissions: &[], act: None });
    }
}

impl State {
    fn id(&mut self, kind: Kind) -> String {
        self.made += 1;
        let pattern = placeholder(kind);
        let number = self.made.to_string();
        format!("{}{number}", &pattern[..pattern.len() - number.len()])
    }

    fn add(&mut self, kind: Kind, state: &str, tags: &Tags, facts: Facts) -> String {
        let id = self.id(kind);
        let thing = Thing { kind, id: id.clone(), state: state.to_owned(), reason: None, tags: tags.clone(), facts };
        self.things.insert(id.clone(), thing);
        id
    }

    fn facts(&mut self, id: &str) -> Result<&mut Facts, CloudError> {
        let missing = || CloudError::Missing { what: id.to_owned(), why: "it does not exist on paper".to_owned() };
        self.things.get_mut(id).map(|thing| &mut thing.facts).ok_or_else(missing)
    }

    fn of_vpc(&self, vpc: &str) -> impl Iterator<Item = &Thing> {
        self.things.values().filter(move |thing| vpc_of(thing) == Some(vpc))
    }

    /// What keeps a thing from being removed.
    fn holds(&self, id: &str) -> bool {
        let Some(thing) = self.things.get(id) else { return false };
        match thing.kind {
            Kind::Vpc => self.of_vpc(id).any(|other| !comes_with(other)),
            Kind::Subnet => self.things.values().any(|other| match &other.facts {
                Facts::Interface { subnet, .. } => subnet == id,
                Facts::Instance(facts) => facts.subnet == id && other.state != "terminated",
                _ => false,
            }),
            Kind::SecurityGroup => self.things.values().filter(|other| other.id != id).any(|other| match &other.facts {
                Facts::Interface { groups, .. } => groups.iter().any(|group| group == id),
                Facts::SecurityGroup { ingress, egress, .. } => {
                    ingress.iter().chain(egress).any(|rule| matches!(&rule.peer, Peer::Group(group) if group == id))
                }
                _ => false,
            }),
            Kind::RouteTable => {
                matches!(&thing.facts, Facts::RouteTable { routes, subnets, .. } if !subnets.is_empty() || routes.len() > 1)
            }
            Kind::NetworkAcl => matches!(&thing.facts, Facts::NetworkAcl { subnets, .. } if !subnets.is_empty()),
            _ => false,
        }
    }

    fn remove(&mut self, id: &str) {
        let Some(thing) = self.things.remove(id) else { return };
        match &thing.facts {
            Facts::Vpc { .. } => {
                let gone: Vec<String> = self.of_vpc(id).map(|thing| thing.id.clone()).collect();
                gone.iter().for_each(|id| drop(self.things.remove(id)));
            }
            Facts::Subnet { .. } => {
                for other in self.things.values_mut() {
                    match &mut other.facts {
                        Facts::RouteTable { subnets, .. } => subnets.retain(|subnet| subnet != id),
                        Facts::NetworkAcl { subnets, .. } => subnets.retain(|(_, subnet)| subnet != id),
                        _ => {}
                    }
                }
            }
            Facts::Endpoint { .. } => {
                let description = format!("VPC Endpoint Interface {id}");
                self.things.retain(|_, other| !matches!(&other.facts, Facts::Interface { description: of, .. } if *of == description));
                for other in self.things.values_mut() {
                    if let Facts::RouteTable { routes, .. } = &mut other.facts {
                        routes.retain(|route| route.via != id);
                    }
                }
            }
            Facts::Instance(facts) => {
                let volumes: Vec<String> = facts.volumes.iter().map(|(_, volume, _)| volume.clone()).collect();
                self.things.retain(|other, _| !volumes.contains(other));
                let description = format!("Primary network interface of {id}");
                self.things.retain(|_, other| !matches!(&other.facts, Facts::Interface { description: of, .. } if *of == description));
            }
            _ => {}
        }
    }
}

/// What came with its VPC, and goes with it.
fn comes_with(thing: &Thing) -> bool {
    match &thing.facts {
        Facts::RouteTable { is_main, .. } => *is_main,
        Facts::NetworkAcl { is_default, .. } => *is_default,
        Facts::SecurityGroup { name, .. } => name == "default",
        Facts::FlowLog { .. } => true,
        _ => false,
    }
}

fn vpc_of(thing: &Thing) -> Option<&str> {
    match &thing.facts {
        Facts::Subnet { vpc, .. }
        | Facts::RouteTable { vpc, .. }
        | Facts::NetworkAcl { vpc, .. }
        | Facts::SecurityGroup { vpc, .. }
        | Facts::Endpoint { vpc, .. }
        | Facts::FirewallAssociation { vpc, .. }
        | Facts::Interface { vpc, .. } => Some(vpc),
        Facts::FlowLog { resource, .. } => Some(resource),
        Facts::Instance(facts) => Some(&facts.vpc),
        Facts::Vpc { .. } | Facts::Volume { .. } | Facts::WayOut => None,
    }
}

fn last_word() -> Vec<AclEntry> {
    let word =
        |egress| AclEntry { egress, number: 32_767, allow: false, protocol: "-1".to_owned(), cidr: "0.0.0.0/0".to_owned(), ports: None };
    vec![word(false), word(true)]
}

impl State {
    #[allow(clippy::too_many_lines, reason = "one arm for each act")]
    fn act(&mut self, act: &Act, tags: &Tags, prefix_list: &str) -> Result<Acted, CloudError> {
        let none = Tags::new();
        let made = |id: String| Ok(Acted { id, grant_token: None });
        match act {
            Act::CreateVpc { cidr, tenancy } => {
                let (cidrs, tenancy) = (vec![cidr.clone()], tenancy.clone());
                let vpc = self.add(Kind::Vpc, "available", tags, Facts::Vpc { cidrs, ipv6: vec![], tenancy, is_default: false });
                let local = vec![Route { to: cidr.clone(), via: "local".to_owned() }];
                let table = Facts::RouteTable { vpc: vpc.clone(), routes: local, subnets: vec![], is_main: true };
                self.add(Kind::RouteTable, "", &none, table);
                let acl = Facts::NetworkAcl { vpc: vpc.clone(), entries: last_word(), subnets: vec![], is_default: true };
                self.add(Kind::NetworkAcl, "", &none, acl);
                let group = Facts::SecurityGroup { vpc: vpc.clone(), name: "default".to_owned(), ingress: vec![], egress: vec![] };
                self.add(Kind::SecurityGroup, "", &none, group);
                made(vpc)
            }
            Act::EnableDns { vpc } => self.facts(vpc).map(|_| Acted::default()),
            Act::CreateRouteTable { vpc } => {
                let Facts::Vpc { cidrs, .. } = self.facts(vpc)?.clone() else { return made(String::new()) };
                let routes = cidrs.into_iter().map(|to| Route { to, via: "local".to_owned() }).collect();
                made(self.add(Kind::RouteTable, "", tags, Facts::RouteTable { vpc: vpc.clone(), routes, subnets: vec![], is_main: false }))
            }
            Act::CreateNetworkAcl { vpc } => {
                self.facts(vpc)?;
                let facts = Facts::NetworkAcl { vpc: vpc.clone(), entries: last_word(), subnets: vec![], is_default: false };
                made(self.add(Kind::NetworkAcl, "", tags, facts))
            }
            Act::AddAclEntry { acl, entry } => {
                if let Facts::NetworkAcl { entries, .. } = self.facts(acl)?
                    && !entries.contains(entry)
                {
                    entries.push(entry.clone());
                    entries.sort();
                }
                made(String::new())
            }
            Act::CreateSecurityGroup { vpc, name, .. } => {
                self.facts(vpc)?;
                let everything = GroupRule { protocol: "-1".to_owned(), ports: None, peer: Peer::Cidr("0.0.0.0/0".to_owned()) };
                let (vpc, name) = (vpc.clone(), name.clone());
                made(self.add(Kind::SecurityGroup, "", tags, Facts::SecurityGroup { vpc, name, ingress: vec![], egress: vec![everything] }))
            }
            Act::AddRules { group, egress, rules } | Act::DropRules { group, egress, rules } => {
                if let Facts::SecurityGroup { ingress, egress: out, .. } = self.facts(group)? {
                    let list = if *egress { out } else { ingress };
                    list.retain(|rule| !rules.contains(rule));
                    if matches!(act, Act::AddRules { .. }) {
                        list.extend(rules.iter().cloned());
                    }
                    list.sort();
                }
                made(String::new())
            }
            Act::CreateSubnet { vpc, cidr, zone } => {
                self.facts(vpc)?;
                let (of, cidr, zone) = (vpc.clone(), cidr.clone(), zone.clone());
                let subnet =
                    self.add(Kind::Subnet, "available", tags, Facts::Subnet { vpc: of, cidr, zone, ipv6: vec![], public_ips: false });
                for thing in self.things.values_mut() {
                    if let Facts::NetworkAcl { vpc: of, subnets, is_default: true, .. } = &mut thing.facts
                        && of == vpc
                    {
                        subnets.push((subnet.replace("subnet-", "aclassoc-"), subnet.clone()));
                    }
                }
                made(subnet)
            }
            Act::AssociateRouteTable { table, subnet } => {
                if let Facts::RouteTable { subnets, .. } = self.facts(table)?
                    && !subnets.contains(subnet)
                {
                    subnets.push(subnet.clone());
                }
                made(String::new())
            }
            Act::ReplaceAclAssociation { association, acl } => {
                let mut moved = None;
                for thing in self.things.values_mut() {
                    if let Facts::NetworkAcl { subnets, .. } = &mut thing.facts
                        && let Some(at) = subnets.iter().position(|(id, _)| id == association)
                    {
                        moved = Some(subnets.remove(at).1);
                    }
                }
                let missing = || CloudError::Missing { what: association.clone(), why: "it is no association".to_owned() };
                let subnet = moved.ok_or_else(missing)?;
                if let Facts::NetworkAcl { subnets, .. } = self.facts(acl)? {
                    subnets.push((association.replace("aclassoc-0", "aclassoc-1"), subnet));
                }
                made(String::new())
            }
            Act::CreateGatewayEndpoint { vpc, service, table, policy } => {
                self.facts(vpc)?;
                let facts = Facts::Endpoint {
                    vpc: vpc.clone(),
                    service: service.clone(),
                    form: "Gateway".to_owned(),
                    policy: policy.clone(),
                    tables: vec![table.clone()],
                    subnets: vec![],
                    groups: vec![],
                    private_dns: false,
                };
                let id = self.add(Kind::Endpoint, "available", tags, facts);
                if let Facts::RouteTable { routes, .. } = self.facts(table)? {
                    routes.push(Route { to: prefix_list.to_owned(), via: id.clone() });
                    routes.sort();
                }
                made(id)
            }
            Act::CreateInterfaceEndpoint { vpc, service, subnet, group, policy } => {
                self.facts(subnet)?;
                let (subnets, groups) = (vec![subnet.clone()], vec![group.clone()]);
                let facts = Facts::Endpoint {
                    vpc: vpc.clone(),
                    service: service.clone(),
                    form: "Interface".to_owned(),
                    policy: policy.clone(),
                    tables: vec![],
                    subnets,
                    groups: groups.clone(),
                    private_dns: true,
                };
                let id = self.add(Kind::Endpoint, "available", tags, facts);
                let description = format!("VPC Endpoint Interface {id}");
                let facts = Facts::Interface { vpc: vpc.clone(), subnet: subnet.clone(), groups, description };
                self.add(Kind::Interface, "in-use", &none, facts);
                made(id)
            }
            Act::AssociateFirewall { vpc, rules, .. } => {
                let facts = Facts::FirewallAssociation { vpc: vpc.clone(), rules: rules.clone(), priority: 101 };
                made(self.add(Kind::FirewallAssociation, "COMPLETE", tags, facts))
            }
            Act::CreateFlowLogs { vpc, destination, .. } => {
                self.facts(vpc)?;
                let facts = Facts::FlowLog { resource: vpc.clone(), destination: destination.clone(), traffic: "ALL".to_owned() };
                made(self.add(Kind::FlowLog, "ACTIVE", tags, facts))
            }
            Act::CreateGrant { key, name, .. } => {
                if let Some((id, _)) = self.grants.iter().find(|(_, grant)| **grant == (key.clone(), name.clone())) {
                    return Ok(Acted { id: id.clone(), grant_token: Some(format!("token-of-{id}")) });
                }
                self.made += 1;
                let id = format!("grant-{}", self.made);
                self.grants.insert(id.clone(), (key.clone(), name.clone()));
                Ok(Acted { grant_token: Some(format!("token-of-{id}")), id })
            }
            Act::RevokeGrant { grant, .. } => {
                self.grants.remove(grant);
                made(String::new())
            }
            Act::RunInstances(launch) => {
                let Facts::Subnet { vpc, zone, .. } = self.facts(&launch.subnet)?.clone() else { return made(String::new()) };
                let instance = self.id(Kind::Instance);
                let mut volumes = Vec::new();
                for volume in &launch.volumes {
                    let facts = Facts::Volume {
                        encrypted: true,
                        key: Some(volume.key.clone()),
                        zone: zone.clone(),
                        instance: Some(instance.clone()),
                    };
                    volumes.push((volume.device.clone(), self.add(Kind::Volume, "in-use", tags, facts), true));
                }
                let groups = vec![launch.group.clone()];
                let description = format!("Primary network interface of {instance}");
                let interface = Facts::Interface { vpc: vpc.clone(), subnet: launch.subnet.clone(), groups: groups.clone(), description };
                self.add(Kind::Interface, "in-use", tags, interface);
                let facts = Facts::Instance(Box::new(InstanceFacts {
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
                let thing = Thing {
                    kind: Kind::Instance,
                    id: instance.clone(),
                    state: "running".to_owned(),
                    reason: None,
                    tags: tags.clone(),
                    facts,
                };
                self.things.insert(instance.clone(), thing);
                made(instance)
            }
            Act::Remove(owned) => {
                if self.holds(owned.id()) {
                    return Err(CloudError::Busy { what: owned.id().to_owned(), why: "DependencyViolation".to_owned() });
                }
                self.remove(owned.id());
                made(String::new())
            }
        }
    }
}

#[async_trait]
impl Cloud for Paper {
    fn region(&self) -> &str {
        &self.region
    }

    async fn caller(&self) -> Result<Caller, CloudError> {
        self.write("sts:GetCallerIdentity");
        Ok(Caller { account: self.account.clone(), arn: format!("arn:aws:iam::{}:role/paper", self.account) })
    }

    async fn act(&self, act: &Act, tags: &Tags, token: &str) -> Result<Acted, CloudError> {
        let (action, about) = (act.action().to_owned(), act.subject());
        self.state().written.push(Written { action, about, permissions: act.permissions(), act: Some(act.clone()) });
        let fault = self.weather.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(|weather| weather(act));
        let what = act.action().to_owned();
        match fault {
            Some(Fault::Refuse) => return Err(CloudError::Refused { what, why: "bad weather".to_owned() }),
            Some(Fault::Throttle) => return Err(CloudError::Unavailable { what, why: "bad weather".to_owned() }),
            Some(Fault::Drop) => return Err(CloudError::Unknown { what, why: "bad weather".to_owned() }),
            Some(Fault::NoCapacity) => return Err(CloudError::NoCapacity { what, why: "bad weather".to_owned() }),
            Some(Fault::LoseAnswer) | None => {}
        }
        let mut state = self.state();
        let takes_token = matches!(
            act,
            Act::CreateRouteTable { .. }
                | Act::CreateNetworkAcl { .. }
                | Act::CreateGatewayEndpoint { .. }
                | Act::CreateInterfaceEndpoint { .. }
                | Act::CreateFlowLogs { .. }
                | Act::AssociateFirewall { .. }
                | Act::RunInstances(_)
        );
        let before = state.tokens.get(token).filter(|_| takes_token).cloned();
        let acted = match before {
            Some((same, acted)) if same == *act => acted,
            Some(_) => return Err(CloudError::Refused { what, why: "IdempotentParameterMismatch".to_owned() }),
            None => {
                let there: BTreeSet<String> = state.things.keys().cloned().collect();
                let acted = state.act(act, tags, &self.prefix_list)?;
                let new: Vec<String> = state.things.keys().filter(|id| !there.contains(*id)).cloned().collect();
                state.hidden.extend(new.into_iter().map(|id| (id, self.lag)));
                if takes_token {
                    state.tokens.insert(token.to_owned(), (act.clone(), acted.clone()));
                }
                acted
            }
        };
        if fault == Some(Fault::LoseAnswer) {
            return Err(CloudError::Unknown { what, why: "bad weather".to_owned() });
        }
        Ok(acted)
    }

    async fn try_out(&self, _: &Act, _: &Tags) -> Result<(), CloudError> {
        Ok(())
    }

    async fn look(&self, kind: Kind, at: &At) -> Result<Vec<Thing>, CloudError> {
        self.write(kind.look_action());
        let mut state = self.state();
        let matches = |thing: &Thing| {
            thing.kind == kind
                && match at {
                    At::Id(id) => thing.id == *id,
                    At::Vpc(vpc) => vpc_of(thing) == Some(vpc),
                    At::Tagged(tags) => thing.carries(tags),
                }
        };
        let found: Vec<Thing> = state.things.values().filter(|thing| matches(thing)).cloned().collect();
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
        Ok(types.iter().flat_map(|kind| zones.iter().map(|zone| (kind.clone(), zone.clone()))).collect())
    }

    async fn image(&self, id: &str) -> Result<Option<Image>, CloudError> {
        self.write("ec2:DescribeImages");
        let image = Image {
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

    async fn quotas(&self, _: &str) -> Result<Vec<Quota>, CloudError> {
        for action in ["servicequotas:GetServiceQuota", "ec2:DescribeVpcs", "ec2:DescribeInstances", "ec2:DescribeInstanceTypes"] {
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

    async fn grants(&self, key: &str) -> Result<Vec<Grant>, CloudError> {
        self.write("kms:ListGrants");
        let state = self.state();
        let of_key = state.grants.iter().filter(|(_, (of, _))| of == key);
        Ok(of_key.map(|(id, (_, name))| Grant { id: id.clone(), name: name.clone() }).collect())
    }

    async fn guards(&self) -> Result<Guards, CloudError> {
        for action in ["ec2:DescribeVpcBlockPublicAccessOptions", "ec2:GetEbsEncryptionByDefault", "ec2:GetSerialConsoleAccessStatus"] {
            self.write(action);
        }
        Ok(Guards { block_public_access: "block-bidirectional".to_owned(), encryption_by_default: true, serial_console: false })
    }
}

/// A phase of a run and the calls it makes.
pub type Phase = (&'static str, Vec<Written>);

/// Runs everything that a drill does with the cloud on paper, from preflight to census; returns what each phase called.
///
/// # Errors
/// [`ScratchError`] if the settings cannot come to a good end even on paper.
pub async fn rehearse(of: &Scratch, time_to_live: Span) -> Result<Vec<Phase>, ScratchError> {
    let settings = &of.spec.settings;
    let mut paper = Paper::new(&settings.region, &settings.account, "");
    if !of.prefix_list.is_empty() {
        paper.prefix_list.clone_from(&of.prefix_list);
    }
    let paper = Arc::new(paper);
    let mut spec = of.spec.clone();
    spec.settings.poll = Span::seconds(0);
    let cloud: Arc<dyn Cloud> = Arc::<Paper>::clone(&paper);
    let mut scratch = Scratch::new(cloud, spec, 0.0, CancellationToken::new());
    (scratch.image, scratch.prefix_list) = (of.image.clone(), paper.prefix_list.clone());
    let mut phases: Vec<Phase> = Vec::new();
    let mut seen = 0;
    let mut phase = |name: &'static str| {
        let all = paper.written();
        phases.push((name, all[seen..].to_vec()));
        seen = all.len();
    };
    // On paper there is nothing to try out, and asking would ask for this very list.
    let _ = scratch.cloud().clone().caller().await;
    let ask = scratch.cloud().clone();
    let _ = (ask.image(&scratch.image).await, ask.prefix_list("").await, ask.offers(&[]).await, ask.quotas("").await);
    if let Some(group) = &scratch.spec.settings.dns_firewall {
        let _ = ask.firewall_rules(group).await;
    }
    let _ = (ask.guards().await, time_to_live);
    phase("preflight (and a dry run of everything below that has one)");
    macro_rules! make {
        ($($step:expr),*) => { $( drop(crate::saga::Step::act(&$step, &mut scratch).await?); )* };
    }
    make!(steps::MakeVpc, steps::MakeTable, steps::MakeAcl, steps::MakeGroups, steps::OpenBucket, steps::CloseNames, steps::LogFlows);
    make!(steps::MakeSubnet, steps::OpenKeys);
    phase("the place");
    scratch.pass_gate().await?;
    phase("the isolation gate");
    make!(steps::GrantKeys, steps::Launched);
    phase("the instance");
    let instance = scratch.made.instance.clone();
    let _ = (ask.console(&instance).await, scratch.look(Kind::Instance, &At::Id(instance.clone())).await);
    scratch.still_holds().await?;
    phase("following it, and a last look at the place");
    for undo in steps::undos().iter().rev() {
        undo.undo(&mut scratch).await.map_err(ScratchError::Wrong)?;
    }
    phase("teardown");
    let (_, left) = scratch.census().await;
    phase("the census");
    if left.is_empty() { Ok(phases) } else { Err(ScratchError::Wrong(format!("on paper these are left: {}", left.join(", ")))) }
}

/// Every act of a run, as it would be called with things that do not exist.
pub async fn acts(of: &Scratch) -> Vec<Act> {
    let phases = rehearse(of, Span::seconds(3600)).await.unwrap_or_default();
    phases.into_iter().flat_map(|(_, written)| written).filter_map(|written| written.act).collect()
}

//! The DNS firewall of Route 53 Resolver, which moto does not have.
//! <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/resolver-dns-firewall.html>
//!
//! - An association is `UPDATING` before it is `COMPLETE`, and `DELETING` before it is gone; its
//!   VPC is not deleted before that.
//!   <https://docs.aws.amazon.com/Route53/latest/APIReference/API_route53resolver_FirewallRuleGroupAssociation.html>
//! - Priorities of a VPC are from 101 to 9,899, and differ; a group protects a VPC once. The same
//!   CreatorRequestId: the same association.
//!   <https://docs.aws.amazon.com/Route53/latest/APIReference/API_route53resolver_AssociateFirewallRuleGroup.html>
//! - Domains end with a dot when they are told. <https://docs.aws.amazon.com/Route53/latest/APIReference/API_route53resolver_ListFirewallDomains.html>

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::network;
use super::query::Query;
use super::rules::Fault;
use super::things::{self, Fate, Thing};
use super::world::{Answer, Countdown, Refusal, State, World, refusal, written_time};

#[derive(Default)]
pub struct Firewall {
    groups: BTreeMap<String, Group>,
    pub associations: BTreeMap<String, Association>,
    /// What was asked with a CreatorRequestId, and the association it made.
    requests: HashMap<String, (BTreeMap<String, String>, String)>,
}

struct Group {
    region: String,
    /// Priority, action, list and its domains.
    rules: Vec<(i32, String, String, Vec<String>)>,
}

pub struct Association {
    pub region: String,
    pub tags: BTreeMap<String, String>,
    vpc: String,
    group: String,
    name: String,
    priority: i32,
    protected: bool,
    request: String,
    since: String,
    leaving: Option<Countdown>,
}

impl Firewall {
    pub fn add(&mut self, id: &str, region: &str, rules: Vec<(i32, String, String, Vec<String>)>) {
        self.groups.insert(id.to_owned(), Group { region: region.to_owned(), rules });
    }

    /// Whether any protects a VPC; that is a look at those that go.
    pub fn in_use(&mut self, vpc: &str) -> bool {
        let of = |(_, one): &(&String, &Association)| one.vpc == vpc;
        let ids: Vec<String> =
            self.associations.iter().filter(of).map(|(id, _)| id.clone()).collect();
        ids.iter().for_each(|id| self.look(id));
        !ids.is_empty()
    }

    fn look(&mut self, id: &str) {
        let leaving = self.associations.get_mut(id).and_then(|one| one.leaving.as_mut());
        if leaving.is_some_and(|countdown| countdown.tick() || countdown.done()) {
            self.associations.remove(id);
        }
    }

    pub fn settle(&mut self) {
        self.associations.retain(|_, one| one.leaving.is_none());
    }
}

pub const ACTIONS: [&str; 10] = [
    "AssociateFirewallRuleGroup",
    "DisassociateFirewallRuleGroup",
    "GetFirewallRuleGroupAssociation",
    "ListFirewallRuleGroupAssociations",
    "GetFirewallRuleGroup",
    "ListFirewallRules",
    "GetFirewallDomainList",
    "ListFirewallDomains",
    "ListTagsForResource",
    "GetFirewallConfig",
];

pub async fn answer(world: &World, query: &Query, account: &str) -> Answer<Value> {
    match query.action.as_str() {
        "AssociateFirewallRuleGroup" => associate(world, query, account).await,
        "DisassociateFirewallRuleGroup" => disassociate(world, query, account),
        "GetFirewallRuleGroupAssociation" => get(world, query, account),
        "ListFirewallRuleGroupAssociations" => list(world, query, account),
        "GetFirewallRuleGroup" => get_group(world, query, account),
        "ListFirewallRules" => list_rules(world, query),
        "GetFirewallDomainList" => get_list(world, query),
        "ListFirewallDomains" => list_domains(world, query),
        "ListTagsForResource" => list_tags(world, query),
        "GetFirewallConfig" => config(world, query, account).await,
        other => Err(refusal("UnknownOperationException", format!("{other} is not modelled"))),
    }
}

fn missing(id: &str) -> Refusal {
    refusal(
        "ResourceNotFoundException",
        format!("The resource with the id '{id}' could not be found"),
    )
}

fn arn(query: &Query, account: &str, kind: &str, id: &str) -> String {
    format!("arn:aws:route53resolver:{}:{account}:{kind}/{id}", query.region)
}

fn told(state: &State, query: &Query, account: &str, id: &str) -> Value {
    let one = &state.firewall.associations[id];
    let status = if one.leaving.is_some() {
        "DELETING"
    } else {
        things::state_of(state, id, ["UPDATING", "COMPLETE", "UPDATING"])
    };
    json!({
        "Id": id,
        "Arn": arn(query, account, "firewall-rule-group-association", id),
        "FirewallRuleGroupId": one.group,
        "VpcId": one.vpc,
        "Name": one.name,
        "Priority": one.priority,
        "MutationProtection": if one.protected { "ENABLED" } else { "DISABLED" },
        "Status": status,
        "StatusMessage": "",
        "CreatorRequestId": one.request,
        "CreationTime": one.since,
        "ModificationTime": one.since,
    })
}

async fn associate(world: &World, query: &Query, account: &str) -> Answer<Value> {
    let get = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let [group, vpc, name, request] =
        ["FirewallRuleGroupId", "VpcId", "Name", "CreatorRequestId"].map(get);
    let before = world.state().firewall.requests.get(&request).cloned();
    if let Some((asked, id)) = before {
        let state = world.state();
        return match state.firewall.associations.contains_key(&id) {
            true if asked == query.params => {
                Ok(json!({"FirewallRuleGroupAssociation": told(&state, query, account, &id)}))
            }
            _ => Err(refusal("ConflictException", "The CreatorRequestId was used before")),
        };
    }
    let priority = query
        .get("Priority")
        .and_then(|priority| priority.parse().ok())
        .filter(|priority| (101..=9899).contains(priority));
    let priority = priority
        .ok_or_else(|| refusal("ValidationException", "Priority must be from 101 to 9899"))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_' ".contains(&byte);
    if name.is_empty()
        || name.len() > 64
        || !name.bytes().all(plain)
        || name.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(refusal(
            "ValidationException",
            "Name: up to 64 letters, digits, spaces, -, _ and '",
        ));
    }
    if request.is_empty() || request.len() > 255 {
        return Err(refusal("ValidationException", "CreatorRequestId has 1 to 255 characters"));
    }
    if network::vpc(world, &query.asking("DescribeVpcs"), &vpc).await.is_err() {
        return Err(missing(&vpc));
    }
    {
        let state = world.state();
        state
            .firewall
            .groups
            .get(&group)
            .filter(|known| known.region == query.region)
            .ok_or_else(|| missing(&group))?;
        let mut others = state.firewall.associations.values().filter(|one| one.vpc == vpc);
        if others.any(|one| one.priority == priority || one.group == group) {
            return Err(refusal(
                "ConflictException",
                format!("{vpc} has an association of this priority or group"),
            ));
        }
    }
    let tags =
        (1..).map_while(|n| query.get(&format!("Tags.{n}.Key")).map(|key| (n, key.to_owned())));
    let tags = tags
        .map(|(n, key)| (key, query.get(&format!("Tags.{n}.Value")).unwrap_or_default().to_owned()))
        .collect();
    let id = world.state().new_id("rslvr-frgassoc");
    let fate = if world.rules.strikes(query, &[&vpc, &group], &Fault::NeverAssociates) {
        Fate::Never
    } else {
        Fate::Ready
    };
    let looks = world.state().settings.association;
    things::made(world, query, &id, looks, fate);
    let mut state = world.state();
    let since = written_time(state.now());
    let protected = query.get("MutationProtection") == Some("ENABLED");
    let region = query.region.clone();
    let one = Association {
        region,
        tags,
        vpc,
        group,
        name,
        priority,
        protected,
        request: request.clone(),
        since,
        leaving: None,
    };
    state.firewall.associations.insert(id.clone(), one);
    state.firewall.requests.insert(request, (query.params.clone(), id.clone()));
    Ok(json!({"FirewallRuleGroupAssociation": told(&state, query, account, &id)}))
}

fn known(world: &World, query: &Query) -> Answer<String> {
    let id = query.get("FirewallRuleGroupAssociationId").unwrap_or_default();
    let state = world.state();
    let found = state.firewall.associations.get(id).filter(|one| one.region == query.region);
    found.map(|_| id.to_owned()).ok_or_else(|| missing(id))
}

fn disassociate(world: &World, query: &Query, account: &str) -> Answer<Value> {
    let id = known(world, query)?;
    let mut state = world.state();
    let looks = state.settings.disassociation;
    let one = state.firewall.associations.get_mut(&id).unwrap();
    if one.protected {
        return Err(refusal(
            "ValidationException",
            "The association is protected against mutation",
        ));
    }
    if one.leaving.is_some() {
        return Err(refusal("ConflictException", "The association is being deleted"));
    }
    one.leaving = Some(Countdown::of(looks));
    let told = told(&state, query, account, &id);
    state.things.remove(&id);
    if looks == 0 {
        state.firewall.associations.remove(&id);
    }
    Ok(json!({"FirewallRuleGroupAssociation": told}))
}

/// Whether it is to be seen; each look brings it nearer.
fn seen(state: &mut State, id: &str) -> bool {
    let Some(thing) = state.things.get_mut(id) else { return true };
    let seen = thing.unseen.done();
    thing.unseen.tick();
    seen
}

fn looked_at(state: &mut State, id: &str) {
    state.things.get_mut(id).into_iter().for_each(Thing::look);
    state.firewall.look(id);
}

fn get(world: &World, query: &Query, account: &str) -> Answer<Value> {
    let id = known(world, query)?;
    let mut state = world.state();
    if !seen(&mut state, &id) {
        return Err(missing(&id));
    }
    let told = told(&state, query, account, &id);
    looked_at(&mut state, &id);
    Ok(json!({"FirewallRuleGroupAssociation": told}))
}

/// Tags are not told here.
/// <https://docs.aws.amazon.com/Route53/latest/APIReference/API_route53resolver_ListFirewallRuleGroupAssociations.html>
fn list(world: &World, query: &Query, account: &str) -> Answer<Value> {
    let mut state = world.state();
    let here = state.firewall.associations.iter().filter(|(_, one)| one.region == query.region);
    let ids: Vec<String> = here.map(|(id, _)| id.clone()).collect();
    let mut found = Vec::new();
    for id in ids {
        let told = told(&state, query, account, &id);
        let wanted = ["FirewallRuleGroupId", "VpcId", "Status", "Priority"].iter().all(|name| {
            query.get(name).is_none_or(|wanted| {
                told[*name].as_str().map_or_else(|| told[*name].to_string(), str::to_owned)
                    == wanted
            })
        });
        let first = query.get("NextToken").is_none();
        if wanted
            && (!first || seen(&mut state, &id))
            && state.things.get(&id).is_none_or(|thing| thing.unseen.done())
        {
            found.push((id, told));
        }
    }
    let (page, token) = cut(&mut state, query, found)?;
    page.iter().for_each(|(id, _)| looked_at(&mut state, id));
    let told: Vec<Value> = page.into_iter().map(|(_, told)| told).collect();
    Ok(paged("FirewallRuleGroupAssociations", told, token))
}

fn paged(name: &str, items: Vec<Value>, token: Option<String>) -> Value {
    let mut answer = json!({ name: items });
    if let Some(token) = token {
        answer["NextToken"] = token.into();
    }
    answer
}

/// Items with what their order goes by.
type Items = Vec<(String, Value)>;

/// A page of items, and the token of the next.
fn cut(state: &mut State, query: &Query, mut found: Items) -> Answer<(Items, Option<String>)> {
    let mut of = query.clone();
    of.params.retain(|name, _| name != "NextToken" && name != "MaxResults");
    let of = format!("{} {} {} {:?}", of.key, of.region, of.action, of.params);
    if let Some(token) = query.get("NextToken") {
        let known = state.pages.get(token).filter(|(for_what, _)| *for_what == of);
        let (_, after) =
            known.ok_or_else(|| refusal("InvalidNextTokenException", "The token is not valid"))?;
        found.retain(|(id, _)| id > after);
    }
    let more = found.len() > state.settings.page;
    found.truncate(state.settings.page);
    let token = found.last().filter(|_| more).map(|(id, _)| id.clone()).map(|last| {
        let token = format!("page{:08x}", state.number().wrapping_mul(0x9E37_79B9) & 0xFFFF_FFFF);
        state.pages.insert(token.clone(), (of, last));
        token
    });
    Ok((found, token))
}

fn group<'a>(state: &'a State, query: &Query) -> Answer<&'a Group> {
    let id = query.get("FirewallRuleGroupId").unwrap_or_default();
    state
        .firewall
        .groups
        .get(id)
        .filter(|group| group.region == query.region)
        .ok_or_else(|| missing(id))
}

fn get_group(world: &World, query: &Query, account: &str) -> Answer<Value> {
    let state = world.state();
    let (id, group) = (query.get("FirewallRuleGroupId").unwrap_or_default(), group(&state, query)?);
    let arn = arn(query, account, "firewall-rule-group", id);
    Ok(
        json!({"FirewallRuleGroup": {"Id": id, "Arn": arn, "Name": id, "RuleCount": group.rules.len(), "Status": "COMPLETE",
        "OwnerId": account, "ShareStatus": "NOT_SHARED"}}),
    )
}

/// <https://docs.aws.amazon.com/Route53/latest/APIReference/API_route53resolver_FirewallRule.html>
fn list_rules(world: &World, query: &Query) -> Answer<Value> {
    let mut state = world.state();
    let rule = |(priority, action, list, _): &(i32, String, String, Vec<String>)| {
        let mut told = json!({"FirewallRuleGroupId": query.get("FirewallRuleGroupId"), "FirewallDomainListId": list,
            "Name": format!("rule-{priority}"), "Priority": priority, "Action": action, "CreatorRequestId": list});
        if action == "BLOCK" {
            told["BlockResponse"] = "NODATA".into();
        }
        (format!("{priority:010}"), told)
    };
    let wanted = |told: &Value| {
        let is = |name: &str, told: String| query.get(name).is_none_or(|wanted| wanted == told);
        is("Priority", told["Priority"].to_string())
            && is("Action", told["Action"].as_str().unwrap_or_default().to_owned())
    };
    let mut rules: Items =
        group(&state, query)?.rules.iter().map(rule).filter(|(_, told)| wanted(told)).collect();
    rules.sort_by(|a, b| a.0.cmp(&b.0));
    let (page, token) = cut(&mut state, query, rules)?;
    Ok(paged("FirewallRules", page.into_iter().map(|(_, told)| told).collect(), token))
}

fn domains(state: &State, query: &Query) -> Answer<Vec<String>> {
    let id = query.get("FirewallDomainListId").unwrap_or_default();
    let groups = state.firewall.groups.values().filter(|group| group.region == query.region);
    let found = groups.flat_map(|group| &group.rules).find(|(_, _, list, _)| list == id);
    found.map(|(_, _, _, domains)| domains.clone()).ok_or_else(|| missing(id))
}

fn get_list(world: &World, query: &Query) -> Answer<Value> {
    let id = query.get("FirewallDomainListId");
    let count = domains(&world.state(), query)?.len();
    Ok(
        json!({"FirewallDomainList": {"Id": id, "Name": id, "DomainCount": count, "Status": "COMPLETE"}}),
    )
}

fn list_domains(world: &World, query: &Query) -> Answer<Value> {
    let mut state = world.state();
    let dotted = |domain: String| if domain.ends_with('.') { domain } else { format!("{domain}.") };
    let mut found: Items = domains(&state, query)?
        .into_iter()
        .map(dotted)
        .map(|domain| (domain.clone(), domain.into()))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let (page, token) = cut(&mut state, query, found)?;
    Ok(paged("Domains", page.into_iter().map(|(_, domain)| domain).collect(), token))
}

fn list_tags(world: &World, query: &Query) -> Answer<Value> {
    let arn = query.get("ResourceArn").unwrap_or_default();
    let id = arn.rsplit('/').next().unwrap_or_default();
    let mut state = world.state();
    let association = state.firewall.associations.get(id).filter(|one| one.region == query.region);
    let tags = association.map(|one| one.tags.clone()).ok_or_else(|| missing(arn))?;
    let tags = tags
        .into_iter()
        .map(|(key, value)| (key.clone(), json!({"Key": key, "Value": value})))
        .collect();
    let (page, token) = cut(&mut state, query, tags)?;
    Ok(paged("Tags", page.into_iter().map(|(_, tag)| tag).collect(), token))
}

/// Whether queries pass when the firewall does not answer.
/// <https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/resolver-dns-firewall-vpc-configuration.html>
async fn config(world: &World, query: &Query, account: &str) -> Answer<Value> {
    let vpc = query.get("ResourceId").unwrap_or_default();
    network::vpc(world, &query.asking("DescribeVpcs"), vpc).await.map_err(|_| missing(vpc))?;
    let open = if world.state().settings.fail_open { "ENABLED" } else { "DISABLED" };
    Ok(
        json!({"FirewallConfig": {"Id": format!("rslvr-fc-{vpc}"), "ResourceId": vpc, "OwnerId": account, "FirewallFailOpen": open}}),
    )
}

impl Association {
    /// What it is, but not how far it has come.
    pub fn text(&self) -> String {
        format!(
            "{} of {} as {} at {}, protected: {}, since {}",
            self.group, self.vpc, self.name, self.priority, self.protected, self.since
        )
    }
}

//! The saga's theorems for every step of a scratch VPC, through the front: fail before, act and
//! lose the answer, die, undo twice. Afterwards the account holds nothing of ours, and everything
//! that was not ours as it was. One contract holds on AWS' stand-in and on paper, and is why
//! some thirty runs here are enough: the thousands are run on paper (`scratch_paper.rs`).
//!
//! Storms are random and repeatable: the seed is printed when one fails, and `LIFEBOAT_STORM=seed`
//! runs that one alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat::domain::human_duration::HumanDuration;
use lifeboat::domain::scratch::{ScratchSettings, own_tags};
use lifeboat::saga::{InMemoryJournal, Saga};
use lifeboat::sandbox::vpc::aws::AwsCloud;
use lifeboat::sandbox::vpc::cloud::{
    ApiCall, CloudError, OwnedResource, ResourceKind, ResourceScope, ResourceTags,
    ScratchCloud as Trait,
};
use lifeboat::sandbox::vpc::simulated_cloud::SimulatedCloud;
use lifeboat::sandbox::vpc::{ScratchVpc, steps};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::cloud::{Cloud, Rule};
use crate::support::scratch::{ACCOUNT, REGION, block_on, forward, inventory, settings};

struct Sky {
    cloud: Arc<Cloud>,
    ec2: Arc<dyn Trait>,
    settings: ScratchSettings,
    key: String,
    foreign: BTreeMap<String, String>,
}

impl Sky {
    fn new() -> Self {
        let cloud = Arc::new(Cloud::start());
        let image = cloud.register_image(REGION, "scratch");
        let firewall = cloud.firewall_group(
            REGION,
            &[(10, "ALLOW", &["*.amazonaws.com."][..]), (20, "BLOCK", &["*."][..])],
        );
        cloud.seed_production(REGION);
        let credentials =
            aws_sdk_ec2::config::Credentials::new("testing", "testing", None, None, "test");
        let retries = aws_config::retry::RetryConfig::standard()
            .with_max_attempts(2)
            .with_initial_backoff(Duration::from_millis(2));
        let loader = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .region(aws_config::Region::new(REGION));
        let loader =
            loader.endpoint_url(&cloud.url).credentials_provider(credentials).retry_config(retries);
        let (shared, key) = block_on(async {
            let shared = loader.load().await;
            let made = aws_sdk_kms::Client::new(&shared).create_key().send().await.unwrap();
            (shared, made.key_metadata.unwrap().arn.unwrap())
        });
        let foreign = inventory(&cloud, REGION);
        Self {
            ec2: Arc::new(AwsCloud::of(REGION, &shared)),
            settings: ScratchSettings {
                // Long enough for what takes looks, short enough for what never comes.
                settle_within: HumanDuration::milliseconds(700),
                poll: HumanDuration::milliseconds(2),
                ..settings(&image, &firewall)
            },
            key,
            foreign,
            cloud,
        }
    }

    /// Where nothing goes wrong nothing is in a hurry: a slow machine is no storm.
    fn calm(&self, run: &str) -> ScratchVpc {
        let mut scratch = self.scratch(run);
        scratch.spec.settings.settle_within = HumanDuration::seconds(30);
        scratch
    }

    fn scratch(&self, run: &str) -> ScratchVpc {
        crate::support::scratch::scratch(&self.ec2, &self.settings, &self.key, run)
    }
}

/// A run in bad weather, an end by another process that knows the journal and the tags, and undoing
/// twice. Fails with what is left.
async fn sail(
    sky: &Sky,
    mut scratch: ScratchVpc,
    rules: Vec<Rule>,
    die_after: usize,
) -> Result<Result<(), String>, String> {
    rules.into_iter().for_each(|rule| sky.cloud.rule(rule));
    let journal = InMemoryJournal::default();
    let run = &scratch.spec.run.clone();
    let settle_within = scratch.spec.settings.settle_within;
    let outcome = {
        let mut saga = Saga::open(run, &journal).await.unwrap();
        forward(&mut saga, &mut scratch, die_after).await
    };
    let mut saga = Saga::open(run, &journal).await.unwrap();
    let mut after = sky.scratch(run);
    after.spec.settings.settle_within = settle_within;
    let stormy = saga.unwind(&mut after, &steps::undos()).await;
    sky.cloud.clear_rules();
    if !stormy.is_empty() {
        // What could not be undone in the storm is told, and goes in calm.
        let failures = saga.unwind(&mut sky.calm(run), &steps::undos()).await;
        if !failures.is_empty() {
            return Err(format!(
                "in calm: {failures:?}; in the storm: {stormy:?}; forward: {outcome:?}"
            ));
        }
    }
    // Before it is undone once more: that would hide what the first time left.
    let once = inventory(&sky.cloud, REGION);
    let again = saga.unwind(&mut sky.calm(run), &steps::undos()).await;
    let (_, left) = sky.calm(run).census().await;
    let is = if once == sky.foreign { inventory(&sky.cloud, REGION) } else { once };
    if !again.is_empty() || !left.is_empty() || is != sky.foreign {
        let new: Vec<_> =
            is.iter().filter(|(id, text)| sky.foreign.get(*id) != Some(text)).collect();
        let gone: Vec<_> = sky.foreign.keys().filter(|id| !is.contains_key(*id)).collect();
        return Err(format!(
            "undone again: {again:?}; census: {left:?}; new or changed: {new:?}; gone: {gone:?}; forward: {outcome:?}"
        ));
    }
    sky.cloud.forget_calls();
    Ok(outcome)
}

/// Calls that change something, and the looks that they depend on.
const CHANGES: [&str; 21] = [
    "CreateVpc",
    "ModifyVpcAttribute",
    "CreateRouteTable",
    "CreateNetworkAcl",
    "CreateNetworkAclEntry",
    "CreateSecurityGroup",
    "RevokeSecurityGroupEgress",
    "AuthorizeSecurityGroupEgress",
    "AuthorizeSecurityGroupIngress",
    "CreateVpcEndpoint",
    "AssociateFirewallRuleGroup",
    "CreateFlowLogs",
    "CreateSubnet",
    "AssociateRouteTable",
    "ReplaceNetworkAclAssociation",
    "CreateGrant",
    "RunInstances",
    "TerminateInstances",
    "DeleteVpcEndpoints",
    "DeleteSecurityGroup",
    "DeleteVpc",
];
const LOOKS: [&str; 7] = [
    "DescribeVpcs",
    "DescribeSubnets",
    "DescribeVpcEndpoints",
    "DescribeInstances",
    "DescribeNetworkAcls",
    "DescribeSecurityGroups",
    "DescribeNetworkInterfaces",
];

fn run_of(number: u64) -> String {
    format!("20261125T200000Z-{:06x}", number & 0xff_ffff)
}

/// One fault at each call, in turn: refused, answer lost, never arrived. Where the answer is what
/// the next step needs, it is lost.
#[test]
fn every_call_that_changes_something_may_fail_before_it_acts_or_lose_its_answer() {
    let sky = Sky::new();
    for (number, action) in CHANGES.iter().enumerate() {
        let makes = action.starts_with("Create") || *action == "RunInstances";
        let (name, rule) = match number % 3 {
            _ if makes && number % 2 == 0 => ("lost", Rule::lose_answer(action)),
            0 => ("refused", Rule::refuse(action, "UnauthorizedOperation", 403)),
            1 => ("lost", Rule::lose_answer(action)),
            _ => ("dropped", Rule::drop_before(action)),
        };
        let outcome = block_on(sail(&sky, sky.calm(&run_of(number as u64)), vec![rule], 99));
        let outcome = outcome.unwrap_or_else(|left| panic!("{action} {name}: {left}"));
        let comes_later = action.starts_with("Delete") || action.starts_with("Terminate");
        match name {
            "refused" if !comes_later => {
                assert!(outcome.is_err(), "{action} was refused and nobody noticed")
            }
            // What a lost answer said is found by token or by tags.
            "lost" => assert_eq!(outcome, Ok(()), "{action} {name}"),
            _ => {}
        }
    }
}

fn storm(seed: u64) -> (Vec<Rule>, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut rules = Vec::new();
    for _ in 0..random.random_range(1..6) {
        let looks = random.random_range(0..4) == 0;
        let action = if looks {
            LOOKS[random.random_range(0..LOOKS.len())]
        } else {
            CHANGES[random.random_range(0..CHANGES.len())]
        };
        let rule = match random.random_range(0..9) {
            0 | 1 => Rule::lose_answer(action),
            2 => Rule::drop_before(action),
            3 => Rule::throttle(action, random.random_range(1..4)),
            4 => Rule::refuse(action, "UnauthorizedOperation", 403),
            5 => Rule::refuse(action, "InternalError", 500).times(random.random_range(1..3)),
            6 => match random.random_range(0..6) {
                0 => Rule::endpoint_fails(),
                1 => Rule::endpoint_never(),
                2 => Rule::launch_refused(),
                3 => Rule::wrong_tenancy(),
                4 => Rule::no_capacity().times(random.random_range(1..4)),
                _ => Rule::never_runs(),
            },
            7 => Rule::unseen(action, random.random_range(1..5)),
            _ => Rule::lose_answer(action).times(2),
        };
        rules.push(rule.after(random.random_range(0..3)));
    }
    (rules, random.random_range(0..16))
}

const STORMS: u64 = 10;

#[test]
fn no_storm_leaves_anything_of_ours_or_touches_anything_else() {
    let alone: Option<u64> =
        std::env::var("LIFEBOAT_STORM").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = alone.map_or_else(|| (1000..1000 + STORMS).collect(), |seed| vec![seed]);
    let sky = Sky::new();
    for seed in seeds {
        let (rules, die_after) = storm(seed);
        let told = format!("{rules:?}");
        let outcome = block_on(sail(&sky, sky.scratch(&run_of(seed)), rules, die_after));
        if let Err(left) = outcome {
            panic!("LIFEBOAT_STORM={seed} (dies after {die_after}): {left}\nrules: {told}");
        }
    }
}

/// What holds of every cloud.
async fn contract(cloud: Arc<dyn Trait>, mut scratch: ScratchVpc) {
    let run = scratch.spec.run.clone();
    let own = own_tags(&scratch.spec.vault, &run);
    let journal = InMemoryJournal::default();
    let mut saga = Saga::open(&run, &journal).await.unwrap();
    assert_eq!(cloud.region(), REGION);
    assert_eq!(cloud.caller().await.unwrap().account, "123456789012");
    forward(&mut saga, &mut scratch, 99).await.unwrap();
    let made = scratch.made.clone();
    // Everything is found by its tags, by its VPC and by its id, and carries what it was made with.
    for (kind, id) in [
        (ResourceKind::Vpc, &made.vpc),
        (ResourceKind::Subnet, &made.subnet),
        (ResourceKind::RouteTable, &made.table),
        (ResourceKind::NetworkAcl, &made.acl),
        (ResourceKind::SecurityGroup, &made.instance_group),
        (ResourceKind::Endpoint, &made.gateway),
        (ResourceKind::FirewallAssociation, &made.firewall),
        (ResourceKind::FlowLog, &made.flow_log),
        (ResourceKind::Instance, &made.instance),
    ] {
        let tagged = cloud.describe(kind, &ResourceScope::Tagged(own.clone())).await.unwrap();
        let thing = tagged
            .iter()
            .find(|thing| thing.id == *id)
            .unwrap_or_else(|| panic!("{kind:?} {id} is not among {tagged:?}"));
        assert!(own.iter().all(|(key, value)| thing.tags.get(key) == Some(value)), "{thing:?}");
        assert_eq!(
            cloud.describe(kind, &ResourceScope::Id(id.clone())).await.unwrap().len(),
            1,
            "{kind:?}"
        );
        if kind != ResourceKind::Vpc {
            assert!(
                cloud
                    .describe(kind, &ResourceScope::Vpc(made.vpc.clone()))
                    .await
                    .unwrap()
                    .iter()
                    .any(|thing| thing.id == *id),
                "{kind:?}"
            );
        }
        // Another value of the same tag finds nothing.
        let others: ResourceTags = own.keys().map(|key| (key.clone(), "*".to_owned())).collect();
        assert_eq!(
            cloud.describe(kind, &ResourceScope::Tagged(others)).await.unwrap(),
            vec![],
            "{kind:?}"
        );
    }
    for kind in ResourceKind::WAYS_OUT {
        assert_eq!(
            cloud.describe(kind, &ResourceScope::Vpc(made.vpc.clone())).await.unwrap(),
            vec![],
            "{kind:?}"
        );
    }
    let volumes =
        cloud.describe(ResourceKind::Volume, &ResourceScope::Tagged(own.clone())).await.unwrap();
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    // The same call with the same token makes nothing new.
    let act = ApiCall::CreateRouteTable { vpc: made.vpc.clone() };
    let (one, other) = (
        cloud.act(&act, &own, "a-token").await.unwrap(),
        cloud.act(&act, &own, "a-token").await.unwrap(),
    );
    assert_eq!(one.id, other.id);
    // What holds something keeps it from going; what is gone can be removed again.
    let owned = |thing: &lifeboat::sandbox::vpc::cloud::CloudResource| {
        ApiCall::Remove(OwnedResource::of(thing, &own).unwrap())
    };
    let vpc = cloud
        .describe(ResourceKind::Vpc, &ResourceScope::Id(made.vpc.clone()))
        .await
        .unwrap()
        .remove(0);
    assert!(matches!(cloud.act(&owned(&vpc), &own, "").await, Err(CloudError::Busy { .. })));
    let gone = ApiCall::EnableDns { vpc: "vpc-0123456789abcdef0".to_owned() };
    assert!(matches!(cloud.act(&gone, &own, "").await, Err(CloudError::Missing { .. })));
    assert!(
        cloud
            .grants(&scratch.spec.grants[0].key.clone())
            .await
            .unwrap()
            .iter()
            .any(|grant| grant.name == scratch.grant_name())
    );
    assert_eq!(saga.unwind(&mut scratch, &steps::undos()).await, Vec::<String>::new());
    let removed = cloud.act(&owned(&vpc), &own, "").await;
    assert!(matches!(removed, Ok(_) | Err(CloudError::Missing { .. })), "{removed:?}");
    let (_, left) = scratch.census().await;
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn the_contract_holds_against_the_front() {
    let sky = Sky::new();
    block_on(contract(Arc::clone(&sky.ec2), sky.calm(&run_of(1))));
    assert_eq!(inventory(&sky.cloud, REGION), sky.foreign);
}

#[test]
fn the_contract_holds_on_paper() {
    let paper: Arc<dyn Trait> = Arc::new(SimulatedCloud::new(REGION, ACCOUNT, "ami-1"));
    let key = "arn:aws:kms:eu-west-1:123456789012:key/k";
    let scratch = crate::support::scratch::scratch(
        &paper,
        &settings("ami-1", "rslvr-frg-1"),
        key,
        &run_of(1),
    );
    block_on(contract(paper, scratch));
}

//! The saga's theorems for every step of a scratch VPC, through the front: fail before, act and lose the answer, die, undo twice. Afterwards
//! the account holds nothing of ours, and everything that was not ours as it was. One contract holds on AWS' stand-in and on paper.
//!
//! Storms are random and repeatable: the seed is printed when one fails, and `LIFEBOAT_STORM=seed` runs that one alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use lifeboat::domain::scratch::{Dollars, ImageChoice, ScratchSettings, own_tags};
use lifeboat::domain::span::Span;
use lifeboat::saga::{Event, Journal, Refused, Saga, Step};
use lifeboat::sandbox::vpc::aws::Ec2;
use lifeboat::sandbox::vpc::cloud::{Act, At, Cloud as Trait, CloudError, Kind, Owned, Tags};
use lifeboat::sandbox::vpc::paper::Paper;
use lifeboat::sandbox::vpc::policies::Reads;
use lifeboat::sandbox::vpc::{GrantSpec, Scratch, ScratchError, Spec, steps};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use crate::support::cloud::{Cloud, Rule};

const REGION: &str = "eu-west-1";
const VAULT: &str = "00112233445566778899aabbccddeeff";

struct Sky {
    cloud: Arc<Cloud>,
    ec2: Arc<dyn Trait>,
    settings: ScratchSettings,
    key: String,
    foreign: BTreeMap<String, String>,
}

fn inventory(cloud: &Cloud) -> BTreeMap<String, String> {
    cloud.inventory(REGION).into_iter().map(|(id, item)| (id, format!("{} {:?} {}", item.kind, item.tags, item.text))).collect()
}

fn settings(image: String, firewall: String) -> ScratchSettings {
    ScratchSettings {
        region: REGION.to_owned(),
        role: None,
        account: "123456789012".to_owned(),
        production_account: None,
        cidr: "10.99.0.0/24".parse().unwrap(),
        production_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        zones: ["a", "b"].map(|letter| format!("{REGION}{letter}")).into(),
        instance_types: vec!["m7i.large".to_owned(), "m6i.large".to_owned()],
        tenancy: "default".to_owned(),
        image: ImageChoice::Pinned { id: image, digest: None },
        instance_profile: "arn:aws:iam::123456789012:instance-profile/scratch".to_owned(),
        instance_role: "arn:aws:iam::123456789012:role/scratch".to_owned(),
        kms_key: format!("arn:aws:kms:{REGION}:123456789012:key/00000000-0000-0000-0000-00000000d111"),
        root_gib: None,
        flow_logs: "arn:aws:s3:::flow-logs/".to_owned(),
        flow_logs_role: None,
        dns_firewall: Some(firewall),
        agent: None,
        pg_bin: None,
        cost_cap: Dollars::of(10.0),
        instance_hour: None,
        boot_within: Span::seconds(1),
        silent_within: Span::seconds(1),
        // Long enough for what takes looks, short enough for what never comes.
        settle_within: Span::milliseconds(700),
        poll: Span::milliseconds(2),
    }
}

impl Sky {
    fn new() -> Self {
        let cloud = Arc::new(Cloud::start());
        let image = cloud.register_image(REGION, "scratch");
        let firewall = cloud.firewall_group(REGION, &[(10, "ALLOW", &["*.amazonaws.com."][..]), (20, "BLOCK", &["*."][..])]);
        cloud.seed_production(REGION);
        let credentials = aws_sdk_ec2::config::Credentials::new("testing", "testing", None, None, "test");
        let retries = aws_config::retry::RetryConfig::standard().with_max_attempts(2).with_initial_backoff(Duration::from_millis(2));
        let loader = aws_config::defaults(aws_config::BehaviorVersion::latest()).region(aws_config::Region::new(REGION));
        let loader = loader.endpoint_url(&cloud.url).credentials_provider(credentials).retry_config(retries);
        let (shared, key) = block_on(async {
            let shared = loader.load().await;
            let made = aws_sdk_kms::Client::new(&shared).create_key().send().await.unwrap();
            (shared, made.key_metadata.unwrap().arn.unwrap())
        });
        let foreign = inventory(&cloud);
        Self { ec2: Arc::new(Ec2::of(REGION, &shared)), settings: settings(image, firewall), key, foreign, cloud }
    }

    /// Where nothing goes wrong nothing is in a hurry: a slow machine is no storm.
    fn calm(&self, run: &str) -> Scratch {
        let mut scratch = self.scratch(run);
        scratch.spec.settings.settle_within = Span::seconds(30);
        scratch
    }

    fn scratch(&self, run: &str) -> Scratch {
        let mut scratch = Scratch::new(Arc::clone(&self.ec2), spec(&self.settings, &self.key, run), 0.0, CancellationToken::new());
        if let ImageChoice::Pinned { id, .. } = &self.settings.image {
            scratch.image.clone_from(id);
        }
        scratch.user_data = "#!/bin/bash\ntrue\n".to_owned();
        scratch
    }
}

fn spec(settings: &ScratchSettings, key: &str, run: &str) -> Spec {
    Spec {
        settings: settings.clone(),
        vault: VAULT.parse().unwrap(),
        run: run.to_owned(),
        drill: "nightly".to_owned(),
        expires: Timestamp::now() + jiff::SignedDuration::from_hours(4),
        attempt: 1,
        reads: Reads { bucket: "b".to_owned(), get: vec!["p/*".to_owned()], list: vec!["p/".to_owned()], put: vec!["i/*".to_owned()] },
        grants: vec![GrantSpec { key: key.to_owned(), context: [("vault".to_owned(), VAULT.to_owned())].into() }],
        volumes: Vec::new(),
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[derive(Default)]
struct Memory(Mutex<Vec<(String, Event)>>);

#[async_trait::async_trait]
impl Journal for Memory {
    async fn append(&self, _: &str, step: &str, event: &Event) -> Result<(), Refused> {
        self.0.lock().unwrap().push((step.to_owned(), event.clone()));
        Ok(())
    }
    async fn events(&self, _: &str) -> Result<Vec<(String, Event)>, Refused> {
        Ok(self.0.lock().unwrap().clone())
    }
}

async fn step<S: Step<Scratch, Error = ScratchError>>(saga: &mut Saga<'_>, scratch: &mut Scratch, step: &S) -> Result<S::Output, String> {
    saga.step(scratch, step).await.map_err(|error| error.to_string())
}

/// All steps, as a drill does them; `die_after` so many of them nothing more is done, as after a crash.
async fn forward(saga: &mut Saga<'_>, scratch: &mut Scratch, die_after: usize) -> Result<(), String> {
    scratch.prefix_list = scratch.cloud().clone().prefix_list(&format!("com.amazonaws.{REGION}.s3")).await.map_err(|e| e.to_string())?;
    let mut left = die_after;
    macro_rules! steps {
        ($($step:expr),*) => { $(
            if left == 0 {
                return Err("died".to_owned());
            }
            left -= 1;
            drop(step(saga, scratch, &$step).await?);
        )* };
    }
    steps!(steps::MakeVpc, steps::MakeTable, steps::MakeAcl, steps::MakeGroups, steps::OpenBucket, steps::CloseNames, steps::LogFlows);
    steps!(steps::MakeSubnet, steps::OpenKeys);
    scratch.pass_gate().await.map_err(|error| error.to_string())?;
    steps!(steps::GrantKeys, steps::Launched);
    Ok(())
}

/// A run in bad weather, an end by another process that knows the journal and the tags, and undoing twice. Fails with what is left.
async fn sail(sky: &Sky, mut scratch: Scratch, rules: Vec<Rule>, die_after: usize) -> Result<Result<(), String>, String> {
    rules.into_iter().for_each(|rule| sky.cloud.rule(rule));
    let journal = Memory::default();
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
            return Err(format!("in calm: {failures:?}; in the storm: {stormy:?}; forward: {outcome:?}"));
        }
    }
    // Before it is undone once more: that would hide what the first time left.
    let once = inventory(&sky.cloud);
    let again = saga.unwind(&mut sky.calm(run), &steps::undos()).await;
    let (_, left) = sky.calm(run).census().await;
    let is = if once == sky.foreign { inventory(&sky.cloud) } else { once };
    if !again.is_empty() || !left.is_empty() || is != sky.foreign {
        let new: Vec<_> = is.iter().filter(|(id, text)| sky.foreign.get(*id) != Some(text)).collect();
        let gone: Vec<_> = sky.foreign.keys().filter(|id| !is.contains_key(*id)).collect();
        return Err(format!("undone again: {again:?}; census: {left:?}; new or changed: {new:?}; gone: {gone:?}; forward: {outcome:?}"));
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

/// Faults at each of some calls, one at a time.
fn one_fault_at(actions: &[&str]) {
    let sky = Sky::new();
    let mut number = 0;
    for action in actions {
        let faults = [
            ("refused", Rule::refuse(action, "UnauthorizedOperation", 403)),
            ("lost", Rule::lose_answer(action)),
            ("dropped", Rule::drop_before(action)),
        ];
        for (name, rule) in faults {
            number += 1;
            let outcome =
                block_on(sail(&sky, sky.calm(&run_of(number)), vec![rule], 99)).unwrap_or_else(|left| panic!("{action} {name}: {left}"));
            let comes_later = action.starts_with("Delete") || action.starts_with("Terminate");
            match name {
                "refused" if !comes_later => assert!(outcome.is_err(), "{action} was refused and nobody noticed"),
                // What a lost answer said is found by token or by tags.
                "lost" => assert_eq!(outcome, Ok(()), "{action} {name}"),
                _ => {}
            }
        }
    }
}

#[test]
fn every_call_that_changes_something_may_fail_before_it_acts_or_lose_its_answer_1() {
    one_fault_at(&CHANGES[..10]);
}

#[test]
fn every_call_that_changes_something_may_fail_before_it_acts_or_lose_its_answer_2() {
    one_fault_at(&CHANGES[10..]);
}

fn storm(seed: u64) -> (Vec<Rule>, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut rules = Vec::new();
    for _ in 0..random.random_range(1..6) {
        let looks = random.random_range(0..4) == 0;
        let action = if looks { LOOKS[random.random_range(0..LOOKS.len())] } else { CHANGES[random.random_range(0..CHANGES.len())] };
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

/// Hundreds of storms, of which this test is one part.
fn storms(part: u64) {
    let alone: Option<u64> = std::env::var("LIFEBOAT_STORM").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = alone.map_or_else(|| (part * 1000..part * 1000 + STORMS).collect(), |seed| vec![seed]);
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

const STORMS: u64 = 70;

#[test]
fn no_storm_leaves_anything_of_ours_or_touches_anything_else_1() {
    storms(1);
}

#[test]
fn no_storm_leaves_anything_of_ours_or_touches_anything_else_2() {
    storms(2);
}

#[test]
fn no_storm_leaves_anything_of_ours_or_touches_anything_else_3() {
    storms(3);
}

/// What holds of every cloud.
async fn contract(cloud: Arc<dyn Trait>, mut scratch: Scratch) {
    let run = scratch.spec.run.clone();
    let own = own_tags(&scratch.spec.vault, &run);
    let journal = Memory::default();
    let mut saga = Saga::open(&run, &journal).await.unwrap();
    assert_eq!(cloud.region(), REGION);
    assert_eq!(cloud.caller().await.unwrap().account, "123456789012");
    forward(&mut saga, &mut scratch, 99).await.unwrap();
    let made = scratch.made.clone();
    // Everything is found by its tags, by its VPC and by its id, and carries what it was made with.
    for (kind, id) in [
        (Kind::Vpc, &made.vpc),
        (Kind::Subnet, &made.subnet),
        (Kind::RouteTable, &made.table),
        (Kind::NetworkAcl, &made.acl),
        (Kind::SecurityGroup, &made.instance_group),
        (Kind::Endpoint, &made.gateway),
        (Kind::FirewallAssociation, &made.firewall),
        (Kind::FlowLog, &made.flow_log),
        (Kind::Instance, &made.instance),
    ] {
        let tagged = cloud.look(kind, &At::Tagged(own.clone())).await.unwrap();
        let thing = tagged.iter().find(|thing| thing.id == *id).unwrap_or_else(|| panic!("{kind:?} {id} is not among {tagged:?}"));
        assert!(own.iter().all(|(key, value)| thing.tags.get(key) == Some(value)), "{thing:?}");
        assert_eq!(cloud.look(kind, &At::Id(id.clone())).await.unwrap().len(), 1, "{kind:?}");
        if kind != Kind::Vpc {
            assert!(cloud.look(kind, &At::Vpc(made.vpc.clone())).await.unwrap().iter().any(|thing| thing.id == *id), "{kind:?}");
        }
        // Another value of the same tag finds nothing.
        let others: Tags = own.keys().map(|key| (key.clone(), "*".to_owned())).collect();
        assert_eq!(cloud.look(kind, &At::Tagged(others)).await.unwrap(), vec![], "{kind:?}");
    }
    for kind in Kind::WAYS_OUT {
        assert_eq!(cloud.look(kind, &At::Vpc(made.vpc.clone())).await.unwrap(), vec![], "{kind:?}");
    }
    let volumes = cloud.look(Kind::Volume, &At::Tagged(own.clone())).await.unwrap();
    assert_eq!(volumes.len(), 1, "{volumes:?}");
    // The same call with the same token makes nothing new.
    let act = Act::CreateRouteTable { vpc: made.vpc.clone() };
    let (one, other) = (cloud.act(&act, &own, "a-token").await.unwrap(), cloud.act(&act, &own, "a-token").await.unwrap());
    assert_eq!(one.id, other.id);
    // What holds something keeps it from going; what is gone can be removed again.
    let owned = |thing: &lifeboat::sandbox::vpc::cloud::Thing| Act::Remove(Owned::of(thing, &own).unwrap());
    let vpc = cloud.look(Kind::Vpc, &At::Id(made.vpc.clone())).await.unwrap().remove(0);
    assert!(matches!(cloud.act(&owned(&vpc), &own, "").await, Err(CloudError::Busy { .. })));
    let gone = Act::EnableDns { vpc: "vpc-0123456789abcdef0".to_owned() };
    assert!(matches!(cloud.act(&gone, &own, "").await, Err(CloudError::Missing { .. })));
    assert!(cloud.grants(&scratch.spec.grants[0].key.clone()).await.unwrap().iter().any(|grant| grant.name == scratch.grant_name()));
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
    assert_eq!(inventory(&sky.cloud), sky.foreign);
}

#[test]
fn the_contract_holds_on_paper() {
    let settings = settings("ami-1".to_owned(), "rslvr-frg-1".to_owned());
    let paper: Arc<dyn Trait> = Arc::new(Paper::new(REGION, "123456789012", "ami-1"));
    let spec = spec(&settings, "arn:aws:kms:eu-west-1:123456789012:key/k", &run_of(1));
    let mut scratch = Scratch::new(Arc::clone(&paper), spec, 0.0, CancellationToken::new());
    (scratch.image, scratch.user_data) = ("ami-1".to_owned(), "#!/bin/bash".to_owned());
    block_on(contract(paper, scratch));
}

//! The saga's theorems for every step of a scratch VPC, on paper: whatever fails, is lost or dies, nothing of the run is left, and nothing
//! else is touched.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::cloud::{Act, Cloud, CloudError, Facts, Kind, Route, Tags, Thing, placeholder};
use super::paper::{Fault, Paper};
use super::policies::Reads;
use super::steps::{self, undos};
use super::{GrantSpec, Scratch, ScratchError, Spec};
use crate::domain::net::Cidr;
use crate::domain::scratch::{Dollars, ImageChoice, ScratchSettings, own_tags, tag};
use crate::domain::span::Span;
use crate::saga::{Event, Journal, Refused, Saga};

const RUN: &str = "20261125T200000Z-abcdef";
const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/envelope";

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn settings() -> ScratchSettings {
    let role = "arn:aws:iam::123456789012:role/scratch".to_owned();
    ScratchSettings {
        region: "eu-west-1".to_owned(),
        role: None,
        account: "123456789012".to_owned(),
        production_account: None,
        cidr: cidr("10.99.0.0/24"),
        production_cidrs: vec![cidr("10.0.0.0/16"), cidr("10.1.0.0/16")],
        zones: vec!["eu-west-1a".to_owned(), "eu-west-1b".to_owned()],
        instance_types: vec!["m7i.large".to_owned(), "m6i.large".to_owned()],
        tenancy: "default".to_owned(),
        image: ImageChoice::Pinned { id: "ami-1".to_owned(), digest: None },
        instance_profile: "arn:aws:iam::123456789012:instance-profile/scratch".to_owned(),
        instance_role: role,
        kms_key: "arn:aws:kms:eu-west-1:123456789012:key/drill".to_owned(),
        root_gib: None,
        flow_logs: "arn:aws:s3:::flow-logs".to_owned(),
        flow_logs_role: None,
        dns_firewall: Some("rslvr-frg-1".to_owned()),
        agent: None,
        pg_bin: None,
        cost_cap: Dollars::of(5.0),
        instance_hour: None,
        boot_within: Span::seconds(1),
        silent_within: Span::seconds(1),
        settle_within: Span::milliseconds(20),
        poll: Span::seconds(0),
    }
}

fn scratch(paper: &Arc<Paper>) -> Scratch {
    let spec = Spec {
        settings: settings(),
        vault: "00112233445566778899aabbccddeeff".parse().unwrap(),
        run: RUN.to_owned(),
        drill: "nightly".to_owned(),
        expires: Timestamp::UNIX_EPOCH,
        attempt: 1,
        reads: Reads { bucket: "b".to_owned(), get: vec!["p/*".to_owned()], list: vec!["p/".to_owned()], put: vec!["i/*".to_owned()] },
        grants: vec![GrantSpec { key: KEY.to_owned(), context: [("vault".to_owned(), "v".to_owned())].into() }],
        volumes: Vec::new(),
    };
    let cloud: Arc<dyn Cloud> = Arc::<Paper>::clone(paper);
    let mut scratch = Scratch::new(cloud, spec, 0.0, CancellationToken::new());
    (scratch.image, scratch.prefix_list, scratch.user_data) = ("ami-1".to_owned(), "pl-00000000".to_owned(), "#!/bin/bash".to_owned());
    scratch
}

#[derive(Default)]
struct Memory(std::sync::Mutex<Vec<(String, Event)>>);

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

/// All steps; `die_after` so many of them nothing more is done, as after a crash.
async fn forward(saga: &mut Saga<'_>, scratch: &mut Scratch, die_after: usize) -> Result<(), String> {
    let mut left = die_after;
    macro_rules! steps {
        ($($step:expr),*) => { $(
            if left == 0 {
                return Err("died".to_owned());
            }
            left -= 1;
            drop(saga.step(scratch, &$step).await.map_err(|error| error.to_string())?);
        )* };
    }
    steps!(steps::MakeVpc, steps::MakeTable, steps::MakeAcl, steps::MakeGroups, steps::OpenBucket, steps::CloseNames, steps::LogFlows);
    steps!(steps::MakeSubnet, steps::OpenKeys);
    scratch.pass_gate().await.map_err(|error| error.to_string())?;
    steps!(steps::GrantKeys, steps::Launched);
    Ok(())
}

/// What is not ours, some of it with our tag's key and another value.
fn foreign() -> Vec<Thing> {
    let tags =
        |run: &str, vault: &str| -> Tags { [(tag::RUN, run), (tag::VAULT, vault)].map(|(k, v)| (k.to_owned(), v.to_owned())).into() };
    let own = "00112233445566778899aabbccddeeff";
    let thing =
        |kind, id: &str, tags: Tags, facts| Thing { kind, id: id.to_owned(), state: "running".to_owned(), reason: None, tags, facts };
    let volume = || Facts::Volume { encrypted: true, key: None, zone: String::new(), instance: None };
    vec![
        thing(Kind::Volume, "vol-production", Tags::new(), volume()),
        thing(Kind::Volume, "vol-other-run", tags("20200101T000000Z-ffffff", own), volume()),
        thing(Kind::Volume, "vol-other-vault", tags(RUN, "ffffffffffffffffffffffffffffffff"), volume()),
        thing(Kind::Volume, "vol-pattern", tags("*", "*"), volume()),
        thing(Kind::Instance, "i-production", tags("", ""), Facts::Instance(Box::default())),
    ]
}

fn paper() -> Paper {
    let paper = Paper::new("eu-west-1", "123456789012", "ami-1");
    foreign().into_iter().for_each(|thing| paper.put(thing));
    paper
}

fn only_foreign(paper: &Paper) -> Result<(), String> {
    let (mut is, mut was) = (paper.things(), foreign());
    is.sort_by(|one, other| one.id.cmp(&other.id));
    was.sort_by(|one, other| one.id.cmp(&other.id));
    let grants = paper.grant_names();
    if is == was && grants.is_empty() { Ok(()) } else { Err(format!("left: {is:?} {grants:?}")) }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn everything_is_made_passes_the_gate_and_goes() {
    block_on(async {
        let (paper, journal) = (Arc::new(paper()), Memory::default());
        let mut scratch = scratch(&paper);
        let mut saga = Saga::open(RUN, &journal).await.unwrap();
        forward(&mut saga, &mut scratch, 99).await.unwrap();
        assert_eq!(scratch.made.grant_tokens.len(), 1);
        assert!(paper.things().iter().any(|thing| thing.kind == Kind::Instance && thing.tags.get(tag::RUN).is_some_and(|run| run == RUN)));
        assert!(saga.unwind(&mut scratch, &undos()).await.is_empty());
        only_foreign(&paper).unwrap();
        let (census, left) = scratch.census().await;
        assert!(left.is_empty() && census.values().all(|count| *count == 0) && census.len() == 12, "{census:?}");
    });
}

#[test]
fn every_violation_closes_the_gate() {
    type Violate = fn(&mut Thing) -> bool;
    let cases: [(&str, Violate); 9] = [
        ("route to 0.0.0.0/0", |thing| match &mut thing.facts {
            Facts::RouteTable { routes, is_main: false, .. } => {
                routes.push(Route { to: "0.0.0.0/0".to_owned(), via: "igw-1".to_owned() });
                true
            }
            _ => false,
        }),
        ("route to 10.0.0.0/16", |thing| match &mut thing.facts {
            Facts::RouteTable { routes, is_main: true, .. } => {
                routes.push(Route { to: "10.0.0.0/16".to_owned(), via: "pcx-1".to_owned() });
                true
            }
            _ => false,
        }),
        ("public addresses", |thing| match &mut thing.facts {
            Facts::Subnet { public_ips, .. } => {
                *public_ips = true;
                true
            }
            _ => false,
        }),
        ("has IPv6", |thing| match &mut thing.facts {
            Facts::Vpc { ipv6, .. } => {
                ipv6.push("fd00::/8".to_owned());
                true
            }
            _ => false,
        }),
        ("may come in", |thing| match &mut thing.facts {
            Facts::SecurityGroup { name, ingress, egress, .. } if name == steps::INSTANCE_GROUP => {
                ingress.append(egress);
                true
            }
            _ => false,
        }),
        ("entries are not", |thing| match &mut thing.facts {
            Facts::NetworkAcl { entries, is_default: false, .. } => {
                entries.remove(0);
                true
            }
            _ => false,
        }),
        ("its policy is not", |thing| match &mut thing.facts {
            Facts::Endpoint { policy, form, .. } if form == "Gateway" => {
                *policy = serde_json::json!({ "Statement": [{ "Effect": "Allow", "Action": "*", "Resource": "*" }] });
                true
            }
            _ => false,
        }),
        ("does not log everything", |thing| match &mut thing.facts {
            Facts::FlowLog { traffic, .. } => {
                *traffic = "REJECT".to_owned();
                true
            }
            _ => false,
        }),
        ("not the one that was asked for", |thing| match &mut thing.facts {
            Facts::FirewallAssociation { rules, .. } => {
                *rules = "rslvr-frg-other".to_owned();
                true
            }
            _ => false,
        }),
    ];
    for (expected, violate) in cases {
        block_on(async {
            let (paper, journal) = (Arc::new(paper()), Memory::default());
            let mut scratch = scratch(&paper);
            let mut saga = Saga::open(RUN, &journal).await.unwrap();
            let _ = forward(&mut saga, &mut scratch, 9).await;
            scratch.pass_gate().await.unwrap();
            let mut violated = 0;
            for mut thing in paper.things() {
                if violate(&mut thing) {
                    violated += 1;
                    paper.put(thing);
                }
            }
            assert!(violated > 0, "{expected}");
            match scratch.pass_gate().await {
                Err(ScratchError::NotIsolated(all)) => assert!(all.iter().any(|one| one.contains(expected)), "{expected}: {all:?}"),
                other => panic!("{expected}: {other:?}"),
            }
        });
    }
}

#[test]
fn a_firewall_must_block_what_it_does_not_let_through() {
    use super::cloud::FirewallRule;
    use super::gate::open_names;
    let rule = |priority, action: &str, domains: &[&str]| FirewallRule {
        priority,
        action: action.to_owned(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        question: None,
    };
    let only_addresses = FirewallRule { question: Some("A".to_owned()), ..rule(2, "BLOCK", &["*."]) };
    let allow = || rule(1, "ALLOW", &["*.amazonaws.com.", "s3.eu-west-1.amazonaws.com"]);
    assert_eq!(open_names(&[allow(), rule(2, "BLOCK", &["*."])]), None);
    for (rules, why) in [
        (vec![], "blocks no name"),
        (vec![allow()], "blocks no name"),
        (vec![allow(), rule(2, "BLOCK", &["evil.example."])], "blocks no name"),
        (vec![rule(1, "ALLOW", &["*."]), rule(2, "BLOCK", &["*."])], "lets *. through"),
        (vec![rule(1, "ALERT", &["example.com."]), rule(2, "BLOCK", &["*."])], "lets example.com. through"),
        (vec![allow(), only_addresses], "blocks no name"),
        (vec![rule(1, "ALLOW", &[]), rule(2, "BLOCK", &["*."])], "cannot be read"),
    ] {
        let told = open_names(&rules).unwrap_or_default();
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[test]
fn only_the_very_tags_let_a_thing_be_removed() {
    use super::cloud::Owned;
    let own = own_tags(&"00112233445566778899aabbccddeeff".parse().unwrap(), RUN);
    assert!(foreign().iter().all(|thing| Owned::of(thing, &own).is_none()));
    let mut ours = foreign().remove(0);
    ours.tags.clone_from(&own);
    assert!(Owned::of(&ours, &own).is_some());
    assert!(Owned::of(&ours, &Tags::new()).is_none(), "no tags are nobody's");
    assert_eq!(Owned::nothing(Kind::Vpc).id(), placeholder(Kind::Vpc));
}

#[test]
fn no_capacity_in_one_zone_leads_to_the_next_type() {
    block_on(async {
        let mut tries = 0;
        let paper = Arc::new(paper().with_weather(0, move |act| {
            tries += u32::from(matches!(act, Act::RunInstances(_)));
            (matches!(act, Act::RunInstances(_)) && tries == 1).then_some(Fault::NoCapacity)
        }));
        let journal = Memory::default();
        let mut scratch = scratch(&paper);
        let mut saga = Saga::open(RUN, &journal).await.unwrap();
        forward(&mut saga, &mut scratch, 99).await.unwrap();
        assert_eq!(scratch.made.instance_type, "m6i.large");
    });
}

#[test]
fn a_refusal_for_good_is_told_and_everything_before_it_goes() {
    block_on(async {
        let paper = Arc::new(paper().with_weather(0, |act| matches!(act, Act::RunInstances(_)).then_some(Fault::Refuse)));
        let journal = Memory::default();
        let mut scratch = scratch(&paper);
        let mut saga = Saga::open(RUN, &journal).await.unwrap();
        let error = forward(&mut saga, &mut scratch, 99).await.unwrap_err();
        assert!(error.contains("ec2:RunInstances was refused"), "{error}");
        assert!(saga.unwind(&mut scratch, &undos()).await.is_empty());
        only_foreign(&paper).unwrap();
        assert!(scratch.act(&Act::RevokeGrant { key: KEY.to_owned(), grant: "grant-99".to_owned() }).await.is_ok());
        assert!(matches!(scratch.act(&Act::EnableDns { vpc: "vpc-gone".to_owned() }).await, Err(CloudError::Missing { .. })));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Faults at any of the calls, looks that lag, a death after any step, and undoing twice.
    #[test]
    fn no_weather_leaves_anything_of_ours_or_touches_anything_else(
        faults in proptest::collection::vec((0_usize..90, 0_u8..4), 0..8),
        lag in 0_u32..3,
        die_after in 0_usize..14,
    ) {
        let outcome = block_on(async {
            let mut call = 0;
            let paper = Arc::new(paper().with_weather(lag, move |_| {
                call += 1;
                let fault = faults.iter().find(|(at, _)| *at == call)?.1;
                Some([Fault::Refuse, Fault::Throttle, Fault::LoseAnswer, Fault::Drop][usize::from(fault)])
            }));
            let journal = Memory::default();
            let mut scratch = scratch(&paper);
            let mut saga = Saga::open(RUN, &journal).await.unwrap();
            let _ = forward(&mut saga, &mut scratch, die_after).await;
            // Another process, which knows the journal and the tags.
            drop(saga);
            let mut saga = Saga::open(RUN, &journal).await.unwrap();
            let mut after = self::scratch(&paper);
            let stormy = saga.unwind(&mut after, &undos()).await;
            if !stormy.is_empty() {
                // What could not be undone in the storm is told, and goes in calm.
                paper.calm();
                let mut calm = self::scratch(&paper);
                let failures = saga.unwind(&mut calm, &undos()).await;
                prop_assert!(failures.is_empty(), "{failures:?}");
            }
            // Before it is undone once more: that would hide what the first time left.
            prop_assert!(only_foreign(&paper).is_ok(), "{:?}", only_foreign(&paper));
            let mut again = self::scratch(&paper);
            prop_assert!(saga.unwind(&mut again, &undos()).await.is_empty());
            prop_assert!(only_foreign(&paper).is_ok(), "{:?}", only_foreign(&paper));
            Ok(())
        });
        outcome?;
    }
}

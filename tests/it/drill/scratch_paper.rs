//! The saga's theorems for every step of a scratch VPC, on paper: whatever fails, is lost or dies,
//! nothing of the run is left, and nothing else is touched.

use std::sync::Arc;

use lifeboat::domain::human_duration::HumanDuration;
use lifeboat::domain::scratch::{ScratchSettings, own_tags, tag};
use lifeboat::saga::{InMemoryJournal, Saga};
use lifeboat::sandbox::vpc::cloud::{
    ApiCall, CloudError, CloudResource, FirewallRule, OwnedResource, ResourceFacts, ResourceKind,
    ResourceTags, ScratchCloud, VpcRoute, placeholder,
};
use lifeboat::sandbox::vpc::gate::open_names;
use lifeboat::sandbox::vpc::simulated_cloud::{InjectedFault, SimulatedCloud};
use lifeboat::sandbox::vpc::steps::{self, undos};
use lifeboat::sandbox::vpc::{ScratchError, ScratchVpc};
use proptest::prelude::*;

use crate::support::scratch::{ACCOUNT, REGION, VAULT, block_on, forward, settings};

const RUN: &str = "20261125T200000Z-abcdef";
const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/envelope";

/// A run in a hurry: what takes looks comes within them, and what never comes is not waited for.
fn scratch(paper: &Arc<SimulatedCloud>) -> ScratchVpc {
    let cloud: Arc<dyn ScratchCloud> = Arc::<SimulatedCloud>::clone(paper);
    let settings = ScratchSettings {
        settle_within: HumanDuration::milliseconds(4),
        ..settings("ami-1", "rslvr-frg-1")
    };
    crate::support::scratch::scratch(&cloud, &settings, KEY, RUN)
}

/// One that has time: on a slow machine, too, only what is wrong is too late.
fn unhurried(paper: &Arc<SimulatedCloud>) -> ScratchVpc {
    let mut scratch = scratch(paper);
    scratch.spec.settings.settle_within = HumanDuration::seconds(30);
    scratch
}

/// What is not ours, some of it with our tag's key and another value.
fn foreign() -> Vec<CloudResource> {
    let tags = |run: &str, vault: &str| -> ResourceTags {
        [(tag::RUN, run), (tag::VAULT, vault)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    };
    let own = VAULT;
    let thing = |kind, id: &str, tags: ResourceTags, facts| CloudResource {
        kind,
        id: id.to_owned(),
        state: "running".to_owned(),
        reason: None,
        tags,
        facts,
    };
    let volume = || ResourceFacts::Volume {
        encrypted: true,
        key: None,
        zone: String::new(),
        instance: None,
    };
    vec![
        thing(ResourceKind::Volume, "vol-production", ResourceTags::new(), volume()),
        thing(
            ResourceKind::Volume,
            "vol-other-run",
            tags("20200101T000000Z-ffffff", own),
            volume(),
        ),
        thing(
            ResourceKind::Volume,
            "vol-other-vault",
            tags(RUN, "ffffffffffffffffffffffffffffffff"),
            volume(),
        ),
        thing(ResourceKind::Volume, "vol-pattern", tags("*", "*"), volume()),
        thing(
            ResourceKind::Instance,
            "i-production",
            tags("", ""),
            ResourceFacts::Instance(Box::default()),
        ),
    ]
}

fn paper() -> SimulatedCloud {
    let paper = SimulatedCloud::new(REGION, ACCOUNT, "ami-1");
    foreign().into_iter().for_each(|thing| paper.put(thing));
    paper
}

fn only_foreign(paper: &SimulatedCloud) -> Result<(), String> {
    let (mut is, mut was) = (paper.things(), foreign());
    is.sort_by(|one, other| one.id.cmp(&other.id));
    was.sort_by(|one, other| one.id.cmp(&other.id));
    let grants = paper.grant_names();
    if is == was && grants.is_empty() { Ok(()) } else { Err(format!("left: {is:?} {grants:?}")) }
}

#[test]
fn everything_is_made_passes_the_gate_and_goes() {
    block_on(async {
        let (paper, journal) = (Arc::new(paper()), InMemoryJournal::default());
        let mut scratch = unhurried(&paper);
        let mut saga = Saga::open(RUN, &journal).await.unwrap();
        forward(&mut saga, &mut scratch, 99).await.unwrap();
        assert_eq!(scratch.made.grant_tokens.len(), 1);
        assert!(paper.things().iter().any(|thing| thing.kind == ResourceKind::Instance
            && thing.tags.get(tag::RUN).is_some_and(|run| run == RUN)));
        assert!(saga.unwind(&mut scratch, &undos()).await.is_empty());
        only_foreign(&paper).unwrap();
        let (census, left) = scratch.census().await;
        assert!(
            left.is_empty() && census.values().all(|count| *count == 0) && census.len() == 12,
            "{census:?}"
        );
    });
}

#[test]
fn every_violation_closes_the_gate() {
    type Violate = fn(&mut CloudResource) -> bool;
    let cases: [(&str, Violate); 9] = [
        ("route to 0.0.0.0/0", |thing| match &mut thing.facts {
            ResourceFacts::RouteTable { routes, is_main: false, .. } => {
                routes.push(VpcRoute { to: "0.0.0.0/0".to_owned(), via: "igw-1".to_owned() });
                true
            }
            _ => false,
        }),
        ("route to 10.0.0.0/16", |thing| match &mut thing.facts {
            ResourceFacts::RouteTable { routes, is_main: true, .. } => {
                routes.push(VpcRoute { to: "10.0.0.0/16".to_owned(), via: "pcx-1".to_owned() });
                true
            }
            _ => false,
        }),
        ("public addresses", |thing| match &mut thing.facts {
            ResourceFacts::Subnet { public_ips, .. } => {
                *public_ips = true;
                true
            }
            _ => false,
        }),
        ("has IPv6", |thing| match &mut thing.facts {
            ResourceFacts::Vpc { ipv6, .. } => {
                ipv6.push("fd00::/8".to_owned());
                true
            }
            _ => false,
        }),
        ("may come in", |thing| match &mut thing.facts {
            ResourceFacts::SecurityGroup { name, ingress, egress, .. }
                if name == steps::INSTANCE_GROUP =>
            {
                ingress.append(egress);
                true
            }
            _ => false,
        }),
        ("entries are not", |thing| match &mut thing.facts {
            ResourceFacts::NetworkAcl { entries, is_default: false, .. } => {
                entries.remove(0);
                true
            }
            _ => false,
        }),
        ("its policy is not", |thing| match &mut thing.facts {
            ResourceFacts::Endpoint { policy, form, .. } if form == "Gateway" => {
                *policy = serde_json::json!({ "Statement": [{ "Effect": "Allow", "Action": "*", "Resource": "*" }] });
                true
            }
            _ => false,
        }),
        ("does not log everything", |thing| match &mut thing.facts {
            ResourceFacts::FlowLog { traffic, .. } => {
                *traffic = "REJECT".to_owned();
                true
            }
            _ => false,
        }),
        ("not the one that was asked for", |thing| match &mut thing.facts {
            ResourceFacts::FirewallAssociation { rules, .. } => {
                *rules = "rslvr-frg-other".to_owned();
                true
            }
            _ => false,
        }),
    ];
    for (expected, violate) in cases {
        block_on(async {
            let (paper, journal) = (Arc::new(paper()), InMemoryJournal::default());
            let mut scratch = unhurried(&paper);
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
                Err(ScratchError::NotIsolated(all)) => {
                    assert!(all.iter().any(|one| one.contains(expected)), "{expected}: {all:?}")
                }
                other => panic!("{expected}: {other:?}"),
            }
        });
    }
}

#[test]
fn a_firewall_must_block_what_it_does_not_let_through() {
    let rule = |priority, action: &str, domains: &[&str]| FirewallRule {
        priority,
        action: action.to_owned(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        question: None,
    };
    let only_addresses =
        FirewallRule { question: Some("A".to_owned()), ..rule(2, "BLOCK", &["*."]) };
    let allow = || rule(1, "ALLOW", &["*.amazonaws.com.", "s3.eu-west-1.amazonaws.com"]);
    assert_eq!(open_names(&[allow(), rule(2, "BLOCK", &["*."])]), None);
    for (rules, why) in [
        (vec![], "blocks no name"),
        (vec![allow()], "blocks no name"),
        (vec![allow(), rule(2, "BLOCK", &["evil.example."])], "blocks no name"),
        (vec![rule(1, "ALLOW", &["*."]), rule(2, "BLOCK", &["*."])], "lets *. through"),
        (
            vec![rule(1, "ALERT", &["example.com."]), rule(2, "BLOCK", &["*."])],
            "lets example.com. through",
        ),
        (vec![allow(), only_addresses], "blocks no name"),
        (vec![rule(1, "ALLOW", &[]), rule(2, "BLOCK", &["*."])], "cannot be read"),
    ] {
        let told = open_names(&rules).unwrap_or_default();
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[test]
fn only_the_very_tags_let_a_thing_be_removed() {
    let own = own_tags(&VAULT.parse().unwrap(), RUN);
    assert!(foreign().iter().all(|thing| OwnedResource::of(thing, &own).is_none()));
    let mut ours = foreign().remove(0);
    ours.tags.clone_from(&own);
    assert!(OwnedResource::of(&ours, &own).is_some());
    assert!(OwnedResource::of(&ours, &ResourceTags::new()).is_none(), "no tags are nobody's");
    assert_eq!(OwnedResource::nothing(ResourceKind::Vpc).id(), placeholder(ResourceKind::Vpc));
}

#[test]
fn no_capacity_in_one_zone_leads_to_the_next_type() {
    block_on(async {
        let mut tries = 0;
        let paper = Arc::new(paper().with_weather(0, move |act| {
            tries += u32::from(matches!(act, ApiCall::RunInstances(_)));
            (matches!(act, ApiCall::RunInstances(_)) && tries == 1)
                .then_some(InjectedFault::NoCapacity)
        }));
        let journal = InMemoryJournal::default();
        let mut scratch = unhurried(&paper);
        let mut saga = Saga::open(RUN, &journal).await.unwrap();
        forward(&mut saga, &mut scratch, 99).await.unwrap();
        assert_eq!(scratch.made.instance_type, "m6i.large");
    });
}

#[test]
fn a_refusal_for_good_is_told_and_everything_before_it_goes() {
    block_on(async {
        let paper = Arc::new(paper().with_weather(0, |act| {
            matches!(act, ApiCall::RunInstances(_)).then_some(InjectedFault::Refuse)
        }));
        let journal = InMemoryJournal::default();
        let mut scratch = unhurried(&paper);
        let mut saga = Saga::open(RUN, &journal).await.unwrap();
        let error = forward(&mut saga, &mut scratch, 99).await.unwrap_err();
        assert!(error.contains("ec2:RunInstances was refused"), "{error}");
        assert!(saga.unwind(&mut scratch, &undos()).await.is_empty());
        only_foreign(&paper).unwrap();
        assert!(
            scratch
                .act(&ApiCall::RevokeGrant { key: KEY.to_owned(), grant: "grant-99".to_owned() })
                .await
                .is_ok()
        );
        assert!(matches!(
            scratch.act(&ApiCall::EnableDns { vpc: "vpc-gone".to_owned() }).await,
            Err(CloudError::Missing { .. })
        ));
    });
}

const FAULTS: [InjectedFault; 4] = [
    InjectedFault::Refuse,
    InjectedFault::Throttle,
    InjectedFault::LoseAnswer,
    InjectedFault::Drop,
];

/// A run with faults at some of its calls, looks that lag, and a death after so many steps; then an
/// end by another process, and another end.
async fn run(
    faults: Vec<(usize, InjectedFault)>,
    lag: u32,
    die_after: usize,
) -> Result<(), String> {
    let mut call = 0;
    let paper = Arc::new(paper().with_weather(lag, move |_| {
        call += 1;
        faults.iter().find(|(at, _)| *at == call).map(|(_, fault)| *fault)
    }));
    let journal = InMemoryJournal::default();
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
        let failures = saga.unwind(&mut unhurried(&paper), &undos()).await;
        if !failures.is_empty() {
            return Err(format!("in calm: {failures:?}"));
        }
    }
    // Before it is undone once more: that would hide what the first time left.
    only_foreign(&paper)?;
    let again = saga.unwind(&mut unhurried(&paper), &undos()).await;
    only_foreign(&paper)?;
    if again.is_empty() { Ok(()) } else { Err(format!("undone again: {again:?}")) }
}

/// Every fault at every call, alone, in a run that goes to its end and in one that dies at some
/// step: thousands.
#[test]
fn one_fault_at_any_call_leaves_nothing_of_ours_and_touches_nothing_else() {
    block_on(async {
        for (number, fault) in FAULTS.into_iter().enumerate() {
            for at in 1..90 {
                for die_after in [99, (at + number) % 14, (at * 5 + number) % 14] {
                    for lag in [0, 2] {
                        let outcome = run(vec![(at, fault)], lag, die_after).await;
                        assert!(
                            outcome.is_ok(),
                            "{fault:?} at call {at}, lag {lag}, dies after {die_after}: {outcome:?}"
                        );
                    }
                }
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn no_weather_leaves_anything_of_ours_or_touches_anything_else(
        faults in proptest::collection::vec((0_usize..90, 0_usize..4), 0..8),
        lag in 0_u32..3,
        die_after in 0_usize..14,
    ) {
        let faults = faults.into_iter().map(|(at, fault)| (at, FAULTS[fault])).collect();
        prop_assert_eq!(block_on(run(faults, lag, die_after)), Ok(()));
    }
}

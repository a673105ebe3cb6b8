//! Money, what a run can cost at most, and the documents that pass between lifeboat and its agent.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::domain::drill::{CheckKind, CheckOutcome, NegativeControl};
use serde_json::json;

fn vault() -> VaultId {
    VaultId::from_random([0xab; 16])
}
fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn settings(types: &[&str]) -> ScratchSettings {
    let text = |text: &str| text.to_owned();
    ScratchSettings {
        region: text("eu-west-1"),
        role: None,
        account: text("111122223333"),
        production_account: None,
        cidr: "10.99.0.0/24".parse().unwrap(),
        production_cidrs: Vec::new(),
        zones: vec![text("eu-west-1a")],
        instance_types: types.iter().map(|kind| text(kind)).collect(),
        tenancy: text("default"),
        image: ImageChoice::OfInstance(text("i-0f")),
        instance_profile: text("profile"),
        instance_role: text("role"),
        kms_key: text("key"),
        root_gib: None,
        flow_logs: text("logs"),
        flow_logs_role: None,
        dns_firewall: None,
        agent: None,
        pg_bin: None,
        cost_cap: UsDollars::of(10.0),
        instance_hour: None,
        boot_within: HumanDuration::seconds(600),
        silent_within: HumanDuration::seconds(300),
        settle_within: HumanDuration::seconds(600),
        poll: HumanDuration::seconds(5),
    }
}

#[test]
fn money_is_rounded_up_and_never_negative() {
    for (dollars, expected) in [
        (0.0, 0),
        (1.0, 10_000),
        (0.5, 5_000),
        (12.25, 122_500),
        (0.000_01, 1),
        (0.000_12, 2),
        (1.000_01, 10_001),
        (-3.0, 0),
        (f64::NAN, 0),
        (f64::INFINITY, u64::MAX),
    ] {
        assert_eq!(UsDollars::of(dollars), UsDollars(expected), "{dollars}");
    }
}

#[test]
fn money_is_shown_in_dollars_and_cents_rounded_up() {
    for (amount, shown) in [
        (0, "$0.00"),
        (1, "$0.01"),
        (100, "$0.01"),
        (101, "$0.02"),
        (9_900, "$0.99"),
        (10_000, "$1.00"),
        (10_100, "$1.01"),
        (123_456, "$12.35"),
        (12_340_000, "$1234.00"),
    ] {
        assert_eq!(UsDollars(amount).to_string(), shown);
    }
}

#[test]
fn a_run_costs_at_most_its_dearest_instance_its_endpoint_and_its_volumes_until_its_time_is_over() {
    let dedicated = |settings| ScratchSettings { tenancy: "dedicated".to_owned(), ..settings };
    let hour = |dollars: f64, settings| ScratchSettings {
        instance_hour: Some(UsDollars::of(dollars)),
        ..settings
    };
    for (settings, seconds, gib, dollars) in [
        // The price of the list and the endpoint.
        (settings(&["t3.micro"]), 3600, 0, 0.0104 + 0.01),
        (settings(&["r7i.xlarge"]), 3600, 0, 0.2646 + 0.01),
        (settings(&["t3.micro"]), 4 * 3600, 0, 4.0 * (0.0104 + 0.01)),
        (settings(&["t3.micro"]), 1800, 0, 0.0052 + 0.005),
        // The dearest of those that are tried, whatever their order.
        (settings(&["m5.large", "m5.2xlarge", "m5.xlarge"]), 3600, 0, 0.384 + 0.01),
        // A month of 730 hours of a GiB of gp3 is 8 cents.
        (settings(&["t3.micro"]), 73 * 3600, 100, 73.0 * 0.0204 + 0.8),
        (dedicated(settings(&["m5.large"])), 3600, 0, 0.096 * 1.1 + 2.0 + 0.01),
        (dedicated(settings(&["m5.large"])), 3 * 3600, 0, 3.0 * (0.096 * 1.1 + 2.0 + 0.01)),
        // What the settings say goes before the list.
        (hour(1.5, settings(&["m5.large"])), 3600, 0, 1.51),
        (hour(0.25, settings(&["z9.mega", "z9.giga"])), 3600, 0, 0.26),
    ] {
        let ceiling = cost_ceiling(&settings, HumanDuration::seconds(seconds), gib).unwrap();
        let over = i128::from(ceiling.0) - i128::from(UsDollars::of(dollars).0);
        assert!(
            over.abs() <= 1,
            "{ceiling} for {:?}, {seconds} s, {gib} GiB instead of {dollars}",
            settings.instance_types
        );
    }
}

#[test]
fn an_instance_type_without_a_known_price_is_named() {
    let unknown =
        cost_ceiling(&settings(&["t3.micro", "z9.mega"]), HumanDuration::seconds(3600), 0);
    assert_eq!(unknown, Err("z9.mega".to_owned()));
    assert_eq!(
        cost_ceiling(&settings(&["t3"]), HumanDuration::seconds(3600), 0),
        Err("t3".to_owned()),
        "a part of a name is not enough"
    );
}

#[test]
fn a_lease_is_read_only_in_the_place_of_its_format() {
    let lease = ScratchLease {
        format: LEASE_FORMAT.to_owned(),
        vault: vault(),
        run: "run-1".to_owned(),
        drill: "weekly".to_owned(),
        region: "eu-west-1".to_owned(),
        account: "111122223333".to_owned(),
        keys: vec!["arn:key".to_owned()],
        host: "db1".to_owned(),
        expires: at("2026-11-25T06:00:00Z"),
        cost_ceiling: UsDollars(123_456),
    };
    let bytes = serde_json::to_vec(&lease).unwrap();
    assert_eq!(ScratchLease::parse(&bytes, LEASE_FORMAT).unwrap(), lease);
    let why = ScratchLease::parse(&bytes, OVER_FORMAT).unwrap_err().to_string();
    assert!(
        why.contains("the lease has format \"lifeboat.lease/1\"")
            && why.contains("lifeboat.over/1"),
        "{why}"
    );
    let over = ScratchLease { format: OVER_FORMAT.to_owned(), ..lease.clone() };
    let bytes = serde_json::to_vec(&over).unwrap();
    assert_eq!(ScratchLease::parse(&bytes, OVER_FORMAT).unwrap(), over);
    assert!(ScratchLease::parse(&bytes, LEASE_FORMAT).is_err(), "a run that is over has no lease");
    let mut json = serde_json::to_value(&lease).unwrap();
    assert_eq!(json["cost_ceiling"], json!(123_456));
    json["colour"] = json!("red");
    for bad in [
        json.to_string(),
        json!({"format": LEASE_FORMAT}).to_string(),
        "{".to_owned(),
        String::new(),
    ] {
        let why = ScratchLease::parse(bad.as_bytes(), LEASE_FORMAT).unwrap_err();
        assert_eq!(why.to_string(), "the lease cannot be read", "{bad}");
    }
}

#[test]
fn an_order_reads_back_and_another_format_is_refused() {
    let order = AgentOrder {
        format: ORDER_FORMAT.to_owned(),
        vault: vault(),
        run: "run-1".to_owned(),
        attempt: 2,
        drill: "weekly".to_owned(),
        script: "name = \"weekly\"".to_owned(),
        plan: "all".to_owned(),
        plan_text: None,
        config: String::new(),
        grant_tokens: vec!["token".to_owned()],
        backups: [(
            "chat".parse().unwrap(),
            ("20261125T020000Z-K3XQ7A".parse().unwrap(), "the newest".to_owned()),
        )]
        .into(),
        forbidden: vec![
            ForbiddenAddress::Tcp("10.0.0.5:5432".to_owned()),
            ForbiddenAddress::Name("db.example".to_owned()),
        ],
        expires: at("2026-11-25T06:00:00Z"),
    };
    let json = serde_json::to_value(&order).unwrap();
    assert_eq!(json["forbidden"], json!([{"tcp": "10.0.0.5:5432"}, {"name": "db.example"}]));
    assert_eq!(json["backups"], json!({"chat": ["20261125T020000Z-K3XQ7A", "the newest"]}));
    assert_eq!(AgentOrder::parse(json.to_string().as_bytes()).unwrap(), order);
    let mut newer = json.clone();
    newer["format"] = json!("lifeboat.order/2");
    let why = AgentOrder::parse(newer.to_string().as_bytes()).unwrap_err().to_string();
    assert!(
        why.contains("the order has format \"lifeboat.order/2\"")
            && why.contains("lifeboat.order/1"),
        "{why}"
    );
    let mut more = json;
    more["secret"] = json!("x");
    for bad in [more.to_string(), json!({"format": ORDER_FORMAT}).to_string(), "[]".to_owned()] {
        assert_eq!(
            AgentOrder::parse(bad.as_bytes()).unwrap_err().to_string(),
            "the order cannot be read",
            "{bad}"
        );
    }
}

#[test]
fn what_the_agent_says_keeps_its_form_and_holds_nothing_of_the_data() {
    let check = CheckResult {
        name: "rows".to_owned(),
        datastore: "chat".parse().unwrap(),
        kind: CheckKind::Sql,
        answer: CheckOutcome::CouldNotLook,
        summary: "the query failed".to_owned(),
        seconds: 0.5,
        detail: vec!["user alice has 3 rows".to_owned()],
    };
    let control = ControlResult {
        control: NegativeControl::ByteFlipped,
        noticed: Some(true),
        summary: "it was noticed".to_owned(),
        seconds: 1.0,
    };
    for (say, form) in [
        (
            AgentEvent::Began { step: "restore".to_owned(), at_seconds: 1.5 },
            json!({"began": {"step": "restore", "at_seconds": 1.5}}),
        ),
        (
            AgentEvent::Ended { step: "restore".to_owned(), seconds: 2.5, failed: false },
            json!({"ended": {"step": "restore", "seconds": 2.5, "failed": false}}),
        ),
        (
            AgentEvent::Broke {
                scenario: Scenario::HomeKeyLost,
                outcome: "another slot opened".to_owned(),
            },
            json!({"broke": {"scenario": "home-key-lost", "outcome": "another slot opened"}}),
        ),
        (
            AgentEvent::Checked(CheckResult { detail: Vec::new(), ..check.clone() }),
            json!({"checked": {
                "name": "rows", "datastore": "chat", "kind": "sql", "answer": "could-not-look",
                "summary": "the query failed", "seconds": 0.5,
            }}),
        ),
        (
            AgentEvent::Controlled(control),
            json!({"controlled": {"control": "byte-flipped", "noticed": true, "summary": "it was noticed", "seconds": 1.0}}),
        ),
        (
            AgentEvent::Alive { stage: "load".to_owned(), done: 5, total: None },
            json!({"alive": {"stage": "load", "done": 5, "total": null}}),
        ),
    ] {
        let words = MessageBody { run: "run-1".to_owned(), nonce: "n".to_owned(), number: 1, say };
        let json = serde_json::to_value(&words).unwrap();
        assert_eq!(json, json!({"run": "run-1", "nonce": "n", "number": 1, "say": form}));
        assert_eq!(serde_json::from_value::<MessageBody>(json).unwrap(), words);
    }
    let told = serde_json::to_string(&AgentEvent::Checked(check)).unwrap();
    assert!(!told.contains("alice"), "{told}");
    assert!(
        serde_json::from_value::<SignedMessage>(json!({"words": "", "signature": "", "key": ""}))
            .is_err()
    );
}

#[test]
fn a_thing_is_a_runs_own_by_vault_and_run_and_all_tags_say_more_for_whoever_finds_it() {
    let vault_id = "ab".repeat(16);
    let own = own_tags(&vault(), "run-1");
    let pairs = |tags: &ResourceTags| {
        tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
    };
    assert_eq!(
        pairs(&own),
        ["lifeboat:run=run-1".to_owned(), format!("lifeboat:vault={vault_id}")]
    );
    let all = tags_of(&vault(), "run-1", "weekly", at("2026-11-25T06:00:00.75Z"));
    assert_eq!(
        pairs(&all),
        [
            "lifeboat:drill=weekly".to_owned(),
            "lifeboat:expires=2026-11-25T06:00:00Z".to_owned(),
            "lifeboat:run=run-1".to_owned(),
            format!("lifeboat:vault={vault_id}"),
        ]
    );
    assert!(
        own.iter().all(|(key, value)| all.get(key) == Some(value)),
        "what a run makes it may remove"
    );
}

#[test]
fn amounts_are_rounded_up_to_whole_cents_and_carried() {
    for (hundredths, shown) in [
        (0, "$0.00"),
        (1, "$0.01"),
        (9_900, "$0.99"),
        (9_901, "$1.00"),
        (9_999, "$1.00"),
        (10_000, "$1.00"),
        (19_950, "$2.00"),
    ] {
        assert_eq!(UsDollars(hundredths).to_string(), shown, "{hundredths}");
    }
    assert_eq!(
        (UsDollars::of(0.07), UsDollars::of(0.0), UsDollars::of(-1.0), UsDollars::of(0.000_01)),
        (UsDollars(700), UsDollars(0), UsDollars(0), UsDollars(1))
    );
}

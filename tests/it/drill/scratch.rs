//! Drills in a scratch VPC: the whole path on an emulated cloud, with the instance's very user data
//! run in a network namespace.

use std::sync::Arc;

use serde_json::Value;

use crate::support::cloud::Rule;
use crate::support::front::Fault;
use crate::support::room::{REGION, Room};

#[test]
fn a_drill_in_the_cloud_passes_and_its_report_shows_everything() {
    let room = Room::start();
    let planned = room.home.run(&["drill", "nightly", "--plan", "--json"]).ok().json();
    assert_eq!(room.machines.requests(), Vec::new(), "a plan starts nothing");
    let before = room.cloud.calls().len();
    let report = room.report(0);
    assert_eq!(report["verdict"], "PASS", "{report:#}");
    assert_eq!(room.machines.complaints(), Vec::<String>::new());
    let scratch = &report["scratch"];
    assert_eq!(scratch["gate_sha256"].as_str().map(str::len), Some(64));
    let state = scratch["gate"]["things"].as_array().unwrap();
    for kind in [
        "vpc",
        "subnet",
        "route-table",
        "network-acl",
        "security-group",
        "endpoint",
        "firewall-association",
        "flow-log",
        "interface",
    ] {
        assert!(state.iter().any(|thing| thing["kind"] == kind), "{kind} is not in {state:#?}");
    }
    // From the instance nothing answers but where its credentials are; from beside the server not
    // even that.
    let tried = scratch["network"].as_array().unwrap();
    let word = |what: &str| {
        tried
            .iter()
            .find(|tried| tried["what"].as_str().unwrap().contains(what))
            .unwrap_or_else(|| panic!("{what}"))
    };
    for forbidden in ["10.0.0.4:5432", "1.1.1.1:443", "the address of example.com"] {
        assert_eq!(word(forbidden)["reached"], false);
    }
    assert_eq!(word("169.254.169.254:80")["reached"], true);
    let probes = report["isolation"]["probes"].as_array().unwrap();
    let metadata =
        probes.iter().find(|probe| probe["tried"]["of"] == "169.254.169.254:80").unwrap();
    assert_eq!(metadata["reached"], false);
    assert!(
        probes.iter().any(|probe| probe["tried"]["of"]
            .as_str()
            .is_some_and(|of| of.contains("/var/lib/lifeboat"))),
        "{probes:#?}"
    );
    // Nothing of the data left the instance but counts and words that may be stored.
    for (_, letter) in room.machines.letters() {
        assert!(!String::from_utf8_lossy(&letter).contains("patients"));
    }
    assert_eq!(
        scratch["census"].as_object().unwrap().values().filter(|count| **count == 0).count(),
        12
    );
    assert_eq!(report["checks"][0]["answer"], "pass");
    assert!(
        report["controls"].as_array().unwrap().iter().all(|control| control["noticed"] == true),
        "{report:#}"
    );
    for moment in
        ["payload_reachable", "server_up", "loaded", "first_query", "verified", "torn_down"]
    {
        assert!(report["moments"][moment].as_f64().is_some_and(|at| at > 0.0), "{moment}");
    }
    // What changed something stood in the plan, in this order, and so did every kind of look.
    let changed = distinct(
        scratch["calls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|call| call["action"].as_str().unwrap().to_owned()),
    );
    let plan: Vec<String> = planned
        .as_array()
        .unwrap()
        .iter()
        .map(|call| call["action"].as_str().unwrap().to_owned())
        .collect();
    let expected: Vec<String> = distinct(plan.iter().cloned())
        .into_iter()
        .filter(|action| changed.contains(action))
        .collect();
    assert_eq!(changed, expected);
    for call in &room.cloud.calls()[before..] {
        let known = plan.iter().any(|action| action.split(':').nth(1) == Some(&call.action));
        let dry = call.params.get("DryRun").is_some_and(|dry| dry == "true");
        let tags = ["ListTagsForResource", "GetFirewallRuleGroupAssociation"]
            .contains(&call.action.as_str());
        assert!(known || dry || tags, "{} is not in the plan", call.action);
    }
    // Any host sees that the run is over, and the page of the report shows where it was.
    let runs = room.home.run(&["drill", "runs"]).ok();
    assert!(
        runs.stdout.contains("over, nothing left")
            && runs.stdout.contains("123456789012 us-east-1"),
        "{}",
        runs.stdout
    );
    let pages = room.home.path("pages");
    room.home.run(&["evidence", "export", pages.to_str().unwrap()]).ok();
    let text = crate::support::files(&pages)
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .collect::<String>();
    assert!(
        text.contains("RunInstances") && text.contains(scratch["gate_sha256"].as_str().unwrap())
    );
    let page = crate::support::files(&pages)
        .into_iter()
        .find(|file| file.file_name().unwrap().to_string_lossy().starts_with("report-"));
    crate::support::browser::look(&format!("file://{}", page.unwrap().display()), "scratch-report");
    assert!(room.home.run(&["sweep", "--older-than", "0s"]).code == 10, "papers of the run");
    room.home.run(&["sweep", "--older-than", "0s", "--confirm"]).ok();
    assert!(room.home.run(&["drill", "runs", "--json"]).ok().json().as_array().unwrap().is_empty());
}

/// Each once, in the order of its first time.
fn distinct(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut once = Vec::new();
    all.for_each(|one| {
        if !once.contains(&one) {
            once.push(one);
        }
    });
    once
}

#[test]
fn what_the_instance_sends_is_believed_only_as_it_was_signed() {
    let room = Room::start();
    let first = room.report(0);
    let old: std::collections::BTreeMap<String, hyper::body::Bytes> = room
        .machines
        .letters()
        .into_iter()
        .map(|(key, body)| (key.rsplit('/').next().unwrap().to_owned(), body))
        .collect();
    let not_believed = |report: &Value, why: &str| {
        assert_eq!(report["verdict"], "NOT_VERIFIED");
        assert!(report["halt"]["why"].as_str().unwrap().contains(why), "{why}: {}", report["halt"]);
        assert_eq!(report["checks"], serde_json::json!([]), "nothing that it sent counts");
    };
    // A letter whose answer was lost is not written twice, and no reason to give up.
    room.front.fault(&["PUT", "/inbox/"], Fault::LoseAnswer, 2);
    assert_eq!(room.report(0)["verdict"], "PASS");
    assert_eq!(room.front.met().len(), 2);
    room.front.rules(Vec::new());
    // One that is far too long is not read.
    room.machines.settings(|settings| {
        settings.tamper = Some(Arc::new(|_, _| Some(vec![b' '; 2 << 20].into())))
    });
    not_believed(&room.report(9), "it has 2097152 bytes");
    // Forged: a failed check that became a passed one.
    room.machines.settings(|settings| {
        settings.tamper = Some(Arc::new(|_, body| {
            let text = String::from_utf8_lossy(&body).into_owned();
            Some(if text.contains("checked") { text.replace("pass", "past").into() } else { body })
        }));
    });
    not_believed(&room.report(9), "did not sign it");
    // Replayed: the very letters of the run before.
    room.machines.settings(|settings| {
        settings.tamper = Some(Arc::new(move |key, body| {
            Some(old.get(key.rsplit('/').next().unwrap()).cloned().unwrap_or(body))
        }));
    });
    not_believed(&room.report(9), "did not sign it");
    // Cut short.
    room.machines.settings(|settings| {
        settings.tamper = Some(Arc::new(|_, body| Some(body.slice(..body.len() / 2))))
    });
    not_believed(&room.report(9), "cannot be read");
    // The binary that came is not the one that was meant: it is not even started.
    room.machines.settings(|settings| (settings.tamper, settings.corrupt_agent) = (None, true));
    let report = room.report(9);
    assert!(
        report["halt"]["why"].as_str().unwrap().contains("the agent is not the one that was meant"),
        "{}",
        report["halt"]
    );
    assert_eq!(first["verdict"], "PASS");
}

#[test]
fn an_agent_that_is_silent_is_not_waited_for_for_ever() {
    let room = Room::start();
    room.machines.settings(|settings| settings.silent = true);
    room.home.reconfigure("boot_within = \"2m\"", "boot_within = \"2s\"");
    let report = room.report(9);
    assert!(
        report["halt"]["why"].as_str().unwrap().contains("did not speak for 2s"),
        "{}",
        report["halt"]
    );
    // The time to live ends it as well, and then everything goes.
    room.home.reconfigure("boot_within = \"2s\"", "boot_within = \"2m\"");
    room.script("time_to_live = \"8s\"");
    let report = room.report(9);
    assert!(
        report["halt"]["why"].as_str().unwrap().contains("time to live (8s) is over"),
        "{}",
        report["halt"]
    );
    room.script("");
    // It spoke, and then stands still.
    room.machines.settings(|settings| (settings.silent, settings.freeze_after) = (false, Some(3)));
    room.home.reconfigure("silent_within = \"1m\"", "silent_within = \"3s\"");
    let report = room.report(9);
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(
        why.contains("has been silent for 3s") && why.contains("on its console stands"),
        "{why}"
    );
}

#[test]
fn nothing_is_restored_where_anything_gets_through() {
    let room = Room::start();
    let restored = |room: &Room| {
        room.machines.requests().iter().any(|request| request.resource.contains("payloads/"))
    };
    // A way out that somebody makes between creation and gate. That it shows up at once is not what
    // is asked here.
    room.cloud.settings(|settings| settings.lag = 0);
    room.cloud.then_call(
        "CreateFlowLogs",
        &[
            ("CreateInternetGateway", &[]),
            ("AttachInternetGateway", &[("InternetGatewayId", "$igw"), ("VpcId", "$vpc")]),
            (
                "CreateRoute",
                &[
                    ("RouteTableId", "$rtb"),
                    ("DestinationCidrBlock", "0.0.0.0/0"),
                    ("GatewayId", "$igw"),
                ],
            ),
        ],
    );
    room.home.reconfigure("settle_within = \"20s\"", "settle_within = \"3s\"");
    let report = room.report_of(&["drill", "nightly", "--json"], 10);
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(
        why.contains("nothing was restored")
            && why.contains("0.0.0.0/0")
            && why.contains("internet gateway"),
        "{why}"
    );
    // It is in the way of teardown, which tells so; it is not ours to remove.
    let left = report["leftovers"].to_string();
    assert!(left.contains("VPC vpc-"), "{left}");
    let steps = report["steps"].to_string();
    assert!(
        steps.contains("still there after") && steps.contains("internet gateway igw-"),
        "{steps}"
    );
    assert_eq!(report["verdict"], "NOT_VERIFIED");
    let inventory = room.cloud.inventory(REGION);
    let own = |kind: &str| {
        inventory
            .iter()
            .find(|(id, item)| item.kind == kind && !room.foreign.contains_key(*id))
            .unwrap()
            .0
            .clone()
    };
    let (gateway, vpc) = (own("igw"), own("vpc"));
    room.cloud.call(
        REGION,
        "DetachInternetGateway",
        &[("InternetGatewayId", &gateway), ("VpcId", &vpc)],
    );
    room.cloud.call(REGION, "DeleteInternetGateway", &[("InternetGatewayId", &gateway)]);
    // A run that has its report is over, so what it left can go.
    let found = room.home.run(&["sweep", "--older-than", "1w"]);
    assert!(found.code == 10 && found.stdout.contains(&format!("VPC {vpc}")), "{found:?}");
    room.home.run(&["sweep", "--older-than", "1w", "--confirm"]).ok();
    room.assert_nothing_is_left();
    room.home.reconfigure("settle_within = \"3s\"", "settle_within = \"20s\"");
    // Production answers from the instance.
    room.machines.settings(|settings| settings.reachable = vec!["10.0.0.4:5432".parse().unwrap()]);
    let report = room.report(9);
    let why = report["halt"]["why"].as_str().unwrap();
    // Whoever refuses has been reached, too.
    assert!(
        why.contains("the instance is not cut off: TCP 10.0.0.4:22")
            && why.contains("TCP 10.0.0.4:5432: connected"),
        "{why}"
    );
    room.machines.settings(|settings| settings.reachable.clear());
    // Names can leave: refused, unless the drill accepts it.
    let firewall = std::fs::read_to_string(room.home.path("lifeboat.toml")).unwrap();
    let line = firewall.lines().find(|line| line.starts_with("dns_firewall")).unwrap().to_owned();
    room.home.reconfigure(&line, "");
    let report = room.report(9);
    assert!(
        report["halt"]["why"].as_str().unwrap().contains("names can leave the VPC by its resolver"),
        "{}",
        report["halt"]
    );
    assert!(!restored(&room));
    room.script("accept_gaps = [\"names\"]");
    let report = room.report(0);
    assert!(
        report["isolation"]["gaps"].to_string().contains("names") && restored(&room),
        "{report:#}"
    );
}

#[test]
fn what_ec2_refuses_late_is_told_in_its_words() {
    let room = Room::start();
    let why = |report: &Value| report["halt"]["why"].as_str().unwrap().to_owned();
    // A key that refuses shows up as an instance that is gone again.
    room.cloud.rule(Rule::launch_refused());
    let told = why(&room.report(9));
    assert!(
        told.contains("Client.InternalError") && told.contains("look at the key policies"),
        "{told}"
    );
    room.cloud.rule(Rule::wrong_tenancy());
    let told = why(&room.report(9));
    assert!(told.contains("its tenancy is") && told.contains("instead of \"default\""), "{told}");
    room.cloud.rule(Rule::endpoint_fails().about("kms"));
    let told = why(&room.report(9));
    assert!(
        told.contains("endpoint vpce-")
            && told.contains("is failed (The endpoint could not be created) instead of available"),
        "{told}"
    );
    room.home.reconfigure("settle_within = \"20s\"", "settle_within = \"2s\"");
    room.cloud.rule(Rule::endpoint_never().about("kms"));
    let told = why(&room.report(9));
    assert!(told.contains("is not available after 2 seconds; it is pending"), "{told}");
    room.home.reconfigure("settle_within = \"2s\"", "settle_within = \"20s\"");
    // A quota is in the way: nothing is made at all.
    room.cloud.settings(|settings| settings.vpcs = 2);
    let report = room.report(9);
    assert!(
        why(&report).contains("nothing was made: quota: VPCs of us-east-1: 3 of 2"),
        "{}",
        why(&report)
    );
    assert_eq!(report["scratch"]["calls"], serde_json::json!([]));
    room.cloud.settings(|settings| settings.vpcs = 5);
    // Neither is it where a call would be refused, or the account is another.
    room.cloud.rule(Rule::refuse("CreateVpc", "UnauthorizedOperation", 403));
    let report = room.report(9);
    assert!(
        why(&report).contains("ec2:CreateVpc would be refused")
            && report["scratch"]["calls"] == serde_json::json!([])
    );
    room.home.reconfigure("account = \"123456789012\"", "account = \"210987654321\"");
    let told = why(&room.report(9));
    assert!(
        told.contains("scratch VPCs in account 210987654321")
            && told.contains("is in account 123456789012"),
        "{told}"
    );
    room.home.reconfigure("account = \"210987654321\"", "account = \"123456789012\"");
    room.home.reconfigure("poll = \"100ms\"", "poll = \"100ms\"\ncost_cap = 0.05");
    let told = why(&room.report(9));
    assert!(told.contains("cost ceiling: $0.46 for 4h, and $0.05 are allowed"), "{told}");
    room.home.reconfigure("cost_cap = 0.05", "");
    // No capacity in the first zone: the second one is taken, and every type is tried in each.
    room.cloud.rule(Rule::no_capacity().about("us-east-1a").times(2));
    let report = room.report(0);
    assert_eq!(
        (report["scratch"]["zone"].as_str(), report["verdict"].as_str()),
        (Some("us-east-1b"), Some("PASS"))
    );
    room.cloud.rule(Rule::no_capacity().times(u32::MAX));
    let told = why(&room.report(9));
    assert!(
        told.contains("no instance can be had in any zone: us-east-1a: m7i.large: ")
            && told.contains("us-east-1b: "),
        "{told}"
    );
}

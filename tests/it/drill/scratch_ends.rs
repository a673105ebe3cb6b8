//! How runs in a scratch VPC end that do not end by themselves: a host that dies, a host that is
//! told to stop, a timer that is up; and what is refused before one begins.

use std::time::Duration;

use crate::support::home::out;
use crate::support::room::{REGION, Room};
use crate::support::{Home, eventually};

/// Another host: the same vault and the same account, and nothing of what the first one knew.
fn another_host(room: &Room) -> Home {
    let mut other = Home::new();
    for file in ["lifeboat.toml", "drills/nightly.toml", "restore/db.toml"] {
        let to = other.path(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(room.home.path(file), to).unwrap();
    }
    std::fs::remove_dir_all(other.path("keys")).unwrap();
    crate::support::home::copy_tree(&room.home.path("keys"), &other.path("keys"));
    for (name, value) in room.home.environment() {
        other.set(name, value);
    }
    other
}

#[test]
fn a_run_whose_host_dies_goes_on_or_ends_by_its_journal() {
    let room = Room::start();
    for (number, failpoint) in
        ["scratch-leased", "scratch-built", "scratch-gated", "scratch-launched", "scratch-ordered"]
            .into_iter()
            .enumerate()
    {
        let died = room.home.run_with(&[("LIFEBOAT_FAILPOINT", failpoint)], &["drill", "nightly"]);
        assert_eq!(died.code, 137, "{died:?}");
        // What is left is told of, and what began without a report counts as failed until somebody
        // ends it.
        let runs = room.home.run(&["drill", "runs"]).ok();
        assert!(runs.stdout.contains("under way"), "{}", runs.stdout);
        let (verb, code) = if number % 2 == 0 { ("resume", 0) } else { ("abort", 9) };
        let report = room.report_of(&["drill", verb, "nightly", "--json"], code);
        room.assert_nothing_is_left();
        assert_eq!(
            report["verdict"],
            if verb == "resume" { "PASS" } else { "NOT_VERIFIED" },
            "{failpoint}: {report:#}"
        );
        let runs = room.home.run(&["drill", "runs"]).ok();
        assert!(!runs.stdout.contains("under way"), "{}", runs.stdout);
    }
    // One that died after it had torn down has its report to write, and nothing to make again.
    let died =
        room.home.run_with(&[("LIFEBOAT_FAILPOINT", "drill-torn-down")], &["drill", "nightly"]);
    assert_eq!(died.code, 137);
    room.report_of(&["drill", "abort", "nightly", "--json"], 9);
    room.assert_nothing_is_left();
}

#[test]
fn another_host_sees_a_dead_run_and_takes_it_away_when_its_time_is_up() {
    let room = Room::start();
    let bucket = room.stack.bucket.as_str();
    room.machines.settings(|settings| settings.silent = true);
    let died =
        room.home.run_with(&[("LIFEBOAT_FAILPOINT", "scratch-launched")], &["drill", "nightly"]);
    assert_eq!(died.code, 137, "{died:?}");
    // While its time is not up it may as well be alive: nothing is touched.
    let other = another_host(&room);
    assert!(other.run(&["drill", "runs"]).ok().stdout.contains("under way"));
    other.run(&["sweep", "--older-than", "1w", "--confirm"]).ok();
    assert_eq!(
        room.cloud
            .running(REGION)
            .iter()
            .filter(|instance| instance.tags.contains_key("lifeboat:expires"))
            .count(),
        1
    );
    room.report_of(&["drill", "abort", "nightly", "--json"], 9);
    room.assert_nothing_is_left();
    room.script("time_to_live = \"10s\"");
    let died =
        room.home.run_with(&[("LIFEBOAT_FAILPOINT", "scratch-launched")], &["drill", "nightly"]);
    assert_eq!(died.code, 137, "{died:?}");
    let other = another_host(&room);
    let runs = other.run(&["drill", "runs", "--json"]).json();
    assert_eq!(runs[1]["lease"]["drill"], "nightly", "{runs}");
    eventually("the run is overdue", || other.run(&["drill", "runs"]).code == 10);
    // In another account there is nothing to be seen, and that is no proof of anything.
    other.reconfigure("account = \"123456789012\"", "account = \"210987654321\"");
    other
        .run(&["sweep", "--older-than", "1w", "--confirm"])
        .fails(2, &["is in account 123456789012", "of the drill account"]);
    other.reconfigure("account = \"210987654321\"", "account = \"123456789012\"");
    // A lease that is put in the place of its end ends nothing.
    let run = other.run(&["drill", "runs", "--json"]).json()[1]["run"].as_str().unwrap().to_owned();
    for end in ["", ".sig"] {
        let (lease, over) = (
            format!("{bucket}/team/runs/{run}/lease.json{end}"),
            format!("team/runs/{run}/over.json{end}"),
        );
        room.stack.aws(&[
            "s3api",
            "copy-object",
            "--bucket",
            bucket,
            "--copy-source",
            &lease,
            "--key",
            &over,
        ]);
    }
    assert_eq!(other.run(&["drill", "runs"]).code, 10, "still overdue");
    for end in ["", ".sig"] {
        room.stack.aws(&[
            "s3api",
            "delete-object",
            "--bucket",
            bucket,
            "--key",
            &format!("team/runs/{run}/over.json{end}"),
        ]);
    }
    let found = other.run(&["sweep", "--older-than", "1w"]);
    assert!(
        found.code == 10
            && found.stdout.contains("scratch VPC of drill run")
            && found.stdout.contains("instance i-"),
        "{found:?}"
    );
    other.run(&["sweep", "--older-than", "1w", "--confirm"]).ok();
    room.assert_nothing_is_left();
    let runs = other.run(&["drill", "runs"]).ok();
    assert!(runs.stdout.contains("over, nothing left"), "{}", runs.stdout);
    // The first host, back again, cannot go on with it, and ends it: the report says what it knows.
    room.home
        .run(&["drill", "resume", "nightly"])
        .fails(2, &["another host has taken it down", "lifeboat drill abort"]);
    room.report_of(&["drill", "abort", "nightly", "--json"], 9);
}

#[test]
fn the_dead_mans_timer_ends_the_instance_whatever_becomes_of_everything_else() {
    let room = Room::start();
    room.machines.settings(|settings| settings.freeze_after = Some(1));
    let mut command = room.home.command(&["drill", "nightly", "--json"]);
    let drill = command.spawn().unwrap();
    eventually("the agent has spoken", || !room.machines.letters().is_empty());
    let timers = room.machines.timers();
    let (instance, timer) = timers.iter().next().unwrap();
    let minutes: u32 = timer.trim_start_matches("-P +").parse().unwrap();
    assert!((230..=240).contains(&minutes), "{timers:?}: the time to live is four hours");
    assert!(room.machines.time_is_up(instance));
    let ended = out(&drill.wait_with_output().unwrap());
    assert_eq!(ended.code, 9, "{ended:?}");
    assert!(ended.stdout.contains("before it had a result"), "{}", ended.stdout);
    room.assert_nothing_is_left();
}

#[test]
fn ctrl_c_takes_everything_down_and_leaves_a_report() {
    let room = Room::start();
    room.machines.settings(|settings| settings.freeze_after = Some(1));
    let drill = room.home.command(&["drill", "nightly", "--json"]).spawn().unwrap();
    eventually("the agent has spoken", || !room.machines.letters().is_empty());
    std::thread::sleep(Duration::from_millis(200));
    let pid = rustix::process::Pid::from_raw(i32::try_from(drill.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = out(&drill.wait_with_output().unwrap());
    assert_eq!(ended.code, 130, "{ended:?}");
    assert!(ended.stdout.contains("it was interrupted"), "{}", ended.stdout);
    room.assert_nothing_is_left();
}

#[test]
fn a_lost_home_key_leaves_the_instance_the_other_one_only() {
    let room = Room::start();
    let second =
        room.stack.aws(&["kms", "create-key"])["KeyMetadata"]["Arn"].as_str().unwrap().to_owned();
    room.home.configure(&format!("\n[keys.second]\nkind = \"aws-kms\"\nkey_id = \"{second}\"\n"));
    room.home.backup();
    room.script("break = [\"home-key-lost\", \"catalog-lost\"]");
    let report = room.report(0);
    assert_eq!(
        (&report["verdict"], &report["backups"][0]["opened_with"]),
        (&"PASS".into(), &"second".into())
    );
    assert!(
        report["broken"]["home-key-lost"]
            .as_str()
            .unwrap()
            .contains("opened on the instance with second"),
        "{report:#}"
    );
    let decrypted: Vec<_> =
        room.machines.requests().into_iter().filter(|request| request.service == "kms").collect();
    assert!(
        !decrypted.is_empty()
            && decrypted.iter().all(|request| request.allowed && request.resource == second),
        "{decrypted:?}"
    );
    // The door lets through what the agent takes and nothing else: another backup's objects are
    // behind it.
    let outside: Vec<_> =
        room.machines.requests().into_iter().filter(|request| !request.allowed).collect();
    assert!(outside.iter().all(|request| request.action == "s3:ListBucket"), "{outside:?}");
    let backup = report["backups"][0]["backup"].as_str().unwrap();
    let payloads: Vec<_> = room
        .machines
        .requests()
        .into_iter()
        .filter(|request| request.resource.contains("/payloads/"))
        .collect();
    assert!(
        !payloads.is_empty() && payloads.iter().all(|request| request.resource.contains(backup)),
        "{payloads:?}"
    );
}

#[test]
fn what_cannot_be_drilled_in_the_cloud_is_refused_with_words() {
    let room = Room::start();
    let refused = |words: &[&str]| {
        room.home.run(&["drill", "nightly"]).fails(2, words);
        room.home.run(&["drill", "nightly", "--plan"]).fails(2, words);
    };
    room.home.configure("\n[vaults.other]\ndirectory = \"other\"\n");
    room.script("break = [\"region-lost\"]");
    refused(&["region-lost is not rehearsed there", "sandbox = \"local\""]);
    room.script("recovery_identity = \"keys/identity.txt\"");
    refused(&["an offline key never leaves for an instance"]);
    room.script("");
    room.home.reconfigure("path_style = true", "path_style = true\nregion = \"eu-west-1\"");
    refused(&["the vault is in another region", "set the region of [scratch_vpc]"]);
    room.home.reconfigure("path_style = true\nregion = \"eu-west-1\"", "path_style = true");
    std::fs::write(room.home.path("drills/nightly.toml"), "plan = \"db\"\n").unwrap();
    room.home
        .run(&["drill", "nightly", "--plan"])
        .fails(2, &["it restores on this host", "sandbox = \"vpc\""]);
    room.script("");
    // A plan makes nothing, and neither do policies and checks.
    let shown = room.home.run(&["drill", "nightly", "--plan"]).ok().stdout;
    for words in [
        "the isolation gate:",
        "ec2:RunInstances",
        "[with ec2:CreateTags, iam:PassRole",
        "teardown:",
        "kms:RevokeGrant",
    ] {
        assert!(shown.contains(words), "{words} is not in {shown}");
    }
    let role = room.home.run(&["policy", "drill-role"]).ok().json().to_string();
    for action in [
        "ec2:DescribeVpcs",
        "ec2:CreateVpc",
        "ec2:TerminateInstances",
        "kms:CreateGrant",
        "GranteePrincipal",
    ] {
        assert!(role.contains(action), "{action} is not in {role}");
    }
    assert!(
        room.home.run(&["policy", "instance-role"]).ok().json().to_string().contains("/inbox/*")
    );
    assert!(
        room.home
            .run(&["policy", "guardrails"])
            .ok()
            .json()
            .to_string()
            .contains("ec2:CreateNatGateway")
    );
    let checked = room.home.run(&["check"]);
    assert!(
        checked.stdout.contains("block public access")
            && checked.stdout.contains("kinds of calls would be allowed"),
        "{checked:?}"
    );
    room.cloud.settings(|settings| {
        (settings.block_public_access, settings.serial_console) = ("off".to_owned(), true)
    });
    let checked = room.home.run(&["check"]).stdout;
    assert!(
        checked.contains("off, and should be block-bidirectional")
            && checked.contains("on, and should be off"),
        "{checked}"
    );
    room.assert_nothing_is_left();
    let mut text = std::fs::read_to_string(room.home.path("lifeboat.toml")).unwrap();
    text.truncate(text.find("[scratch_vpc]").unwrap());
    std::fs::write(room.home.path("lifeboat.toml"), text).unwrap();
    refused(&["lifeboat.toml has no [scratch_vpc]", "docs/AWS.md"]);
}

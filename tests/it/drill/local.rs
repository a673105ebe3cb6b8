//! Drills: the same restore as on-call runs, in a real sandbox on this machine, with everything
//! that can go wrong with it.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::home::finish;
use crate::support::{Cluster, Major, Rehearsal, eventually};

/// The last line of a drill's JSON, which holds its report.
fn last_line(out: &std::process::Output) -> Value {
    serde_json::from_str(String::from_utf8_lossy(&out.stdout).lines().last().unwrap()).unwrap()
}

/// Processes whose first uid belongs to any sandbox.
fn sandboxed_processes_of(uid: u64) -> usize {
    let uids = [uid.to_string(), (uid + 1).to_string()];
    let statuses = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| std::fs::read_to_string(e.path().join("status")).ok());
    let is = |status: &String| {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .unwrap_or_default()
                .split_whitespace()
                .next()
                .map(str::to_owned)
        };
        field("Uid:").is_some_and(|uid| uids.contains(&uid))
            && field("State:").as_deref() != Some("Z")
    };
    statuses.filter(is).count()
}

fn answers(report: &Value) -> Vec<(String, String)> {
    let all = report["checks"].as_array().unwrap().iter();
    all.map(|c| (c["name"].as_str().unwrap().to_owned(), c["answer"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn a_drill_restores_checks_damages_tears_down_and_signs() {
    let r = Rehearsal::new();
    r.script("reviewers = [\"A. Meyer\"]");
    let report = r.report(0);
    assert_eq!(report["verdict"], "PASS", "{report:#}");
    assert_eq!(report["reasons"].as_array().unwrap().len(), 0);
    assert_eq!(answers(&report), [("fingerprint of db".to_owned(), "pass".to_owned())]);
    let controls: Vec<_> = report["controls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["control"].as_str().unwrap(), c["noticed"].as_bool()))
        .collect();
    let noticed = Some(true);
    assert_eq!(
        controls,
        [
            ("rows-dropped", noticed),
            ("byte-flipped", noticed),
            ("payload-truncated", noticed),
            ("foreign-envelope", noticed)
        ]
    );
    assert_eq!(report["leftovers"].as_array().unwrap().len(), 0);
    // Isolation is proven: nothing of the host was reached, and what was tried is named.
    assert_eq!(report["isolation"]["gaps"].as_array().unwrap().len(), 0, "{report:#}");
    let probes = report["isolation"]["probes"].as_array().unwrap();
    let text = serde_json::to_string(probes).unwrap();
    for tried in [
        "interfaces",
        "processes",
        "127.0.0.1:5432",
        "example.com",
        ".s.PGSQL.5432",
        "signing.pem",
        "identity.txt",
        "catalog.db",
        "/vault",
    ] {
        assert!(text.contains(tried), "{tried} was not tried: {text}");
    }
    assert!(probes.iter().all(|p| p["reached"] == false), "{text}");
    // The moments are in order, and the time that counts is to the first query.
    let moments =
        ["server_up", "payload_reachable", "loaded", "first_query", "verified", "torn_down"]
            .map(|m| report["moments"][m].as_f64().unwrap());
    assert!(moments.windows(2).all(|pair| pair[0] <= pair[1]), "{moments:?}");
    assert_eq!(report["rto"]["measured_seconds"].as_f64().unwrap(), moments[3]);
    assert!(
        report["backups"][0]["opened_with"] == "local"
            && report["backups"][0]["signature_verified"] == true
    );
    assert_eq!(report["lifeboat_sha256"].as_str().unwrap().len(), 64);
    // No name of a table and no value gets into the report.
    let stored = std::fs::read_to_string(r.home.vault().join("evidence/00000002.json")).unwrap();
    assert!(!stored.contains("patients") && !stored.contains("tiny"), "{stored}");
    assert!(stored.contains("\"A. Meyer\""));
    // History, prediction, certificate, verification.
    r.home.run(&["drill", "history"]).ok();
    assert!(r.report(0)["rto_predicted_seconds"].as_f64().unwrap() > 0.0);
    let run = report["run"].as_str().unwrap();
    r.home.run(&["drill", "certify", run, "--reviewer", "A. Meyer", "--statement", "seen"]).ok();
    r.home
        .run(&["drill", "certify", "no-such-run", "--reviewer", "A", "--statement", "x"])
        .fails(2, &["there is none in the evidence"]);
    let verified = r.home.run(&["evidence", "verify"]).ok();
    assert!(verified.stderr.contains("5 records, 2 of them reports"), "{verified:?}");
    // The next backup carries the head of the series.
    let id = r.home.backup();
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(r.home.manifest(&id)).unwrap()).unwrap();
    let newest = lifeboat::work::shelf::sha256(
        &std::fs::read(r.home.vault().join("evidence/00000005.json")).unwrap(),
    );
    assert_eq!(manifest["evidence_head"], newest);
    // And the plan that was in force.
    assert!(
        manifest["payloads"].as_array().unwrap().iter().any(|p| p["role"] == "plan"),
        "{manifest:#}"
    );
}

#[test]
fn the_catalog_is_lost() {
    let r = Rehearsal::new();
    r.script("break = [\"catalog-lost\"]");
    let report = r.report(0);
    assert!(
        report["broken"]["catalog-lost"]
            .as_str()
            .unwrap()
            .contains("learned 1 backups from the vault"),
        "{report:#}"
    );
}

#[test]
fn the_home_key_is_lost_and_the_other_slot_opens() {
    let r = Rehearsal::new();
    r.script("break = [\"home-key-lost\"]");
    // Without another key in reach the drill says what production would say.
    let report = r.report(8);
    assert_eq!(report["verdict"], "FAIL");
    assert!(report["reasons"][0].as_str().unwrap().contains("no key opens"), "{report:#}");
    r.script("break = [\"home-key-lost\"]\nrecovery_identity = \"recovery.txt\"");
    let report = r.report(0);
    assert_eq!(report["broken"]["home-key-lost"], "the backup of db was opened with recovery");
    r.script("break = [\"kms-gone\"]\nrecovery_identity = \"recovery.txt\"");
    r.home.run(&["drill", "nightly"]).fails(2, &["no KMS key is configured", "home-key-lost"]);
}

#[test]
fn lifeboat_itself_is_lost() {
    let r = Rehearsal::new();
    r.script("break = [\"lifeboat-lost\"]\nrecovery_identity = \"recovery.txt\"");
    let report = r.report(0);
    let outcome = report["broken"]["lifeboat-lost"].as_str().unwrap();
    assert!(outcome.contains("RESTORE.md") && outcome.contains("stock tools alone"), "{outcome}");
    assert_eq!(report["backups"][0]["opened_with"], "recovery");
    assert_eq!(report["verdict"], "PASS", "{report:#}");
}

#[test]
fn the_newest_backup_is_damaged_and_the_one_before_is_used() {
    let r = Rehearsal::new();
    r.script("break = [\"newest-damaged\"]");
    let alone = r.report(8);
    assert!(alone["reasons"][0].as_str().unwrap().contains("there is none before it"), "{alone:#}");
    let first =
        r.home.run(&["list", "--json"]).ok().json()[0]["backup"].as_str().unwrap().to_owned();
    r.source.psql("d", "INSERT INTO tiny VALUES (3)");
    r.home.backup();
    let report = r.report(0);
    assert_eq!(report["backups"][0]["backup"], first, "{report:#}");
    let outcome = report["broken"]["newest-damaged"].as_str().unwrap();
    assert!(outcome.contains("refused it as damaged") && outcome.contains("costs"), "{outcome}");
}

#[test]
fn the_home_region_is_lost_and_its_copy_opens_with_another_key() {
    let r = Rehearsal::new();
    r.script(&format!("break = [\"region-lost\"]\nrecovery_identity = \"{}\"", r.home.recovery()));
    r.home.run(&["drill", "nightly"]).fails(2, &["lifeboat.toml names no other vault"]);
    r.home.configure("\n[vaults.dr]\ndirectory = \"elsewhere\"\n");
    // A copy that nobody keeps up to date is found out.
    r.home.run(&["copy", "dr"]).ok();
    let report = r.report(0);
    let outcome = report["broken"]["region-lost"].as_str().unwrap();
    assert!(
        outcome.contains("from vault dr") && outcome.contains("opened with recovery"),
        "{outcome}"
    );
    std::fs::remove_dir_all(r.home.path("elsewhere")).unwrap();
    let report = r.report(8);
    assert_eq!(report["verdict"], "FAIL", "{report:#}");
}

#[test]
fn every_kind_of_check_answers_pass_fail_or_could_not_look() {
    let r = Rehearsal::new();
    let smoke = "[[checks]]\nkind = \"command\"\nname = \"smoke\"\ncommand = [\"/usr/bin/psql\", \"--dbname={target}\", \"-Atc\", \"SELECT 1/count(*) FROM patients\"]\n";
    r.script(&format!(
        "\n\n[[checks]]\nkind = \"fingerprint\"\nname = \"all\"\n[[checks]]\nkind = \"sql\"\nname = \"count\"\nquery = \"SELECT count(*) FROM patients\"\nis = \"5000\"\n\
         [[checks]]\nkind = \"freshness\"\nname = \"fresh\"\nquery = \"SELECT max(seen) FROM patients\"\n[[checks]]\nkind = \"amcheck\"\nname = \"amcheck\"\n\
         [[checks]]\nkind = \"catalog\"\nname = \"catalog\"\nextensions = [\"plpgsql\"]\nroles = [\"postgres\"]\n{smoke}"
    ));
    let report = r.report(0);
    assert!(
        answers(&report).iter().all(|(_, answer)| answer == "pass") && answers(&report).len() == 6,
        "{report:#}"
    );
    r.script(
        "\n\n[[checks]]\nkind = \"fingerprint\"\nname = \"all\"\n[[checks]]\nkind = \"sql\"\nname = \"count\"\nquery = \"SELECT count(*) FROM patients\"\nat_least = 5001\n\
         [[checks]]\nkind = \"freshness\"\nname = \"stale\"\nquery = \"SELECT '2020-01-01'::timestamptz\"\n\
         [[checks]]\nkind = \"catalog\"\nname = \"catalog\"\nroles = [\"nobody_of_that_name\"]\n\
         [[checks]]\nkind = \"command\"\nname = \"smoke\"\ncommand = [\"/bin/false\"]\n",
    );
    let report = r.report(8);
    let failed =
        ["count", "stale", "catalog", "smoke"].map(|name| (name.to_owned(), "fail".to_owned()));
    assert_eq!(answers(&report)[1..], failed, "{report:#}");
    r.script(
        "\n\n[[checks]]\nkind = \"fingerprint\"\nname = \"all\"\n[[checks]]\nkind = \"sql\"\nname = \"wrong\"\nquery = \"SELECT no_such_column FROM patients\"\nat_least = 1\n\
         [[checks]]\nkind = \"sql\"\nname = \"rows\"\nquery = \"SELECT v FROM tiny\"\nat_least = 1\n\
         [[checks]]\nkind = \"freshness\"\nname = \"future\"\nquery = \"SELECT 'infinity'::timestamptz\"\n\
         [[checks]]\nkind = \"command\"\nname = \"smoke\"\ncommand = [\"/no/such/program\"]\n",
    );
    let report = r.report(9);
    let blind = ["wrong", "rows", "future", "smoke"]
        .map(|name| (name.to_owned(), "could-not-look".to_owned()));
    assert_eq!(answers(&report)[1..], blind, "{report:#}");
    assert_eq!(report["verdict"], "NOT_VERIFIED");
    // Without the fingerprint nothing passes.
    r.script("\n\n[[checks]]\nkind = \"sql\"\nquery = \"SELECT 1\"\nis = \"1\"\n");
    assert!(r.report(9)["reasons"][0].as_str().unwrap().contains("nothing of db was compared"));
}

#[test]
fn plans_run_their_statements_and_expect_what_they_say() {
    let r = Rehearsal::new();
    r.script("");
    r.plan("settings = { maintenance_work_mem = \"64MB\" }\nbefore = [\"CREATE SCHEMA before_loading\"]\nafter = [\"DROP SCHEMA before_loading\", \"ANALYZE\"]\nextensions = [\"plpgsql\"]\n[[restore.smoke]]\nname = \"answers\"\ncommand = [\"/usr/bin/psql\", \"--dbname={target}\", \"-Atc\", \"SELECT count(*) FROM patients\"]");
    let report = r.report(0);
    assert_eq!(answers(&report).last().unwrap(), &("answers".to_owned(), "pass".to_owned()));
    // What the machine lacks is not the backup's fault.
    r.plan("extensions = [\"no_such_extension 1.0\"]");
    let report = r.report(9);
    assert!(report["reasons"][0].as_str().unwrap().contains("no_such_extension"), "{report:#}");
    assert_eq!(report["halt"]["at-fault"], "sandbox");
    // A statement that fails is.
    r.plan("after = [\"SELECT 1/0\"]");
    let report = r.report(8);
    assert!(
        report["reasons"][0].as_str().unwrap().contains("statement 1 of `after`"),
        "{report:#}"
    );
    assert!(
        !report.to_string().contains("division by zero"),
        "what a server says is not stored: {report:#}"
    );
    // The same plan is run by a restore.
    let target = Cluster::start();
    r.home
        .run(&["restore", "db", "--to", &target.conninfo("back"), "--yes"])
        .fails(13, &["division by zero", "restore plan"]);
    r.plan("after = [\"CREATE TABLE made_by_plan ()\"]\n[[restore.smoke]]\nname = \"answers\"\ncommand = [\"/bin/false\"]");
    let target = Cluster::start();
    r.home
        .run(&["restore", "db", "--to", &target.conninfo("back"), "--yes"])
        .fails(8, &["answers: it exited with 1"]);
    assert_eq!(
        target.psql("back", "SELECT count(*) FROM pg_class WHERE relname = 'made_by_plan'"),
        "1"
    );
}

#[test]
fn a_plan_may_leave_rows_of_tables_in_the_backup() {
    let r = Rehearsal::new();
    r.script("");
    r.plan("without_rows_of = [\"public.tiny\"]");
    let report = r.report(0);
    let summary = report["checks"][0]["summary"].as_str().unwrap();
    assert!(summary.contains("1 things could not be compared"), "{summary}");
    assert!(!report.to_string().contains("tiny"), "names of tables are not stored");
    let target = Cluster::start();
    let out = r.home.restore(&target.conninfo("back")).ok();
    assert!(out.stdout.contains("rows of public.tiny, which the plan leaves out"), "{out:?}");
    let rows = "SELECT (SELECT count(*) FROM patients), (SELECT count(*) FROM tiny)";
    assert_eq!(target.psql("back", rows), "5000|0");
    r.plan("without_rows_of = [\"public.tinny\"]");
    r.home.restore(&target.conninfo("again")).fails(2, &["rows of public.tinny", "no such table"]);
    r.plan("without_rows_of = [\"tiny\"]");
    r.home.restore(&target.conninfo("again")).fails(2, &["names no table", "schema.table"]);
}

#[test]
fn sandboxes_of_newer_majors_are_raised_from_their_own_installation() {
    for (major, number) in [(Major::V17, "17"), (Major::V18, "18")] {
        let r = Rehearsal::of(
            Cluster::start_with(major, &[]),
            &format!("\npg_bin = \"{}\"\n", major.bin().display()),
        );
        r.script("\n\n[local]\nsize_mib = 512\nprograms = [\"/var/tmp/lifeboat-postgres\"]\n\n[[checks]]\nkind = \"fingerprint\"\n\n[[checks]]\nkind = \"amcheck\"\n");
        let report = r.report(0);
        assert_eq!(report["verdict"], "PASS", "{report:#}");
        assert!(report["sandbox"].as_str().unwrap().contains(number), "{report:#}");
    }
}

#[test]
fn a_sandbox_that_is_too_small_or_without_time_is_at_fault_itself() {
    let r = Rehearsal::new();
    r.source.psql(
        "d",
        "CREATE TABLE big AS SELECT i, sha256(i::text::bytea) AS h, sha256((-i)::text::bytea) AS g FROM generate_series(1, 1200000) i",
    );
    r.home.backup();
    r.script("\n\n[local]\nsize_mib = 128\n");
    let report = r.report(9);
    assert_eq!(
        (&report["verdict"], &report["halt"]["at-fault"]),
        (&Value::from("NOT_VERIFIED"), &Value::from("sandbox")),
        "{report:#}"
    );
}

#[test]
fn objectives_that_are_missed_fail_the_drill() {
    let r = Rehearsal::new();
    r.script("\n\n[objectives]\nrto = \"0s\"\nrpo = \"0s\"\n");
    let report = r.report(8);
    let reasons = report["reasons"].to_string();
    assert!(reasons.contains("RTO missed") && reasons.contains("RPO missed"), "{reasons}");
    // The next one is warned of before it begins.
    let out = r.home.run(&["drill", "nightly"]);
    assert!(out.stderr.contains("warning: earlier drills let one expect"), "{out:?}");
}

/// Code in the dump runs as a superuser of the sandbox while it is restored: it looks for keys and
/// for production, tries to forge evidence and to stay.
#[test]
fn a_hostile_dump_finds_nothing_reaches_nothing_and_does_not_outlive_the_drill() {
    let r = Rehearsal::new();
    let (home, socket) = (r.home.path(""), r.source.socket());
    let script = format!(
        "( cat {home}/keys/identity.txt {home}/keys/signing.pem && echo GOT-KEY; ls {home} && echo GOT-HOME; \
           psql -h {socket} -U postgres -Atc 'SELECT 1' postgres && echo GOT-PRODUCTION; \
           touch {home}/vault/evidence/00000009.json && echo GOT-EVIDENCE; \
           cat /etc/shadow && echo GOT-SHADOW; ls /root && echo GOT-ROOT; test -e /proc/{pid} && echo GOT-PROCESS; \
           exec 3<>/dev/tcp/127.0.0.1/22 && echo GOT-NETWORK; kill -9 1 && echo GOT-INIT; mount -t tmpfs none /mnt && echo GOT-MOUNT; \
           cat /home/client/* && echo GOT-CLIENT; \
           echo ran ) > /tmp/loot 2>/dev/null; setsid nohup sleep 86399 > /dev/null 2>&1 &",
        home = home.display(),
        socket = socket.display(),
        pid = std::process::id(),
    );
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, script);
    // Only in a sandbox: the source is a server of ours that must not run it.
    r.source.psql(
        "d",
        &format!(
            "CREATE FUNCTION evil_act() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN
               IF current_setting('wal_level') = 'minimal' AND pg_read_file('/tmp/loot', 0, 1, true) IS NULL THEN
                 EXECUTE $c$COPY (SELECT '') TO PROGRAM 'echo {} | base64 -d > /tmp/evil.sh; bash /tmp/evil.sh'$c$;
               END IF; END $f$;
             CREATE FUNCTION evil(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN PERFORM public.evil_act(); RETURN i; END $f$;
             CREATE TABLE trap (i int); INSERT INTO trap VALUES (1); CREATE INDEX ON trap (evil(i));",
            encoded
        ),
    );
    r.home.backup();
    r.script("\n\n[[checks]]\nkind = \"fingerprint\"\n[[checks]]\nkind = \"sql\"\nname = \"loot\"\nquery = \"SELECT pg_read_file('/tmp/loot')\"\nis = \"ran\\n\"\n");
    let out = r.home.run(&["drill", "nightly"]);
    assert!(out.stderr.contains("pass  loot"), "{out:?}");
    assert_eq!(out.code, 0, "{out:?}");
    r.assert_nothing_is_left();
    let sleepers = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    assert_eq!(sleepers.filter(|line| line.starts_with(b"sleep\x0086399")).count(), 0);
    assert!(!r.home.vault().join("evidence/00000009.json").exists());
    r.home.run(&["evidence", "verify"]).ok();
}

#[test]
fn killed_at_any_step_nothing_runs_on_and_abort_or_resume_ends_in_a_report() {
    let r = Rehearsal::new();
    r.script("");
    for (number, point) in lifeboat::failpoint::OF_DRILLS.iter().enumerate() {
        let mut command = r.home.command(&["drill", "nightly"]);
        command.env("LIFEBOAT_FAILPOINT", point);
        let out = finish(command);
        assert_eq!(out.code, 137, "{point}: {out:?}");
        // The sandbox goes with its drill, before anybody cleans up.
        if let Some(uid) = r.lease().and_then(|lease| lease["uid"].as_u64()) {
            eventually("the sandbox is gone", || sandboxed_processes_of(uid) == 0);
        }
        // Until then the series says that a drill has begun; it is not a flaw before its time.
        r.home.run(&["evidence", "verify"]).ok();
        if number == 1 {
            // Nobody changes what is rehearsed while it is under way.
            r.script("backup = \"oldest\"");
            r.home
                .run(&["drill", "resume", "nightly"])
                .fails(2, &["not the one it was declared with", "drill abort"]);
            r.script("");
        }
        let (verb, code, verdict) =
            if number % 2 == 0 { ("abort", 9, "NOT_VERIFIED") } else { ("resume", 0, "PASS") };
        let report = r.report_of(&["drill", verb, "nightly", "--json"], code);
        assert_eq!(report["verdict"], verdict, "{point}: {report:#}");
        let attempts = [0, 2, 1, 2, 1, 2][number];
        assert_eq!(report["attempts"], attempts, "{point}");
        r.home.run(&["drill", "abort", "nightly"]).fails(2, &["or it has its report"]);
    }
    let verified = r.home.run(&["evidence", "verify"]).ok();
    assert!(verified.stderr.contains("12 records, 6 of them reports"), "{verified:?}");
}

/// A reboot is a kill after which process numbers mean somebody else. None is remembered: what is
/// ended is known by its uid and tag.
#[test]
fn after_a_reboot_nobody_is_taken_for_the_sandbox() {
    let r = Rehearsal::new();
    r.script("");
    let mut command = r.home.command(&["drill", "nightly"]);
    command.env("LIFEBOAT_FAILPOINT", "drill-loaded");
    assert_eq!(finish(command).code, 137);
    let lease = r.lease().unwrap();
    assert_eq!(
        lease.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["expires", "groups", "run", "uid"]
    );
    // Somebody who looks into it, under the run's name, perhaps with a number that the sandbox had.
    let run = lease["run"].as_str().unwrap();
    let mut bystander = std::process::Command::new("sh")
        .args(["-c", "read line", run])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let report = r.report_of(&["drill", "abort", "nightly", "--json"], 9);
    assert_eq!(report["verdict"], "NOT_VERIFIED");
    assert!(bystander.try_wait().unwrap().is_none(), "it was killed");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn a_sandbox_ends_by_itself_after_its_time_though_lifeboat_stands_still() {
    let r = Rehearsal::new();
    r.script("time_to_live = \"12s\"");
    let (drill, go_on) = r.loaded_and_waiting();
    let uid = r.lease().unwrap()["uid"].as_u64().unwrap();
    assert!(sandboxed_processes_of(uid) > 0);
    // Another drill of the same name does not begin meanwhile.
    r.home.run(&["drill", "nightly"]).fails(4, &["drill nightly is running already"]);
    r.home.run(&["drill", "abort", "nightly"]).fails(4, &["running already"]);
    let begun = std::time::Instant::now();
    eventually("its time is over", || sandboxed_processes_of(uid) == 0);
    assert!(begun.elapsed() < Duration::from_secs(30));
    std::fs::write(&go_on, "").unwrap();
    let out = drill.wait_with_output().unwrap();
    let last = last_line(&out);
    assert_eq!(
        (out.status.code(), &last["report"]["verdict"]),
        (Some(9), &Value::from("NOT_VERIFIED")),
        "{last:#}"
    );
    r.assert_nothing_is_left();
}

#[test]
fn what_is_wrong_with_drill_files_is_said_at_once() {
    let r = Rehearsal::new();
    r.script("");
    let steady = |text: &str| text.replace(r.home.path("").to_str().unwrap(), "/HOME/");
    r.home
        .run(&["drill", "nigthly"])
        .fails(2, &["there is no drill nigthly", "did you mean nightly?"]);
    std::fs::write(
        r.home.path("drills/nightly.toml"),
        "plan = \"db\"\nbackup = \"newest\"\nbreak = [\"everything\"]\naccept_gaps = [\"all\"]\ncontrols = []\nsandbx = \"local\"\n[objectives]\nrto = \"soon\"\n[[checks]]\nkind = \"sql\"\nquery = \"SELECT 1\"\n[[checks]]\nkind = \"sql\"\nis = \"1\"\n[[checks]]\nkind = \"guess\"\n[[checks]]\nkind = \"command\"\nname = \"x\"\ncommand = []\n[[checks]]\n",
    )
    .unwrap();
    let out = r.home.run(&["drill", "nightly"]);
    assert_eq!(out.code, 2);
    insta::assert_snapshot!(steady(&out.stderr));
    std::fs::write(r.home.path("drills/nightly.toml"), "plan = \"other\"\n").unwrap();
    r.home
        .run(&["drill", "nightly"])
        .fails(2, &["there is no plan \"other\"", "plans in restore/ are: db"]);
    r.script("");
    std::fs::write(
        r.home.path("restore/db.toml"),
        "[[restore]]\ndatastore = \"dbb\"\n[[restore]]\ndatastore = \"db\"\nsettings = { archive_command = \"rm\", \"a b\" = \"1\" }\nmajor = 3\n[[restore]]\ndatastore = \"db\"\n",
    )
    .unwrap();
    let out = r.home.run(&["drill", "nightly"]);
    assert_eq!(out.code, 2);
    insta::assert_snapshot!(steady(&out.stderr));
    // No half-begun drill is left of all this.
    r.home.run(&["evidence", "verify"]).ok();
    assert!(!r.home.vault().join("evidence").exists());
}

#[test]
fn without_namespaces_the_verdict_is_not_verified_unless_the_gaps_are_accepted() {
    let r = Rehearsal::new();
    r.script("");
    // The same program under an ordinary user, who may make no namespaces.
    let program = r.home.path("lifeboat");
    std::fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &program).unwrap();
    let own = std::process::Command::new("chown")
        .args(["-R", "postgres"])
        .arg(r.home.path(""))
        .status()
        .unwrap();
    assert!(own.success());
    let drill = || {
        let mut command = std::process::Command::new("/usr/bin/setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
            .arg(&program)
            .args(["drill", "nightly", "--json"]);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LIFEBOAT_CONFIG", r.home.path("lifeboat.toml"))
            .stdin(Stdio::null());
        let out = command.output().unwrap();
        let last: Value = serde_json::from_str(
            String::from_utf8_lossy(&out.stdout).lines().last().unwrap_or_default(),
        )
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
        (out.status.code().unwrap(), last["report"].clone())
    };
    let (code, report) = drill();
    assert_eq!((code, &report["verdict"]), (9, &Value::from("NOT_VERIFIED")), "{report:#}");
    assert!(
        report["reasons"][0].as_str().unwrap().contains("not isolated: gap network; gap files"),
        "{report:#}"
    );
    // Judged before a server listened that anybody on this host could have talked to.
    let steps = report["steps"].to_string();
    assert!(
        !steps.contains("start-server")
            || report["steps"]
                .as_array()
                .is_some_and(|steps| steps.iter().all(|step| step["step"] != "start-server")),
        "{report:#}"
    );
    // Nobody else of this host gets to it: neither through the directory nor through the socket.
    let modes = r.home.path("modes.sh");
    let script = "at=$(printf %s \"$1\" | tr -d \"'\" | sed 's/.*host=\\([^ ]*\\).*/\\1/')\nmodes=$(stat -c %a $at $at/.s.PGSQL.5432 $at/../.. | tr '\\n' ' ')\necho \"$1: $modes\" >> \"$0.said\"\ntest \"$modes\" = '700 770 700 '\n";
    std::fs::write(&modes, script).unwrap();
    std::fs::set_permissions(&modes, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    r.script(&format!(
        "accept_gaps = [\"network\", \"files\", \"processes\", \"uid\", \"size\"]\n\n[[checks]]\nkind = \"fingerprint\"\n[[checks]]\nkind = \"command\"\nname = \"modes\"\ncommand = [\"/bin/sh\", \"{}\", \"{{target}}\"]\n",
        modes.display()
    ));
    let (code, report) = drill();
    let said = std::fs::read_to_string(r.home.path("modes.sh.said")).unwrap_or_default();
    assert_eq!((code, &report["verdict"]), (0, &Value::from("PASS")), "{said}: {report:#}");
    // What is accepted is repeated, gap by gap, and the probes that got through are there.
    assert_eq!(report["isolation"]["gaps"].as_array().unwrap().len(), 5);
    assert_eq!(report["gaps_accepted"].as_array().unwrap().len(), 5);
    assert!(report["isolation"]["probes"].as_array().unwrap().iter().any(|p| p["reached"] == true));
    r.assert_nothing_is_left();
}

/// What is wrong with the evidence after `change`, as `evidence verify` says it.
#[track_caller]
fn flawed(r: &Rehearsal, change: impl Fn(&std::path::Path), words: &[&str]) {
    let (vault, kept) = (r.home.vault().join("evidence"), r.home.path("kept"));
    crate::support::home::copy_tree(&vault, &kept);
    change(&vault);
    let out = r.home.run(&["evidence", "verify"]);
    assert_eq!(out.code, 7, "{out:?}");
    for word in words {
        assert!(out.stdout.contains(word), "{word:?} is not in {out:?}");
    }
    std::fs::remove_dir_all(&vault).unwrap();
    std::fs::rename(&kept, &vault).unwrap();
    r.home.run(&["evidence", "verify"]).ok();
}

#[test]
fn evidence_that_was_edited_reordered_removed_cut_off_or_forked_is_found() {
    let r = Rehearsal::new();
    r.script("");
    r.report(0);
    r.report(0);
    let json = |vault: &std::path::Path, number: u32| vault.join(format!("{number:08}.json"));
    let both = |path: &std::path::Path| [path.to_owned(), path.with_extension("json.sig")];
    let edit = |path: &std::path::Path, from: &str, to: &str| {
        let old = std::fs::read_to_string(path).unwrap();
        assert!(old.contains(from));
        std::fs::write(path, old.replace(from, to)).unwrap();
    };
    flawed(
        &r,
        |v| edit(&json(v, 2), "\"PASS\"", "\"FAIL\""),
        &["record 2 is not signed", "record 3 follows another record"],
    );
    flawed(
        &r,
        |v| {
            for (a, b) in both(&json(v, 2)).iter().zip(&both(&json(v, 3))) {
                let (x, y) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
                std::fs::write(a, y).unwrap();
                std::fs::write(b, x).unwrap();
            }
        },
        &["the record at number 2 belongs elsewhere", "the record at number 3 belongs elsewhere"],
    );
    let remove = |path: std::path::PathBuf| {
        both(&path).iter().for_each(|file| std::fs::remove_file(file).unwrap())
    };
    flawed(&r, |v| remove(json(v, 2)), &["record 2 is missing"]);
    // A signature left behind does not hide that its record is gone: the next one knows it.
    flawed(&r, |v| std::fs::remove_file(json(v, 2)).unwrap(), &["record 3 follows another record"]);
    // The newest, alone or with its beginning.
    flawed(&r, |v| remove(json(v, 4)), &["a record that this host had seen is gone"]);
    flawed(
        &r,
        |v| (3..=4).for_each(|n| remove(json(v, n))),
        &["a record that this host had seen is gone"],
    );
    flawed(
        &r,
        |v| (1..=4).for_each(|n| remove(json(v, n))),
        &["a record that this host had seen is gone"],
    );
    // On another host the manifests tell.
    r.home.backup();
    std::fs::remove_file(r.home.path("catalog.db")).unwrap();
    flawed(
        &r,
        |v| remove(json(v, 4)),
        &["had seen is gone: the end of the series was cut off", "backup "],
    );
    // A record of somebody else's, in the right place.
    flawed(
        &r,
        |v| {
            std::fs::copy(json(v, 4), json(v, 5)).unwrap();
            std::fs::copy(both(&json(v, 4))[1].clone(), both(&json(v, 5))[1].clone()).unwrap();
        },
        &["the record at number 5 belongs elsewhere"],
    );
    // A stray far away is told of, and keeps nobody from writing the next record.
    let stray = json(&r.home.vault().join("evidence"), 99_999_999);
    std::fs::write(&stray, "garbage").unwrap();
    r.report(0);
    assert!(json(&r.home.vault().join("evidence"), 6).exists());
    r.home.run(&["evidence", "verify"]).fails(7, &["flaws"]);
    std::fs::remove_file(&stray).unwrap();
    // Two that follow the same one: a series that was written on in two copies of the vault.
    let (vault, copy) = (r.home.vault(), r.home.path("other-vault"));
    crate::support::home::copy_tree(&vault, &copy);
    r.report(0);
    let fork = std::fs::read(json(&vault.join("evidence"), 8)).unwrap();
    let signature = std::fs::read(vault.join("evidence/00000008.json.sig")).unwrap();
    std::fs::remove_dir_all(&vault).unwrap();
    std::fs::rename(&copy, &vault).unwrap();
    std::fs::remove_file(r.home.path("catalog.db")).unwrap();
    r.report(0);
    flawed(
        &r,
        |v| {
            std::fs::write(json(v, 8), &fork).unwrap();
            std::fs::write(v.join("00000008.json.sig"), &signature).unwrap();
        },
        &["record 8 follows another record", "refers to a record that is not there"],
    );
}

#[test]
fn pages_and_records_are_exported_and_openssl_verifies_them() {
    let r = Rehearsal::new();
    r.script("break = [\"catalog-lost\"]");
    let report = r.report(0);
    r.home
        .run(&[
            "drill",
            "certify",
            report["run"].as_str().unwrap(),
            "--reviewer",
            "A. <b>Meyer",
            "--statement",
            "seen",
        ])
        .ok();
    let pages = r.home.path("pages");
    r.home.run(&["evidence", "export", pages.to_str().unwrap()]).ok();
    let index = std::fs::read_to_string(pages.join("index.html")).unwrap();
    assert!(
        index.contains("PASS") && index.contains("<svg") && index.contains("report-00000002.html"),
        "{index}"
    );
    let page = std::fs::read_to_string(pages.join("report-00000002.html")).unwrap();
    assert!(
        page.contains("the catalog is lost")
            && page.contains("A. &lt;b&gt;Meyer")
            && !page.contains("<b>Meyer"),
        "{page}"
    );
    // Self-contained: nothing is fetched from anywhere.
    for page in [&index, &page] {
        assert!(
            !page.contains("http://") && !page.contains("https://") && !page.contains("<script"),
            "{page}"
        );
    }
    let verified = std::process::Command::new("openssl")
        .args([
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            "trusted-1.pem",
            "-rawin",
            "-in",
            "records/00000002.json",
            "-sigfile",
            "records/00000002.json.sig",
        ])
        .current_dir(&pages)
        .output()
        .unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn sweep_finds_a_sandbox_whose_drill_died_and_tells_of_the_missing_report() {
    let r = Rehearsal::new();
    r.script("");
    let mut command = r.home.command(&["drill", "nightly"]);
    command.env("LIFEBOAT_FAILPOINT", "drill-loaded");
    assert_eq!(finish(command).code, 137);
    r.home.run(&["sweep"]).fails(10, &["died without a report", "1 things were left behind"]);
    r.home.run(&["sweep", "--confirm"]).ok();
    r.assert_nothing_is_left();
    let out = r.home.run(&["sweep"]).ok();
    assert!(out.stderr.contains("died without a report"), "{out:?}");
    r.report_of(&["drill", "abort", "nightly", "--json"], 9);
    assert!(!r.home.run(&["sweep"]).ok().stderr.contains("died without a report"));
}

#[test]
fn the_examples_that_init_writes_are_sound() {
    let r = Rehearsal::new();
    r.home.add_datastore("chat", &r.source.conninfo("d"), "");
    r.home.configure("\n[vaults.dr]\ndirectory = \"elsewhere\"\n");
    for (name, text) in lifeboat::work::init::EXAMPLES {
        assert_eq!(std::fs::read_to_string(r.home.path(&format!("{name}.example"))).unwrap(), text);
        std::fs::write(r.home.path(name), text).unwrap();
    }
    // Everything but the drill that loses a KMS nobody has.
    let out = r.home.run(&["check", "--json"]);
    let lines = out.json();
    let drills: Vec<_> = lines
        .as_array()
        .unwrap()
        .iter()
        .filter(|l| l["subject"].as_str().unwrap().starts_with("drill "))
        .collect();
    assert_eq!(drills.len(), 8, "{out:?}");
    for line in drills {
        let good = line["answer"] == "good";
        assert_eq!(good, line["subject"] != "drill kms-gone", "{line}");
    }
    let schedules: Vec<_> = lines
        .as_array()
        .unwrap()
        .iter()
        .filter(|l| l["subject"].as_str().unwrap().starts_with("schedule "))
        .collect();
    assert_eq!(schedules.len(), 4, "{out:?}");
    assert!(
        schedules
            .iter()
            .all(|line| line["answer"] == "good"
                && line["detail"].as_str().unwrap().contains("next")),
        "{schedules:?}"
    );
    r.home.run(&["backup", "chat"]).ok();
    r.home.run(&["drill", "nightly"]).ok();
    r.home.run(&["drill", "list"]).ok();
}

#[test]
fn ctrl_c_takes_the_sandbox_down_and_leaves_a_report() {
    let r = Rehearsal::new();
    r.script("");
    let (drill, go_on) = r.loaded_and_waiting();
    let pid = rustix::process::Pid::from_raw(drill.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // The signal is noticed while the drill stands still; then it goes on, into its end.
    std::thread::sleep(Duration::from_millis(500));
    std::fs::write(&go_on, "").unwrap();
    let out = drill.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{out:?}");
    let last = last_line(&out);
    assert_eq!(
        (&last["report"]["verdict"], &last["report"]["halt"]["at-fault"]),
        (&"NOT_VERIFIED".into(), &"interrupted".into()),
        "{last:#}"
    );
    r.assert_nothing_is_left();
}

#[test]
fn a_server_that_is_killed_is_the_sandboxs_fault() {
    let r = Rehearsal::new();
    r.script("");
    let (drill, go_on) = r.loaded_and_waiting();
    // As the kernel does when memory runs out.
    let uid = r.lease().unwrap()["uid"].as_u64().unwrap().to_string();
    let killed = std::process::Command::new("setpriv")
        .args(["--reuid", &uid, "--clear-groups", "kill", "-9", "-1"])
        .status()
        .unwrap();
    assert!(!killed.success(), "it kills itself as well");
    std::fs::write(&go_on, "").unwrap();
    let out = drill.wait_with_output().unwrap();
    let last = last_line(&out);
    assert_eq!(
        (out.status.code(), &last["report"]["halt"]["at-fault"]),
        (Some(9), &"sandbox".into()),
        "{last:#}"
    );
    r.assert_nothing_is_left();
}

#[test]
fn a_plan_brings_several_datastores_back_in_order_and_each_must_be_compared() {
    let r = Rehearsal::new();
    r.source.psql("postgres", "CREATE DATABASE e");
    r.source.psql("e", "CREATE TABLE t AS SELECT i FROM generate_series(1, 10) i");
    r.home.add_datastore("second", &r.source.conninfo("e"), "");
    r.home.run(&["backup", "second"]).ok();
    let plan = "[[restore]]\ndatastore = \"second\"\n[[restore]]\ndatastore = \"db\"\n";
    std::fs::write(r.home.path("restore/db.toml"), plan).unwrap();
    r.script("");
    let report = r.report(0);
    let restored: Vec<_> = report["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["datastore"].as_str().unwrap())
        .collect();
    assert_eq!(restored, ["second", "db"]);
    assert_eq!(answers(&report).len(), 2);
    r.script("\n\n[[checks]]\nkind = \"fingerprint\"\ndatastore = \"db\"\n");
    let report = r.report(9);
    assert_eq!(
        report["reasons"][0],
        "nothing of second was compared with what was recorded at backup time"
    );
    // With stock tools too.
    r.script("break = [\"lifeboat-lost\"]");
    r.report(0);
}

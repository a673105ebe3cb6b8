//! The verdicts of drills, cause by cause, as the table of docs/DRILLS.md has them: the backup is
//! at fault only where on-call's restore of the same backup fails or differs, and the place where
//! it is the place's.

use std::time::Duration;

use serde_json::Value;

use crate::support::home::finish;
use crate::support::{Cluster, Major, Rehearsal, eventually};

/// What happened in a drill, for a table: verdict, who is at fault, and the reasons.
#[track_caller]
fn halted(r: &Rehearsal, code: i32, at_fault: &str, words: &[&str]) -> Value {
    let report = r.report(code);
    assert_eq!(report["halt"]["at-fault"], at_fault, "{report:#}");
    let reasons = report["reasons"].to_string();
    for word in words {
        assert!(reasons.contains(word), "{word}: {report:#}");
    }
    report
}

/// On-call's restore of the same backup, to a server of the source's own kind.
#[track_caller]
fn on_call(r: &Rehearsal, code: i32) {
    let target = r.source.conninfo("again");
    r.source.psql("postgres", "DROP DATABASE IF EXISTS again");
    let out = r.home.run(&["restore", "db", "--to", &target, "--yes"]);
    assert_eq!(out.code, code, "{out:?}");
    assert!(!out.stderr.contains("77123"), "{out:?}");
}

/// Words of every other row, raised by a function of the data's own under an SQLSTATE of its
/// choice.
#[test]
fn words_of_the_data_excuse_nothing() {
    let r = Rehearsal::new();
    let sayings = "locale name; could not open extension control file; is not available; could not access file \"$libdir/x\"; \
        No space left on device; could not extend file; server closed the connection unexpectedly; terminating connection; out of memory\n\
        LOCATION:  mdextend, md.c:1\n12 53100 LOCATION:  mdextend, md.c:1";
    r.source.psql(
        "d",
        &format!(
            "CREATE TABLE z_later (v int); INSERT INTO z_later VALUES (1);
             CREATE FUNCTION says() RETURNS bool LANGUAGE plpgsql AS $f$ BEGIN
               RAISE LOG 'server process (PID 7) was terminated by signal 9: Killed';
               IF NOT EXISTS (SELECT FROM public.z_later) THEN
                 RAISE EXCEPTION USING MESSAGE = $w${sayings}$w$, ERRCODE = '53100';
               END IF; RETURN true; END $f$;
             CREATE TABLE a_first (v int CHECK (says())); INSERT INTO a_first VALUES (77123);"
        ),
    );
    r.home.backup();
    r.script("");
    halted(&r, 8, "backup", &["the restore failed"]);
    let log = std::fs::read_to_string(r.source.log()).unwrap();
    on_call(&r, 13);
    // The target's log has the error, and not the row.
    let log = std::fs::read_to_string(r.source.log()).unwrap().split_off(log.len());
    assert!(log.contains("is not available") && !log.contains("77123"), "{log}");
}

#[test]
fn the_end_of_the_sandbox_in_a_check_is_the_sandboxs() {
    let r = Rehearsal::new();
    let waits = "\n\n[[checks]]\nkind = \"fingerprint\"\n[[checks]]\nkind = \"command\"\nname = \"long\"\ncommand = [\"/bin/sleep\", \"600\"]\nwithin = \"10m\"\n";
    // Its time is over.
    r.script(&format!("time_to_live = \"15s\"{waits}"));
    let report =
        halted(&r, 9, "sandbox", &["its time to live is over (time_to_live in the drill file)"]);
    assert!(!report["reasons"].to_string().contains("it was killed"), "{report:#}");
    // Its first process is killed.
    r.script(waits);
    let (home, run) =
        (r.home.path("catalog.sandboxes"), r.home.command(&["drill", "nightly", "--json"]));
    let drill = std::thread::spawn(move || finish(run));
    let first = || {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let of = |line: &[u8], word: &[u8]| line.split(|byte| *byte == 0).any(|one| one == word);
        let name =
            std::fs::read_dir(&home).ok()?.flatten().next()?.file_name().into_string().ok()?;
        let all: Vec<(u32, Vec<u8>)> = entries
            .filter_map(|e| {
                Some((
                    e.file_name().to_str()?.parse().ok()?,
                    std::fs::read(e.path().join("cmdline")).ok()?,
                ))
            })
            .collect();
        // Only while the check runs.
        all.iter().find(|(_, line)| line.starts_with(b"/bin/sleep\x00600\x00"))?;
        all.iter()
            .find(|(_, line)| {
                line.starts_with(b"/proc/")
                    && of(line, b"sandbox-first-process")
                    && of(line, name.as_bytes())
            })
            .map(|(pid, _)| *pid)
    };
    eventually("the check runs", || first().is_some());
    let pid = rustix::process::Pid::from_raw(i32::try_from(first().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let out = drill.join().unwrap();
    assert_eq!(r.reported(&out, 9)["halt"]["at-fault"], "sandbox", "{out:?}");
}

#[test]
fn a_file_of_the_servers_host_is_hidden_and_can_be_shown() {
    let r = Rehearsal::new();
    let directory = tempfile::Builder::new().prefix("lifeboat-file").tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let file = directory.path().join("words");
    std::fs::write(&file, "a word").unwrap();
    r.source.psql(
        "d",
        &format!(
            "CREATE MATERIALIZED VIEW seen AS SELECT pg_read_file('{}') AS text",
            file.display()
        ),
    );
    r.home.backup();
    r.script("");
    halted(
        &r,
        9,
        "sandbox",
        &[
            "a file or program of the server's host",
            "programs in the drill file",
            "skip in the plan",
        ],
    );
    on_call(&r, 0);
    r.script(&format!(
        "\n\n[local]\nsize_mib = 512\nprograms = [\"{}\"]\n",
        directory.path().display()
    ));
    assert_eq!(r.report(0)["verdict"], "PASS");
}

#[test]
fn another_server_is_out_of_reach_and_what_asks_it_can_be_left_out() {
    let r = Rehearsal::new();
    r.source.psql(
        "d",
        &format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{}', dbname 'd');
             CREATE USER MAPPING FOR postgres SERVER other OPTIONS (user 'postgres');
             CREATE FOREIGN TABLE there (v int) SERVER other OPTIONS (schema_name 'public', table_name 'tiny');
             CREATE MATERIALIZED VIEW copied AS SELECT * FROM there;",
            r.source.socket().display()
        ),
    );
    r.home.backup();
    r.script("");
    halted(&r, 9, "sandbox", &["a sandbox has no network", "skip in the plan"]);
    on_call(&r, 0);
    r.plan("skip = [\"MATERIALIZED VIEW DATA:public.copied\"]");
    assert_eq!(r.report(0)["verdict"], "PASS");
}

#[test]
fn an_extension_that_is_not_installed_here_is_the_machines() {
    let r = Rehearsal::new();
    let name = format!("lifeboat_test_{}", std::process::id());
    let extensions = std::path::Path::new("/usr/share/postgresql/15/extension");
    let (control, script) =
        (extensions.join(format!("{name}.control")), extensions.join(format!("{name}--1.0.sql")));
    std::fs::write(&control, "default_version = '1.0'\nrelocatable = true\n").unwrap();
    std::fs::write(&script, "CREATE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 42';\n")
        .unwrap();
    r.source.psql("d", &format!("CREATE EXTENSION {name}"));
    r.home.backup();
    std::fs::remove_file(&control).unwrap();
    std::fs::remove_file(&script).unwrap();
    r.script("");
    halted(&r, 9, "sandbox", &["lacks extension lifeboat_test_"]);
}

/// Real extensions: one that must be loaded at the start and acts by itself, and a large one.
#[test]
fn extensions_that_must_be_preloaded_are_named_and_do_nothing_by_themselves() {
    let settings = [
        "shared_preload_libraries = 'pg_cron'",
        "cron.database_name = 'd'",
        "cron.use_background_workers = on",
    ];
    let r = Rehearsal::of(Cluster::start_with(Major::Debian15, &settings), "");
    r.source.psql(
        "d",
        "CREATE EXTENSION pg_cron; CREATE TABLE ticks (at timestamptz); CREATE EXTENSION postgis;
         CREATE TABLE places (at geometry(Point, 4326)); INSERT INTO places SELECT ST_SetSRID(ST_MakePoint(i, i), 4326) FROM generate_series(1, 80) i;
         SELECT cron.schedule('later', '* * * * *', 'INSERT INTO ticks VALUES (now())');",
    );
    r.home.backup();
    r.script("");
    halted(
        &r,
        9,
        "sandbox",
        &["which must be loaded when the server starts", "preload and settings in the drill file"],
    );
    r.script(
        "\n\n[local]\nsize_mib = 512\npreload = [\"pg_cron\"]\nsettings = { \"cron.database_name\" = \"db\" }\n\n\
         [[checks]]\nkind = \"fingerprint\"\n[[checks]]\nkind = \"sql\"\nname = \"no workers\"\n\
         query = \"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cron launcher'\"\nis = \"0\"\n",
    );
    let report = r.report(0);
    assert_eq!(report["verdict"], "PASS", "{report:#}");
    assert!(
        report["isolation"]["holds"][0]
            .as_str()
            .unwrap()
            .contains("loaded when the server starts: pg_cron, without processes of their own")
    );
}

#[test]
fn a_key_that_cannot_be_used_here_says_nothing_about_the_backup() {
    let r = Rehearsal::new();
    r.script("");
    let identity = r.home.path("keys/identity.txt");
    std::fs::set_permissions(&identity, std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .unwrap();
    halted(&r, 9, "sandbox", &["a key cannot be used on this host"]);
    std::fs::set_permissions(&identity, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    // Another key is one that was tried, and does not open.
    let own = std::fs::read(&identity).unwrap();
    let other = std::process::Command::new("age-keygen").output().unwrap().stdout;
    std::fs::write(&identity, other).unwrap();
    halted(&r, 8, "backup", &["no key opens backup"]);
    std::fs::write(&identity, own).unwrap();
    assert_eq!(r.report(0)["verdict"], "PASS");
}

#[test]
fn a_backup_that_cannot_fit_is_refused_before_anything_is_loaded() {
    let r = Rehearsal::new();
    r.source.psql(
        "d",
        "CREATE TABLE wide AS SELECT i, repeat('x', 1000) AS text FROM generate_series(1, 60000) i",
    );
    r.home.backup();
    r.script("\n\n[local]\nsize_mib = 128\n");
    let report = halted(
        &r,
        9,
        "sandbox",
        &["the backup's rows alone take", "the sandbox has 128 (size_mib in the drill file"],
    );
    assert!(
        report["steps"].as_array().unwrap().iter().all(|step| step["step"] != "raise-sandbox"),
        "{report:#}"
    );
}

#[test]
fn a_report_that_cannot_be_written_says_how_to_go_on() {
    let r = Rehearsal::new();
    r.script("");
    let (drill, go_on) = r.loaded_and_waiting();
    let (vault, away) = (r.home.vault(), r.home.path("vault-away"));
    std::fs::rename(&vault, &away).unwrap();
    std::fs::write(go_on, "").unwrap();
    let out = drill.wait_with_output().unwrap();
    std::fs::rename(&away, &vault).unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        said.contains("and its report could not be written")
            && said.contains("lifeboat drill abort 2"),
        "{said}"
    );
    r.assert_nothing_is_left();
    let report = r.report_of(&["drill", "abort", "nightly", "--json"], 9);
    assert_eq!(report["verdict"], "NOT_VERIFIED");
}

#[test]
fn what_a_check_leaves_behind_keeps_nobody_waiting() {
    let r = Rehearsal::new();
    // It holds the table that the control damages, in a session of its own that outlives it.
    let holds = "setsid sh -c 'echo \\\"BEGIN; LOCK TABLE tiny; SELECT pg_sleep(3600);\\\" | psql -d db' >/dev/null 2>&1 & sleep 2";
    r.script(&format!(
        "\n\n[[checks]]\nkind = \"fingerprint\"\n[[checks]]\nkind = \"command\"\nname = \"leaves\"\ncommand = [\"/bin/sh\", \"-c\", \"{holds}\"]\n"
    ));
    let begun = std::time::Instant::now();
    let report = r.report(0);
    assert_eq!(report["verdict"], "PASS", "{report:#}");
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
}

#[test]
fn a_certificate_needs_words_and_says_whether_its_reviewer_was_named() {
    let r = Rehearsal::new();
    r.script("reviewers = [\"A. Meyer\"]");
    let run = r.report(0)["run"].as_str().unwrap().to_owned();
    let certify = |reviewer: &str, statement: &str| {
        r.home.run(&["drill", "certify", &run, "--reviewer", reviewer, "--statement", statement])
    };
    certify("A. Meyer", " ").fails(2, &["a reviewer and a statement are needed"]);
    assert!(!certify("A. Meyer", "seen").ok().stderr.contains("warning"));
    assert!(
        certify("B. Other", "seen").ok().stderr.contains("the drill names no reviewer B. Other")
    );
}

/// A container whose programs are volumes of their own, and a configuration that is named by a
/// relative path.
#[test]
fn mounts_below_usr_are_seen_and_a_relative_configuration_works() {
    let r = Rehearsal::new();
    let mounted =
        tempfile::Builder::new().prefix("lifeboat-mounted").tempdir_in("/usr/local").unwrap();
    r.script(&format!(
        "\n\n[[checks]]\nkind = \"fingerprint\"\n[[checks]]\nkind = \"command\"\nname = \"mounted\"\ncommand = [\"/bin/sh\", \"-c\", \"test -e {0}/there && ! touch {0}/mine\"]\n",
        mounted.path().display()
    ));
    let script = format!(
        "mount -t tmpfs none {0} && touch {0}/there && chmod 755 {0} && cd {1} && exec {2} --config lifeboat.toml drill nightly --json",
        mounted.path().display(),
        r.home.path("").display(),
        env!("CARGO_BIN_EXE_lifeboat")
    );
    r.reported(
        &finish(r.home.command_by(&["unshare", "--mount", "--", "sh", "-c", &script], &[])),
        0,
    );
    // Without root too.
    let program = r.home.program();
    let own = std::process::Command::new("chown")
        .args(["-R", "postgres"])
        .arg(r.home.path(""))
        .status()
        .unwrap();
    assert!(own.success());
    r.script("accept_gaps = [\"network\", \"files\", \"processes\", \"uid\", \"size\"]");
    let words = [
        "/usr/bin/setpriv",
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
        "--",
        &program,
    ];
    let mut command =
        r.home.command_by(&words, &["--config", "lifeboat.toml", "drill", "nightly", "--json"]);
    command.env_remove("LIFEBOAT_CONFIG").current_dir(r.home.path(""));
    r.reported(&finish(command), 0);
}

/// Somebody who may only add objects: a record without end, a claim of a far number.
#[test]
fn what_is_no_record_of_the_evidence_blocks_nothing_and_leaves_no_gap() {
    let r = Rehearsal::new();
    r.script("");
    r.report(0);
    let evidence = r.home.vault().join("evidence");
    let huge = std::fs::File::create(evidence.join("00000003.json")).unwrap();
    huge.set_len(5 << 20).unwrap();
    let out = r.home.path("out");
    r.home.run(&["restore", "db", "--to", out.to_str().unwrap(), "--yes"]).ok();
    let verified = r.home.run(&["evidence", "verify"]);
    assert!(
        verified.code == 7 && verified.stdout.contains("5242880 bytes are too many for a record"),
        "{verified:?}"
    );
    std::fs::remove_file(evidence.join("00000003.json")).unwrap();
    std::fs::write(evidence.join("00001000.json.sig"), "x").unwrap();
    let listed = r.home.run(&["list", "--json"]).ok().json();
    r.home.run(&["hold", listed[0]["backup"].as_str().unwrap(), "--reason", "a case"]).ok();
    let names: Vec<String> = std::fs::read_dir(&evidence)
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    assert!(!names.contains(&"00001001.json".to_owned()), "{names:?}");
    std::fs::remove_file(evidence.join("00001000.json.sig")).unwrap();
    r.home.run(&["evidence", "verify"]).ok();
}

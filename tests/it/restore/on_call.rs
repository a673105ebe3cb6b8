//! 3 a.m.: what the person on call types, and what comes of it when things go wrong on the way.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::home::out;
use crate::support::{Cluster, Home, Major, eventually};

/// Two tables with a key between them (known to be large, so that parallel payloads are made of
/// them), a third with its own schema, indexes, a trigger, a view, and a comment on the database.
const CHAT: &str = "
    CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE messages (id bigserial PRIMARY KEY, author int REFERENCES people, body text, at timestamptz DEFAULT '2026-01-01');
    CREATE INDEX messages_at ON messages (at);
    CREATE SCHEMA audit;
    CREATE TYPE audit.kind AS ENUM ('in', 'out');
    CREATE TABLE audit.log (id int PRIMARY KEY, kind audit.kind, note text);
    CREATE FUNCTION audit.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER touch BEFORE UPDATE ON audit.log FOR EACH ROW EXECUTE FUNCTION audit.touch();
    CREATE VIEW recent AS SELECT * FROM messages ORDER BY at DESC LIMIT 10;
    INSERT INTO people SELECT i, 'person ' || i FROM generate_series(1, 500) i;
    INSERT INTO messages (author, body) SELECT 1 + i % 500, md5(i::text) || repeat('x', 300) FROM generate_series(1, 20000) i;
    INSERT INTO audit.log SELECT i, 'in', md5(i::text) FROM generate_series(1, 3000) i;
    COMMENT ON DATABASE chat IS 'the chat';
    VACUUM ANALYZE;";

fn chat() -> Cluster {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE chat");
    cluster.psql("chat", CHAT);
    cluster
}

fn count(cluster: &Cluster, database: &str, table: &str) -> String {
    cluster.psql(database, &format!("SELECT count(*) FROM {table}"))
}

#[test]
fn a_plan_says_what_how_old_how_long_and_what_is_missing_and_changes_nothing() {
    let (source, target) = (chat(), Cluster::start());
    let home = Home::of(&source, "chat");
    let first = home.backup();
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let second = home.backup();
    // Without a target: what there is.
    let plan = home.run(&["restore", "db", "--plan"]).ok();
    for words in [
        &second,
        &first,
        "the newest",
        "never: nobody knows",
        "unknown: no drill",
        "number 2",
        "missing  nothing",
    ] {
        assert!(plan.stdout.contains(words), "{words}: {}", plan.stdout);
    }
    // With one: what would become of it.
    let to = target.conninfo("chat");
    let plan = home.run(&["restore", "db", "--to", &to, "--plan", "--check"]).ok();
    for words in [
        "create database \"chat\"",
        "ANALYZE",
        "compare every table",
        "open it with key slot local",
    ] {
        assert!(plan.stdout.contains(words), "{words}: {}", plan.stdout);
    }
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'chat'"),
        "0",
        "nothing was changed"
    );
    let json = home.run(&["restore", "db", "--to", &to, "--plan", "--json"]).ok().json();
    assert_eq!(
        (json["backup"].as_str(), json["backups"].as_u64()),
        (Some(second.as_str()), Some(2)),
        "{json:#}"
    );
    // A time between the two, and before both.
    let shown = home.run(&["show", &first, "--json"]).ok().json();
    let taken: jiff::Timestamp =
        shown["manifest"]["source"]["snapshot_time"].as_str().unwrap().parse().unwrap();
    let at = (taken + jiff::SignedDuration::from_millis(300)).to_string();
    let plan = home.run(&["restore", "db", "--at", &at, "--plan"]).ok();
    assert!(
        plan.stdout
            .contains(&format!("{first}, number 1, the newest at or before {at}: 0.3 s earlier")),
        "{}",
        plan.stdout
    );
    home.run(&["restore", "db", "--at", "2020-01-01T00:00:00Z", "--plan"])
        .fails(3, &["no backup at or before 2020-01-01T00:00:00Z"]);
    // A name that is nearly one.
    home.run(&["restore", "dv", "--plan"]).fails(2, &["no datastore dv", "did you mean db?"]);
    // Keys that are not here, and a target that cannot be reached: everything else is said all the
    // same.
    std::fs::rename(home.path("keys/identity.txt"), home.path("elsewhere")).unwrap();
    let plan = home.run(&["restore", "db", "--to", &to, "--plan"]).fails(5, &["no key opens"]);
    assert!(
        plan.stdout.contains("MISSING  a key") && plan.stdout.contains("create database"),
        "{}",
        plan.stdout
    );
    home.run(&["restore", "db", "--plan", "--identity", &home.recovery()]).ok();
    std::fs::rename(home.path("elsewhere"), home.path("keys/identity.txt")).unwrap();
    target.stop("fast");
    let plan = home
        .run(&["restore", "db", "--to", &to, "--plan"])
        .fails(6, &["the target server cannot be used"]);
    assert!(plan.stdout.contains("MISSING") && plan.stdout.contains(&second), "{}", plan.stdout);
}

#[test]
fn a_damaged_newest_backup_is_listed_as_such_and_not_chosen_silently() {
    let source = chat();
    let home = Home::of(&source, "chat");
    let first = home.backup();
    let second = home.backup();
    let mut manifest = std::fs::read(home.manifest(&second)).unwrap();
    manifest[300] ^= 1;
    std::fs::write(home.manifest(&second), manifest).unwrap();
    let plan = home.run(&["restore", "db", "--plan"]).ok();
    assert!(
        plan.stdout.contains(&format!("backup   {first}"))
            && plan.stdout.contains("1 newer one is damaged or not believed"),
        "{}",
        plan.stdout
    );
    assert!(plan.stdout.contains(&format!("backup {second} is passed over")), "{}", plan.stdout);
    home.run(&["restore", "db", "--backup", &second, "--plan"])
        .fails(7, &["not signed by a trusted key"]);
}

#[test]
fn what_was_measured_foretells_the_next_and_a_restore_is_evidence() {
    let (source, target) = (chat(), Cluster::start());
    let home = Home::of(&source, "chat");
    home.backup();
    home.restore(&target.conninfo("one")).ok();
    let plan = home.run(&["restore", "db", "--to", &target.conninfo("two"), "--plan"]).ok();
    assert!(
        plan.stdout.contains("median of one measured restore of it")
            && plan.stdout.contains("within the RTO"),
        "{}",
        plan.stdout
    );
    let shown = home.run(&["evidence", "show", "1"]).ok();
    assert!(
        shown.stdout.contains("restored") && shown.stdout.contains("\"as_recorded\": true"),
        "{}",
        shown.stdout
    );
    home.run(&["evidence", "verify"]).ok();
    assert_eq!(
        target.psql(
            "one",
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'one'"
        ),
        "the chat"
    );
    assert_ne!(
        target.psql("one", "SELECT count(*) FROM pg_statistic"),
        "0",
        "statistics are there"
    );
}

#[test]
fn one_table_or_one_schema_comes_back_with_what_belongs_to_it() {
    let (source, target) = (chat(), Cluster::start());
    let home = Home::new();
    home.add_datastore("db", &source.conninfo("chat"), "jobs = 3");
    home.backup();
    let rescue = target.conninfo("rescue");
    let restored = home
        .run(&["restore", "db", "--to", &rescue, "--table", "messages", "--yes", "--check"])
        .ok();
    assert!(
        restored.stdout.contains("foreign key messages messages_author_fkey"),
        "{}",
        restored.stdout
    );
    assert_eq!(count(&target, "rescue", "messages"), "20000");
    assert_eq!(
        target.psql(
            "rescue",
            "SELECT count(*) FROM pg_class WHERE relname IN ('people', 'recent', 'log')"
        ),
        "0"
    );
    assert_eq!(target.psql("rescue", "SELECT last_value FROM messages_id_seq"), "20000");
    assert_eq!(
        target.psql("rescue", "SELECT count(*) FROM pg_indexes WHERE tablename = 'messages'"),
        "2"
    );
    let both = target.conninfo("both");
    let restored = home
        .run(&[
            "restore",
            "db",
            "--to",
            &both,
            "--table",
            "messages",
            "--table",
            "public.people",
            "--yes",
            "--check",
        ])
        .ok();
    assert!(!restored.stdout.contains("left out"), "{}", restored.stdout);
    assert_eq!(target.psql("both", "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"), "1");
    home.run(&[
        "restore",
        "db",
        "--to",
        &target.conninfo("audit"),
        "--schema",
        "audit",
        "--yes",
        "--check",
    ])
    .ok();
    assert_eq!(count(&target, "audit", "audit.log"), "3000");
    assert_eq!(target.psql("audit", "SELECT count(*) FROM pg_trigger WHERE tgname = 'touch'"), "1");
    assert_eq!(
        target.psql("audit", "SELECT count(*) FROM pg_class WHERE relname = 'messages'"),
        "0"
    );
    home.run(&["restore", "db", "--to", &target.conninfo("x"), "--table", "mesages", "--plan"])
        .fails(2, &["the backup holds no public.mesages", "did you mean public.messages?"]);
}

#[test]
fn a_swap_takes_the_place_of_the_old_database_and_drops_nothing() {
    let source = chat();
    let home = Home::of(&source, "chat");
    let backup = home.backup();
    let tail = backup.rsplit('-').next().unwrap().to_ascii_lowercase();
    source.psql("chat", "DELETE FROM messages; INSERT INTO people VALUES (1000, 'latecomer')");
    let to = source.conninfo("chat");
    // Without a word about it, nothing is touched.
    home.restore(&to).fails(2, &["is not empty", "--swap"]);
    let plan = home.run(&["restore", "db", "--to", &to, "--swap", "--plan"]).ok();
    assert!(
        plan.stdout.contains(&format!("rename it to \"chat_before_{tail}\"")),
        "{}",
        plan.stdout
    );
    // An application that is connected all the time.
    let mut application = std::process::Command::new(source.bin().join("psql"))
        .args(["-X", "-d", &to, "-c", "SELECT pg_sleep(60)"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let swapped = home.run(&["restore", "db", "--to", &to, "--swap", "--yes"]).ok();
    assert!(
        swapped.stdout.contains("all as recorded") && swapped.stdout.contains("ALTER DATABASE"),
        "{}",
        swapped.stdout
    );
    assert_eq!(
        (count(&source, "chat", "messages").as_str(), count(&source, "chat", "people").as_str()),
        ("20000", "500")
    );
    let aside = format!("chat_before_{tail}");
    assert_eq!(
        (count(&source, &aside, "messages").as_str(), count(&source, &aside, "people").as_str()),
        ("0", "501")
    );
    assert!(!application.wait().unwrap().success(), "its session was ended");
    home.run(&["restore", "db", "--to", &to, "--swap", "--yes"])
        .fails(2, &["there is a database", &aside]);
}

#[test]
fn data_that_is_not_as_recorded_takes_the_place_of_nothing() {
    let source = chat();
    let home = Home::of(&source, "chat");
    home.backup();
    std::fs::create_dir_all(home.path("restore")).unwrap();
    std::fs::write(
        home.path("restore/db.toml"),
        "[[restore]]\ndatastore = \"db\"\nafter = [\"DELETE FROM audit.log WHERE id = 1\"]\n",
    )
    .unwrap();
    home.run(&["restore", "db", "--to", &source.conninfo("chat"), "--swap", "--yes"])
        .fails(8, &["not what was recorded"]);
    assert_eq!(count(&source, "chat", "audit.log"), "3000");
    assert_eq!(
        source
            .psql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'chat_before%'"),
        "0"
    );
}

/// Killed at every step, with one payload and with several: the same command ends it.
#[test]
fn a_restore_that_was_killed_goes_on_where_it_was() {
    let source = chat();
    for (jobs, place) in [
        (1, "restore-marked"),
        (1, "restore-schema"),
        (3, "restore-rows"),
        (1, "restore-indexes"),
        (3, "restore-indexes"),
    ] {
        let target = Cluster::start();
        let home = Home::new();
        home.add_datastore("db", &source.conninfo("chat"), &format!("jobs = {jobs}"));
        let backup = home.backup();
        let arguments = ["restore", "db", "--to", &target.conninfo("chat"), "--yes", "--check"];
        home.run_with(&[("LIFEBOAT_FAILPOINT", place)], &arguments).fails(137, &[]);
        let comment = target.psql(
            "postgres",
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'chat'",
        );
        assert!(
            comment.contains("is being restored and is not finished") && comment.contains(&backup),
            "{place}: {comment}"
        );
        // Another backup is not mixed with it.
        let other = home.backup();
        home.run(&["restore", "db", "--to", &target.conninfo("chat"), "--yes"])
            .fails(2, &["was begun and not finished", &format!("--backup {backup}")]);
        let resumed = home.run(&[&arguments[..], &["--backup", &backup]].concat()).ok();
        assert!(resumed.stdout.contains("all as recorded"), "{place}: {}", resumed.stdout);
        assert_eq!(
            resumed.stdout.contains("went on"),
            place != "restore-marked",
            "{place}: {}",
            resumed.stdout
        );
        assert_eq!(count(&target, "chat", "messages"), "20000", "{place}");
        assert_eq!(
            target.psql("chat", "SELECT count(*) FROM pg_constraint WHERE contype IN ('f', 'p') AND connamespace >= 2200"),
            "4",
            "{place}"
        );
        assert_eq!(
            target.psql("postgres", "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'chat'"),
            "the chat"
        );
        assert_ne!(backup, other);
    }
}

/// What was built ahead for a payload that is loaded again is built again, and nothing that is not
/// a restore's own is taken for it.
#[test]
fn a_payload_that_is_loaded_again_gets_its_indexes_again_and_a_mark_is_taken_from_nowhere_else() {
    let (source, target) = (chat(), Cluster::start());
    let home = Home::new();
    home.add_datastore("db", &source.conninfo("chat"), "jobs = 2");
    let backup = home.backup();
    let to = target.conninfo("chat");
    let arguments = ["restore", "db", "--to", &to, "--yes", "--check"];
    home.run_with(&[("LIFEBOAT_FAILPOINT", "restore-rows")], &arguments).fails(137, &[]);
    let read =
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'chat'";
    let mark = target.psql("postgres", read);
    let (before, done) = mark.split_once("done=").unwrap();
    assert!(done.contains("data-001") && done.contains("main"), "{mark}");
    // As if it had died in the middle of that payload, some of its indexes built ahead.
    target.psql("postgres", &format!("COMMENT ON DATABASE chat IS '{before}done=main,schema'"));
    // A half new database is not what a swap would keep as the old one.
    home.run(&["restore", "db", "--to", &to, "--swap", "--yes"])
        .fails(2, &["was begun and not finished"]);
    let resumed = home.run(&arguments).ok();
    assert!(resumed.stdout.contains("all as recorded"), "{}", resumed.stdout);
    let indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname IN ('public', 'audit')";
    assert_eq!(target.psql("chat", indexes), source.psql("chat", indexes));
    let keys =
        "SELECT count(*) FROM pg_constraint WHERE contype IN ('f', 'p') AND connamespace >= 2200";
    assert_eq!(target.psql("chat", keys), source.psql("chat", keys));
    assert_eq!(target.psql("postgres", read), "the chat");
    // A backup that was taken of a database with a mark brings none along: its restore would be
    // taken for an unfinished one.
    source.psql("postgres", &format!("COMMENT ON DATABASE chat IS '{mark}'"));
    let marked = home.backup();
    home.run(&["restore", "db", "--backup", &marked, "--to", &target.conninfo("other"), "--yes"])
        .ok();
    assert_eq!(target.psql("postgres", &read.replace("'chat'", "'other'")), "", "{backup}");
}

#[test]
fn two_people_do_not_restore_into_one_database_at_once() {
    let (source, target) = (chat(), Cluster::start());
    let home = Home::of(&source, "chat");
    home.backup();
    let to = target.conninfo("chat");
    let waiting = format!("restore-schema={}", home.path("go").display());
    let mut first = home.command(&["restore", "db", "--to", &to, "--yes"]);
    let first = first.env("LIFEBOAT_WAITPOINT", waiting).spawn().unwrap();
    eventually("the first is at work", || home.path("go.reached").exists());
    home.run(&["restore", "db", "--to", &to, "--yes"])
        .fails(4, &["somebody else is restoring into the target database chat", "what next"]);
    std::fs::write(home.path("go"), "").unwrap();
    out(&first.wait_with_output().unwrap()).ok();
}

#[test]
fn an_older_server_and_a_missing_extension_are_refused_before_anything_is_changed() {
    let source = Cluster::start_with(crate::support::Major::V17, &[]);
    source.psql("postgres", "CREATE DATABASE chat");
    source.psql("chat", "CREATE TABLE t AS SELECT 1 AS i");
    let home = Home::of(&source, "chat");
    home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", source.bin().display()));
    home.backup();
    let old = Cluster::start();
    home.restore(&old.conninfo("chat")).fails(
        2,
        &["PostgreSQL 15", "an older server may not understand it", "--into-older-server"],
    );
    assert_eq!(
        old.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'chat'"),
        "0"
    );
    // PostgreSQL 17 has no adminpack any more.
    old.psql("postgres", "CREATE DATABASE used");
    old.psql("used", "CREATE EXTENSION adminpack; CREATE TABLE t AS SELECT 1 AS i");
    let home = Home::of(&old, "used");
    home.backup();
    let to = source.conninfo("used");
    home.restore(&to).fails(2, &["no pg_dump of version 17 or newer was found"]);
    home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", source.bin().display()));
    home.restore(&to).fails(2, &["lacks extension adminpack", "install it on the target's host"]);
    assert_eq!(
        source.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'used'"),
        "0"
    );
    // A table that does not need it comes back all the same.
    home.run(&["restore", "db", "--to", &to, "--table", "t", "--yes", "--check"]).ok();
}

/// The target's server is killed in the middle and comes back: what was done is kept.
#[test]
fn a_server_that_is_killed_and_restarted_is_restored_into_all_the_same() {
    let (source, target) = (chat(), Cluster::start());
    let home = Home::of(&source, "chat");
    home.backup();
    let to = target.conninfo("chat");
    let mut command = home.command(&["restore", "db", "--to", &to, "--yes", "--check"]);
    let child = command
        .env("LIFEBOAT_WAITPOINT", format!("restore-schema={}", home.path("go").display()))
        .spawn()
        .unwrap();
    eventually("the schema is there", || home.path("go.reached").exists());
    target.stop("immediate");
    std::fs::write(home.path("go"), "").unwrap();
    let failed = out(&child.wait_with_output().unwrap());
    assert!(
        [6, 13].contains(&failed.code)
            && failed.stderr.contains("The same command goes on from here"),
        "{failed:?}"
    );
    home.run(&["restore", "db", "--to", &to, "--yes"])
        .fails(6, &["the target server cannot be used"]);
    target.start_server();
    let resumed = home.run(&["restore", "db", "--to", &to, "--yes", "--check"]).ok();
    assert!(resumed.stdout.contains("done already: schema"), "{}", resumed.stdout);
}

#[test]
fn a_target_whose_disk_is_full_says_so_and_goes_on_when_there_is_room() {
    let (source, target) = (chat(), Cluster::start());
    let home = Home::of(&source, "chat");
    home.backup();
    // A tablespace on a small disk stands for the data directory.
    let place = target.data().with_file_name("small");
    let disk = crate::support::disks::SmallDisk::mount(&place, 9);
    std::process::Command::new("chown").arg("postgres").arg(&place).status().unwrap();
    target.psql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}'", place.display()));
    target.psql("postgres", "CREATE DATABASE chat TABLESPACE small");
    let failed = home.restore(&target.conninfo("chat"));
    let failed = failed.fails(
        13,
        &["No space left on device", "state of the target", "The same command goes on from here"],
    );
    assert!(!failed.stderr.contains("person "), "nothing from inside the data: {}", failed.stderr);
    disk.grow(500);
    home.restore(&target.conninfo("chat")).ok();
    target.stop("immediate");
    drop(disk);
}

/// Ten thousand backups of two hundred datastores, some of whose manifests are damaged: the plan is
/// there in two seconds.
#[test]
fn a_plan_in_a_vault_of_ten_thousand_backups_is_quick() {
    let source = chat();
    let home = Home::of(&source, "chat");
    home.backup();
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    let signer = lifeboat::keyring::sign::SigningFile::new(&home.path("keys/signing.pem"));
    assert!(text.contains("signing.pem"));
    let first = home.run(&["list", "--json"]).ok().json()[0]["backup"].as_str().unwrap().to_owned();
    let manifest = std::fs::read_to_string(home.manifest(&first)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let begun: jiff::Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
    for datastore in 0..200 {
        let directory = home.vault().join(format!("manifests/store-{datastore:03}"));
        std::fs::create_dir_all(&directory).unwrap();
        for number in 0..50_i64 {
            let id = format!(
                "{}-AAAAAA",
                (begun + jiff::SignedDuration::from_hours(24 * number)).strftime("%Y%m%dT%H%M%SZ")
            );
            let text = manifest.replace(&first, &id).replace(
                "\"datastore\": \"db\"",
                &format!("\"datastore\": \"store-{datastore:03}\""),
            );
            let text = text
                .replace("/db/", &format!("/store-{datastore:03}/"))
                .replace("\"sequence\": 1", &format!("\"sequence\": {}", number + 1));
            let signature = runtime
                .block_on(lifeboat::keyring::sign::Signer::sign(&signer, text.as_bytes()))
                .unwrap();
            // One in a hundred is damaged.
            let damaged = (datastore * 50 + number) % 100 == 49;
            std::fs::write(
                directory.join(format!("{id}.json")),
                if damaged { text.replace("sealed", "zealed") + " " } else { text },
            )
            .unwrap();
            std::fs::write(directory.join(format!("{id}.json.sig")), signature).unwrap();
        }
    }
    let plan = |name: &str| {
        let begun = std::time::Instant::now();
        let plan = home.run(&["restore", name, "--plan"]);
        (begun.elapsed(), plan)
    };
    let (took, own) = plan("db");
    assert!(own.code == 0 && own.stdout.contains(&first), "{own:?}");
    eprintln!("the plan of one of 10,000 backups took {took:?}");
    // Timings belong to benchmarks; a bound that only something growing with the vault would miss
    // belongs here.
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    let (_, other) = plan("store-002");
    assert!(
        other.stdout.contains("is passed over") && other.stdout.contains("1 newer one is damaged"),
        "{other:?}"
    );
    assert!(
        other.stdout.contains("number 49") && other.stdout.contains("45 more"),
        "{}",
        other.stdout
    );
}

/// On a terminal the name of the database must be typed; anything else changes nothing.
#[test]
fn a_restore_is_confirmed_by_typing_the_name_of_the_database() {
    use std::io::Write;
    let (source, target) = (chat(), Cluster::start());
    let home = Home::of(&source, "chat");
    home.backup();
    let to = target.conninfo("chat");
    let typed = |answer: &str| {
        // `script` gives it a terminal.
        let line = format!("{} restore db --to \"{to}\"", env!("CARGO_BIN_EXE_lifeboat"));
        let mut command = std::process::Command::new("script");
        command
            .args(["-qec", &line, "/dev/null"])
            .env("LIFEBOAT_CONFIG", home.path("lifeboat.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
        out(&child.wait_with_output().unwrap())
    };
    let refused = typed("yes");
    assert!(
        refused.code == 2 && refused.stdout.contains("it was not confirmed; nothing was changed"),
        "{refused:?}"
    );
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'chat'"),
        "0"
    );
    let done = typed("chat");
    assert!(
        done.code == 0 && done.stdout.contains("type the name of the database (chat)"),
        "{done:?}"
    );
    assert_eq!(count(&target, "chat", "messages"), "20000");
    home.run(&["restore", "db", "--to", &target.conninfo("other")])
        .fails(2, &["nobody is there to confirm it", "--yes"]);
}

#[test]
fn what_a_tired_person_mistypes_is_refused_and_says_what_to_write() {
    let (source, target) = (chat(), Cluster::start());
    let home = Home::of(&source, "chat");
    home.configure("\n[vaults.dr]\ndirectory = \"elsewhere\"\n");
    home.backup();
    let server = format!("host={} user=postgres", target.socket().display());
    let restore = |arguments: &[&str]| home.run(&[&["restore", "db", "--yes"], arguments].concat());
    restore(&["--to", &server]).fails(2, &["it names a server and no database", "add dbname=NAME"]);
    restore(&["--to", "chat"])
        .fails(2, &["it may mean a database or a directory", "postgres:///chat", "./chat"]);
    restore(&["--to", "./out", "--check"]).fails(2, &["they are for a restore into a database"]);
    restore(&["--to", &target.conninfo("chat"), "--at", "2026-11-25 03:00"])
        .fails(2, &["is not a time with its zone", "Z for UTC"]);
    restore(&["--to", &target.conninfo("chat"), "--identity", "/nope.txt"])
        .fails(2, &["--identity /nope.txt", "there is no such file"]);
    home.run(&["restore", "db"]).fails(2, &["--to <TARGET>"]);
    home.run(&["rekey", "bd"]).fails(2, &["no datastore bd", "did you mean db?"]);
    home.run(&["copy", "dr", "bd"]).fails(2, &["no datastore bd"]);
    home.run(&["restore", "db", "--vault", "rd", "--plan"])
        .fails(2, &["it is no vault", "--vault dr"]);
    // A key of somebody else is pinned: that is what is wrong, not the backups.
    let other = Home::new();
    let other = std::fs::read_to_string(other.path("lifeboat.toml")).unwrap();
    let other = other.lines().find(|line| line.starts_with("trust")).unwrap().to_owned();
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    home.reconfigure(text.lines().find(|line| line.starts_with("trust")).unwrap(), &other);
    home.run(&["restore", "db", "--plan"])
        .fails(7, &["is not signed by a trusted key", "trust = "]);
    home.reconfigure(&other, text.lines().find(|line| line.starts_with("trust")).unwrap());
    // Nothing was changed by any of it.
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'chat'"),
        "0"
    );
    std::fs::rename(home.path("lifeboat.toml"), home.path("gone.toml")).unwrap();
    home.run(&["restore", "db", "--plan"]).fails(2, &["lifeboat.toml", "--vault ADDRESS"]);
    std::fs::rename(home.path("gone.toml"), home.path("lifeboat.toml")).unwrap();
    // A backup of what the damage left.
    source.psql("chat", "DELETE FROM messages");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    home.backup();
    let plan = home.run(&["restore", "db", "--plan"]).ok();
    assert!(plan.stdout.contains("it is much smaller than the one before it"), "{}", plan.stdout);
}

#[test]
fn ctrl_c_says_how_to_go_on() {
    let (source, target) = (chat(), Cluster::start());
    let home = Home::of(&source, "chat");
    home.backup();
    let to = target.conninfo("chat");
    let mut command = home.command(&["restore", "db", "--to", &to, "--yes"]);
    let child = command
        .env("LIFEBOAT_WAITPOINT", format!("restore-schema={}", home.path("go").display()))
        .spawn()
        .unwrap();
    eventually("the schema is there", || home.path("go.reached").exists());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    std::fs::write(home.path("go"), "").unwrap();
    let stopped =
        out(&child.wait_with_output().unwrap()).fails(130, &["The same command goes on from here"]);
    assert!(stopped.stderr.contains("The backup is untouched"), "{}", stopped.stderr);
    home.restore(&to).ok();
}

/// An index that is built ahead of the last rows, or by an earlier run, keeps what is said of it.
#[test]
fn comments_on_indexes_and_constraints_come_back_however_those_were_made() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE DATABASE d");
    source.psql(
        "d",
        "CREATE TABLE a1 AS SELECT i, md5(i::text) AS a FROM generate_series(1, 30000) i; CREATE TABLE z9 AS SELECT i, md5(i::text) || md5(i::text) AS a FROM generate_series(1, 300000) i;
         ALTER TABLE a1 ADD CONSTRAINT a1_pkey PRIMARY KEY (i); COMMENT ON CONSTRAINT a1_pkey ON a1 IS 'x'; COMMENT ON INDEX a1_pkey IS 'y'; CREATE INDEX zz ON z9 (i);
         CREATE INDEX a1_a ON a1 (a); COMMENT ON INDEX a1_a IS 'z'",
    );
    let dump = |cluster: &Cluster, database: &str| {
        cluster
            .dump(database, Major::Debian15)
            .replace(&format!("DATABASE {database}"), "DATABASE")
            .replace(&format!("connect {database}"), "")
    };
    for jobs in [1, 3] {
        let home = Home::new();
        home.add_datastore("db", &source.conninfo("d"), &format!("jobs = {jobs}"));
        home.backup();
        let database = format!("back{jobs}");
        home.run(&["restore", "db", "--to", &target.conninfo(&database), "--yes", "--check"]).ok();
        assert_eq!(
            dump(&target, &database).lines().filter(|line| line.starts_with("COMMENT ON")).count(),
            3
        );
        let killed = format!("killed{jobs}");
        let arguments = ["restore", "db", "--to", &target.conninfo(&killed), "--yes", "--check"];
        home.run_with(&[("LIFEBOAT_FAILPOINT", "restore-rows")], &arguments).fails(137, &[]);
        home.run(&arguments).ok();
        assert_eq!(
            dump(&target, &killed).lines().filter(|line| line.starts_with("COMMENT ON")).count(),
            3
        );
    }
}

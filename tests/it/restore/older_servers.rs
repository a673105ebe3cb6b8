//! Clients newer than the servers: what they wrote comes back on every server that is not newer
//! than they are.

use crate::support::guide::{commands, run, succeeded};
use crate::support::{Cluster, EVERYTHING, Home, Major};

const MAJORS: [Major; 3] = [Major::Debian15, Major::V17, Major::V18];

/// What each of the three servers can hold. One value is the very line that is taken out of
/// scripts, and so is one line of a function.
const CONTENT: &str = "CREATE TABLE t (id int PRIMARY KEY, x text, m money DEFAULT 1); INSERT INTO t SELECT i, E'SET transaction_timeout = 0;\\n\\\\\\\\.' || i FROM generate_series(1, 3000) i;
    CREATE TABLE child (id serial PRIMARY KEY, t int REFERENCES t); INSERT INTO child (t) SELECT 1 + i % 3000 FROM generate_series(1, 500) i;
    CREATE INDEX ON t (md5(x)); CREATE VIEW v AS SELECT count(*) FROM t; CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM child;
    CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$
SELECT '
SET transaction_timeout = 0;
'
$$;
    SELECT lo_from_bytea(0, '\\xcafe') \\g /dev/null
    ";

fn sums(cluster: &Cluster, database: &str) -> String {
    let query = "SELECT (SELECT md5(string_agg(x, '|' ORDER BY id)) FROM t) || (SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM child) || f() || (SELECT count(*) FROM mv)
        || (SELECT count(*) FROM pg_largeobject) || (SELECT count(*) FROM pg_indexes WHERE schemaname = 'public') || (SELECT count(*) FROM pg_constraint WHERE conrelid = 'child'::regclass AND contype = 'f')";
    cluster.psql(database, query)
}

/// Source server, clients, target server: fourteen triples in which neither server is newer than
/// the clients.
#[test]
fn every_server_that_is_not_newer_than_the_clients_gets_its_data_back() {
    let sources = MAJORS.map(|major| Cluster::start_with(major, &[]));
    let targets = MAJORS.map(|major| Cluster::start_with(major, &[]));
    for source in &sources {
        source.psql("postgres", "CREATE ROLE clerk; CREATE DATABASE d");
        source.psql("d", CONTENT);
    }
    let mut triples = 0;
    for (newest, clients) in MAJORS.iter().enumerate() {
        for (from, source) in sources.iter().enumerate().take(newest + 1) {
            let home = Home::new();
            home.add_datastore("db", &source.conninfo("d"), "jobs = 2");
            home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", clients.bin().display()));
            home.run(&["check"]).ok();
            home.backup();
            for (to, target) in targets.iter().enumerate().take(newest + 1) {
                triples += 1;
                let database = format!("of_{from}_by_{newest}");
                let conninfo = target.conninfo(&database);
                let mut arguments =
                    vec!["restore", "db", "--to", &conninfo, "--yes", "--check", "--jobs", "2"];
                if to < from {
                    home.run(&arguments).fails(
                        2,
                        &["an older server may not understand it", "--into-older-server"],
                    );
                    arguments.push("--into-older-server");
                }
                let restored = home.run(&arguments).ok();
                assert!(
                    restored.stdout.contains("all as recorded")
                        || restored.stdout.contains("not looked at"),
                    "{from} {newest} {to}: {restored:?}"
                );
                assert_eq!(sums(target, &database), sums(source, "d"), "{from} {newest} {to}");
            }
        }
    }
    assert_eq!(triples, 14);
}

/// One of everything, by clients two majors ahead; and what a server refuses in a script is told
/// with its reason.
#[test]
fn everything_comes_back_on_an_older_server_with_newer_clients() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", EVERYTHING);
    for jobs in [1, 3] {
        let home = Home::new();
        home.add_datastore("db", &source.conninfo("everything"), &format!("jobs = {jobs}"));
        home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", Major::V18.bin().display()));
        let backup = home.backup();
        let database = format!("back{jobs}");
        let restored = home.restore(&target.conninfo(&database)).ok();
        assert!(restored.stdout.contains("all as recorded"), "{restored:?}");
        // By hand, too, with the clients that took it.
        let guide = std::fs::read_to_string(home.meta(&backup).join("RESTORE.md")).unwrap();
        let by_hand = Cluster::start();
        let (key, identity, socket) =
            (home.path("keys/signing.pub.pem"), home.path("recovery.txt"), by_hand.socket());
        let path = format!("{}:/usr/bin:/bin", Major::V18.bin().display());
        let environment = [
            ("PATH", path.as_str()),
            ("TRUSTED_KEY", key.to_str().unwrap()),
            ("IDENTITY", identity.to_str().unwrap()),
            ("PGHOST", socket.to_str().unwrap()),
            ("PGUSER", "postgres"),
        ];
        succeeded(&run(&home.path("by-hand"), &commands(&guide, "recovery"), &environment));
        let rows = "SELECT (SELECT count(*) FROM app.log) || ' ' || (SELECT sum(v) FROM app.log) || ' ' || (SELECT count(*) FROM \"Odd Schema\".\"Table 'x'\")";
        assert_eq!(by_hand.psql("everything", rows), source.psql("everything", rows));
        assert_eq!(target.psql(&database, rows), source.psql("everything", rows));
    }
}

#[test]
fn what_an_older_server_refuses_in_a_script_has_its_reason() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE DATABASE d");
    source.psql(
        "d",
        "CREATE TABLE t (x int); INSERT INTO t VALUES (1), (2); CREATE VIEW v AS SELECT * FROM t",
    );
    let home = Home::of(&source, "d");
    home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", Major::V17.bin().display()));
    home.backup();
    target.psql("postgres", "CREATE DATABASE d");
    target.psql("d", "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not on this server''; END'; CREATE EVENT TRIGGER no ON ddl_command_start WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION no()");
    let refused = home.run(&[
        "restore",
        "db",
        "--to",
        &target.conninfo("d"),
        "--yes",
        "--into-database-with-tables",
    ]);
    assert!(refused.code == 13 && refused.stderr.contains("not on this server"), "{refused:?}");
}

//! Objects are frozen like tables: what `pg_dump` writes down of each is what the snapshot shows,
//! or there is no backup.

use crate::support::{Cluster, Home, wrap_pg_dump};

const OBJECTS: &str = "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (id int PRIMARY KEY, m mood); INSERT INTO t SELECT i, 'sad' FROM generate_series(1, 1000) i;
    CREATE FUNCTION f(x int) RETURNS int LANGUAGE sql AS 'SELECT x'; CREATE FUNCTION used(x int) RETURNS int LANGUAGE sql AS 'SELECT x + 1';
    CREATE VIEW v AS SELECT id FROM t; CREATE SEQUENCE s; CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM t;
    CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE STATISTICS st ON id, m FROM t";

/// A home whose `pg_dump` begins only after `change` was made on the source: later than the
/// snapshot, earlier than anything is formatted. `times` says how often.
fn changing(cluster: &Cluster, change: &str, times: u32) -> Home {
    let home = Home::of(cluster, "d");
    let (count, script) = (home.path("count"), home.path("change.sql"));
    std::fs::write(&script, change).unwrap();
    std::fs::write(&count, "0").unwrap();
    let psql = format!(
        "/usr/lib/postgresql/15/bin/psql -qXv ON_ERROR_STOP=1 '{}' -f {}",
        cluster.conninfo("d"),
        script.display()
    );
    wrap_pg_dump(
        &home,
        &format!(
            "n=$(cat {0}); if [ $n -lt {times} ]; then echo $((n + 1)) > {0}; PGOPTIONS= {psql} >&2 || exit 1; fi\nexec $real \"$@\"",
            count.display()
        ),
    );
    home
}

fn source() -> Cluster {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d");
    cluster.psql("d", OBJECTS);
    cluster
}

#[test]
fn what_is_dropped_or_altered_while_it_is_written_down_is_dumped_anew() {
    let target = Cluster::start();
    for (number, change) in [
        "DROP FUNCTION f(int)",
        "CREATE OR REPLACE FUNCTION f(x int) RETURNS int LANGUAGE sql AS 'SELECT x * 2'",
        "CREATE OR REPLACE VIEW v AS SELECT id, m FROM t",
        "ALTER VIEW v RENAME TO w",
        "ALTER TYPE mood RENAME TO temper",
        "CREATE OR REPLACE FUNCTION used(x int) RETURNS int LANGUAGE sql AS 'SELECT 0'; CREATE OR REPLACE FUNCTION used(x int) RETURNS int LANGUAGE sql AS 'SELECT x + 1'",
        "ALTER STATISTICS st RENAME TO st2",
        "DROP STATISTICS st",
        "ALTER FUNCTION f(int) OWNER TO pg_monitor",
    ]
    .into_iter()
    .enumerate()
    {
        let cluster = source();
        let home = changing(&cluster, change, 1);
        let out = home.run(&["backup", "db"]).ok();
        assert!(out.stderr.contains("changed while pg_dump wrote them down"), "{change}: {}", out.stderr);
        let restored = home.restore(&target.conninfo(&format!("back{number}"))).ok();
        assert!(restored.stdout.contains("all as recorded"), "{change}: {}", restored.stdout);
        let definitions = "SELECT md5(string_agg(pg_get_functiondef(p.oid), '' ORDER BY proname)), (SELECT string_agg(pg_get_viewdef(c.oid), '' ORDER BY relname) FROM pg_class c WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace) FROM pg_proc p WHERE pronamespace = 'public'::regnamespace";
        assert_eq!(cluster.psql("d", definitions), target.psql(&format!("back{number}"), definitions), "{change}");
    }
}

#[test]
fn what_changes_every_time_is_refused_by_name_and_leaves_nothing() {
    let cluster = source();
    let home = changing(
        &cluster,
        "CREATE OR REPLACE FUNCTION f(x int) RETURNS int LANGUAGE sql AS 'SELECT x * 2'",
        9,
    );
    home.run(&["backup", "db"]).fails(
        6,
        &[
            "in each of 3 attempts function public.f(integer) changed between the snapshot and the moment pg_dump wrote it down",
            "find out what changes it",
        ],
    );
    assert_eq!(home.run(&["list", "--json"]).ok().json(), serde_json::json!([]));
}

#[test]
fn what_is_newer_or_temporary_or_only_stored_anew_is_no_change() {
    for change in [
        "CREATE FUNCTION newer(x int) RETURNS int LANGUAGE sql AS 'SELECT x'; CREATE TABLE newer (a int); CREATE TEMP TABLE passing (a int)",
        "REFRESH MATERIALIZED VIEW mv; ANALYZE; SELECT nextval('s'); INSERT INTO t VALUES (-1, 'sad')",
        "GRANT EXECUTE ON FUNCTION f(int) TO pg_monitor; COMMENT ON VIEW v IS 'later'",
        "VACUUM",
    ] {
        let cluster = source();
        let home = changing(&cluster, change, 1);
        let out = home.run(&["backup", "db"]).ok();
        let granted = change.starts_with("GRANT");
        assert_eq!(
            out.stderr.contains("changed while pg_dump wrote them down"),
            granted,
            "{change}: {}",
            out.stderr
        );
    }
}

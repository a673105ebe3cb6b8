//! What the comparison sees: everything a restore can lose. Each thing is changed by the plan's
//! last statements, and must be named.

use super::extensions::install_extension;
use crate::support::{Cluster, Home};

const SOURCE: &str = "CREATE EXTENSION lifeboat_test_ruled; INSERT INTO rules (id, text) VALUES (10, 'ours'); CREATE EXTENSION postgres_fdw;
    CREATE SERVER r FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere'); CREATE USER MAPPING FOR app SERVER r OPTIONS (password 'p');
    CREATE TABLE t (id int PRIMARY KEY, v varchar CHECK (v IN ('a', 'b'))); INSERT INTO t VALUES (1, 'a'); ALTER TABLE t OWNER TO app;
    CREATE VIEW w AS SELECT id FROM t WHERE v IN ('a', 'b'); CREATE INDEX ON t (lower(v)); GRANT SELECT (id) ON t TO reader; GRANT ALL ON w TO reader, app;
    CREATE PUBLICATION p FOR TABLE t; CREATE SUBSCRIPTION s CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE);
    COMMENT ON TABLE t IS 'words'; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO reader; CREATE SEQUENCE q INCREMENT 5;
    CREATE SCHEMA \"a.b\"; CREATE SCHEMA a; CREATE SEQUENCE \"a.b\".c START 3; CREATE SEQUENCE a.\"b.c\" START 4;
    CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; ALTER FUNCTION f() OWNER TO app; CREATE TYPE e AS ENUM ('x')";

#[test]
fn everything_that_a_restore_can_lose_is_seen() {
    install_extension();
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE ROLE app; CREATE ROLE reader; CREATE DATABASE d CONNECTION LIMIT 50; ALTER DATABASE d SET work_mem = '7MB'; ALTER ROLE app IN DATABASE d SET work_mem = '8MB'; GRANT TEMPORARY ON DATABASE d TO reader");
    source.psql("d", SOURCE);
    let home = Home::of(&source, "d");
    std::fs::create_dir_all(home.path("restore")).unwrap();
    home.backup();
    let restored = |number: usize, statement: &str| {
        let quoted = serde_json::to_string(statement).unwrap();
        let after =
            if statement.is_empty() { String::new() } else { format!("after = [{quoted}]\n") };
        std::fs::write(
            home.path("restore/db.toml"),
            format!("[[restore]]\ndatastore = \"db\"\n{after}"),
        )
        .unwrap();
        home.restore(&target.conninfo(&format!("d{number}")))
    };
    assert!(restored(0, "").ok().stdout.contains("all as recorded"));
    for (number, (statement, difference)) in [
        ("DELETE FROM rules WHERE id = 2", "table public.rules of extension lifeboat_test_ruled: 3 rows were recorded, 2 found"),
        (
            "UPDATE rules SET text = 'other' WHERE id = 1",
            "table public.rules of extension lifeboat_test_ruled: the number of rows is the same, their content is not",
        ),
        (
            "ALTER USER MAPPING FOR app SERVER r OPTIONS (DROP password)",
            "user mapping USER MAPPING app SERVER r: is not as it was recorded",
        ),
        ("ALTER SERVER r OPTIONS (SET host 'elsewhere')", "server r: is not as it was recorded"),
        ("ALTER TABLE t OWNER TO postgres", "its owner was app, and is postgres"),
        ("ALTER FUNCTION f() OWNER TO postgres", "function public.f(): its owner was app, and is postgres"),
        ("REVOKE SELECT (id) ON t FROM reader", "privileges on public.COLUMN t.id: missing"),
        ("REVOKE INSERT ON w FROM reader", "privileges on public.TABLE w: is not as it was recorded"),
        ("ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM reader", "default privileges DEFAULT PRIVILEGES FOR TABLES: missing"),
        ("ALTER PUBLICATION p SET (publish = 'insert')", "publication p: is not as it was recorded"),
        ("ALTER PUBLICATION p DROP TABLE t", "publication table public.p t: missing"),
        ("DROP SUBSCRIPTION s", "subscription s: missing"),
        ("COMMENT ON TABLE t IS 'other words'", "comment on public.TABLE t: is not as it was recorded"),
        ("ALTER SEQUENCE q INCREMENT 6", "sequence public.q: is not as it was recorded"),
        ("SELECT setval('a.\"b.c\"', 99)", "sequence a.\"b.c\""),
        ("DROP VIEW w", "view public.w: missing"),
        ("CREATE TABLE more ()", "table public.more: was not there at backup time"),
        (
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET work_mem', current_database()); END $$",
            "settings of DATABASE: is not as it was recorded",
        ),
        (
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT 9', current_database()); END $$",
            "settings of DATABASE: is not as it was recorded",
        ),
        ("DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM reader', current_database()); END $$", "privileges on DATABASE"),
        ("DROP TYPE e; CREATE TYPE e AS ENUM ('x'); ALTER TYPE e OWNER TO app", "type public.e: its owner was postgres, and is app"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = restored(number + 1, statement).fails(8, &["is not what was recorded at backup time"]);
        assert!(out.stdout.contains(difference), "{statement}: {}", out.stdout);
    }
    // A database that somebody made before, with another locale.
    target.psql("postgres", "CREATE DATABASE other TEMPLATE template0 LOCALE 'de_DE.UTF-8'");
    std::fs::write(home.path("restore/db.toml"), "[[restore]]\ndatastore = \"db\"\n").unwrap();
    let out = home.restore(&target.conninfo("other")).fails(8, &[]);
    assert!(
        out.stdout.contains("encoding and locale of DATABASE: is not as it was recorded"),
        "{}",
        out.stdout
    );
}

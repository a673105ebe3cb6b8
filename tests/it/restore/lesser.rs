//! Restores by somebody who is no superuser, and restores of less than everything: what Postgres
//! lets them do is done, and what it does not is said before anything is changed.

use crate::support::{Cluster, EVERYTHING, Home, Major};

fn chat(cluster: &Cluster) {
    cluster.psql("postgres", "CREATE ROLE chat LOGIN PASSWORD 'x'; CREATE ROLE reader; GRANT reader TO chat; ALTER ROLE chat SET search_path = 'app'; CREATE DATABASE chat OWNER chat; ALTER DATABASE chat SET work_mem = '9MB'");
    cluster.psql(
        "chat",
        "CREATE SCHEMA app AUTHORIZATION chat; SET ROLE chat; CREATE TABLE app.t (i int PRIMARY KEY, x text); INSERT INTO app.t SELECT i, 'x' FROM generate_series(1, 100) i;
         GRANT SELECT ON app.t TO reader; CREATE VIEW app.v AS SELECT i FROM app.t; CREATE TABLE app.u (i int REFERENCES app.t); RESET ROLE; CREATE EXTENSION hstore",
    );
}

fn weak(target: &Cluster, attributes: &str) -> String {
    target.psql("postgres", &format!("CREATE ROLE weak LOGIN {attributes}"));
    target.conninfo("chat").replace("user=postgres", "user=weak")
}

#[test]
fn a_role_that_may_create_roles_and_databases_restores_everything_that_is_not_a_superusers() {
    for major in [Major::Debian15, Major::V17, Major::V18] {
        let (source, target) = (Cluster::start_with(major, &[]), Cluster::start_with(major, &[]));
        chat(&source);
        let home = Home::of(&source, "chat");
        home.configure(&format!("\n[postgres]\npg_bin = \"{}\"\n", major.bin().display()));
        home.backup();
        let to = weak(&target, "CREATEDB CREATEROLE");
        let out = home.run(&["restore", "db", "--to", &to, "--yes", "--check"]);
        assert!(out.code == 0 && out.stdout.contains("all as recorded"), "{major:?}: {out:?}");
        let owners = "SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1";
        assert_eq!(target.psql("chat", owners), "t|chat\nu|chat\nv|chat", "{major:?}");
        assert_eq!(
            target.psql(
                "postgres",
                "SELECT rolcanlogin, rolsuper, rolconfig FROM pg_roles WHERE rolname = 'chat'"
            ),
            "t|f|{search_path=app}"
        );
    }
}

#[test]
fn what_the_role_may_not_do_is_said_beforehand_and_left_out_if_it_is_told_to_go_on() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", EVERYTHING);
    source.psql(
        "everything",
        "CREATE SUBSCRIPTION sleeping CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)",
    );
    let home = Home::of(&source, "everything");
    home.backup();
    target.psql("postgres", "CREATE ROLE weak LOGIN CREATEDB CREATEROLE");
    let to = target.conninfo("everything").replace("user=postgres", "user=weak");
    let plan = home.run(&["restore", "db", "--to", &to, "--plan"]);
    for what in [
        "make event trigger watch",
        "make foreign data wrapper nothing",
        "make subscription sleeping",
        "what next: leave it out with --skip KIND:NAME",
    ] {
        assert!(plan.code == 2 && plan.stdout.contains(what), "{what}: {plan:?}");
    }
    home.run(&["restore", "db", "--to", &to, "--yes"])
        .fails(2, &["the connecting role", "nothing was changed"]);
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'everything'"),
        "0"
    );
    let out = home
        .run(&["restore", "db", "--to", &to, "--yes", "--keep-going", "--json"])
        .fails(14, &["restored in part"])
        .json();
    let failed = serde_json::to_string(&out["failed"]).unwrap();
    assert!(["watch", "nothing", "sleeping"].iter().all(|what| failed.contains(what)), "{failed}");
    assert_eq!(
        target.psql(
            "everything",
            "SELECT (SELECT count(*) FROM app.kinds), (SELECT count(*) FROM app.log), (SELECT count(*) FROM app.slugs)"
        ),
        "3|1000|200"
    );
}

#[test]
fn owners_privileges_and_single_objects_can_be_left_out() {
    let (source, target) = (Cluster::start(), Cluster::start());
    chat(&source);
    let home = Home::of(&source, "chat");
    home.backup();
    // On a server where none of the roles is, as pg_restore does it.
    let arguments = |database: &str, more: &[&str]| {
        let to = target.conninfo(database);
        home.run(&[&["restore", "db", "--to", &to, "--yes", "--check"], more].concat())
    };
    let out = arguments("bare", &["--no-owner", "--no-privileges", "--no-globals"]);
    assert!(out.code == 0 && out.stdout.contains("not looked at: owners of objects"), "{out:?}");
    assert_eq!(
        target
            .psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname IN ('chat', 'reader')"),
        "0"
    );
    assert_eq!(
        target.psql(
            "bare",
            "SELECT DISTINCT pg_get_userbyid(relowner), relacl IS NULL FROM pg_class WHERE relnamespace = 'app'::regnamespace"
        ),
        "postgres|t"
    );
    // As a role that the one that connects is a member of.
    target.psql(
        "postgres",
        "CREATE ROLE app_owner CREATEDB; CREATE ROLE member LOGIN; GRANT app_owner TO member",
    );
    let to = target.conninfo("owned").replace("user=postgres", "user=member");
    let out = home.run(&[
        "restore",
        "db",
        "--to",
        &to,
        "--yes",
        "--check",
        "--role",
        "app_owner",
        "--no-owner",
        "--no-privileges",
        "--no-globals",
    ]);
    assert!(out.code == 0, "{out:?}");
    assert_eq!(
        target.psql("owned", "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'app'::regnamespace"),
        "app_owner"
    );
    // A table with all that depends on it, an extension, a role, rows.
    let out = arguments(
        "less",
        &["--skip", "TABLE:app.t", "--skip", "EXTENSION:hstore", "--skip", "role:reader"],
    )
    .fails(14, &["restored in part"]);
    for what in [
        "left out, as asked: TABLE app.t",
        "left out, as asked: VIEW app.v",
        "left out, as asked: EXTENSION hstore",
        "all as recorded",
    ] {
        assert!(out.stdout.contains(what), "{what}: {}", out.stdout);
    }
    assert_eq!(
        target.psql("less", "SELECT string_agg(relname, ',') FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r'"),
        "u"
    );
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'reader'"),
        "0"
    );
    arguments("rows", &["--skip", "TABLE DATA:app.u"]).fails(14, &[]);
    assert_eq!(
        target.psql("rows", "SELECT (SELECT count(*) FROM app.t), (SELECT count(*) FROM app.u)"),
        "100|0"
    );
    for (word, why) in [
        ("TABEL:app.t", "the backup holds no TABEL:app.t"),
        ("app.t", "is not of the form KIND:NAME"),
    ] {
        arguments("none", &["--skip", word]).fails(2, &[why]);
    }
    // The same in the plan's file.
    std::fs::create_dir_all(home.path("restore")).unwrap();
    std::fs::write(
        home.path("restore/db.toml"),
        "[[restore]]\ndatastore = \"db\"\nno_owner = true\nno_privileges = true\nglobals = false\nskip = [\"EXTENSION:hstore\"]\n",
    )
    .unwrap();
    arguments("filed", &[]).fails(14, &[]);
    assert_eq!(
        target.psql("filed", "SELECT count(*) FROM pg_extension WHERE extname = 'hstore'"),
        "0"
    );
}

#[test]
fn what_the_server_refuses_is_listed_in_the_end_and_the_rest_is_there() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE DATABASE chat");
    source.psql(
        "chat",
        "CREATE TABLE t (i int, v int); INSERT INTO t SELECT i, i FROM generate_series(1, 100) i; CREATE INDEX good ON t (v);
         CREATE FUNCTION one() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; CREATE TABLE other (i int); INSERT INTO other VALUES (1)",
    );
    let home = Home::of(&source, "chat");
    home.backup();
    // Something of the same name is there.
    target.psql("postgres", "CREATE DATABASE chat");
    target.psql("chat", "CREATE TABLE other (another text)");
    let to = target.conninfo("chat");
    let out = home
        .run(&[
            "restore",
            "db",
            "--to",
            &to,
            "--yes",
            "--into-database-with-tables",
            "--keep-going",
        ])
        .fails(14, &["restored in part"]);
    assert!(
        out.stdout.contains(
            "REFUSED: CREATE TABLE public.other: ERROR:  relation \"other\" already exists"
        ),
        "{}",
        out.stdout
    );
    assert!(
        out.stdout.contains("column \"i\" of relation \"other\" does not exist"),
        "{}",
        out.stdout
    );
    assert_eq!(target.psql("chat", "SELECT count(*), one() FROM t"), "100|1");
    assert_eq!(
        target.psql("chat", "SELECT count(*) FROM pg_indexes WHERE indexname = 'good'"),
        "1"
    );
}

#[test]
fn statistics_that_cannot_be_gathered_and_functions_that_others_may_not_run_stop_nothing() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE ROLE a; CREATE ROLE b; CREATE DATABASE chat");
    source.psql(
        "chat",
        "CREATE TABLE t (n text, k int); INSERT INTO t SELECT 'N' || i, i FROM generate_series(1, 500) i; CREATE TABLE u AS SELECT i FROM generate_series(1, 500) i; CREATE TABLE w AS SELECT i FROM generate_series(1, 500) i;
         CREATE SCHEMA hidden; CREATE FUNCTION hidden.plain(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(t)';
         CREATE FUNCTION slug(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN plain(t); END';
         SET search_path = public, hidden; CREATE STATISTICS st ON (slug(n)), k FROM t; RESET search_path;
         CREATE FUNCTION only_a(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN i; END'; ALTER FUNCTION only_a(int) OWNER TO a;
         CREATE INDEX by_a ON u (only_a(i)); REVOKE EXECUTE ON FUNCTION only_a(int) FROM PUBLIC; ALTER TABLE u OWNER TO b",
    );
    let home = Home::of(&source, "chat");
    home.backup();
    let out = home.run(&["restore", "db", "--to", &target.conninfo("chat"), "--yes", "--check"]);
    assert!(
        out.code == 0
            && out.stdout.contains("all as recorded")
            && out.stdout.contains("no statistics of: public.t:"),
        "{out:?}"
    );
    assert_eq!(
        target.psql("chat", "SELECT count(*) FROM pg_stats WHERE tablename = 'w'"),
        "1",
        "the others have theirs"
    );
}

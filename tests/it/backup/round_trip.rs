//! What must survive a backup and a restore byte for byte.

use crate::support::{Cluster, EVERYTHING, Home, Major};

/// One stock round trip first: `pg_dump` itself reorders inherited columns once.
fn stock_round_trip(cluster: &Cluster, database: &str, to: &str) {
    let bin = cluster.bin();
    let script = format!(
        "set -euo pipefail; {0}/createdb -h {1} -U postgres -T template0 tmp_{to} >/dev/null && {0}/dropdb -h {1} -U postgres tmp_{to}; \
         {0}/pg_dump -C -d \"{2}\" | sed -E 's/^(CREATE|ALTER|COMMENT ON) DATABASE {database}/\\1 DATABASE {to}/; s/ON DATABASE {database} /ON DATABASE {to} /; s/IN DATABASE {database} /IN DATABASE {to} /; s/connect {database}$/connect {to}/' \
         | {0}/psql -X -q -v ON_ERROR_STOP=1 -h {1} -U postgres -d postgres >/dev/null",
        bin.display(),
        cluster.socket().display(),
        cluster.conninfo(database)
    );
    let status = std::process::Command::new("bash").arg("-c").arg(script).status().unwrap();
    assert!(status.success());
}

#[test]
fn everything_survives_byte_for_byte() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", EVERYTHING);
    stock_round_trip(&source, "everything", "settled");
    let home = Home::of(&source, "settled");
    let report = home.run(&["backup", "db"]).ok();
    assert!(report.stdout.contains("large objects"), "{}", report.stdout);
    home.restore(&target.conninfo("settled")).ok();
    similar(&source.dump("settled", Major::Debian15), &target.dump("settled", Major::Debian15));
    similar(&source.globals(Major::Debian15), &target.globals(Major::Debian15));
    home.run(&["verify", "--all"]).ok();
}

/// Compares line by line, so that a failure shows the difference and not two databases.
#[track_caller]
fn similar(wanted: &str, found: &str) {
    for (number, (a, b)) in wanted.lines().zip(found.lines()).enumerate() {
        assert_eq!(a, b, "line {}", number + 1);
    }
    assert_eq!(wanted.lines().count(), found.lines().count());
}

#[test]
fn inherited_columns_that_pg_dump_reorders_still_compare() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", EVERYTHING);
    let home = Home::of(&source, "everything");
    home.backup();
    let report = home.restore(&target.conninfo("everything")).ok();
    assert!(report.stdout.contains("all as recorded at backup time"), "{}", report.stdout);
}

#[test]
fn parallel_payloads_hold_every_table_once_and_restore() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", EVERYTHING);
    stock_round_trip(&source, "everything", "settled");
    let home = Home::new();
    home.add_datastore("db", &source.conninfo("settled"), "jobs = 3");
    let id = home.backup();
    assert!(home.payload(&id, "data-001").exists() && home.payload(&id, "data-002").exists());
    home.run(&["verify", &id]).ok();
    home.restore(&target.conninfo("settled")).ok();
    similar(&source.dump("settled", Major::Debian15), &target.dump("settled", Major::Debian15));
}

#[test]
fn a_database_with_nothing_in_it_survives() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE DATABASE empty");
    let home = Home::of(&source, "empty");
    home.backup();
    home.run(&["verify", "--all"]).ok();
    home.restore(&target.conninfo("empty")).ok();
    similar(&source.dump("empty", Major::Debian15), &target.dump("empty", Major::Debian15));
}

#[test]
fn five_thousand_tables_survive() {
    let (source, target) = (Cluster::start(), Cluster::start());
    // A transaction a table would be slow, and one for all would need more locks than a default
    // server has.
    let table = |i: usize| {
        format!(
            "CREATE TABLE t{i} (id int, note text); INSERT INTO t{i} VALUES ({i}, 'note {i}');\n"
        )
    };
    let batch = |from: usize| {
        format!("BEGIN;\n{}COMMIT;\n", (from..from + 250).map(table).collect::<String>())
    };
    let tables: String = (0..5000).step_by(250).map(batch).collect();
    source.psql(
        "postgres",
        &format!("CREATE DATABASE many;\n\\connect many\nSET synchronous_commit = off;\n{tables}"),
    );
    let home = Home::of(&source, "many");
    let report = home.run(&["backup", "db", "--json"]).ok().json();
    assert_eq!(report[0]["tables"], 5000);
    assert_eq!(report[0]["rows"], 5000);
    home.restore(&target.conninfo("many")).ok();
}

#[test]
fn names_with_quotes_spaces_newlines_and_other_letters_survive() {
    let (source, target) = (Cluster::start(), Cluster::start());
    let database = "it's \"odd\" ünd";
    source.psql(
        "postgres",
        r#"CREATE ROLE "we;ird ""rôle"" $1" LOGIN;
        CREATE DATABASE "it's ""odd"" ünd" OWNER "we;ird ""rôle"" $1";
        ALTER DATABASE "it's ""odd"" ünd" SET work_mem TO '7MB';
        COMMENT ON DATABASE "it's ""odd"" ünd" IS 'the DATABASE of oddities; really';
        GRANT CONNECT ON DATABASE "it's ""odd"" ünd" TO "we;ird ""rôle"" $1";"#,
    );
    source.psql(
        database,
        "CREATE SCHEMA \"sch.ema \"\"x\"\"\"; CREATE TABLE \"sch.ema \"\"x\"\"\".\"tab\nle, (1) 'ü' $$\" (\"col, \"\"umn\n(\" int, \"日本\" text DEFAULT E'\\\\');
         INSERT INTO \"sch.ema \"\"x\"\"\".\"tab\nle, (1) 'ü' $$\" VALUES (1, E'tab\\there\\nnewline \\\\. end'), (2, NULL), (3, '\\N'), (4, '');
         CREATE TABLE \"UPPER\" (a int); INSERT INTO \"UPPER\" SELECT generate_series(1, 10); CREATE TABLE \"*\" (\"?\" int); INSERT INTO \"*\" VALUES (1); CREATE TABLE nocolumns ();  INSERT INTO nocolumns DEFAULT VALUES;",
    );
    let home = Home::new();
    home.add_datastore("db", &source.conninfo(database), "jobs = 4");
    home.backup();
    home.restore(&target.conninfo(database)).ok();
    similar(&source.dump(database, Major::Debian15), &target.dump(database, Major::Debian15));
    similar(&source.globals(Major::Debian15), &target.globals(Major::Debian15));
}

#[test]
fn an_sql_ascii_database_survives_with_bytes_that_are_no_text() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql(
        "postgres",
        "CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0",
    );
    source.psql(
        "bytes",
        r"CREATE TABLE t (x text); INSERT INTO t VALUES (E'\xff\xfe latin \xe9'), (E'plain')",
    );
    let home = Home::of(&source, "bytes");
    home.backup();
    home.restore(&target.conninfo("bytes")).ok();
    let bytes = |cluster: &Cluster| {
        cluster.psql("bytes", "SELECT encode(x::bytea, 'hex') FROM t ORDER BY 1")
    };
    assert_eq!(bytes(&source), bytes(&target));
    target.psql("postgres", "CREATE DATABASE utf8");
    home.restore(&target.conninfo("utf8"))
        .fails(2, &["has encoding UTF8, and the backup's is SQL_ASCII", "nothing was changed"]);
}

#[test]
fn names_that_are_not_utf_8_survive() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let (source, target) = (Cluster::start(), Cluster::start());
        source.psql(
            "postgres",
            &format!("CREATE DATABASE old ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"),
        );
        let client = if encoding == "LATIN1" { "UTF8" } else { "SQL_ASCII" };
        let make = "CREATE TABLE \"caf\u{e9}\" (x text); INSERT INTO \"caf\u{e9}\" VALUES ('caf\u{e9}'); CREATE TABLE b (x int); INSERT INTO b VALUES (1)";
        source.psql("old", &format!("SET client_encoding = '{client}'; {make}"));
        let home = Home::new();
        home.add_datastore("db", &source.conninfo("old"), "jobs = 3");
        home.backup();
        home.restore(&target.conninfo("old")).ok();
        let names = "SELECT string_agg(encode(convert_to(relname::text, getdatabaseencoding()), 'hex'), ',' ORDER BY relname) \
            FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        assert_eq!(source.psql("old", names), target.psql("old", names), "{encoding}");
    }
}

#[test]
fn sequences_that_move_during_a_parallel_dump_are_as_recorded() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE DATABASE d");
    let table = |t: &str| {
        format!(
            "CREATE TABLE {t} (id serial, x text); INSERT INTO {t} (x) SELECT md5(i::text) FROM generate_series(1, 30000) i;"
        )
    };
    source.psql("d", &format!("{} {} ANALYZE", table("a"), table("b")));
    let home = Home::new();
    home.add_datastore("db", &source.conninfo("d"), "jobs = 3");
    let moving = "DO $$ BEGIN FOR i IN 1..10000000 LOOP PERFORM nextval('a_id_seq'), nextval('b_id_seq'); COMMIT; END LOOP; END $$";
    let mut inserting = std::process::Command::new("psql")
        .args(["-X", "-q", "-d", &source.conninfo("d"), "-c", moving])
        .spawn()
        .unwrap();
    home.backup();
    inserting.kill().unwrap();
    inserting.wait().unwrap();
    home.restore(&target.conninfo("d")).ok();
}

#[test]
fn a_restore_under_another_name_carries_the_properties_along() {
    let source = Cluster::start();
    source.psql("postgres", "CREATE ROLE reader; CREATE DATABASE one; ALTER DATABASE one SET work_mem TO '9MB'; ALTER ROLE reader IN DATABASE one SET work_mem TO '8MB'; GRANT CREATE ON DATABASE one TO reader; ALTER DATABASE one CONNECTION LIMIT 17");
    source.psql("one", "CREATE TABLE t (x int); INSERT INTO t VALUES (1)");
    let home = Home::of(&source, "one");
    home.backup();
    home.restore(&source.conninfo("two")).ok();
    let settings = "SELECT string_agg(coalesce(r.rolname, '') || array_to_string(setconfig, ','), ';' ORDER BY 1) FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(source.psql("one", settings), source.psql("two", settings));
    let row = "SELECT datconnlimit, datacl FROM pg_database WHERE datname = current_database()";
    assert_eq!(source.psql("one", row), source.psql("two", row));
}

#[test]
fn newer_servers_are_backed_up_by_their_own_tools_and_restore_across_majors() {
    for major in [Major::V17, Major::V18] {
        let (source, target) =
            (Cluster::start_with(major, &[]), Cluster::start_with(Major::V18, &[]));
        source.psql("postgres", "CREATE ROLE someone; CREATE DATABASE newer");
        source.psql("newer", "CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 5000) i; SELECT lo_from_bytea(4711, 'large'); ALTER LARGE OBJECT 4711 OWNER TO someone; CREATE SEQUENCE s; SELECT nextval('s')");
        let home = Home::of(&source, "newer");
        // Debian's 15 cannot dump them, and says so.
        home.run(&["backup", "db"])
            .fails(2, &["no pg_dump of version", "install postgresql-client"]);
        home.configure(&format!("[postgres]\npg_bin = \"{}\"\n", Major::V18.bin().display()));
        home.backup();
        home.run(&["verify", "--all"]).ok();
        home.restore(&target.conninfo("newer")).ok();
        similar(&source.dump("newer", Major::V18), &target.dump("newer", Major::V18));
    }
}

#[test]
fn an_older_database_goes_into_a_newer_server() {
    let (source, target) = (Cluster::start(), Cluster::start_with(Major::V17, &[]));
    source.psql("postgres", EVERYTHING);
    let home = Home::of(&source, "everything");
    home.backup();
    home.configure(&format!("[postgres]\npg_bin = \"{}\"\n", Major::V17.bin().display()));
    let report = home.restore(&target.conninfo("everything")).ok();
    assert!(report.stdout.contains("two majors list them differently"), "{}", report.stdout);
}

#[test]
fn a_directory_and_stdout_hold_what_pg_restore_reads() {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE files");
    source.psql("files", "CREATE TABLE t (x int); INSERT INTO t SELECT generate_series(1, 1000)");
    let home = Home::of(&source, "files");
    home.backup();
    let out = home.path("out");
    home.run(&["restore", "db", "--to", out.to_str().unwrap()]).ok();
    assert!(
        std::fs::read_to_string(out.join("globals.sql")).unwrap().contains("CREATE ROLE postgres")
    );
    let list = std::process::Command::new(source.bin().join("pg_restore"))
        .arg("--list")
        .arg(out.join("main.pgdump"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&list.stdout).contains("TABLE DATA public t"));
    let stdout = home.command(&["restore", "db", "--to", "-"]).output().unwrap();
    assert_eq!(stdout.stdout, std::fs::read(out.join("main.pgdump")).unwrap());
    home.run(&["restore", "db", "--to", out.to_str().unwrap()])
        .fails(2, &["is not empty", "nothing was changed"]);
}

#[test]
fn every_command_works_when_the_catalog_is_deleted() {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    let home = Home::of(&source, "d");
    let first = home.backup();
    let forget = || {
        ["catalog.db", "catalog.db-wal", "catalog.db-shm"]
            .iter()
            .for_each(|name| drop(std::fs::remove_file(home.path(name))))
    };
    forget();
    assert!(home.run(&["list"]).ok().stdout.contains(&first));
    forget();
    let second = home.backup();
    let listed = home.run(&["list", "--json"]).ok().json();
    assert_eq!(listed[1]["backup"], second.as_str());
    assert_eq!(listed[1]["sequence"], 2);
    forget();
    assert!(home.run(&["catalog", "rebuild"]).ok().stdout.contains("2 backups are known"));
    home.run(&["verify", "--all"]).ok();
    // One that fails half-way leaves what was known before.
    let sqlite = |script: &str| {
        let script = format!(
            "import sqlite3; c = sqlite3.connect({:?}); print(c.execute({script:?}).fetchall()); c.commit()",
            home.path("catalog.db")
        );
        let out = std::process::Command::new("python3").args(["-c", &script]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    sqlite(
        "CREATE TRIGGER dies BEFORE INSERT ON backups WHEN (SELECT count(*) FROM backups) = 1 BEGIN SELECT RAISE(ABORT, 'died'); END",
    );
    home.run(&["catalog", "rebuild"]).fails(6, &["died"]);
    assert_eq!(sqlite("SELECT count(*) FROM backups"), "[(2,)]");
    sqlite("DROP TRIGGER dies");
    // Without its log, from which SQLite would bring the file back to life.
    forget();
    std::fs::write(home.path("catalog.db"), "this is no database at all, and never was one")
        .unwrap();
    home.run(&["backup", "db"]).ok();
    home.run(&["catalog", "rebuild"])
        .fails(2, &["the catalog", "cannot be opened", "move the catalog's file away"]);
}

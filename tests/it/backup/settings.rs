//! Settings of servers, databases, roles, connection strings and poolers that change how values are
//! written or read: none of them may reach a backup or a restore, and where ours do not arrive
//! nothing is read.

use std::process::{Child, Command, Stdio};

use crate::support::guide::{commands, run};
use crate::support::{Cluster, Home, Major, eventually};

/// One value of each kind that a setting can spoil.
const VALUES: &str = "CREATE TABLE spoilt (m money, t timestamptz, i interval, f float8, b bytea, x xml, a text[], d date);
    INSERT INTO spoilt SELECT 1234.56::numeric::money, '2026-03-04 05:06:07.89+00', '-1 year 2 mons -3 days 04:05:06.7', 1.0/3, '\\x00ff27', '<a>b</a>',
      ARRAY['NULL', NULL, 'ü€'], '2026-02-01' FROM generate_series(1, 50);
    CREATE VIEW nothing AS SELECT i FROM spoilt WHERE a[1] = NULL;
    CREATE FUNCTION back() RETURNS text LANGUAGE sql AS $$ SELECT E'it''s a \\\\ backslash' $$;";

/// Whatever anybody may set, as badly as can be.
const BAD: &str = "bytea_output = 'escape', DateStyle = 'SQL, DMY', IntervalStyle = 'sql_standard', TimeZone = 'Asia/Kolkata', extra_float_digits = '-15', \
    xmlbinary = 'hex', lc_monetary = 'es_AR.UTF-8', quote_all_identifiers = 'on', array_nulls = 'off', transform_null_equals = 'on', \
    xmloption = 'document', backslash_quote = 'on', default_transaction_isolation = 'serializable', default_transaction_deferrable = 'on', \
    statement_timeout = '1ms', idle_in_transaction_session_timeout = '1ms', search_path = 'nowhere', default_transaction_read_only = 'on', client_encoding = 'LATIN1'";

fn set_all(cluster: &Cluster, whose: &str) {
    // Through a session that none of them is in force in.
    let statements =
        BAD.split(", ").fold((String::new(), String::new()), |(mut all, mut one), part| {
            // Values hold commas, too.
            if !one.is_empty() {
                one.push_str(", ");
            }
            one.push_str(part);
            if one.matches('\'').count() == 2 {
                let (name, value) = one.split_once(" = ").unwrap();
                all.push_str(&format!("{whose} SET {name} = {value};\n"));
                one.clear();
            }
            (all, one)
        });
    cluster.psql("postgres", &statements.0);
}

/// Asks a question under settings that nothing on the server can undo.
fn sanely(cluster: &Cluster, database: &str, query: &str) -> String {
    let options = "-c statement_timeout=0 -c default_transaction_read_only=off -c search_path=public -c lc_monetary=C -c TimeZone=UTC -c DateStyle=ISO,MDY \
        -c IntervalStyle=postgres -c client_encoding=UTF8 -c bytea_output=hex -c extra_float_digits=3 -c quote_all_identifiers=off -c transform_null_equals=off";
    let mut psql = Command::new("psql");
    psql.args([
        "-X",
        "-A",
        "-t",
        "-d",
        &format!("{} options='{options}'", cluster.conninfo(database)),
        "-c",
        query,
    ]);
    let output = psql.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn content(cluster: &Cluster, database: &str) -> String {
    [
        "SELECT md5(string_agg(s::text, '|')) FROM spoilt s",
        "SELECT pg_get_viewdef('nothing'::regclass)",
        "SELECT back()",
    ]
    .map(|query| sanely(cluster, database, query))
    .concat()
}

fn spoilt() -> Cluster {
    let source = Cluster::start();
    source.psql("postgres", "CREATE ROLE reader SUPERUSER LOGIN; CREATE DATABASE d");
    source.psql("d", &format!("SET lc_monetary = 'C'; {VALUES}"));
    source
}

#[test]
fn settings_of_database_and_role_spoil_nothing_on_either_side() {
    let (source, target) = (spoilt(), Cluster::start());
    let wanted = content(&source, "d");
    target.psql("postgres", "CREATE ROLE reader SUPERUSER LOGIN");
    set_all(&source, "ALTER DATABASE d");
    for cluster in [&source, &target] {
        set_all(cluster, "ALTER ROLE reader");
        set_all(cluster, "ALTER ROLE ALL");
    }
    let as_reader = |cluster: &Cluster, database: &str| {
        cluster.conninfo(database).replace("user=postgres", "user=reader")
    };
    for jobs in [1, 3] {
        let home = Home::new();
        home.add_datastore("db", &as_reader(&source, "d"), &format!("jobs = {jobs}"));
        home.run(&["check"]).ok();
        home.backup();
        let database = format!("back{jobs}");
        let restored = home.restore(&as_reader(&target, &database)).ok();
        assert!(restored.stdout.contains("all as recorded"), "{restored:?}");
        assert_eq!(content(&target, &database), wanted);
        // The database's own settings came back, too.
        let settings = format!(
            "SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = '{database}'"
        );
        assert_eq!(sanely(&target, "postgres", &settings), "1\n");
    }
}

#[test]
fn money_comes_back_with_its_value_wherever_it_was_written() {
    let (source, target) = (
        Cluster::start_with(Major::Debian15, &["lc_monetary = 'es_AR.UTF-8'"]),
        Cluster::start_with(Major::Debian15, &["lc_monetary = 'de_DE.UTF-8'"]),
    );
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", "CREATE TABLE t (m money); INSERT INTO t VALUES (12.34::numeric::money), ((-1234567.89)::numeric::money)");
    let home = Home::of(&source, "d");
    home.backup();
    home.run(&["restore", "db", "--to", &target.conninfo("back"), "--yes"]).ok();
    let sum = "SELECT sum(m::numeric) FROM t";
    assert_eq!(
        (source.psql("d", sum).as_str(), target.psql("back", sum).as_str()),
        ("-1234555.55", "-1234555.55")
    );
}

#[test]
fn options_in_the_connection_string_are_kept_and_ours_come_behind_them() {
    let (source, target) = (spoilt(), Cluster::start());
    let wanted = content(&source, "d");
    set_all(&source, "ALTER DATABASE d");
    let home = Home::new();
    home.add_datastore(
        "db",
        &format!("options='-c geqo=off -c TimeZone=Asia/Tokyo' {}", source.conninfo("d")),
        "",
    );
    let backup = home.run(&["backup", "db"]).ok();
    assert!(!backup.stderr.contains("error"), "{backup:?}");
    let to = format!(
        "{} options='-c TimeZone=America/Lima -c array_nulls=off'",
        target.conninfo("back")
    );
    assert!(home.restore(&to).ok().stdout.contains("all as recorded"));
    assert_eq!(content(&target, "back"), wanted);
}

/// PgBouncer in transaction mode, as it has to be configured for most drivers.
struct Pooler {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl Pooler {
    /// `options`: whether it is told to drop what it does not know, or refuses it as it does by
    /// itself.
    fn before(cluster: &Cluster, options: &str) -> Self {
        let directory = crate::support::directory();
        let port = crate::support::localstack::free_port();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("users"), "\"postgres\" \"\"\n").unwrap();
        std::fs::write(
            path("ini"),
            format!(
                "[databases]\npostgres = user=postgres dbname=postgres host={socket}\nd = user=postgres dbname=d host={socket}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\nauth_file = {}\npool_mode = transaction\nmax_client_conn = 50\ndefault_pool_size = 1\nignore_startup_parameters = extra_float_digits{options}\nlogfile = {}\npidfile =\n",
                path("users").display(),
                path("log").display(),
                socket = cluster.socket().display()
            ),
        )
        .unwrap();
        assert!(
            Command::new("chown")
                .args(["-R", "postgres"])
                .arg(directory.path())
                .status()
                .unwrap()
                .success()
        );
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                "/usr/sbin/pgbouncer",
                "-q",
            ])
            .arg(path("ini"));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let own = Self { child, directory, port };
        eventually("the pooler listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        own
    }

    fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=d", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = &self.directory;
    }
}

#[test]
fn a_pooler_that_drops_our_settings_is_refused_and_nothing_is_left_on_it() {
    let source = spoilt();
    for options in [",options", ""] {
        let pooler = Pooler::before(&source, options);
        let of_an_application = || {
            let mut psql = Command::new("psql");
            let query =
                "SELECT current_setting('search_path') || ' ' || current_setting('TimeZone')";
            psql.args(["-X", "-A", "-t", "-d", &pooler.conninfo(), "-c", query]);
            String::from_utf8(psql.output().unwrap().stdout).unwrap()
        };
        let before = of_an_application();
        assert!(before.contains("public"), "{before}");
        let home = Home::new();
        home.add_datastore("db", &pooler.conninfo(), "");
        let words =
            ["does not take the settings", "as a connection pooler does", "not through a pooler"];
        home.run(&["backup", "db"]).fails(2, &words);
        let check = home.run(&["check"]);
        assert!(
            check.code == 2 && check.stdout.contains("as a connection pooler does"),
            "{check:?}"
        );
        // As a target as well, and by hand.
        home.reconfigure(&pooler.conninfo(), &source.conninfo("d"));
        let backup = home.backup();
        home.run(&["restore", "db", "--to", &pooler.conninfo(), "--yes"]).fails(2, &words);
        let guide = std::fs::read_to_string(home.meta(&backup).join("RESTORE.md")).unwrap();
        let (key, identity, port) =
            (home.path("keys/signing.pub.pem"), home.path("recovery.txt"), pooler.port.to_string());
        let environment = [
            ("TRUSTED_KEY", key.to_str().unwrap()),
            ("IDENTITY", identity.to_str().unwrap()),
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &port),
            ("PGUSER", "postgres"),
        ];
        let stopped = run(&home.path("by-hand"), &commands(&guide, "recovery"), &environment);
        assert!(!stopped.status.success(), "{stopped:?}");
        let said = String::from_utf8_lossy(&stopped.stdout).into_owned()
            + &String::from_utf8_lossy(&stopped.stderr);
        assert!(
            said.contains("these settings do not arrive")
                || said.contains("unsupported startup parameter"),
            "{stopped:?}"
        );
        assert_eq!(of_an_application(), before);
    }
}

/// The name of a database is a name, whatever it looks like: read as a connection string it led to
/// another server's roles. Servers that speak German, to people and about money: they are judged by
/// SQLSTATE.
#[test]
fn servers_of_another_language_are_understood() {
    let german = [
        "lc_messages = 'de_DE.UTF-8'",
        "lc_monetary = 'de_DE.UTF-8'",
        "lc_numeric = 'de_DE.UTF-8'",
        "lc_time = 'de_DE.UTF-8'",
    ];
    let (source, target) = (
        Cluster::start_with(Major::Debian15, &german),
        Cluster::start_with(Major::Debian15, &german),
    );
    source.psql("postgres", crate::support::EVERYTHING);
    let home = Home::of(&source, "everything");
    home.backup();
    // A database that is not there, one that is, and something in the way of one object.
    home.restore(&target.conninfo("back")).ok();
    home.restore(&target.conninfo("back")).fails(2, &["is not empty"]);
    target.psql("postgres", "CREATE DATABASE kept");
    target.psql("kept", "CREATE SCHEMA app; CREATE TABLE app.hen (x int)");
    let to = target.conninfo("kept");
    let kept = home
        .run(&[
            "restore",
            "db",
            "--to",
            &to,
            "--yes",
            "--keep-going",
            "--into-database-with-tables",
        ])
        .fails(14, &["restored in part"]);
    assert!(kept.stdout.contains("REFUSED: CREATE TABLE app.hen"), "{}", kept.stdout);
    source
        .psql("everything", "CREATE ROLE weak LOGIN; GRANT CONNECT ON DATABASE everything TO weak");
    home.add_datastore(
        "weak",
        &source.conninfo("everything").replace("user=postgres", "user=weak"),
        "",
    );
    home.run(&["backup", "weak"]).fails(12, &["the backup role lacks a privilege"]);
}

/// Pages that cannot be read are read as empty ones: no backup is better than one of those.
#[test]
fn a_server_that_reads_damaged_pages_as_empty_is_not_read() {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d; ALTER ROLE postgres SET zero_damaged_pages = on");
    let home = Home::of(&source, "d");
    home.run(&["backup", "db"]).fails(2, &["zero_damaged_pages is 'on'"]);
}

#[test]
fn a_database_named_like_a_connection_string_is_that_database() {
    let (source, other, target) = (Cluster::start(), Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE ROLE of_the_source");
    other.psql("postgres", "CREATE ROLE of_the_other");
    for (number, name) in [
        format!("host={} dbname=postgres", other.socket().display()),
        "postgres://elsewhere/x".to_owned(),
        "k=v".to_owned(),
        "it's a \\ name=".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        source.psql("postgres", &format!("CREATE DATABASE \"{name}\""));
        source.psql(name, "CREATE TABLE t AS SELECT 1 AS x");
        let home = Home::of(&source, name);
        home.run(&["check"]).ok();
        home.backup();
        home.restore(&target.conninfo(&format!("back{number}"))).ok();
        // Under its own name, too.
        home.restore(&target.conninfo(name)).ok();
    }
    let roles = target.psql(
        "postgres",
        "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname LIKE 'of_the%'",
    );
    assert_eq!(roles, "of_the_source");
}

/// What people wrote is evaluated as their own settings make it, while it is loaded as well.
#[test]
fn checks_and_generated_columns_see_the_settings_of_their_own_database() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE DATABASE d; ALTER DATABASE d SET TimeZone = 'Asia/Kolkata'; ALTER DATABASE d SET DateStyle = 'ISO, DMY'; ALTER DATABASE d SET statement_timeout = '1ms'");
    source.psql(
        "d",
        "SET statement_timeout = 0; CREATE FUNCTION day(timestamptz) RETURNS date IMMUTABLE LANGUAGE sql AS 'SELECT $1::date';
         CREATE TABLE g (ts timestamptz, d date GENERATED ALWAYS AS (public.day(ts)) STORED, CHECK (d = ts::date)); INSERT INTO g VALUES ('2026-03-04 20:00+00');
         CREATE TABLE e (t text CHECK (t::date > '1990-01-01')); INSERT INTO e VALUES ('13/02/2026');
         CREATE MATERIALIZED VIEW mv AS SELECT ts::date AS d FROM g; CREATE INDEX ON g (public.day(ts))",
    );
    let home = Home::of(&source, "d");
    home.backup();
    for jobs in ["1", "3"] {
        let database = format!("back{jobs}");
        home.run(&[
            "restore",
            "db",
            "--to",
            &target.conninfo(&database),
            "--yes",
            "--check",
            "--jobs",
            jobs,
        ])
        .ok();
        assert_eq!(
            sanely(&target, &database, "SELECT g.d || ' ' || mv.d FROM g, mv"),
            "2026-03-05 2026-03-05\n"
        );
    }
}

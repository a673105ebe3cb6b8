//! Ways to reach a server, and roles with as few privileges as possible: all as `psql` does it.

use std::process::Command;

use crate::support::{Cluster, EVERYTHING, Home};

const SECRET: &str = "hunter2-correct-horse";

/// A cluster that listens on a free loopback port with TLS, certificates made for it, and password
/// logins.
struct Tls {
    cluster: Cluster,
    directory: tempfile::TempDir,
    port: u16,
}

impl Tls {
    fn start() -> Self {
        let directory = crate::support::directory();
        let path = |name: &str| directory.path().join(name);
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        std::fs::write(path("ca.pem"), certificate.pem()).unwrap();
        for (name, subject) in [("server", "db.test"), ("client", "certified")] {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec![subject.to_owned()]).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, subject);
            std::fs::write(
                path(&format!("{name}.pem")),
                params.signed_by(&key, &issuer).unwrap().pem(),
            )
            .unwrap();
            write_private(&path(&format!("{name}.key")), &key.serialize_pem());
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Cluster::start();
        cluster.psql(
            "postgres",
            &format!("CREATE ROLE secretive SUPERUSER LOGIN PASSWORD '{SECRET}'; CREATE ROLE certified SUPERUSER LOGIN; CREATE DATABASE d"),
        );
        cluster.psql("d", "CREATE TABLE t AS SELECT generate_series(1, 100) AS x");
        cluster.stop("fast");
        for name in ["server.pem", "server.key", "ca.pem"] {
            std::fs::copy(path(name), cluster.data().join(name)).unwrap();
            if rustix::process::geteuid().is_root() {
                assert!(
                    Command::new("chown")
                        .arg("postgres")
                        .arg(cluster.data().join(name))
                        .status()
                        .unwrap()
                        .success()
                );
            }
        }
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.pem'\n"
        );
        let file = cluster.data().join("postgresql.conf");
        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + &settings).unwrap();
        std::fs::write(cluster.data().join("pg_hba.conf"), "local all postgres trust\nhostssl all certified all cert\nhostssl all all all scram-sha-256\nhostnossl all all all reject\nlocal all all scram-sha-256\n").unwrap();
        cluster.start_server();
        Self { cluster, directory, port }
    }

    /// `host` names the certificate, `hostaddr` finds it without a name server.
    fn conninfo(&self, more: &str) -> String {
        format!("host=db.test hostaddr=127.0.0.1 port={} dbname=d {more}", self.port)
    }
}

fn write_private(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The secret must be nowhere: not in output, not in the vault, not in the catalog.
#[track_caller]
fn keeps_the_secret(home: &Home, texts: &[&str]) {
    for text in texts {
        assert!(!text.contains(SECRET), "{text}");
    }
    for file in crate::support::files(&home.path("")) {
        if file.file_name().unwrap() == "lifeboat.toml"
            || file.ends_with(".pgpass")
            || file.ends_with("services")
        {
            continue;
        }
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes()), "{}", file.display());
    }
}

#[test]
fn passwords_certificates_services_and_variables_work_as_for_psql() {
    let tls = Tls::start();
    let ca = tls.directory.path().join("ca.pem").display().to_string();
    let verified = format!("sslmode=verify-full sslrootcert={ca}");
    let backup = |home: &Home| {
        let out = home.run(&["-vv", "backup", "db"]).ok();
        keeps_the_secret(home, &[&out.stdout, &out.stderr]);
        let check = home.run(&["check"]).ok();
        assert!(check.stdout.contains("TLSv1.3"), "{}", check.stdout);
        keeps_the_secret(home, &[&check.stdout, &check.stderr]);
    };

    // PGPASSWORD.
    let mut home = Home::new();
    home.add_datastore("db", &tls.conninfo(&format!("user=secretive {verified}")), "");
    home.run(&["backup", "db"]).fails(6, &["no connection to the server", "no password supplied"]);
    home.set("PGPASSWORD", SECRET);
    backup(&home);

    // ~/.pgpass.
    let home = Home::new();
    home.add_datastore("db", &tls.conninfo(&format!("user=secretive {verified}")), "");
    write_private(&home.path(".pgpass"), &format!("*:*:d:secretive:{SECRET}\n"));
    backup(&home);

    // password_command.
    let home = Home::new();
    write_private(&home.path("services"), SECRET);
    home.add_datastore(
        "db",
        &tls.conninfo(&format!("user=secretive {verified}")),
        "password_command = [\"printenv\", \"HOME\"]",
    );
    let refused = home.run(&["backup", "db"]).fails(6, &["password authentication failed"]);
    keeps_the_secret(&home, &[&refused.stderr]);
    home.reconfigure(
        "[\"printenv\", \"HOME\"]",
        &format!("[\"cat\", \"{}\"]", home.path("services").display()),
    );
    backup(&home);

    // A service file, and variables for the rest.
    let mut home = Home::new();
    write_private(
        &home.path("services"),
        &format!(
            "[chat]\nhost=db.test\nhostaddr=127.0.0.1\nport={}\ndbname=d\nuser=secretive\npassword={SECRET}\n",
            tls.port
        ),
    );
    home.add_datastore("db", "service=chat", "");
    home.set("PGSERVICEFILE", home.path("services").to_str().unwrap());
    home.set("PGSSLROOTCERT", &ca);
    backup(&home);

    // A client certificate.
    let home = Home::new();
    let (certificate, key) =
        (tls.directory.path().join("client.pem"), tls.directory.path().join("client.key"));
    home.add_datastore(
        "db",
        &tls.conninfo(&format!(
            "user=certified {verified} sslcert={} sslkey={}",
            certificate.display(),
            key.display()
        )),
        "",
    );
    backup(&home);
    drop(tls.cluster);
}

#[test]
fn a_server_that_cannot_be_verified_is_refused_before_anything_is_sent() {
    let tls = Tls::start();
    let mut home = Home::new();
    home.set("PGPASSWORD", SECRET);
    // No root certificate: verify-full, which lifeboat sets for hosts that are not local, cannot
    // succeed. 127.0.0.2 is loopback too, so a made-up name with an address is what counts as
    // remote here.
    home.add_datastore(
        "db",
        &format!("host=db.test port={} dbname=d user=secretive sslmode=verify-full", tls.port),
        "",
    );
    let out = home.run(&["backup", "db"]);
    assert_eq!(out.code, 6, "{out:?}");
    // The right name, the wrong authority.
    let home_two = Home::new();
    let stranger = tls.directory.path().join("client.pem");
    home_two.add_datastore(
        "db",
        &tls.conninfo(&format!(
            "user=secretive sslmode=verify-full sslrootcert={}",
            stranger.display()
        )),
        "",
    );
    home_two.run(&["backup", "db"]).fails(6, &["certificate verify failed"]);
}

#[test]
fn secrets_are_not_in_the_arguments_of_any_child() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d");
    let home = Home::new();
    home.add_datastore(
        "db",
        &cluster.conninfo("d"),
        &format!("password_command = [\"printf\", \"%s\", \"{SECRET}\"]"),
    );
    let mut command = home.command(&["backup", "db"]);
    command.env("LIFEBOAT_WAITPOINT", format!("snapshot-listed={}", home.path("go").display()));
    let child = command.spawn().unwrap();
    crate::support::eventually("the session", || home.path("go.reached").exists());
    let mut seen = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&arguments);
        if text.contains("psql") && text.contains(cluster.socket().to_str().unwrap()) {
            seen += 1;
            assert!(!text.contains(SECRET), "{text}");
        }
    }
    assert!(seen > 0, "no psql child was seen");
    std::fs::write(home.path("go"), "").unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
}

/// What docs/CONFIG.md says of the backup role, for a database.
pub fn documented_backup_role(database: &str) -> String {
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
    let sql = documented
        .split("<!-- backup role -->\n```sql\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    sql.replace("DATABASE chat", &format!("DATABASE {database}"))
}

#[test]
fn the_documented_backup_role_can_back_up_everything() {
    let (cluster, target) = (Cluster::start(), Cluster::start());
    cluster.psql("postgres", EVERYTHING);
    let sql = documented_backup_role("everything");
    let home = Home::new();
    home.add_datastore(
        "db",
        &format!("host={} user=lifeboat_backup dbname=everything", cluster.socket().display()),
        "",
    );
    // Without it, check says what is missing and the backup fails whole.
    cluster.psql("postgres", "CREATE ROLE lifeboat_backup LOGIN; GRANT CONNECT ON DATABASE everything TO lifeboat_backup");
    let check = home.run(&["check"]);
    assert_eq!(check.code, 12, "{check:?}");
    for word in [
        "may read every table",
        "may read large objects",
        "lo_compat_privileges",
        "sees all rows despite row security",
        "GRANT SELECT ON pg_authid",
    ] {
        assert!(check.stdout.contains(word), "{word}: {}", check.stdout);
    }
    home.run(&["backup", "db"]).fails(12, &["permission denied", "docs/CONFIG.md"]);
    cluster.psql("everything", "DROP OWNED BY lifeboat_backup; DROP ROLE lifeboat_backup");
    cluster.psql("everything", &sql);
    home.run(&["check"]).ok();
    home.backup();
    home.restore(&target.conninfo("everything")).ok();
    // It cannot write.
    let written = Command::new("psql")
        .args([
            "-X",
            "-d",
            &format!("host={} user=lifeboat_backup dbname=everything", cluster.socket().display()),
            "-c",
            "SET default_transaction_read_only = off",
            "-c",
            "INSERT INTO app.parent VALUES (9)",
        ])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&written.stderr).contains("permission denied"));
}

#[test]
fn roles_that_exist_are_compared_kept_and_reported() {
    let (source, target) = (Cluster::start(), Cluster::start());
    source.psql("postgres", "CREATE ROLE same LOGIN; CREATE ROLE other LOGIN CONNECTION LIMIT 3; CREATE ROLE fresh; GRANT same TO other; GRANT fresh TO other; CREATE DATABASE d");
    source.psql("d", "CREATE TABLE t (x int); ALTER TABLE t OWNER TO other");
    target.psql("postgres", "CREATE ROLE same LOGIN; CREATE ROLE other LOGIN CONNECTION LIMIT 5");
    let home = Home::of(&source, "d");
    home.backup();
    let out = home.restore(&target.conninfo("d")).ok().stdout;
    assert!(
        out.contains("1 made, 2 the same already")
            && out.contains("role kept as it is on the target, though it differs: other"),
        "{out}"
    );
    assert!(out.contains("membership not made between roles that existed: same to other"), "{out}");
    assert_eq!(
        target.psql("postgres", "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'other'"),
        "5"
    );
    assert_eq!(
        target.psql("postgres", "SELECT string_agg(roleid::regrole::text, ',') FROM pg_auth_members WHERE member = 'other'::regrole"),
        "fresh"
    );
}

#[test]
fn tablespaces_are_remapped_or_left_out() {
    let (source, target) = (Cluster::start(), Cluster::start());
    let place = |cluster: &Cluster, name: &str| {
        let path = cluster.socket().join(name);
        std::fs::create_dir(&path).unwrap();
        assert!(
            Command::new("chown")
                .arg("--reference")
                .arg(cluster.data())
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        path.display().to_string()
    };
    source.psql(
        "postgres",
        &format!(
            "CREATE TABLESPACE fast LOCATION '{}'; CREATE DATABASE d TABLESPACE fast",
            place(&source, "fast")
        ),
    );
    source.psql("d", "CREATE TABLE t (x int) TABLESPACE fast; INSERT INTO t VALUES (1)");
    let home = Home::of(&source, "d");
    home.backup();
    let out = home.restore(&target.conninfo("left_out")).ok().stdout;
    assert!(out.contains("tablespace left out, its tables are in the default one: fast"), "{out}");
    let mapped = format!("fast={}", place(&target, "elsewhere"));
    home.run(&[
        "restore",
        "db",
        "--to",
        &target.conninfo("mapped"),
        "--yes",
        "--check",
        "--tablespace",
        &mapped,
    ])
    .ok();
    assert!(
        target
            .psql(
                "postgres",
                "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'"
            )
            .ends_with("elsewhere")
    );
}

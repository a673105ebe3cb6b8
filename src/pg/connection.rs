//! How a server is reached: a libpq connection string without any secret, and the environment of
//! the children that use it.
//!
//! libpq decides everything, with one exception: where the host is not local, its default of
//! `sslmode=prefer` would silently accept an unverified server, so lifeboat sets `verify-full`
//! unless something stricter than `require` is chosen, and refuses what is weaker.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::pins::{PinSelection, push};

/// Variables that children get from lifeboat's own environment. Nothing else is passed on; cloud
/// credentials least of all.
const PASSED_ON: [&str; 12] = [
    "HOME",
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "USER",
    "LOGNAME",
    "KRB5CCNAME",
    "KRB5_CONFIG",
    "SSL_CERT_FILE",
];

/// How a server is reached.
#[derive(Clone, Debug)]
pub struct PgConnection {
    conninfo: String,
    database: Option<String>,
    password: Option<SecretString>,
    extra: Vec<(String, String)>,
    jail: Option<SandboxLauncher>,
    addresses: Vec<(String, String)>,
    /// Options for the server that would be in force without ours.
    options: String,
    /// Whether it is a server that is restored to.
    /// The role that every session takes on.
    role: Option<String>,
    writes: bool,
}

/// Program and arguments that start another program inside a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxLauncher(Arc<[OsString]>);

impl SandboxLauncher {
    /// A launcher that takes the program to start, and its arguments, behind its own.
    #[must_use]
    pub fn new(words: Vec<OsString>) -> Self {
        Self(words.into())
    }
    /// A command that starts `program` in the sandbox, with nothing of our environment.
    #[must_use]
    pub fn command(&self, program: &std::path::Path) -> tokio::process::Command {
        let mut words = self.0.iter();
        let mut command = tokio::process::Command::new(
            words.next().map_or(program.as_os_str(), OsString::as_os_str),
        );
        command.args(words);
        if !self.0.is_empty() {
            command.arg(program);
        }
        // Ctrl-C is for lifeboat, which takes the sandbox down in order.
        command.env_clear().kill_on_drop(true).process_group(0);
        command
    }
}

/// Why a connection string is not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConnectionError {
    /// A password in the string would end up in argv and in process listings.
    #[error(
        "the connection string holds a password; leave it out and use PGPASSWORD, ~/.pgpass, a service file or password_command"
    )]
    Password,
    /// Not a connection string.
    #[error("not a libpq connection string: {0}")]
    Malformed(String),
    /// TLS that is not verified, to a host that is not local.
    #[error(
        "sslmode={mode} does not verify the server {host}; use sslmode=verify-full (or verify-ca)"
    )]
    UnverifiedTls {
        /// The mode asked for.
        mode: String,
        /// The host.
        host: String,
    },
}

impl PgConnection {
    /// Parses a URI (`postgres://…`) or key-value string (`service=chat`), and settles TLS
    /// verification.
    ///
    /// # Errors
    /// [`ConnectionError`] if it holds a password, is malformed, or asks for unverified TLS to a
    /// host that is not local.
    pub fn parse(conninfo: &str) -> Result<Self, ConnectionError> {
        let environment = |name: &str| std::env::var(name).ok();
        Self::parse_with(conninfo, &environment)
    }

    fn parse_with(
        conninfo: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConnectionError> {
        let settings = parse_conninfo(conninfo)?;
        if settings.contains_key("password") || settings.contains_key("sslpassword") {
            return Err(ConnectionError::Password);
        }
        let service = settings.get("service").cloned().or_else(|| environment("PGSERVICE"));
        let found = service.as_ref().map(|name| read_service(name, environment));
        let unknown_service = matches!(&found, Some(None));
        let from_service = found.flatten().unwrap_or_default();
        let setting = |key: &str, variable: &str| {
            settings
                .get(key)
                .cloned()
                .or_else(|| from_service.get(key).cloned())
                .or_else(|| environment(variable))
        };
        let host = setting("hostaddr", "PGHOSTADDR")
            .or_else(|| setting("host", "PGHOST"))
            .unwrap_or_default();
        let mut extra = Vec::new();
        // libpq may know a place for service files that we do not. It ignores sslmode on Unix
        // sockets.
        if unknown_service && setting("sslmode", "PGSSLMODE").is_none() {
            extra.push(("PGSSLMODE".to_owned(), "verify-full".to_owned()));
        }
        if let Some(remote) = host.split(',').find(|h| !is_local(h)) {
            match setting("sslmode", "PGSSLMODE") {
                None => extra.push(("PGSSLMODE".to_owned(), "verify-full".to_owned())),
                Some(mode) if mode == "verify-full" || mode == "verify-ca" => {}
                Some(mode) => {
                    return Err(ConnectionError::UnverifiedTls { mode, host: remote.to_owned() });
                }
            }
        }
        let port = setting("port", "PGPORT").unwrap_or_else(|| "5432".to_owned());
        let mut ports = port.split(',').cycle();
        let addresses = host
            .split(',')
            .map(|host| (host.trim().to_owned(), ports.next().unwrap_or("5432").trim().to_owned()))
            .collect();
        let database = setting("dbname", "PGDATABASE").filter(|name| !name.is_empty());
        let options = setting("options", "PGOPTIONS").unwrap_or_default();
        Ok(Self {
            conninfo: conninfo.to_owned(),
            database,
            password: None,
            extra,
            jail: None,
            addresses,
            options,
            writes: false,
            role: None,
        })
    }

    /// A server inside a sandbox: its clients run in there too, so that nothing the server says can
    /// lead them elsewhere, and with nothing of our environment. `options` are settings of its
    /// sessions, for the sandbox's own sake.
    #[must_use]
    pub fn in_sandbox(
        socket: &std::path::Path,
        user: &str,
        database: &str,
        options: &str,
        launcher: SandboxLauncher,
    ) -> Self {
        let conninfo = format!("host={} user={user} dbname={database}", socket.display());
        Self {
            conninfo,
            database: Some(database.to_owned()),
            password: None,
            extra: Vec::new(),
            jail: Some(launcher),
            addresses: Vec::new(),
            options: options.to_owned(),
            writes: true,
            role: None,
        }
    }

    /// Whether its server is one that lifeboat started in a sandbox.
    #[must_use]
    pub fn is_in_sandbox(&self) -> bool {
        self.jail.is_some()
    }

    /// Hosts and ports that are named, in their order; an empty host is libpq's own socket
    /// directory.
    #[must_use]
    pub fn addresses(&self) -> &[(String, String)] {
        &self.addresses
    }

    /// A program that uses this connection: it runs where clients run, and finds the connection
    /// string in `LIFEBOAT_TARGET`.
    #[must_use]
    pub fn command(&self, program: &std::path::Path) -> tokio::process::Command {
        let mut command = match &self.jail {
            Some(launcher) => launcher.command(program),
            None => tokio::process::Command::new(program),
        };
        command
            .env_clear()
            .envs(self.environment())
            .env("LIFEBOAT_TARGET", &self.conninfo)
            .kill_on_drop(true);
        // Ctrl-C on a terminal goes to the whole group: what a child is in the middle of is for
        // lifeboat to end.
        command.process_group(0);
        if self.jail.is_some() {
            command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        }
        command
    }

    /// What starts clients of this server, where that is not simply us.
    #[must_use]
    pub fn launcher(&self) -> Option<&SandboxLauncher> {
        self.jail.as_ref()
    }

    /// Uses a password from a command or variable; it reaches children in their environment only.
    #[must_use]
    pub fn with_password(mut self, password: SecretString) -> Self {
        self.password = Some(password);
        self
    }

    /// The same server, another database.
    #[must_use]
    pub fn to_database(&self, name: &str) -> Self {
        Self {
            conninfo: self.with("dbname", name),
            database: Some(name.to_owned()),
            ..self.clone()
        }
    }

    /// The connection string with one parameter more. The last one given wins in both of its forms.
    fn with(&self, parameter: &str, value: &str) -> String {
        if is_uri(&self.conninfo) {
            // libpq passes over an `&` at the end, but not over two in a row.
            let uri = self.conninfo.trim_end_matches(['?', '&']);
            let joint = if uri.contains('?') { '&' } else { '?' };
            format!("{uri}{joint}{parameter}={}", percent_encode(value))
        } else {
            format!("{} {parameter}={}", self.conninfo, quote_value(value))
        }
    }

    /// The connection string of a session that reads or writes content: `more` settings, and then
    /// the pinned ones, are merged behind the options that the string, its service or
    /// `PGOPTIONS` name. The environment alone would not do: options in the string win over it.
    #[must_use]
    pub fn pinned(&self, pinned: PinSelection, more: &[(String, String)]) -> String {
        let mut options = self.options.clone();
        more.iter().for_each(|(name, value)| push(&mut options, name, value));
        if let Some(role) = &self.role {
            push(&mut options, "role", role);
        }
        // By its name sessions of ours are found: nothing else may give them another.
        let named =
            Self { conninfo: self.with("options", &pinned.behind(&options)), ..self.clone() };
        named.with("application_name", "lifeboat")
    }

    /// What sessions of lifeboat's own statements, and children, are pinned to.
    #[must_use]
    pub fn pins(&self) -> PinSelection {
        PinSelection { format_duration: false, writes: self.writes, loads: false }
    }

    /// The same server as one that is restored to.
    #[must_use]
    pub fn to_restore_to(self) -> Self {
        Self { writes: true, ..self }
    }

    /// The same as another role, which the one that connects is a member of.
    #[must_use]
    pub fn as_role(self, role: Option<String>) -> Self {
        Self { role, ..self }
    }

    /// The database that is named, in the string, its service or the environment. libpq takes the
    /// user's name if there is none.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    /// The connection string. Holds no secret.
    #[must_use]
    pub fn conninfo(&self) -> &str {
        &self.conninfo
    }

    /// The whole environment of a child that uses this connection.
    #[must_use]
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut all: Vec<(OsString, OsString)> = std::env::vars_os()
            .filter(|_| self.jail.is_none())
            .filter(|(name, _)| {
                name.to_str().is_some_and(|n| {
                    n != "PGCLIENTENCODING" && (n.starts_with("PG") || PASSED_ON.contains(&n))
                })
            })
            .collect();
        all.extend(self.extra.iter().map(|(n, v)| (n.into(), v.into())));
        all.push(("PGAPPNAME".into(), "lifeboat".into()));
        // Messages are matched and shown; passwords go last so that they win over the parent's.
        all.push(("LC_ALL".into(), "C.UTF-8".into()));
        if std::env::var_os("PGCONNECT_TIMEOUT").is_none() {
            all.push(("PGCONNECT_TIMEOUT".into(), "15".into()));
        }
        if let Some(password) = &self.password {
            all.push(("PGPASSWORD".into(), password.expose_secret().into()));
        }
        all
    }
}

/// A value of a key-value connection string.
#[must_use]
pub fn quote_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn is_uri(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// Whether traffic to this host stays on the machine. An `@` begins an abstract Unix socket.
fn is_local(host: &str) -> bool {
    let host = host.trim();
    host.is_empty()
        || host.starts_with('/')
        || host.starts_with('@')
        || host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|c| {
            if c.is_ascii_alphanumeric() || b"-_.~".contains(&c) {
                (c as char).to_string()
            } else {
                format!("%{c:02X}")
            }
        })
        .collect()
}

fn percent_decode(text: &str) -> Result<String, ConnectionError> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let byte = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            out.push(byte.ok_or_else(|| {
                ConnectionError::Malformed("a % is not followed by two hexadecimal digits".into())
            })?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).map_err(|_| ConnectionError::Malformed("it is not UTF-8".into()))
}

/// The settings that matter to lifeboat, from either form of connection string.
fn parse_conninfo(text: &str) -> Result<BTreeMap<String, String>, ConnectionError> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => parse_uri(rest),
        None => parse_pairs(text),
    }
}

fn parse_uri(rest: &str) -> Result<BTreeMap<String, String>, ConnectionError> {
    let mut settings = BTreeMap::new();
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = before.split_once('/').unwrap_or((before, ""));
    let (user, hosts) =
        authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    if let Some((_, password)) = user.and_then(|u| u.split_once(':')) {
        settings.insert("password".to_owned(), percent_decode(password)?);
    }
    let host = |one: &str| match one.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, _)) => Ok(v6.to_owned()),
        None => percent_decode(one.split(':').next().unwrap_or_default()),
    };
    let hosts = hosts.split(',').map(host).collect::<Result<Vec<_>, _>>()?.join(",");
    if !hosts.is_empty() {
        settings.insert("host".to_owned(), hosts);
    }
    if !database.is_empty() {
        settings.insert("dbname".to_owned(), percent_decode(database)?);
    }
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            ConnectionError::Malformed(format!("parameter {pair:?} has no value"))
        })?;
        settings.insert(percent_decode(key)?, percent_decode(value)?);
    }
    Ok(settings)
}

fn parse_pairs(text: &str) -> Result<BTreeMap<String, String>, ConnectionError> {
    let mut settings = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| {
            ConnectionError::Malformed(
                "write key=value pairs (\"service=chat\") or a URI (\"postgres://host/chat\")"
                    .into(),
            )
        })?;
        let mut value = String::new();
        let mut characters = after.trim_start().char_indices();
        let body = after.trim_start();
        let quoted = body.starts_with('\'');
        if quoted {
            characters.next();
        }
        let mut end = body.len();
        let mut closed = !quoted;
        while let Some((at, c)) = characters.next() {
            match c {
                '\\' => value.extend(characters.next().map(|(_, c)| c)),
                '\'' if quoted => {
                    end = at + 1;
                    closed = true;
                    break;
                }
                c if !quoted && c.is_whitespace() => {
                    end = at;
                    break;
                }
                c => value.push(c),
            }
        }
        if !closed {
            return Err(ConnectionError::Malformed("a quote is not closed".into()));
        }
        settings.insert(key.trim().to_owned(), value);
        rest = body[end..].trim_start();
    }
    Ok(settings)
}

/// Settings of a service, from the files libpq looks at on Debian, in its order; `None` if it is in
/// none of them.
fn read_service(
    name: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Option<BTreeMap<String, String>> {
    let own = environment("PGSERVICEFILE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(environment("HOME")?).join(".pg_service.conf")));
    let system = environment("PGSYSCONFDIR").unwrap_or_else(|| "/etc/postgresql-common".to_owned());
    for file in own.into_iter().chain([PathBuf::from(system).join("pg_service.conf")]) {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        let header = format!("[{name}]");
        let mut lines = text.lines().map(str::trim).skip_while(|l| *l != header);
        if lines.next().is_some() {
            let pairs = lines
                .take_while(|l| !l.starts_with('['))
                .filter(|l| !l.starts_with('#'))
                .filter_map(|l| l.split_once('='));
            return Some(pairs.map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())).collect());
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(conninfo: &str) -> Result<PgConnection, ConnectionError> {
        PgConnection::parse_with(conninfo, &|_| None)
    }

    #[test]
    fn a_password_in_the_string_is_refused_in_every_form() {
        for text in [
            "postgres://u:secret@h/db",
            "host=/tmp password=secret",
            "postgres://h/db?password=x",
            "password = 'a b' host=x",
        ] {
            assert_eq!(parse(text).unwrap_err(), ConnectionError::Password, "{text}");
        }
    }

    #[test]
    fn a_remote_host_gets_verified_tls_and_a_weaker_mode_is_refused() {
        let strict = Some(&("PGSSLMODE".to_owned(), "verify-full".to_owned()));
        assert_eq!(parse("host=db.example.org").unwrap().extra.first(), strict);
        assert_eq!(parse("postgres://db.example.org:5433/chat").unwrap().extra.first(), strict);
        assert_eq!(parse("host=localhost,db.example.org").unwrap().extra.first(), strict);
        assert!(matches!(
            parse("host=10.0.0.1 sslmode=require"),
            Err(ConnectionError::UnverifiedTls { .. })
        ));
        assert!(matches!(
            parse("postgres://h/db?sslmode=prefer"),
            Err(ConnectionError::UnverifiedTls { .. })
        ));
        for local in [
            "",
            "host=/run/postgresql",
            "host=localhost sslmode=disable",
            "postgres://127.0.0.1/db",
            "postgres://[::1]:5432/db",
            "postgres:///db?host=/tmp",
        ] {
            assert!(parse(local).unwrap().extra.is_empty(), "{local}");
        }
        assert!(parse("host=h sslmode=verify-ca").unwrap().extra.is_empty());
        assert_eq!(parse("service=in_a_file_we_do_not_know").unwrap().extra.first(), strict);
    }

    #[test]
    fn a_service_file_decides_about_tls_like_the_string_does() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("services");
        std::fs::write(&file, "[other]\nhost=a\n[chat]\n# comment\nhost=db.example.org\nsslmode=require\n[after]\nhost=b\n").unwrap();
        let environment =
            |name: &str| (name == "PGSERVICEFILE").then(|| file.display().to_string());
        let refused = PgConnection::parse_with("service=chat", &environment).unwrap_err();
        assert_eq!(
            refused,
            ConnectionError::UnverifiedTls {
                mode: "require".into(),
                host: "db.example.org".into()
            }
        );
    }

    #[test]
    fn another_database_is_named_in_either_form() {
        assert_eq!(
            parse("postgres://h/a?sslmode=verify-full").unwrap().to_database("b c").conninfo(),
            "postgres://h/a?sslmode=verify-full&dbname=b%20c"
        );
        assert_eq!(
            parse("host=/tmp dbname=a").unwrap().to_database("it's").conninfo(),
            r"host=/tmp dbname=a dbname='it\'s'"
        );
    }

    #[test]
    fn pins_come_behind_the_options_of_string_service_and_environment() {
        const OWN: PinSelection =
            PinSelection { format_duration: false, writes: false, loads: false };
        let environment = |name: &str| (name == "PGOPTIONS").then(|| "-c geqo=off".to_owned());
        let of = |conninfo: &str| {
            PgConnection::parse_with(conninfo, &environment).unwrap().pinned(OWN, &[])
        };
        assert!(
            of("host=/tmp").starts_with("host=/tmp options='-c geqo=off -c bytea_output=hex"),
            "{}",
            of("host=/tmp")
        );
        let own = "host=/tmp options='-c jit=off'";
        assert!(
            of(own).starts_with(&format!("{own} options='-c jit=off -c bytea_output=hex")),
            "{}",
            of(own)
        );
        let uri = of("postgres:///db?host=/tmp&options=-c%20jit%3Doff");
        assert!(uri.contains("&options=-c%20jit%3Doff%20-c%20bytea_output%3Dhex"), "{uri}");
        for end in ["?", "&", "?&"] {
            assert!(!of(&format!("postgres:///db?host=/tmp{end}")).contains("&&"), "{end}");
        }
        assert!(of("postgres://localhost/db?").starts_with("postgres://localhost/db?options="));
        let more =
            parse("host=/tmp").unwrap().pinned(OWN, &[("work_mem".to_owned(), "1 GB".to_owned())]);
        assert!(
            more.starts_with(r"host=/tmp options='-c work_mem=1\\ GB -c bytea_output"),
            "{more}"
        );
    }

    #[test]
    fn passwords_are_not_in_debug_output() {
        let connection = parse("host=/tmp").unwrap().with_password("hunter2".to_owned().into());
        assert!(!format!("{connection:?}").contains("hunter2"));
        assert!(connection.environment().contains(&("PGPASSWORD".into(), "hunter2".into())));
    }
}

//! `[serve]`, `[catalog]` and `[notify.NAME]`: how lifeboat lives unattended, and whom it tells.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::section::ConfigSection;
use crate::domain::alarm::AlarmKind;
use crate::domain::human_duration::HumanDuration;

/// How the scheduler works.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// This host's name where hosts share a catalog.
    pub host: String,
    /// Runs at once on this host.
    pub runs: usize,
    /// Runs at once on all hosts.
    pub runs_in_all: Option<usize>,
    /// How long a host may be silent before its run is somebody else's.
    pub lease: HumanDuration,
    /// What a stop does to runs.
    pub on_stop: StopPolicy,
    /// How long a stop waits for them.
    pub stop_within: HumanDuration,
    /// How often somebody is told again of what goes on.
    pub remind: HumanDuration,
    /// Where people find the status page, or what else a message should lead to.
    pub link: Option<String>,
    /// The status page.
    pub page: Option<PageConfig>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        let own = std::env::var("LIFEBOAT_HOST")
            .ok()
            .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
        Self {
            host: own,
            runs: 2,
            runs_in_all: None,
            lease: HumanDuration::seconds(120),
            on_stop: StopPolicy::Finish,
            stop_within: HumanDuration::seconds(3_600),
            remind: HumanDuration::seconds(86_400),
            link: None,
            page: None,
        }
    }
}

/// What a stop does to runs that are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopPolicy {
    /// It waits for them.
    Finish,
    /// It interrupts them; what they began is undone.
    Abort,
}

/// The status page.
#[derive(Debug, Clone)]
pub struct PageConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Certificates and key, PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Certificates of who may issue client certificates.
    pub client_ca: Option<PathBuf>,
    /// A file that holds the bearer token.
    pub token_file: Option<PathBuf>,
}

/// A way to tell somebody.
#[derive(Debug, Clone)]
pub struct NotifyConfig {
    /// Its name.
    pub name: String,
    /// What it is told of.
    pub on: BTreeSet<AlarmKind>,
    /// How.
    pub how: NotifyMethod,
}

/// How somebody is told.
#[derive(Debug, Clone)]
pub enum NotifyMethod {
    /// A POST of JSON.
    Webhook {
        /// The address.
        url: UrlSource,
        /// Whether it is shaped for Slack.
        slack: bool,
    },
    /// A topic of SNS.
    Sns {
        /// Its ARN.
        topic: String,
        /// Region, where the ARN does not say it.
        region: Option<String>,
        /// Endpoint of a stand-in.
        endpoint: Option<String>,
    },
    /// Mail.
    Smtp {
        /// `host` or `host:port`.
        server: String,
        /// The sender.
        from: String,
        /// Who gets it.
        to: Vec<String>,
        /// User name, if the server wants one.
        user: Option<String>,
        /// A file that holds the password.
        password_file: Option<PathBuf>,
        /// Whether TLS is left out, which only a server on this host may.
        plain: bool,
    },
    /// A program, which gets the message on standard input.
    Command(Vec<String>),
    /// A dead man's switch: told nothing, but asked for on every heartbeat.
    Ping(UrlSource),
}

/// An address that may be a secret.
#[derive(Clone)]
pub enum UrlSource {
    /// Written in the configuration.
    Text(String),
    /// In a file of its own.
    File(PathBuf),
}

impl std::fmt::Debug for UrlSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // Whoever knows a webhook's address may use it.
            Self::Text(_) => f.write_str("Text(…)"),
            Self::File(file) => write!(f, "File({})", file.display()),
        }
    }
}

/// Where the catalog is.
#[derive(Debug, Clone)]
pub struct CatalogConfig {
    /// The file; directories for locks and sandboxes stand beside it.
    pub file: PathBuf,
    /// A server that several hosts share.
    pub url: Option<String>,
}

impl CatalogConfig {
    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.url.clone().unwrap_or_else(|| self.file.display().to_string())
    }
}

pub(super) fn catalog(root: &mut ConfigSection<'_>, base: &Path) -> CatalogConfig {
    let mut config = CatalogConfig { file: base.join("catalog.db"), url: None };
    if let Some(mut s) = root.section("catalog") {
        if let Some(file) = s.text("file") {
            config.file = base.join(file.value);
        }
        if let Some(url) = s.text("url") {
            let rest = url
                .value
                .strip_prefix("postgres://")
                .or_else(|| url.value.strip_prefix("postgresql://"));
            match rest {
                None => {
                    s.fault::<()>(
                        url.span,
                        "url",
                        "not a URL of a PostgreSQL server",
                        "write url = \"postgres://lifeboat@db.internal/lifeboat\"",
                    );
                }
                Some(rest)
                    if rest.split_once('@').is_some_and(|(user, _)| user.contains(':'))
                        || rest.contains("password=") =>
                {
                    s.fault::<()>(
                        url.span,
                        "url",
                        "a password stands in the URL",
                        "leave it out: PGPASSWORD or ~/.pgpass tell it",
                    );
                }
                Some(rest)
                    if !is_local(rest)
                        && !["sslmode=verify-full", "sslmode=verify-ca"]
                            .iter()
                            .any(|mode| rest.contains(mode)) =>
                {
                    s.fault::<()>(
                        url.span,
                        "url",
                        "to a host that is not local TLS must be verified",
                        "add ?sslmode=verify-full (and sslrootcert=…) to the URL",
                    );
                }
                Some(_) => config.url = Some(url.value),
            }
        }
        s.finish();
    }
    config
}

/// Whether a URL, behind its scheme, leads to a socket or to this host.
fn is_local(rest: &str) -> bool {
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let (host, query) = place.split_once('?').unwrap_or((place, ""));
    let host = host.split('/').next().unwrap_or_default();
    let host = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|c| c.is_ascii_digit()))
        .map_or(host, |(host, _)| host);
    let named = query.split('&').find_map(|pair| pair.strip_prefix("host=")).unwrap_or(host);
    named.is_empty()
        || named.starts_with('/')
        || named.starts_with("%2F")
        || ["localhost", "127.0.0.1", "[::1]"].contains(&named)
}

pub(super) fn serve(root: &mut ConfigSection<'_>, base: &Path) -> ServeConfig {
    let mut config = ServeConfig::default();
    let Some(mut s) = root.section("serve") else { return config };
    if let Some(host) = s.text("host") {
        config.host = host.value;
    }
    config.runs = s.number("runs", 1, 64).unwrap_or(config.runs);
    config.runs_in_all = s.number("runs_in_all", 1, 1_000);
    config.lease = s.span("lease").unwrap_or(config.lease);
    if config.lease.duration().as_secs() < 2 {
        s.fault_here::<()>(
            "a lease of less than two seconds is lost by chance",
            "write lease = \"2m\"",
        );
    }
    config.on_stop = s
        .choice("on_stop", &[("finish", StopPolicy::Finish), ("abort", StopPolicy::Abort)])
        .unwrap_or(config.on_stop);
    config.stop_within = s.span("stop_within").unwrap_or(config.stop_within);
    config.remind = s.span("remind").unwrap_or(config.remind);
    config.link = s.endpoint("link");
    config.page = page(&mut s, base);
    s.finish();
    config
}

fn page(s: &mut ConfigSection<'_>, base: &Path) -> Option<PageConfig> {
    let listen = s.text("listen");
    let (cert, key) = (s.text("tls_certificate"), s.text("tls_key"));
    let client_ca = s.text("client_ca").map(|t| base.join(t.value));
    let token_file = s.text("bearer_token_file").map(|t| base.join(t.value));
    let tls = match (cert, key) {
        (Some(cert), Some(key)) => Some((base.join(cert.value), base.join(key.value))),
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => {
            s.fault::<()>(
                one.span,
                "tls_key",
                "a certificate and its key belong together",
                "name both tls_certificate and tls_key",
            );
            None
        }
    };
    let listen = listen?;
    let Ok(address) = listen.value.parse::<SocketAddr>() else {
        return s.fault(
            listen.span,
            "listen",
            "not an address and a port",
            "write listen = \"127.0.0.1:9187\"",
        );
    };
    if !address.ip().is_loopback() {
        if tls.is_none() {
            return s.fault(
                listen.span,
                "listen",
                "beyond this host the page is served over TLS only",
                "name tls_certificate and tls_key, or listen on 127.0.0.1",
            );
        }
        if client_ca.is_none() && token_file.is_none() {
            return s.fault(
                listen.span,
                "listen",
                "beyond this host the page is for who proves to be allowed",
                "name client_ca or bearer_token_file, or listen on 127.0.0.1",
            );
        }
    }
    Some(PageConfig { listen: address, tls, client_ca, token_file })
}

pub(super) fn notify(root: &mut ConfigSection<'_>, base: &Path) -> Vec<NotifyConfig> {
    let mut all = Vec::new();
    for (name, mut s) in root.sections("notify") {
        let on = kinds(&mut s);
        let kinds =
            [("webhook", 0), ("slack", 1), ("sns", 2), ("smtp", 3), ("command", 4), ("ping", 5)];
        let how = match s.choice("kind", &kinds) {
            Some(kind @ (0 | 1)) => {
                url(&mut s, base).map(|url| NotifyMethod::Webhook { url, slack: kind == 1 })
            }
            Some(2) => {
                let topic = s.required_text(
                    "topic",
                    "topic = \"arn:aws:sns:eu-west-1:123456789012:backups\"",
                );
                let (region, endpoint) =
                    (s.text("region").map(|t| t.value), s.endpoint("endpoint"));
                topic.map(|topic| NotifyMethod::Sns { topic: topic.value, region, endpoint })
            }
            Some(3) => smtp(&mut s, base),
            Some(4) => match s.texts("command") {
                Some(words) if !words.value.is_empty() => Some(NotifyMethod::Command(words.value)),
                _ => {
                    s.fault_here("command is missing", "write command = [\"/usr/local/bin/tell\"]")
                }
            },
            Some(_) => url(&mut s, base).map(NotifyMethod::Ping),
            None if s.has("kind") => None,
            None => s.fault_here(
                "the channel has no kind",
                "write kind = \"slack\", \"webhook\", \"sns\", \"smtp\", \"command\" or \"ping\"",
            ),
        };
        s.finish();
        all.extend(how.map(|how| NotifyConfig { name, on, how }));
    }
    all
}

fn kinds(s: &mut ConfigSection<'_>) -> BTreeSet<AlarmKind> {
    let Some(texts) = s.texts("on") else {
        return AlarmKind::ALL.into_iter().map(|(_, kind)| kind).collect();
    };
    let kind = |text: &String| match AlarmKind::named(text) {
        Some(kind) => Some(kind),
        None => {
            let known = AlarmKind::ALL.map(|(name, _)| name).join(", ");
            s.fault(
                texts.span.clone(),
                "on",
                &format!("{text:?} is nothing to be told of"),
                &format!("known are: {known}"),
            )
        }
    };
    texts.value.iter().filter_map(kind).collect()
}

fn url(s: &mut ConfigSection<'_>, base: &Path) -> Option<UrlSource> {
    match (s.text("url"), s.text("url_file")) {
        (Some(url), None)
            if url.value.starts_with("https://") || url.value.starts_with("http://") =>
        {
            Some(UrlSource::Text(url.value))
        }
        (Some(url), None) => s.fault(
            url.span,
            "url",
            "not an address; it may be a secret and is not shown",
            "write url = \"https://…\", or url_file",
        ),
        (None, Some(file)) => Some(UrlSource::File(base.join(file.value))),
        (Some(url), Some(_)) => s.fault(
            url.span,
            "url",
            "either url or url_file; it may be a secret and is not shown",
            "remove one",
        ),
        (None, None) => s.fault_here(
            "the channel has no address",
            "write url_file = \"…\" (the address of a webhook is a secret), or url",
        ),
    }
}

fn smtp(s: &mut ConfigSection<'_>, base: &Path) -> Option<NotifyMethod> {
    let server = s.required_text("server", "server = \"smtp.example.com\"");
    let from = s.required_text("from", "from = \"lifeboat@example.com\"");
    let to = s.texts("to");
    let user = s.text("user").map(|t| t.value);
    let password_file = s.text("password_file").map(|t| base.join(t.value));
    let plain = s.boolean("plain").unwrap_or(false);
    let (server, from) = (server?, from?);
    let to = match to {
        Some(to) if !to.value.is_empty() => to,
        _ => return s.fault_here("to is missing", "write to = [\"oncall@example.com\"]"),
    };
    for address in to.value.iter().chain([&from.value]) {
        if !address.contains('@') {
            return s.fault(
                to.span,
                "to",
                &format!("{address:?} is no address"),
                "write to = [\"oncall@example.com\"]",
            );
        }
    }
    let host = server.value.rsplit_once(':').map_or(server.value.as_str(), |(host, _)| host);
    if plain && !["localhost", "127.0.0.1", "[::1]"].contains(&host) {
        return s.fault(
            server.span,
            "server",
            "mail goes without TLS to this host only",
            "remove plain = true",
        );
    }
    Some(NotifyMethod::Smtp {
        server: server.value,
        from: from.value,
        to: to.value,
        user,
        password_file,
        plain,
    })
}

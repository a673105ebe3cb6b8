//! `lifeboat.toml` as one checked [`Config`]. Parsing asks nothing of the world; `lifeboat check` does.
//!
//! Every fault is found in one pass and reported with file, line, key and what to write instead: [`section`] walks the
//! parsed file, knows which keys were asked for, and so which ones are unknown.

pub mod plans;
pub mod schedules;
pub mod section;
pub mod serve;
pub mod template;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use secrecy::SecretString;

use crate::domain::DatastoreName;
use crate::domain::retention::minimum_days;
use crate::domain::span::Span;
use crate::keyring::age_key::Recipients;
use crate::keyring::sign::{PublicKey, TrustedKeys};
use crate::pg::Connection;
pub use section::{ConfigError, Fault};
use section::{Document, Section};

/// Name of the configuration file.
pub const FILE_NAME: &str = "lifeboat.toml";

/// Everything that is configured, checked against itself.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// The vault.
    pub vault: VaultConfig,
    /// Keys by name, in the order in which they are tried.
    pub keys: Vec<KeyConfig>,
    /// What signs and what is believed.
    pub signing: SigningConfig,
    /// The catalog.
    pub catalog: serve::CatalogConfig,
    /// How it lives unattended.
    pub serve: serve::ServeConfig,
    /// Whom it tells.
    pub notify: Vec<serve::NotifyConfig>,
    /// Directory of Postgres' client programs, if not found by themselves.
    pub pg_bin: Option<PathBuf>,
    /// How payloads are compressed.
    pub compression: CompressionConfig,
    /// Datastores by name.
    pub datastores: BTreeMap<DatastoreName, DatastoreConfig>,
}

/// Where backups live.
#[derive(Debug, Clone)]
pub enum VaultConfig {
    /// In a directory, some of whose payloads may be cold.
    Directory(PathBuf, Option<ColdConfig>),
    /// In a bucket.
    S3(Box<S3Config>),
}

/// A vault in S3 or something that speaks like it.
#[derive(Debug, Clone, Default)]
pub struct S3Config {
    /// Bucket.
    pub bucket: String,
    /// Prefix, empty or ending in `/`.
    pub prefix: String,
    /// Region; the SDK's own chain decides where it is missing.
    pub region: Option<String>,
    /// Endpoint of an S3-compatible store.
    pub endpoint: Option<String>,
    /// Bucket in the path instead of the host name.
    pub path_style: bool,
    /// Storage class of payloads.
    pub storage_class: Option<String>,
    /// Classes into which the bucket moves payloads, by age.
    pub colder: Vec<Colder>,
    /// KMS key of the bucket's own encryption.
    pub sse_kms_key: Option<String>,
    /// Retention by Object Lock: mode and length.
    pub object_lock: Option<(LockMode, Span)>,
    /// Retention of evidence, where objects are locked at all.
    pub evidence_lock: Span,
    /// Part size in bytes.
    pub part_bytes: usize,
    /// Parts under way at once.
    pub transfers_max: usize,
    /// How long reading a payload is tried again while the store does not answer.
    pub patience: Span,
}

/// Which payloads of a directory are cold, and how fast time passes for them: a rehearsal of S3's classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColdConfig {
    /// Class in which payloads are stored.
    pub class: Option<String>,
    /// Classes into which they move, by age.
    pub colder: Vec<Colder>,
    /// How many times faster than real time passes while something thaws.
    pub speed: u32,
}

/// A class into which the bucket moves payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Colder {
    /// At which age, in days.
    pub after_days: i64,
    /// The storage class.
    pub class: String,
}

/// Mode of Object Lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// May be lifted by who has the permission.
    Governance,
    /// May be lifted by nobody.
    Compliance,
}

/// A key that wraps identities.
#[derive(Debug, Clone)]
pub struct KeyConfig {
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: KeyKind,
}

/// Kinds of key.
#[derive(Debug, Clone)]
pub enum KeyKind {
    /// A KMS key.
    AwsKms {
        /// ARN, id or alias.
        key_id: String,
        /// Region, where the ARN does not say it.
        region: Option<String>,
        /// Endpoint, for stand-ins and interface endpoints.
        endpoint: Option<String>,
    },
    /// Offline recovery recipients.
    AgeRecipients(Vec<String>),
    /// The local identity of an embedded set-up: a file that can open.
    AgeIdentity(PathBuf),
}

/// What signs and what is believed.
#[derive(Debug, Clone)]
pub struct SigningConfig {
    /// What signs.
    pub signer: SignerConfig,
    /// What is believed.
    pub trusted: TrustedKeys,
}

/// What signs.
#[derive(Debug, Clone)]
pub enum SignerConfig {
    /// An Ed25519 file.
    File(PathBuf),
    /// An asymmetric KMS key (`ECC_NIST_P256`, sign and verify).
    AwsKms {
        /// ARN, id or alias.
        key_id: String,
        /// Region, where the ARN does not say it.
        region: Option<String>,
        /// Endpoint.
        endpoint: Option<String>,
    },
}

/// How payloads are compressed.
#[derive(Debug, Clone, Copy)]
pub struct CompressionConfig {
    /// Lowest and highest zstd level.
    pub levels: (i32, i32),
    /// Compressing threads.
    pub compressors: usize,
}

/// A Postgres database and what is promised for it.
#[derive(Debug, Clone)]
pub struct DatastoreConfig {
    /// How to reach it.
    pub connection: Connection,
    /// A command whose output is the password.
    pub password_command: Option<Vec<String>>,
    /// How old the newest backup may be.
    pub rpo: Span,
    /// How long a restore may take.
    pub rto: Span,
    /// How long ago a drill of it may have passed.
    pub drilled_within: Span,
    /// The hosts that may run its scheduled backups; none: all.
    pub hosts: Vec<String>,
    /// Payloads dumped in parallel; 1 means `main` alone.
    pub jobs: usize,
    /// How long to wait for a table's lock.
    pub lock_wait: Span,
    /// Whether globals hold role passwords (needs to read `pg_authid`).
    pub role_passwords: bool,
}

impl DatastoreConfig {
    /// The connection with its password, if a command gives one.
    ///
    /// # Errors
    /// What went wrong with the command; its output is not part of the text.
    pub async fn connect(&self) -> Result<Connection, String> {
        let Some(command) = &self.password_command else { return Ok(self.connection.clone()) };
        let (program, arguments) = command.split_first().ok_or("password_command is empty")?;
        let output = tokio::process::Command::new(program).args(arguments).stdin(Stdio::null()).output().await;
        let output = output.map_err(|error| format!("password_command {program:?} could not be run: {error}"))?;
        if !output.status.success() {
            return Err(format!("password_command {program:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let password = zeroize::Zeroizing::new(
            String::from_utf8(output.stdout).map_err(|_| format!("password_command {program:?} did not print text"))?,
        );
        Ok(self.connection.clone().with_password(SecretString::from(password.trim_end_matches(['\n', '\r']).to_owned())))
    }
}

impl Config {
    /// The directory that schedules, plans and drills stand in.
    #[must_use]
    pub fn base(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("."))
    }

    /// Files and directories that nothing restored may ever see.
    #[must_use]
    pub fn private_files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.file.clone(), self.catalog.file.clone()];
        files.extend(self.keys.iter().filter_map(|key| match &key.kind {
            KeyKind::AgeIdentity(path) => Some(path.clone()),
            KeyKind::AwsKms { .. } | KeyKind::AgeRecipients(_) => None,
        }));
        if let SignerConfig::File(path) = &self.signing.signer {
            files.push(path.clone());
        }
        if let VaultConfig::Directory(path, _) = &self.vault {
            files.push(path.clone());
        }
        files.into_iter().filter_map(|file| std::path::absolute(file).ok()).collect()
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let document = Document::parse(file, text)?;
        let base = file.parent().unwrap_or(Path::new("."));
        let mut root = document.root();
        let vault = root.required_section("vault", "[vault]\ndirectory = \"vault\"").and_then(|s| vault(s, base));
        let keys = keys(&mut root, base);
        let signing = root.required_section("signing", "[signing]\nkey_file = \"keys/signing.pem\"").and_then(|s| signing(s, base));
        let catalog = serve::catalog(&mut root, base);
        let (serve, notify) = (serve::serve(&mut root, base), serve::notify(&mut root, base));
        let (pg_bin, compression) = (postgres(&mut root, base), compression(&mut root));
        let datastores = datastores(&mut root);
        root.finish();
        document.verdict()?;
        match (vault, signing) {
            (Some(vault), Some(signing)) => {
                Ok(Self { file: file.to_owned(), vault, keys, signing, catalog, serve, notify, pg_bin, compression, datastores })
            }
            _ => Err(document.incomplete()),
        }
    }
}

fn vault(mut s: Section<'_>, base: &Path) -> Option<VaultConfig> {
    let directory = s.text("directory");
    let s3 = s.text("s3");
    let config = match (directory, s3) {
        (Some(directory), None) => {
            let cold = cold(&mut s);
            Some(VaultConfig::Directory(std::path::absolute(base.join(directory.value)).ok()?, cold))
        }
        (None, Some(address)) => {
            let mut config = s3_settings(&mut s);
            match parse_s3_address(&address.value) {
                Some((bucket, prefix)) => {
                    (config.bucket, config.prefix) = (bucket, prefix);
                    Some(VaultConfig::S3(Box::new(config)))
                }
                None => s.fault(address.span, "s3", "not an S3 address", "write s3 = \"s3://bucket/prefix\""),
            }
        }
        (Some(both), Some(_)) => {
            s.fault(both.span, "directory", "a vault is in a directory or in S3, not both", "remove one of directory and s3")
        }
        (None, None) => s.fault_here("the vault has no place", "write directory = \"vault\" or s3 = \"s3://bucket/prefix\""),
    };
    s.finish();
    config
}

/// Splits `s3://bucket/prefix`; the prefix comes back empty or with a `/` at its end.
#[must_use]
pub fn parse_s3_address(address: &str) -> Option<(String, String)> {
    let rest = address.strip_prefix("s3://")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
    (!bucket.is_empty()).then(|| (bucket.to_owned(), prefix))
}

const MIB: usize = 1024 * 1024;
/// Six years, which HIPAA asks for of documentation.
const EVIDENCE_LOCK: Span = Span::seconds(6 * 366 * 86_400);

/// How long a store may be away in the middle of a restore.
const PATIENCE: Span = Span::seconds(15 * 60);

/// Classes of a directory's payloads, if it has any.
fn cold(s: &mut Section<'_>) -> Option<ColdConfig> {
    let (class, colder) = (s.text("storage_class").map(|t| t.value), colder(s));
    let speed = s.number("cold_speed", 1, 1_000_000).and_then(|speed| u32::try_from(speed).ok()).unwrap_or(1);
    (class.is_some() || !colder.is_empty()).then_some(ColdConfig { class, colder, speed })
}

fn s3_settings(s: &mut Section<'_>) -> S3Config {
    let mode = s.choice("object_lock_mode", &[("governance", LockMode::Governance), ("compliance", LockMode::Compliance)]);
    let length = s.span("object_lock");
    S3Config {
        region: s.text("region").map(|t| t.value),
        endpoint: s.text("endpoint").map(|t| t.value),
        path_style: s.boolean("path_style").unwrap_or(false),
        colder: colder(s),
        storage_class: s.text("storage_class").map(|t| t.value),
        sse_kms_key: s.text("sse_kms_key").map(|t| t.value),
        object_lock: length.map(|length| (mode.unwrap_or(LockMode::Governance), length)),
        evidence_lock: s.span("evidence_lock").unwrap_or(EVIDENCE_LOCK),
        part_bytes: s.number("part_mib", 5, 64).unwrap_or(8) * MIB,
        transfers_max: s.number("transfers", 1, 16).unwrap_or(4),
        patience: s.span("patience").unwrap_or(PATIENCE),
        ..S3Config::default()
    }
}

/// Steps into colder classes: each later than the one before, and not before that one's minimum is paid.
fn colder(s: &mut Section<'_>) -> Vec<Colder> {
    const CLASSES: [(&str, &str); 5] = [
        ("STANDARD_IA", "STANDARD_IA"),
        ("ONEZONE_IA", "ONEZONE_IA"),
        ("GLACIER_IR", "GLACIER_IR"),
        ("GLACIER", "GLACIER"),
        ("DEEP_ARCHIVE", "DEEP_ARCHIVE"),
    ];
    let mut steps: Vec<Colder> = Vec::new();
    for mut step in s.list("colder") {
        let (after, class) = (step.span("after"), step.choice("class", &CLASSES));
        if let (Some(after), Some(class)) = (after, class) {
            let after_days = i64::try_from(after.duration().as_secs() / 86_400).unwrap_or(i64::MAX);
            let earliest = match steps.last() {
                // https://docs.aws.amazon.com/AmazonS3/latest/userguide/lifecycle-transition-general-considerations.html
                None if class.ends_with("_IA") => 30,
                None => 0,
                Some(before) => before.after_days + minimum_days(&before.class).max(1),
            };
            if after_days < earliest {
                step.fault_here::<()>(
                    &format!("{class} after {after_days} days comes before the class before it is paid for"),
                    &format!("write after = \"{earliest}d\" or later"),
                );
            }
            steps.push(Colder { after_days, class: class.to_owned() });
        }
        step.finish();
    }
    steps
}

fn keys(root: &mut Section<'_>, base: &Path) -> Vec<KeyConfig> {
    let mut keys = Vec::new();
    for (name, mut s) in root.sections("keys") {
        if !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_') {
            s.fault_here::<()>("a key's name stands in file names", "use letters, digits, '-' and '_' only");
        }
        let kind = match s.choice("kind", &[("aws-kms", 0), ("age", 1)]) {
            Some(0) => {
                let key_id = s.required_text("key_id", "key_id = \"arn:aws:kms:eu-west-1:123456789012:key/…\"");
                let (region, endpoint) = (s.text("region").map(|t| t.value), s.text("endpoint").map(|t| t.value));
                key_id.map(|id| KeyKind::AwsKms { key_id: id.value, region, endpoint })
            }
            Some(_) => age_key(&mut s, &name, base),
            None if s.has("kind") => None,
            None => s.fault_here("the key has no kind", "write kind = \"age\" or kind = \"aws-kms\""),
        };
        s.finish();
        keys.extend(kind.map(|kind| KeyConfig { name, kind }));
    }
    if keys.is_empty() && !root.has("keys") {
        root.fault_here::<()>(
            "no key is configured, so nothing could be opened again",
            "add a section [keys.recovery] with kind = \"age\" and recipients = [\"age1…\"]",
        );
    }
    keys
}

fn age_key(s: &mut Section<'_>, name: &str, base: &Path) -> Option<KeyKind> {
    let identity = s.text("identity_file");
    let recipients = s.texts("recipients");
    match (identity, recipients) {
        (Some(file), None) => Some(KeyKind::AgeIdentity(base.join(file.value))),
        (None, Some(texts)) if texts.value.is_empty() => {
            s.fault(texts.span, "recipients", "a key without recipients opens nothing", "name at least one recipient (age1…)")
        }
        (None, Some(texts)) => match Recipients::new(name, texts.value.clone()) {
            Ok(_) => Some(KeyKind::AgeRecipients(texts.value)),
            Err(error) => {
                s.fault(texts.span, "recipients", &error.to_string(), "write the public half (age1…) that `age-keygen -y` prints")
            }
        },
        (Some(file), Some(_)) => {
            s.fault(file.span, "identity_file", "a key has either an identity file or recipients", "make two keys of it")
        }
        (None, None) => s.fault_here(
            "the key names neither recipients nor an identity file",
            "write recipients = [\"age1…\"] or identity_file = \"keys/identity.txt\"",
        ),
    }
}

fn signing(mut s: Section<'_>, base: &Path) -> Option<SigningConfig> {
    let (file, kms) = (s.text("key_file"), s.text("kms_key_id"));
    let (region, endpoint) = (s.text("region").map(|t| t.value), s.text("endpoint").map(|t| t.value));
    let mut trusted = Vec::new();
    if let Some(list) = s.texts("trust") {
        for text in list.value {
            match PublicKey::from_text(&text) {
                Ok(key) => trusted.push(key),
                Err(why) => {
                    s.fault::<()>(
                        list.span.clone(),
                        "trust",
                        &why,
                        "write the base64 line that `lifeboat init` printed, or that of the PEM file",
                    );
                }
            }
        }
    }
    let signer = match (file, kms) {
        (Some(file), None) => Some(SignerConfig::File(base.join(file.value))),
        (None, Some(id)) => Some(SignerConfig::AwsKms { key_id: id.value, region, endpoint }),
        (Some(both), Some(_)) => {
            s.fault(both.span, "key_file", "either a file or a KMS key signs", "remove one of key_file and kms_key_id")
        }
        (None, None) => s.fault_here("nothing signs", "write key_file = \"keys/signing.pem\" or kms_key_id = \"arn:…\""),
    };
    s.finish();
    Some(SigningConfig { signer: signer?, trusted: TrustedKeys::new(trusted) })
}

fn postgres(root: &mut Section<'_>, base: &Path) -> Option<PathBuf> {
    let mut s = root.section("postgres")?;
    let bin = s.text("pg_bin").map(|t| base.join(t.value));
    s.finish();
    bin
}

fn compression(root: &mut Section<'_>) -> CompressionConfig {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut config = CompressionConfig { levels: crate::config::template::LEVELS, compressors: cores.min(8) };
    if let Some(mut s) = root.section("compression") {
        let low = s.number("level_min", 1, 19);
        let high = s.number("level_max", 1, 19);
        let level = |n: Option<usize>, or: i32| n.and_then(|n| i32::try_from(n).ok()).unwrap_or(or);
        config.levels = (level(low, config.levels.0), level(high, config.levels.1.max(level(low, 1))));
        if config.levels.0 > config.levels.1 {
            s.fault_here::<()>("level_min is higher than level_max", "swap them");
        }
        config.compressors = s.number("threads", 1, 64).unwrap_or(config.compressors);
        s.finish();
    }
    config
}

fn datastores(root: &mut Section<'_>) -> BTreeMap<DatastoreName, DatastoreConfig> {
    let mut all = BTreeMap::new();
    for (name, mut s) in root.sections("datastores") {
        let parsed_name = match name.parse::<DatastoreName>() {
            Ok(name) => Some(name),
            Err(error) => s.fault_here(&error.to_string(), "rename the section"),
        };
        let datastore = datastore(&mut s);
        s.finish();
        if let (Some(name), Some(datastore)) = (parsed_name, datastore) {
            all.insert(name, datastore);
        }
    }
    all
}

fn datastore(s: &mut Section<'_>) -> Option<DatastoreConfig> {
    match s.required_text("kind", "kind = \"postgres\"") {
        Some(kind) if kind.value == "postgres" => {}
        Some(kind) if kind.value == "ebs" => {
            s.fault::<()>(kind.span, "kind", "this lifeboat does not protect EBS volumes yet", "leave the datastore out until it does");
        }
        Some(kind) => {
            s.fault::<()>(kind.span, "kind", "there is no such kind of datastore", "write kind = \"postgres\"");
        }
        None => {}
    }
    let connection = s.required_text("connection", "connection = \"service=chat\"").and_then(|text| match Connection::parse(&text.value) {
        Ok(connection) => Some(connection),
        Err(error) => s.fault(
            text.span,
            "connection",
            &error.to_string(),
            "name host, user and database only: \"host=db.internal dbname=chat user=lifeboat\" or \"service=chat\"",
        ),
    });
    let config = DatastoreConfig {
        connection: connection.unwrap_or(Connection::parse("").ok()?),
        password_command: s.texts("password_command").map(|t| t.value),
        rpo: s.span("rpo").unwrap_or(Span::seconds(86_400)),
        rto: s.span("rto").unwrap_or(Span::seconds(4 * 3_600)),
        hosts: s.texts("hosts").map(|t| t.value).unwrap_or_default(),
        drilled_within: s.span("drilled_within").unwrap_or(Span::seconds(30 * 86_400)),
        jobs: s.number("jobs", 1, 32).unwrap_or(1),
        lock_wait: s.span("lock_wait").unwrap_or(Span::seconds(30)),
        role_passwords: s.boolean("role_passwords").unwrap_or(true),
    };
    Some(config)
}

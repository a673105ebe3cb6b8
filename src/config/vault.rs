//! `[vault]` and `[vaults.NAME]`: where backups live, and how.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::section::ConfigSection;
use crate::domain::human_duration::HumanDuration;
use crate::domain::id::VaultId;
use crate::domain::retention::minimum_days;
use crate::domain::thaw::ColdClass;

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
    pub colder: Vec<ClassTransition>,
    /// KMS key of the bucket's own encryption.
    pub sse_kms_key: Option<String>,
    /// Retention by Object Lock: mode and length.
    pub object_lock: Option<(LockMode, HumanDuration)>,
    /// Retention of evidence, where objects are locked at all.
    pub evidence_lock: HumanDuration,
    /// How it is made sure that what was sent has arrived.
    pub confirm: UploadConfirmation,
    /// Part size in bytes.
    pub part_bytes: usize,
    /// Parts under way at once.
    pub transfers_max: usize,
    /// How long reading a payload is tried again while the store does not answer.
    pub patience: HumanDuration,
    /// Longest pause before it is looked again whether something has thawed.
    pub thaw_poll: HumanDuration,
}

/// Which payloads of a directory are cold, and how fast time passes for them: a rehearsal of S3's
/// classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColdConfig {
    /// Class in which payloads are stored.
    pub class: Option<String>,
    /// Classes into which they move, by age.
    pub colder: Vec<ClassTransition>,
    /// How many times faster than real time passes while something thaws.
    pub speed: u32,
}

/// A class into which the bucket moves payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassTransition {
    /// At which age, in days.
    pub after_days: i64,
    /// The storage class.
    pub class: String,
}

/// How it is made sure that what was sent has arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UploadConfirmation {
    /// The store computes a SHA-256 of its own and repeats it in its reply.
    #[default]
    Echo,
    /// The store repeats none: what is stored is read back and compared.
    ReadBack,
}

/// Mode of Object Lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// May be lifted by who has the permission.
    Governance,
    /// May be lifted by nobody.
    Compliance,
}

impl S3Config {
    /// A bucket of which nothing is known but its address: the SDK finds region, endpoint and
    /// credentials.
    #[must_use]
    pub fn at(bucket: String, prefix: String) -> Self {
        // A stand-in on a host of its own has no names for buckets.
        let elsewhere = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        Self {
            bucket,
            prefix,
            path_style: elsewhere("AWS_ENDPOINT_URL") || elsewhere("AWS_ENDPOINT_URL_S3"),
            evidence_lock: EVIDENCE_LOCK,
            part_bytes: 8 * MIB,
            transfers_max: 4,
            patience: PATIENCE,
            thaw_poll: THAW_POLL,
            ..Self::default()
        }
    }
}

/// Replicas, by name.
pub(super) fn others(root: &mut ConfigSection<'_>, base: &Path) -> BTreeMap<String, VaultConfig> {
    root.sections("vaults")
        .into_iter()
        .filter_map(|(name, section)| Some((name, vault(section, base)?)))
        .collect()
}

/// The id that the vault must have.
pub(super) fn id(s: &mut ConfigSection<'_>) -> Option<VaultId> {
    let text = s.text("id")?;
    match text.value.parse() {
        Ok(id) => Some(id),
        Err(_) => {
            s.fault(text.span, "id", "not the id of a vault", "`lifeboat check` prints the line")
        }
    }
}

pub(super) fn vault(mut s: ConfigSection<'_>, base: &Path) -> Option<VaultConfig> {
    let directory = s.text("directory");
    let s3 = s.text("s3");
    let config = match (directory, s3) {
        (Some(directory), None) => {
            let cold = cold(&mut s);
            Some(VaultConfig::Directory(
                std::path::absolute(base.join(directory.value)).ok()?,
                cold,
            ))
        }
        (None, Some(address)) => {
            let mut config = s3_settings(&mut s);
            match parse_s3_address(&address.value) {
                Some((bucket, prefix)) => {
                    (config.bucket, config.prefix) = (bucket, prefix);
                    Some(VaultConfig::S3(Box::new(config)))
                }
                None => s.fault(
                    address.span,
                    "s3",
                    "not an S3 address",
                    "write s3 = \"s3://bucket/prefix\"",
                ),
            }
        }
        (Some(both), Some(_)) => s.fault(
            both.span,
            "directory",
            "a vault is in a directory or in S3, not both",
            "remove one of directory and s3",
        ),
        (None, None) => s.fault_here(
            "the vault has no place",
            "write directory = \"vault\" or s3 = \"s3://bucket/prefix\"",
        ),
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
const EVIDENCE_LOCK: HumanDuration = HumanDuration::seconds(6 * 366 * 86_400);

/// How long a store may be away in the middle of a restore.
const PATIENCE: HumanDuration = HumanDuration::seconds(15 * 60);

/// See [`S3Config::thaw_poll`].
const THAW_POLL: HumanDuration = HumanDuration::seconds(5 * 60);

/// Classes of a directory's payloads, if it has any.
fn cold(s: &mut ConfigSection<'_>) -> Option<ColdConfig> {
    let (class, colder) = (s.text("storage_class").map(|t| t.value), colder(s));
    let speed = s
        .number("cold_speed", 1, 1_000_000)
        .and_then(|speed| u32::try_from(speed).ok())
        .unwrap_or(1);
    (class.is_some() || !colder.is_empty()).then_some(ColdConfig { class, colder, speed })
}

fn s3_settings(s: &mut ConfigSection<'_>) -> S3Config {
    let mode = s.choice(
        "object_lock_mode",
        &[("governance", LockMode::Governance), ("compliance", LockMode::Compliance)],
    );
    let length = s.span("object_lock");
    let storage_class = s.text("storage_class");
    let confirm = s
        .choice(
            "confirm",
            &[("echo", UploadConfirmation::Echo), ("read-back", UploadConfirmation::ReadBack)],
        )
        .unwrap_or_default();
    if let Some(class) = storage_class.as_ref().filter(|class| {
        confirm == UploadConfirmation::ReadBack && ColdClass::of(&class.value).is_some()
    }) {
        let instead = "store them in a warm class, and let [[vault.colder]] move them later";
        s.fault::<()>(
            class.span.clone(),
            "storage_class",
            "what is frozen at once cannot be read back, as confirm says",
            instead,
        );
    }
    S3Config {
        region: s.text("region").map(|t| t.value),
        endpoint: s.endpoint("endpoint"),
        path_style: s.boolean("path_style").unwrap_or(false),
        colder: colder(s),
        storage_class: storage_class.map(|t| t.value),
        sse_kms_key: s.text("sse_kms_key").map(|t| t.value),
        object_lock: length.map(|length| (mode.unwrap_or(LockMode::Governance), length)),
        evidence_lock: s.span("evidence_lock").unwrap_or(EVIDENCE_LOCK),
        confirm,
        part_bytes: s.number("part_mib", 5, 64).unwrap_or(8) * MIB,
        transfers_max: s.number("transfers", 1, 16).unwrap_or(4),
        patience: s.span("patience").unwrap_or(PATIENCE),
        thaw_poll: s.span("thaw_poll").unwrap_or(THAW_POLL),
        ..S3Config::default()
    }
}

/// Steps into colder classes: each later than the one before, and not before that one's minimum is
/// paid.
fn colder(s: &mut ConfigSection<'_>) -> Vec<ClassTransition> {
    const CLASSES: [(&str, &str); 5] = [
        ("STANDARD_IA", "STANDARD_IA"),
        ("ONEZONE_IA", "ONEZONE_IA"),
        ("GLACIER_IR", "GLACIER_IR"),
        ("GLACIER", "GLACIER"),
        ("DEEP_ARCHIVE", "DEEP_ARCHIVE"),
    ];
    let mut steps: Vec<ClassTransition> = Vec::new();
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
            steps.push(ClassTransition { after_days, class: class.to_owned() });
        }
        step.finish();
    }
    steps
}

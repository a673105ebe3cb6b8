//! `lifeboat.toml` as one validated [`Config`]. Parsing does no I/O beyond the file; `lifeboat
//! check` tries what it names.
//!
//! All errors are found in one pass and reported with file, line, key and what to write instead:
//! [`section`] walks the parsed file and knows which keys were asked for, hence which are unknown.

mod checks;
mod datastores;
pub mod plans;
pub mod schedules;
mod scratch;
pub mod section;
pub mod serve;
pub mod template;
mod vault;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::domain::scratch::ScratchSettings;
use crate::domain::{DatastoreName, VaultId};
use crate::keyring::age_key::RecipientsKey;
use crate::keyring::sign::{PublicKey, TrustedKeys};
pub use datastores::{CopyConfig, DatastoreConfig, DatastoreKind, PostgresConfig, VolumesConfig};
use section::{ConfigDocument, ConfigSection};
pub use section::{ConfigError, ConfigFault};
pub use vault::{
    ClassTransition, ColdConfig, LockMode, S3Config, UploadConfirmation, VaultConfig,
    parse_s3_address,
};

/// Name of the configuration file.
pub const FILE_NAME: &str = "lifeboat.toml";

/// Everything that is configured, checked against itself.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// The vault.
    pub vault: VaultConfig,
    /// The id that its `vault.json` must have; none in configurations from before it was pinned.
    pub vault_id: Option<VaultId>,
    /// Other vaults by name: replicas of this one, in another region or another building.
    pub vaults: BTreeMap<String, VaultConfig>,
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
    /// Where drills in the cloud happen.
    pub scratch_vpc: Option<ScratchSettings>,
}

/// A key that wraps identities.
#[derive(Debug, Clone)]
pub struct KeyConfig {
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: KeyKind,
    /// From when on it is not to be relied upon: an offline key is renewed by people, who must be
    /// told in time.
    pub expires: Option<Timestamp>,
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

impl Config {
    /// What is known on a host that has nothing but a vault's address: no keys, no datastores,
    /// nothing that signs. `state` is where locks go.
    #[must_use]
    pub fn bare(vault: VaultConfig, state: &Path) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            file: state.join(FILE_NAME),
            vault,
            vault_id: None,
            vaults: BTreeMap::new(),
            keys: Vec::new(),
            signing: SigningConfig {
                signer: SignerConfig::File(state.join("no-signing-key")),
                trusted: TrustedKeys::new(Vec::new()),
            },
            catalog: serve::CatalogConfig { file: state.join("catalog.db"), url: None },
            serve: serve::ServeConfig::default(),
            notify: Vec::new(),
            pg_bin: None,
            compression: CompressionConfig { levels: template::LEVELS, compressors: cores.min(8) },
            datastores: BTreeMap::new(),
            scratch_vpc: None,
        }
    }

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
        files.extend(std::iter::once(&self.vault).chain(self.vaults.values()).filter_map(
            |vault| match vault {
                VaultConfig::Directory(path, _) => Some(path.clone()),
                _ => None,
            },
        ));
        files.into_iter().filter_map(|file| std::path::absolute(file).ok()).collect()
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault that was found.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let document = ConfigDocument::parse(file, text)?;
        let base = file.parent().unwrap_or(Path::new("."));
        let mut root = document.root();
        let vault =
            root.required_section("vault", "[vault]\ndirectory = \"vault\"").and_then(|mut s| {
                let id = vault::id(&mut s);
                Some((vault::vault(s, base)?, id))
            });
        let vaults = vault::others(&mut root, base);
        let keys = keys(&mut root, base);
        let signing = root
            .required_section("signing", "[signing]\nkey_file = \"keys/signing.pem\"")
            .and_then(|s| signing(s, base));
        let catalog = serve::catalog(&mut root, base);
        let (serve, notify) = (serve::serve(&mut root, base), serve::notify(&mut root, base));
        let (pg_bin, compression) = (postgres(&mut root, base), compression(&mut root));
        let datastores = datastores::datastores(&mut root, base);
        let scratch_vpc = scratch::scratch_vpc(&mut root, base);
        root.finish();
        document.verdict()?;
        match (vault, signing) {
            (Some((vault, vault_id)), Some(signing)) => Ok(Self {
                file: file.to_owned(),
                vault,
                vault_id,
                vaults,
                keys,
                signing,
                catalog,
                serve,
                notify,
                pg_bin,
                compression,
                datastores,
                scratch_vpc,
            }),
            _ => Err(document.incomplete()),
        }
    }
}

fn keys(root: &mut ConfigSection<'_>, base: &Path) -> Vec<KeyConfig> {
    let mut keys = Vec::new();
    for (name, mut s) in root.sections("keys") {
        if !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_') {
            s.fault_here::<()>(
                "a key's name stands in file names",
                "use letters, digits, '-' and '_' only",
            );
        }
        let kind = match s.choice("kind", &[("aws-kms", 0), ("age", 1)]) {
            Some(0) => {
                let key_id = s.required_text(
                    "key_id",
                    "key_id = \"arn:aws:kms:eu-west-1:123456789012:key/…\"",
                );
                let (region, endpoint) =
                    (s.text("region").map(|t| t.value), s.endpoint("endpoint"));
                key_id.map(|id| KeyKind::AwsKms { key_id: id.value, region, endpoint })
            }
            Some(_) => age_key(&mut s, &name, base),
            None if s.has("kind") => None,
            None => {
                s.fault_here("the key has no kind", "write kind = \"age\" or kind = \"aws-kms\"")
            }
        };
        let expires = s.date("expires").and_then(day_in_utc);
        s.finish();
        keys.extend(kind.map(|kind| KeyConfig { name, kind, expires }));
    }
    if keys.is_empty() && !root.has("keys") {
        root.fault_here::<()>(
            "no key is configured, so nothing could be opened again",
            "add a section [keys.recovery] with kind = \"age\" and recipients = [\"age1…\"]",
        );
    }
    keys
}

/// When a day begins.
fn day_in_utc(day: jiff::civil::Date) -> Option<Timestamp> {
    day.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

fn age_key(s: &mut ConfigSection<'_>, name: &str, base: &Path) -> Option<KeyKind> {
    let identity = s.text("identity_file");
    let recipients = s.texts("recipients");
    match (identity, recipients) {
        (Some(file), None) => Some(KeyKind::AgeIdentity(base.join(file.value))),
        (None, Some(texts)) if texts.value.is_empty() => s.fault(
            texts.span,
            "recipients",
            "a key without recipients opens nothing",
            "name at least one recipient (age1…)",
        ),
        (None, Some(texts)) => match RecipientsKey::new(name, texts.value.clone()) {
            Ok(_) => Some(KeyKind::AgeRecipients(texts.value)),
            Err(error) => s.fault(
                texts.span,
                "recipients",
                &error.to_string(),
                "write the public half (age1…) that `age-keygen -y` prints",
            ),
        },
        (Some(file), Some(_)) => s.fault(
            file.span,
            "identity_file",
            "a key has either an identity file or recipients",
            "make two keys of it",
        ),
        (None, None) => s.fault_here(
            "the key names neither recipients nor an identity file",
            "write recipients = [\"age1…\"] or identity_file = \"keys/identity.txt\"",
        ),
    }
}

fn signing(mut s: ConfigSection<'_>, base: &Path) -> Option<SigningConfig> {
    let (file, kms) = (s.text("key_file"), s.text("kms_key_id"));
    let (region, endpoint) = (s.text("region").map(|t| t.value), s.endpoint("endpoint"));
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
        (Some(both), Some(_)) => s.fault(
            both.span,
            "key_file",
            "either a file or a KMS key signs",
            "remove one of key_file and kms_key_id",
        ),
        (None, None) => s.fault_here(
            "nothing signs",
            "write key_file = \"keys/signing.pem\" or kms_key_id = \"arn:…\"",
        ),
    };
    let mut until = Vec::new();
    for mut retired in s.list("distrust") {
        let (key, from) = (
            retired.required_text("key", "key = \"MCow…\""),
            retired.date("from").and_then(day_in_utc),
        );
        match (key.as_ref().map(|key| PublicKey::from_text(&key.value)), from) {
            (Some(Ok(key)), Some(from)) if trusted.contains(&key) => until.push((key, from)),
            (Some(Ok(_)), Some(_)) => {
                retired.fault_here::<()>(
                    "a key that is not in trust is not believed anyway",
                    "keep it in trust: what was stored before stays believed",
                );
            }
            (Some(Err(why)), _) => {
                retired.fault_here::<()>(&why, "write the line that stands in trust");
            }
            (_, None) => {
                retired.fault_here::<()>(
                    "it is not said from when on",
                    "write from = 2026-12-24, a day in UTC",
                );
            }
            (None, _) => {}
        }
        retired.finish();
    }
    s.finish();
    Some(SigningConfig { signer: signer?, trusted: TrustedKeys::new(trusted).until(until) })
}

fn postgres(root: &mut ConfigSection<'_>, base: &Path) -> Option<PathBuf> {
    let mut s = root.section("postgres")?;
    let bin = s.text("pg_bin").map(|t| base.join(t.value));
    s.finish();
    bin
}

fn compression(root: &mut ConfigSection<'_>) -> CompressionConfig {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut config =
        CompressionConfig { levels: crate::config::template::LEVELS, compressors: cores.min(8) };
    if let Some(mut s) = root.section("compression") {
        let low = s.number("level_min", 1, 19);
        let high = s.number("level_max", 1, 19);
        let level = |n: Option<usize>, or: i32| n.and_then(|n| i32::try_from(n).ok()).unwrap_or(or);
        config.levels =
            (level(low, config.levels.0), level(high, config.levels.1.max(level(low, 1))));
        if config.levels.0 > config.levels.1 {
            s.fault_here::<()>("level_min is higher than level_max", "swap them");
        }
        config.compressors = s.number("threads", 1, 64).unwrap_or(config.compressors);
        s.finish();
    }
    config
}

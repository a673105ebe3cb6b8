//! The composition root: configuration in, a [`WorkContext`] of trait objects out. Adapters are
//! chosen here; drills wrap some of them in decorators (a damaged vault, another key).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::config::serve::NotifyMethod;
use crate::config::{Config, KeyKind, SignerConfig, VaultConfig};
use crate::domain::scratch::ScratchSettings;
use crate::domain::volumes::SetPlace;
use crate::keyring::age_key::{IdentityFile, LocalIdentity, RecipientsKey};
use crate::keyring::sign::{PublicKey, Signer, SigningFile};
use crate::keyring::{KeyError, SlotOpener, WrappingKey};
use crate::notify::command::NotifyCommand;
use crate::notify::smtp::SmtpTransport;
use crate::notify::webhook::{DeadManSwitch, WebhookTransport};
use crate::notify::{Notifier, NotifyChannel, Transport};
use crate::progress::ProgressReporter;
use crate::sandbox::vpc::CloudFactory;
use crate::sandbox::vpc::cloud::{CloudError, ScratchCloud};
use crate::vault::Vault;
use crate::vault::directory::DirectoryVault;
use crate::vault::simulated_glacier::{SimulatedGlacier, ThawClock};
use crate::volumes::local::LocalVolumes;
use crate::volumes::{self, VolumeStore, VolumesError};
use crate::work::{WorkContext, WorkError};

/// What the command line adds to the configuration.
#[derive(Debug, Clone, Default)]
pub struct CommandLineKeys {
    /// Identity files that may open backups.
    pub identities: Vec<PathBuf>,
    /// Public keys to believe, beside the configured ones: one-line or PEM text, or a file that
    /// holds it.
    pub trust: Vec<String>,
    /// Tokens of KMS grants that are sent with every decryption: no secrets.
    pub grant_tokens: Vec<String>,
}

/// Puts a rig together. Makes no connection except for what AWS needs to find its credentials.
///
/// # Errors
/// [`WorkError`] if a key is not usable or a feature is missing from this binary.
pub async fn assemble(
    config: Config,
    extras: CommandLineKeys,
    progress: ProgressReporter,
    cancel: CancellationToken,
) -> Result<WorkContext, WorkError> {
    let vault = vault_of(&config.vault).await?;
    let mut replicas = BTreeMap::new();
    for (name, place) in &config.vaults {
        replicas.insert(name.clone(), vault_of(place).await?);
    }
    let mut keys: Vec<Arc<dyn WrappingKey>> = Vec::new();
    let mut openers: Vec<Arc<dyn SlotOpener>> = Vec::new();
    for path in &extras.identities {
        // Another key may open as well; a mistyped name is a mistake all the same.
        if !path.exists() {
            return Err(WorkError::Refused {
                what: format!("--identity {}", path.display()),
                why: "there is no such file".to_owned(),
                hint: "name the file with the key; it begins with AGE-SECRET-KEY-1, or lines with # before that".to_owned(),
            });
        }
        openers.push(Arc::new(IdentityFile::new(&format!("--identity {}", path.display()), path)));
    }
    for key in &config.keys {
        match &key.kind {
            KeyKind::AgeRecipients(texts) => {
                keys.push(Arc::new(RecipientsKey::new(&key.name, texts.clone())?))
            }
            KeyKind::AgeIdentity(path) => {
                openers.push(Arc::new(IdentityFile::new(&key.name, path)));
                keys.push(Arc::new(LocalIdentity::new(&key.name, path)));
            }
            KeyKind::AwsKms { key_id, region, endpoint } => {
                let kms = kms_key(
                    &key.name,
                    key_id,
                    region.clone(),
                    endpoint.clone(),
                    &extras.grant_tokens,
                )
                .await?;
                keys.push(kms.0);
                openers.push(kms.1);
            }
        }
    }
    if config.keys.is_empty() {
        // A host that has nothing but credentials: the backup itself names the KMS keys that may
        // open it.
        openers.extend(kms_of_slots());
    }
    let mut trusted = config.signing.trusted.clone();
    for text in &extras.trust {
        trusted.add(trust_key(text)?);
    }
    let signer = signer(&config.signing.signer).await?;
    let catalog = match &config.catalog.url {
        Some(url) => Catalog::open_shared(url).await,
        None => Catalog::open(&config.catalog.file).await,
    };
    let catalog = catalog.map_err(Arc::new);
    Ok(WorkContext {
        config,
        vault,
        is_elsewhere: false,
        replicas,
        keys,
        clouds: Arc::new(ScratchRegions),
        volumes: Arc::new(ConfiguredPlaces),
        openers,
        signer,
        trusted,
        catalog,
        progress,
        cancel,
        reading: Arc::default(),
        lists: Arc::default(),
    })
}

/// A key given as text or as a file.
fn trust_key(text: &str) -> Result<PublicKey, WorkError> {
    // What was typed counts, whatever files there are where one happens to be.
    if let Ok(key) = PublicKey::from_text(text) {
        return Ok(key);
    }
    let content = std::fs::read_to_string(text).unwrap_or_else(|_| text.to_owned());
    PublicKey::from_text(&content).map_err(|why| WorkError::Refused {
        what: "--trust-key".to_owned(),
        why: format!("{text:?} is neither a public key nor a file that holds one: {why}"),
        hint: "give the base64 line that `lifeboat init` printed, or a PEM file".to_owned(),
    })
}

/// The vault a configuration names.
///
/// # Errors
/// [`WorkError`] if this binary was built without what it needs.
pub async fn vault(config: &Config) -> Result<Arc<dyn Vault>, WorkError> {
    vault_of(&config.vault).await
}

async fn vault_of(place: &VaultConfig) -> Result<Arc<dyn Vault>, WorkError> {
    match place {
        VaultConfig::Directory(path, None) => Ok(Arc::new(DirectoryVault::new(path))),
        VaultConfig::Directory(path, Some(cold)) => Ok(Arc::new(SimulatedGlacier::new(
            DirectoryVault::new(path),
            cold.clone(),
            ThawClock::Host,
        ))),
        #[cfg(feature = "aws")]
        VaultConfig::S3(s3) => Ok(Arc::new(crate::vault::s3::S3Vault::new(s3).await)),
        #[cfg(not(feature = "aws"))]
        VaultConfig::S3(_) => Err(crate::vault::VaultError::Unusable(
            "this lifeboat was built without AWS; build it with --features aws".to_owned(),
        )
        .into()),
    }
}

/// Opens places with volumes.
struct ConfiguredPlaces;

#[async_trait]
impl volumes::VolumeStores for ConfiguredPlaces {
    async fn open(&self, place: &SetPlace) -> Result<Arc<dyn VolumeStore>, VolumesError> {
        match place {
            SetPlace::Local { directory } => {
                Ok(Arc::new(LocalVolumes::new(std::path::Path::new(directory))))
            }
            #[cfg(feature = "ec2")]
            SetPlace::Ebs { .. } => {
                Ok(Arc::new(crate::volumes::ebs::EbsVolumes::new(place).await?))
            }
            #[cfg(not(feature = "ec2"))]
            SetPlace::Ebs { .. } => Err(VolumesError::Unusable(
                "this lifeboat was built without EBS; build it with --features ec2".to_owned(),
            )),
        }
    }
}

/// Opens the regions in which scratch VPCs are.
struct ScratchRegions;

#[async_trait]
impl CloudFactory for ScratchRegions {
    #[cfg(feature = "ec2")]
    async fn open(&self, settings: &ScratchSettings) -> Result<Arc<dyn ScratchCloud>, CloudError> {
        Ok(Arc::new(
            crate::sandbox::vpc::aws::AwsCloud::new(&settings.region, settings.role.as_deref())
                .await,
        ))
    }
    #[cfg(not(feature = "ec2"))]
    async fn open(&self, _: &ScratchSettings) -> Result<Arc<dyn ScratchCloud>, CloudError> {
        Err(CloudError::Unusable(
            "this lifeboat was built without EC2; build it with --features ec2".to_owned(),
        ))
    }
}

#[cfg(feature = "aws")]
async fn kms_key(
    name: &str,
    key_id: &str,
    region: Option<String>,
    endpoint: Option<String>,
    grant_tokens: &[String],
) -> Result<(Arc<dyn WrappingKey>, Arc<dyn SlotOpener>), KeyError> {
    let key = crate::keyring::kms::KmsKey::new(name, key_id, region, endpoint)
        .await
        .with_grants(grant_tokens.to_vec());
    Ok((Arc::new(key.clone()), Arc::new(key)))
}

#[cfg(feature = "aws")]
fn kms_of_slots() -> Option<Arc<dyn SlotOpener>> {
    Some(Arc::new(crate::keyring::kms::SlotKmsKey))
}

#[cfg(not(feature = "aws"))]
fn kms_of_slots() -> Option<Arc<dyn SlotOpener>> {
    None
}

#[cfg(not(feature = "aws"))]
async fn kms_key(
    name: &str,
    _: &str,
    _: Option<String>,
    _: Option<String>,
    _: &[String],
) -> Result<(Arc<dyn WrappingKey>, Arc<dyn SlotOpener>), KeyError> {
    Err(KeyError::Unusable {
        key: name.to_owned(),
        why: "this lifeboat was built without AWS; build it with --features aws".to_owned(),
    })
}

async fn signer(config: &SignerConfig) -> Result<Arc<dyn Signer>, KeyError> {
    match config {
        SignerConfig::File(path) => Ok(Arc::new(SigningFile::new(path))),
        #[cfg(feature = "aws")]
        SignerConfig::AwsKms { key_id, region, endpoint } => Ok(Arc::new(
            crate::keyring::kms::KmsSigner::new(key_id, region.clone(), endpoint.clone()).await,
        )),
        #[cfg(not(feature = "aws"))]
        SignerConfig::AwsKms { .. } => Err(KeyError::Unusable {
            key: "signing".to_owned(),
            why: "this lifeboat was built without AWS; build it with --features aws".to_owned(),
        }),
    }
}

/// Everybody who can be told.
///
/// # Errors
/// [`WorkError`] if a channel cannot be made, or this binary was built without what it needs.
pub async fn bell(config: &Config) -> Result<Notifier, WorkError> {
    let mut bell = Notifier::default();
    for notify in &config.notify {
        let refuse = |why: String| WorkError::Refused {
            what: format!("[notify.{}]", notify.name),
            why,
            hint: "correct it in lifeboat.toml".to_owned(),
        };
        let way: Arc<dyn Transport> = match &notify.how {
            NotifyMethod::Webhook { url, slack } => {
                Arc::new(WebhookTransport::new(url.clone(), *slack).map_err(refuse)?)
            }
            NotifyMethod::Smtp { server, from, to, user, password_file, plain } => {
                Arc::new(SmtpTransport {
                    server: server.clone(),
                    from: from.clone(),
                    to: to.clone(),
                    user: user.clone(),
                    password_file: password_file.clone(),
                    plain: *plain,
                })
            }
            NotifyMethod::Command(words) => Arc::new(NotifyCommand(words.clone())),
            NotifyMethod::Ping(url) => {
                bell.pulses.push(Arc::new(DeadManSwitch::new(url.clone()).map_err(refuse)?));
                continue;
            }
            #[cfg(feature = "aws")]
            NotifyMethod::Sns { topic, region, endpoint } => Arc::new(
                crate::notify::sns::SnsTransport::new(topic, region.clone(), endpoint.clone())
                    .await,
            ),
            #[cfg(not(feature = "aws"))]
            NotifyMethod::Sns { .. } => {
                return Err(refuse(
                    "this lifeboat was built without AWS; build it with --features aws".to_owned(),
                ));
            }
        };
        bell.channels.push(NotifyChannel { name: notify.name.clone(), on: notify.on.clone(), way });
    }
    Ok(bell)
}

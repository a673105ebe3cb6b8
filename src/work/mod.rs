//! The commands, one file each. They take a [`WorkContext`] of trait objects and know nothing of
//! the adapters behind them.

pub mod back_up;
pub mod check;
pub mod compare;
pub mod copy;
pub mod drill;
pub mod evidence;
pub mod fence;
pub mod guide;
pub mod init;
pub mod key_life;
pub mod payload;
pub mod policy;
pub mod prune;
pub mod publish;
pub mod quote;
pub mod rebuild;
pub mod recovery;
pub mod rekey;
pub mod restore;
pub mod runbook;
pub mod scratch;
pub mod shelf;
pub mod snapshot;
pub mod status;
pub mod sweep;
pub mod thaw;
pub mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use crate::catalog::{Catalog, CatalogError};
use crate::config::{Config, ConfigError};
use crate::destination::postgres::TargetError;
use crate::domain::ErrorClass;
use crate::domain::document::DocumentError;
use crate::domain::envelope::EnvelopeError;
use crate::domain::evidence::SeriesFlaw;
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::manifest::ManifestError;
use crate::evidence::EvidenceError;
use crate::keyring::openers::NoKeyOpens;
use crate::keyring::sign::{Signer, TrustedKeys};
use crate::keyring::{KeyError, SlotOpener, WrappingKey};
use crate::progress::ProgressReporter;
use crate::sandbox::SandboxError;
use crate::sandbox::vpc::CloudFactory;
use crate::sandbox::vpc::cloud::CloudError;
use crate::seal::{OpenError, SealError};
use crate::source::postgres::SourceError;
use crate::vault::{Vault, VaultError};
use crate::volumes::VolumeStores;

/// Everything a verb works with. A drill works with a copy in which something is broken.
#[derive(Clone)]
pub struct WorkContext {
    /// The configuration.
    pub config: Config,
    /// The vault.
    pub vault: Arc<dyn Vault>,
    /// Whether the vault is another than the configured one, and so perhaps a copy, whose evidence
    /// must not go on by itself.
    pub is_elsewhere: bool,
    /// Other vaults by name: copies of this one.
    pub replicas: BTreeMap<String, Arc<dyn Vault>>,
    /// Keys that wrap.
    pub keys: Vec<Arc<dyn WrappingKey>>,
    /// What opens the cloud of scratch VPCs.
    pub clouds: Arc<dyn CloudFactory>,
    /// What opens places with volumes.
    pub volumes: Arc<dyn VolumeStores>,
    /// What may open, in the order in which it is tried.
    pub openers: Vec<Arc<dyn SlotOpener>>,
    /// What signs.
    pub signer: Arc<dyn Signer>,
    /// What is believed.
    pub trusted: TrustedKeys,
    /// The catalog, or why there is none: no verb fails for want of it.
    pub catalog: Result<Catalog, Arc<CatalogError>>,
    /// Where to tell what is happening.
    pub progress: ProgressReporter,
    /// Cancelled by Ctrl-C and SIGTERM.
    pub cancel: CancellationToken,
    /// The backups that this work reads, until it is over.
    pub reading: Arc<Mutex<Vec<fence::ReadLease>>>,
    /// Lists of chunks that are known to be right, by the SHA-256 of their objects: what is loaded
    /// is held against what was looked at before, whatever stands in the vault by then.
    pub lists: Arc<Mutex<BTreeMap<String, bytes::Bytes>>>,
}

impl WorkContext {
    /// The catalog, or a warning once it is needed and not there.
    #[must_use]
    pub fn catalog(&self) -> Option<&Catalog> {
        match &self.catalog {
            Ok(catalog) => Some(catalog),
            Err(error) => {
                tracing::warn!(
                    error = error.as_ref() as &dyn std::error::Error,
                    "going on without the catalog; `lifeboat catalog rebuild` makes a new one if its file is removed"
                );
                None
            }
        }
    }
}

/// Works until it is done or somebody presses Ctrl-C.
///
/// # Errors
/// [`WorkError::Interrupted`]
async fn cancellable<T>(rig: &WorkContext, work: impl Future<Output = T>) -> Result<T, WorkError> {
    tokio::select! {
        () = rig.cancel.cancelled() => Err(WorkError::Interrupted),
        done = work => Ok(done),
    }
}

/// Why a verb did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the variants carry their room's error and its name")]
pub enum WorkError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    NothingOpens(#[from] NoKeyOpens),
    /// A drill is over, and its report could not be written.
    #[error("the drill ended with {verdict}, and its report could not be written")]
    ReportNotWritten {
        /// The run.
        run: String,
        /// The verdict that it would have had.
        verdict: &'static str,
        /// Why not.
        #[source]
        source: Box<WorkError>,
    },
    #[error("reading datastore {datastore} failed")]
    Source {
        datastore: DatastoreName,
        #[source]
        source: SourceError,
    },
    #[error("taking volumes of datastore {datastore} failed")]
    Set {
        datastore: DatastoreName,
        #[source]
        source: snapshot::SetError,
    },
    #[error("bringing volumes of datastore {datastore} back failed")]
    Volumes {
        datastore: DatastoreName,
        #[source]
        source: snapshot::SetError,
    },
    #[error("sealing payload {payload} failed")]
    Seal {
        payload: String,
        #[source]
        source: SealError,
    },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("{what} is not signed by a trusted key")]
    NotSigned { what: String },
    #[error("{what} is damaged: {why}")]
    Damaged { what: String, why: String },
    #[error("there is no backup {wanted}{}", datastore.as_ref().map(|name| format!(" of datastore {name}")).unwrap_or_default())]
    NoSuchBackup { datastore: Option<String>, wanted: String },
    #[error("no datastore {name} is configured or in the vault{}", suggestion.as_ref().map(|s| format!("; did you mean {s}?")).unwrap_or_default())]
    NoSuchDatastore { name: String, suggestion: Option<String> },
    #[error("{what} is already running for datastore {datastore}")]
    AlreadyRunning { what: &'static str, datastore: DatastoreName },
    #[error(
        "datastore {datastore} has been taken over by another run: this one was not heard of for too long; nothing was published"
    )]
    TakenOver { datastore: DatastoreName },
    #[error("drill {drill} is running already on this host")]
    DrillRunning { drill: String },
    #[error("there is no vault at {address}: its vault.json is missing")]
    NoVault { address: String },
    #[error("{what}: {why}")]
    Refused { what: String, why: String, hint: String },
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("{0}")]
    CheckFailed(String),
    #[error("{0}")]
    NotVerified(String),
    #[error("{0}")]
    Leftovers(String),
    #[error("{done}, and not everything: {}", refused.join("; "))]
    NotAll { done: &'static str, refused: Vec<String> },
    #[error("this key does not open the newest backup of {datastores}")]
    KeyFails { datastores: String },
    #[error("nobody could be told: {0}")]
    NotTold(String),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error("there is no drill {name}: {} is not there{}", file.display(), suggestion.as_ref().map(|s| format!("; did you mean {s}?")).unwrap_or_default())]
    NoSuchDrill { name: String, file: PathBuf, suggestion: Option<String> },
    #[error("the evidence series has {count} flaws", count = .0.len())]
    Flawed(Vec<SeriesFlaw>),
    #[error("{count} backups are gone from the vault", count = .0.len())]
    Gone(Vec<String>),
    #[error(transparent)]
    Cloud(#[from] CloudError),
    #[error("{what} failed")]
    File {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("interrupted")]
    Interrupted,
    #[error("this is a defect in lifeboat: {0}")]
    Bug(String),
}

impl WorkError {
    /// The error and its causes.
    #[must_use]
    pub fn in_one_line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(source) = cause {
            line = format!("{line}: {source}");
            cause = source.source();
        }
        line
    }

    /// Whether it says of a backup that its stored bytes are not what they were.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self.class(), ErrorClass::Integrity | ErrorClass::CheckFailed)
    }

    /// Class of the error, which decides the exit code.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Config(_)
            | Self::NoSuchDatastore { .. }
            | Self::NoVault { .. }
            | Self::Refused { .. }
            | Self::NoSuchDrill { .. } => ErrorClass::Usage,
            Self::Vault(error) => error.class(),
            Self::Key(error) => error.class(),
            Self::NothingOpens(error) => error.class(),
            Self::ReportNotWritten { source, .. } => source.class(),
            Self::Source { source, .. } => source.class(),
            Self::Set { source, .. } => source.class(),
            Self::Volumes { source, .. } => match source.class() {
                ErrorClass::SourceFailed => ErrorClass::RestoreFailed,
                other => other,
            },
            Self::Seal {
                source: SealError::Refused(_) | SealError::SourceEndedBadly | SealError::Read(_),
                ..
            } => ErrorClass::SourceFailed,
            Self::Seal { .. } | Self::Bug(_) => ErrorClass::Bug,
            Self::Open(OpenError::Fetch { .. })
            | Self::Catalog(_)
            | Self::File { .. }
            | Self::NotTold(_) => ErrorClass::Unavailable,
            Self::Open(_)
            | Self::Manifest(_)
            | Self::Envelope(_)
            | Self::Document(_)
            | Self::NotSigned { .. }
            | Self::Damaged { .. } => ErrorClass::Integrity,
            Self::NotAll { .. } => ErrorClass::Integrity,
            Self::KeyFails { .. } => ErrorClass::KeyRefused,
            Self::NoSuchBackup { .. } => ErrorClass::NoSuchBackup,
            Self::AlreadyRunning { .. } | Self::TakenOver { .. } | Self::DrillRunning { .. } => {
                ErrorClass::AlreadyRunning
            }
            Self::Target(error) => error.class(),
            Self::CheckFailed(_) => ErrorClass::CheckFailed,
            Self::NotVerified(_) | Self::Sandbox(_) => ErrorClass::NotVerified,
            Self::Evidence(error) => error.class(),
            Self::Flawed(_) | Self::Gone(_) => ErrorClass::Integrity,
            Self::Leftovers(_) => ErrorClass::Leftovers,
            Self::Cloud(CloudError::Unusable(_) | CloudError::Refused { .. }) => ErrorClass::Usage,
            Self::Cloud(CloudError::Nonsense { .. }) => ErrorClass::Bug,
            Self::Cloud(_) => ErrorClass::Unavailable,
            Self::Interrupted => ErrorClass::Interrupted,
        }
    }

    /// What to do next, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Source { source, .. } => source.hint(),
            Self::Set { source, .. } | Self::Volumes { source, .. } => source.hint(),
            Self::Target(error) => error.hint(),
            Self::NoVault { .. } => Some("if there was one, check the address in lifeboat.toml; where it is lost, a copy is restored from with --vault; `lifeboat init` makes a new one".to_owned()),
            Self::Refused { hint, .. } => Some(hint.clone()),
            Self::Sandbox(SandboxError::Tools(error)) => Some(error.hint()),
            Self::Sandbox(_) => Some("nothing is known about the backup; run the drill again when the sandbox can be raised".to_owned()),
            Self::Gone(_) => Some("find out who removed them: the bucket's versions, its access log; a copy of the vault may have them".to_owned()),
            Self::Flawed(_) => Some("compare with a copy of the vault or with what the auditor has; a flaw that nobody can explain is an incident".to_owned()),
            Self::NoSuchDrill { .. } => Some("drills are files in drills/ beside lifeboat.toml; `lifeboat drill list` shows them".to_owned()),
            Self::NoSuchBackup { datastore: Some(datastore), .. } => Some(format!("`lifeboat list {datastore}` shows what there is")),
            Self::NoSuchBackup { datastore: None, .. } => Some("`lifeboat list` shows what there is".to_owned()),
            Self::AlreadyRunning { .. } | Self::DrillRunning { .. } => Some("wait for it to end; nothing was changed".to_owned()),
            Self::TakenOver { .. } => Some("nothing: the other run does what this one would have done; `lifeboat status` shows it".to_owned()),
            Self::ReportNotWritten { run, .. } => Some(format!("everything was taken down; when the vault can be written again, `lifeboat drill abort {run}` writes a report that says so")),
            Self::NothingOpens(_) => Some("any one key slot is enough: give a recovery key with --identity FILE, or see RESTORE.md beside the backup".to_owned()),
            Self::NotSigned { .. } => Some("either it was not written by your lifeboat, or the key that signed it is not in trust = [\"…\"]; do not restore it before you know which".to_owned()),
            Self::Config(ConfigError::Unreadable { .. }) => Some("name it with --config or LIFEBOAT_CONFIG; a restore without any configuration names its vault: lifeboat restore DATASTORE --vault ADDRESS".to_owned()),
            Self::Open(OpenError::Fetch { .. }) => Some("run the same command again".to_owned()),
            Self::Open(_) | Self::Damaged { .. } => Some("restore another backup (`lifeboat list`), and find out what happened to this one (`lifeboat verify --all`)".to_owned()),
            Self::Vault(VaultError::Frozen { .. }) => Some("`lifeboat thaw BACKUP --confirm` asks for it, `lifeboat thaw wait BACKUP` waits; a restore does both by itself".to_owned()),
            Self::Vault(VaultError::Unknown { .. } | VaultError::Unavailable { .. }) => Some("run the command again; `lifeboat list` tells whether a backup was published".to_owned()),
            Self::Catalog(error) => Some(error.hint().to_owned()),
            Self::NotAll { .. } => Some("the rest is done; find out what happened to these (`lifeboat verify BACKUP`)".to_owned()),
            Self::KeyFails { .. } => Some("is its public half in [keys] of lifeboat.toml? Then `lifeboat rekey` gives it to the backups that are there already".to_owned()),
            Self::Leftovers(_) => Some("`lifeboat sweep --confirm` removes them".to_owned()),
            _ => None,
        }
    }
}

/// A lock on a datastore for runs of this host; given back when dropped, and by the kernel when the
/// process dies.
#[derive(Debug)]
pub struct HostLock {
    _file: std::fs::File,
}

impl HostLock {
    /// Takes the lock of a datastore, without waiting.
    ///
    /// # Errors
    /// [`WorkError::AlreadyRunning`] if another process holds it.
    pub fn take(
        config: &Config,
        datastore: &DatastoreName,
        what: &'static str,
    ) -> Result<Self, WorkError> {
        Self::acquire_named(config, datastore.as_str(), what)?
            .ok_or_else(|| WorkError::AlreadyRunning { what, datastore: datastore.clone() })
    }

    /// Takes a lock by name, without waiting; `None` if another process holds it.
    ///
    /// # Errors
    /// [`WorkError::File`] if it cannot be had at all.
    pub fn acquire_named(
        config: &Config,
        name: &str,
        what: &'static str,
    ) -> Result<Option<Self>, WorkError> {
        Self::flock(config, name, what, rustix::fs::FlockOperation::NonBlockingLockExclusive)
    }

    fn flock(
        config: &Config,
        name: &str,
        what: &'static str,
        operation: rustix::fs::FlockOperation,
    ) -> Result<Option<Self>, WorkError> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};

        use rustix::fs::OFlags;

        let directory = Self::directory(config);
        let fail = |source| WorkError::File {
            what: format!("locking in {} for {what}", directory.display()),
            source,
        };
        // Whoever may open a lock may hold it, and keep every run from beginning.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(fail)?;
        // One of an earlier version that is this user's: nobody else may write to it. What is
        // opened is what is changed, and never what a link in its place leads to.
        let no_link =
            i32::try_from((OFlags::NOFOLLOW | OFlags::DIRECTORY).bits()).unwrap_or_default();
        if let Ok(opened) =
            std::fs::OpenOptions::new().read(true).custom_flags(no_link).open(&directory)
        {
            let facts = opened.metadata().map_err(fail)?;
            if facts.uid() == rustix::process::geteuid().as_raw() && facts.mode() & 0o022 != 0 {
                opened.set_permissions(std::fs::Permissions::from_mode(0o700)).map_err(fail)?;
            }
        }
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default())
            .open(directory.join(format!("{name}.lock")))
            .map_err(fail)?;
        // Those of earlier versions were readable, and the owner alone may change that.
        let _ = file.set_permissions(std::fs::Permissions::from_mode(0o600));
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(fail(error.into())),
        }
    }

    /// Name of the lock of those who read a backup.
    #[must_use]
    pub fn reading(backup: &BackupId) -> String {
        format!("reading-{backup}")
    }

    /// Shares a lock by name with others who share it, waiting for nobody; `None` if somebody has
    /// it alone.
    ///
    /// # Errors
    /// [`WorkError::File`] if it cannot be had at all.
    pub fn share(
        config: &Config,
        name: &str,
        what: &'static str,
    ) -> Result<Option<Self>, WorkError> {
        Self::flock(config, name, what, rustix::fs::FlockOperation::NonBlockingLockShared)
    }

    fn directory(config: &Config) -> PathBuf {
        config.catalog.file.with_extension("locks")
    }
}

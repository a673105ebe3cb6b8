//! Fencing tokens: a run writes its lease epoch to the vault with a conditional put; a later epoch
//! supersedes an earlier one.
//!
//! A lease ends by a clock, and a host that was suspended does not know what time it is. So each
//! holder writes its epoch before it begins, and checks for a later one before it writes its
//! manifest. It may still be suspended between that check and the manifest: then two manifests
//! answer one tick, and readers take the one with the higher epoch ([`crate::domain::selector`]).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{HostLock, WorkContext, WorkError, evidence, shelf};
use crate::catalog::ticks::READING;
use crate::catalog::{Catalog, CatalogError};
use crate::domain::VaultDocument;
use crate::domain::document::{EPOCH_FORMAT, EpochClaim};
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::job::subject_of;
use crate::domain::layout;
use crate::vault::{VaultError, fetch};

/// Leases that are being given back in this process.
static RELEASING: AtomicUsize = AtomicUsize::new(0);
/// How long giving one back may take.
const RELEASE_MAX: Duration = Duration::from_secs(2);
/// How long one renewal may take.
const RENEWAL_MAX: Duration = Duration::from_secs(10);
/// How often a number is tried that others have taken.
const RACES_MAX: usize = 20;

/// By what right a run publishes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FencingToken {
    /// The scheduled time it answers to; none by hand.
    pub tick: Option<Timestamp>,
    /// Epoch of its lease; 0 where hosts share nothing.
    pub epoch: u64,
    /// Whether somebody has said that the server is another one than before.
    pub another_cluster: bool,
}

impl FencingToken {
    /// Makes the claim in the vault. A catalog that was lost counts from the beginning again; then
    /// the vault knows better, and the lease gets the number behind the vault's.
    ///
    /// # Errors
    /// [`WorkError::TakenOver`] if somebody else holds the datastore by now.
    pub async fn claim(
        self,
        rig: &WorkContext,
        datastore: &DatastoreName,
    ) -> Result<Self, WorkError> {
        if self.epoch == 0 {
            return Ok(self);
        }
        // Nothing is written where the vault is not: its disk may not be mounted.
        shelf::vault_to_write(rig).await?;
        let mut epoch = self.epoch;
        for _ in 0..RACES_MAX {
            let claim = VaultDocument::epoch(&EpochClaim::new(
                datastore.clone(),
                epoch,
                self.tick,
                evidence::actor(),
                rand::random(),
            ));
            let key = layout::epoch(datastore, epoch);
            let signature = VaultDocument::signature(rig.signer.sign(claim.bytes()).await?);
            let put = match rig.vault.put(&key.signature(), signature).await {
                Ok(()) => rig.vault.put(&key, claim).await,
                Err(error) => Err(error),
            };
            match put {
                Ok(()) if claims(rig, datastore).await?.highest <= epoch => {
                    return Ok(Self { epoch, ..self });
                }
                // Lower numbers may have been swept: that this one was free says nothing.
                Ok(()) | Err(VaultError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let claims = claims(rig, datastore).await?;
            let next = claims
                .free_behind(claims.highest.max(epoch))
                .ok_or_else(|| taken_over(datastore))?;
            let catalog = rig.catalog.as_ref().map_err(|_| taken_over(datastore))?;
            if !catalog.raise_epoch(&subject_of(datastore), epoch, next).await? {
                return Err(taken_over(datastore));
            }
            epoch = next;
        }
        Err(taken_over(datastore))
    }

    /// Whether nobody has claimed a later epoch, in the vault or in the catalog: hosts of earlier
    /// versions do not sign what they claim.
    ///
    /// # Errors
    /// [`WorkError::TakenOver`] if somebody has.
    pub async fn holds(
        self,
        rig: &WorkContext,
        datastore: &DatastoreName,
    ) -> Result<(), WorkError> {
        if self.epoch == 0 {
            return Ok(());
        }
        let highest =
            claims(rig, datastore).await?.highest.max(known_to_catalog(rig, datastore).await);
        if highest > self.epoch { Err(taken_over(datastore)) } else { Ok(()) }
    }

    /// The backup that an earlier attempt at the same tick has published, if one has.
    ///
    /// # Errors
    /// [`WorkError`] if the vault cannot be read.
    pub async fn answered(
        self,
        rig: &WorkContext,
        datastore: &DatastoreName,
    ) -> Result<Option<String>, WorkError> {
        let Some(tick) = self.tick else { return Ok(None) };
        let vault = shelf::vault_id(rig).await?;
        let listed = rig.vault.list(&layout::manifests_of(datastore)).await?;
        for facts in listed.into_iter().rev() {
            let Some((_, backup)) = layout::parse_manifest_key(facts.key.as_str()) else {
                continue;
            };
            // Names begin with the time at which a run began; hosts' clocks differ a little.
            if backup.begun() < tick - jiff::SignedDuration::from_hours(1) {
                break;
            }
            let place = layout::BackupKeys { datastore, backup: &backup };
            if let Ok(believed) = shelf::load_manifest(rig, &vault, &place).await
                && believed.manifest.tick == Some(tick)
            {
                return Ok(Some(backup.to_string()));
            }
        }
        Ok(None)
    }
}

fn taken_over(datastore: &DatastoreName) -> WorkError {
    WorkError::TakenOver { datastore: datastore.clone() }
}

/// Claims of a datastore.
struct LeaseClaims {
    /// The highest that a trusted key has signed.
    highest: u64,
    /// Numbers under which anything stands, whoever put it there.
    taken: BTreeSet<u64>,
}

impl LeaseClaims {
    /// The first number behind one under which nothing stands.
    fn free_behind(&self, number: u64) -> Option<u64> {
        (number.checked_add(1)?..=layout::EPOCH_MAX).find(|number| !self.taken.contains(number))
    }
}

/// The highest claim of a datastore that a trusted key has signed; 0 if there is none.
///
/// # Errors
/// [`WorkError`] if the vault does not answer.
pub async fn highest_claim(rig: &WorkContext, datastore: &DatastoreName) -> Result<u64, WorkError> {
    Ok(claims(rig, datastore).await?.highest)
}

/// Looks at the claims. Anybody may write a number; only those that a trusted key has signed end
/// anybody's right.
async fn claims(rig: &WorkContext, datastore: &DatastoreName) -> Result<LeaseClaims, WorkError> {
    let listed = rig.vault.list(&layout::epochs_of(datastore)).await?;
    let taken: BTreeSet<u64> = listed
        .iter()
        .filter_map(|facts| layout::parse_epoch_key(datastore, facts.key.as_str()))
        .collect();
    let mut highest = 0;
    for epoch in taken.iter().rev() {
        if is_genuine(rig, datastore, *epoch).await? {
            highest = *epoch;
            break;
        }
    }
    Ok(LeaseClaims { highest, taken })
}

/// The epoch of a datastore in the catalog; 0 where there is none.
async fn known_to_catalog(rig: &WorkContext, datastore: &DatastoreName) -> u64 {
    match &rig.catalog {
        Ok(catalog) => catalog.epoch_of(&subject_of(datastore)).await.unwrap_or_default(),
        Err(_) => 0,
    }
}

async fn is_genuine(
    rig: &WorkContext,
    datastore: &DatastoreName,
    epoch: u64,
) -> Result<bool, WorkError> {
    let key = layout::epoch(datastore, epoch);
    let bytes = match fetch::document(rig.vault.as_ref(), &key).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(false),
        // A role that may not read what others wrote cannot tell. It gives way to a claim that the
        // shared catalog knows, and to no other.
        Err(VaultError::Refused { .. } | VaultError::KeyRefused { .. }) => {
            return Ok(epoch <= known_to_catalog(rig, datastore).await);
        }
        Err(error) if shelf::is_outage(&error) => return Err(error.into()),
        Err(_) => return Ok(false),
    };
    match shelf::verify_signature(rig, &key, &bytes, "the claim").await {
        Ok(_) => {}
        Err(WorkError::Vault(error)) if shelf::is_outage(&error) => return Err(error.into()),
        Err(_) => return Ok(false),
    }
    let claim = serde_json::from_slice::<EpochClaim>(&bytes);
    Ok(claim.is_ok_and(|claim| {
        claim.format == EPOCH_FORMAT && claim.epoch == epoch && claim.datastore == *datastore
    }))
}

/// A datastore that is held for a run by hand, where other hosts could begin one.
pub struct HeldDatastore {
    /// By what right the run publishes.
    pub mandate: FencingToken,
    _lease: Option<SubjectLease>,
}

/// A subject that is held as long as this lives. Given back when dropped, or when its time ends.
pub struct SubjectLease {
    catalog: Catalog,
    subject: String,
    epoch: u64,
    renewing: JoinHandle<()>,
}

impl SubjectLease {
    /// Goes on holding a subject that was taken under an epoch. `lost` is cancelled if somebody
    /// else has taken it.
    #[must_use]
    pub fn of(
        catalog: &Catalog,
        subject: String,
        epoch: u64,
        length: Duration,
        lost: CancellationToken,
    ) -> Self {
        let renewing = renew(catalog.clone(), subject.clone(), epoch, length, lost);
        Self { catalog: catalog.clone(), subject, epoch, renewing }
    }
}

impl Drop for SubjectLease {
    fn drop(&mut self) {
        self.renewing.abort();
        // What cannot be said now the end of the lease says later.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (catalog, subject, epoch) =
                (self.catalog.clone(), self.subject.clone(), self.epoch);
            RELEASING.fetch_add(1, Ordering::SeqCst);
            runtime.spawn(async move {
                let _ = tokio::time::timeout(RELEASE_MAX, catalog.release(&subject, epoch)).await;
                RELEASING.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }
}

/// Waits until everything that was dropped has been given back: a process that ends at once would
/// leave it held until its time ends.
pub async fn wait_for_lease_releases() {
    while RELEASING.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl HeldDatastore {
    /// Takes a datastore, where the catalog is shared. `lost` is cancelled if somebody else has
    /// taken it.
    ///
    /// # Errors
    /// [`WorkError::AlreadyRunning`] if somebody holds it.
    pub async fn take(
        rig: &WorkContext,
        datastore: &DatastoreName,
        lost: &CancellationToken,
    ) -> Result<Self, WorkError> {
        let Some(catalog) = rig.catalog().filter(|catalog| catalog.is_shared()) else {
            return Ok(Self { mandate: FencingToken::default(), _lease: None });
        };
        let (subject, length) = (subject_of(datastore), rig.config.serve.lease.duration());
        let held = catalog.hold(&rig.config.serve.host, &subject, length).await?;
        let Some(epoch) = held else {
            return Err(WorkError::AlreadyRunning { what: "a run", datastore: datastore.clone() });
        };
        let claimed =
            FencingToken { tick: None, epoch, another_cluster: false }.claim(rig, datastore).await;
        if claimed.is_err() {
            let _ = tokio::time::timeout(RELEASE_MAX, catalog.release(&subject, epoch)).await;
        }
        let mandate = claimed?;
        let lease = SubjectLease::of(catalog, subject, mandate.epoch, length, lost.clone());
        Ok(Self { mandate, _lease: Some(lease) })
    }
}

/// A backup that is being read: retention leaves it alone, on this host by a lock, on others by a
/// lease where they share a catalog.
#[derive(Default)]
pub struct ReadLease {
    _lock: Option<HostLock>,
    _lease: Option<SubjectLease>,
}

impl ReadLease {
    /// Begins to read. Who may neither lock nor reach the catalog may still restore.
    ///
    /// # Errors
    /// [`WorkError::Refused`] if retention is removing it at this moment.
    pub async fn begin(rig: &WorkContext, backup: &BackupId) -> Result<Self, WorkError> {
        let lock = match HostLock::share(&rig.config, &HostLock::reading(backup), "reading") {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => {
                return Err(WorkError::Refused {
                    what: format!("backup {backup}"),
                    why: "retention is removing it at this moment".to_owned(),
                    hint: "`lifeboat list` shows the others".to_owned(),
                });
            }
            Err(error) => {
                tracing::info!(error = &error as &dyn std::error::Error, "reading without a lock");
                None
            }
        };
        let Some(catalog) = rig.catalog().filter(|catalog| catalog.is_shared()) else {
            return Ok(Self { _lock: lock, _lease: None });
        };
        let subject = format!("{READING}{backup}/{}", hex::encode(rand::random::<[u8; 4]>()));
        let length = rig.config.serve.lease.duration();
        let lease = match catalog.hold(&rig.config.serve.host, &subject, length).await {
            Ok(epoch) => epoch.map(|epoch| {
                SubjectLease::of(catalog, subject, epoch, length, CancellationToken::new())
            }),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "other hosts do not know that this backup is being read"
                );
                None
            }
        };
        Ok(Self { _lock: lock, _lease: lease })
    }
}

/// Renews a lease until the task is aborted; cancels `lost` if it has become somebody else's. A
/// catalog that does not answer is no reason to stop: whoever takes over claims a later epoch in
/// the vault.
#[must_use]
pub fn renew(
    catalog: Catalog,
    subject: String,
    epoch: u64,
    lease: Duration,
    lost: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut wait = lease / 3;
        loop {
            tokio::time::sleep(wait).await;
            wait = lease / 3;
            let renewed =
                tokio::time::timeout(RENEWAL_MAX, catalog.renew(&subject, epoch, lease)).await;
            match renewed.unwrap_or_else(|_| Err(CatalogError::Silent)) {
                Ok(true) => {}
                Ok(false) => return lost.cancel(),
                Err(error) => {
                    tracing::warn!(%subject, error = &error as &dyn std::error::Error, "the lease could not be renewed; going on");
                    // As soon as it answers again, before somebody takes over.
                    wait = Duration::from_secs(1);
                }
            }
        }
    })
}

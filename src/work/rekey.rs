//! Key rotation: every backup gets the key slots that the configuration asks for; payloads are not
//! touched.
//!
//! For each backup a new numbered envelope is written: matching slots are carried over, missing
//! ones are created, those of keys that are no longer configured are left out. Order: slots,
//! `RESTORE-000n.md`, signature, envelope; so an interrupted rotation leaves files that nobody
//! reads, and the next one takes the next number. Then it is proven that backups still open, with
//! each key alone. Only then are files of retired slots removed, unless they are locked: until they
//! are gone, the old key still opens those backups, and the output says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde::Serialize;

use super::shelf::{self, GuideError, LoadedEnvelopes};
use super::{WorkContext, WorkError, guide};
use crate::domain::ErrorClass;
use crate::domain::VaultDocument;
use crate::domain::envelope::{Envelope, Slot};
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::layout::ObjectKey;
use crate::domain::manifest::{Manifest, Payload, PayloadRole};
use crate::keyring::openers;
use crate::seal::BackupIdentity;
use crate::vault::{ObjectFacts, VaultError, fetch};

/// Backups looked at at once.
const LOOKS_MAX: usize = 8;
/// Numbers of envelopes that are tried for one backup.
const NUMBERS_TRIED: usize = 20;
/// Backups of the middle that are opened to prove the rotation.
const SAMPLE: usize = 3;

/// What is to be done with one backup.
#[derive(Debug, Serialize)]
pub struct EnvelopeChange {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// Names of keys whose slots are made.
    pub add: Vec<String>,
    /// Names of slots that the new envelope leaves out.
    pub retire: Vec<String>,
    /// Whether its `RESTORE.md` is missing or not signed, and is written anew.
    pub guide: bool,
    #[serde(skip)]
    keep: Vec<Slot>,
    #[serde(skip)]
    manifest: Manifest,
}

/// A slot that no current envelope lists, and whose file still opens a backup.
#[derive(Debug, Serialize)]
pub struct RetiredSlot {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// The slot's name.
    pub slot: String,
    /// Until when its file is locked.
    pub locked_until: Option<Timestamp>,
    #[serde(skip)]
    facts: ObjectFacts,
}

/// What rotation would do.
#[derive(Debug, Default, Serialize)]
pub struct RekeyPlan {
    /// Backups that get a new envelope.
    pub changes: Vec<EnvelopeChange>,
    /// Slots that were retired earlier and still open a backup.
    pub retired: Vec<RetiredSlot>,
    /// Backups that are as they should be.
    pub unchanged: usize,
    /// Backups that are left alone, and why.
    pub refused: Vec<String>,
    #[serde(skip)]
    all: Vec<Manifest>,
}

/// Looks at every backup, of one datastore or of all.
///
/// # Errors
/// [`WorkError`] if the vault cannot be read, or no key is pinned.
pub async fn plan(
    rig: &WorkContext,
    datastore: Option<&DatastoreName>,
) -> Result<RekeyPlan, WorkError> {
    if rig.trusted.is_empty() {
        return Err(WorkError::NotVerified(
            "no signing key is pinned, so nobody can tell which envelopes are genuine".to_owned(),
        ));
    }
    if let Some(datastore) = datastore {
        shelf::ensure_known(rig, datastore).await?;
    }
    let entries = shelf::list_entries(rig, datastore).await?;
    let mut plan = RekeyPlan::default();
    let looked = entries.into_iter().map(|entry| async move {
        let believed = match entry.manifest {
            Ok(believed) => believed,
            Err(error) => {
                return Ok(Err(format!("backup {} of {}: {error}", entry.backup, entry.datastore)));
            }
        };
        match shelf::load_envelopes(rig, &believed.manifest).await {
            Ok(envelopes) => {
                let change = change(rig, &believed.manifest, &envelopes).await?;
                let retired = retired(rig, &believed.manifest, &envelopes).await?;
                Ok(Ok((believed.manifest, change, retired)))
            }
            Err(WorkError::Vault(error)) if error.class().is_retryable() => {
                Err(WorkError::Vault(error))
            }
            Err(error) => {
                Ok(Err(format!("backup {} of {}: {error}", entry.backup, entry.datastore)))
            }
        }
    });
    let looked: Vec<Result<_, String>> =
        futures::stream::iter(looked).buffered(LOOKS_MAX).try_collect().await?;
    for one in looked {
        match one {
            Err(why) => plan.refused.push(why),
            Ok((manifest, change, retired)) => {
                plan.unchanged += usize::from(change.is_none());
                plan.changes.extend(change);
                plan.retired.extend(retired);
                plan.all.push(manifest);
            }
        }
    }
    Ok(plan)
}

/// What the newest envelope lacks or has too much. One whose guide is not signed is written anew:
/// that guide is for nobody to run.
async fn change(
    rig: &WorkContext,
    manifest: &Manifest,
    envelopes: &LoadedEnvelopes,
) -> Result<Option<EnvelopeChange>, WorkError> {
    let Some((current, whole)) = envelopes.believed.first() else { return Ok(None) };
    let guide = match shelf::load_guide(rig, manifest, current.number).await {
        Ok(_) => false,
        Err(GuideError::Vault(error)) => return Err(error.into()),
        Err(GuideError::Unsigned(_) | GuideError::Damaged { .. }) => true,
    };
    // A slot whose file is damaged is made anew.
    let is_whole = |slot: &Slot| whole.iter().any(|bytes| bytes.slot == *slot);
    let fits = |slot: &&Slot| {
        rig.keys.iter().any(|key| key.name() == slot.name && key.opens_with() == slot.opens_with)
            && is_whole(slot)
    };
    let keep: Vec<Slot> = current.slots.iter().filter(fits).cloned().collect();
    let add: Vec<String> = rig
        .keys
        .iter()
        .map(|key| key.name().to_owned())
        .filter(|name| !keep.iter().any(|slot| slot.name == *name))
        .collect();
    let retire: Vec<String> = current
        .slots
        .iter()
        .filter(|slot| !keep.contains(slot))
        .map(|slot| slot.name.clone())
        .collect();
    Ok((guide || !add.is_empty() || !retire.is_empty()).then(|| EnvelopeChange {
        datastore: manifest.datastore.clone(),
        backup: manifest.backup.clone(),
        add,
        retire,
        guide,
        keep,
        manifest: manifest.clone(),
    }))
}

/// Slots of older envelopes that the newest does not list, as far as their files are there.
async fn retired(
    rig: &WorkContext,
    manifest: &Manifest,
    envelopes: &LoadedEnvelopes,
) -> Result<Vec<RetiredSlot>, WorkError> {
    let Some((current, _)) = envelopes.believed.first() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    let mut seen: BTreeSet<ObjectKey> =
        current.slots.iter().map(|slot| slot.file.clone()).collect();
    for slot in envelopes.believed.iter().skip(1).flat_map(|(envelope, _)| &envelope.slots) {
        if !seen.insert(slot.file.clone()) {
            continue;
        }
        if let Some(facts) = rig.vault.find(&slot.file).await? {
            let (datastore, backup) = (manifest.datastore.clone(), manifest.backup.clone());
            found.push(RetiredSlot {
                datastore,
                backup,
                slot: slot.name.clone(),
                locked_until: facts.locked_until,
                facts,
            });
        }
    }
    Ok(found)
}

/// How a rotation is paced.
#[derive(Debug, Clone, Copy)]
pub struct RekeyPace {
    /// Backups that are changed at most; the rest is for the next run.
    pub backups_max: usize,
    /// Backups each second.
    pub per_second: u32,
}

/// What a rotation did.
#[derive(Debug, Default, Serialize)]
pub struct RekeyReport {
    /// Backups that have a new envelope.
    pub changed: usize,
    /// Backups that are left for the next run.
    pub left: usize,
    /// For each key that can open here, by name: how many of the backups that were tried it opened
    /// alone.
    pub opens: BTreeMap<String, usize>,
    /// Backups that were tried: the oldest, the newest, and some between.
    pub tried: Vec<BackupId>,
    /// Files of retired slots that were removed.
    pub removed: usize,
    /// Retired slots that still open backups.
    pub still_open: Vec<RetiredSlot>,
    /// Backups that could not be given a new envelope, and why.
    pub refused: Vec<String>,
}

impl RekeyPlan {
    /// Writes the envelopes, proves that backups open, and removes what is retired.
    ///
    /// # Errors
    /// [`WorkError`]; what was changed by then is whole, and the next run goes on.
    pub async fn apply(self, rig: &WorkContext, pace: RekeyPace) -> Result<RekeyReport, WorkError> {
        let mut report = RekeyReport::default();
        shelf::vault_to_write(rig).await?;
        let stage = rig.progress.begin("rekey", None);
        let pause = Duration::from_secs(1) / pace.per_second.max(1);
        let wanted = self.changes.len();
        let mut refused = BTreeSet::new();
        for change in self.changes.iter().take(pace.backups_max) {
            if rig.cancel.is_cancelled() {
                return Err(WorkError::Interrupted);
            }
            match rotate(rig, change).await {
                Ok(()) => report.changed += 1,
                // One that is damaged, or that no key opens, is no reason to go without the others.
                Err(error)
                    if matches!(error.class(), ErrorClass::Integrity | ErrorClass::KeyRefused) =>
                {
                    report.refused.push(format!(
                        "backup {} of {}: {}",
                        change.backup,
                        change.datastore,
                        error.in_one_line()
                    ));
                    refused.insert(change.backup.clone());
                    continue;
                }
                Err(error) => return Err(error),
            }
            stage.item(Some(format!("{} of {wanted}", report.changed)));
            tokio::time::sleep(pause).await;
        }
        stage.end();
        report.left = wanted - report.changed - refused.len();
        self.prove(rig, &refused, &mut report).await?;
        if report.left == 0 && refused.is_empty() {
            self.remove(rig, &mut report).await?;
        }
        Ok(report)
    }

    /// Opens the oldest, the newest and some others with every key alone, through their newest
    /// envelope.
    async fn prove(
        &self,
        rig: &WorkContext,
        refused: &BTreeSet<BackupId>,
        report: &mut RekeyReport,
    ) -> Result<(), WorkError> {
        use rand::seq::IndexedRandom;
        let mut order: Vec<&Manifest> =
            self.all.iter().filter(|manifest| !refused.contains(&manifest.backup)).collect();
        order.sort_by_key(|manifest| (&manifest.datastore, manifest.sequence));
        let of_each = order.chunk_by(|one, other| one.datastore == other.datastore);
        let mut tried: Vec<&Manifest> = of_each
            .flat_map(|series| series.first().into_iter().chain(series.last()))
            .copied()
            .collect();
        tried.extend(order.sample(&mut rand::rng(), SAMPLE).copied());
        tried.sort_by_key(|manifest| &manifest.backup);
        tried.dedup_by_key(|manifest| &manifest.backup);
        for manifest in &tried {
            let LoadedEnvelopes { believed, .. } = shelf::load_envelopes(rig, manifest).await?;
            let newest = &believed[..believed.len().min(1)];
            let mut opened = 0;
            for opener in &rig.openers {
                let alone = [Arc::clone(opener)];
                let Ok((identity, _)) =
                    openers::open(&shelf::context_of(manifest), newest, &alone).await
                else {
                    continue;
                };
                shelf::read_payload(rig, proof_of(manifest)?, &identity).await?;
                *report.opens.entry(opener.name().to_owned()).or_default() += 1;
                opened += 1;
            }
            if opened == 0 {
                return Err(WorkError::KeyFails {
                    datastores: format!("{} (backup {})", manifest.datastore, manifest.backup),
                });
            }
        }
        report.tried = tried.into_iter().map(|manifest| manifest.backup.clone()).collect();
        Ok(())
    }

    /// Removes files of retired slots whose backups have a newer envelope, as far as nothing locks
    /// them.
    async fn remove(&self, rig: &WorkContext, report: &mut RekeyReport) -> Result<(), WorkError> {
        for manifest in &self.all {
            let envelopes = shelf::load_envelopes(rig, manifest).await?;
            let retired = retired(rig, manifest, &envelopes).await?;
            if retired.is_empty() {
                continue;
            }
            // Whatever else was proven: this very backup must have the slots that are configured,
            // and open without those that go.
            if change(rig, manifest, &envelopes).await?.is_some()
                || !opens_anew(rig, manifest, &envelopes).await?
            {
                report.still_open.extend(retired);
                continue;
            }
            for slot in retired {
                if slot.locked_until.is_some_and(|until| until > Timestamp::now()) {
                    report.still_open.push(slot);
                    continue;
                }
                match rig.vault.erase(&slot.facts).await {
                    Ok(()) => report.removed += 1,
                    // Who may rotate need not be allowed to delete.
                    Err(VaultError::Refused { .. }) => report.still_open.push(slot),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// The payload that is read to prove that a key opens a backup, of dumps and of sets alike: the
/// smallest of those that stand beside the envelope and are never frozen.
fn proof_of(manifest: &Manifest) -> Result<&Payload, WorkError> {
    let beside = |payload: &&Payload| {
        matches!(payload.role, PayloadRole::Fingerprint | PayloadRole::Plan | PayloadRole::Blocks)
    };
    manifest.payloads.iter().filter(beside).min_by_key(|payload| payload.plain_bytes).ok_or_else(
        || WorkError::Damaged {
            what: format!("the manifest of {}", manifest.backup),
            why: "it has no payload that says what is in it".to_owned(),
        },
    )
}

/// Whether a backup opens through its newest envelope alone, all of whose slots are there.
async fn opens_anew(
    rig: &WorkContext,
    manifest: &Manifest,
    envelopes: &LoadedEnvelopes,
) -> Result<bool, WorkError> {
    let Some((newest, whole)) = envelopes.believed.first() else { return Ok(false) };
    if whole.len() != newest.slots.len() {
        return Ok(false);
    }
    let Ok((identity, _)) =
        openers::open(&shelf::context_of(manifest), &envelopes.believed[..1], &rig.openers).await
    else {
        return Ok(false);
    };
    Ok(shelf::read_payload(rig, proof_of(manifest)?, &identity).await.is_ok())
}

/// Writes the next envelope of one backup. A name that is taken by something that no listing shows
/// is somebody else's, and so is its number.
async fn rotate(rig: &WorkContext, planned: &EnvelopeChange) -> Result<(), WorkError> {
    let mut behind = 0;
    for _ in 0..NUMBERS_TRIED {
        match rotate_behind(rig, planned, &mut behind).await {
            Err(WorkError::Vault(VaultError::Exists { key })) => {
                tracing::warn!(%key, number = behind, "this name is taken by something else; the next number is tried");
            }
            done => return done,
        }
    }
    Err(WorkError::Refused {
        what: format!("rotating backup {}", planned.manifest.backup),
        why: format!("{NUMBERS_TRIED} numbers of its envelopes in a row are taken"),
        hint: format!("find out who writes under {}", planned.manifest.place().meta_prefix()),
    })
}

async fn rotate_behind(
    rig: &WorkContext,
    planned: &EnvelopeChange,
    behind: &mut u32,
) -> Result<(), WorkError> {
    let manifest = &planned.manifest;
    let context = shelf::context_of(manifest);
    let envelopes = shelf::load_envelopes(rig, manifest).await?;
    // Somebody else may have rotated it since the plan was made: only what is so now counts.
    let Some(change) = change(rig, manifest, &envelopes).await? else { return Ok(()) };
    let (place, number) = (manifest.place(), envelopes.next.max(*behind + 1));
    *behind = number;
    if number > shelf::ENVELOPES_MAX {
        return Err(WorkError::Refused {
            what: format!("rotating backup {}", manifest.backup),
            why: format!("all {} numbers of its envelopes are taken", shelf::ENVELOPES_MAX),
            hint: format!("find out who writes under {}", place.meta_prefix()),
        });
    }
    let mut identity: Option<BackupIdentity> = None;
    let mut slots = change.keep.clone();
    for key in rig.keys.iter().filter(|key| change.add.iter().any(|name| name == key.name())) {
        let mut wrapped = None;
        // KMS wraps anew what KMS had wrapped, and nobody sees it.
        for old in envelopes.believed.iter().take(1).flat_map(|(_, slots)| slots) {
            match key.rewrap(&old.slot, &old.bytes, &context).await {
                Ok(Some(done)) => wrapped = Some(done),
                Ok(None) => {}
                Err(error) => tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "the identity is opened here instead"
                ),
            }
        }
        let wrapped = match (wrapped, &identity) {
            (Some(wrapped), _) => wrapped,
            (None, Some(identity)) => key.wrap(identity, &context).await?,
            (None, None) => {
                key.wrap(
                    identity.insert(
                        openers::open(&context, &envelopes.believed, &rig.openers).await?.0,
                    ),
                    &context,
                )
                .await?
            }
        };
        let slot = Slot {
            name: key.name().to_owned(),
            opens_with: key.opens_with(),
            file: place.slot(number, key.name(), key.extension()),
            sha256: shelf::sha256(wrapped.bytes()),
        };
        rig.vault.put(&slot.file, VaultDocument::slot(&wrapped)).await?;
        slots.push(slot);
    }
    // In the order of the configuration, as a new backup would have them.
    slots.sort_by_key(|slot| rig.keys.iter().position(|key| key.name() == slot.name));
    let envelope = VaultDocument::envelope(&Envelope::numbered(&context, number, slots.clone()));
    let signature = rig.signer.sign(envelope.bytes()).await?;
    let public = rig
        .trusted
        .signer_at(envelope.bytes(), &signature, jiff::Timestamp::now())
        .map_err(|why| WorkError::Refused {
            what: format!("the signing key {}", rig.signer.name()),
            why: format!("what it signs would not be believed: {why}"),
            hint: "name another in [signing] in lifeboat.toml, and add its public half to trust"
                .to_owned(),
        })?;
    let bytes = fetch::document(rig.vault.as_ref(), &place.manifest()).await?.unwrap_or_default();
    let guide = VaultDocument::restore_guide(guide::restore_guide(
        manifest,
        number,
        &slots,
        rig.vault.as_ref(),
        public,
        &shelf::sha256(&bytes),
    ));
    let key = place.restore_guide(number);
    rig.vault
        .put(&key.signature(), VaultDocument::signature(rig.signer.sign(guide.bytes()).await?))
        .await?;
    rig.vault.put(&key, guide).await?;
    let key = place.envelope(number);
    rig.vault.put(&key.signature(), VaultDocument::signature(signature)).await?;
    crate::failpoint::reach("rekey-signed");
    Ok(rig.vault.put(&key, envelope).await?)
}

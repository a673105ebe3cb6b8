//! Replicating backups to another vault: another region, account or building.
//!
//! Nothing is decrypted: ciphertext is passed on with its hash checked against the signed manifest,
//! documents only if they are signed or bound by something that is. The order is that of a backup:
//! payloads, slots, envelopes, and the manifest last, so a backup is complete in the other vault or
//! absent. What is there already is not sent again; an interrupted copy resumes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::restore::read_through::is_whole;
use super::shelf::{self, GuideError, LoadedEnvelopes};
use super::{WorkContext, WorkError};
use crate::domain::document::VaultHeader;
use crate::domain::envelope::Envelope;
use crate::domain::evidence::EvidenceRecord;
use crate::domain::id::DatastoreName;
use crate::domain::layout::{self, EVIDENCE, META, ObjectKey, PAYLOADS};
use crate::domain::manifest::{Manifest, StoredObject};
use crate::domain::{ErrorClass, VaultDocument};
use crate::evidence::is_believed;
use crate::seal::open::ExpectedObject;
use crate::seal::relay::CiphertextRelay;
use crate::vault::{Vault, VaultError, fetch};

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct CopyReport {
    /// Backups that are new in the other vault.
    pub backups: usize,
    /// Backups that were there and got new envelopes.
    pub updated: usize,
    /// Backups that were there as they are.
    pub unchanged: usize,
    /// Objects and documents that were sent.
    pub objects: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Records of the evidence that were sent.
    pub records: usize,
    /// What is left alone, and why.
    pub refused: Vec<String>,
}

/// The other vault, and what stands in it: names and sizes. Who may write there need not be who may
/// write here.
struct ReplicaState {
    vault: Arc<dyn Vault>,
    keys: BTreeMap<ObjectKey, u64>,
}

/// Copies what another vault lacks.
///
/// # Errors
/// [`WorkError`] if one of the two cannot be read or written; what was copied by then is whole.
pub async fn copy(
    rig: &WorkContext,
    name: &str,
    datastore: Option<&DatastoreName>,
) -> Result<CopyReport, WorkError> {
    let vault = Arc::clone(replica(rig, name)?);
    if rig.trusted.is_empty() {
        return Err(WorkError::NotVerified(
            "no signing key is pinned, so nobody can tell what is worth copying".to_owned(),
        ));
    }
    if let Some(datastore) = datastore {
        shelf::ensure_known(rig, datastore).await?;
    }
    same_vault(rig, vault.as_ref(), name).await?;
    let mut keys = BTreeMap::new();
    for prefix in [layout::MANIFESTS, META, PAYLOADS, EVIDENCE] {
        keys.extend(vault.list(prefix).await?.into_iter().map(|facts| (facts.key, facts.bytes)));
    }
    let mut other = ReplicaState { vault, keys };
    let mut report = CopyReport::default();
    let entries = shelf::list_entries(rig, datastore).await?;
    let total = entries.iter().filter_map(|entry| entry.manifest.as_ref().ok());
    let total = total
        .filter(|believed| !other.keys.contains_key(&believed.manifest.place().manifest()))
        .map(|b| b.manifest.sealed_bytes())
        .sum();
    let stage = rig.progress.begin("copy", Some(total));
    let mut meta: BTreeMap<String, Vec<(ObjectKey, u64)>> = BTreeMap::new();
    for facts in rig.vault.list(META).await? {
        if let Some((datastore, backup)) = layout::parse_backup_key(facts.key.as_str()) {
            meta.entry(format!("{datastore}/{backup}")).or_default().push((facts.key, facts.bytes));
        }
    }
    for entry in entries {
        let manifest = match entry.manifest {
            Ok(believed) => believed.manifest,
            Err(error) => {
                report
                    .refused
                    .push(format!("backup {} of {}: {error}", entry.backup, entry.datastore));
                continue;
            }
        };
        let is_new = !other.keys.contains_key(&manifest.place().manifest());
        let own =
            meta.remove(&format!("{}/{}", manifest.datastore, manifest.backup)).unwrap_or_default();
        let payloads = manifest
            .payloads
            .iter()
            .flat_map(|payload| &payload.objects)
            .map(|object| (&object.key, object.bytes));
        let own = own.iter().map(|(key, bytes)| (key, *bytes)).chain(payloads);
        if !is_new && is_same_manifest(rig, other.vault.as_ref(), &manifest).await? == Some(false) {
            report.refused.push(format!(
                "backup {} of {}: its manifest in the other vault, or the signature beside it, is not the one that is signed here; remove both there, \
                 and it is copied again",
                manifest.backup, manifest.datastore
            ));
            continue;
        }
        if !is_new && own.into_iter().all(|(key, bytes)| other.keys.get(key) == Some(&bytes)) {
            report.unchanged += 1;
            continue;
        }
        let before = report.objects;
        match one(rig, &mut other, &manifest, is_new, &stage, &mut report).await {
            Ok(()) => {}
            // One that is damaged or frozen is no reason to go without the others.
            Err(error) if error.class() == ErrorClass::Integrity || is_frozen(&error) => {
                report
                    .refused
                    .push(format!("backup {} of {}: {error}", manifest.backup, manifest.datastore));
                continue;
            }
            Err(error) => return Err(error),
        }
        match (is_new, report.objects > before) {
            (true, _) => report.backups += 1,
            (false, true) => report.updated += 1,
            (false, false) => report.unchanged += 1,
        }
    }
    evidence(rig, &mut other, &mut report).await?;
    stage.end();
    Ok(report)
}

/// How far a copy is behind.
pub enum ReplicaLag {
    /// It has every backup.
    Nothing,
    /// It lacks so many.
    Backups(usize),
}

/// Looks how far a copy is behind, by names alone.
///
/// # Errors
/// [`WorkError`] if it is no copy of this vault, or one of the two cannot be read.
pub async fn behind(rig: &WorkContext, name: &str) -> Result<ReplicaLag, WorkError> {
    let other = replica(rig, name)?;
    match fetch::document(other.as_ref(), &layout::vault_header()).await? {
        Some(_) => same_vault(rig, other.as_ref(), name).await?,
        None => {
            // A listing tells a missing bucket from an empty one, which looking for one object does
            // not.
            other.list(layout::vault_header().as_str()).await?;
            // Nothing was ever copied there; only `copy` makes a vault of it.
            let own = rig.vault.list(layout::MANIFESTS).await?;
            return Ok(ReplicaLag::Backups(
                own.iter()
                    .filter(|facts| layout::parse_manifest_key(facts.key.as_str()).is_some())
                    .count(),
            ));
        }
    }
    let there: BTreeSet<ObjectKey> =
        other.list(layout::MANIFESTS).await?.into_iter().map(|facts| facts.key).collect();
    let own = rig.vault.list(layout::MANIFESTS).await?.into_iter().map(|facts| facts.key);
    let missing = own
        .filter(|key| layout::parse_manifest_key(key.as_str()).is_some() && !there.contains(key))
        .count();
    Ok(if missing == 0 { ReplicaLag::Nothing } else { ReplicaLag::Backups(missing) })
}

/// A vault that the configuration names.
///
/// # Errors
/// [`WorkError::Refused`] if it names no such vault.
pub fn replica<'a>(rig: &'a WorkContext, name: &str) -> Result<&'a Arc<dyn Vault>, WorkError> {
    rig.replicas.get(name).ok_or_else(|| {
        let known: Vec<&str> = rig.replicas.keys().map(String::as_str).collect();
        WorkError::Refused {
            what: format!("vault {name}"),
            why: match known.is_empty() {
                true => "lifeboat.toml names no other vault".to_owned(),
                false => format!("lifeboat.toml names {}", known.join(", ")),
            },
            hint: format!(
                "add a section [vaults.{name}] with s3 = \"s3://…\" or directory = \"…\""
            ),
        }
    })
}

/// A copy is the same vault in another place, and has its id; an empty place becomes one.
async fn same_vault(rig: &WorkContext, other: &dyn Vault, name: &str) -> Result<(), WorkError> {
    let own = shelf::vault_to_write(rig).await?;
    match fetch::document(other, &layout::vault_header()).await? {
        Some(bytes) => match VaultHeader::parse(&bytes)?.vault {
            found if found == own => Ok(()),
            found => Err(WorkError::Refused {
                what: format!("vault {name}"),
                why: format!(
                    "it is a vault of its own ({found}) and no copy of this one ({own}); nothing was copied"
                ),
                hint: "name an empty place".to_owned(),
            }),
        },
        None => Ok(other
            .put(&layout::vault_header(), VaultDocument::header(&VaultHeader::new(own)))
            .await?),
    }
}

fn is_frozen(error: &WorkError) -> bool {
    matches!(error, WorkError::Vault(VaultError::Frozen { .. }))
}

/// Whether the manifest in the other vault is this one; none where this host may not read it.
async fn is_same_manifest(
    rig: &WorkContext,
    other: &dyn Vault,
    manifest: &Manifest,
) -> Result<Option<bool>, WorkError> {
    let place = manifest.place();
    let key = place.manifest();
    let mut read = Vec::new();
    for key in [&key, &key.signature()] {
        match fetch::document(other, key).await {
            Ok(Some(bytes)) => read.push(bytes),
            Ok(None) | Err(VaultError::Tally { .. }) => return Ok(Some(false)),
            Err(error) if shelf::is_outage(&error) => return Err(error.into()),
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a manifest of the other vault is not compared"
                );
                return Ok(None);
            }
        }
    }
    // When the *other* store wrote it says nothing of a key that is distrusted from a day on: it is
    // trusted here.
    let is_this =
        Manifest::parse(&read[0], &manifest.vault, &place).is_ok_and(|there| there == *manifest);
    Ok(Some(is_this && rig.trusted.signer_of(&read[0], &read[1]).is_some()))
}

async fn one(
    rig: &WorkContext,
    other: &mut ReplicaState,
    manifest: &Manifest,
    is_new: bool,
    stage: &crate::progress::ProgressStage,
    report: &mut CopyReport,
) -> Result<(), WorkError> {
    for payload in &manifest.payloads {
        for (number, object) in payload.objects.iter().enumerate() {
            if rig.cancel.is_cancelled() {
                return Err(WorkError::Interrupted);
            }
            if let Some(there) = other.keys.get(&object.key) {
                // Left by a copy that was interrupted, or put there by somebody: no manifest may
                // name what was not looked at.
                if is_new || *there != object.bytes {
                    is_whole(rig, &other.vault, object, |_| {}).await?;
                }
            } else {
                relay(rig, other.vault.as_ref(), object, number == 0, stage).await?;
                sent(other, report, &object.key, object.bytes);
            }
        }
    }
    let place = manifest.place();
    for object in manifest.payloads.iter().flat_map(|payload| &payload.objects) {
        match shelf::load_chunk_list(rig.vault.as_ref(), object).await {
            Ok(Some(list)) => {
                document(other, report, &place.chunks(&object.key), list.to_vec()).await?
            }
            Ok(None) => {}
            // A list that is lost costs no backup, there as little as here; `verify` tells of it.
            Err(error @ WorkError::Damaged { .. }) => {
                tracing::warn!(backup = %manifest.backup, error = &error as &dyn std::error::Error, "a list of chunks is not copied");
            }
            Err(error) => return Err(error),
        }
    }
    let LoadedEnvelopes { believed, .. } = shelf::load_envelopes(rig, manifest).await?;
    let newest_is_whole =
        believed.first().is_some_and(|(newest, slots)| newest.slots.len() == slots.len());
    if !newest_is_whole || !believed.iter().any(|(envelope, _)| envelope.number == 1) {
        return Err(WorkError::Damaged {
            what: format!("the envelope of {}", manifest.backup),
            why: "parts of it are missing".to_owned(),
        });
    }
    for (envelope, slots) in believed.iter().rev() {
        for slot in slots {
            document(other, report, &slot.slot.file, slot.bytes.clone()).await?;
        }
        let key = place.envelope(envelope.number);
        // The guide before the envelope that it belongs to, the signature before what it signs.
        match shelf::load_guide(rig, manifest, envelope.number).await {
            Ok(text) => {
                let guide = place.restore_guide(envelope.number);
                signed(rig, other, report, &guide, |bytes| bytes == text).await?;
            }
            // One that nobody signed is for nobody to run, there as little as here.
            Err(GuideError::Vault(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(backup = %manifest.backup, error = &error as &dyn std::error::Error, "a guide is not copied")
            }
        }
        signed(rig, other, report, &key, |bytes| {
            Envelope::parse(bytes, &shelf::context_of(manifest)).is_ok_and(|read| read == *envelope)
        })
        .await?;
    }
    signed(rig, other, report, &place.manifest(), |bytes| {
        Manifest::parse(bytes, &manifest.vault, &manifest.place())
            .is_ok_and(|read| read == *manifest)
    })
    .await
}

/// Passes on a document and its signature, the signature first: the very bytes that are signed and
/// that say what was read before.
async fn signed(
    rig: &WorkContext,
    other: &mut ReplicaState,
    report: &mut CopyReport,
    key: &ObjectKey,
    is_same: impl Fn(&[u8]) -> bool,
) -> Result<(), WorkError> {
    let damaged = |why: &str| WorkError::Damaged { what: key.to_string(), why: why.to_owned() };
    let bytes =
        fetch::document(rig.vault.as_ref(), key).await?.ok_or_else(|| damaged("it is gone"))?;
    let signature = fetch::document(rig.vault.as_ref(), &key.signature())
        .await?
        .ok_or_else(|| damaged("its signature is gone"))?;
    if !is_believed(rig.vault.as_ref(), &rig.trusted, key, &bytes, &signature).await?
        || !is_same(&bytes)
    {
        return Err(damaged("it is another than a moment ago"));
    }
    document(other, report, &key.signature(), signature.to_vec()).await?;
    document(other, report, key, bytes.to_vec()).await
}

fn sent(other: &mut ReplicaState, report: &mut CopyReport, key: &ObjectKey, bytes: u64) {
    other.keys.insert(key.clone(), bytes);
    report.objects += 1;
    report.bytes += bytes;
}

async fn document(
    other: &mut ReplicaState,
    report: &mut CopyReport,
    key: &ObjectKey,
    bytes: Vec<u8>,
) -> Result<(), WorkError> {
    let length = bytes.len() as u64;
    // What stands there already is compared by the store: the same bytes are success, others are
    // somebody else's.
    let is_there = other.keys.contains_key(key);
    other.vault.put(key, VaultDocument::of_another_vault(bytes)).await?;
    if !is_there {
        sent(other, report, key, length);
    }
    Ok(())
}

async fn relay(
    rig: &WorkContext,
    to: &dyn Vault,
    object: &StoredObject,
    begins: bool,
    stage: &crate::progress::ProgressStage,
) -> Result<(), WorkError> {
    let wanted = shelf::wanted_objects(rig, std::slice::from_ref(object)).await?;
    let mut chunks = fetch::stream(Arc::clone(&rig.vault), wanted, rig.cancel.clone()).await?;
    let expected = ExpectedObject::of(object, false);
    let mut relay = CiphertextRelay::new(expected, to.limits().part_bytes, begins);
    let mut upload = to.begin(&object.key).await?;
    let passed = async {
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(|why| why.of(object.key.as_str()))?;
            stage.add(chunk.len() as u64);
            for part in relay.pass(&chunk)? {
                upload.part(part).await?;
            }
        }
        let (last, proof) = relay.done()?;
        upload.part(last).await?;
        upload.settle().await?;
        Ok::<_, WorkError>(proof)
    };
    match passed.await {
        Ok(proof) => match upload.complete(&proof).await {
            // Another copy of the same was quicker.
            Err(VaultError::Exists { key }) => Err(VaultError::Exists { key }.into()),
            other => Ok(other?),
        },
        Err(error) => {
            if let Err(error) = upload.abort().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "an unfinished upload could not be aborted"
                );
            }
            Err(if rig.cancel.is_cancelled() { WorkError::Interrupted } else { error })
        }
    }
}

/// Records that a pinned key signed, in their order.
async fn evidence(
    rig: &WorkContext,
    other: &mut ReplicaState,
    report: &mut CopyReport,
) -> Result<(), WorkError> {
    for facts in rig.vault.list(EVIDENCE).await? {
        let Some((sequence, true)) = layout::parse_evidence_key(facts.key.as_str()) else {
            continue;
        };
        let key = layout::evidence(sequence);
        if let Some(there) = other.keys.get(&key) {
            if *there != facts.bytes {
                report.refused.push(format!("evidence record {sequence}: something else stands under its name in the other vault"));
            }
            continue;
        }
        let bytes = fetch::document_of(rig.vault.as_ref(), facts).await?;
        let Some(signature) = fetch::document(rig.vault.as_ref(), &key.signature()).await? else {
            continue;
        };
        if !is_believed(rig.vault.as_ref(), &rig.trusted, &key, &bytes, &signature).await? {
            report
                .refused
                .push(format!("evidence record {sequence} is not signed by a trusted key"));
            continue;
        }
        if !EvidenceRecord::parse(&bytes).is_ok_and(|record| record.sequence == sequence) {
            report.refused.push(format!(
                "evidence record {sequence} belongs elsewhere: it says that it has another number"
            ));
            continue;
        }
        document(other, report, &key.signature(), signature.to_vec()).await?;
        document(other, report, &key, bytes.to_vec()).await?;
        report.records += 1;
    }
    Ok(())
}

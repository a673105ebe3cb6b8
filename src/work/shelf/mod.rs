//! Reading the vault: headers, manifests and envelopes, trusted only under a pinned key. The only
//! door to what is stored.

mod survey;

use std::collections::BTreeMap;
use std::ops::Bound;

use futures::{StreamExt, TryStreamExt};

pub use survey::{
    GoneBackup, SelectedBackup, all_gone, find_by_id, gone_backups, is_removed, known_here,
    newest_of_each, odd_numbers, same_numbers, select, select_with_context,
};

use super::fence::ReadLease;
use super::{WorkContext, WorkError, guide};
use crate::domain::ErrorClass;
use crate::domain::document::{DocumentError, VaultHeader};
use crate::domain::envelope::{EncryptionContext, Envelope, Slot};
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::layout::{self, BackupKeys, ObjectKey, parse_manifest_key};
use crate::domain::manifest::{Manifest, Payload, StoredObject};
use crate::evidence::is_believed;
use crate::keyring::openers::{self, SlotBytes};
use crate::seal::open::ExpectedObject;
use crate::seal::{BackupIdentity, OpenedPayload};
use crate::vault::{Vault, VaultError, fetch};

/// Manifests read at once.
const READS_MAX: usize = 16;
/// Envelopes of one backup that are looked at; rotation writes one each time.
pub const ENVELOPES_MAX: u32 = 1000;

/// A manifest and whether a pinned key signed it.
#[derive(Debug, Clone)]
pub struct LoadedManifest {
    /// The manifest.
    pub manifest: Manifest,
    /// False only where no key is pinned at all: then nothing can be verified, and the reader must
    /// be told.
    pub verified: bool,
}

/// A backup as it stands in the vault.
#[derive(Debug)]
pub struct BackupEntry {
    /// The datastore its place names.
    pub datastore: DatastoreName,
    /// The backup its place names.
    pub backup: BackupId,
    /// The manifest, or why it is not believed.
    pub manifest: Result<LoadedManifest, WorkError>,
}

/// The id of the vault that is read: the pinned one, where one is pinned. A `vault.json` that says
/// another was changed or put there by somebody, and hides no backup by it.
///
/// # Errors
/// [`WorkError::NoVault`] if there is no `vault.json`.
pub async fn vault_id(rig: &WorkContext) -> Result<VaultId, WorkError> {
    let found = id_in_header(rig).await;
    let Some(pinned) = &rig.config.vault_id else { return found };
    match found {
        Ok(found) if found == *pinned => {}
        // An address of another vault may have been typed.
        Ok(found) if rig.is_elsewhere => return Ok(found),
        Ok(found) => tracing::warn!(
            "vault.json says that this is vault {found}, and lifeboat.toml names {pinned}; it is read as that, and nothing is written"
        ),
        // Gone, and the backups are not: the disk is there.
        Err(WorkError::NoVault { .. }) if !rig.vault.list(layout::MANIFESTS).await?.is_empty() => {
            tracing::warn!(
                "vault.json is gone; this is read as vault {pinned}, which lifeboat.toml names, and nothing is written"
            );
        }
        // Garbled, too large, in an archive class. One of a later format is a later lifeboat's, and
        // its backups are too.
        Err(
            WorkError::Document(DocumentError::Malformed { .. })
            | WorkError::Vault(VaultError::Tally { .. } | VaultError::Frozen { .. }),
        ) => {
            tracing::warn!(
                "vault.json cannot be read; this is read as vault {pinned}, which lifeboat.toml names, and nothing is written"
            );
        }
        Err(error) => return Err(error),
    }
    Ok(pinned.clone())
}

/// The id of the vault that is about to be written into.
///
/// # Errors
/// [`WorkError::Refused`] if it is another one than the pinned.
pub async fn vault_to_write(rig: &WorkContext) -> Result<VaultId, WorkError> {
    let pinned = rig.config.vault_id.as_ref().filter(|_| !rig.is_elsewhere);
    let found = match (id_in_header(rig).await, pinned) {
        (Err(WorkError::NoVault { address }), Some(pinned))
            if !rig.vault.list(layout::MANIFESTS).await?.is_empty() =>
        {
            return Err(WorkError::Refused {
                what: format!("vault {address}"),
                why: "its vault.json is gone, and its backups are not; nothing is written into it"
                    .to_owned(),
                hint: format!(
                    "put vault.json back, with this in it: {{ \"format\": \"lifeboat.vault/1\", \"vault\": \"{pinned}\" }}; then find out who removed it"
                ),
            });
        }
        (found, _) => found?,
    };
    match rig.config.vault_id.as_ref().filter(|pinned| !rig.is_elsewhere && **pinned != found) {
        None => Ok(found),
        Some(pinned) => Err(WorkError::Refused {
            what: format!("vault {}", rig.vault.address()),
            why: format!("its vault.json says that it is vault {found}, and lifeboat.toml names {pinned}; nothing is written into it"),
            hint: "either another vault is in this place, or somebody has changed vault.json; the id stands on the recovery card too. Backups that are there can be restored".to_owned(),
        }),
    }
}

async fn id_in_header(rig: &WorkContext) -> Result<VaultId, WorkError> {
    match fetch::document(rig.vault.as_ref(), &layout::vault_header()).await? {
        Some(bytes) => Ok(VaultHeader::parse(&bytes)?.vault),
        None => {
            // A listing tells a missing bucket from a missing object, which looking for one object
            // does not.
            rig.vault.list(layout::vault_header().as_str()).await?;
            Err(WorkError::NoVault { address: rig.vault.address() })
        }
    }
}

/// Reads one manifest and its signature.
///
/// # Errors
/// [`WorkError`] if it is missing, not signed by a pinned key, or not where it belongs.
pub async fn load_manifest(
    rig: &WorkContext,
    vault: &VaultId,
    place: &BackupKeys<'_>,
) -> Result<LoadedManifest, WorkError> {
    let key = place.manifest();
    let no_such = || WorkError::NoSuchBackup {
        datastore: Some(place.datastore.to_string()),
        wanted: place.backup.to_string(),
    };
    let bytes = fetch::document(rig.vault.as_ref(), &key).await?.ok_or_else(no_such)?;
    let verified = verify_signature(rig, &key, &bytes, "the manifest").await?;
    Ok(LoadedManifest { manifest: Manifest::parse(&bytes, vault, place)?, verified })
}

/// Checks the signature beside a document. With no key pinned nothing is believed, and nothing
/// refused.
///
/// # Errors
/// [`WorkError::NotSigned`]; [`WorkError::Vault`] if the signature cannot be read.
pub async fn verify_signature(
    rig: &WorkContext,
    key: &layout::ObjectKey,
    bytes: &[u8],
    what: &str,
) -> Result<bool, WorkError> {
    if rig.trusted.is_empty() {
        return Ok(false);
    }
    let not_signed = || WorkError::NotSigned { what: format!("{what} {key}") };
    let signature =
        fetch::document(rig.vault.as_ref(), &key.signature()).await?.ok_or_else(not_signed)?;
    match is_believed(rig.vault.as_ref(), &rig.trusted, key, bytes, &signature).await? {
        true => Ok(true),
        false => Err(not_signed()),
    }
}

/// Everything that stands under `manifests/`, of one datastore or of all, oldest first.
///
/// # Errors
/// [`WorkError`] if the vault cannot be listed; a manifest that is not believed is an entry, not an
/// error.
pub async fn list_entries(
    rig: &WorkContext,
    datastore: Option<&DatastoreName>,
) -> Result<Vec<BackupEntry>, WorkError> {
    let vault = vault_id(rig).await?;
    let prefix = datastore.map_or(layout::MANIFESTS.to_owned(), layout::manifests_of);
    let listed = rig.vault.list(&prefix).await?;
    let mut names: BTreeMap<DatastoreName, Vec<BackupId>> = Default::default();
    for (datastore, backup) in
        listed.iter().filter_map(|facts| parse_manifest_key(facts.key.as_str()))
    {
        names.entry(datastore).or_default().push(backup);
    }
    let mut entries = Vec::new();
    for (datastore, backups) in names {
        let read = load_manifests(rig, &vault, &datastore, backups).await?;
        // What was removed since it was listed is not there; whether it should be, the catalog and
        // the evidence say.
        let is_there = |(_, manifest): &(BackupId, Result<LoadedManifest, WorkError>)| {
            !matches!(manifest, Err(WorkError::NoSuchBackup { .. }))
        };
        let read = read.into_iter().filter(is_there);
        entries.extend(read.map(|(backup, manifest)| BackupEntry {
            datastore: datastore.clone(),
            backup,
            manifest,
        }));
    }
    // By the signed number; what is not believed has none, and stands first: nobody takes it for
    // the newest.
    entries.sort_by_cached_key(|e| {
        (
            e.datastore.clone(),
            e.manifest.as_ref().map_or(0, |b| b.manifest.sequence),
            e.backup.begun(),
        )
    });
    Ok(entries)
}

/// Whether the vault does not answer. A document in an archive class is another matter: lifeboat
/// puts none there, and whoever may write must not be able to close a backup by it.
pub(super) fn is_outage(error: &VaultError) -> bool {
    error.class().is_retryable() && !matches!(error, VaultError::Frozen { .. })
}

/// Reads manifests of one datastore.
async fn load_manifests(
    rig: &WorkContext,
    vault: &VaultId,
    datastore: &DatastoreName,
    backups: Vec<BackupId>,
) -> Result<Vec<(BackupId, Result<LoadedManifest, WorkError>)>, WorkError> {
    let read = backups.into_iter().map(|backup| async move {
        if rig.cancel.is_cancelled() {
            return Err(WorkError::Interrupted);
        }
        match load_manifest(rig, vault, &BackupKeys { datastore, backup: &backup }).await {
            // A vault that does not answer is an error of the whole; only what it answered can be
            // an entry's.
            Err(WorkError::Vault(error)) if is_outage(&error) => Err(WorkError::Vault(error)),
            manifest => Ok((backup, manifest)),
        }
    });
    futures::stream::iter(read).buffered(READS_MAX).try_collect().await
}

/// What the vault lists: names and sizes.
pub type ObjectSizes = BTreeMap<ObjectKey, u64>;

/// Lists what stands under some prefixes.
///
/// # Errors
/// [`WorkError`] if the vault cannot be listed.
pub async fn sizes(rig: &WorkContext, prefixes: [String; 2]) -> Result<ObjectSizes, WorkError> {
    let mut sizes = ObjectSizes::new();
    for prefix in prefixes {
        sizes.extend(
            rig.vault.list(&prefix).await?.into_iter().map(|facts| (facts.key, facts.bytes)),
        );
    }
    Ok(sizes)
}

/// Whether everything that every restore of a backup needs is there, in its size: payloads, an
/// envelope, a slot. What is in them nobody has looked at. Only one that is all there may take
/// another one's place.
#[must_use]
pub fn is_all_there(manifest: &Manifest, there: &ObjectSizes) -> bool {
    let place = manifest.place();
    let (meta, slots) = (place.meta_prefix(), format!("{}slots/", place.meta_prefix()));
    let under = |prefix: &str| {
        let from = there.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.map(|(key, _)| key)
            .take_while(|key| key.as_str().starts_with(prefix))
            .cloned()
            .collect::<Vec<_>>()
    };
    let has_envelope =
        under(&meta).iter().any(|key| matches!(place.rotation(key), Some((_, true))));
    let mut objects = manifest.payloads.iter().flat_map(|payload| &payload.objects);
    has_envelope
        && !under(&slots).is_empty()
        && objects.all(|object| there.get(&object.key) == Some(&object.bytes))
}

/// Refuses the name of a datastore of which nothing is known.
///
/// # Errors
/// [`WorkError::NoSuchDatastore`] or [`WorkError::NoSuchBackup`]
pub async fn ensure_known(rig: &WorkContext, datastore: &DatastoreName) -> Result<(), WorkError> {
    match rig.vault.list(&layout::manifests_of(datastore)).await?.is_empty() {
        true => Err(no_such_datastore_or_backup(rig, datastore).await?),
        false => Ok(()),
    }
}

async fn no_such_datastore_or_backup(
    rig: &WorkContext,
    datastore: &DatastoreName,
) -> Result<WorkError, WorkError> {
    if rig.config.datastores.contains_key(datastore) {
        return Ok(WorkError::NoSuchBackup {
            datastore: Some(datastore.to_string()),
            wanted: "at all".to_owned(),
        });
    }
    let stored = rig
        .vault
        .list(layout::MANIFESTS)
        .await?
        .into_iter()
        .filter_map(|f| parse_manifest_key(f.key.as_str()))
        .map(|(name, _)| name);
    let known: Vec<String> =
        stored.chain(rig.config.datastores.keys().cloned()).map(|n| n.to_string()).collect();
    Ok(no_such_datastore(datastore.as_str(), &known))
}

/// The error for a name that is not a datastore, with the nearest one that is.
#[must_use]
pub fn no_such_datastore(name: &str, known: &[String]) -> WorkError {
    WorkError::NoSuchDatastore { name: name.to_owned(), suggestion: nearest(name, known) }
}

/// The known name that a mistyped one was probably meant to be.
pub(super) fn nearest(name: &str, known: &[String]) -> Option<String> {
    let nearest = known.iter().map(|k| (strsim::damerau_levenshtein(k, name), k)).min();
    nearest.filter(|(distance, _)| *distance <= 1 + name.len() / 3).map(|(_, k)| k.clone())
}

/// A backup that was opened.
pub struct OpenedBackup {
    /// Its identity.
    pub identity: BackupIdentity,
    /// Name of the slot that gave it.
    pub slot: String,
    /// Number of the newest envelope.
    pub number: u32,
    /// Envelopes and slots that are missing, damaged or not believed. One of them may be the only
    /// one left some day.
    pub defects: Vec<String>,
}

/// Opens a backup: reads every envelope, newest first, and tries every opener on every slot.
///
/// What is damaged or does not belong there is passed over and told of: whoever may write to the
/// vault must not be able to close a backup by adding an envelope.
///
/// # Errors
/// [`WorkError`] if no envelope is believed or no slot opens.
pub async fn open_backup(
    rig: &WorkContext,
    manifest: &Manifest,
) -> Result<OpenedBackup, WorkError> {
    let reading = ReadLease::begin(rig, &manifest.backup).await?;
    if let Ok(mut all) = rig.reading.lock() {
        all.push(reading);
    }
    let LoadedEnvelopes { believed, defects, .. } = load_envelopes(rig, manifest).await?;
    if believed.iter().all(|(_, slots)| slots.is_empty()) {
        return Err(WorkError::Damaged {
            what: format!("every slot of backup {}", manifest.backup),
            why: defects.join("; "),
        });
    }
    let (identity, slot) = openers::open(&context_of(manifest), &believed, &rig.openers).await?;
    for defect in &defects {
        tracing::warn!(backup = %manifest.backup, defect, "part of the envelope is not as it should be");
    }
    let number = believed.first().map_or(1, |(newest, _)| newest.number);
    Ok(OpenedBackup { identity, slot, number, defects })
}

/// Whether the newest envelope of a backup is trusted and has a slot that is as it was signed.
/// Whether a key of this host opens it is another question.
///
/// # Errors
/// [`WorkError`] if the vault cannot be read.
pub async fn has_whole_slot(rig: &WorkContext, manifest: &Manifest) -> Result<bool, WorkError> {
    match load_envelopes(rig, manifest).await {
        Ok(envelopes) => Ok(envelopes.believed.first().is_some_and(|(_, slots)| !slots.is_empty())),
        Err(error) if error.class() == ErrorClass::Integrity => Ok(false),
        // A role that may not read them says nothing of it.
        Err(WorkError::Vault(error)) if !is_outage(&error) => {
            tracing::debug!(backup = %manifest.backup, error = &error as &dyn std::error::Error, "its slots are not looked at");
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// What a backup's identity is bound to.
#[must_use]
pub fn context_of(manifest: &Manifest) -> EncryptionContext {
    EncryptionContext {
        vault: manifest.vault.clone(),
        datastore: manifest.datastore.clone(),
        backup: manifest.backup.clone(),
    }
}

/// The envelopes of a backup.
pub struct LoadedEnvelopes {
    /// Those that are believed, newest first, each with those of its slots that are whole.
    pub believed: Vec<(Envelope, Vec<SlotBytes>)>,
    /// What is missing, damaged or not believed.
    pub defects: Vec<String>,
    /// A number that no rotation has used, finished or not.
    pub next: u32,
}

/// Reads every envelope of a backup. Their numbers may have holes, where a rotation was
/// interrupted.
///
/// # Errors
/// [`WorkError`] if none is believed, or the vault does not answer.
pub async fn load_envelopes(
    rig: &WorkContext,
    manifest: &Manifest,
) -> Result<LoadedEnvelopes, WorkError> {
    let context = context_of(manifest);
    let place = manifest.place();
    let listed = rig.vault.list(&place.meta_prefix()).await?;
    let used: Vec<(u32, bool)> =
        listed.iter().filter_map(|facts| place.rotation(&facts.key)).collect();
    let numbers: std::collections::BTreeSet<u32> =
        used.iter().filter(|(_, envelope)| *envelope).map(|(number, _)| *number).collect();
    let mut read = LoadedEnvelopes { believed: Vec::new(), defects: Vec::new(), next: 0 };
    for number in numbers.into_iter().rev().filter(|number| (1..=ENVELOPES_MAX).contains(number)) {
        match envelope(rig, manifest, &context, number, &mut read.defects).await {
            Ok(None) => {}
            Ok(Some(envelope)) => {
                // A slot that rotation has retired may be gone, and is no loss.
                let retired = |slot: &Slot| {
                    read.believed.first().is_some_and(|(newest, _)| !newest.slots.contains(slot))
                };
                let mut own = Vec::new();
                let slots = slots(rig, &envelope, &retired, &mut own).await?;
                read.defects.append(&mut own);
                read.believed.push((envelope, slots));
            }
            Err(error) if error.class() == ErrorClass::Integrity => {
                read.defects.push(error.to_string())
            }
            Err(WorkError::Vault(error)) if !is_outage(&error) => {
                read.defects.push(error.to_string())
            }
            Err(error) => return Err(error),
        }
    }
    if read.believed.is_empty() {
        let why = if read.defects.is_empty() {
            "the envelope is missing".to_owned()
        } else {
            read.defects.join("; ")
        };
        return Err(WorkError::Damaged { what: place.envelope(1).to_string(), why });
    }
    let newest = read.believed.iter().map(|(envelope, _)| envelope.number).max().unwrap_or(1);
    read.next = (newest + 1..=ENVELOPES_MAX)
        .find(|number| !used.iter().any(|(used, _)| used == number))
        .unwrap_or(ENVELOPES_MAX + 1);
    Ok(read)
}

/// The `number`th envelope. The first is bound by the signed manifest's hash, later ones by their
/// own signature.
async fn envelope(
    rig: &WorkContext,
    manifest: &Manifest,
    context: &EncryptionContext,
    number: u32,
    defects: &mut Vec<String>,
) -> Result<Option<Envelope>, WorkError> {
    let key = context.place().envelope(number);
    let Some(bytes) = fetch::document(rig.vault.as_ref(), &key).await? else { return Ok(None) };
    let believed = verify_signature(rig, &key, &bytes, "the envelope").await;
    if number == 1 {
        if sha256(&bytes) != manifest.envelope_sha256 {
            return Err(WorkError::Damaged {
                what: key.to_string(),
                why: "it is not the envelope that the signed manifest names".to_owned(),
            });
        }
        match believed {
            Err(error) if error.class() == ErrorClass::Integrity => defects.push(error.to_string()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    } else {
        believed?;
    }
    let envelope = Envelope::parse(&bytes, context)?;
    // An old one under a higher number would bring back slots that were retired, and retire those
    // that are in use.
    if envelope.number != number {
        let why = format!(
            "it says that it is envelope {}, and was put in this place by somebody else",
            envelope.number
        );
        return Err(WorkError::Damaged { what: key.to_string(), why });
    }
    Ok(Some(envelope))
}

/// Why there is no `RESTORE.md` that may be run.
#[derive(Debug, thiserror::Error)]
pub enum GuideError {
    /// Nobody signed it, as none was before guides were signed.
    #[error(
        "{0} is not signed, so it is not run: it would be handed a key that opens every backup"
    )]
    Unsigned(ObjectKey),
    /// It is missing, somebody else signed it, or it is the guide to something else.
    #[error("{key} is damaged: {why}")]
    Damaged {
        /// Its name.
        key: ObjectKey,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The vault does not give it.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl From<GuideError> for WorkError {
    fn from(error: GuideError) -> Self {
        match error {
            GuideError::Vault(error) => error.into(),
            GuideError::Unsigned(key) => Self::Damaged {
                what: key.to_string(),
                why: "it is not signed, so it is not run: it would be handed a key that opens every backup. `lifeboat rekey --confirm` writes one that is signed".to_owned(),
            },
            GuideError::Damaged { key, why } => Self::Damaged { what: key.to_string(), why: why.to_owned() },
        }
    }
}

/// The `RESTORE.md` of an envelope of a backup, if a pinned key signed it and it belongs there.
/// What is run with a key that opens everything is believed as little as a manifest.
///
/// # Errors
/// [`GuideError`]
pub async fn load_guide(
    rig: &WorkContext,
    manifest: &Manifest,
    number: u32,
) -> Result<bytes::Bytes, GuideError> {
    let key = manifest.place().restore_guide(number);
    let damaged = |why| GuideError::Damaged { key: key.clone(), why };
    // One that is too large, frozen or not to be read is none that may be run; only a vault that
    // does not answer is another matter.
    let read = async |key: &ObjectKey| match fetch::document(rig.vault.as_ref(), key).await {
        Err(error) if is_outage(&error) => Err(GuideError::Vault(error)),
        Err(_) => Err(damaged("it, or its signature, cannot be read")),
        Ok(found) => Ok(found),
    };
    let text = read(&key).await?.ok_or_else(|| damaged("it is missing"))?;
    let Some(signature) = read(&key.signature()).await? else {
        return Err(GuideError::Unsigned(key));
    };
    if !is_believed(rig.vault.as_ref(), &rig.trusted, &key, &text, &signature)
        .await
        .map_err(GuideError::Vault)?
    {
        return Err(damaged("its signature is not that of a trusted key"));
    }
    if !guide::belongs(&text, manifest, number) {
        return Err(damaged("it is the guide to something else"));
    }
    Ok(text)
}

async fn slots(
    rig: &WorkContext,
    envelope: &Envelope,
    retired: &impl Fn(&Slot) -> bool,
    defects: &mut Vec<String>,
) -> Result<Vec<SlotBytes>, WorkError> {
    let mut whole = Vec::new();
    for slot in &envelope.slots {
        let bytes = match fetch::document(rig.vault.as_ref(), &slot.file).await {
            Ok(bytes) => bytes,
            Err(error) if is_outage(&error) => return Err(error.into()),
            Err(_) => None,
        };
        match bytes.filter(|bytes| sha256(bytes) == slot.sha256) {
            Some(bytes) => whole.push(SlotBytes { slot: slot.clone(), bytes: bytes.to_vec() }),
            None if retired(slot) => {}
            None => defects
                .push(format!("key slot {} ({}) is missing or damaged", slot.name, slot.file)),
        }
    }
    Ok(whole)
}

/// SHA-256 in lower-case hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

/// The list of an object's chunks: `Ok(None)` if the backup has none, being of an earlier version.
///
/// # Errors
/// [`WorkError::Damaged`] if it is missing, or not the one that the signed manifest names.
pub async fn load_chunk_list(
    vault: &dyn Vault,
    object: &StoredObject,
) -> Result<Option<bytes::Bytes>, WorkError> {
    let Some(recorded) = &object.chunks else { return Ok(None) };
    let Some((datastore, backup)) = layout::parse_backup_key(object.key.as_str()) else {
        return Ok(None);
    };
    let key = BackupKeys { datastore: &datastore, backup: &backup }.chunks(&object.key);
    let damaged = |why: String| WorkError::Damaged { what: key.to_string(), why };
    let facts = vault.find(&key).await?.ok_or_else(|| damaged("it is missing".to_owned()))?;
    if facts.bytes != object.chunk_list_bytes() {
        return Err(damaged(format!(
            "it has {} bytes, and {} belong to {}",
            facts.bytes,
            object.chunk_list_bytes(),
            object.key
        )));
    }
    let list = fetch::exactly(vault, facts).await?;
    match sha256(&list) == recorded.sha256 {
        true => Ok(Some(list)),
        false => Err(damaged("it is not the list that the signed manifest names".to_owned())),
    }
}

/// Objects with what is known of their chunks. A list that is lost costs no backup: the objects are
/// hashed whole then, as those of earlier versions are.
///
/// # Errors
/// [`WorkError`] if the vault does not answer.
pub async fn wanted_objects(
    rig: &WorkContext,
    objects: &[StoredObject],
) -> Result<Vec<fetch::WantedObject>, WorkError> {
    let mut wanted = Vec::new();
    for object in objects {
        let known = rig.lists.lock().ok().and_then(|lists| lists.get(&object.sha256).cloned());
        let chunks = match known {
            Some(list) => Ok(Some(list)),
            None => load_chunk_list(rig.vault.as_ref(), object).await,
        };
        let chunks = match chunks {
            Ok(chunks) => chunks.inspect(|list| know_list(rig, object, list.clone())),
            Err(WorkError::Vault(error)) if is_outage(&error) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "an object is read without the list of its chunks"
                );
                None
            }
        };
        wanted.push(fetch::WantedObject { key: object.key.clone(), bytes: object.bytes, chunks });
    }
    Ok(wanted)
}

/// Keeps a list of chunks that is known to be right.
pub fn know_list(rig: &WorkContext, object: &StoredObject, list: bytes::Bytes) {
    if let Ok(mut lists) = rig.lists.lock() {
        lists.insert(object.sha256.clone(), list);
    }
}

/// Begins to open a payload: its objects are fetched ahead and checked against the manifest as they
/// are read.
///
/// # Errors
/// [`WorkError`] if an object is missing, frozen, or does not open.
pub async fn open_payload(
    rig: &WorkContext,
    payload: &Payload,
    identity: &BackupIdentity,
) -> Result<OpenedPayload, WorkError> {
    let wanted = wanted_objects(rig, &payload.objects).await?;
    let expected = payload
        .objects
        .iter()
        .zip(&wanted)
        .map(|(object, wanted)| ExpectedObject::of(object, wanted.chunks.is_some()))
        .collect();
    let chunks =
        match fetch::stream(std::sync::Arc::clone(&rig.vault), wanted, rig.cancel.clone()).await {
            Err(VaultError::Tally { what, why }) => return Err(WorkError::Damaged { what, why }),
            other => other?,
        };
    let (name, identity) = (payload.name.clone(), identity.clone());
    let opened =
        tokio::task::spawn_blocking(move || OpenedPayload::new(&name, chunks, expected, &identity))
            .await;
    Ok(opened.map_err(|_| WorkError::Bug("the thread that opens payloads died".to_owned()))??)
}

/// Reads a small payload whole.
///
/// # Errors
/// As [`open_payload`]; also if it is larger than any real one.
pub async fn read_payload(
    rig: &WorkContext,
    payload: &Payload,
    identity: &BackupIdentity,
) -> Result<Vec<u8>, WorkError> {
    const BYTES_MAX: usize = 1024 * 1024 * 1024;
    let mut opened = open_payload(rig, payload, identity).await?;
    let read = tokio::task::spawn_blocking(move || opened.read_all(BYTES_MAX)).await;
    Ok(read.map_err(|_| WorkError::Bug("the thread that reads payloads died".to_owned()))??)
}

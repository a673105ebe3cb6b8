//! What stands in the vault, believed only under a pinned key: headers, manifests, envelopes.

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use super::fence::Reading;
use super::{Rig, WorkError, evidence, guide};
use crate::domain::Trouble;
use crate::domain::choice::Which;
use crate::domain::document::VaultHeader;
use crate::domain::envelope::{Context, Envelope, Slot};
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::layout::{self, ObjectKey, Place, parse_manifest_key};
use crate::domain::manifest::{Manifest, Payload};
use crate::keyring::openers::{self, SlotBytes};
use crate::seal::open::Expected;
use crate::seal::{Identity, Opened};
use crate::vault::{VaultError, fetch};

/// Manifests that are read of the end of a long series, at first.
const WINDOW: usize = 64;
/// Manifests that are not believed after which it is no use to go on: somebody writes them, or the pinned key is the wrong one.
const REFUSED_MAX: usize = 1000;
/// How far the clocks of hosts may be apart.
const CLOCKS_DIFFER: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
/// Manifests read at once.
const READS_MAX: usize = 16;
/// Envelopes of one backup that are looked at; rotation writes one each time.
pub const ENVELOPES_MAX: u32 = 1000;

/// A manifest and whether a pinned key signed it.
#[derive(Debug, Clone)]
pub struct Believed {
    /// The manifest.
    pub manifest: Manifest,
    /// False only where no key is pinned at all: then nothing can be verified, and the reader must be told.
    pub verified: bool,
}

/// A backup as it stands in the vault.
#[derive(Debug)]
pub struct Entry {
    /// The datastore its place names.
    pub datastore: DatastoreName,
    /// The backup its place names.
    pub backup: BackupId,
    /// The manifest, or why it is not believed.
    pub manifest: Result<Believed, WorkError>,
}

/// Reads `vault.json`.
///
/// # Errors
/// [`WorkError::NoVault`] if it is missing.
pub async fn vault_id(rig: &Rig) -> Result<VaultId, WorkError> {
    match fetch::document(rig.vault.as_ref(), &layout::vault_header()).await? {
        Some(bytes) => Ok(VaultHeader::parse(&bytes)?.vault),
        None => {
            // A listing tells a missing bucket from a missing object, which looking for one object does not.
            rig.vault.list(layout::vault_header().as_str()).await?;
            Err(WorkError::NoVault { address: rig.vault.address() })
        }
    }
}

/// Reads one manifest and its signature.
///
/// # Errors
/// [`WorkError`] if it is missing, not signed by a pinned key, or not where it belongs.
pub async fn manifest(rig: &Rig, vault: &VaultId, place: &Place<'_>) -> Result<Believed, WorkError> {
    let key = place.manifest();
    let no_such = || WorkError::NoSuchBackup { datastore: place.datastore.to_string(), wanted: place.backup.to_string() };
    let bytes = fetch::document(rig.vault.as_ref(), &key).await?.ok_or_else(no_such)?;
    let verified = believe(rig, &key, &bytes, "the manifest").await?;
    Ok(Believed { manifest: Manifest::parse(&bytes, vault, place)?, verified })
}

/// Checks the signature beside a document. With no key pinned nothing is believed, and nothing refused.
///
/// # Errors
/// [`WorkError::NotSigned`]; [`WorkError::Vault`] if the signature cannot be read.
pub async fn believe(rig: &Rig, key: &layout::ObjectKey, bytes: &[u8], what: &str) -> Result<bool, WorkError> {
    if rig.trusted.is_empty() {
        return Ok(false);
    }
    let not_signed = || WorkError::NotSigned { what: format!("{what} {key}") };
    let signature = fetch::document(rig.vault.as_ref(), &key.signature()).await?.ok_or_else(not_signed)?;
    rig.trusted.signer_of(bytes, &signature).map(|_| true).ok_or_else(not_signed)
}

/// Everything that stands under `manifests/`, of one datastore or of all, oldest first.
///
/// # Errors
/// [`WorkError`] if the vault cannot be listed; a manifest that is not believed is an entry, not an error.
pub async fn entries(rig: &Rig, datastore: Option<&DatastoreName>) -> Result<Vec<Entry>, WorkError> {
    let vault = vault_id(rig).await?;
    let prefix = datastore.map_or(layout::MANIFESTS.to_owned(), layout::manifests_of);
    let listed = rig.vault.list(&prefix).await?;
    let mut names: std::collections::BTreeMap<DatastoreName, Vec<BackupId>> = Default::default();
    for (datastore, backup) in listed.iter().filter_map(|facts| parse_manifest_key(facts.key.as_str())) {
        names.entry(datastore).or_default().push(backup);
    }
    let mut entries = Vec::new();
    for (datastore, backups) in names {
        let read = read(rig, &vault, &datastore, backups).await?;
        entries.extend(read.into_iter().map(|(backup, manifest)| Entry { datastore: datastore.clone(), backup, manifest }));
    }
    // Names sort by the second; within one, the sequence number tells the order.
    entries.sort_by_cached_key(|e| (e.datastore.clone(), e.backup.begun(), e.manifest.as_ref().map_or(u64::MAX, |b| b.manifest.sequence)));
    Ok(entries)
}

/// A backup that was picked, and what was seen on the way to it.
#[derive(Debug)]
pub struct Picked {
    /// The backup.
    pub believed: Believed,
    /// Other backups that were looked at and are believed, newest first.
    pub others: Vec<Believed>,
    /// Backups that were looked at and are not believed, newest first, and why.
    pub refused: Vec<(BackupId, WorkError)>,
    /// What whoever restores must know: backups that are passed over, numbers that are missing.
    pub warnings: Vec<String>,
    /// All backups of the datastore that stand in the vault, believed or not.
    pub count: usize,
    /// When the oldest of them was begun, as its name says.
    pub oldest: Timestamp,
}

/// Picks the backup that is asked for, telling of manifests that were passed over and of gaps.
///
/// # Errors
/// As [`survey`].
pub async fn pick(rig: &Rig, datastore: &DatastoreName, which: &Which, warnings: &mut Vec<String>) -> Result<Believed, WorkError> {
    if let Which::Exactly(backup) = which {
        let vault = vault_id(rig).await?;
        return manifest(rig, &vault, &Place { datastore, backup }).await;
    }
    let picked = survey(rig, datastore, which).await?;
    warnings.extend(picked.warnings);
    Ok(picked.believed)
}

/// Picks the backup that is asked for and looks at those around it. Of thousands of backups only the newest that may be meant are read:
/// 64 at a time, until one of them fits.
///
/// # Errors
/// [`WorkError`] if there is none, or if the one asked for by id is not believed.
pub async fn survey(rig: &Rig, datastore: &DatastoreName, which: &Which) -> Result<Picked, WorkError> {
    let vault = vault_id(rig).await?;
    let listed = rig.vault.list(&layout::manifests_of(datastore)).await?;
    let mut names: Vec<BackupId> = listed.iter().filter_map(|facts| Some(parse_manifest_key(facts.key.as_str())?.1)).collect();
    names.sort_by_key(BackupId::begun);
    let Some(oldest) = names.first().map(BackupId::begun) else { return Err(no_such_datastore_or_backup(rig, datastore).await?) };
    let (count, all) = (names.len(), matches!(which, Which::Oldest | Which::Random { .. }));
    let newer = match which {
        // A snapshot is not older than the beginning of its run, by one clock; hosts' clocks differ a little.
        Which::At(time) => names.split_off(names.partition_point(|backup| backup.begun() <= *time + CLOCKS_DIFFER)),
        _ => Vec::new(),
    };
    let (mut believed, mut refused): (Vec<Believed>, Vec<(BackupId, WorkError)>) = (Vec::new(), Vec::new());
    let mut picked = None;
    if let Which::Exactly(backup) = which
        && names.len().saturating_sub(WINDOW) > names.iter().position(|name| name == backup).unwrap_or(usize::MAX)
    {
        // Far from the newest, which are shown beside it.
        names = vec![backup.clone()];
    }
    while picked.is_none() && refused.len() < REFUSED_MAX && !names.is_empty() {
        let window = names.split_off(if all { 0 } else { names.len().saturating_sub(WINDOW) });
        for (backup, read) in read(rig, &vault, datastore, window).await? {
            match read {
                Ok(manifest) => believed.push(manifest),
                Err(error) => refused.push((backup, error)),
            }
        }
        picked = which.pick(believed.iter().map(|b| &b.manifest)).map(|m| m.backup.clone());
    }
    if let Which::Exactly(backup) = which
        && let Some(at) = refused.iter().position(|(refused, _)| refused == backup)
    {
        return Err(refused.swap_remove(at).1);
    }
    refused.sort_by_key(|(backup, _)| std::cmp::Reverse(backup.begun()));
    let mut warnings: Vec<String> = refused.iter().map(|(backup, error)| format!("backup {backup} is passed over: {error}")).collect();
    let mut numbers: Vec<u64> = believed.iter().map(|b| b.manifest.sequence).collect();
    if !crate::domain::choice::gaps(numbers.clone()).is_empty() {
        // Only now is the evidence asked what retention removed.
        numbers.extend(evidence::removed(rig, datastore).await?.into_iter().map(|(_, number)| number));
    }
    for (first, last) in crate::domain::choice::gaps(numbers) {
        warnings
            .push(format!("backups {first} to {last} of this datastore are missing from the vault; somebody or something removed them"));
    }
    let wanted = match which {
        Which::At(time) => format!("at or before {time} ({} are newer)", newer.len()),
        Which::Random { since, .. } => format!("at or after {since}"),
        Which::Exactly(backup) => backup.to_string(),
        Which::Latest | Which::Oldest => "that can be believed".to_owned(),
    };
    let at = picked.and_then(|id| believed.iter().position(|b| b.manifest.backup == id));
    let Some(at) = at else {
        // Where not one is believed, the pinned key is the wrong one, or all are damaged: that is what must be said.
        return Err(match believed.is_empty().then(|| refused.into_iter().next()).flatten() {
            Some((_, error)) => error,
            None => WorkError::NoSuchBackup { datastore: datastore.to_string(), wanted },
        });
    };
    let chosen = believed.swap_remove(at);
    believed.sort_by_key(|b| std::cmp::Reverse(b.manifest.source.snapshot_time));
    Ok(Picked { believed: chosen, others: believed, refused, warnings, count, oldest })
}

/// Whether the vault does not answer. A document in an archive class is another matter: lifeboat puts none there, and whoever may write must
/// not be able to close a backup by it.
fn is_outage(error: &VaultError) -> bool {
    error.trouble().is_retryable() && !matches!(error, VaultError::Frozen { .. })
}

/// Reads manifests of one datastore.
async fn read(
    rig: &Rig,
    vault: &VaultId,
    datastore: &DatastoreName,
    backups: Vec<BackupId>,
) -> Result<Vec<(BackupId, Result<Believed, WorkError>)>, WorkError> {
    let read = backups.into_iter().map(|backup| async move {
        match manifest(rig, vault, &Place { datastore, backup: &backup }).await {
            // A vault that does not answer is an error of the whole; only what it answered can be an entry's.
            Err(WorkError::Vault(error)) if is_outage(&error) => Err(WorkError::Vault(error)),
            manifest => Ok((backup, manifest)),
        }
    });
    futures::stream::iter(read).buffered(READS_MAX).try_collect().await
}

/// Refuses the name of a datastore of which nothing is known.
///
/// # Errors
/// [`WorkError::NoSuchDatastore`] or [`WorkError::NoSuchBackup`]
pub async fn known(rig: &Rig, datastore: &DatastoreName) -> Result<(), WorkError> {
    match rig.vault.list(&layout::manifests_of(datastore)).await?.is_empty() {
        true => Err(no_such_datastore_or_backup(rig, datastore).await?),
        false => Ok(()),
    }
}

async fn no_such_datastore_or_backup(rig: &Rig, datastore: &DatastoreName) -> Result<WorkError, WorkError> {
    if rig.config.datastores.contains_key(datastore) {
        return Ok(WorkError::NoSuchBackup { datastore: datastore.to_string(), wanted: "at all".to_owned() });
    }
    let stored =
        rig.vault.list(layout::MANIFESTS).await?.into_iter().filter_map(|f| parse_manifest_key(f.key.as_str())).map(|(name, _)| name);
    let known: Vec<String> = stored.chain(rig.config.datastores.keys().cloned()).map(|n| n.to_string()).collect();
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
    pub identity: Identity,
    /// Name of the slot that gave it.
    pub slot: String,
    /// Number of the newest envelope.
    pub number: u32,
    /// Envelopes and slots that are missing, damaged or not believed. One of them may be the only one left some day.
    pub defects: Vec<String>,
}

/// Opens a backup: reads every envelope, newest first, and tries every opener on every slot.
///
/// What is damaged or does not belong there is passed over and told of: whoever may write to the vault must not be able to
/// close a backup by adding an envelope.
///
/// # Errors
/// [`WorkError`] if no envelope is believed or no slot opens.
pub async fn open(rig: &Rig, manifest: &Manifest) -> Result<OpenedBackup, WorkError> {
    let reading = Reading::begin(rig, &manifest.backup).await?;
    if let Ok(mut all) = rig.reading.lock() {
        all.push(reading);
    }
    let Envelopes { believed, defects, .. } = envelopes(rig, manifest).await?;
    let (identity, slot) = openers::open(&context_of(manifest), &believed, &rig.openers).await?;
    for defect in &defects {
        tracing::warn!(backup = %manifest.backup, defect, "part of the envelope is not as it should be");
    }
    let number = believed.first().map_or(1, |(newest, _)| newest.number);
    Ok(OpenedBackup { identity, slot, number, defects })
}

/// What a backup's identity is bound to.
#[must_use]
pub fn context_of(manifest: &Manifest) -> Context {
    Context { vault: manifest.vault.clone(), datastore: manifest.datastore.clone(), backup: manifest.backup.clone() }
}

/// The envelopes of a backup.
pub struct Envelopes {
    /// Those that are believed, newest first, each with those of its slots that are whole.
    pub believed: Vec<(Envelope, Vec<SlotBytes>)>,
    /// What is missing, damaged or not believed.
    pub defects: Vec<String>,
    /// A number that no rotation has used, finished or not.
    pub next: u32,
}

/// Reads every envelope of a backup. Their numbers may have holes, where a rotation was interrupted.
///
/// # Errors
/// [`WorkError`] if none is believed, or the vault does not answer.
pub async fn envelopes(rig: &Rig, manifest: &Manifest) -> Result<Envelopes, WorkError> {
    let context = context_of(manifest);
    let place = manifest.place();
    let listed = rig.vault.list(&place.meta_prefix()).await?;
    let used: Vec<(u32, bool)> = listed.iter().filter_map(|facts| place.rotation(&facts.key)).collect();
    let numbers: std::collections::BTreeSet<u32> = used.iter().filter(|(_, envelope)| *envelope).map(|(number, _)| *number).collect();
    let mut read = Envelopes { believed: Vec::new(), defects: Vec::new(), next: 0 };
    for number in numbers.into_iter().rev().filter(|number| (1..=ENVELOPES_MAX).contains(number)) {
        match envelope(rig, manifest, &context, number, &mut read.defects).await {
            Ok(None) => {}
            Ok(Some(envelope)) => {
                // A slot that rotation has retired may be gone, and is no loss.
                let retired = |slot: &Slot| read.believed.first().is_some_and(|(newest, _)| !newest.slots.contains(slot));
                let mut own = Vec::new();
                let slots = slots(rig, &envelope, &retired, &mut own).await?;
                read.defects.append(&mut own);
                read.believed.push((envelope, slots));
            }
            Err(error) if error.trouble() == Trouble::Integrity => read.defects.push(error.to_string()),
            Err(WorkError::Vault(error)) if !is_outage(&error) => read.defects.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    if read.believed.is_empty() {
        let why = if read.defects.is_empty() { "the envelope is missing".to_owned() } else { read.defects.join("; ") };
        return Err(WorkError::Damaged { what: place.envelope(1).to_string(), why });
    }
    let newest = read.believed.iter().map(|(envelope, _)| envelope.number).max().unwrap_or(1);
    read.next = (newest + 1..=ENVELOPES_MAX).find(|number| !used.iter().any(|(used, _)| used == number)).unwrap_or(ENVELOPES_MAX + 1);
    Ok(read)
}

/// The `number`th envelope. The first is bound by the signed manifest's hash, later ones by their own signature.
async fn envelope(
    rig: &Rig,
    manifest: &Manifest,
    context: &Context,
    number: u32,
    defects: &mut Vec<String>,
) -> Result<Option<Envelope>, WorkError> {
    let key = context.place().envelope(number);
    let Some(bytes) = fetch::document(rig.vault.as_ref(), &key).await? else { return Ok(None) };
    let believed = believe(rig, &key, &bytes, "the envelope").await;
    if number == 1 {
        if sha256(&bytes) != manifest.envelope_sha256 {
            return Err(WorkError::Damaged {
                what: key.to_string(),
                why: "it is not the envelope that the signed manifest names".to_owned(),
            });
        }
        match believed {
            Err(error) if error.trouble() == Trouble::Integrity => defects.push(error.to_string()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    } else {
        believed?;
    }
    let envelope = Envelope::parse(&bytes, context)?;
    // An old one under a higher number would bring back slots that were retired, and retire those that are in use.
    if envelope.number != number {
        let why = format!("it says that it is envelope {}, and was put in this place by somebody else", envelope.number);
        return Err(WorkError::Damaged { what: key.to_string(), why });
    }
    Ok(Some(envelope))
}

/// Why there is no `RESTORE.md` that may be run.
#[derive(Debug, thiserror::Error)]
pub enum NoGuide {
    /// Nobody signed it, as none was before guides were signed.
    #[error("{0} is not signed, so it is not run: it would be handed a key that opens every backup")]
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

impl From<NoGuide> for WorkError {
    fn from(error: NoGuide) -> Self {
        match error {
            NoGuide::Vault(error) => error.into(),
            NoGuide::Unsigned(key) => Self::Damaged {
                what: key.to_string(),
                why: "it is not signed, so it is not run: it would be handed a key that opens every backup. `lifeboat rekey --confirm` writes one that is signed".to_owned(),
            },
            NoGuide::Damaged { key, why } => Self::Damaged { what: key.to_string(), why: why.to_owned() },
        }
    }
}

/// The `RESTORE.md` of an envelope of a backup, if a pinned key signed it and it belongs there. What is run with a key that opens everything is
/// believed as little as a manifest.
///
/// # Errors
/// [`NoGuide`]
pub async fn guide(rig: &Rig, manifest: &Manifest, number: u32) -> Result<bytes::Bytes, NoGuide> {
    let key = manifest.place().restore_guide(number);
    let damaged = |why| NoGuide::Damaged { key: key.clone(), why };
    let text = fetch::document(rig.vault.as_ref(), &key).await?.ok_or_else(|| damaged("it is missing"))?;
    let Some(signature) = fetch::document(rig.vault.as_ref(), &key.signature()).await? else {
        return Err(NoGuide::Unsigned(key));
    };
    if rig.trusted.signer_of(&text, &signature).is_none() {
        return Err(damaged("its signature is not that of a trusted key"));
    }
    if !guide::belongs(&text, manifest, number) {
        return Err(damaged("it is the guide to something else"));
    }
    Ok(text)
}

async fn slots(
    rig: &Rig,
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
            None => defects.push(format!("key slot {} ({}) is missing or damaged", slot.name, slot.file)),
        }
    }
    Ok(whole)
}

/// SHA-256 in lower-case hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

/// Begins to open a payload: its objects are fetched ahead and checked against the manifest as they are read.
///
/// # Errors
/// [`WorkError`] if an object is missing, frozen, or does not open.
pub async fn open_payload(rig: &Rig, payload: &Payload, identity: &Identity) -> Result<Opened, WorkError> {
    let keys = payload.objects.iter().map(|o| (o.key.clone(), o.bytes)).collect();
    let chunks = match fetch::stream(std::sync::Arc::clone(&rig.vault), keys, rig.cancel.clone()).await {
        Err(VaultError::Tally { what, why }) => return Err(WorkError::Damaged { what, why }),
        other => other?,
    };
    let expected = payload.objects.iter().map(|o| Expected { name: o.key.to_string(), bytes: o.bytes, sha256: o.sha256.clone() }).collect();
    let (name, identity) = (payload.name.clone(), identity.clone());
    let opened = tokio::task::spawn_blocking(move || Opened::new(&name, chunks, expected, &identity)).await;
    Ok(opened.map_err(|_| WorkError::Bug("the thread that opens payloads died".to_owned()))??)
}

/// Reads a small payload whole.
///
/// # Errors
/// As [`open_payload`]; also if it is larger than any real one.
pub async fn read_payload(rig: &Rig, payload: &Payload, identity: &Identity) -> Result<Vec<u8>, WorkError> {
    const BYTES_MAX: usize = 1024 * 1024 * 1024;
    let mut opened = open_payload(rig, payload, identity).await?;
    let read = tokio::task::spawn_blocking(move || opened.read_all(BYTES_MAX)).await;
    Ok(read.map_err(|_| WorkError::Bug("the thread that reads payloads died".to_owned()))??)
}

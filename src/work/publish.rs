//! From staged payloads to the commit point: what every kind of backup has in common.
//!
//! Keys come first ([`PendingBackup::begin`]): an identity that cannot be wrapped into every slot,
//! or a signature that nobody would trust, stops the run before anything is touched. [`commit`]
//! makes payloads visible, writes slots, envelope and `RESTORE.md`, the manifest's signature, and
//! last the manifest. On a failure before that, everything is rolled back.

use jiff::Timestamp;

use super::fence::FencingToken;
use super::payload::{StagedPayload, complete_all};
use super::{WorkContext, WorkError, cancellable, guide, shelf};
use crate::catalog::CatalogError;
use crate::domain::envelope::{EncryptionContext, Envelope, Slot};
use crate::domain::id::BackupId;
use crate::domain::layout::{self, ObjectKey, parse_manifest_key};
use crate::domain::manifest::{self, Manifest, ManifestStatement, SourceFacts};
use crate::domain::volumes::VolumeSet;
use crate::domain::{ErrorClass, VaultDocument};
use crate::failpoint;
use crate::keyring::sign::PublicKey;
use crate::seal::BackupIdentity;
use crate::vault::VaultError;
use crate::vault::fetch::RetryBackoff;

/// A backup that is begun: its identity, wrapped under every key.
pub struct PendingBackup {
    /// What it is of.
    pub context: EncryptionContext,
    /// What its payloads are sealed to.
    pub identity: BackupIdentity,
    /// When it was begun.
    pub begun: Timestamp,
    wrapped: Vec<(Slot, VaultDocument)>,
}

impl PendingBackup {
    /// Makes the identity of a backup and wraps it, and sees to it that what will be signed will be
    /// believed.
    ///
    /// # Errors
    /// [`WorkError`] if a key or the signer refuses.
    pub async fn begin(
        rig: &WorkContext,
        context: EncryptionContext,
        begun: Timestamp,
    ) -> Result<Self, WorkError> {
        if let Some(catalog) = rig.catalog() {
            without_catalog(
                catalog.note_begun(&context.vault, &context.datastore, &context.backup).await,
            );
        }
        let identity = BackupIdentity::generate();
        let wrapped = wrap(rig, &identity, &context).await?;
        // A key that cannot sign, or that nobody believes, must not be found out after hours of
        // dumping.
        let probe = VaultDocument::probe();
        believed_signer(rig, &probe, &rig.signer.sign(probe.bytes()).await?).await?;
        Ok(Self { context, identity, begun, wrapped })
    }
}

/// What was backed up, beside its payloads.
pub struct BackupContents {
    /// Where it came from.
    pub facts: SourceFacts,
    /// `pg_dump`'s version and its major, of a dump.
    pub pg_dump: Option<(String, u32)>,
    /// The snapshots, of a volume set.
    pub set: Option<VolumeSet>,
    /// The payloads.
    pub arrived: Vec<StagedPayload>,
}

/// A backup that was published, and others that were found beside it.
pub struct PublishedBackup {
    /// Its manifest.
    pub manifest: Manifest,
    /// Genuine backups of the datastore that this catalog knew nothing of, though it knew others.
    pub strangers: Vec<BackupId>,
}

/// Publishes a backup, or leaves nothing of it.
///
/// # Errors
/// [`WorkError`]; only where the manifest's own fate is unknown may there be a backup all the same.
pub async fn commit(
    rig: &WorkContext,
    opening: PendingBackup,
    mandate: FencingToken,
    contents: BackupContents,
) -> Result<PublishedBackup, WorkError> {
    let mut written = Vec::new();
    let published = match publish(rig, opening, mandate, contents, &mut written).await {
        Ok(published) => published,
        Err(PublishError::NoManifest(error)) => {
            remove_unpublished(rig, written).await;
            return Err(error);
        }
        // The manifest may be there: nothing that it names may go.
        Err(PublishError::PerhapsManifest(error)) => return Err(error),
    };
    let manifest = &published.manifest;
    if let Some(catalog) = rig.catalog() {
        match catalog.remember(manifest).await {
            Ok(()) => drop(without_catalog(
                catalog.forget_begun(&manifest.vault, &manifest.datastore, &manifest.backup).await,
            )),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the backup is published but could not be noted in the catalog"
                );
            }
        }
    }
    failpoint::reach("catalog-written");
    Ok(published)
}

/// Wraps the identity under every key. All of them, or there is no backup: fewer ways to open than
/// configured is not success.
async fn wrap(
    rig: &WorkContext,
    identity: &BackupIdentity,
    context: &EncryptionContext,
) -> Result<Vec<(Slot, VaultDocument)>, WorkError> {
    let mut wrapped = Vec::new();
    for key in &rig.keys {
        let bytes = key.wrap(identity, context).await?;
        let slot = Slot {
            name: key.name().to_owned(),
            opens_with: key.opens_with(),
            file: context.place().slot(1, key.name(), key.extension()),
            sha256: shelf::sha256(bytes.bytes()),
        };
        wrapped.push((slot, VaultDocument::slot(&bytes)));
    }
    Ok(wrapped)
}

/// The newest record of the evidence: as the vault has it, or, for a role that may not read, as
/// this host last saw it.
async fn evidence_head(rig: &WorkContext, vault: &crate::domain::id::VaultId) -> Option<String> {
    match crate::evidence::head(rig.vault.as_ref()).await {
        Ok(head) => head,
        Err(_) => without_catalog(rig.catalog()?.evidence_seen(vault).await)?
            .pop()
            .map(|(_, sha256)| sha256),
    }
}

/// A full or locked catalog is no reason to go without tonight's backup.
pub(super) fn without_catalog<T>(result: Result<T, CatalogError>) -> Option<T> {
    result
        .inspect_err(|error| {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "the catalog cannot be used; going on without it"
            )
        })
        .ok()
}

/// Why a backup is not published, and whether its manifest may be in the vault all the same.
enum PublishError {
    NoManifest(WorkError),
    PerhapsManifest(WorkError),
}

impl<E: Into<WorkError>> From<E> for PublishError {
    fn from(error: E) -> Self {
        Self::NoManifest(error.into())
    }
}

/// Writes objects of one backup and remembers which, so that they can be removed if the backup is
/// not published.
struct BackupWriter<'a> {
    rig: &'a WorkContext,
    written: &'a mut Vec<ObjectKey>,
}

impl BackupWriter<'_> {
    async fn put(&mut self, key: &ObjectKey, document: VaultDocument) -> Result<(), WorkError> {
        self.written.push(key.clone());
        // Everything has been dumped: a store that is away is waited for.
        let mut again = RetryBackoff::new(self.rig.vault.limits().patience);
        loop {
            match self.rig.vault.put(key, document.clone()).await {
                Err(error @ VaultError::Unavailable { .. }) => {
                    cancellable(self.rig, again.after(error)).await??
                }
                done => return Ok(done?),
            }
        }
    }
}

/// From arrived payloads to the commit point: payloads visible, slots, envelope, `RESTORE.md`,
/// signature, manifest.
async fn publish(
    rig: &WorkContext,
    opening: PendingBackup,
    mandate: FencingToken,
    contents: BackupContents,
    written: &mut Vec<ObjectKey>,
) -> Result<PublishedBackup, PublishError> {
    let PendingBackup { context, begun, wrapped, .. } = opening;
    let mut lists = Vec::new();
    let receipts = complete_all(contents.arrived, written, &mut lists).await?;
    let mut writer = BackupWriter { rig, written };
    for (object, list) in lists {
        writer.put(&context.place().chunks(&object), list).await?;
    }
    let (slots, envelope_sha256) = publish_envelope(&mut writer, &context, wrapped).await?;
    failpoint::reach("envelope-written");
    let (pg_dump, pg_dump_major) = contents.pg_dump.unzip();
    let NextSequence { next, strangers } = next_sequence(rig, &context).await?;
    let statement = ManifestStatement {
        vault: context.vault.clone(),
        datastore: context.datastore.clone(),
        backup: context.backup.clone(),
        sequence: next,
        tick: mandate.tick,
        epoch: mandate.epoch,
        begun,
        published: Timestamp::now(),
        source: contents.facts,
        tools: manifest::ToolVersions {
            lifeboat: env!("CARGO_PKG_VERSION").to_owned(),
            pg_dump,
            pg_dump_major,
        },
        set: contents.set,
        envelope_sha256,
        slots: slots
            .iter()
            .map(|s| manifest::SlotReference {
                name: s.name.clone(),
                kind: guide::kind(s).to_owned(),
            })
            .collect(),
        evidence_head: evidence_head(rig, &context.vault).await,
    };
    let manifest = Manifest::new(statement, receipts);
    let document = VaultDocument::manifest(&manifest);
    let signature = rig.signer.sign(document.bytes()).await?;
    let public = believed_signer(rig, &document, &signature).await?;
    let place = manifest.place();
    let guide = guide::restore_guide(
        &manifest,
        1,
        &slots,
        rig.vault.as_ref(),
        &public,
        &shelf::sha256(document.bytes()),
    );
    let guide = VaultDocument::restore_guide(guide);
    writer
        .put(
            &place.restore_guide(1).signature(),
            VaultDocument::signature(rig.signer.sign(guide.bytes()).await?),
        )
        .await?;
    writer.put(&place.restore_guide(1), guide).await?;
    writer.put(&place.manifest().signature(), VaultDocument::signature(signature)).await?;
    failpoint::reach("signature-written");
    if rig.cancel.is_cancelled() {
        return Err(WorkError::Interrupted.into());
    }
    mandate.holds(rig, &context.datastore).await?;
    failpoint::reach("about-to-publish");
    let perhaps = |error: WorkError| PublishError::PerhapsManifest(error);
    let mut again = RetryBackoff::new(rig.vault.limits().patience);
    loop {
        match rig.vault.put(&place.manifest(), document.clone()).await {
            Ok(()) => break,
            // Whoever waits for the store must see afterwards whether the datastore is still its
            // own.
            Err(error @ VaultError::Unavailable { .. }) => {
                cancellable(rig, again.after(error))
                    .await
                    .map_err(perhaps)?
                    .map_err(|error| perhaps(error.into()))?;
                mandate.holds(rig, &context.datastore).await.map_err(perhaps)?;
            }
            Err(error) => return Err(perhaps(error.into())),
        }
    }
    failpoint::reach("manifest-written");
    Ok(PublishedBackup { manifest, strangers })
}

/// Writes slots and the signed envelope that lists them.
async fn publish_envelope(
    writer: &mut BackupWriter<'_>,
    context: &EncryptionContext,
    wrapped: Vec<(Slot, VaultDocument)>,
) -> Result<(Vec<Slot>, String), WorkError> {
    let mut slots = Vec::new();
    for (slot, document) in wrapped {
        writer.put(&slot.file, document).await?;
        slots.push(slot);
    }
    let envelope = VaultDocument::envelope(&Envelope::first(context, slots.clone()));
    let key = context.place().envelope(1);
    let signature = writer.rig.signer.sign(envelope.bytes()).await?;
    writer.put(&key.signature(), VaultDocument::signature(signature)).await?;
    let sha256 = shelf::sha256(envelope.bytes());
    writer.put(&key, envelope).await?;
    Ok((slots, sha256))
}

/// The public key under which the signature will be believed. A key that signs what nobody will
/// believe makes backups that nobody will restore. A signing role need not be able to tell its
/// public half, so the pinned keys are asked first.
async fn believed_signer(
    rig: &WorkContext,
    document: &VaultDocument,
    signature: &[u8],
) -> Result<PublicKey, WorkError> {
    if rig.trusted.is_empty() {
        return Ok(rig.signer.public().await?);
    }
    let why = match rig.trusted.signer_at(document.bytes(), signature, Timestamp::now()) {
        Ok(pinned) => return Ok(pinned.clone()),
        Err(why) => why,
    };
    let hint = match rig.signer.public().await {
        Ok(public) if rig.trusted.distrusted_from(&public).is_some() => {
            "make a new signing key and add its public half to trust: docs/RUNBOOK.md, \"The signing key is lost or stolen\"".to_owned()
        }
        Ok(public) => format!("add it to [signing] in lifeboat.toml: trust = [\"{}\"]", public.to_line()),
        Err(_) => "add its public half to [signing] in lifeboat.toml: trust = [\"…\"]".to_owned(),
    };
    Err(WorkError::Refused {
        what: format!("the signing key {}", rig.signer.name()),
        why: format!("what it signs would not be believed: {why}"),
        hint,
    })
}

/// Takes back what was written of a backup that has no manifest. A role that may only write leaves
/// it to `sweep`.
async fn remove_unpublished(rig: &WorkContext, written: Vec<ObjectKey>) {
    for key in written {
        // The very version that was written: a store that keeps versions would only hide it.
        let removed = match rig.vault.find(&key).await {
            Ok(Some(facts)) => rig.vault.erase(&facts).await,
            Ok(None) => Ok(()),
            Err(_) => rig.vault.remove(&key).await,
        };
        if let Err(error) = removed {
            tracing::info!(%key, error = &error as &dyn std::error::Error, "left behind; `lifeboat sweep` removes it");
        }
    }
}

/// The number of the backup that is being published, and what was found while it was looked for.
struct NextSequence {
    next: u64,
    strangers: Vec<BackupId>,
}

/// One more than the highest sequence number of the datastore. Manifests that the catalog knows are
/// not read again; those it does not know are, whoever wrote them and whenever: clocks of hosts
/// differ, so names alone do not tell the newest. Those are remembered, and told of: they were
/// taken by another host with the same keys, or this catalog is of an earlier day.
async fn next_sequence(
    rig: &WorkContext,
    context: &EncryptionContext,
) -> Result<NextSequence, WorkError> {
    let known = shelf::known_here(rig, &context.vault, &context.datastore).await;
    let mut highest = known.values().copied().max();
    let mut strangers = Vec::new();
    let begun = match rig.catalog() {
        Some(catalog) => without_catalog(catalog.begun(&context.vault, &context.datastore).await)
            .unwrap_or_default(),
        None => Default::default(),
    };
    let listed = rig.vault.list(&layout::manifests_of(&context.datastore)).await?;
    let names = listed
        .iter()
        .filter_map(|facts| parse_manifest_key(facts.key.as_str()))
        .map(|(_, backup)| backup);
    for backup in names.filter(|backup| !known.contains_key(backup)) {
        let place = layout::BackupKeys { datastore: &context.datastore, backup: &backup };
        match shelf::load_manifest(rig, &context.vault, &place).await {
            Ok(believed) => {
                highest = highest.max(Some(believed.manifest.sequence));
                if let Some(catalog) = rig.catalog().filter(|_| believed.verified) {
                    without_catalog(catalog.remember(&believed.manifest).await);
                    // A catalog that is new knows nothing of what was before it; and a run of ours
                    // may have died before it noted what it had published.
                    let is_ours = begun.contains(&backup);
                    if is_ours {
                        without_catalog(
                            catalog.forget_begun(&context.vault, &context.datastore, &backup).await,
                        );
                    }
                    strangers.extend((!known.is_empty() && !is_ours).then_some(backup));
                }
            }
            // A role that may only write remembers, and a forged manifest must not stop tonight's
            // backup.
            Err(error) if highest.is_some() || error.class() == ErrorClass::Integrity => {
                tracing::warn!(%backup, error = &error as &dyn std::error::Error, "a manifest is passed over for the sequence number");
            }
            Err(error) => return Err(error),
        }
    }
    if !strangers.is_empty() {
        tracing::warn!(
            datastore = %context.datastore,
            "{}: another host takes backups with these keys, or the catalog was restored from an earlier day",
            tell_strangers(&strangers)
        );
    }
    Ok(NextSequence { next: highest.unwrap_or(0) + 1, strangers })
}

/// Backups that were found, as they are told.
#[must_use]
pub fn tell_strangers(strangers: &[BackupId]) -> String {
    let names: Vec<&str> = strangers.iter().map(BackupId::as_str).take(8).collect();
    let more = match strangers.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("backups that this catalog knew nothing of: {}{more}", names.join(", "))
}

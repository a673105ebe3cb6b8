//! Verifying a backup, every byte: signatures, ciphertext hashes, age to the final chunk, zstd
//! frames, the archive's own structure, and the fingerprint computed again from the stream. Reports
//! what it did not look at.

use std::sync::Arc;

use serde::Serialize;

use super::back_up::ArchiveTap;
use super::compare::{FingerprintComparison, compare};
use super::publish::without_catalog;
use super::snapshot::verify::SetRead;
use super::{WorkContext, WorkError, shelf, snapshot};
use crate::domain::fingerprint::{Fingerprint, HashKey};
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::manifest::{Manifest, Payload, PayloadRole};
use crate::pg::globals;
use crate::pg::rows::{ArchiveTally, RowFingerprinter, assemble};
use crate::progress::ProgressStage;
use crate::seal::seal_stream::StreamObserver;
use crate::seal::{BackupIdentity, OpenedPayload};

/// Remembers on this host what a reading of a whole backup has shown: `status` tells of one that is
/// damaged until it is read again and whole.
pub async fn remember(
    rig: &WorkContext,
    vault: &VaultId,
    datastore: &DatastoreName,
    backup: &BackupId,
    found: Result<(), &WorkError>,
) {
    // What is said of a copy is not so of its home.
    let Some(catalog) = rig.catalog().filter(|_| !rig.is_elsewhere) else { return };
    match found {
        Ok(()) => without_catalog(catalog.note_whole(vault, datastore, backup).await),
        Err(error) if error.is_damage() => without_catalog(
            catalog.note_damaged(vault, datastore, backup, &error.in_one_line()).await,
        ),
        // Nothing is known of it.
        Err(_) => None,
    };
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct VerifyReport {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// Always so: of one that is damaged there is no such report.
    pub whole: bool,
    /// Whether a pinned key signed it.
    pub signature_verified: bool,
    /// The slot that opened it.
    pub opened_with: String,
    /// Ciphertext bytes read.
    pub sealed_bytes: u64,
    /// Plaintext bytes seen.
    pub plain_bytes: u64,
    /// Tables and rows compared with the fingerprint, and differences, of a dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<FingerprintComparison>,
    /// What was read of a volume set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<SetRead>,
    /// What was not looked at.
    pub not_looked_at: Vec<String>,
}

/// Verifies one backup.
///
/// # Errors
/// [`WorkError`] for the first thing that is not whole; [`WorkError::CheckFailed`] if the stream is
/// not what the fingerprint says; [`WorkError::NotVerified`] never: without a pinned key the report
/// says so instead.
pub async fn verify(
    rig: &WorkContext,
    manifest: &Manifest,
    signature_verified: bool,
) -> Result<VerifyReport, WorkError> {
    // What is read is locked until this backup is done, not until all are.
    let rig = &WorkContext { reading: Arc::default(), ..rig.clone() };
    if manifest.set.is_some() {
        return snapshot::verify::verify(rig, manifest, signature_verified).await;
    }
    let shelf::OpenedBackup { identity, slot, number, mut defects } =
        shelf::open_backup(rig, manifest).await?;
    let mut unseen = vec!["whether a server accepts the SQL: only a restore shows that".to_owned()];
    by_hand(rig, manifest, &identity, number, &mut defects, &mut unseen).await?;
    let sealed = payload_of(manifest, PayloadRole::Fingerprint)?;
    let recorded = Fingerprint::parse(&shelf::read_payload(rig, sealed, &identity).await?)?;
    let script =
        shelf::read_payload(rig, payload_of(manifest, PayloadRole::Globals)?, &identity).await?;
    globals::parse(&script).map_err(|error| WorkError::Damaged {
        what: "globals.sql".to_owned(),
        why: error.to_string(),
    })?;
    let stage = rig.progress.begin("verify", Some(manifest.plain_bytes()));
    let mut tallies = Vec::new();
    for payload in
        std::iter::once(payload_of(manifest, PayloadRole::Main)?).chain(manifest.data_payloads())
    {
        tallies
            .push(read_archive(rig, payload, &identity, &recorded.key, Arc::clone(&stage)).await?);
    }
    stage.end();
    let mut tallies = tallies.into_iter();
    let found = assemble(
        recorded.key.clone(),
        recorded.pg_dump_major,
        tallies.next().unwrap_or_default(),
        tallies,
    );
    let comparison = compare(&recorded, &found, &[]);
    if !comparison.agrees() {
        return Err(WorkError::CheckFailed(format!(
            "backup {} is not what its fingerprint says: {}",
            manifest.backup,
            comparison.differences.join("; ")
        )));
    }
    if !defects.is_empty() {
        return Err(WorkError::Damaged {
            what: format!("what stands beside the payloads of backup {}", manifest.backup),
            why: format!(
                "{}. The payloads are whole and open with slot {slot}",
                defects.join("; ")
            ),
        });
    }
    let unseen = not_looked_at(rig, manifest, signature_verified, &slot, unseen);
    Ok(VerifyReport {
        comparison: Some(comparison),
        ..VerifyReport::of(manifest, signature_verified, slot, unseen)
    })
}

/// What a restore by hand uses beside the payloads that are compared: `RESTORE.md`, which is a
/// defect if it is not the one that was signed, and the restore plan.
pub(super) async fn by_hand(
    rig: &WorkContext,
    manifest: &Manifest,
    identity: &BackupIdentity,
    envelope: u32,
    defects: &mut Vec<String>,
    unseen: &mut Vec<String>,
) -> Result<(), WorkError> {
    for payload in manifest.payloads.iter().filter(|payload| payload.role == PayloadRole::Plan) {
        shelf::read_payload(rig, payload, identity).await?;
    }
    for object in manifest.payloads.iter().flat_map(|payload| &payload.objects) {
        match shelf::load_chunk_list(rig.vault.as_ref(), object).await {
            Err(WorkError::Damaged { what, why }) => {
                defects.push(format!("{what} is damaged: {why}"))
            }
            other => drop(other?),
        }
    }
    if rig.trusted.is_empty() {
        return Ok(());
    }
    match shelf::load_guide(rig, manifest, envelope).await {
        Ok(_) => {}
        // Whoever wrote lists of chunks signed the guide as well.
        Err(shelf::GuideError::Unsigned(key))
            if manifest.format == crate::domain::manifest::FORMAT =>
        {
            defects.push(format!("{key} is damaged: its signature is missing"));
        }
        Err(shelf::GuideError::Unsigned(key)) => {
            unseen.push(format!("{key}: nobody signed it, and nobody should run it; `lifeboat rekey --confirm` writes one that is signed"));
        }
        Err(shelf::GuideError::Damaged { key, why }) => {
            defects.push(format!("{key} is damaged: {why}"))
        }
        Err(shelf::GuideError::Vault(error)) => return Err(error.into()),
    }
    Ok(())
}

impl VerifyReport {
    /// What is told of every backup, whatever it holds.
    pub(super) fn of(
        manifest: &Manifest,
        signature_verified: bool,
        opened_with: String,
        not_looked_at: Vec<String>,
    ) -> Self {
        Self {
            datastore: manifest.datastore.clone(),
            backup: manifest.backup.clone(),
            whole: true,
            signature_verified,
            opened_with,
            sealed_bytes: manifest.sealed_bytes(),
            plain_bytes: manifest.plain_bytes(),
            comparison: None,
            set: None,
            not_looked_at,
        }
    }
}

/// What was not looked at: `list` of this kind of backup, and what no verification sees.
pub(super) fn not_looked_at(
    rig: &WorkContext,
    manifest: &Manifest,
    signature_verified: bool,
    slot: &str,
    mut list: Vec<String>,
) -> Vec<String> {
    let others: Vec<&str> =
        manifest.slots.iter().map(|s| s.name.as_str()).filter(|name| *name != slot).collect();
    if !others.is_empty() {
        list.push(format!("whether the other key slots open it: {}", others.join(", ")));
    }
    if !signature_verified || rig.trusted.is_empty() {
        list.push("the signature: no key is pinned (trust = […] or --trust-key)".to_owned());
    }
    list
}

/// The payload of a role; the manifest's own check has made sure of it.
///
/// # Errors
/// [`WorkError::Damaged`] if it is not there.
pub fn payload_of(manifest: &Manifest, role: PayloadRole) -> Result<&Payload, WorkError> {
    manifest.payload(role).ok_or_else(|| WorkError::Damaged {
        what: format!("the manifest of {}", manifest.backup),
        why: format!("it has no payload of role {role:?}"),
    })
}

async fn read_archive(
    rig: &WorkContext,
    payload: &Payload,
    identity: &BackupIdentity,
    key: &HashKey,
    stage: Arc<ProgressStage>,
) -> Result<ArchiveTally, WorkError> {
    let opened = shelf::open_payload(rig, payload, identity).await?;
    let tap = ArchiveTap::new(RowFingerprinter::new(key.clone()), stage);
    let (name, cancel) = (payload.name.clone(), rig.cancel.clone());
    let read = move || read_through(&name, opened, tap, &cancel);
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|_| WorkError::Bug("the verifying thread died".to_owned()))?
}

fn read_through(
    name: &str,
    mut opened: OpenedPayload,
    mut tap: ArchiveTap,
    cancel: &tokio_util::sync::CancellationToken,
) -> Result<ArchiveTally, WorkError> {
    let malformed = |why| WorkError::Damaged { what: name.to_owned(), why };
    let mut chunk = vec![0; 1024 * 1024];
    loop {
        if cancel.is_cancelled() {
            return Err(WorkError::Interrupted);
        }
        match opened.read(&mut chunk)? {
            0 => return tap.done().map_err(malformed),
            count => tap.observe(&chunk[..count]).map_err(malformed)?,
        }
    }
}

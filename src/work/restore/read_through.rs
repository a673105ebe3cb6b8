//! Reading through, before anything of it reaches a server, what has no list of its chunks: backups
//! of earlier versions, and lists that are lost. age authenticates a chunk at a time under the
//! backup's identity, and whoever knows that could have written another archive; what the signed
//! manifest says of an object is known only at its end.

use std::sync::Arc;

use crate::domain::manifest::{CHUNK_BYTES, Manifest, Payload, PayloadRole, StoredObject};
use crate::seal::open::ExpectedObject;
use crate::seal::relay::CiphertextRelay;
use crate::vault::Vault;
use crate::vault::fetch::{self, WantedObject};
use crate::work::{WorkContext, WorkError, shelf};

/// Bytes each second that are assumed where objects are only read and hashed: a slow line; nothing
/// was measured of this one.
pub const BYTES_PER_SECOND_ASSUMED: f64 = 50_000_000.0;

/// Bytes of what is streamed to a server, and has no list of its chunks in the manifest.
#[must_use]
pub fn bytes_without_list(manifest: &Manifest) -> u64 {
    streamed(manifest).filter(|object| object.chunks.is_none()).map(|object| object.bytes).sum()
}

/// What reaches a server as it comes; globals and the fingerprint are read to their end before they
/// are looked at.
fn streamed(manifest: &Manifest) -> impl Iterator<Item = &StoredObject> {
    let streams =
        |payload: &&Payload| matches!(payload.role, PayloadRole::Main | PayloadRole::Data);
    manifest.payloads.iter().filter(streams).flat_map(|payload| &payload.objects)
}

/// Whether everything that is streamed has its list, and that is the one that was signed.
///
/// # Errors
/// [`WorkError`] if the vault does not answer.
pub async fn has_lists(rig: &WorkContext, manifest: &Manifest) -> Result<bool, WorkError> {
    let objects: Vec<StoredObject> = streamed(manifest).cloned().collect();
    Ok(shelf::wanted_objects(rig, &objects).await?.iter().all(|wanted| wanted.chunks.is_some()))
}

/// Reads it through.
///
/// # Errors
/// [`WorkError`] if an object is not what the signed manifest says.
pub async fn read_through(rig: &WorkContext, manifest: &Manifest) -> Result<(), WorkError> {
    let mut unlisted = Vec::new();
    for object in streamed(manifest) {
        let [wanted] = &shelf::wanted_objects(rig, std::slice::from_ref(object)).await?[..] else {
            continue;
        };
        if wanted.chunks.is_none() {
            unlisted.push(object);
        }
    }
    if unlisted.is_empty() {
        return Ok(());
    }
    let stage = rig
        .progress
        .begin("read through first", Some(unlisted.iter().map(|object| object.bytes).sum()));
    for object in unlisted {
        let list = is_whole(rig, &rig.vault, object, |bytes| stage.add(bytes)).await?;
        // What is loaded afterwards must be what was read now.
        shelf::know_list(rig, object, list);
    }
    stage.end();
    Ok(())
}

/// Reads an object to its end, and holds it against the manifest. Returns the list of its chunks.
///
/// # Errors
/// [`WorkError`] if it is not what the manifest says.
pub async fn is_whole(
    rig: &WorkContext,
    vault: &Arc<dyn Vault>,
    object: &StoredObject,
    passed: impl Fn(u64),
) -> Result<bytes::Bytes, WorkError> {
    let wanted = WantedObject { key: object.key.clone(), bytes: object.bytes, chunks: None };
    let mut chunks = fetch::stream(Arc::clone(vault), vec![wanted], rig.cancel.clone()).await?;
    let mut reading = CiphertextRelay::new(ExpectedObject::of(object, false), CHUNK_BYTES, false);
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.map_err(|why| why.of(object.key.as_str()))?;
        passed(chunk.len() as u64);
        reading.pass(&chunk)?;
    }
    let (_, proof) = reading.done()?;
    Ok(proof.chunks.concat().into())
}

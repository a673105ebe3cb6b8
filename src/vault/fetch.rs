//! Reading whole objects: small ones at once, payloads as a stream of ranges fetched ahead in parallel, in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{ObjectFacts, Vault, VaultError, Warm};
use crate::domain::layout::ObjectKey;

/// Shortest and longest pause before a store that does not answer is asked again.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// See [`PAUSE_MIN`].
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// Largest document that is read at once, in bytes: whoever may write to the vault must not fill this host's memory.
pub const DOCUMENT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The same for a signature.
pub const SIGNATURE_BYTES_MAX: u64 = 1024;

/// Reads a small object whole; `None` if it does not exist.
///
/// # Errors
/// [`VaultError`], also for an object too large to be a document.
pub async fn document(vault: &dyn Vault, key: &ObjectKey) -> Result<Option<Bytes>, VaultError> {
    match vault.find(key).await? {
        Some(facts) => document_of(vault, facts).await.map(Some),
        None => Ok(None),
    }
}

/// Reads a small object whole whose facts a listing gave.
///
/// # Errors
/// [`VaultError`], also for an object too large to be a document.
pub async fn document_of(vault: &dyn Vault, facts: ObjectFacts) -> Result<Bytes, VaultError> {
    let (limit, what) = if facts.key.is_signature() { (SIGNATURE_BYTES_MAX, "a signature") } else { (DOCUMENT_BYTES_MAX, "a document") };
    if facts.bytes > limit {
        return Err(VaultError::Tally { what: facts.key.to_string(), why: format!("{} bytes are too many for {what}", facts.bytes) });
    }
    let length = usize::try_from(facts.bytes).unwrap_or_default();
    let warm = facts.warm()?;
    range(vault, &warm, 0, length, Duration::ZERO).await
}

/// Bytes `from..from + length` of an object, going on at the byte where the store stopped sending; fewer only at the object's end.
///
/// While the store does not answer it is asked again, ever less often, for so long. Bytes that came
/// begin that time anew.
///
/// # Errors
/// [`VaultError`]
async fn range(vault: &dyn Vault, object: &Warm, from: u64, length: usize, patience: Duration) -> Result<Bytes, VaultError> {
    let first = patiently(vault, object, from, length, patience).await?;
    if first.len() == length || first.is_empty() {
        return Ok(first);
    }
    let mut bytes = BytesMut::from(first);
    while bytes.len() < length {
        let more = patiently(vault, object, from + bytes.len() as u64, length - bytes.len(), patience).await?;
        if more.is_empty() {
            break;
        }
        bytes.extend_from_slice(&more);
    }
    Ok(bytes.freeze())
}

async fn patiently(vault: &dyn Vault, object: &Warm, from: u64, length: usize, patience: Duration) -> Result<Bytes, VaultError> {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        match vault.read(object, from, length).await {
            Err(VaultError::Unavailable { what, why }) if begun.elapsed() + pause < patience => {
                if pause == PAUSE_MIN {
                    let minutes = patience.as_secs() / 60;
                    tracing::warn!("{what} at byte {from}: {why}; it is tried again for {minutes} minutes");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            other => return other,
        }
    }
}

/// Streams objects one after the other, `transfers_max` ranges ahead. Each must have the size that is known of it: nothing is fetched of one that
/// has another. Dropping the receiver stops the reading, and so does `cancel`.
///
/// # Errors
/// [`VaultError::Missing`], [`VaultError::Frozen`] or [`VaultError::Tally`] before anything is read; later errors come through the channel.
pub async fn stream(
    vault: Arc<dyn Vault>,
    objects: Vec<(ObjectKey, u64)>,
    cancel: CancellationToken,
) -> Result<tokio::sync::mpsc::Receiver<Result<Bytes, String>>, VaultError> {
    let mut found = Vec::new();
    let limits = vault.limits();
    for (key, bytes) in objects {
        let facts = vault.find(&key).await?.ok_or_else(|| VaultError::Missing { key: key.to_string() })?;
        if facts.bytes != bytes {
            let why = format!("it has {} bytes, and the signed manifest says {bytes}", facts.bytes);
            return Err(VaultError::Tally { what: key.to_string(), why });
        }
        found.push(facts.warm()?);
    }
    let ranges = found.into_iter().flat_map(move |warm| {
        let step = limits.part_bytes as u64;
        (0..warm.bytes().div_ceil(step)).map(move |index| {
            let from = index * step;
            let length = usize::try_from(step.min(warm.bytes() - from)).unwrap_or(limits.part_bytes);
            (warm.clone(), from, length)
        })
    });
    let (to, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let reads = ranges.map(|(warm, from, length)| {
            let vault = Arc::clone(&vault);
            async move { range(vault.as_ref(), &warm, from, length, limits.patience).await }
        });
        let mut reads = futures::stream::iter(reads).buffered(limits.transfers_max);
        loop {
            let read = tokio::select! {
                () = cancel.cancelled() => Err("interrupted".to_owned()),
                read = reads.next() => match read {
                    Some(read) => read.map_err(|error| error.to_string()),
                    None => return,
                },
            };
            let failed = read.is_err();
            if to.send(read).await.is_err() || failed {
                return;
            }
        }
    });
    Ok(receiver)
}

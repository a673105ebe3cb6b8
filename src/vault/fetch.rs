//! Reading whole objects: small ones at once, payloads as a stream of ranges fetched ahead in parallel, in order.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use super::{ObjectFacts, Vault, VaultError};
use crate::domain::layout::ObjectKey;

/// Largest small document that is read at once, in bytes.
pub const DOCUMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

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
    if facts.bytes > DOCUMENT_BYTES_MAX {
        return Err(VaultError::Tally { what: facts.key.to_string(), why: format!("{} bytes are too many for a document", facts.bytes) });
    }
    let length = usize::try_from(facts.bytes).unwrap_or_default();
    let warm = facts.warm()?;
    vault.read(&warm, 0, length).await
}

/// Streams objects one after the other, `transfers_max` ranges ahead. Dropping the receiver stops the reading.
///
/// # Errors
/// [`VaultError::Missing`] or [`VaultError::Frozen`] before anything is read; later errors come through the channel.
pub async fn stream(
    vault: Arc<dyn Vault>,
    objects: Vec<ObjectKey>,
) -> Result<tokio::sync::mpsc::Receiver<Result<Bytes, String>>, VaultError> {
    let mut ranges = Vec::new();
    let limits = vault.limits();
    for key in objects {
        let facts = vault.find(&key).await?.ok_or_else(|| VaultError::Missing { key: key.to_string() })?;
        let warm = facts.warm()?;
        let step = limits.part_bytes as u64;
        for index in 0..warm.bytes().div_ceil(step) {
            let from = index * step;
            let length = usize::try_from(step.min(warm.bytes() - from)).unwrap_or(limits.part_bytes);
            ranges.push((warm.clone(), from, length));
        }
    }
    let (to, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let reads = ranges.into_iter().map(|(warm, from, length)| {
            let vault = Arc::clone(&vault);
            async move { vault.read(&warm, from, length).await }
        });
        let mut reads = futures::stream::iter(reads).buffered(limits.transfers_max);
        while let Some(read) = reads.next().await {
            let failed = read.is_err();
            if to.send(read.map_err(|error| error.to_string())).await.is_err() || failed {
                return;
            }
        }
    });
    Ok(receiver)
}

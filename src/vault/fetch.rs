//! Reading whole objects: small ones at once, payloads as a stream of ranges fetched ahead in
//! parallel, in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{ObjectFacts, ReadableObject, Vault, VaultError};
use crate::domain::layout::ObjectKey;
use crate::domain::manifest::{CHUNK_BYTES, CHUNK_HASH_BYTES};
use crate::seal::open::{ChunkReceiver, DeliveryError};

/// Shortest and longest pause before a store that does not answer is asked again.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// See [`PAUSE_MIN`].
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// Largest document that is read at once, in bytes: whoever may write to the vault must not fill
/// this host's memory.
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
    let (limit, what) = if facts.key.is_signature() {
        (SIGNATURE_BYTES_MAX, "a signature")
    } else {
        (DOCUMENT_BYTES_MAX, "a document")
    };
    if facts.bytes > limit {
        return Err(VaultError::Tally {
            what: facts.key.to_string(),
            why: format!("{} bytes are too many for {what}", facts.bytes),
        });
    }
    exactly(vault, facts).await
}

/// The same of an object whose size is known by something that is signed, so that it may be larger.
///
/// # Errors
/// [`VaultError`]
pub async fn exactly(vault: &dyn Vault, facts: ObjectFacts) -> Result<Bytes, VaultError> {
    let length = usize::try_from(facts.bytes).unwrap_or_default();
    let warm = facts.warm()?;
    range(vault, &warm, 0, length, Duration::ZERO).await
}

/// Bytes `from..from + length` of an object, going on at the byte where the store stopped sending;
/// fewer only at the object's end.
///
/// While the store does not answer it is asked again, ever less often, for so long. Bytes that came
/// begin that time anew.
///
/// # Errors
/// [`VaultError`]
async fn range(
    vault: &dyn Vault,
    object: &ReadableObject,
    from: u64,
    length: usize,
    patience: Duration,
) -> Result<Bytes, VaultError> {
    let first = with_retry(vault, object, from, length, patience).await?;
    if first.len() == length || first.is_empty() {
        return Ok(first);
    }
    let mut bytes = BytesMut::from(first);
    while bytes.len() < length {
        let more =
            with_retry(vault, object, from + bytes.len() as u64, length - bytes.len(), patience)
                .await?;
        if more.is_empty() {
            break;
        }
        bytes.extend_from_slice(&more);
    }
    Ok(bytes.freeze())
}

/// One range, and, where its hash is known, no other bytes than those: what differs may have been
/// damaged on the way, so it is fetched once more.
async fn chunk(
    vault: &dyn Vault,
    object: &ReadableObject,
    from: u64,
    length: usize,
    hash: Option<&[u8]>,
    patience: Duration,
) -> Result<Bytes, DeliveryError> {
    let mut again = false;
    loop {
        let bytes = range(vault, object, from, length, patience)
            .await
            .map_err(|error| DeliveryError::Fetch(error.to_string()))?;
        let Some(hash) = hash else { return Ok(bytes) };
        let (bytes, is_it) = checked(bytes, hash.to_vec()).await;
        if is_it {
            return Ok(bytes);
        }
        if again {
            let to = from + length as u64;
            let why = format!(
                "its bytes {from} to {to} are not those that were stored, by the signed manifest's list of chunks"
            );
            return Err(DeliveryError::Damaged { name: object.key().to_string(), why });
        }
        tracing::warn!(key = %object.key(), from, length, "a chunk is not the one that was stored; it is fetched once more");
        again = true;
    }
}

/// Whether bytes have a hash; hashed where it holds up no other task.
async fn checked(bytes: Bytes, hash: Vec<u8>) -> (Bytes, bool) {
    let work = move || {
        let is_it = digest::digest(&digest::SHA256, &bytes).as_ref() == hash;
        (bytes, is_it)
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// Pauses between attempts while a store does not answer, ever longer, until patience is over.
pub struct RetryBackoff {
    /// Since when it does not answer.
    begun: Option<Instant>,
    pause: Duration,
    patience: Duration,
}

impl RetryBackoff {
    /// Time begins with the first failure.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self { begun: None, pause: PAUSE_MIN, patience }
    }

    /// Waits before the next attempt, or gives the error back.
    ///
    /// # Errors
    /// `error`, once patience is over.
    pub async fn after(&mut self, error: VaultError) -> Result<(), VaultError> {
        if self.begun.get_or_insert_with(Instant::now).elapsed() + self.pause >= self.patience {
            return Err(error);
        }
        if self.pause == PAUSE_MIN {
            tracing::warn!(
                "{error}; it is tried again for {} minutes",
                self.patience.as_secs() / 60
            );
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

async fn with_retry(
    vault: &dyn Vault,
    object: &ReadableObject,
    from: u64,
    length: usize,
    patience: Duration,
) -> Result<Bytes, VaultError> {
    let mut again = RetryBackoff::new(patience);
    loop {
        match vault.read(object, from, length).await {
            Err(error @ VaultError::Unavailable { .. }) => again.after(error).await?,
            other => return other,
        }
    }
}

/// An object that is to be read, and what a signed manifest says of it.
#[derive(Debug, Clone)]
pub struct WantedObject {
    /// Name.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of each of its chunks, where that is known.
    pub chunks: Option<Bytes>,
}

/// Streams objects one after the other, `transfers_max` ranges ahead. Each must have the size that
/// is known of it: nothing is fetched of one that has another. Of an object whose chunks are known
/// none is delivered that is not the recorded one; what differs is fetched once more. Dropping the
/// receiver stops the reading, and so does `cancel`.
///
/// # Errors
/// [`VaultError::Missing`], [`VaultError::Frozen`] or [`VaultError::Tally`] before anything is
/// read; later errors come through the channel.
pub async fn stream(
    vault: Arc<dyn Vault>,
    objects: Vec<WantedObject>,
    cancel: CancellationToken,
) -> Result<ChunkReceiver, VaultError> {
    let mut found = Vec::new();
    let limits = vault.limits();
    for WantedObject { key, bytes, chunks } in objects {
        let facts =
            vault.find(&key).await?.ok_or_else(|| VaultError::Missing { key: key.to_string() })?;
        if facts.bytes != bytes {
            let why = format!("it has {} bytes, and the signed manifest says {bytes}", facts.bytes);
            return Err(VaultError::Tally { what: key.to_string(), why });
        }
        found.push((facts.warm()?, chunks));
    }
    let ranges = found.into_iter().flat_map(move |(warm, chunks)| {
        let part = if chunks.is_some() { CHUNK_BYTES } else { limits.part_bytes };
        let step = part as u64;
        (0..warm.bytes().div_ceil(step)).map(move |index| {
            let from = index * step;
            let length = usize::try_from(step.min(warm.bytes() - from)).unwrap_or(part);
            // A list that is too short has no hash for what is behind its end, and nothing has that
            // hash.
            let hash = chunks.as_ref().map(|list| {
                let at =
                    usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(CHUNK_HASH_BYTES);
                list.get(at..at.saturating_add(CHUNK_HASH_BYTES))
                    .map(<[u8]>::to_vec)
                    .unwrap_or_default()
            });
            (warm.clone(), from, length, hash)
        })
    });
    let (to, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let reads = ranges.map(|(warm, from, length, hash)| {
            let vault = Arc::clone(&vault);
            async move {
                chunk(vault.as_ref(), &warm, from, length, hash.as_deref(), limits.patience).await
            }
        });
        let mut reads = futures::stream::iter(reads).buffered(limits.transfers_max);
        loop {
            let read = tokio::select! {
                () = cancel.cancelled() => Err(DeliveryError::Fetch("interrupted".to_owned())),
                read = reads.next() => match read {
                    Some(read) => read,
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

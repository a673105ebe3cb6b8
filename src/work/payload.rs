//! One payload on its way into the vault: streamed, uploaded, and completed only when everything
//! else has succeeded too.

use std::io::Read;

use tokio_util::sync::CancellationToken;

use super::{WorkError, shelf};
use crate::domain::VaultDocument;
use crate::domain::layout::ObjectKey;
use crate::domain::manifest::{
    CHUNK_BYTES, ChunkList, Payload, PayloadRole, Receipt, StoredObject,
};
use crate::failpoint;
use crate::seal::seal_stream::{SealOptions, StreamObserver, seal_stream};
use crate::seal::{BackupIdentity, SealError, SealProof, SourceEnd};
use crate::vault::{Upload, Vault};

/// Parts that may wait between sealing and upload.
const PARTS_QUEUED_MAX: usize = 1;

/// What a payload is called and where it goes.
#[derive(Debug, Clone)]
pub struct PayloadDestination {
    /// Name within the backup.
    pub name: String,
    /// What it holds.
    pub role: PayloadRole,
    /// Its first object.
    pub key: ObjectKey,
}

/// A payload that has arrived but is not visible yet.
pub struct StagedPayload {
    destination: PayloadDestination,
    uploads: Vec<(ObjectKey, Box<dyn Upload>)>,
    proof: SealProof,
}

impl StagedPayload {
    async fn complete(
        self,
        completed: &mut Vec<ObjectKey>,
        lists: &mut Vec<(ObjectKey, VaultDocument)>,
    ) -> Result<Receipt, WorkError> {
        let Self { destination, uploads, proof } = self;
        let mut objects = Vec::new();
        let mut left = uploads.into_iter();
        for segment in proof.segments() {
            let Some((key, upload)) = left.next() else { break };
            completed.push(key.clone());
            if let Err(error) = upload.complete(segment).await {
                abort(left.collect()).await;
                return Err(error.into());
            }
            let list = VaultDocument::chunks(&segment.chunks);
            let chunks =
                Some(ChunkList { bytes: CHUNK_BYTES as u64, sha256: shelf::sha256(list.bytes()) });
            lists.push((key.clone(), list));
            objects.push(StoredObject {
                key,
                bytes: segment.bytes,
                sha256: hex::encode(segment.sha256),
                chunks,
            });
        }
        let payload = Payload {
            name: destination.name,
            role: destination.role,
            plain_bytes: proof.plain_bytes(),
            objects,
        };
        Ok(Receipt::of_completed(payload))
    }

    /// Leaves nothing behind.
    pub async fn abort(self) {
        abort(self.uploads).await;
    }
}

/// Makes all payloads of a backup visible. `completed` names what became visible, also on failure;
/// `lists` gets the chunks of each object.
///
/// # Errors
/// [`WorkError::Vault`]; the payloads not yet completed have been aborted then.
pub async fn complete_all(
    payloads: Vec<StagedPayload>,
    completed: &mut Vec<ObjectKey>,
    lists: &mut Vec<(ObjectKey, VaultDocument)>,
) -> Result<Vec<Receipt>, WorkError> {
    let mut receipts = Vec::new();
    let mut left = payloads.into_iter();
    while let Some(payload) = left.next() {
        match payload.complete(completed, lists).await {
            Ok(receipt) => receipts.push(receipt),
            Err(error) => {
                for payload in left {
                    payload.abort().await;
                }
                return Err(error);
            }
        }
    }
    Ok(receipts)
}

async fn abort(uploads: Vec<(ObjectKey, Box<dyn Upload>)>) {
    for (key, upload) in uploads {
        if let Err(error) = upload.abort().await {
            tracing::warn!(%key, error = &error as &dyn std::error::Error, "an unfinished upload could not be aborted; `lifeboat sweep` will find it");
        }
    }
}

/// What is poured: a stream, the proof of its end, and whoever looks at it as it passes.
pub struct PayloadStream<S, E, T> {
    /// The bytes.
    pub source: S,
    /// Called at end of file; may block until the source has proved its end.
    pub end: E,
    /// Sees every byte.
    pub tap: T,
}

/// Pours a source into the vault up to, but not including, the moment it becomes visible.
///
/// # Errors
/// [`WorkError`]; everything begun has been aborted then.
pub async fn send<S, E, T>(
    vault: &dyn Vault,
    destination: PayloadDestination,
    stream: PayloadStream<S, E, T>,
    identity: &BackupIdentity,
    sealing: SealOptions,
    cancel: &CancellationToken,
) -> Result<(StagedPayload, T::Found), WorkError>
where
    S: Read + Send + 'static,
    E: FnOnce() -> Option<SourceEnd> + Send + 'static,
    T: StreamObserver,
{
    let (parts, mut arriving) = tokio::sync::mpsc::channel(PARTS_QUEUED_MAX);
    let pouring = seal_stream(stream.source, stream.end, stream.tap, identity, sealing, parts);
    let mut uploads: Vec<(ObjectKey, Box<dyn Upload>)> = Vec::new();
    let taken = loop {
        let part = tokio::select! {
            () = cancel.cancelled() => break Err(WorkError::Interrupted),
            part = arriving.recv() => part,
        };
        let Some(part) = part else { break Ok(()) };
        let stored = async {
            if part.object > uploads.len() {
                let key = destination.key.piece(part.object);
                let upload = vault.begin(&key).await?;
                uploads.push((key, upload));
                failpoint::reach("upload-begun");
            }
            match uploads.last_mut() {
                Some((_, upload)) => upload.part(part.bytes).await,
                None => Ok(()),
            }
        };
        let stored = tokio::select! {
            () = cancel.cancelled() => Err(WorkError::Interrupted),
            stored = stored => stored.map_err(WorkError::from),
        };
        if stored.is_err() {
            break stored;
        }
        failpoint::reach("part-sent");
    };
    drop(arriving);
    let settled = match taken {
        Ok(()) => settle(&mut uploads).await,
        Err(error) => Err(error),
    };
    let outcome = match settled {
        Ok(()) => pouring
            .outcome()
            .await
            .map_err(|source| WorkError::Seal { payload: destination.name.clone(), source }),
        Err(error) => Err(error),
    };
    match outcome {
        Ok((proof, found)) if proof.segments().len() == uploads.len() => {
            Ok((StagedPayload { destination, uploads, proof }, found))
        }
        Ok(_) => {
            abort(uploads).await;
            Err(WorkError::Bug(format!(
                "payload {} has another number of objects than were sent",
                destination.name
            )))
        }
        Err(error) => {
            abort(uploads).await;
            Err(error)
        }
    }
}

async fn settle(uploads: &mut [(ObjectKey, Box<dyn Upload>)]) -> Result<(), WorkError> {
    for (_, upload) in uploads {
        upload.settle().await?;
    }
    Ok(())
}

/// Whether the error only says that the stream was not right, so that its source may know better
/// why.
#[must_use]
pub fn is_symptom_of_source_failure(error: &WorkError) -> bool {
    matches!(
        error,
        WorkError::Seal {
            source: SealError::Refused(_) | SealError::SourceEndedBadly | SealError::Read(_),
            ..
        }
    )
}

//! Uploads in parts: each sent with its checksum, alone and repeatedly if it must be, and confirmed
//! by the store before the object becomes visible, or read back after.

use async_trait::async_trait;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::task::JoinSet;

use super::confirm::HashedRange;
use super::stall_detection::TransferProgress;
use super::{ATTEMPTS_MAX, S3Vault, SILENCE_MAX, sha256};
use crate::aws::AwsError;
use crate::domain::layout::ObjectKey;
use crate::seal::{SealedBytes, SegmentProof};
use crate::vault::fetch::RetryBackoff;
use crate::vault::{Upload, VaultError};

/// One object on its way.
pub(super) struct S3Upload {
    pub(super) vault: S3Vault,
    pub(super) key: ObjectKey,
    pub(super) upload: String,
    pub(super) begun: JoinSet<Result<UploadedPart, VaultError>>,
    pub(super) done: Vec<UploadedPart>,
    pub(super) next: i32,
}

/// A part that has arrived.
pub(super) struct UploadedPart {
    number: i32,
    etag: String,
    sum: String,
    bytes: u64,
    /// Whether the store confirmed it. What is not is read back when the object is visible: before
    /// that no store gives it out.
    is_confirmed: bool,
}

impl S3Upload {
    fn collect(
        &mut self,
        joined: Result<Result<UploadedPart, VaultError>, tokio::task::JoinError>,
    ) -> Result<(), VaultError> {
        let part = joined.map_err(|_| VaultError::Unknown {
            what: self.key.to_string(),
            why: "an uploading task died".to_owned(),
        })??;
        self.done.push(part);
        Ok(())
    }

    fn sent(&self) -> Vec<HashedRange> {
        self.done.iter().map(|part| (part.bytes, part.sum.clone())).collect()
    }

    fn composite(&self) -> String {
        let digests: Vec<u8> = self
            .done
            .iter()
            .flat_map(|part| STANDARD.decode(&part.sum).unwrap_or_default())
            .collect();
        format!("{}-{}", sha256(&digests), self.done.len())
    }
}

/// Sends one part, alone and repeatedly if it must be.
async fn send_part(
    vault: S3Vault,
    key: String,
    upload: String,
    number: i32,
    sealed: SealedBytes,
) -> Result<UploadedPart, VaultError> {
    let (bytes, sum) = (sealed.bytes(), STANDARD.encode(sealed.sha256()));
    let what = format!("part {number} of {key}");
    let (mut attempt, mut again) = (1, RetryBackoff::new(vault.config.patience.duration()));
    loop {
        let moving = TransferProgress::default();
        let request = vault
            .large
            .upload_part()
            .bucket(&vault.config.bucket)
            .key(&key)
            .upload_id(&upload)
            .part_number(number);
        let request = request
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .checksum_sha256(&sum)
            .body(moving.body(bytes.clone()));
        let error = match moving.while_it_moves(request.send()).await {
            None => VaultError::Unavailable {
                what: what.clone(),
                why: format!("nothing moved for {} seconds", SILENCE_MAX.as_secs()),
            },
            Some(Ok(reply)) => match vault.is_confirmed(&what, reply.checksum_sha256(), &sum) {
                Ok(is_confirmed) => {
                    let etag = reply.e_tag().unwrap_or_default().to_owned();
                    return Ok(UploadedPart {
                        number,
                        etag,
                        sum,
                        bytes: bytes.len() as u64,
                        is_confirmed,
                    });
                }
                Err(error) => error,
            },
            Some(Err(error)) => vault.explain(&what, AwsError::of(&error)),
        };
        match error {
            // The store is away: a backup that has come so far waits for it as a restore does.
            VaultError::Unavailable { .. } => again.after(error).await?,
            VaultError::Tally { .. } if attempt < ATTEMPTS_MAX => attempt += 1,
            error => return Err(error),
        }
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn part(&mut self, bytes: SealedBytes) -> Result<(), VaultError> {
        while self.begun.len() >= self.vault.config.transfers_max {
            if let Some(joined) = self.begun.join_next().await {
                self.collect(joined)?;
            }
        }
        let (vault, key) = (self.vault.clone(), self.vault.full(self.key.as_str()));
        self.begun.spawn(send_part(vault, key, self.upload.clone(), self.next, bytes));
        self.next += 1;
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), VaultError> {
        while let Some(joined) = self.begun.join_next().await {
            self.collect(joined)?;
        }
        Ok(())
    }

    async fn complete(mut self: Box<Self>, proof: &SegmentProof) -> Result<(), VaultError> {
        let mut again = RetryBackoff::new(self.vault.config.patience.duration());
        let settled = self.settle().await;
        let completed = loop {
            if settled.is_err() {
                break settled;
            }
            match self.try_complete(proof).await {
                Err(error @ VaultError::Unavailable { .. }) => {
                    if let Err(error) = again.after(error).await {
                        break Err(error);
                    }
                }
                done => break done,
            }
        };
        // After an unknown outcome there may be nothing to abort, and nothing is lost by trying.
        if completed.is_err()
            && let Err(error) = self.abort().await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an unfinished upload could not be aborted; `lifeboat sweep` will find it"
            );
        }
        completed
    }

    async fn abort(mut self: Box<Self>) -> Result<(), VaultError> {
        // A part that arrives after the abort would be kept and paid for.
        self.begun.shutdown().await;
        let request = self.vault.client.abort_multipart_upload().bucket(&self.vault.config.bucket);
        match request.key(self.vault.full(self.key.as_str())).upload_id(&self.upload).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                match self.vault.explain(&format!("aborting {}", self.key), AwsError::of(&error)) {
                    VaultError::Missing { .. } => Ok(()),
                    error => Err(error),
                }
            }
        }
    }
}

impl S3Upload {
    async fn try_complete(&mut self, proof: &SegmentProof) -> Result<(), VaultError> {
        self.done.sort_by_key(|part| part.number);
        let arrived: u64 = self.done.iter().map(|part| part.bytes).sum();
        if arrived != proof.bytes {
            let why = format!("{arrived} bytes were confirmed and {} were sealed", proof.bytes);
            return Err(VaultError::Tally { what: self.key.to_string(), why });
        }
        let parts = self
            .done
            .iter()
            .map(|p| {
                CompletedPart::builder()
                    .part_number(p.number)
                    .e_tag(&p.etag)
                    .checksum_sha256(&p.sum)
                    .build()
            })
            .collect();
        let sent = self
            .vault
            .large
            .complete_multipart_upload()
            .bucket(&self.vault.config.bucket)
            .key(self.vault.full(self.key.as_str()))
            .upload_id(&self.upload)
            .if_none_match("*")
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .send()
            .await;
        let sum = self.composite();
        match sent {
            // Some stores leave the composite checksum out; the parts were confirmed one by one.
            Ok(reply)
                if reply.checksum_sha256().is_none()
                    && self.done.iter().all(|part| part.is_confirmed) =>
            {
                Ok(())
            }
            Ok(reply)
                if self.vault.is_confirmed(self.key.as_str(), reply.checksum_sha256(), &sum)? =>
            {
                Ok(())
            }
            Ok(_) => self.vault.read_back_as_sent(&self.key, &self.sent()).await,
            Err(error) => {
                let answer = AwsError::of(&error);
                if matches!(answer.code.as_str(), "PreconditionFailed" | "NoSuchUpload")
                    || answer.status.is_none()
                {
                    return self.vault.resolve(&self.key, &sum, &self.sent(), answer).await;
                }
                Err(self.vault.explain(&format!("completing {}", self.key), answer))
            }
        }
    }
}

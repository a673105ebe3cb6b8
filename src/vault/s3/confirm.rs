//! Confirming an upload: by the checksum in the reply, by the checksum of the stored object, or by
//! reading it back.

use std::sync::atomic::Ordering;

use aws_lc_rs::digest;
use aws_sdk_s3::types::ChecksumMode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::S3Vault;
use crate::aws::AwsError;
use crate::config::UploadConfirmation;
use crate::domain::layout::ObjectKey;
use crate::vault::fetch::RetryBackoff;
use crate::vault::{Vault, VaultError};

/// Bytes of an object, one after the other, with the SHA-256 (base64) of each stretch.
pub(super) type HashedRange = (u64, String);

impl S3Vault {
    /// Whether the reply confirms what was sent. `false` if it says nothing and need not, since
    /// what is stored is read back.
    pub(super) fn is_confirmed(
        &self,
        what: &str,
        replied: Option<&str>,
        sum: &str,
    ) -> Result<bool, VaultError> {
        let why = match replied {
            Some(replied) if replied == sum => {
                self.has_echoed.store(true, Ordering::Relaxed);
                // A store may repeat what it was told without having looked.
                return Ok(self.config.confirm == UploadConfirmation::Echo);
            }
            Some(replied) => format!("the store computed SHA-256 {replied}, and {sum} was sent"),
            None if self.config.confirm == UploadConfirmation::ReadBack => return Ok(false),
            None if self.has_echoed.load(Ordering::Relaxed) => {
                "the store confirmed the checksums of others, and not of this one".to_owned()
            }
            None => {
                return Err(VaultError::Unusable(format!(
                    "the store does not repeat the checksum it was given, so nothing says that {what} has arrived. If it never does, write \
                     confirm = \"read-back\" beside s3 in lifeboat.toml: what is stored is read back then, which takes s3:GetObject and as long as a restore"
                )));
            }
        };
        Err(VaultError::Tally { what: what.to_owned(), why })
    }

    /// Reads back what was just stored, which nothing else confirms.
    pub(super) async fn read_back_as_sent(
        &self,
        key: &ObjectKey,
        sent: &[HashedRange],
    ) -> Result<(), VaultError> {
        match self.is_as_sent(key, sent).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(VaultError::Tally {
                what: key.to_string(),
                why: "what was read back is not what was sent".to_owned(),
            }),
            Err(error @ VaultError::Unavailable { .. }) => Err(error),
            Err(error) => Err(VaultError::Unknown {
                what: format!("storing {key}"),
                why: format!(
                    "it is to be read back, as confirm = \"read-back\" says, and that failed: {error}"
                ),
            }),
        }
    }

    /// Whether what stands under a name has these bytes.
    async fn is_as_sent(&self, key: &ObjectKey, sent: &[HashedRange]) -> Result<bool, VaultError> {
        let Some(facts) = self.find(key).await? else { return Ok(false) };
        let object = facts.warm()?;
        if object.bytes() != sent.iter().map(|(bytes, _)| bytes).sum::<u64>() {
            return Ok(false);
        }
        let mut from = 0;
        for (bytes, sum) in sent {
            let end = from + bytes;
            let mut found = digest::Context::new(&digest::SHA256);
            while from < end {
                let length =
                    usize::try_from(end - from).unwrap_or(usize::MAX).min(self.config.part_bytes);
                let mut again = RetryBackoff::new(self.config.patience.duration());
                let read = loop {
                    match self.read(&object, from, length).await {
                        Err(error @ VaultError::Unavailable { .. }) => again.after(error).await?,
                        read => break read?,
                    }
                };
                if read.is_empty() {
                    return Ok(false);
                }
                from += read.len() as u64;
                found.update(&read);
            }
            if STANDARD.encode(found.finish()) != *sum {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// After a 412 or no answer at all: is what stands under the name what we sent?
    pub(super) async fn resolve(
        &self,
        key: &ObjectKey,
        sum: &str,
        sent: &[HashedRange],
        answer: AwsError,
    ) -> Result<(), VaultError> {
        let bytes: u64 = sent.iter().map(|(bytes, _)| bytes).sum();
        let taken = answer.code == "PreconditionFailed";
        let mut again = RetryBackoff::new(self.config.patience.duration());
        let head = loop {
            let request =
                self.client.head_object().bucket(&self.config.bucket).key(self.full(key.as_str()));
            match request.checksum_mode(ChecksumMode::Enabled).send().await {
                Err(error) if AwsError::of(&error).is_passing() => {
                    let away = VaultError::Unavailable {
                        what: format!("looking at {key}"),
                        why: AwsError::of(&error).message,
                    };
                    if again.after(away).await.is_err() {
                        break Err(error);
                    }
                }
                looked => break looked,
            }
        };
        match head {
            Ok(_) if self.config.confirm == UploadConfirmation::ReadBack => {
                match self.is_as_sent(key, sent).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(VaultError::Exists { key: key.clone() }),
                    Err(error) => Err(VaultError::Unknown {
                        what: format!("storing {key}"),
                        why: error.to_string(),
                    }),
                }
            }
            Ok(head) => match head.checksum_sha256() {
                Some(stored)
                    if stored == sum
                        && head.content_length().and_then(|n| u64::try_from(n).ok())
                            == Some(bytes) =>
                {
                    Ok(())
                }
                Some(_) => Err(VaultError::Exists { key: key.clone() }),
                None => Err(VaultError::Unknown {
                    what: format!("storing {key}"),
                    why:
                        "something stands under the name, and the store does not tell its checksum"
                            .to_owned(),
                }),
            },
            Err(error) => {
                let looked = AwsError::of(&error);
                match looked.status {
                    Some(404) if !taken => Err(VaultError::Unavailable {
                        what: format!("storing {key}"),
                        why: answer.message,
                    }),
                    _ => Err(VaultError::Unknown {
                        what: format!("storing {key}"),
                        why: format!(
                            "{}; and looking was answered with: {}",
                            answer.message, looked.message
                        ),
                    }),
                }
            }
        }
    }
}

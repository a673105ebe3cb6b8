//! Capabilities of a store: whether it verifies checksums, locks objects, and keeps storage
//! classes.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ObjectLockEnabled, StorageClass};

use super::{S3Vault, sha256};
use crate::aws::AwsError;
use crate::config::UploadConfirmation;
use crate::domain::layout::ObjectKey;
use crate::vault::StoreCapability;

impl S3Vault {
    pub(super) async fn lock_ability(&self) -> StoreCapability {
        let needed = self.config.object_lock.is_some();
        let reply =
            self.client.get_object_lock_configuration().bucket(&self.config.bucket).send().await;
        let (answer, detail) = match reply {
            Ok(reply) => {
                let on = reply.object_lock_configuration().and_then(|c| c.object_lock_enabled())
                    == Some(&ObjectLockEnabled::Enabled);
                (Some(on), if on { "Object Lock is on" } else { "Object Lock is off" }.to_owned())
            }
            Err(error) => {
                let answer = AwsError::of(&error);
                match answer.code.as_str() {
                    "ObjectLockConfigurationNotFoundError"
                    | "NotImplemented"
                    | "MethodNotAllowed" => {
                        (Some(false), "the bucket has no Object Lock".to_owned())
                    }
                    _ => (None, answer.message),
                }
            }
        };
        StoreCapability { question: "object locks", answer, needed, detail }
    }

    /// Sends bytes with a checksum that is not theirs; a store that takes them verifies nothing.
    pub(super) async fn checksum_ability(&self, key: &ObjectKey) -> StoreCapability {
        let wrong = sha256(b"something else");
        let sent = self
            .client
            .put_object()
            .bucket(&self.config.bucket)
            .key(self.full(&format!("{key}-wrong")))
            .if_none_match("*")
            .checksum_sha256(wrong)
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.config.sse_kms_key.clone())
            .body(ByteStream::from_static(b"lifeboat check: this object may be removed\n"))
            .send()
            .await;
        let (answer, detail) = match sent {
            Ok(_) => (Some(false), "it took bytes with a wrong SHA-256".to_owned()),
            Err(error) => {
                let answer = AwsError::of(&error);
                match answer.status {
                    Some(400) => (Some(true), "it refuses a wrong SHA-256".to_owned()),
                    _ => (None, answer.message),
                }
            }
        };
        let needed = self.config.confirm == UploadConfirmation::Echo;
        StoreCapability { question: "checksums verified by the store", answer, needed, detail }
    }

    pub(super) async fn class_ability(&self, key: &ObjectKey) -> StoreCapability {
        let question = "storage classes";
        let Some(class) = &self.config.storage_class else {
            return StoreCapability {
                question,
                answer: None,
                needed: false,
                detail: "none is asked for".to_owned(),
            };
        };
        let key = self.full(&format!("{key}-class"));
        let put = self
            .client
            .put_object()
            .bucket(&self.config.bucket)
            .key(&key)
            .if_none_match("*")
            .storage_class(StorageClass::from(class.as_str()));
        let put = put
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.config.sse_kms_key.clone());
        let (answer, detail) = match put
            .body(ByteStream::from_static(b"lifeboat check: this object may be removed\n"))
            .send()
            .await
        {
            Err(error) => (Some(false), AwsError::of(&error).message),
            Ok(_) => {
                match self.client.head_object().bucket(&self.config.bucket).key(&key).send().await {
                    Ok(head) if head.storage_class().map(StorageClass::as_str) == Some(class) => {
                        (Some(true), class.clone())
                    }
                    Ok(_) => (Some(false), format!("it takes {class} and does not keep it")),
                    Err(_) => (
                        Some(true),
                        format!("{class} is accepted; whether it is kept may not be looked at"),
                    ),
                }
            }
        };
        StoreCapability { question, answer, needed: true, detail }
    }
}

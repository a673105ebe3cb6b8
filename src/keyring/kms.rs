//! Key slots of kind `aws-kms`, and signatures by an asymmetric KMS key.
//!
//! The encryption context names vault, datastore and backup in every call: a slot of one backup
//! does not open another, and a key policy can say which datastore a role may open. A backup role
//! needs `kms:Encrypt` only.

use async_trait::async_trait;
use aws_lc_rs::digest;
use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeyState, MessageType, SigningAlgorithmSpec};
use jiff::Timestamp;

use super::sign::{PublicKey, Signer};
use super::{KeyError, KeyLifetime, SlotOpener, UnwrapOutcome, WrappingKey};
use crate::aws::{self, AwsError};
use crate::domain::envelope::{EncryptionContext, Slot, SlotKind, WrappedIdentity};
use crate::seal::BackupIdentity;
use age::secrecy::ExposeSecret;

/// A symmetric KMS key.
#[derive(Clone)]
pub struct KmsKey {
    name: String,
    key_id: String,
    region: Option<String>,
    client: Client,
    /// Sent with every decryption: a grant made a moment ago is known only to who brings its
    /// token.
    grant_tokens: Vec<String>,
}

/// The region that an ARN names.
fn region_of(key_id: &str) -> Option<String> {
    let mut parts = key_id.split(':');
    (parts.next() == Some("arn")).then(|| parts.nth(2).map(ToOwned::to_owned)).flatten()
}

async fn client(key_id: &str, region: Option<String>, endpoint: Option<String>) -> Client {
    Client::new(&aws::config(region.or_else(|| region_of(key_id)), endpoint).await)
}

fn explain(key: &str, what: &'static str, answer: AwsError) -> KeyError {
    let (key, why) = (key.to_owned(), answer.message.clone());
    if answer.is_passing() {
        KeyError::Unavailable { key, what, why }
    } else {
        KeyError::Refused { key, what, why }
    }
}

/// What KMS says of a key; takes `kms:DescribeKey`.
async fn life(client: &Client, name: &str, key_id: &str) -> Result<KeyLifetime, KeyError> {
    let sent = client.describe_key().key_id(key_id).send().await;
    let reply = sent.map_err(|error| explain(name, "tell its state", AwsError::of(&error)))?;
    let Some(key) = reply.key_metadata else { return Ok(KeyLifetime::Unlimited) };
    Ok(
        match (
            key.key_state,
            key.deletion_date.and_then(|date| Timestamp::from_second(date.secs()).ok()),
        ) {
            (Some(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion), Some(date)) => {
                KeyLifetime::Ends(date)
            }
            (None | Some(KeyState::Enabled), _) => KeyLifetime::Unlimited,
            (Some(state), _) => {
                KeyLifetime::Over(format!("KMS says that it is {}", state.as_str()))
            }
        },
    )
}

impl KmsKey {
    /// A client for the key. Makes no request.
    pub async fn new(
        name: &str,
        key_id: &str,
        region: Option<String>,
        endpoint: Option<String>,
    ) -> Self {
        let client = client(key_id, region.clone(), endpoint).await;
        Self {
            name: name.to_owned(),
            key_id: key_id.to_owned(),
            region: region.or_else(|| region_of(key_id)),
            client,
            grant_tokens: Vec::new(),
        }
    }

    /// The same, with tokens of grants.
    #[must_use]
    pub fn with_grants(self, grant_tokens: Vec<String>) -> Self {
        Self { grant_tokens, ..self }
    }
}

#[async_trait]
impl WrappingKey for KmsKey {
    fn name(&self) -> &str {
        &self.name
    }
    fn opens_with(&self) -> SlotKind {
        SlotKind::AwsKms { key_id: self.key_id.clone(), region: self.region.clone() }
    }
    fn extension(&self) -> &'static str {
        "kms"
    }
    async fn wrap(
        &self,
        identity: &BackupIdentity,
        context: &EncryptionContext,
    ) -> Result<WrappedIdentity, KeyError> {
        let plaintext = Blob::new(identity.to_text().expose_secret().as_bytes());
        let request = self.client.encrypt().key_id(&self.key_id).plaintext(plaintext);
        let sent = request
            .set_encryption_context(Some(context.pairs().into_iter().collect()))
            .send()
            .await;
        let reply =
            sent.map_err(|error| explain(&self.name, "wrap an identity", AwsError::of(&error)))?;
        let empty = || KeyError::Refused {
            key: self.name.clone(),
            what: "wrap an identity",
            why: "KMS answered without ciphertext".to_owned(),
        };
        Ok(WrappedIdentity::from_key(reply.ciphertext_blob.ok_or_else(empty)?.into_inner()))
    }
    async fn life(&self) -> Result<KeyLifetime, KeyError> {
        life(&self.client, &self.name, &self.key_id).await
    }
    async fn rewrap(
        &self,
        from: &Slot,
        bytes: &[u8],
        context: &EncryptionContext,
    ) -> Result<Option<WrappedIdentity>, KeyError> {
        let SlotKind::AwsKms { key_id, region } = &from.opens_with else { return Ok(None) };
        // Both keys must be known to one endpoint.
        if *region != self.region {
            return Ok(None);
        }
        let pairs = || Some(context.pairs().into_iter().collect());
        let request = self
            .client
            .re_encrypt()
            .ciphertext_blob(Blob::new(bytes))
            .source_key_id(key_id)
            .destination_key_id(&self.key_id);
        let sent = request
            .set_source_encryption_context(pairs())
            .set_destination_encryption_context(pairs())
            .send()
            .await;
        let reply = sent.map_err(|error| {
            explain(&self.name, "wrap anew what another key had wrapped", AwsError::of(&error))
        })?;
        Ok(reply.ciphertext_blob.map(|blob| WrappedIdentity::from_key(blob.into_inner())))
    }
}

#[async_trait]
impl SlotOpener for KmsKey {
    fn name(&self) -> &str {
        &self.name
    }
    async fn unwrap(
        &self,
        slot: &Slot,
        bytes: &[u8],
        context: &EncryptionContext,
    ) -> Result<UnwrapOutcome, KeyError> {
        let SlotKind::AwsKms { key_id, .. } = &slot.opens_with else {
            return Ok(UnwrapOutcome::NotMine);
        };
        if *key_id != self.key_id && slot.name != self.name {
            return Ok(UnwrapOutcome::NotMine);
        }
        // The key is ours by configuration; a slot that names another is KMS's to refuse.
        let request = self.client.decrypt().key_id(&self.key_id).ciphertext_blob(Blob::new(bytes));
        let request = request
            .set_grant_tokens((!self.grant_tokens.is_empty()).then(|| self.grant_tokens.clone()));
        let sent = request
            .set_encryption_context(Some(context.pairs().into_iter().collect()))
            .send()
            .await;
        let reply =
            sent.map_err(|error| explain(&self.name, "unwrap the identity", AwsError::of(&error)))?;
        let refused = |why: &str| KeyError::Refused {
            key: self.name.clone(),
            what: "unwrap the identity",
            why: why.to_owned(),
        };
        let plaintext = zeroize::Zeroizing::new(
            reply.plaintext.ok_or_else(|| refused("KMS answered without plaintext"))?.into_inner(),
        );
        let text = std::str::from_utf8(&plaintext)
            .map_err(|_| refused("what KMS opened is not an identity"))?;
        BackupIdentity::from_text(text)
            .map(UnwrapOutcome::Identity)
            .map_err(|error| refused(&error.to_string()))
    }
}

/// Opens with whichever KMS key a slot names, where no key is configured: on a fresh host that has
/// only credentials. What a hostile vault could gain by naming a key of its own is a backup of its
/// own, which the signature tells.
pub struct SlotKmsKey;

#[async_trait]
impl SlotOpener for SlotKmsKey {
    fn name(&self) -> &str {
        "the KMS key that the backup names"
    }
    async fn unwrap(
        &self,
        slot: &Slot,
        bytes: &[u8],
        context: &EncryptionContext,
    ) -> Result<UnwrapOutcome, KeyError> {
        let SlotKind::AwsKms { key_id, region } = &slot.opens_with else {
            return Ok(UnwrapOutcome::NotMine);
        };
        KmsKey::new(&slot.name, key_id, region.clone(), None)
            .await
            .unwrap(slot, bytes, context)
            .await
    }
}

/// An asymmetric KMS key (`ECC_NIST_P256`) that signs. A backup role needs `kms:Sign` only.
pub struct KmsSigner {
    key_id: String,
    client: Client,
}

impl KmsSigner {
    /// A client for the key. Makes no request.
    pub async fn new(key_id: &str, region: Option<String>, endpoint: Option<String>) -> Self {
        Self { key_id: key_id.to_owned(), client: client(key_id, region, endpoint).await }
    }
}

#[async_trait]
impl Signer for KmsSigner {
    fn name(&self) -> String {
        self.key_id.clone()
    }
    async fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
        let hash = digest::digest(&digest::SHA256, bytes);
        let request = self
            .client
            .sign()
            .key_id(&self.key_id)
            .message(Blob::new(hash.as_ref()))
            .message_type(MessageType::Digest);
        let sent = request.signing_algorithm(SigningAlgorithmSpec::EcdsaSha256).send().await;
        let reply = sent.map_err(|error| explain("signing", "sign", AwsError::of(&error)))?;
        let empty = || KeyError::Refused {
            key: "signing".to_owned(),
            what: "sign",
            why: "KMS answered without signature".to_owned(),
        };
        Ok(reply.signature.ok_or_else(empty)?.into_inner())
    }
    async fn life(&self) -> Result<KeyLifetime, KeyError> {
        life(&self.client, "signing", &self.key_id).await
    }
    async fn public(&self) -> Result<PublicKey, KeyError> {
        let sent = self.client.get_public_key().key_id(&self.key_id).send().await;
        let reply =
            sent.map_err(|error| explain("signing", "tell its public half", AwsError::of(&error)))?;
        let unusable = |why: String| KeyError::Unusable { key: "signing".to_owned(), why };
        let der = reply
            .public_key
            .ok_or_else(|| unusable("KMS answered without a public key".to_owned()))?
            .into_inner();
        PublicKey::from_der(&der).map_err(unusable)
    }
}

#[cfg(test)]
mod tests {
    use super::region_of;

    #[test]
    fn the_region_comes_from_the_arn() {
        assert_eq!(
            region_of("arn:aws:kms:eu-west-1:123456789012:key/abc").as_deref(),
            Some("eu-west-1")
        );
        assert_eq!(region_of("alias/backup"), None);
    }
}

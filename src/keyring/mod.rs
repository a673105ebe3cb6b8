//! Making and opening envelopes, and signing what is published.
//!
//! A [`WrappingKey`] wraps the identity of a backup into a slot and may be able to unwrap it again;
//! a backup host's KMS role can only do the former. Unwrapping answers `Option<Result<_>>` in
//! spirit: *not mine*, *mine but refused*, or the identity ([`UnwrapOutcome`]). Context is always
//! bound: KMS keys take it as encryption context; every opener is told which backup it is for, and
//! whoever opens checks the slot's hash against the signed envelope first.

pub mod age_key;
#[cfg(feature = "aws")]
pub mod kms;
pub mod openers;
pub mod sign;

use async_trait::async_trait;

use crate::domain::ErrorClass;
use crate::domain::envelope::{EncryptionContext, Slot, SlotKind, WrappedIdentity};
use crate::seal::BackupIdentity;

/// What came of trying to open a slot.
#[derive(Debug)]
pub enum UnwrapOutcome {
    /// The slot was made for another key.
    NotMine,
    /// The identity.
    Identity(BackupIdentity),
}

/// How long a key can be used, as far as it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyLifetime {
    /// Nothing is known that would end it.
    Unlimited,
    /// It is deleted then.
    Ends(jiff::Timestamp),
    /// It cannot be used now.
    Over(String),
}

/// A key that wraps identities.
#[async_trait]
pub trait WrappingKey: Send + Sync {
    /// Name in the configuration.
    fn name(&self) -> &str;
    /// How slots of this key are opened.
    fn opens_with(&self) -> SlotKind;
    /// File extension of slots: `kms` or `age`.
    fn extension(&self) -> &'static str;
    /// Wraps an identity. May be repeated.
    async fn wrap(
        &self,
        identity: &BackupIdentity,
        context: &EncryptionContext,
    ) -> Result<WrappedIdentity, KeyError>;
    /// How long it can be used.
    async fn life(&self) -> Result<KeyLifetime, KeyError> {
        Ok(KeyLifetime::Unlimited)
    }
    /// Wraps what another key's slot holds, without anybody seeing it; `None` if these two keys
    /// cannot do that.
    async fn rewrap(
        &self,
        _: &Slot,
        _: &[u8],
        _: &EncryptionContext,
    ) -> Result<Option<WrappedIdentity>, KeyError> {
        Ok(None)
    }
}

/// Something that may open slots: a key of the configuration, or an identity file given on the
/// command line.
#[async_trait]
pub trait SlotOpener: Send + Sync {
    /// Name for messages.
    fn name(&self) -> &str;
    /// Whether it may ask somebody something, or wait for a touch: such openers are tried last, and
    /// one at a time.
    fn may_prompt(&self) -> bool {
        false
    }
    /// Tries a slot whose bytes tally with the signed envelope.
    async fn unwrap(
        &self,
        slot: &Slot,
        bytes: &[u8],
        context: &EncryptionContext,
    ) -> Result<UnwrapOutcome, KeyError>;
}

/// Why a key did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key itself cannot be loaded.
    #[error("key {key} cannot be used: {why}")]
    Unusable {
        /// Name in the configuration, or file.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The key refused.
    #[error("key {key} refused to {what}: {why}")]
    Refused {
        /// Name in the configuration.
        key: String,
        /// What was asked.
        what: &'static str,
        /// Its answer.
        why: String,
    },
    /// The service behind the key does not answer.
    #[error("key {key} could not be reached to {what}: {why}")]
    Unavailable {
        /// Name in the configuration.
        key: String,
        /// What was asked.
        what: &'static str,
        /// Why not.
        why: String,
    },
}

impl KeyError {
    /// What is wrong, without the key's name.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Self::Unusable { why, .. } => format!("cannot be used: {why}"),
            Self::Refused { what, why, .. } => format!("refused to {what}: {why}"),
            Self::Unavailable { what, why, .. } => format!("could not be reached to {what}: {why}"),
        }
    }
    /// Class of the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unusable { .. } | Self::Refused { .. } => ErrorClass::KeyRefused,
            Self::Unavailable { .. } => ErrorClass::Unavailable,
        }
    }
}

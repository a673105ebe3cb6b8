//! Where backups live: write-once objects under a prefix, in a directory or in S3.
//!
//! The contract, which `tests/it/vault/contract.rs` runs on every adapter:
//!
//! - Nothing is stored under a name twice. [`Vault::put`] and [`Upload::complete`] answer
//!   [`VaultError::Exists`] if the name is taken by other bytes, and succeed if it is taken by the
//!   very same bytes (a reply that was lost).
//! - An object is visible only when it is whole. An upload that is dropped or aborted leaves
//!   nothing that [`Vault::list`] shows; what it may leave is found by [`Vault::unfinished`].
//! - After [`VaultError::Unknown`] the object may or may not be there; nothing may be concluded
//!   from it.
//! - [`Vault::list`] is complete or fails; order is by name.
//!
//! What is read is hostile until its signature or hash has been checked by the caller.

pub mod damaged;
pub mod directory;
mod directory_handle;
pub mod fetch;
#[cfg(feature = "aws")]
pub mod s3;
pub mod simulated_glacier;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;

use crate::domain::layout::ObjectKey;
use crate::domain::thaw::{Availability, RetrievalTier};
use crate::domain::{ErrorClass, VaultDocument};
use crate::seal::{SealedBytes, SegmentProof};

/// What a store allows and how it wants to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VaultLimits {
    /// Bytes of each part but the last.
    pub part_bytes: usize,
    /// Parts of one object.
    pub parts_max: usize,
    /// Parts under way at once, per upload, and ranges, per read.
    pub transfers_max: usize,
    /// How long reading a payload is tried again while the store does not answer.
    pub patience: Duration,
    /// Longest pause before it is looked again whether something has thawed.
    pub thaw_poll: Duration,
}

/// Facts about an object as the store tells them. Not to be believed about content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Name.
    pub key: ObjectKey,
    /// Size in bytes.
    pub bytes: u64,
    /// When the store says it was written.
    pub modified: Timestamp,
    /// Storage class, where the store has classes.
    pub class: Option<String>,
    /// Whether it can be read, or must be thawed before.
    pub warmth: Availability,
    /// Until when the store refuses to remove it; a listing does not tell it.
    pub locked_until: Option<Timestamp>,
    /// The store's own name of this version of the object; a listing does not tell it.
    pub version: Option<String>,
}

/// An object that can be read now. Made only from facts that say so.
#[derive(Debug, Clone)]
pub struct ReadableObject(ObjectFacts);

impl ReadableObject {
    /// The object's name.
    #[must_use]
    pub fn key(&self) -> &ObjectKey {
        &self.0.key
    }
    /// The object's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }
    /// Its storage class, empty where the store has none.
    #[must_use]
    pub fn class(&self) -> &str {
        self.0.class.as_deref().unwrap_or_default()
    }
}

impl ObjectFacts {
    /// The object as readable.
    ///
    /// # Errors
    /// [`VaultError::Frozen`] if it must be thawed first.
    pub fn warm(self) -> Result<ReadableObject, VaultError> {
        match self.warmth {
            Availability::Warm | Availability::Thawed { .. } => Ok(ReadableObject(self)),
            Availability::Frozen | Availability::UnderWay => {
                Err(VaultError::Frozen { key: self.key, class: self.class.unwrap_or_default() })
            }
        }
    }
}

/// What a store answers to the wish for a readable copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThawAnswer {
    /// It will be there, or will stay longer.
    Accepted,
    /// It was asked for already, and not slower.
    UnderWay,
    /// Not at this tier, for want of capacity.
    NoCapacity,
}

/// An upload that was begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedUpload {
    /// The object it was to become, as the store names it.
    pub key: String,
    /// The store's handle.
    pub handle: String,
    /// When it was begun.
    pub begun: Timestamp,
    /// When something of it last arrived, as far as the store tells.
    pub touched: Timestamp,
}

/// A version of an object, in a store that keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersionInfo {
    /// Name of the object.
    pub key: ObjectKey,
    /// The store's name of the version.
    pub id: String,
    /// Size in bytes; none of a marker.
    pub bytes: u64,
    /// When the store says it was written.
    pub modified: Timestamp,
    /// Whether it is a marker, which says that the object is deleted and hides the versions before
    /// it.
    pub is_marker: bool,
    /// Whether it is the newest of its object.
    pub is_current: bool,
}

/// What a store was found to be able to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Each question and its answer, for people.
    pub answers: Vec<StoreCapability>,
}

/// One question asked of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreCapability {
    /// What was asked.
    pub question: &'static str,
    /// Yes, no, or could not be looked at.
    pub answer: Option<bool>,
    /// Whether the configuration needs a yes.
    pub needed: bool,
    /// Details for people.
    pub detail: String,
}

/// A place for write-once objects.
#[async_trait]
pub trait Vault: Send + Sync {
    /// The vault's address, for people and for `RESTORE.md`: `file:///…` or `s3://bucket/prefix`.
    fn address(&self) -> String;
    /// Options that the AWS CLI needs to find the vault, shell-quoted, each with a space before it;
    /// empty without S3.
    fn cli_options(&self) -> String {
        String::new()
    }
    /// Sizes and numbers to keep to.
    fn limits(&self) -> VaultLimits;
    /// Stores a small document. May be repeated after any error.
    async fn put(&self, key: &ObjectKey, document: VaultDocument) -> Result<(), VaultError>;
    /// Begins the upload of one object of a payload.
    async fn begin(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, VaultError>;
    /// Facts about one object, `None` if it does not exist.
    async fn find(&self, key: &ObjectKey) -> Result<Option<ObjectFacts>, VaultError>;
    /// Bytes `from..from + length` of an object: at least one unless its end is reached, perhaps
    /// fewer than asked for where the store stopped sending. [`fetch`] goes on at the byte.
    async fn read(
        &self,
        object: &ReadableObject,
        from: u64,
        length: usize,
    ) -> Result<Bytes, VaultError>;
    /// All objects whose names begin with `prefix`, by name. Names that no vault writes are left
    /// out.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectFacts>, VaultError>;
    /// Removes an object; one that is not there is success.
    async fn remove(&self, key: &ObjectKey) -> Result<(), VaultError>;
    /// Removes exactly the version of an object that was looked at, for good; one that is not there
    /// is success.
    async fn erase(&self, object: &ObjectFacts) -> Result<(), VaultError> {
        self.remove(&object.key).await
    }
    /// All versions of all objects whose names begin with `prefix`, hidden ones and markers too,
    /// complete or failing like [`Vault::list`]. `None` in a store that keeps none.
    async fn versions(&self, _: &str) -> Result<Option<Vec<ObjectVersionInfo>>, VaultError> {
        Ok(None)
    }
    /// Removes a version, for good; one that is not there is success.
    async fn erase_version(&self, version: &ObjectVersionInfo) -> Result<(), VaultError> {
        Err(VaultError::Refused {
            what: format!("removing {}", version.key),
            why: "no versions are kept here".to_owned(),
        })
    }
    /// Asks for a readable copy of a frozen object, for `days`; of one that is thawed, that it
    /// stays so much longer from now. May be repeated. After [`VaultError::Unknown`] the
    /// object's facts tell whether it took effect.
    async fn thaw(
        &self,
        object: &ObjectFacts,
        _: RetrievalTier,
        _: u32,
    ) -> Result<ThawAnswer, VaultError> {
        Err(VaultError::Refused {
            what: format!("thawing {}", object.key),
            why: "nothing in this vault is cold".to_owned(),
        })
    }
    /// Uploads that were begun and not ended.
    async fn unfinished(&self) -> Result<Vec<UnfinishedUpload>, VaultError>;
    /// Removes what an unfinished upload holds.
    async fn discard(&self, unfinished: &UnfinishedUpload) -> Result<(), VaultError>;
    /// Writes a probe and asks what the store can keep.
    async fn probe(&self, key: &ObjectKey) -> Result<Capabilities, VaultError>;
}

/// One object being uploaded. Dropping it without an end leaves what [`Vault::unfinished`] finds.
#[async_trait]
pub trait Upload: Send {
    /// Hands over the next part, in order. Returns when there is room for another.
    async fn part(&mut self, bytes: SealedBytes) -> Result<(), VaultError>;
    /// Waits until every part handed over has arrived and been confirmed.
    async fn settle(&mut self) -> Result<(), VaultError>;
    /// Makes the object visible, if what arrived tallies with `proof`. Whatever fails, no
    /// unfinished upload stays if that can be helped.
    async fn complete(self: Box<Self>, proof: &SegmentProof) -> Result<(), VaultError>;
    /// Leaves nothing behind.
    async fn abort(self: Box<Self>) -> Result<(), VaultError>;
}

/// Why a vault did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The name is taken by other bytes.
    #[error("{key} exists already, and holds something else")]
    Exists {
        /// Name.
        key: ObjectKey,
    },
    /// There is no such object.
    #[error("there is no {key} in the vault")]
    Missing {
        /// Name.
        key: String,
    },
    /// It must be thawed first.
    #[error("{key} is in storage class {class} and must be thawed before it can be read")]
    Frozen {
        /// Name.
        key: ObjectKey,
        /// Class.
        class: String,
    },
    /// The store refuses to let us.
    #[error("the vault refuses {what}: {why}")]
    Refused {
        /// What was tried.
        what: String,
        /// The store's answer.
        why: String,
    },
    /// The key that encrypts the bucket is not usable.
    #[error("the key of the vault's own encryption refuses {what}: {why}")]
    KeyRefused {
        /// What was tried.
        what: String,
        /// The store's answer.
        why: String,
    },
    /// The store does not answer, is throttled, or is full.
    #[error("the vault is not available for {what}: {why}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// The store's answer.
        why: String,
    },
    /// The outcome could not be learned.
    #[error("whether {what} took effect could not be learned: {why}")]
    Unknown {
        /// What was tried.
        what: String,
        /// Why not.
        why: String,
    },
    /// The store has something else than what was sent.
    #[error("{what} did not arrive whole: {why}")]
    Tally {
        /// Object.
        what: String,
        /// What differs.
        why: String,
    },
    /// The store or the address cannot be used as configured.
    #[error("the vault cannot be used: {0}")]
    Unusable(String),
}

impl VaultError {
    /// Class of the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Exists { .. } | Self::Tally { .. } => ErrorClass::Integrity,
            Self::Missing { .. } => ErrorClass::Integrity,
            Self::Frozen { .. } | Self::Unavailable { .. } | Self::Unknown { .. } => {
                ErrorClass::Unavailable
            }
            Self::Refused { .. } | Self::Unusable(_) => ErrorClass::Usage,
            Self::KeyRefused { .. } => ErrorClass::KeyRefused,
        }
    }
}

//! The few documents that stand in a vault unsealed, because they must be readable before anything is opened.
//!
//! None holds plaintext of a datastore, and the type system keeps it so: a vault takes either `SealedBytes`, which only
//! the `seal` room makes, or a [`Document`], which can be made only from the types named here.

use serde::Deserialize;

use super::envelope::{Envelope, WrappedIdentity};
use super::evidence::{Actor, Record};
use super::id::{DatastoreName, VaultId};
use super::manifest::Manifest;
use super::scratch::{Lease, Letter, Order};

/// Bytes that may stand in a vault unsealed.
#[derive(Clone)]
pub struct Document(Vec<u8>);

impl Document {
    /// The bytes as they are stored.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
    /// The bytes, owned.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
    /// A manifest.
    #[must_use]
    pub fn manifest(manifest: &Manifest) -> Self {
        Self(json(manifest))
    }
    /// An envelope, which lists the slots.
    #[must_use]
    pub fn envelope(envelope: &Envelope) -> Self {
        Self(json(envelope))
    }
    /// A record of the evidence series.
    #[must_use]
    pub fn evidence(record: &Record) -> Self {
        Self(json(record))
    }
    /// A slot: an identity that a key has wrapped.
    #[must_use]
    pub fn slot(wrapped: &WrappedIdentity) -> Self {
        Self(wrapped.bytes().to_vec())
    }
    /// The vault's own document.
    #[must_use]
    pub fn header(header: &VaultHeader) -> Self {
        Self(json(header))
    }
    /// A claim of an epoch.
    #[must_use]
    pub fn epoch(claim: &EpochClaim) -> Self {
        Self(json(claim))
    }
    /// A detached signature, raw, as `openssl` reads it.
    #[must_use]
    pub fn signature(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    /// A document of another vault, signed there or bound by something that is: it is passed on as it stands.
    #[must_use]
    pub fn of_another_vault(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    /// What any host can see of a run in a scratch VPC.
    #[must_use]
    pub fn lease(lease: &Lease) -> Self {
        Self(json(lease))
    }
    /// What the agent of a scratch VPC is to do.
    #[must_use]
    pub fn order(order: &Order) -> Self {
        Self(json(order))
    }
    /// A letter of that agent.
    #[must_use]
    pub fn letter(letter: &Letter) -> Self {
        Self(json(letter))
    }
    /// The agent itself: a binary of lifeboat, stored under its hash.
    #[must_use]
    pub fn agent(binary: Vec<u8>) -> Self {
        Self(binary)
    }
    /// `RESTORE.md`.
    #[must_use]
    pub fn restore_guide(text: String) -> Self {
        Self(text.into_bytes())
    }
    /// What `lifeboat check` writes to learn whether it may write.
    #[must_use]
    pub fn probe() -> Self {
        Self(b"lifeboat check: this object may be removed\n".to_vec())
    }
}

/// Documents are written indented, so that a person can read them and `diff` them; the stored bytes are what is signed.
fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Why a document is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not with the fields of its format.
    #[error("the {what} cannot be read")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Written by a newer lifeboat, or by something else.
    #[error("the {what} has format {found:?}, and this lifeboat reads {known:?}; a newer lifeboat may be needed")]
    UnknownFormat {
        /// What was expected.
        what: &'static str,
        /// The format it names.
        found: String,
        /// The formats that are known.
        known: String,
    },
}

/// Looks at a document's `format` before anything else is believed of it; which of those that are known it is.
pub(crate) fn format_of(bytes: &[u8], what: &'static str, known: &[&'static str]) -> Result<&'static str, DocumentError> {
    #[derive(Deserialize)]
    struct Formatted {
        format: String,
    }
    let head: Formatted = serde_json::from_slice(bytes).map_err(|source| DocumentError::Malformed { what, source })?;
    let found = known.iter().find(|known| **known == head.format).copied();
    found.ok_or_else(|| DocumentError::UnknownFormat { what, found: head.format, known: known.join(" and ") })
}

/// Format name of `vault.json`.
pub const VAULT_FORMAT: &str = "lifeboat.vault/1";

/// `vault.json`: made by `lifeboat init`, never replaced.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultHeader {
    /// Always [`VAULT_FORMAT`].
    pub format: String,
    /// The vault's id, part of every encryption context and every manifest.
    pub vault: VaultId,
}

impl VaultHeader {
    /// The header of a new vault.
    #[must_use]
    pub fn new(vault: VaultId) -> Self {
        Self { format: VAULT_FORMAT.to_owned(), vault }
    }
    /// Parses `vault.json`.
    ///
    /// # Errors
    /// [`DocumentError`] if it is not JSON of a format this program knows.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        format_of(bytes, "vault header", &[VAULT_FORMAT])?;
        serde_json::from_slice(bytes).map_err(|source| DocumentError::Malformed { what: "vault header", source })
    }
}

/// Format name of claims.
pub const EPOCH_FORMAT: &str = "lifeboat.epoch/1";

/// Who holds a datastore under which epoch. Stands under a name that only one can write.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochClaim {
    /// Always [`EPOCH_FORMAT`].
    pub format: String,
    /// The datastore.
    pub datastore: DatastoreName,
    /// The epoch.
    pub epoch: u64,
    /// The scheduled time; none by hand.
    pub tick: Option<jiff::Timestamp>,
    /// Who.
    pub by: Actor,
    /// Makes two claims of one host differ.
    #[serde(with = "hex::serde")]
    pub nonce: [u8; 8],
}

impl EpochClaim {
    /// A claim.
    #[must_use]
    pub fn new(datastore: DatastoreName, epoch: u64, tick: Option<jiff::Timestamp>, by: Actor, nonce: [u8; 8]) -> Self {
        Self { format: EPOCH_FORMAT.to_owned(), datastore, epoch, tick, by, nonce }
    }
}

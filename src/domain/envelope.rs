//! The envelope: the identity of one backup, wrapped once per key slot. Any one slot opens the backup.
//!
//! The envelope document lists the slots and binds each slot's file by its hash; the document is signed and names the
//! vault, datastore and backup it belongs to. The identity's public half stands nowhere in it, nor does a recovery
//! recipient's: who has only the stored bytes has nothing to attack with a future computer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::{DocumentError, format_of};
use super::id::{BackupId, DatastoreName, VaultId};
use super::layout::{ObjectKey, Place};

/// Format name of envelopes this program writes and reads.
pub const FORMAT: &str = "lifeboat.envelope/1";

/// What an identity is bound to: the encryption context of every KMS call, and the identity file's comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The vault.
    pub vault: VaultId,
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
}

impl Context {
    /// The encryption context as KMS takes it.
    #[must_use]
    pub fn pairs(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("vault".to_owned(), self.vault.to_string()),
            ("datastore".to_owned(), self.datastore.to_string()),
            ("backup".to_owned(), self.backup.to_string()),
        ])
    }
    /// Names of the backup's objects.
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        Place { datastore: &self.datastore, backup: &self.backup }
    }
}

/// An identity that a key has wrapped: ciphertext, safe to store.
#[derive(Clone)]
pub struct WrappedIdentity(Vec<u8>);

impl WrappedIdentity {
    /// Only key slots call this, with what their key gave back.
    #[must_use]
    pub(crate) fn from_key(ciphertext: Vec<u8>) -> Self {
        Self(ciphertext)
    }
    /// The ciphertext.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// How a slot is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SlotKind {
    /// `aws kms decrypt` with the encryption context of the backup.
    AwsKms {
        /// ARN or id of the key.
        key_id: String,
        /// Region of the key, where it is not part of the ARN.
        region: Option<String>,
    },
    /// `age -d` with one of several identities.
    Age {
        /// First eight bytes of the SHA-256 of each recipient's text form, hexadecimal: enough to tell which key fits.
        recipients: Vec<String>,
    },
}

/// One way to open the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Name of the key in the configuration that made the slot.
    pub name: String,
    /// How it is opened.
    pub opens_with: SlotKind,
    /// The raw file of the slot.
    pub file: ObjectKey,
    /// SHA-256 of that file, lower-case hexadecimal.
    pub sha256: String,
}

/// The list of slots of one backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Always [`FORMAT`].
    pub format: String,
    /// The vault.
    pub vault: VaultId,
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// 1 for the envelope written with the backup; rotation writes the next.
    pub number: u32,
    /// The ways to open the backup.
    pub slots: Vec<Slot>,
}

impl Envelope {
    /// The envelope that is written with a backup.
    #[must_use]
    pub fn first(context: &Context, slots: Vec<Slot>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            vault: context.vault.clone(),
            datastore: context.datastore.clone(),
            backup: context.backup.clone(),
            number: 1,
            slots,
        }
    }

    /// The envelope that rotation writes under a number.
    #[must_use]
    pub fn numbered(context: &Context, number: u32, slots: Vec<Slot>) -> Self {
        Self { number, ..Self::first(context, slots) }
    }

    /// Parses an envelope and refuses one that belongs to another backup.
    ///
    /// # Errors
    /// [`EnvelopeError`] for an unknown format, an envelope of another backup, or slots that point elsewhere.
    pub fn parse(bytes: &[u8], context: &Context) -> Result<Self, EnvelopeError> {
        format_of(bytes, "envelope", &[FORMAT])?;
        let envelope: Self = serde_json::from_slice(bytes).map_err(|source| DocumentError::Malformed { what: "envelope", source })?;
        let own = (&envelope.vault, &envelope.datastore, &envelope.backup);
        if own != (&context.vault, &context.datastore, &context.backup) {
            return Err(EnvelopeError::OfAnotherBackup {
                expected: context.backup.clone(),
                found: format!("{}/{}", envelope.datastore, envelope.backup),
            });
        }
        let slots = format!("{}slots/", context.place().meta_prefix());
        if let Some(stray) = envelope.slots.iter().find(|s| !s.file.as_str().starts_with(&slots)) {
            return Err(EnvelopeError::StraySlot { slot: stray.name.clone(), file: stray.file.clone() });
        }
        Ok(envelope)
    }
}

/// Why an envelope is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON of this format.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// It was made for another backup.
    #[error("the envelope of backup {expected} says it belongs to {found}")]
    OfAnotherBackup {
        /// Whose envelope it should be.
        expected: BackupId,
        /// Whose it says it is.
        found: String,
    },
    /// A slot points out of the backup's place.
    #[error("slot {slot:?} points at {file}, outside the backup's place")]
    StraySlot {
        /// The slot.
        slot: String,
        /// Where it points.
        file: ObjectKey,
    },
}

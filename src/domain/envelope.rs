//! The envelope: the identity of one backup, wrapped once per key slot. Any one slot opens the
//! backup.
//!
//! The envelope document lists the slots and binds each slot's file by its hash; the document is
//! signed and names the vault, datastore and backup that it belongs to. It contains neither the
//! public half of the identity nor that of a recovery recipient: stored bytes alone give a future
//! quantum computer no public key to attack.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::{DocumentError, format_of};
use super::id::{BackupId, DatastoreName, VaultId};
use super::layout::{BackupKeys, ObjectKey};

/// Format name of envelopes this program writes and reads.
pub const FORMAT: &str = "lifeboat.envelope/1";

/// What an identity is bound to: the encryption context of every KMS call, and the identity file's
/// comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionContext {
    /// The vault.
    pub vault: VaultId,
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
}

impl EncryptionContext {
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
    pub fn place(&self) -> BackupKeys<'_> {
        BackupKeys { datastore: &self.datastore, backup: &self.backup }
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
        /// First eight bytes of the SHA-256 of each recipient's text form, hexadecimal: enough to
        /// tell which key fits.
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
    pub fn first(context: &EncryptionContext, slots: Vec<Slot>) -> Self {
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
    pub fn numbered(context: &EncryptionContext, number: u32, slots: Vec<Slot>) -> Self {
        Self { number, ..Self::first(context, slots) }
    }

    /// Parses an envelope and refuses one that belongs to another backup.
    ///
    /// # Errors
    /// [`EnvelopeError`] for an unknown format, an envelope of another backup, or slots that point
    /// elsewhere.
    pub fn parse(bytes: &[u8], context: &EncryptionContext) -> Result<Self, EnvelopeError> {
        format_of(bytes, "envelope", &[FORMAT])?;
        let envelope: Self = serde_json::from_slice(bytes)
            .map_err(|source| DocumentError::Malformed { what: "envelope", source })?;
        let own = (&envelope.vault, &envelope.datastore, &envelope.backup);
        if own != (&context.vault, &context.datastore, &context.backup) {
            return Err(EnvelopeError::OfAnotherBackup {
                expected: context.backup.clone(),
                found: format!("{}/{}", envelope.datastore, envelope.backup),
            });
        }
        let slots = format!("{}slots/", context.place().meta_prefix());
        if let Some(stray) = envelope.slots.iter().find(|s| !s.file.as_str().starts_with(&slots)) {
            return Err(EnvelopeError::StraySlot {
                slot: stray.name.clone(),
                file: stray.file.clone(),
            });
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BACKUP: &str = "20261122T031500Z-K3XQ7A";

    fn context() -> EncryptionContext {
        EncryptionContext {
            vault: VaultId::from_random([7; 16]),
            datastore: "chat".parse().unwrap(),
            backup: BACKUP.parse().unwrap(),
        }
    }

    fn slot(name: &str, opens_with: SlotKind, file: &str) -> Slot {
        Slot {
            name: name.to_owned(),
            opens_with,
            file: file.parse().unwrap(),
            sha256: "a".repeat(64),
        }
    }

    fn slots() -> Vec<Slot> {
        let kms = SlotKind::AwsKms {
            key_id: "alias/backup".to_owned(),
            region: Some("eu-west-1".to_owned()),
        };
        let age = SlotKind::Age { recipients: vec!["0123456789abcdef".to_owned()] };
        vec![
            slot("home", kms, &format!("meta/chat/{BACKUP}/slots/0001-home.kms")),
            slot("offline", age, &format!("meta/chat/{BACKUP}/slots/0001-offline.age")),
        ]
    }

    fn read(envelope: &Envelope) -> Result<Envelope, String> {
        Envelope::parse(&serde_json::to_vec(envelope).unwrap(), &context())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_envelope_reads_back_and_only_its_number_tells_rotations_apart() {
        let first = Envelope::first(&context(), slots());
        let third = Envelope::numbered(&context(), 3, slots());
        assert_eq!(read(&first).unwrap(), first);
        assert_eq!(read(&third).unwrap(), third);
        assert_eq!((first.number, third.number), (1, 3));
        assert_eq!(Envelope { number: 3, ..first }, third);
    }

    #[test]
    fn how_a_slot_is_opened_is_stored_as_restore_guides_read_it() {
        let stored = serde_json::to_value(Envelope::first(&context(), slots())).unwrap();
        assert_eq!(stored["format"], "lifeboat.envelope/1");
        let opened: Vec<_> =
            slots().iter().map(|slot| serde_json::to_string(&slot.opens_with).unwrap()).collect();
        assert_eq!(
            opened,
            [
                r#"{"kind":"aws-kms","key_id":"alias/backup","region":"eu-west-1"}"#,
                r#"{"kind":"age","recipients":["0123456789abcdef"]}"#
            ]
        );
    }

    #[test]
    fn an_envelope_of_another_vault_datastore_or_backup_is_refused() {
        let other = |change: fn(&mut EncryptionContext)| {
            let mut context = context();
            change(&mut context);
            read(&Envelope::first(&context, Vec::new())).unwrap_err()
        };
        let says =
            |whose: &str| format!("the envelope of backup {BACKUP} says it belongs to {whose}");
        assert_eq!(
            other(|c| c.datastore = "mail".parse().unwrap()),
            says(&format!("mail/{BACKUP}"))
        );
        assert_eq!(
            other(|c| c.backup = "20261122T031500Z-AAAAAA".parse().unwrap()),
            says("chat/20261122T031500Z-AAAAAA")
        );
        assert!(other(|c| c.vault = VaultId::from_random([8; 16])).starts_with(&says("")));
    }

    #[test]
    fn a_slot_outside_of_the_backups_slots_is_refused() {
        for file in [
            format!("meta/chat/{BACKUP}/fingerprint.json.zst.age"),
            format!("meta/chat/{BACKUP}/slots-0001-home.kms"),
            format!("meta/mail/{BACKUP}/slots/0001-home.kms"),
            "meta/chat/20261122T031500Z-AAAAAA/slots/0001-home.kms".to_owned(),
            format!("x/meta/chat/{BACKUP}/slots/0001-home.kms"),
        ] {
            let mut slots = slots();
            slots[1].file = file.parse().unwrap();
            let refused = read(&Envelope::first(&context(), slots)).unwrap_err();
            assert_eq!(
                refused,
                format!("slot \"offline\" points at {file}, outside the backup's place")
            );
        }
    }

    #[test]
    fn an_envelope_of_another_format_or_with_unknown_fields_is_refused() {
        let first = Envelope::first(&context(), slots());
        let newer = read(&Envelope { format: "lifeboat.envelope/2".to_owned(), ..first.clone() })
            .unwrap_err();
        assert!(newer.contains("lifeboat.envelope/2"), "{newer}");
        let mut more = serde_json::to_value(first).unwrap();
        more["more"] = true.into();
        assert!(Envelope::parse(more.to_string().as_bytes(), &context()).is_err());
    }

    #[test]
    fn a_wrapped_identity_is_bound_to_its_vault_datastore_and_backup() {
        let context = context();
        let pairs: Vec<_> = context.pairs().into_iter().collect();
        let expected = [
            ("backup", BACKUP),
            ("datastore", "chat"),
            ("vault", "07070707070707070707070707070707"),
        ];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(context.place().meta_prefix(), format!("meta/chat/{BACKUP}/"));
        assert_eq!(WrappedIdentity::from_key(vec![1, 2, 3]).bytes(), [1, 2, 3]);
    }
}

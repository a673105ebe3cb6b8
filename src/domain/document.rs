//! The few documents that stand in a vault unsealed, because they must be readable before anything
//! is opened.
//!
//! None holds plaintext of a datastore. A vault takes either `SealedBytes`, which only the `seal`
//! room makes, or a [`VaultDocument`]: there is one constructor for each kind of document, most of
//! them from its type. Those that take bytes (signatures, hashes, an agent's program, what another
//! vault holds) are for their callers to get right.

use serde::Deserialize;

use super::envelope::{Envelope, WrappedIdentity};
use super::evidence::{Actor, EvidenceRecord};
use super::id::{DatastoreName, VaultId};
use super::manifest::Manifest;
use super::scratch::{AgentOrder, ScratchLease, SignedMessage};

/// Bytes that may stand in a vault unsealed.
#[derive(Clone)]
pub struct VaultDocument(Vec<u8>);

impl VaultDocument {
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
    pub fn evidence(record: &EvidenceRecord) -> Self {
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
    /// Hashes of the chunks of an object, raw, one after the other.
    #[must_use]
    pub fn chunks(hashes: &[[u8; 32]]) -> Self {
        Self(hashes.concat())
    }
    /// A detached signature, raw, as `openssl` reads it.
    #[must_use]
    pub fn signature(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    /// A document of another vault, signed there or bound by something that is: it is passed on as
    /// it stands.
    #[must_use]
    pub fn of_another_vault(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    /// What any host can see of a run in a scratch VPC.
    #[must_use]
    pub fn lease(lease: &ScratchLease) -> Self {
        Self(json(lease))
    }
    /// What the agent of a scratch VPC is to do.
    #[must_use]
    pub fn order(order: &AgentOrder) -> Self {
        Self(json(order))
    }
    /// A letter of that agent.
    #[must_use]
    pub fn letter(letter: &SignedMessage) -> Self {
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

/// Documents are written indented, so that a person can read them and `diff` them; the stored bytes
/// are what is signed.
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
    #[error(
        "the {what} has format {found:?}, and this lifeboat reads {known:?}; a newer lifeboat may be needed"
    )]
    UnknownFormat {
        /// What was expected.
        what: &'static str,
        /// The format it names.
        found: String,
        /// The formats that are known.
        known: String,
    },
}

/// Looks at a document's `format` before anything else is believed of it; which of those that are
/// known it is.
pub(crate) fn format_of(
    bytes: &[u8],
    what: &'static str,
    known: &[&'static str],
) -> Result<&'static str, DocumentError> {
    #[derive(Deserialize)]
    struct FormatHeader {
        format: String,
    }
    let head: FormatHeader = serde_json::from_slice(bytes)
        .map_err(|source| DocumentError::Malformed { what, source })?;
    let found = known.iter().find(|known| **known == head.format).copied();
    found.ok_or_else(|| DocumentError::UnknownFormat {
        what,
        found: head.format,
        known: known.join(" and "),
    })
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
        serde_json::from_slice(bytes)
            .map_err(|source| DocumentError::Malformed { what: "vault header", source })
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
    pub fn new(
        datastore: DatastoreName,
        epoch: u64,
        tick: Option<jiff::Timestamp>,
        by: Actor,
        nonce: [u8; 8],
    ) -> Self {
        Self { format: EPOCH_FORMAT.to_owned(), datastore, epoch, tick, by, nonce }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::envelope::EncryptionContext;
    use crate::domain::evidence::{HoldRecord, RecordBody};
    use crate::domain::scratch::{LEASE_FORMAT, UsDollars};

    fn vault() -> VaultId {
        VaultId::from_random([7; 16])
    }

    fn context() -> EncryptionContext {
        EncryptionContext {
            vault: vault(),
            datastore: "chat".parse().unwrap(),
            backup: "20261122T031500Z-K3XQ7A".parse().unwrap(),
        }
    }

    fn actor() -> Actor {
        Actor { user: "backup".to_owned(), host: "db1".to_owned() }
    }

    #[test]
    fn a_header_is_stored_as_indented_text_that_ends_with_a_line_end() {
        let stored = VaultDocument::header(&VaultHeader::new(vault()));
        let text = "{\n  \"format\": \"lifeboat.vault/1\",\n  \"vault\": \"07070707070707070707070707070707\"\n}\n";
        assert_eq!(String::from_utf8_lossy(stored.bytes()), text);
        assert_eq!(stored.into_bytes(), text.as_bytes());
    }

    #[test]
    fn what_is_written_as_a_document_reads_back() {
        let header = VaultHeader::new(vault());
        assert_eq!(VaultHeader::parse(VaultDocument::header(&header).bytes()).unwrap(), header);

        let envelope = Envelope::numbered(&context(), 2, Vec::new());
        assert_eq!(
            Envelope::parse(VaultDocument::envelope(&envelope).bytes(), &context()).unwrap(),
            envelope
        );

        let tick = Some("2026-11-22T03:15:00Z".parse().unwrap());
        let claim =
            EpochClaim::new("chat".parse().unwrap(), 12, tick, actor(), [0, 1, 2, 3, 4, 5, 6, 255]);
        let stored = VaultDocument::epoch(&claim).into_bytes();
        assert_eq!(serde_json::from_slice::<EpochClaim>(&stored).unwrap(), claim);
        let fields: serde_json::Value = serde_json::from_slice(&stored).unwrap();
        assert_eq!(
            (&fields["format"], &fields["nonce"]),
            (&"lifeboat.epoch/1".into(), &"00010203040506ff".into())
        );

        let hold = HoldRecord {
            datastore: "chat".parse().unwrap(),
            backup: context().backup,
            reason: "case 17".to_owned(),
        };
        let record = EvidenceRecord {
            format: super::super::evidence::FORMAT.to_owned(),
            vault: vault(),
            sequence: 1,
            previous: None,
            at: "2026-11-22T03:15:00Z".parse().unwrap(),
            by: actor(),
            body: RecordBody::Hold(hold),
        };
        assert_eq!(
            serde_json::from_slice::<EvidenceRecord>(VaultDocument::evidence(&record).bytes())
                .unwrap(),
            record
        );

        let lease = ScratchLease {
            format: LEASE_FORMAT.to_owned(),
            vault: vault(),
            run: "20261122T031500Z-0a1b2c".to_owned(),
            drill: "nightly".to_owned(),
            region: "eu-west-1".to_owned(),
            account: "123456789012".to_owned(),
            keys: vec!["arn:aws:kms:eu-west-1:1:key/1".to_owned()],
            host: "db1".to_owned(),
            expires: "2026-11-22T09:15:00Z".parse().unwrap(),
            cost_ceiling: UsDollars(12_345),
        };
        assert_eq!(
            ScratchLease::parse(VaultDocument::lease(&lease).bytes(), LEASE_FORMAT).unwrap(),
            lease
        );

        let letter = SignedMessage { words: "{}".to_owned(), signature: "AA==".to_owned() };
        assert_eq!(
            serde_json::from_slice::<SignedMessage>(VaultDocument::letter(&letter).bytes())
                .unwrap(),
            letter
        );
    }

    #[test]
    fn bytes_that_something_else_has_made_are_stored_as_they_are() {
        let bytes = vec![0, 255, 10, 13, 7];
        let wrapped = WrappedIdentity::from_key(bytes.clone());
        for document in [
            VaultDocument::slot(&wrapped),
            VaultDocument::signature(bytes.clone()),
            VaultDocument::of_another_vault(bytes.clone()),
            VaultDocument::agent(bytes.clone()),
        ] {
            assert_eq!(document.bytes(), bytes);
        }
        assert_eq!(
            VaultDocument::restore_guide("# Wiederherstellen: so geht’s\n".to_owned()).bytes(),
            "# Wiederherstellen: so geht’s\n".as_bytes()
        );
        assert!(String::from_utf8_lossy(VaultDocument::probe().bytes()).contains("may be removed"));
    }

    #[test]
    fn a_format_is_looked_at_before_anything_else_is_believed() {
        let known = ["a/1", "a/2"];
        let of = |text: &str| {
            format_of(text.as_bytes(), "thing", &known).map_err(|error| error.to_string())
        };
        for (text, expected) in [
            (r#"{"format":"a/1"}"#, Ok("a/1")),
            (r#"{"of a newer time":[],"format":"a/2"}"#, Ok("a/2")),
            (
                r#"{"format":"a/3"}"#,
                Err(
                    "the thing has format \"a/3\", and this lifeboat reads \"a/1 and a/2\"; a newer lifeboat may be needed",
                ),
            ),
            (
                r#"{"format":""}"#,
                Err(
                    "the thing has format \"\", and this lifeboat reads \"a/1 and a/2\"; a newer lifeboat may be needed",
                ),
            ),
            (r#"{"format":1}"#, Err("the thing cannot be read")),
            ("{}", Err("the thing cannot be read")),
            ("", Err("the thing cannot be read")),
            (r#"{"format":"a/1"} {}"#, Err("the thing cannot be read")),
        ] {
            assert_eq!(of(text), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_header_of_another_format_or_with_unknown_fields_is_refused() {
        let header = |format: &str, more: &str| {
            format!(r#"{{"format":"{format}","vault":"{}"{more}}}"#, vault())
        };
        assert!(VaultHeader::parse(header(VAULT_FORMAT, "").as_bytes()).is_ok());
        for bad in [
            header("lifeboat.vault/2", ""),
            header(VAULT_FORMAT, ",\"more\":1"),
            header(VAULT_FORMAT, "").replace("07", "0z"),
        ] {
            assert!(VaultHeader::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}

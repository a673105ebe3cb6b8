//! Every parser of bytes from outside, each as a function of those bytes: what it must not do is
//! panic, hang, or take much memory.

use std::path::Path;

use lifeboat::config::Config;
use lifeboat::domain::document::VaultHeader;
use lifeboat::domain::envelope::{EncryptionContext, Envelope};
use lifeboat::domain::evidence::EvidenceRecord;
use lifeboat::domain::fingerprint::{Fingerprint, HashKey};
use lifeboat::domain::id::{BackupId, DatastoreName, VaultId};
use lifeboat::domain::layout::{self, BackupKeys, ObjectKey};
use lifeboat::domain::manifest::Manifest;
use lifeboat::domain::scratch::AgentOrder;
use lifeboat::pg::archive::ArchiveReader;
use lifeboat::pg::rows::RowFingerprinter;
use lifeboat::pg::{globals, sql};
use lifeboat::seal::{BackupIdentity, OpenedPayload};

/// What a backup is called in the seeds.
pub const BACKUP: &str = "20261122T031500Z-K3XQ7A";

pub type Target = (&'static str, fn(&[u8]));

/// All of them, by name.
pub const TARGETS: [Target; 10] = [
    ("manifest", manifest),
    ("envelope", envelope),
    ("documents", documents),
    ("archive", archive),
    ("rows", rows),
    ("globals", globals),
    ("configuration", configuration),
    ("crontab", crontab),
    ("listing", listing),
    ("age-header", age_header),
];

fn names() -> (VaultId, DatastoreName, BackupId) {
    (VaultId::from_random([7; 16]), "chat".parse().expect("a name"), BACKUP.parse().expect("an id"))
}

pub fn manifest(bytes: &[u8]) {
    let (vault, datastore, backup) = names();
    let _ = Manifest::parse(bytes, &vault, &BackupKeys { datastore: &datastore, backup: &backup });
}

pub fn envelope(bytes: &[u8]) {
    let (vault, datastore, backup) = names();
    let _ = Envelope::parse(bytes, &EncryptionContext { vault, datastore, backup });
}

/// Evidence, letters of agents, the vault's header, fingerprints.
pub fn documents(bytes: &[u8]) {
    let _ = EvidenceRecord::parse(bytes);
    let _ = AgentOrder::parse(bytes);
    let _ = VaultHeader::parse(bytes);
    let _ = Fingerprint::parse(bytes);
}

/// The first byte says how the rest is cut: what is fed in pieces is read as what is fed at once.
pub fn archive(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let read = |piece: usize| {
        let mut reader = ArchiveReader::new(RowFingerprinter::new(HashKey::from_random([3; 32])));
        for piece in bytes.chunks(piece) {
            reader.feed(piece).map_err(|error| error.to_string())?;
        }
        reader
            .finish()
            .map(|(contents, _)| contents.entries.len())
            .map_err(|error| error.to_string())
    };
    let (whole, pieces) = (read(bytes.len().max(1)), read(usize::from(*cut) + 1));
    assert_eq!(whole.is_ok(), pieces.is_ok(), "{whole:?} {pieces:?}");
}

/// COPY statements, and definitions cut into statements.
pub fn rows(bytes: &[u8]) {
    let _ = lifeboat::pg::archive::copy_columns(bytes);
    let _ = lifeboat::pg::archive::readable(bytes);
    if let Ok(statements) = sql::statements(bytes) {
        for statement in &statements {
            assert!(
                statement.tokens.iter().all(|token| token.at.end <= statement.text.len()),
                "a token beyond its statement"
            );
        }
    }
}

pub fn globals(bytes: &[u8]) {
    let _ = globals::without_restrict(bytes);
    let _ = globals::parse(bytes);
}

pub fn configuration(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Config::parse(Path::new("/etc/lifeboat/lifeboat.toml"), text);
    }
}

pub fn crontab(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = text.parse::<lifeboat::domain::calendar::crontab::Crontab>();
        let _ = text.parse::<lifeboat::domain::calendar::TimeZoneName>();
        let _ = text.parse::<lifeboat::domain::calendar::Blackout>();
        let _ = text.parse::<lifeboat::domain::human_duration::HumanDuration>();
    }
}

/// Names as a store lists them: what is a key reads back as itself.
pub fn listing(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (_, datastore, _) = names();
    for name in text.lines() {
        if let Ok(key) = name.parse::<ObjectKey>() {
            assert!(!key.as_str().split('/').any(|part| part == ".." || part.is_empty()), "{key}");
        }
        let _ = layout::parse_backup_key(name);
        let _ = layout::parse_evidence_key(name);
        let _ = layout::parse_epoch_key(&datastore, name);
        let _ = layout::parse_run_key(name);
        if let Some((datastore, backup)) = layout::parse_manifest_key(name) {
            assert_eq!(
                BackupKeys { datastore: &datastore, backup: &backup }.manifest().as_str(),
                name
            );
        }
    }
}

/// Ciphertext: nobody knows the identity, so nothing of it opens, and it is found out soon.
pub fn age_header(bytes: &[u8]) {
    let (to, chunks) = tokio::sync::mpsc::channel(2);
    let _ = to.try_send(Ok(bytes.to_vec().into()));
    drop(to);
    let expected = lifeboat::seal::open::ExpectedObject {
        name: "x".to_owned(),
        bytes: bytes.len() as u64,
        sha256: "0".repeat(64),
        in_chunks: true,
    };
    assert!(OpenedPayload::new("x", chunks, vec![expected], &BackupIdentity::generate()).is_err());
}

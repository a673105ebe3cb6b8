//! The manifest: the commit point of a backup. A backup exists if and only if its manifest is in
//! the vault.
//!
//! A manifest is signed, and trusted only under a key pinned outside the vault. It contains no
//! table names and nothing derived from the data but sizes; facts about the data are in the sealed
//! fingerprint.
//!
//! It can only be built from [`Receipt`]s, which a vault returns for a completed upload, which
//! needs a `SealProof`, which needs proof that the source process exited successfully: a truncated
//! dump cannot get here.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::{DocumentError, format_of};
use super::id::{BackupId, DatastoreName, VaultId};
use super::layout::{BackupKeys, ObjectKey};
use super::volumes::{BLOCK_BYTES, VolumeSet};

/// Format name of manifests of dumps before objects had lists of their chunks.
pub const FORMAT_DUMP_WHOLE: &str = "lifeboat.manifest/1";
/// The same of volume sets.
pub const FORMAT_SET_WHOLE: &str = "lifeboat.manifest/2";
/// Format name of manifests that are written: of dumps, and with a `set` of volume sets. Every
/// object has a list of its chunks.
pub const FORMAT: &str = "lifeboat.manifest/3";

/// Bytes of a payload: no sum of so few of them is beyond what is counted with.
const BYTES_MAX: u64 = 1 << 50;
/// Bytes of a chunk: what is fetched and checked at once, and released to be opened only when its
/// hash is the recorded one.
pub const CHUNK_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of a hash in a list of chunks.
pub const CHUNK_HASH_BYTES: usize = 32;

/// Where the hashes of an object's chunks are recorded: raw, 32 bytes each, in
/// [`super::layout::BackupKeys::chunks`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkList {
    /// Bytes of each chunk but the last: [`CHUNK_BYTES`].
    pub bytes: u64,
    /// SHA-256 of the list, lower-case hexadecimal.
    pub sha256: String,
}

/// What a vault answers when an object is complete: its name, size and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredObject {
    /// Name in the vault.
    pub key: ObjectKey,
    /// Size of the ciphertext in bytes.
    pub bytes: u64,
    /// SHA-256 of the ciphertext, lower-case hexadecimal.
    pub sha256: String,
    /// The list of its chunks; none in backups from before there were such lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<ChunkList>,
}

impl StoredObject {
    /// Bytes of the list of its chunks.
    #[must_use]
    pub fn chunk_list_bytes(&self) -> u64 {
        self.bytes.div_ceil(CHUNK_BYTES as u64) * CHUNK_HASH_BYTES as u64
    }
}

/// What a payload holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PayloadRole {
    /// The complete custom-format archive, less the data of tables that stand in `data` payloads.
    Main,
    /// A data-only custom-format archive of some tables, of the same snapshot.
    Data,
    /// `pg_dumpall --globals-only`.
    Globals,
    /// What was true of the data at backup time.
    Fingerprint,
    /// The restore plan that was in force.
    Plan,
    /// Of a volume set: the SHA-256 of every block that one snapshot holds.
    Blocks,
}

/// One sealed payload: `zstd` inside `age`, in one object or several to be concatenated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// Name within the backup: `main`, `data-001`, `globals.sql`, `fingerprint.json`, `plan.toml`.
    pub name: String,
    /// What it holds.
    pub role: PayloadRole,
    /// Bytes before compression.
    pub plain_bytes: u64,
    /// The stored objects, in the order in which they are concatenated.
    pub objects: Vec<StoredObject>,
}

impl Payload {
    /// Ciphertext size over all objects, in bytes.
    #[must_use]
    pub fn sealed_bytes(&self) -> u64 {
        self.objects.iter().map(|o| o.bytes).sum()
    }
}

/// Proof that a payload is in the vault, whole. Made by the upload that completed it.
#[derive(Debug, Clone)]
pub struct Receipt(Payload);

impl Receipt {
    /// Only the code that completes an upload under a `SealProof` calls this.
    #[must_use]
    pub(crate) fn of_completed(payload: Payload) -> Self {
        Self(payload)
    }
    /// What was stored.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.0
    }
}

/// Facts about what a backup was read from. No names from inside the data. A dump always has the
/// server's version; a volume set has it where its Postgres was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFacts {
    /// `server_version`, such as `15.18 (Debian 15.18-0+deb12u1)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// `server_version_num`, such as 150018.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version_num: Option<u32>,
    /// Identifier of the cluster from `pg_control_system()`, where the role may read it.
    pub system_identifier: Option<String>,
    /// Time of the exported snapshot by the server's clock, or just before the first volume was
    /// cut. The RPO is measured from here.
    pub snapshot_time: Timestamp,
    /// WAL position at the snapshot, where the role may read it.
    pub snapshot_lsn: Option<String>,
}

/// What a server says of its version, in signs that mean nothing to a shell, in Markdown or on a
/// terminal.
#[must_use]
pub fn plain_version(said: &str) -> String {
    const LENGTH_MAX: usize = 120;
    said.chars()
        .filter(|c| c.is_ascii_alphanumeric() || " .,;:+-_~()/".contains(*c))
        .take(LENGTH_MAX)
        .collect()
}

impl SourceFacts {
    /// The server's version for people.
    #[must_use]
    pub fn version(&self) -> &str {
        self.server_version.as_deref().unwrap_or("of an unknown version")
    }
    /// The server's major version; 0 if it is not known.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.server_version_num.unwrap_or_default() / 10_000
    }
}

/// Versions of the programs that made the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolVersions {
    /// lifeboat.
    pub lifeboat: String,
    /// `pg_dump --version`, of a dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_dump: Option<String>,
    /// Major version of `pg_dump`: a restore needs `pg_restore` of this major or newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_dump_major: Option<u32>,
}

impl ToolVersions {
    /// Major version of `pg_dump`; 0 where there was none.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.pg_dump_major.unwrap_or_default()
    }
}

/// A reference to a stored document, bound by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotReference {
    /// Name of the key in the configuration.
    pub name: String,
    /// `aws-kms` or `age`.
    pub kind: String,
}

/// One backup of one datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`], or one of those before it.
    pub format: String,
    /// The vault this manifest belongs to.
    pub vault: VaultId,
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// Counts the published backups of the datastore from 1. A gap without a removal record is
    /// shown to whoever restores.
    pub sequence: u64,
    /// The scheduled time this backup answers to; none when it was taken by hand.
    pub tick: Option<Timestamp>,
    /// Lease epoch; of two manifests for one tick readers take the highest.
    pub epoch: u64,
    /// When the run began and when it published, by this host's clock.
    pub begun: Timestamp,
    /// See `begun`.
    pub published: Timestamp,
    /// Where the data came from.
    pub source: SourceFacts,
    /// What made the backup.
    pub tools: ToolVersions,
    /// The snapshots, of a volume set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<VolumeSet>,
    /// Everything sealed. `main` and `globals.sql` are always there, of a dump.
    pub payloads: Vec<Payload>,
    /// SHA-256 of the first envelope document, lower-case hexadecimal. Later envelopes are bound
    /// by their signature.
    pub envelope_sha256: String,
    /// The key slots of the first envelope.
    pub slots: Vec<SlotReference>,
    /// Hash of the newest evidence record at the time, if there is a series.
    pub evidence_head: Option<String>,
}

/// Everything but the receipts that a manifest states.
#[derive(Debug, Clone)]
pub struct ManifestStatement {
    /// See [`Manifest::vault`].
    pub vault: VaultId,
    /// See [`Manifest::datastore`].
    pub datastore: DatastoreName,
    /// See [`Manifest::backup`].
    pub backup: BackupId,
    /// See [`Manifest::sequence`].
    pub sequence: u64,
    /// See [`Manifest::tick`].
    pub tick: Option<Timestamp>,
    /// See [`Manifest::epoch`].
    pub epoch: u64,
    /// See [`Manifest::begun`].
    pub begun: Timestamp,
    /// See [`Manifest::published`].
    pub published: Timestamp,
    /// See [`Manifest::source`].
    pub source: SourceFacts,
    /// See [`Manifest::tools`].
    pub tools: ToolVersions,
    /// See [`Manifest::set`].
    pub set: Option<VolumeSet>,
    /// See [`Manifest::envelope_sha256`].
    pub envelope_sha256: String,
    /// See [`Manifest::slots`].
    pub slots: Vec<SlotReference>,
    /// See [`Manifest::evidence_head`].
    pub evidence_head: Option<String>,
}

/// Why a manifest is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of this format.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// It names something else than its place does.
    #[error("the manifest at {place} says it is {field} {found}, which is not where it stands")]
    Misplaced {
        /// Key it was read from.
        place: ObjectKey,
        /// Which field differs.
        field: &'static str,
        /// What the manifest says.
        found: String,
    },
    /// A payload that must be there is not, or one points out of its place.
    #[error("the manifest of {backup} is not acceptable: {why}")]
    Unsound {
        /// The backup.
        backup: BackupId,
        /// What is wrong.
        why: String,
    },
}

impl Manifest {
    /// Makes the manifest of a backup whose payloads are all in the vault.
    #[must_use]
    pub fn new(statement: ManifestStatement, receipts: Vec<Receipt>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            vault: statement.vault,
            datastore: statement.datastore,
            backup: statement.backup,
            sequence: statement.sequence,
            tick: statement.tick,
            epoch: statement.epoch,
            begun: statement.begun,
            published: statement.published,
            source: statement.source,
            tools: statement.tools,
            set: statement.set,
            payloads: receipts.into_iter().map(|r| r.0).collect(),
            envelope_sha256: statement.envelope_sha256,
            slots: statement.slots,
            evidence_head: statement.evidence_head,
        }
    }

    /// Parses a manifest read from `place` in vault `vault` and refuses one that belongs elsewhere.
    ///
    /// # Errors
    /// [`ManifestError`] for a format this program does not know, a manifest out of place, or one
    /// whose payloads are unsound.
    pub fn parse(
        bytes: &[u8],
        vault: &VaultId,
        place: &BackupKeys<'_>,
    ) -> Result<Self, ManifestError> {
        let format = format_of(bytes, "manifest", &[FORMAT, FORMAT_SET_WHOLE, FORMAT_DUMP_WHOLE])?;
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|source| DocumentError::Malformed { what: "manifest", source })?;
        let misplaced = |field, found: String| ManifestError::Misplaced {
            place: place.manifest(),
            field,
            found,
        };
        if &manifest.vault != vault {
            return Err(misplaced("of vault", manifest.vault.to_string()));
        }
        if &manifest.datastore != place.datastore {
            return Err(misplaced("of datastore", manifest.datastore.to_string()));
        }
        if &manifest.backup != place.backup {
            return Err(misplaced("backup", manifest.backup.to_string()));
        }
        if format != FORMAT && manifest.set.is_some() != (format == FORMAT_SET_WHOLE) {
            let why = format!(
                "a manifest of format {format} {} a volume set",
                if manifest.set.is_some() { "is not of" } else { "is of" }
            );
            return Err(ManifestError::Unsound { backup: manifest.backup.clone(), why });
        }
        manifest
            .sound()
            .map_err(|why| ManifestError::Unsound { backup: manifest.backup.clone(), why })?;
        Ok(manifest)
    }

    fn sound(&self) -> Result<(), String> {
        match &self.set {
            Some(set) => self.sound_set(set)?,
            None => self.sound_dump()?,
        }
        self.sound_version()?;
        self.sound_payloads()
    }

    fn sound_set(&self, set: &VolumeSet) -> Result<(), String> {
        set.sound()?;
        match self
            .payloads
            .iter()
            .find(|payload| !matches!(payload.role, PayloadRole::Blocks | PayloadRole::Plan))
        {
            Some(payload) => Err(format!("payload {:?} is not one of a volume set", payload.name)),
            None => Ok(()),
        }
    }

    /// What a server says of its version stands in guides and runbooks, which people paste.
    fn sound_version(&self) -> Result<(), String> {
        match self
            .source
            .server_version
            .as_deref()
            .is_none_or(|version| version == plain_version(version))
        {
            true => Ok(()),
            false => Err("the server's version holds signs that no version has".to_owned()),
        }
    }

    fn sound_dump(&self) -> Result<(), String> {
        if self.source.server_version_num.is_none() || self.tools.pg_dump_major.is_none() {
            return Err("it does not say which server it is of, or what dumped it".to_owned());
        }
        for (role, times) in [
            (PayloadRole::Main, 1),
            (PayloadRole::Globals, 1),
            (PayloadRole::Fingerprint, 1),
            (PayloadRole::Blocks, 0),
        ] {
            let found = self.payloads.iter().filter(|p| p.role == role).count();
            if found != times {
                return Err(format!(
                    "it lists {found} payloads of role {role:?}, and must list {times}"
                ));
            }
        }
        Ok(())
    }

    fn sound_payloads(&self) -> Result<(), String> {
        let place = self.place();
        let (payloads, meta) = (place.payload_prefix(), place.meta_prefix());
        let mut names = std::collections::BTreeSet::new();
        for payload in &self.payloads {
            // Names become file names when a backup is restored to a directory.
            let legal =
                |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
            if !payload.name.bytes().all(legal)
                || payload.name.is_empty()
                || payload.name.starts_with('.')
                || !names.insert(&payload.name)
            {
                return Err(format!(
                    "{:?} is not a payload's name, or is there twice",
                    payload.name
                ));
            }
            if payload.plain_bytes > BYTES_MAX
                || payload.objects.iter().any(|object| object.bytes > BYTES_MAX)
            {
                return Err(format!(
                    "payload {:?} is said to be larger than anything is",
                    payload.name
                ));
            }
            if payload.objects.is_empty() {
                return Err(format!("payload {:?} has no object", payload.name));
            }
            for object in &payload.objects {
                if !object.key.as_str().starts_with(&payloads)
                    && !object.key.as_str().starts_with(&meta)
                {
                    return Err(format!(
                        "payload {:?} points at {}, outside the backup's place",
                        payload.name, object.key
                    ));
                }
                let hashes = std::iter::once(&object.sha256)
                    .chain(object.chunks.as_ref().map(|list| &list.sha256));
                for hash in hashes {
                    if hash.len() != 64
                        || !hash.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
                    {
                        return Err(format!("payload {:?} has no proper SHA-256", payload.name));
                    }
                }
                if object.chunks.is_some() != (self.format == FORMAT) {
                    return Err(format!(
                        "payload {:?} does not fit a manifest of format {}: with or without lists of chunks",
                        payload.name, self.format
                    ));
                }
                if object.chunks.as_ref().is_some_and(|list| list.bytes != CHUNK_BYTES as u64) {
                    return Err(format!(
                        "payload {:?} has chunks of another size than {CHUNK_BYTES} bytes",
                        payload.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Names of this backup's objects.
    #[must_use]
    pub fn place(&self) -> BackupKeys<'_> {
        BackupKeys { datastore: &self.datastore, backup: &self.backup }
    }
    /// The payload of a role that is there exactly once.
    #[must_use]
    pub fn payload(&self, role: PayloadRole) -> Option<&Payload> {
        self.payloads.iter().find(|p| p.role == role)
    }
    /// The parallel data payloads, in order.
    pub fn data_payloads(&self) -> impl Iterator<Item = &Payload> {
        self.payloads.iter().filter(|p| p.role == PayloadRole::Data)
    }
    /// Stored size of all payloads, in bytes.
    #[must_use]
    pub fn sealed_bytes(&self) -> u64 {
        self.payloads.iter().map(Payload::sealed_bytes).sum()
    }
    /// Bytes that a restore brings back: all payloads before compression, or what the snapshots of
    /// a set hold (the whole volumes, where their blocks were not counted).
    #[must_use]
    pub fn plain_bytes(&self) -> u64 {
        if let Some(set) = &self.set {
            return set
                .members
                .iter()
                .map(|member| {
                    member.blocks.map_or(member.bytes, |blocks| blocks * BLOCK_BYTES as u64)
                })
                .sum();
        }
        self.payloads.iter().map(|p| p.plain_bytes).sum()
    }
}

#[cfg(test)]
mod tests;

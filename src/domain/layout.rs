//! The vault's layout: which object stands under which name. Names are only ever made here.
//!
//! ```text
//! vault.json                                     format and vault id
//! manifests/<datastore>/<backup>.json            the commit point (+ .sig before it)
//! meta/<datastore>/<backup>/                     envelopes, slots, RESTORE.md, sealed fingerprint and plan
//! payloads/<datastore>/<backup>/                 main.zst.age, globals.sql.zst.age, data-001.zst.age …
//! evidence/<sequence>.json                       the series of drill reports (+ .sig before each)
//! runs/epochs/<datastore>/<epoch>.json           who held a datastore, where hosts share the work
//! runs/<run>/…                                   lease, order and inbox of a drill in a scratch VPC
//! agent/<sha256>                                 the binary that its instance fetches
//! probes/<random>                                what `lifeboat check` wrote to see whether it may write
//! ```

use std::fmt;
use std::str::FromStr;

use super::id::{BackupId, DatastoreName};

/// Name of an object in a vault, relative to the vault's prefix. Never absolute, never with `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The key as text, with `/` between its parts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The last part of the key.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
    /// The key of the detached signature that belongs to this object.
    #[must_use]
    pub fn signature(&self) -> Self {
        Self(format!("{}.sig", self.0))
    }
    /// The key under which the `number`th piece (from 2) of a payload too large for one object is stored.
    #[must_use]
    pub fn piece(&self, number: usize) -> Self {
        if number <= 1 { self.clone() } else { Self(format!("{}.{number:04}", self.0)) }
    }
}

impl FromStr for ObjectKey {
    type Err = String;
    /// Accepts what a vault may list: relative, no empty, `.` or `..` part, printable ASCII only.
    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
        let part_is_legal = |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(legal);
        if text.len() <= 512 && text.split('/').all(part_is_legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("{text:?} cannot be the name of an object in a vault"))
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for ObjectKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for ObjectKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where manifests stand; listing below it is how lifeboat learns which backups exist.
pub const MANIFESTS: &str = "manifests/";
/// Where everything small but the manifests stands.
pub const META: &str = "meta/";
/// Where payloads stand.
pub const PAYLOADS: &str = "payloads/";
/// Where `lifeboat check` writes its probes.
pub const PROBES: &str = "probes/";

/// Where the series of evidence stands.
pub const EVIDENCE: &str = "evidence/";

/// A record of the series.
#[must_use]
pub fn evidence(sequence: u64) -> ObjectKey {
    ObjectKey(format!("{EVIDENCE}{sequence:08}.json"))
}

/// The number of a record's key, and whether it is the record or its signature.
#[must_use]
pub fn parse_evidence_key(key: &str) -> Option<(u64, bool)> {
    let name = key.strip_prefix(EVIDENCE)?;
    let (number, is_record) = match name.strip_suffix(".json.sig") {
        Some(number) => (number, false),
        None => (name.strip_suffix(".json")?, true),
    };
    let sequence = number.parse().ok().filter(|sequence| (1..100_000_000).contains(sequence))?;
    // Only the one spelling counts: two names for one number would be two records under it.
    (evidence(sequence).as_str() == format!("{EVIDENCE}{number}.json")).then_some((sequence, is_record))
}

/// Where claims of epochs stand.
pub const EPOCHS: &str = "runs/epochs/";

/// Prefix of the claims of one datastore.
#[must_use]
pub fn epochs_of(datastore: &DatastoreName) -> String {
    format!("{EPOCHS}{datastore}/")
}

/// The claim of an epoch.
#[must_use]
pub fn epoch(datastore: &DatastoreName, epoch: u64) -> ObjectKey {
    ObjectKey(format!("{}{epoch:012}.json", epochs_of(datastore)))
}

/// The epoch of a claim's key.
#[must_use]
pub fn parse_epoch_key(datastore: &DatastoreName, key: &str) -> Option<u64> {
    let number: u64 = key.strip_prefix(&epochs_of(datastore))?.strip_suffix(".json")?.parse().ok()?;
    (epoch(datastore, number).as_str() == key).then_some(number)
}

/// Where runs stand.
pub const RUNS: &str = "runs/";

/// Everything of a run in a scratch VPC. A run's name is made by lifeboat: a time and six hexadecimal digits.
#[must_use]
pub fn run_prefix(run: &str) -> String {
    format!("{RUNS}{run}/")
}

/// The lease of a run.
#[must_use]
pub fn lease(run: &str) -> ObjectKey {
    ObjectKey(format!("{}lease.json", run_prefix(run)))
}

/// What says that a run is over and nothing of it is left.
#[must_use]
pub fn run_over(run: &str) -> ObjectKey {
    ObjectKey(format!("{}over.json", run_prefix(run)))
}

/// The order of a run's agent, by attempt: a run that is resumed has another.
#[must_use]
pub fn order(run: &str, attempt: u64) -> ObjectKey {
    ObjectKey(format!("{}order-{attempt:04}.json", run_prefix(run)))
}

/// Where the agent of an attempt puts its letters.
#[must_use]
pub fn inbox(run: &str, attempt: u64) -> String {
    format!("{}inbox/{attempt:04}/", run_prefix(run))
}

/// The `number`th letter.
#[must_use]
pub fn letter(run: &str, attempt: u64, number: u64) -> ObjectKey {
    ObjectKey(format!("{}{number:08}.json", inbox(run, attempt)))
}

/// The run that an object below [`RUNS`] belongs to; none of claims of epochs.
#[must_use]
pub fn parse_run_key(key: &str) -> Option<String> {
    let run = key.strip_prefix(RUNS)?.split('/').next()?;
    let (time, random) = run.split_once('-')?;
    let hexadecimal = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    let is_time = time.len() == 16 && time.bytes().all(|c| c.is_ascii_digit() || c == b'T' || c == b'Z');
    (is_time && random.len() == 6 && random.bytes().all(hexadecimal)).then(|| run.to_owned())
}

/// The binary that scratch instances fetch.
#[must_use]
pub fn agent(sha256: &str) -> ObjectKey {
    ObjectKey(format!("agent/{sha256}"))
}

/// The vault's own document.
#[must_use]
pub fn vault_header() -> ObjectKey {
    ObjectKey("vault.json".to_owned())
}

/// A probe, named by random text.
#[must_use]
pub fn probe(random: &str) -> ObjectKey {
    ObjectKey(format!("{PROBES}{random}"))
}

/// Whether a key is one of [`probe`]'s, or of the questions asked beside it.
#[must_use]
pub fn is_probe(key: &str) -> bool {
    let name = key.strip_prefix(PROBES).map(|name| name.strip_suffix("-wrong").or_else(|| name.strip_suffix("-class")).unwrap_or(name));
    name.is_some_and(|name| name.len() == 16 && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')))
}

/// Prefix of the manifests of one datastore.
#[must_use]
pub fn manifests_of(datastore: &DatastoreName) -> String {
    format!("{MANIFESTS}{datastore}/")
}

/// The names of one backup's objects.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The datastore.
    pub datastore: &'a DatastoreName,
    /// The backup.
    pub backup: &'a BackupId,
}

impl Place<'_> {
    /// `manifests/<datastore>/<backup>.json`
    #[must_use]
    pub fn manifest(&self) -> ObjectKey {
        ObjectKey(format!("{MANIFESTS}{}/{}.json", self.datastore, self.backup))
    }
    /// `meta/<datastore>/<backup>/`
    #[must_use]
    pub fn meta_prefix(&self) -> String {
        format!("{META}{}/{}/", self.datastore, self.backup)
    }
    /// `payloads/<datastore>/<backup>/`
    #[must_use]
    pub fn payload_prefix(&self) -> String {
        format!("{PAYLOADS}{}/{}/", self.datastore, self.backup)
    }
    /// The `number`th envelope (from 1).
    #[must_use]
    pub fn envelope(&self, number: u32) -> ObjectKey {
        ObjectKey(format!("{}envelope-{number:04}.json", self.meta_prefix()))
    }
    /// A slot of the `number`th envelope.
    #[must_use]
    pub fn slot(&self, number: u32, name: &str, extension: &str) -> ObjectKey {
        ObjectKey(format!("{}slots/{number:04}-{name}.{extension}", self.meta_prefix()))
    }
    /// `RESTORE.md`, for the first envelope; `RESTORE-0002.md` for the second, and so on.
    #[must_use]
    pub fn restore_guide(&self, number: u32) -> ObjectKey {
        let name = if number <= 1 { "RESTORE.md".to_owned() } else { format!("RESTORE-{number:04}.md") };
        ObjectKey(format!("{}{name}", self.meta_prefix()))
    }
    /// A sealed document beside the envelope: `fingerprint.json`, `plan.toml`.
    #[must_use]
    pub fn sealed_meta(&self, name: &str) -> ObjectKey {
        ObjectKey(format!("{}{name}.zst.age", self.meta_prefix()))
    }
    /// A payload: `main`, `globals.sql`, `data-001`.
    #[must_use]
    pub fn payload(&self, name: &str) -> ObjectKey {
        ObjectKey(format!("{}{name}.zst.age", self.payload_prefix()))
    }
}

impl Place<'_> {
    /// The number of the rotation that a key under `meta/` belongs to, and whether it is an envelope.
    #[must_use]
    pub fn rotation(&self, key: &ObjectKey) -> Option<(u32, bool)> {
        let name = key.as_str().strip_prefix(&self.meta_prefix())?;
        let digits = |text: &str| text.get(..4)?.parse().ok();
        if let Some(rest) = name.strip_prefix("envelope-") {
            let number = digits(rest)?;
            return Some((number, self.envelope(number) == *key));
        }
        let rest = name.strip_prefix("slots/").or_else(|| name.strip_prefix("RESTORE-"))?;
        Some((digits(rest)?, false))
    }
}

/// Reads datastore and backup id out of a manifest's key; `None` for anything else, signatures included.
#[must_use]
pub fn parse_manifest_key(key: &str) -> Option<(DatastoreName, BackupId)> {
    let (datastore, file) = key.strip_prefix(MANIFESTS)?.split_once('/')?;
    Some((datastore.parse().ok()?, file.strip_suffix(".json")?.parse().ok()?))
}

/// Reads datastore and backup id out of the key of any object that belongs to a backup.
#[must_use]
pub fn parse_backup_key(key: &str) -> Option<(DatastoreName, BackupId)> {
    let rest = [META, PAYLOADS].iter().find_map(|prefix| key.strip_prefix(prefix));
    if let Some(rest) = rest {
        let mut parts = rest.splitn(3, '/');
        return Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?));
    }
    parse_manifest_key(key.strip_suffix(".sig").unwrap_or(key))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_from_a_hostile_listing_cannot_leave_the_vault() {
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "a\0b", "a b", "ä", "a/"] {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad:?}");
        }
        assert!("payloads/chat/20261122T031500Z-K3XQ7A/main.zst.age.0002".parse::<ObjectKey>().is_ok());
    }

    #[test]
    fn names_are_read_back_from_keys() {
        let (datastore, backup) = ("chat".parse().unwrap(), "20261122T031500Z-K3XQ7A".parse().unwrap());
        let place = Place { datastore: &datastore, backup: &backup };
        for key in [
            place.manifest(),
            place.manifest().signature(),
            place.envelope(1),
            place.payload("main").piece(2),
            place.slot(1, "home", "kms"),
        ] {
            assert_eq!(parse_backup_key(key.as_str()), Some((datastore.clone(), backup.clone())), "{key}");
        }
        assert_eq!(parse_manifest_key(place.manifest().as_str()), Some((datastore.clone(), backup.clone())));
        assert_eq!(parse_manifest_key(place.manifest().signature().as_str()), None);
    }
}

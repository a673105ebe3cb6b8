//! The vault's layout: object names. They are only ever made here.
//!
//! ```text
//! vault.json                                     format and vault id
//! manifests/<datastore>/<backup>.json            the commit point (+ .sig before it)
//! meta/<datastore>/<backup>/                     envelopes, slots, RESTORE.md, sealed fingerprint and plan
//! payloads/<datastore>/<backup>/                 main.zst.age, globals.sql.zst.age, data-001.zst.age …
//! evidence/<sequence>.json                       the evidence log (+ .sig before each)
//! runs/epochs/<datastore>/<epoch>.json           fencing tokens: who held a datastore, where hosts share the work
//! runs/<run>/…                                   lease, order and inbox of a drill in a scratch VPC
//! agent/<sha256>                                 the binary that its instance fetches
//! probes/<random>                                written by `lifeboat check` to learn whether it may write
//! ```

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use super::id::{BackupId, DatastoreName};

/// Name of an object in a vault, relative to the vault's prefix. Never absolute, never with `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

impl Borrow<str> for ObjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

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
    /// Whether it is the key of such a signature.
    #[must_use]
    pub fn is_signature(&self) -> bool {
        self.0.ends_with(".sig")
    }
    /// The key under which the `number`th piece (from 2) of a payload too large for one object is
    /// stored.
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
        let part_is_legal =
            |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(legal);
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
    (evidence(sequence).as_str() == format!("{EVIDENCE}{number}.json"))
        .then_some((sequence, is_record))
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

/// The epoch of the key of a claim, or of its signature.
#[must_use]
pub fn parse_epoch_key(datastore: &DatastoreName, key: &str) -> Option<u64> {
    let key = key.strip_suffix(".sig").unwrap_or(key);
    let number: u64 =
        key.strip_prefix(&epochs_of(datastore))?.strip_suffix(".json")?.parse().ok()?;
    (number <= EPOCH_MAX && epoch(datastore, number).as_str() == key).then_some(number)
}

/// The highest number of an epoch, in twelve digits: one a second would last for thirty thousand
/// years.
pub const EPOCH_MAX: u64 = 999_999_999_999;

/// Where runs stand.
pub const RUNS: &str = "runs/";

/// Everything of a run in a scratch VPC. A run's name is made by lifeboat: a time and six
/// hexadecimal digits.
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
    let is_time =
        time.len() == 16 && time.bytes().all(|c| c.is_ascii_digit() || c == b'T' || c == b'Z');
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

/// The keys that may be there after a probe.
#[must_use]
pub fn of_probe(probe: &ObjectKey) -> [ObjectKey; 3] {
    ["", "-wrong", "-class"].map(|end| ObjectKey(format!("{probe}{end}")))
}

/// Whether a directory of this name may hold objects of a vault. What else stands there is none of
/// ours, and is not looked into: whoever may make directories must not be able to close a listing
/// by one that leads away, or that nobody may read.
#[must_use]
pub fn may_hold_objects(directory: &str) -> bool {
    let parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    let is_datastore = |part: &str| part.parse::<DatastoreName>().is_ok();
    let is_backup = |part: &str| part.parse::<BackupId>().is_ok();
    match parts[..] {
        [] | ["manifests" | "meta" | "payloads" | "evidence" | "runs" | "agent" | "probes"] => true,
        ["manifests" | "meta" | "payloads", datastore] => is_datastore(datastore),
        ["meta" | "payloads", datastore, backup] => is_datastore(datastore) && is_backup(backup),
        ["meta", datastore, backup, "slots"] => is_datastore(datastore) && is_backup(backup),
        ["runs", "epochs"] => true,
        ["runs", "epochs", datastore] => is_datastore(datastore),
        ["runs", run] | ["runs", run, "inbox"] | ["runs", run, "inbox", _] => {
            parse_run_key(&format!("{RUNS}{run}/")).is_some()
        }
        _ => false,
    }
}

/// Whether a key is one of [`probe`]'s, or of the questions asked beside it.
#[must_use]
pub fn is_probe(key: &str) -> bool {
    let name = key.strip_prefix(PROBES).map(|name| {
        name.strip_suffix("-wrong").or_else(|| name.strip_suffix("-class")).unwrap_or(name)
    });
    name.is_some_and(|name| {
        name.len() == 16 && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Prefix of the manifests of one datastore.
#[must_use]
pub fn manifests_of(datastore: &DatastoreName) -> String {
    format!("{MANIFESTS}{datastore}/")
}

/// The names of one backup's objects.
#[derive(Debug, Clone)]
pub struct BackupKeys<'a> {
    /// The datastore.
    pub datastore: &'a DatastoreName,
    /// The backup.
    pub backup: &'a BackupId,
}

impl BackupKeys<'_> {
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
        let name =
            if number <= 1 { "RESTORE.md".to_owned() } else { format!("RESTORE-{number:04}.md") };
        ObjectKey(format!("{}{name}", self.meta_prefix()))
    }
    /// A sealed document beside the envelope: `fingerprint.json`, `plan.toml`.
    #[must_use]
    pub fn sealed_meta(&self, name: &str) -> ObjectKey {
        ObjectKey(format!("{}{name}.zst.age", self.meta_prefix()))
    }
    /// The list of the chunks of one of the backup's objects.
    #[must_use]
    pub fn chunks(&self, object: &ObjectKey) -> ObjectKey {
        ObjectKey(format!("{}{}.chunks", self.meta_prefix(), object.file_name()))
    }
    /// A payload: `main`, `globals.sql`, `data-001`.
    #[must_use]
    pub fn payload(&self, name: &str) -> ObjectKey {
        ObjectKey(format!("{}{name}.zst.age", self.payload_prefix()))
    }
}

impl BackupKeys<'_> {
    /// The number of the rotation that a key under `meta/` belongs to, and whether it is an
    /// envelope.
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

/// Reads datastore and backup id out of a manifest's key; `None` for anything else, signatures
/// included.
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
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "a\0b", "a b", "ä", "a/"]
        {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad:?}");
        }
        assert!(
            "payloads/chat/20261122T031500Z-K3XQ7A/main.zst.age.0002".parse::<ObjectKey>().is_ok()
        );
    }

    #[test]
    fn names_are_read_back_from_keys() {
        let (datastore, backup) =
            ("chat".parse().unwrap(), "20261122T031500Z-K3XQ7A".parse().unwrap());
        let place = BackupKeys { datastore: &datastore, backup: &backup };
        for key in [
            place.manifest(),
            place.manifest().signature(),
            place.envelope(1),
            place.payload("main").piece(2),
            place.slot(1, "home", "kms"),
        ] {
            assert_eq!(
                parse_backup_key(key.as_str()),
                Some((datastore.clone(), backup.clone())),
                "{key}"
            );
        }
        assert_eq!(
            parse_manifest_key(place.manifest().as_str()),
            Some((datastore.clone(), backup.clone()))
        );
        assert_eq!(parse_manifest_key(place.manifest().signature().as_str()), None);
    }

    const BACKUP: &str = "20261122T031500Z-K3XQ7A";

    fn key(text: &str) -> ObjectKey {
        text.parse().unwrap()
    }

    #[test]
    fn keys_have_at_most_512_bytes_of_letters_digits_and_three_signs() {
        assert!("a".repeat(512).parse::<ObjectKey>().is_ok());
        assert_eq!(
            "a".repeat(513).parse::<ObjectKey>().unwrap_err(),
            format!("{:?} cannot be the name of an object in a vault", "a".repeat(513))
        );
        for good in ["a", "Z9", "a-b_c.d", "...", ".a/..b", "a/b/c"] {
            assert_eq!(key(good).to_string(), good);
        }
        for bad in [".", "a/.", "..", "a/..", "/", "a+b", "a:b", "a~", "a\\b", "a\n"] {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_are_stored_as_text_and_checked_when_read() {
        let stored = serde_json::to_string(&key("payloads/chat/x")).unwrap();
        assert_eq!(stored, "\"payloads/chat/x\"");
        assert_eq!(serde_json::from_str::<ObjectKey>(&stored).unwrap(), key("payloads/chat/x"));
        assert!(serde_json::from_str::<ObjectKey>("\"../x\"").is_err());
    }

    #[test]
    fn signatures_and_pieces_stand_beside_their_object() {
        let object = key("payloads/chat/x/main.zst.age");
        assert_eq!(object.file_name(), "main.zst.age");
        assert_eq!(key("vault.json").file_name(), "vault.json");
        assert_eq!(object.signature().as_str(), "payloads/chat/x/main.zst.age.sig");
        for (number, name) in [(0, ""), (1, ""), (2, ".0002"), (12_345, ".12345")] {
            assert_eq!(
                object.piece(number).as_str(),
                format!("payloads/chat/x/main.zst.age{name}")
            );
        }
    }

    #[test]
    fn every_object_stands_where_restore_guides_and_older_versions_look_for_it() {
        let (chat, backup): (DatastoreName, BackupId) =
            ("chat".parse().unwrap(), BACKUP.parse().unwrap());
        let place = BackupKeys { datastore: &chat, backup: &backup };
        let run = "20261122T031500Z-0a1b2c";
        for (made, name) in [
            (vault_header(), "vault.json"),
            (place.manifest(), "manifests/chat/20261122T031500Z-K3XQ7A.json"),
            (place.envelope(2), "meta/chat/20261122T031500Z-K3XQ7A/envelope-0002.json"),
            (place.slot(2, "home", "kms"), "meta/chat/20261122T031500Z-K3XQ7A/slots/0002-home.kms"),
            (place.restore_guide(0), "meta/chat/20261122T031500Z-K3XQ7A/RESTORE.md"),
            (place.restore_guide(1), "meta/chat/20261122T031500Z-K3XQ7A/RESTORE.md"),
            (place.restore_guide(2), "meta/chat/20261122T031500Z-K3XQ7A/RESTORE-0002.md"),
            (place.sealed_meta("plan.toml"), "meta/chat/20261122T031500Z-K3XQ7A/plan.toml.zst.age"),
            (place.payload("data-001"), "payloads/chat/20261122T031500Z-K3XQ7A/data-001.zst.age"),
            (evidence(17), "evidence/00000017.json"),
            (epoch(&chat, 3), "runs/epochs/chat/000000000003.json"),
            (lease(run), "runs/20261122T031500Z-0a1b2c/lease.json"),
            (run_over(run), "runs/20261122T031500Z-0a1b2c/over.json"),
            (order(run, 2), "runs/20261122T031500Z-0a1b2c/order-0002.json"),
            (letter(run, 2, 9), "runs/20261122T031500Z-0a1b2c/inbox/0002/00000009.json"),
            (agent("0a1b"), "agent/0a1b"),
            (probe("0123456789abcdef"), "probes/0123456789abcdef"),
        ] {
            assert_eq!(made.as_str(), name);
            assert_eq!(key(name), made, "what is written may be listed");
        }
        assert!(place.manifest().as_str().starts_with(&manifests_of(&chat)));
        assert_eq!(manifests_of(&chat), "manifests/chat/");
        assert_eq!(place.meta_prefix(), "meta/chat/20261122T031500Z-K3XQ7A/");
        assert_eq!(place.payload_prefix(), "payloads/chat/20261122T031500Z-K3XQ7A/");
        assert_eq!(
            (epochs_of(&chat), run_prefix(run)),
            ("runs/epochs/chat/".to_owned(), format!("runs/{run}/"))
        );
        assert_eq!(inbox(run, 2), "runs/20261122T031500Z-0a1b2c/inbox/0002/");
    }

    #[test]
    fn only_the_one_spelling_of_a_records_number_counts() {
        for (key, parsed) in [
            ("evidence/00000001.json", Some((1, true))),
            ("evidence/00000001.json.sig", Some((1, false))),
            ("evidence/99999999.json", Some((99_999_999, true))),
            ("evidence/00000000.json", None),
            ("evidence/100000000.json", None),
            ("evidence/1.json", None),
            ("evidence/000000001.json", None),
            ("evidence/+0000001.json", None),
            ("evidence/00000001", None),
            ("evidence/00000001.sig", None),
            ("evidence/.json", None),
            ("x/evidence/00000001.json", None),
            ("manifests/00000001.json", None),
        ] {
            assert_eq!(parse_evidence_key(key), parsed, "{key}");
        }
    }

    #[test]
    fn only_the_one_spelling_of_an_epoch_counts_and_only_for_its_datastore() {
        let chat = "chat".parse().unwrap();
        for (key, parsed) in [
            ("runs/epochs/chat/000000000000.json", Some(0)),
            ("runs/epochs/chat/000000000003.json", Some(3)),
            ("runs/epochs/chat/999999999999.json", Some(999_999_999_999)),
            ("runs/epochs/chat/1000000000000.json", None),
            ("runs/epochs/chat/18446744073709551615.json", None),
            ("runs/epochs/chat/3.json", None),
            ("runs/epochs/chat/0000000000003.json", None),
            ("runs/epochs/chat/+00000000003.json", None),
            ("runs/epochs/chat/000000000003.json.sig", Some(3)),
            ("runs/epochs/chat/000000000003.json.sig.sig", None),
            ("runs/epochs/chat2/000000000003.json", None),
            ("runs/epochs/mail/000000000003.json", None),
        ] {
            assert_eq!(parse_epoch_key(&chat, key), parsed, "{key}");
        }
    }

    #[test]
    fn the_run_of_a_key_is_found_and_nothing_else_is_taken_for_a_run() {
        let run = "20261122T031500Z-0a1b2c";
        for made in [lease(run), run_over(run), order(run, 1), letter(run, 1, 1)] {
            assert_eq!(parse_run_key(made.as_str()).as_deref(), Some(run), "{made}");
        }
        for (key, found) in [
            ("runs/20261122T031500Z-9f0a9f", true),
            ("runs/20261122T031500Z-0a1b2c/anything", true),
            ("runs/20261122T031500Z-0A1B2C/lease.json", false),
            ("runs/20261122T031500Z-0a1b2g/lease.json", false),
            ("runs/20261122T031500Z-0a1b2/lease.json", false),
            ("runs/20261122T031500Z-0a1b2c3/lease.json", false),
            ("runs/20261122T031500-0a1b2c/lease.json", false),
            ("runs/20261122X031500Z-0a1b2c/lease.json", false),
            ("runs/20261122t031500z-0a1b2c/lease.json", false),
            ("runs/20261122T031500Z/lease.json", false),
            ("runs/epochs/chat/000000000003.json", false),
            ("20261122T031500Z-0a1b2c/lease.json", false),
        ] {
            assert_eq!(parse_run_key(key).is_some(), found, "{key}");
        }
    }

    #[test]
    fn probes_and_what_is_asked_beside_them_are_told_from_everything_else() {
        for (key, is) in [
            ("probes/0123456789abcdef", true),
            ("probes/0123456789abcdef-wrong", true),
            ("probes/0123456789abcdef-class", true),
            ("probes/0123456789abcdef-other", false),
            ("probes/0123456789abcdef-wrong-class", false),
            ("probes/0123456789ABCDEF", false),
            ("probes/0123456789abcdeg", false),
            ("probes/0123456789abcde", false),
            ("probes/0123456789abcdef0", false),
            ("probes/", false),
            ("0123456789abcdef", false),
            ("meta/0123456789abcdef", false),
        ] {
            assert_eq!(is_probe(key), is, "{key}");
        }
    }

    #[test]
    fn objects_are_sorted_to_the_rotation_that_wrote_them() {
        let (chat, backup): (DatastoreName, BackupId) =
            ("chat".parse().unwrap(), BACKUP.parse().unwrap());
        let place = BackupKeys { datastore: &chat, backup: &backup };
        let meta = |name: &str| key(&format!("{}{name}", place.meta_prefix()));
        for (key, rotation) in [
            (place.envelope(1), Some((1, true))),
            (place.envelope(2), Some((2, true))),
            (place.envelope(2).signature(), Some((2, false))),
            (place.slot(2, "home", "kms"), Some((2, false))),
            (place.restore_guide(2), Some((2, false))),
            (place.restore_guide(1), None),
            (place.sealed_meta("plan.toml"), None),
            (place.payload("main"), None),
            (place.manifest(), None),
            (meta("envelope-2.json"), None),
            (meta("envelope-00x2.json"), None),
            (meta("slots/home.kms"), None),
            (meta("other/0002-home.kms"), None),
            (key("meta/mail/20261122T031500Z-K3XQ7A/envelope-0002.json"), None),
        ] {
            assert_eq!(place.rotation(&key), rotation, "{key}");
        }
    }

    #[test]
    fn keys_that_belong_to_no_backup_are_not_taken_for_one() {
        for key in [
            "vault.json",
            "evidence/00000001.json",
            "manifests/chat/20261122T031500Z-K3XQ7A",
            "manifests/chat/20261122T031500Z-K3XQ7A.json.sig.sig",
            "manifests/chat/x/20261122T031500Z-K3XQ7A.json",
            "manifests/Chat/20261122T031500Z-K3XQ7A.json",
            "manifests/20261122T031500Z-K3XQ7A.json",
            "chat/20261122T031500Z-K3XQ7A.json",
            "meta/chat",
            "meta/chat/readme/envelope-0001.json",
            "payloads/Chat/20261122T031500Z-K3XQ7A/main.zst.age",
            "runs/chat/20261122T031500Z-K3XQ7A/main.zst.age",
        ] {
            assert_eq!(parse_backup_key(key), None, "{key}");
        }
    }
}

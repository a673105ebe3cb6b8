//! The fingerprint: what was true of the data at backup time. Sealed beside the payloads, never
//! stored in the clear.
//!
//! For each table the rows of its COPY stream are hashed one by one under a key made for this
//! backup, and the hashes are added modulo 2^256: the order of rows does not matter, duplicates
//! count, and nobody without the key can tell what a sum stands for or make another set of rows
//! with the same sum. Large objects are added up the same way by OID, owner and content; sequences
//! are kept by value; materialized views are recomputed by a restore and only named. Every other
//! object is named with its owner, and hashed where its definition comes out the same on any server
//! that holds the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::document::{DocumentError, format_of};

/// Format name of fingerprints this program writes.
pub const FORMAT: &str = "lifeboat.fingerprint/2";
/// Format name of those in older backups, which count objects and do not name them.
pub const FORMAT_1: &str = "lifeboat.fingerprint/1";
/// How sums are made; part of the document, so that another way can be told apart.
pub const HASH: &str = "blake3-keyed/sum-mod-2^256";

/// The secret key of one backup's hashes.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HashKey(#[serde(with = "hex::serde")] [u8; 32]);

impl HashKey {
    /// A key from 32 random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The key's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for HashKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(…)")
    }
}

impl PartialEq for HashKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// A sum of 256-bit hashes modulo 2^256.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashSum([u64; 4]);

impl HashSum {
    /// Adds one hash, read as a little-endian number.
    pub fn add(&mut self, hash: &[u8; 32]) {
        let mut carry = false;
        for (limb, bytes) in self.0.iter_mut().zip(hash.chunks_exact(8)) {
            let addend = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            let (sum, first) = limb.overflowing_add(addend);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = first || second;
        }
    }
    fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            to.copy_from_slice(&limb.to_le_bytes());
        }
        bytes
    }
}

impl Serialize for HashSum {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(self.to_bytes()))
    }
}

impl<'de> Deserialize<'de> for HashSum {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(String::deserialize(d)?, &mut bytes)
            .map_err(serde::de::Error::custom)?;
        let mut sum = Self::default();
        sum.add(&bytes);
        Ok(sum)
    }
}

/// The rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableRows {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// The columns of the COPY stream, in its order.
    pub columns: Vec<String>,
    /// Number of rows.
    pub rows: u64,
    /// Bytes of the COPY stream, line ends included.
    pub bytes: u64,
    /// Sum of the rows' hashes.
    pub sum: HashSum,
}

/// All large objects together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LargeObjects {
    /// How many.
    pub count: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Sum of the hashes of OID, owner and content.
    pub sum: HashSum,
}

/// An object, as the archive's table of contents has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveObject {
    /// Its kind: `TABLE`, `FUNCTION`, `ACL` …
    pub kind: String,
    /// Its schema, if it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub schema: String,
    /// Its name, as a table of contents writes it; that of the database itself is left out.
    pub name: String,
    /// Its owner, if it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Hash of its definition, where that holds no expression: those are written anew by the
    /// server that reads them, and not always the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<HashSum>,
}

/// An extension, and every row in its own tables: `pg_dump` has it made anew, and takes along only
/// such rows as the extension says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtensionFacts {
    /// Its name.
    pub name: String,
    /// Its version, which is in no dump.
    pub version: String,
    /// Its tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<ExtensionRows>,
}

/// The rows of a table of an extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtensionRows {
    /// Schema and name.
    pub table: String,
    /// How many rows, and the server's own hash of them; none if they could not be read.
    pub rows: Option<(u64, String)>,
}

/// What a database holds and `pg_dump` leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OmittedKind {
    /// A subscription: only superusers may read its connection.
    Subscription,
    /// A user mapping whose options the role may not read.
    UserMapping,
    /// The rows of an unlogged table on a standby.
    UnloggedRows,
    /// An index that is not valid.
    InvalidIndex,
    /// A setting of all roles, `ALTER ROLE ALL SET`.
    SettingOfAllRoles,
    /// A relation or function that somebody has put into a schema of the system.
    SystemSchema,
    /// Foreign keys that are switched off: the state of their own triggers is in no dump.
    ForeignKeysOff,
    /// A prepared transaction: what it has done is seen by nobody yet.
    PreparedTransaction,
    /// A logical replication slot.
    ReplicationSlot,
    /// What `pg_dump` itself has warned of.
    Warning,
}

impl OmittedKind {
    /// All of them, with their names and with why they are left out.
    pub const ALL: [(Self, &'static str, &'static str); 10] = [
        (
            Self::Subscription,
            "subscription",
            "pg_dump leaves subscriptions out unless its role is a superuser",
        ),
        (
            Self::UserMapping,
            "user mapping",
            "its options can be read by a superuser, or by its user with USAGE on the server",
        ),
        (Self::UnloggedRows, "rows of unlogged table", "a standby does not have them"),
        (
            Self::InvalidIndex,
            "invalid index",
            "pg_dump leaves out indexes that were not built to the end",
        ),
        (
            Self::SettingOfAllRoles,
            "setting of all roles",
            "pg_dumpall leaves out what ALTER ROLE ALL SET says",
        ),
        (
            Self::SystemSchema,
            "object in a system schema",
            "pg_dump leaves out what is in schemas of the system",
        ),
        (
            Self::ForeignKeysOff,
            "foreign keys switched off on",
            "pg_dump does not write what DISABLE TRIGGER ALL does to them",
        ),
        (
            Self::PreparedTransaction,
            "prepared transaction",
            "nobody sees what it has done until it is committed",
        ),
        (Self::ReplicationSlot, "replication slot", "slots are in no dump"),
        (Self::Warning, "warning of pg_dump", "in its own words"),
    ];
}

/// One thing that a database holds and `pg_dump` leaves out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OmittedObject {
    /// What kind of thing.
    pub kind: OmittedKind,
    /// Its name, or what was said.
    pub name: String,
}

impl OmittedObject {
    /// The thing, as drill files name it.
    #[must_use]
    pub fn what(&self) -> String {
        let name = OmittedKind::ALL
            .iter()
            .find(|(kind, ..)| *kind == self.kind)
            .map_or("", |(_, name, _)| name);
        format!("{name} {}", self.name)
    }
    /// Why it is left out.
    #[must_use]
    pub fn why(&self) -> &'static str {
        OmittedKind::ALL.iter().find(|(kind, ..)| *kind == self.kind).map_or("", |(.., why)| why)
    }
}

/// What was true of a datastore at backup time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// [`FORMAT`], or [`FORMAT_1`] of an older one.
    pub format: String,
    /// Always [`HASH`].
    pub hash: String,
    /// The key of the hashes.
    pub key: HashKey,
    /// Major version of the `pg_dump` whose stream was hashed. Object counts of two majors are not
    /// comparable.
    pub pg_dump_major: u32,
    /// Tables that have rows of their own, ordered by schema and name.
    pub tables: Vec<TableRows>,
    /// Large objects.
    pub large_objects: LargeObjects,
    /// `setval` statement of each sequence, by its qualified name.
    pub sequences: BTreeMap<String, String>,
    /// Materialized views: recomputed by a restore, contents not recorded.
    pub materialized_views: Vec<String>,
    /// How many objects of each kind the archive's table of contents lists; of [`FORMAT_1`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub objects: BTreeMap<String, u64>,
    /// Major version of the server: two majors need not write the same definition alike.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub server_major: u32,
    /// Every object, ordered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<ArchiveObject>,
    /// Every extension, ordered; none where no server was asked, as when an archive is read back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Vec<ExtensionFacts>>,
    /// What is not in the dump.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<OmittedObject>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Fingerprint {
    /// Parses a fingerprint.
    ///
    /// # Errors
    /// [`DocumentError`] if it is not JSON of a format this program knows.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        format_of(bytes, "fingerprint", &[FORMAT, FORMAT_1])?;
        serde_json::from_slice(bytes)
            .map_err(|source| DocumentError::Malformed { what: "fingerprint", source })
    }
    /// How many objects of each kind there are.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&str, u64> {
        let mut counts: BTreeMap<&str, u64> =
            self.objects.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        for object in &self.named {
            *counts.entry(&object.kind).or_default() += 1;
        }
        counts
    }
    /// Rows of all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|t| t.rows).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sum_does_not_depend_on_the_order_and_counts_duplicates(mut hashes in proptest::collection::vec(any::<[u8; 32]>(), 1..20)) {
            let total = |hashes: &[[u8; 32]]| { let mut sum = HashSum::default(); hashes.iter().for_each(|h| sum.add(h)); sum };
            let forward = total(&hashes);
            hashes.reverse();
            prop_assert_eq!(total(&hashes), forward);
            let twice = hashes[0];
            if twice != [0; 32] {
                hashes.push(twice);
                prop_assert_ne!(total(&hashes), forward);
            }
        }
        #[test]
        fn a_sum_reads_back(hash in any::<[u8; 32]>()) {
            let mut sum = HashSum::default();
            sum.add(&hash);
            let text = serde_json::to_string(&sum).unwrap();
            prop_assert_eq!(serde_json::from_str::<HashSum>(&text).unwrap(), sum);
        }
    }

    #[test]
    fn carries_run_through_all_limbs_and_wrap() {
        let mut sum = HashSum([u64::MAX; 4]);
        let mut one = [0; 32];
        one[0] = 1;
        sum.add(&one);
        assert_eq!(sum, HashSum::default());
    }

    #[test]
    fn the_key_is_not_in_debug_output() {
        assert_eq!(format!("{:?}", HashKey::from_random([7; 32])), "HashKey(…)");
    }

    fn number(value: u64, place: usize) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[8 * place..8 * (place + 1)].copy_from_slice(&value.to_le_bytes());
        bytes
    }

    #[test]
    fn sums_are_written_as_little_endian_numbers_in_hexadecimal() {
        let hex_of = |hashes: &[[u8; 32]]| {
            let mut sum = HashSum::default();
            hashes.iter().for_each(|hash| sum.add(hash));
            serde_json::to_value(sum).unwrap().as_str().unwrap().to_owned()
        };
        let zeros = |count: usize| "0".repeat(count);
        let counting: [u8; 32] = std::array::from_fn(|place| u8::try_from(place).unwrap());
        for (hashes, expected) in [
            (vec![], zeros(64)),
            (
                vec![counting],
                "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f".to_owned(),
            ),
            (vec![number(0x0102, 0), number(0xff, 0)], "0102".to_owned() + &zeros(60)),
            // A carry out of each limb, by the addend or by the carry that came in.
            (
                vec![number(u64::MAX, 0), number(2, 0)],
                "01".to_owned() + &zeros(14) + "01" + &zeros(46),
            ),
            (
                vec![number(u64::MAX, 1), number(u64::MAX, 0), number(1, 0)],
                zeros(32) + "01" + &zeros(30),
            ),
            (vec![number(u64::MAX, 3), number(3, 3)], zeros(48) + "02" + &zeros(14)),
        ] {
            assert_eq!(hex_of(&hashes), expected);
        }
    }

    #[test]
    fn only_64_hexadecimal_digits_are_read_as_a_sum() {
        for bad in ["".to_owned(), "0".repeat(62), "0".repeat(63), "0".repeat(66), "g".repeat(64)] {
            assert!(serde_json::from_value::<HashSum>(bad.clone().into()).is_err(), "{bad:?}");
        }
        assert_eq!(
            serde_json::from_value::<HashSum>("00".repeat(32).into()).unwrap(),
            HashSum::default()
        );
    }

    #[test]
    fn keys_are_equal_only_if_all_their_bytes_are() {
        let key = HashKey::from_random([7; 32]);
        assert_eq!(key.bytes(), &[7; 32]);
        assert_eq!(key, HashKey::from_random([7; 32]));
        for place in [0, 31] {
            let mut bytes = [7; 32];
            bytes[place] = 8;
            assert_ne!(key, HashKey::from_random(bytes));
        }
    }

    fn fingerprint() -> Fingerprint {
        let table = |table: &str, rows| TableRows {
            schema: "public".to_owned(),
            table: table.to_owned(),
            columns: vec!["id".to_owned(), "text".to_owned()],
            rows,
            bytes: 100 * rows,
            sum: HashSum([rows, 1, 2, 3]),
        };
        Fingerprint {
            format: FORMAT.to_owned(),
            hash: HASH.to_owned(),
            key: HashKey::from_random([7; 32]),
            pg_dump_major: 16,
            tables: vec![table("message", 40), table("room", 2)],
            large_objects: LargeObjects { count: 1, bytes: 9, sum: HashSum([4; 4]) },
            sequences: BTreeMap::from([(
                "public.message_id_seq".to_owned(),
                "SELECT setval('public.message_id_seq', 40, true);".to_owned(),
            )]),
            materialized_views: vec!["public.busy".to_owned()],
            objects: BTreeMap::new(),
            server_major: 15,
            named: vec![ArchiveObject {
                kind: "TABLE".to_owned(),
                schema: "public".to_owned(),
                name: "room".to_owned(),
                owner: "chat".to_owned(),
                sum: None,
            }],
            extensions: Some(Vec::new()),
            omitted: vec![OmittedObject { kind: OmittedKind::Subscription, name: "s".to_owned() }],
        }
    }

    #[test]
    fn what_is_omitted_is_named_as_drill_files_name_it() {
        let omitted = OmittedObject { kind: OmittedKind::UserMapping, name: "x on r".to_owned() };
        assert_eq!(omitted.what(), "user mapping x on r");
        assert!(omitted.why().contains("superuser"));
        let names: std::collections::BTreeSet<&str> =
            OmittedKind::ALL.iter().map(|(_, name, _)| *name).collect();
        assert_eq!(names.len(), OmittedKind::ALL.len());
    }

    #[test]
    fn objects_of_older_fingerprints_are_counted_and_those_of_newer_ones_named() {
        let newer = fingerprint();
        assert_eq!(newer.counts(), BTreeMap::from([("TABLE", 1)]));
        let older = Fingerprint {
            named: Vec::new(),
            objects: BTreeMap::from([("TABLE".to_owned(), 2)]),
            ..newer
        };
        assert_eq!(older.counts(), BTreeMap::from([("TABLE", 2)]));
    }

    #[test]
    fn a_fingerprint_reads_back_and_counts_the_rows_of_all_tables() {
        let fingerprint = fingerprint();
        let stored = serde_json::to_value(&fingerprint).unwrap();
        assert_eq!(stored["key"], "07".repeat(32));
        assert_eq!(Fingerprint::parse(stored.to_string().as_bytes()).unwrap(), fingerprint);
        assert_eq!(fingerprint.rows(), 42);
        assert_eq!(Fingerprint { tables: Vec::new(), ..fingerprint }.rows(), 0);
    }

    #[test]
    fn a_fingerprint_of_another_format_is_refused() {
        let newer = Fingerprint { format: "lifeboat.fingerprint/3".to_owned(), ..fingerprint() };
        let refused =
            Fingerprint::parse(&serde_json::to_vec(&newer).unwrap()).unwrap_err().to_string();
        assert!(refused.contains("lifeboat.fingerprint/3"), "{refused}");
    }
}

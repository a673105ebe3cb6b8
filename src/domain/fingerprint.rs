//! The fingerprint: what was true of the data at backup time. Sealed beside the payloads, never stored in the clear.
//!
//! For each table the rows of its COPY stream are hashed one by one under a key made for this backup, and the hashes are
//! added modulo 2^256: the order of rows does not matter, duplicates count, and nobody without the key can tell what a
//! sum stands for or make another set of rows with the same sum. Large objects are added up the same way by OID, owner
//! and content; sequences are kept by value; materialized views are recomputed by a restore and only named.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::document::{DocumentError, format_of};

/// Format name of fingerprints this program writes and reads.
pub const FORMAT: &str = "lifeboat.fingerprint/1";
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum([u64; 4]);

impl Sum {
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

impl Serialize for Sum {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(self.to_bytes()))
    }
}

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(String::deserialize(d)?, &mut bytes).map_err(serde::de::Error::custom)?;
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
    pub sum: Sum,
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
    pub sum: Sum,
}

/// What was true of a datastore at backup time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// Always [`FORMAT`].
    pub format: String,
    /// Always [`HASH`].
    pub hash: String,
    /// The key of the hashes.
    pub key: HashKey,
    /// Major version of the `pg_dump` whose stream was hashed. Object counts of two majors are not comparable.
    pub pg_dump_major: u32,
    /// Tables that have rows of their own, ordered by schema and name.
    pub tables: Vec<TableRows>,
    /// Large objects.
    pub large_objects: LargeObjects,
    /// `setval` statement of each sequence, by its qualified name.
    pub sequences: BTreeMap<String, String>,
    /// Materialized views: recomputed by a restore, contents not recorded.
    pub materialized_views: Vec<String>,
    /// How many objects of each kind the archive's table of contents lists.
    pub objects: BTreeMap<String, u64>,
}

impl Fingerprint {
    /// Parses a fingerprint.
    ///
    /// # Errors
    /// [`DocumentError`] if it is not JSON of a format this program knows.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        format_of(bytes, "fingerprint", &[FORMAT])?;
        serde_json::from_slice(bytes).map_err(|source| DocumentError::Malformed { what: "fingerprint", source })
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
            let total = |hashes: &[[u8; 32]]| { let mut sum = Sum::default(); hashes.iter().for_each(|h| sum.add(h)); sum };
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
            let mut sum = Sum::default();
            sum.add(&hash);
            let text = serde_json::to_string(&sum).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sum>(&text).unwrap(), sum);
        }
    }

    #[test]
    fn carries_run_through_all_limbs_and_wrap() {
        let mut sum = Sum([u64::MAX; 4]);
        let mut one = [0; 32];
        one[0] = 1;
        sum.add(&one);
        assert_eq!(sum, Sum::default());
    }

    #[test]
    fn the_key_is_not_in_debug_output() {
        assert_eq!(format!("{:?}", HashKey::from_random([7; 32])), "HashKey(…)");
    }
}

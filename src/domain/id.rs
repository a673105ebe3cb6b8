//! Identifiers, validated on construction. What is read from a vault is parsed by the same
//! functions as what is typed.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest datastore name, in bytes. Keeps object keys far below S3's 1,024 bytes.
pub const DATASTORE_NAME_BYTES_MAX: usize = 63;
const BACKUP_RANDOM_CHARS: usize = 6;
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {why}")]
pub struct InvalidId {
    what: &'static str,
    text: String,
    why: &'static str,
}

macro_rules! text_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.as_str())
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Name of a datastore: `[a-z0-9]` first, then `[a-z0-9_-]`, at most 63 bytes. Safe in paths, keys
/// and shells.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatastoreName(String);

impl DatastoreName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatastoreName {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let refuse = |why| InvalidId { what: "datastore name", text: text.to_owned(), why };
        if text.is_empty() || text.len() > DATASTORE_NAME_BYTES_MAX {
            return Err(refuse("it must have 1 to 63 characters"));
        }
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        if !legal(text.as_bytes()[0]) {
            return Err(refuse("it must begin with a lower-case letter or a digit"));
        }
        if !text.bytes().all(|c| legal(c) || c == b'-' || c == b'_') {
            return Err(refuse("only lower-case letters, digits, '-' and '_' are allowed"));
        }
        Ok(Self(text.to_owned()))
    }
}
text_id!(DatastoreName);

/// Identifier of a vault: 32 lower-case hexadecimal digits, made at random by `lifeboat init`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VaultId(String);

impl VaultId {
    /// A vault id from 16 random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(hex::encode(bytes))
    }
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VaultId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() == 32 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId {
                what: "vault id",
                text: text.to_owned(),
                why: "32 hexadecimal digits expected",
            })
        }
    }
}
text_id!(VaultId);

/// Identifier of a backup: `<UTC yyyymmddThhmmssZ>-<6 base32 characters>`. Sorts by time.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackupId(String);

impl BackupId {
    /// An id for a backup begun `at`, told apart from others of the same second by 30 `random`
    /// bits.
    #[must_use]
    pub fn new(at: Timestamp, random: u32) -> Self {
        let utc = at.to_zoned(TimeZone::UTC);
        let mut text = utc.strftime("%Y%m%dT%H%M%SZ-").to_string();
        for place in 0..BACKUP_RANDOM_CHARS {
            text.push(BASE32[(random >> (5 * place)) as usize & 31] as char);
        }
        Self(text)
    }
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The second in which the backup was begun.
    #[must_use]
    pub fn begun(&self) -> Timestamp {
        Self::time_of(&self.0).unwrap_or(Timestamp::UNIX_EPOCH)
    }
    fn time_of(text: &str) -> Option<Timestamp> {
        let stamp = text.get(..16)?;
        let civil = DateTime::strptime("%Y%m%dT%H%M%SZ", stamp).ok()?;
        // It takes spaces, signs and a 60th second too. A time has one spelling here: ids are names
        // of objects, and sort by time.
        let utc = civil.to_zoned(TimeZone::UTC).ok()?;
        (utc.strftime("%Y%m%dT%H%M%SZ").to_string() == stamp).then(|| utc.timestamp())
    }
}

impl FromStr for BackupId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let refuse = |why| InvalidId { what: "backup id", text: text.to_owned(), why };
        if !text.is_ascii() || text.len() != 17 + BACKUP_RANDOM_CHARS || text.as_bytes()[16] != b'-'
        {
            return Err(refuse("expected a form like 20261122T031500Z-K3XQ7A"));
        }
        if !text.as_bytes()[17..].iter().all(|c| BASE32.contains(c)) {
            return Err(refuse("the six characters after the time must be A-Z or 2-7"));
        }
        if Self::time_of(text).is_none() {
            return Err(refuse("it does not begin with a UTC time"));
        }
        Ok(Self(text.to_owned()))
    }
}
text_id!(BackupId);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn a_backup_id_has_one_spelling() {
        for text in [
            " 2026112T031500Z-K3XQ7A",
            "2026 1 2T 3 4 5Z-K3XQ7A",
            "\n2026112T031500Z-K3XQ7A",
            "20261122T031\r\n0Z-K3XQ7A",
            "+2026112T031500Z-K3XQ7A",
            "-0261122T031500Z-K3XQ7A",
            "20261122T031560Z-K3XQ7A",
            "20261122T031500Z-K3XQ7A\n",
        ] {
            assert!(text.parse::<BackupId>().is_err(), "{text:?}");
        }
    }

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn backup_ids_read_back_and_sort_by_time(a in 0i64..4_000_000_000, b in 0i64..4_000_000_000, r in any::<u32>()) {
            let (first, second) = (BackupId::new(Timestamp::from_second(a).unwrap(), r), BackupId::new(Timestamp::from_second(b).unwrap(), r));
            prop_assert_eq!(first.as_str().parse::<BackupId>().unwrap(), first.clone());
            prop_assert_eq!(first.begun().as_second(), a);
            prop_assert_eq!(first.cmp(&second), a.cmp(&b));
        }
        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,40}") {
            let _ = text.parse::<BackupId>();
            let _ = text.parse::<DatastoreName>();
            let _ = text.parse::<VaultId>();
        }
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", "..", "a/b", "A", "-a", "a b", "ä", "a\n", &"a".repeat(64)] {
            assert!(bad.parse::<DatastoreName>().is_err(), "{bad:?}");
        }
        for bad in [
            "20261122T031500Z-K3XQ7",
            "20261322T031500Z-K3XQ7A",
            "20261122T031500Z-k3xq7a",
            "20261122T031500Z/K3XQ7A",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad:?}");
        }
    }

    fn random_part(random: u32) -> String {
        BackupId::new(Timestamp::UNIX_EPOCH, random).as_str()[17..].to_owned()
    }

    #[test]
    fn backups_of_the_same_second_are_told_apart_by_all_thirty_random_bits() {
        for (random, text) in [
            (0, "AAAAAA"),
            (1, "BAAAAA"),
            (25, "ZAAAAA"),
            (26, "2AAAAA"),
            (31, "7AAAAA"),
            (1 << 5, "ABAAAA"),
            (3 << 25 | 2 << 20, "AAAACD"),
            (0x3fff_ffff, "777777"),
            (0xc000_0000, "AAAAAA"),
        ] {
            assert_eq!(random_part(random), text, "{random:#x}");
        }
        let all: std::collections::BTreeSet<String> =
            (0..30).map(|bit| random_part(1 << bit)).collect();
        assert_eq!(all.len(), 30);
    }

    #[test]
    fn a_backups_id_says_when_it_was_begun() {
        let begun: Timestamp = "2026-11-22T03:15:00.999Z".parse().unwrap();
        let id = BackupId::new(begun, 0);
        assert_eq!(id.as_str(), "20261122T031500Z-AAAAAA");
        assert_eq!(id.begun().to_string(), "2026-11-22T03:15:00Z");
    }

    #[test]
    fn names_of_1_to_63_safe_characters_are_datastores() {
        for good in ["a", "0", "chat", "a-b_c", "0-_", "a-", &"a".repeat(63)] {
            assert_eq!(good.parse::<DatastoreName>().unwrap().as_str(), good);
        }
        let length = "it must have 1 to 63 characters";
        let first = "it must begin with a lower-case letter or a digit";
        let other = "only lower-case letters, digits, '-' and '_' are allowed";
        for (bad, why) in [
            ("", length),
            (&"a".repeat(64), length),
            ("_a", first),
            ("Chat", first),
            ("cHat", other),
            ("a.b", other),
        ] {
            assert_eq!(
                bad.parse::<DatastoreName>().unwrap_err().to_string(),
                format!("{bad:?} is not a datastore name: {why}")
            );
        }
    }

    #[test]
    fn only_32_lower_case_hexadecimal_digits_are_a_vault_id() {
        let id =
            VaultId::from_random(std::array::from_fn(|place| 0x11 * u8::try_from(place).unwrap()));
        assert_eq!(id.as_str(), "00112233445566778899aabbccddeeff");
        assert_eq!(id.as_str().parse::<VaultId>().unwrap(), id);
        for bad in [
            "",
            &"0".repeat(31),
            &"0".repeat(33),
            &"A".repeat(32),
            &"g".repeat(32),
            &"ä".repeat(16),
        ] {
            let why = format!("{bad:?} is not a vault id: 32 hexadecimal digits expected");
            assert_eq!(bad.parse::<VaultId>().unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn a_text_that_is_no_backup_id_is_refused_with_the_reason() {
        let form = "expected a form like 20261122T031500Z-K3XQ7A";
        let tail = "the six characters after the time must be A-Z or 2-7";
        let time = "it does not begin with a UTC time";
        for (bad, why) in [
            ("", form),
            ("20261122T031500Z-K3XQ7", form),
            ("20261122T031500Z-K3XQ7AA", form),
            ("20261122T031500Z_K3XQ7A", form),
            ("20261122T031500Z-K3XQä", form),
            ("20261122T031500Z-K3XQ71", tail),
            ("20261122T031500Z-K3XQ78", tail),
            ("20261122T031500Z-K3XQ7a", tail),
            ("20261122T031500Z-/3XQ7A", tail),
            ("20260230T031500Z-K3XQ7A", time),
            ("20261122T241500Z-K3XQ7A", time),
            ("20261122T036000Z-K3XQ7A", time),
            ("20261122t031500Z-K3XQ7A", time),
            ("20261122T031500+-K3XQ7A", time),
            ("../../../x/y/z.-K3XQ7A", form),
            ("../../../x/y/z.j-K3XQ7A", time),
        ] {
            assert_eq!(
                bad.parse::<BackupId>().unwrap_err().to_string(),
                format!("{bad:?} is not a backup id: {why}")
            );
        }
    }

    #[test]
    fn identifiers_are_stored_as_text_and_checked_when_read() {
        let name: DatastoreName = "chat".parse().unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"chat\"");
        assert_eq!(serde_json::from_str::<DatastoreName>("\"chat\"").unwrap(), name);
        assert_eq!(
            (name.to_string(), format!("{name:?}")),
            ("chat".to_owned(), "DatastoreName(chat)".to_owned())
        );
        let refused = serde_json::from_str::<DatastoreName>("\"../x\"").unwrap_err().to_string();
        assert!(refused.contains("is not a datastore name"), "{refused}");
        assert!(serde_json::from_str::<VaultId>("\"../x\"").is_err());
        assert!(serde_json::from_str::<BackupId>("\"../x\"").is_err());
    }
}

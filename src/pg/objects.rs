//! The objects of an archive's table of contents, for the fingerprint: named, with their owners,
//! and hashed where that can be compared.

use std::collections::BTreeSet;

use super::archive::{TableOfContents, TocEntry, readable};
use super::sql;
use crate::domain::fingerprint::{ArchiveObject, HashKey, HashSum};

/// Kinds of entry that stand for rows or for how the dump was made. Large objects and sequences are
/// counted by what they hold.
const NO_OBJECTS: [&str; 9] = [
    "TABLE DATA",
    "SEQUENCE SET",
    "STATISTICS DATA",
    "BLOB",
    "BLOBS",
    "BLOB METADATA",
    "ENCODING",
    "STDSTRINGS",
    "SEARCHPATH",
];

/// Kinds whose definition holds no expression and no query. Where there is one, the server that
/// reads it writes it anew and not always alike: an `IN` over `varchar` comes back with its casts
/// elsewhere.
const HASHED: [&str; 17] = [
    "ACL",
    "DEFAULT ACL",
    "COMMENT",
    "SECURITY LABEL",
    "DATABASE",
    "DATABASE PROPERTIES",
    "SCHEMA",
    "EXTENSION",
    "SERVER",
    "FOREIGN DATA WRAPPER",
    "USER MAPPING",
    "SUBSCRIPTION",
    "PUBLICATION",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "PROCEDURAL LANGUAGE",
    "EVENT TRIGGER",
];

/// Every object of a table of contents, ordered.
#[must_use]
pub fn of(contents: &TableOfContents, key: &HashKey) -> Vec<ArchiveObject> {
    let objects =
        contents.entries.iter().filter(|entry| !NO_OBJECTS.contains(&entry.kind.as_str()));
    let mut objects: Vec<ArchiveObject> = objects.map(|entry| facts(entry, key)).collect();
    objects.sort();
    objects
}

/// Kind, schema and name under which an entry is recorded.
#[must_use]
pub fn identity(entry: &TocEntry) -> (String, String, String) {
    let object = facts(entry, &HashKey::from_random([0; 32]));
    (object.kind, object.schema, object.name)
}

/// Whether an object is the database's own comment, which a restore writes last.
#[must_use]
pub fn is_comment_on_database(object: &ArchiveObject) -> bool {
    object.kind == "COMMENT" && object.name == "DATABASE"
}

fn facts(entry: &TocEntry, key: &HashKey) -> ArchiveObject {
    let (is_database, is_about_it) =
        (entry.kind.starts_with("DATABASE"), entry.tag.starts_with(b"DATABASE "));
    ArchiveObject {
        kind: entry.kind.clone(),
        schema: readable(&entry.schema),
        // A restore may give it another name, and its owner is left alone where it was there
        // before.
        name: if is_database || is_about_it { "DATABASE".to_owned() } else { readable(&entry.tag) },
        owner: if is_database || is_about_it { String::new() } else { readable(&entry.owner) },
        sum: HASHED
            .contains(&entry.kind.as_str())
            .then(|| sum(&entry.definition, is_database || is_about_it, key)),
    }
}

/// The hash of a definition's statements, whatever their order: grants come in the order in which
/// they were made.
fn sum(definition: &[u8], is_about_database: bool, key: &HashKey) -> HashSum {
    let mut hasher = blake3::Hasher::new_keyed(key.bytes());
    let statements: BTreeSet<Vec<u8>> = match sql::statements(definition) {
        Ok(cut) => cut
            .iter()
            .map(|statement| {
                match statement.database_name_position().filter(|_| is_about_database) {
                    Some(at) => {
                        statement.without_clause("tablespace", at + 1).with_name_at(at, "database")
                    }
                    None => statement.text.to_vec(),
                }
            })
            .map(|text| text.trim_ascii().to_vec())
            .collect(),
        Err(_) => BTreeSet::from([definition.to_vec()]),
    };
    for statement in statements {
        hasher.update(&(statement.len() as u64).to_le_bytes());
        hasher.update(&statement);
    }
    let mut sum = HashSum::default();
    sum.add(hasher.finalize().as_bytes());
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: &str, tag: &str, definition: &str) -> TocEntry {
        TocEntry {
            kind: kind.to_owned(),
            tag: tag.into(),
            definition: definition.into(),
            owner: b"o".to_vec(),
            ..TocEntry::default()
        }
    }

    fn of_one(entry: TocEntry) -> ArchiveObject {
        let contents = TableOfContents {
            version: (1, 16),
            database: Vec::new(),
            entries: vec![entry],
            raw: std::sync::Arc::default(),
        };
        of(&contents, &HashKey::from_random([7; 32])).remove(0)
    }

    #[test]
    fn a_database_is_the_same_under_another_name_and_in_another_tablespace() {
        let create = |name: &str, end: &str| {
            of_one(entry(
                "DATABASE",
                name,
                &format!(
                    "CREATE DATABASE {name} WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE = 'C'{end};\n"
                ),
            ))
        };
        assert_eq!(create("a", ""), create("\"b c\"", " TABLESPACE = fast"));
        let properties = |name: &str, value: &str| {
            of_one(entry(
                "DATABASE PROPERTIES",
                name,
                &format!(
                    "ALTER DATABASE {name} SET x TO '{value}';\nALTER ROLE r IN DATABASE {name} SET y TO '1';\n"
                ),
            ))
        };
        assert_eq!(properties("a", "1"), properties("database", "1"));
        assert_ne!(properties("a", "1"), properties("a", "2"));
        let acl = |name: &str| {
            of_one(entry(
                "ACL",
                &format!("DATABASE {name}"),
                &format!("GRANT CONNECT ON DATABASE {name} TO r;\n"),
            ))
        };
        assert_eq!(acl("a"), acl("b"));
        assert_eq!((acl("a").name.as_str(), acl("a").owner.as_str()), ("DATABASE", ""));
    }

    #[test]
    fn grants_are_the_same_in_any_order_and_no_other_grants_are() {
        let acl = |definition: &str| of_one(entry("ACL", "TABLE t", definition));
        assert_eq!(
            acl("GRANT SELECT ON TABLE t TO a;\nGRANT ALL ON TABLE t TO b;\n"),
            acl("GRANT ALL ON TABLE t TO b;\nGRANT SELECT ON TABLE t TO a;\n")
        );
        assert_ne!(acl("GRANT SELECT ON TABLE t TO a;\n"), acl("GRANT SELECT ON TABLE t TO b;\n"));
        assert_ne!(
            acl("GRANT SELECT ON TABLE t TO a;\n"),
            acl("GRANT SELECT ON TABLE t TO a WITH GRANT OPTION;\n")
        );
        assert_ne!(acl(""), acl("GRANT SELECT ON TABLE t TO a;\n"));
    }

    #[test]
    fn expressions_are_not_hashed_and_rows_are_no_objects() {
        assert_eq!(of_one(entry("TABLE", "t", "CREATE TABLE t (a int CHECK (a > 0));")).sum, None);
        let contents = TableOfContents {
            version: (1, 16),
            database: Vec::new(),
            entries: vec![
                entry("TABLE DATA", "t", ""),
                entry("ENCODING", "ENCODING", ""),
                entry("VIEW", "v", ""),
            ],
            raw: std::sync::Arc::default(),
        };
        assert_eq!(of(&contents, &HashKey::from_random([7; 32])).len(), 1);
    }
}

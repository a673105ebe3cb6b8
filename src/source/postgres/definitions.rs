//! Whether what `pg_dump` wrote down of each object is what the snapshot shows.
//!
//! `pg_dump` lists objects in its snapshot, and has most of them *formatted* by functions of the
//! server that look at the present: `pg_get_functiondef`, `pg_get_viewdef`, `format_type`. An
//! object that is dropped or altered in between comes out half, or as what it became, and `pg_dump`
//! exits 0. Locks keep that from tables and from nothing else. So the rows of the catalogs are
//! hashed twice: in the snapshot, and at a moment when `pg_dump` has formatted everything, which is
//! when the table of contents has arrived. What differs, and is named there, was not frozen.
//!
//! Whatever is newer than the snapshot, temporary, or an extension's own is named in no table of
//! contents and does not count.

use std::collections::{BTreeMap, HashSet};

use super::SourceError;
use crate::pg::archive::{TableOfContents, TocEntry};
use crate::pg::{PgSession, SessionError};

/// What a catalog holds of an object and has a part in how it is formatted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct CatalogColumn {
    /// OIDs of the catalog and of the object that a table of contents names.
    object: (u32, u32),
    /// The catalog it stands in. An object may have many rows in one, such as a view's columns:
    /// they are hashed together.
    part: String,
}

/// The definition of every object at one moment, as hashes.
#[derive(Debug, Clone, Default)]
pub struct DefinitionHashes(BTreeMap<CatalogColumn, String>);

/// A catalog: the object that its rows belong to, and what in them is no part of a definition.
struct SystemCatalog {
    name: &'static str,
    /// Catalog and OID of the object; `c` is the row.
    object: &'static str,
    /// Columns that change without a change of definition: storage, statistics, and what `pg_dump`
    /// reads by its own query, in its snapshot.
    but_for: &'static str,
    /// Whether a row that was written again with the same content counts as changed: it may have
    /// been something else for a moment.
    version: bool,
}

const fn own(name: &'static str, but_for: &'static str) -> SystemCatalog {
    SystemCatalog { name, object: "c.tableoid, c.oid", but_for, version: true }
}

const fn part_of(name: &'static str, object: &'static str) -> SystemCatalog {
    SystemCatalog { name, object, but_for: "attacl,attcacheoff", version: true }
}

const RELATION_STORAGE: &str = "relacl,relfilenode,relpages,reltuples,relallvisible,relallfrozen,relhasindex,relhassubclass,relhasrules,relhastriggers,relchecks,relfrozenxid,relminmxid,reltoastrelid,relispopulated,relpartbound";

const CATALOGS: [SystemCatalog; 34] = [
    SystemCatalog { version: false, ..own("pg_class", RELATION_STORAGE) },
    SystemCatalog {
        version: false,
        ..part_of("pg_attribute", "'pg_catalog.pg_class'::pg_catalog.regclass, c.attrelid")
    },
    part_of("pg_attrdef", "'pg_catalog.pg_class'::pg_catalog.regclass, c.adrelid"),
    part_of("pg_rewrite", "'pg_catalog.pg_class'::pg_catalog.regclass, c.ev_class"),
    SystemCatalog {
        version: false,
        ..part_of("pg_index", "'pg_catalog.pg_class'::pg_catalog.regclass, c.indexrelid")
    },
    part_of("pg_sequence", "'pg_catalog.pg_class'::pg_catalog.regclass, c.seqrelid"),
    part_of("pg_inherits", "'pg_catalog.pg_class'::pg_catalog.regclass, c.inhrelid"),
    part_of("pg_partitioned_table", "'pg_catalog.pg_class'::pg_catalog.regclass, c.partrelid"),
    part_of("pg_foreign_table", "'pg_catalog.pg_class'::pg_catalog.regclass, c.ftrelid"),
    own("pg_constraint", ""),
    own("pg_trigger", ""),
    own("pg_policy", ""),
    own("pg_statistic_ext", ""),
    own("pg_proc", "proacl"),
    part_of(
        "pg_aggregate",
        "'pg_catalog.pg_proc'::pg_catalog.regclass, c.aggfnoid::pg_catalog.oid",
    ),
    own("pg_type", "typacl"),
    part_of("pg_enum", "'pg_catalog.pg_type'::pg_catalog.regclass, c.enumtypid"),
    part_of("pg_range", "'pg_catalog.pg_type'::pg_catalog.regclass, c.rngtypid"),
    own("pg_namespace", "nspacl"),
    own("pg_operator", ""),
    own("pg_opclass", ""),
    own("pg_opfamily", ""),
    part_of("pg_amop", "'pg_catalog.pg_opfamily'::pg_catalog.regclass, c.amopfamily"),
    part_of("pg_amproc", "'pg_catalog.pg_opfamily'::pg_catalog.regclass, c.amprocfamily"),
    own("pg_am", ""),
    own("pg_cast", ""),
    own("pg_transform", ""),
    own("pg_collation", ""),
    own("pg_conversion", ""),
    own("pg_language", "lanacl"),
    own("pg_ts_config", ""),
    own("pg_ts_dict", ""),
    own("pg_event_trigger", ""),
    own("pg_publication", ""),
];

/// Numbers below are those of objects that every database is born with; the schema `public` may be
/// altered all the same.
const FIRST_NORMAL_OID: u32 = 16_384;
const PUBLIC_OID: u32 = 2_200;

impl SystemCatalog {
    fn question(&self) -> String {
        let Self { name, object, but_for, version } = self;
        let version = if *version { "|| c.xmin::pg_catalog.text" } else { "" };
        format!(
            "SELECT {object}, '{name}', pg_catalog.md5((pg_catalog.to_jsonb(c) - '{{{but_for}}}'::pg_catalog.text[])::pg_catalog.text {version}) FROM pg_catalog.{name} c"
        )
    }
}

/// Reads the definitions as the session's transaction sees them.
///
/// # Errors
/// [`SessionError`]
pub async fn read(session: &mut PgSession) -> Result<DefinitionHashes, SessionError> {
    let what = "the definitions of all objects";
    let all = CATALOGS.iter().map(SystemCatalog::question).collect::<Vec<_>>().join(" UNION ALL ");
    let question = format!(
        "SELECT catalog::pg_catalog.oid, object, part, pg_catalog.md5(pg_catalog.string_agg(hash, '' ORDER BY hash)) \
         FROM ({all}) AS rows (catalog, object, part, hash) WHERE object >= {FIRST_NORMAL_OID} OR object = {PUBLIC_OID} GROUP BY 1, 2, 3"
    );
    let shape = || SessionError::Shape { what: what.to_owned() };
    let mut definitions = BTreeMap::new();
    for row in session.ask(what, &question, 4).await? {
        let [Some(catalog), Some(object), Some(part), Some(hash)] = row.as_slice() else {
            return Err(shape());
        };
        let object = (catalog.parse().map_err(|_| shape())?, object.parse().map_err(|_| shape())?);
        definitions.insert(CatalogColumn { object, part: part.clone() }, hash.clone());
    }
    Ok(DefinitionHashes(definitions))
}

/// Objects of a table of contents that are not now what they were.
#[must_use]
pub fn changed(
    then: &DefinitionHashes,
    now: &DefinitionHashes,
    contents: &TableOfContents,
) -> Vec<String> {
    let differ: HashSet<(u32, u32)> = then
        .0
        .iter()
        .filter(|(part, hash)| now.0.get(part) != Some(hash))
        .map(|(part, _)| part.object)
        .collect();
    let is_object = |entry: &&TocEntry| {
        !matches!(entry.kind.as_str(), "ACL" | "COMMENT" | "SECURITY LABEL" | "TABLE DATA")
    };
    let named = |entry: &&TocEntry| entry.object.0 != 0 && differ.contains(&entry.object);
    let named = contents.entries.iter().filter(is_object).filter(named);
    named.map(|entry| format!("{} {}", entry.kind.to_lowercase(), entry.name())).collect()
}

/// Looks whether every object that the table of contents names is still what it was in the
/// snapshot.
///
/// # Errors
/// [`SourceError::Changed`] naming those that are not.
pub async fn hold(
    then: &DefinitionHashes,
    session: &mut PgSession,
    contents: &TableOfContents,
) -> Result<(), SourceError> {
    let names = changed(then, &read(session).await?, contents);
    if names.is_empty() { Ok(()) } else { Err(SourceError::Changed { names }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_counts_and_what_is_newer_does_not() {
        let definitions = |rows: &[((u32, u32), &str, &str)]| {
            let row = |(object, part, hash): &((u32, u32), &str, &str)| {
                (CatalogColumn { object: *object, part: (*part).to_owned() }, (*hash).to_owned())
            };
            DefinitionHashes(rows.iter().map(row).collect())
        };
        let entry = |kind: &str, object| TocEntry {
            kind: kind.to_owned(),
            schema: b"s".to_vec(),
            tag: b"x".to_vec(),
            object,
            ..TocEntry::default()
        };
        let contents = TableOfContents {
            version: (1, 16),
            database: Vec::new(),
            entries: vec![
                entry("VIEW", (1, 5)),
                entry("ACL", (1, 5)),
                entry("FUNCTION", (2, 5)),
                entry("ENCODING", (0, 0)),
            ],
            raw: std::sync::Arc::default(),
        };
        let then = definitions(&[
            ((1, 5), "", "a"),
            ((1, 5), "1", "b"),
            ((2, 5), "", "c"),
            ((2, 6), "", "unnamed"),
        ]);
        assert!(changed(&then, &then, &contents).is_empty());
        let newer = definitions(&[
            ((1, 5), "", "a"),
            ((1, 5), "1", "b"),
            ((2, 5), "", "c"),
            ((2, 7), "", "new"),
        ]);
        assert!(changed(&then, &newer, &contents).is_empty());
        let altered =
            definitions(&[((1, 5), "", "a"), ((1, 5), "1", "x"), ((2, 6), "", "unnamed")]);
        assert_eq!(changed(&then, &altered, &contents), ["view s.x", "function s.x"]);
    }
}

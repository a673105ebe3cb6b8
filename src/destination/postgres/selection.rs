//! Restoring less than everything: some tables, some schemas, with what belongs to them and what
//! they need.
//!
//! The table of contents says what depends on what. A chosen table brings its rows, sequences,
//! defaults, constraints, indexes, triggers, policies, comments and privileges, and whatever any of
//! those needs: types, functions, schemas, parents. A foreign key to a table that is not chosen is
//! left out, and said to be.

use std::collections::{HashMap, HashSet};

use super::load::TableName;
use crate::pg::archive::{TableOfContents, TocEntry, readable};

/// What belongs to an object and comes with it.
const BELONGS: [&str; 19] = [
    "TABLE DATA",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "DEFAULT",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "TABLE ATTACH",
    "TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "STATISTICS",
    "COMMENT",
    "ACL",
    "MATERIALIZED VIEW DATA",
];

/// What somebody asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreFilter {
    /// Tables: schema and name.
    pub tables: Vec<(String, String)>,
    /// Schemas.
    pub schemas: Vec<String>,
}

impl RestoreFilter {
    /// What was written on the command line; nothing means everything.
    #[must_use]
    pub fn of(tables: &[String], schemas: &[String]) -> Option<Self> {
        let split = |text: &String| match text.split_once('.') {
            Some((schema, table)) => (schema.to_owned(), table.to_owned()),
            None => ("public".to_owned(), text.clone()),
        };
        let only = Self { tables: tables.iter().map(split).collect(), schemas: schemas.to_vec() };
        (!only.tables.is_empty() || !only.schemas.is_empty()).then_some(only)
    }
}

impl std::fmt::Display for RestoreFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tables = self.tables.iter().map(|(schema, table)| format!("table {schema}.{table}"));
        let all: Vec<String> =
            tables.chain(self.schemas.iter().map(|schema| format!("schema {schema}"))).collect();
        f.write_str(&all.join(", "))
    }
}

/// What is restored of an archive.
#[derive(Debug, Clone, Default)]
pub struct ArchiveSelection {
    /// Numbers of entries of the archive it was made for.
    entries: HashSet<i64>,
    /// Tables whose rows are loaded, from whichever payload.
    pub tables: HashSet<TableName>,
    /// Sequences that are set, likewise.
    sequences: HashSet<TableName>,
    /// Foreign keys that are left out.
    pub left_out: Vec<String>,
}

impl ArchiveSelection {
    /// Chooses from a table of contents.
    ///
    /// # Errors
    /// The name of a table or schema that is not there, and the names that are.
    pub fn of(
        contents: &TableOfContents,
        only: &RestoreFilter,
    ) -> Result<Self, (String, Vec<String>)> {
        let by_id: HashMap<i64, &TocEntry> =
            contents.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
        let mut chosen = HashSet::new();
        for (schema, table) in &only.tables {
            let is = |entry: &&TocEntry| {
                is_relation(entry)
                    && entry.schema == schema.as_bytes()
                    && entry.tag == table.as_bytes()
            };
            let found = contents.entries.iter().find(is).ok_or_else(|| {
                let known = contents.entries.iter().filter(|entry| is_relation(entry));
                let names = known
                    .map(|entry| format!("{}.{}", readable(&entry.schema), readable(&entry.tag)))
                    .collect();
                (format!("{schema}.{table}"), names)
            })?;
            chosen.insert(found.dump_id);
        }
        for schema in &only.schemas {
            let mut within = contents
                .entries
                .iter()
                .filter(|entry| entry.schema == schema.as_bytes() && entry.kind != "FK CONSTRAINT")
                .peekable();
            if within.peek().is_none() {
                let names: HashSet<String> =
                    contents.entries.iter().map(|entry| readable(&entry.schema)).collect();
                return Err((
                    schema.clone(),
                    names.into_iter().filter(|name| !name.is_empty()).collect(),
                ));
            }
            chosen.extend(within.map(|entry| entry.dump_id));
        }
        let mut selection = Self { entries: chosen, ..Self::default() };
        // What belongs to something chosen may need something else, and what is needed brings
        // nothing of its own but its definition.
        let owners = selection.entries.clone();
        let owners = selection.with_partitions(contents, &by_id, owners);
        selection.belongings(contents, &by_id, owners);
        // Rows of a table may be in a payload of their own, so the table itself tells whether they
        // are wanted.
        selection.tables = selection.names(contents, "TABLE");
        selection.needs(contents, &by_id);
        selection.sequences = selection.names(contents, "SEQUENCE");
        Ok(selection)
    }

    /// A partitioned table is nothing without its partitions.
    fn with_partitions(
        &mut self,
        contents: &TableOfContents,
        by_id: &HashMap<i64, &TocEntry>,
        mut owners: HashSet<i64>,
    ) -> HashSet<i64> {
        loop {
            let attached = contents.entries.iter().filter(|entry| entry.kind == "TABLE ATTACH");
            let new: Vec<i64> = attached
                // Its dependencies are the partition and the parent, in whichever order; the parent
                // is the one that is no owner's child.
                .filter(|entry| {
                    entry
                        .dependencies
                        .iter()
                        .any(|id| owners.contains(id) && !is_partition(by_id.get(id), entry))
                })
                .flat_map(|entry| entry.dependencies.iter().copied())
                .filter(|id| {
                    !owners.contains(id) && by_id.get(id).is_some_and(|entry| is_relation(entry))
                })
                .collect();
            if new.is_empty() {
                self.entries.extend(&owners);
                return owners;
            }
            owners.extend(new);
        }
    }

    /// Adds what belongs to owners: indexes of their tables, comments on those indexes, and so on.
    fn belongings(
        &mut self,
        contents: &TableOfContents,
        by_id: &HashMap<i64, &TocEntry>,
        mut owners: HashSet<i64>,
    ) {
        loop {
            let new: Vec<i64> = contents
                .entries
                .iter()
                .filter(|entry| {
                    !self.entries.contains(&entry.dump_id) && BELONGS.contains(&entry.kind.as_str())
                })
                .filter(|entry| entry.dependencies.iter().any(|id| owners.contains(id)))
                .filter(|entry| match entry.kind.as_str() {
                    // Both sides, or it cannot be made.
                    "FK CONSTRAINT" | "INDEX ATTACH" | "TABLE ATTACH" => entry
                        .dependencies
                        .iter()
                        .all(|id| self.entries.contains(id) || !by_id.contains_key(id)),
                    _ => true,
                })
                .map(|entry| entry.dump_id)
                .collect();
            if new.is_empty() {
                break;
            }
            self.entries.extend(&new);
            owners.extend(new);
        }
        let keys = contents.entries.iter().filter(|entry| {
            entry.kind == "FK CONSTRAINT" && !self.entries.contains(&entry.dump_id)
        });
        let half = keys.filter(|entry| {
            entry
                .dependencies
                .iter()
                .any(|id| owners.contains(id) && by_id.get(id).is_some_and(|e| e.kind == "TABLE"))
        });
        self.left_out = half.map(|entry| format!("foreign key {}", readable(&entry.tag))).collect();
    }

    /// Adds the definitions of everything that is needed.
    fn needs(&mut self, contents: &TableOfContents, by_id: &HashMap<i64, &TocEntry>) {
        let mut open: Vec<i64> = self.entries.iter().copied().collect();
        while let Some(id) = open.pop() {
            let Some(entry) = by_id.get(&id) else { continue };
            let schema = contents
                .entries
                .iter()
                .find(|other| other.kind == "SCHEMA" && other.tag == entry.schema)
                .map(|other| other.dump_id);
            let needed = entry
                .dependencies
                .iter()
                .copied()
                .filter(|id| by_id.get(id).is_some_and(|entry| entry.kind != "TABLE DATA"));
            for id in needed.chain(schema) {
                if self.entries.insert(id) {
                    open.push(id);
                }
            }
        }
    }

    fn names(&self, contents: &TableOfContents, kind: &str) -> HashSet<TableName> {
        let chosen = contents.of_kind(kind).filter(|entry| self.entries.contains(&entry.dump_id));
        chosen.map(|entry| (entry.schema.clone(), entry.tag.clone())).collect()
    }

    /// Whether an entry of the archive it was made for is restored.
    #[must_use]
    pub fn holds(&self, dump_id: i64) -> bool {
        self.entries.contains(&dump_id)
    }

    /// Whether rows of a table are loaded.
    #[must_use]
    pub fn has_rows_of(&self, entry: &TocEntry) -> bool {
        self.tables.contains(&(entry.schema.clone(), entry.tag.clone()))
    }
}

impl ArchiveSelection {
    /// Whether a sequence gets its value.
    #[must_use]
    pub fn holds_sequence(&self, entry: &TocEntry) -> bool {
        self.sequences.contains(&(entry.schema.clone(), entry.tag.clone()))
    }
}

fn is_relation(entry: &TocEntry) -> bool {
    matches!(
        entry.kind.as_str(),
        "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" | "SEQUENCE"
    )
}

/// Whether an entry is the partition that an attachment attaches: it has the attachment's own name.
fn is_partition(entry: Option<&&TocEntry>, attachment: &TocEntry) -> bool {
    entry.is_some_and(|entry| entry.schema == attachment.schema && entry.tag == attachment.tag)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(dump_id: i64, kind: &str, schema: &str, tag: &str, dependencies: &[i64]) -> TocEntry {
        TocEntry {
            dump_id,
            kind: kind.to_owned(),
            schema: schema.into(),
            tag: tag.into(),
            dependencies: dependencies.to_vec(),
            ..TocEntry::default()
        }
    }

    fn contents() -> TableOfContents {
        let entries = vec![
            entry(1, "SCHEMA", "", "s", &[]),
            entry(2, "TYPE", "s", "mood", &[1]),
            entry(3, "TABLE", "s", "a", &[2]),
            entry(4, "TABLE", "s", "b", &[]),
            entry(5, "VIEW", "s", "v", &[3]),
            entry(6, "TABLE DATA", "s", "a", &[3]),
            entry(7, "TABLE DATA", "s", "b", &[4]),
            entry(8, "CONSTRAINT", "s", "a a_pkey", &[3]),
            entry(9, "CONSTRAINT", "s", "b b_pkey", &[4]),
            entry(10, "FK CONSTRAINT", "s", "a a_b", &[3, 9]),
            entry(11, "FUNCTION", "s", "touch()", &[1]),
            entry(12, "TRIGGER", "s", "a t", &[3, 11]),
            entry(13, "COMMENT", "s", "CONSTRAINT a_pkey", &[8]),
            entry(14, "TABLE", "s", "p", &[]),
            entry(15, "TABLE", "s", "p1", &[]),
            entry(16, "TABLE ATTACH", "s", "p1", &[15, 14]),
            entry(17, "TABLE DATA", "s", "p1", &[15]),
        ];
        TableOfContents {
            version: (1, 15),
            database: Vec::new(),
            entries,
            raw: std::sync::Arc::default(),
        }
    }

    fn chosen(tables: &[&str], schemas: &[&str]) -> (Vec<i64>, Vec<String>) {
        let text = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let selection = ArchiveSelection::of(
            &contents(),
            &RestoreFilter::of(&text(tables), &text(schemas)).unwrap(),
        )
        .unwrap();
        let mut ids: Vec<i64> = selection.entries.iter().copied().collect();
        ids.sort_unstable();
        (ids, selection.left_out)
    }

    #[test]
    fn a_table_brings_what_belongs_to_it_and_what_it_needs() {
        let (ids, left_out) = chosen(&["s.a"], &[]);
        assert_eq!(ids, [1, 2, 3, 6, 8, 11, 12, 13]);
        assert_eq!(left_out, ["foreign key a a_b"]);
    }

    #[test]
    fn two_tables_bring_the_key_between_them() {
        let (ids, left_out) = chosen(&["s.a", "s.b"], &[]);
        assert!(ids.contains(&10) && left_out.is_empty(), "{ids:?}");
    }

    #[test]
    fn a_partitioned_table_brings_its_partitions_and_not_the_other_way_round() {
        assert_eq!(chosen(&["s.p"], &[]).0, [1, 14, 15, 16, 17]);
        assert_eq!(chosen(&["s.p1"], &[]).0, [1, 15, 17]);
    }

    #[test]
    fn a_schema_brings_all_of_it() {
        assert_eq!(chosen(&[], &["s"]).0, (1..=17).collect::<Vec<i64>>());
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let only = RestoreFilter::of(&["a".to_owned()], &[]).unwrap();
        let (name, known) = ArchiveSelection::of(&contents(), &only).unwrap_err();
        assert!(name == "public.a" && known.contains(&"s.a".to_owned()), "{name} {known:?}");
    }
}

//! Building the indexes of loaded tables while others are still loading.
//!
//! One stream of rows keeps one server process busy; the other processors build indexes meanwhile,
//! as `pg_restore -j` would from a file. Only what depends on nothing but its own table is built
//! early: indexes, primary keys, unique and exclusion constraints. A table that is reported too
//! early costs time and nothing else, since building an index waits for its rows.

use std::collections::{HashMap, HashSet};

use tokio::sync::mpsc::UnboundedReceiver;

use super::TargetError;
use super::load::{ArchiveLoader, TableName};
use crate::pg::archive::TableOfContents;

/// Kinds of entries that may be made as soon as their table is loaded.
const KINDS: [&str; 2] = ["INDEX", "CONSTRAINT"];

/// What of the post-data section has been made, and what waits for which tables.
pub struct EagerIndexBuilder<'a> {
    contents: &'a TableOfContents,
    waiting: Vec<WaitingStatement>,
    loaded: HashSet<TableName>,
    made: HashSet<i64>,
}

struct WaitingStatement {
    entry: i64,
    tables: Vec<TableName>,
    entries: Vec<i64>,
}

impl<'a> EagerIndexBuilder<'a> {
    /// Nothing is loaded yet. Entries in `made` are there already, or are not wanted.
    pub fn new(contents: &'a TableOfContents, made: HashSet<i64>) -> Self {
        let by_id: HashMap<i64, _> =
            contents.entries.iter().map(|entry| (entry.dump_id, entry)).collect();
        let mut waiting = Vec::new();
        let wanted = contents.entries.iter().filter(|entry| !made.contains(&entry.dump_id));
        for entry in wanted.filter(|entry| KINDS.contains(&entry.kind.as_str())) {
            let needed = entry.dependencies.iter().filter_map(|id| by_id.get(id));
            // A function of the index could read other tables, and must find them full: that waits
            // for all rows.
            let expression = entry.kind == "INDEX"
                && entry.definition.iter().filter(|byte| **byte == b'(').count() > 1;
            if expression
                || needed
                    .clone()
                    .any(|needed| needed.kind != "TABLE" && !KINDS.contains(&needed.kind.as_str()))
            {
                continue;
            }
            let tables = needed.clone().filter(|needed| needed.kind == "TABLE");
            let entries = needed.filter(|needed| KINDS.contains(&needed.kind.as_str()));
            waiting.push(WaitingStatement {
                entry: entry.dump_id,
                tables: tables.map(|table| (table.schema.clone(), table.tag.clone())).collect(),
                entries: entries.map(|needed| needed.dump_id).collect(),
            });
        }
        Self { contents, waiting, loaded: HashSet::new(), made }
    }

    /// Entries that can be made now; they count as made from here on.
    fn ready(&mut self) -> Vec<i64> {
        let Self { waiting, loaded, made, .. } = self;
        let is_ready = |one: &mut WaitingStatement| {
            !one.tables.is_empty()
                && one.tables.iter().all(|table| loaded.contains(table))
                && one.entries.iter().all(|entry| made.contains(entry))
        };
        let ready: Vec<i64> = waiting.extract_if(.., is_ready).map(|one| one.entry).collect();
        self.made.extend(&ready);
        ready
    }

    /// Makes what can be made, until no more tables are told.
    ///
    /// # Errors
    /// [`TargetError::Load`]
    pub async fn run(
        &mut self,
        loader: &ArchiveLoader,
        mut loaded: UnboundedReceiver<TableName>,
    ) -> Result<Vec<String>, TargetError> {
        let mut refused = Vec::new();
        // One job is the one that loads rows.
        let Some(jobs @ 1..) = loader.jobs.checked_sub(1) else { return Ok(refused) };
        while let Some(table) = loaded.recv().await {
            self.loaded.insert(table);
            while let Ok(table) = loaded.try_recv() {
                self.loaded.insert(table);
            }
            let ready = self.ready();
            if !ready.is_empty() {
                refused.extend(loader.post_data(self.contents, &ready, jobs).await?);
            }
        }
        Ok(refused)
    }

    /// What is still to be made, in the archive's order.
    #[must_use]
    pub fn rest(self) -> Vec<i64> {
        let rest = self.contents.entries.iter().filter(|entry| !self.made.contains(&entry.dump_id));
        rest.map(|entry| entry.dump_id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::archive::TocEntry;

    fn entry(dump_id: i64, kind: &str, tag: &str, dependencies: &[i64]) -> TocEntry {
        TocEntry {
            dump_id,
            kind: kind.to_owned(),
            tag: tag.into(),
            dependencies: dependencies.to_vec(),
            ..TocEntry::default()
        }
    }

    #[test]
    fn only_what_needs_nothing_but_loaded_tables_is_made_ahead() {
        let entries = vec![
            entry(4, "FUNCTION", "f", &[]),
            entry(1, "TABLE", "a", &[]),
            entry(2, "TABLE", "b", &[]),
            entry(3, "MATERIALIZED VIEW", "v", &[1]),
            entry(10, "CONSTRAINT", "a_pkey", &[1]),
            entry(11, "INDEX", "b_x", &[2]),
            entry(12, "FK CONSTRAINT", "b_a", &[2, 10]),
            entry(13, "INDEX", "v_x", &[3]),
            entry(14, "CONSTRAINT", "needs_index", &[1, 11]),
            entry(15, "INDEX", "lone", &[]),
            entry(16, "INDEX", "by_function", &[1, 4]),
            TocEntry {
                definition: b"CREATE INDEX e ON a USING btree (lower(x));".to_vec(),
                ..entry(17, "INDEX", "e", &[1])
            },
        ];
        let contents = TableOfContents {
            version: (1, 15),
            database: Vec::new(),
            entries,
            raw: std::sync::Arc::default(),
        };
        let mut ahead = EagerIndexBuilder::new(&contents, HashSet::new());
        assert!(ahead.ready().is_empty());
        ahead.loaded.insert((Vec::new(), b"a".to_vec()));
        assert_eq!(ahead.ready(), [10]);
        assert!(ahead.ready().is_empty(), "nothing is made twice");
        ahead.loaded.insert((Vec::new(), b"b".to_vec()));
        assert_eq!(ahead.ready(), [11]);
        assert_eq!(ahead.ready(), [14]);
        assert_eq!(ahead.rest(), [4, 1, 2, 3, 12, 13, 15, 16, 17]);
    }
}

//! Computing a fingerprint from an archive as it streams by, without a second look at the server.

use std::collections::{BTreeMap, HashMap};

use crate::domain::fingerprint::{FORMAT, Fingerprint, HASH, HashKey, LargeObjects, Sum, TableRows};

use super::archive::{ArchiveError, Contents, Entry, Visitor, copy_columns, readable};

/// Kinds of entry whose number depends on how the dump was split, not on the database.
const KINDS_NOT_COUNTED: [&str; 3] = ["TABLE DATA", "BLOBS", "BLOB METADATA"];

/// What one archive contributes to a fingerprint.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Rows of its tables.
    pub tables: Vec<TableRows>,
    /// Its large objects.
    pub large_objects: LargeObjects,
    /// Its sequences.
    pub sequences: BTreeMap<String, String>,
    /// Its materialized views.
    pub materialized_views: Vec<String>,
    /// Its objects by kind.
    pub objects: BTreeMap<String, u64>,
}

/// Counts and hashes what an archive holds.
pub struct Fingerprinter {
    key: HashKey,
    /// For each table, the columns in the order in which they were hashed at backup time.
    recorded: HashMap<(String, String), Vec<String>>,
    owners: HashMap<u32, Vec<u8>>,
    tally: Tally,
    table: Option<Table>,
    large_object: Option<(blake3::Hasher, u64)>,
}

struct Table {
    rows: TableRows,
    carry: Vec<u8>,
    ended: bool,
    /// Where each recorded column stands in the stream; `None` when the order is the same.
    order: Option<Vec<usize>>,
}

impl Fingerprinter {
    /// For a backup: hashes rows as they come.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        Self { key, recorded: HashMap::new(), owners: HashMap::new(), tally: Tally::default(), table: None, large_object: None }
    }

    /// For a comparison: hashes rows with their columns in the recorded order, since `pg_dump` reorders inherited columns.
    #[must_use]
    pub fn like(recorded: &Fingerprint) -> Self {
        let columns = recorded.tables.iter().map(|t| ((t.schema.clone(), t.table.clone()), t.columns.clone())).collect();
        Self { recorded: columns, ..Self::new(recorded.key.clone()) }
    }

    /// What was counted.
    #[must_use]
    pub fn into_tally(self) -> Tally {
        self.tally
    }

    /// The table whose rows are passing, for people.
    #[must_use]
    pub fn current_table(&self) -> Option<String> {
        self.table.as_ref().map(|t| format!("{}.{}", t.rows.schema, t.rows.table))
    }
}

/// Puts the tallies of all archives of a backup together.
#[must_use]
pub fn assemble(key: HashKey, pg_dump_major: u32, main: Tally, data: impl IntoIterator<Item = Tally>) -> Fingerprint {
    let mut tables = main.tables;
    for tally in data {
        tables.extend(tally.tables);
    }
    tables.sort_by(|a, b| (&a.schema, &a.table).cmp(&(&b.schema, &b.table)));
    Fingerprint {
        format: FORMAT.to_owned(),
        hash: HASH.to_owned(),
        key,
        pg_dump_major,
        tables,
        large_objects: main.large_objects,
        sequences: main.sequences,
        materialized_views: main.materialized_views,
        objects: main.objects,
    }
}

impl Visitor for Fingerprinter {
    fn contents(&mut self, contents: &Contents) -> Result<(), ArchiveError> {
        for entry in &contents.entries {
            if !KINDS_NOT_COUNTED.contains(&entry.kind.as_str()) {
                *self.tally.objects.entry(entry.kind.clone()).or_default() += 1;
            }
            let name = format!("{}.{}", readable(&entry.schema), readable(&entry.tag));
            match entry.kind.as_str() {
                "SEQUENCE SET" => {
                    self.tally.sequences.insert(name, readable(&entry.definition).trim().to_owned());
                }
                "MATERIALIZED VIEW" => self.tally.materialized_views.push(name),
                // Up to 16 one entry per large object; from 17 on one per owner, with a list of OIDs.
                "BLOB" => self.owner_of(&entry.tag, &entry.owner),
                "BLOB METADATA" => {
                    for oid in entry.definition.split(|b| b.is_ascii_whitespace()) {
                        self.owner_of(oid, &entry.owner);
                    }
                }
                _ => {}
            }
        }
        // From 17 on the number of BLOB entries is not the number of large objects; the tally counts those itself.
        self.tally.objects.remove("BLOB");
        Ok(())
    }

    fn begin(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        if entry.kind != "TABLE DATA" {
            return Ok(());
        }
        let (schema, table) = (readable(&entry.schema), readable(&entry.tag));
        let columns = copy_columns(&entry.copy)?;
        let recorded = self.recorded.get(&(schema.clone(), table.clone()));
        let order = recorded.filter(|r| **r != columns).and_then(|r| places(r, &columns));
        let columns = if order.is_some() { recorded.cloned().unwrap_or_default() } else { columns };
        let rows = TableRows { schema, table, columns, rows: 0, bytes: 0, sum: Sum::default() };
        self.table = Some(Table { rows, carry: Vec::new(), ended: false, order });
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) {
        if let Some((hasher, count)) = &mut self.large_object {
            hasher.update(bytes);
            *count += bytes.len() as u64;
        } else if let Some(table) = &mut self.table {
            table.feed(bytes, self.key.bytes());
        }
    }

    fn begin_large_object(&mut self, oid: u32) {
        let mut hasher = blake3::Hasher::new_keyed(self.key.bytes());
        let owner = self.owners.get(&oid).map(Vec::as_slice).unwrap_or_default();
        hasher.update(&oid.to_le_bytes());
        hasher.update(&(owner.len() as u64).to_le_bytes());
        hasher.update(owner);
        self.large_object = Some((hasher, 0));
    }

    fn end_large_object(&mut self) {
        if let Some((hasher, bytes)) = self.large_object.take() {
            self.tally.large_objects.sum.add(hasher.finalize().as_bytes());
            self.tally.large_objects.count += 1;
            self.tally.large_objects.bytes += bytes;
        }
    }

    fn end(&mut self) -> Result<(), ArchiveError> {
        if let Some(table) = self.table.take() {
            if !table.ended {
                return Err(ArchiveError::Malformed(format!("the rows of {}.{} have no end mark", table.rows.schema, table.rows.table)));
            }
            self.tally.tables.push(table.rows);
        }
        Ok(())
    }
}

impl Fingerprinter {
    fn owner_of(&mut self, oid: &[u8], owner: &[u8]) {
        if let Some(oid) = std::str::from_utf8(oid).ok().and_then(|text| text.parse().ok()) {
            self.owners.insert(oid, owner.to_vec());
        }
    }
}

/// Where each of `wanted` stands in `present`; `None` unless both hold the same names.
fn places(wanted: &[String], present: &[String]) -> Option<Vec<usize>> {
    let order: Option<Vec<usize>> = wanted.iter().map(|w| present.iter().position(|p| p == w)).collect();
    order.filter(|o| o.len() == present.len())
}

impl Table {
    /// Rows end at newlines: COPY writes a newline within a value as `\n`. Chunks usually are whole rows, but need not be.
    fn feed(&mut self, mut bytes: &[u8], key: &[u8; 32]) {
        if !self.carry.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.carry.extend_from_slice(bytes);
                return;
            };
            self.carry.extend_from_slice(&bytes[..=end]);
            bytes = &bytes[end + 1..];
            let row = std::mem::take(&mut self.carry);
            self.row(&row, key);
        }
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (row, rest) = bytes.split_at(end + 1);
            self.row(row, key);
            bytes = rest;
        }
        self.carry.extend_from_slice(bytes);
    }

    fn row(&mut self, row: &[u8], key: &[u8; 32]) {
        if self.ended {
            return;
        }
        if row == b"\\.\n" {
            self.ended = true;
            return;
        }
        self.rows.rows += 1;
        self.rows.bytes += row.len() as u64;
        let hash = match &self.order {
            None => blake3::keyed_hash(key, row),
            Some(order) => {
                let fields: Vec<&[u8]> = row[..row.len() - 1].split(|b| *b == b'\t').collect();
                let mut same = Vec::with_capacity(row.len());
                for (place, at) in order.iter().enumerate() {
                    if place > 0 {
                        same.push(b'\t');
                    }
                    same.extend_from_slice(fields.get(*at).copied().unwrap_or_default());
                }
                same.push(b'\n');
                blake3::keyed_hash(key, &same)
            }
        };
        self.rows.sum.add(hash.as_bytes());
    }
}

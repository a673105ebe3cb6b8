//! Computing a fingerprint from an archive while it is streamed, without another query.

use std::collections::{BTreeMap, HashMap};

use crate::domain::fingerprint::{
    ArchiveObject, FORMAT, Fingerprint, HASH, HashKey, HashSum, LargeObjects, TableRows,
};

use super::objects;

use super::sql::quote_identifier;

use super::archive::{
    ArchiveError, ArchiveVisitor, TableOfContents, TocEntry, copy_columns, readable,
};

/// What one archive contributes to a fingerprint.
#[derive(Debug, Clone, Default)]
pub struct ArchiveTally {
    /// Rows of its tables.
    pub tables: Vec<TableRows>,
    /// Its large objects.
    pub large_objects: LargeObjects,
    /// Its sequences.
    pub sequences: BTreeMap<String, String>,
    /// Its materialized views.
    pub materialized_views: Vec<String>,
    /// Its objects, ordered.
    pub named: Vec<ArchiveObject>,
}

/// Counts and hashes what an archive holds.
pub struct RowFingerprinter {
    key: HashKey,
    /// For each table, the columns in the order in which they were hashed at backup time.
    recorded: HashMap<(String, String), Vec<String>>,
    owners: HashMap<u32, Vec<u8>>,
    tally: ArchiveTally,
    table: Option<TableTally>,
    large_object: Option<(blake3::Hasher, u64)>,
}

struct TableTally {
    rows: TableRows,
    carry: Vec<u8>,
    ended: bool,
    /// Where each recorded column stands in the stream; `None` when the order is the same.
    order: Option<Vec<usize>>,
}

impl RowFingerprinter {
    /// For a backup: hashes rows as they come.
    #[must_use]
    pub fn new(key: HashKey) -> Self {
        Self {
            key,
            recorded: HashMap::new(),
            owners: HashMap::new(),
            tally: ArchiveTally::default(),
            table: None,
            large_object: None,
        }
    }

    /// For a comparison: hashes rows with their columns in the recorded order, since `pg_dump`
    /// reorders inherited columns.
    #[must_use]
    pub fn like(recorded: &Fingerprint) -> Self {
        let columns = recorded
            .tables
            .iter()
            .map(|t| ((t.schema.clone(), t.table.clone()), t.columns.clone()))
            .collect();
        Self { recorded: columns, ..Self::new(recorded.key.clone()) }
    }

    /// What was counted.
    #[must_use]
    pub fn into_tally(self) -> ArchiveTally {
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
pub fn assemble(
    key: HashKey,
    pg_dump_major: u32,
    main: ArchiveTally,
    data: impl IntoIterator<Item = ArchiveTally>,
) -> Fingerprint {
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
        objects: BTreeMap::new(),
        server_major: 0,
        named: main.named,
        extensions: None,
        omitted: Vec::new(),
    }
}

impl ArchiveVisitor for RowFingerprinter {
    fn contents(&mut self, contents: &TableOfContents) -> Result<(), ArchiveError> {
        for entry in &contents.entries {
            let name = qualified(&entry.schema, &entry.tag);
            match entry.kind.as_str() {
                "SEQUENCE SET" => {
                    self.tally
                        .sequences
                        .insert(name, readable(&entry.definition).trim().to_owned());
                }
                "MATERIALIZED VIEW" => self.tally.materialized_views.push(name),
                // Up to 16 one entry per large object; from 17 on one per owner, with a list of
                // OIDs.
                "BLOB" => self.owner_of(&entry.tag, &entry.owner),
                "BLOB METADATA" => {
                    for oid in entry.definition.split(|b| b.is_ascii_whitespace()) {
                        self.owner_of(oid, &entry.owner);
                    }
                }
                _ => {}
            }
        }
        self.tally.named = objects::of(contents, &self.key);
        Ok(())
    }

    fn begin(&mut self, entry: &TocEntry) -> Result<(), ArchiveError> {
        if entry.kind != "TABLE DATA" {
            return Ok(());
        }
        let (schema, table) = (readable(&entry.schema), readable(&entry.tag));
        let columns = copy_columns(&entry.copy)?;
        let recorded = self.recorded.get(&(schema.clone(), table.clone()));
        let order = recorded.filter(|r| **r != columns).and_then(|r| places(r, &columns));
        let columns = if order.is_some() { recorded.cloned().unwrap_or_default() } else { columns };
        let rows = TableRows { schema, table, columns, rows: 0, bytes: 0, sum: HashSum::default() };
        self.table = Some(TableTally { rows, carry: Vec::new(), ended: false, order });
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
                return Err(ArchiveError::Malformed(format!(
                    "the rows of {}.{} have no end mark",
                    table.rows.schema, table.rows.table
                )));
            }
            self.tally.tables.push(table.rows);
        }
        Ok(())
    }
}

impl RowFingerprinter {
    fn owner_of(&mut self, oid: &[u8], owner: &[u8]) {
        if let Some(oid) = std::str::from_utf8(oid).ok().and_then(|text| text.parse().ok()) {
            self.owners.insert(oid, owner.to_vec());
        }
    }
}

/// A name that no other object of its kind has, whatever dots stand in it.
#[must_use]
pub fn qualified(schema: &[u8], name: &[u8]) -> String {
    let part = |name: &[u8]| {
        let name = readable(name);
        if name.contains(['.', '"']) { quote_identifier(&name) } else { name }
    };
    format!("{}.{}", part(schema), part(name))
}

/// Where each of `wanted` stands in `present`; `None` unless both hold the same names.
fn places(wanted: &[String], present: &[String]) -> Option<Vec<usize>> {
    let order: Option<Vec<usize>> =
        wanted.iter().map(|w| present.iter().position(|p| p == w)).collect();
    order.filter(|o| o.len() == present.len())
}

impl TableTally {
    /// Rows end at newlines: COPY writes a newline within a value as `\n`. Chunks usually are whole
    /// rows, but need not be.
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [42; 32];

    fn key() -> HashKey {
        HashKey::from_random(KEY)
    }

    fn entry(kind: &str, schema: &str, tag: &str) -> TocEntry {
        TocEntry {
            kind: kind.to_owned(),
            schema: schema.into(),
            tag: tag.into(),
            ..TocEntry::default()
        }
    }

    fn table_data(columns: &str) -> TocEntry {
        TocEntry {
            copy: format!("COPY public.t {columns} FROM stdin;\n").into_bytes(),
            ..entry("TABLE DATA", "public", "t")
        }
    }

    fn contents(entries: Vec<TocEntry>) -> TableOfContents {
        TableOfContents {
            version: (1, 16),
            database: b"db".to_vec(),
            entries,
            raw: std::sync::Arc::default(),
        }
    }

    /// What must be recorded of these rows: each is hashed on its own, with its newline.
    fn sum_of(rows: &[&[u8]]) -> HashSum {
        let mut sum = HashSum::default();
        rows.iter().for_each(|row| sum.add(blake3::keyed_hash(&KEY, row).as_bytes()));
        sum
    }

    fn count(
        mut fingerprinter: RowFingerprinter,
        columns: &str,
        chunks: &[&[u8]],
    ) -> Result<TableRows, ArchiveError> {
        fingerprinter.begin(&table_data(columns))?;
        chunks.iter().for_each(|chunk| fingerprinter.data(chunk));
        fingerprinter.end()?;
        Ok(fingerprinter.into_tally().tables.remove(0))
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    /// A fingerprint of a backup whose table `public.t` had these columns.
    fn recorded(columns: &[&str]) -> Fingerprint {
        let rows = TableRows {
            schema: "public".to_owned(),
            table: "t".to_owned(),
            columns: strings(columns),
            rows: 0,
            bytes: 0,
            sum: HashSum::default(),
        };
        assemble(key(), 16, ArchiveTally { tables: vec![rows], ..ArchiveTally::default() }, [])
    }

    #[test]
    fn rows_are_counted_and_hashed_the_same_in_chunks_of_every_size() {
        let stream = b"1\tone\n\n2\ttw\\no\n\\.x\n1\tone\n\\.\n\n\n";
        let rows: [&[u8]; 5] = [b"1\tone\n", b"\n", b"2\ttw\\no\n", b"\\.x\n", b"1\tone\n"];
        let bytes = rows.iter().map(|r| r.len() as u64).sum();
        for size in 1..=stream.len() {
            let found = count(
                RowFingerprinter::new(key()),
                "(a, b)",
                &stream.chunks(size).collect::<Vec<_>>(),
            )
            .unwrap();
            let wanted = TableRows {
                schema: "public".to_owned(),
                table: "t".to_owned(),
                columns: strings(&["a", "b"]),
                rows: 5,
                bytes,
                sum: sum_of(&rows),
            };
            assert_eq!(found, wanted, "chunks of {size}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn where_chunks_are_cut_and_how_rows_are_ordered_changes_nothing(
            rows in proptest::collection::vec("[a-z\t]{0,9}", 0..8),
            cuts in proptest::collection::vec(0_usize..90, 0..6),
        ) {
            let mut lines: Vec<Vec<u8>> = rows.iter().map(|r| format!("{r}\n").into_bytes()).collect();
            let mut stream = lines.concat();
            stream.extend_from_slice(b"\\.\n\n\n");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(stream.len())).chain([0, stream.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &stream[w[0]..w[1]]).collect();
            let found = count(RowFingerprinter::new(key()), "(a)", &chunks).unwrap();
            lines.reverse();
            let sum = sum_of(&lines.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!((found.rows, found.sum), (lines.len() as u64, sum));
        }
    }

    #[test]
    fn rows_behind_the_end_mark_are_not_counted() {
        let found = count(RowFingerprinter::new(key()), "(a)", &[b"1\n\\.\n2\n", b"3\n"]).unwrap();
        assert_eq!((found.rows, found.bytes, found.sum), (1, 2, sum_of(&[b"1\n"])));
    }

    #[test]
    fn a_table_whose_rows_have_no_end_mark_is_refused_by_name() {
        for chunks in [&[][..], &[&b"1\n"[..]], &[b"1\n\\."], &[b"1\n", b"\\.x\n"], &[b"x\\.\n"]] {
            let error = count(RowFingerprinter::new(key()), "(a)", chunks).unwrap_err();
            assert_eq!(
                error,
                ArchiveError::Malformed("the rows of public.t have no end mark".to_owned())
            );
        }
    }

    #[test]
    fn columns_in_another_order_than_recorded_are_hashed_in_the_recorded_order() {
        let like = |columns: &[&str]| RowFingerprinter::like(&recorded(columns));
        let stream: &[&[u8]] = &[b"1\t2\t3\n", b"4\t\t6\n\\.\n"];
        let same = count(like(&["a", "b", "c"]), "(a, b, c)", stream).unwrap();
        assert_eq!(
            (same.columns, same.sum),
            (strings(&["a", "b", "c"]), sum_of(&[b"1\t2\t3\n", b"4\t\t6\n"]))
        );
        let turned = count(like(&["c", "a", "b"]), "(a, b, c)", stream).unwrap();
        assert_eq!(
            (turned.columns, turned.sum),
            (strings(&["c", "a", "b"]), sum_of(&[b"3\t1\t2\n", b"6\t4\t\n"]))
        );
        assert_eq!((turned.rows, turned.bytes), (2, 11));
    }

    #[test]
    fn columns_that_are_not_the_recorded_ones_are_hashed_as_they_come_and_named_as_they_are() {
        for other in [&["a", "x"][..], &["a"], &["a", "b", "c"], &[]] {
            let found =
                count(RowFingerprinter::like(&recorded(other)), "(b, a)", &[b"1\t2\n\\.\n"])
                    .unwrap();
            assert_eq!(
                (found.columns, found.sum),
                (strings(&["b", "a"]), sum_of(&[b"1\t2\n"])),
                "{other:?}"
            );
        }
        // A table of the same name in another schema was not recorded.
        let mut fingerprinter = RowFingerprinter::like(&recorded(&["b", "a"]));
        fingerprinter
            .begin(&TocEntry { schema: b"other".to_vec(), ..table_data("(a, b)") })
            .unwrap();
        fingerprinter.data(b"1\t2\n\\.\n");
        fingerprinter.end().unwrap();
        assert_eq!(fingerprinter.into_tally().tables[0].columns, ["a", "b"]);
    }

    #[test]
    fn a_row_with_fewer_fields_than_columns_does_not_stop_a_comparison() {
        let found =
            count(RowFingerprinter::like(&recorded(&["b", "a"])), "(a, b)", &[b"1\n\n\\.\n"])
                .unwrap();
        assert_eq!((found.rows, found.sum), (2, sum_of(&[b"\t1\n", b"\t\n"])));
    }

    #[test]
    fn a_comparison_hashes_under_the_key_of_the_backup() {
        let with = |bytes| Fingerprint { key: HashKey::from_random(bytes), ..recorded(&["a"]) };
        let sum =
            |bytes| count(RowFingerprinter::like(&with(bytes)), "(a)", &[b"1\n\\.\n"]).unwrap().sum;
        assert_eq!(sum(KEY), sum_of(&[b"1\n"]));
        assert_ne!(sum([1; 32]), sum(KEY));
    }

    #[test]
    fn what_the_table_of_contents_lists_is_counted_by_kind() {
        let mut fingerprinter = RowFingerprinter::new(key());
        let sequence = TocEntry {
            definition: b"SELECT pg_catalog.setval('s.q', 7, true);\n\n".to_vec(),
            ..entry("SEQUENCE SET", "s", "q")
        };
        let listed = vec![
            entry("TABLE", "s", "a"),
            entry("TABLE", "s", "b"),
            entry("TABLE DATA", "s", "a"),
            entry("VIEW", "s", "v"),
            entry("MATERIALIZED VIEW", "s", "m"),
            entry("BLOB", "", "16385"),
            entry("BLOBS", "", "BLOBS"),
            entry("BLOB METADATA", "", "BLOB 1..2"),
            sequence,
        ];
        fingerprinter.contents(&contents(listed)).unwrap();
        let tally = fingerprinter.into_tally();
        let named: Vec<String> = tally
            .named
            .iter()
            .map(|object| format!("{} {}.{}", object.kind, object.schema, object.name))
            .collect();
        assert_eq!(named, ["MATERIALIZED VIEW s.m", "TABLE s.a", "TABLE s.b", "VIEW s.v"]);
        assert_eq!(tally.materialized_views, ["s.m"]);
        assert_eq!(
            tally.sequences.get("s.q").map(String::as_str),
            Some("SELECT pg_catalog.setval('s.q', 7, true);")
        );
        assert_eq!(tally.sequences.len(), 1);
        assert_ne!(qualified(b"a.b", b"c"), qualified(b"a", b"b.c"));
    }

    fn large_objects(listed: Vec<TocEntry>, objects: &[(u32, &[&[u8]])]) -> LargeObjects {
        let mut fingerprinter = RowFingerprinter::new(key());
        fingerprinter.contents(&contents(listed)).unwrap();
        fingerprinter.begin(&entry("BLOBS", "", "BLOBS")).unwrap();
        for (oid, chunks) in objects {
            fingerprinter.begin_large_object(*oid);
            chunks.iter().for_each(|chunk| fingerprinter.data(chunk));
            fingerprinter.end_large_object();
        }
        fingerprinter.end().unwrap();
        let tally = fingerprinter.into_tally();
        assert!(tally.tables.is_empty(), "large objects are not rows");
        tally.large_objects
    }

    #[test]
    fn large_objects_are_counted_with_oid_owner_and_content() {
        let owned =
            |oid: &str, owner: &str| TocEntry { owner: owner.into(), ..entry("BLOB", "", oid) };
        let listed = || vec![owned("7", "ann"), owned("8", "bob")];
        let found = large_objects(listed(), &[(7, &[b"con", b"tent"]), (8, &[])]);
        let of = |oid: u32, owner: &[u8], content: &[u8]| {
            let length = (owner.len() as u64).to_le_bytes();
            blake3::keyed_hash(&KEY, &[&oid.to_le_bytes()[..], &length, owner, content].concat())
        };
        let mut sum = HashSum::default();
        sum.add(of(7, b"ann", b"content").as_bytes());
        sum.add(of(8, b"bob", b"").as_bytes());
        assert_eq!(found, LargeObjects { count: 2, bytes: 7, sum });
        assert_eq!(
            large_objects(listed(), &[(8, &[]), (7, &[b"content"])]),
            found,
            "order and chunks do not matter"
        );
        for (listed, objects, what) in [
            (
                vec![owned("7", "eve"), owned("8", "bob")],
                [(7, &[&b"content"[..]][..]), (8, &[])],
                "owner",
            ),
            (
                vec![owned("7", "ann"), owned("9", "bob")],
                [(7, &[&b"content"[..]][..]), (9, &[])],
                "oid",
            ),
            (
                vec![owned("7", "ann"), owned("8", "bob")],
                [(7, &[&b"Content"[..]][..]), (8, &[])],
                "content",
            ),
        ] {
            assert_ne!(large_objects(listed, &objects).sum, found.sum, "another {what}");
        }
    }

    #[test]
    fn owners_of_large_objects_are_the_same_whether_listed_singly_or_in_a_list_of_oids() {
        let single = |oid: &str| TocEntry { owner: b"ann".to_vec(), ..entry("BLOB", "", oid) };
        let list = TocEntry {
            owner: b"ann".to_vec(),
            definition: b"7\n4294967295\n".to_vec(),
            ..entry("BLOB METADATA", "", "BLOB 7..9")
        };
        let objects: [(u32, &[&[u8]]); 2] = [(7, &[b"x"]), (u32::MAX, &[b"y"])];
        assert_eq!(
            large_objects(vec![single("7"), single("4294967295")], &objects),
            large_objects(vec![list], &objects)
        );
    }

    #[test]
    fn the_table_that_is_passing_is_named_and_none_is_when_none_is() {
        let mut fingerprinter = RowFingerprinter::new(key());
        assert_eq!(fingerprinter.current_table(), None);
        fingerprinter.begin(&entry("BLOBS", "", "BLOBS")).unwrap();
        assert_eq!(fingerprinter.current_table(), None);
        fingerprinter.begin(&table_data("(a)")).unwrap();
        assert_eq!(fingerprinter.current_table().as_deref(), Some("public.t"));
        fingerprinter.data(b"\\.\n");
        fingerprinter.end().unwrap();
        assert_eq!(fingerprinter.current_table(), None);
        assert!(
            fingerprinter
                .begin(&TocEntry { copy: b"DROP TABLE t;".to_vec(), ..table_data("") })
                .is_err()
        );
    }

    #[test]
    fn the_tables_of_all_archives_stand_together_ordered_by_name() {
        let table = |schema: &str, table: &str| TableRows {
            schema: schema.to_owned(),
            table: table.to_owned(),
            columns: vec![],
            rows: 1,
            bytes: 2,
            sum: HashSum::default(),
        };
        let main = ArchiveTally {
            tables: vec![table("b", "a")],
            large_objects: LargeObjects { count: 3, ..LargeObjects::default() },
            sequences: BTreeMap::from([("s".to_owned(), "1".to_owned())]),
            materialized_views: strings(&["m"]),
            named: objects::of(&contents(vec![entry("TABLE", "a", "z")]), &key()),
        };
        let data = [vec![table("b", "A"), table("a", "z")], vec![table("c", "c")]];
        let all = assemble(
            key(),
            17,
            main,
            data.map(|tables| ArchiveTally { tables, ..ArchiveTally::default() }),
        );
        let names: Vec<_> =
            all.tables.iter().map(|t| format!("{}.{}", t.schema, t.table)).collect();
        assert_eq!(names, ["a.z", "b.A", "b.a", "c.c"]);
        assert_eq!((all.format.as_str(), all.hash.as_str(), all.pg_dump_major), (FORMAT, HASH, 17));
        assert_eq!(
            (
                all.large_objects.count,
                all.sequences.len(),
                all.materialized_views.len(),
                all.named.len()
            ),
            (3, 1, 1, 1)
        );
        assert_eq!(all.rows(), 4);
    }
}

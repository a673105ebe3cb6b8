//! Archives built byte by byte: read in pieces of every size, cut off everywhere, with lengths and
//! numbers that lie.

use super::*;

#[test]
fn columns_of_copy_statements_are_read_with_their_quotes() {
    let columns = copy_columns(b"COPY public.\"odd (name)\" (id, \"B \"\"c\", d) FROM stdin;\n")
        .unwrap_or_default();
    assert_eq!(columns, ["id", "B \"c", "d"]);
    assert_eq!(copy_columns(b"COPY public.nothing  FROM stdin;\n"), Ok(vec![]));
    assert!(copy_columns(b"DROP TABLE x;").is_err());
}

/// Writes archives as `pg_dump` does.
#[derive(Clone, Copy)]
struct ArchiveWriter {
    version: (u8, u8),
    integer_bytes: usize,
    offset_bytes: u8,
}

const WRITER: ArchiveWriter = ArchiveWriter { version: (1, 16), integer_bytes: 4, offset_bytes: 8 };

impl ArchiveWriter {
    fn integer(self, number: i64) -> Vec<u8> {
        let magnitude = number.unsigned_abs().to_le_bytes();
        [&[u8::from(number < 0)], &magnitude[..self.integer_bytes]].concat()
    }
    fn text(self, text: Option<&[u8]>) -> Vec<u8> {
        match text {
            Some(text) => {
                [self.integer(i64::try_from(text.len()).unwrap()), text.to_vec()].concat()
            }
            None => self.integer(-1),
        }
    }
    fn header(self, count: i64) -> Vec<u8> {
        let mut bytes = b"PGDMP".to_vec();
        let integer_bytes = u8::try_from(self.integer_bytes).unwrap();
        bytes.extend([self.version.0, self.version.1, 0, integer_bytes, self.offset_bytes, 1]);
        bytes.extend(if self.version >= (1, 15) { vec![0] } else { self.integer(0) });
        (0..7).for_each(|n| bytes.extend(self.integer(100 + n)));
        [b"shop", b"17.2", b"18.0"].iter().for_each(|text| bytes.extend(self.text(Some(*text))));
        bytes.extend(self.integer(count));
        bytes
    }
    fn entry(self, entry: &TocEntry) -> Vec<u8> {
        self.entry_with(
            entry,
            &entry.dependencies.iter().map(ToString::to_string).collect::<Vec<_>>(),
        )
    }
    fn entry_with(self, entry: &TocEntry, dependencies: &[String]) -> Vec<u8> {
        let mut bytes =
            [self.integer(entry.dump_id), self.integer(i64::from(entry.has_data))].concat();
        let (catalog, object) = (entry.object.0.to_string(), entry.object.1.to_string());
        for text in [catalog.as_bytes(), object.as_bytes(), &entry.tag, entry.kind.as_bytes()] {
            bytes.extend(self.text(Some(text)));
        }
        bytes.extend(self.integer(2)); // section
        bytes.extend(self.text(Some(&entry.definition)));
        bytes.extend(self.text(Some(b"DROP it;")));
        bytes.extend(self.text(Some(&entry.copy)));
        bytes.extend(self.text(Some(&entry.schema)));
        bytes.extend(self.text(Some(&entry.tablespace)));
        bytes.extend(self.text(Some(b"heap")));
        if self.version >= (1, 16) {
            bytes.extend(self.integer(114));
        }
        bytes.extend(self.text(Some(&entry.owner)));
        bytes.extend(self.text(Some(b"false")));
        dependencies.iter().for_each(|d| bytes.extend(self.text(Some(d.as_bytes()))));
        bytes.extend(self.text(None));
        bytes.push(2); // state of the offset
        bytes.extend(vec![0xee; usize::from(self.offset_bytes)]);
        bytes
    }
    fn contents(self, entries: &[TocEntry]) -> Vec<u8> {
        let count = i64::try_from(entries.len()).unwrap();
        entries.iter().fold(self.header(count), |bytes, entry| [bytes, self.entry(entry)].concat())
    }
    /// Chunks and their end.
    fn chunks(self, chunks: &[&[u8]]) -> Vec<u8> {
        [chunks.iter().flat_map(|c| self.text(Some(c))).collect(), self.integer(0)].concat()
    }
    fn data(self, dump_id: i64, chunks: &[&[u8]]) -> Vec<u8> {
        [vec![BLOCK_DATA], self.integer(dump_id), self.chunks(chunks)].concat()
    }
    fn large_objects(self, dump_id: i64, objects: &[(i64, &[&[u8]])]) -> Vec<u8> {
        let objects = objects
            .iter()
            .flat_map(|(oid, chunks)| [self.integer(*oid), self.chunks(chunks)].concat())
            .collect();
        [vec![BLOCK_LARGE_OBJECTS], self.integer(dump_id), objects, self.integer(0)].concat()
    }
    /// A small archive with everything in it, in parts: contents, a table, large objects, an empty
    /// table.
    fn parts(self) -> [Vec<u8>; 4] {
        let objects: [(i64, &[&[u8]]); 2] = [(7, &[b"con", b"tent"]), (9, &[])];
        [
            self.contents(&shop()),
            self.data(2, &[b"1\tx\n", b"2\ty\n\\.\n"]),
            self.large_objects(3, &objects),
            self.data(4, &[]),
        ]
    }
}

fn shop() -> Vec<TocEntry> {
    let entry = |dump_id: i64, kind: &str, tag: &str| TocEntry {
        dump_id,
        kind: kind.to_owned(),
        tag: tag.into(),
        schema: b"public".to_vec(),
        owner: b"ann".to_vec(),
        object: (1259, 16_384),
        tablespace: b"a tablespace".to_vec(),
        ..TocEntry::default()
    };
    vec![
        TocEntry { definition: b"CREATE TABLE a;".to_vec(), ..entry(1, "TABLE", "a") },
        TocEntry {
            has_data: true,
            copy: b"COPY a FROM stdin;".to_vec(),
            dependencies: vec![1, 40],
            ..entry(2, "TABLE DATA", "a")
        },
        TocEntry { has_data: true, ..entry(3, "BLOBS", "BLOBS") },
        TocEntry { has_data: true, dependencies: vec![1], ..entry(4, "TABLE DATA", "b") },
    ]
}

/// Writes down what it is told; refuses what it is asked to refuse.
#[derive(Default)]
struct RecordingVisitor {
    told: Vec<String>,
    data: Vec<u8>,
    refuse: &'static str,
}

impl RecordingVisitor {
    fn note(&mut self, what: &'static str, detail: &str) -> Result<(), ArchiveError> {
        if !self.data.is_empty() {
            self.told.push(format!("data {}", self.data.escape_ascii()));
            self.data.clear();
        }
        self.told.push(format!("{what} {detail}").trim_end().to_owned());
        if self.refuse == what { Err(ArchiveError::Malformed(what.to_owned())) } else { Ok(()) }
    }
}

impl ArchiveVisitor for RecordingVisitor {
    fn contents(&mut self, contents: &TableOfContents) -> Result<(), ArchiveError> {
        self.note("contents", &contents.entries.len().to_string())
    }
    fn begin(&mut self, entry: &TocEntry) -> Result<(), ArchiveError> {
        self.note("begin", &readable(&entry.tag))
    }
    fn data(&mut self, bytes: &[u8]) {
        assert!(!bytes.is_empty());
        self.data.extend_from_slice(bytes);
    }
    fn begin_large_object(&mut self, oid: u32) {
        self.note("object", &oid.to_string()).unwrap();
    }
    fn end_large_object(&mut self) {
        self.note("object ends", "").unwrap();
    }
    fn end(&mut self) -> Result<(), ArchiveError> {
        self.note("end", "")
    }
}

fn read(archive: &[u8], size: usize) -> Result<(TableOfContents, Vec<String>), ArchiveError> {
    let mut reader = ArchiveReader::new(RecordingVisitor::default());
    archive.chunks(size).try_for_each(|chunk| reader.feed(chunk))?;
    reader.finish().map(|(contents, notes)| (contents, notes.told))
}

/// The error that these bytes meet, the same in one chunk and byte by byte.
fn refused(archive: &[u8]) -> ArchiveError {
    let whole = read(archive, archive.len().max(1)).map(|_| ()).unwrap_err();
    assert_eq!(read(archive, 1).map(|_| ()).unwrap_err(), whole);
    whole
}

fn malformed(why: &str) -> ArchiveError {
    ArchiveError::Malformed(why.to_owned())
}

#[test]
fn archives_of_every_version_read_the_same_in_chunks_of_every_size() {
    let told = [
        "contents 4",
        "begin a",
        "data 1\\tx\\n2\\ty\\n\\\\.\\n",
        "end",
        "begin BLOBS",
        "object 7",
        "data content",
        "object ends",
        "object 9",
        "object ends",
        "end",
        "begin b",
        "end",
    ];
    for minor in 14..=16 {
        let parts = ArchiveWriter { version: (1, minor), ..WRITER }.parts();
        let archive = parts.concat();
        for size in (1..200)
            .chain(parts[0].len() - 2..=parts[0].len() + 2)
            .chain([archive.len() - 1, archive.len()])
        {
            let (contents, found) = read(&archive, size).unwrap();
            assert_eq!(found, told, "1.{minor} in chunks of {size}");
            assert_eq!(
                format!("{:?}", contents.entries),
                format!("{:?}", shop()),
                "1.{minor} in chunks of {size}"
            );
            assert_eq!((contents.version, &contents.database[..]), ((1, minor), &b"shop"[..]));
            assert!(
                *contents.raw == parts[0],
                "the raw contents are header and table of contents, byte for byte"
            );
        }
    }
}

#[test]
fn numbers_and_offsets_of_every_width_are_read() {
    for (integer_bytes, offset_bytes) in [(1, 8), (2, 4), (3, 1), (4, 8), (8, 8)] {
        let archive = ArchiveWriter { integer_bytes, offset_bytes, ..WRITER }.parts().concat();
        assert_eq!(
            read(&archive, 3).unwrap().1.len(),
            13,
            "{integer_bytes} and {offset_bytes} bytes"
        );
    }
    for (integer_bytes, offset_bytes, format) in
        [(0, 8, 1), (9, 8, 1), (4, 0, 1), (4, 9, 1), (4, 8, 3), (4, 8, 0)]
    {
        let header =
            [&b"PGDMP\x01\x10\x00"[..], &[integer_bytes, offset_bytes, format], &[0; 200]].concat();
        assert_eq!(refused(&header), malformed("its header is not one of the custom format"));
    }
}

#[test]
fn an_archive_cut_short_anywhere_is_not_whole() {
    let parts = WRITER.parts();
    let archive = parts.concat();
    let mut ends: Vec<usize> = Vec::new();
    for part in &parts {
        ends.push(ends.last().unwrap_or(&0) + part.len());
    }
    let missing = [(3, "TABLE DATA a"), (2, "BLOBS BLOBS"), (1, "TABLE DATA b")];
    for len in 0..archive.len() {
        let error = read(&archive[..len], 64).map(|_| ()).unwrap_err();
        let wanted = match ends.iter().position(|end| *end == len) {
            _ if len < ends[0] => ArchiveError::Truncated("its table of contents"),
            Some(between) => ArchiveError::DataMissing {
                count: missing[between].0,
                first: missing[between].1.to_owned(),
            },
            None => ArchiveError::Truncated("a data block"),
        };
        assert_eq!(error, wanted, "cut to {len} of {ends:?}");
    }
}

#[test]
fn a_block_missing_between_others_is_noticed() {
    let [contents, table, objects, empty] = WRITER.parts();
    let error = refused(&[&contents[..], &table, &empty].concat());
    assert_eq!(error, ArchiveError::DataMissing { count: 1, first: "BLOBS BLOBS".to_owned() });
    assert_eq!(
        error.to_string(),
        "the archive lacks the data of 1 of its entries, the first being BLOBS BLOBS"
    );
    assert!(
        read(&[contents, empty, objects, table].concat(), 50).is_ok(),
        "blocks in another order"
    );
}

#[test]
fn what_does_not_begin_as_an_archive_is_refused_as_soon_as_that_shows() {
    for (bytes, shows_at) in [
        (&b"X"[..], 1),
        (b"PX", 2),
        (b"PGDMX", 5),
        (b"--\n-- PostgreSQL database dump", 1),
        (&[0x1f, 0x8b, 8], 1),
    ] {
        assert_eq!(refused(bytes), ArchiveError::NotAnArchive);
        let mut reader = ArchiveReader::new(RecordingVisitor::default());
        assert_eq!(reader.feed(&bytes[..shows_at]), Err(ArchiveError::NotAnArchive), "{bytes:?}");
    }
    for part in [&b""[..], b"P", b"PGDMP"] {
        assert_eq!(refused(part), ArchiveError::Truncated("its table of contents"));
    }
}

#[test]
fn versions_that_are_not_known_and_compressed_archives_are_refused() {
    for version in [(1, 13), (1, 17), (0, 15), (2, 0), (2, 15)] {
        let archive = ArchiveWriter { version, ..WRITER }.parts().concat();
        assert_eq!(refused(&archive), ArchiveError::UnknownVersion(version.0, version.1));
    }
    for (minor, place) in [(14, 12), (15, 11), (16, 11)] {
        let mut archive = ArchiveWriter { version: (1, minor), ..WRITER }.parts().concat();
        archive[place] = 1;
        assert_eq!(refused(&archive), ArchiveError::Compressed, "1.{minor}");
    }
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let contents = WRITER.contents(&shop());
    let wide = ArchiveWriter { integer_bytes: 8, ..WRITER };
    let huge = i64::try_from(CONTENTS_BYTES_MAX).unwrap() + 1;
    let in_the_name = |number: Vec<u8>| {
        let header = wide.header(0);
        let name = header.len() - 9 - 3 * 13;
        [&header[..name], &number].concat()
    };
    for (archive, why) in [
        (WRITER.header(-1), "-1 entries"),
        (WRITER.header(20_000_001), "20000001 entries"),
        (in_the_name(wide.integer(huge)), "a text of 536870913 bytes"),
        (in_the_name([&[0][..], &[0xff; 8]].concat()), "a number out of range"),
        (in_the_name([&[2][..], &[0; 8]].concat()), "a sign byte of 2"),
        ([&contents[..], &[0]].concat(), "unknown block type 0"),
        ([&contents[..], &[2]].concat(), "unknown block type 2"),
        ([&contents[..], &[4]].concat(), "unknown block type 4"),
        ([&contents[..], &[1, 7, 0, 0, 0, 0]].concat(), "a sign byte of 7"),
        (
            [&contents[..], &[1], &WRITER.integer(2), &WRITER.integer(-5)].concat(),
            "a chunk of -5 bytes",
        ),
        (
            [&contents[..], &[3], &WRITER.integer(3), &WRITER.integer(7), &WRITER.integer(-6)]
                .concat(),
            "a chunk of -6 bytes",
        ),
    ] {
        assert_eq!(refused(&archive), malformed(why));
    }
    // What could still come true is waited for.
    for archive in [WRITER.header(20_000_000), in_the_name(wide.integer(huge - 1))] {
        assert_eq!(refused(&archive), ArchiveError::Truncated("its table of contents"));
    }
    assert_eq!(read(&WRITER.header(0), 10).unwrap().1, ["contents 0"], "an empty database");
}

#[test]
fn data_belongs_to_one_entry_that_should_have_it_and_comes_once() {
    let [contents, table, _, _] = WRITER.parts();
    for (blocks, why) in [
        (WRITER.data(5, &[]), "data of an entry 5 that is not in the table of contents"),
        (WRITER.data(-2, &[]), "data of an entry -2 that is not in the table of contents"),
        (WRITER.data(1, &[]), "data of TABLE a twice, or where none belongs"),
        ([&table[..], &table].concat(), "data of TABLE DATA a twice, or where none belongs"),
    ] {
        assert_eq!(refused(&[&contents[..], &blocks].concat()), malformed(why));
    }
    let twins = [shop(), vec![TocEntry { dump_id: 3, ..TocEntry::default() }]].concat();
    assert_eq!(refused(&WRITER.contents(&twins)), malformed("two entries have the number 3"));
}

#[test]
fn a_dependency_that_is_not_a_number_is_refused() {
    for bad in ["", "x", "1 ", "99999999999999999999"] {
        let archive =
            [WRITER.header(1), WRITER.entry_with(&TocEntry::default(), &[bad.to_owned()])].concat();
        assert_eq!(refused(&archive), malformed("a dependency that is not a number"), "{bad:?}");
    }
}

#[test]
fn the_oid_of_a_large_object_may_be_written_as_a_negative_number() {
    // pg_dump writes an OID as a signed number of 32 bits.
    let blobs = [TocEntry { dump_id: 1, has_data: true, ..TocEntry::default() }];
    for (written, oid) in
        [(1, 1), (0x7fff_ffff, 0x7fff_ffff), (-1, u32::MAX), (-0x8000_0000, 0x8000_0000)]
    {
        let archive =
            [WRITER.contents(&blobs), WRITER.large_objects(1, &[(written, &[])])].concat();
        assert_eq!(read(&archive, 7).unwrap().1[2], format!("object {oid}"));
    }
}

#[test]
fn what_the_visitor_refuses_is_refused() {
    let archive = WRITER.parts().concat();
    for refuse in ["contents", "begin", "end"] {
        let mut reader =
            ArchiveReader::new(RecordingVisitor { refuse, ..RecordingVisitor::default() });
        assert_eq!(reader.feed(&archive), Err(malformed(refuse)));
    }
    let objects = [
        WRITER.contents(&[TocEntry { dump_id: 1, has_data: true, ..TocEntry::default() }]),
        WRITER.large_objects(1, &[]),
    ]
    .concat();
    let mut reader =
        ArchiveReader::new(RecordingVisitor { refuse: "end", ..RecordingVisitor::default() });
    assert_eq!(reader.feed(&objects), Err(malformed("end")));
}

#[test]
fn contents_and_visitor_can_be_asked_while_the_archive_is_passing() {
    let [contents, table, objects, _] = WRITER.parts();
    let mut reader = ArchiveReader::new(RecordingVisitor::default());
    assert!(reader.contents().is_none());
    reader.feed(&contents[..10]).unwrap();
    assert!(reader.contents().is_none());
    reader.feed(&[&contents[10..], &table].concat()).unwrap();
    let known = reader.contents().unwrap();
    assert_eq!(known.of_kind("TABLE DATA").map(|e| e.dump_id).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(known.of_kind("DATABASE").count(), 0);
    assert_eq!(reader.visitor().told.len(), 4);
    reader.visitor_mut().told.clear();
    reader.feed(&objects).unwrap();
    assert_eq!(reader.visitor().told[0], "begin BLOBS");
}

#[test]
fn contents_in_small_chunks_are_parsed_again_only_when_twice_as_much_is_there() {
    let mut tables = [shop(), shop(), shop()].concat();
    tables
        .iter_mut()
        .zip(1..)
        .for_each(|(entry, id)| (entry.dump_id, entry.has_data) = (id, false));
    let contents = WRITER.contents(&tables);
    assert!(!contents.len().is_power_of_two());
    let behind = vec![BLOCK_DATA; contents.len()];
    let mut reader = ArchiveReader::new(RecordingVisitor::default());
    let mut fed = 0;
    for byte in contents.iter().chain(&behind) {
        fed += 1;
        // What stands behind the contents is no block of this archive, which is noticed once they
        // have been read.
        if reader.feed(&[*byte]).is_err() || reader.contents().is_some() {
            break;
        }
    }
    assert!(reader.contents().is_some());
    assert_eq!(fed, contents.len().next_power_of_two());
}

#[test]
fn names_that_are_not_utf_8_are_readable() {
    assert_eq!(readable("größe".as_bytes()), "größe");
    assert_eq!(readable(b"gr\xf6\xdfe"), "gr\\xf6\\xdfe");
    assert_eq!(readable(b""), "");
}

#[test]
fn only_one_whole_copy_statement_names_columns() {
    assert_eq!(copy_columns(b"COPY t (a) FROM stdin; -- (b)\n").unwrap(), ["a"]);
    assert_eq!(
        copy_columns(b"COPY t (a, \"b)\") FROM stdin WITH (FORMAT text);").unwrap(),
        ["a", "b)"]
    );
    for bad in [
        &b""[..],
        b"COPY t (a) FROM stdin",
        b"COPY t (a) FROM stdin; DROP TABLE x;",
        b"\"copy\" t (a);",
        b"COPY t (\"a) FROM stdin;",
    ] {
        let error = copy_columns(bad).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the archive is malformed: not a COPY statement: {}", readable(bad))
        );
    }
}

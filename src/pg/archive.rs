//! `pg_dump`'s custom format, read as it streams by: header, table of contents, then blocks of
//! data.
//!
//! Follows `pg_backup_archiver.c` and `pg_backup_custom.c` of PostgreSQL 12 to 18 (archive versions
//! 1.14 to 1.16). The reader is fed chunks of any size and calls a [`ArchiveVisitor`]; it holds the
//! table of contents in memory and nothing else. At the end every entry that should have data must
//! have been seen exactly once: an archive cut short is an error even when it is cut between two
//! blocks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::sql;

/// Largest header and table of contents, in bytes. A hostile length must not make us allocate
/// without end.
pub const CONTENTS_BYTES_MAX: usize = 512 * 1024 * 1024;
const ENTRIES_MAX: i64 = 20_000_000;
const BLOCK_DATA: u8 = 1;
const BLOCK_LARGE_OBJECTS: u8 = 3;

/// Why bytes are not a whole archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Not an archive at all.
    #[error("these bytes are not a pg_dump custom-format archive")]
    NotAnArchive,
    /// A version that was not known when this was written.
    #[error("archive version {0}.{1} is not known to this lifeboat (1.14 to 1.16 are)")]
    UnknownVersion(u8, u8),
    /// Compressed inside, which lifeboat never asks for.
    #[error("the archive is compressed inside; lifeboat's own are not")]
    Compressed,
    /// It ended too early.
    #[error("the archive ends in the middle of {0}")]
    Truncated(&'static str),
    /// A block, length or number that makes no sense.
    #[error("the archive is malformed: {0}")]
    Malformed(String),
    /// Entries whose data never came.
    #[error("the archive lacks the data of {count} of its entries, the first being {first}")]
    DataMissing {
        /// How many.
        count: usize,
        /// The first of them.
        first: String,
    },
}

/// One entry of the table of contents. Texts are bytes: a database need not be UTF-8.
#[derive(Debug, Clone, Default)]
pub struct TocEntry {
    /// Number by which data blocks refer to the entry.
    pub dump_id: i64,
    /// Whether a data block belongs to it.
    pub has_data: bool,
    /// Name of the object.
    pub tag: Vec<u8>,
    /// Kind of object: `TABLE`, `TABLE DATA`, `SEQUENCE SET`, `DATABASE` …
    pub kind: String,
    /// SQL that makes it.
    pub definition: Vec<u8>,
    /// COPY statement of table data.
    pub copy: Vec<u8>,
    /// Schema.
    pub schema: Vec<u8>,
    /// Tablespace, if it is not the database's own.
    pub tablespace: Vec<u8>,
    /// Owner.
    pub owner: Vec<u8>,
    /// Entries that must be restored before it, by their number.
    pub dependencies: Vec<i64>,
    /// OIDs of the catalog and of the object it was read from; zeros where it stands for no row of
    /// a catalog.
    pub object: (u32, u32),
}

impl TocEntry {
    /// Its name for people, with its schema if it has one.
    #[must_use]
    pub fn name(&self) -> String {
        match self.schema.is_empty() {
            true => readable(&self.tag),
            false => format!("{}.{}", readable(&self.schema), readable(&self.tag)),
        }
    }
}

/// Header and table of contents.
#[derive(Debug, Clone)]
pub struct TableOfContents {
    /// Archive version.
    pub version: (u8, u8),
    /// Name of the dumped database.
    pub database: Vec<u8>,
    /// All entries in the archive's order.
    pub entries: Vec<TocEntry>,
    /// The very bytes of header and table of contents.
    pub raw: Arc<Vec<u8>>,
}

impl TableOfContents {
    /// Entries of one kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a TocEntry> + 'a {
        self.entries.iter().filter(move |e| e.kind == kind)
    }

    /// Header and table of contents, with what was in one of these tablespaces in the database's
    /// own.
    ///
    /// # Errors
    /// [`ArchiveError`] if it cannot be read again as it was read before.
    pub fn without_tablespaces(&self, names: &[String]) -> Result<Vec<u8>, ArchiveError> {
        let malformed = |stop: ReadStop| match stop {
            ReadStop::Bad(error) => error,
            ReadStop::Incomplete => ArchiveError::Truncated("its table of contents"),
        };
        let mut cursor =
            ByteCursor { bytes: &self.raw, at: 0, integer_bytes: 4, tablespaces: Vec::new() };
        parse_contents(&mut cursor).map_err(malformed)?;
        let empty = vec![0; cursor.integer_bytes + 1];
        let mut without = Vec::with_capacity(self.raw.len());
        let mut from = 0;
        let gone = |at: &std::ops::Range<usize>| {
            let name = self.raw.get(at.start + empty.len()..at.end).unwrap_or_default();
            names.iter().any(|gone| gone.as_bytes() == name)
        };
        for at in cursor.tablespaces.iter().filter(|at| gone(at)) {
            without.extend_from_slice(&self.raw[from..at.start]);
            without.extend_from_slice(&empty);
            from = at.end;
        }
        without.extend_from_slice(&self.raw[from..]);
        Ok(without)
    }
}

/// A name for people and for JSON: UTF-8 as it is, anything else with its bytes escaped.
#[must_use]
pub fn readable(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) => text.to_owned(),
        Err(_) => name.escape_ascii().to_string(),
    }
}

/// The columns a COPY statement names, in order.
///
/// # Errors
/// [`ArchiveError::Malformed`] if it is not a COPY statement.
pub fn copy_columns(copy: &[u8]) -> Result<Vec<String>, ArchiveError> {
    let malformed = || ArchiveError::Malformed(format!("not a COPY statement: {}", readable(copy)));
    let cut = sql::statements(copy).map_err(|_| malformed())?;
    let [statement] = cut.as_slice() else { return Err(malformed()) };
    if !statement.begins_with(&["copy"]) {
        return Err(malformed());
    }
    let open = statement.tokens.iter().position(|t| t.kind == sql::TokenKind::Symbol(b'('));
    let Some(open) = open else { return Ok(Vec::new()) };
    let inside =
        statement.tokens[open + 1..].iter().take_while(|t| t.kind != sql::TokenKind::Symbol(b')'));
    Ok(inside.filter_map(|t| t.name()).map(readable).collect())
}

/// What is told of an archive as it is read.
pub trait ArchiveVisitor {
    /// Header and table of contents were read.
    ///
    /// # Errors
    /// Whatever makes the archive unacceptable.
    fn contents(&mut self, contents: &TableOfContents) -> Result<(), ArchiveError>;
    /// The data of an entry begins.
    ///
    /// # Errors
    /// Whatever makes the archive unacceptable.
    fn begin(&mut self, entry: &TocEntry) -> Result<(), ArchiveError>;
    /// Some of the entry's data.
    fn data(&mut self, bytes: &[u8]);
    /// A large object begins within the entry.
    fn begin_large_object(&mut self, oid: u32);
    /// The large object ended.
    fn end_large_object(&mut self);
    /// The entry's data ended.
    ///
    /// # Errors
    /// Whatever makes the data unacceptable.
    fn end(&mut self) -> Result<(), ArchiveError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReaderState {
    Contents,
    BlockType,
    BlockId(u8),
    ChunkLength,
    Chunk(u64),
    LargeObjectId,
    LargeObjectChunkLength,
    LargeObjectChunk(u64),
}

/// Reads an archive from chunks.
pub struct ArchiveReader<V> {
    visitor: V,
    state: ReaderState,
    carry: Vec<u8>,
    retry_at: usize,
    number: Vec<u8>,
    integer_bytes: usize,
    contents: Option<TableOfContents>,
    by_id: HashMap<i64, usize>,
    seen: HashSet<i64>,
}

impl<V: ArchiveVisitor> ArchiveReader<V> {
    /// A reader that tells `visitor`.
    pub fn new(visitor: V) -> Self {
        Self {
            visitor,
            state: ReaderState::Contents,
            carry: Vec::new(),
            retry_at: 0,
            number: Vec::new(),
            integer_bytes: 4,
            contents: None,
            by_id: HashMap::new(),
            seen: HashSet::new(),
        }
    }

    /// Header and table of contents, once they have been read.
    pub fn contents(&self) -> Option<&TableOfContents> {
        self.contents.as_ref()
    }

    /// The visitor, to ask how far it is.
    pub fn visitor(&self) -> &V {
        &self.visitor
    }

    /// The visitor, to take from it what it gathered.
    pub fn visitor_mut(&mut self) -> &mut V {
        &mut self.visitor
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`ArchiveError`] as soon as the bytes cannot be an archive.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        if self.state != ReaderState::Contents {
            return self.blocks(bytes);
        }
        self.carry.extend_from_slice(bytes);
        if self.carry.len() < self.retry_at {
            return Ok(());
        }
        // A table of contents that is not whole yet is parsed again only when twice as much is
        // there.
        self.retry_at = self.carry.len() * 2;
        if self.carry.len() > CONTENTS_BYTES_MAX {
            return Err(ArchiveError::Malformed(
                "the table of contents is larger than any real one".into(),
            ));
        }
        self.try_contents()
    }

    fn try_contents(&mut self) -> Result<(), ArchiveError> {
        let mut cursor =
            ByteCursor { bytes: &self.carry, at: 0, integer_bytes: 4, tablespaces: Vec::new() };
        let mut contents = match parse_contents(&mut cursor) {
            Ok(contents) => contents,
            Err(ReadStop::Incomplete) => return Ok(()),
            Err(ReadStop::Bad(error)) => return Err(error),
        };
        self.integer_bytes = cursor.integer_bytes;
        let rest = self.carry.split_off(cursor.at);
        contents.raw = Arc::new(std::mem::take(&mut self.carry));
        for (index, entry) in contents.entries.iter().enumerate() {
            if self.by_id.insert(entry.dump_id, index).is_some() {
                return Err(ArchiveError::Malformed(format!(
                    "two entries have the number {}",
                    entry.dump_id
                )));
            }
        }
        self.visitor.contents(&contents)?;
        self.contents = Some(contents);
        self.state = ReaderState::BlockType;
        self.blocks(&rest)
    }

    fn blocks(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            match self.state {
                ReaderState::Contents => return Err(ArchiveError::NotAnArchive),
                ReaderState::BlockType => {
                    let kind = bytes[0];
                    if kind != BLOCK_DATA && kind != BLOCK_LARGE_OBJECTS {
                        return Err(ArchiveError::Malformed(format!("unknown block type {kind}")));
                    }
                    bytes = &bytes[1..];
                    self.state = ReaderState::BlockId(kind);
                }
                ReaderState::Chunk(left) | ReaderState::LargeObjectChunk(left) => {
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    self.visitor.data(&bytes[..now]);
                    bytes = &bytes[now..];
                    let left = left - now as u64;
                    self.state = match (self.state, left) {
                        (ReaderState::Chunk(_), 0) => ReaderState::ChunkLength,
                        (ReaderState::Chunk(_), left) => ReaderState::Chunk(left),
                        (_, 0) => ReaderState::LargeObjectChunkLength,
                        (_, left) => ReaderState::LargeObjectChunk(left),
                    };
                }
                _ => {
                    let Some(number) = self.integer(&mut bytes)? else { return Ok(()) };
                    self.number_read(number)?;
                }
            }
        }
        Ok(())
    }

    fn number_read(&mut self, number: i64) -> Result<(), ArchiveError> {
        let length = |number: i64| {
            u64::try_from(number)
                .map_err(|_| ArchiveError::Malformed(format!("a chunk of {number} bytes")))
        };
        self.state = match self.state {
            ReaderState::BlockId(kind) => {
                self.begin(number)?;
                if kind == BLOCK_DATA {
                    ReaderState::ChunkLength
                } else {
                    ReaderState::LargeObjectId
                }
            }
            ReaderState::ChunkLength if number == 0 => {
                self.visitor.end()?;
                ReaderState::BlockType
            }
            ReaderState::ChunkLength => ReaderState::Chunk(length(number)?),
            ReaderState::LargeObjectId if number == 0 => {
                self.visitor.end()?;
                ReaderState::BlockType
            }
            ReaderState::LargeObjectId => {
                let oid = u32::try_from(number & 0xffff_ffff).unwrap_or_default();
                self.visitor.begin_large_object(oid);
                ReaderState::LargeObjectChunkLength
            }
            ReaderState::LargeObjectChunkLength if number == 0 => {
                self.visitor.end_large_object();
                ReaderState::LargeObjectId
            }
            ReaderState::LargeObjectChunkLength => ReaderState::LargeObjectChunk(length(number)?),
            other => other,
        };
        Ok(())
    }

    fn begin(&mut self, dump_id: i64) -> Result<(), ArchiveError> {
        let unknown = || {
            ArchiveError::Malformed(format!(
                "data of an entry {dump_id} that is not in the table of contents"
            ))
        };
        let contents = self.contents.as_ref().ok_or(ArchiveError::NotAnArchive)?;
        let entry =
            self.by_id.get(&dump_id).map(|index| &contents.entries[*index]).ok_or_else(unknown)?;
        if !entry.has_data || !self.seen.insert(dump_id) {
            return Err(ArchiveError::Malformed(format!(
                "data of {} {} twice, or where none belongs",
                entry.kind,
                readable(&entry.tag)
            )));
        }
        self.visitor.begin(entry)
    }

    /// A sign byte and a little-endian number, which may be split between chunks.
    fn integer(&mut self, bytes: &mut &[u8]) -> Result<Option<i64>, ArchiveError> {
        let wanted = self.integer_bytes + 1;
        if self.number.is_empty() && bytes.len() >= wanted {
            let number = parse_integer(&bytes[..wanted]);
            *bytes = &bytes[wanted..];
            return number.map(Some);
        }
        let take = (wanted - self.number.len()).min(bytes.len());
        self.number.extend_from_slice(&bytes[..take]);
        *bytes = &bytes[take..];
        if self.number.len() < wanted {
            return Ok(None);
        }
        let number = parse_integer(&self.number);
        self.number.clear();
        number.map(Some)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`ArchiveError`] if the archive is not whole.
    pub fn finish(mut self) -> Result<(TableOfContents, V), ArchiveError> {
        if self.state == ReaderState::Contents {
            self.try_contents()?;
        }
        let contents = match (self.state, self.contents) {
            (ReaderState::BlockType, Some(contents)) => contents,
            (ReaderState::Contents, _) | (_, None) => {
                return Err(ArchiveError::Truncated("its table of contents"));
            }
            _ => return Err(ArchiveError::Truncated("a data block")),
        };
        let missing: Vec<&TocEntry> = contents
            .entries
            .iter()
            .filter(|e| e.has_data && !self.seen.contains(&e.dump_id))
            .collect();
        if let Some(first) = missing.first() {
            let first = format!("{} {}", first.kind, readable(&first.tag));
            return Err(ArchiveError::DataMissing { count: missing.len(), first });
        }
        Ok((contents, self.visitor))
    }
}

fn parse_integer(bytes: &[u8]) -> Result<i64, ArchiveError> {
    let (sign, digits) = bytes.split_first().ok_or(ArchiveError::NotAnArchive)?;
    let mut wide = [0; 8];
    wide[..digits.len()].copy_from_slice(digits);
    let magnitude = i64::try_from(u64::from_le_bytes(wide))
        .map_err(|_| ArchiveError::Malformed("a number out of range".into()))?;
    match sign {
        0 => Ok(magnitude),
        1 => Ok(-magnitude),
        _ => Err(ArchiveError::Malformed(format!("a sign byte of {sign}"))),
    }
}

enum ReadStop {
    Incomplete,
    Bad(ArchiveError),
}

impl From<ArchiveError> for ReadStop {
    fn from(error: ArchiveError) -> Self {
        Self::Bad(error)
    }
}

struct ByteCursor<'a> {
    bytes: &'a [u8],
    at: usize,
    integer_bytes: usize,
    /// Where the names of tablespaces stand, with their lengths.
    tablespaces: Vec<std::ops::Range<usize>>,
}

impl<'a> ByteCursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ReadStop> {
        let end = self.at.checked_add(count).ok_or(ReadStop::Incomplete)?;
        let taken = self.bytes.get(self.at..end).ok_or(ReadStop::Incomplete)?;
        self.at = end;
        Ok(taken)
    }
    fn byte(&mut self) -> Result<u8, ReadStop> {
        Ok(self.take(1)?[0])
    }
    fn integer(&mut self) -> Result<i64, ReadStop> {
        let count = self.integer_bytes + 1;
        Ok(parse_integer(self.take(count)?)?)
    }
    /// A length and bytes; a negative length is NULL.
    fn text(&mut self) -> Result<Option<&'a [u8]>, ReadStop> {
        match usize::try_from(self.integer()?) {
            Ok(length) if length > CONTENTS_BYTES_MAX => {
                Err(ArchiveError::Malformed(format!("a text of {length} bytes")).into())
            }
            Ok(length) => Ok(Some(self.take(length)?)),
            Err(_) => Ok(None),
        }
    }
    /// An OID, written as text; 0 for none.
    fn oid(&mut self) -> Result<u32, ReadStop> {
        let text = self.text()?.unwrap_or_default();
        Ok(std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
    }
    fn owned(&mut self) -> Result<Vec<u8>, ReadStop> {
        Ok(self.text()?.unwrap_or_default().to_vec())
    }
}

fn parse_contents(cursor: &mut ByteCursor<'_>) -> Result<TableOfContents, ReadStop> {
    let magic = cursor.bytes.len().min(5);
    if cursor.bytes[..magic] != b"PGDMP"[..magic] {
        return Err(ArchiveError::NotAnArchive.into());
    }
    cursor.take(5)?;
    let version = (cursor.byte()?, cursor.byte()?);
    cursor.byte()?;
    if !((1, 14)..=(1, 16)).contains(&version) {
        return Err(ArchiveError::UnknownVersion(version.0, version.1).into());
    }
    cursor.integer_bytes = usize::from(cursor.byte()?);
    let offset_bytes = usize::from(cursor.byte()?);
    if !(1..=8).contains(&cursor.integer_bytes)
        || !(1..=8).contains(&offset_bytes)
        || cursor.byte()? != 1
    {
        return Err(
            ArchiveError::Malformed("its header is not one of the custom format".into()).into()
        );
    }
    let compressed =
        if version >= (1, 15) { i64::from(cursor.byte()?) } else { cursor.integer()? };
    if compressed != 0 {
        return Err(ArchiveError::Compressed.into());
    }
    for _ in 0..7 {
        cursor.integer()?; // the time of the dump, field by field
    }
    let database = cursor.owned()?;
    cursor.text()?; // the server's version
    cursor.text()?; // pg_dump's version
    let count = cursor.integer()?;
    if !(0..=ENTRIES_MAX).contains(&count) {
        return Err(ArchiveError::Malformed(format!("{count} entries")).into());
    }
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(parse_entry(cursor, version, offset_bytes)?);
    }
    Ok(TableOfContents { version, database, entries, raw: Arc::default() })
}

fn parse_entry(
    cursor: &mut ByteCursor<'_>,
    version: (u8, u8),
    offset_bytes: usize,
) -> Result<TocEntry, ReadStop> {
    let mut entry = TocEntry {
        dump_id: cursor.integer()?,
        has_data: cursor.integer()? != 0,
        ..TocEntry::default()
    };
    entry.object = (cursor.oid()?, cursor.oid()?);
    entry.tag = cursor.owned()?;
    entry.kind = readable(&cursor.owned()?);
    cursor.integer()?; // section
    entry.definition = cursor.owned()?;
    cursor.text()?; // DROP statement
    entry.copy = cursor.owned()?;
    entry.schema = cursor.owned()?;
    let begins = cursor.at;
    entry.tablespace = cursor.owned()?;
    cursor.tablespaces.push(begins..cursor.at);
    cursor.text()?; // table access method
    if version >= (1, 16) {
        cursor.integer()?; // relation kind
    }
    entry.owner = cursor.owned()?;
    cursor.text()?; // WITH OIDS
    while let Some(dependency) = cursor.text()? {
        let number = std::str::from_utf8(dependency).ok().and_then(|text| text.parse().ok());
        entry.dependencies.push(
            number.ok_or_else(|| {
                ArchiveError::Malformed("a dependency that is not a number".into())
            })?,
        );
    }
    cursor.byte()?; // state of the offset
    cursor.take(offset_bytes)?;
    Ok(entry)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

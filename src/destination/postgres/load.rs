//! Loading archives: schema, rows, indexes and constraints.
//!
//! `pg_restore -j` needs a file, and no file of ours may hold rows. So header and table of contents
//! of `main`, which hold the schema and no rows, stand in a file in memory; from it the pre-data
//! and the post-data section are restored, the latter in parallel. The rows stream through a pipe
//! in between, and [`super::eager_indexes`] is told of each table that is loaded.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::database::is_about_database;
use super::script::RunningRestore;
use super::selection::ArchiveSelection;
use super::{LoadError, TargetError};
use crate::pg::archive::{
    ArchiveError, ArchiveReader, ArchiveVisitor, TableOfContents, TocEntry, readable,
};
use crate::pg::children::command;
use crate::pg::{PgConnection, PgSession, PgTool, PgTools, PinSelection, SessionError};
use crate::progress::ProgressStage;
use crate::seal::OpenedPayload;

/// Bytes handed to `pg_restore` at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// How far `pg_restore` may be behind what was written to it: the pipe's size and its own buffers.
const BEHIND_BYTES_MAX: u64 = 2 * CHUNK_BYTES as u64;
/// How long a full pipe is left alone; a server that loads 500 MB/s just empties it in this time.
const PIPE_REST: std::time::Duration = std::time::Duration::from_millis(2);

/// Schema and name of a table.
pub type TableName = (Vec<u8>, Vec<u8>);
/// Takes the tables whose rows are in the database.
pub type LoadObserver = UnboundedSender<TableName>;

/// Looks at nothing but the structure, and at which entry's data is passing.
#[derive(Debug, Default)]
pub struct StructureReader {
    entry: Option<TableName>,
    ended: Vec<TableName>,
}

impl ArchiveVisitor for StructureReader {
    fn contents(&mut self, _: &TableOfContents) -> Result<(), ArchiveError> {
        Ok(())
    }
    fn begin(&mut self, entry: &TocEntry) -> Result<(), ArchiveError> {
        self.entry = Some((entry.schema.clone(), entry.tag.clone()));
        Ok(())
    }
    fn data(&mut self, _: &[u8]) {}
    fn begin_large_object(&mut self, _: u32) {}
    fn end_large_object(&mut self) {}
    fn end(&mut self) -> Result<(), ArchiveError> {
        self.ended.extend(self.entry.clone());
        Ok(())
    }
}

/// An archive whose table of contents has been read and whose rows are still to come.
pub struct OpenedArchive {
    /// Header and table of contents.
    pub contents: TableOfContents,
    opened: OpenedPayload,
    reader: ArchiveReader<StructureReader>,
    /// What was read along with the table of contents, and is to be replayed.
    read: Vec<u8>,
}

impl OpenedArchive {
    /// Reads up to the end of the table of contents.
    ///
    /// # Errors
    /// [`LoadError`] if the payload is damaged or is no archive.
    pub async fn begin(mut opened: OpenedPayload) -> Result<Self, LoadError> {
        let begin = move || {
            let mut reader = ArchiveReader::new(StructureReader::default());
            let mut read = Vec::new();
            let mut chunk = vec![0; CHUNK_BYTES];
            loop {
                let count = opened.read(&mut chunk)?;
                if count == 0 {
                    let (contents, _) = reader.finish()?;
                    return Ok(Self {
                        contents,
                        opened,
                        reader: ArchiveReader::new(StructureReader::default()),
                        read,
                    });
                }
                reader.feed(&chunk[..count])?;
                read.extend_from_slice(&chunk[..count]);
                if let Some(contents) = reader.contents() {
                    return Ok(Self { contents: contents.clone(), opened, reader, read });
                }
            }
        };
        tokio::task::spawn_blocking(begin).await.map_err(|_| LoadError::ThreadDied)?
    }
}

/// Where to load, and with what.
#[derive(Clone)]
pub struct ArchiveLoader {
    /// Client programs at least as new as the archive.
    pub tools: PgTools,
    /// The target database.
    pub connection: PgConnection,
    /// Parallel jobs of the sections that allow it.
    pub jobs: usize,
    /// Tablespaces of the backup that the target does not have: what was in them goes to the
    /// database's own.
    pub tablespaces_left_out: Vec<String>,
    /// What is left out, and whether it goes on after errors.
    pub leave: LoadOptions,
    /// Ctrl-C.
    pub cancel: CancellationToken,
    /// Settings of the sessions that load.
    pub settings: Vec<(String, String)>,
    /// Tables whose rows stay in the backup: schema and name.
    pub without_rows_of: Vec<(String, String)>,
    /// What is restored, if not everything.
    pub selection: Option<ArchiveSelection>,
    /// Whether the server is one that `pg_restore` cannot talk to itself ([`super::script`]).
    pub as_script: bool,
}

/// What is not restored of an archive, and what is done about errors.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Objects belong to whoever restores.
    pub owners: bool,
    /// Numbers of entries of `main`.
    pub entries: BTreeSet<i64>,
    /// Tables whose rows are not loaded, from whichever archive.
    pub rows: BTreeSet<TableName>,
    /// Sequences that are not set, likewise.
    pub sequences: BTreeSet<TableName>,
    /// Errors are collected and the rest is restored.
    pub keep_going: bool,
}

/// Kinds of entries that come after everything else: privileges may take something away that is
/// needed before, such as the right to run a function that an index is built with.
const PRIVILEGES: [&str; 3] = ["ACL", "ACL LANGUAGE", "DEFAULT ACL"];
/// Kinds that come after the privileges, because they need them, or would interfere.
const AFTER_PRIVILEGES: [&str; 2] = ["MATERIALIZED VIEW DATA", "EVENT TRIGGER"];

fn is_privilege(entry: &TocEntry) -> bool {
    PRIVILEGES.contains(&entry.kind.as_str())
}

/// Whether an entry comes when all others are made.
fn comes_last(entry: &TocEntry) -> bool {
    is_privilege(entry) || AFTER_PRIVILEGES.contains(&entry.kind.as_str())
}

/// Comments and security labels of indexes, constraints and whatever else the post-data section
/// makes. `pg_restore` takes such an entry for one of the section of the entry listed before it, so
/// it loses those whose object was made ahead or by an earlier run. They are said by statements of
/// ours, last.
pub fn said_of_post_data(contents: &TableOfContents) -> impl Iterator<Item = &TocEntry> {
    const KINDS: [&str; 9] = [
        "INDEX",
        "CONSTRAINT",
        "FK CONSTRAINT",
        "CHECK CONSTRAINT",
        "TRIGGER",
        "RULE",
        "POLICY",
        "STATISTICS",
        "EVENT TRIGGER",
    ];
    let made: HashSet<i64> = contents
        .entries
        .iter()
        .filter(|entry| KINDS.contains(&entry.kind.as_str()))
        .map(|entry| entry.dump_id)
        .collect();
    contents
        .entries
        .iter()
        .filter(|entry| matches!(entry.kind.as_str(), "COMMENT" | "SECURITY LABEL"))
        .filter(move |entry| entry.dependencies.iter().any(|id| made.contains(id)))
}

impl ArchiveLoader {
    /// Whether an entry of `main` is restored at all.
    #[must_use]
    pub fn wants(&self, entry: &TocEntry) -> bool {
        !self.leave.entries.contains(&entry.dump_id)
            && self.selection.as_ref().is_none_or(|selection| selection.holds(entry.dump_id))
    }

    /// Header and table of contents, for the tablespaces that are there.
    fn raw(&self, contents: &TableOfContents) -> Result<Arc<Vec<u8>>, LoadError> {
        match self.tablespaces_left_out.is_empty() {
            true => Ok(Arc::clone(&contents.raw)),
            false => Ok(Arc::new(contents.without_tablespaces(&self.tablespaces_left_out)?)),
        }
    }

    /// The child of one section, with the pinned settings: what was written under them is
    /// understood under them. Those of the restore plan come before.
    async fn pg_restore(
        &self,
        section: &'static str,
    ) -> Result<tokio::process::Command, TargetError> {
        let mut pg_restore = self.pg_restore_of_all(section).await?;
        pg_restore.arg(format!("--section={section}"));
        Ok(pg_restore)
    }

    async fn pg_restore_of_all(
        &self,
        section: &'static str,
    ) -> Result<tokio::process::Command, TargetError> {
        let failed = |source: SessionError| TargetError::Load { section, source: source.into() };
        PgSession::probe(&self.tools, &self.connection).await.map_err(failed)?;
        let mut pg_restore = command(&self.tools, PgTool::PgRestore, &self.connection);
        pg_restore.args(["--format=custom", "--no-password"]);
        if self.leave.owners {
            pg_restore.arg("--no-owner");
        }
        Ok(pg_restore)
    }

    fn start(&self, pg_restore: tokio::process::Command) -> Result<RunningRestore, LoadError> {
        let target = self
            .connection
            .pinned(PinSelection { loads: true, ..self.connection.pins() }, &self.settings);
        RunningRestore::start(
            pg_restore,
            &self.tools,
            &self.connection,
            &target,
            self.as_script,
            self.leave.keep_going,
        )
    }

    /// Restores the pre-data section from the table of contents alone.
    ///
    /// # Errors
    /// [`TargetError::Load`]
    pub async fn pre_data(&self, contents: &TableOfContents) -> Result<Vec<String>, TargetError> {
        // Its statements depend on each other nearly one by one; there is nothing to do in
        // parallel.
        let section = "pre-data";
        let mut pg_restore = self.pg_restore(section).await?;
        let chosen =
            contents.entries.iter().filter(|entry| self.wants(entry) && !is_privilege(entry));
        let list = list_of(chosen.map(|entry| entry.dump_id))
            .map_err(|source| TargetError::Load { section, source: LoadError::Memory(source) })?;
        pg_restore.arg(format!("--use-list=/dev/fd/{}", list.as_raw_fd()));
        self.schema(contents, section, pg_restore).await
    }

    /// Gives privileges, and makes what may only come after them.
    ///
    /// # Errors
    /// [`TargetError::Load`]
    pub async fn privileges(
        &self,
        contents: &TableOfContents,
        made: &HashSet<i64>,
    ) -> Result<Vec<String>, TargetError> {
        let section = "privileges";
        let chosen: Vec<i64> = contents
            .entries
            .iter()
            .filter(|entry| {
                comes_last(entry)
                    && self.wants(entry)
                    && !made.contains(&entry.dump_id)
                    && !is_about_database(entry)
            })
            .map(|entry| entry.dump_id)
            .collect();
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let list = list_of(chosen.into_iter())
            .map_err(|source| TargetError::Load { section, source: LoadError::Memory(source) })?;
        let mut pg_restore = self.pg_restore_of_all(section).await?;
        pg_restore.arg(format!("--use-list=/dev/fd/{}", list.as_raw_fd()));
        self.schema(contents, section, pg_restore).await
    }

    /// Restores entries of the post-data section, given by their numbers, from the table of
    /// contents alone.
    ///
    /// # Errors
    /// [`TargetError::Load`]
    pub async fn post_data(
        &self,
        contents: &TableOfContents,
        entries: &[i64],
        jobs: usize,
    ) -> Result<Vec<String>, TargetError> {
        let section = "post-data";
        let failed = |source| TargetError::Load { section, source: LoadError::Memory(source) };
        let later: HashSet<i64> = contents
            .entries
            .iter()
            .filter(|entry| comes_last(entry) || !self.wants(entry))
            .chain(said_of_post_data(contents))
            .map(|entry| entry.dump_id)
            .collect();
        let list =
            list_of(entries.iter().copied().filter(|id| !later.contains(id))).map_err(failed)?;
        let mut pg_restore = self.pg_restore(section).await?;
        pg_restore.arg(format!("--use-list=/dev/fd/{}", list.as_raw_fd()));
        // A script is one session.
        if jobs > 1 && !self.as_script {
            pg_restore.arg(format!("--jobs={jobs}"));
        }
        self.schema(contents, section, pg_restore).await
    }

    async fn schema(
        &self,
        contents: &TableOfContents,
        section: &'static str,
        mut pg_restore: tokio::process::Command,
    ) -> Result<Vec<String>, TargetError> {
        let failed = |source| TargetError::Load { section, source };
        let raw = self.raw(contents).map_err(failed)?;
        let file = in_memory(&raw, MemfdFlags::CLOEXEC)
            .map_err(|source| failed(LoadError::Memory(source)))?;
        pg_restore.arg("/dev/stdin").stdin(Stdio::from(file));
        let running = self.start(pg_restore).map_err(failed)?;
        tokio::select! {
            () = self.cancel.cancelled() => Err(failed(LoadError::Interrupted)),
            ended = running.finish() => ended.map_err(failed),
        }
    }

    /// Whether an entry's data is loaded. Archives of rows alone have other numbers than `main`, so
    /// tables are told by their names.
    #[must_use]
    pub fn loads(&self, entry: &TocEntry) -> bool {
        let is = |(schema, name): &(String, String)| {
            entry.schema == schema.as_bytes() && entry.tag == name.as_bytes()
        };
        match (entry.kind.as_str(), &self.selection) {
            ("TABLE DATA", _)
                if self.leave.rows.contains(&(entry.schema.clone(), entry.tag.clone())) =>
            {
                false
            }
            ("SEQUENCE SET", _)
                if self.leave.sequences.contains(&(entry.schema.clone(), entry.tag.clone())) =>
            {
                false
            }
            ("TABLE DATA", None) => !self.without_rows_of.iter().any(is),
            ("TABLE DATA", Some(selection)) => {
                selection.has_rows_of(entry) && !self.without_rows_of.iter().any(is)
            }
            ("SEQUENCE SET", Some(selection)) => selection.holds_sequence(entry),
            (_, None) => true,
            (_, Some(_)) => false,
        }
    }

    /// Streams the rows of one archive, telling each table that is loaded. The archive's structure
    /// is checked on the way, and its end before success.
    ///
    /// # Errors
    /// [`TargetError::Load`]
    pub async fn rows(
        &self,
        archive: OpenedArchive,
        stage: Arc<ProgressStage>,
        loaded: LoadObserver,
    ) -> Result<Vec<String>, TargetError> {
        let failed = |source| TargetError::Load { section: "data", source };
        let mut pg_restore = self.pg_restore("data").await?;
        let mut list = None;
        if archive.contents.entries.iter().any(|entry| !self.loads(entry)) {
            let kept = archive
                .contents
                .entries
                .iter()
                .filter(|entry| self.loads(entry))
                .map(|entry| entry.dump_id);
            let file =
                list.insert(list_of(kept).map_err(|source| failed(LoadError::Memory(source)))?);
            pg_restore.arg(format!("--use-list=/dev/fd/{}", file.as_raw_fd()));
        }
        pg_restore.stdin(Stdio::piped());
        let mut running = self.start(pg_restore).map_err(failed)?;
        // With a list pg_restore leaves when it has what it wants, and the rest is read all the
        // same: damage there is damage.
        let partial = list.take().is_some();
        let pipe = running.child().stdin.take().and_then(|stdin| stdin.into_owned_fd().ok());
        let pipe = pipe.ok_or_else(|| failed(LoadError::ThreadDied))?;
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, CHUNK_BYTES);
        rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK)
            .map_err(|error| failed(LoadError::Memory(error.into())))?;
        let cancel = self.cancel.clone();
        let feeding = tokio::task::spawn_blocking(move || {
            feed(archive, PipeWriter(File::from(pipe)), partial, &stage, &loaded, &cancel)
        });
        let (fed, ended) = tokio::join!(feeding, running.finish());
        match (fed.map_err(|_| failed(LoadError::ThreadDied))?, ended) {
            // The payload's damage is the cause even where pg_restore also failed for it.
            (Err(error), _) => Err(failed(error)),
            (Ok(FeedOutcome::Refused), Ok(_)) => {
                Err(failed(LoadError::Archive(ArchiveError::Malformed(
                    "pg_restore stopped reading before the archive's end".into(),
                ))))
            }
            (Ok(_), Err(error)) => Err(failed(error)),
            (Ok(FeedOutcome::Whole), Ok(refused)) => Ok(refused),
        }
    }
}

/// The write end of a child's standard input.
///
/// `pg_restore` reads 4 KiB at a time, and a writer that waits for room is woken by each read. So
/// the pipe does not block: when it is full it is left alone for a moment, in which the child reads
/// on.
struct PipeWriter(File);

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(PIPE_REST)
                }
                other => return other,
            }
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum FeedOutcome {
    Whole,
    /// `pg_restore` closed its end; its exit status says why.
    Refused,
}

fn feed(
    mut archive: OpenedArchive,
    mut pipe: PipeWriter,
    partial: bool,
    stage: &ProgressStage,
    loaded: &LoadObserver,
    cancel: &CancellationToken,
) -> Result<FeedOutcome, LoadError> {
    let replay = std::mem::take(&mut archive.read);
    let mut listening = pipe.write_all(&replay).is_ok();
    let mut fed = replay.len() as u64;
    let mut passed: VecDeque<(u64, TableName)> = VecDeque::new();
    stage.add(fed);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut reader = archive.reader;
    if reader.contents().is_none() {
        // The whole archive was read with its table of contents, and found whole.
        return Ok(FeedOutcome::Whole);
    }
    loop {
        if cancel.is_cancelled() {
            return Err(LoadError::Interrupted);
        }
        let count = archive.opened.read(&mut chunk)?;
        if count == 0 {
            reader.finish()?;
            return Ok(FeedOutcome::Whole);
        }
        reader.feed(&chunk[..count])?;
        stage.add(count as u64);
        stage.item(
            reader
                .visitor()
                .entry
                .as_ref()
                .map(|(schema, name)| format!("{}.{}", readable(schema), readable(name))),
        );
        fed += count as u64;
        passed.extend(reader.visitor_mut().ended.drain(..).map(|table| (fed, table)));
        while let Some((_, table)) = passed.pop_front_if(|(at, _)| *at + BEHIND_BYTES_MAX <= fed) {
            let _ = loaded.send(table);
        }
        listening = listening && pipe.write_all(&chunk[..count]).is_ok();
        if !listening && !partial {
            // Reading on would tell whether the payload is whole, but pg_restore has failed
            // already.
            return Ok(FeedOutcome::Refused);
        }
    }
}

/// A list for `pg_restore --use-list`, inherited by its number: it may run where it sees no file of
/// ours. Other children started meanwhile inherit it too, which tells them a few numbers.
fn list_of(entries: impl Iterator<Item = i64>) -> std::io::Result<File> {
    in_memory(
        entries.map(|entry| format!("{entry};\n")).collect::<String>().as_bytes(),
        MemfdFlags::empty(),
    )
}

/// A file that exists in memory only, holding the schema and no rows.
fn in_memory(bytes: &[u8], flags: MemfdFlags) -> std::io::Result<File> {
    let fd = rustix::fs::memfd_create("lifeboat-contents", flags)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

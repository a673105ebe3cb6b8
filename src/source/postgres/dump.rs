//! The children that read in the snapshot, and the proof that together they read everything once.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::snapshot::{ExportedSnapshot, SourceTable};
use super::{SourceError, omitted};
use crate::domain::fingerprint::OmittedObject;
use crate::domain::human_duration::HumanDuration;
use crate::pg::archive::readable;
use crate::pg::children::{RunningChild, command};
use crate::pg::connection::quote_value;
use crate::pg::globals::{self, without_restrict};
use crate::pg::rows::ArchiveTally;
use crate::pg::sql::quote_bytes;
use crate::pg::{PgConnection, PgSession, PgTool, PgTools};
use crate::seal::SourceEnd;
use crate::seal::seal_stream::StreamObserver;

/// How often globals that change while we look make us look again.
const GLOBALS_ATTEMPTS_MAX: u32 = 3;
/// Globals are small; a server that sends more than this is not one.
const GLOBALS_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes the kernel may buffer between `pg_dump` and us; the default of 64 KiB makes both sides
/// wait for each other.
const PIPE_BYTES: usize = 1024 * 1024;
/// How long the pipe is left alone; at a gigabyte a second it just fills in this time.
const PIPE_REST: std::time::Duration = std::time::Duration::from_millis(1);

/// Which tables each payload holds. Completeness is by construction: `main` takes everything but
/// what is named elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadSplit {
    /// Tables of each `data-NNN` payload.
    pub data: Vec<Vec<SourceTable>>,
}

impl PayloadSplit {
    /// Gives the largest tables to `jobs - 1` data payloads, each to the one with the least so far;
    /// `main` counts as one.
    #[must_use]
    pub fn new(tables: &[SourceTable], jobs: usize) -> Self {
        let mut largest: Vec<&SourceTable> =
            tables.iter().filter(|t| t.has_rows && !t.of_extension).collect();
        largest.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.cmp(b)));
        let jobs = jobs.min(largest.len().max(1));
        let mut loads = vec![0u64; jobs];
        let mut data = vec![Vec::new(); jobs.saturating_sub(1)];
        // Small tables stay in main: a long list of names on a command line buys nothing.
        for table in largest.into_iter().take(jobs * 16) {
            let lightest = (0..jobs).min_by_key(|job| (loads[*job], *job)).unwrap_or_default();
            loads[lightest] = loads[lightest].saturating_add(table.bytes);
            if lightest > 0 {
                data[lightest - 1].push(table.clone());
            }
        }
        data.retain(|tables| !tables.is_empty());
        Self { data }
    }
}

/// A child whose output is read by a thread and whose end is proved to the sealer.
pub struct DumpStream {
    /// What it writes.
    pub output: PipeReader,
    /// Resolves to the child's end, and to what it warned of.
    pub end: tokio::task::JoinHandle<Result<(SourceEnd, Vec<OmittedObject>), SourceError>>,
}

impl DumpStream {
    /// Reads it to its end past `tap`, then waits for the child: nothing that was found counts
    /// unless that exited 0.
    ///
    /// # Errors
    /// [`SourceError::Child`] in the child's own words if it failed; [`SourceError::Incomplete`] if
    /// `tap` refuses what came, or `cancel` was called.
    pub async fn read<T: StreamObserver>(
        self,
        mut tap: T,
        cancel: &CancellationToken,
    ) -> Result<T::Found, SourceError> {
        let Self { mut output, end } = self;
        let cancel = cancel.clone();
        let reading = tokio::task::spawn_blocking(move || -> Result<_, String> {
            let mut chunk = vec![0; PIPE_BYTES];
            loop {
                if cancel.is_cancelled() {
                    return Err("interrupted".to_owned());
                }
                match output.read(&mut chunk).map_err(|e| e.to_string())? {
                    0 => return tap.done(),
                    count => tap.observe(&chunk[..count])?,
                }
            }
        });
        let found = reading.await.unwrap_or_else(|_| Err("the reading thread died".to_owned()));
        // A child that failed knows why its output is not whole.
        end.await.map_err(|_| {
            SourceError::Incomplete("the task that waits for pg_dump died".to_owned())
        })??;
        found.map_err(SourceError::Incomplete)
    }
}

/// The read end of a child's standard output.
///
/// `pg_dump` writes 4 KiB at a time, and a reader that waits is woken by each write: on a busy
/// machine a good part of the time goes into that. So after a short read the pipe is left alone for
/// a moment, in which the child goes on writing.
pub struct PipeReader {
    pipe: std::fs::File,
    was_short: bool,
}

impl Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.was_short {
            std::thread::sleep(PIPE_REST);
        }
        loop {
            match self.pipe.read(into) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(count) => {
                    self.was_short = count > 0 && count < into.len().min(PIPE_BYTES / 4);
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// An option with a table's name as its pattern; everything within double quotes is literal there.
fn option(name: &str, table: &SourceTable) -> OsString {
    OsString::from_vec(
        [
            name.as_bytes(),
            b"=",
            quote_bytes(&table.schema).as_slice(),
            b".",
            &quote_bytes(&table.name),
        ]
        .concat(),
    )
}

/// Starts the `pg_dump` of `main`.
///
/// # Errors
/// [`SourceError::Child`] if it cannot be started.
pub async fn main(
    tools: &PgTools,
    connection: &PgConnection,
    snapshot: &ExportedSnapshot,
    split: &PayloadSplit,
    lock_wait: HumanDuration,
) -> Result<DumpStream, SourceError> {
    let excluded = split.data.iter().flatten().map(|table| option("--exclude-table-data", table));
    start(tools, connection, snapshot, lock_wait, excluded).await
}

/// Starts the `pg_dump` of `main` without any rows: what `check` reads to learn whether a backup
/// could be taken.
///
/// # Errors
/// [`SourceError::Child`] if it cannot be started.
pub async fn schema(
    tools: &PgTools,
    connection: &PgConnection,
    snapshot: &ExportedSnapshot,
    lock_wait: HumanDuration,
) -> Result<DumpStream, SourceError> {
    start(tools, connection, snapshot, lock_wait, ["--schema-only".into()].into_iter()).await
}

/// Starts the `pg_dump` of one data payload.
///
/// # Errors
/// [`SourceError::Child`] if it cannot be started.
pub async fn data(
    tools: &PgTools,
    connection: &PgConnection,
    snapshot: &ExportedSnapshot,
    tables: &[SourceTable],
    lock_wait: HumanDuration,
) -> Result<DumpStream, SourceError> {
    let wanted = tables.iter().map(|table| option("--table", table));
    start(
        tools,
        connection,
        snapshot,
        lock_wait,
        ["--data-only".into(), "--strict-names".into()].into_iter().chain(wanted),
    )
    .await
}

/// Starts a whole `pg_dump` without a snapshot of ours, as a comparison needs it.
///
/// # Errors
/// [`SourceError::Child`] if it cannot be started.
pub async fn whole(tools: &PgTools, connection: &PgConnection) -> Result<DumpStream, SourceError> {
    spawn(tools, connection, Vec::new()).await
}

/// Starts a `pg_dump` of one table.
///
/// # Errors
/// [`SourceError::Child`] if it cannot be started.
pub async fn one_table(
    tools: &PgTools,
    connection: &PgConnection,
    schema: &str,
    table: &str,
) -> Result<DumpStream, SourceError> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    spawn(tools, connection, vec![format!("--table={}.{}", quoted(schema), quoted(table)).into()])
        .await
}

async fn start(
    tools: &PgTools,
    connection: &PgConnection,
    snapshot: &ExportedSnapshot,
    lock_wait: HumanDuration,
    more: impl Iterator<Item = OsString>,
) -> Result<DumpStream, SourceError> {
    let wait = format!("--lock-wait-timeout={}", lock_wait.duration().as_millis().max(1));
    let mut arguments: Vec<OsString> =
        vec![format!("--snapshot={}", snapshot.name).into(), wait.into()];
    arguments.extend(more);
    spawn(tools, connection, arguments).await
}

async fn spawn(
    tools: &PgTools,
    connection: &PgConnection,
    arguments: Vec<OsString>,
) -> Result<DumpStream, SourceError> {
    let mut pg_dump = command(tools, PgTool::PgDump, connection);
    pg_dump.args(["--format=custom", "--compress=0", "--no-password"]).args(arguments);
    let encoding = PgSession::probe(tools, connection).await?;
    pg_dump.arg(format!("--dbname={}", connection.pinned(connection.pins(), &encoding)));
    pg_dump.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = RunningChild::start(pg_dump, PgTool::PgDump)?;
    let pipe =
        |source| crate::pg::children::ChildError::Pipe { program: "pg_dump".to_owned(), source };
    let stdout = running.child().stdout.take().ok_or_else(|| pipe(ErrorKind::BrokenPipe.into()))?;
    let fd = stdout.into_owned_fd().map_err(pipe)?;
    // A smaller pipe is only slower.
    let _ = rustix::pipe::fcntl_setpipe_size(&fd, PIPE_BYTES);
    let end = tokio::spawn(async move {
        let (status, said) = running.finish().await?;
        let end = SourceEnd::of_child(status)
            .ok_or_else(|| SourceError::Incomplete("pg_dump did not exit with 0".to_owned()))?;
        Ok((end, omitted::warned(&said)))
    });
    Ok(DumpStream { output: PipeReader { pipe: std::fs::File::from(fd), was_short: false }, end })
}

/// Reads the globals once.
///
/// # Errors
/// [`SourceError`] if `pg_dumpall` fails or writes what does not belong into globals.
pub async fn globals_once(
    tools: &PgTools,
    connection: &PgConnection,
    database: &str,
    role_passwords: bool,
) -> Result<Vec<u8>, SourceError> {
    let mut pg_dumpall = command(tools, PgTool::PgDumpall, connection);
    pg_dumpall.args(["--globals-only", "--no-password"]);
    // As a connection string: a bare name that holds a `=` or begins like a URI would be taken for
    // one, and lead to another server.
    pg_dumpall.arg(format!("--database=dbname={}", quote_value(database)));
    // Shared catalogs hold names in whatever encoding the database had that they were made from.
    // They are read as bytes, whatever database they are read through, and taken for texts of
    // the maintenance database, as stock tools do.
    let mut session = PgSession::open(tools, connection).await?;
    let question = "SELECT pg_catalog.pg_encoding_to_char(encoding) FROM pg_catalog.pg_database WHERE datname IN ('postgres', pg_catalog.current_database()) ORDER BY datname = 'postgres' DESC LIMIT 1";
    let written_in = session.ask_one("the encoding of the maintenance database", question).await?;
    drop(session);
    let encoding = [("client_encoding".to_owned(), "SQL_ASCII".to_owned())];
    pg_dumpall.arg(format!("--dbname={}", connection.pinned(connection.pins(), &encoding)));
    if !role_passwords {
        pg_dumpall.arg("--no-role-passwords");
    }
    pg_dumpall.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = RunningChild::start(pg_dumpall, PgTool::PgDumpall)?;
    let mut script = Vec::new();
    if let Some(stdout) = running.child().stdout.take() {
        let pipe = |source| crate::pg::children::ChildError::Pipe {
            program: "pg_dumpall".to_owned(),
            source,
        };
        stdout.take(GLOBALS_BYTES_MAX).read_to_end(&mut script).await.map_err(pipe)?;
    }
    running.finish().await?;
    let script = globals::written_in(&without_restrict(&script), &written_in);
    globals::parse(&script)?;
    Ok(script)
}

/// Reads the globals again until they equal what was read before `main` began.
///
/// # Errors
/// [`SourceError::RestlessGlobals`] if they change every time.
pub async fn globals_settled(
    tools: &PgTools,
    connection: &PgConnection,
    database: &str,
    role_passwords: bool,
    mut before: Vec<u8>,
) -> Result<Vec<u8>, SourceError> {
    for _ in 0..GLOBALS_ATTEMPTS_MAX {
        let after = globals_once(tools, connection, database, role_passwords).await?;
        if after == before {
            return Ok(after);
        }
        before = after;
    }
    Err(SourceError::RestlessGlobals { attempts: GLOBALS_ATTEMPTS_MAX })
}

/// Proof that the parsed archives hold the data of every table exactly once.
///
/// # Errors
/// [`SourceError::Incomplete`] naming the first table that is missing, twice or unexpected.
pub fn complete<'a>(
    snapshot: &ExportedSnapshot,
    tallies: impl IntoIterator<Item = &'a ArchiveTally>,
) -> Result<(), SourceError> {
    let mut seen = BTreeSet::new();
    for table in tallies.into_iter().flat_map(|tally| &tally.tables) {
        if !seen.insert((table.schema.clone(), table.table.clone())) {
            return Err(SourceError::Incomplete(format!(
                "the data of {}.{} is there twice",
                table.schema, table.table
            )));
        }
    }
    for table in snapshot.tables.iter().filter(|t| t.has_rows) {
        let (schema, name) = (readable(&table.schema), readable(&table.name));
        let found = seen.remove(&(schema.clone(), name.clone()));
        if !found && !table.of_extension {
            return Err(SourceError::Incomplete(format!("the data of {schema}.{name} is missing")));
        }
    }
    // What is left is not in our list: materialized views and foreign tables have no data of their
    // own in a dump.
    match seen.first() {
        Some((schema, table)) => Err(SourceError::Incomplete(format!(
            "{schema}.{table} appeared after the tables were locked"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, bytes: u64) -> SourceTable {
        SourceTable {
            schema: b"public".to_vec(),
            name: name.into(),
            oid: 1,
            has_rows: true,
            of_extension: false,
            bytes,
        }
    }

    #[test]
    fn one_job_means_main_alone_and_more_share_the_weight() {
        let tables: Vec<SourceTable> = (1..=10).map(|n| table(&format!("t{n}"), n * 100)).collect();
        assert!(PayloadSplit::new(&tables, 1).data.is_empty());
        let split = PayloadSplit::new(&tables, 3);
        assert_eq!(split.data.len(), 2);
        let weights: Vec<u64> =
            split.data.iter().map(|ts| ts.iter().map(|t| t.bytes).sum()).collect();
        assert!(weights.iter().all(|w| (1500..2200).contains(w)), "{weights:?}");
        assert!(PayloadSplit::new(&[], 4).data.is_empty());
    }
}

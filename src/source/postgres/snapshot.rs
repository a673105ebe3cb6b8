//! The snapshot: every table locked, then exported, then compared with what was locked.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::SourceError;
use super::definitions::{self, DefinitionHashes};
use super::{extensions, omitted, watch};
use crate::domain::fingerprint::{ExtensionFacts, OmittedObject};
use crate::domain::human_duration::HumanDuration;
use crate::domain::manifest::{SourceFacts, plain_version};
use crate::pg::session::{Row, estimate};
use crate::pg::sql::quote_bytes;
use crate::pg::{PgConnection, PgSession, PgTools, SessionError};

/// How often tables that come and go make us start over.
const ATTEMPTS_MAX: u32 = 5;
/// Tables named in one LOCK statement.
const LOCK_BATCH: usize = 500;

/// A table that holds rows of its own or is the parent of such.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceTable {
    /// Schema, in the database's encoding.
    pub schema: Vec<u8>,
    /// Name, in the database's encoding.
    pub name: Vec<u8>,
    /// OID, to notice one that was dropped and made again.
    pub oid: u32,
    /// Whether it has rows of its own (an ordinary table).
    pub has_rows: bool,
    /// Whether an extension owns it; the extension decides whether its rows are dumped.
    pub of_extension: bool,
    /// Size on disk as of the last VACUUM or ANALYZE, TOAST included, in bytes. Only weighs tables
    /// against each other.
    pub bytes: u64,
}

/// A session that holds every table's lock and the exported snapshot until it is dropped.
pub struct ExportedSnapshot {
    session: PgSession,
    /// Name under which children import it.
    pub name: String,
    /// The tables it shows.
    pub tables: Vec<SourceTable>,
    /// Facts for the manifest.
    pub facts: SourceFacts,
    /// Name of the database.
    pub database: String,
    /// What every object was in it.
    pub definitions: DefinitionHashes,
    /// The extensions.
    pub extensions: Vec<ExtensionFacts>,
    /// What the catalogs tell that `pg_dump` leaves out.
    pub omitted: Vec<OmittedObject>,
    /// Major version of the server.
    pub major: u32,
}

/// What is asked of the server before anything else.
#[derive(Debug, Clone)]
pub struct SourceServer {
    /// `server_version`.
    pub version: String,
    /// `server_version_num`.
    pub version_num: u32,
    /// Name of the database.
    pub database: String,
}

impl SourceServer {
    /// Major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }
}

/// Asks which server this is. Any `psql` can ask, so this comes before the right programs are
/// chosen.
///
/// # Errors
/// [`SessionError`]
pub async fn server(session: &mut PgSession) -> Result<SourceServer, SessionError> {
    let rows = session
        .ask("its version", "SELECT pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num'), pg_catalog.current_database()", 3)
        .await?;
    let shape = || SessionError::Shape { what: "its version".to_owned() };
    match rows.into_iter().next().ok_or_else(shape)?.as_slice() {
        [Some(version), Some(number), Some(database)] => Ok(SourceServer {
            version: version.clone(),
            version_num: number.parse().map_err(|_| shape())?,
            database: database.clone(),
        }),
        _ => Err(shape()),
    }
}

/// Sizes come from `relpages`, as of the last VACUUM or ANALYZE: `pg_table_size` would lock every
/// table, and wait for it. No arithmetic here: what overflows there is an error, and no size is
/// worth one. Names come as hexadecimal digits: a database need not be UTF-8, and an SQL_ASCII one
/// need not be anything.
const LIST: &str = "SELECT pg_catalog.encode(pg_catalog.convert_to(n.nspname::pg_catalog.text, pg_catalog.getdatabaseencoding()), 'hex'), \
    pg_catalog.encode(pg_catalog.convert_to(c.relname::pg_catalog.text, pg_catalog.getdatabaseencoding()), 'hex'), c.oid, \
    c.relkind = 'r' AND NOT (c.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery()), \
    EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e'), \
    c.relpages, t.relpages, pg_catalog.current_setting('block_size') \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid \
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' \
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
    ORDER BY n.nspname, c.relname";

async fn list(session: &mut PgSession) -> Result<Vec<SourceTable>, SessionError> {
    let rows = session.ask("the list of tables", LIST, 8).await?;
    let shape = || SessionError::Shape { what: "the list of tables".to_owned() };
    let table = |row: Vec<Option<String>>| match row.as_slice() {
        [
            Some(schema),
            Some(name),
            Some(oid),
            Some(has_rows),
            Some(of_extension),
            pages,
            toast_pages,
            block_bytes,
        ] => Some(SourceTable {
            schema: hex::decode(schema).ok()?,
            name: hex::decode(name).ok()?,
            oid: oid.parse().ok()?,
            has_rows: has_rows == "t",
            of_extension: of_extension == "t",
            bytes: estimate(pages)
                .saturating_add(estimate(toast_pages))
                .saturating_mul(estimate(block_bytes)),
        }),
        _ => None,
    };
    rows.into_iter().map(|row| table(row).ok_or_else(shape)).collect()
}

fn identities(tables: &[SourceTable]) -> BTreeSet<(&[u8], &[u8], u32)> {
    tables.iter().map(|t| (t.schema.as_slice(), t.name.as_slice(), t.oid)).collect()
}

impl ExportedSnapshot {
    /// Locks every table and exports a snapshot. The session stays open, and with it locks and
    /// snapshot.
    ///
    /// # Errors
    /// [`SourceError::Locked`] if a table is held longer than `lock_wait`;
    /// [`SourceError::Restless`] if tables come and go all the time; [`SourceError::Session`]
    /// otherwise.
    pub async fn take(
        tools: &PgTools,
        connection: &PgConnection,
        lock_wait: HumanDuration,
    ) -> Result<Self, SourceError> {
        let mut session = PgSession::open(tools, connection).await?;
        let wait = format!("SET lock_timeout = {}", lock_wait.duration().as_millis().max(1));
        session.run("the lock timeout", &wait).await?;
        let server = server(&mut session).await?;
        for _ in 0..ATTEMPTS_MAX {
            let wanted = list(&mut session).await?;
            crate::failpoint::reach("snapshot-listed");
            session
                .run("a transaction", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                .await?;
            if let Some(snapshot) = Self::attempt(&mut session, &wanted, lock_wait).await? {
                let facts = facts(&mut session, &server).await?;
                let definitions = definitions::read(&mut session).await?;
                let extensions = extensions::read(&mut session).await?;
                let omitted = omitted::asked(&mut session).await?;
                let major = server.major();
                let database = server.database;
                return Ok(Self {
                    session,
                    name: snapshot,
                    tables: wanted,
                    facts,
                    database,
                    definitions,
                    extensions,
                    omitted,
                    major,
                });
            }
            session.run("a rollback", "ROLLBACK").await?;
        }
        Err(SourceError::Restless { attempts: ATTEMPTS_MAX })
    }

    /// The snapshot's name, or `None` if the tables changed and everything must start over.
    async fn attempt(
        session: &mut PgSession,
        wanted: &[SourceTable],
        lock_wait: HumanDuration,
    ) -> Result<Option<String>, SourceError> {
        for batch in wanted.chunks(LOCK_BATCH) {
            // ONLY: children are in the list themselves, and one that is not must be noticed, not
            // locked unseen.
            let name = |t: &SourceTable| {
                [b"ONLY ", quote_bytes(&t.schema).as_slice(), b".", &quote_bytes(&t.name)].concat()
            };
            let names: Vec<Vec<u8>> = batch.iter().map(name).collect();
            let lock =
                [b"LOCK TABLE ", names.join(&b", "[..]).as_slice(), b" IN ACCESS SHARE MODE"]
                    .concat();
            // As it is, not by way of a SELECT: that would take the snapshot before the locks.
            match session.run_bytes("the tables' locks", &lock).await {
                Ok(()) => {}
                // Dropped or renamed since it was listed.
                Err(SessionError::Refused { sqlstate, .. })
                    if sqlstate == "42P01" || sqlstate == "3F000" =>
                {
                    return Ok(None);
                }
                Err(SessionError::Refused { sqlstate, message, .. }) if sqlstate == "55P03" => {
                    session.run("a rollback", "ROLLBACK").await?;
                    let held = watch::culprit(session, batch.iter().map(|table| table.oid))
                        .await
                        .ok()
                        .flatten();
                    let message =
                        held.unwrap_or_else(|| format!("{message}; what held it is gone by now"));
                    return Err(SourceError::Locked { waited: lock_wait.to_string(), message });
                }
                Err(error) => return Err(error.into()),
            }
        }
        // The first statement that needs a snapshot: from here on the transaction sees one moment,
        // later than all locks.
        let name = session.ask_one("a snapshot", "SELECT pg_catalog.pg_export_snapshot()").await?;
        let seen = list(session).await?;
        Ok((identities(&seen) == identities(wanted)).then_some(name))
    }

    /// Ends the session and gives the locks back.
    pub fn release(self) {
        drop(self.session);
    }
}

async fn facts(session: &mut PgSession, server: &SourceServer) -> Result<SourceFacts, SourceError> {
    let shape = |what: &str| SessionError::Shape { what: what.to_owned() };
    let time = session
        .ask_one(
            "the time",
            "SELECT pg_catalog.to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        )
        .await?;
    let snapshot_time: Timestamp = time.parse().map_err(|_| shape("the time"))?;
    // Both may be forbidden or impossible (a standby).
    let only = |row: Option<Row>| row.and_then(|mut row| row.pop().flatten());
    let system_identifier = only(
        optional(session, "SELECT system_identifier FROM pg_catalog.pg_control_system()", 1)
            .await?,
    );
    let lsn = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END";
    let snapshot_lsn = only(optional(session, lsn, 1).await?);
    Ok(SourceFacts {
        server_version: Some(plain_version(&server.version)),
        server_version_num: Some(server.version_num),
        system_identifier,
        snapshot_time,
        snapshot_lsn,
    })
}

/// The only row of a question that may be refused; the savepoint keeps the transaction alive.
pub(super) async fn optional(
    session: &mut PgSession,
    sql: &str,
    columns: usize,
) -> Result<Option<Row>, SourceError> {
    session.run("a savepoint", "SAVEPOINT optional").await?;
    match session.ask("an optional fact", sql, columns).await {
        Ok(mut rows) => Ok(rows.pop()),
        Err(SessionError::Refused { .. }) => {
            session.run("a savepoint", "ROLLBACK TO SAVEPOINT optional").await?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

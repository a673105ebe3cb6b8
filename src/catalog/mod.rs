//! The catalog: known backups, runs, ticks and leases. SQLite for one host, PostgreSQL for several.
//!
//! It is a cache, not an authority: a restore reads and verifies manifests from the vault. The
//! catalog supplies the sequence number where the backup role may not read, the history, and, where
//! hosts share one, the leases that decide which host runs what ([`ticks`]). It can be lost at any
//! time; what is lost with it is the history, and ticks that were planned and not run.
//!
//! All hosts use one clock: that of the catalog's server, or of the only host there is.

pub mod alarms;
pub mod findings;
pub mod journal;
mod patient;
mod sets;
pub mod thaws;
pub mod ticks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use sqlx::ConnectOptions;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Any, AnyPool};

use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::manifest::Manifest;
use patient::{TimedConnection, TimedTransaction, in_time};

/// How long to wait for a connection, or for another process that writes.
const PATIENCE: Duration = Duration::from_secs(10);
static SQLITE: Migrator = sqlx::migrate!("src/catalog/migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("src/catalog/migrations/postgres");

/// The catalog could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It cannot be opened, or is not a catalog.
    #[error("the catalog {place} cannot be opened")]
    Open {
        /// The file, or the server without its password.
        place: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A newer lifeboat has migrated it. Its migrations only add, so hosts that had it open go on;
    /// who opens it anew would not know what rows of the newer kind mean.
    #[error(
        "the catalog {place} was migrated by a newer lifeboat (step {step} is not known to this one); nothing was changed"
    )]
    Newer {
        /// The file, or the server without its password.
        place: String,
        /// Number of the migration that is not known.
        step: i64,
    },
    /// Nothing came back.
    #[error("the catalog did not answer in time")]
    Silent,
    /// A query failed.
    #[error("the catalog could not be read or written")]
    Query(#[source] sqlx::Error),
}

impl From<sqlx::Error> for CatalogError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => Self::Silent,
            error => Self::Query(error),
        }
    }
}

impl CatalogError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        if let Some(hint) = self.of_the_file() {
            return hint;
        }
        match self {
            Self::Newer { .. } => {
                "use the newer lifeboat here too; nothing of the catalog is needed to restore"
            }
            Self::Open { .. } => {
                "start its server, or move the catalog's file away and run `lifeboat catalog rebuild`: what it holds of backups is in the vault"
            }
            Self::Silent | Self::Query(_) => {
                "see whether its server answers, or its file system has room; everything needed to restore is in the vault"
            }
        }
    }
}

/// Hints for what SQLite says of a file, by its result codes: <https://www.sqlite.org/rescode.html>.
const OF_THE_FILE: [(&str, &str); 4] = [
    (
        "8",
        "its file or its directory cannot be written by this user, or is mounted read-only; everything needed to restore is in the vault",
    ),
    ("10", "its disk does not answer; everything needed to restore is in the vault"),
    ("13", "its file system is full: make room; everything needed to restore is in the vault"),
    (
        "14",
        "its directory is missing, or not to be entered by this user; everything needed to restore is in the vault",
    ),
];

impl CatalogError {
    fn of_the_file(&self) -> Option<&'static str> {
        let error = match self {
            Self::Query(error) => error,
            Self::Open { source, .. } => source.downcast_ref::<sqlx::Error>()?,
            _ => return None,
        };
        let code = error.as_database_error()?.code()?;
        // The lowest byte of an extended code is the code.
        let primary = code.parse::<i64>().ok()? & 0xff;
        OF_THE_FILE.iter().find(|(known, _)| *known == primary.to_string()).map(|(_, hint)| *hint)
    }
}

/// The clock of a catalog that is not shared.
#[derive(Debug, Clone, Default)]
enum CatalogClock {
    #[default]
    Host,
    /// Set by a simulation, in milliseconds since 1970.
    Virtual(Arc<AtomicI64>),
}

impl CatalogClock {
    fn millis(&self) -> i64 {
        match self {
            Self::Host => millis(Timestamp::now()),
            Self::Virtual(millis) => millis.load(Ordering::SeqCst),
        }
    }
}

const SERVER_CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// The catalog.
#[derive(Debug, Clone)]
pub struct Catalog {
    pool: AnyPool,
    shared: bool,
    clock: CatalogClock,
}

/// A run that was begun.
#[derive(Debug, Clone, Copy)]
pub struct RunId(i64);

/// Milliseconds since 1970, as the catalog keeps times.
pub(crate) fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn migrated(
    outcome: Result<(), MigrateError>,
    place: impl Fn() -> String,
) -> Result<(), CatalogError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(step)) => {
            Err(CatalogError::Newer { place: place(), step })
        }
        Err(error) => Err(CatalogError::Open { place: place(), source: error.into() }),
    }
}

impl Catalog {
    /// Opens the catalog of this host, making it if it is not there.
    ///
    /// # Errors
    /// [`CatalogError::Open`] if the file cannot be opened or migrated.
    pub async fn open(file: &Path) -> Result<Self, CatalogError> {
        Self::open_file(file, CatalogClock::Host).await
    }

    /// The same for a simulation, which sets the clock (milliseconds since 1970) and survives no
    /// power cut.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub async fn open_virtual(file: &Path, clock: Arc<AtomicI64>) -> Result<Self, CatalogError> {
        Self::open_file(file, CatalogClock::Virtual(clock)).await
    }

    async fn open_file(file: &Path, clock: CatalogClock) -> Result<Self, CatalogError> {
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| CatalogError::Open {
            place: file.display().to_string(),
            source,
        };
        sqlx::any::install_default_drivers();
        let file = std::path::absolute(file).map_err(|e| fail(e.into()))?;
        private(&file);
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let migrating = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
        let migrating = migrating
            .connect_with(options.busy_timeout(PATIENCE))
            .await
            .map_err(|e| fail(e.into()))?;
        migrated(SQLITE.run(&migrating).await, || file.display().to_string())?;
        migrating.close().await;
        let settings = match clock {
            CatalogClock::Host => {
                "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL"
            }
            CatalogClock::Virtual(_) => {
                "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF"
            }
        };
        let pool = AnyPoolOptions::new()
            .max_connections(2)
            // A full disk ends a transaction in SQLite, and sqlx goes on counting it: such a
            // connection begins nothing any more.
            .before_acquire(|connection, _| {
                Box::pin(async move { Ok(!sqlx::Connection::is_in_transaction(connection)) })
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    sqlx::raw_sql(settings).execute(connection).await?;
                    Ok(())
                })
            });
        let options: AnyConnectOptions =
            url_of(&file).parse().map_err(|e: sqlx::Error| fail(e.into()))?;
        let options = options.disable_statement_logging();
        let pool = pool.connect_with(options).await.map_err(|e| fail(e.into()))?;
        Ok(Self { pool, shared: false, clock })
    }

    /// Opens a catalog that several hosts share, by its URL. The password comes from the
    /// environment or `~/.pgpass`.
    ///
    /// # Errors
    /// [`CatalogError::Open`] if the server cannot be reached or the catalog not be migrated.
    pub async fn open_shared(url: &str) -> Result<Self, CatalogError> {
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| CatalogError::Open {
            place: without_password(url),
            source,
        };
        sqlx::any::install_default_drivers();
        let parsed: sqlx::postgres::PgConnectOptions =
            url.parse().map_err(|e: sqlx::Error| fail(e.into()))?;
        let migrating =
            sqlx::postgres::PgPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE);
        let migrating = migrating.connect_with(parsed).await.map_err(|e| fail(e.into()))?;
        let outcome = tokio::time::timeout(patient::ANSWER_MAX, POSTGRES.run(&migrating))
            .await
            .map_err(|_| CatalogError::Silent)?;
        migrated(outcome, || without_password(url))?;
        migrating.close().await;
        let options: AnyConnectOptions = url.parse().map_err(|e: sqlx::Error| fail(e.into()))?;
        let pool = AnyPoolOptions::new().max_connections(4).acquire_timeout(PATIENCE).after_connect(|connection, _| {
            Box::pin(async move {
                // A host that stands still in a transaction must not hold up the others.
                let settings = "SET statement_timeout = '20s'; SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '20s'";
                sqlx::raw_sql(settings).execute(connection).await?;
                Ok(())
            })
        });
        let pool = pool
            .connect_with(options.disable_statement_logging())
            .await
            .map_err(|e| fail(e.into()))?;
        Ok(Self { pool, shared: true, clock: CatalogClock::Host })
    }

    /// Whether other hosts work with it too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// What time it is, by the one clock that counts.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn now(&self) -> Result<Timestamp, CatalogError> {
        if !self.shared {
            return Ok(time(self.clock.millis()));
        }
        let (now,): (i64,) = sqlx::query_as(SERVER_CLOCK).fetch_one(self.ask()).await?;
        Ok(time(now))
    }

    /// The same on a transaction's own connection, in milliseconds since 1970.
    async fn now_within(&self, transaction: &mut TimedTransaction) -> Result<i64, CatalogError> {
        if !self.shared {
            return Ok(self.clock.millis());
        }
        let (now,): (i64,) = sqlx::query_as(SERVER_CLOCK).fetch_one(transaction.ask()).await?;
        Ok(now)
    }

    /// A transaction in which nobody else writes what is read in it, if `FOR UPDATE` is said where
    /// the catalog knows it.
    async fn begin(&self) -> Result<TimedTransaction, CatalogError> {
        let how = if self.shared { "BEGIN" } else { "BEGIN IMMEDIATE" };
        Ok(TimedTransaction(in_time(self.pool.begin_with(how)).await?))
    }

    /// One query, with a limit on its answer.
    fn ask(&self) -> TimedConnection<&AnyPool> {
        TimedConnection(&self.pool)
    }

    /// Notes that a run began.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn begin_run(&self, verb: &str, subject: &str) -> Result<RunId, CatalogError> {
        let (id,): (i64,) = sqlx::query_as(
            "INSERT INTO runs (verb, subject, begun_at) VALUES ($1, $2, $3) RETURNING id",
        )
        .bind(verb)
        .bind(subject)
        .bind(Timestamp::now().to_string())
        .fetch_one(self.ask())
        .await?;
        Ok(RunId(id))
    }

    /// Notes how a run ended.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn end_run(&self, run: RunId, outcome: &str) -> Result<(), CatalogError> {
        sqlx::query("UPDATE runs SET ended_at = $1, outcome = $2 WHERE id = $3")
            .bind(Timestamp::now().to_string())
            .bind(outcome)
            .bind(run.0)
            .execute(self.ask())
            .await?;
        Ok(())
    }

    /// Notes that a run has begun to write a backup.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn note_begun(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
        backup: &BackupId,
    ) -> Result<(), CatalogError> {
        let query = "INSERT INTO begun (vault, datastore, backup) VALUES ($1, $2, $3) ON CONFLICT (vault, datastore, backup) DO NOTHING";
        let query =
            sqlx::query(query).bind(vault.as_str()).bind(datastore.as_str()).bind(backup.as_str());
        query.execute(self.ask()).await?;
        Ok(())
    }

    /// Backups that runs of whoever shares this catalog have begun and not published.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn begun(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
    ) -> Result<BTreeSet<BackupId>, CatalogError> {
        let query = sqlx::query_as("SELECT backup FROM begun WHERE vault = $1 AND datastore = $2");
        let rows: Vec<(String,)> =
            query.bind(vault.as_str()).bind(datastore.as_str()).fetch_all(self.ask()).await?;
        Ok(rows.into_iter().filter_map(|(backup,)| backup.parse().ok()).collect())
    }

    /// Forgets that a backup was begun: it is published, or nothing of it is left.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn forget_begun(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
        backup: &BackupId,
    ) -> Result<(), CatalogError> {
        let query =
            sqlx::query("DELETE FROM begun WHERE vault = $1 AND datastore = $2 AND backup = $3");
        query
            .bind(vault.as_str())
            .bind(datastore.as_str())
            .bind(backup.as_str())
            .execute(self.ask())
            .await?;
        Ok(())
    }

    /// Remembers a backup.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn remember(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        Ok(remember_by(self.ask(), manifest).await?)
    }

    /// The backups known of a datastore, with their sequence numbers.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn known(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
    ) -> Result<BTreeMap<BackupId, u64>, CatalogError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT backup, sequence FROM backups WHERE vault = $1 AND datastore = $2",
        )
        .bind(vault.as_str())
        .bind(datastore.as_str())
        .fetch_all(self.ask())
        .await?;
        Ok(rows
            .into_iter()
            .filter_map(|(backup, sequence)| {
                Some((backup.parse().ok()?, u64::try_from(sequence).ok()?))
            })
            .collect())
    }

    /// The backup of a datastore with the highest number that is known.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn newest(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
    ) -> Result<Option<Manifest>, CatalogError> {
        let query = "SELECT manifest FROM backups WHERE vault = $1 AND datastore = $2 ORDER BY sequence DESC LIMIT 1";
        let row: Option<(String,)> = sqlx::query_as(query)
            .bind(vault.as_str())
            .bind(datastore.as_str())
            .fetch_optional(self.ask())
            .await?;
        Ok(row.and_then(|(manifest,)| serde_json::from_str(&manifest).ok()))
    }

    /// Forgets a backup of which nothing is left.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn forget(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
        backup: &BackupId,
    ) -> Result<(), CatalogError> {
        sqlx::query("DELETE FROM backups WHERE vault = $1 AND datastore = $2 AND backup = $3")
            .bind(vault.as_str())
            .bind(datastore.as_str())
            .bind(backup.as_str())
            .execute(self.ask())
            .await?;
        Ok(())
    }

    /// Replaces what is known of a vault's backups, and forgets what was seen of its evidence, in
    /// one transaction.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn replace(
        &self,
        vault: &VaultId,
        manifests: &[Manifest],
    ) -> Result<(), CatalogError> {
        let mut transaction = self.begin().await?;
        for forget in
            ["DELETE FROM backups WHERE vault = $1", "DELETE FROM evidence_heads WHERE vault = $1"]
        {
            sqlx::query(forget).bind(vault.as_str()).execute(transaction.ask()).await?;
        }
        for manifest in manifests {
            remember_by(transaction.ask(), manifest).await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// Notes a backup, in a transaction or by itself.
async fn remember_by<'c>(
    ask: impl sqlx::Executor<'c, Database = Any>,
    manifest: &Manifest,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO backups (vault, datastore, backup, sequence, snapshot_at, manifest) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (vault, datastore, backup) DO UPDATE SET sequence = $4, snapshot_at = $5, manifest = $6",
    )
    .bind(manifest.vault.as_str())
    .bind(manifest.datastore.as_str())
    .bind(manifest.backup.as_str())
    .bind(i64::try_from(manifest.sequence).unwrap_or(i64::MAX))
    .bind(manifest.source.snapshot_time.to_string())
    .bind(serde_json::to_string(manifest).unwrap_or_default())
    .execute(ask)
    .await?;
    Ok(())
}

/// Makes the file if it is not there, and sees to it that nobody else may read it: it names every
/// table that ever changed. What SQLite puts beside it has the same mode. A file that is somebody
/// else's stays as it is, and is opened if it can be.
fn private(file: &Path) {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    for end in ["", "-wal", "-shm"] {
        // What is opened is what is changed: a link in its place leads nowhere.
        let mut options = std::fs::OpenOptions::new();
        options.create(end.is_empty()).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        if let Ok(file) = options.open(format!("{}{end}", file.display())) {
            let _ = file.set_permissions(std::fs::Permissions::from_mode(0o600));
        }
    }
}

/// A file's name as a URL. sqlx's own way back from options to a URL does not escape percent signs.
fn url_of(file: &Path) -> String {
    let mut url = "sqlite://".to_owned();
    for byte in file.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                url.push(char::from(*byte))
            }
            other => url.push_str(&format!("%{other:02X}")),
        }
    }
    url
}

/// A URL as it may be shown.
#[must_use]
pub fn without_password(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?))) {
        Some((scheme, (user, place))) => {
            format!("{scheme}://{}@{place}", user.split(':').next().unwrap_or_default())
        }
        None => url.to_owned(),
    }
}

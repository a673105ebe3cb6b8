//! What this host remembers, in SQLite: backups it made or read, and runs. May be deleted at any time.
//!
//! Nothing is believed because it stands here: a restore reads and verifies manifests from the vault. The catalog serves
//! the sequence number when the backup role may not read, and the history.

pub mod journal;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::manifest::Manifest;

/// The catalog could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file cannot be opened or is not a catalog.
    #[error("the catalog {} cannot be opened", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A query failed.
    #[error("the catalog could not be read or written")]
    Query(#[from] sqlx::Error),
}

/// The catalog.
#[derive(Debug, Clone)]
pub struct Catalog {
    pool: SqlitePool,
}

/// A run that was begun.
#[derive(Debug, Clone, Copy)]
pub struct RunId(i64);

impl Catalog {
    /// Opens the catalog, making it if it is not there.
    ///
    /// # Errors
    /// [`CatalogError::Open`] if the file cannot be opened or migrated.
    pub async fn open(file: &Path) -> Result<Self, CatalogError> {
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| CatalogError::Open { file: file.to_owned(), source };
        let options = SqliteConnectOptions::from_str("sqlite:")
            .map_err(|e| fail(e.into()))?
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(std::time::Duration::from_secs(10));
        let pool = SqlitePoolOptions::new().max_connections(2).connect_with(options).await.map_err(|e| fail(e.into()))?;
        sqlx::migrate!("src/catalog/migrations").run(&pool).await.map_err(|e| fail(e.into()))?;
        Ok(Self { pool })
    }

    /// Notes that a run began.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn begin_run(&self, verb: &str, subject: &str) -> Result<RunId, CatalogError> {
        let done = sqlx::query("INSERT INTO runs (verb, subject, begun_at) VALUES (?, ?, ?)")
            .bind(verb)
            .bind(subject)
            .bind(Timestamp::now().to_string())
            .execute(&self.pool)
            .await?;
        Ok(RunId(done.last_insert_rowid()))
    }

    /// Notes how a run ended.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn end_run(&self, run: RunId, outcome: &str) -> Result<(), CatalogError> {
        sqlx::query("UPDATE runs SET ended_at = ?, outcome = ? WHERE id = ?")
            .bind(Timestamp::now().to_string())
            .bind(outcome)
            .bind(run.0)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Remembers a backup.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn remember(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        sqlx::query("INSERT OR REPLACE INTO backups (vault, datastore, backup, sequence, snapshot_at, manifest) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(manifest.vault.as_str())
            .bind(manifest.datastore.as_str())
            .bind(manifest.backup.as_str())
            .bind(i64::try_from(manifest.sequence).unwrap_or(i64::MAX))
            .bind(manifest.source.snapshot_time.to_string())
            .bind(serde_json::to_string(manifest).unwrap_or_default())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The backups known of a datastore, with their sequence numbers.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn known(&self, vault: &VaultId, datastore: &DatastoreName) -> Result<BTreeMap<BackupId, u64>, CatalogError> {
        let rows: Vec<(String, i64)> = sqlx::query_as("SELECT backup, sequence FROM backups WHERE vault = ? AND datastore = ?")
            .bind(vault.as_str())
            .bind(datastore.as_str())
            .fetch_all(&self.pool)
            .await?;
        Ok(rows.into_iter().filter_map(|(backup, sequence)| Some((backup.parse().ok()?, u64::try_from(sequence).ok()?))).collect())
    }

    /// Replaces what is known of a vault's backups in one transaction.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn replace(&self, vault: &VaultId, manifests: &[Manifest]) -> Result<(), CatalogError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("DELETE FROM backups WHERE vault = ?").bind(vault.as_str()).execute(&mut *transaction).await?;
        transaction.commit().await?;
        for manifest in manifests {
            self.remember(manifest).await?;
        }
        Ok(())
    }
}

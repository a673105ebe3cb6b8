//! What is known of single backups: objects left out of a dump, backups found damaged, backups
//! verified.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Catalog, CatalogError, millis, time};
use crate::domain::fingerprint::OmittedObject;
use crate::domain::id::{BackupId, DatastoreName, VaultId};

/// A backup that could not be read back, and has not been read back since.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DamagedRow {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// What is wrong with it.
    pub why: String,
    /// When that was found.
    pub found: Timestamp,
}

impl Catalog {
    /// Notes what is not in a dump.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn note_omitted(
        &self,
        vault: &VaultId,
        backup: &BackupId,
        omitted: &[OmittedObject],
    ) -> Result<(), CatalogError> {
        for one in omitted {
            sqlx::query("INSERT INTO omitted (vault, backup, what) VALUES ($1, $2, $3) ON CONFLICT (vault, backup, what) DO NOTHING")
                .bind(vault.as_str())
                .bind(backup.as_str())
                .bind(one.what())
                .execute(self.ask())
                .await?;
        }
        Ok(())
    }

    /// What is not in a dump, as far as this catalog knows: only where it was taken, and as long as
    /// the catalog is kept.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn omitted(
        &self,
        vault: &VaultId,
        backup: &BackupId,
    ) -> Result<Vec<String>, CatalogError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT what FROM omitted WHERE vault = $1 AND backup = $2 ORDER BY what",
        )
        .bind(vault.as_str())
        .bind(backup.as_str())
        .fetch_all(self.ask())
        .await?;
        Ok(rows.into_iter().map(|(what,)| what).collect())
    }

    /// Notes that a backup was read back in full and is whole; what was said of it before is over.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn note_whole(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
        backup: &BackupId,
    ) -> Result<(), CatalogError> {
        sqlx::query("DELETE FROM damaged WHERE vault = $1 AND datastore = $2 AND backup = $3")
            .bind(vault.as_str())
            .bind(datastore.as_str())
            .bind(backup.as_str())
            .execute(self.ask())
            .await?;
        sqlx::query(
            "INSERT INTO verified (vault, datastore, backup, at) VALUES ($1, $2, $3, $4) ON CONFLICT (vault, datastore, backup) DO UPDATE SET at = $4",
        )
        .bind(vault.as_str())
        .bind(datastore.as_str())
        .bind(backup.as_str())
        .bind(millis(self.now().await?))
        .execute(self.ask())
        .await?;
        Ok(())
    }

    /// Notes that a backup is damaged.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn note_damaged(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
        backup: &BackupId,
        why: &str,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "INSERT INTO damaged (vault, datastore, backup, why, found) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (vault, datastore, backup) DO UPDATE SET why = $4",
        )
        .bind(vault.as_str())
        .bind(datastore.as_str())
        .bind(backup.as_str())
        .bind(why)
        .bind(millis(self.now().await?))
        .execute(self.ask())
        .await?;
        // It was whole once, and is so no more.
        sqlx::query("DELETE FROM verified WHERE vault = $1 AND datastore = $2 AND backup = $3")
            .bind(vault.as_str())
            .bind(datastore.as_str())
            .bind(backup.as_str())
            .execute(self.ask())
            .await?;
        Ok(())
    }

    /// Every backup that was found damaged and not found whole since, of one vault.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn damaged(&self, vault: &VaultId) -> Result<Vec<DamagedRow>, CatalogError> {
        let rows: Vec<(String, String, String, i64)> =
            sqlx::query_as("SELECT datastore, backup, why, found FROM damaged WHERE vault = $1 ORDER BY datastore, backup")
                .bind(vault.as_str())
                .fetch_all(self.ask())
                .await?;
        let row = |(datastore, backup, why, found): (String, String, String, i64)| {
            Some(DamagedRow {
                datastore: datastore.parse().ok()?,
                backup: backup.parse().ok()?,
                why,
                found: time(found),
            })
        };
        Ok(rows.into_iter().filter_map(row).collect())
    }

    /// When each backup of a datastore was last read back in full and found whole.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn verified(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
    ) -> Result<BTreeMap<BackupId, Timestamp>, CatalogError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT backup, at FROM verified WHERE vault = $1 AND datastore = $2")
                .bind(vault.as_str())
                .bind(datastore.as_str())
                .fetch_all(self.ask())
                .await?;
        Ok(rows
            .into_iter()
            .filter_map(|(backup, at)| Some((backup.parse().ok()?, time(at))))
            .collect())
    }
}

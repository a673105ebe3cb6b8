//! Volume sets that were started and are not published yet.

use super::{Catalog, CatalogError};
use crate::domain::id::{BackupId, DatastoreName, VaultId};

impl Catalog {
    /// Notes how far a set is. There is one per datastore; an older one is forgotten.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn note_set(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
        backup: &BackupId,
        state: &str,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "INSERT INTO sets (vault, datastore, backup, state) VALUES ($1, $2, $3, $4)
             ON CONFLICT (vault, datastore) DO UPDATE SET backup = $3, state = $4",
        )
        .bind(vault.as_str())
        .bind(datastore.as_str())
        .bind(backup.as_str())
        .bind(state)
        .execute(self.ask())
        .await?;
        Ok(())
    }

    /// How far the set of a datastore is that was begun and is not published.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn noted_set(
        &self,
        vault: &VaultId,
        datastore: &DatastoreName,
    ) -> Result<Option<String>, CatalogError> {
        let row: Option<(String,)> =
            sqlx::query_as("SELECT state FROM sets WHERE vault = $1 AND datastore = $2")
                .bind(vault.as_str())
                .bind(datastore.as_str())
                .fetch_optional(self.ask())
                .await?;
        Ok(row.map(|(state,)| state))
    }

    /// Forgets a set: it is published, or nothing is left of it.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn forget_set(&self, vault: &VaultId, backup: &BackupId) -> Result<(), CatalogError> {
        let query = sqlx::query("DELETE FROM sets WHERE vault = $1 AND backup = $2")
            .bind(vault.as_str())
            .bind(backup.as_str());
        query.execute(self.ask()).await?;
        Ok(())
    }
}

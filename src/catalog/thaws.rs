//! Requested archive retrievals: the tier that was asked for, which the store does not report.

use jiff::Timestamp;

use super::{Catalog, CatalogError, millis, time};
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::thaw::RetrievalTier;

/// A retrieval that was asked for, perhaps by another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedRetrieval {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// At which tier.
    pub tier: RetrievalTier,
    /// When.
    pub at: Timestamp,
}

impl Catalog {
    /// Notes that a backup's payloads were asked for.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn asked_for(
        &self,
        vault: &VaultId,
        asked: &RequestedRetrieval,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "INSERT INTO thaws (vault, datastore, backup, tier, asked) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (vault, datastore, backup) DO UPDATE SET tier = $4, asked = $5",
        )
        .bind(vault.as_str())
        .bind(asked.datastore.as_str())
        .bind(asked.backup.as_str())
        .bind(asked.tier.name())
        .bind(millis(asked.at))
        .execute(self.ask())
        .await?;
        Ok(())
    }

    /// Everything that was asked for in a vault.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn thaws(&self, vault: &VaultId) -> Result<Vec<RequestedRetrieval>, CatalogError> {
        let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
            "SELECT datastore, backup, tier, asked FROM thaws WHERE vault = $1 ORDER BY asked",
        )
        .bind(vault.as_str())
        .fetch_all(self.ask())
        .await?;
        let asked = |(datastore, backup, tier, at): (String, String, String, i64)| {
            Some(RequestedRetrieval {
                datastore: datastore.parse().ok()?,
                backup: backup.parse().ok()?,
                tier: tier.parse().ok()?,
                at: time(at),
            })
        };
        Ok(rows.into_iter().filter_map(asked).collect())
    }
}

//! The durable journal of sagas, and the runs that they belong to.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Catalog, CatalogError};
use crate::domain::id::VaultId;
use crate::saga::{Journal, JournalEvent, JournalRefused};

/// A drill that was begun on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillRun {
    /// The run.
    pub run: String,
    /// The drill's name.
    pub drill: String,
    /// Number of its `started` record.
    pub started: u64,
    /// When it was declared.
    pub declared: Timestamp,
}

#[async_trait]
impl Journal for Catalog {
    async fn append(
        &self,
        run: &str,
        step: &str,
        event: &JournalEvent,
    ) -> Result<(), JournalRefused> {
        let (word, made) = match event {
            JournalEvent::Started => ("started", None),
            JournalEvent::Succeeded(made) => ("succeeded", Some(made)),
            JournalEvent::Failed(why) => ("failed", Some(why)),
            JournalEvent::Undone => ("undone", None),
        };
        let done = sqlx::query(
            "INSERT INTO journal (run, step, event, made, at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(run)
        .bind(step)
        .bind(word)
        .bind(made)
        .bind(Timestamp::now().to_string())
        .execute(self.ask())
        .await;
        done.map(drop).map_err(|error| JournalRefused(error.to_string()))
    }

    async fn events(&self, run: &str) -> Result<Vec<(String, JournalEvent)>, JournalRefused> {
        let rows: Vec<(String, String, Option<String>)> =
            sqlx::query_as("SELECT step, event, made FROM journal WHERE run = $1 ORDER BY id")
                .bind(run)
                .fetch_all(self.ask())
                .await
                .map_err(|error| JournalRefused(error.to_string()))?;
        let event = |word: &str, made: Option<String>| match word {
            "started" => Ok(JournalEvent::Started),
            "succeeded" => Ok(JournalEvent::Succeeded(made.unwrap_or_default())),
            "failed" => Ok(JournalEvent::Failed(made.unwrap_or_default())),
            "undone" => Ok(JournalEvent::Undone),
            other => Err(JournalRefused(format!(
                "it holds an event {other:?}, which this lifeboat does not know"
            ))),
        };
        rows.into_iter().map(|(step, word, made)| Ok((step, event(&word, made)?))).collect()
    }
}

impl Catalog {
    /// Notes that a drill began.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn begin_drill(&self, vault: &VaultId, drill: &DrillRun) -> Result<(), CatalogError> {
        sqlx::query("INSERT INTO drills (run, vault, drill, started, declared_at, host) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(&drill.run)
            .bind(vault.as_str())
            .bind(&drill.drill)
            .bind(i64::try_from(drill.started).unwrap_or(i64::MAX))
            .bind(drill.declared.to_string())
            .bind(host())
            .execute(self.ask())
            .await?;
        Ok(())
    }

    /// Notes that a drill has its report.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn end_drill(&self, run: &str) -> Result<(), CatalogError> {
        let now = Timestamp::now().to_string();
        sqlx::query("UPDATE drills SET ended_at = $1 WHERE run = $2")
            .bind(now)
            .bind(run)
            .execute(self.ask())
            .await?;
        Ok(())
    }

    /// Drills of this host that have no report yet.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn open_drills(&self, vault: &VaultId) -> Result<Vec<DrillRun>, CatalogError> {
        let rows: Vec<(String, String, i64, String)> =
            sqlx::query_as("SELECT run, drill, started, declared_at FROM drills WHERE vault = $1 AND host IN ('', $2) AND ended_at IS NULL ORDER BY declared_at")
                .bind(vault.as_str())
                .bind(host())
                .fetch_all(self.ask())
                .await?;
        let run = |(run, drill, started, declared): (String, String, i64, String)| {
            Some(DrillRun {
                run,
                drill,
                started: u64::try_from(started).ok()?,
                declared: declared.parse().ok()?,
            })
        };
        Ok(rows.into_iter().filter_map(run).collect())
    }

    /// Notes a record of the evidence that this host has seen. None is ever forgotten: a series may
    /// be cut off and written on.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn saw_evidence(
        &self,
        vault: &VaultId,
        sequence: u64,
        sha256: &str,
    ) -> Result<(), CatalogError> {
        sqlx::query("INSERT INTO evidence_heads (vault, sequence, sha256) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(vault.as_str())
            .bind(i64::try_from(sequence).unwrap_or(i64::MAX))
            .bind(sha256)
            .execute(self.ask())
            .await?;
        Ok(())
    }

    /// The records of the evidence that this host has seen: numbers and hashes, newest last.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn evidence_seen(&self, vault: &VaultId) -> Result<Vec<(u64, String)>, CatalogError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT sequence, sha256 FROM evidence_heads WHERE vault = $1 ORDER BY sequence",
        )
        .bind(vault.as_str())
        .fetch_all(self.ask())
        .await?;
        Ok(rows
            .into_iter()
            .map(|(sequence, sha256)| (u64::try_from(sequence).unwrap_or_default(), sha256))
            .collect())
    }
}

/// This host's name.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

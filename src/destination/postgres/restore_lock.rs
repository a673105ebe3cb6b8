//! One restore at a time: an advisory lock on the database's name, held as long as its session
//! lives.

use super::TargetError;
use super::database::maintenance;
use crate::pg::sql::quote_text;
use crate::pg::{PgConnection, PgSession, PgTools};

/// The right to restore into a database. Given back when dropped, and by the server when this
/// process dies.
pub struct RestoreLock {
    _session: PgSession,
}

impl RestoreLock {
    /// Takes it, without waiting. Locks are kept for each database, so all who restore meet in the
    /// maintenance database.
    ///
    /// # Errors
    /// [`TargetError::Busy`] if somebody else restores into the same database.
    pub async fn acquire(
        tools: &PgTools,
        connection: &PgConnection,
        database: &str,
    ) -> Result<Self, TargetError> {
        let mut session = maintenance(tools, connection).await?;
        let lock = format!(
            "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended({}, 0))",
            quote_text(&format!("lifeboat restores {database}"))
        );
        match session
            .ask_one("the lock of the target", &lock)
            .await
            .map_err(TargetError::Session)?
            .as_str()
        {
            "t" => Ok(Self { _session: session }),
            _ => Err(TargetError::Busy { database: database.to_owned() }),
        }
    }
}

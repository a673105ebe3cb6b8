//! Putting a restored database in the place of the old one: the old one is renamed, never dropped.

use std::time::Duration;

use super::TargetError;
use crate::pg::sql::{quote_identifier, quote_text};
use crate::pg::{PgSession, SessionError};

/// How often it is tried to get rid of sessions that connect again at once.
const ATTEMPTS_MAX: u32 = 10;
/// Bytes of an identifier.
const NAME_BYTES_MAX: usize = 63;

/// Names of a swap.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SwapNames {
    /// The database that applications know.
    pub database: String,
    /// Where the backup is loaded.
    pub beside: String,
    /// What the old one is called afterwards.
    pub aside: String,
}

impl SwapNames {
    /// Names that no two backups share, so that a restore that was interrupted finds its database
    /// again.
    #[must_use]
    pub fn named(database: &str, backup: &str) -> Self {
        let tail = backup.rsplit('-').next().unwrap_or(backup).to_ascii_lowercase();
        let name = |ending: &str| {
            let mut stem = database.to_owned();
            while stem.len() + ending.len() > NAME_BYTES_MAX {
                stem.pop();
            }
            stem + ending
        };
        Self {
            database: database.to_owned(),
            beside: name(&format!("_new_{tail}")),
            aside: name(&format!("_before_{tail}")),
        }
    }

    /// Renames both in one transaction, after the sessions of the old one were ended.
    ///
    /// # Errors
    /// [`TargetError::Database`]; then both have the names they had.
    pub async fn perform(&self, session: &mut PgSession) -> Result<(), TargetError> {
        let mut attempt = 1;
        let swapped = loop {
            match self.rename(session).await {
                Err(error) if error.sqlstate() == Some(OBJECT_IN_USE) && attempt < ATTEMPTS_MAX => {
                    let _ = session.run("the end of a transaction", "ROLLBACK").await;
                    attempt += 1;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                other => break other,
            }
        };
        if swapped.is_err() {
            let _ = session.run("the end of a transaction", "ROLLBACK").await;
        }
        swapped.map_err(|source| TargetError::Database {
            what: format!("the name of {}", self.database),
            source,
        })
    }

    async fn rename(&self, session: &mut PgSession) -> Result<(), SessionError> {
        // A rename locks the database before it looks for sessions, so those that come later wait;
        // nothing has to be forbidden that would stay forbidden if this process died.
        for database in [&self.database, &self.beside] {
            let end = format!(
                "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = {} AND pid <> pg_catalog.pg_backend_pid()",
                quote_text(database)
            );
            session.run("the end of the old sessions", &end).await?;
        }
        let rename = |from: &str, to: &str| {
            format!("ALTER DATABASE {} RENAME TO {}", quote_identifier(from), quote_identifier(to))
        };
        session.run("a transaction", "BEGIN").await?;
        session.run("the old database's name", &rename(&self.database, &self.aside)).await?;
        session.run("the new database's name", &rename(&self.beside, &self.database)).await?;
        session.run("a transaction", "COMMIT").await
    }

    /// The statements that undo it, for people.
    #[must_use]
    pub fn way_back(&self) -> String {
        let rename = |from: &str, to: &str| {
            format!("ALTER DATABASE {} RENAME TO {};", quote_identifier(from), quote_identifier(to))
        };
        format!("{} {}", rename(&self.database, &self.beside), rename(&self.aside, &self.database))
    }
}

/// SQLSTATE `object_in_use`: somebody is connected.
const OBJECT_IN_USE: &str = "55006";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again_and_fit() {
        let swap = SwapNames::named("chat", "20261122T031500Z-K3XQ7A");
        assert_eq!(
            (swap.beside.as_str(), swap.aside.as_str()),
            ("chat_new_k3xq7a", "chat_before_k3xq7a")
        );
        assert_eq!(swap, SwapNames::named("chat", "20261122T031500Z-K3XQ7A"));
        let long = SwapNames::named(&"ü".repeat(40), "20261122T031500Z-K3XQ7A");
        assert!(
            long.beside.len() <= NAME_BYTES_MAX
                && long.aside.len() <= NAME_BYTES_MAX
                && long.beside != long.aside
        );
    }
}

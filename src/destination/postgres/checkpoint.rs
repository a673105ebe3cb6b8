//! The checkpoint of a restore, kept in the comment of the database that is being restored: from
//! what, and how far.
//!
//! It is stored in the target itself, so that any host can resume; and anybody who looks (`\l+`)
//! sees that the database is not finished. The last step of a restore replaces it with the backup's
//! own comment.

use std::collections::BTreeSet;

use super::TargetError;
use crate::domain::id::{BackupId, VaultId};
use crate::pg::sql::{quote_identifier, quote_text};
use crate::pg::{PgSession, SessionError};

const BEGINNING: &str = "lifeboat: this database is being restored and is not finished; ";

const SCHEMA_MADE: &str = "schema-made-at-";
const TABLESPACE: &str = "tablespace-";
const COMMENT: &str = "comment-";
const REFUSED: &str = "refused-";
/// The names are about to be traded: what carries this mark may be live.
pub const SWAPPING: &str = "swapping";

/// How far a restore has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreCheckpoint {
    /// The vault.
    pub vault: VaultId,
    /// The backup.
    pub backup: BackupId,
    /// What of it is restored, in a few words without `;`; `all` unless somebody asked for less.
    pub what: String,
    /// Whether the restore made the database, and so may drop it.
    pub created: bool,
    /// What is done: `schema` and the moment of it, the names of payloads whose rows are loaded,
    /// `indexes`, `after`.
    pub done: BTreeSet<String>,
}

impl RestoreCheckpoint {
    /// The comment's text.
    #[must_use]
    pub fn text(&self) -> String {
        let done: Vec<&str> = self.done.iter().map(String::as_str).collect();
        let created = if self.created { "yes" } else { "no" };
        format!(
            "{BEGINNING}vault={}; backup={}; what={}; created={created}; done={}",
            self.vault,
            self.backup,
            self.what,
            done.join(",")
        )
    }

    /// When the schema was there and no row of ours ([`super::resume::moment`]); marks of earlier
    /// versions do not say it.
    #[must_use]
    pub fn schema_made(&self) -> Option<u32> {
        self.done.iter().find_map(|word| word.strip_prefix(SCHEMA_MADE)?.parse().ok())
    }

    /// The steps that are done, for people.
    #[must_use]
    pub fn steps_done(&self) -> Vec<String> {
        self.done
            .iter()
            .filter(|word| {
                ![SCHEMA_MADE, TABLESPACE, COMMENT, REFUSED].iter().any(|own| word.starts_with(own))
            })
            .cloned()
            .collect()
    }

    /// The comment that the database had before, which the mark took the place of.
    #[must_use]
    pub fn comment_before(&self) -> Option<String> {
        let text =
            |word: &String| String::from_utf8(hex::decode(word.strip_prefix(COMMENT)?).ok()?).ok();
        self.done.iter().find_map(text)
    }

    /// How much the server has refused of earlier attempts that were told to go on.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.done
            .iter()
            .filter_map(|word| word.strip_prefix(REFUSED)?.parse().ok())
            .max()
            .unwrap_or(0)
    }

    /// The word that says it.
    #[must_use]
    pub fn word_of_refused(count: usize) -> String {
        format!("{REFUSED}{count}")
    }

    /// The word that keeps it.
    #[must_use]
    pub fn word_of_comment(text: &str) -> String {
        format!("{COMMENT}{}", hex::encode(text))
    }

    /// Tablespaces that this restore has made, or has begun to make.
    #[must_use]
    pub fn own_tablespaces(&self) -> BTreeSet<String> {
        let name = |word: &String| {
            String::from_utf8(hex::decode(word.strip_prefix(TABLESPACE)?).ok()?).ok()
        };
        self.done.iter().filter_map(name).collect()
    }

    /// The word that says that a tablespace is this restore's own, written before it is made.
    #[must_use]
    pub fn word_of_tablespace(name: &str) -> String {
        format!("{TABLESPACE}{}", hex::encode(name))
    }

    /// The word that says it.
    #[must_use]
    pub fn word_of_schema_made(moment: u32) -> String {
        format!("{SCHEMA_MADE}{moment}")
    }

    /// Whether another mark is of the same restore, however far that had got.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        (&self.vault, &self.backup, &self.what, self.created)
            == (&other.vault, &other.backup, &other.what, other.created)
    }

    /// Whether the text of a statement would write a mark: one that was taken along in a backup is
    /// no mark of this restore.
    #[must_use]
    pub fn is_within(statement: &[u8]) -> bool {
        memchr::memmem::find(statement, BEGINNING.trim_end().as_bytes()).is_some()
    }

    /// Reads a comment; `None` for any other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(BEGINNING)?.split("; ");
        let mut part =
            |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        Some(Self {
            vault: part("vault")?.parse().ok()?,
            backup: part("backup")?.parse().ok()?,
            what: part("what")?,
            created: part("created")? == "yes",
            done: part("done")?
                .split(',')
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect(),
        })
    }

    /// The mark of the database that a session is connected to.
    ///
    /// # Errors
    /// [`TargetError::Session`]
    pub async fn read(session: &mut PgSession) -> Result<Option<Self>, TargetError> {
        Ok(Self::parse(&super::database::comment(session).await?))
    }

    /// Writes it onto a database.
    ///
    /// # Errors
    /// [`TargetError::Database`]
    pub async fn write(&self, session: &mut PgSession, database: &str) -> Result<(), TargetError> {
        comment(session, database, &quote_text(&self.text())).await.map_err(failed)
    }

    /// Takes it away, and puts back what was there before.
    ///
    /// # Errors
    /// [`TargetError::Database`]
    pub async fn clear(&self, session: &mut PgSession, database: &str) -> Result<(), TargetError> {
        let before = self.comment_before().map_or("NULL".to_owned(), |text| quote_text(&text));
        comment(session, database, &before).await.map_err(failed)
    }
}

fn failed(source: SessionError) -> TargetError {
    TargetError::Database { what: "the mark of an unfinished restore".to_owned(), source }
}

async fn comment(session: &mut PgSession, database: &str, value: &str) -> Result<(), SessionError> {
    let statement = format!("COMMENT ON DATABASE {} IS {value}", quote_identifier(database));
    session.run("the mark of an unfinished restore", &statement).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_as_written_and_nothing_else_does() {
        let mut mark = RestoreCheckpoint {
            vault: VaultId::from_random([7; 16]),
            backup: "20261122T031500Z-K3XQ7A".parse().unwrap(),
            what: "all".to_owned(),
            created: true,
            done: BTreeSet::new(),
        };
        assert_eq!(RestoreCheckpoint::parse(&mark.text()).as_ref(), Some(&mark));
        mark.done.extend(["schema".to_owned(), "data-001".to_owned()]);
        assert_eq!(RestoreCheckpoint::parse(&mark.text()).as_ref(), Some(&mark));
        mark.done.insert(RestoreCheckpoint::word_of_tablespace("fast, \"wide\""));
        assert_eq!(
            RestoreCheckpoint::parse(&mark.text()).unwrap().own_tablespaces(),
            BTreeSet::from(["fast, \"wide\"".to_owned()])
        );
        assert_eq!(mark.steps_done(), ["data-001", "schema"]);
        assert!(RestoreCheckpoint::is_within(
            format!("COMMENT ON DATABASE x IS '{}'", mark.text()).as_bytes()
        ));
        assert!(!RestoreCheckpoint::is_within(b"COMMENT ON DATABASE x IS 'the chat'"));
        for other in
            ["", "the chat database", BEGINNING, &mark.text().replace("backup=", "backup=x")]
        {
            assert_eq!(RestoreCheckpoint::parse(other), None, "{other}");
        }
    }
}

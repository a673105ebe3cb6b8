//! A server whose volumes are cut while it runs: a checkpoint just before, or an online backup
//! around.
//!
//! The session stays open throughout. An online backup ends with it, and so does the temporary slot
//! that keeps the WAL: whatever becomes of lifeboat, the server is left as it was.

use jiff::Timestamp;

use super::SourceError;
use super::snapshot::{SourceServer, server};
use crate::domain::manifest::{SourceFacts, plain_version};
use crate::pg::sql::quote_text;
use crate::pg::{PgConnection, PgSession, PgTools, SessionError};

/// A server that was asked to get ready.
pub struct OnlineServer {
    session: PgSession,
    /// What it is, and when and where in its WAL it was.
    pub facts: SourceFacts,
    server: SourceServer,
}

/// What an online backup left behind for whoever restores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabels {
    /// Content of `backup_label`.
    pub label: String,
    /// Content of `tablespace_map`.
    pub tablespace_map: String,
    /// Where recovery begins.
    pub start_lsn: String,
    /// What recovery must reach.
    pub stop_lsn: String,
}

/// An online backup that is under way.
pub struct OnlineBackup {
    online: OnlineServer,
    start_lsn: String,
}

/// An online backup that has ended. The slot keeps the WAL until this is dropped.
pub struct EndedBackup {
    /// What whoever restores needs.
    pub labels: BackupLabels,
    /// What the server is.
    pub facts: SourceFacts,
    _session: PgSession,
}

fn shape(what: &str) -> SourceError {
    SessionError::Shape { what: what.to_owned() }.into()
}

impl OnlineServer {
    /// Opens the session.
    ///
    /// # Errors
    /// [`SourceError`]; also if the server is a standby, whose volumes are cut like those of a
    /// server that crashed.
    pub async fn open(tools: &PgTools, connection: &PgConnection) -> Result<Self, SourceError> {
        let mut session = PgSession::open(tools, connection).await?;
        let server = server(&mut session).await?;
        if session
            .ask_one("whether it is a standby", "SELECT pg_catalog.pg_is_in_recovery()")
            .await?
            == "t"
        {
            return Err(SourceError::Incomplete(
                "the server is a standby; cut the volumes of its primary, or ask for crash consistency".to_owned(),
            ));
        }
        let facts = facts(&mut session, &server).await?;
        Ok(Self { session, facts, server })
    }

    /// Writes everything that is in memory to the volumes. What is committed from here on is in the
    /// WAL, and so in a cut that is one moment.
    ///
    /// # Errors
    /// [`SourceError`]
    pub async fn checkpoint(mut self) -> Result<SourceFacts, SourceError> {
        self.session.run("a checkpoint", "CHECKPOINT").await?;
        facts(&mut self.session, &self.server).await
    }

    /// Begins an online backup, its WAL held by a slot.
    ///
    /// # Errors
    /// [`SourceError`]
    pub async fn begin(mut self, label: &str) -> Result<OnlineBackup, SourceError> {
        // Gone with the session, at whatever moment that ends.
        let slot = format!(
            "SELECT pg_catalog.pg_create_physical_replication_slot({}, true, true)",
            quote_text(&format!("lifeboat_{}", hex::encode(rand::random::<[u8; 4]>())))
        );
        self.session.ask_one("a slot that keeps the WAL", &slot).await?;
        let begin = match self.server.major() {
            15.. => format!("SELECT pg_catalog.pg_backup_start({}, true)", quote_text(label)),
            _ => format!("SELECT pg_catalog.pg_start_backup({}, true, false)", quote_text(label)),
        };
        let start_lsn = self.session.ask_one("the beginning of an online backup", &begin).await?;
        self.facts = facts(&mut self.session, &self.server).await?;
        Ok(OnlineBackup { online: self, start_lsn })
    }
}

impl OnlineBackup {
    /// Ends the online backup. The volume with the WAL is cut after this and before the answer is
    /// dropped.
    ///
    /// # Errors
    /// [`SourceError`]
    pub async fn end(self) -> Result<EndedBackup, SourceError> {
        let OnlineServer { mut session, facts, server } = self.online;
        let end = match server.major() {
            15.. => "SELECT lsn, labelfile, spcmapfile FROM pg_catalog.pg_backup_stop(false)",
            _ => "SELECT lsn, labelfile, spcmapfile FROM pg_catalog.pg_stop_backup(false, false)",
        };
        let what = "the end of an online backup";
        let row = session.ask(what, end, 3).await?.into_iter().next().ok_or_else(|| shape(what))?;
        let [Some(stop_lsn), Some(label), map] = row.as_slice() else { return Err(shape(what)) };
        let labels = BackupLabels {
            label: label.clone(),
            tablespace_map: map.clone().unwrap_or_default(),
            start_lsn: self.start_lsn,
            stop_lsn: stop_lsn.clone(),
        };
        Ok(EndedBackup { labels, facts, _session: session })
    }
}

async fn facts(session: &mut PgSession, server: &SourceServer) -> Result<SourceFacts, SourceError> {
    let time = "SELECT pg_catalog.to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let snapshot_time: Timestamp =
        session.ask_one("the time", time).await?.parse().map_err(|_| shape("the time"))?;
    let lsn = session
        .ask_one("its position in the WAL", "SELECT pg_catalog.pg_current_wal_lsn()")
        .await?;
    // A role may not be allowed to know it.
    let system_identifier = match session
        .ask_one("an optional fact", "SELECT system_identifier FROM pg_catalog.pg_control_system()")
        .await
    {
        Ok(identifier) => Some(identifier),
        Err(SessionError::Refused { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(SourceFacts {
        server_version: Some(plain_version(&server.version)),
        server_version_num: Some(server.version_num),
        system_identifier,
        snapshot_time,
        snapshot_lsn: Some(lsn),
    })
}

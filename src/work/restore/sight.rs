//! Inspecting the target before anything is changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::RestoreOptions;
use crate::destination::postgres::TargetError;
use crate::destination::postgres::checkpoint::{RestoreCheckpoint, SWAPPING};
use crate::destination::postgres::database::{self, FoundDatabase};
use crate::destination::postgres::swap::SwapNames;
use crate::domain::human_duration::format_bytes;
use crate::domain::manifest::Manifest;
use crate::pg::session::estimate;
use crate::pg::sql::quote_text;
use crate::pg::{PgConnection, PgSession, PgTools};
use crate::source::postgres::snapshot;
use crate::work::{WorkContext, WorkError};

/// What was seen.
pub struct TargetInspection {
    /// Client programs that fit the server and the archive.
    pub(super) tools: PgTools,
    /// Where it is loaded: with `--swap` another database than the one that was named.
    pub(super) connection: PgConnection,
    pub(super) found: FoundDatabase,
    /// Whether what an interrupted restore of something else has made is dropped first.
    takes_over: bool,
    /// Name of the database that is loaded.
    pub database: String,
    /// Version of the server.
    pub server: String,
    /// The names that are traded in the end.
    pub swap: Option<SwapNames>,
    /// What has the name until then.
    pub(super) old: Option<ReplacedDatabase>,
    /// The server's data directory, if it is on this host.
    pub data_directory: Option<PathBuf>,
}

/// The database that a swap renames.
pub(super) struct ReplacedDatabase {
    bytes: u64,
    sessions: u64,
    pub(super) tables: BTreeSet<(String, String)>,
}

impl ReplacedDatabase {
    async fn look(session: &mut PgSession) -> Result<Self, TargetError> {
        let question = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database()), \
            (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database() AND pid <> pg_catalog.pg_backend_pid())";
        let rows = session.ask("its size", question, 2).await.map_err(TargetError::Session)?;
        let number =
            |at: usize| estimate(rows.first().and_then(|row| row.get(at)).unwrap_or(&None));
        let (bytes, sessions) = (number(0), number(1));
        let tables = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";
        let rows = session.ask("its tables", tables, 2).await.map_err(TargetError::Session)?;
        let tables = rows
            .into_iter()
            .filter_map(|row| Some((row.first()?.clone()?, row.get(1)?.clone()?)))
            .collect();
        Ok(Self { bytes, sessions, tables })
    }
}

impl TargetInspection {
    /// Whether the database will be created.
    #[must_use]
    pub fn creates(&self) -> bool {
        matches!(self.found, FoundDatabase::Missing { .. })
    }

    pub(super) fn session(&mut self) -> &mut PgSession {
        match &mut self.found {
            FoundDatabase::Missing { session, .. }
            | FoundDatabase::Empty(session)
            | FoundDatabase::Occupied { session, .. }
            | FoundDatabase::Unfinished(session, _) => session,
        }
    }

    /// What becomes of the database, for people.
    #[must_use]
    pub fn step(&self) -> String {
        let (name, server) = (&self.database, &self.server);
        match &self.found {
            FoundDatabase::Missing { .. } => {
                format!("create database {name:?} on PostgreSQL {server}")
            }
            FoundDatabase::Empty(_) => {
                format!("use the existing, empty database {name:?} on PostgreSQL {server}")
            }
            FoundDatabase::Occupied { count, .. } => {
                format!(
                    "use the existing database {name:?} with its {count} objects on PostgreSQL {server}"
                )
            }
            FoundDatabase::Unfinished(_, mark) if self.takes_over => {
                format!(
                    "drop the unfinished database {name:?}, which a restore of backup {} has made, and create it anew on PostgreSQL {server}",
                    mark.backup
                )
            }
            FoundDatabase::Unfinished(_, mark) if mark.steps_done().is_empty() => {
                format!("begin again with the unfinished database {name:?} on PostgreSQL {server}")
            }
            FoundDatabase::Unfinished(_, mark) => {
                format!(
                    "go on in the unfinished database {name:?} on PostgreSQL {server}; done already: {}",
                    mark.steps_done().join(", ")
                )
            }
        }
    }

    /// What happens to the names in the end.
    #[must_use]
    pub fn swap_step(&self) -> Option<String> {
        let swap = self.swap.as_ref()?;
        let old = self
            .old
            .as_ref()
            .map(|old| format!(" ({}, {} sessions now)", format_bytes(old.bytes), old.sessions));
        Some(format!(
            "end the sessions of {:?}{}, rename it to {:?}, and {:?} to {:?}; nothing is dropped",
            swap.database,
            old.unwrap_or_default(),
            swap.aside,
            swap.beside,
            swap.database
        ))
    }
}

/// Looks at the target, changing nothing.
///
/// # Errors
/// [`WorkError`] for everything that stands in the way.
pub async fn inspect(
    rig: &WorkContext,
    manifest: &Manifest,
    target: &PgConnection,
    wishes: &RestoreOptions,
) -> Result<TargetInspection, WorkError> {
    // pg_restore must be as new as the archive; as new as the server is better, which the server
    // decides below.
    let tools = PgTools::find(rig.config.pg_bin.as_deref(), manifest.tools.major())
        .await
        .map_err(TargetError::from)?;
    let (mut connection, mut swap, mut old) = (target.clone(), None, None);
    let mut found = database::look(&tools, target).await?;
    let is_of_this = |mark: &RestoreCheckpoint| {
        mark.vault == manifest.vault && mark.backup == manifest.backup && mark.what == wishes.what()
    };
    // Interrupted behind the trade of names: what has the name is what was restored, and only its
    // mark is left to be taken away.
    let traded = matches!(&found, FoundDatabase::Unfinished(_, mark) if mark.done.contains(SWAPPING) && is_of_this(mark));
    let swaps = wishes.swap && !traded;
    if swaps && let FoundDatabase::Missing { name, .. } = &found {
        return Err(WorkError::Refused {
            what: "--swap".to_owned(),
            why: format!(
                "there is no database {name:?} whose place could be taken; nothing was changed"
            ),
            hint: "check the name; without --swap it is created".to_owned(),
        });
    }
    if swaps && let FoundDatabase::Unfinished(session, mark) = &mut found {
        // What is loaded in its place would not be the old database but a half new one.
        return Err(TargetError::Unfinished {
            database: name(session).await?,
            backup: mark.backup.to_string(),
            what: mark.what.clone(),
        }
        .into());
    }
    if swaps
        && let FoundDatabase::Empty(session) | FoundDatabase::Occupied { session, .. } = &mut found
    {
        let names = SwapNames::named(&name(session).await?, manifest.backup.as_str());
        free(session, &names.aside).await?;
        old = Some(ReplacedDatabase::look(session).await?);
        connection = target.to_database(&names.beside);
        found = database::look(&tools, &connection).await?;
        swap = Some(names);
    }
    let mut takes_over = false;
    let database = match &mut found {
        FoundDatabase::Missing { name, .. } => name.clone(),
        FoundDatabase::Empty(session) => name(session).await?,
        FoundDatabase::Occupied { session, .. } if wishes.beside_tables && swap.is_none() => {
            name(session).await?
        }
        FoundDatabase::Occupied { session, count, example } => {
            return Err(TargetError::NotEmpty {
                database: name(session).await?,
                count: *count,
                example: example.clone(),
            }
            .into());
        }
        FoundDatabase::Unfinished(session, mark) => {
            let database = name(session).await?;
            let is_another = !is_of_this(mark);
            if is_another && !(wishes.take_over && mark.created && !mark.done.contains(SWAPPING)) {
                return Err(TargetError::Unfinished {
                    database,
                    backup: mark.backup.to_string(),
                    what: mark.what.clone(),
                }
                .into());
            }
            takes_over = is_another;
            database
        }
    };
    let (FoundDatabase::Missing { session, .. }
    | FoundDatabase::Empty(session)
    | FoundDatabase::Occupied { session, .. }
    | FoundDatabase::Unfinished(session, _)) = &mut found;
    let server = snapshot::server(session).await.map_err(TargetError::Session)?;
    if session
        .ask_one("whether it is a standby", "SELECT pg_catalog.pg_is_in_recovery()")
        .await
        .map_err(TargetError::Session)?
        == "t"
    {
        return Err(WorkError::Refused {
            what: "the target server".to_owned(),
            why: "it is a standby, which takes no writes; nothing was changed".to_owned(),
            hint: "restore to its primary, or promote it first".to_owned(),
        });
    }
    offers(session, &server, wishes).await?;
    let wanted = manifest.source.major();
    if server.major() < wanted && !wishes.older_server {
        return Err(TargetError::Older {
            found: server.version,
            wanted: manifest.source.version().to_owned(),
        }
        .into());
    }
    let data_directory =
        if connection.launcher().is_some() { None } else { data_directory(session).await };
    let tools = match PgTools::find(
        rig.config.pg_bin.as_deref(),
        server.major().max(manifest.tools.major()),
    )
    .await
    {
        Ok(newer) => newer,
        // Roles of a server are read by a pg_dumpall that is at least as new.
        Err(error) if !wishes.no_globals => return Err(TargetError::Tools(error).into()),
        Err(_) => tools,
    };
    Ok(TargetInspection {
        tools,
        connection,
        found,
        takes_over,
        database,
        server: server.version,
        swap,
        old,
        data_directory,
    })
}

async fn name(session: &mut PgSession) -> Result<String, TargetError> {
    Ok(snapshot::server(session).await.map_err(TargetError::Session)?.database)
}

/// The name that the old database gets must be free.
async fn free(session: &mut PgSession, name: &str) -> Result<(), WorkError> {
    let question =
        format!("SELECT count(*) FROM pg_catalog.pg_database WHERE datname = {}", quote_text(name));
    if session.ask_one("the list of databases", &question).await.map_err(TargetError::Session)?
        == "0"
    {
        return Ok(());
    }
    Err(WorkError::Refused {
        what: "--swap".to_owned(),
        why: format!(
            "there is a database {name:?} already, from an earlier swap to the same backup; nothing was changed"
        ),
        hint: "rename or drop it, if it is no longer needed".to_owned(),
    })
}

/// Whether the server has what the plan expects of it.
async fn offers(
    session: &mut PgSession,
    server: &snapshot::SourceServer,
    wishes: &RestoreOptions,
) -> Result<(), WorkError> {
    if let Some(major) = wishes.major.filter(|major| *major != server.major()) {
        return Err(TargetError::Lacks {
            what: format!("PostgreSQL {major}; it is {}", server.version),
        }
        .into());
    }
    for extension in &wishes.extensions {
        let mut words = extension.split_whitespace();
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let versions = format!(
            "SELECT version FROM pg_catalog.pg_available_extension_versions WHERE name = {} ORDER BY version",
            quote_text(name)
        );
        let rows =
            session.ask("its extensions", &versions, 1).await.map_err(TargetError::Session)?;
        let offered: Vec<String> = rows.into_iter().flatten().flatten().collect();
        if offered.is_empty() || version.is_some_and(|wanted| !offered.iter().any(|v| v == wanted))
        {
            let has = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
            return Err(TargetError::Lacks {
                what: format!("extension {extension}; it offers {has}"),
            }
            .into());
        }
    }
    Ok(())
}

/// The server's data directory, if it tells it and it is on this host: the same cluster, not only
/// the same path.
async fn data_directory(session: &mut PgSession) -> Option<PathBuf> {
    let rows = session
        .ask("its data directory", "SELECT pg_catalog.current_setting('data_directory', true)", 1)
        .await
        .ok()?;
    let directory = PathBuf::from(rows.into_iter().flatten().flatten().next()?);
    Path::new(&directory).join("postmaster.pid").exists().then_some(directory)
}

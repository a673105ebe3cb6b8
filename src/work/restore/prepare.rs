//! Everything that is checked before the first change: the backup opened, the target inspected,
//! what happens to roles, what is left out, and what the connecting role may not do.

use std::collections::BTreeSet;

use super::RestoreOptions;
use super::read_through::has_lists;
use super::sight::{TargetInspection, inspect};
use crate::destination::postgres::database::{DatabaseProperties, FoundDatabase};
use crate::destination::postgres::globals::GlobalsPlan;
use crate::destination::postgres::load::{LoadOptions, OpenedArchive};
use crate::destination::postgres::rights::{MissingRight, RoleRights};
use crate::destination::postgres::selection::{ArchiveSelection, RestoreFilter};
use crate::destination::postgres::{LoadError, TargetError};
use crate::domain::fingerprint::{Fingerprint, OmittedObject};
use crate::domain::manifest::{Manifest, PayloadRole};
use crate::pg::archive::{TableOfContents, TocEntry, readable};
use crate::pg::globals::{self, GlobalsScript};
use crate::pg::sql::quote_text;
use crate::pg::{PgConnection, PgSession, SessionError};
use crate::seal::BackupIdentity;
use crate::source::postgres::{SourceError, dump, snapshot};
use crate::work::compare::OmittedParts;
use crate::work::verify::payload_of;
use crate::work::{WorkContext, WorkError, shelf};

/// Everything known before the first change.
pub struct PreparedRestore {
    pub(super) manifest: Manifest,
    pub(super) identity: BackupIdentity,
    pub(super) sight: TargetInspection,
    pub(super) archive: OpenedArchive,
    pub(super) selection: Option<ArchiveSelection>,
    pub(super) properties: DatabaseProperties,
    pub(super) globals: GlobalsScript,
    pub(super) plan: GlobalsPlan,
    pub(super) rights: RoleRights,
    pub(super) lacks: Vec<MissingRight>,
    pub(super) leave: LoadOptions,
    pub(super) skipped: Vec<String>,
    pub(super) wishes: RestoreOptions,
    /// What the database held and the backup does not.
    pub(super) omitted: Vec<OmittedObject>,
    /// The slot that opened the backup.
    pub slot: String,
}

impl PreparedRestore {
    /// What the database held and the backup does not.
    #[must_use]
    pub fn omitted(&self) -> &[OmittedObject] {
        &self.omitted
    }
    /// What is left out, by the names under which it is recorded.
    #[must_use]
    pub fn left_out_of_comparison(&self) -> OmittedParts {
        OmittedParts::of(&self.archive.contents, &self.leave)
    }
    /// Whether a swap would rename a database that has no table of the backup.
    #[must_use]
    pub fn swaps_a_stranger(&self) -> bool {
        let is_there = |tables: &BTreeSet<(String, String)>, entry: &TocEntry| {
            tables.contains(&(readable(&entry.schema), readable(&entry.tag)))
        };
        let of_backup = || self.archive.contents.of_kind("TABLE");
        self.sight.old.as_ref().is_some_and(|old| {
            of_backup().next().is_some() && !of_backup().any(|entry| is_there(&old.tables, entry))
        })
    }
    /// What the connecting role may not do.
    #[must_use]
    pub fn lacks(&self) -> &[MissingRight] {
        &self.lacks
    }
    /// What will be done about roles and tablespaces.
    #[must_use]
    pub fn globals(&self) -> Option<&GlobalsPlan> {
        (!self.wishes.no_globals).then_some(&self.plan)
    }
    /// What is left out because somebody asked for it, with what depends on it.
    #[must_use]
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }
    /// What was seen of the target.
    #[must_use]
    pub fn sight(&self) -> &TargetInspection {
        &self.sight
    }
    /// Foreign keys to tables that were not asked for.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        self.selection.as_ref().map_or(&[], |selection| &selection.left_out)
    }
}

/// Opens the backup and looks at the target, changing nothing.
///
/// # Errors
/// [`WorkError`] for everything that stands in the way.
pub async fn prepare(
    rig: &WorkContext,
    manifest: Manifest,
    target: PgConnection,
    wishes: RestoreOptions,
) -> Result<PreparedRestore, WorkError> {
    let target = target.as_role(wishes.role.clone());
    let mut sight = inspect(rig, &manifest, &target, &wishes).await?;
    let shelf::OpenedBackup { identity, slot, .. } = shelf::open_backup(rig, &manifest).await?;
    let opened =
        shelf::open_payload(rig, payload_of(&manifest, PayloadRole::Main)?, &identity).await?;
    let archive = OpenedArchive::begin(opened).await.map_err(before_loading)?;
    holds(&archive.contents, &wishes.without_rows_of)?;
    let selection = wishes.only.as_ref().map(|only| select(&archive.contents, only)).transpose()?;
    let (leave, skipped) = left_out(&archive.contents, &wishes)?;
    extensions_are_offered(&mut sight, &archive.contents, selection.as_ref(), &leave).await?;
    let properties = DatabaseProperties::of(&archive.contents)?;
    if let FoundDatabase::Empty(session) | FoundDatabase::Occupied { session, .. } =
        &mut sight.found
    {
        let encoding = session
            .ask_one("its encoding", "SELECT pg_catalog.getdatabaseencoding()")
            .await
            .map_err(TargetError::Session)?;
        if encoding != properties.encoding {
            return Err(TargetError::Encoding {
                database: sight.database,
                found: encoding,
                wanted: properties.encoding,
            }
            .into());
        }
    }
    // Settings of the database come with the whole of it only; and the server is told to load
    // nothing that nobody vouches for.
    if wishes.only.is_none() && (wishes.read_through || has_lists(rig, &manifest).await?) {
        libraries_can_be_loaded(&mut sight, &properties).await?;
    }
    let script =
        shelf::read_payload(rig, payload_of(&manifest, PayloadRole::Globals)?, &identity).await?;
    let globals = globals::parse(&script).map_err(TargetError::from)?;
    let rights = RoleRights::of(sight.session()).await.map_err(TargetError::Session)?;
    let plan = match wishes.no_globals {
        true => GlobalsPlan::default(),
        false => {
            let existing = target_globals(&mut sight).await?;
            GlobalsPlan::of(&globals, &existing, &wishes.tablespaces, &rights, |kind, name| {
                wishes.skips.has(kind, name)
            })?
        }
    };
    let wanted = archive.contents.entries.iter().filter(|entry| {
        !leave.entries.contains(&entry.dump_id)
            && selection.as_ref().is_none_or(|selection| selection.holds(entry.dump_id))
    });
    let wanted: Vec<&TocEntry> = wanted.collect();
    let made: BTreeSet<String> = plan.report.roles_created.iter().cloned().collect();
    let creates = sight.creates();
    let mut lacks =
        rights.lacking(sight.session(), &wanted, creates, &made, !wishes.no_owner).await?;
    lacks.extend(plan.beyond.iter().map(|what| {
        MissingRight {
            what: format!("make {what}"),
            next:
                "make it beforehand, leave it out with --skip ROLE:NAME, or restore as a superuser"
                    .to_owned(),
        }
    }));
    let recorded =
        shelf::read_payload(rig, payload_of(&manifest, PayloadRole::Fingerprint)?, &identity)
            .await?;
    let omitted = Fingerprint::parse(&recorded)?.omitted;
    Ok(PreparedRestore {
        manifest,
        identity,
        sight,
        archive,
        selection,
        properties,
        globals,
        plan,
        rights,
        lacks,
        leave,
        skipped,
        wishes,
        omitted,
        slot,
    })
}

fn select(contents: &TableOfContents, only: &RestoreFilter) -> Result<ArchiveSelection, WorkError> {
    ArchiveSelection::of(contents, only).map_err(|(name, known)| {
        let hint = match shelf::nearest(&name, &known) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!(
                "the backup holds {} such objects; `pg_restore --list` shows them: lifeboat restore … --to - | pg_restore --list",
                known.len()
            ),
        };
        WorkError::Refused {
            what: "what is to be restored".to_owned(),
            why: format!("the backup holds no {name}; nothing was changed"),
            hint,
        }
    })
}

/// An extension that is not installed would be found out in the middle of the schema.
async fn extensions_are_offered(
    sight: &mut TargetInspection,
    contents: &TableOfContents,
    selection: Option<&ArchiveSelection>,
    leave: &LoadOptions,
) -> Result<(), WorkError> {
    let extensions =
        contents.of_kind("EXTENSION").filter(|entry| !leave.entries.contains(&entry.dump_id));
    let wanted =
        extensions.filter(|entry| selection.is_none_or(|selection| selection.holds(entry.dump_id)));
    let names: Vec<String> = wanted.map(|entry| readable(&entry.tag)).collect();
    let mut missing = Vec::new();
    for name in names {
        let question = format!(
            "SELECT count(*) FROM pg_catalog.pg_available_extensions WHERE name = {}",
            quote_text(&name)
        );
        if sight
            .session()
            .ask_one("its extensions", &question)
            .await
            .map_err(TargetError::Session)?
            == "0"
        {
            missing.push(name);
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(TargetError::Lacks {
            what: format!("extension {}, which the backup uses", missing.join(", ")),
        }
        .into()),
    }
}

/// SQLSTATE.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// A database that preloads a library which the server does not have lets nobody in any more, this
/// restore included. Whoever may not load libraries may not set them either.
async fn libraries_can_be_loaded(
    sight: &mut TargetInspection,
    properties: &DatabaseProperties,
) -> Result<(), WorkError> {
    let libraries = properties.preloaded();
    if libraries.is_empty() {
        return Ok(());
    }
    let here = snapshot::server(sight.session()).await.map_err(TargetError::Session)?;
    let connection = if sight.creates() {
        sight.connection.to_database(&here.database)
    } else {
        sight.connection.clone()
    };
    // In a session of its own: what a library does to a session it does to none of ours.
    let mut session =
        PgSession::open(&sight.tools, &connection).await.map_err(TargetError::Session)?;
    for library in libraries {
        match session
            .run_opaque(
                "its libraries",
                &[b"LOAD ", library.as_slice()].concat(),
                &properties.encoding,
            )
            .await
        {
            Err(SessionError::Refused { sqlstate, message, .. })
                if sqlstate != INSUFFICIENT_PRIVILEGE =>
            {
                let what = format!(
                    "the library {}, which every session of the database loads ({message})",
                    readable(&library)
                );
                return Err(TargetError::Lacks { what }.into());
            }
            Ok(()) | Err(SessionError::Refused { .. }) => {}
            Err(error) => return Err(TargetError::Session(error).into()),
        }
    }
    Ok(())
}

/// A table whose rows are to be left out and that is not there is a mistake in the plan, and
/// perhaps in the name of what matters.
fn holds(contents: &TableOfContents, tables: &[(String, String)]) -> Result<(), WorkError> {
    let is = |entry: &crate::pg::archive::TocEntry, (schema, name): &(String, String)| {
        entry.schema == schema.as_bytes() && entry.tag == name.as_bytes()
    };
    match tables.iter().find(|table| !contents.of_kind("TABLE").any(|entry| is(entry, table))) {
        None => Ok(()),
        Some((schema, name)) => Err(WorkError::Refused {
            what: "the restore plan".to_owned(),
            why: format!(
                "it leaves out the rows of {schema}.{name}, and the backup holds no such table; nothing was changed"
            ),
            hint: "correct without_rows_of in the plan".to_owned(),
        }),
    }
}

pub(super) fn before_loading(source: LoadError) -> WorkError {
    match source {
        LoadError::Open(error) => WorkError::Open(error),
        LoadError::Archive(error) => {
            WorkError::Damaged { what: "payload main".to_owned(), why: error.to_string() }
        }
        other => WorkError::Bug(other.to_string()),
    }
}

/// What the connecting role may not do, as the reason not to begin.
#[must_use]
pub fn refusal(lack: &MissingRight) -> WorkError {
    WorkError::Refused {
        what: "the connecting role".to_owned(),
        why: format!("it may not {}; nothing was changed", lack.what),
        hint: lack.next.clone(),
    }
}

/// What somebody asked to leave out of the archive, and its names with those of what depends on it.
fn left_out(
    contents: &TableOfContents,
    wishes: &RestoreOptions,
) -> Result<(LoadOptions, Vec<String>), WorkError> {
    let entries = wishes.skips.of(contents).map_err(|word| WorkError::Refused {
        what: "--skip".to_owned(),
        why: format!("the backup holds no {word}; nothing was changed"),
        hint:
            "kinds and names are those that `lifeboat restore … --to - | pg_restore --list` shows"
                .to_owned(),
    })?;
    let skipped = contents.entries.iter().filter(|entry| entries.contains(&entry.dump_id));
    let names = skipped.clone().map(|entry| format!("{} {}", entry.kind, entry.name())).collect();
    let is_sequence =
        |entry: &&TocEntry| matches!(entry.kind.as_str(), "SEQUENCE" | "SEQUENCE SET");
    let sequences = skipped
        .clone()
        .filter(is_sequence)
        .map(|entry| (entry.schema.clone(), entry.tag.clone()))
        .collect();
    let is_table = |entry: &&TocEntry| matches!(entry.kind.as_str(), "TABLE" | "TABLE DATA");
    let mut rows: BTreeSet<_> =
        skipped.filter(is_table).map(|entry| (entry.schema.clone(), entry.tag.clone())).collect();
    let of_table = |entry: &&TocEntry| wishes.skips.has_entry("TABLE DATA", entry);
    rows.extend(
        contents
            .of_kind("TABLE")
            .filter(of_table)
            .map(|entry| (entry.schema.clone(), entry.tag.clone())),
    );
    let privileges = contents.entries.iter().filter(|entry| {
        wishes.no_privileges && matches!(entry.kind.as_str(), "ACL" | "DEFAULT ACL")
    });
    let entries = entries.into_iter().chain(privileges.map(|entry| entry.dump_id)).collect();
    Ok((
        LoadOptions {
            owners: wishes.no_owner,
            entries,
            rows,
            sequences,
            keep_going: wishes.keep_going,
        },
        names,
    ))
}

/// Roles and tablespaces of the target, with passwords if they may be read: only then can sameness
/// be told.
async fn target_globals(sight: &mut TargetInspection) -> Result<GlobalsScript, WorkError> {
    let here = snapshot::server(sight.session()).await.map_err(TargetError::Session)?;
    let connection = if sight.creates() {
        sight.connection.to_database(&here.database)
    } else {
        sight.connection.clone()
    };
    let unreadable = |error: SourceError| {
        WorkError::NotVerified(format!(
            "roles of the target could not be read, so nothing was changed: {error}"
        ))
    };
    let script = match dump::globals_once(&sight.tools, &connection, &here.database, true).await {
        Ok(script) => script,
        Err(_) => dump::globals_once(&sight.tools, &connection, &here.database, false)
            .await
            .map_err(unreadable)?,
    };
    Ok(globals::parse(&script).map_err(TargetError::from)?)
}

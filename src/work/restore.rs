//! Restoring a backup: into a database, a directory, or standard output.
//!
//! Into a database: everything that can refuse is asked first ([`prepare`]), and the answer is a plan that can be shown;
//! [`into_database`] consumes it. On failure the report says exactly what state the target is in and how to go on.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::compare::{Comparison, compare, fingerprint_of};
use super::verify::payload_of;
use super::{Rig, WorkError, shelf};
use crate::check;
use crate::config::plans::{PlanStage, Smoke};
use crate::domain::drill::CheckResult;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::manifest::{Manifest, Payload, Role};
use crate::pg::archive::Contents;
use crate::pg::globals::{self, Globals};
use crate::pg::sql::quote_text;
use crate::pg::{Connection, Tools};
use crate::seal::Identity;
use crate::source::postgres::{dump, snapshot};
use crate::target::ahead::Ahead;
use crate::target::database::{self, Found, Properties};
use crate::target::globals::{GlobalsReport, TablespaceMap, apply};
use crate::target::load::{Archive, Loaded, Loader};
use crate::target::{LoadError, TargetError};

/// What the person asked for beside backup and target.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Leave roles and tablespaces alone.
    pub no_globals: bool,
    /// Load beside relations that are there.
    pub beside_tables: bool,
    /// Tables whose rows stay in the backup: schema and name.
    pub without_rows_of: Vec<(String, String)>,
    /// `name=/directory` pairs.
    pub tablespaces: TablespaceMap,
    /// Compare with the fingerprint afterwards.
    pub check: bool,
    /// How many things happen at once on the target: rows, indexes, constraints.
    pub jobs: usize,
    /// Major version the server must have.
    pub major: Option<u32>,
    /// Extensions the server must offer, by name or by name and version.
    pub extensions: Vec<String>,
    /// Settings of the sessions that load.
    pub settings: Vec<(String, String)>,
    /// Statements for the empty database.
    pub before: Vec<String>,
    /// Statements for the loaded database.
    pub after: Vec<String>,
    /// Programs that must succeed in the end.
    pub smoke: Vec<Smoke>,
}

impl Wishes {
    /// What a restore plan says about one datastore.
    ///
    /// # Errors
    /// [`WorkError::Refused`] if a tablespace is not written as it must be.
    pub fn of(stage: &PlanStage) -> Result<Self, WorkError> {
        let tablespaces = TablespaceMap::parse(&stage.tablespaces).map_err(|why| WorkError::Refused {
            what: format!("restore plan of {}", stage.datastore),
            why,
            hint: "write tablespaces = { name = \"/directory\" }".to_owned(),
        })?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            no_globals: !stage.globals,
            beside_tables: false,
            without_rows_of: stage.without_rows_of.clone(),
            tablespaces,
            check: false,
            jobs: stage.jobs.unwrap_or(cores),
            major: stage.major,
            extensions: stage.extensions.clone(),
            settings: stage.settings.clone(),
            before: stage.before.clone(),
            after: stage.after.clone(),
            smoke: stage.smoke.clone(),
        })
    }
}

/// Everything known before the first change.
pub struct Prepared {
    manifest: Manifest,
    identity: Identity,
    connection: Connection,
    tools: Tools,
    archive: Archive,
    properties: Properties,
    globals: Globals,
    wishes: Wishes,
    /// The slot that opened the backup.
    pub slot: String,
    /// Name of the target database.
    pub database: String,
    /// Whether it will be created.
    pub creates: bool,
    /// Version of the target server.
    pub server: String,
}

/// How long a stage took.
#[derive(Debug, Serialize)]
pub struct StageTime {
    /// The stage.
    pub stage: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// Bytes that passed, where that says something.
    pub bytes: Option<u64>,
}

impl StageTime {
    fn since(stage: &'static str, begun: Instant, bytes: Option<u64>) -> Self {
        Self { stage, seconds: begun.elapsed().as_secs_f64(), bytes }
    }
}

/// What a restore did.
#[derive(Debug, Serialize)]
pub struct RestoreReport {
    /// The backup.
    pub backup: String,
    /// Target database.
    pub database: String,
    /// The slot that opened the backup.
    pub opened_with: String,
    /// What happened to roles and tablespaces; none if they were left alone.
    pub globals: Option<GlobalsReport>,
    /// Plaintext bytes loaded.
    pub plain_bytes: u64,
    /// The stages, in order.
    pub stages: Vec<StageTime>,
    /// The comparison with the fingerprint, if asked for.
    pub comparison: Option<Comparison>,
    /// What the plan's smoke commands said.
    pub smoke: Vec<CheckResult>,
}

/// Opens the backup and looks at the target, changing nothing.
///
/// # Errors
/// [`WorkError`] for everything that stands in the way.
pub async fn prepare(rig: &Rig, manifest: Manifest, target: Connection, wishes: Wishes) -> Result<Prepared, WorkError> {
    // pg_restore must be as new as the archive; as new as the server is better, which the server decides below.
    let tools = Tools::find(rig.config.pg_bin.as_deref(), manifest.tools.pg_dump_major).await.map_err(TargetError::from)?;
    let found = database::look(&tools, &target).await?;
    let (mut session, new_name) = match found {
        Found::Missing { session, name } => (session, Some(name)),
        Found::Empty(session) => (session, None),
        Found::Occupied { session, .. } if wishes.beside_tables => (session, None),
        Found::Occupied { mut session, count, example } => {
            let database = snapshot::server(&mut session).await.map_err(TargetError::Session)?.database;
            return Err(TargetError::NotEmpty { database, count, example }.into());
        }
    };
    let server = snapshot::server(&mut session).await.map_err(TargetError::Session)?;
    offers(&mut session, &server, &wishes).await?;
    let tools = match Tools::find(rig.config.pg_bin.as_deref(), server.major().max(manifest.tools.pg_dump_major)).await {
        Ok(newer) => newer,
        Err(_) => tools,
    };
    let shelf::OpenedBackup { identity, slot, .. } = shelf::open(rig, &manifest).await?;
    let opened = shelf::open_payload(rig, payload_of(&manifest, Role::Main)?, &identity).await?;
    let archive = Archive::begin(opened).await.map_err(before_loading)?;
    holds(&archive.contents, &wishes.without_rows_of)?;
    let properties = Properties::of(&archive.contents)?;
    let creates = new_name.is_some();
    let database = new_name.unwrap_or(server.database);
    if !creates {
        let encoding = session.ask_one("its encoding", "SELECT pg_catalog.getdatabaseencoding()").await.map_err(TargetError::Session)?;
        if encoding != properties.encoding {
            return Err(TargetError::Encoding { database, found: encoding, wanted: properties.encoding }.into());
        }
    }
    let script = shelf::read_payload(rig, payload_of(&manifest, Role::Globals)?, &identity).await?;
    let globals = globals::parse(&script).map_err(TargetError::from)?;
    Ok(Prepared {
        manifest,
        identity,
        connection: target,
        tools,
        archive,
        properties,
        globals,
        wishes,
        slot,
        database,
        creates,
        server: server.version,
    })
}

/// Whether the server has what the plan expects of it.
async fn offers(session: &mut crate::pg::Session, server: &snapshot::Server, wishes: &Wishes) -> Result<(), WorkError> {
    if let Some(major) = wishes.major.filter(|major| *major != server.major()) {
        return Err(TargetError::Lacks { what: format!("PostgreSQL {major}; it is {}", server.version) }.into());
    }
    for extension in &wishes.extensions {
        let mut words = extension.split_whitespace();
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let versions =
            format!("SELECT version FROM pg_catalog.pg_available_extension_versions WHERE name = {} ORDER BY version", quote_text(name));
        let rows = session.ask("its extensions", &versions, 1).await.map_err(TargetError::Session)?;
        let offered: Vec<String> = rows.into_iter().flatten().flatten().collect();
        if offered.is_empty() || version.is_some_and(|wanted| !offered.iter().any(|v| v == wanted)) {
            let has = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
            return Err(TargetError::Lacks { what: format!("extension {extension}; it offers {has}") }.into());
        }
    }
    Ok(())
}

/// A table whose rows are to be left out and that is not there is a mistake in the plan, and perhaps in the name of what matters.
fn holds(contents: &Contents, tables: &[(String, String)]) -> Result<(), WorkError> {
    let is = |entry: &crate::pg::archive::Entry, (schema, name): &(String, String)| {
        entry.schema == schema.as_bytes() && entry.tag == name.as_bytes()
    };
    match tables.iter().find(|table| !contents.of_kind("TABLE").any(|entry| is(entry, table))) {
        None => Ok(()),
        Some((schema, name)) => Err(WorkError::Refused {
            what: "the restore plan".to_owned(),
            why: format!("it leaves out the rows of {schema}.{name}, and the backup holds no such table; nothing was changed"),
            hint: "correct without_rows_of in the plan".to_owned(),
        }),
    }
}

fn before_loading(source: LoadError) -> WorkError {
    match source {
        LoadError::Open(error) => WorkError::Open(error),
        LoadError::Archive(error) => WorkError::Damaged { what: "payload main".to_owned(), why: error.to_string() },
        other => WorkError::Bug(other.to_string()),
    }
}

/// What has been done so far, for the message after a failure.
struct State {
    changed: Vec<String>,
}

/// Runs a prepared restore.
///
/// # Errors
/// [`WorkError::Target`] and the like; the text beside it says what was changed.
pub async fn into_database(rig: &Rig, prepared: Prepared) -> Result<RestoreReport, (WorkError, String)> {
    let mut state = State { changed: Vec::new() };
    let (database, creates) = (prepared.database.clone(), prepared.creates);
    load(rig, prepared, &mut state).await.map_err(|error| (error, state_of_target(&state, &database, creates)))
}

fn state_of_target(state: &State, database: &str, creates: bool) -> String {
    if state.changed.is_empty() {
        return "nothing was changed on the target".to_owned();
    }
    let again =
        if creates { format!("drop database {database:?}") } else { format!("drop and recreate database {database:?}, or empty it") };
    format!(
        "state of the target: {}. The backup is untouched. To start over: {again}, and run the same command again; roles that were made are found and kept",
        state.changed.join("; ")
    )
}

async fn load(rig: &Rig, prepared: Prepared, state: &mut State) -> Result<RestoreReport, WorkError> {
    let Prepared { manifest, identity, connection, tools, archive, properties, globals, wishes, slot, database, creates, .. } = prepared;
    let mut stages = Vec::new();
    let mut session = match database::look(&tools, &connection).await? {
        Found::Missing { session, .. } if creates => session,
        Found::Empty(session) if !creates => session,
        Found::Occupied { session, .. } if wishes.beside_tables => session,
        // The plan was made for another state of the world.
        _ => {
            return Err(WorkError::Refused {
                what: format!("target database {database}"),
                why: "it changed since it was looked at; nothing was changed".to_owned(),
                hint: "run the command again".to_owned(),
            });
        }
    };
    let encoding = globals.encoding.clone();
    let mut left_out = false;
    let globals_report = if wishes.no_globals {
        None
    } else {
        let begun = Instant::now();
        let here = snapshot::server(&mut session).await.map_err(TargetError::Session)?;
        let existing = target_globals(&tools, &connection, &here.database, creates).await?;
        state.changed.push("roles and tablespaces of the backup were made where missing".to_owned());
        let report = apply(&mut session, &globals, &existing, &wishes.tablespaces).await?;
        left_out = !report.tablespaces_left_out.is_empty();
        stages.push(StageTime::since("globals", begun, None));
        Some(report)
    };
    if creates {
        properties.create(&mut session, &database, &encoding).await?;
        state.changed.push(format!("database {database:?} was created"));
    }
    let loader = Loader {
        tools: tools.clone(),
        connection: connection.clone(),
        jobs: wishes.jobs.max(1),
        no_tablespaces: left_out,
        cancel: rig.cancel.clone(),
        settings: wishes.settings.clone(),
        without_rows_of: wishes.without_rows_of.clone(),
    };
    statements(&loader, &wishes.before, "before", state).await?;
    load_sections(rig, &manifest, &identity, archive, &loader, state, &mut stages).await?;
    properties.apply(&mut session, &database, &encoding).await?;
    drop(session);
    statements(&loader, &wishes.after, "after", state).await?;
    let comparison = if wishes.check {
        let begun = Instant::now();
        let comparison = check_restored(rig, &manifest, &identity, &loader).await?;
        stages.push(StageTime::since("compare", begun, Some(rows_bytes(&manifest))));
        Some(comparison)
    } else {
        None
    };
    let mut smoke = Vec::new();
    for one in &wishes.smoke {
        smoke.push(check::smoke(one, &manifest.datastore, &connection).await);
    }
    Ok(RestoreReport {
        backup: manifest.backup.to_string(),
        database,
        opened_with: slot,
        globals: globals_report,
        plain_bytes: manifest.plain_bytes(),
        stages,
        comparison,
        smoke,
    })
}

/// Statements of the restore plan.
async fn statements(loader: &Loader, statements: &[String], when: &'static str, state: &mut State) -> Result<(), WorkError> {
    if statements.is_empty() {
        return Ok(());
    }
    let mut session = crate::pg::Session::open_for_people(&loader.tools, &loader.connection).await.map_err(TargetError::Session)?;
    for (number, statement) in statements.iter().enumerate() {
        let what = format!("statement {} of `{when}` in the restore plan", number + 1);
        session.run(&what, statement).await.map_err(|source| TargetError::Database { what: what.clone(), source })?;
    }
    state.changed.push(format!("the plan's `{when}` statements were run"));
    Ok(())
}

/// Roles and tablespaces of the target, with passwords if they may be read: only then can sameness be told.
async fn target_globals(tools: &Tools, connection: &Connection, database: &str, creates: bool) -> Result<Globals, WorkError> {
    let connection = if creates { connection.to_database(database) } else { connection.clone() };
    let unreadable = |error: crate::source::postgres::SourceError| {
        WorkError::NotVerified(format!("roles of the target could not be read, so nothing was changed: {error}"))
    };
    let script = match dump::globals_once(tools, &connection, database, true).await {
        Ok(script) => script,
        Err(_) => dump::globals_once(tools, &connection, database, false).await.map_err(unreadable)?,
    };
    Ok(globals::parse(&script).map_err(TargetError::from)?)
}

async fn load_sections(
    rig: &Rig,
    manifest: &Manifest,
    identity: &Identity,
    archive: Archive,
    loader: &Loader,
    state: &mut State,
    stages: &mut Vec<StageTime>,
) -> Result<(), WorkError> {
    let contents = archive.contents.clone();
    let begun = Instant::now();
    let stage = rig.progress.begin("schema", None);
    state.changed.push("schema (pre-data) was begun".to_owned());
    loader.pre_data(&contents).await?;
    stage.end();
    stages.push(StageTime::since("schema", begun, None));

    let begun = Instant::now();
    let stage = rig.progress.begin("rows", Some(rows_bytes(manifest)));
    state.changed.push("rows were begun".to_owned());
    let (loaded, tables) = tokio::sync::mpsc::unbounded_channel();
    let mut ahead = Ahead::new(&contents);
    let data = manifest.data_payloads().map(|payload| load_data(rig, payload, identity, loader, Arc::clone(&stage), loaded.clone()));
    let data = futures::future::try_join_all(data.collect::<Vec<_>>());
    let main = loader.rows(archive, Arc::clone(&stage), loaded);
    let (main, indexes) = (async { Ok(main.await?) }, async { Ok(ahead.run(loader, tables).await?) });
    // The first failure ends the others.
    tokio::try_join!(main, data, indexes)?;
    stage.end();
    if manifest.data_payloads().next().is_some() {
        set_sequences(loader, &contents).await?;
    }
    state.changed.push("all rows were loaded".to_owned());
    stages.push(StageTime::since("rows", begun, Some(rows_bytes(manifest))));

    let begun = Instant::now();
    let stage = rig.progress.begin("indexes and constraints", None);
    state.changed.push("indexes and constraints (post-data) were begun".to_owned());
    loader.post_data(&contents, &ahead.rest(), loader.jobs).await?;
    stage.end();
    state.changed.push("indexes and constraints were made".to_owned());
    stages.push(StageTime::since("indexes and constraints", begun, None));
    Ok(())
}

/// A data payload also sets the sequences of its tables. Sequences know no snapshot, so it does so at another moment than `main`,
/// and `main`'s is the one that was recorded: it is set again, last.
async fn set_sequences(loader: &Loader, contents: &Contents) -> Result<(), WorkError> {
    let failed = |source| TargetError::Database { what: "a sequence".to_owned(), source };
    let mut session = crate::pg::Session::open(&loader.tools, &loader.connection).await.map_err(TargetError::Session)?;
    let encoding = session.ask_one("its encoding", "SELECT pg_catalog.getdatabaseencoding()").await.map_err(failed)?;
    for entry in contents.of_kind("SEQUENCE SET") {
        session.run_opaque("a sequence", &entry.definition, &encoding).await.map_err(failed)?;
    }
    Ok(())
}

/// Bytes of the archives that hold rows.
fn rows_bytes(manifest: &Manifest) -> u64 {
    manifest.payloads.iter().filter(|p| matches!(p.role, Role::Main | Role::Data)).map(|p| p.plain_bytes).sum()
}

async fn load_data(
    rig: &Rig,
    payload: &Payload,
    identity: &Identity,
    loader: &Loader,
    stage: Arc<crate::report::Stage>,
    loaded: Loaded,
) -> Result<(), WorkError> {
    let opened = shelf::open_payload(rig, payload, identity).await?;
    let archive = Archive::begin(opened).await.map_err(before_loading)?;
    Ok(loader.rows(archive, stage, loaded).await?)
}

async fn check_restored(rig: &Rig, manifest: &Manifest, identity: &Identity, loader: &Loader) -> Result<Comparison, WorkError> {
    let (tools, connection) = (&loader.tools, &loader.connection);
    let recorded = Fingerprint::parse(&shelf::read_payload(rig, payload_of(manifest, Role::Fingerprint)?, identity).await?)?;
    // The same major as then makes object counts comparable, if the target's server allows it.
    let mut session = crate::pg::Session::open(tools, connection).await.map_err(TargetError::Session)?;
    let server = snapshot::server(&mut session).await.map_err(TargetError::Session)?;
    drop(session);
    let tools = match Tools::find(rig.config.pg_bin.as_deref(), server.major().max(recorded.pg_dump_major)).await {
        Ok(fitting) => fitting,
        Err(_) => tools.clone(),
    };
    let found = fingerprint_of(rig, &tools, connection, &recorded).await?;
    Ok(compare(&recorded, &found, &loader.without_rows_of))
}

/// Writes the opened payloads as files a stock `pg_restore` and `psql` take. The directory must not exist or be empty.
///
/// # Errors
/// [`WorkError`]; what was written is removed again.
pub async fn into_directory(rig: &Rig, manifest: &Manifest, directory: &Path) -> Result<Vec<(String, u64)>, WorkError> {
    use std::os::unix::fs::DirBuilderExt;
    let fail = |source| WorkError::File { what: format!("writing to {}", directory.display()), source };
    let identity = shelf::open(rig, manifest).await?.identity;
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if std::fs::read_dir(directory).map_err(fail)?.next().is_some() {
                return Err(WorkError::Refused {
                    what: format!("target directory {}", directory.display()),
                    why: "it is not empty; nothing was changed".to_owned(),
                    hint: "name a directory that does not exist yet".to_owned(),
                });
            }
        }
        other => other.map_err(fail)?,
    }
    let mut written = Vec::new();
    for payload in manifest.payloads.iter().filter(|p| matches!(p.role, Role::Main | Role::Data | Role::Globals)) {
        let name = if payload.role == Role::Globals { payload.name.clone() } else { format!("{}.pgdump", payload.name) };
        let path = directory.join(&name);
        let bytes = match write_file(rig, payload, &identity, &path).await {
            Ok(bytes) => bytes,
            Err(error) => {
                for (name, _) in written.iter().chain([&(name, 0)]) {
                    let _ = std::fs::remove_file(directory.join(name));
                }
                return Err(error);
            }
        };
        written.push((name, bytes));
    }
    Ok(written)
}

async fn write_file(rig: &Rig, payload: &Payload, identity: &Identity, path: &Path) -> Result<u64, WorkError> {
    use std::os::unix::fs::OpenOptionsExt;
    let fail = |source| WorkError::File { what: format!("writing {}", path.display()), source };
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
    let bytes = copy(rig, payload, identity, file.try_clone().map_err(fail)?, &format!("writing {}", path.display())).await?;
    file.sync_all().map_err(fail)?;
    Ok(bytes)
}

/// Writes `main` to standard output, for `pg_restore` behind a pipe.
///
/// # Errors
/// [`WorkError`]; what was written by then must not be used, which only the exit code can tell the reader of a pipe.
pub async fn to_stdout(rig: &Rig, manifest: &Manifest) -> Result<u64, WorkError> {
    if manifest.data_payloads().next().is_some() {
        return Err(WorkError::Refused {
            what: "restoring to standard output".to_owned(),
            why: "this backup has several payloads, and one stream holds only one archive".to_owned(),
            hint: "restore to a directory or a database".to_owned(),
        });
    }
    let identity = shelf::open(rig, manifest).await?.identity;
    copy(rig, payload_of(manifest, Role::Main)?, &identity, std::io::stdout(), "writing to standard output").await
}

async fn copy(
    rig: &Rig,
    payload: &Payload,
    identity: &Identity,
    mut to: impl Write + Send + 'static,
    what: &str,
) -> Result<u64, WorkError> {
    let mut opened = shelf::open_payload(rig, payload, identity).await?;
    let stage = rig.progress.begin(&payload.name, Some(payload.plain_bytes));
    let (cancel, what) = (rig.cancel.clone(), what.to_owned());
    let copying = move || {
        let mut chunk = vec![0; 1024 * 1024];
        let mut total = 0;
        loop {
            if cancel.is_cancelled() {
                return Err(WorkError::Interrupted);
            }
            let count = opened.read(&mut chunk)?;
            let written = if count == 0 { to.flush() } else { to.write_all(&chunk[..count]) };
            written.map_err(|source| WorkError::File { what: what.clone(), source })?;
            if count == 0 {
                stage.end();
                return Ok(total);
            }
            total += count as u64;
            stage.add(count as u64);
        }
    };
    tokio::task::spawn_blocking(copying).await.map_err(|_| WorkError::Bug("the copying thread died".to_owned()))?
}

//! The restore itself, step by step, with a checkpoint on the target.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use super::prepare::{before_loading, refusal};
use super::sight::TargetInspection;
use super::{PreparedRestore, RestoreOptions, RestoreReport, StageTime};
use crate::check;
use crate::destination::postgres::checkpoint::{RestoreCheckpoint, SWAPPING};
use crate::destination::postgres::database::{
    self, DatabaseProperties, FoundDatabase, PropertyPart,
};
use crate::destination::postgres::eager_indexes::EagerIndexBuilder;
use crate::destination::postgres::load::{
    ArchiveLoader, LoadObserver, OpenedArchive, TableName, said_of_post_data,
};
use crate::destination::postgres::restore_lock::RestoreLock;
use crate::destination::postgres::rights;
use crate::destination::postgres::script;
use crate::destination::postgres::{TargetError, resume};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::manifest::{Manifest, Payload, PayloadRole};
use crate::failpoint;
use crate::pg::archive::{TableOfContents, TocEntry};
use crate::pg::objects;
use crate::pg::sql::quote_identifier;
use crate::pg::{PgConnection, PgSession, PgTools, SessionError};
use crate::seal::BackupIdentity;
use crate::source::postgres::snapshot;
use crate::work::compare::{
    FingerprintComparison, OmittedParts, compare, compare_some, fingerprint_of,
};
use crate::work::verify::payload_of;
use crate::work::{WorkContext, WorkError, shelf};

/// Words of the mark.
const SCHEMA: &str = "schema";
const INDEXES: &str = "indexes";
const AFTER: &str = "after";

/// What has been done so far, for the message after a failure.
#[derive(Default)]
struct TargetState {
    changed: Vec<String>,
    /// Whether the same command goes on from here.
    marked: bool,
    /// Whether there is a database that the restore has begun to fill.
    begun: bool,
}

impl TargetState {
    fn of_target(&self, database: &str, creates: bool) -> String {
        if self.changed.is_empty() {
            return "nothing was changed on the target".to_owned();
        }
        let again = match (self.marked || !self.begun, creates) {
            (true, _) if !self.begun => "The same command begins anew".to_owned(),
            (true, _) => "The same command goes on from here".to_owned(),
            (false, true) => format!(
                "To start over: drop database {database:?}, and run the same command again; roles that were made are found and kept"
            ),
            (false, false) => format!(
                "To start over: drop and recreate database {database:?}, or empty it, and run the same command again; roles that were made are found and kept"
            ),
        };
        format!(
            "state of the target: {}. The backup is untouched. {again}",
            self.changed.join("; ")
        )
    }
}

/// Runs a prepared restore.
///
/// # Errors
/// [`WorkError::Target`] and the like; the text beside it says what was changed.
pub async fn into_database(
    rig: &WorkContext,
    prepared: PreparedRestore,
) -> Result<RestoreReport, (WorkError, String)> {
    let mut state = TargetState::default();
    let (database, creates) = (prepared.sight.database.clone(), prepared.sight.creates());
    let done = run(rig, prepared, &mut state).await;
    // What failed because of the signal failed for that reason, whatever it says itself.
    let done = done
        .map_err(|error| if rig.cancel.is_cancelled() { WorkError::Interrupted } else { error });
    done.map_err(|error| (error, state.of_target(&database, creates)))
}

/// A mark that is kept up to date on the target while payloads load side by side. A role that may
/// not comment on its database goes without.
struct CheckpointWriter {
    mark: Mutex<(RestoreCheckpoint, Option<PgSession>)>,
    /// Whether there is a mark on the target. One that stayed would let a later restore take a
    /// finished database for its own.
    is_there: bool,
    tools: PgTools,
    connection: PgConnection,
    database: String,
}

impl CheckpointWriter {
    async fn begin(
        sight: &TargetInspection,
        mark: RestoreCheckpoint,
        found: bool,
        state: &mut TargetState,
    ) -> Self {
        let mut session = PgSession::open(&sight.tools, &sight.connection).await.ok();
        if let Some(open) = &mut session
            && let Err(error) = mark.write(open, &sight.database).await
        {
            tracing::info!(
                error = &error as &dyn std::error::Error,
                "the target cannot be marked; an interrupted restore begins anew"
            );
            session = None;
        }
        state.marked = session.is_some() && (mark.created || mark.done.contains(SCHEMA));
        let is_there = found || session.is_some();
        let mut marker = Self::none(sight, mark);
        marker.mark.get_mut().1 = session;
        Self { is_there, ..marker }
    }

    /// For a database that held something before: it is not the restore's to go on with.
    fn none(sight: &TargetInspection, mark: RestoreCheckpoint) -> Self {
        let (tools, connection) = (sight.tools.clone(), sight.connection.clone());
        Self {
            mark: Mutex::new((mark, None)),
            is_there: false,
            tools,
            connection,
            database: sight.database.clone(),
        }
    }

    async fn done(&self, word: &str) {
        let mut held = self.mark.lock().await;
        let (mark, session) = &mut *held;
        mark.done.insert(word.to_owned());
        if !self.is_there {
            return;
        }
        if let Some(open) = session
            && mark.write(open, &self.database).await.is_ok()
        {
            return;
        }
        // An idle session may have been ended while rows were loading for hours.
        *session = PgSession::open(&self.tools, &self.connection).await.ok();
        if let Some(open) = session
            && let Err(error) = mark.write(open, &self.database).await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the target's mark could not be kept up to date"
            );
        }
    }

    async fn is_done(&self, word: &str) -> bool {
        self.mark.lock().await.0.done.contains(word)
    }

    async fn schema_made(&self) -> Option<u32> {
        self.mark.lock().await.0.schema_made()
    }

    /// Takes the mark away from the database, which may have another name by now.
    async fn clear(self, session: &mut PgSession, database: &str) -> Result<(), TargetError> {
        if self.is_there { self.mark.into_inner().0.clear(session, database).await } else { Ok(()) }
    }
}

/// What a restore works on.
struct RestoreWork<'a> {
    rig: &'a WorkContext,
    manifest: &'a Manifest,
    identity: &'a BackupIdentity,
    loader: &'a ArchiveLoader,
    marker: &'a CheckpointWriter,
    /// Whether an earlier attempt has loaded something.
    resumed: bool,
    /// What the server has refused so far, of a restore that was told to go on.
    failed: Mutex<Vec<String>>,
}

async fn run(
    rig: &WorkContext,
    prepared: PreparedRestore,
    state: &mut TargetState,
) -> Result<RestoreReport, WorkError> {
    let PreparedRestore {
        manifest,
        identity,
        mut sight,
        archive,
        selection,
        properties,
        globals,
        plan,
        rights,
        leave,
        lacks,
        skipped,
        wishes,
        omitted,
        slot,
        ..
    } = prepared;
    if let Some(lack) = lacks.first().filter(|_| !wishes.keep_going) {
        return Err(refusal(lack));
    }
    let clock = Instant::now();
    let mut stages = Vec::new();
    let _turn = RestoreLock::acquire(&sight.tools, &sight.connection, &sight.database).await?;
    let mut mark = look_again(&mut sight, &manifest, &wishes).await?;
    // What an earlier attempt has begun to make is made to its end while there is a mark that
    // tells.
    let own = mark
        .as_ref()
        .filter(|mark| mark.backup == manifest.backup)
        .map(RestoreCheckpoint::own_tablespaces)
        .unwrap_or_default();
    let mut plan = plan.with_own_tablespaces(&globals, &own);
    for name in &own {
        plan.make_tablespace(sight.session(), name).await?;
    }
    // What cannot be taken back is begun anew, where the database is a restore's own.
    let is_another =
        |mark: &RestoreCheckpoint| mark.backup != manifest.backup || mark.what != wishes.what();
    if let Some(left) = mark.take_if(|mark| is_another(mark) || !can_go_on(mark, &archive.contents))
    {
        if !left.created {
            return Err(WorkError::Refused {
                what: format!("the unfinished database {:?}", sight.database),
                why: "what the interrupted restore put into it cannot be told from what was there, and it was there before; nothing was changed".to_owned(),
                hint: "drop and recreate it, or name a database that does not exist yet".to_owned(),
            });
        }
        state
            .changed
            .push(format!("the unfinished database {:?}, which an interrupted restore had left, was begun to be dropped", sight.database));
        let session =
            DatabaseProperties::drop_unfinished(&sight.tools, &sight.connection, &sight.database)
                .await?;
        sight.found = FoundDatabase::Missing { session, name: sight.database.clone() };
    }
    // Not before it is known whether what was found is gone on with.
    let resumed_after: Vec<String> =
        mark.as_ref().map(RestoreCheckpoint::steps_done).unwrap_or_default();
    let resumed = mark.is_some();
    let (encoding, own_encoding) = (globals.encoding.clone(), properties.encoding.as_str());
    let refused_before = mark.as_ref().map_or(0, RestoreCheckpoint::refused);
    let mut failed = if wishes.keep_going { plan.beyond.clone() } else { Vec::new() };
    let globals_report = if wishes.no_globals {
        None
    } else {
        let begun = Instant::now();
        failed.extend(plan.make_roles(sight.session(), wishes.keep_going).await?);
        if !plan.report.roles_created.is_empty() {
            state
                .changed
                .push(format!("{} roles of the backup were made", plan.report.roles_created.len()));
        }
        stages.push(StageTime::since("roles", begun, None));
        Some(plan.report.clone())
    };
    failed.extend(
        (refused_before > 0)
            .then(|| format!("{refused_before} statements, by an attempt that was interrupted")),
    );
    let created = sight.creates();
    if created {
        let database = sight.database.clone();
        properties.create(sight.session(), &database, &encoding, !wishes.no_owner).await?;
        state.changed.push(format!("database {database:?} was created"));
        failpoint::reach("restore-created");
    }
    state.begun = true;
    let as_script = script::is_needed(
        sight.tools.major(),
        snapshot::server(sight.session()).await.map_err(TargetError::Session)?.major(),
    );
    let connection = sight.connection.clone();
    let loader = ArchiveLoader {
        tools: sight.tools.clone(),
        connection: connection.clone(),
        jobs: wishes.jobs.max(1),
        tablespaces_left_out: plan.report.tablespaces_left_out.clone(),
        leave,
        cancel: rig.cancel.clone(),
        settings: rights::quiet_logs(sight.session(), &connection)
            .await
            .into_iter()
            .chain(wishes.settings.clone())
            .collect(),
        without_rows_of: wishes.without_rows_of.clone(),
        selection,
        as_script,
    };
    // A database that held something before is not the restore's to go on with.
    let alone = !matches!(sight.found, FoundDatabase::Occupied { .. });
    let mut done: BTreeSet<String> =
        own.iter().map(|name| RestoreCheckpoint::word_of_tablespace(name)).collect();
    if matches!(sight.found, FoundDatabase::Empty(_)) {
        let before = database::comment(sight.session()).await?;
        done.extend((!before.is_empty()).then(|| RestoreCheckpoint::word_of_comment(&before)));
    }
    let fresh = || RestoreCheckpoint {
        vault: manifest.vault.clone(),
        backup: manifest.backup.clone(),
        what: wishes.what(),
        created,
        done,
    };
    let marker = match mark {
        Some(mark) => CheckpointWriter::begin(&sight, mark, true, state).await,
        None if alone => CheckpointWriter::begin(&sight, fresh(), false, state).await,
        None => CheckpointWriter::none(&sight, fresh()),
    };
    failpoint::reach("restore-marked");
    let contents = archive.contents.clone();
    for name in plan.tablespaces().filter(|name| !own.contains(*name)) {
        marker.done(&RestoreCheckpoint::word_of_tablespace(name)).await;
        plan.make_tablespace(sight.session(), name).await?;
        state.changed.push(format!("tablespace {name:?} was made"));
    }
    let work = RestoreWork {
        rig,
        manifest: &manifest,
        identity: &identity,
        loader: &loader,
        marker: &marker,
        resumed,
        failed: Mutex::new(failed),
    };
    if wishes.only.is_none() {
        // From within: what the archive says of the database is in the database's own encoding.
        let mut session = PgSession::open(&loader.tools, &loader.connection)
            .await
            .map_err(TargetError::Session)?;
        let parts: &[PropertyPart] = if rights.superuser {
            &[PropertyPart::Settings, PropertyPart::Limits]
        } else {
            &[PropertyPart::Settings]
        };
        for part in parts {
            work.failed(
                properties
                    .apply(&mut session, &sight.database, own_encoding, *part, wishes.keep_going)
                    .await?,
            )
            .await;
        }
    }
    if !resumed {
        statements(&loader, &wishes.before, "before", state).await?;
    }
    work.sections(archive, state, &mut stages).await?;
    let mut session =
        PgSession::open(&loader.tools, &loader.connection).await.map_err(TargetError::Session)?;
    if wishes.only.is_none() && !wishes.no_privileges {
        work.failed(
            properties
                .apply(
                    &mut session,
                    &sight.database,
                    own_encoding,
                    PropertyPart::Privileges,
                    wishes.keep_going,
                )
                .await?,
        )
        .await;
    }
    if !marker.is_done(AFTER).await {
        statements(&loader, &wishes.after, "after", state).await?;
        marker.done(AFTER).await;
    }
    let not_analyzed = analyze(rig, &loader, &mut stages).await?;
    let mut failed = work.failed.into_inner();
    let comparison = if wishes.check {
        let begun = Instant::now();
        let comparison =
            check_restored(rig, &manifest, &identity, &loader, &contents, properties.has_comment())
                .await?;
        stages.push(StageTime::since("compare", begun, Some(rows_bytes(&manifest))));
        Some(comparison)
    } else {
        None
    };
    state.changed.push("everything is loaded".to_owned());
    drop(session);
    let mut connection = sight.connection.clone();
    let mut database = sight.database.clone();
    // What is not as it was recorded must not take the place of anything.
    let whole = failed.is_empty() && comparison.as_ref().is_none_or(FingerprintComparison::agrees);
    let swapped = match sight.swap.take().filter(|_| whole) {
        Some(swap) => {
            marker.done(SWAPPING).await;
            let begun = Instant::now();
            let mut session = database::maintenance(&loader.tools, &sight.connection).await?;
            swap.perform(&mut session).await?;
            failpoint::reach("restore-swapped");
            stages.push(StageTime::since("swap", begun, None));
            connection = sight.connection.to_database(&swap.database);
            database.clone_from(&swap.database);
            Some(swap)
        }
        None => None,
    };
    // Last, under whatever name it has by now: until then the same command goes on, the trade of
    // names included.
    let mut session =
        PgSession::open(&loader.tools, &connection).await.map_err(TargetError::Session)?;
    // What limits connections keeps only superusers in.
    if wishes.only.is_none() && !rights.superuser {
        failed.extend(
            properties
                .apply(
                    &mut session,
                    &database,
                    own_encoding,
                    PropertyPart::Limits,
                    wishes.keep_going,
                )
                .await?,
        );
    }
    match wishes.only.is_none() && properties.has_comment() {
        // In the mark's place, by one statement: there is no moment at which the database is
        // neither unfinished nor done.
        true => failed.extend(
            properties
                .apply(
                    &mut session,
                    &database,
                    own_encoding,
                    PropertyPart::Comment,
                    wishes.keep_going,
                )
                .await?,
        ),
        false => marker.clear(&mut session, &database).await?,
    }
    state.marked = false;
    drop(session);
    let mut smoke = Vec::new();
    for one in &wishes.smoke {
        smoke.push(check::smoke(one, &manifest.datastore, &connection).await);
    }
    Ok(RestoreReport {
        backup: manifest.backup.to_string(),
        database,
        swapped,
        opened_with: slot,
        resumed_after,
        globals: globals_report,
        only: wishes.only.as_ref().map(ToString::to_string),
        left_out: loader.selection.map(|selection| selection.left_out).unwrap_or_default(),
        omitted,
        skipped,
        failed,
        not_analyzed,
        plain_bytes: manifest.plain_bytes(),
        seconds: clock.elapsed().as_secs_f64(),
        stages,
        comparison,
        smoke,
        recorded: None,
    })
}

/// The world may have changed since it was looked at; now that nobody else restores here, it is
/// looked at once more.
async fn look_again(
    sight: &mut TargetInspection,
    manifest: &Manifest,
    wishes: &RestoreOptions,
) -> Result<Option<RestoreCheckpoint>, WorkError> {
    let found = database::look(&sight.tools, &sight.connection).await?;
    let mark = match (&found, &sight.found) {
        (FoundDatabase::Missing { .. }, FoundDatabase::Missing { .. })
        | (FoundDatabase::Empty(_), FoundDatabase::Empty(_)) => None,
        (FoundDatabase::Occupied { .. }, _) if wishes.beside_tables => None,
        (FoundDatabase::Unfinished(_, mark), FoundDatabase::Unfinished(_, seen))
            if mark.is_of(seen) && (mark.backup == manifest.backup || wishes.take_over) =>
        {
            Some(mark.clone())
        }
        // The plan was made for another state of the world.
        _ => {
            return Err(WorkError::Refused {
                what: format!("target database {}", sight.database),
                why: "it changed since it was looked at; nothing was changed".to_owned(),
                hint: "run the command again".to_owned(),
            });
        }
    };
    sight.found = found;
    if mark.is_some() {
        resume::end_orphans(sight.session()).await?;
    }
    Ok(mark)
}

async fn say_again(
    loader: &ArchiveLoader,
    entries: &[&TocEntry],
) -> Result<Vec<String>, WorkError> {
    let mut refused = Vec::new();
    if entries.is_empty() {
        return Ok(refused);
    }
    let failed = |source| TargetError::Database {
        what: "a comment on an index or a constraint".to_owned(),
        source,
    };
    let mut session =
        PgSession::open(&loader.tools, &loader.connection).await.map_err(TargetError::Session)?;
    let encoding = session
        .ask_one("its encoding", "SELECT pg_catalog.getdatabaseencoding()")
        .await
        .map_err(failed)?;
    for entry in entries {
        match session
            .run_opaque("a comment on an index or a constraint", &entry.definition, &encoding)
            .await
        {
            Err(source @ SessionError::Refused { .. }) if loader.leave.keep_going => {
                refused.push(source.to_string())
            }
            done => done.map_err(failed)?,
        }
    }
    Ok(refused)
}

/// Whether what is left can be gone on with: the schema is whole, and rows that were half loaded
/// can be taken back.
fn can_go_on(mark: &RestoreCheckpoint, contents: &TableOfContents) -> bool {
    mark.done.contains(SCHEMA)
        && (mark.done.contains("main") || resume::can_be_reset(contents, mark.schema_made()))
}

/// Statements of the restore plan.
async fn statements(
    loader: &ArchiveLoader,
    statements: &[String],
    when: &'static str,
    state: &mut TargetState,
) -> Result<(), WorkError> {
    if statements.is_empty() {
        return Ok(());
    }
    let mut session = PgSession::open_for_people(&loader.tools, &loader.connection)
        .await
        .map_err(TargetError::Session)?;
    for (number, statement) in statements.iter().enumerate() {
        let what = format!("statement {} of `{when}` in the restore plan", number + 1);
        session
            .run(&what, statement)
            .await
            .map_err(|source| TargetError::Database { what: what.clone(), source })?;
    }
    state.changed.push(format!("the plan's `{when}` statements were run"));
    Ok(())
}

impl RestoreWork<'_> {
    async fn failed(&self, refused: Vec<String>) {
        if refused.is_empty() {
            return;
        }
        let mut failed = self.failed.lock().await;
        failed.extend(refused);
        // What was refused is not tried again by whoever goes on from here.
        self.marker.done(&RestoreCheckpoint::word_of_refused(failed.len())).await;
    }

    async fn sections(
        &self,
        archive: OpenedArchive,
        state: &mut TargetState,
        stages: &mut Vec<StageTime>,
    ) -> Result<(), WorkError> {
        let contents = archive.contents.clone();
        if !self.marker.is_done(SCHEMA).await {
            let begun = Instant::now();
            let stage = self.rig.progress.begin("schema", None);
            state.changed.push("schema (pre-data) was begun".to_owned());
            self.failed(self.loader.pre_data(&contents).await?).await;
            stage.end();
            if contents.of_kind("EXTENSION").next().is_some() {
                let mut session = PgSession::open(&self.loader.tools, &self.loader.connection)
                    .await
                    .map_err(TargetError::Session)?;
                self.marker
                    .done(&RestoreCheckpoint::word_of_schema_made(
                        resume::moment(&mut session).await?,
                    ))
                    .await;
            }
            self.marker.done(SCHEMA).await;
            state.marked = self.marker.is_there;
            stages.push(StageTime::since("schema", begun, None));
            failpoint::reach("restore-schema");
        }
        if self.marker.is_done(INDEXES).await {
            return Ok(());
        }
        let begun = Instant::now();
        let stage = self.rig.progress.begin("rows", Some(rows_bytes(self.manifest)));
        state.changed.push("rows were begun".to_owned());
        let not_made_again = self.take_up(&contents).await?;
        let mut not_to_make = not_made_again.clone();
        if let Some(selection) = &self.loader.selection {
            not_to_make.extend(
                contents
                    .entries
                    .iter()
                    .map(|entry| entry.dump_id)
                    .filter(|id| !selection.holds(*id)),
            );
        }
        let (loaded, tables) = tokio::sync::mpsc::unbounded_channel();
        let mut ahead = EagerIndexBuilder::new(&contents, not_to_make);
        let data = self
            .manifest
            .data_payloads()
            .map(|payload| self.data(payload, Arc::clone(&stage), loaded.clone()));
        let data = futures::future::try_join_all(data.collect::<Vec<_>>());
        let main = self.main(archive, Arc::clone(&stage), loaded);
        let indexes = async { Ok(ahead.run(self.loader, tables).await?) };
        let made = not_made_again;
        // The first failure ends the others.
        let (_, _, refused) = tokio::try_join!(main, data, indexes)?;
        self.failed(refused).await;
        stage.end();
        if self.manifest.data_payloads().next().is_some() {
            set_sequences(self.loader, &contents).await?;
        }
        state.changed.push("all rows were loaded".to_owned());
        stages.push(StageTime::since("rows", begun, Some(rows_bytes(self.manifest))));
        failpoint::reach("restore-rows");

        let begun = Instant::now();
        let stage = self.rig.progress.begin("indexes and constraints", None);
        state.changed.push("indexes and constraints (post-data) were begun".to_owned());
        self.failed(self.loader.post_data(&contents, &ahead.rest(), self.loader.jobs).await?).await;
        failpoint::reach("restore-privileges");
        self.failed(self.loader.privileges(&contents, &made).await?).await;
        if self.resumed {
            let mut session = PgSession::open(&self.loader.tools, &self.loader.connection)
                .await
                .map_err(TargetError::Session)?;
            self.failed(
                resume::complete(&mut session, &contents, &made, self.loader.leave.keep_going)
                    .await?,
            )
            .await;
            if !self.loader.leave.owners {
                resume::own(&mut session, &contents, &made).await?;
            }
        }
        let about: Vec<&TocEntry> =
            said_of_post_data(&contents).filter(|entry| self.loader.wants(entry)).collect();
        self.failed(say_again(self.loader, &about).await?).await;
        stage.end();
        self.marker.done(INDEXES).await;
        state.changed.push("indexes and constraints were made".to_owned());
        stages.push(StageTime::since("indexes and constraints", begun, None));
        failpoint::reach("restore-indexes");
        Ok(())
    }

    /// After an interruption: empties what was half loaded, and tells what is made already.
    async fn take_up(&self, contents: &TableOfContents) -> Result<HashSet<i64>, WorkError> {
        if !self.resumed {
            return Ok(HashSet::new());
        }
        let mut session = PgSession::open(&self.loader.tools, &self.loader.connection)
            .await
            .map_err(TargetError::Session)?;
        let schema_made = self.marker.schema_made().await;
        if !self.marker.is_done("main").await {
            resume::reset(&mut session, contents, &self.tables_of(contents), schema_made).await?;
        }
        // Before it is asked what is made: indexes of half-loaded tables were built ahead, and go
        // with their rows.
        for payload in self.manifest.data_payloads() {
            if !self.marker.is_done(&payload.name).await {
                let opened = shelf::open_payload(self.rig, payload, self.identity).await?;
                let archive = OpenedArchive::begin(opened).await.map_err(before_loading)?;
                resume::reset(
                    &mut session,
                    contents,
                    &self.tables_of(&archive.contents),
                    schema_made,
                )
                .await?;
            }
        }
        Ok(resume::made(&mut session, contents).await?)
    }

    /// Tables whose rows an archive holds and that are loaded.
    fn tables_of(&self, contents: &TableOfContents) -> Vec<TableName> {
        let rows = contents.of_kind("TABLE DATA").filter(|entry| self.loader.loads(entry));
        rows.map(|entry| (entry.schema.clone(), entry.tag.clone())).collect()
    }

    async fn main(
        &self,
        archive: OpenedArchive,
        stage: Arc<crate::progress::ProgressStage>,
        loaded: LoadObserver,
    ) -> Result<(), WorkError> {
        let name = &payload_of(self.manifest, PayloadRole::Main)?.name;
        if self.marker.is_done(name).await {
            // Its indexes that are not there yet are made with the rest.
            stage.add(payload_of(self.manifest, PayloadRole::Main)?.plain_bytes);
            return Ok(());
        }
        self.failed(self.loader.rows(archive, stage, loaded).await?).await;
        self.marker.done(name).await;
        Ok(())
    }

    async fn data(
        &self,
        payload: &Payload,
        stage: Arc<crate::progress::ProgressStage>,
        loaded: LoadObserver,
    ) -> Result<(), WorkError> {
        if self.marker.is_done(&payload.name).await {
            stage.add(payload.plain_bytes);
            return Ok(());
        }
        let opened = shelf::open_payload(self.rig, payload, self.identity).await?;
        let archive = OpenedArchive::begin(opened).await.map_err(before_loading)?;
        if self.tables_of(&archive.contents).is_empty() {
            return Ok(());
        }
        self.failed(self.loader.rows(archive, stage, loaded).await?).await;
        self.marker.done(&payload.name).await;
        Ok(())
    }
}

/// A data payload also sets the sequences of its tables. Sequences know no snapshot, so it does so
/// at another moment than `main`, and `main`'s is the one that was recorded: it is set again, last.
async fn set_sequences(
    loader: &ArchiveLoader,
    contents: &TableOfContents,
) -> Result<(), WorkError> {
    let failed = |source| TargetError::Database { what: "a sequence".to_owned(), source };
    let mut session =
        PgSession::open(&loader.tools, &loader.connection).await.map_err(TargetError::Session)?;
    let encoding = session
        .ask_one("its encoding", "SELECT pg_catalog.getdatabaseencoding()")
        .await
        .map_err(failed)?;
    for entry in contents.of_kind("SEQUENCE SET").filter(|entry| loader.loads(entry)) {
        session.run_opaque("a sequence", &entry.definition, &encoding).await.map_err(failed)?;
    }
    Ok(())
}

/// A planner without statistics makes the first hours after an incident slow ones; but a table
/// whose statistics cannot be gathered, because they run a function that finds something missing,
/// is no reason to call everything else a failure. Names that people wrote are looked up as for
/// them.
async fn analyze(
    rig: &WorkContext,
    loader: &ArchiveLoader,
    stages: &mut Vec<StageTime>,
) -> Result<Vec<String>, WorkError> {
    let begun = Instant::now();
    let stage = rig.progress.begin("analyze", None);
    let failed = |source| TargetError::Database { what: "the statistics".to_owned(), source };
    let mut session = PgSession::open_for_people(&loader.tools, &loader.connection)
        .await
        .map_err(TargetError::Session)?;
    let analyzing = async {
        let tables = match &loader.selection {
            None => match session.run("the statistics", "ANALYZE").await {
                Ok(()) => return Ok(Vec::new()),
                Err(SessionError::Refused { .. }) => tables_of_target(&mut session).await?,
                Err(error) => return Err(error),
            },
            Some(selection) => {
                let name = |(schema, table): &TableName| {
                    Some((
                        String::from_utf8(schema.clone()).ok()?,
                        String::from_utf8(table.clone()).ok()?,
                    ))
                };
                selection.tables.iter().filter_map(name).collect()
            }
        };
        let mut not_analyzed = Vec::new();
        for (schema, table) in tables {
            let one = format!("ANALYZE {}.{}", quote_identifier(&schema), quote_identifier(&table));
            match session.run("the statistics", &one).await {
                Ok(()) => {}
                Err(SessionError::Refused { message, .. }) => {
                    not_analyzed.push(format!("{schema}.{table}: {message}"))
                }
                Err(error) => return Err(error),
            }
        }
        Ok(not_analyzed)
    };
    let not_analyzed = tokio::select! {
        () = rig.cancel.cancelled() => return Err(WorkError::Interrupted),
        done = analyzing => done.map_err(failed)?,
    };
    stage.end();
    stages.push(StageTime::since("analyze", begun, None));
    Ok(not_analyzed)
}

async fn tables_of_target(session: &mut PgSession) -> Result<Vec<(String, String)>, SessionError> {
    let question = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1, 2";
    let rows = session.ask("its tables", question, 2).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| Some((row.first()?.clone()?, row.get(1)?.clone()?)))
        .collect())
}

/// Bytes of the archives that hold rows.
fn rows_bytes(manifest: &Manifest) -> u64 {
    manifest
        .payloads
        .iter()
        .filter(|p| matches!(p.role, PayloadRole::Main | PayloadRole::Data))
        .map(|p| p.plain_bytes)
        .sum()
}

/// `has_comment` says whether the backup has a comment of the database, which is written last.
async fn check_restored(
    rig: &WorkContext,
    manifest: &Manifest,
    identity: &BackupIdentity,
    loader: &ArchiveLoader,
    contents: &TableOfContents,
    has_comment: bool,
) -> Result<FingerprintComparison, WorkError> {
    let (tools, connection) = (&loader.tools, &loader.connection);
    let mut recorded = Fingerprint::parse(
        &shelf::read_payload(rig, payload_of(manifest, PayloadRole::Fingerprint)?, identity)
            .await?,
    )?;
    // The same major as then makes object counts comparable, if the target's server allows it.
    let mut session = PgSession::open(tools, connection).await.map_err(TargetError::Session)?;
    let server = snapshot::server(&mut session).await.map_err(TargetError::Session)?;
    drop(session);
    let tools = match PgTools::find(
        rig.config.pg_bin.as_deref(),
        server.major().max(recorded.pg_dump_major),
    )
    .await
    {
        Ok(fitting) => fitting,
        Err(_) => tools.clone(),
    };
    let mut found = fingerprint_of(rig, &tools, connection, &recorded).await?;
    // The database's own comment is not written yet: the mark stands in its place, or what was
    // there before.
    recorded.named.retain(|object| !objects::is_comment_on_database(object));
    found.named.retain(|object| !objects::is_comment_on_database(object));
    if has_comment && let Some(comments) = recorded.objects.get_mut("COMMENT") {
        *comments = comments.saturating_sub(1);
    }
    let not_compared =
        OmittedParts::of(contents, &loader.leave).take_from(&mut recorded, &mut found);
    let mut comparison = match &loader.selection {
        None => compare(&recorded, &found, &loader.without_rows_of),
        Some(selection) => {
            let loads = |schema: &str, table: &str| {
                let wanted = selection.tables.contains(&(schema.into(), table.into()));
                wanted
                    && contents.of_kind("TABLE").any(|entry| {
                        entry.schema == schema.as_bytes() && entry.tag == table.as_bytes()
                    })
            };
            compare_some(&recorded, &found, loads, &loader.without_rows_of)
        }
    };
    comparison.not_looked_at.extend(not_compared);
    Ok(comparison)
}

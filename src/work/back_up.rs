//! Taking a backup, in this order:
//!
//! 1. Keys first: an identity that cannot be wrapped into every slot, or a signature that nobody
//!    would trust, stops the run before the database is touched.
//! 2. Snapshot, then all payloads are streamed at once; none is completed before every source has
//!    proven its end.
//! 3. The archives must contain every table once. Only then are the payloads made visible.
//! 4. Slots, envelope, `RESTORE.md`, the manifest's signature, and last the manifest: the commit
//!    point.
//!
//! A failure before the end leaves no backup and no unfinished upload.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::fence::{FencingToken, HeldDatastore};
use super::payload::{
    PayloadDestination, PayloadStream, StagedPayload, is_symptom_of_source_failure, send,
};
use super::publish::{self, BackupContents, PendingBackup, PublishedBackup, without_catalog};
use super::{HostLock, WorkContext, WorkError, cancellable, shelf, snapshot};
use crate::config::plans;
use crate::config::{DatastoreConfig, DatastoreKind, PostgresConfig};
use crate::domain::envelope::EncryptionContext;
use crate::domain::fingerprint::{Fingerprint, HashKey, OmittedObject};
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::layout::ObjectKey;
use crate::domain::manifest::{Manifest, PayloadRole, SourceFacts};
use crate::domain::selector::BackupSelector;
use crate::domain::volumes::VolumeSet;
use crate::failpoint;
use crate::pg::archive::{self, ArchiveReader};
use crate::pg::rows::{ArchiveTally, RowFingerprinter, assemble};
use crate::pg::{PgConnection, PgSession, PgTools};
use crate::progress::ProgressStage;
use crate::seal::seal_stream::{SealOptions, StreamObserver};
use crate::seal::{BackupIdentity, SourceEnd};
use crate::source::postgres::SourceError;
use crate::source::postgres::dump::{self, DumpStream, PayloadSplit};
use crate::source::postgres::snapshot::{self as locked, ExportedSnapshot};
use crate::source::postgres::{definitions, watch};

/// How often objects that change while they are written down make us start over.
const CHANGED_ATTEMPTS_MAX: u32 = 3;
/// How long a child may take to end after its output has ended.
const CHILD_END: Duration = Duration::from_secs(30);

/// What a backup amounts to, for people and for `--json`.
#[derive(Debug, Serialize)]
pub struct BackupReport {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The new backup.
    pub backup: BackupId,
    /// What was dumped, of a database.
    #[serde(flatten)]
    pub dump: Option<DumpFigures>,
    /// The snapshots, of volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<VolumeSet>,
    /// Bytes before compression.
    pub plain_bytes: u64,
    /// Bytes in the vault.
    pub sealed_bytes: u64,
    /// Seconds of the whole run.
    pub seconds: f64,
    /// Names of the keys that open it.
    pub slots: Vec<String>,
    /// Where the manifest stands.
    pub manifest: String,
    /// Backups of the datastore that this host's catalog knew nothing of: another host takes them
    /// too, or the catalog is of an earlier day.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub strangers: Vec<BackupId>,
}

/// What was dumped.
#[derive(Debug, Serialize)]
pub struct DumpFigures {
    /// Tables with rows of their own.
    pub tables: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Seconds from locking the tables to the end of the last payload.
    pub dump_seconds: f64,
    /// What the database holds and the dump does not.
    pub omitted: Vec<OmittedObject>,
}

impl BackupReport {
    pub(super) fn of(
        rig: &WorkContext,
        PublishedBackup { manifest, strangers }: &PublishedBackup,
        dump: Option<DumpFigures>,
        clock: std::time::Instant,
    ) -> Self {
        Self {
            datastore: manifest.datastore.clone(),
            backup: manifest.backup.clone(),
            dump,
            set: manifest.set.clone(),
            plain_bytes: manifest.plain_bytes(),
            sealed_bytes: manifest.sealed_bytes(),
            seconds: clock.elapsed().as_secs_f64(),
            slots: manifest.slots.iter().map(|s| s.name.clone()).collect(),
            manifest: format!("{}/{}", rig.vault.address(), manifest.place().manifest()),
            strangers: strangers.clone(),
        }
    }
}

/// Takes a backup of one datastore. `another_cluster` says that its server may be another one than
/// that of the newest backup.
///
/// # Errors
/// [`WorkError`]; there is no backup then, and nothing of it that `sweep` would not find.
pub async fn back_up(
    rig: &WorkContext,
    datastore: &DatastoreName,
    another_cluster: bool,
) -> Result<BackupReport, WorkError> {
    let lost = rig.cancel.child_token();
    let held = HeldDatastore::take(rig, datastore, &lost).await?;
    let holding = WorkContext { cancel: lost.clone(), ..rig.clone() };
    match back_up_as(&holding, datastore, FencingToken { another_cluster, ..held.mandate }).await {
        // Nobody pressed Ctrl-C.
        Err(WorkError::Interrupted) if !rig.cancel.is_cancelled() => {
            Err(WorkError::TakenOver { datastore: datastore.clone() })
        }
        done => done,
    }
}

/// Takes a backup of a datastore that is held under a mandate.
///
/// # Errors
/// As [`back_up`].
pub async fn back_up_as(
    rig: &WorkContext,
    datastore: &DatastoreName,
    mandate: FencingToken,
) -> Result<BackupReport, WorkError> {
    let known: Vec<String> = rig.config.datastores.keys().map(ToString::to_string).collect();
    let settings = rig
        .config
        .datastores
        .get(datastore)
        .ok_or_else(|| shelf::no_such_datastore(datastore.as_str(), &known))?;
    let _lock = HostLock::take(&rig.config, datastore, "a backup")?;
    let run = match rig.catalog() {
        Some(catalog) => without_catalog(catalog.begin_run("backup", datastore.as_str()).await)
            .map(|run| (catalog, run)),
        None => None,
    };
    let result = run_backup(rig, datastore, settings, mandate).await;
    if let Some((catalog, run)) = run {
        let outcome = match &result {
            Ok(report) => format!("published {}", report.backup),
            Err(error) => format!("{}: {error}", error.class()),
        };
        if let Err(error) = catalog.end_run(run, &outcome).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the end of the run could not be noted in the catalog"
            );
        }
    }
    result
}

async fn run_backup(
    rig: &WorkContext,
    datastore: &DatastoreName,
    settings: &DatastoreConfig,
    mandate: FencingToken,
) -> Result<BackupReport, WorkError> {
    let postgres = match &settings.kind {
        DatastoreKind::Postgres(postgres) => postgres,
        DatastoreKind::Volumes(volumes) => {
            return snapshot::take(rig, datastore, volumes, settings.rpo, mandate).await;
        }
    };
    let begun = Timestamp::now();
    let clock = std::time::Instant::now();
    let vault = shelf::vault_to_write(rig).await?;
    let context = EncryptionContext {
        vault,
        datastore: datastore.clone(),
        backup: BackupId::new(begun, rand::random()),
    };
    let opening = PendingBackup::begin(rig, context, begun).await?;
    let dumping = std::time::Instant::now();
    let read =
        read_source(rig, postgres, &opening.context, &opening.identity, mandate.another_cluster)
            .await?;
    let dump_seconds = dumping.elapsed().as_secs_f64();
    failpoint::reach("payloads-done");
    let pg_dump = Some((read.tools.version().to_owned(), read.tools.major()));
    let contents = BackupContents { facts: read.facts, pg_dump, set: None, arrived: read.arrived };
    let published = publish::commit(rig, opening, mandate, contents).await?;
    let manifest = &published.manifest;
    if let Some(catalog) = rig.catalog() {
        without_catalog(
            catalog
                .note_omitted(&manifest.vault, &manifest.backup, &read.fingerprint.omitted)
                .await,
        );
    }
    let figures = DumpFigures {
        tables: read.fingerprint.tables.len() as u64,
        rows: read.fingerprint.rows(),
        large_objects: read.fingerprint.large_objects.count,
        dump_seconds,
        omitted: read.fingerprint.omitted,
    };
    Ok(BackupReport::of(rig, &published, Some(figures), clock))
}

/// Everything that reading the source gave: payloads that have arrived but are not visible yet, and
/// facts.
struct SourceReading {
    arrived: Vec<StagedPayload>,
    fingerprint: Fingerprint,
    facts: SourceFacts,
    tools: PgTools,
}

/// Reads everything, anew if an object changed while it was written down: that is found before a
/// row has passed, and costs seconds.
async fn read_source(
    rig: &WorkContext,
    settings: &PostgresConfig,
    context: &EncryptionContext,
    identity: &BackupIdentity,
    another_cluster: bool,
) -> Result<SourceReading, WorkError> {
    let mut last = Vec::new();
    for _ in 0..CHANGED_ATTEMPTS_MAX {
        match read_once(rig, settings, context, identity, another_cluster).await {
            Err(WorkError::Source { source: SourceError::Changed { names }, .. }) => {
                tracing::warn!(
                    objects = names.join(", "),
                    "changed while pg_dump wrote them down; the dump begins anew"
                );
                last = names;
            }
            done => return done,
        }
    }
    let source = SourceError::KeepChanging { attempts: CHANGED_ATTEMPTS_MAX, names: last };
    Err(WorkError::Source { datastore: context.datastore.clone(), source })
}

/// Refuses a server that is another one than that of the newest backup: a name that leads elsewhere
/// by now, or a server that was made anew. Its backup would be the newest, and retention would
/// remove the others for it.
async fn same_cluster(
    rig: &WorkContext,
    context: &EncryptionContext,
    facts: &SourceFacts,
) -> Result<(), WorkError> {
    let Some(found) = &facts.system_identifier else { return Ok(()) };
    let is_other = |manifest: &Manifest| {
        manifest.source.system_identifier.as_ref().is_some_and(|before| before != found)
    };
    let known = match rig.catalog() {
        Some(catalog) => {
            without_catalog(catalog.newest(&context.vault, &context.datastore).await).flatten()
        }
        None => None,
    };
    let newest = match known {
        Some(manifest) if !is_other(&manifest) => return Ok(()),
        // Another host may have confirmed it. A role that may only write cannot tell, and the first
        // backup has none before it.
        known => {
            let in_vault =
                shelf::select(rig, &context.datastore, &BackupSelector::Latest, &mut Vec::new())
                    .await;
            in_vault.ok().map(|believed| believed.manifest).or(known)
        }
    };
    match newest.and_then(|manifest| Some((manifest.backup, manifest.source.system_identifier?))) {
        Some((backup, before)) if before != *found => Err(WorkError::Refused {
            what: format!("a backup of {}", context.datastore),
            why: format!(
                "the server is another one (system identifier {found}) than that of backup {backup} ({before}); nothing was written"
            ),
            hint: format!(
                "check where its connection leads. If the server was replaced, restored or upgraded: lifeboat backup {} --another-cluster, once",
                context.datastore
            ),
        }),
        _ => Ok(()),
    }
}

async fn read_once(
    rig: &WorkContext,
    settings: &PostgresConfig,
    context: &EncryptionContext,
    identity: &BackupIdentity,
    another_cluster: bool,
) -> Result<SourceReading, WorkError> {
    let failed =
        |source: SourceError| WorkError::Source { datastore: context.datastore.clone(), source };
    let connection = settings.connect().await.map_err(|why| failed(SourceError::Password(why)))?;
    let tools = fitting_tools(rig, &connection).await.map_err(failed)?;
    let stage = rig.progress.begin("lock tables", None);
    let snapshot =
        cancellable(rig, ExportedSnapshot::take(&tools, &connection, settings.lock_wait))
            .await?
            .map_err(failed)?;
    stage.end();
    if !another_cluster {
        same_cluster(rig, context, &snapshot.facts).await?;
    }
    let before =
        dump::globals_once(&tools, &connection, &snapshot.database, settings.role_passwords)
            .await
            .map_err(failed)?;
    let key = HashKey::from_random(rand::random());
    let split = PayloadSplit::new(&snapshot.tables, settings.jobs);
    let pouring =
        DumpUploader { rig, context, identity, key: &key, stage: rig.progress.begin("dump", None) };
    let poured = pouring.tables(&tools, &connection, &snapshot, &split, settings).await;
    pouring.stage.end();
    let UploadedDump { mut arrived, tallies, warned } = poured?;
    let rest = async {
        let globals = dump::globals_settled(
            &tools,
            &connection,
            &snapshot.database,
            settings.role_passwords,
            before,
        )
        .await
        .map_err(failed)?;
        dump::complete(&snapshot, &tallies).map_err(failed)?;
        let facts = snapshot.facts.clone();
        let (server_major, extensions) = (snapshot.major, Some(snapshot.extensions.clone()));
        let mut omitted: Vec<OmittedObject> =
            snapshot.omitted.iter().cloned().chain(warned).collect();
        omitted.sort();
        omitted.dedup();
        snapshot.release();
        let mut tallies = tallies.into_iter();
        let assembled =
            assemble(key.clone(), tools.major(), tallies.next().unwrap_or_default(), tallies);
        let fingerprint = Fingerprint { server_major, extensions, omitted, ..assembled };
        let json =
            serde_json::to_vec(&fingerprint).map_err(|error| WorkError::Bug(error.to_string()))?;
        let place = context.place();
        let globals = seal_small(
            pouring.rig,
            identity,
            "globals.sql",
            PayloadRole::Globals,
            place.payload("globals.sql"),
            globals,
        )
        .await?;
        let mut sealed = vec![globals];
        let mut small = vec![("fingerprint.json", PayloadRole::Fingerprint, json)];
        // As it stands, whether or not it has faults: it is for whoever restores, and no reason to
        // go without a backup.
        if let Some(plan) = plans::text_of(&rig.config, &context.datastore) {
            small.push(("plan.toml", PayloadRole::Plan, plan));
        }
        for (name, role, bytes) in small {
            match seal_small(pouring.rig, identity, name, role, place.sealed_meta(name), bytes)
                .await
            {
                Ok(payload) => sealed.push(payload),
                Err(error) => {
                    for payload in sealed {
                        payload.abort().await;
                    }
                    return Err(error);
                }
            }
        }
        Ok((sealed, fingerprint, facts))
    };
    match rest.await {
        Ok((sealed, fingerprint, facts)) => {
            arrived.extend(sealed);
            Ok(SourceReading { arrived, fingerprint, facts, tools })
        }
        Err(error) => {
            join_all(arrived.into_iter().map(StagedPayload::abort)).await;
            Err(error)
        }
    }
}

/// Client programs at least as new as the server. Any `psql` can ask the server's version.
///
/// # Errors
/// [`SourceError::Tools`] if there are none, [`SourceError::Session`] if the server cannot be
/// reached.
pub async fn fitting_tools(
    rig: &WorkContext,
    connection: &PgConnection,
) -> Result<PgTools, SourceError> {
    let any = PgTools::find(rig.config.pg_bin.as_deref(), 0).await?;
    let mut session = PgSession::open(&any, connection).await?;
    let server = locked::server(&mut session).await?;
    Ok(PgTools::find(rig.config.pg_bin.as_deref(), server.major()).await?)
}

/// What came of pouring all archives.
struct UploadedDump {
    arrived: Vec<StagedPayload>,
    tallies: Vec<ArchiveTally>,
    warned: Vec<OmittedObject>,
}

/// What every payload of one backup has in common.
struct DumpUploader<'a> {
    rig: &'a WorkContext,
    context: &'a EncryptionContext,
    identity: &'a BackupIdentity,
    key: &'a HashKey,
    stage: Arc<ProgressStage>,
}

impl DumpUploader<'_> {
    /// Pours `main` and all data payloads at once; the first failure stops the others.
    async fn tables(
        &self,
        tools: &PgTools,
        connection: &PgConnection,
        snapshot: &ExportedSnapshot,
        split: &PayloadSplit,
        settings: &PostgresConfig,
    ) -> Result<UploadedDump, WorkError> {
        let failed = |source: SourceError| WorkError::Source {
            datastore: self.context.datastore.clone(),
            source,
        };
        let mut streams = vec![(
            "main".to_owned(),
            PayloadRole::Main,
            dump::main(tools, connection, snapshot, split, settings.lock_wait)
                .await
                .map_err(failed)?,
        )];
        for (index, tables) in split.data.iter().enumerate() {
            let stream = dump::data(tools, connection, snapshot, tables, settings.lock_wait)
                .await
                .map_err(failed)?;
            streams.push((format!("data-{:03}", index + 1), PayloadRole::Data, stream));
        }
        let stop = self.rig.cancel.child_token();
        let shares = streams.len();
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut tell = Some(tell);
        let pours = streams.into_iter().map(|(name, role, stream)| {
            let stop = stop.clone();
            // It names every object, and arrives before the first row.
            let tell = if role == PayloadRole::Main { tell.take() } else { None };
            async move {
                let poured = self.stream(name, role, stream, shares, &stop, tell).await;
                if poured.is_err() {
                    stop.cancel();
                }
                poured
            }
        });
        let definitions = async {
            // It never came: whoever should have told knows why.
            let Ok(contents) = told.await else { return Err(WorkError::Interrupted) };
            // Whoever asks may wait as well.
            let held = tokio::select! {
                held = held(tools, connection, snapshot, &contents) => held.map_err(failed),
                () = stop.cancelled() => Err(WorkError::Interrupted),
            };
            if held.is_err() {
                stop.cancel();
            }
            held
        };
        let limits = watch::ServerLimits {
            lock_wait: settings.lock_wait,
            snapshot: settings.snapshot_limit,
        };
        let watching = async {
            let error = watch::watch(tools, connection, limits).await;
            stop.cancel();
            error
        };
        let mut reading = std::pin::pin!(async { tokio::join!(join_all(pours), definitions) });
        let (pours, definitions, passed) = tokio::select! {
            (pours, definitions) = &mut reading => (pours, definitions, None),
            error = watching => {
                let (pours, definitions) = reading.await;
                (pours, definitions, Some(failed(error)))
            }
        };
        let (mut arrived, mut tallies, mut warned) = (Vec::new(), Vec::new(), Vec::new());
        let mut first_error: Option<WorkError> = None;
        let not_held = definitions.err().map(Err);
        // What has stopped the others is why they stopped.
        for poured in passed.map(Err).into_iter().chain(pours).chain(not_held) {
            match poured {
                Ok((payload, tally, said)) => {
                    arrived.push(payload);
                    tallies.push(tally);
                    warned.extend(said);
                }
                // "Interrupted" by a sibling's failure is not the cause.
                Err(error)
                    if first_error
                        .as_ref()
                        .is_none_or(|first| matches!(first, WorkError::Interrupted)) =>
                {
                    first_error = Some(error)
                }
                Err(_) => {}
            }
        }
        match first_error {
            None => Ok(UploadedDump { arrived, tallies, warned }),
            Some(error) => {
                join_all(arrived.into_iter().map(StagedPayload::abort)).await;
                Err(error)
            }
        }
    }

    async fn stream(
        &self,
        name: String,
        role: PayloadRole,
        stream: DumpStream,
        shares: usize,
        stop: &tokio_util::sync::CancellationToken,
        tell: Option<tokio::sync::oneshot::Sender<archive::TableOfContents>>,
    ) -> Result<(StagedPayload, ArchiveTally, Vec<OmittedObject>), WorkError> {
        let DumpStream { output, end } = stream;
        let kill = end.abort_handle();
        let (proved, proof) = tokio::sync::oneshot::channel();
        let watching: JoinHandle<Result<Vec<OmittedObject>, SourceError>> =
            tokio::spawn(async move {
                match end.await {
                    Ok(Ok((end, warned))) => {
                        let _ = proved.send(end);
                        Ok(warned)
                    }
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(SourceError::Incomplete("pg_dump was stopped".to_owned())),
                }
            });
        let destination =
            PayloadDestination { key: self.context.place().payload(&name), name, role };
        let tap = ArchiveTap {
            tell,
            ..ArchiveTap::new(RowFingerprinter::new(self.key.clone()), Arc::clone(&self.stage))
        };
        let stream = PayloadStream { source: output, end: move || proof.blocking_recv().ok(), tap };
        let mut sending = std::pin::pin!(send(
            self.rig.vault.as_ref(),
            destination,
            stream,
            self.identity,
            self.sealing(shares),
            stop
        ));
        // A child that waits for a lock writes nothing, and whoever reads from it would wait with
        // it.
        let sent = tokio::select! {
            sent = &mut sending => sent,
            () = stop.cancelled() => {
                kill.abort();
                sending.await.map_err(|_| WorkError::Interrupted)
            }
        };
        let mut cause = match sent {
            // Its end was proved to the sealer, so this has ended as well.
            Ok((arrived, tally)) => match watching.await {
                Ok(Ok(warned)) => return Ok((arrived, tally, warned)),
                _ => {
                    arrived.abort().await;
                    return Err(WorkError::Bug("a dump has ended and nobody knows how".to_owned()));
                }
            },
            Err(error) => error,
        };
        if is_symptom_of_source_failure(&cause)
            && let Ok(Ok(Err(source))) = tokio::time::timeout(CHILD_END, watching).await
        {
            cause = WorkError::Source { datastore: self.context.datastore.clone(), source };
        }
        // Dropping the waiting task drops the child, and that kills it.
        kill.abort();
        Err(cause)
    }

    fn sealing(&self, shares: usize) -> SealOptions {
        sealing(self.rig, shares)
    }
}

/// Whether `pg_dump` wrote down what the snapshot shows, asked outside of the snapshot.
async fn held(
    tools: &PgTools,
    connection: &PgConnection,
    snapshot: &ExportedSnapshot,
    contents: &archive::TableOfContents,
) -> Result<(), SourceError> {
    let mut session = PgSession::open(tools, connection).await?;
    definitions::hold(&snapshot.definitions, &mut session, contents).await
}

/// Seals something small beside the envelope.
pub(super) async fn memory(
    rig: &WorkContext,
    opening: &PendingBackup,
    name: &str,
    role: PayloadRole,
    bytes: Vec<u8>,
) -> Result<StagedPayload, WorkError> {
    seal_small(rig, &opening.identity, name, role, opening.context.place().sealed_meta(name), bytes)
        .await
}

async fn seal_small(
    rig: &WorkContext,
    identity: &BackupIdentity,
    name: &str,
    role: PayloadRole,
    key: ObjectKey,
    bytes: Vec<u8>,
) -> Result<StagedPayload, WorkError> {
    let destination = PayloadDestination { name: name.to_owned(), role, key };
    let stream = PayloadStream {
        source: std::io::Cursor::new(bytes),
        end: || Some(SourceEnd::of_memory()),
        tap: (),
    };
    let (arrived, ()) =
        send(rig.vault.as_ref(), destination, stream, identity, sealing(rig, 1), &rig.cancel)
            .await?;
    Ok(arrived)
}

/// How a payload is sealed of which so many are poured at once.
pub(super) fn sealing(rig: &WorkContext, shares: usize) -> SealOptions {
    let (limits, compression) = (rig.vault.limits(), rig.config.compression);
    SealOptions {
        levels: compression.levels,
        compressors: compression.compressors.div_ceil(shares),
        part_bytes: limits.part_bytes,
        parts_per_object_max: limits.parts_max,
    }
}

/// Reads the archive as it passes and computes its part of the fingerprint.
pub struct ArchiveTap {
    /// The reader.
    pub reader: ArchiveReader<RowFingerprinter>,
    /// Where to tell how far it is.
    pub stage: Arc<ProgressStage>,
    /// Where to tell the table of contents, as soon as it is there.
    pub tell: Option<tokio::sync::oneshot::Sender<archive::TableOfContents>>,
}

impl ArchiveTap {
    /// A tap that tells its table of contents to nobody.
    #[must_use]
    pub fn new(fingerprinter: RowFingerprinter, stage: Arc<ProgressStage>) -> Self {
        Self { reader: ArchiveReader::new(fingerprinter), stage, tell: None }
    }
}

impl StreamObserver for ArchiveTap {
    type Found = ArchiveTally;
    fn observe(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.reader.feed(bytes).map_err(|error| error.to_string())?;
        if let Some(contents) = self.reader.contents()
            && let Some(tell) = self.tell.take()
        {
            // Nobody listens any more if the backup is ending.
            let _ = tell.send(contents.clone());
        }
        self.stage.add(bytes.len() as u64);
        self.stage.item(self.reader.visitor().current_table());
        Ok(())
    }
    fn done(self) -> Result<ArchiveTally, String> {
        let (_, fingerprinter) = self.reader.finish().map_err(|error| error.to_string())?;
        Ok(fingerprinter.into_tally())
    }
}

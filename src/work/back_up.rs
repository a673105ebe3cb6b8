//! Taking a backup. The order is the promise:
//!
//! 1. Keys first: an identity that cannot be wrapped into every slot, or a signature that nobody would believe, stops the run
//!    before the database is touched.
//! 2. Snapshot, then all payloads poured at once; not one is completed before every source has proved its end.
//! 3. The archives must show every table once. Only then are the payloads made visible.
//! 4. Slots, envelope, `RESTORE.md`, the manifest's signature, and last the manifest: the commit point.
//!
//! Whatever fails before the end leaves no backup, and no upload that was begun.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::fence::{Held, Mandate};
use super::payload::{Arrived, Destination, Stream, complete_all, send, source_may_know_better};
use super::{HostLock, Rig, WorkError, guide, shelf};
use crate::catalog::CatalogError;
use crate::config::DatastoreConfig;
use crate::config::plans;
use crate::domain::envelope::{Context, Envelope, Slot};
use crate::domain::fingerprint::{Fingerprint, HashKey};
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::layout::{self, ObjectKey, parse_manifest_key};
use crate::domain::manifest::{self, Manifest, Role, SourceFacts, Statement};
use crate::domain::{Document, Trouble};
use crate::failpoint;
use crate::keyring::sign::PublicKey;
use crate::pg::archive::Reader;
use crate::pg::rows::{Fingerprinter, Tally, assemble};
use crate::pg::{Connection, Session, Tools};
use crate::report::Stage;
use crate::seal::pour::{Sealing, Tap};
use crate::seal::{Identity, SourceEnd};
use crate::source::postgres::SourceError;
use crate::source::postgres::dump::{self, DumpStream, Split};
use crate::source::postgres::snapshot::{self, Snapshot};

/// How long a child may take to end after its output has ended.
const CHILD_END: Duration = Duration::from_secs(30);

/// What a backup amounts to, for people and for `--json`.
#[derive(Debug, Serialize)]
pub struct BackupReport {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The new backup.
    pub backup: BackupId,
    /// Tables with rows of their own.
    pub tables: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Large objects.
    pub large_objects: u64,
    /// Bytes before compression.
    pub plain_bytes: u64,
    /// Bytes in the vault.
    pub sealed_bytes: u64,
    /// Seconds from locking the tables to the end of the last payload.
    pub dump_seconds: f64,
    /// Seconds of the whole run.
    pub seconds: f64,
    /// Names of the keys that open it.
    pub slots: Vec<String>,
    /// Where the manifest stands.
    pub manifest: String,
}

/// Takes a backup of one datastore.
///
/// # Errors
/// [`WorkError`]; there is no backup then, and nothing of it that `sweep` would not find.
pub async fn back_up(rig: &Rig, datastore: &DatastoreName) -> Result<BackupReport, WorkError> {
    let lost = rig.cancel.child_token();
    let held = Held::take(rig, datastore, &lost).await?;
    let holding = Rig { cancel: lost.clone(), ..rig.clone() };
    match back_up_as(&holding, datastore, held.mandate).await {
        // Nobody pressed Ctrl-C.
        Err(WorkError::Interrupted) if !rig.cancel.is_cancelled() => Err(WorkError::TakenOver { datastore: datastore.clone() }),
        done => done,
    }
}

/// Takes a backup of a datastore that is held under a mandate.
///
/// # Errors
/// As [`back_up`].
pub async fn back_up_as(rig: &Rig, datastore: &DatastoreName, mandate: Mandate) -> Result<BackupReport, WorkError> {
    let known: Vec<String> = rig.config.datastores.keys().map(ToString::to_string).collect();
    let settings = rig.config.datastores.get(datastore).ok_or_else(|| shelf::no_such_datastore(datastore.as_str(), &known))?;
    let _lock = HostLock::take(&rig.config, datastore, "a backup")?;
    let run = match rig.catalog() {
        Some(catalog) => without_catalog(catalog.begin_run("backup", datastore.as_str()).await).map(|run| (catalog, run)),
        None => None,
    };
    let result = run_backup(rig, datastore, settings, mandate).await;
    if let Some((catalog, run)) = run {
        let outcome = match &result {
            Ok(report) => format!("published {}", report.backup),
            Err(error) => format!("{}: {error}", error.trouble()),
        };
        if let Err(error) = catalog.end_run(run, &outcome).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the end of the run could not be noted in the catalog");
        }
    }
    result
}

/// A full or locked catalog is no reason to go without tonight's backup.
fn without_catalog<T>(result: Result<T, CatalogError>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, "the catalog cannot be used; going on without it"))
        .ok()
}

async fn run_backup(rig: &Rig, datastore: &DatastoreName, settings: &DatastoreConfig, mandate: Mandate) -> Result<BackupReport, WorkError> {
    let begun = Timestamp::now();
    let clock = std::time::Instant::now();
    let vault = shelf::vault_id(rig).await?;
    let context = Context { vault, datastore: datastore.clone(), backup: BackupId::new(begun, rand::random()) };
    let identity = Identity::generate();
    let wrapped = wrap(rig, &identity, &context).await?;
    // A key that cannot sign, or that nobody believes, must not be found out after hours of dumping.
    let probe = Document::probe();
    believed_signer(rig, &probe, &rig.signer.sign(probe.bytes()).await?).await?;
    let dumping = std::time::Instant::now();
    let read = read_source(rig, settings, &context, &identity).await?;
    let dump_seconds = dumping.elapsed().as_secs_f64();
    failpoint::reach("payloads-done");

    let draft = Draft { context: &context, mandate, begun, wrapped, facts: read.facts, tools: &read.tools };
    let mut written = Vec::new();
    let manifest = match publish(rig, draft, read.arrived, &mut written).await {
        Ok(manifest) => manifest,
        Err(NotPublished::NoManifest(error)) => {
            remove_unpublished(rig, written).await;
            return Err(error);
        }
        // The manifest may be there: nothing that it names may go.
        Err(NotPublished::PerhapsManifest(error)) => return Err(error),
    };
    if let Some(catalog) = rig.catalog()
        && let Err(error) = catalog.remember(&manifest).await
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "the backup is published but could not be noted in the catalog");
    }
    failpoint::reach("catalog-written");
    Ok(BackupReport {
        datastore: datastore.clone(),
        backup: manifest.backup.clone(),
        tables: read.fingerprint.tables.len() as u64,
        rows: read.fingerprint.rows(),
        large_objects: read.fingerprint.large_objects.count,
        plain_bytes: manifest.plain_bytes(),
        sealed_bytes: manifest.sealed_bytes(),
        dump_seconds,
        seconds: clock.elapsed().as_secs_f64(),
        slots: manifest.slots.iter().map(|s| s.name.clone()).collect(),
        manifest: format!("{}/{}", rig.vault.address(), manifest.place().manifest()),
    })
}

/// The newest record of the evidence: as the vault has it, or, for a role that may not read, as this host last saw it.
async fn evidence_head(rig: &Rig, vault: &crate::domain::id::VaultId) -> Option<String> {
    match crate::evidence::head(rig.vault.as_ref()).await {
        Ok(head) => head,
        Err(_) => without_catalog(rig.catalog()?.evidence_seen(vault).await)?.pop(),
    }
}

/// Wraps the identity under every key. All of them, or there is no backup: fewer ways to open than configured is not success.
async fn wrap(rig: &Rig, identity: &Identity, context: &Context) -> Result<Vec<(Slot, Document)>, WorkError> {
    let mut wrapped = Vec::new();
    for key in &rig.keys {
        let bytes = key.wrap(identity, context).await?;
        let slot = Slot {
            name: key.name().to_owned(),
            opens_with: key.opens_with(),
            file: context.place().slot(1, key.name(), key.extension()),
            sha256: shelf::sha256(bytes.bytes()),
        };
        wrapped.push((slot, Document::slot(&bytes)));
    }
    Ok(wrapped)
}

/// Everything that reading the source gave: payloads that have arrived but are not visible yet, and facts.
struct Reading {
    arrived: Vec<Arrived>,
    fingerprint: Fingerprint,
    facts: SourceFacts,
    tools: Tools,
}

async fn read_source(rig: &Rig, settings: &DatastoreConfig, context: &Context, identity: &Identity) -> Result<Reading, WorkError> {
    let failed = |source: SourceError| WorkError::Source { datastore: context.datastore.clone(), source };
    let connection = settings.connect().await.map_err(|why| failed(SourceError::Password(why)))?;
    let tools = fitting_tools(rig, &connection).await.map_err(failed)?;
    let stage = rig.progress.begin("lock tables", None);
    let snapshot = cancellable(rig, Snapshot::take(&tools, &connection, settings.lock_wait)).await?.map_err(failed)?;
    stage.end();
    let before = dump::globals_once(&tools, &connection, &snapshot.database, settings.role_passwords).await.map_err(failed)?;
    let key = HashKey::from_random(rand::random());
    let split = Split::new(&snapshot.tables, settings.jobs);
    let pouring = Pourer { rig, context, identity, key: &key, stage: rig.progress.begin("dump", None) };
    let poured = pouring.tables(&tools, &connection, &snapshot, &split, settings).await;
    pouring.stage.end();
    let (mut arrived, tallies) = poured?;
    let rest = async {
        let globals =
            dump::globals_settled(&tools, &connection, &snapshot.database, settings.role_passwords, before).await.map_err(failed)?;
        dump::complete(&snapshot, &tallies).map_err(failed)?;
        let facts = snapshot.facts.clone();
        snapshot.release();
        let mut tallies = tallies.into_iter();
        let fingerprint = assemble(key.clone(), tools.major(), tallies.next().unwrap_or_default(), tallies);
        let json = serde_json::to_vec(&fingerprint).map_err(|error| WorkError::Bug(error.to_string()))?;
        let place = context.place();
        let globals = pouring.memory("globals.sql", Role::Globals, place.payload("globals.sql"), globals).await?;
        let mut sealed = vec![globals];
        let mut small = vec![("fingerprint.json", Role::Fingerprint, json)];
        // As it stands, whether or not it has faults: it is for whoever restores, and no reason to go without a backup.
        if let Some(plan) = plans::text_of(&rig.config, &context.datastore) {
            small.push(("plan.toml", Role::Plan, plan));
        }
        for (name, role, bytes) in small {
            match pouring.memory(name, role, place.sealed_meta(name), bytes).await {
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
            Ok(Reading { arrived, fingerprint, facts, tools })
        }
        Err(error) => {
            join_all(arrived.into_iter().map(Arrived::abort)).await;
            Err(error)
        }
    }
}

async fn cancellable<T>(rig: &Rig, work: impl Future<Output = T>) -> Result<T, WorkError> {
    tokio::select! {
        () = rig.cancel.cancelled() => Err(WorkError::Interrupted),
        done = work => Ok(done),
    }
}

/// Client programs at least as new as the server. Any `psql` can ask the server's version.
///
/// # Errors
/// [`SourceError::Tools`] if there are none, [`SourceError::Session`] if the server cannot be reached.
pub async fn fitting_tools(rig: &Rig, connection: &Connection) -> Result<Tools, SourceError> {
    let any = Tools::find(rig.config.pg_bin.as_deref(), 0).await?;
    let mut session = Session::open(&any, connection).await?;
    let server = snapshot::server(&mut session).await?;
    Ok(Tools::find(rig.config.pg_bin.as_deref(), server.major()).await?)
}

/// What every payload of one backup has in common.
struct Pourer<'a> {
    rig: &'a Rig,
    context: &'a Context,
    identity: &'a Identity,
    key: &'a HashKey,
    stage: Arc<Stage>,
}

impl Pourer<'_> {
    /// Pours `main` and all data payloads at once; the first failure stops the others.
    async fn tables(
        &self,
        tools: &Tools,
        connection: &Connection,
        snapshot: &Snapshot,
        split: &Split,
        settings: &DatastoreConfig,
    ) -> Result<(Vec<Arrived>, Vec<Tally>), WorkError> {
        let failed = |source: SourceError| WorkError::Source { datastore: self.context.datastore.clone(), source };
        let mut streams =
            vec![("main".to_owned(), Role::Main, dump::main(tools, connection, snapshot, split, settings.lock_wait).map_err(failed)?)];
        for (index, tables) in split.data.iter().enumerate() {
            let stream = dump::data(tools, connection, snapshot, tables, settings.lock_wait).map_err(failed)?;
            streams.push((format!("data-{:03}", index + 1), Role::Data, stream));
        }
        let stop = self.rig.cancel.child_token();
        let shares = streams.len();
        let pours = streams.into_iter().map(|(name, role, stream)| {
            let stop = stop.clone();
            async move {
                let poured = self.stream(name, role, stream, shares, &stop).await;
                if poured.is_err() {
                    stop.cancel();
                }
                poured
            }
        });
        let mut arrived = Vec::new();
        let mut tallies = Vec::new();
        let mut first_error: Option<WorkError> = None;
        for poured in join_all(pours).await {
            match poured {
                Ok((payload, tally)) => {
                    arrived.push(payload);
                    tallies.push(tally);
                }
                // "Interrupted" by a sibling's failure is not the cause.
                Err(error) if first_error.as_ref().is_none_or(|first| matches!(first, WorkError::Interrupted)) => first_error = Some(error),
                Err(_) => {}
            }
        }
        match first_error {
            None => Ok((arrived, tallies)),
            Some(error) => {
                join_all(arrived.into_iter().map(Arrived::abort)).await;
                Err(error)
            }
        }
    }

    async fn stream(
        &self,
        name: String,
        role: Role,
        stream: DumpStream,
        shares: usize,
        stop: &tokio_util::sync::CancellationToken,
    ) -> Result<(Arrived, Tally), WorkError> {
        let DumpStream { output, end } = stream;
        let kill = end.abort_handle();
        let (proved, proof) = tokio::sync::oneshot::channel();
        let watching: JoinHandle<Option<SourceError>> = tokio::spawn(async move {
            match end.await {
                Ok(Ok(end)) => {
                    let _ = proved.send(end);
                    None
                }
                Ok(Err(error)) => Some(error),
                Err(_) => Some(SourceError::Incomplete("pg_dump was stopped".to_owned())),
            }
        });
        let destination = Destination { key: self.context.place().payload(&name), name, role };
        let tap = ArchiveTap { reader: Reader::new(Fingerprinter::new(self.key.clone())), stage: Arc::clone(&self.stage) };
        let stream = Stream { source: output, end: move || proof.blocking_recv().ok(), tap };
        let sent = send(self.rig.vault.as_ref(), destination, stream, self.identity, self.sealing(shares), stop).await;
        let Err(error) = sent else { return sent };
        let mut cause = error;
        if source_may_know_better(&cause)
            && let Ok(Ok(Some(source))) = tokio::time::timeout(CHILD_END, watching).await
        {
            cause = WorkError::Source { datastore: self.context.datastore.clone(), source };
        }
        // Dropping the waiting task drops the child, and that kills it.
        kill.abort();
        Err(cause)
    }

    async fn memory(&self, name: &str, role: Role, key: ObjectKey, bytes: Vec<u8>) -> Result<Arrived, WorkError> {
        let destination = Destination { name: name.to_owned(), role, key };
        let stream = Stream { source: std::io::Cursor::new(bytes), end: || Some(SourceEnd::of_memory()), tap: () };
        let (arrived, ()) = send(self.rig.vault.as_ref(), destination, stream, self.identity, self.sealing(1), &self.rig.cancel).await?;
        Ok(arrived)
    }

    fn sealing(&self, shares: usize) -> Sealing {
        let (limits, compression) = (self.rig.vault.limits(), self.rig.config.compression);
        Sealing {
            levels: compression.levels,
            compressors: compression.compressors.div_ceil(shares),
            part_bytes: limits.part_bytes,
            parts_per_object_max: limits.parts_max,
        }
    }
}

/// Reads the archive as it passes and computes its part of the fingerprint.
pub struct ArchiveTap {
    /// The reader.
    pub reader: Reader<Fingerprinter>,
    /// Where to tell how far it is.
    pub stage: Arc<Stage>,
}

impl Tap for ArchiveTap {
    type Found = Tally;
    fn look(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.reader.feed(bytes).map_err(|error| error.to_string())?;
        self.stage.add(bytes.len() as u64);
        self.stage.item(self.reader.visitor().current_table());
        Ok(())
    }
    fn done(self) -> Result<Tally, String> {
        let (_, fingerprinter) = self.reader.finish().map_err(|error| error.to_string())?;
        Ok(fingerprinter.into_tally())
    }
}

/// What is stated of a backup beside its payloads.
struct Draft<'a> {
    context: &'a Context,
    mandate: Mandate,
    begun: Timestamp,
    wrapped: Vec<(Slot, Document)>,
    facts: SourceFacts,
    tools: &'a Tools,
}

/// Why a backup is not published, and whether its manifest may be in the vault all the same.
enum NotPublished {
    NoManifest(WorkError),
    PerhapsManifest(WorkError),
}

impl<E: Into<WorkError>> From<E> for NotPublished {
    fn from(error: E) -> Self {
        Self::NoManifest(error.into())
    }
}

/// Writes objects of one backup and remembers which, so that they can be removed if the backup is not published.
struct Writer<'a> {
    rig: &'a Rig,
    written: &'a mut Vec<ObjectKey>,
}

impl Writer<'_> {
    async fn put(&mut self, key: &ObjectKey, document: Document) -> Result<(), WorkError> {
        self.written.push(key.clone());
        Ok(self.rig.vault.put(key, document).await?)
    }
}

/// From arrived payloads to the commit point: payloads visible, slots, envelope, `RESTORE.md`, signature, manifest.
async fn publish(rig: &Rig, draft: Draft<'_>, arrived: Vec<Arrived>, written: &mut Vec<ObjectKey>) -> Result<Manifest, NotPublished> {
    let receipts = complete_all(arrived, written).await?;
    let mut writer = Writer { rig, written };
    let (slots, envelope_sha256) = publish_envelope(&mut writer, draft.context, draft.wrapped).await?;
    failpoint::reach("envelope-written");
    let statement = Statement {
        vault: draft.context.vault.clone(),
        datastore: draft.context.datastore.clone(),
        backup: draft.context.backup.clone(),
        sequence: next_sequence(rig, draft.context).await?,
        tick: draft.mandate.tick,
        epoch: draft.mandate.epoch,
        begun: draft.begun,
        published: Timestamp::now(),
        source: draft.facts,
        tools: manifest::Tools {
            lifeboat: env!("CARGO_PKG_VERSION").to_owned(),
            pg_dump: draft.tools.version().to_owned(),
            pg_dump_major: draft.tools.major(),
        },
        envelope_sha256,
        slots: slots.iter().map(|s| manifest::Slot { name: s.name.clone(), kind: guide::kind(s).to_owned() }).collect(),
        evidence_head: evidence_head(rig, &draft.context.vault).await,
    };
    let manifest = Manifest::new(statement, receipts);
    let document = Document::manifest(&manifest);
    let signature = rig.signer.sign(document.bytes()).await?;
    let public = believed_signer(rig, &document, &signature).await?;
    let place = manifest.place();
    let guide = guide::restore_guide(&manifest, &slots, rig.vault.as_ref(), &public, &shelf::sha256(document.bytes()));
    writer.put(&place.restore_guide(1), Document::restore_guide(guide)).await?;
    writer.put(&place.manifest().signature(), Document::signature(signature)).await?;
    failpoint::reach("signature-written");
    if rig.cancel.is_cancelled() {
        return Err(WorkError::Interrupted.into());
    }
    draft.mandate.holds(rig, &draft.context.datastore).await?;
    failpoint::reach("about-to-publish");
    rig.vault.put(&place.manifest(), document).await.map_err(|error| NotPublished::PerhapsManifest(error.into()))?;
    failpoint::reach("manifest-written");
    Ok(manifest)
}

/// Writes slots and the signed envelope that lists them.
async fn publish_envelope(
    writer: &mut Writer<'_>,
    context: &Context,
    wrapped: Vec<(Slot, Document)>,
) -> Result<(Vec<Slot>, String), WorkError> {
    let mut slots = Vec::new();
    for (slot, document) in wrapped {
        writer.put(&slot.file, document).await?;
        slots.push(slot);
    }
    let envelope = Document::envelope(&Envelope::first(context, slots.clone()));
    let key = context.place().envelope(1);
    let signature = writer.rig.signer.sign(envelope.bytes()).await?;
    writer.put(&key.signature(), Document::signature(signature)).await?;
    let sha256 = shelf::sha256(envelope.bytes());
    writer.put(&key, envelope).await?;
    Ok((slots, sha256))
}

/// The public key under which the signature will be believed. A key that signs what nobody will believe makes backups that
/// nobody will restore. A signing role need not be able to tell its public half, so the pinned keys are asked first.
async fn believed_signer(rig: &Rig, document: &Document, signature: &[u8]) -> Result<PublicKey, WorkError> {
    if let Some(pinned) = rig.trusted.signer_of(document.bytes(), signature) {
        return Ok(pinned.clone());
    }
    if rig.trusted.is_empty() {
        return Ok(rig.signer.public().await?);
    }
    let hint = match rig.signer.public().await {
        Ok(public) => format!("add it to [signing] in lifeboat.toml: trust = [\"{}\"]", public.to_line()),
        Err(_) => "add its public half to [signing] in lifeboat.toml: trust = [\"…\"]".to_owned(),
    };
    Err(WorkError::Refused {
        what: format!("the signing key {}", rig.signer.name()),
        why: "what it signs would not be believed: its public half is not in trust = […]".to_owned(),
        hint,
    })
}

/// Takes back what was written of a backup that has no manifest. A role that may only write leaves it to `sweep`.
async fn remove_unpublished(rig: &Rig, written: Vec<ObjectKey>) {
    for key in written {
        if let Err(error) = rig.vault.remove(&key).await {
            tracing::info!(%key, error = &error as &dyn std::error::Error, "left behind; `lifeboat sweep` removes it");
        }
    }
}

/// One more than the highest sequence number of the datastore. Manifests that the catalog knows are not read again; those it
/// does not know are, whoever wrote them and whenever: clocks of hosts differ, so names alone do not tell the newest.
async fn next_sequence(rig: &Rig, context: &Context) -> Result<u64, WorkError> {
    let known = match rig.catalog() {
        Some(catalog) => without_catalog(catalog.known(&context.vault, &context.datastore).await).unwrap_or_default(),
        None => BTreeMap::new(),
    };
    let mut highest = known.values().copied().max();
    let listed = rig.vault.list(&layout::manifests_of(&context.datastore)).await?;
    let names = listed.iter().filter_map(|facts| parse_manifest_key(facts.key.as_str())).map(|(_, backup)| backup);
    for backup in names.filter(|backup| !known.contains_key(backup)) {
        let place = layout::Place { datastore: &context.datastore, backup: &backup };
        match shelf::manifest(rig, &context.vault, &place).await {
            Ok(believed) => highest = highest.max(Some(believed.manifest.sequence)),
            // A role that may only write remembers, and a forged manifest must not stop tonight's backup.
            Err(error) if highest.is_some() || error.trouble() == Trouble::Integrity => {
                tracing::warn!(%backup, error = &error as &dyn std::error::Error, "a manifest is passed over for the sequence number");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(highest.unwrap_or(0) + 1)
}

//! The blocks of a snapshot: hashed when the set is taken, compared whenever they are read again.
//!
//! The payload `blocks-NNN` of a set has one line per block that volume's snapshot holds,
//! ascending: its index, a space, its SHA-256 in hexadecimal. It is sealed, since hashes of data
//! tell of the data. Blocks that a snapshot does not list are zeros, so a place may list blocks of
//! zeros or leave them out. Nothing here grows with the volume: pages of a listing, lines of a
//! payload, and a few blocks under way.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::sync::{mpsc, oneshot};

use crate::domain::manifest::{Manifest, Payload, PayloadRole};
use crate::domain::volumes::{BLOCK_BYTES, SetMember, SnapshotId, VolumeSet};
use crate::progress::ProgressStage;
use crate::seal::{BackupIdentity, SourceEnd};
use crate::volumes::{BlockRef, VolumeStore, VolumesError};
use crate::work::payload::{PayloadDestination, PayloadStream, StagedPayload, send};
use crate::work::publish::PendingBackup;
use crate::work::{WorkContext, WorkError, back_up, cancellable, shelf};

/// Blocks read at once.
const READS_MAX: usize = 16;
/// Lines that wait between two threads.
const LINES_QUEUED_MAX: usize = 1024;
/// How often a block is read that does not come.
const READ_ATTEMPTS_MAX: u32 = 6;
/// Longest line of a payload: an index, a space, 64 digits.
const LINE_BYTES_MAX: usize = 80;

type BlockDigest = [u8; 32];

fn digest(bytes: &[u8]) -> BlockDigest {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

/// The digest of a block of zeros.
fn zeros() -> BlockDigest {
    static ZEROS: std::sync::OnceLock<BlockDigest> = std::sync::OnceLock::new();
    *ZEROS.get_or_init(|| digest(&vec![0; BLOCK_BYTES]))
}

/// Name of the payload with the hashes of the volume at a place in the set.
#[must_use]
pub fn payload_name(index: usize) -> String {
    format!("blocks-{:03}", index + 1)
}

/// The payload with the hashes of a volume, if they were taken.
#[must_use]
pub fn payload_of(manifest: &Manifest, index: usize) -> Option<&Payload> {
    let name = payload_name(index);
    manifest
        .payloads
        .iter()
        .find(|payload| payload.role == PayloadRole::Blocks && payload.name == name)
}

/// A snapshot's listing, block by block.
struct BlockListing<'a> {
    volumes: &'a dyn VolumeStore,
    snapshot: &'a SnapshotId,
    since: Option<&'a SnapshotId>,
    ready: VecDeque<BlockRef>,
    next: Option<Option<String>>,
    last: Option<u32>,
}

impl<'a> BlockListing<'a> {
    fn of(
        volumes: &'a dyn VolumeStore,
        snapshot: &'a SnapshotId,
        since: Option<&'a SnapshotId>,
    ) -> Self {
        Self { volumes, snapshot, since, ready: VecDeque::new(), next: Some(None), last: None }
    }

    async fn next(&mut self) -> Result<Option<BlockRef>, VolumesError> {
        while self.ready.is_empty() {
            let Some(page) = self.next.take() else { return Ok(None) };
            let page = self.volumes.blocks(self.snapshot, self.since, page.as_deref()).await?;
            self.next = page.next.map(Some);
            self.ready = page.blocks.into();
        }
        let Some(block) = self.ready.pop_front() else { return Ok(None) };
        if self.last.is_some_and(|last| last >= block.index) {
            return Err(VolumesError::Nonsense {
                what: format!("listing the blocks of {}", self.snapshot),
                place: self.volumes.place().to_string(),
                why: format!(
                    "block {} comes after block {}",
                    block.index,
                    self.last.unwrap_or_default()
                ),
            });
        }
        self.last = Some(block.index);
        Ok(Some(block))
    }
}

async fn read(
    volumes: &dyn VolumeStore,
    snapshot: &SnapshotId,
    block: BlockRef,
) -> Result<(BlockRef, Bytes), VolumesError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match volumes.read(snapshot, &block).await {
            Err(error @ (VolumesError::Unavailable { .. } | VolumesError::Busy { .. }))
                if attempt < READ_ATTEMPTS_MAX =>
            {
                tracing::info!(error = &error as &dyn std::error::Error, "a block is read again");
                tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
            }
            read => return read.map(|bytes| (block, bytes)),
        }
    }
}

/// Recorded hashes, line by line.
pub struct RecordedBlocks {
    lines: mpsc::Receiver<Result<(u32, BlockDigest), WorkError>>,
    ahead: Option<(u32, BlockDigest)>,
}

impl RecordedBlocks {
    /// Opens the payload of a volume.
    ///
    /// # Errors
    /// [`WorkError`] if it cannot be read.
    pub async fn open(
        rig: &WorkContext,
        payload: &Payload,
        identity: &BackupIdentity,
    ) -> Result<Self, WorkError> {
        let mut opened = shelf::open_payload(rig, payload, identity).await?;
        let (tell, lines) = mpsc::channel(LINES_QUEUED_MAX);
        let name = payload.name.clone();
        tokio::task::spawn_blocking(move || {
            let (mut chunk, mut rest) = (vec![0; 64 * 1024], Vec::new());
            loop {
                let count = match opened.read(&mut chunk) {
                    Ok(count) => count,
                    Err(error) => return drop(tell.blocking_send(Err(error.into()))),
                };
                rest.extend_from_slice(&chunk[..count]);
                let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                for line in rest[..end].split_inclusive(|byte| *byte == b'\n') {
                    let parsed = parse(line).ok_or_else(|| malformed(&name));
                    if tell.blocking_send(parsed).is_err() {
                        return;
                    }
                }
                rest.drain(..end);
                if rest.len() > LINE_BYTES_MAX || (count == 0 && !rest.is_empty()) {
                    return drop(tell.blocking_send(Err(malformed(&name))));
                }
                if count == 0 {
                    return;
                }
            }
        });
        Ok(Self { lines, ahead: None })
    }

    async fn peek(&mut self) -> Result<Option<(u32, BlockDigest)>, WorkError> {
        if self.ahead.is_none() {
            self.ahead = self.lines.recv().await.transpose()?;
        }
        Ok(self.ahead)
    }

    /// The digest recorded of a block, passing over those before it, which must satisfy a
    /// condition.
    async fn of(
        &mut self,
        index: u32,
        mut passed: impl FnMut(u32, &BlockDigest) -> Result<(), WorkError>,
    ) -> Result<Option<BlockDigest>, WorkError> {
        while let Some((at, digest)) = self.peek().await? {
            if at > index {
                return Ok(None);
            }
            self.ahead = None;
            if at == index {
                return Ok(Some(digest));
            }
            passed(at, &digest)?;
        }
        Ok(None)
    }
}

fn malformed(name: &str) -> WorkError {
    WorkError::Damaged { what: name.to_owned(), why: "it is no list of blocks".to_owned() }
}

fn parse(line: &[u8]) -> Option<(u32, BlockDigest)> {
    let (index, digest) = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.split_once(' ')?;
    let mut out = [0; 32];
    hex::decode_to_slice(digest, &mut out).ok()?;
    Some((index.parse().ok()?, out))
}

/// Lines on their way into a payload.
struct BlockLines {
    arriving: mpsc::Receiver<Bytes>,
    ready: Bytes,
}

impl Read for BlockLines {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.ready.is_empty() {
            match self.arriving.blocking_recv() {
                Some(line) => self.ready = line,
                None => return Ok(0),
            }
        }
        let count = self.ready.len().min(into.len());
        into[..count].copy_from_slice(&self.ready.split_to(count));
        Ok(count)
    }
}

/// Hashes every block of a set; blocks that are the same as in the set before are not read again.
pub(super) async fn hash(
    rig: &WorkContext,
    volumes: &dyn VolumeStore,
    opening: &PendingBackup,
    set: &mut VolumeSet,
    before: Option<&Manifest>,
) -> Result<Vec<StagedPayload>, WorkError> {
    let stage = rig.progress.begin("hash blocks", None);
    let mut arrived = Vec::new();
    for index in 0..set.members.len() {
        let hashed = match set.members.get_mut(index) {
            Some(member) => hash_one(rig, volumes, opening, (index, member), before, &stage).await,
            None => break,
        };
        match hashed {
            Ok(payload) => arrived.push(payload),
            Err(error) => {
                futures::future::join_all(arrived.into_iter().map(StagedPayload::abort)).await;
                return Err(error);
            }
        }
    }
    stage.end();
    Ok(arrived)
}

/// Hashes that still hold, and the listing of the blocks of which they do not.
struct KnownBlocks<'a> {
    recorded: RecordedBlocks,
    changed: BlockListing<'a>,
    ahead: Option<BlockRef>,
}

impl KnownBlocks<'_> {
    /// The digest of a block that has not changed.
    async fn of(&mut self, index: u32) -> Result<Option<BlockDigest>, HashError> {
        while self.ahead.as_ref().is_none_or(|block| block.index < index) {
            match self.changed.next().await? {
                Some(block) => self.ahead = Some(block),
                None => break,
            }
        }
        let recorded = self.recorded.of(index, |_, _| Ok(())).await?;
        Ok(recorded.filter(|_| self.ahead.as_ref().is_none_or(|block| block.index != index)))
    }
}

/// What may go wrong while hashing.
enum HashError {
    Volumes(VolumesError),
    Work(Box<WorkError>),
    /// Whoever takes the hashes has failed, and says why.
    NobodyTakes,
}

impl From<VolumesError> for HashError {
    fn from(error: VolumesError) -> Self {
        Self::Volumes(error)
    }
}

impl From<WorkError> for HashError {
    fn from(error: WorkError) -> Self {
        Self::Work(Box::new(error))
    }
}

async fn hash_one(
    rig: &WorkContext,
    volumes: &dyn VolumeStore,
    opening: &PendingBackup,
    (index, member): (usize, &mut SetMember),
    before: Option<&Manifest>,
    stage: &Arc<ProgressStage>,
) -> Result<StagedPayload, WorkError> {
    let name = payload_name(index);
    let destination = PayloadDestination {
        key: opening.context.place().sealed_meta(&name),
        name,
        role: PayloadRole::Blocks,
    };
    let (tell, arriving) = mpsc::channel(LINES_QUEUED_MAX);
    let (proved, proof) = oneshot::channel();
    let stream = PayloadStream {
        source: BlockLines { arriving, ready: Bytes::new() },
        end: move || proof.blocking_recv().ok(),
        tap: (),
    };
    let earlier = before.and_then(|manifest| Some((manifest, earlier(manifest, member)?)));
    let snapshot = member.snapshot.clone();
    let producing = async {
        let known = match earlier {
            Some((manifest, (payload, since))) => {
                known(rig, volumes, manifest, payload, &snapshot, since).await
            }
            None => None,
        };
        let incremental = known.is_some();
        let counts = cancellable(rig, produce(volumes, &snapshot, known, tell, stage)).await??;
        let _ = proved.send(SourceEnd::of_listing());
        Ok((counts, incremental))
    };
    let sending = send(
        rig.vault.as_ref(),
        destination,
        stream,
        &opening.identity,
        back_up::sealing(rig, 1),
        &rig.cancel,
    );
    let (produced, sent) = tokio::join!(producing, sending);
    let error = |error| WorkError::Set {
        datastore: opening.context.datastore.clone(),
        source: super::SetError::Volumes(error),
    };
    match (produced, sent) {
        (Ok(((blocks, changed), incremental)), Ok((payload, ()))) => {
            member.blocks = Some(blocks);
            member.changed = incremental.then_some(changed);
            Ok(payload)
        }
        (Err(HashError::NobodyTakes), Err(error)) => Err(error),
        // The cause, and not that the stream ended badly for it.
        (Err(cause), sent) => {
            if let Ok((payload, ())) = sent {
                payload.abort().await;
            }
            Err(match cause {
                HashError::Volumes(cause) => error(cause),
                HashError::Work(cause) => *cause,
                HashError::NobodyTakes => WorkError::Interrupted,
            })
        }
        (Ok(_), Err(error)) => Err(error),
    }
}

/// The payload and the snapshot of the same volume in the set before.
fn earlier<'a>(
    manifest: &'a Manifest,
    member: &SetMember,
) -> Option<(&'a Payload, &'a SnapshotId)> {
    let set = manifest.set.as_ref()?;
    let index = set
        .members
        .iter()
        .position(|one| one.volume == member.volume && one.bytes == member.bytes)?;
    Some((payload_of(manifest, index)?, &set.members[index].snapshot))
}

/// What is known of the set before; where it cannot be had, everything is read.
async fn known<'a>(
    rig: &WorkContext,
    volumes: &'a dyn VolumeStore,
    manifest: &Manifest,
    payload: &Payload,
    snapshot: &'a SnapshotId,
    since: &'a SnapshotId,
) -> Option<KnownBlocks<'a>> {
    let identity = shelf::open_backup(rig, manifest).await.ok()?.identity;
    let recorded = RecordedBlocks::open(rig, payload, &identity).await.ok()?;
    // Archived or gone: then there is nothing to compare with.
    let there = volumes.snapshots(std::slice::from_ref(since)).await.ok()?.pop()?;
    (there.progress == crate::domain::volumes::SnapshotProgress::Completed).then_some(())?;
    Some(KnownBlocks {
        recorded,
        changed: BlockListing::of(volumes, snapshot, Some(since)),
        ahead: None,
    })
}

/// Sends one line per block; how many blocks there are, and how many were read.
async fn produce(
    volumes: &dyn VolumeStore,
    snapshot: &SnapshotId,
    mut known: Option<KnownBlocks<'_>>,
    tell: mpsc::Sender<Bytes>,
    stage: &Arc<ProgressStage>,
) -> Result<(u64, u64), HashError> {
    let mut listing = BlockListing::of(volumes, snapshot, None);
    let (mut blocks, mut reads, mut ended) = (0, 0, false);
    let mut under_way = FuturesOrdered::new();
    loop {
        while !ended && under_way.len() < READS_MAX {
            let Some(block) = listing.next().await? else {
                ended = true;
                break;
            };
            blocks += 1;
            let held = match &mut known {
                Some(old) => match old.of(block.index).await {
                    Ok(held) => held,
                    // Hashes of the set before that cannot be read are no reason to go without
                    // tonight's: from here on everything is read.
                    Err(HashError::Work(error)) => {
                        tracing::warn!(
                            error = error.as_ref() as &dyn std::error::Error,
                            "the hashes of the set before cannot be used"
                        );
                        known = None;
                        None
                    }
                    Err(error) => return Err(error),
                },
                None => None,
            };
            reads += u64::from(held.is_none());
            under_way.push_back(async move {
                match held {
                    Some(digest) => Ok((block.index, digest)),
                    None => read(volumes, snapshot, block)
                        .await
                        .map(|(block, bytes)| (block.index, digest(&bytes))),
                }
            });
        }
        let Some(done) = under_way.next().await else { return Ok((blocks, reads)) };
        let (index, digest) = done?;
        stage.add(BLOCK_BYTES as u64);
        if tell.send(Bytes::from(format!("{index} {}\n", hex::encode(digest)))).await.is_err() {
            return Err(HashError::NobodyTakes);
        }
    }
}

/// Reads every block of a snapshot, compares it with what was recorded, and hands it on. Returns
/// how many there are.
///
/// # Errors
/// [`WorkError::Damaged`] at the first block that is not what was recorded; [`WorkError::Set`] if
/// the place does not give them.
pub async fn walk(
    rig: &WorkContext,
    manifest: &Manifest,
    (volumes, snapshot): (&dyn VolumeStore, &SnapshotId),
    mut recorded: Option<RecordedBlocks>,
    stage: &Arc<ProgressStage>,
    mut take: impl FnMut(u32, &Bytes) -> Result<(), WorkError>,
) -> Result<u64, WorkError> {
    let failed = |error| WorkError::Set {
        datastore: manifest.datastore.clone(),
        source: super::SetError::Volumes(error),
    };
    let differs = |index: u32, why: &str| WorkError::Damaged {
        what: format!("block {index} of snapshot {snapshot}"),
        why: why.to_owned(),
    };
    let missing = |index: u32, digest: &BlockDigest| match *digest == zeros() {
        true => Ok(()),
        false => Err(differs(index, "it was recorded, and the snapshot does not hold it")),
    };
    let mut listing = BlockListing::of(volumes, snapshot, None);
    let mut under_way = FuturesOrdered::new();
    let (mut ended, mut blocks) = (false, 0);
    loop {
        while !ended && under_way.len() < READS_MAX {
            match listing.next().await.map_err(failed)? {
                Some(block) => under_way.push_back(read(volumes, snapshot, block)),
                None => ended = true,
            }
        }
        let Some(next) = cancellable(rig, under_way.next()).await? else { break };
        let (block, bytes) = next.map_err(failed)?;
        if bytes.len() != BLOCK_BYTES {
            return Err(differs(block.index, "it is not 512 KiB long"));
        }
        if let Some(recorded) = &mut recorded {
            let found = digest(&bytes);
            match recorded.of(block.index, missing).await? {
                Some(wanted) if wanted == found => {}
                Some(_) => {
                    return Err(differs(block.index, "its SHA-256 is not what was recorded"));
                }
                None if found == zeros() => {}
                None => {
                    return Err(differs(
                        block.index,
                        "it holds something, and nothing was recorded there",
                    ));
                }
            }
        }
        take(block.index, &bytes)?;
        blocks += 1;
        stage.add(BLOCK_BYTES as u64);
    }
    if let Some(recorded) = &mut recorded {
        recorded.of(u32::MAX, missing).await?;
    }
    Ok(blocks)
}

/// Writes the volume of a snapshot to a file, sparse, every block compared before it is written.
///
/// # Errors
/// As [`walk`]; also if the file cannot be written, or a block lies outside of the volume.
pub async fn to_file(
    rig: &WorkContext,
    manifest: &Manifest,
    source: (&dyn VolumeStore, &SnapshotId),
    recorded: Option<RecordedBlocks>,
    (file, bytes): (&Path, u64),
    stage: &Arc<ProgressStage>,
) -> Result<u64, WorkError> {
    use std::os::unix::fs::OpenOptionsExt;
    let fail = |source| WorkError::File { what: format!("writing {}", file.display()), source };
    let disk: File = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .map_err(fail)?;
    disk.set_len(bytes).map_err(fail)?;
    let write = |index: u32, block: &Bytes| {
        let at = u64::from(index) * BLOCK_BYTES as u64;
        let inside =
            usize::try_from(bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(block.len());
        if block[inside..].iter().any(|byte| *byte != 0) {
            return Err(WorkError::Damaged {
                what: format!("block {index}"),
                why: "it lies outside of its volume".to_owned(),
            });
        }
        if block[..inside].iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        disk.write_all_at(&block[..inside], at).map_err(fail)
    };
    let blocks = walk(rig, manifest, source, recorded, stage, write).await?;
    disk.sync_all().map_err(fail)?;
    Ok(blocks)
}

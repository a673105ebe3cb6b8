//! From a source to sealed parts: blocks, frames, encryption, hashes.
//!
//! One thread reads and cuts the stream into blocks; a few compress, each block an independent zstd
//! frame, so that reading back can decompress in parallel and plain `zstd -d` still reads it; one
//! puts the frames in order through age and a running SHA-256 into parts. A tap sees every block on
//! a thread of its own, beside compression, not before it.
//!
//! The level adapts between bounds: it rises while compressors wait for the source *and* a core of
//! the machine is idle, and falls when blocks queue up. So compression never holds the dump back,
//! and idle cores are used for smaller backups. A compressor that waits is not enough of a sign: on
//! a busy machine it waits because the dump has no core either.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::chunks::ChunkHasher;
use super::identity::BackupIdentity;
use super::proof::{SealProof, SealedBytes, SegmentProof, SourceEnd};

/// Bytes of plaintext in one zstd frame.
pub const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// Blocks that may wait for a compressor. More would hide a slow vault behind memory, not make it
/// faster.
const BLOCKS_QUEUED_MAX: usize = 2;
/// How often the machine is asked for idle cores.
const CORES_INTERVAL: Duration = Duration::from_millis(200);

/// How a stream is sealed.
#[derive(Debug, Clone)]
pub struct SealOptions {
    /// Lowest and highest zstd level; equal for a fixed one.
    pub levels: (i32, i32),
    /// Compressing threads, at least 1.
    pub compressors: usize,
    /// Bytes of each part but the last; the vault's part size.
    pub part_bytes: usize,
    /// Parts after which the stream goes on in the next object.
    pub parts_per_object_max: usize,
}

/// One part of a sealed stream and the object it belongs to, counted from 1.
pub struct SealedPart {
    /// Which object of the payload, from 1.
    pub object: usize,
    /// Which part of the object, from 1.
    pub part: usize,
    /// The ciphertext.
    pub bytes: SealedBytes,
}

/// Why a stream could not be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Reading the source failed.
    #[error("reading the source failed")]
    Read(#[source] std::io::Error),
    /// The source did not end as it should; its own error says why.
    #[error("the source did not end well")]
    SourceEndedBadly,
    /// Compression or encryption failed.
    #[error("sealing failed")]
    Seal(#[source] std::io::Error),
    /// Whoever watched the stream refused it.
    #[error("the stream is not what it should be: {0}")]
    Refused(String),
    /// The upload stopped taking parts.
    #[error("the upload stopped taking parts")]
    UploadStopped,
    /// A thread panicked.
    #[error("a sealing thread died")]
    ThreadDied,
}

/// Looks at the plaintext as it passes; its result is part of the outcome.
pub trait StreamObserver: Send + 'static {
    /// What it found.
    type Found: Send + 'static;
    /// The next bytes of the stream.
    ///
    /// # Errors
    /// A reason for which the stream must not be stored.
    fn observe(&mut self, bytes: &[u8]) -> Result<(), String>;
    /// The stream ended.
    ///
    /// # Errors
    /// A reason for which the stream must not be stored.
    fn done(self) -> Result<Self::Found, String>;
}

impl StreamObserver for () {
    type Found = ();
    fn observe(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    fn done(self) -> Result<(), String> {
        Ok(())
    }
}

/// A stream being sealed on its threads.
pub struct SealTask<F> {
    outcome: tokio::sync::oneshot::Receiver<Result<(SealProof, F), SealError>>,
    passed: Arc<AtomicU64>,
}

impl<F> SealTask<F> {
    /// Plaintext bytes read so far.
    #[must_use]
    pub fn passed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.passed)
    }
    /// Waits for the end.
    ///
    /// # Errors
    /// [`SealError`]; then no proof exists and nothing can be completed.
    pub async fn outcome(self) -> Result<(SealProof, F), SealError> {
        self.outcome.await.unwrap_or(Err(SealError::ThreadDied))
    }
}

/// Seals everything `source` yields to `identity`, sending parts as they fill.
///
/// At end of file `end` is called and may block until the source has proved its end; without proof
/// the stream is never closed. Dropping the receiver of `parts` stops the work.
pub fn seal_stream<T: StreamObserver>(
    source: impl Read + Send + 'static,
    end: impl FnOnce() -> Option<SourceEnd> + Send + 'static,
    tap: T,
    identity: &BackupIdentity,
    sealing: SealOptions,
    parts: tokio::sync::mpsc::Sender<SealedPart>,
) -> SealTask<T::Found> {
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let passed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&passed);
    let recipient = identity.recipient();
    std::thread::spawn(move || {
        let _ = answer.send(run(source, end, tap, &recipient, &sealing, parts, &counter));
    });
    SealTask { outcome, passed }
}

type PlainBlock = Arc<Vec<u8>>;
type CompressedFrame = Result<Vec<u8>, std::io::Error>;

/// A block on its way to a compressor, and where the frame goes.
struct CompressionJob {
    block: PlainBlock,
    level: i32,
    frame: Sender<CompressedFrame>,
}

fn run<T: StreamObserver>(
    source: impl Read,
    end: impl FnOnce() -> Option<SourceEnd>,
    tap: T,
    recipient: &age::x25519::Recipient,
    sealing: &SealOptions,
    parts: tokio::sync::mpsc::Sender<SealedPart>,
    passed: &AtomicU64,
) -> Result<(SealProof, T::Found), SealError> {
    let (jobs, jobs_in) = bounded::<CompressionJob>(BLOCKS_QUEUED_MAX);
    let (order, order_in) =
        bounded::<Receiver<CompressedFrame>>(sealing.compressors + BLOCKS_QUEUED_MAX);
    let (tapped, tapped_in) = bounded::<PlainBlock>(BLOCKS_QUEUED_MAX);
    let (finish, finish_in) = bounded::<()>(1);
    let idle = Arc::new(AtomicBool::new(false));

    let compressors: Vec<JoinHandle<()>> = (0..sealing.compressors.max(1))
        .map(|_| {
            let (jobs, idle) = (jobs_in.clone(), Arc::clone(&idle));
            std::thread::spawn(move || compress(&jobs, &idle))
        })
        .collect();
    drop(jobs_in);
    let tap = std::thread::spawn(move || watch(tap, &tapped_in));
    let writer = PartAssembler::new(parts, sealing);
    let recipient = recipient.clone();
    let sealer = std::thread::spawn(move || seal(&order_in, &recipient, writer, &finish_in));

    let read =
        read_blocks(source, sealing.levels, &idle, &SealChannels { jobs, order, tapped }, passed);
    // All senders are gone now, so every thread runs out of work and ends, whatever happened.
    let found = tap.join().map_err(|_| SealError::ThreadDied)?;
    let closing = match (&read, &found) {
        // The proof is asked for only when everything else is well; `end` may wait for a child
        // here.
        (Ok(_), Ok(_)) => end().ok_or(SealError::SourceEndedBadly).map(|_proof| {
            let _ = finish.send(());
        }),
        _ => Ok(()),
    };
    drop(finish);
    let sealed = sealer.join().map_err(|_| SealError::ThreadDied)?;
    for compressor in compressors {
        compressor.join().map_err(|_| SealError::ThreadDied)?;
    }
    let found = found.map_err(SealError::Refused)?;
    closing?;
    match (read, sealed) {
        (Ok(plain_bytes), Ok(Some(segments))) => Ok((SealProof { plain_bytes, segments }, found)),
        // A reader that found the queues closed only noticed; the sealer knows why.
        (_, Err(error)) | (Err(error), _) => Err(error),
        (Ok(_), Ok(None)) => Err(SealError::SourceEndedBadly),
    }
}

struct SealChannels {
    jobs: Sender<CompressionJob>,
    order: Sender<Receiver<CompressedFrame>>,
    tapped: Sender<PlainBlock>,
}

/// How the compressors keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CompressionQueue {
    /// Blocks wait for them.
    Full,
    /// Neither.
    Busy,
    /// They wait for blocks.
    Starved,
}

/// The level of the next block: lower as soon as compression holds the dump back, higher while it
/// would idle most of a core, lower again where somebody else needs the cores.
fn next_level(
    level: i32,
    (low, high): (i32, i32),
    queue: CompressionQueue,
    idle_cores: Option<f64>,
) -> i32 {
    let wanted = match (queue, idle_cores) {
        (CompressionQueue::Full, _) => level - 1,
        (CompressionQueue::Starved, Some(cores)) if cores >= 0.7 => level + 1,
        (CompressionQueue::Starved, Some(cores)) if cores < 0.3 => level - 1,
        _ => level,
    };
    wanted.clamp(low, high)
}

fn read_blocks(
    mut source: impl Read,
    (low, high): (i32, i32),
    idle: &AtomicBool,
    to: &SealChannels,
    passed: &AtomicU64,
) -> Result<u64, SealError> {
    let mut level = low;
    let mut cores = IdleCores::default();
    let mut total = 0;
    loop {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        let count = source
            .by_ref()
            .take(BLOCK_BYTES as u64)
            .read_to_end(&mut block)
            .map_err(SealError::Read)?;
        if count == 0 && total > 0 {
            return Ok(total);
        }
        total += count as u64;
        passed.store(total, Ordering::Relaxed);
        let block = Arc::new(block);
        let queue = match (to.jobs.is_full(), to.jobs.is_empty() && idle.load(Ordering::Relaxed)) {
            (true, _) => CompressionQueue::Full,
            (false, true) => CompressionQueue::Starved,
            (false, false) => CompressionQueue::Busy,
        };
        // Cores are looked at only where the answer counts: a look begins a new interval.
        let idle_cores =
            if queue == CompressionQueue::Starved && low < high { cores.idle() } else { None };
        level = next_level(level, (low, high), queue, idle_cores);
        let (frame, frame_in) = bounded(1);
        let sent = to.tapped.send(Arc::clone(&block)).is_ok()
            && to.order.send(frame_in).is_ok()
            && to.jobs.send(CompressionJob { block, level, frame }).is_ok();
        if !sent {
            return Err(SealError::UploadStopped);
        }
        if count < BLOCK_BYTES {
            return Ok(total);
        }
    }
}

/// How many cores of the machine do nothing, by `/proc/stat`, looked at no more often than
/// [`CORES_INTERVAL`].
#[derive(Default)]
struct IdleCores {
    last: Option<(Instant, u64, u64)>,
}

impl IdleCores {
    /// Idle cores since the last look; `None` if it was too recent or the kernel does not tell.
    #[allow(clippy::cast_precision_loss, reason = "a share of some seconds' ticks")]
    fn idle(&mut self) -> Option<f64> {
        if self.last.is_some_and(|(at, ..)| at.elapsed() < CORES_INTERVAL) {
            return None;
        }
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        // user nice system idle iowait irq softirq steal, in ticks over all cores.
        let ticks: Vec<u64> = stat
            .lines()
            .next()?
            .split_ascii_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|n| n.parse().ok())
            .collect();
        let (idle, all) = (*ticks.get(3)?, ticks.iter().sum::<u64>());
        let (_, idle_before, all_before) = self.last.replace((Instant::now(), idle, all))?;
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let passed = all.saturating_sub(all_before).max(1);
        Some(idle.saturating_sub(idle_before) as f64 / passed as f64 * count as f64)
    }
}

fn compress(jobs: &Receiver<CompressionJob>, idle: &AtomicBool) {
    let mut compressor = zstd::bulk::Compressor::new(0);
    loop {
        idle.store(jobs.is_empty(), Ordering::Relaxed);
        let Ok(job) = jobs.recv() else { return };
        let frame = match &mut compressor {
            Ok(compressor) => compressor
                .set_compression_level(job.level)
                .and_then(|()| compressor.include_checksum(true))
                .and_then(|()| compressor.compress(&job.block)),
            Err(error) => Err(std::io::Error::new(error.kind(), "zstd could not be set up")),
        };
        // Nobody waiting means that the run failed elsewhere and says so there.
        let _ = job.frame.send(frame);
    }
}

fn watch<T: StreamObserver>(mut tap: T, blocks: &Receiver<PlainBlock>) -> Result<T::Found, String> {
    for block in blocks {
        tap.observe(&block)?;
    }
    tap.done()
}

/// Puts frames in order through age into parts. `None` if the stream was not to be closed.
fn seal(
    order: &Receiver<Receiver<CompressedFrame>>,
    recipient: &age::x25519::Recipient,
    parts: PartAssembler,
    finish: &Receiver<()>,
) -> Result<Option<Vec<SegmentProof>>, SealError> {
    let stopped = Arc::clone(&parts.stopped);
    let explain = |error: std::io::Error| {
        if stopped.load(Ordering::Relaxed) {
            SealError::UploadStopped
        } else {
            SealError::Seal(error)
        }
    };
    let encryptor =
        age::Encryptor::with_recipients(std::iter::once(recipient as &dyn age::Recipient))
            .map_err(|error| SealError::Seal(std::io::Error::other(error)))?;
    let mut stream = encryptor.wrap_output(parts).map_err(explain)?;
    for frame in order {
        let frame = frame.recv().map_err(|_| SealError::UploadStopped)?.map_err(SealError::Seal)?;
        stream.write_all(&frame).map_err(explain)?;
    }
    if finish.recv().is_err() {
        return Ok(None);
    }
    stream.finish().map_err(explain)?.close().map(Some).map_err(explain)
}

/// Gathers ciphertext into parts, hashing it object by object.
struct PartAssembler {
    to: tokio::sync::mpsc::Sender<SealedPart>,
    part_bytes: usize,
    parts_per_object_max: usize,
    filling: Vec<u8>,
    part: usize,
    hash: digest::Context,
    chunks: ChunkHasher,
    bytes: u64,
    segments: Vec<SegmentProof>,
    stopped: Arc<AtomicBool>,
}

impl PartAssembler {
    fn new(to: tokio::sync::mpsc::Sender<SealedPart>, sealing: &SealOptions) -> Self {
        Self {
            to,
            part_bytes: sealing.part_bytes,
            parts_per_object_max: sealing.parts_per_object_max,
            filling: Vec::with_capacity(sealing.part_bytes),
            part: 1,
            hash: digest::Context::new(&digest::SHA256),
            chunks: ChunkHasher::default(),
            bytes: 0,
            segments: Vec::new(),
            stopped: Arc::default(),
        }
    }

    fn send(&mut self) -> std::io::Result<()> {
        let full = std::mem::replace(&mut self.filling, Vec::with_capacity(self.part_bytes));
        self.hash.update(&full);
        self.bytes += full.len() as u64;
        let bytes = SealedBytes::new(full);
        self.chunks.add(&bytes);
        let part = SealedPart { object: self.segments.len() + 1, part: self.part, bytes };
        self.part += 1;
        if self.to.blocking_send(part).is_err() {
            self.stopped.store(true, Ordering::Relaxed);
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn end_object(&mut self) {
        let hash =
            std::mem::replace(&mut self.hash, digest::Context::new(&digest::SHA256)).finish();
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(hash.as_ref());
        let chunks = std::mem::take(&mut self.chunks).done();
        self.segments.push(SegmentProof { bytes: std::mem::take(&mut self.bytes), sha256, chunks });
        self.part = 1;
    }

    fn close(mut self) -> std::io::Result<Vec<SegmentProof>> {
        if !self.filling.is_empty() {
            self.send()?;
        }
        if self.bytes > 0 {
            self.end_object();
        }
        Ok(self.segments)
    }
}

impl Write for PartAssembler {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // A full object is ended only when more is to come, so that no empty object follows.
        if self.part > self.parts_per_object_max {
            self.end_object();
        }
        let room = self.part_bytes - self.filling.len();
        let now = room.min(bytes.len());
        self.filling.extend_from_slice(&bytes[..now]);
        if self.filling.len() == self.part_bytes {
            self.send()?;
        }
        Ok(now)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

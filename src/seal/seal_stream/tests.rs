//! Sealing in memory: what is poured opens again, the proof tells what passed, and whoever fails on
//! the way leaves none.

use super::*;
use crate::seal::open::{ExpectedObject, OpenedPayload};

const SEALING: SealOptions = SealOptions {
    levels: (1, 1),
    compressors: 2,
    part_bytes: 1_000_000,
    parts_per_object_max: 100,
};

/// Bytes that look a little like rows, the same on every run.
fn rows(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        format!("{}\trow {}\n", state >> 16, state % 1_000).into_bytes()
    };
    let some: Vec<u8> = std::iter::repeat_with(next).take(5_000).flatten().collect();
    some.iter()
        .copied()
        .cycle()
        .take(len.min(100_000))
        .collect::<Vec<_>>()
        .repeat(len / 100_000 + 1)[..len]
        .to_vec()
}

/// Keeps what it sees; refuses what it is asked to refuse.
#[derive(Default)]
struct KeepingObserver {
    seen: Vec<u8>,
    refuse_look: bool,
    refuse_done: bool,
}

impl StreamObserver for KeepingObserver {
    type Found = Vec<u8>;
    fn observe(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.seen.extend_from_slice(bytes);
        if self.refuse_look { Err("not rows".to_owned()) } else { Ok(()) }
    }
    fn done(self) -> Result<Vec<u8>, String> {
        if self.refuse_done { Err("no end mark".to_owned()) } else { Ok(self.seen) }
    }
}

fn outcome<F>(pouring: SealTask<F>) -> Result<(SealProof, F), SealError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(pouring.outcome())
}

fn received(mut parts: tokio::sync::mpsc::Receiver<SealedPart>) -> Vec<SealedPart> {
    std::iter::from_fn(|| parts.try_recv().ok()).collect()
}

/// Seals what is in memory.
fn seal_all(
    plain: Vec<u8>,
    identity: &BackupIdentity,
    sealing: SealOptions,
) -> (SealProof, Vec<SealedPart>) {
    let (to, parts) = tokio::sync::mpsc::channel(10_000);
    let end = || Some(SourceEnd::of_memory());
    let (proof, ()) =
        outcome(seal_stream(std::io::Cursor::new(plain), end, (), identity, sealing, to)).unwrap();
    (proof, received(parts))
}

fn ciphertext(parts: &[SealedPart]) -> Vec<u8> {
    parts.iter().flat_map(|p| p.bytes.bytes().to_vec()).collect()
}

/// What is below age: the zstd frames.
fn frames(sealed: &[u8], identity: &BackupIdentity) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    age::Decryptor::new(sealed)
        .unwrap()
        .decrypt(std::iter::once(identity.as_age()))
        .unwrap()
        .read_to_end(&mut all)
        .unwrap();
    let mut rest = &all[..];
    let next = || {
        let size = (!rest.is_empty())
            .then(|| zstd::zstd_safe::find_frame_compressed_size(rest).unwrap())?;
        let (frame, behind) = rest.split_at(size);
        rest = behind;
        Some(frame.to_vec())
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn every_block_becomes_one_frame_with_a_checksum_and_the_proof_counts_the_plaintext() {
    assert_eq!(BLOCK_BYTES, 4_194_304, "memory is a fixed number of blocks of 4 MiB");
    let identity = BackupIdentity::generate();
    for (size, blocks) in [
        (0, vec![0]),
        (1, vec![1]),
        (BLOCK_BYTES - 1, vec![BLOCK_BYTES - 1]),
        (BLOCK_BYTES, vec![BLOCK_BYTES]),
        (BLOCK_BYTES + 1, vec![BLOCK_BYTES, 1]),
        (2 * BLOCK_BYTES, vec![BLOCK_BYTES; 2]),
    ] {
        let plain = rows(size);
        let (proof, parts) = seal_all(plain.clone(), &identity, SEALING);
        assert_eq!(proof.plain_bytes(), size as u64);
        let frames = frames(&ciphertext(&parts), &identity);
        assert!(
            frames.iter().all(|frame| frame[4] & 4 != 0),
            "{size}: the flag that says that a checksum follows"
        );
        let read: Vec<Vec<u8>> =
            frames.iter().map(|frame| zstd::decode_all(&frame[..]).unwrap()).collect();
        assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), blocks, "{size}");
        assert!(read.concat() == plain, "{size}");
    }
}

#[test]
fn a_fixed_level_is_the_level_of_every_block() {
    let identity = BackupIdentity::generate();
    let plain = rows(3 * BLOCK_BYTES);
    let (_, parts) = seal_all(plain.clone(), &identity, SealOptions { levels: (3, 3), ..SEALING });
    let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
    compressor.include_checksum(true).unwrap();
    let wanted: Vec<Vec<u8>> =
        plain.chunks(BLOCK_BYTES).map(|block| compressor.compress(block).unwrap()).collect();
    assert!(frames(&ciphertext(&parts), &identity) == wanted);
}

#[test]
fn what_is_sealed_in_parts_and_objects_opens_again() {
    let identity = BackupIdentity::generate();
    let plain = rows(300_000);
    for (part_bytes, parts_per_object_max, compressors) in
        [(1_000_000, 100, 2), (10_000, 2, 1), (1_000, 1, 0), (999, 7, 3)]
    {
        let sealing = SealOptions { part_bytes, parts_per_object_max, compressors, ..SEALING };
        let (proof, parts) = seal_all(plain.clone(), &identity, sealing);
        let (last, full) = parts.split_last().unwrap();
        assert!(
            full.iter().all(|p| p.bytes.len() == part_bytes)
                && (1..=part_bytes).contains(&last.bytes.len())
        );
        for (index, part) in parts.iter().enumerate() {
            let place = (index / parts_per_object_max + 1, index % parts_per_object_max + 1);
            assert_eq!((part.object, part.part), place, "parts of {part_bytes}");
        }
        let sealed = ciphertext(&parts);
        let objects = sealed.chunks(part_bytes * parts_per_object_max);
        let wanted: Vec<(u64, String)> = objects
            .map(|o| (o.len() as u64, hex::encode(digest::digest(&digest::SHA256, o))))
            .collect();
        let proved: Vec<(u64, String)> =
            proof.segments().iter().map(|s| (s.bytes, hex::encode(s.sha256))).collect();
        assert_eq!(proved, wanted, "parts of {part_bytes}");
        let expected = wanted
            .into_iter()
            .map(|(bytes, sha256)| ExpectedObject {
                name: "o".to_owned(),
                bytes,
                sha256,
                in_chunks: false,
            })
            .collect();
        let (to, chunks) = tokio::sync::mpsc::channel(1);
        to.try_send(Ok(sealed.into())).unwrap();
        drop(to);
        assert!(
            OpenedPayload::new("p", chunks, expected, &identity)
                .unwrap()
                .read_all(plain.len())
                .unwrap()
                == plain
        );
    }
}

#[test]
fn parts_are_cut_at_their_size_and_no_empty_part_or_object_follows() {
    let bytes: Vec<u8> = (0..40).collect();
    for len in 0..=bytes.len() {
        for at_once in [1, 3, 4, 5, 40] {
            let (to, parts) = tokio::sync::mpsc::channel(100);
            let mut writer = PartAssembler::new(
                to,
                &SealOptions { part_bytes: 4, parts_per_object_max: 3, ..SEALING },
            );
            bytes[..len].chunks(at_once).for_each(|chunk| writer.write_all(chunk).unwrap());
            writer.flush().unwrap();
            let segments = writer.close().unwrap();
            let parts = received(parts);
            let found: Vec<(usize, usize, Vec<u8>)> =
                parts.iter().map(|p| (p.object, p.part, p.bytes.bytes().to_vec())).collect();
            let wanted: Vec<(usize, usize, Vec<u8>)> = bytes[..len]
                .chunks(4)
                .enumerate()
                .map(|(n, part)| (n / 3 + 1, n % 3 + 1, part.to_vec()))
                .collect();
            assert_eq!(found, wanted, "{len} bytes, {at_once} at once");
            let of = |object: &[u8]| {
                let sha256 = digest::digest(&digest::SHA256, object).as_ref().try_into().unwrap();
                // All of it is less than a chunk.
                SegmentProof { bytes: object.len() as u64, sha256, chunks: vec![sha256] }
            };
            assert_eq!(
                segments,
                bytes[..len].chunks(12).map(of).collect::<Vec<_>>(),
                "{len} bytes, {at_once} at once"
            );
        }
    }
}

#[test]
fn the_tap_sees_all_plaintext_in_order_and_what_it_found_comes_with_the_proof() {
    let plain = rows(2 * BLOCK_BYTES + 5);
    let (to, parts) = tokio::sync::mpsc::channel(10_000);
    let source = std::io::Cursor::new(plain.clone());
    let pouring = seal_stream(
        source,
        || Some(SourceEnd::of_memory()),
        KeepingObserver::default(),
        &BackupIdentity::generate(),
        SEALING,
        to,
    );
    let passed = pouring.passed();
    let (proof, seen) = outcome(pouring).unwrap();
    assert!(seen == plain);
    assert_eq!(
        (passed.load(Ordering::Relaxed), proof.plain_bytes()),
        (plain.len() as u64, plain.len() as u64)
    );
    assert!(!received(parts).is_empty());
    assert!(().observe(b"x").is_ok() && ().done().is_ok(), "no tap refuses nothing");
}

/// A source that yields some bytes and then fails or panics.
struct FailingSource {
    left: usize,
    panics: bool,
}

impl Read for FailingSource {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        assert!(!(self.panics && self.left == 0), "a source that panics");
        let now = self.left.min(into.len());
        self.left -= now;
        if now == 0 { Err(std::io::Error::other("the pipe broke")) } else { Ok(now) }
    }
}

/// Pours what fails, and makes sure that what was sent is no whole age file.
fn failure(source: impl Read + Send + 'static, end: Option<()>, tap: KeepingObserver) -> SealError {
    let identity = BackupIdentity::generate();
    let (to, parts) = tokio::sync::mpsc::channel(10_000);
    let end = move || end.map(|()| SourceEnd::of_memory());
    let sealing = SealOptions { part_bytes: 1_000, ..SEALING };
    let error = outcome(seal_stream(source, end, tap, &identity, sealing, to)).unwrap_err();
    let sent = ciphertext(&received(parts));
    let opened =
        age::Decryptor::new(&sent[..]).and_then(|d| d.decrypt(std::iter::once(identity.as_age())));
    let whole = opened.ok().and_then(|mut stream| stream.read_to_end(&mut Vec::new()).ok());
    assert_eq!(whole, None, "{error}");
    error
}

#[test]
fn a_stream_whose_source_did_not_prove_its_end_is_never_closed() {
    for size in [0, 10, 200_000] {
        assert!(matches!(
            failure(std::io::Cursor::new(rows(size)), None, KeepingObserver::default()),
            SealError::SourceEndedBadly
        ));
    }
}

#[test]
fn a_source_that_cannot_be_read_is_named_as_the_cause() {
    for left in [0, 10, BLOCK_BYTES, BLOCK_BYTES + 1] {
        let error =
            failure(FailingSource { left, panics: false }, Some(()), KeepingObserver::default());
        assert!(
            matches!(&error, SealError::Read(source) if source.to_string() == "the pipe broke"),
            "{error:?}"
        );
    }
}

#[test]
fn a_stream_that_its_tap_refuses_is_never_closed_and_its_source_not_asked_for_its_end() {
    for (tap, why) in [
        (KeepingObserver { refuse_look: true, ..KeepingObserver::default() }, "not rows"),
        (KeepingObserver { refuse_done: true, ..KeepingObserver::default() }, "no end mark"),
    ] {
        let error = failure(std::io::Cursor::new(rows(3 * BLOCK_BYTES)), Some(()), tap);
        assert_eq!(error.to_string(), format!("the stream is not what it should be: {why}"));
    }
    let asked = Arc::new(AtomicBool::new(false));
    let end = {
        let asked = Arc::clone(&asked);
        move || {
            asked.store(true, Ordering::Relaxed);
            Some(SourceEnd::of_memory())
        }
    };
    let (to, _parts) = tokio::sync::mpsc::channel(100);
    let tap = KeepingObserver { refuse_done: true, ..KeepingObserver::default() };
    assert!(
        outcome(seal_stream(&b"rows"[..], end, tap, &BackupIdentity::generate(), SEALING, to))
            .is_err()
    );
    assert!(!asked.load(Ordering::Relaxed));
}

#[test]
fn an_upload_that_stops_taking_parts_stops_the_sealing_and_is_named_as_the_cause() {
    for (size, part_bytes) in
        [(10, 10), (10, 1_000_000), (4 * BLOCK_BYTES, 10), (4 * BLOCK_BYTES, 100_000)]
    {
        let (to, parts) = tokio::sync::mpsc::channel(1);
        drop(parts);
        let sealing = SealOptions { part_bytes, ..SEALING };
        let pouring = seal_stream(
            std::io::Cursor::new(rows(size)),
            || Some(SourceEnd::of_memory()),
            (),
            &BackupIdentity::generate(),
            sealing,
            to,
        );
        let error = outcome(pouring).unwrap_err();
        assert!(
            matches!(error, SealError::UploadStopped),
            "{size} bytes in parts of {part_bytes}: {error:?}"
        );
    }
}

#[test]
fn a_thread_that_dies_leaves_no_proof() {
    let (to, _parts) = tokio::sync::mpsc::channel(100);
    let source = FailingSource { left: 10, panics: true };
    let pouring = seal_stream(
        source,
        || Some(SourceEnd::of_memory()),
        (),
        &BackupIdentity::generate(),
        SEALING,
        to,
    );
    assert!(matches!(outcome(pouring).unwrap_err(), SealError::ThreadDied));
}

#[test]
fn a_full_queue_never_takes_the_level_below_or_above_a_fixed_one() {
    let (jobs, jobs_in) = bounded::<CompressionJob>(1);
    let (order, order_in) = bounded(10);
    let (tapped, _tapped_in) = bounded(10);
    // Takes a job only when the next block has been ordered, so that the queue is full whenever the
    // reader looks.
    let levels = std::thread::spawn(move || {
        let _first: Receiver<CompressedFrame> = order_in.recv().unwrap();
        let mut levels = Vec::new();
        while order_in.recv().is_ok() {
            levels.push(jobs_in.recv().unwrap().level);
        }
        levels.extend(jobs_in.iter().map(|job| job.level));
        levels
    });
    let source = std::io::Cursor::new(vec![0; 4 * BLOCK_BYTES]);
    let total = read_blocks(
        source,
        (5, 5),
        &AtomicBool::new(true),
        &SealChannels { jobs, order, tapped },
        &AtomicU64::new(0),
    );
    assert_eq!(total.unwrap(), 4 * BLOCK_BYTES as u64);
    assert_eq!(levels.join().unwrap(), [5; 4]);
}

#[test]
fn a_compressor_without_work_says_that_it_is_idle() {
    let (jobs, jobs_in) = bounded(2);
    let (frame, frame_in) = bounded(1);
    jobs.send(CompressionJob { block: Arc::new(rows(1_000)), level: 1, frame }).unwrap();
    drop(jobs);
    let idle = AtomicBool::new(false);
    compress(&jobs_in, &idle);
    assert!(idle.load(Ordering::Relaxed));
    assert_eq!(zstd::decode_all(&frame_in.recv().unwrap().unwrap()[..]).unwrap(), rows(1_000));
}

#[test]
fn idle_cores_are_the_share_of_ticks_that_went_by_idle_times_the_cores() {
    let kernel = || -> Option<(f64, f64)> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let ticks: Vec<f64> = stat
            .lines()
            .next()?
            .split_ascii_whitespace()
            .skip(1)
            .take(8)
            .map(|n| n.parse().unwrap())
            .collect();
        Some((ticks[3], ticks.iter().sum()))
    };
    let mut cores = IdleCores::default();
    assert_eq!(cores.idle(), None, "nothing to compare with yet");
    let (Some(before), Some(long_ago)) = (kernel(), Instant::now().checked_sub(CORES_INTERVAL * 5))
    else {
        return;
    };
    assert_eq!(cores.idle(), None, "too recent");
    let mut cores = IdleCores { last: Some((long_ago, 0, 0)) };
    let found = cores.idle().unwrap();
    let after = kernel().unwrap();
    let count = std::thread::available_parallelism().unwrap().get() as f64;
    assert!(
        (before.0 / after.1 * count..=after.0 / before.1 * count).contains(&found),
        "{found} of {count}, {before:?}, {after:?}"
    );
    assert_eq!(cores.idle(), None, "it was asked just now");
    // A counter that went back is no reason to panic.
    let mut cores = IdleCores { last: Some((long_ago, u64::MAX, u64::MAX)) };
    assert_eq!(cores.idle(), Some(0.0));
}

#[test]
fn the_level_follows_who_waits_for_whom() {
    let bounds = (3, 6);
    for (level, queue, idle, wanted) in [
        (5, CompressionQueue::Full, None, 4),
        (3, CompressionQueue::Full, None, 3),
        (5, CompressionQueue::Full, Some(2.0), 4),
        (5, CompressionQueue::Busy, Some(2.0), 5),
        (5, CompressionQueue::Busy, Some(0.0), 5),
        (5, CompressionQueue::Starved, None, 5),
        (5, CompressionQueue::Starved, Some(0.7), 6),
        (6, CompressionQueue::Starved, Some(1.5), 6),
        (5, CompressionQueue::Starved, Some(0.69), 5),
        (5, CompressionQueue::Starved, Some(0.3), 5),
        (5, CompressionQueue::Starved, Some(0.29), 4),
        (3, CompressionQueue::Starved, Some(0.0), 3),
    ] {
        assert_eq!(next_level(level, bounds, queue, idle), wanted, "{level} {queue:?} {idle:?}");
    }
}

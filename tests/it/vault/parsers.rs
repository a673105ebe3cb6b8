//! Parsers of foreign bytes, hammered: seeds that are genuine, changed in all the ways that files
//! are, and inputs that were once found (`tests/corpora`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

#[path = "../../parsers/targets.rs"]
mod targets;

use targets::{TARGETS, Target};

/// How long each is hammered here.
const SECONDS: u64 = 10;
/// Longer than any input may take, on the slowest machine.
const INPUT_MAX: Duration = Duration::from_secs(20);

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora").join(name);
    let mut seeds: Vec<(PathBuf, Vec<u8>)> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

/// One change, of the kinds that disks, editors and adversaries make.
fn changed(mut bytes: Vec<u8>, chance: &mut SmallRng) -> Vec<u8> {
    for _ in 0..chance.random_range(1..6) {
        let at = chance.random_range(0..=bytes.len());
        let to = chance.random_range(at..=bytes.len().min(at + 64));
        match chance.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = chance.random(),
            2 => bytes.insert(at, *b"\0\"'\\;{}[]\n-$/*9".get(chance.random_range(0..15)).unwrap()),
            3 => drop(bytes.drain(at..to)),
            4 => {
                let piece = bytes[at..to].to_vec();
                let place = chance.random_range(0..=bytes.len());
                bytes.splice(place..place, piece);
            }
            5 => bytes.truncate(at),
            _ => {
                let number: [u8; 8] =
                    [u64::MAX, 1 << 31, 1 << 62, 0][chance.random_range(0..4)].to_le_bytes();
                bytes.splice(at..at, number[..chance.random_range(1..9)].iter().copied());
            }
        }
    }
    bytes
}

fn try_one((name, target): Target, input: &[u8], what: &str) {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| target(input)));
    assert!(
        outcome.is_ok() && begun.elapsed() < INPUT_MAX,
        "{name}, {what}, after {:?}: {}",
        begun.elapsed(),
        hex::encode(input)
    );
}

fn hammer(number: usize) {
    let target = TARGETS[number];
    let seeds = corpus(target.0);
    for (path, bytes) in &seeds {
        try_one(target, bytes, &path.display().to_string());
    }
    let seed = std::env::var("LIFEBOAT_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    let mut chance = SmallRng::seed_from_u64(seed);
    let begun = Instant::now();
    let mut inputs = 0_u64;
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        let input = match seeds.get(chance.random_range(0..=seeds.len())) {
            Some((_, bytes)) => changed(bytes.clone(), &mut chance),
            None => (0..chance.random_range(0..2_000)).map(|_| chance.random()).collect(),
        };
        try_one(target, &input, &format!("input {inputs} of seed {seed}"));
        inputs += 1;
    }
    assert!(inputs > 10, "{inputs} inputs");
}

macro_rules! hammered {
    ($($name:ident = $number:literal),* $(,)?) => {
        $(#[test] fn $name() { hammer($number); })*
        #[test]
        fn every_target_is_hammered() {
            assert_eq!([$($number),*].len(), TARGETS.len());
            assert_eq!([$(stringify!($name).replace('_', "-")),*].to_vec(), TARGETS.map(|(name, _)| name.to_owned()).to_vec());
            // `make fuzz` has a program for each.
            let fuzzed = include_str!("../../fuzz/Cargo.toml");
            assert_eq!(fuzzed.matches("[[bin]]").count(), TARGETS.len());
            assert!(TARGETS.iter().all(|(name, _)| fuzzed.contains(&format!("name = \"{name}\""))), "{fuzzed}");
        }
    };
}

hammered! {
    manifest = 0,
    envelope = 1,
    documents = 2,
    archive = 3,
    rows = 4,
    globals = 5,
    configuration = 6,
    crontab = 7,
    listing = 8,
    age_header = 9,
}

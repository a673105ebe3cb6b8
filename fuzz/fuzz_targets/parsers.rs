//! One program for all targets; `LIFEBOAT_FUZZ_TARGET` names the one that is hammered.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/parsers/targets.rs"]
mod targets;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("LIFEBOAT_FUZZ_TARGET").expect("LIFEBOAT_FUZZ_TARGET names a target");
    targets::TARGETS.iter().find(|(name, _)| *name == wanted).expect("no such target").1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));

//! One target of `tests/parsers/targets.rs`: that of the binary's name.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../parsers/targets.rs"]
mod targets;

fuzz_target!(|bytes: &[u8]| {
    let (_, target) = targets::TARGETS.iter().find(|(name, _)| *name == env!("CARGO_BIN_NAME")).expect("a target of this name");
    target(bytes);
});

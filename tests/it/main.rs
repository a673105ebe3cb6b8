//! Integration tests: the built program against real Postgres clusters, real stock tools and real HTTP.
//!
//! One crate, so that it is linked once. `support` starts and stops every server; nothing here needs another test to have
//! run before it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]
#![allow(missing_docs)]

mod support;

mod architecture;
mod catalog_contract;
mod drills;
#[cfg(feature = "ec2")]
mod ebs;
mod faults;
mod keys;
mod lost;
mod museum;
mod on_call;
mod refusals;
mod restore_guide;
mod retention;
mod round_trip;
#[cfg(feature = "aws")]
mod s3;
#[cfg(feature = "ec2")]
mod scratch;
#[cfg(feature = "ec2")]
mod scratch_ends;
mod scratch_paper;
#[cfg(feature = "ec2")]
mod scratch_storms;
mod sessions;
mod simulation;
mod sources;
mod telling;
mod thawing;
mod unattended;
mod vault_contract;
mod volumes;
mod volumes_contract;

//! Integration tests: the built program against real Postgres clusters, real stock tools and real
//! HTTP.
//!
//! One crate, so that it is linked once. `support` starts and stops every server; nothing here
//! needs another test to have run before it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]
#![allow(missing_docs)]

mod support;

mod backup;
mod cli;
mod drill;
mod house;
mod restore;
mod serve;
mod vault;
mod volumes;

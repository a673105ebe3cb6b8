//! lifeboat: encrypted backups of Postgres and EBS volumes on AWS that are rehearsed.
//! `docs/ARCHITECTURE.md` is the map.
//!
//! Imports flow one way: `cli → rig → work → rooms → domain`; `tests/it/house/architecture.rs`
//! enforces it.

#[cfg(feature = "aws")]
pub mod aws;
pub mod catalog;
pub mod check;
pub mod cli;
pub mod config;
pub mod destination;
pub mod domain;
pub mod evidence;
pub mod failpoint;
pub mod keyring;
pub mod notify;
pub mod pg;
pub mod program;
pub mod progress;
pub mod rig;
pub mod saga;
pub mod sandbox;
pub mod seal;
pub mod secret_files;
pub mod serve;
pub mod source;
pub mod this_program;
pub mod vault;
pub mod volumes;
pub mod work;

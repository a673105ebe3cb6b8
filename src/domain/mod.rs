//! Pure nouns and decisions. No clock, no network, no disk, no tokio, no SDK.
//!
//! Everything another room stores, signs or compares is defined here, once: identifiers that are
//! checked at birth ([`id`]), the documents of the vault ([`manifest`], [`envelope`],
//! [`document`]), what was true of the data ([`fingerprint`]), how backups are ordered and chosen
//! ([`selector`]), how long things may take ([`human_duration`]), and the few ways in which a
//! command can end ([`error_class`]).

pub mod alarm;
pub mod calendar;
pub mod document;
pub mod drill;
pub mod envelope;
pub mod error_class;
pub mod evidence;
pub mod fingerprint;
pub mod health;
pub mod human_duration;
pub mod id;
pub mod job;
pub mod layout;
pub mod manifest;
pub mod net;
pub mod printable;
pub mod retention;
pub mod scratch;
pub mod selector;
pub mod thaw;
pub mod volumes;

pub use document::VaultDocument;
pub use error_class::ErrorClass;
pub use id::{BackupId, DatastoreName, VaultId};

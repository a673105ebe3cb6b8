//! Sealing: the only maker of sealed bytes, and the only reader of them.
//!
//! ```text
//! source ─▶ blocks of 4 MiB ─┬─▶ tap (fingerprint)
//!                            └─▶ zstd, one frame a block, in parallel ─▶ age STREAM ─▶ SHA-256 ─▶ parts ─▶ upload
//! ```
//!
//! What this room promises with types: a vault's upload takes [`SealedBytes`] and nothing else, and
//! those are made only here, behind age. An upload is completed only with a [`SealProof`], which
//! exists only after the source proved its end ([`SourceEnd`]), the last zstd frame was written and
//! the age stream was closed.
//!
//! The work is done on threads of its own with bounded queues; memory is a fixed number of blocks
//! and parts, whatever the size of the data.

mod chunks;
pub mod identity;
pub mod open;
pub mod proof;
pub mod relay;
pub mod seal_stream;

pub use identity::BackupIdentity;
pub use open::{OpenError, OpenedPayload};
pub use proof::{SealProof, SealedBytes, SegmentProof, SourceEnd};
pub use seal_stream::{SealError, SealOptions, SealTask};

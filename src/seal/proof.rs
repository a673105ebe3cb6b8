//! Proofs, each made only from the one before: `SourceEnd → SealProof → Receipt → Manifest`.

use std::process::ExitStatus;

use bytes::Bytes;

/// Ciphertext made by this room. The only thing a payload upload accepts.
#[derive(Clone)]
pub struct SealedBytes(Bytes);

impl SealedBytes {
    pub(super) fn new(ciphertext: Vec<u8>) -> Self {
        Self(Bytes::from(ciphertext))
    }
    /// The ciphertext.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Proof that a source ended as it should. End of file is only a claim; this is the proof.
#[derive(Debug)]
pub struct SourceEnd(());

impl SourceEnd {
    /// A child process ended; proof only if it exited 0.
    #[must_use]
    pub fn of_child(status: ExitStatus) -> Option<Self> {
        status.success().then_some(Self(()))
    }
    /// The source was a value in memory, which cannot end early.
    #[must_use]
    pub fn of_memory() -> Self {
        Self(())
    }
    /// The source was a listing that was read to its last page.
    #[must_use]
    pub fn of_listing() -> Self {
        Self(())
    }
}

/// One stored object's worth of a sealed stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentProof {
    /// Ciphertext bytes.
    pub bytes: u64,
    /// SHA-256 of the ciphertext.
    pub sha256: [u8; 32],
}

/// Proof that a sealed stream is whole: source ended well, compression and encryption finished.
#[derive(Debug)]
pub struct SealProof {
    pub(super) plain_bytes: u64,
    pub(super) segments: Vec<SegmentProof>,
}

impl SealProof {
    /// Bytes before compression.
    #[must_use]
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }
    /// What must have arrived in the vault, object by object.
    #[must_use]
    pub fn segments(&self) -> &[SegmentProof] {
        &self.segments
    }
}

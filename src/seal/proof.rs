//! Proofs, each made only from the one before: `SourceEnd → SealProof → Receipt → Manifest`.

use std::process::ExitStatus;

use aws_lc_rs::digest;
use bytes::Bytes;

/// Ciphertext made by this room. The only thing a payload upload accepts.
#[derive(Clone)]
pub struct SealedBytes {
    bytes: Bytes,
    sha256: [u8; 32],
}

impl SealedBytes {
    pub(super) fn new(ciphertext: Vec<u8>) -> Self {
        Self { sha256: sha256(&ciphertext), bytes: Bytes::from(ciphertext) }
    }
    /// The ciphertext.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
    /// Its SHA-256: what a store is told of it, computed once.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// SHA-256 of some bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    sum
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
    /// SHA-256 of each of its chunks.
    pub chunks: Vec<[u8; 32]>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn only_a_child_that_exited_with_0_proves_its_end() {
        assert!(SourceEnd::of_child(ExitStatus::from_raw(0)).is_some());
        for (status, what) in [
            (1 << 8, "exit 1"),
            (255 << 8, "exit 255"),
            (9, "killed"),
            (13, "SIGPIPE"),
            (6 | 0x80, "core dumped"),
        ] {
            assert!(SourceEnd::of_child(ExitStatus::from_raw(status)).is_none(), "{what}");
        }
    }

    #[test]
    fn sealed_bytes_are_the_bytes_they_were_made_of() {
        for bytes in [&b""[..], b"x", b"ciphertext"] {
            let sealed = SealedBytes::new(bytes.to_vec());
            assert_eq!(
                (&sealed.bytes()[..], sealed.len(), sealed.is_empty()),
                (bytes, bytes.len(), bytes.is_empty())
            );
        }
    }

    #[test]
    fn a_proof_says_what_was_read_and_what_must_have_arrived() {
        let segments = vec![
            SegmentProof { bytes: 7, sha256: [1; 32], chunks: vec![[1; 32]] },
            SegmentProof { bytes: 8, sha256: [2; 32], chunks: vec![[2; 32]] },
        ];
        let proof = SealProof { plain_bytes: 1_234, segments: segments.clone() };
        assert_eq!((proof.plain_bytes(), proof.segments()), (1_234, &segments[..]));
    }
}

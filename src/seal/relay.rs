//! Ciphertext on its way from one vault to another: nothing is opened, and nothing passes that is not what the manifest names.

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};

use super::open::{Expected, OpenError};
use super::proof::{SealedBytes, SegmentProof};

/// How every age file begins. What does not is not sealed, whatever its hash.
const AGE: &[u8] = b"age-encryption.org/v1\n";

/// One object that is passed on.
pub struct Relay {
    expected: Expected,
    part_bytes: usize,
    hash: digest::Context,
    seen: u64,
    waiting: BytesMut,
    begins: bool,
}

impl Relay {
    /// Expects an object. `begins` says whether it is the first of its payload, and so begins as an age file does.
    #[must_use]
    pub fn new(expected: Expected, part_bytes: usize, begins: bool) -> Self {
        Self { expected, part_bytes, hash: digest::Context::new(&digest::SHA256), seen: 0, waiting: BytesMut::new(), begins }
    }

    /// Takes bytes as they come, and gives back parts of the size that the other vault wants.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if it does not begin as sealed bytes do, or is longer than it should be.
    pub fn pass(&mut self, chunk: &Bytes) -> Result<Vec<SealedBytes>, OpenError> {
        self.hash.update(chunk);
        self.seen += chunk.len() as u64;
        self.waiting.extend_from_slice(chunk);
        if self.begins && self.waiting.len() >= AGE.len() {
            if !self.waiting.starts_with(AGE) {
                return Err(self.damaged("it is not an age file".to_owned()));
            }
            self.begins = false;
        }
        if self.seen > self.expected.bytes {
            return Err(self.damaged(format!("it is longer than the {} bytes that the signed manifest says", self.expected.bytes)));
        }
        let mut parts = Vec::new();
        while !self.begins && self.waiting.len() > self.part_bytes {
            parts.push(SealedBytes::new(self.waiting.split_to(self.part_bytes).to_vec()));
        }
        Ok(parts)
    }

    /// Lets go of what came: for a reader that only wants the proof.
    pub fn forget(&mut self) {
        self.waiting.clear();
    }

    /// The last part, and the proof that everything came as the manifest says.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if it did not; then nothing must become visible.
    pub fn done(self) -> Result<(SealedBytes, SegmentProof), OpenError> {
        if self.begins {
            return Err(self.damaged("it is not an age file".to_owned()));
        }
        if self.seen != self.expected.bytes {
            return Err(self.damaged(format!("{} bytes came, and the signed manifest says {}", self.seen, self.expected.bytes)));
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.hash.clone().finish().as_ref());
        let found = hex::encode(sha256);
        if found != self.expected.sha256 {
            return Err(self.damaged(format!("its SHA-256 is {found}, and the signed manifest says {}", self.expected.sha256)));
        }
        Ok((SealedBytes::new(self.waiting.to_vec()), SegmentProof { bytes: self.seen, sha256 }))
    }

    fn damaged(&self, why: String) -> OpenError {
        OpenError::Damaged { name: self.expected.name.clone(), why }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn relay(bytes: &[u8], said: &[u8], parts: usize) -> Result<(Vec<usize>, u64), OpenError> {
        let sha256 = hex::encode(digest::digest(&digest::SHA256, said));
        let mut relay = Relay::new(Expected { name: "x".to_owned(), bytes: said.len() as u64, sha256 }, parts, true);
        let mut sizes = Vec::new();
        for chunk in bytes.chunks(7) {
            sizes.extend(relay.pass(&Bytes::copy_from_slice(chunk))?.iter().map(SealedBytes::len));
        }
        let (last, proof) = relay.done()?;
        sizes.push(last.len());
        Ok((sizes, proof.bytes))
    }

    #[test]
    fn parts_are_cut_anew_and_what_is_not_as_said_does_not_pass() {
        let sealed = [AGE, &[7; 78]].concat();
        assert_eq!(relay(&sealed, &sealed, 40).unwrap(), (vec![40, 40, 20], 100));
        let mut turned = sealed.clone();
        turned[90] ^= 1;
        for wrong in [&turned[..], &sealed[..99], &[&sealed[..], b"x"].concat()] {
            assert!(relay(wrong, &sealed, 40).is_err());
        }
        assert!(relay(b"plaintext of a hundred secrets", b"plaintext of a hundred secrets", 40).is_err(), "its hash is right");
        assert!(relay(b"", b"", 40).is_err());
    }
}

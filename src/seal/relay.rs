//! Ciphertext on its way from one vault to another: nothing is opened, and nothing passes that is
//! not what the manifest names.

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};

use super::chunks::ChunkHasher;
use super::open::{ExpectedObject, OpenError};
use super::proof::{SealedBytes, SegmentProof};

/// How every age file begins. What does not is not sealed, whatever its hash.
const AGE: &[u8] = b"age-encryption.org/v1\n";

/// One object that is passed on.
pub struct CiphertextRelay {
    expected: ExpectedObject,
    part_bytes: usize,
    hash: digest::Context,
    seen: u64,
    waiting: BytesMut,
    chunks: ChunkHasher,
    begins: bool,
}

impl CiphertextRelay {
    /// Expects an object. `begins` says whether it is the first of its payload, and so begins as an
    /// age file does.
    #[must_use]
    pub fn new(expected: ExpectedObject, part_bytes: usize, begins: bool) -> Self {
        Self {
            expected,
            part_bytes,
            hash: digest::Context::new(&digest::SHA256),
            seen: 0,
            waiting: BytesMut::new(),
            chunks: ChunkHasher::default(),
            begins,
        }
    }

    /// Takes bytes as they come, and gives back parts of the size that the other vault wants.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if it does not begin as sealed bytes do, or is longer than it should
    /// be.
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
            return Err(self.damaged(format!(
                "it is longer than the {} bytes that the signed manifest says",
                self.expected.bytes
            )));
        }
        let mut parts = Vec::new();
        while !self.begins && self.waiting.len() > self.part_bytes {
            let part = SealedBytes::new(self.waiting.split_to(self.part_bytes).to_vec());
            self.chunks.add(&part);
            parts.push(part);
        }
        Ok(parts)
    }

    /// The last part, and the proof that everything came as the manifest says.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if it did not; then nothing must become visible.
    pub fn done(mut self) -> Result<(SealedBytes, SegmentProof), OpenError> {
        if self.begins {
            return Err(self.damaged("it is not an age file".to_owned()));
        }
        if self.seen != self.expected.bytes {
            return Err(self.damaged(format!(
                "{} bytes came, and the signed manifest says {}",
                self.seen, self.expected.bytes
            )));
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.hash.clone().finish().as_ref());
        let found = hex::encode(sha256);
        if found != self.expected.sha256 {
            return Err(self.damaged(format!(
                "its SHA-256 is {found}, and the signed manifest says {}",
                self.expected.sha256
            )));
        }
        let last = SealedBytes::new(self.waiting.to_vec());
        self.chunks.add(&last);
        Ok((last, SegmentProof { bytes: self.seen, sha256, chunks: self.chunks.done() }))
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
        let mut relay = CiphertextRelay::new(
            ExpectedObject {
                name: "x".to_owned(),
                bytes: said.len() as u64,
                sha256,
                in_chunks: false,
            },
            parts,
            true,
        );
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
        assert!(
            relay(b"plaintext of a hundred secrets", b"plaintext of a hundred secrets", 40)
                .is_err(),
            "its hash is right"
        );
        assert!(relay(b"", b"", 40).is_err());
    }

    /// A relay that expects these bytes, in parts of 40 bytes.
    fn expecting(said: &[u8], begins: bool) -> CiphertextRelay {
        let sha256 = hex::encode(digest::digest(&digest::SHA256, said));
        CiphertextRelay::new(
            ExpectedObject {
                name: "x".to_owned(),
                bytes: said.len() as u64,
                sha256,
                in_chunks: false,
            },
            40,
            begins,
        )
    }

    fn why<T>(result: Result<T, OpenError>) -> String {
        result.map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn bytes_pass_unchanged_in_full_parts_however_they_come() {
        for len in [22, 39, 40, 41, 80, 100] {
            let sealed: Vec<u8> = AGE.iter().copied().chain(0..=255).take(len).collect();
            for chunk in 1..=len {
                let mut relay = expecting(&sealed, true);
                let mut parts: Vec<SealedBytes> = Vec::new();
                for chunk in sealed.chunks(chunk) {
                    parts.extend(relay.pass(&Bytes::copy_from_slice(chunk)).unwrap());
                }
                assert!(parts.iter().all(|part| part.len() == 40), "{len} in chunks of {chunk}");
                let (last, proof) = relay.done().unwrap();
                assert!((1..=40).contains(&last.len()), "the last part is never empty");
                parts.push(last);
                assert_eq!(
                    parts.iter().flat_map(|part| part.bytes().to_vec()).collect::<Vec<u8>>(),
                    sealed
                );
                assert_eq!(proof.bytes, len as u64);
                assert_eq!(proof.sha256[..], *digest::digest(&digest::SHA256, &sealed).as_ref());
            }
        }
    }

    #[test]
    fn what_does_not_begin_as_an_age_file_is_refused_before_any_of_it_passes() {
        let plain = [b"age-encryption.org/v2\n", &[7; 178][..]].concat();
        for chunk in [1, 21, 22, 23, 200] {
            let mut relay = expecting(&plain, true);
            let passed: Result<Vec<Vec<SealedBytes>>, OpenError> = plain
                .chunks(chunk)
                .map(|chunk| relay.pass(&Bytes::copy_from_slice(chunk)))
                .collect();
            assert_eq!(why(passed), "x is damaged: it is not an age file");
            let mut relay = expecting(&plain, true);
            for chunk in plain[..21].chunks(chunk) {
                assert!(relay.pass(&Bytes::copy_from_slice(chunk)).unwrap().is_empty());
            }
            assert_eq!(
                why(relay.done()),
                "x is damaged: it is not an age file",
                "too short to be one"
            );
        }
        let mut relay = expecting(AGE, true);
        assert!(
            relay.pass(&Bytes::from_static(AGE)).is_ok_and(|parts| parts.is_empty()),
            "the shortest beginning"
        );
        assert!(relay.done().is_ok());
    }

    #[test]
    fn parts_smaller_than_the_beginning_are_held_back_until_it_has_been_seen() {
        let said = [AGE, &[7; 8]].concat();
        let sha256 = hex::encode(digest::digest(&digest::SHA256, &said));
        let mut relay = CiphertextRelay::new(
            ExpectedObject { name: "x".to_owned(), bytes: 30, sha256, in_chunks: false },
            5,
            true,
        );
        assert_eq!(relay.pass(&Bytes::copy_from_slice(&said[..21])).unwrap().len(), 0);
        assert_eq!(relay.pass(&Bytes::copy_from_slice(&said[21..])).unwrap().len(), 5);
        assert_eq!(relay.done().unwrap().0.len(), 5);
    }

    #[test]
    fn a_later_object_of_a_payload_may_begin_with_anything() {
        let said = [9; 100];
        let mut relay = expecting(&said, false);
        assert_eq!(relay.pass(&Bytes::copy_from_slice(&said)).unwrap().len(), 2);
        assert_eq!(relay.done().unwrap().0.len(), 20);
    }

    #[test]
    fn an_object_of_another_length_or_hash_does_not_pass_and_the_reason_is_told() {
        let said = [9; 100];
        let of = |bytes: &[u8]| {
            let mut relay = expecting(&said, false);
            relay.pass(&Bytes::copy_from_slice(bytes))?;
            relay.done()
        };
        assert!(of(&said).is_ok());
        assert_eq!(
            why(of(&said[1..])),
            "x is damaged: 99 bytes came, and the signed manifest says 100"
        );
        assert_eq!(
            why(expecting(&said, false).pass(&Bytes::from_static(&[9; 101]))),
            "x is damaged: it is longer than the 100 bytes that the signed manifest says"
        );
        let hash = |bytes: &[u8]| hex::encode(digest::digest(&digest::SHA256, bytes));
        let (found, wanted) = (hash(&[8; 100]), hash(&said));
        assert_eq!(
            why(of(&[8; 100])),
            format!("x is damaged: its SHA-256 is {found}, and the signed manifest says {wanted}")
        );
    }
}

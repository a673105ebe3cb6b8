//! Chunk hashes of an object. They are signed with the manifest, so a reader decrypts nothing that
//! it has not verified.

use aws_lc_rs::digest;

use super::proof::SealedBytes;
use crate::domain::manifest::CHUNK_BYTES;

/// Takes the parts of one object, of whatever size, and hashes its chunks.
#[derive(Default)]
pub(super) struct ChunkHasher {
    done: Vec<[u8; 32]>,
    begun: Option<(digest::Context, usize)>,
}

impl ChunkHasher {
    /// The next part.
    pub fn add(&mut self, part: &SealedBytes) {
        // A part that is a chunk has been hashed already.
        if self.begun.is_none() && part.len() == CHUNK_BYTES {
            self.done.push(part.sha256());
            return;
        }
        let mut rest = &part.bytes()[..];
        while !rest.is_empty() {
            let (mut hash, filled) =
                self.begun.take().unwrap_or_else(|| (digest::Context::new(&digest::SHA256), 0));
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES - filled));
            hash.update(now);
            rest = later;
            self.begun = Some((hash, filled + now.len()));
            if filled + now.len() == CHUNK_BYTES {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        if let Some((hash, _)) = self.begun.take() {
            let mut sum = [0; 32];
            sum.copy_from_slice(hash.finish().as_ref());
            self.done.push(sum);
        }
    }

    /// The hashes, when the object has ended.
    pub fn done(mut self) -> Vec<[u8; 32]> {
        self.end();
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::proof::sha256;

    #[test]
    fn chunks_are_the_same_however_an_object_is_cut_into_parts() {
        let bytes: Vec<u8> = (0..2 * CHUNK_BYTES + 5).map(|n| (n / 3) as u8).collect();
        let wanted: Vec<[u8; 32]> = bytes.chunks(CHUNK_BYTES).map(sha256).collect();
        for part in
            [CHUNK_BYTES, 2 * CHUNK_BYTES, 5 * 1024 * 1024, 3 * CHUNK_BYTES / 2, bytes.len()]
        {
            let mut chunks = ChunkHasher::default();
            bytes.chunks(part).for_each(|part| chunks.add(&SealedBytes::new(part.to_vec())));
            assert_eq!(chunks.done(), wanted, "parts of {part}");
        }
        assert!(ChunkHasher::default().done().is_empty());
    }
}

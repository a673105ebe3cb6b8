//! From sealed bytes back to plaintext: SHA-256, age to the final chunk, zstd frame by frame.
//!
//! Everything read is hostile until it has been authenticated: age releases a chunk only after
//! checking it, the final chunk must be marked as such, nothing may follow it, a frame must be
//! whole and its checksum right, and the hash of each object must be the one the signed manifest
//! names.

use std::io::Read;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;
use bytes::Bytes;

use super::identity::BackupIdentity;
use crate::domain::manifest::StoredObject;

/// What the manifest says of an object that is about to be read.
#[derive(Debug, Clone)]
pub struct ExpectedObject {
    /// Its name, for messages.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes, lower-case hexadecimal.
    pub sha256: String,
    /// Whether every chunk of it is checked before it is delivered, so that its whole need not be
    /// hashed once more.
    pub in_chunks: bool,
}

impl ExpectedObject {
    /// What a manifest says of one of its objects.
    #[must_use]
    pub fn of(object: &StoredObject, in_chunks: bool) -> Self {
        Self {
            name: object.key.to_string(),
            bytes: object.bytes,
            sha256: object.sha256.clone(),
            in_chunks,
        }
    }
}

/// Why bytes of an object were not delivered.
#[derive(Debug, Clone)]
pub enum DeliveryError {
    /// The vault does not give them, in its own words.
    Fetch(String),
    /// The vault gives others, twice: which object, and where.
    Damaged {
        /// Object.
        name: String,
        /// Which bytes.
        why: String,
    },
}

impl DeliveryError {
    /// As the error of a payload or an object that is being read.
    #[must_use]
    pub fn of(self, reading: &str) -> OpenError {
        match self {
            Self::Fetch(why) => OpenError::Fetch { name: reading.to_owned(), why },
            Self::Damaged { name, why } => OpenError::Damaged { name, why },
        }
    }
}

/// Why sealed bytes did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The object is not the one the manifest names.
    #[error("{name} is damaged: {why}")]
    Damaged {
        /// Object.
        name: String,
        /// Size or hash.
        why: String,
    },
    /// The identity does not fit, or the header is broken.
    #[error("{name} does not open with this backup's identity: {why}")]
    NotOurs {
        /// Payload.
        name: String,
        /// What age says.
        why: String,
    },
    /// Ciphertext or frames are broken.
    #[error("{name} is damaged: {why}")]
    Broken {
        /// Payload.
        name: String,
        /// What age or zstd says.
        why: String,
    },
    /// The vault could not deliver the bytes.
    #[error("{name} could not be fetched: {why}")]
    Fetch {
        /// Payload.
        name: String,
        /// What the vault says.
        why: String,
    },
}

/// Bytes of an age header: no payload of ours has a quarter of it. age reads a header anew for each
/// byte that it lacks, so one without end would keep it busy for ever.
pub const AGE_HEADER_BYTES_MAX: usize = 4096;

/// Chunks of ciphertext in order, as the vault delivers them.
pub type ChunkReceiver = tokio::sync::mpsc::Receiver<Result<Bytes, DeliveryError>>;

/// The ciphertext with its header, which was read ahead.
type HeadedReader = std::io::Chain<std::io::Cursor<Vec<u8>>, SharedReader>;

/// A payload being opened. Read it to the end with [`OpenedPayload::read`]; only its `Ok(0)` says
/// that it was whole.
pub struct OpenedPayload {
    name: String,
    stream: zstd::Decoder<'static, std::io::BufReader<age::stream::StreamReader<HeadedReader>>>,
    ciphertext: SharedReader,
}

impl OpenedPayload {
    /// Begins to open a payload. Blocks; call it where blocking is allowed.
    ///
    /// # Errors
    /// [`OpenError`] if the age header is broken or for another identity, or the first bytes cannot
    /// be fetched.
    pub fn new(
        name: &str,
        chunks: ChunkReceiver,
        objects: Vec<ExpectedObject>,
        identity: &BackupIdentity,
    ) -> Result<Self, OpenError> {
        let hashing = HashingReader {
            chunks,
            chunk: Bytes::new(),
            objects: objects.into_iter(),
            current: None,
            fetch_error: None,
            damage: None,
        };
        let ciphertext = SharedReader(Arc::new(Mutex::new(hashing)));
        let explain = |why: String| {
            ciphertext.explain(name, why, |name, why| OpenError::NotOurs { name, why })
        };
        let header = header(&mut ciphertext.clone()).map_err(|error| explain(error.to_string()))?;
        let headed = std::io::Cursor::new(header).chain(ciphertext.clone());
        let decryptor = age::Decryptor::new(headed).map_err(|error| explain(error.to_string()))?;
        let stream = decryptor
            .decrypt(std::iter::once(identity.as_age()))
            .map_err(|error| explain(error.to_string()))?;
        let stream = zstd::Decoder::new(stream).map_err(|error| explain(error.to_string()))?;
        Ok(Self { name: name.to_owned(), stream, ciphertext })
    }

    /// The next plaintext; `Ok(0)` only when everything was whole: hashes, final chunk, last frame,
    /// nothing behind it.
    ///
    /// # Errors
    /// [`OpenError`], after which what was read before must not be relied on.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, OpenError> {
        match self.stream.read(into) {
            Ok(0) if !into.is_empty() => self.at_end().map(|()| 0),
            Ok(count) => Ok(count),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// Reads everything, up to a limit for small payloads.
    ///
    /// # Errors
    /// As [`OpenedPayload::read`]; also if there is more than `bytes_max`.
    pub fn read_all(&mut self, bytes_max: usize) -> Result<Vec<u8>, OpenError> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(all),
                count if all.len() + count > bytes_max => {
                    return Err(OpenError::Broken {
                        name: self.name.clone(),
                        why: format!("it is larger than {bytes_max} bytes, which no real one is"),
                    });
                }
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn at_end(&mut self) -> Result<(), OpenError> {
        let mut rest = [0; 1];
        match self.ciphertext.read(&mut rest) {
            Ok(0) => Ok(()),
            Ok(_) => Err(OpenError::Broken {
                name: self.name.clone(),
                why: "bytes follow the end of its age stream".to_owned(),
            }),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&self, error: &std::io::Error) -> OpenError {
        self.ciphertext
            .explain(&self.name, error.to_string(), |name, why| OpenError::Broken { name, why })
    }
}

/// Reads an age header up to the end of its last line, `--- …`, or as much as there is.
fn header(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut header = Vec::new();
    let mut byte = [0];
    let mut last_line = 0;
    while from.read(&mut byte)? == 1 {
        header.push(byte[0]);
        if header.len() > AGE_HEADER_BYTES_MAX {
            return Err(std::io::Error::other(format!(
                "its age header has more than {AGE_HEADER_BYTES_MAX} bytes, which no real one has"
            )));
        }
        if byte[0] == b'\n' {
            if header[last_line..].starts_with(b"---") {
                break;
            }
            last_line = header.len();
        }
    }
    Ok(header)
}

/// The ciphertext, read by age and asked afterwards what went wrong with it.
#[derive(Clone)]
struct SharedReader(Arc<Mutex<HashingReader>>);

impl SharedReader {
    /// The cause below a decoder's error, if there is one: the vault or the hash, not age, is to
    /// blame then.
    fn explain(
        &self,
        name: &str,
        why: String,
        otherwise: impl FnOnce(String, String) -> OpenError,
    ) -> OpenError {
        let below = self
            .0
            .lock()
            .ok()
            .map(|mut hashing| (hashing.fetch_error.take(), hashing.damage.take()));
        match below {
            Some((Some(why), _)) => OpenError::Fetch { name: name.to_owned(), why },
            Some((None, Some((name, why)))) => OpenError::Damaged { name, why },
            _ => otherwise(name.to_owned(), why),
        }
    }
}

impl Read for SharedReader {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.lock().map_err(|_| std::io::ErrorKind::Other)?.read(into)
    }
}

/// Ciphertext on its way to age, checked against what is expected of each object.
struct HashingReader {
    chunks: ChunkReceiver,
    chunk: Bytes,
    objects: std::vec::IntoIter<ExpectedObject>,
    current: Option<(ExpectedObject, Option<digest::Context>, u64)>,
    fetch_error: Option<String>,
    damage: Option<(String, String)>,
}

impl HashingReader {
    /// Ends the current object if all its bytes are there.
    fn settle(&mut self) -> std::io::Result<()> {
        if self.current.as_ref().is_some_and(|(expected, _, seen)| *seen >= expected.bytes)
            && let Some((expected, hash, _)) = self.current.take()
            && let Some(hash) = hash
        {
            let found = hex::encode(hash.finish());
            if found != expected.sha256 {
                return self.damaged(
                    expected.name,
                    format!(
                        "its SHA-256 is {found}, and the signed manifest says {}",
                        expected.sha256
                    ),
                );
            }
        }
        if self.current.is_none() {
            self.current = self.objects.next().map(|expected| {
                let hash = (!expected.in_chunks).then(|| digest::Context::new(&digest::SHA256));
                (expected, hash, 0)
            });
        }
        Ok(())
    }
    fn damaged<T>(&mut self, name: String, why: String) -> std::io::Result<T> {
        self.damage = Some((name, why));
        Err(std::io::Error::from(std::io::ErrorKind::InvalidData))
    }
}

impl Read for HashingReader {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.settle()?;
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(DeliveryError::Fetch(why))) => {
                    self.fetch_error = Some(why);
                    return Err(std::io::ErrorKind::Other.into());
                }
                Some(Err(DeliveryError::Damaged { name, why })) => return self.damaged(name, why),
                None => {
                    if let Some((expected, _, seen)) = self.current.take() {
                        return self.damaged(
                            expected.name,
                            format!(
                                "it ends after {seen} bytes, and the signed manifest says {}",
                                expected.bytes
                            ),
                        );
                    }
                    return Ok(0);
                }
            }
        }
        let Some((expected, hash, seen)) = &mut self.current else {
            return self.damaged("the last object".to_owned(), "bytes follow its end".to_owned());
        };
        let left = usize::try_from(expected.bytes - *seen).unwrap_or(usize::MAX);
        let now = into.len().min(self.chunk.len()).min(left);
        let bytes = self.chunk.split_to(now);
        if let Some(hash) = hash {
            hash.update(&bytes);
        }
        *seen += now as u64;
        into[..now].copy_from_slice(&bytes);
        Ok(now)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Plaintext of one chunk of age's STREAM, and its tag.
    const STREAM: usize = 64 * 1024;
    const TAG: usize = 16;

    /// Bytes that do not compress, the same on every run.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn frame(plain: &[u8]) -> Vec<u8> {
        let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
        compressor.include_checksum(true).unwrap();
        compressor.compress(plain).unwrap()
    }

    /// A plaintext whose frame has exactly this many bytes.
    fn plain_for_frame_of(len: usize) -> Vec<u8> {
        (16..32)
            .map(|overhead| noise(len - overhead))
            .find(|plain| frame(plain).len() == len)
            .unwrap()
    }

    fn encrypt(inner: &[u8], identity: &BackupIdentity) -> Vec<u8> {
        let recipient = identity.recipient();
        let encryptor =
            age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
                .unwrap();
        let mut stream = encryptor.wrap_output(Vec::new()).unwrap();
        stream.write_all(inner).unwrap();
        stream.finish().unwrap()
    }

    /// Where the chunks of age's STREAM begin: behind the header and a nonce of 16 bytes.
    fn stream_begins(sealed: &[u8]) -> usize {
        let mac = sealed.windows(5).position(|w| w == b"\n--- ").unwrap() + 1;
        mac + sealed[mac..].iter().position(|c| *c == b'\n').unwrap() + 1 + 16
    }

    fn expected(name: &str, bytes: &[u8]) -> ExpectedObject {
        let sha256 = hex::encode(digest::digest(&digest::SHA256, bytes));
        ExpectedObject {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            sha256,
            in_chunks: false,
        }
    }

    fn delivery(items: Vec<Result<Bytes, DeliveryError>>) -> ChunkReceiver {
        let (to, chunks) = tokio::sync::mpsc::channel(items.len().max(1));
        for item in items {
            to.try_send(item).unwrap();
        }
        chunks
    }

    fn cut(bytes: &[u8], size: usize) -> ChunkReceiver {
        delivery(bytes.chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect())
    }

    fn read_to_end(
        chunks: ChunkReceiver,
        objects: Vec<ExpectedObject>,
        identity: &BackupIdentity,
    ) -> Result<Vec<u8>, OpenError> {
        let mut opened = OpenedPayload::new("payload", chunks, objects, identity)?;
        let mut all = Vec::new();
        let mut buffer = vec![0; 10_007];
        loop {
            match opened.read(&mut buffer)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// Opens bytes of which the manifest says that they are right, so that only age and zstd can
    /// object.
    fn open_as_said(sealed: &[u8], identity: &BackupIdentity) -> Result<Vec<u8>, OpenError> {
        read_to_end(cut(sealed, 20_000), vec![expected("one", sealed)], identity)
    }

    #[test]
    fn a_payload_whose_size_is_at_a_chunk_boundary_reads_back_whole() {
        let identity = BackupIdentity::generate();
        for size in [2 * STREAM - 1, 2 * STREAM, 2 * STREAM + 1] {
            let plain = plain_for_frame_of(size);
            let sealed = encrypt(&frame(&plain), &identity);
            assert!(open_as_said(&sealed, &identity).unwrap() == plain, "{size}");
        }
    }

    #[test]
    fn a_payload_reads_back_however_it_is_cut_into_objects_and_chunks() {
        let identity = BackupIdentity::generate();
        let plain = [noise(3_000), vec![7; 5_000]].concat();
        let sealed = encrypt(&[frame(&plain[..2_000]), frame(&plain[2_000..])].concat(), &identity);
        for object in [1, 50, 1_000, sealed.len() - 1, sealed.len()] {
            let objects = || sealed.chunks(object).map(|o| expected("o", o)).collect();
            for chunk in [1, 49, 50, 51, 1_000, sealed.len()] {
                let read = read_to_end(cut(&sealed, chunk), objects(), &identity).unwrap();
                assert!(read == plain, "objects of {object}, chunks of {chunk}");
            }
        }
        let empty_between = sealed
            .chunks(500)
            .flat_map(|c| [Ok(Bytes::new()), Ok(Bytes::copy_from_slice(c)), Ok(Bytes::new())])
            .collect();
        assert!(
            read_to_end(delivery(empty_between), vec![expected("o", &sealed)], &identity).unwrap()
                == plain
        );
    }

    #[test]
    fn an_object_that_is_not_the_one_the_manifest_names_is_called_damaged_by_its_name() {
        let identity = BackupIdentity::generate();
        let sealed = encrypt(&frame(&noise(5_000)), &identity);
        let objects =
            || vec![expected("first", &sealed[..3_000]), expected("second", &sealed[3_000..])];
        let said = |bytes: &[u8], objects: Vec<ExpectedObject>| match read_to_end(
            cut(bytes, 700),
            objects,
            &identity,
        ) {
            Err(OpenError::Damaged { name, why }) => (name, why),
            other => panic!("{other:?}"),
        };
        for (turned, name) in
            [(2_000, "first"), (2_999, "first"), (3_000, "second"), (sealed.len() - 1, "second")]
        {
            let mut wrong = sealed.clone();
            wrong[turned] ^= 1;
            let (found, why) = said(&wrong, objects());
            assert_eq!(found, name, "byte {turned}");
            assert!(
                why.starts_with("its SHA-256 is ") && why.contains("the signed manifest says"),
                "{why}"
            );
        }
        // Cut short within an object, right behind one, and by the last byte.
        for (len, name, seen) in [
            (2_500, "first", 2_500),
            (3_000, "second", 0),
            (sealed.len() - 1, "second", sealed.len() - 3_001),
        ] {
            let (found, why) = said(&sealed[..len], objects());
            let whole = if name == "first" { 3_000 } else { sealed.len() - 3_000 };
            assert_eq!(
                (found.as_str(), why),
                (name, format!("it ends after {seen} bytes, and the signed manifest says {whole}"))
            );
        }
        let longer = [&sealed[..], b"x"].concat();
        assert_eq!(
            said(&longer, objects()),
            ("the last object".to_owned(), "bytes follow its end".to_owned())
        );
        // Another object more than was stored.
        let more = [objects(), vec![expected("third", b"x")]].concat();
        assert_eq!(said(&sealed, more).0, "third");
        let error = read_to_end(cut(&sealed[..9], 9), objects(), &identity).unwrap_err();
        assert!(
            error.to_string().starts_with("first is damaged: it ends after 9 bytes"),
            "{error}"
        );
    }

    #[test]
    fn ciphertext_damaged_at_or_around_a_chunk_boundary_never_opens_even_if_the_manifest_agrees() {
        let identity = BackupIdentity::generate();
        let plain = plain_for_frame_of(2 * STREAM);
        let sealed = encrypt(&frame(&plain), &identity);
        let begin = stream_begins(&sealed);
        let chunk = STREAM + TAG;
        assert_eq!(
            sealed.len(),
            begin + 2 * chunk,
            "two full chunks, the second being the final one"
        );
        let broken = |bytes: &[u8], what: &str| match open_as_said(bytes, &identity) {
            Err(OpenError::Broken { name, why }) => {
                assert!(name == "payload" && !why.is_empty(), "{what}")
            }
            other => panic!(
                "{what}: {}",
                other.map_or_else(|error| error.to_string(), |all| format!("{} bytes", all.len()))
            ),
        };
        for edge in [begin, begin + STREAM, begin + chunk, begin + chunk + STREAM, sealed.len()] {
            for at in [edge - 1, edge].into_iter().filter(|at| (begin..sealed.len()).contains(at)) {
                let mut turned = sealed.clone();
                turned[at] ^= 0x80;
                broken(&turned, &format!("byte {at} turned"));
            }
            for len in [edge - 1, edge, edge + 1]
                .into_iter()
                .filter(|len| (begin..sealed.len()).contains(len))
            {
                broken(&sealed[..len], &format!("cut to {len}"));
            }
        }
        let (header, chunks) = sealed.split_at(begin);
        broken(&[header, &chunks[chunk..], &chunks[..chunk]].concat(), "chunks swapped");
        broken(
            &[header, &chunks[..chunk], &chunks[..chunk], &chunks[chunk..]].concat(),
            "a chunk twice",
        );
        broken(&[header, &chunks[chunk..]].concat(), "the first chunk gone");
        for behind in [1, TAG, chunk] {
            broken(
                &[&sealed[..], &chunks[..behind]].concat(),
                &format!("{behind} bytes behind the final chunk"),
            );
        }
    }

    #[test]
    fn a_frame_that_is_not_whole_or_has_the_wrong_checksum_does_not_open() {
        let identity = BackupIdentity::generate();
        let (first, second) = (frame(&noise(400)), frame(&noise(300)));
        let both = [&first[..], &second[..]].concat();
        let opens = |inner: &[u8]| open_as_said(&encrypt(inner, &identity), &identity);
        assert_eq!(opens(&both).unwrap(), [noise(400), noise(300)].concat());
        for len in [
            1,
            3,
            4,
            first.len() - 4,
            first.len() - 1,
            first.len() + 1,
            first.len() + 4,
            both.len() - 1,
        ] {
            assert!(
                matches!(opens(&both[..len]), Err(OpenError::Broken { .. })),
                "cut to {len} of {} + {}",
                first.len(),
                second.len()
            );
        }
        // The last bytes of a frame are its checksum.
        for turned in
            [0, first.len() - 4, first.len() - 1, first.len(), both.len() - 4, both.len() - 1]
        {
            let mut wrong = both.clone();
            wrong[turned] ^= 1;
            assert!(matches!(opens(&wrong), Err(OpenError::Broken { .. })), "byte {turned}");
        }
        for behind in [&b"\0"[..], b"\0\0\0\0", b"x", b"more than a frame's magic number"] {
            assert!(
                matches!(opens(&[&both, behind].concat()), Err(OpenError::Broken { .. })),
                "{behind:?} behind the last frame"
            );
        }
    }

    #[test]
    fn bytes_behind_the_end_of_the_age_stream_are_refused_even_if_the_manifest_lists_them() {
        let identity = BackupIdentity::generate();
        let sealed = encrypt(&frame(b"plaintext"), &identity);
        // An object of no bytes makes age believe in the end of the file.
        let objects = vec![expected("one", &sealed), expected("none", b""), expected("more", b"x")];
        match read_to_end(cut(&[&sealed[..], b"x"].concat(), 4_096), objects, &identity) {
            Err(OpenError::Broken { name, why }) => {
                assert_eq!(
                    (name.as_str(), why.as_str()),
                    ("payload", "bytes follow the end of its age stream")
                )
            }
            other => panic!("{other:?}"),
        }
        let objects = vec![expected("one", &sealed), expected("none", b"")];
        let behind = read_to_end(cut(&[&sealed[..], b"x"].concat(), 4_096), objects, &identity);
        assert!(
            matches!(behind, Err(OpenError::Damaged { .. })),
            "bytes that nobody lists: {behind:?}"
        );
    }

    #[test]
    fn a_header_without_end_is_refused_before_age_sees_it() {
        let identity = BackupIdentity::generate();
        let stanza = format!("-> X25519 {}\n{}\n", "A".repeat(43), "B".repeat(43));
        let endless = format!("age-encryption.org/v1\n{}", stanza.repeat(3_000));
        for bytes in [
            endless.as_bytes(),
            format!("{endless}--- {}\n", "C".repeat(43)).as_bytes(),
            &[b'a'; 300_000],
        ] {
            let begun = std::time::Instant::now();
            match open_as_said(bytes, &identity) {
                Err(OpenError::NotOurs { why, .. }) => {
                    assert!(why.contains("more than 4096 bytes"), "{why}")
                }
                other => panic!("{other:?}"),
            }
            assert!(begun.elapsed() < std::time::Duration::from_secs(5));
        }
    }

    #[test]
    fn a_payload_does_not_open_with_another_backups_identity() {
        let identity = BackupIdentity::generate();
        let sealed = encrypt(&frame(b"plaintext"), &identity);
        let error = open_as_said(&sealed, &BackupIdentity::generate()).unwrap_err();
        assert!(matches!(error, OpenError::NotOurs { .. }), "{error:?}");
        assert!(
            error.to_string().starts_with("payload does not open with this backup's identity: "),
            "{error}"
        );
        assert!(matches!(
            open_as_said(b"not an age file, but as the manifest says\n", &identity),
            Err(OpenError::NotOurs { .. })
        ));
        let mut header = sealed.clone();
        let mac = header.windows(5).position(|w| w == b"\n--- ").unwrap() + 10;
        header[mac] = if header[mac] == b'A' { b'B' } else { b'A' };
        assert!(matches!(open_as_said(&header, &identity), Err(OpenError::NotOurs { .. })));
    }

    #[test]
    fn a_vault_that_fails_is_blamed_in_its_own_words_and_not_the_bytes() {
        let identity = BackupIdentity::generate();
        let sealed = encrypt(&frame(&noise(200_000)), &identity);
        for delivered in [0, 10, 1_000, 100_000, sealed.len()] {
            let mut items: Vec<Result<Bytes, DeliveryError>> = Vec::new();
            items.push(Ok(Bytes::copy_from_slice(&sealed[..delivered])));
            items.push(Err(DeliveryError::Fetch("the vault went away".to_owned())));
            match read_to_end(delivery(items), vec![expected("one", &sealed)], &identity) {
                Err(error @ OpenError::Fetch { .. }) => {
                    assert_eq!(
                        error.to_string(),
                        "payload could not be fetched: the vault went away",
                        "after {delivered} bytes"
                    );
                }
                other => panic!("after {delivered} bytes: {:?}", other.map(|all| all.len())),
            }
        }
    }

    #[test]
    fn reading_into_no_room_is_not_the_end() {
        let identity = BackupIdentity::generate();
        let plain = noise(300_000);
        let sealed = encrypt(&frame(&plain), &identity);
        let mut opened = OpenedPayload::new(
            "payload",
            cut(&sealed, 50_000),
            vec![expected("one", &sealed)],
            &identity,
        )
        .unwrap();
        assert_eq!(opened.read(&mut []).unwrap(), 0);
        assert!(opened.read_all(plain.len()).unwrap() == plain);
        assert_eq!(opened.read(&mut [0]).unwrap(), 0, "and the end stays the end");
    }

    #[test]
    fn a_small_payload_is_read_up_to_its_limit_and_not_beyond() {
        let identity = BackupIdentity::generate();
        for size in [1, 1_000, 64 * 1024, 64 * 1024 + 1, 200_000] {
            let plain = noise(size);
            let sealed = encrypt(&frame(&plain), &identity);
            let read = |limit| {
                OpenedPayload::new(
                    "small",
                    cut(&sealed, 9_999),
                    vec![expected("one", &sealed)],
                    &identity,
                )
                .unwrap()
                .read_all(limit)
            };
            assert!(read(size).unwrap() == plain, "{size}");
            assert!(read(size + 1).unwrap() == plain, "{size}");
            let error = read(size - 1).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "small is damaged: it is larger than {} bytes, which no real one is",
                    size - 1
                )
            );
        }
    }
}

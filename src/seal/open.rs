//! From sealed bytes back to plaintext: SHA-256, age to the final chunk, zstd frame by frame.
//!
//! Everything read is hostile until it has been authenticated: age releases a chunk only after checking it, the final
//! chunk must be marked as such, nothing may follow it, a frame must be whole and its checksum right, and the hash of each
//! object must be the one the signed manifest names.

use std::io::Read;
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;
use bytes::Bytes;

use super::identity::Identity;

/// What the manifest says of an object that is about to be read.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Its name, for messages.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of its bytes, lower-case hexadecimal.
    pub sha256: String,
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

/// Chunks of ciphertext in order, as the vault delivers them: `Err` carries the vault's own words.
pub type Chunks = tokio::sync::mpsc::Receiver<Result<Bytes, String>>;

/// A payload being opened. Read it to the end with [`Opened::read`]; only its `Ok(0)` says that it was whole.
pub struct Opened {
    name: String,
    stream: zstd::Decoder<'static, std::io::BufReader<age::stream::StreamReader<Shared>>>,
    ciphertext: Shared,
}

impl Opened {
    /// Begins to open a payload. Blocks; call it where blocking is allowed.
    ///
    /// # Errors
    /// [`OpenError`] if the age header is broken or for another identity, or the first bytes cannot be fetched.
    pub fn new(name: &str, chunks: Chunks, objects: Vec<Expected>, identity: &Identity) -> Result<Self, OpenError> {
        let hashing = Hashing { chunks, chunk: Bytes::new(), objects: objects.into_iter(), current: None, fetch_error: None, damage: None };
        let ciphertext = Shared(Arc::new(Mutex::new(hashing)));
        let explain = |why: String| ciphertext.explain(name, why, |name, why| OpenError::NotOurs { name, why });
        let decryptor = age::Decryptor::new(ciphertext.clone()).map_err(|error| explain(error.to_string()))?;
        let stream = decryptor.decrypt(std::iter::once(identity.as_age())).map_err(|error| explain(error.to_string()))?;
        let stream = zstd::Decoder::new(stream).map_err(|error| explain(error.to_string()))?;
        Ok(Self { name: name.to_owned(), stream, ciphertext })
    }

    /// The next plaintext; `Ok(0)` only when everything was whole: hashes, final chunk, last frame, nothing behind it.
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
    /// As [`Opened::read`]; also if there is more than `bytes_max`.
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
            Ok(_) => Err(OpenError::Broken { name: self.name.clone(), why: "bytes follow the end of its age stream".to_owned() }),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&self, error: &std::io::Error) -> OpenError {
        self.ciphertext.explain(&self.name, error.to_string(), |name, why| OpenError::Broken { name, why })
    }
}

/// The ciphertext, read by age and asked afterwards what went wrong with it.
#[derive(Clone)]
struct Shared(Arc<Mutex<Hashing>>);

impl Shared {
    /// The cause below a decoder's error, if there is one: the vault or the hash, not age, is to blame then.
    fn explain(&self, name: &str, why: String, otherwise: impl FnOnce(String, String) -> OpenError) -> OpenError {
        let below = self.0.lock().ok().map(|mut hashing| (hashing.fetch_error.take(), hashing.damage.take()));
        match below {
            Some((Some(why), _)) => OpenError::Fetch { name: name.to_owned(), why },
            Some((None, Some((name, why)))) => OpenError::Damaged { name, why },
            _ => otherwise(name.to_owned(), why),
        }
    }
}

impl Read for Shared {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.lock().map_err(|_| std::io::ErrorKind::Other)?.read(into)
    }
}

/// Ciphertext on its way to age, checked against what is expected of each object.
struct Hashing {
    chunks: Chunks,
    chunk: Bytes,
    objects: std::vec::IntoIter<Expected>,
    current: Option<(Expected, digest::Context, u64)>,
    fetch_error: Option<String>,
    damage: Option<(String, String)>,
}

impl Hashing {
    /// Ends the current object if all its bytes are there.
    fn settle(&mut self) -> std::io::Result<()> {
        if self.current.as_ref().is_some_and(|(expected, _, seen)| *seen >= expected.bytes)
            && let Some((expected, hash, _)) = self.current.take()
        {
            let found = hex::encode(hash.finish());
            if found != expected.sha256 {
                return self.damaged(expected.name, format!("its SHA-256 is {found}, and the signed manifest says {}", expected.sha256));
            }
        }
        if self.current.is_none() {
            self.current = self.objects.next().map(|expected| (expected, digest::Context::new(&digest::SHA256), 0));
        }
        Ok(())
    }
    fn damaged<T>(&mut self, name: String, why: String) -> std::io::Result<T> {
        self.damage = Some((name, why));
        Err(std::io::Error::from(std::io::ErrorKind::InvalidData))
    }
}

impl Read for Hashing {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.settle()?;
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(why)) => {
                    self.fetch_error = Some(why);
                    return Err(std::io::ErrorKind::Other.into());
                }
                None => {
                    if let Some((expected, _, seen)) = self.current.take() {
                        return self.damaged(
                            expected.name,
                            format!("it ends after {seen} bytes, and the signed manifest says {}", expected.bytes),
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
        hash.update(&bytes);
        *seen += now as u64;
        into[..now].copy_from_slice(&bytes);
        Ok(now)
    }
}

//! A vault in a directory.
//!
//! An object is written to a temporary name, synced, hard-linked to its name, and the temporary
//! name removed; then the directory is synced. A hard link never replaces (a rename would), so two
//! writers cannot both win. Nothing is written, removed or copied through a link
//! (`directory_handle.rs`).

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::directory_handle::{DirectoryHandle, FoundFile, LinkPolicy};
use super::{
    Capabilities, ObjectFacts, ReadableObject, StoreCapability, UnfinishedUpload, Upload, Vault,
    VaultError, VaultLimits,
};
use crate::domain::VaultDocument;
use crate::domain::layout::{
    EVIDENCE, MANIFESTS, META, ObjectKey, PAYLOADS, RUNS, may_hold_objects,
};
use crate::domain::thaw::Availability;
use crate::seal::{SealedBytes, SegmentProof};

const TEMPORARY: &str = ".unfinished";
const PART_BYTES: usize = 8 * 1024 * 1024;
/// A directory has no parts; the number only has to be out of reach.
const PARTS_MAX: usize = usize::MAX;
/// Bytes after which what was written is sent towards the disk.
const SYNC_BYTES: usize = 32 * 1024 * 1024;

/// A vault in a directory.
#[derive(Debug, Clone)]
pub struct DirectoryVault {
    root: PathBuf,
    limits: VaultLimits,
}

impl DirectoryVault {
    /// The vault at `root`, which need not exist until something is written.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            limits: VaultLimits {
                part_bytes: PART_BYTES,
                parts_max: PARTS_MAX,
                transfers_max: 4,
                patience: Duration::ZERO,
                thaw_poll: Duration::ZERO,
            },
        }
    }

    /// The same vault with other limits, which is how rollover is tested without terabytes.
    #[must_use]
    pub fn with_limits(mut self, limits: VaultLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Runs blocking file work off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    let what = what.to_owned();
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(VaultError::Unknown { what, why: "a thread died".to_owned() }))
}

pub(super) fn explain(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> VaultError {
    let (what, place) = (what.to_owned(), path.display().to_string());
    move |error| match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            VaultError::Refused { what, why: format!("{place}: {error}") }
        }
        std::io::ErrorKind::NotFound => VaultError::Missing { key: place },
        std::io::ErrorKind::InvalidInput => {
            VaultError::Refused { what, why: format!("{place}: {error}") }
        }
        _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => VaultError::Refused {
            what,
            why: format!(
                "{place}: the way to it leads through a link, and nothing is written or removed behind one"
            ),
        },
        _ => VaultError::Unavailable { what, why: format!("{place}: {error}") },
    }
}

/// Opens the vault's directory, making it if it is not there.
pub(super) fn open_or_make(root: &Path) -> Result<DirectoryHandle, VaultError> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = explain("creating a directory", root);
    match DirectoryHandle::open(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(root)
                .map_err(explain("creating a directory", root))?;
            DirectoryHandle::open(root).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// A file under a temporary name, removed when dropped.
struct TemporaryFile {
    file: std::fs::File,
    directory: DirectoryHandle,
    name: String,
    /// For messages.
    path: PathBuf,
}

impl TemporaryFile {
    fn create(root: &Path, key: &ObjectKey) -> Result<Self, VaultError> {
        let path = root.join(TEMPORARY);
        let directory =
            open_or_make(root)?.make(TEMPORARY).map_err(explain("creating a directory", &path))?;
        let name = format!(
            "{}~{}",
            key.as_str().replace('/', "~"),
            hex::encode(rand::random::<[u8; 8]>())
        );
        let path = path.join(&name);
        let file = directory.create(&name).map_err(explain("creating a file", &path))?;
        Ok(Self { file, directory, name, path })
    }

    /// Gives the file its name, unless that is taken.
    fn publish(self, root: &Path, key: &ObjectKey, proof: &SegmentProof) -> Result<(), VaultError> {
        let path = root.join(key.as_str());
        self.file.sync_all().map_err(explain("syncing", &self.path))?;
        let arrived = self.file.metadata().map_err(explain("reading the size", &self.path))?.len();
        if arrived != proof.bytes {
            return Err(VaultError::Tally {
                what: key.to_string(),
                why: format!("{arrived} bytes are on disk and {} were sent", proof.bytes),
            });
        }
        let (parent, name) = key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()));
        let vault = DirectoryHandle::open(root).map_err(explain("opening", root))?;
        let directory = vault.make(parent).map_err(explain("creating a directory", &path))?;
        match self.directory.link(&self.name, &directory, name) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return if same(&directory, name, proof).map_err(explain("comparing", &path))? {
                    Ok(())
                } else {
                    Err(VaultError::Exists { key: key.clone() })
                };
            }
            Err(error) => return Err(explain("linking", &path)(error)),
        }
        directory.sync().map_err(explain("syncing", &path))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // Already gone after a publication; after a failure this is the abort.
        let _ = self.directory.remove(&self.name);
    }
}

/// What has the name already may be a link or a FIFO that somebody put there: then it is something
/// else.
fn same(directory: &DirectoryHandle, name: &str, proof: &SegmentProof) -> std::io::Result<bool> {
    if directory
        .look(name, LinkPolicy::Refused)?
        .is_none_or(|stat| u64::try_from(stat.st_size).ok() != Some(proof.bytes))
    {
        return Ok(false);
    }
    let mut file = directory.read(name, LinkPolicy::Refused)?;
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finish().as_ref() == proof.sha256),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn proof_of(bytes: &[u8]) -> SegmentProof {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    SegmentProof { bytes: bytes.len() as u64, sha256, chunks: Vec::new() }
}

struct DirectoryUpload {
    root: PathBuf,
    key: ObjectKey,
    file: Option<TemporaryFile>,
    unsynced_bytes: usize,
    syncing: Option<tokio::task::JoinHandle<()>>,
}

impl DirectoryUpload {
    /// Sends what was written towards the disk while more is being made, so that the last sync has
    /// little left to do. Only that last sync counts; a failure here shows there again.
    fn sync_along(&mut self) {
        let busy = self.syncing.as_ref().is_some_and(|task| !task.is_finished());
        if self.unsynced_bytes < SYNC_BYTES || busy {
            return;
        }
        self.unsynced_bytes = 0;
        if let Some(Ok(file)) = self.file.as_ref().map(|temporary| temporary.file.try_clone()) {
            self.syncing = Some(tokio::task::spawn_blocking(move || drop(file.sync_data())));
        }
    }
}

#[async_trait]
impl Upload for DirectoryUpload {
    async fn part(&mut self, bytes: SealedBytes) -> Result<(), VaultError> {
        let Some(mut temporary) = self.file.take() else {
            return Err(VaultError::Unknown {
                what: self.key.to_string(),
                why: "an earlier part failed".to_owned(),
            });
        };
        self.unsynced_bytes += bytes.len();
        self.file = Some(
            blocking("writing a part", move || {
                let path = temporary.path.clone();
                temporary.file.write_all(bytes.bytes()).map_err(explain("writing", &path))?;
                Ok(temporary)
            })
            .await?,
        );
        self.sync_along();
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), VaultError> {
        Ok(())
    }

    async fn complete(self: Box<Self>, proof: &SegmentProof) -> Result<(), VaultError> {
        let (this, proof) = (*self, proof.clone());
        blocking("completing an object", move || match this.file {
            Some(temporary) => temporary.publish(&this.root, &this.key, &proof),
            None => Err(VaultError::Tally {
                what: this.key.to_string(),
                why: "a part was lost".to_owned(),
            }),
        })
        .await
    }

    async fn abort(self: Box<Self>) -> Result<(), VaultError> {
        drop(self);
        Ok(())
    }
}

#[async_trait]
impl Vault for DirectoryVault {
    fn address(&self) -> String {
        format!("file://{}", self.root.display())
    }

    fn limits(&self) -> VaultLimits {
        self.limits
    }

    async fn put(&self, key: &ObjectKey, document: VaultDocument) -> Result<(), VaultError> {
        let (root, key) = (self.root.clone(), key.clone());
        blocking("storing a document", move || {
            let mut temporary = TemporaryFile::create(&root, &key)?;
            let path = temporary.path.clone();
            temporary.file.write_all(document.bytes()).map_err(explain("writing", &path))?;
            temporary.publish(&root, &key, &proof_of(document.bytes()))
        })
        .await
    }

    async fn begin(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, VaultError> {
        let (root, key) = (self.root.clone(), key.clone());
        blocking("beginning an upload", move || {
            let file = Some(TemporaryFile::create(&root, &key)?);
            Ok(Box::new(DirectoryUpload { root, key, file, unsynced_bytes: 0, syncing: None })
                as Box<dyn Upload>)
        })
        .await
    }

    async fn find(&self, key: &ObjectKey) -> Result<Option<ObjectFacts>, VaultError> {
        let (root, key) = (self.root.clone(), key.clone());
        blocking("looking for an object", move || {
            let path = root.join(key.as_str());
            let Some(vault) = opened(&root)? else { return Ok(None) };
            let stat = vault
                .look(key.as_str(), LinkPolicy::Followed)
                .map_err(explain("looking for an object", &path))?;
            Ok(stat.map(|stat| facts(key, &stat)))
        })
        .await
    }

    async fn read(
        &self,
        object: &ReadableObject,
        from: u64,
        length: usize,
    ) -> Result<Bytes, VaultError> {
        let (root, key) = (self.root.clone(), object.key().clone());
        blocking("reading", move || {
            let read = || -> std::io::Result<Bytes> {
                let mut file =
                    DirectoryHandle::open(&root)?.read(key.as_str(), LinkPolicy::Followed)?;
                file.seek(SeekFrom::Start(from))?;
                let mut bytes = Vec::with_capacity(length);
                file.take(length as u64).read_to_end(&mut bytes)?;
                Ok(Bytes::from(bytes))
            };
            read().map_err(explain("reading", &root.join(key.as_str())))
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectFacts>, VaultError> {
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        blocking("listing", move || {
            let Some(vault) = opened(&root)? else { return Ok(Vec::new()) };
            // Only the directory that the prefix names is walked, not the whole vault.
            let below = prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
            let seen = vault
                .walk(below, may_hold_objects)
                .map_err(|(place, error)| explain("listing", &root.join(place))(error))?;
            let is_wanted =
                |seen: &FoundFile| seen.name.starts_with(&prefix) && !seen.name.starts_with('.');
            let facts_of = |seen: FoundFile| Some(facts(seen.name.parse().ok()?, &seen.stat));
            let mut found: Vec<ObjectFacts> =
                seen.into_iter().filter(is_wanted).filter_map(facts_of).collect();
            found.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(found)
        })
        .await
    }

    async fn remove(&self, key: &ObjectKey) -> Result<(), VaultError> {
        let (root, key) = (self.root.clone(), key.clone());
        blocking("removing", move || {
            let path = root.join(key.as_str());
            let Some(vault) = opened(&root)? else { return Ok(()) };
            let (mut parent, name) = key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()));
            let removed = vault
                .directory(parent, LinkPolicy::Refused)
                .and_then(|directory| directory.remove(name));
            match removed {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(explain("removing", &path)(error)),
            }
            // Directories that are empty now go too; one that is not says so, and that is all
            // right.
            while !parent.is_empty() {
                let (above, name) = parent.rsplit_once('/').unwrap_or(("", parent));
                let removed = vault
                    .directory(above, LinkPolicy::Refused)
                    .and_then(|directory| directory.remove_directory(name));
                if removed.is_err() {
                    break;
                }
                parent = above;
            }
            Ok(())
        })
        .await
    }

    async fn unfinished(&self) -> Result<Vec<UnfinishedUpload>, VaultError> {
        let root = self.root.clone();
        blocking("looking for unfinished uploads", move || {
            let path = root.join(TEMPORARY);
            let files = match DirectoryHandle::open(&root)
                .and_then(|vault| vault.directory(TEMPORARY, LinkPolicy::Refused)?.files())
            {
                Ok(files) => files,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(explain("listing", &path)(error)),
            };
            let upload = |FoundFile { name: handle, stat }| {
                let key = handle
                    .rsplit_once('~')
                    .map_or(handle.clone(), |(key, _)| key.replace('~', "/"));
                UnfinishedUpload { key, begun: modified(&stat), touched: modified(&stat), handle }
            };
            let mut found: Vec<UnfinishedUpload> = files.into_iter().map(upload).collect();
            found.sort_by(|a, b| a.handle.cmp(&b.handle));
            Ok(found)
        })
        .await
    }

    async fn discard(&self, unfinished: &UnfinishedUpload) -> Result<(), VaultError> {
        let (root, name) = (self.root.clone(), unfinished.handle.clone());
        blocking("discarding", move || {
            if name.contains('/') || name == ".." {
                return Err(VaultError::Refused {
                    what: "discarding".to_owned(),
                    why: format!("{name:?} is not the name of an upload"),
                });
            }
            let removed = DirectoryHandle::open(&root)
                .and_then(|vault| vault.directory(TEMPORARY, LinkPolicy::Refused)?.remove(&name));
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(explain("discarding", &root.join(TEMPORARY).join(name))(error))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    async fn probe(&self, key: &ObjectKey) -> Result<Capabilities, VaultError> {
        self.put(key, VaultDocument::probe()).await?;
        let repeated =
            self.put(key, VaultDocument::restore_guide("something else".to_owned())).await;
        let yes = |question, detail: &str| StoreCapability {
            question,
            answer: Some(true),
            needed: true,
            detail: detail.to_owned(),
        };
        let unneeded = |question, detail: &str| StoreCapability {
            question,
            answer: Some(false),
            needed: false,
            detail: detail.to_owned(),
        };
        let root = self.root.clone();
        let elsewhere = blocking("looking at its parts", move || elsewhere(&root)).await?;
        Ok(Capabilities {
            answers: vec![
                yes("may write", &self.root.display().to_string()),
                StoreCapability {
                    question: "is on one file system",
                    answer: Some(elsewhere.is_empty()),
                    needed: true,
                    detail: match elsewhere.is_empty() {
                        true => String::new(),
                        false => format!(
                            "{} cannot be written: an object gets its name by a link, which no two file systems share",
                            elsewhere.join(", ")
                        ),
                    },
                },
                StoreCapability {
                    question: "refuses a second object of the same name",
                    answer: Some(matches!(repeated, Err(VaultError::Exists { .. }))),
                    needed: true,
                    detail: "hard link without replacing".to_owned(),
                },
                unneeded(
                    "checksums verified by the store",
                    "a file system has none; verify reads every byte",
                ),
                unneeded(
                    "object locks",
                    "a directory has none; whoever may write it may delete from it",
                ),
                unneeded("storage classes", "a directory has none"),
            ],
        })
    }
}

/// The vault's directory, if it is there.
fn opened(root: &Path) -> Result<Option<DirectoryHandle>, VaultError> {
    match DirectoryHandle::open(root) {
        Ok(vault) => Ok(Some(vault)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(explain("opening", root)(error)),
    }
}

/// Directories of the vault that are on another file system, or are links.
fn elsewhere(root: &Path) -> Result<Vec<String>, VaultError> {
    let failed = |error| explain("looking at its parts", root)(error);
    let vault = DirectoryHandle::open(root).map_err(failed)?;
    let device = vault.device().map_err(failed)?;
    let mut found = Vec::new();
    for prefix in [TEMPORARY, MANIFESTS, META, PAYLOADS, EVIDENCE, RUNS] {
        let name = prefix.trim_end_matches('/');
        let is_here = |directory: &std::io::Result<DirectoryHandle>| matches!(directory, Ok(open) if open.device().is_ok_and(|own| own == device));
        let directory = vault.directory(name, LinkPolicy::Refused);
        if !is_here(&directory) {
            let is_there =
                !matches!(&directory, Err(error) if error.kind() == std::io::ErrorKind::NotFound);
            found.extend(is_there.then(|| name.to_owned()));
            continue;
        }
        // One for each datastore.
        for below in directory.and_then(|directory| directory.directories()).map_err(failed)? {
            let below = format!("{name}/{below}");
            if !is_here(&vault.directory(&below, LinkPolicy::Refused)) {
                found.push(below);
            }
        }
    }
    Ok(found)
}

fn modified(stat: &Stat) -> Timestamp {
    Timestamp::new(stat.st_mtime, i32::try_from(stat.st_mtime_nsec).unwrap_or_default())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

fn facts(key: ObjectKey, stat: &Stat) -> ObjectFacts {
    ObjectFacts {
        key,
        bytes: u64::try_from(stat.st_size).unwrap_or_default(),
        modified: modified(stat),
        class: None,
        warmth: Availability::Warm,
        locked_until: None,
        version: None,
    }
}

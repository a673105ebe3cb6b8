//! A vault in a directory.
//!
//! An object is written to a temporary name, synced, hard-linked to its name, and the temporary name removed; then the
//! directory is synced. A hard link never replaces (a rename would), so two writers cannot both win.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use bytes::Bytes;
use jiff::Timestamp;

use super::{Abilities, Ability, Limits, ObjectFacts, Unfinished, Upload, Vault, VaultError, Warm};
use crate::domain::Document;
use crate::domain::layout::ObjectKey;
use crate::domain::thaw::Warmth;
use crate::seal::{SealedBytes, SegmentProof};

const TEMPORARY: &str = ".unfinished";
const PART_BYTES: usize = 4 * 1024 * 1024;
/// A directory has no parts; the number only has to be out of reach.
const PARTS_MAX: usize = usize::MAX;
/// Bytes after which what was written is sent towards the disk.
const SYNC_BYTES: usize = 32 * 1024 * 1024;

/// A vault in a directory.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
    limits: Limits,
}

impl Directory {
    /// The vault at `root`, which need not exist until something is written.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            limits: Limits {
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
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }
}

/// Runs blocking file work off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> Result<T, VaultError> {
    let what = what.to_owned();
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(VaultError::Unknown { what, why: "a thread died".to_owned() }))
}

pub(super) fn explain(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> VaultError {
    let (what, place) = (what.to_owned(), path.display().to_string());
    move |error| match error.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            VaultError::Refused { what, why: format!("{place}: {error}") }
        }
        std::io::ErrorKind::NotFound => VaultError::Missing { key: place },
        _ => VaultError::Unavailable { what, why: format!("{place}: {error}") },
    }
}

fn sync_directory(directory: &Path) -> std::io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}

/// Creates missing directories, each readable by the owner only and synced into its parent.
pub(super) fn create_directories(root: &Path, directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent().filter(|_| directory != root) {
        create_directories(root, parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).recursive(directory == root).create(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    directory.parent().map_or(Ok(()), sync_directory)
}

/// A file under a temporary name, removed when dropped.
struct Temporary {
    file: std::fs::File,
    path: PathBuf,
}

impl Temporary {
    fn create(root: &Path, key: &ObjectKey) -> Result<Self, VaultError> {
        use std::os::unix::fs::OpenOptionsExt;
        let directory = root.join(TEMPORARY);
        create_directories(root, &directory).map_err(explain("creating a directory", &directory))?;
        let name = format!("{}~{}", key.as_str().replace('/', "~"), hex::encode(rand::random::<[u8; 8]>()));
        let path = directory.join(name);
        let file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(explain("creating a file", &path))?;
        Ok(Self { file, path })
    }

    /// Gives the file its name, unless that is taken.
    fn publish(self, root: &Path, key: &ObjectKey, proof: &SegmentProof) -> Result<(), VaultError> {
        let path = root.join(key.as_str());
        let directory = path.parent().unwrap_or(root).to_owned();
        self.file.sync_all().map_err(explain("syncing", &self.path))?;
        let arrived = self.file.metadata().map_err(explain("reading the size", &self.path))?.len();
        if arrived != proof.bytes {
            return Err(VaultError::Tally {
                what: key.to_string(),
                why: format!("{arrived} bytes are on disk and {} were sent", proof.bytes),
            });
        }
        create_directories(root, &directory).map_err(explain("creating a directory", &directory))?;
        match std::fs::hard_link(&self.path, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return if same(&path, proof).map_err(explain("comparing", &path))? {
                    Ok(())
                } else {
                    Err(VaultError::Exists { key: key.clone() })
                };
            }
            Err(error) => return Err(explain("linking", &path)(error)),
        }
        std::fs::remove_file(&self.path).map_err(explain("unlinking", &self.path))?;
        sync_directory(&directory).map_err(explain("syncing", &directory))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Already gone after a publication; after a failure this is the abort.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn same(path: &Path, proof: &SegmentProof) -> std::io::Result<bool> {
    let mut file = std::fs::File::open(path)?;
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
    SegmentProof { bytes: bytes.len() as u64, sha256 }
}

struct DirectoryUpload {
    root: PathBuf,
    key: ObjectKey,
    file: Option<Temporary>,
    unsynced_bytes: usize,
    syncing: Option<tokio::task::JoinHandle<()>>,
}

impl DirectoryUpload {
    /// Sends what was written towards the disk while more is being made, so that the last sync has little left to do. Only that
    /// last sync counts; a failure here shows there again.
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
            return Err(VaultError::Unknown { what: self.key.to_string(), why: "an earlier part failed".to_owned() });
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
            None => Err(VaultError::Tally { what: this.key.to_string(), why: "a part was lost".to_owned() }),
        })
        .await
    }

    async fn abort(self: Box<Self>) -> Result<(), VaultError> {
        drop(self);
        Ok(())
    }
}

#[async_trait]
impl Vault for Directory {
    fn address(&self) -> String {
        format!("file://{}", self.root.display())
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    async fn put(&self, key: &ObjectKey, document: Document) -> Result<(), VaultError> {
        let (root, key) = (self.root.clone(), key.clone());
        blocking("storing a document", move || {
            let mut temporary = Temporary::create(&root, &key)?;
            let path = temporary.path.clone();
            temporary.file.write_all(document.bytes()).map_err(explain("writing", &path))?;
            temporary.publish(&root, &key, &proof_of(document.bytes()))
        })
        .await
    }

    async fn begin(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, VaultError> {
        let (root, key) = (self.root.clone(), key.clone());
        blocking("beginning an upload", move || {
            let file = Some(Temporary::create(&root, &key)?);
            Ok(Box::new(DirectoryUpload { root, key, file, unsynced_bytes: 0, syncing: None }) as Box<dyn Upload>)
        })
        .await
    }

    async fn find(&self, key: &ObjectKey) -> Result<Option<ObjectFacts>, VaultError> {
        let (path, key) = (self.path(key.as_str()), key.clone());
        blocking("looking for an object", move || match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(facts(key, &metadata))),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(explain("looking for an object", &path)(error)),
        })
        .await
    }

    async fn read(&self, object: &Warm, from: u64, length: usize) -> Result<Bytes, VaultError> {
        let path = self.path(object.key().as_str());
        blocking("reading", move || {
            let read = || -> std::io::Result<Bytes> {
                let mut file = std::fs::File::open(&path)?;
                file.seek(SeekFrom::Start(from))?;
                let mut bytes = Vec::with_capacity(length);
                file.take(length as u64).read_to_end(&mut bytes)?;
                Ok(Bytes::from(bytes))
            };
            read().map_err(explain("reading", &path))
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectFacts>, VaultError> {
        let (root, prefix) = (self.root.clone(), prefix.to_owned());
        blocking("listing", move || {
            let mut found = Vec::new();
            // Only the directory that the prefix names is walked, not the whole vault.
            let below = prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
            walk(&root, &root.join(below), &prefix, &mut found).map_err(explain("listing", &root))?;
            found.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(found)
        })
        .await
    }

    async fn remove(&self, key: &ObjectKey) -> Result<(), VaultError> {
        let (root, path) = (self.root.clone(), self.path(key.as_str()));
        blocking("removing", move || {
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(explain("removing", &path)(error)),
            }
            // Directories that are empty now go too; one that is not says so, and that is all right.
            let mut directory = path.parent();
            while let Some(empty) = directory.filter(|d| *d != root && std::fs::remove_dir(d).is_ok()) {
                directory = empty.parent();
            }
            Ok(())
        })
        .await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, VaultError> {
        let directory = self.root.join(TEMPORARY);
        blocking("looking for unfinished uploads", move || {
            let entries = match std::fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(explain("listing", &directory)(error)),
            };
            let mut found = Vec::new();
            for entry in entries {
                let entry = entry.map_err(explain("listing", &directory))?;
                let Ok(metadata) = entry.metadata() else { continue };
                let handle = entry.file_name().to_string_lossy().into_owned();
                let key = handle.rsplit_once('~').map_or(handle.clone(), |(key, _)| key.replace('~', "/"));
                found.push(Unfinished { key, handle, begun: modified(&metadata) });
            }
            found.sort_by(|a, b| a.handle.cmp(&b.handle));
            Ok(found)
        })
        .await
    }

    async fn discard(&self, unfinished: &Unfinished) -> Result<(), VaultError> {
        let directory = self.root.join(TEMPORARY);
        let name = unfinished.handle.clone();
        blocking("discarding", move || {
            if name.contains('/') || name == ".." {
                return Err(VaultError::Refused { what: "discarding".to_owned(), why: format!("{name:?} is not the name of an upload") });
            }
            let path = directory.join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(explain("discarding", &path)(error)),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn probe(&self, key: &ObjectKey) -> Result<Abilities, VaultError> {
        self.put(key, Document::probe()).await?;
        let repeated = self.put(key, Document::restore_guide("something else".to_owned())).await;
        let yes = |question, detail: &str| Ability { question, answer: Some(true), needed: true, detail: detail.to_owned() };
        let unneeded = |question, detail: &str| Ability { question, answer: Some(false), needed: false, detail: detail.to_owned() };
        Ok(Abilities {
            answers: vec![
                yes("may write", &self.root.display().to_string()),
                Ability {
                    question: "refuses a second object of the same name",
                    answer: Some(matches!(repeated, Err(VaultError::Exists { .. }))),
                    needed: true,
                    detail: "hard link without replacing".to_owned(),
                },
                unneeded("checksums verified by the store", "a file system has none; verify reads every byte"),
                unneeded("object locks", "a directory has none; whoever may write it may delete from it"),
                unneeded("storage classes", "a directory has none"),
            ],
        })
    }
}

fn modified(metadata: &std::fs::Metadata) -> Timestamp {
    metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn facts(key: ObjectKey, metadata: &std::fs::Metadata) -> ObjectFacts {
    ObjectFacts {
        key,
        bytes: metadata.len(),
        modified: modified(metadata),
        class: None,
        warmth: Warmth::Warm,
        locked_until: None,
        version: None,
    }
}

fn walk(root: &Path, directory: &Path, prefix: &str, found: &mut Vec<ObjectFacts>) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let metadata = std::fs::symlink_metadata(&path)?;
        let Some(relative) = path.strip_prefix(root).ok().and_then(Path::to_str) else { continue };
        if metadata.is_dir() && !relative.starts_with('.') {
            walk(root, &path, prefix, found)?;
        } else if metadata.is_file()
            && relative.starts_with(prefix)
            && let Ok(key) = relative.parse()
        {
            found.push(facts(key, &metadata));
        }
    }
    Ok(())
}

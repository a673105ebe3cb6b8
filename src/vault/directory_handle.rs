//! Access to files below a directory that never follows a link.
//!
//! Whoever may write into a vault's directory can replace a directory or an object by a link.
//! Followed while writing or removing, it leads anywhere on this host, with lifeboat's rights. So
//! the kernel is asked to resolve names beneath the directory and through no link (`openat2`);
//! where it does not support that, each component is opened by itself. Only regular files are
//! opened, without blocking: a FIFO would never answer.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Directories below each other that are looked into: the names of a vault have fewer.
const DEPTH_MAX: usize = 8;
/// Entries behind links that are looked at.
const BEHIND_LINKS_MAX: usize = 100_000;

/// A directory, open.
pub(super) struct DirectoryHandle(OwnedFd);

/// Whether the last step may lead through links of directories: only to read what is known by its
/// hash or its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkPolicy {
    Refused,
    Followed,
}

/// What was found of a file.
pub(super) struct FoundFile {
    pub name: String,
    pub stat: Stat,
}

impl DirectoryHandle {
    /// Opens the directory itself, which may be a link: who configures it says so.
    pub fn open(root: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(
            CWD,
            root,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?))
    }

    /// The directory of this name, made if it is not there: readable by the owner only, and synced
    /// into its parent.
    pub fn make(&self, name: &str) -> io::Result<Self> {
        let mut at = Self(self.0.try_clone()?);
        for part in name.split('/').filter(|part| !part.is_empty()) {
            at = match at.directory(part, LinkPolicy::Refused) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match rustix::fs::mkdirat(&at.0, part, Mode::RWXU) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    at.sync()?;
                    at.directory(part, LinkPolicy::Refused)?
                }
                other => other?,
            };
        }
        Ok(at)
    }

    /// The directory of this name, which must be there.
    pub fn directory(&self, name: &str, links: LinkPolicy) -> io::Result<Self> {
        if name.is_empty() {
            return Ok(Self(self.0.try_clone()?));
        }
        Ok(Self(self.resolve(name, OFlags::RDONLY | OFlags::DIRECTORY, links)?))
    }

    /// A new file of this name.
    pub fn create(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// A file of this name for everybody's lock, made if it is not there; what is in it stays.
    pub fn lock(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        regular(rustix::fs::openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?)
    }

    /// A regular file, to be read. Where `links` are followed, that is told.
    pub fn read(&self, name: &str, links: LinkPolicy) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        match self.resolve(name, flags, LinkPolicy::Refused) {
            Err(error) if links == LinkPolicy::Followed && is_loop(&error) => {
                let (directory, file) = name.rsplit_once('/').unwrap_or(("", name));
                let directory = self.directory(directory, LinkPolicy::Followed)?;
                tracing::warn!(name, "the way to this object leads through a link");
                regular(rustix::fs::openat(
                    &directory.0,
                    file,
                    flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?)
            }
            other => regular(other?),
        }
    }

    fn resolve(&self, name: &str, flags: OFlags, links: LinkPolicy) -> io::Result<OwnedFd> {
        if links == LinkPolicy::Followed {
            return Ok(rustix::fs::openat(&self.0, name, flags | OFlags::CLOEXEC, Mode::empty())?);
        }
        let strictly =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.0, name, flags | OFlags::CLOEXEC, Mode::empty(), strictly) {
            // Kernels before 5.6, and sandboxes that do not let it pass.
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => self.step_by_step(name, flags),
            other => Ok(other?),
        }
    }

    /// The same, part by part.
    fn step_by_step(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let mut at = self.0.try_clone()?;
        let mut parts = name.split('/').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() || part == "." || part == ".." {
                return Err(Errno::INVAL.into());
            }
            let last = parts.peek().is_none();
            let wanted = if last { flags } else { OFlags::RDONLY | OFlags::DIRECTORY };
            at = match rustix::fs::openat(
                &at,
                part,
                wanted | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            ) {
                // A directory was wanted, and a link is none.
                Err(Errno::NOTDIR) if is_link(&at, part) => return Err(Errno::LOOP.into()),
                other => other?,
            };
        }
        Ok(at)
    }

    /// What is known of a file of this name, if it is a regular one.
    pub fn look(&self, name: &str, links: LinkPolicy) -> io::Result<Option<Stat>> {
        let (directory, file) = name.rsplit_once('/').unwrap_or(("", name));
        let directory = match self.directory(directory, LinkPolicy::Refused) {
            Err(error) if links == LinkPolicy::Followed && is_loop(&error) => {
                self.directory(directory, LinkPolicy::Followed)
            }
            other => other,
        };
        let stat = directory.and_then(|directory| {
            Ok(rustix::fs::statat(&directory.0, file, AtFlags::SYMLINK_NOFOLLOW)?)
        });
        match stat {
            Ok(stat) => Ok(is(&stat, FileType::RegularFile).then_some(stat)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a file of this directory another name in another, unless that is taken: by a link, or
    /// where the file system has none, by a rename that replaces nothing.
    pub fn link(&self, name: &str, to: &Self, new: &str) -> io::Result<()> {
        match rustix::fs::linkat(&self.0, name, &to.0, new, AtFlags::empty()) {
            Ok(()) => Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                Ok(rustix::fs::renameat_with(&self.0, name, &to.0, new, RenameFlags::NOREPLACE)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file of this directory another name in it, in the place of what has that name.
    pub fn replace(&self, name: &str, new: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, name, &self.0, new)?)
    }

    /// Removes a file, or a link itself.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes a directory that is empty.
    pub fn remove_directory(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// The device it is on.
    pub fn device(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.0)?.st_dev)
    }

    /// Regular files of this directory.
    pub fn files(&self) -> io::Result<Vec<FoundFile>> {
        let mut found = Vec::new();
        for name in self.names()? {
            if let Ok(stat) = rustix::fs::statat(&self.0, &name, AtFlags::SYMLINK_NOFOLLOW)
                && is(&stat, FileType::RegularFile)
            {
                found.push(FoundFile { name, stat });
            }
        }
        Ok(found)
    }

    /// Names of directories of this directory, and of links.
    pub fn directories(&self) -> io::Result<Vec<String>> {
        let is_directory = |name: &String| {
            let stat = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| is(&stat, FileType::Directory) || is(&stat, FileType::Symlink))
        };
        Ok(self.names()?.into_iter().filter(is_directory).collect())
    }

    /// Regular files below the directory of this name, each under its name from here. Links of
    /// directories are looked behind, and told of: what is found there may be read, and nothing
    /// is written or removed there. Behind a link nothing that goes wrong is an error, or whoever
    /// may put one there could close every listing. The error names the directory.
    pub fn walk(
        &self,
        below: &str,
        wanted: fn(&str) -> bool,
    ) -> Result<Vec<FoundFile>, (String, io::Error)> {
        let mut walk = DirectoryWalk { found: Vec::new(), wanted, left: BEHIND_LINKS_MAX };
        let (directory, behind) = match self.directory(below, LinkPolicy::Refused) {
            Err(error) if is_loop(&error) => (self.directory(below, LinkPolicy::Followed), true),
            other => (other, false),
        };
        match directory {
            Ok(directory) => walk.at(&directory, below, 0, behind)?,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err((below.to_owned(), error)),
        }
        Ok(walk.found)
    }

    /// Names in this directory that are text; no other is one of a vault.
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

/// A listing that is under way.
struct DirectoryWalk {
    found: Vec<FoundFile>,
    /// Which directories may be looked into.
    wanted: fn(&str) -> bool,
    /// Entries behind links that may still be looked at, of all links together.
    left: usize,
}

impl DirectoryWalk {
    fn at(
        &mut self,
        directory: &DirectoryHandle,
        at: &str,
        depth: usize,
        behind: bool,
    ) -> Result<(), (String, io::Error)> {
        let names = match directory.names() {
            Err(_) if behind => return Ok(()),
            names => names.map_err(|error| (at.to_owned(), error))?,
        };
        for name in names {
            let own = if at.is_empty() { name.clone() } else { format!("{at}/{name}") };
            if behind {
                let Some(left) = self.left.checked_sub(1) else { return Ok(()) };
                self.left = left;
                if left == 0 {
                    tracing::warn!(
                        name = own,
                        "links in the vault lead to too many files; not all of them are looked at"
                    );
                }
            }
            // What has gone since is not there.
            let Ok(stat) = rustix::fs::statat(&directory.0, &name, AtFlags::SYMLINK_NOFOLLOW)
            else {
                continue;
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => self.found.push(FoundFile { name: own, stat }),
                FileType::Directory | FileType::Symlink
                    if depth >= DEPTH_MAX || !(self.wanted)(&own) => {}
                FileType::Directory => {
                    match directory.directory(&name, LinkPolicy::Refused) {
                        Ok(below) => self.at(&below, &own, depth + 1, behind)?,
                        // Removed meanwhile.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(_) if behind => {}
                        Err(error) => return Err((own, error)),
                    }
                }
                FileType::Symlink if !behind => {
                    if let Ok(below) = directory.directory(&name, LinkPolicy::Followed) {
                        tracing::warn!(
                            name = own,
                            "a link in the vault is followed to read; nothing is written or removed behind it"
                        );
                        self.at(&below, &own, depth + 1, true)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_loop(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

fn is_link(directory: &impl AsFd, name: &str) -> bool {
    rustix::fs::statat(directory, OsStr::from_bytes(name.as_bytes()), AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| is(&stat, FileType::Symlink))
}

/// The file, if it is a regular one.
fn regular(file: OwnedFd) -> io::Result<File> {
    match is(&rustix::fs::fstat(&file)?, FileType::RegularFile) {
        true => Ok(File::from(file)),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn part_by_part_the_same_is_reached_and_the_same_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = DirectoryHandle::open(directory.path()).unwrap();
        root.make("a/b").unwrap().create("file").unwrap();
        std::os::unix::fs::symlink("/etc", directory.path().join("a/link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("a/to-file")).unwrap();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        for (name, reached) in [
            ("a/b/file", true),
            ("a/link/passwd", false),
            ("a/to-file", false),
            ("a/../a/b/file", false),
            ("a/b/none", false),
        ] {
            assert_eq!(root.step_by_step(name, flags).is_ok(), reached, "{name}");
            assert_eq!(
                root.read(name, LinkPolicy::Refused).is_ok(),
                reached || name.contains(".."),
                "{name}"
            );
        }
        assert_eq!(
            root.step_by_step("a/link/passwd", flags).unwrap_err().raw_os_error(),
            Some(Errno::LOOP.raw_os_error())
        );
        assert!(
            root.make("a/link/new").is_err()
                && root.directory("a/link", LinkPolicy::Refused).is_err()
        );
    }

    #[test]
    fn without_links_a_rename_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let root = DirectoryHandle::open(directory.path()).unwrap();
        for name in ["one", "two"] {
            root.create(name).unwrap();
        }
        assert_eq!(
            root.link("one", &root, "two").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        root.link("one", &root, "three").unwrap();
        assert!(
            root.look("one", LinkPolicy::Refused).unwrap().is_none()
                && root.look("three", LinkPolicy::Refused).unwrap().is_some()
        );
    }
}

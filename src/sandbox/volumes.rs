//! Volumes in the sandbox: disk images in its own memory, checked by a process without rights,
//! mounted by its first process, and a server started on what lives there.
//!
//! What is on them is hostile. Their files belong to whoever they belonged to, and are given to the
//! sandbox's server; nothing on them is executed and no device on them is one; the server's
//! configuration is ours, and what would make it a standby, a replica or an archiver is removed. An
//! image's name carries the run, so that a loop device that outlives its drill is found.

use std::os::unix::fs::{PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tokio::process::Command;

use super::SandboxError;
use super::jail::JailRequest;
use super::local::RaisedSandbox;

/// Directory of images, inside.
const IMAGES: &str = "/volumes";
/// Directory of the server's configuration, inside.
const SETTINGS: &str = "/run/lifeboat";
/// How long mounting may take: a journal is replayed.
const MOUNT_PATIENCE: Duration = Duration::from_secs(600);
/// How long a server may take to recover.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(3600);
/// How long checking a file system may take.
const CHECK_PATIENCE: Duration = Duration::from_secs(1800);
/// What a [`SandboxError::Failed`] says it failed at where a file system is at fault, and not the
/// sandbox.
pub const UNSOUND: &str = "mount a sound file system";
/// Where the host's devices are shown to the first process, for the moment in which it mounts.
const DEVICES: &str = "/dev/host";

/// What keeps a server inert that was another's, beside what keeps every sandbox's server so.
const ADOPTED: [(&str, &str); 10] = [
    ("port", "5432"),
    ("config_file", "/run/lifeboat/postgresql.conf"),
    ("hba_file", "/run/lifeboat/pg_hba.conf"),
    ("ident_file", "/run/lifeboat/pg_ident.conf"),
    ("shared_buffers", "128MB"),
    ("huge_pages", "off"),
    ("restore_command", ""),
    ("recovery_end_command", ""),
    ("archive_cleanup_command", ""),
    ("fsync", "off"),
];
/// Files that would make it something else than a primary, or say that it runs already.
const REMOVED: [&str; 5] =
    ["postmaster.pid", "standby.signal", "recovery.signal", "recovery.conf", "backup_label"];

/// A file system that can be looked at here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3 or ext4.
    Ext4,
    /// XFS.
    Xfs,
}

/// What an image holds, by its own words.
///
/// # Errors
/// [`SandboxError::Failed`] if it is nothing that can be mounted here.
pub fn file_system(image: &Path) -> Result<FileSystem, SandboxError> {
    use std::os::unix::fs::FileExt;
    let failed = |why: String| SandboxError::Failed { what: "tell what is on a volume", why };
    let file = std::fs::File::open(image).map_err(|error| failed(error.to_string()))?;
    let mut head = [0; 2048];
    file.read_exact_at(&mut head, 0).map_err(|error| failed(error.to_string()))?;
    match &head {
        head if head.starts_with(b"XFSB") => Ok(FileSystem::Xfs),
        head if head[1080..1082] == [0x53, 0xef] => Ok(FileSystem::Ext4),
        head if head[512..520] == *b"LABELONE" => {
            Err(failed("it is a physical volume of LVM, which is not assembled here".to_owned()))
        }
        head if head[510..512] == [0x55, 0xaa] => {
            Err(failed("it has partitions, which are not looked into here".to_owned()))
        }
        _ => Err(failed("it holds neither ext4 nor XFS".to_owned())),
    }
}

impl RaisedSandbox {
    /// Where the image of a volume goes, as the host reaches it. The directory is made.
    ///
    /// # Errors
    /// [`SandboxError::Failed`] where there are no namespaces.
    pub fn image(&self, volume: &str) -> Result<PathBuf, SandboxError> {
        let failed = |why: String| SandboxError::Failed { what: "take volumes", why };
        let none = "there are no namespaces here, and volumes are mounted nowhere else; start the drill as root";
        let directory =
            self.seen_from_host(Path::new(IMAGES)).ok_or_else(|| failed(none.to_owned()))?;
        std::fs::create_dir_all(&directory).map_err(|error| failed(error.to_string()))?;
        Ok(directory.join(format!("{}-{volume}.img", self.spec().run)))
    }

    /// Checks the file system of an image and mounts it.
    ///
    /// # Errors
    /// [`SandboxError::Failed`] if it is not sound, or cannot be mounted.
    pub async fn mount_image(&mut self, image: &Path, at: &Path) -> Result<(), SandboxError> {
        let kind = file_system(image)?;
        let client = self.lease().uid.map(|uid| uid + 1);
        chown(image, client, client).map_err(|error| SandboxError::Failed {
            what: "give an image to its checker",
            why: error.to_string(),
        })?;
        let inside = Path::new(IMAGES).join(image.file_name().unwrap_or_default());
        match kind {
            FileSystem::Ext4 => {
                // It replays the journal and repairs what is safe to repair; 1 says that it did.
                self.check(&["/usr/sbin/e2fsck", "-f", "-p"], &inside, &[0, 1]).await?;
                self.mount(image, "ext4", at).await
            }
            FileSystem::Xfs => {
                // Only mounting replays its log.
                self.mount(image, "xfs", at).await?;
                self.have("unmount a volume", &JailRequest::Unmount(at.to_owned()), MOUNT_PATIENCE)
                    .await?;
                self.check(&["/usr/sbin/xfs_repair", "-n", "-f"], &inside, &[0]).await?;
                self.mount(image, "xfs", at).await
            }
        }
    }

    /// Runs a checker inside, as a client, on an image.
    async fn check(&self, words: &[&str], image: &Path, sound: &[i32]) -> Result<(), SandboxError> {
        let failed = |why: String| SandboxError::Failed { what: "check a file system", why };
        let (program, arguments) =
            words.split_first().ok_or_else(|| failed("no checker".to_owned()))?;
        if !Path::new(program).exists() {
            return Err(failed(format!("{program} is not installed (e2fsprogs, xfsprogs)")));
        }
        let mut command = self.command(Path::new(program), "postgres");
        command
            .args(arguments)
            .arg(image)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let output = tokio::time::timeout(CHECK_PATIENCE, command.output()).await;
        let output = output
            .map_err(|_| failed("it did not end in time".to_owned()))?
            .map_err(|error| failed(error.to_string()))?;
        if output.status.code().is_some_and(|code| sound.contains(&code)) {
            return Ok(());
        }
        // What it says may quote names of files: only that it complained is stored.
        tracing::warn!(said = %String::from_utf8_lossy(&output.stdout).chars().take(500).collect::<String>(), "a file system is not sound");
        Err(SandboxError::Failed {
            what: UNSOUND,
            why: format!("{program} found it unsound ({})", output.status),
        })
    }

    async fn mount(&mut self, image: &Path, kind: &str, at: &Path) -> Result<(), SandboxError> {
        let failed = |why: String| SandboxError::Failed { what: "mount a volume", why };
        let attached = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(image)
            .stdin(Stdio::null())
            .output()
            .await;
        let attached = attached.map_err(|error| failed(format!("losetup: {error}")))?;
        if !attached.status.success() {
            return Err(failed(format!(
                "losetup: {}",
                String::from_utf8_lossy(&attached.stderr).trim()
            )));
        }
        let device =
            String::from_utf8_lossy(&attached.stdout).trim().trim_start_matches("/dev/").to_owned();
        let question =
            JailRequest::Mount { device: device.clone(), kind: kind.to_owned(), at: at.to_owned() };
        let mounted = self.have("mount a volume", &question, MOUNT_PATIENCE).await;
        // While it is mounted the kernel keeps it; with the mount it goes.
        detach(&device);
        mounted
    }

    /// Starts the server that lives on mounted volumes; `files` are written into its data directory
    /// first.
    ///
    /// # Errors
    /// [`SandboxError`] with its last words.
    pub async fn adopt_server(
        &mut self,
        mounts: Vec<PathBuf>,
        data: &Path,
        files: Vec<(String, String)>,
        settings: &[(String, String)],
    ) -> Result<(), SandboxError> {
        let mut written: Vec<(PathBuf, String)> =
            files.into_iter().map(|(name, text)| (data.join(name), text)).collect();
        for (name, text) in [
            ("postgresql.conf", ""),
            ("pg_hba.conf", "local all all trust\n"),
            ("pg_ident.conf", ""),
        ] {
            written.push((Path::new(SETTINGS).join(name), text.to_owned()));
        }
        let adopt = JailRequest::Adopt { mounts, data: data.to_owned(), files: written };
        self.have("take over what lives on the volumes", &adopt, MOUNT_PATIENCE).await?;
        let mut all = settings.to_vec();
        all.extend(ADOPTED.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self.run_server(data, &all, RECOVERY_PATIENCE).await
    }
}

/// Mounts a device of the host: the first process' side.
pub(super) fn mount_device(device: &str, kind: &str, at: &Path) -> Result<(), String> {
    let is_loop = device
        .strip_prefix("loop")
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()));
    if !is_loop || !matches!(kind, "ext4" | "xfs") {
        return Err(format!("{device} of kind {kind} is not mounted"));
    }
    let fail = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    std::fs::create_dir_all(DEVICES).map_err(fail("making a directory for devices"))?;
    mount("devtmpfs", DEVICES, "devtmpfs", MountFlags::NOSUID | MountFlags::NOEXEC, None)
        .map_err(|error| format!("seeing the host's devices: {error}"))?;
    let made = mount_point(at);
    if let Err(why) = made {
        let _ = unmount(DEVICES, UnmountFlags::DETACH);
        return Err(why);
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    let options = (kind == "xfs").then_some(c"nouuid");
    let mounted = mount(Path::new(DEVICES).join(device), at, kind, flags, options)
        .map_err(|error| format!("{}: {error}", at.display()));
    let hidden = unmount(DEVICES, UnmountFlags::DETACH)
        .map_err(|error| format!("hiding the host's devices: {error}"));
    let _ = std::fs::remove_dir(DEVICES);
    mounted.and(hidden)
}

/// Makes a mount point. A volume that is mounted above it is hostile: what it calls a directory may
/// lead to the sandbox's own files.
fn mount_point(at: &Path) -> Result<(), String> {
    let mut here = PathBuf::from("/");
    for part in at.components().skip(1) {
        here.push(part);
        match std::fs::symlink_metadata(&here) {
            Ok(facts) if facts.is_dir() => {}
            Ok(_) => return Err(format!("{} is no directory", here.display())),
            Err(_) => std::fs::create_dir(&here)
                .map_err(|error| format!("{}: {error}", here.display()))?,
        }
    }
    Ok(())
}

/// Gives mounted volumes to the server's uid and makes its data directory ready: the first process'
/// side.
pub(super) fn adopt(
    mounts: &[PathBuf],
    data: &Path,
    files: &[(PathBuf, String)],
    uid: u32,
) -> Result<(), String> {
    for point in mounts {
        give(point, uid)?;
    }
    let canonical =
        std::fs::canonicalize(data).map_err(|error| format!("{}: {error}", data.display()))?;
    if !mounts.iter().any(|point| canonical.starts_with(point))
        || !canonical.join("PG_VERSION").is_file()
    {
        return Err(format!(
            "{} is no data directory of Postgres on these volumes",
            data.display()
        ));
    }
    for name in REMOVED {
        remove(&canonical.join(name))?;
    }
    // A server without replication does not start beside slots.
    let slots = canonical.join("pg_replslot");
    if !std::fs::symlink_metadata(&slots).is_ok_and(|facts| facts.is_dir()) {
        return Err(format!("{} is no directory", slots.display()));
    }
    for slot in std::fs::read_dir(slots).into_iter().flatten().flatten() {
        std::fs::remove_dir_all(slot.path())
            .map_err(|error| format!("removing a replication slot: {error}"))?;
    }
    for (path, text) in files {
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            std::fs::create_dir_all(parent)
                .map_err(|error| format!("{}: {error}", parent.display()))?;
        }
        remove(path)?;
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        lchown(path, Some(uid), Some(uid))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    std::fs::set_permissions(&canonical, std::fs::Permissions::from_mode(0o700))
        .map_err(|error| format!("{}: {error}", data.display()))
}

fn remove(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Changes the owner of everything below a directory. Symbolic links are changed and not followed.
fn give(point: &Path, uid: u32) -> Result<(), String> {
    let mut left = vec![point.to_owned()];
    while let Some(path) = left.pop() {
        let fail =
            |error: std::io::Error| format!("giving {} to the server: {error}", path.display());
        lchown(&path, Some(uid), Some(uid)).map_err(fail)?;
        if std::fs::symlink_metadata(&path).map_err(fail)?.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(fail)? {
                left.push(entry.map_err(fail)?.path());
            }
        }
    }
    Ok(())
}

/// Loop devices whose image is one of a run's.
#[must_use]
pub fn attached(run: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let of_run = |entry: std::fs::DirEntry| {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let name = Path::new(backing.trim_end().trim_end_matches(" (deleted)"))
            .file_name()?
            .to_str()?
            .to_owned();
        name.starts_with(&format!("{run}-")).then(|| entry.file_name().into_string().ok())?
    };
    entries.filter_map(of_run).collect()
}

fn detach(device: &str) {
    let _ = std::process::Command::new("losetup")
        .arg("--detach")
        .arg(format!("/dev/{device}"))
        .stderr(Stdio::null())
        .status();
}

/// Lets go of every loop device of a run.
pub fn detach_all(run: &str) {
    for device in attached(run) {
        detach(&device);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_cannot_lead_a_mount_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().canonicalize().unwrap().join(name);
        std::os::unix::fs::symlink("/etc", at("wal")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for hostile in ["wal", "wal/below", "file"] {
            assert!(
                mount_point(&at(hostile)).unwrap_err().contains("is no directory"),
                "{hostile}"
            );
        }
        mount_point(&at("a/b")).unwrap();
        mount_point(&at("a/b")).unwrap();
    }

    #[test]
    fn what_is_on_an_image_is_told_by_its_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        for (at, word, told) in
            [(0, &b"XFSB"[..], Ok(FileSystem::Xfs)), (1080, &[0x53, 0xef], Ok(FileSystem::Ext4))]
        {
            let mut bytes = vec![0; 4096];
            bytes[at..at + word.len()].copy_from_slice(word);
            std::fs::write(&image, bytes).unwrap();
            assert_eq!(file_system(&image).map_err(|error| error.to_string()), told);
        }
        for (at, word, told) in [
            (512, &b"LABELONE"[..], "LVM"),
            (510, &[0x55, 0xaa], "partitions"),
            (0, b"?", "neither ext4 nor XFS"),
        ] {
            let mut bytes = vec![0; 4096];
            bytes[at..at + word.len()].copy_from_slice(word);
            std::fs::write(&image, bytes).unwrap();
            assert!(file_system(&image).unwrap_err().to_string().contains(told));
        }
    }
}

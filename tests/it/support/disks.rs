//! Volumes of the local stand-in with real file systems on them: files on XFS that can clone them,
//! loop devices, mounts. Needs root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What was mounted, innermost last.
pub struct Disks {
    directory: PathBuf,
    mounted: Vec<PathBuf>,
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn sparse(file: &Path, mib: u64) {
    std::fs::File::create_new(file).unwrap().set_len(mib << 20).unwrap();
}

/// Mounts an image; the loop device goes with the mount.
pub fn mount(image: &Path, at: &Path, options: &str) {
    std::fs::create_dir_all(at).unwrap();
    run(
        "mount",
        &["-o", &format!("loop,{options}"), image.to_str().unwrap(), at.to_str().unwrap()],
    );
}

/// An image that is mounted until this is dropped.
pub struct Mount(PathBuf);

impl Mount {
    pub fn of(image: &Path, at: &Path, options: &str) -> Self {
        mount(image, at, options);
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).stderr(Stdio::null()).status();
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Disks {
    /// A directory `volumes` below `home`, on a file system that clones files.
    pub fn new(home: &Path) -> Self {
        let image = home.join("host.xfs");
        sparse(&image, 2048);
        run("mkfs.xfs", &["-q", "-m", "reflink=1", image.to_str().unwrap()]);
        let directory = home.join("volumes");
        mount(&image, &directory, "nouuid");
        Self { directory: directory.clone(), mounted: vec![directory] }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A volume that says it is encrypted under `local-key`, attached to `i-local`; it holds
    /// nothing.
    pub fn bare(&self, id: &str, mib: u64, more: &str) -> PathBuf {
        let home = self.directory.join("volumes").join(id);
        std::fs::create_dir_all(&home).unwrap();
        sparse(&home.join("disk"), mib);
        let count = std::fs::read_dir(self.directory.join("volumes")).unwrap().count();
        let device = format!("/dev/sd{}", char::from(b'e' + u8::try_from(count).unwrap()));
        let facts = format!(
            r#"{{"zone": "local-a", "class": "gp3", "encrypted": true, "key": "local-key", "attached": {{"instance": "i-local", "device": "{device}", "boot": false}}, "tags": {{"Role": "db"}}{more}}}"#
        );
        std::fs::write(home.join("volume.json"), facts).unwrap();
        home.join("disk")
    }

    /// A volume with a file system, mounted; a directory in it that belongs to the server's user.
    pub fn volume(&mut self, id: &str, mib: u64, file_system: &str) -> PathBuf {
        let disk = self.bare(id, mib, "");
        let quiet = if file_system == "ext4" { "-qF" } else { "-qf" };
        run(&format!("mkfs.{file_system}"), &[quiet, disk.to_str().unwrap()]);
        let at = self.directory.parent().unwrap().join("mnt").join(id);
        mount(&disk, &at, "noatime");
        self.mounted.push(at.clone());
        let inside = at.join("pg");
        std::fs::create_dir(&inside).unwrap();
        run("chown", &["postgres", inside.to_str().unwrap()]);
        run("chmod", &["700", inside.to_str().unwrap()]);
        inside
    }

    /// The mount point of a volume.
    pub fn mounted(&self, id: &str) -> PathBuf {
        self.directory.parent().unwrap().join("mnt").join(id)
    }

    /// Whether something can be written to a volume's file system within two seconds.
    pub fn is_writable(&self, id: &str) -> bool {
        let file = self.mounted(id).join("probe");
        let mut child = Command::new("touch").arg(&file).spawn().unwrap();
        for _ in 0..40 {
            if child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        // It cannot be killed while the file system is frozen; whoever thaws frees it.
        let _ = child.kill();
        false
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for at in self.mounted.iter().rev() {
            let _ = Command::new("fsfreeze").arg("-u").arg(at).stderr(Stdio::null()).status();
            let _ = Command::new("umount").arg("-l").arg(at).status();
        }
    }
}

/// A small file system of its own. Needs root, as CI and Debian machines of developers give it.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// Makes room.
    pub fn grow(&self, mib: u32) {
        let grown = Command::new("mount")
            .args(["-o", &format!("remount,size={mib}m")])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(grown.success());
    }

    pub fn mount(at: &Path, mib: u32) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(at)
            .status()
            .unwrap();
        assert!(mounted.success(), "mounting a tmpfs needs root");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

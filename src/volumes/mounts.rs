//! What is mounted on this host, and which volumes lie under it.
//!
//! On Nitro instances the serial number of an NVMe device is its volume's id; the disk of a local
//! stand-in lies in a directory named like it. On older instances nothing on the host tells, and
//! lifeboat does not guess: there the team's own program makes volumes stand still.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::domain::volumes::{VolumeId, VolumeInfo};

/// Devices that lie under each other: partitions, mapped devices.
const DEPTH_MAX: usize = 8;

/// What lies under a mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountBacking {
    /// A volume, by the device's own word.
    Volume(VolumeId),
    /// A device that does not tell, by its name, such as `xvdf`.
    Device(String),
}

/// Whether a directory is a mount point of its own file system, and not the root.
///
/// # Errors
/// Why not.
pub fn is_mount_point(point: &Path) -> Result<(), String> {
    let device = |path: &Path| {
        std::fs::metadata(path)
            .map(|facts| facts.dev())
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    let own = device(point)?;
    if own == device(Path::new("/"))? {
        return Err(format!(
            "{} is part of the root file system, which must not be frozen",
            point.display()
        ));
    }
    match point.parent() {
        Some(parent) if device(parent)? == own => {
            Err(format!("{} is no mount point", point.display()))
        }
        _ => Ok(()),
    }
}

/// The first of some paths that lies on the file system mounted at a point: what must not stand
/// still while the set is taken.
#[must_use]
pub fn lying_on(point: &Path, paths: &[PathBuf]) -> Option<PathBuf> {
    let own = std::fs::metadata(point).ok()?.dev();
    let lies = |path: &Path| {
        path.ancestors()
            .find_map(|path| std::fs::metadata(path).ok())
            .is_some_and(|facts| facts.dev() == own)
    };
    paths.iter().find(|path| lies(path)).cloned()
}

/// What lies under a mount point. `place` is the directory of the stand-in, whose volumes are
/// files; of none a file is a volume.
///
/// # Errors
/// If the system does not tell.
pub fn under(point: &Path, place: Option<&Path>) -> Result<Vec<MountBacking>, String> {
    let device =
        std::fs::metadata(point).map_err(|error| format!("{}: {error}", point.display()))?.dev();
    on(device, place).ok_or_else(|| format!("{} lies on no block device", point.display()))
}

/// What a block device lies on, down to disks.
fn on(device: u64, place: Option<&Path>) -> Option<Vec<MountBacking>> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let block = PathBuf::from(format!("/sys/dev/block/{major}:{minor}")).canonicalize().ok()?;
    let mut found = Vec::new();
    descend(&block, place, 0, &mut found);
    Some(found)
}

fn descend(block: &Path, place: Option<&Path>, depth: usize, found: &mut Vec<MountBacking>) {
    let slaves: Vec<PathBuf> = std::fs::read_dir(block.join("slaves"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    if !slaves.is_empty() && depth < DEPTH_MAX {
        for slave in slaves {
            if let Ok(slave) = slave.canonicalize() {
                descend(&slave, place, depth + 1, found);
            }
        }
        return;
    }
    // A partition's directory stands in that of its disk.
    let disk =
        if block.join("partition").exists() { block.parent().unwrap_or(block) } else { block };
    let read = |name: &str| {
        std::fs::read_to_string(disk.join(name))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let name = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let of_serial = |serial: &str| {
        serial.strip_prefix("vol").map(|rest| format!("vol-{}", rest.trim_start_matches('-')))
    };
    // As the stand-in lays its volumes: a file of this name, in a directory that is called as the
    // volume is.
    let of_file = |file: &str| {
        let own = Path::new(file).strip_prefix(place?.canonicalize().ok()?).ok()?;
        Some(own.strip_prefix("volumes").ok()?.parent()?.to_str()?.to_owned())
    };
    let volume = of_serial(&read("device/serial"))
        .or_else(|| of_file(&read("loop/backing_file")))
        .and_then(|text| text.parse().ok());
    found.push(volume.map_or(MountBacking::Device(name), MountBacking::Volume));
}

/// The volumes of a set that lie under none of the mount points.
///
/// # Errors
/// If the system does not tell what lies under a mount point.
pub fn uncovered<'a>(
    points: &[PathBuf],
    place: Option<&Path>,
    volumes: &'a [VolumeInfo],
) -> Result<Vec<&'a VolumeInfo>, String> {
    let mut covered: BTreeSet<&VolumeId> = BTreeSet::new();
    for point in points {
        for backing in under(point, place)? {
            // A device that does not tell may be that of any volume, or of another host's.
            covered.extend(
                volumes
                    .iter()
                    .map(|volume| &volume.id)
                    .filter(|id| backing == MountBacking::Volume((*id).clone())),
            );
        }
    }
    Ok(volumes.iter().filter(|volume| !covered.contains(&volume.id)).collect())
}

/// One mount point of each file system, the first that names it. What is frozen by two names is
/// frozen once, and the second attempt finds it busy as if somebody else had frozen it.
#[must_use]
pub fn one_for_each(points: &[PathBuf]) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let is_first =
        |point: &&PathBuf| std::fs::metadata(point).map_or(true, |facts| seen.insert(facts.dev()));
    points.iter().filter(is_first).cloned().collect()
}

/// A file system that is mounted.
struct MountedFileSystem {
    at: PathBuf,
    /// The device that files on it tell.
    device: u64,
    /// The block device that it lies on; the same, but for file systems that span several.
    block: u64,
}

/// Every mounted file system of which a block device is told, from `/proc/self/mountinfo`.
fn mounted(mountinfo: &str) -> Vec<MountedFileSystem> {
    let one = |line: &str| {
        let (own, rest) = line.split_once(" - ")?;
        let fields: Vec<&str> = own.split(' ').collect();
        let (major, minor) = fields.get(2)?.split_once(':')?;
        let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
        let mut rest = rest.split(' ');
        let (kind, source, options) = (rest.next()?, rest.next()?, rest.next().unwrap_or_default());
        // What nobody can write to stands still; what cannot be frozen is no place for data.
        if options.split(',').any(|option| option == "ro")
            || matches!(kind, "vfat" | "iso9660" | "squashfs")
        {
            return None;
        }
        // One that spans devices has a number of its own, which is that of no device.
        let block = match major {
            "0" => std::fs::metadata(unescaped(source))
                .ok()
                .filter(|_| source.starts_with("/dev/"))?
                .rdev(),
            _ => device,
        };
        Some(MountedFileSystem { at: unescaped(fields.get(4)?), device, block })
    };
    mountinfo.lines().filter_map(one).collect()
}

/// A path of `/proc/self/mountinfo`, where blanks and backslashes are octal.
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (bytes, mut path, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                at += 4;
            }
            None => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

/// File systems that are mounted, lie on a volume of the set, and are not among those that stand
/// still: another partition, another logical volume. Each with where it is mounted.
///
/// # Errors
/// If the system does not tell what is mounted.
pub fn written_to<'a>(
    points: &[PathBuf],
    place: Option<&Path>,
    volumes: &'a [VolumeInfo],
) -> Result<Vec<(PathBuf, &'a VolumeId)>, String> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let still: BTreeSet<u64> =
        points.iter().filter_map(|point| Some(std::fs::metadata(point).ok()?.dev())).collect();
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for MountedFileSystem { at, device, block } in mounted(&mountinfo) {
        if still.contains(&device) || !seen.insert(device) {
            continue;
        }
        for backing in on(block, place).unwrap_or_default() {
            found.extend(
                volumes
                    .iter()
                    .map(|volume| &volume.id)
                    .filter(|id| backing == MountBacking::Volume((*id).clone()))
                    .map(|id| (at.clone(), id)),
            );
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_read_with_its_device() {
        let text = "36 35 98:7 /mnt1 /mnt/with\\040blank rw,noatime master:1 - ext3 /dev/root rw\n\
                    24 30 0:22 / /proc rw - proc proc rw\n\
                    nonsense\n\
                    40 35 259:3 / /data rw shared:5 - xfs /dev/nvme1n1p1 rw\n";
        let found = mounted(text);
        let told: Vec<(&Path, u64)> =
            found.iter().map(|one| (one.at.as_path(), one.device)).collect();
        let device = rustix::fs::makedev;
        assert_eq!(
            told,
            [(Path::new("/mnt/with blank"), device(98, 7)), (Path::new("/data"), device(259, 3))]
        );
    }

    #[test]
    fn one_file_system_by_many_names_is_one() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        let names = [
            directory.path().to_owned(),
            directory.path().join(""),
            directory.path().join("."),
            link,
        ];
        assert_eq!(one_for_each(&names), [directory.path().to_owned()]);
    }
}

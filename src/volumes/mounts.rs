//! What is mounted on this host, and which volumes lie under it.
//!
//! On Nitro instances the serial number of an NVMe device is its volume's id; the disk of a local stand-in lies in a directory named like it.
//! On older instances nothing on the host tells, and lifeboat does not guess: there the team's own program makes volumes stand still.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::domain::volumes::{Volume, VolumeId};

/// Devices that lie under each other: partitions, mapped devices.
const DEPTH_MAX: usize = 8;

/// What lies under a mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
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
    let device = |path: &Path| std::fs::metadata(path).map(|facts| facts.dev()).map_err(|error| format!("{}: {error}", path.display()));
    let own = device(point)?;
    if own == device(Path::new("/"))? {
        return Err(format!("{} is part of the root file system, which must not be frozen", point.display()));
    }
    match point.parent() {
        Some(parent) if device(parent)? == own => Err(format!("{} is no mount point", point.display())),
        _ => Ok(()),
    }
}

/// The first of some paths that lies on the file system mounted at a point: what must not stand still while the set is taken.
#[must_use]
pub fn lying_on(point: &Path, paths: &[PathBuf]) -> Option<PathBuf> {
    let own = std::fs::metadata(point).ok()?.dev();
    let lies = |path: &Path| path.ancestors().find_map(|path| std::fs::metadata(path).ok()).is_some_and(|facts| facts.dev() == own);
    paths.iter().find(|path| lies(path)).cloned()
}

/// What lies under a mount point.
///
/// # Errors
/// If the system does not tell.
pub fn under(point: &Path) -> Result<Vec<Backing>, String> {
    let device = std::fs::metadata(point).map_err(|error| format!("{}: {error}", point.display()))?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let block = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let block = block.canonicalize().map_err(|_| format!("{} lies on no block device", point.display()))?;
    let mut found = Vec::new();
    descend(&block, 0, &mut found);
    Ok(found)
}

fn descend(block: &Path, depth: usize, found: &mut Vec<Backing>) {
    let slaves: Vec<PathBuf> = std::fs::read_dir(block.join("slaves")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    if !slaves.is_empty() && depth < DEPTH_MAX {
        for slave in slaves {
            if let Ok(slave) = slave.canonicalize() {
                descend(&slave, depth + 1, found);
            }
        }
        return;
    }
    // A partition's directory stands in that of its disk.
    let disk = if block.join("partition").exists() { block.parent().unwrap_or(block) } else { block };
    let read = |name: &str| std::fs::read_to_string(disk.join(name)).map(|text| text.trim().to_owned()).unwrap_or_default();
    let name = disk.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let of_serial = |serial: &str| serial.strip_prefix("vol").map(|rest| format!("vol-{}", rest.trim_start_matches('-')));
    let of_file = |file: &str| Path::new(file).parent()?.file_name()?.to_str().map(str::to_owned);
    let volume = of_serial(&read("device/serial")).or_else(|| of_file(&read("loop/backing_file"))).and_then(|text| text.parse().ok());
    found.push(volume.map_or(Backing::Device(name), Backing::Volume));
}

/// The volumes of a set that lie under none of the mount points.
///
/// # Errors
/// If the system does not tell what lies under a mount point.
pub fn uncovered<'a>(points: &[PathBuf], volumes: &'a [Volume]) -> Result<Vec<&'a Volume>, String> {
    let mut covered: BTreeSet<&VolumeId> = BTreeSet::new();
    for point in points {
        for backing in under(point)? {
            // A device that does not tell may be that of any volume, or of another host's.
            covered.extend(volumes.iter().map(|volume| &volume.id).filter(|id| backing == Backing::Volume((*id).clone())));
        }
    }
    Ok(volumes.iter().filter(|volume| !covered.contains(&volume.id)).collect())
}

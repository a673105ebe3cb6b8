//! The control group of a sandbox, where the host has one to give: limits of memory and of
//! processes for everything in it.
//!
//! With cgroup v2 a group can be made below one that is ours: the root, or one that the service
//! manager has delegated (`Delegate=yes` of systemd). Version 1 needs no delegation. A host without
//! either runs the sandbox without these limits, and the report says so.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Name of the group that lifeboat's own processes move to: a group of version 2 that has groups
/// below it holds no processes.
const OWN: &str = "lifeboat";
/// What begins the name of a sandbox's group; the run's name follows.
const OF_A_SANDBOX: &str = "lifeboat-sandbox-";
/// Marks of systemd on groups that it has handed over.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];
/// How often processes are moved aside before it is given up.
const MOVES_MAX: usize = 5;
/// What limits need.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// How much everything in a sandbox may take together.
#[derive(Debug, Clone, Copy)]
pub struct GroupLimits {
    /// Memory in bytes, files in memory included. Nothing of it is swapped out.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
}

/// Where this process is in a hierarchy of groups.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupPosition {
    mount: PathBuf,
    below: PathBuf,
    /// The controllers of version 1 that it is for; none of version 2.
    controllers: Vec<String>,
}

impl GroupPosition {
    fn directory(&self) -> PathBuf {
        self.mount.join(&self.below)
    }
}

/// Where the group of a run would be: one directory of version 2, or one for each controller of
/// version 1. Nothing is made or moved.
///
/// # Errors
/// Why there can be none, in words.
pub fn planned(run: &str) -> Result<Vec<PathBuf>, String> {
    let read =
        |file: &str| std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"));
    let positions = positions(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
    let name = format!("{OF_A_SANDBOX}{run}");
    let is_for = |position: &&GroupPosition, controller: &str| {
        position.controllers.iter().any(|one| one == controller)
    };
    let older: Vec<PathBuf> = CONTROLLERS
        .iter()
        .filter_map(|controller| {
            positions
                .iter()
                .find(|one| is_for(one, controller))
                .map(|one| one.directory().join(&name))
        })
        .collect();
    match older.len() {
        0 => {
            let unified = positions
                .iter()
                .find(|one| one.controllers.is_empty())
                .ok_or("this host shows no control groups")?;
            Ok(vec![handed_over(unified)?.join(&name)])
        }
        length if length == CONTROLLERS.len() => Ok(older),
        _ => Err("not all control groups that limits need are mounted".to_owned()),
    }
}

/// Makes the group that was planned.
///
/// # Errors
/// What stands in the way, in words; nothing is left of it then.
pub fn make(group: &[PathBuf], limits: &GroupLimits) -> Result<(), String> {
    let outcome = try_to_make(group, limits);
    if outcome.is_err() {
        remove(group);
    }
    outcome
}

fn try_to_make(group: &[PathBuf], limits: &GroupLimits) -> Result<(), String> {
    let (memory, processes) = (limits.memory_bytes.to_string(), limits.processes.to_string());
    if let [group] = group {
        enable_controllers(group.parent().unwrap_or(group))?;
        create(group)?;
        write(group, "memory.max", &memory)?;
        write(group, "pids.max", &processes)?;
        // Not there where the kernel counts no swap, or has none.
        let _ = write(group, "memory.swap.max", "0");
        return write(group, "memory.oom.group", "1");
    }
    for directory in group {
        create(directory)?;
        if directory.join("memory.limit_in_bytes").exists() {
            write(directory, "memory.limit_in_bytes", &memory)?;
            let _ = write(directory, "memory.swappiness", "0");
        } else {
            write(directory, "pids.max", &processes)?;
        }
    }
    Ok(())
}

fn create(group: &Path) -> Result<(), String> {
    match std::fs::create_dir(group) {
        // Both controllers of version 1 in one hierarchy.
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(format!("making {}: {error}", group.display()))
        }
        _ => Ok(()),
    }
}

fn write(group: &Path, file: &str, text: &str) -> Result<(), String> {
    let file = group.join(file);
    std::fs::write(&file, text).map_err(|error| format!("writing {}: {error}", file.display()))
}

/// The group of version 2 below which groups may be made.
fn handed_over(position: &GroupPosition) -> Result<PathBuf, String> {
    let own = position.directory();
    // Moved aside already, by an earlier drill of this process.
    let group = if own.ends_with(OWN) { own.parent().unwrap_or(&own).to_owned() } else { own };
    if group == position.mount || is_delegated(&group) {
        return Ok(group);
    }
    Err(format!(
        "control group {} is not handed over (in a systemd unit: Delegate=memory pids)",
        group.display()
    ))
}

/// Sees to it that groups below this one can have limits.
fn enable_controllers(group: &Path) -> Result<(), String> {
    let enabled = std::fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
    if CONTROLLERS.iter().all(|name| enabled.split_whitespace().any(|word| word == *name)) {
        return Ok(());
    }
    let mut outcome = write(group, "cgroup.subtree_control", "+memory +pids");
    // The host's own root may hold processes; every other group that has groups below it may not.
    // What is started meanwhile is moved, too.
    for _ in 0..MOVES_MAX {
        if outcome.is_ok() || !group.join("cgroup.type").exists() {
            break;
        }
        let aside = group.join(OWN);
        let _ = std::fs::create_dir(&aside);
        for process in
            std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines()
        {
            let _ = std::fs::write(aside.join("cgroup.procs"), process);
        }
        outcome = write(group, "cgroup.subtree_control", "+memory +pids");
    }
    outcome
}

fn is_delegated(group: &Path) -> bool {
    let mut value = [0_u8; 8];
    DELEGATED.iter().any(|name| {
        rustix::fs::getxattr(group, *name, &mut value)
            .is_ok_and(|length| value.get(..length) == Some(b"1".as_slice()))
    })
}

/// The files that a process writes `0` to, to move into a group.
#[must_use]
pub fn doors(group: &[PathBuf]) -> Vec<PathBuf> {
    group.iter().map(|directory| directory.join("cgroup.procs")).collect()
}

/// Removes a run's group. What still has processes stays, and is found by [`left`].
pub fn remove(group: &[PathBuf]) {
    for directory in left(group) {
        let _ = std::fs::remove_dir(directory);
    }
}

/// Processes that are in a run's group.
#[must_use]
pub fn members(group: &[PathBuf]) -> Vec<u32> {
    let lists =
        doors(&left(group)).into_iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let mut all: Vec<u32> = lists
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What is left of a group. Anything that is not the name of a sandbox's group is passed over,
/// whoever wrote it down.
#[must_use]
pub fn left(group: &[PathBuf]) -> Vec<PathBuf> {
    let ours = |path: &&PathBuf| {
        let named = path
            .file_name()
            .is_some_and(|name| name.as_bytes().starts_with(OF_A_SANDBOX.as_bytes()));
        named
            && path.components().all(|part| part != std::path::Component::ParentDir)
            && path.join("cgroup.procs").exists()
    };
    group.iter().filter(ours).cloned().collect()
}

/// Whether a process of the group was ended because the group's memory was used up.
#[must_use]
pub fn out_of_memory(group: &[PathBuf]) -> bool {
    // `oom_kill 1` in either version.
    let killed = |text: String| {
        text.lines()
            .any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    };
    let files = group.iter().flat_map(|directory| {
        ["memory.events", "memory.oom_control"].map(|name| directory.join(name))
    });
    files.filter_map(|file| std::fs::read_to_string(file).ok()).any(killed)
}

/// Where this process is, by what the kernel says of it and of what is mounted.
fn positions(own: &str, mounts: &str) -> Vec<GroupPosition> {
    let mounted: Vec<(Vec<&str>, PathBuf, PathBuf)> = mounts
        .lines()
        .filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let place: Vec<&str> = place.split(' ').collect();
            let mut kind = kind.split(' ');
            let (name, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
            let controllers = match name {
                "cgroup2" => Vec::new(),
                "cgroup" => options.split(',').collect(),
                _ => return None,
            };
            Some((controllers, PathBuf::from(place.get(3)?), PathBuf::from(place.get(4)?)))
        })
        .collect();
    let position = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let controllers: Vec<String> =
            names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let fits = |of: &[&str]| match controllers.first() {
            None => of.is_empty(),
            Some(first) => of.contains(&first.as_str()),
        };
        let (_, root, mount) = mounted.iter().find(|(of, ..)| fits(of))?;
        // A mount may show a part of the hierarchy only.
        let below = Path::new(path).strip_prefix(root).ok()?.to_owned();
        Some(GroupPosition { mount: mount.clone(), below, controllers })
    };
    own.lines().filter_map(position).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_finds_its_groups() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = positions("0::/system.slice/lifeboat.service\n", unified);
        assert_eq!(
            found.iter().map(GroupPosition::directory).collect::<Vec<_>>(),
            [Path::new("/sys/fs/cgroup/system.slice/lifeboat.service")]
        );
        // A container is shown a part; elsewhere the older version is in force, and the newer one
        // mounted beside it.
        let part = "1 2 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
        assert_eq!(
            positions("0::/docker/abc\n", part)[0].directory(),
            Path::new("/sys/fs/cgroup/")
        );
        assert!(positions("0::/other\n", part).is_empty());
        let older = "1 2 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n1 2 0:2 / /cg/p rw - cgroup cgroup rw,pids\n1 2 0:3 / /cg/u rw - cgroup2 x rw\n";
        let found = positions("4:memory:/a\n8:pids:/\n3:cpu:/\n0::/\n", older);
        let directories: Vec<PathBuf> = found.iter().map(GroupPosition::directory).collect();
        assert_eq!(
            directories,
            [Path::new("/cg/memory/a"), Path::new("/cg/p/"), Path::new("/cg/u/")]
        );
    }

    #[test]
    fn only_groups_of_sandboxes_are_ever_removed() {
        let directory = tempfile::tempdir().map(|d| d.keep()).unwrap_or_default();
        for name in ["lifeboat-sandbox-1", "other"] {
            let group = directory.join(name);
            assert!(
                std::fs::create_dir(&group).is_ok()
                    && std::fs::write(group.join("cgroup.procs"), "").is_ok()
            );
        }
        let asked = [
            directory.join("lifeboat-sandbox-1"),
            directory.join("other"),
            directory.join("../lifeboat-sandbox-1"),
        ];
        assert_eq!(left(&asked), [directory.join("lifeboat-sandbox-1")]);
        let _ = std::fs::remove_dir_all(directory);
    }
}

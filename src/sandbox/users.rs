//! The users of a sandbox: a pair of uids that nobody else on the host has, one for the server and
//! the next for its clients.

use std::path::{Path, PathBuf};

/// Uids that no system hands out: above those of systemd's containers and of directory services,
/// below those of its foreign images and what is negative in 32 bits.
const FREE: std::ops::Range<u32> = 0x7800_0000..0x7FFD_0000;
/// Where a user namespace maps few uids: above people's first ones, below those of Debian's
/// packages and systemd's services.
const FREE_AMONG_FEW: std::ops::Range<u32> = 30_000..60_000;
/// How often chance is asked for a pair that is free.
const TRIES: usize = 1000;

/// A pair of uids (and gids) that is free, by its first; none where this process cannot become
/// anybody else.
#[must_use]
pub fn free_pair(used: &dyn Fn(u32) -> bool) -> Option<u32> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let maps = [mapped(&read("/proc/self/uid_map")), mapped(&read("/proc/self/gid_map"))];
    let known: Vec<u32> = accounts(&read("/etc/passwd")).map(|(uid, _)| uid).collect();
    choose(&maps, &|uid| used(uid) || known.contains(&uid))
}

fn choose(maps: &[Vec<std::ops::Range<u64>>], used: &dyn Fn(u32) -> bool) -> Option<u32> {
    let is_mapped =
        |uid: u32| maps.iter().all(|map| map.iter().any(|range| range.contains(&u64::from(uid))));
    [FREE, FREE_AMONG_FEW].into_iter().find_map(|range| {
        let pairs = (range.end - range.start) / 2;
        let candidates =
            std::iter::repeat_with(|| range.start + 2 * (rand::random::<u32>() % pairs))
                .take(TRIES);
        candidates
            .into_iter()
            .find(|uid| [*uid, uid + 1].into_iter().all(|one| is_mapped(one) && !used(one)))
    })
}

/// Whether a uid can be one of a sandbox, whoever says so.
#[must_use]
pub fn can_be(uid: u32) -> bool {
    FREE.contains(&uid) || FREE_AMONG_FEW.contains(&uid)
}

/// Which ids this process's user namespace has.
fn mapped(map: &str) -> Vec<std::ops::Range<u64>> {
    let range = |line: &str| {
        let mut fields = line.split_whitespace().map(str::parse::<u64>);
        let (first, _, count) = (fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?);
        Some(first..first.saturating_add(count))
    };
    map.lines().filter_map(range).collect()
}

/// Uids and shells of accounts.
fn accounts(passwd: &str) -> impl Iterator<Item = (u32, &str)> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, *fields.get(6)?))
    })
}

/// The uid of an account that nobody logs in to and that nothing runs under.
#[must_use]
pub fn idle_account(used: &dyn Fn(u32) -> bool) -> Option<u32> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let idle = |(uid, shell): &(u32, &str)| {
        *uid != 0 && (shell.ends_with("/nologin") || shell.ends_with("/false")) && !used(*uid)
    };
    accounts(&passwd).find(idle).map(|(uid, _)| uid)
}

/// Whether a uid has an account.
#[must_use]
pub fn has_account(uid: u32) -> bool {
    accounts(&std::fs::read_to_string("/etc/passwd").unwrap_or_default())
        .any(|(known, _)| known == uid)
}

/// The library that gives a process an account of its own (`libnss-wrapper` of Debian), where it is
/// installed.
#[must_use]
pub fn name_wrapper() -> Option<PathBuf> {
    let directories = ["/usr/lib64", "/usr/lib"].into_iter().map(PathBuf::from);
    let of_architecture =
        Path::new("/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    directories
        .chain([of_architecture])
        .map(|directory| directory.join("libnss_wrapper.so"))
        .find(|library| library.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_those_that_are_mapped_and_that_nobody_has() {
        let everything = mapped("         0          0 4294967295\n");
        let uid = choose(&[everything.clone(), everything.clone()], &|_| false).unwrap_or_default();
        assert!(FREE.contains(&uid) && uid.is_multiple_of(2), "{uid}");
        // A container of 65,536: what it has.
        let few = mapped("0 100000 65536\n");
        let uid = choose(&[few.clone(), everything], &|_| false).unwrap_or_default();
        assert!(FREE_AMONG_FEW.contains(&uid), "{uid}");
        assert!(choose(&[few], &|_| true).is_none(), "all are used");
        // One of two parts; only oneself.
        assert!(choose(&[mapped("0 1000 1\n1 100000 65536\n")], &|_| false).is_some());
        assert!(choose(&[mapped("1000 1000 1\n")], &|_| false).is_none());
    }

    #[test]
    fn accounts_are_read() {
        let passwd = "root:x:0:0::/root:/bin/bash\nbroken\ndaemon:x:1:1::/:/usr/sbin/nologin\n";
        assert_eq!(
            accounts(passwd).collect::<Vec<_>>(),
            [(0, "/bin/bash"), (1, "/usr/sbin/nologin")]
        );
    }
}

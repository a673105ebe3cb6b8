//! The seccomp filter of a sandbox.
//!
//! What is restored runs as the superuser of its server, so it can run any program. It has no
//! capabilities; the filter closes what needs none: user namespaces (in which it would have all
//! capabilities), socket families that no namespace isolates, keyrings of the invoking user, and
//! interfaces in which most kernel holes of recent years were found.
//!
//! A deny list, not an allow list: servers, extensions and a team's own checks must work as they do
//! outside.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// System calls that are refused to every process of a sandbox, whatever their arguments.
const REFUSED: [i64; 23] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_open_by_handle_at,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_fanotify_init,
];
/// Further ones, which the first process needs to show a volume.
const MOUNTING: [i64; 10] = [
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
];
/// Families of sockets that may be made: within a process namespace, over the network that is cut
/// off, and what the C library asks the kernel for addresses with.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Protocols that bring modules of the kernel along, whatever the family: DCCP, SCTP, MPTCP.
const PROTOCOLS_REFUSED: [i32; 3] = [33, 132, 262];
/// Of x32, calls that have other numbers there: ioctl, ptrace, kexec_load, process_vm_readv,
/// process_vm_writev.
const OF_X32: [i64; 5] = [514, 521, 528, 539, 540];
/// On x86-64, the other way to number the same system calls (x32).
const X32: i64 = 0x4000_0000;

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterAudience {
    /// The first process: it goes on to mount volumes.
    FirstProcess,
    /// Everything else.
    Everybody,
}

/// Puts the filter on this thread and on everything that it starts, for good.
///
/// # Errors
/// Why the kernel does not take it, in words.
pub fn apply(to: FilterAudience) -> Result<(), String> {
    let fail = |error: seccompiler::Error| format!("system calls cannot be filtered here: {error}");
    let programs = programs(to)
        .map_err(|error| format!("the filter of system calls cannot be made: {error}"))?;
    programs.iter().try_for_each(|program| seccompiler::apply_filter(program).map_err(fail))
}

/// One filter for each answer: what may not be is not permitted; `clone3` is not there, since its
/// flags cannot be seen, and the C library takes `clone` then.
fn programs(to: FilterAudience) -> Result<[BpfProgram; 2], BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let answers =
        |rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32| -> Result<BpfProgram, BackendError> {
            let refused = SeccompAction::Errno(errno.unsigned_abs());
            SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture)?.try_into()
        };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.into_iter().map(|call| (call, Vec::new())).collect();
    if to == FilterAudience::Everybody {
        rules.extend(MOUNTING.into_iter().map(|call| (call, Vec::new())));
    }
    let new_user = u64::try_from(libc::CLONE_NEWUSER).unwrap_or_default();
    let has_new_user = |argument| condition(argument, SeccompCmpOp::MaskedEq(new_user), new_user);
    for (call, argument) in [(libc::SYS_clone, 0), (libc::SYS_unshare, 0), (libc::SYS_setns, 1)] {
        rules.insert(call, vec![SeccompRule::new(vec![has_new_user(argument)?])?]);
    }
    let foreign = FAMILIES
        .iter()
        .map(|family| condition(0, SeccompCmpOp::Ne, u64::from(family.unsigned_abs())));
    let foreign = SeccompRule::new(foreign.collect::<Result<_, _>>()?)?;
    // The C library asks the kernel for addresses over netlink's first protocol; the others are
    // doors of their own.
    let netlink = condition(0, SeccompCmpOp::Eq, u64::from(libc::AF_NETLINK.unsigned_abs()))?;
    let other_netlink = SeccompRule::new(vec![netlink, condition(2, SeccompCmpOp::Ne, 0)?])?;
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let mut refused = vec![foreign.clone(), other_netlink.clone()];
        for protocol in PROTOCOLS_REFUSED {
            refused.push(SeccompRule::new(vec![condition(
                2,
                SeccompCmpOp::Eq,
                u64::from(protocol.unsigned_abs()),
            )?])?);
        }
        rules.insert(call, refused);
    }
    // Words put into somebody's terminal.
    let typed = |request: u64| SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, request)?]);
    rules.insert(libc::SYS_ioctl, vec![typed(libc::TIOCSTI)?, typed(libc::TIOCLINUX)?]);
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([answers(both_numbers(rules), libc::EPERM)?, answers(both_numbers(absent), libc::ENOSYS)?])
}

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn both_numbers(mut rules: BTreeMap<i64, Vec<SeccompRule>>) -> BTreeMap<i64, Vec<SeccompRule>> {
    if cfg!(target_arch = "x86_64") {
        let other: Vec<_> = rules.iter().map(|(call, rules)| (call | X32, rules.clone())).collect();
        rules.extend(other);
        rules.extend(OF_X32.into_iter().map(|call| (call | X32, Vec::new())));
    }
    rules
}

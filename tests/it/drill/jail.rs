//! What a sandbox keeps its programs from, and how that is shown: tried as its very users, beside
//! the same from outside.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat::sandbox::{ProbeTarget, probe::probe};
use serde_json::Value;

use crate::support::home::{finish, out};
use crate::support::{Rehearsal, eventually};

const DRILL: [&str; 3] = ["drill", "nightly", "--json"];
/// Docker's default: root that may make no namespaces.
const WITHOUT_SYS_ADMIN: [&str; 5] = [
    "/usr/bin/setpriv",
    "--bounding-set=-sys_admin",
    "--inh-caps=-all",
    "--",
    env!("CARGO_BIN_EXE_lifeboat"),
];
/// Somebody with an account on this host, and no more.
const AS_NOBODY: [&str; 4] = ["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"];

/// Tries doors of the kernel that need no capability; one line for each.
const DOORS: &str = r#"
import ctypes, errno, os, socket, sys, resource
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    ctypes.set_errno(0)
    answer = libc.syscall(number, *arguments)
    error = ctypes.get_errno()
    print(name, "ok" if answer != -1 else errno.errorcode[error])
    if name.startswith("shm") and answer != -1:
        libc.syscall(31, answer, 0, 0)
def family(name, number):
    try:
        socket.socket(number, socket.SOCK_DGRAM if number != 38 else socket.SOCK_SEQPACKET).close()
        print(name, "ok")
    except OSError as error:
        print(name, errno.errorcode[error.errno])
child = os.fork()
if child == 0:
    call("user-namespace", 272, 0x10000000)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
call("clone3", 435, 0, 0)
call("keyctl", 250, 0, -3, 0)
call("io_uring", 425, 0, 0)
call("bpf", 321, 0, 0, 0)
call("ptrace", 101, 16, 0, 0, 0)
family("vsock", 40)
family("alg", 38)
family("inet", 2)
family("unix", 1)
call("shm-128MiB", 29, 0, 128 * 1024 * 1024, 0o1600)
call("shm-1MiB", 29, 0, 1024 * 1024, 0o1600)
print("uid", "in-range" if 0x78000000 <= os.getuid() < 0x7FFE0000 else os.getuid())
print("core", resource.getrlimit(resource.RLIMIT_CORE)[0])
"#;

const IN_A_SANDBOX: [&str; 14] = [
    "user-namespace EPERM",
    "clone3 ENOSYS",
    "keyctl EPERM",
    "io_uring EPERM",
    "bpf EPERM",
    "ptrace EPERM",
    "vsock EPERM",
    "alg EPERM",
    "inet ok",
    "unix ok",
    "shm-128MiB EINVAL",
    "shm-1MiB ok",
    "uid in-range",
    "core 1",
];

#[test]
fn the_kernels_doors_are_closed_to_servers_and_clients_alike() {
    let r = Rehearsal::new();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, DOORS);
    let client = format!("import base64; exec(base64.b64decode('{encoded}'))");
    // The same program outside: what is refused inside is not refused by what is wrong with the
    // program.
    let outside = Command::new("python3").args(["-c", &client]).output().unwrap();
    let outside = String::from_utf8_lossy(&outside.stdout).into_owned();
    for open in ["user-namespace ok", "shm-128MiB ok"] {
        assert!(outside.lines().any(|line| line == open), "{outside}");
    }
    assert!(!outside.contains("keyctl EPERM") && !outside.contains("clone3 ENOSYS"), "{outside}");
    let wanted = IN_A_SANDBOX.join("\\n");
    r.script(&format!(
        "\n\n[[checks]]\nkind = \"fingerprint\"\n\
         [[checks]]\nkind = \"command\"\nname = \"as-client\"\ncommand = [\"/bin/sh\", \"-c\", \"python3 -c \\\"$0\\\" > /home/client/doors; cat /home/client/doors >&2; test \\\"$(cat /home/client/doors)\\\" = \\\"$(printf '{wanted}')\\\"\", \"{client}\"]\n\
         [[checks]]\nkind = \"sql\"\nname = \"as-server\"\nquery = \"SELECT rtrim(pg_read_file('/tmp/doors'), chr(10))\"\nis = \"{wanted}\"\n"
    ));
    r.plan(&format!(
        "after = [\"\"\"COPY (SELECT '') TO PROGRAM 'echo {} | base64 -d > /tmp/doors.py; python3 /tmp/doors.py > /tmp/doors'\"\"\"]",
        encoded
    ));
    r.home.backup();
    let out = r.home.run(&["drill", "nightly"]);
    assert_eq!(out.code, 0, "{out:?}");
}

/// What lifeboat was started with, such as a lock of cron's, goes no further: an open directory of
/// the host would be the way out.
#[test]
fn descriptors_that_lifeboat_inherited_do_not_get_into_the_sandbox() {
    let r = Rehearsal::new();
    r.script(
        "\n\n[[checks]]\nkind = \"fingerprint\"\n[[checks]]\nkind = \"command\"\nname = \"descriptors\"\ncommand = [\"/bin/sh\", \"-c\", \"ls -l /proc/self/fd >&2; ! test -e /proc/self/fd/9\"]\n",
    );
    r.plan("after = [\"\"\"COPY (SELECT '') TO PROGRAM 'ls /proc/self/fd/ > /tmp/fds; ! test -e /proc/self/fd/9'\"\"\"]");
    r.home.backup();
    let with_one = ["bash", "-c", "exec 9</; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_lifeboat")];
    r.reported(&finish(r.home.command_by(&with_one, &DRILL)), 0);
}

/// Somebody else of the host was there first, or writes the run's name into their own arguments.
#[test]
fn a_stranger_cannot_prepare_stop_or_spoil_a_sandbox() {
    let r = Rehearsal::new();
    r.script("");
    let state = r.home.path("catalog.sandboxes");
    std::fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    let report = r.report(9);
    assert!(
        report["halt"]["why"].as_str().unwrap().contains("make its state directory"),
        "{report:#}"
    );
    std::fs::remove_dir(&state).unwrap();
    let (drill, go_on) = r.loaded_and_waiting();
    let run = r.sandbox().unwrap().file_name().unwrap().to_owned();
    let mut stranger = Command::new("setpriv")
        .args(AS_NOBODY)
        .args(["sh", "-c", "sleep 60; true", "sandbox-first-process"])
        .arg(run)
        .spawn()
        .unwrap();
    std::fs::write(go_on, "").unwrap();
    r.reported(&out(&drill.wait_with_output().unwrap()), 0);
    assert!(stranger.try_wait().unwrap().is_none(), "a stranger's process was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

/// A socket that takes no connection keeps whoever connects waiting, for ever.
#[test]
fn a_socket_whose_queue_is_full_keeps_no_probe_waiting_and_counts_as_reached() {
    let directory = crate::support::directory();
    let path = directory.path().join("full");
    let full = "import socket, sys, time\ns = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(0)\n\
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]\n\
        for one in waiting:\n  one.setblocking(False)\n  one.connect_ex(sys.argv[1])\nprint('full', flush=True); time.sleep(60)";
    let mut holder = Command::new("python3")
        .args(["-c", full])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.take().unwrap()),
        &mut said,
    )
    .unwrap();
    let begun = Instant::now();
    let found = probe(ProbeTarget::Socket(path.to_str().unwrap().to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(found.reached && found.detail.contains("takes no connection"), "{found:?}");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn what_cannot_be_reached_inside_can_be_reached_beside_it_and_what_must_be_there_is() {
    let r = Rehearsal::new();
    // A program that only root may read: the probes start it all the same, as users of the sandbox.
    let program = r.home.program();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    r.script("");
    let report = r.reported(&finish(r.home.command_by(&[&program], &DRILL)), 0);
    let isolation = &report["isolation"];
    let probes = isolation["probes"].as_array().unwrap();
    let controls = isolation["controls"].as_array().unwrap();
    assert!(probes.iter().all(|probe| probe["reached"] == false), "{isolation:#}");
    assert!(controls.iter().all(|probe| probe["reached"] == true), "{isolation:#}");
    // The beacons, this host's processes and its key files were there for whoever is not in the
    // sandbox.
    let outside = |kind: &str| {
        probes
            .iter()
            .filter(|probe| probe["tried"]["kind"] == kind && probe["outside"] == true)
            .count()
    };
    for kind in ["tcp", "hidden", "file", "processes", "interfaces"] {
        assert!(outside(kind) > 0, "{kind}: {isolation:#}");
    }
    let named: Vec<&str> =
        controls.iter().filter_map(|probe| probe["tried"]["of"].as_str()).collect();
    assert!(
        named.contains(&"localhost") && named.contains(&"/run/postgres/.s.PGSQL.5432"),
        "{named:?}"
    );
}

#[test]
fn probes_that_find_nothing_anywhere_prove_nothing() {
    let r = Rehearsal::new();
    r.script("");
    // A host whose own loopback is down: nothing can be reached over TCP from anywhere.
    let report = r.reported(
        &finish(
            r.home.command_by(&["unshare", "--net", "--", env!("CARGO_BIN_EXE_lifeboat")], &DRILL),
        ),
        9,
    );
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(why.contains("what must be reached was not"), "{why}");
    assert_eq!(report["halt"]["at-fault"], "sandbox");
}

#[test]
fn memory_has_a_limit_where_there_are_control_groups_and_the_sandbox_is_at_fault() {
    let r = Rehearsal::new();
    // The limit is 512 MiB of files, 1 GiB beside them, 64 MiB shared.
    r.script(
        "\n\n[[checks]]\nkind = \"fingerprint\"\n[[checks]]\nkind = \"command\"\nname = \"greedy\"\ncommand = [\"/usr/bin/python3\", \"-c\", \"b'x' * (2500 << 20)\"]\n",
    );
    let out = r.home.run(&["drill", "nightly", "--json"]);
    let last: Value = serde_json::from_str(out.stdout.lines().last().unwrap()).unwrap();
    let report = &last["report"];
    let holds = report["isolation"]["holds"].to_string();
    if holds.contains("no limit of memory for its processes but the host's: ") {
        // No group can be made here, and the report says why.
        assert_eq!(out.code, 0, "{report:#}");
        return;
    }
    assert!(holds.contains("a control group: at most 1677721600 bytes"), "{holds}");
    assert_eq!((out.code, &report["verdict"]), (9, &Value::from("NOT_VERIFIED")), "{report:#}");
    assert!(
        report["reasons"]
            .to_string()
            .contains("its memory was used up (size_mib in the drill file)"),
        "{report:#}"
    );
    r.assert_nothing_is_left();
}

/// All that a sandbox without namespaces can lack.
const GAPS: &str = "accept_gaps = [\"network\", \"files\", \"processes\", \"uid\", \"size\"]";

/// Docker's default: root without the right to make namespaces. The server has a uid of its own
/// that has no name anywhere.
#[test]
fn root_without_the_right_to_make_namespaces_has_a_sandbox_that_nobody_else_gets_into() {
    let r = Rehearsal::new();
    r.script(GAPS);
    let (drill, go_on) = r.loaded_and_waiting_by(r.home.command_by(&WITHOUT_SYS_ADMIN, &DRILL));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", drill.id())).unwrap();
    let core: Vec<&str> = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(core[4..6], ["1", "1"], "a crash would leave keys and rows on a disk");
    // Somebody with an account on this host, while the restored data is there. Root shows that each
    // attempt is one.
    let run = r.sandbox().unwrap();
    let socket = run.join("root/run/postgres");
    let lease_uid = u32::try_from(r.lease().unwrap()["uid"].as_u64().unwrap()).unwrap();
    let of_server =
        |entry: &std::fs::DirEntry| entry.metadata().is_ok_and(|facts| facts.uid() == lease_uid);
    let process = std::fs::read_dir("/proc").unwrap().flatten().find(of_server).unwrap().path();
    let attempts = [
        format!(
            "psql -h {} -U postgres -d db -Atc 'SELECT count(*) FROM patients'",
            socket.display()
        ),
        format!("ls {}", run.display()),
        format!("ls {}", socket.display()),
        format!("cat {}", run.join("lease.json").display()),
        format!("ls {}", run.join("root/data").display()),
        format!("ls {}", run.join("root/home/client").display()),
        format!("kill -0 {}", process.file_name().unwrap().display()),
        format!("cat {}/environ", process.display()),
        format!("ls {}/root/", process.display()),
    ];
    for attempt in &attempts {
        let tried = |who: &[&str]| {
            Command::new("setpriv")
                .args(who)
                .args(["sh", "-c", attempt])
                .stdin(Stdio::null())
                .output()
                .unwrap()
        };
        assert!(tried(&["--"]).status.success(), "{attempt}: {:?}", tried(&["--"]));
        let stranger = tried(&AS_NOBODY);
        assert!(
            !stranger.status.success(),
            "{attempt}: {}",
            String::from_utf8_lossy(&stranger.stdout)
        );
    }
    std::fs::write(go_on, "").unwrap();
    let report = r.reported(&out(&drill.wait_with_output().unwrap()), 0);
    assert_eq!(report["verdict"], "PASS", "{report:#}");
    assert_eq!(
        report["isolation"]["gaps"],
        serde_json::json!(["network", "files", "processes", "size"])
    );
    // Nothing of its shared memory stays on the host.
    let uid = lease_uid.to_string();
    let of_uid = |line: &str| line.split_whitespace().any(|word| word == uid);
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    assert!(!segments.lines().any(of_uid), "{segments}");
    assert_eq!(std::fs::read_dir("/dev/shm").unwrap().flatten().filter(of_server).count(), 0);
}

#[test]
fn check_says_beforehand_which_sandbox_this_host_gives() {
    let r = Rehearsal::new();
    r.script("");
    let out = r.home.run(&["check"]);
    assert!(out.stdout.contains("namespaces of its own, system calls filtered"), "{out:?}");
    let check = || finish(r.home.command_by(&WITHOUT_SYS_ADMIN, &["check", "--json"]));
    let out = check();
    assert_eq!(out.code, 0, "{out:?}");
    for words in [
        "it has gaps network, files, processes, size",
        "drills that do not accept it end NOT_VERIFIED: nightly",
    ] {
        assert!(out.stdout.contains(words), "{words}: {out:?}");
    }
    r.script(GAPS);
    assert!(check().stdout.contains("every drill accepts that"));
    r.assert_nothing_is_left();
}

/// OpenShift and `docker run --user`: a uid that nobody knows by name.
#[test]
fn a_user_without_an_account_drills_with_a_name_of_its_own() {
    let r = Rehearsal::new();
    r.script(GAPS);
    let program = r.home.program();
    let own =
        Command::new("chown").args(["-R", "1234567:0"]).arg(r.home.path("")).status().unwrap();
    assert!(own.success());
    let words = [
        "/usr/bin/setpriv",
        "--reuid=1234567",
        "--regid=0",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
        "--",
        &program,
    ];
    assert_eq!(r.reported(&finish(r.home.command_by(&words, &DRILL)), 0)["verdict"], "PASS");
}

/// Rootless podman, LXC, Kubernetes with user namespaces: root among 65,536 ids.
#[test]
fn among_65536_ids_the_sandbox_takes_users_that_are_there() {
    let r = Rehearsal::new();
    r.script("");
    let mut holder = Command::new("unshare").args(["--user", "sleep", "300"]).spawn().unwrap();
    let process = format!("/proc/{}", holder.id());
    let host = std::fs::read_link("/proc/self/ns/user").unwrap();
    eventually("it has its namespace", || {
        std::fs::read_link(format!("{process}/ns/user")).is_ok_and(|own| own != host)
    });
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("{process}/{map}"), "0 0 1\n1 100001 65535\n").unwrap();
    }
    let (program, user) = (r.home.program(), format!("--user={process}/ns/user"));
    let out = finish(r.home.command_by(&["nsenter", &user, "--", &program], &DRILL));
    holder.kill().unwrap();
    holder.wait().unwrap();
    let report = r.reported(&out, 0);
    assert_eq!(report["verdict"], "PASS", "{report:#}");
    assert_eq!(report["isolation"]["gaps"], serde_json::json!([]), "{report:#}");
}

/// A package upgrade replaces the program under a drill.
#[test]
fn an_upgrade_in_the_middle_of_a_drill_does_not_disturb_it() {
    let r = Rehearsal::new();
    r.script("");
    let program = r.home.program();
    let (drill, go_on) = r.loaded_and_waiting_by(r.home.command_by(&[&program], &DRILL));
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "#!/bin/sh\nexit 99\n").unwrap();
    std::fs::write(go_on, "").unwrap();
    r.reported(&out(&drill.wait_with_output().unwrap()), 0);
}

#[test]
fn a_drill_file_can_accept_every_gap_that_there_is() {
    let gaps = lifeboat::sandbox::IsolationGap::ALL.map(|(name, _)| name);
    assert_eq!(gaps, lifeboat::config::plans::GAPS);
}

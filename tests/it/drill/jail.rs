//! What a sandbox keeps its programs from, and how that is shown: tried as its very users, beside the same from outside.

use std::process::Stdio;

use serde_json::Value;

use crate::support::home::finish;
use crate::support::{Rehearsal, eventually};

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
    // The same program outside: what is refused inside is not refused by what is wrong with the program.
    let outside = std::process::Command::new("python3").args(["-c", &client]).output().unwrap();
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

/// What lifeboat was started with, such as a lock of cron's, goes no further: an open directory of the host would be the way out.
#[test]
fn descriptors_that_lifeboat_inherited_do_not_get_into_the_sandbox() {
    let r = Rehearsal::new();
    r.script(
        "\n\n[[checks]]\nkind = \"fingerprint\"\n[[checks]]\nkind = \"command\"\nname = \"descriptors\"\ncommand = [\"/bin/sh\", \"-c\", \"ls -l /proc/self/fd >&2; ! test -e /proc/self/fd/9\"]\n",
    );
    r.plan("after = [\"\"\"COPY (SELECT '') TO PROGRAM 'ls /proc/self/fd/ > /tmp/fds; ! test -e /proc/self/fd/9'\"\"\"]");
    r.home.backup();
    let mut command = std::process::Command::new("bash");
    command.args(["-c", "exec 9</; exec \"$0\" drill nightly --json", env!("CARGO_BIN_EXE_lifeboat")]);
    command.env("LIFEBOAT_CONFIG", r.home.path("lifeboat.toml"));
    let out = finish(command);
    assert_eq!(out.code, 0, "{out:?}");
}

/// Somebody else of the host was there first, or writes the run's name into their own arguments, or keeps a socket's queue full.
#[test]
fn a_stranger_cannot_prepare_stop_or_spoil_a_sandbox() {
    let r = Rehearsal::new();
    r.script("");
    let state = r.home.path("catalog.sandboxes");
    std::fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
    let report = r.report(9);
    assert!(report["halt"]["why"].as_str().unwrap().contains("make its state directory"), "{report:#}");
    std::fs::remove_dir(&state).unwrap();
    let go_on = r.home.path("go-on");
    let mut command = r.home.command(&["drill", "nightly", "--json"]);
    command.env("LIFEBOAT_WAITPOINT", format!("drill-loaded={}", go_on.display()));
    let drill = command.spawn().unwrap();
    eventually("the drill has loaded", || r.home.path("go-on.reached").exists());
    let run = std::fs::read_dir(&state).unwrap().flatten().next().unwrap().file_name().into_string().unwrap();
    let mut stranger = std::process::Command::new("setpriv")
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", "sh", "-c", "sleep 60; true", "sandbox-first-process", &run])
        .spawn()
        .unwrap();
    std::fs::write(go_on, "").unwrap();
    let out = drill.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stdout));
    assert!(stranger.try_wait().unwrap().is_none(), "a stranger's process was killed");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn what_cannot_be_reached_inside_can_be_reached_beside_it_and_what_must_be_there_is() {
    let r = Rehearsal::new();
    // A program that only root may read: the probes start it all the same, as users of the sandbox.
    let program = r.home.path("lifeboat");
    std::fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &program).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    r.script("");
    let mut command = std::process::Command::new(&program);
    command.args(["drill", "nightly", "--json"]).env("LIFEBOAT_CONFIG", r.home.path("lifeboat.toml"));
    let out = finish(command);
    assert_eq!(out.code, 0, "{out:?}");
    let last: Value = serde_json::from_str(out.stdout.lines().last().unwrap()).unwrap();
    let isolation = &last["report"]["isolation"];
    let probes = isolation["probes"].as_array().unwrap();
    let controls = isolation["controls"].as_array().unwrap();
    assert!(probes.iter().all(|probe| probe["reached"] == false), "{isolation:#}");
    assert!(controls.iter().all(|probe| probe["reached"] == true), "{isolation:#}");
    // The beacons, this host's processes and its key files were there for whoever is not in the sandbox.
    let outside = |kind: &str| probes.iter().filter(|probe| probe["tried"]["kind"] == kind && probe["outside"] == true).count();
    for kind in ["tcp", "hidden", "file", "processes", "interfaces"] {
        assert!(outside(kind) > 0, "{kind}: {isolation:#}");
    }
    let named: Vec<&str> = controls.iter().filter_map(|probe| probe["tried"]["of"].as_str()).collect();
    assert!(named.contains(&"localhost") && named.contains(&"/run/postgres/.s.PGSQL.5432"), "{named:?}");
}

#[test]
fn probes_that_find_nothing_anywhere_prove_nothing() {
    let r = Rehearsal::new();
    r.script("");
    // A host whose own loopback is down: nothing can be reached over TCP from anywhere.
    let mut command = std::process::Command::new("unshare");
    command.args(["--net", "--", env!("CARGO_BIN_EXE_lifeboat"), "drill", "nightly", "--json"]);
    command.env("LIFEBOAT_CONFIG", r.home.path("lifeboat.toml"));
    let out = finish(command);
    assert_eq!(out.code, 9, "{out:?}");
    let last: Value = serde_json::from_str(out.stdout.lines().last().unwrap()).unwrap();
    let why = last["report"]["halt"]["why"].as_str().unwrap();
    assert!(why.contains("what must be reached was not"), "{why}");
    assert_eq!(last["report"]["halt"]["at-fault"], "sandbox");
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
    assert!(report["reasons"].to_string().contains("its memory was used up (size_mib in the drill file)"), "{report:#}");
    r.assert_nothing_is_left();
}

/// All that a sandbox without namespaces can lack.
const GAPS: &str = "accept_gaps = [\"network\", \"files\", \"processes\", \"uid\", \"size\"]";

/// Docker's default: root without the right to make namespaces. The server has a uid of its own that has no name anywhere.
#[test]
fn root_without_the_right_to_make_namespaces_has_a_sandbox_that_nobody_else_gets_into() {
    let r = Rehearsal::new();
    r.script(GAPS);
    let go_on = r.home.path("go-on");
    let mut command = std::process::Command::new("/usr/bin/setpriv");
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-all", "--", env!("CARGO_BIN_EXE_lifeboat"), "drill", "nightly", "--json"]);
    command.env("LIFEBOAT_CONFIG", r.home.path("lifeboat.toml")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("LIFEBOAT_WAITPOINT", format!("drill-loaded={}", go_on.display()));
    let drill = command.spawn().unwrap();
    eventually("the drill has loaded", || r.home.path("go-on.reached").exists());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", drill.id())).unwrap();
    let core: Vec<&str> = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap().split_whitespace().collect();
    assert_eq!(core[4..6], ["1", "1"], "a crash would leave keys and rows on a disk");
    // Somebody with an account on this host, while the restored data is there.
    let state = r.home.path("catalog.sandboxes");
    let run = std::fs::read_dir(&state).unwrap().flatten().next().unwrap().path();
    let socket = run.join("root/run/postgres");
    let lease: Value = serde_json::from_slice(&std::fs::read(run.join("lease.json")).unwrap()).unwrap();
    let lease_uid = u32::try_from(lease["uid"].as_u64().unwrap()).unwrap();
    assert!(socket.join(".s.PGSQL.5432").exists());
    let attempts = [
        format!("psql -h {} -U postgres -d db -Atc 'SELECT count(*) FROM patients'", socket.display()),
        format!("ls {}", run.display()),
        format!("ls {}", socket.display()),
        format!("cat {}", run.join("lease.json").display()),
        format!("ls {}", run.join("root/data").display()),
        format!("ls {}", run.join("root/home/client").display()),
        format!("kill -9 $(pgrep -f {})", run.display()),
        format!("cat /proc/$(pgrep -f {} | head -n 1)/environ", run.display()),
        format!("ls /proc/$(pgrep -f {} | head -n 1)/root/", run.display()),
    ];
    for attempt in &attempts {
        let tried = std::process::Command::new("setpriv")
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--", "sh", "-c", attempt])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!tried.status.success(), "{attempt}: {}", String::from_utf8_lossy(&tried.stdout));
    }
    std::fs::write(go_on, "").unwrap();
    let out = drill.wait_with_output().unwrap();
    let last: Value = serde_json::from_str(String::from_utf8_lossy(&out.stdout).lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&out.stderr)));
    let report = &last["report"];
    assert_eq!((out.status.code(), &report["verdict"]), (Some(0), &Value::from("PASS")), "{report:#}");
    assert_eq!(report["isolation"]["gaps"], serde_json::json!(["network", "files", "processes", "size"]));
    // Nothing of its shared memory stays on the host.
    let uid = lease_uid.to_string();
    let of_uid = |line: &str| line.split_whitespace().any(|word| word == uid);
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    assert!(!segments.lines().any(of_uid), "{segments}");
    let files = std::fs::read_dir("/dev/shm").unwrap().flatten();
    assert_eq!(files.filter(|file| file.metadata().is_ok_and(|facts| std::os::unix::fs::MetadataExt::uid(&facts) == lease_uid)).count(), 0);
    r.assert_nothing_is_left();
}

#[test]
fn check_says_beforehand_which_sandbox_this_host_gives() {
    let r = Rehearsal::new();
    r.script("");
    let out = r.home.run(&["check"]);
    assert!(out.stdout.contains("namespaces of its own, system calls filtered"), "{out:?}");
    let mut command = std::process::Command::new("/usr/bin/setpriv");
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-all", "--", env!("CARGO_BIN_EXE_lifeboat"), "check", "--json"]);
    command.env("LIFEBOAT_CONFIG", r.home.path("lifeboat.toml"));
    let out = finish(command);
    assert_eq!(out.code, 0, "{out:?}");
    for words in ["it has gaps network, files, processes, size", "drills that do not accept it end NOT_VERIFIED: nightly"] {
        assert!(out.stdout.contains(words), "{words}: {out:?}");
    }
    r.script(GAPS);
    let mut command = std::process::Command::new("/usr/bin/setpriv");
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-all", "--", env!("CARGO_BIN_EXE_lifeboat"), "check", "--json"]);
    command.env("LIFEBOAT_CONFIG", r.home.path("lifeboat.toml"));
    assert!(finish(command).stdout.contains("every drill accepts that"));
    r.assert_nothing_is_left();
}

/// OpenShift and `docker run --user`: a uid that nobody knows by name.
#[test]
fn a_user_without_an_account_drills_with_a_name_of_its_own() {
    let r = Rehearsal::new();
    r.script(GAPS);
    let own = std::process::Command::new("chown").args(["-R", "1234567:0"]).arg(r.home.path("")).status().unwrap();
    assert!(own.success());
    let mut command = std::process::Command::new("/usr/bin/setpriv");
    command.args(["--reuid=1234567", "--regid=0", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
    let program = r.home.path("lifeboat");
    std::fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &program).unwrap();
    command.arg(&program).args(["drill", "nightly", "--json"]).env("LIFEBOAT_CONFIG", r.home.path("lifeboat.toml"));
    let out = finish(command);
    let last: Value = serde_json::from_str(out.stdout.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{out:?}"));
    assert_eq!((out.code, &last["report"]["verdict"]), (0, &Value::from("PASS")), "{out:?}");
    r.assert_nothing_is_left();
}

/// Rootless podman, LXC, Kubernetes with user namespaces: root among 65,536 ids.
#[test]
fn among_65536_ids_the_sandbox_takes_users_that_are_there() {
    let r = Rehearsal::new();
    r.script("");
    let program = r.home.path("lifeboat");
    std::fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &program).unwrap();
    let mut holder = std::process::Command::new("unshare").args(["--user", "sleep", "300"]).spawn().unwrap();
    let process = format!("/proc/{}", holder.id());
    let host = std::fs::read_link("/proc/self/ns/user").unwrap();
    eventually("it has its namespace", || std::fs::read_link(format!("{process}/ns/user")).is_ok_and(|own| own != host));
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("{process}/{map}"), "0 0 1\n1 100001 65535\n").unwrap();
    }
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--user={process}/ns/user")).arg("--").arg(&program).args(["drill", "nightly", "--json"]);
    command.env("LIFEBOAT_CONFIG", r.home.path("lifeboat.toml"));
    let out = finish(command);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let last: Value = serde_json::from_str(out.stdout.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{out:?}"));
    let report = &last["report"];
    assert_eq!((out.code, &report["verdict"]), (0, &Value::from("PASS")), "{report:#}");
    assert_eq!(report["isolation"]["gaps"], serde_json::json!([]), "{report:#}");
    r.assert_nothing_is_left();
}

/// A package upgrade replaces the program under a drill.
#[test]
fn an_upgrade_in_the_middle_of_a_drill_does_not_disturb_it() {
    let r = Rehearsal::new();
    r.script("");
    let program = r.home.path("lifeboat");
    std::fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &program).unwrap();
    let go_on = r.home.path("go-on");
    let mut command = std::process::Command::new(&program);
    command.args(["drill", "nightly", "--json"]).env("LIFEBOAT_CONFIG", r.home.path("lifeboat.toml"));
    command.env("LIFEBOAT_WAITPOINT", format!("drill-loaded={}", go_on.display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let drill = command.spawn().unwrap();
    eventually("the drill has loaded", || r.home.path("go-on.reached").exists());
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "#!/bin/sh\nexit 99\n").unwrap();
    std::fs::write(go_on, "").unwrap();
    let out = drill.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    r.assert_nothing_is_left();
}

#[test]
fn a_drill_file_can_accept_every_gap_that_there_is() {
    let gaps = lifeboat::sandbox::Gap::ALL.map(|(name, _)| name);
    assert_eq!(gaps, lifeboat::config::plans::GAPS);
}

//! Where a machine lives: namespaces for network, mounts, processes, host name and IPC, and a disk
//! in memory over the host's.
//!
//! `unshare` makes them, and runs [`INIT`] as their first process. It builds the disk, moves into
//! it, says that it is ready, waits until the listeners are there, runs the user data and waits for
//! the end of its standard input, which the test holds: when the test goes, however it goes, the
//! first process goes, and the kernel ends all there is in the process namespace. With the last
//! process the mounts and the network go, once the listeners are closed.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::unix::pipe;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::site::Site;
use super::{kms, metadata, s3, wire};

const METADATA: &str = "169.254.169.254:80";
const S3: &str = "127.0.0.1:4501";
const KMS: &str = "127.0.0.1:4502";
/// How long a machine may take to be gone once its first process was killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often the timer is looked at.
const TIMER_EVERY: Duration = Duration::from_millis(100);

/// Arguments: directory, tools, host name, volumes as `loopN=vol-…` by commas, then addresses for
/// the loopback.
const INIT: &str = r#"
set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# As long as /proc is the host's, this is the host's number.
read -r pid _ </proc/self/stat
here=$1 tools=$2 name=$3 volumes=$4
shift 4

ip link set lo up
for address in "$@"; do ip address add "$address" dev lo; done
echo "$name" >/proc/sys/kernel/hostname

# The disk: the host's, over which everything is written in memory.
mkdir "$here/disk"
mount -t tmpfs -o mode=755 disk "$here/disk"
mkdir "$here"/disk/{upper,work,root}
root=$here/disk/root
mount -t overlay -o "lowerdir=/,upperdir=$here/disk/upper,workdir=$here/disk/work" image "$root"
for path in /usr /var/tmp/lifeboat-postgres "$tools"; do
  if [ -d "$path" ] && [ "$(stat -c %d "$path")" != "$(stat -c %d /)" ]; then
    mkdir -p "$root$path"
    mount --rbind "$path" "$root$path"
  fi
done
for path in run tmp dev; do mount -t tmpfs -o mode=755 "$path" "$root/$path"; done
chmod 1777 "$root/tmp"
mkdir -p "$root/run/lock" "$root"/dev/{pts,shm,disk/by-id}
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sys "$root/sys"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 pts "$root/dev/pts"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%:*}" "$root/dev/${n#*:}"; done
touch "$root/dev/console"
mount --bind "$here/console" "$root/dev/console"
# Block devices have the host's name and number, so that they are found under the same name wherever a devtmpfs is mounted.
for volume in ${volumes//,/ }; do
  device=${volume%=*} id=${volume#*=}
  mknod -m 600 "$root/dev/$device" b "$((0x$(stat -c %t "/dev/$device")))" "$((0x$(stat -c %T "/dev/$device")))"
  ln -s "../../$device" "$root/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${id/-/}"
done

# The image: no name is resolved, nobody is known but the host's users, and who asks for a shutdown gets one.
rm -rf "$root"/etc/{resolv.conf,hosts,nsswitch.conf} "$root/root/.aws"
: >"$root/etc/resolv.conf"
echo '127.0.0.1 localhost' >"$root/etc/hosts"
printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
mkdir -p "$root/opt/image/bin" "$root/run/machine"
touch "$root/run/machine/timer"
mount --bind "$here/timer" "$root/run/machine/timer"
printf '#!/bin/sh\nexec "%s/venv/bin/aws" "$@"\n' "$tools" >"$root/opt/image/bin/aws"
cat >"$root/opt/image/bin/shutdown" <<'END'
#!/bin/bash
# Of the words that shutdown(8) knows, those that turn off; a time is written down and never comes by itself.
case "${*: -1}" in
  now | +0) kill -PWR 1; sleep 60 ;;
  -c) : >/run/machine/timer ;;
  +[0-9]*) echo "$*" >/run/machine/timer ;;
  *) echo "shutdown: $* is not modelled" >&2; exit 1 ;;
esac
END
printf '#!/bin/sh\nexec shutdown -P now\n' >"$root/opt/image/bin/poweroff"
printf '#!/bin/sh\ncase "$*" in *poweroff*|*halt*) exec shutdown -P now ;; esac\necho "systemctl: $* is not modelled" >&2\nexit 1\n' >"$root/opt/image/bin/systemctl"
chmod 755 "$root"/opt/image/bin/*
for path in /usr/sbin/shutdown /usr/sbin/poweroff /usr/bin/systemctl; do
  rm -f "$root$path"
  ln -s "/opt/image/bin/${path##*/}" "$root$path" 2>/dev/null || true
done
script=/var/lib/cloud/instance/scripts/part-001
mkdir -p "$root${script%/*}"
cp "$here/user-data" "$root$script"
chmod 700 "$root$script"

mkdir -p "$root/old"
cd "$root"
pivot_root . old
cd /
umount -l /old
rmdir /old
trap 'exit 0' PWR
echo "ready $pid"
read -r _ || exit 0
(
  set +e
  env -i PATH="/opt/image/bin:$PATH" HOME=/root AWS_ENDPOINT_URL_S3="http://$S3" AWS_ENDPOINT_URL_KMS="http://$KMS" \
    "$script" </dev/null >/dev/console 2>&1
  echo "cloud-init: user data ended with $?" >/dev/console
) </dev/null >/dev/null 2>&1 &
while read -r _; do :; done
"#;

pub struct House {
    site: Arc<Site>,
    /// `unshare`, whose only child is the first process.
    child: Child,
    stdin: Option<ChildStdin>,
    init: OwnedFd,
    /// What serves it. Nothing of that outlives the machine.
    runtime: Option<Runtime>,
    pump: Option<(oneshot::Sender<()>, tokio::task::JoinHandle<()>)>,
    _loops: Loops,
    _directory: tempfile::TempDir,
}

impl House {
    /// Makes it, and runs the user data in it.
    pub fn build(site: Arc<Site>, volumes: &[(String, String)]) -> Result<Self, String> {
        let said = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
        let directory = crate::support::directory();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("user-data"), &site.user_data).map_err(said("its user data"))?;
        std::fs::write(at("timer"), "").map_err(said("its timer"))?;
        let all = rustix::fs::Mode::from_raw_mode(0o622);
        rustix::fs::mknodat(rustix::fs::CWD, at("console"), rustix::fs::FileType::Fifo, all, 0)
            .map_err(|e| format!("its console: {e}"))?;
        let loops = Loops::attach(&site, volumes)?;
        let settings = site.shared.settings();
        let mut addresses = vec![METADATA.parse::<SocketAddr>().unwrap()];
        addresses.extend(&settings.reachable);
        let on_lo: std::collections::BTreeSet<String> = addresses
            .iter()
            .map(|address| address.ip())
            .filter(|ip| !ip.is_loopback())
            .map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 }))
            .collect();

        let name = if site.private_ip.is_empty() {
            site.instance.clone()
        } else {
            format!("ip-{}", site.private_ip.replace('.', "-"))
        };
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child=KILL",
            "--propagation",
            "private",
            "--",
        ]);
        command
            .args(["bash", "-c", INIT, "first-process"])
            .arg(directory.path())
            .arg(crate::support::tools())
            .arg(name);
        command.arg(loops.words()).args(on_lo).env("S3", S3).env("KMS", KMS);
        let log = std::fs::File::create(at("log")).map_err(said("its log"))?;
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        use std::os::unix::process::CommandExt;
        let mut child = command.process_group(0).spawn().map_err(said("unshare"))?;
        let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut ready = String::new();
        let _ = BufReader::new(stdout).read_line(&mut ready);
        let Some(pid) = ready
            .trim()
            .strip_prefix("ready ")
            .and_then(|pid| pid.parse().ok())
            .and_then(Pid::from_raw)
        else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!(
                "its first process ended: {}",
                std::fs::read_to_string(at("log")).unwrap_or_default()
            ));
        };
        let number = pid.as_raw_nonzero().get();
        let opened = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string());
        let opened = opened.and_then(|init| {
            let fixed = [S3, KMS].map(|address| address.parse().unwrap());
            Ok((
                init,
                listen(number, &fixed).map_err(said("listening"))?,
                listen(number, &addresses).map_err(said("listening"))?,
            ))
        });
        let (init, fixed, others) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                drop(stdin);
                let _ = child.wait();
                return Err(why);
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut listeners = fixed.into_iter().chain(others);
        let mut next = || listeners.next().unwrap();
        let serving = |site: &Arc<Site>| Arc::clone(site);
        let (one, two, three) = (serving(&site), serving(&site), serving(&site));
        runtime.spawn(wire::serve(next(), move |request| s3::respond(Arc::clone(&one), request)));
        runtime.spawn(wire::serve(next(), move |request| kms::respond(Arc::clone(&two), request)));
        runtime.spawn(wire::serve(next(), move |request| {
            metadata::respond(Arc::clone(&three), request)
        }));
        for listener in listeners {
            runtime.spawn(wire::accept(listener));
        }
        let (stop, stopped) = oneshot::channel();
        let pump = runtime.spawn(pump(Arc::clone(&site), at("console"), at("timer"), stopped));
        site.runs_as(Some(pid));
        site.shared.alive.lock().unwrap().insert(site.instance.clone(), number);
        let _ = stdin.write_all(b"go\n");
        Ok(Self {
            site,
            child,
            stdin: Some(stdin),
            init,
            runtime: Some(runtime),
            pump: Some((stop, pump)),
            _loops: loops,
            _directory: directory,
        })
    }

    /// Whether its first process is gone.
    pub fn is_over(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Ends it and waits until nothing of it is left.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.init, Signal::KILL);
        drop(self.stdin.take());
        let begun = Instant::now();
        // `unshare` has waited for the first process, which the kernel lets go only when all others
        // of its namespace are gone.
        while !self.is_over() {
            if begun.elapsed() > PATIENCE {
                self.site.shared.complain(&self.site.instance, "its processes do not end");
                let _ = self.child.kill();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.site.runs_as(None);
        self.site.shared.alive.lock().unwrap().remove(&self.site.instance);
        if let (Some(runtime), Some((stop, pump))) = (self.runtime.take(), self.pump.take()) {
            let _ = stop.send(());
            let _ = runtime.block_on(async { tokio::time::timeout(PATIENCE, pump).await });
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

/// Opens listeners inside, on a thread that goes there and ends.
fn listen(init: i32, addresses: &[SocketAddr]) -> std::io::Result<Vec<TcpListener>> {
    let network = std::fs::File::open(format!("/proc/{init}/ns/net"))?;
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            let open = |address: &SocketAddr| {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            };
            addresses.iter().map(open).collect()
        });
        opening.join().unwrap()
    })
}

/// Brings what the machine writes on its console to whoever asks for it, until nothing more can
/// come.
async fn pump(
    site: Arc<Site>,
    console: PathBuf,
    timer: PathBuf,
    mut stopped: oneshot::Receiver<()>,
) {
    // Open for writing, too: it does not end when a writer does.
    let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(console).unwrap();
    let (mut last, mut buffer) = (false, vec![0; 64 << 10]);
    while !last {
        tokio::select! {
            _ = &mut stopped => last = true,
            _ = receiver.readable() => {}
            () = tokio::time::sleep(TIMER_EVERY) => {}
        }
        let mut read = Vec::new();
        while let Ok(count @ 1..) = receiver.try_read(&mut buffer) {
            read.extend_from_slice(&buffer[..count]);
        }
        let asked = std::fs::read_to_string(&timer).unwrap_or_default().trim().to_owned();
        {
            let mut timers = site.shared.timers.lock().unwrap();
            if asked.is_empty() {
                timers.remove(&site.instance)
            } else {
                timers.insert(site.instance.clone(), asked)
            };
        }
        if read.is_empty() {
            continue;
        }
        let text = String::from_utf8_lossy(&read).into_owned();
        site.shared
            .consoles
            .lock()
            .unwrap()
            .entry(site.instance.clone())
            .or_default()
            .push_str(&text);
        let (shared, instance) = (Arc::clone(&site.shared), site.instance.clone());
        let _ = tokio::task::spawn_blocking(move || {
            shared.cloud.write_console(&shared.region, &instance, &text)
        })
        .await;
    }
}

/// The volumes of an instance, as block devices of the host: name, such as `loop7`, and volume.
struct Loops(Vec<(String, String)>);

impl Loops {
    fn attach(site: &Site, volumes: &[(String, String)]) -> Result<Self, String> {
        let mut this = Self(Vec::new());
        for (_, volume) in volumes {
            let output = Command::new("losetup")
                .args(["--find", "--show"])
                .arg(site.shared.cloud.image(volume))
                .output();
            match output {
                Ok(output) if output.status.success() => {
                    let device = String::from_utf8_lossy(&output.stdout)
                        .trim()
                        .trim_start_matches("/dev/")
                        .to_owned();
                    this.0.push((device, volume.clone()));
                }
                other => return Err(format!("losetup: {other:?}")),
            }
        }
        Ok(this)
    }

    fn words(&self) -> String {
        self.0
            .iter()
            .map(|(device, volume)| format!("{device}={volume}"))
            .collect::<Vec<_>>()
            .join(",")
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for (device, _) in &self.0 {
            let _ = Command::new("losetup")
                .arg("--detach")
                .arg(format!("/dev/{device}"))
                .stderr(Stdio::null())
                .status();
        }
    }
}

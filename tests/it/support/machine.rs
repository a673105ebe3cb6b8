//! EC2 instances that run: the very user data of whatever the emulated EC2 says is running, each in
//! namespaces of its own.
//!
//! [`Machines`] watches for instances that carry a `lifeboat:run` tag and whose user data begins
//! with `#!`, and runs it once, as cloud-init does. A machine reaches nothing but what is named
//! here, since its network is a loopback of its own. The listeners on it are opened inside and
//! served by the test's process, which enforces what stands between an instance and AWS:
//!
//! | in the machine | stands for | AWS page |
//! |---|---|---|
//! | the user data, run once as root, its output on the console | cloud-init's scripts | EC2 user guide, Run commands when you launch an instance |
//! | the host's `/usr` under a disk in memory, `aws` first on `PATH` | the image | – |
//! | `/dev/console`, a pipe | what GetConsoleOutput tells | EC2 API, GetConsoleOutput |
//! | `shutdown -P now` | shutdown behaviour `terminate` | EC2 user guide, Change the instance initiated shutdown behavior |
//! | `169.254.169.254:80` | metadata, version 2 only | EC2 user guide, Use IMDS: `metadata` |
//! | `127.0.0.1:4501`, as `AWS_ENDPOINT_URL_S3` | the S3 gateway endpoint of the VPC, and its policy | VPC user guide, Gateway endpoints: `s3` |
//! | `127.0.0.1:4502`, as `AWS_ENDPOINT_URL_KMS` | the KMS interface endpoint under its private name, and its policy | KMS developer guide, VPC endpoint: `kms` |
//! | Decrypt by grant only; grants seen late | grants and their tokens | KMS developer guide, Grants; Grant tokens: `kms` |
//! | what policies say | the IAM policy language, a part of it | IAM user guide, Policy evaluation logic: `policy` |
//! | no name is resolved | a DNS firewall that lets nothing through | Route 53 developer guide, DNS Firewall |
//! | `/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol…` | volumes, on loop devices | EBS user guide, NVMe device names |
//!
//! An endpoint belongs to one region: what is signed for another finds nothing there. Not modelled:
//! the role's own policies, key and bucket policies, signatures (but the access key and the session
//! token), TLS, security groups and route tables, the hop limit, an address that answers nothing at
//! all (here it is "unreachable" at once).

// A toolbox: what one test leaves unused another takes up.
#![allow(dead_code, unused_imports)]

mod house;
mod kms;
mod metadata;
mod policy;
mod s3;
mod site;
mod wire;

pub use site::Request;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyper::body::Bytes;

use super::cloud::Cloud;
use house::House;
use site::Site;

/// What happens to the body of an object that a machine puts into an inbox: by its key, what is
/// stored instead; none: nothing is, and the machine is told that all is well.
pub type Tamper = Arc<dyn Fn(&str, Bytes) -> Option<Bytes> + Send + Sync>;

/// What is wrong with the world. Nothing, by default, but that grants are not seen without their
/// token.
#[derive(Clone, Default)]
pub struct Settings {
    /// User data is never run: an instance that hangs while it boots.
    pub silent: bool,
    /// From when it is running to when its user data runs.
    pub boot_delay: Duration,
    /// Addresses that answer though nothing should: a way out of the VPC.
    pub reachable: Vec<SocketAddr>,
    pub tamper: Option<Tamper>,
    /// After so many objects in an inbox, a machine stands still: its processes are stopped, and
    /// no request is answered any more.
    pub freeze_after: Option<usize>,
    /// Whether grants are seen by all of KMS already. If not, a request must bring a grant token.
    pub grant_visible: bool,
    /// One byte of whatever is fetched from `agent/` is another.
    pub corrupt_agent: bool,
    /// ARN of the role of the instance profile; none: the role has the name of the profile.
    pub role: Option<String>,
}

/// What all machines share.
struct Shared {
    cloud: Arc<Cloud>,
    region: String,
    emulator: SocketAddr,
    settings: Mutex<Settings>,
    requests: Mutex<Vec<Request>>,
    letters: Mutex<Vec<(String, Bytes)>>,
    complaints: Mutex<Vec<String>>,
    consoles: Mutex<BTreeMap<String, String>>,
    timers: Mutex<BTreeMap<String, String>>,
    /// Machines that run: their first process.
    alive: Mutex<BTreeMap<String, i32>>,
    /// Machines whose timer ran out.
    rung: Mutex<BTreeSet<String>>,
    stop: AtomicBool,
}

impl Shared {
    fn settings(&self) -> Settings {
        self.settings.lock().unwrap().clone()
    }

    /// What the harness does not understand, or could not do. Loud, since it would otherwise look
    /// like a fault of the program.
    fn complain(&self, about: &str, what: &str) {
        let text = format!("{about}: {what}");
        let mut complaints = self.complaints.lock().unwrap();
        if !complaints.contains(&text) {
            eprintln!("MACHINES: {text}");
            complaints.push(text);
        }
    }
}

/// The machines of one region. All end with it.
pub struct Machines {
    shared: Arc<Shared>,
    watcher: Option<JoinHandle<()>>,
}

/// How often the emulated EC2 is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The tag without which an instance is none of ours.
const TAG: &str = "lifeboat:run";

impl Machines {
    /// Begins to watch. `emulator` answers for S3 and KMS: localstack or a front before it.
    pub fn start(
        cloud: Arc<Cloud>,
        region: &str,
        emulator: SocketAddr,
        settings: Settings,
    ) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "machines are made of namespaces, which takes root"
        );
        let shared = Arc::new(Shared {
            cloud,
            region: region.to_owned(),
            emulator,
            settings: Mutex::new(settings),
            requests: Mutex::default(),
            letters: Mutex::default(),
            complaints: Mutex::default(),
            consoles: Mutex::default(),
            timers: Mutex::default(),
            alive: Mutex::default(),
            rung: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let watched = Arc::clone(&shared);
        Self { shared, watcher: Some(std::thread::spawn(move || watch(&watched))) }
    }

    /// From now on.
    pub fn settings(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.shared.settings.lock().unwrap());
    }

    /// What machines asked for, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// What machines put into inboxes, as they sent it, in order.
    pub fn letters(&self) -> Vec<(String, Bytes)> {
        self.shared.letters.lock().unwrap().clone()
    }

    /// What the harness did not understand. A test that passes should find nothing here.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.complaints.lock().unwrap().clone()
    }

    /// All that machines wrote on their consoles.
    pub fn consoles(&self) -> String {
        let consoles = self.shared.consoles.lock().unwrap();
        consoles.iter().map(|(id, text)| format!("--- {id}\n{text}\n")).collect()
    }

    /// The delayed shutdown that a machine last asked for, in its words, such as `-P +30`. Never
    /// done by itself.
    pub fn timers(&self) -> BTreeMap<String, String> {
        self.shared.timers.lock().unwrap().clone()
    }

    /// The delayed shutdown of a machine happens now. False if it asked for none.
    pub fn time_is_up(&self, instance: &str) -> bool {
        self.shared.timers.lock().unwrap().contains_key(instance)
            && self.shared.rung.lock().unwrap().insert(instance.to_owned())
    }

    /// Instances whose machine runs.
    pub fn alive(&self) -> Vec<String> {
        self.shared.alive.lock().unwrap().keys().cloned().collect()
    }

    /// The first process of a machine, as the host numbers it: its `/proc/PID/root` is the
    /// machine's disk.
    pub fn first_process(&self, instance: &str) -> Option<i32> {
        self.shared.alive.lock().unwrap().get(instance).copied()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.watcher.take().map(JoinHandle::join);
        if let Some(Err(_)) = ended
            && !std::thread::panicking()
        {
            panic!("whoever watches the machines panicked");
        }
    }
}

/// Until the end: runs what is new, ends what is over. The houses are dropped with it, whatever
/// happens.
fn watch(shared: &Arc<Shared>) {
    let (mut houses, mut seen) =
        (BTreeMap::<String, House>::new(), BTreeMap::<String, Instant>::new());
    let mut handled = BTreeSet::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let views = shared.cloud.running(&shared.region);
        let ids: Vec<String> = houses.keys().cloned().collect();
        for id in ids {
            let there = views
                .iter()
                .any(|view| view.id == id && matches!(view.state.as_str(), "pending" | "running"));
            let rung = shared.rung.lock().unwrap().remove(&id);
            let over = houses.get_mut(&id).is_some_and(House::is_over);
            if there && !rung && !over {
                continue;
            }
            if let Some(house) = houses.remove(&id) {
                house.end();
            }
            // Whoever shut itself down is terminated by that; the cloud does not know yet, unless
            // somebody else was quicker.
            if there {
                let off = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    shared.cloud.power_off(&shared.region, &id)
                }));
                drop(off);
            }
        }
        let settings = shared.settings();
        for view in &views {
            let script = view.user_data.as_ref().is_some_and(|text| text.starts_with("#!"));
            if view.state != "running"
                || !script
                || !view.tags.contains_key(TAG)
                || handled.contains(&view.id)
            {
                continue;
            }
            if seen.entry(view.id.clone()).or_insert_with(Instant::now).elapsed()
                < settings.boot_delay
            {
                continue;
            }
            handled.insert(view.id.clone());
            if settings.silent {
                continue;
            }
            // What the cloud told of may be gone again, which it does not forgive.
            let build =
                || House::build(Site::new(view, Arc::clone(shared), &settings), &view.volumes);
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(build)) {
                Ok(Ok(house)) => drop(houses.insert(view.id.clone(), house)),
                Ok(Err(why)) => shared.complain(&view.id, &format!("it does not boot: {why}")),
                Err(_) => shared.complain(&view.id, "it does not boot: the harness panicked"),
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

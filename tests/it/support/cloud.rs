//! EC2 and the EBS direct APIs on a loopback port: moto, with a front before it that knows the rules which moto does not, keeps the content
//! of volumes and snapshots in files, and makes calls fail on demand. Stopped when dropped.
//!
//! moto keeps what has no rules: instances, ids, tags. A call to EC2 goes through the front to it, and the front changes what comes back:
//! nothing is there at once, but after so many looks at it ([`Settings`]); a snapshot has the content that its volume had when it was
//! begun; lists come in pages of two. The EBS direct APIs are the front's own, over the files. Other services, such as STS, are moto's;
//! who comes with the credentials of another account's role is in that account.
//!
//! What the front says is what AWS documents, not what an account of AWS was seen to do. Each rule names its page where it is written:
//!
//! | rule | file | AWS page |
//! |---|---|---|
//! | pending, failed; five pending of a volume | `snapshots` | EC2 API, CreateSnapshot; EBS user guide, Create snapshots |
//! | several volumes at one moment, or none | `snapshots` | EC2 API, CreateSnapshots, InstanceSpecification |
//! | copies: keys, refused silently; 20 under way | `snapshots` | EC2 API, CopySnapshot; EBS user guide, Copy a snapshot |
//! | who may use a snapshot | `snapshots` | EC2 API, ModifySnapshotAttribute |
//! | locked, or used by an image: not deleted | `snapshots`, `images` | EC2 developer guide, Error codes |
//! | governance, compliance, cooling off | `locks` | EBS user guide, Snapshot lock: concepts, considerations |
//! | archived, restored for some days | `tiers` | EBS user guide, Archive snapshots |
//! | client tokens; keys noticed later | `volumes` | EC2 developer guide, Idempotency; EC2 API, CreateVolume |
//! | zones, attaching, detaching, how full a volume is | `volumes` | EC2 API, AttachVolume; EBS user guide, Initialization |
//! | filters, pages | `listing` | EC2 API, Query requests |
//! | blocks, tokens, checksums | `blocks` | EBS API, ListSnapshotBlocks, ListChangedBlocks, GetSnapshotBlock |
//! | throttled, lost answers, regions that are down | `rules` | EC2 developer guide, Throttling |
//!
//! Not modelled: permissions, signatures, quotas but the two above, fast snapshot restore, the recycle bin, writing blocks.

// A toolbox: what one test leaves unused another takes up.
#![allow(dead_code, unused_imports)]

mod blocks;
mod images;
mod listing;
mod locks;
mod query;
mod rules;
mod snapshots;
mod tiers;
mod volumes;
mod world;
mod xml;

pub use rules::{Checksum, Fault, Rule};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};

use query::{Query, tag_params, written};
use world::{GIB, Refusal, State, World};
use xml::Node;

/// How long things take, in looks at them; how long lists are; how much is allowed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// So often DescribeSnapshots tells of a snapshot as pending.
    pub snapshot: u32,
    /// Or of a copy.
    pub copy: u32,
    /// So often DescribeVolumes tells of a volume as creating,
    pub volume: u32,
    /// or as attaching or detaching.
    pub attachment: u32,
    /// So often DescribeVolumeStatus tells of it as being read in.
    pub filling: u32,
    /// So often DescribeSnapshots or DescribeSnapshotTierStatus tell of a snapshot as being archived or restored.
    pub tier: u32,
    /// Items of a page, whatever is asked for.
    pub page: usize,
    /// Blocks of a page.
    pub blocks_page: usize,
    /// Whether the first page of blocks is empty.
    pub empty_pages: bool,
    pub pending_per_volume: usize,
    pub copies_per_region: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            snapshot: 2,
            copy: 2,
            volume: 1,
            attachment: 1,
            filling: 2,
            tier: 2,
            page: 2,
            blocks_page: 3,
            empty_pages: true,
            pending_per_volume: 5,
            copies_per_region: 20,
        }
    }
}

/// A call that came.
#[derive(Debug, Clone)]
pub struct Call {
    pub region: String,
    pub action: String,
    pub params: BTreeMap<String, String>,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Underway,
    Done,
    /// With this code.
    Refused(String),
    /// The answer was lost.
    Lost,
    /// Nothing happened.
    Dropped,
}

/// A snapshot as it is.
#[derive(Debug, Clone)]
pub struct SnapshotView {
    pub id: String,
    pub account: String,
    pub volume: String,
    pub copy_of: Option<String>,
    pub state: String,
    pub message: Option<String>,
    pub key: Option<String>,
    pub description: String,
    /// `standard` or `archive`.
    pub tier: String,
    pub lock: Option<LockView>,
    pub shared_with: Vec<String>,
    pub tags: BTreeMap<String, String>,
}

/// A lock as it is, if it is not expired.
#[derive(Debug, Clone)]
pub struct LockView {
    /// `governance`, `compliance` or `compliance-cooloff`.
    pub state: String,
    pub until: Timestamp,
    pub cooling_off_until: Option<Timestamp>,
}

/// A volume as it is.
#[derive(Debug, Clone)]
pub struct VolumeView {
    pub id: String,
    pub zone: String,
    pub state: String,
    pub key: Option<String>,
    pub snapshot: Option<String>,
    /// Instance, device and state.
    pub attached: Option<(String, String, String)>,
    pub tags: BTreeMap<String, String>,
}

pub struct Cloud {
    pub url: String,
    world: Arc<World>,
    runtime: Option<tokio::runtime::Runtime>,
    _moto: Moto,
    _contents: tempfile::TempDir,
}

/// Calls of the test itself carry it: they are not written down and no fault of a call meets them.
const OURS: &str = "x-lifeboat-test";
/// The access key of the default account.
const KEY: &str = "testing";

impl Cloud {
    pub fn start() -> Self {
        let (moto, contents) = (Moto::start(), super::directory());
        let world = Arc::new(World {
            moto: moto.port,
            contents: contents.path().to_owned(),
            state: Mutex::new(State::default()),
            rules: rules::Rules::default(),
            calls: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(serve(listener, Arc::clone(&world)));
        Self { url, world, runtime: Some(runtime), _moto: moto, _contents: contents }
    }

    /// What AWS clients need to find it.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let mut env: Vec<_> =
            ["AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_EBS", "AWS_ENDPOINT_URL_STS"].map(|name| (name, self.url.clone())).into();
        let plain = [
            ("AWS_ACCESS_KEY_ID", KEY),
            ("AWS_SECRET_ACCESS_KEY", KEY),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        env.extend(plain.map(|(name, value)| (name, value.to_owned())));
        env
    }

    /// From now on.
    pub fn settings(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.world.state().settings);
    }

    pub fn rule(&self, rule: Rule) {
        self.world.rules.add(rule);
    }

    pub fn clear_rules(&self) {
        self.world.rules.clear();
    }

    /// Moves the front's clock: locks expire, temporary restores end, tokens of blocks are no good any more.
    pub fn later(&self, by: SignedDuration) {
        self.world.state().ahead += by;
    }

    /// Ends at once what is under way, as far as it ever would.
    pub fn settle(&self) {
        let mut state = self.world.state();
        let now = state.now();
        for snap in state.snapshots.values_mut().filter(|snap| !snap.pending.done()) {
            snap.pending.end();
            snapshots::completed(snap, now);
        }
        for volume in state.volumes.values_mut().filter(|volume| !volume.vanishes) {
            volume.creating.end();
            volume.moving.take_if(|moving| !moving.stuck);
        }
    }

    /// The calls that came, in order, but those of the test itself.
    pub fn calls(&self) -> Vec<Call> {
        self.world.calls.lock().unwrap().clone()
    }

    /// Those of one action.
    pub fn calls_of(&self, action: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.action == action).collect()
    }

    pub fn forget_calls(&self) {
        self.world.calls.lock().unwrap().clear();
    }

    /// Calls EC2 as the default account, through the front; fails if it is refused.
    #[track_caller]
    pub fn call(&self, region: &str, action: &str, params: &[(&str, &str)]) -> String {
        let (status, answer) = self.try_call(region, action, params);
        assert!(status == 200, "{action} {params:?}: {status} {answer}");
        answer
    }

    /// The same, with the status.
    pub fn try_call(&self, region: &str, action: &str, params: &[(&str, &str)]) -> (u16, String) {
        let params: Vec<(String, String)> = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let named = [("Action".to_owned(), action.to_owned()), ("Version".to_owned(), "2016-11-15".to_owned())];
        let scope = format!("{KEY}/20260101/{region}/ec2/aws4_request");
        let request = Request::post("/")
            .header("host", "localhost")
            .header("authorization", format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"))
            .header("content-type", "application/x-www-form-urlencoded")
            .header(OURS, "yes");
        let (head, body) = request.body(Bytes::from(written(&[&named[..], &params].concat()))).unwrap().into_parts();
        let response = self.wait(respond(Arc::clone(&self.world), head, body)).unwrap();
        let status = response.status().as_u16();
        let body = self.wait(response.into_body().collect()).unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// Waits on a thread of its own, so that asynchronous tests may call it, too.
    fn wait<T: Send>(&self, what: impl Future<Output = T> + Send) -> T {
        let handle = self.runtime.as_ref().unwrap().handle();
        std::thread::scope(|scope| scope.spawn(|| handle.block_on(what)).join().unwrap())
    }

    fn query(&self, region: &str, action: &str) -> Query {
        let [key, region, service, action] = [KEY, region, "ec2", action].map(str::to_owned);
        Query { key, region, service, action, params: BTreeMap::new() }
    }

    /// A running instance with the volume it boots from.
    pub fn instance(&self, region: &str, zone: &str) -> String {
        let params = [("ImageId", "ami-12345678"), ("InstanceType", "t3.micro"), ("MinCount", "1"), ("MaxCount", "1")];
        let answer = self.call(region, "RunInstances", &[&params[..], &[("Placement.AvailabilityZone", zone)]].concat());
        self.wait(self.world.volumes(&self.query(region, "DescribeVolumes"))).unwrap();
        Node::parse(&answer).unwrap().get("instancesSet/item/instanceId").to_owned()
    }

    /// An available `gp3` volume whose content is a sparse file of exactly this size. EC2 counts in GiB and is told the next whole number.
    pub fn volume(&self, region: &str, zone: &str, bytes: u64, key_arn: Option<&str>, tags: &[(&str, &str)]) -> String {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>();
        let tags = tag_params("volume", &tags);
        let gib = bytes.div_ceil(GIB).max(1).to_string();
        let mut params = vec![("AvailabilityZone", zone), ("Size", gib.as_str()), ("VolumeType", "gp3")];
        params.extend(key_arn.into_iter().flat_map(|key| [("Encrypted", "true"), ("KmsKeyId", key)]));
        params.extend(tags.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let id = Node::parse(&self.call(region, "CreateVolume", &params)).unwrap().get("volumeId").to_owned();
        std::fs::File::options().write(true).open(self.image(&id)).unwrap().set_len(bytes).unwrap();
        self.world.state().volumes.get_mut(&id).unwrap().creating.end();
        id
    }

    /// Attached at once.
    pub fn attach(&self, region: &str, volume: &str, instance: &str, device: &str) {
        self.call(region, "AttachVolume", &[("VolumeId", volume), ("InstanceId", instance), ("Device", device)]);
        self.world.state().volumes.get_mut(volume).unwrap().moving = None;
    }

    /// The file with the content of a volume or snapshot.
    #[track_caller]
    pub fn image(&self, volume_or_snapshot: &str) -> PathBuf {
        assert!(self.world.content_exists(volume_or_snapshot), "there is no {volume_or_snapshot}");
        self.world.content(volume_or_snapshot)
    }

    /// A registered image that uses a snapshot.
    pub fn image_of(&self, region: &str, snapshot: &str) -> String {
        let mut state = self.world.state();
        let id = format!("ami-{:017x}", state.number());
        state.images.insert(id.clone(), (region.to_owned(), snapshot.to_owned()));
        id
    }

    /// A snapshot of another account, which everybody may use.
    pub fn foreign_snapshot(&self, region: &str) -> String {
        let mut state = self.world.state();
        let id = format!("snap-{:017x}", state.number());
        let snap = snapshots::foreign(&self.query(region, ""), &id, state.now());
        self.world.new_content(&id, GIB);
        state.snapshots.insert(id.clone(), snap);
        id
    }

    /// All snapshots of a region, of all accounts; looking changes nothing. Tags of other accounts than the default one are not seen.
    pub fn snapshots(&self, region: &str) -> Vec<SnapshotView> {
        let query = self.query(region, "DescribeSnapshots");
        let items = self.wait(async {
            let _turn = self.world.turn.lock().await;
            let account = self.world.account(&query).await?;
            snapshots::all(&self.world, &query, &account).await
        });
        let items = items.unwrap();
        let state = self.world.state();
        let now = state.now();
        let here = state.snapshots.iter().filter(|(_, snap)| snap.region == region);
        let view = |(id, snap): (&String, &world::Snap)| SnapshotView {
            id: id.clone(),
            account: snap.account.clone(),
            volume: snap.volume.clone(),
            copy_of: snap.copy_of.clone(),
            state: snap.state().to_owned(),
            message: snap.fails.clone().filter(|_| snap.state() == "error"),
            key: snap.key.clone(),
            description: snap.description.clone(),
            tier: snap.tier.name(now).to_owned(),
            lock: snap.lock.as_ref().filter(|lock| lock.holds(now)).map(|lock| LockView {
                state: lock.state(now).to_owned(),
                until: lock.expires(),
                cooling_off_until: lock.cooling_off_until(),
            }),
            shared_with: snap.shared.iter().cloned().collect(),
            tags: items.iter().find(|item| item.get("snapshotId") == id).map(tags_of).unwrap_or_default(),
        };
        here.map(view).collect()
    }

    #[track_caller]
    pub fn snapshot(&self, region: &str, id: &str) -> SnapshotView {
        self.snapshots(region).into_iter().find(|snapshot| snapshot.id == id).unwrap_or_else(|| panic!("there is no {id} in {region}"))
    }

    /// All volumes of a region, of the default account; looking changes nothing.
    pub fn volumes(&self, region: &str) -> Vec<VolumeView> {
        let items = self.wait(async {
            let _turn = self.world.turn.lock().await;
            volumes::all(&self.world, &self.query(region, "DescribeVolumes")).await
        });
        let items = items.unwrap();
        let told = |item: &Node, name: &str| Some(item.get(name).to_owned()).filter(|text| !text.is_empty());
        let view = |item: &Node| VolumeView {
            id: item.get("volumeId").to_owned(),
            zone: item.get("availabilityZone").to_owned(),
            state: item.get("status").to_owned(),
            key: told(item, "kmsKeyId"),
            snapshot: told(item, "snapshotId"),
            attached: item.items("attachmentSet").first().map(|item| {
                let [instance, device, state] = ["instanceId", "device", "status"].map(|name| item.get(name).to_owned());
                (instance, device, state)
            }),
            tags: tags_of(item),
        };
        items.iter().map(view).collect()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // Asynchronous tests may drop it, too.
        self.runtime.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
    }
}

fn tags_of(item: &Node) -> BTreeMap<String, String> {
    item.items("tagSet").iter().map(|tag| (tag.get("key").to_owned(), tag.get("value").to_owned())).collect()
}

/// moto itself, on a free loopback port.
struct Moto {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Moto {
    fn start() -> Self {
        // Of its own: localstack brings a package of the same name.
        let program = super::tools().join("moto/bin/moto_server");
        assert!(program.exists(), "run scripts/install test first: {} is missing", program.display());
        // A port may be taken between finding and binding it; then the next is tried.
        for _ in 0..3 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let directory = super::directory();
            let log = directory.path().join("log");
            let mut this = Self { child: Self::spawn(&program, port, directory.path(), &log), port, _directory: directory };
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(90) {
                if let Some(status) = this.child.try_wait().unwrap() {
                    eprintln!("moto ended with {status}: {}", std::fs::read_to_string(&log).unwrap_or_default());
                    break;
                }
                if this.answers() {
                    return this;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        panic!("moto did not start in three attempts");
    }

    fn spawn(program: &Path, port: u16, home: &Path, log: &Path) -> Child {
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        // Thousands of images, which would take seconds.
        command.env("HOME", home).env("TMPDIR", home).env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false");
        let stderr = std::fs::File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
    }

    fn answers(&self) -> bool {
        use std::io::{Read, Write};
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let _ = stream.write_all(b"GET /moto-api/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 200")
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Answered = std::io::Result<Response<Full<Bytes>>>;

async fn serve(listener: std::net::TcpListener, world: Arc<World>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let service = service_fn(move |request| receive(request, Arc::clone(&world)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn receive(request: Request<Incoming>, world: Arc<World>) -> Answered {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    // A caller that goes away in the middle of it stops nothing.
    tokio::spawn(respond(world, head, body)).await.map_err(std::io::Error::other)?
}

fn broken() -> Answered {
    Err(std::io::ErrorKind::ConnectionReset.into())
}

async fn respond(world: Arc<World>, head: Parts, body: Bytes) -> Answered {
    let query = Query::read(&head, &body);
    let ours = head.headers.contains_key(OURS);
    let call = (!ours).then(|| world.note(&query));
    let fault = if ours { None } else { struck(&world, &query).await };
    match &fault {
        Some(Fault::Drop) => {
            world.ended(call, Outcome::Dropped);
            return broken();
        }
        Some(Fault::Refuse { code, status }) => {
            world.ended(call, Outcome::Refused(code.clone()));
            return Ok(refused(&query, &Refusal { status: *status, ..world::refusal(code, "The front was told to refuse this") }));
        }
        _ => {}
    }
    let answer = match query.service.as_str() {
        "ebs" => blocks(&world, &query).await,
        "ec2" => ec2(&world, &query, head, body).await,
        _ => pass(&world, head, body).await,
    };
    let outcome = match &answer {
        _ if fault.is_some() => Outcome::Lost,
        Ok(_) => Outcome::Done,
        Err(refusal) => Outcome::Refused(refusal.code.clone()),
    };
    world.ended(call, outcome);
    if fault.is_some() { broken() } else { Ok(answer.unwrap_or_else(|refusal| refused(&query, &refusal))) }
}

/// What goes wrong with this call, after the time it takes.
async fn struck(world: &World, query: &Query) -> Option<Fault> {
    let subjects: Vec<&str> = query.params.values().map(String::as_str).collect();
    if let Some(Fault::Delay(time)) = world.rules.take(query, &subjects, |fault| matches!(fault, Fault::Delay(_))) {
        tokio::time::sleep(time).await;
    }
    world.rules.take(query, &subjects, |fault| matches!(fault, Fault::Refuse { .. } | Fault::LoseAnswer | Fault::Drop))
}

async fn ec2(world: &World, query: &Query, head: Parts, body: Bytes) -> Result<Response<Full<Bytes>>, Refusal> {
    let _turn = world.turn.lock().await;
    let account = world.account(query).await?;
    let account = account.as_str();
    let modelled = [
        "CreateSnapshot",
        "CreateSnapshots",
        "CopySnapshot",
        "DescribeSnapshots",
        "DeleteSnapshot",
        "ModifySnapshotAttribute",
        "DescribeSnapshotAttribute",
        "LockSnapshot",
        "UnlockSnapshot",
        "DescribeLockedSnapshots",
        "ModifySnapshotTier",
        "RestoreSnapshotTier",
        "DescribeSnapshotTierStatus",
        "CreateVolume",
        "DescribeVolumes",
        "DescribeVolumeStatus",
        "AttachVolume",
        "DetachVolume",
        "DeleteVolume",
        "DescribeImages",
        "DeregisterImage",
    ];
    if query.is("DryRun") && modelled.contains(&query.action.as_str()) {
        let why = world::refusal("DryRunOperation", "Request would have succeeded, but DryRun flag is set.");
        return Err(Refusal { status: 412, ..why });
    }
    let children = match query.action.as_str() {
        "CreateSnapshot" => snapshots::create(world, query, account).await,
        "CreateSnapshots" => snapshots::create_together(world, query, account).await,
        "CopySnapshot" => snapshots::copy(world, query, account).await,
        "DescribeSnapshots" => snapshots::describe(world, query, account).await,
        "DeleteSnapshot" => snapshots::delete(world, query, account).await,
        "ModifySnapshotAttribute" => snapshots::share(world, query, account),
        "DescribeSnapshotAttribute" => snapshots::describe_sharing(world, query, account),
        "LockSnapshot" => locks::lock(world, query, account),
        "UnlockSnapshot" => locks::unlock(world, query, account),
        "DescribeLockedSnapshots" => locks::describe(world, query, account),
        "ModifySnapshotTier" => tiers::archive(world, query, account),
        "RestoreSnapshotTier" => tiers::restore(world, query, account),
        "DescribeSnapshotTierStatus" => tiers::describe(world, query, account).await,
        "CreateVolume" => volumes::create(world, query, account).await,
        "DescribeVolumes" => volumes::describe(world, query).await,
        "DescribeVolumeStatus" => volumes::describe_status(world, query).await,
        "AttachVolume" => volumes::attach(world, query).await,
        "DetachVolume" => volumes::detach(world, query).await,
        "DeleteVolume" => volumes::delete(world, query).await,
        "DescribeImages" => images::describe(world, query, account),
        "DeregisterImage" => images::deregister(world, query),
        _ => return pass(world, head, body).await,
    }?;
    let name = format!("{}Response", query.action);
    let xml: String = children.iter().map(Node::write).collect();
    let xml = format!("<?xml version=\"1.0\"?><{name} xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">{xml}</{name}>");
    Ok(Response::builder().header("content-type", "text/xml").body(Full::new(xml.into())).unwrap())
}

/// What the front does not model.
async fn pass(world: &World, head: Parts, body: Bytes) -> Result<Response<Full<Bytes>>, Refusal> {
    let (head, body) = world.pass(head, body).await.map_err(|error| world::refusal("InternalError", error.to_string()))?;
    Ok(Response::from_parts(head, Full::new(body)))
}

async fn blocks(world: &Arc<World>, query: &Query) -> Result<Response<Full<Bytes>>, Refusal> {
    let sent = blocks::answer(world, query).await?;
    let response = Response::builder().header("content-type", sent.kind);
    let response = sent.headers.into_iter().fold(response, |response, (name, value)| response.header(name, value));
    Ok(response.body(Full::new(sent.body)).unwrap())
}

/// An error as each protocol has it. EC2: <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html#api-error-response>,
/// EBS direct: <https://docs.aws.amazon.com/ebs/latest/APIReference/API_GetSnapshotBlock.html>, Errors
fn refused(query: &Query, refusal: &Refusal) -> Response<Full<Bytes>> {
    let response = Response::builder().status(refusal.status);
    if query.service == "ebs" {
        let mut body = serde_json::json!({"Message": refusal.message, "__type": refusal.code});
        if let Some(reason) = refusal.reason {
            body["Reason"] = reason.into();
        }
        let response = response.header("content-type", "application/json").header("x-amzn-ErrorType", &refusal.code);
        return response.body(Full::new(body.to_string().into())).unwrap();
    }
    let error = Node::new("Error", vec![Node::leaf("Code", &refusal.code), Node::leaf("Message", &refusal.message)]);
    let errors = Node::new("Response", vec![Node::new("Errors", vec![error]), Node::leaf("RequestID", "the-front")]);
    let body = format!("<?xml version=\"1.0\"?>{}", errors.write());
    response.header("content-type", "text/xml").body(Full::new(body.into())).unwrap()
}

//! EC2 and the EBS direct APIs on a loopback port: moto, with a front before it that knows the
//! rules which moto does not, keeps the content of volumes and snapshots in files, and makes calls
//! fail on demand. Stopped when dropped.
//!
//! moto keeps what has no rules: instances, ids, tags. A call to EC2 goes through the front to it,
//! and the front changes what comes back: nothing is there at once, but after so many looks at it
//! ([`Settings`]); a snapshot has the content that its volume had when it was begun; lists come in
//! pages of two. The EBS direct APIs are the front's own, over the files, and so are the DNS
//! firewall and the quotas. Other services, such as STS, are moto's; who comes with the credentials
//! of another account's role is in that account.
//!
//! Of a network moto keeps what it can; the front adds what depends on what, and keeps flow logs
//! and the interfaces of endpoints itself. What moto said in a list is said again until a call may
//! have changed it: every call to it goes through the front.
//!
//! What the front says is what AWS documents, not what an account of AWS was seen to do. Each rule
//! names its page where it is written:
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
//! | keys noticed later | `volumes`, `machines` | EC2 API, CreateVolume; EC2 user guide, Troubleshoot launch |
//! | client tokens; DryRun; ids | `tokens` | EC2 developer guide, Idempotency, Resource IDs |
//! | tags | `tags` | EC2 user guide, Tag restrictions; EC2 API, TagSpecification |
//! | new things are not seen yet, or not ready | `things` | EC2 developer guide, Eventual consistency |
//! | VPCs and subnets: quota, what keeps them | `network` | EC2 API, CreateVpc; VPC user guide, Delete your VPC |
//! | route tables; ACLs, their last word, 20 entries | `tables`, `acls` | EC2 API, AssociateRouteTable; VPC user guide, Quotas |
//! | groups: peers, who uses them | `groups` | EC2 API, AuthorizeSecurityGroupEgress, DeleteSecurityGroup |
//! | endpoints: gateways, interfaces, private names | `endpoints` | PrivateLink guide |
//! | interfaces that linger on | `interfaces` | EC2 user guide, Requester-managed network interfaces |
//! | flow logs | `flow_logs` | EC2 API, CreateFlowLogs, DeleteVpc |
//! | ways out | `gateways` | EC2 API, DescribeInternetGateways … |
//! | launches: zones, capacity, cores, volumes, tenancy | `machines` | EC2 API, RunInstances; EC2 user guide, Troubleshoot launch |
//! | termination, console | `instances` | EC2 API, TerminateInstances, GetConsoleOutput |
//! | the DNS firewall | `firewall` | Route 53 API, AssociateFirewallRuleGroup … |
//! | guards, quotas, offers | `guards` | VPC user guide, Block public access; Service Quotas API |
//! | zones, attaching, detaching, how full a volume is | `volumes` | EC2 API, AttachVolume; EBS user guide, Initialization |
//! | filters, pages | `listing` | EC2 API, Query requests |
//! | blocks, tokens, checksums | `blocks` | EBS API, ListSnapshotBlocks, ListChangedBlocks, GetSnapshotBlock |
//! | throttled, lost answers, regions that are down | `rules` | EC2 developer guide, Throttling |
//!
//! Not modelled: permissions, signatures, quotas but those above, fast snapshot restore, the
//! recycle bin, writing blocks, traffic, whether an instance profile or a log's bucket is there,
//! encryption by default, several instances or interfaces in one launch, DescribeTags of
//! what the front keeps, and that a client token of RunInstances is another one in another zone.

// A toolbox: what one test leaves unused another takes up.
#![allow(dead_code, unused_imports)]

mod acls;
mod blocks;
mod ec2;
mod endpoints;
mod firewall;
mod flow_logs;
mod gateways;
mod groups;
mod guards;
mod hooks;
mod images;
mod instances;
mod interfaces;
mod inventory;
mod listing;
mod locks;
mod machines;
mod moto;
mod network;
mod production;
mod query;
mod rules;
mod settings;
mod snapshots;
mod tables;
mod tags;
mod things;
mod tiers;
mod tokens;
mod views;
mod volumes;
mod world;
mod xml;

pub use inventory::InventoryItem;
pub use rules::{Checksum, Fault, Rule};
pub use settings::Settings;
pub use views::{InstanceView, LockView, SnapshotView, VolumeView, VpcView};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;

use machines::Stage;
use moto::Moto;
use query::{Query, tag_params, written};
use world::{GIB, Image, Refusal, State, World};
use xml::Node;

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
            account: moto.account.clone(),
            contents: contents.path().to_owned(),
            state: Mutex::new(State::default()),
            rules: rules::Rules::default(),
            calls: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(serve(listener, Arc::clone(&world)));
        Self { url, world, runtime: Some(runtime), _moto: moto, _contents: contents }
    }

    /// What AWS clients need to find it.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let services = [
            "AWS_ENDPOINT_URL_EC2",
            "AWS_ENDPOINT_URL_EBS",
            "AWS_ENDPOINT_URL_STS",
            "AWS_ENDPOINT_URL_ROUTE53RESOLVER",
            "AWS_ENDPOINT_URL_SERVICE_QUOTAS",
        ];
        let mut env: Vec<_> = services.map(|name| (name, self.url.clone())).into();
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

    /// Moves the front's clock: locks expire, temporary restores end, tokens of blocks are no good
    /// any more.
    pub fn later(&self, by: SignedDuration) {
        self.world.state().ahead += by;
    }

    /// As if every snapshot had been begun so much earlier.
    pub fn age_snapshots(&self, by: SignedDuration) {
        for snap in self.world.state().snapshots.values_mut() {
            snap.started -= by;
        }
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
        state.things.values_mut().for_each(things::Thing::settle);
        state.firewall.settle();
        state.interfaces.retain(|_, interface| interface.lingers.is_none());
        let under_way =
            |stage: Stage| matches!(stage, Stage::Pending(Some(_)) | Stage::ShuttingDown(_));
        let machines = state.machines.iter().filter(|(_, machine)| under_way(machine.stage));
        let machines: Vec<(String, String)> =
            machines.map(|(id, machine)| (id.clone(), machine.region.clone())).collect();
        drop(state);
        for (id, region) in machines {
            self.look(async {
                instances::arrive(&self.world, &self.query(&region, "TerminateInstances"), &id)
                    .await
            });
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

    /// Right after the next call of an action was answered, somebody else makes these calls, in the
    /// same region; in them `$vpc`, `$rtb`, `$igw` … stand for the newest thing that a call
    /// made whose ids begin so.
    pub fn then_call(&self, action: &str, calls: &[(&str, &[(&str, &str)])]) {
        self.when(action, 0, calls);
    }

    /// The same, when so many such calls have passed before.
    pub fn when(&self, action: &str, after: u32, calls: &[(&str, &[(&str, &str)])]) {
        let owned = |params: &[(&str, &str)]| {
            params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let calls =
            calls.iter().map(|(action, params)| ((*action).to_owned(), owned(params))).collect();
        self.world.state().hooks.push(hooks::Hook { action: action.to_owned(), after, calls });
    }

    /// Calls EC2, the DNS firewall or the quotas as the default account, through the front; fails
    /// if it is refused.
    #[track_caller]
    pub fn call(&self, region: &str, action: &str, params: &[(&str, &str)]) -> String {
        let (status, answer) = self.try_call(region, action, params);
        assert!(status == 200, "{action} {params:?}: {status} {answer}");
        answer
    }

    /// The same, with the status.
    pub fn try_call(&self, region: &str, action: &str, params: &[(&str, &str)]) -> (u16, String) {
        let params: Vec<(String, String)> =
            params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (head, body) = request_of(region, action, &params).into_parts();
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
        let params = [
            ("ImageId", "ami-12345678"),
            ("InstanceType", "t3.micro"),
            ("MinCount", "1"),
            ("MaxCount", "1"),
        ];
        let answer = self.call(
            region,
            "RunInstances",
            &[&params[..], &[("Placement.AvailabilityZone", zone)]].concat(),
        );
        let id = Node::parse(&answer).unwrap().get("instancesSet/item/instanceId").to_owned();
        let mut state = self.world.state();
        state.machines.get_mut(&id).unwrap().stage = Stage::Running;
        state.things.get_mut(&id).unwrap().settle();
        id
    }

    /// An available `gp3` volume whose content is a sparse file of exactly this size. EC2 counts in
    /// GiB and is told the next whole number.
    pub fn volume(
        &self,
        region: &str,
        zone: &str,
        bytes: u64,
        key_arn: Option<&str>,
        tags: &[(&str, &str)],
    ) -> String {
        let tags = tags
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>();
        let tags = tag_params("volume", &tags);
        let gib = bytes.div_ceil(GIB).max(1).to_string();
        let mut params =
            vec![("AvailabilityZone", zone), ("Size", gib.as_str()), ("VolumeType", "gp3")];
        params
            .extend(key_arn.into_iter().flat_map(|key| [("Encrypted", "true"), ("KmsKeyId", key)]));
        params.extend(tags.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let id = Node::parse(&self.call(region, "CreateVolume", &params))
            .unwrap()
            .get("volumeId")
            .to_owned();
        std::fs::File::options().write(true).open(self.image(&id)).unwrap().set_len(bytes).unwrap();
        self.world.state().volumes.get_mut(&id).unwrap().creating.end();
        id
    }

    /// Attached at once.
    pub fn attach(&self, region: &str, volume: &str, instance: &str, device: &str) {
        self.call(
            region,
            "AttachVolume",
            &[("VolumeId", volume), ("InstanceId", instance), ("Device", device)],
        );
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
        let id = format!("ami-{:017x}", self.world.state().number());
        self.add_image(region, &id, snapshot, &id);
        id
    }

    /// A registered image with a root volume of 2 GiB that holds nothing.
    pub fn register_image(&self, region: &str, name: &str) -> String {
        let query = self.query(region, "CreateSnapshot");
        let (account, answer) = self.look(async {
            let account = self.world.account(&query).await?;
            Ok((account, self.world.bare_snapshot(&query, 2, false, &BTreeMap::new()).await?))
        });
        let snapshot = answer.get("snapshotId").to_owned();
        let id = {
            let mut state = self.world.state();
            let snap = snapshots::new(&query, &account, &answer, state.now());
            state.snapshots.insert(snapshot.clone(), world::Snap { gib: 2, ..snap });
            state.new_id("ami")
        };
        self.world.new_content(&snapshot, 2 * GIB);
        self.add_image(region, &id, &snapshot, name);
        id
    }

    fn add_image(&self, region: &str, id: &str, snapshot: &str, name: &str) {
        let mut state = self.world.state();
        let [region, snapshot, name, root] =
            [region, snapshot, name, "/dev/xvda"].map(str::to_owned);
        let image = Image { region, snapshot, name, root, created: state.now() };
        state.images.insert(id.to_owned(), image);
    }

    /// A rule group of the DNS firewall: priority, action and domains of each rule.
    pub fn firewall_group(&self, region: &str, rules: &[(i32, &str, &[&str])]) -> String {
        let mut state = self.world.state();
        let rule = |(priority, action, domains): &(i32, &str, &[&str])| {
            let domains = domains.iter().map(|domain| (*domain).to_owned()).collect();
            (*priority, (*action).to_owned(), state.new_id("rslvr-fdl"), domains)
        };
        let rules = rules.iter().map(rule).collect();
        let id = state.new_id("rslvr-frg");
        state.firewall.add(&id, region, rules);
        id
    }

    /// What an instance writes on its console.
    #[track_caller]
    pub fn write_console(&self, region: &str, instance: &str, text: &str) {
        let mut state = self.world.state();
        let machine = state.machines.get_mut(instance).filter(|machine| machine.region == region);
        let console =
            &mut machine.unwrap_or_else(|| panic!("there is no {instance} in {region}")).console;
        console.extend(text.as_bytes());
        let before = console.len().saturating_sub(64 * 1024);
        console.drain(..before);
    }

    /// An instance powers itself off.
    pub fn power_off(&self, region: &str, instance: &str) {
        let query = self.query(region, "TerminateInstances");
        self.look(async { instances::power_off(&self.world, &query, instance).await });
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
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // Asynchronous tests may drop it, too.
        self.runtime.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
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
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
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
            return Ok(refused(
                &query,
                &Refusal {
                    status: *status,
                    ..world::refusal(code, "The front was told to refuse this")
                },
            ));
        }
        _ => {}
    }
    let answer = match query.service.as_str() {
        "ebs" => blocks(&world, &query).await,
        "ec2" => ec2(&world, &query, head, body).await,
        "route53resolver" | "servicequotas" => json(&world, &query).await,
        "kms" if query.is("DryRun") => Err(tried_out()),
        _ => pass(&world, head, body).await,
    };
    if call.is_some() && answer.is_ok() {
        for (action, params) in hooks::following(&world, &query) {
            let params = hooks::filled_in(&world, &query.region, params);
            let (head, body) = request_of(&query.region, &action, &params).into_parts();
            let response = Box::pin(respond(Arc::clone(&world), head, body)).await?;
            assert!(
                response.status().is_success(),
                "{action} after {}: {response:?}",
                query.action
            );
        }
    }
    let outcome = match &answer {
        _ if fault.is_some() => Outcome::Lost,
        Ok(_) => Outcome::Done,
        Err(refusal) => Outcome::Refused(refusal.code.clone()),
    };
    world.ended(call, outcome);
    if fault.is_some() {
        broken()
    } else {
        Ok(answer.unwrap_or_else(|refusal| refused(&query, &refusal)))
    }
}

/// What goes wrong with this call, after the time it takes.
async fn struck(world: &World, query: &Query) -> Option<Fault> {
    let subjects: Vec<&str> = query.params.values().map(String::as_str).collect();
    if let Some(Fault::Delay(time)) =
        world.rules.take(query, &subjects, |fault| matches!(fault, Fault::Delay(_)))
    {
        tokio::time::sleep(time).await;
    }
    world.rules.take(query, &subjects, |fault| {
        matches!(fault, Fault::Refuse { .. } | Fault::LoseAnswer | Fault::Drop)
    })
}

/// A call of the test itself.
fn request_of(region: &str, action: &str, params: &[(String, String)]) -> Request<Bytes> {
    let service = hooks::service(action);
    let scope = format!("{KEY}/20260101/{region}/{service}/aws4_request");
    let request = Request::post("/")
        .header("host", "localhost")
        .header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"),
        )
        .header(OURS, "yes");
    if service != "ec2" {
        let body: BTreeMap<&String, &String> =
            params.iter().map(|(name, value)| (name, value)).collect();
        return request
            .header("x-amz-target", action)
            .body(serde_json::to_vec(&body).unwrap().into())
            .unwrap();
    }
    let named =
        [("Action".to_owned(), action.to_owned()), ("Version".to_owned(), "2016-11-15".to_owned())];
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    request.body(Bytes::from(written(&[&named[..], params].concat()))).unwrap()
}

async fn ec2(
    world: &World,
    query: &Query,
    head: Parts,
    body: Bytes,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let _turn = world.turn.lock().await;
    let account = world.account(query).await?;
    let Some(children) = ec2::answer(world, query, &account).await? else {
        let changes = !query.action.starts_with("Describe") && !query.action.starts_with("Get");
        if changes {
            world.changing(&query.action);
        }
        let response = pass(world, head, body).await?;
        if changes && response.status().is_success() {
            let body = response
                .body()
                .clone()
                .collect()
                .await
                .unwrap_or_else(|error| match error {})
                .to_bytes();
            Node::parse(&String::from_utf8_lossy(&body))
                .into_iter()
                .for_each(|answer| world.newest(query, &answer));
        }
        return Ok(response);
    };
    let name = format!("{}Response", query.action);
    let xml: String = children.iter().map(Node::write).collect();
    let xml = format!(
        "<?xml version=\"1.0\"?><{name} xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">{xml}</{name}>"
    );
    Ok(Response::builder().header("content-type", "text/xml").body(Full::new(xml.into())).unwrap())
}

/// Services that speak JSON.
async fn json(world: &World, query: &Query) -> Result<Response<Full<Bytes>>, Refusal> {
    let _turn = world.turn.lock().await;
    let account = world.account(query).await?;
    let answer = match query.service.as_str() {
        "servicequotas" => guards::quota(world, query, &account),
        _ => firewall::answer(world, query, &account).await,
    }?;
    Ok(Response::builder()
        .header("content-type", JSON)
        .body(Full::new(answer.to_string().into()))
        .unwrap())
}

/// moto does what is only asked about. <https://docs.aws.amazon.com/kms/latest/developerguide/testing-permissions.html>
fn tried_out() -> Refusal {
    let why = "The request would have succeeded, but the DryRun option is set.";
    Refusal { status: 412, ..world::refusal("DryRunOperationException", why) }
}

const JSON: &str = "application/x-amz-json-1.1";

/// What the front does not model.
async fn pass(world: &World, head: Parts, body: Bytes) -> Result<Response<Full<Bytes>>, Refusal> {
    let (head, body) = world
        .pass(head, body)
        .await
        .map_err(|error| world::refusal("InternalError", error.to_string()))?;
    Ok(Response::from_parts(head, Full::new(body)))
}

async fn blocks(world: &Arc<World>, query: &Query) -> Result<Response<Full<Bytes>>, Refusal> {
    let sent = blocks::answer(world, query).await?;
    let response = Response::builder().header("content-type", sent.kind);
    let response = sent
        .headers
        .into_iter()
        .fold(response, |response, (name, value)| response.header(name, value));
    Ok(response.body(Full::new(sent.body)).unwrap())
}

/// An error as each protocol has it. EC2: <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html#api-error-response>,
/// EBS direct: <https://docs.aws.amazon.com/ebs/latest/APIReference/API_GetSnapshotBlock.html>, Errors,
/// JSON: <https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html#operation-error-serialization>
fn refused(query: &Query, refusal: &Refusal) -> Response<Full<Bytes>> {
    let response = Response::builder().status(refusal.status);
    if query.service == "ebs" {
        let mut body = serde_json::json!({"Message": refusal.message, "__type": refusal.code});
        if let Some(reason) = refusal.reason {
            body["Reason"] = reason.into();
        }
        let response = response
            .header("content-type", "application/json")
            .header("x-amzn-ErrorType", &refusal.code);
        return response.body(Full::new(body.to_string().into())).unwrap();
    }
    if ["route53resolver", "servicequotas", "kms"].contains(&query.service.as_str()) {
        let body = serde_json::json!({"__type": refusal.code, "message": refusal.message, "Message": refusal.message});
        return response
            .header("content-type", JSON)
            .body(Full::new(body.to_string().into()))
            .unwrap();
    }
    let error = Node::new(
        "Error",
        vec![Node::leaf("Code", &refusal.code), Node::leaf("Message", &refusal.message)],
    );
    let errors = Node::new(
        "Response",
        vec![Node::new("Errors", vec![error]), Node::leaf("RequestID", "the-front")],
    );
    let body = format!("<?xml version=\"1.0\"?>{}", errors.write());
    response.header("content-type", "text/xml").body(Full::new(body.into())).unwrap()
}

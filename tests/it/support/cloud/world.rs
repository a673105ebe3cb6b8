//! What the front knows beside moto: states, keys, locks, tiers, contents, and a clock that can be
//! moved.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::http::request::Parts;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};

use super::query::{Query, tag_params, written};
use super::rules::Rules;
use super::xml::Node;
use super::{Call, Outcome, Settings};

pub const GIB: u64 = 1 << 30;
/// The account of moto's that tests know.
const DEFAULT_ACCOUNT: &str = "123456789012";

/// An error of the service.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
    /// Of the EBS direct APIs.
    pub reason: Option<&'static str>,
}

/// A client error, as <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html> names it.
pub fn refusal(code: &str, message: impl Into<String>) -> Refusal {
    Refusal { status: 400, code: code.to_owned(), message: message.into(), reason: None }
}

pub type Answer<T = Vec<Node>> = Result<T, Refusal>;

/// So many looks until something is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Countdown {
    total: u32,
    left: u32,
}

impl Countdown {
    pub fn of(total: u32) -> Self {
        Self { total, left: total }
    }
    pub fn done(self) -> bool {
        self.left == 0
    }
    pub fn percent(self) -> u32 {
        ((self.total - self.left) * 100).checked_div(self.total).unwrap_or(100)
    }
    /// Whether it is done by this look.
    pub fn tick(&mut self) -> bool {
        let before = self.left;
        self.left = self.left.saturating_sub(1);
        before == 1
    }
    pub fn end(&mut self) {
        self.left = 0;
    }
}

pub struct Snap {
    pub region: String,
    pub account: String,
    /// What is told; of a copy it means nothing.
    pub volume: String,
    pub copy_of: Option<String>,
    /// Snapshots of one lineage can be compared.
    pub lineage: String,
    pub key: Option<String>,
    pub gib: u64,
    pub description: String,
    pub started: Timestamp,
    pub pending: Countdown,
    /// Why it will end in the state `error`.
    pub fails: Option<String>,
    /// Accounts that may use it, and `all`.
    pub shared: BTreeSet<String>,
    pub lock: Option<super::locks::Lock>,
    pub tier: super::tiers::Tier,
}

impl Snap {
    pub fn state(&self) -> &'static str {
        match (self.pending.done(), &self.fails) {
            (false, _) => "pending",
            (true, None) => "completed",
            (true, Some(_)) => "error",
        }
    }
    /// May be used by an account.
    pub fn open_to(&self, account: &str) -> bool {
        self.account == account || self.shared.contains(account) || self.shared.contains("all")
    }
}

pub struct Vol {
    pub region: String,
    pub zone: String,
    pub lineage: String,
    pub key: Option<String>,
    pub snapshot: Option<String>,
    /// MiB/s.
    pub rate: Option<u32>,
    pub creating: Countdown,
    /// It will be gone before it is there.
    pub vanishes: bool,
    pub filling: Countdown,
    /// What moto has done already and is still shown as being done.
    pub moving: Option<Moving>,
}

/// A volume on its way to an instance, or from it.
#[derive(Debug, Clone)]
pub struct Moving {
    /// `attaching` or `detaching`.
    pub state: &'static str,
    pub instance: String,
    pub device: String,
    pub since: String,
    pub countdown: Countdown,
    pub stuck: bool,
}

/// A registered image, of the account that asks.
pub struct Image {
    pub region: String,
    /// What its root volume is made from.
    pub snapshot: String,
    pub name: String,
    pub root: String,
    pub created: Timestamp,
}

/// A client token with its account, region and action.
pub type Token = (String, String, String, String);

#[derive(Default)]
pub struct State {
    pub settings: Settings,
    pub ahead: SignedDuration,
    pub snapshots: BTreeMap<String, Snap>,
    pub volumes: BTreeMap<String, Vol>,
    /// Registered images.
    pub images: BTreeMap<String, Image>,
    /// What was asked with a client token, and the answer.
    pub tokens: HashMap<Token, (BTreeMap<String, String>, Vec<Node>)>,
    /// Tokens of pages: what they belong to, and after which id they go on.
    pub pages: HashMap<String, (String, String)>,
    pub accounts: HashMap<String, String>,
    /// What is new, by id: not seen yet, or not ready.
    pub things: BTreeMap<String, super::things::Thing>,
    /// The newest of each kind of a region, by what its ids begin with.
    pub newest: HashMap<(String, String), String>,
    pub machines: BTreeMap<String, super::machines::Machine>,
    pub endpoints: BTreeMap<String, super::endpoints::Endpoint>,
    /// Network interfaces of endpoints.
    pub interfaces: BTreeMap<String, super::interfaces::Interface>,
    pub flow_logs: BTreeMap<String, super::flow_logs::FlowLog>,
    /// Instance connect endpoints: region and what is told.
    pub connect_endpoints: BTreeMap<String, (String, Node)>,
    pub firewall: super::firewall::Firewall,
    /// Associations that were replaced: by which ACL, and the new one.
    pub replaced: HashMap<String, (String, String)>,
    pub hooks: Vec<super::hooks::Hook>,
    memory: Memory,
    made: u64,
}

/// What moto said, until a call may have changed it.
#[derive(Default)]
struct Memory {
    said: HashMap<String, Node>,
    /// Counts the changes.
    changes: u64,
    /// Actions of moto's that were ever used: what was never created is not there.
    used: BTreeSet<String>,
}

impl State {
    /// A number that was not used before.
    pub fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }
    /// Whether moto was ever asked for this.
    pub fn used(&self, action: &str) -> bool {
        self.memory.used.contains(action)
    }
    /// An id that nothing has.
    pub fn new_id(&mut self, prefix: &str) -> String {
        let number = self.number();
        format!("{prefix}-{:017x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 4)
    }
    /// The clock of the front.
    pub fn now(&self) -> Timestamp {
        Timestamp::now() + self.ahead
    }
    /// A snapshot that an account may use; others do not exist for it.
    pub fn snapshot(&self, query: &Query, account: &str, id: &str) -> Answer<&Snap> {
        let found = self
            .snapshots
            .get(id)
            .filter(|snap| snap.region == query.region && snap.open_to(account));
        found.ok_or_else(|| {
            refusal("InvalidSnapshot.NotFound", format!("The snapshot '{id}' does not exist."))
        })
    }
    /// A snapshot that an account owns.
    pub fn own(&mut self, query: &Query, account: &str, id: &str) -> Answer<&mut Snap> {
        if self.snapshot(query, account, id)?.account != account {
            return Err(refusal(
                "UnauthorizedOperation",
                format!("{id} belongs to another account"),
            ));
        }
        Ok(self.snapshots.get_mut(id).unwrap())
    }
}

pub fn tag_set(tags: &BTreeMap<String, String>) -> Node {
    let tag = |(key, value): (&String, &String)| {
        Node::new("item", vec![Node::leaf("key", key), Node::leaf("value", value)])
    };
    Node::new("tagSet", tags.iter().map(tag).collect())
}

pub fn written_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}

/// The key that a call names, as an ARN; `alias/aws/ebs` if it names none.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateVolume.html>, KmsKeyId
pub fn key_arn(query: &Query, account: &str) -> String {
    match query.get("KmsKeyId") {
        Some(arn) if arn.starts_with("arn:") => arn.to_owned(),
        Some(alias) if alias.starts_with("alias/") => {
            format!("arn:aws:kms:{}:{account}:{alias}", query.region)
        }
        Some(id) => format!("arn:aws:kms:{}:{account}:key/{id}", query.region),
        None => format!("arn:aws:kms:{}:{account}:alias/aws/ebs", query.region),
    }
}

/// Keys work in their region only. <https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html>
pub fn key_of(region: &str, arn: &str) -> bool {
    arn.split(':').nth(3) == Some(region)
}

pub struct World {
    pub moto: u16,
    /// Stands for the default account where moto is shared with other tests.
    pub account: Option<String>,
    pub contents: PathBuf,
    pub state: Mutex<State>,
    pub rules: Rules,
    pub calls: Mutex<Vec<Call>>,
    /// Calls of EC2 happen one after the other.
    pub turn: tokio::sync::Mutex<()>,
}

impl World {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The file with the content of a volume or snapshot.
    pub fn content(&self, id: &str) -> PathBuf {
        self.contents.join(id)
    }

    /// The content as it is now, in a file of its own.
    pub fn copy_content(&self, from: &str, to: &str) {
        let mut copy = Command::new("cp");
        copy.args(["--reflink=auto", "--sparse=always", "--"])
            .arg(self.content(from))
            .arg(self.content(to));
        assert!(copy.status().unwrap().success(), "copying the content of {from} to {to}");
    }

    /// Nothing, of this size.
    pub fn new_content(&self, id: &str, bytes: u64) {
        std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.content(id))
            .unwrap()
            .set_len(bytes)
            .unwrap();
    }

    pub fn forget_content(&self, id: &str) {
        let _ = std::fs::remove_file(self.content(id));
    }

    pub fn content_exists(&self, id: &str) -> bool {
        Path::new(&self.content(id)).exists()
    }

    /// Writes a call down and returns its place.
    pub fn note(&self, query: &Query) -> usize {
        let Query { region, action, params, .. } = query.clone();
        let mut calls = self.calls.lock().unwrap();
        calls.push(Call { region, action, params, outcome: Outcome::Underway });
        calls.len() - 1
    }

    pub fn ended(&self, call: Option<usize>, outcome: Outcome) {
        if let Some(call) = call {
            self.calls.lock().unwrap()[call].outcome = outcome;
        }
    }

    /// The account that a key belongs to: the default one, or that of the role it was got for.
    pub async fn account(&self, query: &Query) -> Answer<String> {
        if let Some(account) = self.state().accounts.get(&query.key) {
            return Ok(account.clone());
        }
        let query = Query { service: "sts".to_owned(), ..query.clone() };
        let answer = self.moto(&query, "GetCallerIdentity", &[]).await?;
        let account = answer.get("GetCallerIdentityResult/Account").to_owned();
        assert!(!account.is_empty(), "whose key is {}? {}", query.key, answer.write());
        self.state().accounts.insert(query.key, account.clone());
        Ok(account)
    }

    /// Asks moto, for the same account and region; what it said is said again as long as nothing
    /// changed.
    pub async fn moto(
        &self,
        query: &Query,
        action: &str,
        params: &[(String, String)],
    ) -> Answer<Node> {
        if query.service != "ec2" {
            return self.ask(query, action, params).await;
        }
        if !action.starts_with("Describe") {
            self.changing(action);
            return self.ask(query, action, params).await;
        }
        let what = format!("{action} {} {} {params:?}", query.key, query.region);
        let changes = {
            let state = self.state();
            if let Some(said) = state.memory.said.get(&what) {
                return Ok(said.clone());
            }
            state.memory.changes
        };
        let answer = self.ask(query, action, params).await?;
        let mut state = self.state();
        if state.memory.changes == changes {
            state.memory.said.insert(what, answer.clone());
        }
        Ok(answer)
    }

    /// Before moto is asked for this, what it said of the things that this may change is forgotten.
    pub fn changing(&self, action: &str) {
        let memory = &mut self.state().memory;
        memory.changes += 1;
        memory.used.insert(action.to_owned());
        match changed_by(action) {
            [] => memory.said.clear(),
            kinds => memory.said.retain(|what, _| {
                let kind = what
                    .split(' ')
                    .next()
                    .and_then(|action| action.strip_prefix("Describe"))
                    .unwrap_or_default();
                !kinds.contains(&kind)
            }),
        }
    }

    /// Takes in what a call made that is not modelled: `<internetGateway>` has an
    /// `<internetGatewayId>`.
    pub fn newest(&self, query: &Query, answer: &Node) {
        for made in &answer.children {
            let id = made.get(&format!("{}Id", made.name));
            if !id.is_empty() {
                let kind = super::things::prefix(id).to_owned();
                self.state().newest.insert((query.region.clone(), kind), id.to_owned());
            }
        }
    }

    /// The items of a list of moto's.
    pub async fn listed(&self, query: &Query, action: &str, set: &str) -> Answer {
        Ok(self.moto(query, action, &[]).await?.items(set).to_vec())
    }

    async fn ask(&self, query: &Query, action: &str, params: &[(String, String)]) -> Answer<Node> {
        let version = if query.service == "sts" { "2011-06-15" } else { "2016-11-15" };
        let named =
            [("Action".to_owned(), action.to_owned()), ("Version".to_owned(), version.to_owned())];
        let scope =
            format!("{}/20260101/{}/{}/aws4_request", query.key, query.region, query.service);
        let request = Request::post("/")
            .header("host", format!("127.0.0.1:{}", self.moto))
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"),
            )
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(written(&[&named[..], params].concat()))))
            .unwrap();
        let (head, body) =
            self.send(request).await.map_err(|error| internal(&error.to_string()))?;
        let text = String::from_utf8_lossy(&body);
        let answer = Node::parse(&text).ok_or_else(|| {
            internal(&format!("moto answers {} to {action}: {text}", head.status))
        })?;
        if head.status.is_success() {
            return Ok(answer);
        }
        let (code, message) = (answer.get("Errors/Error/Code"), answer.get("Errors/Error/Message"));
        Err(Refusal { status: head.status.as_u16(), ..refusal(code, message) })
    }

    /// Hands a request on to moto.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> std::io::Result<(hyper::http::response::Parts, Bytes)> {
        let Some(account) = &self.account else { return self.send_as_it_is(request).await };
        let (mut head, body) = request.into_parts();
        let exchange = |bytes: Bytes, from: &str, to: &str| {
            Bytes::from(String::from_utf8_lossy(&bytes).replace(from, to))
        };
        let body = exchange(
            body.collect().await.unwrap_or_else(|error| match error {}).to_bytes(),
            DEFAULT_ACCOUNT,
            account,
        );
        // Whoever has the credentials of a role is in that role's account.
        let default = format!("Credential={}/", super::KEY);
        if head
            .headers
            .get("authorization")
            .is_some_and(|value| value.to_str().is_ok_and(|value| value.contains(&default)))
        {
            head.headers.insert("x-moto-account-id", account.parse().unwrap());
        }
        head.headers.remove("content-length");
        let (head, body) = self.send_as_it_is(Request::from_parts(head, Full::new(body))).await?;
        Ok((head, exchange(body, account, DEFAULT_ACCOUNT)))
    }

    async fn send_as_it_is(
        &self,
        request: Request<Full<Bytes>>,
    ) -> std::io::Result<(hyper::http::response::Parts, Bytes)> {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.moto)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let (head, body) =
            sender.send_request(request).await.map_err(std::io::Error::other)?.into_parts();
        Ok((head, body.collect().await.map_err(std::io::Error::other)?.to_bytes()))
    }

    pub async fn pass(
        &self,
        head: Parts,
        body: Bytes,
    ) -> std::io::Result<(hyper::http::response::Parts, Bytes)> {
        self.send(Request::from_parts(head, Full::new(body))).await
    }

    /// The volumes that moto has, by id; those that came without us are taken in, such as those
    /// that an instance boots from.
    pub async fn volumes(&self, query: &Query) -> Answer<BTreeMap<String, Node>> {
        let answer = self.moto(query, "DescribeVolumes", &[]).await?;
        let volumes: BTreeMap<String, Node> = answer
            .items("volumeSet")
            .iter()
            .map(|item| (item.get("volumeId").to_owned(), item.clone()))
            .collect();
        for (id, item) in &volumes {
            if self.state().volumes.contains_key(id) {
                continue;
            }
            let key = Some(item.get("kmsKeyId")).filter(|key| !key.is_empty()).map(str::to_owned);
            self.new_content(id, item.get("size").parse::<u64>().unwrap() * GIB);
            self.state().volumes.insert(
                id.clone(),
                Vol {
                    region: query.region.clone(),
                    zone: item.get("availabilityZone").to_owned(),
                    lineage: id.clone(),
                    key,
                    snapshot: None,
                    rate: None,
                    creating: Countdown::default(),
                    vanishes: false,
                    filling: Countdown::default(),
                    moving: None,
                },
            );
        }
        Ok(volumes)
    }

    pub async fn volume(&self, query: &Query, id: &str) -> Answer<Node> {
        let found = self.volumes(query).await?.remove(id);
        found.ok_or_else(|| {
            refusal("InvalidVolume.NotFound", format!("The volume '{id}' does not exist."))
        })
    }

    pub async fn instance(&self, query: &Query, id: &str) -> Answer<Node> {
        let found = super::instances::all(self, query)
            .await?
            .into_iter()
            .find(|item| item.get("instanceId") == id);
        found.ok_or_else(|| {
            refusal("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
        })
    }

    /// A volume of moto's, no longer.
    pub async fn remove_volume(&self, query: &Query, id: &str) -> Answer<()> {
        self.moto(query, "DeleteVolume", &[("VolumeId".to_owned(), id.to_owned())]).await?;
        self.state().volumes.remove(id);
        self.forget_content(id);
        Ok(())
    }

    /// A snapshot of moto's that is of no volume: what stands for a copy, whose volume id means
    /// nothing.
    pub async fn bare_snapshot(
        &self,
        query: &Query,
        gib: u64,
        encrypted: bool,
        tags: &BTreeMap<String, String>,
    ) -> Answer<Node> {
        let size = [
            ("Size", gib.to_string()),
            ("AvailabilityZone", format!("{}a", query.region)),
            ("Encrypted", encrypted.to_string()),
        ];
        let mut params: Vec<(String, String)> =
            size.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        if encrypted {
            params.push(("KmsKeyId".to_owned(), "none".to_owned()));
        }
        let volume = self.moto(query, "CreateVolume", &params).await?.get("volumeId").to_owned();
        let mut params = tag_params("snapshot", tags);
        params.extend(query.those(&["Description"]));
        params.push(("VolumeId".to_owned(), volume.clone()));
        let snapshot = self.moto(query, "CreateSnapshot", &params).await?;
        self.moto(query, "DeleteVolume", &[("VolumeId".to_owned(), volume)]).await?;
        Ok(snapshot)
    }
}

/// What a call may change in moto's lists; nothing known: all of them.
fn changed_by(action: &str) -> &'static [&'static str] {
    match action {
        "CreateVpc" | "DeleteVpc" => {
            &["Vpcs", "RouteTables", "NetworkAcls", "SecurityGroups", "VpcAttribute"]
        }
        "ModifyVpcAttribute" => &["VpcAttribute"],
        "CreateSubnet" | "DeleteSubnet" => &["Subnets", "NetworkAcls", "RouteTables"],
        "CreateRouteTable"
        | "DeleteRouteTable"
        | "AssociateRouteTable"
        | "DisassociateRouteTable"
        | "CreateRoute"
        | "DeleteRoute" => &["RouteTables"],
        "CreateNetworkAcl"
        | "DeleteNetworkAcl"
        | "CreateNetworkAclEntry"
        | "ReplaceNetworkAclAssociation" => &["NetworkAcls"],
        "CreateSecurityGroup"
        | "DeleteSecurityGroup"
        | "AuthorizeSecurityGroupEgress"
        | "AuthorizeSecurityGroupIngress"
        | "RevokeSecurityGroupEgress"
        | "RevokeSecurityGroupIngress" => &["SecurityGroups"],
        "CreateVpcEndpoint" | "DeleteVpcEndpoints" => &["VpcEndpoints", "RouteTables"],
        "RunInstances" | "TerminateInstances" => {
            &["Instances", "NetworkInterfaces", "Subnets", "Volumes"]
        }
        "CreateVolume" | "DeleteVolume" | "AttachVolume" | "DetachVolume" => {
            &["Volumes", "Instances"]
        }
        "CreateSnapshot" | "DeleteSnapshot" => &["Snapshots"],
        _ => &[],
    }
}

fn internal(message: &str) -> Refusal {
    Refusal { status: 500, ..refusal("InternalError", message) }
}

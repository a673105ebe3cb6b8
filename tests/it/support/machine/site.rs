//! Who a machine is to the services: an instance of a VPC with a role's session.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use rand::RngExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::wire::header;
use super::{Settings, Shared};
use crate::support::cloud::InstanceView;

/// The account of everything, as moto names it.
pub const ACCOUNT: &str = "123456789012";
/// For so long the answer to "which endpoints are there" is used again.
const ENDPOINTS_FOR: Duration = Duration::from_millis(500);

/// Something that a machine asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub instance: String,
    /// `imds`, `s3` or `kms`.
    pub service: String,
    /// Such as `s3:GetObject`; of the metadata service the method.
    pub action: String,
    /// An ARN; of the metadata service the path.
    pub resource: String,
    pub allowed: bool,
    /// Why not.
    pub why: String,
}

type Policies = Vec<(String, Value)>;

pub struct Site {
    pub instance: String,
    pub zone: String,
    pub vpc: String,
    pub image: String,
    pub kind: String,
    pub private_ip: String,
    /// ARN of the instance profile; empty without one.
    pub profile: String,
    /// ARN.
    pub role: String,
    pub user_data: String,
    pub key_id: String,
    pub secret: String,
    pub token: String,
    pub shared: Arc<Shared>,
    /// Tokens of the metadata service, and until when they are good.
    pub tokens: Mutex<BTreeMap<String, Instant>>,
    /// Objects it put into an inbox.
    pub letters: AtomicUsize,
    frozen: AtomicBool,
    init: Mutex<Option<Pid>>,
    endpoints: tokio::sync::Mutex<Option<(Instant, Policies)>>,
}

/// Why a request does not pass.
pub enum Unsigned {
    /// By nobody, or by somebody else than this machine.
    Stranger(String),
    /// For another region: no endpoint of this VPC leads there.
    Elsewhere(String),
}

impl Site {
    pub fn new(view: &InstanceView, shared: Arc<Shared>, settings: &Settings) -> Arc<Self> {
        let random = |bytes: usize| {
            (0..bytes).map(|_| format!("{:02x}", rand::rng().random::<u8>())).collect::<String>()
        };
        let profile = view.profile.clone().unwrap_or_default();
        let name = profile.rsplit('/').next().unwrap_or_default();
        let role =
            settings.role.clone().unwrap_or_else(|| format!("arn:aws:iam::{ACCOUNT}:role/{name}"));
        let short: String = view.id.trim_start_matches("i-").chars().take(9).collect();
        Arc::new(Self {
            instance: view.id.clone(),
            zone: view.zone.clone(),
            vpc: view.vpc.clone(),
            image: view.image.clone(),
            kind: view.kind.clone(),
            private_ip: view.private_ip.clone(),
            profile,
            role,
            user_data: view.user_data.clone().unwrap_or_default(),
            key_id: format!("ASIAMACHINE{}", short.to_uppercase()),
            secret: random(20),
            token: random(40),
            shared,
            tokens: Mutex::default(),
            letters: AtomicUsize::new(0),
            frozen: AtomicBool::new(false),
            init: Mutex::default(),
            endpoints: tokio::sync::Mutex::default(),
        })
    }

    pub fn region(&self) -> &str {
        &self.shared.region
    }

    pub fn note(&self, service: &str, action: &str, resource: &str, why_not: Option<&str>) {
        let [service, action, resource] = [service, action, resource].map(str::to_owned);
        let (allowed, why) = (why_not.is_none(), why_not.unwrap_or_default().to_owned());
        self.shared.requests.lock().unwrap().push(Request {
            instance: self.instance.clone(),
            service,
            action,
            resource,
            allowed,
            why,
        });
    }

    /// The policies of the VPC's endpoints for a service, such as `s3`. None: it cannot be reached
    /// at all.
    pub async fn policies(&self, service: &str) -> Vec<Value> {
        let mut kept = self.endpoints.lock().await;
        if kept.as_ref().is_none_or(|(since, _)| since.elapsed() > ENDPOINTS_FOR) {
            let (shared, vpc) = (Arc::clone(&self.shared), self.vpc.clone());
            let found = tokio::task::spawn_blocking(move || {
                shared.cloud.endpoint_policies(&shared.region, &vpc)
            })
            .await;
            let lost = |error: tokio::task::JoinError| {
                self.shared.complain(&self.vpc, &format!("its endpoints are not told: {error}"))
            };
            *kept = Some((Instant::now(), found.map_err(lost).unwrap_or_default()));
        }
        let name = format!("com.amazonaws.{}.{service}", self.region());
        kept.iter()
            .flat_map(|(_, found)| found)
            .filter(|(found, _)| *found == name)
            .map(|(_, policy)| policy.clone())
            .collect()
    }

    /// Whether a request is signed by this machine, for this region: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-signing-elements.html>.
    /// The signature itself is not computed again.
    pub fn signed(&self, headers: &HeaderMap) -> Result<(), Unsigned> {
        let scope = header(headers, "authorization")
            .split_once("Credential=")
            .map_or("", |(_, rest)| rest.split(',').next().unwrap_or(""));
        let scope: Vec<&str> = scope.split('/').collect();
        if scope[0] != self.key_id {
            return Err(Unsigned::Stranger(format!("the access key is {:?}", scope[0])));
        }
        // Temporary credentials are none without it: IAM user guide, Using temporary credentials.
        if header(headers, "x-amz-security-token") != self.token {
            return Err(Unsigned::Stranger("the session token is missing or another's".to_owned()));
        }
        match scope.get(2) {
            Some(region) if *region == self.region() => Ok(()),
            region => Err(Unsigned::Elsewhere(format!(
                "it is signed for region {:?}",
                region.unwrap_or(&"")
            ))),
        }
    }

    /// What policies may ask about any request: IAM user guide, Global condition context keys.
    pub fn context(&self) -> BTreeMap<String, Vec<String>> {
        let session =
            format!("{}:{}", self.role.rsplit('/').next().unwrap_or_default(), self.instance);
        let arn = format!("arn:aws:ec2:{}:{ACCOUNT}:instance/{}", self.region(), self.instance);
        let known = [
            ("aws:principalaccount", ACCOUNT),
            ("aws:resourceaccount", ACCOUNT),
            ("aws:principalarn", &self.role),
            ("aws:principaltype", "AssumedRole"),
            ("aws:userid", &session),
            ("aws:requestedregion", self.region()),
            ("aws:sourcevpc", &self.vpc),
            ("aws:ec2instancesourcevpc", &self.vpc),
            ("aws:ec2instancesourceprivateipv4", &self.private_ip),
            ("ec2:sourceinstancearn", &arn),
            // It is not, but it stands for what is.
            ("aws:securetransport", "true"),
        ];
        known.into_iter().map(|(name, value)| (name.to_owned(), vec![value.to_owned()])).collect()
    }

    /// Its first process is this.
    pub fn runs_as(&self, init: Option<Pid>) {
        *self.init.lock().unwrap() = init;
    }

    /// Waits for ever if the machine stands still.
    pub async fn unless_frozen(&self) {
        if self.frozen.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    /// Stops all its processes but the first, which ends with the test.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
        let Some(init) = *self.init.lock().unwrap() else { return };
        // Twice: what was begun meanwhile stops, too.
        for _ in 0..2 {
            for process in below(init) {
                let _ = kill_process(process, Signal::STOP);
            }
        }
    }
}

/// All descendants of a process. Orphans of a machine fall to its first process, so nothing
/// escapes.
fn below(init: Pid) -> Vec<Pid> {
    let parents: Vec<(i32, i32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name, in parentheses, may hold anything.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, parent))
        })
        .collect();
    let mut found = vec![init.as_raw_nonzero().get()];
    let mut at = 0;
    while at < found.len() {
        let children =
            parents.iter().filter(|(_, parent)| *parent == found[at]).map(|(child, _)| *child);
        found.extend(children.collect::<Vec<_>>());
        at += 1;
    }
    found.into_iter().skip(1).filter_map(Pid::from_raw).collect()
}

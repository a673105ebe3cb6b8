//! The scratch VPC as data: its settings, the tags of a run, its cost, and the documents exchanged
//! between lifeboat and the agent on the instance: the lease that any host can see, the order that
//! the agent gets, and the signed messages that it sends.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::{DocumentError, format_of};
use super::drill::{CheckResult, ControlResult, DrillHalt, Scenario};
use super::evidence::{DrillMoments, RestoredBackup, StepTime};
use super::human_duration::HumanDuration;
use super::id::{BackupId, DatastoreName, VaultId};
use super::net::Cidr;
use super::volumes::ResourceTags;

/// Tags of everything that a run makes.
pub mod tag {
    /// The run. Together with [`VAULT`] it says that a thing may be removed.
    pub const RUN: &str = "lifeboat:run";
    pub use crate::domain::volumes::tag::VAULT;
    /// The drill.
    pub const DRILL: &str = "lifeboat:drill";
    /// When it should be gone, for whoever finds it.
    pub const EXPIRES: &str = "lifeboat:expires";
}

/// Which image instances boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageChoice {
    /// This one, if it is what its digest says.
    Pinned {
        /// The image.
        id: String,
        /// SHA-256 over what EC2 says of it ([`ScratchSettings::image`]).
        digest: Option<String>,
    },
    /// The one that an instance runs now, for parity with production.
    OfInstance(String),
}

/// `[scratch_vpc]`: what drills in the cloud are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScratchSettings {
    /// The region.
    pub region: String,
    /// A role of the drill account that is assumed; none: the own credentials.
    pub role: Option<String>,
    /// The account in which drills happen. In another nothing is made.
    pub account: String,
    /// The account of production, where it is another.
    pub production_account: Option<String>,
    /// CIDR of the VPC.
    pub cidr: Cidr,
    /// CIDRs of production, which it may not overlap and must not reach.
    pub production_cidrs: Vec<Cidr>,
    /// Zones in the order in which they are tried.
    pub zones: Vec<String>,
    /// Instance types in the order in which they are tried.
    pub instance_types: Vec<String>,
    /// `default` or `dedicated`.
    pub tenancy: String,
    /// What is booted.
    pub image: ImageChoice,
    /// ARN of the instance profile.
    pub instance_profile: String,
    /// ARN of the role in it, to which keys are granted.
    pub instance_role: String,
    /// ARN of the drill's own key for volumes.
    pub kms_key: String,
    /// GiB of the instance's root volume; none: as the image has it.
    pub root_gib: Option<i32>,
    /// Where flow logs go: ARN of a bucket or a log group.
    pub flow_logs: String,
    /// ARN of the role that writes into a log group.
    pub flow_logs_role: Option<String>,
    /// A DNS firewall rule group that lets through the names of S3 and KMS only; none: names can
    /// leave.
    pub dns_firewall: Option<String>,
    /// A binary of lifeboat that runs on the image; none: this one.
    pub agent: Option<std::path::PathBuf>,
    /// Directory of Postgres' programs on the image.
    pub pg_bin: Option<std::path::PathBuf>,
    /// Most that a run may cost, in dollars.
    pub cost_cap: UsDollars,
    /// What an hour of the instance costs, in dollars; none: the built-in list.
    pub instance_hour: Option<UsDollars>,
    /// How long the instance may take until its agent speaks.
    pub boot_within: HumanDuration,
    /// How long it may then be silent.
    pub silent_within: HumanDuration,
    /// How long something may take until it is in the state that is waited for, and until it is
    /// gone.
    pub settle_within: HumanDuration,
    /// Pause between looks.
    pub poll: HumanDuration,
}

/// Money, in hundredths of a cent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UsDollars(pub u64);

impl UsDollars {
    /// From a number of dollars, rounded up.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "amounts of drills")]
    pub fn of(dollars: f64) -> Self {
        // 0.07 is not quite 0.07 in binary; what is less than a millionth of a cent above is not
        // above.
        Self((dollars.max(0.0) * 10_000.0 - 1e-6).ceil() as u64)
    }
}

impl std::fmt::Display for UsDollars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cents = self.0.div_ceil(100);
        write!(f, "${}.{:02}", cents / 100, cents % 100)
    }
}

/// On-demand list prices of an hour, us-east-1, Linux, 2023. For another type say what it costs.
const HOURS: [(&str, f64); 20] = [
    ("t3.micro", 0.0104),
    ("t3.small", 0.0208),
    ("t3.medium", 0.0416),
    ("t3.large", 0.0832),
    ("m5.large", 0.096),
    ("m5.xlarge", 0.192),
    ("m5.2xlarge", 0.384),
    ("m6i.large", 0.096),
    ("m6i.xlarge", 0.192),
    ("m6i.2xlarge", 0.384),
    ("m7i.large", 0.1008),
    ("m7i.xlarge", 0.2016),
    ("m7i.2xlarge", 0.4032),
    ("m7g.large", 0.0816),
    ("m7g.xlarge", 0.1632),
    ("r6i.large", 0.126),
    ("r6i.xlarge", 0.252),
    ("r6i.2xlarge", 0.504),
    ("r7i.large", 0.1323),
    ("r7i.xlarge", 0.2646),
];
/// An interface endpoint in one zone.
const ENDPOINT_HOUR: f64 = 0.01;
/// The region's fee while a dedicated instance runs, and what dedicated instances cost more.
const DEDICATED_HOUR: f64 = 2.0;
const DEDICATED_FACTOR: f64 = 1.1;
/// A GiB of gp3 for an hour.
const GIB_HOUR: f64 = 0.08 / 730.0;

/// The most a run can cost: everything it has, until its time to live is over.
///
/// # Errors
/// The type whose price is not known.
#[allow(clippy::cast_precision_loss, reason = "prices")]
pub fn cost_ceiling(
    settings: &ScratchSettings,
    time_to_live: HumanDuration,
    gib: u64,
) -> Result<UsDollars, String> {
    let dedicated = settings.tenancy == "dedicated";
    let mut dearest = 0.0_f64;
    for kind in &settings.instance_types {
        let listed = HOURS.iter().find(|(name, _)| name == kind).map(|(_, price)| *price);
        let price = settings.instance_hour.map(|hour| hour.0 as f64 / 10_000.0).or(listed);
        dearest = dearest.max(price.ok_or_else(|| kind.clone())?);
    }
    let instance = if dedicated { dearest * DEDICATED_FACTOR + DEDICATED_HOUR } else { dearest };
    let hour = instance + ENDPOINT_HOUR + gib as f64 * GIB_HOUR;
    Ok(UsDollars::of(hour * (time_to_live.duration().as_secs_f64() / 3600.0)))
}

/// Format of [`ScratchLease`].
pub const LEASE_FORMAT: &str = "lifeboat.lease/1";

/// Format of a lease that says that its run is over, and that nothing of it is left.
pub const OVER_FORMAT: &str = "lifeboat.over/1";

/// A run in a scratch VPC, as any host can see it. Written before anything is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScratchLease {
    /// [`LEASE_FORMAT`] or [`OVER_FORMAT`], as its place says.
    pub format: String,
    /// The vault.
    pub vault: VaultId,
    /// The run.
    pub run: String,
    /// The drill.
    pub drill: String,
    /// The region.
    pub region: String,
    /// The account.
    pub account: String,
    /// Keys on which the run may have grants, as ARNs.
    pub keys: Vec<String>,
    /// The host that runs it.
    pub host: String,
    /// When everything should be gone.
    pub expires: Timestamp,
    /// The most it can cost.
    pub cost_ceiling: UsDollars,
}

impl ScratchLease {
    /// Parses a lease read from the place of a run, of the format that belongs there: a lease put
    /// in the place of its end ends nothing.
    ///
    /// # Errors
    /// [`DocumentError`] for another format or malformed text.
    pub fn parse(bytes: &[u8], format: &'static str) -> Result<Self, DocumentError> {
        format_of(bytes, "lease", &[format])?;
        serde_json::from_slice(bytes)
            .map_err(|source| DocumentError::Malformed { what: "lease", source })
    }
}

/// A KMS key as the agent uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderKey {
    /// Its name in the configuration.
    pub name: String,
    /// ARN.
    pub key_id: String,
    /// Region, where the ARN does not say it.
    pub region: Option<String>,
}

/// Something of production that must not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForbiddenAddress {
    /// A TCP connection to `host:port`.
    Tcp(String),
    /// The address of a name.
    Name(String),
}

/// Format of [`AgentOrder`].
pub const ORDER_FORMAT: &str = "lifeboat.order/1";

/// What the agent is to do. Holds no secret: user data names its hash, and whoever may read the
/// instance's attributes may read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentOrder {
    /// Always [`ORDER_FORMAT`].
    pub format: String,
    /// The vault.
    pub vault: VaultId,
    /// The run.
    pub run: String,
    /// Which attempt of it, which says where the letters go.
    pub attempt: u64,
    /// The drill's name.
    pub drill: String,
    /// The drill file's text.
    pub script: String,
    /// The restore plan's name.
    pub plan: String,
    /// Its text; none where there is no file.
    pub plan_text: Option<String>,
    /// `lifeboat.toml` for the instance: the vault, keys, what is trusted, datastores without
    /// their connections.
    pub config: String,
    /// Tokens of the grants. No secrets: they make a grant valid before it is known everywhere.
    pub grant_tokens: Vec<String>,
    /// The backup of each datastore, and how it was chosen.
    pub backups: BTreeMap<DatastoreName, (BackupId, String)>,
    /// What must not answer from inside the VPC.
    pub forbidden: Vec<ForbiddenAddress>,
    /// When the agent gives up.
    pub expires: Timestamp,
}

impl AgentOrder {
    /// Parses an order.
    ///
    /// # Errors
    /// [`DocumentError`] for an unknown format or malformed text.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        format_of(bytes, "order", &[ORDER_FORMAT])?;
        serde_json::from_slice(bytes)
            .map_err(|source| DocumentError::Malformed { what: "order", source })
    }
}

/// A letter of the agent: words and a signature over their very bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedMessage {
    /// [`MessageBody`], as JSON.
    pub words: String,
    /// Ed25519 by the key that the agent showed on its console, base64.
    pub signature: String,
}

/// What a letter says, and of which boot of which run it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageBody {
    /// The run.
    pub run: String,
    /// What the agent showed on its console beside its key.
    pub nonce: String,
    /// The letter's number, from 1.
    pub number: u64,
    /// What it says.
    pub say: AgentEvent,
}

/// What the agent says. Counts, hashes, times and words that may be stored; nothing of the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AgentEvent {
    /// A step begins.
    Began {
        /// The step.
        step: String,
        /// Seconds since the agent began.
        at_seconds: f64,
    },
    /// A step ended.
    Ended {
        /// The step.
        step: String,
        /// Seconds it took.
        seconds: f64,
        /// Whether it failed.
        failed: bool,
    },
    /// Something broken on purpose was overcome.
    Broke {
        /// What.
        scenario: Scenario,
        /// In words.
        outcome: String,
    },
    /// A check was answered.
    Checked(CheckResult),
    /// A negative control was tried.
    Controlled(ControlResult),
    /// It works on something.
    Alive {
        /// What.
        stage: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: Option<u64>,
    },
    /// The end.
    Result(Box<AgentResult>),
}

/// Everything the agent found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentResult {
    /// The sandbox on the instance: its kind and the server's version.
    pub sandbox: String,
    /// How that is cut off.
    pub isolation: serde_json::Value,
    /// What was tried from the instance itself, and must have failed.
    pub network: Vec<InstanceProbe>,
    /// What was restored.
    pub backups: Vec<RestoredBackup>,
    /// What was broken, and what came of it.
    pub broken: BTreeMap<Scenario, String>,
    /// Checks.
    pub checks: Vec<CheckResult>,
    /// Controls.
    pub controls: Vec<ControlResult>,
    /// Moments, in seconds since the agent began.
    pub moments: DrillMoments,
    /// Steps, in seconds since the agent began.
    pub steps: Vec<StepTime>,
    /// Why it stopped early.
    pub halt: Option<DrillHalt>,
    /// SHA-256 of the agent's binary.
    pub binary_sha256: String,
}

/// A probe from the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceProbe {
    /// What.
    pub what: String,
    /// Whether it was reached.
    pub reached: bool,
    /// Whether it should be: the instance's own credentials must be there for the agent, so that
    /// their absence elsewhere means something.
    pub should: bool,
    /// What the system said.
    pub detail: String,
}

/// A call that changed something, as the report keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallRecord {
    /// Seconds since the drill was declared.
    pub at_seconds: f64,
    /// The action.
    pub action: String,
    /// What it was about.
    pub about: String,
    /// `done`, or what went wrong.
    pub outcome: String,
}

/// The scratch VPC of a drill, as its report keeps it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScratchReport {
    /// The region.
    pub region: String,
    /// The account.
    pub account: String,
    /// Who made it.
    pub caller: String,
    /// Whether production is in the same account; none if the configuration does not say.
    pub same_account: Option<bool>,
    /// The zone.
    pub zone: String,
    /// The instance and its type.
    pub instance: String,
    /// See `instance`.
    pub instance_type: String,
    /// The image, and SHA-256 over what EC2 says of it.
    pub image: String,
    /// See `image`.
    pub image_digest: String,
    /// The tenancy the instance was found to have.
    pub tenancy: String,
    /// The most it can cost.
    pub cost_ceiling: UsDollars,
    /// What preflight asked, each with its answer.
    pub preflight: Vec<(String, String)>,
    /// What stood when the isolation gate passed.
    pub gate: serde_json::Value,
    /// SHA-256 over it, as compact JSON.
    pub gate_sha256: String,
    /// What was tried from the instance.
    pub network: Vec<InstanceProbe>,
    /// How the sandbox on the instance is cut off.
    pub on_instance: serde_json::Value,
    /// The key that signed the agent's letters, as it stood on the console.
    pub agent_key: String,
    /// SHA-256 of the agent's binary.
    pub agent_sha256: String,
    /// Letters that were read.
    pub letters: u64,
    /// Every call that changed something, in order.
    pub calls: Vec<CallRecord>,
    /// How many looks of each kind.
    pub looks: BTreeMap<String, u64>,
    /// What the census looked for: kinds of things, and how many of each were found.
    pub census: BTreeMap<String, u64>,
}

/// All tags of a run.
#[must_use]
pub fn tags_of(vault: &VaultId, run: &str, drill: &str, expires: Timestamp) -> ResourceTags {
    let expires = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    [
        (tag::VAULT, vault.to_string()),
        (tag::RUN, run.to_owned()),
        (tag::DRILL, drill.to_owned()),
        (tag::EXPIRES, expires),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The tags that say that a thing is a run's own.
#[must_use]
pub fn own_tags(vault: &VaultId, run: &str) -> ResourceTags {
    [(tag::VAULT, vault.to_string()), (tag::RUN, run.to_owned())]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
}

#[cfg(test)]
mod tests;

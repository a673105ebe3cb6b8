//! The interface of a cloud: calls that change something, each known by name and permission
//! beforehand, and read-only ones.
//!
//! The contract of an adapter:
//!
//! - An [`ApiCall`] that creates something creates it with all tags, in the same call where the
//!   service can do that. After [`CloudError::Unknown`] it may exist or not: look for the tags.
//!   Calls with a client token are idempotent under the same token.
//! - Removing takes an [`OwnedResource`], which only somebody can have who saw the run's own tags
//!   on it. Removing what is gone is success (idempotent).
//! - Listings are complete or fail. They are eventually consistent: what was made a moment ago may
//!   be missing.
//! - A call that returned is not done: states tell ([`CloudResource::state`]).

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use super::api_calls::{ApiCall, LaunchSpec, LaunchVolume, OwnedResource, placeholder};
pub use crate::domain::volumes::ResourceTags;

pub use super::resources::{
    AclEntry, CloudResource, GroupRule, InstanceFacts, ResourceFacts, ResourceKind, ResourceScope,
    RulePeer, VpcRoute,
};

/// What came of an act.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallOutcome {
    /// The id of what was made; empty where nothing was.
    pub id: String,
    /// The token of a grant, which makes it valid before it is visible everywhere. No secret.
    pub grant_token: Option<String>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerIdentity {
    /// The account.
    pub account: String,
    /// The ARN of the role's session or the user.
    pub arn: String,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineImage {
    /// Its id.
    pub id: String,
    /// The account that made it.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// When it was made, in the service's words.
    pub created: String,
    /// `x86_64`, `arm64`.
    pub architecture: String,
    /// `available`, or not.
    pub state: String,
    /// The device it boots from.
    pub root_device: String,
    /// Devices and the snapshots they are made from, sorted.
    pub snapshots: Vec<(String, String)>,
}

/// A grant on a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGrant {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A rule of a DNS firewall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FirewallRule {
    /// Lower ones decide first.
    pub priority: i32,
    /// `ALLOW`, `BLOCK` or `ALERT`.
    pub action: String,
    /// The domains it speaks of; empty if the list is not ours to read.
    pub domains: Vec<String>,
    /// The one type of question it speaks of; none: all.
    pub question: Option<String>,
}

/// How many of something there may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceQuota {
    /// What.
    pub what: String,
    /// How many are used.
    pub used: u64,
    /// How many may be.
    pub allowed: u64,
}

/// What should hold in the account whatever anybody does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccountGuards {
    /// Mode of VPC Block Public Access: `off`, `block-ingress`, `block-bidirectional`.
    pub block_public_access: String,
    /// Whether new volumes are encrypted whatever is asked.
    pub encryption_by_default: bool,
    /// Whether serial consoles can be connected to.
    pub serial_console: bool,
}

/// Why a cloud did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// There is no such thing (any more).
    #[error("{what}: there is no such thing: {why}")]
    Missing {
        /// What was tried.
        what: String,
        /// What the service said.
        why: String,
    },
    /// The service refused for good: permissions, a quota, a wrong argument.
    #[error("{what} was refused: {why}")]
    Refused {
        /// What was tried.
        what: String,
        /// What the service said.
        why: String,
    },
    /// Something else still needs it, or it is not ready: it may work in a moment.
    #[error("{what} must wait: {why}")]
    Busy {
        /// What was tried.
        what: String,
        /// What the service said.
        why: String,
    },
    /// No capacity of this type in this zone.
    #[error("{what}: no capacity: {why}")]
    NoCapacity {
        /// What was tried.
        what: String,
        /// What the service said.
        why: String,
    },
    /// No answer: it may have happened or not.
    #[error("whether {what} happened is unknown: {why}")]
    Unknown {
        /// What was tried.
        what: String,
        /// What came instead of an answer.
        why: String,
    },
    /// The service does not answer, or is throttled; nothing was changed.
    #[error("{what}: the service cannot be reached: {why}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// What came instead of an answer.
        why: String,
    },
    /// An answer that cannot be.
    #[error("the answer to {what} makes no sense: {why}")]
    Nonsense {
        /// What was asked.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// This binary was built without what it takes.
    #[error("{0}")]
    Unusable(String),
}

/// EC2, KMS, the DNS firewall and the quotas of one region of one account.
#[async_trait]
pub trait ScratchCloud: Send + Sync {
    /// The region.
    fn region(&self) -> &str;
    /// Who asks.
    async fn caller(&self) -> Result<CallerIdentity, CloudError>;
    /// Does something. `tags` go on whatever it makes; `token` is sent where the service takes one.
    async fn act(
        &self,
        act: &ApiCall,
        tags: &ResourceTags,
        token: &str,
    ) -> Result<CallOutcome, CloudError>;
    /// Asks whether it would be allowed; nothing happens. Only for what [can be tried
    /// out](ApiCall::can_be_tried_out).
    async fn dry_run(&self, act: &ApiCall, tags: &ResourceTags) -> Result<(), CloudError>;
    /// What there is of a kind. Terminated instances count as there for as long as the service
    /// tells of them.
    async fn describe(
        &self,
        kind: ResourceKind,
        at: &ResourceScope,
    ) -> Result<Vec<CloudResource>, CloudError>;
    /// Of these types and the region's zones, what is offered where: type and zone.
    async fn offers(&self, types: &[String]) -> Result<BTreeSet<(String, String)>, CloudError>;
    /// An image; none if it is not there, or not for this account.
    async fn image(&self, id: &str) -> Result<Option<MachineImage>, CloudError>;
    /// The prefix list of a service's addresses.
    async fn prefix_list(&self, service: &str) -> Result<String, CloudError>;
    /// How many VPCs and cores there may be, and would be with one more VPC and one more instance
    /// of this type.
    async fn quotas(&self, instance_type: &str) -> Result<Vec<ServiceQuota>, CloudError>;
    /// What an instance wrote on its console, the last 64 KiB of it.
    async fn console(&self, instance: &str) -> Result<String, CloudError>;
    /// The rules of a DNS firewall rule group, by priority.
    async fn firewall_rules(&self, group: &str) -> Result<Vec<FirewallRule>, CloudError>;
    /// Grants on a key.
    async fn grants(&self, key: &str) -> Result<Vec<KeyGrant>, CloudError>;
    /// What should hold in the account.
    async fn guards(&self) -> Result<AccountGuards, CloudError>;
}

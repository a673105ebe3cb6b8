//! The scratch VPC: a place in the cloud that can reach the backup and nothing else, deleted
//! afterwards.
//!
//! Each part is a step of the drill's saga ([`steps`]); nothing is restored before the whole has
//! been verified ([`gate`]). Resources of a run carry its tags from the moment of their creation,
//! and teardown needs nothing but the tags ([`teardown`]): any host can do it. Everything goes
//! through a [`ScratchCloud`], which has two implementations: AWS, and a simulation
//! ([`simulated_cloud`]), on which `drill --plan` runs the very same steps to show what they would
//! call.

pub mod api_calls;
#[cfg(feature = "ec2")]
pub mod aws;
pub mod boot;
pub mod cloud;
pub mod gate;
pub mod policies;
pub mod preflight;
pub mod resources;
pub mod simulated_cloud;
pub mod steps;
pub mod teardown;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::domain::id::VaultId;
use crate::domain::scratch::{CallRecord, ScratchSettings, own_tags, tags_of};
use cloud::{
    ApiCall, CallOutcome, CloudError, CloudResource, LaunchVolume, ResourceKind, ResourceScope,
    ResourceTags, ScratchCloud,
};
use policies::VaultAccess;

/// Looks for something that a call without an answer may have made.
const LOOKS_AFTER_SILENCE: u32 = 5;
/// Times a call is made that was throttled, or got no answer and may be repeated.
const ATTEMPTS_MAX: u32 = 6;

/// A KMS grant of a run: one key, one encryption context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantSpec {
    /// The key's ARN.
    pub key: String,
    /// The context of the backup.
    pub context: BTreeMap<String, String>,
}

/// What a scratch VPC is to be.
#[derive(Debug, Clone)]
pub struct ScratchSpec {
    /// `[scratch_vpc]`
    pub settings: ScratchSettings,
    /// The vault.
    pub vault: VaultId,
    /// The run.
    pub run: String,
    /// The drill.
    pub drill: String,
    /// When everything should be gone.
    pub expires: Timestamp,
    /// Which attempt of the run it is: client tokens of one attempt mean nothing to the next.
    pub attempt: u64,
    /// What the instance may read and write of the vault.
    pub reads: VaultAccess,
    /// Keys it may decrypt with.
    pub grants: Vec<GrantSpec>,
    /// Volumes beside the one it boots from.
    pub volumes: Vec<LaunchVolume>,
}

/// Why there is no scratch VPC.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// The cloud did not do what was asked.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// Something is not as it must be.
    #[error("{0}")]
    Wrong(String),
    /// It is not isolated, so nothing is restored.
    #[error("nothing was restored, since the scratch VPC is not isolated: {}", .0.join("; "))]
    NotIsolated(Vec<String>),
    /// It was isolated before anything was restored, and is not any more.
    #[error("the scratch VPC was opened while the drill ran: {}", .0.join("; "))]
    Opened(Vec<String>),
    /// No type that is configured can be had in this zone.
    #[error("no instance can be had in {zone}: {why}")]
    NoCapacity {
        /// The zone.
        zone: String,
        /// What was said of each type.
        why: String,
    },
    /// Something did not come to be in time.
    #[error("{what} is not {wanted} after {seconds} seconds; it is {is}")]
    TooLate {
        /// What.
        what: String,
        /// The state waited for.
        wanted: String,
        /// How long.
        seconds: u64,
        /// The state it has.
        is: String,
    },
    /// Somebody interrupted it.
    #[error("interrupted")]
    Interrupted,
}

/// What has been made so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeResources {
    /// The VPC.
    pub vpc: String,
    /// The route table.
    pub table: String,
    /// The network ACL.
    pub acl: String,
    /// The instance's group.
    pub instance_group: String,
    /// The endpoint's group.
    pub endpoint_group: String,
    /// The subnet.
    pub subnet: String,
    /// The S3 gateway endpoint.
    pub gateway: String,
    /// The KMS interface endpoint.
    pub keys_endpoint: String,
    /// The DNS firewall's association; empty where there is none.
    pub firewall: String,
    /// The flow log.
    pub flow_log: String,
    /// The instance.
    pub instance: String,
    /// Its type.
    pub instance_type: String,
    /// Tokens of the grants.
    pub grant_tokens: Vec<String>,
}

/// A scratch VPC in the making, in use, or on its way out.
pub struct ScratchVpc {
    cloud: Arc<dyn ScratchCloud>,
    /// What it is to be.
    pub spec: ScratchSpec,
    /// What has been made.
    pub made: MadeResources,
    /// The zone that is tried.
    pub zone: String,
    /// The image that is booted.
    pub image: String,
    /// The prefix list of S3.
    pub prefix_list: String,
    /// What the instance runs at boot.
    pub user_data: String,
    /// Calls that changed something, in order.
    pub calls: Vec<CallRecord>,
    /// Looks, by what was looked at.
    pub looks: BTreeMap<String, u64>,
    tags: ResourceTags,
    own: ResourceTags,
    cancel: CancellationToken,
    began: Instant,
    before: f64,
    /// When teardown gives up; none before it began.
    deadline: Option<Instant>,
}

impl ScratchVpc {
    /// A place of which nothing is made. `at_seconds` is the drill's clock.
    #[must_use]
    pub fn new(
        cloud: Arc<dyn ScratchCloud>,
        spec: ScratchSpec,
        at_seconds: f64,
        cancel: CancellationToken,
    ) -> Self {
        let zone = spec.settings.zones.first().cloned().unwrap_or_default();
        Self {
            tags: tags_of(&spec.vault, &spec.run, &spec.drill, spec.expires),
            own: own_tags(&spec.vault, &spec.run),
            cloud,
            spec,
            made: MadeResources::default(),
            zone,
            image: String::new(),
            prefix_list: String::new(),
            user_data: String::new(),
            calls: Vec::new(),
            looks: BTreeMap::new(),
            cancel,
            began: Instant::now(),
            before: at_seconds,
            deadline: None,
        }
    }

    /// The cloud it is in.
    #[must_use]
    pub fn cloud(&self) -> &Arc<dyn ScratchCloud> {
        &self.cloud
    }

    /// The name by which a run's grants are found.
    #[must_use]
    pub fn grant_name(&self) -> String {
        grant_name(&self.spec.vault, &self.spec.run)
    }

    fn seconds(&self) -> f64 {
        self.before + self.began.elapsed().as_secs_f64()
    }

    /// The same for the same step of the same attempt in the same zone: a call that is repeated
    /// does not make a second thing.
    fn token(&self, act: &ApiCall) -> String {
        let text = serde_json::to_string(act).unwrap_or_default();
        let parts =
            [&self.spec.run, &self.zone, &self.spec.attempt.to_string(), act.action(), &text]
                .map(|part| part.to_string());
        // Of 64 characters that the service takes, 40 are enough.
        sha256(parts.join("\n").as_bytes())[..40].to_owned()
    }

    /// Looks, and again while the service does not answer.
    ///
    /// # Errors
    /// [`CloudError`]
    pub async fn look(
        &mut self,
        kind: ResourceKind,
        at: &ResourceScope,
    ) -> Result<Vec<CloudResource>, CloudError> {
        *self.looks.entry(kind.name().to_owned()).or_default() += 1;
        let mut attempt = 1;
        loop {
            match self.cloud.describe(kind, at).await {
                Err(CloudError::Unavailable { .. } | CloudError::Unknown { .. })
                    if attempt < ATTEMPTS_MAX =>
                {
                    attempt += 1
                }
                answer => return answer,
            }
            self.pause().await;
        }
    }

    async fn pause(&self) {
        tokio::time::sleep(self.spec.settings.poll.duration()).await;
    }

    /// Pauses, unless somebody interrupts.
    async fn wait(&self) -> Result<(), ScratchError> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(ScratchError::Interrupted),
            () = self.pause() => Ok(()),
        }
    }

    /// Does something, writes it down, and does it again where that is safe.
    ///
    /// # Errors
    /// [`CloudError`]; after [`CloudError::Unknown`] it may have happened.
    pub async fn act(&mut self, act: &ApiCall) -> Result<CallOutcome, CloudError> {
        let token = self.token(act);
        let mut attempt = 1;
        loop {
            let at_seconds = self.seconds();
            let answer = self.cloud.act(act, &self.tags, &token).await;
            let outcome =
                answer.as_ref().map_or_else(ToString::to_string, |acted| match acted.id.as_str() {
                    "" => "done".to_owned(),
                    id => format!("done: {id}"),
                });
            self.calls.push(CallRecord {
                at_seconds,
                action: act.action().to_owned(),
                about: act.subject(),
                outcome,
            });
            match answer {
                Err(CloudError::Unavailable { .. }) if attempt < ATTEMPTS_MAX => {}
                Err(CloudError::Unknown { .. })
                    if attempt < ATTEMPTS_MAX && may_be_repeated(act) => {}
                Err(error @ CloudError::Unknown { .. }) => {
                    return self.resolve_unknown_outcome(act, error).await;
                }
                // PreflightAnswer for a second time it says that it is there.
                Err(error @ CloudError::Busy { .. })
                    if matches!(act, ApiCall::AssociateFirewall { .. }) =>
                {
                    return self.resolve_unknown_outcome(act, error).await;
                }
                // What was made a moment ago is not known everywhere yet.
                Err(CloudError::Missing { .. })
                    if attempt < ATTEMPTS_MAX && !matches!(act, ApiCall::Remove(_)) => {}
                answer => return answer,
            }
            attempt += 1;
            self.pause().await;
        }
    }

    /// Looks by tags for what a call without an answer may have made. What does not show up may do
    /// so later: then the whole step has failed, and teardown removes it.
    async fn resolve_unknown_outcome(
        &mut self,
        act: &ApiCall,
        silence: CloudError,
    ) -> Result<CallOutcome, CloudError> {
        let kind = match act {
            ApiCall::CreateVpc { .. } => ResourceKind::Vpc,
            ApiCall::CreateSubnet { .. } => ResourceKind::Subnet,
            ApiCall::CreateSecurityGroup { .. } => ResourceKind::SecurityGroup,
            ApiCall::AssociateFirewall { .. } => ResourceKind::FirewallAssociation,
            _ => return Err(silence),
        };
        for _ in 0..LOOKS_AFTER_SILENCE {
            self.pause().await;
            let found = self.look(kind, &ResourceScope::Tagged(self.own.clone())).await?;
            let of_name = |thing: &&CloudResource| match (&thing.facts, act) {
                (
                    cloud::ResourceFacts::SecurityGroup { name: is, .. },
                    ApiCall::CreateSecurityGroup { name, .. },
                ) => is == name,
                _ => true,
            };
            let mut mine = found.iter().filter(of_name);
            if let (Some(thing), None) = (mine.next(), mine.next()) {
                return Ok(CallOutcome { id: thing.id.clone(), grant_token: None });
            }
        }
        Err(silence)
    }

    /// Waits until something is in a state.
    ///
    /// # Errors
    /// [`ScratchError::TooLate`]; [`ScratchError::Wrong`] if it is in a state from which it does
    /// not get there.
    pub async fn until(
        &mut self,
        kind: ResourceKind,
        id: &str,
        wanted: &str,
        hopeless: &[&str],
    ) -> Result<CloudResource, ScratchError> {
        let what = format!("{} {id}", kind.name());
        let judge = |things: &[CloudResource]| {
            let Some(thing) = things.iter().find(|thing| thing.id == id) else {
                return Ok(Err("not to be seen".to_owned()));
            };
            if thing.state.eq_ignore_ascii_case(wanted) {
                return Ok(Ok(thing.clone()));
            }
            let told =
                thing.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let is = format!("{}{told}", thing.state);
            match hopeless.iter().any(|state| thing.state.eq_ignore_ascii_case(state)) {
                true => Err(ScratchError::Wrong(format!("{what} is {is} instead of {wanted}"))),
                false => Ok(Err(is)),
            }
        };
        self.wait_for((kind, &ResourceScope::Id(id.to_owned())), (&what, wanted), judge).await
    }

    /// Looks until what is seen is what is wanted; `judge` says how it is until then.
    ///
    /// # Errors
    /// [`ScratchError::TooLate`], or that of `judge`.
    async fn wait_for<T>(
        &mut self,
        (kind, at): (ResourceKind, &ResourceScope),
        (what, wanted): (&str, &str),
        judge: impl Fn(&[CloudResource]) -> Result<Result<T, String>, ScratchError>,
    ) -> Result<T, ScratchError> {
        let limit = self.spec.settings.settle_within.duration();
        let begun = Instant::now();
        loop {
            let is = match judge(&self.look(kind, at).await?)? {
                Ok(found) => return Ok(found),
                Err(is) => is,
            };
            if begun.elapsed() > limit {
                let (what, wanted) = (what.to_owned(), wanted.to_owned());
                return Err(ScratchError::TooLate { what, wanted, seconds: limit.as_secs(), is });
            }
            self.wait().await?;
        }
    }
}

/// Whether doing it twice does no more than doing it once: it has a client token or a name, or it
/// sets something.
fn may_be_repeated(act: &ApiCall) -> bool {
    !matches!(
        act,
        ApiCall::CreateVpc { .. }
            | ApiCall::CreateSubnet { .. }
            | ApiCall::CreateSecurityGroup { .. }
    )
}

/// The name of a run's grants.
#[must_use]
pub fn grant_name(vault: &VaultId, run: &str) -> String {
    format!("lifeboat-{}-{run}", vault.to_string().chars().take(8).collect::<String>())
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

/// Opens the cloud that a configuration names.
#[async_trait]
pub trait CloudFactory: Send + Sync {
    /// The cloud of these settings.
    ///
    /// # Errors
    /// [`CloudError::Unusable`] if this binary was built without it.
    async fn open(&self, settings: &ScratchSettings) -> Result<Arc<dyn ScratchCloud>, CloudError>;
}

//! Scratch VPCs as any host sees them: the leases in the vault, resources in the account under this
//! vault's tags, and their removal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::{WorkContext, WorkError, drill, shelf};
use crate::domain::layout::{self, ObjectKey};
use crate::domain::scratch::{LEASE_FORMAT, OVER_FORMAT, ScratchLease, ScratchSettings, tag};
use crate::domain::{VaultDocument, VaultId};
use crate::evidence::is_believed;
use crate::sandbox::vpc::cloud::{
    CloudResource, ResourceKind, ResourceScope, ResourceTags, ScratchCloud,
};
use crate::vault::{VaultError, fetch};

/// A run in a scratch VPC, as its lease tells of it.
#[derive(Debug, Clone)]
pub struct LeasedScratch {
    /// The run.
    pub run: String,
    /// Its lease; why not if it is not believed.
    pub lease: Result<ScratchLease, String>,
    /// Whether a signed document says that it is over and that nothing of it is left.
    pub over: bool,
    /// When its lease was written.
    pub written: Timestamp,
    /// Everything of it that stands in the vault.
    pub objects: Vec<ObjectKey>,
}

impl LeasedScratch {
    /// Whether its time is up though it is not over.
    #[must_use]
    pub fn is_abandoned(&self, now: Timestamp) -> bool {
        !self.over && self.lease.as_ref().is_ok_and(|lease| lease.expires <= now)
    }
}

/// What a run has left in the account.
#[derive(Debug, Clone)]
pub struct StrayRun {
    /// The run.
    pub run: String,
    /// When it should have been gone; none if nothing says.
    pub expires: Option<Timestamp>,
    /// What there is, in words.
    pub things: Vec<String>,
}

/// `[scratch_vpc]`.
///
/// # Errors
/// [`WorkError::Refused`] if there is none.
pub(super) fn settings(rig: &WorkContext) -> Result<&ScratchSettings, WorkError> {
    rig.config.scratch_vpc.as_ref().ok_or_else(|| WorkError::Refused {
        what: "a scratch VPC".to_owned(),
        why: "lifeboat.toml has no [scratch_vpc]".to_owned(),
        hint: "docs/AWS.md tells how a drill account is set up; sandbox = \"local\" needs none"
            .to_owned(),
    })
}

/// All runs that have a lease in the vault, oldest first.
///
/// # Errors
/// [`WorkError`] if the vault cannot be read.
pub async fn leases(rig: &WorkContext) -> Result<Vec<LeasedScratch>, WorkError> {
    let mut runs: BTreeMap<String, Vec<(ObjectKey, Timestamp)>> = BTreeMap::new();
    for facts in rig.vault.list(layout::RUNS).await? {
        if let Some(run) = layout::parse_run_key(facts.key.as_str()) {
            runs.entry(run).or_default().push((facts.key, facts.modified));
        }
    }
    let vault = shelf::vault_id(rig).await?;
    let mut found = Vec::new();
    for (run, objects) in runs {
        let lease = lease(rig, &vault, &run).await?;
        let over = is_over(rig, &vault, &run).await?;
        let written = objects.iter().map(|(_, modified)| *modified).min().unwrap_or(Timestamp::MAX);
        let mut objects: Vec<ObjectKey> = objects.into_iter().map(|(key, _)| key).collect();
        // What says that the run is over goes last: removed half-way, the rest is found again.
        objects.sort_by_key(|key| key.file_name().starts_with("over"));
        found.push(LeasedScratch { run, lease, over, written, objects });
    }
    Ok(found)
}

/// The lease of a run; why not if it is not believed.
pub(super) async fn lease(
    rig: &WorkContext,
    vault: &VaultId,
    run: &str,
) -> Result<Result<ScratchLease, String>, WorkError> {
    paper(rig, vault, run, &layout::lease(run), LEASE_FORMAT).await
}

/// Whether a signed document says that a run is over, and that nothing of it is left.
pub(super) async fn is_over(
    rig: &WorkContext,
    vault: &VaultId,
    run: &str,
) -> Result<bool, WorkError> {
    Ok(paper(rig, vault, run, &layout::run_over(run), OVER_FORMAT).await?.is_ok())
}

/// A paper of a run, if a pinned key signed it and it is where it belongs.
async fn paper(
    rig: &WorkContext,
    vault: &VaultId,
    run: &str,
    key: &ObjectKey,
    format: &'static str,
) -> Result<Result<ScratchLease, String>, WorkError> {
    let mut read = Vec::new();
    for key in [key.clone(), key.signature()] {
        match fetch::document(rig.vault.as_ref(), &key).await {
            Ok(bytes) => read.push(bytes),
            // Whoever may write to the vault must not be able to keep everybody from cleaning up.
            Err(error)
                if !matches!(
                    error,
                    VaultError::Unavailable { .. } | VaultError::Unknown { .. }
                ) =>
            {
                return Ok(Err(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let (signature, bytes) = (read.pop().flatten().unwrap_or_default(), read.pop().flatten());
    let Some(bytes) = bytes else { return Ok(Err("there is none".to_owned())) };
    if !rig.trusted.is_empty()
        && !is_believed(rig.vault.as_ref(), &rig.trusted, key, &bytes, &signature).await?
    {
        return Ok(Err("no pinned key signed it".to_owned()));
    }
    Ok(match ScratchLease::parse(&bytes, format) {
        Ok(lease) if lease.run == run && lease.vault == *vault => Ok(lease),
        Ok(_) => Err("it belongs elsewhere".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

pub(super) async fn cloud(
    rig: &WorkContext,
    settings: &ScratchSettings,
) -> Result<Arc<dyn ScratchCloud>, WorkError> {
    let cloud = rig.clouds.open(settings).await?;
    let caller = cloud.caller().await?;
    match caller.account == settings.account {
        true => Ok(cloud),
        false => Err(WorkError::Refused {
            what: format!("scratch VPCs in account {}", settings.account),
            why: format!("{} is in account {}", caller.arn, caller.account),
            hint: "use the credentials, or the role in [scratch_vpc], of the drill account"
                .to_owned(),
        }),
    }
}

fn expiry(things: &[CloudResource]) -> Option<Timestamp> {
    // Of one run all things have the same; where somebody changed one, the latest counts.
    things.iter().filter_map(|thing| thing.tags.get(tag::EXPIRES)?.parse().ok()).max()
}

/// Runs of this vault of which something stands in the account though their time is up, they have
/// their report, or their process on this host is `dead`.
///
/// # Errors
/// [`WorkError`] if the account cannot be looked at; with no `[scratch_vpc]` there is nothing to
/// look at.
pub async fn strays(
    rig: &WorkContext,
    dead: &BTreeSet<String>,
    leases: &[LeasedScratch],
) -> Result<Vec<StrayRun>, WorkError> {
    let Some(settings) = &rig.config.scratch_vpc else { return Ok(Vec::new()) };
    let (cloud, vault, now) =
        (cloud(rig, settings).await?, shelf::vault_id(rig).await?, Timestamp::now());
    let of_vault: ResourceTags = [(tag::VAULT.to_owned(), vault.to_string())].into();
    let mut runs: BTreeMap<String, Vec<CloudResource>> = BTreeMap::new();
    for kind in ResourceKind::OURS {
        for thing in cloud.describe(kind, &ResourceScope::Tagged(of_vault.clone())).await? {
            if let (Some(run), false) = (thing.tags.get(tag::RUN).cloned(), thing.is_gone()) {
                runs.entry(run).or_default().push(thing);
            }
        }
    }
    let (series, _) = super::evidence::examine(rig).await?;
    let reported: BTreeSet<&str> = super::evidence::reports(&series)
        .into_iter()
        .map(|(_, report)| report.run.as_str())
        .collect();
    let is_ended = |run: &str| dead.contains(run) || reported.contains(run);
    let mut found: Vec<StrayRun> = Vec::new();
    for (run, things) in runs {
        let expires = expiry(&things);
        let is_run = layout::parse_run_key(&layout::run_prefix(&run)).is_some();
        if is_run && (is_ended(&run) || expires.is_some_and(|expires| expires <= now)) {
            let things =
                things.iter().map(|thing| format!("{} {}", thing.kind.name(), thing.id)).collect();
            found.push(StrayRun { run, expires, things });
        }
    }
    // A run that died before it made anything may still have grants, which carry no tags.
    for leased in leases {
        let Ok(lease) = &leased.lease else { continue };
        let is_left = leased.is_abandoned(now) || (is_ended(&leased.run) && !leased.over);
        if is_left && !found.iter().any(|stray| stray.run == leased.run) {
            found.push(StrayRun {
                run: leased.run.clone(),
                expires: Some(lease.expires),
                things: Vec::new(),
            });
        }
    }
    Ok(found)
}

/// Stores a signed document; one that stands there already, of an earlier attempt, counts.
pub(super) async fn put_signed(
    rig: &WorkContext,
    key: &layout::ObjectKey,
    document: VaultDocument,
) -> Result<(), WorkError> {
    let signature = rig.signer.sign(document.bytes()).await?;
    // The document first: a signature that stands there already is of an attempt whose document
    // does, too.
    for (key, document) in
        [(key.clone(), document), (key.signature(), VaultDocument::signature(signature))]
    {
        match rig.vault.put(&key, document).await {
            Ok(()) | Err(VaultError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Says in the vault that a run is over and that nothing of it is left, if it has a lease there.
///
/// # Errors
/// [`WorkError`] if that could not be written.
pub async fn over(rig: &WorkContext, run: &str) -> Result<(), WorkError> {
    match lease(rig, &shelf::vault_id(rig).await?, run).await? {
        Ok(lease) => {
            let over = ScratchLease { format: OVER_FORMAT.to_owned(), ..lease };
            put_signed(rig, &layout::run_over(run), VaultDocument::lease(&over)).await
        }
        // Nobody of ours wrote it, so there is nothing to say about it.
        Err(_) => Ok(()),
    }
}

/// Removes what a run has left, and says in the vault that it is over.
///
/// # Errors
/// [`WorkError::Leftovers`] with what is still there.
pub async fn remove(rig: &WorkContext, run: &str) -> Result<(), WorkError> {
    drill::vpc::clean_up(rig, run).await?;
    over(rig, run).await
}

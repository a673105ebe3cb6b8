//! Removing backups that retention does not keep. A plan is shown first and applied only when
//! confirmed.
//!
//! Removals are written into the evidence first, signed: a gap in the sequence numbers is explained
//! by that record or by nothing. Then the manifest is deleted, and with it the backup; then its
//! payloads and the rest; and only when nothing is left does the catalog forget it. What could not
//! be deleted is found again by the next plan, from the record.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::publish::without_catalog;
use super::snapshot::stray;
use super::{HostLock, WorkContext, WorkError, evidence, shelf};
use crate::config::VaultConfig;
use crate::config::schedules::Schedule;
use crate::domain::drill::Verdict;
use crate::domain::evidence::{HoldRecord, RecordBody, RemovalRecord, RemovedBackup};
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::layout::{self, BackupKeys, ObjectKey};
use crate::domain::manifest::Manifest;
use crate::domain::retention::{
    RemovalGuard, RetentionCandidate, RetentionPlan, RetentionPolicy, minimum_days, plan,
};
use crate::domain::volumes::SnapshotId;
use crate::evidence::EvidenceSeries;

/// What would be removed of one datastore, and why everything else stays.
pub struct PrunePlan {
    /// The decisions.
    pub plan: RetentionPlan,
    /// Objects of backups whose removal was begun earlier.
    pub unfinished: Vec<ObjectKey>,
    /// Snapshots of sets that stay and are old enough for the archive tier.
    pub archive: BTreeMap<BackupId, Vec<SnapshotId>>,
    /// Manifests that are not believed: never counted, never removed.
    pub not_believed: usize,
    manifests: BTreeMap<BackupId, Manifest>,
    policies: Vec<RetentionPolicy>,
}

impl PrunePlan {
    /// The snapshots that go with each set that goes: by their ids, and by nothing else.
    #[must_use]
    pub fn snapshots(&self) -> BTreeMap<BackupId, Vec<SnapshotId>> {
        let going =
            self.plan.removals().iter().filter_map(|removal| self.manifests.get(removal.backup()));
        let of = |manifest: &Manifest| {
            let set = manifest.set.as_ref()?;
            let ids = set.places().flat_map(|(_, is_copy)| set.snapshots(is_copy)).collect();
            Some((manifest.backup.clone(), ids))
        };
        going.filter_map(of).collect()
    }
}

/// What was done.
#[derive(Debug, Default, serde::Serialize)]
pub struct PruneReport {
    /// Backups that are gone.
    pub removed: Vec<BackupId>,
    /// Sets whose snapshots went to the archive tier.
    pub archived: Vec<BackupId>,
    /// Backups that were to go and stay for now, each with the reason.
    pub left: Vec<(BackupId, String)>,
}

/// Policies of a datastore, from every schedule that backs it up.
#[must_use]
pub fn policies_of(schedules: &[Schedule], datastore: &DatastoreName) -> Vec<RetentionPolicy> {
    let of =
        schedules.iter().filter(|schedule| schedule.datastores().any(|name| name == datastore));
    of.filter_map(|schedule| schedule.keep.clone()).collect()
}

/// What the evidence says about backups of a datastore.
#[derive(Default)]
struct EvidenceTestimony {
    last_drilled: Option<BackupId>,
    held: BTreeMap<BackupId, String>,
    removed: BTreeSet<BackupId>,
}

fn testimony(series: &EvidenceSeries, datastore: &DatastoreName) -> EvidenceTestimony {
    let mut found = EvidenceTestimony::default();
    for (_, record) in series.believed() {
        match &record.body {
            RecordBody::Report(report) if report.verdict == Verdict::Pass => {
                if let Some(backup) =
                    report.backups.iter().find(|backup| &backup.datastore == datastore)
                {
                    found.last_drilled = Some(backup.backup.clone());
                    // Whatever was to happen to it: it was there, and restored.
                    found.removed.remove(&backup.backup);
                }
            }
            RecordBody::Hold(hold) if &hold.datastore == datastore => {
                found.held.insert(hold.backup.clone(), hold.reason.clone());
                found.removed.remove(&hold.backup);
            }
            RecordBody::Release(hold) if &hold.datastore == datastore => {
                drop(found.held.remove(&hold.backup))
            }
            RecordBody::Removed(removed) if &removed.datastore == datastore => {
                found.removed.extend(removed.backups.iter().map(|one| one.backup.clone()));
            }
            _ => {}
        }
    }
    found
}

/// Looks at every backup of a datastore and decides.
///
/// # Errors
/// [`WorkError`] if vault or evidence cannot be read.
pub async fn plan_prune(
    rig: &WorkContext,
    datastore: &DatastoreName,
    policies: Vec<RetentionPolicy>,
) -> Result<PrunePlan, WorkError> {
    let (series, flaws) = evidence::examine(rig).await?;
    // A series with holes cannot say what was drilled or held.
    if let Some(flaw) = flaws.iter().find(|flaw| flaw.hides_records()) {
        return Err(WorkError::Refused {
            what: format!("pruning {datastore}"),
            why: format!("the evidence says what was drilled and what is held, and it has a flaw: {flaw}"),
            hint: "`lifeboat evidence verify` shows all; nothing is removed until somebody has explained it".to_owned(),
        });
    }
    let said = testimony(&series, datastore);
    let (mut manifests, mut not_believed) = (BTreeMap::new(), 0);
    for entry in shelf::list_entries(rig, Some(datastore)).await? {
        match entry.manifest {
            Ok(believed) if believed.verified => {
                drop(manifests.insert(entry.backup, believed.manifest))
            }
            _ => not_believed += 1,
        }
    }
    let damaged = match rig.catalog() {
        Some(catalog) => {
            without_catalog(catalog.damaged(&shelf::vault_id(rig).await?).await).unwrap_or_default()
        }
        None => Vec::new(),
    };
    let mut damaged: BTreeSet<BackupId> = damaged
        .into_iter()
        .filter(|row| row.datastore == *datastore)
        .map(|row| row.backup)
        .collect();
    // Behind the manifests: what is published meanwhile is whole before it has one.
    let there = shelf::sizes(
        rig,
        [layout::PAYLOADS, layout::META].map(|prefix| format!("{prefix}{datastore}/")),
    )
    .await?;
    damaged.extend(
        manifests
            .values()
            .filter(|manifest| !shelf::is_all_there(manifest, &there))
            .map(|manifest| manifest.backup.clone()),
    );
    let mut candidates: Vec<RetentionCandidate> = manifests
        .values()
        .map(|manifest| RetentionCandidate {
            backup: manifest.backup.clone(),
            sequence: manifest.sequence,
            taken: manifest.source.snapshot_time,
            bytes: if manifest.set.is_some() {
                manifest.plain_bytes()
            } else {
                manifest.sealed_bytes()
            },
            damaged: damaged.contains(&manifest.backup),
            guards: spoken_guards(&said, &manifest.backup),
        })
        .collect();
    let trusted: Vec<&Manifest> = manifests.values().collect();
    for (_, one, other) in shelf::same_numbers(&trusted) {
        for candidate in &mut candidates {
            let same = [(&one, &other), (&other, &one)]
                .into_iter()
                .find(|(own, _)| **own == candidate.backup);
            candidate.guards.extend(same.map(|(_, other)| RemovalGuard::SameNumber(other.clone())));
        }
    }
    let now = Timestamp::now();
    let going = loop {
        let plan = plan(datastore, &policies, &candidates, now);
        let going: BTreeSet<BackupId> =
            plan.removals().iter().map(|removal| removal.backup().clone()).collect();
        // Nothing goes for one that no key would open: what is kept is read as far as that.
        let closed = match going.is_empty() {
            true => BTreeSet::new(),
            false => {
                closed(
                    rig,
                    &manifests,
                    candidates.iter().filter(|one| !one.damaged && !going.contains(&one.backup)),
                )
                .await?
            }
        };
        if closed.is_empty() {
            break going;
        }
        candidates
            .iter_mut()
            .filter(|one| closed.contains(&one.backup))
            .for_each(|one| one.damaged = true);
    };
    // Only what would go is asked about in the store, one object each.
    for candidate in candidates.iter_mut().filter(|candidate| going.contains(&candidate.backup)) {
        if let Some(manifest) = manifests.get(&candidate.backup) {
            candidate.guards.extend(stored_guards(rig, manifest, now).await?);
        }
    }
    let mut unfinished = Vec::new();
    if !said.removed.is_empty() {
        let ours = |key: &ObjectKey| {
            let spoken = |backup: &BackupId| !spoken_guards(&said, backup).is_empty();
            layout::parse_backup_key(key.as_str()).is_some_and(|(store, backup)| {
                &store == datastore && said.removed.contains(&backup) && !spoken(&backup)
            })
        };
        let listed = rig
            .vault
            .list(&format!("{}{datastore}/", layout::MANIFESTS))
            .await?
            .into_iter()
            .map(|facts| facts.key);
        // Manifests first: with its manifest a backup goes.
        let of_kind = |prefix: &'static str| {
            there.keys().filter(move |key| key.as_str().starts_with(prefix)).cloned()
        };
        unfinished.extend(
            listed.chain(of_kind(layout::PAYLOADS)).chain(of_kind(layout::META)).filter(ours),
        );
    }
    // What a record says is gone is no candidate: its removal goes on.
    candidates.retain(|candidate| !said.removed.contains(&candidate.backup));
    let plan = plan(datastore, &policies, &candidates, now);
    let mut archive = BTreeMap::new();
    // Not the one that would be needed first, nor what somebody holds or rehearses.
    let newest = manifests
        .values()
        .max_by_key(|manifest| manifest.sequence)
        .map(|manifest| manifest.backup.clone());
    let may_freeze = |manifest: &&Manifest| {
        Some(&manifest.backup) != newest.as_ref()
            && spoken_guards(&said, &manifest.backup).is_empty()
    };
    for manifest in manifests.values().filter(may_freeze).filter(|manifest| {
        !plan.removals().iter().any(|removal| *removal.backup() == manifest.backup)
    }) {
        let ids = stray::to_archive(rig, manifest).await?;
        if !ids.is_empty() {
            archive.insert(manifest.backup.clone(), ids);
        }
    }
    Ok(PrunePlan { plan, unfinished, archive, not_believed, manifests, policies })
}

/// Those of some backups that have no whole envelope or no whole slot: their files are there, and
/// are not what was signed.
async fn closed<'a>(
    rig: &WorkContext,
    manifests: &BTreeMap<BackupId, Manifest>,
    backups: impl Iterator<Item = &'a RetentionCandidate>,
) -> Result<BTreeSet<BackupId>, WorkError> {
    let mut closed = BTreeSet::new();
    for manifest in backups.filter_map(|one| manifests.get(&one.backup)) {
        if !shelf::has_whole_slot(rig, manifest).await? {
            closed.insert(manifest.backup.clone());
        }
    }
    Ok(closed)
}

fn spoken_guards(said: &EvidenceTestimony, backup: &BackupId) -> Vec<RemovalGuard> {
    let mut guards = Vec::new();
    if said.last_drilled.as_ref() == Some(backup) {
        guards.push(RemovalGuard::LastDrilled);
    }
    if let Some(reason) = said.held.get(backup) {
        guards.push(RemovalGuard::Held(reason.clone()));
    }
    guards
}

/// What the store and the runs of this host say.
async fn stored_guards(
    rig: &WorkContext,
    manifest: &Manifest,
    now: Timestamp,
) -> Result<Vec<RemovalGuard>, WorkError> {
    let mut guards = Vec::new();
    if HostLock::acquire_named(&rig.config, &HostLock::reading(&manifest.backup), "a prune")?
        .is_none()
    {
        guards.push(RemovalGuard::InUse("a run of this host is reading it".to_owned()));
    }
    if let Some(catalog) = rig.catalog().filter(|catalog| catalog.is_shared()) {
        let readers = catalog.readers(&manifest.backup).await?;
        guards.extend(
            readers
                .into_iter()
                .map(|host| RemovalGuard::InUse(format!("a run of {host} is reading it"))),
        );
    }
    for object in manifest.payloads.iter().flat_map(|payload| &payload.objects) {
        let Some(facts) = rig.vault.find(&object.key).await? else { continue };
        if let Some(until) = facts.locked_until.filter(|until| *until > now) {
            guards.push(RemovalGuard::Locked(until));
        }
        let days = facts.class.as_deref().map_or(0, |class| match minimum_days(class) {
            0 => 0,
            // Counted from when the bucket moved it there.
            minimum => minimum + moved_after_days(rig, class),
        });
        let paid = facts.modified + SignedDuration::from_hours(24 * days);
        if days > 0 && paid > now {
            guards.push(RemovalGuard::PaidUntil(paid));
        }
    }
    guards.extend(stray::guards(rig, manifest).await?);
    guards.sort();
    guards.dedup();
    Ok(guards)
}

/// At which age the bucket moves payloads into a class.
fn moved_after_days(rig: &WorkContext, class: &str) -> i64 {
    match &rig.config.vault {
        VaultConfig::S3(s3) => {
            s3.colder.iter().find(|step| step.class == class).map_or(0, |step| step.after_days)
        }
        VaultConfig::Directory(..) => 0,
    }
}

/// Removes what the plan says, looking at everything once more: what has become worth keeping since
/// stays.
///
/// # Errors
/// [`WorkError`] if the record cannot be written; what cannot be deleted is part of the answer.
pub async fn apply(rig: &WorkContext, shown: PrunePlan) -> Result<PruneReport, WorkError> {
    let datastore = shown.plan.datastore.clone();
    let _lock = HostLock::take(&rig.config, &datastore, "a prune")?;
    let allowed: BTreeSet<BackupId> =
        shown.plan.removals().iter().map(|removal| removal.backup().clone()).collect();
    let now = plan_prune(rig, &datastore, shown.policies).await?;
    let mut done = PruneReport::default();
    let mut reading = Vec::new();
    let mut going = Vec::new();
    for removal in now.plan.removals().iter().filter(|removal| allowed.contains(removal.backup())) {
        // Held until the end: nobody on this host begins to read it meanwhile.
        match HostLock::acquire_named(&rig.config, &HostLock::reading(removal.backup()), "a prune")?
        {
            Some(lock) => {
                reading.push(lock);
                going.push(removal);
            }
            None => done
                .left
                .push((removal.backup().clone(), "a run of this host began to read it".to_owned())),
        }
    }
    if !going.is_empty() {
        let backups = going.iter().map(|removal| RemovedBackup {
            backup: removal.backup().clone(),
            sequence: removal.sequence(),
            reason: removal.reason().to_owned(),
        });
        evidence::write(
            rig,
            RecordBody::Removed(RemovalRecord {
                datastore: datastore.clone(),
                backups: backups.collect(),
            }),
        )
        .await?;
        // Somebody may have held or drilled one of them since it was looked; their word stands
        // before ours in the series.
        let (series, _) = evidence::examine(rig).await?;
        let said = testimony(&series, &datastore);
        going.retain(|removal| {
            let guards = spoken_guards(&said, removal.backup());
            if !guards.is_empty() {
                done.left.push((
                    removal.backup().clone(),
                    "it was held or drilled at this moment; release it or drill another".to_owned(),
                ));
            }
            guards.is_empty()
        });
    }
    let mut left: BTreeMap<BackupId, Vec<ObjectKey>> = BTreeMap::new();
    for key in now.unfinished {
        let Some((_, backup)) = layout::parse_backup_key(key.as_str()) else { continue };
        if !left.contains_key(&backup) {
            match HostLock::acquire_named(&rig.config, &HostLock::reading(&backup), "a prune")? {
                Some(lock) => reading.push(lock),
                None => continue,
            }
        }
        left.entry(backup).or_default().push(key);
    }
    for removal in going {
        if let Some(manifest) = now.manifests.get(removal.backup()) {
            left.insert(removal.backup().clone(), objects_of(rig, manifest).await?);
        }
    }
    for (backup, keys) in left {
        let mut deleted = delete(rig, &keys).await;
        if let (Ok(()), Some(manifest)) = (&deleted, now.manifests.get(&backup)) {
            deleted = stray::remove_of(rig, manifest).await;
        }
        match deleted {
            Ok(()) => {
                if let (Some(catalog), Ok(vault)) = (rig.catalog(), shelf::vault_id(rig).await)
                    && let Err(error) = catalog.forget(&vault, &datastore, &backup).await
                {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the catalog still remembers a backup that is gone"
                    );
                }
                done.removed.push(backup);
            }
            Err(why) => done.left.push((backup, why)),
        }
        if rig.cancel.is_cancelled() {
            break;
        }
    }
    for (backup, ids) in
        now.archive.iter().filter(|(backup, _)| shown.archive.contains_key(*backup))
    {
        let Some(manifest) = now.manifests.get(backup) else { continue };
        // Whoever reads it would be left without.
        let Some(_alone) =
            HostLock::acquire_named(&rig.config, &HostLock::reading(backup), "a prune")?
        else {
            continue;
        };
        match stray::archive(rig, manifest, ids).await {
            Ok(()) => done.archived.push(backup.clone()),
            Err(error) => done.left.push((backup.clone(), error.to_string())),
        }
    }
    Ok(done)
}

/// Everything of a backup, the manifest first and its signature last.
async fn objects_of(rig: &WorkContext, manifest: &Manifest) -> Result<Vec<ObjectKey>, WorkError> {
    let place = BackupKeys { datastore: &manifest.datastore, backup: &manifest.backup };
    let mut keys = vec![place.manifest()];
    for prefix in [place.payload_prefix(), place.meta_prefix()] {
        keys.extend(rig.vault.list(&prefix).await?.into_iter().map(|facts| facts.key));
    }
    keys.push(place.manifest().signature());
    Ok(keys)
}

async fn delete(rig: &WorkContext, keys: &[ObjectKey]) -> Result<(), String> {
    for key in keys {
        let found = rig.vault.find(key).await.map_err(|error| error.to_string())?;
        if let Some(facts) = found {
            rig.vault.erase(&facts).await.map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Holds a backup, or lets it go, in a signed record.
///
/// # Errors
/// [`WorkError`] if there is no such backup, or the record cannot be written.
pub async fn hold(
    rig: &WorkContext,
    backup: &BackupId,
    reason: Option<&str>,
) -> Result<DatastoreName, WorkError> {
    let datastore = shelf::find_by_id(rig, backup).await?.manifest.datastore;
    let hold = HoldRecord {
        datastore: datastore.clone(),
        backup: backup.clone(),
        reason: reason.unwrap_or_default().to_owned(),
    };
    evidence::write(
        rig,
        if reason.is_some() { RecordBody::Hold(hold) } else { RecordBody::Release(hold) },
    )
    .await?;
    Ok(datastore)
}

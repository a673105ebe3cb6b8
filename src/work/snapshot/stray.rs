//! Orphaned snapshots, and what protects the snapshots of a backup from removal.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::{OpenSet, is_younger, tags};
use crate::config::DatastoreConfig;
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::manifest::Manifest;
use crate::domain::retention::RemovalGuard;
use crate::domain::volumes::{
    ResourceTags, SetPlace, SnapshotId, SnapshotProgress, VolumeSet, tag,
};
use crate::volumes::{VolumeStore, VolumesError};
use crate::work::{WorkContext, WorkError, shelf};

/// A snapshot with this vault's tags and no manifest.
#[derive(Debug, Clone)]
pub struct StraySnapshot {
    /// Where it is.
    pub place: SetPlace,
    /// Its id.
    pub id: SnapshotId,
    /// Whose it would have been.
    pub owner: (DatastoreName, BackupId),
    /// When it was begun.
    pub started: Timestamp,
    /// Whether another tool made it, and copied the tags: told of, and left alone.
    pub is_foreign: bool,
}

fn failed(datastore: &DatastoreName) -> impl Fn(VolumesError) -> WorkError {
    let datastore = datastore.clone();
    move |error| WorkError::Set { datastore: datastore.clone(), source: error.into() }
}

/// Every place that the configuration names for volumes.
fn places(rig: &WorkContext) -> BTreeSet<&SetPlace> {
    let volumes = rig.config.datastores.values().filter_map(DatastoreConfig::volumes);
    volumes
        .flat_map(|volumes| {
            std::iter::once(&volumes.place).chain(volumes.copy.as_ref().map(|copy| &copy.place))
        })
        .collect()
}

/// Looks for snapshots of this vault begun before a time whose backup is not published, and with
/// which no run goes on.
///
/// # Errors
/// [`WorkError`] if vault or catalog cannot be read; a place that does not answer is passed over,
/// and told.
pub async fn strays(
    rig: &WorkContext,
    vault: &VaultId,
    published: &BTreeSet<(DatastoreName, BackupId)>,
    before: Timestamp,
) -> Result<Vec<StraySnapshot>, WorkError> {
    let mut found = Vec::new();
    let places = places(rig);
    if places.is_empty() {
        return Ok(found);
    }
    let used = UsedSnapshots::read(rig).await?;
    for place in places {
        let ours = ResourceTags::from([(tag::VAULT.to_owned(), vault.to_string())]);
        let tagged = async { rig.volumes.open(place).await?.tagged(&ours).await };
        // One region that does not answer is no reason to leave the others.
        let snapshots = match tagged.await {
            Ok(snapshots) => snapshots,
            Err(error) => {
                tracing::warn!(%place, error = &error as &dyn std::error::Error, "a place with volumes is not looked at");
                continue;
            }
        };
        for snapshot in snapshots {
            let value = |key: &str| snapshot.tags.get(key);
            let owner = value(tag::DATASTORE)
                .and_then(|text| text.parse().ok())
                .zip(value(tag::BACKUP).and_then(|text| text.parse().ok()));
            // Tags that make no sense are somebody else's.
            let Some(owner) = owner else { continue };
            if published.contains(&owner)
                || used.holds(&owner)
                || snapshot.started > before
                || goes_on(rig, vault, &owner).await?
            {
                continue;
            }
            found.push(StraySnapshot {
                place: place.clone(),
                is_foreign: snapshot.is_foreign(),
                started: snapshot.started,
                id: snapshot.id,
                owner,
            });
        }
    }
    Ok(found)
}

/// The tags of snapshots that published sets use, and datastores of which not every manifest is
/// believed: nothing of theirs is removed.
#[derive(Debug, Default)]
pub struct UsedSnapshots {
    tagged: BTreeSet<(DatastoreName, BackupId)>,
    unclear: BTreeSet<DatastoreName>,
}

impl UsedSnapshots {
    /// Reads every manifest of the vault: a datastore that is no longer configured has snapshots
    /// all the same.
    ///
    /// # Errors
    /// [`WorkError`] if the vault cannot be read.
    pub async fn read(rig: &WorkContext) -> Result<Self, WorkError> {
        let mut used = Self::default();
        for entry in shelf::list_entries(rig, None).await? {
            match entry.manifest {
                Ok(believed) => used
                    .tagged
                    .extend(believed.manifest.set.map(|set| (entry.datastore, set.tagged))),
                Err(error) => {
                    tracing::warn!(datastore = %entry.datastore, error = &error as &dyn std::error::Error, "a manifest is not believed; no snapshot of its datastore is swept");
                    used.unclear.insert(entry.datastore);
                }
            }
        }
        Ok(used)
    }

    /// Whether snapshots with this tag must stay.
    #[must_use]
    pub fn holds(&self, owner: &(DatastoreName, BackupId)) -> bool {
        self.tagged.contains(owner) || self.unclear.contains(&owner.0)
    }
}

/// Whether the next run would go on with a set.
async fn goes_on(
    rig: &WorkContext,
    vault: &VaultId,
    (datastore, backup): &(DatastoreName, BackupId),
) -> Result<bool, WorkError> {
    let Some(catalog) = rig.catalog() else { return Ok(false) };
    let noted = catalog
        .noted_set(vault, datastore)
        .await?
        .and_then(|text| serde_json::from_str::<OpenSet>(&text).ok());
    let Some(noted) = noted.filter(|noted| noted.backup == *backup) else { return Ok(false) };
    Ok(rig
        .config
        .datastores
        .get(datastore)
        .is_some_and(|settings| is_younger(noted.begun, settings.rpo)))
}

/// Removes a stray snapshot.
///
/// # Errors
/// [`WorkError::Set`] if it is held.
pub async fn remove(rig: &WorkContext, stray: &StraySnapshot) -> Result<(), WorkError> {
    let volumes = rig.volumes.open(&stray.place).await.map_err(failed(&stray.owner.0))?;
    volumes.delete(&stray.id).await.map_err(failed(&stray.owner.0))
}

/// A set's snapshots, by place.
pub(super) async fn held_in(
    rig: &WorkContext,
    set: &VolumeSet,
) -> Result<Vec<(Arc<dyn VolumeStore>, Vec<SnapshotId>)>, VolumesError> {
    let mut all = Vec::new();
    for (place, is_copy) in set.places() {
        all.push((rig.volumes.open(place).await?, set.snapshots(is_copy)));
    }
    Ok(all)
}

/// What keeps the snapshots of a set from being removed: locks, images.
///
/// # Errors
/// [`WorkError::Set`] if a place cannot be asked.
pub async fn guards(
    rig: &WorkContext,
    manifest: &Manifest,
) -> Result<Vec<RemovalGuard>, WorkError> {
    let Some(set) = &manifest.set else { return Ok(Vec::new()) };
    let mut guards = Vec::new();
    for (place, ids) in held_in(rig, set).await.map_err(failed(&manifest.datastore))? {
        for snapshot in place.snapshots(&ids).await.map_err(failed(&manifest.datastore))? {
            guards.extend(snapshot.lock.map(|lock| RemovalGuard::Locked(lock.until)));
        }
        for (snapshot, users) in place.users(&ids).await.map_err(failed(&manifest.datastore))? {
            guards.extend(
                users
                    .into_iter()
                    .map(|user| RemovalGuard::InUse(format!("{user} uses {snapshot}"))),
            );
        }
    }
    Ok(guards)
}

/// Removes the snapshots of a backup that is gone, those that its manifest names and no other. What
/// cannot be removed, `sweep` finds.
///
/// # Errors
/// What stands in the way, in words.
pub async fn remove_of(rig: &WorkContext, manifest: &Manifest) -> Result<(), String> {
    let Some(set) = &manifest.set else { return Ok(()) };
    let mut first = Ok(());
    let own = tags(&manifest.vault, &manifest.datastore, &set.tagged);
    let in_words = |error| failed(&manifest.datastore)(error).to_string();
    for (place, ids) in held_in(rig, set).await.map_err(in_words)? {
        // A manifest names snapshots; whether they are those that lifeboat made for it, their place
        // says.
        for snapshot in place.snapshots(&ids).await.map_err(in_words)? {
            let is_ours = !snapshot.is_foreign()
                && own.iter().all(|(name, value)| snapshot.tags.get(name) == Some(value));
            let removed = match is_ours {
                true => place.delete(&snapshot.id).await.map_err(|error| error.to_string()),
                false => Err(format!(
                    "snapshot {} does not carry the marks of this backup, and is left alone",
                    snapshot.id
                )),
            };
            first = first.and(removed);
        }
    }
    first
}

/// Whether a set is old enough for the archive tier and not yet there: its snapshots that would go.
///
/// # Errors
/// [`WorkError::Set`] if its place cannot be asked.
pub async fn to_archive(
    rig: &WorkContext,
    manifest: &Manifest,
) -> Result<Vec<SnapshotId>, WorkError> {
    let settings =
        rig.config.datastores.get(&manifest.datastore).and_then(|settings| settings.volumes());
    let (Some(set), Some(after)) =
        (&manifest.set, settings.and_then(|settings| settings.archive_after))
    else {
        return Ok(Vec::new());
    };
    if is_younger(manifest.source.snapshot_time, after) {
        return Ok(Vec::new());
    }
    let place = rig.volumes.open(&set.place).await.map_err(failed(&manifest.datastore))?;
    let found =
        place.snapshots(&set.snapshots(false)).await.map_err(failed(&manifest.datastore))?;
    Ok(found
        .into_iter()
        .filter(|snapshot| snapshot.progress == SnapshotProgress::Completed)
        .map(|snapshot| snapshot.id)
        .collect())
}

/// Moves the snapshots of a set to the archive tier.
///
/// # Errors
/// [`WorkError::Set`]
pub async fn archive(
    rig: &WorkContext,
    manifest: &Manifest,
    ids: &[SnapshotId],
) -> Result<(), WorkError> {
    let Some(set) = &manifest.set else { return Ok(()) };
    let place = rig.volumes.open(&set.place).await.map_err(failed(&manifest.datastore))?;
    for id in ids {
        place.archive(id).await.map_err(failed(&manifest.datastore))?;
    }
    Ok(())
}

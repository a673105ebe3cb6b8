//! Objects of backups that were never published, and how that is known.
//!
//! Absence alone proves nothing. A backup whose manifest somebody deleted looks like one that was
//! never published, and in a store that keeps versions its manifest may only be hidden. So an
//! object is removed only if all of this holds:
//!
//! - no manifest of its backup is there, and no version of one, hidden or not;
//! - the signature of its manifest, which is written right before it, is not there either, except
//!   for a run of this host that died in between;
//! - this host's catalog can be asked, and does not know the backup as published;
//! - no number is missing from the signed sequence that the backup could have had;
//! - nobody may still be writing it: a run of this host that has ended, or nothing of it has
//!   changed for a day.
//!
//! What is left alone for any reason but the last is reported by name: somebody or something may
//! have removed a manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::OnceCell;

use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::layout::{self, ObjectKey, parse_backup_key, parse_manifest_key};
use crate::domain::selector::gaps;
use crate::evidence::EvidenceSeries;
use crate::vault::{ObjectFacts, ObjectVersionInfo, Vault, VaultError};
use crate::work::{WorkContext, WorkError, evidence, shelf};

/// How long nothing of an upload must have changed that this host has not begun: it may be another
/// host's, and under way.
pub(super) const SILENCE: SignedDuration = SignedDuration::from_hours(24);

/// A backup by its names.
pub type BackupOwner = (DatastoreName, BackupId);

/// One thing of a backup that was never published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrphanObject {
    /// In a store that keeps no versions.
    Object(ObjectFacts),
    /// In one that keeps them: a version, or a marker that hides one.
    Version(ObjectVersionInfo),
}

impl OrphanObject {
    fn key(&self) -> &ObjectKey {
        match self {
            Self::Object(facts) => &facts.key,
            Self::Version(version) => &version.key,
        }
    }
    fn modified(&self) -> Timestamp {
        match self {
            Self::Object(facts) => facts.modified,
            Self::Version(version) => version.modified,
        }
    }
    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Object(facts) => facts.bytes,
            Self::Version(version) => version.bytes,
        }
    }
    /// Removes it for good.
    pub(super) async fn remove(&self, vault: &dyn Vault) -> Result<(), VaultError> {
        match self {
            Self::Object(facts) => vault.erase(facts).await,
            Self::Version(version) => vault.erase_version(version).await,
        }
    }
}

impl fmt::Display for OrphanObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(facts) => write!(f, "{}", facts.key),
            Self::Version(version) if version.is_marker => {
                write!(f, "{} (delete marker {})", version.key, version.id)
            }
            Self::Version(version) => write!(f, "{} (version {})", version.key, version.id),
        }
    }
}

/// What is known of a backup without a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnpublishedFate {
    /// It was never published.
    Unpublished,
    /// A signed record says that it is removed.
    Removed,
    /// It may have been published.
    Lost(LostReason),
}

/// Why a backup without a manifest is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostReason {
    /// This host's catalog knows that it was published.
    Known,
    /// Its manifest stands behind a delete marker.
    Hidden,
    /// It may have had a number that is missing from the series.
    PerhapsNumbered,
    /// The signature of its manifest is there, which is written right before it, and no run of this
    /// host died in between.
    Signed,
    /// This host's catalog cannot be asked.
    NotAsked,
    /// A signed record speaks of it as there: restored, drilled, held.
    Witnessed,
    /// A copy has its manifest.
    Copied,
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known => "was published by this host, and its manifest is gone",
            Self::Hidden => {
                "has its manifest behind a delete marker, and no record says that it was removed; removing the marker's version brings it back"
            }
            Self::Signed => "has no manifest, and the signature of one: it was about to be published, or was",
            Self::NotAsked => "has no manifest, and this host's catalog, which may know it, cannot be asked",
            Self::Witnessed => "has no manifest, and a signed record of the evidence says that it was there",
            Self::Copied => "has no manifest, and a copy has it: `lifeboat restore --vault` brings it back from there",
            Self::PerhapsNumbered => "has no manifest, and may have had one of the numbers that are missing from this datastore's series",
        })
    }
}

/// What stands in a vault, by backup.
pub(super) struct StoredObjects {
    /// Backups with a manifest.
    pub published: BTreeSet<BackupOwner>,
    /// Backups of which a manifest was there, and is hidden.
    pub hidden: BTreeSet<BackupOwner>,
    /// Everything of all others.
    pub others: BTreeMap<BackupOwner, Vec<OrphanObject>>,
}

impl StoredObjects {
    /// Lists a vault. Payloads are listed before manifests: a backup published in between has its
    /// manifest in the second listing.
    pub(super) async fn list(vault: &dyn Vault) -> Result<Self, VaultError> {
        let mut all: Vec<OrphanObject> = Vec::new();
        let (mut published, mut hidden) = (BTreeSet::new(), BTreeSet::new());
        for prefix in [layout::PAYLOADS, layout::META, layout::MANIFESTS] {
            match vault.versions(prefix).await? {
                Some(versions) => all.extend(versions.into_iter().map(OrphanObject::Version)),
                None => all.extend(vault.list(prefix).await?.into_iter().map(OrphanObject::Object)),
            }
        }
        for one in &all {
            let Some(owner) = parse_manifest_key(one.key().as_str()) else { continue };
            match one {
                OrphanObject::Version(version) if version.is_marker => {}
                OrphanObject::Version(version) if !version.is_current => drop(hidden.insert(owner)),
                _ => drop(published.insert(owner)),
            }
        }
        hidden.retain(|owner| !published.contains(owner));
        let mut others: BTreeMap<BackupOwner, Vec<OrphanObject>> = BTreeMap::new();
        for one in all {
            let Some(owner) = parse_backup_key(one.key().as_str()) else { continue };
            if !published.contains(&owner) && !hidden.contains(&owner) {
                others.entry(owner).or_default().push(one);
            }
        }
        Ok(Self { published, hidden, others })
    }
}

/// When something of a backup last changed.
pub(super) fn last_change(things: &[OrphanObject]) -> Timestamp {
    things.iter().map(OrphanObject::modified).max().unwrap_or(Timestamp::MAX)
}

/// Whether the signature of its manifest is among what there is of a backup.
pub(super) fn has_manifest_signature(
    things: &[OrphanObject],
    (datastore, backup): &BackupOwner,
) -> bool {
    let signature = layout::BackupKeys { datastore, backup }.manifest().signature();
    things.iter().any(|thing| {
        *thing.key() == signature
            && !matches!(thing, OrphanObject::Version(version) if version.is_marker)
    })
}

/// Whether nothing of a backup is published by now, looked at right before it goes.
pub(super) async fn is_unpublished(
    vault: &dyn Vault,
    (datastore, backup): &BackupOwner,
) -> Result<bool, VaultError> {
    let manifest = layout::BackupKeys { datastore, backup }.manifest();
    Ok(match vault.versions(manifest.as_str()).await? {
        Some(versions) => {
            !versions.iter().any(|version| version.key == manifest && !version.is_marker)
        }
        None => vault.find(&manifest).await?.is_none(),
    })
}

/// What is known of a datastore's backups beside what stands in the vault, asked once.
struct DatastoreKnowledge {
    published: BTreeSet<BackupId>,
    begun: BTreeSet<BackupId>,
    removed: BTreeSet<BackupId>,
    /// Those that signed records speak of as there.
    witnessed: BTreeSet<BackupId>,
    /// Those whose manifest a copy has. One that does not answer says nothing.
    copied: BTreeSet<BackupId>,
    /// A backup that was begun before this time may have had a number that is missing.
    missing_until: Option<Timestamp>,
}

/// The same, by datastore.
pub(super) struct KnowledgeCache<'a> {
    rig: &'a WorkContext,
    vault: &'a VaultId,
    series: OnceCell<EvidenceSeries>,
    known: BTreeMap<DatastoreName, DatastoreKnowledge>,
}

impl<'a> KnowledgeCache<'a> {
    pub(super) fn new(rig: &'a WorkContext, vault: &'a VaultId) -> Self {
        Self { rig, vault, series: OnceCell::new(), known: BTreeMap::new() }
    }

    async fn of(&mut self, datastore: &DatastoreName) -> Result<&DatastoreKnowledge, WorkError> {
        // Not the entry's own way to insert: asking can fail.
        if !self.known.contains_key(datastore) {
            // The evidence is read once for all of them.
            let series = self.series.get_or_try_init(|| evidence::series(self.rig)).await?;
            let knowledge =
                DatastoreKnowledge::ask(self.rig, self.vault, series, datastore).await?;
            self.known.insert(datastore.clone(), knowledge);
        }
        self.known
            .get(datastore)
            .ok_or_else(|| WorkError::Bug("what was just noted is gone".to_owned()))
    }

    /// What is known of a backup without a manifest, or with one that is hidden.
    pub(super) async fn fate(
        &mut self,
        owner: &BackupOwner,
        is_hidden: bool,
    ) -> Result<UnpublishedFate, WorkError> {
        let cannot_ask = self.rig.catalog.is_err();
        let known = self.of(&owner.0).await?;
        Ok(match () {
            () if known.removed.contains(&owner.1) => UnpublishedFate::Removed,
            () if cannot_ask => UnpublishedFate::Lost(LostReason::NotAsked),
            () if is_hidden => UnpublishedFate::Lost(LostReason::Hidden),
            () if known.published.contains(&owner.1) => UnpublishedFate::Lost(LostReason::Known),
            () if known.witnessed.contains(&owner.1) => {
                UnpublishedFate::Lost(LostReason::Witnessed)
            }
            () if known.copied.contains(&owner.1) => UnpublishedFate::Lost(LostReason::Copied),
            () if known.missing_until.is_some_and(|until| owner.1.begun() <= until) => {
                UnpublishedFate::Lost(LostReason::PerhapsNumbered)
            }
            () => UnpublishedFate::Unpublished,
        })
    }

    /// Whether the run that wrote a backup is one of this host's, or of those that share its
    /// catalog: then its lock tells whether it goes on.
    pub(super) async fn began_here(&mut self, owner: &BackupOwner) -> Result<bool, WorkError> {
        let known = self.of(&owner.0).await?;
        Ok(known.begun.contains(&owner.1)
            || known.published.contains(&owner.1)
            || known.removed.contains(&owner.1))
    }
}

impl DatastoreKnowledge {
    async fn ask(
        rig: &WorkContext,
        vault: &VaultId,
        series: &EvidenceSeries,
        datastore: &DatastoreName,
    ) -> Result<Self, WorkError> {
        let (mut published, mut begun) = (BTreeSet::new(), BTreeSet::new());
        if let Some(catalog) = rig.catalog() {
            published = catalog.known(vault, datastore).await?.into_keys().collect();
            begun = catalog.begun(vault, datastore).await?;
        }
        let removed = evidence::removed_in(series).remove(datastore).unwrap_or_default();
        let witnessed = evidence::witnessed_in(series, datastore);
        let mut copied = BTreeSet::new();
        for copy in rig.replicas.values() {
            let listed = copy.list(&layout::manifests_of(datastore)).await.unwrap_or_default();
            copied.extend(
                listed.iter().filter_map(|facts| Some(parse_manifest_key(facts.key.as_str())?.1)),
            );
        }
        let believed: BTreeMap<u64, Timestamp> = shelf::list_entries(rig, Some(datastore))
            .await?
            .into_iter()
            .filter_map(|entry| entry.manifest.ok())
            .map(|believed| (believed.manifest.sequence, believed.manifest.published))
            .collect();
        let numbers = believed
            .keys()
            .copied()
            .chain(removed.iter().map(|(_, number)| *number))
            .chain([0])
            .collect();
        let above_the_last = gaps(numbers).last().map(|(_, last)| last.saturating_add(1));
        // A number is given when a backup is published, so whoever had a missing one began before
        // the next was published.
        let missing_until = above_the_last
            .and_then(|above| believed.range(above..).next())
            .map(|(_, published)| *published);
        Ok(Self {
            published,
            begun,
            removed: removed.into_iter().map(|(backup, _)| backup).collect(),
            witnessed,
            copied,
            missing_until,
        })
    }
}

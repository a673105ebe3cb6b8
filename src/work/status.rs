//! Status: every datastore against its objectives, past and next runs, alarms.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::publish::without_catalog;
use super::shelf::LoadedManifest;
use super::{WorkContext, WorkError, key_life, shelf};
use crate::catalog::Catalog;
use crate::catalog::alarms::{StandingAlarm, UndeliveredMessage};
use crate::catalog::ticks::{HostRow, TickRow};
use crate::domain::alarm::{Alarm, AlarmKind};
use crate::domain::calendar::Tick;
use crate::domain::drill::Verdict;
use crate::domain::evidence::{DrillReport, RecordBody, SeenHead, SeriesFlaw};
use crate::domain::health::DatastoreHealth;
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::job::Job;
use crate::domain::layout;
use crate::domain::manifest::Manifest;
use crate::evidence::{self, EvidenceSeries};

/// Clocks differ by less; what lies further ahead was made by one that was wrong.
const FUTURE: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
/// Manifests that are tried for the newest one that is believed.
const TRIED_MAX: usize = 20;

/// A job and what is known of it.
#[derive(Debug, Clone, Serialize)]
pub struct JobStatus {
    /// Its key.
    pub job: String,
    /// What it does.
    pub what: String,
    /// When, in words.
    pub when: String,
    /// The next tick.
    pub next: Option<Timestamp>,
    /// When that is due, by the clock on the wall of its zone.
    pub next_local: Option<String>,
    /// Why then.
    pub why: Vec<String>,
    /// The newest tick that ended, runs or waits.
    pub last: Option<TickRow>,
    /// The newest tick that was done or failed.
    pub ended: Option<TickRow>,
}

/// How things stand.
#[derive(Debug, Clone, Serialize)]
pub struct SystemStatus {
    /// When this was looked at.
    pub at: Timestamp,
    /// The vault.
    pub vault: String,
    /// Every datastore.
    pub datastores: Vec<DatastoreHealth>,
    /// Every job.
    pub jobs: Vec<JobStatus>,
    /// What is wrong with datastores at this moment.
    pub alarms: Vec<Alarm>,
    /// What somebody was told of and is not over.
    pub standing: Vec<StandingAlarm>,
    /// Messages that could not be delivered so far.
    pub undelivered: Vec<UndeliveredMessage>,
    /// Hosts that share the catalog.
    pub hosts: Vec<HostRow>,
    /// What is wrong with the catalog or with files, where that kept something from being looked
    /// at.
    pub not_looked_at: Vec<String>,
}

impl SystemStatus {
    /// Whether a monitor should be content.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.alarms.is_empty()
            && self.standing.is_empty()
            && self.undelivered.is_empty()
            && self.not_looked_at.is_empty()
    }
}

/// How long what keys say of themselves, and whether the newest backups are all there, is not asked
/// again.
const ASKED_EVERY: std::time::Duration = std::time::Duration::from_secs(3600);

/// What need not be asked at every look.
#[derive(Default)]
pub struct StatusCache {
    listed: Vec<(String, u64, Timestamp)>,
    /// The evidence as it was read last: what has the same name, size and time is the same.
    series: Option<Arc<EvidenceSeries>>,
    /// Its flaws, as they were seen last.
    flaws: Vec<SeriesFlaw>,
    /// Whether the newest backup of each datastore was all there, and when that was asked.
    all_there: BTreeMap<BackupId, (std::time::Instant, bool)>,
    keys: Option<(std::time::Instant, Vec<Alarm>)>,
}

impl StatusCache {
    /// Alarms of keys.
    async fn keys(&mut self, rig: &WorkContext, now: Timestamp) -> Vec<Alarm> {
        if let Some((asked, alarms)) = &self.keys
            && asked.elapsed() < ASKED_EVERY
        {
            return alarms.clone();
        }
        let alarms = key_life::alarms(rig, now).await;
        self.keys = Some((std::time::Instant::now(), alarms.clone()));
        alarms
    }

    /// Whether the newest backup of a datastore is all there. A role that may not list says nothing
    /// of it.
    async fn is_all_there(
        &mut self,
        rig: &WorkContext,
        manifest: &Manifest,
    ) -> Result<bool, WorkError> {
        if let Some((asked, is_there)) = self.all_there.get(&manifest.backup)
            && *is_there
            && asked.elapsed() < ASKED_EVERY
        {
            return Ok(true);
        }
        let place = manifest.place();
        let is_there = match shelf::sizes(rig, [place.payload_prefix(), place.meta_prefix()]).await
        {
            Ok(sizes) => {
                shelf::is_all_there(manifest, &sizes)
                    && shelf::has_whole_slot(rig, manifest).await?
            }
            Err(WorkError::Vault(error)) if !shelf::is_outage(&error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "whether the newest backup is all there is not looked at"
                );
                true
            }
            Err(error) => return Err(error),
        };
        self.all_there.retain(|_, (asked, _)| asked.elapsed() < ASKED_EVERY);
        self.all_there.insert(manifest.backup.clone(), (std::time::Instant::now(), is_there));
        Ok(is_there)
    }

    /// The series, read again only if something was added, removed or changed.
    ///
    /// # Errors
    /// [`WorkError`] if the vault cannot be read.
    pub async fn series(&mut self, rig: &WorkContext) -> Result<Arc<EvidenceSeries>, WorkError> {
        let listed = rig.vault.list(layout::EVIDENCE).await?.into_iter();
        let listed: Vec<_> =
            listed.map(|facts| (facts.key.to_string(), facts.bytes, facts.modified)).collect();
        if self.series.is_none() || listed != self.listed {
            let vault = shelf::vault_id(rig).await?;
            self.series =
                Some(Arc::new(evidence::read(rig.vault.as_ref(), &vault, &rig.trusted).await?));
            self.listed = listed;
        }
        self.read().ok_or_else(|| WorkError::Bug("a series that was read is not there".to_owned()))
    }

    /// The series as it was read last.
    #[must_use]
    pub fn read(&self) -> Option<Arc<EvidenceSeries>> {
        self.series.clone()
    }
}

/// Looks at everything.
///
/// # Errors
/// [`WorkError`] if the vault cannot be read.
pub async fn collect_status(
    rig: &WorkContext,
    jobs: &[Job],
    cache: &mut StatusCache,
) -> Result<SystemStatus, WorkError> {
    let series = cache.series(rig).await?;
    // One clock for all hosts, where there is one.
    let now = match &rig.catalog {
        Ok(catalog) => catalog.now().await.unwrap_or_else(|_| Timestamp::now()),
        Err(_) => Timestamp::now(),
    };
    let mut names: BTreeMap<DatastoreName, Vec<_>> = BTreeMap::new();
    let manifests = rig.vault.list(layout::MANIFESTS).await?;
    for facts in &manifests {
        if let Some((datastore, backup)) = layout::parse_manifest_key(facts.key.as_str()) {
            names.entry(datastore).or_default().push(backup);
        }
    }
    let mut datastores = Vec::new();
    for (datastore, settings) in &rig.config.datastores {
        let mut health = DatastoreHealth {
            datastore: datastore.clone(),
            rpo_seconds: settings.rpo.duration().as_secs(),
            rto_seconds: settings.rto.duration().as_secs(),
            drilled_within_seconds: settings.drilled_within.duration().as_secs(),
            backups: 0,
            not_believed: 0,
            newest: None,
            newest_snapshot: None,
            newest_bytes: 0,
            last_pass: None,
            last_pass_record: None,
            verified_snapshot: None,
            last_verdict: None,
            omitted: Vec::new(),
            damaged: Vec::new(),
            gone: Vec::new(),
            future: Vec::new(),
        };
        let backups = names.remove(datastore).unwrap_or_default();
        let vault = shelf::vault_id(rig).await?;
        let looked =
            shelf::newest_of_each(rig, &vault, datastore, backups.clone(), &manifests, TRIED_MAX)
                .await?;
        (health.backups, health.not_believed) =
            (backups.len().saturating_sub(looked.refused), looked.refused);
        let (mut newest, future): (Vec<_>, Vec<_>) =
            looked.believed.into_iter().filter(|believed| believed.verified).partition(
                |believed| {
                    // One from the future would hide for years that there is none from today.
                    believed.manifest.source.snapshot_time <= now + FUTURE
                },
            );
        health.future = future.into_iter().map(|believed| believed.manifest.backup).collect();
        newest.sort_by_key(|believed| believed.manifest.sequence);
        if let Some(LoadedManifest { manifest, .. }) = newest.pop() {
            health.newest = Some(manifest.backup.clone());
            health.newest_snapshot = Some(manifest.source.snapshot_time);
            // What a set protects is not in the vault.
            health.newest_bytes = if manifest.set.is_some() {
                manifest.plain_bytes()
            } else {
                manifest.sealed_bytes()
            };
            if !cache.is_all_there(rig, &manifest).await? {
                health.damaged.push(manifest.backup.clone());
            }
        }
        drilled(&series, &mut health, now);
        health.gone = shelf::gone_backups(rig, &vault, datastore, &backups)
            .await?
            .into_iter()
            .map(|one| one.backup)
            .collect();
        if let Ok(catalog) = &rig.catalog {
            found(catalog, &vault, &backups, &mut health).await;
        }
        datastores.push(health);
    }
    let mut alarms: Vec<Alarm> = datastores.iter().flat_map(|health| health.alarms(now)).collect();
    alarms.extend(cache.keys(rig, now).await);
    alarms.extend(of_evidence(rig, &series, cache, now).await?);
    if let Err(error) = shelf::vault_to_write(rig).await {
        alarms.push(Alarm {
            kind: AlarmKind::Gone,
            subject: "vault.json".to_owned(),
            text: format!("no backup can be taken: {}", error.in_one_line()),
            next_step: error.hint().unwrap_or_default(),
        });
    }
    let mut status = SystemStatus {
        at: now,
        vault: rig.vault.address(),
        datastores,
        jobs: Vec::new(),
        alarms,
        standing: Vec::new(),
        undelivered: Vec::new(),
        hosts: Vec::new(),
        not_looked_at: Vec::new(),
    };
    of_jobs(rig, jobs, &mut status).await;
    Ok(status)
}

/// An alarm where the series of evidence has a flaw for which it is not known what its records say.
/// One that will never be mended, such as a drill without a report, is shown by `evidence verify`
/// and is no alarm for ever.
async fn of_evidence(
    rig: &WorkContext,
    series: &EvidenceSeries,
    cache: &mut StatusCache,
    now: Timestamp,
) -> Result<Option<Alarm>, WorkError> {
    let seen = super::evidence::seen_here(rig, &shelf::vault_id(rig).await?).await;
    let heads: Vec<SeenHead> = seen
        .into_iter()
        .map(|(_, sha256)| SeenHead { sha256, seen_by: "this host".to_owned() })
        .collect();
    let mut flaws = flaws_that_hide(series, &heads, now);
    // A record that is being written has its signature before it is there: what is new is looked at
    // twice.
    if !flaws.is_empty() && flaws != cache.flaws {
        tokio::time::sleep(super::evidence::WRITTEN_WITHIN).await;
        flaws = flaws_that_hide(cache.series(rig).await?.as_ref(), &heads, now);
    }
    cache.flaws.clone_from(&flaws);
    Ok(flaws.first().map(|first| Alarm {
        kind: AlarmKind::Evidence,
        subject: "evidence".to_owned(),
        text: match flaws.len() {
            1 => format!("the series of evidence has a flaw: {first}"),
            count => format!("the series of evidence has {count} flaws; the first: {first}"),
        },
        next_step: "lifeboat evidence verify shows all of them".to_owned(),
    }))
}

fn flaws_that_hide(series: &EvidenceSeries, heads: &[SeenHead], now: Timestamp) -> Vec<SeriesFlaw> {
    let mut flaws = series.flaws(heads, now);
    flaws.retain(SeriesFlaw::hides_records);
    flaws.dedup();
    flaws
}

/// What the catalog says of the jobs, which needs no vault.
pub async fn of_jobs(rig: &WorkContext, jobs: &[Job], status: &mut SystemStatus) {
    let mut board: BTreeMap<String, (Option<TickRow>, Option<TickRow>)> = BTreeMap::new();
    match of_catalog(rig, status).await {
        Ok(rows) => {
            // Rows come by their ticks; a running one says more than one that waits behind it.
            for row in rows {
                let (last, ended) = board.entry(row.job.clone()).or_default();
                if row.ended.is_some() && row.state != "waiting" {
                    *ended = Some(row.clone());
                }
                if row.state != "waiting"
                    || last.as_ref().is_none_or(|last| last.state == "waiting")
                {
                    *last = Some(row);
                }
            }
        }
        Err(error) => status.not_looked_at.push(error),
    }
    let at = status.at;
    status.jobs = jobs
        .iter()
        .map(|job| job_status(job, board.remove(&job.key).unwrap_or_default(), at))
        .collect();
}

impl SystemStatus {
    /// What can be said while the vault does not answer.
    #[must_use]
    pub fn without_the_vault(rig: &WorkContext, at: Timestamp) -> Self {
        Self {
            at,
            vault: rig.vault.address(),
            datastores: Vec::new(),
            jobs: Vec::new(),
            alarms: Vec::new(),
            standing: Vec::new(),
            undelivered: Vec::new(),
            hosts: Vec::new(),
            not_looked_at: vec!["the vault does not answer".to_owned()],
        }
    }
}

async fn of_catalog(rig: &WorkContext, status: &mut SystemStatus) -> Result<Vec<TickRow>, String> {
    let in_words = |error: &dyn std::error::Error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let catalog = rig.catalog.as_ref().map_err(|error| in_words(error.as_ref()))?;
    let read = async {
        status.standing = catalog.alarms().await?;
        // One that is configured no more is nobody's trouble.
        let configured =
            |channel: &str| rig.config.notify.iter().any(|notify| notify.name == channel);
        status.undelivered = catalog
            .undelivered()
            .await?
            .into_iter()
            .filter(|message| configured(&message.channel))
            .collect();
        status.hosts = catalog.hosts().await?;
        catalog.board().await
    };
    read.await.map_err(|error| in_words(&error))
}

fn job_status(
    job: &Job,
    (last, ended): (Option<TickRow>, Option<TickRow>),
    now: Timestamp,
) -> JobStatus {
    let next: Option<Tick> = job.calendar.next(&job.key, now);
    JobStatus {
        job: job.key.clone(),
        what: job.describe(),
        when: job.calendar.describe(),
        next: next.as_ref().map(|tick| tick.nominal),
        next_local: next.as_ref().and_then(|tick| tick.due).map(|due| job.calendar.zone.show(due)),
        why: next.map(|tick| tick.why).unwrap_or_default(),
        last,
        ended,
    }
}

/// Reports of drills that restored a datastore, oldest first, with the numbers of their records.
pub fn drill_reports<'a>(
    series: &'a EvidenceSeries,
    datastore: &'a DatastoreName,
) -> impl DoubleEndedIterator<Item = (u64, &'a DrillReport)> {
    series.believed().filter_map(move |(found, record)| match &record.body {
        RecordBody::Report(report)
            if report.backups.iter().any(|backup| &backup.datastore == datastore) =>
        {
            Some((found.sequence, report.as_ref()))
        }
        _ => None,
    })
}

/// What this host's catalog knows of single backups. Those that are gone are nobody's trouble.
async fn found(
    catalog: &Catalog,
    vault: &VaultId,
    backups: &[BackupId],
    health: &mut DatastoreHealth,
) {
    let damaged = without_catalog(catalog.damaged(vault).await).unwrap_or_default().into_iter();
    let damaged =
        damaged.filter(|row| row.datastore == health.datastore && backups.contains(&row.backup));
    health.damaged.extend(damaged.map(|row| row.backup));
    health.damaged.sort();
    health.damaged.dedup();
    if let Some(newest) = &health.newest {
        health.omitted = without_catalog(catalog.omitted(vault, newest).await).unwrap_or_default();
    }
}

fn drilled(series: &EvidenceSeries, health: &mut DatastoreHealth, now: Timestamp) {
    let datastore = health.datastore.clone();
    health.last_verdict = drill_reports(series, &datastore)
        .next_back()
        .map(|(_, report)| report.verdict.name().to_owned());
    let passed = drill_reports(series, &datastore)
        .rev()
        .find(|(_, report)| report.verdict == Verdict::Pass && report.declared <= now + FUTURE);
    if let Some((record, report)) = passed {
        health.last_pass = Some(report.declared);
        health.last_pass_record = Some(record);
        health.verified_snapshot = report
            .backups
            .iter()
            .find(|backup| backup.datastore == datastore)
            .map(|backup| backup.snapshot_time);
    }
}

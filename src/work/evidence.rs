//! Reading the evidence of a vault, looking for flaws, and adding reviewers' statements.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::publish::without_catalog;
use super::{WorkContext, WorkError, shelf};
use crate::domain::evidence::{
    Actor, Certificate, DrillReport, EvidenceRecord, FoundRecord, RecordBody, SeenHead, SeriesFlaw,
};
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::layout;
use crate::evidence::{self, EvidenceSeries, WrittenRecord, html};

/// Who runs this process, as the system names them.
#[must_use]
pub fn actor() -> Actor {
    let user = ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Actor {
        user: user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw())),
        host,
    }
}

/// Reads the series and everything that was ever seen of it, and looks for flaws.
///
/// # Errors
/// [`WorkError`] if the vault cannot be read.
pub async fn examine(rig: &WorkContext) -> Result<(EvidenceSeries, Vec<SeriesFlaw>), WorkError> {
    let (series, flaws) = examine_once(rig).await?;
    if flaws.is_empty() {
        return Ok((series, flaws));
    }
    // A record that is being written has its signature before it is there.
    tokio::time::sleep(WRITTEN_WITHIN).await;
    examine_once(rig).await
}

/// How long the writing of a record may take between its signature and itself.
pub(super) const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

async fn examine_once(rig: &WorkContext) -> Result<(EvidenceSeries, Vec<SeriesFlaw>), WorkError> {
    let vault = shelf::vault_id(rig).await?;
    let mut heads = Vec::new();
    for entry in shelf::list_entries(rig, None).await? {
        if let Ok(believed) = entry.manifest
            && let Some(sha256) = believed.manifest.evidence_head
        {
            heads
                .push(SeenHead { sha256, seen_by: format!("backup {}", believed.manifest.backup) });
        }
    }
    if let Ok(catalog) = &rig.catalog {
        let seen = catalog.evidence_seen(&vault).await?.into_iter();
        heads.extend(seen.map(|(_, sha256)| SeenHead { sha256, seen_by: "this host".to_owned() }));
    }
    // After everything that was seen of it: what is written meanwhile is in the series, and not the
    // other way round.
    let series = evidence::read(rig.vault.as_ref(), &vault, &rig.trusted).await?;
    let mut flaws = series.flaws(&heads, Timestamp::now());
    flaws.dedup();
    Ok((series, flaws))
}

/// Numbers and hashes of the records that this host's catalog has seen, newest last. Of a copy it
/// knows nothing: one may be behind, and is a series of its own until it has become the vault.
pub(super) async fn seen_here(rig: &WorkContext, vault: &VaultId) -> Vec<(u64, String)> {
    match rig.catalog() {
        Some(catalog) if !rig.is_elsewhere => {
            without_catalog(catalog.evidence_seen(vault).await).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// Writes a record and remembers it.
///
/// # Errors
/// [`WorkError`] if it could not be written.
pub async fn write(rig: &WorkContext, body: RecordBody) -> Result<WrittenRecord, WorkError> {
    let vault = shelf::vault_to_write(rig).await?;
    let seen = seen_here(rig, &vault).await.pop();
    let written =
        evidence::append(rig.vault.as_ref(), &vault, rig.signer.as_ref(), &actor(), body, seen)
            .await?;
    if let Some(catalog) = rig.catalog()
        && let Err(error) = catalog.saw_evidence(&vault, written.sequence, &written.sha256).await
    {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the head of the evidence could not be noted in the catalog"
        );
    }
    Ok(written)
}

/// Reports that are believed, oldest first, with their numbers.
#[must_use]
pub fn reports(series: &EvidenceSeries) -> Vec<(u64, &DrillReport)> {
    series.believed().filter_map(report_of).collect()
}

fn report_of<'a>(
    (found, record): (&'a FoundRecord, &'a EvidenceRecord),
) -> Option<(u64, &'a DrillReport)> {
    match &record.body {
        RecordBody::Report(report) => Some((found.sequence, report)),
        _ => None,
    }
}

/// Adds a reviewer's statement to a report. Also told is whether the drill named them as a
/// reviewer; others' statements are recorded too, and are shown as what they are.
///
/// # Errors
/// [`WorkError`] if there is no such report, or it is not believed.
pub async fn certify(
    rig: &WorkContext,
    run: &str,
    reviewer: &str,
    statement: &str,
) -> Result<(WrittenRecord, bool), WorkError> {
    if statement.trim().is_empty() || reviewer.trim().is_empty() {
        return Err(WorkError::Refused {
            what: format!("the certificate of run {run}"),
            why: "a reviewer and a statement are needed: an empty one says nothing".to_owned(),
            hint: "--reviewer 'A. Meyer' --statement 'seen, RTO is fine'".to_owned(),
        });
    }
    let (series, _) = examine(rig).await?;
    let found = series.believed().find_map(|(found, record)| match &record.body {
        RecordBody::Report(report) if report.run == run => Some((found, report)),
        _ => None,
    });
    let Some((found, report)) = found else {
        return Err(WorkError::Refused {
            what: format!("report of run {run}"),
            why: "there is none in the evidence that a pinned key signed".to_owned(),
            hint: "`lifeboat drill history` shows the runs".to_owned(),
        });
    };
    let certificate = Certificate {
        report: found.sequence,
        report_sha256: found.sha256.clone(),
        reviewer: reviewer.to_owned(),
        statement: statement.to_owned(),
    };
    let is_listed = report.reviewers.iter().any(|listed| listed == reviewer);
    Ok((write(rig, RecordBody::Certify(certificate)).await?, is_listed))
}

/// The page of each report that is believed, with its name.
pub fn pages(series: &EvidenceSeries) -> impl Iterator<Item = (String, String)> {
    series.believed().filter_map(|(found, record)| {
        let RecordBody::Report(report) = &record.body else { return None };
        let certificates: Vec<(u64, &Certificate)> = series
            .believed()
            .filter_map(|(other, record)| match &record.body {
                RecordBody::Certify(certificate) if certificate.report == found.sequence => {
                    Some((other.sequence, certificate))
                }
                _ => None,
            })
            .collect();
        let page =
            html::report_page(found.sequence, &found.sha256, found.signed, report, &certificates);
        Some((html::page_name(found.sequence), page))
    })
}

/// What was exported.
#[derive(Debug, serde::Serialize)]
pub struct ExportedEvidence {
    /// Pages, the series' first.
    pub pages: Vec<std::path::PathBuf>,
    /// Records, each with its signature beside it.
    pub records: usize,
}

/// Writes pages to look at, and beside them the signed records and the public keys, with which
/// `openssl` verifies them.
///
/// # Errors
/// [`WorkError`] if the vault cannot be read or a file not be written.
pub async fn export(
    rig: &WorkContext,
    directory: &std::path::Path,
) -> Result<ExportedEvidence, WorkError> {
    let (series, flaws) = examine(rig).await?;
    let fail =
        |source| WorkError::File { what: format!("writing to {}", directory.display()), source };
    let records = directory.join("records");
    std::fs::create_dir_all(&records).map_err(fail)?;
    let mut exported = ExportedEvidence { pages: Vec::new(), records: 0 };
    let mut write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(fail)?;
        exported.pages.push(path);
        Ok::<_, WorkError>(())
    };
    write("index.html", &html::series_page(&series, &flaws, Timestamp::now()))?;
    for (name, page) in pages(&series) {
        write(&name, &page)?;
    }
    for found in &series.found {
        for key in [layout::evidence(found.sequence), layout::evidence(found.sequence).signature()]
        {
            if let Some(bytes) = crate::vault::fetch::document(rig.vault.as_ref(), &key).await? {
                std::fs::write(records.join(key.file_name()), bytes).map_err(fail)?;
            }
        }
        exported.records += 1;
    }
    for (number, key) in rig.trusted.keys().iter().enumerate() {
        std::fs::write(directory.join(format!("trusted-{}.pem", number + 1)), key.to_pem())
            .map_err(fail)?;
    }
    Ok(exported)
}

/// Backups that signed records say were removed, with their numbers.
pub type RemovedBackups = BTreeMap<DatastoreName, Vec<(BackupId, u64)>>;

/// Reads the whole series.
///
/// # Errors
/// [`WorkError`] if the vault cannot be read.
pub async fn series(rig: &WorkContext) -> Result<EvidenceSeries, WorkError> {
    let vault = shelf::vault_id(rig).await?;
    Ok(evidence::read(rig.vault.as_ref(), &vault, &rig.trusted).await?)
}

/// What signed records say was removed, of all datastores.
#[must_use]
pub fn removed_in(series: &EvidenceSeries) -> RemovedBackups {
    let mut all = RemovedBackups::new();
    for (_, record) in series.believed() {
        if let RecordBody::Removed(removed) = &record.body {
            let backups = removed.backups.iter().map(|one| (one.backup.clone(), one.sequence));
            all.entry(removed.datastore.clone()).or_default().extend(backups);
        }
    }
    all
}

/// The same of one datastore, read for it.
///
/// # Errors
/// As [`series`].
pub async fn removed(
    rig: &WorkContext,
    datastore: &DatastoreName,
) -> Result<Vec<(BackupId, u64)>, WorkError> {
    Ok(removed_in(&series(rig).await?).remove(datastore).unwrap_or_default())
}

/// Backups of a datastore that signed records speak of as there: restored, drilled, held, released.
#[must_use]
pub fn witnessed_in(series: &EvidenceSeries, datastore: &DatastoreName) -> BTreeSet<BackupId> {
    let mut all = BTreeSet::new();
    for (_, record) in series.believed() {
        match &record.body {
            RecordBody::Report(report) => {
                let own = report.backups.iter().filter(|one| one.datastore == *datastore);
                all.extend(own.map(|one| one.backup.clone()));
            }
            RecordBody::Restored(restored) if restored.datastore == *datastore => {
                all.insert(restored.backup.clone());
            }
            RecordBody::Hold(hold) | RecordBody::Release(hold) if hold.datastore == *datastore => {
                all.insert(hold.backup.clone());
            }
            _ => {}
        }
    }
    all
}

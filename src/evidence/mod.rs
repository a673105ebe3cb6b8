//! The evidence log in a vault: appending, reading, and verifying its chain.
//!
//! The signature is written first and claims the number, since objects are write-once; then the
//! record. A writer that dies in between leaves a claimed number without a record; the next
//! record's `previous` hash shows that it was already so.

pub mod html;
mod place;

use aws_lc_rs::digest;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::domain::ErrorClass;
use crate::domain::document::VaultDocument;
use crate::domain::evidence::{
    self, Actor, EvidenceRecord, FoundRecord, RecordBody, SeenHead, SeriesFlaw,
};
use crate::domain::id::VaultId;
use crate::domain::layout::{self, EVIDENCE, ObjectKey, parse_evidence_key};
use crate::keyring::KeyError;
use crate::keyring::sign::{Signer, TrustedKeys};
use crate::vault::{ObjectFacts, Vault, VaultError, fetch};

/// Records read at once.
const READS_MAX: usize = 32;
/// How often a number is tried that somebody else takes first.
const RACES_MAX: usize = 100;
/// Numbers that may be missing before one is taken for a stray. It is a flaw of the series, and not
/// its end.
const STRAYS_MAX: u64 = 1000;
/// How long a claimed number may stay without its record before its writer is taken for dead.
const CLAIM_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Why a record could not be written or the series not be read.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The signing key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Others write faster.
    #[error("no number of the evidence series could be had in {RACES_MAX} attempts")]
    TooManyRaces,
}

impl EvidenceError {
    /// Class of the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Vault(error) => error.class(),
            Self::Key(error) => error.class(),
            Self::TooManyRaces => ErrorClass::Unavailable,
        }
    }
}

/// A series as it was read.
#[derive(Debug, Clone)]
pub struct EvidenceSeries {
    /// The vault whose it is.
    pub vault: VaultId,
    /// The records, by number.
    pub found: Vec<FoundRecord>,
    /// Numbers that are claimed and hold no record.
    pub claimed: Vec<u64>,
}

/// A record that was written.
#[derive(Debug, Clone)]
pub struct WrittenRecord {
    /// Its number.
    pub sequence: u64,
    /// Its SHA-256.
    pub sha256: String,
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// Reads the whole series.
///
/// # Errors
/// [`EvidenceError::Vault`] if the vault cannot be read; what is wrong with a record is part of the
/// result.
pub async fn read(
    vault: &dyn Vault,
    id: &VaultId,
    trusted: &TrustedKeys,
) -> Result<EvidenceSeries, EvidenceError> {
    let mut series = EvidenceSeries { vault: id.clone(), found: Vec::new(), claimed: Vec::new() };
    let mut signatures = std::collections::BTreeSet::new();
    let mut records = Vec::new();
    for facts in vault.list(EVIDENCE).await? {
        match parse_evidence_key(facts.key.as_str()) {
            Some((sequence, true)) => records.push((sequence, facts)),
            Some((sequence, false)) => drop(signatures.insert(sequence)),
            None => {}
        }
    }
    records.sort_by_key(|(sequence, _)| *sequence);
    for (sequence, _) in &records {
        signatures.remove(sequence);
    }
    let reading =
        records.into_iter().map(|(sequence, facts)| record(vault, trusted, sequence, facts));
    series.found = futures::stream::iter(reading).buffered(READS_MAX).try_collect().await?;
    series.claimed = signatures.into_iter().collect();
    Ok(series)
}

/// Reads a series from its end until `enough` says so of what was read, or `records_max` were. What
/// is older is not part of the result, so its flaws cannot be told.
///
/// # Errors
/// As [`read`].
pub async fn newest(
    vault: &dyn Vault,
    id: &VaultId,
    trusted: &TrustedKeys,
    records_max: usize,
    enough: impl Fn(&EvidenceSeries) -> bool,
) -> Result<EvidenceSeries, EvidenceError> {
    let mut series = EvidenceSeries { vault: id.clone(), found: Vec::new(), claimed: Vec::new() };
    let listed = vault.list(EVIDENCE).await?;
    let mut records: Vec<_> = listed
        .into_iter()
        .filter_map(|facts| match parse_evidence_key(facts.key.as_str()) {
            Some((sequence, true)) => Some((sequence, facts)),
            _ => None,
        })
        .collect();
    records.sort_by_key(|(sequence, _)| *sequence);
    while !records.is_empty() && series.found.len() < records_max && !enough(&series) {
        let some = records.split_off(records.len().saturating_sub(READS_MAX));
        let reading =
            some.into_iter().map(|(sequence, facts)| record(vault, trusted, sequence, facts));
        let mut found = futures::future::try_join_all(reading).await?;
        found.append(&mut series.found);
        series.found = found;
    }
    Ok(series)
}

/// Whether a trusted key signed what stands under a name, and is believed in it. One that is
/// distrusted from a day on is believed in what the *store* wrote before that day: whoever has the
/// key can write any date into a document.
///
/// # Errors
/// [`VaultError`] if the store must be asked, and does not answer.
pub async fn is_believed(
    vault: &dyn Vault,
    trusted: &TrustedKeys,
    key: &ObjectKey,
    bytes: &[u8],
    signature: &[u8],
) -> Result<bool, VaultError> {
    let Some(signer) = trusted.signer_of(bytes, signature) else { return Ok(false) };
    let Some(from) = trusted.distrusted_from(signer) else { return Ok(true) };
    Ok(vault.find(key).await?.is_some_and(|facts| facts.modified < from))
}

/// What was read, or nothing where it is no document by its size.
fn if_document(read: Result<Option<Bytes>, VaultError>) -> Result<Option<Bytes>, VaultError> {
    match read {
        Err(VaultError::Tally { .. }) => Ok(None),
        other => other,
    }
}

async fn record(
    vault: &dyn Vault,
    trusted: &TrustedKeys,
    sequence: u64,
    facts: ObjectFacts,
) -> Result<FoundRecord, EvidenceError> {
    // What is too large to be a record is none, and no reason not to read the others.
    let size = facts.bytes;
    let Some(bytes) = if_document(fetch::document_of(vault, facts).await.map(Some))? else {
        let why = format!("{size} bytes are too many for a record");
        return Ok(FoundRecord { sequence, sha256: sha256(b""), record: Err(why), signed: false });
    };
    let signature =
        if_document(fetch::document(vault, &layout::evidence(sequence).signature()).await)?;
    let signed = match signature {
        Some(signature) => {
            is_believed(vault, trusted, &layout::evidence(sequence), &bytes, &signature).await?
        }
        None => false,
    };
    let record = EvidenceRecord::parse(&bytes).map_err(|error| error.to_string());
    Ok(FoundRecord { sequence, sha256: sha256(&bytes), record, signed })
}

impl EvidenceSeries {
    /// What is wrong with it.
    #[must_use]
    pub fn flaws(&self, heads: &[SeenHead], now: Timestamp) -> Vec<SeriesFlaw> {
        evidence::flaws(&self.vault, &self.found, &self.claimed, heads, now)
    }
    /// Records that a pinned key signed, where they belong.
    pub fn believed(&self) -> impl DoubleEndedIterator<Item = (&FoundRecord, &EvidenceRecord)> {
        let sound = |found: &&FoundRecord| {
            found.signed
                && found
                    .record
                    .as_ref()
                    .is_ok_and(|r| r.sequence == found.sequence && r.vault == self.vault)
        };
        self.found
            .iter()
            .filter(sound)
            .filter_map(|found| Some((found, found.record.as_ref().ok()?)))
    }
}

/// Writes a record under the next number. `seen` is the newest record that this host knows of, by
/// number and hash: where the end of the series was cut off, the next record follows that one. Its
/// number is not used twice, and what was cut off can be put back.
///
/// # Errors
/// [`EvidenceError`]; nothing or a claimed number was written.
pub async fn append(
    vault: &dyn Vault,
    id: &VaultId,
    signer: &dyn Signer,
    by: &Actor,
    body: RecordBody,
    seen: Option<(u64, String)>,
) -> Result<WrittenRecord, EvidenceError> {
    // Numbers that were found taken, and that no listing shows: somebody put something there that
    // is no object.
    let mut taken = 0;
    for _ in 0..RACES_MAX {
        let end = end(vault).await?;
        let (newest, previous) = match &seen {
            Some((seen, sha256)) if end.newest < *seen => (*seen, Some(sha256.clone())),
            _ => (end.newest, end.previous),
        };
        let next = end.next.max(newest + 1).max(taken + 1);
        let record = EvidenceRecord {
            format: evidence::FORMAT.to_owned(),
            vault: id.clone(),
            sequence: next,
            previous,
            at: Timestamp::now(),
            by: by.clone(),
            body: body.clone(),
        };
        let document = VaultDocument::evidence(&record);
        let signature = VaultDocument::signature(signer.sign(document.bytes()).await?);
        let key = layout::evidence(next);
        match vault.put(&key.signature(), signature).await {
            Err(VaultError::Exists { .. }) => {
                taken = next;
                continue;
            }
            other => other?,
        }
        let sha256 = sha256(document.bytes());
        match vault.put(&key, document).await {
            Err(VaultError::Exists { .. }) => {
                taken = next;
                continue;
            }
            other => other?,
        }
        return Ok(WrittenRecord { sequence: next, sha256 });
    }
    Err(EvidenceError::TooManyRaces)
}

/// The hash of the newest record, if there is one.
///
/// # Errors
/// [`EvidenceError::Vault`] if the vault cannot be read, as a role that may only write cannot.
pub async fn head(vault: &dyn Vault) -> Result<Option<String>, EvidenceError> {
    Ok(look(vault).await?.previous)
}

/// The end of a series.
struct SeriesEnd {
    /// Number of the newest record, 0 if there is none.
    newest: u64,
    /// The next free number.
    next: u64,
    /// The hash of the newest record.
    previous: Option<String>,
    /// Whether somebody has claimed a number and not written its record yet.
    under_way: bool,
}

/// Waits for a writer that has claimed the newest number, as long as one that lives may take.
async fn end(vault: &dyn Vault) -> Result<SeriesEnd, VaultError> {
    let begun = std::time::Instant::now();
    loop {
        let end = look(vault).await?;
        if !end.under_way || begun.elapsed() > CLAIM_PATIENCE {
            return Ok(end);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// The newest record is one with a claim that reads as one: whoever may write can put anything
/// under any number, to keep others from writing the next or to have them leave a gap.
async fn look(vault: &dyn Vault) -> Result<SeriesEnd, VaultError> {
    let mut records = Vec::new();
    let mut claims = std::collections::BTreeSet::new();
    let listed = vault.list(EVIDENCE).await?;
    let plausible = listed.len() as u64 + STRAYS_MAX;
    for facts in listed {
        match parse_evidence_key(facts.key.as_str()).filter(|(sequence, _)| *sequence <= plausible)
        {
            Some((sequence, true)) => records.push((sequence, facts)),
            Some((sequence, false)) => drop(claims.insert(sequence)),
            None => {}
        }
    }
    records.retain(|(sequence, _)| claims.contains(sequence));
    records.sort_by_key(|(sequence, _)| *sequence);
    let mut newest = (0, None);
    while let Some((sequence, facts)) = records.pop() {
        let bytes = if_document(fetch::document_of(vault, facts).await.map(Some))?;
        if let Some(bytes) = bytes.filter(|bytes| {
            EvidenceRecord::parse(bytes).is_ok_and(|record| record.sequence == sequence)
        }) {
            newest = (sequence, Some(sha256(&bytes)));
            break;
        }
    }
    let (newest, previous) = newest;
    // Numbers that somebody has claimed and does not use are passed over, as far as they follow one
    // another.
    let next = (newest + 1..).find(|number| !claims.contains(number)).unwrap_or(newest + 1);
    Ok(SeriesEnd { newest, next, previous, under_way: next > newest + 1 })
}

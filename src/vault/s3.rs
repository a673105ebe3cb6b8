//! A vault in S3, or in something that speaks like it.
//!
//! Every object carries a SHA-256 that the service verifies and repeats in its reply; that reply is
//! the confirmation. A store that repeats none is read back instead, where the configuration says
//! so: `confirm = "read-back"`. Names are taken with `If-None-Match: *`. A 412 may be our own
//! earlier request whose reply was lost, so it is resolved by comparing checksums, and if that is
//! not allowed the outcome is *unknown*, neither success nor failure.

mod capabilities;
mod confirm;
mod error_causes;
mod stall_detection;
mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, GlacierJobParameters, ObjectLockMode, OptionalObjectAttributes,
    RestoreRequest, ServerSideEncryption, StorageClass,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::{
    Capabilities, ObjectFacts, ObjectVersionInfo, ReadableObject, StoreCapability, ThawAnswer,
    UnfinishedUpload, Upload, Vault, VaultError, VaultLimits,
};
use crate::aws::{self, AwsError};
use crate::config::{LockMode, S3Config, UploadConfirmation};
use crate::domain::VaultDocument;
use crate::domain::layout::{EVIDENCE, ObjectKey, PAYLOADS};
use crate::domain::thaw::{Availability, ColdClass, RetrievalTier};
use upload::S3Upload;

/// Parts of one object that S3 allows.
const PARTS_MAX: usize = 10_000;
/// An attempt that moves nothing for so long is ended.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Codes of a 409 to a conditional request.
const CONFLICTS: [&str; 2] = ["ConditionalRequestConflict", "OperationAborted"];
/// Attempts of one part, or of one range, beyond what the SDK repeats by itself.
const ATTEMPTS_MAX: u32 = 3;

/// A vault in S3.
#[derive(Clone)]
pub struct S3Vault {
    client: Client,
    /// The same for requests that move payloads, and may take as long as these do.
    large: Client,
    config: Arc<S3Config>,
    /// Whether the store has repeated a checksum. One that has and does not any more is not the
    /// store it was.
    has_echoed: Arc<AtomicBool>,
}

impl S3Vault {
    /// A client for the configured bucket. Makes no request.
    pub async fn new(config: &S3Config) -> Self {
        let shared = aws::config(config.region.clone(), config.endpoint.clone()).await;
        // Checksums are ours and stand in headers; trailers are refused by older S3-compatible
        // stores.
        let settings = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(config.path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        let settings = settings.build();
        let large =
            Client::from_conf(settings.to_builder().timeout_config(aws::large(&shared)).build());
        Self {
            client: Client::from_conf(settings),
            large,
            config: Arc::new(config.clone()),
            has_echoed: Arc::default(),
        }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.config.prefix)
    }

    fn encryption(&self) -> Option<ServerSideEncryption> {
        self.config.sse_kms_key.as_ref().map(|_| ServerSideEncryption::AwsKms)
    }

    /// The retention of an object. Evidence has its own length: auditors ask for years, backups go
    /// after weeks.
    fn retention(&self, key: &ObjectKey) -> (Option<ObjectLockMode>, Option<DateTime>) {
        match self.config.object_lock {
            None => (None, None),
            Some((mode, length)) => {
                let length = if key.as_str().starts_with(EVIDENCE) {
                    length.max(self.config.evidence_lock)
                } else {
                    length
                };
                let until = Timestamp::now().as_second()
                    + i64::try_from(length.duration().as_secs()).unwrap_or(i64::MAX / 2);
                let mode = match mode {
                    LockMode::Governance => ObjectLockMode::Governance,
                    LockMode::Compliance => ObjectLockMode::Compliance,
                };
                (Some(mode), Some(DateTime::from_secs(until)))
            }
        }
    }

    /// Stores a document; `locked` says whether it gets the configured retention.
    async fn put_document(
        &self,
        key: &ObjectKey,
        document: VaultDocument,
        locked: bool,
    ) -> Result<(), VaultError> {
        // Somebody else is writing under this name at this very moment: who of the two was first is
        // known soon.
        for pause in [200, 800] {
            match self.put_once(key, document.clone(), locked).await {
                Err(VaultError::Unavailable { why, .. })
                    if CONFLICTS.iter().any(|code| why.starts_with(code)) =>
                {
                    tokio::time::sleep(Duration::from_millis(pause)).await
                }
                done => return done,
            }
        }
        self.put_once(key, document, locked).await
    }

    async fn put_once(
        &self,
        key: &ObjectKey,
        document: VaultDocument,
        locked: bool,
    ) -> Result<(), VaultError> {
        let sum = sha256(document.bytes());
        let (mode, until) = if locked { self.retention(key) } else { (None, None) };
        let bytes = document.into_bytes();
        let length = bytes.len() as u64;
        let sent = self
            .client
            .put_object()
            .bucket(&self.config.bucket)
            .key(self.full(key.as_str()))
            .if_none_match("*")
            .checksum_sha256(&sum)
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.config.sse_kms_key.clone())
            .set_object_lock_mode(mode)
            .set_object_lock_retain_until_date(until)
            .body(ByteStream::from(bytes))
            .send()
            .await;
        match sent {
            Ok(reply) if self.is_confirmed(key.as_str(), reply.checksum_sha256(), &sum)? => Ok(()),
            Ok(_) => self.read_back_as_sent(key, &[(length, sum)]).await,
            Err(error) => {
                let answer = AwsError::of(&error);
                if answer.code == "PreconditionFailed"
                    || answer.status.is_none() && !answer.is_setup
                {
                    return self.resolve(key, &sum, &[(length, sum.clone())], answer).await;
                }
                Err(self.explain(&format!("storing {key}"), answer))
            }
        }
    }

    /// Whether the bucket keeps versions, or has kept some. A role that may not ask lists them to
    /// see.
    async fn keeps_versions(&self) -> Result<bool, VaultError> {
        match self.client.get_bucket_versioning().bucket(&self.config.bucket).send().await {
            Ok(reply) => Ok(reply.status().is_some()),
            Err(error) => {
                let answer = AwsError::of(&error);
                match answer.code.as_str() {
                    "NotImplemented" | "MethodNotAllowed" => Ok(false),
                    "AccessDenied" => Ok(true),
                    // A store that does not know the question answers another one.
                    "" if answer.status == Some(200) => Ok(false),
                    _ => Err(self.explain("asking whether the bucket keeps versions", answer)),
                }
            }
        }
    }

    /// When the newest part of an unfinished upload arrived; `None` if it has none; now, if nobody
    /// may ask.
    async fn last_part(&self, key: &str, upload: &str) -> Option<Timestamp> {
        let request =
            self.client.list_parts().bucket(&self.config.bucket).key(key).upload_id(upload);
        let mut pages = request.into_paginator().send();
        let mut newest = None;
        while let Some(page) = pages.next().await {
            // Who may not ask must not take it for dead.
            let Ok(page) = page else { return Some(Timestamp::now()) };
            newest =
                newest.max(page.parts().iter().map(|part| timestamp(part.last_modified())).max());
        }
        newest
    }
}

/// A listing that says that there is more, and not where, is not one: a backup that is not seen is
/// not restored, or is removed.
fn complete_or_more(what: &str, truncated: Option<bool>, goes_on: bool) -> Result<(), VaultError> {
    match truncated == Some(true) && !goes_on {
        true => Err(VaultError::Unusable(format!(
            "the store cuts its listing of {what} off and does not say where it goes on"
        ))),
        false => Ok(()),
    }
}

fn sha256(bytes: &[u8]) -> String {
    STANDARD.encode(digest::digest(&digest::SHA256, bytes))
}

/// A time that a store tells. What it does not tell is now: nothing is old enough to be removed, or
/// to be believed, because nobody knows.
fn timestamp(time: Option<&DateTime>) -> Timestamp {
    time.and_then(|t| Timestamp::from_second(t.secs()).ok()).unwrap_or_else(Timestamp::now)
}

/// Until when an object is locked. A legal hold ends when somebody lifts it.
fn locked_until(head: &aws_sdk_s3::operation::head_object::HeadObjectOutput) -> Option<Timestamp> {
    let held = head.object_lock_legal_hold_status().is_some_and(|status| status.as_str() == "ON");
    let until = head.object_lock_retain_until_date().map(|date| timestamp(Some(date)));
    if held { Some(Timestamp::MAX) } else { until }
}

/// What a class and the state of a retrieval (under way, until when) say of an object.
fn warmth(
    class: Option<&str>,
    archived: bool,
    retrieval: Option<(bool, Option<Timestamp>)>,
) -> Availability {
    match retrieval {
        _ if class.and_then(ColdClass::of).is_none() && !archived => Availability::Warm,
        None => Availability::Frozen,
        Some((true, _)) => Availability::UnderWay,
        Some((false, until)) => Availability::Thawed { until },
    }
}

/// Reads `x-amz-restore`: `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html>
fn retrieval(header: &str) -> Option<(bool, Option<Timestamp>)> {
    let under_way = match header.split_once("ongoing-request=\"")?.1.split_once('"')?.0 {
        "true" => true,
        "false" => false,
        _ => return None,
    };
    let date =
        header.split_once("expiry-date=\"").and_then(|(_, rest)| Some(rest.split_once('"')?.0));
    let until =
        date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|until| until.timestamp());
    Some((under_way, until))
}

/// What came of a body. One that breaks off gives what came before, and that is not the SDK's to
/// repeat; one that brings nothing fails.
async fn collect(mut body: ByteStream, length: usize) -> Result<Bytes, String> {
    let mut bytes = bytes::BytesMut::with_capacity(length);
    loop {
        match tokio::time::timeout(SILENCE_MAX, body.next()).await {
            Ok(Some(Ok(chunk))) => bytes.extend_from_slice(&chunk),
            Ok(Some(Err(error))) if bytes.is_empty() => return Err(error.to_string()),
            Err(_) if bytes.is_empty() => {
                return Err(format!("nothing came for {} seconds", SILENCE_MAX.as_secs()));
            }
            Ok(Some(Err(_)) | None) | Err(_) => return Ok(bytes.freeze()),
        }
        if bytes.len() > length {
            return Ok(bytes.freeze());
        }
    }
}

#[async_trait]
impl Vault for S3Vault {
    fn address(&self) -> String {
        format!("s3://{}/{}", self.config.bucket, self.config.prefix)
            .trim_end_matches('/')
            .to_owned()
    }

    fn cli_options(&self) -> String {
        let quoted = |option: &str, value: &Option<String>| {
            value
                .as_ref()
                .map(|v| format!(" {option} '{}'", v.replace('\'', r"'\''")))
                .unwrap_or_default()
        };
        quoted("--endpoint-url", &self.config.endpoint) + &quoted("--region", &self.config.region)
    }

    fn limits(&self) -> VaultLimits {
        VaultLimits {
            part_bytes: self.config.part_bytes,
            parts_max: PARTS_MAX,
            transfers_max: self.config.transfers_max,
            patience: self.config.patience.duration(),
            thaw_poll: self.config.thaw_poll.duration(),
        }
    }

    async fn put(&self, key: &ObjectKey, document: VaultDocument) -> Result<(), VaultError> {
        self.put_document(key, document, true).await
    }

    async fn begin(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, VaultError> {
        let (mode, until) = self.retention(key);
        // What is small and asked for before anything is decided stays warm: fingerprint and plan.
        let class =
            self.config.storage_class.as_deref().filter(|_| key.as_str().starts_with(PAYLOADS));
        let reply = self
            .client
            .create_multipart_upload()
            .bucket(&self.config.bucket)
            .key(self.full(key.as_str()))
            .checksum_algorithm(ChecksumAlgorithm::Sha256)
            .set_storage_class(class.map(StorageClass::from))
            .set_server_side_encryption(self.encryption())
            .set_ssekms_key_id(self.config.sse_kms_key.clone())
            .set_object_lock_mode(mode)
            .set_object_lock_retain_until_date(until)
            .send()
            .await
            .map_err(|error| self.explain(&format!("beginning {key}"), AwsError::of(&error)))?;
        let upload = reply.upload_id().unwrap_or_default().to_owned();
        Ok(Box::new(S3Upload {
            vault: self.clone(),
            key: key.clone(),
            upload,
            begun: JoinSet::new(),
            done: Vec::new(),
            next: 1,
        }))
    }

    async fn find(&self, key: &ObjectKey) -> Result<Option<ObjectFacts>, VaultError> {
        match self
            .client
            .head_object()
            .bucket(&self.config.bucket)
            .key(self.full(key.as_str()))
            .send()
            .await
        {
            Ok(head) => {
                let class = head.storage_class().map(|c| c.as_str().to_owned());
                let warmth = warmth(
                    class.as_deref(),
                    head.archive_status().is_some(),
                    head.restore().and_then(retrieval),
                );
                Ok(Some(ObjectFacts {
                    key: key.clone(),
                    bytes: head
                        .content_length()
                        .and_then(|n| u64::try_from(n).ok())
                        .unwrap_or_default(),
                    modified: timestamp(head.last_modified()),
                    warmth,
                    class,
                    locked_until: locked_until(&head),
                    version: head.version_id().map(str::to_owned),
                }))
            }
            Err(error) => {
                let answer = AwsError::of(&error);
                // A HEAD has no body, so a missing bucket and a missing object look the same; the
                // listing tells them apart.
                if answer.status == Some(404) {
                    Ok(None)
                } else {
                    Err(self.explain(&format!("looking at {key}"), answer))
                }
            }
        }
    }

    async fn read(
        &self,
        object: &ReadableObject,
        from: u64,
        length: usize,
    ) -> Result<Bytes, VaultError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let what = format!("reading {}", object.key());
        let range = format!("bytes={from}-{}", from + length as u64 - 1);
        let mut attempt = 1;
        loop {
            let request = self
                .large
                .get_object()
                .bucket(&self.config.bucket)
                .key(self.full(object.key().as_str()))
                .range(&range);
            let why = match tokio::time::timeout(SILENCE_MAX, request.send()).await {
                Err(_) => format!("nothing came for {} seconds", SILENCE_MAX.as_secs()),
                Ok(Ok(reply)) => match collect(reply.body, length).await {
                    Ok(bytes) if bytes.len() <= length => return Ok(bytes),
                    Ok(_) => {
                        return Err(VaultError::Tally {
                            what,
                            why: format!("more bytes came than the {length} asked for"),
                        });
                    }
                    Err(error) => error,
                },
                Ok(Err(error)) => {
                    let answer = AwsError::of(&error);
                    if answer.code == "InvalidObjectState" {
                        return Err(VaultError::Frozen {
                            key: object.key().clone(),
                            class: object.class().to_owned(),
                        });
                    }
                    if !answer.is_passing() {
                        return Err(self.explain(&what, answer));
                    }
                    answer.message
                }
            };
            if attempt >= ATTEMPTS_MAX {
                return Err(VaultError::Unavailable { what, why });
            }
            attempt += 1;
            tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectFacts>, VaultError> {
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.config.bucket)
            .prefix(self.full(prefix))
            .optional_object_attributes(OptionalObjectAttributes::RestoreStatus)
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| {
                self.explain(&format!("listing {prefix}"), AwsError::of(&error))
            })?;
            complete_or_more(
                prefix,
                page.is_truncated(),
                page.next_continuation_token().is_some(),
            )?;
            for object in page.contents() {
                let relative = object.key().and_then(|key| key.strip_prefix(&self.config.prefix));
                let Some(Ok(key)) = relative.map(str::parse) else { continue };
                let class = object.storage_class().map(|c| c.as_str().to_owned());
                let retrieval = object.restore_status().and_then(|status| {
                    let until = status.restore_expiry_date().map(|date| timestamp(Some(date)));
                    // An object that was never asked for has a status too, in some stores.
                    (status.is_restore_in_progress() == Some(true) || until.is_some())
                        .then_some((status.is_restore_in_progress() == Some(true), until))
                });
                found.push(ObjectFacts {
                    key,
                    bytes: object.size().and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
                    modified: timestamp(object.last_modified()),
                    warmth: warmth(class.as_deref(), false, retrieval),
                    class,
                    locked_until: None,
                    version: None,
                });
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn remove(&self, key: &ObjectKey) -> Result<(), VaultError> {
        let sent = self
            .client
            .delete_object()
            .bucket(&self.config.bucket)
            .key(self.full(key.as_str()))
            .send()
            .await;
        sent.map(|_| ())
            .map_err(|error| self.explain(&format!("removing {key}"), AwsError::of(&error)))
    }

    async fn erase(&self, object: &ObjectFacts) -> Result<(), VaultError> {
        let request = self
            .client
            .delete_object()
            .bucket(&self.config.bucket)
            .key(self.full(object.key.as_str()));
        // Without a version a bucket that keeps versions would only hide it.
        let sent = request
            .set_version_id(object.version.clone().filter(|version| version != "null"))
            .send()
            .await;
        sent.map(|_| ()).map_err(|error| {
            self.explain(&format!("removing {}", object.key), AwsError::of(&error))
        })
    }

    async fn versions(&self, prefix: &str) -> Result<Option<Vec<ObjectVersionInfo>>, VaultError> {
        if !self.keeps_versions().await? {
            return Ok(None);
        }
        let mut found = Vec::new();
        let (mut key_marker, mut version_marker) = (None, None);
        loop {
            let request = self
                .client
                .list_object_versions()
                .bucket(&self.config.bucket)
                .prefix(self.full(prefix));
            let page = request
                .set_key_marker(key_marker.clone())
                .set_version_id_marker(version_marker.clone())
                .send()
                .await;
            let page = page.map_err(|error| {
                let needs = "; versions of the bucket must be seen before anything in it is removed, which takes s3:ListBucketVersions";
                let answer = AwsError::of(&error);
                self.explain(&format!("listing versions of {prefix}"), AwsError { message: format!("{}{needs}", answer.message), ..answer })
            })?;
            let relative = |key: Option<&str>| {
                key.and_then(|key| key.strip_prefix(&self.config.prefix)?.parse().ok())
            };
            for version in page.versions() {
                let Some(key) = relative(version.key()) else { continue };
                found.push(ObjectVersionInfo {
                    key,
                    id: version.version_id().unwrap_or_default().to_owned(),
                    bytes: version.size().and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
                    modified: timestamp(version.last_modified()),
                    is_marker: false,
                    is_current: version.is_latest() == Some(true),
                });
            }
            for marker in page.delete_markers() {
                let Some(key) = relative(marker.key()) else { continue };
                found.push(ObjectVersionInfo {
                    key,
                    id: marker.version_id().unwrap_or_default().to_owned(),
                    bytes: 0,
                    modified: timestamp(marker.last_modified()),
                    is_marker: true,
                    is_current: marker.is_latest() == Some(true),
                });
            }
            if page.is_truncated() != Some(true) {
                return Ok(Some(found));
            }
            let next = (
                page.next_key_marker().map(ToOwned::to_owned),
                page.next_version_id_marker().map(ToOwned::to_owned),
            );
            let goes_on = next.0.is_some() && next != (key_marker, version_marker);
            complete_or_more(&format!("the versions of {prefix}"), page.is_truncated(), goes_on)?;
            (key_marker, version_marker) = next;
        }
    }

    async fn erase_version(&self, version: &ObjectVersionInfo) -> Result<(), VaultError> {
        let request = self
            .client
            .delete_object()
            .bucket(&self.config.bucket)
            .key(self.full(version.key.as_str()));
        let sent = request.version_id(&version.id).send().await;
        sent.map(|_| ()).map_err(|error| {
            self.explain(&format!("removing a version of {}", version.key), AwsError::of(&error))
        })
    }

    async fn thaw(
        &self,
        object: &ObjectFacts,
        tier: RetrievalTier,
        days: u32,
    ) -> Result<ThawAnswer, VaultError> {
        let tier = match tier {
            RetrievalTier::Expedited => aws_sdk_s3::types::Tier::Expedited,
            RetrievalTier::Standard => aws_sdk_s3::types::Tier::Standard,
            RetrievalTier::Bulk => aws_sdk_s3::types::Tier::Bulk,
        };
        let what = format!("thawing {}", object.key);
        let job = GlacierJobParameters::builder()
            .tier(tier)
            .build()
            .map_err(|error| VaultError::Unusable(error.to_string()))?;
        let wish = RestoreRequest::builder()
            .days(i32::try_from(days).unwrap_or(i32::MAX))
            .glacier_job_parameters(job)
            .build();
        let request = self
            .client
            .restore_object()
            .bucket(&self.config.bucket)
            .key(self.full(object.key.as_str()));
        match request.restore_request(wish).send().await {
            Ok(_) => Ok(ThawAnswer::Accepted),
            Err(error) => {
                let answer = AwsError::of(&error);
                match answer.code.as_str() {
                    "RestoreAlreadyInProgress" => Ok(ThawAnswer::UnderWay),
                    "GlacierExpeditedRetrievalNotAvailable" => Ok(ThawAnswer::NoCapacity),
                    _ => Err(self.explain(&what, answer)),
                }
            }
        }
    }

    async fn unfinished(&self) -> Result<Vec<UnfinishedUpload>, VaultError> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(&self.config.bucket)
                .prefix(&self.config.prefix);
            let page = request
                .set_key_marker(key_marker.clone())
                .set_upload_id_marker(id_marker.clone())
                .send()
                .await;
            let page = page.map_err(|error| {
                self.explain("looking for unfinished uploads", AwsError::of(&error))
            })?;
            for upload in page.uploads() {
                let key = upload.key().and_then(|key| key.strip_prefix(&self.config.prefix));
                if let (Some(key), Some(handle)) = (key, upload.upload_id()) {
                    let begun = timestamp(upload.initiated());
                    let touched = self
                        .last_part(upload.key().unwrap_or_default(), handle)
                        .await
                        .unwrap_or(begun);
                    found.push(UnfinishedUpload {
                        key: key.to_owned(),
                        handle: handle.to_owned(),
                        begun,
                        touched,
                    });
                }
            }
            if page.is_truncated() != Some(true) {
                return Ok(found);
            }
            let next = (
                page.next_key_marker().map(ToOwned::to_owned),
                page.next_upload_id_marker().map(ToOwned::to_owned),
            );
            let goes_on = next.0.is_some() && next != (key_marker, id_marker);
            complete_or_more("unfinished uploads", page.is_truncated(), goes_on)?;
            (key_marker, id_marker) = next;
        }
    }

    async fn discard(&self, unfinished: &UnfinishedUpload) -> Result<(), VaultError> {
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(&self.config.bucket)
            .key(self.full(&unfinished.key));
        match request.upload_id(&unfinished.handle).send().await {
            Ok(_) => Ok(()),
            Err(error) => match self
                .explain(&format!("discarding {}", unfinished.key), AwsError::of(&error))
            {
                VaultError::Missing { .. } => Ok(()),
                error => Err(error),
            },
        }
    }

    async fn probe(&self, key: &ObjectKey) -> Result<Capabilities, VaultError> {
        self.put_document(key, VaultDocument::probe(), false).await?;
        let yes = |question, detail: String| StoreCapability {
            question,
            answer: Some(true),
            needed: true,
            detail,
        };
        let mut answers = vec![yes("may write", self.address())];
        let second = self
            .put_document(key, VaultDocument::restore_guide("something else".to_owned()), false)
            .await;
        answers.push(match second {
            // A role that may only write cannot compare; the 412 itself is the answer here.
            Err(VaultError::Exists { .. } | VaultError::Unknown { .. }) => {
                yes("refuses a second object of the same name", "If-None-Match: *".to_owned())
            }
            _ => StoreCapability {
                question: "refuses a second object of the same name",
                answer: Some(false),
                needed: true,
                detail: "it overwrites despite If-None-Match; backups would not be write-once"
                    .to_owned(),
            },
        });
        if self.config.confirm == UploadConfirmation::ReadBack {
            let detail = match self.has_echoed.load(Ordering::Relaxed) {
                true => {
                    "it is read back. The store repeats checksums: if it refuses a wrong one as well, confirm can be left out"
                }
                false => "it is read back: the store does not repeat checksums",
            };
            answers.push(yes("what is stored is compared", detail.to_owned()));
        }
        answers.push(self.checksum_ability(key).await);
        answers.push(self.lock_ability().await);
        answers.push(self.class_ability(key).await);
        Ok(Capabilities { answers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_retrieval_is_read_from_its_header() {
        let until = "2012-12-21T00:00:00Z".parse().ok();
        assert_eq!(
            retrieval("ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\""),
            Some((false, until))
        );
        assert_eq!(retrieval("ongoing-request=\"true\""), Some((true, None)));
        for odd in [
            "",
            "ongoing-request",
            "ongoing-request=\"maybe\"",
            "expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"",
        ] {
            assert_eq!(retrieval(odd), None, "{odd}");
        }
        assert_eq!(
            warmth(Some("GLACIER"), false, retrieval("what is this")),
            Availability::Frozen,
            "what is not understood is not readable"
        );
        assert_eq!(warmth(Some("GLACIER_IR"), false, None), Availability::Warm);
        assert_eq!(warmth(Some("INTELLIGENT_TIERING"), true, None), Availability::Frozen);
    }
}

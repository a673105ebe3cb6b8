//! A cold tier for a vault in a directory: the rules of S3's archive classes, for rehearsals and
//! for tests.
//!
//! Payloads of a cold class stand in the directory as ever, and reading them is refused until a
//! copy was asked for and its time has passed. What was asked for stands in `.cold/`, a file for
//! each object. The rules, and the pages they come from:
//!
//! | rule | page |
//! |---|---|
//! | a frozen object is not read (`InvalidObjectState`) | S3 API, GetObject |
//! | minutes, hours or days by tier; Deep Archive has no expedited one | S3 user guide, Archive retrieval options |
//! | a second request while one is under way is answered so, unless it is for a faster tier | S3 API, RestoreObject; Upgrading the speed |
//! | asking again for a thawed object moves its expiry | S3 API, RestoreObject |
//! | a copy goes away at the midnight UTC after its days | S3 API, RestoreObject |
//! | expedited may be refused for want of capacity | S3 user guide, Provisioned capacity |
//!
//! Two things differ on purpose: each tier takes its longest documented time, always; and with
//! `cold_speed` above 1 that time and the days pass so much faster, without rounding to midnight.
//! Expedited retrievals are refused while `.cold/no-capacity` exists.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::directory::{DirectoryVault, blocking, explain, open_or_make};
use super::directory_handle::{DirectoryHandle, LinkPolicy};
use super::{
    Capabilities, ObjectFacts, ReadableObject, StoreCapability, ThawAnswer, UnfinishedUpload,
    Upload, Vault, VaultError, VaultLimits,
};
use crate::config::ColdConfig;
use crate::domain::VaultDocument;
use crate::domain::layout::{ObjectKey, PAYLOADS};
use crate::domain::thaw::{Availability, ColdClass, RetrievalTier, expiry};

const STATE: &str = ".cold";
/// Pauses between looks in real time.
const POLL_MAX: std::time::Duration = std::time::Duration::from_secs(300);
const POLL_MIN: std::time::Duration = std::time::Duration::from_millis(200);
const NO_CAPACITY: &str = "no-capacity";
/// How long another process may hold the tier's lock.
const LOCK_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// Bytes of what is kept of a retrieval.
const RETRIEVAL_BYTES_MAX: u64 = 4096;

/// What time it is.
#[derive(Debug, Clone, Default)]
pub enum ThawClock {
    /// This host's.
    #[default]
    Host,
    /// Set by a test, in seconds since 1970.
    Virtual(Arc<AtomicI64>),
}

impl ThawClock {
    fn now(&self) -> Timestamp {
        match self {
            Self::Host => Timestamp::now(),
            Self::Virtual(seconds) => {
                Timestamp::from_second(seconds.load(Ordering::SeqCst)).unwrap_or(Timestamp::MAX)
            }
        }
    }
}

/// A vault in a directory in which payloads are cold.
#[derive(Debug, Clone)]
pub struct SimulatedGlacier {
    inner: DirectoryVault,
    state: PathBuf,
    rules: ColdConfig,
    clock: ThawClock,
}

/// A retrieval that was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RetrievalRequest {
    tier: RetrievalTier,
    ready: Timestamp,
    until: Timestamp,
}

impl SimulatedGlacier {
    /// Puts rules over a directory.
    #[must_use]
    pub fn new(inner: DirectoryVault, rules: ColdConfig, clock: ThawClock) -> Self {
        Self { state: inner.root().join(STATE), inner, rules, clock }
    }

    fn class(&self, facts: &ObjectFacts, now: Timestamp) -> Option<String> {
        if !facts.key.as_str().starts_with(PAYLOADS) {
            return None;
        }
        let days = now.duration_since(facts.modified).as_hours() / 24;
        let moved = self
            .rules
            .colder
            .iter()
            .rev()
            .find(|step| step.after_days <= days)
            .map(|step| step.class.clone());
        moved.or_else(|| self.rules.class.clone())
    }

    fn file(key: &ObjectKey) -> String {
        format!("{}.json", key.as_str().replace('/', "~"))
    }

    /// What is known of retrievals, if anything is.
    fn known(&self) -> std::io::Result<DirectoryHandle> {
        DirectoryHandle::open(self.inner.root())?.directory(STATE, LinkPolicy::Refused)
    }

    /// What was asked for of an object; a file that cannot be read counts as nothing.
    fn retrieval(&self, key: &ObjectKey) -> Option<RetrievalRequest> {
        let file = self.known().ok()?.read(&Self::file(key), LinkPolicy::Refused).ok()?;
        serde_json::from_reader(file.take(RETRIEVAL_BYTES_MAX)).ok()
    }

    fn warmth(&self, key: &ObjectKey, class: Option<&str>, now: Timestamp) -> Availability {
        if class.and_then(ColdClass::of).is_none() {
            return Availability::Warm;
        }
        match self.retrieval(key) {
            Some(retrieval) if now < retrieval.ready => Availability::UnderWay,
            Some(retrieval) if now < retrieval.until => {
                Availability::Thawed { until: Some(retrieval.until) }
            }
            _ => Availability::Frozen,
        }
    }

    fn chill(&self, mut facts: ObjectFacts) -> ObjectFacts {
        let now = self.clock.now();
        facts.class = self.class(&facts, now);
        facts.warmth = self.warmth(&facts.key, facts.class.as_deref(), now);
        facts
    }

    /// A time that passes `speed` times faster.
    fn hastened(&self, time: std::time::Duration) -> SignedDuration {
        SignedDuration::try_from(time / self.rules.speed.max(1)).unwrap_or(SignedDuration::MAX)
    }

    fn until(&self, from: Timestamp, days: u32) -> Timestamp {
        match self.rules.speed {
            0 | 1 => expiry(from, days),
            _ => from + self.hastened(std::time::Duration::from_secs(u64::from(days) * 86_400)),
        }
    }

    fn ask(
        &self,
        facts: &ObjectFacts,
        tier: RetrievalTier,
        days: u32,
    ) -> Result<ThawAnswer, VaultError> {
        let what = || format!("thawing {}", facts.key);
        let now = self.clock.now();
        let Some(class) = facts.class.as_deref().and_then(ColdClass::of) else {
            return Err(VaultError::Refused {
                what: what(),
                why: "it is not in an archive class".to_owned(),
            });
        };
        let Some(takes) = class.takes(tier) else {
            return Err(VaultError::Refused {
                what: what(),
                why: format!("class {class:?} offers no {tier} retrieval"),
            });
        };
        let state = open_or_make(self.inner.root())?
            .make(STATE)
            .map_err(explain("creating a directory", &self.state))?;
        let lock = self.state.join("lock");
        let file = state.lock("lock").map_err(explain("locking", &lock))?;
        // Whoever may write there may hold it for ever.
        let begun = std::time::Instant::now();
        while let Err(error) =
            rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        {
            if begun.elapsed() > LOCK_MAX {
                return Err(explain("locking", &lock)(error.into()));
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let before = self.retrieval(&facts.key).filter(|retrieval| now < retrieval.until);
        let ready = match before {
            Some(before) if now >= before.ready => before.ready,
            Some(before) if tier >= before.tier => return Ok(ThawAnswer::UnderWay),
            _ if tier == RetrievalTier::Expedited && self.state.join(NO_CAPACITY).exists() => {
                return Ok(ThawAnswer::NoCapacity);
            }
            _ => now + self.hastened(takes),
        };
        let retrieval = RetrievalRequest { tier, ready, until: self.until(ready.max(now), days) };
        let (name, text) =
            (Self::file(&facts.key), serde_json::to_vec(&retrieval).unwrap_or_default());
        let temporary = format!("{}.new", hex::encode(rand::random::<[u8; 8]>()));
        let written = state
            .create(&temporary)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| state.replace(&temporary, &name));
        written.map_err(explain("writing", &self.state.join(name)))?;
        Ok(ThawAnswer::Accepted)
    }
}

#[async_trait]
impl Vault for SimulatedGlacier {
    fn address(&self) -> String {
        self.inner.address()
    }
    fn limits(&self) -> VaultLimits {
        // Hours that pass like seconds are looked at more often.
        let thaw_poll = (POLL_MAX / self.rules.speed.max(1)).max(POLL_MIN);
        VaultLimits { thaw_poll, ..self.inner.limits() }
    }
    async fn put(&self, key: &ObjectKey, document: VaultDocument) -> Result<(), VaultError> {
        self.inner.put(key, document).await
    }
    async fn begin(&self, key: &ObjectKey) -> Result<Box<dyn Upload>, VaultError> {
        self.inner.begin(key).await
    }
    async fn find(&self, key: &ObjectKey) -> Result<Option<ObjectFacts>, VaultError> {
        Ok(self.inner.find(key).await?.map(|facts| self.chill(facts)))
    }
    async fn read(
        &self,
        object: &ReadableObject,
        from: u64,
        length: usize,
    ) -> Result<Bytes, VaultError> {
        // It was warm when it was looked at.
        if !self
            .warmth(object.key(), Some(object.class()), self.clock.now())
            .is_readable(self.clock.now())
        {
            return Err(VaultError::Frozen {
                key: object.key().clone(),
                class: object.class().to_owned(),
            });
        }
        self.inner.read(object, from, length).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectFacts>, VaultError> {
        Ok(self.inner.list(prefix).await?.into_iter().map(|facts| self.chill(facts)).collect())
    }
    async fn remove(&self, key: &ObjectKey) -> Result<(), VaultError> {
        let _ = self.known().and_then(|state| state.remove(&Self::file(key)));
        self.inner.remove(key).await
    }
    async fn thaw(
        &self,
        object: &ObjectFacts,
        tier: RetrievalTier,
        days: u32,
    ) -> Result<ThawAnswer, VaultError> {
        let (this, object) = (self.clone(), object.clone());
        blocking("thawing", move || this.ask(&object, tier, days)).await
    }
    async fn unfinished(&self) -> Result<Vec<UnfinishedUpload>, VaultError> {
        self.inner.unfinished().await
    }
    async fn discard(&self, unfinished: &UnfinishedUpload) -> Result<(), VaultError> {
        self.inner.discard(unfinished).await
    }
    async fn probe(&self, key: &ObjectKey) -> Result<Capabilities, VaultError> {
        let mut abilities = self.inner.probe(key).await?;
        let question = "storage classes";
        abilities.answers.retain(|ability| ability.question != question);
        let detail = format!(
            "rehearsed: payloads behave as in S3, {} times as fast",
            self.rules.speed.max(1)
        );
        abilities.answers.push(StoreCapability {
            question,
            answer: Some(true),
            needed: true,
            detail,
        });
        Ok(abilities)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::ClassTransition;

    struct ObjectTemperature {
        vault: SimulatedGlacier,
        clock: Arc<AtomicI64>,
        _directory: tempfile::TempDir,
        key: ObjectKey,
    }

    impl ObjectTemperature {
        /// A payload of a class, as it is a minute after it was stored.
        fn of(class: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let key: ObjectKey =
                "payloads/db/20261122T031500Z-K3XQ7A/main.zst.age".parse().unwrap();
            let file = directory.path().join(key.as_str());
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, b"sealed").unwrap();
            let clock = Arc::new(AtomicI64::new(Timestamp::now().as_second() + 60));
            let rules = ColdConfig { class: Some(class.to_owned()), colder: Vec::new(), speed: 1 };
            let vault = SimulatedGlacier::new(
                DirectoryVault::new(directory.path()),
                rules,
                ThawClock::Virtual(Arc::clone(&clock)),
            );
            Self { vault, clock, _directory: directory, key }
        }
        fn pass(&self, hours: i64) {
            self.clock.fetch_add(hours * 3600, Ordering::SeqCst);
        }
        async fn facts(&self) -> ObjectFacts {
            self.vault.find(&self.key).await.unwrap().unwrap()
        }
        async fn ask(&self, tier: RetrievalTier) -> Result<ThawAnswer, VaultError> {
            self.vault.thaw(&self.facts().await, tier, 2).await
        }
    }

    #[tokio::test]
    async fn a_copy_comes_in_its_time_stays_and_goes() {
        let frost = ObjectTemperature::of("GLACIER");
        assert_eq!(frost.facts().await.warmth, Availability::Frozen);
        assert!(matches!(frost.facts().await.warm(), Err(VaultError::Frozen { .. })));
        assert_eq!(frost.ask(RetrievalTier::Standard).await.unwrap(), ThawAnswer::Accepted);
        assert_eq!(
            frost.ask(RetrievalTier::Standard).await.unwrap(),
            ThawAnswer::UnderWay,
            "one at a time"
        );
        frost.pass(4);
        assert_eq!(frost.facts().await.warmth, Availability::UnderWay);
        frost.pass(1);
        let warm = frost.facts().await.warm().unwrap();
        assert_eq!(frost.vault.read(&warm, 0, 100).await.unwrap(), Bytes::from_static(b"sealed"));
        let Availability::Thawed { until: Some(until) } = frost.facts().await.warmth else {
            unreachable!()
        };
        assert_eq!(until.as_second() % 86_400, 0, "rounded to midnight UTC");
        frost.pass(24);
        assert_eq!(
            frost.ask(RetrievalTier::Standard).await.unwrap(),
            ThawAnswer::Accepted,
            "asking again prolongs it"
        );
        let Availability::Thawed { until: Some(longer) } = frost.facts().await.warmth else {
            unreachable!()
        };
        assert!(longer > until);
        frost.pass(24 * 4);
        assert_eq!(frost.facts().await.warmth, Availability::Frozen);
        assert!(
            matches!(frost.vault.read(&warm, 0, 100).await, Err(VaultError::Frozen { .. })),
            "also for who looked earlier"
        );
    }

    #[tokio::test]
    async fn a_request_can_be_made_faster_and_not_slower() {
        let frost = ObjectTemperature::of("GLACIER");
        assert_eq!(frost.ask(RetrievalTier::Bulk).await.unwrap(), ThawAnswer::Accepted);
        frost.pass(1);
        assert_eq!(frost.ask(RetrievalTier::Standard).await.unwrap(), ThawAnswer::Accepted);
        assert_eq!(frost.ask(RetrievalTier::Bulk).await.unwrap(), ThawAnswer::UnderWay);
        frost.pass(5);
        assert!(frost.facts().await.warmth.is_readable(frost.vault.clock.now()));
    }

    #[tokio::test]
    async fn expedited_is_refused_where_there_is_no_capacity_or_no_such_tier() {
        let frost = ObjectTemperature::of("GLACIER");
        std::fs::create_dir_all(&frost.vault.state).unwrap();
        std::fs::write(frost.vault.state.join(NO_CAPACITY), "").unwrap();
        assert_eq!(frost.ask(RetrievalTier::Expedited).await.unwrap(), ThawAnswer::NoCapacity);
        assert_eq!(frost.facts().await.warmth, Availability::Frozen);
        assert!(matches!(
            ObjectTemperature::of("DEEP_ARCHIVE").ask(RetrievalTier::Expedited).await,
            Err(VaultError::Refused { .. })
        ));
        assert!(matches!(
            ObjectTemperature::of("STANDARD_IA").ask(RetrievalTier::Standard).await,
            Err(VaultError::Refused { .. })
        ));
    }

    #[tokio::test]
    async fn payloads_grow_cold_with_age_and_nothing_else_does() {
        let mut frost = ObjectTemperature::of("STANDARD");
        frost.vault.rules.colder =
            vec![ClassTransition { after_days: 30, class: "DEEP_ARCHIVE".to_owned() }];
        assert_eq!(frost.facts().await.warmth, Availability::Warm);
        frost.pass(24 * 31);
        assert_eq!(frost.facts().await.warmth, Availability::Frozen);
        frost
            .vault
            .put(&"manifests/db/x.json".parse().unwrap(), VaultDocument::probe())
            .await
            .unwrap();
        frost.pass(24 * 365);
        assert_eq!(
            frost
                .vault
                .find(&"manifests/db/x.json".parse().unwrap())
                .await
                .unwrap()
                .unwrap()
                .warmth,
            Availability::Warm
        );
    }
}

//! Thawing a backup: all its payloads are requested at once, polled with backoff, and resumed by
//! any later process.
//!
//! The state is kept by the store alone, so any process on any host can continue:
//! [`inspect_archive`] asks the store, [`ThawPlan::of`] turns that into hours and money,
//! [`thaw_and_wait`] loops until everything will stay readable for long enough. The catalog only
//! remembers which tier was requested, which no store reports.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde::Serialize;

use super::{WorkContext, WorkError, cancellable, shelf};
use crate::catalog::thaws::RequestedRetrieval;
use crate::domain::human_duration::format_duration;
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::layout::{PAYLOADS, parse_backup_key};
use crate::domain::manifest::Manifest;
use crate::domain::thaw::{self, Availability, ColdClass, RetrievalTier, ThawAction, ThawRequest};
use crate::vault::{ObjectFacts, ThawAnswer, VaultError};

/// Objects looked at, or asked for, at once.
const AT_ONCE_MAX: usize = 8;
/// Pause of each of those after a request, so that no more than about 80 a second are sent.
const REQUEST_PAUSE: Duration = Duration::from_millis(100);
/// How often a request is repeated that the store did not answer.
const ATTEMPTS_MAX: u32 = 5;
/// Rounds of requests that one call makes: the first, a slower tier, copies that expired while
/// others thawed.
const ROUNDS_MAX: u32 = 5;
/// What a restore is taken to load each second where no drill has measured it, in bytes: a slow
/// server.
pub const BYTES_PER_SECOND_ASSUMED: f64 = 5_000_000.0;

/// What somebody wants of a thaw; what is left open is decided from the time allowed.
#[derive(Debug, Clone, Copy)]
pub struct ThawOptions {
    /// The tier, if somebody chose one.
    pub tier: Option<RetrievalTier>,
    /// For how many days the copies are to stay; none: as long as the load takes, twice, and no
    /// less than a day.
    pub days: Option<u32>,
    /// How long it may take until everything can be read.
    pub allowed: Duration,
    /// How long reading everything will take.
    pub load: Duration,
}

/// Where a backup's payloads are.
pub struct ArchiveState {
    /// Every object of every payload.
    pub objects: Vec<ObjectFacts>,
}

impl ArchiveState {
    /// The class that takes longest; none if everything can be read at once.
    #[must_use]
    pub fn class(&self) -> Option<ColdClass> {
        let cold = self.objects.iter().filter(|facts| facts.warmth != Availability::Warm);
        // A class that is archived in another way than by its name is asked for like Flexible
        // Retrieval.
        let classes = cold.map(|facts| {
            facts.class.as_deref().and_then(ColdClass::of).unwrap_or(ColdClass::Flexible)
        });
        classes.max_by_key(|class| class.takes(RetrievalTier::Standard))
    }

    /// Objects and bytes that cannot be read at a moment.
    #[must_use]
    pub fn frozen(&self, now: Timestamp) -> (usize, u64) {
        let frozen = || self.objects.iter().filter(|facts| !facts.warmth.is_readable(now));
        (frozen().count(), frozen().map(|facts| facts.bytes).sum())
    }

    /// Objects that were asked for and are not there yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.objects.iter().filter(|facts| facts.warmth == Availability::UnderWay).count()
    }

    /// When the first of the thawed copies goes away.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        let until = |facts: &ObjectFacts| match facts.warmth {
            Availability::Thawed { until } => until,
            _ => None,
        };
        self.objects.iter().filter_map(until).min()
    }
}

/// Asks the store about every payload of a backup.
///
/// # Errors
/// [`WorkError`] if an object is not there, or the store does not answer.
pub async fn inspect_archive(
    rig: &WorkContext,
    manifest: &Manifest,
) -> Result<ArchiveState, WorkError> {
    let objects: Vec<_> =
        manifest.payloads.iter().flat_map(|payload| &payload.objects).cloned().collect();
    let found = objects.into_iter().map(|object| async move {
        let damaged = |why: String| WorkError::Damaged { what: object.key.to_string(), why };
        let facts = rig
            .vault
            .find(&object.key)
            .await?
            .ok_or_else(|| damaged("it is not in the vault".to_owned()))?;
        match facts.bytes == object.bytes {
            true => Ok(facts),
            false => Err(damaged(format!(
                "it has {} bytes, and {} were signed",
                facts.bytes, object.bytes
            ))),
        }
    });
    Ok(ArchiveState {
        objects: futures::stream::iter(found).buffered(AT_ONCE_MAX).try_collect().await?,
    })
}

/// A tier and what it means.
#[derive(Debug, Clone, Serialize)]
pub struct TierOffer {
    /// The tier.
    pub tier: RetrievalTier,
    /// How long it takes at most, as documented, in seconds.
    pub seconds: u64,
    /// What it costs, in dollars, by list prices.
    pub dollars: f64,
}

/// What thawing a backup means in hours and money.
#[derive(Debug, Clone, Serialize)]
pub struct ThawPlan {
    /// The class.
    pub class: ColdClass,
    /// Objects that cannot be read now.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were asked for already.
    pub under_way: usize,
    /// The tier that is taken.
    pub tier: RetrievalTier,
    /// Days for which the copies stay.
    pub days: u32,
    /// Whether the tier that is taken is through in the time allowed.
    pub in_time: bool,
    /// The cheapest tier that would be, if one is.
    pub in_time_would_be: Option<RetrievalTier>,
    /// Every tier of the class, fastest first.
    pub offers: Vec<TierOffer>,
}

impl ThawPlan {
    /// What it takes to read a backup; none if nothing has to be done.
    ///
    /// # Errors
    /// [`WorkError::Refused`] if the class does not offer the tier that was asked for.
    pub fn of(
        frost: &ArchiveState,
        hurry: &ThawOptions,
        now: Timestamp,
    ) -> Result<Option<Self>, WorkError> {
        let (objects, bytes) = frost.frozen(now);
        let Some(class) = frost.class().filter(|_| objects > 0) else { return Ok(None) };
        let tier = hurry.tier.unwrap_or_else(|| thaw::tier_within(class, hurry.allowed));
        let days = hurry.days();
        let Some(takes) = class.takes(tier) else {
            return Err(WorkError::Refused {
                what: format!("--tier {tier}"),
                why: format!("class {} has no such retrieval", name(class)),
                hint: "give --tier standard or --tier bulk".to_owned(),
            });
        };
        let offers = RetrievalTier::ALL.into_iter().filter_map(|tier| {
            let seconds = class.takes(tier)?.as_secs();
            Some(TierOffer {
                tier,
                seconds,
                dollars: thaw::dollars(class, tier, objects, bytes, days),
            })
        });
        let cheapest = thaw::tier_within(class, hurry.allowed);
        let in_time_would_be =
            class.takes(cheapest).filter(|takes| *takes <= hurry.allowed).map(|_| cheapest);
        let under_way = frost.under_way();
        Ok(Some(Self {
            class,
            objects,
            bytes,
            under_way,
            tier,
            days,
            in_time: takes <= hurry.allowed,
            in_time_would_be,
            offers: offers.collect(),
        }))
    }

    /// What the chosen tier means.
    #[must_use]
    pub fn offer(&self) -> Option<&TierOffer> {
        self.offers.iter().find(|offer| offer.tier == self.tier)
    }
}

/// The class as AWS names it to people.
#[must_use]
pub fn name(class: ColdClass) -> &'static str {
    match class {
        ColdClass::Flexible => "Glacier Flexible Retrieval",
        ColdClass::DeepArchive => "Glacier Deep Archive",
    }
}

impl ThawOptions {
    fn days(&self) -> u32 {
        let needed = self.load.as_secs().saturating_mul(2).div_ceil(86_400).max(1);
        self.days.unwrap_or_else(|| u32::try_from(needed).unwrap_or(u32::MAX))
    }
}

/// What one call has asked for by now. Each request is paid for.
#[derive(Default)]
struct SentRequests {
    rounds: u32,
    prolonged: bool,
}

/// What was found out, or done, in one round.
enum ThawRound {
    /// Everything can be read for long enough.
    Done(Option<Timestamp>),
    /// Something is still on its way.
    Waiting { bytes: u64 },
}

/// Asks for what is frozen and waits until everything can be read for as long as the load takes;
/// tells until when it can be.
///
/// It may be stopped at any moment and called again anywhere: what was asked for goes on in the
/// store.
///
/// # Errors
/// [`WorkError::Interrupted`] on Ctrl-C; [`WorkError`] if the store refuses.
pub async fn thaw_and_wait(
    rig: &WorkContext,
    manifest: &Manifest,
    hurry: &ThawOptions,
) -> Result<Option<Timestamp>, WorkError> {
    let mut asked = remembered(rig, manifest).await?;
    let frost = inspect_archive(rig, manifest).await?;
    let Some(class) = frost.class() else { return Ok(None) };
    let total: u64 = frost.objects.iter().map(|facts| facts.bytes).sum();
    let mut tier = hurry.tier.unwrap_or_else(|| thaw::tier_within(class, hurry.allowed));
    let stage = rig.progress.begin("thaw", Some(total));
    let (begun, mut sent) = (Instant::now(), SentRequests::default());
    loop {
        let round = round(rig, manifest, hurry, class, &mut tier, &mut asked, &mut sent).await?;
        let waiting = match round {
            ThawRound::Done(until) => {
                stage.add(total.saturating_sub(stage.done()));
                stage.end();
                return Ok(until);
            }
            ThawRound::Waiting { bytes } => bytes,
        };
        stage.add(total.saturating_sub(waiting).saturating_sub(stage.done()));
        let expected = class.takes(tier).unwrap_or_default();
        let since = asked.as_ref().map_or(begun.elapsed(), |asked| {
            Duration::try_from(Timestamp::now().duration_since(asked.at)).unwrap_or_default()
        });
        stage.item(Some(format!(
            "{tier} retrieval, within {}; Ctrl-C leaves it under way",
            format_duration(expected)
        )));
        cancellable(
            rig,
            tokio::time::sleep(thaw::pause(since, expected).min(rig.vault.limits().thaw_poll)),
        )
        .await?;
    }
}

/// Asks for what is frozen, and does not wait.
///
/// # Errors
/// As [`thaw_and_wait`].
pub async fn begin(
    rig: &WorkContext,
    manifest: &Manifest,
    hurry: &ThawOptions,
) -> Result<(), WorkError> {
    let mut asked = remembered(rig, manifest).await?;
    let frost = inspect_archive(rig, manifest).await?;
    let Some(class) = frost.class() else { return Ok(()) };
    let mut tier = hurry.tier.unwrap_or_else(|| thaw::tier_within(class, hurry.allowed));
    round(rig, manifest, hurry, class, &mut tier, &mut asked, &mut SentRequests::default())
        .await
        .map(drop)
}

/// Waits until everything that was asked for can be read, and asks for nothing; tells until when it
/// can be.
///
/// # Errors
/// [`WorkError::Refused`] if nobody has asked for part of it; [`WorkError::Interrupted`] on Ctrl-C.
pub async fn wait(rig: &WorkContext, manifest: &Manifest) -> Result<Option<Timestamp>, WorkError> {
    let stage = rig.progress.begin("thaw", None);
    let begun = Instant::now();
    loop {
        let frost = inspect_archive(rig, manifest).await?;
        let now = Timestamp::now();
        let (left, _) = frost.frozen(now);
        let under_way = frost.under_way();
        if left > under_way {
            return Err(WorkError::Refused {
                what: format!("waiting for backup {}", manifest.backup),
                why: format!(
                    "nobody has asked for {} of its objects, or their copies have gone away",
                    left - under_way
                ),
                hint: format!("`lifeboat thaw resume {}` asks for them and waits", manifest.backup),
            });
        }
        if left == 0 {
            stage.end();
            return Ok(frost.until());
        }
        let expected = frost
            .class()
            .and_then(|class| class.takes(RetrievalTier::Standard))
            .unwrap_or_default();
        cancellable(
            rig,
            tokio::time::sleep(
                thaw::pause(begun.elapsed(), expected).min(rig.vault.limits().thaw_poll),
            ),
        )
        .await?;
    }
}

/// Makes thawed copies stay for so many days from now; tells until when.
///
/// # Errors
/// [`WorkError`] if the store refuses.
pub async fn prolong(
    rig: &WorkContext,
    manifest: &Manifest,
    hurry: &ThawOptions,
) -> Result<Option<Timestamp>, WorkError> {
    let frost = inspect_archive(rig, manifest).await?;
    let Some(class) = frost.class() else { return Ok(None) };
    let thawed = frost
        .objects
        .into_iter()
        .filter(|facts| matches!(facts.warmth, Availability::Thawed { .. }))
        .collect();
    request(rig, class, hurry.tier.unwrap_or(RetrievalTier::Standard), hurry.days(), thawed)
        .await?;
    Ok(inspect_archive(rig, manifest).await?.until())
}

async fn round(
    rig: &WorkContext,
    manifest: &Manifest,
    hurry: &ThawOptions,
    class: ColdClass,
    tier: &mut RetrievalTier,
    asked: &mut Option<RequestedRetrieval>,
    sent: &mut SentRequests,
) -> Result<ThawRound, WorkError> {
    let frost = inspect_archive(rig, manifest).await?;
    let now = Timestamp::now();
    let needed_until = thaw::after(now, hurry.load.as_secs_f64());
    let wish = ThawRequest {
        tier: *tier,
        days: hurry.days(),
        needed_until,
        asked: asked.as_ref().map(|asked| asked.tier),
    };
    let acts: Vec<(ObjectFacts, ThawAction)> = frost
        .objects
        .iter()
        .map(|facts| (facts.clone(), thaw::next(facts.warmth, &wish, now)))
        .collect();
    let stays = |act: &ThawAction| {
        *act == ThawAction::Nothing || (sent.prolonged && *act == ThawAction::Prolong)
    };
    if acts.iter().all(|(_, act)| stays(act)) {
        return Ok(ThawRound::Done(frost.until()));
    }
    let wanted: Vec<ObjectFacts> = acts
        .into_iter()
        .filter(|(_, act)| !stays(act) && *act != ThawAction::Wait)
        .map(|(facts, _)| facts)
        .collect();
    if !wanted.is_empty() {
        sent.rounds += 1;
        if sent.rounds > ROUNDS_MAX {
            return Err(VaultError::Unavailable {
                what: format!("thawing backup {}", manifest.backup),
                why: format!("it was asked for {ROUNDS_MAX} times and is still not readable for long enough; is this host's clock right?"),
            }
            .into());
        }
        // Once is enough: copies that are kept for too few days are for whoever begins the load to
        // refuse.
        sent.prolonged = true;
        // Before the first request, so that no process forgets what it has begun to pay for.
        *asked = Some(remember(rig, manifest, *tier).await?);
        let reached = request(rig, class, *tier, wish.days, wanted).await?;
        if reached != *tier {
            tracing::warn!("no capacity for {} retrieval; {reached} is asked for instead", *tier);
            *tier = reached;
            *asked = Some(remember(rig, manifest, reached).await?);
        }
    }
    let (_, bytes) = frost.frozen(now);
    Ok(ThawRound::Waiting { bytes })
}

/// Asks for every object, at the tier or at the next slower one that is not refused; tells which
/// that was.
async fn request(
    rig: &WorkContext,
    class: ColdClass,
    tier: RetrievalTier,
    days: u32,
    objects: Vec<ObjectFacts>,
) -> Result<RetrievalTier, WorkError> {
    let mut tier = tier;
    let mut left = objects;
    loop {
        let asking = left.into_iter().map(|facts| async move {
            let answer = ask(rig, &facts, tier, days).await?;
            tokio::time::sleep(REQUEST_PAUSE).await;
            Ok::<_, WorkError>((answer == ThawAnswer::NoCapacity).then_some(facts))
        });
        let refused: Vec<Option<ObjectFacts>> =
            futures::stream::iter(asking).buffer_unordered(AT_ONCE_MAX).try_collect().await?;
        left = refused.into_iter().flatten().collect();
        if left.is_empty() {
            return Ok(tier);
        }
        let Some(next) = thaw::slower(class, tier) else {
            return Err(VaultError::Unavailable {
                what: format!("thawing {} objects", left.len()),
                why: "no tier has capacity".to_owned(),
            }
            .into());
        };
        tier = next;
    }
}

async fn ask(
    rig: &WorkContext,
    facts: &ObjectFacts,
    tier: RetrievalTier,
    days: u32,
) -> Result<ThawAnswer, WorkError> {
    let mut attempt = 1;
    loop {
        match rig.vault.thaw(facts, tier, days).await {
            // Asking twice costs nothing: the second is answered by "under way".
            Err(error)
                if error.class().is_retryable()
                    && attempt < ATTEMPTS_MAX
                    && !rig.cancel.is_cancelled() =>
            {
                tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
                attempt += 1;
            }
            other => return Ok(other?),
        }
    }
}

async fn remembered(
    rig: &WorkContext,
    manifest: &Manifest,
) -> Result<Option<RequestedRetrieval>, WorkError> {
    let Ok(catalog) = &rig.catalog else { return Ok(None) };
    let all = catalog.thaws(&manifest.vault).await.unwrap_or_default();
    Ok(all
        .into_iter()
        .find(|asked| asked.datastore == manifest.datastore && asked.backup == manifest.backup))
}

async fn remember(
    rig: &WorkContext,
    manifest: &Manifest,
    tier: RetrievalTier,
) -> Result<RequestedRetrieval, WorkError> {
    let asked = RequestedRetrieval {
        datastore: manifest.datastore.clone(),
        backup: manifest.backup.clone(),
        tier,
        at: Timestamp::now(),
    };
    if let Ok(catalog) = &rig.catalog
        && let Err(error) = catalog.asked_for(&manifest.vault, &asked).await
    {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the tier could not be noted in the catalog; the store knows the rest"
        );
    }
    Ok(asked)
}

/// Refuses a restore that would still be reading when the first copy goes away.
///
/// # Errors
/// [`WorkError::Refused`]
pub fn outlives(
    frost: &ArchiveState,
    load: Duration,
    backup: &BackupId,
    now: Timestamp,
) -> Result<(), WorkError> {
    let Some(until) = frost.until() else { return Ok(()) };
    if thaw::after(now, load.as_secs_f64()) <= until {
        return Ok(());
    }
    Err(WorkError::Refused {
        what: format!("restoring backup {backup}"),
        why: format!(
            "its thawed copies go away at {until}, and loading it may take {}",
            format_duration(load)
        ),
        hint: format!("`lifeboat thaw {backup} --days 2 --confirm` makes them stay longer"),
    })
}

/// A backup of which something is thawed or on its way.
#[derive(Debug, Clone, Serialize)]
pub struct ThawRow {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup.
    pub backup: BackupId,
    /// Objects that can be read.
    pub ready: usize,
    /// Objects on their way.
    pub under_way: usize,
    /// Objects that nobody asked for, or whose copies have gone away.
    pub frozen: usize,
    /// When the first copy goes away.
    pub until: Option<Timestamp>,
    /// The tier, where the catalog of this host remembers it.
    pub tier: Option<RetrievalTier>,
    /// When everything should be readable, likewise.
    pub expected: Option<Timestamp>,
}

/// Every backup that is thawed or on its way, as the store tells it; those whose copies have gone
/// away are left out.
///
/// # Errors
/// [`WorkError`] if the vault cannot be read.
pub async fn list(rig: &WorkContext) -> Result<Vec<ThawRow>, WorkError> {
    let vault = shelf::vault_id(rig).await?;
    let asked = match &rig.catalog {
        Ok(catalog) => catalog.thaws(&vault).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let mut rows: std::collections::BTreeMap<
        (DatastoreName, BackupId),
        (Vec<ObjectFacts>, Option<ColdClass>),
    > = Default::default();
    for facts in rig.vault.list(PAYLOADS).await? {
        let Some(of) = parse_backup_key(facts.key.as_str()) else { continue };
        if facts.warmth == Availability::Warm {
            continue;
        }
        // Not every store tells in a listing what was asked for.
        let known = asked.iter().any(|asked| (&asked.datastore, &asked.backup) == (&of.0, &of.1));
        let facts = match facts.warmth {
            Availability::Frozen if known => rig.vault.find(&facts.key).await?.unwrap_or(facts),
            _ => facts,
        };
        let class = facts.class.as_deref().and_then(ColdClass::of);
        let row = rows.entry(of).or_default();
        row.0.push(facts);
        row.1 =
            row.1.into_iter().chain(class).max_by_key(|class| class.takes(RetrievalTier::Standard));
    }
    let now = Timestamp::now();
    let row = |((datastore, backup), (objects, class)): (
        (DatastoreName, BackupId),
        (Vec<ObjectFacts>, Option<ColdClass>),
    )| {
        let frost = ArchiveState { objects };
        let ready = frost.objects.iter().filter(|facts| facts.warmth.is_readable(now)).count();
        let under_way = frost.under_way();
        let asked =
            asked.iter().find(|asked| (&asked.datastore, &asked.backup) == (&datastore, &backup));
        let expected = asked
            .filter(|_| under_way > 0)
            .and_then(|asked| Some(thaw::after(asked.at, class?.takes(asked.tier)?.as_secs_f64())));
        let frozen = frost.objects.len() - ready - under_way;
        let tier = asked.map(|asked| asked.tier);
        (ready + under_way > 0).then(|| ThawRow {
            until: frost.until(),
            datastore,
            backup,
            ready,
            under_way,
            frozen,
            tier,
            expected,
        })
    };
    Ok(rows.into_iter().filter_map(row).collect())
}

//! Telling somebody: what is wrong is compared with what was wrong, and the difference becomes messages that are kept until delivered.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::catalog::ticks::{Letter, Untold};
use crate::catalog::{Catalog, CatalogError};
use crate::domain::alarm::{Alarm, Kind, Message, Phase};
use crate::domain::job::backoff;
use crate::domain::span::{Span, for_people};
use crate::notify::{Bell, DELIVERY_MAX};
use crate::work::WorkError;
use crate::work::status::Status;

/// Messages that are delivered in one go.
const DELIVERIES_MAX: usize = 16;
/// Clocks that differ by more make times in the history unreliable.
const SKEW_MAX: SignedDuration = SignedDuration::from_secs(30);

/// Whom to tell, and how it is said.
pub struct Telling {
    bell: Mutex<Bell>,
    vault: String,
    remind: Span,
    delivering: tokio::sync::Mutex<()>,
}

impl Telling {
    /// A way to tell everybody.
    #[must_use]
    pub fn new(bell: Bell, vault: String, remind: Span) -> Self {
        Self { bell: Mutex::new(bell), vault, remind, delivering: tokio::sync::Mutex::new(()) }
    }

    /// Tells others from now on.
    pub fn replace(&self, bell: Bell) {
        if let Ok(mut own) = self.bell.lock() {
            *own = bell;
        }
    }

    fn bell(&self) -> Bell {
        self.bell.lock().map(|bell| bell.clone()).unwrap_or_default()
    }

    fn message(&self, alarm: &Alarm, phase: Phase, since: Timestamp) -> String {
        let message = Message {
            kind: alarm.kind,
            phase,
            subject: alarm.subject.clone(),
            what: alarm.text.clone(),
            since,
            next_step: alarm.next_step.clone(),
            vault: self.vault.clone(),
        };
        serde_json::to_string(&message).unwrap_or_default()
    }

    /// Says something once.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn say(&self, catalog: &Catalog, alarm: &Alarm) -> Result<(), CatalogError> {
        let now = catalog.now().await?;
        catalog.post(&self.bell().who_wants(alarm.kind), alarm.kind, &self.message(alarm, Phase::Raised, now), now).await
    }

    /// Tells of scheduled times that passed without a run: one message for each job.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn tell_of_missed(&self, catalog: &Catalog) -> Result<usize, CatalogError> {
        let channels = self.bell().who_wants(Kind::Missed);
        let write = |ticks: &[Untold]| {
            let mut messages = Vec::new();
            for one_job in ticks.chunk_by(|a, b| a.job == b.job) {
                let (Some(first), Some(last)) = (one_job.first(), one_job.last()) else { continue };
                let job = &first.job;
                let covered = one_job.iter().all(|tick| tick.covered);
                let and_then = if covered { "; a later run covers them" } else { "; they are not made up for" };
                let alarm = Alarm {
                    kind: Kind::Missed,
                    subject: job.clone(),
                    text: format!(
                        "{} scheduled times of {job} passed without a run, {} to {}{and_then}",
                        one_job.len(),
                        first.tick,
                        last.tick
                    ),
                    next_step: "`lifeboat status` shows the job; was every host down, or too busy?".to_owned(),
                };
                let body = self.message(&alarm, Phase::Raised, first.tick);
                messages.push(Letter { channels: channels.clone(), kind: Kind::Missed, body });
            }
            messages
        };
        catalog.tell_of_missed(&write).await
    }

    /// Raises what is wrong now, settles what is not any more, and reminds of what goes on. Alarms about other hosts are theirs.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn update(&self, catalog: &Catalog, host: &str, alarms: Vec<Alarm>) -> Result<(), CatalogError> {
        let now = catalog.now().await?;
        let standing = catalog.alarms().await?;
        let bell = self.bell();
        for alarm in &alarms {
            let known = standing.iter().find(|known| known.alarm.key() == alarm.key());
            let (phase, since, before) = match known {
                None => (Phase::Raised, now, None),
                Some(known) if now.duration_since(known.told) >= signed(self.remind.duration()) => {
                    (Phase::Ongoing, known.since, Some(known.told))
                }
                Some(_) => continue,
            };
            if catalog.raise(alarm, now, before).await? {
                catalog.post(&bell.who_wants(alarm.kind), alarm.kind, &self.message(alarm, phase, since), now).await?;
            }
        }
        for known in standing {
            let others = matches!(known.alarm.kind, Kind::ClockSkew | Kind::Configuration) && known.alarm.subject != host;
            let stands = alarms.iter().any(|alarm| alarm.key() == known.alarm.key());
            if !stands && !others && catalog.settle(&known.alarm).await? {
                let message = self.message(&known.alarm, Phase::Recovered, known.since);
                catalog.post(&bell.who_wants(known.alarm.kind), known.alarm.kind, &message, now).await?;
            }
        }
        Ok(())
    }

    /// Begins to deliver what waits; one that hangs holds up nothing but itself.
    pub async fn deliver(self: &Arc<Self>, catalog: &Catalog) {
        let (own, catalog) = (Arc::clone(self), catalog.clone());
        tokio::spawn(async move {
            let Ok(_only_one) = own.delivering.try_lock() else { return };
            let bell = own.bell();
            let outgoing = match catalog.outgoing(DELIVERY_MAX * 2, DELIVERIES_MAX).await {
                Ok(outgoing) => outgoing,
                Err(_) => return,
            };
            let deliveries = outgoing.into_iter().map(|one| {
                let (bell, catalog) = (bell.clone(), catalog.clone());
                async move {
                    let sent = match serde_json::from_str::<Message>(&one.body) {
                        Ok(message) => bell.deliver(&one.channel, &message).await,
                        Err(error) => Err(error.to_string()),
                    };
                    let noted = match &sent {
                        Ok(()) => catalog.delivered(one.id, None).await,
                        Err(why) => {
                            tracing::warn!(channel = one.channel, why, "a message could not be delivered; it is tried again");
                            catalog.delivered(one.id, Some((why, backoff(one.attempts + 1)))).await
                        }
                    };
                    if let Err(error) = noted {
                        tracing::warn!(error = &error as &dyn std::error::Error, "a delivery could not be noted; it may be repeated");
                    }
                }
            });
            futures::future::join_all(deliveries).await;
        });
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// Passes on what runs notice.
pub async fn pass_on(mut heard: UnboundedReceiver<(Kind, String, String, String)>, catalog: Catalog, telling: Arc<Telling>) {
    while let Some((kind, subject, text, next_step)) = heard.recv().await {
        if let Err(error) = telling.say(&catalog, &Alarm { kind, subject, text, next_step }).await {
            tracing::error!(error = &error as &dyn std::error::Error, "something was noticed and could not be passed on");
        }
    }
}

/// What is wrong, of what was looked at: datastores, and jobs whose last run failed.
#[must_use]
pub fn alarms_of(status: &Status) -> Vec<Alarm> {
    let mut alarms = status.alarms.clone();
    for job in &status.jobs {
        let Some(last) = job.last.as_ref().filter(|last| last.state == "failed") else { continue };
        alarms.push(Alarm {
            kind: Kind::Failed,
            subject: job.job.clone(),
            text: format!("{} of {} failed: {}", job.what, last.tick, last.outcome.clone().unwrap_or_default()),
            next_step: format!("`lifeboat status` and the log of {} say more", last.host.clone().unwrap_or_else(|| "the host".to_owned())),
        });
    }
    alarms
}

/// Whether a host's clock is not to be trusted.
#[must_use]
pub fn clock_skew(host: &str, skew: SignedDuration) -> Option<Alarm> {
    (skew.abs() > SKEW_MAX).then(|| Alarm {
        kind: Kind::ClockSkew,
        subject: host.to_owned(),
        text: format!("the clock of {host} is {} off the catalog's", for_people(Duration::try_from(skew.abs()).unwrap_or_default())),
        next_step: "set it right (chrony, systemd-timesyncd); schedules follow the catalog's clock meanwhile".to_owned(),
    })
}

/// A configuration that is not in force.
#[must_use]
pub fn configuration(host: &str, error: &WorkError) -> Alarm {
    Alarm {
        kind: Kind::Configuration,
        subject: host.to_owned(),
        // A file may hold a secret by mistake, and the error quotes lines of it.
        text: format!("the new configuration is not acceptable ({}); the old one stays in force", error.trouble()),
        next_step: "`lifeboat check` shows what is wrong; then reload once more".to_owned(),
    }
}

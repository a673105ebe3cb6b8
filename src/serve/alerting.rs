//! Alerting: current alarms are compared with earlier ones, and the difference becomes messages
//! that are kept until they are delivered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::catalog::ticks::{AddressedMessage, UnreportedMiss};
use crate::catalog::{Catalog, CatalogError};
use crate::config::serve::ServeConfig;
use crate::domain::alarm::{Alarm, AlarmKind, AlarmMessage, AlarmPhase};
use crate::domain::human_duration::{HumanDuration, format_duration};
use crate::domain::job::backoff;
use crate::notify::{DELIVERY_MAX, Notifier};
use crate::work::WorkError;
use crate::work::status::SystemStatus;

/// Messages that are delivered to one channel in one go.
const DELIVERIES_MAX: usize = 4;
/// Clocks that differ by more make times in the history unreliable.
const SKEW_MAX: SignedDuration = SignedDuration::from_secs(30);

/// What was looked at: what was not may be as wrong as it was.
#[derive(Debug, Clone, Copy)]
pub struct AlarmScope {
    /// Vault and evidence.
    pub vault: bool,
    /// The jobs' ends.
    pub jobs: bool,
}

/// Whom to tell, and how it is said.
pub struct AlertDispatcher {
    bell: Mutex<Notifier>,
    vault: String,
    host: String,
    link: Option<String>,
    remind: HumanDuration,
    /// One delivery at a time for each channel.
    lines: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl AlertDispatcher {
    /// A way to tell everybody.
    #[must_use]
    pub fn new(bell: Notifier, vault: String, settings: &ServeConfig) -> Self {
        let ServeConfig { host, link, remind, .. } = settings.clone();
        Self { bell: Mutex::new(bell), vault, host, link, remind, lines: Mutex::default() }
    }

    /// Tells others from now on.
    pub fn replace(&self, bell: Notifier) {
        if let Ok(mut own) = self.bell.lock() {
            *own = bell;
        }
    }

    fn bell(&self) -> Notifier {
        self.bell.lock().map(|bell| bell.clone()).unwrap_or_default()
    }

    fn message(&self, alarm: &Alarm, phase: AlarmPhase, since: Timestamp) -> String {
        let message = AlarmMessage {
            kind: alarm.kind,
            phase,
            subject: alarm.subject.clone(),
            what: alarm.text.clone(),
            since,
            next_step: alarm.next_step.clone(),
            vault: self.vault.clone(),
            host: self.host.clone(),
            link: self.link.clone(),
        };
        serde_json::to_string(&message).unwrap_or_default()
    }

    fn letter(&self, kind: AlarmKind, body: String) -> AddressedMessage {
        AddressedMessage { channels: self.bell().who_wants(kind), kind, body }
    }

    /// Says something once.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn say(&self, catalog: &Catalog, alarm: &Alarm) -> Result<(), CatalogError> {
        let now = catalog.now().await?;
        catalog
            .post(
                &self.bell().who_wants(alarm.kind),
                alarm,
                &self.message(alarm, AlarmPhase::Raised, now),
                now,
            )
            .await
    }

    /// Says something at once to whoever wants to hear it, without the catalog: it is what is
    /// broken. What does not arrive is logged.
    pub async fn send_now(&self, alarm: &Alarm, phase: AlarmPhase, since: Timestamp) {
        let bell = self.bell();
        let Ok(message) = serde_json::from_str::<AlarmMessage>(&self.message(alarm, phase, since))
        else {
            return;
        };
        for channel in bell.who_wants(alarm.kind) {
            if let Err(why) = bell.deliver(&channel, &message).await {
                tracing::error!(
                    channel,
                    why,
                    "nobody could be told that the catalog does not answer"
                );
            }
        }
    }

    /// Tells of scheduled times that passed without a run: one message for each job.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn tell_of_missed(&self, catalog: &Catalog) -> Result<usize, CatalogError> {
        let channels = self.bell().who_wants(AlarmKind::Missed);
        let write = |ticks: &[UnreportedMiss]| {
            let mut messages = Vec::new();
            for one_job in ticks.chunk_by(|a, b| a.job == b.job) {
                let (Some(first), Some(last)) = (one_job.first(), one_job.last()) else { continue };
                let job = &first.job;
                let covered = one_job.iter().all(|tick| tick.covered);
                let and_then = if covered {
                    "; a later run covers them"
                } else {
                    "; they are not made up for"
                };
                let alarm = Alarm {
                    kind: AlarmKind::Missed,
                    subject: job.clone(),
                    text: format!(
                        "{} scheduled times of {job} passed without a run, {} to {}{and_then}",
                        one_job.len(),
                        first.tick,
                        last.tick
                    ),
                    next_step: "`lifeboat status` shows the job; was every host down, or too busy?"
                        .to_owned(),
                };
                let body = self.message(&alarm, AlarmPhase::Raised, first.tick);
                messages.push(AddressedMessage {
                    channels: channels.clone(),
                    kind: AlarmKind::Missed,
                    body,
                });
            }
            messages
        };
        catalog.tell_of_missed(&write).await
    }

    /// Raises what is wrong now, settles what is not any more, and reminds of what goes on. Alarms
    /// about other hosts are theirs.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn update(
        &self,
        catalog: &Catalog,
        host: &str,
        alarms: Vec<Alarm>,
        looked: AlarmScope,
    ) -> Result<(), CatalogError> {
        let now = catalog.now().await?;
        let standing = catalog.alarms().await?;
        for alarm in &alarms {
            let known = standing.iter().find(|known| known.alarm.key() == alarm.key());
            let (phase, since, before) = match known {
                None => (AlarmPhase::Raised, now, None),
                Some(known) if now.duration_since(known.told) >= signed(self.remind.duration()) => {
                    (AlarmPhase::Ongoing, known.since, Some(known.told))
                }
                Some(_) => continue,
            };
            let letter = self.letter(alarm.kind, self.message(alarm, phase, since));
            catalog.raise(alarm, now, before, letter).await?;
        }
        for known in standing {
            let others =
                matches!(known.alarm.kind, AlarmKind::ClockSkew | AlarmKind::Configuration)
                    && known.alarm.subject != host;
            let stands = alarms.iter().any(|alarm| alarm.key() == known.alarm.key());
            // What was not looked at is not over.
            let unknown = match known.alarm.kind {
                AlarmKind::ClockSkew | AlarmKind::Configuration => false,
                AlarmKind::Failed => !looked.jobs,
                _ => !looked.vault,
            };
            if !stands && !others && !unknown {
                let message = self.message(&known.alarm, AlarmPhase::Recovered, known.since);
                catalog.settle(&known.alarm, self.letter(known.alarm.kind, message)).await?;
            }
        }
        Ok(())
    }

    /// Begins to deliver what waits, each channel by itself: one that hangs holds up nothing but
    /// itself.
    pub fn deliver(self: &Arc<Self>, catalog: &Catalog) {
        for channel in self.bell().channels {
            let Some(free) = self.line_of(&channel.name) else { continue };
            let (own, catalog) = (Arc::clone(self), catalog.clone());
            tokio::spawn(async move {
                if let Ok(_alone) = free.try_lock() {
                    own.deliver_to(&catalog, &channel.name).await;
                }
            });
        }
    }

    fn line_of(&self, channel: &str) -> Option<Arc<tokio::sync::Mutex<()>>> {
        Some(Arc::clone(self.lines.lock().ok()?.entry(channel.to_owned()).or_default()))
    }

    async fn deliver_to(&self, catalog: &Catalog, channel: &str) {
        let Ok(outgoing) = catalog.outgoing(channel, DELIVERY_MAX * 2, DELIVERIES_MAX).await else {
            return;
        };
        let bell = self.bell();
        let deliveries = outgoing.into_iter().map(|one| {
            let bell = &bell;
            async move {
                let sent = match serde_json::from_str::<AlarmMessage>(&one.body) {
                    Ok(message) => bell.deliver(&one.channel, &message).await,
                    Err(error) => Err(error.to_string()),
                };
                let noted = match &sent {
                    Ok(()) => catalog.delivered(one.id, None).await,
                    Err(why) => {
                        tracing::warn!(
                            channel = one.channel,
                            why,
                            "a message could not be delivered; it is tried again"
                        );
                        catalog.delivered(one.id, Some((why, backoff(one.attempts + 1)))).await
                    }
                };
                if let Err(error) = noted {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a delivery could not be noted; it may be repeated"
                    );
                }
            }
        });
        futures::future::join_all(deliveries).await;
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

/// Passes on what runs notice.
pub async fn pass_on(
    mut heard: UnboundedReceiver<(AlarmKind, String, String, String)>,
    catalog: Catalog,
    telling: Arc<AlertDispatcher>,
) {
    while let Some((kind, subject, text, next_step)) = heard.recv().await {
        let alarm = Alarm { kind, subject, text, next_step };
        // It is noticed once only, so it is said until it is said.
        while let Err(error) = telling.say(&catalog, &alarm).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                what = alarm.text,
                "something was noticed and could not be passed on yet"
            );
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }
}

/// What is wrong, of what was looked at: datastores, and jobs whose last run failed.
#[must_use]
pub fn alarms_of(status: &SystemStatus) -> Vec<Alarm> {
    let mut alarms = status.alarms.clone();
    for job in &status.jobs {
        let Some(last) = job.ended.as_ref().filter(|ended| ended.state == "failed") else {
            continue;
        };
        alarms.push(Alarm {
            kind: AlarmKind::Failed,
            subject: job.job.clone(),
            text: format!(
                "{} of {} failed: {}",
                job.what,
                last.tick,
                last.outcome.clone().unwrap_or_default()
            ),
            next_step: format!(
                "`lifeboat status` and the log of {} say more",
                last.host.clone().unwrap_or_else(|| "the host".to_owned())
            ),
        });
    }
    alarms
}

/// The vault does not answer.
#[must_use]
pub fn vault_gone(why: &str) -> Alarm {
    Alarm {
        kind: AlarmKind::Failed,
        subject: "vault".to_owned(),
        text: format!("the vault cannot be looked at: {why}"),
        next_step: "`lifeboat check` tries everything that is configured".to_owned(),
    }
}

/// The catalog does not answer.
#[must_use]
pub fn catalog_gone(host: &str) -> Alarm {
    Alarm {
        kind: AlarmKind::Failed,
        subject: format!("catalog, as seen from {host}"),
        text: "the catalog does not answer: what runs goes on, and nothing new is begun".to_owned(),
        next_step: "look at its server or its disk; if it is lost, move it away, restart lifeboat, and `lifeboat catalog rebuild`"
            .to_owned(),
    }
}

/// Whether a host's clock is not to be trusted.
#[must_use]
pub fn clock_skew(host: &str, skew: SignedDuration) -> Option<Alarm> {
    (skew.abs() > SKEW_MAX).then(|| Alarm {
        kind: AlarmKind::ClockSkew,
        subject: host.to_owned(),
        text: format!("the clock of {host} is {} off the catalog's", format_duration(Duration::try_from(skew.abs()).unwrap_or_default())),
        next_step: "set it right (chrony, systemd-timesyncd); schedules follow the catalog's clock meanwhile".to_owned(),
    })
}

/// A configuration that is not in force.
#[must_use]
pub fn configuration(host: &str, error: &WorkError) -> Alarm {
    Alarm {
        kind: AlarmKind::Configuration,
        subject: host.to_owned(),
        // A file may hold a secret by mistake, and the error quotes lines of it.
        text: format!(
            "the new configuration is not acceptable ({}); the old one stays in force",
            error.class()
        ),
        next_step: "`lifeboat check` shows what is wrong; then reload once more".to_owned(),
    }
}

//! Whether a datastore is as it was promised: how old its newest backup is, and how long ago a drill of it passed.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::alarm::{Alarm, Kind};
use super::id::{BackupId, DatastoreName};
use super::span::for_people;

/// What is known of a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The datastore.
    pub datastore: DatastoreName,
    /// How old the newest backup may be, in seconds.
    pub rpo_seconds: u64,
    /// How long a restore may take, in seconds.
    pub rto_seconds: u64,
    /// How long ago a drill may have passed, in seconds.
    pub drilled_within_seconds: u64,
    /// Backups that are believed.
    pub backups: usize,
    /// Manifests that are not believed.
    pub not_believed: usize,
    /// The newest backup that is believed.
    pub newest: Option<BackupId>,
    /// When its snapshot was taken.
    pub newest_snapshot: Option<Timestamp>,
    /// Bytes that the newest backup takes in the vault.
    pub newest_bytes: u64,
    /// When the last drill that passed was declared.
    pub last_pass: Option<Timestamp>,
    /// The record of its report.
    pub last_pass_record: Option<u64>,
    /// The snapshot that this drill restored.
    pub verified_snapshot: Option<Timestamp>,
    /// What the last drill said, whether it passed or not.
    pub last_verdict: Option<String>,
}

fn age(now: Timestamp, then: Timestamp) -> Duration {
    // A time from the future has no age; clocks of servers differ.
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

impl Health {
    /// Age of the newest backup.
    #[must_use]
    pub fn backup_age(&self, now: Timestamp) -> Option<Duration> {
        self.newest_snapshot.map(|then| age(now, then))
    }

    /// How long ago a drill passed.
    #[must_use]
    pub fn drill_age(&self, now: Timestamp) -> Option<Duration> {
        self.last_pass.map(|then| age(now, then))
    }

    /// What is wrong.
    #[must_use]
    pub fn alarms(&self, now: Timestamp) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        let mut alarm = |kind, text: String, next_step: String| {
            alarms.push(Alarm { kind, subject: self.datastore.to_string(), text, next_step });
        };
        let (rpo, within) = (Duration::from_secs(self.rpo_seconds), Duration::from_secs(self.drilled_within_seconds));
        match self.backup_age(now) {
            None => alarm(
                Kind::Stale,
                format!("datastore {} has no backup that is believed", self.datastore),
                format!("lifeboat backup {}", self.datastore),
            ),
            Some(age) if age > rpo => alarm(
                Kind::Stale,
                format!("the newest backup of {} is {} old; its RPO is {}", self.datastore, for_people(age), for_people(rpo)),
                format!("lifeboat backup {}; `lifeboat status` shows what its schedule did", self.datastore),
            ),
            Some(_) => {}
        }
        match self.drill_age(now) {
            None => alarm(
                Kind::NeverDrilled,
                format!("no drill of {} ever passed: nobody knows whether its backups can be restored", self.datastore),
                "lifeboat drill NAME, with a plan that restores it (docs/DRILLS.md)".to_owned(),
            ),
            Some(age) if age > within => alarm(
                Kind::DrillOverdue,
                format!("the last drill of {} that passed was {} ago; {} are allowed", self.datastore, for_people(age), for_people(within)),
                "lifeboat drill NAME; `lifeboat drill history` shows what the last ones said".to_owned(),
            ),
            Some(_) => {}
        }
        alarms
    }
}

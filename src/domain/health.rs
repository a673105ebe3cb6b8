//! Whether a datastore meets its objectives: the age of its newest backup, and of the last drill
//! that passed.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::alarm::{Alarm, AlarmKind};
use super::human_duration::format_duration;
use super::id::{BackupId, DatastoreName};

/// What is known of a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatastoreHealth {
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
    /// What the database held and the newest backup does not, as far as this host's catalog knows.
    pub omitted: Vec<String>,
    /// Backups that were found damaged, and not found whole since.
    pub damaged: Vec<BackupId>,
    /// Backups that this host's catalog knows and the vault does not have any more, and of whose
    /// removal no record tells.
    pub gone: Vec<BackupId>,
    /// Backups that say that they were taken in the future.
    pub future: Vec<BackupId>,
}

fn age(now: Timestamp, then: Timestamp) -> Duration {
    // A time from the future has no age; clocks of servers differ.
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

impl DatastoreHealth {
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
        let (rpo, within) = (
            Duration::from_secs(self.rpo_seconds),
            Duration::from_secs(self.drilled_within_seconds),
        );
        match self.backup_age(now) {
            None => alarm(
                AlarmKind::Stale,
                format!("datastore {} has no backup that is believed", self.datastore),
                format!("lifeboat backup {}", self.datastore),
            ),
            Some(age) if age > rpo => alarm(
                AlarmKind::Stale,
                format!(
                    "the newest backup of {} is {} old; its RPO is {}",
                    self.datastore,
                    format_duration(age),
                    format_duration(rpo)
                ),
                format!(
                    "lifeboat backup {}; `lifeboat status` shows what its schedule did",
                    self.datastore
                ),
            ),
            Some(_) => {}
        }
        match self.drill_age(now) {
            None => alarm(
                AlarmKind::NeverDrilled,
                format!(
                    "no drill of {} ever passed: nobody knows whether its backups can be restored",
                    self.datastore
                ),
                "lifeboat drill NAME, with a plan that restores it (docs/DRILLS.md)".to_owned(),
            ),
            Some(age) if age > within => alarm(
                AlarmKind::DrillOverdue,
                format!(
                    "the last drill of {} that passed was {} ago; {} are allowed",
                    self.datastore,
                    format_duration(age),
                    format_duration(within)
                ),
                "lifeboat drill NAME; `lifeboat drill history` shows what the last ones said"
                    .to_owned(),
            ),
            Some(_) => {}
        }
        if let Some(first) = self.damaged.first() {
            let (count, names) = (
                self.damaged.len(),
                self.damaged.iter().map(BackupId::as_str).collect::<Vec<_>>().join(", "),
            );
            alarm(
                AlarmKind::Damaged,
                format!(
                    "{count} backups of {} were found damaged, and not found whole since: {names}",
                    self.datastore
                ),
                format!(
                    "lifeboat backup {}, then lifeboat verify {first}: when it is whole again, this is over; once it is removed, too",
                    self.datastore
                ),
            );
        }
        let names = |backups: &[BackupId]| {
            backups.iter().map(BackupId::as_str).collect::<Vec<_>>().join(", ")
        };
        if !self.gone.is_empty() {
            alarm(
                AlarmKind::Gone,
                format!(
                    "backups of {} are gone from the vault or hidden by a delete marker, and no record says that they were removed: {}",
                    self.datastore,
                    names(&self.gone)
                ),
                "find out who removed them: the bucket's access log tells. Removing a delete marker brings a backup back; what is known to be lost is forgotten by `lifeboat catalog rebuild`".to_owned(),
            );
        }
        if self.not_believed > 0 {
            alarm(
                AlarmKind::Untrusted,
                format!(
                    "manifests of {} are not believed, {} of those that were looked at: no trusted key signed them, or they are damaged",
                    self.datastore, self.not_believed
                ),
                format!(
                    "lifeboat list {} shows which, and why; what nobody of yours has written can be removed by hand",
                    self.datastore
                ),
            );
        }
        if !self.future.is_empty() {
            alarm(
                AlarmKind::Future,
                format!("backups of {} say that they were taken in the future: {}", self.datastore, names(&self.future)),
                "set the clock of the server they are of right; the order of backups goes by their numbers, and retention keeps these"
                    .to_owned(),
            );
        }
        alarms
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    const HOUR: u64 = 3_600;
    const DAY: u64 = 86_400;

    fn now() -> Timestamp {
        "2026-11-24T10:00:00Z".parse().unwrap()
    }
    fn ago(seconds: u64) -> Timestamp {
        now() - SignedDuration::from_secs(i64::try_from(seconds).unwrap())
    }
    /// A datastore with an RPO of a day and a drill every week; so many seconds since its newest
    /// snapshot and since its last drill.
    fn health(snapshot: Option<Timestamp>, drill: Option<Timestamp>) -> DatastoreHealth {
        DatastoreHealth {
            datastore: "chat".parse().unwrap(),
            rpo_seconds: DAY,
            rto_seconds: HOUR,
            drilled_within_seconds: 7 * DAY,
            backups: 1,
            not_believed: 0,
            newest: None,
            newest_snapshot: snapshot,
            newest_bytes: 1,
            last_pass: drill,
            last_pass_record: None,
            verified_snapshot: None,
            last_verdict: None,
            omitted: Vec::new(),
            damaged: Vec::new(),
            gone: Vec::new(),
            future: Vec::new(),
        }
    }
    fn kinds(health: &DatastoreHealth) -> Vec<AlarmKind> {
        health.alarms(now()).into_iter().map(|alarm| alarm.kind).collect()
    }

    #[test]
    fn an_alarm_is_raised_when_a_promise_is_broken_and_not_at_its_last_second() {
        for (snapshot, drill, expected) in [
            (0, 0, vec![]),
            (DAY, 7 * DAY, vec![]),
            (DAY + 1, 7 * DAY, vec![AlarmKind::Stale]),
            (DAY, 7 * DAY + 1, vec![AlarmKind::DrillOverdue]),
            (DAY + 1, 7 * DAY + 1, vec![AlarmKind::Stale, AlarmKind::DrillOverdue]),
        ] {
            assert_eq!(
                kinds(&health(Some(ago(snapshot)), Some(ago(drill)))),
                expected,
                "{snapshot} s and {drill} s ago"
            );
        }
    }

    #[test]
    fn what_was_never_done_is_an_alarm_at_once() {
        let today = Some(now());
        for (snapshot, drill, expected) in [
            (None, today, vec![AlarmKind::Stale]),
            (today, None, vec![AlarmKind::NeverDrilled]),
            (None, None, vec![AlarmKind::Stale, AlarmKind::NeverDrilled]),
        ] {
            assert_eq!(kinds(&health(snapshot, drill)), expected);
        }
    }

    #[test]
    fn ages_are_counted_up_to_now_and_a_time_from_the_future_has_none() {
        let ages = |then: Option<Timestamp>| {
            (health(then, None).backup_age(now()), health(None, then).drill_age(now()))
        };
        let same = |age: Option<Duration>| (age, age);
        assert_eq!(ages(None), same(None));
        assert_eq!(ages(Some(ago(90))), same(Some(Duration::from_secs(90))));
        assert_eq!(ages(Some(now())), same(Some(Duration::ZERO)));
        assert_eq!(
            ages(Some(now() + SignedDuration::from_secs(90))),
            same(Some(Duration::ZERO)),
            "clocks of servers differ"
        );
        assert!(health(Some(now()), None).drill_age(now()).is_none(), "a backup is no drill");
    }

    #[test]
    fn an_alarm_names_the_datastore_the_numbers_and_the_next_step() {
        let told = |snapshot, drill| -> Vec<(String, String)> {
            let alarms = health(snapshot, drill).alarms(now());
            assert!(alarms.iter().all(|alarm| alarm.subject == "chat"));
            alarms.into_iter().map(|alarm| (alarm.text, alarm.next_step)).collect()
        };
        let lines = |lines: [(&str, &str); 2]| {
            lines.map(|(text, next_step)| (text.to_owned(), next_step.to_owned())).to_vec()
        };
        assert_eq!(
            told(None, None),
            lines([
                ("datastore chat has no backup that is believed", "lifeboat backup chat"),
                (
                    "no drill of chat ever passed: nobody knows whether its backups can be restored",
                    "lifeboat drill NAME, with a plan that restores it (docs/DRILLS.md)"
                ),
            ])
        );
        assert_eq!(
            told(Some(ago(50 * HOUR)), Some(ago(9 * DAY))),
            lines([
                (
                    "the newest backup of chat is 2 d 2 h old; its RPO is 24 h 0 min",
                    "lifeboat backup chat; `lifeboat status` shows what its schedule did"
                ),
                (
                    "the last drill of chat that passed was 9 d 0 h ago; 7 d 0 h are allowed",
                    "lifeboat drill NAME; `lifeboat drill history` shows what the last ones said"
                ),
            ])
        );
    }
}

//! Alarms: what is reported, and in which words. No secrets, and no names from inside the data.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmKind {
    /// A run failed.
    Failed,
    /// A scheduled time passed without a run.
    Missed,
    /// The newest backup is older than the RPO allows, or there is none.
    Stale,
    /// No drill of the datastore ever passed.
    NeverDrilled,
    /// The last drill that passed is too long ago.
    DrillOverdue,
    /// Something was left behind by a run.
    Leftovers,
    /// A host's clock differs from the others'.
    ClockSkew,
    /// A backup was found damaged.
    Damaged,
    /// A backup that was there is gone, and no record says that it was removed.
    Gone,
    /// A backup says that it was taken in the future.
    Future,
    /// A key can soon not be used any more, or cannot be used now.
    Key,
    /// Backups appeared that this catalog's hosts have not taken.
    Stranger,
    /// Manifests are not believed: no trusted key signed them, or they are damaged.
    Untrusted,
    /// The series of evidence has a flaw.
    Evidence,
    /// The configuration was changed and is not acceptable; the old one stays in force.
    Configuration,
}

impl AlarmKind {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 15] = [
        ("failed", Self::Failed),
        ("missed", Self::Missed),
        ("stale", Self::Stale),
        ("never-drilled", Self::NeverDrilled),
        ("drill-overdue", Self::DrillOverdue),
        ("leftovers", Self::Leftovers),
        ("clock-skew", Self::ClockSkew),
        ("damaged", Self::Damaged),
        ("gone", Self::Gone),
        ("future", Self::Future),
        ("key", Self::Key),
        ("stranger", Self::Stranger),
        ("untrusted", Self::Untrusted),
        ("evidence", Self::Evidence),
        ("configuration", Self::Configuration),
    ];
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
    /// The kind of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Its kind.
    pub kind: AlarmKind,
    /// What it concerns: a datastore, a job, a host.
    pub subject: String,
    /// What is wrong, in a sentence.
    pub text: String,
    /// What to do next.
    pub next_step: String,
}

impl Alarm {
    /// What it is known by: one alarm of a kind for one subject.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.kind.name(), self.subject)
    }
}

/// Whether something has begun, goes on, or is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmPhase {
    /// It has just been noticed.
    Raised,
    /// It has been told of before and goes on.
    Ongoing,
    /// It is over.
    Recovered,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlarmMessage {
    /// The kind.
    pub kind: AlarmKind,
    /// Whether it has begun, goes on, or is over.
    pub phase: AlarmPhase,
    /// What it concerns.
    pub subject: String,
    /// What is wrong, or what was.
    pub what: String,
    /// Since when.
    pub since: Timestamp,
    /// What to do next.
    pub next_step: String,
    /// The vault's address, so that it is known whose backups these are.
    pub vault: String,
    /// The host that says it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Where more stands, for whoever may look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

impl AlarmMessage {
    /// One line, for subjects of mail and lists.
    #[must_use]
    pub fn headline(&self) -> String {
        let word = match self.phase {
            AlarmPhase::Raised => self.kind.name().to_uppercase(),
            AlarmPhase::Ongoing => format!("still {}", self.kind.name()),
            AlarmPhase::Recovered => format!("recovered ({})", self.kind.name()),
        };
        format!("lifeboat: {word}: {}", self.subject)
    }

    /// Everything, in lines.
    #[must_use]
    pub fn text(&self) -> String {
        let since = self.since.strftime("%Y-%m-%d %H:%M UTC");
        let was = if self.phase == AlarmPhase::Recovered { "it is over; it was: " } else { "" };
        let mut text = format!("{}\n{was}{}\nsince: {since}\n", self.headline(), self.what);
        if self.phase != AlarmPhase::Recovered {
            text.push_str(&format!("what next: {}\n", self.next_step));
        }
        text.push_str(&format!("vault: {}\n", self.vault));
        if !self.host.is_empty() {
            text.push_str(&format!("host: {}\n", self.host));
        }
        if let Some(link) = &self.link {
            text.push_str(&format!("more: {link}\n"));
        }
        text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(phase: AlarmPhase) -> AlarmMessage {
        AlarmMessage {
            kind: AlarmKind::NeverDrilled,
            phase,
            subject: "chat".to_owned(),
            what: "no drill of chat ever passed".to_owned(),
            since: "2026-11-24T03:05:59+01:00".parse().unwrap(),
            next_step: "lifeboat drill NAME".to_owned(),
            vault: "s3://backups/prod".to_owned(),
            host: String::new(),
            link: None,
        }
    }

    #[test]
    fn a_kind_has_one_name_in_configuration_in_messages_and_in_files() {
        let names = AlarmKind::ALL.map(|(name, kind)| {
            assert_eq!(kind.name(), name);
            assert_eq!(AlarmKind::named(name), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
            name
        });
        let expected = [
            "failed",
            "missed",
            "stale",
            "never-drilled",
            "drill-overdue",
            "leftovers",
            "clock-skew",
            "damaged",
            "gone",
            "future",
            "key",
            "stranger",
            "untrusted",
            "evidence",
            "configuration",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_text_that_names_no_kind_is_none() {
        for text in ["", "Failed", "FAILED", "failed ", "fail", "never_drilled"] {
            assert_eq!(AlarmKind::named(text), None, "{text:?}");
        }
    }

    #[test]
    fn one_alarm_of_a_kind_for_one_subject_is_the_same_alarm_whatever_it_says() {
        let alarm = |kind, subject: &str, text: &str| {
            Alarm {
                kind,
                subject: subject.to_owned(),
                text: text.to_owned(),
                next_step: text.to_owned(),
            }
            .key()
        };
        assert_eq!(alarm(AlarmKind::Stale, "chat", "25 h old"), "stale/chat");
        assert_eq!(
            alarm(AlarmKind::Stale, "chat", "25 h old"),
            alarm(AlarmKind::Stale, "chat", "26 h old")
        );
        assert_ne!(alarm(AlarmKind::Stale, "chat", ""), alarm(AlarmKind::Stale, "mail", ""));
        assert_ne!(alarm(AlarmKind::Stale, "chat", ""), alarm(AlarmKind::Failed, "chat", ""));
    }

    #[test]
    fn the_headline_tells_what_is_new_from_what_goes_on_and_what_is_over() {
        for (phase, expected) in [
            (AlarmPhase::Raised, "lifeboat: NEVER-DRILLED: chat"),
            (AlarmPhase::Ongoing, "lifeboat: still never-drilled: chat"),
            (AlarmPhase::Recovered, "lifeboat: recovered (never-drilled): chat"),
        ] {
            assert_eq!(message(phase).headline(), expected);
        }
    }

    #[test]
    fn a_message_says_what_to_do_next_unless_it_is_over() {
        for phase in [AlarmPhase::Raised, AlarmPhase::Ongoing] {
            let expected = "no drill of chat ever passed\nsince: 2026-11-24 02:05 UTC\nwhat next: lifeboat drill NAME\nvault: s3://backups/prod\n";
            let message = message(phase);
            assert_eq!(message.text(), format!("{}\n{expected}", message.headline()));
        }
        let over = "lifeboat: recovered (never-drilled): chat\nit is over; it was: no drill of chat ever passed\n\
            since: 2026-11-24 02:05 UTC\nvault: s3://backups/prod\n";
        assert_eq!(message(AlarmPhase::Recovered).text(), over);
    }

    #[test]
    fn programs_that_receive_a_message_find_its_fields_under_fixed_names() {
        for (phase, name) in [
            (AlarmPhase::Raised, "raised"),
            (AlarmPhase::Ongoing, "ongoing"),
            (AlarmPhase::Recovered, "recovered"),
        ] {
            let stored = serde_json::to_string(&message(phase)).unwrap();
            let expected = format!(
                r#"{{"kind":"never-drilled","phase":"{name}","subject":"chat","what":"no drill of chat ever passed","since":"2026-11-24T02:05:59Z","next_step":"lifeboat drill NAME","vault":"s3://backups/prod"}}"#
            );
            assert_eq!(stored, expected);
            assert_eq!(serde_json::from_str::<AlarmMessage>(&stored).unwrap(), message(phase));
        }
    }
}

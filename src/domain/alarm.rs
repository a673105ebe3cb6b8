//! What somebody must be told of, and in which words. No secrets, and no names from inside the data.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
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
    /// The configuration was changed and is not acceptable; the old one stays in force.
    Configuration,
}

impl Kind {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 8] = [
        ("failed", Self::Failed),
        ("missed", Self::Missed),
        ("stale", Self::Stale),
        ("never-drilled", Self::NeverDrilled),
        ("drill-overdue", Self::DrillOverdue),
        ("leftovers", Self::Leftovers),
        ("clock-skew", Self::ClockSkew),
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
    pub kind: Kind,
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
pub enum Phase {
    /// It has just been noticed.
    Raised,
    /// It has been told of before and goes on.
    Ongoing,
    /// It is over.
    Recovered,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The kind.
    pub kind: Kind,
    /// Whether it has begun, goes on, or is over.
    pub phase: Phase,
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
}

impl Message {
    /// One line, for subjects of mail and lists.
    #[must_use]
    pub fn headline(&self) -> String {
        let word = match self.phase {
            Phase::Raised => self.kind.name().to_uppercase(),
            Phase::Ongoing => format!("still {}", self.kind.name()),
            Phase::Recovered => format!("recovered ({})", self.kind.name()),
        };
        format!("lifeboat: {word}: {}", self.subject)
    }

    /// Everything, in lines.
    #[must_use]
    pub fn text(&self) -> String {
        let since = self.since.strftime("%Y-%m-%d %H:%M UTC");
        let was = if self.phase == Phase::Recovered { "it is over; it was: " } else { "" };
        let mut text = format!("{}\n{was}{}\nsince: {since}\n", self.headline(), self.what);
        if self.phase != Phase::Recovered {
            text.push_str(&format!("what next: {}\n", self.next_step));
        }
        text.push_str(&format!("vault: {}\n", self.vault));
        text
    }
}

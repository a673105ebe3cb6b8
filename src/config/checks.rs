//! Checks of drills and smoke commands of plans, as the team writes them.

use super::Config;
use super::plans::{CROSS_CHECK_WITHIN, RestorePlan, datastore, tables};
use super::section::ConfigSection;
use crate::domain::human_duration::HumanDuration;
use crate::domain::id::DatastoreName;

/// A program that tells with its exit code whether the datastore serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmokeCommand {
    /// Its name.
    pub name: String,
    /// Program and arguments; `{target}` in an argument, and `LIFEBOAT_TARGET`, stand for the
    /// connection string.
    pub command: Vec<String>,
    /// How long it may take.
    pub within: HumanDuration,
}

/// A check of restored data.
#[derive(Debug, Clone)]
pub struct CheckConfig {
    /// Its name.
    pub name: String,
    /// The datastore that is asked; none where the plan has only one.
    pub datastore: DatastoreName,
    /// What is asked.
    pub ask: CheckQuestion,
}

/// What a check asks.
#[derive(Debug, Clone)]
pub enum CheckQuestion {
    /// Everything against what was recorded at backup time.
    Fingerprint,
    /// A set of volumes against the dump of the same database that was taken nearest to it.
    CrossCheck {
        /// The datastore that dumps the database.
        with: DatastoreName,
        /// How far apart the two may be.
        within: HumanDuration,
        /// Tables and sequences that may differ, since they are written to all the time: schema
        /// and name.
        changing: Vec<(String, String)>,
    },
    /// A query of one value.
    Sql {
        /// The query.
        query: String,
        /// What it must answer.
        expect: ExpectedAnswer,
    },
    /// The time of the newest row.
    Freshness {
        /// A query of one timestamp.
        query: String,
        /// How old it may be at the time the backup was taken; none: the RPO.
        within: Option<HumanDuration>,
    },
    /// `pg_amcheck --heapallindexed`.
    Amcheck,
    /// What the database's own catalogs say.
    Catalog {
        /// Extensions that must be there.
        extensions: Vec<String>,
        /// Roles that must be there.
        roles: Vec<String>,
        /// Constraints that may be there without having been validated.
        unvalidated_max: usize,
    },
    /// The team's own program.
    Command(SmokeCommand),
}

/// What a query must answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ExpectedAnswer {
    /// Exactly this text.
    Is(String),
    /// A number not below the first and not above the second.
    Between(Option<f64>, Option<f64>),
}

pub(super) fn smoke(s: &mut ConfigSection<'_>) -> Option<SmokeCommand> {
    let name = s.required_text("name", "name = \"application answers\"").map(|t| t.value);
    let command = s.texts("command");
    let within = s.span("within").unwrap_or(HumanDuration::seconds(300));
    match command {
        Some(command) if !command.value.is_empty() => {
            Some(SmokeCommand { name: name?, command: command.value, within })
        }
        Some(command) => s.fault(
            command.span,
            "command",
            "the command is empty",
            "write command = [\"/usr/local/bin/smoke\", \"{target}\"]",
        ),
        None => s.fault_here(
            "command is missing",
            "write command = [\"/usr/local/bin/smoke\", \"{target}\"]",
        ),
    }
}

pub(super) fn check(
    config: &Config,
    s: &mut ConfigSection<'_>,
    plan: &RestorePlan,
    number: usize,
) -> Option<CheckConfig> {
    let datastore = match datastore(config, s, plan.stages.len() > 1) {
        Some(name) if !plan.stages.iter().any(|stage| stage.datastore == name) => s.fault_here(
            &format!("datastore {name} is not in the plan"),
            "name one that the plan restores",
        ),
        Some(name) => Some(name),
        None if s.has("datastore") => None,
        None => plan
            .stages
            .first()
            .filter(|_| plan.stages.len() == 1)
            .map(|stage| stage.datastore.clone()),
    };
    let kinds = [
        ("fingerprint", 0),
        ("sql", 1),
        ("freshness", 2),
        ("amcheck", 3),
        ("catalog", 4),
        ("command", 5),
        ("cross-check", 6),
    ];
    let kind = match s.choice("kind", &kinds) {
        Some(kind) => kind,
        None if s.has("kind") => return None,
        None => {
            return s.fault_here(
                "the check has no kind",
                "write kind = \"fingerprint\", \"sql\", \"freshness\", \"amcheck\", \"catalog\", \"command\" or \"cross-check\"",
            );
        }
    };
    let word = kinds[kind].0;
    let ask = match kind {
        0 if datastore
            .as_ref()
            .and_then(|name| config.datastores.get(name))
            .is_some_and(|settings| settings.volumes().is_some()) =>
        {
            s.fault_here(
                "volumes have no fingerprint of their own",
                "write kind = \"cross-check\", which asks for that of a dump",
            )
        }
        0 => Some(CheckQuestion::Fingerprint),
        6 => cross_check(config, s),
        1 => sql(s),
        2 => {
            let query = s.required_text("query", "query = \"SELECT max(sent) FROM messages\"");
            let within = s.span("within");
            query.map(|query| CheckQuestion::Freshness { query: query.value, within })
        }
        3 => Some(CheckQuestion::Amcheck),
        4 => Some(CheckQuestion::Catalog {
            extensions: s.texts("extensions").map(|t| t.value).unwrap_or_default(),
            roles: s.texts("roles").map(|t| t.value).unwrap_or_default(),
            unvalidated_max: s.number("unvalidated_max", 0, 1_000_000).unwrap_or(0),
        }),
        _ => smoke(s).map(CheckQuestion::Command),
    };
    let name = s.text("name").map_or_else(|| format!("{word} ({number})"), |t| t.value);
    Some(CheckConfig { name, datastore: datastore?, ask: ask? })
}

fn cross_check(config: &Config, s: &mut ConfigSection<'_>) -> Option<CheckQuestion> {
    let text =
        s.required_text("with", "with = \"chat\", the datastore that dumps the same database")?;
    let with = config
        .datastores
        .iter()
        .find(|(name, settings)| name.as_str() == text.value && settings.postgres().is_some());
    let (within, changing) =
        (s.span("within").unwrap_or(CROSS_CHECK_WITHIN), tables(s, "changing"));
    match with {
        Some((with, _)) => Some(CheckQuestion::CrossCheck { with: with.clone(), within, changing }),
        None => s.fault(
            text.span,
            "with",
            "no datastore of kind \"postgres\" has this name",
            "name the one that dumps the same database",
        ),
    }
}

fn sql(s: &mut ConfigSection<'_>) -> Option<CheckQuestion> {
    let query =
        s.required_text("query", "query = \"SELECT count(*) FROM messages\"").map(|t| t.value);
    let (is, low, high) =
        (s.text("is").map(|t| t.value), s.quantity("at_least"), s.quantity("at_most"));
    let expect = match (is, low, high) {
        (Some(text), None, None) => Some(ExpectedAnswer::Is(text)),
        (None, None, None) => s.fault_here(
            "the check compares its answer with nothing, so it could not fail",
            "write is = \"…\", at_least = 1 or at_most = 10",
        ),
        (None, low, high) => Some(ExpectedAnswer::Between(low, high)),
        (Some(_), _, _) => s.fault_here(
            "the answer is compared in two ways",
            "keep either is, or at_least and at_most",
        ),
    };
    Some(CheckQuestion::Sql { query: query?, expect: expect? })
}

//! Checks: one question each, asked of restored data. The answer is pass, fail, or *could not
//! look*, which is never a pass.
//!
//! The restored database is hostile: its answers are data, and every query has a timeout. The
//! fingerprint comparison is done by `work`, with the code that computes fingerprints.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::config::plans::{CheckConfig, CheckQuestion, ExpectedAnswer, SmokeCommand};
use crate::domain::drill::{CheckKind, CheckOutcome, CheckResult};
use crate::domain::human_duration::format_duration;
use crate::domain::id::DatastoreName;
use crate::pg::children::{ChildError, RunningChild, command, is_by_the_machine};
use crate::pg::sql::quote_text;
use crate::pg::{PgConnection, PgSession, PgTool, PgTools, SessionError};
use crate::program::{self, ProgramError};

/// How far the clocks of whoever wrote a row and of the server may be apart.
const FUTURE_SECONDS: f64 = 300.0;
/// Stands for the connection string in the arguments of a command.
const TARGET: &str = "{target}";
/// Bytes of a smoke program's output that are kept; the end of them is shown.
const SMOKE_BYTES_MAX: usize = 1024 * 1024;
/// How long a query may take.
const QUERY_PATIENCE: Duration = Duration::from_secs(600);
/// How long `pg_amcheck` may take.
const AMCHECK_PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// What is asked, and what the answers are held against.
pub struct CheckSubject<'a> {
    /// Client programs.
    pub tools: &'a PgTools,
    /// The restored database.
    pub connection: &'a PgConnection,
    /// When the backup's snapshot was taken.
    pub snapshot_time: Timestamp,
    /// How old the data may be.
    pub rpo: Duration,
}

/// An answer before it has its name and time.
struct CheckAnswer {
    answer: CheckOutcome,
    summary: String,
    detail: Vec<String>,
}

fn said(answer: CheckOutcome, summary: impl Into<String>) -> CheckAnswer {
    CheckAnswer { answer, summary: summary.into(), detail: Vec::new() }
}

impl From<SessionError> for CheckAnswer {
    fn from(error: SessionError) -> Self {
        // What the server says may quote data; a report holds none.
        Self {
            answer: CheckOutcome::CouldNotLook,
            summary: "the server did not answer the question".to_owned(),
            detail: vec![error.to_string()],
        }
    }
}

/// The kind of a question.
#[must_use]
pub fn kind(ask: &CheckQuestion) -> CheckKind {
    match ask {
        CheckQuestion::Fingerprint => CheckKind::Fingerprint,
        CheckQuestion::CrossCheck { .. } => CheckKind::CrossCheck,
        CheckQuestion::Sql { .. } => CheckKind::Sql,
        CheckQuestion::Freshness { .. } => CheckKind::Freshness,
        CheckQuestion::Amcheck => CheckKind::Amcheck,
        CheckQuestion::Catalog { .. } => CheckKind::Catalog,
        CheckQuestion::Command(_) => CheckKind::Command,
    }
}

/// Asks everything but the fingerprint.
pub async fn ask(check: &CheckConfig, subject: &CheckSubject<'_>) -> CheckResult {
    let begun = Instant::now();
    let said = match &check.ask {
        CheckQuestion::Fingerprint | CheckQuestion::CrossCheck { .. } => {
            said(CheckOutcome::CouldNotLook, "it is not asked here")
        }
        CheckQuestion::Sql { query, expect } => sql(subject, query, expect).await,
        CheckQuestion::Freshness { query, within } => {
            freshness(subject, query, within.map_or(subject.rpo, |w| w.duration())).await
        }
        CheckQuestion::Amcheck => amcheck(subject).await,
        CheckQuestion::Catalog { extensions, roles, unvalidated_max } => {
            catalog(subject, extensions, roles, *unvalidated_max).await
        }
        CheckQuestion::Command(smoke) => run_smoke(smoke, subject.connection).await,
    };
    named(&check.name, &check.datastore, kind(&check.ask), said, begun)
}

/// The single value of a query; `None` for NULL.
async fn value(subject: &CheckSubject<'_>, query: &str) -> Result<Option<String>, CheckAnswer> {
    let asking = async {
        let mut session = PgSession::open_for_people(subject.tools, subject.connection).await?;
        let rows = session.ask("a check", query.trim().trim_end_matches(';'), 1).await?;
        Ok::<_, SessionError>(rows)
    };
    match tokio::time::timeout(QUERY_PATIENCE, asking).await {
        Err(_) => Err(said(
            CheckOutcome::CouldNotLook,
            format!("no answer within {}", format_duration(QUERY_PATIENCE)),
        )),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(rows)) => match rows.as_slice() {
            [row] => Ok(row.first().cloned().flatten()),
            rows => Err(said(
                CheckOutcome::CouldNotLook,
                format!(
                    "the query answers with {} rows, and must answer with one value",
                    rows.len()
                ),
            )),
        },
    }
}

async fn sql(subject: &CheckSubject<'_>, query: &str, expect: &ExpectedAnswer) -> CheckAnswer {
    let found = match value(subject, query).await {
        Ok(found) => found,
        Err(said) => return said,
    };
    let shown = found.clone().unwrap_or_else(|| "NULL".to_owned());
    let (holds, wanted) = match expect {
        ExpectedAnswer::Is(text) => (found.as_ref() == Some(text), format!("{text:?}")),
        ExpectedAnswer::Between(low, high) => {
            let number: Option<f64> = found.and_then(|text| text.parse().ok());
            let holds = number.is_some_and(|n| {
                low.is_none_or(|low| n >= low) && high.is_none_or(|high| n <= high)
            });
            let bound = |bound: &Option<f64>, word: &str| bound.map(|b| format!("{word} {b}"));
            (
                holds,
                [bound(low, "at least"), bound(high, "at most")]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(", "),
            )
        }
    };
    let mut said = if holds {
        said(CheckOutcome::Pass, "the answer is as expected")
    } else {
        said(CheckOutcome::Fail, "the answer is not the one expected")
    };
    said.detail.push(format!("answer {shown:?}, expected {wanted}"));
    said
}

async fn freshness(subject: &CheckSubject<'_>, query: &str, within: Duration) -> CheckAnswer {
    let query =
        format!("SELECT extract(epoch FROM ({})::timestamptz)", query.trim().trim_end_matches(';'));
    let newest = match value(subject, &query).await {
        Ok(Some(text)) => text,
        Ok(None) => return said(CheckOutcome::Fail, "there is no newest row"),
        Err(said) => return said,
    };
    let Ok(newest) = newest.parse::<f64>() else {
        return said(CheckOutcome::CouldNotLook, "the query does not answer with a time");
    };
    let snapshot = subject.snapshot_time.as_millisecond() as f64 / 1000.0;
    // `infinity`, or a row from a clock that was wrong: it says nothing about how fresh the others
    // are.
    if !newest.is_finite() || newest > snapshot + FUTURE_SECONDS {
        return said(
            CheckOutcome::CouldNotLook,
            "the newest row is from the future, so it does not tell how fresh the data is",
        );
    }
    let age = Duration::try_from_secs_f64((snapshot - newest).max(0.0)).unwrap_or(Duration::MAX);
    let summary = format!(
        "the newest row was {} old when the backup was taken; {} are allowed",
        format_duration(age),
        format_duration(within)
    );
    said(if age <= within { CheckOutcome::Pass } else { CheckOutcome::Fail }, summary)
}

async fn catalog(
    subject: &CheckSubject<'_>,
    extensions: &[String],
    roles: &[String],
    unvalidated_max: usize,
) -> CheckAnswer {
    let missing = |names: &[String], table: &str, column: &str| {
        let values = names
            .iter()
            .map(|name| format!("({})", quote_text(name)))
            .collect::<Vec<_>>()
            .join(", ");
        format!(
            "SELECT string_agg(name, ', ') FROM (VALUES {values}) AS wanted (name) WHERE NOT EXISTS (SELECT FROM {table} WHERE {column} = wanted.name)"
        )
    };
    let mut wrong = Vec::new();
    let mut detail = Vec::new();
    for (names, table, column, what) in [
        (extensions, "pg_catalog.pg_extension", "extname", "extensions"),
        (roles, "pg_catalog.pg_roles", "rolname", "roles"),
    ] {
        if names.is_empty() {
            continue;
        }
        match value(subject, &missing(names, table, column)).await {
            Ok(None) => {}
            Ok(Some(absent)) => {
                wrong.push(format!("{what} are missing"));
                detail.push(format!("missing {what}: {absent}"));
            }
            Err(said) => return said,
        }
    }
    let counts = [
        (
            "SELECT count(*) FROM pg_catalog.pg_index WHERE NOT indisvalid OR NOT indisready OR NOT indislive",
            "invalid indexes",
            0,
        ),
        (
            "SELECT count(*) FROM pg_catalog.pg_constraint WHERE NOT convalidated",
            "constraints that were never validated",
            unvalidated_max,
        ),
    ];
    for (query, what, allowed) in counts {
        match value(subject, query)
            .await
            .map(|found| found.and_then(|text| text.parse::<usize>().ok()))
        {
            Ok(Some(count)) if count <= allowed => {}
            Ok(Some(count)) => wrong.push(format!("{count} {what}, and {allowed} are allowed")),
            Ok(None) => {
                return said(CheckOutcome::CouldNotLook, format!("{what} could not be counted"));
            }
            Err(said) => return said,
        }
    }
    let mut said = match wrong.is_empty() {
        true => {
            said(CheckOutcome::Pass, "extensions, roles, indexes and constraints are as expected")
        }
        false => said(CheckOutcome::Fail, wrong.join("; ")),
    };
    said.detail = detail;
    said
}

async fn amcheck(subject: &CheckSubject<'_>) -> CheckAnswer {
    let installed = "SELECT count(*) FROM pg_catalog.pg_extension WHERE extname = 'amcheck'";
    let was_there = match value(subject, installed).await {
        Ok(count) => count.as_deref() != Some("0"),
        Err(said) => return said,
    };
    let mut session = match PgSession::open(subject.tools, subject.connection).await {
        Ok(session) => session,
        Err(error) => return error.into(),
    };
    if !was_there
        && let Err(error) =
            session.run("the extension amcheck", "CREATE EXTENSION amcheck SCHEMA pg_catalog").await
    {
        // Not there at all, or there and refused for a reason of the database's own.
        let is_missing = matches!(error.sqlstate(), Some("0A000" | "58P01"));
        let why = if is_missing { "; it comes with PostgreSQL's contrib package" } else { "" };
        let mut said = said(
            CheckOutcome::CouldNotLook,
            format!("the extension amcheck cannot be had here{why}"),
        );
        said.detail.push(error.to_string());
        return said;
    }
    // A session with the same string was opened right above, and has its settings.
    let mut pg_amcheck = command(subject.tools, PgTool::PgAmcheck, subject.connection);
    pg_amcheck.args([
        "--heapallindexed",
        "--no-password",
        &subject.connection.pinned(subject.connection.pins(), &[]),
    ]);
    pg_amcheck.stdin(Stdio::null()).stdout(Stdio::null());
    let run = async { RunningChild::start(pg_amcheck, PgTool::PgAmcheck)?.finish().await };
    let mut said = match tokio::time::timeout(AMCHECK_PATIENCE, run).await {
        Err(_) => said(
            CheckOutcome::CouldNotLook,
            format!("pg_amcheck did not end within {}", format_duration(AMCHECK_PATIENCE)),
        ),
        Ok(Ok(_)) => {
            said(CheckOutcome::Pass, "heaps and indexes are sound, and every row is indexed")
        }
        Ok(Err(error)) => {
            // 2 says that corruption was found, anything else that it could not be looked for.
            let found = matches!(&error, ChildError::Failed { code: Some(2), .. });
            let error = error.to_string();
            let mut said = match found {
                true => said(CheckOutcome::Fail, "pg_amcheck found corruption"),
                false => said(CheckOutcome::CouldNotLook, "pg_amcheck could not look"),
            };
            said.detail.push(error);
            said
        }
    };
    // What was added must not be taken for part of the restored data later.
    if !was_there
        && let Err(error) = session.run("the extension amcheck", "DROP EXTENSION amcheck").await
    {
        said.detail.push(format!("the extension could not be removed again: {error}"));
    }
    said
}

/// Runs a program of the team's where clients of the database run; its exit code is the answer.
pub async fn smoke(
    smoke: &SmokeCommand,
    datastore: &DatastoreName,
    connection: &PgConnection,
) -> CheckResult {
    let begun = Instant::now();
    let said = run_smoke(smoke, connection).await;
    named(&smoke.name, datastore, CheckKind::Command, said, begun)
}

fn named(
    name: &str,
    datastore: &DatastoreName,
    kind: CheckKind,
    said: CheckAnswer,
    begun: Instant,
) -> CheckResult {
    CheckResult {
        name: name.to_owned(),
        datastore: datastore.clone(),
        kind,
        answer: said.answer,
        summary: said.summary,
        seconds: begun.elapsed().as_secs_f64(),
        detail: said.detail,
    }
}

async fn run_smoke(smoke: &SmokeCommand, connection: &PgConnection) -> CheckAnswer {
    let Some((word, arguments)) = smoke.command.split_first() else {
        return said(CheckOutcome::CouldNotLook, "there is no command");
    };
    let mut command = connection.command(Path::new(word));
    // A connection string holds no secret, so it may stand among the arguments.
    command.args(arguments.iter().map(|argument| argument.replace(TARGET, connection.conninfo())));
    let patience = smoke.within.duration();
    let output = match program::run(
        command,
        b"",
        program::ProgramLimits { within: patience, output_bytes: SMOKE_BYTES_MAX },
    )
    .await
    {
        Err(ProgramError::TookTooLong(_)) => {
            return said(
                CheckOutcome::Fail,
                format!("it did not end within {}", format_duration(patience)),
            );
        }
        Err(error @ ProgramError::NotStarted(_)) => {
            return said(CheckOutcome::CouldNotLook, error.to_string());
        }
        Ok(output) => output,
    };
    let last = |bytes: &[u8]| {
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(2000)..]).trim().to_owned()
    };
    let mut said = match output.status.code() {
        Some(0) => said(CheckOutcome::Pass, "it exited with 0"),
        // What env, setpriv and shells say when a program is not there or cannot be run.
        Some(code @ (126 | 127)) => said(
            CheckOutcome::CouldNotLook,
            format!("it could not be run there (exit code {code})"),
        ),
        Some(code) => said(CheckOutcome::Fail, format!("it exited with {code}")),
        // Nobody but the machine ends it so: memory that is used up, limits.
        None => match output.status.signal() {
            Some(signal) if is_by_the_machine(signal) => {
                said(CheckOutcome::CouldNotLook, format!("it was killed by signal {signal}"))
            }
            _ => said(CheckOutcome::Fail, "it was killed"),
        },
    };
    said.detail = [last(&output.stdout), last(&output.stderr)]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect();
    said
}

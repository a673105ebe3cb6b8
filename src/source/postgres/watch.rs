//! Watching the locks that a dump holds and waits for. While it runs, every table is locked ACCESS
//! SHARE and one snapshot stays open: an `ALTER TABLE` waits, everything behind it waits too, and
//! vacuum cannot remove newer dead rows.
//!
//! `pg_dump` bounds its wait for tables and for nothing else: formatting a view whose materialized
//! view is being refreshed waits for ever. So waits of all our sessions are bounded from outside.

use std::time::Duration;

use super::SourceError;
use crate::domain::human_duration::{HumanDuration, format_duration};
use crate::pg::session::estimate;
use crate::pg::sql::quote_text;
use crate::pg::{PgConnection, PgSession, PgTools, SessionError};

/// How long one look may take: whoever watches waits for nobody.
const LOOK: Duration = Duration::from_secs(10);
/// How often it is looked.
const PAUSE: Duration = Duration::from_secs(1);
/// From which age on a snapshot is told of, and how often.
pub const TOLD_FROM: Duration = Duration::from_secs(12 * 3_600);
const TOLD_EVERY: Duration = Duration::from_secs(3_600);
/// How long somebody may wait for us without being told of, and how often.
const WAITERS_TOLD_FROM: u64 = 10;
const WAITERS_TOLD_EVERY: Duration = Duration::from_secs(60);

/// Our own sessions of this database.
const OURS: &str = "(SELECT pid FROM pg_catalog.pg_stat_activity WHERE application_name = 'lifeboat' AND usename = session_user AND datname = pg_catalog.current_database())";

/// What is allowed.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// How long a session of ours may wait for a lock.
    pub lock_wait: HumanDuration,
    /// How long the snapshot may last; none: it is told of when it becomes old.
    pub snapshot: Option<HumanDuration>,
}

/// Watches until a limit is passed. It ends in no other way: whoever is watched ends it.
///
/// # Errors
/// [`SourceError::Locked`] or [`SourceError::TooLong`].
pub async fn watch(
    tools: &PgTools,
    connection: &PgConnection,
    limits: ServerLimits,
) -> SourceError {
    let begun = tokio::time::Instant::now();
    let (mut told, mut told_of_waiters) = (TOLD_FROM, None::<tokio::time::Instant>);
    let mut session: Option<PgSession> = None;
    loop {
        tokio::time::sleep(PAUSE).await;
        if let Some(limit) = limits.snapshot.filter(|limit| begun.elapsed() > limit.duration()) {
            return SourceError::TooLong { limit: limit.to_string() };
        }
        if begun.elapsed() > told {
            tracing::warn!(
                "the dump has held its snapshot for {}: vacuum may remove nothing younger",
                format_duration(begun.elapsed())
            );
            told = begun.elapsed() + TOLD_EVERY;
        }
        // A server that does not answer is found out by whoever reads from it.
        let mut open = match session.take() {
            Some(open) => open,
            None => match tokio::time::timeout(LOOK, PgSession::open(tools, connection)).await {
                Ok(Ok(open)) => open,
                _ => continue,
            },
        };
        match tokio::time::timeout(LOOK, held_up(&mut open, limits.lock_wait)).await {
            Ok(Ok(Some(message))) => {
                return SourceError::Locked { waited: limits.lock_wait.to_string(), message };
            }
            Ok(Ok(None)) => {}
            _ => continue,
        }
        if told_of_waiters.is_none_or(|at| at.elapsed() > WAITERS_TOLD_EVERY)
            && let Ok(Ok(Some(waiting))) = tokio::time::timeout(LOOK, waiters(&mut open)).await
        {
            tracing::warn!("{waiting}");
            told_of_waiters = Some(tokio::time::Instant::now());
        }
        session = Some(open);
    }
}

/// What a session of ours has waited for too long, and who holds it.
async fn held_up(
    session: &mut PgSession,
    longest: HumanDuration,
) -> Result<Option<String>, SessionError> {
    let millis = longest.duration().as_millis().max(1);
    let question = format!(
        "SELECT COALESCE(l.relation::pg_catalog.regclass::pg_catalog.text, l.locktype), pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(l.pid), ',') \
         FROM pg_catalog.pg_locks l WHERE NOT l.granted AND l.pid IN {OURS} AND l.waitstart < pg_catalog.clock_timestamp() - '{millis} ms'::pg_catalog.interval"
    );
    let rows = session.ask("what is waited for", &question, 2).await?;
    match rows.first().map(Vec::as_slice) {
        Some([Some(what), holders]) => {
            let holders = holders.clone().unwrap_or_default();
            Ok(Some(format!("{what} is held by {}", holder(session, &holders).await?)))
        }
        _ => Ok(None),
    }
}

/// Who waits for a lock of ours.
async fn waiters(session: &mut PgSession) -> Result<Option<String>, SessionError> {
    let question = format!(
        "SELECT count(*), COALESCE(min(l.relation::pg_catalog.regclass::pg_catalog.text), ''), \
         COALESCE(pg_catalog.max(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - l.waitstart))::pg_catalog.int8, 0) FROM pg_catalog.pg_locks l \
         WHERE NOT l.granted AND l.pid NOT IN {OURS} AND pg_catalog.pg_blocking_pids(l.pid) OPERATOR(pg_catalog.&&) ARRAY{OURS} \
         AND l.waitstart < pg_catalog.clock_timestamp() - '{WAITERS_TOLD_FROM} s'::pg_catalog.interval"
    );
    let rows = session.ask("who waits", &question, 3).await?;
    match rows.first().map(Vec::as_slice) {
        Some([count, Some(what), seconds]) if estimate(count) > 0 => Ok(Some(format!(
            "{} sessions have waited for up to {} for locks that this dump holds, such as that of {what}; everything behind them waits too",
            estimate(count),
            format_duration(Duration::from_secs(estimate(seconds)))
        ))),
        _ => Ok(None),
    }
}

/// Sessions, by what may be seen of them, or prepared transactions, which have none.
async fn holder(session: &mut PgSession, pids: &str) -> Result<String, SessionError> {
    if pids.is_empty() || pids.split(',').any(|pid| pid == "0") {
        let gids = session
            .ask_one(
                "prepared transactions",
                "SELECT COALESCE(pg_catalog.string_agg(gid, ', '), '') FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database()",
            )
            .await?;
        if !gids.is_empty() {
            return Ok(format!(
                "a prepared transaction that nobody has ended ({gids}): COMMIT PREPARED or ROLLBACK PREPARED"
            ));
        }
    }
    let question = format!(
        "SELECT pid || ' (' || COALESCE(usename, '') || ', ' || COALESCE(application_name, '') || ', ' || COALESCE(state, 'state not visible') || ')' \
         FROM pg_catalog.pg_stat_activity WHERE pid = ANY (pg_catalog.string_to_array({}, ',')::pg_catalog.int4[])",
        quote_text(pids)
    );
    let sessions: Vec<String> =
        session.ask("who holds it", &question, 1).await?.into_iter().flatten().flatten().collect();
    Ok(if sessions.is_empty() {
        "nobody any more".to_owned()
    } else {
        format!("session {}", sessions.join(", "))
    })
}

/// After a lock was waited for in vain: which of these tables somebody holds, and who. By their
/// OIDs.
///
/// # Errors
/// [`SessionError`]
pub async fn culprit(
    session: &mut PgSession,
    tables: impl Iterator<Item = u32>,
) -> Result<Option<String>, SessionError> {
    let oids = tables.map(|oid| oid.to_string()).collect::<Vec<_>>().join(",");
    let question = format!(
        "SELECT relation::pg_catalog.regclass, COALESCE(pid, 0), granted FROM pg_catalog.pg_locks WHERE mode = 'AccessExclusiveLock' \
         AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) AND relation = ANY ('{{{oids}}}'::pg_catalog.oid[]) ORDER BY granted DESC LIMIT 1"
    );
    match session.ask("who holds a table", &question, 3).await?.first().map(Vec::as_slice) {
        Some([Some(table), Some(pid), Some(granted)]) => {
            let how =
                if granted == "t" { "is held by" } else { "is waited for, to be changed, by" };
            Ok(Some(format!("{table} {how} {}", holder(session, pid).await?)))
        }
        _ => Ok(None),
    }
}

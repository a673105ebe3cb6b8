//! Asking the restored datastores: the fingerprint here, everything else in [`crate::check`].

use std::time::Instant;

use async_trait::async_trait;

use super::{DrillState, RestoredDatastore, blame, volumes};
use crate::check::{self, CheckSubject};
use crate::config::plans::{CheckConfig, CheckQuestion};
use crate::domain::drill::{CheckKind, CheckOutcome, CheckResult, DrillHalt};
use crate::pg::PgSession;
use crate::progress::DrillEvent;
use crate::saga::SagaStep;
use crate::work::compare::{FingerprintComparison, compare, fingerprint_of};
use crate::work::{WorkContext, WorkError};

/// How long ending what was left behind may take.
const QUIET_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// Asks every check of the drill, then the plan's smoke commands.
pub(super) struct ExamineStep;
no_undo!(ExamineStep, "examine");

#[async_trait]
impl<'w> SagaStep<DrillState<'w>> for ExamineStep {
    type Output = usize;
    type Error = DrillHalt;
    async fn act(&self, world: &mut DrillState<'w>) -> Result<usize, DrillHalt> {
        let smoke = world.drill.plan.stages.iter().flat_map(|stage| {
            stage.smoke.iter().map(|smoke| CheckConfig {
                name: smoke.name.clone(),
                datastore: stage.datastore.clone(),
                ask: CheckQuestion::Command(smoke.clone()),
            })
        });
        let checks: Vec<CheckConfig> = world.drill.checks.iter().cloned().chain(smoke).collect();
        for check in &checks {
            if world.own.cancel.is_cancelled() {
                return Err(DrillHalt::Interrupted);
            }
            let mut result = ask(world, check).await;
            if matches!(check.ask, CheckQuestion::Command(_)) {
                quiet(world, check).await;
            }
            // An answer from a place that has ended is none, whatever it looks like.
            if result.answer != CheckOutcome::Pass
                && let Some(fault) = blame::settled(world).await
            {
                (result.answer, result.summary) =
                    (CheckOutcome::CouldNotLook, format!("the sandbox is at fault: {fault}"));
            }
            world.team.tell(&DrillEvent::Checked {
                result: result.clone(),
                detail: result.detail.clone(),
            });
            world.found.checks.push(result);
        }
        for result in omitted(world) {
            world.team.tell(&DrillEvent::Checked {
                result: result.clone(),
                detail: result.detail.clone(),
            });
            world.found.checks.push(result);
        }
        if let Some(fault) = blame::fault_of(world) {
            return Err(DrillHalt::sandbox(format!("{fault} while it was asked")));
        }
        world.found.moments.verified = Some(world.clock.seconds());
        Ok(checks.len())
    }
}

/// Ends what a program of the team's has left behind, and its sessions: what they hold locked, the
/// next check or control would wait for.
async fn quiet(world: &mut DrillState<'_>, check: &CheckConfig) {
    if let Some(place) = &world.place {
        place.end_clients();
    }
    let Some(restored) =
        world.restored.iter().find(|restored| restored.manifest.datastore == check.datastore)
    else {
        return;
    };
    let sessions = "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
                    WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()";
    let ended = async {
        let mut session = PgSession::open(&restored.tools, &restored.connection).await?;
        session.ask_one("sessions that were left behind", sessions).await
    };
    // What it cannot end, the next one to ask will meet.
    let _ = tokio::time::timeout(QUIET_WITHIN, ended).await;
}

async fn ask(world: &DrillState<'_>, check: &CheckConfig) -> CheckResult {
    let restored =
        world.restored.iter().find(|restored| restored.manifest.datastore == check.datastore);
    let Some(restored) = restored else {
        return CheckResult {
            name: check.name.clone(),
            datastore: check.datastore.clone(),
            kind: check::kind(&check.ask),
            answer: CheckOutcome::CouldNotLook,
            summary: format!("{} was not restored", check.datastore),
            seconds: 0.0,
            detail: Vec::new(),
        };
    };
    if matches!(check.ask, CheckQuestion::Fingerprint) {
        return fingerprint(&world.rig, &check.name, restored).await;
    }
    if matches!(check.ask, CheckQuestion::CrossCheck { .. }) {
        return volumes::cross_check(world, check, restored).await;
    }
    let subject = CheckSubject {
        tools: &restored.tools,
        connection: &restored.connection,
        snapshot_time: restored.manifest.source.snapshot_time,
        rpo: world.drill.rpo.duration(),
    };
    check::ask(check, &subject).await
}

/// What the database held and its backup does not: a restore of less than there was is none that
/// passes, unless the drill file says so by name.
fn omitted(world: &DrillState<'_>) -> Vec<CheckResult> {
    let of = |restored: &RestoredDatastore| {
        let all = &restored.recorded.omitted;
        let missed: Vec<String> = all
            .iter()
            .filter(|one| !world.drill.accept_omitted.contains(&one.what()))
            .map(|one| format!("{}: {}", one.what(), one.why()))
            .collect();
        let (answer, summary) = match (all.len(), missed.len()) {
            (0, _) => return None,
            (accepted, 0) => (
                CheckOutcome::Pass,
                format!(
                    "{accepted} things that the database held are not in the backup, as the drill file accepts"
                ),
            ),
            (_, count) => (
                CheckOutcome::Fail,
                format!(
                    "{count} things that the database held are not in the backup; accept_omitted in the drill file accepts them by name"
                ),
            ),
        };
        Some(CheckResult {
            name: format!("what {} held is in the backup", restored.manifest.datastore),
            datastore: restored.manifest.datastore.clone(),
            kind: CheckKind::Catalog,
            answer,
            summary,
            seconds: 0.0,
            detail: missed,
        })
    };
    world.restored.iter().filter_map(of).collect()
}

async fn fingerprint(rig: &WorkContext, name: &str, restored: &RestoredDatastore) -> CheckResult {
    let begun = Instant::now();
    let compared = match fingerprint_of(
        rig,
        &restored.tools,
        &restored.connection,
        &restored.recorded,
    )
    .await
    {
        Ok(mut found) => {
            let mut recorded = restored.recorded.clone();
            let not_compared = restored.left_out.take_from(&mut recorded, &mut found);
            let mut comparison = compare(&recorded, &found, &restored.without_rows_of);
            comparison.not_looked_at.extend(not_compared);
            Ok(comparison)
        }
        Err(error) => Err(error),
    };
    let (answer, summary, detail) = answer(compared);
    CheckResult {
        name: name.to_owned(),
        datastore: restored.manifest.datastore.clone(),
        kind: CheckKind::Fingerprint,
        answer,
        summary,
        seconds: begun.elapsed().as_secs_f64(),
        detail,
    }
}

fn answer(
    compared: Result<FingerprintComparison, WorkError>,
) -> (CheckOutcome, String, Vec<String>) {
    match compared {
        Err(error) => (
            CheckOutcome::CouldNotLook,
            "the restored database could not be read back".to_owned(),
            vec![error.to_string()],
        ),
        // Names of tables are for people who look, not for the report.
        Ok(found) if !found.agrees() => (
            CheckOutcome::Fail,
            format!(
                "{} differences from what was recorded at backup time",
                found.differences.len()
            ),
            found.differences,
        ),
        Ok(found) if !found.objects_compared => (
            CheckOutcome::CouldNotLook,
            "rows are as recorded, and numbers of objects could not be compared".to_owned(),
            found.not_looked_at,
        ),
        Ok(found) => {
            let mut summary = format!(
                "{} tables with {} rows are as recorded at backup time",
                found.tables, found.rows
            );
            if !found.not_looked_at.is_empty() {
                summary.push_str(&format!(
                    "; {} things could not be compared",
                    found.not_looked_at.len()
                ));
            }
            (CheckOutcome::Pass, summary, found.not_looked_at)
        }
    }
}

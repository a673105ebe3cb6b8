//! Asking the restored datastores: the fingerprint here, everything else in [`crate::check`].

use std::time::Instant;

use async_trait::async_trait;

use super::{Restored, World, blame, volumes};
use crate::check::{self, Subject};
use crate::config::plans::{Ask, CheckConfig};
use crate::domain::drill::{Answer, CheckKind, CheckResult, Halt};
use crate::pg::Session;
use crate::report::Happening;
use crate::saga::Step;
use crate::work::compare::{Comparison, compare, fingerprint_of};
use crate::work::{Rig, WorkError};

/// How long ending what was left behind may take.
const QUIET_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// Asks every check of the drill, then the plan's smoke commands.
pub(super) struct Examine;
vanishes_with_the_sandbox!(Examine, "examine");

#[async_trait]
impl<'w> Step<World<'w>> for Examine {
    type Output = usize;
    type Error = Halt;
    async fn act(&self, world: &mut World<'w>) -> Result<usize, Halt> {
        let smoke = world.drill.plan.stages.iter().flat_map(|stage| {
            stage.smoke.iter().map(|smoke| CheckConfig {
                name: smoke.name.clone(),
                datastore: stage.datastore.clone(),
                ask: Ask::Command(smoke.clone()),
            })
        });
        let checks: Vec<CheckConfig> = world.drill.checks.iter().cloned().chain(smoke).collect();
        for check in &checks {
            if world.own.cancel.is_cancelled() {
                return Err(Halt::Interrupted);
            }
            let mut result = ask(world, check).await;
            if matches!(check.ask, Ask::Command(_)) {
                quiet(world, check).await;
            }
            // An answer from a place that has ended is none, whatever it looks like.
            if result.answer != Answer::Pass
                && let Some(fault) = blame::settled(world).await
            {
                (result.answer, result.summary) = (Answer::CouldNotLook, format!("the sandbox is at fault: {fault}"));
            }
            world.team.tell(&Happening::Checked { result: result.clone(), detail: result.detail.clone() });
            world.found.checks.push(result);
        }
        for result in omitted(world) {
            world.team.tell(&Happening::Checked { result: result.clone(), detail: result.detail.clone() });
            world.found.checks.push(result);
        }
        if let Some(fault) = blame::fault_of(world) {
            return Err(Halt::sandbox(format!("{fault} while it was asked")));
        }
        world.found.moments.verified = Some(world.clock.seconds());
        Ok(checks.len())
    }
}

/// Ends what a program of the team's has left behind, and its sessions: what they hold locked, the next check or control would wait for.
async fn quiet(world: &mut World<'_>, check: &CheckConfig) {
    if let Some(place) = &world.place {
        place.end_clients();
    }
    let Some(restored) = world.restored.iter().find(|restored| restored.manifest.datastore == check.datastore) else { return };
    let sessions = "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
                    WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()";
    let ended = async {
        let mut session = Session::open(&restored.tools, &restored.connection).await?;
        session.ask_one("sessions that were left behind", sessions).await
    };
    // What it cannot end, the next one to ask will meet.
    let _ = tokio::time::timeout(QUIET_WITHIN, ended).await;
}

async fn ask(world: &World<'_>, check: &CheckConfig) -> CheckResult {
    let restored = world.restored.iter().find(|restored| restored.manifest.datastore == check.datastore);
    let Some(restored) = restored else {
        return CheckResult {
            name: check.name.clone(),
            datastore: check.datastore.clone(),
            kind: check::kind(&check.ask),
            answer: Answer::CouldNotLook,
            summary: format!("{} was not restored", check.datastore),
            seconds: 0.0,
            detail: Vec::new(),
        };
    };
    if matches!(check.ask, Ask::Fingerprint) {
        return fingerprint(&world.rig, &check.name, restored).await;
    }
    if matches!(check.ask, Ask::CrossCheck { .. }) {
        return volumes::cross_check(world, check, restored).await;
    }
    let subject = Subject {
        tools: &restored.tools,
        connection: &restored.connection,
        snapshot_time: restored.manifest.source.snapshot_time,
        rpo: world.drill.rpo.duration(),
    };
    check::ask(check, &subject).await
}

/// What the database held and its backup does not: a restore of less than there was is none that passes, unless the drill file says so by name.
fn omitted(world: &World<'_>) -> Vec<CheckResult> {
    let of = |restored: &Restored| {
        let all = &restored.recorded.omitted;
        let missed: Vec<String> = all
            .iter()
            .filter(|one| !world.drill.accept_omitted.contains(&one.what()))
            .map(|one| format!("{}: {}", one.what(), one.why()))
            .collect();
        let (answer, summary) = match (all.len(), missed.len()) {
            (0, _) => return None,
            (accepted, 0) => {
                (Answer::Pass, format!("{accepted} things that the database held are not in the backup, as the drill file accepts"))
            }
            (_, count) => (
                Answer::Fail,
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

async fn fingerprint(rig: &Rig, name: &str, restored: &Restored) -> CheckResult {
    let begun = Instant::now();
    let compared = match fingerprint_of(rig, &restored.tools, &restored.connection, &restored.recorded).await {
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

fn answer(compared: Result<Comparison, WorkError>) -> (Answer, String, Vec<String>) {
    match compared {
        Err(error) => (Answer::CouldNotLook, "the restored database could not be read back".to_owned(), vec![error.to_string()]),
        // Names of tables are for people who look, not for the report.
        Ok(found) if !found.agrees() => {
            (Answer::Fail, format!("{} differences from what was recorded at backup time", found.differences.len()), found.differences)
        }
        Ok(found) if !found.objects_compared => {
            (Answer::CouldNotLook, "rows are as recorded, and numbers of objects could not be compared".to_owned(), found.not_looked_at)
        }
        Ok(found) => {
            let mut summary = format!("{} tables with {} rows are as recorded at backup time", found.tables, found.rows);
            if !found.not_looked_at.is_empty() {
                summary.push_str(&format!("; {} things could not be compared", found.not_looked_at.len()));
            }
            (Answer::Pass, summary, found.not_looked_at)
        }
    }
}

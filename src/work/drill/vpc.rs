//! A drill in a scratch VPC, as the host that runs it sees it: it creates the VPC, verifies its
//! isolation, has the agent on the instance do what a local drill does, trusts only what that agent
//! has signed, and deletes everything again.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{
    DrillState, TEAR_DOWN, at_fault, began, ended, follow, in_the_way, load, of_volumes, order,
    timed,
};
use crate::config::plans::{DrillPlace, DrillPlan};
use crate::domain::drill::{DrillHalt, Scenario};
use crate::domain::layout;
use crate::domain::scratch::{
    AgentOrder, LEASE_FORMAT, ScratchLease, ScratchReport, ScratchSettings, UsDollars,
};
use crate::domain::{VaultDocument, VaultId};
use crate::failpoint;
use crate::progress::DrillEvent;
use crate::saga::{Journal, JournalEvent, Saga, SagaHalted, SagaStep};
use crate::sandbox::vpc::cloud::ScratchCloud;
use crate::sandbox::vpc::gate::GatePassed;
use crate::sandbox::vpc::policies::VaultAccess;
use crate::sandbox::vpc::preflight::{AnswerWeight, PreflightReport};
use crate::sandbox::vpc::simulated_cloud::RunPhase;
use crate::sandbox::vpc::steps;
use crate::sandbox::vpc::{
    GrantSpec, ScratchError, ScratchSpec, ScratchVpc, boot, simulated_cloud,
};
use crate::this_program;
use crate::work::shelf::sha256;
use crate::work::{WorkContext, WorkError, evidence, scratch, shelf};

/// GiB that are reckoned for a root volume whose size nobody says.
const ROOT_GIB_ASSUMED: u64 = 30;
/// The time to live for which `lifeboat check` reckons the cost: what drills have that say nothing
/// else.
const CHECKED_TIME_TO_LIVE: crate::domain::human_duration::HumanDuration =
    crate::domain::human_duration::HumanDuration::seconds(4 * 3600);

/// Refuses what cannot be rehearsed in a scratch VPC.
///
/// # Errors
/// [`WorkError::Refused`]
pub fn refuse_what_cannot_be(rig: &WorkContext, drill: &DrillPlan) -> Result<(), WorkError> {
    if drill.place == DrillPlace::Local {
        return Ok(());
    }
    let (settings, bucket) = (scratch::settings(rig)?, order::bucket(&rig.config)?);
    let refuse = |why: &str, hint: &str| {
        Err(WorkError::Refused {
            what: format!("drill {} with sandbox = \"vpc\"", drill.name),
            why: why.to_owned(),
            hint: hint.to_owned(),
        })
    };
    if bucket.region.as_ref().is_some_and(|region| *region != settings.region) {
        return refuse(
            "the vault is in another region, and a VPC's door to S3 leads to its own only",
            "set the region of [scratch_vpc] to the vault's",
        );
    }
    if of_volumes(drill) {
        return refuse(
            "volumes are not attached in a scratch VPC yet",
            "drill them with sandbox = \"local\", which reads their blocks",
        );
    }
    if drill.recovery_identity.is_some() {
        return refuse(
            "an offline key never leaves for an instance",
            "rehearse recovery_identity with sandbox = \"local\"",
        );
    }
    if let Some(scenario) = drill
        .breaks
        .iter()
        .find(|one| !matches!(one, Scenario::CatalogLost | Scenario::HomeKeyLost))
    {
        return refuse(
            &format!(
                "{} is not rehearsed there: the instance has KMS and the one backup, and nothing else",
                scenario.name()
            ),
            "rehearse it with sandbox = \"local\"",
        );
    }
    if order::key_arns(&rig.config).is_empty() {
        return refuse(
            "no KMS key is configured by its ARN, and an instance can be granted nothing else",
            "name the key by its ARN",
        );
    }
    Ok(())
}

/// What went wrong with papers in the vault says nothing about the backup.
fn not_the_backup(error: WorkError) -> DrillHalt {
    let why = error.to_string();
    match at_fault(error) {
        DrillHalt::Backup(_) => DrillHalt::sandbox(why),
        other => other,
    }
}

/// Why the way forward ended.
#[derive(Clone)]
enum AttemptError {
    /// No instance in this zone; another may have one.
    NoCapacity(String),
    /// For good.
    Halt(DrillHalt),
}

impl From<AttemptError> for DrillHalt {
    fn from(trip: AttemptError) -> Self {
        match trip {
            AttemptError::NoCapacity(why) => Self::sandbox(why),
            AttemptError::Halt(halt) => halt,
        }
    }
}

impl From<DrillHalt> for AttemptError {
    fn from(halt: DrillHalt) -> Self {
        Self::Halt(halt)
    }
}

fn at_the_place(error: ScratchError) -> DrillHalt {
    match error {
        ScratchError::Interrupted => DrillHalt::Interrupted,
        other => DrillHalt::sandbox(other.to_string()),
    }
}

/// Does a step of the place, tells of it and notes its time.
async fn step<S>(
    saga: &mut Saga<'_>,
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
    step: &S,
) -> Result<S::Output, AttemptError>
where
    S: SagaStep<ScratchVpc, Error = ScratchError>,
{
    let from = began(world, step.name());
    let done = saga.step(scratch, step).await.map_err(|halted| match halted {
        SagaHalted::Step(ScratchError::NoCapacity { zone, why }) => {
            AttemptError::NoCapacity(format!("{zone}: {why}"))
        }
        SagaHalted::Step(error) => AttemptError::Halt(at_the_place(error)),
        other => AttemptError::Halt(DrillHalt::sandbox(other.to_string())),
    });
    let halt = done.as_ref().err().cloned().map(DrillHalt::from);
    ended(world, step.name(), from, halt.as_ref());
    done
}

/// A run of a drill, of which nothing is chosen yet.
async fn spec(
    rig: &WorkContext,
    drill: &DrillPlan,
    run: &str,
    declared: Timestamp,
    attempt: u64,
) -> Result<ScratchSpec, WorkError> {
    let expires =
        declared + SignedDuration::try_from(drill.time_to_live.duration()).unwrap_or_default();
    Ok(ScratchSpec { drill: drill.name.clone(), expires, attempt, ..bare_spec(rig, run).await? })
}

async fn open(
    rig: &WorkContext,
    spec: ScratchSpec,
    at_seconds: f64,
) -> Result<ScratchVpc, WorkError> {
    // In another account nothing of a run is to be seen, and nothing to be seen is no proof that
    // nothing is left.
    let cloud = scratch::cloud(rig, &spec.settings).await?;
    Ok(ScratchVpc::new(cloud, spec, at_seconds, rig.cancel.clone()))
}

/// How often the place was begun before.
pub(super) async fn attempts_before(journal: &dyn Journal, run: &str) -> u64 {
    let events = journal.events(run).await.unwrap_or_default();
    events.iter().filter(|(step, event)| step == "vpc" && *event == JournalEvent::Started).count()
        as u64
}

/// Runs the drill; returns why it stopped early, and what is left.
pub(super) async fn perform<'s>(
    saga: &mut Saga<'s>,
    journal: &'s dyn Journal,
    world: &mut DrillState<'_>,
    all: bool,
) -> (Option<DrillHalt>, Vec<String>) {
    let before = attempts_before(journal, &world.run).await;
    let opened = async {
        let spec =
            spec(world.own, world.drill, &world.run, world.clock.declared, before + 1).await?;
        open(world.own, spec, world.clock.seconds()).await
    };
    let mut scratch = match opened.await {
        Ok(scratch) => scratch,
        Err(error) => {
            let left = if before == 0 {
                Vec::new()
            } else {
                vec![format!("what run {} left could not be looked at: {error}", world.run)]
            };
            return (Some(DrillHalt::sandbox(error.to_string())), left);
        }
    };
    let mut report = ScratchReport {
        region: scratch.spec.settings.region.clone(),
        account: scratch.spec.settings.account.clone(),
        same_account: scratch
            .spec
            .settings
            .production_account
            .as_ref()
            .map(|account| *account == scratch.spec.settings.account),
        ..ScratchReport::default()
    };
    let halt = if before > 0 {
        // What a process before this one left goes first: attempts share nothing.
        let blocked = tear_down(saga, world, &mut scratch).await;
        match (blocked, Saga::open(&world.run, journal).await) {
            (Some(halt), _) => Some(DrillHalt::sandbox(format!(
                "what is left of an earlier attempt is in the way: {}",
                halt.why()
            ))),
            (None, Err(error)) => Some(DrillHalt::sandbox(error.to_string())),
            (None, Ok(anew)) => {
                *saga = anew;
                forward(saga, world, &mut scratch, &mut report, all).await
            }
        }
    } else {
        forward(saga, world, &mut scratch, &mut report, all).await
    };
    tear_down(saga, world, &mut scratch).await;
    failpoint::reach("drill-torn-down");
    let (census, mut left) = scratch.census().await;
    report.census = census;
    if left.is_empty()
        && let Err(error) = scratch::over(world.own, &world.run).await
    {
        left.push(format!("the lease of run {} could not be ended: {error}", world.run));
    }
    report.calls = std::mem::take(&mut scratch.calls);
    report.looks = std::mem::take(&mut scratch.looks);
    (report.zone, report.image) = (scratch.zone.clone(), scratch.image.clone());
    world.found.scratch = Some(Box::new(report));
    (halt, left)
}

async fn forward(
    saga: &mut Saga<'_>,
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
    report: &mut ScratchReport,
    all: bool,
) -> Option<DrillHalt> {
    if !all {
        return Some(DrillHalt::Interrupted);
    }
    steps_of(saga, world, scratch, report).await.err()
}

/// Takes the place down; returns what is in the way.
async fn tear_down(
    saga: &mut Saga<'_>,
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
) -> Option<DrillHalt> {
    let from = began(world, TEAR_DOWN);
    scratch.about_to_tear_down();
    let halt = in_the_way(&saga.unwind(scratch, &steps::undos()).await);
    ended(world, TEAR_DOWN, from, halt.as_ref());
    halt
}

/// The agent's binary, and its hash.
fn agent_binary(settings: &ScratchSettings) -> Result<(Vec<u8>, String), WorkError> {
    let read = match &settings.agent {
        Some(path) => std::fs::read(path).map_err(|source| WorkError::File {
            what: format!("reading the agent {}", path.display()),
            source,
        }),
        None => this_program::bytes().map_err(|source| WorkError::File {
            what: "reading lifeboat's own program".to_owned(),
            source,
        }),
    }?;
    let hash = sha256(&read);
    Ok((read, hash))
}

async fn steps_of(
    saga: &mut Saga<'_>,
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
    report: &mut ScratchReport,
) -> Result<(), DrillHalt> {
    if Timestamp::now() >= scratch.spec.expires {
        return Err(DrillHalt::sandbox("the run's time to live is over: nothing was made"));
    }
    timed(saga, world, &load::ChooseStep).await?;
    let attempt = scratch.spec.attempt;
    let (binary, agent_sha256) = agent_binary(&scratch.spec.settings).map_err(at_fault)?;
    let (keys, grants) = order::keys(world, &scratch.spec.settings).await.map_err(at_fault)?;
    (scratch.spec.grants, scratch.spec.reads) =
        (grants, order::reads(world, attempt, &agent_sha256).map_err(at_fault)?);
    report.agent_sha256.clone_from(&agent_sha256);
    preflight(world, scratch, report).await?;
    for (believed, _) in world.chosen.clone() {
        // The instance may not ask for it, and is not paid for while it takes hours.
        load::thawed(world, &believed).await.map_err(at_fault)?;
    }
    let from = began(world, "lease");
    let leased = lease(world, scratch, report.cost_ceiling, (binary, &agent_sha256))
        .await
        .map_err(not_the_backup);
    ended(world, "lease", from, leased.as_ref().err());
    leased?;
    failpoint::reach("scratch-leased");
    the_place(saga, world, scratch).await?;
    failpoint::reach("scratch-built");
    let minutes =
        u64::try_from(scratch.spec.expires.duration_since(Timestamp::now()).as_secs() / 60)
            .unwrap_or(0)
            .max(1);
    let mut refused = Vec::new();
    for zone in scratch.spec.settings.zones.clone() {
        scratch.zone = zone;
        match in_a_zone(saga, world, scratch, report, (&keys, &agent_sha256, minutes)).await {
            Ok(ordered) => {
                report.instance.clone_from(&scratch.made.instance);
                report.instance_type.clone_from(&scratch.made.instance_type);
                report.tenancy.clone_from(&scratch.spec.settings.tenancy);
                failpoint::reach("scratch-launched");
                put_order(world, attempt, ordered).await.map_err(not_the_backup)?;
                failpoint::reach("scratch-ordered");
                follow::follow(world, scratch, report, attempt).await?;
                return still_isolated(world, scratch).await;
            }
            Err(AttemptError::NoCapacity(why)) => {
                world.team.tell(&DrillEvent::Warned { warning: format!("no capacity in {why}") });
                refused.push(why);
                // Only what depends on the zone is done again.
                scratch.about_to_tear_down();
                if let Some(halt) =
                    in_the_way(&saga.unwind(scratch, &steps::undos_of_a_zone()).await)
                {
                    return Err(halt);
                }
            }
            Err(AttemptError::Halt(halt)) => return Err(halt),
        }
    }
    Err(DrillHalt::sandbox(format!("no instance can be had in any zone: {}", refused.join("; "))))
}

async fn preflight(
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
    report: &mut ScratchReport,
) -> Result<(), DrillHalt> {
    let from = began(world, "preflight");
    let gib = root_gib(&scratch.spec);
    let found = scratch.preflight(world.drill.time_to_live, gib).await.map_err(at_the_place);
    let payloads = payloads(world).await.map_err(at_fault);
    let done = found.and_then(|mut found| {
        let (words, usable) = payloads?;
        found.add("payloads", words, if usable { AnswerWeight::Good } else { AnswerWeight::Fault });
        for asked in &found.answers {
            let text = format!("{}: {}", asked.question, asked.told());
            world.team.tell(&match asked.weight {
                AnswerWeight::Weak => DrillEvent::Warned { warning: text },
                AnswerWeight::Good | AnswerWeight::Fault => DrillEvent::Told { text },
            });
        }
        let faults = found.faults();
        report.preflight =
            found.answers.iter().map(|asked| (asked.question.clone(), asked.told())).collect();
        (report.caller, report.image_digest, report.cost_ceiling) =
            (found.caller, found.image_digest, found.cost_ceiling);
        if faults.is_empty() {
            Ok(())
        } else {
            Err(DrillHalt::sandbox(format!("nothing was made: {}", faults.join("; "))))
        }
    });
    ended(world, "preflight", from, done.as_ref().err());
    done
}

/// Whether every payload can be read by who cannot ask for it to be thawed.
async fn payloads(world: &DrillState<'_>) -> Result<(String, bool), WorkError> {
    let (mut objects, mut bytes) = (0, 0);
    for (believed, _) in &world.chosen {
        if let Some(words) = load::frozen(&world.rig, believed, world.drill).await? {
            return Ok((words, world.drill.thaw.is_some()));
        }
        objects +=
            believed.manifest.payloads.iter().map(|payload| payload.objects.len()).sum::<usize>();
        bytes += believed
            .manifest
            .payloads
            .iter()
            .map(crate::domain::manifest::Payload::sealed_bytes)
            .sum::<u64>();
    }
    Ok((
        format!(
            "{objects} objects, {}, can be read now",
            crate::domain::human_duration::format_bytes(bytes)
        ),
        true,
    ))
}

/// Asks what can be asked without a backup, as `lifeboat check` does.
///
/// # Errors
/// [`WorkError`] if there is no cloud to ask.
pub async fn ask(rig: &WorkContext) -> Result<PreflightReport, WorkError> {
    let spec = bare_spec(rig, "check").await?;
    let gib = root_gib(&spec);
    let mut scratch = open(rig, spec, 0.0).await?;
    scratch
        .preflight(CHECKED_TIME_TO_LIVE, gib)
        .await
        .map_err(|error| WorkError::NotVerified(error.to_string()))
}

fn root_gib(spec: &ScratchSpec) -> u64 {
    spec.settings.root_gib.and_then(|gib| u64::try_from(gib).ok()).unwrap_or(ROOT_GIB_ASSUMED)
}

/// A run of which nothing is known but its name.
pub(in crate::work) async fn bare_spec(
    rig: &WorkContext,
    run: &str,
) -> Result<ScratchSpec, WorkError> {
    let vault = shelf::vault_id(rig).await?;
    let keys = keys_of(rig, &vault, run).await?.into_iter();
    let context: std::collections::BTreeMap<_, _> =
        [("vault".to_owned(), vault.to_string())].into();
    Ok(ScratchSpec {
        settings: scratch::settings(rig)?.clone(),
        vault,
        run: run.to_owned(),
        drill: String::new(),
        expires: Timestamp::now(),
        attempt: 0,
        reads: VaultAccess::default(),
        grants: keys.map(|key| GrantSpec { key, context: context.clone() }).collect(),
        volumes: Vec::new(),
    })
}

/// Keys on which a run may have grants: those that are configured now, and those that its lease
/// names.
async fn keys_of(rig: &WorkContext, vault: &VaultId, run: &str) -> Result<Vec<String>, WorkError> {
    let mut keys = order::key_arns(&rig.config);
    if let Ok(lease) = scratch::lease(rig, vault, run).await? {
        let settings = scratch::settings(rig)?;
        if (&lease.region, &lease.account) != (&settings.region, &settings.account) {
            return Err(WorkError::Leftovers(format!(
                "run {run} is in account {}, {}, and [scratch_vpc] names account {}, {}: set it back to look at what is left",
                lease.account, lease.region, settings.account, settings.region
            )));
        }
        keys.extend(lease.keys);
    }
    keys.sort();
    keys.dedup();
    Ok(keys)
}

/// Writes the lease and stores the agent, before anything is made.
async fn lease(
    world: &DrillState<'_>,
    scratch: &ScratchVpc,
    cost_ceiling: UsDollars,
    (binary, hash): (Vec<u8>, &str),
) -> Result<(), WorkError> {
    let rig = world.own;
    let key = layout::agent(hash);
    // Its name is its hash: what stands there already is what the instance checks.
    if rig.vault.find(&key).await?.is_none() {
        rig.vault.put(&key, VaultDocument::agent(binary)).await?;
    }
    let spec = &scratch.spec;
    let lease = ScratchLease {
        format: LEASE_FORMAT.to_owned(),
        vault: spec.vault.clone(),
        run: spec.run.clone(),
        drill: spec.drill.clone(),
        region: spec.settings.region.clone(),
        account: spec.settings.account.clone(),
        keys: spec.grants.iter().map(|grant| grant.key.clone()).collect(),
        host: evidence::actor().host,
        expires: spec.expires,
        cost_ceiling,
    };
    scratch::put_signed(rig, &layout::lease(&spec.run), VaultDocument::lease(&lease)).await
}

async fn the_place(
    saga: &mut Saga<'_>,
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
) -> Result<(), AttemptError> {
    step(saga, world, scratch, &steps::CreateVpc).await?;
    step(saga, world, scratch, &steps::CreateRouteTable).await?;
    step(saga, world, scratch, &steps::CreateNetworkAcl).await?;
    step(saga, world, scratch, &steps::CreateSecurityGroups).await?;
    step(saga, world, scratch, &steps::CreateS3Endpoint).await?;
    step(saga, world, scratch, &steps::AssociateDnsFirewall).await?;
    step(saga, world, scratch, &steps::CreateFlowLogs).await?;
    Ok(())
}

/// The rest of the place, the gate and the instance, in the zone that is tried. The order is made
/// and not yet given.
async fn in_a_zone(
    saga: &mut Saga<'_>,
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
    report: &mut ScratchReport,
    (keys, agent_sha256, minutes): (&[crate::domain::scratch::OrderKey], &str, u64),
) -> Result<AgentOrder, AttemptError> {
    step(saga, world, scratch, &steps::CreateSubnet).await?;
    step(saga, world, scratch, &steps::CreateKmsEndpoint).await?;
    pass_gate(world, scratch, report).await?;
    failpoint::reach("scratch-gated");
    let tokens = step(saga, world, scratch, &steps::GrantKeys).await?;
    let spec = &scratch.spec;
    let order = order::order(world, spec, keys, tokens).map_err(at_fault)?;
    let hash = sha256(VaultDocument::order(&order).bytes());
    let s3 = order::bucket(&world.own.config).map_err(at_fault)?;
    let full = |key: layout::ObjectKey| format!("{}{key}", s3.prefix);
    scratch.user_data = boot::script(&boot::BootParameters {
        run: &world.run,
        region: &spec.settings.region,
        bucket: &s3.bucket,
        agent_key: &full(layout::agent(agent_sha256)),
        agent_sha256,
        order_key: &full(layout::order(&world.run, spec.attempt)),
        order_sha256: &hash,
        minutes,
    });
    step(saga, world, scratch, &steps::LaunchInstance).await?;
    Ok(order)
}

async fn pass_gate(
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
    report: &mut ScratchReport,
) -> Result<(), DrillHalt> {
    let from = began(world, "isolation-gate");
    let passed = scratch.pass_gate().await.map_err(at_the_place).and_then(|passed| {
        let accepted = world.drill.accept_gaps.contains(crate::sandbox::IsolationGap::Names.name());
        match passed.names_leave && !accepted {
            true => Err(DrillHalt::sandbox(
                "nothing was restored, since names can leave the VPC by its resolver: set dns_firewall in [scratch_vpc], or accept_gaps = [\"names\"] in the drill",
            )),
            false => Ok(passed),
        }
    });
    ended(world, "isolation-gate", from, passed.as_ref().err());
    let GatePassed { state, sha256, names_leave } = passed?;
    world.team.tell(&DrillEvent::Told {
        text: format!("cut off; what stands there has SHA-256 {sha256}"),
    });
    if names_leave {
        world.found.isolation.gaps.push(crate::sandbox::IsolationGap::Names);
    }
    (report.gate, report.gate_sha256) = (state, sha256);
    Ok(())
}

/// Looks once more at everything, when the agent has done its work.
async fn still_isolated(
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
) -> Result<(), DrillHalt> {
    let from = began(world, "still-isolated");
    let held = scratch.still_holds().await.map_err(at_the_place);
    ended(world, "still-isolated", from, held.as_ref().err());
    held
}

/// Gives the order: only now has the agent anything to do.
async fn put_order(
    world: &DrillState<'_>,
    attempt: u64,
    order: AgentOrder,
) -> Result<(), WorkError> {
    Ok(world
        .own
        .vault
        .put(&layout::order(&world.run, attempt), VaultDocument::order(&order))
        .await?)
}

/// Removes what a run has left, known by its tags alone.
///
/// # Errors
/// [`WorkError::Leftovers`] with what is still there.
pub async fn clean_up(rig: &WorkContext, run: &str) -> Result<(), WorkError> {
    let spec = bare_spec(rig, run).await?;
    let mut scratch = open(rig, spec, 0.0).await?;
    let mut failures = Vec::new();
    scratch.about_to_tear_down();
    for undo in steps::undos().iter().rev() {
        failures.extend(undo.undo(&mut scratch).await.err());
    }
    let (_, left) = scratch.census().await;
    if left.is_empty() && failures.is_empty() {
        return Ok(());
    }
    failures.extend(left);
    Err(WorkError::Leftovers(format!("of run {run}: {}", failures.join("; "))))
}

/// What a drill in a scratch VPC would call, phase by phase. Calls nothing of EC2, KMS or the DNS
/// firewall.
///
/// # Errors
/// [`WorkError`] if the drill cannot be, or there is no backup.
pub async fn plan(
    rig: &WorkContext,
    drill: &DrillPlan,
    team: &crate::progress::DrillAudience,
) -> Result<Vec<RunPhase>, WorkError> {
    refuse_what_cannot_be(rig, drill)?;
    let (series, _) = evidence::examine(rig).await?;
    let declared = Timestamp::now();
    let mut world =
        DrillState::new(rig, drill, team, "RUN", super::DrillClock::from(declared), &series);
    for stage in &drill.plan.stages {
        let (which, how) = load::which(drill);
        let believed = shelf::select(rig, &stage.datastore, &which, &mut Vec::new()).await?;
        world.chosen.push((believed, how));
    }
    let mut spec = spec(rig, drill, "RUN", declared, 1).await?;
    (spec.grants, spec.reads) =
        (order::keys(&world, &spec.settings).await?.1, order::reads(&world, 1, "AGENT")?);
    on_paper(rig, spec, drill.time_to_live).await
}

/// Rehearses a run on paper.
///
/// # Errors
/// [`WorkError::NotVerified`] if not even that comes to a good end.
pub async fn on_paper(
    rig: &WorkContext,
    spec: ScratchSpec,
    time_to_live: crate::domain::human_duration::HumanDuration,
) -> Result<Vec<RunPhase>, WorkError> {
    let nowhere: Arc<dyn ScratchCloud> = Arc::new(simulated_cloud::SimulatedCloud::new(
        &spec.settings.region,
        &spec.settings.account,
        "",
    ));
    let mut scratch = ScratchVpc::new(nowhere, spec, 0.0, rig.cancel.clone());
    scratch.image = match &scratch.spec.settings.image {
        crate::domain::scratch::ImageChoice::Pinned { id, .. } => id.clone(),
        crate::domain::scratch::ImageChoice::OfInstance(instance) => {
            format!("the image of {instance}")
        }
    };
    simulated_cloud::rehearse(&scratch, time_to_live)
        .await
        .map_err(|error| WorkError::NotVerified(error.to_string()))
}

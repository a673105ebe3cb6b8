//! The sandbox of a drill on this host: raised, its server started, and shown to be cut off before
//! anything is restored.

use async_trait::async_trait;

use super::{DrillState, at_fault, state_directory};
use crate::config::plans::DrillPlan;
use crate::domain::drill::DrillHalt;
use crate::pg::PgTools;
use crate::saga::{SagaStep, UndoStep};
use crate::sandbox::local::{self, LocalSandboxSpec, SandboxLease};
use crate::sandbox::{IsolationGap, IsolationReport, ProbeTarget, SandboxError};
use crate::work::{WorkContext, WorkError};

/// Which sandbox a host gives.
pub struct HostSandbox {
    /// What it lacks.
    pub gaps: Vec<IsolationGap>,
    /// Why it has no namespaces, if it has none.
    pub why: Option<String>,
    /// Why it has no limit of memory, if it has none.
    pub unlimited: Option<String>,
}

/// Raises an empty sandbox and takes it down again.
///
/// # Errors
/// [`WorkError::Sandbox`] if there is none to be had, or it does not end.
pub async fn place_of_this_host(rig: &WorkContext) -> Result<HostSandbox, WorkError> {
    let tools = PgTools::find(rig.config.pg_bin.as_deref(), 0).await.map_err(SandboxError::from)?;
    let spec = LocalSandboxSpec {
        run: format!("check-{}", hex::encode(rand::random::<[u8; 6]>())),
        state: state_directory(rig),
        size_bytes: 16 * 1024 * 1024,
        time_to_live: std::time::Duration::from_secs(60),
        tools,
        programs: Vec::new(),
        preload: Vec::new(),
        // To make a group, processes may have to be moved: that is for drills.
        is_limited: false,
    };
    let (state, run) = (spec.state.clone(), spec.run.clone());
    let place = match local::raise(spec).await {
        Ok(place) => place,
        Err(error) => {
            local::undo(&state, &run).await?;
            return Err(error.into());
        }
    };
    let own = str::to_owned;
    let found = HostSandbox {
        gaps: place.gaps().to_vec(),
        why: place.why_bare().map(own),
        unlimited: place.why_unlimited().map(own),
    };
    place.tear_down().await?;
    Ok(found)
}

/// Raises the sandbox. The only step that makes anything outside of it.
pub(super) struct RaiseStep;

#[async_trait]
impl<'w> UndoStep<DrillState<'w>> for RaiseStep {
    fn name(&self) -> &'static str {
        "raise-sandbox"
    }
    async fn undo(&self, world: &mut DrillState<'w>) -> Result<(), String> {
        let ended = match world.place.take() {
            Some(place) => place.tear_down().await,
            None => local::undo(&world.state, &world.run).await,
        };
        ended.map_err(|error| error.to_string())
    }
}

#[async_trait]
impl<'w> SagaStep<DrillState<'w>> for RaiseStep {
    type Output = SandboxLease;
    type Error = DrillHalt;
    async fn act(&self, world: &mut DrillState<'w>) -> Result<SandboxLease, DrillHalt> {
        let majors = world.chosen.iter().map(|(chosen, _)| chosen.manifest.source.major());
        let planned = world.drill.plan.stages.iter().filter_map(|stage| stage.major).max();
        let major = planned.or(majors.max()).unwrap_or_default();
        let pg_bin = world.rig.config.pg_bin.clone();
        let tools = PgTools::find_server(pg_bin.as_deref(), major)
            .await
            .map_err(|error| DrillHalt::sandbox(error.to_string()))?;
        let mut programs = world.drill.sandbox.programs.clone();
        programs.extend(pg_bin.and_then(|bin| Some(bin.parent()?.to_owned())));
        world.found.sandbox =
            format!("local, {}", tools.version().replace("pg_dump", "server and clients of"));
        let spec = LocalSandboxSpec {
            run: world.run.clone(),
            state: world.state.clone(),
            size_bytes: world.drill.sandbox.size_bytes,
            time_to_live: world.drill.time_to_live.duration(),
            tools,
            programs,
            preload: world.drill.sandbox.preload.clone(),
            is_limited: true,
        };
        let place = local::raise(spec).await.map_err(|error| at_fault(error.into()))?;
        let (lease, gaps) = (place.lease().clone(), place.gaps().to_vec());
        world.place = Some(place);
        world.lease = Some(lease.clone());
        // Judged before a server listens that anybody could talk to.
        let refused: Vec<String> = gaps
            .iter()
            .filter(|gap| !world.drill.accept_gaps.contains(gap.name()))
            .map(|gap| format!("gap {}", gap.name()))
            .collect();
        world.found.isolation.gaps = gaps;
        match refused.is_empty() {
            true => Ok(lease),
            false => Err(DrillHalt::sandbox(format!(
                "nothing was restored, since it is not isolated: {}",
                refused.join("; ")
            ))),
        }
    }
}

/// Starts the sandbox's server.
pub(super) struct StartServer;
no_undo!(StartServer, "start-server");

#[async_trait]
impl<'w> SagaStep<DrillState<'w>> for StartServer {
    type Output = ();
    type Error = DrillHalt;
    async fn act(&self, world: &mut DrillState<'w>) -> Result<(), DrillHalt> {
        // A sandbox's server is ours: what a plan sets for sessions it may as well have throughout.
        let planned = world.drill.plan.stages.iter().flat_map(|stage| stage.settings.clone());
        let settings: Vec<(String, String)> =
            planned.chain(world.drill.sandbox.settings.clone()).collect();
        let place =
            world.place.as_mut().ok_or_else(|| DrillHalt::sandbox("it is gone".to_owned()))?;
        place.start_server(&settings).await.map_err(|error| at_fault(error.into()))?;
        world.found.moments.server_up = Some(world.clock.seconds());
        Ok(())
    }
}

/// Proves that the sandbox is cut off. Nothing is restored before it passes.
pub(super) struct IsolateStep;
no_undo!(IsolateStep, "prove-isolation");

#[async_trait]
impl<'w> SagaStep<DrillState<'w>> for IsolateStep {
    type Output = IsolationReport;
    type Error = DrillHalt;
    async fn act(&self, world: &mut DrillState<'w>) -> Result<IsolationReport, DrillHalt> {
        let reaches = reaches(world.own, world.drill);
        let place =
            world.place.as_mut().ok_or_else(|| DrillHalt::sandbox("it is gone".to_owned()))?;
        let isolation = place.isolation(reaches).await;
        let accepted = |gap: IsolationGap| world.drill.accept_gaps.contains(gap.name());
        let refused = isolation
            .gaps
            .iter()
            .filter(|gap| !accepted(**gap))
            .map(|gap| format!("gap {}", gap.name()));
        let open = |gap: IsolationGap| isolation.gaps.contains(&gap) && accepted(gap);
        let unexpected = isolation.reached().filter(|probe| !open(probe.tried.gap()));
        let wrong: Vec<String> = refused
            .chain(unexpected.map(|probe| format!("{}: {}", probe.tried, probe.detail)))
            .collect();
        let blind: Vec<String> =
            isolation.blind().map(|probe| format!("{}: {}", probe.tried, probe.detail)).collect();
        world.found.isolation = isolation.clone();
        match (wrong.is_empty(), blind.is_empty()) {
            (true, true) => Ok(isolation),
            (false, _) => Err(DrillHalt::sandbox(format!(
                "nothing was restored, since it is not isolated: {}",
                wrong.join("; ")
            ))),
            (true, false) => {
                let why = format!(
                    "nothing was restored, since what must be reached was not, and so nothing is known of the rest: {}",
                    blind.join("; ")
                );
                Err(DrillHalt::sandbox(why))
            }
        }
    }
}

/// What must not be reachable from inside: every source, this host's services and names, and every
/// file that matters.
fn reaches(rig: &WorkContext, drill: &DrillPlan) -> Vec<ProbeTarget> {
    let mut all = vec![
        ProbeTarget::Interfaces,
        ProbeTarget::Processes,
        ProbeTarget::Tcp("127.0.0.1:5432".to_owned()),
        ProbeTarget::Name("example.com".to_owned()),
    ];
    for datastore in
        rig.config.datastores.values().filter_map(crate::config::DatastoreConfig::postgres)
    {
        for (host, port) in datastore.connection.addresses() {
            match host.as_str() {
                "" => {
                    all.extend(["/var/run/postgresql", "/tmp"].map(|directory| {
                        ProbeTarget::Socket(format!("{directory}/.s.PGSQL.{port}"))
                    }))
                }
                path if path.starts_with('/') => {
                    all.push(ProbeTarget::Socket(format!("{path}/.s.PGSQL.{port}")))
                }
                name => {
                    all.push(ProbeTarget::Tcp(format!("{name}:{port}")));
                    all.push(ProbeTarget::Tcp(format!("127.0.0.1:{port}")));
                    if name.parse::<std::net::IpAddr>().is_err() && name != "localhost" {
                        all.push(ProbeTarget::Name(name.to_owned()));
                    }
                }
            }
        }
    }
    // Where EC2 hands out credentials.
    all.push(ProbeTarget::Tcp("169.254.169.254:80".to_owned()));
    for file in rig.config.private_files().into_iter().chain(drill.recovery_identity.clone()) {
        all.push(ProbeTarget::File(file.display().to_string()));
    }
    let mut seen = Vec::new();
    all.retain(|reach| {
        !seen.contains(reach) && {
            seen.push(reach.clone());
            true
        }
    });
    all
}

//! Following the agent: its public key from the instance's console, its messages from the run's
//! inbox. A message that the key did not sign, of another run or boot, or incomplete, ends the
//! drill: nothing can be concluded then.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::{DrillState, agent, order};
use crate::domain::drill::{DrillHalt, Scenario};
use crate::domain::evidence::{DrillMoments, RestoredBackup, StepTime};
use crate::domain::layout;
use crate::domain::scratch::{
    AgentEvent, AgentResult, ForbiddenAddress, MessageBody, ScratchReport, SignedMessage,
};
use crate::keyring::sign::PublicKey;
use crate::progress::DrillEvent;
use crate::sandbox::vpc::cloud::{ResourceKind, ResourceScope};
use crate::sandbox::vpc::{ScratchVpc, boot};
use crate::sandbox::{IsolationGap, IsolationReport};
use crate::vault::{VaultError, fetch};

/// Looks at the inbox between two looks at the instance.
const LOOKS_PER_INSTANCE: u32 = 3;
/// Lines of the console that are told when the agent does not speak, and characters of each.
const CONSOLE_LINES: usize = 5;
const CONSOLE_LINE_MAX: usize = 160;
/// Bytes of the largest letter that is read.
const LETTER_BYTES_MAX: u64 = 1024 * 1024;

/// The agent as it is known: what stood on its console.
struct KnownAgent {
    nonce: String,
    key: PublicKey,
}

/// Waits for the agent's result, telling what happens on the way, and takes it over.
pub(super) async fn follow(
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
    report: &mut ScratchReport,
    attempt: u64,
) -> Result<(), DrillHalt> {
    let from = super::began(world, "agent");
    let done = listen(world, scratch, report, attempt).await;
    super::ended(world, "agent", from, done.as_ref().err());
    let (result, first) = done?;
    report.zone.clone_from(&scratch.zone);
    let forbidden = order::forbidden(world.own, &scratch.spec.settings);
    let isolation = judge(world, report, &result, &forbidden)?;
    take_over(world, report, result, isolation, first)
}

async fn listen(
    world: &mut DrillState<'_>,
    scratch: &mut ScratchVpc,
    report: &mut ScratchReport,
    attempt: u64,
) -> Result<(AgentResult, f64), DrillHalt> {
    let settings = scratch.spec.settings.clone();
    let (mut known, mut next, mut first): (Option<KnownAgent>, u64, Option<f64>) = (None, 1, None);
    let (begun, mut heard) = (Instant::now(), Instant::now());
    let mut looks = 0;
    loop {
        if world.own.cancel.is_cancelled() {
            return Err(DrillHalt::Interrupted);
        }
        if Timestamp::now() >= scratch.spec.expires {
            return Err(DrillHalt::sandbox(format!(
                "the drill's time to live ({}) is over",
                world.drill.time_to_live
            )));
        }
        if known.is_none() {
            known = console(scratch, report).await?;
            if known.is_some() {
                world.team.tell(&DrillEvent::Told {
                    text: format!("the agent speaks on instance {}", scratch.made.instance),
                });
                heard = Instant::now();
            }
        }
        let mut came = false;
        if let Some(known) = &known {
            while !world.own.cancel.is_cancelled()
                && let Some(words) = letter(world, known, attempt, next).await?
            {
                (next, heard, came) = (next + 1, Instant::now(), true);
                first.get_or_insert(world.clock.seconds());
                report.letters = next - 1;
                if let Some(result) = tell(world, words) {
                    return Ok((result, first.unwrap_or_default()));
                }
            }
        }
        looks += 1;
        if !came
            && looks % LOOKS_PER_INSTANCE == 0
            && let Err(halt) = runs(scratch).await
        {
            // It may have put its result into the inbox and powered off between the two looks.
            let mut last = None;
            while let (Some(known), None) = (&known, &last)
                && let Some(words) = letter(world, known, attempt, next).await?
            {
                (next, report.letters) = (next + 1, next);
                first.get_or_insert(world.clock.seconds());
                last = tell(world, words);
            }
            return last.map(|result| (result, first.unwrap_or_default())).ok_or(halt);
        }
        let (limit, since, what) = match known {
            None => (settings.boot_within, begun, "did not speak"),
            Some(_) => (settings.silent_within, heard, "has been silent"),
        };
        if since.elapsed() > limit.duration() {
            let tail = last_lines(scratch).await;
            return Err(DrillHalt::sandbox(format!(
                "the agent on instance {} {what} for {limit}{tail}",
                scratch.made.instance
            )));
        }
        let pause = if came { Duration::ZERO } else { settings.poll.duration() };
        tokio::select! {
            () = world.own.cancel.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks for the agent's key on the console.
async fn console(
    scratch: &ScratchVpc,
    report: &mut ScratchReport,
) -> Result<Option<KnownAgent>, DrillHalt> {
    // A console that cannot be read now may be read later; there is a limit on waiting.
    let Ok(text) = scratch.cloud().console(&scratch.made.instance).await else { return Ok(None) };
    let shown = boot::find_key(&text, &scratch.spec.run).map_err(DrillHalt::sandbox)?;
    let Some((nonce, line)) = shown else { return Ok(None) };
    let key = PublicKey::from_text(&line).map_err(|why| {
        DrillHalt::sandbox(format!("the key on the instance's console is none: {why}"))
    })?;
    report.agent_key = line;
    Ok(Some(KnownAgent { nonce, key }))
}

/// The last lines of the console, for people: an agent that did not speak may have said why there.
async fn last_lines(scratch: &ScratchVpc) -> String {
    let text = scratch.cloud().console(&scratch.made.instance).await.unwrap_or_default();
    // Only what the boot script says: others may write on a console, too.
    let mark = format!("lifeboat-boot {}", scratch.spec.run);
    let ours: Vec<&str> =
        text.lines().filter_map(|line| line.find(&mark).map(|at| &line[at..])).collect();
    let plain = |line: &&&str| {
        line.chars().filter(|c| !c.is_control()).take(CONSOLE_LINE_MAX).collect::<String>()
    };
    let shown = ours
        .iter()
        .rev()
        .take(CONSOLE_LINES)
        .rev()
        .map(|line| plain(&line))
        .collect::<Vec<_>>()
        .join(" / ");
    if shown.is_empty() { String::new() } else { format!("; on its console stands: {shown}") }
}

/// An instance that is gone will say nothing more.
async fn runs(scratch: &mut ScratchVpc) -> Result<(), DrillHalt> {
    let id = scratch.made.instance.clone();
    // What cannot be looked at now may be looked at later.
    let Ok(found) = scratch.look(ResourceKind::Instance, &ResourceScope::Id(id.clone())).await
    else {
        return Ok(());
    };
    match found.iter().find(|thing| thing.id == id) {
        Some(instance) if instance.state == "running" => Ok(()),
        Some(instance) => {
            let why =
                instance.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let tail = last_lines(scratch).await;
            Err(DrillHalt::sandbox(format!(
                "instance {id} is {}{why} before it had a result{tail}",
                instance.state
            )))
        }
        None => Err(DrillHalt::sandbox(format!("instance {id} is gone before it had a result"))),
    }
}

/// The next letter, if it is there and to be believed.
async fn letter(
    world: &DrillState<'_>,
    known: &KnownAgent,
    attempt: u64,
    number: u64,
) -> Result<Option<MessageBody>, DrillHalt> {
    let key = layout::letter(&world.run, attempt, number);
    let refuse = |why: &str| {
        DrillHalt::sandbox(format!(
            "letter {number} in the inbox is not believed: {why}; nothing that came from the instance counts"
        ))
    };
    let vault = world.own.vault.as_ref();
    let read = async {
        match vault.find(&key).await? {
            Some(facts) if facts.bytes > LETTER_BYTES_MAX => Ok(Some(Err(facts.bytes))),
            Some(facts) => fetch::document_of(vault, facts).await.map(|bytes| Some(Ok(bytes))),
            None => Ok(None),
        }
    };
    let bytes = match read.await {
        Ok(None) | Err(VaultError::Unavailable { .. } | VaultError::Unknown { .. }) => {
            return Ok(None);
        }
        Ok(Some(Ok(bytes))) => bytes,
        Ok(Some(Err(bytes))) => return Err(refuse(&format!("it has {bytes} bytes"))),
        Err(error) => return Err(refuse(&error.to_string())),
    };
    let letter: SignedMessage =
        serde_json::from_slice(&bytes).map_err(|_| refuse("it cannot be read"))?;
    let signature =
        STANDARD.decode(&letter.signature).map_err(|_| refuse("its signature cannot be read"))?;
    if !known.key.verifies(letter.words.as_bytes(), &signature) {
        return Err(refuse("the key on the instance's console did not sign it"));
    }
    let words: MessageBody =
        serde_json::from_str(&letter.words).map_err(|_| refuse("its words cannot be read"))?;
    if words.run != world.run || words.nonce != known.nonce || words.number != number {
        return Err(refuse("it belongs to another run, another boot or another place"));
    }
    Ok(Some(words))
}

/// Tells the team what a letter says; the result, if it is that.
fn tell(world: &DrillState<'_>, words: MessageBody) -> Option<AgentResult> {
    let happening = match words.say {
        AgentEvent::Began { step, at_seconds: _ } => {
            DrillEvent::StepBegan { step: on_instance(&step), at_seconds: world.clock.seconds() }
        }
        AgentEvent::Ended { step, seconds, failed } => {
            let error = failed.then(|| "see the result".to_owned());
            DrillEvent::StepEnded { step: on_instance(&step), seconds, error }
        }
        AgentEvent::Broke { scenario, outcome } => DrillEvent::Broke { scenario, outcome },
        AgentEvent::Checked(result) => DrillEvent::Checked { result, detail: Vec::new() },
        AgentEvent::Controlled(result) => DrillEvent::Controlled { result },
        AgentEvent::Alive { stage, done, total } => DrillEvent::Worked { stage, done, total },
        AgentEvent::Result(result) => return Some(*result),
    };
    world.team.tell(&happening);
    None
}

/// The name of a step that happened on the instance.
fn on_instance(step: &str) -> String {
    format!("agent: {step}")
}

/// Moves a moment of the agent's clock to the drill's.
fn moved(moments: DrillMoments, by: f64) -> DrillMoments {
    let at = |moment: Option<f64>| moment.map(|seconds| seconds + by);
    DrillMoments {
        payload_reachable: at(moments.payload_reachable),
        server_up: at(moments.server_up),
        loaded: at(moments.loaded),
        first_query: at(moments.first_query),
        verified: at(moments.verified),
        torn_down: None,
    }
}

/// Whether what the agent found can count at all: its word is not taken for it that it was the
/// right one and cut off. Returns how it was.
fn judge(
    world: &DrillState<'_>,
    report: &ScratchReport,
    result: &AgentResult,
    forbidden: &[ForbiddenAddress],
) -> Result<IsolationReport, DrillHalt> {
    let refuse = |why: String| {
        Err(DrillHalt::sandbox(format!("{why}; nothing that came from the instance counts")))
    };
    if result.binary_sha256 != report.agent_sha256 {
        return refuse("the agent that answered is not the one that was sent".to_owned());
    }
    let isolation = serde_json::from_value::<IsolationReport>(result.isolation.clone());
    // It says itself why it did not get to the end.
    if result.halt.is_some() {
        return Ok(isolation.unwrap_or_default());
    }
    let was_tried = |what: &str, should: bool| {
        result.network.iter().any(|tried| tried.what == what && tried.should == should)
    };
    let ordered = forbidden
        .iter()
        .map(|one| agent::reach(one).to_string())
        .find(|what| !was_tried(what, false));
    if let Some(what) = ordered.or_else(|| {
        (!was_tried(&agent::metadata().to_string(), true)).then(|| agent::metadata().to_string())
    }) {
        return refuse(format!("it did not try to reach {what}"));
    }
    let wrong: Vec<&str> = result
        .network
        .iter()
        .filter(|tried| tried.reached != tried.should)
        .map(|tried| tried.what.as_str())
        .collect();
    if !wrong.is_empty() {
        return refuse(format!(
            "the probes from the instance do not show that it is cut off: {}",
            wrong.join(", ")
        ));
    }
    let Ok(isolation) = isolation else {
        return refuse("how the place on the instance is cut off cannot be read".to_owned());
    };
    let accepted = |gap: IsolationGap| world.drill.accept_gaps.contains(gap.name());
    if let Some(gap) = isolation.gaps.iter().find(|gap| !accepted(**gap)) {
        return refuse(format!("the place on the instance has gap {}", gap.name()));
    }
    let reached = isolation.reached().find(|probe| {
        !(accepted(probe.tried.gap()) && isolation.gaps.contains(&probe.tried.gap()))
    });
    if let Some(probe) = reached {
        return refuse(format!("{} was reached from the place on the instance", probe.tried));
    }
    if isolation.probes.is_empty() || isolation.controls.is_empty() {
        return refuse("nothing was tried from the place on the instance".to_owned());
    }
    if let Some(control) = isolation.blind().next() {
        return refuse(format!(
            "{} should be reached from the place on the instance, and was not",
            control.tried
        ));
    }
    let chosen = |backup: &RestoredBackup| {
        world.chosen.iter().any(|(chosen, _)| chosen.manifest.backup == backup.backup)
    };
    match result.backups.len() == world.chosen.len() && result.backups.iter().all(chosen) {
        true => Ok(isolation),
        false => refuse("it restored other backups than those that were chosen".to_owned()),
    }
}

/// Takes over what the agent found, as if it had been found here.
fn take_over(
    world: &mut DrillState<'_>,
    report: &mut ScratchReport,
    result: AgentResult,
    isolation: IsolationReport,
    first: f64,
) -> Result<(), DrillHalt> {
    // Its first letter is written when it begins. The instance's clock is not asked: what the
    // letter took on its way counts as well.
    let by = first;
    let found = &mut world.found;
    found.sandbox =
        format!("scratch VPC in {}, {}; {}", report.zone, report.instance_type, result.sandbox);
    found.moments = moved(result.moments, by);
    found.backups = result.backups;
    found.checks = result.checks;
    found.controls = result.controls;
    found.broken.extend(result.broken);
    for step in result.steps {
        found.steps.push(StepTime {
            step: on_instance(&step.step),
            from_seconds: step.from_seconds + by,
            ..step
        });
    }
    let vpc = format!(
        "an own VPC without any way out but S3 and KMS, looked at before anything was restored (SHA-256 {})",
        report.gate_sha256
    );
    found.isolation.holds.push(vpc);
    found
        .isolation
        .holds
        .extend(isolation.holds.iter().map(|line| format!("on the instance: {line}")));
    found.isolation.gaps.extend(isolation.gaps);
    found.isolation.gaps.dedup();
    (found.isolation.probes, found.isolation.controls) = (isolation.probes, isolation.controls);
    (report.network, report.on_instance) = (result.network, result.isolation);
    if let Some(halt) = result.halt {
        return Err(halt);
    }
    if world.drill.breaks.contains(&Scenario::HomeKeyLost) {
        let opened: Vec<String> =
            world.found.backups.iter().filter_map(|backup| backup.opened_with.clone()).collect();
        let outcome = format!("opened on the instance with {}", opened.join(", "));
        world
            .team
            .tell(&DrillEvent::Broke { scenario: Scenario::HomeKeyLost, outcome: outcome.clone() });
        world.found.broken.insert(Scenario::HomeKeyLost, outcome);
    }
    Ok(())
}

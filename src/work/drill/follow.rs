//! Following the agent: its key from the instance's console, its letters from the run's inbox. A letter that the key did not sign, of another
//! run or boot, or with bytes missing, ends the drill: nothing is known then.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::{World, at_fault};
use crate::domain::drill::{Halt, Scenario};
use crate::domain::evidence::Moments;
use crate::domain::layout;
use crate::domain::scratch::{AgentResult, Letter, Say, ScratchReport, Words};
use crate::keyring::sign::PublicKey;
use crate::report::Happening;
use crate::sandbox::vpc::cloud::{At, Kind};
use crate::sandbox::vpc::{Scratch, boot};
use crate::sandbox::{Gap, Isolation};
use crate::vault::{VaultError, fetch};
use crate::work::WorkError;

/// Looks at the inbox between two looks at the instance.
const LOOKS_PER_INSTANCE: u32 = 3;
/// Lines of the console that are told when the agent does not speak.
const CONSOLE_LINES: usize = 5;

/// The agent as it is known: what stood on its console.
struct Known {
    nonce: String,
    key: PublicKey,
}

/// Waits for the agent's result, telling what happens on the way, and takes it over.
pub(super) async fn follow(world: &mut World<'_>, scratch: &mut Scratch, report: &mut ScratchReport, attempt: u64) -> Result<(), Halt> {
    let launched = world.clock.seconds();
    let from = super::vpc::begin(world, "agent");
    let done = listen(world, scratch, report, attempt).await;
    let halted = done.as_ref().err().map(|halt| (halt.why().to_owned(), halt.detail().to_owned()));
    super::ended(world, "agent", from, halted);
    let (result, first) = done?;
    report.zone.clone_from(&scratch.zone);
    take_over(world, report, result, launched, first)
}

async fn listen(
    world: &mut World<'_>,
    scratch: &mut Scratch,
    report: &mut ScratchReport,
    attempt: u64,
) -> Result<(AgentResult, f64), Halt> {
    let settings = scratch.spec.settings.clone();
    let (mut known, mut next, mut first): (Option<Known>, u64, Option<f64>) = (None, 1, None);
    let (begun, mut heard) = (Instant::now(), Instant::now());
    let mut looks = 0;
    loop {
        if world.own.cancel.is_cancelled() {
            return Err(Halt::Interrupted);
        }
        if Timestamp::now() >= scratch.spec.expires {
            return Err(Halt::sandbox(format!("the drill's time to live ({}) is over", world.drill.time_to_live)));
        }
        if known.is_none() {
            known = console(scratch, report).await?;
            if known.is_some() {
                world.team.tell(&Happening::Told { text: format!("the agent speaks on instance {}", scratch.made.instance) });
                heard = Instant::now();
            }
        }
        let mut came = false;
        if let Some(known) = &known {
            while let Some(words) = letter(world, known, attempt, next).await? {
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
            return Err(Halt::sandbox(format!("the agent on instance {} {what} for {limit}{tail}", scratch.made.instance)));
        }
        let pause = if came { Duration::ZERO } else { settings.poll.duration() };
        tokio::select! {
            () = world.own.cancel.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks for the agent's key on the console.
async fn console(scratch: &Scratch, report: &mut ScratchReport) -> Result<Option<Known>, Halt> {
    // A console that cannot be read now may be read later; there is a limit on waiting.
    let Ok(text) = scratch.cloud().console(&scratch.made.instance).await else { return Ok(None) };
    let shown = boot::find_key(&text, &scratch.spec.run).map_err(Halt::sandbox)?;
    let Some((nonce, line)) = shown else { return Ok(None) };
    let key = PublicKey::from_text(&line).map_err(|why| Halt::sandbox(format!("the key on the instance's console is none: {why}")))?;
    report.agent_key = line;
    Ok(Some(Known { nonce, key }))
}

/// The last lines of the console, for people: an agent that did not speak may have said why there.
async fn last_lines(scratch: &Scratch) -> String {
    let text = scratch.cloud().console(&scratch.made.instance).await.unwrap_or_default();
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("lifeboat-")).collect();
    let shown = ours.iter().rev().take(CONSOLE_LINES).rev().map(|line| line.trim()).collect::<Vec<_>>().join(" / ");
    if shown.is_empty() { String::new() } else { format!("; on its console stands: {shown}") }
}

/// An instance that is gone will say nothing more.
async fn runs(scratch: &mut Scratch) -> Result<(), Halt> {
    let id = scratch.made.instance.clone();
    // What cannot be looked at now may be looked at later.
    let Ok(found) = scratch.look(Kind::Instance, &At::Id(id.clone())).await else { return Ok(()) };
    match found.iter().find(|thing| thing.id == id) {
        Some(instance) if instance.state == "running" => Ok(()),
        Some(instance) => {
            let why = instance.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let tail = last_lines(scratch).await;
            Err(Halt::sandbox(format!("instance {id} is {}{why} before it had a result{tail}", instance.state)))
        }
        None => Err(Halt::sandbox(format!("instance {id} is gone before it had a result"))),
    }
}

/// The next letter, if it is there and to be believed.
async fn letter(world: &World<'_>, known: &Known, attempt: u64, number: u64) -> Result<Option<Words>, Halt> {
    let key = layout::letter(&world.run, attempt, number);
    let bytes = match fetch::document(world.own.vault.as_ref(), &key).await {
        Ok(bytes) => bytes,
        Err(VaultError::Unavailable { .. } | VaultError::Unknown { .. }) => return Ok(None),
        Err(error) => return Err(at_fault(WorkError::Vault(error))),
    };
    let Some(bytes) = bytes else { return Ok(None) };
    let refuse = |why: &str| {
        Halt::sandbox(format!("letter {number} in the inbox is not believed: {why}; nothing that came from the instance counts"))
    };
    let letter: Letter = serde_json::from_slice(&bytes).map_err(|_| refuse("it cannot be read"))?;
    let signature = STANDARD.decode(&letter.signature).map_err(|_| refuse("its signature cannot be read"))?;
    if !known.key.verifies(letter.words.as_bytes(), &signature) {
        return Err(refuse("the key on the instance's console did not sign it"));
    }
    let words: Words = serde_json::from_str(&letter.words).map_err(|_| refuse("its words cannot be read"))?;
    if words.run != world.run || words.nonce != known.nonce || words.number != number {
        return Err(refuse("it belongs to another run, another boot or another place"));
    }
    Ok(Some(words))
}

/// Tells the team what a letter says; the result, if it is that.
fn tell(world: &World<'_>, words: Words) -> Option<AgentResult> {
    let happening = match words.say {
        Say::Began { step, at_seconds: _ } => Happening::StepBegan { step: on_instance(&step), at_seconds: world.clock.seconds() },
        Say::Ended { step, seconds, failed } => {
            let error = failed.then(|| "see the result".to_owned());
            Happening::StepEnded { step: on_instance(&step), seconds, error }
        }
        Say::Broke { scenario, outcome } => Happening::Broke { scenario, outcome },
        Say::Checked(result) => Happening::Checked { result, detail: Vec::new() },
        Say::Controlled(result) => Happening::Controlled { result },
        Say::Alive { stage, done, total } => Happening::Worked { stage, done, total },
        Say::Result(result) => return Some(*result),
    };
    world.team.tell(&happening);
    None
}

/// The name of a step that happened on the instance.
fn on_instance(step: &str) -> String {
    format!("agent: {step}")
}

/// Moves a moment of the agent's clock to the drill's.
fn moved(moments: Moments, by: f64) -> Moments {
    let at = |moment: Option<f64>| moment.map(|seconds| seconds + by);
    Moments {
        payload_reachable: at(moments.payload_reachable),
        server_up: at(moments.server_up),
        loaded: at(moments.loaded),
        first_query: at(moments.first_query),
        verified: at(moments.verified),
        torn_down: None,
    }
}

/// Takes over what the agent found, as if it had been found here.
fn take_over(world: &mut World<'_>, report: &mut ScratchReport, result: AgentResult, launched: f64, first: f64) -> Result<(), Halt> {
    // The instance's clock is believed as far as it can be true: it began after its launch and before its first letter came.
    let by = result.began.duration_since(world.clock.declared).as_secs_f64().clamp(launched, first.max(launched));
    let isolation: Isolation = serde_json::from_value(result.isolation.clone()).unwrap_or_default();
    let found = &mut world.found;
    found.sandbox = format!("scratch VPC in {}, {}; {}", report.zone, report.instance_type, result.sandbox);
    found.moments = moved(result.moments, by);
    found.backups = result.backups;
    found.checks = result.checks;
    found.controls = result.controls;
    found.broken.extend(result.broken);
    for step in result.steps {
        found.steps.push(crate::domain::evidence::StepTime { step: on_instance(&step.step), from_seconds: step.from_seconds + by, ..step });
    }
    let vpc =
        format!("an own VPC without any way out but S3 and KMS, looked at before anything was restored (SHA-256 {})", report.gate_sha256);
    found.isolation.holds.push(vpc);
    found.isolation.holds.extend(isolation.holds.iter().map(|line| format!("on the instance: {line}")));
    found.isolation.gaps.extend(isolation.gaps);
    found.isolation.gaps.dedup();
    found.isolation.probes = isolation.probes;
    (report.network, report.on_instance) = (result.network, result.isolation);
    if result.binary_sha256 != report.agent_sha256 {
        return Err(Halt::sandbox("the agent that answered is not the one that was sent".to_owned()));
    }
    if let Some(halt) = result.halt {
        return Err(halt);
    }
    // The agent halts on these itself; its word is not taken for it.
    let wrong: Vec<String> = report.network.iter().filter(|tried| tried.reached != tried.should).map(|tried| tried.what.clone()).collect();
    if !wrong.is_empty() || report.network.is_empty() {
        return Err(Halt::sandbox(format!("the probes from the instance do not show that it is cut off: {}", wrong.join(", "))));
    }
    let accepted = |gap: &Gap| world.drill.accept_gaps.contains(gap.name());
    if let Some(gap) = world.found.isolation.gaps.iter().find(|gap| !accepted(gap)) {
        return Err(Halt::sandbox(format!("the place on the instance has gap {}", gap.name())));
    }
    let lost = [Scenario::HomeKeyLost];
    for scenario in lost.into_iter().filter(|scenario| world.drill.breaks.contains(scenario)) {
        let opened: Vec<String> = world.found.backups.iter().filter_map(|backup| backup.opened_with.clone()).collect();
        let outcome = format!("opened on the instance with {}", opened.join(", "));
        world.team.tell(&Happening::Broke { scenario, outcome: outcome.clone() });
        world.found.broken.insert(scenario, outcome);
    }
    Ok(())
}

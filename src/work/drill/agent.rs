//! The agent: lifeboat on the instance of a scratch VPC. It runs the steps of a local drill and
//! reports in messages that it signs with an ephemeral key.
//!
//! It finds no secret and stores none: what it may read is open to the instance's role, what it may
//! decrypt is granted for this one backup, and its signing key exists in its memory only. The
//! public half leaves on the console, before anything is restored.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{DrillClock, DrillState, tear_down};
use crate::config::plans;
use crate::domain::VaultDocument;
use crate::domain::drill::DrillHalt;
use crate::domain::layout;
use crate::domain::scratch::{
    AgentEvent, AgentOrder, AgentResult, ForbiddenAddress, InstanceProbe, MessageBody,
    SignedMessage,
};
use crate::evidence::EvidenceSeries;
use crate::keyring::sign::EphemeralKey;
use crate::progress::{DrillAudience, DrillEvent, ProgressReporter};
use crate::saga::{InMemoryJournal, Saga};
use crate::sandbox::ProbeTarget;
use crate::sandbox::probe::probe;
use crate::sandbox::vpc::boot;
use crate::vault::Vault;
use crate::work::{WorkContext, WorkError};

/// Letters on their way to the inbox.
const LETTERS_MAX: usize = 256;
/// Pause between two signs of life.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Times the last letter is tried, and the pause between.
const LAST_ATTEMPTS: u32 = 60;
const LETTER_ATTEMPTS: u32 = 3;
const LETTER_PAUSE: Duration = Duration::from_secs(2);
/// Where an instance gets its credentials.
const METADATA: &str = "169.254.169.254:80";

/// Writes letters.
struct MessageWriter {
    vault: Arc<dyn Vault>,
    key: EphemeralKey,
    nonce: String,
    run: String,
    attempt: u64,
    number: u64,
}

impl MessageWriter {
    /// Puts the next letter into the inbox. One that did not get there keeps its number: the next
    /// one has it.
    async fn send(&mut self, say: AgentEvent, attempts: u32) -> bool {
        let number = self.number + 1;
        let words = MessageBody { run: self.run.clone(), nonce: self.nonce.clone(), number, say };
        let Ok(words) = serde_json::to_string(&words) else { return false };
        let signature = STANDARD.encode(self.key.sign(words.as_bytes()));
        let letter = SignedMessage { words, signature };
        let key = layout::letter(&self.run, self.attempt, number);
        for _ in 0..attempts {
            match self.vault.put(&key, VaultDocument::letter(&letter)).await {
                Ok(()) => {
                    self.number = number;
                    return true;
                }
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a letter did not get into the inbox"
                ),
            }
            tokio::time::sleep(LETTER_PAUSE).await;
        }
        false
    }
}

/// Lays out what the order says where the same code finds it that reads it everywhere else.
///
/// # Errors
/// [`WorkError::File`]
pub fn lay_out(order: &AgentOrder, directory: &Path) -> Result<std::path::PathBuf, WorkError> {
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        let fail = |source| WorkError::File { what: format!("writing {}", path.display()), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(fail)?;
        }
        std::fs::write(&path, text).map_err(fail)
    };
    write(crate::config::FILE_NAME, &order.config)?;
    write(&format!("{}/{}.toml", plans::DRILLS_DIRECTORY, order.drill), &order.script)?;
    if let Some(text) = &order.plan_text {
        write(&format!("{}/{}.toml", plans::RESTORE_DIRECTORY, order.plan), text)?;
    }
    Ok(directory.join(crate::config::FILE_NAME))
}

/// What happens, as far as it may leave the instance: no words of a server, no names, no values.
fn say(happening: &DrillEvent) -> Option<AgentEvent> {
    match happening {
        DrillEvent::StepBegan { step, at_seconds } => {
            Some(AgentEvent::Began { step: step.clone(), at_seconds: *at_seconds })
        }
        DrillEvent::StepEnded { step, seconds, error } => Some(AgentEvent::Ended {
            step: step.clone(),
            seconds: *seconds,
            failed: error.is_some(),
        }),
        DrillEvent::Broke { scenario, outcome } => {
            Some(AgentEvent::Broke { scenario: *scenario, outcome: outcome.clone() })
        }
        DrillEvent::Checked { result, .. } => Some(AgentEvent::Checked(result.clone())),
        DrillEvent::Controlled { result } => Some(AgentEvent::Controlled(result.clone())),
        _ => None,
    }
}

/// Carries an order out; returns the result that stands in the last letter.
///
/// # Errors
/// [`WorkError`] if not even a letter could be written.
pub async fn run(rig: &WorkContext, order: &AgentOrder) -> Result<AgentResult, WorkError> {
    let key = EphemeralKey::generate()?;
    let nonce = hex::encode(rand::random::<[u8; 16]>());
    show(&boot::key_line(&order.run, &nonce, &key.public().to_line()));
    let mut desk = MessageWriter {
        vault: Arc::clone(&rig.vault),
        key,
        nonce,
        run: order.run.clone(),
        attempt: order.attempt,
        number: 0,
    };
    let (tell, mut told) = mpsc::channel::<AgentEvent>(LETTERS_MAX);
    // Progress that the inbox cannot take is dropped; the result is not.
    let team = DrillAudience::new(
        move |happening| {
            if let Some(say) = say(happening) {
                let _ = tell.try_send(say);
            }
        },
        false,
    );
    let progress = rig.progress.clone();
    give_up_at(order.expires, rig.cancel.clone());
    // On its own: a letter that is slow to get there must not hold up what it tells of.
    let post = tokio::spawn(async move {
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let say = tokio::select! {
                said = told.recv() => match said {
                    Some(say) => say,
                    None => return desk,
                },
                _ = alive.tick() => sign_of_life(&progress),
            };
            desk.send(say, LETTER_ATTEMPTS).await;
        }
    });
    let result = carry_out(rig, order, &team).await?;
    drop(team);
    let mut desk = post.await.map_err(|_| WorkError::Bug("the desk of letters died".to_owned()))?;
    match desk.send(AgentEvent::Result(Box::new(result.clone())), LAST_ATTEMPTS).await {
        true => Ok(result),
        false => {
            Err(WorkError::NotVerified("the result could not be put into the inbox".to_owned()))
        }
    }
}

/// Stops everything when the run's time is up. The result says so, and the instance goes with it.
fn give_up_at(expires: Timestamp, cancel: tokio_util::sync::CancellationToken) {
    let left = Duration::try_from(expires.duration_since(Timestamp::now())).unwrap_or_default();
    tokio::spawn(async move {
        tokio::time::sleep(left).await;
        cancel.cancel();
    });
}

fn sign_of_life(progress: &ProgressReporter) -> AgentEvent {
    let stages = progress.stages();
    let current = stages.iter().rev().find(|stage| !stage.time().1).or(stages.last());
    match current {
        Some(stage) => {
            AgentEvent::Alive { stage: stage.name.clone(), done: stage.done(), total: stage.total }
        }
        None => AgentEvent::Alive { stage: "waiting".to_owned(), done: 0, total: None },
    }
}

/// Shows a line on the console, where only who may describe the instance reads it, and whence
/// nobody can take it back.
fn show(line: &str) {
    use std::io::Write;
    let console = std::fs::OpenOptions::new().write(true).open("/dev/console");
    // In one piece, and twice: what the kernel writes in between may spoil one of them.
    let text = format!("\n{line}\n{line}\n");
    let shown = console.and_then(|mut console| console.write_all(text.as_bytes()));
    if shown.is_err() {
        // Standard output goes there as well, by whoever started the agent at boot.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

async fn carry_out(
    rig: &WorkContext,
    order: &AgentOrder,
    team: &DrillAudience,
) -> Result<AgentResult, WorkError> {
    let drill = plans::drill(&rig.config, &order.drill)?
        .ok_or_else(|| WorkError::Bug("the order holds no drill".to_owned()))?;
    // What is broken was broken before the order was made, which names the keys that are left; what
    // was frozen has been thawed.
    let drill = plans::DrillPlan { breaks: Vec::new(), thaw: None, ..drill };
    let series =
        EvidenceSeries { vault: order.vault.clone(), found: Vec::new(), claimed: Vec::new() };
    let mut world =
        DrillState::new(rig, &drill, team, &order.run, DrillClock::from(Timestamp::now()), &series);
    world.pinned = order.backups.clone();
    let network = probes(order, team).await;
    let open: Vec<String> = network
        .iter()
        .filter(|tried| tried.reached != tried.should)
        .map(|tried| format!("{}: {}", tried.what, tried.detail))
        .collect();
    let journal = InMemoryJournal::default();
    let mut saga = Saga::open(&order.run, &journal)
        .await
        .map_err(|error| WorkError::NotVerified(error.to_string()))?;
    let halt = match open.is_empty() {
        false => Some(DrillHalt::sandbox(format!(
            "nothing was restored, since the instance is not cut off: {}",
            open.join("; ")
        ))),
        true => super::steps(&mut saga, &mut world).await.err(),
    };
    tear_down(&mut saga, &mut world).await;
    let binary = crate::this_program::bytes().map_err(|source| WorkError::File {
        what: "reading the agent's own binary".to_owned(),
        source,
    })?;
    let found = world.found;
    Ok(AgentResult {
        sandbox: found.sandbox,
        isolation: serde_json::to_value(&found.isolation).unwrap_or_default(),
        network,
        backups: found.backups,
        broken: found.broken,
        checks: found.checks,
        controls: found.controls,
        moments: found.moments,
        steps: found.steps,
        halt,
        binary_sha256: crate::work::shelf::sha256(&binary),
    })
}

/// What a thing that must not answer is tried as.
pub(super) fn reach(forbidden: &ForbiddenAddress) -> ProbeTarget {
    match forbidden {
        ForbiddenAddress::Tcp(address) => ProbeTarget::Tcp(address.clone()),
        ForbiddenAddress::Name(name) => ProbeTarget::Name(name.clone()),
    }
}

/// What must answer on the instance, and nowhere else.
pub(super) fn metadata() -> ProbeTarget {
    ProbeTarget::Tcp(METADATA.to_owned())
}

/// Tries from the instance itself what must not answer, and that its own credentials are there:
/// what cannot be reached from beside it then means something.
async fn probes(order: &AgentOrder, team: &DrillAudience) -> Vec<InstanceProbe> {
    team.tell(&DrillEvent::StepBegan { step: "probe-network".to_owned(), at_seconds: 0.0 });
    let begun = std::time::Instant::now();
    let all = order.forbidden.iter().map(|one| (reach(one), false)).chain([(metadata(), true)]);
    let tries = all.map(|(tried, should)| async move {
        let what = tried.to_string();
        match tokio::task::spawn_blocking(move || probe(tried)).await {
            // Whoever refuses has been reached: there is a way.
            Ok(probe) => InstanceProbe {
                what,
                reached: probe.reached || probe.detail.contains("refused"),
                should,
                detail: probe.detail,
            },
            // Nothing is known of it, which is never good news.
            Err(_) => InstanceProbe {
                what,
                reached: !should,
                should,
                detail: "the probe died".to_owned(),
            },
        }
    });
    let tried: Vec<InstanceProbe> = futures::future::join_all(tries).await;
    let failed = tried.iter().any(|tried| tried.reached != tried.should);
    let error = failed.then(|| "something answered that must not".to_owned());
    team.tell(&DrillEvent::StepEnded {
        step: "probe-network".to_owned(),
        seconds: begun.elapsed().as_secs_f64(),
        error,
    });
    tried
}

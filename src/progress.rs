//! Progress and drill events: stages with byte counters, published to whoever subscribes.
//!
//! Commands only publish; the command line draws bars on a terminal and prints a line now and then
//! elsewhere.

use crate::domain::drill::{CheckResult, ControlResult, Scenario, Verdict};
use crate::domain::evidence::DrillNote;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A stage that is under way or done.
#[derive(Debug)]
pub struct ProgressStage {
    /// What is done, in a few words.
    pub name: String,
    /// Bytes expected, if known.
    pub total: Option<u64>,
    done: Arc<AtomicU64>,
    item: Mutex<Option<String>>,
    begun: Instant,
    ended: Mutex<Option<Duration>>,
}

impl ProgressStage {
    /// The counter of bytes done.
    #[must_use]
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }
    /// Bytes done so far.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
    /// Adds bytes.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
    /// Names what is being worked on, such as a table.
    pub fn item(&self, name: Option<String>) {
        if let Ok(mut item) = self.item.lock() {
            *item = name;
        }
    }
    /// What is being worked on.
    #[must_use]
    pub fn current(&self) -> Option<String> {
        self.item.lock().ok().and_then(|item| item.clone())
    }
    /// Ends the stage and tells how long it took.
    pub fn end(&self) -> Duration {
        let took = self.begun.elapsed();
        if let Ok(mut ended) = self.ended.lock() {
            ended.get_or_insert(took);
        }
        took
    }
    /// How long it has taken, and whether it has ended.
    #[must_use]
    pub fn time(&self) -> (Duration, bool) {
        let ended = self.ended.lock().ok().and_then(|ended| *ended);
        (ended.unwrap_or_else(|| self.begun.elapsed()), ended.is_some())
    }
}

/// Stages in the order in which they began.
#[derive(Debug, Clone, Default)]
pub struct ProgressReporter {
    stages: Arc<Mutex<Vec<Arc<ProgressStage>>>>,
}

impl ProgressReporter {
    /// Begins a stage.
    #[must_use]
    pub fn begin(&self, name: &str, total: Option<u64>) -> Arc<ProgressStage> {
        let stage = Arc::new(ProgressStage {
            name: name.to_owned(),
            total,
            done: Arc::default(),
            item: Mutex::default(),
            begun: Instant::now(),
            ended: Mutex::default(),
        });
        if let Ok(mut stages) = self.stages.lock() {
            stages.push(Arc::clone(&stage));
        }
        stage
    }
    /// All stages so far.
    #[must_use]
    pub fn stages(&self) -> Vec<Arc<ProgressStage>> {
        self.stages.lock().map(|stages| stages.clone()).unwrap_or_default()
    }
}

/// What happens in a drill, as it happens.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum DrillEvent {
    /// The drill is declared: its clock runs.
    Declared {
        /// The drill.
        drill: String,
        /// The run.
        run: String,
        /// How long the restore may take, in seconds.
        rto_seconds: f64,
    },
    /// It is known what will be restored.
    Chosen {
        /// The backups, in sentences.
        backups: Vec<String>,
        /// How long earlier drills let one expect it to take, in seconds.
        predicted_seconds: Option<f64>,
    },
    /// Something the team should know before it goes on.
    Warned {
        /// What.
        warning: String,
    },
    /// A step begins.
    StepBegan {
        /// The step.
        step: String,
        /// Seconds since the drill was declared.
        at_seconds: f64,
    },
    /// A step ended.
    StepEnded {
        /// The step.
        step: String,
        /// Seconds it took.
        seconds: f64,
        /// What went wrong.
        error: Option<String>,
    },
    /// Something is about to be broken on purpose; the team may want to talk first.
    AboutToBreak {
        /// What.
        scenario: Scenario,
        /// In words.
        story: &'static str,
    },
    /// What came of it.
    Broke {
        /// What.
        scenario: Scenario,
        /// In words.
        outcome: String,
    },
    /// A check was answered.
    Checked {
        /// The result.
        result: CheckResult,
        /// What a person wants to see of it, with names and values.
        detail: Vec<String>,
    },
    /// A negative control was tried.
    Controlled {
        /// The result.
        result: ControlResult,
    },
    /// Something worth a line.
    Told {
        /// What.
        text: String,
    },
    /// Something is being worked on elsewhere.
    Worked {
        /// What.
        stage: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, if known.
        total: Option<u64>,
    },
    /// Everything is torn down, and the report is about to be signed: the last moment for notes.
    AboutToSign,
    /// The drill is over.
    Ended {
        /// Its verdict.
        verdict: Verdict,
        /// Reasons.
        reasons: Vec<String>,
    },
}

type EventSink = Box<dyn Fn(&DrillEvent) + Send + Sync>;

/// The people in the room: they are told what happens, may write notes, and may want a pause before
/// something is broken.
#[derive(Clone)]
pub struct DrillAudience {
    tell: Arc<EventSink>,
    notes: Arc<Mutex<Vec<DrillNote>>>,
    gate: Option<Arc<tokio::sync::Notify>>,
}

impl DrillAudience {
    /// A team that is told by `tell`; with a gate, each break waits until [`DrillAudience::go_on`].
    #[must_use]
    pub fn new(tell: impl Fn(&DrillEvent) + Send + Sync + 'static, gated: bool) -> Self {
        Self {
            tell: Arc::new(Box::new(tell)),
            notes: Arc::default(),
            gate: gated.then(Arc::default),
        }
    }
    /// Tells.
    pub fn tell(&self, happening: &DrillEvent) {
        (self.tell)(happening);
    }
    /// Waits for the team, if it wants to be waited for.
    pub async fn pause(&self) {
        if let Some(gate) = &self.gate {
            gate.notified().await;
        }
    }
    /// Ends a pause.
    pub fn go_on(&self) {
        if let Some(gate) = &self.gate {
            gate.notify_one();
        }
    }
    /// Writes a note.
    pub fn note(&self, note: DrillNote) {
        if let Ok(mut notes) = self.notes.lock() {
            notes.push(note);
        }
    }
    /// All notes so far.
    #[must_use]
    pub fn notes(&self) -> Vec<DrillNote> {
        self.notes.lock().map(|notes| notes.clone()).unwrap_or_default()
    }
}

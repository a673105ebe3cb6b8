//! What happens while something runs: stages with byte counters, told to whoever listens.
//!
//! The verbs only tell; the command line draws bars on a terminal and prints a line now and then elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A stage that is under way or done.
#[derive(Debug)]
pub struct Stage {
    /// What is done, in a few words.
    pub name: String,
    /// Bytes expected, if known.
    pub total: Option<u64>,
    done: Arc<AtomicU64>,
    item: Mutex<Option<String>>,
    begun: Instant,
    ended: Mutex<Option<Duration>>,
}

impl Stage {
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
pub struct Progress {
    stages: Arc<Mutex<Vec<Arc<Stage>>>>,
}

impl Progress {
    /// Begins a stage.
    #[must_use]
    pub fn begin(&self, name: &str, total: Option<u64>) -> Arc<Stage> {
        let stage = Arc::new(Stage {
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
    pub fn stages(&self) -> Vec<Arc<Stage>> {
        self.stages.lock().map(|stages| stages.clone()).unwrap_or_default()
    }
}

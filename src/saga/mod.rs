//! Sagas: steps with undo and a durable journal.
//!
//! `Started` is stored before a step acts; if the journal refuses, the step does not act. After a
//! crash the same steps are run again over the same journal: what succeeded and still stands is
//! taken as done, everything else is undone by its tag and done anew. Undo therefore knows nothing
//! of the act's outcome: it looks for what carries the run's tag, succeeds where nothing is, and
//! may be run twice.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a journal holds of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalEvent {
    /// It is about to act.
    Started,
    /// It acted; this is what it made, as JSON.
    Succeeded(String),
    /// It said that it failed. What it did by then is unknown.
    Failed(String),
    /// It was undone.
    Undone,
}

/// The journal could not store an event.
#[derive(Debug, thiserror::Error)]
#[error("the journal refused: {0}")]
pub struct JournalRefused(pub String);

/// Where events are stored, durably and in order.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Stores an event. It is durable when this returns.
    async fn append(
        &self,
        run: &str,
        step: &str,
        event: &JournalEvent,
    ) -> Result<(), JournalRefused>;
    /// All events of a run, in order.
    async fn events(&self, run: &str) -> Result<Vec<(String, JournalEvent)>, JournalRefused>;
}

/// A journal in memory: it ends with the process, as whatever it tells of must.
#[derive(Default)]
pub struct InMemoryJournal(Mutex<Vec<(String, JournalEvent)>>);

#[async_trait]
impl Journal for InMemoryJournal {
    async fn append(
        &self,
        _: &str,
        step: &str,
        event: &JournalEvent,
    ) -> Result<(), JournalRefused> {
        let mut events = self.0.lock().map_err(|_| JournalRefused("a thread died".to_owned()))?;
        events.push((step.to_owned(), event.clone()));
        Ok(())
    }
    async fn events(&self, _: &str) -> Result<Vec<(String, JournalEvent)>, JournalRefused> {
        Ok(self.0.lock().map_err(|_| JournalRefused("a thread died".to_owned()))?.clone())
    }
}

/// The way back from a step.
#[async_trait]
pub trait UndoStep<W: Send>: Send + Sync {
    /// Name, unique within the saga.
    fn name(&self) -> &'static str;
    /// Removes whatever the step may have made. Where nothing is there is nothing to do.
    async fn undo(&self, world: &mut W) -> Result<(), String>;
}

/// A step.
#[async_trait]
pub trait SagaStep<W: Send>: UndoStep<W> {
    /// What it hands on.
    type Output: Serialize + DeserializeOwned + Clone + Send;
    /// What goes wrong.
    type Error: std::fmt::Display + Send;
    /// Acts.
    async fn act(&self, world: &mut W) -> Result<Self::Output, Self::Error>;
    /// Whether what an earlier process made is still there to be used.
    async fn stands(&self, _: &mut W, _: &Self::Output) -> bool {
        false
    }
}

/// Why a saga did not go on.
#[derive(Debug, thiserror::Error)]
pub enum SagaHalted<E> {
    /// A step failed.
    #[error("{0}")]
    Step(E),
    /// The journal refused, so nothing was done; or what was done could not be noted, so it counts
    /// as unknown.
    #[error(transparent)]
    Journal(#[from] JournalRefused),
    /// What an earlier process left could not be undone.
    #[error("step {step} of an earlier process could not be undone: {why}")]
    Past {
        /// The step.
        step: &'static str,
        /// Why not.
        why: String,
    },
}

/// A run of steps.
pub struct Saga<'a> {
    run: String,
    journal: &'a dyn Journal,
    /// The last event of each step of an earlier process.
    past: HashMap<String, JournalEvent>,
    /// Steps that may have made something, in order.
    begun: Vec<&'static str>,
}

impl<'a> Saga<'a> {
    /// Begins a run, or goes on with one that has a past.
    ///
    /// # Errors
    /// [`JournalRefused`] if the journal cannot be read.
    pub async fn open(run: &str, journal: &'a dyn Journal) -> Result<Self, JournalRefused> {
        let past = journal.events(run).await?.into_iter().collect();
        Ok(Self { run: run.to_owned(), journal, past, begun: Vec::new() })
    }

    /// Does a step, unless an earlier process did and it still stands.
    ///
    /// # Errors
    /// [`SagaHalted`]; [`Saga::unwind`] is the way back.
    pub async fn step<W: Send, S: SagaStep<W>>(
        &mut self,
        world: &mut W,
        step: &S,
    ) -> Result<S::Output, SagaHalted<S::Error>> {
        let name = step.name();
        self.begun.push(name);
        match self.past.remove(name) {
            Some(JournalEvent::Succeeded(made)) => {
                if let Ok(output) = serde_json::from_str::<S::Output>(&made)
                    && step.stands(world, &output).await
                {
                    return Ok(output);
                }
                self.undo_past(world, step).await?;
            }
            Some(JournalEvent::Started | JournalEvent::Failed(_)) => {
                self.undo_past(world, step).await?
            }
            Some(JournalEvent::Undone) | None => {}
        }
        self.journal.append(&self.run, name, &JournalEvent::Started).await?;
        match step.act(world).await {
            Ok(output) => {
                let made = serde_json::to_string(&output)
                    .map_err(|error| JournalRefused(error.to_string()))?;
                self.journal.append(&self.run, name, &JournalEvent::Succeeded(made)).await?;
                Ok(output)
            }
            Err(error) => {
                self.journal
                    .append(&self.run, name, &JournalEvent::Failed(error.to_string()))
                    .await?;
                Err(SagaHalted::Step(error))
            }
        }
    }

    async fn undo_past<W: Send, S: SagaStep<W>>(
        &self,
        world: &mut W,
        step: &S,
    ) -> Result<(), SagaHalted<S::Error>> {
        step.undo(world).await.map_err(|why| SagaHalted::Past { step: step.name(), why })?;
        Ok(self.journal.append(&self.run, step.name(), &JournalEvent::Undone).await?)
    }

    /// Undoes every step that may have made something, last first; also those that only an earlier
    /// process began. Goes on past failures and returns them: what could not be undone is for
    /// the census.
    pub async fn unwind<W: Send>(
        &mut self,
        world: &mut W,
        steps: &[&dyn UndoStep<W>],
    ) -> Vec<String> {
        let mut failures = Vec::new();
        for step in steps.iter().rev() {
            let name = step.name();
            let in_past = self.past.get(name).is_some_and(|event| *event != JournalEvent::Undone);
            if !in_past && !self.begun.contains(&name) {
                continue;
            }
            match step.undo(world).await {
                // Without the note it is undone once more some day, which does nothing.
                Ok(()) => drop(self.journal.append(&self.run, name, &JournalEvent::Undone).await),
                Err(why) => failures.push(format!("{name}: {why}")),
            }
        }
        failures
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

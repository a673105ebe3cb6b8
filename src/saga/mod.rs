//! Sagas: steps with undo and a durable journal.
//!
//! `Started` is stored before a step acts; if the journal refuses, the step does not act. After a crash the same steps are run again
//! over the same journal: what succeeded and still stands is taken as done, everything else is undone by its tag and done anew.
//! Undo therefore knows nothing of the act's outcome: it looks for what carries the run's tag, succeeds where nothing is, and may
//! be run twice.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a journal holds of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
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
pub struct Refused(pub String);

/// Where events are stored, durably and in order.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Stores an event. It is durable when this returns.
    async fn append(&self, run: &str, step: &str, event: &Event) -> Result<(), Refused>;
    /// All events of a run, in order.
    async fn events(&self, run: &str) -> Result<Vec<(String, Event)>, Refused>;
}

/// A journal in memory: it ends with the process, as whatever it tells of must.
#[derive(Default)]
pub struct Passing(Mutex<Vec<(String, Event)>>);

#[async_trait]
impl Journal for Passing {
    async fn append(&self, _: &str, step: &str, event: &Event) -> Result<(), Refused> {
        let mut events = self.0.lock().map_err(|_| Refused("a thread died".to_owned()))?;
        events.push((step.to_owned(), event.clone()));
        Ok(())
    }
    async fn events(&self, _: &str) -> Result<Vec<(String, Event)>, Refused> {
        Ok(self.0.lock().map_err(|_| Refused("a thread died".to_owned()))?.clone())
    }
}

/// The way back from a step.
#[async_trait]
pub trait Undo<W: Send>: Send + Sync {
    /// Name, unique within the saga.
    fn name(&self) -> &'static str;
    /// Removes whatever the step may have made. Where nothing is there is nothing to do.
    async fn undo(&self, world: &mut W) -> Result<(), String>;
}

/// A step.
#[async_trait]
pub trait Step<W: Send>: Undo<W> {
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
pub enum Halted<E> {
    /// A step failed.
    #[error("{0}")]
    Step(E),
    /// The journal refused, so nothing was done; or what was done could not be noted, so it counts as unknown.
    #[error(transparent)]
    Journal(#[from] Refused),
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
    past: HashMap<String, Event>,
    /// Steps that may have made something, in order.
    begun: Vec<&'static str>,
}

impl<'a> Saga<'a> {
    /// Begins a run, or goes on with one that has a past.
    ///
    /// # Errors
    /// [`Refused`] if the journal cannot be read.
    pub async fn open(run: &str, journal: &'a dyn Journal) -> Result<Self, Refused> {
        let past = journal.events(run).await?.into_iter().collect();
        Ok(Self { run: run.to_owned(), journal, past, begun: Vec::new() })
    }

    /// Does a step, unless an earlier process did and it still stands.
    ///
    /// # Errors
    /// [`Halted`]; [`Saga::unwind`] is the way back.
    pub async fn step<W: Send, S: Step<W>>(&mut self, world: &mut W, step: &S) -> Result<S::Output, Halted<S::Error>> {
        let name = step.name();
        self.begun.push(name);
        match self.past.remove(name) {
            Some(Event::Succeeded(made)) => {
                if let Ok(output) = serde_json::from_str::<S::Output>(&made)
                    && step.stands(world, &output).await
                {
                    return Ok(output);
                }
                self.undo_past(world, step).await?;
            }
            Some(Event::Started | Event::Failed(_)) => self.undo_past(world, step).await?,
            Some(Event::Undone) | None => {}
        }
        self.journal.append(&self.run, name, &Event::Started).await?;
        match step.act(world).await {
            Ok(output) => {
                let made = serde_json::to_string(&output).map_err(|error| Refused(error.to_string()))?;
                self.journal.append(&self.run, name, &Event::Succeeded(made)).await?;
                Ok(output)
            }
            Err(error) => {
                self.journal.append(&self.run, name, &Event::Failed(error.to_string())).await?;
                Err(Halted::Step(error))
            }
        }
    }

    async fn undo_past<W: Send, S: Step<W>>(&self, world: &mut W, step: &S) -> Result<(), Halted<S::Error>> {
        step.undo(world).await.map_err(|why| Halted::Past { step: step.name(), why })?;
        Ok(self.journal.append(&self.run, step.name(), &Event::Undone).await?)
    }

    /// Undoes every step that may have made something, last first; also those that only an earlier process began. Goes on past
    /// failures and returns them: what could not be undone is for the census.
    pub async fn unwind<W: Send>(&mut self, world: &mut W, steps: &[&dyn Undo<W>]) -> Vec<String> {
        let mut failures = Vec::new();
        for step in steps.iter().rev() {
            let name = step.name();
            let in_past = self.past.get(name).is_some_and(|event| *event != Event::Undone);
            if !in_past && !self.begun.contains(&name) {
                continue;
            }
            match step.undo(world).await {
                // Without the note it is undone once more some day, which does nothing.
                Ok(()) => drop(self.journal.append(&self.run, name, &Event::Undone).await),
                Err(why) => failures.push(format!("{name}: {why}")),
            }
        }
        failures
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

//! Every step fails in every way, and the world is empty each time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::*;

/// Ways in which a process or a step can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndsBy {
    FailsBeforeActing,
    ActsAndTheAnswerIsLost,
    DiesAfterStarted,
    DiesHavingActed,
    DiesAfterSucceeded,
    JournalRefusesStarted,
    JournalRefusesSucceeded,
}

const WAYS: [EndsBy; 7] = [
    EndsBy::FailsBeforeActing,
    EndsBy::ActsAndTheAnswerIsLost,
    EndsBy::DiesAfterStarted,
    EndsBy::DiesHavingActed,
    EndsBy::DiesAfterSucceeded,
    EndsBy::JournalRefusesStarted,
    EndsBy::JournalRefusesSucceeded,
];
const STEPS: [&str; 4] = ["network", "server", "volume", "load"];

/// What exists outside of the process, and survives it.
#[derive(Default, Clone)]
struct OutsideWorld {
    things: Arc<Mutex<BTreeSet<&'static str>>>,
    events: Arc<Mutex<Vec<(String, JournalEvent)>>>,
}

/// One process: dies at a step in a way.
struct TestProcess {
    outside: OutsideWorld,
    trouble: Option<(&'static str, EndsBy)>,
    undos: usize,
}

struct MakeStep(&'static str);

#[async_trait]
impl UndoStep<TestProcess> for MakeStep {
    fn name(&self) -> &'static str {
        self.0
    }
    async fn undo(&self, world: &mut TestProcess) -> Result<(), String> {
        world.undos += 1;
        world.outside.things.lock().unwrap().remove(self.0);
        Ok(())
    }
}

#[async_trait]
impl SagaStep<TestProcess> for MakeStep {
    type Output = String;
    type Error = String;
    async fn act(&self, world: &mut TestProcess) -> Result<String, String> {
        let way = world.trouble.filter(|(step, _)| *step == self.0).map(|(_, way)| way);
        if matches!(way, Some(EndsBy::FailsBeforeActing | EndsBy::DiesAfterStarted)) {
            return Err("no".to_owned());
        }
        // Making what is there already is the mistake that undo by tag must prevent.
        assert!(world.outside.things.lock().unwrap().insert(self.0), "{} was made twice", self.0);
        match way {
            Some(EndsBy::ActsAndTheAnswerIsLost | EndsBy::DiesHavingActed) => {
                Err("the answer was lost".to_owned())
            }
            _ => Ok(format!("{} made", self.0)),
        }
    }
    async fn stands(&self, world: &mut TestProcess, _: &String) -> bool {
        // The load lives in the server's memory and is gone with the process; everything else
        // outlives it.
        self.0 != "load" && world.outside.things.lock().unwrap().contains(self.0)
    }
}

struct MemoryBook {
    outside: OutsideWorld,
    trouble: Option<(&'static str, EndsBy)>,
}

#[async_trait]
impl Journal for MemoryBook {
    async fn append(
        &self,
        _: &str,
        step: &str,
        event: &JournalEvent,
    ) -> Result<(), JournalRefused> {
        let refuses = match (self.trouble.filter(|(at, _)| *at == step), event) {
            (Some((_, EndsBy::JournalRefusesStarted)), JournalEvent::Started) => true,
            (Some((_, EndsBy::JournalRefusesSucceeded)), JournalEvent::Succeeded(_)) => true,
            // A process that died writes nothing any more.
            (
                Some((_, EndsBy::DiesAfterStarted | EndsBy::DiesHavingActed)),
                JournalEvent::Succeeded(_) | JournalEvent::Failed(_),
            ) => true,
            _ => false,
        };
        if refuses {
            return Err(JournalRefused("disk full".to_owned()));
        }
        self.outside.events.lock().unwrap().push((step.to_owned(), event.clone()));
        Ok(())
    }
    async fn events(&self, _: &str) -> Result<Vec<(String, JournalEvent)>, JournalRefused> {
        Ok(self.outside.events.lock().unwrap().clone())
    }
}

/// Runs all steps; says whether they all succeeded and the process lives to clean up.
async fn process(
    outside: &OutsideWorld,
    trouble: Option<(&'static str, EndsBy)>,
) -> (bool, TestProcess, MemoryBook) {
    let (mut world, book) = (
        TestProcess { outside: outside.clone(), trouble, undos: 0 },
        MemoryBook { outside: outside.clone(), trouble },
    );
    let mut done = true;
    {
        let mut saga = Saga::open("run", &book).await.unwrap();
        for step in STEPS {
            done = saga.step(&mut world, &MakeStep(step)).await.is_ok();
            if !done || trouble == Some((step, EndsBy::DiesAfterSucceeded)) {
                done = false;
                break;
            }
        }
    }
    (done, world, book)
}

async fn clean(world: &mut TestProcess, book: &MemoryBook) {
    let steps: Vec<MakeStep> = STEPS.map(MakeStep).into();
    let undos: Vec<&dyn UndoStep<TestProcess>> =
        steps.iter().map(|step| step as &dyn UndoStep<TestProcess>).collect();
    let mut saga = Saga::open("run", book).await.unwrap();
    assert_eq!(saga.unwind(world, &undos).await, Vec::<String>::new());
}

fn things(outside: &OutsideWorld) -> Vec<&'static str> {
    outside.things.lock().unwrap().iter().copied().collect()
}

#[tokio::test]
async fn whichever_step_fails_in_whichever_way_abort_leaves_an_empty_world() {
    for step in STEPS {
        for way in WAYS {
            let outside = OutsideWorld::default();
            let (done, _, _) = process(&outside, Some((step, way))).await;
            assert!(!done, "{step} {way:?}");
            // Another process, which knows the journal only.
            let (mut world, book) = (
                TestProcess { outside: outside.clone(), trouble: None, undos: 0 },
                MemoryBook { outside: outside.clone(), trouble: None },
            );
            clean(&mut world, &book).await;
            assert_eq!(things(&outside), Vec::<&str>::new(), "{step} {way:?}");
            clean(&mut world, &book).await;
            assert_eq!(things(&outside), Vec::<&str>::new(), "{step} {way:?}, undone twice");
        }
    }
}

#[tokio::test]
async fn whichever_step_fails_in_whichever_way_resume_gets_to_the_end() {
    for step in STEPS {
        for way in WAYS {
            let outside = OutsideWorld::default();
            process(&outside, Some((step, way))).await;
            let (done, mut world, book) = process(&outside, None).await;
            assert!(done, "{step} {way:?}");
            assert_eq!(things(&outside).len(), STEPS.len(), "{step} {way:?}");
            clean(&mut world, &book).await;
            assert_eq!(things(&outside), Vec::<&str>::new(), "{step} {way:?}");
        }
    }
}

#[tokio::test]
async fn nothing_acts_before_the_journal_has_it() {
    let outside = OutsideWorld::default();
    process(&outside, Some(("server", EndsBy::JournalRefusesStarted))).await;
    assert_eq!(things(&outside), ["network"]);
}

#[tokio::test]
async fn what_stands_is_not_made_again_and_what_does_not_is() {
    let outside = OutsideWorld::default();
    assert!(process(&outside, None).await.0);
    let before = outside.events.lock().unwrap().len();
    let (done, world, _) = process(&outside, None).await;
    assert!(done);
    assert_eq!(world.undos, 1, "only the load had to be undone");
    let after: Vec<_> =
        outside.events.lock().unwrap()[before..].iter().map(|(step, _)| step.clone()).collect();
    assert_eq!(after, ["load"; 3]);
}

#[tokio::test]
async fn an_undo_that_fails_does_not_keep_the_others_from_happening() {
    struct StuckStep;
    #[async_trait]
    impl UndoStep<TestProcess> for StuckStep {
        fn name(&self) -> &'static str {
            "load"
        }
        async fn undo(&self, _: &mut TestProcess) -> Result<(), String> {
            Err("it does not want to go".to_owned())
        }
    }
    let outside = OutsideWorld::default();
    let (_, mut world, book) = process(&outside, None).await;
    let first: Vec<MakeStep> = STEPS[..3].iter().copied().map(MakeStep).collect();
    let mut undos: Vec<&dyn UndoStep<TestProcess>> =
        first.iter().map(|step| step as &dyn UndoStep<TestProcess>).collect();
    undos.push(&StuckStep);
    let mut saga = Saga::open("run", &book).await.unwrap();
    assert_eq!(saga.unwind(&mut world, &undos).await, ["load: it does not want to go"]);
    assert_eq!(things(&outside), ["load"]);
}

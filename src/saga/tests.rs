//! Every step fails in every way, and the world is empty each time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use super::*;

/// Ways in which a process or a step can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    FailsBeforeActing,
    ActsAndTheAnswerIsLost,
    DiesAfterStarted,
    DiesHavingActed,
    DiesAfterSucceeded,
    JournalRefusesStarted,
    JournalRefusesSucceeded,
}

const WAYS: [Way; 7] = [
    Way::FailsBeforeActing,
    Way::ActsAndTheAnswerIsLost,
    Way::DiesAfterStarted,
    Way::DiesHavingActed,
    Way::DiesAfterSucceeded,
    Way::JournalRefusesStarted,
    Way::JournalRefusesSucceeded,
];
const STEPS: [&str; 4] = ["network", "server", "volume", "load"];

/// What exists outside of the process, and survives it.
#[derive(Default, Clone)]
struct Outside {
    things: Arc<Mutex<BTreeSet<&'static str>>>,
    events: Arc<Mutex<Vec<(String, Event)>>>,
}

/// One process: dies at a step in a way.
struct World {
    outside: Outside,
    trouble: Option<(&'static str, Way)>,
    undos: usize,
}

struct Make(&'static str);

#[async_trait]
impl Undo<World> for Make {
    fn name(&self) -> &'static str {
        self.0
    }
    async fn undo(&self, world: &mut World) -> Result<(), String> {
        world.undos += 1;
        world.outside.things.lock().unwrap().remove(self.0);
        Ok(())
    }
}

#[async_trait]
impl Step<World> for Make {
    type Output = String;
    type Error = String;
    async fn act(&self, world: &mut World) -> Result<String, String> {
        let way = world.trouble.filter(|(step, _)| *step == self.0).map(|(_, way)| way);
        if matches!(way, Some(Way::FailsBeforeActing | Way::DiesAfterStarted)) {
            return Err("no".to_owned());
        }
        // Making what is there already is the mistake that undo by tag must prevent.
        assert!(world.outside.things.lock().unwrap().insert(self.0), "{} was made twice", self.0);
        match way {
            Some(Way::ActsAndTheAnswerIsLost | Way::DiesHavingActed) => Err("the answer was lost".to_owned()),
            _ => Ok(format!("{} made", self.0)),
        }
    }
    async fn stands(&self, world: &mut World, _: &String) -> bool {
        // The load lives in the server's memory and is gone with the process; everything else outlives it.
        self.0 != "load" && world.outside.things.lock().unwrap().contains(self.0)
    }
}

struct Book {
    outside: Outside,
    trouble: Option<(&'static str, Way)>,
}

#[async_trait]
impl Journal for Book {
    async fn append(&self, _: &str, step: &str, event: &Event) -> Result<(), Refused> {
        let refuses = match (self.trouble.filter(|(at, _)| *at == step), event) {
            (Some((_, Way::JournalRefusesStarted)), Event::Started) => true,
            (Some((_, Way::JournalRefusesSucceeded)), Event::Succeeded(_)) => true,
            // A process that died writes nothing any more.
            (Some((_, Way::DiesAfterStarted | Way::DiesHavingActed)), Event::Succeeded(_) | Event::Failed(_)) => true,
            _ => false,
        };
        if refuses {
            return Err(Refused("disk full".to_owned()));
        }
        self.outside.events.lock().unwrap().push((step.to_owned(), event.clone()));
        Ok(())
    }
    async fn events(&self, _: &str) -> Result<Vec<(String, Event)>, Refused> {
        Ok(self.outside.events.lock().unwrap().clone())
    }
}

/// Runs all steps; says whether they all succeeded and the process lives to clean up.
async fn process(outside: &Outside, trouble: Option<(&'static str, Way)>) -> (bool, World, Book) {
    let (mut world, book) = (World { outside: outside.clone(), trouble, undos: 0 }, Book { outside: outside.clone(), trouble });
    let mut done = true;
    {
        let mut saga = Saga::open("run", &book).await.unwrap();
        for step in STEPS {
            done = saga.step(&mut world, &Make(step)).await.is_ok();
            if !done || trouble == Some((step, Way::DiesAfterSucceeded)) {
                done = false;
                break;
            }
        }
    }
    (done, world, book)
}

async fn clean(world: &mut World, book: &Book) {
    let steps: Vec<Make> = STEPS.map(Make).into();
    let undos: Vec<&dyn Undo<World>> = steps.iter().map(|step| step as &dyn Undo<World>).collect();
    let mut saga = Saga::open("run", book).await.unwrap();
    assert_eq!(saga.unwind(world, &undos).await, Vec::<String>::new());
}

fn things(outside: &Outside) -> Vec<&'static str> {
    outside.things.lock().unwrap().iter().copied().collect()
}

#[tokio::test]
async fn whichever_step_fails_in_whichever_way_abort_leaves_an_empty_world() {
    for step in STEPS {
        for way in WAYS {
            let outside = Outside::default();
            let (done, _, _) = process(&outside, Some((step, way))).await;
            assert!(!done, "{step} {way:?}");
            // Another process, which knows the journal only.
            let (mut world, book) =
                (World { outside: outside.clone(), trouble: None, undos: 0 }, Book { outside: outside.clone(), trouble: None });
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
            let outside = Outside::default();
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
    let outside = Outside::default();
    process(&outside, Some(("server", Way::JournalRefusesStarted))).await;
    assert_eq!(things(&outside), ["network"]);
}

#[tokio::test]
async fn what_stands_is_not_made_again_and_what_does_not_is() {
    let outside = Outside::default();
    assert!(process(&outside, None).await.0);
    let before = outside.events.lock().unwrap().len();
    let (done, world, _) = process(&outside, None).await;
    assert!(done);
    assert_eq!(world.undos, 1, "only the load had to be undone");
    let after: Vec<_> = outside.events.lock().unwrap()[before..].iter().map(|(step, _)| step.clone()).collect();
    assert_eq!(after, ["load"; 3]);
}

#[tokio::test]
async fn an_undo_that_fails_does_not_keep_the_others_from_happening() {
    struct Stuck;
    #[async_trait]
    impl Undo<World> for Stuck {
        fn name(&self) -> &'static str {
            "load"
        }
        async fn undo(&self, _: &mut World) -> Result<(), String> {
            Err("it does not want to go".to_owned())
        }
    }
    let outside = Outside::default();
    let (_, mut world, book) = process(&outside, None).await;
    let first: Vec<Make> = STEPS[..3].iter().copied().map(Make).collect();
    let mut undos: Vec<&dyn Undo<World>> = first.iter().map(|step| step as &dyn Undo<World>).collect();
    undos.push(&Stuck);
    let mut saga = Saga::open("run", &book).await.unwrap();
    assert_eq!(saga.unwind(&mut world, &undos).await, ["load: it does not want to go"]);
    assert_eq!(things(&outside), ["load"]);
}

//! What was made a moment ago: lists do not have it yet, and it is not ready yet.
//!
//! - Eventual consistency: a new thing is missing from so many looks that would have shown it, by
//!   id it is NotFound; calls that use it work
//!   at once. <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>
//! - A thing in the state `pending` is in it for so many looks.

use super::listing::Listing;
use super::query::Query;
use super::rules::Fault;
use super::world::{Answer, Countdown, State, World};
use super::xml::Node;

#[derive(Debug, Default)]
pub struct Thing {
    pub unseen: Countdown,
    pub coming: Countdown,
    pub fate: Fate,
}

/// What it comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Ready,
    Fails,
    /// It is pending for ever.
    Never,
}

impl Thing {
    /// In words of the kind it is of.
    pub fn state(&self, words: [&'static str; 3]) -> &'static str {
        let [pending, ready, failed] = words;
        match self.fate {
            Fate::Never => pending,
            _ if !self.coming.done() => pending,
            Fate::Ready => ready,
            Fate::Fails => failed,
        }
    }

    pub fn look(&mut self) {
        if self.fate != Fate::Never {
            self.coming.tick();
        }
    }

    pub fn settle(&mut self) {
        self.unseen.end();
        if self.fate != Fate::Never {
            self.coming.end();
        }
    }
}

/// Takes in what a call made; it is coming for so many looks.
pub fn made(world: &World, query: &Query, id: &str, coming: u32, fate: Fate) {
    let subjects: Vec<&str> = query.params.values().map(String::as_str).collect();
    let unseen = world.rules.take(query, &subjects, |fault| matches!(fault, Fault::Unseen(_)));
    let looks =
        if let Some(Fault::Unseen(looks)) = unseen { looks } else { world.state().settings.lag };
    take_in(world, query, id, looks, coming, fate);
}

/// Takes in what came with it.
pub fn came(world: &World, query: &Query, id: &str) {
    let looks = world.state().settings.lag;
    take_in(world, query, id, looks, 0, Fate::Ready);
}

fn take_in(world: &World, query: &Query, id: &str, looks: u32, coming: u32, fate: Fate) {
    let mut state = world.state();
    state.things.insert(
        id.to_owned(),
        Thing { unseen: Countdown::of(looks), coming: Countdown::of(coming), fate },
    );
    state.newest.insert((query.region.clone(), prefix(id).to_owned()), id.to_owned());
}

/// What ids of a kind begin with.
pub fn prefix(id: &str) -> &str {
    id.rsplit_once('-').map_or(id, |(prefix, _)| prefix)
}

/// The state of a thing that may be new.
pub fn state_of(state: &State, id: &str, words: [&'static str; 3]) -> &'static str {
    state.things.get(id).map_or(words[1], |thing| thing.state(words))
}

/// A page of a list that does not have what is too new; each look brings nearer what it asks for.
pub fn page(
    world: &World,
    query: &Query,
    listing: &Listing,
    items: Vec<Node>,
) -> Answer<(Vec<Node>, Vec<String>)> {
    let (shown, hidden): (Vec<Node>, Vec<Node>) = {
        let state = world.state();
        let seen = |item: &Node| {
            state.things.get(item.get(listing.id)).is_none_or(|thing| thing.unseen.done())
        };
        items.into_iter().partition(seen)
    };
    // Further pages belong to the same look.
    if query.get("NextToken").is_none() {
        for item in &hidden {
            if listing.wants(query, item)? {
                world.state().things.get_mut(item.get(listing.id)).unwrap().unseen.tick();
            }
        }
    }
    let page = listing.page(world, query, shown)?;
    let mut state = world.state();
    for id in &page.1 {
        state.things.get_mut(id).into_iter().for_each(Thing::look);
    }
    Ok(page)
}

/// The page as the children of an answer.
pub fn look(world: &World, query: &Query, listing: &Listing, items: Vec<Node>) -> Answer {
    Ok(page(world, query, listing, items)?.0)
}

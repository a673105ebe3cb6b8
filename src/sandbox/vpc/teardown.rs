//! Teardown: removing what carries a run's tags, in order of dependency, and the census that shows
//! that nothing is left.
//!
//! It does not need to know how far the run got: a resource whose id was never learned is found by
//! its tags like any other. Listings are eventually consistent, so only several empty listings in a
//! row count.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::ScratchVpc;
use super::cloud::{
    ApiCall, CloudError, CloudResource, GroupRule, OwnedResource, ResourceFacts, ResourceKind,
    ResourceScope, RulePeer,
};

/// Rounds of looking in which nothing may be found before nothing is there.
const EMPTY_ROUNDS: u32 = 3;
/// Into what part of a wait teardown's time shrinks once something could not be removed.
const HURRY: u32 = 8;
/// Rounds of removing what showed up late.
const ROUNDS_MAX: u32 = 20;

/// Whether it is on its way out, and need not be told again.
fn is_going(thing: &CloudResource) -> bool {
    let state = thing.state.to_ascii_lowercase();
    matches!(state.as_str(), "shutting-down" | "deleting" | "deleted")
}

impl ScratchVpc {
    /// Teardown's time begins with the first thing that is removed from now on.
    pub fn about_to_tear_down(&mut self) {
        self.deadline = None;
    }

    /// How long teardown may still take for one kind of thing.
    fn allowance(&mut self) -> Duration {
        let settle = self.spec.settings.settle_within.duration();
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + 2 * settle);
        deadline.saturating_duration_since(Instant::now()).min(settle)
    }

    /// Shortens what is left of teardown's time.
    fn hurry(&mut self) {
        let soon = Instant::now() + self.spec.settings.settle_within.duration() / HURRY;
        self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
    }

    async fn own_of(&mut self, kind: ResourceKind) -> Result<Vec<CloudResource>, CloudError> {
        let mut things = self.look(kind, &ResourceScope::Tagged(self.own.clone())).await?;
        things.retain(|thing| !thing.is_gone());
        Ok(things)
    }

    /// Removes everything of a kind that carries the run's tags, and waits until it is gone.
    ///
    /// # Errors
    /// What is left, and what is in its way.
    pub async fn remove_all(&mut self, kind: ResourceKind) -> Result<(), String> {
        self.remove_those(kind, |_| true).await
    }

    /// The same for those of a kind that are meant.
    ///
    /// # Errors
    /// What is left, and what is in its way.
    pub async fn remove_those(
        &mut self,
        kind: ResourceKind,
        meant: fn(&CloudResource) -> bool,
    ) -> Result<(), String> {
        let removed = self.remove_kind(kind, meant).await;
        if removed.is_err() {
            // What is left holds other things, and waiting for those as long again would help
            // nobody.
            self.hurry();
        }
        removed
    }

    async fn remove_kind(
        &mut self,
        kind: ResourceKind,
        meant: fn(&CloudResource) -> bool,
    ) -> Result<(), String> {
        let (allowed, begun) = (self.allowance(), Instant::now());
        let mut said = String::new();
        loop {
            let mut left = self.own_of(kind).await.map_err(|error| error.to_string())?;
            left.retain(meant);
            let lingering =
                if kind == ResourceKind::Interface { self.lingering().await? } else { Vec::new() };
            if left.is_empty() && lingering.is_empty() {
                return Ok(());
            }
            for thing in &left {
                if let ResourceFacts::SecurityGroup { ingress, egress, .. } = &thing.facts {
                    self.break_references(&thing.id, ingress, egress).await?;
                }
            }
            for thing in left.iter().filter(|thing| !is_going(thing)) {
                if let Some(why) = self.remove(thing).await? {
                    said = why;
                }
            }
            if begun.elapsed() >= allowed {
                let ids = left
                    .iter()
                    .chain(&lingering)
                    .map(|thing| format!("{} {}", kind.name(), thing.id))
                    .collect::<Vec<_>>()
                    .join(", ");
                let blockers = self.blockers().await;
                let said = if said.is_empty() { String::new() } else { format!(": {said}") };
                return Err(format!(
                    "{ids} still there after {} s{said}{blockers}",
                    allowed.as_secs()
                ));
            }
            self.pause().await;
        }
    }

    /// Asks for one thing's removal. What must wait is told, what was refused for good is an error.
    async fn remove(&mut self, thing: &CloudResource) -> Result<Option<String>, String> {
        // Only what carries the tags can be held at all.
        let Some(owned) = OwnedResource::of(thing, &self.own) else { return Ok(None) };
        // An interface of ours goes with the instance; one that does not can be removed once it is
        // free.
        if thing.kind == ResourceKind::Interface && thing.state == "in-use" {
            return Ok(Some("it is in use".to_owned()));
        }
        match self.act(&ApiCall::Remove(owned)).await {
            Ok(_) | Err(CloudError::Missing { .. }) => Ok(None),
            Err(
                CloudError::Busy { why, .. }
                | CloudError::Unavailable { why, .. }
                | CloudError::Unknown { why, .. },
            ) => Ok(Some(why)),
            Err(error) => Err(format!("{} {}: {error}", thing.kind.name(), thing.id)),
        }
    }

    /// Two groups that name each other hold each other.
    async fn break_references(
        &mut self,
        group: &str,
        ingress: &[GroupRule],
        egress: &[GroupRule],
    ) -> Result<(), String> {
        for (rules, is_egress) in [(ingress, false), (egress, true)] {
            let rules: Vec<GroupRule> = rules
                .iter()
                .filter(|rule| matches!(rule.peer, RulePeer::Group(_)))
                .cloned()
                .collect();
            if rules.is_empty() {
                continue;
            }
            let dropped = self
                .act(&ApiCall::DropRules { group: group.to_owned(), egress: is_egress, rules })
                .await;
            // Everything else is tried again with the group.
            if let Err(error @ (CloudError::Refused { .. } | CloudError::Nonsense { .. })) = dropped
            {
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    /// Interfaces in our VPCs that carry no tags: those of endpoints, which stay for a while after
    /// them.
    async fn lingering(&mut self) -> Result<Vec<CloudResource>, String> {
        let mut found = Vec::new();
        for vpc in self.own_of(ResourceKind::Vpc).await.map_err(|error| error.to_string())? {
            let interfaces = self
                .look(ResourceKind::Interface, &ResourceScope::Vpc(vpc.id))
                .await
                .map_err(|error| error.to_string())?;
            found.extend(
                interfaces
                    .into_iter()
                    .filter(|interface| OwnedResource::of(interface, &self.own).is_none()),
            );
        }
        Ok(found)
    }

    /// What may be in the way: EC2 does not say.
    async fn blockers(&mut self) -> String {
        let mut found = Vec::new();
        let Ok(vpcs) = self.own_of(ResourceKind::Vpc).await else { return String::new() };
        for vpc in vpcs {
            for kind in [
                ResourceKind::Interface,
                ResourceKind::Instance,
                ResourceKind::Endpoint,
                ResourceKind::Subnet,
                ResourceKind::SecurityGroup,
            ]
            .into_iter()
            .chain(ResourceKind::WAYS_OUT)
            {
                for thing in
                    self.look(kind, &ResourceScope::Vpc(vpc.id.clone())).await.unwrap_or_default()
                {
                    let said = match &thing.facts {
                        ResourceFacts::Interface { description, .. } => format!(" ({description})"),
                        ResourceFacts::SecurityGroup { name, .. } if name == "default" => continue,
                        _ if thing.is_gone() => continue,
                        _ => String::new(),
                    };
                    found.push(format!("{} {}{said}", kind.name(), thing.id));
                }
            }
        }
        if found.is_empty() {
            String::new()
        } else {
            format!("; in the VPC are {}", found.join(", "))
        }
    }

    /// Removes everything of every kind, until several looks in a row find nothing.
    ///
    /// # Errors
    /// What is left.
    pub async fn delete_all_tagged(&mut self) -> Result<(), String> {
        let mut empty = 0;
        for round in 0..ROUNDS_MAX {
            if round > 0 {
                self.pause().await;
            }
            let mut found = false;
            let mut failures = Vec::new();
            for kind in ResourceKind::OURS {
                match self.own_of(kind).await {
                    Ok(things) if things.is_empty() => {}
                    Ok(_) => {
                        found = true;
                        failures.extend(self.remove_all(kind).await.err());
                    }
                    Err(error) => failures.push(error.to_string()),
                }
            }
            if !failures.is_empty() {
                return Err(failures.join("; "));
            }
            empty = if found { 0 } else { empty + 1 };
            if empty == EMPTY_ROUNDS {
                return Ok(());
            }
        }
        Err("things of this run kept showing up".to_owned())
    }

    /// Revokes the run's grants.
    ///
    /// # Errors
    /// What could not be revoked.
    pub async fn revoke_grants(&mut self) -> Result<(), String> {
        let name = self.grant_name();
        let mut failures = Vec::new();
        for grant in self.spec.grants.clone() {
            *self.looks.entry("grant".to_owned()).or_default() += 1;
            let found = match self.cloud.grants(&grant.key).await {
                Ok(found) => found,
                // Whoever may not list grants may not have made one; a key that is gone grants
                // nothing.
                Err(CloudError::Missing { .. }) => continue,
                Err(error) => {
                    failures.push(error.to_string());
                    continue;
                }
            };
            for one in found.into_iter().filter(|one| one.name == name) {
                match self
                    .act(&ApiCall::RevokeGrant { key: grant.key.clone(), grant: one.id })
                    .await
                {
                    Ok(_) | Err(CloudError::Missing { .. }) => {}
                    Err(error) => failures.push(error.to_string()),
                }
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    /// Counts what still carries the run's tags, of every kind, and its grants. What cannot be
    /// counted counts as left.
    pub async fn census(&mut self) -> (BTreeMap<String, u64>, Vec<String>) {
        let (mut counts, mut left) = (BTreeMap::new(), Vec::new());
        for kind in ResourceKind::OURS {
            match self.own_of(kind).await {
                Ok(things) => {
                    counts.insert(kind.name().to_owned(), things.len() as u64);
                    left.extend(things.iter().map(|thing| {
                        format!("{} {} ({})", kind.name(), thing.id, self.spec.settings.region)
                    }));
                }
                Err(error) => left.push(format!("{}s could not be counted: {error}", kind.name())),
            }
        }
        let name = self.grant_name();
        let mut grants = 0;
        for key in self.spec.grants.iter().map(|grant| grant.key.clone()).collect::<Vec<_>>() {
            match self.cloud.grants(&key).await {
                Ok(found) => {
                    let ours: Vec<_> =
                        found.into_iter().filter(|grant| grant.name == name).collect();
                    grants += ours.len() as u64;
                    left.extend(
                        ours.into_iter().map(|grant| format!("grant {} on {key}", grant.id)),
                    );
                }
                Err(CloudError::Missing { .. }) => {}
                Err(error) => left.push(format!("grants on {key} could not be counted: {error}")),
            }
        }
        counts.insert("grant".to_owned(), grants);
        (counts, left)
    }
}

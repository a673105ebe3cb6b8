//! The archive tier. <https://docs.aws.amazon.com/ebs/latest/userguide/snapshot-archive.html>
//!
//! A snapshot can be used while it is being archived, and again when it is restored; a temporary
//! restore ends by itself.

use jiff::{SignedDuration, Timestamp};

use super::listing::Listing;
use super::query::Query;
use super::snapshots;
use super::world::{Answer, Countdown, World, refusal, written_time};
use super::xml::Node;

#[derive(Debug, Clone, Default)]
pub struct Tier {
    archived: bool,
    archived_on: Option<Timestamp>,
    until: Option<Timestamp>,
    last: Option<Operation>,
}

#[derive(Debug, Clone)]
struct Operation {
    kind: Kind,
    begun: Timestamp,
    countdown: Countdown,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Archival,
    Temporary { days: i64 },
    Permanent,
}

impl Tier {
    pub fn restored_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.until.filter(|until| self.archived && *until > now)
    }

    /// Not in the archive, or restored from it.
    pub fn readable(&self, now: Timestamp) -> bool {
        !self.archived || self.restored_until(now).is_some()
    }

    /// Temporarily restored snapshots are in the standard tier.
    /// <https://docs.aws.amazon.com/ebs/latest/userguide/view-archived-snapshot.html>
    pub fn name(&self, now: Timestamp) -> &'static str {
        if self.readable(now) { "standard" } else { "archive" }
    }

    pub fn restoring(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|last| !matches!(last.kind, Kind::Archival) && !last.countdown.done())
    }

    fn begin(&mut self, kind: Kind, now: Timestamp, looks: u32) {
        self.last = Some(Operation { kind, begun: now, countdown: Countdown::of(looks) });
        if looks == 0 {
            self.end(kind, now);
        }
    }

    pub fn tick(&mut self, now: Timestamp) {
        let ended = self.last.as_mut().and_then(|last| last.countdown.tick().then_some(last.kind));
        ended.into_iter().for_each(|kind| self.end(kind, now));
    }

    fn end(&mut self, kind: Kind, now: Timestamp) {
        match kind {
            Kind::Archival => {
                (self.archived, self.archived_on, self.until) = (true, Some(now), None)
            }
            Kind::Temporary { days } => {
                self.until = Some(now + SignedDuration::from_hours(24 * days))
            }
            Kind::Permanent => (self.archived, self.until) = (false, None),
        }
    }

    fn told(&self, now: Timestamp) -> Vec<Node> {
        let mut told = vec![Node::leaf("storageTier", self.name(now))];
        if let Some(last) = &self.last {
            let kind = match last.kind {
                Kind::Archival => "archival",
                Kind::Temporary { .. } => "temporary-restore",
                Kind::Permanent => "permanent-restore",
            };
            let how = if last.countdown.done() { "completed" } else { "in-progress" };
            told.push(Node::leaf("lastTieringOperationStatus", format!("{kind}-{how}")));
            told.push(Node::leaf("lastTieringProgress", last.countdown.percent()));
            told.push(Node::leaf("lastTieringStartTime", written_time(last.begun)));
        }
        let times = [
            ("archivalCompleteTime", self.archived_on),
            ("restoreExpiryTime", self.restored_until(now)),
        ];
        told.extend(
            times
                .into_iter()
                .filter_map(|(name, time)| Some(Node::leaf(name, written_time(time?)))),
        );
        told
    }
}

/// Only what is completed and no image uses; sharing ends with it.
/// <https://docs.aws.amazon.com/ebs/latest/userguide/archive-snapshot.html>
pub fn archive(world: &World, query: &Query, account: &str) -> Answer {
    let id = query.get("SnapshotId").unwrap_or_default();
    if query.get("StorageTier") != Some("archive") {
        return Err(refusal("InvalidParameterValue", "StorageTier must be archive"));
    }
    let mut state = world.state();
    let (now, looks) = (state.now(), state.settings.tier);
    let used = state.images.values().any(|image| image.snapshot == id);
    let snap = state.own(query, account, id)?;
    snapshots::usable(snap, now)?;
    if used {
        return Err(refusal(
            "InvalidSnapshot.InUse",
            format!("The snapshot {id} is currently in use by an image"),
        ));
    }
    snap.tier.begin(Kind::Archival, now, looks);
    snap.shared.clear();
    Ok(vec![Node::leaf("snapshotId", id), Node::leaf("tieringStartTime", written_time(now))])
}

/// For 1 to 180 days, 1 if it is not said, or for good; what is restored for some days can be
/// restored for others, from now on. <https://docs.aws.amazon.com/ebs/latest/userguide/restore-archived-snapshot.html>
pub fn restore(world: &World, query: &Query, account: &str) -> Answer {
    let id = query.get("SnapshotId").unwrap_or_default();
    let permanent = query.is("PermanentRestore");
    let days = query
        .get("TemporaryRestoreDays")
        .unwrap_or("1")
        .parse()
        .ok()
        .filter(|days| (1..=180).contains(days));
    let days = days.ok_or_else(|| {
        refusal("InvalidParameterValue", "TemporaryRestoreDays must be from 1 to 180")
    })?;
    let mut state = world.state();
    let (now, looks) = (state.now(), state.settings.tier);
    let snap = state.own(query, account, id)?;
    if !snap.tier.archived || snap.tier.restoring() {
        return Err(refusal(
            "IncorrectState",
            format!("{id} is not in the archive tier, or being restored"),
        ));
    }
    let looks = if snap.tier.readable(now) { 0 } else { looks };
    snap.tier.begin(if permanent { Kind::Permanent } else { Kind::Temporary { days } }, now, looks);
    let mut told =
        vec![Node::leaf("snapshotId", id), Node::leaf("restoreStartTime", written_time(now))];
    told.push(Node::leaf("isPermanentRestore", permanent));
    if !permanent {
        told.push(Node::leaf("restoreDuration", days));
    }
    Ok(told)
}

const LISTING: Listing = Listing {
    set: "snapshotTierStatusSet",
    id: "snapshotId",
    asked: "",
    missing: None,
    values: filter_values,
};

fn filter_values(item: &Node, filter: &str) -> Option<Vec<String>> {
    let field = match filter {
        "snapshot-id" => "snapshotId",
        "volume-id" => "volumeId",
        "last-tiering-operation" => "lastTieringOperationStatus",
        _ => return None,
    };
    Some(vec![item.get(field).to_owned()])
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSnapshotTierStatus.html>
pub async fn describe(world: &World, query: &Query, account: &str) -> Answer {
    let mut items = snapshots::all(world, query, account).await?;
    items.retain(|item| item.get("ownerId") == account);
    {
        let state = world.state();
        for item in &mut items {
            item.children.retain(|child| {
                ["snapshotId", "volumeId", "status", "ownerId", "tagSet"]
                    .contains(&child.name.as_str())
            });
            item.children.extend(state.snapshots[item.get("snapshotId")].tier.told(state.now()));
        }
    }
    let (answer, ids) = LISTING.page(world, query, items)?;
    let mut state = world.state();
    let now = state.now();
    for id in ids {
        state.snapshots.get_mut(&id).unwrap().tier.tick(now);
    }
    Ok(answer)
}

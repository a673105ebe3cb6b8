//! Locks of snapshots. <https://docs.aws.amazon.com/ebs/latest/userguide/snapshot-lock-concepts.html>

use jiff::{SignedDuration, Timestamp};

use super::listing::Listing;
use super::query::Query;
use super::world::{Answer, World, refusal, written_time};
use super::xml::Node;

#[derive(Debug, Clone)]
pub struct Lock {
    pub compliance: bool,
    days: Option<i64>,
    created: Timestamp,
    /// None: the snapshot is pending.
    begun: Option<Timestamp>,
    cooling_off_hours: Option<i64>,
    expires: Timestamp,
}

impl Lock {
    pub fn begin(&mut self, now: Timestamp) {
        self.begun = Some(now);
        if let Some(days) = self.days {
            self.expires = now + SignedDuration::from_hours(24 * days);
        }
    }

    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    pub fn cooling_off_until(&self) -> Option<Timestamp> {
        self.cooling_off_hours.map(|hours| self.created + SignedDuration::from_hours(hours))
    }

    pub fn holds(&self, now: Timestamp) -> bool {
        self.state(now) != "expired"
    }

    pub fn state(&self, now: Timestamp) -> &'static str {
        match self.compliance {
            _ if self.begun.is_some() && now >= self.expires => "expired",
            false => "governance",
            true if self.cooling_off_until().is_some_and(|until| now < until) => {
                "compliance-cooloff"
            }
            true => "compliance",
        }
    }

    fn told(&self, id: &str, now: Timestamp) -> Vec<Node> {
        let mut told = vec![
            Node::leaf("snapshotId", id),
            Node::leaf("lockState", self.state(now)),
            Node::leaf("lockCreatedOn", written_time(self.created)),
            Node::leaf("lockExpiresOn", written_time(self.expires)),
        ];
        let numbers = [("lockDuration", self.days), ("coolOffPeriod", self.cooling_off_hours)];
        told.extend(numbers.into_iter().filter_map(|(name, value)| Some(Node::leaf(name, value?))));
        let times = [
            ("coolOffPeriodExpiresOn", self.cooling_off_until()),
            ("lockDurationStartTime", self.begun),
        ];
        told.extend(
            times
                .into_iter()
                .filter_map(|(name, value)| Some(Node::leaf(name, written_time(value?)))),
        );
        told
    }
}

/// Governance can always be changed, compliance only while it cools off; afterwards only
/// lengthened, and with no further cooling-off. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_LockSnapshot.html>. No page names the code of what is not permitted.
pub fn lock(world: &World, query: &Query, account: &str) -> Answer {
    let id = query.get("SnapshotId").unwrap_or_default();
    let mut state = world.state();
    let now = state.now();
    let snap = state.own(query, account, id)?;
    if snap.state() == "error" {
        return Err(refusal("IncorrectState", format!("{id} is neither pending nor completed")));
    }
    let mut lock = asked(query, now)?;
    if let Some(old) = snap.lock.as_ref().filter(|old| old.state(now) == "compliance") {
        let shorter = lock.expires < old.expires;
        if shorter || !lock.compliance || lock.cooling_off_hours.is_some() {
            return Err(refusal(
                "OperationNotPermitted",
                format!("{id} is locked in compliance mode: its lock can only be lengthened"),
            ));
        }
    }
    if let Some(old) =
        snap.lock.as_ref().filter(|old| old.holds(now) && old.compliance == lock.compliance)
    {
        lock.created = old.created;
    }
    if snap.state() == "completed" {
        lock.begin(now);
    }
    let told = lock.told(id, now);
    snap.lock = Some(lock);
    Ok(told)
}

/// Exactly one of days, from 1 to 36,500, and a date; 1 to 72 hours of cooling-off, for compliance
/// only.
fn asked(query: &Query, now: Timestamp) -> Answer<Lock> {
    let compliance = match query.get("LockMode") {
        Some("compliance") => true,
        Some("governance") => false,
        other => return Err(refusal("InvalidParameterValue", format!("LockMode {other:?}"))),
    };
    let number = |name: &str, most: i64| match query.get(name) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
            _ => Err(refusal(
                "InvalidParameterValue",
                format!("{name} {text} is not from 1 to {most}"),
            )),
        },
    };
    let (days, cooling_off_hours) = (number("LockDuration", 36_500)?, number("CoolOffPeriod", 72)?);
    let until = query.get("ExpirationDate").map(str::parse::<Timestamp>);
    if cooling_off_hours.is_some() && !compliance {
        return Err(refusal(
            "InvalidParameterCombination",
            "CoolOffPeriod is for compliance mode only",
        ));
    }
    let expires = match (days, until) {
        (Some(days), None) => now + SignedDuration::from_hours(24 * days),
        (None, Some(Ok(until))) if until > now => until,
        (None, Some(_)) => {
            return Err(refusal("InvalidParameterValue", "ExpirationDate must be in the future"));
        }
        _ => {
            return Err(refusal(
                "InvalidParameterCombination",
                "Either LockDuration or ExpirationDate must be specified",
            ));
        }
    };
    Ok(Lock { compliance, days, created: now, begun: None, cooling_off_hours, expires })
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_UnlockSnapshot.html>
pub fn unlock(world: &World, query: &Query, account: &str) -> Answer {
    let id = query.get("SnapshotId").unwrap_or_default();
    let mut state = world.state();
    let now = state.now();
    let snap = state.own(query, account, id)?;
    match snap.lock.as_ref().map(|lock| lock.state(now)) {
        Some("compliance") => {
            Err(refusal("OperationNotPermitted", format!("{id} is locked in compliance mode")))
        }
        Some("governance" | "compliance-cooloff") => {
            snap.lock = None;
            Ok(vec![Node::leaf("snapshotId", id)])
        }
        _ => Err(refusal("IncorrectState", format!("{id} is not locked"))),
    }
}

/// An id without a lock is no error, one without a snapshot is.
const LISTING: Listing = Listing {
    set: "snapshotSet",
    id: "snapshotId",
    asked: "SnapshotId",
    missing: None,
    values: filter_values,
};

fn filter_values(item: &Node, filter: &str) -> Option<Vec<String>> {
    (filter == "lock-state").then(|| vec![item.get("lockState").to_owned()])
}

/// Of a snapshot without a lock there is nothing; of an expired one there is.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeLockedSnapshots.html>
pub fn describe(world: &World, query: &Query, account: &str) -> Answer {
    let items = {
        let state = world.state();
        for id in query.list("SnapshotId") {
            state.snapshot(query, account, &id)?;
        }
        let here = state
            .snapshots
            .iter()
            .filter(|(_, snap)| snap.region == query.region && snap.account == account);
        let locked = here.filter_map(|(id, snap)| {
            let mut told = snap.lock.as_ref()?.told(id, state.now());
            told.push(Node::leaf("ownerId", account));
            Some(Node::new("item", told))
        });
        locked.collect()
    };
    Ok(LISTING.page(world, query, items)?.0)
}

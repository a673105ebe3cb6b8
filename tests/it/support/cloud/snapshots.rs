//! Snapshots and their copies.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::listing::Listing;
use super::query::{Query, tag_params};
use super::rules::Fault;
use super::world::{Answer, Countdown, Snap, World, key_arn, key_of, refusal, written_time};
use super::xml::Node;

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSnapshot.html>
pub async fn create(world: &World, query: &Query, account: &str) -> Answer {
    let id = query.get("VolumeId").unwrap_or_default().to_owned();
    let volume = world.volume(query, &id).await?;
    may_cut(world, &volume)?;
    let tags = query.tags("snapshot");
    Ok(cut(world, query, account, &volume, &tags).await?.children)
}

/// All volumes of an instance at one moment, or none: moto leaves out no data volumes and copies no
/// tags, so the front asks it for one after the other. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSnapshots.html>,
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceSpecification.html>
pub async fn create_together(world: &World, query: &Query, account: &str) -> Answer {
    let instance = query.get("InstanceSpecification.InstanceId").unwrap_or_default();
    let root = world.instance(query, instance).await?.get("rootDeviceName").to_owned();
    let left_out = query.list("InstanceSpecification.ExcludeDataVolumeId");
    let attached = |item: &Node| item.get("attachmentSet/item/instanceId") == instance;
    let is_root = |item: &Node| item.get("attachmentSet/item/device") == root;
    let mut volumes: Vec<Node> =
        world.volumes(query).await?.into_values().filter(attached).collect();
    for id in &left_out {
        match volumes.iter().find(|item| item.get("volumeId") == id) {
            Some(item) if !is_root(item) => {}
            Some(_) => {
                return Err(refusal(
                    "InvalidParameterValue",
                    format!("{id} is the root volume: use ExcludeBootVolume"),
                ));
            }
            None => {
                return Err(refusal(
                    "InvalidParameterValue",
                    format!("{id} is not attached to {instance}"),
                ));
            }
        }
    }
    if left_out.len() > 40 {
        return Err(refusal(
            "InvalidParameterValue",
            "You can specify up to 40 volume IDs per request",
        ));
    }
    volumes.retain(|item| !left_out.iter().any(|id| item.get("volumeId") == id));
    volumes.retain(|item| !(is_root(item) && query.is("InstanceSpecification.ExcludeBootVolume")));
    if volumes.is_empty() {
        return Err(refusal(
            "InvalidParameterValue",
            format!("{instance} has no volumes to take snapshots of"),
        ));
    }
    for volume in &volumes {
        may_cut(world, volume)?;
    }
    let mut items = Vec::new();
    for volume in &volumes {
        let mut tags = BTreeMap::new();
        if query.get("CopyTagsFromSource") == Some("volume") {
            let own = volume
                .items("tagSet")
                .iter()
                .map(|tag| (tag.get("key").to_owned(), tag.get("value").to_owned()));
            tags.extend(own.filter(|(key, _)| !key.starts_with("aws:")));
        }
        tags.extend(query.tags("snapshot"));
        let mut item = cut(world, query, account, volume, &tags).await?;
        // It has another name here than everywhere else.
        item.set("state", "pending");
        item.remove("status");
        item.name = "item".to_owned();
        items.push(item);
    }
    Ok(vec![Node::new("snapshotSet", items)])
}

/// Five pending snapshots of a volume, one of `st1` and `sc1`: ConcurrentSnapshotLimitExceeded.
/// <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-creating-snapshot.html>,
/// <https://docs.aws.amazon.com/general/latest/gr/ebs-service.html>
fn may_cut(world: &World, volume: &Node) -> Answer<()> {
    let (state, id) = (world.state(), volume.get("volumeId"));
    if !state.volumes[id].creating.done() {
        return Err(refusal("IncorrectState", format!("{id} is being created")));
    }
    let pending = state
        .snapshots
        .values()
        .filter(|snap| snap.volume == id && snap.copy_of.is_none() && !snap.pending.done())
        .count();
    let most = if ["st1", "sc1"].contains(&volume.get("volumeType")) {
        1
    } else {
        state.settings.pending_per_volume
    };
    if pending >= most {
        let why = "Maximum allowed in-progress snapshots for a single volume exceeded.";
        return Err(refusal("ConcurrentSnapshotLimitExceeded", why));
    }
    Ok(())
}

/// One snapshot, with the content that the volume has now.
async fn cut(
    world: &World,
    query: &Query,
    account: &str,
    volume: &Node,
    tags: &BTreeMap<String, String>,
) -> Answer<Node> {
    let id = volume.get("volumeId");
    let mut params = tag_params("snapshot", tags);
    params.extend(query.those(&["Description"]));
    params.push(("VolumeId".to_owned(), id.to_owned()));
    let mut answer = world.moto(query, "CreateSnapshot", &params).await?;
    let snapshot = answer.get("snapshotId").to_owned();
    world.copy_content(id, &snapshot);
    let fails = world
        .rules
        .strikes(query, &[id], &Fault::SnapshotFails)
        .then(|| "An internal error has occurred".to_owned());
    let mut state = world.state();
    let (lineage, key) = (state.volumes[id].lineage.clone(), state.volumes[id].key.clone());
    let snap = Snap {
        lineage,
        key,
        fails,
        volume: id.to_owned(),
        pending: Countdown::of(state.settings.snapshot),
        ..new(query, account, &answer, state.now())
    };
    state.snapshots.insert(snapshot, snap);
    answer.set("status", "pending");
    answer.set("progress", "");
    answer.remove("requestId");
    Ok(answer)
}

pub fn new(query: &Query, account: &str, answer: &Node, now: Timestamp) -> Snap {
    Snap {
        region: query.region.clone(),
        account: account.to_owned(),
        volume: answer.get("volumeId").to_owned(),
        copy_of: None,
        lineage: answer.get("volumeId").to_owned(),
        key: None,
        gib: answer.get("volumeSize").parse().unwrap_or(1),
        description: query.get("Description").unwrap_or_default().to_owned(),
        started: now,
        pending: Countdown::default(),
        fails: None,
        shared: BTreeSet::new(),
        lock: None,
        tier: super::tiers::Tier::default(),
    }
}

/// A completed snapshot of another account that everybody may use.
pub fn foreign(query: &Query, id: &str, now: Timestamp) -> Snap {
    let answer = Node::new(
        "",
        vec![Node::leaf("volumeId", format!("vol-{id}")), Node::leaf("volumeSize", 1)],
    );
    Snap { shared: BTreeSet::from(["all".to_owned()]), ..new(query, "999999999999", &answer, now) }
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CopySnapshot.html> and
/// <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-copy-snapshot.html>:
///
/// - A key goes with `Encrypted`; without a key it is the account's default key for EBS.
/// - The source must be completed, in the standard tier, and the caller's or shared with it.
/// - 20 copies under way to a region: ResourceLimitExceeded.
/// - Tags are not copied, and the volume's id means nothing.
/// - A key that is not accessible is told of in StateMessage only, and later. A key of another
///   region is one.
/// - An unencrypted copy of an encrypted snapshot cannot be.
pub async fn copy(world: &World, query: &Query, account: &str) -> Answer {
    let (source, from) = (
        query.get("SourceSnapshotId").unwrap_or_default(),
        query.get("SourceRegion").unwrap_or_default(),
    );
    if query.get("KmsKeyId").is_some() && !query.is("Encrypted") {
        return Err(refusal(
            "InvalidParameterDependency",
            "The parameter KmsKeyId requires the parameter Encrypted to be set",
        ));
    }
    if query.get("Encrypted") == Some("false") {
        return Err(refusal("InvalidParameterValue", "You cannot set Encrypted to false"));
    }
    let (gib, lineage, encrypted) = {
        let state = world.state();
        let snap =
            state.snapshot(&Query { region: from.to_owned(), ..query.clone() }, account, source)?;
        usable(snap, state.now())?;
        let under_way = |snap: &&Snap| {
            snap.copy_of.is_some() && snap.region == query.region && !snap.pending.done()
        };
        if state.snapshots.values().filter(under_way).count() >= state.settings.copies_per_region {
            let why = format!(
                "Too many snapshot copies in progress. The limit is {} for this destination region.",
                state.settings.copies_per_region
            );
            return Err(refusal("ResourceLimitExceeded", why));
        }
        (snap.gib, snap.lineage.clone(), query.is("Encrypted") || snap.key.is_some())
    };
    let key = encrypted.then(|| key_arn(query, account));
    let answer = world.bare_snapshot(query, gib, encrypted, &query.tags("snapshot")).await?;
    let id = answer.get("snapshotId").to_owned();
    world.copy_content(source, &id);
    let refused = world.rules.strikes(query, &[source], &Fault::CopyRefused)
        || key.as_ref().is_some_and(|key| !key_of(&query.region, key));
    let mut state = world.state();
    let snap = Snap {
        volume: "vol-ffffffff".to_owned(),
        copy_of: Some(source.to_owned()),
        lineage: format!("{lineage} in {} under {key:?}", query.region),
        fails: refused.then(|| "Given key ID is not accessible".to_owned()),
        key,
        gib,
        pending: Countdown::of(state.settings.copy),
        ..new(query, account, &answer, state.now())
    };
    state.snapshots.insert(id.clone(), snap);
    Ok(std::iter::once(Node::leaf("snapshotId", id))
        .chain(answer.child("tagSet").cloned())
        .collect())
}

/// Only a completed snapshot in the standard tier can be copied or made a volume of.
/// <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-copy-snapshot.html>,
/// <https://docs.aws.amazon.com/ebs/latest/userguide/restore-archived-snapshot.html>
pub fn usable(snap: &Snap, now: Timestamp) -> Answer<()> {
    if snap.state() != "completed" {
        return Err(refusal(
            "IncorrectState",
            format!("Snapshot is in invalid state - {}", snap.state()),
        ));
    }
    if !snap.tier.readable(now) {
        return Err(refusal(
            "IncorrectState",
            "Snapshot is in the archive tier and must be restored first",
        ));
    }
    Ok(())
}

const LISTING: Listing = Listing {
    set: "snapshotSet",
    id: "snapshotId",
    asked: "SnapshotId",
    missing: Some("InvalidSnapshot.NotFound"),
    values: filter_values,
};

/// The filters of <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSnapshots.html>
fn filter_values(item: &Node, filter: &str) -> Option<Vec<String>> {
    let field = match filter {
        "description" | "encrypted" | "progress" | "status" => filter,
        "owner-id" => "ownerId",
        "owner-alias" => "ownerAlias",
        "snapshot-id" => "snapshotId",
        "start-time" => "startTime",
        "storage-tier" => "storageTier",
        "transfer-type" => "transferType",
        "volume-id" => "volumeId",
        "volume-size" => "volumeSize",
        _ => return None,
    };
    Some(vec![item.get(field).to_owned()])
}

/// Everything that the caller may use, or what belongs to the owners it asks for; each look brings
/// what is pending nearer. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSnapshots.html>
pub async fn describe(world: &World, query: &Query, account: &str) -> Answer {
    let mut items = all(world, query, account).await?;
    let owners = query.list("Owner");
    let mine = |owner: &str| {
        owners.iter().any(|wanted| wanted == owner || (wanted == "self" && owner == account))
    };
    items.retain(|item| owners.is_empty() || mine(item.get("ownerId")));
    let (answer, ids) = LISTING.page(world, query, items)?;
    let mut state = world.state();
    let now = state.now();
    for id in ids {
        let snap = state.snapshots.get_mut(&id).unwrap();
        if snap.pending.tick() {
            completed(snap, now);
        }
        snap.tier.tick(now);
    }
    Ok(answer)
}

/// A lock that was put on a pending snapshot begins when it is completed, and is no more if it
/// fails. <https://docs.aws.amazon.com/ebs/latest/userguide/snapshot-lock-considerations.html>
pub fn completed(snap: &mut Snap, now: Timestamp) {
    match (&mut snap.lock, &snap.fails) {
        (Some(_), Some(_)) => snap.lock = None,
        (Some(lock), None) => lock.begin(now),
        (None, _) => {}
    }
}

/// The snapshots that an account may use in a region, as DescribeSnapshots tells of them.
pub async fn all(world: &World, query: &Query, account: &str) -> Answer {
    let answer = world.moto(query, "DescribeSnapshots", &[]).await?;
    let state = world.state();
    let mut items: Vec<Node> = answer.items("snapshotSet").to_vec();
    items.retain(|item| state.snapshots.contains_key(item.get("snapshotId")));
    let others = state.snapshots.iter().filter(|(_, snap)| {
        snap.region == query.region && snap.account != account && snap.open_to(account)
    });
    items.extend(others.map(|(id, _)| Node::new("item", vec![Node::leaf("snapshotId", id)])));
    for item in &mut items {
        told(&state.snapshots[item.get("snapshotId")], item, state.now());
    }
    Ok(items)
}

/// What moto has wrong.
fn told(snap: &Snap, item: &mut Node, now: Timestamp) {
    item.set("volumeId", &snap.volume);
    item.set("volumeSize", snap.gib);
    item.set("description", &snap.description);
    item.set("ownerId", &snap.account);
    item.set("startTime", written_time(snap.started));
    item.set("status", snap.state());
    item.set(
        "progress",
        if snap.state() == "error" {
            String::new()
        } else {
            format!("{}%", snap.pending.percent())
        },
    );
    item.set("encrypted", snap.key.is_some());
    item.set("storageTier", snap.tier.name(now));
    for (name, value) in [
        ("kmsKeyId", snap.key.clone()),
        ("restoreExpiryTime", snap.tier.restored_until(now).map(written_time)),
    ] {
        value.into_iter().for_each(|value| item.set(name, value));
    }
    if snap.copy_of.is_some() {
        item.set("transferType", "standard");
    }
    if let ("error", Some(why)) = (snap.state(), &snap.fails) {
        item.set("statusMessage", why);
    }
}

/// Not while it is locked, and not if an image uses it. No page names the code of the first; the
/// one that names the second: <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>
pub async fn delete(world: &World, query: &Query, account: &str) -> Answer {
    let id = query.get("SnapshotId").unwrap_or_default();
    {
        let mut state = world.state();
        let now = state.now();
        let snap = state.own(query, account, id)?;
        if snap.lock.as_ref().is_some_and(|lock| lock.holds(now)) {
            return Err(refusal(
                "SnapshotLocked",
                format!("The snapshot '{id}' is locked and can't be deleted."),
            ));
        }
        if let Some((image, _)) = state.images.iter().find(|(_, image)| image.snapshot == id) {
            return Err(refusal(
                "InvalidSnapshot.InUse",
                format!("The snapshot {id} is currently in use by {image}"),
            ));
        }
    }
    world.moto(query, "DeleteSnapshot", &[("SnapshotId".to_owned(), id.to_owned())]).await?;
    world.state().snapshots.remove(id);
    world.forget_content(id);
    Ok(vec![Node::leaf("return", true)])
}

/// Who may use it. Of what is encrypted under the default key nobody else, and of what is encrypted
/// not everybody. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifySnapshotAttribute.html>
pub fn share(world: &World, query: &Query, account: &str) -> Answer {
    let asked = |verb: &str| {
        let entries = (1..).map_while(|n| {
            let [user, group] = ["UserId", "Group"].map(|name| {
                query.get(&format!("CreateVolumePermission.{verb}.{n}.{name}")).map(str::to_owned)
            });
            user.or(group)
        });
        let by_type =
            query.get("OperationType").is_some_and(|kind| kind.eq_ignore_ascii_case(verb));
        let named = if by_type {
            [query.list("UserId"), query.list("UserGroup")].concat()
        } else {
            Vec::new()
        };
        entries.chain(named).collect::<Vec<String>>()
    };
    let (added, removed) = (asked("Add"), asked("Remove"));
    if added.is_empty() == removed.is_empty() {
        return Err(refusal("InvalidParameterCombination", "Either add or remove accounts"));
    }
    let mut state = world.state();
    let snap = state.own(query, account, query.get("SnapshotId").unwrap_or_default())?;
    let key = snap.key.as_deref().unwrap_or_default();
    if !added.is_empty()
        && (key.ends_with("alias/aws/ebs")
            || (!key.is_empty() && added.iter().any(|who| who == "all")))
    {
        return Err(refusal(
            "OperationNotPermitted",
            format!("Snapshots encrypted with {key} cannot be shared so"),
        ));
    }
    snap.shared.extend(added);
    snap.shared.retain(|who| !removed.contains(who));
    Ok(vec![Node::leaf("return", true)])
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSnapshotAttribute.html>
pub fn describe_sharing(world: &World, query: &Query, account: &str) -> Answer {
    let id = query.get("SnapshotId").unwrap_or_default();
    let mut state = world.state();
    let entry = |who: &String| {
        Node::new("item", vec![Node::leaf(if who == "all" { "group" } else { "userId" }, who)])
    };
    let items = state.own(query, account, id)?.shared.iter().map(entry).collect();
    Ok(vec![Node::leaf("snapshotId", id), Node::new("createVolumePermission", items)])
}

//! Volumes: made, attached, detached, deleted.

use super::listing::Listing;
use super::query::Query;
use super::rules::Fault;
use super::snapshots;
use super::world::{Answer, Countdown, GIB, Moving, Vol, World, key_arn, key_of, refusal};
use super::xml::Node;

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateVolume.html>:
///
/// - A client token makes it idempotent, see `tokens`.
/// - A key goes with `Encrypted`; without one it is that of the snapshot, or the account's default
///   key for EBS.
///   <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption.html>
/// - A key that is not accessible is noticed later, and the volume is gone then. A key of another
///   region is one.
///   <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-cloud-watch-events.html#create-volume>
pub async fn create(world: &World, query: &Query, account: &str) -> Answer {
    let plan = planned(world, query, account)?;
    let (snapshot, of_other_region) =
        (plan.snapshot.clone(), plan.key.as_ref().is_some_and(|key| !key_of(&query.region, key)));
    let mut item = build(world, query, plan).await?;
    let refused = world.rules.strikes(
        query,
        &[snapshot.as_deref().unwrap_or_default()],
        &Fault::VolumeVanishes,
    );
    let mut state = world.state();
    state.volumes.get_mut(item.get("volumeId")).unwrap().vanishes = refused || of_other_region;
    item.set("status", "creating");
    Ok(item.children)
}

/// What a volume is to be.
pub struct Plan {
    zone: String,
    gib: u64,
    /// It is larger than its snapshot.
    grows: bool,
    pub key: Option<String>,
    lineage: Option<String>,
    snapshot: Option<String>,
    rate: Option<u32>,
    /// What moto is to keep.
    params: Vec<(String, String)>,
}

/// Checks what is asked for; nothing happens.
pub fn planned(world: &World, query: &Query, account: &str) -> Answer<Plan> {
    let zone = query.get("AvailabilityZone").unwrap_or_default();
    if zone.strip_prefix(query.region.as_str()).is_none_or(|letter| letter.len() != 1) {
        return Err(refusal("InvalidZone.NotFound", format!("The zone '{zone}' does not exist.")));
    }
    if query.get("KmsKeyId").is_some() && !query.is("Encrypted") {
        return Err(refusal(
            "InvalidParameterDependency",
            "The parameter KmsKeyId requires the parameter encrypted to be set.",
        ));
    }
    let rate = query.get("VolumeInitializationRate").and_then(|rate| rate.parse().ok());
    if rate.is_some_and(|rate| !(100..=300).contains(&rate))
        || (rate.is_some() && query.get("SnapshotId").is_none())
    {
        return Err(refusal(
            "InvalidParameterValue",
            "VolumeInitializationRate: from 100 to 300, and of a snapshot",
        ));
    }
    let size: Option<u64> = query.get("Size").and_then(|size| size.parse().ok());
    let (mut gib, mut key, mut lineage) =
        (size, query.is("Encrypted").then(|| key_arn(query, account)), None);
    let mut grows = false;
    if let Some(id) = query.get("SnapshotId") {
        let state = world.state();
        let snap = state.snapshot(query, account, id)?;
        snapshots::usable(snap, state.now())?;
        if size.is_some_and(|size| size < snap.gib) {
            return Err(refusal(
                "InvalidParameterValue",
                "The size of a volume can't be smaller than that of its snapshot",
            ));
        }
        grows = size.is_some_and(|size| size > snap.gib);
        gib = size.or(Some(snap.gib));
        if snap.key.is_some() && query.get("KmsKeyId").is_none() {
            key = Some(
                snap.key
                    .clone()
                    .filter(|_| snap.account == account)
                    .unwrap_or_else(|| key_arn(query, account)),
            );
        }
        lineage = Some(snap.lineage.clone()).filter(|_| key == snap.key);
    }
    let gib = gib.ok_or_else(|| {
        refusal("MissingParameter", "The request must contain the parameter size or snapshotId")
    })?;
    let params = query.those(&[
        "AvailabilityZone",
        "VolumeType",
        "Iops",
        "Throughput",
        "MultiAttachEnabled",
        "TagSpecification.",
    ]);
    Ok(Plan {
        zone: zone.to_owned(),
        gib,
        grows,
        key,
        lineage,
        snapshot: query.get("SnapshotId").map(str::to_owned),
        rate,
        params,
    })
}

/// Makes it, with the content of its snapshot.
pub async fn build(world: &World, query: &Query, plan: Plan) -> Answer<Node> {
    let mut params = plan.params;
    params.push(("Size".to_owned(), plan.gib.to_string()));
    for (name, value) in [
        ("Encrypted", plan.key.as_ref().map(|_| "true".to_owned())),
        ("KmsKeyId", plan.key.clone()),
    ] {
        params.extend(value.map(|value| (name.to_owned(), value)));
    }
    let mut item = world.moto(query, "CreateVolume", &params).await?;
    let id = item.get("volumeId").to_owned();
    match &plan.snapshot {
        Some(snapshot) => world.copy_content(snapshot, &id),
        None => world.new_content(&id, plan.gib * GIB),
    }
    if plan.grows {
        std::fs::File::options()
            .write(true)
            .open(world.content(&id))
            .unwrap()
            .set_len(plan.gib * GIB)
            .unwrap();
    }
    let mut state = world.state();
    let looks = &state.settings;
    let volume = Vol {
        region: query.region.clone(),
        zone: plan.zone,
        lineage: plan.lineage.unwrap_or_else(|| id.clone()),
        vanishes: false,
        key: plan.key,
        creating: Countdown::of(looks.volume),
        filling: Countdown::of(if plan.snapshot.is_some() { looks.filling } else { 0 }),
        snapshot: plan.snapshot,
        rate: plan.rate,
        moving: None,
    };
    told(&volume, &mut item);
    item.remove("requestId");
    item.remove("attachmentSet");
    state.volumes.insert(id, volume);
    Ok(item)
}

/// What moto does not know.
fn told(volume: &Vol, item: &mut Node) {
    item.set("encrypted", volume.key.is_some());
    for (name, value) in [
        ("kmsKeyId", volume.key.clone()),
        ("snapshotId", volume.snapshot.clone()),
        ("volumeInitializationRate", volume.rate.map(|rate| rate.to_string())),
    ] {
        value.into_iter().for_each(|value| item.set(name, value));
    }
    if !volume.creating.done() {
        item.set("status", "creating");
    }
    // What a class provides without being asked. <https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html>
    match item.get("volumeType") {
        "gp3" if item.child("throughput").is_none() => item.set("throughput", 125),
        "gp2" => item.set("iops", (3 * item.get("size").parse::<u64>().unwrap()).max(100)),
        _ => {}
    }
    if let Some(moving) = &volume.moving {
        let fields = [
            ("volumeId", item.get("volumeId")),
            ("instanceId", &moving.instance),
            ("device", &moving.device),
        ];
        let mut fields: Vec<Node> =
            fields.into_iter().map(|(name, value)| Node::leaf(name, value)).collect();
        fields
            .extend([Node::leaf("status", moving.state), Node::leaf("attachTime", &moving.since)]);
        item.put(Node::new("attachmentSet", vec![Node::new("item", fields)]));
        item.set("status", "in-use");
    }
}

/// All volumes of the account in the region, as DescribeVolumes tells of them.
pub async fn all(world: &World, query: &Query) -> Answer {
    let mut volumes = world.volumes(query).await?;
    let state = world.state();
    let going = |id: &String| {
        state
            .machines
            .values()
            .any(|machine| machine.volumes.iter().any(|(_, volume, goes)| *goes && volume == id))
    };
    for (id, item) in &mut volumes {
        told(&state.volumes[id], item);
        let goes = going(id);
        let attached = item
            .children
            .iter_mut()
            .find(|child| child.name == "attachmentSet")
            .and_then(|set| set.children.first_mut());
        attached.into_iter().for_each(|attached| attached.set("deleteOnTermination", goes));
    }
    Ok(volumes.into_values().collect())
}

const LISTING: Listing = Listing {
    set: "volumeSet",
    id: "volumeId",
    asked: "VolumeId",
    missing: Some("InvalidVolume.NotFound"),
    values: filter_values,
};

/// The filters of <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeVolumes.html>
fn filter_values(item: &Node, filter: &str) -> Option<Vec<String>> {
    let attachment = match filter {
        "attachment.attach-time" => "attachTime",
        "attachment.delete-on-termination" => "deleteOnTermination",
        "attachment.device" => "device",
        "attachment.instance-id" => "instanceId",
        "attachment.status" => "status",
        _ => "",
    };
    if !attachment.is_empty() {
        return Some(
            item.items("attachmentSet")
                .iter()
                .map(|item| item.get(attachment).to_owned())
                .collect(),
        );
    }
    let field = match filter {
        "encrypted" | "size" | "status" => filter,
        "availability-zone" => "availabilityZone",
        "create-time" => "createTime",
        "fast-restored" => "fastRestored",
        "multi-attach-enabled" => "multiAttachEnabled",
        "snapshot-id" => "snapshotId",
        "volume-id" => "volumeId",
        "volume-type" => "volumeType",
        _ => return None,
    };
    Some(vec![item.get(field).to_owned()])
}

/// Each look brings nearer what is under way; what was refused its key is gone then.
pub async fn describe(world: &World, query: &Query) -> Answer {
    let items = all(world, query).await?;
    let (answer, ids) = LISTING.page(world, query, items)?;
    let mut gone = Vec::new();
    {
        let mut state = world.state();
        for id in ids {
            let volume = state.volumes.get_mut(&id).unwrap();
            if volume.creating.tick() && volume.vanishes {
                gone.push(id);
                continue;
            }
            let arrived = volume.moving.as_mut().is_some_and(|moving| {
                !moving.stuck && (moving.countdown.tick() || moving.countdown.done())
            });
            if arrived {
                volume.moving = None;
            }
        }
    }
    for id in gone {
        world.remove_volume(query, &id).await?;
    }
    Ok(answer)
}

/// A volume of another zone: InvalidVolume.ZoneMismatch; one that is attached: VolumeInUse; one
/// that is not there yet: IncorrectState. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AttachVolume.html>,
/// <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>
pub async fn attach(world: &World, query: &Query) -> Answer {
    let [id, instance, device] =
        ["VolumeId", "InstanceId", "Device"].map(|name| query.get(name).unwrap_or_default());
    let place = world.instance(query, instance).await?;
    let volumes = all(world, query).await?;
    let item = volumes.iter().find(|item| item.get("volumeId") == id);
    let item = item.ok_or_else(|| {
        refusal("InvalidVolume.NotFound", format!("The volume '{id}' does not exist."))
    })?;
    if item.get("availabilityZone") != place.get("placement/availabilityZone") {
        let why = format!(
            "The volume '{id}' is not in the same availability zone as instance '{instance}'"
        );
        return Err(refusal("InvalidVolume.ZoneMismatch", why));
    }
    match item.get("status") {
        "available" => {}
        "in-use" => {
            return Err(refusal("VolumeInUse", format!("{id} is already attached to an instance")));
        }
        state => {
            return Err(refusal(
                "IncorrectState",
                format!("{id} is not 'available', but '{state}'."),
            ));
        }
    }
    let there = |item: &Node| {
        item.get("attachmentSet/item/instanceId") == instance
            && item.get("attachmentSet/item/device") == device
    };
    if device.is_empty() || volumes.iter().any(there) {
        let why = format!(
            "Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
        );
        return Err(refusal("InvalidParameterValue", why));
    }
    let answer = world
        .moto(query, "AttachVolume", &query.those(&["VolumeId", "InstanceId", "Device"]))
        .await?;
    let stuck = world.rules.strikes(query, &[id, instance], &Fault::NeverAttaches);
    move_volume(world, id, "attaching", &answer, stuck);
    Ok(without_request_id(answer))
}

/// What is not attached: IncorrectState; the root volume of a running instance:
/// OperationNotPermitted. moto wants the instance, EC2 does not. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DetachVolume.html>
pub async fn detach(world: &World, query: &Query) -> Answer {
    let id = query.get("VolumeId").unwrap_or_default();
    let item = world.volume(query, id).await?;
    let [instance, device] = ["instanceId", "device"]
        .map(|name| item.get(&format!("attachmentSet/item/{name}")).to_owned());
    if instance.is_empty() {
        return Err(refusal(
            "IncorrectState",
            format!("Volume '{id}' is in the 'available' state."),
        ));
    }
    if query.get("InstanceId").is_some_and(|asked| asked != instance) {
        return Err(refusal(
            "InvalidAttachment.NotFound",
            format!("{id} is not attached to that instance"),
        ));
    }
    let place = world.instance(query, &instance).await?;
    if place.get("rootDeviceName") == device && place.get("instanceState/name") == "running" {
        return Err(refusal(
            "OperationNotPermitted",
            format!("Unable to detach root volume '{device}' from instance '{instance}'"),
        ));
    }
    let params = [("VolumeId", id), ("InstanceId", instance.as_str()), ("Device", device.as_str())];
    let answer = world
        .moto(
            query,
            "DetachVolume",
            &params.map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
        .await?;
    move_volume(world, id, "detaching", &answer, false);
    Ok(without_request_id(answer))
}

fn move_volume(world: &World, id: &str, how: &'static str, answer: &Node, stuck: bool) {
    let mut state = world.state();
    let looks = state.settings.attachment;
    let moving = Moving {
        state: how,
        instance: answer.get("instanceId").to_owned(),
        device: answer.get("device").to_owned(),
        since: answer.get("attachTime").to_owned(),
        countdown: Countdown::of(looks),
        stuck,
    };
    state.volumes.get_mut(id).unwrap().moving = (looks > 0 || stuck).then_some(moving);
}

fn without_request_id(mut answer: Node) -> Vec<Node> {
    answer.remove("requestId");
    answer.children
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteVolume.html>
pub async fn delete(world: &World, query: &Query) -> Answer {
    let id = query.get("VolumeId").unwrap_or_default();
    let mut item = world.volume(query, id).await?;
    told(&world.state().volumes[id], &mut item);
    match item.get("status") {
        "in-use" => {
            return Err(refusal(
                "VolumeInUse",
                format!("Volume {id} is currently attached to an instance"),
            ));
        }
        "creating" => {
            return Err(refusal("IncorrectState", format!("The volume '{id}' is 'creating'")));
        }
        _ => {}
    }
    world.remove_volume(query, id).await?;
    Ok(vec![Node::leaf("return", true)])
}

const STATUS: Listing = Listing {
    set: "volumeStatusSet",
    id: "volumeId",
    asked: "VolumeId",
    missing: Some("InvalidVolume.NotFound"),
    values: status_values,
};

fn status_values(item: &Node, filter: &str) -> Option<Vec<String>> {
    match filter {
        "availability-zone" => Some(vec![item.get("availabilityZone").to_owned()]),
        "volume-status.status" => Some(vec![item.get("volumeStatus/status").to_owned()]),
        _ => None,
    }
}

/// How much of a volume has been read in from its snapshot; of one that is being created, or is of
/// no snapshot, nothing is known. <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-initialize-monitor.html>,
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InitializationStatusDetails.html>
pub async fn describe_status(world: &World, query: &Query) -> Answer {
    let volumes = world.volumes(query).await?;
    let items = {
        let state = world.state();
        volumes.keys().map(|id| status(id, &state.volumes[id])).collect()
    };
    let (answer, ids) = STATUS.page(world, query, items)?;
    let mut state = world.state();
    for id in ids {
        let volume = state.volumes.get_mut(&id).unwrap();
        if volume.creating.done() {
            volume.filling.tick();
        }
    }
    Ok(answer)
}

fn status(id: &str, volume: &Vol) -> Node {
    let detail = |name: &str, status: &str| {
        Node::new("item", vec![Node::leaf("name", name), Node::leaf("status", status)])
    };
    let mut details =
        vec![detail("io-enabled", "passed"), detail("io-performance", "not-applicable")];
    let mut item = Node::new(
        "item",
        vec![
            Node::leaf("volumeId", id),
            Node::leaf("availabilityZone", &volume.zone),
            Node::leaf("eventsSet", ""),
        ],
    );
    if volume.snapshot.is_some() && volume.creating.done() {
        let kind = if volume.rate.is_some() { "provisioned-rate" } else { "default" };
        let mut known = vec![
            Node::leaf("initializationType", kind),
            Node::leaf("progress", volume.filling.percent()),
        ];
        if volume.rate.is_some() {
            known.push(Node::leaf(
                "estimatedTimeToCompleteInSeconds",
                if volume.filling.done() { 0 } else { 60 },
            ));
        }
        item.put(Node::new("initializationStatusDetails", known));
        details.push(detail(
            "initialization-state",
            if volume.filling.done() { "completed" } else { "initializing" },
        ));
    }
    item.put(Node::new(
        "volumeStatus",
        vec![Node::leaf("status", "ok"), Node::new("details", details)],
    ));
    item
}

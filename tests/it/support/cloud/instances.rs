//! Instances: told of, ended, and what they write on their console.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::interfaces::group_item;
use super::listing::{Listing, found};
use super::machines::{Machine, Stage};
use super::network::missing;
use super::query::Query;
use super::things;
use super::world::{Answer, Countdown, Refusal, State, World, written_time};
use super::xml::Node;

const LISTING: Listing = Listing {
    set: "instancesSet",
    id: "instanceId",
    asked: "InstanceId",
    missing: Some("InvalidInstanceID.NotFound"),
    // <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>
    values: |item, filter| {
        let paths = [
            ("architecture", "architecture"),
            ("availability-zone", "placement/availabilityZone"),
            ("block-device-mapping.device-name", "blockDeviceMapping/item/deviceName"),
            ("block-device-mapping.volume-id", "blockDeviceMapping/item/ebs/volumeId"),
            ("client-token", "clientToken"),
            ("iam-instance-profile.arn", "iamInstanceProfile/arn"),
            ("image-id", "imageId"),
            ("instance.group-id", "groupSet/item/groupId"),
            ("instance-id", "instanceId"),
            ("instance-state-code", "instanceState/code"),
            ("instance-state-name", "instanceState/name"),
            ("instance-type", "instanceType"),
            (
                "network-interface.network-interface-id",
                "networkInterfaceSet/item/networkInterfaceId",
            ),
            ("network-interface.subnet-id", "networkInterfaceSet/item/subnetId"),
            ("network-interface.vpc-id", "networkInterfaceSet/item/vpcId"),
            ("private-ip-address", "privateIpAddress"),
            ("root-device-name", "rootDeviceName"),
            ("state-reason-code", "stateReason/code"),
            ("subnet-id", "subnetId"),
            ("tenancy", "placement/tenancy"),
            ("vpc-id", "vpcId"),
        ];
        found(item, filter, &paths)
    },
};

/// Those that are told of in the region, the terminated ones, too.
pub async fn all(world: &World, query: &Query) -> Answer {
    if !world.state().used("RunInstances") {
        return Ok(Vec::new());
    }
    // moto never forgets any.
    let mut params = vec![
        ("MaxResults".to_owned(), "1000".to_owned()),
        ("Filter.1.Name".to_owned(), "instance-state-name".to_owned()),
    ];
    for (n, state) in ["pending", "running", "stopping", "stopped"].iter().enumerate() {
        params.push((format!("Filter.1.Value.{}", n + 1), (*state).to_owned()));
    }
    let answer = world.moto(query, "DescribeInstances", &params).await?;
    let mut items: Vec<Node> = answer
        .items("reservationSet")
        .iter()
        .flat_map(|item| item.items("instancesSet"))
        .cloned()
        .collect();
    let state = world.state();
    for item in &mut items {
        if let Some(machine) = state.machines.get(item.get("instanceId")) {
            told(machine, item);
        }
    }
    let over = state.machines.values().filter(|machine| {
        machine.region == query.region && matches!(machine.stage, Stage::Terminated(_))
    });
    items.extend(over.filter_map(|machine| machine.last.clone()));
    Ok(items)
}

fn put_state(machine: &Machine, item: &mut Node) {
    let (code, name) = machine.stage.told();
    item.put(Node::new("instanceState", vec![Node::leaf("code", code), Node::leaf("name", name)]));
    item.remove("stateReason");
    item.set("reason", machine.reason.as_ref().map_or("", |(code, _)| code));
    if let Some((code, message)) = &machine.reason {
        item.put(Node::new(
            "stateReason",
            vec![Node::leaf("code", code), Node::leaf("message", message)],
        ));
    }
}

/// What moto does not know.
fn told(machine: &Machine, item: &mut Node) {
    put_state(machine, item);
    item.set("rootDeviceName", &machine.root);
    item.set("virtualizationType", "hvm");
    item.set("clientToken", machine.token.as_deref().unwrap_or_default());
    if let Some(arn) = &machine.profile {
        let profile = vec![Node::leaf("arn", arn), Node::leaf("id", "AIPA0000000000000FRONT")];
        item.put(Node::new("iamInstanceProfile", profile));
    }
    if let Some(placement) = item.children.iter_mut().find(|child| child.name == "placement") {
        placement.set("tenancy", &machine.tenancy);
    }
    let groups = item
        .child("networkInterfaceSet")
        .and_then(|set| set.children.first())
        .map(|nic| nic.items("groupSet").to_vec());
    item.put(Node::new("groupSet", groups.unwrap_or_default().iter().map(group_item).collect()));
    let Some(disks) = item.children.iter_mut().find(|child| child.name == "blockDeviceMapping")
    else {
        return;
    };
    for disk in &mut disks.children {
        let goes = machine
            .volumes
            .iter()
            .any(|(_, volume, goes)| *goes && volume == disk.get("ebs/volumeId"));
        if let Some(ebs) = disk.children.iter_mut().find(|child| child.name == "ebs") {
            ebs.set("deleteOnTermination", goes);
        }
    }
}

/// The answer to a repeated launch, with the present state.
pub fn retold(state: &State, answer: &mut [Node]) {
    for item in answer
        .iter_mut()
        .filter(|child| child.name == "instancesSet")
        .flat_map(|set| &mut set.children)
    {
        if let Some(machine) = state.machines.get(item.get("instanceId")) {
            put_state(machine, item);
        }
    }
}

/// Each look brings nearer what is under way; what is terminated is told of for some looks.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/terminating-instances.html>
pub async fn describe(world: &World, query: &Query, account: &str) -> Answer {
    let items = all(world, query).await?;
    let (mut answer, ids) = things::page(world, query, &LISTING, items)?;
    for id in &ids {
        let arrives = {
            let mut state = world.state();
            match state.machines.get_mut(id).map(|machine| &mut machine.stage) {
                Some(Stage::Pending(Some(countdown)) | Stage::ShuttingDown(countdown)) => {
                    countdown.tick() || countdown.done()
                }
                Some(stage @ Stage::Terminated(_)) => {
                    if let Stage::Terminated(countdown) = stage
                        && (countdown.tick() || countdown.done())
                    {
                        *stage = Stage::Gone;
                    }
                    false
                }
                _ => false,
            }
        };
        if arrives {
            arrive(world, query, id).await?;
        }
    }
    let state = world.state();
    let set = &mut answer[0];
    set.name = "reservationSet".to_owned();
    for item in &mut set.children {
        let reservation = state
            .machines
            .get(item.get("instanceId"))
            .map_or("r-00000000", |machine| &machine.reservation);
        let fields = vec![
            Node::leaf("reservationId", reservation),
            Node::leaf("ownerId", account),
            Node::leaf("groupSet", ""),
        ];
        let instances = Node::new("instancesSet", vec![std::mem::take(item)]);
        *item = Node::new("item", [fields, vec![instances]].concat());
    }
    Ok(answer)
}

/// Comes to where it is on the way to: to run, or to its end.
pub async fn arrive(world: &World, query: &Query, id: &str) -> Answer<()> {
    {
        let mut state = world.state();
        let machine = state.machines.get_mut(id).unwrap();
        match machine.stage {
            Stage::Pending(Some(_)) if machine.doomed => {
                let why = ["Client.InternalError", "Client.InternalError: Client error on launch"]
                    .map(str::to_owned);
                machine.reason = Some(why.into());
            }
            Stage::Pending(Some(_)) => {
                machine.stage = Stage::Running;
                return Ok(());
            }
            Stage::ShuttingDown(_) => {}
            _ => return Ok(()),
        }
    }
    end(world, query, id).await
}

/// Its interface goes, and the volumes that go with it, as far as they are still attached; the
/// others are free. <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/preserving-volumes-on-termination.html>
async fn end(world: &World, query: &Query, id: &str) -> Answer<()> {
    let mut last = world.instance(query, id).await?;
    let attached = last.all("blockDeviceMapping/item/ebs/volumeId");
    let interface = last.get("networkInterfaceSet/item/networkInterfaceId").to_owned();
    world.moto(query, "TerminateInstances", &[("InstanceId.1".to_owned(), id.to_owned())]).await?;
    let going: Vec<String> = {
        let mut state = world.state();
        state.things.remove(&interface);
        for volume in &attached {
            state.volumes.get_mut(volume).into_iter().for_each(|volume| volume.moving = None);
        }
        let machine = &state.machines[id];
        machine
            .volumes
            .iter()
            .filter(|(_, volume, goes)| *goes && attached.contains(volume))
            .map(|(_, volume, _)| volume.clone())
            .collect()
    };
    for volume in going {
        world.remove_volume(query, &volume).await?;
    }
    let gone = [
        "subnetId",
        "vpcId",
        "privateIpAddress",
        "ipAddress",
        "networkInterfaceSet",
        "blockDeviceMapping",
        "groupSet",
        "privateDnsName",
    ];
    gone.iter().for_each(|name| last.remove(name));
    let mut state = world.state();
    let looks = state.settings.terminated_stays;
    let machine = state.machines.get_mut(id).unwrap();
    machine.stage = if looks == 0 { Stage::Gone } else { Stage::Terminated(Countdown::of(looks)) };
    put_state(machine, &mut last);
    machine.last = Some(last);
    machine.volumes.clear();
    Ok(())
}

fn not_there(id: &str) -> Refusal {
    missing("InvalidInstanceID.NotFound", "instance", id)
}

/// Those that are there, as far as they are still told of.
fn known(state: &State, query: &Query, id: &str) -> Answer<Machine> {
    let found = state
        .machines
        .get(id)
        .filter(|machine| machine.region == query.region && !matches!(machine.stage, Stage::Gone));
    found.cloned().ok_or_else(|| not_there(id))
}

/// Of several, all or none; again, also of what is terminated, is no error.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html>
pub async fn terminate(world: &World, query: &Query) -> Answer {
    let ids = query.list("InstanceId");
    for id in &ids {
        known(&world.state(), query, id)?;
    }
    let mut items = Vec::new();
    for id in &ids {
        let before = known(&world.state(), query, id)?.stage;
        shut_down(
            world,
            query,
            id,
            [
                "Client.UserInitiatedShutdown",
                "Client.UserInitiatedShutdown: User initiated shutdown",
            ],
        )
        .await?;
        let after =
            if before.is_over() { before } else { Stage::ShuttingDown(Countdown::default()) };
        let told = |name: &str, stage: Stage| {
            let (code, word) = stage.told();
            Node::new(name, vec![Node::leaf("code", code), Node::leaf("name", word)])
        };
        items.push(Node::new(
            "item",
            vec![
                Node::leaf("instanceId", id),
                told("currentState", after),
                told("previousState", before),
            ],
        ));
    }
    Ok(vec![Node::new("instancesSet", items)])
}

async fn shut_down(world: &World, query: &Query, id: &str, reason: [&str; 2]) -> Answer<()> {
    let looks = {
        let mut state = world.state();
        let looks = state.settings.termination;
        let machine = state.machines.get_mut(id).unwrap();
        if machine.stage.is_over() || matches!(machine.stage, Stage::ShuttingDown(_)) {
            return Ok(());
        }
        machine.stage = Stage::ShuttingDown(Countdown::of(looks));
        machine.reason = Some(reason.map(str::to_owned).into());
        looks
    };
    if looks == 0 { arrive(world, query, id).await } else { Ok(()) }
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StopInstances.html>, here at once.
pub async fn stop_or_start(world: &World, query: &Query) -> Answer {
    for id in query.list("InstanceId") {
        known(&world.state(), query, &id)?;
    }
    let answer = world.moto(query, &query.action, &query.sent()).await?;
    for id in query.list("InstanceId") {
        let mut state = world.state();
        let machine = state.machines.get_mut(&id).unwrap();
        machine.stage =
            if query.action == "StopInstances" { Stage::Stopped } else { Stage::Running };
        machine.reason = None;
    }
    Ok(super::network::children(answer))
}

/// What an instance does that powers itself off.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/terminating-instances.html#Using_ChangingInstanceInitiatedShutdownBehavior>
pub async fn power_off(world: &World, query: &Query, id: &str) -> Answer<()> {
    let machine = known(&world.state(), query, id)?;
    if machine.shutdown == "terminate" {
        let reason = [
            "Client.InstanceInitiatedShutdown",
            "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
        ];
        return shut_down(world, query, id, reason).await;
    }
    let params = std::collections::BTreeMap::from([("InstanceId.1".to_owned(), id.to_owned())]);
    stop_or_start(world, &Query { params, ..query.asking("StopInstances") }).await.map(drop)
}

/// The attribute that says what happens then. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceAttribute.html>
pub async fn attribute(world: &World, query: &Query) -> Answer {
    let id = query.get("InstanceId").unwrap_or_default();
    known(&world.state(), query, id)?;
    Ok(super::network::children(
        world.moto(query, "DescribeInstanceAttribute", &query.sent()).await?,
    ))
}

/// The last 64 KiB; at first there is nothing of it.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html>
pub fn console(world: &World, query: &Query) -> Answer {
    let id = query.get("InstanceId").unwrap_or_default();
    let mut state = world.state();
    known(&state, query, id)?;
    let now = state.now();
    let machine = state.machines.get_mut(id).unwrap();
    let early = !machine.console_looks.done();
    machine.console_looks.tick();
    let output = if early { String::new() } else { BASE64.encode(&machine.console) };
    Ok(vec![
        Node::leaf("instanceId", id),
        Node::leaf("timestamp", written_time(now)),
        Node::leaf("output", output),
    ])
}

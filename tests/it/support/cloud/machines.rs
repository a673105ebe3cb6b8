//! Instances, begun. moto keeps them and their interfaces; volumes, states and the checks of a
//! launch are the front's.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::guards::vcpus;
use super::query::{Query, tag_params};
use super::rules::Fault;
use super::things::{self, Fate};
use super::world::{Answer, Countdown, Refusal, World, key_of, refusal};
use super::xml::Node;
use super::{groups, instances, network, volumes};

/// What moto does not know of an instance.
#[derive(Debug, Clone)]
pub struct Machine {
    pub region: String,
    pub reservation: String,
    pub stage: Stage,
    /// Code and message of why it is in its state.
    pub reason: Option<(String, String)>,
    pub image: String,
    pub kind: String,
    pub profile: Option<String>,
    pub tenancy: String,
    pub token: Option<String>,
    pub user_data: Option<String>,
    /// `stop` or `terminate`.
    pub shutdown: String,
    pub root: String,
    /// Those it was launched with: device, volume, and whether it goes with the instance.
    pub volumes: Vec<(String, String, bool)>,
    /// A key was refused: it ends instead of running.
    pub doomed: bool,
    pub console: Vec<u8>,
    /// So often nothing of it is there.
    pub console_looks: Countdown,
    /// As it is told of when moto has nothing more to tell.
    pub last: Option<Node>,
}

#[derive(Debug, Clone, Copy)]
pub enum Stage {
    /// None: for ever.
    Pending(Option<Countdown>),
    Running,
    Stopped,
    ShuttingDown(Countdown),
    /// Still told of for so many looks.
    Terminated(Countdown),
    Gone,
}

impl Stage {
    /// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html>
    pub fn told(self) -> (u32, &'static str) {
        match self {
            Self::Pending(_) => (0, "pending"),
            Self::Running => (16, "running"),
            Self::ShuttingDown(_) => (32, "shutting-down"),
            Self::Terminated(_) | Self::Gone => (48, "terminated"),
            Self::Stopped => (80, "stopped"),
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Self::Terminated(_) | Self::Gone)
    }
}

/// The image that is there without being registered: boots from an empty volume.
const BARE: &str = "ami-12345678";

/// What a launch needs to know of an image.
struct Boot {
    snapshot: Option<String>,
    root: String,
}

fn boot(world: &World, query: &Query) -> Answer<Boot> {
    let id = query.get("ImageId").unwrap_or_default();
    if id == BARE {
        return Ok(Boot { snapshot: None, root: "/dev/sda1".to_owned() });
    }
    let state = world.state();
    let image = state.images.get(id).filter(|image| image.region == query.region);
    let image = image.ok_or_else(|| {
        refusal("InvalidAMIID.NotFound", format!("The image id '[{id}]' does not exist"))
    })?;
    Ok(Boot { snapshot: Some(image.snapshot.clone()), root: image.root.clone() })
}

/// Where it goes: the subnet, its groups, and what else is asked of its interface.
struct Place {
    subnet: Node,
    groups: Vec<Node>,
    public: Option<String>,
    stays: bool,
    description: Option<String>,
}

/// One interface, which has the subnet and the groups, or the instance has them; without a subnet
/// it is the default one of the zone. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html>
async fn place(world: &World, query: &Query) -> Answer<Place> {
    let of_interface =
        |name: &str| query.get(&format!("NetworkInterface.1.{name}")).map(str::to_owned);
    let with_interface = query.params.keys().any(|name| name.starts_with("NetworkInterface.1."));
    if query.params.keys().any(|name| name.starts_with("NetworkInterface.2.")) {
        return Err(refusal(
            "InvalidParameterValue",
            "The front knows instances with one interface only",
        ));
    }
    if let Some(name) = ["SubnetId", "SecurityGroupId.1"]
        .iter()
        .find(|name| with_interface && query.get(name).is_some())
    {
        let why = format!(
            "Network interfaces and an instance-level {name} may not be specified on the same request"
        );
        return Err(refusal("InvalidParameterCombination", why));
    }
    if with_interface && of_interface("DeviceIndex").as_deref() != Some("0") {
        return Err(refusal(
            "InvalidParameterValue",
            "Each network interface requires a device index.",
        ));
    }
    let subnet = match query.get("SubnetId").map(str::to_owned).or_else(|| of_interface("SubnetId"))
    {
        Some(id) => network::subnet(world, query, &id).await?,
        None => {
            let zone = query
                .get("Placement.AvailabilityZone")
                .map_or_else(|| format!("{}a", query.region), str::to_owned);
            let subnets = network::subnets(world, query).await?;
            let default = subnets.into_iter().find(|item| {
                item.get("availabilityZone") == zone && item.get("defaultForAz") == "true"
            });
            default.ok_or_else(|| {
                refusal("InvalidParameterValue", format!("Invalid availability zone: [{zone}]"))
            })?
        }
    };
    let vpc = subnet.get("vpcId");
    let mut ids =
        [query.list("SecurityGroupId"), query.list("NetworkInterface.1.SecurityGroupId")].concat();
    if ids.is_empty() {
        let all = groups::all(world, query).await?;
        let default =
            all.iter().find(|item| item.get("vpcId") == vpc && item.get("groupName") == "default");
        ids.extend(default.map(|item| item.get("groupId").to_owned()));
    }
    let groups = groups::of_vpc(world, query, &ids, vpc).await?;
    let stays = of_interface("DeleteOnTermination").as_deref() == Some("false");
    Ok(Place {
        subnet,
        groups,
        public: of_interface("AssociatePublicIpAddress"),
        stays,
        description: of_interface("Description"),
    })
}

/// A volume of the launch, checked.
struct Disk {
    device: String,
    plan: volumes::Plan,
    goes: bool,
}

/// Volumes: those of the mappings, and the root volume of the image. All but that stay when the
/// instance goes, unless it is said. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_EbsBlockDevice.html>,
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/block-device-mapping-concepts.html>
fn disks(
    world: &World,
    query: &Query,
    account: &str,
    boot: &Boot,
    zone: &str,
) -> Answer<Vec<Disk>> {
    let mut asked: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for n in 1.. {
        let Some(device) = query.get(&format!("BlockDeviceMapping.{n}.DeviceName")) else { break };
        if asked.iter().any(|(other, _)| other == device) {
            return Err(refusal(
                "InvalidBlockDeviceMapping",
                format!("Invalid device name {device}: it is there twice"),
            ));
        }
        let prefix = format!("BlockDeviceMapping.{n}.Ebs.");
        let fields = query.params.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix(&prefix)?.to_owned(), value.clone()))
        });
        asked.push((device.to_owned(), fields.collect()));
    }
    if !asked.iter().any(|(device, _)| *device == boot.root) {
        asked.push((boot.root.clone(), BTreeMap::new()));
    }
    let mut disks = Vec::new();
    for (device, fields) in asked {
        let is_root = device == boot.root;
        let mut params = BTreeMap::from([("AvailabilityZone".to_owned(), zone.to_owned())]);
        for (name, value) in &fields {
            let name = if name == "VolumeSize" { "Size" } else { name };
            params.insert(name.to_owned(), value.clone());
        }
        let goes = params.remove("DeleteOnTermination").map_or(is_root, |goes| goes == "true");
        if is_root {
            if params.get("SnapshotId").is_some_and(|id| boot.snapshot.as_ref() != Some(id)) {
                return Err(refusal(
                    "InvalidBlockDeviceMapping",
                    "snapshotId cannot be modified on root device",
                ));
            }
            params.extend(boot.snapshot.clone().map(|id| ("SnapshotId".to_owned(), id)));
            if boot.snapshot.is_none() && !params.contains_key("Size") {
                params.insert("Size".to_owned(), "8".to_owned());
            }
        }
        params.extend(tag_params("volume", &query.tags("volume")));
        let of_volume = Query { params, ..query.clone() };
        disks.push(Disk { device, plan: volumes::planned(world, &of_volume, account)?, goes });
    }
    Ok(disks)
}

/// Base64, of up to 16 KiB. <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-add-user-data.html>
fn user_data(query: &Query) -> Answer<Option<String>> {
    let Some(encoded) = query.get("UserData") else { return Ok(None) };
    let plain = BASE64.decode(encoded).map_err(|_| {
        refusal("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
    })?;
    if plain.len() > 16_384 {
        return Err(refusal("InvalidParameterValue", "User data is limited to 16384 bytes"));
    }
    Ok(Some(String::from_utf8_lossy(&plain).into_owned()))
}

/// By name or ARN; whether there is one of this name is not known here.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IamInstanceProfileSpecification.html>
fn profile(query: &Query, account: &str) -> Answer<Option<String>> {
    let plain = |name: &str| {
        (1..=128).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@-_".contains(&byte))
    };
    let before = format!("arn:aws:iam::{account}:instance-profile/");
    match (query.get("IamInstanceProfile.Arn"), query.get("IamInstanceProfile.Name")) {
        (None, None) => Ok(None),
        (Some(arn), None)
            if arn
                .strip_prefix(&before)
                .and_then(|path| path.rsplit('/').next())
                .is_some_and(plain) =>
        {
            Ok(Some(arn.to_owned()))
        }
        (None, Some(name)) if plain(name) => Ok(Some(format!("{before}{name}"))),
        (Some(_), Some(_)) => Err(refusal(
            "InvalidParameterCombination",
            "The parameter 'iamInstanceProfile.name' may not be used in combination with 'iamInstanceProfile.arn'",
        )),
        (Some(text), None) | (None, Some(text)) => Err(refusal(
            "InvalidParameterValue",
            format!("Value ({text}) for parameter iamInstanceProfile is invalid"),
        )),
    }
}

/// Types are offered in some zones (Unsupported), there may be no room in one
/// (InsufficientInstanceCapacity), and the cores of what runs are limited (VcpuLimitExceeded). <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-launch.html>,
/// <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>
fn room(world: &World, query: &Query, zone: &str) -> Answer<()> {
    let kind = query.get("InstanceType").unwrap_or("m1.small");
    {
        let state = world.state();
        let zones = state.settings.offerings.get(kind);
        let zones = zones.ok_or_else(|| {
            refusal("InvalidParameterValue", format!("Invalid value '{kind}' for InstanceType."))
        })?;
        if !zone.strip_prefix(query.region.as_str()).is_some_and(|letter| zones.contains(letter)) {
            let why = format!(
                "Your requested instance type ({kind}) is not supported in your requested Availability Zone ({zone})."
            );
            return Err(refusal("Unsupported", why));
        }
        let runs = |machine: &&Machine| {
            machine.region == query.region
                && matches!(machine.stage, Stage::Pending(_) | Stage::Running)
        };
        let used: u32 =
            state.machines.values().filter(runs).map(|machine| vcpus(&machine.kind)).sum();
        if used + vcpus(kind) > state.settings.vcpus {
            let why = format!(
                "You have requested more vCPU capacity than your current vCPU limit of {} allows",
                state.settings.vcpus
            );
            return Err(refusal("VcpuLimitExceeded", why));
        }
    }
    if world.rules.strikes(query, &[zone, kind], &Fault::NoCapacity) {
        let why = format!(
            "We currently do not have sufficient {kind} capacity in the Availability Zone you requested ({zone})."
        );
        return Err(Refusal { status: 500, ..refusal("InsufficientInstanceCapacity", why) });
    }
    Ok(())
}

/// One instance. A key that is not accessible is noticed later: it ends, with the reason
/// Client.InternalError. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html>,
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-launch.html>
pub async fn run(world: &World, query: &Query, account: &str) -> Answer {
    if ["MinCount", "MaxCount"].iter().any(|name| query.get(name) != Some("1")) {
        return Err(refusal("InvalidParameterValue", "The front launches one instance at a time"));
    }
    let boot = boot(world, query)?;
    let (user_data, profile) = (user_data(query)?, profile(query, account)?);
    let place = place(world, query).await?;
    let (zone, vpc) = (place.subnet.get("availabilityZone"), place.subnet.get("vpcId"));
    let asked = query.get("Placement.Tenancy").unwrap_or("default");
    if !["default", "dedicated", "host"].contains(&asked) {
        return Err(refusal(
            "InvalidTenancy",
            format!("The tenancy value {asked} is not supported."),
        ));
    }
    let shutdown = query.get("InstanceInitiatedShutdownBehavior").unwrap_or("stop");
    if !["stop", "terminate"].contains(&shutdown) {
        return Err(refusal(
            "InvalidParameterValue",
            format!("InstanceInitiatedShutdownBehavior {shutdown}"),
        ));
    }
    let disks = disks(world, query, account, &boot, zone)?;
    room(world, query, zone)?;
    // Instances of a VPC for one tenant only are always that. <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/dedicated-instance.html>
    let of_vpc = network::vpc(world, query, vpc).await?.get("instanceTenancy").to_owned();
    let mut tenancy =
        if of_vpc == "dedicated" && asked == "default" { of_vpc } else { asked.to_owned() };
    let subject = |name: &str| query.get(name).unwrap_or_default();
    if world.rules.strikes(query, &[zone, vpc, subject("ImageId")], &Fault::WrongTenancy) {
        tenancy = if tenancy == "default" { "dedicated" } else { "default" }.to_owned();
    }
    let subjects: Vec<&str> =
        query.params.values().map(String::as_str).chain([zone, vpc]).collect();
    let refused = world.rules.strikes(query, &subjects, &Fault::LaunchRefused);
    let never = world.rules.strikes(query, &subjects, &Fault::NeverRuns);
    let doomed = refused
        || disks
            .iter()
            .any(|disk| disk.plan.key.as_ref().is_some_and(|key| !key_of(&query.region, key)));

    let mut answer = world.moto(query, "RunInstances", &params(query, &place)).await?;
    let item = answer.child("instancesSet").unwrap().children[0].clone();
    let id = item.get("instanceId").to_owned();
    let mut machine = Machine {
        region: query.region.clone(),
        reservation: answer.get("reservationId").to_owned(),
        stage: Stage::Running,
        reason: None,
        image: subject("ImageId").to_owned(),
        kind: query.get("InstanceType").unwrap_or("m1.small").to_owned(),
        profile,
        tenancy,
        token: query.get("ClientToken").map(str::to_owned),
        user_data,
        shutdown: shutdown.to_owned(),
        root: boot.root,
        volumes: Vec::new(),
        doomed,
        console: Vec::new(),
        console_looks: Countdown::of(world.state().settings.console),
        last: None,
    };
    let interface = item.get("networkInterfaceSet/item/networkInterfaceId").to_owned();
    tag(world, query, &interface).await?;
    things::came(world, query, &interface);
    for disk in disks {
        let volume = volumes::build(world, query, disk.plan).await?.get("volumeId").to_owned();
        world.state().volumes.get_mut(&volume).unwrap().creating.end();
        let attached = [("VolumeId", &volume), ("InstanceId", &id), ("Device", &disk.device)];
        world
            .moto(
                query,
                "AttachVolume",
                &attached.map(|(name, value)| (name.to_owned(), value.clone())),
            )
            .await?;
        machine.volumes.push((disk.device, volume, disk.goes));
    }
    let looks = world.state().settings.instance;
    machine.stage =
        if never { Stage::Pending(None) } else { Stage::Pending(Some(Countdown::of(looks))) };
    things::made(world, query, &id, 0, Fate::Ready);
    world.state().machines.insert(id.clone(), machine);
    // What is told of it, as if it were looked at now.
    let told = world.instance(query, &id).await?;
    if looks == 0 && !never {
        instances::arrive(world, query, &id).await?;
    }
    answer.put(Node::new("instancesSet", vec![told]));
    Ok(network::children(answer))
}

/// What moto is asked for: no volumes, and an interface that goes with the instance.
fn params(query: &Query, place: &Place) -> Vec<(String, String)> {
    let mut params = query.those(&[
        "ImageId",
        "InstanceType",
        "MinCount",
        "MaxCount",
        "UserData",
        "MetadataOptions.",
        "InstanceInitiatedShutdownBehavior",
    ]);
    params.extend(tag_params("instance", &query.tags("instance")));
    let none =
        [("BlockDeviceMapping.1.DeviceName", "/dev/sda1"), ("BlockDeviceMapping.1.NoDevice", "")];
    let mut more: Vec<(String, String)> =
        none.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    more.push(("ClientToken".to_owned(), query.get("ClientToken").unwrap_or_default().to_owned()));
    let interface =
        |name: &str, value: &str| (format!("NetworkInterface.1.{name}"), value.to_owned());
    more.push(interface("DeviceIndex", "0"));
    more.push(interface("SubnetId", place.subnet.get("subnetId")));
    more.push(interface("DeleteOnTermination", if place.stays { "false" } else { "true" }));
    more.extend(place.public.as_ref().map(|public| interface("AssociatePublicIpAddress", public)));
    more.extend(place.description.as_ref().map(|text| interface("Description", text)));
    more.extend(
        place.groups.iter().enumerate().map(|(n, group)| {
            interface(&format!("SecurityGroupId.{}", n + 1), group.get("groupId"))
        }),
    );
    params.extend(more);
    params
}

/// The interface has tags of its own. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html>, TagSpecification.N
async fn tag(world: &World, query: &Query, interface: &str) -> Answer<()> {
    let tags = query.tags("network-interface");
    if tags.is_empty() {
        return Ok(());
    }
    let mut params = vec![("ResourceId.1".to_owned(), interface.to_owned())];
    for (n, (key, value)) in tags.iter().enumerate() {
        params.extend([
            (format!("Tag.{}.Key", n + 1), key.clone()),
            (format!("Tag.{}.Value", n + 1), value.clone()),
        ]);
    }
    world.moto(query, "CreateTags", &params).await.map(drop)
}

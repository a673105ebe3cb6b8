//! How things are, for tests to look at: looking changes nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::machines::Machine;
use super::query::Query;
use super::world::{self, Answer};
use super::xml::Node;
use super::{Cloud, endpoints, instances, network, snapshots, things, volumes};

/// A snapshot as it is.
#[derive(Debug, Clone)]
pub struct SnapshotView {
    pub id: String,
    pub account: String,
    pub volume: String,
    pub copy_of: Option<String>,
    pub state: String,
    pub message: Option<String>,
    pub key: Option<String>,
    pub description: String,
    /// `standard` or `archive`.
    pub tier: String,
    pub lock: Option<LockView>,
    pub shared_with: Vec<String>,
    pub tags: BTreeMap<String, String>,
}

/// A lock as it is, if it is not expired.
#[derive(Debug, Clone)]
pub struct LockView {
    /// `governance`, `compliance` or `compliance-cooloff`.
    pub state: String,
    pub until: Timestamp,
    pub cooling_off_until: Option<Timestamp>,
}

/// A volume as it is.
#[derive(Debug, Clone)]
pub struct VolumeView {
    pub id: String,
    pub zone: String,
    pub state: String,
    pub key: Option<String>,
    pub snapshot: Option<String>,
    /// Instance, device and state.
    pub attached: Option<(String, String, String)>,
    pub tags: BTreeMap<String, String>,
}

/// An instance as it is.
#[derive(Debug, Clone)]
pub struct InstanceView {
    pub id: String,
    /// `pending`, `running`, `shutting-down` or `stopped`.
    pub state: String,
    /// Decoded.
    pub user_data: Option<String>,
    pub image: String,
    pub kind: String,
    pub zone: String,
    pub vpc: String,
    pub subnet: String,
    pub private_ip: String,
    /// The ARN of its instance profile.
    pub profile: Option<String>,
    pub tenancy: String,
    pub tags: BTreeMap<String, String>,
    /// Device and volume.
    pub volumes: Vec<(String, String)>,
    /// The client token of its launch.
    pub token: Option<String>,
}

#[derive(Debug, Clone)]
pub struct VpcView {
    pub id: String,
    pub cidr: String,
    pub tags: BTreeMap<String, String>,
}

impl Cloud {
    /// All snapshots of a region, of all accounts; looking changes nothing. Tags of other accounts
    /// than the default one are not seen.
    pub fn snapshots(&self, region: &str) -> Vec<SnapshotView> {
        let query = self.query(region, "DescribeSnapshots");
        let items = self.wait(async {
            let _turn = self.world.turn.lock().await;
            let account = self.world.account(&query).await?;
            snapshots::all(&self.world, &query, &account).await
        });
        let items = items.unwrap();
        let state = self.world.state();
        let now = state.now();
        let here = state.snapshots.iter().filter(|(_, snap)| snap.region == region);
        let view = |(id, snap): (&String, &world::Snap)| SnapshotView {
            id: id.clone(),
            account: snap.account.clone(),
            volume: snap.volume.clone(),
            copy_of: snap.copy_of.clone(),
            state: snap.state().to_owned(),
            message: snap.fails.clone().filter(|_| snap.state() == "error"),
            key: snap.key.clone(),
            description: snap.description.clone(),
            tier: snap.tier.name(now).to_owned(),
            lock: snap.lock.as_ref().filter(|lock| lock.holds(now)).map(|lock| LockView {
                state: lock.state(now).to_owned(),
                until: lock.expires(),
                cooling_off_until: lock.cooling_off_until(),
            }),
            shared_with: snap.shared.iter().cloned().collect(),
            tags: items
                .iter()
                .find(|item| item.get("snapshotId") == id)
                .map(tags_of)
                .unwrap_or_default(),
        };
        here.map(view).collect()
    }

    #[track_caller]
    pub fn snapshot(&self, region: &str, id: &str) -> SnapshotView {
        self.snapshots(region)
            .into_iter()
            .find(|snapshot| snapshot.id == id)
            .unwrap_or_else(|| panic!("there is no {id} in {region}"))
    }

    /// All volumes of a region, of the default account; looking changes nothing.
    pub fn volumes(&self, region: &str) -> Vec<VolumeView> {
        let items = self.wait(async {
            let _turn = self.world.turn.lock().await;
            volumes::all(&self.world, &self.query(region, "DescribeVolumes")).await
        });
        let items = items.unwrap();
        let told = |item: &Node, name: &str| {
            Some(item.get(name).to_owned()).filter(|text| !text.is_empty())
        };
        let view = |item: &Node| VolumeView {
            id: item.get("volumeId").to_owned(),
            zone: item.get("availabilityZone").to_owned(),
            state: item.get("status").to_owned(),
            key: told(item, "kmsKeyId"),
            snapshot: told(item, "snapshotId"),
            attached: item.items("attachmentSet").first().map(|item| {
                let [instance, device, state] =
                    ["instanceId", "device", "status"].map(|name| item.get(name).to_owned());
                (instance, device, state)
            }),
            tags: tags_of(item),
        };
        items.iter().map(view).collect()
    }

    /// The instances of a region that are not terminated.
    pub fn running(&self, region: &str) -> Vec<InstanceView> {
        let query = self.query(region, "DescribeInstances");
        let items = self.look(async { instances::all(&self.world, &query).await });
        let state = self.world.state();
        let there = |id: &str| state.machines.get(id).filter(|machine| !machine.stage.is_over());
        items
            .iter()
            .filter_map(|item| Some(instance_view(item, there(item.get("instanceId"))?)))
            .collect()
    }

    pub fn vpcs(&self, region: &str) -> Vec<VpcView> {
        let query = self.query(region, "DescribeVpcs");
        let items = self.look(async { network::vpcs(&self.world, &query).await });
        let view = |item: &Node| VpcView {
            id: item.get("vpcId").to_owned(),
            cidr: item.get("cidrBlock").to_owned(),
            tags: tags_of(item),
        };
        items.iter().map(view).collect()
    }

    /// Service and policy of the endpoints of a VPC that are available.
    pub fn endpoint_policies(&self, region: &str, vpc: &str) -> Vec<(String, serde_json::Value)> {
        let query = self.query(region, "DescribeVpcEndpoints");
        let items = self.look(async { endpoints::all(&self.world, &query).await });
        let state = self.world.state();
        let available = |item: &&Node| {
            let word = things::state_of(
                &state,
                item.get("vpcEndpointId"),
                ["pending", "available", "failed"],
            );
            item.get("vpcId") == vpc && item.get("state") == "available" && word == "available"
        };
        let policy = |item: &Node| {
            (
                item.get("serviceName").to_owned(),
                serde_json::from_str(item.get("policyDocument")).unwrap(),
            )
        };
        items.iter().filter(available).map(policy).collect()
    }

    /// Looks when nobody else does.
    pub(super) fn look<T: Send>(&self, what: impl Future<Output = Answer<T>> + Send) -> T {
        let looked = self.wait(async {
            let _turn = self.world.turn.lock().await;
            what.await
        });
        looked.unwrap()
    }
}

fn instance_view(item: &Node, machine: &Machine) -> InstanceView {
    let get = |name: &str| item.get(name).to_owned();
    let disk =
        |disk: &Node| (disk.get("deviceName").to_owned(), disk.get("ebs/volumeId").to_owned());
    InstanceView {
        id: get("instanceId"),
        state: get("instanceState/name"),
        user_data: machine.user_data.clone(),
        image: machine.image.clone(),
        kind: machine.kind.clone(),
        zone: get("placement/availabilityZone"),
        vpc: get("vpcId"),
        subnet: get("subnetId"),
        private_ip: get("privateIpAddress"),
        profile: machine.profile.clone(),
        tenancy: machine.tenancy.clone(),
        tags: tags_of(item),
        volumes: item.items("blockDeviceMapping").iter().map(disk).collect(),
        token: machine.token.clone(),
    }
}

pub(super) fn tags_of(item: &Node) -> BTreeMap<String, String> {
    item.items("tagSet")
        .iter()
        .map(|tag| (tag.get("key").to_owned(), tag.get("value").to_owned()))
        .collect()
}

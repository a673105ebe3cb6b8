//! Images that use snapshots. The front knows those that the test registers, and no others.

use super::listing::Listing;
use super::query::Query;
use super::world::{Answer, World, refusal};
use super::xml::Node;

const LISTING: Listing =
    Listing { set: "imagesSet", id: "imageId", asked: "ImageId", missing: Some("InvalidAMIID.NotFound"), values: filter_values };

/// Some of the filters of <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeImages.html>
fn filter_values(item: &Node, filter: &str) -> Option<Vec<String>> {
    let field = match filter {
        "block-device-mapping.snapshot-id" => "blockDeviceMapping/item/ebs/snapshotId",
        "image-id" => "imageId",
        "name" => "name",
        "owner-id" => "imageOwnerId",
        "state" => "imageState",
        _ => return None,
    };
    Some(vec![item.get(field).to_owned()])
}

pub fn describe(world: &World, query: &Query, account: &str) -> Answer {
    let items = {
        let state = world.state();
        let here = state.images.iter().filter(|(_, (region, _))| *region == query.region);
        here.map(|(id, (_, snapshot))| image(id, snapshot, account)).collect()
    };
    Ok(LISTING.page(world, query, items)?.0)
}

fn image(id: &str, snapshot: &str, account: &str) -> Node {
    let disk = vec![Node::leaf("deviceName", "/dev/xvda"), Node::new("ebs", vec![Node::leaf("snapshotId", snapshot)])];
    let [name, state, owner] =
        [("name", id), ("imageState", "available"), ("imageOwnerId", account)].map(|(name, value)| Node::leaf(name, value));
    let disks = Node::new("blockDeviceMapping", vec![Node::new("item", disk)]);
    Node::new("item", vec![Node::leaf("imageId", id), name, state, owner, disks])
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeregisterImage.html>
pub fn deregister(world: &World, query: &Query) -> Answer {
    let id = query.get("ImageId").unwrap_or_default();
    let known = world.state().images.remove(id);
    known.ok_or_else(|| refusal("InvalidAMIID.NotFound", format!("The image id '[{id}]' does not exist")))?;
    Ok(vec![Node::leaf("return", true)])
}

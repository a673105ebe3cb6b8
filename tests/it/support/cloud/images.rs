//! Images that use snapshots. The front knows those that the test registers, and no others.

use super::listing::Listing;
use super::query::Query;
use super::world::{Answer, Image, Snap, World, refusal, written_time};
use super::xml::Node;

const LISTING: Listing = Listing {
    set: "imagesSet",
    id: "imageId",
    asked: "ImageId",
    missing: Some("InvalidAMIID.NotFound"),
    values: filter_values,
};

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

/// All of them are the caller's. <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeImages.html>
pub fn describe(world: &World, query: &Query, account: &str) -> Answer {
    let mut items = all(world, query, account);
    let owners = query.list("Owner");
    items.retain(|_| {
        owners.is_empty() || owners.iter().any(|owner| owner == "self" || owner == account)
    });
    Ok(LISTING.page(world, query, items)?.0)
}

pub fn all(world: &World, query: &Query, account: &str) -> Vec<Node> {
    let state = world.state();
    let here = state.images.iter().filter(|(_, image)| image.region == query.region);
    here.map(|(id, image)| told(id, image, state.snapshots.get(&image.snapshot), account)).collect()
}

fn told(id: &str, image: &Image, snap: Option<&Snap>, account: &str) -> Node {
    let mut disk = vec![
        Node::leaf("snapshotId", &image.snapshot),
        Node::leaf("deleteOnTermination", true),
        Node::leaf("volumeType", "gp3"),
    ];
    disk.extend(snap.map(|snap| Node::leaf("volumeSize", snap.gib)));
    disk.push(Node::leaf("encrypted", snap.is_some_and(|snap| snap.key.is_some())));
    let disk = vec![Node::leaf("deviceName", &image.root), Node::new("ebs", disk)];
    let fields = [
        ("imageId", id),
        ("imageLocation", &format!("{account}/{}", image.name)),
        ("name", &image.name),
        ("imageState", "available"),
        ("imageOwnerId", account),
        ("isPublic", "false"),
        ("creationDate", &written_time(image.created)),
        ("architecture", "x86_64"),
        ("imageType", "machine"),
        ("rootDeviceType", "ebs"),
        ("rootDeviceName", &image.root),
        ("virtualizationType", "hvm"),
    ];
    let mut fields: Vec<Node> =
        fields.into_iter().map(|(name, value)| Node::leaf(name, value)).collect();
    fields.push(Node::new("blockDeviceMapping", vec![Node::new("item", disk)]));
    Node::new("item", fields)
}

/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeregisterImage.html>
pub fn deregister(world: &World, query: &Query) -> Answer {
    let id = query.get("ImageId").unwrap_or_default();
    let known = world.state().images.remove(id);
    known.ok_or_else(|| {
        refusal("InvalidAMIID.NotFound", format!("The image id '[{id}]' does not exist"))
    })?;
    Ok(vec![Node::leaf("return", true)])
}

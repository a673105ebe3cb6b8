//! The EBS direct APIs, over the files with the contents. <https://docs.aws.amazon.com/ebs/latest/userguide/readsnapshots.html>
//!
//! - Blocks are 512 KiB, in numerical order; only completed snapshots in the standard tier have
//!   any.
//!   <https://docs.aws.amazon.com/ebs/latest/userguide/ebsapi-faq.html>
//! - A page may hold less than was asked for, or nothing: the first one here never holds anything.
//! - Two snapshots are compared only within one lineage; a block that one of them does not have has
//!   no token for it. <https://docs.aws.amazon.com/ebs/latest/APIReference/API_ListChangedBlocks.html>
//! - A token is for one block of one snapshot, and for seven days. <https://docs.aws.amazon.com/ebs/latest/APIReference/API_Block.html>
//! - Data comes with length, checksum and algorithm in headers. <https://docs.aws.amazon.com/ebs/latest/APIReference/API_GetSnapshotBlock.html>

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::query::Query;
use super::rules::{Checksum, Fault};
use super::world::{Answer, Refusal, World, refusal};

const BLOCK: u64 = 512 * 1024;

/// What is sent: a type, further headers, and a body.
pub struct Sent {
    pub kind: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

pub async fn answer(world: &Arc<World>, query: &Query) -> Answer<Sent> {
    let account = world.account(query).await?;
    // Reading may take a while.
    let (world, query) = (Arc::clone(world), query.clone());
    let answer = move || match query.action.as_str() {
        "ListSnapshotBlocks" => list(&world, &query, &account),
        "ListChangedBlocks" => list_changed(&world, &query, &account),
        "GetSnapshotBlock" => get(&world, &query, &account),
        _ => Err(refusal("UnknownOperationException", "Only reading is modelled")),
    };
    tokio::task::spawn_blocking(answer).await.unwrap()
}

fn invalid(reason: &'static str, message: &str) -> Refusal {
    Refusal { reason: Some(reason), ..refusal("ValidationException", message) }
}

/// A snapshot whose blocks can be read.
struct Readable {
    id: String,
    lineage: String,
    gib: u64,
    content: File,
}

fn readable(world: &World, query: &Query, account: &str, id: &str) -> Answer<Readable> {
    let state = world.state();
    let missing = |_| Refusal {
        status: 404,
        reason: Some("SNAPSHOT_NOT_FOUND"),
        ..refusal("ResourceNotFoundException", format!("{id} does not exist"))
    };
    let snap = state.snapshot(query, account, id).map_err(missing)?;
    if snap.state() != "completed" || !snap.tier.readable(state.now()) {
        return Err(invalid(
            "INVALID_SNAPSHOT_ID",
            "The snapshot is not completed, or is archived",
        ));
    }
    let content = File::open(world.content(id)).unwrap();
    Ok(Readable { id: id.to_owned(), lineage: snap.lineage.clone(), gib: snap.gib, content })
}

impl Readable {
    fn blocks(&self) -> u64 {
        self.content.metadata().unwrap().len().div_ceil(BLOCK)
    }

    /// A block, filled up with zeros; none if it holds nothing else.
    fn block(&self, index: u64) -> Option<Vec<u8>> {
        let (mut block, mut got) = (vec![0; BLOCK as usize], 0);
        loop {
            match self.content.read_at(&mut block[got..], index * BLOCK + got as u64).unwrap() {
                0 => break,
                more => got += more,
            }
        }
        block.iter().any(|byte| *byte != 0).then_some(block)
    }

    /// The first block from here on that may hold something: files have holes.
    fn next(&self, index: u64) -> Option<u64> {
        if index >= self.blocks() {
            return None;
        }
        match rustix::fs::seek(&self.content, rustix::fs::SeekFrom::Data(index * BLOCK)) {
            Ok(data) => Some(index.max(data / BLOCK)),
            Err(rustix::io::Errno::NXIO) => None,
            Err(_) => Some(index),
        }
    }
}

fn list(world: &World, query: &Query, account: &str) -> Answer<Sent> {
    let snapshot = readable(world, query, account, query.get("snapshotId").unwrap_or_default())?;
    let find = |from: u64| {
        let index = snapshot.next(from)?;
        Some((index, snapshot.block(index).map(|_| json!({"BlockIndex": index, "BlockToken": block_token(world, &snapshot.id, index)}))))
    };
    paged(world, query, "Blocks", &snapshot, &snapshot.id, find)
}

fn list_changed(world: &World, query: &Query, account: &str) -> Answer<Sent> {
    let second =
        readable(world, query, account, query.get("secondSnapshotId").unwrap_or_default())?;
    let first = query
        .get("firstSnapshotId")
        .ok_or_else(|| invalid("INVALID_PARAMETER_VALUE", "firstSnapshotId is missing"))?;
    let first = readable(world, query, account, first)?;
    if first.lineage != second.lineage {
        return Err(invalid("UNRELATED_SNAPSHOTS", "The snapshots are not of the same lineage"));
    }
    let find = |from: u64| {
        let index = first.next(from).into_iter().chain(second.next(from)).min()?;
        let (before, now) = (first.block(index), second.block(index));
        let mut changed = json!({"BlockIndex": index});
        for (name, snapshot, block) in
            [("FirstBlockToken", &first, &before), ("SecondBlockToken", &second, &now)]
        {
            if block.is_some() {
                changed[name] = block_token(world, &snapshot.id, index).into();
            }
        }
        Some((index, (before != now).then_some(changed)))
    };
    paged(world, query, "ChangedBlocks", &second, &format!("{} {}", first.id, second.id), find)
}

/// A page of what `find` finds from an index on: each time an index, and what is to be told of it.
/// A page of changes ends after some blocks that did not change, too.
fn paged(
    world: &World,
    query: &Query,
    name: &str,
    snapshot: &Readable,
    of: &str,
    find: impl Fn(u64) -> Option<(u64, Option<serde_json::Value>)>,
) -> Answer<Sent> {
    let (size, empty) = {
        let settings = &world.state().settings;
        (settings.blocks_page, settings.empty_pages)
    };
    let most = match query.get("maxResults").map(str::parse::<usize>) {
        None => size,
        Some(Ok(most @ 1..=10_000)) => size.min(most),
        Some(_) => {
            return Err(invalid("INVALID_PARAMETER_VALUE", "maxResults is from 100 to 10000"));
        }
    };
    let mut from = match query.get("pageToken") {
        Some(token) => opened(world, &format!("page of {of}"), token)
            .ok_or_else(|| invalid("INVALID_PAGE_TOKEN", "The page token is not valid"))?,
        None => {
            query.get("startingBlockIndex").and_then(|index| index.parse().ok()).unwrap_or_default()
        }
    };
    let mut told = Vec::new();
    let mut next = Some(from).filter(|_| empty && query.get("pageToken").is_none());
    while next.is_none() {
        let Some((index, found)) = find(from) else { break };
        told.extend(found);
        from = index + 1;
        next = (told.len() >= most).then_some(from);
    }
    let mut body = json!({
        "VolumeSize": snapshot.gib,
        "BlockSize": BLOCK,
        "ExpiryTime": (world.state().now() + VALID).as_second(),
    });
    body[name] = told.into();
    if let Some(next) = next {
        body["NextToken"] = sealed(world, &format!("page of {of}"), next).into();
    }
    Ok(Sent { kind: "application/json", headers: Vec::new(), body: body.to_string().into() })
}

fn get(world: &World, query: &Query, account: &str) -> Answer<Sent> {
    let snapshot = readable(world, query, account, query.get("snapshotId").unwrap_or_default())?;
    let index = query
        .get("blockIndex")
        .and_then(|index| index.parse().ok())
        .filter(|index| *index < snapshot.gib * 2048);
    let index: u64 = index.ok_or_else(|| invalid("INVALID_BLOCK", "There is no such block"))?;
    let token = query.get("blockToken").unwrap_or_default();
    if opened(world, &format!("block of {}", snapshot.id), token) != Some(index) {
        return Err(invalid("INVALID_BLOCK_TOKEN", "The block token is not valid"));
    }
    let mut block = snapshot.block(index).unwrap_or_else(|| vec![0; BLOCK as usize]);
    let mut checksum = digest(&SHA256, &block);
    let flips =
        |fault: &Fault| matches!(fault, Fault::FlipBit { block, .. } if u64::from(*block) == index);
    if let Some(Fault::FlipBit { checksum: kind, .. }) =
        world.rules.take(query, &[&snapshot.id], flips)
    {
        block[BLOCK as usize / 2] ^= 1;
        if kind == Checksum::Matching {
            checksum = digest(&SHA256, &block);
        }
    }
    let headers = vec![
        ("x-amz-Data-Length", BLOCK.to_string()),
        ("x-amz-Checksum", BASE64.encode(checksum.as_ref())),
        ("x-amz-Checksum-Algorithm", "SHA256".to_owned()),
    ];
    Ok(Sent { kind: "application/octet-stream", headers, body: block.into() })
}

/// How long tokens are good for.
const VALID: SignedDuration = SignedDuration::from_hours(7 * 24);

fn block_token(world: &World, snapshot: &str, index: u64) -> String {
    sealed(world, &format!("block of {snapshot}"), index)
}

/// A number that only the front can write, for one purpose.
fn sealed(world: &World, purpose: &str, number: u64) -> String {
    let until = (world.state().now() + VALID).as_second();
    let mut token = [number.to_be_bytes(), until.to_be_bytes()].concat();
    token.extend(mac(world, purpose, &token));
    BASE64.encode(token)
}

fn opened(world: &World, purpose: &str, token: &str) -> Option<u64> {
    let token = BASE64.decode(token).ok().filter(|token| token.len() == 32)?;
    let (known, proof) = token.split_at(16);
    let until = Timestamp::from_second(i64::from_be_bytes(known[8..].try_into().unwrap())).ok()?;
    (mac(world, purpose, known) == proof && world.state().now() < until)
        .then(|| u64::from_be_bytes(known[..8].try_into().unwrap()))
}

fn mac(world: &World, purpose: &str, known: &[u8]) -> Vec<u8> {
    let text = format!("{} {purpose} {known:?}", world.contents.display());
    digest(&SHA256, text.as_bytes()).as_ref()[..16].to_vec()
}

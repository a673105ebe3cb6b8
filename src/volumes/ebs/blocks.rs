//! Blocks of snapshots, through the EBS direct APIs.
//!
//! The service hands out a SHA-256 with every block. It tells what broke on the way, not what is in
//! the volume.

use aws_lc_rs::digest;
use aws_sdk_ebs::primitives::ByteStream;
use aws_sdk_ebs::types::ChecksumAlgorithm;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};

use super::EbsVolumes;
use crate::aws::AwsError;
use crate::domain::volumes::{BLOCK_BYTES, SnapshotId};
use crate::volumes::{BlockPage, BlockRef, VolumesError};

/// Blocks of one page that the service allows: 5 GB of a volume.
const PAGE_BLOCKS: i32 = 10_000;

impl EbsVolumes {
    pub(super) async fn held_blocks(
        &self,
        id: &SnapshotId,
        page: Option<&str>,
    ) -> Result<BlockPage, VolumesError> {
        let what = format!("listing the blocks of {id}");
        let request =
            self.ebs.list_snapshot_blocks().snapshot_id(id.as_str()).max_results(PAGE_BLOCKS);
        let sent = request.set_next_token(page.map(ToOwned::to_owned)).send().await;
        let reply = sent.map_err(|error| self.explain(&what, AwsError::of(&error)))?;
        let mut blocks = Vec::with_capacity(reply.blocks().len());
        for block in reply.blocks() {
            let token =
                block.block_token().ok_or_else(|| self.nonsense(&what, "a block has no token"))?;
            blocks.push(BlockRef {
                index: self.index(&what, block.block_index())?,
                token: Some(token.to_owned()),
            });
        }
        self.checked(&what, reply.block_size(), blocks, reply.next_token())
    }

    pub(super) async fn changed_blocks(
        &self,
        id: &SnapshotId,
        since: &SnapshotId,
        page: Option<&str>,
    ) -> Result<BlockPage, VolumesError> {
        let what = format!("listing what changed from {since} to {id}");
        let request = self
            .ebs
            .list_changed_blocks()
            .first_snapshot_id(since.as_str())
            .second_snapshot_id(id.as_str());
        let sent = request
            .max_results(PAGE_BLOCKS)
            .set_next_token(page.map(ToOwned::to_owned))
            .send()
            .await;
        let reply = sent.map_err(|error| self.explain(&what, AwsError::of(&error)))?;
        let mut blocks = Vec::with_capacity(reply.changed_blocks().len());
        for block in reply.changed_blocks() {
            // Without a second token the newer snapshot does not hold the block.
            let token = block.second_block_token().map(ToOwned::to_owned);
            blocks.push(BlockRef { index: self.index(&what, block.block_index())?, token });
        }
        self.checked(&what, reply.block_size(), blocks, reply.next_token())
    }

    fn index(&self, what: &str, index: Option<i32>) -> Result<u32, VolumesError> {
        let index = index.ok_or_else(|| self.nonsense(what, "a block has no index"))?;
        u32::try_from(index)
            .map_err(|_| self.nonsense(what, format!("a block has the index {index}")))
    }

    fn checked(
        &self,
        what: &str,
        size: Option<i32>,
        blocks: Vec<BlockRef>,
        next: Option<&str>,
    ) -> Result<BlockPage, VolumesError> {
        if size.and_then(|size| usize::try_from(size).ok()) != Some(BLOCK_BYTES) {
            return Err(
                self.nonsense(what, format!("blocks have {} bytes", size.unwrap_or_default()))
            );
        }
        if !blocks.is_sorted_by(|a, b| a.index < b.index) {
            return Err(self.nonsense(what, "blocks are not in order"));
        }
        Ok(BlockPage {
            blocks,
            next: next.filter(|token| !token.is_empty()).map(ToOwned::to_owned),
        })
    }

    pub(super) async fn read_block(
        &self,
        id: &SnapshotId,
        block: &BlockRef,
    ) -> Result<Bytes, VolumesError> {
        let what = format!("reading block {} of {id}", block.index);
        let token = block
            .token
            .as_deref()
            .ok_or_else(|| self.missing(format!("block {} of {id}", block.index)))?;
        let index = i32::try_from(block.index)
            .map_err(|_| self.missing(format!("block {} of {id}", block.index)))?;
        let sent = self
            .ebs
            .get_snapshot_block()
            .snapshot_id(id.as_str())
            .block_index(index)
            .block_token(token)
            .send()
            .await;
        let reply = sent.map_err(|error| self.explain(&what, AwsError::of(&error)))?;
        let (length, algorithm, sum) =
            (reply.data_length, reply.checksum_algorithm, reply.checksum);
        if length.and_then(|length| usize::try_from(length).ok()) != Some(BLOCK_BYTES) {
            return Err(
                self.nonsense(&what, format!("it has {} bytes", length.unwrap_or_default()))
            );
        }
        if algorithm != Some(ChecksumAlgorithm::ChecksumAlgorithmSha256) {
            return Err(self.nonsense(&what, "it comes without a SHA-256"));
        }
        let bytes = collect(reply.block_data).await.map_err(|why| VolumesError::Unavailable {
            what: what.clone(),
            place: self.place.to_string(),
            why,
        })?;
        verify(&bytes, sum.as_deref()).map_err(|why| self.nonsense(&what, why))?;
        Ok(bytes)
    }
}

/// A body, up to the first piece that makes it longer than a block. One that breaks off may come
/// whole the next time.
async fn collect(mut body: ByteStream) -> Result<Bytes, String> {
    let mut bytes = BytesMut::with_capacity(BLOCK_BYTES);
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece.map_err(|error| error.to_string())?);
        if bytes.len() > BLOCK_BYTES {
            break;
        }
    }
    Ok(bytes.freeze())
}

fn verify(bytes: &[u8], sum: Option<&str>) -> Result<(), String> {
    if bytes.len() != BLOCK_BYTES {
        return Err(format!("{} bytes came of {BLOCK_BYTES}", bytes.len()));
    }
    let found = STANDARD.encode(digest::digest(&digest::SHA256, bytes));
    match sum {
        Some(sum) if sum == found => Ok(()),
        Some(sum) => Err(format!("its SHA-256 is {found}, and {sum} was announced")),
        None => Err("it comes without a SHA-256".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_as_long_as_a_block_and_has_its_sum() {
        let bytes = vec![7; BLOCK_BYTES];
        let sum = STANDARD.encode(digest::digest(&digest::SHA256, &bytes));
        assert_eq!(verify(&bytes, Some(&sum)), Ok(()));
        assert!(verify(&bytes[1..], Some(&sum)).is_err());
        assert!(verify(&vec![8; BLOCK_BYTES], Some(&sum)).is_err());
        assert!(verify(&bytes, None).is_err());
    }
}

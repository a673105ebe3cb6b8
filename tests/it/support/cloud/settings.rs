//! How long things take, and how much is allowed.

use std::collections::BTreeMap;

/// How long things take, in looks at them; how long lists are; how much is allowed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// So often DescribeSnapshots tells of a snapshot as pending.
    pub snapshot: u32,
    /// Or of a copy.
    pub copy: u32,
    /// So often DescribeVolumes tells of a volume as creating,
    pub volume: u32,
    /// or as attaching or detaching.
    pub attachment: u32,
    /// So often DescribeVolumeStatus tells of it as being read in.
    pub filling: u32,
    /// So often DescribeSnapshots or DescribeSnapshotTierStatus tell of a snapshot as being
    /// archived or restored.
    pub tier: u32,
    /// Items of a page, whatever is asked for.
    pub page: usize,
    /// Blocks of a page.
    pub blocks_page: usize,
    /// Whether the first page of blocks is empty.
    pub empty_pages: bool,
    pub pending_per_volume: usize,
    pub copies_per_region: usize,
    /// What is new in a network, and instances, are missing from so many looks.
    pub lag: u32,
    /// So often DescribeVpcs, DescribeSubnets tell of a VPC, a subnet as pending,
    pub vpc: u32,
    pub subnet: u32,
    /// DescribeVpcEndpoints of an interface endpoint,
    pub endpoint: u32,
    /// DescribeInstances of an instance;
    pub instance: u32,
    /// and of one as shutting down,
    pub termination: u32,
    /// and as terminated.
    pub terminated_stays: u32,
    /// The interface of an endpoint that was deleted is there for so many looks or refused
    /// deletions.
    pub interface_lingers: u32,
    /// A flow log whose VPC was deleted is there for so many looks.
    pub orphaned_logs: u32,
    /// So often the DNS firewall tells of an association as updating,
    pub association: u32,
    /// or as deleting.
    pub disassociation: u32,
    /// So often GetConsoleOutput has nothing.
    pub console: u32,
    /// VPCs of a region, the default one among them.
    pub vpcs: usize,
    /// Cores of running instances.
    pub vcpus: u32,
    /// Entries of a direction of a network ACL.
    pub acl_entries: usize,
    /// Types of instances, and the letters of the zones that have them.
    pub offerings: BTreeMap<String, String>,
    /// Whether the DNS firewall lets through what it cannot check.
    pub fail_open: bool,
    /// `off`, `block-ingress` or `block-bidirectional`.
    pub block_public_access: String,
    pub encryption_by_default: bool,
    pub serial_console: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            snapshot: 2,
            copy: 2,
            volume: 1,
            attachment: 1,
            filling: 2,
            tier: 2,
            page: 2,
            blocks_page: 3,
            empty_pages: true,
            pending_per_volume: 5,
            copies_per_region: 20,
            lag: 1,
            vpc: 1,
            subnet: 1,
            endpoint: 2,
            instance: 1,
            termination: 1,
            terminated_stays: 3,
            interface_lingers: 2,
            orphaned_logs: 3,
            association: 1,
            disassociation: 1,
            console: 1,
            vpcs: 5,
            vcpus: 32,
            acl_entries: 20,
            offerings: ["m5.large", "m6i.large", "m7i.large", "t3.micro"]
                .map(|kind| (kind.to_owned(), "abc".to_owned()))
                .into(),
            fail_open: false,
            block_public_access: "block-bidirectional".to_owned(),
            encryption_by_default: true,
            serial_console: false,
        }
    }
}

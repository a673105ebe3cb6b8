//! A scratch VPC as tests make one: settings that fit both clouds, and every step of a drill with
//! it.

use std::sync::Arc;

use jiff::Timestamp;
use lifeboat::domain::human_duration::HumanDuration;
use lifeboat::domain::scratch::{ImageChoice, ScratchSettings, UsDollars};
use lifeboat::saga::{Saga, SagaStep};
use lifeboat::sandbox::vpc::cloud::ScratchCloud;
use lifeboat::sandbox::vpc::policies::VaultAccess;
use lifeboat::sandbox::vpc::{GrantSpec, ScratchError, ScratchSpec, ScratchVpc, steps};
use tokio_util::sync::CancellationToken;

pub const REGION: &str = "eu-west-1";
pub const ACCOUNT: &str = "123456789012";
pub const VAULT: &str = "00112233445566778899aabbccddeeff";

/// Nothing pauses, and nothing is waited for longer than it takes where nothing takes time.
pub fn settings(image: &str, firewall: &str) -> ScratchSettings {
    ScratchSettings {
        region: REGION.to_owned(),
        role: None,
        account: ACCOUNT.to_owned(),
        production_account: None,
        cidr: "10.99.0.0/24".parse().unwrap(),
        production_cidrs: ["10.0.0.0/16", "10.1.0.0/16"].map(|cidr| cidr.parse().unwrap()).into(),
        zones: ["a", "b"].map(|letter| format!("{REGION}{letter}")).into(),
        instance_types: ["m7i.large", "m6i.large"].map(str::to_owned).into(),
        tenancy: "default".to_owned(),
        image: ImageChoice::Pinned { id: image.to_owned(), digest: None },
        instance_profile: format!("arn:aws:iam::{ACCOUNT}:instance-profile/scratch"),
        instance_role: format!("arn:aws:iam::{ACCOUNT}:role/scratch"),
        kms_key: format!("arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-00000000d111"),
        root_gib: None,
        flow_logs: "arn:aws:s3:::flow-logs/".to_owned(),
        flow_logs_role: None,
        dns_firewall: Some(firewall.to_owned()),
        agent: None,
        pg_bin: None,
        cost_cap: UsDollars::of(10.0),
        instance_hour: None,
        boot_within: HumanDuration::seconds(1),
        silent_within: HumanDuration::seconds(1),
        settle_within: HumanDuration::milliseconds(20),
        poll: HumanDuration::seconds(0),
    }
}

/// A run that may decrypt with one key.
pub fn scratch(
    cloud: &Arc<dyn ScratchCloud>,
    settings: &ScratchSettings,
    key: &str,
    run: &str,
) -> ScratchVpc {
    let spec = ScratchSpec {
        settings: settings.clone(),
        vault: VAULT.parse().unwrap(),
        run: run.to_owned(),
        drill: "nightly".to_owned(),
        expires: Timestamp::now() + jiff::SignedDuration::from_hours(4),
        attempt: 1,
        reads: VaultAccess {
            bucket: "b".to_owned(),
            get: vec!["p/*".to_owned()],
            list: vec!["p/".to_owned()],
            put: vec!["i/*".to_owned()],
        },
        grants: vec![GrantSpec {
            key: key.to_owned(),
            context: [("vault".to_owned(), VAULT.to_owned())].into(),
        }],
        volumes: Vec::new(),
    };
    let mut scratch = ScratchVpc::new(Arc::clone(cloud), spec, 0.0, CancellationToken::new());
    if let ImageChoice::Pinned { id, .. } = &settings.image {
        scratch.image.clone_from(id);
    }
    scratch.user_data = "#!/bin/bash\ntrue\n".to_owned();
    scratch
}

async fn step<S: SagaStep<ScratchVpc, Error = ScratchError>>(
    saga: &mut Saga<'_>,
    scratch: &mut ScratchVpc,
    step: &S,
) -> Result<S::Output, String> {
    saga.step(scratch, step).await.map_err(|error| error.to_string())
}

/// All steps, as a drill does them; `die_after` so many of them nothing more is done, as after a
/// crash.
pub async fn forward(
    saga: &mut Saga<'_>,
    scratch: &mut ScratchVpc,
    die_after: usize,
) -> Result<(), String> {
    scratch.prefix_list = scratch
        .cloud()
        .clone()
        .prefix_list(&format!("com.amazonaws.{REGION}.s3"))
        .await
        .map_err(|e| e.to_string())?;
    let mut left = die_after;
    macro_rules! steps {
        ($($step:expr),*) => { $(
            if left == 0 {
                return Err("died".to_owned());
            }
            left -= 1;
            drop(step(saga, scratch, &$step).await?);
        )* };
    }
    steps!(
        steps::CreateVpc,
        steps::CreateRouteTable,
        steps::CreateNetworkAcl,
        steps::CreateSecurityGroups,
        steps::CreateS3Endpoint,
        steps::AssociateDnsFirewall,
        steps::CreateFlowLogs
    );
    steps!(steps::CreateSubnet, steps::CreateKmsEndpoint);
    scratch.pass_gate().await.map_err(|error| error.to_string())?;
    steps!(steps::GrantKeys, steps::LaunchInstance);
    Ok(())
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Everything in a region, as text that is the same as long as nothing is changed.
#[cfg(feature = "ec2")]
pub fn inventory(
    cloud: &super::cloud::Cloud,
    region: &str,
) -> std::collections::BTreeMap<String, String> {
    cloud
        .inventory(region)
        .into_iter()
        .map(|(id, item)| (id, format!("{} {:?} {}", item.kind, item.tags, item.text)))
        .collect()
}

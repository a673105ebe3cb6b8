//! What the agent on the instance gets: its order, its configuration, and a door to exactly the
//! objects that it takes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::DrillState;
use crate::config::{Config, DatastoreKind, KeyKind, S3Config, VaultConfig};
use crate::domain::drill::Scenario;
use crate::domain::envelope::SlotKind;
use crate::domain::layout;
use crate::domain::scratch::{
    AgentOrder, ForbiddenAddress, ORDER_FORMAT, OrderKey, ScratchSettings,
};
use crate::sandbox::vpc::policies::VaultAccess;
use crate::sandbox::vpc::{GrantSpec, ScratchSpec};
use crate::work::shelf::{self, context_of};
use crate::work::{WorkContext, WorkError};

/// Addresses of the internet that nobody may reach from inside: name servers, which answer
/// everywhere.
const INTERNET: [&str; 3] = ["1.1.1.1:443", "8.8.8.8:53", "9.9.9.9:443"];
/// Ports of production that are tried in each of its networks, at its first addresses.
const PRODUCTION_PORTS: [u16; 2] = [22, 5432];
const NAMES: [&str; 2] = ["example.com", "lifeboat-probe.example.org"];

/// The bucket of a vault.
///
/// # Errors
/// [`WorkError::Refused`] if it is in none: an instance reaches nothing else.
pub(in crate::work) fn bucket(config: &Config) -> Result<&S3Config, WorkError> {
    match &config.vault {
        VaultConfig::S3(s3) => Ok(s3),
        VaultConfig::Directory(..) => Err(WorkError::Refused {
            what: "a drill in a scratch VPC".to_owned(),
            why: "the vault is a directory, and an instance can reach S3 only".to_owned(),
            hint: "drill with sandbox = \"local\"".to_owned(),
        }),
    }
}

/// The objects that an attempt's agent may touch.
pub(super) fn reads(
    world: &DrillState<'_>,
    attempt: u64,
    agent_sha256: &str,
) -> Result<VaultAccess, WorkError> {
    let s3 = bucket(&world.rig.config)?;
    let full = |key: &str| format!("{}{key}", s3.prefix);
    let mut get =
        vec![full(layout::vault_header().as_str()), full(layout::agent(agent_sha256).as_str())];
    get.push(full(layout::order(&world.run, attempt).as_str()));
    // Its own letters: after a lost answer it must see whether a letter got there.
    get.push(full(&format!("{}*", layout::inbox(&world.run, attempt))));
    let mut list = Vec::new();
    for (believed, _) in &world.chosen {
        let place = believed.manifest.place();
        let manifest = place.manifest();
        get.extend([full(manifest.as_str()), full(manifest.signature().as_str())]);
        get.push(full(&format!("{}*", place.meta_prefix())));
        get.push(full(&format!("{}*", place.payload_prefix())));
        list.push(full(&place.meta_prefix()));
    }
    Ok(VaultAccess {
        bucket: s3.bucket.clone(),
        get,
        list,
        put: vec![full(&format!("{}*", layout::inbox(&world.run, attempt)))],
    })
}

/// Every KMS key of the configuration that is named by its ARN.
pub(in crate::work) fn key_arns(config: &Config) -> Vec<String> {
    let arn = |kind: &KeyKind| match kind {
        KeyKind::AwsKms { key_id, .. } if key_id.starts_with("arn:") => Some(key_id.clone()),
        _ => None,
    };
    config.keys.iter().filter_map(|key| arn(&key.kind)).collect()
}

/// The keys that may open the chosen backups from inside the VPC, and what must be granted for
/// that.
pub(super) async fn keys(
    world: &DrillState<'_>,
    settings: &ScratchSettings,
) -> Result<(Vec<OrderKey>, Vec<GrantSpec>), WorkError> {
    let lost = world.drill.breaks.contains(&Scenario::HomeKeyLost);
    let home = world
        .own
        .config
        .keys
        .iter()
        .find(|key| !matches!(key.kind, KeyKind::AgeRecipients(_)))
        .map(|key| key.name.clone());
    let (mut keys, mut grants) = (Vec::<OrderKey>::new(), Vec::new());
    for (believed, _) in &world.chosen {
        let manifest = &believed.manifest;
        let envelopes = shelf::load_envelopes(&world.rig, manifest).await?;
        let slots = envelopes.believed.iter().flat_map(|(envelope, _)| &envelope.slots);
        let mut opens = 0;
        for slot in slots {
            let SlotKind::AwsKms { key_id, region } = &slot.opens_with else { continue };
            if lost && Some(&slot.name) == home.as_ref() {
                continue;
            }
            // The only key service that can be reached is that of the region.
            if key_id.split(':').nth(3) != Some(settings.region.as_str()) {
                continue;
            }
            opens += 1;
            let key = OrderKey {
                name: slot.name.clone(),
                key_id: key_id.clone(),
                region: region.clone(),
            };
            if !keys.contains(&key) {
                keys.push(key);
            }
            let context = context_of(manifest).pairs().into_iter().collect();
            let grant = GrantSpec { key: key_id.clone(), context };
            if !grants.contains(&grant) {
                grants.push(grant);
            }
        }
        if opens == 0 {
            return Err(WorkError::NotVerified(format!(
                "no key slot of backup {} is a KMS key of {} named by its ARN{}, so an instance there could not open it",
                manifest.backup,
                settings.region,
                if lost { " that is left" } else { "" }
            )));
        }
    }
    Ok((keys, grants))
}

/// What must not answer from inside: production, the internet, names.
pub(super) fn forbidden(rig: &WorkContext, settings: &ScratchSettings) -> Vec<ForbiddenAddress> {
    let mut all: Vec<ForbiddenAddress> = Vec::new();
    for datastore in
        rig.config.datastores.values().filter_map(crate::config::DatastoreConfig::postgres)
    {
        for (host, port) in
            datastore.connection.addresses().iter().filter(|(host, _)| is_elsewhere(host))
        {
            all.push(ForbiddenAddress::Tcp(format!("{host}:{port}")));
            // Names of AWS are let through by the firewall that must let S3 and KMS through.
            let asks = settings.dns_firewall.is_some() && !host.ends_with(".amazonaws.com");
            if asks && host.parse::<std::net::IpAddr>().is_err() {
                all.push(ForbiddenAddress::Name(host.clone()));
            }
        }
    }
    for network in &settings.production_cidrs {
        for port in PRODUCTION_PORTS {
            // The first address that a VPC's network gives to anybody is its fifth.
            all.push(ForbiddenAddress::Tcp(format!("{}:{port}", network.address(4))));
        }
    }
    all.extend(INTERNET.map(|address| ForbiddenAddress::Tcp(address.to_owned())));
    if settings.dns_firewall.is_some() {
        all.extend(NAMES.map(|name| ForbiddenAddress::Name(name.to_owned())));
    }
    all.dedup();
    all
}

/// Whether a host is another one, and not a socket or the host itself, which is another one on the
/// instance.
fn is_elsewhere(host: &str) -> bool {
    !host.is_empty()
        && !host.starts_with('/')
        && host != "localhost"
        && host != "::1"
        && !host.starts_with("127.")
}

/// The order.
pub(super) fn order(
    world: &DrillState<'_>,
    spec: &ScratchSpec,
    keys: &[OrderKey],
    grant_tokens: Vec<String>,
) -> Result<AgentOrder, WorkError> {
    let (settings, attempt, expires) = (&spec.settings, spec.attempt, spec.expires);
    let backups: BTreeMap<_, _> = world
        .chosen
        .iter()
        .map(|(believed, how)| {
            (believed.manifest.datastore.clone(), (believed.manifest.backup.clone(), how.clone()))
        })
        .collect();
    let drill = world.drill;
    Ok(AgentOrder {
        format: ORDER_FORMAT.to_owned(),
        vault: spec.vault.clone(),
        run: world.run.clone(),
        attempt,
        drill: drill.name.clone(),
        script: drill.text.clone(),
        plan: drill.plan.name.clone(),
        plan_text: drill.plan.file.as_ref().map(|_| drill.plan.text.clone()),
        config: config(world, keys, settings)?,
        grant_tokens,
        backups,
        forbidden: forbidden(world.own, settings),
        expires,
    })
}

/// `lifeboat.toml` of the instance. Of connections it has the addresses that must not answer, and
/// nothing to log in with.
fn config(
    world: &DrillState<'_>,
    keys: &[OrderKey],
    settings: &ScratchSettings,
) -> Result<String, WorkError> {
    let own = &world.rig.config;
    let s3 = bucket(own)?;
    let vault = json!({
        "s3": format!("s3://{}/{}", s3.bucket, s3.prefix),
        "region": settings.region,
        "path_style": s3.path_style,
        "part_mib": s3.part_bytes >> 20,
        "transfers": s3.transfers_max,
    });
    let mut named = serde_json::Map::new();
    for key in keys {
        named.insert(key.name.clone(), json!({ "kind": "aws-kms", "key_id": key.key_id }));
    }
    let mut datastores = serde_json::Map::new();
    for stage in &world.drill.plan.stages {
        let Some(DatastoreKind::Postgres(postgres)) =
            own.datastores.get(&stage.datastore).map(|datastore| &datastore.kind)
        else {
            continue;
        };
        datastores.insert(
            stage.datastore.to_string(),
            json!({ "kind": "postgres", "connection": addresses(&postgres.connection, &stage.datastore) }),
        );
    }
    let trust: Vec<String> =
        own.signing.trusted.keys().iter().map(crate::keyring::sign::PublicKey::to_line).collect();
    let mut whole = json!({
        "vault": vault,
        "keys": named,
        "signing": { "key_file": "nothing-is-signed-here.pem", "trust": trust },
        "datastores": datastores,
    });
    if let (Some(whole), Some(bin)) = (whole.as_object_mut(), &settings.pg_bin) {
        whole.insert("postgres".to_owned(), json!({ "pg_bin": bin }));
    }
    to_toml(&whole)
}

/// Where a server is, without who may log in there.
fn addresses(
    connection: &crate::pg::PgConnection,
    datastore: &crate::domain::DatastoreName,
) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
    let join = |part: fn(&(String, String)) -> &String| {
        connection.addresses().iter().map(part).cloned().collect::<Vec<_>>().join(",")
    };
    let (hosts, ports) = (join(|(host, _)| host), join(|(_, port)| port));
    format!(
        "host={} port={} dbname={} user=nobody sslmode=verify-full",
        quote(&hosts),
        quote(&ports),
        quote(datastore.as_str())
    )
}

fn to_toml(value: &Value) -> Result<String, WorkError> {
    toml::to_string(value).map_err(|error| {
        WorkError::Bug(format!("an instance's configuration cannot be written: {error}"))
    })
}

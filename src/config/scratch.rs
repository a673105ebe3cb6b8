//! `[scratch_vpc]`: what drills in the cloud are made of. It stands in `lifeboat.toml`, so that a
//! drill changes place by one line.

use std::path::Path;

use super::section::ConfigSection;
use crate::domain::human_duration::HumanDuration;
use crate::domain::net::Cidr;
use crate::domain::scratch::{ImageChoice, ScratchSettings, UsDollars};

/// Networks of production that can be named: a network ACL has 20 entries each way, and two are
/// ours.
const PRODUCTION_CIDRS_MAX: usize = 18;
/// A subnet must have room for an instance and an endpoint, and a VPC is no larger than this.
const LENGTHS: std::ops::RangeInclusive<u32> = 16..=28;
const COST_CAP: f64 = 10.0;
const BOOT_WITHIN: HumanDuration = HumanDuration::seconds(15 * 60);
const SILENT_WITHIN: HumanDuration = HumanDuration::seconds(10 * 60);
const SETTLE_WITHIN: HumanDuration = HumanDuration::seconds(10 * 60);
const POLL: HumanDuration = HumanDuration::seconds(5);

pub(super) fn scratch_vpc(root: &mut ConfigSection<'_>, base: &Path) -> Option<ScratchSettings> {
    let mut s = root.section("scratch_vpc")?;
    let settings = settings(&mut s, base);
    s.finish();
    settings
}

fn settings(s: &mut ConfigSection<'_>, base: &Path) -> Option<ScratchSettings> {
    let region = s.required_text("region", "region = \"eu-west-1\"").map(|t| t.value);
    let (account, production_account) =
        (account(s, "account", true), account(s, "production_account", false));
    let cidr = s.required_text("cidr", "cidr = \"10.99.0.0/24\"").and_then(|text| {
        match text.value.parse::<Cidr>() {
            Ok(cidr) if LENGTHS.contains(&cidr.length()) => Some(cidr),
            Ok(_) => s.fault(
                text.span,
                "cidr",
                "a VPC has between /16 and /28",
                "write cidr = \"10.99.0.0/24\"",
            ),
            Err(why) => s.fault(text.span, "cidr", &why, "write cidr = \"10.99.0.0/24\""),
        }
    });
    let production_cidrs = production_cidrs(s, cidr);
    let zones = zones(s, region.as_deref());
    let instance_types =
        s.texts("instance_types").map(|t| t.value).filter(|types| !types.is_empty());
    let instance_types =
        instance_types.unwrap_or_else(|| vec!["m7i.large".to_owned(), "m6i.large".to_owned()]);
    let image = image(s);
    let instance_profile = arn(
        s,
        "instance_profile",
        "arn:aws:iam::123456789012:instance-profile/lifeboat-scratch",
        "iam",
    );
    let instance_role =
        arn(s, "instance_role", "arn:aws:iam::123456789012:role/lifeboat-scratch", "iam");
    let kms_key = kms_key(s, region.as_deref());
    let flow_logs = s.required_text("flow_logs", "flow_logs = \"arn:aws:s3:::flow-logs/scratch/\"");
    let flow_logs_role = s.text("flow_logs_role").map(|t| t.value);
    let flow_logs = flow_logs.and_then(|text| match text.value.split(':').nth(2) {
        Some("s3") => Some(text.value),
        Some("logs") if flow_logs_role.is_some() => Some(text.value),
        Some("logs") => s.fault(
            text.span,
            "flow_logs",
            "a log group is written by a role",
            "write flow_logs_role = \"arn:aws:iam::…\"",
        ),
        _ => s.fault(
            text.span,
            "flow_logs",
            "it is no ARN of a bucket or a log group",
            "write flow_logs = \"arn:aws:s3:::bucket/prefix/\"",
        ),
    });
    let dollars = |s: &mut ConfigSection<'_>, key: &str| s.quantity(key).map(UsDollars::of);
    let tenancy = s
        .choice("tenancy", &[("default", "default"), ("dedicated", "dedicated")])
        .unwrap_or("default")
        .to_owned();
    let settings = ScratchSettings {
        role: s.text("role").map(|t| t.value),
        root_gib: s.number("root_gib", 1, 16_384).and_then(|gib| i32::try_from(gib).ok()),
        dns_firewall: s.text("dns_firewall").map(|t| t.value),
        agent: s.text("agent").map(|t| base.join(t.value)),
        pg_bin: s.text("pg_bin").map(|t| t.value.into()),
        cost_cap: dollars(s, "cost_cap").unwrap_or(UsDollars::of(COST_CAP)),
        instance_hour: dollars(s, "instance_hour"),
        boot_within: s.span("boot_within").unwrap_or(BOOT_WITHIN),
        silent_within: s.span("silent_within").unwrap_or(SILENT_WITHIN),
        settle_within: s.span("settle_within").unwrap_or(SETTLE_WITHIN),
        poll: s.span("poll").unwrap_or(POLL),
        region: region?,
        account: account?,
        production_account,
        cidr: cidr?,
        production_cidrs: production_cidrs?,
        zones: zones?,
        instance_types,
        tenancy,
        image: image?,
        instance_profile: instance_profile?,
        instance_role: instance_role?,
        kms_key: kms_key?,
        flow_logs: flow_logs?,
        flow_logs_role,
    };
    Some(settings)
}

fn account(s: &mut ConfigSection<'_>, key: &str, required: bool) -> Option<String> {
    let example = format!("{key} = \"123456789012\"");
    let text = if required { s.required_text(key, &example)? } else { s.text(key)? };
    match text.value.len() == 12 && text.value.bytes().all(|c| c.is_ascii_digit()) {
        true => Some(text.value),
        false => {
            s.fault(text.span, key, "an account has twelve digits", &format!("write {example}"))
        }
    }
}

fn production_cidrs(s: &mut ConfigSection<'_>, cidr: Option<Cidr>) -> Option<Vec<Cidr>> {
    let example = "write production_cidrs = [\"10.0.0.0/16\"]";
    let Some(texts) = s.texts("production_cidrs") else {
        return if s.has("production_cidrs") {
            None
        } else {
            s.fault_here("production_cidrs is missing: what must not be reached?", example)
        };
    };
    if texts.value.is_empty() || texts.value.len() > PRODUCTION_CIDRS_MAX {
        return s.fault(
            texts.span,
            "production_cidrs",
            &format!("between 1 and {PRODUCTION_CIDRS_MAX} networks can be named"),
            example,
        );
    }
    let mut networks = Vec::new();
    for text in &texts.value {
        match text.parse::<Cidr>() {
            Ok(network) if cidr.is_some_and(|cidr| cidr.overlaps(network)) => {
                let why = format!("{network} overlaps the scratch VPC's own network");
                return s.fault(
                    texts.span,
                    "production_cidrs",
                    &why,
                    "give the scratch VPC a cidr that production does not use",
                );
            }
            Ok(network) => networks.push(network),
            Err(why) => return s.fault(texts.span, "production_cidrs", &why, example),
        }
    }
    Some(networks)
}

fn zones(s: &mut ConfigSection<'_>, region: Option<&str>) -> Option<Vec<String>> {
    let example = "write zones = [\"eu-west-1a\", \"eu-west-1b\"]";
    let Some(texts) = s.texts("zones") else {
        return if s.has("zones") { None } else { s.fault_here("zones is missing", example) };
    };
    let of_region = |zone: &String| {
        region.is_none_or(|region| zone.strip_prefix(region).is_some_and(|rest| !rest.is_empty()))
    };
    match texts.value.iter().all(of_region) && !texts.value.is_empty() {
        true => Some(texts.value),
        false => s.fault(texts.span, "zones", "there must be one, and each in the region", example),
    }
}

fn image(s: &mut ConfigSection<'_>) -> Option<ImageChoice> {
    let (id, digest, of) = (s.text("image"), s.text("image_digest"), s.text("image_of"));
    match (id, of) {
        (Some(id), None) if id.value.starts_with("ami-") => {
            Some(ImageChoice::Pinned { id: id.value, digest: digest.map(|t| t.value) })
        }
        (None, Some(of)) if of.value.starts_with("i-") && digest.is_none() => {
            Some(ImageChoice::OfInstance(of.value))
        }
        (Some(both), _) => s.fault(
            both.span,
            "image",
            "either an image, or that of an instance",
            "write image = \"ami-…\"",
        ),
        (None, Some(of)) => s.fault(
            of.span,
            "image_of",
            "it names an instance whose image is booted, without a digest",
            "write image_of = \"i-…\"",
        ),
        (None, None) => s.fault_here(
            "no image is named",
            "write image = \"ami-…\" and image_digest, or image_of = \"i-…\"",
        ),
    }
}

/// An alias is told by nothing that EC2 says later, and a key of another region encrypts nothing
/// here.
fn kms_key(s: &mut ConfigSection<'_>, region: Option<&str>) -> Option<String> {
    let text =
        s.required_text("kms_key", "kms_key = \"arn:aws:kms:eu-west-1:123456789012:key/…\"")?;
    let mut parts = text.value.split(':').skip(2);
    let is_key = parts.next() == Some("kms")
        && region.is_none_or(|region| parts.next() == Some(region))
        && text.value.contains(":key/");
    match is_key {
        true => Some(text.value),
        false => s.fault(
            text.span,
            "kms_key",
            "it is no ARN of a key of the region",
            "write the ARN of a key, not of an alias",
        ),
    }
}

fn arn(s: &mut ConfigSection<'_>, key: &str, example: &str, service: &str) -> Option<String> {
    let text = s.required_text(key, &format!("{key} = \"{example}\""))?;
    match text.value.starts_with("arn:") && text.value.split(':').nth(2) == Some(service) {
        true => Some(text.value),
        false => s.fault(
            text.span,
            key,
            "it is no ARN of the right service",
            &format!("write {key} = \"{example}\""),
        ),
    }
}

//! The instance metadata service, version 2 only, as `HttpTokens=required` has it:
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html>.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::site::{ACCOUNT, Site};
use super::wire::{Answered, answer, header, whole};

const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN: &str = "x-aws-ec2-metadata-token";
/// For so long credentials are good.
const CREDENTIALS_FOR: SignedDuration = SignedDuration::from_hours(6);

pub async fn respond(site: Arc<Site>, request: Request<Incoming>) -> Answered {
    site.unless_frozen().await;
    let (method, path) = (request.method().as_str(), request.uri().path());
    let (status, answered) = asked(&site, &request, method, path);
    site.note("imds", method, path, (status != 200).then_some(status.to_string()).as_deref());
    answered
}

fn asked(site: &Site, request: &Request<Incoming>, method: &str, path: &str) -> (u16, Answered) {
    let refused = |status: u16| (status, answer(status, "text/plain", ""));
    if (method, path) == ("PUT", "/latest/api/token") {
        let ttl = header(request.headers(), TTL);
        // A request that was passed on by somebody: the page above, "X-Forwarded-For".
        if request.headers().contains_key("x-forwarded-for") {
            return refused(403);
        }
        let Some(seconds) = ttl.parse().ok().filter(|seconds| (1..=21_600).contains(seconds))
        else {
            return refused(400);
        };
        let token = format!("AQAE{}==", hex::encode(rand::random::<[u8; 20]>()));
        site.tokens
            .lock()
            .unwrap()
            .insert(token.clone(), Instant::now() + Duration::from_secs(seconds));
        return (200, Ok(Response::builder().header(TTL, ttl).body(whole(token)).unwrap()));
    }
    let token = header(request.headers(), TOKEN);
    if site.tokens.lock().unwrap().get(token).is_none_or(|until| *until <= Instant::now()) {
        return refused(401);
    }
    if method != "GET" {
        return refused(405);
    }
    match told(site, path) {
        Some(text) => (
            200,
            answer(
                200,
                if text.starts_with('{') { "application/json" } else { "text/plain" },
                text,
            ),
        ),
        None => refused(404),
    }
}

fn told(site: &Site, path: &str) -> Option<String> {
    let has_role = !site.profile.is_empty();
    let role = site.role.rsplit('/').next().unwrap_or_default();
    let second = |time: Timestamp| format!("{time:.0}");
    let now = Timestamp::now();
    match path.trim_start_matches("/latest/").trim_end_matches('/') {
        "meta-data/iam/security-credentials" if has_role => Some(role.to_owned()),
        "meta-data/iam/info" if has_role => {
            Some(json!({ "Code": "Success", "LastUpdated": second(now), "InstanceProfileArn": site.profile }).to_string())
        }
        "meta-data/instance-id" => Some(site.instance.clone()),
        "meta-data/ami-id" => Some(site.image.clone()),
        "meta-data/instance-type" => Some(site.kind.clone()),
        "meta-data/local-ipv4" => Some(site.private_ip.clone()),
        "meta-data/placement/region" => Some(site.region().to_owned()),
        "meta-data/placement/availability-zone" => Some(site.zone.clone()),
        "meta-data/services/domain" => Some("amazonaws.com".to_owned()),
        "user-data" => Some(site.user_data.clone()),
        "dynamic/instance-identity/document" => {
            let document = json!({
                "accountId": ACCOUNT, "architecture": std::env::consts::ARCH, "availabilityZone": site.zone, "imageId": site.image,
                "instanceId": site.instance, "instanceType": site.kind, "pendingTime": second(now), "privateIp": site.private_ip,
                "region": site.region(), "version": "2017-09-30",
            });
            Some(document.to_string())
        }
        other => {
            let asked = other.strip_prefix("meta-data/iam/security-credentials/")?;
            let credentials = json!({
                "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": second(now), "Expiration": second(now + CREDENTIALS_FOR),
                "AccessKeyId": site.key_id, "SecretAccessKey": site.secret, "Token": site.token,
            });
            (has_role && asked == role).then(|| credentials.to_string())
        }
    }
}

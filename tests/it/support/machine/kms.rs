//! The KMS interface endpoint of a VPC, under its private name: Decrypt by a grant, and nothing
//! else.
//!
//! | rule | AWS page |
//! |---|---|
//! | the endpoint's policy, with the encryption context | KMS developer guide, VPC endpoint; Condition keys: kms:EncryptionContext |
//! | a grant: to the role, for Decrypt, under its encryption context exactly | KMS developer guide, Grants; API, GrantConstraints |
//! | a new grant is not seen everywhere without its token | KMS developer guide, Grant token; Eventual consistency |
//! | a ciphertext names its key | KMS API, Decrypt, KeyId |
//!
//! Which grant a token is of is not told by the emulator: any token will do where a grant fits.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request};
use serde_json::{Value, json};

use super::policy::{Ask, allows};
use super::s3::as_the_account;
use super::site::{ACCOUNT, Site, Unsigned};
use super::wire::{Answered, answer, closed, collected, forward, header, through};

const JSON: &str = "application/x-amz-json-1.1";
/// The emulator's ciphertexts begin with the id of their key.
const KEY_ID: usize = 36;

fn refused(code: &str, message: &str) -> Answered {
    answer(400, JSON, json!({ "__type": code, "message": message, "Message": message }).to_string())
}

pub async fn respond(site: Arc<Site>, request: Request<Incoming>) -> Answered {
    site.unless_frozen().await;
    let (mut head, body) = request.into_parts();
    let body = collected(body).await?;
    let verb =
        header(&head.headers, "x-amz-target").rsplit('.').next().unwrap_or_default().to_owned();
    let action = format!("kms:{verb}");
    let denied = |resource: &str, why: &str| {
        site.note("kms", &action, resource, Some(why));
        refused(
            "AccessDeniedException",
            &format!("User: {} is not authorized to perform: {action}", site.role),
        )
    };
    match site.signed(&head.headers) {
        Ok(()) => {}
        Err(Unsigned::Stranger(why)) => return denied("", &why),
        Err(Unsigned::Elsewhere(why)) => {
            site.note("kms", &action, "", Some(&why));
            return closed();
        }
    }
    let policies = site.policies("kms").await;
    if policies.is_empty() {
        site.note("kms", &action, "", Some("the VPC has no KMS endpoint"));
        return closed();
    }
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(key) = key_of(&asked) else { return denied("", "it names no key") };
    let (status, told) = call(&site, "DescribeKey", &json!({ "KeyId": key })).await?;
    let Some(arn) = told["KeyMetadata"]["Arn"].as_str() else {
        site.note("kms", &action, &key, Some("there is no such key"));
        return answer(status, JSON, told.to_string());
    };
    let context: BTreeMap<String, String> =
        serde_json::from_value(asked["EncryptionContext"].clone()).unwrap_or_default();
    if !policies.iter().any(|policy| passes(&site, policy, &action, arn, &context)) {
        return denied(arn, "the endpoint's policy does not allow it");
    }
    if verb != "Decrypt" {
        return denied(arn, "machines have Decrypt only");
    }
    let (_, told) = call(&site, "ListGrants", &json!({ "KeyId": arn })).await?;
    let fits = |grant: &Value| misfit(&site, grant, &context);
    let misfits: Vec<Option<String>> =
        told["Grants"].as_array().into_iter().flatten().map(fits).collect();
    if misfits.iter().all(Option::is_some) {
        let why: Vec<String> = misfits.into_iter().flatten().collect();
        return denied(
            arn,
            &format!(
                "no grant fits: {}",
                if why.is_empty() { "there is none".to_owned() } else { why.join("; ") }
            ),
        );
    }
    let brings = asked["GrantTokens"].as_array().is_some_and(|tokens| {
        tokens.iter().any(|token| token.as_str().is_some_and(|t| !t.is_empty()))
    });
    if !brings && !site.shared.settings().grant_visible {
        return denied(arn, "the grant is not seen yet, and no token of it came");
    }
    site.note("kms", &action, arn, None);
    as_the_account(&mut head);
    through(forward(site.shared.emulator, head, body).await?)
}

fn key_of(asked: &Value) -> Option<String> {
    let named = asked["KeyId"].as_str().map(str::to_owned);
    named.or_else(|| {
        let blob = STANDARD.decode(asked["CiphertextBlob"].as_str()?).ok()?;
        String::from_utf8(blob.get(..KEY_ID)?.to_vec()).ok()
    })
}

fn passes(
    site: &Site,
    policy: &Value,
    action: &str,
    arn: &str,
    given: &BTreeMap<String, String>,
) -> bool {
    let mut context = site.context();
    context.insert("kms:calleraccount".to_owned(), vec![ACCOUNT.to_owned()]);
    // The emulator's keys are in an account of its own.
    context.insert(
        "aws:resourceaccount".to_owned(),
        arn.split(':').nth(4).map(str::to_owned).into_iter().collect(),
    );
    if !given.is_empty() {
        context.insert("kms:encryptioncontextkeys".to_owned(), given.keys().cloned().collect());
    }
    // Keys of conditions are the same in any case, and so are their last parts.
    context.extend(given.iter().map(|(name, value)| {
        (format!("kms:encryptioncontext:{}", name.to_lowercase()), vec![value.clone()])
    }));
    let ask = Ask {
        action,
        resource: arn,
        principal: &site.role,
        account: ACCOUNT,
        gateway: false,
        context: &context,
    };
    let mut complaints = Vec::new();
    let allowed = allows(policy, &ask, &mut complaints);
    for complaint in complaints {
        site.shared.complain("the KMS endpoint's policy", &complaint);
    }
    allowed
}

/// Why a grant is not for this; none if it is.
fn misfit(site: &Site, grant: &Value, context: &BTreeMap<String, String>) -> Option<String> {
    if grant["GranteePrincipal"] != json!(site.role) {
        return Some(format!(
            "one is for {}, and the machine's role is {}",
            grant["GranteePrincipal"], site.role
        ));
    }
    if !grant["Operations"].as_array().is_some_and(|all| all.contains(&json!("Decrypt"))) {
        return Some(format!("one is for {}", grant["Operations"]));
    }
    let wanted = &grant["Constraints"]["EncryptionContextEquals"];
    (*wanted != json!(context))
        .then(|| format!("one is for the context {wanted}, not {}", json!(context)))
}

/// Asks the emulator, as the owner of the account.
async fn call(site: &Site, verb: &str, body: &Value) -> std::io::Result<(u16, Value)> {
    let scope = format!("test/20260101/{}/kms/aws4_request", site.region());
    let request = Request::post("/")
        .header("host", site.shared.emulator.to_string())
        .header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"),
        )
        .header("x-amz-target", format!("TrentService.{verb}"))
        .header("content-type", JSON);
    let (head, ()) = request.body(()).unwrap().into_parts();
    let response = forward(site.shared.emulator, head, Bytes::from(body.to_string())).await?;
    let status = response.status().as_u16();
    Ok((
        status,
        serde_json::from_slice(&collected(response.into_body()).await?).unwrap_or_default(),
    ))
}

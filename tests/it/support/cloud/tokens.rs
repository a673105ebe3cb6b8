//! What EC2 does with every call that changes something: client tokens, and calls that only ask
//! whether they would be allowed.

use std::collections::BTreeMap;

use super::instances;
use super::query::Query;
use super::world::{Answer, Refusal, Token, World, refusal};
use super::xml::Node;

/// Actions that take a client token, as far as they are modelled.
const WITH_TOKEN: [&str; 6] = [
    "CreateVolume",
    "CreateRouteTable",
    "CreateNetworkAcl",
    "CreateVpcEndpoint",
    "CreateFlowLogs",
    "RunInstances",
];

fn token(query: &Query, account: &str) -> Option<Token> {
    let token = query.get("ClientToken").filter(|_| WITH_TOKEN.contains(&query.action.as_str()))?;
    Some((account.to_owned(), query.region.clone(), query.action.clone(), token.to_owned()))
}

fn asked(query: &Query) -> BTreeMap<String, String> {
    let mut asked = query.params.clone();
    asked.remove("ClientToken");
    asked
}

/// The answer that was given before. The same client token with the same parameters: the same
/// answer, also when the thing is gone, but with the present state of an instance; with others:
/// IdempotentParameterMismatch. <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html>
pub fn remembered(world: &World, query: &Query, account: &str) -> Answer<Option<Vec<Node>>> {
    let Some(token) = token(query, account) else { return Ok(None) };
    if token.3.len() > 64 || !token.3.is_ascii() {
        return Err(refusal("InvalidParameterValue", "ClientToken: up to 64 ASCII characters"));
    }
    let state = world.state();
    match state.tokens.get(&token) {
        Some((before, answer)) if *before == asked(query) => {
            let mut answer = answer.clone();
            if query.action == "RunInstances" {
                instances::retold(&state, &mut answer);
            }
            Ok(Some(answer))
        }
        Some(_) => Err(refusal(
            "IdempotentParameterMismatch",
            "The client token was used with other parameters",
        )),
        None => Ok(None),
    }
}

pub fn remember(world: &World, query: &Query, account: &str, answer: &[Node]) {
    if let Some(token) = token(query, account) {
        world.state().tokens.insert(token, (asked(query), answer.to_vec()));
    }
}

/// Of a call that only asks: DryRunOperation, before it is known whether anything exists; ids have
/// to be well-formed. <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-troubleshoot.html>. ModifyVpcAttribute has no such parameter:
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyVpcAttribute.html>
pub fn tried_out(query: &Query) -> Answer<()> {
    if query.get("DryRun").is_none() {
        return Ok(());
    }
    if query.action == "ModifyVpcAttribute" {
        return Err(refusal("UnknownParameter", "The parameter DryRun is not recognized"));
    }
    if !query.is("DryRun") {
        return Ok(());
    }
    well_formed(query, &[NETWORK, OTHERS].concat())?;
    let why = refusal("DryRunOperation", "Request would have succeeded, but DryRun flag is set.");
    Err(Refusal { status: 412, ..why })
}

type Ids = (&'static str, &'static [&'static str], &'static str);

/// Parameters that are ids, what these begin with, and the error of one that is none.
/// <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>
pub const NETWORK: &[Ids] = &[
    ("VpcId", &["vpc"], "InvalidVpcID.Malformed"),
    ("SubnetId", &["subnet"], "InvalidSubnetID.Malformed"),
    ("RouteTableId", &["rtb"], "InvalidRouteTableId.Malformed"),
    ("NetworkAclId", &["acl"], "InvalidNetworkAclId.Malformed"),
    ("AssociationId", &["rtbassoc", "aclassoc", "eipassoc"], "InvalidAssociationID.Malformed"),
    ("GroupId", &["sg"], "InvalidGroupId.Malformed"),
    ("SecurityGroupId", &["sg"], "InvalidGroupId.Malformed"),
    ("VpcEndpointId", &["vpce"], "InvalidVpcEndpointId.Malformed"),
    ("FlowLogId", &["fl"], "InvalidFlowLogId.Malformed"),
    ("NetworkInterfaceId", &["eni"], "InvalidNetworkInterfaceId.Malformed"),
    ("PrefixListId", &["pl"], "InvalidPrefixListId.Malformed"),
];
const OTHERS: &[Ids] = &[
    ("InstanceId", &["i"], "InvalidInstanceID.Malformed"),
    ("VolumeId", &["vol"], "InvalidVolumeID.Malformed"),
    ("SnapshotId", &["snap"], "InvalidSnapshotID.Malformed"),
    ("ImageId", &["ami"], "InvalidAMIID.Malformed"),
];

/// 8 or 17 hexadecimal digits. <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-resource-ids.html>
pub fn well_formed(query: &Query, ids: &[Ids]) -> Answer<()> {
    for (name, value) in &query.params {
        let plain = name.split('.').rfind(|part| part.parse::<u32>().is_err()).unwrap_or_default();
        let Some((_, prefixes, code)) = ids.iter().find(|(id, _, _)| *id == plain) else {
            continue;
        };
        let digits =
            prefixes.iter().find_map(|prefix| value.strip_prefix(prefix)?.strip_prefix('-'));
        let hex = |digits: &str| {
            [8, 17].contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if !digits.is_some_and(hex) {
            return Err(refusal(code, format!("Invalid id: \"{value}\"")));
        }
    }
    Ok(())
}

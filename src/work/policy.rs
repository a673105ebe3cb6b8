//! Least-privilege policies of a drill account, made from the configuration and from the very calls
//! that a drill makes.
//!
//! Three documents: what the role of whoever runs drills may do, what the role of the instance may
//! do, and what nobody in the account may do whatever else they may. The first is made from the
//! rehearsal on paper ([`crate::sandbox::vpc::simulated_cloud`]): a call that is new in the code is
//! new in the policy.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::drill::order::{bucket, key_arns};
use super::{WorkContext, WorkError, drill, scratch};
use crate::domain::human_duration::HumanDuration;
use crate::domain::scratch::tag;
use crate::sandbox::vpc::cloud::{ApiCall, OwnedResource, ResourceKind};

/// Actions whose resources are told apart by nothing: looking, and what has no resource-level
/// permissions.
fn is_look(action: &str) -> bool {
    let verb = action.split(':').nth(1).unwrap_or_default();
    let is_look = ["Describe", "Get", "List"].iter().any(|prefix| verb.starts_with(prefix));
    // An instance's console is the instance's.
    is_look && !action.starts_with("kms:") && verb != "GetConsoleOutput"
}

/// Actions that make something, which must carry the run's tag from the beginning.
fn makes(act: &ApiCall) -> bool {
    matches!(
        act,
        ApiCall::CreateVpc { .. }
            | ApiCall::CreateRouteTable { .. }
            | ApiCall::CreateNetworkAcl { .. }
            | ApiCall::CreateSecurityGroup { .. }
            | ApiCall::CreateSubnet { .. }
            | ApiCall::CreateGatewayEndpoint { .. }
            | ApiCall::CreateInterfaceEndpoint { .. }
            | ApiCall::CreateFlowLogs { .. }
            | ApiCall::RunInstances(_)
    )
}

/// The kinds of resources that an action makes, as ARNs name them.
fn made_by(action: &str) -> &'static [&'static str] {
    match action {
        "ec2:CreateVpc" => &["vpc"],
        "ec2:CreateRouteTable" => &["route-table"],
        "ec2:CreateNetworkAcl" => &["network-acl"],
        "ec2:CreateSecurityGroup" => &["security-group"],
        "ec2:CreateSubnet" => &["subnet"],
        "ec2:CreateVpcEndpoint" => &["vpc-endpoint"],
        "ec2:CreateFlowLogs" => &["vpc-flow-log"],
        "ec2:RunInstances" => &["instance", "volume", "network-interface"],
        _ => &[],
    }
}

/// What the role of whoever runs drills may do in the drill account. What the vault needs comes on
/// top.
///
/// # Errors
/// [`WorkError::Refused`] without `[scratch_vpc]`.
pub async fn drill_role(rig: &WorkContext) -> Result<Value, WorkError> {
    let settings = scratch::settings(rig)?;
    let spec = drill::vpc::bare_spec(rig, "RUN").await?;
    let vault = spec.vault.clone();
    let phases = drill::vpc::on_paper(rig, spec, HumanDuration::seconds(3600)).await?;
    let (mut looks, mut making, mut changing) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for call in phases.into_iter().flat_map(|(_, calls)| calls) {
        match &call.act {
            _ if is_look(&call.action) => drop(looks.insert(call.action)),
            Some(act) if makes(act) => drop(making.insert(call.action)),
            Some(_) if call.action.starts_with("ec2:") => drop(changing.insert(call.action)),
            _ => {}
        }
    }
    // What a run meets only if something outlives its instance, or has another name.
    let removals = ResourceKind::OURS
        .map(|kind| ApiCall::Remove(OwnedResource::nothing(kind)).action().to_owned());
    changing.extend(removals.into_iter().filter(|action| action.starts_with("ec2:")));
    looks.extend(
        [
            "ec2:DescribeManagedPrefixLists",
            "servicequotas:GetAWSDefaultServiceQuota",
            "route53resolver:ListTagsForResource",
            "route53resolver:GetFirewallRuleGroupAssociation",
        ]
        .map(str::to_owned),
    );
    let (region, account) = (&settings.region, &settings.account);
    let ours = |kind: &str| format!("arn:aws:ec2:{region}:{account}:{kind}/*");
    let kinds: BTreeSet<&str> = making.iter().flat_map(|action| made_by(action)).copied().collect();
    let made: Vec<String> = kinds.iter().map(|kind| ours(kind)).collect();
    let actions = |all: &BTreeSet<String>| all.iter().cloned().collect::<Vec<_>>();
    let names: Vec<String> =
        making.iter().map(|action| action.trim_start_matches("ec2:").to_owned()).collect();
    let tagged = json!({ "StringLike": { format!("aws:ResourceTag/{}", tag::RUN): "*" } });
    let requested = json!({ "StringLike": { format!("aws:RequestTag/{}", tag::RUN): "*" } });
    let statement = |sid: &str, action: Value, resource: Value, condition: Value| {
        let mut statement =
            json!({ "Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource });
        if let (Some(statement), false) = (statement.as_object_mut(), condition.is_null()) {
            statement.insert("Condition".to_owned(), condition);
        }
        statement
    };
    let mut statements = vec![
        statement(
            "Look",
            json!(actions(&looks)),
            json!("*"),
            json!({ "StringEquals": { "aws:RequestedRegion": region } }),
        ),
        statement("MakeUnderOurTagOnly", json!(actions(&making)), json!(made), requested.clone()),
        statement("TagWhatIsMade", json!("ec2:CreateTags"), json!(made), {
            let mut condition = requested;
            condition["StringEquals"] = json!({ "ec2:CreateAction": names });
            condition
        }),
        // What things are made in must be ours as well; the image and the snapshots of its volumes
        // are nobody's.
        statement(
            "MakeInOurs",
            json!(actions(&making)),
            json!(["vpc", "subnet", "security-group", "route-table"].map(ours)),
            tagged.clone(),
        ),
        statement(
            "BootTheImage",
            json!("ec2:RunInstances"),
            json!([
                format!("arn:aws:ec2:{region}::image/*"),
                format!("arn:aws:ec2:{region}:*:snapshot/*")
            ]),
            Value::Null,
        ),
        statement(
            "ChangeAndRemoveOurs",
            json!(actions(&changing)),
            json!(format!("arn:aws:ec2:{region}:{account}:*/*")),
            tagged.clone(),
        ),
        statement("ReadTheConsole", json!("ec2:GetConsoleOutput"), json!(ours("instance")), tagged),
        statement(
            "GiveTheInstanceItsRole",
            json!("iam:PassRole"),
            json!(settings.instance_role),
            json!({ "StringEquals": { "iam:PassedToService": "ec2.amazonaws.com" } }),
        ),
        statement(
            "VolumesUnderTheDrillsKey",
            json!([
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncrypt*"
            ]),
            json!(settings.kms_key),
            json!({ "StringEquals": { "kms:ViaService": format!("ec2.{region}.amazonaws.com") } }),
        ),
        statement(
            "VolumesUnderTheDrillsKeyForEbs",
            json!("kms:CreateGrant"),
            json!(settings.kms_key),
            json!({ "Bool": { "kms:GrantIsForAWSResource": "true" } }),
        ),
        statement(
            "GrantDecryptToTheInstanceOnly",
            json!("kms:CreateGrant"),
            json!(key_arns(&rig.config)),
            json!({
                "StringEquals": { "kms:GranteePrincipal": settings.instance_role, "kms:EncryptionContext:vault": vault.to_string() },
                "ForAllValues:StringEquals": { "kms:GrantOperations": ["Decrypt"] },
                "StringLike": { "kms:GrantConstraintType": "EncryptionContextEquals" }
            }),
        ),
        statement(
            "TakeGrantsBack",
            json!(["kms:ListGrants", "kms:RevokeGrant"]),
            json!(key_arns(&rig.config)),
            Value::Null,
        ),
    ];
    if settings.dns_firewall.is_some() {
        statements.push(statement(
            "AssociateDnsFirewall",
            json!([
                "route53resolver:AssociateFirewallRuleGroup",
                "route53resolver:DisassociateFirewallRuleGroup",
                "route53resolver:TagResource"
            ]),
            json!([
                format!("arn:aws:route53resolver:{region}:{account}:firewall-rule-group/*"),
                format!(
                    "arn:aws:route53resolver:{region}:{account}:firewall-rule-group-association/*"
                )
            ]),
            Value::Null,
        ));
    }
    statements.push(match &settings.flow_logs_role {
        None => statement(
            "CreateFlowLogs",
            json!(["logs:CreateLogDelivery", "logs:DeleteLogDelivery"]),
            json!("*"),
            Value::Null,
        ),
        Some(role) => statement(
            "CreateFlowLogs",
            json!("iam:PassRole"),
            json!(role),
            json!({ "StringEquals": { "iam:PassedToService": "vpc-flow-logs.amazonaws.com" } }),
        ),
    });
    statements.push(statement(
        "PrivateNames",
        json!("route53:AssociateVPCWithHostedZone"),
        json!("*"),
        Value::Null,
    ));
    Ok(json!({ "Version": "2012-10-17", "Statement": statements }))
}

/// What the instance's role may do: the door it goes through is narrower still, and a key it is
/// granted for one backup at a time.
///
/// # Errors
/// [`WorkError::Refused`] without `[scratch_vpc]` or a vault in S3.
pub fn instance_role(rig: &WorkContext) -> Result<Value, WorkError> {
    let settings = scratch::settings(rig)?;
    let s3 = bucket(&rig.config)?;
    let objects = |keys: &[&str]| {
        keys.iter()
            .map(|key| format!("arn:aws:s3:::{}/{}{key}", s3.bucket, s3.prefix))
            .collect::<Vec<_>>()
    };
    let read = objects(&["vault.json", "manifests/*", "meta/*", "payloads/*", "agent/*", "runs/*"]);
    let mut statements = vec![
        json!({ "Sid": "Read", "Effect": "Allow", "Action": "s3:GetObject", "Resource": read }),
        json!({ "Sid": "List", "Effect": "Allow", "Action": "s3:ListBucket", "Resource": format!("arn:aws:s3:::{}", s3.bucket),
                "Condition": { "StringLike": { "s3:prefix": format!("{}meta/*", s3.prefix) } } }),
        json!({ "Sid": "Write", "Effect": "Allow", "Action": "s3:PutObject", "Resource": objects(&["runs/*/inbox/*"]) }),
    ];
    if let Some(key) = &s3.sse_kms_key {
        let region = &settings.region;
        statements
            .push(json!({ "Sid": "TheBucketsKey", "Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": key,
                                "Condition": { "StringEquals": { "kms:ViaService": format!("s3.{region}.amazonaws.com") } } }));
    }
    Ok(json!({ "Version": "2012-10-17", "Statement": statements }))
}

/// What nobody in the drill account may do, whatever else they may: for a service control policy.
/// Images are made in another account.
///
/// # Errors
/// [`WorkError::Refused`] without `[scratch_vpc]`.
pub fn guardrails(rig: &WorkContext) -> Result<Value, WorkError> {
    scratch::settings(rig)?;
    let ways_out = [
        "ec2:CreateInternetGateway",
        "ec2:AttachInternetGateway",
        "ec2:CreateEgressOnlyInternetGateway",
        "ec2:CreateNatGateway",
        "ec2:CreateCarrierGateway",
        "ec2:CreateVpnGateway",
        "ec2:AttachVpnGateway",
        "ec2:CreateVpcPeeringConnection",
        "ec2:AcceptVpcPeeringConnection",
        "ec2:CreateTransitGatewayVpcAttachment",
        "ec2:CreateInstanceConnectEndpoint",
        "ec2:AllocateAddress",
        "ec2:AssociateAddress",
        "ec2:CreateRoute",
        "ec2:ReplaceRoute",
        "ec2:ModifyVpcEndpoint",
        "ec2:ModifyVpcBlockPublicAccessOptions",
        "ec2:CreateVpcBlockPublicAccessExclusion",
    ];
    let leaks = [
        "ec2:ModifySnapshotAttribute",
        "ec2:ModifyImageAttribute",
        "ec2:CreateImage",
        "ec2:CreateStoreImageTask",
        "ec2:CreateSnapshot",
        "ec2:CreateSnapshots",
        "ec2:ExportImage",
        "ec2:CreateInstanceExportTask",
        "ec2:ModifyInstanceAttribute",
        "ec2:ModifyInstanceMetadataOptions",
        "ssm:StartSession",
        "ssm:SendCommand",
        "ec2:DisableEbsEncryptionByDefault",
        "ec2:EnableSerialConsoleAccess",
    ];
    Ok(json!({
        "Version": "2012-10-17",
        "Statement": [
            { "Sid": "NoWayOut", "Effect": "Deny", "Action": ways_out, "Resource": "*" },
            { "Sid": "NothingShared", "Effect": "Deny", "Action": leaks, "Resource": "*" },
            { "Sid": "MetadataByTokenOnly", "Effect": "Deny", "Action": "ec2:RunInstances", "Resource": "arn:aws:ec2:*:*:instance/*",
              "Condition": { "StringNotEquals": { "ec2:MetadataHttpTokens": "required" } } },
            { "Sid": "NoPublicAddress", "Effect": "Deny", "Action": "ec2:RunInstances", "Resource": "arn:aws:ec2:*:*:network-interface/*",
              "Condition": { "Bool": { "ec2:AssociatePublicIpAddress": "true" } } },
            { "Sid": "NothingUnencrypted", "Effect": "Deny", "Action": ["ec2:CreateVolume", "ec2:RunInstances"], "Resource": "arn:aws:ec2:*:*:volume/*",
              "Condition": { "Bool": { "ec2:Encrypted": "false" } } },
            { "Sid": "NothingWithoutItsRun", "Effect": "Deny", "Action": ["ec2:CreateVpc", "ec2:RunInstances"],
              "Resource": ["arn:aws:ec2:*:*:vpc/*", "arn:aws:ec2:*:*:instance/*"],
              "Condition": { "Null": { format!("aws:RequestTag/{}", tag::RUN): "true" } } }
        ]
    }))
}

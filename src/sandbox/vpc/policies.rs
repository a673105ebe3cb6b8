//! Endpoint policies: what can be reached through the only two doors of a scratch VPC. Narrow by
//! construction, whatever the role may do.

use serde_json::{Value, json};

use super::GrantSpec;

/// What the instance may read and write of a vault's bucket. Names are whole keys; a `*` at the end
/// stands for whatever follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VaultAccess {
    /// The bucket.
    pub bucket: String,
    /// Objects it may read.
    pub get: Vec<String>,
    /// Prefixes it may list.
    pub list: Vec<String>,
    /// Objects it may write.
    pub put: Vec<String>,
}

/// The policy of the S3 gateway endpoint: the drill's own account, the backup's objects, the run's
/// inbox.
#[must_use]
pub fn s3(account: &str, reads: &VaultAccess) -> Value {
    let objects = |keys: &[String]| {
        keys.iter().map(|key| format!("arn:aws:s3:::{}/{key}", reads.bucket)).collect::<Vec<_>>()
    };
    let ours = json!({ "StringEquals": { "aws:PrincipalAccount": account } });
    json!({
        "Version": "2012-10-17",
        "Statement": [
            { "Sid": "Read", "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": objects(&reads.get), "Condition": ours },
            { "Sid": "List", "Effect": "Allow", "Principal": "*", "Action": "s3:ListBucket",
              "Resource": format!("arn:aws:s3:::{}", reads.bucket),
              "Condition": { "StringEquals": { "aws:PrincipalAccount": account, "s3:prefix": reads.list } } },
            { "Sid": "Write", "Effect": "Allow", "Principal": "*", "Action": "s3:PutObject", "Resource": objects(&reads.put), "Condition": ours },
        ]
    })
}

/// The policy of the KMS interface endpoint: one decryption context for each key.
#[must_use]
pub fn kms(account: &str, grants: &[GrantSpec]) -> Value {
    let statement = |grant: &GrantSpec| {
        let mut equals =
            serde_json::Map::from_iter([("aws:PrincipalAccount".to_owned(), json!(account))]);
        equals.extend(
            grant
                .context
                .iter()
                .map(|(name, value)| (format!("kms:EncryptionContext:{name}"), json!(value))),
        );
        json!({ "Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": grant.key, "Condition": { "StringEquals": equals } })
    };
    json!({ "Version": "2012-10-17", "Statement": grants.iter().map(statement).collect::<Vec<_>>() })
}

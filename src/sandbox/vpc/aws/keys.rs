//! Grants on KMS keys: Decrypt, under one encryption context, for one role.
//!
//! A grant asked for twice, with the same name and all the same in it, is one grant. Its token is
//! another each time, and as good.

use std::collections::BTreeMap;

use aws_sdk_kms::types::{GrantConstraints, GrantOperation};

use super::api_calls::{CallFailed, CallMode};
use super::{AwsCloud, explain, is_missing, nonsense, pages, text, unknown};
use crate::aws::AwsError;
use crate::sandbox::vpc::cloud::{CallOutcome, CloudError, KeyGrant};

/// Grants of one page; as many as KMS gives.
const PAGE_GRANTS: i32 = 100;

impl AwsCloud {
    pub(super) async fn create_grant(
        &self,
        call: &CallMode<'_>,
        key: &str,
        grantee: &str,
        context: &BTreeMap<String, String>,
        name: &str,
    ) -> Result<CallOutcome, CallFailed> {
        let context = context.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let request = self
            .kms
            .create_grant()
            .key_id(key)
            .grantee_principal(grantee)
            .operations(GrantOperation::Decrypt)
            .constraints(
                GrantConstraints::builder().set_encryption_context_equals(Some(context)).build(),
            )
            .name(name)
            .set_dry_run(call.dry());
        let reply = request.send().await.map_err(|error| call.failed(&error))?;
        let id = reply
            .grant_id
            .ok_or_else(|| unknown(&call.what, "the answer does not say what was made"))?;
        Ok(CallOutcome { id, grant_token: reply.grant_token })
    }

    pub(super) async fn revoke_grant(
        &self,
        call: &CallMode<'_>,
        key: &str,
        grant: &str,
    ) -> Result<CallOutcome, CallFailed> {
        let request = self.kms.revoke_grant().key_id(key).grant_id(grant).set_dry_run(call.dry());
        call.done(request.send().await, |code| {
            is_missing(code) || code.starts_with("InvalidGrantId")
        })
    }

    pub(super) async fn grants_on(&self, key: &str) -> Result<Vec<KeyGrant>, CloudError> {
        let what = format!("listing the grants on {key}");
        let what = what.as_str();
        let listed = pages(what, |marker| async move {
            let request = self.kms.list_grants().key_id(key).limit(PAGE_GRANTS).set_marker(marker);
            let page = request.send().await.map_err(|error| explain(what, AwsError::of(&error)))?;
            let next = if page.truncated { page.next_marker } else { None };
            Ok((page.grants.unwrap_or_default(), next))
        });
        let mut grants = Vec::new();
        for grant in listed.await? {
            let name = text(grant.name());
            let id = grant.grant_id.ok_or_else(|| nonsense(what, "a grant has no id"))?;
            grants.push(KeyGrant { id, name });
        }
        Ok(grants)
    }
}

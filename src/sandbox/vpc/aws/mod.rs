//! The cloud of a scratch VPC in AWS: EC2, KMS, the DNS firewall and the quotas of one region of
//! one account.
//!
//! What makes a VPC, a subnet or a security group takes no client token: sent twice, it makes two.
//! Such a request goes out once, without the SDK's retries. Everything else the SDK repeats: it
//! carries a token, or finds that it was done already, which is success here. Either way no answer
//! is [`CloudError::Unknown`] wherever something may have changed.
//!
//! Things are asked for by filter, never by id: an id that is gone fails a list by ids, and a
//! filter just does not find it. What a filter found is compared once more, since whoever removes
//! by tags must not depend on how a service reads them.

/// All pages of one of EC2's lists, by filters.
macro_rules! listed {
    ($client:expr, $what:expr, $operation:ident.$set_filters:ident($filters:expr) -> $items:ident) => {{
        let (client, what, filters): (&aws_sdk_ec2::Client, &str, &[aws_sdk_ec2::types::Filter]) =
            (&$client, $what, $filters);
        pages(what, |token| async move {
            let request = client
                .$operation()
                .$set_filters(Some(filters.to_vec()))
                .max_results(PAGE_ITEMS)
                .set_next_token(token);
            let page = request.send().await.map_err(|error| explain(what, AwsError::of(&error)))?;
            Ok((page.$items.unwrap_or_default(), page.next_token))
        })
        .await
    }};
}

mod account;
mod api_calls;
mod describe;
mod firewall;
mod gateways;
mod keys;
mod launch;
mod machines;
mod removal;

use std::collections::BTreeSet;

use async_trait::async_trait;
use aws_config::SdkConfig;

use super::cloud::{
    AccountGuards, ApiCall, CallOutcome, CallerIdentity, CloudError, CloudResource, FirewallRule,
    KeyGrant, MachineImage, ResourceKind, ResourceScope, ResourceTags, ScratchCloud, ServiceQuota,
};
use crate::aws::ec2::{
    self, FILTER_VALUES_MAX, filter, is_throttled, literal, once, tag_map, tagged_as,
};
use crate::aws::{self, AwsError};
use api_calls::{CallFailed, CallMode};

/// Items of one page; what every list of EC2 used here allows.
const PAGE_ITEMS: i32 = 50;

/// One region of one account.
pub struct AwsCloud {
    region: String,
    ec2: aws_sdk_ec2::Client,
    kms: aws_sdk_kms::Client,
    resolver: aws_sdk_route53resolver::Client,
    quotas: aws_sdk_servicequotas::Client,
    sts: aws_sdk_sts::Client,
}

impl AwsCloud {
    /// Clients for a region, by a role if one is named. Makes no request.
    pub async fn new(region: &str, role: Option<&str>) -> Self {
        Self::of(region, &aws::config_of(region, role).await)
    }

    /// Clients of a configuration that somebody else has made.
    #[must_use]
    pub fn of(region: &str, shared: &SdkConfig) -> Self {
        Self {
            region: region.to_owned(),
            ec2: aws_sdk_ec2::Client::new(shared),
            kms: aws_sdk_kms::Client::new(shared),
            resolver: aws_sdk_route53resolver::Client::new(shared),
            quotas: aws_sdk_servicequotas::Client::new(shared),
            sts: aws_sdk_sts::Client::new(shared),
        }
    }
}

/// Why a request failed that changed nothing.
fn explain(what: &str, answer: AwsError) -> CloudError {
    let (what, why, code) = (what.to_owned(), answer.message.clone(), answer.code.as_str());
    if is_missing(code) {
        return CloudError::Missing { what, why };
    }
    if lacks_capacity(code) {
        return CloudError::NoCapacity { what, why };
    }
    if is_throttled(code) || (answer.is_passing() && !is_busy(&answer)) {
        return CloudError::Unavailable { what, why };
    }
    if is_busy(&answer) {
        return CloudError::Busy { what, why };
    }
    // The service agreed, and what it said could not be read.
    if answer.status.is_some_and(|status| status < 400) {
        return CloudError::Nonsense { what, why };
    }
    CloudError::Refused { what, why }
}

fn unknown(what: &str, why: impl Into<String>) -> CloudError {
    CloudError::Unknown { what: what.to_owned(), why: why.into() }
}

fn nonsense(what: &str, why: impl Into<String>) -> CloudError {
    CloudError::Nonsense { what: what.to_owned(), why: why.into() }
}

fn refused(what: &str, why: impl Into<String>) -> CloudError {
    CloudError::Refused { what: what.to_owned(), why: why.into() }
}

/// Whether a code says that something is not there. EC2 has one for each kind:
/// `InvalidVpcID.NotFound`, `InvalidGroup.NotFound`.
fn is_missing(code: &str) -> bool {
    code.contains("NotFound") || code == "NoSuchResourceException"
}

/// Whether something else is in the way that may go. Quotas of an account do not: they are
/// refusals.
fn is_busy(answer: &AwsError) -> bool {
    const CODES: [&str; 5] = [
        "DependencyViolation",
        "IncorrectState",
        "IncorrectInstanceState",
        "ConflictException",
        "ResourceInUseException",
    ];
    let code = answer.code.as_str();
    // An interface that is held has no code of its own.
    let held = code == "InvalidParameterValue" && answer.message.contains("currently in use");
    CODES.contains(&code) || code.ends_with("InUse") || code.starts_with("Concurrent") || held
}

/// `InsufficientInstanceCapacity`, `InsufficientHostCapacity` and others. EC2 counts them among its
/// own faults, with status 500.
fn lacks_capacity(code: &str) -> bool {
    code.starts_with("Insufficient") && code.contains("Capacity")
}

/// All pages of a list, one after another.
async fn pages<T, F, P>(what: &str, page: F) -> Result<Vec<T>, CloudError>
where
    F: Fn(Option<String>) -> P,
    P: Future<Output = Result<(Vec<T>, Option<String>), CloudError>>,
{
    ec2::pages(page, |why| nonsense(what, why)).await
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or_default().to_owned()
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}

#[async_trait]
impl ScratchCloud for AwsCloud {
    fn region(&self) -> &str {
        &self.region
    }

    async fn caller(&self) -> Result<CallerIdentity, CloudError> {
        self.who_asks().await
    }

    async fn act(
        &self,
        act: &ApiCall,
        tags: &ResourceTags,
        token: &str,
    ) -> Result<CallOutcome, CloudError> {
        let call = CallMode {
            what: format!("{} ({})", act.action(), act.subject()),
            tags,
            token,
            dry: false,
        };
        match self.perform(act, &call).await {
            Ok(acted) => Ok(acted),
            Err(CallFailed::Cloud(error)) => Err(error),
            Err(CallFailed::WouldWork) => Err(nonsense(&call.what, "it was taken for a question")),
        }
    }

    async fn dry_run(&self, act: &ApiCall, tags: &ResourceTags) -> Result<(), CloudError> {
        let call = CallMode {
            what: format!("trying out {} ({})", act.action(), act.subject()),
            tags,
            token: "",
            dry: true,
        };
        // What cannot would be done.
        if !act.can_be_tried_out() {
            return Err(refused(&call.what, "it cannot be tried out"));
        }
        match self.perform(act, &call).await {
            Err(CallFailed::WouldWork) => Ok(()),
            Err(CallFailed::Cloud(error)) => Err(error),
            Ok(_) => {
                Err(nonsense(&call.what, "it was asked whether it would, and says that it did"))
            }
        }
    }

    async fn describe(
        &self,
        kind: ResourceKind,
        at: &ResourceScope,
    ) -> Result<Vec<CloudResource>, CloudError> {
        self.things(kind, at).await
    }

    async fn offers(&self, types: &[String]) -> Result<BTreeSet<(String, String)>, CloudError> {
        self.offered(types).await
    }

    async fn image(&self, id: &str) -> Result<Option<MachineImage>, CloudError> {
        self.image_by_id(id).await
    }

    async fn prefix_list(&self, service: &str) -> Result<String, CloudError> {
        self.prefix_list_of(service).await
    }

    async fn quotas(&self, instance_type: &str) -> Result<Vec<ServiceQuota>, CloudError> {
        self.quotas_with(instance_type).await
    }

    async fn console(&self, instance: &str) -> Result<String, CloudError> {
        self.console_of(instance).await
    }

    async fn firewall_rules(&self, group: &str) -> Result<Vec<FirewallRule>, CloudError> {
        self.rules_of(group).await
    }

    async fn grants(&self, key: &str) -> Result<Vec<KeyGrant>, CloudError> {
        self.grants_on(key).await
    }

    async fn guards(&self) -> Result<AccountGuards, CloudError> {
        self.guards_of_account().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: &str, status: u16) -> CloudError {
        explain(
            "it",
            AwsError {
                status: Some(status),
                code: code.to_owned(),
                message: format!("{code}: so it is"),
                is_setup: false,
            },
        )
    }

    #[test]
    fn codes_are_told_apart() {
        for code in [
            "InvalidVpcID.NotFound",
            "InvalidGroup.NotFound",
            "ResourceNotFoundException",
            "NotFoundException",
        ] {
            assert!(matches!(told(code, 400), CloudError::Missing { .. }), "{code}");
        }
        for code in [
            "DependencyViolation",
            "VolumeInUse",
            "InvalidGroup.InUse",
            "IncorrectState",
            "ConflictException",
        ] {
            assert!(matches!(told(code, 400), CloudError::Busy { .. }), "{code}");
        }
        for code in [
            "UnauthorizedOperation",
            "VpcLimitExceeded",
            "VcpuLimitExceeded",
            "InstanceLimitExceeded",
            "InvalidParameterValue",
        ] {
            assert!(matches!(told(code, 403), CloudError::Refused { .. }), "{code}");
        }
        for (code, status) in [
            ("RequestLimitExceeded", 503),
            ("ThrottlingException", 400),
            ("InternalError", 500),
            ("ExpiredToken", 400),
        ] {
            assert!(matches!(told(code, status), CloudError::Unavailable { .. }), "{code}");
        }
        for code in [
            "InsufficientInstanceCapacity",
            "InsufficientHostCapacity",
            "InsufficientReservedInstanceCapacity",
        ] {
            assert!(matches!(told(code, 500), CloudError::NoCapacity { .. }), "{code}");
        }
        assert!(matches!(
            told("InsufficientFreeAddressesInSubnet", 400),
            CloudError::Refused { .. }
        ));
        assert!(matches!(told("", 200), CloudError::Nonsense { .. }));
    }

    #[test]
    fn an_interface_that_is_held_must_wait() {
        let message =
            "InvalidParameterValue: Network interface 'eni-1' is currently in use.".to_owned();
        let answer = AwsError {
            status: Some(400),
            code: "InvalidParameterValue".to_owned(),
            message,
            is_setup: false,
        };
        assert!(matches!(explain("it", answer), CloudError::Busy { .. }));
    }
}

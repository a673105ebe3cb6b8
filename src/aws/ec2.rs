//! Shared by the EC2 adapters: literal filters, tags, pagination, and which requests must not be
//! retried.

use std::collections::BTreeMap;

use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::error::SdkError;
use aws_sdk_ec2::types::{Filter, ResourceType, Tag, TagSpecification};

use super::AwsError;

/// Pages of one list. Half a million snapshots are more than an account may have.
const PAGES_MAX: usize = 1_000;
/// Values of one filter that EC2 allows.
pub const FILTER_VALUES_MAX: usize = 200;

/// All pages of a list, one after another. A list without end is an error, which `endless` makes.
///
/// # Errors
/// That of a page, or of a list without end.
pub async fn pages<T, E, F, P>(page: F, endless: impl FnOnce(String) -> E) -> Result<Vec<T>, E>
where
    F: Fn(Option<String>) -> P,
    P: Future<Output = Result<(Vec<T>, Option<String>), E>>,
{
    let mut found = Vec::new();
    let mut next: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let (some, token) = page(next).await?;
        found.extend(some);
        // The last page has no token, or an empty one.
        next = token.filter(|token| !token.is_empty());
        if next.is_none() {
            return Ok(found);
        }
    }
    Err(endless(format!("it has more than {PAGES_MAX} pages")))
}

/// What a request is sent with that must not be sent twice.
#[must_use]
pub fn once() -> aws_sdk_ec2::config::Builder {
    aws_sdk_ec2::config::Builder::new().retry_config(RetryConfig::disabled())
}

/// Whether a request that failed may have changed something all the same: it was sent, and not
/// turned down.
pub fn may_have_happened<E>(error: &SdkError<E>, answer: &AwsError) -> bool {
    let sent = !matches!(error, SdkError::ConstructionFailure(_));
    let turned_down = answer.status.is_some_and(|status| (400..500).contains(&status));
    sent && !turned_down && !is_throttled(&answer.code)
}

/// EC2 throttles with status 503, and nothing has happened then.
#[must_use]
pub fn is_throttled(code: &str) -> bool {
    code == "RequestLimitExceeded" || code.contains("Throttl")
}

/// A filter.
#[must_use]
pub fn filter(name: impl Into<String>, values: Vec<String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values)).build()
}

/// A filter's value that means itself: `*` and `?` would match anything.
#[must_use]
pub fn literal(value: &str) -> String {
    value.replace('\\', r"\\").replace('*', r"\*").replace('?', r"\?")
}

/// Filters for what carries all of some tags.
#[must_use]
pub fn tag_filters(tags: &BTreeMap<String, String>) -> Vec<Filter> {
    tags.iter().map(|(key, value)| filter(format!("tag:{key}"), vec![literal(value)])).collect()
}

/// A tag.
#[must_use]
pub fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

/// Tags that a thing of a kind gets in the call that makes it.
#[must_use]
pub fn tagged_as(kind: ResourceType, tags: &BTreeMap<String, String>) -> TagSpecification {
    let tags = tags.iter().map(|(key, value)| tag(key, value)).collect();
    TagSpecification::builder().resource_type(kind).set_tags(Some(tags)).build()
}

/// Tags by key.
#[must_use]
pub fn tag_map(tags: &[Tag]) -> BTreeMap<String, String> {
    tags.iter()
        .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_looks_like_a_pattern_finds_itself_only() {
        assert_eq!(literal(r"a*b?c\d"), r"a\*b\?c\\d");
        assert_eq!(literal("plain"), "plain");
    }

    #[test]
    fn throttling_is_known_by_its_codes() {
        assert!(
            is_throttled("RequestLimitExceeded")
                && is_throttled("EC2ThrottledException")
                && is_throttled("RequestThrottledException")
        );
    }
}

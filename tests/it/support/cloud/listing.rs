//! What all lists have in common: filters, and pages that are smaller than what is there.
//!
//! - A filter that the action does not know is refused; values may hold `*` and `?`, which mean
//!   themselves after a backslash; several
//!   values of one filter are alternatives.
//!   <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Filter.html>,
//!   <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html>
//! - A page may be smaller than what was asked for; only a missing token says that there is no
//!   more; order means nothing.
//!   <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Query-Requests.html#api-pagination>
//! - A token that is not of this query: InvalidPaginationToken. <https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html>
//! - MaxResults is from 5 to 1,000, for some actions to less, and never together with ids:
//!   InvalidParameterCombination, as the pages of DescribeSnapshots, DescribeVolumes and
//!   DescribeVolumeStatus said for years, and EC2 still answers for instances.

use super::query::Query;
use super::world::{Answer, World, refusal};
use super::xml::Node;

/// What an item has for a filter that is not about tags; none if the action does not know such a
/// filter.
pub type Values = fn(&Node, &str) -> Option<Vec<String>>;

pub struct Listing {
    /// The element with the items.
    pub set: &'static str,
    /// The element of an item with its id, and the parameter that asks for ids.
    pub id: &'static str,
    pub asked: &'static str,
    /// The error if an id is asked for and not there; none if that is no error.
    pub missing: Option<&'static str>,
    pub values: Values,
}

impl Listing {
    /// One page of the items that are asked for, as the children of an answer, and their ids.
    pub fn page(
        &self,
        world: &World,
        query: &Query,
        items: Vec<Node>,
    ) -> Answer<(Vec<Node>, Vec<String>)> {
        let found = self.matching(query, items)?;
        self.cut(world, query, !query.list(self.asked).is_empty(), found)
    }

    /// All that is asked for, sorted.
    pub fn matching(&self, query: &Query, items: Vec<Node>) -> Answer {
        let id_of = |item: &Node| item.get(self.id).to_owned();
        for (name, _) in query.filters() {
            self.has(&Node::default(), &name)?;
        }
        let ids = query.list(self.asked);
        let missing = ids.iter().find(|id| !items.iter().any(|item| id_of(item) == **id));
        if let (Some(id), Some(code)) = (missing, self.missing) {
            return Err(refusal(code, format!("'{id}' does not exist.")));
        }
        let mut found = Vec::new();
        for item in items {
            if self.wants(query, &item)? {
                found.push(item);
            }
        }
        found.sort_by_key(id_of);
        Ok(found)
    }

    /// Whether an item is asked for.
    pub fn wants(&self, query: &Query, item: &Node) -> Answer<bool> {
        let ids = query.list(self.asked);
        if !ids.is_empty() && !ids.iter().any(|id| id == item.get(self.id)) {
            return Ok(false);
        }
        for (name, wanted) in query.filters() {
            let found = self.has(item, &name)?;
            if !found.iter().any(|value| {
                wanted.iter().any(|pattern| fits(pattern.as_bytes(), value.as_bytes()))
            }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What an item has for a filter.
    fn has(&self, item: &Node, filter: &str) -> Answer<Vec<String>> {
        let tags = item.items("tagSet").iter();
        match filter.strip_prefix("tag:") {
            Some(key) => Ok(tags
                .filter(|tag| tag.get("key") == key)
                .map(|tag| tag.get("value").to_owned())
                .collect()),
            None if filter == "tag-key" => Ok(tags.map(|tag| tag.get("key").to_owned()).collect()),
            None => (self.values)(item, filter).ok_or_else(|| {
                refusal("InvalidParameterValue", format!("The filter '{filter}' is invalid"))
            }),
        }
    }

    fn cut(
        &self,
        world: &World,
        query: &Query,
        by_id: bool,
        mut found: Vec<Node>,
    ) -> Answer<(Vec<Node>, Vec<String>)> {
        let mut state = world.state();
        let mut size = state.settings.page;
        if let Some(most) = query.get("MaxResults") {
            if by_id {
                let why = format!(
                    "The parameter {} cannot be used with the parameter maxResults",
                    self.asked
                );
                return Err(refusal("InvalidParameterCombination", why));
            }
            let range = allowed(&query.action);
            let most = most.parse().ok().filter(|most| range.contains(most));
            size = size.min(most.ok_or_else(|| {
                refusal("InvalidParameterValue", format!("MaxResults must be in {range:?}"))
            })?);
        }
        let mut of = query.clone();
        of.params.retain(|name, _| name != "NextToken" && name != "MaxResults");
        let of = format!("{} {} {} {:?}", of.key, of.region, of.action, of.params);
        if let Some(token) = query.get("NextToken") {
            let known = state.pages.get(token).filter(|(for_what, _)| *for_what == of);
            let (_, after) = known.ok_or_else(|| {
                refusal("InvalidPaginationToken", "The pagination token is not valid")
            })?;
            found.retain(|item| item.get(self.id) > after.as_str());
        }
        let more = found.len() > size;
        found.truncate(size);
        let ids: Vec<String> = found.iter().map(|item| item.get(self.id).to_owned()).collect();
        let mut answer = vec![Node::new(self.set, found)];
        if more {
            let token =
                format!("page{:08x}", state.number().wrapping_mul(0x9E37_79B9) & 0xFFFF_FFFF);
            state.pages.insert(token.clone(), (of, ids.last().cloned().unwrap_or_default()));
            answer.push(Node::leaf("nextToken", token));
        }
        Ok((answer, ids))
    }
}

/// What each action allows for MaxResults, as its page says.
fn allowed(action: &str) -> std::ops::RangeInclusive<usize> {
    match action {
        "DescribeRouteTables" | "DescribeInstanceTypes" => 5..=100,
        "DescribeManagedPrefixLists" => 1..=100,
        "DescribeEgressOnlyInternetGateways" => 5..=255,
        "DescribeInstanceConnectEndpoints" => 1..=50,
        _ => 5..=1000,
    }
}

/// What an item has at the path that a table names for a filter.
pub fn found(item: &Node, filter: &str, paths: &[(&str, &str)]) -> Option<Vec<String>> {
    let (_, path) = paths.iter().find(|(name, _)| *name == filter)?;
    Some(item.all(path))
}

/// Whether a value fits a pattern with `*` and `?`, which mean themselves after a backslash.
pub fn fits(pattern: &[u8], value: &[u8]) -> bool {
    match (pattern, value) {
        ([], []) => true,
        ([b'\\', one, pattern @ ..], [byte, value @ ..]) => one == byte && fits(pattern, value),
        ([b'*', rest @ ..], _) => {
            fits(rest, value) || (!value.is_empty() && fits(pattern, &value[1..]))
        }
        ([one, pattern @ ..], [byte, value @ ..]) => {
            (*one == b'?' || one == byte) && fits(pattern, value)
        }
        _ => false,
    }
}

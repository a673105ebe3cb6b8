//! The DNS firewall: a rule group associated with the VPC, and what its rules say.
//!
//! The service finds nothing by tags. What could be ours is known by its name, and only its tags
//! decide.

use aws_sdk_route53resolver::types::{FirewallRuleGroupAssociation, MutationProtectionStatus, Tag};

use super::api_calls::{CallFailed, CallMode};
use super::{AwsCloud, explain, is_missing, nonsense, pages, refused, sorted, text};
use crate::aws::AwsError;
use crate::sandbox::vpc::cloud::{
    CallOutcome, CloudError, CloudResource, FirewallRule, ResourceFacts, ResourceKind,
    ResourceScope, ResourceTags,
};

/// Where the rule group stands among those of the VPC. Low numbers and high ones are the service's
/// own; this one is the first we may use.
const PRIORITY: i32 = 101;
/// What names of our associations begin with.
const NAME: &str = "lifeboat-";
/// Items of one page; as many as the service gives.
const PAGE: i32 = 100;

impl AwsCloud {
    pub(super) async fn associate_firewall(
        &self,
        call: &CallMode<'_>,
        vpc: &str,
        rules: &str,
        name: &str,
    ) -> Result<CallOutcome, CallFailed> {
        let mut tags = Vec::new();
        for (key, value) in call.tags {
            let tag = Tag::builder().key(key).value(value).build();
            tags.push(tag.map_err(|error| refused(&call.what, error.to_string()))?);
        }
        let request = self
            .resolver
            .associate_firewall_rule_group()
            .vpc_id(vpc)
            .firewall_rule_group_id(rules)
            .name(name)
            .priority(PRIORITY)
            // It must be possible to take it off again.
            .mutation_protection(MutationProtectionStatus::Disabled)
            .creator_request_id(call.token)
            .set_tags(Some(tags));
        call.made(request.send().await, |reply| reply.firewall_rule_group_association?.id)
    }

    pub(super) async fn disassociate_firewall(
        &self,
        call: &CallMode<'_>,
        id: &str,
    ) -> Result<CallOutcome, CallFailed> {
        let request =
            self.resolver.disassociate_firewall_rule_group().firewall_rule_group_association_id(id);
        call.done(request.send().await, is_missing)
    }

    pub(super) async fn firewall_associations(
        &self,
        what: &str,
        at: &ResourceScope,
    ) -> Result<Vec<CloudResource>, CloudError> {
        let listed = match at {
            ResourceScope::Vpc(vpc) => self.associations(what, Some(vpc)).await?,
            ResourceScope::Id(id) => self.association(what, id).await?.into_iter().collect(),
            ResourceScope::Tagged(tags) if tags.is_empty() => {
                return Err(refused(what, "no tags are named"));
            }
            ResourceScope::Tagged(_) => {
                let mut all = self.associations(what, None).await?;
                all.retain(|association| {
                    association.name().is_some_and(|name| name.starts_with(NAME))
                });
                all
            }
        };
        let mut found = Vec::new();
        for association in listed {
            // One that went meanwhile has no tags any more.
            let Some(tags) = self.tags_of(what, &association).await? else { continue };
            let thing = thing(what, &association, tags)?;
            if !matches!(at, ResourceScope::Tagged(wanted) if !thing.carries(wanted)) {
                found.push(thing);
            }
        }
        Ok(found)
    }

    async fn associations(
        &self,
        what: &str,
        vpc: Option<&str>,
    ) -> Result<Vec<FirewallRuleGroupAssociation>, CloudError> {
        pages(what, |token| async move {
            let request = self
                .resolver
                .list_firewall_rule_group_associations()
                .set_vpc_id(vpc.map(ToOwned::to_owned));
            let sent = request.max_results(PAGE).set_next_token(token).send().await;
            let page = sent.map_err(|error| explain(what, AwsError::of(&error)))?;
            Ok((page.firewall_rule_group_associations.unwrap_or_default(), page.next_token))
        })
        .await
    }

    async fn association(
        &self,
        what: &str,
        id: &str,
    ) -> Result<Option<FirewallRuleGroupAssociation>, CloudError> {
        let request = self
            .resolver
            .get_firewall_rule_group_association()
            .firewall_rule_group_association_id(id);
        match request.send().await {
            Ok(reply) => Ok(reply.firewall_rule_group_association),
            Err(error) => match explain(what, AwsError::of(&error)) {
                CloudError::Missing { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    async fn tags_of(
        &self,
        what: &str,
        association: &FirewallRuleGroupAssociation,
    ) -> Result<Option<ResourceTags>, CloudError> {
        let arn = association.arn().ok_or_else(|| nonsense(what, "an association has no ARN"))?;
        let listed = pages(what, |token| async move {
            let request = self
                .resolver
                .list_tags_for_resource()
                .resource_arn(arn)
                .max_results(PAGE)
                .set_next_token(token);
            let page = request.send().await.map_err(|error| explain(what, AwsError::of(&error)))?;
            Ok((page.tags.unwrap_or_default(), page.next_token))
        });
        match listed.await {
            Ok(tags) => Ok(Some(tags.into_iter().map(|tag| (tag.key, tag.value)).collect())),
            Err(CloudError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn rules_of(&self, group: &str) -> Result<Vec<FirewallRule>, CloudError> {
        let what = format!("listing the rules of {group}");
        let what = what.as_str();
        let listed = pages(what, |token| async move {
            let request = self
                .resolver
                .list_firewall_rules()
                .firewall_rule_group_id(group)
                .max_results(PAGE)
                .set_next_token(token);
            let page = request.send().await.map_err(|error| explain(what, AwsError::of(&error)))?;
            Ok((page.firewall_rules.unwrap_or_default(), page.next_token))
        });
        let mut rules = Vec::new();
        for rule in listed.await? {
            let domains = match rule.firewall_domain_list_id() {
                Some(list) => self.domains(what, list).await?,
                // It speaks of threats, not of names.
                None => Vec::new(),
            };
            let priority =
                rule.priority().ok_or_else(|| nonsense(what, "a rule has no priority"))?;
            let action = rule
                .action()
                .ok_or_else(|| nonsense(what, "a rule has no action"))?
                .as_str()
                .to_owned();
            let question = rule.qtype().filter(|kind| !kind.is_empty()).map(ToOwned::to_owned);
            rules.push(FirewallRule { priority, action, domains, question });
        }
        rules.sort_by_key(|rule| rule.priority);
        Ok(rules)
    }

    /// The domains of a list; none if it is AWS's own, which nobody may read.
    async fn domains(&self, what: &str, list: &str) -> Result<Vec<String>, CloudError> {
        let listed = pages(what, |token| async move {
            let request = self
                .resolver
                .list_firewall_domains()
                .firewall_domain_list_id(list)
                .max_results(PAGE)
                .set_next_token(token);
            let page = request.send().await.map_err(|error| explain(what, AwsError::of(&error)))?;
            Ok((page.domains.unwrap_or_default(), page.next_token))
        });
        match listed.await {
            Ok(domains) => Ok(sorted(domains)),
            Err(CloudError::Refused { .. } | CloudError::Missing { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn thing(
    what: &str,
    raw: &FirewallRuleGroupAssociation,
    tags: ResourceTags,
) -> Result<CloudResource, CloudError> {
    let id = raw
        .id()
        .filter(|id| !id.is_empty())
        .ok_or_else(|| nonsense(what, "an association has no id"))?;
    Ok(CloudResource {
        kind: ResourceKind::FirewallAssociation,
        id: id.to_owned(),
        state: raw.status().map(|status| status.as_str().to_owned()).unwrap_or_default(),
        reason: raw.status_message().filter(|message| !message.is_empty()).map(ToOwned::to_owned),
        tags,
        facts: ResourceFacts::FirewallAssociation {
            vpc: text(raw.vpc_id()),
            rules: text(raw.firewall_rule_group_id()),
            priority: raw.priority().unwrap_or_default(),
        },
    })
}

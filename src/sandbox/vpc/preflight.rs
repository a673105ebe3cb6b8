//! Preflight: everything that can be checked before anything is created. All errors at once, not
//! just the first.

use super::cloud::{ApiCall, CloudError, MachineImage, ResourceFacts, ResourceKind, ResourceScope};
use super::gate::open_names;
use super::{ScratchError, ScratchVpc, sha256, simulated_cloud};
use crate::domain::human_duration::HumanDuration;
use crate::domain::scratch::{ImageChoice, UsDollars, cost_ceiling};

/// How good an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerWeight {
    /// As it should be.
    Good,
    /// Weaker than it should be; it keeps nothing from beginning.
    Weak,
    /// It keeps the drill from beginning.
    Fault,
}

/// A question that was asked, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreflightAnswer {
    /// The question.
    pub question: String,
    /// The answer.
    pub words: String,
    /// How good it is.
    pub weight: AnswerWeight,
}

impl PreflightAnswer {
    /// The answer for people.
    #[must_use]
    pub fn told(&self) -> String {
        if self.weight == AnswerWeight::Fault {
            format!("no: {}", self.words)
        } else {
            self.words.clone()
        }
    }
}

/// What preflight found.
#[derive(Debug, Clone, Default)]
pub struct PreflightReport {
    /// Each question and its answer.
    pub answers: Vec<PreflightAnswer>,
    /// Calls that would be refused, in words.
    pub refusals: Vec<String>,
    /// Who asked.
    pub caller: String,
    /// SHA-256 over what EC2 says of the image.
    pub image_digest: String,
    /// The most the run can cost.
    pub cost_ceiling: UsDollars,
}

impl PreflightReport {
    /// Takes an answer.
    pub fn add(&mut self, question: &str, words: String, weight: AnswerWeight) {
        self.answers.push(PreflightAnswer { question: question.to_owned(), words, weight });
    }

    fn answer(&mut self, question: &str, answer: Result<String, String>) {
        match answer {
            Ok(words) => self.add(question, words, AnswerWeight::Good),
            Err(why) => self.add(question, why, AnswerWeight::Fault),
        }
    }

    /// Everything that keeps the drill from beginning.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let answers = self.answers.iter().filter(|asked| asked.weight == AnswerWeight::Fault);
        answers
            .map(|asked| format!("{}: {}", asked.question, asked.words))
            .chain(self.refusals.iter().cloned())
            .collect()
    }
}

/// SHA-256 over what cannot change about an image: EC2 has no digest of its own, but an image's
/// snapshots never change.
#[must_use]
pub fn digest(image: &MachineImage) -> String {
    let MachineImage { id, owner, created, architecture, root_device, snapshots, .. } = image;
    let facts = serde_json::json!({
        "id": id, "owner": owner, "created": created, "architecture": architecture, "root_device": root_device, "snapshots": snapshots,
    });
    sha256(facts.to_string().as_bytes())
}

fn told<T>(answer: Result<T, CloudError>) -> Result<T, String> {
    answer.map_err(|error| error.to_string())
}

impl ScratchVpc {
    /// Asks everything that can be asked before anything is made, and learns what the steps need:
    /// the image, the prefix list, the zones. `gib` are the volumes' GiB.
    ///
    /// # Errors
    /// [`ScratchError::Interrupted`]; faults are in the answer.
    pub async fn preflight(
        &mut self,
        time_to_live: HumanDuration,
        gib: u64,
    ) -> Result<PreflightReport, ScratchError> {
        let mut found = PreflightReport::default();
        let cloud = std::sync::Arc::clone(self.cloud());
        let settings = self.spec.settings.clone();
        let caller = told(cloud.caller().await);
        if let Ok(caller) = &caller {
            found.caller.clone_from(&caller.arn);
        }
        let caller = caller.and_then(|caller| match caller.account == settings.account {
            true => Ok(format!("{} in account {}", caller.arn, caller.account)),
            false => Err(format!(
                "{} is in account {}, and drills happen in {}",
                caller.arn, caller.account, settings.account
            )),
        });
        found.answer("who asks", caller);
        let meets =
            settings.production_cidrs.iter().find(|production| production.overlaps(settings.cidr));
        found.answer(
            "network",
            match meets {
                None => Ok(format!(
                    "{} meets none of production's {}",
                    settings.cidr,
                    settings.production_cidrs.len()
                )),
                Some(production) => {
                    Err(format!("{} overlaps production's {production}", settings.cidr))
                }
            },
        );
        let image = self.find_image().await;
        found.image_digest = image.as_ref().map(digest).unwrap_or_default();
        let image = image.map(|image| {
            format!(
                "{} ({}), {}, digest {}",
                image.id,
                image.name,
                image.architecture,
                digest(&image)
            )
        });
        found.answer("image", image);
        let prefix_list =
            told(cloud.prefix_list(&format!("com.amazonaws.{}.s3", settings.region)).await);
        found.answer(
            "prefix list of S3",
            prefix_list.inspect(|id| {
                self.prefix_list.clone_from(id);
            }),
        );
        let offers = told(cloud.offers(&settings.instance_types).await);
        found.answer(
            "zones",
            offers.and_then(|offers| {
                let offered = |zone: &&String| offers.iter().any(|(_, offered)| offered == *zone);
                let zones: Vec<String> = settings.zones.iter().filter(offered).cloned().collect();
                let first = zones.first().cloned().ok_or_else(|| {
                    format!(
                        "none of {} is offered in {}",
                        settings.instance_types.join(", "),
                        settings.zones.join(", ")
                    )
                })?;
                self.zone = first;
                let told = zones.join(", ");
                self.spec.settings.zones = zones;
                Ok(told)
            }),
        );
        let largest = settings.instance_types.first().cloned().unwrap_or_default();
        match told(cloud.quotas(&largest).await) {
            Err(why) => found.answer("quotas", Err(why)),
            Ok(quotas) => {
                for quota in quotas {
                    let words = format!("{} of {} with this run", quota.used, quota.allowed);
                    let fits = quota.used <= quota.allowed;
                    found.answer(
                        &format!("quota: {}", quota.what),
                        if fits { Ok(words) } else { Err(words) },
                    );
                }
            }
        }
        if let Some(group) = &settings.dns_firewall {
            let rules = told(cloud.firewall_rules(group).await);
            let closed = rules.and_then(|rules| match open_names(&rules) {
                None => Ok(format!("{group}: {} rules, everything else is blocked", rules.len())),
                Some(why) => Err(format!("{group}: {why}")),
            });
            found.answer("DNS firewall", closed);
        } else {
            found.add(
                "DNS firewall",
                "none: names can leave the VPC by its resolver".to_owned(),
                AnswerWeight::Weak,
            );
        }
        self.look_at_guards(&mut found).await;
        let cost = cost_ceiling(&settings, time_to_live, gib);
        found.cost_ceiling = cost.clone().unwrap_or_default();
        let cost = match cost {
            Err(kind) => Err(format!(
                "what an hour of {kind} costs is not known; write instance_hour in [scratch_vpc]"
            )),
            Ok(cost) => {
                let words =
                    format!("{cost} for {time_to_live}, and {} are allowed", settings.cost_cap);
                if cost <= settings.cost_cap { Ok(words) } else { Err(words) }
            }
        };
        found.answer("cost ceiling", cost);
        if found.faults().is_empty() {
            self.try_everything(&mut found).await?;
        }
        Ok(found)
    }

    /// What should hold in the account is told and not asked for: an account may have its reasons.
    async fn look_at_guards(&self, found: &mut PreflightReport) {
        let guards = match self.cloud().guards().await {
            Ok(guards) => guards,
            Err(error) => {
                return found.add(
                    "guards of the account",
                    format!("could not be looked at: {error}"),
                    AnswerWeight::Weak,
                );
            }
        };
        let encryption = if guards.encryption_by_default { "on" } else { "off" };
        for (question, is, should) in [
            ("block public access", guards.block_public_access.as_str(), "block-bidirectional"),
            ("encryption of volumes by default", encryption, "on"),
            ("serial console", if guards.serial_console { "on" } else { "off" }, "off"),
        ] {
            match is == should {
                true => found.add(question, is.to_owned(), AnswerWeight::Good),
                false => {
                    found.add(question, format!("{is}, and should be {should}"), AnswerWeight::Weak)
                }
            }
        }
    }

    async fn find_image(&mut self) -> Result<MachineImage, String> {
        let (id, expected) = match self.spec.settings.image.clone() {
            ImageChoice::Pinned { id, digest } => (id, digest),
            ImageChoice::OfInstance(instance) => {
                let found = told(
                    self.look(ResourceKind::Instance, &ResourceScope::Id(instance.clone())).await,
                )?;
                let image = found.iter().find_map(|thing| match &thing.facts {
                    ResourceFacts::Instance(facts) => Some(facts.image.clone()),
                    _ => None,
                });
                (
                    image.ok_or_else(|| {
                        format!("there is no instance {instance} whose image could be taken")
                    })?,
                    None,
                )
            }
        };
        let image = told(self.cloud().clone().image(&id).await)?
            .ok_or_else(|| format!("there is no image {id} for this account"))?;
        if image.state != "available" {
            return Err(format!("image {id} is {}", image.state));
        }
        let is = digest(&image);
        if let Some(expected) = expected.filter(|expected| *expected != is) {
            return Err(format!("image {id} has digest {is}, and {expected} is pinned"));
        }
        self.image = id;
        Ok(image)
    }

    /// Asks of every call that the steps will make whether it would be allowed.
    async fn try_everything(&mut self, found: &mut PreflightReport) -> Result<(), ScratchError> {
        let mut asked: Vec<String> = Vec::new();
        let (mut allowed, mut unknown) = (0, Vec::new());
        for act in simulated_cloud::acts(self).await {
            // Once for each kind of call, and for each key.
            let kind = match &act {
                ApiCall::CreateGrant { key, .. } => format!("{} {key}", act.action()),
                ApiCall::CreateInterfaceEndpoint { .. } => format!("{} (interface)", act.action()),
                _ => act.action().to_owned(),
            };
            if asked.contains(&kind) || !act.can_be_tried_out() {
                continue;
            }
            if self.cancel.is_cancelled() {
                return Err(ScratchError::Interrupted);
            }
            asked.push(kind);
            // A policy that is bound to tags refuses what names a thing that does not exist, and so
            // has none.
            let names_nothing =
                !matches!(act, ApiCall::CreateVpc { .. } | ApiCall::CreateGrant { .. });
            match self.cloud().clone().dry_run(&act, &self.tags).await {
                Ok(()) => allowed += 1,
                // Some calls look at the thing before they look at the permission.
                Err(CloudError::Missing { .. }) if names_nothing => unknown.push(act.action()),
                Err(CloudError::Refused { why, .. })
                    if names_nothing && why.starts_with("UnauthorizedOperation") =>
                {
                    unknown.push(act.action())
                }
                Err(error @ CloudError::Refused { .. }) => {
                    found.refusals.push(format!("{} would be refused: {error}", act.action()))
                }
                Err(error) => found.refusals.push(format!(
                    "whether {} would be allowed could not be asked: {error}",
                    act.action()
                )),
            }
        }
        let words = format!("{allowed} of {} kinds of calls would be allowed", asked.len());
        let question = "permissions (dry run)";
        match unknown.is_empty() {
            true => found.add(question, words, AnswerWeight::Good),
            false => {
                let why = "refused, as a policy bound to tags refuses what names nothing that exists, or as one that lacks them";
                found.add(
                    question,
                    format!("{words}; {why}: {}", unknown.join(", ")),
                    AnswerWeight::Weak,
                );
            }
        }
        Ok(())
    }
}

//! The account and its region: who asks, what is offered, what there may be, what holds whatever
//! anybody does.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{self, InternetGatewayBlockMode, LocationType, Tenancy};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{
    AwsCloud, FILTER_VALUES_MAX, PAGE_ITEMS, explain, filter, literal, nonsense, pages, sorted,
    text,
};
use crate::aws::AwsError;
use crate::sandbox::vpc::cloud::{
    AccountGuards, CallerIdentity, CloudError, MachineImage, ServiceQuota,
};

/// The quota of VPCs in a region.
const VPCS: (&str, &str) = ("vpc", "L-F678F1CE");

/// A class of instance types whose cores have a quota of their own.
struct InstanceClass {
    name: &'static str,
    /// What the types' names begin with, up to the first digit.
    families: &'static [&'static str],
    quota: &'static str,
}

static CLASSES: [InstanceClass; 6] = [
    InstanceClass {
        name: "standard",
        families: &["a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"],
        quota: "L-1216C47A",
    },
    InstanceClass { name: "X", families: &["x"], quota: "L-7295265B" },
    InstanceClass { name: "high memory", families: &["u"], quota: "L-43DA4232" },
    InstanceClass { name: "G and VT", families: &["g", "gr", "vt"], quota: "L-DB2E81BA" },
    InstanceClass { name: "P", families: &["p"], quota: "L-417A185B" },
    InstanceClass { name: "F", families: &["f"], quota: "L-74FC7D96" },
];

impl AwsCloud {
    pub(super) async fn who_asks(&self) -> Result<CallerIdentity, CloudError> {
        let what = "asking who asks";
        let sent = self.sts.get_caller_identity().send().await;
        let reply = sent.map_err(|error| explain(what, AwsError::of(&error)))?;
        let lacks = |part: &str| nonsense(what, format!("it has no {part}"));
        Ok(CallerIdentity {
            account: reply.account.ok_or_else(|| lacks("account"))?,
            arn: reply.arn.ok_or_else(|| lacks("ARN"))?,
        })
    }

    pub(super) async fn offered(
        &self,
        types: &[String],
    ) -> Result<BTreeSet<(String, String)>, CloudError> {
        let what = "listing which instance types are offered where";
        let mut offered = BTreeSet::new();
        for some in types.chunks(FILTER_VALUES_MAX) {
            let offerings = pages(what, |token| async move {
                let wanted =
                    filter("instance-type", some.iter().map(|name| literal(name)).collect());
                let request = self
                    .ec2
                    .describe_instance_type_offerings()
                    .location_type(LocationType::AvailabilityZone)
                    .filters(wanted);
                let sent = request.max_results(PAGE_ITEMS).set_next_token(token).send().await;
                let page = sent.map_err(|error| explain(what, AwsError::of(&error)))?;
                Ok((page.instance_type_offerings.unwrap_or_default(), page.next_token))
            });
            for offering in offerings.await? {
                if let (Some(instance_type), Some(zone)) =
                    (offering.instance_type, offering.location)
                {
                    offered.insert((instance_type.as_str().to_owned(), zone));
                }
            }
        }
        Ok(offered)
    }

    pub(super) async fn image_by_id(&self, id: &str) -> Result<Option<MachineImage>, CloudError> {
        let what = format!("looking at image {id}");
        let what = what.as_str();
        // Pages would be pages of all images there are, most of them empty.
        let found = pages(what, |token| async move {
            let request = self
                .ec2
                .describe_images()
                .filters(filter("image-id", vec![literal(id)]))
                .include_deprecated(true);
            let page = request
                .set_next_token(token)
                .send()
                .await
                .map_err(|error| explain(what, AwsError::of(&error)))?;
            Ok((page.images.unwrap_or_default(), page.next_token))
        });
        Ok(found.await?.iter().find(|image| image.image_id() == Some(id)).map(image))
    }

    /// The list that a service's addresses are kept in: of the kind that gateway endpoints have, or
    /// of the other.
    pub(super) async fn prefix_list_of(&self, service: &str) -> Result<String, CloudError> {
        let what = format!("looking for the prefix list of {service}");
        let what = what.as_str();
        let named = [filter("prefix-list-name", vec![literal(service)])];
        let named = named.as_slice();
        let lists =
            listed!(self.ec2, what, describe_prefix_lists.set_filters(named) -> prefix_lists)?;
        let mut ids = lists
            .into_iter()
            .filter(|list| list.prefix_list_name() == Some(service))
            .filter_map(|list| list.prefix_list_id);
        if let Some(id) = ids.next() {
            return Ok(id);
        }
        let lists = listed!(self.ec2, what, describe_managed_prefix_lists.set_filters(named) -> prefix_lists)?;
        let mut ids = lists
            .into_iter()
            .filter(|list| list.prefix_list_name() == Some(service))
            .filter_map(|list| list.prefix_list_id);
        let missing = || CloudError::Missing {
            what: what.to_owned(),
            why: format!("no list of {} is called so", self.region),
        };
        ids.next().ok_or_else(missing)
    }

    /// Used is what there is now and the one more that is asked for: one VPC, and the cores of one
    /// more instance of the type. So it fits if `used` is not more than `allowed`. Cores count
    /// as the type has them by default, whatever an instance was started with, and only
    /// those of on-demand instances in the type's own class; a type of a class that is not known
    /// here has no quota of cores.
    pub(super) async fn quotas_with(
        &self,
        instance_type: &str,
    ) -> Result<Vec<ServiceQuota>, CloudError> {
        let mut quotas = vec![self.vpc_quota().await?];
        if let Some(class) = class_of(instance_type) {
            quotas.push(self.core_quota(class, instance_type).await?);
        }
        Ok(quotas)
    }

    async fn vpc_quota(&self) -> Result<ServiceQuota, CloudError> {
        let what = format!("VPCs of {}", self.region);
        let listing = format!("counting the {what}");
        let vpcs = listed!(self.ec2, &listing, describe_vpcs.set_filters(&[]) -> vpcs)?;
        let used = count(vpcs.len()) + 1;
        Ok(ServiceQuota { used, allowed: self.allowed(&what, VPCS.0, VPCS.1).await?, what })
    }

    async fn core_quota(
        &self,
        class: &InstanceClass,
        instance_type: &str,
    ) -> Result<ServiceQuota, CloudError> {
        let what =
            format!("vCPUs of running on-demand {} instances in {}", class.name, self.region);
        let counting = format!("counting the {what}");
        let alive = filter("instance-state-name", vec!["pending".to_owned(), "running".to_owned()]);
        let running = self.describe_instances(&counting, &[alive]).await?;
        let counted: Vec<&str> =
            running.iter().filter(|instance| counts(instance, class)).filter_map(type_of).collect();
        let cores =
            self.cores(&counting, counted.iter().copied().chain([instance_type]).collect()).await?;
        let Some(more) = cores.get(instance_type) else {
            return Err(CloudError::Missing {
                what: counting,
                why: format!("{} has no type {instance_type}", self.region),
            });
        };
        // A type that has been withdrawn since has no cores here; there are few, and the service
        // refuses in the end.
        let used = counted.iter().filter_map(|name| cores.get(*name)).sum::<u64>() + more;
        Ok(ServiceQuota { used, allowed: self.allowed(&what, "ec2", class.quota).await?, what })
    }

    /// Cores of types.
    async fn cores(
        &self,
        what: &str,
        types: BTreeSet<&str>,
    ) -> Result<BTreeMap<String, u64>, CloudError> {
        let types: Vec<String> = types.into_iter().map(literal).collect();
        let mut cores = BTreeMap::new();
        for some in types.chunks(FILTER_VALUES_MAX) {
            let wanted = [filter("instance-type", some.to_vec())];
            for info in listed!(self.ec2, what, describe_instance_types.set_filters(wanted.as_slice()) -> instance_types)?
            {
                let default = info
                    .v_cpu_info()
                    .and_then(|cpus| cpus.default_v_cpus())
                    .and_then(|number| u64::try_from(number).ok());
                if let (Some(name), Some(default)) = (info.instance_type(), default) {
                    cores.insert(name.as_str().to_owned(), default);
                }
            }
        }
        Ok(cores)
    }

    /// How many of something there may be. An account to which nobody ever gave a number has the
    /// default one.
    async fn allowed(&self, of: &str, service: &str, quota: &str) -> Result<u64, CloudError> {
        let what = format!("asking for the quota of {of}");
        let own =
            self.quotas.get_service_quota().service_code(service).quota_code(quota).send().await;
        let told = match own.map_err(|error| explain(&what, AwsError::of(&error))) {
            Ok(reply) => reply.quota,
            Err(CloudError::Missing { .. }) => {
                let default = self
                    .quotas
                    .get_aws_default_service_quota()
                    .service_code(service)
                    .quota_code(quota)
                    .send()
                    .await;
                default.map_err(|error| explain(&what, AwsError::of(&error)))?.quota
            }
            Err(error) => return Err(error),
        };
        let value =
            told.and_then(|quota| quota.value).filter(|value| value.is_finite() && *value >= 0.0);
        // Quotas are whole numbers, in a type that could be others.
        value.map(|value| value as u64).ok_or_else(|| nonsense(&what, "it is no number"))
    }

    pub(super) async fn console_of(&self, instance: &str) -> Result<String, CloudError> {
        let what = format!("reading the console of {instance}");
        let asked = |latest: bool| {
            self.ec2
                .get_console_output()
                .instance_id(instance)
                .set_latest(latest.then_some(true))
                .send()
        };
        let first = match asked(true).await {
            Ok(reply) => Ok(reply.output),
            Err(error) => Err(AwsError::of(&error)),
        };
        let output = match first {
            Ok(output) => output,
            // Only newer kinds of instances tell what they write right now.
            Err(answer) if answer.code == "UnsupportedOperation" => {
                asked(false).await.map_err(|error| explain(&what, AwsError::of(&error)))?.output
            }
            Err(answer) => return Err(explain(&what, answer)),
        };
        plain(&output.unwrap_or_default()).map_err(|why| nonsense(&what, why))
    }

    pub(super) async fn guards_of_account(&self) -> Result<AccountGuards, CloudError> {
        let what = "asking what holds in the account";
        let public = self.ec2.describe_vpc_block_public_access_options().send().await;
        let public = public
            .map_err(|error| explain(what, AwsError::of(&error)))?
            .vpc_block_public_access_options;
        let mode = public
            .and_then(|options| options.internet_gateway_block_mode)
            .unwrap_or(InternetGatewayBlockMode::Off);
        let encryption = self.ec2.get_ebs_encryption_by_default().send().await;
        let encryption = encryption.map_err(|error| explain(what, AwsError::of(&error)))?;
        let console = self.ec2.get_serial_console_access_status().send().await;
        let console = console.map_err(|error| explain(what, AwsError::of(&error)))?;
        let lacks = |part: &str| nonsense(what, format!("it does not tell about {part}"));
        Ok(AccountGuards {
            block_public_access: mode.as_str().to_owned(),
            encryption_by_default: encryption
                .ebs_encryption_by_default
                .ok_or_else(|| lacks("encryption"))?,
            serial_console: console
                .serial_console_access_enabled
                .ok_or_else(|| lacks("serial consoles"))?,
        })
    }
}

fn image(raw: &types::Image) -> MachineImage {
    let snapshot = |mapping: &types::BlockDeviceMapping| {
        Some((text(mapping.device_name()), mapping.ebs()?.snapshot_id()?.to_owned()))
    };
    MachineImage {
        id: text(raw.image_id()),
        owner: text(raw.owner_id()),
        name: text(raw.name()),
        created: text(raw.creation_date()),
        architecture: raw
            .architecture()
            .map(|architecture| architecture.as_str().to_owned())
            .unwrap_or_default(),
        state: raw.state().map(|state| state.as_str().to_owned()).unwrap_or_default(),
        root_device: text(raw.root_device_name()),
        snapshots: sorted(raw.block_device_mappings().iter().filter_map(snapshot)),
    }
}

/// The class of a type, by the letters it begins with.
fn class_of(instance_type: &str) -> Option<&'static InstanceClass> {
    let end = instance_type.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(instance_type.len());
    let family = instance_type.get(..end).unwrap_or_default();
    CLASSES.iter().find(|class| class.families.contains(&family))
}

fn type_of(instance: &types::Instance) -> Option<&str> {
    instance.instance_type().map(|name| name.as_str())
}

/// Whether an instance's cores count in a class: spot instances and dedicated hosts have quotas of
/// their own.
fn counts(instance: &types::Instance, class: &InstanceClass) -> bool {
    let on_demand = instance.instance_lifecycle().is_none();
    let on_host =
        instance.placement().and_then(|placement| placement.tenancy()) == Some(&Tenancy::Host);
    let of_class = type_of(instance).and_then(class_of).is_some_and(|of| of.quota == class.quota);
    on_demand && !on_host && of_class
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

/// What a console says. An instance may write what it likes there.
fn plain(output: &str) -> Result<String, String> {
    let compact: String = output.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(compact).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::{InstanceLifecycleType, InstanceType, Placement};

    use super::*;

    fn name_of(instance_type: &str) -> Option<&'static str> {
        class_of(instance_type).map(|class| class.name)
    }

    #[test]
    fn classes_are_told_apart_by_letters() {
        for name in [
            "m7i-flex.large",
            "t3.micro",
            "im4gn.xlarge",
            "is4gen.large",
            "r7gd.metal",
            "c8g.large",
        ] {
            assert_eq!(name_of(name), Some("standard"), "{name}");
        }
        assert_eq!(name_of("x2iedn.large"), Some("X"));
        assert_eq!(name_of("u-6tb1.metal"), Some("high memory"));
        assert_eq!(name_of("u7i-12tb.224xlarge"), Some("high memory"));
        for name in
            ["inf1.xlarge", "trn1.2xlarge", "dl1.24xlarge", "hpc7g.4xlarge", "mac1.metal", ""]
        {
            assert_eq!(name_of(name), None, "{name}");
        }
    }

    #[test]
    fn only_on_demand_instances_of_the_class_count() {
        let standard = &CLASSES[0];
        let instance =
            |name: &str| types::Instance::builder().instance_type(InstanceType::from(name));
        assert!(counts(&instance("m7i.large").build(), standard));
        assert!(!counts(&instance("x2idn.large").build(), standard));
        assert!(!counts(
            &instance("m7i.large").instance_lifecycle(InstanceLifecycleType::Spot).build(),
            standard
        ));
        let on_host = Placement::builder().tenancy(Tenancy::Host).build();
        assert!(!counts(&instance("m7i.large").placement(on_host).build(), standard));
    }

    #[test]
    fn a_console_is_read() {
        assert_eq!(plain("aGVs\nbG8=\n"), Ok("hello".to_owned()));
        assert_eq!(plain(""), Ok(String::new()));
        assert!(plain("hello!").is_err());
    }
}

//! What goes wrong, where and how often.

use std::sync::Mutex;
use std::time::Duration;

use super::query::Query;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This error; nothing happens.
    Refuse { code: String, status: u16 },
    /// The call takes effect, and the connection closes before its answer.
    LoseAnswer,
    /// The connection closes; nothing happens.
    Drop,
    /// It takes so long.
    Delay(Duration),
    /// A snapshot is begun, and ends in the state `error`.
    SnapshotFails,
    /// A copy is begun, and ends in the state `error`, since the key is not accessible.
    CopyRefused,
    /// A volume is never more than `attaching`.
    NeverAttaches,
    /// A volume is begun, and is gone before it is `available`, since the key is not accessible.
    VolumeVanishes,
    /// What is made is missing from so many looks.
    Unseen(u32),
    /// An endpoint comes to the state `failed`,
    EndpointFails,
    /// or is pending for ever,
    EndpointNever,
    /// or is not deleted, which the answer tells.
    EndpointStays,
    /// A flow log is not made, which the answer tells.
    FlowLogRefused,
    /// An association of a DNS firewall is `UPDATING` for ever.
    NeverAssociates,
    /// There is no room for an instance.
    NoCapacity,
    /// An instance ends instead of running, since a key is not accessible.
    LaunchRefused,
    /// An instance runs, but where others do, too.
    WrongTenancy,
    /// An instance is `pending` for ever.
    NeverRuns,
    /// A block is read with one bit turned; its checksum is that of the turned block, or that of
    /// the true one.
    FlipBit { block: u32, checksum: Checksum },
}

/// The checksum of a block that is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// It fits what is sent.
    Matching,
    /// It tells.
    Telling,
}

/// A fault, and which calls it meets: by default the next one, of any region.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    action: Option<String>,
    region: Option<String>,
    about: Option<String>,
    after: u32,
    times: u32,
}

impl Rule {
    fn new(fault: Fault, action: Option<&str>) -> Self {
        Self {
            fault,
            action: action.map(str::to_owned),
            region: None,
            about: None,
            after: 0,
            times: 1,
        }
    }

    pub fn refuse(action: &str, code: &str, status: u16) -> Self {
        Self::new(Fault::Refuse { code: code.to_owned(), status }, Some(action))
    }

    /// EC2: <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>,
    /// EBS direct: <https://docs.aws.amazon.com/ebs/latest/APIReference/API_GetSnapshotBlock.html>, Errors,
    /// DNS firewall: <https://docs.aws.amazon.com/Route53/latest/APIReference/API_route53resolver_AssociateFirewallRuleGroup.html>, Errors
    pub fn throttle(action: &str, times: u32) -> Self {
        let direct =
            ["ListSnapshotBlocks", "ListChangedBlocks", "GetSnapshotBlock"].contains(&action);
        let (code, status) = match super::hooks::service(action) {
            _ if direct => ("RequestThrottledException", 400),
            "ec2" => ("RequestLimitExceeded", 503),
            _ => ("ThrottlingException", 400),
        };
        Self::refuse(action, code, status).times(times)
    }

    pub fn lose_answer(action: &str) -> Self {
        Self::new(Fault::LoseAnswer, Some(action))
    }

    pub fn drop_before(action: &str) -> Self {
        Self::new(Fault::Drop, Some(action))
    }

    pub fn delay(action: &str, by: Duration) -> Self {
        Self::new(Fault::Delay(by), Some(action))
    }

    /// All calls to a region, until the rules are cleared.
    pub fn region_down(region: &str) -> Self {
        Self::new(Fault::Drop, None).only(region).times(u32::MAX)
    }

    /// The next snapshot fails; `about` a volume: of that volume.
    pub fn snapshot_fails() -> Self {
        Self::new(Fault::SnapshotFails, None)
    }

    /// The next copy is refused silently, as if the key had been disabled; `about` a snapshot: of
    /// that snapshot.
    pub fn copy_refused_silently() -> Self {
        Self::new(Fault::CopyRefused, None)
    }

    pub fn never_attaches() -> Self {
        Self::new(Fault::NeverAttaches, None)
    }

    pub fn volume_vanishes() -> Self {
        Self::new(Fault::VolumeVanishes, None)
    }

    /// What the next such call makes is missing from so many looks.
    pub fn unseen(action: &str, looks: u32) -> Self {
        Self::new(Fault::Unseen(looks), Some(action))
    }

    /// The next endpoint; `about` a VPC or a service such as `kms`: of that.
    pub fn endpoint_fails() -> Self {
        Self::new(Fault::EndpointFails, None)
    }

    pub fn endpoint_never() -> Self {
        Self::new(Fault::EndpointNever, None)
    }

    pub fn endpoint_stays() -> Self {
        Self::new(Fault::EndpointStays, None)
    }

    pub fn flow_log_refused() -> Self {
        Self::new(Fault::FlowLogRefused, None)
    }

    pub fn never_associates() -> Self {
        Self::new(Fault::NeverAssociates, None)
    }

    /// No instance; `about` a zone or a type: none of that.
    /// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-launch.html>
    pub fn no_capacity() -> Self {
        Self::new(Fault::NoCapacity, None)
    }

    /// The next instance ends, as if a key were disabled. <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-launch.html>
    pub fn launch_refused() -> Self {
        Self::new(Fault::LaunchRefused, None)
    }

    pub fn wrong_tenancy() -> Self {
        Self::new(Fault::WrongTenancy, None)
    }

    pub fn never_runs() -> Self {
        Self::new(Fault::NeverRuns, None)
    }

    /// Every reading of a block.
    pub fn flip_bit(snapshot: &str, block: u32, checksum: Checksum) -> Self {
        Self::new(Fault::FlipBit { block, checksum }, None).about(snapshot).times(u32::MAX)
    }

    /// Only calls to this region; for copies it is the one copied to.
    pub fn only(self, region: &str) -> Self {
        Self { region: Some(region.to_owned()), ..self }
    }

    /// Only calls about this: the id of a volume, a snapshot, an instance, or any other value of a
    /// parameter.
    pub fn about(self, id: &str) -> Self {
        Self { about: Some(id.to_owned()), ..self }
    }

    /// So many such calls pass first.
    pub fn after(self, calls: u32) -> Self {
        Self { after: calls, ..self }
    }

    /// It happens so often.
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }
}

/// The rules that still have something to do.
#[derive(Default)]
pub struct Rules(Mutex<Vec<Rule>>);

impl Rules {
    pub fn add(&self, rule: Rule) {
        self.0.lock().unwrap().push(rule);
    }

    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// The fault of a kind that a call meets, if any; it is used up by that. `subjects` is what the
    /// call is about.
    pub fn take(
        &self,
        query: &Query,
        subjects: &[&str],
        kind: impl Fn(&Fault) -> bool,
    ) -> Option<Fault> {
        let mut rules = self.0.lock().unwrap();
        let named = |id: &str| subjects.contains(&id);
        let rule = rules.iter_mut().find(|rule| {
            rule.times > 0
                && kind(&rule.fault)
                && rule.action.as_deref().is_none_or(|action| action == query.action)
                && rule.region.as_deref().is_none_or(|region| region == query.region)
                && rule.about.as_deref().is_none_or(named)
        })?;
        if rule.after > 0 {
            rule.after -= 1;
            return None;
        }
        rule.times = if rule.times == u32::MAX { u32::MAX } else { rule.times - 1 };
        Some(rule.fault.clone())
    }

    /// Whether this call meets that fault.
    pub fn strikes(&self, query: &Query, subjects: &[&str], fault: &Fault) -> bool {
        self.take(query, subjects, |found| found == fault).is_some()
    }
}

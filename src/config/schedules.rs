//! Schedules (`schedules/*.toml`) and the calendars in them and in drill files: when, what, and how
//! long to keep it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::civil::Time;

use super::Config;
use super::plans::{self, DRILLS_DIRECTORY};
use super::section::{ConfigDocument, ConfigError, ConfigSection};
use crate::domain::calendar::{
    Blackout, Calendar, Crontab, InBlackout, RecurrencePattern, TickPeriod, TimeZoneName,
    beginning, nth_weekday,
};
use crate::domain::human_duration::HumanDuration;
use crate::domain::id::DatastoreName;
use crate::domain::job::{CatchUpPolicy, Job, JobAction};
use crate::domain::retention::{KeptPeriod, RetentionPolicy};

/// Directory of schedules.
pub const SCHEDULES_DIRECTORY: &str = "schedules";
/// Schedules that one set-up may have.
pub const SCHEDULES_MAX: usize = 20_000;

/// When something runs, and what becomes of it otherwise.
#[derive(Debug, Clone)]
pub struct JobTiming {
    /// When.
    pub calendar: Calendar,
    /// What becomes of ticks that were missed.
    pub catch_up: CatchUpPolicy,
    /// How long one attempt may take.
    pub timeout: HumanDuration,
    /// How often it is tried again.
    pub retries: u32,
    /// The hosts that may run it; none: all.
    pub hosts: Vec<String>,
}

/// A schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Its name, that of its file.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// What it does.
    pub actions: Vec<JobAction>,
    /// When.
    pub timing: JobTiming,
    /// How long its datastores' backups are kept; none: for ever.
    pub keep: Option<RetentionPolicy>,
}

impl JobTiming {
    fn job(&self, key: String, action: JobAction) -> Job {
        Job {
            key,
            action,
            calendar: self.calendar.clone(),
            catch_up: self.catch_up,
            timeout: self.timeout,
            retries: self.retries,
            hosts: self.hosts.clone(),
        }
    }
}

impl Schedule {
    /// The datastores that it backs up.
    pub fn datastores(&self) -> impl Iterator<Item = &DatastoreName> {
        self.actions.iter().filter_map(|action| match action {
            JobAction::Backup(datastore) => Some(datastore),
            _ => None,
        })
    }

    /// One job for each thing that it does.
    #[must_use]
    pub fn jobs(&self) -> Vec<Job> {
        let key = |action: &JobAction| match action {
            JobAction::Backup(datastore) => format!("{}/{datastore}", self.name),
            _ => self.name.clone(),
        };
        self.actions.iter().map(|action| self.timing.job(key(action), action.clone())).collect()
    }
}

/// Every job there is, and what is wrong with files that were left out.
#[derive(Debug, Default)]
pub struct ConfiguredJobs {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// The schedules.
    pub schedules: Vec<Schedule>,
}

/// Reads every schedule, and the cadence of every drill.
///
/// # Errors
/// [`ConfigError`] with every fault of the first file that has any.
pub fn jobs(config: &Config) -> Result<ConfiguredJobs, ConfigError> {
    let mut all = ConfiguredJobs::default();
    for directory in [SCHEDULES_DIRECTORY, DRILLS_DIRECTORY] {
        let file = config.base().join(directory);
        // None is none; one that cannot be read may hold anything.
        match std::fs::read_dir(&file) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(ConfigError::Unreadable { file, source });
            }
            _ => {}
        }
    }
    for name in plans::names(config, SCHEDULES_DIRECTORY).into_iter().take(SCHEDULES_MAX) {
        let schedule = schedule(config, &name)?;
        all.jobs.extend(schedule.jobs().into_iter().map(|job| pinned(config, job)));
        all.schedules.push(schedule);
    }
    for name in plans::names(config, DRILLS_DIRECTORY) {
        if let Some(drill) = plans::drill(config, &name)?
            && let Some(timing) = drill.cadence
        {
            all.jobs.push(timing.job(format!("drill/{name}"), JobAction::Drill(name)));
        }
    }
    Ok(all)
}

/// A datastore's own hosts count where its schedule names none.
fn pinned(config: &Config, mut job: Job) -> Job {
    if let JobAction::Backup(datastore) = &job.action
        && job.hosts.is_empty()
        && let Some(settings) = config.datastores.get(datastore)
    {
        job.hosts.clone_from(&settings.hosts);
    }
    job
}

/// Reads a schedule.
///
/// # Errors
/// [`ConfigError`] with every fault that was found.
pub fn schedule(config: &Config, name: &str) -> Result<Schedule, ConfigError> {
    let file = config.base().join(SCHEDULES_DIRECTORY).join(format!("{name}.toml"));
    let text = std::fs::read_to_string(&file)
        .map_err(|source| ConfigError::Unreadable { file: file.clone(), source })?;
    parse(config, name, &file, &text)
}

/// Checks the text of a schedule.
///
/// # Errors
/// [`ConfigError`] with every fault that was found.
pub fn parse(
    config: &Config,
    name: &str,
    file: &Path,
    text: &str,
) -> Result<Schedule, ConfigError> {
    let document = ConfigDocument::parse(file, text)?;
    let mut root = document.root();
    if name == "drill" {
        root.fault_here::<()>(
            "\"drill\" is not a name for a schedule: drills are known by it",
            "rename the file",
        );
    }
    let actions = actions(config, &mut root);
    let timing = timing(&mut root);
    let keep = root.section("keep").and_then(|mut s| {
        let policy = policy(&mut s);
        s.finish();
        policy
    });
    if keep.is_some() && !actions.iter().any(|action| matches!(action, JobAction::Backup(_))) {
        root.fault_here::<()>(
            "only a schedule of backups says how long they are kept",
            "move [keep] to the schedule with do = \"backup\"",
        );
    }
    root.finish();
    document.verdict()?;
    match timing {
        Some(timing) => {
            Ok(Schedule { name: name.to_owned(), file: file.to_owned(), actions, timing, keep })
        }
        None => Err(document.incomplete()),
    }
}

fn actions(config: &Config, s: &mut ConfigSection<'_>) -> Vec<JobAction> {
    let what = s
        .choice(
            "do",
            &[
                ("backup", 0),
                ("verify", 1),
                ("prune", 2),
                ("sweep", 3),
                ("heartbeat", 4),
                ("copy", 5),
            ],
        )
        .unwrap_or(0);
    let named = s.texts("datastores");
    let sample = s.number("sample", 1, 1_000);
    if what != 0 && named.is_some() {
        s.fault_here::<()>("only do = \"backup\" takes datastores", "remove datastores");
    }
    let to = s.text("to");
    match what {
        0 => {}
        5 => {
            let known = || config.vaults.keys().cloned().collect::<Vec<_>>().join(", ");
            return match to {
                Some(to) if config.vaults.contains_key(&to.value) => {
                    vec![JobAction::Copy(to.value)]
                }
                Some(to) => s
                    .fault(
                        to.span,
                        "to",
                        &format!("no vault {:?} is configured", to.value),
                        &format!("[vaults] names: {}", known()),
                    )
                    .unwrap_or_default(),
                None => s
                    .fault_here(
                        "it does not say where to",
                        "write to = \"NAME\", one of [vaults] in lifeboat.toml",
                    )
                    .unwrap_or_default(),
            };
        }
        1 => return vec![JobAction::Verify(sample.unwrap_or(1))],
        2 => return vec![JobAction::Prune],
        3 => return vec![JobAction::Sweep],
        _ => return vec![JobAction::Heartbeat],
    }
    let Some(named) = named else {
        return config.datastores.keys().cloned().map(JobAction::Backup).collect();
    };
    let known = || config.datastores.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let mut actions = Vec::new();
    for text in &named.value {
        match text.parse::<DatastoreName>() {
            Ok(name) if config.datastores.contains_key(&name) => {
                actions.push(JobAction::Backup(name))
            }
            _ => {
                let what = format!("no datastore {text:?} is configured");
                s.fault::<()>(
                    named.span.clone(),
                    "datastores",
                    &what,
                    &format!("configured are: {}", known()),
                );
            }
        }
    }
    actions
}

/// Reads calendar and what belongs to it, from a schedule or from `[cadence]` of a drill.
pub(super) fn timing(s: &mut ConfigSection<'_>) -> Option<JobTiming> {
    let zone = match s.text("time_zone") {
        None => Some(TimeZoneName::utc()),
        Some(text) => match text.value.parse::<TimeZoneName>() {
            Ok(zone) => Some(zone),
            Err(why) => {
                s.fault(text.span, "time_zone", &why, "for example \"Europe/Berlin\" or \"UTC\"")
            }
        },
    };
    let pattern = pattern(s);
    let blackouts = s.texts("blackout").map(|texts| {
        let parse = |text: &String| match text.parse::<Blackout>() {
            Ok(window) => Some(window),
            Err(why) => s.fault(
                texts.span.clone(),
                "blackout",
                &why,
                "write blackout = [\"mon-fri 08:00-18:00\"]",
            ),
        };
        texts.value.iter().filter_map(parse).collect()
    });
    let calendar = Calendar {
        pattern: pattern?,
        zone: zone?,
        jitter: s.span("jitter").map_or(Duration::ZERO, HumanDuration::duration),
        blackouts: blackouts.unwrap_or_default(),
        in_blackout: s
            .choice(
                "in_blackout",
                &[("postpone", InBlackout::Postpone), ("skip", InBlackout::Skip)],
            )
            .unwrap_or(InBlackout::Postpone),
    };
    let begin = jiff::Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(24 * 365 * 50);
    if calendar.next("", begin).is_some_and(|tick| {
        tick.due.is_none() && tick.why.iter().any(|why| why.contains("no room"))
    }) {
        s.fault_here::<()>(
            "the blackout windows leave no room",
            "leave some hours of the week free",
        );
    }
    let late = s.span("late_at_most");
    let catch_up = match (s.choice("catch_up", &[("once", true), ("skip", false)]), late) {
        (Some(false), within) => {
            CatchUpPolicy::Skip(within.unwrap_or(HumanDuration::seconds(3_600)))
        }
        (_, None) => CatchUpPolicy::Once,
        (_, Some(_)) => {
            s.fault_here::<()>(
                "late_at_most is for catch_up = \"skip\"",
                "write catch_up = \"skip\", or remove late_at_most",
            );
            CatchUpPolicy::Once
        }
    };
    Some(JobTiming {
        calendar,
        catch_up,
        timeout: s.span("timeout").unwrap_or(HumanDuration::seconds(12 * 3_600)),
        retries: s.number("retries", 0, 20).and_then(|n| u32::try_from(n).ok()).unwrap_or(3),
        hosts: s.texts("hosts").map(|t| t.value).unwrap_or_default(),
    })
}

fn pattern(s: &mut ConfigSection<'_>) -> Option<RecurrencePattern> {
    let (cron, every, on) = (s.text("cron"), s.text("every"), s.text("on"));
    let starting = s.date("starting");
    let at_text = s.text("at");
    let at = match &at_text {
        None => None,
        Some(text) => match Time::strptime("%H:%M", &text.value) {
            Ok(time) => Some(time),
            Err(_) => {
                return s.fault(
                    text.span.clone(),
                    "at",
                    "not a time of day",
                    "write at = \"10:00\"",
                );
            }
        },
    };
    match (cron, every, on) {
        (Some(cron), None, None) => match cron.value.parse::<Crontab>() {
            Ok(_) if at.is_some() || starting.is_some() => {
                s.fault(cron.span, "cron", "cron says everything itself", "remove at and starting")
            }
            Ok(crontab) => Some(RecurrencePattern::Cron(crontab)),
            Err(why) => s.fault(
                cron.span,
                "cron",
                &why,
                "minute, hour, day of month, month, day of week: cron = \"30 2 * * *\"",
            ),
        },
        (None, Some(every), None) => {
            let span = match every.value.parse::<HumanDuration>() {
                Ok(span) if !span.duration().is_zero() => span,
                Ok(_) => {
                    return s.fault(
                        every.span,
                        "every",
                        "nothing runs every zero seconds",
                        "write every = \"2 weeks\"",
                    );
                }
                Err(why) => return s.fault(every.span, "every", &why, "write every = \"2 weeks\""),
            };
            let Some(starting) = starting else {
                return s.fault(
                    every.span,
                    "every",
                    "it is not said from when it counts",
                    "write starting = 2026-11-24",
                );
            };
            Some(RecurrencePattern::Every {
                period: TickPeriod::from(span),
                starting: beginning(starting, at),
            })
        }
        (None, None, Some(on)) => match nth_weekday(&on.value) {
            Ok((nth, weekday)) => Some(RecurrencePattern::Monthly {
                nth,
                weekday,
                at: at.unwrap_or(Time::midnight()),
            }),
            Err(why) => {
                s.fault(on.span, "on", &why, "write on = \"first tuesday\" and at = \"10:00\"")
            }
        },
        (None, None, None) => s.fault_here(
            "it is not said when",
            "write cron = \"30 2 * * *\", every = \"2 weeks\" or on = \"first tuesday\"",
        ),
        _ => s.fault_here("it is said in two ways when", "keep one of cron, every and on"),
    }
}

/// `[keep]`: how long backups are kept.
fn policy(s: &mut ConfigSection<'_>) -> Option<RetentionPolicy> {
    let mut policy = RetentionPolicy {
        zone: match s.text("time_zone") {
            None => TimeZoneName::utc(),
            Some(text) => match text.value.parse::<TimeZoneName>() {
                Ok(zone) => zone,
                Err(why) => {
                    return s.fault(text.span, "time_zone", &why, "for example \"Europe/Berlin\"");
                }
            },
        },
        ..RetentionPolicy::default()
    };
    for (every, name) in KeptPeriod::ALL {
        if let Some(count) = s.number(name, 0, 10_000) {
            policy.counts.insert(every, count);
        }
    }
    policy.at_least = s.number("at_least", 1, 10_000).unwrap_or(policy.at_least);
    policy.all_within = s.span("all_within").map(HumanDuration::duration);
    policy.not_older_than = s.span("not_older_than").map(HumanDuration::duration);
    if policy.counts.values().all(|count| *count == 0)
        && policy.all_within.is_none()
        && policy.not_older_than.is_none()
    {
        return s.fault_here(
            "nothing says which backups are kept",
            "write daily = 7, weekly = 4, monthly = 12",
        );
    }
    if let (Some(all), Some(oldest)) = (policy.all_within, policy.not_older_than)
        && all > oldest
    {
        return s.fault_here(
            "all_within keeps what not_older_than removes",
            "make not_older_than the longer of the two",
        );
    }
    Some(policy)
}

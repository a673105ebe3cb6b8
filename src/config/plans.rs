//! Restore plans (`restore/*.toml`) and drill scripts (`drills/*.toml`), which live beside
//! `lifeboat.toml`.
//!
//! A plan says how datastores are restored and nothing about where; a drill says where, what is
//! broken on purpose, and what is checked afterwards. They are read when they are needed: a broken
//! drill file must not prevent a restore.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

pub use super::checks::{CheckConfig, CheckQuestion, ExpectedAnswer, SmokeCommand};
use super::checks::{check, smoke};
use super::schedules::{JobTiming, timing};
use super::section::{ConfigDocument, ConfigError, ConfigSection};
use super::{Config, DatastoreConfig};
use crate::domain::drill::{NegativeControl, Scenario};
use crate::domain::human_duration::HumanDuration;
use crate::domain::id::{BackupId, DatastoreName};
use crate::domain::thaw::RetrievalTier;

/// Directory of restore plans.
pub const RESTORE_DIRECTORY: &str = "restore";
/// Directory of drill scripts.
pub const DRILLS_DIRECTORY: &str = "drills";
const MIB: u64 = 1024 * 1024;

/// How datastores are brought back, in order.
#[derive(Debug, Clone)]
pub struct RestorePlan {
    /// Its name, that of its file.
    pub name: String,
    /// The file; none for the plan that is meant where there is none.
    pub file: Option<PathBuf>,
    /// The file's text.
    pub text: String,
    /// One datastore after the other.
    pub stages: Vec<PlanStage>,
}

/// How one datastore is brought back.
#[derive(Debug, Clone)]
pub struct PlanStage {
    /// The datastore.
    pub datastore: DatastoreName,
    /// Major version the server must have; none: that of the backup's server, or newer.
    pub major: Option<u32>,
    /// Extensions that the server must offer before anything begins.
    pub extensions: Vec<String>,
    /// Settings of the sessions that load.
    pub settings: Vec<(String, String)>,
    /// `name=/directory` pairs.
    pub tablespaces: Vec<String>,
    /// Whether roles and tablespaces are restored.
    pub globals: bool,
    /// Whether objects belong to whoever restores.
    pub no_owner: bool,
    /// Whether privileges are left out.
    pub no_privileges: bool,
    /// The role that everything is done as.
    pub role: Option<String>,
    /// `KIND:NAME` of what is left out.
    pub skip: Vec<String>,
    /// Whether what the server refuses is told in the end, and the rest is restored.
    pub keep_going: bool,
    /// Tables whose rows stay in the backup: schema and name.
    pub without_rows_of: Vec<(String, String)>,
    /// How many things happen at once; none: as many as there are cores here.
    pub jobs: Option<usize>,
    /// Statements run in the empty database.
    pub before: Vec<String>,
    /// Statements run in the loaded database.
    pub after: Vec<String>,
    /// Programs that must succeed in the end.
    pub smoke: Vec<SmokeCommand>,
    /// What lives on the volumes, where it is a set of them.
    pub volumes: Option<VolumeStage>,
}

/// What lives on a set of volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeStage {
    /// Where each is mounted, by the volume's id or its device's name.
    pub mounts: Vec<(String, PathBuf)>,
    /// The server's data directory, below one of the mount points.
    pub data_directory: PathBuf,
    /// The database that is asked.
    pub database: String,
}

/// Which backup a drill takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupChoice {
    /// The newest.
    Latest,
    /// The oldest there is.
    Oldest,
    /// The newest at or before a time.
    At(Timestamp),
    /// This one.
    Exactly(BackupId),
    /// Any one of a window before now, by a seed that is recorded.
    Random(HumanDuration),
}

/// Where a drill restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrillPlace {
    /// In a throwaway cluster on this host.
    Local,
    /// In a scratch VPC: the same cluster, on an instance of its own.
    Vpc,
}

/// The throwaway cluster.
#[derive(Debug, Clone)]
pub struct LocalSandbox {
    /// Size of its file system, in bytes.
    pub size_bytes: u64,
    /// Directories outside of `/usr` that its programs need, visible read-only.
    pub programs: Vec<PathBuf>,
    /// Libraries that its server loads when it starts, for extensions that can be loaded in no
    /// other way.
    pub preload: Vec<String>,
    /// Settings of its server, beside those of the plan's sessions.
    pub settings: Vec<(String, String)>,
}

/// A drill.
#[derive(Debug, Clone)]
pub struct DrillPlan {
    /// Its name, that of its file.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// The file's text.
    pub text: String,
    /// The restore plan.
    pub plan: RestorePlan,
    /// When it is run.
    pub cadence: Option<JobTiming>,
    /// Which backup.
    pub chosen: BackupChoice,
    /// What decides where chance does; none: chance, and it is recorded.
    pub seed: Option<u64>,
    /// Where.
    pub place: DrillPlace,
    /// The cluster there.
    pub sandbox: LocalSandbox,
    /// Names of gaps in the isolation that are accepted.
    pub accept_gaps: BTreeSet<String>,
    /// What the database held, is not in the dump, and need not be, as `backup` names it.
    pub accept_omitted: BTreeSet<String>,
    /// How long it may take, to the last check.
    pub rto: HumanDuration,
    /// How old the data may be.
    pub rpo: HumanDuration,
    /// When the sandbox ends by itself.
    pub time_to_live: HumanDuration,
    /// The tier at which a frozen backup is thawed first; none: it is not.
    pub thaw: Option<RetrievalTier>,
    /// What is broken on purpose.
    pub breaks: Vec<Scenario>,
    /// An offline key that opens when others are lost.
    pub recovery_identity: Option<PathBuf>,
    /// What is asked.
    pub checks: Vec<CheckConfig>,
    /// Damage that the checks must notice.
    pub controls: Vec<NegativeControl>,
    /// Who looks at the report.
    pub reviewers: Vec<String>,
}

/// The plan that is meant where no file says anything.
#[must_use]
pub fn plain_plan(datastore: &DatastoreName) -> RestorePlan {
    let stage = PlanStage {
        datastore: datastore.clone(),
        major: None,
        extensions: Vec::new(),
        settings: Vec::new(),
        tablespaces: Vec::new(),
        globals: true,
        no_owner: false,
        no_privileges: false,
        role: None,
        skip: Vec::new(),
        keep_going: false,
        without_rows_of: Vec::new(),
        jobs: None,
        before: Vec::new(),
        after: Vec::new(),
        smoke: Vec::new(),
        volumes: None,
    };
    RestorePlan {
        name: datastore.to_string(),
        file: None,
        text: String::new(),
        stages: vec![stage],
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file)
        .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })
}

/// Names of the files of a directory, without `.toml`.
#[must_use]
pub fn names(config: &Config, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(config.base().join(directory)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .collect();
    names.sort_unstable();
    names
}

impl RestorePlan {
    /// What it says about a datastore.
    #[must_use]
    pub fn stage(&self, datastore: &DatastoreName) -> Option<&PlanStage> {
        self.stages.iter().find(|stage| &stage.datastore == datastore)
    }
}

/// The plan of a datastore: that of the file named like it, or the plain one.
///
/// # Errors
/// [`ConfigError`] if there is a file and it has faults.
pub fn plan_of(config: &Config, datastore: &DatastoreName) -> Result<RestorePlan, ConfigError> {
    let file = config.base().join(RESTORE_DIRECTORY).join(format!("{datastore}.toml"));
    if file.exists() { plan(config, datastore.as_str(), &file) } else { Ok(plain_plan(datastore)) }
}

/// The text of the plan of a datastore, if there is a file.
#[must_use]
pub fn text_of(config: &Config, datastore: &DatastoreName) -> Option<Vec<u8>> {
    std::fs::read(config.base().join(RESTORE_DIRECTORY).join(format!("{datastore}.toml"))).ok()
}

/// Reads a restore plan.
///
/// # Errors
/// [`ConfigError`] with every fault that was found.
pub fn plan(config: &Config, name: &str, file: &Path) -> Result<RestorePlan, ConfigError> {
    let text = read(file)?;
    let document = ConfigDocument::parse(file, &text)?;
    let mut root = document.root();
    let mut stages: Vec<PlanStage> = Vec::new();
    for mut section in root.list("restore") {
        let stage = stage(config, &mut section);
        if stage.as_ref().is_some_and(|stage| stages.iter().any(|s| s.datastore == stage.datastore))
        {
            section.fault_here::<()>(
                "the datastore is restored twice",
                "remove one of the two sections",
            );
        }
        section.finish();
        stages.extend(stage);
    }
    let named = config.datastores.keys().find(|datastore| datastore.as_str() == name);
    if let Some(datastore) = named.filter(|datastore| {
        !stages.is_empty() && !stages.iter().any(|stage| stage.datastore == **datastore)
    }) {
        root.fault_here::<()>(
            &format!("the plan is named like datastore {datastore} and does not restore it"),
            "rename the file, or restore it",
        );
    }
    if stages.is_empty() {
        root.fault_here::<()>(
            "the plan restores nothing",
            "write [[restore]] and datastore = \"…\" below it",
        );
    }
    root.finish();
    document.verdict()?;
    Ok(RestorePlan { name: name.to_owned(), file: Some(file.to_owned()), text, stages })
}

/// Settings that a plan may not make: they reach out of the server, or load code into it.
const SETTINGS_REFUSED: [&str; 12] = [
    "listen_addresses",
    "archive_command",
    "archive_library",
    "restore_command",
    "primary_conninfo",
    "unix_socket_directories",
    "data_directory",
    "hba_file",
    "shared_preload_libraries",
    "session_preload_libraries",
    "local_preload_libraries",
    "dynamic_library_path",
];

fn refuse_settings(
    s: &ConfigSection<'_>,
    settings: &[(String, String)],
    whose: &str,
    instead: &str,
) {
    for (name, _) in settings {
        let sound = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'.');
        if !sound || SETTINGS_REFUSED.contains(&name.to_ascii_lowercase().as_str()) {
            s.fault_here::<()>(&format!("setting {name} is not for a {whose} to make"), instead);
        }
    }
}

fn stage(config: &Config, s: &mut ConfigSection<'_>) -> Option<PlanStage> {
    let datastore = datastore(config, s, true);
    let settings = s.pairs("settings");
    refuse_settings(s, &settings, "plan", "set it on the server, if it is meant");
    let tablespaces = s
        .pairs("tablespaces")
        .into_iter()
        .map(|(name, directory)| format!("{name}={directory}"))
        .collect();
    let smoke = s.list("smoke").into_iter().filter_map(|mut section| {
        let smoke = smoke(&mut section);
        section.finish();
        smoke
    });
    let smoke = smoke.collect();
    let is_volumes = datastore
        .as_ref()
        .and_then(|name| config.datastores.get(name))
        .is_some_and(|settings| settings.volumes().is_some());
    Some(PlanStage {
        smoke,
        volumes: if is_volumes { volume_stage(s) } else { None },
        datastore: datastore?,
        major: s.number("major", 12, 99).and_then(|major| u32::try_from(major).ok()),
        extensions: s.texts("extensions").map(|t| t.value).unwrap_or_default(),
        settings,
        tablespaces,
        globals: s.boolean("globals").unwrap_or(true),
        no_owner: s.boolean("no_owner").unwrap_or(false),
        no_privileges: s.boolean("no_privileges").unwrap_or(false),
        role: s.text("role").map(|t| t.value),
        skip: s.texts("skip").map(|t| t.value).unwrap_or_default(),
        keep_going: s.boolean("keep_going").unwrap_or(false),
        without_rows_of: tables(s, "without_rows_of"),
        jobs: s.number("jobs", 1, 64),
        before: s.texts("before").map(|t| t.value).unwrap_or_default(),
        after: s.texts("after").map(|t| t.value).unwrap_or_default(),
    })
}

/// What lives on volumes; none if the plan does not say: then they can be restored, and not
/// drilled.
fn volume_stage(s: &mut ConfigSection<'_>) -> Option<VolumeStage> {
    let mounts: Vec<(String, PathBuf)> =
        s.pairs("mounts").into_iter().map(|(volume, at)| (volume, PathBuf::from(at))).collect();
    let data_directory = s.text("data_directory").map(|t| (PathBuf::from(t.value), t.span));
    let database = s.text("database").map_or_else(|| "postgres".to_owned(), |t| t.value);
    let (data_directory, span) = data_directory?;
    const OWN: [&str; 11] =
        ["usr", "bin", "sbin", "lib", "lib64", "lib32", "etc", "proc", "sys", "dev", "run"];
    for (volume, at) in &mounts {
        let mut parts = at.components().skip(1);
        let first = parts
            .next()
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .unwrap_or_default();
        let plain = at.is_absolute()
            && at.components().all(|part| !matches!(part, std::path::Component::ParentDir));
        if !plain || first.is_empty() || OWN.contains(&first.as_str()) {
            s.fault_here::<()>(
                &format!("{volume} cannot be mounted at {}", at.display()),
                "write an absolute path such as \"/var/lib/postgresql\"",
            );
        }
    }
    if !mounts.iter().any(|(_, at)| data_directory.starts_with(at)) {
        return s.fault(
            span,
            "data_directory",
            "it lies on none of the volumes",
            "write mounts = { \"/dev/sdf\" = \"/var/lib/postgresql\" } and a directory below that",
        );
    }
    Some(VolumeStage { mounts, data_directory, database })
}

/// Tables, each written as `schema.table`.
pub(super) fn tables(s: &mut ConfigSection<'_>, key: &str) -> Vec<(String, String)> {
    let Some(texts) = s.texts(key) else { return Vec::new() };
    let split = |text: &String| match text.split_once('.') {
        Some((schema, table)) if !schema.is_empty() && !table.is_empty() => {
            Some((schema.to_owned(), table.to_owned()))
        }
        _ => s.fault(
            texts.span.clone(),
            key,
            &format!("{text:?} names no table"),
            "write \"schema.table\"",
        ),
    };
    texts.value.iter().filter_map(split).collect()
}

/// The datastore a section names; it must be configured.
pub(super) fn datastore(
    config: &Config,
    s: &mut ConfigSection<'_>,
    required: bool,
) -> Option<DatastoreName> {
    let text = if required {
        s.required_text("datastore", "datastore = \"chat\"")?
    } else {
        s.text("datastore")?
    };
    match text.value.parse::<DatastoreName>() {
        Ok(name) if config.datastores.contains_key(&name) => Some(name),
        _ => {
            let known =
                config.datastores.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            s.fault(
                text.span,
                "datastore",
                &format!("no datastore {:?} is configured", text.value),
                &format!("configured are: {known}"),
            )
        }
    }
}

/// Reads a drill script and the plan it names.
///
/// # Errors
/// [`ConfigError`] with every fault of the first of the two files that has any; `Ok(None)` if there
/// is no such drill.
pub fn drill(config: &Config, name: &str) -> Result<Option<DrillPlan>, ConfigError> {
    if !names(config, DRILLS_DIRECTORY).iter().any(|known| known == name) {
        return Ok(None);
    }
    let file = config.base().join(DRILLS_DIRECTORY).join(format!("{name}.toml"));
    let text = read(&file)?;
    let document = ConfigDocument::parse(&file, &text)?;
    let mut root = document.root();
    let plan = drill_plan(config, &mut root)?;
    let drill = plan.and_then(|plan| script(config, &mut root, plan, name, &file, &text));
    root.finish();
    document.verdict()?;
    drill.ok_or_else(|| document.incomplete()).map(Some)
}

fn drill_plan(
    config: &Config,
    s: &mut ConfigSection<'_>,
) -> Result<Option<RestorePlan>, ConfigError> {
    let Some(text) = s.required_text("plan", "plan = \"chat\", for restore/chat.toml") else {
        return Ok(None);
    };
    let known = names(config, RESTORE_DIRECTORY);
    if known.contains(&text.value) {
        let file = config.base().join(RESTORE_DIRECTORY).join(format!("{}.toml", text.value));
        return plan(config, &text.value, &file).map(Some);
    }
    let instead = format!("plans in {RESTORE_DIRECTORY}/ are: {}", known.join(", "));
    s.fault::<()>(text.span, "plan", &format!("there is no plan {:?}", text.value), &instead);
    Ok(None)
}

fn script(
    config: &Config,
    s: &mut ConfigSection<'_>,
    plan: RestorePlan,
    name: &str,
    file: &Path,
    text: &str,
) -> Option<DrillPlan> {
    // The server of a drill lives on the volumes, so there is no other beside it.
    let of_volumes = |stage: &PlanStage| {
        config.datastores.get(&stage.datastore).is_some_and(|settings| settings.volumes().is_some())
    };
    if plan.stages.iter().any(of_volumes)
        && (plan.stages.len() > 1 || plan.stages.iter().any(|stage| stage.volumes.is_none()))
    {
        s.fault_here::<()>(
            "volumes are drilled alone, and the plan must say what lives on them",
            "write a plan with one [[restore]], its mounts and its data_directory",
        );
    }
    let stores: Vec<&DatastoreConfig> =
        plan.stages.iter().filter_map(|stage| config.datastores.get(&stage.datastore)).collect();
    // Objectives of several datastores: all must be back within the longest, and none older than
    // the strictest allows.
    let (rto, rpo) = (stores.iter().map(|d| d.rto).max(), stores.iter().map(|d| d.rpo).min());
    let (own_rto, own_rpo) = s.section("objectives").map_or((None, None), |mut o| {
        let both = (o.span("rto"), o.span("rpo"));
        o.finish();
        both
    });
    let chosen = chosen(s);
    let cadence = s.section("cadence").and_then(|mut section| {
        let timing = timing(&mut section);
        section.finish();
        timing
    });
    let place = s
        .choice("sandbox", &[("local", DrillPlace::Local), ("vpc", DrillPlace::Vpc)])
        .unwrap_or(DrillPlace::Local);
    let sandbox = local(s, config.base());
    let accept_gaps = words(s, "accept_gaps", &GAPS);
    let accept_omitted =
        s.texts("accept_omitted").map(|list| list.value.into_iter().collect()).unwrap_or_default();
    let thaw = s.choice("thaw", &RetrievalTier::ALL.map(|tier| (tier.name(), tier)));
    let breaks = words(s, "break", &Scenario::ALL.map(|(name, _)| name));
    let controls = match s.has("controls") {
        true => words(s, "controls", &NegativeControl::ALL.map(|(name, _)| name)),
        false => NegativeControl::ALL.map(|(name, _)| name.to_owned()).into(),
    };
    if controls.is_empty() {
        s.fault_here::<()>(
            "a drill without a negative control proves nothing",
            "leave controls out, or name at least one",
        );
    }
    let mut checks = Vec::new();
    for (number, mut section) in s.list("checks").into_iter().enumerate() {
        let check = check(config, &mut section, &plan, number + 1);
        section.finish();
        checks.extend(check);
    }
    if !s.has("checks") {
        let fingerprint = |stage: &PlanStage| CheckConfig {
            name: format!("fingerprint of {}", stage.datastore),
            datastore: stage.datastore.clone(),
            ask: CheckQuestion::Fingerprint,
        };
        checks = plan.stages.iter().map(fingerprint).collect();
        if let Some(stage) = plan.stages.first().filter(|stage| of_volumes(stage)) {
            checks = cross_check_of(config, s, stage).into_iter().collect();
        }
    }
    let pick = |all: &[(&'static str, Scenario)], names: BTreeSet<String>| {
        all.iter()
            .filter(|(name, _)| names.contains(*name))
            .map(|(_, one)| *one)
            .collect::<Vec<_>>()
    };
    Some(DrillPlan {
        name: name.to_owned(),
        file: file.to_owned(),
        text: text.to_owned(),
        cadence,
        chosen: chosen?,
        seed: s.number("seed", 0, usize::MAX >> 1).and_then(|seed| u64::try_from(seed).ok()),
        place,
        sandbox,
        accept_gaps,
        accept_omitted,
        rto: own_rto.or(rto)?,
        rpo: own_rpo.or(rpo)?,
        time_to_live: s.span("time_to_live").unwrap_or(HumanDuration::seconds(4 * 3600)),
        breaks: pick(&Scenario::ALL, breaks),
        thaw,
        recovery_identity: s.text("recovery_identity").map(|t| config.base().join(t.value)),
        checks,
        controls: NegativeControl::ALL
            .iter()
            .filter(|(name, _)| controls.contains(*name))
            .map(|(_, one)| *one)
            .collect(),
        reviewers: s.texts("reviewers").map(|t| t.value).unwrap_or_default(),
        plan,
    })
}

/// The check that is meant for volumes where none is written.
fn cross_check_of(
    config: &Config,
    s: &mut ConfigSection<'_>,
    stage: &PlanStage,
) -> Option<CheckConfig> {
    let server = config
        .datastores
        .get(&stage.datastore)
        .and_then(|settings| settings.volumes()?.postgres.clone());
    let Some(with) = server else {
        return s.fault_here(
            "nothing says what is true of the volumes' data",
            "write [[checks]] with kind = \"cross-check\" and with = \"…\", the datastore that dumps the same database",
        );
    };
    let ask = CheckQuestion::CrossCheck { with, within: CROSS_CHECK_WITHIN, changing: Vec::new() };
    Some(CheckConfig {
        name: format!("{} against its dump", stage.datastore),
        datastore: stage.datastore.clone(),
        ask,
    })
}

/// How far apart a set of volumes and a dump may be that are compared, if the drill says nothing.
pub(super) const CROSS_CHECK_WITHIN: HumanDuration = HumanDuration::seconds(24 * 3600);

/// Names of the gaps a sandbox can have; the sandbox room says what they mean.
pub const GAPS: [&str; 7] =
    ["network", "files", "processes", "uid", "size", "names", "system-calls"];

fn words(s: &mut ConfigSection<'_>, key: &str, known: &[&str]) -> BTreeSet<String> {
    let Some(list) = s.texts(key) else { return BTreeSet::new() };
    for word in &list.value {
        if !known.contains(&word.as_str()) {
            s.fault::<()>(
                list.span.clone(),
                key,
                &format!("{word:?} is not known"),
                &format!("known are: {}", known.join(", ")),
            );
        }
    }
    list.value.into_iter().collect()
}

fn chosen(s: &mut ConfigSection<'_>) -> Option<BackupChoice> {
    let Some(text) = s.text("backup") else {
        return (!s.has("backup")).then_some(BackupChoice::Latest);
    };
    let words: Vec<&str> = text.value.split_whitespace().collect();
    let parsed = match words.as_slice() {
        ["latest"] => Some(BackupChoice::Latest),
        ["oldest"] => Some(BackupChoice::Oldest),
        ["at", time] => time.parse().ok().map(BackupChoice::At),
        ["random", window] => window.parse().ok().map(BackupChoice::Random),
        [id] => id.parse().ok().map(BackupChoice::Exactly),
        _ => None,
    };
    parsed.or_else(|| {
        s.fault(
            text.span,
            "backup",
            &format!("{:?} does not say which backup", text.value),
            "write \"latest\", \"oldest\", \"at 2026-11-20T03:00:00Z\", \"random 30d\" or a backup's id",
        )
    })
}

fn local(s: &mut ConfigSection<'_>, base: &Path) -> LocalSandbox {
    let mut sandbox = LocalSandbox {
        size_bytes: 4096 * MIB,
        programs: Vec::new(),
        preload: Vec::new(),
        settings: Vec::new(),
    };
    if let Some(mut section) = s.section("local") {
        sandbox.size_bytes = section
            .number("size_mib", 128, 1_048_576)
            .map_or(sandbox.size_bytes, |mib| mib as u64 * MIB);
        sandbox.programs = section
            .texts("programs")
            .map(|t| t.value.iter().map(|path| base.join(path)).collect())
            .unwrap_or_default();
        // Names as Postgres finds them beside its own libraries: a path could lead anywhere.
        let is_name = |name: &String| {
            !name.is_empty()
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c))
        };
        if let Some(preload) = section.texts("preload") {
            if let Some(name) = preload.value.iter().find(|name| !is_name(name)) {
                let what = format!("{name:?} is not the name of a library");
                section.fault::<()>(
                    preload.span.clone(),
                    "preload",
                    &what,
                    "write it as in shared_preload_libraries, without a path",
                );
            }
            sandbox.preload = preload.value;
        }
        sandbox.settings = section.pairs("settings");
        refuse_settings(
            &section,
            &sandbox.settings,
            "drill",
            "write libraries into preload; the sandbox decides about the rest",
        );
        section.finish();
    }
    sandbox
}

impl DrillPlan {
    /// How long the whole drill may take before its report counts as missing.
    #[must_use]
    pub fn report_within(&self) -> Duration {
        self.time_to_live.duration() + Duration::from_secs(3600)
    }
}

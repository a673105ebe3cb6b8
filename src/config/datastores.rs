//! `[datastores.NAME]`: what is protected, and what is promised for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::section::ConfigSection;
use crate::domain::DatastoreName;
use crate::domain::human_duration::HumanDuration;
use crate::domain::volumes::{
    Consistency, LockKind, SetPlace, SnapshotLock, VolumeId, VolumeSelection,
};
use crate::pg::PgConnection;
use crate::program;

/// A password is one line, and whoever gives it is asked by every run.
const PASSWORD_LIMITS: program::ProgramLimits =
    program::ProgramLimits { within: Duration::from_secs(30), output_bytes: 64 * 1024 };
/// Longest time for which file systems stand still, if the configuration says nothing.
const FREEZE_LIMIT: HumanDuration = HumanDuration::seconds(10);
/// Longest that it may say: everything that writes waits.
const FREEZE_LIMIT_MAX: HumanDuration = HumanDuration::seconds(300);
/// Days of the longest lock that EBS knows.
const LOCK_DAYS_MAX: usize = 36_500;

/// A datastore and what is promised for it.
#[derive(Debug, Clone)]
pub struct DatastoreConfig {
    /// What it is.
    pub kind: DatastoreKind,
    /// How old the newest backup may be.
    pub rpo: HumanDuration,
    /// How long a restore may take.
    pub rto: HumanDuration,
    /// How long ago a drill of it may have passed.
    pub drilled_within: HumanDuration,
    /// The hosts that may run its scheduled backups; none: all.
    pub hosts: Vec<String>,
}

/// What a datastore is.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one for each datastore of a configuration")]
pub enum DatastoreKind {
    /// A database.
    Postgres(PostgresConfig),
    /// A set of volumes.
    Volumes(Box<VolumesConfig>),
}

/// A Postgres database.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// How to reach it.
    pub connection: PgConnection,
    /// A command whose output is the password.
    pub password_command: Option<Vec<String>>,
    /// Payloads dumped in parallel; 1 means `main` alone.
    pub jobs: usize,
    /// How long to wait for a table's lock.
    pub lock_wait: HumanDuration,
    /// How long the snapshot of a dump may last; none: it is told of when it becomes old.
    pub snapshot_limit: Option<HumanDuration>,
    /// Whether globals hold role passwords (needs to read `pg_authid`).
    pub role_passwords: bool,
}

/// Volumes that belong together.
#[derive(Debug, Clone)]
pub struct VolumesConfig {
    /// Where they are.
    pub place: SetPlace,
    /// Which they are.
    pub selection: VolumeSelection,
    /// Whether volumes that instances boot from are left out.
    pub exclude_boot: bool,
    /// Volumes that are left out.
    pub exclude: Vec<VolumeId>,
    /// The keys, as ARNs, under which volumes and snapshots may be encrypted.
    pub kms_keys: Vec<String>,
    /// What is asked for; less is a failure.
    pub consistency: Consistency,
    /// Mount points on this host that are frozen while the volumes are cut.
    pub freeze: Vec<PathBuf>,
    /// A program that is run before the cut.
    pub before: Option<Vec<String>>,
    /// A program that undoes it; always run if the first was begun.
    pub after: Option<Vec<String>>,
    /// After which everything is undone, whatever happened.
    pub freeze_limit: HumanDuration,
    /// The datastore whose server lives on the volumes.
    pub postgres: Option<DatastoreName>,
    /// The volume with `pg_wal`, which is cut last where volumes cannot be cut at one moment.
    pub wal_volume: Option<VolumeId>,
    /// Whether every block is hashed, so that the set can be verified without an instance.
    pub hash: bool,
    /// Where every snapshot is copied.
    pub copy: Option<CopyConfig>,
    /// The lock that is put on every snapshot and copy.
    pub lock: Option<SnapshotLock>,
    /// Age at which snapshots go to the archive tier.
    pub archive_after: Option<HumanDuration>,
}

/// Where snapshots are copied.
#[derive(Debug, Clone)]
pub struct CopyConfig {
    /// The other place.
    pub place: SetPlace,
    /// A key of that place, as an ARN.
    pub key: String,
    /// The account that copies, if it is another: it must be let.
    pub account: Option<String>,
    /// Copies under way at once.
    pub at_once_max: usize,
}

impl DatastoreConfig {
    /// The database, if it is one.
    #[must_use]
    pub fn postgres(&self) -> Option<&PostgresConfig> {
        match &self.kind {
            DatastoreKind::Postgres(postgres) => Some(postgres),
            DatastoreKind::Volumes(_) => None,
        }
    }
    /// The volumes, if it is some.
    #[must_use]
    pub fn volumes(&self) -> Option<&VolumesConfig> {
        match &self.kind {
            DatastoreKind::Postgres(_) => None,
            DatastoreKind::Volumes(volumes) => Some(volumes),
        }
    }
}

impl PostgresConfig {
    /// The connection with its password, if a command gives one.
    ///
    /// # Errors
    /// What went wrong with the command; its output is not part of the text.
    pub async fn connect(&self) -> Result<PgConnection, String> {
        let Some(command) = &self.password_command else { return Ok(self.connection.clone()) };
        let (program, arguments) = command.split_first().ok_or("password_command is empty")?;
        let mut words = tokio::process::Command::new(program);
        words.args(arguments);
        let ended = program::run(words, b"", PASSWORD_LIMITS)
            .await
            .map_err(|error| format!("password_command {program:?}: {error}"))?;
        if !ended.status.success() {
            return Err(format!(
                "password_command {program:?} failed ({}): {}",
                ended.status,
                ended.complaint()
            ));
        }
        if ended.is_cut {
            return Err(format!(
                "password_command {program:?} printed more than {} bytes",
                PASSWORD_LIMITS.output_bytes
            ));
        }
        let password = std::str::from_utf8(&ended.stdout)
            .map_err(|_| format!("password_command {program:?} did not print text"))?;
        Ok(self
            .connection
            .clone()
            .with_password(SecretString::from(password.trim_end_matches(['\n', '\r']).to_owned())))
    }
}

pub(super) fn datastores(
    root: &mut ConfigSection<'_>,
    base: &Path,
) -> BTreeMap<DatastoreName, DatastoreConfig> {
    let mut all = BTreeMap::new();
    for (name, mut s) in root.sections("datastores") {
        let parsed_name = match name.parse::<DatastoreName>() {
            Ok(name) => Some(name),
            Err(error) => s.fault_here(&error.to_string(), "rename the section"),
        };
        let datastore = datastore(&mut s, base);
        s.finish();
        if let (Some(name), Some(datastore)) = (parsed_name, datastore) {
            all.insert(name, datastore);
        }
    }
    servers_are_configured(root, &all);
    all
}

/// A set can only ask a server that is configured.
fn servers_are_configured(
    root: &mut ConfigSection<'_>,
    all: &BTreeMap<DatastoreName, DatastoreConfig>,
) {
    for (name, settings) in all {
        let Some(server) = settings.volumes().and_then(|volumes| volumes.postgres.as_ref()) else {
            continue;
        };
        if all.get(server).is_none_or(|settings| settings.postgres().is_none()) {
            root.fault_here::<()>(
                &format!("[datastores.{name}] names the server of {server}, which is no datastore of kind \"postgres\""),
                "write postgres = \"…\" with the name of one that is",
            );
        }
    }
}

#[derive(Clone, Copy)]
enum KindSetting {
    Postgres,
    Ebs,
    Local,
}

fn datastore(s: &mut ConfigSection<'_>, base: &Path) -> Option<DatastoreConfig> {
    let kinds = [
        ("postgres", KindSetting::Postgres),
        ("ebs", KindSetting::Ebs),
        ("local-volumes", KindSetting::Local),
    ];
    let kind = match s.choice("kind", &kinds) {
        Some(KindSetting::Postgres) => postgres(s).map(DatastoreKind::Postgres),
        Some(KindSetting::Ebs) => {
            let place = ebs_place(s);
            volumes(s, place, base).map(|volumes| DatastoreKind::Volumes(Box::new(volumes)))
        }
        Some(KindSetting::Local) => {
            let place = local_place(s, base);
            volumes(s, place, base).map(|volumes| DatastoreKind::Volumes(Box::new(volumes)))
        }
        None if s.has("kind") => {
            // What else it says is looked at as if it were a database, which most are.
            let _ = postgres(s);
            None
        }
        None => s.fault_here("kind is missing", "write kind = \"postgres\" or kind = \"ebs\""),
    };
    let (rpo, rto, drilled) = (s.span("rpo"), s.span("rto"), s.span("drilled_within"));
    let hosts = s.texts("hosts").map(|t| t.value).unwrap_or_default();
    Some(DatastoreConfig {
        kind: kind?,
        rpo: rpo.unwrap_or(HumanDuration::seconds(86_400)),
        rto: rto.unwrap_or(HumanDuration::seconds(4 * 3_600)),
        drilled_within: drilled.unwrap_or(HumanDuration::seconds(30 * 86_400)),
        hosts,
    })
}

fn postgres(s: &mut ConfigSection<'_>) -> Option<PostgresConfig> {
    let connection =
        s.required_text("connection", "connection = \"service=chat\"").and_then(|text| match PgConnection::parse(&text.value) {
            Ok(connection) => Some(connection),
            Err(error) => s.fault(
                text.span,
                "connection",
                &error.to_string(),
                "name host, user and database only: \"host=db.internal dbname=chat user=lifeboat\" or \"service=chat\"",
            ),
        });
    Some(PostgresConfig {
        connection: connection.unwrap_or(PgConnection::parse("").ok()?),
        password_command: s.texts("password_command").map(|t| t.value),
        jobs: s.number("jobs", 1, 32).unwrap_or(1),
        lock_wait: s.span("lock_wait").unwrap_or(HumanDuration::seconds(30)),
        snapshot_limit: s.span("snapshot_limit"),
        role_passwords: s.boolean("role_passwords").unwrap_or(true),
    })
}

fn ebs_place(s: &mut ConfigSection<'_>) -> Option<SetPlace> {
    let region = s.required_text("region", "region = \"eu-west-1\"")?.value;
    Some(SetPlace::Ebs { region, role: s.text("role").map(|t| t.value) })
}

fn local_place(s: &mut ConfigSection<'_>, base: &Path) -> Option<SetPlace> {
    let directory = base.join(s.required_text("directory", "directory = \"volumes\"")?.value);
    let directory = std::path::absolute(&directory).unwrap_or(directory);
    Some(SetPlace::Local { directory: directory.display().to_string() })
}

fn volumes(
    s: &mut ConfigSection<'_>,
    place: Option<SetPlace>,
    base: &Path,
) -> Option<VolumesConfig> {
    let selection = selection(s);
    let exclude = ids(s, "exclude");
    let kms_keys = s.texts("kms_keys").map(|t| t.value).unwrap_or_default();
    if kms_keys.is_empty() {
        s.fault_here::<()>(
            "kms_keys is missing, so no volume could be accepted",
            "write kms_keys = [\"arn:aws:kms:…\"], the keys that volumes may be encrypted under; the default key aws/ebs cannot be shared or copied",
        );
    }
    let kinds = [Consistency::Crash, Consistency::Filesystem, Consistency::Postgres]
        .map(|one| (one.name(), one));
    let is_ebs = matches!(place, Some(SetPlace::Ebs { .. }));
    if let Some(key) = kms_keys.iter().find(|key| is_ebs && !is_key_arn(key)) {
        s.fault_here::<()>(&format!("kms_keys: {key:?} is not the ARN of a key, as EC2 tells it, so nothing could match it"), KEY_ARN);
    }
    let consistency = s.choice("consistency", &kinds);
    if consistency.is_none() && !s.has("consistency") {
        s.fault_here::<()>(
            "consistency is missing",
            "write consistency = \"crash\", \"filesystem\" or \"postgres\": what the set must be, or it is none",
        );
    }
    let freeze: Vec<PathBuf> = s
        .texts("freeze")
        .map(|t| t.value.into_iter().map(PathBuf::from).collect())
        .unwrap_or_default();
    if freeze.iter().any(|path| !path.is_absolute() || path == Path::new("/")) {
        s.fault_here::<()>(
            "freeze names a path that is no mount point of data",
            "write absolute paths below /: freeze = [\"/var/lib/postgresql\"]",
        );
    }
    let (before, after) = (program(s, "before"), program(s, "after"));
    let freeze_limit = s.span("freeze_limit").unwrap_or(FREEZE_LIMIT);
    if freeze_limit > FREEZE_LIMIT_MAX {
        s.fault_here::<()>(
            "freeze_limit is longer than 5 minutes, and everything that writes waits for it",
            "write freeze_limit = \"10s\"",
        );
    }
    if before.is_some() != after.is_some() {
        s.fault_here::<()>(
            "a program before the cut and none that undoes it, or the other way round",
            "write both before and after",
        );
    }
    let server = s.text("postgres").and_then(|text| match text.value.parse::<DatastoreName>() {
        Ok(name) => Some(name),
        Err(error) => s.fault(
            text.span,
            "postgres",
            &error.to_string(),
            "name a datastore of kind \"postgres\"",
        ),
    });
    match consistency {
        Some(Consistency::Filesystem) if freeze.is_empty() && before.is_none() => {
            s.fault_here::<()>(
                "nothing is frozen, so the set would be no more than crash-consistent",
                "write freeze = [\"/mount/point\"], or before and after",
            );
        }
        Some(Consistency::Postgres) if server.is_none() => {
            s.fault_here::<()>(
                "it does not say which server lives on the volumes",
                "write postgres = \"…\", the name of its datastore",
            );
        }
        _ => {}
    }
    let wal_volume =
        s.text("wal_volume").and_then(|text| volume_id(s, "wal_volume", &text.value, &text.span));
    let copy = s.section("copy").and_then(|mut section| {
        let copy = copy(&mut section, place.as_ref(), base);
        section.finish();
        copy
    });
    let lock = s.section("lock").and_then(|mut section| {
        let lock = lock(&mut section);
        section.finish();
        lock
    });
    Some(VolumesConfig {
        selection: selection?,
        exclude_boot: s.boolean("exclude_boot").unwrap_or(true),
        exclude,
        kms_keys,
        consistency: consistency?,
        freeze,
        before,
        after,
        freeze_limit,
        postgres: server,
        wal_volume,
        hash: s.boolean("hash").unwrap_or(true),
        copy,
        lock,
        archive_after: s.span("archive_after"),
        place: place?,
    })
}

const KEY_ARN: &str = "write arn:aws:kms:REGION:ACCOUNT:key/ID, no alias; `aws kms describe-key --key-id alias/…` tells it";

fn is_key_arn(text: &str) -> bool {
    text.starts_with("arn:") && text.contains(":kms:") && text.contains(":key/")
}

fn program(s: &mut ConfigSection<'_>, key: &str) -> Option<Vec<String>> {
    let words = s.texts(key)?;
    match words.value.first() {
        Some(program) if Path::new(program).is_absolute() => Some(words.value),
        _ => s.fault(
            words.span,
            key,
            "a program is named by its absolute path",
            &format!("write {key} = [\"/usr/local/bin/…\", \"argument\"]"),
        ),
    }
}

fn selection(s: &mut ConfigSection<'_>) -> Option<VolumeSelection> {
    let instance = s.text("instance");
    let tags: BTreeMap<String, String> = s.pairs("tags").into_iter().collect();
    let volumes = ids(s, "volumes");
    match (instance, tags.is_empty(), volumes.is_empty()) {
        (Some(text), true, true) => match text.value.parse() {
            Ok(instance) => Some(VolumeSelection::Instance(instance)),
            Err(why) => s.fault(text.span, "instance", &why, "write instance = \"i-…\""),
        },
        (None, false, true) => Some(VolumeSelection::Tags(tags)),
        (None, true, false) => Some(VolumeSelection::Ids(volumes)),
        (None, true, true) if s.has("volumes") => None,
        (None, true, true) => s.fault_here(
            "no volume is named",
            "write instance = \"i-…\", tags = { Role = \"db\" } or volumes = [\"vol-…\"]",
        ),
        _ => {
            s.fault_here("volumes are named in two ways", "keep one of instance, tags and volumes")
        }
    }
}

fn ids(s: &mut ConfigSection<'_>, key: &str) -> Vec<VolumeId> {
    let Some(texts) = s.texts(key) else { return Vec::new() };
    texts.value.iter().filter_map(|text| volume_id(s, key, text, &texts.span)).collect()
}

fn volume_id(
    s: &mut ConfigSection<'_>,
    key: &str,
    text: &str,
    span: &std::ops::Range<usize>,
) -> Option<VolumeId> {
    text.parse().map_or_else(
        |why: String| {
            s.fault(span.clone(), key, &why, "write ids such as \"vol-0123456789abcdef0\"")
        },
        Some,
    )
}

fn copy(s: &mut ConfigSection<'_>, home: Option<&SetPlace>, base: &Path) -> Option<CopyConfig> {
    let place = match home? {
        SetPlace::Ebs { .. } => ebs_place(s),
        SetPlace::Local { .. } => local_place(s, base),
    };
    let key =
        s.required_text("kms_key", "kms_key = \"arn:aws:kms:…\", a key of the other region")?.value;
    if matches!(place, Some(SetPlace::Ebs { .. })) && !is_key_arn(&key) {
        s.fault_here::<()>(
            &format!("kms_key: {key:?} is not the ARN of a key, as EC2 tells it"),
            KEY_ARN,
        );
    }
    let account = s.text("account").map(|t| t.value);
    if place.as_ref() == home {
        s.fault_here::<()>(
            "the copy would be where the snapshots are",
            "name another region, or a role of another account",
        );
    }
    if let Some(account) = &account
        && (account.len() != 12 || !account.bytes().all(|c| c.is_ascii_digit()))
    {
        s.fault_here::<()>(
            &format!("{account:?} is no account"),
            "write account = \"123456789012\", the account that role belongs to",
        );
    }
    Some(CopyConfig {
        place: place?,
        key,
        account,
        at_once_max: s.number("at_once_max", 1, 20).unwrap_or(5),
    })
}

fn lock(s: &mut ConfigSection<'_>) -> Option<SnapshotLock> {
    let kind = s.choice(
        "mode",
        &[("governance", LockKind::Governance), ("compliance", LockKind::Compliance)],
    );
    let days = s.number("days", 1, LOCK_DAYS_MAX);
    let cooling_off = s.number("cooling_off_hours", 1, 72).unwrap_or(0);
    if (kind.is_none() && !s.has("mode")) || (days.is_none() && !s.has("days")) {
        s.fault_here::<()>(
            "the lock says not how, or not how long",
            "write mode = \"governance\" or \"compliance\", and days = 35",
        );
    }
    Some(SnapshotLock {
        kind: kind?,
        days: u32::try_from(days?).ok()?,
        cooling_off_hours: u32::try_from(cooling_off).ok()?,
    })
}

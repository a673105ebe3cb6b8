//! `lifeboat check`: trying everything that the configuration names, with the results in a table.
//!
//! Each line is one question with an answer: good, bad, or *could not look*. A role that may only
//! write passes: the probe object is neither read back nor deleted, and carries no retention.

use serde::Serialize;

use super::back_up::ArchiveTap;
use super::drill;
use super::key_life::{self, KeyEnd};
use super::{WorkContext, WorkError, back_up, copy, shelf};
use crate::config::serve::{NotifyMethod, UrlSource};
use crate::config::{DatastoreKind, PostgresConfig};
use crate::config::{plans, schedules};
use crate::domain::ErrorClass;
use crate::domain::envelope::{EncryptionContext, Slot};
use crate::domain::fingerprint::HashKey;
use crate::domain::human_duration::{format_bytes, format_duration};
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::layout;
use crate::domain::selector::BackupSelector;
use crate::keyring::{UnwrapOutcome, WrappingKey};
use crate::pg::rows::RowFingerprinter;
use crate::pg::session::estimate;
use crate::pg::{PgConnection, PgSession, PgTools};
use crate::sandbox::vpc::preflight::AnswerWeight;
use crate::seal::BackupIdentity;
use crate::secret_files::{self, AllowedReaders};
use crate::source::postgres::snapshot::{self, ExportedSnapshot};
use crate::source::postgres::{SourceError, dump};

/// Answer to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetupAnswer {
    /// As it should be.
    Good,
    /// Worth knowing, stops nothing.
    Note,
    /// Not as the configuration needs it.
    Bad,
    /// Could not be looked at; not a pass.
    CouldNotLook,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct CheckLine {
    /// What the question is about.
    pub subject: String,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: SetupAnswer,
    /// Details.
    pub detail: String,
    #[serde(skip)]
    trouble: Option<ErrorClass>,
}

pub(super) fn line(
    subject: &str,
    question: &str,
    answer: SetupAnswer,
    detail: impl Into<String>,
) -> CheckLine {
    CheckLine {
        subject: subject.to_owned(),
        question: question.to_owned(),
        answer,
        detail: detail.into(),
        trouble: None,
    }
}

pub(super) fn bad(
    subject: &str,
    question: &str,
    trouble: ErrorClass,
    detail: impl Into<String>,
) -> CheckLine {
    CheckLine { trouble: Some(trouble), ..line(subject, question, SetupAnswer::Bad, detail) }
}

/// The worst error class among the answers; `None` if a backup can be taken.
#[must_use]
pub fn worst_class(lines: &[CheckLine]) -> Option<ErrorClass> {
    lines.iter().find_map(|line| line.trouble)
}

/// Asks every question.
///
/// # Errors
/// Never for an answer that is bad; only if asking itself is impossible.
pub async fn check(rig: &WorkContext) -> Result<Vec<CheckLine>, WorkError> {
    let mut lines = check_vault(rig).await;
    lines.extend(check_copies(rig).await);
    lines.extend(check_keys(rig).await);
    lines.push(check_signer(rig).await);
    lines.push(match &rig.catalog {
        Ok(_) => line("catalog", "opens", SetupAnswer::Good, rig.config.catalog.place()),
        Err(error) => {
            let cause = std::error::Error::source(error.as_ref())
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            line("catalog", "opens", SetupAnswer::Note, format!("{error}{cause}; {}", error.hint()))
        }
    });
    for (name, settings) in &rig.config.datastores {
        lines.extend(match &settings.kind {
            DatastoreKind::Postgres(postgres) => check_datastore(rig, name, postgres).await,
            DatastoreKind::Volumes(volumes) => match shelf::vault_id(rig).await {
                Ok(vault) => super::snapshot::check::check(rig, &vault, name, volumes).await,
                Err(error) => vec![bad(
                    &format!("datastore {name}"),
                    "its vault is there",
                    error.class(),
                    error.to_string(),
                )],
            },
        });
    }
    if rig.config.datastores.is_empty() {
        lines.push(bad(
            "datastores",
            "at least one is configured",
            ErrorClass::Usage,
            "add a section [datastores.NAME]",
        ));
    }
    lines.extend(check_files(rig));
    lines.extend(check_place(rig).await);
    lines.extend(check_swap());
    lines.extend(check_unattended(rig));
    lines.extend(check_scratch(rig).await);
    Ok(lines)
}

/// The drill account: what a drill's own preflight asks, and what should hold there whatever
/// anybody does. A fault keeps no backup from being taken.
async fn check_scratch(rig: &WorkContext) -> Vec<CheckLine> {
    const SUBJECT: &str = "scratch VPC";
    if rig.config.scratch_vpc.is_none() {
        return Vec::new();
    }
    match drill::vpc::ask(rig).await {
        Err(error) => {
            vec![line(SUBJECT, "can be asked", SetupAnswer::CouldNotLook, error.to_string())]
        }
        Ok(found) => {
            let told = found.answers.iter().map(|asked| {
                let answer = if asked.weight == AnswerWeight::Good {
                    SetupAnswer::Good
                } else {
                    SetupAnswer::Note
                };
                line(SUBJECT, &asked.question, answer, asked.told())
            });
            let refused = found
                .refusals
                .iter()
                .map(|words| line(SUBJECT, "would be allowed", SetupAnswer::Note, words.clone()));
            told.chain(refused).collect()
        }
    }
}

/// Which sandbox this host gives its drills: one is raised, looked at and taken down again, by the
/// code of the drills.
async fn check_place(rig: &WorkContext) -> Vec<CheckLine> {
    const SUBJECT: &str = "sandbox of drills";
    let drills: Vec<plans::DrillPlan> = plans::names(&rig.config, plans::DRILLS_DIRECTORY)
        .iter()
        .filter_map(|name| plans::drill(&rig.config, name).ok()?)
        .collect();
    if drills.iter().all(|drill| drill.place != plans::DrillPlace::Local) {
        return Vec::new();
    }
    let place = match drill::place_of_this_host(rig).await {
        Ok(place) => place,
        Err(error) => {
            return vec![line(SUBJECT, "can be raised", SetupAnswer::Note, error.to_string())];
        }
    };
    let mut lines = vec![match place.gaps.as_slice() {
        [] => line(
            SUBJECT,
            "is isolated",
            SetupAnswer::Good,
            "namespaces of its own, system calls filtered",
        ),
        gaps => {
            let names: Vec<&str> = gaps.iter().map(|gap| gap.name()).collect();
            let missing = |drill: &&plans::DrillPlan| {
                names.iter().any(|name| !drill.accept_gaps.contains(*name))
            };
            let refuse: Vec<&str> =
                drills.iter().filter(missing).map(|drill| drill.name.as_str()).collect();
            let why = place.why.map(|why| format!(": {why}")).unwrap_or_default();
            let next = match refuse.is_empty() {
                true => "; every drill accepts that".to_owned(),
                false => {
                    format!(
                        "; drills that do not accept it end NOT_VERIFIED: {} (accept_gaps, or docs/CONTAINERS.md)",
                        refuse.join(", ")
                    )
                }
            };
            line(
                SUBJECT,
                "is isolated",
                SetupAnswer::Note,
                format!("it has gaps {}{why}{next}", names.join(", ")),
            )
        }
    }];
    lines.push(match place.unlimited {
        None => line(SUBJECT, "has a limit of memory", SetupAnswer::Good, "a control group"),
        Some(why) => line(
            SUBJECT,
            "has a limit of memory",
            SetupAnswer::Note,
            format!("its files have, its processes have the host's only: {why}"),
        ),
    });
    lines
}

/// Where this host may write what is in memory, keys and rows among it.
fn check_swap() -> Option<CheckLine> {
    const SUBJECT: &str = "this host";
    let text = std::fs::read_to_string("/proc/swaps").ok()?;
    let used: Vec<&str> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|swap| !is_encrypted(swap))
        .collect();
    Some(match used.is_empty() {
        true => {
            line(SUBJECT, "keeps memory off its disks", SetupAnswer::Good, "no swap, or encrypted")
        }
        false => line(
            SUBJECT,
            "keeps memory off its disks",
            SetupAnswer::Note,
            format!(
                "{} is not known to be encrypted: keys and rows in memory may be written there; encrypt it, or turn it off (swapoff)",
                used.join(", ")
            ),
        ),
    })
}

/// Whether swap space is in memory itself, or below dm-crypt.
fn is_encrypted(swap: &str) -> bool {
    let Ok(device) = std::fs::canonicalize(swap) else { return false };
    let Some(name) = device.file_name().and_then(|name| name.to_str()) else { return false };
    let below_crypt = || {
        std::fs::read_to_string(format!("/sys/class/block/{name}/dm/uuid"))
            .is_ok_and(|uuid| uuid.starts_with("CRYPT-"))
    };
    name.starts_with("zram") || below_crypt()
}

/// Restore plans and drills: whether they can be read, and what they name is there.
fn check_files(rig: &WorkContext) -> Vec<CheckLine> {
    let mut lines = Vec::new();
    let base = rig.config.file.parent().unwrap_or(std::path::Path::new("."));
    for name in plans::names(&rig.config, plans::RESTORE_DIRECTORY) {
        let file = base.join(plans::RESTORE_DIRECTORY).join(format!("{name}.toml"));
        lines.push(match plans::plan(&rig.config, &name, &file) {
            Ok(plan) => {
                let datastores: Vec<String> =
                    plan.stages.iter().map(|stage| stage.datastore.to_string()).collect();
                line(
                    &format!("restore plan {name}"),
                    "is sound",
                    SetupAnswer::Good,
                    format!("restores {}", datastores.join(", then ")),
                )
            }
            Err(error) => bad(
                &format!("restore plan {name}"),
                "is sound",
                ErrorClass::Usage,
                error.to_string(),
            ),
        });
    }
    for name in plans::names(&rig.config, plans::DRILLS_DIRECTORY) {
        lines.push(
            match drill::script(rig, &name).and_then(|script| {
                drill::validate_scenarios(rig, &script)
                    .and_then(|()| drill::vpc::refuse_what_cannot_be(rig, &script))
                    .map(|()| script)
            }) {
                Ok(script) => {
                    let detail = format!(
                        "{} checks, {} kinds of damage, {} things broken",
                        script.checks.len(),
                        script.controls.len(),
                        script.breaks.len()
                    );
                    line(&format!("drill {name}"), "is sound", SetupAnswer::Good, detail)
                }
                Err(error) => {
                    bad(&format!("drill {name}"), "is sound", ErrorClass::Usage, error.to_string())
                }
            },
        );
    }
    lines
}

/// Schedules, and the secrets that channels need. Nobody is told anything by a check.
fn check_unattended(rig: &WorkContext) -> Vec<CheckLine> {
    let now = jiff::Timestamp::now();
    let mut lines = Vec::new();
    for name in plans::names(&rig.config, schedules::SCHEDULES_DIRECTORY) {
        let subject = format!("schedule {name}");
        lines.push(match schedules::schedule(&rig.config, &name) {
            Ok(schedule) => {
                let calendar = &schedule.timing.calendar;
                let due = calendar
                    .next(&name, now)
                    .and_then(|tick| tick.due)
                    .map(|due| calendar.zone.show(due));
                let next =
                    due.map_or_else(|| "never again".to_owned(), |due| format!("next {due}"));
                line(
                    &subject,
                    "is sound",
                    SetupAnswer::Good,
                    format!("{}; {next}", calendar.describe()),
                )
            }
            Err(error) => bad(&subject, "is sound", ErrorClass::Usage, error.to_string()),
        });
    }
    for notify in &rig.config.notify {
        let subject = format!("channel {}", notify.name);
        let secret = match &notify.how {
            NotifyMethod::Webhook { url: UrlSource::File(file), .. }
            | NotifyMethod::Ping(UrlSource::File(file)) => Some(file),
            NotifyMethod::Smtp { password_file: Some(file), .. } => Some(file),
            _ => None,
        };
        lines.push(match secret.map(|file| secret_files::read(file, AllowedReaders::Owner)) {
            None => line(
                &subject,
                "is named",
                SetupAnswer::Good,
                "not tried: nobody is told anything by a check",
            ),
            Some(Ok(_)) => line(
                &subject,
                "has its secret",
                SetupAnswer::Good,
                "not tried: nobody is told anything by a check",
            ),
            Some(Err(why)) => bad(&subject, "has its secret", ErrorClass::Usage, why),
        });
    }
    lines
}

async fn check_signer(rig: &WorkContext) -> CheckLine {
    const PROBE: &[u8] = b"lifeboat check";
    let signature = match rig.signer.sign(PROBE).await {
        Ok(signature) => signature,
        Err(error) => return bad("signing", "can sign", error.class(), error.to_string()),
    };
    match rig.trusted.signer_at(PROBE, &signature, jiff::Timestamp::now()) {
        Ok(_) => {
            return line("signing", "signs what is believed", SetupAnswer::Good, rig.signer.name());
        }
        Err(why) if rig.trusted.signer_of(PROBE, &signature).is_some() => {
            return bad(
                "signing",
                "signs what is believed",
                ErrorClass::Usage,
                format!("{why}; make a new signing key"),
            );
        }
        Err(_) => {}
    }
    let detail = match rig.signer.public().await {
        Ok(public) => {
            format!("its public half is not pinned: add trust = [\"{}\"]", public.to_line())
        }
        Err(error) => format!("its public half is not pinned, and it does not tell it: {error}"),
    };
    bad("signing", "signs what is believed", ErrorClass::Usage, detail)
}

async fn check_vault(rig: &WorkContext) -> Vec<CheckLine> {
    let address = rig.vault.address();
    let mut lines = Vec::new();
    match shelf::vault_id(rig).await {
        Ok(id) => {
            lines.push(line("vault", "exists", SetupAnswer::Good, format!("{address} ({id})")));
            lines.push(match (&rig.config.vault_id, shelf::vault_to_write(rig).await) {
                (None, _) => line(
                    "vault",
                    "its id is pinned",
                    SetupAnswer::Note,
                    format!("add to [vault] in lifeboat.toml: id = \"{id}\""),
                ),
                (Some(_), Ok(_)) => line("vault", "its id is pinned", SetupAnswer::Good, ""),
                (Some(_), Err(error)) => {
                    bad("vault", "its id is the pinned one", error.class(), error.to_string())
                }
            });
        }
        Err(error) => return vec![bad("vault", "exists", error.class(), error.to_string())],
    }
    let probe = layout::probe(&hex::encode(rand::random::<[u8; 8]>()));
    let probed = rig.vault.probe(&probe).await;
    // A role that may not delete leaves them to `sweep`.
    for key in layout::of_probe(&probe) {
        if let Ok(Some(facts)) = rig.vault.find(&key).await
            && let Err(error) = rig.vault.erase(&facts).await
        {
            tracing::debug!(%key, error = &error as &dyn std::error::Error, "a probe stays; `lifeboat sweep` removes it");
        }
    }
    match probed {
        Err(error) => lines.push(bad("vault", "may write", error.class(), error.to_string())),
        Ok(abilities) => lines.extend(abilities.answers.into_iter().map(|ability| {
            match (ability.answer, ability.needed) {
                (Some(true), _) => {
                    line("vault", ability.question, SetupAnswer::Good, ability.detail)
                }
                (Some(false), true) => {
                    bad("vault", ability.question, ErrorClass::Usage, ability.detail)
                }
                (None, true) => {
                    line("vault", ability.question, SetupAnswer::CouldNotLook, ability.detail)
                }
                (_, false) => line("vault", ability.question, SetupAnswer::Note, ability.detail),
            }
        })),
    }
    lines
}

/// Whether each of [vaults] is a copy of this one, and how far behind it is.
async fn check_copies(rig: &WorkContext) -> Vec<CheckLine> {
    let mut lines = Vec::new();
    for name in rig.replicas.keys() {
        let (subject, question) = (format!("vault {name}"), "is a copy of this one");
        lines.push(match copy::behind(rig, name).await {
            Ok(copy::ReplicaLag::Nothing) => {
                line(&subject, question, SetupAnswer::Good, "it has every backup")
            }
            Ok(copy::ReplicaLag::Backups(count)) => line(
                &subject,
                question,
                SetupAnswer::Note,
                format!("it lacks {count} backups; `lifeboat copy {name}` brings them"),
            ),
            Err(error) => bad(&subject, question, error.class(), error.to_string()),
        });
    }
    lines
}

async fn check_keys(rig: &WorkContext) -> Vec<CheckLine> {
    let mut lines = Vec::new();
    let identity = BackupIdentity::generate();
    // A context that no backup has: vault 0, at the epoch.
    let context = EncryptionContext {
        vault: VaultId::from_random([0; 16]),
        datastore: match "lifeboat-check".parse() {
            Ok(name) => name,
            Err(_) => return lines,
        },
        backup: BackupId::new(jiff::Timestamp::UNIX_EPOCH, 0),
    };
    for key in &rig.keys {
        lines.push(check_key(rig, key.as_ref(), &identity, &context).await);
    }
    for ending in key_life::endings(rig, jiff::Timestamp::now()).await {
        let subject = format!("key {}", ending.key);
        lines.push(match ending.end {
            KeyEnd::Over => bad(&subject, "can be used", ErrorClass::KeyRefused, ending.why),
            KeyEnd::Near => line(&subject, "can be used", SetupAnswer::Note, ending.why),
            // A role that may only wrap need not ask.
            KeyEnd::NotTold => line(&subject, "can be used", SetupAnswer::Note, ending.why),
        });
    }
    if rig.keys.len() < 2 {
        lines.push(line(
            "keys",
            "two independent ways to open",
            SetupAnswer::Note,
            "only one key is configured; when it is lost, every backup is. Add a recovery key",
        ));
    }
    lines
}

async fn check_key(
    rig: &WorkContext,
    key: &dyn WrappingKey,
    identity: &BackupIdentity,
    context: &EncryptionContext,
) -> CheckLine {
    let subject = format!("key {}", key.name());
    let bytes = match key.wrap(identity, context).await {
        Ok(wrapped) => wrapped.bytes().to_vec(),
        Err(error) => return bad(&subject, "wraps", error.class(), error.to_string()),
    };
    let slot = Slot {
        name: key.name().to_owned(),
        opens_with: key.opens_with(),
        file: context.place().slot(1, key.name(), key.extension()),
        sha256: shelf::sha256(&bytes),
    };
    let mut refusals = Vec::new();
    for opener in &rig.openers {
        match opener.unwrap(&slot, &bytes, context).await {
            Ok(UnwrapOutcome::Identity(found)) => {
                let same = age::secrecy::ExposeSecret::expose_secret(&found.to_text())
                    == age::secrecy::ExposeSecret::expose_secret(&identity.to_text());
                return if same {
                    line(
                        &subject,
                        "wraps and unwraps",
                        SetupAnswer::Good,
                        format!("unwrapped by {}", opener.name()),
                    )
                } else {
                    bad(
                        &subject,
                        "wraps and unwraps",
                        ErrorClass::KeyRefused,
                        "what came back is another identity",
                    )
                };
            }
            Ok(UnwrapOutcome::NotMine) => {}
            Err(error) => refusals.push(error.to_string()),
        }
    }
    let detail = if refusals.is_empty() {
        "cannot be unwrapped here, as it should be for an offline key".to_owned()
    } else {
        format!("may not unwrap here, which a backup host need not: {}", refusals.join("; "))
    };
    line(&subject, "wraps", SetupAnswer::Good, detail)
}

async fn check_datastore(
    rig: &WorkContext,
    name: &DatastoreName,
    settings: &PostgresConfig,
) -> Vec<CheckLine> {
    let subject = format!("datastore {name}");
    if settings.connection.conninfo().contains("load_balance_hosts") {
        let detail = "load_balance_hosts leads sessions to different servers, and a snapshot is known to one: name one host";
        return vec![bad(
            &subject,
            "every session reaches the same server",
            ErrorClass::Usage,
            detail,
        )];
    }
    let connection = match settings.connect().await {
        Ok(connection) => connection,
        Err(why) => return vec![bad(&subject, "password", ErrorClass::Usage, why)],
    };
    let tools = match back_up::fitting_tools(rig, &connection).await {
        Ok(tools) => tools,
        Err(error) => {
            return vec![failed(&subject, "connects, and pg_dump fits the server", &error)];
        }
    };
    let mut session = match PgSession::open(&tools, &connection).await {
        Ok(session) => session,
        Err(error) => return vec![failed(&subject, "connects", &error.into())],
    };
    let mut lines = Vec::new();
    match snapshot::server(&mut session).await {
        Ok(server) => {
            lines.push(line(
                &subject,
                "connects",
                SetupAnswer::Good,
                format!("database {}, PostgreSQL {}", server.database, server.version),
            ));
            lines.push(line(
                &subject,
                "pg_dump is as new as the server",
                SetupAnswer::Good,
                tools.version(),
            ));
        }
        Err(error) => {
            return vec![bad(&subject, "connects", ErrorClass::Unavailable, error.to_string())];
        }
    }
    lines.push(tls_line(&subject, &mut session).await);
    lines.extend(caution_lines(&subject, &mut session, settings).await);
    lines.push(burden_line(rig, &subject, name, &mut session).await);
    lines.extend(privilege_lines(&subject, &mut session, settings).await);
    drop(session);
    lines.extend(way_lines(rig, &subject, &tools, &connection, settings).await);
    lines
}

fn failed(subject: &str, question: &str, error: &SourceError) -> CheckLine {
    let hint = error.hint().map(|h| format!(" ({h})")).unwrap_or_default();
    bad(subject, question, error.class(), format!("{error}{hint}"))
}

/// The way that a backup takes, with the very code, up to the first row: tables listed and locked,
/// globals read and parsed, the schema dumped in the snapshot and parsed. Privileges that are there
/// and a server that answers do not say that the night can take it. The locks are ACCESS SHARE, as
/// a backup's, and held for as long as the schema takes.
async fn way_lines(
    rig: &WorkContext,
    subject: &str,
    tools: &PgTools,
    connection: &PgConnection,
    settings: &PostgresConfig,
) -> Vec<CheckLine> {
    let failed = |question: &str, error: &SourceError| failed(subject, question, error);
    let mut lines = Vec::new();
    let question = "its tables can be listed and locked";
    let snapshot = match ExportedSnapshot::take(tools, connection, settings.lock_wait).await {
        Ok(snapshot) => snapshot,
        Err(error) => return vec![failed(question, &error)],
    };
    lines.push(line(
        subject,
        question,
        SetupAnswer::Good,
        format!("{} tables", snapshot.tables.len()),
    ));
    let question = "everything it holds is in a dump";
    lines.push(match snapshot.omitted.as_slice() {
        [] => line(subject, question, SetupAnswer::Good, ""),
        omitted => {
            let each = omitted
                .iter()
                .map(|one| format!("{} ({})", one.what(), one.why()))
                .collect::<Vec<_>>();
            line(subject, question, SetupAnswer::Note, format!("not in it: {}", each.join("; ")))
        }
    });
    let question = "its roles and tablespaces can be read";
    lines.push(
        match dump::globals_once(tools, connection, &snapshot.database, settings.role_passwords)
            .await
        {
            Ok(_) => line(subject, question, SetupAnswer::Good, ""),
            Err(error) => failed(question, &error),
        },
    );
    let question = "its schema can be dumped and read back";
    let stage = rig.progress.begin("dump the schema", None);
    // A key of no backup: nothing is compared with this.
    let fingerprinter = RowFingerprinter::new(HashKey::from_random(rand::random()));
    let tap = ArchiveTap::new(fingerprinter, std::sync::Arc::clone(&stage));
    let read = match dump::schema(tools, connection, &snapshot, settings.lock_wait).await {
        Ok(stream) => stream.read(tap, &rig.cancel).await,
        Err(error) => Err(error),
    };
    stage.end();
    snapshot.release();
    lines.push(match read {
        Ok(tally) => {
            line(subject, question, SetupAnswer::Good, format!("{} objects", tally.named.len()))
        }
        Err(error) => failed(question, &error),
    });
    lines
}

/// What stock Postgres cannot mend, of what can be seen: docs/POSTGRES.md says what to do about
/// each.
async fn caution_lines(
    subject: &str,
    session: &mut PgSession,
    settings: &PostgresConfig,
) -> Vec<CheckLine> {
    const GONE: &str = "SELECT COALESCE((SELECT 'to roles that are gone, such as the one with OID ' || min(a.grantee::pg_catalog.int8) || ': GRANT stops a restore there' FROM ( \
            SELECT relacl AS acl FROM pg_catalog.pg_class UNION ALL SELECT attacl FROM pg_catalog.pg_attribute UNION ALL SELECT proacl FROM pg_catalog.pg_proc \
            UNION ALL SELECT nspacl FROM pg_catalog.pg_namespace UNION ALL SELECT typacl FROM pg_catalog.pg_type UNION ALL SELECT defaclacl FROM pg_catalog.pg_default_acl \
            UNION ALL SELECT datacl FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database() \
        ) o, pg_catalog.aclexplode(o.acl) a WHERE a.grantee <> 0 AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = a.grantee) HAVING count(*) > 0), '')";
    const CHECKS: &str = "SELECT COALESCE((SELECT count(DISTINCT c.oid) || ' checks call functions, such as that of ' || min(c.conrelid::pg_catalog.regclass::pg_catalog.text) \
            || ': one that reads another table may stop a restore' FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass \
            AND d.objid = c.oid AND d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass WHERE c.contype = 'c' AND c.conrelid <> 0 AND d.refobjid >= 16384 HAVING count(*) > 0), '')";
    const BOOTSTRAP: &str = "SELECT COALESCE((SELECT pg_catalog.quote_ident(rolname) || ' is made on the target as one more superuser, where that has another' \
            FROM pg_catalog.pg_roles WHERE oid = 10 AND rolname <> 'postgres'), '')";
    let mut lines = Vec::new();
    for (question, sql) in [
        ("grants can be given again", GONE),
        ("checks depend on their rows alone", CHECKS),
        ("its first superuser is called postgres", BOOTSTRAP),
    ] {
        lines.push(match session.ask_one(question, sql).await {
            Ok(nothing) if nothing.is_empty() => line(subject, question, SetupAnswer::Good, ""),
            Ok(caution) => line(subject, question, SetupAnswer::Note, caution),
            Err(error) => line(subject, question, SetupAnswer::CouldNotLook, error.to_string()),
        });
    }
    if !settings.role_passwords {
        let detail = "role_passwords = false: roles come back without, and cannot log in with one until it is set";
        lines.push(line(subject, "passwords of roles are in a backup", SetupAnswer::Note, detail));
    }
    lines
}

/// What a dump means for the server it reads from.
async fn burden_line(
    rig: &WorkContext,
    subject: &str,
    name: &DatastoreName,
    session: &mut PgSession,
) -> CheckLine {
    let question = "what a dump does to the server";
    let sizes = "SELECT count(*), COALESCE(pg_catalog.sum(relpages::pg_catalog.int8) * pg_catalog.current_setting('block_size')::pg_catalog.int8, 0) \
        FROM pg_catalog.pg_class WHERE relkind IN ('r', 't', 'm') AND relpages > 0";
    let bytes = match session.ask(question, sizes, 2).await {
        Ok(rows) => estimate(rows.first().and_then(|row| row.get(1)).unwrap_or(&None)),
        Err(error) => return line(subject, question, SetupAnswer::CouldNotLook, error.to_string()),
    };
    let last = match shelf::select(rig, name, &BackupSelector::Latest, &mut Vec::new()).await {
        Ok(believed) => {
            let took =
                believed.manifest.published.duration_since(believed.manifest.source.snapshot_time);
            format!(
                " (at most {} the last time)",
                format_duration(std::time::Duration::try_from(took).unwrap_or_default())
            )
        }
        Err(_) => String::new(),
    };
    let detail = format!(
        "{} are held ACCESS SHARE as long as it lasts{last}: ALTER TABLE waits, all behind it too, and vacuum removes nothing younger",
        format_bytes(bytes)
    );
    line(subject, question, SetupAnswer::Note, detail)
}

async fn tls_line(subject: &str, session: &mut PgSession) -> CheckLine {
    let question = "TLS, or local";
    let asked = "SELECT CASE WHEN pg_catalog.inet_client_addr() IS NULL THEN 'Unix socket' \
        ELSE COALESCE((SELECT version || ', ' || cipher FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid() AND ssl), 'loopback without TLS') END";
    match session.ask_one("TLS", asked).await {
        Ok(how) => line(subject, question, SetupAnswer::Good, how),
        Err(error) => line(subject, question, SetupAnswer::CouldNotLook, error.to_string()),
    }
}

/// What the backup role lacks, asked before a night goes by.
async fn privilege_lines(
    subject: &str,
    session: &mut PgSession,
    settings: &PostgresConfig,
) -> Vec<CheckLine> {
    let mut questions = vec![
        (
            "may read every table",
            "SELECT COALESCE((SELECT 'no: ' || count(*) || ' tables, such as ' || min(n.nspname || '.' || c.relname) FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r','p') AND c.relpersistence <> 't' \
             AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
             AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')) HAVING count(*) > 0), 'yes')",
        ),
        (
            "sees all rows despite row security",
            "SELECT CASE WHEN rolsuper OR rolbypassrls OR NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relrowsecurity) THEN 'yes' \
             ELSE 'no: tables have row security; give the role BYPASSRLS' END FROM pg_catalog.pg_roles WHERE rolname = current_user",
        ),
        (
            "may read large objects",
            "SELECT CASE WHEN (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) \
             OR pg_catalog.current_setting('lo_compat_privileges')::bool OR NOT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata) THEN 'yes' \
             ELSE 'no: pg_read_all_data does not cover them; as superuser: ALTER ROLE ' || pg_catalog.quote_ident(current_user) || ' SET lo_compat_privileges = on' END",
        ),
    ];
    if settings.role_passwords {
        questions.push((
            "may read role passwords",
            "SELECT CASE WHEN pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT') THEN 'yes' \
             ELSE 'no: GRANT SELECT ON pg_authid TO ' || pg_catalog.quote_ident(current_user) || ', or set role_passwords = false' END",
        ));
    }
    let mut lines = Vec::new();
    for (question, sql) in questions {
        lines.push(match session.ask_one(question, sql).await {
            Ok(answer) if answer == "yes" => line(subject, question, SetupAnswer::Good, ""),
            Ok(answer) => bad(subject, question, ErrorClass::SourceFailed, answer),
            Err(error) => line(subject, question, SetupAnswer::CouldNotLook, error.to_string()),
        });
    }
    lines
}

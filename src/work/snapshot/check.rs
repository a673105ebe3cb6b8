//! Trying what a datastore of volumes names, without cutting anything.

use super::{SetBackup, cut};
use crate::config::VolumesConfig;
use crate::domain::ErrorClass;
use crate::domain::human_duration::format_bytes;
use crate::domain::id::{DatastoreName, VaultId};
use crate::domain::volumes::{Consistency, ResourceTags, SetPlace, VolumeInfo, tag};
use crate::work::WorkContext;
use crate::work::check::{CheckLine, SetupAnswer, bad, line};

/// Asks what can be asked of the place, its volumes, and the place of the copies.
pub async fn check(
    rig: &WorkContext,
    vault: &VaultId,
    name: &DatastoreName,
    settings: &VolumesConfig,
) -> Vec<CheckLine> {
    let subject = format!("datastore {name}");
    let home = match rig.volumes.open(&settings.place).await {
        Ok(home) => home,
        Err(error) => {
            return vec![bad(
                &subject,
                "its volumes can be reached",
                error.class(),
                error.to_string(),
            )];
        }
    };
    let run = SetBackup { rig, vault: vault.clone(), datastore: name, settings, home };
    let mut lines = Vec::new();
    match cut::select(&run).await {
        Ok(volumes) => {
            let bytes = volumes.iter().map(|volume: &VolumeInfo| volume.bytes).sum();
            let found = format!(
                "{} volumes, {}, in {}",
                volumes.len(),
                format_bytes(bytes),
                settings.place
            );
            lines.push(line(
                &subject,
                "its volumes are there, each encrypted under a key of kms_keys",
                SetupAnswer::Good,
                found,
            ));
            match cut::could(&run, &volumes) {
                Ok((how, online)) => {
                    lines.push(line(
                        &subject,
                        "its consistency can be had",
                        SetupAnswer::Good,
                        how,
                    ));
                    if settings.consistency == Consistency::Postgres {
                        lines.extend(check_server(&run, &subject, online).await);
                    }
                }
                Err(error) => lines.push(bad(
                    &subject,
                    "its consistency can be had",
                    error.class(),
                    error.to_string(),
                )),
            }
        }
        Err(error) => lines.push(bad(
            &subject,
            "its volumes are there, each encrypted under a key of kms_keys",
            error.class(),
            error.to_string(),
        )),
    }
    if let SetPlace::Local { .. } = settings.place {
        lines.push(line(
            &subject,
            "is EBS",
            SetupAnswer::Note,
            "files of this host stand in for EBS: nothing of them is encrypted, and they are lost with the host",
        ));
    }
    lines.extend(check_copy(&run, &subject).await);
    lines
}

/// What the role lacks that asks the server to get ready.
async fn check_server(run: &SetBackup<'_>, subject: &str, online: bool) -> Vec<CheckLine> {
    let question = "its server can be asked to get ready";
    let mut session = match cut::session(run).await {
        Ok(session) => session,
        Err(error) => return vec![bad(subject, question, error.class(), error.to_string())],
    };
    let asked = if online { ONLINE } else { CHECKPOINT };
    vec![match session.ask_one(question, asked).await {
        Ok(answer) if answer == "yes" => line(subject, question, SetupAnswer::Good, ""),
        Ok(answer) => bad(subject, question, ErrorClass::SourceFailed, answer),
        Err(error) => line(subject, question, SetupAnswer::CouldNotLook, error.to_string()),
    }]
}

/// Roles may run CHECKPOINT since PostgreSQL 15, as members of `pg_checkpoint`; before, superusers
/// only.
const CHECKPOINT: &str = "SELECT CASE WHEN rolsuper THEN 'yes' \
    WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pg_checkpoint') THEN 'no: before PostgreSQL 15 only a superuser may run CHECKPOINT' \
    WHEN EXISTS (SELECT FROM pg_catalog.pg_roles c WHERE c.rolname = 'pg_checkpoint' AND pg_catalog.pg_has_role(c.oid, 'MEMBER')) THEN 'yes' \
    ELSE 'no: GRANT pg_checkpoint TO ' || pg_catalog.quote_ident(current_user) END FROM pg_catalog.pg_roles WHERE rolname = current_user";

const ONLINE: &str = "SELECT CASE WHEN pg_catalog.current_setting('wal_level') = 'minimal' THEN 'no: wal_level is minimal, and an online backup needs replica' \
    WHEN pg_catalog.current_setting('max_replication_slots')::int = 0 THEN 'no: max_replication_slots is 0, and a slot keeps the WAL' \
    WHEN rolsuper THEN 'yes' \
    WHEN NOT rolreplication THEN 'no: ALTER ROLE ' || pg_catalog.quote_ident(current_user) || ' REPLICATION, for the slot that keeps the WAL' \
    WHEN EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace \
      AND p.proname IN ('pg_backup_start', 'pg_backup_stop', 'pg_start_backup', 'pg_stop_backup') \
      AND NOT pg_catalog.has_function_privilege(p.oid, 'EXECUTE')) \
    THEN 'no: GRANT EXECUTE ON FUNCTION pg_backup_start, pg_backup_stop TO ' || pg_catalog.quote_ident(current_user) \
    ELSE 'yes' END FROM pg_catalog.pg_roles WHERE rolname = current_user";

async fn check_copy(run: &SetBackup<'_>, subject: &str) -> Vec<CheckLine> {
    let Some(copy) = &run.settings.copy else {
        return vec![line(
            subject,
            "snapshots are copied elsewhere",
            SetupAnswer::Note,
            "no: they are lost with their region; [datastores.NAME.copy] changes that",
        )];
    };
    let question = "the place of the copies can be reached";
    let tags = ResourceTags::from([(tag::VAULT.to_owned(), run.vault.to_string())]);
    let answer = match run.rig.volumes.open(&copy.place).await {
        Ok(place) => place.tagged(&tags).await,
        Err(error) => Err(error),
    };
    vec![match answer {
        Ok(found) => line(
            subject,
            question,
            SetupAnswer::Good,
            format!("{}; {} snapshots of this vault are there", copy.place, found.len()),
        ),
        Err(error) => bad(subject, question, error.class(), error.to_string()),
    }]
}

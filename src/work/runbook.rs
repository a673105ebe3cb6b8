//! The runbook of one datastore: what to type at 3 a.m., with its real names, for paper.
//!
//! It is made from the configuration, the restore plan and the newest backup, so it is printed
//! again whenever one of them changes. Its commands are those of `docs/RUNBOOK.md`, which the tests
//! run.

use std::fmt::Write;

use super::{WorkContext, WorkError, shelf};
use crate::config::plans::{self, PlanStage};
use crate::config::{KeyKind, VaultConfig};
use crate::domain::id::DatastoreName;
use crate::domain::selector::BackupSelector;
use crate::domain::volumes::{PostgresCut, VolumeSet};

/// Writes it.
///
/// # Errors
/// [`WorkError`] if there is no such datastore, its plan has faults, or the vault cannot be read.
pub async fn runbook(rig: &WorkContext, datastore: &DatastoreName) -> Result<String, WorkError> {
    let picked = shelf::select_with_context(rig, datastore, &BackupSelector::Latest).await?;
    let manifest = &picked.believed.manifest;
    let plan = plans::plan_of(&rig.config, datastore)?;
    let settings = rig.config.datastores.get(datastore);
    let database = settings
        .and_then(|settings| settings.postgres()?.connection.database())
        .unwrap_or(datastore.as_str())
        .to_owned();
    let place = match &rig.config.vault {
        VaultConfig::Directory(path, _) => path.display().to_string(),
        VaultConfig::S3(_) => rig.vault.address(),
    };
    let mut page = format!(
        "# Bring back {datastore}\n\nPrinted {} by lifeboat {}. Print it again after every change of lifeboat.toml, its keys or its restore plan.\n\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d"),
        env!("CARGO_PKG_VERSION"),
    );
    let mut fact = |name: &str, value: &str| page.push_str(&format!("- {name}: `{value}`\n"));
    fact("vault", &place);
    for (name, copy) in &rig.replicas {
        fact("its copy", &format!("{name}, {}", copy.address()));
    }
    fact("configuration", &rig.config.file.display().to_string());
    match &manifest.set {
        Some(set) => {
            fact("volumes", &format!("{} in {}", set.members.len(), set.place));
            if let Some(copy) = &set.copied_to {
                fact("their copies", &copy.to_string());
            }
        }
        None => fact("database", &database),
    }
    if manifest.source.server_version.is_some() {
        fact("server", &format!("PostgreSQL {}", manifest.source.version()));
    }
    for key in rig.trusted.keys() {
        fact("signing key, public half", &key.to_line());
    }
    for key in &rig.config.keys {
        let what = match &key.kind {
            KeyKind::AwsKms { key_id, .. } => format!("{}, KMS key {key_id}", key.name),
            KeyKind::AgeRecipients(_) => {
                format!("{}, offline: fetch the card from the safe", key.name)
            }
            KeyKind::AgeIdentity(file) => format!("{}, file {}", key.name, file.display()),
        };
        fact("opens backups", &what);
    }
    if let Some(settings) = settings {
        fact(
            "objectives",
            &format!("data no older than {}, back within {}", settings.rpo, settings.rto),
        );
    }
    if let Some(set) = &manifest.set {
        volumes(&mut page, rig, datastore, set);
        return Ok(page);
    }
    steps(&mut page, rig, datastore, &database);
    if let Some(stage) = plan.stage(datastore) {
        told_by_plan(&mut page, stage);
    }
    lost(&mut page, rig, datastore, &database, &place);
    Ok(page)
}

fn block(page: &mut String, commands: &str) {
    let _ = write!(page, "\n```bash\n{commands}\n```\n");
}

fn steps(page: &mut String, rig: &WorkContext, datastore: &DatastoreName, database: &str) {
    let config = rig.config.file.display();
    page.push_str("\n## 1. Look before anything else\n\nChanges nothing. It says which backup, how old, how long, and what is missing.\n");
    block(page, &format!("export LIFEBOAT_CONFIG={config}\nlifeboat restore {datastore} --plan"));
    page.push_str("\nTo a moment before the damage, not to the newest: add `--at 2026-11-20T12:00:00Z` to every command below.\n");
    page.push_str("\n## 2. Restore\n\nSet `TARGET` to the server, without a database: `host=db.internal user=postgres`. The password comes from `PGPASSWORD` or `~/.pgpass`.\n\nThe database is gone, or the server is new:\n");
    block(
        page,
        &format!("lifeboat restore {datastore} --to \"$TARGET dbname={database}\" --check --yes"),
    );
    page.push_str(
        "\nThe database is there and its data is wrong. The old one is renamed, not dropped, and only after every table was compared:\n",
    );
    block(
        page,
        &format!("lifeboat restore {datastore} --to \"$TARGET dbname={database}\" --swap --yes"),
    );
    page.push_str("\nOne table only, into a database beside it:\n");
    block(
        page,
        &format!(
            "lifeboat restore {datastore} --to \"$TARGET dbname={database}_rescue\" --table SCHEMA.TABLE --check --yes"
        ),
    );
    page.push_str("\nStopped by Ctrl-C, a lost connection or a lost host: the same command again goes on where it stopped.\n");
    page.push_str("\n## 3. The backup is frozen\n\nThe plan says so, with hours and cost; the restore asks for it and waits by itself. To begin at once, before the target is ready:\n");
    block(page, &format!("lifeboat thaw {datastore} --confirm\nlifeboat thaw list"));
}

/// The steps of a set of volumes.
fn volumes(page: &mut String, rig: &WorkContext, datastore: &DatastoreName, set: &VolumeSet) {
    let config = rig.config.file.display();
    let zone = set.members.first().map(|member| member.zone.clone()).unwrap_or_default();
    page.push_str("\n## 1. Look before anything else\n\nChanges nothing. It says which set, how old, and what would be made.\n");
    block(
        page,
        &format!(
            "export LIFEBOAT_CONFIG={config}\nZONE={zone}\nlifeboat restore {datastore} --to zone:$ZONE --plan"
        ),
    );
    page.push_str("\nTo a moment before the damage, not to the newest: add `--at 2026-11-20T12:00:00Z` to every command below.\n");
    page.push_str("\n## 2. Make the volumes\n\nHanded over unattached; with `--attach i-…` under the devices they had. Stopped: the same command goes on.\n");
    block(
        page,
        &format!("lifeboat restore {datastore} --to zone:$ZONE --initialization-rate 300 --yes"),
    );
    if let Some(copy) = &set.copied_to {
        let _ = write!(
            page,
            "\nThe home region is gone: a zone of the copies ({copy}) in `ZONE`, and the same command.\n"
        );
    }
    page.push_str("\nWithout any instance, as disk images:\n");
    block(page, &format!("lifeboat restore {datastore} --to ./{datastore}-images"));
    page.push_str("\n## 3. Start what lives on them\n\nMount them as they were");
    page.push_str(match &set.postgres {
        Some(PostgresCut::OnlineBackup { .. }) => {
            ", remove `postmaster.pid`, and write the labels before Postgres is started:\n"
        }
        Some(PostgresCut::Checkpoint) => {
            ", remove `postmaster.pid`, start Postgres: it recovers as after a power cut.\n"
        }
        None => ".\n",
    });
    if let Some(PostgresCut::OnlineBackup { tablespace_map, .. }) = &set.postgres {
        let map = match tablespace_map.is_empty() {
            true => "",
            false => {
                "\nlifeboat show BACKUP --json | jq -j .manifest.set.postgres.tablespace_map > \"$PGDATA/tablespace_map\""
            }
        };
        block(
            page,
            &format!(
                "rm -f \"$PGDATA/postmaster.pid\"\nlifeboat show BACKUP --json | jq -j .manifest.set.postgres.label > \"$PGDATA/backup_label\"{map}"
            ),
        );
    }
    page.push_str("\n## When more is lost\n");
    page.push_str(&by_hand(
        rig,
        datastore,
        "`openssl` and the AWS CLI; `age` and `zstd` to compare the blocks",
    ));
}

/// What to do without lifeboat. The guide is handed the recovery key, so nothing of it is run
/// before its signature was checked.
fn by_hand(rig: &WorkContext, datastore: &DatastoreName, needs: &str) -> String {
    let mut text = format!(
        "\nlifeboat itself is gone: fetch `meta/{datastore}/BACKUP/RESTORE.md` from the vault, or `RESTORE-NNNN.md` with the number of the highest `envelope-NNNN.json`, and its `.sig`. \
         It gets a key that opens everything: check the signature before anything of it is run, and take none that fails.\n"
    );
    for key in rig.trusted.keys() {
        // As text: which backup it is of, only the night knows.
        let (pem, check) = (key.to_pem(), key.openssl_command("trusted.pem", "RESTORE.md"));
        let _ = write!(text, "\n```text\ncat > trusted.pem <<'PEM'\n{pem}PEM\n{check}\n```\n");
    }
    let _ = write!(text, "\nThen follow it with `TRUSTED_KEY=trusted.pem`. It needs {needs}.\n");
    text
}

fn told_by_plan(page: &mut String, stage: &PlanStage) {
    let mut lines = Vec::new();
    lines.extend(stage.major.map(|major| format!("the server must be PostgreSQL {major}")));
    lines.extend(
        stage
            .extensions
            .iter()
            .map(|extension| format!("the server must offer extension {extension}")),
    );
    lines.extend(stage.tablespaces.iter().map(|pair| {
        format!("tablespace {pair}: the directory must exist, empty, owned by the server's user")
    }));
    lines.extend(
        stage
            .without_rows_of
            .iter()
            .map(|(schema, table)| format!("rows of {schema}.{table} are left in the backup")),
    );
    lines.extend(stage.before.iter().map(|sql| format!("before the rows: {sql}")));
    lines.extend(stage.after.iter().map(|sql| format!("after the rows: {sql}")));
    lines.extend(stage.smoke.iter().map(|smoke| {
        format!("in the end `{}` must succeed: {}", smoke.name, smoke.command.join(" "))
    }));
    if lines.is_empty() {
        return;
    }
    page.push_str("\n## What its restore plan does by itself\n\n");
    lines.iter().for_each(|line| page.push_str(&format!("- {line}\n")));
}

fn lost(
    page: &mut String,
    rig: &WorkContext,
    datastore: &DatastoreName,
    database: &str,
    place: &str,
) {
    page.push_str("\n## When more is lost\n");
    for name in rig.config.vaults.keys() {
        let _ = write!(page, "\nThe home region is gone; its copy `{name}` is left:\n");
        block(
            page,
            &format!(
                "lifeboat restore {datastore} --vault {name} --plan\nlifeboat restore {datastore} --vault {name} --to \"$TARGET dbname={database}\" --check --yes"
            ),
        );
        page.push_str("\nAdd `--identity recovery.txt` if the home key is gone with it.\n");
    }
    let trust: Vec<String> =
        rig.trusted.keys().iter().map(|key| format!("--trust-key '{}'", key.to_line())).collect();
    let trust = trust.join(" ");
    page.push_str("\nThis host is gone: on any machine with lifeboat, credentials for the vault, and the recovery key in `recovery.txt` (chmod 600):\n");
    block(
        page,
        &format!(
            "cd \"$(mktemp -d)\"\nunset LIFEBOAT_CONFIG\nlifeboat restore {datastore} --vault {place} --identity recovery.txt {trust} --to \"$TARGET dbname={database}\" --check --yes"
        ),
    );
    page.push_str("\nThe home key is gone (KMS refuses, the identity file is lost): any other key slot opens as well.\n");
    block(
        page,
        &format!(
            "lifeboat restore {datastore} --identity recovery.txt --to \"$TARGET dbname={database}\" --check --yes"
        ),
    );
    page.push_str(&by_hand(rig, datastore, "`age`, `zstd`, `openssl`, `psql` and `pg_restore`"));
    page.push_str("\n## Afterwards\n\n- The restore says under which number it is recorded: `lifeboat evidence show NUMBER` goes into the incident's file.\n");
    page.push_str(&format!(
        "- `lifeboat backup {datastore}` takes a new backup of what was restored; `lifeboat status` says whether all is well.\n"
    ));
}

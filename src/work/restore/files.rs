//! Restoring to files or to standard output, for stock tools.

use std::io::Write;
use std::path::Path;

use super::read_through;
use crate::domain::manifest::{Manifest, Payload, PayloadRole};
use crate::seal::BackupIdentity;
use crate::work::verify::payload_of;
use crate::work::{WorkContext, WorkError, shelf, snapshot};

/// Writes the opened payloads as files a stock `pg_restore` and `psql` take. The directory must not
/// exist or be empty.
///
/// # Errors
/// [`WorkError`]; what was written is removed again.
pub async fn into_directory(
    rig: &WorkContext,
    manifest: &Manifest,
    directory: &Path,
) -> Result<Vec<(String, u64)>, WorkError> {
    use std::os::unix::fs::DirBuilderExt;
    let fail =
        |source| WorkError::File { what: format!("writing to {}", directory.display()), source };
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if std::fs::read_dir(directory).map_err(fail)?.next().is_some() {
                return Err(WorkError::Refused {
                    what: format!("target directory {}", directory.display()),
                    why: "it is not empty; nothing was changed".to_owned(),
                    hint: "name a directory that does not exist yet".to_owned(),
                });
            }
        }
        other => other.map_err(fail)?,
    }
    if manifest.set.is_some() {
        return snapshot::restore::images(rig, manifest, directory).await;
    }
    let identity = shelf::open_backup(rig, manifest).await?.identity;
    let mut written = Vec::new();
    for payload in manifest
        .payloads
        .iter()
        .filter(|p| matches!(p.role, PayloadRole::Main | PayloadRole::Data | PayloadRole::Globals))
    {
        let name = if payload.role == PayloadRole::Globals {
            payload.name.clone()
        } else {
            format!("{}.pgdump", payload.name)
        };
        let path = directory.join(&name);
        let bytes = match write_file(rig, payload, &identity, &path).await {
            Ok(bytes) => bytes,
            Err(error) => {
                for (name, _) in written.iter().chain([&(name, 0)]) {
                    let _ = std::fs::remove_file(directory.join(name));
                }
                return Err(error);
            }
        };
        written.push((name, bytes));
    }
    Ok(written)
}

async fn write_file(
    rig: &WorkContext,
    payload: &Payload,
    identity: &BackupIdentity,
    path: &Path,
) -> Result<u64, WorkError> {
    use std::os::unix::fs::OpenOptionsExt;
    let fail = |source| WorkError::File { what: format!("writing {}", path.display()), source };
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(fail)?;
    let bytes = copy(
        rig,
        payload,
        identity,
        file.try_clone().map_err(fail)?,
        &format!("writing {}", path.display()),
    )
    .await?;
    file.sync_all().map_err(fail)?;
    Ok(bytes)
}

/// Writes `main` to standard output, for `pg_restore` behind a pipe.
///
/// # Errors
/// [`WorkError`]; what was written by then must not be used, which only the exit code can tell the
/// reader of a pipe.
pub async fn to_stdout(rig: &WorkContext, manifest: &Manifest) -> Result<u64, WorkError> {
    if manifest.set.is_some() {
        return Err(WorkError::Refused {
            what: "restoring to standard output".to_owned(),
            why: "this backup is a set of volumes, and one stream holds only one archive"
                .to_owned(),
            hint: "restore to a directory, which gets disk images, or to a zone: --to zone:NAME"
                .to_owned(),
        });
    }
    read_through(rig, manifest).await?;
    if manifest.data_payloads().next().is_some() {
        return Err(WorkError::Refused {
            what: "restoring to standard output".to_owned(),
            why: "this backup has several payloads, and one stream holds only one archive"
                .to_owned(),
            hint: "restore to a directory or a database".to_owned(),
        });
    }
    let identity = shelf::open_backup(rig, manifest).await?.identity;
    copy(
        rig,
        payload_of(manifest, PayloadRole::Main)?,
        &identity,
        std::io::stdout(),
        "writing to standard output",
    )
    .await
}

async fn copy(
    rig: &WorkContext,
    payload: &Payload,
    identity: &BackupIdentity,
    mut to: impl Write + Send + 'static,
    what: &str,
) -> Result<u64, WorkError> {
    let mut opened = shelf::open_payload(rig, payload, identity).await?;
    let stage = rig.progress.begin(&payload.name, Some(payload.plain_bytes));
    let (cancel, what) = (rig.cancel.clone(), what.to_owned());
    let copying = move || {
        let mut chunk = vec![0; 1024 * 1024];
        let mut total = 0;
        loop {
            if cancel.is_cancelled() {
                return Err(WorkError::Interrupted);
            }
            let count = opened.read(&mut chunk)?;
            let written = if count == 0 { to.flush() } else { to.write_all(&chunk[..count]) };
            written.map_err(|source| WorkError::File { what: what.clone(), source })?;
            if count == 0 {
                stage.end();
                return Ok(total);
            }
            total += count as u64;
            stage.add(count as u64);
        }
    };
    tokio::task::spawn_blocking(copying)
        .await
        .map_err(|_| WorkError::Bug("the copying thread died".to_owned()))?
}

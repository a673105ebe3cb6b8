//! The scenario "lifeboat is lost": `RESTORE.md` is executed in the sandbox, word by word, with
//! stock tools only.
//!
//! What a person would have is brought into the clients' own directory, which the server's uid
//! cannot read: the sealed objects as they are stored, the trusted public key, and one age
//! identity. Only a `RESTORE.md` that a trusted key has signed is executed: it is handed a key that
//! opens every backup. Output of its programs is shown truncated, and without anything that looks
//! like a key.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use crate::destination::postgres::TargetError;
use crate::domain::envelope::Envelope;
use crate::domain::manifest::Manifest;
use crate::domain::printable::printable;
use crate::keyring::age_key::IdentityFile;
use crate::pg::children::keep_last_words;
use crate::pg::{PgSession, PgTools};
use crate::sandbox::local::RaisedSandbox;
use crate::vault::{VaultError, fetch};
use crate::work::{WorkContext, WorkError, guide, shelf};

/// What came of it.
pub(super) struct ManualRestore {
    /// The slot whose key opened the backup.
    pub slot: String,
    /// The database that was made.
    pub database: String,
    /// In words.
    pub summary: String,
}

fn failed(what: &str, why: impl std::fmt::Display) -> WorkError {
    WorkError::CheckFailed(format!("{what}: {why}"))
}

pub(super) async fn restore(
    rig: &WorkContext,
    place: &RaisedSandbox,
    manifest: &Manifest,
    identity: &Path,
) -> Result<ManualRestore, WorkError> {
    // Which slot the key opens is what a person knows from the key's label.
    let mut alone = rig.clone();
    alone.openers = vec![Arc::new(IdentityFile::new("the identity for stock tools", identity))];
    let slot = shelf::open_backup(&alone, manifest).await?.slot;
    let home = place.client_directory();
    // A directory for each datastore of the plan.
    let home = home.join(manifest.datastore.as_str());
    let (vault, work) = (home.join("vault"), home.join("by-hand"));
    let envelopes = shelf::load_envelopes(rig, manifest).await?;
    let newest = envelopes
        .believed
        .first()
        .map(|(newest, _)| newest)
        .ok_or_else(|| failed("the envelope", "it is missing"))?;
    let text = shelf::load_guide(rig, manifest, newest.number).await?;
    let objects = bring_objects(rig, place, manifest, newest, &vault).await?;
    let key = std::fs::read(identity).map_err(|source| WorkError::File {
        what: format!("reading {}", identity.display()),
        source,
    })?;
    let key = zeroize::Zeroizing::new(key);
    write(place, &home.join("identity-file"), &key).await?;
    let trusted = rig.trusted.keys().iter().map(crate::keyring::sign::PublicKey::to_pem);
    let mut signing_keys = Vec::new();
    for (number, pem) in trusted.enumerate() {
        let file = home.join(format!("trusted-{number}.pem"));
        write(place, &file, pem.as_bytes()).await?;
        signing_keys.push(file);
    }
    let mut blocks = guide::commands(&String::from_utf8_lossy(&text), &slot);
    let from_directory = rig.vault.address().starts_with("file://");
    if !from_directory && !blocks.is_empty() {
        // A sandbox has no network: what the AWS CLI would fetch is laid where it would lie.
        let head = "set -euo pipefail\numask 077\ncp -r \"$VAULT\"/. .\n";
        blocks[0] = head.to_owned();
    }
    let script = blocks.concat();
    let signer = signing_keys.first().ok_or_else(|| failed("the trusted key", "none is pinned"))?;
    let mut bash = place.command(Path::new("/bin/bash"), "postgres");
    bash.env("VAULT", &vault)
        .env("IDENTITY", home.join("identity-file"))
        .env("TRUSTED_KEY", signer);
    bash.arg("-c").arg("mkdir -p \"$0\" && cd \"$0\" && exec /bin/bash -s").arg(&work);
    let (status, said) = feed(bash, script.as_bytes()).await?;
    if !status.success() {
        return Err(failed("RESTORE.md did not work as it stands", without_keys(&said)));
    }
    let database = restored_database(rig, place).await?;
    let fetched =
        if from_directory { "" } else { "; fetching with the AWS CLI was not part of it" };
    Ok(ManualRestore {
        summary: format!("{} steps, {objects} objects{fetched}", blocks.len()),
        slot,
        database,
    })
}

/// The database that the guide made: the only one that is not the server's own.
async fn restored_database(rig: &WorkContext, place: &RaisedSandbox) -> Result<String, WorkError> {
    let tools = PgTools::find(rig.config.pg_bin.as_deref(), 0).await.map_err(TargetError::from)?;
    let mut session = PgSession::open(&tools, &place.connection("postgres"))
        .await
        .map_err(TargetError::Restored)?;
    let question = "SELECT datname FROM pg_catalog.pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY oid DESC LIMIT 1";
    Ok(session.ask_one("the restored database", question).await.map_err(TargetError::Restored)?)
}

/// Brings the sealed objects of a backup into the sandbox, under the names they have in the vault:
/// what its signed documents name, and nothing that was put beside it.
async fn bring_objects(
    rig: &WorkContext,
    place: &RaisedSandbox,
    manifest: &Manifest,
    newest: &Envelope,
    vault: &Path,
) -> Result<usize, WorkError> {
    let own = manifest.place();
    let signed = [own.manifest(), own.envelope(newest.number), own.restore_guide(newest.number)];
    let documents = signed
        .iter()
        .flat_map(|key| [key.clone(), key.signature()])
        .chain(newest.slots.iter().map(|slot| slot.file.clone()));
    let mut count = 0;
    for key in documents {
        let bytes = fetch::document(rig.vault.as_ref(), &key)
            .await?
            .ok_or_else(|| VaultError::Missing { key: key.to_string() })?;
        write(place, &vault.join(key.as_str()), &bytes).await?;
        count += 1;
    }
    for object in manifest.payloads.iter().flat_map(|payload| &payload.objects) {
        let key = &object.key;
        if let Ok(Some(list)) = shelf::load_chunk_list(rig.vault.as_ref(), object).await {
            write(place, &vault.join(own.chunks(key).as_str()), &list).await?;
            count += 1;
        }
        let wanted = shelf::wanted_objects(rig, std::slice::from_ref(object)).await?;
        let mut chunks = fetch::stream(Arc::clone(&rig.vault), wanted, rig.cancel.clone()).await?;
        let (mut child, mut stdin) = receiver(place, &vault.join(key.as_str())).await?;
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.map_err(|why| WorkError::Open(why.of(key.as_str())))?;
            stdin.write_all(&chunk).await.map_err(|error| sandbox_is_full(&error))?;
        }
        drop(stdin);
        let status = child.wait().await.map_err(|error| sandbox_is_full(&error))?;
        if !status.success() {
            return Err(WorkError::NotVerified(format!(
                "{key} could not be brought into the sandbox; is it large enough?"
            )));
        }
        count += 1;
    }
    Ok(count)
}

fn sandbox_is_full(error: &std::io::Error) -> WorkError {
    WorkError::NotVerified(format!(
        "nothing more could be brought into the sandbox: {error}; is it large enough?"
    ))
}

/// A program in the sandbox that writes its standard input to a new file.
async fn receiver(
    place: &RaisedSandbox,
    file: &Path,
) -> Result<(tokio::process::Child, tokio::process::ChildStdin), WorkError> {
    let parent: PathBuf = file.parent().map(Path::to_owned).unwrap_or_default();
    let mut mkdir = place.command(Path::new("/bin/mkdir"), "postgres");
    mkdir.arg("-p").arg(&parent).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    mkdir.status().await.map_err(|error| sandbox_is_full(&error))?;
    let mut dd = place.command(Path::new("/bin/dd"), "postgres");
    let mut target = std::ffi::OsString::from("of=");
    target.push(file);
    dd.arg(target).args(["bs=1M", "iflag=fullblock", "status=none", "conv=excl"]);
    dd.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = dd.spawn().map_err(|error| sandbox_is_full(&error))?;
    let stdin =
        child.stdin.take().ok_or_else(|| WorkError::Bug("dd has no standard input".to_owned()))?;
    Ok((child, stdin))
}

async fn write(place: &RaisedSandbox, file: &Path, bytes: &[u8]) -> Result<(), WorkError> {
    let (mut child, mut stdin) = receiver(place, file).await?;
    stdin.write_all(bytes).await.map_err(|error| sandbox_is_full(&error))?;
    drop(stdin);
    match child.wait().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(WorkError::NotVerified(format!(
            "a file could not be brought into the sandbox ({status}); is it large enough?"
        ))),
        Err(error) => Err(sandbox_is_full(&error)),
    }
}

/// The end of what was said, without words that are keys.
fn without_keys(said: &str) -> String {
    let from = said.char_indices().rev().nth(999).map_or(0, |(at, _)| at);
    let is_key = |word: &str| {
        word.to_ascii_uppercase().contains("AGE-SECRET-KEY-")
            || word.to_ascii_uppercase().contains("AGE-PLUGIN-")
    };
    let words = said[from..].split(' ').map(|word| if is_key(word) { "(a key)" } else { word });
    printable(&words.collect::<Vec<_>>().join(" ")).trim().to_owned()
}

async fn feed(
    mut command: tokio::process::Command,
    input: &[u8],
) -> Result<(std::process::ExitStatus, String), WorkError> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| sandbox_is_full(&error))?;
    let said = tokio::spawn(keep_last_words(child.stderr.take()));
    if let Some(mut stdin) = child.stdin.take() {
        // bash reads its script as it goes; one that stops early closes its end.
        let _ = stdin.write_all(input).await;
    }
    let status = child.wait().await.map_err(|error| sandbox_is_full(&error))?;
    Ok((status, said.await.unwrap_or_default()))
}

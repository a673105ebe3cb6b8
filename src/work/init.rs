//! `lifeboat init`: configuration, keys, vault. Never overwrites, and never makes a key where
//! sealed backups exist.

use std::path::{Path, PathBuf};

use crate::config::template::{ConfigValues, lifeboat_toml};
use crate::config::{FILE_NAME, parse_s3_address};
use crate::domain::document::VaultHeader;
use crate::domain::id::VaultId;
use crate::domain::{VaultDocument, layout};
use crate::keyring::age_key::create_identity_file;
use crate::keyring::sign::create_signing_file;
use crate::vault::{Vault, VaultError};

use super::WorkError;

/// What to make.
#[derive(Debug, Clone)]
pub struct NewSetup {
    /// Directory of the configuration.
    pub directory: PathBuf,
    /// `s3://…`, or a directory; `vault` beside the configuration if none.
    pub vault: Option<String>,
    /// Recipient of an offline recovery key that exists already.
    pub recovery_recipient: Option<String>,
    /// Where to write a new recovery key.
    pub new_recovery_key: Option<PathBuf>,
}

/// What was made.
#[derive(Debug, serde::Serialize)]
pub struct InitReport {
    /// Files, in the order in which they were made.
    pub files: Vec<PathBuf>,
    /// The id of the vault that is to be made.
    pub vault: VaultId,
    /// The signing key's public half, on one line.
    pub trust: String,
    /// The recovery key's recipient.
    pub recovery_recipient: Option<String>,
}

/// Examples of restore plans and drills, as they stand in this repository. They name a datastore
/// that a new set-up does not have, so they are written as examples, to be renamed.
pub const EXAMPLES: [(&str, &str); 13] = [
    ("schedules/nightly.toml", include_str!("../../schedules/nightly.toml")),
    ("schedules/housekeeping.toml", include_str!("../../schedules/housekeeping.toml")),
    ("schedules/sweep.toml", include_str!("../../schedules/sweep.toml")),
    ("schedules/readback.toml", include_str!("../../schedules/readback.toml")),
    ("restore/chat.toml", include_str!("../../restore/chat.toml")),
    ("drills/nightly.toml", include_str!("../../drills/nightly.toml")),
    ("drills/catalog-lost.toml", include_str!("../../drills/catalog-lost.toml")),
    ("drills/home-key-lost.toml", include_str!("../../drills/home-key-lost.toml")),
    ("drills/kms-gone.toml", include_str!("../../drills/kms-gone.toml")),
    ("drills/lifeboat-lost.toml", include_str!("../../drills/lifeboat-lost.toml")),
    ("drills/region-lost.toml", include_str!("../../drills/region-lost.toml")),
    ("drills/thaw.toml", include_str!("../../drills/thaw.toml")),
    ("drills/newest-damaged.toml", include_str!("../../drills/newest-damaged.toml")),
];

/// Writes keys and configuration. The vault itself is made by [`create_vault`] once the
/// configuration stands.
///
/// # Errors
/// [`WorkError::Refused`] if there is a configuration, a key, or a vault that holds backups.
pub fn write_files(setup: &NewSetup) -> Result<InitReport, WorkError> {
    let file = setup.directory.join(FILE_NAME);
    let refuse = |what: &Path, hint: &str| WorkError::Refused {
        what: what.display().to_string(),
        why: "it exists already; nothing was changed".to_owned(),
        hint: hint.to_owned(),
    };
    if file.exists() {
        return Err(refuse(&file, "edit it, or name another directory"));
    }
    let keys = setup.directory.join("keys");
    for key in ["identity.txt", "signing.pem"].map(|name| keys.join(name)) {
        if key.exists() {
            return Err(refuse(
                &key,
                "a key is never replaced: backups may be sealed to it. Move it to a safe place first, if you know that none are",
            ));
        }
    }
    let place = match &setup.vault {
        Some(address) if parse_s3_address(address).is_some() => format!(
            "s3 = {}\n# region = \"eu-west-1\"\n# sse_kms_key = \"arn:aws:kms:…\"   # the bucket's own encryption\n# storage_class = \"GLACIER_IR\"     # of payloads\n# object_lock = \"30d\"              # retention, if the bucket has Object Lock",
            toml_text(address)
        ),
        directory => {
            let directory = directory.clone().unwrap_or_else(|| "vault".to_owned());
            refuse_inhabited(&setup.directory.join(&directory))?;
            format!(
                "directory = {}               # or: s3 = \"s3://bucket/prefix\"",
                toml_text(&directory)
            )
        }
    };
    let fail = |what: &Path| {
        let what = format!("creating {}", what.display());
        move |source| WorkError::File { what, source }
    };
    std::fs::create_dir_all(&setup.directory).map_err(fail(&setup.directory))?;
    private_directory(&keys).map_err(fail(&keys))?;
    let mut files = Vec::new();
    let recovery = match (&setup.recovery_recipient, &setup.new_recovery_key) {
        (Some(recipient), _) => Some(recipient.clone()),
        (None, Some(path)) => {
            let recipient = create_identity_file(
                path,
                "lifeboat recovery key: keep it offline, on paper or on a medium of its own",
            )
            .map_err(fail(path))?;
            files.push(path.clone());
            Some(recipient)
        }
        (None, None) => None,
    };
    let identity = keys.join("identity.txt");
    create_identity_file(&identity, "lifeboat local identity: opens every backup of this set-up")
        .map_err(fail(&identity))?;
    let signing = keys.join("signing.pem");
    let public = create_signing_file(&signing).map_err(fail(&signing))?;
    let public_file = keys.join("signing.pub.pem");
    write_new(&public_file, &public.to_pem()).map_err(fail(&public_file))?;
    let id = VaultId::from_random(rand::random());
    let text = lifeboat_toml(&ConfigValues {
        vault: place,
        id: id.to_string(),
        recovery: recovery.clone(),
        trust: public.to_line(),
    });
    write_new(&file, &text).map_err(fail(&file))?;
    files.extend([identity, signing, public_file, file]);
    for (name, text) in EXAMPLES {
        let example = setup.directory.join(format!("{name}.example"));
        if let Some(parent) = example.parent() {
            std::fs::create_dir_all(parent).map_err(fail(parent))?;
        }
        // An example that is there already may have been changed; it is no reason to stop.
        if !example.exists() {
            write_new(&example, text).map_err(fail(&example))?;
            files.push(example);
        }
    }
    Ok(InitReport { files, vault: id, trust: public.to_line(), recovery_recipient: recovery })
}

/// New keys beside a vault full of backups would only hide that the old ones are lost.
fn refuse_inhabited(vault: &Path) -> Result<(), WorkError> {
    if vault.join(layout::vault_header().as_str()).exists()
        || vault.join(layout::MANIFESTS).exists()
    {
        return Err(WorkError::Refused {
            what: format!("vault {}", vault.display()),
            why: "it holds a vault already, and new keys would not open what is in it; nothing was changed".to_owned(),
            hint: "bring back the lifeboat.toml and keys it was made with, or name another directory with --vault".to_owned(),
        });
    }
    Ok(())
}

fn toml_text(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn private_directory(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Writes `vault.json`. A vault that has one keeps it.
///
/// # Errors
/// [`WorkError::Refused`] if there is a vault already.
pub async fn create_vault(vault: &dyn Vault, id: &VaultId) -> Result<(), WorkError> {
    match vault
        .put(&layout::vault_header(), VaultDocument::header(&VaultHeader::new(id.clone())))
        .await
    {
        Ok(()) => Ok(()),
        Err(VaultError::Exists { .. }) => Err(WorkError::Refused {
            what: format!("vault {}", vault.address()),
            why: "there is a vault already, and it stays as it is".to_owned(),
            hint: "use its own lifeboat.toml and keys, or name another place with --vault"
                .to_owned(),
        }),
        Err(error) => Err(error.into()),
    }
}

//! Another vault than the configured one: a replica that lifeboat.toml names, or an address typed
//! on a host that has nothing else.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::config::{Config, VaultConfig, parse_s3_address};
use crate::work::WorkError;

/// The configuration with another vault. Without a file, nothing is configured but the vault: keys
/// come from `--identity` or from the KMS keys that the backup itself names, and what is believed
/// from `--trust-key`.
pub(super) fn config(file: &Path, vault: &str) -> Result<Config, WorkError> {
    if file.exists() {
        let mut config = Config::load(file)?;
        match config.vaults.get(vault) {
            Some(named) => config.vault = named.clone(),
            None => {
                config.vault = address(vault, &config.vaults.keys().cloned().collect::<Vec<_>>())?
            }
        }
        return Ok(config);
    }
    let (vault, state) = (address(vault, &[])?, state_directory()?);
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&state);
    made.map_err(|source| WorkError::File { what: format!("making {}", state.display()), source })?;
    Ok(Config::bare(vault, &state))
}

fn address(vault: &str, names: &[String]) -> Result<VaultConfig, WorkError> {
    if let Some((bucket, prefix)) = parse_s3_address(vault) {
        return Ok(VaultConfig::S3(Box::new(crate::config::S3Config::at(bucket, prefix))));
    }
    let directory = Path::new(vault.strip_prefix("file://").unwrap_or(vault));
    if directory.join("vault.json").is_file() {
        return Ok(VaultConfig::Directory(
            std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned()),
            None,
        ));
    }
    let known = if names.is_empty() {
        String::new()
    } else {
        format!("; lifeboat.toml names {}", names.join(", "))
    };
    Err(WorkError::Refused {
        what: format!("--vault {vault}"),
        why: format!(
            "it is no vault: neither s3://bucket/prefix nor a directory with a vault.json{known}"
        ),
        hint: match names.is_empty() {
            true => "write the address that stands on the recovery card".to_owned(),
            false => format!("--vault {}", names.join(", or --vault ")),
        },
    })
}

/// Where this host keeps locks and the catalog of a restore without configuration.
fn state_directory() -> Result<PathBuf, WorkError> {
    let named =
        |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state")));
    // Never where anybody may put something in its place: a directory of temporary files.
    let own =
        own.or_else(|| rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/lib")));
    own.map(|own| own.join("lifeboat")).ok_or_else(|| WorkError::Refused {
        what: "a restore without a configuration".to_owned(),
        why: "it keeps locks and a catalog, and HOME is not set".to_owned(),
        hint: "name a directory of your own: XDG_STATE_HOME=/path lifeboat restore …".to_owned(),
    })
}

//! Rebuilding the catalog from the vault.

use super::{WorkContext, WorkError, shelf};

/// Replaces the catalog's list of backups by what the vault holds and a pinned key signed.
///
/// Returns how many are known now, and which manifests were not believed.
///
/// # Errors
/// [`WorkError`] if the vault cannot be read or the catalog not written.
pub async fn rebuild(rig: &WorkContext) -> Result<(usize, Vec<String>), WorkError> {
    let vault = shelf::vault_id(rig).await?;
    let mut believed = Vec::new();
    let mut refused = Vec::new();
    for entry in shelf::list_entries(rig, None).await? {
        match entry.manifest {
            Ok(manifest) => believed.push(manifest.manifest),
            Err(error) => refused.push(format!("{}/{}: {error}", entry.datastore, entry.backup)),
        }
    }
    match &rig.catalog {
        Ok(catalog) => catalog.replace(&vault, &believed).await?,
        Err(error) => {
            return Err(WorkError::Refused {
                what: "the catalog".to_owned(),
                why: error.to_string(),
                hint: error.hint().to_owned(),
            });
        }
    }
    Ok((believed.len(), refused))
}

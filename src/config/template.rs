//! What `lifeboat init` writes: a commented file in which everything optional is commented out.

/// Lowest and highest zstd level where nothing is configured.
pub const LEVELS: (i32, i32) = (1, 3);

/// What a new configuration is filled with.
#[derive(Debug, Clone)]
pub struct ConfigValues {
    /// The `[vault]` section's place line.
    pub vault: String,
    /// The vault's id.
    pub id: String,
    /// Recipient of the recovery key, if there is one yet.
    pub recovery: Option<String>,
    /// The signing key's public half on one line.
    pub trust: String,
}

/// The text of a new `lifeboat.toml`.
#[must_use]
pub fn lifeboat_toml(filling: &ConfigValues) -> String {
    let recovery = match &filling.recovery {
        Some(recipient) => format!("[keys.recovery]                     # kept offline; opens every backup when all else is lost\nkind = \"age\"\nrecipients = [\"{recipient}\"]\n"),
        None => "# [keys.recovery]                   # add one: `age-keygen -o recovery.txt` on another machine, kept offline\n# kind = \"age\"\n# recipients = [\"age1…\"]\n".to_owned(),
    };
    include_str!("lifeboat.toml.in")
        .replace("@VAULT@", &filling.vault)
        .replace("@ID@", &filling.id)
        .replace("@RECOVERY@", &recovery)
        .replace("@TRUST@", &filling.trust)
}

//! The identity: a one-off age X25519 key pair made for one backup.

use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};

/// The secret half of a backup's key. Zeroized when dropped, never shown.
#[derive(Clone)]
pub struct Identity(age::x25519::Identity);

/// A text that is not an age X25519 identity.
#[derive(Debug, thiserror::Error)]
#[error("what the key slot opened is not an age identity")]
pub struct NotAnIdentity;

impl Identity {
    /// A fresh identity from the system's random numbers.
    #[must_use]
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// The text form, `AGE-SECRET-KEY-1…`, as it is wrapped in slots. A newline ends it, as in any identity file.
    #[must_use]
    pub fn to_text(&self) -> SecretString {
        SecretString::from(format!("{}\n", self.0.to_string().expose_secret()))
    }

    /// Reads the text form; comments and blank lines as in an identity file are allowed.
    ///
    /// # Errors
    /// [`NotAnIdentity`], which says nothing about the text.
    pub fn from_text(text: &str) -> Result<Self, NotAnIdentity> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        match (lines.next(), lines.next()) {
            (Some(line), None) => age::x25519::Identity::from_str(line).map(Self).map_err(|_| NotAnIdentity),
            _ => Err(NotAnIdentity),
        }
    }

    pub(super) fn recipient(&self) -> age::x25519::Recipient {
        self.0.to_public()
    }
    pub(super) fn as_age(&self) -> &dyn age::Identity {
        &self.0
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(…)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_from_its_text_and_is_not_in_debug_output() {
        let identity = Identity::generate();
        let text = identity.to_text();
        let read = Identity::from_text(&format!("# created: today\n{}", text.expose_secret())).unwrap();
        assert_eq!(read.to_text().expose_secret(), text.expose_secret());
        assert_eq!(format!("{identity:?}"), "Identity(…)");
        assert!(Identity::from_text("").is_err());
        assert!(Identity::from_text(&format!("{0}{0}", text.expose_secret())).is_err());
    }
}

//! The identity: a one-off age X25519 key pair made for one backup.

use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};

/// The secret half of a backup's key. Zeroized when dropped, never shown.
#[derive(Clone)]
pub struct BackupIdentity(age::x25519::Identity);

/// A text that is not an age X25519 identity.
#[derive(Debug, thiserror::Error)]
#[error("what the key slot opened is not an age identity")]
pub struct InvalidIdentity;

impl BackupIdentity {
    /// A fresh identity from the system's random numbers.
    #[must_use]
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// The text form, `AGE-SECRET-KEY-1…`, as it is wrapped in slots. A newline ends it, as in any
    /// identity file.
    #[must_use]
    pub fn to_text(&self) -> SecretString {
        SecretString::from(format!("{}\n", self.0.to_string().expose_secret()))
    }

    /// Reads the text form; comments and blank lines as in an identity file are allowed.
    ///
    /// # Errors
    /// [`InvalidIdentity`], which says nothing about the text.
    pub fn from_text(text: &str) -> Result<Self, InvalidIdentity> {
        let mut lines =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        match (lines.next(), lines.next()) {
            (Some(line), None) => {
                age::x25519::Identity::from_str(line).map(Self).map_err(|_| InvalidIdentity)
            }
            _ => Err(InvalidIdentity),
        }
    }

    pub(super) fn recipient(&self) -> age::x25519::Recipient {
        self.0.to_public()
    }
    pub(super) fn as_age(&self) -> &dyn age::Identity {
        &self.0
    }
}

impl std::fmt::Debug for BackupIdentity {
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
        let identity = BackupIdentity::generate();
        let text = identity.to_text();
        let read =
            BackupIdentity::from_text(&format!("# created: today\n{}", text.expose_secret()))
                .unwrap();
        assert_eq!(read.to_text().expose_secret(), text.expose_secret());
        assert_eq!(format!("{identity:?}"), "Identity(…)");
        assert!(BackupIdentity::from_text("").is_err());
        assert!(BackupIdentity::from_text(&format!("{0}{0}", text.expose_secret())).is_err());
    }

    #[test]
    fn the_text_of_an_identity_is_one_line_as_age_writes_it() {
        let text = BackupIdentity::generate().to_text();
        let line = text.expose_secret().strip_suffix('\n').unwrap();
        assert!(line.starts_with("AGE-SECRET-KEY-1") && !line.contains('\n'));
        assert!(age::x25519::Identity::from_str(line).is_ok());
        assert_ne!(
            BackupIdentity::generate().to_text().expose_secret(),
            text.expose_secret(),
            "each is fresh"
        );
    }

    #[test]
    fn comments_blank_lines_and_spaces_around_an_identity_do_not_matter_but_anything_else_does() {
        let text = BackupIdentity::generate().to_text();
        let line = text.expose_secret().trim_end();
        let read = |text: &str| {
            BackupIdentity::from_text(text)
                .map(|read| read.to_text().expose_secret().trim_end() == line)
                .ok()
        };
        for good in [
            line.to_owned(),
            format!("\n\r\n  {line}  \r\n\n"),
            format!("#a\n #b\n{line}\n#{line}\n"),
        ] {
            assert_eq!(read(&good), Some(true));
        }
        for bad in [
            format!("#{line}"),
            format!("{line}\nx"),
            format!("x\n{line}"),
            format!("{line} # note"),
            line[1..].to_owned(),
            "\n#\n".to_owned(),
        ] {
            assert_eq!(read(&bad), None);
        }
        let error = BackupIdentity::from_text("AGE-SECRET-KEY-1WRONG").unwrap_err();
        assert_eq!(
            error.to_string(),
            "what the key slot opened is not an age identity",
            "and not the text"
        );
    }

    #[test]
    fn what_is_encrypted_to_an_identitys_recipient_opens_with_it_alone() {
        let identity = BackupIdentity::generate();
        let sealed = age::encrypt(&identity.recipient(), b"plaintext").unwrap();
        let open = |identity: &BackupIdentity| {
            let mut plain = Vec::new();
            let stream = age::Decryptor::new(&sealed[..])
                .unwrap()
                .decrypt(std::iter::once(identity.as_age()));
            stream
                .map(|mut stream| std::io::Read::read_to_end(&mut stream, &mut plain))
                .map(|read| (read.unwrap(), plain))
                .ok()
        };
        assert_eq!(
            open(&BackupIdentity::from_text(identity.to_text().expose_secret()).unwrap()),
            Some((9, b"plaintext".to_vec()))
        );
        assert_eq!(open(&BackupIdentity::generate()), None);
    }
}

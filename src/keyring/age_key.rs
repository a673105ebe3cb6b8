//! Key slots of kind `age`: offline recovery recipients, and the local identity of an embedded
//! set-up.
//!
//! A slot is an armored age file, so that `age -d -i recovery.txt slot` opens it with nothing else.
//! Recipients may be native ones (`age1…`), tagged ones of hardware keys (`age1tag1…`), or ones of
//! any age plugin.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretString};
use async_trait::async_trait;
use aws_lc_rs::digest;

use super::{KeyError, SlotOpener, UnwrapOutcome, WrappingKey};
use crate::domain::envelope::{EncryptionContext, Slot, SlotKind, WrappedIdentity};
use crate::seal::BackupIdentity;

/// An opened slot is one line of text; anything much larger is not one.
const IDENTITY_BYTES_MAX: u64 = 4096;

/// A key of recipients: can wrap, cannot open.
pub struct RecipientsKey {
    name: String,
    texts: Vec<String>,
}

impl RecipientsKey {
    /// Checks that every text is a recipient.
    ///
    /// # Errors
    /// [`KeyError::Unusable`] naming the text that is not.
    pub fn new(name: &str, texts: Vec<String>) -> Result<Self, KeyError> {
        let key = Self { name: name.to_owned(), texts };
        for text in &key.texts {
            // A plugin that is not on this host keeps nobody from reading: it is missed by whoever
            // wraps.
            if plugin_of(&key.name, text)?.is_none() {
                parse_recipient(&key.name, text)?;
            }
        }
        Ok(key)
    }

    fn parse(&self) -> Result<Vec<Box<dyn age::Recipient + Send>>, KeyError> {
        self.texts.iter().map(|text| parse_recipient(&self.name, text)).collect()
    }
}

fn unusable(key: &str, why: String) -> KeyError {
    KeyError::Unusable { key: key.to_owned(), why }
}

/// The plugin that a recipient needs, if it needs one.
fn plugin_of(key: &str, text: &str) -> Result<Option<age::plugin::Recipient>, KeyError> {
    if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-")
        || text.to_ascii_uppercase().starts_with("AGE-PLUGIN-")
    {
        return Err(unusable(
            key,
            "a secret identity stands where a public recipient (age1…) belongs; treat that identity as exposed".to_owned(),
        ));
    }
    let is_own = text.parse::<age::x25519::Recipient>().is_ok()
        || text.parse::<age::tag::Recipient>().is_ok()
        || text.parse::<age::tagpq::Recipient>().is_ok();
    if is_own {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| unusable(key, format!("{text:?} is not an age recipient (age1…)")))
}

fn parse_recipient(key: &str, text: &str) -> Result<Box<dyn age::Recipient + Send>, KeyError> {
    if let Ok(native) = text.parse::<age::x25519::Recipient>() {
        return Ok(Box::new(native));
    }
    if let Ok(tagged) = text.parse::<age::tag::Recipient>() {
        return Ok(Box::new(tagged));
    }
    if let Ok(tagged) = text.parse::<age::tagpq::Recipient>() {
        return Ok(Box::new(tagged));
    }
    let Some(plugin) = plugin_of(key, text)? else {
        return Err(unusable(key, format!("{text:?} is not an age recipient (age1…)")));
    };
    let name = plugin.plugin().to_owned();
    let wrapped = age::plugin::RecipientPluginV1::new(&name, &[plugin], &[], SilentCallbacks)
        .map_err(|_| {
            unusable(
                key,
                format!(
                    "recipient {text:?} needs the program age-plugin-{name}, which is not in PATH"
                ),
            )
        })?;
    Ok(Box::new(wrapped))
}

/// Nobody is there to answer a plugin's questions.
#[derive(Clone, Copy)]
struct SilentCallbacks;

impl age::Callbacks for SilentCallbacks {
    fn display_message(&self, message: &str) {
        tracing::info!(message, "an age plugin says");
    }
    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }
    fn request_public_string(&self, _: &str) -> Option<String> {
        None
    }
    fn request_passphrase(&self, _: &str) -> Option<SecretString> {
        None
    }
}

/// First eight bytes of the SHA-256 of a recipient's text, in hexadecimal: tells keys apart, cannot
/// be attacked.
#[must_use]
pub fn recipient_tag(text: &str) -> String {
    hex::encode(&digest::digest(&digest::SHA256, text.as_bytes()).as_ref()[..8])
}

#[async_trait]
impl WrappingKey for RecipientsKey {
    fn name(&self) -> &str {
        &self.name
    }
    fn opens_with(&self) -> SlotKind {
        SlotKind::Age { recipients: self.texts.iter().map(|text| recipient_tag(text)).collect() }
    }
    fn extension(&self) -> &'static str {
        "age"
    }
    async fn wrap(
        &self,
        identity: &BackupIdentity,
        _: &EncryptionContext,
    ) -> Result<WrappedIdentity, KeyError> {
        let refused = |why: String| KeyError::Refused {
            key: self.name.clone(),
            what: "wrap an identity",
            why,
        };
        let recipients = self.parse()?;
        let encryptor = age::Encryptor::with_recipients(
            recipients.iter().map(|r| r.as_ref() as &dyn age::Recipient),
        )
        .map_err(|e| refused(e.to_string()))?;
        let mut slot = Vec::new();
        let seal = |slot: &mut Vec<u8>| -> std::io::Result<()> {
            let armor =
                age::armor::ArmoredWriter::wrap_output(slot, age::armor::Format::AsciiArmor)?;
            let mut stream = encryptor.wrap_output(armor)?;
            stream.write_all(identity.to_text().expose_secret().as_bytes())?;
            stream.finish()?.finish()?;
            Ok(())
        };
        seal(&mut slot).map_err(|e| refused(e.to_string()))?;
        if slot.len() > SLOT_BYTES_MAX {
            return Err(refused(format!(
                "its {} recipients make a slot of {} bytes, and none of more than {SLOT_BYTES_MAX} would be opened",
                recipients.len(),
                slot.len()
            )));
        }
        Ok(WrappedIdentity::from_key(slot))
    }
}

/// Bytes of a slot file. age reads a header anew for each byte that it lacks, so it is not given
/// one without end.
const SLOT_BYTES_MAX: usize = 64 * 1024;

/// An identity file that opens slots of kind `age`: the local identity, or the recovery key given
/// on the command line.
pub struct IdentityFile {
    name: String,
    path: PathBuf,
}

impl IdentityFile {
    /// Names an identity file; it is read when it is needed.
    #[must_use]
    pub fn new(name: &str, path: &Path) -> Self {
        Self { name: name.to_owned(), path: path.to_owned() }
    }

    fn load(&self) -> Result<Vec<Box<dyn age::Identity + Send + Sync>>, KeyError> {
        identities(
            &self.name,
            &read_secret_file(&self.name, &self.path)?,
            &self.path.display().to_string(),
        )
    }

    /// The recipient of the file's first native identity, in text form.
    ///
    /// # Errors
    /// [`KeyError::Unusable`] if the file cannot be read or holds no native identity.
    pub fn recipient(&self) -> Result<String, KeyError> {
        let text = read_secret_file(&self.name, &self.path)?;
        let identity = text
            .expose_secret()
            .lines()
            .find_map(|line| line.trim().parse::<age::x25519::Identity>().ok());
        identity.map(|identity| identity.to_public().to_string()).ok_or_else(|| {
            unusable(
                &self.name,
                format!("{} holds no age identity (AGE-SECRET-KEY-1…)", self.path.display()),
            )
        })
    }
}

/// Reads a file that holds a secret, and refuses one that others may read.
pub(super) fn read_secret_file(key: &str, path: &Path) -> Result<SecretString, KeyError> {
    use std::os::unix::fs::PermissionsExt;
    let problem = |why: String| unusable(key, format!("{}: {why}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => problem("the file is missing. lifeboat does not make a new key where backups may be sealed to the old one; bring the file back, or open backups with another slot".to_owned()),
        _ => problem(error.to_string()),
    })?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(problem(format!(
            "others may read this secret file (mode {:03o}); run: chmod 600 {}",
            metadata.permissions().mode() & 0o777,
            path.display()
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
    Ok(SecretString::from(text))
}

/// Reads identities from the text of an identity file that stands at `place`.
fn identities(
    name: &str,
    text: &SecretString,
    place: &str,
) -> Result<Vec<Box<dyn age::Identity + Send + Sync>>, KeyError> {
    let file = age::IdentityFile::from_buffer(text.expose_secret().as_bytes())
        .map_err(|_| unusable(name, format!("{place} is not an age identity file")))?;
    file.with_callbacks(SilentCallbacks)
        .into_identities()
        .map_err(|error| unusable(name, format!("{place}: {error}")))
}

/// An identity that is held in memory only: a recovery key that was typed, and stands in no file of
/// this host.
pub struct IdentityText {
    name: String,
    text: SecretString,
}

impl IdentityText {
    /// Takes the text of an identity file.
    ///
    /// # Errors
    /// [`KeyError::Unusable`] if it is none; the message holds nothing of it.
    pub fn new(name: &str, text: SecretString) -> Result<Self, KeyError> {
        let own = Self { name: name.to_owned(), text };
        match identities(name, &own.text, "what was given") {
            Ok(found) if !found.is_empty() => Ok(own),
            _ => Err(unusable(
                name,
                "what was given is not an age identity (AGE-SECRET-KEY-1…)".to_owned(),
            )),
        }
    }
}

#[async_trait]
impl SlotOpener for IdentityText {
    fn name(&self) -> &str {
        &self.name
    }
    fn may_prompt(&self) -> bool {
        memchr::memmem::find(self.text.expose_secret().as_bytes(), b"AGE-PLUGIN-").is_some()
    }
    async fn unwrap(
        &self,
        slot: &Slot,
        bytes: &[u8],
        _: &EncryptionContext,
    ) -> Result<UnwrapOutcome, KeyError> {
        if !matches!(slot.opens_with, SlotKind::Age { .. }) {
            return Ok(UnwrapOutcome::NotMine);
        }
        open_slot(&self.name, identities(&self.name, &self.text, "what was given")?, bytes)
    }
}

#[async_trait]
impl SlotOpener for IdentityFile {
    fn name(&self) -> &str {
        &self.name
    }
    fn may_prompt(&self) -> bool {
        std::fs::read(&self.path)
            .map(zeroize::Zeroizing::new)
            .is_ok_and(|text| memchr::memmem::find(&text, b"AGE-PLUGIN-").is_some())
    }
    async fn unwrap(
        &self,
        slot: &Slot,
        bytes: &[u8],
        _: &EncryptionContext,
    ) -> Result<UnwrapOutcome, KeyError> {
        if !matches!(slot.opens_with, SlotKind::Age { .. }) {
            return Ok(UnwrapOutcome::NotMine);
        }
        let (name, identities, bytes) = (self.name.clone(), self.load()?, bytes.to_vec());
        // A plugin is a program, which is waited for.
        let opened =
            tokio::task::spawn_blocking(move || open_slot(&name, identities, &bytes)).await;
        opened.unwrap_or_else(|_| {
            Err(unusable(&self.name, "the thread that opens slots died".to_owned()))
        })
    }
}

fn open_slot(
    name: &str,
    identities: Vec<Box<dyn age::Identity + Send + Sync>>,
    bytes: &[u8],
) -> Result<UnwrapOutcome, KeyError> {
    let refused =
        |why: String| KeyError::Refused { key: name.to_owned(), what: "unwrap the identity", why };
    if bytes.len() > SLOT_BYTES_MAX {
        return Err(refused(format!("a slot of {} bytes is none of ours", bytes.len())));
    }
    let decryptor = age::Decryptor::new(age::armor::ArmoredReader::new(bytes))
        .map_err(|e| refused(e.to_string()))?;
    let stream =
        match decryptor.decrypt(identities.iter().map(|i| i.as_ref() as &dyn age::Identity)) {
            Ok(stream) => stream,
            Err(age::DecryptError::NoMatchingKeys) => return Ok(UnwrapOutcome::NotMine),
            Err(error) => return Err(refused(error.to_string())),
        };
    let mut text = zeroize::Zeroizing::new(String::new());
    stream
        .take(IDENTITY_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|e| refused(e.to_string()))?;
    BackupIdentity::from_text(&text)
        .map(UnwrapOutcome::Identity)
        .map_err(|e| refused(e.to_string()))
}

/// The local identity as a wrapping key: its recipient is derived when needed, so that a missing
/// file is an error of the verb that needs it and not of every command.
pub struct LocalIdentity {
    name: String,
    path: PathBuf,
}

impl LocalIdentity {
    /// Names the identity file.
    #[must_use]
    pub fn new(name: &str, path: &Path) -> Self {
        Self { name: name.to_owned(), path: path.to_owned() }
    }
}

#[async_trait]
impl WrappingKey for LocalIdentity {
    fn name(&self) -> &str {
        &self.name
    }
    fn opens_with(&self) -> SlotKind {
        let recipient = IdentityFile::new(&self.name, &self.path).recipient().unwrap_or_default();
        SlotKind::Age { recipients: vec![recipient_tag(&recipient)] }
    }
    fn extension(&self) -> &'static str {
        "age"
    }
    async fn wrap(
        &self,
        identity: &BackupIdentity,
        context: &EncryptionContext,
    ) -> Result<WrappedIdentity, KeyError> {
        let recipient = IdentityFile::new(&self.name, &self.path).recipient()?;
        RecipientsKey::new(&self.name, vec![recipient])?.wrap(identity, context).await
    }
}

/// A new identity that stands in no file yet: its text as in an identity file, and its recipient.
#[must_use]
pub fn new_identity(comment: &str) -> (SecretString, String) {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let text = format!(
        "# {comment}\n# public key: {recipient}\n{}\n",
        identity.to_string().expose_secret()
    );
    (SecretString::from(text), recipient)
}

/// Writes a new identity file, readable by its owner only, and returns its recipient. Never
/// overwrites.
///
/// # Errors
/// The error of the file system; `AlreadyExists` if there is a file.
pub fn create_identity_file(path: &Path, comment: &str) -> std::io::Result<String> {
    let (text, recipient) = new_identity(comment);
    super::sign::write_secret_file(path, text.expose_secret().as_bytes())?;
    Ok(recipient)
}

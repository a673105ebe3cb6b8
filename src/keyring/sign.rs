//! Signatures: who published this, checked against keys pinned outside the vault.
//!
//! A signature is a raw detached file, so that `openssl` verifies it. Two kinds: Ed25519 from a
//! local PKCS#8 file, and ECDSA P-256 with SHA-256 from a KMS key. Documents name their own format,
//! vault, datastore and id, so a signature of one cannot stand under another.

use std::io::Write;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use async_trait::async_trait;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::age_key::read_secret_file;
use super::{KeyError, KeyLifetime};

/// Signs what is published.
#[async_trait]
pub trait Signer: Send + Sync {
    /// Name for messages.
    fn name(&self) -> String;
    /// A raw signature of the bytes.
    async fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, KeyError>;
    /// The public half.
    async fn public(&self) -> Result<PublicKey, KeyError>;
    /// How long it can be used.
    async fn life(&self) -> Result<KeyLifetime, KeyError> {
        Ok(KeyLifetime::Unlimited)
    }
}

/// A public key that signatures are believed under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: PublicKind,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PublicKind {
    Ed25519,
    EcdsaP256,
}

/// `SubjectPublicKeyInfo` up to the key itself, RFC 8410 and RFC 5480.
const ED25519_INFO: &[u8] =
    &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const P256_INFO: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl PublicKey {
    fn of(pair: &Ed25519KeyPair) -> Self {
        Self { kind: PublicKind::Ed25519, bytes: pair.public_key().as_ref().to_vec() }
    }

    /// Reads a PEM `PUBLIC KEY` (Ed25519 or ECDSA P-256), or the same base64 on one line.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let base64: String =
            text.lines().map(str::trim).filter(|l| !l.starts_with("-----")).collect();
        let der = STANDARD.decode(base64).map_err(|_| "it is not a PEM public key".to_owned())?;
        Self::from_der(&der)
    }

    /// Reads a DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// If it is neither Ed25519 nor ECDSA P-256.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        for (info, kind, length) in
            [(ED25519_INFO, PublicKind::Ed25519, 32), (P256_INFO, PublicKind::EcdsaP256, 65)]
        {
            if let Some(bytes) = der.strip_prefix(info).filter(|b| b.len() == length) {
                return Ok(Self { kind, bytes: bytes.to_vec() });
            }
        }
        Err("it is neither an Ed25519 nor an ECDSA P-256 public key".to_owned())
    }

    /// The key on one line, as it is pinned in configuration and given to `--trust-key`.
    #[must_use]
    pub fn to_line(&self) -> String {
        STANDARD.encode(self.to_der())
    }

    /// The key as a PEM file, for `openssl`.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &self.to_der())
    }

    fn to_der(&self) -> Vec<u8> {
        let info = match self.kind {
            PublicKind::Ed25519 => ED25519_INFO,
            PublicKind::EcdsaP256 => P256_INFO,
        };
        [info, &self.bytes].concat()
    }

    /// The `openssl` command line that verifies a raw signature under this key.
    #[must_use]
    pub fn openssl_command(&self, key: &str, file: &str) -> String {
        match self.kind {
            PublicKind::Ed25519 => format!(
                "openssl pkeyutl -verify -pubin -inkey {key} -rawin -in {file} -sigfile {file}.sig"
            ),
            PublicKind::EcdsaP256 => {
                format!("openssl dgst -sha256 -verify {key} -signature {file}.sig {file}")
            }
        }
    }

    /// Whether `signature` is this key's signature of `bytes`.
    #[must_use]
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let verified = match self.kind {
            PublicKind::Ed25519 => {
                UnparsedPublicKey::new(&ED25519, &self.bytes).verify(bytes, signature)
            }
            PublicKind::EcdsaP256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.bytes)
                .verify(bytes, signature),
        };
        verified.is_ok()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The keys that are pinned. None at all means that nothing read can be verified, and whoever
/// restores is told so.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys {
    keys: Vec<PublicKey>,
    until: Vec<(PublicKey, Timestamp)>,
}

impl TrustedKeys {
    /// These keys.
    #[must_use]
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self { keys, until: Vec::new() }
    }
    /// The same, of which some are believed only in what was stored before a time.
    #[must_use]
    pub fn until(self, until: Vec<(PublicKey, Timestamp)>) -> Self {
        Self { until, ..self }
    }
    /// From when on a key is not believed any more; what was stored before stays believed.
    #[must_use]
    pub fn distrusted_from(&self, key: &PublicKey) -> Option<Timestamp> {
        self.until.iter().filter(|(other, _)| other == key).map(|(_, from)| *from).min()
    }
    /// One more.
    pub fn add(&mut self, key: PublicKey) {
        self.keys.push(key);
    }
    /// Whether no key is pinned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }
    /// The key that made this signature, if it is believed in what is stored at `now`.
    ///
    /// # Errors
    /// Why it is not, in words.
    pub fn signer_at(
        &self,
        bytes: &[u8],
        signature: &[u8],
        now: Timestamp,
    ) -> Result<&PublicKey, String> {
        let signer = self
            .signer_of(bytes, signature)
            .ok_or_else(|| "its public half is not in trust = […]".to_owned())?;
        match self.distrusted_from(signer).filter(|from| *from <= now) {
            Some(from) => Err(format!("lifeboat.toml distrusts it in everything since {from}")),
            None => Ok(signer),
        }
    }
    /// The key that made this signature, if it is one of these.
    #[must_use]
    pub fn signer_of(&self, bytes: &[u8], signature: &[u8]) -> Option<&PublicKey> {
        self.keys.iter().find(|key| key.verifies(bytes, signature))
    }
}

/// An Ed25519 key in a local PKCS#8 PEM file.
pub struct SigningFile {
    path: PathBuf,
}

impl SigningFile {
    /// Names a key file; it is read when it is needed.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn load(&self) -> Result<Ed25519KeyPair, KeyError> {
        let text = read_secret_file("signing", &self.path)?;
        let base64: zeroize::Zeroizing<String> = zeroize::Zeroizing::new(
            text.expose_secret()
                .lines()
                .map(str::trim)
                .filter(|l| !l.starts_with("-----"))
                .collect(),
        );
        let unusable = |_| KeyError::Unusable {
            key: "signing".to_owned(),
            why: format!(
                "{} is not an Ed25519 private key in PKCS#8 PEM form",
                self.path.display()
            ),
        };
        let der =
            zeroize::Zeroizing::new(STANDARD.decode(base64.as_bytes()).map_err(|_| unusable(()))?);
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| unusable(()))
    }
}

#[async_trait]
impl Signer for SigningFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }
    async fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.load()?.sign(bytes).as_ref().to_vec())
    }
    async fn public(&self) -> Result<PublicKey, KeyError> {
        Ok(PublicKey::of(&self.load()?))
    }
}

/// An Ed25519 key that lives as long as a process: no file ever holds it.
pub struct EphemeralKey(Ed25519KeyPair);

impl EphemeralKey {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::Unusable`] if the system has no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let unusable = |_| KeyError::Unusable {
            key: "agent".to_owned(),
            why: "the system's random numbers are not available".to_owned(),
        };
        Ed25519KeyPair::generate().map(Self).map_err(unusable)
    }
    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey::of(&self.0)
    }
    /// A raw signature of the bytes.
    #[must_use]
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes).as_ref().to_vec()
    }
}

/// Makes a new Ed25519 key file, readable by its owner only, and returns its public half. Never
/// overwrites.
///
/// # Errors
/// The error of the file system; `AlreadyExists` if there is a file.
pub fn create_signing_file(path: &Path) -> std::io::Result<PublicKey> {
    let failed = |_| std::io::Error::other("the system's random numbers are not available");
    let pair = Ed25519KeyPair::generate().map_err(failed)?;
    let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair)
        .map_err(failed)?;
    let text = zeroize::Zeroizing::new(pem("PRIVATE KEY", der.as_ref()));
    write_secret_file(path, text.as_bytes())?;
    Ok(PublicKey::of(&pair))
}

/// Writes a file that only its owner may read, synced, never over another.
///
/// # Errors
/// The error of the file system; `AlreadyExists` if there is a file.
pub fn write_secret_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signature_is_believed_under_its_key_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let (own, other) = (directory.path().join("a.pem"), directory.path().join("b.pem"));
        let public = create_signing_file(&own).unwrap();
        let stranger = create_signing_file(&other).unwrap();
        let signature = SigningFile::new(&own).sign(b"bytes").await.unwrap();
        assert!(public.verifies(b"bytes", &signature));
        assert!(!public.verifies(b"other bytes", &signature));
        assert!(!stranger.verifies(b"bytes", &signature));
        assert_eq!(PublicKey::from_text(&public.to_pem()).unwrap(), public);
        assert_eq!(PublicKey::from_text(&public.to_line()).unwrap(), public);
        assert_eq!(
            create_signing_file(&own).unwrap_err().kind(),
            std::io::ErrorKind::AlreadyExists
        );
    }

    #[tokio::test]
    async fn a_key_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.pem");
        create_signing_file(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = SigningFile::new(&path).sign(b"x").await.unwrap_err().to_string();
        assert!(error.contains("others may read") && error.contains("chmod 600"), "{error}");
    }
}

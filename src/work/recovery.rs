//! The offline recovery key: made once, printed once, tested again and again.
//!
//! It is the second, independent way to open every backup. Nothing of it stays on this host unless
//! somebody names a file: [`new`] returns the text to be printed, [`prove`] holds it in memory
//! while it opens the newest backup of every datastore.

use std::sync::Arc;

use age::secrecy::{ExposeSecret, SecretString};
use maud::{DOCTYPE, PreEscaped, html};
use qrcode::{QrCode, render};
use serde::Serialize;

use super::{WorkContext, WorkError, shelf};
use crate::config::{KeyConfig, KeyKind};
use crate::domain::id::{BackupId, DatastoreName, VaultId};
use crate::domain::layout::{MANIFESTS, parse_manifest_key};
use crate::domain::manifest::PayloadRole;
use crate::domain::selector::BackupSelector;
use crate::keyring::SlotOpener;
use crate::keyring::age_key::{IdentityText, new_identity};
use crate::keyring::sign::{PublicKey, write_secret_file};
use crate::work::verify::payload_of;

/// Colours that any printer knows; the page needs nothing from anywhere.
const CARD_STYLE: &str = "body{font:11pt/1.45 sans-serif;max-width:17cm;margin:1.5cm auto;color:#000;background:#fff}h1{font-size:16pt}
code,pre{font:9.5pt/1.4 monospace;overflow-wrap:anywhere;white-space:pre-wrap}pre{border:1px solid #888;padding:.3cm}
.key{clear:both;font-size:11pt;font-weight:bold}.key code{white-space:nowrap}.qr{float:right;width:4.6cm;margin:0 0 .4cm .6cm}.qr svg{width:100%;height:auto}
@media print{body{margin:0}}";

/// A new recovery key and the card that goes into the safe.
pub struct RecoveryKey {
    /// Its public half, for lifeboat.toml.
    pub recipient: String,
    /// The card as text, the secret in it.
    pub card: SecretString,
    /// The card as a page to be printed, the secret in it.
    page: SecretString,
    /// The identity file.
    text: SecretString,
}

/// Makes a key. Nothing is written.
///
/// # Errors
/// [`WorkError::Bug`] if it cannot be drawn.
pub fn new(rig: &WorkContext) -> Result<RecoveryKey, WorkError> {
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let (text, recipient) = new_identity(&format!("lifeboat recovery key, made {today}"));
    let secret = text.expose_secret().lines().last().unwrap_or_default().to_owned();
    // The bech32 of a secret key is upper case, which a QR code holds in fewer dots.
    let code = QrCode::new(secret.as_bytes()).map_err(|error| WorkError::Bug(error.to_string()))?;
    let trust = rig.trusted.keys().to_vec();
    let copies = rig.replicas.values().map(|vault| vault.address()).collect();
    let facts = CardFacts {
        today,
        vault: rig.vault.address(),
        id: rig.config.vault_id.clone(),
        copies,
        recipient: recipient.clone(),
        trust,
    };
    let blocks = code.render::<render::unicode::Dense1x2>().quiet_zone(true).build();
    let card = format!(
        "{}\n\n  {secret}\n\n{blocks}\n\n{}\n",
        facts.heading().join("\n"),
        facts.instructions().iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    );
    let svg = code.render::<render::svg::Color<'_>>().min_dimensions(200, 200).build();
    Ok(RecoveryKey {
        recipient,
        card: SecretString::from(card),
        page: SecretString::from(facts.page(&secret, &svg)),
        text,
    })
}

impl RecoveryKey {
    /// Writes the key as an identity file that only its owner may read; never over another file.
    ///
    /// # Errors
    /// [`WorkError::File`]
    pub fn write(&self, file: &std::path::Path) -> Result<(), WorkError> {
        write(file, &self.text)
    }

    /// Writes the card as a page, likewise.
    ///
    /// # Errors
    /// [`WorkError::File`]
    pub fn write_card(&self, file: &std::path::Path) -> Result<(), WorkError> {
        write(file, &self.page)
    }
}

fn write(file: &std::path::Path, text: &SecretString) -> Result<(), WorkError> {
    write_secret_file(file, text.expose_secret().as_bytes()).map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => WorkError::Refused {
            what: format!("writing {}", file.display()),
            why: "the file exists already, and a key is never written over another".to_owned(),
            hint: "name a file that does not exist yet".to_owned(),
        },
        _ => WorkError::File { what: format!("writing {}", file.display()), source },
    })
}

/// What stands on a card beside the key.
struct CardFacts {
    today: String,
    vault: String,
    /// Its id, where that is pinned.
    id: Option<VaultId>,
    /// Addresses of copies of the vault.
    copies: Vec<String>,
    recipient: String,
    trust: Vec<PublicKey>,
}

impl CardFacts {
    fn heading(&self) -> Vec<String> {
        vec![
            "LIFEBOAT RECOVERY KEY".to_owned(),
            format!("made {} for vault {}", self.today, self.vault),
            "Whoever holds this key can read every backup that is sealed to it. Keep it offline, in a safe, in two places.".to_owned(),
        ]
    }

    /// What to do with it, with lifeboat and without.
    fn instructions(&self) -> Vec<String> {
        let mut lines = vec![
            format!("public half   {}", self.recipient),
            format!("vault         {}", self.vault),
        ];
        lines.extend(self.id.iter().map(|id| format!("its id        {id}")));
        lines.extend(self.copies.iter().map(|copy| format!("its copy      {copy}")));
        for key in &self.trust {
            lines.push("signing key   these lines, as a file trusted.pem:".to_owned());
            lines.extend(key.to_pem().lines().map(str::to_owned));
        }
        lines.extend([
            String::new(),
            "With lifeboat, on any host: put the key into a file recovery.txt (chmod 600), then".to_owned(),
            format!(
                "  lifeboat restore DATASTORE --vault {} --identity recovery.txt --trust-key trusted.pem --to postgres:///DATASTORE --plan",
                self.vault.trim_start_matches("file://")
            ),
            "Without lifeboat: fetch meta/DATASTORE/BACKUP/RESTORE.md and its .sig from the vault. Run nothing of it before this says"
                .to_owned(),
            "that it is genuine: it gets this key.".to_owned(),
        ]);
        lines.extend(
            self.trust
                .iter()
                .map(|key| format!("  {}", key.openssl_command("trusted.pem", "RESTORE.md"))),
        );
        lines.extend([
            "Then follow it with IDENTITY=recovery.txt TRUSTED_KEY=trusted.pem; it needs age, zstd, openssl, psql and pg_restore."
                .to_owned(),
            "The heart of it:".to_owned(),
            "  age -d -i recovery.txt SLOT.age > identity.txt".to_owned(),
            "  age -d -i identity.txt main.zst.age | zstd -d | pg_restore --exit-on-error --create --dbname postgres".to_owned(),
            "Twice a year: lifeboat recovery-key test < recovery.txt".to_owned(),
        ]);
        lines
    }

    fn page(&self, secret: &str, svg: &str) -> String {
        let heading = self.heading();
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    title { "lifeboat recovery key" }
                    style { (PreEscaped(CARD_STYLE)) }
                }
                body {
                    // From the first tag on: what comes before is a declaration of XML, which no
                    // page wants within.
                    div class="qr" { (PreEscaped(svg.find("<svg").map_or("", |at| &svg[at..]))) }
                    h1 { (heading[0]) }
                    @for line in &heading[1..] { p { (line) } }
                    p class="key" { code { (secret) } }
                    pre { (self.instructions().join("\n")) }
                }
            }
        }
        .into_string()
    }
}

/// What a recovery key did with the newest backup of a datastore.
#[derive(Debug, Serialize)]
pub struct RecoveryProof {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The backup; none if there is none that is believed.
    pub backup: Option<BackupId>,
    /// The slot that it opened.
    pub slot: Option<String>,
    /// Whether that slot is of a key that this host has itself, and so proves nothing of an
    /// offline key.
    pub is_local: bool,
    /// Why it did not.
    pub error: Option<String>,
}

/// Opens the newest backup of every datastore in the vault with one key and no other, and reads its
/// fingerprint with it.
///
/// # Errors
/// [`WorkError`] if the text is no key, or the vault cannot be read; a backup that does not open is
/// part of the result.
pub async fn prove(rig: &WorkContext, key: SecretString) -> Result<Vec<RecoveryProof>, WorkError> {
    let opener: Arc<dyn SlotOpener> = Arc::new(IdentityText::new("from standard input", key)?);
    let alone = WorkContext { openers: vec![opener], ..rig.clone() };
    let listed = rig.vault.list(MANIFESTS).await?;
    let names: std::collections::BTreeSet<DatastoreName> =
        listed.iter().filter_map(|facts| Some(parse_manifest_key(facts.key.as_str())?.0)).collect();
    let mut proofs = Vec::new();
    for datastore in names {
        let mut proof = RecoveryProof {
            datastore: datastore.clone(),
            backup: None,
            slot: None,
            is_local: false,
            error: None,
        };
        let opened = async {
            let believed =
                shelf::select(&alone, &datastore, &BackupSelector::Latest, &mut Vec::new()).await?;
            proof.backup = Some(believed.manifest.backup.clone());
            let opened = shelf::open_backup(&alone, &believed.manifest).await?;
            // The slot opened; that the identity in it is the right one, only a payload proves.
            shelf::read_payload(
                &alone,
                payload_of(&believed.manifest, PayloadRole::Fingerprint)?,
                &opened.identity,
            )
            .await?;
            Ok::<_, WorkError>(opened.slot)
        };
        match opened.await {
            Ok(slot) => {
                let local = |key: &&KeyConfig| {
                    matches!(key.kind, KeyKind::AgeIdentity(_)) && key.name == slot
                };
                proof.is_local = rig.config.keys.iter().any(|key| local(&key));
                proof.slot = Some(slot);
            }
            Err(WorkError::Vault(error)) if error.class().is_retryable() => {
                return Err(error.into());
            }
            Err(error) => proof.error = Some(error.to_string()),
        }
        proofs.push(proof);
    }
    Ok(proofs)
}

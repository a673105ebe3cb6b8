//! `lifeboat recovery-key`: make the offline key, and prove that it opens what it should.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use age::secrecy::{ExposeSecret, SecretString};
use clap::Subcommand;
use serde_json::json;

use super::arguments::OpenArgs;
use super::exit::ExitKind;
use super::print::{self, CommandFailure, print_output, print_status, table};
use super::run::CommandContext;
use crate::work::{WorkError, recovery};

/// Bytes of an identity file that are read.
const KEY_BYTES_MAX: u64 = 16 * 1024;

/// What can be done with recovery keys.
#[derive(Debug, Subcommand)]
pub enum RecoveryVerb {
    /// Make a recovery key and print it, once, as a card for the safe. It stays in no file unless
    /// one is named.
    #[command(
        after_help = "Examples:\n  lifeboat recovery-key new | lpr\n  lifeboat recovery-key new --card /media/usb/card.html --out /media/usb/recovery.txt"
    )]
    New {
        /// Write it as an age identity file, too.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write the card as a page to be printed instead of printing it here.
        #[arg(long, value_name = "FILE")]
        card: Option<PathBuf>,
    },
    /// Prove that a recovery key opens the newest backup of every datastore. The key is read from
    /// standard input, and kept nowhere.
    #[command(
        after_help = "Examples:\n  lifeboat recovery-key test < /media/usb/recovery.txt\n  lifeboat recovery-key test    # and type it from the card"
    )]
    Test,
}

pub(super) async fn run(
    start: &CommandContext,
    verb: RecoveryVerb,
) -> Result<ExitKind, CommandFailure> {
    let rig = start.rig(&OpenArgs::default()).await?;
    match verb {
        RecoveryVerb::New { out, card } => {
            let key = recovery::new(&rig)?;
            if let Some(file) = &out {
                key.write(file)?;
            }
            match &card {
                Some(file) => key.write_card(file)?,
                None if start.json => {}
                None => print_output(key.card.expose_secret()),
            }
            if start.json {
                print::json(&json!({ "recipient": key.recipient, "key": out, "card": card }));
            }
            for file in out.iter().chain(&card) {
                print_status(&format!(
                    "wrote {}: bring it offline, and remove it here",
                    file.display()
                ));
            }
            print_status("lifeboat itself keeps nothing of it. Next:");
            print_status(&format!(
                "  - add \"{}\" to recipients = […] of [keys.recovery] in lifeboat.toml (kind = \"age\")",
                key.recipient
            ));
            print_status(
                "    (a recipient that is taken out there is retired: only if that key is lost)",
            );
            print_status(
                "  - `lifeboat rekey --confirm` gives it to the backups that are there already",
            );
            print_status(
                "  - `lifeboat recovery-key test` proves that it opens them; then bring it to the safe",
            );
            Ok(ExitKind::Done)
        }
        RecoveryVerb::Test => {
            let proofs = recovery::prove(&rig, read_key()?).await?;
            if start.json {
                print::json(&proofs);
            } else {
                let row = |proof: &recovery::RecoveryProof| {
                    let backup = proof.backup.as_ref().map_or("-".to_owned(), ToString::to_string);
                    let answer = match (&proof.slot, &proof.error) {
                        (Some(slot), _) if proof.is_local => {
                            format!(
                                "opens, slot {slot}: but that is this host's own key, and lost with it"
                            )
                        }
                        (Some(slot), _) => format!("opens, slot {slot}"),
                        (None, error) => format!(
                            "DOES NOT OPEN: {}",
                            error.as_deref().unwrap_or("nobody knows why")
                        ),
                    };
                    vec![proof.datastore.to_string(), backup, answer]
                };
                print_output(&table(
                    &["DATASTORE", "NEWEST BACKUP", "THIS KEY"],
                    proofs.iter().map(row).collect(),
                ));
            }
            let closed: Vec<&str> = proofs
                .iter()
                .filter(|proof| proof.slot.is_none())
                .map(|proof| proof.datastore.as_str())
                .collect();
            if proofs.is_empty() {
                return Err(WorkError::NotVerified(
                    "there is no backup in the vault that it could open".to_owned(),
                )
                .into());
            }
            if proofs.iter().any(|proof| proof.is_local) {
                return Err(WorkError::NotVerified(
                    "this is a key of this host: it proves nothing of the offline one".to_owned(),
                )
                .into());
            }
            match closed.is_empty() {
                true => Ok(ExitKind::Done),
                false => Err(WorkError::KeyFails { datastores: closed.join(", ") }.into()),
            }
        }
    }
}

/// Reads the key: from a pipe or file as it comes, from a terminal without showing it.
fn read_key() -> Result<SecretString, WorkError> {
    let fail =
        |source| WorkError::File { what: "reading the key from standard input".to_owned(), source };
    let stdin = std::io::stdin();
    let mut text = zeroize::Zeroizing::new(String::new());
    if !stdin.is_terminal() {
        stdin.take(KEY_BYTES_MAX).read_to_string(&mut text).map_err(fail)?;
        return Ok(SecretString::from(text.as_str().to_owned()));
    }
    let _ = write!(std::io::stderr(), "the key (AGE-SECRET-KEY-1…; it is not shown): ");
    let before = rustix::termios::tcgetattr(&stdin).map_err(|error| fail(error.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
    rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Flush, &silent)
        .map_err(|error| fail(error.into()))?;
    let read = stdin.read_line(&mut text);
    let _ = rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Flush, &before);
    print_status("");
    read.map_err(fail)?;
    Ok(SecretString::from(text.trim().to_ascii_uppercase()))
}

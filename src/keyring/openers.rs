//! Opening an envelope: every signed envelope, newest first, every slot, every opener, until one fits.

use std::sync::Arc;

use super::{KeyError, Opener, Unwrapped};
use crate::domain::Trouble;
use crate::domain::envelope::{Context, Envelope, Slot};
use crate::seal::Identity;

/// Why no slot opened.
#[derive(Debug, thiserror::Error)]
#[error("no key opens backup {backup}: {}", tried.join("; "))]
pub struct NothingOpens {
    backup: String,
    tried: Vec<String>,
    unavailable: bool,
}

impl NothingOpens {
    /// Class of the error: unavailable only if a key that may fit could not be reached.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        if self.unavailable { Trouble::Unavailable } else { Trouble::KeyRefused }
    }
}

/// A slot of a believed envelope with its bytes, which tally with the envelope.
pub struct SlotBytes {
    /// The slot.
    pub slot: Slot,
    /// Its file.
    pub bytes: Vec<u8>,
}

/// Tries openers on slots; returns the identity and the name of the slot that gave it.
///
/// # Errors
/// [`NothingOpens`] with what each attempt said.
pub async fn open(
    context: &Context,
    envelopes: &[(Envelope, Vec<SlotBytes>)],
    openers: &[Arc<dyn Opener>],
) -> Result<(Identity, String), NothingOpens> {
    let mut tried = Vec::new();
    let mut unavailable = false;
    for (envelope, slots) in envelopes {
        for SlotBytes { slot, bytes } in slots {
            for opener in openers {
                match opener.unwrap(slot, bytes, context).await {
                    Ok(Unwrapped::Identity(identity)) => return Ok((identity, slot.name.clone())),
                    Ok(Unwrapped::NotMine) => {
                        tried.push(format!("{} does not fit slot {} of envelope {}", opener.name(), slot.name, envelope.number))
                    }
                    Err(error) => {
                        unavailable |= matches!(error, KeyError::Unavailable { .. });
                        tried.push(error.to_string());
                    }
                }
            }
        }
    }
    if openers.is_empty() {
        tried.push("no key that can open is configured, and no --identity was given".to_owned());
    }
    Err(NothingOpens { backup: context.backup.to_string(), tried, unavailable })
}

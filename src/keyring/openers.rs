//! Opening an envelope: every signed envelope, newest first, every slot, every key, until one
//! opens.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::{KeyError, SlotOpener, UnwrapOutcome};
use crate::domain::ErrorClass;
use crate::domain::envelope::{EncryptionContext, Envelope, Slot};
use crate::seal::BackupIdentity;

/// How long a key may be silent before the next one is asked as well.
const SILENCE: Duration = Duration::from_secs(3);

/// Why no slot opened.
#[derive(Debug, thiserror::Error)]
#[error("no key opens backup {backup}: {}", tried.join("; "))]
pub struct NoKeyOpens {
    backup: String,
    tried: Vec<String>,
    unavailable: bool,
    unusable: bool,
}

impl NoKeyOpens {
    /// Whether a key could not be tried on this host: a file that is missing, or that others may
    /// read.
    #[must_use]
    pub fn is_of_this_host(&self) -> bool {
        self.unusable
    }

    /// Class of the error: unavailable only if a key that may fit could not be reached.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        if self.unavailable { ErrorClass::Unavailable } else { ErrorClass::KeyRefused }
    }
}

/// A slot of a believed envelope with its bytes, which tally with the envelope.
pub struct SlotBytes {
    /// The slot.
    pub slot: Slot,
    /// Its file.
    pub bytes: Vec<u8>,
}

/// What came of the attempts, a line for each key.
#[derive(Default)]
struct OpenAttempts {
    by_key: Vec<(String, Vec<String>)>,
    unavailable: bool,
    unusable: bool,
}

impl OpenAttempts {
    /// Takes the identity, or notes why there is none.
    fn take(
        &mut self,
        answer: Result<UnwrapOutcome, KeyError>,
        key: &str,
        envelope: &Envelope,
        slot: &Slot,
    ) -> Option<BackupIdentity> {
        let words = match answer {
            Ok(UnwrapOutcome::Identity(identity)) => return Some(identity),
            Ok(UnwrapOutcome::NotMine) => {
                format!("does not fit slot {} of envelope {}", slot.name, envelope.number)
            }
            Err(error) => {
                self.unavailable |= matches!(error, KeyError::Unavailable { .. });
                self.unusable |= matches!(error, KeyError::Unusable { .. });
                error.why()
            }
        };
        match self.by_key.iter_mut().find(|(known, _)| known == key) {
            Some((_, all)) if all.contains(&words) => {}
            Some((_, all)) => all.push(words),
            None => self.by_key.push((key.to_owned(), vec![words])),
        }
        None
    }
}

/// Tries openers on slots; returns the identity and the name of the slot that gave it.
///
/// # Errors
/// [`NoKeyOpens`] with what each attempt said.
pub async fn open(
    context: &EncryptionContext,
    envelopes: &[(Envelope, Vec<SlotBytes>)],
    openers: &[Arc<dyn SlotOpener>],
) -> Result<(BackupIdentity, String), NoKeyOpens> {
    let mut tried = OpenAttempts::default();
    let mut attempts = Vec::new();
    for (envelope, slots) in envelopes {
        for slot in slots {
            attempts.extend(openers.iter().map(|opener| (envelope, slot, opener)));
        }
    }
    let unwrap = |(envelope, slot, opener)| {
        let opener: &Arc<dyn SlotOpener> = opener;
        let slot: &SlotBytes = slot;
        async move {
            (opener.unwrap(&slot.slot, &slot.bytes, context).await, opener, envelope, &slot.slot)
        }
    };
    let (last, first): (Vec<_>, Vec<_>) =
        attempts.into_iter().partition(|(_, _, opener)| opener.may_prompt());
    // One after the other, but nobody waits for one that is silent: the next is asked beside it.
    let mut waiting = first.into_iter();
    let mut asked = FuturesUnordered::new();
    asked.extend(waiting.next().map(&unwrap));
    while !asked.is_empty() {
        let answered = tokio::select! {
            answered = asked.next() => answered,
            () = tokio::time::sleep(SILENCE), if waiting.len() > 0 => None,
        };
        if let Some((answer, opener, envelope, slot)) = answered
            && let Some(identity) = tried.take(answer, opener.name(), envelope, slot)
        {
            return Ok((identity, slot.name.clone()));
        }
        asked.extend(waiting.next().map(&unwrap));
    }
    for attempt in last {
        let (answer, opener, envelope, slot) = unwrap(attempt).await;
        if let Some(identity) = tried.take(answer, opener.name(), envelope, slot) {
            return Ok((identity, slot.name.clone()));
        }
    }
    let OpenAttempts { mut by_key, unavailable, unusable } = tried;
    if openers.is_empty() {
        by_key.push((
            "keys".to_owned(),
            vec!["no key that can open is configured, and no --identity was given".to_owned()],
        ));
    }
    let tried =
        by_key.into_iter().map(|(key, words)| format!("{key}: {}", words.join(", "))).collect();
    Err(NoKeyOpens { backup: context.backup.to_string(), tried, unavailable, unusable })
}

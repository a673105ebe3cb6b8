//! Key expiry: keys that will soon be unusable, or already are, reported before a restore needs
//! them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::WorkContext;
use crate::domain::alarm::{Alarm, AlarmKind};
use crate::keyring::{KeyError, KeyLifetime};

/// How long before the end somebody is told: a KMS key that is to be deleted waits for 7 to 30
/// days.
const NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Longer nobody waits for a key to say how it is.
const ASKED_MAX: Duration = Duration::from_secs(10);

/// Whether an end is near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyEnd {
    /// Within a month.
    Near,
    /// Now.
    Over,
    /// The key does not tell.
    NotTold,
}

/// A key of which an end is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndingKey {
    /// The key's name, or `signing`.
    pub key: String,
    /// Whether it is near.
    pub end: KeyEnd,
    /// In words.
    pub why: String,
    next_step: &'static str,
}

const RENEW: &str = "make a new one (lifeboat recovery-key new), change [keys.NAME] and expires in lifeboat.toml, then lifeboat rekey";
const CANCEL: &str = "aws kms cancel-key-deletion, then enable-key; if it is meant to go: another key in lifeboat.toml, then lifeboat rekey, before it is gone";
const SIGN: &str = "make a new signing key, name it in [signing], and keep the old public half in trust for what it has signed";

/// Asks every key that wraps, and the one that signs.
pub async fn endings(rig: &WorkContext, now: Timestamp) -> Vec<EndingKey> {
    let mut found = Vec::new();
    for settings in &rig.config.keys {
        if let Some(expires) = settings.expires {
            let words = |is_over| {
                let word = if is_over { "expired" } else { "expires" };
                format!("it {word} on {}, as lifeboat.toml says", expires.strftime("%F"))
            };
            found.extend(near(&settings.name, expires, now, words, RENEW));
        }
    }
    for key in &rig.keys {
        found.extend(told(key.name(), now, key.life()).await);
    }
    found.extend(told("signing", now, rig.signer.life()).await);
    if let Ok(public) = rig.signer.public().await
        && let Some(from) = rig.trusted.distrusted_from(&public)
    {
        let words = |is_over| {
            let word = if is_over { "is not" } else { "will not be" };
            format!(
                "what it signs {word} believed from {} on, as lifeboat.toml says",
                from.strftime("%F")
            )
        };
        found.extend(near("signing", from, now, words, SIGN));
    }
    found
}

async fn told(
    key: &str,
    now: Timestamp,
    life: impl Future<Output = Result<KeyLifetime, KeyError>>,
) -> Option<EndingKey> {
    let ending =
        |end, why: String, next_step| Some(EndingKey { key: key.to_owned(), end, why, next_step });
    match tokio::time::timeout(ASKED_MAX, life).await {
        Ok(Ok(KeyLifetime::Unlimited)) => None,
        Ok(Ok(KeyLifetime::Ends(at))) => ending(
            if at > now { KeyEnd::Near } else { KeyEnd::Over },
            format!("KMS deletes it at {at}, and it cannot be used meanwhile"),
            CANCEL,
        ),
        Ok(Ok(KeyLifetime::Over(why))) => ending(KeyEnd::Over, why, CANCEL),
        Ok(Err(error)) => ending(
            KeyEnd::NotTold,
            format!("{error}; whether it is to be deleted is not known without kms:DescribeKey"),
            "",
        ),
        Err(_) => ending(
            KeyEnd::NotTold,
            "it does not say in time whether it is to be deleted".to_owned(),
            "",
        ),
    }
}

fn near(
    key: &str,
    at: Timestamp,
    now: Timestamp,
    words: impl Fn(bool) -> String,
    next_step: &'static str,
) -> Option<EndingKey> {
    let is_over = at <= now;
    let end = if is_over { KeyEnd::Over } else { KeyEnd::Near };
    (at <= now + NOTICE).then(|| EndingKey {
        key: key.to_owned(),
        end,
        why: words(is_over),
        next_step,
    })
}

/// The same as alarms. One that does not tell is none: a role that may only wrap need not ask.
pub async fn alarms(rig: &WorkContext, now: Timestamp) -> Vec<Alarm> {
    let endings =
        endings(rig, now).await.into_iter().filter(|ending| ending.end != KeyEnd::NotTold);
    let alarm = |EndingKey { key, why, next_step, .. }| Alarm {
        kind: AlarmKind::Key,
        text: format!("key {key}: {why}"),
        subject: key,
        next_step: next_step.to_owned(),
    };
    endings.map(alarm).collect()
}

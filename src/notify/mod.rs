//! Transports of notifications. A failed or hanging delivery is a result like any other: the
//! message is kept and retried.
//!
//! No error here names an address: whoever knows a webhook's URL may use it.

pub mod command;
pub mod smtp;
#[cfg(feature = "aws")]
pub mod sns;
pub mod webhook;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::config::serve::UrlSource;
use crate::domain::alarm::{AlarmKind, AlarmMessage};
use crate::secret_files::{self, AllowedReaders};

/// How long one delivery may take.
pub const DELIVERY_MAX: Duration = Duration::from_secs(20);

/// A way to tell somebody.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Delivers a message. May be repeated after any error.
    ///
    /// # Errors
    /// Why not, without addresses and secrets.
    async fn send(&self, message: &AlarmMessage) -> Result<(), String>;
}

/// Something that misses us when we are silent.
#[async_trait]
pub trait Heartbeat: Send + Sync {
    /// Shows that somebody is alive.
    ///
    /// # Errors
    /// Why not, without the address.
    async fn beat(&self) -> Result<(), String>;
}

/// A way, its name, and what it wants to hear of.
#[derive(Clone)]
pub struct NotifyChannel {
    /// Its name in the configuration.
    pub name: String,
    /// What it is told of.
    pub on: BTreeSet<AlarmKind>,
    /// The way.
    pub way: Arc<dyn Transport>,
}

/// Everybody who can be told.
#[derive(Clone, Default)]
pub struct Notifier {
    /// Who gets messages.
    pub channels: Vec<NotifyChannel>,
    /// Who wants to hear that we are alive.
    pub pulses: Vec<Arc<dyn Heartbeat>>,
}

impl Notifier {
    /// Names of the channels that want to hear of something.
    #[must_use]
    pub fn who_wants(&self, kind: AlarmKind) -> Vec<String> {
        self.channels
            .iter()
            .filter(|channel| channel.on.contains(&kind))
            .map(|channel| channel.name.clone())
            .collect()
    }

    /// Delivers a message, within a time.
    ///
    /// # Errors
    /// Why not.
    pub async fn deliver(&self, channel: &str, message: &AlarmMessage) -> Result<(), String> {
        let Some(channel) = self.channels.iter().find(|known| known.name == channel) else {
            return Err("this channel is not configured any more".to_owned());
        };
        let sent = tokio::time::timeout(DELIVERY_MAX, channel.way.send(message)).await;
        sent.unwrap_or_else(|_| Err(format!("no answer within {} seconds", DELIVERY_MAX.as_secs())))
    }
}

/// An address, read when it is used: a file may be replaced while the program runs.
fn read_url(from: &UrlSource) -> Result<String, String> {
    match from {
        UrlSource::Text(text) => Ok(text.clone()),
        UrlSource::File(file) => read_secret(file),
    }
}

fn read_secret(file: &Path) -> Result<String, String> {
    Ok(secret_files::read(file, AllowedReaders::Owner)?.trim().to_owned())
}

//! A program that gets the message on its standard input.

use std::time::Duration;

use async_trait::async_trait;

use super::{DELIVERY_MAX, Transport};
use crate::domain::alarm::AlarmMessage;
use crate::program;

/// A little less than any message is given, so that it is the program that is named.
const LIMITS: program::ProgramLimits = program::ProgramLimits {
    within: Duration::from_secs(DELIVERY_MAX.as_secs() - 3),
    output_bytes: 64 * 1024,
};

/// A program and its arguments.
pub struct NotifyCommand(pub Vec<String>);

#[async_trait]
impl Transport for NotifyCommand {
    async fn send(&self, message: &AlarmMessage) -> Result<(), String> {
        let (program, arguments) = self.0.split_first().ok_or("the command is empty")?;
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .env("LIFEBOAT_ALARM_KIND", message.kind.name())
            .env("LIFEBOAT_ALARM_SUBJECT", &message.subject);
        let ended = program::run(command, message.text().as_bytes(), LIMITS)
            .await
            .map_err(|error| format!("{program:?}: {error}"))?;
        match ended.status.success() {
            true => Ok(()),
            false => Err(format!("{program:?} ended with {}: {}", ended.status, ended.complaint())),
        }
    }
}

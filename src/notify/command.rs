//! A program that gets the message on its standard input.

use std::process::Stdio;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;

use super::Way;
use crate::domain::alarm::Message;

/// Bytes of a program's complaint that are kept.
const COMPLAINT_BYTES_MAX: usize = 500;

/// A program and its arguments.
pub struct Program(pub Vec<String>);

#[async_trait]
impl Way for Program {
    async fn send(&self, message: &Message) -> Result<(), String> {
        let (program, arguments) = self.0.split_first().ok_or("the command is empty")?;
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).env("LIFEBOAT_ALARM_KIND", message.kind.name()).env("LIFEBOAT_ALARM_SUBJECT", &message.subject);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("{program:?} could not be started: {error}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input is not wrong for it.
            let _ = stdin.write_all(message.text().as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        let complaint: String = String::from_utf8_lossy(&output.stderr).chars().take(COMPLAINT_BYTES_MAX).collect();
        Err(format!("{program:?} ended with {}: {}", output.status, complaint.trim()))
    }
}

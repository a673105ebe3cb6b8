//! A topic of Amazon SNS.

use crate::aws::AwsError;
use async_trait::async_trait;
use aws_sdk_sns::Client;

use super::Transport;
use crate::domain::alarm::AlarmMessage;

/// Characters that SNS takes as a subject.
const SUBJECT_MAX: usize = 99;

/// A topic.
pub struct SnsTransport {
    client: Client,
    topic: String,
}

impl SnsTransport {
    /// A topic, by its ARN.
    pub async fn new(topic: &str, region: Option<String>, endpoint: Option<String>) -> Self {
        let named = topic.split(':').nth(3).filter(|region| !region.is_empty()).map(str::to_owned);
        let config = crate::aws::config(region.or(named), endpoint).await;
        Self { client: Client::new(&config), topic: topic.to_owned() }
    }
}

#[async_trait]
impl Transport for SnsTransport {
    async fn send(&self, message: &AlarmMessage) -> Result<(), String> {
        let subject: String =
            message.headline().chars().filter(char::is_ascii).take(SUBJECT_MAX).collect();
        let sent = self
            .client
            .publish()
            .topic_arn(&self.topic)
            .subject(subject)
            .message(message.text())
            .send()
            .await;
        sent.map(drop).map_err(|error| AwsError::of(&error).message)
    }
}

//! POST to a webhook, in a shape of our own or in Slack's; and the GET of a dead man's switch.

use async_trait::async_trait;
use reqwest::Client;

use super::{DELIVERY_MAX, Heartbeat, Transport, read_url};
use crate::config::serve::UrlSource;
use crate::domain::alarm::AlarmMessage;

/// A webhook.
pub struct WebhookTransport {
    client: Client,
    url: UrlSource,
    slack: bool,
}

fn client() -> Result<Client, String> {
    let builder =
        Client::builder().timeout(DELIVERY_MAX).redirect(reqwest::redirect::Policy::none());
    builder
        .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| error.without_url().to_string())
}

impl WebhookTransport {
    /// A webhook.
    ///
    /// # Errors
    /// Why there is no HTTP client.
    pub fn new(url: UrlSource, slack: bool) -> Result<Self, String> {
        Ok(Self { client: client()?, url, slack })
    }
}

fn in_words(error: reqwest::Error) -> String {
    let error = error.without_url();
    match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn accepted(response: &reqwest::Response) -> Result<(), String> {
    let status = response.status();
    if status.is_success() { Ok(()) } else { Err(format!("the server answered {status}")) }
}

#[async_trait]
impl Transport for WebhookTransport {
    async fn send(&self, message: &AlarmMessage) -> Result<(), String> {
        let body = if self.slack {
            serde_json::json!({ "text": message.text() })
        } else {
            let mut body = serde_json::to_value(message).map_err(|error| error.to_string())?;
            body["text"] = message.text().into();
            body
        };
        let request = self
            .client
            .post(read_url(&self.url)?)
            .header("content-type", "application/json")
            .body(body.to_string());
        accepted(&request.send().await.map_err(in_words)?)
    }
}

/// A dead man's switch.
pub struct DeadManSwitch {
    client: Client,
    url: UrlSource,
}

impl DeadManSwitch {
    /// A dead man's switch.
    ///
    /// # Errors
    /// Why there is no HTTP client.
    pub fn new(url: UrlSource) -> Result<Self, String> {
        Ok(Self { client: client()?, url })
    }
}

#[async_trait]
impl Heartbeat for DeadManSwitch {
    async fn beat(&self) -> Result<(), String> {
        accepted(&self.client.get(read_url(&self.url)?).send().await.map_err(in_words)?)
    }
}

//! Mail, over TLS unless the server is on this host.

use std::path::PathBuf;

use async_trait::async_trait;
use lettre::message::{Mailbox, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message as Mail, Tokio1Executor};

use super::{DELIVERY_MAX, Transport, read_secret};
use crate::domain::alarm::AlarmMessage;

/// A mail server and who gets mail through it.
pub struct SmtpTransport {
    /// `host` or `host:port`.
    pub server: String,
    /// The sender.
    pub from: String,
    /// Who gets it.
    pub to: Vec<String>,
    /// User name, if the server wants one.
    pub user: Option<String>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Whether TLS is left out.
    pub plain: bool,
}

impl SmtpTransport {
    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
        let (host, port) = match self.server.rsplit_once(':') {
            Some((host, port)) => {
                (host, Some(port.parse::<u16>().map_err(|_| format!("{port:?} is no port"))?))
            }
            None => (self.server.as_str(), None),
        };
        let builder = match (self.plain, port) {
            (true, _) => Ok(AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)),
            // 465 is TLS from the first byte; everything else, and 587 where nothing is said, must
            // agree to STARTTLS.
            (false, Some(465)) => AsyncSmtpTransport::<Tokio1Executor>::relay(host),
            (false, _) => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(host),
        };
        let mut builder = builder.map_err(|error| error.to_string())?.timeout(Some(DELIVERY_MAX));
        if let Some(port) = port {
            builder = builder.port(port);
        }
        if let (Some(user), Some(file)) = (&self.user, &self.password_file) {
            builder = builder.credentials(Credentials::new(user.clone(), read_secret(file)?));
        }
        Ok(builder.build())
    }
}

#[async_trait]
impl Transport for SmtpTransport {
    async fn send(&self, message: &AlarmMessage) -> Result<(), String> {
        let mailbox = |address: &String| {
            address.parse::<Mailbox>().map_err(|error| format!("{address:?}: {error}"))
        };
        let mut mail = Mail::builder().from(mailbox(&self.from)?).subject(message.headline());
        // Without them mail is taken for spam, or shown as it likes.
        mail = mail.message_id(None).date_now();
        for to in &self.to {
            mail = mail.to(mailbox(to)?);
        }
        let mail = mail
            .singlepart(SinglePart::plain(message.text()))
            .map_err(|error| error.to_string())?;
        self.transport()?.send(mail).await.map(drop).map_err(|error| error.to_string())
    }
}

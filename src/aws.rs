//! What every AWS adapter shares: how clients are configured, and how errors are read.

#[cfg(feature = "ec2")]
pub mod ec2;

use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::SharedCredentialsProvider;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use std::time::Duration;

/// Attempts of one request, the first included; the SDK backs off between them.
const ATTEMPTS_MAX: u32 = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One attempt of a request. Parts share the uplink, and completing an upload may take minutes; a connection on which nothing
/// moves is ended earlier, by the SDK's own watch over stalled streams.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(900);
/// One attempt of a request that is small; a snapshot that is waited for may keep a file system frozen.
const SMALL_CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// What an assumed role's sessions are called in CloudTrail.
const SESSION: &str = "lifeboat";

/// Credentials, region and endpoint as the AWS CLI finds them, with lifeboat's limits.
pub async fn config(region: Option<String>, endpoint: Option<String>) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(ATTEMPT_TIMEOUT).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
        .timeout_config(timeouts);
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    loader.load().await
}

/// The same for calls that are small and answered at once, by a role if one is named.
pub async fn config_of(region: &str, role: Option<&str>) -> SdkConfig {
    let shared = config(Some(region.to_owned()), None).await;
    let timeouts = shared.timeout_config().map(TimeoutConfig::to_builder).unwrap_or_default();
    let timeouts = timeouts.operation_attempt_timeout(SMALL_CALL_TIMEOUT).build();
    let shared = shared.into_builder().timeout_config(timeouts).build();
    match role {
        Some(role) => {
            let provider = AssumeRoleProvider::builder(role).session_name(SESSION).configure(&shared).build().await;
            shared.into_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build()
        }
        None => shared,
    }
}

/// An AWS error, reduced to what decides.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status, if there was a response.
    pub status: Option<u16>,
    /// Error code, such as `AccessDenied`; empty if there was none.
    pub code: String,
    /// Text for people.
    pub message: String,
}

impl Answer {
    /// Reads an SDK error.
    pub fn of<E, R>(error: &aws_sdk_s3::error::SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: StatusCode + std::fmt::Debug,
    {
        let code = error.code().unwrap_or_default().to_owned();
        let status = error.raw_response().map(StatusCode::status_code);
        let message = match (error.message(), code.is_empty()) {
            (Some(message), _) => format!("{code}: {message}"),
            (None, false) => code.clone(),
            (None, true) => chain(error),
        };
        Self { status, code, message }
    }

    /// Whether the service is busy or broken rather than unwilling.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        const CODES: [&str; 14] = [
            // Whoever gave them out gives out new ones, which the SDK asks for.
            "ExpiredToken",
            "ExpiredTokenException",
            "RequestExpired",
            "SlowDown",
            "ThrottlingException",
            "Throttling",
            "TooManyRequestsException",
            "RequestTimeout",
            "RequestTimeTooSkewed",
            "InternalError",
            "ServiceUnavailable",
            "KMSInternalException",
            "DependencyTimeoutException",
            "ConditionalRequestConflict",
        ];
        CODES.contains(&self.code.as_str()) || self.status.is_none_or(|status| status >= 500 || status == 429)
    }
}

/// A response's status, whatever its type.
pub trait StatusCode {
    /// The number.
    fn status_code(&self) -> u16;
}

impl StatusCode for aws_sdk_s3::config::http::HttpResponse {
    fn status_code(&self) -> u16 {
        self.status().as_u16()
    }
}

/// An error and its causes on one line, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

//! What every AWS adapter shares: how clients are configured, and how errors are read.

#[cfg(feature = "ec2")]
pub mod ec2;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_s3::error::SdkError;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::io::Read;
use std::time::{Duration, SystemTime};

/// Attempts of one request, the first included; the SDK backs off between them.
const ATTEMPTS_MAX: u32 = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One attempt of a request that is small, and all of them together: whatever does not answer is
/// known before anybody has gone for coffee.
const SMALL_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// See [`SMALL_ATTEMPT_TIMEOUT`].
const SMALL_CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// One attempt of a call to EC2, which may take its time; a snapshot that is waited for may keep a
/// file system frozen.
const EC2_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// One attempt of a request that moves a payload, or completes one. What moves nothing is ended
/// much earlier by whoever moves it.
const LARGE_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(900);
/// How long credentials without an end are used before they are looked for again: files are rotated
/// while `serve` runs.
const CREDENTIALS_FOR: Duration = Duration::from_secs(60);
/// Bytes of `AWS_CA_BUNDLE` that are read; the system's own bundle has some 200 kB.
const CA_BUNDLE_MAX: u64 = 16 * 1024 * 1024;
/// What an assumed role's sessions are called in CloudTrail.
const SESSION: &str = "lifeboat";

/// Credentials, region and endpoint as the AWS CLI finds them, with lifeboat's limits.
pub async fn config(region: Option<String>, endpoint: Option<String>) -> SdkConfig {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(SMALL_ATTEMPT_TIMEOUT)
        .operation_timeout(SMALL_CALL_TIMEOUT)
        .build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .credentials_provider(SharedCredentialsProvider::new(FreshCredentials {
            region: region.clone().map(Region::new),
            last: std::sync::Mutex::default(),
        }))
        .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
        .timeout_config(timeouts);
    if let Some(region) = region {
        loader = loader.region(Region::new(region));
    }
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(authorities) = authorities() {
        let context = TlsContext::builder()
            .with_trust_store(TrustStore::empty().with_pem_certificate(authorities))
            .build();
        if let Ok(context) = context {
            let provider = Provider::Rustls(CryptoMode::AwsLc);
            loader = loader.http_client(
                aws_smithy_http_client::Builder::new()
                    .tls_provider(provider)
                    .tls_context(context)
                    .build_https(),
            );
        }
    }
    loader.load().await
}

/// What `AWS_CA_BUNDLE` names, as the AWS CLI reads it: these authorities and no others. The
/// system's are believed where it cannot be read, which a store of somebody's own fails.
fn authorities() -> Option<Vec<u8>> {
    let file = std::env::var_os("AWS_CA_BUNDLE").filter(|file| !file.is_empty())?;
    let read = std::fs::File::open(&file).and_then(|bundle| {
        let mut bytes = Vec::new();
        std::io::Read::take(bundle, CA_BUNDLE_MAX).read_to_end(&mut bytes).map(|_| bytes)
    });
    let text = read
        .inspect_err(|error| {
            tracing::warn!(
                ?file,
                error = error as &dyn std::error::Error,
                "AWS_CA_BUNDLE cannot be read"
            )
        })
        .ok()?;
    // The client takes for granted that every one can be used; old bundles hold some that cannot.
    let usable = CertificateDer::pem_slice_iter(&text)
        .flatten()
        .filter(|one| RootCertStore::empty().add(one.clone()).is_ok());
    let pem = |one: CertificateDer<'_>| {
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            STANDARD.encode(one)
        )
    };
    let usable: String = usable.map(pem).collect();
    if usable.is_empty() {
        tracing::warn!(?file, "AWS_CA_BUNDLE holds no certificate that can be used");
    }
    (!usable.is_empty()).then(|| usable.into_bytes())
}

/// The SDK's own search for credentials, from its beginning each time: what it finds in a file it
/// would keep for ever.
#[derive(Debug)]
struct FreshCredentials {
    region: Option<Region>,
    /// What was found last: a file that is just being written, or a service that is slow, is no
    /// reason to go without.
    last: std::sync::Mutex<Option<Credentials>>,
}

impl ProvideCredentials for FreshCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let search = async {
            let chain = DefaultCredentialsChain::builder();
            let chain = match &self.region {
                Some(region) => chain.region(region.clone()),
                None => chain,
            };
            let found = match chain.build().await.provide_credentials().await {
                Ok(found) => found,
                Err(error) => {
                    let last = self
                        .last
                        .lock()
                        .ok()
                        .and_then(|last| last.clone())
                        .filter(|last| last.expiry().is_none());
                    last.ok_or(error)?
                }
            };
            if let Ok(mut last) = self.last.lock() {
                *last = Some(found.clone());
            }
            Ok(match found.expiry() {
                Some(_) => found,
                // Without an end the SDK would not look again.
                None => {
                    let until = SystemTime::now() + CREDENTIALS_FOR;
                    let token = found.session_token().map(str::to_owned);
                    Credentials::new(
                        found.access_key_id(),
                        found.secret_access_key(),
                        token,
                        Some(until),
                        SESSION,
                    )
                }
            })
        };
        future::ProvideCredentials::new(search)
    }
}

/// Limits for requests that move payloads.
#[must_use]
pub fn large(shared: &SdkConfig) -> TimeoutConfig {
    let timeouts = shared.timeout_config().map(TimeoutConfig::to_builder).unwrap_or_default();
    timeouts.operation_attempt_timeout(LARGE_ATTEMPT_TIMEOUT).disable_operation_timeout().build()
}

/// The same for EC2 and what belongs to it, by a role if one is named.
pub async fn config_of(region: &str, role: Option<&str>) -> SdkConfig {
    let shared = config(Some(region.to_owned()), None).await;
    let timeouts = shared.timeout_config().map(TimeoutConfig::to_builder).unwrap_or_default();
    let timeouts =
        timeouts.operation_attempt_timeout(EC2_ATTEMPT_TIMEOUT).disable_operation_timeout().build();
    let shared = shared.into_builder().timeout_config(timeouts).build();
    match role {
        Some(role) => {
            let provider = AssumeRoleProvider::builder(role)
                .session_name(SESSION)
                .configure(&shared)
                .build()
                .await;
            shared
                .into_builder()
                .credentials_provider(SharedCredentialsProvider::new(provider))
                .build()
        }
        None => shared,
    }
}

/// An AWS error, reduced to what decides.
#[derive(Debug)]
pub struct AwsError {
    /// HTTP status, if there was a response.
    pub status: Option<u16>,
    /// Error code, such as `AccessDenied`; empty if there was none.
    pub code: String,
    /// Text for people.
    pub message: String,
    /// Whether the request could not even be made as things are set up: no region, no credentials,
    /// an authority that is not known.
    pub is_setup: bool,
}

/// What a refusal without a body means: a HEAD has none, and it is the first request of most verbs.
fn in_words(status: u16, region: Option<&str>) -> String {
    match (status, region) {
        (301 | 307 | 400, Some(region)) => format!("the bucket is in region {region} (HTTP {status}); name it: region = \"{region}\""),
        (301 | 307, None) => format!("the bucket is in another region, or behind another endpoint (HTTP {status})"),
        (400, None) => {
            "the request was not understood (HTTP 400, without a reason): another region or endpoint, expired or malformed credentials"
                .to_owned()
        }
        (403, _) => {
            "access denied (HTTP 403, without a reason): a wrong key id or secret, no permission, or a clock of this host that is off"
                .to_owned()
        }
        (404, _) => "there is no such thing (HTTP 404)".to_owned(),
        _ => format!("HTTP {status}, without a reason"),
    }
}

impl AwsError {
    /// Reads an SDK error.
    pub fn of<E, R>(error: &SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: StatusCode + std::fmt::Debug,
    {
        let response = error.raw_response();
        let status = response.map(StatusCode::status_code);
        let header = |name: &str| response.and_then(|response| response.header(name));
        // A HEAD has no body; MinIO says in headers what would be in it.
        let code = error
            .code()
            .filter(|code| !code.is_empty() && *code != "NotFound")
            .or_else(|| header("x-minio-error-code"))
            .or(error.code());
        let code = code.unwrap_or_default().to_owned();
        let (region, told) = (header("x-amz-bucket-region"), header("x-minio-error-desc"));
        // Ceph sends an empty one.
        let message = error.message().filter(|message| !message.is_empty()).or(told);
        let message = match (message, code.is_empty(), status) {
            (Some(message), false, _) => format!("{code}: {message}"),
            (None, false, _) => code.clone(),
            (_, true, Some(status)) if status >= 300 => in_words(status, region),
            (_, true, _) => chain(error),
        };
        // The SDK's own words, which no server writes.
        let says =
            |word: &str| status.is_none() && chain(error).to_ascii_lowercase().contains(word);
        let is_setup = matches!(error, SdkError::ConstructionFailure(_))
            || says("credential")
            || says("certificate")
            || says("region");
        Self { status, code, message, is_setup }
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
            "InternalError",
            "ServiceUnavailable",
            "KMSInternalException",
            "DependencyTimeoutException",
            "ConditionalRequestConflict",
            "OperationAborted",
        ];
        // What is set up wrongly, or was never built, stays so, however often it is tried.
        let is_busy = |status| (status >= 500 && status != 501) || status == 429;
        !self.is_setup
            && (CODES.contains(&self.code.as_str())
                || self.code.starts_with("SlowDown")
                || self.status.is_none_or(is_busy))
    }
}

/// A response's status, whatever its type.
pub trait StatusCode {
    /// The number.
    fn status_code(&self) -> u16;
    /// A header's value.
    fn header(&self, name: &str) -> Option<&str>;
}

impl StatusCode for aws_sdk_s3::config::http::HttpResponse {
    fn status_code(&self) -> u16 {
        self.status().as_u16()
    }
    fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_without_a_body_has_its_meaning() {
        for (status, region, words) in [
            (301, Some("eu-west-1"), "the bucket is in region eu-west-1"),
            (400, Some("eu-west-1"), "region = \"eu-west-1\""),
            (301, None, "another region"),
            (400, None, "another region or endpoint"),
            (403, None, "a wrong key id or secret, no permission, or a clock"),
            (418, None, "HTTP 418"),
        ] {
            assert!(
                in_words(status, region).contains(words),
                "{status}: {}",
                in_words(status, region)
            );
        }
    }

    #[test]
    fn what_is_set_up_wrongly_is_never_passing() {
        let answer = |status, code: &str, is_setup| AwsError {
            status,
            code: code.to_owned(),
            message: String::new(),
            is_setup,
        };
        assert!(
            answer(None, "", false).is_passing()
                && answer(Some(503), "SlowDown", false).is_passing()
        );
        assert!(answer(Some(409), "ConditionalRequestConflict", false).is_passing());
        for wrong in [
            answer(None, "", true),
            answer(Some(403), "RequestTimeTooSkewed", false),
            answer(Some(403), "InvalidAccessKeyId", false),
        ] {
            assert!(!wrong.is_passing(), "{wrong:?}");
        }
    }
}

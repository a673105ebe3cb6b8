//! The status page's server: read-only, over TLS beyond this host, for authorized clients only.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use aws_lc_rs::digest;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use base64::Engine as _;
use hyper_util::rt::TokioTimer;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::connections::{ConnectionLimit, HEAD_MAX};
use super::{StatusBoard, metrics, page};
use crate::config::serve::{PageConfig, ServeConfig};
use crate::evidence::html;
use crate::secret_files::{self, AllowedReaders};
use crate::work::WorkError;

/// A look that is older means that the loop stands still.
const STALE: SignedDuration = SignedDuration::from_mins(5);
/// How often it is looked whether certificates or the token were renewed.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long open requests may take when it stops.
const STOP: Duration = Duration::from_secs(2);

struct WebState {
    board: Arc<StatusBoard>,
    token: RwLock<Option<Zeroizing<String>>>,
    loopback: bool,
    tls: bool,
    policy: HeaderValue,
}

fn refuse(what: &str, why: impl std::fmt::Display) -> WorkError {
    WorkError::Refused {
        what: format!("the status page: {what}"),
        why: why.to_string(),
        hint: "correct [serve] in lifeboat.toml".to_owned(),
    }
}

/// Begins to serve the page, if one is configured.
///
/// # Errors
/// [`WorkError::Refused`] if it cannot listen, or a certificate, key or token is not usable.
pub async fn serve(
    config: &ServeConfig,
    board: Arc<StatusBoard>,
    cancel: CancellationToken,
) -> Result<Option<JoinHandle<()>>, WorkError> {
    let Some(config) = &config.page else { return Ok(None) };
    let token = match &config.token_file {
        Some(file) => Some(token(file)?),
        None => None,
    };
    let shared = Arc::new(WebState {
        board,
        token: RwLock::new(token),
        loopback: config.listen.ip().is_loopback(),
        tls: config.tls.is_some(),
        policy: policy()?,
    });
    let app = router(Arc::clone(&shared)).into_make_service();
    let listener = std::net::TcpListener::bind(config.listen)
        .map_err(|error| refuse(&format!("listening on {}", config.listen), error))?;
    listener.set_nonblocking(true).map_err(|error| refuse("listening", error))?;
    let address = listener.local_addr().map_err(|error| refuse("listening", error))?;
    let handle = Handle::new();
    let stopping = handle.clone();
    let stopped = cancel.clone();
    tokio::spawn(async move {
        cancel.cancelled().await;
        stopping.graceful_shutdown(Some(STOP));
    });
    tracing::info!(%address, tls = config.tls.is_some(), "the status page listens");
    let few = ConnectionLimit::default();
    let mut server =
        axum_server::from_tcp(listener).map_err(|error| refuse("listening", error))?.handle(handle);
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    let server = server.first_request_timeout(HEAD_MAX);
    let secured = tls(config)?.map(|tls| RustlsConfig::from_config(Arc::new(tls)));
    tokio::spawn(read_anew(config.clone(), shared, secured.clone(), stopped));
    let served = match secured {
        Some(secured) => {
            let server = server.acceptor(RustlsAcceptor::new(secured).acceptor(few));
            tokio::spawn(async move { server.serve(app).await })
        }
        None => {
            let server = server.acceptor(few);
            tokio::spawn(async move { server.serve(app).await })
        }
    };
    Ok(Some(tokio::spawn(async move {
        if let Ok(Err(error)) = served.await {
            tracing::error!(error = &error as &dyn std::error::Error, "the status page ended");
        }
    })))
}

/// Certificates, keys and tokens are renewed while the page is served. What cannot be used leaves
/// what was there in force.
async fn read_anew(
    config: PageConfig,
    shared: Arc<WebState>,
    secured: Option<RustlsConfig>,
    stopped: CancellationToken,
) {
    let files = || {
        let tls = config.tls.iter().flat_map(|(certificate, key)| [certificate, key]);
        let all = tls.chain(&config.client_ca).chain(&config.token_file);
        // A mode that was corrected changes no content.
        let changed = |file: &PathBuf| {
            std::fs::metadata(file)
                .ok()
                .map(|facts| (facts.modified().ok(), facts.ctime(), facts.ino()))
        };
        all.map(changed).collect::<Vec<_>>()
    };
    let mut known = files();
    loop {
        tokio::select! {
            () = stopped.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = files();
        if now == known {
            continue;
        }
        known = now;
        let renewed = config
            .token_file
            .as_ref()
            .map(|file| token(file))
            .transpose()
            .and_then(|token| Ok((token, tls(&config)?)));
        match renewed {
            Ok((token, tls)) => {
                if let (Some(secured), Some(tls)) = (&secured, tls) {
                    secured.reload_from_config(Arc::new(tls));
                }
                if let Ok(mut kept) = shared.token.write() {
                    *kept = token;
                }
                tracing::info!("certificates and token of the status page were read anew");
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "what was renewed cannot be used; the page goes on with what it had"
                );
            }
        }
    }
}

fn token(file: &Path) -> Result<Zeroizing<String>, WorkError> {
    let text =
        secret_files::read(file, AllowedReaders::Owner).map_err(|why| refuse("its token", why))?;
    let token = Zeroizing::new(text.trim().to_owned());
    if token.len() < 16 {
        Err(refuse(
            &file.display().to_string(),
            "a token of less than 16 characters can be guessed",
        ))
    } else {
        Ok(token)
    }
}

/// TLS 1.2 and 1.3 with the suites of the library, which are all modern.
fn tls(config: &PageConfig) -> Result<Option<ServerConfig>, WorkError> {
    let Some((certificate, key)) = &config.tls else { return Ok(None) };
    let read = |file: &Path| -> Result<Vec<CertificateDer<'static>>, WorkError> {
        let all = CertificateDer::pem_file_iter(file)
            .map_err(|error| refuse(&file.display().to_string(), error))?;
        all.collect::<Result<_, _>>().map_err(|error| refuse(&file.display().to_string(), error))
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| refuse("TLS", error))?;
    let builder = match &config.client_ca {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in read(file)? {
                roots
                    .add(certificate)
                    .map_err(|error| refuse(&file.display().to_string(), error))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| refuse(&file.display().to_string(), error))?,
            )
        }
        None => builder.with_no_client_auth(),
    };
    let text =
        secret_files::read(key, AllowedReaders::Group).map_err(|why| refuse("its key", why))?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|error| refuse(&key.display().to_string(), error))?;
    let mut tls = builder
        .with_single_cert(read(certificate)?, key)
        .map_err(|error| refuse("its certificate", error))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(tls))
}

/// Nothing but the page's own style, by its hash: no script, no frame, no foreign origin.
fn policy() -> Result<HeaderValue, WorkError> {
    let hash = base64::engine::general_purpose::STANDARD
        .encode(digest::digest(&digest::SHA256, html::STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).map_err(|error| WorkError::Bug(error.to_string()))
}

fn router(shared: Arc<WebState>) -> Router {
    Router::new()
        .route("/", get(status))
        .route("/evidence/", get(series))
        .route("/evidence/{page}", get(report))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .fallback(|| async { (StatusCode::NOT_FOUND, "there is no such page\n") })
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

/// Who may look, and what a browser may do with it.
async fn guard(State(shared): State<Arc<WebState>>, request: Request, next: Next) -> Response {
    let refused = if shared.loopback && !names_this_host(request.headers()) {
        // A page from elsewhere could give its own name this address.
        Some((
            StatusCode::MISDIRECTED_REQUEST,
            "this page is served under the name of this host only\n",
        ))
    } else if !may_look(&shared, request.headers()) {
        Some((StatusCode::UNAUTHORIZED, "a bearer token is needed\n"))
    } else {
        None
    };
    let mut response = match refused {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    let mut set =
        |name: HeaderName, value: HeaderValue| drop(response.headers_mut().insert(name, value));
    set(header::CONTENT_SECURITY_POLICY, shared.policy.clone());
    set(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    set(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    set(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if shared.tls {
        set(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

fn names_this_host(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost"
        || name
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Whether no token is asked for, or the right one is given. A lock that somebody died with lets
/// nobody in.
fn may_look(shared: &WebState, headers: &HeaderMap) -> bool {
    shared.token.read().is_ok_and(|token| token.as_ref().is_none_or(|token| bears(headers, token)))
}

fn bears(headers: &HeaderMap, token: &str) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    given.is_some_and(|given| {
        aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), token.as_bytes())
            .is_ok()
    })
}

fn html(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], Body::from(text)).into_response()
}

fn not_yet() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "it has not been looked yet how things stand; try again in a moment\n",
    )
        .into_response()
}

async fn status(State(shared): State<Arc<WebState>>) -> Response {
    match (shared.board.status(), shared.board.series()) {
        (Some(status), Some(series)) => {
            html(page::status_page(&status, &series, &shared.board.running(), Timestamp::now()))
        }
        _ => not_yet(),
    }
}

async fn series(State(shared): State<Arc<WebState>>) -> Response {
    match shared.board.series() {
        Some(series) => {
            html(html::series_page(&series, &series.flaws(&[], Timestamp::now()), Timestamp::now()))
        }
        None => not_yet(),
    }
}

async fn report(State(shared): State<Arc<WebState>>, UrlPath(name): UrlPath<String>) -> Response {
    let Some(series) = shared.board.series() else { return not_yet() };
    match crate::work::evidence::pages(&series).find(|(known, _)| *known == name) {
        Some((_, page)) => html(page),
        None if name == "index.html" => {
            html(html::series_page(&series, &series.flaws(&[], Timestamp::now()), Timestamp::now()))
        }
        None => (StatusCode::NOT_FOUND, "there is no such report\n").into_response(),
    }
}

async fn metrics(State(shared): State<Arc<WebState>>) -> Response {
    match metrics::text(&shared.board, Timestamp::now()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn healthz(State(shared): State<Arc<WebState>>) -> Response {
    match shared.board.status().map(|status| Timestamp::now().duration_since(status.at)) {
        Some(age) if age < STALE => (StatusCode::OK, "ok\n").into_response(),
        Some(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "it has not been looked how things stand for too long\n",
        )
            .into_response(),
        None => not_yet(),
    }
}

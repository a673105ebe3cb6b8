//! A front before the emulator that adds what AWS does and emulators do not: throttling, resets,
//! slow bytes, refusals, lost answers. Each fault names the requests it meets and how often it
//! happens; what it did is counted.
//!
//! | fault | what AWS documents |
//! |---|---|
//! | [`Fault::SlowDown`] | S3 "503 Slow Down", API reference, Error responses |
//! | [`Fault::Reset`] | connections may close at any time; S3 user guide, Retries |
//! | [`Fault::LoseAnswer`] | a request may have taken effect though no answer came; S3 user guide, Conditional writes |
//! | [`Fault::ErrorIn200`] | CompleteMultipartUpload may answer 200 with an error in its body; API reference |
//! | [`Fault::Answer`] | any error document, such as KMS AccessDeniedException or ThrottlingException |
//! | [`Fault::WrongChecksum`] | what arrives is not what was sent, and the checksum in the reply tells |
//! | [`Fault::Hang`] | a connection may be accepted and never answered |
//! | [`Fault::NoEcho`] | Ceph before Squid, s3rver and others know no `x-amz-checksum-…`: neither verified nor repeated |
//! | [`Fault::DamagedAnswer`] | what is read is not what was stored: whoever may write to the bucket |
//! | [`Fault::DamagedBody`] | what arrives is not what was sent, and nothing in the reply tells |

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::glacier::Glacier;

#[derive(Debug, Clone)]
pub enum Fault {
    /// 503 with S3's error document; the request does not reach the server.
    SlowDown,
    /// The connection is closed in the middle of the answer's body.
    Reset,
    /// The request takes effect, its answer is lost.
    LoseAnswer,
    /// 200, and an error in the body; the request does not reach the server.
    ErrorIn200,
    /// This status, content type and body; the request does not reach the server.
    Answer(u16, &'static str, String),
    /// The answer's checksum header is another.
    WrongChecksum,
    /// The answer comes in small pieces with pauses.
    SlowBytes,
    /// Nothing is answered, and the request does not reach the server.
    Hang,
    /// Checksums are taken out of request and answer.
    NoEcho,
    /// A bit of the answer's body is turned.
    DamagedAnswer,
    /// Checksums are taken out, and a bit of the request's body is turned.
    DamagedBody,
}

#[derive(Debug, Clone)]
pub struct Rule {
    /// Words that the request line and the `x-amz-target` header must hold.
    pub when: Vec<&'static str>,
    pub fault: Fault,
    /// How many times it still happens.
    pub times: u32,
    /// How many matching requests pass first.
    pub after: u32,
}

pub struct Front {
    pub port: u16,
    /// Objects in archive classes.
    pub glacier: Arc<Glacier>,
    rules: Arc<Mutex<Vec<Rule>>>,
    met: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Front {
    pub fn start(to_port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (rules, met) =
            (Arc::<Mutex<Vec<Rule>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let glacier = Arc::<Glacier>::default();
        let (rules_in, met_in, glacier_in) =
            (Arc::clone(&rules), Arc::clone(&met), Arc::clone(&glacier));
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (rules, met, glacier) =
                    (Arc::clone(&rules_in), Arc::clone(&met_in), Arc::clone(&glacier_in));
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        pass(
                            request,
                            to_port,
                            Arc::clone(&rules),
                            Arc::clone(&met),
                            Arc::clone(&glacier),
                        )
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, glacier, rules, met, _runtime: runtime }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on these rules and no others.
    pub fn rules(&self, rules: Vec<Rule>) {
        *self.rules.lock().unwrap() = rules;
        self.met.lock().unwrap().clear();
    }

    /// One fault, `times` times, on requests with these words.
    pub fn fault(&self, when: &[&'static str], fault: Fault, times: u32) {
        self.rules(vec![Rule { when: when.to_vec(), fault, times, after: 0 }]);
    }

    /// Request lines that met a fault since the rules were set.
    pub fn met(&self) -> Vec<String> {
        self.met.lock().unwrap().clone()
    }
}

type Answered = Result<Response<Body>, std::io::Error>;
type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn answer(status: u16, kind: &str, body: impl Into<Bytes>) -> Answered {
    Ok(Response::builder().status(status).header("content-type", kind).body(whole(body)).unwrap())
}

fn broken() -> Answered {
    Err(std::io::ErrorKind::ConnectionReset.into())
}

fn is_checksum(name: &hyper::header::HeaderName) -> bool {
    name.as_str().starts_with("x-amz-checksum-") || name.as_str().starts_with("x-amz-sdk-checksum-")
}

/// As a store reads a request that knows no checksums. Completing an upload names those of its
/// parts in the body.
fn without_checksums(
    mut head: hyper::http::request::Parts,
    body: Bytes,
) -> (hyper::http::request::Parts, Bytes) {
    for name in head.headers.keys().filter(|name| is_checksum(name)).cloned().collect::<Vec<_>>() {
        head.headers.remove(name);
    }
    if !body.starts_with(b"<CompleteMultipartUpload") {
        return (head, body);
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    let mut pieces = text.split("<ChecksumSHA256>");
    let mut kept = pieces.next().unwrap_or_default().to_owned();
    kept.extend(
        pieces.map(|piece| piece.split_once("</ChecksumSHA256>").map_or("", |(_, rest)| rest)),
    );
    head.headers.insert("content-length", kept.len().into());
    (head, kept.into())
}

fn matching(rules: &Mutex<Vec<Rule>>, line: &str) -> Option<Fault> {
    let mut rules = rules.lock().unwrap();
    let rule = rules
        .iter_mut()
        .find(|rule| rule.times > 0 && rule.when.iter().all(|word| line.contains(word)))?;
    if rule.after > 0 {
        rule.after -= 1;
        return None;
    }
    rule.times -= 1;
    Some(rule.fault.clone())
}

/// `kms:ReEncrypt` as KMS documents it, which localstack does not have: its own Decrypt and
/// Encrypt, one after the other. Counted like a fault.
async fn re_encrypt(to_port: u16, head: &hyper::http::request::Parts, body: &[u8]) -> Answered {
    let asked: serde_json::Value = serde_json::from_slice(body).map_err(std::io::Error::other)?;
    let decrypt = serde_json::json!({
        "CiphertextBlob": asked["CiphertextBlob"], "KeyId": asked["SourceKeyId"], "EncryptionContext": asked["SourceEncryptionContext"],
    });
    let opened = match kms(to_port, head, "Decrypt", &decrypt).await? {
        (200, opened) => opened,
        (status, error) => return answer(status, "application/x-amz-json-1.1", error.to_string()),
    };
    let encrypt = serde_json::json!({
        "Plaintext": opened["Plaintext"], "KeyId": asked["DestinationKeyId"], "EncryptionContext": asked["DestinationEncryptionContext"],
    });
    let (status, mut sealed) = kms(to_port, head, "Encrypt", &encrypt).await?;
    sealed["SourceKeyId"] = opened["KeyId"].clone();
    answer(status, "application/x-amz-json-1.1", sealed.to_string())
}

async fn kms(
    to_port: u16,
    head: &hyper::http::request::Parts,
    verb: &str,
    body: &serde_json::Value,
) -> std::io::Result<(u16, serde_json::Value)> {
    let stream =
        tokio::net::TcpStream::connect(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, to_port)))
            .await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method("POST")
        .uri("/")
        .header("x-amz-target", format!("TrentService.{verb}"));
    for name in ["host", "authorization", "content-type", "x-amz-date"] {
        if let Some(value) = head.headers.get(name) {
            request = request.header(name, value);
        }
    }
    let request =
        request.body(Full::new(Bytes::from(body.to_string()))).map_err(std::io::Error::other)?;
    let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    Ok((status, serde_json::from_slice(&bytes).unwrap_or(serde_json::Value::Null)))
}

async fn pass(
    request: Request<Incoming>,
    to_port: u16,
    rules: Arc<Mutex<Vec<Rule>>>,
    met: Arc<Mutex<Vec<String>>>,
    glacier: Arc<Glacier>,
) -> Answered {
    let target =
        request.headers().get("x-amz-target").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let range = request.headers().get("range").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let line = format!("{} {} {target} {range}", request.method(), request.uri());
    let fault = matching(&rules, &line);
    if fault.is_some() {
        met.lock().unwrap().push(line.clone());
    }
    let (mut head, body) = request.into_parts();
    let mut body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    if matches!(fault, Some(Fault::NoEcho | Fault::DamagedBody)) {
        (head, body) = without_checksums(head, body);
        if let (Some(Fault::DamagedBody), Some(byte)) = (&fault, body.len().checked_sub(100)) {
            let mut damaged = body.to_vec();
            damaged[byte] ^= 1;
            body = damaged.into();
        }
    }
    const XML: &str = "application/xml";
    match &fault {
        Some(Fault::SlowDown) => {
            return answer(
                503,
                XML,
                "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
            );
        }
        Some(Fault::ErrorIn200) => {
            return answer(
                200,
                XML,
                "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>We encountered an internal error. Please try again.</Message></Error>",
            );
        }
        Some(Fault::Hang) => return std::future::pending().await,
        Some(Fault::Answer(status, kind, body)) => return answer(*status, kind, body.clone()),
        _ => {}
    }
    // KMS: "DryRun … DryRunOperationException"; the emulator would do it. KMS API reference,
    // CreateGrant; developer guide, Testing your permissions
    if line.contains("TrentService.")
        && serde_json::from_slice::<serde_json::Value>(&body)
            .is_ok_and(|asked| asked["DryRun"] == true)
    {
        let told = r#"{"__type":"DryRunOperationException","message":"The request would have succeeded, but the DryRun option is set."}"#;
        return answer(400, "application/x-amz-json-1.1", told);
    }
    if line.contains("TrentService.ReEncrypt") {
        return re_encrypt(to_port, &head, &body).await;
    }
    let (method, uri) = (head.method.to_string(), head.uri.clone());
    if let Some((status, body)) = glacier.before(&method, &uri, &body) {
        return answer(status, XML, body);
    }
    let stream =
        tokio::net::TcpStream::connect(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, to_port)))
            .await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let response = sender
        .send_request(Request::from_parts(head, Full::new(body)))
        .await
        .map_err(std::io::Error::other)?;
    let (mut head, body) = response.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    if let Some((status, body)) = glacier.after(&method, uri.path(), &mut head) {
        return answer(status, XML, body);
    }
    match fault {
        Some(Fault::NoEcho | Fault::DamagedBody) => {
            for name in
                head.headers.keys().filter(|name| is_checksum(name)).cloned().collect::<Vec<_>>()
            {
                head.headers.remove(name);
            }
            Ok(Response::from_parts(head, whole(body)))
        }
        Some(Fault::DamagedAnswer) => {
            let mut damaged = body.to_vec();
            if let Some(byte) = damaged.last_mut() {
                *byte ^= 1;
            }
            Ok(Response::from_parts(head, whole(damaged)))
        }
        Some(Fault::LoseAnswer) => broken(),
        Some(Fault::Reset) => {
            let half = body.slice(..body.len() / 2);
            let pieces = futures::stream::iter([
                Ok(hyper::body::Frame::data(half)),
                Err(std::io::ErrorKind::ConnectionReset.into()),
            ]);
            Ok(Response::from_parts(
                head,
                BodyExt::boxed_unsync(http_body_util::StreamBody::new(pieces)),
            ))
        }
        Some(Fault::WrongChecksum) => {
            head.headers.insert(
                "x-amz-checksum-sha256",
                "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".parse().unwrap(),
            );
            Ok(Response::from_parts(head, whole(body)))
        }
        Some(Fault::SlowBytes) => {
            let pieces: Vec<Bytes> = (0..body.len())
                .step_by(body.len().div_ceil(20).max(1))
                .map(|at| body.slice(at..(at + body.len().div_ceil(20).max(1)).min(body.len())))
                .collect();
            let slow = futures::stream::unfold(pieces.into_iter(), |mut pieces| async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                pieces.next().map(|piece| (Ok(hyper::body::Frame::data(piece)), pieces))
            });
            Ok(Response::from_parts(
                head,
                BodyExt::boxed_unsync(http_body_util::StreamBody::new(slow)),
            ))
        }
        _ => Ok(Response::from_parts(head, whole(body))),
    }
}

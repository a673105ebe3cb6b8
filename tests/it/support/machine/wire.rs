//! HTTP between a machine and what stands for AWS.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;

pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;
pub type Answered = std::io::Result<Response<Body>>;

pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn answer(status: u16, kind: &str, body: impl Into<Bytes>) -> Answered {
    Ok(Response::builder().status(status).header("content-type", kind).body(whole(body)).unwrap())
}

/// The connection ends without an answer.
pub fn closed() -> Answered {
    Err(std::io::ErrorKind::ConnectionReset.into())
}

pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Answers requests until its runtime ends.
pub async fn serve<F, A>(listener: std::net::TcpListener, handler: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Answered> + Send + 'static,
{
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(handler.clone());
        tokio::spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Accepts, and keeps what it accepted: somebody is there.
pub async fn accept(listener: std::net::TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut kept = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        kept.push(stream);
    }
}

/// Hands a request on.
pub async fn forward(
    to: SocketAddr,
    mut head: Parts,
    body: Bytes,
) -> std::io::Result<Response<Incoming>> {
    let stream = tokio::net::TcpStream::connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    // Already answered, with 100, by having read the body.
    head.headers.remove("expect");
    sender
        .send_request(Request::from_parts(head, Full::new(body)))
        .await
        .map_err(std::io::Error::other)
}

/// An answer as it comes, piece by piece.
pub fn through(response: Response<Incoming>) -> Answered {
    Ok(response.map(|body| body.map_err(std::io::Error::other).boxed_unsync()))
}

pub async fn collected(body: Incoming) -> std::io::Result<Bytes> {
    Ok(body.collect().await.map_err(std::io::Error::other)?.to_bytes())
}

/// `%2F`; in a query, `+` is a space.
pub fn decoded(text: &str, is_query: bool) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) if is_query => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

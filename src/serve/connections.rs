//! Connections of the status page: few at a time, and none for long. Whoever may open one must not
//! be able to take the descriptors that a backup needs.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Connections at a time: some people, a monitor, a proxy.
const AT_ONCE_MAX: usize = 64;
/// How long one lasts at most. A browser opens another.
const LIFE_MAX: Duration = Duration::from_secs(120);
/// How long the head of a request may take, the first one and any after it.
pub const HEAD_MAX: Duration = Duration::from_secs(10);

/// Lets so many in, and closes others at once.
#[derive(Clone)]
pub struct ConnectionLimit(Arc<Semaphore>);

impl Default for ConnectionLimit {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE_MAX)))
    }
}

impl<S> Accept<TcpStream, S> for ConnectionLimit {
    type Stream = TimedStream;
    type Service = S;
    type Future = Ready<io::Result<(TimedStream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(match Arc::clone(&self.0).try_acquire_owned() {
            Ok(permit) => Ok((
                TimedStream {
                    stream,
                    ends: Box::pin(tokio::time::sleep(LIFE_MAX)),
                    _permit: permit,
                },
                service,
            )),
            Err(_) => Err(io::Error::other("there are too many connections")),
        })
    }
}

/// A connection that ends.
pub struct TimedStream {
    stream: TcpStream,
    ends: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl TimedStream {
    fn has_ended(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        use std::future::Future;
        self.ends.as_mut().poll(context).is_ready().then(|| io::ErrorKind::TimedOut.into())
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.has_ended(context) {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.has_ended(context) {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

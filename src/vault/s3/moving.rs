//! Bytes on their way to a store, watched: an attempt that moves none of them for a while is ended, however long one that moves may take.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Instant;

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::SILENCE_MAX;

/// Bytes that are handed over at once: few enough to see that they move on a slow line.
const PIECE_BYTES: usize = 64 * 1024;

/// When something last moved.
#[derive(Clone)]
pub(super) struct Moving(Arc<Mutex<Instant>>);

impl Default for Moving {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Moving {
    fn moved(&self) {
        if let Ok(mut last) = self.0.lock() {
            *last = Instant::now();
        }
    }

    /// A body of these bytes that tells when it is taken; the SDK may send it anew.
    pub(super) fn body(&self, bytes: Bytes) -> ByteStream {
        let moving = self.clone();
        ByteStream::new(SdkBody::retryable(move || {
            moving.moved();
            SdkBody::from_body_1_x(Watched { rest: bytes.clone(), moving: moving.clone() })
        }))
    }

    /// What came of a request; `None` if nothing of its body was taken for too long, and no answer came.
    pub(super) async fn while_it_moves<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(request);
        loop {
            let until = self.0.lock().map_or_else(|_| Instant::now(), |last| *last) + SILENCE_MAX;
            tokio::select! {
                done = &mut request => return Some(done),
                () = tokio::time::sleep_until(until.into()) => {
                    let is_silent = self.0.lock().map_or(true, |last| last.elapsed() >= SILENCE_MAX);
                    if is_silent {
                        return None;
                    }
                }
            }
        }
    }
}

struct Watched {
    rest: Bytes,
    moving: Moving,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.moving.moved();
        let piece = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

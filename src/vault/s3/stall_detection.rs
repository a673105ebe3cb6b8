//! Stall detection for transfers: an attempt that moves no byte for a while is aborted, however
//! long one that progresses may take.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::SILENCE_MAX;

/// Bytes that are handed over at once: few enough to see that they move on a slow line.
const PIECE_BYTES: usize = 64 * 1024;

/// How long the answer may take once all has been handed over: what is in the buffers of the line
/// is still on its way then, and the store has to write it down.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// When something last moved, and how long nothing may now.
#[derive(Clone)]
pub(super) struct TransferProgress(Arc<Mutex<(Instant, Duration)>>);

impl Default for TransferProgress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), SILENCE_MAX))))
    }
}

impl TransferProgress {
    fn moved(&self, is_last: bool) {
        if let Ok(mut last) = self.0.lock() {
            *last = (Instant::now(), if is_last { ANSWER_MAX } else { SILENCE_MAX });
        }
    }

    fn until(&self) -> Instant {
        self.0.lock().map_or_else(|_| Instant::now(), |last| last.0 + last.1)
    }

    /// A body of these bytes that tells when it is taken; the SDK may send it anew.
    pub(super) fn body(&self, bytes: Bytes) -> ByteStream {
        let moving = self.clone();
        ByteStream::new(SdkBody::retryable(move || {
            moving.moved(false);
            SdkBody::from_body_1_x(WatchedBody { rest: bytes.clone(), moving: moving.clone() })
        }))
    }

    /// What came of a request; `None` if nothing of its body was taken for too long, and no answer
    /// came.
    pub(super) async fn while_it_moves<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(request);
        loop {
            tokio::select! {
                done = &mut request => return Some(done),
                () = tokio::time::sleep_until(self.until().into()) => {
                    if self.until() <= Instant::now() {
                        return None;
                    }
                }
            }
        }
    }
}

struct WatchedBody {
    rest: Bytes,
    moving: TransferProgress,
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(piece);
        self.moving.moved(self.rest.is_empty());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

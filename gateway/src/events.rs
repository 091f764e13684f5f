//! Streams: events of the bus, as server-sent events ([HTML, server-sent events]) or over
//! WebSocket.
//!
//! A stream ends with the access token that it was opened with, when its user is revoked,
//! when a policy comes that does not let the edge listen, when the edge stops, and when its client takes events more slowly than they come. A
//! browser then opens it anew by itself, and is authenticated anew. What came in between
//! is lost, unless a stream of the bus stores it: then each event has the number that it
//! has there, and a client says after which it goes on.
//!
//! [HTML, server-sent events]: https://html.spec.whatwg.org/multipage/server-sent-events.html

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use data_encoding::BASE64;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::body::Answered;
use crate::bus::BusEvent;
use crate::connections::Counted;
use crate::event_content::EventContent;
use crate::metrics::Metrics;

/// How soon a browser comes back.
const FIRST: &[u8] = b"retry: 2000\n\n";
/// What keeps proxies from giving up on a silent stream.
const HEARTBEAT: &[u8] = b":\n\n";
/// How often it is asked whether the user may still listen.
const ASK: Duration = Duration::from_millis(500);

/// `[streams]`-like keys of a route in mode `stream`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamConfig {
    /// After how long a silent stream says that it is there.
    pub heartbeat: Duration,
    /// How many streams one user has open on one node.
    pub per_user: usize,
    /// Whether it is offered over WebSocket too.
    pub websocket: bool,
}

/// What comes next of a stream.
pub(crate) enum Step {
    /// It is open.
    Opened,
    Event(BusEvent),
    /// Nothing came for a heartbeat.
    Silence,
    Ended(End),
}

/// Why a stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The edge stops.
    Stopping,
    TokenEnded,
    Revoked,
    /// The client is too slow, or nothing comes from the bus any more.
    Behind,
}

/// One open stream.
pub(crate) struct Events {
    receiver: mpsc::Receiver<BusEvent>,
    /// Its place among the streams of the node and of its user.
    _places: (Counted<()>, Counted<String>),
    is_new: bool,
    heartbeat: Duration,
    last_said: Instant,
    ask: Interval,
    /// Whether the user is not revoked, and the policy lets the edge listen.
    still_allowed: Arc<dyn Fn() -> bool + Send + Sync>,
    /// When the token ends.
    end: Option<Pin<Box<Sleep>>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    metrics: Metrics,
}

/// What a stream is opened with.
pub(crate) struct Opening {
    pub(crate) receiver: mpsc::Receiver<BusEvent>,
    pub(crate) places: (Counted<()>, Counted<String>),
    pub(crate) config: StreamConfig,
    pub(crate) still_allowed: Arc<dyn Fn() -> bool + Send + Sync>,
    /// How long the token still lives; public streams have none.
    pub(crate) lifetime: Option<Duration>,
    pub(crate) stopping: WaitForCancellationFutureOwned,
    pub(crate) metrics: Metrics,
}

impl Events {
    pub(crate) fn open(opening: Opening) -> Self {
        let mut ask = tokio::time::interval(ASK);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        opening.metrics.stream_opened();
        Self {
            receiver: opening.receiver,
            _places: opening.places,
            is_new: true,
            heartbeat: opening.config.heartbeat,
            last_said: Instant::now(),
            ask,
            still_allowed: opening.still_allowed,
            end: opening
                .lifetime
                .map(|lifetime| Box::pin(tokio::time::sleep(lifetime))),
            stopping: Box::pin(opening.stopping),
            metrics: opening.metrics,
        }
    }

    /// The response whose body it is.
    pub(crate) fn response(self) -> Response<Answered> {
        let mut response = Response::new(Answered::Events(Box::new(self)));
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Asks reverse proxies not to collect what comes.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    /// The next bytes of server-sent events; `None` when it has ended.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.poll_step(cx).map(|step| match step {
            Step::Opened => Some(Bytes::from_static(FIRST)),
            Step::Event(event) => Some(encode(&event)),
            Step::Silence => Some(Bytes::from_static(HEARTBEAT)),
            Step::Ended(_) => None,
        })
    }

    /// What comes next.
    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let ended = |why| Poll::Ready(Step::Ended(why));
        if self.stopping.as_mut().poll(cx).is_ready() {
            return ended(End::Stopping);
        }
        if let Some(end) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return ended(End::TokenEnded);
        }
        let mut silent = false;
        while self.ask.poll_tick(cx).is_ready() {
            if !(self.still_allowed)() {
                return ended(End::Revoked);
            }
            silent = self.last_said.elapsed() >= self.heartbeat;
        }
        if std::mem::take(&mut self.is_new) {
            return Poll::Ready(Step::Opened);
        }
        match self.receiver.poll_recv(cx) {
            Poll::Ready(Some(event)) => {
                self.last_said = Instant::now();
                Poll::Ready(Step::Event(event))
            }
            Poll::Ready(None) => ended(End::Behind),
            Poll::Pending if silent => {
                self.last_said = Instant::now();
                Poll::Ready(Step::Silence)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.metrics.stream_closed();
    }
}

/// One event: its lines each as a field of their own. The format has only text, so what is
/// none is in base64 and of the type `base64`, which nobody who listens to text hears.
fn encode(event: &BusEvent) -> Bytes {
    let text = match event.content() {
        EventContent::Text(text) => String::from_utf8_lossy(text),
        EventContent::Binary(bytes) => BASE64.encode(bytes).into(),
    };
    let mut bytes = BytesMut::with_capacity(text.len() + 40);
    if let Some(place) = event.place() {
        bytes.extend_from_slice(format!("id: {place}\n").as_bytes());
    }
    if matches!(event.content(), EventContent::Binary(_)) {
        bytes.extend_from_slice(b"event: base64\n");
    }
    // Every way in which the format ends a line.
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        bytes.extend_from_slice(b"data: ");
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"\n");
    }
    bytes.extend_from_slice(b"\n");
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &'static [u8]) -> Vec<u8> {
        encode(&BusEvent::new("text/plain", Bytes::from_static(text), None)).to_vec()
    }

    #[test]
    fn no_payload_can_end_its_event_or_begin_another_field() {
        assert_eq!(encoded(b"{\"a\":1}"), b"data: {\"a\":1}\n\n");
        assert_eq!(
            encoded(b"a\n\nevent: evil\rid: 1\r\nb"),
            b"data: a\ndata: \ndata: event: evil\ndata: id: 1\ndata: b\n\n"
        );
        assert_eq!(encoded(b""), b"data: \n\n");
        assert_eq!(encoded(b"\xff"), b"event: base64\ndata: /w==\n\n");
        let stored = encode(&BusEvent::new(
            "text/plain",
            Bytes::from_static(b"a"),
            Some(7),
        ));
        assert_eq!(&*stored, b"id: 7\ndata: a\n\n");
    }
}

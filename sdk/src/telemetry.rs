//! What operators see of a service: spans of what is asked and handled, in the
//! caller's trace, and numbers.
//!
//! Each request that is made and each message that is handled has a span of
//! [`tracing`], with the target [`TARGET`] and the level DEBUG. With the feature
//! `otel` it belongs to the trace that came with the message
//! ([W3C Trace Context](https://www.w3.org/TR/trace-context/), under signature), and
//! what is sent within it carries it on:
//!
//! ```text
//! HTTP ─► gateway ─► orders: handle ─► orders: request ─► billing: handle
//!         one trace; each span is the parent of the next
//! ```
//!
//! The program chooses where spans go, with the layer of `tracing-opentelemetry` and
//! whatever exporter it likes, and lets that layer have the target at DEBUG. Without
//! the feature a trace that came with a message still goes on with what its handler
//! sends, as it came.
//!
//! No span, label or number holds a token, a payload, or a user's name.

#[cfg(feature = "prometheus")]
mod prometheus;

use std::time::Duration;

use bulla_envelope::TraceParent;
use tracing::field::Empty;
use tracing::{Span, debug_span};

use crate::error::{AppendError, PublishError, RequestError, SendError, ServiceError};
use crate::message::Message;
#[cfg(feature = "prometheus")]
pub use prometheus::Prometheus;

/// The target of spans.
pub const TARGET: &str = "bulla::trace";

/// Told of what a client sends, asks and handles; see
/// [`ConnectOptions::recorder`](crate::ConnectOptions::recorder).
///
/// It is called on the way of each message: count, and do not wait. `outcome` is `ok`
/// or a stable code, of which there are few; subjects of messages, which are many, are
/// not told. What a recorder does not want to know it leaves out.
pub trait Recorder: Send + Sync + 'static {
    /// A request was handled: on which pattern, what came of it, and how long the
    /// handler took.
    fn handled(&self, endpoint: &str, outcome: &'static str, took: Duration);

    /// A request was made: what came of it, and how long it took.
    fn asked(&self, outcome: &'static str, took: Duration);

    /// An event was accepted to be sent, or not. One that was accepted and is lost
    /// later is told by the next publish on its subject.
    fn published(&self, outcome: &'static str) {
        let _ = outcome;
    }

    /// An event was appended to a stream, or not: what came of it, and how long it took.
    fn appended(&self, outcome: &'static str, took: Duration) {
        let _ = (outcome, took);
    }

    /// A stored message that passed every check was taken from a stream by a consumer,
    /// for this time; more than once if it came before and was not done.
    fn taken(&self, stream: &str, consumer: &str, times_delivered: u64) {
        let _ = (stream, consumer, times_delivered);
    }

    /// A worker handled a stored message: what came of it, and how long the handler took.
    fn worked(&self, stream: &str, consumer: &str, outcome: &'static str, took: Duration) {
        let _ = (stream, consumer, outcome, took);
    }

    /// A stream was told what came of a message.
    fn settled(&self, stream: &str, consumer: &str, how: Settled) {
        let _ = (stream, consumer, how);
    }
}

/// What a stream was told of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Settled {
    /// It is done.
    Done,
    /// It is to come again.
    Again,
    /// It never will be done, and comes no more.
    Never,
    /// The same, after its dead letter was stored.
    Buried,
    /// Its dead letter could not be stored, so that it comes again.
    Unburied,
}

impl Settled {
    /// Its stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Done => "ack",
            Self::Again => "nak",
            Self::Never => "term",
            Self::Buried => "dead_letter",
            Self::Unburied => "dead_letter_unsent",
        }
    }
}

impl<T> Message<T> {
    /// A span in the trace that this message belongs to, for the work that it causes.
    /// Handlers of services and workers run in one already; a loop over a subscription
    /// puts its work into it, with `tracing::Instrument`.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span_of("consumer")
    }

    pub(crate) fn span_of(&self, kind: &'static str) -> Span {
        let subject = self.subject();
        let span = debug_span!(
            target: TARGET,
            "handle",
            otel.name = %format_args!("handle {subject}"),
            otel.kind = kind,
            messaging.system = "nats",
            messaging.destination.name = %subject,
            bulla.sender = self.sender().workload().path(),
            otel.status_code = Empty,
            "error.type" = Empty,
        );
        follow(&span, self.facts.traceparent);
        span
    }
}

/// The span of a request; in the running one, or else in the trace `given`.
pub(crate) fn asking(subject: &str, given: Option<TraceParent>) -> Span {
    let is_root = current().is_none();
    let span = debug_span!(
        target: TARGET,
        "request",
        otel.name = %format_args!("request {subject}"),
        otel.kind = "client",
        messaging.system = "nats",
        messaging.destination.name = subject,
        otel.status_code = Empty,
        "error.type" = Empty,
    );
    if is_root {
        follow(&span, given);
    }
    span
}

/// Says in a span what came of it.
pub(crate) fn conclude(span: &Span, outcome: &'static str) {
    if outcome != OK {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", outcome);
    }
}

pub(crate) const OK: &str = "ok";

/// What came of handling.
pub(crate) fn of_handling<T>(outcome: &Result<T, ServiceError>) -> &'static str {
    match outcome {
        Ok(_) => OK,
        Err(error) => error.code().as_str(),
    }
}

/// What came of sending.
pub(crate) fn of_sending(error: &SendError) -> &'static str {
    match error {
        SendError::Denied { .. } | SendError::MustAppend { .. } => "denied",
        SendError::TooLarge { .. } => "too_large",
        SendError::BufferFull => "buffer_full",
        SendError::Standing(_) => "not_standing",
        SendError::User { .. } => "user",
        SendError::Encrypt(_) => "not_encrypted",
        SendError::Link(_) => "link",
        _ => "not_sent",
    }
}

/// What came of publishing.
pub(crate) fn of_publishing(outcome: &Result<(), PublishError>) -> &'static str {
    match outcome {
        Ok(()) => OK,
        Err(PublishError::Send(error)) => of_sending(error),
        Err(PublishError::EarlierRefused { .. }) => "earlier_refused",
        Err(PublishError::EarlierUnsent { .. }) => "earlier_unsent",
    }
}

/// What came of appending.
pub(crate) fn of_appending<T>(outcome: &Result<T, AppendError>) -> &'static str {
    match outcome {
        Ok(_) => OK,
        Err(AppendError::Send(error)) => of_sending(error),
        Err(AppendError::Unconfirmed { .. }) => "unconfirmed",
        Err(AppendError::IdTaken { .. }) => "id_taken",
        Err(AppendError::Refused { .. } | AppendError::RefusedByServer { .. }) => "refused",
        Err(_) => "failed",
    }
}

/// What came of asking.
pub(crate) fn of_asking<T>(outcome: &Result<T, RequestError>) -> &'static str {
    match outcome {
        Ok(_) => OK,
        Err(RequestError::Service(error)) => error.code().as_str(),
        Err(RequestError::Send(_)) => "not_sent",
        Err(RequestError::Timeout { .. } | RequestError::DeadlinePassed { .. }) => "timeout",
        Err(RequestError::UnsoundReply { .. }) => "unsound_reply",
        Err(RequestError::NoResponders { .. }) => "no_responders",
        Err(RequestError::Refused { .. } | RequestError::RefusedByServer { .. }) => "refused",
        Err(_) => "failed",
    }
}

/// A span for what comes from outside, an HTTP request for example, in the trace that
/// came with it; the edge handles it in there.
#[must_use]
pub fn entrance(name: &str, trace: Option<TraceParent>) -> Span {
    let span = debug_span!(
        target: TARGET,
        "entrance",
        otel.name = name,
        otel.kind = "server",
        otel.status_code = Empty,
    );
    follow(&span, trace);
    span
}

/// The running span, as a message carries it; nothing if it is in no trace, or without
/// the feature `otel`.
#[must_use]
pub fn current() -> Option<TraceParent> {
    // Not even looked for where no span is in a trace.
    if cfg!(feature = "otel") {
        of_span(&Span::current())
    } else {
        None
    }
}

/// Puts a span into the trace of a message.
#[cfg(feature = "otel")]
fn follow(span: &Span, parent: Option<TraceParent>) {
    use opentelemetry::trace::TraceContextExt as _;
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    let Some(parent) = parent.filter(|_| !span.is_disabled()) else {
        return;
    };
    let Some((trace, rest)) = parent.as_bytes().split_first_chunk::<16>() else {
        return;
    };
    let Some((id, flags)) = rest.split_first_chunk::<8>() else {
        return;
    };
    let flags = flags.first().copied().unwrap_or_default();
    let remote = SpanContext::new(
        TraceId::from_bytes(*trace),
        SpanId::from_bytes(*id),
        TraceFlags::new(flags),
        true,
        TraceState::default(),
    );
    let context = opentelemetry::Context::new().with_remote_span_context(remote);
    // Without that layer nobody asks for it.
    let _ = span.set_parent(context);
}

#[cfg(not(feature = "otel"))]
fn follow(_: &Span, _: Option<TraceParent>) {}

/// A span as a message carries it, if it has a place in a trace.
#[cfg(feature = "otel")]
pub(crate) fn of_span(span: &Span) -> Option<TraceParent> {
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    let mut bytes = [0; 25];
    let ids = own.trace_id().to_bytes().into_iter();
    let ids = ids.chain(own.span_id().to_bytes());
    let ids = ids.chain([own.trace_flags().to_u8()]);
    for (to, from) in bytes.iter_mut().zip(ids) {
        *to = from;
    }
    // Nothing for ids of zero: then it has none.
    TraceParent::from_bytes(bytes)
}

#[cfg(not(feature = "otel"))]
pub(crate) fn of_span(_: &Span) -> Option<TraceParent> {
    None
}

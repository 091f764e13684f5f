//! What a broker is at, as spans for a collector of traces: nats-server's questions,
//! workloads' requests, records that are taken.
//!
//! ```text
//! connect ─┬─ decide      who it is, and what it may
//!          └─ answer      two signatures and a box
//! credential │ kem │ challenge │ join
//! take policy │ take trust bundle │ take revocation list │ take candidate
//! ```
//!
//! Spans hold the names of workloads, codes, and the ids of decisions, by which the audit
//! log has more; never a token, a key or a payload. An exchange of tokens is a span in
//! the trace of who asks, made by the SDK. Without a collector, and without a log at
//! DEBUG, none is made.

use bulla_process::TRACE_TARGET;
use data_encoding::HEXLOWER;
use tracing::field::Empty;
use tracing::{Span, debug_span};

use crate::decision::Decision;

/// A question of nats-server that was not asked before.
pub(crate) fn connecting() -> Span {
    debug_span!(
        target: TRACE_TARGET,
        "connect",
        otel.kind = "server",
        bulla.workload = Empty,
        bulla.decision = Empty,
        otel.status_code = Empty,
        "error.type" = Empty,
    )
}

/// Opening the question and finding out who asks.
pub(crate) fn deciding() -> Span {
    debug_span!(target: TRACE_TARGET, "decide")
}

/// Writing, signing and sealing what is answered.
pub(crate) fn answering() -> Span {
    debug_span!(target: TRACE_TARGET, "answer")
}

/// A workload's request: `verb` is `challenge`, `credential`, `kem` or `join`.
pub(crate) fn requested(verb: &'static str) -> Span {
    debug_span!(
        target: TRACE_TARGET,
        "request",
        otel.name = verb,
        otel.kind = "server",
        bulla.workload = Empty,
        bulla.decision = Empty,
        otel.status_code = Empty,
        "error.type" = Empty,
    )
}

/// A record of the control stream that may be taken.
pub(crate) fn taking(what: &'static str) -> Span {
    debug_span!(
        target: TRACE_TARGET,
        "take",
        otel.name = %format_args!("take {what}"),
        otel.kind = "consumer",
        otel.status_code = Empty,
        "error.type" = Empty,
    )
}

/// Says in the running span what was decided about whom: why not, if it is refused.
pub(crate) fn decided(decision: &Decision<'_>, refused: Option<&'static str>) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    span.record("bulla.workload", decision.workload);
    span.record("bulla.decision", HEXLOWER.encode(&decision.id));
    if let Some(code) = refused {
        failed(&span, code);
    }
}

/// Says in a span by which code it came to nothing.
pub(crate) fn failed(span: &Span, code: &'static str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", code);
}

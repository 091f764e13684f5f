//! W3C trace context ([traceparent]): taken from the client if it is well formed,
//! made here if not.
//!
//! [traceparent]: https://www.w3.org/TR/trace-context/#traceparent-header

use std::borrow::Cow;
use std::ops::Range;

use bulla_sdk::{TraceParent, telemetry};
use http::{HeaderMap, Method};
use tracing::Span;

/// The span of a request, in the client's trace. Its name says as little as its method:
/// paths are the client's, and many.
pub(crate) fn entrance(method: &Method, headers: &HeaderMap) -> Span {
    let name: Cow<'_, str> = match *method {
        Method::GET => "HTTP GET".into(),
        Method::POST => "HTTP POST".into(),
        _ => format!("HTTP {method}").into(),
    };
    telemetry::entrance(&name, given(headers).and_then(TraceParent::parse))
}

/// The `traceparent` of the message: the running span's, if it is in a trace.
pub(crate) fn of_message(headers: &HeaderMap) -> Option<TraceParent> {
    telemetry::current().or_else(|| next_traceparent(headers))
}

/// The only one that the client sent.
fn given(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all("traceparent").iter();
    match (values.next(), values.next()) {
        (Some(only), None) => only.to_str().ok(),
        _ => None,
    }
}

/// The `traceparent` of a message in no span of ours: the client's trace with a span of our own, or
/// a new trace.
fn next_traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut bytes: [u8; 25] = rand::random();
    // A trace that begins here is recorded by nobody.
    bytes[FLAGS] = 0;
    if let Some(given) = given(headers).and_then(TraceParent::parse) {
        let given = given.as_bytes();
        bytes[TRACE].copy_from_slice(&given[TRACE]);
        bytes[FLAGS] = given[FLAGS];
    }
    TraceParent::from_bytes(bytes)
}

/// Where its parts stand in the bytes of one.
const TRACE: Range<usize> = 0..16;
const FLAGS: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn next(values: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("traceparent", HeaderValue::from_str(value).unwrap());
        }
        next_traceparent(&headers).unwrap().to_string()
    }

    #[test]
    fn a_good_trace_goes_on_under_a_new_span() {
        let made = next(&[GOOD]);
        assert!(made.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && made.ends_with("-01"));
        assert_ne!(made, GOOD);
    }

    #[test]
    fn anything_else_begins_a_new_trace() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            let made = next(&[bad]);
            assert!(!made.contains("4bf92f35") && made.ends_with("-00"), "{bad}");
        }
        assert!(!next(&[GOOD, GOOD]).contains("4bf92f35"));
    }
}

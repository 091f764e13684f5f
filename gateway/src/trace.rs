//! W3C trace context ([traceparent]): taken from the client if it is well formed,
//! made here if not.
//!
//! [traceparent]: https://www.w3.org/TR/trace-context/#traceparent-header

use bulla_sdk::{TraceParent, telemetry};
use http::{HeaderMap, Method};
use tracing::Span;

/// The span of a request, in the client's trace. Its name says as little as its method:
/// paths are the client's, and many.
pub(crate) fn entrance(method: &Method, headers: &HeaderMap) -> Span {
    telemetry::entrance(
        &format!("HTTP {method}"),
        given(headers).and_then(TraceParent::parse),
    )
}

/// The `traceparent` of the message: the running span's, if it is in a trace.
pub(crate) fn of_message(headers: &HeaderMap) -> String {
    let running = telemetry::current();
    running.map_or_else(|| next_traceparent(headers), |trace| trace.to_string())
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
fn next_traceparent(headers: &HeaderMap) -> String {
    let span = random_hex::<8>();
    match given(headers).and_then(parse) {
        Some((trace, flags)) => format!("00-{trace}-{span}-{flags}"),
        None => format!("00-{}-{span}-00", random_hex::<16>()),
    }
}

fn parse(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let hex = |part: &str, length: usize| {
        part.len() == length
            && part
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    let good = version == "00"
        && parts.next().is_none()
        && hex(trace, 32)
        && !zero(trace)
        && hex(span, 16)
        && !zero(span)
        && hex(flags, 2);
    good.then_some((trace, flags))
}

fn random_hex<const N: usize>() -> String {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() || bytes == [0; N] {
        bytes = [1; N];
    }
    data_encoding::HEXLOWER.encode(&bytes)
}

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
        next_traceparent(&headers)
    }

    #[test]
    fn a_good_trace_goes_on_under_a_new_span() {
        let made = next(&[GOOD]);
        assert_eq!(
            parse(&made),
            Some(("4bf92f3577b34da6a3ce929d0e0e4736", "01"))
        );
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
            assert!(
                parse(&made).is_some() && !made.contains("4bf92f35"),
                "{bad}"
            );
        }
        assert!(!next(&[GOOD, GOOD]).contains("4bf92f35"));
    }
}

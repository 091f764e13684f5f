//! What operators and orchestrators ask: alive, ready, metrics. Never on the address
//! of the clients.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::bus::Bus;
use crate::handle::Edge;

/// Answers `/livez`, `/readyz` and `/metrics`.
pub(crate) fn answer<B: Bus>(
    edge: &Arc<Edge<B>>,
    stopping: bool,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        let get = HeaderValue::from_static("GET");
        response.headers_mut().insert(ALLOW, get);
        return response;
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => match unready(edge, stopping) {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, edge.metrics.text());
            response.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static(
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                ),
            );
            response
        }
        _ => text(StatusCode::NOT_FOUND, "nothing here\n"),
    }
}

fn unready<B: Bus>(edge: &Edge<B>, stopping: bool) -> Option<&'static str> {
    if stopping {
        Some("stopping\n")
    } else if !edge.bus.ready() {
        Some("the bus cannot be reached\n")
    } else if !edge.loaded.load().authenticator.ready() {
        Some("no issuer's keys could be fetched\n")
    } else {
        None
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

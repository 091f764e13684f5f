//! What goes wrong, as a client sees it: problem details ([RFC 9457]) with stable
//! types, and nothing of the bus.
//!
//! [RFC 9457]: https://www.rfc-editor.org/rfc/rfc9457

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::rate::whole_seconds;
use crate::schema::Violation;

/// Every way in which a request ends without its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request is not well formed.
    BadRequest(&'static str),
    /// The content is not what its type says.
    MalformedContent(&'static str),
    /// `Authorization` is there twice, or is no bearer token.
    BadAuthorization,
    /// There is no token.
    NoToken,
    /// The token is refused.
    InvalidToken,
    /// The proof that a token's key is held is refused.
    InvalidProof,
    /// There is no API key.
    NoKey,
    /// The API key is refused.
    InvalidKey,
    /// The connection showed no certificate.
    NoCertificate,
    /// Nobody here is known by the certificate.
    InvalidCertificate,
    /// The token lacks a scope.
    InsufficientScope(String),
    /// A policy says no.
    Forbidden,
    /// No such route.
    NotFound,
    /// The service knows no such thing.
    ResourceNotFound(String),
    /// The path has no such version.
    UnknownVersion,
    /// No such method on this path.
    MethodNotAllowed(Vec<Method>),
    /// The body took too long.
    RequestTimeout,
    /// The service says that the request conflicts with what is there.
    Conflict(String),
    /// The body is too large.
    ContentTooLarge,
    /// The path is too long.
    UriTooLong,
    /// The body's content type is not accepted; these are.
    UnsupportedMediaType(Vec<String>),
    /// The service does not accept the content.
    InvalidContent(String),
    /// The content is not what the route's schema says.
    SchemaViolated(Vec<Violation>),
    /// Somebody made too many requests.
    TooManyRequests {
        /// Until the next one is possible.
        wait: Duration,
        /// Which rates are used up.
        violated: Vec<String>,
    },
    /// Too many streams are open, here or of this user.
    TooManyStreams,
    /// The client's idempotency key stands for another request.
    IdempotencyMismatch,
    /// Whether the request with this key was carried out cannot be told any more.
    IdempotencyUnknown,
    /// Nobody answered lately, so nobody is asked for a while.
    Paused(Duration),
    /// The service failed.
    Internal,
    /// The reply is malformed or too large.
    BadReply,
    /// Nobody answers, or the edge cannot reach what it needs.
    Unavailable,
    /// Too many requests are in work.
    Overloaded,
    /// No answer in time. It does not prove that nothing happened.
    Timeout,
}

impl Problem {
    /// The last part of its `type`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::MalformedContent(_) | Self::BadAuthorization => {
                "bad-request"
            }
            Self::NoToken => "unauthorized",
            Self::InvalidToken => "invalid-token",
            Self::InvalidProof => "invalid-proof",
            Self::NoKey => "api-key-required",
            Self::InvalidKey => "invalid-api-key",
            Self::NoCertificate => "certificate-required",
            Self::InvalidCertificate => "invalid-certificate",
            Self::InsufficientScope(_) => "insufficient-scope",
            Self::Forbidden => "forbidden",
            Self::NotFound | Self::ResourceNotFound(_) => "not-found",
            Self::UnknownVersion => "unknown-version",
            Self::MethodNotAllowed(_) => "method-not-allowed",
            Self::RequestTimeout => "request-timeout",
            Self::Conflict(_) => "conflict",
            Self::ContentTooLarge => "content-too-large",
            Self::UriTooLong => "uri-too-long",
            Self::UnsupportedMediaType(_) => "unsupported-media-type",
            Self::InvalidContent(_) | Self::SchemaViolated(_) => "invalid-content",
            Self::TooManyRequests { .. } => "too-many-requests",
            Self::TooManyStreams => "too-many-streams",
            Self::IdempotencyMismatch => "idempotency-mismatch",
            Self::IdempotencyUnknown => "idempotency-unknown",
            Self::Internal => "internal",
            Self::BadReply => "bad-reply",
            Self::Unavailable | Self::Paused(_) => "unavailable",
            Self::Overloaded => "overloaded",
            Self::Timeout => "timeout",
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_)
            | Self::MalformedContent(_)
            | Self::BadAuthorization
            | Self::UnknownVersion => StatusCode::BAD_REQUEST,
            Self::NoToken
            | Self::InvalidToken
            | Self::InvalidProof
            | Self::NoKey
            | Self::InvalidKey => StatusCode::UNAUTHORIZED,
            // No scheme of HTTP authentication could ask for one.
            Self::NoCertificate
            | Self::InvalidCertificate
            | Self::InsufficientScope(_)
            | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound | Self::ResourceNotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) | Self::IdempotencyUnknown => StatusCode::CONFLICT,
            Self::ContentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidContent(_) | Self::SchemaViolated(_) | Self::IdempotencyMismatch => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::TooManyRequests { .. } | Self::TooManyStreams => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BadReply => StatusCode::BAD_GATEWAY,
            Self::Unavailable | Self::Paused(_) | Self::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn title(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::MalformedContent(_) | Self::BadAuthorization => {
                "The request is malformed"
            }
            Self::NoToken => "Authentication is required",
            Self::InvalidToken => "The access token is not valid",
            Self::InvalidProof => "The proof of possession is not valid",
            Self::NoKey => "An API key is required",
            Self::InvalidKey => "The API key is not valid",
            Self::NoCertificate => "A client certificate is required",
            Self::InvalidCertificate => "The client certificate is not known",
            Self::InsufficientScope(_) => "The access token lacks a scope",
            Self::Forbidden => "This is not allowed",
            Self::NotFound => "There is nothing here",
            Self::ResourceNotFound(_) => "This does not exist",
            Self::UnknownVersion => "There is no such version here",
            Self::MethodNotAllowed(_) => "The method is not supported here",
            Self::RequestTimeout => "The request took too long to arrive",
            Self::Conflict(_) => "This conflicts with the present state",
            Self::ContentTooLarge => "The content is too large",
            Self::UriTooLong => "The URI is too long",
            Self::UnsupportedMediaType(_) => "The content type is not supported",
            Self::InvalidContent(_) | Self::SchemaViolated(_) => "The content is not valid",
            Self::TooManyRequests { .. } => "Too many requests from you",
            Self::TooManyStreams => "Too many streams are open",
            Self::IdempotencyMismatch => "The idempotency key was used for something else",
            Self::IdempotencyUnknown => "It is not known whether this was carried out",
            Self::Internal => "Something failed",
            Self::BadReply => "The answer could not be used",
            Self::Unavailable | Self::Paused(_) => "This is not available at the moment",
            Self::Overloaded => "Too many requests at the moment",
            Self::Timeout => "There was no answer in time",
        }
    }

    fn detail(&self) -> Option<&str> {
        match self {
            Self::BadRequest(why) | Self::MalformedContent(why) => Some(why),
            Self::BadAuthorization => Some("send one `Authorization` header with one bearer token"),
            Self::ResourceNotFound(text) | Self::Conflict(text) | Self::InvalidContent(text) => {
                Some(text).filter(|t| !t.is_empty()).map(String::as_str)
            }
            Self::Timeout => Some("the request may have been carried out all the same"),
            Self::NoToken
            | Self::InvalidToken
            | Self::InvalidProof
            | Self::NoKey
            | Self::InvalidKey
            | Self::NoCertificate
            | Self::InvalidCertificate
            | Self::InsufficientScope(_)
            | Self::Forbidden
            | Self::NotFound
            | Self::UnknownVersion
            | Self::MethodNotAllowed(_)
            | Self::RequestTimeout
            | Self::ContentTooLarge
            | Self::UriTooLong
            | Self::UnsupportedMediaType(_)
            | Self::SchemaViolated(_)
            | Self::TooManyRequests { .. }
            | Self::TooManyStreams
            | Self::IdempotencyMismatch
            | Self::IdempotencyUnknown
            | Self::Internal
            | Self::BadReply
            | Self::Unavailable
            | Self::Paused(_)
            | Self::Overloaded => None,
        }
    }

    /// Whether an HTTP/1 connection ends with this answer: what follows on it cannot
    /// be told apart from the rest of this request.
    fn closes(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::BadAuthorization
                | Self::RequestTimeout
                | Self::ContentTooLarge
                | Self::UriTooLong
        )
    }

    pub(crate) fn response(
        &self,
        base: &str,
        decision: &str,
        http1: bool,
    ) -> Response<Full<Bytes>> {
        let status = self.status();
        let mut body = json!({
            "type": format!("{base}{}", self.name()),
            "title": self.title(),
            "status": status.as_u16(),
            "decision_id": decision,
        });
        if let Some(map) = body.as_object_mut() {
            if let Some(detail) = self.detail() {
                map.insert("detail".to_owned(), detail.into());
            }
            match self {
                Self::SchemaViolated(violations) => {
                    let errors = violations
                        .iter()
                        .map(|v| json!({"pointer": v.pointer, "detail": v.message}));
                    map.insert("errors".to_owned(), errors.collect());
                }
                Self::TooManyRequests { violated, .. } => {
                    map.insert("violated-policies".to_owned(), json!(violated));
                }
                _ => {}
            }
        }
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.add_headers(headers);
        if http1 && self.closes() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// `WWW-Authenticate` ([RFC 6750 §3]) and what else a status asks for.
    ///
    /// [RFC 6750 §3]: https://www.rfc-editor.org/rfc/rfc6750#section-3
    fn add_headers(&self, headers: &mut HeaderMap) {
        let mut set = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        match self {
            Self::NoToken => set(WWW_AUTHENTICATE, "Bearer realm=\"api\"".to_owned()),
            Self::InvalidToken => set(
                WWW_AUTHENTICATE,
                "Bearer realm=\"api\", error=\"invalid_token\"".to_owned(),
            ),
            Self::InvalidProof => set(
                WWW_AUTHENTICATE,
                "DPoP realm=\"api\", error=\"invalid_dpop_proof\"".to_owned(),
            ),
            Self::NoKey | Self::InvalidKey => {
                set(WWW_AUTHENTICATE, "ApiKey realm=\"api\"".to_owned());
            }
            Self::BadAuthorization => set(
                WWW_AUTHENTICATE,
                "Bearer realm=\"api\", error=\"invalid_request\"".to_owned(),
            ),
            Self::InsufficientScope(scope) => set(
                WWW_AUTHENTICATE,
                format!("Bearer realm=\"api\", error=\"insufficient_scope\", scope=\"{scope}\""),
            ),
            Self::MethodNotAllowed(methods) => {
                let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
                set(ALLOW, names.join(", "));
            }
            Self::UnsupportedMediaType(types) => set(ACCEPT, types.join(", ")),
            Self::Unavailable | Self::Overloaded | Self::TooManyStreams => {
                set(RETRY_AFTER, "1".to_owned());
            }
            Self::Paused(wait) | Self::TooManyRequests { wait, .. } => {
                set(RETRY_AFTER, whole_seconds(*wait).max(1).to_string());
            }
            Self::BadRequest(_)
            | Self::NoCertificate
            | Self::InvalidCertificate
            | Self::Forbidden
            | Self::NotFound
            | Self::UnknownVersion
            | Self::ResourceNotFound(_)
            | Self::RequestTimeout
            | Self::Conflict(_)
            | Self::ContentTooLarge
            | Self::UriTooLong
            | Self::InvalidContent(_)
            | Self::MalformedContent(_)
            | Self::SchemaViolated(_)
            | Self::IdempotencyMismatch
            | Self::IdempotencyUnknown
            | Self::Internal
            | Self::BadReply
            | Self::Timeout => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem_catalogue::CATALOGUE;

    #[test]
    fn every_problem_is_in_the_catalogue() {
        let all = [
            Problem::BadRequest(""),
            Problem::MalformedContent(""),
            Problem::BadAuthorization,
            Problem::NoToken,
            Problem::InvalidToken,
            Problem::InvalidProof,
            Problem::NoKey,
            Problem::InvalidKey,
            Problem::NoCertificate,
            Problem::InvalidCertificate,
            Problem::InsufficientScope(String::new()),
            Problem::Forbidden,
            Problem::NotFound,
            Problem::ResourceNotFound(String::new()),
            Problem::UnknownVersion,
            Problem::MethodNotAllowed(Vec::new()),
            Problem::RequestTimeout,
            Problem::Conflict(String::new()),
            Problem::ContentTooLarge,
            Problem::UriTooLong,
            Problem::UnsupportedMediaType(Vec::new()),
            Problem::InvalidContent(String::new()),
            Problem::SchemaViolated(Vec::new()),
            Problem::TooManyRequests {
                wait: Duration::ZERO,
                violated: Vec::new(),
            },
            Problem::TooManyStreams,
            Problem::IdempotencyMismatch,
            Problem::IdempotencyUnknown,
            Problem::Paused(Duration::ZERO),
            Problem::Internal,
            Problem::BadReply,
            Problem::Unavailable,
            Problem::Overloaded,
            Problem::Timeout,
        ];
        for problem in all {
            let known = CATALOGUE.iter().find(|t| t.name == problem.name());
            let known = known.unwrap_or_else(|| panic!("{}", problem.name()));
            assert_eq!(known.status, problem.status().as_u16(), "{}", known.name);
            if !matches!(problem, Problem::ResourceNotFound(_)) {
                assert_eq!(known.title, problem.title(), "{}", known.name);
            }
        }
    }
}

//! Heads that never became a request: hyper answers them by itself, with an empty answer, and
//! closes the connection. What there is to know of them comes from the error with which the
//! connection ends.
//!
//! Over HTTP/2 the library resets the stream, or answers 431, and goes on without a word to
//! anybody. There, what there is to know is how many heads no request came of.

use std::error::Error;

use hyper::StatusCode;

use crate::framing::Seen;

/// What hyper says of a target that is too long. It has one question for it and for a head
/// that is too large, and two answers.
const URI_TOO_LONG: &str = "URI too long";

/// A head of which no request came, or several of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unread {
    /// Among the reasons of the metrics.
    pub(crate) reason: &'static str,
    /// How it was answered; not at all where HTTP/2 begins in the middle of HTTP/1, and nobody
    /// knows how over HTTP/2.
    pub(crate) status: Option<StatusCode>,
    pub(crate) heads: u64,
}

impl Unread {
    /// What the end of a connection says; nothing if it did not end with such a head.
    pub(crate) fn of(ended: &(dyn Error + 'static)) -> Option<Self> {
        let error = ended.downcast_ref::<hyper::Error>()?;
        let (reason, status) = if error.is_parse_version_h2() {
            ("malformed_head", None)
        } else if error.is_parse_too_large() && error.to_string() == URI_TOO_LONG {
            ("large_head", Some(StatusCode::URI_TOO_LONG))
        } else if error.is_parse_too_large() {
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            ("large_head", Some(status))
        } else if error.is_parse() {
            ("malformed_head", Some(StatusCode::BAD_REQUEST))
        } else {
            return None;
        };
        Some(Self {
            reason,
            status,
            heads: 1,
        })
    }

    /// A head that `framing` kept from hyper, which was given a line that is none in its place,
    /// and did not come to read it if it was about to close the connection.
    pub(crate) fn framed_twice(ended: Option<Self>) -> Self {
        Self {
            reason: "framed_twice",
            status: ended.and_then(|unread| unread.status),
            heads: 1,
        }
    }

    /// What HTTP/2 has refused on a connection that has ended.
    pub(crate) fn by_h2(seen: &Seen) -> Option<Self> {
        let heads = seen.refused_by_h2();
        (heads > 0).then_some(Self {
            reason: "http2_head",
            status: None,
            heads,
        })
    }
}

/// Why hyper has ended a connection of HTTP/2, if the other end has broken its rules or asked
/// for too much.
pub(crate) fn broken_h2<'e>(ended: &'e (dyn Error + 'static)) -> Option<&'e h2::Error> {
    let error = ended.downcast_ref::<hyper::Error>()?;
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    (error.is_library() && error.is_go_away()).then_some(error)
}

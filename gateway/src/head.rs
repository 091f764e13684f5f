//! What must hold of every head of a request, whatever its route.

use http::header::{AUTHORIZATION, COOKIE, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderName, Request, Version};

use crate::authenticate::AuthError;
use crate::problem::Problem;
use crate::refusal::{Refusal, deny};

/// How many header fields it has, as HTTP/1 would write it: there the authority is one of them,
/// and the cookies, which HTTP/2 may send one by one, are one.
pub(crate) fn header_count<B>(request: &Request<B>) -> usize {
    let headers = request.headers();
    if request.version() <= Version::HTTP_11 {
        return headers.len();
    }
    let cookies = headers.get_all(COOKIE).iter().count();
    let has_host = request.uri().authority().is_some() && !headers.contains_key(HOST);
    headers.len() - cookies.saturating_sub(1) + usize::from(has_host)
}

/// Refuses what no route may see: anything that two readers could read differently, and
/// headers that are the bus's own.
pub(crate) fn check_head(head: &Parts, max_uri: usize) -> Result<(), Refusal> {
    let malformed = |why| deny(Problem::BadRequest(why), "malformed_request");
    let target = head.uri.path().len() + head.uri.query().map_or(0, |q| q.len() + 1);
    if target > max_uri {
        return Err(Problem::UriTooLong.into());
    }
    if head.version <= Version::HTTP_11 {
        if head.uri.authority().is_some() {
            return Err(malformed("the request target is not a path"));
        }
        let mut hosts = head.headers.get_all(HOST).iter();
        if hosts.next().is_none() && head.version == Version::HTTP_11 || hosts.next().is_some() {
            return Err(malformed("send one `Host` header"));
        }
        // A `Content-Length` beside it cannot be seen here any more: `framing` refuses it.
        let mut encodings = head.headers.get_all(TRANSFER_ENCODING).iter();
        if let Some(encoding) = encodings.next()
            && (!encoding.as_bytes().eq_ignore_ascii_case(b"chunked") || encodings.next().is_some())
        {
            return Err(malformed("the only transfer encoding is `chunked`"));
        }
    } else if let Some(authority) = head.uri.authority() {
        // HTTP/2 says the host where HTTP/1.1 says the target's; `Host` may repeat it.
        let authority = authority.as_str();
        let mut hosts = head.headers.get_all(HOST).iter();
        if authority.contains('@') || hosts.any(|host| host.as_bytes() != authority.as_bytes()) {
            return Err(malformed(
                "the authority names a user, or `Host` is another one",
            ));
        }
    }
    let from_bus = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("bulla-") || name.starts_with("nats-")
    };
    if head.headers.keys().any(from_bus) {
        return Err(deny(
            Problem::BadRequest("a header is reserved"),
            "internal_header",
        ));
    }
    if head.headers.get_all(AUTHORIZATION).iter().count() > 1 {
        return Err(deny(Problem::BadAuthorization, AuthError::Repeated.code()));
    }
    Ok(())
}

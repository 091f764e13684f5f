//! Replies that are packed on their way, where a route says so.
//!
//! # Security
//! How long a packed reply is tells something of what is in it. Where a page of a stranger
//! can have a browser ask, and chooses a part of what the reply repeats, it can guess a
//! secret that stands beside it letter by letter ([BREACH]). So nothing is packed unless its
//! route says that no reply has a secret.
//!
//! [BREACH]: https://www.breachattack.com/

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};

/// What is shorter gains nothing.
const LEAST: usize = 1_024;

/// From here on it is not done on a thread that answers others.
const MUCH: usize = 128 * 1_024;

/// The body packed, if the client takes that and it gains something.
pub(crate) async fn pack(request: &HeaderMap, reply: &HeaderMap, body: &Bytes) -> Option<Bytes> {
    if body.len() < MUCH {
        return packed(request, reply, body);
    }
    let (request, reply, body) = (request.clone(), reply.clone(), body.clone());
    let packing = tokio::task::spawn_blocking(move || packed(&request, &reply, &body));
    packing.await.ok().flatten()
}

fn packed(request: &HeaderMap, reply: &HeaderMap, body: &Bytes) -> Option<Bytes> {
    let kind = reply.get(CONTENT_TYPE)?.to_str().ok()?;
    if body.len() < LEAST || reply.contains_key(CONTENT_ENCODING) || !is_text(kind) {
        return None;
    }
    if !takes_gzip(request) {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    let packed = encoder.finish().ok()?;
    (packed.len() < body.len()).then(|| packed.into())
}

fn is_text(kind: &str) -> bool {
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.starts_with("text/") || crate::json::is_json(essence)
}

/// [RFC 9110 §12.5.3]: named with a weight above zero, or meant by `*` and not excluded.
///
/// [RFC 9110 §12.5.3]: https://www.rfc-editor.org/rfc/rfc9110#section-12.5.3
fn takes_gzip(request: &HeaderMap) -> bool {
    let mut named = None;
    let mut any = false;
    for value in request.get_all(ACCEPT_ENCODING) {
        for item in value.to_str().unwrap_or_default().split(',') {
            let mut parts = item.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default();
            let weight = parts.find_map(|p| p.strip_prefix("q=").or(p.strip_prefix("Q=")));
            let weight = weight.map_or(Ok(1.0), str::parse::<f32>);
            let counts = weight.is_ok_and(|w| w > 0.0);
            if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
                named = Some(counts);
            } else if coding == "*" {
                any = counts;
            }
        }
    }
    named.unwrap_or(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_client_says_whether_it_takes_packed_replies() {
        for yes in [
            "gzip",
            "br, GZIP;q=0.5",
            "*",
            "x-gzip",
            "identity, gzip ; q=1",
        ] {
            assert!(takes_gzip(&headers(ACCEPT_ENCODING, yes)), "{yes}");
        }
        for no in [
            "",
            "br",
            "gzip;q=0",
            "*, gzip;q=0",
            "*;q=0",
            "gzip;q=x",
            "gzipped",
        ] {
            assert!(!takes_gzip(&headers(ACCEPT_ENCODING, no)), "{no}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn what_is_short_packed_already_or_no_text_stays_as_it_is() {
        let asks = headers(ACCEPT_ENCODING, "gzip");
        let json = headers(CONTENT_TYPE, "application/json");
        let long = Bytes::from("{\"a\":1}".repeat(1_000));
        let small = packed(&asks, &json, &long).unwrap();
        assert!(small.len() < 200);
        assert!(packed(&asks, &json, &long.slice(..1_000)).is_none());
        assert!(packed(&HeaderMap::new(), &json, &long).is_none());
        assert!(packed(&asks, &headers(CONTENT_TYPE, "image/png"), &long).is_none());
        let mut done = json.clone();
        done.insert(CONTENT_ENCODING, "br".parse().unwrap());
        assert!(packed(&asks, &done, &long).is_none());
    }
}

//! What of the edge reads bytes of clients, proxies and administrators, as one function of
//! bytes: for fuzzers and the test below, and nobody else.
//!
//! Tokens, proofs of possession and key sets are read in `bulla-token`, which has targets
//! of its own.
#![allow(clippy::indexing_slicing, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::api::ApiConfig;
use crate::authenticate::access_token;
use crate::client_address::{ClientsConfig, ForwardedBy};
use crate::client_stream::proxy_header;
use crate::config::Limits;
use crate::document::Document;
use crate::event_content::EventContent;
use crate::framing::Heads;
use crate::gateway_file::read_gateway;
use crate::networks::{Networks, parse_network};
use crate::path::{CleanPath, PathTemplate};
use crate::quantities::{parse_duration, parse_size};
use crate::route_file::{RouteFile, Surroundings, read_routes};
use crate::section::Section;
use crate::{framing_compared, idempotency, json, listen};

/// Reads bytes in the way that the first of them says.
///
/// # Panics
/// If something holds no more that must hold whatever the bytes are.
pub fn read(data: &[u8]) {
    let Some((way, bytes)) = data.split_first() else {
        return;
    };
    match way {
        b'p' => path(bytes),
        b'r' => routes(bytes),
        b'g' => gateway(bytes),
        b'f' => forwarded(bytes),
        b'x' => proxy(bytes),
        b'h' => headers(bytes),
        b'j' => content(bytes),
        b'c' => connection(bytes),
        b'd' => framing_compared::compare(bytes),
        _ => event(bytes),
    }
}

/// A path is clean or refused, and what it captures is one plain token.
fn path(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else {
        return;
    };
    let Ok(clean) = CleanPath::parse(&uri) else {
        return;
    };
    for segment in clean.segments() {
        assert!(!segment.is_empty() && segment != "." && segment != "..");
        assert!(!segment.contains(['/', '\\']) && !segment.bytes().any(|b| b.is_ascii_control()));
    }
    for template in ["/{a}", "/v1/{a}", "/{a}/{b}/{c}"] {
        let template = PathTemplate::parse(template).ok();
        let captures = template.as_ref().and_then(|t| t.matches(&clean));
        for capture in captures.into_iter().flatten() {
            assert!((1..=64).contains(&capture.len()));
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            assert!(capture.bytes().all(plain), "{capture}");
        }
    }
}

/// A routes file gives routes, or says why not.
fn routes(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (api, limits) = (ApiConfig::default(), Limits::default());
    let around = Surroundings {
        api: &api,
        claims: &[],
        issuers: &[],
        issuers_complete: false,
        rates: &[],
        rates_complete: false,
        default_rates: &[],
        breaker: None,
        has_api_keys: true,
        has_certificates: true,
        limits: &limits,
    };
    let file = RouteFile {
        name: "routes.toml".to_owned(),
        text: text.to_owned(),
        base: PathBuf::from("/nowhere"),
    };
    let (table, problems) = read_routes(&[file], around);
    assert!(
        table.is_some() || !problems.is_empty(),
        "refused in silence"
    );
    let lines = text.lines().count() + 1;
    for problem in &problems {
        assert!(problem.line <= lines, "{problem}");
    }
    let Some(table) = table.filter(|_| problems.is_empty()) else {
        return;
    };
    if let Ok(clean) = CleanPath::parse(&Uri::from_static("/v1/orders/42")) {
        let _ = table.find(&Method::GET, &clean, None);
        let _ = table.methods(&clean);
    }
}

/// A `gateway.toml` whose files are not there.
fn gateway(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let document = Document::new("gateway.toml", text);
    let trees = document.trees();
    if let Some((tree, begin)) = trees.first() {
        let parts = read_gateway(
            Section::root(&document, tree, *begin),
            Path::new("/nowhere"),
        );
        drop(parts);
    }
    drop(trees);
    for problem in document.into_problems() {
        assert!(problem.line <= text.lines().count() + 1, "{problem}");
    }
    let _ = (parse_duration(text), parse_size(text));
}

/// Lines of forwarding headers: the client is never a trusted proxy, and who is no proxy is
/// believed nothing.
fn forwarded(bytes: &[u8]) {
    let trusted = parse_network("10.0.0.0/8").into_iter();
    let trusted: Networks = trusted.collect();
    for by in [ForwardedBy::Forwarded, ForwardedBy::XForwardedFor] {
        let name = match by {
            ForwardedBy::Forwarded => HeaderName::from_static("forwarded"),
            ForwardedBy::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        };
        let headers = lines(&name, bytes);
        let clients = ClientsConfig {
            trusted_proxies: trusted.clone(),
            forwarded: Some(by),
            ..ClientsConfig::default()
        };
        let at = |address: [u8; 4]| SocketAddr::from((address, 1));
        if let Some(client) = clients.client(at([10, 0, 0, 1]), &headers) {
            assert!(!clients.is_proxy(client) && !client.is_unspecified());
        }
        let stranger = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(clients.client(at([192, 0, 2, 1]), &headers), Some(stranger));
    }
}

/// A PROXY header is no longer than what is there, and a part of one is never another.
fn proxy(bytes: &[u8]) {
    if let Ok(Some((address, length))) = proxy_header(bytes) {
        assert!((1..=bytes.len()).contains(&length));
        let alone = proxy_header(&bytes[..length]);
        assert!(matches!(alone, Ok(Some((same, l))) if same == address && l == length));
        let part = proxy_header(&bytes[..length - 1]);
        assert!(matches!(part, Ok(None) | Err(_)));
    }
}

/// Values of headers that the edge reads itself.
fn headers(bytes: &[u8]) {
    let keys = lines(&idempotency::KEY, bytes);
    if let Ok(Some(key)) = idempotency::key(&keys) {
        assert!((1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()));
    }
    let events = lines(&HeaderName::from_static("last-event-id"), bytes);
    if let Ok(Some(number)) = listen::last_event(&events, &[]) {
        let said = events.values().next().and_then(|value| value.to_str().ok());
        let digits = said.unwrap_or_default().trim_start_matches('0');
        let expected = if number == 0 {
            String::new()
        } else {
            number.to_string()
        };
        assert_eq!(digits, expected);
    }
    if let Ok((_, token)) = access_token(&lines(&AUTHORIZATION, bytes)) {
        assert!(!token.is_empty() && !token.contains([' ', ',']));
    }
}

/// One header for each line.
fn lines(name: &HeaderName, bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|b| *b == b'\n').take(64) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    headers
}

/// Heads of a connection are judged alike however they are cut into packets.
fn connection(bytes: &[u8]) {
    let heads = || Heads::new(64, 16 << 10);
    let whole = heads().look(bytes);
    assert!(whole.is_none_or(|good| good < bytes.len()));
    let step = 1 + bytes.len() % 7;
    let mut pieces = heads();
    let refused = bytes.chunks(step).any(|piece| pieces.look(piece).is_some());
    assert_eq!(refused, whole.is_some());
}

/// JSON that passes is JSON to everybody, and no deeper than it may be.
fn content(bytes: &[u8]) {
    if json::check(bytes, 8).is_ok() {
        let value: Result<serde_json::Value, _> = serde_json::from_slice(bytes);
        assert!(value.is_ok_and(|value| depth(&value) <= 8));
    }
}

fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What is told as text is text.
fn event(bytes: &[u8]) {
    for content_type in ["application/msgpack", "application/json", "text/plain"] {
        let content = EventContent::of(content_type, Bytes::copy_from_slice(bytes));
        if let EventContent::Text(text) = content {
            assert!(std::str::from_utf8(&text).is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Good and odd ones of each way, which the fuzzer begins with too.
    fn seeds() -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/edge/corpus");
        let entries = std::fs::read_dir(folder).unwrap();
        let mut seeds: Vec<Vec<u8>> = entries
            .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
            .collect();
        for (way, file) in [(b'r', "routes.toml"), (b'g', "gateway.toml")] {
            let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/full");
            let text = std::fs::read(full.join(file)).unwrap();
            seeds.push([&[way][..], &text].concat());
        }
        seeds
    }

    #[test]
    fn whatever_comes_is_read_or_refused() {
        let mut state = 0x9e37_79b9_u32;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as usize
        };
        for seed in seeds() {
            read(&seed);
            // Long ones take longer.
            for _ in 0..20_000 / (seed.len() + 40) {
                let mut bytes = seed.clone();
                for _ in 0..1 + next() % 4 {
                    let at = 1 + next() % bytes.len().max(2).saturating_sub(1);
                    let at = at.min(bytes.len());
                    match next() % 4 {
                        0 => bytes.truncate(at.max(1)),
                        1 => bytes.insert(at, u8::try_from(next() % 256).unwrap()),
                        2 => {
                            let piece = bytes[at..].iter().take(next() % 24).copied();
                            let piece: Vec<u8> = piece.collect();
                            bytes.extend(piece);
                        }
                        _ => {
                            if let Some(byte) = bytes.get_mut(at) {
                                *byte ^= 1 << (next() % 8);
                            }
                        }
                    }
                }
                read(&bytes);
            }
        }
    }
}

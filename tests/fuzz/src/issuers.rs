//! What an issuer says of itself, when it is asked where its keys are. The first byte says
//! whether it was asked on this machine (`h`) or elsewhere.

use std::sync::LazyLock;

use serde_json::Value;
use url::{Host, Url};

use super::issuer_discovery::{DescriptionError, description_of, is_loopback, key_url, keys_of};

const ISSUER: &str = "https://login.example/shop";

static ELSEWHERE: LazyLock<Url> = LazyLock::new(|| Url::parse(ISSUER).expect("a URL"));
static HERE: LazyLock<Url> =
    LazyLock::new(|| Url::parse("http://127.0.0.1:8080/shop").expect("a URL"));

/// Made before memory is measured.
pub fn prepare() {
    LazyLock::force(&ELSEWHERE);
    LazyLock::force(&HERE);
}

pub fn description(data: &[u8]) {
    let (asked, description): (&Url, _) = match data.split_first() {
        Some((b'h', rest)) => (&HERE, rest),
        Some((_, rest)) => (&ELSEWHERE, rest),
        None => return,
    };
    issuer_name(description);
    let keys = match keys_of(description, ISSUER, asked) {
        Ok(keys) => keys,
        Err(DescriptionError::Here) => {
            assert!(!is_loopback(asked), "who is here may name what is here");
            return;
        }
        Err(_) => return,
    };
    let plain: Value = serde_json::from_slice(description).expect("JSON");
    assert_eq!(plain["issuer"], ISSUER, "another issuer's");
    assert!(keys.username().is_empty() && keys.password().is_none());
    assert_eq!(key_url(keys.as_str()).as_ref(), Ok(&keys));
    match keys.scheme() {
        "https" => {}
        "http" => assert!(is_loopback(&keys) && is_loopback(asked)),
        other => panic!("keys by `{other}`"),
    }
    if !is_loopback(asked) {
        match keys.host().expect("https has one") {
            Host::Ipv4(ip) => assert!(!ip.is_loopback() && !ip.is_unspecified()),
            Host::Ipv6(ip) => {
                let ip = ip.to_canonical();
                assert!(!ip.is_loopback() && !ip.is_unspecified());
            }
            Host::Domain(name) => {
                let last = name.trim_end_matches('.').rsplit('.').next();
                assert_ne!(last, Some("localhost"));
            }
        }
    }
}

/// The same bytes as the name of an issuer that somebody configured.
fn issuer_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(issuer) = key_url(text)
        && let Some(at) = description_of(&issuer)
    {
        assert_eq!((at.scheme(), at.host()), (issuer.scheme(), issuer.host()));
        assert_eq!(at.port_or_known_default(), issuer.port_or_known_default());
        assert!(at.path().ends_with("/.well-known/openid-configuration"));
    }
}

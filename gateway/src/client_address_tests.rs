//! Client addresses, by the cases of others and our own.

use super::*;
use crate::networks::parse_network;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

const PEER: &str = "9.9.9.9:1";

fn trusted(ranges: &[&str]) -> Networks {
    ranges.iter().map(|r| parse_network(r).unwrap()).collect()
}

fn config(by: ForwardedBy, ranges: &[&str]) -> ClientsConfig {
    ClientsConfig {
        trusted_proxies: trusted(ranges),
        forwarded: Some(by),
        ..ClientsConfig::default()
    }
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    map
}

#[test]
fn a_client_that_is_no_proxy_says_nothing_about_its_address() {
    for by in [ForwardedBy::Forwarded, ForwardedBy::XForwardedFor] {
        let config = config(by, &["10.0.0.0/8"]);
        let lied = headers(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
        ]);
        assert_eq!(
            config.client(PEER.parse().unwrap(), &lied),
            "9.9.9.9".parse().ok()
        );
    }
}

#[test]
fn only_the_configured_header_counts() {
    let config = config(ForwardedBy::XForwardedFor, &["9.9.9.9"]);
    let both = headers(&[
        ("forwarded", "for=5.5.5.5"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-real-ip", "7.7.7.7"),
    ]);
    let client = config.client(PEER.parse().unwrap(), &both);
    assert_eq!(client, "6.6.6.6".parse().ok());
}

#[test]
fn without_proxies_no_header_counts() {
    let config = ClientsConfig::default();
    let lied = headers(&[("x-forwarded-for", "1.2.3.4")]);
    let client = config.client("[::ffff:9.9.9.9]:1".parse().unwrap(), &lied);
    assert_eq!(client, "9.9.9.9".parse().ok());
}

#[test]
fn rules_know_no_unknown_client() {
    let rules = |allow: &[&str], deny: &[&str]| NetworkRules {
        allow: trusted(allow),
        deny: trusted(deny),
    };
    let home = "192.0.2.1".parse().ok();
    assert!(rules(&[], &[]).admits(None));
    assert!(!rules(&[], &["10.0.0.0/8"]).admits(None));
    assert!(!rules(&["0.0.0.0/0"], &[]).admits(None));
    assert!(rules(&[], &["10.0.0.0/8"]).admits(home));
    assert!(rules(&["192.0.2.0/24"], &[]).admits(home));
    assert!(!rules(&["192.0.2.0/24"], &["192.0.2.1"]).admits(home));
    assert!(!rules(&["198.51.100.0/24"], &[]).admits(home));
}

fn cases(strategy: &str) -> Vec<Value> {
    let Ok(dir) = std::env::var("BULLA_VECTORS") else {
        println!("external vectors were not run: BULLA_VECTORS is unset");
        return Vec::new();
    };
    let path = std::path::Path::new(&dir).join("http/client_ip_cases.json");
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = all["cases"].as_array().unwrap().clone();
    let of_strategy: Vec<Value> = cases
        .into_iter()
        .filter(|c| c["strategy"] == strategy && c["config_error"] == false)
        .collect();
    assert!(!of_strategy.is_empty(), "{strategy}");
    of_strategy
}

fn case_headers(case: &Value) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, values) in case["headers"].as_object().unwrap() {
        for value in values.as_array().unwrap() {
            map.append(
                HeaderName::try_from(name.as_str()).unwrap(),
                HeaderValue::from_str(value.as_str().unwrap()).unwrap(),
            );
        }
    }
    map
}

fn wanted(case: &Value) -> Option<IpAddr> {
    let want = case["want"].as_str().unwrap();
    (!want.is_empty()).then(|| want.parse().unwrap())
}

#[test]
fn external_rightmost_untrusted_cases() {
    for case in cases("RightmostTrustedRangeStrategy") {
        let name = case["name"].as_str().unwrap();
        // Zones mean something on one machine only: no address with one is taken.
        if case["want"].as_str().unwrap().contains('%') {
            continue;
        }
        let by = match case["header"].as_str().unwrap() {
            "Forwarded" => ForwardedBy::Forwarded,
            _ => ForwardedBy::XForwardedFor,
        };
        let ranges: Vec<String> = match &case["trusted_ranges"] {
            Value::Array(ranges) => ranges
                .iter()
                .map(|r| r.as_str().unwrap().to_owned())
                .collect(),
            Value::String(name) if name == "ranges.Cloudflare" => vec!["2400:cb00::/32".into()],
            _ => Vec::new(),
        };
        let ranges: Vec<&str> = ranges.iter().map(String::as_str).collect();
        let peer = case["remote_addr"].as_str().unwrap_or_default();
        let got = match peer.parse::<IpAddr>().ok().filter(|p| !p.is_unspecified()) {
            Some(peer) => {
                config(by, &ranges).client(SocketAddr::new(peer, 1), &case_headers(&case))
            }
            None => match peer.parse::<SocketAddr>() {
                Ok(peer) => config(by, &ranges).client(peer, &case_headers(&case)),
                // What is no address to them is a connection of a proxy to us.
                Err(_) => {
                    rightmost_untrusted(&forwarded_for(by, &case_headers(&case)), &trusted(&ranges))
                }
            },
        };
        assert_eq!(got, wanted(&case), "{name}");
    }
}

#[test]
fn external_cases_of_one_address() {
    for case in cases("SingleIPHeaderStrategy") {
        let name = case["name"].as_str().unwrap();
        let header = case["header"].as_str().unwrap();
        let map = case_headers(&case);
        let text = map
            .get_all(header)
            .iter()
            .next_back()
            .map(|v| v.to_str().unwrap());
        let got = text.and_then(parse_address);
        if text.is_some_and(|t| t.contains('%')) {
            assert_eq!(got, None, "{name}");
        } else {
            assert_eq!(got, wanted(&case), "{name}");
        }
    }
}

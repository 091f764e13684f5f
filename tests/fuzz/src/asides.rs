//! Smaller things that travel beside messages: encrypted claims in a token, an enforcer's
//! report, a box between nats-server and a broker, the headers of a CloudEvent. The first
//! byte says which.

use bulla_keyring::{CurveBox, CurveSeed};

use super::cloud_event::CloudEvent;
use super::enforcer_report::EnforcerReport;
use super::private_claims::Part;

pub fn all(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind {
        b'p' => private_claims(rest),
        b'r' => report(rest),
        b'b' => opened(rest),
        b'B' => sealed(rest),
        b'c' => cloud_event(rest),
        _ => {}
    }
}

/// What was read is written down the same way, but for a suite that is written no more.
fn private_claims(data: &[u8]) {
    let Ok(part) = serde_json::from_slice::<Part>(data) else {
        return;
    };
    let Some(claims) = part.read() else {
        return;
    };
    let written = serde_json::to_value(Part::of(&claims)).expect("JSON");
    let mut read = serde_json::to_value(&part).expect("JSON");
    read["suite"] = written["suite"].clone();
    assert_eq!(read, written);
}

fn report(data: &[u8]) {
    let Ok(report) = EnforcerReport::decode(data) else {
        return;
    };
    for text in [&report.version, &report.policy, &report.standing] {
        assert!(text.chars().all(|c| c.is_ascii_graphic()), "{text:?}");
    }
    // Its numbers are as long as they were, and what was not known is gone.
    let again = EnforcerReport::decode(&report.encode());
    assert!(again.is_err() || again == Ok(report));
}

fn shared() -> CurveBox {
    let (own, peer) = (CurveSeed::from_random(&[2; 32]), [5; 32]);
    let peer = CurveSeed::from_random(&peer).public();
    own.shared_with(&peer).expect("a sound key")
}

/// Nobody else knows the key.
fn opened(data: &[u8]) {
    assert!(shared().open(data).is_err());
}

/// Only what was sealed opens, whatever byte is changed.
fn sealed(data: &[u8]) {
    let both = shared();
    let (nonce, plain) = data.split_first_chunk().unwrap_or((&[0; 24], data));
    let mut sealed = both.seal(plain, *nonce).expect("a box");
    assert_eq!(both.open(&sealed).expect("the same").as_slice(), plain);
    let at = data.len() % sealed.len();
    sealed[at] ^= 1;
    assert!(both.open(&sealed).is_err());
}

/// Each line is a header, its name before the first colon.
fn cloud_event(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let headers = text.split('\n').filter_map(|line| line.split_once(':'));
    let Ok(Some(event)) = CloudEvent::of_headers(headers) else {
        return;
    };
    let written: Vec<_> = event
        .headers()
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    let again = written.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    assert_eq!(CloudEvent::of_headers(again), Ok(Some(event)));
}

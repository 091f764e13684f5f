//! Requests, credentials, bundles and policies: as they come, or, behind a first
//! byte of [`SIGN`], as statements that are signed by who should sign them.

use std::time::Duration;

use bulla_envelope::{
    Bounds, Credential, CredentialRequest, Freshness, Head, KemRecord, PolicyCandidate,
    RequestExpectation, RevocationList, Revoked, SignedPolicy, TrustBundle,
};
use bulla_keyring::{KemPublic, KemSuite, Signature, Tag};

use super::canonical;
use super::shop::SHOP;

/// No array begins with it.
const SIGN: u8 = b'S';

/// The bytes, and whether they were signed here.
fn genuine_or(data: &[u8], sign: impl FnOnce(&[u8]) -> Vec<u8>) -> (Vec<u8>, bool) {
    match data.split_first() {
        Some((&SIGN, statement)) => (sign(statement), true),
        _ => (data.to_vec(), false),
    }
}

pub fn credential(data: &[u8]) {
    let (bytes, signed) = genuine_or(data, |claims| {
        array(&[
            bin(claims),
            signature(SHOP.issuing.sign(Tag::Credential, &[claims])),
        ])
    });
    let Ok(credential) = Credential::decode(&bytes) else {
        return;
    };
    let claims = canonical::bytes_at(&canonical::assert(&bytes), 0);
    canonical::assert(&canonical::bytes_at(&canonical::assert(&claims), 1));
    assert_eq!(credential.as_bytes(), bytes);
    let verified = credential.verify(&SHOP.bundle, SHOP.anchors(), SHOP.now, SHOP.skew);
    if let Ok(verified) = verified {
        // The countersignature is never made here.
        assert_eq!(verified.workload(), SHOP.credential.workload());
        assert!(signed || SHOP.is_genuine(&bytes), "a forgery verifies");
    }
}

pub fn request(data: &[u8]) {
    let (bytes, signed) = genuine_or(data, |statement| {
        let sign = |tag| SHOP.message_key.sign(tag, &[statement]);
        array(&[
            bin(statement),
            signature(sign(Tag::CredentialRequest)),
            vec![0xc0],
            array(&[
                bin(SHOP.nkey.public().bytes()),
                signature(SHOP.nkey.sign(Tag::Countersignature, &[statement])),
            ]),
        ])
    });
    let Ok(request) = CredentialRequest::decode(&bytes) else {
        return;
    };
    canonical::assert(&canonical::bytes_at(&canonical::assert(&bytes), 0));
    let challenge = [7; 32];
    let expected = RequestExpectation {
        tag: request.claimed_workload().tag(),
        challenge: &challenge,
        anchors: SHOP.anchors(),
        now: SHOP.now,
        skew: SHOP.skew,
        max_age: Duration::from_secs(60),
    };
    if request.verify(&expected).is_ok() {
        assert!(signed, "a forgery verifies");
    }
}

pub fn kem_record(data: &[u8]) {
    let (bytes, signed) = genuine_or(data, |statement| {
        array(&[
            bin(statement),
            array(&[
                bin(SHOP.nkey.public().bytes()),
                signature(SHOP.nkey.sign(Tag::KemRecord, &[statement])),
            ]),
        ])
    });
    let Ok(record) = KemRecord::decode(&bytes) else {
        return;
    };
    canonical::assert(&canonical::bytes_at(&canonical::assert(&bytes), 0));
    for suite in KemSuite::ALL {
        let key = record.key(suite);
        assert_eq!(
            KemPublic::from_bytes(suite, key.as_bytes()).as_ref(),
            Ok(key)
        );
    }
    let workload = record.claimed_workload().clone();
    if record.verify(&workload, SHOP.nkeys()).is_ok() {
        assert!(signed || SHOP.is_genuine(&bytes), "a forgery verifies");
    }
}

pub fn bundle(data: &[u8]) {
    let (bytes, signed) = genuine_or(data, |statement| {
        array(&[
            bin(statement),
            signature(SHOP.root.sign(Tag::TrustBundle, &[statement])),
        ])
    });
    let roots = [*SHOP.root.verifying_key()];
    let Ok(opened) = TrustBundle::open(&bytes, &roots, &SHOP.domain, SHOP.now, SHOP.skew) else {
        return;
    };
    assert!(signed || SHOP.is_genuine(&bytes), "a forgery opens");
    canonical::assert(&canonical::bytes_at(&canonical::assert(&bytes), 0));
    assert_eq!(opened.check_succession(&opened), Ok(()));
    assert!(opened.is_under(SHOP.root.verifying_key()));
    if opened.root != *SHOP.root.verifying_key() {
        // Nobody but the root says who follows it.
        assert!(SHOP.is_genuine(&bytes), "a foreign root is followed");
        return;
    }
    // A bundle that ends before its issue is not signed again.
    if let Ok(again) = opened.sign(&SHOP.root) {
        assert_eq!(again, bytes, "one encoding only");
    }
}

pub fn policy(data: &[u8]) {
    let (bytes, signed) = genuine_or(data, |statement| {
        array(&[
            bin(statement),
            signature(SHOP.policy.sign(Tag::Policy, &[statement])),
        ])
    });
    let candidate = PolicyCandidate::open(&bytes, &SHOP.bundle, SHOP.now, SHOP.skew).is_ok();
    // One is among the vectors.
    assert!(!candidate || SHOP.is_genuine(&bytes), "a forgery opens");
    let Ok(opened) = SignedPolicy::open(&bytes, &SHOP.bundle, SHOP.now, SHOP.skew) else {
        return;
    };
    assert!(!candidate, "a policy passes for a candidate");
    assert!(signed || SHOP.is_genuine(&bytes), "a forgery opens");
    let again = opened.sign(&SHOP.policy).expect("it was short enough");
    assert_eq!(again, bytes, "one encoding only");
}

pub fn head(data: &[u8]) {
    let (bytes, signed) = genuine_or(data, |statement| {
        array(&[
            bin(statement),
            signature(SHOP.issuing.sign(Tag::Head, &[statement])),
        ])
    });
    let Ok(opened) = Head::open(&bytes, &SHOP.bundle, SHOP.now, SHOP.skew) else {
        return;
    };
    assert!(signed || SHOP.is_genuine(&bytes), "a forgery opens");
    canonical::assert(&canonical::bytes_at(&canonical::assert(&bytes), 0));
    if signed {
        assert_eq!(opened.sign(&SHOP.issuing), bytes, "one encoding only");
    }
    // What it names is confirmed by it, and nothing is older than nothing.
    let mut freshness = Freshness::new(Bounds::default(), SHOP.skew);
    let heard = freshness.hear(&opened, &opened.names, Duration::ZERO);
    assert!(!heard.is_ahead() && !heard.is_contradiction());
    let is_recent = opened.time.saturating_add(Bounds::default().revocations)
        >= SHOP.now.saturating_sub(SHOP.skew);
    assert_eq!(freshness.check(SHOP.now, Duration::ZERO).is_ok(), is_recent);
}

pub fn revocations(data: &[u8]) {
    let (bytes, signed) = genuine_or(data, |statement| {
        array(&[
            bin(statement),
            signature(SHOP.policy.sign(Tag::Revocations, &[statement])),
        ])
    });
    let Ok(opened) = RevocationList::open(&bytes, &SHOP.bundle, SHOP.now, SHOP.skew) else {
        return;
    };
    assert!(signed || SHOP.is_genuine(&bytes), "a forgery opens");
    canonical::assert(&canonical::bytes_at(&canonical::assert(&bytes), 0));
    assert_eq!(opened.check_succession(&opened), Ok(()));
    let again = opened.sign(&SHOP.policy).expect("it was opened");
    assert_eq!(again, bytes, "one encoding only");
    for entry in opened.entries() {
        let since = match &entry.what {
            Revoked::Workload(id) => opened.workload_since(id),
            Revoked::Key(id) => opened.key_since(*id),
            Revoked::User(name) => opened.user_since(name),
            Revoked::Token(name) => opened.token_since(name),
        };
        assert_eq!(since, Some(entry.since), "what is there is found");
    }
}

fn array(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let len = u32::try_from(elements.len()).expect("few");
    rmp::encode::write_array_len(&mut out, len).expect("a vector takes it");
    out.extend(elements.iter().flatten());
    out
}

fn bin(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    rmp::encode::write_bin(&mut out, bytes).expect("a vector takes it");
    out
}

fn signature(signature: Signature) -> Vec<u8> {
    bin(signature.as_bytes())
}

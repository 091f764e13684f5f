//! ENV-50 and ENV-51: requests for credentials.

use bulla_keyring::{NkeySeed, SigningKey, Tag};

use super::file::{Vector, With, hex};
use super::people::*;
use super::raw::{array, bin, elements, unbin};

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(good_requests());
    out.extend(bad_requests());
    out
}

/// The elements of a request's statement.
pub const WORKLOAD: usize = 1;
pub const MESSAGE_KEY: usize = 2;
pub const KEM_KEYS: usize = 3;
pub const TOKEN_KEY: usize = 4;
pub const INSTANCE: usize = 5;
pub const CHALLENGE: usize = 6;
pub const REQUESTED_AT: usize = 7;

pub fn statement(process: &Process) -> Vec<Vec<u8>> {
    elements(&unbin(&elements(&process.request_bytes(None))[0]))
}

/// A request with these elements, signed by all who should.
fn request_of(process: &Process, statement: &[Vec<u8>]) -> Vec<u8> {
    request_by(
        process,
        &array(statement),
        &process.message_key(),
        Some(&process.nkey()),
    )
}

fn request_by(
    process: &Process,
    statement: &[u8],
    message_key: &SigningKey,
    nkey: Option<&NkeySeed>,
) -> Vec<u8> {
    let token_proof = process.token_key().map_or(vec![0xc0], |key| {
        bin(key.sign(Tag::TokenKey, &[statement]).as_bytes())
    });
    array(&[
        bin(statement),
        bin(message_key
            .sign(Tag::CredentialRequest, &[statement])
            .as_bytes()),
        token_proof,
        countersignature(nkey, statement),
    ])
}

pub fn countersignature(nkey: Option<&NkeySeed>, statement: &[u8]) -> Vec<u8> {
    countersignature_as(nkey, statement, Tag::Countersignature)
}

pub fn countersignature_as(nkey: Option<&NkeySeed>, statement: &[u8], tag: Tag) -> Vec<u8> {
    nkey.map_or(vec![0xc0], |nkey| {
        array(&[
            bin(nkey.public().bytes()),
            bin(nkey.sign(tag, &[statement]).as_bytes()),
        ])
    })
}

pub fn as_gateway(with: &mut With) {
    with.workload = Some(gateway().workload.as_str().to_owned());
    with.anchors = Some(vec![gateway().nkey().public().to_string()]);
}

fn good_requests() -> Vec<Vector> {
    let good = |process: &Process| {
        let bytes = process.request_bytes(Some(&process.nkey()));
        assert_eq!(request_of(process, &statement(process)), bytes);
        bytes
    };
    let now = |millis: i64| move |with: &mut With| with.now = Some(at(millis).as_millis());
    let accept = |name, about, bytes: &[u8]| {
        Vector::accept(name, "credential-request", &["50", "51"], about, bytes)
    };
    let oldest = (MAX_AGE + SKEW).as_millis() as i64;
    let newest = SKEW.as_millis() as i64;
    vec![
        accept(
            "request-for-a-credential",
            "of a workload without a token key",
            &good(&orders()),
        ),
        accept(
            "request-with-token-key",
            "of a workload that mints tokens",
            &good(&gateway()),
        )
        .with(as_gateway),
        accept(
            "request-as-old-as-may-be",
            "max_age and skew old",
            &good(&orders()),
        )
        .with(now(oldest)),
        accept(
            "request-from-the-skews-future",
            "one skew ahead",
            &good(&orders()),
        )
        .with(now(-newest)),
        Vector::accept(
            "request-that-nothing-vouches-for",
            "credential-request",
            &["51", "123"],
            "the policy says that a broker's word is enough",
            &orders().request_bytes(None),
        )
        .with(|with| {
            with.anchors = Some(Vec::new());
            with.brokers = Some(true);
        }),
    ]
}

fn bad_requests() -> Vec<Vector> {
    let mut out = Vec::new();
    let process = orders();
    let genuine = process.request_bytes(Some(&process.nkey()));
    let refuse = |name: &str, rule: &str, about: &str, bytes: &[u8], why: &str| {
        Vector::refuse(name, "credential-request", &[rule], about, bytes, why)
    };
    let bytes = array(&statement(&process));
    let oldest = (MAX_AGE + SKEW).as_millis() as i64;
    let newest = SKEW.as_millis() as i64;
    for (name, about, why, change) in [
        (
            "request-for-another-workload",
            "the tag in the subject is another workload's",
            "verify/wrong_workload",
            Box::new(|with: &mut With| {
                with.workload = Some(billing().workload.as_str().to_owned());
            }) as Box<dyn FnOnce(&mut With)>,
        ),
        (
            "request-for-another-challenge",
            "the challenge is not the one that was sent",
            "verify/wrong_challenge",
            Box::new(|with| with.challenge = Some(hex(&filler::<32>("another challenge")))),
        ),
        (
            "request-too-old",
            "a millisecond older than max_age and skew",
            "verify/not_recent",
            Box::new(move |with| with.now = Some(at(oldest + 1).as_millis())),
        ),
        (
            "request-from-the-future",
            "more than one skew ahead",
            "verify/not_recent",
            Box::new(move |with| with.now = Some(at(-newest - 1).as_millis())),
        ),
        (
            "request-without-anchor",
            "the policy names no nkey of the workload",
            "verify/no_anchor",
            Box::new(|with| with.anchors = Some(Vec::new())),
        ),
        (
            "request-with-another-anchor",
            "the policy names another nkey",
            "verify/foreign_nkey",
            Box::new(|with| with.anchors = Some(vec![billing().nkey().public().to_string()])),
        ),
    ] {
        out.push(refuse(name, "51", about, &genuine, why).with(change));
    }
    let stranger = key("stranger");
    out.push(refuse(
        "request-without-countersignature",
        "51",
        "the workload's nkey does not vouch for it",
        &request_by(&process, &bytes, &process.message_key(), None),
        "verify/countersignature_missing",
    ));
    out.push(refuse(
        "request-without-possession",
        "50",
        "signed by another key than the one it names",
        &request_by(&process, &bytes, &stranger, Some(&process.nkey())),
        "verify/message_key_proof",
    ));
    let mut parts = elements(&genuine);
    parts[1] = bin(process
        .message_key()
        .sign(Tag::TokenKey, &[&bytes])
        .as_bytes());
    out.push(refuse(
        "request-proof-under-another-tag",
        "60",
        "the right key over the right bytes, under another tag",
        &array(&parts),
        "verify/message_key_proof",
    ));
    let mut parts = elements(&genuine);
    let mut forged = elements(&parts[3]);
    forged[1] = bin(process
        .nkey()
        .sign(Tag::CredentialRequest, &[&bytes])
        .as_bytes());
    parts[3] = array(&forged);
    out.push(refuse(
        "request-countersignature-under-another-tag",
        "60",
        "the nkey's signature, under another tag",
        &array(&parts),
        "verify/bad_countersignature",
    ));
    out.extend(token_requests());
    let mut parts = elements(&genuine);
    parts.push(vec![0xc0]);
    out.push(refuse(
        "request-of-five",
        "50",
        "a fifth element",
        &array(&parts),
        "decode/wrong_length",
    ));
    let parts = elements(&genuine);
    out.push(refuse(
        "request-of-three",
        "50",
        "three elements",
        &array(&parts[..3]),
        "decode/wrong_length",
    ));
    out.push(refuse(
        "request-and-a-byte",
        "50",
        "a byte after it",
        &[&genuine[..], &[0]].concat(),
        "decode/trailing_bytes",
    ));
    out
}

fn token_requests() -> Vec<Vector> {
    let process = gateway();
    let genuine = process.request_bytes(Some(&process.nkey()));
    let bytes = array(&statement(&process));
    let refuse = |name: &str, about: &str, bytes: &[u8], why: &str| {
        Vector::refuse(name, "credential-request", &["50"], about, bytes, why).with(as_gateway)
    };
    let mut out = Vec::new();
    let mut parts = elements(&genuine);
    parts[2] = bin(key("stranger").sign(Tag::TokenKey, &[&bytes]).as_bytes());
    out.push(refuse(
        "request-without-the-token-key",
        "the token key's proof is by another key",
        &array(&parts),
        "verify/token_key_proof",
    ));
    let mut parts = elements(&genuine);
    parts[2] = vec![0xc0];
    out.push(refuse(
        "request-without-token-proof",
        "a token key without its proof",
        &array(&parts),
        "decode/token_proof_presence",
    ));
    let plain = Process {
        mints: false,
        ..gateway()
    };
    let mut parts = elements(&plain.request_bytes(Some(&plain.nkey())));
    let token_key = key("gateway token key");
    parts[2] = bin(token_key.sign(Tag::TokenKey, &[&bytes]).as_bytes());
    out.push(refuse(
        "request-with-token-proof-alone",
        "a proof without a token key",
        &array(&parts),
        "decode/token_proof_presence",
    ));
    let mut same = statement(&process);
    same[TOKEN_KEY] = same[MESSAGE_KEY].clone();
    let same = array(&same);
    let parts = [
        bin(&same),
        bin(process
            .message_key()
            .sign(Tag::CredentialRequest, &[&same])
            .as_bytes()),
        bin(process
            .message_key()
            .sign(Tag::TokenKey, &[&same])
            .as_bytes()),
        countersignature(Some(&process.nkey()), &same),
    ];
    out.push(refuse(
        "request-with-one-key-for-both",
        "the token key is the message key",
        &array(&parts),
        "verify/same_key",
    ));
    out
}

//! ENV-26: answers that are authenticated to the requester alone.

use bulla_envelope::{DecisionId, Draft, ErrorCode, ErrorReport, ReplyBinding};
use bulla_keyring::{ExchangeSecret, KemSuite, MacKey};

use super::file::{Vector, With};
use super::good::{as_answer, asked};
use super::people::*;
use super::raw::{Raw, array, bin, uint};
use super::secrets::*;

/// Comes to the process of `orders` that asked.
fn to_orders(with: &mut With) {
    with.credential = Some("billing with process keys".to_owned());
    with.requester = Some("orders with process keys".to_owned());
}

fn accept(name: &str, about: &str, bytes: &[u8]) -> Vector {
    as_answer(Vector::accept(name, "envelope", &["26"], about, bytes)).with(to_orders)
}

fn refuse(name: &str, about: &str, bytes: &[u8], why: &str) -> Vector {
    as_answer(Vector::refuse(name, "envelope", &["26"], about, bytes, why)).with(to_orders)
}

fn binding() -> ReplyBinding {
    ReplyBinding {
        request: asked(),
        index: 0,
        is_final: true,
    }
}

fn coded(draft: &Draft<'_>, key: &MacKey) -> Vec<u8> {
    let sealer = keyed(billing()).sealer();
    sealer
        .seal_with_mac(draft, id("coded"), key)
        .unwrap()
        .bytes
        .to_vec()
}

fn reply_with(key: &MacKey) -> Vec<u8> {
    let inbox = subject(INBOX);
    coded(&Draft::reply(&inbox, binding(), NOW, at(LIFE), b"42"), key)
}

fn key_between(own: &ExchangeSecret, responder: &Process, requester: &Process) -> MacKey {
    let (responder, requester) = (responder.credential(), requester.credential());
    own.mac_key(
        exchange("orders").public(),
        responder.hash(),
        requester.hash(),
    )
    .unwrap()
}

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(good());
    out.extend(bad());
    out.extend(elsewhere());
    out
}

fn good() -> Vec<Vector> {
    let inbox = subject(INBOX);
    let report = ErrorReport {
        code: ErrorCode::Failed,
        decision: DecisionId(filler("decision")),
    };
    let error = Draft::error(&inbox, asked(), 0, report, NOW, at(LIFE));
    let reader = (workload("orders"), process_kem("orders", KemSuite::X25519));
    let key = wrapped_for(&billing(), X25519, &[reader], "coded", KEY_LIFE);
    let mut secret = Draft::reply(&inbox, binding(), NOW, at(LIFE), b"42");
    secret.encryption = Some(encryption(&key));
    vec![
        accept(
            "coded-reply",
            "a code instead of a signature",
            &reply_with(&code_key()),
        ),
        accept("coded-error", "errors too", &coded(&error, &code_key())),
        accept(
            "coded-encrypted-reply",
            "encrypted, and with a code",
            &coded(&secret, &code_key()),
        )
        .with(|with| with.reader = Some("orders process".to_owned())),
    ]
}

fn bad() -> Vec<Vector> {
    let genuine = reply_with(&code_key());
    let before = genuine.len() - 35;
    let with_proof = |proof: &[u8]| [&genuine[..before], proof].concat();
    assert_eq!(genuine[before..before + 3], [0x91, 0xc4, 32]);
    let mut flipped = genuine.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut body = genuine.clone();
    body[before - 1] ^= 1;
    let code = &genuine[before + 3..];
    let bad = |name: &str, about: &str, bytes: &[u8]| refuse(name, about, bytes, "verify/bad_mac");
    let mut out = vec![
        bad("code-last-byte", "one bit of the code", &flipped),
        bad(
            "coded-reply-with-another-body",
            "one bit of the body",
            &body,
        ),
        bad(
            "code-by-another-process",
            "by another exchange key than the responder's credential names",
            &reply_with(&key_between(
                &exchange("stranger"),
                &keyed(billing()),
                &keyed(orders()),
            )),
        ),
        bad(
            "code-for-another-requester",
            "the same exchange keys, another credential of the requester",
            &reply_with(&key_between(
                &exchange("billing"),
                &keyed(billing()),
                &orders(),
            )),
        ),
        bad(
            "code-of-another-responder",
            "the same exchange keys, another credential of the responder",
            &reply_with(&key_between(
                &exchange("billing"),
                &billing(),
                &keyed(orders()),
            )),
        ),
        bad(
            "code-with-roles-swapped",
            "the credentials in the other order",
            &reply_with(&key_between(
                &exchange("billing"),
                &keyed(orders()),
                &keyed(billing()),
            )),
        ),
    ];
    for (name, about, proof) in [
        ("code-of-31", "a short code", array(&[bin(&code[1..])])),
        (
            "code-and-nil",
            "two elements",
            array(&[bin(code), vec![0xc0]]),
        ),
        ("code-of-none", "no element", vec![0x90]),
    ] {
        out.push(refuse(
            name,
            about,
            &with_proof(&proof),
            "decode/wrong_length",
        ));
    }
    out.push(refuse(
        "code-as-text",
        "a code that is an integer",
        &with_proof(&array(&[uint(7)])),
        "decode/wrong_type",
    ));
    out
}

/// Where the other kind of proof belongs.
fn elsewhere() -> Vec<Vector> {
    let inbox = subject(INBOX);
    let draft = Draft::reply(&inbox, binding(), NOW, at(LIFE), b"42");
    let signed = keyed(billing())
        .sealer()
        .seal(&draft, id("signed"))
        .unwrap();
    let mut out = vec![
        refuse(
            "signature-where-a-code-is-expected",
            "the policy asks for codes",
            &signed.bytes,
            "verify/not_coded",
        ),
        refuse(
            "code-where-a-signature-is-expected",
            "the policy does not ask for codes",
            &reply_with(&code_key()),
            "verify/not_signed",
        )
        .with(|with| with.requester = None),
    ];
    let coded = reply_with(&code_key());
    let proof = &coded[coded.len() - 35..];
    for (kind, raw) in [
        ("event", super::good::plain_event()),
        ("request", super::good::request()),
    ] {
        let raw = Raw {
            proof: Some(proof.to_vec()),
            ..raw
        };
        out.push(Vector::refuse(
            &format!("coded-{kind}"),
            "envelope",
            &["26"],
            "only answers have codes",
            &raw.bytes(),
            "decode/mac_kind",
        ));
    }
    out
}

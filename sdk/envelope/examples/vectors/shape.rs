//! ENV-10 to ENV-15: headers that do not fit together.

use super::encoding::changed;
use super::file::Vector;
use super::good::{
    as_answer, as_request, error, event_with_token, plain_event, reply, request, seal_frame,
};
use super::narrowing;
use super::people::*;
use super::raw::{Raw, bin, string, uint};

fn refuse(name: &str, rules: &[&str], about: &str, bytes: &[u8], why: &str) -> Vector {
    Vector::refuse(
        name,
        "envelope",
        rules,
        about,
        bytes,
        &format!("decode/{why}"),
    )
}

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(keys());
    out.extend(suites_and_kinds());
    out.extend(table());
    out.extend(values());
    out.extend(frames());
    out.extend(tokens());
    out
}

fn keys() -> Vec<Vector> {
    let mut out = Vec::new();
    for key in [27, 100, 1 << 40] {
        out.push(refuse(
            &format!("key-{key}"),
            &["10"],
            "a key that is not in the table",
            &changed(|raw| raw.fields.push((uint(key), uint(0)))),
            "unknown_field",
        ));
    }
    for (name, at) in [
        ("suite-twice", 0),
        ("sequence-twice", 4),
        ("last-key-twice", 10),
    ] {
        out.push(refuse(
            name,
            &["10"],
            "a key twice",
            &changed(|raw| raw.fields.insert(at, raw.fields[at].clone())),
            "field_order",
        ));
    }
    for (name, a, b) in [
        ("kind-before-suite", 0, 1),
        ("expires-at-before-issued-at", 7, 8),
    ] {
        out.push(refuse(
            name,
            &["10"],
            "keys out of order",
            &changed(|raw| raw.fields.swap(a, b)),
            "field_order",
        ));
    }
    out
}

fn suites_and_kinds() -> Vec<Vector> {
    let mut out = Vec::new();
    for suite in [5, 255, 1 << 33] {
        out.push(refuse(
            &format!("suite-{suite}"),
            &["11"],
            "a suite that there is not",
            &changed(|raw| raw.set(0, uint(suite))),
            "unsupported_suite",
        ));
    }
    out.push(refuse(
        "suite-5-and-rubbish",
        &["11"],
        "an unknown suite is the reason before any other field is looked at",
        &changed(|raw| {
            raw.set(0, uint(5));
            raw.set(1, uint(200));
            raw.fields.push((uint(200), vec![0xc0]));
        }),
        "unsupported_suite",
    ));
    for kind in [5, 255] {
        out.push(refuse(
            &format!("kind-{kind}"),
            &["10"],
            "a kind that there is not",
            &changed(|raw| raw.set(1, uint(kind))),
            "unsupported_kind",
        ));
    }
    out
}

/// A sound value for each field.
fn value(key: u64) -> Vec<u8> {
    match key {
        9 => string(INBOX),
        10 => string("text/plain"),
        12 => bin(&narrowing::bytes(&narrowing::full())),
        13 | 16 => bin(&[13; 32]),
        14 | 18 => uint(1),
        15 => vec![0xc3],
        17 => bin(&[17; 25]),
        19 => vec![0x81, 0xa1, b'a', 0xa1, b'b'],
        20 => uint(1),
        21 => bin(&[21; 16]),
        _ => panic!("field {key}"),
    }
}

/// ENV-12, cell by cell.
fn table() -> Vec<Vector> {
    let mut out = Vec::new();
    let sign = |raw: Raw| raw.signed(&orders()).bytes();
    type Arrives = fn(Vector) -> Vector;
    let kinds: [(&str, Raw, Arrives, &[u64], &[u64]); 4] = [
        ("event", plain_event(), |v| v, &[], &[13, 14, 15, 20, 21]),
        (
            "request",
            request(),
            as_request,
            &[9],
            &[13, 14, 15, 20, 21],
        ),
        ("reply", reply(), as_answer, &[13, 14, 15], &[9, 20, 21]),
        (
            "error",
            error(),
            as_answer,
            &[13, 14, 15, 20, 21],
            &[9, 10, 19],
        ),
    ];
    for (kind, genuine, arrives, required, forbidden) in kinds {
        for key in (0..=8).chain(required.iter().copied()) {
            let mut raw = genuine.clone();
            raw.remove(key);
            out.push(arrives(refuse(
                &format!("{kind}-without-{}", NAMES[key as usize]),
                &["12"],
                "a required field is missing",
                &sign(raw),
                "missing_field",
            )));
        }
        for key in forbidden {
            let mut raw = genuine.clone();
            raw.set(*key, value(*key));
            out.push(arrives(refuse(
                &format!("{kind}-with-{}", NAMES[*key as usize]),
                &["12"],
                "a field that has no meaning in this kind",
                &sign(raw),
                "unexpected_field",
            )));
        }
    }
    for (kind, genuine, arrives) in [
        ("reply", reply(), as_answer as Arrives),
        ("error", error(), as_answer),
    ] {
        let mut raw = genuine;
        raw.set(11, bin(&bulla_keyring::sha256(&[b"t"])));
        raw.token = bin(b"t");
        out.push(arrives(refuse(
            &format!("{kind}-with-token"),
            &["12"],
            "answers carry no user",
            &sign(raw),
            "unexpected_field",
        )));
    }
    let mut raw = plain_event();
    raw.set(12, value(12));
    out.push(refuse(
        "limits-without-token",
        &["10", "12"],
        "limits narrow a user, and there is none",
        &sign(raw),
        "unexpected_field",
    ));
    out
}

const NAMES: [&str; 22] = [
    "suite",
    "kind",
    "key-id",
    "epoch",
    "sequence",
    "ids",
    "subject",
    "issued-at",
    "expires-at",
    "reply-to",
    "content-type",
    "token-hash",
    "limits",
    "request",
    "reply-index",
    "final",
    "parent",
    "traceparent",
    "policy-revision",
    "headers",
    "error-code",
    "decision-id",
];

fn values() -> Vec<Vector> {
    let mut out = Vec::new();
    let mut zero_trace = [9; 25];
    zero_trace[..16].fill(0);
    let mut zero_parent = [9; 25];
    zero_parent[16..24].fill(0);
    for (name, rule, key, value, about) in [
        (
            "no-ids",
            "10",
            5,
            bin(&[]),
            "an envelope has at least one message",
        ),
        (
            "ids-of-15-bytes",
            "10",
            5,
            bin(&[1; 15]),
            "an id has 16 bytes",
        ),
        (
            "ids-of-17-bytes",
            "10",
            5,
            bin(&[1; 17]),
            "an id has 16 bytes",
        ),
        (
            "empty-subject",
            "10",
            6,
            string(""),
            "a subject is not empty",
        ),
        (
            "empty-reply-to",
            "10",
            9,
            string(""),
            "a reply subject is not empty",
        ),
        (
            "expires-before-issued",
            "10",
            8,
            uint(NOW.as_millis() - 1),
            "the end lies before the beginning",
        ),
        (
            "empty-content-type",
            "10",
            10,
            string(""),
            "a content type is not empty",
        ),
        (
            "content-type-with-newline",
            "10",
            10,
            string("text\nplain"),
            "a content type is printable ASCII",
        ),
        (
            "content-type-with-umlaut",
            "10",
            10,
            string("text/plän"),
            "a content type is printable ASCII",
        ),
        ("empty-limits", "10", 12, bin(&[]), "limits are not empty"),
        (
            "trace-id-zero",
            "10",
            17,
            bin(&zero_trace),
            "a trace id is not zero",
        ),
        (
            "parent-id-zero",
            "10",
            17,
            bin(&zero_parent),
            "a parent id is not zero",
        ),
        (
            "no-headers",
            "15",
            19,
            vec![0x80],
            "the map of headers is not empty",
        ),
        (
            "headers-out-of-order",
            "15",
            19,
            vec![0x82, 0xa1, b'b', 0xa0, 0xa1, b'a', 0xa0],
            "names ascend",
        ),
        (
            "header-twice",
            "15",
            19,
            vec![0x82, 0xa1, b'a', 0xa0, 0xa1, b'a', 0xa0],
            "names ascend strictly",
        ),
        (
            "header-without-name",
            "15",
            19,
            vec![0x81, 0xa0, 0xa0],
            "a name is not empty",
        ),
        (
            "header-name-with-space",
            "15",
            19,
            vec![0x81, 0xa3, b'a', b' ', b'b', 0xa0],
            "a name is letters, digits, `-`, `_`, `.`",
        ),
        (
            "header-name-with-umlaut",
            "15",
            19,
            [&[0x81][..], &string("ä"), &[0xa0]].concat(),
            "a name is ASCII",
        ),
        (
            "header-value-with-newline",
            "15",
            19,
            [&[0x81, 0xa1, b'a'][..], &string("x\r\ny")].concat(),
            "a value has no control characters",
        ),
        (
            "header-value-with-delete",
            "15",
            19,
            [&[0x81, 0xa1, b'a'][..], &string("\u{7f}")].concat(),
            "a value has no control characters: U+007F is one",
        ),
        (
            "header-value-with-c1",
            "15",
            19,
            [&[0x81, 0xa1, b'a'][..], &string("\u{85}")].concat(),
            "a value has no control characters: U+0080 to U+009F are such",
        ),
    ] {
        out.push(refuse(
            name,
            &[rule],
            about,
            &changed(|raw| raw.set(key, value)),
            "invalid_field",
        ));
    }
    let answer = |genuine: Raw, name: &str, key: u64, value: Vec<u8>, about: &str, why: &str| {
        let mut raw = genuine;
        raw.set(key, value);
        as_answer(refuse(
            name,
            &["10"],
            about,
            &raw.signed(&orders()).bytes(),
            why,
        ))
    };
    out.push(answer(
        reply(),
        "reply-index-of-33-bits",
        14,
        uint(1 << 32),
        "a reply index has 32 bits",
        "invalid_field",
    ));
    out.push(answer(
        reply(),
        "final-as-integer",
        15,
        uint(1),
        "a boolean is a boolean",
        "wrong_type",
    ));
    out.push(answer(
        reply(),
        "request-of-31",
        13,
        bin(&[13; 31]),
        "a leaf has 32 bytes",
        "wrong_length",
    ));
    out.push(answer(
        error(),
        "error-not-final",
        15,
        vec![0xc2],
        "nothing follows an error",
        "invalid_field",
    ));
    for code in [0, 6, 300] {
        out.push(answer(
            error(),
            &format!("error-code-{code}"),
            20,
            uint(code),
            "an error code that there is not",
            "invalid_field",
        ));
    }
    out.push(answer(
        error(),
        "decision-id-of-15",
        21,
        bin(&[21; 15]),
        "a decision id has 16 bytes",
        "wrong_length",
    ));
    let mut raw = error();
    raw.body = b"because".to_vec();
    out.push(as_answer(refuse(
        "error-with-body",
        &["15"],
        "an error says no more than its code",
        &raw.signed(&orders()).bytes(),
        "error_with_body",
    )));
    out
}

fn frames() -> Vec<Vector> {
    let to = subject(SUBJECT);
    let genuine = Raw::of(&seal_frame(&event(&to, b""), 3).bytes);
    let changed = |change: &dyn Fn(&mut Raw)| {
        let mut raw = genuine.clone();
        change(&mut raw);
        raw.signed(&orders()).bytes()
    };
    let mut out = Vec::new();
    for (name, about, bytes, why) in [
        (
            "frame-of-three-with-two-ids",
            "more bodies than ids",
            changed(&|raw| raw.set(5, bin(&[5; 32]))),
            "frame_count",
        ),
        (
            "frame-of-three-with-four-ids",
            "more ids than bodies",
            changed(&|raw| raw.set(5, bin(&[5; 64]))),
            "frame_count",
        ),
        (
            "frame-with-trailing-byte",
            "a byte after the bodies",
            changed(&|raw| raw.body.push(0xc0)),
            "trailing_bytes",
        ),
        (
            "frame-cut-short",
            "the last body ends early",
            changed(&|raw| {
                raw.body.pop();
            }),
            "truncated",
        ),
        (
            "frame-body-as-text",
            "a body that is text",
            changed(&|raw| raw.body = vec![0x93, 0xc4, 0, 0xa0, 0xc4, 0]),
            "wrong_type",
        ),
        (
            "frame-body-nil",
            "a body that is nil",
            changed(&|raw| raw.body = vec![0x93, 0xc4, 0, 0xc0, 0xc4, 0]),
            "wrong_type",
        ),
        (
            "frame-of-plain-bytes",
            "bodies that are no array",
            changed(&|raw| raw.body = b"plain".to_vec()),
            "wrong_type",
        ),
        (
            "frame-wide-array",
            "the array of bodies is not in its shortest encoding",
            changed(&|raw| raw.body = vec![0xdc, 0, 3, 0xc4, 0, 0xc4, 0, 0xc4, 0]),
            "not_minimal",
        ),
        (
            "frame-wide-body",
            "a body's length is not in its shortest encoding",
            changed(&|raw| raw.body = vec![0x93, 0xc4, 0, 0xc5, 0, 0, 0xc4, 0]),
            "not_minimal",
        ),
    ] {
        out.push(refuse(name, &["14"], about, &bytes, why));
    }
    out.push(
        refuse(
            "frame-with-reply-to",
            &["13"],
            "a reply subject belongs to one message",
            &changed(&|raw| raw.set(9, string(INBOX))),
            "not_framable",
        )
        .with(|with| with.reply_to = Some(INBOX.to_owned())),
    );
    let mut raw = request();
    raw.set(5, bin(&[5; 32]));
    raw.body = vec![0x92, 0xc4, 0, 0xc4, 0];
    out.push(as_request(refuse(
        "frame-of-requests",
        &["13"],
        "only events share a frame",
        &raw.signed(&orders()).bytes(),
        "not_framable",
    )));
    for (name, sequence) in [
        ("frame-sequence-overflows", u64::MAX - 1),
        ("frame-sequence-at-the-end", u64::MAX - 2),
    ] {
        out.push(refuse(
            name,
            &["13"],
            "the sequence after the last message does not fit 64 bits",
            &changed(&|raw| raw.set(4, uint(sequence))),
            "invalid_field",
        ));
    }
    let mut raw = plain_event();
    raw.set(4, uint(u64::MAX));
    out.push(refuse(
        "sequence-18446744073709551615",
        &["13"],
        "the sequence after the last message does not fit 64 bits",
        &raw.signed(&orders()).bytes(),
        "invalid_field",
    ));
    out
}

fn tokens() -> Vec<Vector> {
    let mut bare = event_with_token();
    bare.token = vec![0xc0];
    let mut hashless = event_with_token();
    hashless.remove(11);
    vec![
        refuse(
            "token-hash-without-token",
            &["15"],
            "the token was taken off",
            &bare.bytes(),
            "token_presence",
        ),
        refuse(
            "token-without-hash",
            &["15"],
            "a token that the signature does not cover",
            &hashless.signed(&orders()).bytes(),
            "token_presence",
        ),
    ]
}

//! ENV-11, ENV-16, ENV-17, ENV-70 and ENV-76: encrypted envelopes.

use bulla_envelope::{Draft, FrameMessage, ReplyBinding};
use bulla_keyring::{Cipher, CipherSuite, KemSuite, sha256};

use super::file::{Octets, Vector, With};
use super::good::{as_answer, as_request, asked, error, plain_event, request};
use super::people::*;
use super::raw::{Raw, array, bin, string, uint};
use super::secrets::*;

const XWING: CipherSuite = CipherSuite::new(KemSuite::XWing, Cipher::ChaCha20Poly1305);
const AES: CipherSuite = CipherSuite::new(KemSuite::X25519, Cipher::Aes256Gcm);

fn accept(name: &str, rules: &[&str], about: &str, raw: &Raw) -> Vector {
    Vector::accept(name, "envelope", rules, about, &raw.bytes())
}

fn refuse(name: &str, rules: &[&str], about: &str, raw: &Raw, why: &str) -> Vector {
    Vector::refuse(name, "envelope", rules, about, &raw.bytes(), why)
}

fn read_by(reader: &'static str) -> impl Fn(&mut With) {
    move |with| with.reader = Some(reader.to_owned())
}

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(good());
    out.extend(answers());
    out.extend(records());
    out.extend(suites());
    out.extend(fields());
    out.extend(ciphertexts());
    out.extend(plaintexts());
    out.extend(tokens());
    out.extend(originals());
    out.extend(ages());
    out
}

fn good() -> Vec<Vector> {
    let mut out = Vec::new();
    for suite in CipherSuite::ALL {
        out.push(
            accept(
                &format!("encrypted-{suite}"),
                &["16", "17", "71", "72", "73", "74"],
                "body and token encrypted, the wrapped key in the header",
                &encrypted_event(suite, "both"),
            )
            .with(read_by("billing")),
        );
    }
    out.push(
        accept(
            "encrypted-for-another-reader",
            &["73", "74"],
            "the same envelope, read by the other recipient",
            &encrypted_event(X25519, "both"),
        )
        .with(read_by("gateway")),
    );
    let to = subject(SUBJECT);
    let key = |name: &str| sealing_key(X25519, &READERS, name);
    for (name, about, body) in [
        ("encrypted-without-token", "no user", &b"the body"[..]),
        ("encrypted-empty-body", "nothing in it", b""),
    ] {
        let key = key(name);
        let mut draft = event(&to, body);
        draft.encryption = Some(encryption(&key));
        out.push(accept(name, &["16"], about, &sealed(&draft, name)).with(read_by("billing")));
    }
    let open = key("open token");
    let mut draft = event(&to, b"the body");
    draft.token = Some(b"header.claims.signature");
    draft.encryption = Some(bulla_envelope::Encryption {
        open_token: true,
        ..encryption(&open)
    });
    out.push(
        accept(
            "encrypted-with-open-token",
            &["17"],
            "the token stays outside",
            &sealed(&draft, "open token"),
        )
        .with(read_by("billing")),
    );
    let framed = key("frame");
    let mut draft = event(&to, b"");
    draft.encryption = Some(encryption(&framed));
    let messages = [("first", &b"one"[..]), ("second", b""), ("third", b"three")]
        .map(|(name, body)| FrameMessage { id: id(name), body });
    let frame = orders().sealer().seal_frame(&draft, &messages).unwrap();
    out.push(
        accept(
            "encrypted-frame",
            &["14", "16"],
            "three messages in one ciphertext",
            &Raw::of(&frame.bytes),
        )
        .with(read_by("billing")),
    );
    let batched = key("batch");
    let mut secret = event(&to, b"secret");
    secret.encryption = Some(encryption(&batched));
    let batch = [
        (event(&to, b"in the clear"), id("clear")),
        (secret, id("secret")),
    ];
    let batch = orders().sealer().seal_batch(&batch).unwrap();
    out.push(
        accept(
            "encrypted-in-a-batch",
            &["16", "24"],
            "the leaf is over the ciphertext; its neighbour is not encrypted",
            &Raw::of(&batch[1].bytes),
        )
        .with(read_by("billing")),
    );
    let inbox = subject(INBOX);
    let asking = key("request");
    let mut draft = Draft::request(&to, &inbox, NOW, at(LIFE), b"how many?");
    draft.encryption = Some(encryption(&asking));
    out.push(
        as_request(accept(
            "encrypted-request",
            &["16"],
            "an encrypted request",
            &sealed(&draft, "request"),
        ))
        .with(read_by("billing")),
    );
    out
}

/// Replies go to one process key of who asked.
fn answers() -> Vec<Vector> {
    let mut out = Vec::new();
    let inbox = subject(INBOX);
    for suite in CipherSuite::ALL {
        let reader = (workload("orders"), process_kem("orders", suite.kem));
        let key = wrapped_for(&billing(), suite, &[reader], "reply", KEY_LIFE);
        let binding = ReplyBinding {
            request: asked(),
            index: 0,
            is_final: true,
        };
        let mut draft = Draft::reply(&inbox, binding, NOW, at(LIFE), b"42");
        draft.encryption = Some(encryption(&key));
        let sealed = billing().sealer().seal(&draft, id("reply")).unwrap();
        out.push(
            as_answer(accept(
                &format!("encrypted-reply-{suite}"),
                &["72", "76"],
                "wrapped to the process key of who asked",
                &Raw::of(&sealed.bytes),
            ))
            .with(|with| {
                with.credential = Some("billing".to_owned());
                with.reader = Some("orders process".to_owned());
            }),
        );
    }
    out
}

fn key_record(suite: CipherSuite, name: &str) -> Raw {
    let key = sealing_key(suite, &READERS, name);
    let to = subject(&key_subject(&hex_of(&key.id().0)));
    sealed(&Draft::key_wrap(&to, &key, NOW, at(KEY_LIFE)), "record")
}

fn hex_of(bytes: &[u8]) -> String {
    super::file::hex(bytes)
}

fn key_subject(data_key_id: &str) -> String {
    format!(
        "$BULLA.KEYS.{}.{data_key_id}",
        orders().workload.tag().to_hex()
    )
}

fn without_wraps(suite: CipherSuite, name: &str) -> Raw {
    let to = subject(SUBJECT);
    let key = sealing_key(suite, &READERS, name);
    let mut draft = event(&to, b"the body");
    draft.encryption = Some(bulla_envelope::Encryption {
        inline_wraps: false,
        ..encryption(&key)
    });
    sealed(&draft, name)
}

/// ENV-76.
fn records() -> Vec<Vector> {
    let mut out = Vec::new();
    for suite in CipherSuite::ALL {
        let record = key_record(suite, "stored");
        let key = sealing_key(suite, &READERS, "stored");
        out.push(
            accept(
                &format!("keywrap-{suite}"),
                &["10", "76"],
                "a wrapped key's record, by itself",
                &record,
            )
            .with(|with| {
                with.subject = Some(key_subject(&hex_of(&key.id().0)));
                with.kinds = Some(vec!["keywrap".to_owned()]);
            }),
        );
        out.push(
            accept(
                &format!("encrypted-with-record-{suite}"),
                &["76"],
                "the wrapped key is in a record of the same sender",
                &without_wraps(suite, "stored"),
            )
            .with(|with| {
                with.reader = Some("billing".to_owned());
                with.record = Some(Octets::of(&record.bytes()));
            }),
        );
    }
    let stored = without_wraps(X25519, "stored");
    let with_record = |name: &str, about: &str, record: &Raw, why: &str| {
        refuse(name, &["76"], about, &stored, why).with(|with| {
            with.reader = Some("billing".to_owned());
            with.record = Some(Octets::of(&record.bytes()));
        })
    };
    out.push(
        refuse(
            "encrypted-without-key",
            &["30", "76"],
            "no wraps and no record: a missing key never means plaintext",
            &stored,
            "open/data_key_missing",
        )
        .with(read_by("billing")),
    );
    out.push(with_record(
        "record-of-another-key",
        "a genuine record of another key of the same sender",
        &key_record(X25519, "other"),
        "record/wrong_data_key",
    ));
    let mut renamed = key_record(X25519, "other");
    let genuine = key_record(X25519, "stored");
    for field in [6, 23] {
        renamed.set(field, genuine.value(field).to_vec());
    }
    out.push(with_record(
        "record-with-anothers-wraps",
        "the record of this key, with the wraps of another",
        &renamed.signed(&orders()),
        "open/wrap_does_not_open",
    ));
    let mut tampered = genuine.clone();
    tampered.body[8] ^= 1;
    out.push(with_record(
        "record-tampered-with",
        "one bit of the wraps",
        &tampered,
        "record/bad_signature",
    ));
    let mut foreign = genuine.clone();
    foreign.set(2, bin(gateway().credential().id().as_bytes()));
    out.push(with_record(
        "record-by-another-sender",
        "a record under another credential",
        &foreign.signed(&gateway()),
        "record/wrong_credential",
    ));
    out.push(with_record(
        "event-as-record",
        "an event is no record",
        &plain_event(),
        "record/wrong_kind",
    ));
    let mut elsewhere = genuine;
    elsewhere.set(6, string(&key_subject(&"0".repeat(64))));
    out.push(with_record(
        "record-for-another-subject",
        "a record that was sealed for another place",
        &elsewhere.signed(&orders()),
        "record/wrong_subject",
    ));
    out
}

/// ENV-11: what the policy asks for.
fn suites() -> Vec<Vector> {
    let at_least = |suite: &'static str| {
        move |with: &mut With| {
            with.suite = Some(suite.to_owned());
            with.reader = Some("billing".to_owned());
        }
    };
    let alone = |cipher: &'static str| {
        move |with: &mut With| {
            with.suite = Some("x25519".to_owned());
            with.cipher = Some(cipher.to_owned());
            with.reader = Some("billing".to_owned());
        }
    };
    vec![
        accept(
            "xwing-where-xwing-is-asked",
            &["11"],
            "as strong as asked for",
            &encrypted_event(XWING, "asked"),
        )
        .with(at_least("xwing")),
        accept(
            "xwing-where-x25519-is-asked",
            &["11"],
            "stronger than asked for",
            &encrypted_event(XWING, "asked"),
        )
        .with(at_least("x25519")),
        refuse(
            "x25519-where-xwing-is-asked",
            &["11"],
            "weaker than asked for",
            &encrypted_event(X25519, "asked"),
            "suite/weak_suite",
        )
        .with(at_least("xwing")),
        refuse(
            "clear-where-x25519-is-asked",
            &["11"],
            "not encrypted at all",
            &plain_event(),
            "suite/weak_suite",
        )
        .with(at_least("x25519")),
        accept(
            "aes-where-x25519-is-asked",
            &["11"],
            "the KEM that is asked for, with the other cipher",
            &encrypted_event(AES, "asked"),
        )
        .with(at_least("x25519")),
        refuse(
            "x25519-with-aes-where-xwing-is-asked",
            &["11"],
            "the cipher makes no KEM stronger",
            &encrypted_event(AES, "asked"),
            "suite/weak_suite",
        )
        .with(at_least("xwing")),
        accept(
            "aes-where-aes-is-asked",
            &["11"],
            "the one cipher that the receiver takes",
            &encrypted_event(AES, "asked"),
        )
        .with(alone("aes-256-gcm")),
        refuse(
            "chacha20-where-aes-is-asked",
            &["11"],
            "another cipher than the one that the receiver takes",
            &encrypted_event(X25519, "asked"),
            "suite/other_cipher",
        )
        .with(alone("aes-256-gcm")),
        refuse(
            "aes-where-chacha20-is-asked",
            &["11"],
            "another cipher than the one that the receiver takes",
            &encrypted_event(AES, "asked"),
            "suite/other_cipher",
        )
        .with(alone("chacha20-poly1305")),
    ]
}

/// ENV-12, the columns of suites 1 and 2.
fn fields() -> Vec<Vector> {
    let mut out = Vec::new();
    let decode = |name: &str, about: &str, raw: Raw, why: &str| {
        let raw = raw.signed(&orders());
        refuse(name, &["10", "12"], about, &raw, &format!("decode/{why}")).with(read_by("billing"))
    };
    let encrypted = || encrypted_event(X25519, "fields");
    let names = [
        (22, "recipient-set"),
        (23, "data-key-id"),
        (24, "nonce"),
        (25, "wraps"),
    ];
    for (key, name) in names {
        if key != 25 {
            let mut raw = encrypted();
            raw.remove(key);
            let name = format!("encrypted-without-{name}");
            out.push(decode(
                &name,
                "a required field is missing",
                raw,
                "missing_field",
            ));
        }
        let mut raw = plain_event();
        raw.set(key, encrypted().value(key).to_vec());
        let name = format!("clear-with-{name}");
        out.push(decode(
            &name,
            "suite 0 has no such field",
            raw,
            "unexpected_field",
        ));
    }
    for (key, len) in [(22, 31), (22, 33), (23, 31), (24, 11), (24, 13)] {
        let mut raw = encrypted();
        raw.set(key, bin(&vec![1; len]));
        let name = format!("field-{key}-of-{len}");
        out.push(decode(
            &name,
            "bytes of another length than the field has",
            raw,
            "wrong_length",
        ));
    }
    let mut raw = encrypted();
    raw.set(0, uint(0));
    out.push(decode(
        "encrypted-says-suite-0",
        "the suite was lowered",
        raw,
        "unexpected_field",
    ));
    let mut raw = plain_event();
    raw.set(0, uint(2));
    out.push(decode(
        "clear-says-suite-2",
        "nothing is encrypted",
        raw,
        "missing_field",
    ));
    let mut raw = encrypted();
    raw.set(0, uint(1));
    out.push(
        refuse(
            "x25519-says-xwing",
            &["11", "72"],
            "the suite was raised: no key of that suite is among the recipients",
            &raw.encrypted(&data_key("fields"), &plaintext(Some(TOKEN), b"the body")),
            "open/not_a_recipient",
        )
        .with(read_by("billing")),
    );
    let mut raw = error();
    raw.set(0, uint(2));
    for key in [22, 23, 24] {
        raw.set(key, encrypted().value(key).to_vec());
    }
    out.push(as_answer(decode(
        "encrypted-error",
        "errors are always suite 0",
        raw,
        "suite_of_kind",
    )));
    let mut raw = encrypted();
    raw.body.truncate(15);
    out.push(decode(
        "encrypted-body-of-15",
        "no room for the tag",
        raw,
        "body_too_short",
    ));
    let mut raw = encrypted();
    raw.remove(11);
    raw.token = bin(TOKEN);
    out.push(decode(
        "encrypted-with-unhashed-token",
        "a token outside that the signature does not cover",
        raw,
        "token_presence",
    ));
    out.extend(keywrap_fields());
    out
}

fn keywrap_fields() -> Vec<Vector> {
    let mut out = Vec::new();
    let decode = |name: &str, about: &str, raw: Raw, why: &str| {
        let raw = raw.signed(&orders());
        refuse(name, &["12"], about, &raw, &format!("decode/{why}"))
            .with(|with| with.kinds = Some(vec!["keywrap".to_owned()]))
    };
    let genuine = || key_record(X25519, "stored");
    let mut raw = genuine();
    raw.set(0, uint(0));
    raw.remove(22);
    raw.remove(23);
    out.push(decode(
        "keywrap-in-suite-0",
        "a wrapped key is of a suite",
        raw,
        "suite_of_kind",
    ));
    for (key, name) in [(22, "recipient-set"), (23, "data-key-id")] {
        let mut raw = genuine();
        raw.remove(key);
        let name = format!("keywrap-without-{name}");
        out.push(decode(
            &name,
            "a required field is missing",
            raw,
            "missing_field",
        ));
    }
    for (key, name, value) in [
        (9, "reply-to", string(INBOX)),
        (10, "content-type", string("text/plain")),
        (13, "request", bin(&[1; 32])),
        (16, "parent", bin(&[1; 32])),
        (17, "traceparent", bin(&[1; 25])),
        (19, "headers", vec![0x81, 0xa1, b'a', 0xa0]),
        (24, "nonce", bin(&[0; 12])),
        (25, "wraps", bin(&[0])),
    ] {
        let mut raw = genuine();
        raw.set(key, value);
        let name = format!("keywrap-with-{name}");
        out.push(decode(
            &name,
            "a record is no message",
            raw,
            "unexpected_field",
        ));
    }
    let mut raw = genuine();
    raw.set(11, bin(&sha256(&[TOKEN])));
    raw.token = bin(TOKEN);
    out.push(decode(
        "keywrap-with-token",
        "a record has no user",
        raw,
        "unexpected_field",
    ));
    let mut raw = genuine();
    raw.set(5, bin(&[5; 32]));
    out.push(decode(
        "keywrap-of-two",
        "a record is one message",
        raw,
        "not_framable",
    ));
    out
}

const TOKEN: &[u8] = b"header.claims.signature";

/// ENV-16: what the AEAD holds together, signed by the genuine sender.
fn ciphertexts() -> Vec<Vector> {
    let mut out = Vec::new();
    let open = |name: &str, about: &str, raw: Raw, why: &str| {
        refuse(
            name,
            &["16"],
            about,
            &raw.signed(&orders()),
            &format!("open/{why}"),
        )
        .with(read_by("billing"))
    };
    let genuine = || encrypted_event(X25519, "held");
    let last = genuine().body.len() - 1;
    for (name, at, about) in [
        (
            "ciphertext-first-byte",
            0,
            "one bit of the ciphertext, signed again",
        ),
        ("ciphertext-tag", last, "one bit of the tag, signed again"),
    ] {
        let mut raw = genuine();
        raw.body[at] ^= 1;
        out.push(open(name, about, raw, "bad_ciphertext"));
    }
    let mut raw = encrypted_event(AES, "held");
    raw.body[last] ^= 1;
    out.push(open(
        "ciphertext-tag-of-aes",
        "one bit of the tag, signed again",
        raw,
        "bad_ciphertext",
    ));
    let raw = encrypted_event(AES, "held");
    out.push(open(
        "aes-says-aes-and-is-chacha20",
        "the ciphertext is the other cipher's, under the same key",
        raw.encrypted(&data_key("held"), &plaintext(Some(TOKEN), b"the body")),
        "bad_ciphertext",
    ));
    let mut raw = encrypted_event(AES, "held");
    raw.set(0, uint(2));
    out.push(open(
        "aes-says-chacha20",
        "the suite was changed: the wraps are bound to the other one",
        raw.encrypted(&data_key("held"), &plaintext(Some(TOKEN), b"the body")),
        "wrap_does_not_open",
    ));
    let mut raw = genuine();
    raw.body.pop();
    out.push(open(
        "ciphertext-shorter",
        "a byte less",
        raw,
        "bad_ciphertext",
    ));
    let mut raw = genuine();
    raw.set(24, bin(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
    out.push(open(
        "another-nonce",
        "another nonce than it was encrypted with",
        raw,
        "bad_ciphertext",
    ));
    for (name, key, value) in [
        ("moved-sequence", 4, uint(7)),
        ("moved-id", 5, bin(&filler::<16>("moved"))),
        ("moved-expiry", 8, uint(at(LIFE + 1).as_millis())),
        ("moved-revision", 18, uint(9)),
    ] {
        let mut raw = genuine();
        raw.set(key, value);
        let about = "the ciphertext in an envelope with another header, by the same sender";
        out.push(open(name, about, raw, "bad_ciphertext"));
    }
    let aad = genuine().header_bytes();
    out.push(open(
        "encrypted-for-the-header-alone",
        "additional data without the envelope's first bytes",
        genuine().encrypted_with(
            &data_key("held"),
            &aad,
            &plaintext(Some(TOKEN), b"the body"),
        ),
        "bad_ciphertext",
    ));
    out.push(open(
        "encrypted-without-additional-data",
        "no additional data",
        genuine().encrypted_with(&data_key("held"), b"", &plaintext(Some(TOKEN), b"the body")),
        "bad_ciphertext",
    ));
    let mut raw = genuine();
    raw.set(2, bin(gateway().credential().id().as_bytes()));
    out.push(
        refuse(
            "ciphertext-signed-by-another",
            &["16", "71", "74"],
            "another workload puts its signature on the ciphertext: the wrap names who wrapped",
            &raw.signed(&gateway()),
            "open/wrap_does_not_open",
        )
        .with(|with| {
            with.credential = Some("gateway".to_owned());
            with.reader = Some("billing".to_owned());
        }),
    );
    let mut raw = genuine();
    raw.set(3, bin(&filler::<8>("another epoch")));
    out.push(open(
        "ciphertext-of-another-epoch",
        "the same sender, another epoch",
        raw,
        "wrap_does_not_open",
    ));
    out.push(
        refuse(
            "encrypted-for-others",
            &["73"],
            "the reader is not among the recipients",
            &genuine(),
            "open/not_a_recipient",
        )
        .with(read_by("mail")),
    );
    let clear = plain_event();
    out.push(
        accept(
            "clear-read-by-a-holder-of-keys",
            &["11"],
            "nothing to decrypt",
            &clear,
        )
        .with(read_by("billing")),
    );
    out
}

/// ENV-16: what was encrypted is read strictly.
fn plaintexts() -> Vec<Vector> {
    let mut out = Vec::new();
    let content = |name: &str, about: &str, plaintext: &[u8]| {
        let raw = encrypted_event(X25519, "strict");
        refuse(
            name,
            &["16"],
            about,
            &raw.encrypted(&data_key("strict"), plaintext),
            "open/malformed_content",
        )
        .with(read_by("billing"))
    };
    let good = plaintext(Some(TOKEN), b"the body");
    let raw = encrypted_event(X25519, "strict");
    assert_eq!(
        raw.clone().encrypted(&data_key("strict"), &good).bytes(),
        raw.bytes()
    );
    let (token, body) = (bin(TOKEN), bin(b"the body"));
    for (name, about, plaintext) in [
        ("plaintext-empty", "nothing", Vec::new()),
        (
            "plaintext-bare",
            "the body without the array",
            b"the body".to_vec(),
        ),
        (
            "plaintext-of-one",
            "no content",
            array(std::slice::from_ref(&token)),
        ),
        (
            "plaintext-of-three",
            "a third element",
            array(&[token.clone(), body.clone(), vec![0xc0]]),
        ),
        (
            "plaintext-and-a-byte",
            "a byte after it",
            [&good[..], &[0]].concat(),
        ),
        (
            "plaintext-cut-short",
            "a byte less",
            good[..good.len() - 1].to_vec(),
        ),
        (
            "plaintext-wide-array",
            "not in its shortest encoding",
            [&[0xdc, 0, 2][..], &good[1..]].concat(),
        ),
        (
            "plaintext-content-nil",
            "no content",
            array(&[token.clone(), vec![0xc0]]),
        ),
        (
            "plaintext-content-text",
            "content that is text",
            array(&[token, string("the body")]),
        ),
        (
            "plaintext-token-text",
            "a token that is text",
            array(&[string("header.claims.signature"), body]),
        ),
    ] {
        out.push(content(name, about, &plaintext));
    }
    let frame = |name: &str, about: &str, bodies: &[u8]| {
        let mut raw = encrypted_event(X25519, "strict");
        raw.set(5, bin(&[5; 32]));
        refuse(
            name,
            &["14", "16"],
            about,
            &raw.encrypted(&data_key("strict"), &plaintext(Some(TOKEN), bodies)),
            "open/malformed_content",
        )
        .with(read_by("billing"))
    };
    out.push(frame(
        "encrypted-frame-of-one-for-two",
        "one body for two ids",
        &[0x91, 0xc4, 0],
    ));
    out.push(frame(
        "encrypted-frame-of-plain-bytes",
        "bodies that are no array",
        b"plain",
    ));
    out.push(frame(
        "encrypted-frame-and-a-byte",
        "a byte after the bodies",
        &[0x92, 0xc4, 0, 0xc4, 0, 0],
    ));
    out
}

/// ENV-114: the client's own token beside the user's.
fn originals() -> Vec<Vector> {
    const ORIGINAL: &[u8] = b"the client's own token";
    let mut out = Vec::new();
    let to = subject(SUBJECT);
    let rules = &["114"];
    for (name, token, original) in [
        ("original", TOKEN, ORIGINAL),
        ("empty-original", TOKEN, b""),
        ("original-of-16384", TOKEN, &[b'o'; 16 * 1024]),
    ] {
        let key = sealing_key(X25519, &READERS, name);
        let mut draft = event(&to, b"the body");
        draft.token = Some(token);
        draft.original = Some(original);
        draft.encryption = Some(encryption(&key));
        let name = format!("encrypted-with-{name}");
        let about = "the client's own token beside the user's";
        out.push(accept(&name, rules, about, &sealed(&draft, &name)).with(read_by("billing")));
    }
    let key = data_key("originals");
    let genuine = || encrypted_event(X25519, "originals");
    let (token, body, original) = (bin(TOKEN), bin(b"the body"), bin(ORIGINAL));
    let with_hash = |of: &[u8]| {
        let mut raw = genuine();
        raw.set(26, bin(&sha256(&[of])));
        raw
    };
    let long = [b'o'; 16 * 1024 + 1];
    for (name, about, raw, plaintext, why) in [
        (
            "original-of-another-hash",
            "another one than was signed for",
            with_hash(b"another"),
            array(&[token.clone(), body.clone(), original.clone()]),
            "original_mismatch",
        ),
        (
            "original-missing",
            "its hash is there, and it is not",
            with_hash(ORIGINAL),
            array(&[token.clone(), body.clone()]),
            "malformed_content",
        ),
        (
            "original-nil",
            "its hash is there, and it is nil",
            with_hash(ORIGINAL),
            array(&[token.clone(), body.clone(), vec![0xc0]]),
            "malformed_content",
        ),
        (
            "original-without-hash",
            "it is there, and its hash is not",
            genuine(),
            array(&[token.clone(), body.clone(), original.clone()]),
            "malformed_content",
        ),
        (
            "original-first",
            "in the place of the user's token",
            with_hash(ORIGINAL),
            array(&[original.clone(), body.clone(), token.clone()]),
            "original_mismatch",
        ),
        (
            "original-of-16385",
            "one byte more than the limit",
            with_hash(&long),
            array(&[token.clone(), body.clone(), bin(&long)]),
            "malformed_content",
        ),
    ] {
        let raw = raw.encrypted(&key, &plaintext);
        let why = format!("open/{why}");
        out.push(refuse(name, rules, about, &raw, &why).with(read_by("billing")));
    }
    let decode = |name: &str, about: &str, raw: Raw, why: &str| {
        let raw = raw.signed(&orders());
        refuse(name, rules, about, &raw, &format!("decode/{why}"))
    };
    let mut clear = super::good::event_with_token();
    clear.set(26, bin(&[26; 32]));
    out.push(decode(
        "original-in-suite-0",
        "it is never in the clear",
        clear,
        "unexpected_field",
    ));
    let mut alone = genuine();
    alone.remove(11);
    alone.set(26, bin(&[26; 32]));
    out.push(decode(
        "original-without-user",
        "the client of no user",
        alone,
        "unexpected_field",
    ));
    let mut short = genuine();
    short.set(26, bin(&[26; 31]));
    out.push(decode(
        "original-hash-of-31-bytes",
        "a hash has 32 bytes",
        short,
        "wrong_length",
    ));
    let mut record = key_record(X25519, "stored");
    record.set(26, bin(&[26; 32]));
    out.push(
        decode(
            "keywrap-with-original",
            "a record has no user",
            record,
            "unexpected_field",
        )
        .with(|with| with.kinds = Some(vec!["keywrap".to_owned()])),
    );
    out
}

/// ENV-17.
fn tokens() -> Vec<Vector> {
    let mut out = Vec::new();
    let key = data_key("tokens");
    let open = |name: &str, about: &str, raw: Raw, why: &str| {
        refuse(name, &["17"], about, &raw, why).with(read_by("billing"))
    };
    let genuine = || encrypted_event(X25519, "tokens");
    out.push(open(
        "another-token-inside",
        "a token that does not have the hash of the header",
        genuine().encrypted(&key, &plaintext(Some(b"another.users.token"), b"the body")),
        "open/token_mismatch",
    ));
    out.push(open(
        "no-token-inside",
        "a hash, and no token anywhere",
        genuine().encrypted(&key, &plaintext(None, b"the body")),
        "open/token_mismatch",
    ));
    let mut raw = genuine();
    raw.remove(11);
    out.push(open(
        "token-inside-without-hash",
        "a token that the signature does not cover",
        raw.encrypted(&key, &plaintext(Some(TOKEN), b"the body")),
        "open/token_mismatch",
    ));
    let mut raw = genuine();
    raw.token = bin(TOKEN);
    out.push(open(
        "token-inside-and-outside",
        "the same token twice",
        raw.encrypted(&key, &plaintext(Some(TOKEN), b"the body")),
        "open/token_mismatch",
    ));
    let mut raw = genuine();
    raw.token = bin(b"another.users.token");
    out.push(open(
        "another-token-outside",
        "an open token that does not have the hash of the header",
        raw.encrypted(&key, &plaintext(None, b"the body")),
        "verify/token_mismatch",
    ));
    out
}

/// ENV-70.
fn ages() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let aged = |past: i64| {
        let to = subject(SUBJECT);
        let key = sealing_key_until(X25519, &READERS, "aged", -skew - past);
        let mut draft = Draft::event(&to, at(-skew - past), at(LIFE), b"the body");
        draft.encryption = Some(encryption(&key));
        let mut raw = sealed(&draft, "aged");
        raw.set(7, uint(NOW.as_millis()));
        raw.encrypted(&data_key("aged"), &plaintext(None, b"the body"))
    };
    let _ = request;
    vec![
        accept(
            "sealed-one-skew-after-the-key",
            &["70"],
            "issued one skew after the key's expiry",
            &aged(0),
        )
        .with(read_by("billing")),
        refuse(
            "sealed-after-the-key",
            &["70"],
            "issued a millisecond later",
            &aged(1),
            "open/data_key_retired",
        )
        .with(read_by("billing")),
    ]
}

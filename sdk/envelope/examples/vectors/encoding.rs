//! ENV-1 to ENV-5: bytes that are no envelope, each correctly signed for what it is.

use super::file::Vector;
use super::good::{event_with_token, plain_event};
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

/// The event with one thing changed, signed again.
pub fn changed(change: impl FnOnce(&mut Raw)) -> Vec<u8> {
    let mut raw = event_with_token();
    change(&mut raw);
    raw.signed(&orders()).bytes()
}

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(structure());
    out.extend(truncated());
    out.extend(longer_encodings());
    out.extend(types());
    out.extend(limits());
    out.extend(versions());
    out
}

fn structure() -> Vec<Vector> {
    let genuine = event_with_token().bytes();
    vec![
        refuse("no-bytes", &["1"], "nothing at all", b"", "truncated"),
        refuse(
            "json",
            &["1"],
            "not MessagePack",
            b"{\"a\":1}",
            "wrong_type",
        ),
        refuse("nil", &["1"], "nil is no envelope", &[0xc0], "wrong_type"),
        refuse(
            "map",
            &["1"],
            "a map is no envelope",
            &[0x81, 1, 1],
            "wrong_type",
        ),
        refuse(
            "array-of-none",
            &["1"],
            "an array without a version",
            &[0x90],
            "truncated",
        ),
        refuse(
            "array-of-four",
            &["1"],
            "the proof is missing",
            &changed(|raw| {
                raw.head = vec![0x94];
                raw.proof = Some(Vec::new());
            }),
            "wrong_length",
        ),
        refuse(
            "array-of-six",
            &["1"],
            "a sixth element after the proof, whose place is then the ancestors'",
            &changed(|raw| {
                raw.head = vec![0x96];
                raw.tail = vec![0xc0];
            }),
            "wrong_type",
        ),
        refuse(
            "trailing-byte",
            &["1"],
            "a byte after the envelope",
            &[&genuine[..], &[0xc0]].concat(),
            "trailing_bytes",
        ),
        refuse(
            "two-envelopes",
            &["1"],
            "an envelope after the envelope",
            &[&genuine[..], &genuine[..]].concat(),
            "trailing_bytes",
        ),
        refuse(
            "trailing-byte-in-header",
            &["10"],
            "a byte after the header's map, signed with it",
            &changed(|raw| raw.header_tail = vec![0xc0]),
            "trailing_bytes",
        ),
    ]
}

fn truncated() -> Vec<Vector> {
    let genuine = plain_event().bytes();
    let mut out: Vec<_> = [1, 2, 3, 4, 40, genuine.len() - 70, genuine.len() - 1]
        .into_iter()
        .map(|len| {
            refuse(
                &format!("first-{len}-bytes"),
                &["1", "2"],
                "the bytes end early",
                &genuine[..len],
                "truncated",
            )
        })
        .collect();
    for (name, bytes, why) in [
        (
            "bomb-array",
            &[0xdd, 0xff, 0xff, 0xff, 0xff, 1][..],
            "truncated",
        ),
        (
            "bomb-header",
            &[0x95, 1, 0xc6, 0xff, 0xff, 0xff, 0xff, 0],
            "too_long",
        ),
        (
            "bomb-map",
            &[0x95, 1, 0xc4, 5, 0xdf, 0xff, 0xff, 0xff, 0xff],
            "truncated",
        ),
    ] {
        out.push(refuse(
            name,
            &["4"],
            "announces gigabytes; refused before anything is allocated for them",
            bytes,
            why,
        ));
    }
    out
}

fn longer_encodings() -> Vec<Vector> {
    let mut out = Vec::new();
    for (name, key, value) in [
        ("uint8-for-0", 4, vec![0xcc, 0x00]),
        ("uint8-for-127", 4, vec![0xcc, 0x7f]),
        ("uint16-for-128", 4, vec![0xcd, 0, 0x80]),
        ("uint32-for-65535", 4, vec![0xce, 0, 0, 0xff, 0xff]),
        (
            "uint64-for-32-bits",
            4,
            vec![0xcf, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        ),
        ("int8", 4, vec![0xd0, 0x05]),
        ("int16", 4, vec![0xd1, 0, 5]),
        ("int32", 4, vec![0xd2, 0, 0, 0, 5]),
        ("int64", 4, vec![0xd3, 0, 0, 0, 0, 0, 0, 0, 5]),
        ("str8-for-31", 6, [&[0xd9, 31][..], &[b's'; 31]].concat()),
        (
            "str16-for-255",
            6,
            [&[0xda, 0, 255][..], &[b's'; 255]].concat(),
        ),
        ("str32", 6, [&[0xdb, 0, 0, 0, 1][..], b"s"].concat()),
        ("bin16-for-16", 2, [&[0xc5, 0, 16][..], &[0; 16]].concat()),
        (
            "bin32-for-16",
            2,
            [&[0xc6, 0, 0, 0, 16][..], &[0; 16]].concat(),
        ),
        ("map16-for-1", 19, vec![0xde, 0, 1, 0xa1, b'a', 0xa0]),
        ("map32-for-1", 19, vec![0xdf, 0, 0, 0, 1, 0xa1, b'a', 0xa0]),
    ] {
        out.push(refuse(
            name,
            &["2"],
            "a shorter encoding of the same value exists",
            &changed(|raw| raw.set(key, value)),
            "not_minimal",
        ));
    }
    let fields = event_with_token().fields.len() as u8;
    for (name, about, bytes) in [
        (
            "wide-envelope",
            "the outer array",
            changed(|raw| raw.head = vec![0xdc, 0, 5]),
        ),
        (
            "wide-version",
            "the version",
            changed(|raw| raw.version = vec![0xcc, 1]),
        ),
        (
            "wide-header-map",
            "the header's map",
            changed(|raw| {
                raw.map_head = Some(vec![0xde, 0, fields]);
            }),
        ),
        (
            "wide-header-key",
            "a key of the header",
            changed(|raw| {
                raw.fields[1].0 = vec![0xcc, 1];
            }),
        ),
        ("wide-header-bin", "the header's length", {
            let raw = event_with_token();
            let header = raw.header_bytes();
            let wide = [&[0xc5, 0, header.len() as u8][..], &header].concat();
            changed(|raw| raw.header_element = Some(wide))
        }),
        (
            "wide-token",
            "the token's length",
            changed(|raw| {
                raw.token = [&[0xc5, 0, 23][..], b"header.claims.signature"].concat();
            }),
        ),
        (
            "wide-body",
            "the body's length",
            changed(|raw| {
                raw.body_element = Some([&[0xc5, 0, 4][..], b"body"].concat());
            }),
        ),
        (
            "wide-index",
            "the index",
            changed_after_signing(|raw| raw.index = vec![0xcc, 0]),
        ),
        (
            "wide-count",
            "the count",
            changed_after_signing(|raw| raw.count = vec![0xcd, 0, 1]),
        ),
        (
            "wide-proof",
            "the proof's array",
            changed_after_signing(|raw| {
                raw.proof = Some(
                    [
                        &[0xdc, 0, 4][..],
                        &raw.index,
                        &raw.count,
                        &bin(&raw.path),
                        &bin(&raw.signature),
                    ]
                    .concat(),
                );
            }),
        ),
        (
            "wide-path",
            "the path's length",
            changed_after_signing(|raw| {
                raw.proof = Some(
                    [
                        &[0x94][..],
                        &raw.index,
                        &raw.count,
                        &[0xc5, 0, 0],
                        &bin(&raw.signature),
                    ]
                    .concat(),
                );
            }),
        ),
    ] {
        out.push(refuse(
            name,
            &["2"],
            &format!("{about} is not in its shortest encoding"),
            &bytes,
            "not_minimal",
        ));
    }
    out
}

pub fn changed_after_signing(change: impl FnOnce(&mut Raw)) -> Vec<u8> {
    let mut raw = event_with_token();
    change(&mut raw);
    raw.bytes()
}

fn types() -> Vec<Vector> {
    let mut out = Vec::new();
    for (name, key, value) in [
        (
            "float-for-integer",
            7,
            vec![0xcb, 0x42, 0x7a, 0x31, 0x36, 0x70, 0x00, 0x00, 0x00],
        ),
        ("negative-sequence", 4, vec![0xff]),
        ("nil-for-integer", 4, vec![0xc0]),
        ("extension", 4, vec![0xd4, 1, 2]),
        ("timestamp", 7, vec![0xd6, 0xff, 0x6b, 0x49, 0xd2, 0x00]),
        ("subject-as-bytes", 6, bin(SUBJECT.as_bytes())),
        ("key-id-as-text", 2, string("0123456789abcdef")),
        ("ids-as-array", 5, [&[0x91][..], &bin(&[1; 16])].concat()),
        ("headers-as-array", 19, vec![0x92, 0xa1, b'a', 0xa0]),
        (
            "headers-nested",
            19,
            vec![0x81, 0xa1, b'a', 0x81, 0xa1, b'b', 0xa0],
        ),
        ("header-value-as-bytes", 19, vec![0x81, 0xa1, b'a', 0xc4, 0]),
        ("content-type-nil", 10, vec![0xc0]),
    ] {
        out.push(refuse(
            name,
            &["2", "10"],
            "another type than the field has",
            &changed(|raw| raw.set(key, value)),
            "wrong_type",
        ));
    }
    for (name, about, bytes) in [
        (
            "header-as-map",
            "the header is a map, not a byte string that holds one",
            changed(|raw| {
                raw.header_element = Some(raw.header_bytes());
            }),
        ),
        (
            "header-as-text",
            "the header is text",
            changed(|raw| {
                raw.header_element = Some([&[0xa1][..], b"x"].concat());
            }),
        ),
        (
            "header-is-array",
            "the header holds an array",
            changed(|raw| {
                raw.header = Some(vec![0x91, 0]);
            }),
        ),
        (
            "token-as-text",
            "the token is text",
            changed(|raw| raw.token = string("a.b.c")),
        ),
        (
            "body-as-text",
            "the body is text",
            changed(|raw| raw.body_element = Some(string("body"))),
        ),
        (
            "body-nil",
            "the body is nil",
            changed(|raw| raw.body_element = Some(vec![0xc0])),
        ),
        (
            "proof-nil",
            "no proof",
            changed(|raw| raw.proof = Some(vec![0xc0])),
        ),
        (
            "proof-as-signature",
            "a signature in place of the proof",
            changed(|raw| {
                raw.proof = Some(bin(&[7; 64]));
            }),
        ),
        (
            "version-as-text",
            "the version is text",
            changed(|raw| raw.version = string("1")),
        ),
        (
            "key-as-text",
            "a key of the header is text",
            changed(|raw| {
                raw.fields[1].0 = string("kind");
            }),
        ),
    ] {
        out.push(refuse(
            name,
            &["1", "10", "21"],
            about,
            &bytes,
            "wrong_type",
        ));
    }
    for (name, key, value) in [
        ("subject-not-utf8", 6, vec![0xa2, 0xc3, 0x28]),
        ("subject-surrogate", 6, vec![0xa3, 0xed, 0xa0, 0x80]),
        ("subject-overlong-utf8", 6, vec![0xa2, 0xc0, 0xae]),
        (
            "header-value-not-utf8",
            19,
            vec![0x81, 0xa1, b'a', 0xa1, 0xff],
        ),
    ] {
        out.push(refuse(
            name,
            &["2"],
            "text that is not UTF-8",
            &changed(|raw| raw.set(key, value)),
            "not_utf8",
        ));
    }
    for (name, key, len) in [
        ("key-id-of-15", 2, 15),
        ("key-id-of-17", 2, 17),
        ("epoch-of-7", 3, 7),
        ("epoch-of-9", 3, 9),
        ("token-hash-of-31", 11, 31),
        ("parent-of-33", 16, 33),
        ("traceparent-of-24", 17, 24),
        ("traceparent-of-26", 17, 26),
    ] {
        out.push(refuse(
            name,
            &["10"],
            "bytes of another length than the field has",
            &changed(|raw| raw.set(key, bin(&vec![1; len]))),
            "wrong_length",
        ));
    }
    out
}

fn limits() -> Vec<Vector> {
    let mut out = Vec::new();
    let headers = |entries: &[(String, String)]| {
        let mut out = super::raw::map_head(entries.len());
        for (name, value) in entries {
            out.extend(string(name));
            out.extend(string(value));
        }
        out
    };
    let entry = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let many: Vec<_> = (0..33).map(|n| entry(&format!("h{n:02}"), "")).collect();
    for (name, key, value) in [
        ("ids-of-65", 5, bin(&[1; 65 * 16])),
        ("subject-of-513", 6, string(&"s".repeat(513))),
        ("reply-to-of-513", 9, string(&"s".repeat(513))),
        ("content-type-of-129", 10, string(&"c".repeat(129))),
        ("limits-of-4097", 12, bin(&[1; 4097])),
        ("headers-33", 19, headers(&many)),
        (
            "header-name-of-65",
            19,
            headers(&[entry(&"n".repeat(65), "")]),
        ),
        (
            "header-value-of-1025",
            19,
            headers(&[entry("n", &"v".repeat(1025))]),
        ),
    ] {
        out.push(refuse(
            name,
            &["4"],
            "one more than the limit",
            &changed(|raw| raw.set(key, value)),
            "too_long",
        ));
    }
    let together: Vec<_> = (0..8)
        .map(|n| entry(&n.to_string(), &"v".repeat(1024)))
        .collect();
    out.push(refuse(
        "headers-8200-bytes",
        &["4"],
        "application headers that are too long together",
        &changed(|raw| raw.set(19, headers(&together))),
        "invalid_field",
    ));
    out.push(refuse(
        "header-of-16385",
        &["4"],
        "a header of more than 16 KiB, refused before it is read",
        &changed(|raw| raw.header = Some(vec![0; 16 * 1024 + 1])),
        "too_long",
    ));
    out.push(refuse(
        "token-of-16385",
        &["4"],
        "a token of more than 16 KiB",
        &changed(|raw| {
            let token = vec![b't'; 16 * 1024 + 1];
            raw.set(11, bin(&bulla_keyring::sha256(&[&token])));
            raw.token = bin(&token);
        }),
        "too_long",
    ));
    out.push(refuse(
        "envelope-of-67108865",
        &["4", "5"],
        "more than 64 MiB, refused before the version is read",
        &vec![0; 64 * 1024 * 1024 + 1],
        "too_large",
    ));
    out
}

fn versions() -> Vec<Vector> {
    let mut out: Vec<_> = [0, 2, 127, 128, 70_000]
        .into_iter()
        .map(|version| {
            refuse(
                &format!("version-{version}"),
                &["5"],
                "another version",
                &changed(|raw| raw.version = uint(version)),
                "unsupported_version",
            )
        })
        .collect();
    for (name, bytes) in [
        ("version-2-of-three-elements", &[0x93, 2, 0xc0, 0xc0][..]),
        ("version-2-and-rubbish", &[0x95, 2, 0xff, 0xff, 0xff, 0xff]),
        ("version-2-alone", &[0x91, 2]),
        ("version-2-with-a-map", &[0x92, 2, 0x80]),
    ] {
        out.push(refuse(
            name,
            &["5"],
            "another version is the reason, whatever follows it",
            bytes,
            "unsupported_version",
        ));
    }
    out
}

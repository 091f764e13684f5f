//! ENV-1 to ENV-15: one encoding for each envelope, everything else is refused.

use bulla_envelope::{Draft, SealedEnvelope};
use bytes::Bytes;

use crate::fixture::*;
use crate::oracle::{Parts, bin, refusal, string, uint};

fn event() -> Parts {
    let to = subject("orders.created");
    let mut draft = Draft::event(&to, NOW, after(30), b"body");
    draft.token = Some(b"a.b.c");
    draft.content_type = Some("text/plain");
    let sealed = orders().sealer().seal(&draft, id(1)).unwrap();
    Parts::of(&sealed.bytes)
}

fn request() -> Parts {
    let (to, inbox) = (subject("orders.create"), subject("_INBOX.a.p.1"));
    let draft = Draft::request(&to, &inbox, NOW, after(30), b"body");
    Parts::of(&orders().sealer().seal(&draft, id(1)).unwrap().bytes)
}

fn changed(change: impl FnOnce(&mut Parts)) -> &'static str {
    let mut parts = event();
    change(&mut parts);
    refusal(parts.encode())
}

#[test]
fn the_genuine_one_decodes() {
    assert_eq!(changed(|_| {}), "accepted");
    assert_eq!(refusal(request().encode()), "accepted");
}

#[test]
fn other_versions_suites_and_kinds_are_refused() {
    for version in [0, 2, 127, 128, 70_000] {
        assert_eq!(changed(|p| p.version = version), "unsupported_version");
    }
    for suite in [5, 6, 255, 257] {
        assert_eq!(changed(|p| p.set(0, uint(suite))), "unsupported_suite");
    }
    for kind in [5, 6, 255] {
        assert_eq!(changed(|p| p.set(1, uint(kind))), "unsupported_kind");
    }
}

/// An envelope of a later suite is refused for that, not for its other fields.
#[test]
fn a_claimed_later_suite_is_the_reason() {
    let code = changed(|p| {
        p.set(0, uint(5));
        p.set(22, bin(&[0; 32]));
        p.set(23, bin(&[0; 32]));
        p.set(24, bin(&[0; 12]));
    });
    assert_eq!(code, "unsupported_suite");
}

#[test]
fn unknown_and_repeated_and_disordered_fields_are_refused() {
    for key in [27, 28, 100, 1 << 40] {
        assert_eq!(changed(|p| p.fields.push((key, uint(0)))), "unknown_field");
    }
    for at in 0..11 {
        assert_eq!(
            changed(|p| p.fields.insert(at, p.fields[at].clone())),
            "field_order"
        );
        if at > 0 {
            assert_eq!(changed(|p| p.fields.swap(at - 1, at)), "field_order");
        }
    }
}

#[test]
fn missing_and_misplaced_fields_are_refused() {
    for key in 0..=8 {
        assert_eq!(changed(|p| p.remove(key)), "missing_field", "{key}");
    }
    let mut parts = request();
    parts.remove(9);
    assert_eq!(refusal(parts.encode()), "missing_field");
    for (key, value) in [
        (13, bin(&[0; 32])),
        (14, uint(0)),
        (15, vec![0xc3]),
        (20, uint(1)),
        (21, bin(&[0; 16])),
    ] {
        assert_eq!(changed(|p| p.set(key, value)), "unexpected_field", "{key}");
    }
    // Limits narrow a user; here is none.
    let mut parts = request();
    parts.set(12, bin(b"\x81\x00\x90"));
    assert_eq!(refusal(parts.encode()), "unexpected_field");
}

#[test]
fn values_out_of_range_are_refused() {
    for (key, value) in [
        (4, uint(u64::MAX)),
        (5, bin(&[])),
        (5, bin(&[0; 15])),
        (6, string("")),
        (8, uint(NOW.as_millis() - 1)),
        (9, string("")),
        (10, string("")),
        (10, string("text\nplain")),
        (12, bin(&[])),
        (17, bin(&[0; 25])),
    ] {
        assert_eq!(
            changed(|p| p.set(key, value.clone())),
            "invalid_field",
            "{key} {value:x?}"
        );
    }
    for (key, value) in [
        (5, bin(&[0; 65 * 16])),
        (6, string(&"s".repeat(513))),
        (10, string(&"c".repeat(129))),
        (12, bin(&[0; 4097])),
    ] {
        assert_eq!(changed(|p| p.set(key, value)), "too_long", "{key}");
    }
    for (key, len) in [(2, 16), (3, 8), (11, 32), (16, 32), (17, 25)] {
        for len in [0, len - 1, len + 1] {
            assert_eq!(
                changed(|p| p.set(key, bin(&vec![1; len]))),
                "wrong_length",
                "{key} {len}"
            );
        }
    }
}

#[test]
fn wrong_types_are_refused() {
    for (key, _) in event().fields {
        for value in [
            vec![0xc0],
            vec![0x90],
            vec![0xca, 0, 0, 0, 0],
            vec![0xd4, 1, 2],
            vec![0xff],
        ] {
            assert_eq!(
                changed(|p| p.set(key, value.clone())),
                "wrong_type",
                "{key} {value:x?}"
            );
        }
    }
    assert_eq!(changed(|p| p.set(6, bin(b"orders.created"))), "wrong_type");
    assert_eq!(
        changed(|p| p.set(2, string("0123456789abcdef"))),
        "wrong_type"
    );
    assert_eq!(changed(|p| p.set(6, vec![0xa1, 0xff])), "not_utf8");
}

/// Each value again in every longer encoding.
#[test]
fn longer_encodings_are_refused() {
    for (key, value) in [
        (4, vec![0xcc, 0x00]),
        (4, vec![0xcd, 0, 0]),
        (4, vec![0xce, 0, 0, 0, 0]),
        (4, vec![0xcf, 0, 0, 0, 0, 0, 0, 0, 0]),
        (4, vec![0xd0, 0x00]),
        (4, vec![0xd3, 0, 0, 0, 0, 0, 0, 0, 0]),
        (6, [&[0xd9, 1][..], b"a"].concat()),
        (6, [&[0xda, 0, 1][..], b"a"].concat()),
        (6, [&[0xdb, 0, 0, 0, 1][..], b"a"].concat()),
        (2, [&[0xc5, 0, 16][..], &[0; 16]].concat()),
        (2, [&[0xc6, 0, 0, 0, 16][..], &[0; 16]].concat()),
        (19, vec![0xde, 0, 1, 0xa1, b'a', 0xa0]),
        (19, vec![0xdf, 0, 0, 0, 1, 0xa1, b'a', 0xa0]),
    ] {
        assert_eq!(
            changed(|p| p.set(key, value.clone())),
            "not_minimal",
            "{key} {value:x?}"
        );
    }
    let parts = event();
    let header = parts.header();
    let wide = [&[0xde, 0, parts.fields.len() as u8][..], &header[1..]].concat();
    assert_eq!(refusal(parts.encode_with_header(&wide)), "not_minimal");
    let wide_key = [&header[..1], &[0xcc, 0x00], &header[2..]].concat();
    assert_eq!(refusal(parts.encode_with_header(&wide_key)), "not_minimal");
    let genuine = parts.encode();
    let wide = [&[0xdc, 0, 5][..], &genuine[1..]].concat();
    assert_eq!(refusal(wide.into()), "not_minimal");
    let wide = [&[0x95, 0xcc, 1][..], &genuine[2..]].concat();
    assert_eq!(refusal(wide.into()), "not_minimal");
}

#[test]
fn trailing_bytes_are_refused_at_every_level() {
    let parts = event();
    let mut bytes = parts.encode().to_vec();
    bytes.push(0xc0);
    assert_eq!(refusal(bytes.into()), "trailing_bytes");
    let mut header = parts.header();
    header.push(0xc0);
    assert_eq!(refusal(parts.encode_with_header(&header)), "trailing_bytes");
}

/// What announces gigabytes costs its own few bytes.
#[test]
fn length_bombs_are_refused() {
    for bytes in [
        &[0xdd, 0xff, 0xff, 0xff, 0xff, 1][..],
        &[0xdc, 0xff, 0xff, 1],
        &[0x95, 1, 0xc6, 0xff, 0xff, 0xff, 0xff, 0],
        &[0x95, 1, 0xc5, 0x40, 0x00, 0],
        &[0x95, 1, 0xc4, 5, 0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0x95, 1, 0xc4, 3, 0xde, 0xff, 0xff],
    ] {
        let code = refusal(Bytes::copy_from_slice(bytes));
        assert!(
            matches!(code, "truncated" | "too_long"),
            "{code}: {bytes:x?}"
        );
    }
    let bomb = |value: &[u8]| {
        let value = value.to_vec();
        changed(|p| p.set(19, value))
    };
    assert_eq!(bomb(&[0xde, 0xff, 0xff]), "too_long");
    assert_eq!(bomb(&[0x81, 0xdb, 0xff, 0xff, 0xff, 0xff]), "too_long");
    // Nesting has no depth to go to: a map of headers holds texts only.
    assert_eq!(bomb(&[0x81, 0xa1, b'a', 0x81]), "wrong_type");
    assert_eq!(
        changed(|p| p.token = Some(vec![0; 16 * 1024 + 1])),
        "too_long"
    );
    let parts = event();
    assert_eq!(
        refusal(parts.encode_with_header(&vec![0; 16 * 1024 + 1])),
        "too_long"
    );
}

#[test]
fn application_headers_are_strict() {
    for value in [
        &[0x80][..],
        &[0x82, 0xa1, b'a', 0xa0, 0xa1, b'a', 0xa0],
        &[0x82, 0xa1, b'b', 0xa0, 0xa1, b'a', 0xa0],
        &[0x81, 0xa0, 0xa0],
        &[0x81, 0xa1, b' ', 0xa0],
        &[0x81, 0xa1, b'a', 0xa1, b'\n'],
    ] {
        assert_eq!(
            changed(|p| p.set(19, value.to_vec())),
            "invalid_field",
            "{value:x?}"
        );
    }
}

/// Each header may be long, all together may not.
#[test]
fn application_headers_are_bounded_together() {
    let headers = |count: u8| {
        let mut out = vec![0x80 | count];
        for n in 0..count {
            out.extend(string(&format!("h{n}")));
            out.extend(string(&"v".repeat(1022)));
        }
        out
    };
    assert_eq!(changed(|p| p.set(19, headers(8))), "accepted");
    assert_eq!(changed(|p| p.set(19, headers(9))), "invalid_field");
}

#[test]
fn an_error_reply_says_no_more_than_it_may() {
    use bulla_envelope::{DecisionId, ErrorCode, ErrorReport, LeafHash};
    let inbox = subject("_INBOX.a.p.1");
    let report = ErrorReport {
        code: ErrorCode::Refused,
        decision: DecisionId([1; 16]),
    };
    let draft = Draft::error(&inbox, LeafHash([2; 32]), 0, report, NOW, after(30));
    let genuine = Parts::of(&orders().sealer().seal(&draft, id(1)).unwrap().bytes);
    assert_eq!(refusal(genuine.encode()), "accepted");
    let changed = |change: &dyn Fn(&mut Parts)| {
        let mut parts = genuine.clone();
        change(&mut parts);
        refusal(parts.encode())
    };
    assert_eq!(changed(&|p| p.body = b"why".to_vec()), "error_with_body");
    assert_eq!(
        changed(&|p| p.set(10, string("text/plain"))),
        "unexpected_field"
    );
    assert_eq!(
        changed(&|p| p.set(19, vec![0x81, 0xa1, b'a', 0xa0])),
        "unexpected_field"
    );
    assert_eq!(changed(&|p| p.set(15, vec![0xc2])), "invalid_field");
    assert_eq!(changed(&|p| p.set(20, uint(0))), "invalid_field");
    assert_eq!(changed(&|p| p.set(20, uint(6))), "invalid_field");
    assert_eq!(changed(&|p| p.remove(21)), "missing_field");
    assert_eq!(changed(&|p| p.remove(13)), "missing_field");
}

#[test]
fn claims_are_readable_before_the_proof_by_names_that_say_so() {
    let sealed = SealedEnvelope::decode(event().encode()).unwrap();
    assert_eq!(sealed.subject_unverified(), "orders.created");
    assert_eq!(sealed.id_unverified(), id(1));
    assert_eq!(sealed.key_id(), orders().credential().id());
}

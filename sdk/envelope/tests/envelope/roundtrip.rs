//! open ∘ seal = identity, and any flipped bit fails.

use bulla_envelope::{
    AppHeaders, CheckError, DecisionId, Draft, Epoch, ErrorCode, ErrorReport, Expectation, Kind,
    LeafHash, Limits, ReplayWindow, ReplyBinding, SealError, SealedEnvelope, Sealer, TraceParent,
};
use bytes::Bytes;
use proptest::prelude::*;

use crate::fixture::*;
use crate::oracle::Parts;

fn full_request_headers() -> AppHeaders {
    let mut headers = AppHeaders::new();
    headers.insert("tenant", "acme").unwrap();
    headers.insert("Attempt", "1").unwrap();
    headers
}

#[test]
fn every_field_survives() {
    let process = orders();
    let (to, reply_to) = (subject("billing.quote"), subject("_INBOX.a.p.1"));
    let headers = full_request_headers();
    let trace = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let mut draft = Draft::request(&to, &reply_to, NOW, after(30), b"{\"net\":1}");
    draft.content_type = Some("application/json");
    draft.token = Some(b"a.b.c");
    let limits = Limits::none().keep_scopes(["x"]).encode().unwrap().unwrap();
    draft.limits = Some(&limits);
    draft.parent = Some(LeafHash([7; 32]));
    draft.traceparent = trace;
    draft.policy_revision = Some(300);
    draft.app_headers = Some(&headers);
    let sealed = process.sealer().seal(&draft, id(1)).unwrap();

    let opened = open(
        &sealed,
        &process.verified(),
        &Expectation {
            reply_to: Some("_INBOX.a.p.1"),
            kinds: &[Kind::Request],
            ..expect_event("billing.quote")
        },
    );
    assert_eq!(opened.sender().workload, process.workload);
    assert_eq!(opened.sender().key_id, process.credential().id());
    assert_eq!(opened.kind(), Kind::Request);
    assert_eq!(opened.subject(), "billing.quote");
    assert_eq!(opened.reply_to(), Some("_INBOX.a.p.1"));
    assert_eq!((opened.issued_at(), opened.expires_at()), (NOW, after(30)));
    assert_eq!(opened.content_type(), Some("application/json"));
    assert_eq!(opened.token().unwrap(), "a.b.c");
    assert_eq!(opened.limits().unwrap(), limits);
    assert_eq!(opened.parent(), Some(LeafHash([7; 32])));
    assert_eq!(opened.traceparent(), trace);
    assert_eq!(opened.policy_revision(), Some(300));
    assert_eq!(
        opened.app_headers().collect::<Vec<_>>(),
        [("Attempt", "1"), ("tenant", "acme")]
    );
    assert_eq!(opened.app_header("tenant"), Some("acme"));
    assert_eq!(opened.app_header("none"), None);
    assert_eq!((opened.binding(), opened.error()), (None, None));
    assert_eq!(opened.leaf(), sealed.leaf);
    assert_eq!(opened.leaf(), Parts::of(&sealed.bytes).leaf());
    assert_eq!(opened.epoch(), Epoch([0xe0; 8]));
    let message = opened.first_message();
    assert!(opened.messages().eq([message.clone()]));
    assert_eq!((message.id, message.sequence), (id(1), 0));
    assert_eq!(message.body, "{\"net\":1}");
    // Zero-copy: the body lies in the received bytes.
    let range = sealed.bytes.as_ptr_range();
    assert!(range.contains(&message.body.as_ptr()));
}

#[test]
fn replies_and_errors_are_bound_to_their_request() {
    let process = billing();
    let inbox = subject("_INBOX.a.p.1");
    let request = LeafHash([3; 32]);
    let binding = ReplyBinding {
        request,
        index: 2,
        is_final: false,
    };
    let sealer = process.sealer();
    let reply = Draft::reply(&inbox, binding, NOW, after(30), b"ok");
    let reply = sealer.seal(&reply, id(1)).unwrap();
    let expected = Expectation {
        kinds: &[Kind::Reply, Kind::Error],
        request: Some(request),
        ..expect_event("_INBOX.a.p.1")
    };
    let opened = open(&reply, &process.verified(), &expected);
    assert_eq!(opened.binding(), Some(binding));

    let report = ErrorReport {
        code: ErrorCode::Refused,
        decision: DecisionId([4; 16]),
    };
    let error = Draft::error(&inbox, request, 3, report, NOW, after(30));
    let error = sealer.seal(&error, id(2)).unwrap();
    let opened = open(&error, &process.verified(), &expected);
    assert_eq!(opened.kind(), Kind::Error);
    assert_eq!(opened.error(), Some(report));
    assert!(opened.first_message().body.is_empty());
    assert!(opened.binding().unwrap().is_final);

    for sealed in [&reply, &error] {
        for other in [None, Some(LeafHash([5; 32]))] {
            let expected = Expectation {
                request: other,
                ..expected.clone()
            };
            assert_eq!(
                authentic(sealed, &process.verified())
                    .check(&expected)
                    .unwrap_err(),
                CheckError::WrongRequest
            );
        }
    }
}

/// ENV-20, ENV-21: not one bit of an envelope can change.
#[test]
fn every_flipped_bit_fails() {
    let process = orders();
    let (to, reply_to) = (subject("billing.quote"), subject("_INBOX.a.p.1"));
    let headers = full_request_headers();
    let mut draft = Draft::request(&to, &reply_to, NOW, after(30), b"body");
    draft.content_type = Some("text/plain");
    draft.token = Some(b"a.b.c");
    draft.limits = Some(b"\x81\x00\x90");
    draft.app_headers = Some(&headers);
    let event = Draft::event(&to, NOW, after(30), b"event");
    let batch = [
        (event.clone(), id(1)),
        (draft, id(2)),
        (event.clone(), id(3)),
        (event.clone(), id(4)),
        (event, id(5)),
    ];
    let sealed = process.sealer().seal_batch(&batch).unwrap();
    let credential = process.verified();
    // One in the middle of the tree and the one without neighbours at the end.
    for envelope in [&sealed[1], &sealed[4]] {
        let mut bytes = envelope.bytes.to_vec();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let accepted = SealedEnvelope::decode(Bytes::copy_from_slice(&bytes))
                .is_ok_and(|sealed| sealed.verify(&credential).is_ok());
            assert!(!accepted, "bit {bit} of {}", bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..bytes.len() {
            assert!(SealedEnvelope::decode(Bytes::copy_from_slice(&bytes[..len])).is_err());
        }
        bytes.push(0xc0);
        assert_eq!(crate::oracle::refusal(bytes.into()), "trailing_bytes");
    }
}

#[test]
fn sequence_counts_across_seals_and_batches() {
    let process = orders();
    let to = subject("a");
    let sealer = process.sealer();
    let draft = Draft::event(&to, NOW, after(30), b"");
    assert_eq!(sealer.seal(&draft, id(1)).unwrap().sequence, 0);
    let batch = vec![(draft.clone(), id(2)); 3];
    let sequences: Vec<_> = sealer
        .seal_batch(&batch)
        .unwrap()
        .iter()
        .map(|sealed| sealed.sequence)
        .collect();
    assert_eq!(sequences, [1, 2, 3]);
    assert_eq!(sealer.seal(&draft, id(1)).unwrap().sequence, 4);
}

#[test]
fn sealer_refuses_what_no_receiver_would_take() {
    let process = orders();
    let (to, reply_to) = (subject("a"), subject("_INBOX.x"));
    let sealer = process.sealer();
    let refused = |draft: &Draft<'_>| sealer.seal(draft, id(1)).unwrap_err().code();
    let event = Draft::event(&to, NOW, after(30), b"x");

    assert_eq!(
        Sealer::new(
            &process.credential(),
            billing().message_key(),
            Epoch([0; 8])
        )
        .unwrap_err(),
        SealError::ForeignKey
    );
    let mut draft = Draft::request(&to, &reply_to, NOW, after(30), b"x");
    draft.reply_to = None;
    assert_eq!(refused(&draft), "shape");
    let mut draft = event.clone();
    draft.limits = Some(b"\x81\x00\x90");
    assert_eq!(refused(&draft), "shape");
    let mut draft = event.clone();
    draft.expires_at = after(-1);
    assert_eq!(refused(&draft), "invalid_field");
    let mut draft = event.clone();
    draft.expires_at = after(901);
    assert_eq!(refused(&draft), "invalid_field");
    let mut draft = event.clone();
    draft.issued_at = after(3500);
    draft.expires_at = after(3601);
    assert_eq!(refused(&draft), "outlives_credential");
    let mut draft = event.clone();
    draft.content_type = Some("text\r\n");
    assert_eq!(refused(&draft), "invalid_field");
    let long = "x".repeat(129);
    draft.content_type = Some(&long);
    assert_eq!(refused(&draft), "invalid_field");
    let long = vec![b'x'; 16 * 1024 + 1];
    let mut draft = event.clone();
    draft.token = Some(&long);
    assert_eq!(refused(&draft), "token_too_long");
    draft.token = Some(b"t");
    draft.limits = Some(&long[..4097]);
    assert_eq!(refused(&draft), "field_too_long");
    draft.limits = Some(b"{}");
    assert_eq!(refused(&draft), "invalid_field");
    let mut draft = event.clone();
    draft.kind = Kind::Error;
    assert_eq!(refused(&draft), "shape");
    let report = ErrorReport {
        code: ErrorCode::Failed,
        decision: DecisionId([0; 16]),
    };
    let mut draft = Draft::error(&to, LeafHash([0; 32]), 0, report, NOW, after(30));
    draft.body = b"x";
    assert_eq!(refused(&draft), "error_with_body");
    assert_eq!(sealer.seal_batch(&[]).unwrap_err().code(), "batch_size");
    let huge = vec![(event, id(1)); 1025];
    assert_eq!(sealer.seal_batch(&huge).unwrap_err().code(), "batch_size");
}

#[test]
fn application_headers_are_bounded() {
    let mut headers = AppHeaders::new();
    assert!(headers.insert("", "x").is_err());
    assert!(headers.insert("bad name", "x").is_err());
    assert!(headers.insert("name", "line\r\nbreak").is_err());
    assert!(headers.insert(&"n".repeat(65), "x").is_err());
    assert!(headers.insert("name", &"v".repeat(1025)).is_err());
    assert!(headers.insert("name", "x").is_ok());
    assert!(headers.insert("name", "y").is_err());
    for n in 1..32 {
        headers.insert(&format!("h{n}"), "").unwrap();
    }
    assert!(headers.insert("one-more", "").is_err());
    let mut headers = AppHeaders::new();
    for n in 0..7 {
        headers.insert(&format!("h{n}"), &"v".repeat(1024)).unwrap();
    }
    assert!(headers.insert("last", &"v".repeat(1024)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn open_after_seal_is_identity(
        body in proptest::collection::vec(any::<u8>(), 0..70_000),
        token in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..3000)),
        content_type in proptest::option::of("[ -~]{1,128}"),
        headers in proptest::collection::btree_map("[a-zA-Z0-9._-]{1,64}", "[^\\p{Cc}]{0,40}", 0..32),
        life in 0i64..=30,
    ) {
        let process = orders();
        let to = subject("orders.created");
        let mut app_headers = AppHeaders::new();
        for (name, value) in &headers {
            app_headers.insert(name, value).unwrap();
        }
        let mut draft = Draft::event(&to, NOW, after(life), &body);
        draft.token = token.as_deref();
        draft.content_type = content_type.as_deref();
        draft.app_headers = Some(&app_headers);
        let sealed = process.sealer().seal(&draft, id(9)).unwrap();
        let opened = open(&sealed, &process.verified(), &expect_event("orders.created"));
        prop_assert_eq!(opened.first_message().body, body);
        prop_assert_eq!(opened.token().map(|t| t.to_vec()), token);
        prop_assert_eq!(opened.content_type(), content_type.as_deref());
        let back: Vec<_> = opened.app_headers().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        prop_assert_eq!(back, headers.into_iter().collect::<Vec<_>>());
    }

    /// Rubbish is refused, never a panic.
    #[test]
    fn rubbish_never_decodes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(SealedEnvelope::decode(Bytes::from(bytes)).is_err());
    }
}

#[test]
fn the_window_takes_each_message_once() {
    let process = orders();
    let to = subject("a");
    let draft = Draft::event(&to, NOW, after(30), b"x");
    let sealed = process.sealer().seal(&draft, id(1)).unwrap();
    let opened = open(&sealed, &process.verified(), &expect_event("a"));
    let mut window = ReplayWindow::new(Default::default(), SKEW);
    let message = opened.first_message();
    window.commit(&opened, &message, NOW).unwrap();
    let again = window.commit(&opened, &message, NOW).unwrap_err();
    assert_eq!(again.code(), "replayed");

    // The same key, epoch and sequence with another message: a cloned process.
    let draft = Draft::event(&to, NOW, after(30), b"y");
    let clone = process.sealer().seal(&draft, id(2)).unwrap();
    let clone = open(&clone, &process.verified(), &expect_event("a"));
    let error = window
        .commit(&clone, &clone.first_message(), NOW)
        .unwrap_err();
    assert_eq!(error.code(), "cloned_key");
}

//! Envelopes that open: every kind, every field, every length of an encoding.

use bulla_envelope::{
    AppHeaders, DecisionId, Draft, ErrorCode, ErrorReport, FrameMessage, LeafHash, ReplyBinding,
    Sealed, TraceParent,
};

use super::file::{Vector, hex};
use super::narrowing;
use super::people::*;
use super::raw::{Raw, uint};

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(events());
    out.extend(lengths());
    out.extend(requests_and_answers());
    out.extend(frames());
    out.extend(batches());
    out
}

pub fn seal(draft: &Draft<'_>, name: &str) -> Sealed {
    orders().sealer().seal(draft, id(name)).unwrap()
}

/// An event of `orders` with a token.
pub fn event_with_token() -> Raw {
    let to = subject(SUBJECT);
    let mut draft = event(&to, b"body");
    draft.token = Some(b"header.claims.signature");
    draft.content_type = Some("text/plain");
    Raw::of(&seal(&draft, "event").bytes)
}

pub fn plain_event() -> Raw {
    let to = subject(SUBJECT);
    Raw::of(&seal(&event(&to, b"body"), "event").bytes)
}

pub fn request() -> Raw {
    let (to, inbox) = (subject(SUBJECT), subject(INBOX));
    let draft = Draft::request(&to, &inbox, NOW, at(LIFE), b"how many?");
    Raw::of(&seal(&draft, "request").bytes)
}

/// The leaf of some request that was sent.
pub fn asked() -> LeafHash {
    LeafHash(filler("leaf of a request"))
}

pub fn reply() -> Raw {
    reply_of(0, true)
}

fn reply_of(index: u32, is_final: bool) -> Raw {
    let inbox = subject(INBOX);
    let binding = ReplyBinding {
        request: asked(),
        index,
        is_final,
    };
    let draft = Draft::reply(&inbox, binding, NOW, at(LIFE), b"42");
    Raw::of(&seal(&draft, "reply").bytes)
}

pub fn error() -> Raw {
    error_of(ErrorCode::Refused)
}

fn error_of(code: ErrorCode) -> Raw {
    let inbox = subject(INBOX);
    let report = ErrorReport {
        code,
        decision: DecisionId(filler("decision")),
    };
    let draft = Draft::error(&inbox, asked(), 0, report, NOW, at(LIFE));
    Raw::of(&seal(&draft, "error").bytes)
}

/// How a request comes.
pub fn as_request(vector: Vector) -> Vector {
    vector.with(|with| {
        with.kinds = Some(vec!["request".to_owned()]);
        with.reply_to = Some(INBOX.to_owned());
    })
}

/// How an answer comes to who asked.
pub fn as_answer(vector: Vector) -> Vector {
    vector.with(|with| {
        with.kinds = Some(vec!["reply".to_owned(), "error".to_owned()]);
        with.subject = Some(INBOX.to_owned());
        with.request = Some(hex(&asked().0));
    })
}

fn accept(name: &str, rules: &[&str], about: &str, bytes: &[u8]) -> Vector {
    Vector::accept(name, "envelope", rules, about, bytes)
}

fn events() -> Vec<Vector> {
    let (to, reply_to) = (subject(SUBJECT), subject("$JS.ACK.9"));
    let mut out = vec![
        accept(
            "event",
            &["1", "10", "20", "21", "23"],
            "the smallest set of fields",
            &plain_event().bytes(),
        ),
        accept(
            "event-with-token",
            &["1", "10", "15"],
            "a user token and a content type",
            &event_with_token().bytes(),
        ),
    ];
    let mut headers = AppHeaders::new();
    headers
        .insert("Zebra", "upper case sorts before lower")
        .unwrap();
    headers.insert("a.b-c_d", "").unwrap();
    headers.insert("umlaut", "grüße, 世界").unwrap();
    let mut draft = event(&to, b"{\"order\":1}");
    draft.reply_to = Some(&reply_to);
    draft.content_type = Some("application/json");
    draft.token = Some(b"header.claims.signature");
    let limits = narrowing::bytes(&narrowing::full());
    draft.limits = Some(&limits);
    draft.parent = Some(LeafHash(filler("parent")));
    draft.traceparent = TraceParent::from_bytes(filler("trace"));
    draft.policy_revision = Some(300);
    draft.app_headers = Some(&headers);
    out.push(
        accept(
            "event-with-every-field",
            &["10", "12", "15"],
            "every field that an event can have",
            &seal(&draft, "full").bytes,
        )
        .with(|with| with.reply_to = Some("$JS.ACK.9".to_owned())),
    );
    let mut draft = event(&to, b"");
    draft.token = Some(b"");
    out.push(accept(
        "event-with-an-empty-token",
        &["15"],
        "an empty token is a token: it has a hash",
        &seal(&draft, "empty token").bytes,
    ));
    let mut gateway_event = event(&to, b"from the edge");
    gateway_event.token = Some(b"token");
    out.push(
        accept(
            "event-of-another-workload",
            &["23", "52"],
            "by a credential that also has a token key",
            &gateway()
                .sealer()
                .seal(&gateway_event, id("gateway"))
                .unwrap()
                .bytes,
        )
        .with(|with| with.credential = Some("gateway".to_owned())),
    );
    out
}

/// Each class of MessagePack lengths and integers, at both of its ends.
fn lengths() -> Vec<Vector> {
    let to = subject(SUBJECT);
    let mut out = Vec::new();
    for len in [0, 1, 255, 256, 65_535, 65_536] {
        let body = vec![b'b'; len];
        out.push(accept(
            &format!("body-of-{len}"),
            &["2"],
            "a byte string at the end of a class of lengths",
            &seal(&event(&to, &body), "body").bytes,
        ));
    }
    for sequence in [
        1,
        127,
        128,
        255,
        256,
        65_535,
        65_536,
        u64::from(u32::MAX),
        1 << 32,
        u64::MAX - 1,
    ] {
        let mut raw = plain_event();
        raw.set(4, uint(sequence));
        out.push(accept(
            &format!("sequence-{sequence}"),
            &["2", "13"],
            "an integer at the end of a class",
            &raw.signed(&orders()).bytes(),
        ));
    }
    for len in [1, 31, 32, 255, 256, 512] {
        let text = "s".repeat(len);
        let to = subject(&text);
        out.push(
            accept(
                &format!("subject-of-{len}"),
                &["2", "4"],
                "text at the end of a class of lengths; 512 is the longest subject",
                &seal(&event(&to, b""), "subject").bytes,
            )
            .with(|with| with.subject = Some(text.clone())),
        );
    }
    let long = narrowing::long(4096).leak();
    for (name, about, change) in [
        (
            "token-of-16384",
            "the longest token",
            Box::new(|draft: &mut Draft<'_>| draft.token = Some(&[b't'; 16 * 1024]))
                as Box<dyn Fn(&mut Draft<'_>)>,
        ),
        (
            "limits-of-4096",
            "the longest limits",
            Box::new(|draft: &mut Draft<'_>| {
                draft.token = Some(b"t");
                draft.limits = Some(long);
            }),
        ),
        (
            "content-type-of-1",
            "the shortest content type",
            Box::new(|draft| draft.content_type = Some("~")),
        ),
        (
            "content-type-of-128",
            "the longest content type, of the first and last characters that it may have",
            Box::new(|draft| {
                draft.content_type = Some(
                    "                                                                \
                     ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~",
                );
            }),
        ),
        (
            "policy-revision-of-64-bits",
            "the largest revision",
            Box::new(|draft| draft.policy_revision = Some(u64::MAX)),
        ),
    ] {
        let mut draft = event(&to, b"");
        change(&mut draft);
        out.push(accept(
            name,
            &["4", "10"],
            about,
            &seal(&draft, "length").bytes,
        ));
    }
    let mut headers = AppHeaders::new();
    for n in 0..32 {
        headers.insert(&format!("h{n:02}"), "v").unwrap();
    }
    let mut largest = AppHeaders::new();
    for n in 0..7 {
        largest
            .insert(&format!("{n}").repeat(64), &"v".repeat(1024))
            .unwrap();
    }
    largest
        .insert("z", &"v".repeat(8 * 1024 - 7 * (64 + 1024) - 1))
        .unwrap();
    for (name, about, headers) in [
        (
            "headers-32",
            "as many application headers as may be",
            headers,
        ),
        (
            "headers-8192-bytes",
            "application headers of the greatest length, one by one and together",
            largest,
        ),
    ] {
        let mut draft = event(&to, b"");
        draft.app_headers = Some(&headers);
        out.push(accept(
            name,
            &["4", "15"],
            about,
            &seal(&draft, "headers").bytes,
        ));
    }
    out
}

fn requests_and_answers() -> Vec<Vector> {
    let mut out = vec![as_request(accept(
        "request",
        &["10", "31"],
        "a request and the inbox it came with",
        &request().bytes(),
    ))];
    for (name, index, is_final, about) in [
        ("reply", 0, true, "the only reply"),
        ("reply-of-several", 3, false, "a reply that others follow"),
        (
            "reply-of-the-largest-index",
            u32::MAX,
            true,
            "the last one that there can be",
        ),
    ] {
        out.push(as_answer(accept(
            name,
            &["10", "32"],
            about,
            &reply_of(index, is_final).bytes(),
        )));
    }
    for code in [
        ErrorCode::Refused,
        ErrorCode::Unavailable,
        ErrorCode::Failed,
        ErrorCode::TooLarge,
        ErrorCode::Deadline,
    ] {
        out.push(as_answer(accept(
            &format!("error-{}", code.as_str().replace('_', "-")),
            &["10", "35"],
            "an error and a decision id, no more",
            &error_of(code).bytes(),
        )));
    }
    out
}

fn frames() -> Vec<Vector> {
    let to = subject(SUBJECT);
    [2usize, 3, 15, 16, 64]
        .into_iter()
        .map(|count| {
            accept(
                &format!("frame-of-{count}"),
                &["13", "14"],
                "several messages under one leaf; the second is empty",
                &seal_frame(&event(&to, b""), count).bytes,
            )
        })
        .collect()
}

pub fn seal_frame(draft: &Draft<'_>, count: usize) -> Sealed {
    let bodies: Vec<Vec<u8>> = (0..count)
        .map(|n| {
            if n == 1 {
                Vec::new()
            } else {
                format!("message {n}").into_bytes()
            }
        })
        .collect();
    let messages: Vec<FrameMessage<'_>> = bodies
        .iter()
        .enumerate()
        .map(|(n, body)| FrameMessage {
            id: id(&format!("frame {n}")),
            body,
        })
        .collect();
    orders().sealer().seal_frame(draft, &messages).unwrap()
}

/// A batch of events, each with its place as its body.
pub fn batch(count: usize) -> Vec<Sealed> {
    let to = subject(SUBJECT);
    let bodies: Vec<Vec<u8>> = (0..count).map(|n| n.to_string().into_bytes()).collect();
    let drafts: Vec<_> = bodies
        .iter()
        .enumerate()
        .map(|(n, body)| (event(&to, body), id(&format!("batch {n}"))))
        .collect();
    orders().sealer().seal_batch(&drafts).unwrap()
}

fn batches() -> Vec<Vector> {
    let mut out = Vec::new();
    for (count, places) in [
        (2, &[0, 1][..]),
        (3, &[0, 1, 2]),
        (4, &[0, 3]),
        (5, &[0, 3, 4]),
        (6, &[0, 4, 5]),
        (7, &[0, 5, 6]),
        (8, &[0, 3, 7]),
        (9, &[0, 8]),
        (255, &[0, 127, 254]),
        (256, &[0, 128, 255]),
        (257, &[0, 256]),
        (1000, &[999]),
        (1024, &[0, 511, 1023]),
    ] {
        let sealed = batch(count);
        for &place in places {
            out.push(accept(
                &format!("batch-of-{count}-place-{place}"),
                &["21", "22", "23", "24"],
                "an envelope of a batch opens alone",
                &sealed[place].bytes,
            ));
        }
    }
    let (to, inbox) = (subject(SUBJECT), subject(INBOX));
    let request = Draft::request(&to, &inbox, NOW, at(LIFE), b"in a batch");
    let mixed = [
        (event(&to, b"first"), id("mixed 0")),
        (request, id("mixed 1")),
        (event(&to, b"last"), id("mixed 2")),
    ];
    let sealed = orders().sealer().seal_batch(&mixed).unwrap();
    out.push(as_request(accept(
        "batch-of-several-kinds",
        &["24"],
        "envelopes of one batch have nothing else in common",
        &sealed[1].bytes,
    )));
    out
}

//! ENV-30 to ENV-34: authentic, but not meant for here and now.

use super::file::{Vector, With, hex};
use super::good::{as_answer, as_request, asked, error, plain_event, reply, request};
use super::people::*;
use super::raw::{Raw, uint};

fn refuse(name: &str, rules: &[&str], about: &str, raw: &Raw, why: &str) -> Vector {
    Vector::refuse(
        name,
        "envelope",
        rules,
        about,
        &raw.bytes(),
        &format!("check/{why}"),
    )
}

fn accept(name: &str, rules: &[&str], about: &str, raw: &Raw) -> Vector {
    Vector::accept(name, "envelope", rules, about, &raw.bytes())
}

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(places());
    out.extend(kinds());
    out.extend(bindings());
    out.extend(times());
    out.extend(order());
    out
}

fn places() -> Vec<Vector> {
    let mut out = Vec::new();
    for (name, subject) in [
        ("on-another-subject", "orders.create"),
        ("on-a-longer-subject", "orders.created.x"),
        ("on-a-subject-of-other-case", "orders.Created"),
        ("on-a-subject-with-a-space", "orders.created "),
        ("on-a-pattern", "orders.*"),
    ] {
        out.push(
            refuse(
                name,
                &["31"],
                "came on another subject than it was sealed for",
                &plain_event(),
                "wrong_subject",
            )
            .with(|with| with.subject = Some(subject.to_owned())),
        );
    }
    out.push(
        refuse(
            "event-redirected",
            &["31"],
            "somebody added a reply subject",
            &plain_event(),
            "wrong_reply_to",
        )
        .with(|with| with.reply_to = Some("admin.commands".to_owned())),
    );
    for (name, reply_to, about) in [
        (
            "request-redirected",
            Some("_INBOX.4f1a.p.78"),
            "came with another reply subject",
        ),
        (
            "request-without-its-inbox",
            None,
            "somebody took the reply subject off",
        ),
    ] {
        out.push(
            as_request(refuse(name, &["31"], about, &request(), "wrong_reply_to"))
                .with(|with| with.reply_to = reply_to.map(str::to_owned)),
        );
    }
    out
}

fn kinds() -> Vec<Vector> {
    let only = |kinds: &'static [&'static str]| {
        move |with: &mut With| {
            with.kinds = Some(kinds.iter().map(|&kind| kind.to_owned()).collect());
        }
    };
    vec![
        refuse(
            "event-where-requests-come",
            &["32"],
            "an event where only requests make sense",
            &plain_event(),
            "wrong_kind",
        )
        .with(only(&["request"])),
        as_request(refuse(
            "request-where-events-come",
            &["32"],
            "a request where only events make sense",
            &request(),
            "wrong_kind",
        ))
        .with(only(&["event"])),
        refuse(
            "reply-where-events-come",
            &["32"],
            "a reply that nobody waits for",
            &reply(),
            "wrong_kind",
        )
        .with(|with| with.subject = Some(INBOX.to_owned())),
        refuse(
            "error-where-events-come",
            &["32"],
            "an error that nobody waits for",
            &error(),
            "wrong_kind",
        )
        .with(|with| with.subject = Some(INBOX.to_owned())),
        as_answer(refuse(
            "event-where-replies-come",
            &["32"],
            "an event in an inbox",
            &plain_event(),
            "wrong_kind",
        )),
    ]
}

fn bindings() -> Vec<Vector> {
    let mut other = asked().0;
    other[31] ^= 1;
    let mut out = Vec::new();
    for (kind, raw) in [("reply", reply()), ("error", error())] {
        out.push(
            as_answer(refuse(
                &format!("{kind}-to-another-request"),
                &["32"],
                "it names the leaf of another request",
                &raw,
                "wrong_request",
            ))
            .with(|with| with.request = Some(hex(&other))),
        );
        out.push(
            as_answer(refuse(
                &format!("{kind}-to-no-request"),
                &["32"],
                "nothing was asked",
                &raw,
                "wrong_request",
            ))
            .with(|with| with.request = None),
        );
    }
    out
}

/// The event with other times, signed again.
fn timed(issued_at: i64, expires_at: i64) -> Raw {
    let mut raw = plain_event();
    raw.set(7, uint(at(issued_at).as_millis()));
    raw.set(8, uint(at(expires_at).as_millis()));
    raw.signed(&orders())
}

fn times() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let age = MAX_AGE.as_millis() as i64;
    let now = |millis: i64| move |with: &mut With| with.now = Some(at(millis).as_millis());
    let life = 15 * 60_000;
    let mut out = Vec::new();
    out.push(
        accept(
            "from-the-skews-future",
            &["33"],
            "issued exactly one skew ahead",
            &plain_event(),
        )
        .with(now(-skew)),
    );
    out.push(
        refuse(
            "from-the-future",
            &["33"],
            "issued a millisecond more ahead",
            &plain_event(),
            "future",
        )
        .with(now(-skew - 1)),
    );
    out.push(
        accept(
            "at-the-last-moment",
            &["33"],
            "expired exactly one skew ago",
            &plain_event(),
        )
        .with(now(LIFE + skew)),
    );
    out.push(
        refuse(
            "expired",
            &["33"],
            "expired a millisecond more ago",
            &plain_event(),
            "expired",
        )
        .with(now(LIFE + skew + 1)),
    );
    out.push(
        accept(
            "as-old-as-may-be",
            &["33"],
            "issued exactly max_age and one skew ago",
            &timed(0, life),
        )
        .with(now(age + skew)),
    );
    out.push(
        refuse(
            "too-old",
            &["33"],
            "a millisecond older, whatever it says itself",
            &timed(0, life),
            "too_old",
        )
        .with(now(age + skew + 1)),
    );
    out.push(accept(
        "lives-15-minutes",
        &["33"],
        "the longest life",
        &timed(0, life),
    ));
    out.push(refuse(
        "lives-a-millisecond-longer",
        &["33"],
        "a receiver's memory is not for its senders to choose",
        &timed(0, life + 1),
        "lives_too_long",
    ));
    out.push(accept(
        "expires-when-issued",
        &["10", "33"],
        "no life at all, but the skew",
        &timed(0, 0),
    ));
    out.push(
        accept(
            "ends-with-its-credential",
            &["33"],
            "its end is the credential's",
            &timed(HOUR - 1000, HOUR),
        )
        .with(now(HOUR - 1000)),
    );
    out.push(
        refuse(
            "outlives-its-credential",
            &["33"],
            "its end is a millisecond after the credential's",
            &timed(HOUR - 1000, HOUR + 1),
            "outlives_credential",
        )
        .with(now(HOUR - 1000)),
    );
    out.push(
        accept(
            "issued-at-the-start",
            &["34"],
            "issued when the receiver began to remember",
            &plain_event(),
        )
        .with(|with| with.not_before = Some(NOW.as_millis())),
    );
    out.push(
        refuse(
            "issued-before-the-start",
            &["34"],
            "issued a millisecond before the receiver began to remember",
            &plain_event(),
            "issued_before_start",
        )
        .with(|with| with.not_before = Some(NOW.as_millis() + 1)),
    );
    let mut raw = plain_event();
    raw.set(7, uint(0));
    raw.set(8, uint(u64::MAX));
    out.push(refuse(
        "lives-for-ever",
        &["33"],
        "the largest times: nothing overflows",
        &raw.signed(&orders()),
        "outlives_credential",
    ));
    let mut raw = plain_event();
    raw.set(7, uint(u64::MAX));
    raw.set(8, uint(u64::MAX));
    out.push(refuse(
        "issued-at-the-end-of-time",
        &["33"],
        "the largest times: nothing overflows",
        &raw.signed(&orders()),
        "outlives_credential",
    ));
    out
}

/// ENV-30: the first failure ends it.
fn order() -> Vec<Vector> {
    let everything = |with: &mut With| {
        with.subject = Some("elsewhere".to_owned());
        with.reply_to = Some("elsewhere.too".to_owned());
        with.now = Some(at(DAY).as_millis());
    };
    let mut tampered = plain_event();
    tampered.body = b"bodY".to_vec();
    let mut truncated = plain_event().bytes();
    truncated.pop();
    vec![
        Vector::refuse(
            "order-decoding-before-all",
            "envelope",
            &["30"],
            "cut short, on another subject, expired",
            &truncated,
            "decode/truncated",
        )
        .with(everything),
        Vector::refuse(
            "order-proof-before-subject",
            "envelope",
            &["30"],
            "tampered with, on another subject, expired",
            &tampered.bytes(),
            "verify/bad_signature",
        )
        .with(everything),
        refuse(
            "order-kind-before-subject",
            &["30"],
            "of another kind, on another subject, expired",
            &plain_event(),
            "wrong_kind",
        )
        .with(|with| {
            everything(with);
            with.kinds = Some(vec!["request".to_owned()]);
        }),
        refuse(
            "order-subject-before-reply-subject",
            &["30"],
            "on another subject, with another reply subject, expired",
            &plain_event(),
            "wrong_subject",
        )
        .with(everything),
        refuse(
            "order-reply-subject-before-time",
            &["30"],
            "with another reply subject, expired",
            &plain_event(),
            "wrong_reply_to",
        )
        .with(|with| {
            everything(with);
            with.subject = None;
        }),
        as_answer(refuse(
            "order-request-before-time",
            &["30"],
            "to another request, expired",
            &reply(),
            "wrong_request",
        ))
        .with(|with| {
            with.request = Some(hex(&[0; 32]));
            with.now = Some(at(DAY).as_millis());
        }),
    ]
}

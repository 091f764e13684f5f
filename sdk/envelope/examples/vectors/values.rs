//! ENV-130 and ENV-131: values of buckets, which count under their own key and bucket,
//! and where the bucket stored them in time.

use bulla_envelope::Draft;

use super::file::{Vector, With};
use super::good::{as_request, seal};
use super::people::*;
use super::raw::Raw;

/// The key that readers look for.
const KEY: &str = "$KV.rates.eur.usd";
/// How long after its issue a bucket may store a value.
const STORED_WITHIN: i64 = 30_000;
/// How long a value says that it lives.
const LONG: i64 = 15 * 60_000;

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(places());
    out.extend(times());
    out
}

/// A reader at the moment at which the bucket stored it: SPEC judges by that.
fn read(vector: Vector, stored: i64) -> Vector {
    vector.with(|with: &mut With| {
        with.subject = Some(KEY.to_owned());
        with.now = Some(at(stored).as_millis());
        with.max_age = Some(STORED_WITHIN.unsigned_abs());
    })
}

fn value_of(key: &str, content_type: Option<&'static str>, body: &[u8]) -> Raw {
    let to = subject(key);
    let mut draft = Draft::event(&to, NOW, at(LONG), body);
    draft.content_type = content_type;
    Raw::of(&seal(&draft, "value").bytes)
}

fn value() -> Raw {
    value_of(KEY, Some("application/json"), b"108")
}

fn accept(name: &str, about: &str, raw: &Raw, stored: i64) -> Vector {
    let rules = ["130", "131"];
    let vector = Vector::accept(name, "envelope", &rules, about, &raw.bytes());
    read(vector, stored)
}

fn refuse(name: &str, about: &str, raw: &Raw, stored: i64, why: &str) -> Vector {
    let (rules, why) = (["130", "131"], format!("check/{why}"));
    let vector = Vector::refuse(name, "envelope", &rules, about, &raw.bytes(), &why);
    read(vector, stored)
}

fn places() -> Vec<Vector> {
    let mut out = vec![
        accept("value", "a value of the key that is read", &value(), 10),
        accept(
            "value-deleted",
            "the word that the key is deleted: an empty body, and a content type that no value has",
            &value_of(KEY, Some("application/vnd.bulla.deleted"), b""),
            10,
        ),
    ];
    for (name, about, subject) in [
        (
            "value-of-another-key",
            "somebody stored it under another key",
            "$KV.rates.eur.gbp",
        ),
        (
            "value-of-a-key-beneath",
            "a key that begins with the other is another key",
            "$KV.rates.eur.usd.x",
        ),
        (
            "value-of-another-bucket",
            "the same key of another bucket",
            "$KV.prices.eur.usd",
        ),
        (
            "value-of-a-key-of-other-case",
            "keys are told apart by case",
            "$KV.rates.EUR.usd",
        ),
        (
            "value-that-is-an-event",
            "an event that was published on a subject named as the key",
            "rates.eur.usd",
        ),
    ] {
        let moved = value_of(subject, Some("application/json"), b"108");
        out.push(refuse(name, about, &moved, 10, "wrong_subject"));
    }
    let deleted = value_of(
        "$KV.rates.eur.gbp",
        Some("application/vnd.bulla.deleted"),
        b"",
    );
    out.push(refuse(
        "value-deleted-elsewhere",
        "the word that another key is deleted",
        &deleted,
        10,
        "wrong_subject",
    ));
    let (to, inbox) = (subject(KEY), subject(INBOX));
    let asked = Draft::request(&to, &inbox, NOW, at(LIFE), b"108");
    let asked = Raw::of(&seal(&asked, "value request").bytes);
    let request = refuse(
        "value-that-is-a-request",
        "a request on the key's subject is no value",
        &asked,
        10,
        "wrong_kind",
    );
    out.push(as_request(request).with(|with| with.kinds = Some(vec!["event".to_owned()])));
    let answered = subject("$JS.ACK.9");
    let mut draft = Draft::event(&to, NOW, at(LONG), b"108");
    draft.reply_to = Some(&answered);
    out.push(refuse(
        "value-with-a-reply-subject",
        "values are answered by nobody",
        &Raw::of(&seal(&draft, "value reply").bytes),
        10,
        "wrong_reply_to",
    ));
    out
}

fn times() -> Vec<Vector> {
    let skew = i64::try_from(SKEW.as_millis()).unwrap();
    vec![
        accept(
            "value-stored-before-its-time",
            "stored exactly one skew before it was issued",
            &value(),
            -skew,
        ),
        refuse(
            "value-from-the-future",
            "stored a millisecond earlier",
            &value(),
            -skew - 1,
            "future",
        ),
        accept(
            "value-stored-at-the-last-moment",
            "stored exactly 30 s and one skew after it was issued",
            &value(),
            STORED_WITHIN + skew,
        ),
        refuse(
            "value-stored-too-late",
            "kept back a millisecond longer, whatever it says itself",
            &value(),
            STORED_WITHIN + skew + 1,
            "too_old",
        ),
    ]
}

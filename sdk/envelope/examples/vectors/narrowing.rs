//! What narrows a user: ENV-110 to ENV-112.

use bulla_envelope::Limits;
use bulla_identity::UnixMillis;
use serde_json::{Value, json};

use super::encoding::changed;
use super::file::{Octets, Vector};
use super::raw::{array_head, bin, map_head, string, uint};

/// Limits that say everything.
pub fn full() -> Limits {
    Limits::none()
        .keep_scopes(["orders:read", "orders:write"])
        .keep_reach(["retail"])
        .until(UnixMillis::from_millis(1_700_000_060_000))
        .keep_values("tenants", ["t1", "t2"])
        .unwrap()
        .keep_values("roles", [""; 0])
        .unwrap()
}

pub fn bytes(limits: &Limits) -> Vec<u8> {
    limits.encode().unwrap().unwrap()
}

/// Limits of exactly this many bytes: one long scope.
pub fn long(len: usize) -> Vec<u8> {
    bytes(&Limits::none().keep_scopes(["l".repeat(len - 6)]))
}

pub fn vectors() -> Vec<Vector> {
    let mut out = malformed();
    out.extend(applied());
    out
}

fn texts(all: &[&str]) -> Vec<u8> {
    let mut out = array_head(all.len());
    for text in all {
        out.extend(string(text));
    }
    out
}

fn map(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = map_head(entries.len());
    for (key, value) in entries {
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    out
}

/// Each in a signed envelope: limits are refused when decoding.
fn malformed() -> Vec<Vector> {
    let one = |key: u64, value: Vec<u8>| map(&[(uint(key), value)]);
    let values = |entries: &[(&str, &[&str])]| {
        let entries: Vec<_> = entries
            .iter()
            .map(|(claim, kept)| (string(claim), texts(kept)))
            .collect();
        one(3, map(&entries))
    };
    let empty = || texts(&[]);
    let after = [one(0, empty()), vec![0]].concat();
    [
        (
            "nothing",
            map(&[]),
            "limits that limit nothing",
            "invalid_field",
        ),
        (
            "no-map",
            texts(&["orders:read"]),
            "another type",
            "wrong_type",
        ),
        (
            "unknown-key",
            one(4, empty()),
            "a key that is not in the table",
            "invalid_field",
        ),
        (
            "keys-out-of-order",
            map(&[(uint(1), empty()), (uint(0), empty())]),
            "keys ascend",
            "invalid_field",
        ),
        (
            "key-twice",
            map(&[(uint(0), empty()), (uint(0), empty())]),
            "keys ascend strictly",
            "invalid_field",
        ),
        (
            "five-entries",
            map(&[(); 5].map(|()| (uint(0), empty()))),
            "there are four keys",
            "too_long",
        ),
        (
            "scopes-out-of-order",
            one(0, texts(&["b", "a"])),
            "texts ascend",
            "invalid_field",
        ),
        (
            "scope-twice",
            one(0, texts(&["a", "a"])),
            "texts ascend strictly",
            "invalid_field",
        ),
        (
            "empty-scope",
            one(0, texts(&[""])),
            "a scope is not empty",
            "invalid_field",
        ),
        (
            "two-scopes-in-one",
            one(0, texts(&["a b"])),
            "a scope has no space",
            "invalid_field",
        ),
        (
            "scope-with-quote",
            one(0, texts(&["a\""])),
            "RFC 6749 §3.3",
            "invalid_field",
        ),
        (
            "scope-with-umlaut",
            one(0, texts(&["ä"])),
            "RFC 6749 §3.3",
            "invalid_field",
        ),
        (
            "scopes-no-list",
            one(0, string("a")),
            "another type",
            "wrong_type",
        ),
        (
            "scope-a-number",
            one(0, [array_head(1), uint(1)].concat()),
            "another type",
            "wrong_type",
        ),
        (
            "reach-upper-case",
            one(1, texts(&["Retail"])),
            "spelt as a policy spells audiences",
            "invalid_field",
        ),
        (
            "reach-leading-dash",
            one(1, texts(&["-a"])),
            "spelt as a policy spells audiences",
            "invalid_field",
        ),
        (
            "reach-of-64",
            one(1, texts(&[&"a".repeat(64)])),
            "an audience has at most 63 characters",
            "invalid_field",
        ),
        (
            "until-nil",
            one(2, vec![0xc0]),
            "another type",
            "wrong_type",
        ),
        (
            "until-not-minimal",
            one(2, vec![0xcc, 1]),
            "the shortest integer",
            "not_minimal",
        ),
        (
            "no-claims",
            values(&[]),
            "the map of claims is not empty",
            "invalid_field",
        ),
        (
            "values-of-sub",
            values(&[("sub", &[])]),
            "the user's name is not limited",
            "invalid_field",
        ),
        (
            "values-of-scope",
            values(&[("scope", &[])]),
            "scopes have a key of their own",
            "invalid_field",
        ),
        (
            "values-of-reach",
            values(&[("reach", &[])]),
            "the reach has a key of its own",
            "invalid_field",
        ),
        (
            "claims-out-of-order",
            values(&[("b", &[]), ("a", &[])]),
            "claims ascend",
            "invalid_field",
        ),
        (
            "claim-twice",
            values(&[("a", &[]), ("a", &[])]),
            "claims ascend strictly",
            "invalid_field",
        ),
        (
            "values-out-of-order",
            values(&[("a", &["2", "1"])]),
            "texts ascend",
            "invalid_field",
        ),
        (
            "something-after",
            after,
            "nothing follows the map",
            "trailing_bytes",
        ),
        (
            "a-length-bomb",
            one(0, vec![0xdc, 0x10, 0]),
            "more elements than bytes",
            "truncated",
        ),
    ]
    .into_iter()
    .map(|(name, limits, about, why)| {
        Vector::refuse(
            &format!("limits-{name}"),
            "envelope",
            &["110"],
            about,
            &changed(|raw| raw.set(12, bin(&limits))),
            &format!("decode/{why}"),
        )
    })
    .collect()
}

/// What they leave of a user, and what two of them are together.
fn applied() -> Vec<Vector> {
    let alice = json!({
        "sub": "alice", "scope": "orders:write c orders:read", "reach": ["ops", "retail"],
        "tenants": ["t2", 7, "t3"], "roles": "buyer", "level": 3, "odd": null,
    });
    let one = |claim: &str, kept: &[&str]| Limits::none().keep_values(claim, kept).unwrap();
    let scopes = |kept: &[&str]| Limits::none().keep_scopes(kept);
    let until = |at| Limits::none().until(UnixMillis::from_millis(at));
    let cases: [(&str, Limits, Option<Limits>, Value, &str); 14] = [
        ("everything", full(), None, alice.clone(), "every key"),
        (
            "no-scope",
            scopes(&[]),
            None,
            alice.clone(),
            "no scope is left",
        ),
        (
            "scope-not-held",
            scopes(&["admin"]),
            None,
            alice.clone(),
            "a scope that is kept and not held is not given",
        ),
        (
            "a-list",
            one("tenants", &["t2", "t9"]),
            None,
            alice.clone(),
            "elements of a list",
        ),
        (
            "a-text-kept",
            one("roles", &["buyer"]),
            None,
            alice.clone(),
            "a text that is kept",
        ),
        (
            "a-text-lost",
            one("roles", &["seller"]),
            None,
            alice.clone(),
            "a text that is not kept becomes an empty list",
        ),
        (
            "a-number",
            one("level", &["3"]),
            None,
            alice.clone(),
            "a number is no text and becomes an empty list",
        ),
        (
            "a-null",
            one("odd", &[]),
            None,
            alice.clone(),
            "a null stays one",
        ),
        (
            "an-absent-claim",
            one("absent", &["x"]),
            None,
            alice.clone(),
            "what is absent stays absent",
        ),
        (
            "an-absent-reach",
            Limits::none().keep_reach(["retail"]),
            None,
            json!({"sub": "bob", "scope": ""}),
            "what is absent stays absent",
        ),
        (
            "together",
            full(),
            Some(scopes(&["orders:read", "x"]).and(&one("tenants", &["t2", "t3"]))),
            alice.clone(),
            "what both keep",
        ),
        (
            "together-other-keys",
            scopes(&["a"]),
            Some(until(5)),
            alice.clone(),
            "each keeps what it says nothing of",
        ),
        (
            "until-the-earlier",
            until(4),
            Some(until(5)),
            alice.clone(),
            "the earlier end; these narrow the earlier limits",
        ),
        (
            "until-not-later",
            until(6),
            Some(until(5)),
            alice,
            "these do not narrow the earlier limits",
        ),
    ];
    cases
        .into_iter()
        .map(|(name, limits, earlier, claims, about)| {
            Vector::accept(
                &format!("limits-applied-{name}"),
                "limits",
                &["110", "111", "112"],
                about,
                &bytes(&limits),
            )
            .with(|with| {
                with.held = earlier.map(|earlier| Octets::of(&bytes(&earlier)));
                with.claims = Some(claims);
            })
        })
        .collect()
}

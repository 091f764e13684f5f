//! ENV-80 to ENV-86: chains of calls.

use bulla_envelope::Draft;

use super::file::{Chain, Vector, With, hex};
use super::good::{as_answer, reply};
use super::people::*;
use super::raw::{Raw, array, array_head, bin, string, uint};
use super::secrets::{X25519, data_key, encrypted_event, plaintext};

const TOKEN: &[u8] = b"header.claims.signature";
/// Limits that keep the scopes `a` and `b`, `a`, and `c`.
const SOME: &[u8] = b"\x81\x00\x92\xa1a\xa1b";
const LESS: &[u8] = b"\x81\x00\x91\xa1a";
const OTHER: &[u8] = b"\x81\x00\x91\xa1c";

fn accept(name: &str, rules: &[&str], about: &str, raw: &Raw) -> Vector {
    Vector::accept(name, "envelope", rules, about, &raw.bytes())
}

fn refuse(name: &str, rules: &[&str], about: &str, raw: &Raw, why: &str) -> Vector {
    Vector::refuse(name, "envelope", rules, about, &raw.bytes(), why)
}

/// Judged as a chain that began with the gateway, with these senders of ancestors.
fn proven_by(senders: &'static [&'static str]) -> impl Fn(&mut With) {
    move |with| {
        with.chain = Some(Chain {
            minter: gateway().workload.as_str().to_owned(),
            senders: senders.iter().map(|name| (*name).to_owned()).collect(),
        });
    }
}

/// One message of a chain: an event with a token, in the handling of `shown`.
struct Link {
    by: Process,
    token: Option<&'static [u8]>,
    limits: Option<&'static [u8]>,
    issued: i64,
    life: i64,
}

fn link(by: Process) -> Link {
    Link {
        by,
        token: Some(TOKEN),
        limits: None,
        issued: 0,
        life: LIFE,
    }
}

impl Link {
    fn after(self, name: &str, shown: &[&Raw]) -> Raw {
        let to = subject(SUBJECT);
        let mut draft = Draft::event(&to, at(self.issued), at(self.issued + self.life), b"body");
        draft.token = self.token;
        draft.limits = self.limits;
        let sealed = self.by.sealer().seal(&draft, id(name)).unwrap();
        named(Raw::of(&sealed.bytes), &self.by, shown)
    }
}

/// Names the first of `shown` as its parent, signs, and shows all of them.
fn named(mut raw: Raw, by: &Process, shown: &[&Raw]) -> Raw {
    let Some(parent) = shown.first() else {
        return raw;
    };
    raw.set(16, bin(&parent.leaf()));
    let shown: Vec<_> = shown.iter().map(|raw| raw.as_ancestor()).collect();
    raw.signed(by).showing(&shown)
}

fn first() -> Raw {
    link(gateway()).after("chain: first", &[])
}

fn second() -> Raw {
    link(billing()).after("chain: second", &[&first()])
}

fn third() -> Raw {
    link(orders()).after("chain: third", &[&second(), &first()])
}

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(good());
    out.extend(elements());
    out.extend(links());
    out.extend(kinds());
    out.extend(proofs());
    out.extend(tokens());
    out.extend(times());
    out.extend(starts());
    out
}

fn good() -> Vec<Vector> {
    let alone = link(orders()).after("chain: alone", &[]);
    let mine = |raw: Vector| {
        raw.with(|with| {
            with.chain = Some(Chain {
                minter: orders().workload.as_str().to_owned(),
                senders: Vec::new(),
            });
        })
    };
    let (to, inbox) = (subject("orders.create"), subject(INBOX));
    let mut draft = Draft::request(&to, &inbox, NOW, at(LIFE), b"how many?");
    draft.token = Some(TOKEN);
    let asked = Raw::of(
        &gateway()
            .sealer()
            .seal(&draft, id("chain: asked"))
            .unwrap()
            .bytes,
    );
    let batch = {
        let to = subject(SUBJECT);
        let mut draft = event(&to, b"body");
        draft.token = Some(TOKEN);
        let drafts: Vec<_> = (0..5)
            .map(|n| (draft.clone(), id(&format!("chain: of five {n}"))))
            .collect();
        let sealed = gateway().sealer().seal_batch(&drafts).unwrap();
        Raw::of(&sealed[3].bytes)
    };
    let mut eight = vec![first()];
    for n in 1..8 {
        let shown: Vec<&Raw> = eight.iter().rev().collect();
        eight.push(link(billing()).after(&format!("chain: {n}"), &shown));
    }
    let eight: Vec<&Raw> = eight.iter().rev().collect();
    vec![
        mine(accept(
            "chain-of-one",
            &["80", "86"],
            "the minter's own message shows nothing",
            &alone,
        )),
        accept(
            "chain-of-two",
            &["80", "82", "83"],
            "it shows the minter's message",
            &link(orders()).after("chain: third", &[&first()]),
        )
        .with(proven_by(&["gateway"])),
        accept(
            "chain-of-three",
            &["80", "82", "83", "84", "85", "86"],
            "it shows the message before it, and the minter's",
            &third(),
        )
        .with(proven_by(&["billing", "gateway"])),
        accept(
            "chain-after-a-request",
            &["80", "81"],
            "a request led to it",
            &link(orders()).after("chain: third", &[&asked]),
        )
        .with(proven_by(&["gateway"])),
        accept(
            "chain-after-one-of-a-batch",
            &["81", "83"],
            "what led to it was sealed with four others",
            &link(orders()).after("chain: third", &[&batch]),
        )
        .with(proven_by(&["gateway"])),
        accept(
            "chain-of-nine",
            &["80"],
            "as many ancestors as there can be",
            &link(orders()).after("chain: ninth", &eight),
        )
        .with(proven_by(&[
            "billing", "billing", "billing", "billing", "billing", "billing", "billing", "gateway",
        ])),
        accept(
            "chain-that-nobody-asked-for",
            &["82", "83"],
            "ancestors where none are asked for are linked, and prove nothing",
            &third(),
        ),
        encrypted(),
    ]
}

/// The additional data begins with the head of the array: six elements.
fn encrypted() -> Vector {
    let mut raw = encrypted_event(X25519, "chain");
    raw.set(16, bin(&second().leaf()));
    let raw = raw
        .showing(&[second().as_ancestor(), first().as_ancestor()])
        .encrypted(&data_key("chain"), &plaintext(Some(TOKEN), b"the body"));
    accept(
        "chain-to-an-encrypted-event",
        &["16", "80"],
        "it is encrypted, and its chain is not",
        &raw,
    )
    .with(proven_by(&["billing", "gateway"]))
    .with(|with| with.reader = Some("billing".to_owned()))
}

/// How the element is encoded.
fn elements() -> Vec<Vector> {
    let raw = third();
    let shown = raw.ancestry.clone().unwrap();
    let holding = |ancestry: Vec<u8>| Raw {
        ancestry: Some(ancestry),
        ..raw.clone()
    };
    let pieces = [second().as_ancestor(), first().as_ancestor()];
    // One ancestor whose pieces are these.
    let of = |pieces: &[Vec<u8>]| holding(array(&[array(pieces), first().as_ancestor()]));
    let (header, hash) = (
        bin(&second().header_bytes()),
        bin(&bulla_keyring::sha256(&[&second().body])),
    );
    let proof = second().as_ancestor()[1 + header.len() + hash.len()..].to_vec();
    let cases: Vec<(&str, &str, Raw, &str)> = vec![
        (
            "ancestry-empty",
            "an array of none",
            holding(array(&[])),
            "ancestry_empty",
        ),
        (
            "ancestry-of-nothing",
            "no array at all",
            holding(Vec::new()),
            "truncated",
        ),
        (
            "ancestry-of-nine",
            "one more than there can be",
            holding(array(&vec![pieces[0].clone(); 9])),
            "too_long",
        ),
        (
            "ancestry-too-long",
            "more than 32 KiB",
            holding(vec![0x91; 32 * 1024 + 1]),
            "too_long",
        ),
        (
            "ancestry-with-something-after-it",
            "something follows the array",
            holding([shown.clone(), vec![0xc0]].concat()),
            "trailing_bytes",
        ),
        (
            "ancestry-in-a-long-array",
            "an array head that is not the shortest",
            holding([vec![0xdc, 0, 2], pieces.concat()].concat()),
            "not_minimal",
        ),
        (
            "ancestry-cut",
            "it ends inside an ancestor",
            holding(shown[..shown.len() - 1].to_vec()),
            "truncated",
        ),
        (
            "ancestry-no-array",
            "a text",
            holding(string("who else")),
            "wrong_type",
        ),
        (
            "ancestor-of-two",
            "without a proof",
            of(&[header.clone(), hash.clone()]),
            "wrong_length",
        ),
        (
            "ancestor-of-four",
            "with something after the proof",
            of(&[header.clone(), hash.clone(), proof.clone(), vec![0xc0]]),
            "wrong_length",
        ),
        (
            "ancestor-with-a-short-hash",
            "31 bytes for the hash of the body",
            of(&[header.clone(), bin(&[7; 31]), proof.clone()]),
            "wrong_length",
        ),
        (
            "ancestor-with-a-text-for-a-header",
            "the header is a text",
            of(&[string("header"), hash.clone(), proof.clone()]),
            "wrong_type",
        ),
        (
            "ancestor-with-an-unknown-field",
            "its header is decoded as strictly as any",
            of(&[
                bin(&[&[0x81][..], &uint(99), &uint(1)].concat()),
                hash.clone(),
                proof.clone(),
            ]),
            "unknown_field",
        ),
        (
            "ancestor-with-a-place-outside-its-batch",
            "its proof is decoded as strictly as any",
            of(&[
                header.clone(),
                hash.clone(),
                [&[0x94][..], &uint(1), &uint(1), &bin(&[]), &bin(&[0; 64])].concat(),
            ]),
            "batch_place",
        ),
    ];
    let mut out: Vec<_> = cases
        .into_iter()
        .map(|(name, about, raw, why)| {
            refuse(
                name,
                &["2", "80", "81"],
                about,
                &raw,
                &format!("decode/{why}"),
            )
        })
        .collect();
    let mut seven = raw.clone();
    seven.head = array_head(7);
    seven.tail = vec![0xc0];
    out.push(refuse(
        "seven-elements",
        &["1"],
        "one more after the proof",
        &seven,
        "decode/wrong_length",
    ));
    let mut nil = raw.clone();
    nil.ancestry = None;
    nil.body_element = Some([bin(&raw.body), vec![0xc0]].concat());
    out.push(refuse(
        "ancestry-nil",
        &["80"],
        "nil where ancestors are announced",
        &nil,
        "decode/wrong_type",
    ));
    out
}

/// What is shown is what the headers name.
fn links() -> Vec<Vector> {
    let (one, two) = (first().as_ancestor(), second().as_ancestor());
    let showing = |ancestors: &[&Vec<u8>]| {
        let ancestors: Vec<_> = ancestors.iter().map(|a| (*a).clone()).collect();
        third().showing(&ancestors)
    };
    let mut bent = second();
    bent.body.push(b'!');
    let mut orphan = link(orders()).after("chain: third", &[]);
    orphan = orphan.showing(std::slice::from_ref(&one));
    let cases = [
        (
            "chain-without-its-beginning",
            "the minter's message is left out",
            showing(&[&two]),
            "ancestry_incomplete",
        ),
        (
            "chain-without-its-middle",
            "the message before it is left out",
            showing(&[&one]),
            "ancestor_unlinked",
        ),
        (
            "chain-in-the-wrong-order",
            "the farthest first",
            showing(&[&one, &two]),
            "ancestor_unlinked",
        ),
        (
            "chain-with-one-too-many",
            "something before the first message",
            showing(&[&two, &one, &one]),
            "ancestor_unlinked",
        ),
        (
            "chain-with-another-body",
            "the hash of another body",
            showing(&[&bent.as_ancestor(), &one]),
            "ancestor_unlinked",
        ),
        (
            "chain-without-a-parent",
            "the header names no parent",
            orphan,
            "ancestor_unlinked",
        ),
    ];
    cases
        .into_iter()
        .map(|(name, about, raw, why)| refuse(name, &["82"], about, &raw, &format!("decode/{why}")))
        .collect()
}

fn kinds() -> Vec<Vector> {
    let mut answer = reply();
    answer.set(16, bin(&first().leaf()));
    let answer = answer.signed(&orders()).showing(&[first().as_ancestor()]);
    let mut shown = reply();
    shown.set(2, bin(&gateway().credential().id().0));
    let shown = shown.signed(&gateway());
    let coded = {
        let one = first();
        let code = [&[0x91][..], &bin(&[7; 32])].concat();
        [
            &[0x93][..],
            &bin(&one.header_bytes()),
            &bin(&bulla_keyring::sha256(&[&one.body])),
            &code,
        ]
        .concat()
    };
    vec![
        as_answer(refuse(
            "chain-of-a-reply",
            &["80"],
            "a reply shows none",
            &answer,
            "decode/ancestry_kind",
        )),
        refuse(
            "chain-after-a-reply",
            &["81"],
            "a reply leads to nothing",
            &link(orders()).after("chain: third", &[&shown]),
            "decode/ancestor_kind",
        ),
        refuse(
            "chain-after-a-coded-event",
            &["81"],
            "a code proves nothing to others",
            &link(orders())
                .after("chain: third", &[&first()])
                .showing(&[coded]),
            "decode/ancestor_not_signed",
        ),
    ]
}

fn proofs() -> Vec<Vector> {
    let mut unsigned = second();
    unsigned.signature[0] ^= 1;
    let mut moved = second();
    moved.signature.clone_from(&first().signature);
    let long = Link {
        life: HOUR + 1,
        ..link(gateway())
    };
    let mut out = Vec::new();
    for (name, about, ancestor) in [
        (
            "chain-with-a-bent-signature",
            "a bit of an ancestor's signature is another",
            unsigned,
        ),
        (
            "chain-with-a-borrowed-signature",
            "the signature of another ancestor",
            moved,
        ),
    ] {
        let raw = third().showing(&[ancestor.as_ancestor(), first().as_ancestor()]);
        out.push(
            refuse(name, &["83"], about, &raw, "chain/chain_not_authentic")
                .with(proven_by(&["billing", "gateway"])),
        );
    }
    out.push(
        refuse(
            "chain-of-another-sender",
            &["83"],
            "an ancestor under another credential than was found",
            &third(),
            "chain/chain_not_authentic",
        )
        .with(proven_by(&["orders", "gateway"])),
    );
    // Longer than any envelope lives, and than its sender's credential.
    let mut first = link(gateway()).after("chain: first", &[]);
    first.set(8, uint(at(long.life).as_millis()));
    let first = first.signed(&gateway());
    out.push(
        refuse(
            "chain-after-one-that-outlives",
            &["83"],
            "an ancestor was to be valid for longer than its sender's credential",
            &link(orders()).after("chain: third", &[&first]),
            "chain/chain_outlives",
        )
        .with(proven_by(&["gateway"])),
    );
    out
}

fn tokens() -> Vec<Vector> {
    let say = |by: Process, token: Option<&'static [u8]>| Link { token, ..link(by) };
    let narrowed = |by: Process, limits: Option<&'static [u8]>| Link { limits, ..link(by) };
    let two = |parent: Link, child: Link| {
        child.after("chain: third", &[&parent.after("chain: first", &[])])
    };
    let middle = say(billing(), Some(b"another")).after("chain: second", &[&first()]);
    let mut out = vec![
        refuse(
            "chain-with-another-token",
            &["84"],
            "the minter's message has another token",
            &two(say(gateway(), Some(b"another")), link(orders())),
            "chain/chain_token_changed",
        )
        .with(proven_by(&["gateway"])),
        refuse(
            "chain-with-a-token-from-nowhere",
            &["84"],
            "the minter's message has none",
            &two(say(gateway(), None), link(orders())),
            "chain/chain_token_changed",
        )
        .with(proven_by(&["gateway"])),
        refuse(
            "chain-with-another-token-in-the-middle",
            &["84"],
            "only the message between has another token",
            &link(orders()).after("chain: third", &[&middle, &first()]),
            "chain/chain_token_changed",
        )
        .with(proven_by(&["billing", "gateway"])),
        refuse(
            "chain-without-a-user",
            &["84"],
            "there is no token whose way could be proven",
            &two(say(gateway(), None), say(orders(), None)),
            "chain/chain_no_user",
        )
        .with(proven_by(&["gateway"])),
    ];
    for (name, about, limits, sound) in [
        (
            "chain-that-stays-narrow",
            "the same limits",
            Some(SOME),
            true,
        ),
        ("chain-that-narrows", "narrower limits", Some(LESS), true),
        ("chain-that-widens", "limits that are left out", None, false),
        ("chain-that-drifts", "other limits", Some(OTHER), false),
    ] {
        let raw = two(narrowed(gateway(), Some(SOME)), narrowed(orders(), limits));
        let vector = if sound {
            accept(name, &["84", "112"], about, &raw)
        } else {
            refuse(
                name,
                &["84", "112"],
                about,
                &raw,
                "chain/chain_limits_widened",
            )
        };
        out.push(vector.with(proven_by(&["gateway"])));
    }
    out
}

fn times() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let max_age = MAX_AGE.as_millis() as i64;
    let mut out = Vec::new();
    let mut add = |name: &str, about: &str, parent: Link, issued: i64, why: Option<&str>| {
        let child = Link {
            issued,
            ..link(orders())
        };
        let raw = child.after("chain: third", &[&parent.after("chain: first", &[])]);
        let vector = match why {
            None => accept(name, &["85"], about, &raw),
            Some(why) => refuse(name, &["85"], about, &raw, &format!("chain/{why}")),
        };
        let now = at(issued).as_millis();
        let vector = vector.with(proven_by(&["gateway"]));
        out.push(vector.with(|with| with.now = Some(now)));
    };
    let parent = |issued: i64, life: i64| Link {
        issued,
        life,
        ..link(gateway())
    };
    add(
        "chain-at-the-skew",
        "its parent is later by the skew",
        parent(skew, LIFE),
        0,
        None,
    );
    add(
        "chain-beyond-the-skew",
        "its parent is later by more",
        parent(skew + 1, LIFE),
        0,
        Some("chain_out_of_order"),
    );
    add(
        "chain-at-the-end-of-a-parent",
        "its parent has just expired",
        parent(0, LIFE),
        LIFE + skew,
        None,
    );
    add(
        "chain-after-the-end-of-a-parent",
        "its parent expired a millisecond before",
        parent(0, LIFE),
        LIFE + skew + 1,
        Some("chain_parent_over"),
    );
    add(
        "chain-at-the-age-of-a-parent",
        "its parent is as old as its subject allows",
        parent(0, 2 * max_age),
        max_age + skew,
        None,
    );
    add(
        "chain-after-the-age-of-a-parent",
        "its parent is older, though it says that it lives",
        parent(0, 2 * max_age),
        max_age + skew + 1,
        Some("chain_parent_over"),
    );
    out
}

fn starts() -> Vec<Vector> {
    let own = link(orders()).after("chain: alone", &[]);
    let foreign = link(billing()).after("chain: first", &[]);
    let mut silent = third();
    silent.head = vec![0x95];
    silent.ancestry = None;
    assert_ne!(hex(&silent.bytes()), hex(&own.bytes()));
    vec![
        refuse(
            "chain-of-one-by-another-than-the-minter",
            &["86"],
            "it has the token and nobody asked it",
            &own,
            "chain/chain_foreign_start",
        )
        .with(proven_by(&[])),
        refuse(
            "chain-that-begins-with-another-than-the-minter",
            &["86"],
            "its first message is by a workload that did not mint the token",
            &link(orders()).after("chain: third", &[&foreign]),
            "chain/chain_foreign_start",
        )
        .with(proven_by(&["billing"])),
        refuse(
            "chain-that-is-not-shown",
            &["82", "83"],
            "a parent is named, and five elements show none",
            &silent,
            "chain/chain_missing",
        )
        .with(proven_by(&[])),
    ]
}

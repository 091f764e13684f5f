//! ENV-100 to ENV-103: heads and revocation lists.

use bulla_envelope::{Head, Holdings, Mark, Revocation, RevocationList, Revoked};
use bulla_identity::{TrustDomain, UnixMillis};
use bulla_keyring::{KeyId, Tag};

use super::credentials::UNSOUND_KEYS;
use super::file::{Octets, Vector, With};
use super::people::*;
use super::raw::{array, bin, elements, signed, string, uint, unbin};

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(heads());
    out.extend(bad_heads());
    out.extend(lists());
    out.extend(bad_lists());
    out.extend(bad_entries());
    out.extend(successions());
    out.extend(comparisons());
    out
}

const NIL: u8 = 0xc0;

fn now(millis: i64) -> impl FnOnce(&mut With) {
    move |with| with.now = Some(at(millis).as_millis())
}

fn sign(statement: &[Vec<u8>], by: &str, tag: Tag) -> Vec<u8> {
    let statement = array(statement);
    signed(&statement, key(by).sign(tag, &[&statement]).as_bytes())
}

/// The elements of the statement in a record.
fn statement_of(record: &[u8]) -> Vec<Vec<u8>> {
    elements(&unbin(&elements(record)[0]))
}

fn head() -> Head {
    Head {
        trust_domain: domain(),
        names: Holdings {
            bundle: 7,
            policy: Mark::of(3, b"a policy"),
            revocations: Mark::of(9, b"a list"),
        },
        time: NOW,
    }
}

fn head_bytes() -> Vec<u8> {
    head().sign(&key("issuing"))
}

fn heads() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let accept = |name: &str, about: &str, bytes: &[u8]| {
        Vector::accept(name, "head", &["100"], about, bytes)
    };
    let first = Head {
        names: Holdings {
            revocations: Mark::default(),
            ..head().names
        },
        ..head()
    };
    let largest = Head {
        names: Holdings {
            bundle: u64::MAX,
            policy: Mark::of(u64::MAX, b""),
            revocations: Mark::of(u64::MAX, b""),
        },
        ..head()
    };
    vec![
        accept("head", "by an issuing key of the bundle", &head_bytes()),
        accept(
            "head-by-another-broker",
            "by the other issuing key",
            &head().sign(&key("issuing of another broker")),
        ),
        accept(
            "head-without-a-list",
            "nothing was ever revoked",
            &first.sign(&key("issuing")),
        ),
        accept(
            "head-of-the-largest-numbers",
            "numbers of 64 bits",
            &largest.sign(&key("issuing")),
        ),
        accept("head-one-skew-early", "made one skew ahead", &head_bytes()).with(now(-skew)),
        accept(
            "head-of-long-ago",
            "how old it may be is the receiver's bound",
            &head_bytes(),
        )
        .with(now(4 * DAY)),
        accept(
            "head-one-skew-after-its-key",
            "its key ended one skew ago",
            &head_bytes(),
        )
        .with(now(5 * DAY + skew)),
    ]
}

fn bad_heads() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let refuse = |name: &str, rule: &str, about: &str, bytes: &[u8], why: &str| {
        let why = format!("open/{why}");
        Vector::refuse(name, "head", &[rule], about, bytes, &why)
    };
    let genuine = head_bytes();
    let statement = statement_of(&genuine);
    let changed = |element: usize, value: Vec<u8>| {
        let mut statement = statement.clone();
        statement[element] = value;
        sign(&statement, "issuing", Tag::Head)
    };
    let mut out = Vec::new();
    for by in ["root", "policy", "stranger"] {
        out.push(refuse(
            &format!("head-by-{by}"),
            "100",
            "the bundle does not name it among the issuing keys",
            &head().sign(&key(by)),
            "unknown_issuer",
        ));
    }
    let foreign = Head {
        trust_domain: TrustDomain::parse("evil.example").unwrap(),
        ..head()
    };
    out.push(refuse(
        "head-of-another-domain",
        "100",
        "of another trust domain",
        &foreign.sign(&key("issuing")),
        "foreign_domain",
    ));
    out.push(refuse(
        "head-signed-by-another-key",
        "100",
        "names one issuing key and is signed by the other",
        &sign(&statement, "issuing of another broker", Tag::Head),
        "bad_signature",
    ));
    for (name, tag) in [
        ("head-signed-as-a-credential", Tag::Credential),
        ("head-signed-as-a-list", Tag::Revocations),
    ] {
        out.push(refuse(
            name,
            "60",
            "the issuing key's signature under another tag",
            &sign(&statement, "issuing", tag),
            "bad_signature",
        ));
    }
    for (name, about, element, value, why) in [
        (
            "head-version-2",
            "another version",
            0,
            uint(2),
            "unsupported_version",
        ),
        (
            "head-domain-empty",
            "no trust domain",
            1,
            string(""),
            "trust_domain",
        ),
        (
            "head-bundle-nil",
            "a bundle has a version",
            3,
            vec![NIL],
            "wrong_type",
        ),
        (
            "head-revision-wide",
            "not in its shortest encoding",
            4,
            vec![0xcc, 3],
            "not_minimal",
        ),
        (
            "head-short-hash",
            "a hash of 31 bytes",
            5,
            bin(&[1; 31]),
            "wrong_length",
        ),
        (
            "head-long-hash",
            "a hash of 33 bytes",
            7,
            bin(&[1; 33]),
            "wrong_length",
        ),
        ("head-hash-nil", "no hash", 7, vec![NIL], "wrong_type"),
        (
            "head-time-text",
            "a time that is text",
            8,
            string("0"),
            "wrong_type",
        ),
    ] {
        out.push(refuse(name, "100", about, &changed(element, value), why));
    }
    for (name, about, key) in UNSOUND_KEYS {
        let about = format!("its issuing key is {about}");
        let bytes = changed(2, bin(&key));
        out.push(refuse(
            &format!("head-key-{name}"),
            "100",
            &about,
            &bytes,
            "key",
        ));
    }
    let mut longer = statement.clone();
    longer.push(vec![NIL]);
    out.push(refuse(
        "head-of-ten",
        "100",
        "a tenth element",
        &sign(&longer, "issuing", Tag::Head),
        "wrong_length",
    ));
    out.push(refuse(
        "head-and-a-byte",
        "50",
        "a byte after it",
        &[&genuine[..], &[0]].concat(),
        "trailing_bytes",
    ));
    out.push(refuse(
        "head-of-1025-bytes",
        "4",
        "longer than a head may be, refused before it is read",
        &[0; 1025],
        "too_large",
    ));
    let early = refuse(
        "head-from-the-future",
        "100",
        "made more than one skew ahead",
        &genuine,
        "future",
    );
    out.push(early.with(now(-skew - 1)));
    let late = refuse(
        "head-after-its-key",
        "100",
        "its key ended more than one skew ago",
        &genuine,
        "issuer_expired",
    );
    out.push(late.with(now(5 * DAY + skew + 1)));
    let outlived = refuse(
        "head-by-an-expired-bundle",
        "100",
        "nothing is judged by a bundle that has expired",
        &genuine,
        "expired",
    );
    out.push(outlived.with(now(30 * DAY + skew + 1)));
    out
}

fn entry(what: Revoked) -> Revocation {
    Revocation {
        what,
        since: UnixMillis::default(),
        made_at: NOW,
        reason: None,
    }
}

fn list(sequence: u64, entries: Vec<Revocation>) -> RevocationList {
    RevocationList::new(domain(), sequence, NOW, entries)
}

fn list_bytes(sequence: u64, entries: Vec<Revocation>) -> Vec<u8> {
    list(sequence, entries).sign(&key("policy")).unwrap()
}

fn some_entries() -> Vec<Revocation> {
    vec![
        Revocation {
            since: at(-HOUR),
            reason: Some("seen in a public log".to_owned()),
            ..entry(Revoked::Workload(workload("billing")))
        },
        entry(Revoked::Workload(workload("orders"))),
        entry(Revoked::Key(KeyId(filler("revoked key")))),
        entry(Revoked::User("alice".to_owned())),
        Revocation {
            since: NOW,
            ..entry(Revoked::User("mallory \u{1f480}".to_owned()))
        },
        entry(Revoked::Token("4f1a".to_owned())),
    ]
}

fn lists() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let accept = |name: &str, about: &str, bytes: &[u8]| {
        Vector::accept(name, "revocations", &["102"], about, bytes)
    };
    let some = list_bytes(9, some_entries());
    let longest = vec![
        Revocation {
            reason: Some("r".repeat(256)),
            ..entry(Revoked::User("u".repeat(512)))
        },
        entry(Revoked::Token("t".repeat(512))),
    ];
    vec![
        accept("revocations", "one and two of each kind", &some),
        accept(
            "revocations-none",
            "nothing is revoked any more",
            &list_bytes(2, vec![]),
        ),
        accept(
            "revocations-longest",
            "names as long as may be",
            &list_bytes(1, longest),
        ),
        accept("revocations-one-skew-early", "signed one skew ahead", &some).with(now(-skew)),
        accept("revocations-old", "a list does not expire", &some).with(now(29 * DAY)),
    ]
}

fn raw_list(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut statement = statement_of(&list_bytes(9, some_entries()));
    change(&mut statement);
    sign(&statement, "policy", Tag::Revocations)
}

fn refuse_list(name: &str, rule: &str, about: &str, bytes: &[u8], why: &str) -> Vector {
    let why = format!("open/{why}");
    Vector::refuse(name, "revocations", &[rule], about, bytes, &why)
}

fn bad_lists() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let genuine = list_bytes(9, some_entries());
    let mut out = Vec::new();
    for by in ["root", "issuing", "stranger"] {
        out.push(refuse_list(
            &format!("revocations-by-{by}"),
            "102",
            "the bundle does not name it among the policy keys",
            &list(9, some_entries()).sign(&key(by)).unwrap(),
            "unknown_key",
        ));
    }
    let foreign = RevocationList::new(
        TrustDomain::parse("evil.example").unwrap(),
        1,
        NOW,
        Vec::new(),
    );
    out.push(refuse_list(
        "revocations-of-another-domain",
        "102",
        "of another trust domain",
        &foreign.sign(&key("policy")).unwrap(),
        "foreign_domain",
    ));
    let statement = statement_of(&genuine);
    out.push(refuse_list(
        "revocations-signed-by-another-key",
        "102",
        "names the policy key and is signed by an issuing key",
        &sign(&statement, "issuing", Tag::Revocations),
        "bad_signature",
    ));
    for (name, tag) in [
        ("revocations-signed-as-a-policy", Tag::Policy),
        ("revocations-signed-as-a-head", Tag::Head),
    ] {
        out.push(refuse_list(
            name,
            "60",
            "the policy key's signature under another tag",
            &sign(&statement, "policy", tag),
            "bad_signature",
        ));
    }
    for (name, about, element, value, why) in [
        (
            "revocations-version-2",
            "another version",
            0,
            uint(2),
            "unsupported_version",
        ),
        (
            "revocations-sequence-0",
            "numbered from 1",
            3,
            uint(0),
            "sequence",
        ),
        (
            "revocations-sequence-nil",
            "a list has a number",
            3,
            vec![NIL],
            "wrong_type",
        ),
        (
            "revocations-entries-nil",
            "a list has a list",
            5,
            vec![NIL],
            "wrong_type",
        ),
        (
            "revocations-bomb",
            "announces more entries than may be",
            5,
            vec![0xdc, 0x20, 0x01],
            "too_long",
        ),
    ] {
        let mut bytes = raw_list(|statement| statement[element] = value);
        if name == "revocations-bomb" {
            // So many that the announced number could be true.
            let mut statement = statement.clone();
            statement[5] = [&[0xdc, 0x20, 0x01][..], &[NIL; 8193]].concat();
            bytes = sign(&statement, "policy", Tag::Revocations);
        }
        out.push(refuse_list(name, "102", about, &bytes, why));
    }
    out.push(refuse_list(
        "revocations-and-a-byte",
        "50",
        "a byte after it",
        &[&genuine[..], &[0]].concat(),
        "trailing_bytes",
    ));
    out.push(refuse_list(
        "revocations-of-seven",
        "102",
        "a seventh element",
        &raw_list(|statement| statement.push(vec![NIL])),
        "wrong_length",
    ));
    out.push(refuse_list(
        "revocations-of-524289-bytes",
        "4",
        "longer than a list may be, refused before it is read",
        &vec![0; 512 * 1024 + 1],
        "too_large",
    ));
    let early = refuse_list(
        "revocations-from-the-future",
        "102",
        "signed more than one skew ahead",
        &genuine,
        "future",
    );
    out.push(early.with(now(-skew - 1)));
    let outlived = refuse_list(
        "revocations-by-an-expired-bundle",
        "102",
        "nothing is judged by a bundle that has expired",
        &genuine,
        "expired",
    );
    out.push(outlived.with(now(30 * DAY + skew + 1)));
    out
}

/// An entry in pieces: kind, value, since, made-at, reason.
fn raw_entry(kind: u64, value: Vec<u8>) -> Vec<Vec<u8>> {
    vec![uint(kind), value, uint(0), uint(NOW.as_millis()), vec![NIL]]
}

fn bad_entries() -> Vec<Vector> {
    let spiffe = |text: &str| string(text);
    let one = |entry: Vec<Vec<u8>>| raw_list(|statement| statement[5] = array(&[array(&entry)]));
    let two = |a: Vec<Vec<u8>>, b: Vec<Vec<u8>>| {
        raw_list(|statement| statement[5] = array(&[array(&a), array(&b)]))
    };
    let user = |name: &str| raw_entry(2, string(name));
    let changed = |element: usize, value: Vec<u8>| {
        let mut entry = user("alice");
        entry[element] = value;
        one(entry)
    };
    let mut six = user("alice");
    six.push(vec![NIL]);
    let later = uint(NOW.as_millis() + 1);
    [
        (
            "entry-of-an-unknown-kind",
            "there is no kind 4",
            one(raw_entry(4, string("x"))),
            "unknown_entry",
        ),
        ("entry-of-six", "a sixth element", one(six), "wrong_length"),
        (
            "entry-workload-is-no-id",
            "no SPIFFE id",
            one(raw_entry(0, spiffe("orders"))),
            "entry_name",
        ),
        (
            "entry-workload-of-another-domain",
            "a workload of another trust domain",
            one(raw_entry(0, spiffe("spiffe://evil.example/orders"))),
            "entry_name",
        ),
        (
            "entry-workload-as-bytes",
            "a name that is bytes",
            one(raw_entry(0, bin(b"x"))),
            "wrong_type",
        ),
        (
            "entry-short-key",
            "a key id of 15 bytes",
            one(raw_entry(1, bin(&[1; 15]))),
            "wrong_length",
        ),
        (
            "entry-key-as-text",
            "a key id that is text",
            one(raw_entry(1, string("00"))),
            "wrong_type",
        ),
        ("entry-user-empty", "no name", one(user("")), "entry_name"),
        (
            "entry-user-with-a-newline",
            "a control character",
            one(user("a\nb")),
            "entry_name",
        ),
        (
            "entry-user-of-513",
            "longer than a name may be",
            one(user(&"u".repeat(513))),
            "too_long",
        ),
        (
            "entry-token-empty",
            "no name",
            one(raw_entry(3, string(""))),
            "entry_name",
        ),
        (
            "entry-since-nil",
            "a time that is none",
            changed(2, vec![NIL]),
            "wrong_type",
        ),
        (
            "entry-since-after-made",
            "from later than it was said",
            changed(2, later.clone()),
            "entry_times",
        ),
        (
            "entry-made-after-the-list",
            "said after the list was signed",
            changed(3, later),
            "entry_times",
        ),
        (
            "entry-reason-empty",
            "a reason says something, or is nil",
            changed(4, string("")),
            "entry_reason",
        ),
        (
            "entry-reason-with-an-escape",
            "a control character",
            changed(4, string("\u{1b}[2J")),
            "entry_reason",
        ),
        (
            "entry-reason-of-257",
            "longer than a reason may be",
            changed(4, string(&"r".repeat(257))),
            "too_long",
        ),
        (
            "entries-twice",
            "each thing once",
            two(user("alice"), user("alice")),
            "entry_order",
        ),
        (
            "entries-out-of-order",
            "by value",
            two(user("bob"), user("alice")),
            "entry_order",
        ),
        (
            "entries-kinds-out-of-order",
            "by kind first",
            two(raw_entry(3, string("a")), user("b")),
            "entry_order",
        ),
    ]
    .into_iter()
    .map(|(name, about, bytes, why)| {
        refuse_list(&format!("revocations-{name}"), "102", about, &bytes, why)
    })
    .collect()
}

/// ENV-103.
fn successions() -> Vec<Vector> {
    let held = list_bytes(9, some_entries());
    let over = |vector: Vector| vector.with(|with| with.held = Some(Octets::of(&held)));
    let what = "revocations-succession";
    let accept = |name: &str, about: &str, bytes: &[u8]| {
        over(Vector::accept(name, what, &["103"], about, bytes))
    };
    let refuse = |name: &str, about: &str, bytes: &[u8], why: &str| {
        over(Vector::refuse(name, what, &["103"], about, bytes, why))
    };
    vec![
        accept(
            "revocations-newer",
            "a higher number",
            &list_bytes(10, some_entries()),
        ),
        accept(
            "revocations-lifted",
            "a higher number with nothing",
            &list_bytes(10, vec![]),
        ),
        accept("revocations-the-same", "the same again", &held),
        refuse(
            "revocations-older",
            "a lower number, though it revokes as much",
            &list_bytes(8, some_entries()),
            "open/rollback",
        ),
        refuse(
            "revocations-equivocal",
            "the same number with other contents",
            &list_bytes(9, vec![]),
            "open/equivocation",
        ),
    ]
}

/// ENV-101, ENV-105.
fn comparisons() -> Vec<Vector> {
    let held = list_bytes(9, some_entries());
    let about = |revocations: Mark| {
        Head {
            names: Holdings {
                revocations,
                ..head().names
            },
            ..head()
        }
        .sign(&key("issuing"))
    };
    let what = "head-about-revocations";
    let over = |vector: Vector| vector.with(|with| with.held = Some(Octets::of(&held)));
    let accept = |name: &str, text: &str, mark: Mark| {
        over(Vector::accept(
            name,
            what,
            &["101", "105"],
            text,
            &about(mark),
        ))
    };
    let refuse = |name: &str, text: &str, mark: Mark, why: &str| {
        over(Vector::refuse(
            name,
            what,
            &["101", "105"],
            text,
            &about(mark),
            why,
        ))
    };
    vec![
        accept(
            "head-names-what-is-held",
            "the same list",
            Mark::of(9, &held),
        ),
        accept(
            "head-names-an-older-list",
            "behind",
            Mark::of(8, b"the one before"),
        ),
        accept("head-names-no-list", "behind", Mark::default()),
        refuse(
            "head-names-a-newer-list",
            "to be fetched; it confirms nothing",
            Mark::of(10, b"the next one"),
            "open/ahead",
        ),
        refuse(
            "head-names-another-list-of-that-number",
            "two lists have one number",
            Mark::of(9, b"another one"),
            "open/contradiction",
        ),
    ]
}

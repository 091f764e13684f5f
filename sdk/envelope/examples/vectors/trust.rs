//! ENV-55 to ENV-59: trust bundles, policies and candidates.

use bulla_envelope::{FormerRoot, PolicyCandidate, SignedPolicy, TrustBundle};
use bulla_identity::TrustDomain;
use bulla_keyring::{SigningKey, Tag};

use super::credentials::UNSOUND_KEYS;
use super::file::{Octets, Vector, With, hex};
use super::people::*;
use super::raw::{array, array_head, bin, elements, signed, string, uint, unbin};

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(bundles());
    out.extend(bad_bundles());
    out.extend(roots());
    out.extend(bad_roots());
    out.extend(policies());
    out.extend(candidates());
    out.extend(successions());
    out
}

/// The elements of a bundle's statement.
const DOMAIN_NAME: usize = 1;
const ISSUED_AT: usize = 3;
const EXPIRES_AT: usize = 4;
const ROOT: usize = 5;
const FORMER_ROOTS: usize = 6;
const ISSUING: usize = 7;
const POLICY_KEYS: usize = 8;

fn bundle_of(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut statement = elements(&unbin(&elements(&bundle_bytes())[0]));
    change(&mut statement);
    signed_as(&array(&statement), "root", Tag::TrustBundle)
}

fn signed_as(statement: &[u8], by: &str, tag: Tag) -> Vec<u8> {
    signed(statement, key(by).sign(tag, &[statement]).as_bytes())
}

/// Each root vouches for the next one; the last is the bundle's.
fn chain(roots: &[&str]) -> Vec<FormerRoot> {
    roots
        .windows(2)
        .map(|pair| FormerRoot::vouch(&domain(), &key(pair[0]), key(pair[1]).verifying_key()))
        .collect()
}

/// By the last of these roots, which followed the others.
fn rooted(roots: &[&str]) -> TrustBundle {
    TrustBundle {
        root: *key(roots[roots.len() - 1]).verifying_key(),
        former_roots: chain(roots),
        ..unsigned_bundle()
    }
}

fn rooted_bytes(roots: &[&str]) -> Vec<u8> {
    rooted(roots).sign(&key(roots[roots.len() - 1])).unwrap()
}

/// A bundle by the second root, with what the first is to have said.
fn with_former(former: Vec<Vec<u8>>) -> Vec<u8> {
    let mut statement = elements(&unbin(&elements(&rooted_bytes(&["root", "root 2"]))[0]));
    statement[FORMER_ROOTS] = array(&former);
    signed_as(&array(&statement), "root 2", Tag::TrustBundle)
}

fn former(former: &str, signature: &[u8]) -> Vec<u8> {
    array(&[bin(key(former).verifying_key().as_bytes()), bin(signature)])
}

fn pinned(names: &[&str]) -> Vec<String> {
    names
        .iter()
        .map(|name| hex(key(name).verifying_key().as_bytes()))
        .collect()
}

fn keys(seeds: &[&str]) -> Vec<[u8; 32]> {
    let mut keys: Vec<_> = seeds
        .iter()
        .map(|seed| *key(seed).verifying_key().as_bytes())
        .collect();
    keys.sort_unstable();
    keys
}

fn key_list(keys: &[[u8; 32]]) -> Vec<u8> {
    array(&keys.iter().map(|key| bin(key)).collect::<Vec<_>>())
}

fn issuing_list(keys: &[([u8; 32], i64)]) -> Vec<u8> {
    let entries: Vec<_> = keys
        .iter()
        .map(|(key, expires_at)| array(&[bin(key), uint(at(*expires_at).as_millis())]))
        .collect();
    array(&entries)
}

fn bundles() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let accept = |name: &str, about: &str, bytes: &[u8]| {
        Vector::accept(name, "trust-bundle", &["55"], about, bytes)
    };
    let now = |millis: i64| move |with: &mut With| with.now = Some(at(millis).as_millis());
    let nobody = TrustBundle {
        issuing: Vec::new(),
        policy_keys: Vec::new(),
        ..unsigned_bundle()
    };
    let names: Vec<String> = (0..128).map(|n| format!("policy {n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let full = bundle_of(|statement| statement[POLICY_KEYS] = key_list(&keys(&names)));
    let a_week = issuing_list(&[(keys(&["issuing"])[0], 7 * DAY - HOUR)]);
    vec![
        accept(
            "bundle",
            "two issuing keys and a policy key",
            &bundle_bytes(),
        ),
        accept(
            "bundle-of-nobody",
            "nobody is trusted",
            &nobody.sign(&key("root")).unwrap(),
        ),
        accept("bundle-of-128-policy-keys", "as many keys as may be", &full),
        accept(
            "bundle-issuing-for-a-week",
            "an issuing key ends 7 days after the bundle's issue",
            &bundle_of(|statement| statement[ISSUING] = a_week),
        ),
        accept(
            "bundle-one-skew-early",
            "issued one skew ahead",
            &bundle_bytes(),
        )
        .with(now(-HOUR - skew)),
        accept(
            "bundle-one-skew-late",
            "expired one skew ago",
            &bundle_bytes(),
        )
        .with(now(30 * DAY + skew)),
    ]
}

fn bad_bundles() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let mut out = Vec::new();
    let refuse = |name: &str, rule: &str, about: &str, bytes: &[u8], why: &str| {
        Vector::refuse(
            name,
            "trust-bundle",
            &[rule],
            about,
            bytes,
            &format!("open/{why}"),
        )
    };
    let genuine = bundle_bytes();
    let statement = unbin(&elements(&genuine)[0]);
    let two = keys(&["issuing", "issuing of another broker"]);
    let names: Vec<String> = (0..129).map(|n| format!("policy {n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (name, about, element, value, why) in [
        (
            "bundle-version-2",
            "another version of the format",
            0,
            uint(2),
            "unsupported_version",
        ),
        (
            "bundle-domain-in-upper-case",
            "no trust domain",
            DOMAIN_NAME,
            string("Shop.example"),
            "trust_domain",
        ),
        (
            "bundle-domain-empty",
            "no trust domain",
            DOMAIN_NAME,
            string(""),
            "trust_domain",
        ),
        (
            "bundle-domain-of-256",
            "longer than a trust domain may be",
            DOMAIN_NAME,
            string(&"d".repeat(256)),
            "too_long",
        ),
        (
            "bundle-of-another-domain",
            "of another trust domain",
            DOMAIN_NAME,
            string("evil.example"),
            "foreign_domain",
        ),
        (
            "bundle-keys-out-of-order",
            "keys ascend",
            ISSUING,
            issuing_list(&[(two[1], DAY), (two[0], DAY)]),
            "key_order",
        ),
        (
            "bundle-key-twice",
            "keys ascend strictly",
            ISSUING,
            issuing_list(&[(two[0], DAY), (two[0], HOUR)]),
            "key_order",
        ),
        (
            "bundle-policy-keys-out-of-order",
            "keys ascend",
            POLICY_KEYS,
            key_list(&[two[1], two[0]]),
            "key_order",
        ),
        (
            "bundle-of-129-policy-keys",
            "more keys than may be",
            POLICY_KEYS,
            key_list(&keys(&names)),
            "too_long",
        ),
        (
            "bundle-issuing-for-more-than-a-week",
            "an issuing key ends a millisecond more than 7 days after the bundle's issue",
            ISSUING,
            issuing_list(&[(two[0], 7 * DAY - HOUR + 1)]),
            "issuing_life_too_long",
        ),
        (
            "bundle-key-without-end",
            "an issuing key has an end",
            ISSUING,
            [array_head(1), array(&[bin(&two[0])])].concat(),
            "wrong_length",
        ),
        (
            "bundle-issued-at-nil",
            "a bundle has an issue",
            ISSUED_AT,
            vec![0xc0],
            "wrong_type",
        ),
        (
            "bundle-expires-at-wide",
            "not in its shortest encoding",
            EXPIRES_AT,
            vec![0xcf, 0, 0, 0, 0, 0, 0, 0, 1],
            "not_minimal",
        ),
    ] {
        out.push(refuse(
            name,
            "55",
            about,
            &bundle_of(|statement| statement[element] = value),
            why,
        ));
    }
    for (name, about, key) in UNSOUND_KEYS {
        out.push(refuse(
            &format!("bundle-policy-key-{name}"),
            "55",
            &format!("a policy key is {about}"),
            &bundle_of(|statement| statement[POLICY_KEYS] = key_list(&[key])),
            "key",
        ));
    }
    out.push(refuse(
        "bundle-and-a-byte",
        "50",
        "a byte after it",
        &[&genuine[..], &[0]].concat(),
        "trailing_bytes",
    ));
    out.push(refuse(
        "bundle-statement-of-ten",
        "55",
        "a tenth element",
        &bundle_of(|statement| statement.push(vec![0xc0])),
        "wrong_length",
    ));
    for (name, rule, about, bytes) in [
        (
            "bundle-signed-by-the-policy-key",
            "55",
            "not by the root",
            signed_as(&statement, "policy", Tag::TrustBundle),
        ),
        (
            "bundle-signed-as-a-policy",
            "60",
            "the root's signature under another tag",
            signed_as(&statement, "root", Tag::Policy),
        ),
        (
            "bundle-signed-as-a-credential",
            "60",
            "the root's signature under another tag",
            signed_as(&statement, "root", Tag::Credential),
        ),
    ] {
        out.push(refuse(name, rule, about, &bytes, "bad_signature"));
    }
    out.push(
        refuse(
            "bundle-of-another-root",
            "55",
            "another root is pinned",
            &genuine,
            "unknown_root",
        )
        .with(|with| with.roots = Some(pinned(&["stranger"]))),
    );
    out.push(
        refuse(
            "bundle-for-another-domain",
            "55",
            "another trust domain is pinned",
            &genuine,
            "foreign_domain",
        )
        .with(|with| with.trust_domain = Some("evil.example".to_owned())),
    );
    out.push(
        refuse(
            "bundle-from-the-future",
            "55",
            "issued more than one skew ahead",
            &genuine,
            "future",
        )
        .with(|with| with.now = Some(at(-HOUR - skew - 1).as_millis())),
    );
    out.push(
        refuse(
            "bundle-expired",
            "55",
            "expired more than one skew ago",
            &genuine,
            "expired",
        )
        .with(|with| with.now = Some(at(30 * DAY + skew + 1).as_millis())),
    );
    out.push(refuse(
        "bundle-of-16385-bytes",
        "4",
        "longer than a bundle may be, refused before it is read",
        &vec![0; 16 * 1024 + 1],
        "too_large",
    ));
    out
}

/// ENV-58.
fn roots() -> Vec<Vector> {
    let accept = |name: &str, about: &str, roots: &[&str], pins: &[&str]| {
        Vector::accept(name, "trust-bundle", &["58"], about, &rooted_bytes(roots))
            .with(|with| with.roots = Some(pinned(pins)))
    };
    let nine = [
        "root", "root 2", "root 3", "root 4", "root 5", "root 6", "root 7", "root 8", "root 9",
    ];
    vec![
        accept(
            "bundle-by-the-next-root",
            "the pinned root vouches for the one that signs",
            &["root", "root 2"],
            &["root"],
        ),
        accept(
            "bundle-by-the-next-root-pinned",
            "the root that signs is pinned, the former one is not",
            &["root", "root 2"],
            &["root 2"],
        ),
        accept(
            "bundle-by-one-of-two-pinned-roots",
            "one of two pinned roots signs",
            &["root 2"],
            &["root", "root 2"],
        ),
        accept(
            "bundle-by-the-root-after-the-next",
            "from the pinned root over another to the one that signs",
            &["root", "root 2", "root 3"],
            &["root"],
        ),
        accept(
            "bundle-with-eight-former-roots",
            "as many as may be",
            &nine,
            &["root"],
        ),
    ]
}

fn bad_roots() -> Vec<Vector> {
    let refuse = |name: &str, rule: &str, about: &str, bytes: &[u8], why: &str| {
        let why = format!("open/{why}");
        Vector::refuse(name, "trust-bundle", &[rule], about, bytes, &why)
    };
    let next = |by: &str, to: &str| FormerRoot::vouch(&domain(), &key(by), key(to).verifying_key());
    let said =
        |by: &str, statement: &[u8], tag| key(by).sign(tag, &[statement]).as_bytes().to_vec();
    let root_2 = *key("root 2").verifying_key();
    let honest = FormerRoot::to_sign(&domain(), key("root").verifying_key(), &root_2);
    let statement = &honest[Tag::RootSuccession.as_bytes().len()..];
    let evil = TrustDomain::parse("evil.example").unwrap();
    let elsewhere = FormerRoot::to_sign(&evil, key("root").verifying_key(), &root_2);
    let elsewhere = &elsewhere[Tag::RootSuccession.as_bytes().len()..];
    let another = FormerRoot::to_sign(
        &domain(),
        key("root").verifying_key(),
        key("root 3").verifying_key(),
    );
    let another = &another[Tag::RootSuccession.as_bytes().len()..];
    let mut out = Vec::new();
    for (name, rule, about, signature) in [
        (
            "bundle-succession-by-the-successor",
            "58",
            "the new root vouches for itself",
            said("root 2", statement, Tag::RootSuccession),
        ),
        (
            "bundle-succession-to-another-root",
            "58",
            "the pinned root vouches for another root",
            said("root", another, Tag::RootSuccession),
        ),
        (
            "bundle-succession-of-another-domain",
            "58",
            "the pinned root vouches in another trust domain",
            said("root", elsewhere, Tag::RootSuccession),
        ),
        (
            "bundle-succession-under-another-tag",
            "60",
            "the pinned root's signature under another tag",
            said("root", statement, Tag::TrustBundle),
        ),
    ] {
        let bytes = with_former(vec![former("root", &signature)]);
        out.push(refuse(name, rule, about, &bytes, "root_succession"));
    }
    let good = said("root", statement, Tag::RootSuccession);
    out.push(refuse(
        "bundle-root-twice",
        "58",
        "the root that signs is a former one too",
        &with_former(vec![
            former("root 2", &said("root 2", statement, Tag::RootSuccession)),
            former("root", &good),
        ]),
        "root_twice",
    ));
    out.push(refuse(
        "bundle-with-nine-former-roots",
        "58",
        "more than may be",
        &with_former(vec![former("root", &good); 9]),
        "too_long",
    ));
    out.push(refuse(
        "bundle-succession-without-signature",
        "58",
        "a former root vouches with nothing",
        &with_former(vec![array(&[bin(key("root").verifying_key().as_bytes())])]),
        "wrong_length",
    ));
    // Only the way behind the pinned root is broken: it is refused all the same.
    let broken = TrustBundle {
        former_roots: vec![next("root", "root 3"), next("root 2", "root 3")],
        ..rooted(&["root 2", "root 3"])
    };
    let broken = signed_as(
        &broken.to_sign().unwrap()[Tag::TrustBundle.as_bytes().len()..],
        "root 3",
        Tag::TrustBundle,
    );
    out.push(
        refuse(
            "bundle-succession-broken-before-the-pin",
            "58",
            "every former root vouches for its next one, also before the pinned one",
            &broken,
            "root_succession",
        )
        .with(|with| with.roots = Some(pinned(&["root 2"]))),
    );
    out.push(refuse(
        "bundle-by-a-root-that-nobody-vouches-for",
        "58",
        "the pinned root is not on the way to the one that signs",
        &rooted_bytes(&["root 2", "root 3"]),
        "unknown_root",
    ));
    for (name, about, key) in UNSOUND_KEYS {
        out.push(refuse(
            &format!("bundle-root-{name}"),
            "55",
            &format!("the root is {about}"),
            &bundle_of(|statement| statement[ROOT] = bin(&key)),
            "key",
        ));
    }
    out
}

const TEXT: &str = "version = 1\ntrust_domain = \"shop.example\"\n";

fn policy(revision: u64, text: &str) -> SignedPolicy {
    SignedPolicy {
        trust_domain: domain(),
        revision,
        issued_at: NOW,
        comment: String::new(),
        text: text.to_owned(),
    }
}

fn policy_bytes(policy: &SignedPolicy, by: &SigningKey) -> Vec<u8> {
    policy.sign(by).unwrap()
}

fn policies() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let mut out = Vec::new();
    let genuine = policy_bytes(&policy(3, TEXT), &key("policy"));
    let statement = elements(&unbin(&elements(&genuine)[0]));
    out.push(Vector::accept(
        "policy",
        "policy",
        &["56"],
        "signed by the policy key",
        &genuine,
    ));
    out.push(
        Vector::accept(
            "policy-one-skew-early",
            "policy",
            &["56"],
            "signed one skew ahead",
            &genuine,
        )
        .with(|with| with.now = Some(at(-skew).as_millis())),
    );
    let refuse = |name: &str, rule: &str, about: &str, bytes: &[u8], why: &str| {
        Vector::refuse(
            name,
            "policy",
            &[rule],
            about,
            bytes,
            &format!("open/{why}"),
        )
    };
    let commented = SignedPolicy {
        comment: "x".repeat(1024),
        ..policy(3, TEXT)
    };
    out.push(Vector::accept(
        "policy-with-the-longest-comment",
        "policy",
        &["56"],
        "a comment of 1024 bytes",
        &policy_bytes(&commented, &key("policy")),
    ));
    for by in ["root", "issuing", "stranger"] {
        out.push(refuse(
            &format!("policy-by-{by}"),
            "56",
            "the bundle does not name it among the policy keys",
            &policy_bytes(&policy(3, TEXT), &key(by)),
            "unknown_key",
        ));
    }
    let foreign = SignedPolicy {
        trust_domain: TrustDomain::parse("evil.example").unwrap(),
        ..policy(3, TEXT)
    };
    out.push(refuse(
        "policy-of-another-domain",
        "56",
        "of another trust domain",
        &policy_bytes(&foreign, &key("policy")),
        "foreign_domain",
    ));
    let bytes = array(&statement);
    out.push(refuse(
        "policy-signed-by-another-key",
        "56",
        "names the policy key and is signed by another",
        &signed_as(&bytes, "issuing", Tag::Policy),
        "bad_signature",
    ));
    out.push(refuse(
        "policy-signed-as-a-bundle",
        "60",
        "the policy key's signature under another tag",
        &signed_as(&bytes, "policy", Tag::TrustBundle),
        "bad_signature",
    ));
    let changed = |element: usize, value: Vec<u8>| {
        let mut statement = statement.clone();
        statement[element] = value;
        signed_as(&array(&statement), "policy", Tag::Policy)
    };
    for (name, about, element, value, why) in [
        (
            "policy-version-2",
            "another version of the format",
            0,
            uint(2),
            "unsupported_version",
        ),
        (
            "policy-text-as-bytes",
            "the text is bytes",
            6,
            bin(TEXT.as_bytes()),
            "wrong_type",
        ),
        (
            "policy-text-not-utf8",
            "the text is not UTF-8",
            6,
            vec![0xa1, 0xff],
            "not_utf8",
        ),
        (
            "policy-comment-as-bytes",
            "the comment is bytes",
            5,
            bin(b"why"),
            "wrong_type",
        ),
        (
            "policy-comment-too-long",
            "a comment of 1025 bytes",
            5,
            string(&"x".repeat(1025)),
            "too_long",
        ),
        (
            "policy-revision-wide",
            "not in its shortest encoding",
            3,
            vec![0xcc, 3],
            "not_minimal",
        ),
    ] {
        out.push(refuse(name, "56", about, &changed(element, value), why));
    }
    out.push(
        refuse(
            "policy-from-the-future",
            "56",
            "signed more than one skew ahead",
            &genuine,
            "future",
        )
        .with(|with| with.now = Some(at(-skew - 1).as_millis())),
    );
    out.push(
        refuse(
            "policy-by-an-expired-bundle",
            "56",
            "nothing is judged by a bundle that has expired",
            &genuine,
            "expired",
        )
        .with(|with| with.now = Some(at(30 * DAY + skew + 1).as_millis())),
    );
    out
}

/// ENV-59.
fn candidates() -> Vec<Vector> {
    let candidate = PolicyCandidate(policy(3, TEXT));
    let off = PolicyCandidate(policy(4, ""));
    let genuine = candidate.sign(&key("policy")).unwrap();
    let kind = "policy-candidate";
    let mut out = vec![
        Vector::accept(kind, kind, &["59"], "signed as a candidate", &genuine),
        Vector::accept(
            "policy-candidate-off",
            kind,
            &["59"],
            "an empty text: nothing is on trial any more",
            &off.sign(&key("policy")).unwrap(),
        ),
    ];
    for (name, what, about, bytes) in [
        (
            "policy-candidate-as-a-policy",
            "policy",
            "a candidate is not put in force by who carries it",
            genuine.clone(),
        ),
        (
            "policy-as-a-candidate",
            kind,
            "a policy is no candidate",
            policy_bytes(&policy(3, TEXT), &key("policy")),
        ),
    ] {
        out.push(Vector::refuse(
            name,
            what,
            &["59"],
            about,
            &bytes,
            "open/bad_signature",
        ));
    }
    out.push(Vector::refuse(
        "policy-candidate-by-issuing",
        kind,
        &["59"],
        "the bundle does not name it among the policy keys",
        &candidate.sign(&key("issuing")).unwrap(),
        "open/unknown_key",
    ));
    out
}

/// ENV-57.
fn successions() -> Vec<Vector> {
    let bundle = |version: u64, policy_keys: &[&str]| {
        TrustBundle {
            version,
            policy_keys: policy_keys
                .iter()
                .map(|name| *key(name).verifying_key())
                .collect(),
            ..unsigned_bundle()
        }
        .sign(&key("root"))
        .unwrap()
    };
    let policy = |revision: u64, text: &str| policy_bytes(&policy(revision, text), &key("policy"));
    let mut out = Vec::new();
    for (what, held, newer, older, other) in [
        (
            "trust-bundle-succession",
            bundle(7, &["policy"]),
            bundle(8, &["policy 0"]),
            bundle(6, &["policy"]),
            bundle(7, &["policy 0"]),
        ),
        (
            "policy-succession",
            policy(7, TEXT),
            policy(8, "version = 1\n"),
            policy(6, TEXT),
            policy(7, "version = 1\n"),
        ),
    ] {
        let name = |suffix: &str| format!("{}-{suffix}", what.trim_end_matches("-succession"));
        let over = |vector: Vector| vector.with(|with| with.held = Some(Octets::of(&held)));
        out.push(over(Vector::accept(
            &name("newer"),
            what,
            &["57"],
            "a higher number",
            &newer,
        )));
        out.push(over(Vector::accept(
            &name("the-same"),
            what,
            &["57"],
            "the same again",
            &held,
        )));
        out.push(over(Vector::refuse(
            &name("older"),
            what,
            &["57"],
            "a lower number",
            &older,
            "open/rollback",
        )));
        out.push(over(Vector::refuse(
            &name("equivocal"),
            what,
            &["57"],
            "the same number with other contents",
            &other,
            "open/equivocation",
        )));
    }
    out.extend(root_successions());
    out
}

/// ENV-58: a root that was replaced does not come back.
fn root_successions() -> Vec<Vector> {
    let bundle = |version: u64, roots: &[&str]| {
        let bundle = TrustBundle {
            version,
            ..rooted(roots)
        };
        bundle.sign(&key(roots[roots.len() - 1])).unwrap()
    };
    let held = bundle(7, &["root", "root 2"]);
    let over = |vector: Vector| {
        vector.with(|with| {
            with.held = Some(Octets::of(&held));
            with.roots = Some(pinned(&["root", "root 2"]));
        })
    };
    let what = "trust-bundle-succession";
    let mut out = Vec::new();
    for (name, about, bytes) in [
        (
            "trust-bundle-by-the-next-root",
            "a root that followed",
            bundle(8, &["root", "root 2", "root 3"]),
        ),
        (
            "trust-bundle-without-former-roots",
            "by the root of the one that is held, which names no other any more",
            bundle(8, &["root 2"]),
        ),
    ] {
        out.push(over(Vector::accept(name, what, &["58"], about, &bytes)));
    }
    for (name, about, bytes) in [
        (
            "trust-bundle-by-the-former-root",
            "a higher number by the root that was replaced, pinned still",
            bundle(8, &["root"]),
        ),
        (
            "trust-bundle-by-another-next-root",
            "the root that was replaced vouches for another one",
            bundle(8, &["root", "root 3"]),
        ),
    ] {
        out.push(over(Vector::refuse(
            name,
            what,
            &["58"],
            about,
            &bytes,
            "open/root_rollback",
        )));
    }
    out
}

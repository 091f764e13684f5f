//! ENV-52 and ENV-53: credentials.

use bulla_keyring::{SigningKey, Tag};

use super::file::{Octets, Vector, With};
use super::people::*;
use super::raw::{array, bin, elements, signed, string, uint, unbin};
use super::requests::{
    CHALLENGE, INSTANCE, MESSAGE_KEY, REQUESTED_AT, TOKEN_KEY, WORKLOAD, as_gateway,
    countersignature, statement,
};

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(good_credentials());
    out.extend(statements());
    out.extend(bad_credentials());
    out.extend(judged());
    out
}

fn good_credentials() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let now = |millis: i64| move |with: &mut With| with.now = Some(at(millis).as_millis());
    let accept = |name, about, process: Process| {
        Vector::accept(
            name,
            "credential",
            &["52", "53"],
            about,
            process.credential().as_bytes(),
        )
    };
    vec![
        accept("credential", "of a workload without a token key", orders()),
        accept(
            "credential-with-token-key",
            "of a workload that mints tokens",
            gateway(),
        )
        .with(as_gateway),
        accept(
            "credential-of-several-nkeys",
            "the workload has two nkeys, one vouches",
            orders(),
        )
        .with(|with| {
            with.anchors = Some(vec![
                billing().nkey().public().to_string(),
                orders().nkey().public().to_string(),
            ]);
        }),
        accept(
            "credential-one-skew-early",
            "it begins in one skew",
            orders(),
        )
        .with(now(-skew)),
        accept(
            "credential-one-skew-late",
            "it ended one skew ago",
            orders(),
        )
        .with(now(HOUR + skew)),
        Vector::accept(
            "credential-of-a-day",
            "credential",
            &["52"],
            "it ends 24 hours after it was asked for",
            &credential_of(|claims| claims[EXPIRES_AT] = uint(at(DAY).as_millis())),
        ),
        Vector::accept(
            "credential-as-long-as-its-issuer",
            "credential",
            &["52"],
            "it ends with the issuing key",
            &credential_of(|claims| claims[EXPIRES_AT] = uint(at(HOUR).as_millis())),
        )
        .with(|with| with.bundle = Some(bundle_ending(HOUR))),
        Vector::accept(
            "credential-by-a-brokers-word",
            "credential",
            &["52", "123"],
            "nothing of the workload's own vouches, and the policy says that a broker's word is enough",
            &credential_of(|claims| claims[COUNTERSIGNATURE] = vec![0xc0]),
        )
        .with(|with| {
            with.anchors = Some(Vec::new());
            with.brokers = Some(true);
        }),
    ]
}

/// The elements of a credential's claims.
const STATEMENT: usize = 1;
pub const COUNTERSIGNATURE: usize = 2;
const ISSUER: usize = 3;
const NOT_BEFORE: usize = 4;
pub const EXPIRES_AT: usize = 5;
const SERIAL: usize = 6;

fn claims(process: &Process) -> Vec<Vec<u8>> {
    elements(&unbin(&elements(process.credential().as_bytes())[0]))
}

/// The credential of `orders` with other claims, signed by the issuer.
pub fn credential_of(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut claims = claims(&orders());
    change(&mut claims);
    issued(&array(&claims), &key("issuing"))
}

fn issued(claims: &[u8], issuer: &SigningKey) -> Vec<u8> {
    signed(claims, issuer.sign(Tag::Credential, &[claims]).as_bytes())
}

/// The credential for another statement, vouched for and issued as it should be.
pub fn credential_for(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut statement = statement(&orders());
    change(&mut statement);
    let statement = array(&statement);
    credential_of(|claims| {
        claims[STATEMENT] = bin(&statement);
        claims[COUNTERSIGNATURE] = countersignature(Some(&orders().nkey()), &statement);
    })
}

fn bundle_ending(millis: i64) -> Octets {
    let mut bundle = unsigned_bundle();
    for issuing in &mut bundle.issuing {
        issuing.expires_at = at(millis);
    }
    Octets::of(&bundle.sign(&key("root")).unwrap())
}

/// Points of small order, and what is no point.
pub const UNSOUND_KEYS: [(&str, &str, [u8; 32]); 5] = [
    ("neutral", "the neutral point", point(0x01, 0x00, 0x00)),
    ("order-2", "the point of order 2", point(0xec, 0xff, 0x7f)),
    ("order-4", "a point of order 4", point(0x00, 0x00, 0x00)),
    (
        "order-4-second-encoding",
        "a point of order 4 with y = p",
        point(0xed, 0xff, 0x7f),
    ),
    ("off-curve", "no point at all", point(0x02, 0x00, 0x00)),
];

const fn point(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut point = [middle; 32];
    point[0] = first;
    point[31] = last;
    point
}

/// Statements that no receiver reads, in credentials that are otherwise sound.
fn statements() -> Vec<Vector> {
    let mut out = Vec::new();
    let refuse = |name: &str, about: &str, bytes: &[u8], why: &str| {
        Vector::refuse(
            name,
            "credential",
            &["50"],
            about,
            bytes,
            &format!("decode/{why}"),
        )
    };
    for (name, about, key) in UNSOUND_KEYS {
        for (what, element) in [("message", MESSAGE_KEY), ("token", TOKEN_KEY)] {
            out.push(refuse(
                &format!("credential-{what}-key-{name}"),
                &format!("its {what} key is {about}"),
                &credential_for(|statement| statement[element] = bin(&key)),
                "key",
            ));
        }
    }
    for (name, about, element, value, why) in [
        (
            "statement-version-2",
            "another version of statement",
            0,
            uint(2),
            "unsupported_version",
        ),
        (
            "workload-of-other-scheme",
            "no SPIFFE id",
            WORKLOAD,
            string("https://shop.example/orders"),
            "workload",
        ),
        (
            "workload-without-path",
            "a trust domain is no workload",
            WORKLOAD,
            string("spiffe://shop.example"),
            "workload",
        ),
        (
            "workload-with-empty-segment",
            "an empty segment",
            WORKLOAD,
            string("spiffe://shop.example//orders"),
            "workload",
        ),
        (
            "workload-with-dots",
            "a relative segment",
            WORKLOAD,
            string("spiffe://shop.example/../orders"),
            "workload",
        ),
        (
            "workload-with-query",
            "a query",
            WORKLOAD,
            string("spiffe://shop.example/orders?x"),
            "workload",
        ),
        (
            "workload-in-upper-case-domain",
            "an upper-case trust domain",
            WORKLOAD,
            string("spiffe://Shop.example/orders"),
            "workload",
        ),
        (
            "workload-as-bytes",
            "bytes for text",
            WORKLOAD,
            bin(b"spiffe://shop.example/orders"),
            "wrong_type",
        ),
        (
            "workload-of-2049",
            "longer than a SPIFFE id may be",
            WORKLOAD,
            string(&format!("spiffe://shop.example/{}", "o".repeat(2027))),
            "too_long",
        ),
        (
            "message-key-of-31",
            "a short key",
            MESSAGE_KEY,
            bin(&[1; 31]),
            "wrong_length",
        ),
        (
            "message-key-nil",
            "no key",
            MESSAGE_KEY,
            vec![0xc0],
            "wrong_type",
        ),
        (
            "instance-of-15",
            "a short instance",
            INSTANCE,
            bin(&[1; 15]),
            "wrong_length",
        ),
        (
            "challenge-of-33",
            "a long challenge",
            CHALLENGE,
            bin(&[1; 33]),
            "wrong_length",
        ),
        (
            "requested-at-as-float",
            "a float for a time",
            REQUESTED_AT,
            vec![0xcb, 0, 0, 0, 0, 0, 0, 0, 0],
            "wrong_type",
        ),
        (
            "requested-at-wide",
            "a time that is not in its shortest encoding",
            REQUESTED_AT,
            vec![0xcf, 0, 0, 0, 0, 0, 0, 0, 1],
            "not_minimal",
        ),
    ] {
        out.push(refuse(
            &format!("credential-{name}"),
            about,
            &credential_for(|statement| statement[element] = value),
            why,
        ));
    }
    out.push(refuse(
        "credential-statement-of-nine",
        "a ninth element",
        &credential_for(|statement| statement.push(vec![0xc0])),
        "wrong_length",
    ));
    out
}

fn bad_credentials() -> Vec<Vector> {
    let mut out = Vec::new();
    let genuine = orders().credential();
    let refuse = |name: &str, rule: &str, about: &str, bytes: &[u8], why: &str| {
        Vector::refuse(name, "credential", &[rule], about, bytes, why)
    };
    for (name, about, element, value, why) in [
        (
            "claims-version-2",
            "another version of claims",
            0,
            uint(2),
            "unsupported_version",
        ),
        (
            "countersignature-of-bytes",
            "a countersignature is an array",
            COUNTERSIGNATURE,
            bin(&[1; 64]),
            "wrong_type",
        ),
        (
            "countersignature-of-three",
            "a countersignature has two elements",
            COUNTERSIGNATURE,
            array(&[bin(&[1; 32]), bin(&[1; 64]), uint(0)]),
            "wrong_length",
        ),
        (
            "serial-of-17",
            "a long serial",
            SERIAL,
            bin(&[1; 17]),
            "wrong_length",
        ),
        (
            "issuer-off-curve",
            "an issuing key that is no point",
            ISSUER,
            bin(&UNSOUND_KEYS[4].2),
            "key",
        ),
        (
            "not-before-nil",
            "no beginning",
            NOT_BEFORE,
            vec![0xc0],
            "wrong_type",
        ),
    ] {
        out.push(refuse(
            &format!("credential-{name}"),
            "52",
            about,
            &credential_of(|claims| claims[element] = value),
            &format!("decode/{why}"),
        ));
    }
    out.push(refuse(
        "credential-and-a-byte",
        "50",
        "a byte after it",
        &[genuine.as_bytes(), &[0xc0]].concat(),
        "decode/trailing_bytes",
    ));
    out.push(refuse(
        "credential-cut-short",
        "50",
        "a byte less",
        &genuine.as_bytes()[..genuine.as_bytes().len() - 1],
        "decode/truncated",
    ));
    out.push(refuse(
        "credential-of-no-bytes",
        "50",
        "nothing",
        b"",
        "decode/truncated",
    ));
    let wide = [&[0xdc, 0, 2][..], &genuine.as_bytes()[1..]].concat();
    out.push(refuse(
        "credential-wide-array",
        "2",
        "not in its shortest encoding",
        &wide,
        "decode/not_minimal",
    ));

    let claims = array(&claims(&orders()));
    let by_issuer = |tag: Tag| key("issuing").sign(tag, &[&claims]);
    for (name, rule, about, signature) in [
        (
            "signed-by-the-root",
            "52",
            "the root issues no credentials",
            key("root").sign(Tag::Credential, &[&claims]),
        ),
        (
            "signed-by-another-issuer",
            "52",
            "by an issuer, but not the one it names",
            key("issuing of another broker").sign(Tag::Credential, &[&claims]),
        ),
        (
            "signed-as-a-bundle",
            "60",
            "the issuer's signature under another tag",
            by_issuer(Tag::TrustBundle),
        ),
        (
            "signed-as-a-request",
            "60",
            "the issuer's signature under another tag",
            by_issuer(Tag::CredentialRequest),
        ),
    ] {
        out.push(refuse(
            &format!("credential-{name}"),
            rule,
            about,
            &signed(&claims, signature.as_bytes()),
            "verify/bad_issuer_signature",
        ));
    }
    let named = |issuer: &SigningKey| {
        credential_of(|claims| claims[ISSUER] = bin(issuer.verifying_key().as_bytes()))
    };
    out.push(refuse(
        "credential-names-another-issuer",
        "52",
        "an issuer of the bundle, that did not sign",
        &named(&key("issuing of another broker")),
        "verify/bad_issuer_signature",
    ));
    for (name, issuer) in [
        ("root", key("root")),
        ("policy", key("policy")),
        ("stranger", key("stranger")),
    ] {
        let claims = {
            let mut claims = super::credentials::claims(&orders());
            claims[ISSUER] = bin(issuer.verifying_key().as_bytes());
            array(&claims)
        };
        out.push(refuse(
            &format!("credential-issued-by-{name}"),
            "52",
            "the bundle does not name it among the issuing keys",
            &issued(&claims, &issuer),
            "verify/unknown_issuer",
        ));
    }
    out.push(refuse(
        "credential-without-countersignature",
        "52",
        "a broker alone cannot speak for a workload",
        &credential_of(|claims| claims[COUNTERSIGNATURE] = vec![0xc0]),
        "verify/countersignature_missing",
    ));
    out.push(
        refuse(
            "credential-countersigned-by-a-stranger-where-brokers-vouch",
            "123",
            "a broker's word is enough, and a countersignature that is there still has to hold",
            orders().credential().as_bytes(),
            "verify/foreign_nkey",
        )
        .with(|with| {
            with.anchors = Some(Vec::new());
            with.brokers = Some(true);
        }),
    );
    let statement = array(&statement(&orders()));
    out.push(refuse(
        "credential-countersigned-by-a-stranger",
        "52",
        "vouched for by an nkey that is not the workload's in the policy",
        &credential_of(|claims| {
            claims[COUNTERSIGNATURE] = countersignature(Some(&nkey("stranger")), &statement);
        }),
        "verify/foreign_nkey",
    ));
    out.push(refuse(
        "credential-with-another-message-key",
        "52",
        "the workload's countersignature from another credential, over another message key",
        &credential_of(|claims| {
            let mut other = elements(&statement);
            other[MESSAGE_KEY] = bin(key("stranger").verifying_key().as_bytes());
            claims[STATEMENT] = bin(&array(&other));
        }),
        "verify/bad_countersignature",
    ));
    out.push(refuse(
        "credential-of-more-than-a-day",
        "52",
        "it ends a millisecond more than 24 hours after it was asked for",
        &credential_of(|claims| claims[EXPIRES_AT] = uint(at(DAY + 1).as_millis())),
        "verify/credential_life_too_long",
    ));
    out.push(refuse(
        "credential-of-another-domain",
        "52",
        "the workload is of another trust domain",
        &credential_for(|statement| statement[WORKLOAD] = string("spiffe://evil.example/orders")),
        "verify/foreign_domain",
    ));
    out
}

/// A genuine credential, judged where it does not count.
fn judged() -> Vec<Vector> {
    let skew = SKEW.as_millis() as i64;
    let bytes = orders().credential();
    let refuse = |name: &str, about: &str, why: &str, change: &dyn Fn(&mut With)| {
        Vector::refuse(
            name,
            "credential",
            &["52"],
            about,
            bytes.as_bytes(),
            &format!("verify/{why}"),
        )
        .with(change)
    };
    let mut without_issuers = unsigned_bundle();
    without_issuers.issuing.clear();
    let without_issuers = Octets::of(&without_issuers.sign(&key("root")).unwrap());
    vec![
        refuse(
            "credential-too-early",
            "it begins in more than one skew",
            "credential_not_yet_valid",
            &|with| {
                with.now = Some(at(-skew - 1).as_millis());
            },
        ),
        refuse(
            "credential-too-late",
            "it ended more than one skew ago",
            "credential_expired",
            &|with| {
                with.now = Some(at(HOUR + skew + 1).as_millis());
            },
        ),
        refuse(
            "credential-by-an-expired-bundle",
            "nothing is judged by a bundle that has expired",
            "bundle_expired",
            &|with| {
                with.now = Some(at(30 * DAY + skew + 1).as_millis());
            },
        ),
        refuse(
            "credential-without-anchor",
            "the policy names no nkey of the workload",
            "no_anchor",
            &|with| {
                with.anchors = Some(Vec::new());
            },
        ),
        refuse(
            "credential-with-another-anchor",
            "the policy has another nkey by now",
            "foreign_nkey",
            &|with| {
                with.anchors = Some(vec![billing().nkey().public().to_string()]);
            },
        ),
        refuse(
            "credential-outlives-its-issuer",
            "it ends a millisecond after the issuing key",
            "outlives_issuer",
            &|with| {
                with.bundle = Some(bundle_ending(HOUR - 1));
            },
        ),
        refuse(
            "credential-of-a-removed-issuer",
            "a bundle that names no issuer any more",
            "unknown_issuer",
            &|with| {
                with.bundle = Some(without_issuers.clone());
            },
        ),
    ]
}

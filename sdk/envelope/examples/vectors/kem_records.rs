//! ENV-50 and ENV-77: who has which keys for encryption.

use bulla_envelope::KemRecord;
use bulla_keyring::{KemSuite, NkeySeed, Tag};

use super::credentials::credential_for;
use super::file::{Vector, With};
use super::people::*;
use super::raw::{array, bin, elements, signed, string, uint, unbin};
use super::requests::{KEM_KEYS, countersignature_as};
use super::secrets::*;

/// The elements of a record's statement.
const WORKLOAD: usize = 1;
const VERSION: usize = 2;
const XWING: usize = 3;
const X25519: usize = 4;

fn of_billing(with: &mut With) {
    with.workload = Some(billing().workload.as_str().to_owned());
    with.anchors = Some(vec![billing().nkey().public().to_string()]);
}

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(good());
    out.extend(statements());
    out.extend(signatures());
    out.extend(process_key_vectors());
    out
}

fn record(version: u64) -> Vec<u8> {
    KemRecord::sign(&billing().nkey(), &billing().workload, version)
}

fn good() -> Vec<Vector> {
    let accept = |name: &str, about: &str, bytes: &[u8]| {
        Vector::accept(name, "kem-record", &["77"], about, bytes).with(of_billing)
    };
    vec![
        accept("kem-record", "the keys of version 1", &record(1)),
        accept(
            "kem-record-of-version-2",
            "other keys from the same seed",
            &record(2),
        ),
        accept(
            "kem-record-of-several-nkeys",
            "one nkey of two vouches",
            &record(1),
        )
        .with(|with| {
            with.anchors = Some(vec![
                orders().nkey().public().to_string(),
                billing().nkey().public().to_string(),
            ]);
        }),
    ]
}

fn record_of(change: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let mut statement = elements(&unbin(&elements(&record(1))[0]));
    change(&mut statement);
    signed_by(&array(&statement), Some(&billing().nkey()), Tag::KemRecord)
}

fn signed_by(statement: &[u8], nkey: Option<&NkeySeed>, tag: Tag) -> Vec<u8> {
    array(&[bin(statement), countersignature_as(nkey, statement, tag)])
}

/// X25519 public keys that no secret of ours has, or that give nothing away.
const UNSOUND: [(&str, &str, [u8; 32]); 4] = [
    ("zero", "0, of small order", [0; 32]),
    ("one", "1, of small order", edge(0x01, 0x00, 0x00)),
    ("order-8", "a point of order 8", ORDER_8),
    (
        "not-canonical",
        "2^255 - 10, which is 9 again",
        edge(0xf6, 0xff, 0x7f),
    ),
];

const ORDER_8: [u8; 32] = [
    0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
    0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
];

const fn edge(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// Keys that no receiver takes: (name, about, X-Wing or X25519, key).
fn unsound_keys() -> Vec<(String, String, KemSuite, Vec<u8>)> {
    let xwing = kem("billing", KemSuite::XWing).public().as_bytes().to_vec();
    let mut out = Vec::new();
    for (name, about, key) in UNSOUND {
        let about = format!("the X25519 key is {about}");
        out.push((
            format!("x25519-{name}"),
            about.clone(),
            KemSuite::X25519,
            key.to_vec(),
        ));
        let mut wide = xwing.clone();
        let at = wide.len() - 32;
        wide[at..].copy_from_slice(&key);
        out.push((
            format!("xwing-{name}"),
            format!("within X-Wing, {about}"),
            KemSuite::XWing,
            wide,
        ));
    }
    let mut large = xwing.clone();
    (large[0], large[1]) = (0xff, large[1] | 0x0f);
    out.push((
        "xwing-large-coefficient".to_owned(),
        "a coefficient of the ML-KEM key is not below the modulus".to_owned(),
        KemSuite::XWing,
        large,
    ));
    for (suite, len) in [
        (KemSuite::XWing, 1215),
        (KemSuite::XWing, 1217),
        (KemSuite::X25519, 31),
        (KemSuite::X25519, 33),
    ] {
        out.push((
            format!("{suite}-of-{len}"),
            format!("{len} bytes are no key of that suite"),
            suite,
            [&xwing[..], &[1]].concat()[..len].to_vec(),
        ));
    }
    out
}

fn statements() -> Vec<Vector> {
    let mut out = Vec::new();
    let refuse = |name: &str, about: &str, bytes: &[u8], why: &str| {
        Vector::refuse(
            name,
            "kem-record",
            &["77"],
            about,
            bytes,
            &format!("decode/{why}"),
        )
        .with(of_billing)
    };
    for (name, about, suite, key) in unsound_keys() {
        let element = if suite == KemSuite::XWing {
            XWING
        } else {
            X25519
        };
        out.push(refuse(
            &format!("kem-record-{name}"),
            &about,
            &record_of(|statement| statement[element] = bin(&key)),
            "kem_key",
        ));
    }
    for (name, about, element, value, why) in [
        (
            "version-of-format",
            "another version of the format",
            0,
            uint(2),
            "unsupported_version",
        ),
        (
            "workload",
            "no SPIFFE id",
            WORKLOAD,
            string("billing"),
            "workload",
        ),
        (
            "version-nil",
            "no version",
            VERSION,
            vec![0xc0],
            "wrong_type",
        ),
        (
            "version-wide",
            "not in its shortest encoding",
            VERSION,
            vec![0xcc, 1],
            "not_minimal",
        ),
        (
            "key-as-text",
            "a key that is text",
            X25519,
            string("key"),
            "wrong_type",
        ),
    ] {
        out.push(refuse(
            &format!("kem-record-{name}"),
            about,
            &record_of(|statement| statement[element] = value),
            why,
        ));
    }
    let genuine = record(1);
    let statement = unbin(&elements(&genuine)[0]);
    for (name, about, bytes, why) in [
        (
            "and-a-byte",
            "a byte after it",
            [&genuine[..], &[0]].concat(),
            "trailing_bytes",
        ),
        (
            "of-three",
            "a third element",
            [&[0x93][..], &genuine[1..], &[0xc0]].concat(),
            "wrong_length",
        ),
        (
            "statement-of-six",
            "a sixth element of the statement",
            record_of(|s| s.push(vec![0xc0])),
            "wrong_length",
        ),
        (
            "of-nobody",
            "nobody vouches for it",
            signed_by(&statement, None, Tag::KemRecord),
            "countersignature_missing",
        ),
        (
            "of-4097-bytes",
            "longer than a record may be",
            vec![0; 4097],
            "too_large",
        ),
        (
            "signed-bare",
            "a signature without its nkey",
            signed(
                &statement,
                billing()
                    .nkey()
                    .sign(Tag::KemRecord, &[&statement])
                    .as_bytes(),
            ),
            "wrong_type",
        ),
    ] {
        out.push(refuse(&format!("kem-record-{name}"), about, &bytes, why));
    }
    out
}

fn signatures() -> Vec<Vector> {
    let genuine = record(1);
    let statement = unbin(&elements(&genuine)[0]);
    let refuse = |name: &str, rule: &str, about: &str, bytes: &[u8], why: &str| {
        Vector::refuse(
            name,
            "kem-record",
            &[rule],
            about,
            bytes,
            &format!("verify/{why}"),
        )
        .with(of_billing)
    };
    vec![
        refuse(
            "kem-record-by-a-stranger",
            "77",
            "by an nkey that is not the workload's: a broker cannot put another key in its place",
            &signed_by(&statement, Some(&nkey("stranger")), Tag::KemRecord),
            "foreign_nkey",
        ),
        refuse(
            "kem-record-by-another-workload",
            "77",
            "another workload's nkey",
            &signed_by(&statement, Some(&orders().nkey()), Tag::KemRecord),
            "foreign_nkey",
        ),
        refuse(
            "kem-record-signed-as-a-request",
            "60",
            "the right nkey under another tag",
            &signed_by(&statement, Some(&billing().nkey()), Tag::Countersignature),
            "bad_countersignature",
        ),
        refuse(
            "kem-record-with-another-key",
            "77",
            "the signature of another version's record",
            &{
                let mut parts = elements(&genuine);
                parts[1] = elements(&record(2))[1].clone();
                array(&parts)
            },
            "bad_countersignature",
        ),
        refuse(
            "kem-record-without-anchor",
            "77",
            "the policy names no nkey of the workload",
            &genuine,
            "no_anchor",
        )
        .with(|with| with.anchors = Some(Vec::new())),
        refuse(
            "kem-record-of-another-workload",
            "77",
            "a genuine record where another workload's is looked for",
            &genuine,
            "foreign_nkey",
        )
        .with(|with| with.workload = Some(gateway().workload.as_str().to_owned())),
    ]
}

/// ENV-50: keys of a process, in its credential.
fn process_key_vectors() -> Vec<Vector> {
    let keys = process_keys("orders");
    let (xwing, x25519, exchange) = (
        keys.xwing.as_bytes().to_vec(),
        keys.x25519.as_bytes().to_vec(),
        keys.exchange.as_bytes().to_vec(),
    );
    let credential = |keys: &[Vec<u8>]| {
        let keys = array(&keys.iter().map(|key| bin(key)).collect::<Vec<_>>());
        credential_for(|statement| statement[KEM_KEYS] = keys)
    };
    let genuine = credential(&[xwing.clone(), x25519.clone(), exchange.clone()]);
    let mut out = vec![
        Vector::accept(
            "credential-with-process-keys",
            "credential",
            &["50", "52"],
            "keys by which answers reach one process",
            &genuine,
        ),
        Vector::accept(
            "request-with-process-keys",
            "credential-request",
            &["50"],
            "keys by which answers reach one process",
            &keyed(orders()).request_bytes(Some(&orders().nkey())),
        ),
    ];
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
    for (name, about, suite, key) in unsound_keys() {
        let mut keys = [xwing.clone(), x25519.clone(), exchange.clone()];
        keys[usize::from(suite == KemSuite::X25519)] = key;
        out.push(refuse(
            &format!("credential-process-{name}"),
            &about,
            &credential(&keys),
            "kem_key",
        ));
    }
    for (name, about, key) in UNSOUND {
        out.push(refuse(
            &format!("credential-exchange-{name}"),
            &format!("the exchange key is {about}"),
            &credential(&[xwing.clone(), x25519.clone(), key.to_vec()]),
            "kem_key",
        ));
    }
    out.push(refuse(
        "credential-process-keys-of-two",
        "no exchange key",
        &credential(&[xwing.clone(), x25519.clone()]),
        "wrong_length",
    ));
    out.push(refuse(
        "credential-exchange-of-31",
        "31 bytes are no exchange key",
        &credential(&[xwing, x25519, exchange[..31].to_vec()]),
        "wrong_length",
    ));
    out.push(refuse(
        "credential-process-keys-as-bytes",
        "process keys are an array",
        &credential_for(|statement| statement[KEM_KEYS] = bin(&[1; 32])),
        "wrong_type",
    ));
    out
}

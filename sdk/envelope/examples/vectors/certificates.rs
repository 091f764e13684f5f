//! ENV-120 to ENV-122: certificates that vouch.

use bulla_keyring::{CertifiedKey, Tag};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use super::credentials::{COUNTERSIGNATURE, EXPIRES_AT, UNSOUND_KEYS, credential_of};
use super::file::{Vector, With};
use super::people::*;
use super::pki::{self, Says, authority, leaf, uri};
use super::raw::{array, bin, elements, string, uint};
use super::requests::{countersignature, statement};

pub fn vectors() -> Vec<Vector> {
    let mut out = good();
    out.extend(shapes());
    out.extend(leaves());
    out.extend(chains());
    out.extend(vouching());
    out
}

const LEAF: &str = "orders certificate";

/// The credential of `orders`, vouched for by these certificates and this key.
fn credential_by(certificates: &[Vec<u8>], key_name: &str) -> Vec<u8> {
    let statement = array(&statement(&orders()));
    let signature = signature(&certificates[0], key_name, &statement);
    credential_of(|claims| claims[COUNTERSIGNATURE] = by(certificates, &signature))
}

fn signature(leaf: &[u8], key_name: &str, statement: &[u8]) -> Vec<u8> {
    let tag = Tag::CertificateCountersignature;
    let signature = key(key_name).sign(tag, &[&pki::hash(leaf), statement]);
    signature.as_bytes().to_vec()
}

fn by(certificates: &[Vec<u8>], signature: &[u8]) -> Vec<u8> {
    let certificates: Vec<_> = certificates.iter().map(|der| bin(der)).collect();
    array(&[array(&certificates), bin(signature)])
}

/// The policy lists an authority for the workload, and nothing else.
fn by_mesh(with: &mut With) {
    with.anchors = Some(Vec::new());
    with.authorities = Some(vec!["mesh".to_owned()]);
}

/// A leaf's credential, issued by the authority itself.
fn credential_with(says: &Says) -> Vec<u8> {
    credential_by(&[says.issued(LEAF, "mesh root")], LEAF)
}

fn good() -> Vec<Vector> {
    let accept = |name: &str, about: &str, bytes: &[u8]| {
        let rules = ["52", "120", "121", "122"];
        Vector::accept(name, "credential", &rules, about, bytes).with(by_mesh)
    };
    let plain = credential_with(&leaf());
    let until = |millis: i64| {
        let leaf = leaf().between(-DAY, millis).issued(LEAF, "mesh root");
        credential_by(&[leaf], LEAF)
    };
    vec![
        accept(
            "credential-by-certificate",
            "a certificate by an authority of the policy vouches",
            &plain,
        ),
        accept(
            "credential-by-p256-certificate",
            "the certificate's key is ECDSA P-256",
            &p256(),
        ),
        accept(
            "credential-by-certificate-through-two",
            "two more certificates between the leaf and the authority",
            &credential_by(&through_two(), LEAF),
        ),
        accept(
            "credential-by-certificate-with-more-names",
            "the leaf names hosts beside its one URI",
            &credential_with(&leaf().with(|leaf| {
                leaf.subject_alt_names
                    .insert(0, pki::dns("orders.shop.example"));
                leaf.subject_alt_names.push(pki::dns("*.shop.example"));
            })),
        ),
        accept(
            "credential-by-certificate-without-purposes",
            "a leaf that says nothing of purposes is for all",
            &credential_with(&leaf().with(|leaf| leaf.extended_key_usages.clear())),
        ),
        accept(
            "credential-ends-with-its-certificate",
            "its last millisecond is the certificate's",
            &until(HOUR),
        ),
        accept(
            "credential-asked-for-with-a-new-certificate",
            "it was asked for when the certificate began",
            &credential_with(&leaf().between(0, DAY)),
        ),
        accept(
            "credential-by-certificate-or-nkey",
            "the policy lists both, and the certificate vouches",
            &plain,
        )
        .with(|with| with.anchors = None),
        accept(
            "credential-by-nkey-or-certificate",
            "the policy lists both, and the nkey vouches",
            orders().credential().as_bytes(),
        )
        .with(|with| with.anchors = None),
        accept(
            "credential-by-certificate-of-the-second-authority",
            "of two authorities the second issued it",
            &plain,
        )
        .with(|with| with.authorities = Some(vec!["other".to_owned(), "mesh".to_owned()])),
        accept(
            "credential-by-certificate-in-rotation",
            "one authority with two certificates, of which the second issued it",
            &plain,
        )
        .with(|with| with.authorities = Some(vec!["mesh in rotation".to_owned()])),
        Vector::accept(
            "request-by-certificate",
            "credential-request",
            &["51", "120"],
            "a request that a certificate vouches for",
            &request_by(&[leaf().issued(LEAF, "mesh root")]),
        )
        .with(by_mesh),
    ]
}

fn request_by(certificates: &[Vec<u8>]) -> Vec<u8> {
    let process = orders();
    let mut parts = elements(&process.request_bytes(None));
    let statement = array(&statement(&process));
    parts[3] = by(certificates, &signature(&certificates[0], LEAF, &statement));
    array(&parts)
}

/// A leaf by `second`, by `first`, by the authority.
fn through_two() -> Vec<Vec<u8>> {
    vec![
        leaf().issued(LEAF, "second"),
        authority("second").issued("second", "first"),
        authority("first").issued("first", "mesh root"),
    ]
}

fn refuse(name: &str, about: &str, bytes: &[u8], why: &str) -> Vector {
    Vector::refuse(name, "credential", &["121"], about, bytes, why).with(by_mesh)
}

/// What is no countersignature by certificate at all.
fn shapes() -> Vec<Vector> {
    let good = leaf().issued(LEAF, "mesh root");
    let by_these = |chain: Vec<Vec<u8>>| {
        credential_of(|claims| {
            claims[COUNTERSIGNATURE] = array(&[array(&chain), bin(&[1; 64])]);
        })
    };
    let refuse = |name: &str, about: &str, chain: Vec<Vec<u8>>, why: &str| {
        let why = format!("decode/{why}");
        Vector::refuse(name, "credential", &["120"], about, &by_these(chain), &why).with(by_mesh)
    };
    vec![
        refuse(
            "credential-by-no-certificate",
            "an empty chain",
            Vec::new(),
            "wrong_length",
        ),
        refuse(
            "credential-by-five-certificates",
            "more than four certificates",
            vec![bin(&good); 5],
            "too_long",
        ),
        refuse(
            "credential-by-large-certificates",
            "a byte more than 4 KiB of certificates",
            vec![bin(&[0x30; 2048]), bin(&[0x30; 2049])],
            "too_long",
        ),
        refuse(
            "credential-by-certificate-in-text",
            "text for bytes",
            vec![string("-----BEGIN CERTIFICATE-----")],
            "wrong_type",
        ),
        Vector::refuse(
            "credential-by-certificate-of-three",
            "credential",
            &["120"],
            "a third element",
            &credential_of(|claims| {
                claims[COUNTERSIGNATURE] = array(&[array(&[bin(&good)]), bin(&[1; 64]), uint(1)]);
            }),
            "decode/wrong_length",
        )
        .with(by_mesh),
    ]
}

/// Certificates by the right authority that are not what they should be.
fn leaves() -> Vec<Vector> {
    let mut out = Vec::new();
    let plain = leaf().issued(LEAF, "mesh root");
    for (name, about, certificate) in [
        (
            "cut-short",
            "the certificate lacks a byte",
            plain[..plain.len() - 1].to_vec(),
        ),
        (
            "and-a-byte",
            "a byte after the certificate",
            [&plain[..], &[0]].concat(),
        ),
        ("of-rubbish", "no certificate", b"rubbish".to_vec()),
    ] {
        out.push(refuse(
            &format!("credential-by-certificate-{name}"),
            about,
            &credential_by(&[certificate], LEAF),
            "verify/certificate_malformed",
        ));
    }
    let named = |uris: &[&str]| {
        let names = uris.iter().map(|text| uri(text)).collect();
        leaf().with(|leaf| leaf.subject_alt_names = names)
    };
    let used = |usages: &[KeyUsagePurpose]| {
        let usages = usages.to_vec();
        leaf().with(|leaf| leaf.key_usages = usages)
    };
    let own = "spiffe://shop.example/orders";
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment};
    for (name, about, says, why) in [
        (
            "of-another-workload",
            "it names another workload",
            named(&["spiffe://shop.example/billing"]),
            "certificate_of_another",
        ),
        (
            "of-another-domain",
            "it names the same path in another trust domain",
            named(&["spiffe://evil.example/orders"]),
            "certificate_of_another",
        ),
        (
            "of-a-path-beneath",
            "it names a path beneath the workload's",
            named(&["spiffe://shop.example/orders/canary"]),
            "certificate_of_another",
        ),
        (
            "in-upper-case",
            "names are compared byte by byte",
            named(&["spiffe://shop.example/Orders"]),
            "certificate_of_another",
        ),
        (
            "of-two-uris",
            "it names the workload and another",
            named(&[own, "spiffe://shop.example/billing"]),
            "certificate_names",
        ),
        (
            "of-one-uri-twice",
            "it names the workload twice",
            named(&[own, own]),
            "certificate_names",
        ),
        (
            "of-a-host",
            "it names no URI",
            leaf().with(|leaf| leaf.subject_alt_names = vec![pki::dns("orders")]),
            "certificate_names",
        ),
        (
            "without-names",
            "it has no names",
            leaf().with(|leaf| leaf.subject_alt_names.clear()),
            "certificate_names",
        ),
        (
            "for-servers",
            "its purpose is to be a server",
            leaf().with(|leaf| {
                leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            "certificate_usage",
        ),
        (
            "for-any-purpose",
            "any purpose is not this one",
            leaf().with(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
            "certificate_usage",
        ),
        (
            "without-usage",
            "a leaf says that it may sign",
            used(&[]),
            "certificate_usage",
        ),
        (
            "that-only-encrypts",
            "its key may not sign",
            used(&[KeyEncipherment]),
            "certificate_usage",
        ),
        (
            "that-issues",
            "its key may sign certificates",
            used(&[DigitalSignature, KeyCertSign]),
            "certificate_usage",
        ),
        (
            "that-revokes",
            "its key may sign lists of revoked certificates",
            used(&[DigitalSignature, CrlSign]),
            "certificate_usage",
        ),
        (
            "of-an-authority",
            "an authority's certificate is no leaf",
            leaf().with(|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "certificate_usage",
        ),
        (
            "that-has-ended",
            "it ended a second before the credential was asked for",
            leaf().between(-DAY, -1_000),
            "certificate_not_valid",
        ),
        (
            "that-has-not-begun",
            "it begins a second after the credential was asked for",
            leaf().between(1_000, DAY),
            "certificate_not_valid",
        ),
        (
            "with-something-critical",
            "an extension that nobody may ignore and nobody knows",
            leaf().with(|leaf| leaf.custom_extensions.push(pki::unknown_critical())),
            "certificate_untrusted",
        ),
    ] {
        out.push(refuse(
            &format!("credential-by-certificate-{name}"),
            about,
            &credential_with(&says),
            &format!("verify/{why}"),
        ));
    }
    let p384 = pki::Named(
        [&[4][..], &[7; 96]].concat(),
        &rcgen::PKCS_ECDSA_P384_SHA384,
    );
    let off_curve = pki::Named(
        [&[4][..], &[7; 64]].concat(),
        &rcgen::PKCS_ECDSA_P256_SHA256,
    );
    let small_order = pki::Named(UNSOUND_KEYS[1].2.to_vec(), &rcgen::PKCS_ED25519);
    for (name, about, named) in [
        ("p384", "another curve than P-256", p384),
        ("off-curve", "no point of the curve", off_curve),
        ("small-order", "an Ed25519 key of small order", small_order),
    ] {
        out.push(refuse(
            &format!("credential-by-certificate-with-key-{name}"),
            about,
            &credential_by(&[leaf().issued_to(&named, "mesh root")], LEAF),
            "verify/certificate_key",
        ));
    }
    out
}

/// Sound leaves that lead nowhere.
fn chains() -> Vec<Vector> {
    let plain = || leaf().issued(LEAF, "mesh root");
    let through_two = through_two();
    let [last, second, first] = &through_two[..] else {
        panic!("three certificates")
    };
    let below = |says: Says| {
        vec![
            leaf().issued(LEAF, "first"),
            says.issued("first", "mesh root"),
        ]
    };
    let impostor = leaf()
        .params
        .signed_by(&pki::pair(LEAF), &pki::impostor("mesh root", "other root"));
    let narrow =
        authority("first").with(|ca| ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let mut out = Vec::new();
    for (name, about, chain, why) in [
        (
            "by-another-authority",
            "issued by an authority that the policy does not list for the workload",
            vec![leaf().issued(LEAF, "other root")],
            "certificate_untrusted",
        ),
        (
            "by-an-authority-of-that-name",
            "issued under the authority's name, by another key",
            vec![impostor.unwrap().der().to_vec()],
            "certificate_untrusted",
        ),
        (
            "by-itself",
            "it is its own issuer",
            vec![
                leaf()
                    .params
                    .self_signed(&pki::pair(LEAF))
                    .unwrap()
                    .der()
                    .to_vec(),
            ],
            "certificate_untrusted",
        ),
        (
            "without-the-one-between",
            "a certificate between it and the authority is missing",
            vec![last.clone(), first.clone()],
            "certificate_untrusted",
        ),
        (
            "in-another-order",
            "each is issued by the next: these are in another order",
            vec![last.clone(), first.clone(), second.clone()],
            "certificate_untrusted",
        ),
        (
            "with-one-more",
            "a certificate that leads nowhere",
            vec![plain(), authority("first").issued("first", "mesh root")],
            "certificate_untrusted",
        ),
        (
            "with-the-authority",
            "the authority itself is the policy's to name",
            vec![plain(), pki::root("mesh root").der().to_vec()],
            "certificate_untrusted",
        ),
        (
            "by-a-leaf",
            "another workload's leaf issued it",
            below(leaf().with(|leaf| {
                leaf.distinguished_name = authority("first").params.distinguished_name;
                leaf.subject_alt_names = vec![uri("spiffe://shop.example/billing")];
            })),
            "certificate_usage",
        ),
        (
            "by-one-that-may-not-issue",
            "the key between may not sign certificates",
            below(authority("first").with(|ca| ca.key_usages = vec![KeyUsagePurpose::CrlSign])),
            "certificate_usage",
        ),
        (
            "by-one-for-servers",
            "the one between is for servers alone",
            below(authority("first").with(|ca| {
                ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            })),
            "certificate_usage",
        ),
        (
            "by-one-that-has-ended",
            "the one between ended before the credential was asked for",
            below(authority("first").between(-DAY, -1_000)),
            "certificate_not_valid",
        ),
        (
            "below-one-too-many",
            "the first may not have another authority below it",
            vec![
                last.clone(),
                second.clone(),
                narrow.issued("first", "mesh root"),
            ],
            "certificate_untrusted",
        ),
        (
            "by-one-with-constrained-uris",
            "constraints of URIs are not evaluated, and refuse",
            below(authority("first").with(|ca| {
                ca.custom_extensions.push(pki::only_uris_of("shop.example"));
            })),
            "certificate_untrusted",
        ),
    ] {
        out.push(refuse(
            &format!("credential-by-certificate-{name}"),
            about,
            &credential_by(&chain, LEAF),
            &format!("verify/{why}"),
        ));
    }
    out.push(
        refuse(
            "credential-by-certificate-of-a-former-authority",
            "the policy names another authority by now",
            &credential_by(&[plain()], LEAF),
            "verify/certificate_untrusted",
        )
        .with(|with| with.authorities = Some(vec!["other".to_owned()])),
    );
    out.push(refuse(
        "credential-outlives-its-certificate",
        "it ends a millisecond after the certificate",
        &{
            let leaf = leaf().between(-DAY, HOUR).issued(LEAF, "mesh root");
            let statement = array(&statement(&orders()));
            let signature = signature(&leaf, LEAF, &statement);
            credential_of(|claims| {
                claims[COUNTERSIGNATURE] = by(&[leaf], &signature);
                claims[EXPIRES_AT] = uint(at(HOUR + 1).as_millis());
            })
        },
        "verify/outlives_certificate",
    ));
    out.push(refuse(
        "credential-outlives-one-between",
        "it ends after the certificate that issued the leaf",
        &credential_by(&below(authority("first").between(-DAY, HOUR - 1_000)), LEAF),
        "verify/outlives_certificate",
    ));
    out
}

/// Sound certificates that vouch for something else, or where they may not.
fn vouching() -> Vec<Vector> {
    let leaf_of = |key: &str| leaf().issued(key, "mesh root");
    let plain = leaf_of(LEAF);
    let statement_bytes = array(&statement(&orders()));
    let signed_by = |signature: Vec<u8>| {
        credential_of(|claims| {
            claims[COUNTERSIGNATURE] = by(std::slice::from_ref(&plain), &signature);
        })
    };
    let tagged = |tag: Tag, parts: &[&[u8]]| key(LEAF).sign(tag, parts).as_bytes().to_vec();
    let hash = pki::hash(&plain);
    let tag = Tag::CertificateCountersignature;
    let renewed = leaf().between(-DAY, 2 * DAY).issued(LEAF, "mesh root");
    let mut out = Vec::new();
    for (name, rule, about, bytes) in [
        (
            "signed-by-another-key",
            "122",
            "signed by another key than the certificate's",
            signed_by(signature(&plain, "stranger", &statement_bytes)),
        ),
        (
            "signed-for-another-statement",
            "122",
            "the signature is over another statement",
            signed_by(signature(&plain, LEAF, b"another statement")),
        ),
        (
            "signed-for-another-certificate",
            "122",
            "the signature is for another certificate of the same key",
            signed_by(signature(&renewed, LEAF, &statement_bytes)),
        ),
        (
            "signed-without-the-certificate",
            "122",
            "the signature does not bind the certificate",
            signed_by(tagged(tag, &[&statement_bytes])),
        ),
        (
            "signed-as-an-nkey",
            "60",
            "the key's signature under the tag of nkeys",
            signed_by(tagged(Tag::Countersignature, &[&hash, &statement_bytes])),
        ),
    ] {
        out.push(
            Vector::refuse(
                &format!("credential-by-certificate-{name}"),
                "credential",
                &[rule],
                about,
                &bytes,
                "verify/bad_countersignature",
            )
            .with(by_mesh),
        );
    }
    let anchored = |name: &str, about: &str, bytes: &[u8], why: &str| {
        Vector::refuse(name, "credential", &["52", "122"], about, bytes, why)
    };
    out.push(anchored(
        "credential-by-certificate-where-none-vouches",
        "the policy lists no authority for the workload",
        &credential_by(std::slice::from_ref(&plain), LEAF),
        "verify/no_authority",
    ));
    out.push(
        anchored(
            "credential-by-nkey-where-certificates-vouch",
            "the policy lets only certificates vouch",
            orders().credential().as_bytes(),
            "verify/foreign_nkey",
        )
        .with(by_mesh),
    );
    out.push(
        anchored(
            "credential-by-nobody-where-certificates-vouch",
            "the policy demands a certificate",
            &credential_of(|claims| claims[COUNTERSIGNATURE] = vec![0xc0]),
            "verify/countersignature_missing",
        )
        .with(by_mesh),
    );
    out.push(
        Vector::refuse(
            "request-by-certificate-of-another-authority",
            "credential-request",
            &["51", "121"],
            "a broker issues nothing for it",
            &request_by(&[leaf().issued(LEAF, "other root")]),
            "verify/certificate_untrusted",
        )
        .with(by_mesh),
    );
    out.push(
        Vector::refuse(
            "request-without-certificate",
            "credential-request",
            &["51", "122"],
            "the nkey vouches where only certificates do",
            &orders().request_bytes(Some(&orders().nkey())),
            "verify/foreign_nkey",
        )
        .with(by_mesh),
    );
    let by_nkey_too = countersignature(Some(&orders().nkey()), &statement_bytes);
    assert_ne!(by_nkey_too, by(&[plain], &[1; 64]));
    out
}

/// ECDSA takes a fresh number for each signature, so this one was made once.
/// Where it no longer fits, because the statement of `orders` is another one,
/// the error says what to put here.
fn p256() -> Vec<u8> {
    let key_pem = P256_KEY;
    let pair = rcgen::KeyPair::from_pem(key_pem).unwrap();
    let leaf = leaf().issued_to(&pair, "mesh root");
    let statement = array(&statement(&orders()));
    let signature = super::file::unhex(P256_SIGNATURE);
    let credential = credential_of(|claims| {
        claims[COUNTERSIGNATURE] = by(std::slice::from_ref(&leaf), &signature);
    });
    let verifies = super::judge::countersigned(&credential, &pki::root("mesh root").pem());
    if !verifies {
        let pem = pem_of(&leaf);
        let key = CertifiedKey::from_pem(pem.as_bytes(), key_pem.as_bytes()).unwrap();
        let tag = Tag::CertificateCountersignature;
        let fresh = key.sign(tag, &[&statement]).unwrap();
        panic!(
            "P256_SIGNATURE must be \"{}\"",
            super::file::hex(fresh.as_bytes())
        );
    }
    credential
}

fn pem_of(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

const P256_KEY: &str = "\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgnPrYM5wIL16TdIlA\n\
FG3sGVKFT2ACipHBFJNTQmxJ+8ChRANCAAS5LFufMosvOBAGky9ecql963MFZesF\n\
gb0949MI+jbMSrZmCzyrfXxDYBn3wiUWrL+1QCBwPRPAlkQQMSfs65q2\n\
-----END PRIVATE KEY-----";

const P256_SIGNATURE: &str = "121acbf430375cfa4f373c8d53d4e86a4a7c1dca61023b5dfee54f123cd93bddd1306e029fdf54563c714e822ad9cff4ff35f3e869b2fa91f1fc20c041891219";

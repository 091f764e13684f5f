//! ENV-20 to ENV-23: proofs that prove nothing.

use bulla_keyring::{Tag, sha256};
use curve25519_dalek::Scalar;
use sha2::{Digest, Sha512};

use super::encoding::changed_after_signing;
use super::file::Vector;
use super::good::{batch, event_with_token, plain_event, seal_frame};
use super::people::*;
use super::raw::{Raw, bin, node, sign_root, uint};

fn decode(name: &str, rules: &[&str], about: &str, bytes: &[u8], why: &str) -> Vector {
    Vector::refuse(
        name,
        "envelope",
        rules,
        about,
        bytes,
        &format!("decode/{why}"),
    )
}

fn refuse(name: &str, rules: &[&str], about: &str, bytes: &[u8], why: &str) -> Vector {
    Vector::refuse(
        name,
        "envelope",
        rules,
        about,
        bytes,
        &format!("verify/{why}"),
    )
}

fn bad_signature(name: &str, rule: &str, about: &str, bytes: &[u8]) -> Vector {
    refuse(name, &[rule], about, bytes, "bad_signature")
}

pub fn vectors() -> Vec<Vector> {
    let mut out = Vec::new();
    out.extend(places());
    out.extend(trees());
    out.extend(signatures());
    out.extend(strictness());
    out.extend(contents());
    out
}

fn member(count: usize, place: usize) -> Raw {
    Raw::of(&batch(count)[place].bytes)
}

fn places() -> Vec<Vector> {
    let mut out = Vec::new();
    for (name, index, count) in [
        ("index-1-of-1", 1, 1),
        ("index-5-of-5", 5, 5),
        ("index-0-of-0", 0, 0),
        ("index-0-of-1025", 0, 1025),
        ("index-of-64-bits", 1 << 40, 1 << 41),
    ] {
        let mut raw = member(5, 1);
        (raw.index, raw.count) = (uint(index), uint(count));
        out.push(decode(
            name,
            &["4", "21"],
            "no place in a batch",
            &raw.bytes(),
            "batch_place",
        ));
    }
    for len in [0, 1, 24, 48, 71, 73, 96] {
        let mut raw = member(5, 1);
        raw.path.resize(len, 0);
        out.push(decode(
            &format!("path-of-{len}-bytes-for-72"),
            &["22"],
            "index and count need a path of three nodes",
            &raw.bytes(),
            "path_length",
        ));
    }
    let mut raw = member(5, 4);
    raw.path.extend_from_slice(&[0; 48]);
    out.push(decode(
        "path-of-three-for-the-last-of-five",
        &["22"],
        "the last of five has one neighbour",
        &raw.bytes(),
        "path_length",
    ));
    let mut raw = plain_event();
    raw.path = vec![0; 24];
    out.push(decode(
        "path-for-a-batch-of-one",
        &["22"],
        "a batch of one has no path",
        &raw.bytes(),
        "path_length",
    ));
    for len in [0, 63, 65] {
        let mut raw = plain_event();
        raw.signature.resize(len, 0);
        out.push(decode(
            &format!("signature-of-{len}-bytes"),
            &["21"],
            "a signature has 64 bytes",
            &raw.bytes(),
            "wrong_length",
        ));
    }
    for (name, head, tail) in [
        ("proof-of-three", 0x93, &[][..]),
        ("proof-of-five", 0x95, &[0xc0]),
    ] {
        let raw = plain_event();
        let elements = [
            &raw.index[..],
            &raw.count,
            &bin(&raw.path),
            &bin(&raw.signature),
        ];
        let elements = elements[..if head == 0x93 { 3 } else { 4 }].concat();
        out.push(decode(
            name,
            &["21"],
            "a proof has four elements",
            &changed_after_signing(|raw| raw.proof = Some([&[head][..], &elements, tail].concat())),
            "wrong_length",
        ));
    }
    out
}

fn trees() -> Vec<Vector> {
    let mut out = Vec::new();
    let mut raw = member(8, 3);
    raw.index = uint(2);
    out.push(bad_signature(
        "another-index",
        "22",
        "place 3 says it is place 2",
        &raw.bytes(),
    ));
    let mut raw = member(8, 7);
    raw.count = uint(7);
    raw.index = uint(5);
    out.push(bad_signature(
        "another-count",
        "23",
        "the signature binds the count",
        &raw.bytes(),
    ));
    for node in 0..3 {
        let mut raw = member(8, 3);
        raw.path[24 * node + 23] ^= 1;
        out.push(bad_signature(
            &format!("path-node-{node}"),
            "22",
            "one bit of the path",
            &raw.bytes(),
        ));
    }
    let mut raw = member(8, 3);
    raw.path.rotate_left(24);
    out.push(bad_signature(
        "path-out-of-order",
        "22",
        "the path's nodes in another order",
        &raw.bytes(),
    ));

    // An inner node in place of a leaf: place 0 of 2 above the leaves 0 and 1.
    let leaves: Vec<Vec<u8>> = (0..4).map(|n| member(4, n).leaf()[..24].to_vec()).collect();
    let mut raw = member(4, 0);
    (raw.index, raw.count) = (uint(0), uint(2));
    raw.path = node(&leaves[2], &leaves[3]);
    out.push(bad_signature(
        "path-from-an-inner-node",
        "22",
        "the shorter path of an inner node, with a leaf",
        &raw.bytes(),
    ));
    let mut header = vec![0x01];
    header.extend_from_slice(&leaves[0]);
    header.extend_from_slice(&leaves[1]);
    out.push(decode(
        "inner-node-as-header",
        &["20", "22"],
        "49 bytes of an inner node's input are no header",
        &changed_after_signing(|raw| raw.header = Some(header)),
        "wrong_type",
    ));

    // Trees that are not RFC 9162's.
    let three: Vec<Vec<u8>> = (0..3).map(|n| member(3, n).leaf()[..24].to_vec()).collect();
    let doubled = node(&node(&three[0], &three[1]), &node(&three[2], &three[2]));
    let mut raw = member(3, 2);
    raw.signature = sign_root(&orders(), 3, &doubled);
    out.push(bad_signature(
        "last-leaf-doubled",
        "22",
        "a last node without a neighbour is not joined with itself",
        &raw.bytes(),
    ));
    let mut raw = plain_event();
    raw.signature = sign_root(&orders(), 1, &node(&raw.leaf()[..24], &raw.leaf()[..24]));
    out.push(bad_signature(
        "batch-of-one-hashed-again",
        "23",
        "the root of one leaf is that leaf",
        &raw.bytes(),
    ));
    let mut raw = plain_event();
    raw.signature = sign_root(&orders(), 1, &raw.leaf());
    out.push(bad_signature(
        "root-of-32-bytes",
        "22",
        "nodes have 24 bytes",
        &raw.bytes(),
    ));
    out
}

fn signatures() -> Vec<Vector> {
    let mut out = Vec::new();
    let sign = |tag: Tag, parts: &[&[u8]]| orders().message_key().sign(tag, parts);
    let credential = orders().credential();
    let genuine = plain_event();
    let root = genuine.leaf()[..24].to_vec();
    let with = |signature: &[u8]| {
        let mut raw = genuine.clone();
        raw.signature = signature.to_vec();
        raw.bytes()
    };
    for (at, name) in [(0, "first"), (31, "32nd"), (32, "33rd"), (63, "last")] {
        let mut signature = genuine.signature.clone();
        signature[at] ^= 1;
        out.push(bad_signature(
            &format!("signature-{name}-byte"),
            "23",
            "one bit of the signature",
            &with(&signature),
        ));
    }
    out.push(bad_signature(
        "signature-zero",
        "23",
        "a signature of zeroes",
        &with(&[0; 64]),
    ));
    let count = 1u32.to_be_bytes();
    for tag in Tag::ALL.into_iter().filter(|tag| *tag != Tag::Batch) {
        let name =
            String::from_utf8_lossy(&tag.as_bytes()[10..tag.as_bytes().len() - 1]).into_owned();
        out.push(bad_signature(
            &format!("signed-as-{name}"),
            "60",
            "the right key over the right bytes, under another tag",
            &with(sign(tag, &[credential.hash(), &count, &root]).as_bytes()),
        ));
    }
    for (name, about, signature) in [
        (
            "signed-without-credential",
            "the signature binds the credential",
            sign(Tag::Batch, &[&count, &root]),
        ),
        (
            "signed-for-another-credential",
            "the signature binds the whole hash of the credential",
            sign(Tag::Batch, &[billing().credential().hash(), &count, &root]),
        ),
        (
            "signed-for-the-key-id",
            "the key id is not enough",
            sign(Tag::Batch, &[&credential.hash()[..16], &count, &root]),
        ),
        (
            "signed-for-a-short-count",
            "the count has four bytes",
            sign(Tag::Batch, &[credential.hash(), &[0, 1], &root]),
        ),
        (
            "signed-the-leaf-without-length",
            "the leaf covers the header's length",
            {
                let leaf = sha256(&[&[0, 1], &genuine.header_bytes(), &sha256(&[&genuine.body])]);
                sign(Tag::Batch, &[credential.hash(), &count, &leaf[..24]])
            },
        ),
        (
            "signed-the-leaf-over-the-body",
            "the leaf covers the body by its hash",
            {
                let header = genuine.header_bytes();
                let len = (header.len() as u32).to_be_bytes();
                let leaf = sha256(&[&[0, 1], &len, &header, &genuine.body]);
                sign(Tag::Batch, &[credential.hash(), &count, &leaf[..24]])
            },
        ),
        (
            "signed-by-another-workload",
            "another workload's message key",
            billing()
                .message_key()
                .sign(Tag::Batch, &[credential.hash(), &count, &root]),
        ),
        (
            "signed-by-the-nkey",
            "the workload's nkey is not its message key",
            orders()
                .nkey()
                .sign(Tag::Batch, &[credential.hash(), &count, &root]),
        ),
    ] {
        out.push(bad_signature(
            name,
            "23",
            about,
            &with(signature.as_bytes()),
        ));
    }
    let (one, two) = (batch(2), batch(3));
    let mut raw = Raw::of(&one[0].bytes);
    raw.signature = Raw::of(&two[0].bytes).signature;
    out.push(bad_signature(
        "signature-of-another-batch",
        "23",
        "a genuine signature of the same key over another root",
        &raw.bytes(),
    ));
    let billed = Raw::of(
        &billing()
            .sealer()
            .seal(&event(&subject(SUBJECT), b"body"), id("event"))
            .unwrap()
            .bytes,
    );
    out.push(refuse(
        "another-workloads-envelope",
        &["30"],
        "it names another credential than the receiver found",
        &billed.bytes(),
        "wrong_credential",
    ));
    let mut raw = billed;
    raw.set(2, bin(credential.id().as_bytes()));
    out.push(bad_signature(
        "another-workloads-envelope-renamed",
        "23",
        "the key id of another workload's credential in a genuine envelope",
        &raw.bytes(),
    ));
    out
}

/// The order of Ed25519's group, little endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Signatures that a lax verifier accepts.
fn strictness() -> Vec<Vector> {
    let mut out = Vec::new();
    let genuine = plain_event();
    let with = |signature: &[u8]| {
        let mut raw = genuine.clone();
        raw.signature = signature.to_vec();
        raw.bytes()
    };
    // S + L verifies where S does, if S is not compared with L.
    let mut malleable = genuine.signature.clone();
    let mut carry = 0;
    for (byte, order) in malleable[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    out.push(bad_signature(
        "signature-plus-order",
        "23",
        "S + L instead of S: not canonical, the same signature again",
        &with(&malleable),
    ));
    // With a neutral R, S = k·a satisfies the equation.
    let identity = {
        let mut point = [0; 32];
        point[0] = 1;
        point
    };
    // y = p + 1 is y = 1 again.
    let identity_again = {
        let mut point = [0xff; 32];
        point[0] = 0xee;
        point[31] = 0x7f;
        point
    };
    for (name, about, r) in [
        (
            "signature-of-small-order",
            "R is a point of small order",
            identity,
        ),
        (
            "signature-of-small-order-not-canonical",
            "R is a point of small order in a second encoding",
            identity_again,
        ),
    ] {
        out.push(bad_signature(
            name,
            "23",
            about,
            &with(&neutral(&genuine, &r)),
        ));
    }
    out
}

/// R and S = H(R ‖ A ‖ message) · a.
fn neutral(raw: &Raw, r: &[u8; 32]) -> Vec<u8> {
    let process = orders();
    let hash = Sha512::digest(seed("orders message key"));
    let mut secret: [u8; 32] = hash[..32].try_into().unwrap();
    secret[0] &= 248;
    secret[31] &= 63;
    secret[31] |= 64;
    let challenge = Sha512::new()
        .chain_update(r)
        .chain_update(process.message_key().verifying_key().as_bytes())
        .chain_update(Tag::Batch.as_bytes())
        .chain_update(process.credential().hash())
        .chain_update(1u32.to_be_bytes())
        .chain_update(&raw.leaf()[..24])
        .finalize();
    let challenge = Scalar::from_bytes_mod_order_wide(&challenge.into());
    let s = challenge * Scalar::from_bytes_mod_order(secret);
    [&r[..], s.as_bytes()].concat()
}

/// Genuine signatures over something else than what is there.
fn contents() -> Vec<Vector> {
    let mut out = Vec::new();
    let mut raw = plain_event();
    raw.body = b"bodY".to_vec();
    out.push(bad_signature(
        "another-body",
        "20",
        "one letter of the body",
        &raw.bytes(),
    ));
    for (name, key, value) in [
        ("another-sequence", 4, uint(1)),
        ("another-id", 5, bin(&filler::<16>("another id"))),
        ("another-expiry", 8, uint(at(LIFE + 1).as_millis())),
        ("another-kind", 1, uint(1)),
    ] {
        let mut raw = plain_event();
        if name == "another-kind" {
            raw.set(9, super::raw::string(INBOX));
        }
        raw.set(key, value);
        out.push(bad_signature(
            name,
            "20",
            "a field changed after signing",
            &raw.bytes(),
        ));
    }
    let mut raw = Raw::of(&seal_frame(&event(&subject(SUBJECT), b""), 3).bytes);
    let mut ids = raw.value(5)[2..].to_vec();
    ids.rotate_left(16);
    raw.set(5, bin(&ids));
    out.push(bad_signature(
        "frame-ids-rotated",
        "20",
        "the messages of a frame under each other's ids",
        &raw.bytes(),
    ));
    let mut raw = event_with_token();
    raw.token = bin(b"header.claims.signaturE");
    out.push(refuse(
        "another-token",
        &["15", "20"],
        "another user's token: the header has the hash of the right one",
        &raw.bytes(),
        "token_mismatch",
    ));
    let mut raw = event_with_token();
    let hash = sha256(&[&bin(b"header.claims.signature")]);
    raw.set(11, bin(&hash));
    out.push(refuse(
        "hash-of-the-encoded-token",
        &["10"],
        "the hash is over the token, not over its encoding",
        &raw.signed(&orders()).bytes(),
        "token_mismatch",
    ));
    out
}

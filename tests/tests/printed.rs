//! What is printed of what nats-server hands out holds no body, header, claim or token; and
//! no type that holds such a thing is printed by no test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "../../sdk/keyring/tests/redaction/spellings.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the tests of other crates take it"
)]
mod spellings;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_identity::SubjectPattern;
use bulla_sdk::OpenMessage;
use bulla_tests::Bus;
use tokio::time::timeout;

use spellings::assert_unprinted;

const PAYLOAD: &str = "quagmire-at-dawn";
const HEADER: &str = "zephyr-in-a-header";
const SECRETS: [&[u8]; 2] = [PAYLOAD.as_bytes(), HEADER.as_bytes()];

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.front]
attest = [{ nkey = "@front@" }]
[workload.back]
attest = [{ nkey = "@back@" }]

[bucket.carts]
[stream.ORDERS]
subjects = ["orders.>"]
[subject."orders.>"]
replay = "stream"
max_age = "1h"
[subject."news.>"]
protect = "open"

[[allow]]
id = "front-sends"
who = ["front"]
may = ["publish"]
on = ["news.>"]
[[allow]]
id = "front-appends"
who = ["front"]
may = ["append"]
on = ["orders.{id}"]
[[allow]]
id = "front-keeps"
who = ["front"]
may = ["read", "write"]
on = ["carts.>"]
[[allow]]
id = "back-hears"
who = ["back"]
may = ["subscribe"]
on = ["news.>"]
[[allow]]
id = "back-consumes"
who = ["back"]
may = ["consume"]
on = ["ORDERS.back"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_nats_server_hands_out_is_not_printed() {
    let bus = Bus::start(POLICY).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);

    let mut events = back.subscribe_open("news.>").await.unwrap();
    let raw = bus.raw_client("front").await;
    raw.publish("news.plain", PAYLOAD.into()).await.unwrap();
    let message = front.message("news.sealed").header("colour", HEADER);
    message.json(PAYLOAD).publish().await.unwrap();
    for _ in 0..2 {
        let event = timeout(Duration::from_secs(5), events.next()).await;
        let event = event.unwrap().unwrap();
        assert_unprinted("OpenMessage", &event, &SECRETS);
        match &event {
            OpenMessage::Plain(plain) => assert_unprinted("PlainMessage", plain, &SECRETS),
            OpenMessage::Sealed(sealed) => assert_unprinted("Message", sealed, &SECRETS),
        }
    }
    assert_eq!(back.stats().plain(), 1);

    let carts = front.bucket("carts").unwrap();
    let write = carts.write("eu.17").json(PAYLOAD);
    assert_unprinted("Bucket", &carts, &SECRETS);
    write.put().await.unwrap();
    let entry = carts.get("eu.17").await.unwrap().unwrap();
    assert_eq!(entry.decode::<String>().unwrap(), PAYLOAD);
    assert_unprinted("Entry", &entry, &SECRETS);
    assert_unprinted("Message", entry.message(), &SECRETS);
    let wrong = entry.decode::<u32>().unwrap_err();
    assert_unprinted("PayloadError", &wrong, &SECRETS);

    let order = front.message("orders.1").header("colour", HEADER);
    let appended = order.json(PAYLOAD).append().await.unwrap();
    assert_unprinted("Appended", &appended, &SECRETS);
    let reader = back.read_stream("ORDERS", "back").await.unwrap();
    let everything = SubjectPattern::parse(">").unwrap();
    let stored = reader.after(&everything, 0).await.unwrap().unwrap();
    assert_unprinted("Stored", &stored, &SECRETS);
    let mut consumer = back.consume("ORDERS", "back").await.unwrap();
    let delivery = timeout(Duration::from_secs(5), consumer.next()).await;
    let delivery = delivery.unwrap().unwrap();
    assert_unprinted("Delivery", &delivery, &SECRETS);
    assert_unprinted("Consumer", &consumer, &SECRETS);
    let (message, receipt) = delivery.into_parts();
    assert_eq!(message.decode::<String>().unwrap(), PAYLOAD);
    assert_unprinted("Receipt", &receipt, &SECRETS);
}

/// What a field has that must not be printed.
const SECRET: &[&str] = &[
    "Zeroizing<",
    "SecretString",
    "SigningKey",
    "NkeySeed",
    "CurveSeed",
    "AuthoritySeed",
    "DataKey,",
    "DataKey>",
    "KemSecret",
    "ExchangeSecret",
    "StaticSecret",
    "SealingKey",
    "OpeningKey",
    "CertifiedKey",
    "MintedToken",
    "hmac::Key",
    "password: ",
    "token: String",
    "token: Option<String>",
    "body: Bytes",
    "body: &'a [u8]",
    "payload: Bytes",
    "payload: T",
    "envelope: Vec<u8>",
    "message: Message<",
    "message: Option<Message<",
    "Sealed(Message)",
    "Plain(PlainMessage)",
];

/// Types that hold nothing of the sort, although a field looks so, by file and name.
const HARMLESS: &[(&str, &str)] = &[
    // Of the control stream: signed and public.
    ("broker/src/control/stream.rs", "Record"),
    // A token of a pattern.
    ("sdk/identity/src/pattern.rs", "PatternError"),
    // Of what is wrong, not of what it is wrong with.
    ("sdk/keyring/src/certified_key.rs", "CertifiedKeyError"),
    ("sdk/src/certificate.rs", "CertificateFileError"),
];

/// Types that print their parts, each of which a test prints.
const OF_PARTS: &[(&str, &str)] = &[
    ("broker/src/trust_dir/signer.rs", "Held"),
    ("sdk/src/vault.rs", "KeyInUse"),
    ("sdk/testing/src/minter.rs", "Minter"),
];

/// Every type that can be printed and has a field of a secret's type is printed by a test
/// that looks for the secret.
#[test]
fn every_type_with_a_secret_is_printed_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for part in ["sdk", "broker", "gateway", "tests"] {
        collect(&root.join(part), &mut files);
    }
    let texts: Vec<(String, String)> = files
        .iter()
        .map(|file| {
            let name = file.strip_prefix(&root).unwrap().display().to_string();
            (name, std::fs::read_to_string(file).unwrap())
        })
        .collect();
    let printed: BTreeSet<&str> = texts.iter().flat_map(|(_, text)| names_in(text)).collect();
    assert!(printed.contains("Entry") && printed.contains("SigningKey"));
    let mut found = BTreeSet::new();
    for (file, text) in &texts {
        if !file.contains("/src/") || file.starts_with("tests/") {
            continue;
        }
        found.extend(secretive(text).map(|name| (file.as_str(), name)));
    }
    assert!(found.contains(&("sdk/src/open.rs", "PlainMessage")));
    assert!(found.contains(&("sdk/envelope/src/opened.rs", "Message")));
    let unprinted: Vec<_> = found
        .iter()
        .filter(|(_, name)| !printed.contains(name))
        .filter(|of| !HARMLESS.contains(of) && !OF_PARTS.contains(of))
        .collect();
    assert!(unprinted.is_empty(), "no test prints {unprinted:?}");
    for known in HARMLESS.iter().chain(OF_PARTS) {
        assert!(found.contains(known), "{known:?} is gone");
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What a test prints: the first argument of what looks for secrets.
fn names_in(text: &str) -> impl Iterator<Item = &str> {
    ["assert_unprinted(", "assert_redacted(", "unprinted("]
        .into_iter()
        .flat_map(|call| text.split(call).skip(1))
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
}

/// The types of a file that implement `Debug` and have a field of a secret's type.
fn secretive(text: &str) -> impl Iterator<Item = &str> {
    let before_tests = text.split("\nmod tests {").next().unwrap_or_default();
    let starts = before_tests.match_indices("\n").filter_map(|(at, _)| {
        let line = before_tests[at + 1..].lines().next()?;
        let visibility = ["pub(crate) ", "pub(super) ", "pub "];
        let bare = visibility.iter().find_map(|v| line.strip_prefix(v));
        let bare = bare.unwrap_or(line);
        let bare = bare
            .strip_prefix("struct ")
            .or(bare.strip_prefix("enum "))?;
        let name = bare.split(|c: char| !c.is_alphanumeric()).next()?;
        Some((at + 1, name))
    });
    starts.filter_map(move |(at, name)| {
        let rest = &before_tests[at..];
        let first = rest.lines().next()?;
        let body = match first.ends_with('{') || first.ends_with('(') {
            true => rest.split("\n}").next()?.split("\n);").next()?,
            false => first,
        };
        let code = body
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let mut lines = code;
        let is_secret = lines.any(|line| SECRET.iter().any(|secret| line.contains(secret)));
        // The attributes and comments right above.
        let above = before_tests[..at].rsplit("\n\n").next()?;
        let derived = above
            .lines()
            .any(|line| line.contains("derive(") && line.contains("Debug"));
        let by_hand = [format!("Debug for {name} "), format!("Debug for {name}<")];
        let is_shown = derived || by_hand.iter().any(|by| text.contains(by.as_str()));
        (is_secret && is_shown).then_some(name)
    })
}

//! 18: messages that claim to be much larger than they are, or that are as large
//! as they may be and more, from a workload that may send here. What they cost is
//! looked at from outside, so this program does nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeMap;
use std::time::Duration;

use bulla_envelope::{DataKeyDraft, Draft, Encryption, MessageId, Recipient, SealingKey};
use bulla_identity::{Subject, reserved};
use bulla_keyring::{Cipher, CipherSuite, KemSuite};
use bulla_sdk::{Client, Message, ServiceError};
use bulla_tests::{Bus, Dissected, Forger, bin, now};
use bytes::Bytes;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"
[workload.pay]
attest = [{ nkey = "@pay@" }]
[workload.mallory]
attest = [{ nkey = "@mallory@" }]
[subject."pay.secret"]
protect = "encrypted"
suite = "x25519"
[[allow]]
id = "mallory-speaks"
who = ["mallory"]
may = ["request", "publish"]
on = ["pay.plain", "pay.secret"]
[[allow]]
id = "pay-answers"
who = ["pay"]
may = ["serve"]
on = ["pay.plain"]
[[allow]]
id = "pay-listens"
who = ["pay"]
may = ["subscribe"]
on = ["pay.secret"]
"#;

/// What the program costs is what one test costs.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Each bomb so many times.
const ROUNDS: u64 = 50;

/// Whether `pay` comes to have refused exactly this.
async fn refused(pay: &Client, wanted: &BTreeMap<&'static str, u64>) -> bool {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while pay.stats().refused() != *wanted {
        if tokio::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    true
}

/// A figure of this process in bytes: `VmPeak`, what it ever reserved; `VmHWM`,
/// what of it ever was in memory.
fn memory(figure: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(figure));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

const HUGE: [u8; 4] = [0xff; 4];

/// A MessagePack string.
fn text(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap().to_be_bytes();
    match text.len() {
        0..=31 => [&[0xa0 | len[1]], text.as_bytes()].concat(),
        32..=255 => [&[0xd9, len[1]], text.as_bytes()].concat(),
        _ => [&[0xda], &len[..], text.as_bytes()].concat(),
    }
}

/// Each with the reason for which it must be refused.
fn bombs(genuine: &Dissected) -> Vec<(&'static str, Bytes, &'static str)> {
    let raw = |start: &[u8]| Bytes::from([start, &HUGE, &[0; 64]].concat());
    let field = |key: u8, value: Vec<u8>| {
        let mut bomb = genuine.clone();
        bomb.set(key, value);
        bomb.assemble()
    };
    let header = |header: &[u8]| {
        let mut bomb = vec![0x95, 1];
        bomb.extend(bin(header));
        bomb.extend([0xc0, 0xc4, 0]);
        bomb.extend(&genuine.proof);
        Bytes::from(bomb)
    };
    let headers = |count: u8, name: usize, value: usize| {
        let mut map = match count {
            0..=15 => vec![0x80 | count],
            _ => vec![0xde, 0, count],
        };
        for number in 0..count {
            map.extend(text(&format!("{number:0>name$}")));
            map.extend(text(&"x".repeat(value)));
        }
        map
    };
    let mut token = genuine.clone();
    token.token = Some(vec![b'x'; 900_000]);
    let mut path = genuine.clone();
    path.set_batch_proof(0, 1 << 40, &vec![0; 900_000], &[0; 64]);
    let mut twice = genuine.clone();
    twice.fields.push(twice.fields.last().unwrap().clone());
    let shown = |element: Vec<u8>| {
        let mut bomb = genuine.assemble().to_vec();
        bomb[0] = 0x96;
        bomb.truncate(bomb.len() - genuine.proof.len());
        Bytes::from([&bomb[..], &element, &genuine.proof].concat())
    };
    let mut deep = vec![0x81, 19];
    deep.extend([0x81; 10_000]);
    vec![
        ("an array of four billion", raw(&[0xdd]), "truncated"),
        ("a map of four billion", raw(&[0xdf]), "wrong_type"),
        ("a header of 4 GiB", raw(&[0x95, 1, 0xc6]), "too_long"),
        (
            "a token of 4 GiB",
            raw(&[0x95, 1, 0xc4, 0, 0xc6]),
            "truncated",
        ),
        (
            "arrays in arrays",
            Bytes::from(vec![0x91; 900_000]),
            "wrong_type",
        ),
        ("maps in maps", header(&deep), "wrong_type"),
        (
            "a header map of four billion",
            header(&[&[0xdf][..], &HUGE].concat()),
            "truncated",
        ),
        ("a long header", header(&vec![0x81; 17_000]), "too_long"),
        ("a long token", token.assemble(), "too_long"),
        ("a key twice", twice.assemble(), "field_order"),
        (
            "an id of 4 GiB",
            field(2, [&[0xc6][..], &HUGE].concat()),
            "truncated",
        ),
        (
            "ten thousand ids",
            field(2, bin(&[7; 8_000])),
            "wrong_length",
        ),
        ("many headers", field(19, headers(33, 8, 8)), "too_long"),
        (
            "a long header name",
            field(19, headers(1, 65, 8)),
            "too_long",
        ),
        (
            "a long header value",
            field(19, headers(1, 8, 1_025)),
            "too_long",
        ),
        (
            "much in headers",
            field(19, headers(16, 8, 1_000)),
            "invalid_field",
        ),
        (
            "headers of four billion",
            field(19, [&[0xdf][..], &HUGE].concat()),
            "too_long",
        ),
        ("a path to the moon", path.assemble(), "batch_place"),
        (
            "ancestors of 4 GiB",
            shown([&[0xc6][..], &HUGE].concat()),
            "too_long",
        ),
        (
            "long ancestors",
            shown(bin(&vec![0x91; 33_000])),
            "too_long",
        ),
        (
            "four billion ancestors",
            shown(bin(&[&[0xdd][..], &HUGE].concat())),
            "too_long",
        ),
        ("many ancestors", shown(bin(&[0x9f; 30_000])), "too_long"),
        (
            "ancestors of ancestors",
            shown(bin(&[&[0x91][..], &[0x93; 20_000]].concat())),
            "wrong_type",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_18_bombs_cost_nothing_and_are_refused_before_any_key_is_looked_up() {
    let _alone = ALONE.lock().await;
    let bus = Bus::start(POLICY).await;
    let pay = bus.client("pay").await;
    let _service = pay
        .serve("pay.plain", async |m: Message<String>| {
            Ok::<_, ServiceError>(m.into_payload())
        })
        .await
        .unwrap();
    let raw = bus.raw_client("mallory").await;
    let reply_to = bus.peer_inbox("mallory", "x");
    // Of a key that nobody knows: had it been looked for, it would be counted.
    let stranger = Forger::self_made(&bus, "mallory");
    let request = stranger.request("pay.plain", &reply_to, now(), b"\xa1x");
    let genuine = Dissected::of(&request);
    let send = async |payload: &Bytes| {
        raw.publish_with_reply("pay.plain", reply_to.clone(), payload.clone())
            .await
            .unwrap();
    };
    send(&genuine.assemble()).await;
    assert!(refused(&pay, &BTreeMap::from([("unknown_key", 1)])).await);

    let (reserved, used) = (memory("VmPeak"), memory("VmHWM"));
    for (what, bomb, code) in bombs(&genuine) {
        let before = pay.stats().refused();
        for round in 1..=ROUNDS {
            send(&bomb).await;
            let mut after = before.clone();
            *after.entry(code).or_default() += round;
            if !refused(&pay, &after).await {
                panic!("{what}: not {after:?}, but {:?}", pay.stats().refused());
            }
        }
    }
    // None was looked up, and a tenth of what one of them claims was never asked for.
    assert_eq!(pay.stats().refused_for("unknown_key"), 1);
    let (reserved, used) = (memory("VmPeak") - reserved, memory("VmHWM") - used);
    assert!(reserved < 400 << 20, "{reserved} bytes reserved");
    assert!(used < 32 << 20, "{used} bytes used");
}

/// A sender that may send, under keys that everybody can look up.
#[tokio::test(flavor = "multi_thread")]
async fn attack_18_a_key_that_is_wrapped_ten_thousand_times_is_refused() {
    let _alone = ALONE.lock().await;
    let bus = Bus::start(POLICY).await;
    let pay = bus.client("pay").await;
    let mut secret = pay.subscribe("pay.secret").await.unwrap();
    tokio::spawn(async move { while secret.next().await.is_some() {} });
    let mallory = Forger::genuine(&bus, "mallory").await;
    let raw = bus.raw_client("mallory").await;
    let (sender, receiver) = (bus.workload("mallory"), bus.workload("pay"));
    let secret = bus.seed("pay").kem_secret(KemSuite::X25519, 1, &receiver);
    let recipient = Recipient {
        workload: &receiver,
        key: secret.public(),
    };
    let later = now().saturating_add(Duration::from_secs(60));
    let used = memory("VmHWM");
    for (what, wraps, code) in [
        ("as many as there are", None, ""),
        (
            "ten thousand",
            Some(wraps(10_000, 10_000)),
            "wraps_malformed",
        ),
        ("four billion", Some(wraps(u32::MAX, 3)), "wraps_malformed"),
        ("none", Some(wraps(0, 0)), "wraps_order"),
    ] {
        let draft = DataKeyDraft {
            suite: CipherSuite::new(KemSuite::X25519, Cipher::ChaCha20Poly1305),
            trust_domain: bus.policy().trust_domain(),
            sender: &sender,
            epoch: mallory.sealer().epoch(),
            expires_at: later,
            max_uses: 10,
            process: 1,
        };
        let key = random();
        let key = SealingKey::new(&draft, &[recipient], &key, random).unwrap();
        let place = reserved::key_record(sender.tag(), &key.id().to_hex());
        let subject = Subject::parse(&place).unwrap();
        let record = Draft::key_wrap(&subject, &key, now(), later);
        let record = mallory.sealer().seal(&record, MessageId(random())).unwrap();
        let mut record = Dissected::of(&record.bytes);
        if let Some(wraps) = wraps {
            record.body = wraps;
        }
        let record = mallory.sign(record);
        let stored = raw.request(place, record).await.unwrap().payload;
        let stored = String::from_utf8_lossy(&stored).into_owned();
        assert!(!stored.contains("error"), "{what}: {stored}");

        let subject = Subject::parse("pay.secret").unwrap();
        let mut draft = Draft::event(&subject, now(), later, b"\xa1x");
        draft.content_type = Some("application/msgpack");
        draft.encryption = Some(Encryption {
            key: &key,
            inline_wraps: false,
            open_token: false,
            process: 1,
        });
        let event = mallory.sealer().seal(&draft, MessageId(random())).unwrap();
        let mut wanted = pay.stats().refused();
        let delivered = pay.stats().delivered();
        raw.publish("pay.secret", event.bytes).await.unwrap();
        if code.is_empty() {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
            while pay.stats().delivered() == delivered {
                assert!(tokio::time::Instant::now() < deadline, "{what}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        } else {
            *wanted.entry(code).or_default() += 1;
        }
        if !refused(&pay, &wanted).await {
            panic!("{what}: not {wanted:?}, but {:?}", pay.stats().refused());
        }
    }
    let used = memory("VmHWM") - used;
    assert!(used < 32 << 20, "{used} bytes used");
}

/// A list that claims so many wraps, and holds so many.
fn wraps(claimed: u32, held: u32) -> Vec<u8> {
    let mut out = vec![0x92, 0xcf];
    out.extend((now().as_millis() + 60_000).to_be_bytes());
    match claimed {
        0..=15 => out.push(0x90 | u8::try_from(claimed).unwrap()),
        16..=0xffff => {
            out.push(0xdc);
            out.extend(u16::try_from(claimed).unwrap().to_be_bytes());
        }
        _ => {
            out.push(0xdd);
            out.extend(claimed.to_be_bytes());
        }
    }
    for number in 0..held {
        let mut id = [0; 16];
        id[12..].copy_from_slice(&number.to_be_bytes());
        out.push(0x92);
        out.extend(bin(&id));
        out.extend(bin(&[7; 80]));
    }
    out
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

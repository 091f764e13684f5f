//! The streams that workloads write to: wrapped keys and claims.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use bulla_identity::{WorkloadTag, reserved};
use bulla_tests::Bus;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::timeout;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.orders]
attest = [{ nkey = "@orders@" }]
[workload.mallory]
attest = [{ nkey = "@mallory@" }]
"#;

const LIMIT: Duration = Duration::from_secs(5);

/// A workload on a raw NATS client.
struct Raw {
    client: Client,
    tag: WorkloadTag,
    inbox: String,
    answers: async_nats::Subscriber,
    asked: u32,
}

impl Raw {
    async fn connect(bus: &Bus, workload: &str) -> Self {
        let client = bus.raw_client(workload).await;
        let tag = bus.workload(workload).tag();
        // Where peers cannot publish, as the SDK does.
        let own = client.new_inbox();
        let own = own.rsplit('.').next().unwrap();
        let inbox = format!("{}.{own}", reserved::inbox_server(tag));
        let answers = client.subscribe(format!("{inbox}.*")).await.unwrap();
        Self {
            client,
            tag,
            inbox,
            answers,
            asked: 0,
        }
    }

    /// Publishes with a reply subject of its own; the answer, if one comes.
    async fn send(&mut self, subject: &str, headers: HeaderMap, body: &[u8]) -> Option<Message> {
        self.asked += 1;
        let reply = format!("{}.{}", self.inbox, self.asked);
        let body = Bytes::copy_from_slice(body);
        self.client
            .publish_with_reply_and_headers(subject.to_owned(), reply.clone(), headers, body)
            .await
            .unwrap();
        // Answered in order: what was refused has been refused by now, and
        // what was stored is answered a little later.
        let _ = self.client.request(reserved::BARRIER, "".into()).await;
        let wait = Duration::from_millis(500);
        while let Ok(Some(answer)) = timeout(wait, self.answers.next()).await {
            if answer.subject.as_str() == reply {
                return Some(answer);
            }
        }
        None
    }

    async fn write(&mut self, subject: &str, body: &[u8]) -> Ack {
        self.write_with(subject, HeaderMap::new(), body).await
    }

    async fn write_with(&mut self, subject: &str, headers: HeaderMap, body: &[u8]) -> Ack {
        match self.send(subject, headers, body).await {
            None => Ack::None,
            Some(answer) if answer.status.is_some() => Ack::None,
            Some(answer) => {
                let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
                match answer["error"]["err_code"].as_u64() {
                    None => Ack::Stored,
                    Some(code) => Ack::Refused(code),
                }
            }
        }
    }

    async fn read(&mut self, subject: &str, body: &[u8]) -> Option<Bytes> {
        let answer = self.send(subject, HeaderMap::new(), body).await?;
        answer.status.is_none().then_some(answer.payload)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ack {
    Stored,
    Refused(u64),
    /// Not permitted, or nobody there.
    None,
}

/// JetStream: the subject has its one message.
const TAKEN: Ack = Ack::Refused(10_077);

fn header(name: &str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value);
    headers
}

fn hex(digit: char, digits: usize) -> String {
    digit.to_string().repeat(digits)
}

#[tokio::test]
async fn a_sender_stores_wrapped_keys_once_and_everybody_reads_them() {
    let bus = Bus::start(POLICY).await;
    let mut orders = Raw::connect(&bus, "orders").await;
    let mut mallory = Raw::connect(&bus, "mallory").await;
    let record = vec![0x95; 600 << 10];
    let subject = reserved::key_record(orders.tag, &hex('a', 64));
    assert_eq!(orders.write(&subject, &record).await, Ack::Stored);
    assert_eq!(orders.write(&subject, b"\x95other").await, TAKEN);
    let get = reserved::key_direct_get(orders.tag, &hex('a', 64));
    assert_eq!(orders.read(&get, b"").await.unwrap(), record);
    assert_eq!(mallory.read(&get, b"").await.unwrap(), record);
    let none = reserved::key_direct_get(orders.tag, &hex('b', 64));
    assert_eq!(mallory.read(&none, b"").await, None);
}

#[tokio::test]
async fn a_record_lives_as_long_as_its_writer_says() {
    let bus = Bus::start(POLICY).await;
    let mut orders = Raw::connect(&bus, "orders").await;
    for (subject, get) in [
        (
            reserved::key_record(orders.tag, &hex('a', 64)),
            reserved::key_direct_get(orders.tag, &hex('a', 64)),
        ),
        (
            reserved::claim(orders.tag, &hex('a', 32)),
            reserved::claim_direct_get(orders.tag, &hex('a', 32)),
        ),
    ] {
        let ttl = header("Nats-TTL", "1s");
        assert_eq!(orders.write_with(&subject, ttl, b"\x95").await, Ack::Stored);
        assert!(orders.read(&get, b"").await.is_some());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while orders.read(&get, b"").await.is_some() {
            assert!(tokio::time::Instant::now() < deadline, "it is still there");
        }
        assert_eq!(orders.write(&subject, b"\x95").await, Ack::Stored);
    }
}

#[tokio::test]
async fn a_claim_is_taken_once_and_read_by_its_claimant_alone() {
    let bus = Bus::start(POLICY).await;
    let mut orders = Raw::connect(&bus, "orders").await;
    let mut replica = Raw::connect(&bus, "orders").await;
    let mut mallory = Raw::connect(&bus, "mallory").await;
    let claim = reserved::claim(orders.tag, &hex('a', 32));
    assert_eq!(orders.write(&claim, b"\x92\x01a").await, Ack::Stored);
    assert_eq!(replica.write(&claim, b"\x92\x01b").await, TAKEN);
    assert_eq!(orders.write(&claim, b"\x92\x01a").await, TAKEN);
    let get = reserved::claim_direct_get(orders.tag, &hex('a', 32));
    assert_eq!(replica.read(&get, b"").await.unwrap(), &b"\x92\x01a"[..]);
    // Neither by name, nor by a wildcard, nor by a sequence in the body.
    let own = mallory.tag;
    for (subject, body) in [
        (get.clone(), ""),
        ("$JS.API.DIRECT.GET.BULLA_CLAIMS".to_owned(), r#"{"seq":1}"#),
        (reserved::claim_direct_get(own, "x"), r#"{"seq":1}"#),
        (
            reserved::claim_direct_get(own, "x"),
            r#"{"seq":1,"next_by_subj":"$BULLA.CLAIMS.>"}"#,
        ),
        (
            reserved::claim_direct_get(own, "x"),
            r#"{"multi_last":["$BULLA.CLAIMS.>"]}"#,
        ),
        (
            "$JS.API.DIRECT.GET.BULLA_CLAIMS.$BULLA.CLAIMS.>".to_owned(),
            "",
        ),
        (reserved::claims_direct_get_of(own), ""),
    ] {
        let read = mallory.read(&subject, body.as_bytes()).await;
        assert_eq!(read, None, "read by `{subject}` with `{body}`");
    }
}

#[tokio::test]
async fn nobody_writes_under_another_tag() {
    let bus = Bus::start(POLICY).await;
    let orders = bus.workload("orders").tag();
    let mut mallory = Raw::connect(&bus, "mallory").await;
    for subject in [
        reserved::key_record(orders, &hex('a', 64)),
        reserved::claim(orders, &hex('a', 32)),
        "$BULLA.KEYS.x.y".to_owned(),
        "$BULLA.CLAIMS.*.x".to_owned(),
        "$BULLA.CLAIMS.>".to_owned(),
    ] {
        assert_eq!(mallory.write(&subject, b"\x91\x01").await, Ack::None);
    }
    // Beneath the own tag, but not where records lie.
    let deep = reserved::claim(mallory.tag, "a.b");
    assert_eq!(mallory.write(&deep, b"\x91\x01").await, Ack::None);
    assert_eq!(stored(&bus, reserved::KEYS_STREAM).await, 0);
    assert_eq!(stored(&bus, reserved::CLAIMS_STREAM).await, 0);
}

#[tokio::test]
async fn what_is_stored_is_not_deleted_purged_or_rolled_up() {
    let bus = Bus::start(POLICY).await;
    let mut orders = Raw::connect(&bus, "orders").await;
    let key = reserved::key_record(orders.tag, &hex('a', 64));
    let claim = reserved::claim(orders.tag, &hex('a', 32));
    for subject in [&key, &claim] {
        assert_eq!(orders.write(subject, b"\x91\x01").await, Ack::Stored);
    }
    for (name, value) in [
        ("Nats-Rollup", "all"),
        ("Nats-Rollup", "sub"),
        ("Nats-Expected-Last-Subject-Sequence", "1"),
        ("Nats-Marker-Reason", "Purge"),
        ("KV-Operation", "PURGE"),
        ("Nats-Incr", "+1"),
        ("Nats-Schedule", "@at 2030-01-01T00:00:00Z"),
        ("Nats-Batch-Id", "b"),
    ] {
        for subject in [&key, &claim] {
            let ack = orders
                .write_with(subject, header(name, value), b"\x91\x02")
                .await;
            assert!(ack != Ack::Stored, "{name}: {value} on {subject}");
        }
    }
    // A record that was given its life keeps it.
    for subject in [&key, &claim] {
        let ack = orders
            .write_with(subject, header("Nats-TTL", "1"), b"")
            .await;
        assert_eq!(ack, TAKEN);
    }
    for stream in [reserved::KEYS_STREAM, reserved::CLAIMS_STREAM] {
        for operation in ["DELETE", "PURGE", "UPDATE", "INFO", "MSG.DELETE", "MSG.GET"] {
            let subject = format!("$JS.API.STREAM.{operation}.{stream}");
            assert_eq!(orders.read(&subject, b"").await, None, "{subject}");
        }
        assert_eq!(stored(&bus, stream).await, 1);
    }
    // Not even who could ask.
    let context = async_nats::jetstream::new(bus.js_client().await);
    for stream in [reserved::KEYS_STREAM, reserved::CLAIMS_STREAM] {
        let stream = context.get_stream(stream).await.unwrap();
        assert!(stream.delete_message(1).await.is_err());
        assert!(stream.purge().await.is_err());
    }
}

#[tokio::test]
async fn an_answer_of_the_server_writes_nothing_under_another_tag() {
    let bus = Bus::start(POLICY).await;
    let orders = bus.workload("orders").tag();
    let mut mallory = Raw::connect(&bus, "mallory").await;
    let own_key = reserved::key_record(mallory.tag, &hex('a', 64));
    assert_eq!(mallory.write(&own_key, b"\x92\x01x").await, Ack::Stored);
    let targets = [
        reserved::claim(orders, &hex('c', 32)),
        reserved::key_record(orders, &hex('c', 64)),
    ];
    for target in &targets {
        for (subject, body) in [
            // An acknowledgement, a refusal, a record of her own choice.
            (
                reserved::claim(mallory.tag, &hex('d', 32)),
                &b"\x91\x01"[..],
            ),
            (own_key.clone(), b"\x91\x01"),
            (reserved::key_direct_get(mallory.tag, &hex('a', 64)), b""),
            (reserved::direct_get(reserved::CTL_POLICY), b""),
            (reserved::broker_challenge(mallory.tag), b"\x90"),
        ] {
            mallory
                .client
                .publish_with_reply(subject, target.clone(), Bytes::copy_from_slice(body))
                .await
                .unwrap();
        }
    }
    let _ = mallory.client.request(reserved::BARRIER, "".into()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stored(&bus, reserved::CLAIMS_STREAM).await, 1);
    assert_eq!(stored(&bus, reserved::KEYS_STREAM).await, 1);
}

/// How many records lie on a stream.
async fn stored(bus: &Bus, stream: &str) -> u64 {
    let context = async_nats::jetstream::new(bus.js_client().await);
    let mut stream = timeout(LIMIT, context.get_stream(stream))
        .await
        .unwrap()
        .unwrap();
    stream.info().await.unwrap().state.messages
}

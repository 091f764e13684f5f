//! `protect = "encrypted"`, end to end: who can read what, and what a missing,
//! wrong or stolen key means.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bulla_envelope::{
    DataKeyDraft, Draft, Encryption, KemRecord, MessageId, Recipient, RecipientSet, SealedEnvelope,
    SealingKey, Suite,
};
use bulla_identity::{NkeyKind, Subject, UnixMillis, reserved};
use bulla_keyring::{Cipher, CipherSuite, DataKey, DataKeyId, KemSuite, NkeySeed, Tag};
use bulla_sdk::{Client, EncryptError, Message, PublishError, SendError, ServiceError};
use bulla_tests::{Bus, Cable, Dissected, Forger, bin, now, uint};
use data_encoding::HEXLOWER;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const SECRET: &str = "attack at dawn, by the northern gate";

fn policy(subjects: &str, listeners: &[&str]) -> String {
    let mut text = r#"
version = 1
trust_domain = "acme.example"
[workload.front]
attest = [{ nkey = "@front@" }]
[workload.back]
attest = [{ nkey = "@back@" }]
[workload.late]
attest = [{ nkey = "@late@" }]
[workload.wiretap]
attest = [{ nkey = "@wiretap@" }]
"#
    .to_owned();
    for listener in listeners {
        if !["front", "back", "late", "wiretap"].contains(listener) {
            write!(
                text,
                "[workload.{listener}]\nattest = [{{ nkey = \"@{listener}@\" }}]\n"
            )
            .unwrap();
        }
    }
    write!(
        text,
        r#"
[subject."secret.>"]
protect = "encrypted"
{subjects}
[subject."secret.asked"]
replay = "window"
[[allow]]
id = "front-speaks"
who = ["front"]
may = ["publish", "request"]
on = ["secret.told", "secret.asked", "secret.nobody"]
[[allow]]
id = "back-answers"
who = ["back"]
may = ["serve"]
on = ["secret.asked"]
[[allow]]
id = "listeners"
who = {listeners:?}
may = ["subscribe"]
on = ["secret.told"]
# Holds no key: sees what nats-server sees.
[[allow]]
id = "wiretap-listens"
who = ["wiretap"]
may = ["subscribe"]
on = ["secret.told", "secret.nobody"]
"#
    )
    .unwrap();
    text
}

/// A bus with so many workloads, `w0` and on, that listen and have published a key.
async fn with_readers(count: usize) -> Bus {
    with_readers_and(count, "").await
}

/// The same, with more in the policy.
async fn with_readers_and(count: usize, more: &str) -> Bus {
    let names: Vec<String> = (0..count).map(|n| format!("w{n}")).collect();
    let listeners: Vec<&str> = names.iter().map(String::as_str).collect();
    let bus = Bus::start(&policy(more, &listeners)).await;
    for name in &names {
        let record = KemRecord::sign(&bus.seed(name), &bus.workload(name), 1);
        let place = reserved::ctl_kem(bus.workload(name).tag(), &bus.seed(name).public());
        bus.replace_control_record(&place, record.into()).await;
    }
    bus
}

/// Less than any record takes.
const NO_ROOM: i64 = 10;

/// How many bytes the stream of wrapped keys may hold from now on; what it was before.
async fn room_for_keys(bus: &Bus, bytes: i64) -> i64 {
    let context = async_nats::jetstream::new(bus.js_client().await);
    let mut stream = context.get_stream(reserved::KEYS_STREAM).await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    let before = std::mem::replace(&mut config.max_bytes, bytes);
    context.update_stream(&config).await.unwrap();
    before
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "it did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn behind(bus: &Bus, workload: &str) -> (Cable, Client) {
    let cable = Cable::to(bus.nats_url()).await;
    let client = bus.client_behind(&cable, workload).await;
    (cable, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_body_is_seen_by_nats_server() {
    for suite in [
        "",
        "suite = \"x25519\"",
        "cipher = \"chacha20-poly1305\"",
        "cipher = \"aes-256-gcm\"",
    ] {
        let bus = Bus::start(&policy(suite, &["back"])).await;
        let ((front_cable, front), (back_cable, back)) =
            (behind(&bus, "front").await, behind(&bus, "back").await);
        let mut told = back.subscribe("secret.told").await.unwrap();
        let _service = back
            .serve("secret.asked", async |m: Message<String>| {
                Ok::<_, ServiceError>(format!("answer to {}", m.payload()))
            })
            .await
            .unwrap();
        for _ in 0..3 {
            front.publish("secret.told", SECRET).await.unwrap();
            let heard = told.next().await.unwrap();
            assert_eq!(heard.decode::<String>().unwrap(), SECRET);
            let answer: String = front.request("secret.asked", SECRET).await.unwrap();
            assert_eq!(answer, format!("answer to {SECRET}"));
        }
        for cable in [&front_cable, &back_cable] {
            assert!(cable.has_seen(b"secret.asked"), "the cable listens");
            assert!(!cable.has_seen(b"northern gate"), "{suite}");
            assert!(!cable.has_seen(b"answer to"), "{suite}");
        }
    }
}

/// What nats-server sees of a message.
struct Captured {
    suite: Suite,
    data_key: DataKeyId,
    recipients: RecipientSet,
    has_wraps: bool,
    len: usize,
}

async fn captured(tap: &mut async_nats::Subscriber) -> Captured {
    use futures_util::StreamExt as _;
    let raw = tokio::time::timeout(Duration::from_secs(5), tap.next())
        .await
        .unwrap()
        .unwrap();
    let sealed = SealedEnvelope::decode(raw.payload.clone()).unwrap();
    let (data_key, recipients) = sealed.data_key_unverified().unwrap();
    Captured {
        suite: sealed.suite_unverified(),
        data_key,
        recipients,
        has_wraps: sealed.has_inline_wraps(),
        len: raw.payload.len(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_recipients_key_nothing_is_sent() {
    let bus = Bus::start(&policy("", &["back"])).await;
    let front = bus.client("front").await;
    let mut tap = bus.tap("secret.told").await;
    for subject in ["secret.nobody", "secret.told"] {
        let error = front.publish(subject, SECRET).await.unwrap_err();
        let PublishError::Send(SendError::Encrypt(EncryptError::NoRecipient { .. })) = error else {
            panic!("{error}")
        };
    }
    // As soon as there is one, it is.
    let back = bus.client("back").await;
    let mut told = back.subscribe("secret.told").await.unwrap();
    front.publish("secret.told", SECRET).await.unwrap();
    assert_eq!(
        told.next().await.unwrap().decode::<String>().unwrap(),
        SECRET
    );
    let seen = captured(&mut tap).await;
    let suite = CipherSuite::new(KemSuite::XWing, Cipher::fastest_here());
    assert_eq!(seen.suite, Suite::Encrypted(suite));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_right_cannot_read_what_follows_and_who_gained_it_can() {
    let bus = Bus::start(&policy("", &["back"])).await;
    let front = bus.client("front").await;
    let (back, late) = (bus.client("back").await, bus.client("late").await);
    let mut told = back.subscribe("secret.told").await.unwrap();
    let mut tap = bus.tap("secret.told").await;
    front.publish("secret.told", "before").await.unwrap();
    assert_eq!(
        told.next().await.unwrap().decode::<String>().unwrap(),
        "before"
    );
    let before = captured(&mut tap).await;

    bus.publish_policy(&policy("", &["late"])).await;
    eventually(|| {
        [&front, &back, &late]
            .iter()
            .all(|c| c.policy().revision() == 2)
    })
    .await;
    // A new connection gets the new permissions; the one that lost its right is
    // ended by the broker, and what is delivered before that it cannot read.
    drop(late);
    let late = bus.client("late").await;
    let mut gained = late.subscribe("secret.told").await.unwrap();
    front.publish("secret.told", "after").await.unwrap();
    assert_eq!(
        gained.next().await.unwrap().decode::<String>().unwrap(),
        "after"
    );
    let after = captured(&mut tap).await;
    assert_ne!(before.data_key, after.data_key);
    assert_ne!(before.recipients, after.recipients);
    let read = tokio::time::timeout(Duration::from_secs(2), told.next()).await;
    assert!(!matches!(read, Ok(Some(_))), "{read:?}");
}

/// While no broker is there to end its connection, nats-server delivers on.
#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_right_cannot_read_what_still_reaches_it() {
    let mut bus = Bus::start(&policy("", &["back", "late"])).await;
    let front = bus.client("front").await;
    let (back, late) = (bus.client("back").await, bus.client("late").await);
    let mut lost = back.subscribe("secret.told").await.unwrap();
    let mut kept = late.subscribe("secret.told").await.unwrap();
    front.publish("secret.told", "before").await.unwrap();
    for told in [&mut lost, &mut kept] {
        let message = told.next().await.unwrap();
        assert_eq!(message.decode::<String>().unwrap(), "before");
    }
    bus.kill_broker(bus.broker(0)).await;
    bus.publish_policy(&policy("", &["late"])).await;
    let clients = [&front, &back, &late];
    eventually(|| clients.iter().all(|c| c.policy().revision() == 2)).await;
    front.publish("secret.told", "after").await.unwrap();
    let message = kept.next().await.unwrap();
    assert_eq!(message.decode::<String>().unwrap(), "after");
    let reader = tokio::spawn(async move { lost.next().await.map(drop) });
    eventually(|| back.stats().refused_for("not_a_recipient") == 1).await;
    reader.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_reader_finds_the_key_in_its_record() {
    let bus = Bus::start(&policy("", &["back", "late"])).await;
    let front = bus.client("front").await;
    let (_back, late) = (bus.client("back").await, bus.client("late").await);
    let mut tap = bus.tap("secret.told").await;
    // The first message of a key does not wait for the record.
    let room = room_for_keys(&bus, NO_ROOM).await;
    front.publish("secret.told", SECRET).await.unwrap();
    assert!(captured(&mut tap).await.has_wraps);
    room_for_keys(&bus, room).await;
    // Inline until the record is known to be stored, then by reference.
    let mut inline = 1;
    let last = loop {
        front.publish("secret.told", SECRET).await.unwrap();
        let seen = captured(&mut tap).await;
        if !seen.has_wraps {
            break seen;
        }
        inline += 1;
        assert!(inline < 1_000, "the record is never stored");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(last.len < 1_000, "the wraps do not ride along for ever");
    let mut told = late.subscribe("secret.told").await.unwrap();
    front.publish("secret.told", SECRET).await.unwrap();
    assert_eq!(
        told.next().await.unwrap().decode::<String>().unwrap(),
        SECRET
    );
}

/// What the first of several receivers has begun to look up comes to the others though it
/// is not polled again: who sent the message, and then the key of its body.
// On one thread, so that nothing else runs during the one poll.
#[tokio::test]
async fn a_receiver_that_is_not_polled_keeps_nobody_from_a_credential_or_a_data_key() {
    const NEWS: &str = r#"
[[allow]]
id = "front-tells-news"
who = ["front"]
may = ["publish"]
on = ["news"]
[[allow]]
id = "reader-hears-news"
who = ["w0"]
may = ["subscribe"]
on = ["news"]
"#;
    // More than ride along: their key lies on the stream before it is used.
    let bus = with_readers_and(5, NEWS).await;
    let (front, reader) = (bus.client("front").await, bus.client("w0").await);
    for subject in ["news", "secret.told"] {
        let mut slow = reader.subscribe(subject).await.unwrap();
        let mut quick = reader.subscribe(subject).await.unwrap();
        front.publish(subject, SECRET).await.unwrap();
        front.flush().await.unwrap();
        // Until it has arrived, so that one poll begins the look-up.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut idle = pin!(slow.next());
        let polled = poll_fn(|cx| Poll::Ready(idle.as_mut().poll(cx))).await;
        assert!(
            polled.is_pending(),
            "there is nothing to look up: {subject}"
        );
        let message = tokio::time::timeout(Duration::from_secs(3), quick.next()).await;
        let message = message.expect("it waits for who is not polled").unwrap();
        assert_eq!(message.decode::<String>().unwrap(), SECRET);
        let message = tokio::time::timeout(Duration::from_secs(3), idle).await;
        assert!(message.unwrap().is_some(), "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_workloads_read_one_message() {
    // All have published a key; some are there to read.
    let bus = with_readers(100).await;
    let front = bus.client("front").await;
    let mut told = Vec::new();
    let mut clients = Vec::new();
    for name in ["w0", "w42", "w99"] {
        let client = bus.client(name).await;
        told.push(client.subscribe("secret.told").await.unwrap());
        clients.push(client);
    }
    let mut tap = bus.tap("secret.told").await;
    front.publish("secret.told", SECRET).await.unwrap();
    for told in &mut told {
        assert_eq!(
            told.next().await.unwrap().decode::<String>().unwrap(),
            SECRET
        );
    }
    let seen = captured(&mut tap).await;
    assert!(!seen.has_wraps && seen.len < 1_000, "{} bytes", seen.len);
    assert_eq!(front.stats().recipients_without_key(), 1, "the wiretap");
}

/// Nobody could read what is encrypted under a key whose record does not fit.
#[tokio::test(flavor = "multi_thread")]
async fn attack_20_a_key_that_the_full_stream_refuses_is_not_used() {
    let bus = with_readers(5).await;
    let front = bus.client("front").await;
    let mut tap = bus.tap("secret.told").await;
    let room = room_for_keys(&bus, NO_ROOM).await;
    for _ in 0..2 {
        let error = front.publish("secret.told", "lost").await.unwrap_err();
        assert!(
            matches!(
                error,
                PublishError::Send(SendError::Encrypt(EncryptError::NotStored))
            ),
            "{error:?}"
        );
    }
    room_for_keys(&bus, room).await;
    front.publish("secret.told", SECRET).await.unwrap();
    front.flush().await.unwrap();
    // What was refused was not sent, and the key stands in its record alone.
    assert!(!captured(&mut tap).await.has_wraps);
    let more = tokio::time::timeout(Duration::from_millis(200), captured(&mut tap)).await;
    assert!(more.is_err(), "one message was sent");
}

/// One reader less, and the wraps ride along for as long as the stream is full.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_four_readers_needs_no_record() {
    let bus = with_readers(4).await;
    let front = bus.client("front").await;
    let reader = bus.client("w3").await;
    let mut told = reader.subscribe("secret.told").await.unwrap();
    let mut tap = bus.tap("secret.told").await;
    room_for_keys(&bus, NO_ROOM).await;
    for _ in 0..3 {
        front.publish("secret.told", SECRET).await.unwrap();
        assert!(captured(&mut tap).await.has_wraps);
        let message = told.next().await.unwrap();
        assert_eq!(message.decode::<String>().unwrap(), SECRET);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keys_are_replaced_by_age_and_by_count() {
    let bus = Bus::start(&policy("", &["back"])).await;
    let back = bus.client("back").await;
    let mut told = back.subscribe("secret.told").await.unwrap();
    let mut tap = bus.tap("secret.told").await;
    let by_count = bus.connect_options("front").data_key_uses(3);
    let by_count = Client::connect(by_count).await.unwrap();
    let mut keys = Vec::new();
    for n in 0..9u32 {
        by_count.publish("secret.told", &n).await.unwrap();
        by_count.flush().await.unwrap();
        keys.push(captured(&mut tap).await.data_key);
        assert_eq!(told.next().await.unwrap().decode::<u32>().unwrap(), n);
    }
    keys.dedup();
    assert_eq!(keys.len(), 3);

    let by_age = bus
        .connect_options("front")
        .data_key_life(Duration::from_secs(1));
    let by_age = Client::connect(by_age).await.unwrap();
    by_age.publish("secret.told", &1u32).await.unwrap();
    let first = captured(&mut tap).await.data_key;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    by_age.publish("secret.told", &2u32).await.unwrap();
    assert_ne!(captured(&mut tap).await.data_key, first);
    for n in [1u32, 2] {
        assert_eq!(told.next().await.unwrap().decode::<u32>().unwrap(), n);
    }
}

/// What waits to be sealed counts, too.
#[tokio::test(flavor = "multi_thread")]
async fn no_data_key_seals_more_than_it_may() {
    const USES: usize = 20;
    let bus = Bus::start(&policy("frames = \"off\"", &["back"])).await;
    let _back = bus.client("back").await;
    let mut tap = bus.tap("secret.told").await;
    let front = bus.connect_options("front").data_key_uses(USES as u64);
    let front = Client::connect(front).await.unwrap();
    let told = tokio::spawn(async move {
        let mut uses = HashMap::new();
        for _ in 0..2_000 {
            let key = captured(&mut tap).await.data_key.0;
            *uses.entry(key).or_insert(0usize) += 1;
        }
        uses
    });
    for n in 0..2_000u32 {
        front.publish("secret.told", &n).await.unwrap();
    }
    let uses = told.await.unwrap();
    let most = uses.values().max().unwrap();
    assert!(*most <= USES, "{most}");
    assert_eq!(uses.len(), 2_000 / USES, "nor is it replaced before");
}

/// A right that ends by itself ends for what is encrypted too: nobody publishes a
/// new policy.
#[tokio::test(flavor = "multi_thread")]
async fn whose_rule_has_expired_cannot_read_what_follows() {
    // Whole seconds, as policies say them.
    let end = UnixMillis::from_millis((now().as_secs() + 5) * 1_000);
    let date = OffsetDateTime::from_unix_timestamp(end.as_secs().cast_signed());
    let date = date.unwrap().format(&Rfc3339).unwrap();
    let text = format!(
        r#"{}
[[allow]]
id = "back-listens-for-a-while"
who = ["back"]
may = ["subscribe"]
on = ["secret.told"]
expires = {date}
"#,
        policy("", &["late"])
    );
    let bus = Bus::start(&text).await;
    let front = bus.client("front").await;
    let (back, late) = (bus.client("back").await, bus.client("late").await);
    let mut lost = back.subscribe("secret.told").await.unwrap();
    let mut kept = late.subscribe("secret.told").await.unwrap();
    let mut tap = bus.tap("secret.told").await;
    let kem = |name: &str| {
        let secret = bus
            .seed(name)
            .kem_secret(KemSuite::XWing, 1, &bus.workload(name));
        secret.public().id()
    };
    front.publish("secret.told", "before").await.unwrap();
    for told in [&mut lost, &mut kept] {
        let message = told.next().await.unwrap();
        assert_eq!(message.decode::<String>().unwrap(), "before");
    }
    let before = captured(&mut tap).await;
    assert_eq!(
        before.recipients,
        RecipientSet::of([kem("back"), kem("late")])
    );
    assert!(now() < end, "the rule still counts");

    let left = end.saturating_since(now()) + Duration::from_millis(500);
    tokio::time::sleep(left).await;
    front.publish("secret.told", "after").await.unwrap();
    let after = captured(&mut tap).await;
    assert_eq!(after.recipients, RecipientSet::of([kem("late")]));
    assert_ne!(after.data_key, before.data_key);
    let message = kept.next().await.unwrap();
    assert_eq!(message.decode::<String>().unwrap(), "after");
    let read = tokio::time::timeout(Duration::from_secs(1), lost.next()).await;
    assert!(!matches!(read, Ok(Some(_))), "{read:?}");
}

const XWING: CipherSuite = CipherSuite::new(KemSuite::XWing, Cipher::ChaCha20Poly1305);
const X25519: CipherSuite = CipherSuite::new(KemSuite::X25519, Cipher::ChaCha20Poly1305);

/// What an attacker encrypts by himself.
struct Encrypter {
    forger: Forger,
    key: SealingKey,
}

impl Encrypter {
    async fn to_back(bus: &Bus, suite: CipherSuite) -> Self {
        Self::from(bus, "front", suite).await
    }

    async fn from(bus: &Bus, sender: &str, suite: CipherSuite) -> Self {
        Self::of(bus, Forger::genuine(bus, sender).await, suite, [7; 32])
    }

    fn of(bus: &Bus, forger: Forger, suite: CipherSuite, key: [u8; 32]) -> Self {
        let front = forger.credential().claimed_workload().clone();
        let back = bus.workload("back");
        let secret = bus.seed("back").kem_secret(suite.kem, 1, &back);
        let draft = DataKeyDraft {
            suite,
            trust_domain: bus.policy().trust_domain(),
            sender: &front,
            epoch: forger.sealer().epoch(),
            expires_at: now().saturating_add(Duration::from_secs(60)),
            max_uses: 1_000,
            process: 1,
        };
        let recipients = [Recipient {
            workload: &back,
            key: secret.public(),
        }];
        let key = SealingKey::new(&draft, &recipients, &key, || [8; 64]).unwrap();
        Self { forger, key }
    }

    /// Where the record of its data key lies.
    fn place(&self) -> String {
        let sender = self.forger.credential().claimed_workload();
        reserved::key_record(sender.tag(), &HEXLOWER.encode(self.key.id().as_bytes()))
    }

    /// The record of its data key, for any place.
    fn record(&self, place: &str) -> bytes::Bytes {
        self.record_of(place, now())
    }

    /// The same of a time.
    fn record_of(&self, place: &str, at: UnixMillis) -> bytes::Bytes {
        let place = Subject::parse(place).unwrap();
        let until = at.saturating_add(Duration::from_secs(20));
        let draft = Draft::key_wrap(&place, &self.key, at, until);
        let mut id = [0; 16];
        getrandom::fill(&mut id).unwrap();
        let sealed = self.forger.sealer().seal(&draft, MessageId(id));
        sealed.unwrap().bytes
    }

    /// Wraps that open, bound to all that this data key's are bound to (ENV-74), of
    /// another secret.
    fn wraps_of(&self, bus: &Bus, secret: [u8; 32]) -> Vec<u8> {
        let (sender, back) = (
            self.forger.credential().claimed_workload(),
            bus.workload("back"),
        );
        let kem = bus.seed("back").kem_secret(KemSuite::XWing, 1, &back);
        let text = |text: &str| {
            let len = u8::try_from(text.len()).unwrap();
            let head = if len < 32 {
                vec![0xa0 | len]
            } else {
                vec![0xd9, len]
            };
            [&head, text.as_bytes()].concat()
        };
        let until = uint(self.key.expires_at().as_millis());
        let to = kem.public().id();
        let info = [
            Tag::Wrap.as_bytes(),
            &[0x99],
            &uint(1),
            &text(bus.policy().trust_domain().as_str()),
            &text(sender.as_str()),
            &bin(self.key.epoch().as_bytes()),
            &text(back.as_str()),
            &bin(&to.0),
            &bin(self.key.id().as_bytes()),
            &bin(&self.key.recipients().0),
            &until,
        ]
        .concat();
        let wrapped = kem.public().wrap(
            &info,
            &DataKey::from_random(Cipher::ChaCha20Poly1305, &secret),
            &[8; 64],
        );
        [
            &[0x92][..],
            &until,
            &[0x91, 0x92],
            &bin(&to.0),
            &bin(&wrapped.unwrap()),
        ]
        .concat()
    }

    fn seal(&self, body: &[u8], inline_wraps: bool) -> bytes::Bytes {
        let to = Subject::parse("secret.told").unwrap();
        let until = now().saturating_add(Duration::from_secs(20));
        let mut draft = Draft::event(&to, now(), until, body);
        draft.content_type = Some("application/msgpack");
        draft.encryption = Some(Encryption {
            key: &self.key,
            inline_wraps,
            open_token: false,
            process: 1,
        });
        let mut id = [0; 16];
        getrandom::fill(&mut id).unwrap();
        let sealed = self.forger.sealer().seal(&draft, MessageId(id));
        sealed.unwrap().bytes
    }
}

/// Attack 6: neither signed only nor in a weaker suite than the policy asks for.
#[tokio::test(flavor = "multi_thread")]
async fn attack_06_what_is_not_or_weaker_encrypted_is_refused() {
    let bus = Bus::start(&policy("", &["back"])).await;
    let back = bus.client("back").await;
    let ran = Arc::new(AtomicU64::new(0));
    let mut told = back.subscribe("secret.told").await.unwrap();
    let counter = Arc::clone(&ran);
    tokio::spawn(async move {
        while told.next().await.is_some() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let raw = bus.raw_client("front").await;
    let send = async |bytes| raw.publish("secret.told", bytes).await.unwrap();

    let weak = Encrypter::to_back(&bus, X25519).await;
    send(weak.seal(b"\xa1x", true)).await;
    eventually(|| back.stats().refused_for("weak_suite") == 1).await;

    let to = Subject::parse("secret.told").unwrap();
    let until = now().saturating_add(Duration::from_secs(20));
    let clear = Draft::event(&to, now(), until, b"\xa1x");
    let clear = weak
        .forger
        .sealer()
        .seal(&clear, MessageId([1; 16]))
        .unwrap();
    send(clear.bytes).await;
    eventually(|| back.stats().refused_for("not_encrypted") == 1).await;

    let strong = Encrypter::to_back(&bus, XWING).await;
    send(strong.seal(b"\xa1x", false)).await;
    eventually(|| back.stats().refused_for("no_data_key_record") == 1).await;
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    send(strong.seal(b"\xa1x", true)).await;
    eventually(|| ran.load(Ordering::SeqCst) == 1).await;
}

/// ENV-11: what the policy says of the cipher, senders do, and receivers ask for. A body
/// in the other one is refused, though its sender may send and its readers could read it.
#[tokio::test(flavor = "multi_thread")]
async fn the_cipher_is_the_policys_to_choose() {
    let fastest = Cipher::fastest_here();
    let [chacha, aes] = Cipher::ALL;
    for (says, sent, refused) in [
        ("", fastest, None),
        ("cipher = \"any\"", fastest, None),
        ("cipher = \"chacha20-poly1305\"", chacha, Some(aes)),
        ("cipher = \"aes-256-gcm\"", aes, Some(chacha)),
    ] {
        let bus = Bus::start(&policy(says, &["back"])).await;
        let (front, back) = (bus.client("front").await, bus.client("back").await);
        let mut told = back.subscribe("secret.told").await.unwrap();
        let mut tap = bus.tap("secret.told").await;
        front.publish("secret.told", "from the SDK").await.unwrap();
        let mut heard = async || {
            let heard = tokio::time::timeout(Duration::from_secs(5), told.next()).await;
            heard.unwrap().unwrap().decode::<String>().unwrap()
        };
        assert_eq!(heard().await, "from the SDK");
        let seen = captured(&mut tap).await;
        let suite = |cipher| CipherSuite::new(KemSuite::XWing, cipher);
        assert_eq!(seen.suite, Suite::Encrypted(suite(sent)), "{says}");

        let raw = bus.raw_client("front").await;
        let mut refusals = 0;
        for cipher in Cipher::ALL {
            let by_hand = Encrypter::to_back(&bus, suite(cipher)).await;
            let sealed = by_hand.seal(b"\xa7by hand", true);
            raw.publish("secret.told", sealed).await.unwrap();
            // nats-server reads each connection by itself: nothing follows before it has
            // passed this on.
            captured(&mut tap).await;
            front.publish("secret.told", "after it").await.unwrap();
            captured(&mut tap).await;
            if refused != Some(cipher) {
                assert_eq!(heard().await, "by hand", "{says}");
            }
            assert_eq!(heard().await, "after it", "{says}");
            refusals += u64::from(refused == Some(cipher));
            let counted = back.stats().refused_for("other_cipher");
            assert_eq!(counted, refusals, "{says}, {cipher}");
        }
    }
}

/// Attack 28: whoever writes the control stream cannot put a key of his own in a
/// workload's place, and cannot bring back an older one.
#[tokio::test(flavor = "multi_thread")]
async fn attack_28_a_substituted_kem_record_is_not_encrypted_to() {
    let bus = Bus::start(&policy("", &["back"])).await;
    let (id, nkey) = (bus.workload("back"), bus.seed("back").public());
    let place = reserved::ctl_kem(id.tag(), &nkey);
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    let thief = NkeySeed::from_random(NkeyKind::User, &seed).unwrap();
    // The thief's keys, signed by the thief; and with the genuine nkey's name.
    let forged = KemRecord::sign(&thief, &id, 9);
    let mut renamed = forged.clone();
    let at = renamed.len() - 64 - 2 - 32;
    renamed[at..at + 32].copy_from_slice(nkey.bytes());
    for record in [forged, renamed] {
        bus.replace_control_record(&place, record.into()).await;
        let front = bus.client("front").await;
        let error = front.publish("secret.told", SECRET).await.unwrap_err();
        assert!(
            matches!(
                error,
                PublishError::Send(SendError::Encrypt(EncryptError::NoRecipient { .. }))
            ),
            "{error}"
        );
    }
    // A broker takes the genuine one over it, and no older one later.
    let newer = bus.connect_options("back").kem_version(2);
    let back = Client::connect(newer).await.unwrap();
    let older = Client::connect(
        bus.connect_options("back")
            .connect_timeout(Duration::from_secs(2)),
    );
    assert!(older.await.is_err(), "version 1 after version 2");
    let front = bus.client("front").await;
    let mut told = back.subscribe("secret.told").await.unwrap();
    front.publish("secret.told", SECRET).await.unwrap();
    assert_eq!(
        told.next().await.unwrap().decode::<String>().unwrap(),
        SECRET
    );
    // Not even from who could write the stream.
    let mut tap = bus.tap("secret.told").await;
    front.publish("secret.told", SECRET).await.unwrap();
    let recipients = captured(&mut tap).await.recipients;
    let old = KemRecord::sign(&bus.seed("back"), &id, 1);
    bus.replace_control_record(&place, old.into()).await;
    // The news of it is there before the news of a newer policy.
    bus.publish_policy(&policy("", &["back", "late"])).await;
    eventually(|| front.policy().revision() == 2).await;
    front.publish("secret.told", SECRET).await.unwrap();
    assert_eq!(captured(&mut tap).await.recipients, recipients);
}

/// A workload's key is replaced while messages flow; what was wrapped to the one
/// before can still be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_a_workloads_key_costs_no_message() {
    let bus = Bus::start(&policy("", &["back"])).await;
    let (front, _first) = (bus.client("front").await, bus.client("back").await);
    front
        .publish("secret.told", "nobody listens yet")
        .await
        .unwrap();
    // Encrypted to version 1, read by a process that has version 2.
    let to_first = Encrypter::to_back(&bus, XWING).await;
    let options = bus.connect_options("back").kem_version(2);
    let second = Client::connect(options).await.unwrap();
    let mut told = second.subscribe("secret.told").await.unwrap();
    let raw = bus.raw_client("front").await;
    raw.publish("secret.told", to_first.seal(b"\xa3old", true))
        .await
        .unwrap();
    assert_eq!(
        told.next().await.unwrap().decode::<String>().unwrap(),
        "old"
    );
    front.publish("secret.told", "new").await.unwrap();
    assert_eq!(
        told.next().await.unwrap().decode::<String>().unwrap(),
        "new"
    );
    // As soon as the news of it is there, the same subject is encrypted to version 2.
    let id = bus.workload("back");
    let secret = bus.seed("back").kem_secret(KemSuite::XWing, 2, &id);
    let newest = RecipientSet::of([secret.public().id()]);
    let mut tap = bus.tap("secret.told").await;
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        front.publish("secret.told", "again").await.unwrap();
        if captured(&mut tap).await.recipients == newest {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "still version 1");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A workload that names another's data key as its own keeps nobody from finding
/// the other's.
#[tokio::test(flavor = "multi_thread")]
async fn attack_28_naming_a_foreign_data_key_blocks_nobody() {
    let mallory = "[[allow]]\nid = \"late-speaks\"\nwho = [\"late\"]\nmay = [\"publish\"]\non = [\"secret.told\"]";
    let bus = Bus::start(&format!("{}{mallory}", policy("", &["back"]))).await;
    let (front, _first) = (bus.client("front").await, bus.client("back").await);
    let mut tap = bus.tap("secret.told").await;
    let key = loop {
        front.publish("secret.told", SECRET).await.unwrap();
        let seen = captured(&mut tap).await;
        if !seen.has_wraps {
            break seen.data_key;
        }
    };
    let reader = bus.client("back").await;
    let mut told = reader.subscribe("secret.told").await.unwrap();
    let thief = Encrypter::from(&bus, "late", XWING).await;
    let mut named = Dissected::of(&thief.seal(b"\xa1x", false));
    named.set(23, bin(key.as_bytes()));
    let raw = bus.raw_client("late").await;
    let hearing = tokio::spawn(async move { told.next().await });
    raw.publish("secret.told", thief.forger.sign(named))
        .await
        .unwrap();
    eventually(|| reader.stats().refused_for("no_data_key_record") == 1).await;
    front.publish("secret.told", SECRET).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(5), hearing);
    let heard = heard.await.expect("the first that comes is read");
    assert_eq!(heard.unwrap().unwrap().decode::<String>().unwrap(), SECRET);
}

/// Attack 28: whoever writes the stream of wrapped keys, a broker or who runs
/// nats-server, puts another record in a data key's place: nothing is read by it, and
/// what is encrypted under the true key is refused rather than read wrongly.
#[tokio::test(flavor = "multi_thread")]
async fn attack_28_a_substituted_record_of_a_data_key_opens_nothing() {
    let bus = Bus::start(&policy("", &["back", "late"])).await;
    let (_back, _late) = (bus.client("back").await, bus.client("late").await);
    let front = Encrypter::to_back(&bus, XWING).await;
    let mallory = Encrypter::from(&bus, "late", XWING).await;
    let place = front.place();

    // Another record of the same sender's, which is genuine in its own place.
    let other = Encrypter::of(&bus, front.forger.twin(), XWING, [9; 32]);
    let elsewhere = other.record(&other.place());
    // Another key under this one's id, by who may sign for its sender: AEADs do not
    // commit to their keys, so two readers would read two texts.
    let mut two_texts = Dissected::of(&other.record(&place));
    two_texts.set(23, bin(front.key.id().as_bytes()));
    two_texts.body = front.wraps_of(&bus, [9; 32]);
    let two_texts = front.forger.sign(two_texts);
    // The same by who has another workload's right alone, in its own name.
    let mut named = Dissected::of(&mallory.record(&place));
    named.set(23, bin(front.key.id().as_bytes()));
    named.body = Dissected::of(&front.record(&place)).body;
    assert_eq!(named.body, front.key.wraps());
    let named = mallory.forger.sign(named);
    // And the true one in every way but one.
    let mut for_others = Dissected::of(&front.record(&place));
    for_others.set(22, bin(&[7; 32]));
    let for_others = front.forger.sign(for_others);
    let past = now().saturating_sub(Duration::from_secs(60));
    let past = front.record_of(&place, past);
    let mut changed = front.record(&place).to_vec();
    *changed.last_mut().unwrap() ^= 1;
    let changed = bytes::Bytes::from(changed);
    let unissued = Forger::self_made(&bus, "front");
    let mut by_nobody = Dissected::of(&front.record(&place));
    by_nobody.set(2, bin(&unissued.credential().id().0));
    let unissued = unissued.sign(by_nobody);

    let mut refused = Vec::new();
    for (what, record, code) in [
        (
            "another workload's record",
            mallory.record(&mallory.place()),
            "data_key_record_foreign",
        ),
        (
            "another workload's record for this place",
            mallory.record(&place),
            "data_key_record_foreign",
        ),
        (
            "the true wraps in another workload's name",
            named,
            "data_key_record_foreign",
        ),
        (
            "another of the sender's",
            elsewhere,
            "data_key_record_misplaced",
        ),
        (
            "another of the sender's, for this place",
            other.record(&place),
            "data_key_record_other_key",
        ),
        ("another key under the id", two_texts, "data_key_mismatch"),
        (
            "the true one for other readers",
            for_others,
            "data_key_record_mismatch",
        ),
        (
            "one whose time is over",
            past,
            "data_key_record_not_in_time",
        ),
        (
            "one that was changed",
            changed,
            "data_key_record_not_authentic",
        ),
        (
            "one under a key that nobody issued",
            unissued,
            "data_key_record_credential_unknown",
        ),
        (
            "an event",
            front.seal(b"\xa1x", false),
            "data_key_record_kind",
        ),
        (
            "rubbish",
            bytes::Bytes::from_static(b"junk"),
            "data_key_record_malformed",
        ),
    ] {
        bus.replace_key_record(&place, record).await;
        let reader = bus.client("back").await;
        let mut told = reader.subscribe("secret.told").await.unwrap();
        let raw = bus.raw_client("front").await;
        let hearing = tokio::spawn(async move { told.next().await.map(drop) });
        raw.publish("secret.told", front.seal(b"\xa1x", false))
            .await
            .unwrap();
        let end = tokio::time::Instant::now() + Duration::from_secs(5);
        while reader.stats().refused_for(code) == 0 {
            let refused = reader.stats().refused();
            assert!(
                refused.is_empty() && tokio::time::Instant::now() < end,
                "{what}: {refused:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!hearing.is_finished(), "{what} was read");
        hearing.abort();
        refused.push(what);
    }
    assert_eq!(refused.len(), 12);

    // Without the stream there is no word of it at all, and that is told apart.
    let context = async_nats::jetstream::new(bus.js_client().await);
    let keys = context.get_stream(reserved::KEYS_STREAM).await.unwrap();
    let config = keys.cached_info().config.clone();
    context.delete_stream(reserved::KEYS_STREAM).await.unwrap();
    let reader = bus.client("back").await;
    let mut told = reader.subscribe("secret.told").await.unwrap();
    let raw = bus.raw_client("front").await;
    let hearing = tokio::spawn(async move { told.next().await.map(drop) });
    raw.publish("secret.told", front.seal(b"\xa1x", false))
        .await
        .unwrap();
    eventually(|| reader.stats().refused_for("data_keys_stream_missing") == 1).await;
    hearing.abort();
    context.create_stream(config).await.unwrap();

    // With the true one in its place it is read.
    bus.replace_key_record(&place, front.record(&place)).await;
    let reader = bus.client("back").await;
    let mut told = reader.subscribe("secret.told").await.unwrap();
    let raw = bus.raw_client("front").await;
    raw.publish("secret.told", front.seal(b"\xa1x", false))
        .await
        .unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(5), told.next());
    let heard = heard.await.unwrap().unwrap();
    assert_eq!(heard.decode::<String>().unwrap(), "x");
}

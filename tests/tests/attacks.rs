//! A workload that turned bad, with a valid nkey and a raw NATS client, against
//! a service on Bulla. Each test fails if its defence is taken out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_envelope::{LeafHash, SealedEnvelope};
use bulla_sdk::{Client, Message, RequestError, Service, ServiceError};
use bulla_tests::{Bus, Forger, leaf_of, now};
use bytes::Bytes;
use futures_util::StreamExt;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.shop]
attest = [{ nkey = "@shop@" }]
[workload.pay]
attest = [{ nkey = "@pay@" }]
[workload.mallory]
attest = [{ nkey = "@mallory@" }]
# Sees what whoever runs nats-server sees.
[workload.wiretap]
attest = [{ nkey = "@wiretap@" }]

[subject."pay.users_only"]
user = "required"

[[allow]]
id = "shop-asks"
who = ["shop"]
may = ["request"]
on = ["pay.charge", "pay.refund", "pay.users_only"]

[[allow]]
id = "mallory-may-ask-one"
who = ["mallory"]
may = ["request"]
on = ["pay.refund"]

[[allow]]
id = "pay-answers"
who = ["pay"]
may = ["serve"]
on = ["pay.charge", "pay.refund", "pay.users_only"]

[[allow]]
id = "both-tell"
who = ["shop", "mallory"]
may = ["publish"]
on = ["news.shop"]

[[allow]]
id = "pay-listens"
who = ["pay", "wiretap"]
may = ["subscribe"]
on = ["news.shop"]

[[allow]]
id = "wiretap-listens"
who = ["wiretap"]
may = ["subscribe"]
on = ["pay.charge", "pay.refund"]
"#;

struct Scene {
    bus: Bus,
    raw_shop: async_nats::Client,
    shop: Client,
    pay: Client,
    handled: Arc<AtomicU64>,
    services: Vec<Service>,
}

impl Scene {
    async fn start() -> Self {
        let bus = Bus::start(POLICY).await;
        let (shop, pay) = (bus.client("shop").await, bus.client("pay").await);
        let handled = Arc::new(AtomicU64::new(0));
        let mut services = Vec::new();
        for subject in ["pay.charge", "pay.refund"] {
            let handled = Arc::clone(&handled);
            let handler = move |message: Message<String>| {
                handled.fetch_add(1, Ordering::SeqCst);
                let answer = format!(
                    "{} from {}",
                    message.payload(),
                    message.sender().workload().path()
                );
                async move { Ok::<_, ServiceError>(answer) }
            };
            services.push(pay.serve(subject, handler).await.unwrap());
        }
        let raw_shop = bus.raw_client("shop").await;
        Self {
            bus,
            raw_shop,
            shop,
            pay,
            handled,
            services,
        }
    }

    /// Publishes bytes as they are. nats-server lets the shop publish here, and
    /// asks nobody what the bytes say; whoever runs it could do the same.
    async fn inject(&self, subject: &str, reply_to: Option<&str>, payload: Bytes) {
        let raw = &self.raw_shop;
        let subject = subject.to_owned();
        match reply_to {
            Some(reply_to) => {
                raw.publish_with_reply(subject, reply_to.to_owned(), payload)
                    .await
            }
            None => raw.publish(subject, payload).await,
        }
        .unwrap();
    }

    fn handled(&self) -> u64 {
        self.handled.load(Ordering::SeqCst)
    }

    /// Waits until `pay` has refused something for this reason.
    async fn refused(&self, code: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while self.pay.stats().refused_for(code) == 0 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "nothing refused for `{code}`, but {:?}",
                self.pay.stats().refused()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Proves that the service still answers, and that what was sent before by
    /// anybody has been looked at.
    async fn still_answers(&self) {
        self.raw_shop.flush().await.unwrap();
        let answer: String = self.shop.request("pay.charge", "ok").await.unwrap();
        assert_eq!(answer, "ok from shop");
    }

    /// The bytes of a sound request of `shop`, taken off the wire by whoever
    /// runs nats-server: subject, reply subject, payload.
    async fn recorded_request(&self, subject: &'static str) -> (String, String, Bytes) {
        let mut tap = self.bus.tap(subject).await;
        let _: String = self.shop.request(subject, "10 euro").await.unwrap();
        let message = tap.next().await.unwrap();
        (
            message.subject.to_string(),
            message.reply.unwrap().to_string(),
            message.payload,
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_request_passes_and_names_its_sender() {
    let scene = Scene::start().await;
    scene.still_answers().await;
    assert_eq!(scene.handled(), 1);
    assert!(scene.pay.stats().refused().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_01_a_replayed_request_runs_once() {
    let scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    assert_eq!(scene.handled(), 1);
    for _ in 0..10 {
        scene.inject(&subject, Some(&reply), payload.clone()).await;
    }
    scene.refused("replayed").await;
    scene.still_answers().await;
    assert_eq!(scene.handled(), 2, "the recorded request ran again");
    assert_eq!(scene.pay.stats().refused_for("replayed"), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_01_a_replay_after_a_restart_does_not_run() {
    let mut scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    // The replica starts anew, with an empty window.
    for service in scene.services.drain(..) {
        service.drain().await;
    }
    scene.pay = scene.bus.client("pay").await;
    let handled = Arc::clone(&scene.handled);
    let service = scene
        .pay
        .serve("pay.charge", move |_: Message<String>| {
            handled.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, ServiceError>("again") }
        })
        .await
        .unwrap();
    scene.inject(&subject, Some(&reply), payload).await;
    scene.refused("issued_before_start").await;
    assert_eq!(scene.handled(), 1);
    service.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_03_a_forged_message_does_not_poison_the_window() {
    let scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    // Any flipped byte is refused before it can touch the window.
    for position in (0..payload.len()).step_by(7) {
        let mut forged = payload.to_vec();
        forged[position] ^= 0x01;
        scene.inject(&subject, Some(&reply), forged.into()).await;
    }
    for _ in 0..50 {
        scene.still_answers().await;
    }
    assert_eq!(scene.handled(), 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_04_a_request_spliced_onto_another_subject_is_refused() {
    let scene = Scene::start().await;
    let (_, reply, payload) = scene.recorded_request("pay.charge").await;
    scene.inject("pay.refund", Some(&reply), payload).await;
    scene.refused("wrong_subject").await;
    scene.still_answers().await;
    assert_eq!(scene.handled(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_04_an_event_is_no_request_and_a_request_no_event() {
    let scene = Scene::start().await;
    let mut news = scene.pay.subscribe("news.shop").await.unwrap();
    let mut tap = scene.bus.tap("news.shop").await;
    scene.shop.publish("news.shop", "hello").await.unwrap();
    assert_eq!(
        news.next().await.unwrap().decode::<String>().unwrap(),
        "hello"
    );
    let event = tap.next().await.unwrap();
    scene.inject("pay.charge", None, event.payload).await;
    scene.refused("wrong_kind").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_the_reply_subject_cannot_be_swapped() {
    let scene = Scene::start().await;
    let (subject, _, payload) = scene.recorded_request("pay.charge").await;
    let elsewhere = scene.bus.peer_inbox("mallory", "x");
    scene
        .inject(&subject, Some(&elsewhere), payload.clone())
        .await;
    scene.refused("wrong_reply_to").await;
    scene.inject(&subject, None, payload).await;
    scene.still_answers().await;
    assert_eq!(scene.pay.stats().refused_for("wrong_reply_to"), 2);
    assert_eq!(scene.handled(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_a_reply_is_sent_only_into_the_senders_own_inbox() {
    let scene = Scene::start().await;
    // Mallory seals a sound request of her own whose replies are to go to the
    // shop, or to a subject where a service listens.
    let forger = Forger::genuine(&scene.bus, "mallory").await;
    for reply_to in [scene.bus.peer_inbox("shop", "x"), "news.shop".to_owned()] {
        let sealed = request_of(&forger, "pay.refund", &reply_to);
        scene.inject("pay.refund", Some(&reply_to), sealed).await;
        scene.refused("foreign_inbox").await;
    }
    scene.still_answers().await;
    assert_eq!(scene.pay.stats().refused_for("foreign_inbox"), 2);
    assert_eq!(scene.handled(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_a_forged_reply_does_not_end_the_wait() {
    let bus = Bus::start(POLICY).await;
    let shop = bus.client("shop").await;
    // Mallory sees the request (as whoever runs nats-server does) and answers
    // first: with rubbish, with an envelope of her own, with an old reply.
    let mallory = Forger::genuine(&bus, "mallory").await;
    let mut tap = bus.tap("pay.charge").await;
    let pay = bus.client("pay").await;
    let service = pay
        .serve("pay.charge", async |_: Message<String>| {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok::<_, ServiceError>("genuine")
        })
        .await
        .unwrap();
    // `pay` is the one that may publish into the shop's inbox.
    let injector = bus.raw_client("pay").await;
    let forging = tokio::spawn(async move {
        let request = tap.next().await.unwrap();
        let reply_to = request.reply.unwrap().to_string();
        let leaf = leaf_of(&request.payload);
        let forged = mallory.reply(&reply_to, leaf, b"\xa6forged");
        for payload in [Bytes::from_static(b"not an envelope"), forged] {
            injector.publish(reply_to.clone(), payload).await.unwrap();
        }
        injector.flush().await.unwrap();
    });
    let answer: String = shop.request("pay.charge", "10 euro").await.unwrap();
    forging.await.unwrap();
    assert_eq!(answer, "genuine");
    let refused = shop.stats().refused();
    assert!(refused.contains_key("not_granted"), "{refused:?}");
    assert!(refused.values().sum::<u64>() >= 2, "{refused:?}");
    service.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_05_an_answer_to_another_request_is_no_answer() {
    let bus = Bus::start(POLICY).await;
    let shop = bus.client("shop").await;
    // A process of the right workload, with an answer to some other request.
    let server = Forger::genuine(&bus, "pay").await;
    let mut tap = bus.tap("pay.charge").await;
    let raw = bus.raw_client("pay").await;
    let mut requests = raw
        .queue_subscribe("pay.charge", "pay".to_owned())
        .await
        .unwrap();
    raw.flush().await.unwrap();
    let answering = tokio::spawn(async move {
        let request = requests.next().await.unwrap();
        let reply_to = request.reply.unwrap().to_string();
        let right = leaf_of(&request.payload);
        let wrong = LeafHash([7; 32]);
        for (leaf, text) in [(wrong, b"\xa5wrong"), (right, b"\xa5right")] {
            let sealed = server.reply(&reply_to, leaf, text);
            raw.publish(reply_to.clone(), sealed).await.unwrap();
        }
        raw.flush().await.unwrap();
    });
    let answer: String = shop.request("pay.charge", "10 euro").await.unwrap();
    answering.await.unwrap();
    assert_eq!(answer, "right");
    assert_eq!(shop.stats().refused_for("wrong_request"), 1);
    assert!(tap.next().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_06_an_unsigned_message_never_reaches_the_handler() {
    let scene = Scene::start().await;
    let raw = scene.bus.raw_client("mallory").await;
    for payload in [&b""[..], b"{}", b"\xa5hello", b"\x95\x01"] {
        raw.publish_with_reply(
            "pay.refund",
            scene.bus.peer_inbox("mallory", "x"),
            payload.into(),
        )
        .await
        .unwrap();
    }
    raw.flush().await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while scene.pay.stats().refused().values().sum::<u64>() < 4 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            scene.pay.stats().refused()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scene.still_answers().await;
    assert_eq!(scene.handled(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_06_an_unknown_version_is_refused() {
    let scene = Scene::start().await;
    let (subject, reply, payload) = scene.recorded_request("pay.charge").await;
    let mut other = payload.to_vec();
    assert_eq!(other[1], 1, "the version is the array's first element");
    other[1] = 2;
    scene.inject(&subject, Some(&reply), other.into()).await;
    scene.refused("unsupported_version").await;
    assert_eq!(scene.handled(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_12_a_key_that_nobody_issued_is_refused() {
    let scene = Scene::start().await;
    // A credential by an authority of Mallory's own, for the shop.
    let forged = Forger::self_made(&scene.bus, "shop");
    let reply_to = scene.bus.peer_inbox("shop", "x");
    let sealed = request_of(&forged, "pay.charge", &reply_to);
    scene.inject("pay.charge", Some(&reply_to), sealed).await;
    scene.refused("unknown_key").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_12_a_published_key_of_a_foreign_authority_is_refused() {
    let scene = Scene::start().await;
    let forged = Forger::self_made(&scene.bus, "shop");
    // Even where a stolen broker writes it to the control stream.
    forged.publish(&scene.bus).await;
    let reply_to = scene.bus.peer_inbox("shop", "x");
    let sealed = request_of(&forged, "pay.charge", &reply_to);
    scene.inject("pay.charge", Some(&reply_to), sealed).await;
    scene.refused("unknown_issuer").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_29_a_lying_broker_cannot_speak_as_a_workload() {
    let scene = Scene::start().await;
    // The true issuing key, but no countersignature of the shop's nkey.
    let forged = Forger::by_lying_broker(&scene.bus, "shop");
    forged.publish(&scene.bus).await;
    let reply_to = scene.bus.peer_inbox("shop", "x");
    let sealed = request_of(&forged, "pay.charge", &reply_to);
    scene.inject("pay.charge", Some(&reply_to), sealed).await;
    scene.refused("foreign_nkey").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_12_a_right_key_on_a_subject_that_is_not_its_own_is_refused() {
    let scene = Scene::start().await;
    // nats-server would not let Mallory publish here; whoever runs it would.
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let sealed = request_of(&mallory, "pay.charge", &reply_to);
    scene.inject("pay.charge", Some(&reply_to), sealed).await;
    scene.refused("not_granted").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_19_a_message_from_the_future_or_the_past_is_refused() {
    let scene = Scene::start().await;
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let hour = Duration::from_secs(60);
    for (at, code) in [
        (now().saturating_add(hour), "future"),
        (now().saturating_sub(hour), "issued_before_start"),
    ] {
        let sealed = mallory.request("pay.refund", &reply_to, at, b"\xa710 euro");
        scene.inject("pay.refund", Some(&reply_to), sealed).await;
        scene.refused(code).await;
    }
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_22_a_proof_moved_to_another_message_is_refused() {
    let scene = Scene::start().await;
    let mallory = Forger::genuine(&scene.bus, "mallory").await;
    let reply_to = scene.bus.peer_inbox("mallory", "x");
    let one = request_of(&mallory, "pay.refund", &reply_to);
    let two = request_of(&mallory, "pay.refund", &reply_to);
    assert_eq!(one.len(), two.len());
    // The last 64 bytes of an envelope are the batch's signature.
    let mut moved = one.to_vec();
    let at = moved.len() - 64;
    moved[at..].copy_from_slice(&two[at..]);
    scene
        .inject("pay.refund", Some(&reply_to), moved.into())
        .await;
    scene.refused("bad_signature").await;
    assert_eq!(scene.handled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_23_a_refusal_tells_the_peer_nothing() {
    let bus = Bus::start(POLICY).await;
    let pay = bus.client("pay").await;
    let service = pay
        .serve("pay.users_only", async |_: Message<String>| {
            Ok::<_, ServiceError>("ran")
        })
        .await
        .unwrap();
    // The shop's own preflight would explain in full; a raw sealer skips it.
    let shop = bus.client("shop").await;
    let error = shop
        .request::<_, String>("pay.users_only", "x")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("user"), "{error}");
    let sealer = Forger::genuine(&bus, "shop").await;
    let raw = bus.raw_client("shop").await;
    let reply_to = bus.peer_inbox("shop", "x");
    let mut replies = raw.subscribe(reply_to.clone()).await.unwrap();
    let sealed = request_of(&sealer, "pay.users_only", &reply_to);
    raw.publish_with_reply("pay.users_only", reply_to, sealed)
        .await
        .unwrap();
    let reply = tokio::time::timeout(Duration::from_secs(5), replies.next())
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8_lossy(&reply.payload);
    for word in ["user", "required", "rule", "denied", "policy"] {
        assert!(!text.contains(word), "the reply holds `{word}`");
    }
    assert!(
        SealedEnvelope::decode(reply.payload).is_ok(),
        "a refusal is a signed envelope"
    );
    assert_eq!(pay.stats().refused_for("user_required"), 1);
    service.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_responder_is_told_at_once() {
    let bus = Bus::start(POLICY).await;
    let shop = bus.client("shop").await;
    let start = tokio::time::Instant::now();
    let error = shop
        .request::<_, String>("pay.charge", "x")
        .await
        .unwrap_err();
    assert!(
        matches!(error, RequestError::NoResponders { .. }),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(2));
}

fn request_of(forger: &Forger, subject: &str, reply_to: &str) -> Bytes {
    forger.request(subject, reply_to, now(), b"\xa710 euro")
}

//! A workload that turned bad, with a valid nkey and a raw NATS client, against
//! a service on Bulla. Each test fails if its defence is taken out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod brokers;
mod chains;
mod claims;
mod clock;
mod clones;
mod downgrade;
mod encrypted;
mod heads;
mod inboxes;
mod keys;
mod leaks;
mod macs;
mod proofs;
mod reach;
mod replay;
mod replies;
mod snooping;
mod storm;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bulla_envelope::{LeafHash, SealedEnvelope};
use bulla_sdk::{Client, Message, RequestError, Service, ServiceError, ServiceErrorCode};
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
[workload.bank]
attest = [{ nkey = "@bank@" }]
# Sees what whoever runs nats-server sees.
[workload.wiretap]
attest = [{ nkey = "@wiretap@" }]

[subject."pay.users_only"]
user = "required"
[subject."pay.quick"]
max_age = "1s"
[subject."pay.fast"]
replies = "mac"
[subject."vault.>"]
protect = "encrypted"

[[allow]]
id = "shop-asks"
who = ["shop"]
may = ["request"]
on = ["pay.charge", "pay.refund", "pay.users_only", "pay.quick", "pay.fast"]

[[allow]]
id = "mallory-may-ask-one"
who = ["mallory"]
may = ["request"]
on = ["pay.refund"]

[[allow]]
id = "pay-answers"
who = ["pay"]
may = ["serve"]
on = ["pay.charge", "pay.refund", "pay.users_only", "pay.quick", "pay.fast"]

[[allow]]
id = "vault-puts"
who = ["shop", "mallory"]
may = ["request"]
on = ["vault.put"]
[[allow]]
id = "vault-copies"
who = ["shop"]
may = ["request"]
on = ["vault.copy"]
[[allow]]
id = "pay-keeps"
who = ["pay"]
may = ["serve"]
on = ["vault.put"]
[[allow]]
id = "bank-keeps"
who = ["bank"]
may = ["serve"]
on = ["vault.copy"]

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
on = ["pay.charge", "pay.refund", "vault.put"]
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
        Self::start_with(POLICY).await
    }

    async fn start_with(policy: &str) -> Self {
        let bus = Bus::start(policy).await;
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

    /// Waits until handlers have run so often.
    async fn handled_at_least(&self, count: u64) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while self.handled() < count {
            let refused = self.pay.stats().refused();
            assert!(tokio::time::Instant::now() < deadline, "{refused:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Why `pay` refuses this message.
    async fn refusal(&self, subject: &str, reply_to: &str, payload: Bytes) -> &'static str {
        let before = self.pay.stats().refused();
        self.inject(subject, Some(reply_to), payload).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        loop {
            let after = self.pay.stats().refused();
            if let Some(code) = after
                .keys()
                .find(|code| after.get(*code) != before.get(*code))
            {
                return code;
            }
            assert!(tokio::time::Instant::now() < deadline, "not refused");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Proves that the service still answers, and that what was sent before by
    /// anybody has been looked at.
    async fn still_answers(&self) {
        let barrier = bulla_identity::reserved::BARRIER;
        let _ = self.raw_shop.request(barrier, "".into()).await;
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

/// Waits for something that other tasks bring about.
async fn eventually(mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "it did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn request_of(forger: &Forger, subject: &str, reply_to: &str) -> Bytes {
    forger.request(subject, reply_to, now(), b"\xa710 euro")
}

/// This program again, as a broker: see [`bulla_tests::BrokerProcess`].
#[test]
fn broker_process() {
    bulla_tests::broker_process();
}

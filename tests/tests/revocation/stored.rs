//! What a stream stored before a revocation counts, what it stored after does not.

use std::time::Duration;

use bulla_envelope::{MessageId, Revoked};
use bulla_identity::reserved;
use bulla_sdk::Client;
use bulla_tests::{Bus, Forger, now};
use bytes::Bytes;
use tokio::time::timeout;

use super::{POLICY, eventually};

/// Appends what somebody sealed.
async fn append(bus: &Bus, id: u8, sealed: Bytes) {
    let context = async_nats::jetstream::new(bus.js_client().await);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", data_encoding::HEXLOWER.encode(&[id; 16]));
    context
        .publish_with_headers("orders.17", headers, sealed)
        .await
        .unwrap()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_messages_count_until_the_time_from_which_their_sender_is_revoked() {
    for by_key in [false, true] {
        let bus = Bus::start(POLICY).await;
        let back = bus.client("back").await;
        let forger = Forger::genuine(&bus, "front").await;
        let seal = |id: u8| {
            let life = Duration::from_secs(20);
            forger.event_with_id("orders.17", MessageId([id; 16]), now(), life, b"\xa1x")
        };
        append(&bus, 1, seal(1)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let since = now();
        tokio::time::sleep(Duration::from_millis(50)).await;
        append(&bus, 2, seal(2)).await;
        let (what, code) = if by_key {
            (Revoked::Key(forger.credential().id()), "key_revoked")
        } else {
            (Revoked::Workload(bus.workload("front")), "workload_revoked")
        };
        bus.revoke_since(what, since).await;
        eventually(|| back.revocations().sequence() == 1).await;

        let mut orders = back.consume("ORDERS", "back").await.unwrap();
        let first = timeout(Duration::from_secs(10), orders.next()).await;
        let first = first.expect("the earlier one counts").unwrap();
        assert_eq!(first.message().id(), MessageId([1; 16]));
        first.ack().await.unwrap();
        // What was just found for the earlier one must not help this one …
        let second = timeout(Duration::from_millis(800), orders.next()).await;
        assert!(second.is_err(), "{second:?}");
        assert_eq!(back.stats().refused_for(code), 1);
        // … and nothing that comes now, though its stored message counts.
        let mut heard = back.subscribe("news.told").await.unwrap();
        let courier = bus.raw_client("courier").await;
        let sealed = forger.event("news.told", now(), b"\xa1x");
        courier.publish("news.told", sealed).await.unwrap();
        let live = timeout(Duration::from_millis(500), heard.next()).await;
        assert!(live.is_err(), "accepted");
        assert_eq!(back.stats().refused_for(code), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_message_waits_while_nobody_confirms_what_is_held() {
    let bus = Bus::start(POLICY).await;
    let options = bus
        .connect_options("back")
        .revocations_bound(Duration::from_secs(3));
    let back = Client::connect(options).await.unwrap();
    let mut orders = back.consume("ORDERS", "back").await.unwrap();
    let forger = Forger::genuine(&bus, "front").await;
    bus.freeze(&[reserved::CTL_HEAD]).await;
    eventually(|| back.standing().is_err()).await;
    let life = Duration::from_secs(20);
    let sealed = forger.event_with_id("orders.17", MessageId([1; 16]), now(), life, b"\xa1x");
    append(&bus, 1, sealed).await;
    let got = timeout(Duration::from_millis(1_000), orders.next()).await;
    assert!(got.is_err(), "{got:?}");
    assert!(back.stats().refused_for("revocations_stale") > 0);
    bus.thaw().await;
    eventually(|| back.standing().is_ok()).await;
    let got = timeout(Duration::from_secs(10), orders.next()).await;
    let got = got.expect("it comes again").unwrap();
    assert_eq!(got.message().id(), MessageId([1; 16]));
}

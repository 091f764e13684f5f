//! Rules that end, keep hours or know networks, on a live bus.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use bulla_identity::UnixMillis;
use bulla_sdk::{PublishError, SendError};
use bulla_tests::{Bus, Forger, RawSocket, now};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `front` may publish until then; to request, which nats-server cannot tell
/// from it, always.
fn policy(end: UnixMillis) -> String {
    let end = OffsetDateTime::from_unix_timestamp(i64::try_from(end.as_secs()).unwrap());
    let end = end.unwrap().format(&Rfc3339).unwrap();
    format!(
        r#"
version = 1
trust_domain = "acme.example"

[workload.front]
attest = [{{ nkey = "@front@" }}]
[workload.back]
attest = [{{ nkey = "@back@" }}]

[[allow]]
id = "front-tells-for-a-while"
who = ["front"]
may = ["publish"]
on = ["events.a", "brief"]
expires = {end}
break_glass = true

[[allow]]
id = "front-asks"
who = ["front"]
may = ["request"]
on = ["events.a"]

[[allow]]
id = "back-listens"
who = ["back"]
may = ["subscribe", "serve"]
on = ["events.a"]

[[allow]]
id = "from-here"
who = ["front"]
may = ["publish"]
on = ["near"]
network = ["127.0.0.0/8", "::1"]

[[allow]]
id = "from-there"
who = ["front"]
may = ["publish"]
on = ["far"]
network = ["192.0.2.0/24"]

[[deny]]
id = "not-from-here"
who = ["front"]
may = ["publish"]
on = ["kept.*"]
network = ["127.0.0.0/8", "::1"]

[[allow]]
id = "from-anywhere"
who = ["front"]
may = ["publish"]
on = ["kept.from-here"]
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_refused_by_sender_receiver_and_server() {
    let end = UnixMillis::from_secs(now().as_secs() + 12);
    let bus = Bus::start(&policy(end)).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let mut events = back.subscribe("events.a").await.unwrap();
    let forger = Forger::genuine(&bus, "front").await;
    let raw = bus.raw_client("front").await;
    let mut socket = bus.raw_socket("front").await;

    assert!(!socket.is_refused("PUB brief 0\r\n").await);
    assert!(!socket.is_refused("PUB near 0\r\n").await, "from 127.0.0.1");
    assert!(socket.is_refused("PUB far 0\r\n").await, "from 127.0.0.1");
    let kept = "PUB kept.from-here 0\r\n";
    assert!(socket.is_refused(kept).await, "from 127.0.0.1");

    // Both ends remember their decisions of these.
    front.publish("events.a", &1u32).await.unwrap();
    front.flush().await.unwrap();
    raw.publish("events.a", forger.event("events.a", now(), b"\x02"))
        .await
        .unwrap();
    for _ in 0..2 {
        let next = tokio::time::timeout(Duration::from_secs(5), events.next());
        next.await.expect("in time").expect("a message");
    }
    // Once more shortly before, so that the receiver remembers what it decided when
    // the time comes.
    while now() < end.saturating_sub(Duration::from_millis(1_500)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for body in [b"\x05", b"\x06"] {
        raw.publish("events.a", forger.event("events.a", now(), body))
            .await
            .unwrap();
        let next = tokio::time::timeout(Duration::from_secs(5), events.next());
        next.await.expect("in time").expect("a message");
    }
    assert!(now() < end, "the machine is too slow for this test");

    // nats-server ends the connection itself, to the second.
    let mut told = false;
    while let Some(line) = socket.line().await {
        told |= line.contains("Expired");
    }
    assert!(told, "it ended for another reason");
    assert!(now() >= end.saturating_sub(Duration::from_secs(1)));
    while now() < end.saturating_add(Duration::from_millis(50)) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut again = RawSocket::connect(bus.nats_url()).await;
    let login = RawSocket::login_of(&bus.seed("front"), again.nonce());
    assert!(again.log_in(&login).await, "it may still connect");
    assert!(again.is_refused("PUB brief 0\r\n").await);
    assert!(!again.is_refused("PUB events.a 0\r\n").await);

    let Err(refused) = front.publish("events.a", &3u32).await else {
        panic!("the sender still publishes");
    };
    let PublishError::Send(SendError::Denied { denial, .. }) = refused else {
        panic!("{refused}");
    };
    assert_eq!(denial.reason().code(), "rule_expired");

    // What the sender's own end would not send, the receiver does not take.
    let raw = bus.raw_client("front").await;
    let told = async {
        while back.stats().refused_for("rule_expired") == 0 {
            let forged = forger.event("events.a", now(), b"\x04");
            raw.publish("events.a", forged).await.unwrap();
            let next = tokio::time::timeout(Duration::from_millis(100), events.next());
            assert!(next.await.is_err(), "the receiver took it");
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(5), told).await;
    assert!(told.is_ok(), "{:?}", back.stats());
    // A client of the SDK has come back by itself.
    front.flush().await.unwrap();
}

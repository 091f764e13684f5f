//! Who loses a right loses it at once, and nobody else notices.

use std::time::Duration;

use bulla_tests::{Bus, RawSocket};
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};

use super::{POLICY, PROMISE, connections_of, until};

async fn log_in(bus: &Bus, seed: &str) -> Option<RawSocket> {
    let mut socket = RawSocket::connect(bus.nats_url()).await;
    let login = RawSocket::login_of(&bus.seed(seed), socket.nonce());
    socket.log_in(&login).await.then_some(socket)
}

/// Until nats-server has ended the connection.
async fn ended(mut socket: RawSocket) {
    while socket.line().await.is_some() {}
}

#[tokio::test]
async fn attack_15_who_loses_a_right_is_ended_and_nobody_else_loses_a_message() {
    let bus = Bus::start(POLICY).await;
    let mut orders = bus.raw_socket("orders").await;
    let (other, listener) = (
        bus.raw_client("other").await,
        bus.raw_client("listener").await,
    );
    let mut heard = listener.subscribe("b.one").await.unwrap();
    let mut of_orders = listener.subscribe("a.>").await.unwrap();
    listener.flush().await.unwrap();
    assert!(!orders.is_refused("PUB a.two 1\r\nx").await);
    let before = [
        connections_of(&bus, "other").await,
        connections_of(&bus, "listener").await,
    ];

    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let sending = tokio::spawn(async move {
        let mut sent = 0_u64;
        while stopped.try_recv().is_err() {
            other
                .publish("b.one", sent.to_string().into())
                .await
                .unwrap();
            sent += 1;
            sleep(Duration::from_millis(1)).await;
        }
        other.flush().await.unwrap();
        (sent, other)
    });
    let counting = tokio::spawn(async move {
        let mut next = 0_u64;
        while let Ok(Some(message)) = timeout(PROMISE, heard.next()).await {
            assert_eq!(message.payload, next.to_string(), "one was lost");
            next += 1;
        }
        next
    });
    sleep(Duration::from_millis(200)).await;
    bus.publish_policy(&POLICY.replace("\"a.one\", \"a.two\"", "\"a.one\""))
        .await;
    timeout(PROMISE, ended(orders)).await.expect("it is ended");

    // From then on nothing of it passes.
    while timeout(Duration::ZERO, of_orders.next()).await.is_ok() {}
    let mut orders = log_in(&bus, "orders").await.expect("it may come back");
    assert!(orders.is_refused("PUB a.two 1\r\nx").await);
    assert!(!orders.is_refused("PUB a.one 1\r\nx").await);
    let message = timeout(PROMISE, of_orders.next()).await.unwrap().unwrap();
    assert_eq!(message.subject.as_str(), "a.one");

    sleep(2 * PROMISE).await;
    stop.send(()).unwrap();
    let (sent, _other) = sending.await.unwrap();
    assert_eq!(counting.await.unwrap(), sent, "nobody else notices");
    let after = [
        connections_of(&bus, "other").await,
        connections_of(&bus, "listener").await,
    ];
    assert_eq!(before, after, "their connections are the same");
}

#[tokio::test]
async fn attack_15_a_workload_or_key_that_the_policy_drops_is_ended_and_stays_out() {
    let bus = Bus::start(POLICY).await;
    let (orders, spare) = (
        bus.raw_socket("orders").await,
        log_in(&bus, "spare").await.unwrap(),
    );
    assert_eq!(connections_of(&bus, "orders").await.len(), 2);
    // One of its keys.
    bus.publish_policy(&POLICY.replace(", { nkey = \"@spare@\" }", ""))
        .await;
    timeout(PROMISE, ended(spare))
        .await
        .expect("its key is dropped");
    assert!(log_in(&bus, "spare").await.is_none());
    assert_eq!(connections_of(&bus, "orders").await.len(), 1);
    // All of it.
    let without = POLICY.replace(
        "[workload.orders]\nattest = [{ nkey = \"@orders@\" }, { nkey = \"@spare@\" }]\n",
        "",
    );
    bus.publish_policy(&without.replace("[\"orders\"]", "[\"other\"]"))
        .await;
    timeout(PROMISE, ended(orders))
        .await
        .expect("it is dropped");
    assert!(log_in(&bus, "orders").await.is_none());
}

#[tokio::test]
async fn who_only_gains_connects_anew_by_itself_and_is_not_ended() {
    let bus = Bus::start(POLICY).await;
    let client = bus.client("orders").await;
    let own = connections_of(&bus, "orders").await;
    let _raw = log_in(&bus, "spare").await.unwrap();
    let both = connections_of(&bus, "orders").await;
    let [raw] = both
        .iter()
        .filter(|cid| !own.contains(cid))
        .copied()
        .collect::<Vec<_>>()[..]
    else {
        panic!("one more: {both:?}");
    };
    bus.publish_policy(
        &POLICY.replace("\"a.one\", \"a.two\"", "\"a.one\", \"a.two\", \"a.three\""),
    )
    .await;
    let took = until(Duration::from_secs(6), async || {
        let now = connections_of(&bus, "orders").await;
        now.len() == 2 && !own.iter().any(|cid| now.contains(cid))
    })
    .await;
    println!("a client without work connects anew after {took:?}");
    let now = connections_of(&bus, "orders").await;
    assert!(
        now.contains(&raw),
        "who knows nothing of it is left in peace"
    );
    client.publish("a.three", "x").await.unwrap();
    client.flush().await.unwrap();
}

#[tokio::test]
async fn who_needs_what_it_gained_does_not_wait() {
    let bus = Bus::start(POLICY).await;
    let client = bus.client("other").await;
    let own = connections_of(&bus, "other").await;
    let more = POLICY.replace("\"b.one\"", "\"b.one\", \"b.two\"");
    bus.publish_policy(&more).await;
    until(PROMISE, async || client.policy().revision() == 2).await;
    // nats-server does not know yet; that it refuses is the sign.
    client.publish("b.two", "x").await.unwrap();
    let took = until(Duration::from_secs(4), async || {
        connections_of(&bus, "other").await != own
    })
    .await;
    println!("after a refusal it connects anew after {took:?}");
    until(PROMISE, async || client.is_connected()).await;
    // What it was refused before is told once, and then it passes.
    let _ = client.flush().await;
    client.publish("b.two", "x").await.unwrap();
    client.flush().await.unwrap();
}

//! Everybody who is connected obeys within a second.

use std::time::{Duration, Instant};

use bulla_envelope::Revoked;
use bulla_sdk::Subscription;
use bulla_tests::{Bus, Forger, now};
use tokio::task::JoinSet;

use super::POLICY;

const ENFORCERS: usize = 50;
/// What is promised to who is connected.
const PROMISE: Duration = Duration::from_secs(1);

/// Until nothing was accepted for a while; when the last was.
async fn last_accepted(mut heard: Subscription) -> Instant {
    let mut last = Instant::now();
    while let Ok(Some(_)) = tokio::time::timeout(2 * PROMISE, heard.next()).await {
        last = Instant::now();
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_enforcers_refuse_a_revoked_workload_within_a_second() {
    let bus = Bus::start(POLICY).await;
    let mut clients = Vec::new();
    for _ in 0..ENFORCERS {
        clients.push(bus.client("back").await);
    }
    let mut watching = JoinSet::new();
    for client in &clients {
        let heard = client.subscribe("news.told").await.unwrap();
        watching.spawn(last_accepted(heard));
    }
    // Sealed by `front`, delivered by somebody whose connection nobody ends.
    let forger = Forger::genuine(&bus, "front").await;
    let courier = bus.raw_client("courier").await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let sending = tokio::spawn(async move {
        let mut sent = 0_u64;
        while stopped.try_recv().is_err() {
            let sealed = forger.event("news.told", now(), b"\xa1x");
            courier.publish("news.told", sealed).await.unwrap();
            sent += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sent
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    for client in &clients {
        assert!(client.stats().delivered() > 0, "it heard of front before");
    }

    let front = bus.workload("front");
    let revoked_at = Instant::now();
    bus.revoke(Revoked::Workload(front)).await;
    let mut lags = Vec::new();
    while let Some(last) = watching.join_next().await {
        lags.push(last.unwrap().saturating_duration_since(revoked_at));
    }
    stop.send(()).unwrap();
    let sent = sending.await.unwrap();
    lags.sort_unstable();
    println!(
        "{ENFORCERS} enforcers, {sent} messages: last accepted after the list was handed to the stream, \
         fastest {:?}, median {:?}, 90th {:?}, slowest {:?}",
        lags[0],
        lags[lags.len() / 2],
        lags[lags.len() * 9 / 10],
        lags[lags.len() - 1]
    );
    assert_eq!(lags.len(), ENFORCERS);
    assert!(lags[ENFORCERS - 1] < PROMISE, "{lags:?}");
    for client in &clients {
        let refused = client.stats().refused_for("workload_revoked");
        assert!(refused > 10, "{:?}", client.stats().refused());
    }
}

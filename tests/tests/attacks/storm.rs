//! 25: everybody comes at once.

use std::sync::Arc;

use bulla_broker::callout::Group;
use bulla_keyring::NkeySeed;
use bulla_tests::{BrokerProcess, BusOptions, RawSocket};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::*;

/// An unoptimized build takes some ten seconds for them; `just storm` has 2,000 come.
const CLIENTS: usize = 500;
const LIMIT: Duration = Duration::from_secs(90);

/// No broker answers, and hundreds of clients try again and again: nats-server
/// gives each attempt up after two seconds. Then a broker comes. One that worked
/// off what had piled up, first in, first out, would answer nobody in time ever
/// again; this one lets few wait and drops what has no time left.
#[tokio::test(flavor = "multi_thread")]
async fn attack_25_a_storm_of_connections_is_weathered_and_nobody_stays_outside() {
    let clients = std::env::var("BULLA_STORM_CLIENTS").ok();
    let count = clients.map_or(CLIENTS, |n| n.parse().unwrap());
    let bus = Bus::start_with(BusOptions {
        brokers: Vec::new(),
        ..BusOptions::new(POLICY)
    })
    .await;
    let url: Arc<str> = bus.nats_url().into();
    let seed = Arc::new(bus.seed("shop"));
    let mut clients = JoinSet::new();
    for number in 0..count {
        clients.spawn(comes_in(Arc::clone(&url), Arc::clone(&seed), number));
    }
    // Longer than an attempt may take: the first ones have been given up.
    sleep(Duration::from_secs(3)).await;
    assert!(clients.try_join_next().is_none(), "nobody lets anybody in");

    let broker = BrokerProcess::start(&bus, Group::Both).await;
    let begun = Instant::now();
    let watched = async {
        let mut most: f64 = 0.0;
        loop {
            most = most.max(broker.metric("bulla_broker_callout_waiting", &[]).await);
            // The queue's bound, and the one at either end of it, however many come.
            assert!(most <= 258.0, "{most}");
            if begun.elapsed() > LIMIT {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let (mut inside, mut took, mut attempts) = (Vec::new(), Vec::new(), 0);
    let all = async {
        while inside.len() < count {
            let left = LIMIT.saturating_sub(begun.elapsed());
            let Ok(client) = timeout(left, clients.join_next()).await else {
                panic!("{} of {count} are in after {LIMIT:?}", inside.len());
            };
            let (socket, tried) = client.unwrap().unwrap();
            inside.push(socket);
            took.push(begun.elapsed());
            attempts += tried;
        }
    };
    tokio::select! {
        () = all => {}
        () = watched => panic!("not everybody is in"),
    }
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!(
        "{count} clients are in, with {attempts} attempts: half after {:?}, p99 {:?}, all {:?}",
        at(50),
        at(99),
        at(100)
    );
    // Nothing waits behind the storm, and nats-server has dropped nothing.
    let after = Instant::now();
    bus.raw_client("pay").await;
    assert!(
        after.elapsed() < Duration::from_secs(2),
        "{:?}",
        after.elapsed()
    );
    let answer = bus
        .sys_client()
        .await
        .request("$SYS.REQ.SERVER.PING.VARZ", "".into())
        .await
        .unwrap();
    let server: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(server["data"]["slow_consumers"], 0);
    assert!(server["data"]["connections"].as_u64().unwrap() >= count as u64);
    // They are in as themselves.
    let last = inside.last_mut().unwrap();
    assert!(last.is_refused("SUB pay.charge 1").await);
}

/// Tries until it is let in, as client libraries do, with a pause in between.
async fn comes_in(url: Arc<str>, seed: Arc<NkeySeed>, number: usize) -> (RawSocket, usize) {
    for attempt in 1.. {
        let mut socket = RawSocket::connect(&url).await;
        let login = RawSocket::login_of(&seed, socket.nonce());
        if socket.log_in(&login).await {
            return (socket, attempt);
        }
        let spread = (number * 7 + attempt * 131) % 1_000;
        sleep(Duration::from_millis(500 + spread as u64)).await;
    }
    unreachable!("attempts never end")
}

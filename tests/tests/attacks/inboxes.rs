//! 32: answering in the place of somebody else, by knowing or guessing where the
//! answer is waited for.

use std::collections::BTreeSet;

use bulla_identity::reserved;

use super::*;

/// Where nats-server and brokers answer, nobody else can write, not even who may
/// answer that workload's requests.
#[tokio::test(flavor = "multi_thread")]
async fn attack_32_nobody_writes_where_the_server_and_brokers_answer() {
    let scene = Scene::start().await;
    let shop = scene.bus.workload("shop").tag();
    for who in ["mallory", "pay", "shop"] {
        let mut socket = scene.bus.raw_socket(who).await;
        let server_half = reserved::inbox_server(shop);
        for end in ["x", "x.y", "x.y.z"] {
            let publish = format!("PUB {server_half}.{end} 0\r\n");
            assert!(socket.is_refused(&publish).await, "{who}: {publish}");
        }
        // What serves the shop answers in the other half; nobody else does.
        let publish = format!("PUB {}.x.y 0\r\n", reserved::inbox_peers(shop));
        assert_eq!(socket.is_refused(&publish).await, who != "pay", "{who}");
    }
    scene.still_answers().await;
}

/// A service sees the reply subjects of the requests that it answers. They tell it
/// nothing of the next one.
#[tokio::test(flavor = "multi_thread")]
async fn attack_32_reply_subjects_tell_nothing_of_the_next() {
    let scene = Scene::start().await;
    let mut tap = scene.bus.tap("pay.charge").await;
    let mut ends = BTreeSet::new();
    let mut spaces = BTreeSet::new();
    for _ in 0..32 {
        let _: String = scene.shop.request("pay.charge", "10 euro").await.unwrap();
        let reply = tap.next().await.unwrap().reply.unwrap().to_string();
        let (space, end) = reply.rsplit_once('.').unwrap();
        spaces.insert(space.to_owned());
        ends.insert(u128::from_str_radix(end, 16).unwrap());
    }
    assert_eq!((spaces.len(), ends.len()), (1, 32));
    // Neither counted nor close to each other: any two differ in about half of
    // their bits, and 64 of 128 random bits miss by 40 once in 10^12.
    let ends: Vec<u128> = ends.into_iter().collect();
    for (n, a) in ends.iter().enumerate() {
        for b in &ends[n + 1..] {
            let differing = (a ^ b).count_ones();
            assert!((24..=104).contains(&differing), "{a:x} and {b:x}");
        }
    }
    // Another process of the same workload listens elsewhere.
    let other = scene.bus.client("shop").await;
    let _: String = other.request("pay.charge", "10 euro").await.unwrap();
    let reply = tap.next().await.unwrap().reply.unwrap().to_string();
    assert!(!spaces.contains(reply.rsplit_once('.').unwrap().0));
}

//! What a message costs in allocations, on the way that messages usually take: counted,
//! printed under the names of the benchmarks, and held to bounds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::alloc::System;

use bulla_sdk::testing::TestBus;
use bulla_sdk::{Client, Message, ServiceError};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"
[workload.ping]
attest = [{ nkey = "@ping@" }]
[workload.pong]
attest = [{ nkey = "@pong@" }]
[subject."echo"]
replay = "window"
[[allow]]
id = "ping-sends"
who = ["ping"]
may = ["publish", "request"]
on = ["many.*", "heard.*", "one", "echo"]
[[allow]]
id = "pong-receives"
who = ["pong"]
may = ["subscribe", "serve"]
on = ["heard.*", "echo"]
"#;

const MESSAGES: usize = 10_000;

/// Allocations for each of what `work` does [`MESSAGES`] times, once it is warm.
async fn count(name: &str, mut work: impl AsyncFnMut(usize)) -> f64 {
    work(MESSAGES / 10).await;
    let region = Region::new(MEMORY);
    work(MESSAGES).await;
    let change = region.change();
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2⁵²")]
    let each = (change.allocations + change.reallocations) as f64 / MESSAGES as f64;
    println!("{name:<28} {each:6.2}");
    each
}

/// Publishes to a hundred subjects in turn, each message in an envelope of its own.
async fn publish(client: &Client, subjects: &[String], messages: usize) {
    for subject in subjects.iter().cycle().take(messages) {
        client.publish(subject, "two bowls").await.unwrap();
    }
    client.flush().await.unwrap();
}

// One test alone: another one's tasks would allocate meanwhile.
#[tokio::test]
async fn a_message_allocates_little() {
    let bus = TestBus::start(POLICY).unwrap();
    let ping = bus.client("ping").await.unwrap();
    let pong = bus.client("pong").await.unwrap();
    let subjects = |first: &str| -> Vec<String> {
        (0..100).map(|number| format!("{first}.{number}")).collect()
    };

    // Nobody listens, so that nothing but sending is counted.
    let (many, one) = (subjects("many"), vec!["one".to_owned()]);
    let sent = count("sdk.allocs_per_publish", async |n| {
        publish(&ping, &many, n).await
    })
    .await;
    let framed = count("sdk.allocs_per_framed", async |n| {
        publish(&ping, &one, n).await
    })
    .await;

    let heard = subjects("heard");
    let mut feed = pong.subscribe("heard.*").await.unwrap();
    let both = count("sdk.allocs_per_publish_and_receive", async |n| {
        publish(&ping, &heard, n).await;
        for _ in 0..n {
            feed.next().await.unwrap();
        }
    });
    let both = both.await;

    let echo = async |message: Message<String>| Ok::<_, ServiceError>(message.into_payload());
    let _service = pong.serve("echo", echo).await.unwrap();
    let asked = count("sdk.allocs_per_request", async |n| {
        for _ in 0..n {
            let _: String = ping.request("echo", "two bowls").await.unwrap();
        }
    });
    let asked = asked.await;

    assert!(sent <= 6.0, "{sent} allocations for a publish");
    assert!(
        framed <= 6.0,
        "{framed} allocations for a message of a frame"
    );
    assert!(both - sent <= 4.0, "{} allocations to receive", both - sent);
    assert!(
        asked <= 80.0,
        "{asked} allocations for a request and its reply"
    );
}

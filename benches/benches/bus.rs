//! Sealed messages beside raw async-nats on one nats-server, in one run.
//!
//! `cargo bench -p bulla-benches`. Publisher, subscriber, nats-server and broker
//! share the machine's cores, as they do for the raw baseline.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::{Duration, Instant};

use bulla_benches::Report;
use bulla_sdk::{Client, ContentType, Message, Reply, ServiceError};
use bulla_tests::Bus;
use bytes::Bytes;
use futures_util::StreamExt;
use hdrhistogram::Histogram;

const ROUNDS: usize = 7;
const RAW_MESSAGES: usize = 100_000;
const SEALED_MESSAGES: usize = 50_000;
const REQUESTS: usize = 1_500;
const SIZES: [usize; 3] = [64, 256, 1_024];

const POLICY: &str = r#"
version = 1
trust_domain = "bench.example"

[workload.ping]
attest = [{ nkey = "@ping@" }]
[workload.pong]
attest = [{ nkey = "@pong@" }]
[[allow]]
id = "ping-sends"
who = ["ping"]
may = ["publish", "request"]
on = ["bench.events", "bench.echo", "raw.events", "raw.echo"]

[[allow]]
id = "pong-receives"
who = ["pong"]
may = ["subscribe"]
on = ["bench.events", "raw.events"]

[[allow]]
id = "pong-answers"
who = ["pong"]
may = ["serve"]
on = ["bench.echo", "raw.echo"]
"#;

#[tokio::main]
async fn main() {
    // `cargo test --benches` passes this to see that it starts.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let bus = Bus::start(POLICY).await;
    let mut report = Report::default();

    let ping = bus.client("ping").await;
    let pong = bus.client("pong").await;
    let raw_ping = bus.raw_client("ping").await;
    let raw_pong = bus.raw_client("pong").await;

    for size in SIZES {
        let mut rounds = Vec::new();
        for round in 0..=ROUNDS {
            let raw = raw_throughput(&raw_ping, &raw_pong, size).await;
            let sealed = sealed_throughput(&ping, &pong, size).await;
            eprintln!("pub+sub {size} B, round {round}: sealed {sealed:.0}/s, raw {raw:.0}/s");
            // The first round warms up.
            if round > 0 {
                rounds.push((sealed, raw));
            }
        }
        report.add(format!("pubsub.signed.{size}"), "msg/s", &rounds);
    }

    let service = pong
        .serve_raw("bench.echo", async |m: Message<Bytes>| {
            Ok::<_, ServiceError>(Reply::bytes(m.content_type().clone(), m.into_payload()))
        })
        .await
        .unwrap();
    let mut requests = raw_pong
        .queue_subscribe("raw.echo", "pong".into())
        .await
        .unwrap();
    raw_pong.flush().await.unwrap();
    tokio::spawn({
        let raw_pong = raw_pong.clone();
        async move {
            while let Some(m) = requests.next().await {
                if let Some(reply) = m.reply {
                    let _ = raw_pong.publish(reply, m.payload).await;
                }
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let raw = raw_latency(&raw_ping).await;
        let sealed = sealed_latency(&ping).await;
        let at = |h: &Histogram<u64>, q| h.value_at_quantile(q) as f64 / 1_000.0;
        eprintln!(
            "request-reply 256 B, round {round}: sealed p50 {:.0} p99 {:.0}, raw p50 {:.0} p99 {:.0} µs",
            at(&sealed, 0.5),
            at(&sealed, 0.99),
            at(&raw, 0.5),
            at(&raw, 0.99)
        );
        if round > 0 {
            p50.push((at(&sealed, 0.5), at(&raw, 0.5)));
            p99.push((at(&sealed, 0.99), at(&raw, 0.99)));
        }
    }
    report.add("rr.signed.p50", "µs", &p50);
    report.add("rr.signed.p99", "µs", &p99);
    report.finish().unwrap();
    service.drain().await;
    drop(bus);
}

async fn raw_throughput(from: &async_nats::Client, to: &async_nats::Client, size: usize) -> f64 {
    let mut subscription = to.subscribe("raw.events").await.unwrap();
    to.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let body = Bytes::from(vec![7u8; size]);
    let start = Instant::now();
    let from = from.clone();
    let sender = tokio::spawn(async move {
        for _ in 0..RAW_MESSAGES {
            from.publish("raw.events", body.clone()).await.unwrap();
        }
        from.flush().await.unwrap();
    });
    for _ in 0..RAW_MESSAGES {
        subscription.next().await.unwrap();
    }
    let rate = RAW_MESSAGES as f64 / start.elapsed().as_secs_f64();
    sender.await.unwrap();
    rate
}

async fn sealed_throughput(from: &Client, to: &Client, size: usize) -> f64 {
    let mut subscription = to.subscribe("bench.events").await.unwrap();
    let body = Bytes::from(vec![7u8; size]);
    let start = Instant::now();
    let from = from.clone();
    let sender = tokio::spawn(async move {
        let octets = ContentType::Other("application/octet-stream".into());
        for _ in 0..SEALED_MESSAGES {
            let message = from
                .message("bench.events")
                .bytes(octets.clone(), body.clone());
            message.publish().await.unwrap();
        }
        from.flush().await.unwrap();
    });
    for _ in 0..SEALED_MESSAGES {
        subscription.next().await.unwrap();
    }
    let rate = SEALED_MESSAGES as f64 / start.elapsed().as_secs_f64();
    sender.await.unwrap();
    rate
}

async fn raw_latency(from: &async_nats::Client) -> Histogram<u64> {
    let body = Bytes::from(vec![7u8; 256]);
    let mut histogram = Histogram::new(3).unwrap();
    for _ in 0..REQUESTS {
        let start = Instant::now();
        from.request("raw.echo", body.clone()).await.unwrap();
        histogram.record(nanos(start)).unwrap();
    }
    histogram
}

async fn sealed_latency(from: &Client) -> Histogram<u64> {
    let body = Bytes::from(vec![7u8; 256]);
    let octets = ContentType::Other("application/octet-stream".into());
    let mut histogram = Histogram::new(3).unwrap();
    for _ in 0..REQUESTS {
        let start = Instant::now();
        let message = from
            .message("bench.echo")
            .bytes(octets.clone(), body.clone());
        message.request().await.unwrap();
        histogram.record(nanos(start)).unwrap();
    }
    histogram
}

fn nanos(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

//! What `replay = "shared"` costs, beside `window`: one claim on a stream for each
//! envelope. The column `raw` is `window`.
//!
//! `cargo bench -p bulla-benches --bench claims`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Instant;

use bulla_benches::{Report, Wanted, nanos};
use bulla_sdk::{Client, ContentType, Message, Reply, Service, ServiceError};
use bulla_tests::Bus;
use bytes::Bytes;
use hdrhistogram::Histogram;

const ROUNDS: usize = 5;
const REQUESTS: usize = 2_000;
const AT_ONCE: usize = 64;
const EVENTS: usize = 20_000;

const POLICY: &str = r#"
version = 1
trust_domain = "bench.example"
[workload.ping]
attest = [{ nkey = "@ping@" }]
[workload.pong]
attest = [{ nkey = "@pong@" }]

[subject."window.>"]
replay = "window"
[subject."shared.>"]
replay = "shared"
[subject."*.single"]
frames = "off"

[[allow]]
id = "ping-sends"
who = ["ping"]
may = ["publish", "request"]
on = ["window.>", "shared.>"]
[[allow]]
id = "pong-receives"
who = ["pong"]
may = ["subscribe", "serve"]
on = ["window.>", "shared.>"]
"#;

#[tokio::main]
async fn main() {
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let wanted = Wanted::from_args();
    let bus = Bus::start(POLICY).await;
    let (ping, pong) = (bus.client("ping").await, bus.client("pong").await);
    let mut services = Vec::new();
    for subject in ["window.echo", "shared.echo"] {
        services.push(serve(&pong, subject).await);
    }
    let mut report = Report::default();
    if wanted.wants("claims.rr") {
        let (mut p50, mut p99, mut rate) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let window = latency(&ping, "window.echo").await;
            let shared = latency(&ping, "shared.echo").await;
            let rates = (
                at_once(&ping, "shared.echo").await,
                at_once(&ping, "window.echo").await,
            );
            let at = |h: &Histogram<u64>, q| h.value_at_quantile(q) as f64 / 1_000.0;
            // The first round warms up.
            if round > 0 {
                p50.push((at(&shared, 0.5), at(&window, 0.5)));
                p99.push((at(&shared, 0.99), at(&window, 0.99)));
                rate.push(rates);
            }
        }
        report.compare("claims.rr.p50", "µs", &p50);
        report.compare("claims.rr.p99", "µs", &p99);
        report.compare("claims.rr.64way", "req/s", &rate);
    }
    for (name, subject) in [("claims.single", "single"), ("claims.framed", "framed")] {
        if !wanted.wants(name) {
            continue;
        }
        let mut rounds = Vec::new();
        for round in 0..=ROUNDS {
            let window = events(&ping, &pong, &format!("window.{subject}")).await;
            let shared = events(&ping, &pong, &format!("shared.{subject}")).await;
            if round > 0 {
                rounds.push((shared, window));
            }
        }
        report.compare(name, "msg/s", &rounds);
    }
    report.finish().unwrap();
    drop((services, bus));
}

async fn serve(pong: &Client, subject: &str) -> Service {
    let echo = async |m: Message<Bytes>| {
        Ok::<_, ServiceError>(Reply::bytes(m.content_type().clone(), m.into_payload()))
    };
    pong.serve_raw(subject, echo).await.unwrap()
}

async fn ask(from: &Client, subject: &str) {
    let octets = ContentType::OctetStream;
    let body = Bytes::from_static(&[7; 256]);
    let request = from.message(subject).bytes(octets, body).request();
    request.await.unwrap();
}

async fn latency(from: &Client, subject: &str) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap();
    for _ in 0..REQUESTS {
        let start = Instant::now();
        ask(from, subject).await;
        histogram.record(nanos(start)).unwrap();
    }
    histogram
}

async fn at_once(from: &Client, subject: &'static str) -> f64 {
    let start = Instant::now();
    let callers: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let from = from.clone();
            tokio::spawn(async move {
                for _ in 0..2 * REQUESTS / AT_ONCE {
                    ask(&from, subject).await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    (2 * REQUESTS / AT_ONCE * AT_ONCE) as f64 / start.elapsed().as_secs_f64()
}

/// Events a second to a queue group of one.
async fn events(from: &Client, to: &Client, subject: &str) -> f64 {
    let mut subscription = to.queue_subscribe(subject).await.unwrap();
    let (from, subject) = (from.clone(), subject.to_owned());
    let start = Instant::now();
    let sender = tokio::spawn(async move {
        let octets = ContentType::OctetStream;
        let body = Bytes::from_static(&[7; 256]);
        for _ in 0..EVENTS {
            let message = from.message(&subject).bytes(octets.clone(), body.clone());
            message.publish().await.unwrap();
        }
        from.flush().await.unwrap();
    });
    for _ in 0..EVENTS {
        subscription.next().await.unwrap();
    }
    let rate = EVENTS as f64 / start.elapsed().as_secs_f64();
    sender.await.unwrap();
    rate
}

//! What the SDK itself costs, beside raw async-nats on one nats-server, in one run.
//!
//! `cargo bench -p bulla-benches --bench sdk [-- PART-OF-A-NAME …]`
//!
//! ```text
//! sdk.publish_ns          to hand an event over until nats-server has processed it
//! sdk.receive_ns          to take an event that has arrived: opened, verified, decided
//! sdk.allocs_per_publish, sdk.allocs_per_receive, sdk.allocs_per_request
//!                         allocations and reallocations, of the NATS client too
//! ```
//!
//! Counted are all allocations of the process; a broker runs in it, which makes some
//! each second, so that figures are a little too high. Counting costs time as well, raw
//! and sealed: how much more the SDK can carry is told by the bench `bus`, which has the
//! row `rr.signed.64way`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::alloc::System;
use std::time::{Duration, Instant};

use bulla_benches::{Report, Wanted};
use bulla_sdk::{Client, ContentType, Message, Reply, ServiceError, Subscription};
use bulla_tests::Bus;
use bytes::Bytes;
use futures_util::StreamExt as _;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 5;
/// Fewer than a subscription holds.
const MESSAGES: usize = 20_000;
const REQUESTS: usize = 500;
const SUBJECTS: usize = 100;
const BODY: Bytes = Bytes::from_static(&[7; 256]);

const POLICY: &str = r#"
version = 1
trust_domain = "bench.example"

[workload.ping]
attest = [{ nkey = "@ping@" }]
[workload.pong]
attest = [{ nkey = "@pong@" }]

# Each event in an envelope of its own: what a frame shares would hide what one costs.
[subject."alone.*"]
frames = "off"
[subject."heard.*"]
frames = "off"

# One replica: a claim would measure JetStream.
[subject."echo"]
replay = "window"

[[allow]]
id = "ping-sends"
who = ["ping"]
may = ["publish", "request"]
on = ["alone.*", "heard.*", "raw.alone.*", "raw.heard.*", "echo", "raw.echo"]

[[allow]]
id = "pong-receives"
who = ["pong"]
may = ["subscribe"]
on = ["heard.*", "raw.heard.*"]

[[allow]]
id = "pong-answers"
who = ["pong"]
may = ["serve"]
on = ["echo", "raw.echo"]
"#;

/// What one message took.
#[derive(Clone, Copy)]
struct Cost {
    nanos: f64,
    allocations: f64,
}

async fn cost(times: usize, work: impl Future<Output = ()>) -> Cost {
    let (region, start) = (Region::new(MEMORY), Instant::now());
    work.await;
    let (took, change) = (start.elapsed(), region.change());
    Cost {
        nanos: took.as_nanos() as f64 / times as f64,
        allocations: (change.allocations + change.reallocations) as f64 / times as f64,
    }
}

struct Scene {
    ping: Client,
    raw_ping: async_nats::Client,
    raw_pong: async_nats::Client,
    heard: Subscription,
    raw_heard: async_nats::Subscriber,
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` passes this to see that it starts.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    tokio::spawn(run(Wanted::from_args())).await.unwrap();
}

async fn run(wanted: Wanted) {
    let bus = Bus::start(POLICY).await;
    let pong = bus.client("pong").await;
    let raw_pong = bus.raw_client("pong").await;
    let mut scene = Scene {
        ping: bus.client("ping").await,
        raw_ping: bus.raw_client("ping").await,
        heard: pong.subscribe("heard.*").await.unwrap(),
        raw_heard: raw_pong.subscribe("raw.heard.*").await.unwrap(),
        raw_pong,
    };
    let echo = async |m: Message<Bytes>| {
        Ok::<_, ServiceError>(Reply::bytes(m.content_type().clone(), m.into_payload()))
    };
    let _service = pong.serve_raw("echo", echo).await.unwrap();
    scene.answer_raw().await;

    let mut report = Report::default();
    let (mut published, mut received, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let alone = (
            scene.publish("alone").await,
            scene.publish_raw("raw.alone").await,
        );
        let heard = scene.receive().await;
        let requests = scene.request().await;
        eprintln!(
            "round {round}: publish {:.0} ns {:.2} allocations, receive {:.0} ns {:.2}, request {:.2}",
            alone.0.nanos,
            alone.0.allocations,
            heard.0.nanos,
            heard.0.allocations,
            requests.0.allocations,
        );
        // The first round warms up.
        if round > 0 {
            published.push(alone);
            received.push(heard);
            asked.push(requests);
        }
    }
    let nanos = |rounds: &[(Cost, Cost)]| -> Vec<_> {
        rounds
            .iter()
            .map(|(own, raw)| (own.nanos, raw.nanos))
            .collect()
    };
    let allocations = |rounds: &[(Cost, Cost)]| -> Vec<_> {
        let of = |(own, raw): &(Cost, Cost)| (own.allocations, raw.allocations);
        rounds.iter().map(of).collect()
    };
    for (name, unit, rounds) in [
        ("sdk.publish_ns", "ns", nanos(&published)),
        ("sdk.receive_ns", "ns", nanos(&received)),
        ("sdk.allocs_per_publish", "allocs", allocations(&published)),
        ("sdk.allocs_per_receive", "allocs", allocations(&received)),
        ("sdk.allocs_per_request", "allocs", allocations(&asked)),
    ] {
        if wanted.wants(name) {
            report.compare(name, unit, &rounds);
        }
    }
    report.finish().unwrap();
    drop(bus);
}

impl Scene {
    /// Events to a hundred subjects in turn, each in an envelope of its own.
    async fn publish(&self, to: &str) -> Cost {
        let subjects: Vec<_> = (0..SUBJECTS).map(|n| format!("{to}.{n}")).collect();
        let octets = ContentType::OctetStream;
        cost(MESSAGES, async {
            for subject in subjects.iter().cycle().take(MESSAGES) {
                let message = self.ping.message(subject).bytes(octets.clone(), BODY);
                message.publish().await.unwrap();
            }
            self.ping.flush().await.unwrap();
        })
        .await
    }

    async fn publish_raw(&self, to: &str) -> Cost {
        let subjects: Vec<async_nats::Subject> =
            (0..SUBJECTS).map(|n| format!("{to}.{n}").into()).collect();
        cost(MESSAGES, async {
            for subject in subjects.iter().cycle().take(MESSAGES) {
                self.raw_ping.publish(subject.clone(), BODY).await.unwrap();
            }
            self.barrier().await;
        })
        .await
    }

    /// nats-server has processed what was sent before.
    async fn barrier(&self) {
        // Nobody serves it: the answer is that nobody is there.
        let _ = self.raw_ping.request("$BULLA.BARRIER", Bytes::new()).await;
    }

    /// What has arrived already is taken.
    async fn receive(&mut self) -> (Cost, Cost) {
        self.publish("heard").await;
        self.publish_raw("raw.heard").await;
        // All of it is here; it was sent, and nothing else is to be done.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let heard = &mut self.heard;
        let own = cost(MESSAGES, async {
            for _ in 0..MESSAGES {
                heard.next().await.unwrap();
            }
        });
        let own = own.await;
        let heard = &mut self.raw_heard;
        let raw = cost(MESSAGES, async {
            for _ in 0..MESSAGES {
                heard.next().await.unwrap();
            }
        });
        (own, raw.await)
    }

    async fn request(&self) -> (Cost, Cost) {
        let octets = ContentType::OctetStream;
        let own = cost(REQUESTS, async {
            for _ in 0..REQUESTS {
                let message = self.ping.message("echo").bytes(octets.clone(), BODY);
                message.request().await.unwrap();
            }
        });
        let own = own.await;
        let raw = cost(REQUESTS, async {
            for _ in 0..REQUESTS {
                self.raw_ping.request("raw.echo", BODY).await.unwrap();
            }
        });
        (own, raw.await)
    }

    async fn answer_raw(&self) {
        let pong = self.raw_pong.clone();
        let requests = pong.queue_subscribe("raw.echo", "pong".into()).await;
        let mut requests = requests.unwrap();
        pong.flush().await.unwrap();
        tokio::spawn(async move {
            while let Some(m) = requests.next().await {
                if let Some(reply) = m.reply {
                    let _ = pong.publish(reply, m.payload).await;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

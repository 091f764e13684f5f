//! Sealed messages beside raw async-nats on one nats-server. Publisher, subscriber,
//! nats-server and broker share the machine's cores, as they do for the raw baseline.

use std::time::{Duration, Instant};

use bulla_benches::{Report, Wanted, nanos};
use bulla_sdk::{Client, ContentType, Message, Reply, Service, ServiceError};
use bulla_tests::Bus;
use bytes::Bytes;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 7;
const RAW_MESSAGES: usize = 60_000;
const SEALED_MESSAGES: usize = 60_000;
const REQUESTS: usize = 1_500;
const CALLERS: usize = 64;
const REQUESTS_EACH: usize = 200;
const SUBJECTS: usize = 100;
/// How long all of it may take before it is clear that messages were lost.
const LIMIT: Duration = Duration::from_secs(15 * 60);

const POLICY: &str = r#"
version = 1
trust_domain = "bench.example"

[workload.ping]
attest = [{ nkey = "@ping@" }]
[workload.pong]
attest = [{ nkey = "@pong@" }]

# One replica: a claim would measure JetStream.
[subject."echo.signed"]
replay = "window"

[[allow]]
id = "ping-sends"
who = ["ping"]
may = ["publish"]
on = ["signed.*", "framed", "raw.many.*", "raw.one"]

[[allow]]
id = "pong-receives"
who = ["pong"]
may = ["subscribe"]
on = ["signed.*", "framed", "raw.many.*", "raw.one"]

[[allow]]
id = "ping-asks"
who = ["ping"]
may = ["request"]
on = ["echo.signed", "raw.echo"]

[[allow]]
id = "pong-answers"
who = ["pong"]
may = ["serve"]
on = ["echo.signed", "raw.echo"]

[subject."encrypted.*"]
protect = "encrypted"
[subject."framed_encrypted"]
protect = "encrypted"
[subject."chacha20.*"]
protect = "encrypted"
cipher  = "chacha20-poly1305"
[subject."framed_chacha20"]
protect = "encrypted"
cipher  = "chacha20-poly1305"

[[allow]]
id = "ping-hides"
who = ["ping"]
may = ["publish"]
on = ["encrypted.*", "framed_encrypted", "chacha20.*", "framed_chacha20"]

[[allow]]
id = "pong-reads"
who = ["pong"]
may = ["subscribe"]
on = ["encrypted.*", "framed_encrypted", "chacha20.*", "framed_chacha20"]

[subject."echo.mac"]
replay  = "window"
replies = "mac"

[[allow]]
id = "ping-asks-for-codes"
who = ["ping"]
may = ["request"]
on = ["echo.mac"]

[[allow]]
id = "pong-codes"
who = ["pong"]
may = ["serve"]
on = ["echo.mac"]
"#;

/// Who talks to whom.
struct Scene {
    ping: Client,
    pong: Client,
    raw_ping: async_nats::Client,
    raw_pong: async_nats::Client,
}

/// Events: the name of a row, the subject or what its subjects begin with, whether they
/// are many, and how many bytes each has.
const PUBSUB: [(&str, &str, bool, usize); 10] = [
    ("pubsub.signed.64", "signed", true, 64),
    ("pubsub.signed.256", "signed", true, 256),
    ("pubsub.signed.1024", "signed", true, 1_024),
    ("pubsub.framed.256", "framed", false, 256),
    ("pubsub.framed.1024", "framed", false, 1_024),
    ("pubsub.encrypted.256", "encrypted", true, 256),
    ("pubsub.encrypted.1024", "encrypted", true, 1_024),
    ("pubsub.chacha20.1024", "chacha20", true, 1_024),
    (
        "pubsub.framed_encrypted.1024",
        "framed_encrypted",
        false,
        1_024,
    ),
    (
        "pubsub.framed_chacha20.1024",
        "framed_chacha20",
        false,
        1_024,
    ),
];
/// Requests one after the other: the subject, and the names of two rows.
const LATENCY: [(&str, &str, &str); 2] = [
    ("echo.signed", "rr.signed.p50", "rr.signed.p99"),
    ("echo.mac", "rr.mac.p50", "rr.mac.p99"),
];
const AT_ONCE: &str = "rr.signed.64way";

/// Runs the rows that are wanted; without any nothing is started.
pub fn run(wanted: &Wanted, report: Report) -> Report {
    let pubsub: Vec<_> = PUBSUB
        .into_iter()
        .filter(|(name, ..)| wanted.wants(name) || wanted.wants(&cpu_name(name)))
        .collect();
    let latency: Vec<_> = LATENCY
        .into_iter()
        .filter(|(_, p50, p99)| wanted.wants(p50) || wanted.wants(p99))
        .collect();
    let rows = Rows {
        pubsub,
        latency,
        at_once: wanted.wants(AT_ONCE),
    };
    match rows.is_empty() {
        true => report,
        false => measure(rows, report),
    }
}

/// What is wanted.
struct Rows {
    pubsub: Vec<(&'static str, &'static str, bool, usize)>,
    latency: Vec<(&'static str, &'static str, &'static str)>,
    at_once: bool,
}

impl Rows {
    fn is_empty(&self) -> bool {
        self.pubsub.is_empty() && self.latency.is_empty() && !self.at_once
    }
}

#[tokio::main]
async fn measure(rows: Rows, report: Report) -> Report {
    // A thread, so that nothing of it is measured.
    std::thread::spawn(|| {
        std::thread::sleep(LIMIT);
        eprintln!("it takes too long: messages were lost");
        std::process::exit(1);
    });
    // A task like those of a service, not the thread that started the runtime.
    tokio::spawn(end_to_end(rows, report)).await.unwrap()
}

async fn end_to_end(rows: Rows, mut report: Report) -> Report {
    let bus = Bus::start(POLICY).await;
    let scene = Scene {
        ping: bus.client("ping").await,
        pong: bus.client("pong").await,
        raw_ping: bus.raw_client("ping").await,
        raw_pong: bus.raw_client("pong").await,
    };
    for (name, prefix, many, size) in &rows.pubsub {
        pubsub(&scene, &mut report, name, prefix, *many, *size).await;
    }
    requests(&scene, &rows, &mut report).await;
    report
}

fn cpu_name(name: &str) -> String {
    format!("{name}.cpu")
}

/// The subjects of a row: one, or many in turn.
fn subjects(prefix: &str, many: bool) -> Vec<String> {
    match many {
        true => (0..SUBJECTS).map(|n| format!("{prefix}.{n}")).collect(),
        false => vec![prefix.to_owned()],
    }
}

async fn pubsub(
    scene: &Scene,
    report: &mut Report,
    name: &str,
    prefix: &str,
    many: bool,
    size: usize,
) {
    let own = subjects(prefix, many);
    let theirs = subjects(if many { "raw.many" } else { "raw.one" }, many);
    let pattern = |prefix: &str| match many {
        true => format!("{prefix}.*"),
        false => prefix.to_owned(),
    };
    let raw_pattern = pattern(if many { "raw.many" } else { "raw.one" });
    let own_pattern = pattern(prefix);
    let (mut rates, mut cpu) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let raw = raw_throughput(scene, &raw_pattern, &theirs, size).await;
        let sealed = sealed_throughput(scene, &own_pattern, &own, size).await;
        eprintln!(
            "{name}, round {round}: sealed {:.0}/s {:.0} ns, raw {:.0}/s {:.0} ns",
            sealed.rate, sealed.cpu, raw.rate, raw.cpu
        );
        // The first round warms up.
        if round > 0 {
            rates.push((sealed.rate, raw.rate));
            cpu.push((sealed.cpu, raw.cpu));
        }
    }
    report.compare(name, "msg/s", &rates);
    report.compare(cpu_name(name), "ns/msg", &cpu);
}

/// How fast messages went through.
struct Pace {
    /// Messages a second.
    rate: f64,
    /// Nanoseconds of processor time of this process for each: publisher and subscriber,
    /// without nats-server. It moves far less than rates do.
    cpu: f64,
}

/// Between two looks at the clocks.
struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu_time(),
        }
    }

    fn pace(&self, messages: usize) -> Pace {
        let (wall, cpu) = (self.wall.elapsed(), cpu_time() - self.cpu);
        Pace {
            rate: messages as f64 / wall.as_secs_f64(),
            cpu: cpu.as_nanos() as f64 / messages as f64,
        }
    }
}

/// The processor time of all threads of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap(),
        time.tv_nsec.try_into().unwrap(),
    )
}

async fn raw_throughput(scene: &Scene, pattern: &str, subjects: &[String], size: usize) -> Pace {
    let to = &scene.raw_pong;
    let mut subscription = to.subscribe(pattern.to_owned()).await.unwrap();
    to.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let body = Bytes::from(vec![7u8; size]);
    // As cheap as it gets: no text is turned into a subject on the way.
    let subjects: Vec<async_nats::Subject> = subjects.iter().map(|s| s.as_str().into()).collect();
    let from = scene.raw_ping.clone();
    let watch = Stopwatch::start();
    let sender = tokio::spawn(async move {
        for subject in subjects.iter().cycle().take(RAW_MESSAGES) {
            from.publish(subject.clone(), body.clone()).await.unwrap();
        }
        from.flush().await.unwrap();
    });
    for _ in 0..RAW_MESSAGES {
        subscription.next().await.unwrap();
    }
    let pace = watch.pace(RAW_MESSAGES);
    sender.await.unwrap();
    pace
}

async fn sealed_throughput(scene: &Scene, pattern: &str, subjects: &[String], size: usize) -> Pace {
    let mut subscription = scene.pong.subscribe(pattern).await.unwrap();
    let body = Bytes::from(vec![7u8; size]);
    let subjects = subjects.to_owned();
    let from = scene.ping.clone();
    let watch = Stopwatch::start();
    let sender = tokio::spawn(async move {
        let octets = ContentType::OctetStream;
        for subject in subjects.iter().cycle().take(SEALED_MESSAGES) {
            let message = from.message(subject).bytes(octets.clone(), body.clone());
            message.publish().await.unwrap();
        }
        from.flush().await.unwrap();
    });
    for _ in 0..SEALED_MESSAGES {
        subscription.next().await.unwrap();
    }
    let pace = watch.pace(SEALED_MESSAGES);
    sender.await.unwrap();
    pace
}

async fn requests(scene: &Scene, rows: &Rows, report: &mut Report) {
    let _services = serve(scene).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for &(subject, p50_name, p99_name) in &rows.latency {
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let raw = raw_latency(&scene.raw_ping).await;
            let sealed = sealed_latency(&scene.ping, subject).await;
            let at = |h: &Histogram<u64>, q| h.value_at_quantile(q) as f64 / 1_000.0;
            eprintln!(
                "{p50_name}, round {round}: sealed p50 {:.0} p99 {:.0}, raw p50 {:.0} p99 {:.0} µs",
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
        report.compare(p50_name, "µs", &p50);
        report.compare(p99_name, "µs", &p99);
    }
    if rows.at_once {
        let mut rounds = Vec::new();
        for round in 0..=ROUNDS {
            let raw = raw_at_once(&scene.raw_ping).await;
            let sealed = sealed_at_once(&scene.ping).await;
            eprintln!("{AT_ONCE}, round {round}: sealed {sealed:.0}/s, raw {raw:.0}/s");
            if round > 0 {
                rounds.push((sealed, raw));
            }
        }
        report.compare(AT_ONCE, "req/s", &rounds);
    }
}

/// Answers with what came, raw and sealed.
async fn serve(scene: &Scene) -> Vec<Service> {
    let mut services = Vec::new();
    for subject in ["echo.signed", "echo.mac"] {
        let service = scene
            .pong
            .serve_raw(subject, async |m: Message<Bytes>| {
                Ok::<_, ServiceError>(Reply::bytes(m.content_type().clone(), m.into_payload()))
            })
            .await
            .unwrap();
        services.push(service);
    }
    let raw_pong = scene.raw_pong.clone();
    let mut requests = raw_pong
        .queue_subscribe("raw.echo", "pong".into())
        .await
        .unwrap();
    raw_pong.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(m) = requests.next().await {
            if let Some(reply) = m.reply {
                let _ = raw_pong.publish(reply, m.payload).await;
            }
        }
    });
    services
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

async fn sealed_latency(from: &Client, subject: &str) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap();
    for _ in 0..REQUESTS {
        let start = Instant::now();
        ask(from, subject).await;
        histogram.record(nanos(start)).unwrap();
    }
    histogram
}

async fn ask(from: &Client, subject: &str) {
    let octets = ContentType::OctetStream;
    let message = from.message(subject).bytes(octets, BODY);
    message.request().await.unwrap();
}

const BODY: Bytes = Bytes::from_static(&[7; 256]);

async fn raw_at_once(from: &async_nats::Client) -> f64 {
    let start = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let from = from.clone();
            tokio::spawn(async move {
                for _ in 0..REQUESTS_EACH {
                    from.request("raw.echo", BODY).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    (CALLERS * REQUESTS_EACH) as f64 / start.elapsed().as_secs_f64()
}

async fn sealed_at_once(from: &Client) -> f64 {
    let start = Instant::now();
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let from = from.clone();
            tokio::spawn(async move {
                for _ in 0..REQUESTS_EACH {
                    ask(&from, "echo.signed").await;
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    (CALLERS * REQUESTS_EACH) as f64 / start.elapsed().as_secs_f64()
}

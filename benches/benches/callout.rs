//! What it costs that a broker is asked about every connection.
//!
//! `cargo bench -p bulla-benches --bench callout [ROW…]`
//!
//! | row | what | beside |
//! |---|---|---|
//! | `callout.connect_p50`, `…_p99` | one client after the other, from the socket to `PONG`, in µs | the same by an nkey that nats-server knows itself |
//! | `callout.added_p50` | what the callout adds to the middle one, in µs | |
//! | `callout.connects` | connects in a second, 32 at a time | the same |
//! | `callout.answers_per_core` | recorded questions answered in a second by one core, alone | |
//! | `callout.process_answers_per_core` | the same of a broker's whole process, audit log and connection included, by its own processor time | |
//! | `callout.rss` | a broker's memory with 10,000 workloads, in MB | |
//!
//! All but the last with 1,000 workloads and 10,000 rules. nats-server, a broker as a
//! process of its own, and the clients share the machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulla_benches::{Report, Wanted, median};
use bulla_broker::callout::{Admissions, Callout, Group};
use bulla_broker::engine::{Engine, EngineConfig};
use bulla_identity::{NkeyKind, UnixMillis};
use bulla_keyring::{CurveSeed, NkeySeed};
use bulla_policy::Policy;
use bulla_tests::{BrokerProcess, Bus, BusOptions, RawSocket, now};
use futures_util::StreamExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

const WORKLOADS: u32 = 1_000;
const RULES: u32 = 10_000;
const ROUNDS: usize = 7;
/// Connects one after the other in a round.
const SINGLE: u32 = 300;
/// Connects at once in a round.
const TOGETHER: u32 = 1_000;
const AT_ONCE: u32 = 32;
/// Questions that are recorded.
const RECORDED: u32 = 1_000;

fn main() {
    // A broker of this benchmark is this program once more.
    bulla_tests::broker_process();
    let wanted = Wanted::from_args();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut report = Report::default();
    let connects = [
        "connect_p50",
        "connect_p99",
        "added_p50",
        "connects",
        "process_answers_per_core",
    ];
    if connects
        .iter()
        .any(|row| wanted.wants(&format!("callout.{row}")))
    {
        runtime.block_on(through_a_server(&mut report));
    }
    if wanted.wants("callout.answers_per_core") {
        runtime.block_on(recorded(&mut report));
    }
    if wanted.wants("callout.rss") {
        runtime.block_on(memory(&mut report));
    }
    report.finish().unwrap();
}

fn seed(number: u32) -> NkeySeed {
    let mut random = [7; 32];
    random[..4].copy_from_slice(&number.to_be_bytes());
    NkeySeed::from_random(NkeyKind::User, &random).unwrap()
}

/// As compact as it can be said: a policy is one record of 1 MiB.
fn policy(workloads: u32, rules: u32) -> String {
    let mut text = "version=1\ntrust_domain=\"acme.example\"\n[workload]\n".to_owned();
    for n in 0..workloads {
        let nkey = seed(n).public();
        let _ = writeln!(text, "w{n}={{attest=[{{nkey=\"{nkey}\"}}]}}");
    }
    let verbs = ["publish", "subscribe", "request", "serve"];
    for n in 0..rules {
        let (who, verb) = (n % workloads, verbs[(n / workloads) as usize % verbs.len()]);
        let _ = writeln!(
            text,
            "[[allow]]\nid=\"r{n}\"\nwho=[\"w{who}\"]\nmay=[\"{verb}\"]\non=[\"s{n}.*.a\"]"
        );
    }
    text
}

async fn bus(workloads: u32, rules: u32) -> Bus {
    let options = BusOptions {
        brokers: Vec::new(),
        ..BusOptions::new(policy(workloads, rules))
    };
    Bus::start_with(options).await
}

async fn comes_in(url: &str, seed: &NkeySeed) -> Duration {
    let began = Instant::now();
    let mut socket = RawSocket::connect(url).await;
    let login = RawSocket::login_of(seed, socket.nonce());
    assert!(socket.log_in(&login).await, "it is let in");
    began.elapsed()
}

/// Times of connects one after the other, sorted, in µs.
async fn one_by_one(url: &str, seeds: &[NkeySeed]) -> Vec<f64> {
    let mut times = Vec::new();
    for n in 0..SINGLE as usize {
        let took = comes_in(url, &seeds[n % seeds.len()]).await;
        times.push(took.as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times
}

/// Connects in a second.
async fn together(url: &Arc<str>, seeds: &Arc<Vec<NkeySeed>>) -> f64 {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..AT_ONCE {
        let (url, seeds) = (Arc::clone(url), Arc::clone(seeds));
        clients.spawn(async move {
            for n in (client..TOGETHER).step_by(AT_ONCE as usize) {
                comes_in(&url, &seeds[n as usize % seeds.len()]).await;
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    f64::from(TOGETHER) / began.elapsed().as_secs_f64()
}

async fn through_a_server(report: &mut Report) {
    let seeds: Arc<Vec<_>> = Arc::new((0..WORKLOADS).map(seed).collect());
    let bus = bus(WORKLOADS, RULES).await;
    let broker = BrokerProcess::start(&bus, Group::Both).await;
    let plain = plain_server(&bus, &seeds).await;
    let (asked, known): (Arc<str>, Arc<str>) = (bus.nats_url().into(), plain.client_url().into());
    // What is made once is made.
    one_by_one(&asked, &seeds).await;
    one_by_one(&known, &seeds).await;
    let (mut p50, mut p99, mut added, mut rates, mut by_cpu) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (with, without) = (
            one_by_one(&asked, &seeds).await,
            one_by_one(&known, &seeds).await,
        );
        let at = |times: &[f64], percent: usize| times[(times.len() - 1) * percent / 100];
        p50.push((at(&with, 50), at(&without, 50)));
        p99.push((at(&with, 99), at(&without, 99)));
        added.push(at(&with, 50) - at(&without, 50));
        let before = broker.metric("process_cpu_seconds_total", &[]).await;
        let with = together(&asked, &seeds).await;
        let after = broker.metric("process_cpu_seconds_total", &[]).await;
        by_cpu.push(f64::from(TOGETHER) / (after - before).max(0.001));
        rates.push((with, together(&known, &seeds).await));
    }
    report.compare("callout.connect_p50", "us", &p50);
    report.compare("callout.connect_p99", "us", &p99);
    report.add("callout.added_p50", "us", added);
    report.compare("callout.connects", "1/s", &rates);
    report.add("callout.process_answers_per_core", "1/s", by_cpu);
}

/// A server that knows every key itself and asks nobody.
async fn plain_server(bus: &Bus, seeds: &[NkeySeed]) -> bulla_broker::engine::NatsServer {
    let users: Vec<_> = seeds
        .iter()
        .map(|seed| format!("{{ nkey: {} }}", seed.public()))
        .collect();
    let config = EngineConfig {
        config_file: bus.provision().path("plain.conf"),
        log_file: bus.provision().path("logs/plain.log"),
        run_dir: bus.provision().path("run"),
    };
    let text = format!(
        "host: 127.0.0.1\nport: -1\nauthorization {{ users: [ {} ] }}\n",
        users.join("\n")
    );
    std::fs::write(&config.config_file, text).unwrap();
    let engine = Engine::locate(&|line| eprintln!("{line}")).await.unwrap();
    engine.start(&config).await.unwrap()
}

/// A question as nats-server asked it, and when.
struct Question {
    sealed: Vec<u8>,
    sender: String,
    at: UnixMillis,
}

async fn recorded(report: &mut Report) {
    let bus = bus(WORKLOADS, RULES).await;
    let questions = record(&bus).await;
    let key = |name: &str| {
        let file = bus.provision().path(&format!("keys/{name}.nk"));
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    };
    let policy = Policy::parse("policy.toml", &policy(WORKLOADS, RULES)).unwrap();
    let policy = Arc::new(policy);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        // Another one each time: it answers no question twice.
        let callout = Callout::new(
            NkeySeed::parse(&key("callout")).unwrap(),
            CurveSeed::parse(&key("xkey")).unwrap(),
        );
        callout.admit(Admissions::from_policy(&policy).unwrap());
        let began = Instant::now();
        for question in &questions {
            let sender = Some(question.sender.as_str());
            let answer = callout.answer_at(&question.sealed, sender, question.at);
            assert!(black_box(answer).is_some(), "it is answered");
        }
        rounds.push(f64::from(RECORDED) / began.elapsed().as_secs_f64());
    }
    report.add("callout.answers_per_core", "1/s", rounds);
}

/// Takes down what nats-server asks while nobody answers.
async fn record(bus: &Bus) -> Vec<Question> {
    let file = bus.provision().path("keys/broker-auth.nk");
    let nkey = std::fs::read_to_string(file).unwrap().trim().to_owned();
    let auth = async_nats::ConnectOptions::with_nkey(nkey)
        .connect(bus.nats_url())
        .await
        .unwrap();
    let mut asked = auth.subscribe("$SYS.REQ.USER.AUTH").await.unwrap();
    auth.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut sockets = Vec::new();
    let mut questions = Vec::new();
    for n in 0..RECORDED {
        let mut socket = RawSocket::connect(bus.nats_url()).await;
        let login = RawSocket::login_of(&seed(n % WORKLOADS), socket.nonce());
        socket.send(&format!("CONNECT {login}\r\nPING\r\n")).await;
        let message = timeout(Duration::from_secs(5), asked.next()).await;
        let message = message.expect("a question").unwrap();
        let sender = message
            .headers
            .as_ref()
            .and_then(|h| h.get("Nats-Server-Xkey"));
        questions.push(Question {
            sealed: message.payload.to_vec(),
            sender: sender.unwrap().as_str().to_owned(),
            at: now(),
        });
        sockets.push(socket);
    }
    questions
}

/// What a broker holds for 10,000 workloads, after it has let some in.
async fn memory(report: &mut Report) {
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let bus = bus(10_000, 1_000).await;
        let broker = BrokerProcess::start(&bus, Group::Both).await;
        for n in 0..200 {
            comes_in(bus.nats_url(), &seed(n)).await;
        }
        let bytes = broker.metric("process_resident_memory_bytes", &[]).await;
        rounds.push(bytes / 1e6);
    }
    println!(
        "callout.rss by round: {:?}, middle {}",
        rounds,
        median(rounds.clone())
    );
    report.add("callout.rss", "MB", rounds);
}

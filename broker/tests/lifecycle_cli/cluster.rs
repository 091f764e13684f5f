//! Three nodes and two brokers by what `bulla broker init` writes, on loopback.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bulla_broker::engine::Engine;
use bulla_sdk::{Client, Message, ServiceError};
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use super::deployment::{bulla, spawn};
use super::operator_mode::{client, good, sound, two_workloads_by};
use super::{BULLA, LIMIT};

/// A question that each process may answer by itself, and one that only one of all may.
const RULES: &str = r#"
[subject."billing.quote"]
replay = "window"
[subject."billing.book"]
replay = "shared"
[[allow]]
id = "orders-asks"
who = ["orders"]
may = ["request"]
on = ["billing.quote", "billing.book"]
[[allow]]
id = "billing-serves"
who = ["billing"]
may = ["serve"]
on = ["billing.quote", "billing.book"]
"#;

/// The first of three ports, with those for the other servers and for monitoring.
fn ports() -> u16 {
    for _ in 0..256 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = listener.local_addr().unwrap().port();
        drop(listener);
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        let all = (0..3).flat_map(|n| [0, 2_000, 4_000].map(|above| (n, above)));
        if first < 60_000 && all.into_iter().all(|(n, above)| is_free(first + n + above)) {
            return first;
        }
    }
    panic!("no ports are free");
}

/// A node, as its operator starts it.
async fn node(dir: &Path, number: usize) -> Child {
    let engine = Engine::locate(&|_| {}).await.unwrap();
    let config = format!("n{number}/nats-server.conf");
    let log = format!("n{number}.log");
    spawn(engine.binary(), &["--config", &config], dir, &log)
}

async fn until_brokers(dir: &Path, count: usize) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (code, text) = bulla(dir, &["policy", "status", "--dir", "."]).await;
        let brokers = text.lines().filter(|line| line.contains("broker")).count();
        if code == 0 && brokers >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{text}");
        sleep(Duration::from_millis(300)).await;
    }
}

/// Asks all the time; a question may take a second.
async fn ask_until(orders: Client, subject: &str, stop: Arc<AtomicBool>) -> (u64, u64, Duration) {
    let (mut good, mut bad) = (0, 0);
    let (mut last_good, mut longest) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let asked = orders.request::<_, u64>(subject, &6_u64);
        match timeout(Duration::from_secs(1), asked).await {
            Ok(Ok(12)) => {
                good += 1;
                longest = longest.max(last_good.elapsed());
                last_good = Instant::now();
            }
            _ => bad += 1,
        }
        sleep(Duration::from_millis(5)).await;
    }
    (good, bad, longest)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_as_init_writes_them_are_sound_and_one_may_die() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let first = ports();
    let port = first.to_string();
    let init = [
        "broker",
        "init",
        "--dir",
        ".",
        "--domain",
        "acme.example",
        "--nodes",
        "3",
        "--brokers",
        "2",
        "--port",
        &port,
    ];
    good(dir, &init).await;
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(node(dir, number).await);
    }
    let configs = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let configs = configs.map(|name| name.into_string().unwrap());
    let mut configs: Vec<_> = configs
        .filter(|name| name.starts_with("broker") && name.ends_with(".toml"))
        .collect();
    configs.sort();
    assert_eq!(configs.len(), 2, "{configs:?}");
    let brokers: Vec<_> = configs
        .iter()
        .map(|config| {
            let words = ["broker", "--config", config, "--until-stdin-closes"];
            spawn(Path::new(BULLA), &words, dir, &format!("{config}.log"))
        })
        .collect();
    until_brokers(dir, 2).await;
    two_workloads_by(dir, RULES).await;
    good(dir, &["broker", "init", "--dir", ".", "--check"]).await;

    // Both talk by way of the node that dies.
    let (orders, billing) = (
        client(dir, first + 2, "orders").await,
        client(dir, first + 2, "billing").await,
    );
    let double = async |m: Message<u64>| Ok::<_, ServiceError>(m.into_payload() * 2);
    let _quotes = billing.serve("billing.quote", double).await.unwrap();
    let _books = billing.serve("billing.book", double).await.unwrap();
    let answers = async |client: &Client, subject: &str| {
        let deadline = Instant::now() + LIMIT;
        while client.request::<_, u64>(subject, &6_u64).await.is_err() {
            assert!(Instant::now() < deadline, "{subject}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    answers(&orders, "billing.quote").await;
    answers(&orders, "billing.book").await;
    sound(dir).await;

    let stop = Arc::new(AtomicBool::new(false));
    let ask = |subject| tokio::spawn(ask_until(orders.clone(), subject, Arc::clone(&stop)));
    let (quotes, books) = (ask("billing.quote"), ask("billing.book"));
    sleep(Duration::from_millis(500)).await;
    nodes[2].kill().await.unwrap();
    sleep(Duration::from_secs(4)).await;
    // Who is new comes in by another node, with a credential that is stored there.
    let newcomer = client(dir, first, "orders").await;
    answers(&newcomer, "billing.quote").await;
    answers(&newcomer, "billing.book").await;
    stop.store(true, Ordering::Relaxed);
    let (answered, failed, longest) = quotes.await.unwrap();
    println!("quotes: {answered} answered, {failed} failed, {longest:?} without an answer");
    // Until both are back, what is asked fails at once, so that its number says nothing.
    assert!(answered > 50, "{answered} answered, {failed} failed");
    assert!(longest < Duration::from_secs(4), "{longest:?}");
    // If that node led the stream of claims, until another one does.
    let (answered, failed, longest) = books.await.unwrap();
    println!("books: {answered} answered, {failed} failed, {longest:?} without an answer");
    assert!(longest < Duration::from_secs(15), "{longest:?}");

    // It comes back, and nothing is wrong with any of it.
    nodes[2] = node(dir, 3).await;
    let deadline = Instant::now() + LIMIT;
    while bulla(dir, &["doctor", "--dir", ".", "--strict"]).await.0 != 0 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_secs(1)).await;
    }
    drop(brokers);
}

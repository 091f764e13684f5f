//! What a process takes that encrypts for a hundred workloads, beside one that
//! only signs: the largest resident memory of a child process.
//!
//! `cargo bench -p bulla-benches --bench fanout`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bulla_benches::Report;
use bulla_envelope::KemRecord;
use bulla_identity::reserved;
use bulla_sdk::{Client, ConnectOptions, ContentType, variables};
use bulla_tests::Bus;
use tokio::process::Command;

const ROUNDS: usize = 5;
const RECIPIENTS: usize = 100;
const MESSAGES: usize = 20_000;
const SIZE: usize = 1_024;
/// Set in the child: the subject that it publishes on.
const CHILD: &str = "BULLA_BENCH_FANOUT";

#[tokio::main]
async fn main() {
    if let Ok(subject) = std::env::var(CHILD) {
        return child(&subject).await;
    }
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let names: Vec<String> = (0..RECIPIENTS).map(|n| format!("w{n}")).collect();
    let bus = Bus::start(&policy(&names)).await;
    for name in &names {
        let (seed, id) = (bus.seed(name), bus.workload(name));
        let record = KemRecord::sign(&seed, &id, 1);
        let place = reserved::ctl_kem(id.tag(), &seed.public());
        bus.replace_control_record(&place, record.into()).await;
    }
    let (mut memory, mut first) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (encrypted, encrypted_first) = run(&bus, "fan.secret").await;
        let (signed, signed_first) = run(&bus, "fan.open").await;
        eprintln!("round {round}: encrypting {encrypted:.1} MB, signing {signed:.1} MB");
        memory.push((encrypted, signed));
        first.push((encrypted_first, signed_first));
    }
    let mut report = Report::default();
    report.compare(format!("memory.fanout.{RECIPIENTS}"), "MB", &memory);
    report.compare(format!("first.fanout.{RECIPIENTS}"), "ms", &first);
    report.finish().unwrap();
}

fn policy(names: &[String]) -> String {
    let mut text = r#"
version = 1
trust_domain = "bench.example"
[subject."fan.secret"]
protect = "encrypted"
[workload.fan]
attest = [{ nkey = "@fan@" }]
[[allow]]
id = "fan-tells"
who = ["fan"]
may = ["publish"]
on = ["fan.secret", "fan.open"]
"#
    .to_owned();
    for name in names {
        write!(
            text,
            "[workload.{name}]\nattest = [{{ nkey = \"@{name}@\" }}]\n"
        )
        .unwrap();
    }
    write!(
        text,
        "[[allow]]\nid = \"listeners\"\nwho = {names:?}\nmay = [\"subscribe\"]\non = [\"fan.*\"]\n"
    )
    .unwrap();
    text
}

/// The child's largest memory in megabytes, and how long its first message took
/// in milliseconds.
async fn run(bus: &Bus, subject: &str) -> (f64, f64) {
    let output = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, subject)
        .env(variables::NATS_URL, bus.nats_url())
        .env(variables::WORKLOAD, bus.workload("fan").as_str())
        .env(variables::SEED_FILE, bus.seed_file("fan"))
        .env(variables::TRUST_ROOT_FILE, bus.root_file())
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.split_whitespace().map(|n| n.parse::<f64>().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

async fn child(subject: &str) {
    let client = Client::connect(ConnectOptions::from_env().unwrap())
        .await
        .unwrap();
    let octets = ContentType::OctetStream;
    let body = bytes::Bytes::from(vec![7; SIZE]);
    let send = async || {
        let message = client.message(subject).bytes(octets.clone(), body.clone());
        message.publish().await.unwrap();
    };
    let start = Instant::now();
    send().await;
    let first = start.elapsed();
    for n in 0..MESSAGES {
        send().await;
        if n % 1_000 == 0 {
            // Longer than a burst: what a process that goes on sending takes.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    client.flush().await.unwrap();
    println!("{} {}", peak_megabytes(), first.as_secs_f64() * 1_000.0);
}

fn peak_megabytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kilobytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes / 1_024.0
}

//! Nobody fills the log, and who tries loses his voice there alone, for a while.

use std::time::Duration;

use bulla_audit::{Entry, Event};
use bulla_broker::callout::Group;
use bulla_sdk::RequestError;
use bulla_tests::{Bus, BusOptions, RawSocket};
use tokio::time::{Instant, sleep};

use super::{POLICY, client, stored, stream};

/// Everything that is an entry.
async fn entries(bus: &Bus) -> Vec<Entry> {
    let stored = stored(bus).await;
    let lines = stored.iter().flat_map(|stored| stored.payload.lines());
    lines
        .filter_map(|line| Entry::decode(line.as_bytes()).ok())
        .collect()
}

async fn until(bus: &Bus, what: &str, holds: impl Fn(&[Entry]) -> bool) {
    let end = Instant::now() + Duration::from_secs(25);
    while !holds(&entries(bus).await) {
        assert!(Instant::now() < end, "no {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Whether nats-server takes a message; not if it is refused, or hangs up.
async fn is_taken(socket: &mut RawSocket, subject: &str, body: &str) -> bool {
    let command = format!("PUB {subject} {}\r\n{body}\r\nPING\r\n", body.len());
    socket.send(&command).await;
    while let Some(line) = socket.line().await {
        if line.starts_with("PONG") {
            return true;
        }
        if line.starts_with("-ERR") {
            return false;
        }
    }
    false
}

/// Refusals of this workload on `secret.…`, written down or told as missing.
fn told(entries: &[Entry], workload: &str) -> u64 {
    let mut count = 0;
    for entry in entries {
        match &entry.event {
            Event::Decision(d) if d.workload == workload && d.subject.starts_with("secret.") => {
                count += 1;
            }
            Event::Gap(gap) => count += gap.denies,
            _ => {}
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_the_log_is_silenced_there_for_a_while_and_nobody_else_is() {
    let mut bus = Bus::start_with(BusOptions {
        brokers: Vec::new(),
        ..BusOptions::new(POLICY)
    })
    .await;
    let file = bus.provision().path("broker.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    // About 400 KB at once; silent for a sixteenth of a minute.
    let audit = "[audit]\nkeep = \"1m\"\nmax_mebibytes = 8\nworkload_percent = 5\n";
    std::fs::write(&file, format!("{text}\n{audit}")).unwrap();
    bus.add_broker(Group::Both).await;
    let (front, back) = (client(&bus, "front").await, client(&bus, "back").await);

    let subject = format!(
        "$BULLA.AUDIT.{}.00000000000000ff",
        bus.workload("front").tag()
    );
    let junk = "x".repeat(64 * 1024);
    let mut flood = bus.raw_socket("front").await;
    let mut sent = 0;
    while is_taken(&mut flood, &subject, &junk).await {
        sent += 1;
        assert!(sent < 100, "nobody stops it");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(sent >= 6, "its share is {sent} messages");
    let bytes = stream(&bus).await.info().await.unwrap().state.bytes;
    println!("stopped after {sent} messages; {bytes} bytes are stored");
    assert!(bytes < 4 << 20, "{bytes}");

    // It may come back, and do what it may, but for that.
    let mut again = bus.raw_socket("front").await;
    assert!(!is_taken(&mut again, &subject, "x").await);
    for n in 0..20 {
        let denied = front.request::<_, ()>(&format!("secret.{n}"), "x").await;
        assert!(matches!(denied, Err(RequestError::Send(_))), "{denied:?}");
    }
    // Others write as ever.
    let denied = back.request::<_, ()>("secret.back", "x").await;
    assert!(matches!(denied, Err(RequestError::Send(_))), "{denied:?}");
    let began = Instant::now();
    until(&bus, "entry of another", |all| told(all, "back") == 1).await;
    assert!(began.elapsed() < Duration::from_secs(3), "it waited");
    until(&bus, "entry of the broker", |all| {
        let is_it = |entry: &Entry| {
            matches!(&entry.event, Event::OverQuota(over)
            if over.workload == "front" && over.wrote > 400_000)
        };
        all.iter().any(is_it)
    })
    .await;
    // What it was refused meanwhile is not lost in silence.
    until(&bus, "what was refused to it", |all| {
        told(all, "front") >= 20
    })
    .await;
}

/// A broker that began later has not counted what was written before it, and learns from
/// the others who is silent, and until when.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_begins_later_keeps_silent_whom_the_others_found() {
    let mut bus = Bus::start_with(BusOptions {
        brokers: Vec::new(),
        ..BusOptions::new(POLICY)
    })
    .await;
    let file = bus.provision().path("broker.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    // Silent for a sixteenth of eight minutes: half a minute.
    let audit = "[audit]\nkeep = \"8m\"\nmax_mebibytes = 8\nworkload_percent = 5\n";
    std::fs::write(&file, format!("{text}\n{audit}")).unwrap();
    let first = bus.add_broker(Group::A).await;
    let tag = bus.workload("front").tag();
    let subject = format!("$BULLA.AUDIT.{tag}.00000000000000ff");
    let junk = "x".repeat(64 * 1024);
    let mut flood = bus.raw_socket("front").await;
    let mut sent = 0;
    while is_taken(&mut flood, &subject, &junk).await {
        sent += 1;
        assert!(sent < 100, "nobody stops it");
        sleep(Duration::from_millis(20)).await;
    }
    let silent = Instant::now();

    let second = bus.add_broker(Group::B).await;
    // The first says so each second.
    sleep(Duration::from_millis(1_500)).await;
    bus.kill_broker(first).await;
    let mut again = bus.raw_socket("front").await;
    assert!(
        !is_taken(&mut again, &subject, "x").await,
        "it has forgotten"
    );
    let mut other = bus.raw_socket("back").await;
    let others = format!(
        "$BULLA.AUDIT.{}.00000000000000ff",
        bus.workload("back").tag()
    );
    assert!(is_taken(&mut other, &others, "x").await);
    assert!(
        silent.elapsed() < Duration::from_secs(25),
        "it would be over"
    );
    bus.stop_broker(second).await;
}

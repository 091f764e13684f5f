//! The audit log on a real bus: what is in it, what it proves, and that nobody ever
//! waits for it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod back_pressure;
mod contents;
mod quota;
mod tampering;

use std::time::Duration;

use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{self, consumer};
use bulla_audit::{Entry, Event, Report, Trust, Verifier, Writer};
use bulla_identity::reserved;
use bulla_keyring::{AuthorityKey, AuthorityRole};
use bulla_policy::Policy;
use bulla_sdk::audit::AuditOptions;
use bulla_sdk::{Client, ConnectOptions};
use bulla_tests::Bus;
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep};

/// A message as it lies in the stream.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    pub(crate) payload: String,
}

impl Stored {
    fn writer(&self) -> Writer {
        let name = self.subject.strip_prefix("$BULLA.AUDIT.").unwrap();
        Writer::parse(name).unwrap()
    }
}

pub(crate) const POLICY: &str = r#"
    version = 1
    trust_domain = "acme.example"
    [workload.front]
    attest = [{ nkey = "@front@" }]
    mints = true
    [workload.back]
    attest = [{ nkey = "@back@" }]
    [workload.courier]
    attest = [{ nkey = "@courier@" }]
    [[allow]]
    id = "front-asks"
    who = ["front"]
    may = ["request"]
    on = ["back.echo", "back.never"]
    [[allow]]
    id = "back-serves"
    who = ["back"]
    may = ["serve"]
    on = ["back.>"]
    [[allow]]
    id = "courier-passes-on"
    who = ["courier"]
    may = ["request"]
    on = ["back.echo"]
    user = { scope = "echo" }
"#;

/// Heads and uses come soon.
pub(crate) fn soon() -> AuditOptions {
    AuditOptions::default()
        .head_every(Duration::from_millis(300))
        .uses_every(Duration::from_millis(300))
}

pub(crate) fn options(bus: &Bus, workload: &str) -> ConnectOptions {
    bus.connect_options(workload).audit(soon())
}

pub(crate) async fn client(bus: &Bus, workload: &str) -> Client {
    Client::connect(options(bus, workload)).await.unwrap()
}

pub(crate) async fn stream(bus: &Bus) -> Stream {
    let js = jetstream::new(bus.js_client().await);
    js.get_stream(reserved::AUDIT_STREAM).await.unwrap()
}

/// Everything that lies in the stream.
pub(crate) async fn stored(bus: &Bus) -> Vec<Stored> {
    let mut stream = stream(bus).await;
    let last = stream.info().await.unwrap().state.last_sequence;
    let config = consumer::pull::OrderedConfig {
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut stored = Vec::new();
    if last == 0 {
        return stored;
    }
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        stored.push(Stored {
            subject: message.subject.to_string(),
            payload: String::from_utf8(message.payload.to_vec()).unwrap(),
        });
        if message.info().unwrap().stream_sequence >= last {
            break;
        }
    }
    stored
}

pub(crate) async fn entries(bus: &Bus) -> Vec<Entry> {
    let stored = stored(bus).await;
    let lines = stored.iter().flat_map(|stored| stored.payload.lines());
    lines
        .map(|line| Entry::decode(line.as_bytes()).unwrap())
        .collect()
}

/// Waits until an entry is there.
pub(crate) async fn until(bus: &Bus, what: &str, is_it: impl Fn(&Entry) -> bool) -> Entry {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let entries = entries(bus).await;
        if let Some(entry) = entries.iter().find(|entry| is_it(entry)) {
            return entry.clone();
        }
        assert!(Instant::now() < end, "no {what} in {entries:#?}");
        sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn is_denial(entry: &Entry, id: &str) -> bool {
    matches!(&entry.event, Event::Decision(decision) if decision.id == id)
}

pub(crate) fn trust(bus: &Bus) -> Trust {
    let text = std::fs::read_to_string(bus.root_file()).unwrap();
    let roots = AuthorityKey::parse_list(AuthorityRole::Root, &text).unwrap();
    let roots = roots.iter().map(|root| *root.verifying_key()).collect();
    let mut trust = Trust::new(roots, bus.policy().trust_domain().clone());
    let policy = bus.with_nkeys(POLICY);
    trust.add_policy(Policy::parse("policy.toml", &policy).unwrap());
    trust
}

pub(crate) fn verify(bus: &Bus, stored: &[Stored], heads: &[&str]) -> Report {
    let mut verifier = Verifier::new(Some(trust(bus)));
    for head in heads {
        verifier.expect(head.as_bytes()).unwrap();
    }
    for stored in stored {
        let writer = stored.writer();
        for line in stored.payload.lines() {
            verifier.entry(line.as_bytes(), Some(&writer));
        }
    }
    verifier.finish(true)
}

pub(crate) fn codes(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|f| f.fault.code()).collect()
}

/// What an operator with every right on the stream can do: make it anew with other
/// contents.
pub(crate) async fn replace(bus: &Bus, contents: &[Stored]) {
    let js = jetstream::new(bus.js_client().await);
    let config: Config = stream(bus).await.info().await.unwrap().config.clone();
    js.delete_stream(reserved::AUDIT_STREAM).await.unwrap();
    js.create_stream(config).await.unwrap();
    for stored in contents {
        let sent = js.publish(stored.subject.clone(), stored.payload.clone().into());
        sent.await.unwrap().await.unwrap();
    }
}

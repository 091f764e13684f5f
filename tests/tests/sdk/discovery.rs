//! NATS's own tools find services, where the policy lets them.

use std::collections::HashMap;
use std::time::Duration;

use bulla_sdk::extract::Payload;
use bulla_sdk::{Client, ServiceError, ServiceErrorCode, SubscribeError};
use bulla_tests::Bus;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::eventually;

const FOUND: &str = r#"
version = 1
trust_domain = "acme.example"

[workload.front]
attest = [{ nkey = "@front@" }]
[workload.back]
attest = [{ nkey = "@back@" }]
discoverable = true
[workload.shy]
attest = [{ nkey = "@shy@" }]
[workload.ops]
attest = [{ nkey = "@ops@" }]
discovers = true

[[allow]]
id = "front-asks"
who = ["front"]
may = ["request"]
on = ["back.>", "shy.>"]
[[allow]]
id = "back-serves"
who = ["back"]
may = ["serve"]
on = ["back.>"]
[[allow]]
id = "shy-serves"
who = ["shy"]
may = ["serve"]
on = ["shy.>"]
"#;

// As async-nats 0.51 (`async_nats::service`) reads them, with nothing beside.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ping {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    id: String,
    version: String,
    metadata: HashMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    id: String,
    description: String,
    version: String,
    metadata: HashMap<String, String>,
    endpoints: Vec<EndpointInfo>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointInfo {
    name: String,
    subject: String,
    queue_group: String,
    metadata: HashMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stats {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    id: String,
    version: String,
    metadata: HashMap<String, String>,
    started: String,
    endpoints: Vec<EndpointStats>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointStats {
    name: String,
    subject: String,
    num_requests: usize,
    num_errors: usize,
    processing_time: u64,
    average_processing_time: u64,
    last_error: String,
    queue_group: String,
}

async fn halve(Payload(number): Payload<u32>) -> Result<u32, ServiceError> {
    if number % 2 == 1 {
        let secret = format!("{number} is odd");
        return Err(ServiceError::new(ServiceErrorCode::Invalid, secret));
    }
    Ok(number / 2)
}

async fn serve(back: &Client) -> bulla_sdk::RunningService {
    back.service()
        .version("1.2.3")
        .description("halves")
        .metadata("team", "clay")
        .endpoint("back.halve", halve)
        .named("halve")
        .endpoint("back.{kind}.twice", halve)
        .start()
        .await
        .unwrap()
}

/// Every answer to a question, as a tool collects them.
async fn answers(ops: &async_nats::Client, subject: &str) -> Vec<String> {
    let inbox = ops.new_inbox();
    let mut heard = ops.subscribe(inbox.clone()).await.unwrap();
    ops.publish_with_reply(subject.to_owned(), inbox, "".into())
        .await
        .unwrap();
    let mut found = Vec::new();
    while let Ok(Some(answer)) = timeout(Duration::from_millis(400), heard.next()).await {
        if answer.status.is_none() {
            found.push(String::from_utf8(answer.payload.to_vec()).unwrap());
        }
    }
    found
}

async fn one<T: DeserializeOwned>(ops: &async_nats::Client, subject: &str) -> T {
    let found = answers(ops, subject).await;
    assert_eq!(found.len(), 1, "{subject}: {found:?}");
    serde_json::from_str(&found[0]).unwrap_or_else(|error| panic!("{error}: {}", found[0]))
}

#[tokio::test(flavor = "multi_thread")]
async fn natss_own_tools_find_services_and_what_they_do() {
    let bus = Bus::start(FOUND).await;
    let (front, back, shy) = (
        bus.client("front").await,
        bus.client("back").await,
        bus.client("shy").await,
    );
    // What the tools could not show is not served.
    let odd = back.service().version("1.2").endpoint("back.halve", halve);
    let error = odd.start().await.err().unwrap();
    assert!(matches!(error, SubscribeError::Version { .. }), "{error}");
    let service = serve(&back).await;
    let hidden = shy.service().endpoint("shy.halve", halve);
    let _hidden = hidden.start().await.unwrap();
    for number in [2_u32, 3, 4] {
        let _ = front.request::<_, u32>("back.halve", &number).await;
    }
    let ops = bus.raw_client("ops").await;

    let ping: Ping = one(&ops, "$SRV.PING").await;
    assert_eq!(ping.kind, "io.nats.micro.v1.ping_response");
    assert_eq!((&*ping.name, &*ping.version), ("back", "1.2.3"));
    assert_eq!(ping.metadata["team"], "clay");
    let info: Info = one(&ops, "$SRV.INFO.back").await;
    assert_eq!(info.kind, "io.nats.micro.v1.info_response");
    assert_eq!((&*info.name, &info.id), ("back", &ping.id));
    assert_eq!((&*info.version, &*info.description), ("1.2.3", "halves"));
    assert_eq!(info.metadata.len(), 1);
    let endpoints = info.endpoints.iter().map(|e| (&*e.name, &*e.subject));
    let endpoints: Vec<_> = endpoints.collect();
    let want = [("halve", "back.halve"), ("back-kind-twice", "back.*.twice")];
    assert_eq!(endpoints, want);
    let is_plain = |e: &EndpointInfo| e.queue_group == "back" && e.metadata.is_empty();
    assert!(info.endpoints.iter().all(is_plain));
    let stats: Stats = one(&ops, &format!("$SRV.STATS.back.{}", ping.id)).await;
    assert_eq!(stats.kind, "io.nats.micro.v1.stats_response");
    assert_eq!((&*stats.name, &stats.id), ("back", &ping.id));
    assert_eq!((&*stats.version, stats.metadata.len()), ("1.2.3", 1));
    assert!(stats.started.ends_with('Z'), "{}", stats.started);
    let [halve, twice] = &stats.endpoints[..] else {
        panic!("{stats:?}")
    };
    assert_eq!((halve.num_requests, halve.num_errors), (3, 1));
    // The code, and nothing of what was asked.
    assert_eq!(halve.last_error, "invalid");
    assert!(halve.processing_time >= halve.average_processing_time);
    assert_eq!((&*halve.name, &*halve.subject), ("halve", "back.halve"));
    assert_eq!((twice.num_requests, &*twice.queue_group), (0, "back"));
    for nobody in ["$SRV.PING.shy", "$SRV.INFO.other", "$SRV.PING.back.x"] {
        assert!(answers(&ops, nobody).await.is_empty(), "{nobody}");
    }

    // Each replica answers for itself; one that is drained answers no more.
    let second = bus.client("back").await;
    let second = serve(&second).await;
    assert_eq!(answers(&ops, "$SRV.PING").await.len(), 2);
    second.drain().await;
    assert_eq!(answers(&ops, "$SRV.PING.back").await.len(), 1);
    service.drain().await;
}

/// The reply subject of a question is checked by nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn attack_05_answers_of_discovery_are_aimed_at_nobody_else() {
    let bus = Bus::start(FOUND).await;
    let (front, back) = (bus.client("front").await, bus.client("back").await);
    let _service = serve(&back).await;
    let ops = bus.raw_client("ops").await;
    let aims = [
        bus.peer_inbox("front", "x"),
        bus.peer_inbox("back", "x"),
        "back.halve".to_owned(),
        "$JS.API.STREAM.DELETE.BULLA_CTL".to_owned(),
    ];
    for aim in &aims {
        ops.publish_with_reply("$SRV.PING", aim.clone(), "".into())
            .await
            .unwrap();
    }
    ops.publish("$SRV.PING", "".into()).await.unwrap();
    ops.flush().await.unwrap();
    eventually(|| back.stats().refused_for("discovery_foreign_inbox") == 5).await;
    assert_eq!(front.stats().refused().len(), 0, "{:?}", front.stats());
    assert_eq!(back.stats().delivered(), 0);

    // And who may not discover does not even ask.
    let raw = bus.raw_client("front").await;
    assert!(answers(&raw, "$SRV.PING").await.is_empty());
    assert_eq!(back.stats().refused_for("discovery_foreign_inbox"), 5);
}

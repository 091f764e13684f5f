//! What a broker tells a collector of traces.

use std::time::Duration;

use bulla_broker::callout::Group;
use bulla_identity::NkeyKind;
use bulla_keyring::NkeySeed;
use bulla_tests::{BrokerProcess, Bus, BusOptions, Collector};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

const POLICY: &str = r#"
version = 1
trust_domain = "acme.example"
[workload.purser]
attest = [{ nkey = "@purser@" }]
[[allow]]
id  = "stores-are-told"
who = ["purser"]
may = ["publish"]
on  = ["galley.stores"]
"#;

async fn bus() -> Bus {
    let options = BusOptions {
        brokers: Vec::new(),
        ..BusOptions::new(POLICY)
    };
    Bus::start_with(options).await
}

fn attribute(span: &Span, key: &str) -> String {
    let mut named = span.attributes.iter().filter(|a| a.key == key);
    let value = named.next().and_then(|named| named.value.clone()?.value);
    match value {
        Some(Value::StringValue(text)) => text,
        _ => String::new(),
    }
}

fn is_error(span: &Span) -> bool {
    let status = span.status.as_ref();
    status.is_some_and(|status| status.code == StatusCode::Error as i32)
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_requests_and_records_are_spans_and_nothing_in_them_is_secret() {
    let bus = bus().await;
    let collector = Collector::start().await;
    let traces = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=harbour"),
    ];
    let mut broker = BrokerProcess::start_with(&bus, Group::Both, &traces).await;
    let purser = bus.client("purser").await;
    let stranger = NkeySeed::from_random(NkeyKind::User, &[7; 32]).unwrap();
    let key = stranger.public().to_string();
    assert!(bus.raw_client_with("purser", stranger).await.is_err());
    bus.publish_policy(&POLICY.replace("galley.stores", "galley.*"))
        .await;
    let begun = Instant::now();
    let has = |name: &str| collector.spans().iter().any(|(_, span)| span.name == name);
    while !has("take policy") {
        assert!(begun.elapsed() < Duration::from_secs(15), "no such record");
        sleep(Duration::from_millis(50)).await;
    }
    purser.drain().await;
    // What was not sent yet is sent with its end.
    broker.signal(Signal::TERM);
    assert!(broker.ended().await.success());

    let all = collector.spans();
    assert!(all.iter().all(|(service, _)| service == "bulla-broker"));
    let spans: Vec<&Span> = all.iter().map(|(_, span)| span).collect();
    let find = |name: &str, holds: &dyn Fn(&Span) -> bool| -> &Span {
        let found = spans
            .iter()
            .copied()
            .find(|span| span.name == name && holds(span));
        found.unwrap_or_else(|| panic!("no such `{name}` in {spans:#?}"))
    };
    let admitted = find("connect", &|span| {
        attribute(span, "bulla.workload") == "purser"
    });
    assert!(!is_error(admitted));
    assert_eq!(attribute(admitted, "bulla.decision").len(), 32);
    for part in ["decide", "answer"] {
        let within = find(part, &|span| span.parent_span_id == admitted.span_id);
        assert_eq!(within.trace_id, admitted.trace_id);
    }
    let refused = find("connect", &|span| is_error(span));
    assert_eq!(attribute(refused, "error.type"), "unknown_nkey");
    find("challenge", &|_| true);
    find("credential", &|span| {
        attribute(span, "bulla.workload") == "purser"
    });
    find("take policy", &|span| !is_error(span));

    let text = format!("{spans:?}");
    let own = bus.seed("purser").public().to_string();
    for secret in [&key, &own, "galley", "Bearer", "eyJ"] {
        assert!(!text.contains(secret), "a span tells `{secret}`");
    }
}

/// The broker waits for nobody, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_holds_nobody_up() {
    let bus = bus().await;
    let traces = [
        // Nobody listens there.
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let mut broker = BrokerProcess::start_with(&bus, Group::Both, &traces).await;
    let begun = Instant::now();
    let _purser = bus.client("purser").await;
    assert!(begun.elapsed() < Duration::from_secs(3));
    let told = "the collector of traces does not take them";
    broker.says(told, Duration::from_secs(10)).await;
    broker.signal(Signal::TERM);
    assert!(broker.ended().await.success());
}

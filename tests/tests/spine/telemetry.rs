//! One trace from the HTTP request through every hop, as a collector gets it: over
//! OTLP, HTTP and protobuf, on a real socket.

use std::collections::HashMap;
use std::time::Duration;

use bulla_tests::{Collector, Shop};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_sdk::trace::SdkTracerProvider;
use reqwest::StatusCode;
use serde_json::json;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, Registry};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Exports the spans of this process from now on.
async fn export_to(url: String) -> SdkTracerProvider {
    // The exporter's HTTP client blocks, so it is made where that is allowed.
    let made = tokio::task::spawn_blocking(move || {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url)
            .with_timeout(Duration::from_secs(5));
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter.build().unwrap())
            .build()
    });
    let provider = made.await.unwrap();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("bulla"));
    let ours = Targets::new().with_target(bulla_sdk::telemetry::TARGET, LevelFilter::DEBUG);
    let subscriber = Registry::default().with(layer.with_filter(ours));
    tracing::subscriber::set_global_default(subscriber).unwrap();
    provider
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_goes_from_http_through_every_hop_to_a_collector() {
    let collector = Collector::start().await;
    let provider = export_to(format!("{}/v1/traces", collector.url())).await;
    let shop = Shop::open().await;
    let token = shop.token("alice", "orders:write");
    let order = shop
        .http
        .post(format!("{}/v1/orders", shop.url))
        .bearer_auth(&token)
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .json(&json!({"item": "clay", "quantity": 3}));
    let response = order.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    shop.close().await;
    let flush = tokio::task::spawn_blocking(move || provider.force_flush());
    flush.await.unwrap().unwrap();

    let spans: Vec<Span> = collector.spans().into_iter().map(|(_, s)| s).collect();
    let ours = spans.iter().filter(|span| hex(&span.trace_id) == TRACE);
    let by_name: HashMap<&str, &Span> = ours.map(|span| (span.name.as_str(), span)).collect();
    let mut parent = CALLER.to_owned();
    for name in [
        "HTTP POST",
        "request orders.create",
        "handle orders.create",
        "request billing.quote",
        "handle billing.quote",
    ] {
        let span = by_name.get(name);
        let span = span.unwrap_or_else(|| panic!("no `{name}` in {:?}", by_name.keys()));
        assert_eq!(hex(&span.parent_span_id), parent, "the parent of `{name}`");
        parent = hex(&span.span_id);
    }
    // Nobody else's trace, and nothing that is the user's.
    let text = format!("{spans:?}");
    assert!(!text.contains("alice") && !text.contains(&token));
}

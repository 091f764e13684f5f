//! Spans on their way to a collector: OTLP over HTTP, as protobuf, if the environment
//! names one.
//!
//! The variables are those of OpenTelemetry:
//!
//! | variable | what |
//! |---|---|
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | the collector, `http://127.0.0.1:4318`; without it nothing is made or sent |
//! | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` | the same in full, with the path |
//! | `OTEL_EXPORTER_OTLP_HEADERS`, `…_TIMEOUT` | what each request carries; milliseconds |
//! | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | who says so; by default the process's name |
//! | `OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG` | which traces, for example `parentbased_traceidratio` and `0.01`; by default all |
//! | `OTEL_SDK_DISABLED` | `true`: nothing, whatever the others say |
//!
//! Nothing waits for the collector. Spans that it does not take are dropped, and the log
//! says so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter};

use crate::logs::LogsError;

/// The target of the spans that are sent: [`init_tracing_with_traces`] sends no other.
///
/// [`init_tracing_with_traces`]: crate::init_tracing_with_traces
pub const TRACE_TARGET: &str = "bulla::trace";

/// Where this process's spans go, until it ends.
#[derive(Debug, Default)]
#[must_use = "what was not sent yet is lost unless it is finished"]
pub struct Traces {
    provider: Option<SdkTracerProvider>,
}

impl Traces {
    /// What the environment asks for, and what makes spans of it.
    pub(crate) fn from_environment(
        process: &'static str,
    ) -> Result<Option<(Self, SdkTracer)>, LogsError> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_off = std::env::var("OTEL_SDK_DISABLED");
        if !ENDPOINTS.into_iter().any(is_set) || is_off.is_ok_and(|off| off == "true") {
            return Ok(None);
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .build()
            .map_err(|source| LogsError::Exporter {
                reason: source.to_string(),
            })?;
        let named = Resource::builder_empty().with_service_name(process);
        // What the environment says of it counts.
        let resource = named.with_detector(Box::new(EnvResourceDetector::new()));
        let name = std::env::var("OTEL_SERVICE_NAME");
        let resource = match name.ok().filter(|name| !name.is_empty()) {
            Some(name) => resource.with_service_name(name),
            None => resource,
        };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(Watched::new(exporter))
            .build();
        let tracer = provider.tracer("bulla");
        let provider = Some(provider);
        Ok(Some((Self { provider }, tracer)))
    }

    /// Sends what was not sent yet, for two seconds at most. Blocks.
    pub fn finish(self) {
        if let Some(provider) = self.provider {
            // What fails has been told.
            let _ = provider.shutdown_with_timeout(LAST);
        }
    }
}

/// Says what a collector does not take: once in a while, not with each batch.
#[derive(Debug)]
struct Watched<E> {
    inner: E,
    since: Instant,
    /// When it was said last, in milliseconds since then.
    told: AtomicU64,
}

impl<E> Watched<E> {
    fn new(inner: E) -> Self {
        Self {
            inner,
            since: Instant::now(),
            told: AtomicU64::new(0),
        }
    }

    fn is_due(&self) -> bool {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let told = self.told.load(Ordering::Relaxed);
        let is_due = told == 0 || now.saturating_sub(told) > PAUSE_MILLIS;
        if is_due {
            self.told.store(now.max(1), Ordering::Relaxed);
        }
        is_due
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.inner.export(batch).await;
        // Not what the collector answered: that is somebody else's text.
        if sent.is_err() && self.is_due() {
            tracing::warn!(
                target: "bulla::traces",
                spans,
                "the collector of traces does not take them: they are dropped"
            );
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

/// How long the end may take.
const LAST: Duration = Duration::from_secs(2);

/// Between two complaints.
const PAUSE_MILLIS: u64 = 60_000;

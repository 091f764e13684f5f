//! Prometheus metrics. Labels are routes, statuses and fixed reasons: never a
//! subject, a user or anything that a client chooses.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// All metrics of the process. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
    refused: Family<ReasonLabels, Counter>,
    key_fetches: Family<FetchLabels, Counter>,
    connections: Gauge<i64, AtomicI64>,
    shed: Family<ReasonLabels, Counter>,
    reloads: Family<OutcomeLabels, Counter>,
    streams: Gauge<i64, AtomicI64>,
    #[cfg(feature = "acme")]
    certificates: Family<OutcomeLabels, Counter>,
}

/// What counts the answers of a route, once it has been found.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteMetrics {
    /// Of the status that most answers have.
    ok: OnceLock<Counter>,
    seconds: OnceLock<Histogram>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: Arc<str>,
    status: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FetchLabels {
    issuer: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

const BUCKETS: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("bulla_gateway");
        let requests = Family::default();
        registry.register("requests", "Answered requests", requests.clone());
        let seconds: Family<RouteLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register("request_seconds", "Time to the answer", seconds.clone());
        let refused = Family::default();
        registry.register("refused", "Refused requests by reason", refused.clone());
        let key_fetches = Family::default();
        registry.register(
            "key_fetches",
            "Fetches of issuers' keys",
            key_fetches.clone(),
        );
        let connections = Gauge::default();
        registry.register("connections", "Open connections", connections.clone());
        let shed = Family::default();
        registry.register("shed", "Connections and requests turned away", shed.clone());
        let reloads = Family::default();
        registry.register("reloads", "Configurations read again", reloads.clone());
        let streams = Gauge::default();
        registry.register("streams", "Open streams", streams.clone());
        #[cfg(feature = "acme")]
        let certificates = Family::default();
        #[cfg(feature = "acme")]
        registry.register(
            "certificate_orders",
            "Certificates asked for",
            certificates.clone(),
        );
        Self(Arc::new(Inner {
            registry,
            requests,
            seconds,
            refused,
            key_fetches,
            connections,
            shed,
            reloads,
            streams,
            #[cfg(feature = "acme")]
            certificates,
        }))
    }

    /// An answered request of a route; `found` is what was found of the route before.
    pub(crate) fn answered(
        &self,
        route: &str,
        found: &RouteMetrics,
        status: StatusCode,
        took: Duration,
    ) {
        if status == StatusCode::OK {
            let ok = found.ok.get_or_init(|| self.requests(route, status));
            ok.inc();
        } else {
            self.requests(route, status).inc();
        }
        let seconds = found.seconds.get_or_init(|| self.seconds(route));
        seconds.observe(took.as_secs_f64());
    }

    /// An answered request that no route matched.
    pub(crate) fn answered_nowhere(&self, status: StatusCode, took: Duration) {
        self.requests("", status).inc();
        self.seconds("").observe(took.as_secs_f64());
    }

    fn requests(&self, route: &str, status: StatusCode) -> Counter {
        let labels = RequestLabels {
            route: route.into(),
            status: status.as_u16().into(),
        };
        self.0.requests.get_or_create_owned(&labels)
    }

    fn seconds(&self, route: &str) -> Histogram {
        let route = route.into();
        let labels = RouteLabels { route };
        self.0.seconds.get_or_create_owned(&labels)
    }

    /// A head that was answered though no request came of it. Nobody knows how long it took.
    pub(crate) fn answered_unread(&self, status: StatusCode) {
        self.requests("", status).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused_times(reason, 1);
    }

    pub(crate) fn refused_times(&self, reason: &'static str, times: u64) {
        let refused = self.0.refused.get_or_create(&ReasonLabels { reason });
        refused.inc_by(times);
    }

    pub(crate) fn key_fetch(&self, issuer: &str, good: bool) {
        let labels = FetchLabels {
            issuer: issuer.into(),
            outcome: if good { "ok" } else { "failed" },
        };
        self.0.key_fetches.get_or_create(&labels).inc();
    }

    pub(crate) fn connected(&self) {
        self.0.connections.inc();
    }

    pub(crate) fn disconnected(&self) {
        self.0.connections.dec();
    }

    pub(crate) fn shed(&self, reason: &'static str) {
        self.0.shed.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn stream_opened(&self) {
        self.0.streams.inc();
    }

    pub(crate) fn stream_closed(&self) {
        self.0.streams.dec();
    }

    pub(crate) fn reloaded(&self, good: bool) {
        let outcome = if good { "ok" } else { "refused" };
        self.0
            .reloads
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    #[cfg(feature = "acme")]
    pub(crate) fn certificate_ordered(&self, good: bool) {
        let outcome = if good { "ok" } else { "failed" };
        self.0
            .certificates
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.0.registry);
        text
    }
}

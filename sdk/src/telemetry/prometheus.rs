//! Numbers for Prometheus.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Recorder, Settled};
use crate::stats::Stats;

const BUCKETS: [f64; 11] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
];

/// A [`Recorder`] whose numbers Prometheus reads (feature `prometheus`); cloning
/// shares it. Labels are endpoints and stable codes, never subjects or users.
///
/// ```no_run
/// use std::sync::Arc;
/// use bulla_sdk::telemetry::Prometheus;
/// use bulla_sdk::{Client, ConnectOptions};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let metrics = Prometheus::new();
/// let options = ConnectOptions::from_env()?.recorder(Arc::new(metrics.clone()));
/// let client = Client::connect(options).await?;
/// metrics.watch(client.stats());
/// let page = metrics.text(); // what `/metrics` answers
/// # drop(page);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Prometheus(Arc<Inner>);

type Seconds<L> = Family<L, Histogram, fn() -> Histogram>;

struct Inner {
    registry: Mutex<Registry>,
    handled: Seconds<Handled>,
    asked: Seconds<Asked>,
    published: Family<Asked, Counter>,
    appended: Seconds<Asked>,
    taken: Family<Taken, Counter>,
    worked: Seconds<Worked>,
    settled: Family<SettledAs, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Taken {
    stream: String,
    consumer: String,
    again: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Worked {
    stream: String,
    consumer: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SettledAs {
    stream: String,
    consumer: String,
    how: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Handled {
    endpoint: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    outcome: &'static str,
}

impl Prometheus {
    /// A registry of its own.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("bulla_sdk");
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let handled = Family::new_with_constructor(histogram);
        let asked = Family::new_with_constructor(histogram);
        let published = Family::<Asked, Counter>::default();
        let appended = Family::new_with_constructor(histogram);
        let taken = Family::<Taken, Counter>::default();
        let worked = Family::new_with_constructor(histogram);
        let settled = Family::<SettledAs, Counter>::default();
        registry.register("handled_seconds", "Requests handled", handled.clone());
        registry.register("asked_seconds", "Requests made", asked.clone());
        registry.register("published", "Events published", published.clone());
        registry.register("appended_seconds", "Events appended", appended.clone());
        registry.register(
            "taken",
            "Stored messages taken by consumers, again or for the first time",
            taken.clone(),
        );
        registry.register(
            "worked_seconds",
            "Stored messages handled by workers",
            worked.clone(),
        );
        registry.register(
            "settled",
            "What streams were told of their messages",
            settled.clone(),
        );
        Self(Arc::new(Inner {
            registry: Mutex::new(registry),
            handled,
            asked,
            published,
            appended,
            taken,
            worked,
            settled,
        }))
    }

    /// Shows what a client counts as well: messages sent, delivered and refused, by
    /// reason.
    pub fn watch(&self, stats: &Stats) {
        let stats = Watched(stats.clone());
        self.0.registry.lock().register_collector(Box::new(stats));
    }

    /// The page that Prometheus reads, in the format of OpenMetrics 1.0.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.0.registry.lock());
        text
    }
}

impl Default for Prometheus {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Prometheus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prometheus").finish_non_exhaustive()
    }
}

impl Recorder for Prometheus {
    fn handled(&self, endpoint: &str, outcome: &'static str, took: Duration) {
        let labels = Handled {
            endpoint: endpoint.to_owned(),
            outcome,
        };
        let seconds = self.0.handled.get_or_create(&labels);
        seconds.observe(took.as_secs_f64());
    }

    fn asked(&self, outcome: &'static str, took: Duration) {
        let seconds = self.0.asked.get_or_create(&Asked { outcome });
        seconds.observe(took.as_secs_f64());
    }

    fn published(&self, outcome: &'static str) {
        self.0.published.get_or_create(&Asked { outcome }).inc();
    }

    fn appended(&self, outcome: &'static str, took: Duration) {
        let seconds = self.0.appended.get_or_create(&Asked { outcome });
        seconds.observe(took.as_secs_f64());
    }

    fn taken(&self, stream: &str, consumer: &str, times_delivered: u64) {
        let labels = Taken {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            again: if times_delivered > 1 { "yes" } else { "no" },
        };
        self.0.taken.get_or_create(&labels).inc();
    }

    fn worked(&self, stream: &str, consumer: &str, outcome: &'static str, took: Duration) {
        let labels = Worked {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            outcome,
        };
        let seconds = self.0.worked.get_or_create(&labels);
        seconds.observe(took.as_secs_f64());
    }

    fn settled(&self, stream: &str, consumer: &str, how: Settled) {
        let labels = SettledAs {
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            how: how.code(),
        };
        self.0.settled.get_or_create(&labels).inc();
    }
}

/// What a client counts, read when it is asked for.
#[derive(Debug)]
struct Watched(Stats);

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = &self.0;
        let plain = [
            ("sent", "Messages sealed and sent", stats.sent()),
            ("delivered", "Messages that passed", stats.delivered()),
            (
                "slow_consumer",
                "Times a subscription was full",
                stats.slow_consumer(),
            ),
            (
                "late_replies",
                "Replies nobody waited for",
                stats.late_replies(),
            ),
            (
                "deadlines_passed",
                "Handlers stopped at their deadline",
                stats.deadlines_passed(),
            ),
        ];
        for (name, help, value) in plain {
            let counter = ConstCounter::new(value);
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            counter.encode(metric)?;
        }
        for (name, help, label, counts) in [
            ("refused", "What was refused", "reason", stats.refused()),
            ("alarms", "Alarms", "code", stats.alarms()),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (code, count) in counts {
                let labels = [(label, code)];
                let metric = family.encode_family(&labels)?;
                ConstCounter::new(count).encode(metric)?;
            }
        }
        Ok(())
    }
}

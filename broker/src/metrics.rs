//! What a broker counts, for Prometheus. Labels are fixed words of the program:
//! never a workload, a user, a subject, an address or anything that somebody outside
//! chooses.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bulla_process::Usage;
use bulla_sdk::audit::{AuditState, ByKind};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

/// All metrics of one broker. Clones share them.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

struct Inner {
    decisions: Family<DecisionLabels, Counter>,
    unanswered: Family<ReasonLabels, Counter>,
    waiting: Gauge,
    callout_seconds: Histogram,
    control_seconds: Family<VerbLabels, Histogram>,
    ended: Family<EndedLabels, Counter>,
    reauthorised: Family<OutcomeLabels, Counter>,
    over_quota: Gauge,
    records: Family<RecordLabels, Counter>,
    slow_consumers: Family<AccountLabels, Counter>,
    exchanger: Gauge,
    started: Instant,
    /// Milliseconds after the start, and one more; 0 if none was told.
    head_told: AtomicU64,
    registry: Registry,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DecisionLabels {
    verb: &'static str,
    decision: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndedLabels {
    reason: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RecordLabels {
    record: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AccountLabels {
    account: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EnforcerLabels {
    kind: &'static str,
    state: &'static str,
}

/// How a broker stands at one moment; what only that moment can say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) is_ready: bool,
    pub(crate) revision: u64,
    pub(crate) bundle: u64,
    pub(crate) revocations: u64,
    pub(crate) candidate: u64,
    pub(crate) would_deny: u64,
    pub(crate) would_allow: u64,
    /// When the trust bundle ends, in seconds since 1970.
    pub(crate) bundle_until: u64,
    /// When the issuing key in use ends; 0 if there is none.
    pub(crate) issuing_until: u64,
    pub(crate) is_vouched: bool,
    /// How long ago the control stream was read.
    pub(crate) state_age: Duration,
    /// Whether each account's connection stands, and how often it was made.
    pub(crate) connections: Vec<(&'static str, bool, u64)>,
    pub(crate) audit: AuditState,
    /// How far the audit log's writer is behind.
    pub(crate) audit_lag: Duration,
    /// Enforcers by kind and state.
    pub(crate) enforcers: Vec<(&'static str, &'static str, u64)>,
    /// The lowest revision that an enforcer says it runs.
    pub(crate) lowest_revision: Option<u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let broker = registry.sub_registry_with_prefix(PREFIX);
        let decisions = Family::default();
        broker.register(
            "decisions",
            "Decisions by what was asked, the answer and the reason of a refusal",
            decisions.clone(),
        );
        let unanswered = Family::default();
        broker.register(
            "callout_unanswered",
            "Questions of nats-server that got no answer, by reason",
            unanswered.clone(),
        );
        let waiting = Gauge::default();
        broker.register(
            "callout_waiting",
            "Questions of nats-server that wait to be answered",
            waiting.clone(),
        );
        let callout_seconds = Histogram::new(CALLOUT_BUCKETS);
        broker.register_with_unit(
            "callout",
            "Time from a question's arrival to its answer",
            Unit::Seconds,
            callout_seconds.clone(),
        );
        let control_seconds: Family<VerbLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(CONTROL_BUCKETS));
        broker.register_with_unit(
            "control",
            "Time to answer workloads that ask for challenges, credentials and KEM records",
            Unit::Seconds,
            control_seconds.clone(),
        );
        let ended = Family::default();
        broker.register(
            "connections_ended",
            "Connections that this broker ended, by reason",
            ended.clone(),
        );
        let reauthorised = Family::default();
        broker.register(
            "reauthorisations",
            "How often a server was told to ask about all its connections anew",
            reauthorised.clone(),
        );
        let over_quota = Gauge::default();
        broker.register(
            "audit_over_quota",
            "Workloads that have used up their share of the audit log",
            over_quota.clone(),
        );
        let records = Family::default();
        broker.register(
            "records",
            "New records of the control stream and of files: taken, refused, or not readable",
            records.clone(),
        );
        let slow_consumers = Family::default();
        broker.register(
            "slow_consumers",
            "How often messages were lost because a subscription was full",
            slow_consumers.clone(),
        );
        let exchanger = Gauge::default();
        broker.register(
            "exchange_up",
            "1 if users' tokens can be exchanged here",
            exchanger.clone(),
        );
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        broker.register("build", "The program", Info::new(version));
        let metrics = Self(Arc::new(Inner {
            decisions,
            unanswered,
            waiting,
            callout_seconds,
            control_seconds,
            ended,
            reauthorised,
            over_quota,
            records,
            slow_consumers,
            exchanger,
            started: Instant::now(),
            head_told: AtomicU64::new(0),
            registry,
        }));
        metrics.begin_at_zero();
        // Since when the process runs is counted from here.
        let _ = Usage::now();
        metrics
    }

    /// A series that begins with its first event hides it from whoever looks at rates.
    fn begin_at_zero(&self) {
        for verb in ["connect", "credential", "kem"] {
            let labels = DecisionLabels {
                verb,
                decision: "allow",
                reason: "",
            };
            drop(self.0.decisions.get_or_create(&labels));
        }
        for reason in ["queue_full", "waited_too_long", "too_late", "does_not_open"] {
            drop(self.0.unanswered.get_or_create(&ReasonLabels { reason }));
        }
        for reason in ["workload_revoked", "permissions_changed"] {
            let outcome = "ok";
            drop(self.0.ended.get_or_create(&EndedLabels { reason, outcome }));
        }
        for outcome in ["ok", "failed"] {
            drop(
                self.0
                    .reauthorised
                    .get_or_create(&OutcomeLabels { outcome }),
            );
        }
        for record in ["policy", "trust bundle", "revocation list"] {
            for outcome in ["taken", "refused", "unreadable"] {
                let labels = RecordLabels { record, outcome };
                drop(self.0.records.get_or_create(&labels));
            }
        }
        for account in ["AUTH", "JS", "SYS"] {
            let labels = AccountLabels { account };
            drop(self.0.slow_consumers.get_or_create(&labels));
        }
    }

    /// A decision; `refusal` is the reason's stable code.
    pub(crate) fn decided(&self, verb: &'static str, refusal: Option<&'static str>) {
        let labels = DecisionLabels {
            verb,
            decision: if refusal.is_some() { "deny" } else { "allow" },
            reason: refusal.unwrap_or(""),
        };
        self.0.decisions.get_or_create(&labels).inc();
    }

    /// A question that gets no answer.
    pub(crate) fn unanswered(&self, reason: &'static str) {
        self.0
            .unanswered
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    /// A question waits, until what this gives is dropped.
    pub(crate) fn waits(&self) -> Waits {
        self.0.waiting.inc();
        Waits(self.clone())
    }

    /// A question was answered so long after its arrival.
    pub(crate) fn answered(&self, took: Duration) {
        self.0.callout_seconds.observe(took.as_secs_f64());
    }

    /// A workload's request was answered.
    pub(crate) fn control_answered(&self, verb: &'static str, took: Duration) {
        self.0
            .control_seconds
            .get_or_create(&VerbLabels { verb })
            .observe(took.as_secs_f64());
    }

    /// A connection was ended, or could not be.
    pub(crate) fn ended(&self, reason: &'static str, is_done: bool) {
        let outcome = if is_done { "ok" } else { "failed" };
        let labels = EndedLabels { reason, outcome };
        self.0.ended.get_or_create(&labels).inc();
    }

    /// A server was told to ask about all its connections anew.
    pub(crate) fn reauthorised(&self, is_done: bool) {
        let outcome = if is_done { "ok" } else { "failed" };
        self.0
            .reauthorised
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// So many workloads may not write to the audit log now.
    pub(crate) fn over_quota(&self, workloads: usize) {
        let workloads = i64::try_from(workloads).unwrap_or(i64::MAX);
        self.0.over_quota.set(workloads);
    }

    /// What became of a record that was new.
    pub(crate) fn record(&self, record: &'static str, outcome: &'static str) {
        let labels = RecordLabels { record, outcome };
        self.0.records.get_or_create(&labels).inc();
    }

    /// Messages were lost.
    pub(crate) fn slow_consumer(&self, account: &'static str) {
        let labels = AccountLabels { account };
        self.0.slow_consumers.get_or_create(&labels).inc();
    }

    /// Whether tokens are exchanged here.
    pub(crate) fn exchanges(&self, is_up: bool) {
        self.0.exchanger.set(is_up.into());
    }

    /// A head was told now.
    pub(crate) fn head_told(&self) {
        let since = self.0.started.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1);
        self.0.head_told.store(since, Ordering::Relaxed);
    }

    /// How long ago the last head was told; nothing if none was.
    pub(crate) fn head_age(&self) -> Option<Duration> {
        let told = self.0.head_told.load(Ordering::Relaxed).checked_sub(1)?;
        let told = Duration::from_millis(told);
        Some(self.0.started.elapsed().saturating_sub(told))
    }

    /// The text that Prometheus reads. Without `standing` the broker has not started.
    pub(crate) fn text(&self, standing: &Standing) -> String {
        let mut now = Registry::default();
        let broker = now.sub_registry_with_prefix(PREFIX);
        self.tell_standing(broker, standing);
        tell_audit(broker, &standing.audit, standing.audit_lag);
        tell_usage(&mut now);
        let (mut text, mut rest) = (String::new(), String::new());
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &now);
        let _ = encode(&mut rest, &self.0.registry);
        // Each ends in a mark of its own, and a text has one.
        if let Some(body) = text.strip_suffix(END) {
            text.truncate(body.len());
        }
        text.push_str(&rest);
        text
    }

    fn tell_standing(&self, broker: &mut Registry, standing: &Standing) {
        let mut tell = |name, help, value: u64| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            broker.register(name, help, ConstGauge::new(value));
        };
        let ready = standing.is_ready.into();
        tell("ready", "1 if this broker should be asked", ready);
        let help = "Revision of the policy in force here";
        tell("policy_revision", help, standing.revision);
        let help = "Version of the trust bundle in force here";
        tell("bundle_version", help, standing.bundle);
        let help = "Sequence of the revocation list in force here";
        tell("revocations_sequence", help, standing.revocations);
        let help = "Number of the policy on trial; 0 if there is none";
        tell("candidate_revision", help, standing.candidate);
        let help = "1 if the trust bundle names the key that signed the policy in force";
        tell("policy_vouched", help, standing.is_vouched.into());
        let help = "When the trust bundle ends, in seconds since 1970";
        tell(
            "bundle_expires_timestamp_seconds",
            help,
            standing.bundle_until,
        );
        let help = "When the issuing key in use ends, in seconds since 1970; 0 without a key";
        tell(
            "issuing_key_expires_timestamp_seconds",
            help,
            standing.issuing_until,
        );
        if let Some(lowest) = standing.lowest_revision {
            let help = "The lowest policy revision that an enforcer says it runs";
            tell("enforcers_lowest_revision", help, lowest);
        }
        let mut tell = |name, help, age: Duration| {
            broker.register(name, help, ConstGauge::new(age.as_secs_f64()));
        };
        let help = "How long ago all that is in force was read from the control stream";
        tell("state_age_seconds", help, standing.state_age);
        if let Some(age) = self.head_age() {
            let help = "How long ago this broker said what is in force";
            tell("head_age_seconds", help, age);
        }
        let would = [
            ("deny", standing.would_deny),
            ("allow", standing.would_allow),
        ];
        let family = Family::<KindLabels, Counter>::default();
        for (kind, count) in would {
            family.get_or_create(&KindLabels { kind }).inc_by(count);
        }
        let help = "Connections about which the policy on trial would have decided otherwise";
        broker.register("candidate_differs", help, family);
        let connected = Family::<AccountLabels, Gauge>::default();
        let connects = Family::<AccountLabels, Counter>::default();
        for (account, is_connected, count) in &standing.connections {
            let labels = AccountLabels { account };
            connected.get_or_create(&labels).set((*is_connected).into());
            connects.get_or_create(&labels).inc_by(*count);
        }
        let help = "1 while the connection to nats-server stands";
        broker.register("connected", help, connected);
        let help = "Connections made to nats-server, the first and all after it";
        broker.register("connects", help, connects);
        let enforcers = Family::<EnforcerLabels, Gauge>::default();
        for (kind, state, count) in &standing.enforcers {
            let labels = EnforcerLabels { kind, state };
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            enforcers.get_or_create(&labels).set(count);
        }
        let help = "Processes that enforce the policy, by whether they run what is in force; \
                    complete half a minute after a broker's start";
        broker.register("enforcers", help, enforcers);
    }
}

fn tell_audit(broker: &mut Registry, state: &AuditState, lag: Duration) {
    let by_kind = |kinds: &ByKind| {
        [
            ("deny", kinds.denies),
            ("allow", kinds.allows),
            ("other", kinds.others),
        ]
    };
    let waiting = Family::<KindLabels, Gauge<i64, AtomicI64>>::default();
    for (kind, count) in by_kind(&state.waiting) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        waiting.get_or_create(&KindLabels { kind }).set(count);
    }
    let help = "Entries that wait to be written to the audit log";
    broker.register("audit_waiting", help, waiting);
    let lost = Family::<KindLabels, Counter>::default();
    for (kind, count) in by_kind(&state.lost) {
        lost.get_or_create(&KindLabels { kind }).inc_by(count);
    }
    let help = "Entries that found no room; a gap in the log tells of them";
    broker.register("audit_lost", help, lost);
    let failures = Family::<ReasonLabels, Counter>::default();
    for (reason, count) in [
        ("unreachable", state.unreachable),
        ("refused", state.refused),
    ] {
        let labels = ReasonLabels { reason };
        failures.get_or_create(&labels).inc_by(count);
    }
    let help = "Attempts to store entries of the audit log that failed";
    broker.register("audit_failures", help, failures);
    let help = "Entries that the audit log has acknowledged";
    broker.register("audit_stored", help, ConstCounter::new(state.stored));
    let help = "Gaps that this broker told of in the audit log";
    broker.register("audit_gaps", help, ConstCounter::new(state.gaps));
    let help = "How long the oldest entry waits that is not in the audit log yet";
    let lag = ConstGauge::new(lag.as_secs_f64());
    broker.register("audit_lag_seconds", help, lag);
}

/// Under the names that every Prometheus client uses.
fn tell_usage(registry: &mut Registry) {
    let usage = Usage::now();
    let mut tell = |name, help, value: f64| {
        registry.register(name, help, ConstGauge::new(value));
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "bytes and files are far below 2^52"
    )]
    let of = |value: u64| value as f64;
    let help = "Resident memory";
    tell(
        "process_resident_memory_bytes",
        help,
        of(usage.resident_bytes),
    );
    tell("process_open_fds", "Open files", of(usage.open_files));
    tell(
        "process_max_fds",
        "Files that may be open",
        of(usage.max_files),
    );
    let help = "When the process started, in seconds since 1970";
    tell("process_start_time_seconds", help, usage.started);
    let help = "Processor time";
    let cpu = ConstCounter::new(usage.cpu_seconds);
    registry.register("process_cpu_seconds", help, cpu);
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// A question that waits.
#[derive(Debug)]
pub(crate) struct Waits(Metrics);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.0.waiting.dec();
    }
}

const PREFIX: &str = "bulla_broker";

/// How OpenMetrics texts end.
const END: &str = "# EOF\n";

/// nats-server waits for two seconds.
const CALLOUT_BUCKETS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 2.0,
];

const CONTROL_BUCKETS: [f64; 9] = [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_one_text_in_which_each_metric_stands_once() {
        let metrics = Metrics::new();
        metrics.decided("connect", Some("unknown_nkey"));
        metrics.decided("connect", None);
        metrics.unanswered("not_encrypted");
        metrics.answered(Duration::from_millis(1));
        let waits = metrics.waits();
        assert_eq!(metrics.head_age(), None);
        metrics.head_told();
        assert!(metrics.head_age().is_some());
        let text = metrics.text(&Standing {
            revision: 7,
            connections: vec![("JS", true, 2)],
            enforcers: vec![("broker", "current", 3)],
            ..Standing::default()
        });
        for line in [
            "bulla_broker_policy_revision 7",
            "bulla_broker_callout_waiting 1",
            r#"bulla_broker_decisions_total{verb="connect",decision="deny",reason="unknown_nkey"} 1"#,
            r#"bulla_broker_connects_total{account="JS"} 2"#,
            r#"bulla_broker_enforcers{kind="broker",state="current"} 3"#,
            r#"bulla_broker_callout_seconds_bucket{le="0.001"} 1"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with(END));
        let mut names: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{text}");
        drop(waits);
        let text = metrics.text(&Standing::default());
        assert!(text.contains("bulla_broker_callout_waiting 0"));
    }
}

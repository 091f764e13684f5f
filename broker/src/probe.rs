//! What a broker says to operators and orchestrators: whether it should be asked,
//! and its metrics.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use bulla_process::CancellationToken;
use bulla_process::admin::Probe;
use bulla_sdk::audit::AuditLog;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::census::Census;
use crate::clock;
use crate::control::ControlPlane;
use crate::metrics::{Metrics, Standing};
use crate::seen::Seen;
use crate::trial::Trial;

/// One broker's probe. It answers from the first moment on.
pub(crate) struct BrokerProbe {
    metrics: Metrics,
    /// What the start waits for.
    stage: Mutex<&'static str>,
    running: OnceLock<Running>,
    stop: CancellationToken,
}

/// What there is to ask once a broker runs.
pub(crate) struct Running {
    pub(crate) plane: Arc<ControlPlane>,
    pub(crate) seen: Arc<Seen>,
    pub(crate) trial: Arc<Trial>,
    pub(crate) census: Arc<Census>,
    pub(crate) audit: AuditLog,
    pub(crate) clients: [(&'static str, Client); 3],
}

impl BrokerProbe {
    /// It starts.
    pub(crate) fn new(metrics: Metrics, stop: CancellationToken) -> Self {
        Self {
            metrics,
            stage: Mutex::new("starting"),
            running: OnceLock::new(),
            stop,
        }
    }

    /// Its start waits for this.
    pub(crate) fn waits_for(&self, stage: &'static str) {
        *self.stage.lock() = stage;
    }

    /// It answers the callout from now on.
    pub(crate) fn runs(&self, running: Running) {
        let _ = self.running.set(running);
    }
}

impl Running {
    fn unready(&self, metrics: &Metrics) -> Option<&'static str> {
        let now = clock::now();
        for (account, client) in &self.clients {
            if client.connection_state() != State::Connected {
                return Some(match *account {
                    "AUTH" => "no connection to nats-server in the account AUTH",
                    "JS" => "no connection to nats-server in the account JS",
                    _ => "no connection to nats-server in the account SYS",
                });
            }
        }
        let held = self.plane.held();
        if !held.is_vouched() {
            return Some("the trust bundle does not name the key that signed the policy");
        }
        if !self.seen.is_recent(now) {
            return Some("the control stream could not be read for too long");
        }
        if self.plane.issuers().current(&held.bundle, now).is_none() {
            return Some("the trust bundle does not let this broker issue");
        }
        if metrics.head_age().is_none_or(|age| age > HEAD_LIMIT) {
            return Some("JetStream does not answer: no head could be told lately");
        }
        None
    }

    fn standing(&self, metrics: &Metrics) -> Standing {
        let now = clock::now();
        let held = self.plane.held();
        let names = held.names();
        let issuing = self.plane.issuers().current(&held.bundle, now);
        let candidate = self.trial.number();
        let (would_deny, would_allow) = self.trial.counts();
        let count = self.census.count(&held, candidate, Instant::now());
        let connections = self.clients.iter().map(|(account, client)| {
            let is_connected = client.connection_state() == State::Connected;
            let connects = &client.statistics().connects;
            let connects = connects.load(std::sync::atomic::Ordering::Relaxed);
            (*account, is_connected, connects)
        });
        let audit = self.audit.state();
        Standing {
            is_ready: self.unready(metrics).is_none(),
            revision: names.policy.number,
            bundle: names.bundle,
            revocations: names.revocations.number,
            candidate,
            would_deny,
            would_allow,
            bundle_until: held.bundle.bundle.expires_at.as_secs(),
            issuing_until: issuing.map_or(0, |(_, until)| until.as_secs()),
            is_vouched: held.is_vouched(),
            state_age: self.seen.age(now),
            connections: connections.collect(),
            audit_lag: audit.lag(now),
            audit,
            enforcers: count.enforcers,
            lowest_revision: count.lowest_revision,
        }
    }
}

impl Probe for BrokerProbe {
    fn unready(&self) -> Option<String> {
        if self.stop.is_cancelled() {
            return Some("stopping".to_owned());
        }
        match self.running.get() {
            None => Some(format!("waiting: {}", self.stage.lock())),
            Some(running) => running.unready(&self.metrics).map(str::to_owned),
        }
    }

    fn metrics(&self) -> String {
        let standing = self.running.get().map(|r| r.standing(&self.metrics));
        let mut standing = standing.unwrap_or_default();
        standing.is_ready &= !self.stop.is_cancelled();
        self.metrics.text(&standing)
    }
}

/// Five heads that could not be told.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

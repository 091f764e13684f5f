//! How many enforcers run what is in force, by what each says of itself: for
//! metrics, and for nothing that is decided.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, SubscribeError, Subscriber};
use bulla_identity::reserved;
use bulla_sdk::enforcer_report::{EnforcerKind, EnforcerReport};
use data_encoding::HEXLOWER;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fitness::{InForce, fitness};
use crate::trust::Held;

/// The last report of each enforcer.
#[derive(Debug, Default)]
pub(crate) struct Census(Mutex<HashMap<String, (Instant, EnforcerReport)>>);

/// Enforcers counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// By kind and state.
    pub(crate) enforcers: Vec<(&'static str, &'static str, u64)>,
    /// The lowest policy revision that one of them runs.
    pub(crate) lowest_revision: Option<u64>,
}

/// Listens for reports, to be taken by [`follow`].
pub(crate) async fn listen(js: &Client) -> Result<Subscriber, SubscribeError> {
    js.subscribe(reserved::STATUS_ALL).await
}

/// Takes reports until `stop`.
pub(crate) async fn follow(census: Arc<Census>, mut reports: Subscriber, stop: CancellationToken) {
    let take = async {
        while let Some(message) = reports.next().await {
            census.take(&message.subject, &message.payload, Instant::now());
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = take => {}
    }
}

impl Census {
    fn take(&self, subject: &str, report: &[u8], now: Instant) {
        // What is no report says nothing of its writer either.
        let Ok(report) = EnforcerReport::decode(report) else {
            return;
        };
        let mut held = self.0.lock();
        if report.is_gone {
            held.remove(subject);
            return;
        }
        if held.len() >= MAX_ENFORCERS && !held.contains_key(subject) {
            held.retain(|_, (at, _)| now.duration_since(*at) <= FORGOTTEN_AFTER);
            if held.len() >= MAX_ENFORCERS {
                return;
            }
        }
        held.insert(subject.to_owned(), (now, report));
    }

    /// Counts those that have said something lately, beside what `held` names.
    pub(crate) fn count(&self, held: &Held, candidate: u64, now: Instant) -> Count {
        let names = held.names();
        let in_force = InForce {
            revision: names.policy.number,
            hash: HEXLOWER.encode(&names.policy.hash),
            bundle: names.bundle,
            revocations: names.revocations.number,
            candidate,
        };
        self.count_beside(&in_force, now)
    }

    fn count_beside(&self, in_force: &InForce, now: Instant) -> Count {
        let mut reports = self.0.lock();
        reports.retain(|_, (at, _)| now.duration_since(*at) <= FORGOTTEN_AFTER);
        let mut counts = BTreeMap::new();
        for kind in KINDS {
            counts.insert((word(kind), "current"), 0);
        }
        let mut lowest_revision = None;
        for (at, report) in reports.values() {
            let state = fitness(report, in_force, now.duration_since(*at)).code();
            let count: &mut u64 = counts.entry((word(report.kind), state)).or_default();
            *count = count.saturating_add(1);
            let revision = report.revision;
            lowest_revision = Some(lowest_revision.map_or(revision, |l: u64| l.min(revision)));
        }
        Count {
            enforcers: counts.into_iter().map(|((k, s), n)| (k, s, n)).collect(),
            lowest_revision,
        }
    }
}

const fn word(kind: EnforcerKind) -> &'static str {
    match kind {
        EnforcerKind::Broker => "broker",
        EnforcerKind::Gateway => "gateway",
        EnforcerKind::Service => "service",
    }
}

const KINDS: [EnforcerKind; 3] = [
    EnforcerKind::Broker,
    EnforcerKind::Gateway,
    EnforcerKind::Service,
];

/// As many as the stream of reports keeps.
const MAX_ENFORCERS: usize = 65_536;

/// As long as the stream of reports keeps them.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn report(revision: u64, is_gone: bool) -> Vec<u8> {
        EnforcerReport {
            kind: EnforcerKind::Service,
            version: "0.1.0".to_owned(),
            revision,
            policy: "ab".to_owned(),
            since: 0,
            bundle: 1,
            revocations: 0,
            candidate: 0,
            would_deny: 0,
            would_allow: 0,
            standing: String::new(),
            started: 0,
            is_gone,
        }
        .encode()
    }

    #[test]
    fn enforcers_are_counted_by_what_they_run_until_they_are_forgotten() {
        let (census, start) = (Census::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let in_force = InForce {
            revision: 7,
            hash: "ab".to_owned(),
            bundle: 1,
            revocations: 0,
            candidate: 0,
        };
        let services = |seconds: u64| {
            let count = census.count_beside(&in_force, after(seconds));
            let of = count
                .enforcers
                .into_iter()
                .filter(|(k, ..)| *k == "service");
            let of: Vec<_> = of.map(|(_, state, n)| (state, n)).collect();
            (of, count.lowest_revision)
        };
        census.take("a", &report(7, false), start);
        census.take("b", &report(6, false), start);
        census.take("c", b"no report", start);
        assert_eq!(services(0), (vec![("current", 1), ("stale", 1)], Some(6)));
        census.take("b", &report(7, false), after(30));
        assert_eq!(services(80), (vec![("current", 1), ("silent", 1)], Some(7)));
        census.take("b", &report(7, true), after(81));
        assert_eq!(services(81), (vec![("current", 0), ("silent", 1)], Some(7)));
        assert_eq!(services(700), (vec![("current", 0)], None));
    }
}

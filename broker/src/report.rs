//! Tells operators what this broker goes by: at its start, when that changes, and
//! every half a minute.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bulla_identity::{UnixMillis, reserved};
use bulla_sdk::enforcer_report::{EnforcerKind, EnforcerReport};
use data_encoding::HEXLOWER;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::control::ControlPlane;
use crate::seen::Seen;
use crate::trial::Trial;

/// The reports of one broker.
pub(crate) struct Reporter {
    js: Client,
    plane: Arc<ControlPlane>,
    seen: Arc<Seen>,
    trial: Arc<Trial>,
    changes: watch::Receiver<UnixMillis>,
    started: UnixMillis,
}

impl Reporter {
    pub(crate) fn new(
        js: Client,
        plane: Arc<ControlPlane>,
        seen: Arc<Seen>,
        trial: Arc<Trial>,
    ) -> Self {
        Self {
            js,
            changes: plane.changes(),
            plane,
            seen,
            trial,
            started: clock::now(),
        }
    }

    /// Reports until `stop`, and then once more.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            self.say(false).await;
            tokio::select! {
                () = stop.cancelled() => break,
                // Whoever sends these lives as long as this does.
                _ = self.changes.changed() => {}
                () = sleep(pause()) => {}
            }
        }
        self.say(true).await;
    }

    async fn say(&mut self, is_gone: bool) {
        let since = *self.changes.borrow_and_update();
        let held = self.plane.held();
        let names = held.names();
        let standing = match (held.is_vouched(), self.seen.is_recent(clock::now())) {
            (false, _) => "policy_unvouched",
            (_, false) => "state_stale",
            (true, true) => "",
        };
        let (would_deny, would_allow) = self.trial.counts();
        let report = EnforcerReport {
            kind: EnforcerKind::Broker,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: names.policy.number,
            policy: HEXLOWER.encode(&names.policy.hash),
            since: since.as_millis(),
            bundle: names.bundle,
            revocations: names.revocations.number,
            candidate: self.trial.number(),
            would_deny,
            would_allow,
            standing: standing.to_owned(),
            started: self.started.as_millis(),
            is_gone,
        };
        let subject = reserved::status_of_broker(self.plane.broker_id());
        // Whoever needs it gets the next one.
        let _ = self.js.publish(subject, report.encode().into()).await;
    }
}

/// 25 to 35 s, so that brokers do not speak in step.
fn pause() -> Duration {
    let mut random = [0; 1];
    // Without randomness there is no jitter, and no harm.
    let _ = getrandom::fill(&mut random);
    let [random] = random;
    Duration::from_secs(25) + Duration::from_secs(10) * u32::from(random) / 256
}

//! A policy that gives this workload more reaches its connection with the next
//! one: nats-server keeps the permissions that it was admitted with. So this
//! process connects anew by itself, at a moment when it disturbs nobody. One that
//! takes something away is not waited for: a broker ends the connection.
//!
//! In operator mode brokers have nats-server ask about the connection anew, and it goes on
//! with what it gained. Then it is made anew only if it is refused something a while
//! later that the policy gives.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bulla_identity::WorkloadId;
use bulla_policy::{AdmissionChange, Circumstances, Permissions};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use crate::clock;
use crate::connection::Connection;
use crate::control::Control;
use crate::shared::Shared;

/// Seconds before a process looks for its moment, drawn anew each time, so that a
/// fleet does not connect at once.
const SPREAD_SECONDS: std::ops::Range<f64> = 0.1..2.0;
/// For how long nothing must have come or gone.
const QUIET: Duration = Duration::from_millis(250);
/// From when on it is enough that nothing is under way.
const UNQUIET_AFTER: Duration = Duration::from_secs(10);
/// From when on it waits for nothing any more. A broker waits longer.
const AT_LAST: Duration = Duration::from_secs(30);
/// Between two connections that are made for this.
const BETWEEN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(25);
/// How long brokers may take to have everybody asked about anew.
const REAUTHORISED_AFTER: Duration = Duration::from_secs(5);
const BARRIER_LIMIT: Duration = Duration::from_secs(2);

/// Keeps a connection's permissions up to date.
pub(crate) struct Admitted {
    pub(crate) workload: WorkloadId,
    pub(crate) connection: Connection,
    pub(crate) control: Control,
}

impl Admitted {
    /// Works until the client is gone.
    pub(crate) async fn keep(self, shared: Weak<Shared>) {
        let mut changes = self.control.changes();
        let mut admissions = self.connection.admissions();
        let mut held = self.permissions();
        loop {
            // Whoever sends these lives as long as this does.
            tokio::select! {
                _ = admissions.changed() => {
                    held = self.permissions();
                    continue;
                }
                _ = changes.changed() => {}
            }
            if !self.gains(held.as_ref()) {
                continue;
            }
            let spread = Duration::from_secs_f64(rand::random_range(SPREAD_SECONDS));
            let moment = async {
                // Somebody needs it now: nats-server refuses what the policy allows.
                let mut watch = self.connection.watch();
                if self.connection.reauthorises() {
                    sleep(REAUTHORISED_AFTER).await;
                    watch = self.connection.watch();
                    watch.any().await;
                    return;
                }
                tokio::select! {
                    () = watch.any() => {}
                    () = async {
                        sleep(spread).await;
                        wait_for_quiet(&shared).await;
                    } => {}
                }
            };
            tokio::select! {
                // It was lost meanwhile, and is a new one.
                _ = admissions.changed() => {
                    held = self.permissions();
                    continue;
                }
                () = moment => {}
            }
            // Another change may have taken back what this one gave.
            if !self.gains(held.as_ref()) {
                continue;
            }
            match self.connection.renew(BARRIER_LIMIT).await {
                Ok(()) => info!("connecting anew: the policy permits more"),
                Err(error) => debug!(%error, "a new connection could not be made yet"),
            }
            sleep(BETWEEN).await;
        }
    }

    /// What nats-server would permit now, but for what it permits some networks
    /// alone: this process does not know as which address it is seen.
    fn permissions(&self) -> Option<Permissions> {
        let policy = self.control.policy();
        // Where it comes from is known to nats-server alone: what depends on that is
        // left to the broker.
        let now = Circumstances::at(clock::now());
        policy.policy().permissions(&self.workload, &now).ok()
    }

    fn gains(&self, held: Option<&Permissions>) -> bool {
        let (Some(new), Some(held)) = (self.permissions(), held) else {
            return false;
        };
        new.change_from(held) == AdmissionChange::Gains
    }
}

/// Returns when a lost moment disturbs as little as may be.
async fn wait_for_quiet(shared: &Weak<Shared>) {
    let start = Instant::now();
    let mut last = None;
    let mut since = start;
    while start.elapsed() < AT_LAST {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let (is_busy, passed) = activity(&shared);
        drop(shared);
        if last != Some(passed) || is_busy {
            (last, since) = (Some(passed), Instant::now());
        }
        let quiet = since.elapsed() >= QUIET;
        if !is_busy && (quiet || start.elapsed() >= UNQUIET_AFTER) {
            return;
        }
        sleep(LOOK).await;
    }
}

/// Whether something is under way, and how much has passed.
fn activity(shared: &Arc<Shared>) -> (bool, [u64; 2]) {
    let is_busy = shared.handling.load(Ordering::Relaxed) > 0
        || shared.appending.load(Ordering::Relaxed) > 0
        || !shared.replies.is_idle();
    (is_busy, [shared.stats.sent(), shared.stats.delivered()])
}

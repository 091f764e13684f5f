//! Tells operators what this process runs: at its start, when that changes, and
//! every half a minute.

use std::time::Duration;

use bulla_envelope::Epoch;
use bulla_identity::{UnixMillis, WorkloadTag, reserved};
use data_encoding::HEXLOWER;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock;
use crate::connection::Connection;
use crate::control::Control;
use crate::enforcer_report::{EnforcerKind, EnforcerReport};
use crate::stats::Stats;

/// Seconds between two reports, drawn anew each time.
const EVERY_SECONDS: std::ops::Range<f64> = 25.0..35.0;
/// Seconds by which a report of a change waits at most, so that a fleet does not
/// speak at one moment, and so that changes which come together are one.
const SPREAD_SECONDS: std::ops::Range<f64> = 0.0..0.1;
/// How long a last report may take to leave.
const GOOD_BYE: Duration = Duration::from_millis(500);

/// What the reports of one process are made of.
#[derive(Clone)]
pub(crate) struct Reporter {
    pub(crate) kind: EnforcerKind,
    pub(crate) tag: WorkloadTag,
    pub(crate) instance: Epoch,
    pub(crate) started: UnixMillis,
    pub(crate) connection: Connection,
    pub(crate) control: Control,
    pub(crate) stats: Stats,
}

impl Reporter {
    /// Reports until `stop`, and then once more.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut changes = self.control.changes();
        let mut admissions = self.connection.admissions();
        loop {
            self.say(false).await;
            let pause = Duration::from_secs_f64(rand::random_range(EVERY_SECONDS));
            let changed = async {
                // Whoever sends these lives as long as this does.
                tokio::select! {
                    _ = changes.changed() => {}
                    _ = admissions.changed() => {}
                }
                let spread = rand::random_range(SPREAD_SECONDS);
                tokio::time::sleep(Duration::from_secs_f64(spread)).await;
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = changed => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.say_good_bye().await;
        let _ = tokio::time::timeout(GOOD_BYE, self.connection.link().flush()).await;
    }

    /// Says that this process ends.
    pub(crate) async fn say_good_bye(&self) {
        self.say(true).await;
    }

    async fn say(&self, is_gone: bool) {
        // What would only wait in a queue is said anew once there is a connection.
        if !self.connection.is_connected() {
            return;
        }
        let subject = reserved::status(self.tag, &HEXLOWER.encode(&self.instance.0));
        let report = self.report(is_gone).encode();
        let sent = self.connection.link().publish(subject, report.into()).await;
        if let Err(error) = sent {
            debug!(%error, "a report could not be sent");
        }
    }

    fn report(&self, is_gone: bool) -> EnforcerReport {
        let (held, since) = self.control.holdings();
        let standing = match self.control.check(clock::now()) {
            Ok(()) if self.control.policy().is_vouched() => "",
            Ok(()) => "policy_unvouched",
            Err(standing) => standing.code(),
        };
        EnforcerReport {
            kind: self.kind,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: held.policy.number,
            policy: HEXLOWER.encode(&held.policy.hash),
            since: since.as_millis(),
            bundle: held.bundle,
            revocations: held.revocations.number,
            candidate: self.control.on_trial(),
            would_deny: self.stats.would_deny(),
            would_allow: self.stats.would_allow(),
            standing: standing.to_owned(),
            started: self.started.as_millis(),
            is_gone,
        }
    }
}

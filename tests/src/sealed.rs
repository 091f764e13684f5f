//! The bus as services on the SDK see it, and as a wiretap sees it.

use std::time::Duration;

use async_nats::Subscriber;
use bulla_identity::reserved;
use bulla_sdk::{Client, ConnectOptions};

use crate::Bus;

/// Clocks agree here: one machine.
const SKEW: Duration = Duration::from_millis(100);

impl Bus {
    /// What the SDK needs to connect as this workload.
    #[must_use]
    pub fn connect_options(&self, workload: &str) -> ConnectOptions {
        ConnectOptions::new(
            self.nats_url(),
            self.workload(workload),
            self.seed_file(workload),
            self.root_file(),
        )
        .clock_skew(SKEW)
    }

    /// A client of the SDK.
    pub async fn client(&self, workload: &str) -> Client {
        Client::connect(self.connect_options(workload))
            .await
            .unwrap_or_else(|error| panic!("`{workload}` cannot connect: {error:?}"))
    }

    /// Everything that is sent on a subject, seen by the workload `wiretap`.
    pub async fn tap(&self, subject: &'static str) -> Subscriber {
        let raw = self.raw_client("wiretap").await;
        let tap = raw.subscribe(subject).await.expect("a subscription");
        // Published where nobody listens and answered in order: the tap stands.
        let _ = raw.request(reserved::BARRIER, "".into()).await;
        tap
    }

    /// A subject in the half of a workload's inbox where its peers reply.
    #[must_use]
    pub fn peer_inbox(&self, workload: &str, token: &str) -> String {
        format!(
            "{}.{token}",
            reserved::inbox_peers(self.workload(workload).tag())
        )
    }
}

//! The bus as services on the SDK see it, and as a wiretap sees it.

use std::time::Duration;

use async_nats::Subscriber;
use bulla_envelope::{Credential, SealedEnvelope};
use bulla_identity::reserved;
use bulla_sdk::{Client, ConnectOptions};
use bytes::Bytes;

use crate::{Bus, Cable};

/// Clocks agree here: one machine.
const SKEW: Duration = Duration::from_millis(100);

impl Bus {
    /// How a workload connects through a cable.
    #[must_use]
    pub fn connect_options_behind(&self, cable: &Cable, workload: &str) -> ConnectOptions {
        ConnectOptions::new(
            cable.url(),
            self.workload(workload),
            self.seed_file(workload),
            self.root_file(),
        )
        .clock_skew(SKEW)
    }

    /// A client of the SDK behind a cable that can be cut.
    pub async fn client_behind(&self, cable: &Cable, workload: &str) -> Client {
        Client::connect(self.connect_options_behind(cable, workload))
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

    /// The newest record of a subject of the control stream.
    pub async fn control_record(&self, subject: &str) -> Bytes {
        let context = async_nats::jetstream::new(self.js_client().await);
        let stream = context
            .get_stream(reserved::CTL_STREAM)
            .await
            .expect("the control stream");
        stream
            .direct_get_last_for_subject(subject)
            .await
            .expect("a record")
            .payload
    }

    /// The credential under which an envelope says that it is sealed.
    pub async fn credential_of(&self, envelope: &Bytes) -> Credential {
        let sealed = SealedEnvelope::decode(envelope.clone()).expect("an envelope");
        let subject = reserved::ctl_credential(&sealed.key_id().to_hex());
        Credential::decode(&self.control_record(&subject).await).expect("a credential")
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

//! A broker's own chain of the audit log: over its connection in `JS`, with heads
//! under its issuing key.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::message::PublishMessage;
use bulla_audit::{
    BundleInForce, Event, HeadStatement, Key, PolicyInForce, RevocationsInForce, Writer,
};
use bulla_identity::reserved;
use bulla_keyring::{Signature, sha256};
use bulla_sdk::audit::{AuditLog, AuditOptions, AuditParts, HeadSigner, Store, StoreError, Stored};
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::future::IntoFuture as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::control::ControlPlane;
use crate::decision::Decisions;
use crate::metrics::Metrics;
use crate::trust::{Held, HeldBundle, HeldPolicy, HeldRevocations};

/// A broker's log, which is there as soon as the broker is connected; before that
/// decisions are told to the process's log alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct BrokerAudit {
    log: Arc<OnceLock<AuditLog>>,
    metrics: Metrics,
}

impl BrokerAudit {
    /// None yet; its decisions are counted there.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            log: Arc::default(),
            metrics,
        }
    }

    /// Begins the chain of this broker process.
    pub(crate) fn start(&self, js: Client, plane: &Arc<ControlPlane>, stop: CancellationToken) {
        let domain = plane.held().bundle.bundle.trust_domain.clone();
        let mut instance = [0; 8];
        // Its id is 8 random bytes; another chain for each process.
        if let Ok(bytes) = HEXLOWER.decode(plane.broker_id().as_bytes()) {
            for (to, from) in instance.iter_mut().zip(bytes) {
                *to = from;
            }
        }
        let log = AuditLog::start(AuditParts {
            writer: Writer::broker(instance),
            domain,
            workload: String::new(),
            options: AuditOptions::default().queue(QUEUE),
            store: Arc::new(BrokerStore::new(js)),
            signer: Arc::new(BrokerSigner(Arc::clone(plane))),
            stop,
        });
        let _ = self.log.set(log);
        self.in_force(&plane.held());
    }

    /// The log.
    pub(crate) fn log(&self) -> AuditLog {
        self.log.get().cloned().unwrap_or_else(AuditLog::off)
    }

    /// The log for the decisions of one enforcer.
    pub(crate) fn decisions(&self, enforcer: &'static str) -> Decisions {
        Decisions::new(enforcer, self.log(), self.metrics.clone())
    }

    pub(crate) fn record(&self, event: Event) {
        if let Some(log) = self.log.get() {
            log.record(event);
        }
    }

    fn in_force(&self, held: &Held) {
        self.bundle(&held.bundle);
        self.policy(&held.policy);
        if let Some(revocations) = &held.revocations {
            self.revocations(revocations);
        }
    }

    /// It goes by this bundle from now on.
    pub(crate) fn bundle(&self, bundle: &HeldBundle) {
        self.record(Event::Bundle(BundleInForce {
            version: bundle.bundle.version,
            record: BASE64.encode(&bundle.bytes),
        }));
    }

    /// It goes by this policy from now on.
    pub(crate) fn policy(&self, policy: &HeldPolicy) {
        self.record(Event::Policy(PolicyInForce {
            revision: policy.signed.revision,
            hash: HEXLOWER.encode(&sha256(&[&policy.bytes])),
        }));
    }

    /// It goes by this list from now on.
    pub(crate) fn revocations(&self, revocations: &HeldRevocations) {
        self.record(Event::Revocations(RevocationsInForce {
            sequence: revocations.list.sequence,
            entries: revocations.list.entries().len() as u64,
            hash: HEXLOWER.encode(&sha256(&[&revocations.bytes])),
        }));
    }

    /// Writes what is left, for as long as this.
    pub(crate) async fn close(&self, limit: Duration) {
        if let Some(log) = self.log.get() {
            log.close(limit).await;
        }
    }
}

struct BrokerStore(Context);

impl BrokerStore {
    fn new(js: Client) -> Self {
        let mut context = async_nats::jetstream::new(js);
        context.set_timeout(ANSWER);
        Self(context)
    }
}

impl Store for BrokerStore {
    fn store(
        &self,
        subject: String,
        id: String,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<Stored, StoreError>> {
        async move {
            let message = PublishMessage::build()
                .payload(payload)
                .message_id(id)
                .expected_stream(reserved::AUDIT_STREAM);
            let sent = self.0.send_publish(subject, message);
            let sent = sent.await.map_err(|_| StoreError::Unreachable)?;
            match timeout(ANSWER, sent.into_future()).await {
                Ok(Ok(ack)) => Ok(Stored {
                    was_there: ack.duplicate,
                }),
                Ok(Err(_)) => Err(StoreError::Refused),
                Err(_) => Err(StoreError::Unreachable),
            }
        }
        .boxed()
    }
}

/// Signs with the issuing key in use.
struct BrokerSigner(Arc<ControlPlane>);

impl HeadSigner for BrokerSigner {
    fn key(&self) -> Option<(Key, [u8; 32])> {
        let held = self.0.held();
        let (issuer, _) = self.0.issuers().current(&held.bundle, clock::now())?;
        let key = *issuer.verifying_key().as_bytes();
        Some((Key::Issuing(HEXLOWER.encode(&key)), key))
    }

    fn sign(&self, statement: &HeadStatement<'_>) -> Option<Signature> {
        let held = self.0.held();
        let (issuer, _) = self.0.issuers().current(&held.bundle, clock::now())?;
        (*issuer.verifying_key().as_bytes() == statement.key)
            .then(|| statement.sign_with(|parts| issuer.sign_audit(parts)))
    }
}

/// A storm of connections is recorded one by one.
const QUEUE: usize = 65_536;

const ANSWER: Duration = Duration::from_secs(5);

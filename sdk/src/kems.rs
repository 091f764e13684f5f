//! This process's own keys for encryption: those that its workload's replicas
//! share, and those that it has alone.
//!
//! The workload's are derived from the nkey's seed, the newest version and a few
//! before it, so that what was wrapped to an older one can still be read. The
//! process's are made with each credential, and forgotten some time after it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bulla_envelope::{KemRecord, KeyReference, OpeningKey, ProcessKeys, UnwrapError};
use bulla_identity::{Nkey, TrustDomain, UnixMillis, WorkloadId, reserved};
use bulla_keyring::{ExchangeSecret, KemKeyId, KemSecret, KemSuite, NkeySeed};
use bytes::Bytes;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::broker_protocol::Registered;
use crate::connection::Connection;
use crate::control::Control;
use crate::error::CredentialError;
use crate::secret;

/// Versions of the workload's keys that are held: the newest, and those before it.
const VERSIONS: u64 = 4;

const SUITES: [KemSuite; 2] = [KemSuite::XWing, KemSuite::X25519];

/// All secrets that data keys may be wrapped to; cloning shares them.
#[derive(Clone)]
pub(crate) struct OwnKems(Arc<Inner>);

struct Inner {
    workload: WorkloadId,
    /// The workload's own record, signed by this nkey, if it has one.
    record: Option<(Nkey, Vec<u8>)>,
    held: ArcSwap<HashMap<KemKeyId, Held>>,
}

#[derive(Clone)]
struct Held {
    secret: Arc<KemSecret>,
    /// A process's key; the workload's have no end.
    until: Option<UnixMillis>,
}

/// The secret halves of what one credential names.
pub(crate) struct ProcessSecrets {
    kems: Vec<Arc<KemSecret>>,
    pub(crate) exchange: ExchangeSecret,
    pub(crate) public: ProcessKeys,
}

/// What they are made of.
pub(crate) struct ProcessSeeds {
    pub(crate) xwing: Zeroizing<[u8; 32]>,
    pub(crate) x25519: Zeroizing<[u8; 32]>,
    pub(crate) exchange: Zeroizing<[u8; 32]>,
}

impl ProcessSeeds {
    /// Fresh ones.
    pub(crate) fn fresh() -> Self {
        Self {
            xwing: secret::fresh(),
            x25519: secret::fresh(),
            exchange: secret::fresh(),
        }
    }

    /// All of them, in the order of the fields.
    pub(crate) const fn all(&self) -> [&Zeroizing<[u8; 32]>; 3] {
        [&self.xwing, &self.x25519, &self.exchange]
    }
}

impl ProcessSecrets {
    pub(crate) fn from_seeds(seeds: &ProcessSeeds) -> Self {
        let xwing = KemSecret::from_seed(KemSuite::XWing, &seeds.xwing);
        let x25519 = KemSecret::from_seed(KemSuite::X25519, &seeds.x25519);
        let exchange = ExchangeSecret::from_seed(&seeds.exchange);
        let public = ProcessKeys {
            xwing: xwing.public().clone(),
            x25519: x25519.public().clone(),
            exchange: *exchange.public(),
        };
        Self {
            kems: vec![Arc::new(xwing), Arc::new(x25519)],
            exchange,
            public,
        }
    }
}

impl OwnKems {
    /// Without a seed there are a process's own keys alone: nothing but replies can be
    /// encrypted to it.
    pub(crate) fn derive(seed: Option<&NkeySeed>, workload: &WorkloadId, version: u64) -> Self {
        let oldest = version.saturating_sub(VERSIONS - 1).max(1);
        let mut held = HashMap::new();
        for version in oldest..=version {
            for (seed, suite) in seed
                .iter()
                .flat_map(|seed| SUITES.map(|suite| (seed, suite)))
            {
                let secret = Arc::new(seed.kem_secret(suite, version, workload));
                let entry = Held {
                    secret,
                    until: None,
                };
                held.insert(entry.secret.public().id(), entry);
            }
        }
        Self(Arc::new(Inner {
            workload: workload.clone(),
            record: seed.map(|seed| (seed.public(), KemRecord::sign(seed, workload, version))),
            held: ArcSwap::from_pointee(held),
        }))
    }

    /// Holds a process's keys until `until`, and drops those whose time is over.
    pub(crate) fn hold(&self, process: &ProcessSecrets, until: UnixMillis, now: UnixMillis) {
        self.0.held.rcu(|held| {
            let mut held = HashMap::clone(held);
            held.retain(|_, entry| entry.until.is_none_or(|until| until >= now));
            for secret in &process.kems {
                let entry = Held {
                    secret: Arc::clone(secret),
                    until: Some(until),
                };
                held.insert(secret.public().id(), entry);
            }
            held
        });
    }

    /// The data key in `wraps`, if it is wrapped to one of these keys.
    pub(crate) fn unwrap(
        &self,
        reference: KeyReference,
        wraps: &[u8],
        domain: &TrustDomain,
    ) -> Result<OpeningKey, UnwrapError> {
        let held = self.0.held.load();
        OpeningKey::unwrap(reference, wraps, domain, &self.0.workload, |id| {
            held.get(&id).map(|entry| &*entry.secret)
        })
    }
}

/// For how long after its credential's end a process can still read replies.
pub(crate) const PROCESS_KEYS_LINGER: Duration = Duration::from_secs(60);

/// How long a broker may take for one answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Pause between attempts to hand in the record.
const AGAIN: Duration = Duration::from_millis(200);

impl OwnKems {
    /// Hands the workload's record to a broker, until `patience` ends: from then
    /// on others can encrypt to this workload.
    pub(crate) async fn publish(
        &self,
        connection: &Connection,
        control: &Control,
        patience: Duration,
    ) -> Result<(), CredentialError> {
        let Some((nkey, record)) = &self.0.record else {
            return Ok(());
        };
        let subject = reserved::broker_kem(self.0.workload.tag());
        let give_up = Instant::now() + patience;
        loop {
            let payload = Bytes::copy_from_slice(record);
            let answer = connection.ask(subject.clone(), payload, ANSWER).await;
            let error = match answer.map(|answer| Registered::decode(&answer.payload)) {
                Ok(Ok(Registered::Accepted)) => return Ok(()),
                Ok(Ok(Registered::Refused(reason))) => CredentialError::Refused { reason },
                Ok(Err(malformed)) => CredentialError::Invalid {
                    reason: malformed.to_string(),
                },
                Err(error) => error.into(),
            };
            // Perhaps an earlier process has handed in the same.
            if matches!(error, CredentialError::Link(_))
                && self.is_published(control, nkey, record).await
            {
                return Ok(());
            }
            if Instant::now() + AGAIN >= give_up {
                return Err(error);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether exactly this record lies on the control stream.
    async fn is_published(&self, control: &Control, nkey: &Nkey, own: &[u8]) -> bool {
        let subject = reserved::ctl_kem(self.0.workload.tag(), nkey);
        let record = control.record(&subject).await;
        matches!(record, Ok(Some(record)) if *record == *own)
    }
}

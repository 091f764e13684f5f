//! What is known of workloads: by a policy alone, or by a deployment.

use std::collections::BTreeMap;

use bulla_envelope::{RevocationError, RevocationList};
use bulla_identity::{Nkey, UnixMillis, WorkloadId, reserved};
use bulla_policy::{Policy, Workload};

use super::Where;
use crate::cli::policy::{LifecycleError, PolicyInputError, Process, Running, load_policy};
use crate::clock;
use crate::control::StreamError;
use crate::trust::CLOCK_SKEW;

/// Workloads, and what is said of them.
pub(super) struct Known {
    pub(super) policy: Policy,
    pub(super) running: Option<Deployment>,
}

/// What only a deployment tells.
pub(super) struct Deployment {
    pub(super) revision: u64,
    processes: Vec<Process>,
    /// Who is revoked, from when on, and why.
    revoked: BTreeMap<WorkloadId, (UnixMillis, Option<String>)>,
}

/// One workload.
pub(super) struct Found<'a> {
    pub(super) workload: &'a Workload,
    pub(super) processes: Vec<&'a Process>,
    pub(super) revoked_since: Option<UnixMillis>,
    pub(super) reason: Option<&'a str>,
}

impl Known {
    /// The policy that `place` names, or the deployment.
    pub(super) fn read(place: &Where) -> Result<Self, KnownError> {
        if let Some(path) = &place.policy {
            return Ok(Self {
                policy: load_policy(path)?,
                running: None,
            });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(KnownError::Runtime)?;
        let known = runtime.block_on(async {
            let running = Running::look(&place.operator).await?;
            let operator = &running.operator;
            let record = operator.stream.last(reserved::CTL_REVOCATIONS).await?;
            let mut revoked = BTreeMap::new();
            if let Some(record) = record {
                let (bundle, now) = (&operator.bundle, clock::now());
                let list = RevocationList::open(&record.payload, bundle, now, CLOCK_SKEW)
                    .map_err(KnownError::List)?;
                for id in list.workloads() {
                    let since = list.workload_since(id).unwrap_or_default();
                    let why = list.entries().iter().find(
                        |e| matches!(&e.what, bulla_envelope::Revoked::Workload(w) if w == id),
                    );
                    let why = why.and_then(|entry| entry.reason.clone());
                    revoked.insert(id.clone(), (since, why));
                }
            }
            let deployment = Deployment {
                revision: running.revision,
                processes: running.processes,
                revoked,
            };
            Ok::<_, KnownError>(Self {
                policy: running.policy,
                running: Some(deployment),
            })
        });
        // What still blocks a thread, a lookup for instance, must not hold us up.
        runtime.shutdown_timeout(std::time::Duration::from_millis(200));
        known
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = Found<'_>> {
        self.policy.workloads().iter().map(|w| self.found(w))
    }

    /// The one with this short name or SPIFFE id.
    pub(super) fn by_name(&self, name: &str) -> Option<Found<'_>> {
        let all = self.policy.workloads();
        all.iter()
            .find(|w| w.name().as_str() == name || w.id().as_str() == name)
            .map(|w| self.found(w))
    }

    /// The one whose key this is.
    pub(super) fn by_nkey(&self, nkey: &Nkey) -> Option<Found<'_>> {
        self.policy.workload_by_nkey(nkey).map(|w| self.found(w))
    }

    fn found<'a>(&'a self, workload: &'a Workload) -> Found<'a> {
        let deployment = self.running.as_ref();
        let processes = deployment.into_iter().flat_map(|d| &d.processes);
        let revoked = deployment.and_then(|d| d.revoked.get(workload.id()));
        Found {
            workload,
            processes: processes
                .filter(|process| process.workload == workload.name().as_str())
                .collect(),
            revoked_since: revoked.map(|(since, _)| *since),
            reason: revoked.and_then(|(_, why)| why.as_deref()),
        }
    }
}

impl Found<'_> {
    /// In a few words: by what it connects.
    pub(super) fn proofs(&self) -> Vec<String> {
        let anchors = self.workload.anchors();
        let mut proofs = Vec::new();
        for nkey in self.workload.nkeys() {
            let vouches = anchors.nkeys.contains(nkey);
            let text = nkey.to_string();
            proofs.push(if vouches {
                text
            } else {
                format!("{text} (connects, does not vouch)")
            });
        }
        for authority in anchors.authorities {
            let count = authority.certificates().count();
            let keys = if count == 1 {
                "certificate"
            } else {
                "certificates"
            };
            proofs.push(format!("certificate, by an authority of {count} {keys}"));
        }
        proofs
    }
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
pub(super) enum KnownError {
    #[error(transparent)]
    Policy(#[from] PolicyInputError),
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the revocation list on the control stream does not hold")]
    List(#[source] RevocationError),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

//! The policy on trial, as far as a broker decides: who would be let in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use bulla_envelope::{PolicyCandidate, TrustError};
use bulla_identity::UnixMillis;
use bulla_policy::Policy;
use bytes::Bytes;

use crate::callout::Admissions;
use crate::decision::TARGET;
use crate::follow::FollowFault;
use crate::trust::{CLOCK_SKEW, HeldBundle, TrustFault};

/// What is on trial, and how often it would have decided otherwise.
#[derive(Debug, Default)]
pub(crate) struct Trial {
    held: ArcSwapOption<Candidate>,
    would_deny: AtomicU64,
    would_allow: AtomicU64,
}

/// The newest candidate that came; without admissions it says that there is none.
#[derive(Debug)]
pub(crate) struct Candidate {
    signed: PolicyCandidate,
    bytes: Bytes,
    pub(crate) admissions: Option<Admissions>,
}

impl Trial {
    /// The candidate of this record if it is newer than what is held, nothing if
    /// it is that. Its text is not read yet.
    pub(crate) fn newer(
        &self,
        record: &Bytes,
        bundle: &HeldBundle,
        now: UnixMillis,
    ) -> Result<Option<PolicyCandidate>, TrustFault> {
        let held = self.held.load();
        if held.as_ref().is_some_and(|held| held.bytes == *record) {
            return Ok(None);
        }
        let offered = PolicyCandidate::open(record, &bundle.bundle, now, CLOCK_SKEW)
            .map_err(TrustFault::Policy)?
            .into_inner();
        if let Some(held) = held.as_ref() {
            let what = "policy on trial";
            offered
                .check_succession(&held.signed)
                .map_err(|source| TrustFault::Succession { what, source })?;
        }
        Ok(Some(offered))
    }

    /// From now on this is on trial.
    pub(crate) fn hold(&self, candidate: Candidate) {
        self.held.store(Some(Arc::new(candidate)));
    }

    /// Its number; 0 if nothing is on trial.
    pub(crate) fn number(&self) -> u64 {
        match &*self.held.load() {
            Some(held) if held.admissions.is_some() => held.signed.0.revision,
            _ => 0,
        }
    }

    /// How many connections it would have turned away, and let in.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.would_deny.load(Ordering::Relaxed),
            self.would_allow.load(Ordering::Relaxed),
        )
    }

    /// Records a decision about a connection if the one on trial differs; `judge`
    /// says why it would be turned away.
    pub(crate) fn note<E: ToString>(
        &self,
        workload: &str,
        is_allowed: bool,
        judge: impl FnOnce(&Admissions) -> Result<(), E>,
    ) {
        let held = self.held.load();
        let Some(admissions) = held.as_ref().and_then(|held| held.admissions.as_ref()) else {
            return;
        };
        let would = judge(admissions);
        if would.is_ok() == is_allowed {
            return;
        }
        let (count, decision, would_be) = if is_allowed {
            (&self.would_deny, "allow", "deny")
        } else {
            (&self.would_allow, "deny", "allow")
        };
        count.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            target: TARGET,
            enforcer = "callout",
            decision,
            would = would_be,
            workload,
            verb = "connect",
            subject = "",
            user = "",
            rule = "",
            reason = would.err().map(|why| why.to_string()).unwrap_or_default(),
            id = "",
        );
    }
}

impl Candidate {
    /// Reads the text of what was opened from `bytes`.
    pub(crate) fn read(bytes: Bytes, signed: PolicyCandidate) -> Result<Self, FollowFault> {
        let admissions = if signed.is_off() {
            None
        } else {
            let policy = Policy::parse("candidate", &signed.0.text);
            let policy = policy.map_err(TrustFault::PolicyText)?;
            if *policy.trust_domain() != signed.0.trust_domain {
                return Err(TrustFault::Policy(TrustError::ForeignDomain).into());
            }
            Some(Admissions::from_policy(&Arc::new(policy))?)
        };
        Ok(Self {
            signed,
            bytes,
            admissions,
        })
    }
}

//! The policy on trial: decided beside the one in force, and never enforced.

use std::sync::Arc;

use bulla_envelope::PolicyCandidate;
use bulla_identity::UnixMillis;
use bulla_policy::{Decision, Policy, Request};
use bytes::Bytes;
use tracing::info;

use super::{Control, Inner, PolicyState, chain};

/// The newest candidate that came. It may say that there is none, or be one that
/// this version cannot read.
#[derive(Default)]
pub(super) struct CandidateState {
    held: Option<(PolicyCandidate, Bytes)>,
    policy: Option<Arc<Policy>>,
}

impl Control {
    /// What the policy says; with it, where it differs, what the one on trial says.
    pub(crate) fn decide(&self, policy: &PolicyState, request: &Request<'_>) -> Decision {
        let decision = policy.policy().decide(request);
        match &self.0.candidate.load().policy {
            None => decision,
            Some(candidate) => decision.beside(&candidate.decide(request)),
        }
    }

    /// The number of the candidate that is decided beside the policy; 0 if none.
    pub(crate) fn on_trial(&self) -> u64 {
        self.0.candidate.load().number()
    }
}

impl CandidateState {
    fn number(&self) -> u64 {
        match (&self.policy, &self.held) {
            (Some(_), Some((held, _))) => held.0.revision,
            _ => 0,
        }
    }
}

impl Inner {
    pub(super) fn learn_candidate(&self, record: Bytes, now: UnixMillis) -> Result<(), String> {
        let state = self.candidate.load_full();
        let held = state.held.as_ref();
        if held.is_some_and(|(_, bytes)| *bytes == record) {
            return Ok(());
        }
        let bundle = self.bundle.load_full();
        let offered = PolicyCandidate::open(&record, &bundle.bundle, now, self.skew)
            .map_err(|error| chain(&error))?
            .into_inner();
        if let Some((held, _)) = held {
            offered.check_succession(held).map_err(|e| e.to_string())?;
        }
        let number = offered.0.revision;
        let policy = if offered.is_off() {
            info!(number, "no policy is on trial any more");
            Ok(None)
        } else {
            let read = Policy::parse("candidate", &offered.0.text).map_err(|e| e.to_string());
            let read = read.and_then(|policy| {
                if *policy.trust_domain() == offered.0.trust_domain {
                    Ok(policy)
                } else {
                    Err("it is of another trust domain".to_owned())
                }
            });
            info!(number, "a policy is on trial");
            read.map(|policy| Some(Arc::new(policy)))
        };
        let (policy, outcome) = match policy {
            Ok(policy) => (policy, Ok(())),
            // It is on trial nowhere here, and an older one is not either.
            Err(reason) => (None, Err(reason)),
        };
        self.candidate.store(Arc::new(CandidateState {
            held: Some((offered, record)),
            policy,
        }));
        // What is remembered was decided beside another one.
        self.changed(now);
        outcome
    }
}

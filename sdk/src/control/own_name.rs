//! Watches what brokers certify in this workload's name.
//!
//! Every credential is announced. One in our name that a broker of the bundle
//! issued, and that none of the workload's nkeys vouches for, says that a broker
//! lies or that its key is in other hands: nobody accepts it, and somebody has
//! to look. One that is vouched for may be a replica's; where the operator says
//! that there is none, it says that the workload's seed is in other hands.

use std::collections::VecDeque;
use std::time::Duration;

use bulla_envelope::{Credential, CredentialError};
use bulla_identity::{UnixMillis, WorkloadId};
use bulla_keyring::{KeyId, VerifyingKey};
use moka::sync::Cache;
use parking_lot::Mutex;

use super::{Control, Inner};
use crate::alarm::UnaskedCredential;
use crate::stats::Stats;

/// Keys of our own that are remembered: those of some hours of renewals.
const MAX_ASKED: usize = 64;
/// Credentials that were judged lately: a genuine record can be sent to us
/// again and again by anybody.
const MAX_JUDGED: u64 = 4_096;
const JUDGED_FOR: Duration = Duration::from_secs(24 * 3600);

/// This workload's name, and which credentials in it are ours.
pub(super) struct OwnName {
    workload: WorkloadId,
    is_sole: bool,
    stats: Stats,
    asked: Mutex<VecDeque<VerifyingKey>>,
    judged: Cache<KeyId, ()>,
}

impl OwnName {
    pub(super) fn new(workload: WorkloadId, is_sole: bool, stats: Stats) -> Self {
        Self {
            workload,
            is_sole,
            stats,
            asked: Mutex::default(),
            judged: Cache::builder()
                .max_capacity(MAX_JUDGED)
                .time_to_live(JUDGED_FOR)
                .build(),
        }
    }
}

impl Control {
    /// This process asks, or has asked, for a credential with this message key.
    /// To be said before the request is sent.
    pub(crate) fn asks_with(&self, key: &VerifyingKey) {
        let mut asked = self.0.own_name.asked.lock();
        if asked.len() == MAX_ASKED {
            asked.pop_front();
        }
        asked.push_back(*key);
    }
}

impl Inner {
    /// Looks at a credential that was announced.
    pub(super) fn watch_own_name(&self, credential: Credential, now: UnixMillis) {
        let own = &self.own_name;
        if *credential.claimed_workload() != own.workload {
            return;
        }
        let id = credential.id();
        if own.judged.contains_key(&id) {
            return;
        }
        let is_ours = own
            .asked
            .lock()
            .contains(credential.request().signing_key());
        let issuer = *credential.issuer();
        let reason = match self.judge_own(credential, now) {
            Ok(()) if !own.is_sole || is_ours => None,
            Ok(()) => Some("second_process"),
            // Nobody whom the bundle names says so: a stranger's record, or that
            // of a broker that has just left. It may be another's turn later.
            Err(CredentialError::UnknownIssuer | CredentialError::BadSignature) => return,
            // Neither says anything about who asked.
            Err(
                CredentialError::BundleExpired
                | CredentialError::OutlivesIssuer
                | CredentialError::NotYetValid
                | CredentialError::Expired,
            ) => return,
            Err(error) => Some(error.code()),
        };
        own.judged.insert(id, ());
        if let Some(reason) = reason {
            let alarm = UnaskedCredential {
                workload: &own.workload,
                key_id: id,
                issuer: &issuer,
                reason,
            };
            alarm.raise(&own.stats);
        }
    }

    fn judge_own(&self, credential: Credential, now: UnixMillis) -> Result<(), CredentialError> {
        let bundle = self.bundle.load_full();
        let policy = self.policy.load_full();
        let workload = policy.policy().workload_by_id(&self.own_name.workload);
        let anchors = workload
            .map(|workload| workload.anchors())
            .unwrap_or_default();
        credential
            .verify(&bundle.bundle, anchors, now, self.skew)
            .map(|_| ())
    }
}

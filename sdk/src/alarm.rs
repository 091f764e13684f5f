//! Alarms: signs that a key is in other hands, or that somebody lies.
//!
//! A refusal is an ordinary event; an alarm is one that an operator must look at.
//! Target `bulla::alarm`, at ERROR. Fields never hold a token, a key or a payload.

use bulla_envelope::{Head, Holdings, LeafPrefix, Message, OpenedEnvelope};
use bulla_identity::WorkloadId;
use bulla_keyring::{KeyId, VerifyingKey};
use tracing::error;

use crate::stats::Stats;

/// The `tracing` target of alarms.
pub const TARGET: &str = "bulla::alarm";

/// Two different messages of one key with one sequence number.
///
/// An honest process never numbers two messages alike. So a second one has its
/// key: a copy of the process, one restored from a snapshot, or a thief. Both
/// envelopes are signed under the key, which is the evidence; the prefixes of
/// their leaves find them in a recording.
pub(crate) struct ClonedKey<'a> {
    pub(crate) opened: &'a OpenedEnvelope,
    pub(crate) message: &'a Message,
    pub(crate) accepted: LeafPrefix,
    pub(crate) offered: LeafPrefix,
}

impl ClonedKey<'_> {
    pub(crate) fn raise(&self, stats: &Stats) {
        stats.count_alarm("cloned_key");
        let sender = self.opened.sender();
        error!(
            target: TARGET,
            alarm = "cloned_key",
            workload = sender.workload.path(),
            key_id = sender.key_id.to_hex(),
            epoch = self.opened.epoch().to_hex(),
            sequence = self.message.sequence,
            subject = self.opened.subject(),
            message_id = self.message.id.to_hex(),
            accepted_leaf = %self.accepted,
            offered_leaf = %self.offered,
            "two processes hold one message key",
        );
    }
}

/// A broker certified a key in this workload's name that no process of it can
/// have asked for, or, where there is one process only, that this one did not.
pub(crate) struct UnaskedCredential<'a> {
    pub(crate) workload: &'a WorkloadId,
    pub(crate) key_id: KeyId,
    pub(crate) issuer: &'a VerifyingKey,
    pub(crate) reason: &'static str,
}

impl UnaskedCredential<'_> {
    pub(crate) fn raise(&self, stats: &Stats) {
        stats.count_alarm("unasked_credential");
        error!(
            target: TARGET,
            alarm = "unasked_credential",
            workload = self.workload.path(),
            key_id = self.key_id.to_hex(),
            issuer = ?self.issuer,
            reason = self.reason,
            "a credential in this workload's name that it did not ask for",
        );
    }
}

/// A broker names another policy or revocation list under the number of the one
/// that is held: two were signed, by whoever holds a policy key, or the broker lies.
pub(crate) fn two_records(stats: &Stats, head: &Head, held: &Holdings) {
    stats.count_alarm("two_records");
    error!(
        target: TARGET,
        alarm = "two_records",
        policy_named = head.names.policy.number,
        policy_held = held.policy.number,
        revocations_named = head.names.revocations.number,
        revocations_held = held.revocations.number,
        "a broker's head contradicts what is held",
    );
}

/// This workload is revoked: nothing that it sends is believed any more.
pub(crate) fn own_workload_revoked(stats: &Stats, own: &WorkloadId) {
    stats.count_alarm("own_workload_revoked");
    error!(
        target: TARGET,
        alarm = "own_workload_revoked",
        workload = own.path(),
        "this workload is revoked: nothing is received or sent any more",
    );
}

/// The credential of this process alone is revoked; another is asked for.
pub(crate) fn own_key_revoked(stats: &Stats, own: &WorkloadId, key: KeyId) {
    stats.count_alarm("own_key_revoked");
    error!(
        target: TARGET,
        alarm = "own_key_revoked",
        workload = own.path(),
        key_id = key.to_hex(),
        "the credential of this process is revoked: asking for another",
    );
}

//! Alarms: signs that a key is in other hands, or that somebody lies.
//!
//! A refusal is an ordinary event; an alarm is one that an operator must look at.
//! Target `bulla::alarm`, at ERROR. Fields never hold a token, a key or a payload.

use bulla_envelope::{LeafPrefix, Message, OpenedEnvelope};
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

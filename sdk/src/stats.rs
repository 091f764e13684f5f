//! What a client counts, so that nothing is lost without a trace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bulla_identity::UnixMillis;
use parking_lot::Mutex;

/// Counters of one client; cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sent: AtomicU64,
    frames_sent: AtomicU64,
    delivered: AtomicU64,
    frames_received: AtomicU64,
    slow_consumer: AtomicU64,
    late_replies: AtomicU64,
    ids_taken: AtomicU64,
    lost_violations: AtomicU64,
    recipients_without_key: AtomicU64,
    newest_head: AtomicU64,
    news_gaps: AtomicU64,
    would_deny: AtomicU64,
    would_allow: AtomicU64,
    given_up: AtomicU64,
    plain: AtomicU64,
    dead_letters_unsent: AtomicU64,
    deadlines_passed: AtomicU64,
    stale: Mutex<BTreeMap<&'static str, u64>>,
    refused: Mutex<BTreeMap<&'static str, u64>>,
    alarms: Mutex<BTreeMap<&'static str, u64>>,
}

impl Stats {
    /// Messages that were sealed and handed to the connection: events,
    /// requests and answers.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// NATS messages that were sent and carried several events.
    #[must_use]
    pub fn frames_sent(&self) -> u64 {
        self.0.frames_sent.load(Ordering::Relaxed)
    }

    /// NATS messages that were received, were sound and carried several events.
    #[must_use]
    pub fn frames_received(&self) -> u64 {
        self.0.frames_received.load(Ordering::Relaxed)
    }

    /// Messages that passed every check and reached a handler or subscription.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.0.delivered.load(Ordering::Relaxed)
    }

    /// Messages refused before a handler, by the reason's stable code.
    ///
    /// Where something did not answer, the code's end says where to look:
    ///
    /// | code | what an operator looks at |
    /// |---|---|
    /// | `…_unreachable` | the way to nats-server, and how busy it is: no answer in time |
    /// | `…_stream_missing` | the stream, and what the accounts import and export: nobody answers |
    /// | `…_not_permitted` | what the broker's callout let this workload ask |
    /// | `…_refused` | the stream's settings: it answers with an error |
    ///
    /// Of a user's token (`token_credential_…`), an ancestor (`chain_credential_…`) and the
    /// record of a data key (`data_key_record_credential_…`) whose credential cannot be used:
    ///
    /// | code | what an operator looks at |
    /// |---|---|
    /// | `…_unreachable` | the control stream |
    /// | `…_unknown` | whoever sent it: no broker published the credential, or the policy has no such workload |
    /// | `…_revoked`, `token_minter_revoked` | nothing: it is revoked |
    /// | `…_not_in_time` | clocks, and a process that does not renew |
    /// | `…_untrusted` | the trust bundle and the policy in force |
    #[must_use]
    pub fn refused(&self) -> BTreeMap<&'static str, u64> {
        self.0.refused.lock().clone()
    }

    /// Messages refused for the reason with this code.
    #[must_use]
    pub fn refused_for(&self, code: &str) -> u64 {
        self.0.refused.lock().get(code).copied().unwrap_or(0)
    }

    /// Alarms, by their stable code: signs that a key is in other hands. Each is
    /// told in full under [`ALARM_TARGET`](crate::ALARM_TARGET).
    #[must_use]
    pub fn alarms(&self) -> BTreeMap<&'static str, u64> {
        self.0.alarms.lock().clone()
    }

    /// Times that the NATS client reported a full subscription channel: at
    /// least one message was dropped each time.
    #[must_use]
    pub fn slow_consumer(&self) -> u64 {
        self.0.slow_consumer.load(Ordering::Relaxed)
    }

    /// Appends that found the id of their message taken before the first attempt:
    /// each is an alarm.
    #[must_use]
    pub fn ids_taken(&self) -> u64 {
        self.0.ids_taken.load(Ordering::Relaxed)
    }

    /// Replies that came after their request had ended.
    #[must_use]
    pub fn late_replies(&self) -> u64 {
        self.0.late_replies.load(Ordering::Relaxed)
    }

    /// Refusals by nats-server that were dropped because nobody collected them.
    #[must_use]
    pub fn lost_violations(&self) -> u64 {
        self.0.lost_violations.load(Ordering::Relaxed)
    }

    /// Workloads that could receive on a subject and could not be encrypted to,
    /// because they have published no key; counted each time that a data key is
    /// chosen without them.
    #[must_use]
    pub fn recipients_without_key(&self) -> u64 {
        self.0.recipients_without_key.load(Ordering::Relaxed)
    }

    /// The signed time of the newest head that came; 1970 before the first. How
    /// old it is tells how near this process is to its bounds.
    #[must_use]
    pub fn newest_head(&self) -> UnixMillis {
        UnixMillis::from_millis(self.0.newest_head.load(Ordering::Relaxed))
    }

    /// Messages that came plain, on open subjects: nobody has proven anything about
    /// them. Zero means that everybody there has moved.
    #[must_use]
    pub fn plain(&self) -> u64 {
        self.0.plain.load(Ordering::Relaxed)
    }

    /// Stored messages that a consumer gave up: terminated because they did not pass
    /// the checks or were not handled, each after its dead letter was stored, where
    /// there is a subject for those.
    #[must_use]
    pub fn given_up(&self) -> u64 {
        self.0.given_up.load(Ordering::Relaxed)
    }

    /// Dead letters that could not be stored. Their messages stay in their streams.
    #[must_use]
    pub fn dead_letters_unsent(&self) -> u64 {
        self.0.dead_letters_unsent.load(Ordering::Relaxed)
    }

    /// Handlers that were stopped because their caller waited no longer.
    #[must_use]
    pub fn deadlines_passed(&self) -> u64 {
        self.0.deadlines_passed.load(Ordering::Relaxed)
    }

    /// Times that numbers were missing in the news of the control stream, so that
    /// it was looked at.
    #[must_use]
    pub fn news_gaps(&self) -> u64 {
        self.0.news_gaps.load(Ordering::Relaxed)
    }

    /// Decisions that were allowed and that rules in shadow, or the policy on trial,
    /// would have denied.
    #[must_use]
    pub fn would_deny(&self) -> u64 {
        self.0.would_deny.load(Ordering::Relaxed)
    }

    /// Decisions that were denied and that these would have allowed.
    #[must_use]
    pub fn would_allow(&self) -> u64 {
        self.0.would_allow.load(Ordering::Relaxed)
    }

    /// Times that this process stopped to receive and send because nobody had
    /// confirmed what it holds, by the reason's stable code.
    #[must_use]
    pub fn stale(&self) -> BTreeMap<&'static str, u64> {
        self.0.stale.lock().clone()
    }

    pub(crate) fn count_would(&self, is_allow: bool) {
        let count = if is_allow {
            &self.0.would_allow
        } else {
            &self.0.would_deny
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_head(&self, time: UnixMillis) {
        self.0
            .newest_head
            .fetch_max(time.as_millis(), Ordering::Relaxed);
    }

    pub(crate) fn count_news_gap(&self) {
        self.0.news_gaps.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_stale(&self, code: &'static str) {
        let mut stale = self.0.stale.lock();
        let count = stale.entry(code).or_default();
        *count = count.saturating_add(1);
    }

    pub(crate) fn count_recipients_without_key(&self, workloads: usize) {
        self.0
            .recipients_without_key
            .fetch_add(workloads as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_sent(&self, messages: u64, in_frame: bool) {
        self.0.sent.fetch_add(messages, Ordering::Relaxed);
        if in_frame {
            self.0.frames_sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_frame_received(&self) {
        self.0.frames_received.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_delivered(&self) {
        self.0.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_alarm(&self, code: &'static str) {
        let mut alarms = self.0.alarms.lock();
        let count = alarms.entry(code).or_default();
        *count = count.saturating_add(1);
    }

    pub(crate) fn count_refused(&self, code: &'static str) {
        self.count_refused_many(code, 1);
    }

    pub(crate) fn count_refused_many(&self, code: &'static str, messages: u64) {
        let mut refused = self.0.refused.lock();
        let count = refused.entry(code).or_default();
        *count = count.saturating_add(messages);
    }

    pub(crate) fn count_slow_consumer(&self) {
        self.0.slow_consumer.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_id_taken(&self) {
        self.0.ids_taken.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_plain(&self) {
        self.0.plain.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_given_up(&self) {
        self.0.given_up.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_dead_letter_unsent(&self) {
        self.0.dead_letters_unsent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_deadline_passed(&self) {
        self.0.deadlines_passed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_late_reply(&self) {
        self.0.late_replies.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_lost_violation(&self) {
        self.0.lost_violations.fetch_add(1, Ordering::Relaxed);
    }
}

//! The four lists while they are put together.

use std::collections::BTreeMap;

use bulla_identity::{PatternToken, SubjectPattern, reserved};

use super::{ListName, Permissions};
use crate::check;
use crate::policy::{Policy, Workload};
use crate::stream::{Retention, Stream};

/// One of the lists; within an entry, the rule that it is due to first, if it is
/// not what every workload has.
type List = BTreeMap<String, Option<u32>>;

/// The lists, and the rule that is being compiled.
pub(super) struct Lists {
    publish_allow: List,
    publish_deny: List,
    subscribe_allow: List,
    subscribe_deny: List,
    /// None for what every workload has.
    rule: Option<u32>,
}

impl Lists {
    /// POL-60: what every workload needs to be one.
    pub(super) fn base(workload: &Workload) -> Self {
        let tag = workload.tag();
        let mut lists = Self {
            publish_allow: List::new(),
            publish_deny: List::new(),
            subscribe_allow: List::new(),
            subscribe_deny: List::new(),
            rule: None,
        };
        for subject in [
            reserved::broker_challenge(tag),
            reserved::broker_credential(tag, "*"),
            reserved::broker_kem(tag),
            reserved::DIRECT_GET_ALL.to_owned(),
            reserved::key_records_of(tag),
            reserved::KEYS_DIRECT_GET_ALL.to_owned(),
            reserved::claims_of(tag),
            reserved::claims_direct_get_of(tag),
            reserved::audit_of(tag),
            reserved::status_of(tag),
            reserved::BARRIER.to_owned(),
        ] {
            lists.publish(subject);
        }
        for subject in [
            format!("{}.>", reserved::inbox_peers(tag)),
            format!("{}.>", reserved::inbox_server(tag)),
            reserved::NEWS_ALL.to_owned(),
        ] {
            lists.subscribe(subject, workload);
        }
        // POL-60: an edge remembers for long what its clients said only once.
        if workload.mints() {
            lists.remember(workload);
        }
        lists
    }

    /// What its processes agree upon for longer than a message lives.
    fn remember(&mut self, workload: &Workload) {
        self.publish(reserved::taken_of(workload.tag()));
        self.publish(reserved::taken_direct_get_of(workload.tag()));
    }

    /// POL-190, POL-191: to answer who asks which services there are, and to ask.
    /// An answer goes to the inboxes of those that may ask and to nobody else's,
    /// because the reply subject of a question is not checked by nats-server.
    pub(super) fn discovery(&mut self, policy: &Policy, workload: &Workload) {
        for verb in reserved::DISCOVERY {
            if workload.discovers() {
                self.publish(verb.to_owned());
                self.publish(format!("{verb}.>"));
            }
            if workload.discoverable() {
                let own = format!("{verb}.{}", workload.name());
                self.subscribe(verb.to_owned(), workload);
                self.subscribe(own.clone(), workload);
                self.subscribe(format!("{own}.*"), workload);
                // The server takes `*` at the end for `>` too.
                self.deny_subscribe(format!("{own}.*.>"));
            }
        }
        if workload.discoverable() {
            for asker in policy.workloads().iter().filter(|w| w.discovers()) {
                self.publish(format!("{}.>", reserved::inbox_peers(asker.tag())));
            }
        }
    }

    /// What comes now is due to this rule.
    pub(super) fn for_rule(&mut self, rule: u32) {
        self.rule = Some(rule);
    }

    pub(super) fn publish(&mut self, subject: String) {
        self.publish_allow.entry(subject).or_insert(self.rule);
    }

    pub(super) fn deny_publish(&mut self, subject: String) {
        self.publish_deny.entry(subject).or_insert(self.rule);
    }

    /// POL-63: with its twin, the workload's own queue group. Where a queue
    /// entry matches, nats-server lets the queue entries alone decide, so that
    /// this also refuses every other group, even where a plain entry matches too.
    pub(super) fn subscribe(&mut self, subject: String, workload: &Workload) {
        self.queue(&subject, workload);
        self.subscribe_allow.entry(subject).or_insert(self.rule);
    }

    /// In the workload's own queue group alone.
    pub(super) fn queue(&mut self, subject: &str, workload: &Workload) {
        let entry = format!("{subject} {}", workload.name());
        self.subscribe_allow.entry(entry).or_insert(self.rule);
    }

    pub(super) fn deny_subscribe(&mut self, subject: String) {
        self.subscribe_deny.entry(subject).or_insert(self.rule);
    }

    /// POL-69: to ask for messages and to answer for them, and to see how the
    /// stream and the consumer are configured. Nothing else of JetStream.
    pub(super) fn consume(
        &mut self,
        policy: &Policy,
        workload: &Workload,
        consumer: &SubjectPattern,
    ) {
        let Some((stream, consumer)) = check::named_consumer(consumer) else {
            return;
        };
        self.publish(reserved::consumer_next(stream, consumer));
        self.publish(format!("{}.>", reserved::consumer_ack(stream, consumer)));
        self.publish(reserved::consumer_info(stream, consumer));
        self.publish(reserved::stream_info(stream));
        if let Some(origin) = policy.stream(stream).and_then(Stream::mirror) {
            self.publish(reserved::stream_info(origin));
        }
        match policy.stream(stream).map(Stream::retention) {
            // Who may consume all of it may read all of it, wherever he begins.
            Some(Retention::Limits) => self.publish(reserved::stream_direct_gets(stream)),
            // A stream that forgets ids: the consumer remembers them.
            Some(Retention::WorkQueue | Retention::Interest) => self.remember(workload),
            None => {}
        }
    }

    /// POL-127: how a stream or a bucket is doing, and its consumers. Every
    /// consumer is named: nats-server reads more out of a `*`.
    pub(super) fn manage(&mut self, policy: &Policy, store: &SubjectPattern) {
        let [PatternToken::Literal(name)] = store.tokens() else {
            return;
        };
        if let Some(bucket) = policy.bucket(name) {
            self.publish(reserved::stream_info(&bucket.stream()));
            return;
        }
        self.publish(reserved::stream_info(name));
        for consumer in policy.consumers().iter().filter(|c| *c.stream() == **name) {
            self.publish(reserved::consumer_info(name, consumer.name()));
        }
    }

    /// The rules to which most of the bytes are due.
    pub(super) fn largest(&self, most: usize) -> Vec<(u32, usize)> {
        let mut due_to: BTreeMap<u32, usize> = BTreeMap::new();
        for (_, text, rule) in self.entries() {
            if let Some(rule) = rule {
                *due_to.entry(rule).or_default() += listed_bytes(text);
            }
        }
        let mut all: Vec<(u32, usize)> = due_to.into_iter().collect();
        all.sort_by_key(|(rule, bytes)| (std::cmp::Reverse(*bytes), *rule));
        all.truncate(most);
        all
    }

    /// The bytes that the four lists take as JSON.
    pub(super) fn bytes(&self) -> usize {
        self.entries().map(|(_, text, _)| listed_bytes(text)).sum()
    }

    /// Every entry of every list, and the rule that it is due to.
    pub(super) fn entries(&self) -> impl Iterator<Item = (ListName, &str, Option<u32>)> {
        let lists = [
            (ListName::PublishAllow, &self.publish_allow),
            (ListName::PublishDeny, &self.publish_deny),
            (ListName::SubscribeAllow, &self.subscribe_allow),
            (ListName::SubscribeDeny, &self.subscribe_deny),
        ];
        lists
            .into_iter()
            .flat_map(|(name, list)| list.iter().map(move |(text, rule)| (name, &**text, *rule)))
    }
}

/// What an entry of a JSON list takes, its quotes and its comma included.
pub(super) fn listed_bytes(entry: &str) -> usize {
    let escapes = entry.bytes().filter(|b| matches!(b, b'"' | b'\\')).count();
    entry.len() + escapes + 3
}

impl From<Lists> for Permissions {
    fn from(lists: Lists) -> Self {
        let sorted = |list: List| list.into_keys().collect();
        Self {
            publish_allow: sorted(lists.publish_allow),
            publish_deny: sorted(lists.publish_deny),
            subscribe_allow: sorted(lists.subscribe_allow),
            subscribe_deny: sorted(lists.subscribe_deny),
        }
    }
}

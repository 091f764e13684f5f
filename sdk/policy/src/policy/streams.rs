//! What a policy says of streams.

use std::time::Duration;

use bulla_identity::{Subject, UnixMillis, WorkloadId};

use super::{Policy, Workload};
use crate::bucket::Bucket;
use crate::check;
use crate::parse::{StreamSpec, SubjectSpec};
use crate::requirements::DEFAULT_MAX_AGE;
use crate::rule::{Effect, Verb};
use crate::stream::{Consumer, Stream};

impl Policy {
    pub(super) fn add_streams(&mut self, streams: Vec<StreamSpec>, entries: &[SubjectSpec]) {
        let uses = |spec: &StreamSpec| {
            entries
                .iter()
                .filter(|entry| {
                    spec.subjects
                        .iter()
                        .any(|(pattern, _)| entry.pattern.overlaps(pattern))
                })
                .filter_map(|entry| entry.stated.max_age)
                .max()
                .unwrap_or(DEFAULT_MAX_AGE)
        };
        let longest: Vec<Duration> = streams
            .iter()
            .map(|spec| match &spec.mirror {
                // What it copies is used for as long as there.
                Some((origin, _)) => streams
                    .iter()
                    .find(|s| s.name == *origin)
                    .map_or_else(Duration::default, uses),
                None => uses(spec),
            })
            .collect();
        for ((spec, longest_use), index) in streams.into_iter().zip(longest).zip(0u32..) {
            for (pattern, _) in &spec.subjects {
                self.stored.insert(pattern.tokens(), index);
            }
            self.streams.push(Stream {
                name: spec.name,
                subjects: spec.subjects.into_iter().map(|(p, _)| p).collect(),
                mirror: spec.mirror.map(|(origin, _)| origin),
                retention: spec.retention,
                max_age: spec.max_age.unwrap_or(longest_use).max(spec.duplicates),
                duplicates: spec.duplicates,
                max_bytes: spec.max_bytes,
                replicas: spec.replicas,
                longest_use,
            });
        }
    }

    pub(super) fn granted_consumers(&self) -> Vec<Consumer> {
        let mut out = Vec::new();
        for rule in self.rules.iter().filter(|r| r.may_allow(Verb::Consume)) {
            for (stream, name) in rule.on.iter().filter_map(check::named_consumer) {
                let Ok(whole) = Subject::parse(&format!("{stream}.{name}")) else {
                    continue;
                };
                for workload in &rule.who {
                    if self.may_ever_at(*workload, Verb::Consume, &whole, None) {
                        out.push(Consumer {
                            stream: stream.into(),
                            name: name.into(),
                            workload: *workload,
                        });
                    }
                }
            }
        }
        out.sort_by(|a, b| (&a.stream, &a.name).cmp(&(&b.stream, &b.name)));
        out.dedup();
        out
    }

    /// Every stream that the policy declares, by name.
    #[must_use]
    pub fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// The stream with this name.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<&Stream> {
        let at = self.streams.binary_search_by(|s| s.name().cmp(name)).ok()?;
        self.streams.get(at)
    }

    /// The stream that stores what is sent on `subject`.
    #[must_use]
    pub fn stream_of(&self, subject: &Subject) -> Option<&Stream> {
        let mut found = None;
        self.stored
            .matches(subject.as_str(), &mut |index| found = Some(*index));
        self.streams.get(found? as usize)
    }

    /// Every consumer that some rule grants and no unconditional deny rule
    /// takes back, by stream and name.
    #[must_use]
    pub fn consumers(&self) -> &[Consumer] {
        &self.consumers
    }

    /// The workload that a consumer belongs to.
    #[must_use]
    pub fn consumer_owner(&self, consumer: &Consumer) -> Option<&Workload> {
        self.workload_at(consumer.workload)
    }

    /// For how long after it was stored something that this workload signed, a
    /// message, a value or a user's token, may still have to be verified: nothing
    /// unless it may append, writes keys of a bucket, mints tokens that others may
    /// do so under, or may be a hop of a proven chain that a stream stores.
    #[must_use]
    pub fn late_readers_of(&self, workload: &WorkloadId) -> Duration {
        let mints = self.workload_by_id(workload).is_some_and(Workload::mints);
        let may = |verb| {
            let mut grants = self.grants(workload);
            grants.any(|g| g.effect == Effect::Allow && g.verb == verb)
        };
        let mut longest = Duration::default();
        // Whoever sends may be a hop of a chain that is stored.
        if mints || self.stores_chains() || may(Verb::Append) {
            let uses = self.streams.iter().map(Stream::longest_use);
            longest = longest.max(uses.max().unwrap_or_default());
        }
        if mints || may(Verb::Write) {
            let uses = self.buckets.iter().map(Bucket::max_age);
            longest = longest.max(uses.max().unwrap_or_default());
        }
        longest
    }

    fn stores_chains(&self) -> bool {
        let stored = self.streams.iter().flat_map(Stream::subjects);
        let mut pairs = stored.flat_map(|s| self.proven.iter().map(move |p| (s, p)));
        pairs.any(|(stored, proven)| stored.overlaps(proven))
    }

    /// The longest `max_age` that any entry states, at least
    /// [`DEFAULT_MAX_AGE`]: for so long after it was sent or stored somebody
    /// may still have to verify a message.
    #[must_use]
    pub fn longest_max_age(&self) -> Duration {
        self.longest_max_age
    }

    /// Whether it consumes the stream, or a mirror of it, and still may after
    /// `since`.
    pub(super) fn consumes(
        &self,
        workload: u32,
        stream: &Stream,
        since: Option<UnixMillis>,
    ) -> bool {
        let of_it = |name: &str| {
            name == stream.name()
                || self.stream(name).and_then(Stream::mirror) == Some(stream.name())
        };
        let still = |c: &Consumer| {
            since.is_none()
                || Subject::parse(&format!("{}.{}", c.stream(), c.name()))
                    .is_ok_and(|whole| self.may_ever_at(workload, Verb::Consume, &whole, since))
        };
        let theirs = |c: &Consumer| c.workload == workload && of_it(c.stream()) && still(c);
        self.consumers.iter().any(theirs)
    }
}

//! From rules to nats-server's permission lists.
//!
//! nats-server enforces what needs neither the user nor the message: workload,
//! verb and subject. Its lists have traps, and each rule of SPEC.md's section
//! "Permissions" closes one; the live test in `tests/tests/permissions`
//! tries them on a real server.

use std::collections::BTreeSet;
use std::ops::Range;

use bulla_identity::{PatternToken, SubjectPattern, WorkloadId, WorkloadTag, reserved};

use crate::check;
use crate::error::Sink;
use crate::parse::Parsed;
use crate::policy::{Entry, Policy, Workload};
use crate::problem::Problem;
use crate::rule::{Rule, Verb};
use crate::shape;
use crate::stream::{Retention, Stream};
use crate::trie::Trie;

/// The most bytes that one workload's lists may take as JSON: 512 KiB.
///
/// A callout's answer may have 1 MiB, and the lists go into it base64-encoded
/// twice (a JWT within a JWT), which makes them 16/9 as long.
pub const MAX_PERMISSION_BYTES: usize = 512 << 10;

/// What nats-server is told about one workload.
///
/// Both allow lists are never empty, because an empty list means *everything*
/// to nats-server. A subscribe entry with a space names a queue group. The
/// lists are sorted and without duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects that it may publish to.
    pub publish_allow: Vec<String>,
    /// Subjects within those that it may not.
    pub publish_deny: Vec<String>,
    /// Subjects, or subjects and a queue group, that it may subscribe to.
    pub subscribe_allow: Vec<String>,
    /// Subjects within those that it may not, and that are not delivered.
    pub subscribe_deny: Vec<String>,
}

/// Why there are no permissions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PermissionError {
    /// The policy does not name the workload.
    #[error("the policy names no workload `{0}`")]
    UnknownWorkload(WorkloadId),
}

impl Policy {
    /// The permissions of one workload, from the unconditional part of the
    /// policy: a grant that depends on the user is permitted here and decided
    /// by the endpoints.
    ///
    /// # Errors
    /// [`PermissionError::UnknownWorkload`]. Everything else that could go
    /// wrong kept the policy from loading.
    pub fn permissions(&self, workload: &WorkloadId) -> Result<Permissions, PermissionError> {
        let compiler = self
            .index_of(workload)
            .and_then(|index| Compiler::new(self, index))
            .ok_or_else(|| PermissionError::UnknownWorkload(workload.clone()))?;
        Ok(compiler.compile(&mut |_, _| {}))
    }
}

/// Where rules and workloads stand in the text.
pub(crate) struct Spans {
    rules: Vec<Vec<Range<usize>>>,
    workloads: Vec<Range<usize>>,
}

impl Spans {
    pub(crate) fn of(parsed: &Parsed) -> Self {
        Self {
            rules: parsed.rules.iter().map(|r| r.on_spans.clone()).collect(),
            workloads: parsed.workloads.iter().map(|w| w.span.clone()).collect(),
        }
    }
}

/// Reports everything about `policy` that nats-server could not enforce.
pub(crate) fn check(policy: &Policy, spans: &Spans, sink: &mut Sink<'_>) {
    for (span, index) in spans.workloads.iter().zip(0u32..) {
        let Some(compiler) = Compiler::new(policy, index) else {
            continue;
        };
        let permissions = compiler.compile(&mut |entry, problem| {
            let at = spans
                .rules
                .get(entry.rule as usize)
                .and_then(|on| on.get(entry.pattern as usize));
            sink.report(at.unwrap_or(span), problem);
        });
        let actual = permissions.json_bytes();
        if actual > MAX_PERMISSION_BYTES {
            let problem = Problem::PermissionsTooLarge {
                workload: compiler.workload.name().to_string(),
                limit: MAX_PERMISSION_BYTES,
                actual,
            };
            sink.report(span, problem);
        }
    }
}

impl Permissions {
    /// The bytes that the four lists take as JSON.
    fn json_bytes(&self) -> usize {
        let lists = [
            &self.publish_allow,
            &self.publish_deny,
            &self.subscribe_allow,
            &self.subscribe_deny,
        ];
        lists
            .into_iter()
            .flatten()
            .map(|entry| {
                let escapes = entry.bytes().filter(|b| matches!(b, b'"' | b'\\')).count();
                entry.len() + escapes + 3
            })
            .sum()
    }
}

/// One verb of one pattern that a workload holds on some condition.
#[derive(Clone, Copy)]
struct Held<'p> {
    entry: Entry,
    rule: &'p Rule,
    pattern: &'p SubjectPattern,
    verb: Verb,
}

struct Compiler<'p> {
    policy: &'p Policy,
    index: u32,
    workload: &'p Workload,
    trie: &'p Trie<Entry>,
    /// Whether any deny rule of this workload holds for every user.
    narrowed: bool,
}

impl<'p> Compiler<'p> {
    fn new(policy: &'p Policy, index: u32) -> Option<Self> {
        let mut compiler = Self {
            policy,
            index,
            workload: policy.workload_at(index)?,
            trie: policy.rules_of(index)?,
            narrowed: false,
        };
        let mut narrowed = false;
        compiler.trie.each(&mut |entry| {
            if let Some((rule, _)) = policy.entry(*entry) {
                narrowed |= Verb::ALL.into_iter().any(|v| rule.denies_always(v));
            }
        });
        compiler.narrowed = narrowed;
        Some(compiler)
    }

    /// Compiles, and tells `report` of every grant that cannot be expressed.
    fn compile(&self, report: &mut dyn FnMut(Entry, Problem)) -> Permissions {
        let mut lists = Lists::base(self.workload);
        for held in self.held() {
            let text = held.pattern.to_nats();
            match held.verb {
                Verb::Publish | Verb::Request | Verb::Append => {
                    lists.publish_allow.insert(text);
                }
                Verb::Consume => {
                    // Its name is literal, so nothing is left to narrow or close.
                    lists.consume(self.policy, self.workload, held.pattern);
                    continue;
                }
                Verb::Subscribe => {
                    lists.queue(&text, self.workload);
                    lists.subscribe_allow.insert(text);
                }
                Verb::Serve => {
                    lists.queue(&text, self.workload);
                    self.reply_rights(held, &mut lists);
                }
            }
            self.narrow(held, &mut lists, report);
            self.close_open_end(held, &mut lists, report);
        }
        lists.into()
    }

    /// The effective grants, by rule id and pattern.
    fn held(&self) -> Vec<Held<'p>> {
        let mut out = Vec::new();
        self.trie.each(&mut |entry| {
            if let Some((rule, pattern)) = self.policy.entry(*entry) {
                for verb in rule.verbs.iter().filter(|v| rule.may_allow(*v)) {
                    if !self.is_void(self.index, verb, pattern.tokens()) {
                        out.push(Held {
                            entry: *entry,
                            rule,
                            pattern,
                            verb,
                        });
                    }
                }
            }
        });
        out.sort_by_key(|h| (h.entry.rule, h.entry.pattern, h.verb));
        out
    }

    /// POL-67: a server may publish to the peers' inbox of each workload that
    /// may ever send it a request, and to no other.
    fn reply_rights(&self, held: Held<'_>, lists: &mut Lists) {
        let mut tags: BTreeSet<WorkloadTag> = BTreeSet::new();
        self.policy
            .requesters
            .overlaps(held.pattern.tokens(), &mut |(who, entry)| {
                let shared = self
                    .policy
                    .entry(*entry)
                    .and_then(|(_, on)| shape::intersect(held.pattern.tokens(), on.tokens()));
                if let (Some(shared), Some(requester)) = (shared, self.policy.workload_at(*who))
                    && !tags.contains(&requester.tag())
                    && !self.is_void(*who, Verb::Request, &shared)
                    && !self.is_void(self.index, Verb::Serve, &shared)
                {
                    tags.insert(requester.tag());
                }
            });
        for tag in tags {
            let inbox = reserved::inbox_peers(tag);
            lists.publish_allow.insert(format!("{inbox}.>"));
        }
    }

    /// POL-65: an unconditional deny within a grant becomes a NATS deny,
    /// unless another verb needs the same permission there.
    fn narrow(&self, held: Held<'p>, lists: &mut Lists, report: &mut dyn FnMut(Entry, Problem)) {
        if !self.narrowed {
            return;
        }
        let verb = held.verb;
        let mut denies: Vec<(Entry, &Rule, Vec<PatternToken>)> = Vec::new();
        self.trie.overlaps(held.pattern.tokens(), &mut |entry| {
            if let Some((rule, on)) = self.policy.entry(*entry)
                && rule.denies_always(verb)
                && let Some(shared) = shape::intersect(held.pattern.tokens(), on.tokens())
            {
                denies.push((*entry, rule, shared));
            }
        });
        denies.sort_by_key(|(entry, ..)| (entry.rule, entry.pattern));
        let others = siblings(verb);
        for (entry, deny, shared) in denies {
            let needed = others
                .iter()
                .flat_map(|other| self.holders(*other, &shared))
                .min_by_key(|h| (h.entry.rule, h.entry.pattern));
            let Some(needed) = needed else {
                let denied = shape::to_nats(&shared);
                match verb {
                    Verb::Publish | Verb::Request | Verb::Append => {
                        lists.publish_deny.insert(denied);
                    }
                    Verb::Subscribe | Verb::Serve => {
                        lists.subscribe_deny.insert(denied);
                    }
                    Verb::Consume => {}
                }
                continue;
            };
            // Another verb gives the same NATS permission anyway; only a
            // plain subscription is more than what `serve` gives.
            if verb != Verb::Subscribe && others.iter().any(|other| self.holds_all(*other, &shared))
            {
                continue;
            }
            let problem = Problem::DenyCuts {
                workload: self.workload.name().to_string(),
                deny: deny.id.to_string(),
                verb,
                denied: shape::to_nats(&shared),
                other: needed.rule.id.to_string(),
                other_verb: needed.verb,
                other_pattern: needed.pattern.to_string(),
            };
            report(entry, problem);
        }
    }

    /// POL-62: a grant that ends in `*` lets nats-server accept `>` there, so
    /// the deeper levels are denied, unless they are granted as well.
    fn close_open_end(
        &self,
        held: Held<'p>,
        lists: &mut Lists,
        report: &mut dyn FnMut(Entry, Problem),
    ) {
        let enough: &[Verb] = match held.verb {
            Verb::Publish | Verb::Request | Verb::Append | Verb::Consume => return,
            Verb::Subscribe => &[Verb::Subscribe],
            Verb::Serve => &[Verb::Subscribe, Verb::Serve],
        };
        let Some(beneath) = shape::beneath_open_end(held.pattern.tokens()) else {
            return;
        };
        let mut granted = false;
        self.trie.overlaps(&beneath, &mut |entry| {
            if let Some((rule, on)) = self.policy.entry(*entry)
                && shape::contains(on.tokens(), &beneath)
            {
                granted |= enough
                    .iter()
                    .any(|v| rule.may_allow(*v) && !self.is_void(self.index, *v, on.tokens()));
            }
        });
        if granted {
            return;
        }
        let needed = self
            .holders(Verb::Subscribe, &beneath)
            .into_iter()
            .chain(self.holders(Verb::Serve, &beneath))
            .min_by_key(|h| h.entry.rule);
        let opened = shape::to_nats(&beneath);
        match needed {
            None => {
                lists.subscribe_deny.insert(opened);
            }
            Some(needed) => {
                let problem = Problem::OpenEnd {
                    workload: self.workload.name().to_string(),
                    rule: held.rule.id.to_string(),
                    verb: held.verb,
                    pattern: held.pattern.to_string(),
                    opened,
                    other: needed.rule.id.to_string(),
                    other_pattern: needed.pattern.to_string(),
                };
                report(held.entry, problem);
            }
        }
    }

    /// The grants of `verb` that give some of `tokens`, by rule id.
    fn holders(&self, verb: Verb, tokens: &[PatternToken]) -> Vec<Held<'p>> {
        let mut out = Vec::new();
        self.trie.overlaps(tokens, &mut |entry| {
            if let Some((rule, pattern)) = self.policy.entry(*entry)
                && rule.may_allow(verb)
                && let Some(shared) = shape::intersect(pattern.tokens(), tokens)
                && !self.is_void(self.index, verb, &shared)
            {
                out.push(Held {
                    entry: *entry,
                    rule,
                    pattern,
                    verb,
                });
            }
        });
        out.sort_by_key(|h| (h.entry.rule, h.entry.pattern));
        out
    }

    /// Whether one grant of `verb` gives all of `tokens`, nothing denied.
    fn holds_all(&self, verb: Verb, tokens: &[PatternToken]) -> bool {
        let (mut all, mut denied) = (false, false);
        self.trie.overlaps(tokens, &mut |entry| {
            if let Some((rule, on)) = self.policy.entry(*entry) {
                all |= rule.may_allow(verb) && shape::contains(on.tokens(), tokens);
                denied |= rule.denies_always(verb);
            }
        });
        all && !denied
    }

    /// Whether one unconditional deny rule takes all of `tokens` from a workload.
    fn is_void(&self, workload: u32, verb: Verb, tokens: &[PatternToken]) -> bool {
        if workload == self.index && !self.narrowed {
            return false;
        }
        let mut void = false;
        if let Some(trie) = self.policy.rules_of(workload) {
            trie.overlaps(tokens, &mut |entry| {
                if let Some((rule, on)) = self.policy.entry(*entry) {
                    void |= rule.denies_always(verb) && shape::contains(on.tokens(), tokens);
                }
            });
        }
        void
    }
}

/// The verbs that nats-server cannot tell from this one.
const fn siblings(verb: Verb) -> &'static [Verb] {
    match verb {
        Verb::Publish => &[Verb::Request, Verb::Append],
        Verb::Request => &[Verb::Publish, Verb::Append],
        Verb::Append => &[Verb::Publish, Verb::Request],
        Verb::Subscribe => &[Verb::Serve],
        Verb::Serve => &[Verb::Subscribe],
        Verb::Consume => &[],
    }
}

struct Lists {
    publish_allow: BTreeSet<String>,
    publish_deny: BTreeSet<String>,
    subscribe_allow: BTreeSet<String>,
    subscribe_deny: BTreeSet<String>,
}

impl Lists {
    /// POL-60: what every workload needs to be one.
    fn base(workload: &Workload) -> Self {
        let tag = workload.tag();
        let mut lists = Self {
            publish_allow: BTreeSet::from([
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
            ]),
            publish_deny: BTreeSet::new(),
            subscribe_allow: BTreeSet::new(),
            subscribe_deny: BTreeSet::new(),
        };
        for subject in [
            format!("{}.>", reserved::inbox_peers(tag)),
            format!("{}.>", reserved::inbox_server(tag)),
            reserved::NEWS_ALL.to_owned(),
        ] {
            lists.queue(&subject, workload);
            lists.subscribe_allow.insert(subject);
        }
        lists
    }

    /// POL-69: to ask for messages and to answer for them, and to see how the
    /// stream and the consumer are configured. Nothing else of JetStream.
    fn consume(&mut self, policy: &Policy, workload: &Workload, consumer: &SubjectPattern) {
        let Some((stream, consumer)) = check::named_consumer(consumer) else {
            return;
        };
        self.publish_allow.extend([
            reserved::consumer_next(stream, consumer),
            format!("{}.>", reserved::consumer_ack(stream, consumer)),
            reserved::consumer_info(stream, consumer),
            reserved::stream_info(stream),
        ]);
        if let Some(origin) = policy.stream(stream).and_then(Stream::mirror) {
            self.publish_allow.insert(reserved::stream_info(origin));
        }
        // A stream that forgets ids: the consumer remembers them.
        let forgets = policy.stream(stream).map(Stream::retention);
        if matches!(forgets, Some(Retention::WorkQueue | Retention::Interest)) {
            let tag = workload.tag();
            self.publish_allow
                .extend([reserved::taken_of(tag), reserved::taken_direct_get_of(tag)]);
        }
    }

    /// POL-63: the workload's own queue group. Where a queue entry matches,
    /// nats-server lets the queue entries alone decide, so that this also
    /// refuses every other group, even where a plain entry matches too.
    fn queue(&mut self, subject: &str, workload: &Workload) {
        let group = workload.name();
        self.subscribe_allow.insert(format!("{subject} {group}"));
    }
}

impl From<Lists> for Permissions {
    fn from(lists: Lists) -> Self {
        let sorted = |set: BTreeSet<String>| set.into_iter().collect();
        Self {
            publish_allow: sorted(lists.publish_allow),
            publish_deny: sorted(lists.publish_deny),
            subscribe_allow: sorted(lists.subscribe_allow),
            subscribe_deny: sorted(lists.subscribe_deny),
        }
    }
}

//! From rules to nats-server's permission lists.
//!
//! nats-server enforces what needs neither the user nor the message: workload,
//! verb and subject. Its lists have traps, and each rule of SPEC.md's section
//! "Permissions" closes one; the live test in `tests/tests/permissions`
//! tries them on a real server.

use std::collections::BTreeSet;
use std::ops::Range;

use bulla_identity::{PatternToken, SubjectPattern, WorkloadId, WorkloadTag, reserved};

use crate::circumstances::Circumstances;
use crate::error::Sink;
use crate::parse::Parsed;
use crate::policy::{Entry, Policy, Workload};
use crate::problem::Problem;
use crate::rule::{About, Rule, Verb};
use crate::shape;
use crate::trie::Trie;
use lists::{Lists, listed_bytes};

mod keys;
mod lists;
mod narrowing;

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

/// One of the four lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListName {
    /// [`Permissions::publish_allow`].
    PublishAllow,
    /// [`Permissions::publish_deny`].
    PublishDeny,
    /// [`Permissions::subscribe_allow`].
    SubscribeAllow,
    /// [`Permissions::subscribe_deny`].
    SubscribeDeny,
}

/// One entry of a list, and what it is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry<'p> {
    /// The list.
    pub list: ListName,
    /// The entry.
    pub text: String,
    /// The rule that it is due to, of several the first by id; nothing if every
    /// workload has it.
    pub rule: Option<&'p str>,
}

impl ListEntry<'_> {
    /// What it takes of [`MAX_PERMISSION_BYTES`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        listed_bytes(&self.text)
    }
}

/// Why there are no permissions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PermissionError {
    /// The policy does not name the workload.
    #[error("the policy names no workload `{0}`")]
    UnknownWorkload(WorkloadId),
}

impl Policy {
    /// The permissions of one workload's connection under these circumstances,
    /// from the part of the policy that does not depend on the user: a grant
    /// that does is permitted here and decided by the endpoints.
    ///
    /// They hold until [`Policy::next_change_of`] at the longest, and for other
    /// addresses only where [`Policy::depends_on_circumstances`] is false.
    ///
    /// # Errors
    /// [`PermissionError::UnknownWorkload`]. Everything else that could go
    /// wrong kept the policy from loading.
    pub fn permissions(
        &self,
        workload: &WorkloadId,
        circumstances: &Circumstances,
    ) -> Result<Permissions, PermissionError> {
        let compiler = self
            .index_of(workload)
            .and_then(|index| Compiler::new(self, index, Some(circumstances)))
            .ok_or_else(|| PermissionError::UnknownWorkload(workload.clone()))?;
        Ok(compiler.compile(&mut |_, _| {}).into())
    }

    /// The same, entry by entry, each with the rule that it is due to; for a person.
    ///
    /// # Errors
    /// As [`Policy::permissions`].
    pub fn permission_entries(
        &self,
        workload: &WorkloadId,
        circumstances: &Circumstances,
    ) -> Result<Vec<ListEntry<'_>>, PermissionError> {
        let compiler = self
            .index_of(workload)
            .and_then(|index| Compiler::new(self, index, Some(circumstances)))
            .ok_or_else(|| PermissionError::UnknownWorkload(workload.clone()))?;
        let lists = compiler.compile(&mut |_, _| {});
        let named = |rule: u32| Some(&*self.rules.get(rule as usize)?.id);
        let entry = |(list, text, rule): (ListName, &str, Option<u32>)| ListEntry {
            list,
            text: text.to_owned(),
            rule: rule.and_then(named),
        };
        Ok(lists.entries().map(entry).collect())
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
        let Some(compiler) = Compiler::new(policy, index, None) else {
            continue;
        };
        let lists = compiler.compile(&mut |entry, problem| {
            let at = spans
                .rules
                .get(entry.rule as usize)
                .and_then(|on| on.get(entry.pattern as usize));
            sink.report(at.unwrap_or(span), problem);
        });
        let actual = lists.bytes();
        if actual > MAX_PERMISSION_BYTES {
            let named = |(rule, bytes): (u32, usize)| {
                let rule = policy.rules.get(rule as usize)?;
                Some((rule.id.to_string(), bytes))
            };
            let problem = Problem::PermissionsTooLarge {
                workload: compiler.workload.name().to_string(),
                limit: MAX_PERMISSION_BYTES,
                actual,
                largest: lists.largest(3).into_iter().filter_map(named).collect(),
            };
            sink.report(span, problem);
        }
    }
}

impl Permissions {
    /// Takes away the right to write to the audit log, which the workload with this tag has.
    pub fn without_audit(&mut self, tag: WorkloadTag) {
        let own = reserved::audit_of(tag);
        self.publish_allow.retain(|entry| *entry != own);
    }

    /// Takes away every right to this bucket's keys, for a bucket that cannot be
    /// served (POL-128).
    pub fn without_bucket(&mut self, bucket: &str) {
        let keys = reserved::bucket_key(bucket, "");
        let news = reserved::bucket_news(bucket, "");
        let gets = reserved::bucket_direct_gets(bucket);
        let is_of_it = |entry: &str| {
            let rest = entry.strip_prefix(&*gets);
            entry.starts_with(&*keys)
                || entry.starts_with(&*news)
                || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        for list in [
            &mut self.publish_allow,
            &mut self.publish_deny,
            &mut self.subscribe_allow,
            &mut self.subscribe_deny,
        ] {
            list.retain(|entry| !is_of_it(entry));
        }
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
    /// Whether any deny rule of this workload may hold for every user.
    narrowed: bool,
    /// Under which the rules count or not. `None` asks what could ever happen
    /// (POL-106): every grant may be there, and what would relieve it only if it
    /// is whenever the grant is.
    circumstances: Option<&'p Circumstances>,
}

impl<'p> Compiler<'p> {
    fn new(
        policy: &'p Policy,
        index: u32,
        circumstances: Option<&'p Circumstances>,
    ) -> Option<Self> {
        let mut compiler = Self {
            policy,
            index,
            workload: policy.workload_at(index)?,
            trie: policy.rules_of(index)?,
            narrowed: false,
            circumstances,
        };
        let mut narrowed = false;
        compiler.trie.each(&mut |entry| {
            if let Some((rule, _)) = policy.entry(*entry) {
                narrowed |= Verb::ALL.into_iter().any(|v| rule.may_deny_all(v));
            }
        });
        compiler.narrowed = narrowed;
        Some(compiler)
    }

    fn counts(&self, rule: &Rule) -> bool {
        self.circumstances.is_none_or(|c| rule.counts(c))
    }

    /// Whether a rule is a grant here: now, or at some time.
    fn allows(&self, rule: &Rule, verb: Verb) -> bool {
        rule.may_allow(verb) && self.counts(rule)
    }

    /// Whether it is a grant whenever `held` is one.
    fn allows_with(&self, rule: &Rule, verb: Verb, held: &Rule) -> bool {
        self.allows(rule, verb) && (self.circumstances.is_some() || rule.counts_with(held))
    }

    /// Whether it denies every user: now, or at some time.
    fn denies(&self, rule: &Rule, verb: Verb) -> bool {
        rule.may_deny_all(verb) && self.counts(rule)
    }

    /// Whether it denies every user: now, or always.
    fn denies_surely(&self, rule: &Rule, verb: Verb) -> bool {
        match self.circumstances {
            Some(c) => rule.may_deny_all(verb) && rule.counts(c),
            None => rule.denies_always(verb),
        }
    }

    /// Compiles, and tells `report` of every grant that cannot be expressed.
    fn compile(&self, report: &mut dyn FnMut(Entry, Problem)) -> Lists {
        let mut lists = Lists::base(self.workload);
        lists.discovery(self.policy, self.workload);
        for held in self.held() {
            lists.for_rule(held.entry.rule);
            match held.verb {
                Verb::Publish | Verb::Request | Verb::Append => {
                    lists.publish(held.pattern.to_nats());
                }
                Verb::Subscribe => lists.subscribe(held.pattern.to_nats(), self.workload),
                Verb::Serve => {
                    lists.queue(&held.pattern.to_nats(), self.workload);
                    self.reply_rights(held, &mut lists);
                }
                // Names are literal, so nothing is left to narrow or close.
                Verb::Consume => lists.consume(self.policy, self.workload, held.pattern),
                Verb::Manage => lists.manage(self.policy, held.pattern),
                Verb::Read => self.read(held, &mut lists, report),
                Verb::Write => self.write(held, &mut lists),
            }
            if held.verb.about() == About::Subjects {
                self.narrow(held, &mut lists, report);
                self.close_open_end(held, &mut lists, report);
            }
        }
        lists
    }

    /// The effective grants, by rule id and pattern.
    fn held(&self) -> Vec<Held<'p>> {
        let mut out = Vec::new();
        self.trie.each(&mut |entry| {
            if let Some((rule, pattern)) = self.policy.entry(*entry) {
                for verb in rule.verbs.iter().filter(|v| self.allows(rule, *v)) {
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
            lists.publish(format!("{inbox}.>"));
        }
    }

    /// The grants of `verb` that give some of `tokens`, by rule id.
    fn holders(&self, verb: Verb, tokens: &[PatternToken]) -> Vec<Held<'p>> {
        let mut out = Vec::new();
        self.trie.overlaps(tokens, &mut |entry| {
            if let Some((rule, pattern)) = self.policy.entry(*entry)
                && self.allows(rule, verb)
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

    /// Whether one grant of `verb` gives all of `tokens` whenever `held` counts,
    /// nothing denied.
    fn holds_all(&self, verb: Verb, tokens: &[PatternToken], held: &Rule) -> bool {
        let (mut all, mut denied) = (false, false);
        self.trie.overlaps(tokens, &mut |entry| {
            if let Some((rule, on)) = self.policy.entry(*entry) {
                all |= self.allows_with(rule, verb, held) && shape::contains(on.tokens(), tokens);
                denied |= self.denies(rule, verb);
            }
        });
        all && !denied
    }

    /// Whether one unconditional deny rule takes all of `tokens` from a workload,
    /// whatever may change. Of others it is not known from where they connect.
    fn is_void(&self, workload: u32, verb: Verb, tokens: &[PatternToken]) -> bool {
        let own = workload == self.index;
        if own && !self.narrowed {
            return false;
        }
        let mut void = false;
        if let Some(trie) = self.policy.rules_of(workload) {
            trie.overlaps(tokens, &mut |entry| {
                if let Some((rule, on)) = self.policy.entry(*entry) {
                    let denies = if own {
                        self.denies_surely(rule, verb)
                    } else {
                        rule.denies_always(verb)
                    };
                    void |= denies && shape::contains(on.tokens(), tokens);
                }
            });
        }
        void
    }

    /// Whether one unconditional deny rule takes, or may take, all of `tokens`
    /// from this workload.
    fn is_taken(&self, verb: Verb, tokens: &[PatternToken]) -> bool {
        let mut taken = false;
        if self.narrowed {
            self.trie.overlaps(tokens, &mut |entry| {
                if let Some((rule, on)) = self.policy.entry(*entry) {
                    taken |= self.denies(rule, verb) && shape::contains(on.tokens(), tokens);
                }
            });
        }
        taken
    }
}

/// The verbs that nats-server cannot tell from this one.
pub(crate) const fn siblings(verb: Verb) -> &'static [Verb] {
    match verb {
        Verb::Publish => &[Verb::Request, Verb::Append],
        Verb::Request => &[Verb::Publish, Verb::Append],
        Verb::Append => &[Verb::Publish, Verb::Request],
        Verb::Subscribe => &[Verb::Serve],
        Verb::Serve => &[Verb::Subscribe],
        Verb::Consume | Verb::Read | Verb::Write | Verb::Manage => &[],
    }
}

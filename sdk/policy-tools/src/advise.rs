//! Grants that nobody used (POL-175 to POL-178).
//!
//! Processes count the uses of their own grants and tell the counts, so that a grant
//! is unused in a window if its workload reported in it and the grant is in no
//! report. Of a workload that reported nothing, nothing is known.

use std::collections::{BTreeMap, BTreeSet};

use bulla_identity::UnixMillis;
use bulla_policy::{Effect, Policy, RuleUse, Verb};

/// Collects what processes told.
#[derive(Debug, Default)]
pub struct Advisor {
    used: BTreeMap<(String, String, String, String), Used>,
    seen: BTreeMap<String, (UnixMillis, UnixMillis)>,
    uncounted: BTreeSet<String>,
}

/// The use of one grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// How often.
    pub count: u64,
    /// When that was last told.
    pub last: UnixMillis,
}

/// What is to be said about a policy's grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// Grants that were used.
    pub used: u64,
    /// Grants of workloads that reported, which were not.
    pub unused: Vec<Unused>,
    /// Workloads with grants that reported nothing: nothing is known of theirs.
    pub silent: Vec<String>,
    /// Grants whose use no process counts: nats-server alone sees it.
    pub uncountable: u64,
    /// Workloads some of whose uses were not counted one by one: what is called
    /// unused of theirs may have been used.
    pub uncounted: Vec<String>,
}

/// A grant that was not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unused {
    /// The rule.
    pub rule: String,
    /// Its line in the policy.
    pub line: u32,
    /// Whose grant.
    pub workload: String,
    /// The verb.
    pub verb: String,
    /// The pattern.
    pub pattern: String,
    /// Whether nothing else of this rule was used either, by anybody.
    pub whole_rule: bool,
}

impl Advisor {
    /// Takes a report of a workload's process.
    pub fn uses(&mut self, workload: &str, at: UnixMillis, rules: &[RuleUse], uncounted: u64) {
        self.heard(workload, at);
        if uncounted > 0 {
            self.uncounted.insert(workload.to_owned());
        }
        for used in rules {
            let key = (
                used.workload.clone(),
                used.rule.clone(),
                used.verb.clone(),
                used.pattern.clone(),
            );
            let known = self.used.entry(key).or_insert(Used { count: 0, last: at });
            known.count = known.count.saturating_add(used.count);
            known.last = known.last.max(at);
        }
    }

    /// A process of this workload wrote anything then: it was there, and what it used
    /// it would have told.
    pub fn heard(&mut self, workload: &str, at: UnixMillis) {
        let seen = self.seen.entry(workload.to_owned()).or_insert((at, at));
        *seen = (seen.0.min(at), seen.1.max(at));
    }

    /// Compares it with a policy.
    #[must_use]
    pub fn advise(&self, policy: &Policy) -> Advice {
        let mut advice = Advice {
            used: 0,
            unused: Vec::new(),
            silent: Vec::new(),
            uncountable: 0,
            uncounted: self.uncounted.iter().cloned().collect(),
        };
        let used_rules: BTreeSet<&str> = self.used.keys().map(|(_, rule, ..)| &**rule).collect();
        for workload in policy.workloads() {
            let name = workload.name().as_str();
            let grants = policy
                .grants(workload.id())
                // What no text says, Bulla brings along by itself.
                .filter(|grant| grant.effect == Effect::Allow && !grant.rule.starts_with('('));
            if !self.seen.contains_key(name) {
                if grants.count() > 0 {
                    advice.silent.push(name.to_owned());
                }
                continue;
            }
            for grant in grants {
                if !is_counted(grant.verb) {
                    advice.uncountable += 1;
                    continue;
                }
                let key = (
                    name.to_owned(),
                    grant.rule.to_owned(),
                    grant.verb.as_str().to_owned(),
                    grant.pattern.to_string(),
                );
                if self.used.contains_key(&key) {
                    advice.used += 1;
                    continue;
                }
                advice.unused.push(Unused {
                    rule: grant.rule.to_owned(),
                    line: grant.line,
                    workload: name.to_owned(),
                    verb: grant.verb.as_str().to_owned(),
                    pattern: grant.pattern.to_string(),
                    whole_rule: !used_rules.contains(grant.rule),
                });
            }
        }
        advice.unused.sort();
        advice
    }

    /// How often a grant was used, and when last.
    #[must_use]
    pub fn use_of(&self, workload: &str, rule: &str, verb: &str, pattern: &str) -> Option<Used> {
        let key = (
            workload.to_owned(),
            rule.to_owned(),
            verb.to_owned(),
            pattern.to_owned(),
        );
        self.used.get(&key).copied()
    }
}

/// Whether a process that uses it counts it: what goes through the SDK. A bucket is
/// read and written by whatever client a workload likes.
const fn is_counted(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Publish
            | Verb::Subscribe
            | Verb::Request
            | Verb::Serve
            | Verb::Append
            | Verb::Consume
    )
}

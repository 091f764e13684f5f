//! A loaded policy: immutable, indexed, shareable between threads.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::{
    Claims, Nkey, Subject, SubjectPattern, TrustDomain, UnixMillis, WorkloadId, WorkloadName,
    WorkloadTag, reserved,
};
use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

use crate::bucket::Bucket;
use crate::check;
use crate::error::{PolicyErrors, Sink};
use crate::exchange;
use crate::parse::{self, MAX_POLICY_BYTES, Parsed, PrivateSpec, SubjectSpec};
use crate::permissions;
use crate::problem::{AttestProblem, Problem};
use crate::requirements::{Audiences, Chain, DEFAULT_MAX_AGE, Requirements, Stated};
use crate::rule::{Rule, Verb};
use crate::source::{self, Place};
use crate::stream::{Consumer, Stream};
use crate::token_issuer::TokenProof;
use crate::trie::Trie;
use crate::warning::Warning;

mod buckets;
mod ever;
mod private;
mod streams;
mod workload;

pub use workload::{Grant, Workload};

/// A policy, checked and compiled.
///
/// Equal texts give equal policies; nothing about one changes after it loaded.
pub struct Policy {
    trust_domain: TrustDomain,
    hash: [u8; 32],
    workloads: Vec<Workload>,
    by_id: FxHashMap<WorkloadId, u32>,
    by_name: HashMap<WorkloadName, u32>,
    by_tag: HashMap<WorkloadTag, u32>,
    by_nkey: HashMap<Nkey, u32>,
    /// Sorted by id. Denials share them.
    pub(crate) rules: Arc<[Rule]>,
    /// Those that do not count always, or not for every client.
    timed: Vec<u32>,
    /// Per workload, the rules that name it, by their patterns.
    index: Vec<Trie<Entry>>,
    subjects: Trie<Stated>,
    /// The same, by pattern.
    pub(crate) entries: Vec<StatedEntry>,
    /// Sorted; their places are what [`Audiences`] counts.
    audiences: Vec<Arc<str>>,
    /// Sorted by name.
    private: Vec<PrivateSpec>,
    /// Who may, on some condition, request what.
    pub(crate) requesters: Trie<(u32, Entry)>,
    warnings: Vec<Warning>,
    /// Sorted by name.
    streams: Vec<Stream>,
    stored: Trie<u32>,
    /// Sorted by stream and name.
    consumers: Vec<Consumer>,
    /// Sorted by name.
    buckets: Vec<Bucket>,
    longest_max_age: Duration,
    /// Where chains are proven.
    proven: Vec<SubjectPattern>,
}

/// One pattern of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    pub(crate) rule: u32,
    pub(crate) pattern: u32,
}

/// A `[subject]` entry.
#[derive(Debug, Clone)]
pub(crate) struct StatedEntry {
    pub(crate) pattern: SubjectPattern,
    pub(crate) place: Place,
    pub(crate) stated: Stated,
}

impl Policy {
    /// Reads, checks and compiles a policy: the text of one file, or what
    /// [`join_sources`](crate::join_sources) made of several. `name` only names
    /// it in errors.
    ///
    /// ```
    /// # use bulla_policy::Policy;
    /// let errors = Policy::parse("shop.toml", "version = 2").unwrap_err();
    /// let first = &errors.errors()[0];
    /// assert_eq!((first.line(), first.column()), (1, 1));
    /// # assert_eq!(errors.errors().len(), 2);
    /// ```
    ///
    /// # Errors
    /// [`PolicyErrors`] holds every error of the text, not only the first.
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyErrors> {
        Self::read(name, text, |_, _, _| ()).map(|(policy, ())| policy)
    }

    /// Reads a policy, and lets `look` see what it was read from; what it answers
    /// counts only if the policy loads.
    pub(crate) fn read<T>(
        name: &str,
        text: &str,
        look: impl FnOnce(&Parsed, &[Warning], &Sink<'_>) -> T,
    ) -> Result<(Self, T), PolicyErrors> {
        if text.len() > MAX_POLICY_BYTES {
            // Before anything is made of it.
            let mut sink = Sink::new("");
            let problem = Problem::TooLarge {
                limit: MAX_POLICY_BYTES,
                actual: text.len(),
            };
            sink.report(&(0..0), problem);
            return Err(sink.finish(name));
        }
        let sources = source::split(name, text);
        let mut sink = Sink::of(&sources);
        source::check_names(&sources, &mut sink);
        let mut parsed = parse::parse(&sources, &mut sink);
        exchange::add_rules(&mut parsed);
        check::subjects(&parsed, &mut sink);
        check::replay(&parsed, &mut sink);
        check::streams(&parsed, &mut sink);
        check::buckets(&parsed, &mut sink);
        check::networks(&parsed, &mut sink);
        check::readers(&parsed, &mut sink);
        let warnings = check::warnings(&parsed);
        let seen = sink.is_empty().then(|| look(&parsed, &warnings, &sink));
        let hash = Sha256::digest(text.as_bytes()).into();
        let spans = permissions::Spans::of(&parsed);
        let policy = Self::build(parsed, hash, &mut sink);
        if let Some(policy) = &policy {
            permissions::check(policy, &spans, &mut sink);
        }
        match (policy, seen) {
            (Some(policy), Some(seen)) if sink.is_empty() => {
                Ok((Self { warnings, ..policy }, seen))
            }
            _ => Err(sink.finish(name)),
        }
    }

    /// The same for several files, each with its name.
    ///
    /// # Errors
    /// As [`Policy::parse`], and if the files cannot be put together.
    pub fn parse_all(name: &str, files: &[(&str, &str)]) -> Result<Self, PolicyErrors> {
        Self::parse(name, &source::join(files)?)
    }

    fn build(parsed: Parsed, hash: [u8; 32], sink: &mut Sink<'_>) -> Option<Self> {
        let trust_domain = parsed.trust_domain?;
        let mut policy = Self {
            trust_domain,
            hash,
            workloads: Vec::new(),
            by_id: FxHashMap::default(),
            by_name: HashMap::new(),
            by_tag: HashMap::new(),
            by_nkey: HashMap::new(),
            rules: Arc::default(),
            timed: Vec::new(),
            index: Vec::new(),
            subjects: Trie::default(),
            entries: Vec::new(),
            audiences: parsed.audiences.into_iter().map(Arc::from).collect(),
            private: parsed.private,
            requesters: Trie::default(),
            warnings: Vec::new(),
            streams: Vec::new(),
            stored: Trie::default(),
            consumers: Vec::new(),
            buckets: parsed.buckets.into_iter().map(|spec| spec.bucket).collect(),
            longest_max_age: DEFAULT_MAX_AGE,
            proven: Vec::new(),
        };
        let mut proofs: HashMap<(String, Box<str>), u32> = HashMap::new();
        for (spec, index) in parsed.workloads.into_iter().zip(0u32..) {
            let id = WorkloadId::new(&policy.trust_domain, &spec.name);
            let tag = id.tag();
            if let Some(other) = policy.by_tag.insert(tag, index) {
                let other = policy.workload_at(other).map(|w| w.name.to_string());
                let problem = Problem::TagCollision {
                    name: spec.name.to_string(),
                    other: other.unwrap_or_default(),
                };
                sink.report(&spec.span, problem);
            }
            policy.by_id.insert(id.clone(), index);
            let mut brokers_vouch = false;
            policy.by_name.insert(spec.name.clone(), index);
            for nkey in &spec.attestors.nkeys {
                policy.by_nkey.insert(*nkey, index);
            }
            let mut tokens = Vec::new();
            for token in spec.attestors.tokens {
                let subject = token.subject.unwrap_or_else(|| id.as_str().into());
                // Whatever else it says: it is one account of one issuer, which two
                // names may stand for.
                let account = (token.issuer.issuer().to_owned(), subject.clone());
                let taken = proofs.insert(account, index);
                if let Some(other) = taken.filter(|other| *other != index) {
                    let owner = policy.workload_at(other).map(|w| w.name.to_string());
                    let owner = owner.unwrap_or_default();
                    sink.report(&token.span, AttestProblem::ProofTwice { owner }.into());
                }
                brokers_vouch |= token.vouches;
                tokens.push(TokenProof {
                    issuer: token.issuer,
                    subject,
                    claims: token.claims.into(),
                });
            }
            policy.index.push(Trie::default());
            policy.workloads.push(Workload {
                name: spec.name,
                id,
                tag,
                nkeys: spec.attestors.nkeys,
                vouching: spec.attestors.vouching,
                authorities: spec.attestors.authorities,
                tokens,
                brokers_vouch,
                networks: spec.networks,
                protocols: spec.protocols,
                mints: spec.mints,
                reach: spec.reach,
                exchanges: spec.exchanges,
                starts: spec.starts,
                discoverable: spec.discoverable,
                discovers: spec.discovers,
            });
        }
        for spec in &parsed.subjects {
            policy.subjects.insert(spec.pattern.tokens(), spec.stated);
            policy.entries.push(StatedEntry {
                pattern: spec.pattern.clone(),
                place: spec.place.clone(),
                stated: spec.stated,
            });
        }
        policy.proven = proven(&parsed.subjects);
        let ages = parsed.subjects.iter().filter_map(|s| s.stated.max_age);
        policy.longest_max_age = ages.max().unwrap_or_default().max(DEFAULT_MAX_AGE);
        policy.add_streams(parsed.streams, &parsed.subjects);
        let mut rules = Vec::with_capacity(parsed.rules.len());
        for (spec, rule) in parsed.rules.into_iter().zip(0u32..) {
            for (pattern, at) in spec.rule.on.iter().zip(0u32..) {
                let entry = Entry { rule, pattern: at };
                for workload in &spec.rule.who {
                    if let Some(trie) = policy.index.get_mut(*workload as usize) {
                        trie.insert(pattern.tokens(), entry);
                    }
                    if spec.rule.may_allow(Verb::Request) {
                        policy
                            .requesters
                            .insert(pattern.tokens(), (*workload, entry));
                    }
                }
            }
            if spec.rule.when.is_some() {
                policy.timed.push(rule);
            }
            rules.push(spec.rule);
        }
        policy.rules = rules.into();
        policy.consumers = policy.granted_consumers();
        Some(policy)
    }

    /// The trust domain that every workload of this policy belongs to.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// SHA-256 of the policy's text.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Every workload, by name.
    #[must_use]
    pub fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// The workload with this short name.
    #[must_use]
    pub fn workload(&self, name: &WorkloadName) -> Option<&Workload> {
        self.workload_at(*self.by_name.get(name)?)
    }

    /// The workload with this SPIFFE ID.
    #[must_use]
    pub fn workload_by_id(&self, id: &WorkloadId) -> Option<&Workload> {
        self.workload_at(self.index_of(id)?)
    }

    /// The workload with this tag.
    #[must_use]
    pub fn workload_by_tag(&self, tag: WorkloadTag) -> Option<&Workload> {
        self.workload_at(*self.by_tag.get(&tag)?)
    }

    /// The workload that this public key belongs to.
    #[must_use]
    pub fn workload_by_nkey(&self, nkey: &Nkey) -> Option<&Workload> {
        self.workload_at(*self.by_nkey.get(nkey)?)
    }

    /// Its rules, by id.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule with this id.
    #[must_use]
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        let at = self
            .rules
            .binary_search_by(|rule| (*rule.id).cmp(id))
            .ok()?;
        self.rules.get(at)
    }

    /// The workloads that one of its rules is about, by name.
    pub fn workloads_of<'p>(&'p self, rule: &'p Rule) -> impl Iterator<Item = &'p Workload> {
        rule.who.iter().filter_map(|who| self.workload_at(*who))
    }

    /// When, after `now`, time alone next changes what some workload may do, or
    /// would if nothing were in shadow.
    #[must_use]
    pub fn next_change(&self, now: UnixMillis) -> Option<UnixMillis> {
        let timed = self
            .timed
            .iter()
            .filter_map(|rule| self.rules.get(*rule as usize));
        timed
            .filter_map(|rule| rule.when.as_ref()?.next_change(now))
            .min()
    }

    /// The same for what nats-server permits one workload.
    #[must_use]
    pub fn next_change_of(&self, workload: &WorkloadId, now: UnixMillis) -> Option<UnixMillis> {
        let index = self.index_of(workload)?;
        let timed = self
            .timed
            .iter()
            .filter_map(|rule| self.rules.get(*rule as usize));
        timed
            .filter(|rule| !rule.shadow && rule.who.binary_search(&index).is_ok())
            .filter_map(|rule| rule.when.as_ref()?.next_change(now))
            .min()
    }

    /// Whether what nats-server permits this workload depends on anything but
    /// its name: on when, or on from where it connects.
    #[must_use]
    pub fn depends_on_circumstances(&self, workload: &WorkloadId) -> bool {
        let timed = self
            .timed
            .iter()
            .filter_map(|rule| self.rules.get(*rule as usize));
        self.index_of(workload).is_some_and(|index| {
            timed
                .filter(|rule| !rule.shadow)
                .any(|rule| rule.who.binary_search(&index).is_ok())
        })
    }

    /// The ids of its rules, in order.
    pub fn rule_ids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.rules.iter().map(|r| &*r.id)
    }

    /// What is worth a second look, by line.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What `subject` demands of every message: of each key the most
    /// protective value among the entries that match (POL-22).
    #[must_use]
    pub fn requirements(&self, subject: &Subject) -> Requirements {
        if subject.as_str() == reserved::EXCHANGE {
            return exchange::REQUIREMENTS;
        }
        let mut stated = Stated::default();
        self.subjects
            .matches(subject.as_str(), &mut |s| stated = stated.and(*s));
        stated.or_default()
    }

    /// The `[subject]` entries that say what `subject` demands: each one's pattern
    /// and where it stands. None where the demands are fixed.
    pub fn entries_for(
        &self,
        subject: &Subject,
    ) -> impl Iterator<Item = (&SubjectPattern, &Place)> {
        let stated = subject.as_str() != reserved::EXCHANGE;
        self.entries
            .iter()
            .filter(move |entry| stated && entry.pattern.matches(subject))
            .map(|entry| (&entry.pattern, &entry.place))
    }

    /// The names of audiences, sorted.
    pub fn audience_names(&self, audiences: Audiences) -> impl Iterator<Item = &str> {
        let names = audiences
            .places()
            .filter_map(|place| self.audiences.get(place));
        names.map(|name| &**name)
    }

    /// The first of these audiences that a user's token does not reach. One
    /// that is not known is not reached.
    pub(crate) fn out_of_reach(&self, audiences: Audiences, user: &Claims) -> Option<Arc<str>> {
        let mut names = audiences.places().map(|place| self.audiences.get(place));
        let missed = names.find(|name| name.is_none_or(|name| !user.reaches(name)))?;
        Some(missed.cloned().unwrap_or_else(|| "?".into()))
    }

    /// Everything that the rules say about `workload`, by rule id.
    pub fn grants(&self, workload: &WorkloadId) -> impl Iterator<Item = Grant<'_>> {
        let index = self.index_of(workload);
        self.rules
            .iter()
            .filter(move |r| index.is_some_and(|i| r.who.binary_search(&i).is_ok()))
            .flat_map(|rule| {
                rule.verbs.iter().flat_map(move |verb| {
                    rule.on.iter().map(move |pattern| Grant {
                        rule: &rule.id,
                        line: rule.place.line,
                        place: &rule.place,
                        effect: rule.effect,
                        verb,
                        pattern,
                        conditional: rule.user.is_some(),
                    })
                })
            })
    }

    pub(crate) fn index_of(&self, id: &WorkloadId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn workload_at(&self, index: u32) -> Option<&Workload> {
        self.workloads.get(index as usize)
    }

    pub(crate) fn rules_of(&self, workload: u32) -> Option<&Trie<Entry>> {
        self.index.get(workload as usize)
    }

    /// The rule and the pattern that an index entry stands for.
    pub(crate) fn entry(&self, entry: Entry) -> Option<(&Rule, &SubjectPattern)> {
        let rule = self.rules.get(entry.rule as usize)?;
        Some((rule, rule.on.get(entry.pattern as usize)?))
    }
}

/// The patterns on which chains are proven.
fn proven(entries: &[SubjectSpec]) -> Vec<SubjectPattern> {
    entries
        .iter()
        .filter(|entry| entry.stated.chain == Some(Chain::Proven))
        .map(|entry| entry.pattern.clone())
        .collect()
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("trust_domain", &self.trust_domain)
            .field("workloads", &self.workloads.len())
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}

//! Who may ever do what, and so who receives it: the users, and most often the time
//! and the networks, left out of the question (POL-54).

use bulla_identity::{Subject, UnixMillis, WorkloadId};

use super::{Policy, Workload};
use crate::circumstances::Standing;
use crate::rule::{Effect, Verb};

impl Policy {
    /// Whether some user, or none, lets `workload` do this at some time from some
    /// network: what nats-server permits at most.
    #[must_use]
    pub fn may_ever(&self, workload: &WorkloadId, verb: Verb, subject: &Subject) -> bool {
        self.index_of(workload)
            .is_some_and(|w| self.may_ever_at(w, verb, subject, None))
    }

    /// Whether `workload` may ever send where chains are proven, so that it has to
    /// keep what proves the chain of what it receives.
    #[must_use]
    pub fn proves_chains(&self, workload: &WorkloadId) -> bool {
        !self.proven.is_empty()
            && self.grants(workload).any(|grant| {
                grant.effect == Effect::Allow
                    && matches!(grant.verb, Verb::Publish | Verb::Request | Verb::Append)
                    && self.proven.iter().any(|p| p.overlaps(grant.pattern))
            })
    }

    /// Whether `workload` may ever receive what is sent with `verb` on `subject`,
    /// as [`Policy::recipients`] says.
    #[must_use]
    pub fn may_receive(&self, workload: &WorkloadId, verb: Verb, subject: &Subject) -> bool {
        self.index_of(workload)
            .is_some_and(|index| self.receives(index, verb, subject, None))
    }

    /// The workloads that may ever serve `subject`, by name.
    pub fn servers_of<'p>(&'p self, subject: &Subject) -> impl Iterator<Item = &'p Workload> {
        self.who_may_ever(Verb::Serve, subject)
    }

    /// The workloads that may receive, now or later, what is sent now with
    /// `verb` on `subject`, by name: who may subscribe, for `publish`; who may
    /// serve, for `request`; who may consume the stream or subscribe, for
    /// `append`. Nobody receives by a verb of receiving. Whose time of the week
    /// it is not may read it when it is; whose rule has expired may not.
    pub fn recipients<'p>(
        &'p self,
        verb: Verb,
        subject: &Subject,
        now: UnixMillis,
    ) -> impl Iterator<Item = &'p Workload> {
        self.workloads
            .iter()
            .zip(0u32..)
            .filter(move |(_, index)| self.receives(*index, verb, subject, Some(now)))
            .map(|(workload, _)| workload)
    }

    fn receives(
        &self,
        workload: u32,
        verb: Verb,
        subject: &Subject,
        now: Option<UnixMillis>,
    ) -> bool {
        let receiving = match verb {
            Verb::Publish | Verb::Append => Some(Verb::Subscribe),
            Verb::Request => Some(Verb::Serve),
            Verb::Subscribe
            | Verb::Serve
            | Verb::Consume
            | Verb::Read
            | Verb::Write
            | Verb::Manage => None,
        };
        receiving.is_some_and(|verb| self.may_ever_at(workload, verb, subject, now))
            || (verb == Verb::Append
                && self
                    .stream_of(subject)
                    .is_some_and(|stream| self.consumes(workload, stream, now)))
    }

    /// The workloads that may ever do this, by name.
    pub fn who_may_ever<'p>(
        &'p self,
        verb: Verb,
        subject: &Subject,
    ) -> impl Iterator<Item = &'p Workload> {
        self.workloads
            .iter()
            .zip(0u32..)
            .filter(move |(_, index)| self.may_ever_at(*index, verb, subject, None))
            .map(|(workload, _)| workload)
    }

    /// Whether it may ever do this, from `since` on if that is given.
    pub(super) fn may_ever_at(
        &self,
        workload: u32,
        verb: Verb,
        subject: &Subject,
        since: Option<UnixMillis>,
    ) -> bool {
        let (mut allowed, mut denied) = (false, false);
        if let Some(trie) = self.rules_of(workload) {
            trie.matches(subject.as_str(), &mut |entry| {
                if let Some(rule) = self.rules.get(entry.rule as usize) {
                    let is_over = |now| rule.standing(now) == Standing::Expired;
                    allowed |= rule.may_allow(verb) && !since.is_some_and(is_over);
                    denied |= rule.denies_always(verb);
                }
            });
        }
        allowed && !denied
    }
}

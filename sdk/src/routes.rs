//! What is known of the subjects that this process sends to, so that one more
//! message to a subject costs no text, no parsing and no decision of its own.
//!
//! A decision is remembered only for messages without a user, or where it is the
//! same for every user (POL-56), and only for the state of policy and trust under
//! which it was taken: a route of another state is never used. What it depended on
//! is the workload (one for each process), the verb, the subject and that state,
//! and of the time until when the permit itself says.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};
use bulla_identity::{Subject, UnixMillis, WorkloadId};
use bulla_policy::{Permit, Requirements, Verb};
use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::audit::Tally;
use crate::control::Control;
use crate::error::SendError;
use crate::vault::LastKey;

/// Shards, so that tasks which send at the same time do not wait for each other.
const SHARDS: usize = 16;
/// Subjects that a shard remembers; then it forgets them all and begins anew,
/// which costs each the work that is saved here, once.
const ROUTES_PER_SHARD: usize = 512;

/// A subject that is sent to, and what the policy says of it.
pub(crate) struct Route {
    pub(crate) subject: Subject,
    /// The same for the NATS client.
    pub(crate) nats: async_nats::Subject,
    pub(crate) requirements: Requirements,
    pub(crate) revision: u64,
    /// The state of policy and trust that this was true of.
    generation: u64,
    publish: Sent,
    request: Sent,
    append: Sent,
    /// That its last reply's sender may serve it.
    served: ArcSwapOption<(WorkloadId, Permit)>,
}

/// Who served it last, and that he may.
pub(crate) type Served = Guard<Option<Arc<(WorkloadId, Permit)>>>;

/// What is remembered of messages with one verb.
#[derive(Default)]
struct Sent {
    /// Of those without a user, or of all.
    permit: OnceLock<Permit>,
    key: LastKey,
    /// The uses of the grant that the first of them had.
    tally: OnceLock<Option<Arc<Tally>>>,
}

impl Route {
    pub(crate) fn new(
        subject: Subject,
        requirements: Requirements,
        revision: u64,
        generation: u64,
    ) -> Self {
        Self {
            nats: subject.as_str().into(),
            subject,
            requirements,
            revision,
            generation,
            publish: Sent::default(),
            request: Sent::default(),
            append: Sent::default(),
            served: ArcSwapOption::const_empty(),
        }
    }

    /// Whether what it says holds now.
    pub(crate) fn is_current(&self, control: &Control) -> bool {
        self.generation == control.generation()
    }

    /// The permit of an earlier message with this verb, if it still counts for this one,
    /// with a user or without.
    pub(crate) fn permit(&self, verb: Verb, has_user: bool, now: UnixMillis) -> Option<&Permit> {
        let permit = self.sent(verb)?.permit.get();
        permit.filter(|permit| now < permit.until() && (!has_user || permit.is_for_anybody()))
    }

    /// The permit of an earlier reply by this workload, if it still counts whoever asks.
    pub(crate) fn served(&self, by: &WorkloadId, now: UnixMillis) -> Option<Served> {
        let served = self.served.load();
        let counts =
            |(workload, permit): &(WorkloadId, Permit)| workload == by && now < permit.until();
        served.as_deref().is_some_and(counts).then_some(served)
    }

    /// Remembers the permit of a reply, where it is the same for every user.
    pub(crate) fn remember_served(&self, by: &WorkloadId, permit: Permit) {
        if permit.is_for_anybody() {
            self.served.store(Some(Arc::new((by.clone(), permit))));
        }
    }

    /// The data key of the last message with this verb.
    pub(crate) fn last_key(&self, verb: Verb) -> &LastKey {
        self.sent(verb).map_or(&self.publish.key, |sent| &sent.key)
    }

    /// Remembers the permit of a message without a user, or one that is the same for all.
    pub(crate) fn remember(&self, verb: Verb, has_user: bool, permit: Permit) {
        if has_user && !permit.is_for_anybody() {
            return;
        }
        if let Some(sent) = self.sent(verb) {
            // Another task was faster: it asked the same.
            let _ = sent.permit.set(permit);
        }
    }

    /// Counts one use of the grant of this rule, and says whether it is one that is
    /// recorded. `find` finds the counter.
    pub(crate) fn count_use(
        &self,
        verb: Verb,
        rule: &str,
        find: impl Fn() -> Option<Arc<Tally>>,
    ) -> bool {
        let Some(sent) = self.sent(verb) else {
            return false;
        };
        match sent.tally.get_or_init(&find) {
            None => false,
            Some(tally) if tally.is_of(rule) => {
                tally.count();
                tally.is_due()
            }
            // Another user, another rule.
            Some(_) => find().is_some_and(|tally| {
                tally.count();
                tally.is_due()
            }),
        }
    }

    fn sent(&self, verb: Verb) -> Option<&Sent> {
        match verb {
            Verb::Publish => Some(&self.publish),
            Verb::Request => Some(&self.request),
            Verb::Append => Some(&self.append),
            _ => None,
        }
    }
}

/// Hashed fast, with a seed of the process's own, and without a promise against who
/// looks for subjects that meet: then a look-up compares as many names as there are, of
/// which the bound of the table makes microseconds.
type Shard = HashMap<Box<str>, Arc<Route>, RandomState>;

/// The routes of one client.
#[derive(Default)]
pub(crate) struct Routes {
    shards: [Mutex<Shard>; SHARDS],
}

impl Routes {
    /// What is remembered of a subject, of whatever state.
    pub(crate) fn find(&self, subject: &str) -> Option<Arc<Route>> {
        self.shard(subject)?.lock().get(subject).cloned()
    }

    /// The same route, or a new one if policy or trust have changed.
    pub(crate) fn renew(
        &self,
        route: Arc<Route>,
        control: &Control,
    ) -> Result<Arc<Route>, SendError> {
        if route.is_current(control) {
            return Ok(route);
        }
        self.learn(route.subject.as_str(), control)
    }

    /// The route to a subject under the present state.
    pub(crate) fn learn(&self, subject: &str, control: &Control) -> Result<Arc<Route>, SendError> {
        let parsed = Subject::parse(subject).map_err(|source| SendError::Subject {
            subject: subject.to_owned(),
            source,
        })?;
        // Read before the policy that it names, so that a change in between
        // makes the route stale rather than wrongly fresh.
        let generation = control.generation();
        let policy = control.policy();
        if !policy.is_vouched() {
            return Err(SendError::PolicyUnvouched);
        }
        let requirements = policy.policy().requirements(&parsed);
        let route = Route::new(parsed, requirements, policy.revision(), generation);
        let route = Arc::new(route);
        if let Some(shard) = self.shard(subject) {
            let mut shard = shard.lock();
            if shard.len() >= ROUTES_PER_SHARD && !shard.contains_key(subject) {
                shard.clear();
            }
            shard.insert(subject.into(), Arc::clone(&route));
        }
        Ok(route)
    }

    fn shard(&self, subject: &str) -> Option<&Mutex<Shard>> {
        // Where subjects differ is mostly at their end.
        let end = subject
            .bytes()
            .rev()
            .take(4)
            .map(usize::from)
            .sum::<usize>();
        self.shards.get((end + subject.len()) % SHARDS)
    }
}

//! What a rule says.

use std::fmt;
use std::sync::Arc;

use bulla_identity::{SubjectPattern, UnixMillis};

use crate::circumstances::{Circumstances, Networks, Standing, When};
use crate::condition::Condition;
use crate::schedule::Schedule;
use crate::source::Place;

/// What a workload does with a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Send an event.
    Publish,
    /// Receive events.
    Subscribe,
    /// Send a request and receive its replies.
    Request,
    /// Receive requests, in the workload's own queue group, and reply.
    Serve,
    /// Send an event that a stream stores, and learn that it did.
    Append,
    /// Receive what a stream stored, through a consumer of it; about
    /// `STREAM.CONSUMER`, not about a subject.
    Consume,
    /// Get the value of a bucket's key, and hear of its changes; about
    /// `BUCKET.KEY`.
    Read,
    /// Give a bucket's key a value, or mark it as deleted; about `BUCKET.KEY`.
    Write,
    /// See how full a stream or a bucket is, and how far its consumers have
    /// come; about its name. It changes nothing.
    Manage,
}

/// What a verb is about, and so what the `on` of its rules names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum About {
    /// Subjects of messages.
    Subjects,
    /// Consumers of streams, `STREAM.CONSUMER`.
    Consumers,
    /// Keys of buckets, `BUCKET.KEY`.
    Keys,
    /// Streams and buckets, by their names.
    Stores,
}

impl About {
    /// The word for it in a message.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subjects => "subjects",
            Self::Consumers => "consumers",
            Self::Keys => "keys of buckets",
            Self::Stores => "streams and buckets",
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Verb {
    /// Every verb of this version.
    pub const ALL: [Self; 9] = [
        Self::Publish,
        Self::Subscribe,
        Self::Request,
        Self::Serve,
        Self::Append,
        Self::Consume,
        Self::Read,
        Self::Write,
        Self::Manage,
    ];

    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Request => "request",
            Self::Serve => "serve",
            Self::Append => "append",
            Self::Consume => "consume",
            Self::Read => "read",
            Self::Write => "write",
            Self::Manage => "manage",
        }
    }

    /// What it is about.
    #[must_use]
    pub const fn about(self) -> About {
        match self {
            Self::Publish | Self::Subscribe | Self::Request | Self::Serve | Self::Append => {
                About::Subjects
            }
            Self::Consume => About::Consumers,
            Self::Read | Self::Write => About::Keys,
            Self::Manage => About::Stores,
        }
    }

    /// Whether it is about requests, which a queue group shares among its
    /// members; so that [`Requirements::replay_for`] is asked with it.
    ///
    /// [`Requirements::replay_for`]: crate::Requirements::replay_for
    #[must_use]
    pub const fn is_queued(self) -> bool {
        match self {
            Self::Request | Self::Serve => true,
            Self::Publish
            | Self::Subscribe
            | Self::Append
            | Self::Consume
            | Self::Read
            | Self::Write
            | Self::Manage => false,
        }
    }

    /// The verb that a policy calls `word`.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.as_str() == word)
    }

    const fn bit(self) -> u16 {
        match self {
            Self::Publish => 1,
            Self::Subscribe => 2,
            Self::Request => 4,
            Self::Serve => 8,
            Self::Append => 16,
            Self::Consume => 32,
            Self::Read => 64,
            Self::Write => 128,
            Self::Manage => 256,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct VerbSet(u16);

impl VerbSet {
    pub(crate) const fn contains(self, verb: Verb) -> bool {
        self.0 & verb.bit() != 0
    }

    /// What its verbs are about: that of the first, because a rule whose verbs
    /// are about different things does not load. Nothing if it is empty.
    pub(crate) fn about(self) -> Option<About> {
        self.iter().next().map(Verb::about)
    }

    pub(crate) fn insert(&mut self, verb: Verb) {
        self.0 |= verb.bit();
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |v| self.contains(*v))
    }
}

/// What a rule says; what the engine says is a [`Decision`](crate::Decision).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// `[[allow]]`.
    Allow,
    /// `[[deny]]`: overrides every allow.
    Deny,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// One `[[allow]]` or `[[deny]]`, resolved.
#[derive(Debug)]
pub struct Rule {
    pub(crate) id: Arc<str>,
    pub(crate) place: Place,
    pub(crate) effect: Effect,
    pub(crate) verbs: VerbSet,
    /// Workloads by index, sorted, each once.
    pub(crate) who: Vec<u32>,
    pub(crate) on: Vec<SubjectPattern>,
    pub(crate) user: Option<Condition>,
    /// Boxed, because few rules have one.
    pub(crate) when: Option<Box<When>>,
    pub(crate) break_glass: bool,
    pub(crate) shadow: bool,
}

impl Rule {
    /// Its id, by which decisions and logs name it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Allow or deny.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// The verbs that it is about.
    pub fn verbs(&self) -> impl Iterator<Item = Verb> {
        self.verbs.iter()
    }

    /// The patterns that it is about.
    #[must_use]
    pub fn patterns(&self) -> &[SubjectPattern] {
        &self.on
    }

    /// Whether it has a condition on the user.
    #[must_use]
    pub fn is_conditional(&self) -> bool {
        self.user.is_some()
    }

    /// The claims that its condition on the user tests.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        let tests = self.user.iter().flat_map(|user| user.tests.iter());
        tests.map(|test| &*test.claim)
    }

    /// What its condition on the user asks for, each test in words.
    pub fn tests(&self) -> impl Iterator<Item = String> {
        let tests = self.user.iter().flat_map(|user| user.tests.iter());
        tests.map(ToString::to_string)
    }

    /// From when on it counts no more.
    #[must_use]
    pub fn expires(&self) -> Option<UnixMillis> {
        self.when.as_ref()?.expires
    }

    /// The hours of the week at which it counts; `None` if always.
    #[must_use]
    pub fn hours(&self) -> Option<&Schedule> {
        self.when.as_ref()?.time.as_ref()
    }

    /// The networks for whose clients it counts; `None` if for all.
    #[must_use]
    pub fn networks(&self) -> Option<&Networks> {
        self.when.as_ref()?.network.as_ref()
    }

    /// Whether it is a grant for an emergency.
    #[must_use]
    pub fn is_break_glass(&self) -> bool {
        self.break_glass
    }

    /// Whether it is decided and told, but not enforced.
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// Whether it counts under these circumstances (POL-100 to POL-104), shadow
    /// or not.
    #[must_use]
    pub fn counts(&self, circumstances: &Circumstances) -> bool {
        let Some(when) = &self.when else { return true };
        let is_there = |networks: &Networks| match circumstances.client {
            Some(client) => networks.contain(client),
            // Fail closed.
            None => self.effect == Effect::Deny,
        };
        when.standing(circumstances.now) == Standing::Counts
            && when.network.as_ref().is_none_or(is_there)
    }

    /// How it stands for those who see no network: nats-server has taken care of
    /// that, and a deny rule with one is nats-server's alone.
    pub(crate) fn standing(&self, now: UnixMillis) -> Standing {
        match &self.when {
            None => Standing::Counts,
            Some(when) if when.network.is_some() && self.effect == Effect::Deny => {
                Standing::OutsideTime
            }
            Some(when) => when.standing(now),
        }
    }

    /// A deny that holds whoever the user is, under any circumstances.
    pub(crate) fn denies_always(&self, verb: Verb) -> bool {
        self.may_deny_all(verb) && self.when.is_none()
    }

    /// A deny that holds whoever the user is, under some circumstances.
    pub(crate) fn may_deny_all(&self, verb: Verb) -> bool {
        self.effect == Effect::Deny
            && self.user.is_none()
            && !self.shadow
            && self.verbs.contains(verb)
    }

    /// An allow, whatever its condition on the user and its circumstances.
    pub(crate) fn may_allow(&self, verb: Verb) -> bool {
        self.effect == Effect::Allow && !self.shadow && self.verbs.contains(verb)
    }

    /// Whether it counts whenever `other` does.
    pub(crate) fn counts_with(&self, other: &Self) -> bool {
        self.when.is_none() || self.when == other.when
    }
}

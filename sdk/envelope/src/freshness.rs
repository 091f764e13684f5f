//! Whether what is held may still be gone by: the newest heads say so, for a
//! while. SPEC.md, ENV-105 to ENV-107.
//!
//! ```text
//!            head names what is held, or older ──► confirmed at its time
//! no head ──►                                       │ bound passes without another
//!            head names something newer ──► fetch   ▼
//!                                                  stale: deny
//! ```
//!
//! Two clocks have to agree. The wall clock says how old a head is by its signed
//! time, which an old head fed to a new process cannot get around; a clock that
//! never moves back says how long ago it came, which a wall clock that is set
//! back cannot get around.

use std::time::Duration;

use bulla_identity::{UnixMillis, Verified};

use crate::head::{Comparison, Head, Holdings};

/// For how long what is held may be gone by without a newer head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// What is revoked.
    pub revocations: Duration,
    /// Policy and trust bundle.
    pub policy: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            revocations: Duration::from_secs(60),
            policy: Duration::from_secs(60 * 60),
        }
    }
}

/// Why what is held may not be gone by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// No recent head says that the revocation list is the newest.
    #[error("no recent head confirms what is revoked")]
    Revocations,
    /// No recent head says that policy and trust bundle are the newest.
    #[error("no recent head confirms the policy")]
    Policy,
}

impl Stale {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Revocations => "revocations_stale",
            Self::Policy => "policy_stale",
        }
    }
}

/// What a head told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// How what it names compares with what is held.
    pub bundle: Comparison,
    /// The same of the policy.
    pub policy: Comparison,
    /// The same of the revocation list.
    pub revocations: Comparison,
}

impl Heard {
    fn of(names: &Holdings, held: &Holdings) -> Self {
        let bundle = match names.bundle.cmp(&held.bundle) {
            std::cmp::Ordering::Less => Comparison::Behind,
            std::cmp::Ordering::Equal => Comparison::Same,
            std::cmp::Ordering::Greater => Comparison::Ahead,
        };
        Self {
            bundle,
            policy: names.policy.compare(&held.policy),
            revocations: names.revocations.compare(&held.revocations),
        }
    }

    /// Whether something newer than what is held is to be fetched.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        [self.bundle, self.policy, self.revocations].contains(&Comparison::Ahead)
    }

    /// Whether there are two of one number.
    #[must_use]
    pub fn is_contradiction(&self) -> bool {
        [self.policy, self.revocations].contains(&Comparison::Contradiction)
    }

    fn confirms_policy(&self) -> bool {
        confirms(self.bundle) && confirms(self.policy)
    }
}

const fn confirms(comparison: Comparison) -> bool {
    matches!(comparison, Comparison::Behind | Comparison::Same)
}

/// A head that confirmed, and when it came by the clock that never moves back.
#[derive(Debug, Clone, Copy)]
struct Confirmed {
    time: UnixMillis,
    came: Duration,
}

/// Judges whether what is held may be gone by. It is told both clocks: `now`,
/// and `tick`, the time since some moment of this process.
#[derive(Debug, Clone)]
pub struct Freshness {
    bounds: Bounds,
    skew: Duration,
    revocations: Option<Confirmed>,
    policy: Option<Confirmed>,
    /// The newest head, which may confirm what is fetched because of it.
    newest: Option<(Head, Duration)>,
}

impl Freshness {
    /// Nothing is confirmed yet.
    #[must_use]
    pub const fn new(bounds: Bounds, skew: Duration) -> Self {
        Self {
            bounds,
            skew,
            revocations: None,
            policy: None,
            newest: None,
        }
    }

    /// Takes a head. A replayed or older one confirms nothing that a newer one
    /// has not.
    pub fn hear(&mut self, head: &Verified<Head>, held: &Holdings, tick: Duration) -> Heard {
        let is_newest = self
            .newest
            .as_ref()
            .is_none_or(|(newest, _)| newest.time < head.time);
        if is_newest {
            self.newest = Some((Head::clone(head), tick));
        }
        self.confirm(head, held, tick)
    }

    /// What is held has changed: the newest head may confirm it now.
    pub fn reconsider(&mut self, held: &Holdings) -> Option<Heard> {
        let (head, came) = self.newest.clone()?;
        Some(self.confirm(&head, held, came))
    }

    fn confirm(&mut self, head: &Head, held: &Holdings, came: Duration) -> Heard {
        let heard = Heard::of(&head.names, held);
        let time = head.time;
        let newer = |at: &Option<Confirmed>| at.is_none_or(|at| at.time < time);
        if confirms(heard.revocations) && newer(&self.revocations) {
            self.revocations = Some(Confirmed { time, came });
        }
        if heard.confirms_policy() && newer(&self.policy) {
            self.policy = Some(Confirmed { time, came });
        }
        heard
    }

    /// Whether what is held may be gone by at this moment.
    ///
    /// # Errors
    /// [`Stale`] names what nobody has confirmed lately.
    pub fn check(&self, now: UnixMillis, tick: Duration) -> Result<(), Stale> {
        let Bounds {
            revocations,
            policy,
        } = self.bounds;
        if !self.is_fresh(self.revocations, revocations, now, tick) {
            return Err(Stale::Revocations);
        }
        if !self.is_fresh(self.policy, policy, now, tick) {
            return Err(Stale::Policy);
        }
        Ok(())
    }

    fn is_fresh(
        &self,
        confirmed: Option<Confirmed>,
        bound: Duration,
        now: UnixMillis,
        tick: Duration,
    ) -> bool {
        confirmed.is_some_and(|confirmed| {
            now.saturating_sub(self.skew) <= confirmed.time.saturating_add(bound)
                && tick <= confirmed.came.saturating_add(bound)
        })
    }

    /// Until when [`Freshness::check`] succeeds if no further head comes: by the
    /// wall clock, and by the other one.
    #[must_use]
    pub fn until(&self) -> (UnixMillis, Duration) {
        let Bounds {
            revocations,
            policy,
        } = self.bounds;
        match (self.revocations, self.policy) {
            (Some(r), Some(p)) => {
                let wall = (r.time.saturating_add(revocations)).min(p.time.saturating_add(policy));
                let came = (r.came.saturating_add(revocations)).min(p.came.saturating_add(policy));
                (wall.saturating_add(self.skew), came)
            }
            _ => (UnixMillis::default(), Duration::ZERO),
        }
    }

    /// The time of the newest head; nothing before the first.
    #[must_use]
    pub fn newest(&self) -> Option<UnixMillis> {
        self.newest.as_ref().map(|(head, _)| head.time)
    }
}

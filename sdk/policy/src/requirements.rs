//! What a subject demands of every message on it.

use std::fmt;
use std::time::Duration;

/// The longest life of a message where the policy says nothing: 30 s.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(30);
/// The longest `max_age` that a policy may ask for: 15 min.
///
/// Receivers remember every message id for that long, so it bounds memory.
pub const LONGEST_MAX_AGE: Duration = Duration::from_secs(15 * 60);
/// The shortest `max_age` that a policy may ask for: 1 s, so that ordinary
/// clock skew does not refuse everything.
pub const SHORTEST_MAX_AGE: Duration = Duration::from_secs(1);

/// How messages on a subject are protected, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protect {
    /// By the connection alone: no proven sender, no user.
    Open,
    /// Signed by the sender.
    Signed,
    /// Body and user encrypted to the permitted receivers, then signed.
    Encrypted,
}

impl Protect {
    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Signed => "signed",
            Self::Encrypted => "encrypted",
        }
    }
}

impl fmt::Display for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether messages on a subject carry a user, laxest first.
///
/// [`UserRule::None`] and [`UserRule::Required`] contradict each other: a
/// policy where both meet on one subject does not load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UserRule {
    /// With or without.
    Optional,
    /// Never: a message that carries one is refused, and a sender leaves the
    /// user out.
    None,
    /// Always: a message without one is refused.
    Required,
}

impl UserRule {
    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Optional => "optional",
            Self::None => "none",
            Self::Required => "required",
        }
    }
}

impl fmt::Display for UserRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a receiver keeps a message from running twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Replay {
    /// An exact set of what was seen, per receiving process.
    Window,
}

/// What a subject demands, after every `[subject]` entry that matches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirements {
    /// Protection; `signed` unless an entry says otherwise.
    pub protect: Protect,
    /// The user; `optional` unless an entry says otherwise, always `none` on
    /// an open subject.
    pub user: UserRule,
    /// The longest life of a message; [`DEFAULT_MAX_AGE`] unless an entry says
    /// otherwise.
    pub max_age: Duration,
    /// Protection against replay.
    pub replay: Replay,
}

/// What one `[subject]` entry states; an absent key states nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stated {
    pub(crate) protect: Option<Protect>,
    pub(crate) user: Option<UserRule>,
    pub(crate) max_age: Option<Duration>,
}

impl Stated {
    /// Both at once: of each key the more protective value (POL-22).
    pub(crate) fn and(self, other: Self) -> Self {
        let shorter = match (self.max_age, other.max_age) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self {
            protect: self.protect.max(other.protect),
            user: self.user.max(other.user),
            max_age: shorter,
        }
    }

    pub(crate) fn or_default(self) -> Requirements {
        let protect = self.protect.unwrap_or(Protect::Signed);
        let user = match protect {
            Protect::Open => UserRule::None,
            Protect::Signed | Protect::Encrypted => self.user.unwrap_or(UserRule::Optional),
        };
        Requirements {
            protect,
            user,
            max_age: self.max_age.unwrap_or(DEFAULT_MAX_AGE),
            replay: Replay::Window,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_protective_value_wins_in_any_order() {
        let a = Stated {
            protect: Some(Protect::Encrypted),
            user: None,
            max_age: Some(Duration::from_secs(60)),
        };
        let b = Stated {
            protect: Some(Protect::Open),
            user: Some(UserRule::Required),
            max_age: Some(Duration::from_secs(5)),
        };
        assert_eq!(a.and(b), b.and(a));
        let both = a.and(b).or_default();
        assert_eq!(both.protect, Protect::Encrypted);
        assert_eq!(both.user, UserRule::Required);
        assert_eq!(both.max_age, Duration::from_secs(5));
    }

    #[test]
    fn nothing_said_means_signed_for_thirty_seconds() {
        let silent = Stated::default().or_default();
        assert_eq!(silent.protect, Protect::Signed);
        assert_eq!(silent.user, UserRule::Optional);
        assert_eq!(silent.max_age, DEFAULT_MAX_AGE);
    }
}

//! What a subject demands of every message on it.

use std::fmt;
use std::time::Duration;

/// The longest life of a message where the policy says nothing: 30 s.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(30);
/// The longest `max_age` that a policy may ask for: 15 min.
///
/// Receivers remember every message id for that long, so it bounds memory.
pub const LONGEST_MAX_AGE: Duration = Duration::from_secs(15 * 60);
/// The longest `max_age` where the replay mode is `stream`: 30 days.
///
/// The stream remembers there, so that receivers need not.
pub const LONGEST_STREAM_MAX_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
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

/// With which KEM data keys are wrapped, weakest first.
///
/// A minimum and an instruction: senders use exactly it, receivers refuse a
/// weaker one. It means something only where messages are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// DHKEM(X25519, HKDF-SHA256): classical.
    X25519,
    /// X-Wing: X25519 and ML-KEM-768 together.
    XWing,
}

impl Suite {
    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X25519 => "x25519",
            Self::XWing => "xwing",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// With which cipher bodies are encrypted.
///
/// Neither protects more than the other, so there is no order of them: two entries that
/// name one each and share a subject contradict each other. It means something only
/// where messages are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cipher {
    /// Senders use what their processor does faster, receivers read both.
    Any,
    /// ChaCha20-Poly1305 alone.
    ChaCha20Poly1305,
    /// AES-256-GCM alone.
    Aes256Gcm,
}

impl Cipher {
    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether messages that wait at the same moment may share one NATS message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frames {
    /// Yes, for reply-less core publishes.
    Auto,
    /// Never: what counts NATS messages counts ours.
    Off,
}

impl Frames {
    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What may lie under one signature, most open first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Batch {
    /// Messages on any subjects: a receiver learns how many there were.
    Shared,
    /// Only messages on the same subject.
    PerSubject,
}

impl Batch {
    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerSubject => "per-subject",
        }
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How replies prove themselves, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Replies {
    /// To the requester alone, by a key that both share: no evidence for
    /// anybody else.
    Mac,
    /// By a signature.
    Signed,
}

impl Replies {
    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mac => "mac",
            Self::Signed => "signed",
        }
    }
}

impl fmt::Display for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How receivers keep a message from running twice, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Replay {
    /// At most once per receiving process: an exact set of what was seen.
    Window,
    /// At most once per queue group: its members claim each message.
    Shared,
    /// At most once per consumer of a stream: by the stream's own numbering.
    ///
    /// A policy where it meets another mode on one subject does not load.
    Stream,
}

impl Replay {
    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Shared => "shared",
            Self::Stream => "stream",
        }
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The verticals that subjects belong to: which of the policy's audiences a
/// user's token has to reach, all of them. Ask [`Policy::audience_names`] for
/// the names.
///
/// [`Policy::audience_names`]: crate::Policy::audience_names
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Audiences(u64);

impl Audiences {
    /// No audience.
    pub(crate) const NONE: Self = Self(0);

    /// The most audiences that a policy names.
    pub(crate) const MOST: usize = 64;

    /// The audience of this place in the policy's list, below
    /// [`Audiences::MOST`].
    pub(crate) const fn one(place: u32) -> Self {
        Self(1 << (place % 64))
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether no audience is asked for.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn places(self) -> impl Iterator<Item = usize> {
        (0..Self::MOST).filter(move |place| self.0 >> place & 1 == 1)
    }
}

/// What is known of a message's earlier hops, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Chain {
    /// What the sender says: each message names the one before.
    Reported,
    /// Their envelopes' headers and proofs, back to the workload that minted the
    /// user's token.
    Proven,
}

impl Chain {
    /// The word for it in a policy.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reported => "reported",
            Self::Proven => "proven",
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a subject demands, after every `[subject]` entry that matches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirements {
    /// Protection; `signed` unless an entry says otherwise.
    pub protect: Protect,
    /// The user; `optional` unless an entry says otherwise, always `none` on
    /// an open subject.
    pub user: UserRule,
    /// Whether the hops before are proven; `reported` unless an entry says
    /// otherwise. Where they are proven, the user is always `required`.
    pub chain: Chain,
    /// The longest life of a message; [`DEFAULT_MAX_AGE`] unless an entry says
    /// otherwise. Where the replay mode is [`Replay::Stream`]: how long after
    /// its stream stored it a message, with its user's authority, may be
    /// consumed; it may be more than [`LONGEST_MAX_AGE`] only there.
    pub max_age: Duration,
    /// The KEM of encrypted messages; X-Wing unless an entry says otherwise.
    pub suite: Suite,
    /// The cipher of encrypted messages; either one unless an entry says otherwise.
    pub cipher: Cipher,
    /// Whether the user's token travels outside the encrypted part.
    pub open_token: bool,
    /// Whether messages may share a NATS message; `auto` unless an entry says
    /// otherwise.
    pub frames: Frames,
    /// Whether messages on other subjects may lie under the same signature;
    /// `shared` unless an entry says otherwise.
    pub batch: Batch,
    /// How replies prove themselves; `signed` unless an entry says otherwise.
    pub replies: Replies,
    /// Protection against replay as far as an entry states it; ask
    /// [`Requirements::replay_for`].
    pub replay: Option<Replay>,
    /// What a user's token has to reach; nothing unless an entry says so. A
    /// message without a user needs no reach.
    pub audiences: Audiences,
}

impl Requirements {
    /// Protection against replay for a receiver: what the policy states, and
    /// otherwise `shared` in a queue group, whose members would each accept a
    /// message once under `window`, and `window` for everybody else.
    #[must_use]
    pub const fn replay_for(&self, queue: bool) -> Replay {
        match (self.replay, queue) {
            (Some(stated), _) => stated,
            (None, true) => Replay::Shared,
            (None, false) => Replay::Window,
        }
    }
}

/// What one `[subject]` entry states; an absent key states nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stated {
    pub(crate) protect: Option<Protect>,
    pub(crate) user: Option<UserRule>,
    pub(crate) chain: Option<Chain>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) suite: Option<Suite>,
    pub(crate) cipher: Option<Cipher>,
    pub(crate) open_token: Option<bool>,
    pub(crate) frames: Option<Frames>,
    pub(crate) batch: Option<Batch>,
    pub(crate) replies: Option<Replies>,
    pub(crate) replay: Option<Replay>,
    /// Of several entries all count.
    pub(crate) audiences: Audiences,
}

impl Stated {
    /// Both at once: of each key the more protective value (POL-22).
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            protect: self.protect.max(other.protect),
            user: self.user.max(other.user),
            chain: self.chain.max(other.chain),
            max_age: lesser(self.max_age, other.max_age),
            suite: self.suite.max(other.suite),
            // Two different names of ciphers never meet: they are refused.
            cipher: self.cipher.max(other.cipher),
            open_token: lesser(self.open_token, other.open_token),
            frames: self.frames.max(other.frames),
            batch: self.batch.max(other.batch),
            replies: self.replies.max(other.replies),
            replay: self.replay.max(other.replay),
            audiences: self.audiences.and(other.audiences),
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
            chain: self.chain.unwrap_or(Chain::Reported),
            max_age: self.max_age.unwrap_or(DEFAULT_MAX_AGE),
            suite: self.suite.unwrap_or(Suite::XWing),
            cipher: self.cipher.unwrap_or(Cipher::Any),
            open_token: self.open_token.unwrap_or(false),
            frames: self.frames.unwrap_or(Frames::Auto),
            batch: self.batch.unwrap_or(Batch::Shared),
            replies: self.replies.unwrap_or(Replies::Signed),
            replay: self.replay,
            audiences: self.audiences,
        }
    }
}

/// The lesser of what is stated.
fn lesser<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
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
            chain: Some(Chain::Reported),
            max_age: Some(Duration::from_secs(60)),
            suite: Some(Suite::X25519),
            cipher: Some(Cipher::Aes256Gcm),
            open_token: Some(true),
            frames: Some(Frames::Off),
            batch: Some(Batch::Shared),
            replies: Some(Replies::Mac),
            replay: Some(Replay::Window),
            audiences: Audiences::one(0),
        };
        let b = Stated {
            protect: Some(Protect::Open),
            user: Some(UserRule::Required),
            chain: Some(Chain::Proven),
            max_age: Some(Duration::from_secs(5)),
            suite: Some(Suite::XWing),
            cipher: Some(Cipher::Any),
            open_token: Some(false),
            frames: Some(Frames::Auto),
            batch: Some(Batch::PerSubject),
            replies: Some(Replies::Signed),
            replay: Some(Replay::Shared),
            audiences: Audiences::one(63),
        };
        assert_eq!(a.and(b), b.and(a));
        let both = a.and(b).or_default();
        assert_eq!(both.protect, Protect::Encrypted);
        assert_eq!(both.user, UserRule::Required);
        assert_eq!(both.chain, Chain::Proven);
        assert_eq!(both.max_age, Duration::from_secs(5));
        assert_eq!(both.suite, Suite::XWing);
        assert_eq!(both.cipher, Cipher::Aes256Gcm);
        assert!(!both.open_token);
        assert_eq!(both.frames, Frames::Off);
        assert_eq!(both.batch, Batch::PerSubject);
        assert_eq!(both.replies, Replies::Signed);
        assert_eq!(both.replay, Some(Replay::Shared));
        assert_eq!(both.audiences.places().collect::<Vec<_>>(), [0, 63]);
        // What nobody contradicts stands, though a default is stricter.
        let alone = a.and(Stated::default()).or_default();
        assert_eq!((alone.suite, alone.open_token), (Suite::X25519, true));
        assert_eq!(alone.replies, Replies::Mac);
    }

    #[test]
    fn nothing_said_means_signed_for_thirty_seconds() {
        let silent = Stated::default().or_default();
        assert_eq!(silent.protect, Protect::Signed);
        assert_eq!(silent.user, UserRule::Optional);
        assert_eq!(silent.max_age, DEFAULT_MAX_AGE);
    }
}

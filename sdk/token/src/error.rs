//! Why a token, a key set or a policy is refused.

use crate::Algorithm;

/// Why a token is refused. Precise, for logs and counters: what a client is
/// told is decided at the edge.
///
/// No variant carries any part of the token but names of header members and
/// claims, all of them from fixed lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TokenError {
    // Not a token of a kind that is looked at.
    /// The token is longer than the limit.
    #[error("token has {actual} bytes, the limit is {limit}")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The length of the token in bytes.
        actual: usize,
    },
    /// There is no token.
    #[error("token is empty")]
    Empty,
    /// A byte that is neither base64url nor a dot.
    #[error("token has a byte outside base64url and dots")]
    ForbiddenByte,
    /// Five parts: an encrypted token.
    #[error("token is encrypted (JWE), a signed one (JWS) is expected")]
    Encrypted,
    /// Neither three parts nor five, or an empty one.
    #[error("token does not have three non-empty parts")]
    Malformed,
    /// A part is not canonical base64url.
    #[error("token part is not canonical base64url")]
    NotBase64,
    /// A part is not one JSON object, or is nested too deeply.
    #[error("token part is not a JSON object within the limits")]
    NotJson,
    /// The same member twice in one object.
    #[error("token repeats a member name")]
    DuplicateMember,

    // The header asks for something that is never given.
    /// `alg` is `none` in any spelling.
    #[error("token is unsigned (`alg` is `none`)")]
    Unsigned,
    /// `alg` is an HMAC algorithm.
    #[error("token is signed with a shared secret")]
    Symmetric,
    /// `alg` is absent, no string or not among those implemented.
    #[error("token has no known signature algorithm")]
    UnknownAlgorithm,
    /// The algorithm is implemented, but not allowed here.
    #[error("algorithm `{0}` is not allowed")]
    AlgorithmNotAllowed(Algorithm),
    /// The header carries a member that is never accepted.
    #[error("header member `{0}` is not accepted")]
    ForbiddenHeader(&'static str),
    /// A header member has the wrong type or is out of its limits.
    #[error("header member `{0}` has a wrong type or length")]
    BadHeader(&'static str),
    /// `typ` is that of another kind of token.
    #[error("`typ` is not that of the expected kind of token")]
    WrongType,

    // The key.
    /// No key of that id. The one reason for which fetching the keys again can help.
    #[error("no key with this `kid`")]
    UnknownKey,
    /// No `kid`, and no single key that would do without.
    #[error("token names no key, and the key set does not hold exactly one that fits")]
    MissingKid,
    /// The token's algorithm is not the one that the key is bound to.
    #[error("algorithm `{token}` does not belong to the key, which is bound to `{key}`")]
    AlgorithmMismatch {
        /// What the token's header says.
        token: Algorithm,
        /// What the key is bound to.
        key: Algorithm,
    },
    /// The signature does not verify.
    #[error("signature does not verify")]
    BadSignature,

    // The claims.
    /// A required claim is absent.
    #[error("claim `{0}` is missing")]
    MissingClaim(&'static str),
    /// A claim has the wrong type or is out of its limits.
    #[error("claim `{0}` has a wrong type or value")]
    BadClaim(&'static str),
    /// Issued by somebody else.
    #[error("token is from another issuer")]
    WrongIssuer,
    /// Meant for somebody else.
    #[error("token is for another audience")]
    WrongAudience,
    /// The issuer says that it does not count, or not any more.
    #[error("token is not active")]
    Inactive,
    /// `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("token is not valid yet")]
    NotYetValid,
    /// `iat` lies in the future.
    #[error("token was issued in the future")]
    IssuedInFuture,
    /// A transaction token that lives longer than is allowed.
    #[error("transaction token lives longer than allowed")]
    LivesTooLong,
    /// A transaction context that would replace a registered claim.
    #[error("transaction context would replace a registered claim")]
    ReservedContextName,
}

/// Whose fault a refused token is, as far as that can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// No honest issuer makes such a token: an attack, or a broken client.
    Hostile,
    /// An ordinary token at the wrong time or place: expired, another audience.
    Ordinary,
    /// The key is not known here: the issuer may have rotated.
    Keys,
}

impl TokenError {
    /// A short stable name for counters and decision logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "token_too_large",
            Self::Empty => "token_empty",
            Self::ForbiddenByte => "token_forbidden_byte",
            Self::Encrypted => "token_encrypted",
            Self::Malformed => "token_malformed",
            Self::NotBase64 => "token_not_base64url",
            Self::NotJson => "token_not_json",
            Self::DuplicateMember => "token_duplicate_member",
            Self::Unsigned => "token_unsigned",
            Self::Symmetric => "token_symmetric",
            Self::UnknownAlgorithm => "token_unknown_algorithm",
            Self::AlgorithmNotAllowed(_) => "token_algorithm_not_allowed",
            Self::ForbiddenHeader(_) => "token_forbidden_header",
            Self::BadHeader(_) => "token_bad_header",
            Self::WrongType => "token_wrong_type",
            Self::UnknownKey => "token_unknown_key",
            Self::MissingKid => "token_missing_kid",
            Self::AlgorithmMismatch { .. } => "token_algorithm_mismatch",
            Self::BadSignature => "token_bad_signature",
            Self::MissingClaim(_) => "token_missing_claim",
            Self::BadClaim(_) => "token_bad_claim",
            Self::WrongIssuer => "token_wrong_issuer",
            Self::WrongAudience => "token_wrong_audience",
            Self::Inactive => "token_inactive",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::IssuedInFuture => "token_issued_in_future",
            Self::LivesTooLong => "token_lives_too_long",
            Self::ReservedContextName => "token_reserved_context_name",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Self::UnknownKey | Self::MissingKid => Blame::Keys,
            Self::WrongIssuer
            | Self::WrongAudience
            | Self::Inactive
            | Self::Expired
            | Self::NotYetValid
            | Self::IssuedInFuture
            | Self::WrongType
            | Self::AlgorithmNotAllowed(_)
            | Self::MissingClaim(_) => Blame::Ordinary,
            Self::TooLarge { .. }
            | Self::Empty
            | Self::ForbiddenByte
            | Self::Encrypted
            | Self::Malformed
            | Self::NotBase64
            | Self::NotJson
            | Self::DuplicateMember
            | Self::Unsigned
            | Self::Symmetric
            | Self::UnknownAlgorithm
            | Self::ForbiddenHeader(_)
            | Self::BadHeader(_)
            | Self::AlgorithmMismatch { .. }
            | Self::BadSignature
            | Self::BadClaim(_)
            | Self::LivesTooLong
            | Self::ReservedContextName => Blame::Hostile,
        }
    }
}

/// Why a key set is refused as a whole. A single bad key is left out and counted
/// instead: see [`crate::KeySet::ignored`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// More bytes than are looked at.
    #[error("key set has {actual} bytes, the limit is {limit}")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The length in bytes.
        actual: usize,
    },
    /// More keys than are looked at.
    #[error("key set has {actual} keys, the limit is {limit}")]
    TooManyKeys {
        /// The limit.
        limit: usize,
        /// How many there are.
        actual: usize,
    },
    /// Not one JSON object within the limits.
    #[error("key set is not a JSON object within the limits")]
    NotJson,
    /// The same member twice in one object.
    #[error("key set repeats a member name")]
    DuplicateMember,
    /// No `keys` array.
    #[error("key set has no `keys` array")]
    NoKeys,
    /// Not one key in it can be used.
    #[error("key set has no usable key ({ignored} left out)")]
    NoUsableKey {
        /// How many keys were left out.
        ignored: usize,
    },
}

/// Why a [`crate::ValidationPolicy`] cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No issuer.
    #[error("`issuer` is empty")]
    NoIssuer,
    /// No audience: a validator without one would take tokens meant for others.
    #[error("no audience is named")]
    NoAudience,
    /// No algorithm.
    #[error("no algorithm is allowed")]
    NoAlgorithm,
    /// Leeway beyond what clocks need.
    #[error("leeway of {actual} s is above the limit of {limit} s")]
    LeewayTooLong {
        /// The limit in seconds.
        limit: u64,
        /// The leeway asked for, in seconds.
        actual: u64,
    },
}

/// Why a transaction token is not minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// `exp` is not after `iat`, or more than the limit after it.
    #[error("lifetime of {actual_ms} ms is not between 1 s and the limit of {limit_ms} ms")]
    Lifetime {
        /// The limit in milliseconds.
        limit_ms: u64,
        /// What was asked for, in milliseconds.
        actual_ms: u64,
    },
    /// A claim is empty, too long or has control characters.
    #[error("claim `{0}` is empty, too long or has control characters")]
    BadClaim(&'static str),
    /// The transaction context names a registered claim.
    #[error("transaction context would replace a registered claim")]
    ReservedContextName,
    /// The result would be longer than receivers accept.
    #[error("token would have {actual} bytes, the limit is {limit}")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The length in bytes.
        actual: usize,
    },
}

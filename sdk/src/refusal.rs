//! Why a received message did not reach a handler: one reason each, grouped by
//! how far the message got.

use bulla_envelope::{CheckError, DecodeError, OpenError, ReplayError, VerifyError};
use bulla_policy::Denial;
use bulla_token::TokenError;

use crate::chains::ChainRefusal;
use crate::claims::ClaimError;
use crate::control::{LookupError, Standing};
use crate::reply_order::Misplaced;
use crate::unlock::UnlockError;

/// Why a message was refused. Never told to the peer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("nothing is received")]
    Standing(#[from] Standing),
    // Before the proof: the receiver stays silent.
    #[error("not an envelope")]
    Decode(#[from] DecodeError),
    #[error("no usable credential")]
    Credential(#[from] LookupError),
    #[error("not authentic")]
    Verify(#[from] VerifyError),
    #[error("the subject on which it came is none that Bulla accepts")]
    Subject,
    // After it.
    #[error("not meant for here and now")]
    Check(#[from] CheckError),
    #[error("its contents cannot be read")]
    Open(#[from] OpenError),
    #[error("its data key cannot be had")]
    Unlock(#[from] UnlockError),
    #[error("it is encrypted in a weaker suite than the subject asks for")]
    WeakSuite,
    #[error("its reply subject lies outside its sender's own inbox")]
    ForeignInbox,
    #[error("a frame of several messages, which a stream does not take")]
    Frame,
    #[error("the user is refused")]
    User(#[from] UserRefusal),
    #[error("the subject asks for encryption, and it is not encrypted")]
    Unprotected,
    #[error("{0}")]
    Policy(Box<Denial>),
    #[error("this workload may not receive it: {0}")]
    OwnPolicy(Box<Denial>),
    #[error("it does not prove the calls that led to it")]
    Chain(#[from] ChainRefusal),
    #[error("not fresh")]
    Replay(#[from] ReplayError),
    #[error("another process of this workload has it, or had it")]
    ReplayedElsewhere,
    #[error("it cannot be claimed")]
    Claim(#[from] ClaimError),
    // Of what a stream stored only.
    #[error("not as it was appended")]
    Stored(#[from] StoredRefusal),
    // Of replies only.
    #[error("a code where the policy wants a signature")]
    MacNotAllowed,
    #[error("a code by a responder that has no key to agree on one with")]
    MacWithoutKey,
    #[error("a status of nats-server where only a sealed reply counts")]
    Status,
    #[error("not in its place among the replies")]
    Reply(#[from] Misplaced),
}

/// Why a stored message does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoredRefusal {
    #[error("the policy does not call its subject a stream's")]
    NotStreamed,
    #[error("its stream stored it in the future")]
    InFuture,
    #[error("its stream stored it longer ago than its subject's `max_age`")]
    TooLate,
    #[error("it was stored under another id than its own, where a copy would not be found")]
    OtherId,
    #[error("it came before under another number of the stream: a copy")]
    Copy,
    // Of what a bucket stored only.
    #[error("it is older than what was read under its key before")]
    RolledBack,
    #[error("its header says otherwise than the envelope whether the key is deleted")]
    Mark,
}

impl StoredRefusal {
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::NotStreamed => "not_streamed",
            Self::InFuture => "stored_in_future",
            Self::TooLate => "stored_too_long_ago",
            Self::OtherId => "stored_under_another_id",
            Self::Copy => "stored_copy",
            Self::RolledBack => "stored_rolled_back",
            Self::Mark => "stored_mark_mismatch",
        }
    }
}

/// Why a user's transaction token does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserRefusal {
    #[error("the token is no text")]
    NotText,
    #[error("the token is not valid")]
    Token(#[from] TokenError),
    #[error("the token names no credential")]
    KeyId,
    #[error("the token's minting credential is not usable")]
    Credential(#[from] LookupError),
    #[error("the credential that minted it carries no token key")]
    NoTokenKey,
    #[error("the workload that minted it may not mint")]
    MayNotMint,
    #[error("it was minted for another workload")]
    ForeignRequester,
    #[error("it outlives the credential that minted it")]
    OutlivesCredential,
    #[error("it reaches further than the tokens of the workload that minted it may")]
    BeyondMinter,
    #[error("the limits under which it came cannot be read")]
    BadLimits,
    #[error("the limits under which it came have ended its time")]
    LimitsEnded,
    #[error("the client's own token comes along, where its subject does not let it")]
    OriginalNotAllowed,
    #[error("the client's own token comes along, and not from who minted the user's")]
    OriginalForeign,
    #[error("the user, or this token, is revoked")]
    Revoked,
    #[error("the workload that minted it, or its credential, is revoked")]
    MinterRevoked,
}

impl Refusal {
    /// A short stable name for metrics and tests.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Standing(e) => e.code(),
            Self::Decode(e) => e.code(),
            Self::Credential(e) => e.code(),
            Self::Verify(e) => e.code(),
            Self::Subject => "bad_subject",
            Self::Check(e) => e.code(),
            Self::Open(e) => e.code(),
            Self::Unlock(e) => e.code(),
            Self::WeakSuite => "weak_suite",
            Self::ForeignInbox => "foreign_inbox",
            Self::Frame => "frame_unsupported",
            Self::User(e) => e.code(),
            Self::Unprotected => "not_encrypted",
            Self::Policy(denial) => denial.reason().code(),
            Self::OwnPolicy(_) => "receiver_not_granted",
            Self::Chain(e) => e.code(),
            Self::Replay(e) => e.code(),
            Self::ReplayedElsewhere => "replayed_elsewhere",
            Self::Claim(e) => e.code(),
            Self::Stored(refusal) => refusal.code(),
            Self::MacNotAllowed => "mac_not_allowed",
            Self::MacWithoutKey => "mac_without_key",
            Self::Status => "reply_status",
            Self::Reply(e) => e.code(),
        }
    }
}

impl UserRefusal {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotText => "token_not_text",
            Self::Token(e) => e.code(),
            Self::KeyId => "token_key_id",
            Self::Credential(_) => "token_credential",
            Self::NoTokenKey => "token_no_key",
            Self::MayNotMint => "token_may_not_mint",
            Self::ForeignRequester => "token_foreign_requester",
            Self::OutlivesCredential => "token_outlives_credential",
            Self::BeyondMinter => "token_beyond_minter",
            Self::BadLimits => "bad_limits",
            Self::LimitsEnded => "limits_ended",
            Self::OriginalNotAllowed => "original_not_allowed",
            Self::OriginalForeign => "original_foreign",
            Self::Revoked => "user_revoked",
            Self::MinterRevoked => "token_minter_revoked",
        }
    }
}

/// The whole chain of an error's causes on one line, for the decision log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

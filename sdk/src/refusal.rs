//! Why a received message did not reach a handler: one reason each, grouped by
//! how far the message got.

use bulla_envelope::{CheckError, DecodeError, OpenError, ReplayError, VerifyError};
use bulla_policy::Denial;
use bulla_token::TokenError;

use crate::chains::ChainRefusal;
use crate::claims::ClaimError;
use crate::control::{LookupError, Standing, Unusable};
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
    #[error("it is encrypted with another cipher than the subject asks for")]
    OtherCipher,
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
    #[error("the policy in force declares no such bucket")]
    NoBucket,
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
            Self::NoBucket => "bucket_not_declared",
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
            Self::OtherCipher => "other_cipher",
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
            Self::Credential(lookup) => match lookup.unusable() {
                Unusable::Unreachable => "token_credential_unreachable",
                Unusable::Unknown => "token_credential_unknown",
                Unusable::Revoked => "token_minter_revoked",
                Unusable::NotInTime => "token_credential_not_in_time",
                Unusable::Untrusted => "token_credential_untrusted",
            },
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bulla_envelope::{CredentialError, Kind};

    use super::*;
    use crate::error::LinkError;
    use crate::unlock::RecordFault;

    /// What of a credential may be wrong, once for each remedy, and the end of its code.
    fn lookups() -> Vec<(LookupError, &'static str)> {
        vec![
            (LookupError::Throttled, "unreachable"),
            (LookupError::Resting, "unreachable"),
            (LookupError::Unreachable(LinkError::Timeout), "unreachable"),
            (LookupError::Unknown, "unknown"),
            (LookupError::UnknownWorkload, "unknown"),
            (LookupError::WorkloadRevoked, "revoked"),
            (LookupError::KeyRevoked, "revoked"),
            (CredentialError::Expired.into(), "not_in_time"),
            (CredentialError::NotYetValid.into(), "not_in_time"),
            (CredentialError::UnknownIssuer.into(), "untrusted"),
            (CredentialError::BundleExpired.into(), "untrusted"),
            (LookupError::PolicyUnvouched, "untrusted"),
            (LookupError::Misfiled, "untrusted"),
        ]
    }

    #[test]
    fn what_stands_on_a_credential_says_what_is_wrong_with_it() {
        for (lookup, end) in lookups() {
            let chain = Refusal::Chain(lookup.clone().into());
            assert_eq!(chain.code(), format!("chain_credential_{end}"));
            let record = Refusal::Unlock(lookup.clone().into());
            let code = format!("data_key_record_credential_{end}");
            assert_eq!(record.code(), code);
            let token = Refusal::User(lookup.into());
            match end {
                "revoked" => assert_eq!(token.code(), "token_minter_revoked"),
                _ => assert_eq!(token.code(), format!("token_credential_{end}")),
            }
        }
    }

    #[test]
    fn who_does_not_answer_is_told_apart() {
        for (error, code) in [
            (LinkError::Timeout, "unreachable"),
            (LinkError::Disconnected, "unreachable"),
            (LinkError::NoResponders, "stream_missing"),
            (LinkError::Refused, "not_permitted"),
        ] {
            let keys = Refusal::Unlock(error.into());
            assert_eq!(keys.code(), format!("data_keys_{code}"));
            let lookup = Refusal::Credential(error.into());
            assert_eq!(lookup.code(), format!("lookup_{code}"));
        }
        let keys = Refusal::Unlock(UnlockError::Refused);
        assert_eq!(keys.code(), "data_keys_refused");
        let resting = Refusal::Credential(LookupError::Resting);
        assert_eq!(resting.code(), "lookup_resting");
        let bucket = Refusal::Stored(StoredRefusal::NoBucket);
        assert_eq!(bucket.code(), "bucket_not_declared");
    }

    #[test]
    fn each_way_in_which_a_record_is_none_has_a_reason() {
        let faults = [
            RecordFault::Malformed(DecodeError::NotFramable),
            RecordFault::NotAuthentic(VerifyError::BadSignature),
            RecordFault::Foreign,
            CheckError::WrongKind { kind: Kind::Event }.into(),
            CheckError::WrongSubject.into(),
            CheckError::Expired.into(),
            RecordFault::OtherKey,
            RecordFault::Mismatch,
            RecordFault::Contents(OpenError::Encrypted),
        ];
        let codes: BTreeSet<_> = faults
            .into_iter()
            .map(|fault| Refusal::Unlock(fault.into()).code())
            .collect();
        let ends = [
            "contents",
            "foreign",
            "kind",
            "malformed",
            "mismatch",
            "misplaced",
            "not_authentic",
            "not_in_time",
            "other_key",
        ];
        let codes: Vec<_> = codes.into_iter().collect();
        assert_eq!(codes, ends.map(|end| format!("data_key_record_{end}")));
    }
}

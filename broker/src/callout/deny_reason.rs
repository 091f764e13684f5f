//! Why a connection is turned away.

use bulla_identity::{Nkey, WorkloadName};
use bulla_keyring::CertificateError;
use bulla_token::TokenError;

use crate::invitation::InvitationError;

/// Why a connection is turned away. Logged; the client learns none of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DenyReason {
    #[error("only clients that speak NATS itself may connect")]
    NotAClient,
    #[error("the client names no nkey, and shows neither token nor certificate")]
    NoNkey,
    #[error(
        "the client shows an nkey and a token: one proof is looked at, and which one is not guessed"
    )]
    TwoProofs,
    #[error("the client names an nkey that is malformed")]
    MalformedNkey,
    #[error("the nkey `{0}` is not registered in the policy")]
    UnknownNkey(Nkey),
    #[error("the server offered no nonce, so the signature proves nothing")]
    EmptyNonce(WorkloadName),
    #[error("the signature over the nonce is missing or malformed")]
    NoSignature(WorkloadName),
    #[error("the signature over the nonce does not verify")]
    WrongSignature(WorkloadName),
    #[error("the token does not count: {0}")]
    Token(#[from] TokenError),
    #[error("the policy names no issuer of this token")]
    UnknownIssuer,
    #[error("no keys of the token's issuer are held")]
    NoIssuerKeys,
    #[error("the token of `{issuer}` is genuine, and no workload's")]
    UnknownAccount {
        /// The issuer's name in the policy.
        issuer: String,
    },
    #[error("nats-server has not verified the client's certificate")]
    UnverifiedCertificate,
    #[error("the client's certificate does not count: {0}")]
    Certificate(#[from] CertificateError),
    #[error("no workload proves itself by this certificate")]
    UnknownCertificate,
    #[error("the invitation does not count: {0}")]
    Invitation(#[from] InvitationError),
    #[error("the workload does not connect from this network")]
    Network(WorkloadName),
    #[error("the workload does not connect by this protocol")]
    Protocol(WorkloadName),
    #[error("what the connection was admitted by proves nothing any more")]
    ProofDropped,
    #[error("what the connection was admitted by has ended")]
    ProofEnded(WorkloadName),
    #[error("the workload is revoked")]
    Revoked(WorkloadName),
    #[error("the nonce was used before")]
    NonceReplayed(WorkloadName),
    #[error("too many connections at once: the memory for nonces is full")]
    NoncesFull(WorkloadName),
    #[error("there are no permissions for the workload")]
    NoPermissions(WorkloadName),
}

impl DenyReason {
    /// A short stable name.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::NotAClient => "not_a_client",
            Self::NoNkey => "no_nkey",
            Self::TwoProofs => "two_proofs",
            Self::MalformedNkey => "malformed_nkey",
            Self::UnknownNkey(_) => "unknown_nkey",
            Self::EmptyNonce(_) => "empty_nonce",
            Self::NoSignature(_) => "no_signature",
            Self::WrongSignature(_) => "wrong_signature",
            Self::Token(error) => error.code(),
            Self::UnknownIssuer => "token_unknown_issuer",
            Self::NoIssuerKeys => "issuer_keys_missing",
            Self::UnknownAccount { .. } => "token_of_no_workload",
            Self::UnverifiedCertificate => "certificate_unverified",
            Self::Certificate(error) => error.code(),
            Self::UnknownCertificate => "certificate_of_no_workload",
            Self::Invitation(error) => error.code(),
            Self::Network(_) => "network_not_allowed",
            Self::Protocol(_) => "protocol_not_allowed",
            Self::ProofDropped => "proof_dropped",
            Self::ProofEnded(_) => "proof_ended",
            Self::Revoked(_) => "workload_revoked",
            Self::NonceReplayed(_) => "nonce_replayed",
            Self::NoncesFull(_) => "nonces_full",
            Self::NoPermissions(_) => "no_permissions",
        }
    }

    /// Whose key was named, if it is a registered one.
    pub(super) fn workload(&self) -> &str {
        match self {
            Self::NotAClient
            | Self::NoNkey
            | Self::TwoProofs
            | Self::MalformedNkey
            | Self::UnknownNkey(_)
            | Self::Token(_)
            | Self::UnknownIssuer
            | Self::NoIssuerKeys
            | Self::UnknownAccount { .. }
            | Self::UnverifiedCertificate
            | Self::Certificate(_)
            | Self::Invitation(_)
            | Self::ProofDropped
            | Self::UnknownCertificate => "",
            Self::EmptyNonce(workload)
            | Self::NoSignature(workload)
            | Self::WrongSignature(workload)
            | Self::Network(workload)
            | Self::Protocol(workload)
            | Self::ProofEnded(workload)
            | Self::Revoked(workload)
            | Self::NonceReplayed(workload)
            | Self::NoncesFull(workload)
            | Self::NoPermissions(workload) => workload.as_str(),
        }
    }
}

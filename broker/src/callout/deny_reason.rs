//! Why a connection is turned away.

use bulla_identity::{Nkey, WorkloadName};

/// Why a connection is turned away. Logged; the client learns none of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DenyReason {
    #[error("only clients that speak NATS itself may connect")]
    NotAClient,
    #[error("the client names no nkey")]
    NoNkey,
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
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::NotAClient => "not_a_client",
            Self::NoNkey => "no_nkey",
            Self::MalformedNkey => "malformed_nkey",
            Self::UnknownNkey(_) => "unknown_nkey",
            Self::EmptyNonce(_) => "empty_nonce",
            Self::NoSignature(_) => "no_signature",
            Self::WrongSignature(_) => "wrong_signature",
            Self::Revoked(_) => "workload_revoked",
            Self::NonceReplayed(_) => "nonce_replayed",
            Self::NoncesFull(_) => "nonces_full",
            Self::NoPermissions(_) => "no_permissions",
        }
    }

    /// Whose key was named, if it is a registered one.
    pub(super) fn workload(&self) -> &str {
        match self {
            Self::NotAClient | Self::NoNkey | Self::MalformedNkey | Self::UnknownNkey(_) => "",
            Self::EmptyNonce(workload)
            | Self::NoSignature(workload)
            | Self::WrongSignature(workload)
            | Self::Revoked(workload)
            | Self::NonceReplayed(workload)
            | Self::NoncesFull(workload)
            | Self::NoPermissions(workload) => workload.as_str(),
        }
    }
}

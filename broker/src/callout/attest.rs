//! How a workload proves itself at connect: by its nkey.
//!
//! nats-server does not verify the signature of an nkey that it does not know
//! itself, so all of this is ours: the key is registered, the nonce is there
//! and fresh, the signature is over exactly this nonce.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use bulla_identity::{Nkey, NkeyKind, UnixMillis, WorkloadId, WorkloadName};
use bulla_keyring::{KeyError, Signature, VerifyingKey};
use bulla_policy::{Circumstances, PermissionError, Permissions, Policy, Workload};
use data_encoding::BASE64_NOPAD;

use super::request::CalloutRequest;

/// Who may connect, and with which permissions: what the policy says, compiled
/// once for each revision, or at each connect where it depends on that.
#[derive(Debug, Default)]
pub struct Admissions {
    by_nkey: HashMap<Nkey, Admission>,
    /// The names of the policy's buckets.
    pub(super) buckets: Vec<String>,
}

/// One registered nkey.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    /// Whose nkey it is.
    pub(super) workload: WorkloadName,
    id: WorkloadId,
    grants: Grants,
    key: VerifyingKey,
}

/// What a workload's connections may do.
#[derive(Clone, Debug)]
enum Grants {
    /// Always and from everywhere the same.
    Fixed(Arc<Permissions>),
    /// Compiled when one connects, because it depends on when and from where.
    Circumstantial(Arc<Policy>),
}

impl Admission {
    /// What a connection may do that is made under these circumstances, and
    /// until when that holds, if not for ever.
    pub(super) fn permissions(
        &self,
        circumstances: &Circumstances,
    ) -> Result<(Cow<'_, Permissions>, Option<UnixMillis>), PermissionError> {
        match &self.grants {
            Grants::Fixed(permissions) => Ok((Cow::Borrowed(&**permissions), None)),
            Grants::Circumstantial(policy) => {
                let permissions = policy.permissions(&self.id, circumstances)?;
                let until = policy.next_change_of(&self.id, circumstances.now);
                Ok((Cow::Owned(permissions), until))
            }
        }
    }
}

impl Admissions {
    /// Nobody may connect.
    fn new() -> Self {
        Self::default()
    }

    /// Everybody whom the policy names, with the permissions that it compiles
    /// to.
    ///
    /// # Errors
    /// If an nkey names no sound public key. What else could go wrong kept the
    /// policy from loading.
    pub fn from_policy(policy: &Arc<Policy>) -> Result<Self, AdmissionError> {
        let mut admissions = Self::new();
        let buckets = policy.buckets().iter().map(|b| b.name().to_owned());
        admissions.buckets = buckets.collect();
        for workload in policy.workloads() {
            let grants = if policy.depends_on_circumstances(workload.id()) {
                Grants::Circumstantial(Arc::clone(policy))
            } else {
                let any = Circumstances::at(UnixMillis::default());
                Grants::Fixed(Arc::new(policy.permissions(workload.id(), &any)?))
            };
            for nkey in workload.nkeys() {
                admissions
                    .register(*nkey, workload, grants.clone())
                    .map_err(|source| AdmissionError::Nkey {
                        nkey: *nkey,
                        workload: workload.name().clone(),
                        source,
                    })?;
            }
        }
        Ok(admissions)
    }

    fn register(
        &mut self,
        nkey: Nkey,
        workload: &Workload,
        grants: Grants,
    ) -> Result<(), KeyError> {
        let key = VerifyingKey::from_nkey(&nkey)?;
        self.by_nkey.insert(
            nkey,
            Admission {
                workload: workload.name().clone(),
                id: workload.id().clone(),
                grants,
                key,
            },
        );
        Ok(())
    }

    /// The workload that the request proves to come from.
    pub(super) fn attest(&self, request: &CalloutRequest) -> Result<&Admission, DenyReason> {
        if request.kind != "Client" || request.protocol != "nats" {
            return Err(DenyReason::NotAClient);
        }
        if request.nkey.is_empty() {
            return Err(DenyReason::NoNkey);
        }
        let nkey = Nkey::parse(&request.nkey)
            .ok()
            .filter(|nkey| nkey.kind() == NkeyKind::User)
            .ok_or(DenyReason::MalformedNkey)?;
        let admission = self
            .by_nkey
            .get(&nkey)
            .ok_or(DenyReason::UnknownNkey(nkey))?;
        let workload = || admission.workload.clone();
        // A signature over nothing is good for ever and everywhere.
        if request.nonce.is_empty() {
            return Err(DenyReason::EmptyNonce(workload()));
        }
        let signature =
            signature(&request.signature).ok_or_else(|| DenyReason::NoSignature(workload()))?;
        admission
            .key
            .verify_text(&request.nonce, &signature)
            .map_err(|_| DenyReason::WrongSignature(workload()))?;
        Ok(admission)
    }
}

/// Clients write the signature in the standard or in the URL-safe alphabet.
fn signature(text: &str) -> Option<Signature> {
    let text: String = text
        .trim_end_matches('=')
        .chars()
        .map(|character| match character {
            '-' => '+',
            '_' => '/',
            other => other,
        })
        .collect();
    let bytes = BASE64_NOPAD.decode(text.as_bytes()).ok()?;
    Some(Signature::from_bytes(bytes.try_into().ok()?))
}

/// Why a policy's workloads cannot be admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The policy names no such workload.
    #[error(transparent)]
    Permissions(#[from] PermissionError),
    /// An nkey that is no key.
    #[error("the nkey `{nkey}` of the workload `{workload}` is not a usable key")]
    Nkey {
        /// The public nkey.
        nkey: Nkey,
        /// Whose.
        workload: WorkloadName,
        /// The reason.
        source: KeyError,
    },
}

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

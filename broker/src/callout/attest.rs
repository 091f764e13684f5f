//! How a workload proves itself at connect: by its nkey.
//!
//! nats-server does not verify the signature of an nkey that it does not know
//! itself, so all of this is ours: the key is registered, the nonce is there
//! and fresh, the signature is over exactly this nonce.

use bulla_identity::{Nkey, NkeyKind};
use bulla_keyring::Signature;
use data_encoding::BASE64_NOPAD;

use super::admissions::{Admission, Admissions};
use super::deny_reason::DenyReason;
use super::request::CalloutRequest;

impl Admissions {
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

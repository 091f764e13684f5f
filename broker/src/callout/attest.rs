//! How a workload proves itself at connect: by its nkey, by a token, or by the
//! certificate of its TLS connection. One of them, and which one is never guessed.
//!
//! nats-server does not verify the signature of an nkey that it does not know
//! itself, so all of this is ours: the key is registered, the nonce is there
//! and fresh, the signature is over exactly this nonce. Tokens and the names in
//! certificates mean nothing to it at all.

use std::net::IpAddr;

use bulla_identity::{Nkey, NkeyKind, UnixMillis, WorkloadName};
use bulla_keyring::{CertificateChain, CertificateError, Signature, VerifyingKey};
use data_encoding::BASE64_NOPAD;

use super::admissions::{Admission, Admissions};
use super::deny_reason::DenyReason;
use super::proof::Proof;
use super::request::CalloutRequest;
use super::ticket::Ticket;
use super::token_keys::TokenKeys;

/// Who connects, by what it has proven.
#[derive(Debug)]
pub(super) struct Attested<'a> {
    pub(super) admission: &'a Admission,
    /// When what proves it ends, if it does.
    pub(super) until: Option<UnixMillis>,
    /// Whether it answered the server's challenge, which is good once.
    pub(super) answers_challenge: bool,
}

impl Admissions {
    /// The workload that the request proves to come from.
    pub(super) fn attest(
        &self,
        request: &CalloutRequest,
        keys: &TokenKeys,
        now: UnixMillis,
    ) -> Result<Attested<'_>, DenyReason> {
        is_client(request)?;
        let shows_nkey = !request.nkey.is_empty() || !request.signature.is_empty();
        let shows_token = !request.token.is_empty();
        let (proof, until) = match (shows_nkey, shows_token) {
            (true, true) => return Err(DenyReason::TwoProofs),
            (true, false) => (self.by_nkey(request)?, None),
            (false, true) => {
                let (proof, until) = self.by_token.prove(&request.token, keys, now)?;
                (proof, Some(until))
            }
            (false, false) if request.has_certificate => {
                let (proof, until) = self.by_certificate(request, now)?;
                (proof, Some(until))
            }
            (false, false) => return Err(DenyReason::NoNkey),
        };
        let admission = self.by_proof.get(&proof).ok_or(DenyReason::NoNkey)?;
        admission.check_door(&request.protocol, request.client)?;
        Ok(Attested {
            admission,
            until,
            answers_challenge: shows_nkey,
        })
    }

    /// The workload of a connection that was admitted before, by what is still to be
    /// seen of its proof.
    pub(super) fn attest_again(
        &self,
        request: &CalloutRequest,
        ticket: &Ticket,
        now: UnixMillis,
    ) -> Result<Attested<'_>, DenyReason> {
        is_client(request)?;
        let admission = self.proven_by(ticket).ok_or(DenyReason::ProofDropped)?;
        let workload = || admission.workload.clone();
        let mut until = ticket.until;
        if let Some(nkey) = &admission.nkey {
            let (key, _) = self.by_nkey.get(nkey).ok_or(DenyReason::ProofDropped)?;
            prove_nonce(key, request, workload)?;
        } else if request.has_certificate {
            let (proof, not_after) = self.by_certificate(request, now)?;
            if proof != *admission.proof() {
                return Err(DenyReason::ProofDropped);
            }
            until = Some(not_after);
        }
        // Of a token only its end is known still.
        if until.is_some_and(|until| until <= now) {
            return Err(DenyReason::ProofEnded(workload()));
        }
        admission.check_door(&request.protocol, request.client)?;
        Ok(Attested {
            admission,
            until,
            // It was used up at the first time, on this very connection.
            answers_challenge: false,
        })
    }

    fn by_nkey(&self, request: &CalloutRequest) -> Result<Proof, DenyReason> {
        if request.nkey.is_empty() {
            return Err(DenyReason::NoNkey);
        }
        let nkey = Nkey::parse(&request.nkey)
            .ok()
            .filter(|nkey| nkey.kind() == NkeyKind::User)
            .ok_or(DenyReason::MalformedNkey)?;
        let (key, proof) = self
            .by_nkey
            .get(&nkey)
            .ok_or(DenyReason::UnknownNkey(nkey))?;
        let admission = self.by_proof.get(proof);
        let admission = admission.ok_or(DenyReason::UnknownNkey(nkey))?;
        let workload = || admission.workload.clone();
        prove_nonce(key, request, workload)?;
        Ok(*proof)
    }

    /// The handshake has proven that the client holds the key, and nats-server that
    /// the chain leads to an authority of its own. That it is one of the policy's,
    /// and that it is this workload's, is ours to prove.
    fn by_certificate(
        &self,
        request: &CalloutRequest,
        now: UnixMillis,
    ) -> Result<(Proof, UnixMillis), DenyReason> {
        // The authority that it ends in is no part of a chain of ours.
        let chain = match request.verified_chain.as_slice() {
            [] => return Err(DenyReason::UnverifiedCertificate),
            [only] => std::slice::from_ref(only),
            [chain @ .., _authority] => chain,
        };
        let chain = CertificateChain::from_pems(chain).map_err(|_| CertificateError::Malformed)?;
        let id = chain.claimed_uri()?;
        let (authorities, proof) = self
            .by_certificate
            .get(&id)
            .ok_or(DenyReason::UnknownCertificate)?;
        let admission = self.by_proof.get(proof);
        let admission = admission.ok_or(DenyReason::UnknownCertificate)?;
        let leaf = chain.verify(&admission.id, authorities, now)?;
        Ok((*proof, leaf.not_after()))
    }
}

impl Admission {
    /// Whether it may come this way.
    fn check_door(&self, protocol: &str, client: Option<IpAddr>) -> Result<(), DenyReason> {
        let may = match protocol {
            "nats" => self.protocols.nats,
            "websocket" => self.protocols.websocket,
            _ => false,
        };
        if !may {
            return Err(DenyReason::Protocol(self.workload.clone()));
        }
        if !self.is_from(client) {
            return Err(DenyReason::Network(self.workload.clone()));
        }
        Ok(())
    }
}

fn is_client(request: &CalloutRequest) -> Result<(), DenyReason> {
    let is_known = matches!(&*request.protocol, "nats" | "websocket");
    if request.kind != "Client" || !is_known {
        return Err(DenyReason::NotAClient);
    }
    Ok(())
}

fn prove_nonce(
    key: &VerifyingKey,
    request: &CalloutRequest,
    workload: impl Fn() -> WorkloadName,
) -> Result<(), DenyReason> {
    // A signature over nothing is good for ever and everywhere.
    if request.nonce.is_empty() {
        return Err(DenyReason::EmptyNonce(workload()));
    }
    let signature =
        signature(&request.signature).ok_or_else(|| DenyReason::NoSignature(workload()))?;
    key.verify_text(&request.nonce, &signature)
        .map_err(|_| DenyReason::WrongSignature(workload()))
}

/// Clients write the signature in the standard or in the URL-safe alphabet.
pub(super) fn signature(text: &str) -> Option<Signature> {
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

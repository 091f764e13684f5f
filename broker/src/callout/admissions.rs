//! Who may connect, and with which permissions.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bulla_identity::{Nkey, UnixMillis, WorkloadId, WorkloadName};
use bulla_issuer::KeySource;
use bulla_keyring::{CertificateAuthorities, KeyError, VerifyingKey, sha256};
use bulla_policy::{
    AdmissionChange, Circumstances, Networks, PermissionError, Permissions, Policy, Protocols,
    Workload,
};
use data_encoding::HEXLOWER;

use super::kept::{Entries, Kept};
use super::proof::Proof;
use super::ticket::{self, Ticket};
use super::tokens::Issuers;
use crate::buckets::{self, Found};

/// Who may connect, and with which permissions: what the policy says, compiled
/// once for each revision, or at each connect where it depends on that.
#[derive(Debug, Default)]
pub struct Admissions {
    pub(super) by_proof: HashMap<Proof, Admission>,
    pub(super) by_nkey: HashMap<Nkey, (VerifyingKey, Proof)>,
    pub(super) by_token: Issuers,
    /// Who connects with a certificate, by SPIFFE ID.
    pub(super) by_certificate: HashMap<String, (Vec<Arc<CertificateAuthorities>>, Proof)>,
    /// The names of the policy's buckets.
    pub(super) buckets: Vec<String>,
    /// What proves each workload.
    by_name: HashMap<WorkloadName, Vec<Proof>>,
    /// What connections may do that earlier policies admitted.
    former: HashMap<Mark, (Proof, Arc<Kept>)>,
}

/// One proof of a workload.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    /// Whose proof it is.
    pub(super) workload: WorkloadName,
    pub(super) id: WorkloadId,
    /// From where it connects, if not from everywhere.
    pub(super) networks: Option<Networks>,
    pub(super) protocols: Protocols,
    grants: Grants,
    proof: Proof,
    /// The nkey that proves it, if one does.
    pub(super) nkey: Option<Nkey>,
}

/// Names the permissions of a connection and the proof that it was admitted by.
/// nats-server tells it of each connection, as the end of its user's name, so
/// that any broker can find out what a connection has, whoever admitted it.
pub(super) type Mark = [u8; 8];

/// Between a workload's name, which does not hold it, and the mark.
pub(crate) const MARK: char = '~';

/// Lists of earlier policies that are remembered.
const MAX_FORMER: usize = 16_384;

/// How a connection stands to the policy in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has what it would get now.
    Current,
    /// It would get more.
    Behind,
    /// It has what it would not get, for this reason.
    Lost(&'static str),
}

fn mark(fingerprint: [u8; 8], proof: &Proof) -> Mark {
    let hash = sha256(&[&fingerprint, proof.bytes()]);
    let [a, b, c, d, e, f, g, h, ..] = hash;
    [a, b, c, d, e, f, g, h]
}

fn parse_mark(text: &str) -> Option<Mark> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

impl Grants {
    /// The same, for a connection by this proof.
    fn marked_for(&self, proof: &Proof) -> Self {
        match self {
            Self::Fixed(kept, fingerprint) => {
                Self::Fixed(Arc::clone(kept), mark(*fingerprint, proof))
            }
            Self::Circumstantial(policy) => Self::Circumstantial(Arc::clone(policy)),
        }
    }
}

/// What a workload's connections may do.
#[derive(Clone, Debug)]
enum Grants {
    /// Always and from everywhere the same.
    Fixed(Arc<Kept>, Mark),
    /// Compiled when one connects, because it depends on when and from where.
    Circumstantial(Arc<Policy>),
}

impl Admission {
    /// The name under which nats-server knows a connection with these
    /// permissions.
    pub(super) fn user(&self, permissions: &Permissions) -> String {
        let mark = self.marked(permissions.fingerprint());
        format!("{}{MARK}{}", self.workload, HEXLOWER.encode(&mark))
    }

    /// Whether the workload connects from this address.
    pub(super) fn is_from(&self, client: Option<IpAddr>) -> bool {
        self.networks
            .as_ref()
            .is_none_or(|networks| client.is_some_and(|client| networks.contain(client)))
    }

    /// These, without the right to write to the audit log.
    pub(super) fn silenced(&self, permissions: &Permissions) -> Permissions {
        let mut left = permissions.clone();
        left.without_audit(self.id.tag());
        left
    }

    /// What it is admitted by.
    pub(super) const fn proof(&self) -> &Proof {
        &self.proof
    }

    fn marked(&self, fingerprint: [u8; 8]) -> Mark {
        mark(fingerprint, &self.proof)
    }

    /// The mark that it would get now.
    fn mark(&self, circumstances: &Circumstances) -> Option<Mark> {
        match &self.grants {
            Grants::Fixed(_, mark) => Some(*mark),
            Grants::Circumstantial(_) => {
                let (permissions, _) = self.permissions(circumstances).ok()?;
                Some(mark(permissions.fingerprint(), &self.proof))
            }
        }
    }

    /// What a connection may do that is made under these circumstances, and
    /// until when that holds, if not for ever.
    pub(super) fn permissions(
        &self,
        circumstances: &Circumstances,
    ) -> Result<(Permissions, Option<UnixMillis>), PermissionError> {
        match &self.grants {
            Grants::Fixed(kept, _) => Ok((kept.permissions(), None)),
            Grants::Circumstantial(policy) => {
                let permissions = policy.permissions(&self.id, circumstances)?;
                let until = policy.next_change_of(&self.id, circumstances.now);
                Ok((permissions, until))
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
        let mut entries = Entries::default();
        for workload in policy.workloads() {
            let grants = if policy.depends_on_circumstances(workload.id()) {
                Grants::Circumstantial(Arc::clone(policy))
            } else {
                let any = Circumstances::at(UnixMillis::default());
                let permissions = policy.permissions(workload.id(), &any)?;
                let fingerprint = permissions.fingerprint();
                let kept = entries.keep(&permissions, workload);
                Grants::Fixed(Arc::new(kept), fingerprint)
            };
            admissions.register(workload, &grants)?;
        }
        Ok(admissions)
    }

    /// Whose keys have to be fetched.
    pub(super) fn key_sources(&self) -> Vec<KeySource> {
        self.by_token.sources()
    }

    fn register(&mut self, workload: &Workload, grants: &Grants) -> Result<(), AdmissionError> {
        let mut proofs = Vec::new();
        for nkey in workload.nkeys() {
            let key = VerifyingKey::from_nkey(nkey).map_err(|source| AdmissionError::Nkey {
                nkey: *nkey,
                workload: workload.name().clone(),
                source,
            })?;
            let proof = Proof::by_nkey(workload, nkey);
            self.by_nkey.insert(*nkey, (key, proof));
            proofs.push((proof, Some(*nkey)));
        }
        for token in workload.tokens() {
            let proof = Proof::by_token(workload, token);
            self.by_token.add(token, proof);
            proofs.push((proof, None));
        }
        let authorities = workload.anchors().authorities;
        if !authorities.is_empty() {
            let proof = Proof::by_certificate(workload);
            let id = workload.id().as_str().to_owned();
            self.by_certificate
                .insert(id, (authorities.to_vec(), proof));
            proofs.push((proof, None));
        }
        for (proof, nkey) in &proofs {
            let admission = Admission {
                workload: workload.name().clone(),
                id: workload.id().clone(),
                networks: workload.networks().cloned(),
                protocols: workload.protocols(),
                grants: grants.marked_for(proof),
                proof: *proof,
                nkey: *nkey,
            };
            self.by_proof.insert(*proof, admission);
        }
        let proofs = proofs.into_iter().map(|(proof, _)| proof).collect();
        self.by_name.insert(workload.name().clone(), proofs);
        Ok(())
    }

    /// These in the place of `before`: what its connections may do is remembered,
    /// so that what they lose can be told from what they gain.
    pub(super) fn after(mut self, before: &Self) -> Self {
        let own = before.by_proof.iter().filter_map(|(proof, held)| {
            let Grants::Fixed(kept, mark) = &held.grants else {
                return None;
            };
            Some((*mark, (*proof, Arc::clone(kept))))
        });
        self.former = own.collect();
        if self.former.len() + before.former.len() <= MAX_FORMER {
            for (mark, held) in &before.former {
                self.former.entry(*mark).or_insert_with(|| held.clone());
            }
        }
        self
    }

    /// The proof of this workload that begins so.
    pub(super) fn proven_by(&self, ticket: &Ticket) -> Option<&Admission> {
        let name = WorkloadName::parse(&ticket.workload).ok()?;
        let proofs = self.by_name.get(&name)?.iter();
        let mut held = proofs.filter(|proof| ticket::start(proof) == ticket.proof);
        self.by_proof.get(held.next()?)
    }

    /// How a connection stands by the buckets to which it has rights, if this mark
    /// is one that such a connection gets.
    fn by_buckets(
        &self,
        admission: &Admission,
        mark: Mark,
        circumstances: &Circumstances,
        found: &Found,
    ) -> Option<Standing> {
        if self.buckets.is_empty() {
            return None;
        }
        let (all, _) = admission.permissions(circumstances).ok()?;
        let is = |served: &BTreeSet<String>| {
            let left = buckets::only_served(&all, &self.buckets, served);
            admission.marked(left.fingerprint()) == mark
        };
        // Brokers may differ for a while in which buckets they have looked at.
        let names = self.buckets.iter().cloned();
        let fit: BTreeSet<String> = names.filter(|name| !found.unfit.contains(name)).collect();
        if is(&found.served) || is(&fit) {
            Some(Standing::Current)
        } else if is(&self.buckets.iter().cloned().collect()) {
            Some(Standing::Lost("bucket_unfit"))
        } else {
            is(&BTreeSet::new()).then_some(Standing::Behind)
        }
    }

    /// Whether this mark is one that a connection gets which may not write to the audit
    /// log.
    fn is_silenced(
        &self,
        admission: &Admission,
        mark: Mark,
        circumstances: &Circumstances,
        found: &Found,
    ) -> bool {
        let Ok((all, _)) = admission.permissions(circumstances) else {
            return false;
        };
        let silenced = admission.silenced(&all);
        let left = buckets::only_served(&silenced, &self.buckets, &found.served);
        admission.marked(left.fingerprint()) == mark
    }

    /// How a connection stands that was admitted under this name, from this
    /// address.
    pub(super) fn standing(
        &self,
        user: &str,
        is_silent: bool,
        circumstances: &Circumstances,
        found: &Found,
    ) -> Standing {
        // In operator mode a ticket follows.
        let mut parts = user.split(MARK);
        let (name, mark) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let proofs = WorkloadName::parse(name).ok();
        let Some(proofs) = proofs.and_then(|name| self.by_name.get(&name)) else {
            return Standing::Lost("workload_dropped");
        };
        let Some(mark) = parse_mark(mark) else {
            return Standing::Lost("permissions_unknown");
        };
        let admitted = proofs.iter().filter_map(|proof| self.by_proof.get(proof));
        let mut now = Vec::with_capacity(proofs.len());
        for admission in admitted {
            if !admission.is_from(circumstances.client) {
                return Standing::Lost("network_not_allowed");
            }
            if is_silent {
                if self.is_silenced(admission, mark, circumstances, found) {
                    return Standing::Current;
                }
                continue;
            }
            match admission.mark(circumstances) {
                Some(current) if current == mark && found.unfit.is_empty() => {
                    return Standing::Current;
                }
                _ => now.push(admission),
            }
            if let Some(standing) = self.by_buckets(admission, mark, circumstances, found) {
                return standing;
            }
        }
        if is_silent {
            return Standing::Lost("audit_quota");
        }
        // It was silent, and may speak again.
        let was_silent =
            |admission: &&Admission| self.is_silenced(admission, mark, circumstances, found);
        if now.iter().any(was_silent) {
            return Standing::Lost("audit_quota_over");
        }
        let Some((proof, old)) = self.former.get(&mark) else {
            return Standing::Lost("permissions_changed");
        };
        let Some(admission) = now.into_iter().find(|admission| admission.proof == *proof) else {
            return Standing::Lost("key_dropped");
        };
        let Ok((new, _)) = admission.permissions(circumstances) else {
            return Standing::Lost("permissions_changed");
        };
        match new.change_from(&old.permissions()) {
            AdmissionChange::Same => Standing::Current,
            AdmissionChange::Gains => Standing::Behind,
            AdmissionChange::Loses => Standing::Lost("permissions_changed"),
        }
    }
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

#[cfg(test)]
mod tests;

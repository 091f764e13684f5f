//! A workload as the policy declares it, and what its rules grant.

use std::sync::Arc;

use bulla_identity::{Nkey, SubjectPattern, WorkloadId, WorkloadName, WorkloadTag};
use bulla_keyring::{Anchors, CertificateAuthorities};

use crate::circumstances::Networks;
use crate::exchange::Starts;
use crate::rule::{Effect, Verb};
use crate::source::Place;
use crate::token_issuer::{Protocols, TokenProof};
/// A workload as the policy declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub(super) name: WorkloadName,
    pub(super) id: WorkloadId,
    pub(super) tag: WorkloadTag,
    pub(super) nkeys: Vec<Nkey>,
    /// Those of them that vouch for credentials.
    pub(super) vouching: Vec<Nkey>,
    pub(super) authorities: Vec<Arc<CertificateAuthorities>>,
    pub(super) tokens: Vec<TokenProof>,
    pub(super) brokers_vouch: bool,
    pub(super) networks: Option<Networks>,
    pub(super) protocols: Protocols,
    pub(super) mints: bool,
    pub(super) reach: Option<Vec<Box<str>>>,
    pub(super) exchanges: bool,
    pub(super) starts: Option<Starts>,
    pub(super) discoverable: bool,
    pub(super) discovers: bool,
}

impl Workload {
    /// Its short name, which is also its queue group.
    #[must_use]
    pub fn name(&self) -> &WorkloadName {
        &self.name
    }

    /// Its SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &WorkloadId {
        &self.id
    }

    /// The hash that names it in subjects.
    #[must_use]
    pub fn tag(&self) -> WorkloadTag {
        self.tag
    }

    /// The public keys that it connects with, and that its keys for encryption
    /// are derived from. Without any it is no recipient of anything encrypted but
    /// replies.
    #[must_use]
    pub fn nkeys(&self) -> &[Nkey] {
        &self.nkeys
    }

    /// What vouches for its message credentials: any one of these.
    #[must_use]
    pub fn anchors(&self) -> Anchors<'_> {
        Anchors {
            nkeys: &self.vouching,
            authorities: &self.authorities,
            brokers: self.brokers_vouch,
        }
    }

    /// The tokens that prove it when it connects.
    #[must_use]
    pub fn tokens(&self) -> &[TokenProof] {
        &self.tokens
    }

    /// From where it may connect; `None`: from everywhere.
    #[must_use]
    pub fn networks(&self) -> Option<&Networks> {
        self.networks.as_ref()
    }

    /// By what it may connect.
    #[must_use]
    pub fn protocols(&self) -> Protocols {
        self.protocols
    }

    /// Whether it may mint transaction tokens.
    #[must_use]
    pub fn mints(&self) -> bool {
        self.mints
    }

    /// Whether it exchanges tokens for every workload: those that it mints say
    /// that they are another's.
    #[must_use]
    pub fn exchanges(&self) -> bool {
        self.exchanges
    }

    /// Whether its services answer the discovery of NATS (POL-190).
    #[must_use]
    pub fn discoverable(&self) -> bool {
        self.discoverable
    }

    /// Whether it may ask which services there are, and gets their plain answers.
    #[must_use]
    pub fn discovers(&self) -> bool {
        self.discovers
    }

    /// On whose behalf it may start a chain of calls, if at all.
    #[must_use]
    pub fn starts(&self) -> Option<&Starts> {
        self.starts.as_ref()
    }

    /// The audiences that the tokens which it mints may reach at most; `None`:
    /// all, if it mints at all.
    #[must_use]
    pub fn reach(&self) -> Option<&[Box<str>]> {
        self.reach.as_deref()
    }

    /// Whether the tokens that it mints may reach this audience.
    #[must_use]
    pub fn may_reach(&self, audience: &str) -> bool {
        let at_most = self.reach.as_ref();
        self.mints && at_most.is_none_or(|names| names.iter().any(|name| **name == *audience))
    }
}

/// One grant or deny of a workload, for a listing.
#[derive(Debug, Clone, Copy)]
pub struct Grant<'p> {
    /// The rule's id.
    pub rule: &'p str,
    /// Where the rule stands in its file.
    pub line: u32,
    /// Where the rule stands.
    pub place: &'p Place,
    /// Allow or deny.
    pub effect: Effect,
    /// One verb.
    pub verb: Verb,
    /// One pattern.
    pub pattern: &'p SubjectPattern,
    /// Whether it depends on the user.
    pub conditional: bool,
}

//! What can be recorded.

use std::collections::BTreeMap;

use bulla_identity::{TrustDomain, UnixMillis};
use bulla_keyring::{Tag, sha256};
use bulla_policy::{DecisionRecord, RuleUse};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The writer began: the first entry of every chain.
    Start(Started),
    /// The key by which the heads that follow are signed.
    Key(Key),
    /// A trust bundle that a broker went by from now on.
    Bundle(BundleInForce),
    /// A decision.
    Decision(Box<DecisionRecord>),
    /// What the writer had to leave out.
    Gap(Gap),
    /// How often which grants were used.
    Uses(Uses),
    /// A message credential was issued.
    Credential(CredentialIssued),
    /// A user's token was exchanged, or a chain of calls started.
    Token(TokenMinted),
    /// A policy that a broker went by from now on.
    Policy(PolicyInForce),
    /// A revocation list that a broker went by from now on.
    Revocations(RevocationsInForce),
    /// A broker ended a connection.
    ConnectionEnded(ConnectionEnded),
    /// A workload wrote more to the log than is its share.
    OverQuota(OverQuota),
    /// How far the chain goes, signed.
    Head(Sealed),
    /// The writer ended as it should: the last entry but for a head.
    Stop(Stopped),
}

impl Event {
    /// The word for it in a record and for filters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::Key(_) => "key",
            Self::Bundle(_) => "bundle",
            Self::Decision(_) => "decision",
            Self::Gap(_) => "gap",
            Self::Uses(_) => "uses",
            Self::Credential(_) => "credential",
            Self::Token(_) => "token",
            Self::Policy(_) => "policy",
            Self::Revocations(_) => "revocations",
            Self::ConnectionEnded(_) => "connection_ended",
            Self::OverQuota(_) => "over_quota",
            Self::Head(_) => "head",
            Self::Stop(_) => "stop",
        }
    }

    /// The end of a chain.
    #[must_use]
    pub const fn stop() -> Self {
        Self::Stop(Stopped {})
    }

    /// The decision in it, if it is one.
    #[must_use]
    pub const fn decision(&self) -> Option<&DecisionRecord> {
        match self {
            Self::Decision(decision) => Some(decision),
            _ => None,
        }
    }
}

/// Who began to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Started {
    /// The trust domain.
    pub trust_domain: String,
    /// The workload's short name; of a broker, empty.
    pub workload: String,
    /// The program's version.
    pub version: String,
    /// Of how many allowed messages one is recorded.
    pub sample: u64,
}

/// The key by which heads are signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The message key of this credential, as it lies on the control stream,
    /// base64.
    Credential(String),
    /// A broker's issuing key, 32 bytes in lower-case hexadecimal.
    Issuing(String),
}

/// A trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleInForce {
    /// Its version.
    pub version: u64,
    /// The signed record, base64: it proves itself.
    pub record: String,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyInForce {
    /// Its revision.
    pub revision: u64,
    /// SHA-256 of its signed record, lower-case hexadecimal.
    pub hash: String,
}

/// A revocation list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationsInForce {
    /// Its sequence.
    pub sequence: u64,
    /// How many entries it has.
    pub entries: u64,
    /// SHA-256 of its signed record, lower-case hexadecimal.
    pub hash: String,
}

/// What is missing in the chain, in number: nothing is left out in silence.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// Refusals that are not in the log.
    pub denies: u64,
    /// Sampled allows that are not.
    pub allows: u64,
    /// Everything else.
    pub others: u64,
    /// When the first of them happened, Unix milliseconds.
    pub from: u64,
    /// When the last did.
    pub to: u64,
    /// The refusals by their reason's code, the most frequent ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
}

impl Gap {
    /// Whether nothing is missing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.denies == 0 && self.allows == 0 && self.others == 0
    }
}

/// How often grants were used since the last such entry; those that were not are
/// not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uses {
    /// Since when, Unix milliseconds.
    pub from: u64,
    /// Until when.
    pub to: u64,
    /// The grants.
    pub rules: Vec<RuleUse>,
    /// Uses of grants that there was no room to count one by one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted: u64,
}

/// A message credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialIssued {
    /// For which workload.
    pub workload: String,
    /// Its key id.
    pub key_id: String,
    /// When it ends, Unix milliseconds.
    pub expires: u64,
    /// The decision's id.
    pub id: String,
}

/// A user's token that was minted in the place of another, or to start a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenMinted {
    /// For which workload.
    pub workload: String,
    /// `exchanged` or `started`.
    pub how: String,
    /// What stands for the user's name.
    pub user: String,
    /// The call chain.
    pub txn: String,
    /// The scopes.
    pub scope: String,
    /// For how many seconds.
    pub expires_in: u64,
    /// The decision's id.
    pub id: String,
}

/// A connection that a broker ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionEnded {
    /// Whose.
    pub workload: String,
    /// On which server.
    pub server: String,
    /// Its number there.
    pub cid: u64,
    /// Whether the server confirmed.
    pub done: bool,
    /// Why.
    pub reason: String,
}

/// A workload that has used up its share of the log: what it would write until then is
/// not taken. Its own processes count what they leave out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverQuota {
    /// Which.
    pub workload: String,
    /// How much it wrote, as this broker has seen, in bytes.
    pub wrote: u64,
    /// Until when nothing of it is taken, Unix milliseconds.
    pub until: u64,
}

/// A head: entry number − 1 and the `prev` of its own entry are what is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// SHA-256 of the credential, or the issuing key: lower-case hexadecimal.
    pub key: String,
    /// The signature, base64.
    pub signature: String,
}

/// The end of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stopped {}

/// What stands for a user's name: 16 hexadecimal digits of a hash over domain and
/// name.
///
/// # Security
/// Whoever has a list of names can compute them all: it keeps a name out of the
/// log, not from somebody who guesses it.
#[must_use]
pub fn pseudonym(domain: &TrustDomain, principal: &str) -> String {
    let domain = domain.as_str().as_bytes();
    let len = (domain.len() as u64).to_be_bytes();
    let hash = sha256(&[
        Tag::AuditUser.as_bytes(),
        &len,
        domain,
        principal.as_bytes(),
    ]);
    HEXLOWER.encode(hash.get(..8).unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The milliseconds of a time, as entries hold them.
pub(crate) const fn millis(at: UnixMillis) -> u64 {
    at.as_millis()
}

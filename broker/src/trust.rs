//! What a broker believes: trust bundle, policy and revocation list, all verified.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{
    Holdings, Mark, RevocationError, RevocationList, SignedPolicy, SuccessionError, TrustBundle,
    TrustError,
};
use bulla_identity::{TrustDomain, UnixMillis, Verified, WorkloadId, WorkloadName};
use bulla_keyring::VerifyingKey;
use bulla_policy::{Policy, PolicyErrors};
use bytes::Bytes;

use crate::config::BrokerConfig;
use crate::kick::Outcasts;

/// A verified bundle with the bytes that prove it.
#[derive(Clone, Debug)]
pub(crate) struct HeldBundle {
    pub(crate) bytes: Bytes,
    pub(crate) bundle: Verified<TrustBundle>,
}

/// A verified policy with the bytes that prove it.
#[derive(Clone)]
pub(crate) struct HeldPolicy {
    pub(crate) bytes: Bytes,
    pub(crate) signed: Verified<SignedPolicy>,
    pub(crate) policy: Arc<Policy>,
}

/// A verified revocation list with the bytes that prove it.
#[derive(Clone, Debug)]
pub(crate) struct HeldRevocations {
    pub(crate) bytes: Bytes,
    pub(crate) list: Verified<RevocationList>,
}

/// What a broker goes by. It is replaced as a whole, see [`crate::follow`].
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) bundle: HeldBundle,
    pub(crate) policy: HeldPolicy,
    /// Nothing as long as nothing was ever revoked.
    pub(crate) revocations: Option<HeldRevocations>,
    /// Whether the bundle names the key that signed the policy.
    is_vouched: bool,
}

impl Held {
    /// All of it together, from now on.
    pub(crate) fn new(
        bundle: HeldBundle,
        policy: HeldPolicy,
        revocations: Option<HeldRevocations>,
        now: UnixMillis,
    ) -> Self {
        let opened = bundle.signed_policy(&policy.bytes, now);
        let is_vouched = !matches!(opened, Err(TrustFault::Policy(TrustError::UnknownKey)));
        Self {
            bundle,
            policy,
            revocations,
            is_vouched,
        }
    }

    /// The same with another revocation list.
    pub(crate) fn with_revocations(&self, revocations: HeldRevocations) -> Self {
        Self {
            revocations: Some(revocations),
            ..self.clone()
        }
    }

    /// Whether the bundle names the key that signed the policy. If not, nobody
    /// is admitted and nothing issued by it.
    pub(crate) const fn is_vouched(&self) -> bool {
        self.is_vouched
    }

    /// What it is, for a head.
    pub(crate) fn names(&self) -> Holdings {
        Holdings {
            bundle: self.bundle.bundle.version,
            policy: Mark::of(self.policy.signed.revision, &self.policy.bytes),
            revocations: self
                .revocations
                .as_ref()
                .map_or_else(Mark::default, |held| {
                    Mark::of(held.list.sequence, &held.bytes)
                }),
        }
    }

    /// Whether the workload is revoked.
    pub(crate) fn is_revoked(&self, workload: &WorkloadId) -> bool {
        let list = self.revocations.as_ref().map(|held| &held.list);
        list.is_some_and(|list| list.workload_since(workload).is_some())
    }

    /// The revoked workloads, by name.
    pub(crate) fn outcasts(&self) -> Outcasts {
        let list = self.revocations.as_ref().map(|held| &held.list);
        let names = list
            .into_iter()
            .flat_map(|list| list.workloads())
            .filter_map(|id| WorkloadName::parse(id.path()).ok());
        Arc::new(names.collect())
    }

    /// The list of this record if it is newer than ours, nothing if it is ours.
    pub(crate) fn newer_revocations(
        &self,
        record: &Bytes,
        now: UnixMillis,
    ) -> Result<Option<HeldRevocations>, TrustFault> {
        let Some(held) = &self.revocations else {
            return self.bundle.revocations(record, now).map(Some);
        };
        if *record == held.bytes {
            return Ok(None);
        }
        let offered = self.bundle.revocations(record, now)?;
        offered
            .check_succession(held)
            .map_err(|source| TrustFault::Succession {
                what: "revocation list",
                source,
            })?;
        Ok((offered.list.sequence > held.list.sequence).then_some(offered))
    }

    /// The bundle of this record if it is newer than ours, nothing if it is ours.
    pub(crate) fn newer_bundle(
        &self,
        anchor: &Anchor,
        record: &Bytes,
        now: UnixMillis,
    ) -> Result<Option<HeldBundle>, TrustFault> {
        if *record == self.bundle.bytes {
            return Ok(None);
        }
        // The succession says which of the roots still count.
        let offered = anchor.and_roots_of(&self.bundle).bundle(record, now)?;
        offered
            .check_succession(&self.bundle)
            .map_err(|source| TrustFault::Succession {
                what: "trust bundle",
                source,
            })?;
        Ok((offered.bundle.version > self.bundle.bundle.version).then_some(offered))
    }

    /// The policy of this record if it is newer than ours, nothing if it is
    /// ours. Its text is not read yet: an old one must not cost what a new one
    /// does.
    pub(crate) fn newer_policy(
        &self,
        record: &Bytes,
        now: UnixMillis,
    ) -> Result<Option<Verified<SignedPolicy>>, TrustFault> {
        if *record == self.policy.bytes {
            return Ok(None);
        }
        let offered = self.bundle.signed_policy(record, now)?;
        offered
            .check_succession(&self.policy.signed)
            .map_err(|source| TrustFault::Succession {
                what: "policy",
                source,
            })?;
        // The same by another key counts where the first key counts no more.
        let is_newer = offered.revision > self.policy.signed.revision || !self.is_vouched();
        Ok(is_newer.then_some(offered))
    }
}

/// Something of which a newer one replaces an older one, and never the reverse.
pub(crate) trait Succession {
    fn bytes(&self) -> &Bytes;
    fn check_succession(&self, held: &Self) -> Result<(), SuccessionError>;
}

impl Succession for HeldBundle {
    fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn check_succession(&self, held: &Self) -> Result<(), SuccessionError> {
        self.bundle.check_succession(&held.bundle)
    }
}

impl Succession for HeldPolicy {
    fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn check_succession(&self, held: &Self) -> Result<(), SuccessionError> {
        self.signed.check_succession(&held.signed)
    }
}

impl Succession for HeldRevocations {
    fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn check_succession(&self, held: &Self) -> Result<(), SuccessionError> {
        self.list.check_succession(&held.list)
    }
}

/// Whom a bundle must come from.
#[derive(Clone, Debug)]
pub(crate) struct Anchor {
    roots: Vec<VerifyingKey>,
    domain: TrustDomain,
}

impl Anchor {
    pub(crate) fn of(config: &BrokerConfig) -> Self {
        Self {
            roots: config.roots.iter().map(|r| *r.verifying_key()).collect(),
            domain: config.trust_domain.clone(),
        }
    }

    /// Also what a root of this bundle signed: its own, which may have followed
    /// the pinned one, and those before it.
    pub(crate) fn and_roots_of(&self, held: &HeldBundle) -> Self {
        let mut wider = self.clone();
        wider.roots.push(held.bundle.root);
        let former = held.bundle.former_roots.iter();
        wider.roots.extend(former.map(|former| *former.key()));
        wider
    }

    /// Opens a bundle.
    pub(crate) fn bundle(&self, bytes: &Bytes, now: UnixMillis) -> Result<HeldBundle, TrustFault> {
        let bundle = TrustBundle::open(bytes, &self.roots, &self.domain, now, CLOCK_SKEW)
            .map_err(TrustFault::Bundle)?;
        Ok(HeldBundle {
            bytes: bytes.clone(),
            bundle,
        })
    }
}

impl HeldBundle {
    /// Opens and reads a policy that a policy key of this bundle signed.
    pub(crate) fn policy(&self, bytes: &Bytes, now: UnixMillis) -> Result<HeldPolicy, TrustFault> {
        HeldPolicy::read(bytes.clone(), self.signed_policy(bytes, now)?)
    }

    /// Proves that a policy key of this bundle signed it, and does not read it.
    pub(crate) fn signed_policy(
        &self,
        bytes: &Bytes,
        now: UnixMillis,
    ) -> Result<Verified<SignedPolicy>, TrustFault> {
        SignedPolicy::open(bytes, &self.bundle, now, CLOCK_SKEW).map_err(TrustFault::Policy)
    }

    /// Opens a revocation list that a policy key of this bundle signed.
    pub(crate) fn revocations(
        &self,
        bytes: &Bytes,
        now: UnixMillis,
    ) -> Result<HeldRevocations, TrustFault> {
        let list = RevocationList::open(bytes, &self.bundle, now, CLOCK_SKEW)
            .map_err(TrustFault::Revocations)?;
        Ok(HeldRevocations {
            bytes: bytes.clone(),
            list,
        })
    }

    /// When the key may no longer issue, or nothing if it never might.
    pub(crate) fn issues_until(&self, key: &VerifyingKey) -> Option<UnixMillis> {
        self.bundle
            .issuing
            .iter()
            .find(|issuing| issuing.key == *key)
            .map(|issuing| issuing.expires_at.min(self.bundle.expires_at))
    }
}

impl HeldPolicy {
    /// Reads the text of what was opened from `bytes`.
    pub(crate) fn read(bytes: Bytes, signed: Verified<SignedPolicy>) -> Result<Self, TrustFault> {
        let name = format!("policy revision {}", signed.revision);
        let policy = Policy::parse(&name, &signed.text).map_err(TrustFault::PolicyText)?;
        // The signature says for whom it is; the text must say the same.
        if *policy.trust_domain() != signed.trust_domain {
            return Err(TrustFault::Policy(TrustError::ForeignDomain));
        }
        Ok(Self {
            bytes,
            signed,
            policy: Arc::new(policy),
        })
    }
}

/// Why a bundle or a policy is not believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustFault {
    /// The bundle does not hold under the pinned root.
    #[error("the trust bundle does not hold under the pinned trust root")]
    Bundle(#[source] TrustError),
    /// The policy does not hold under the bundle.
    #[error("the signed policy does not hold under the trust bundle")]
    Policy(#[source] TrustError),
    /// The revocation list does not hold under the bundle. It is not passed over:
    /// a policy key of the bundle has to sign it again.
    #[error(
        "the revocation list does not hold under the trust bundle: sign it again with a policy key that the bundle names"
    )]
    Revocations(#[source] RevocationError),
    /// A broker has seen a newer list than the one that is there.
    #[error(
        "brokers have seen revocation list {named}, and the control stream holds {held}: publish the newest one again"
    )]
    RevocationsLost {
        /// What the newest head names.
        named: u64,
        /// What is there; 0 if nothing is.
        held: u64,
    },
    /// The policy's text is not a policy.
    #[error("the signed policy does not load")]
    PolicyText(#[source] PolicyErrors),
    /// Ours and the stored one contradict each other.
    #[error("the {what} contradicts the one on the control stream")]
    Contradiction {
        /// `trust bundle` or `policy`.
        what: &'static str,
        /// How.
        source: SuccessionError,
    },
    /// It may not follow the one that is held.
    #[error("the {what} does not follow the one that is held")]
    Succession {
        /// `trust bundle` or `policy`.
        what: &'static str,
        /// How.
        source: SuccessionError,
    },
    /// The policy's key is gone.
    #[error(
        "the policy in force is signed by a key that the trust bundle does not name: sign it with one that it names"
    )]
    Unvouched,
    /// The bundle does not let this broker issue.
    #[error(
        "the trust bundle does not name this broker's issuing key, or no longer: sign a bundle that does"
    )]
    NotAnIssuer,
}

impl TrustFault {
    /// Whether it is sound, and older than what is held.
    pub(crate) const fn is_rollback(&self) -> bool {
        matches!(
            self,
            Self::Succession {
                source: SuccessionError::Rollback { .. },
                ..
            }
        )
    }

    /// Whether it was sound once: its time is over, or its signer is no longer
    /// trusted.
    pub(crate) fn is_outlived(&self) -> bool {
        match self {
            Self::Bundle(error) => *error == TrustError::Expired,
            Self::Policy(error) => matches!(error, TrustError::Expired | TrustError::UnknownKey),
            // Whatever it revokes stays revoked.
            Self::Revocations(_)
            | Self::RevocationsLost { .. }
            | Self::PolicyText(_)
            | Self::Contradiction { .. }
            | Self::Succession { .. }
            | Self::Unvouched
            | Self::NotAnIssuer => false,
        }
    }
}

/// By how much the clocks of this deployment may differ.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(10);

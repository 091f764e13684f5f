//! What the commands share that speak to a running deployment: the policy in
//! force, its history, how the next revision is signed and published, and who
//! runs which.

mod change;
mod confirm;
mod enforcers;
mod publish;

use bulla_envelope::{SignedPolicy, TrustError};
use bulla_identity::{TrustDomain, reserved};
use bulla_keyring::{AuthorityKey, AuthorityRole, VerifyingKey};
use bulla_policy::{Policy, PolicyErrors};
use bytes::Bytes;
use data_encoding::HEXLOWER;

use crate::cli::operator::{OperatorArgs, OperatorError};
use crate::clock;
use crate::control::StreamError;
use crate::operator_client::OperatorClient;
use crate::provision::ProvisionError;
use crate::stored::NoAnswer;
use crate::trust::CLOCK_SKEW;
use crate::trust_dir::SignerError;

pub(super) use change::{Change, ask};
pub(super) use confirm::confirm;
pub(super) use enforcers::{Enforcer, Fitness, Overview, overview};
pub(super) use publish::{Published, publish};

/// What an operator works at.
pub(super) struct Desk<'a> {
    pub(super) args: &'a OperatorArgs,
    pub(super) operator: OperatorClient,
}

/// A policy as it lies on a stream, and who signed it.
pub(super) struct Revision {
    /// Its place on the control stream; 0 for one of the history.
    pub(super) sequence: u64,
    pub(super) record: Bytes,
    pub(super) signed: SignedPolicy,
    pub(super) key: VerifyingKey,
}

impl<'a> Desk<'a> {
    pub(super) async fn open(args: &'a OperatorArgs) -> Result<Self, LifecycleError> {
        let operator = args.connect().await?;
        Ok(Self { args, operator })
    }

    pub(super) fn domain(&self) -> &TrustDomain {
        &self.operator.bundle.trust_domain
    }

    /// The policy in force. A policy key of the bundle in force signed it.
    pub(super) async fn in_force(&self) -> Result<Revision, LifecycleError> {
        let record = self.operator.stream.last(reserved::CTL_POLICY).await?;
        let record = record.ok_or(LifecycleError::NoPolicy)?;
        SignedPolicy::open(
            &record.payload,
            &self.operator.bundle,
            clock::now(),
            CLOCK_SKEW,
        )
        .map_err(LifecycleError::Policy)?;
        let mut revision = self.read(record.payload)?;
        revision.sequence = record.sequence;
        Ok(revision)
    }

    /// A revision of the history, whoever signed it.
    pub(super) async fn revision(&self, number: u64) -> Result<Revision, LifecycleError> {
        let subject = reserved::policy_history(number);
        let stored = self
            .operator
            .stored(reserved::HISTORY_STREAM, &subject)
            .await?;
        let stored = stored.into_iter().next();
        let stored = stored.ok_or(LifecycleError::NoRevision(number))?;
        self.read(stored.payload)
    }

    fn read(&self, record: Bytes) -> Result<Revision, LifecycleError> {
        let (signed, key) = SignedPolicy::danger_open_by_its_own_key(&record, self.domain())
            .map_err(LifecycleError::Policy)?;
        Ok(Revision {
            sequence: 0,
            record,
            signed,
            key,
        })
    }

    /// Whether nats-server takes a record of this size.
    pub(super) fn fits(&self, record: &[u8]) -> Result<(), LifecycleError> {
        let limit = self.operator.client().server_info().max_payload;
        // Room for what is said beside it.
        let limit = limit.min(MAX_STORED).saturating_sub(1024);
        if record.len() > limit {
            return Err(LifecycleError::TooLarge {
                limit,
                actual: record.len(),
            });
        }
        Ok(())
    }

    /// Whether the trust bundle in force still names who signed it.
    pub(super) fn is_trusted(&self, key: &VerifyingKey) -> bool {
        self.operator.bundle.policy_keys.contains(key)
    }
}

impl Revision {
    /// The policy, which every enforcer could read when it was in force.
    pub(super) fn policy(&self) -> Result<Policy, LifecycleError> {
        let name = format!("revision {}", self.signed.revision);
        Policy::parse(&name, &self.signed.text).map_err(LifecycleError::Text)
    }

    /// Who signed it, as operators write it.
    pub(super) fn signer(&self) -> String {
        AuthorityKey::from_bytes(AuthorityRole::Policy, self.key.as_bytes())
            .map_or_else(|_| HEXLOWER.encode(self.key.as_bytes()), |k| k.to_string())
    }
}

/// The control stream takes no larger record.
const MAX_STORED: usize = 1024 * 1024;

/// The longest text that fits such a record whatever is said beside it: headers, a
/// comment, the signature.
pub(super) const MAX_SIGNED_TEXT: usize = MAX_STORED - 3 * 1024;

/// Why a deployment's policy could not be looked at or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LifecycleError {
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error(transparent)]
    File(#[from] ProvisionError),
    #[error("the control stream holds no policy: does a broker run?")]
    NoPolicy,
    #[error("the history holds no revision {0}: `bulla policy history` lists those that it holds")]
    NoRevision(u64),
    #[error("the policy does not hold")]
    Policy(#[source] TrustError),
    #[error("the policy on the stream does not load in this version of bulla: {0}")]
    Text(PolicyErrors),
    #[error("the policy is for the trust domain `{policy}`, and the deployment is `{deployment}`")]
    Domain {
        policy: TrustDomain,
        deployment: TrustDomain,
    },
    #[error("nobody would take it")]
    Sign(#[source] TrustError),
    #[error(
        "revision {actual} is in force, not revision {expected}: nothing was changed; look at what was done with `bulla policy show`, and apply again"
    )]
    Moved { expected: u64, actual: u64 },
    #[error(
        "the signed policy has {actual} bytes, and nats-server takes {limit}: split the deployment, or write rules for groups"
    )]
    TooLarge { limit: usize, actual: usize },
    #[error("nobody can be asked here: say --yes, or run it in a terminal")]
    NobodyToAsk,
    #[error("the comment is longer than {} bytes", bulla_envelope::MAX_COMMENT)]
    Comment,
}

//! Chains of calls: a received message is to prove the messages that led to it,
//! and is kept so that what is sent in its handling can do the same.
//!
//! ```text
//! received: ancestors ─► credentials as they were ─► proofs ─► token, times, minter ─► who may do what
//! to send:  context's message + what it showed ─► shown with the next one
//! ```
//!
//! A user's token counts on such a subject only if it came there through calls
//! that the policy allows, from the workload that minted it. So a service that was
//! given a token can use it for what it was asked, and nowhere else.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bulla_envelope::{
    Ancestor, Ancestry, AncestryError, ChainError, Kind, LeafHash, Limits, Lineage, OpenedEnvelope,
};
use bulla_identity::{Subject, UnixMillis, WorkloadId};
use bulla_policy::{APPEND_LIFE, Decision, Denial, Policy, Replay, Request, Requirements, Verb};

use crate::context::Context;
use crate::control::{AsOf, LookupError, Unusable};
use crate::shared::Shared;
use crate::user::User;

/// One of the messages that led to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hop {
    /// Its sender's signature was verified, and everything that its receiver had
    /// to check, but for its contents.
    Proven {
        /// Who sent it.
        workload: WorkloadId,
        /// Where to.
        subject: Subject,
        /// Its name, by which an audit finds it.
        message: LeafHash,
        /// When, by the sender's clock.
        issued_at: UnixMillis,
    },
    /// The sender of the message after it says that there was one.
    Reported {
        /// The name that it was given.
        message: LeafHash,
    },
}

impl Hop {
    /// Whether a signature proves it.
    #[must_use]
    pub const fn is_proven(&self) -> bool {
        matches!(self, Self::Proven { .. })
    }

    /// Who sent it, if that is proven.
    #[must_use]
    pub const fn workload(&self) -> Option<&WorkloadId> {
        match self {
            Self::Proven { workload, .. } => Some(workload),
            Self::Reported { .. } => None,
        }
    }

    /// Where it went, if that is proven.
    #[must_use]
    pub const fn subject(&self) -> Option<&Subject> {
        match self {
            Self::Proven { subject, .. } => Some(subject),
            Self::Reported { .. } => None,
        }
    }

    /// Its name: what the message after it calls its parent.
    #[must_use]
    pub const fn message(&self) -> LeafHash {
        match self {
            Self::Proven { message, .. } | Self::Reported { message } => *message,
        }
    }
}

/// Why a chain does not count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChainRefusal {
    #[error("the chain of calls does not hold")]
    Chain(#[from] ChainError),
    #[error("no usable credential of an ancestor's sender")]
    Credential(#[from] LookupError),
    #[error("an ancestor's subject is none that Bulla accepts")]
    Subject,
    #[error("an ancestor's sender may not send it: {0}")]
    Sender(Box<Denial>),
    #[error("a message was sent by a workload that may not receive the one that led to it")]
    Receiver,
}

impl ChainRefusal {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Chain(e) => e.code(),
            Self::Credential(lookup) => match lookup.unusable() {
                Unusable::Unreachable => "chain_credential_unreachable",
                Unusable::Unknown => "chain_credential_unknown",
                Unusable::Revoked => "chain_credential_revoked",
                Unusable::NotInTime => "chain_credential_not_in_time",
                Unusable::Untrusted => "chain_credential_untrusted",
            },
            Self::Subject => "chain_subject",
            Self::Sender(_) => "chain_sender_not_granted",
            Self::Receiver => "chain_receiver_not_granted",
        }
    }
}

/// What a message is to show cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// Nothing led to it that carried this user.
    #[error(
        "it is not sent in the handling of a message with this user's token, whose chains begin with `{minter}`: send it from that handler, or in its context"
    )]
    NoParent {
        /// Who may begin a chain with the token.
        minter: String,
    },
    /// What led to it did not show what led to that.
    #[error(
        "the message in whose handling it is sent came on `{received_on}` without its own chain: let that subject say chain = \"proven\" too"
    )]
    Incomplete {
        /// Where it came.
        received_on: String,
    },
    /// It was not kept, because no policy asked for it when it came.
    #[error(
        "the policy has come to ask for a chain since the message came in whose handling it is sent"
    )]
    NotKept,
    /// The chain has become too long.
    #[error("the chain of calls is too long to be shown")]
    TooLong(#[from] AncestryError),
}

/// What is kept of a received message for those that are sent in its handling.
pub(crate) struct Past {
    subject: Subject,
    user: Option<User>,
    lineage: Lineage,
    /// Once one of them has needed it.
    shown: OnceLock<Result<Ancestry, AncestryError>>,
}

impl Past {
    fn show(&self) -> Result<Ancestry, ProofError> {
        match self.shown.get_or_init(|| self.lineage.ancestry()) {
            Ok(ancestry) => Ok(ancestry.clone()),
            Err(AncestryError::Incomplete) => Err(ProofError::Incomplete {
                received_on: self.subject.as_str().to_owned(),
            }),
            Err(error) => Err((*error).into()),
        }
    }
}

/// Shows where it came, never what.
impl fmt::Debug for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Past").field(&self.subject).finish()
    }
}

/// The parent that a message is to name where chains are proven, and what it is
/// to show; nothing of both at the beginning of a chain.
pub(crate) fn show(
    own: &WorkloadId,
    context: &Context,
    user: &User,
) -> Result<Option<Ancestry>, ProofError> {
    // With whom a token begins, its chains begin, whatever that one is handling.
    let minter = user.minter();
    if minter == own.as_str() {
        return Ok(None);
    }
    let is_users = |of: Option<&User>| of.is_some_and(|of| of.has_same_token(user));
    match &context.past {
        Some(past) if is_users(past.user.as_ref()) => past.show().map(Some),
        None if is_users(context.user()) && context.parent.is_some() => Err(ProofError::NotKept),
        _ => Err(ProofError::NoParent {
            minter: minter.to_owned(),
        }),
    }
}

impl Shared {
    /// What to keep of a message that was received, if this workload ever has to
    /// show it.
    pub(crate) fn past_of(
        &self,
        subject: &Subject,
        opened: &OpenedEnvelope,
        user: Option<&User>,
    ) -> Option<Arc<Past>> {
        let policy = self.control.policy();
        policy.proves_chains(&self.options.workload).then(|| {
            Arc::new(Past {
                subject: subject.clone(),
                user: user.cloned(),
                lineage: opened.lineage(),
                shown: OnceLock::new(),
            })
        })
    }

    /// Verifies the messages that led to one, back to where its user's token was
    /// minted (ENV-83 to ENV-87), and gives them, the nearest first. Whoever is
    /// revoked as of when the message itself came has no part in it, whatever time
    /// the messages before it say.
    pub(crate) async fn prove_chain(
        &self,
        opened: &OpenedEnvelope,
        user: Option<&User>,
        as_of: AsOf,
        now: UnixMillis,
    ) -> Result<Vec<Hop>, ChainRefusal> {
        let user = user.ok_or(ChainError::NoUser)?;
        let mut senders = Vec::with_capacity(opened.ancestors().len());
        // One after the other: a sender of unknown keys has one look-up each time.
        for ancestor in opened.ancestors() {
            let credential = self
                .control
                .credential_said_at(ancestor.key_id(), ancestor.issued_at(), as_of, now)
                .await?;
            senders.push(ancestor.verify(&credential, &self.roots)?);
        }
        let policy = self.control.policy();
        let policy = policy.policy();
        opened.check_chain(
            &senders,
            user.minter(),
            self.options.clock_skew,
            |ancestor| over_at(policy, ancestor),
        )?;

        let mut hops = Vec::with_capacity(senders.len());
        let mut receiver = &opened.sender().workload;
        for (ancestor, sender) in opened.ancestors().zip(&senders) {
            let subject = Subject::parse(ancestor.subject()).map_err(|_| ChainRefusal::Subject)?;
            // Who the user was there: what was taken off later was there still.
            let user = user_at(user, &ancestor).ok_or(ChainError::LimitsWidened)?;
            let ask = |workload, verb| {
                policy.decide(&Request {
                    workload,
                    verb,
                    subject: &subject,
                    user: Some(user.claims()),
                    now: as_of.moment(now),
                })
            };
            let sent = sent_with(ancestor.kind(), &policy.requirements(&subject));
            if let Decision::Deny(denial) = ask(&sender.workload, sent) {
                return Err(ChainRefusal::Sender(Box::new(denial)));
            }
            let is_receiver = match sent {
                Verb::Request => ask(receiver, Verb::Serve).is_allow(),
                _ => policy.may_receive(receiver, sent, &subject),
            };
            if !is_receiver {
                return Err(ChainRefusal::Receiver);
            }
            hops.push(Hop::Proven {
                workload: sender.workload.clone(),
                subject,
                message: ancestor.leaf(),
                issued_at: ancestor.issued_at(),
            });
            receiver = &sender.workload;
        }
        Ok(hops)
    }
}

fn user_at(user: &User, ancestor: &Ancestor<'_>) -> Option<User> {
    let whole = user.whole();
    match ancestor.limits() {
        None => Some(whole),
        Some(limits) => whole.narrowed(&Limits::decode(limits).ok()?).ok(),
    }
}

fn sent_with(kind: Kind, requirements: &Requirements) -> Verb {
    match kind {
        Kind::Request => Verb::Request,
        _ if is_stored(requirements) => Verb::Append,
        _ => Verb::Publish,
    }
}

fn is_stored(requirements: &Requirements) -> bool {
    requirements.replay == Some(Replay::Stream)
}

/// Until when something may have been sent in the handling of an ancestor, by
/// the policy of now.
fn over_at(policy: &Policy, ancestor: &Ancestor<'_>) -> UnixMillis {
    let Ok(subject) = Subject::parse(ancestor.subject()) else {
        return UnixMillis::default();
    };
    let requirements = policy.requirements(&subject);
    if ancestor.kind() == Kind::Event && is_stored(&requirements) {
        let stored_until: Duration = APPEND_LIFE.saturating_add(requirements.max_age);
        return ancestor.issued_at().saturating_add(stored_until);
    }
    ancestor.over_at(requirements.max_age)
}

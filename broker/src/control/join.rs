//! Hosts that join by an invitation: what they hand in is laid down once.
//!
//! A broker only keeps it. Whoever writes the policy proves it again, and decides.

use std::time::Duration;

use bulla_identity::{UnixMillis, WorkloadId, WorkloadTag, reserved};
use bulla_sdk::broker_protocol::Registered;
use bytes::Bytes;
use data_encoding::HEXLOWER;

use super::{ControlPlane, StreamError, whole_seconds};
use crate::decision::Decision;
use crate::invitation::{self, InvitationError, Joined};

impl ControlPlane {
    /// Who may invite, by the bundle in force, and to which trust domain.
    pub(crate) fn inviters(&self) -> Inviters {
        let held = self.held();
        Inviters {
            domain: held.bundle.bundle.trust_domain.clone(),
            keys: held.bundle.bundle.policy_keys.clone(),
        }
    }

    /// Answers a host that was let in to join as the workload with this tag.
    pub(super) async fn answer_join(
        &self,
        tag: WorkloadTag,
        handed_in: &Bytes,
        now: UnixMillis,
    ) -> Registered {
        let mut id = [0; 16];
        let outcome = if getrandom::fill(&mut id).is_err() {
            Err(Refusal::Random)
        } else if self.kem_quota.lock().take(tag, now) {
            self.join(tag, handed_in, now).await
        } else {
            Err(Refusal::TooMany)
        };
        let workload = match &outcome {
            Ok(joined) => joined.invitation.workload.as_str(),
            Err(_) => "",
        };
        let decision = Decision {
            workload,
            verb: "join",
            id,
            revision: self.held().policy.signed.revision,
            ..Decision::default()
        };
        let log = self.audit.decisions("broker");
        match &outcome {
            Ok(joined) => {
                decision.allow(&log);
                tracing::info!(
                    target: "bulla::audit",
                    event = "host-joined",
                    workload,
                    nkey = %joined.nkey,
                    invited_by = %joined.invitation.key,
                    id = HEXLOWER.encode(&id),
                );
                Registered::Accepted
            }
            Err(refusal) => {
                decision.deny(&log, refusal.code(), &refusal.to_string());
                // The precise reason stays in our log.
                Registered::Refused(format!("refused, decision {}", HEXLOWER.encode(&id)))
            }
        }
    }

    async fn join(
        &self,
        tag: WorkloadTag,
        handed_in: &Bytes,
        now: UnixMillis,
    ) -> Result<Joined, Refusal> {
        let Inviters { domain, keys } = self.inviters();
        let joined = invitation::open(handed_in, &keys, &domain)?;
        let id = WorkloadId::new(&domain, &joined.invitation.workload);
        if id.tag() != tag {
            return Err(InvitationError::OtherWorkload.into());
        }
        if now > joined.invitation.until {
            return Err(InvitationError::Expired.into());
        }
        if self.held().is_revoked(&id) {
            return Err(Refusal::Revoked);
        }
        // It lies there for longer than it is good, so that nothing takes its place.
        let keep = joined.invitation.until.saturating_since(now) + COLLECT_WITHIN;
        let subject = reserved::ctl_join(&joined.invitation.key);
        let is_first = self
            .stream
            .add(&subject, handed_in.clone(), whole_seconds(keep))
            .await?;
        if !is_first {
            return Err(InvitationError::Used.into());
        }
        Ok(joined)
    }
}

/// Who signs invitations.
pub(crate) struct Inviters {
    pub(crate) domain: bulla_identity::TrustDomain,
    pub(crate) keys: Vec<bulla_keyring::VerifyingKey>,
}

/// Why nobody joined. Logged; the asker learns the decision's id.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("too_many")]
    TooMany,
    #[error("{0}")]
    Invitation(#[from] InvitationError),
    #[error("the workload is revoked")]
    Revoked,
    #[error("{0}")]
    Stream(#[from] StreamError),
    #[error("the operating system gives no random bytes")]
    Random,
}

impl Refusal {
    /// A short stable name.
    const fn code(&self) -> &'static str {
        match self {
            Self::TooMany => "join_too_many",
            Self::Invitation(error) => error.code(),
            Self::Revoked => "workload_revoked",
            Self::Stream(_) => "control_stream_unreachable",
            Self::Random => "no_random_bytes",
        }
    }
}

/// For so long after an invitation's end the operator may take up what came of it.
const COLLECT_WITHIN: Duration = Duration::from_secs(30 * 24 * 3_600);

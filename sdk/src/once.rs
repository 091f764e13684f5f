//! Each message once: the replay window of this process, and in a queue group one
//! claim for each envelope.
//!
//! An envelope cannot be taken apart, so who has it has all of its messages: what
//! is claimed is its first one. A claim is asked for before anything of the
//! envelope is given, and goes on by itself, so that a member of a group can have
//! claims under way for what comes next.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{Message, OpenedEnvelope, ReplayError, ReplayLimits, ReplayWindow};
use bulla_identity::UnixMillis;
use bulla_policy::{Replay, Requirements};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::alarm::ClonedKey;
use crate::claims::{self, Claim, ClaimError};
use crate::error::LinkError;
use crate::refusal::Refusal;
use crate::shared::Shared;

/// What one subscription has accepted.
pub(crate) struct Once {
    shared: Arc<Shared>,
    skew: Duration,
    /// The pattern that the members of this workload's queue group listen to;
    /// nothing where every process gets everything.
    in_group: Option<String>,
    window: Mutex<ReplayWindow>,
}

/// What a member of a queue group has taken of an envelope.
pub(crate) struct Share {
    /// Of each message, whether it was new to this process.
    new: Vec<Result<(), ReplayError>>,
    claim: Claiming,
}

enum Claiming {
    Asked(JoinHandle<Result<Claim, ClaimError>>),
    Answered(Result<Claim, ClaimError>),
}

impl Once {
    pub(crate) fn new(shared: Arc<Shared>, in_group: Option<String>) -> Self {
        let skew = shared.options.clock_skew;
        Self {
            shared,
            skew,
            in_group,
            window: Mutex::new(ReplayWindow::new(ReplayLimits::default(), skew)),
        }
    }

    /// Whether other processes get what this one does not.
    pub(crate) const fn is_in_group(&self) -> bool {
        self.in_group.is_some()
    }

    /// The latest time at which something was accepted.
    pub(crate) fn latest(&self) -> UnixMillis {
        self.window.lock().now()
    }

    /// ENV-40: each message once. Two with one number are an alarm (ENV-44).
    pub(crate) fn commit(
        &self,
        opened: &OpenedEnvelope,
        message: &Message,
        now: UnixMillis,
    ) -> Result<(), ReplayError> {
        let committed = self.window.lock().commit(opened, message, now);
        if let Err(ReplayError::Cloned { accepted, offered }) = committed {
            let cloned = ClonedKey {
                opened,
                message,
                accepted,
                offered,
            };
            cloned.raise(&self.shared.stats);
        }
        committed
    }

    /// ENV-45: in a queue group, where the subject asks for it, one process of
    /// all has each envelope. Takes its messages into the window and asks for
    /// the claim; nothing where no claim is needed.
    pub(crate) fn share(
        &self,
        opened: &OpenedEnvelope,
        requirements: &Requirements,
        now: UnixMillis,
    ) -> Option<Share> {
        let pattern = self.in_group.as_ref()?;
        match requirements.replay_for(true) {
            Replay::Window => return None,
            // Of what a stream stores the group gets copies: claimed like others.
            Replay::Shared | Replay::Stream => {}
        }
        let new: Vec<_> = opened
            .messages()
            .map(|message| self.commit(opened, &message, now))
            .collect();
        let claim = if new.iter().any(Result::is_ok) {
            let (sender, first) = (opened.sender().key_id, opened.first_message().id);
            let life = claims::life_of(opened.expires_at(), self.skew, now);
            let (shared, pattern) = (Arc::clone(&self.shared), pattern.clone());
            Claiming::Asked(tokio::spawn(async move {
                let claims = &shared.claims;
                claims
                    .claim_message(shared.own_name(), &pattern, sender, first, life)
                    .await
            }))
        } else {
            // Whoever has it, this process had it before.
            Claiming::Answered(Ok(Claim::Held))
        };
        Some(Share { new, claim })
    }
}

impl Share {
    /// Whether the message at this place is for this process to handle. Whatever
    /// comes of the claim but that it is ours is a refusal.
    ///
    /// Cancel safe.
    pub(crate) async fn give(&mut self, place: usize) -> Result<(), Refusal> {
        if let Some(Err(replayed)) = self.new.get(place) {
            return Err((*replayed).into());
        }
        let answer = match &mut self.claim {
            Claiming::Answered(answer) => answer.clone(),
            Claiming::Asked(asked) => {
                let answer = asked.await.unwrap_or(Err(LinkError::Disconnected.into()));
                self.claim = Claiming::Answered(answer.clone());
                answer
            }
        };
        match answer? {
            Claim::Created => Ok(()),
            Claim::Held => Err(Refusal::ReplayedElsewhere),
        }
    }
}

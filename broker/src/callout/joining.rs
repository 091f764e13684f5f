//! A host that holds an invitation and nothing else: it is let in for as long as it
//! takes to hand in a key, and may do nothing but that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::{Nkey, UnixMillis, WorkloadId, reserved};
use bulla_keyring::VerifyingKey;
use bulla_policy::Permissions;

use super::attest::signature;
use super::deny_reason::DenyReason;
use super::request::CalloutRequest;
use crate::control::Inviters;
use crate::invitation::{Invitation, InvitationError, Shown};

/// Under which name nats-server knows it: no workload is called so.
pub(super) const JOINING: &str = "JOIN";

/// Asks who may invite, each time: the trust bundle changes.
#[derive(Clone)]
pub(super) struct AskInviters(Arc<dyn Fn() -> Inviters + Send + Sync>);

impl AskInviters {
    pub(super) fn new(ask: impl Fn() -> Inviters + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Who is invited, if the client shows that it holds the invitation's key.
    pub(super) fn attest(
        &self,
        request: &CalloutRequest,
        now: UnixMillis,
    ) -> Result<Invitation, DenyReason> {
        if request.kind != "Client" || request.protocol != "nats" {
            return Err(DenyReason::NotAClient);
        }
        let Inviters { domain, keys } = (self.0)();
        let invitation = Shown::parse(&request.token)?.open(&keys, &domain)?;
        if now > invitation.until {
            return Err(InvitationError::Expired.into());
        }
        // A signature over nothing is good for ever and everywhere.
        let named = Nkey::parse(&request.nkey).ok();
        let is_named = named.is_some_and(|nkey| nkey == invitation.key);
        let proven = is_named && !request.nonce.is_empty() && {
            let key = VerifyingKey::from_nkey(&invitation.key).ok();
            let by = key.zip(signature(&request.signature));
            by.is_some_and(|(key, signature)| key.verify_text(&request.nonce, &signature).is_ok())
        };
        if !proven {
            return Err(InvitationError::NotHeld.into());
        }
        Ok(invitation)
    }
}

impl fmt::Debug for AskInviters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AskInviters")
    }
}

/// What it may do, and until when.
pub(super) fn rights(invitation: &Invitation, now: UnixMillis) -> (Permissions, UnixMillis) {
    let id = WorkloadId::new(&invitation.domain, &invitation.workload);
    let permissions = Permissions {
        publish_allow: vec![reserved::broker_join(id.tag())],
        publish_deny: Vec::new(),
        subscribe_allow: vec![format!("{}.>", reserved::inbox_join(&invitation.key))],
        subscribe_deny: Vec::new(),
    };
    let until = now.saturating_add(LONG_ENOUGH).min(invitation.until);
    (permissions, until)
}

/// To hand in one message.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

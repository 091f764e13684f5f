//! Verifies users' transaction tokens, each once for as long as it lives.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{Limits, OpenedEnvelope};
use bulla_identity::{UnixMillis, Verified, WorkloadId};
use bulla_keyring::KeyId;
use bulla_token::{token_digest, unverified_kid, verify_transaction_token};
use moka::sync::Cache;

use crate::control::{AsOf, Control};
use crate::private_claims::{self, Opened};
use crate::refusal::UserRefusal;
use crate::unlock::Unlocker;
use crate::user::User;

/// Tokens that a process remembers; the cost of forgetting one is a signature.
const MAX_TOKENS: u64 = 10_000;

/// Key: SHA-256 of the whole token, and the state of trust and policy that it
/// was verified under. A newer state makes every entry unreachable.
pub(crate) struct Users {
    verified: Cache<([u8; 32], u64), Known>,
    skew: Duration,
    own: WorkloadId,
    unlocker: Arc<Unlocker>,
}

/// A verified user, and from when on that user or that token, or who minted it, is
/// revoked: it is looked at each time, because a token may come now and from a
/// stream.
#[derive(Clone)]
struct Known {
    user: User,
    revoked: Option<UnixMillis>,
    minter_revoked: Option<UnixMillis>,
}

impl Known {
    fn judge(self, as_of: AsOf) -> Result<User, UserRefusal> {
        if as_of.is_revoked(self.revoked) {
            return Err(UserRefusal::Revoked);
        }
        if as_of.is_revoked(self.minter_revoked) {
            return Err(UserRefusal::MinterRevoked);
        }
        Ok(self.user)
    }
}

impl Users {
    pub(crate) fn new(skew: Duration, own: WorkloadId, unlocker: Arc<Unlocker>) -> Self {
        let verified = Cache::builder()
            .max_capacity(MAX_TOKENS)
            .time_to_live(bulla_token::MAX_TRANSACTION_LIFETIME)
            .build();
        Self {
            verified,
            skew,
            own,
            unlocker,
        }
    }

    /// The user of a transaction token, verified now or lately; its times are
    /// checked on every call.
    pub(crate) async fn verify(
        &self,
        control: &Control,
        token: &str,
        now: UnixMillis,
    ) -> Result<User, UserRefusal> {
        self.verify_as_of(control, token, now, now).await
    }

    /// The user of a message, under the limits that it carries, at the time `at`
    /// when it was used.
    pub(crate) async fn of_message(
        &self,
        control: &Control,
        opened: &OpenedEnvelope,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<Option<User>, UserRefusal> {
        let Some(token) = opened.token() else {
            return Ok(None);
        };
        let token = std::str::from_utf8(&token).map_err(|_| UserRefusal::NotText)?;
        let user = self.verify_as_of(control, token, at, now).await?;
        self.under_limits(user, opened, at).map(Some)
    }

    /// The same of a message whose user has no token, or one that was verified
    /// lately; otherwise nothing.
    pub(crate) fn of_message_at_once(
        &self,
        control: &Control,
        opened: &OpenedEnvelope,
        now: UnixMillis,
    ) -> Option<Result<Option<User>, UserRefusal>> {
        let Some(token) = opened.token() else {
            return Some(Ok(None));
        };
        let token = std::str::from_utf8(&token).ok()?;
        let known = self.verified.get(&key_of(control, token))?;
        let judge = || {
            let user = known.judge(AsOf::Now)?;
            user.check_times(now, self.skew)?;
            self.under_limits(user, opened, now).map(Some)
        };
        Some(judge())
    }

    fn under_limits(
        &self,
        user: User,
        opened: &OpenedEnvelope,
        at: UnixMillis,
    ) -> Result<User, UserRefusal> {
        let Some(limits) = opened.limits() else {
            return Ok(user);
        };
        let limits = Limits::decode(&limits).map_err(|_| UserRefusal::BadLimits)?;
        let user = user.narrowed(&limits).map_err(|_| UserRefusal::BadLimits)?;
        user.check_times(at, self.skew)?;
        Ok(user)
    }

    /// The same of a token that was used at a time `at` in the past.
    pub(crate) async fn verify_as_of(
        &self,
        control: &Control,
        token: &str,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<User, UserRefusal> {
        let key = key_of(control, token);
        let as_of = as_of(at, now);
        if let Some(known) = self.verified.get(&key) {
            let user = known.judge(as_of)?;
            user.check_times(at, self.skew)?;
            return Ok(user);
        }
        // Once for each token; on the heap, so that the way of every message is
        // not as large as this one.
        let (known, is_passing) = Box::pin(self.prove(control, token, at, now)).await?;
        // What could not be read for the moment is tried again. The key is of the
        // state before: a change meanwhile makes the entry unreachable.
        if !is_passing {
            self.verified.insert(key, known.clone());
        }
        known.judge(as_of)
    }

    /// The second half says whether something of it could not be read for the moment.
    async fn prove(
        &self,
        control: &Control,
        token: &str,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<(Known, bool), UserRefusal> {
        let kid = unverified_kid(token)?;
        let key_id = KeyId::parse(&kid).ok_or(UserRefusal::KeyId)?;
        let credential = if at == now {
            control.credential(key_id, now).await?
        } else {
            control.credential_as_of(key_id, at, now).await?
        };
        let public = credential.token_key().ok_or(UserRefusal::NoTokenKey)?;
        let policy = control.policy();
        let minter = policy
            .policy()
            .workload_by_id(credential.workload())
            .filter(|workload| workload.mints())
            .ok_or(UserRefusal::MayNotMint)?;
        let token_verified = verify_transaction_token(
            token,
            public.as_bytes(),
            policy.policy().trust_domain(),
            at,
            self.skew,
        )?;
        // What exchanges tokens mints them for others, everybody else for itself.
        let requester = token_verified.requesting_workload();
        let is_named = |id: &str| {
            WorkloadId::parse(id).is_ok_and(|id| policy.policy().workload_by_id(&id).is_some())
        };
        if requester != minter.id().as_str() && !(minter.exchanges() && is_named(requester)) {
            return Err(UserRefusal::ForeignRequester);
        }
        if token_verified.expires() > credential.expires_at() {
            return Err(UserRefusal::OutlivesCredential);
        }
        if !token_verified.reach().all(|name| minter.may_reach(name)) {
            return Err(UserRefusal::BeyondMinter);
        }
        let revoked = control.user_revoked_since(token_verified.principal(), token_verified.txn());
        // The signature of an authorised minter was just verified.
        let opened = if policy.policy().reads_private_claims(&self.own) {
            // On the heap: seldom, and larger than what every message does.
            Box::pin(private_claims::open(&self.unlocker, &token_verified)).await
        } else {
            Opened::default()
        };
        let is_passing = opened.is_passing;
        let user = User::new(Verified::danger_assert(token_verified), token, opened);
        let known = Known {
            user,
            revoked,
            minter_revoked: control.revoked_since(&credential),
        };
        Ok((known, is_passing))
    }
}

fn key_of(control: &Control, token: &str) -> ([u8; 32], u64) {
    (token_digest(token), control.generation())
}

fn as_of(at: UnixMillis, now: UnixMillis) -> AsOf {
    if at == now {
        AsOf::Now
    } else {
        AsOf::Stored(at)
    }
}

//! Verifies users' transaction tokens, each once for as long as it lives.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{Limits, OpenedEnvelope, VerifiedCredential};
use bulla_identity::{UnixMillis, Verified, WorkloadId};
use bulla_keyring::KeyId;
use bulla_policy::Policy;
use bulla_token::{
    MintedToken, TransactionToken, token_digest, unverified_kid, verify_minted_token,
    verify_transaction_token,
};
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

/// A token to verify.
#[derive(Clone, Copy)]
enum Brought<'a> {
    /// By somebody.
    Text(&'a str),
    /// Signed by this process itself.
    Minted(&'a MintedToken),
}

impl<'a> Brought<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Minted(token) => token.as_str(),
        }
    }
}

/// A token that was verified, before its private claims are read.
struct Proven {
    token: TransactionToken,
    revoked: Option<UnixMillis>,
    minter_revoked: Option<UnixMillis>,
}

impl Proven {
    fn known(self, text: &str, opened: Opened) -> Known {
        Known {
            // The signature of an authorised minter was just verified.
            user: User::new(Verified::danger_assert(self.token), text, opened),
            revoked: self.revoked,
            minter_revoked: self.minter_revoked,
        }
    }
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

    /// The user of a token that this process has minted. It is not remembered: each is
    /// minted for one message.
    pub(crate) async fn verify_minted(
        &self,
        control: &Control,
        token: &MintedToken,
        now: UnixMillis,
    ) -> Result<User, UserRefusal> {
        let proving = self.prove(control, Brought::Minted(token), now, now);
        let (known, _) = Box::pin(proving).await?;
        known.judge(AsOf::Now)
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

    /// The same if nothing has to be waited for; otherwise nothing.
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
        let key = key_of(control, token);
        let known = match self.verified.get(&key) {
            Some(known) => Ok(known),
            None => self.prove_at_once(control, token, now)?.inspect(|known| {
                self.verified.insert(key, known.clone());
            }),
        };
        let judge = || {
            let user = known?.judge(AsOf::Now)?;
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
        let (known, is_passing) =
            Box::pin(self.prove(control, Brought::Text(token), at, now)).await?;
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
        brought: Brought<'_>,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<(Known, bool), UserRefusal> {
        let key_id = key_id_of(brought.text())?;
        let credential = if at == now {
            control.credential(key_id, now).await?
        } else {
            control.credential_as_of(key_id, at, now).await?
        };
        let state = control.policy();
        let policy = state.policy();
        let proven = self.judge(control, policy, brought, &credential, at)?;
        let opened = if policy.reads_private_claims(&self.own) {
            // On the heap: seldom, and larger than what every message does.
            Box::pin(private_claims::open(&self.unlocker, &proven.token)).await
        } else {
            Opened::default()
        };
        let is_passing = opened.is_passing;
        Ok((proven.known(brought.text(), opened), is_passing))
    }

    /// The same, of a token that came now, if nothing has to be waited for.
    fn prove_at_once(
        &self,
        control: &Control,
        token: &str,
        now: UnixMillis,
    ) -> Option<Result<Known, UserRefusal>> {
        let state = control.policy();
        let policy = state.policy();
        if policy.reads_private_claims(&self.own) {
            return None;
        }
        let key_id = match key_id_of(token) {
            Ok(key_id) => key_id,
            Err(refusal) => return Some(Err(refusal)),
        };
        let held = control.credential_at_once(key_id, now)?;
        let prove = || {
            let (brought, credential) = (Brought::Text(token), held?);
            let proven = self.judge(control, policy, brought, &credential, now)?;
            Ok(proven.known(token, Opened::default()))
        };
        Some(prove())
    }

    /// Verifies a token under the credential that its `kid` names.
    fn judge(
        &self,
        control: &Control,
        policy: &Policy,
        brought: Brought<'_>,
        credential: &VerifiedCredential,
        at: UnixMillis,
    ) -> Result<Proven, UserRefusal> {
        let public = credential.token_key().ok_or(UserRefusal::NoTokenKey)?;
        let minter = policy
            .workload_by_id(credential.workload())
            .filter(|workload| workload.mints())
            .ok_or(UserRefusal::MayNotMint)?;
        let domain = policy.trust_domain();
        let token = match brought {
            Brought::Text(text) => verify_transaction_token(text, public, domain, at, self.skew)?,
            Brought::Minted(token) => verify_minted_token(token, public, domain, at, self.skew)?,
        };
        // What exchanges tokens mints them for others, everybody else for itself.
        let requester = token.requesting_workload();
        let is_named =
            |id: &str| WorkloadId::parse(id).is_ok_and(|id| policy.workload_by_id(&id).is_some());
        if requester != minter.id().as_str() && !(minter.exchanges() && is_named(requester)) {
            return Err(UserRefusal::ForeignRequester);
        }
        if token.expires() > credential.expires_at() {
            return Err(UserRefusal::OutlivesCredential);
        }
        if !token.reach().all(|name| minter.may_reach(name)) {
            return Err(UserRefusal::BeyondMinter);
        }
        Ok(Proven {
            revoked: control.user_revoked_since(token.principal(), token.txn()),
            minter_revoked: control.revoked_since(credential),
            token,
        })
    }
}

fn key_id_of(token: &str) -> Result<KeyId, UserRefusal> {
    KeyId::parse(&unverified_kid(token)?).ok_or(UserRefusal::KeyId)
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

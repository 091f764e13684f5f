//! Verifies users' transaction tokens, each once for as long as it lives.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{Limits, OpenedEnvelope, VerifiedCredential};
use bulla_identity::{UnixMillis, Verified, WorkloadId};
use bulla_keyring::KeyId;
use bulla_policy::Policy;
use bulla_token::{MintedToken, TransactionToken, UnverifiedTransaction, token_digest};
use moka::sync::Cache;

use crate::control::{AsOf, Control};
use crate::private_claims::{self, Opened};
use crate::refusal::UserRefusal;
use crate::unlock::Unlocker;
use crate::user::User;

/// Tokens that a process remembers; the cost of forgetting one is a signature.
const MAX_TOKENS: u64 = 10_000;

/// SHA-256 of the whole token, and the state of trust and policy that it was verified
/// under. A newer state makes every entry unreachable.
type TokenKey = ([u8; 32], u64);

/// Who verifies tokens.
pub(crate) struct Users {
    verified: Cache<TokenKey, Known>,
    skew: Duration,
    own: WorkloadId,
    unlocker: Arc<Unlocker>,
}

/// A token to verify.
enum Brought<'a> {
    /// By somebody.
    Anybody(UnverifiedTransaction<'a>),
    /// In an envelope that its minter has signed, under the very credential that the
    /// token names: that signature covers the token too [ENV-115].
    Minter(UnverifiedTransaction<'a>),
    /// Signed by this process itself.
    Own(MintedToken),
}

impl<'a> Brought<'a> {
    fn by_anybody(text: &'a str) -> Result<Self, UserRefusal> {
        Ok(Self::Anybody(UnverifiedTransaction::parse(text)?))
    }

    /// What is plain to see to be by the sender of a message himself.
    fn by_minter(text: &'a str, opened: &OpenedEnvelope) -> Option<Self> {
        if !opened.is_signed() {
            return None;
        }
        let kid = opened.sender().key_id.to_hex();
        UnverifiedTransaction::parse_as_minted(text, &kid).map(Self::Minter)
    }

    fn in_message(text: &'a str, opened: &OpenedEnvelope) -> Result<Self, UserRefusal> {
        let token = UnverifiedTransaction::parse(text)?;
        let is_of_sender = KeyId::parse(token.kid()) == Some(opened.sender().key_id);
        Ok(if is_of_sender && opened.is_signed() {
            Self::Minter(token)
        } else {
            Self::Anybody(token)
        })
    }

    /// The name of the credential under which it was minted, if it tells the truth.
    fn kid(&self) -> &str {
        match self {
            Self::Anybody(token) | Self::Minter(token) => token.kid(),
            Self::Own(token) => token.kid(),
        }
    }

    /// Whether it is worth to remember: what a minter signs for itself is mostly used
    /// once, and costs no signature.
    fn is_kept(&self) -> bool {
        matches!(self, Self::Anybody(_))
    }
}

/// A token that was verified, before its private claims are read.
struct Proven {
    token: TransactionToken,
    text: Box<str>,
    revoked: Option<UnixMillis>,
    minter_revoked: Option<UnixMillis>,
}

impl Proven {
    fn known(self, opened: Opened) -> Known {
        Known {
            // The signature of an authorised minter was just verified.
            user: User::new(Verified::danger_assert(self.token), self.text, opened),
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

/// The token of a message.
enum Found<'a> {
    /// It was verified before.
    Known(Known),
    New(Brought<'a>),
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
        let key = (token_digest(token), control.generation());
        if let Some(known) = self.verified.get(&key) {
            return self.use_again(known, now, now);
        }
        let brought = Brought::by_anybody(token)?;
        self.meet(control, (brought, key), now, now).await
    }

    /// The user of a token that this process has minted. It is not remembered: each is
    /// minted for one message.
    pub(crate) async fn verify_minted(
        &self,
        control: &Control,
        token: MintedToken,
        now: UnixMillis,
    ) -> Result<User, UserRefusal> {
        let proving = self.prove(control, Brought::Own(token), now, now);
        let (known, _) = Box::pin(proving).await?;
        known.judge(AsOf::Now)
    }

    /// The same if nothing has to be waited for; otherwise gives the token back.
    pub(crate) fn verify_minted_at_once(
        &self,
        control: &Control,
        token: MintedToken,
        now: UnixMillis,
    ) -> Result<Result<User, UserRefusal>, MintedToken> {
        let Some(at_hand) = self.at_hand(control, token.kid(), now) else {
            return Err(token);
        };
        let known = at_hand.and_then(|credential| {
            self.known_at_once(control, Brought::Own(token), &credential, now)
        });
        Ok(known.and_then(|known| known.judge(AsOf::Now)))
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
        let key = key_of_message(control, opened, token);
        let user = match self.find(token, opened, &key)? {
            Found::Known(known) => self.use_again(known, at, now)?,
            Found::New(brought) => self.meet(control, (brought, key), at, now).await?,
        };
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
        let key = key_of_message(control, opened, token);
        let known = match self.find(token, opened, &key) {
            Err(refusal) => Err(refusal),
            Ok(Found::Known(known)) => Ok(known),
            Ok(Found::New(brought)) => {
                let is_kept = brought.is_kept();
                let at_hand = self.at_hand(control, brought.kid(), now)?;
                let known =
                    at_hand.and_then(|held| self.known_at_once(control, brought, &held, now));
                known.inspect(|known| {
                    if is_kept {
                        self.verified.insert(key, known.clone());
                    }
                })
            }
        };
        let judge = || {
            let user = known?.judge(AsOf::Now)?;
            user.check_times(now, self.skew)?;
            self.under_limits(user, opened, now).map(Some)
        };
        Some(judge())
    }

    /// What is known of the token of a message, or the token. One by its sender himself is
    /// not looked for: it is not kept.
    fn find<'t>(
        &self,
        token: &'t str,
        opened: &OpenedEnvelope,
        key: &TokenKey,
    ) -> Result<Found<'t>, UserRefusal> {
        if let Some(brought) = Brought::by_minter(token, opened) {
            return Ok(Found::New(brought));
        }
        match self.verified.get(key) {
            Some(known) => Ok(Found::Known(known)),
            None => Brought::in_message(token, opened).map(Found::New),
        }
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

    /// The user of a token that was verified before; its times are checked on every use.
    fn use_again(
        &self,
        known: Known,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<User, UserRefusal> {
        let user = known.judge(as_of(at, now))?;
        user.check_times(at, self.skew)?;
        Ok(user)
    }

    /// The user of a token that is not known yet, used at a time `at`.
    async fn meet(
        &self,
        control: &Control,
        (brought, key): (Brought<'_>, TokenKey),
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<User, UserRefusal> {
        let is_kept = brought.is_kept();
        // Once for each token; on the heap, so that the way of every message is
        // not as large as this one.
        let (known, is_passing) = Box::pin(self.prove(control, brought, at, now)).await?;
        // What could not be read for the moment is tried again. The key is of the
        // state before: a change meanwhile makes the entry unreachable.
        if is_kept && !is_passing {
            self.verified.insert(key, known.clone());
        }
        known.judge(as_of(at, now))
    }

    /// The second half says whether something of it could not be read for the moment.
    async fn prove(
        &self,
        control: &Control,
        brought: Brought<'_>,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Result<(Known, bool), UserRefusal> {
        let key_id = key_id_of(brought.kid())?;
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
        Ok((proven.known(opened), is_passing))
    }

    /// The credential that a token names which came now, if nothing has to be waited for,
    /// neither for it nor for what the token hides.
    fn at_hand(
        &self,
        control: &Control,
        kid: &str,
        now: UnixMillis,
    ) -> Option<Result<Arc<VerifiedCredential>, UserRefusal>> {
        if control.policy().policy().reads_private_claims(&self.own) {
            return None;
        }
        match key_id_of(kid) {
            Ok(key_id) => Some(control.credential_at_once(key_id, now)?.map_err(Into::into)),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    fn known_at_once(
        &self,
        control: &Control,
        brought: Brought<'_>,
        credential: &VerifiedCredential,
        now: UnixMillis,
    ) -> Result<Known, UserRefusal> {
        let state = control.policy();
        let proven = self.judge(control, state.policy(), brought, credential, now)?;
        Ok(proven.known(Opened::default()))
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
        let (text, token) = match brought {
            Brought::Anybody(token) => {
                let text = token.text().into();
                (text, token.verify(public, domain, at, self.skew)?)
            }
            Brought::Minter(token) => {
                let text = token.text().into();
                (text, token.vouched_for(domain, at, self.skew)?)
            }
            Brought::Own(token) => {
                token.check(public, domain, at, self.skew)?;
                let (text, token) = token.into_parts();
                (text.into_boxed_str(), token)
            }
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
            text,
        })
    }
}

fn key_id_of(kid: &str) -> Result<KeyId, UserRefusal> {
    KeyId::parse(kid).ok_or(UserRefusal::KeyId)
}

/// The token of a message was compared with the hash that it was signed by.
fn key_of_message(control: &Control, opened: &OpenedEnvelope, token: &str) -> TokenKey {
    let digest = opened.token_hash().copied();
    let digest = digest.unwrap_or_else(|| token_digest(token));
    (digest, control.generation())
}

fn as_of(at: UnixMillis, now: UnixMillis) -> AsOf {
    if at == now {
        AsOf::Now
    } else {
        AsOf::Stored(at)
    }
}

//! A message on its way out: addressed, encoded, decided upon, sealed.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{Limits, MessageId, TraceParent};
use bulla_identity::{Subject, UnixMillis};
use bulla_policy::{Chain, Decision, Replay, Request, Requirements, UserRule, Verb};
use bulla_token::MintedToken;
use bytes::Bytes;
use serde::Serialize;
use tracing::Span;

use crate::chains;
use crate::clock;
use crate::content::ContentType;
use crate::context::Context;
use crate::control::AsOf;
use crate::decision_log;
use crate::error::{FlushError, LinkError, PublishError, SendError};
use crate::letter::{Letter, To};
use crate::original::{self, OriginalToken};
use crate::refusal::UserRefusal;
use crate::routes::Route;
use crate::shared::Shared;
use crate::telemetry;
use crate::trial;
use crate::unlock::suite_of;
use crate::user::User;

/// How long a publish waits for room while there is no connection: none will come.
const PATIENCE: Duration = Duration::from_millis(50);

/// A message that is being put together; [`Client::message`] starts one.
///
/// [`Client::message`]: crate::Client::message
#[must_use = "nothing is sent before `publish` or `request`"]
pub struct Outgoing<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    /// What is to be sent, or the first thing that is wrong with it. On the heap
    /// from the start: it is handed on by value at every step.
    letter: Result<Box<Letter>, Box<SendError>>,
    user: UserChoice,
    /// What is being handled, if something is.
    cause: Option<Box<Context>>,
    limits: Option<Box<Limits>>,
    pub(crate) timeout: Duration,
    /// Whether the time-out counts from the beginning.
    pub(crate) is_urgent: bool,
    /// Whether an earlier attempt may have stored it.
    pub(crate) is_repeated: bool,
}

enum UserChoice {
    /// The running handler's.
    Inherit,
    Nobody,
    Token(String),
    Minted(MintedToken),
    Verified(User),
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, subject: &str) -> Self {
        let route = match shared.routes.find(subject) {
            Some(route) => Ok(route),
            None => shared.routes.learn(subject, &shared.control),
        };
        let cause = Context::running().map(Box::new);
        let letter = route.map_err(Box::new).map(|route| {
            let content_type = shared.options.content_type.clone();
            // What is running here is nearer than what led to it.
            Letter::begin(route, content_type, cause.as_deref(), telemetry::current())
        });
        Self {
            shared,
            letter,
            user: UserChoice::Inherit,
            cause,
            limits: None,
            timeout: shared.options.request_timeout,
            is_urgent: false,
            is_repeated: false,
        }
    }

    /// Goes on with what is sound so far; what is wrong then is told when it is
    /// to be sent.
    fn with(mut self, change: impl FnOnce(&mut Letter) -> Result<(), SendError>) -> Self {
        if let Ok(letter) = &mut self.letter
            && let Err(error) = change(letter)
        {
            self.letter = Err(Box::new(error));
        }
        self
    }

    /// Encodes `value` as the payload, in the client's content type.
    pub fn payload<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.with(|letter| {
            let content_type = letter.content_type.clone().unwrap_or_default();
            letter.body = content_type.encode(value)?;
            Ok(())
        })
    }

    /// Encodes `value` as JSON.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.with(|letter| {
            letter.body = ContentType::Json.encode(value)?;
            letter.content_type = Some(ContentType::Json);
            Ok(())
        })
    }

    /// Takes bytes as they are.
    pub fn bytes(self, content_type: ContentType, body: impl Into<Bytes>) -> Self {
        self.with(|letter| {
            letter.content_type = Some(content_type);
            letter.body = body.into();
            Ok(())
        })
    }

    /// Adds an application header. It is signed with everything else.
    pub fn header(self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.with(|letter| Ok(letter.headers_mut().insert(name.as_ref(), value.as_ref())?))
    }

    /// Sends on behalf of nobody, although the handler runs for a user.
    pub fn without_user(mut self) -> Self {
        self.user = UserChoice::Nobody;
        self
    }

    /// Sends on behalf of the user of this transaction token: for the edge
    /// that minted it. Everywhere else the user comes along by itself.
    pub fn user_token(mut self, token: impl Into<String>) -> Self {
        self.user = UserChoice::Token(token.into());
        self
    }

    /// The same of a token that this process has signed itself, under the token key of its
    /// credential: its signature is not verified again.
    pub fn minted_token(mut self, token: MintedToken) -> Self {
        self.user = UserChoice::Minted(token);
        self
    }

    /// Hands on the token that the user's client itself sent, beside the transaction
    /// token that this workload minted for the same user: for the edge. Handlers
    /// get it with [`Message::original_token`](crate::Message::original_token).
    ///
    /// Only where the subject is encrypted with its token; elsewhere nothing is sent.
    pub fn original_token(mut self, token: impl Into<String>) -> Self {
        if let Ok(letter) = &mut self.letter {
            letter.carry(OriginalToken::new(token.into()));
        }
        self
    }

    /// Sends on behalf of this user, whom this process has verified: one that it
    /// kept of a message, or that an exchange gave
    /// ([`Client::exchange`](crate::Client::exchange)).
    pub fn user(mut self, user: User) -> Self {
        self.user = UserChoice::Verified(user);
        self
    }

    /// Takes something off the user's authority before the message leaves. It
    /// adds to what the services before this one took off and to what an earlier
    /// call said; nothing ever comes back. Without a user it means nothing.
    ///
    /// # Security
    /// The receiver, and whoever it passes the user on to with this SDK, is held
    /// to the limits. A receiver that is compromised holds the token, and can
    /// leave the limits out: see `chain = "proven"` and
    /// an exchange for what stops that.
    pub fn narrow(mut self, limits: &Limits) -> Self {
        let before = self.limits.take().map(|before| *before);
        let before = before.unwrap_or_else(Limits::none);
        self.limits = Some(Box::new(before.and(limits)));
        self
    }

    /// Sends in this context instead of the running handler's.
    pub fn context(mut self, context: Context) -> Self {
        if let Ok(letter) = &mut self.letter {
            letter.enter(&context);
        }
        self.cause = Some(Box::new(context));
        self
    }

    /// Sends with this trace instead of the running handler's: for the edge,
    /// where a trace comes from outside.
    pub fn traceparent(self, traceparent: TraceParent) -> Self {
        self.with(|letter| {
            letter.traceparent = Some(traceparent);
            Ok(())
        })
    }

    /// Gives an event an id in place of a random one, so that a repetition of
    /// what caused it is recognised: for the edge, where a client names its
    /// attempts. Whoever can foresee an id can take it first, so it must be one
    /// that nobody else can compute, such as an HMAC under a key of the edge's
    /// own. An append that finds it taken is [`AppendError::IdTaken`].
    ///
    /// [`AppendError::IdTaken`]: crate::AppendError::IdTaken
    pub fn id(self, id: MessageId) -> Self {
        self.with(|letter| {
            letter.set_id(id);
            Ok(())
        })
    }

    /// The same for one of several attempts at the same message: that its stream has it
    /// already is what was wanted, and no alarm.
    ///
    /// # Security
    /// Whoever can foresee the id, and may append to the stream, can keep the message out
    /// unnoticed: it must be random, and known to nobody but the attempts.
    pub fn attempt(mut self, id: MessageId) -> Self {
        self.is_repeated = true;
        self.id(id)
    }

    /// How long a request waits for its reply, and an append for its stream. A
    /// handler's request waits no longer than whoever asked the handler.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same for a request of which somebody waits: what there is to wait for before it
    /// may leave, such as keys, counts too.
    pub fn within(mut self, timeout: Duration) -> Self {
        self.is_urgent = true;
        self.timeout(timeout)
    }

    /// Publishes it as an event.
    ///
    /// Returns once the message is accepted: everything about it was found
    /// right, and it is handed to the connection or, while others are being
    /// sealed, waits to be sealed with them. Messages of one task leave in the
    /// order of its calls. When too much waits, this waits too; while nats-server is
    /// gone nothing of it would leave, and it is [`SendError::BufferFull`].
    ///
    /// What goes wrong later is told by the next publish on the same subject,
    /// which is then not sent itself, and by [`Client::flush`](crate::Client::flush):
    /// [`PublishError::EarlierRefused`] if nats-server refused it,
    /// [`PublishError::EarlierUnsent`] if the credential or the connection
    /// ended first.
    ///
    /// Cancel safe: dropped before it returns, the message was not accepted;
    /// it may still have been sent.
    ///
    /// # Errors
    /// [`PublishError`]; a denial by policy is known before anything is sent.
    pub async fn publish(self) -> Result<(), PublishError> {
        // Never without letting others run for long, however fast it goes.
        tokio::task::coop::consume_budget().await;
        let recorder = self.shared.options.recorder.as_ref();
        let outcome = self.hand_over().await;
        if let Some(recorder) = recorder {
            recorder.0.published(telemetry::of_publishing(&outcome));
        }
        outcome
    }

    async fn hand_over(self) -> Result<(), PublishError> {
        let shared = self.shared;
        self.tell_earlier_losses()?;
        let letter = match self.address_at_once(Verb::Publish)? {
            Ok(letter) => letter,
            Err(outgoing) => Box::pin(outgoing.address(Verb::Publish)).await?,
        };
        match shared.signer.post_at_once(letter)? {
            None => Ok(()),
            Some(waits) => {
                let sent = Box::pin(async {
                    tokio::select! {
                        biased;
                        sent = shared.signer.post(waits) => sent,
                        () = shared.connection.is_gone_for(PATIENCE) => Err(SendError::BufferFull),
                    }
                });
                Ok(sent.await?)
            }
        }
    }

    /// What went wrong with earlier messages to this subject.
    fn tell_earlier_losses(&self) -> Result<(), PublishError> {
        let heard = self.shared.connection.check_heard();
        heard.map_err(SendError::from)?;
        // One that cannot be sent had none before it.
        let Ok(letter) = &self.letter else {
            return Ok(());
        };
        let subject = letter.to.subject().as_str();
        let count = self.shared.connection.take_refused_publishes(subject);
        if count > 0 {
            return Err(PublishError::EarlierRefused {
                subject: subject.to_owned(),
                count,
            });
        }
        let count = self.shared.signer.take_unsent(subject);
        if count > 0 {
            return Err(PublishError::EarlierUnsent {
                subject: subject.to_owned(),
                count,
            });
        }
        Ok(())
    }

    /// Begins a span of its own for what is asked, which its message then carries.
    pub(crate) fn begin_span(&mut self) -> Span {
        let Ok(letter) = &mut self.letter else {
            return Span::none();
        };
        let span = telemetry::asking(letter.to.subject().as_str(), letter.traceparent);
        letter.traceparent = telemetry::of_span(&span).or(letter.traceparent);
        span
    }

    /// Where it goes and what it says, for who sends it without an envelope.
    pub(crate) fn into_plain(self) -> Result<(&'a Arc<Shared>, Subject, Bytes), SendError> {
        let letter = self.letter.map_err(|error| *error)?;
        Ok((self.shared, letter.to.subject().clone(), letter.body))
    }

    /// Where it goes, if it can be sent at all.
    pub(crate) fn subject(&self) -> Option<&Subject> {
        Some(self.letter.as_ref().ok()?.to.subject())
    }

    /// How long whoever caused it waits, if somebody does.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.cause.as_deref().and_then(Context::remaining)
    }

    /// Everything that can be said no to before sealing.
    pub(crate) async fn address(self, verb: Verb) -> Result<Box<Letter>, SendError> {
        let shared = self.shared;
        let mut letter = self.letter.map_err(|error| *error)?;
        let route = match &letter.to {
            To::Route(route) => shared.routes.renew(Arc::clone(route), &shared.control)?,
            // Never: what is put together here goes to a subject of the policy.
            To::Inbox(subject) => shared.routes.learn(subject.as_str(), &shared.control)?,
        };
        let now = clock::now();
        shared.control.check(now)?;
        let inherited = inherited(self.cause.as_deref(), &route);
        let limits = self.limits.as_deref();
        letter.user = self.user.settle(shared, inherited, limits, now).await?;
        let requirements = preflight(shared, verb, &route, letter.user.as_ref(), now)?;
        if letter.carries_original() {
            let own = shared.options.workload.as_str();
            let is_minter = letter
                .user
                .as_ref()
                .is_some_and(|user| user.minter() == own);
            if !is_minter || !original::may_travel(&requirements) {
                return Err(SendError::Original {
                    subject: route.subject.as_str().to_owned(),
                });
            }
        }
        if let (Chain::Proven, Some(user)) = (requirements.chain, &letter.user) {
            let own = &shared.options.workload;
            let cause = self.cause.map(|cause| *cause).unwrap_or_default();
            let ancestry = chains::show(own, &cause, user).map_err(|source| SendError::Chain {
                subject: route.subject.as_str().to_owned(),
                source,
            })?;
            letter.show(ancestry);
        }
        if let Some(suite) = suite_of(&requirements) {
            let last = route.last_key(verb);
            let key = shared
                .vault
                .key_for(last, verb, &route.subject, suite, now)
                .await?;
            letter.key = Some(key);
        }
        letter.to = To::Route(route);
        letter.conclude(verb, &requirements, now);
        Ok(letter)
    }

    /// The same for the value of a bucket's key, whose name the policy knows as
    /// `BUCKET.KEY`.
    pub(crate) async fn address_value(self, name: &Subject) -> Result<Box<Letter>, SendError> {
        let shared = self.shared;
        let mut letter = self.letter.map_err(|error| *error)?;
        if let To::Route(route) = &letter.to {
            letter.to = To::Route(shared.routes.renew(Arc::clone(route), &shared.control)?);
        }
        let now = clock::now();
        shared.control.check(now)?;
        let inherited = self.cause.as_deref().and_then(|cause| cause.user.clone());
        let limits = self.limits.as_deref();
        letter.user = self.user.settle(shared, inherited, limits, now).await?;
        if letter.carries_original() {
            let subject = name.as_str().to_owned();
            return Err(SendError::Original { subject });
        }
        let user = letter.user.as_ref();
        check_user(shared, user, now)?;
        let workload = &shared.options.workload;
        let what = decision_log::Subject {
            enforcer: "sender",
            workload: workload.path(),
            verb: Verb::Write.as_str(),
            subject: name.as_str(),
            user,
        };
        let request = Request {
            workload,
            verb: Verb::Write,
            subject: name,
            user: user.map(User::claims),
            now,
        };
        let policy = shared.control.policy();
        match shared.control.decide(&policy, &request) {
            Decision::Allow(permit) => {
                shared.decisions.allow(what, &permit, false);
                trial::allowed(&shared.stats, &permit, || what);
                // It lies in the bucket for long, and gets there soon or never.
                letter.conclude(Verb::Append, &permit.requirements(), now);
                Ok(letter)
            }
            Decision::Deny(denial) => {
                trial::denied(&shared.stats, &denial, &what);
                let id = shared.decisions.deny_by(what, &denial);
                Err(SendError::Denied {
                    denial: Box::new(denial),
                    id,
                })
            }
        }
    }

    /// The same if nothing has to be looked up, verified, shown or agreed on; if
    /// something has, gives itself back.
    pub(crate) fn address_at_once(
        mut self,
        verb: Verb,
    ) -> Result<Result<Box<Letter>, Self>, SendError> {
        let shared = self.shared;
        let mut letter = self.letter.map_err(|error| *error)?;
        if let To::Route(route) = &letter.to
            && route.is_current(&shared.control)
            && !letter.carries_original()
            && let now = clock::now()
            && shared.control.check(now).is_ok()
            && let Some(user) = self.user.at_once(shared, self.cause.as_deref(), route, now)
            && let user = user?
            && (user.is_none() || self.limits.is_none())
        {
            let route = Arc::clone(route);
            let suite = suite_of(&route.requirements);
            let key = suite.and_then(|s| shared.vault.last_key(route.last_key(verb), s, now));
            if suite.is_none() || key.is_some() {
                let requirements = preflight(shared, verb, &route, user.as_ref(), now)?;
                letter.key = key;
                letter.user = user;
                letter.conclude(verb, &requirements, now);
                return Ok(Ok(letter));
            }
        }
        self.letter = Ok(letter);
        Ok(Err(self))
    }
}

impl UserChoice {
    /// For whom it is sent, and how far.
    async fn settle(
        self,
        shared: &Shared,
        inherited: Option<User>,
        limits: Option<&Limits>,
        now: UnixMillis,
    ) -> Result<Option<User>, SendError> {
        let user = match self {
            Self::Token(token) => {
                let user = shared.users.verify(&shared.control, &token, now).await;
                Some(user.map_err(refused_user)?)
            }
            Self::Minted(token) => {
                let users = &shared.users;
                let user = users.verify_minted(&shared.control, token, now).await;
                Some(user.map_err(refused_user)?)
            }
            Self::Verified(user) => Some(user),
            Self::Inherit => inherited,
            Self::Nobody => None,
        };
        match (user, limits) {
            (Some(user), Some(limits)) => {
                let narrowed = user.narrowed(limits);
                let narrowed = narrowed.map_err(|_| SendError::User {
                    reason: "limits_too_large",
                })?;
                Ok(Some(narrowed))
            }
            (user, _) => Ok(user),
        }
    }

    /// For whom it is sent, if that is plain to see.
    fn at_once(
        &mut self,
        shared: &Shared,
        cause: Option<&Context>,
        route: &Route,
        now: UnixMillis,
    ) -> Option<Result<Option<User>, SendError>> {
        // What comes before must be shown there.
        let is_shown = route.requirements.chain == Chain::Proven;
        match self {
            Self::Inherit => match inherited(cause, route) {
                Some(_) if is_shown => None,
                user => Some(Ok(user)),
            },
            Self::Nobody => Some(Ok(None)),
            Self::Minted(_) if !is_shown => {
                let Self::Minted(token) = std::mem::replace(self, Self::Nobody) else {
                    return None;
                };
                let (users, control) = (&shared.users, &shared.control);
                match users.verify_minted_at_once(control, token, now) {
                    // Kept, if something else has to be waited for.
                    Ok(Ok(user)) => {
                        *self = Self::Verified(user.clone());
                        Some(Ok(Some(user)))
                    }
                    Ok(Err(refusal)) => Some(Err(refused_user(refusal))),
                    Err(token) => {
                        *self = Self::Minted(token);
                        None
                    }
                }
            }
            Self::Token(_) | Self::Minted(_) | Self::Verified(_) => None,
        }
    }
}

/// For whom nothing is sent.
fn refused_user(refusal: UserRefusal) -> SendError {
    let reason = refusal.code();
    SendError::User { reason }
}

/// The user of the context. A subject that refuses users gets none; one that was
/// named for this very message is an error later.
fn inherited(cause: Option<&Context>, route: &Route) -> Option<User> {
    let user = cause?.user.clone();
    user.filter(|_| route.requirements.user != UserRule::None)
}

/// Whoever is sent for has a token that counts now.
fn check_user(shared: &Shared, user: Option<&User>, now: UnixMillis) -> Result<(), SendError> {
    let Some(user) = user else {
        return Ok(());
    };
    user.check_times(now, shared.options.clock_skew)
        .map_err(|e| SendError::User { reason: e.code() })?;
    let since = shared
        .control
        .user_revoked_since(user.principal(), user.transaction());
    if AsOf::Now.is_revoked(since) {
        let reason = UserRefusal::Revoked.code();
        return Err(SendError::User { reason });
    }
    Ok(())
}

/// The same decision that every receiver will take, taken here first: the
/// caller learns why at once, and a forbidden message never leaves.
fn preflight(
    shared: &Shared,
    verb: Verb,
    route: &Route,
    user: Option<&User>,
    now: UnixMillis,
) -> Result<Requirements, SendError> {
    check_user(shared, user, now)?;
    let subject = &route.subject;
    let workload = &shared.options.workload;
    let what = decision_log::Subject {
        enforcer: "sender",
        workload: workload.path(),
        verb: verb.as_str(),
        subject: subject.as_str(),
        user,
    };
    let is_due = |rule: &str| {
        route.count_use(verb, rule, || {
            shared.decisions.tally(workload, rule, verb, subject)
        })
    };
    if let Some(permit) = route.permit(verb, user.is_some(), now) {
        shared.decisions.allow(what, permit, is_due(permit.rule()));
        trial::allowed(&shared.stats, permit, || what);
        return Ok(permit.requirements());
    }
    let policy = shared.control.policy();
    let request = Request {
        workload,
        verb,
        subject,
        user: user.map(User::claims),
        now,
    };
    let decision = shared.control.decide(&policy, &request);
    match decision {
        Decision::Allow(permit) => {
            let requirements = permit.requirements();
            if verb == Verb::Publish && requirements.replay == Some(Replay::Stream) {
                let (rule, why) = (permit.rule(), "it must be appended");
                let id = shared.decisions.deny(what, rule, "must_append", &why);
                return Err(SendError::MustAppend {
                    subject: subject.as_str().to_owned(),
                    id,
                });
            }
            let is_due = is_due(permit.rule());
            shared.decisions.allow(what, &permit, is_due);
            trial::allowed(&shared.stats, &permit, || what);
            route.remember(verb, user.is_some(), permit);
            Ok(requirements)
        }
        Decision::Deny(denial) => {
            let rule = denial.rule().unwrap_or_default();
            let id = shared
                .decisions
                .deny(what, rule, denial.reason().code(), &denial);
            trial::denied(&shared.stats, &denial, &what);
            Err(SendError::Denied {
                denial: Box::new(denial),
                id,
            })
        }
    }
}

impl Shared {
    /// Waits until what was accepted is sent and nats-server has processed it,
    /// and reports what was lost.
    pub(crate) async fn flush(&self) -> Result<(), FlushError> {
        let patience = self.options.request_timeout;
        tokio::time::timeout(patience, self.signer.settle())
            .await
            .map_err(|_| LinkError::Timeout)?;
        let unsent = self.signer.take_all_unsent();
        if !unsent.is_empty() {
            return Err(FlushError::Unsent { unsent });
        }
        self.connection.barrier(patience).await?;
        // The refusal precedes the barrier's answer on the wire, but reaches us
        // through another task.
        tokio::time::sleep(crate::connection::REFUSAL_GRACE).await;
        let refused = self.connection.take_all_refused_publishes();
        if refused.is_empty() {
            Ok(())
        } else {
            Err(FlushError::Refused { refused })
        }
    }
}

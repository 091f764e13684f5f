//! A message on its way out: addressed, encoded, decided upon, sealed.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{Ancestry, AppHeaders, LeafHash, Limits, MessageId, TraceParent};
use bulla_identity::UnixMillis;
use bulla_policy::{APPEND_LIFE, Chain, Decision, Replay, Request, Requirements, UserRule, Verb};
use bytes::Bytes;
use serde::Serialize;

use crate::chains;
use crate::clock;
use crate::content::{ContentType, PayloadError};
use crate::context::Context;
use crate::control::AsOf;
use crate::decision_log;
use crate::error::{FlushError, LinkError, PublishError, SendError};
use crate::letter::{Letter, Purpose, Sharing};
use crate::refusal::UserRefusal;
use crate::routes::Route;
use crate::shared::Shared;
use crate::unlock::kem_of;
use crate::user::User;
use crate::vault::KeyInUse;

/// A message that is being put together; [`Client::message`] starts one.
///
/// [`Client::message`]: crate::Client::message
#[must_use = "nothing is sent before `publish` or `request`"]
pub struct Outgoing<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    to: To,
    content_type: ContentType,
    body: Result<Bytes, PayloadError>,
    headers: Vec<(String, String)>,
    user: UserChoice,
    limits: Limits,
    context: Context,
    pub(crate) timeout: Duration,
    id: Option<MessageId>,
}

/// Where it goes: somewhere that was sent to lately, or a text not yet read.
enum To {
    Known(Arc<Route>),
    Text(String),
}

impl To {
    fn text(&self) -> &str {
        match self {
            Self::Known(route) => route.subject.as_str(),
            Self::Text(text) => text,
        }
    }
}

enum UserChoice {
    Inherit,
    Nobody,
    Token(String),
    Verified(User),
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, subject: &str) -> Self {
        Self {
            shared,
            to: match shared.routes.find(subject) {
                Some(route) => To::Known(route),
                None => To::Text(subject.to_owned()),
            },
            content_type: shared.options.content_type.clone(),
            body: Ok(Bytes::new()),
            headers: Vec::new(),
            user: UserChoice::Inherit,
            limits: Limits::none(),
            context: Context::current(),
            timeout: shared.options.request_timeout,
            id: None,
        }
    }

    /// Encodes `value` as the payload, in the client's content type.
    pub fn payload<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.body = self.content_type.encode(value);
        self
    }

    /// Encodes `value` as JSON.
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        self.content_type = ContentType::Json;
        self.payload(value)
    }

    /// Takes bytes as they are.
    pub fn bytes(mut self, content_type: ContentType, body: impl Into<Bytes>) -> Self {
        self.content_type = content_type;
        self.body = Ok(body.into());
        self
    }

    /// Adds an application header. It is signed with everything else.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
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

    /// Sends on behalf of this user, whom this process has verified: one that it
    /// kept of a message, or that an exchange
    /// gave.
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
        self.limits = self.limits.and(limits);
        self
    }

    /// Sends in this context instead of the running handler's.
    pub fn context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    /// Sends with this trace instead of the running handler's: for the edge,
    /// where a trace comes from outside.
    pub fn traceparent(mut self, traceparent: TraceParent) -> Self {
        self.context.traceparent = Some(traceparent);
        self
    }

    /// Gives an event an id in place of a random one, so that a repetition of
    /// what caused it is recognised: for the edge, where a client names its
    /// attempts. Whoever can foresee an id can take it first, so it must be one
    /// that nobody else can compute, such as an HMAC under a key of the edge's
    /// own. An append that finds it taken is [`AppendError::IdTaken`].
    ///
    /// [`AppendError::IdTaken`]: crate::AppendError::IdTaken
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// How long a request waits for its reply, and an append for its stream.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Publishes it as an event.
    ///
    /// Returns once the message is accepted: everything about it was found
    /// right, and it is handed to the connection or, while others are being
    /// sealed, waits to be sealed with them. Messages of one task leave in the
    /// order of its calls. When too much waits, this waits too.
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
        let shared = self.shared;
        self.tell_earlier_losses()?;
        let letter = self.address(Verb::Publish).await?.letter(Purpose::Event);
        Ok(shared.signer.post(letter).await?)
    }

    /// What went wrong with earlier messages to this subject.
    fn tell_earlier_losses(&self) -> Result<(), PublishError> {
        let subject = self.to.text();
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

    /// Everything that can be said no to before sealing.
    pub(crate) async fn address(self, verb: Verb) -> Result<Addressed, SendError> {
        let shared = self.shared;
        let route = match self.to {
            To::Known(route) => shared.routes.renew(route, &shared.control),
            To::Text(text) => shared.routes.learn(&text, &shared.control),
        }?;
        let now = clock::now();
        shared.control.check(now)?;
        let user = match self.user {
            UserChoice::Nobody => None,
            // A subject that refuses users gets none from the context; one
            // that was named for this very message is an error below.
            UserChoice::Inherit if route.requirements.user == UserRule::None => None,
            UserChoice::Inherit => self.context.user.clone(),
            UserChoice::Token(token) => {
                let user = shared.users.verify(&shared.control, &token, now).await;
                Some(user.map_err(|refusal| SendError::User {
                    reason: refusal.code(),
                })?)
            }
            UserChoice::Verified(user) => Some(user),
        };
        let user = match user {
            Some(user) if !self.limits.is_none() => {
                let narrowed = user.narrowed(&self.limits);
                Some(narrowed.map_err(|_| SendError::User {
                    reason: "limits_too_large",
                })?)
            }
            user => user,
        };
        if let Some(user) = &user {
            user.check_times(now, shared.options.clock_skew)
                .map_err(|e| SendError::User { reason: e.code() })?;
            let since = shared
                .control
                .user_revoked_since(user.principal(), user.transaction());
            if AsOf::Now.is_revoked(since) {
                let reason = UserRefusal::Revoked.code();
                return Err(SendError::User { reason });
            }
        }
        let requirements = preflight(shared, verb, &route, user.as_ref(), now)?;
        let mut parent = self.context.parent;
        let mut ancestry = None;
        if let (Chain::Proven, Some(user)) = (requirements.chain, &user) {
            let own = &shared.options.workload;
            ancestry =
                chains::show(own, &self.context, user).map_err(|source| SendError::Chain {
                    subject: route.subject.as_str().to_owned(),
                    source,
                })?;
            parent = ancestry.as_ref().map(Ancestry::nearest);
        }
        let key = match kem_of(&requirements) {
            Some(suite) => Some(
                shared
                    .vault
                    .key_for(verb, &route.subject, suite, now)
                    .await?,
            ),
            None => None,
        };
        Ok(Addressed {
            id: self.id,
            body: self.body?,
            route,
            user,
            headers: app_headers(&self.headers)?,
            content_type: self.content_type,
            traceparent: self.context.traceparent,
            parent,
            ancestry,
            requirements,
            key,
            verb,
            now,
        })
    }
}

fn app_headers(pairs: &[(String, String)]) -> Result<AppHeaders, SendError> {
    let mut headers = AppHeaders::new();
    for (name, value) in pairs {
        headers.insert(name, value)?;
    }
    Ok(headers)
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
    let subject = &route.subject;
    let workload = &shared.options.workload;
    let what = decision_log::Subject {
        enforcer: "sender",
        workload: workload.path(),
        verb: verb.as_str(),
        subject: subject.as_str(),
        user: user.map(User::principal),
    };
    if user.is_none()
        && let Some(permit) = route.permit(verb)
    {
        decision_log::allow(what, permit.rule());
        return Ok(permit.requirements());
    }
    let policy = shared.control.policy();
    let decision = policy.policy().decide(&Request {
        workload,
        verb,
        subject,
        user: user.map(User::claims),
        now,
    });
    match decision {
        Decision::Allow(permit) => {
            let requirements = permit.requirements();
            if verb == Verb::Publish && requirements.replay == Some(Replay::Stream) {
                let id = decision_log::deny(what, permit.rule(), &"it must be appended");
                return Err(SendError::MustAppend {
                    subject: subject.as_str().to_owned(),
                    id,
                });
            }
            decision_log::allow(what, permit.rule());
            if user.is_none() {
                route.remember(verb, permit);
            }
            Ok(requirements)
        }
        Decision::Deny(denial) => {
            let id = decision_log::deny(what, denial.rule().unwrap_or_default(), &denial);
            Err(SendError::Denied {
                denial: Box::new(denial),
                id,
            })
        }
    }
}

/// A message that the policy lets out.
pub(crate) struct Addressed {
    pub(crate) route: Arc<Route>,
    body: Bytes,
    pub(crate) user: Option<User>,
    headers: AppHeaders,
    content_type: ContentType,
    traceparent: Option<TraceParent>,
    parent: Option<LeafHash>,
    ancestry: Option<Ancestry>,
    pub(crate) requirements: Requirements,
    key: Option<Arc<KeyInUse>>,
    id: Option<MessageId>,
    verb: Verb,
    now: UnixMillis,
}

impl Addressed {
    pub(crate) fn letter(self, purpose: Purpose) -> Letter {
        debug_assert_eq!(
            matches!(purpose, Purpose::Request { .. }),
            self.verb == Verb::Request
        );
        // What a stream stores is consumed for as long as `max_age` says, and
        // reaches the stream soon or never.
        let life = match self.verb {
            Verb::Append => self.requirements.max_age.min(APPEND_LIFE),
            _ => self.requirements.max_age,
        };
        let revision = self.route.revision;
        let mut letter = Letter::new(purpose, self.route, self.body, self.now, life);
        if let Some(id) = self.id {
            letter.set_id(id);
        }
        letter.content_type = Some(self.content_type);
        letter.user = self.user;
        letter.key = self.key;
        letter.open_token = self.requirements.open_token;
        letter.headers = self.headers;
        letter.parent = self.parent;
        letter.ancestry = self.ancestry;
        letter.traceparent = self.traceparent;
        letter.policy_revision = Some(revision);
        letter.sharing = Sharing::of(&self.requirements);
        letter
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

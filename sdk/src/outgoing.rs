//! A message on its way out: addressed, encoded, decided upon, sealed.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{AppHeaders, Draft, MessageId, Sealed, TraceParent};
use bulla_identity::{Subject, UnixMillis};
use bulla_policy::{Decision, Protect, Request, Requirements, UserRule, Verb};
use bytes::Bytes;
use serde::Serialize;

use crate::clock;
use crate::connection::Violation;
use crate::content::{ContentType, PayloadError};
use crate::context::Context;
use crate::decision_log;
use crate::error::{FlushError, LinkError, PublishError, RequestError, SendError};
use crate::message::Response;
use crate::shared::Shared;
use crate::user::User;

/// A message that is being put together; [`Client::message`] starts one.
///
/// [`Client::message`]: crate::Client::message
#[must_use = "nothing is sent before `publish` or `request`"]
pub struct Outgoing<'a> {
    shared: &'a Arc<Shared>,
    subject: String,
    content_type: ContentType,
    body: Result<Bytes, PayloadError>,
    headers: Vec<(String, String)>,
    user: UserChoice,
    context: Context,
    timeout: Duration,
}

enum UserChoice {
    Inherit,
    Nobody,
    Token(String),
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, subject: &str) -> Self {
        Self {
            shared,
            subject: subject.to_owned(),
            content_type: shared.options.content_type.clone(),
            body: Ok(Bytes::new()),
            headers: Vec::new(),
            user: UserChoice::Inherit,
            context: Context::current(),
            timeout: shared.options.request_timeout,
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

    /// How long a request waits for its reply.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Publishes it as an event.
    ///
    /// Returns once the message is handed to the connection. What nats-server
    /// refuses later is reported by the next publish on the same subject and by
    /// [`Client::flush`](crate::Client::flush).
    ///
    /// # Errors
    /// [`PublishError`]; a denial by policy is known before anything is sent.
    pub async fn publish(self) -> Result<(), PublishError> {
        let shared = self.shared;
        let count = shared.connection.take_refused_publishes(&self.subject);
        if count > 0 {
            return Err(PublishError::EarlierRefused {
                subject: self.subject,
                count,
            });
        }
        let addressed = self.address(Verb::Publish).await?;
        let sealed = addressed.seal(None)?;
        shared
            .connection
            .nats()
            .publish(addressed.subject.as_str().to_owned(), sealed.bytes)
            .await
            .map_err(|_| SendError::Link(LinkError::Disconnected))?;
        Ok(())
    }

    /// Sends it as a request and waits for the verified reply.
    ///
    /// Forged and unsound replies are counted and do not end the wait.
    ///
    /// # Errors
    /// [`RequestError`]; a denial by policy is known before anything is sent.
    pub async fn request(self) -> Result<Response, RequestError> {
        let shared = self.shared;
        let timeout = self.timeout;
        let addressed = self.address(Verb::Request).await?;
        let subject = addressed.subject.as_str().to_owned();
        let mut expected = shared.replies.expect();
        let reply_to = Subject::parse(expected.subject()).map_err(|source| SendError::Subject {
            subject: expected.subject().to_owned(),
            source,
        })?;
        let sealed = addressed.seal(Some(&reply_to))?;
        let mut watch = shared.connection.watch();
        shared
            .connection
            .nats()
            .publish_with_reply(subject.clone(), reply_to.as_str().to_owned(), sealed.bytes)
            .await
            .map_err(|_| SendError::Link(LinkError::Disconnected))?;

        let refused = Violation::Publish {
            subject: subject.clone(),
        };
        let user = addressed.user.as_ref().map(User::claims);
        let wait = async {
            loop {
                let Some(raw) = expected.next().await else {
                    return Err(SendError::Link(LinkError::Disconnected).into());
                };
                if raw.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                    return Err(RequestError::NoResponders {
                        subject: subject.clone(),
                    });
                }
                if let Some(outcome) = shared
                    .open_reply(raw, &addressed.subject, user, &sealed.leaf)
                    .await
                {
                    return outcome;
                }
            }
        };
        tokio::select! {
            outcome = tokio::time::timeout(timeout, wait) => {
                outcome.unwrap_or(Err(RequestError::Timeout { subject: subject.clone(), after: timeout }))
            }
            () = watch.wait_for(&refused) => {
                shared.connection.take_refused_publishes(&subject);
                Err(RequestError::RefusedByServer { subject: subject.clone() })
            }
        }
    }

    /// Everything that can be said no to before sealing.
    async fn address(self, verb: Verb) -> Result<Addressed<'a>, SendError> {
        let shared = self.shared;
        let subject = Subject::parse(&self.subject).map_err(|source| SendError::Subject {
            subject: self.subject.clone(),
            source,
        })?;
        let now = clock::now();
        let policy = shared.control.policy();
        let user = match self.user {
            UserChoice::Nobody => None,
            // A subject that refuses users gets none from the context; one
            // that was named for this very message is an error below.
            UserChoice::Inherit
                if policy.policy().requirements(&subject).user == UserRule::None =>
            {
                None
            }
            UserChoice::Inherit => self.context.user.clone(),
            UserChoice::Token(token) => {
                let user = shared.users.verify(&shared.control, &token, now).await;
                Some(user.map_err(|refusal| SendError::User {
                    reason: refusal.code(),
                })?)
            }
        };
        if let Some(user) = &user {
            user.verified()
                .check_times(now, shared.options.clock_skew)
                .map_err(|e| SendError::User { reason: e.code() })?;
        }
        let requirements = preflight(shared, verb, &subject, user.as_ref(), now)?;
        Ok(Addressed {
            shared,
            body: self.body?,
            subject,
            user,
            headers: app_headers(&self.headers)?,
            content_type: self.content_type,
            context: self.context,
            requirements,
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
    subject: &Subject,
    user: Option<&User>,
    now: UnixMillis,
) -> Result<Requirements, SendError> {
    let policy = shared.control.policy();
    let workload = &shared.options.workload;
    let decision = policy.policy().decide(&Request {
        workload,
        verb,
        subject,
        user: user.map(User::claims),
        now,
    });
    let what = decision_log::Subject {
        enforcer: "sender",
        workload: workload.path(),
        verb: verb.as_str(),
        subject: subject.as_str(),
        user: user.map(User::principal),
    };
    match decision {
        Decision::Allow(permit) => {
            let requirements = permit.requirements();
            if requirements.protect == Protect::Encrypted {
                decision_log::deny(
                    what,
                    permit.rule(),
                    &"encryption is not supported by this version",
                );
                return Err(SendError::Protection {
                    subject: subject.as_str().to_owned(),
                    protect: requirements.protect.as_str(),
                });
            }
            decision_log::allow(what, permit.rule());
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
struct Addressed<'a> {
    shared: &'a Arc<Shared>,
    subject: Subject,
    body: Bytes,
    user: Option<User>,
    headers: AppHeaders,
    content_type: ContentType,
    context: Context,
    requirements: Requirements,
    verb: Verb,
    now: UnixMillis,
}

impl Addressed<'_> {
    fn seal(&self, reply_to: Option<&Subject>) -> Result<Sealed, SendError> {
        let shared = self.shared;
        let sealer = shared.own.sealer(self.now)?;
        let expires = self
            .now
            .saturating_add(self.requirements.max_age)
            .min(sealer.expires_at());
        let mut draft = match reply_to {
            Some(reply_to) => {
                Draft::request(&self.subject, reply_to, self.now, expires, &self.body)
            }
            None => Draft::event(&self.subject, self.now, expires, &self.body),
        };
        draft.content_type = Some(self.content_type.as_str());
        draft.token = self.user.as_ref().map(|u| u.token().as_bytes());
        draft.parent = self.context.parent;
        draft.traceparent = self.context.traceparent;
        draft.policy_revision = Some(shared.control.policy().revision());
        draft.app_headers = Some(&self.headers).filter(|h| !h.is_empty());
        let sealed = sealer.seal(&draft, MessageId(rand::random()))?;
        debug_assert_eq!(reply_to.is_some(), self.verb == Verb::Request);
        shared.fits(sealed.bytes.len())?;
        Ok(sealed)
    }
}

impl Shared {
    /// Whether nats-server takes a payload of this size.
    pub(crate) fn fits(&self, actual: usize) -> Result<(), SendError> {
        let limit = self.connection.nats().max_payload();
        if actual > limit {
            return Err(SendError::TooLarge { limit, actual });
        }
        Ok(())
    }

    /// Waits until nats-server has processed what was published, and reports
    /// what it refused.
    pub(crate) async fn flush(&self) -> Result<(), FlushError> {
        self.connection
            .barrier(self.options.request_timeout)
            .await?;
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

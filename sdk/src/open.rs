//! Subjects that the policy calls `open`: for the time in which not everybody there
//! uses Bulla yet.
//!
//! On them nats-server alone enforces who publishes and who subscribes. A message may
//! come sealed, from who has moved already, or plain; the type says which, so that
//! nothing that nobody has proven can be taken for something proven.

use std::fmt;

use bulla_identity::{Subject, WorkloadId};
use bulla_policy::{Decision, Protect, Request, Verb};
use bytes::Bytes;

use crate::client::Client;
use crate::clock;
use crate::decision_log;
use crate::error::{LinkError, PublishError, SendError, SubscribeError};
use crate::link::Link;
use crate::message::Message;
use crate::outgoing::Outgoing;
use crate::shared::Shared;
use crate::subscription::Subscription;

/// An event on an open subject.
#[derive(Debug, Clone)]
pub enum OpenMessage {
    /// Sealed, and verified as everywhere.
    Sealed(Message),
    /// Plain: nothing about it is proven.
    Plain(PlainMessage),
}

impl OpenMessage {
    /// The payload's bytes, proven or not.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        match self {
            Self::Sealed(message) => message.payload(),
            Self::Plain(message) => message.danger_payload(),
        }
    }

    /// The verified message, if it is one.
    #[must_use]
    pub fn sealed(&self) -> Option<&Message> {
        match self {
            Self::Sealed(message) => Some(message),
            Self::Plain(_) => None,
        }
    }
}

/// A message that nobody has signed: whoever may publish on its subject may have sent
/// it, whenever and how often.
#[derive(Clone)]
pub struct PlainMessage {
    subject: Subject,
    payload: Bytes,
    may_be_from: Vec<WorkloadId>,
}

impl PlainMessage {
    /// The subject on which it came.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Who may publish there, by the policy: it is from one of them, or from who runs
    /// nats-server.
    #[must_use]
    pub fn may_be_from(&self) -> &[WorkloadId] {
        &self.may_be_from
    }

    /// Its bytes.
    ///
    /// # Security
    /// Nobody has proven who sent them, or when, or that they were not changed.
    #[must_use]
    pub fn danger_payload(&self) -> &Bytes {
        &self.payload
    }
}

/// Shows where it came, never what it is.
impl fmt::Debug for PlainMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainMessage")
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Listens to events on subjects that the policy calls `open`, where who does not
    /// use Bulla yet publishes plain messages. Each says whether it was sealed.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub async fn subscribe_open(&self, pattern: &str) -> Result<OpenSubscription, SubscribeError> {
        OpenSubscription::open(self.shared(), pattern).await
    }

    /// The NATS client below, for code that has not moved yet: it shares this client's
    /// connection, and nats-server holds it to what the policy lets this workload do.
    /// Nothing on a bus within this process, which has no NATS client.
    ///
    /// The other way round, a connection that the program has made itself can be lent:
    /// [`Client::over`].
    ///
    /// # Security
    /// What is sent with it is not sealed, and what it receives nobody has verified:
    /// everybody on Bulla refuses the one, and the other proves nothing.
    #[must_use]
    pub fn danger_nats(&self) -> Option<async_nats::Client> {
        match self.shared().connection.link() {
            Link::Nats(nats) => Some(nats.clone()),
            Link::Lent(lent) => Some(lent.nats().clone()),
            #[cfg(feature = "testing")]
            Link::Memory(_) => None,
        }
    }
}

/// Events on open subjects, sealed and plain; made by
/// [`Client::subscribe_open`](crate::Client::subscribe_open). Dropping it unsubscribes.
pub struct OpenSubscription {
    inner: Subscription,
}

impl OpenSubscription {
    pub(crate) async fn open(
        shared: &std::sync::Arc<Shared>,
        pattern: &str,
    ) -> Result<Self, SubscribeError> {
        let inner = Subscription::open(shared, pattern, false).await?;
        Ok(Self { inner })
    }

    /// The next event; `None` when the subscription has ended. What is sealed passes
    /// every check or is refused. What is plain is refused where the policy does not
    /// call its subject open (any more).
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<OpenMessage> {
        loop {
            match self.inner.next_or_plain().await? {
                Ok(message) => return Some(OpenMessage::Sealed(message)),
                Err(raw) => {
                    if let Some(plain) = self.admit(raw) {
                        return Some(OpenMessage::Plain(plain));
                    }
                }
            }
        }
    }

    fn admit(&self, raw: async_nats::Message) -> Option<PlainMessage> {
        let shared = self.inner.shared();
        let now = clock::now();
        let subject = Subject::parse(&raw.subject).ok();
        let policy = shared.control.policy();
        let is_open =
            |subject: &Subject| policy.policy().requirements(subject).protect == Protect::Open;
        let refused = match &subject {
            None => Some("bad_subject"),
            Some(subject) if !is_open(subject) => Some("not_sealed"),
            Some(_) => shared
                .control
                .check(now)
                .err()
                .map(|standing| standing.code()),
        };
        if let Some(code) = refused {
            shared.stats.count_refused(code);
            let what = decision_log::Subject {
                enforcer: "receiver",
                workload: "?",
                verb: Verb::Publish.as_str(),
                subject: &raw.subject,
                user: None,
            };
            shared.decisions.deny(what, "", code, &"a plain message");
            return None;
        }
        let subject = subject?;
        let who = policy.policy().who_may_ever(Verb::Publish, &subject);
        let may_be_from = who.map(|workload| workload.id().clone()).collect();
        shared.stats.count_plain();
        Some(PlainMessage {
            subject,
            payload: raw.payload,
            may_be_from,
        })
    }

    /// As [`Subscription::drain`].
    ///
    /// # Errors
    /// As there.
    pub async fn drain(&mut self) -> Result<(), LinkError> {
        self.inner.drain().await
    }
}

impl fmt::Debug for OpenSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenSubscription")
    }
}

impl Outgoing<'_> {
    /// Publishes the payload as it is, without an envelope, for who does not use Bulla
    /// yet: only where the policy calls the subject `open`, and lets this workload
    /// publish. Without a user, headers and everything else that would be signed.
    ///
    /// # Errors
    /// [`PublishError`]; [`SendError::NotOpen`] where it would have to be sealed.
    pub async fn publish_plain(self) -> Result<(), PublishError> {
        let (shared, subject, body) = self.into_plain()?;
        let now = clock::now();
        shared.connection.check_heard().map_err(SendError::from)?;
        shared.control.check(now).map_err(SendError::from)?;
        let policy = shared.control.policy();
        if policy.policy().requirements(&subject).protect != Protect::Open {
            let subject = subject.as_str().to_owned();
            return Err(SendError::NotOpen { subject }.into());
        }
        let workload = &shared.options.workload;
        let request = Request {
            workload,
            verb: Verb::Publish,
            subject: &subject,
            user: None,
            now,
        };
        let what = decision_log::Subject {
            enforcer: "sender",
            workload: workload.path(),
            verb: Verb::Publish.as_str(),
            subject: subject.as_str(),
            user: None,
        };
        match shared.control.decide(&policy, &request) {
            Decision::Allow(permit) => shared.decisions.allow(what, &permit, false),
            Decision::Deny(denial) => {
                let id = shared.decisions.deny_by(what, &denial);
                let denial = Box::new(denial);
                return Err(SendError::Denied { denial, id }.into());
            }
        }
        let limit = shared.connection.link().max_payload();
        if body.len() > limit {
            let actual = body.len();
            return Err(SendError::TooLarge { limit, actual }.into());
        }
        let sent = shared.connection.link().publish(subject.to_string(), body);
        Ok(sent.await.map_err(SendError::from)?)
    }
}

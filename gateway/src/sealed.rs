//! The bus is `bulla_sdk::Client`: the only file that knows it.

use std::error::Error as StdError;
use std::time::Duration;

use bulla_identity::Subject;
use bulla_sdk::audit::AuditLog;
use bulla_sdk::{
    AgreeError, Agreed, AppendError, Client, ConsumeError, ContentType, LinkError, Message,
    MessageId, Outgoing, PublishError, RequestError, SendError, ServiceError, ServiceErrorCode,
    SubscribeError,
};

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::bus::{Bus, BusError, BusEvent, BusMessage, BusReply, ServiceFault, TokenKey};
use crate::clock;
use crate::following::Following;
use crate::hearing::Hearing;
use crate::routes::RouteTable;
use crate::under_policy::{Objection, may_listen, objections};

/// The sealed bus of one client.
pub struct SealedBus {
    client: Client,
    following: Following,
    hearing: Hearing,
}

impl SealedBus {
    /// The bus of this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            following: Following::default(),
            hearing: Hearing::default(),
        }
    }

    /// The stream that stores a subject, and the consumer under which it may be read here.
    fn stored(&self, subject: &Subject) -> Option<(String, Option<String>)> {
        let policy = self.client.policy();
        let policy = policy.policy();
        let stream = policy.stream_of(subject)?.name();
        let own = policy.consumers().iter().find(|consumer| {
            let owner = policy.consumer_owner(consumer);
            consumer.stream() == stream && owner.is_some_and(|o| o.id() == self.client.workload())
        });
        Some((stream.to_owned(), own.map(|c| c.name().to_owned())))
    }
}

impl Bus for SealedBus {
    async fn request(&self, message: BusMessage, deadline: Duration) -> Result<BusReply, BusError> {
        let asked = outgoing(&self.client, message).within(deadline).request();
        let reply = asked.await.map_err(request_error)?;
        Ok(BusReply {
            payload: reply.body().clone(),
            content_type: reply.content_type().as_str().to_owned(),
            headers: reply
                .headers()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        })
    }

    async fn publish(
        &self,
        message: BusMessage,
        id: Option<[u8; 16]>,
        deadline: Duration,
    ) -> Result<(), BusError> {
        // The client would keep it for later: the edge says now that it cannot.
        if !self.client.is_connected() {
            return Err(BusError::Disconnected);
        }
        let is_stored = self.stored(&message.subject).is_some();
        let outgoing = outgoing(&self.client, message).timeout(deadline);
        if is_stored {
            let outgoing = match id {
                Some(id) => outgoing.attempt(MessageId(id)),
                None => outgoing,
            };
            let appended = outgoing.append().await;
            return appended.map(drop).map_err(append_error);
        }
        tokio::time::timeout(deadline, outgoing.publish())
            .await
            .map_err(|_| BusError::Timeout)?
            .map_err(publish_error)
    }

    fn knows_ids_for(&self, subject: &Subject) -> Option<Duration> {
        let policy = self.client.policy();
        let stream = policy.policy().stream_of(subject)?;
        Some(stream.duplicates())
    }

    async fn listen(
        &self,
        subject: &Subject,
        after: Option<u64>,
    ) -> Result<mpsc::Receiver<BusEvent>, BusError> {
        let Some((stream, consumer)) = self.stored(subject) else {
            return self.hearing.listen(&self.client, subject).await;
        };
        let Some(consumer) = consumer else {
            tracing::warn!(
                stream,
                "the policy gives the edge no consumer of this stream, so nobody can listen to it here"
            );
            return Err(BusError::Denied { decision: None });
        };
        let place = (stream.as_str(), consumer.as_str());
        let listened = self.following.listen(&self.client, place, subject, after);
        listened.await
    }

    fn may_listen(&self, subject: &Subject) -> bool {
        let policy = self.client.policy();
        may_listen(policy.policy(), self.client.workload(), subject)
    }

    async fn agree(
        &self,
        kind: &str,
        name: &[&[u8]],
        value: &[u8],
        life: Duration,
    ) -> Result<Option<Bytes>, BusError> {
        match self.client.agree(kind, name, value, life).await {
            Ok(Agreed::First) => Ok(None),
            Ok(Agreed::Before(value)) => Ok(Some(value)),
            Err(error) => Err(agree_error(error)),
        }
    }

    async fn agreed(
        &self,
        kind: &str,
        name: &[&[u8]],
        life: Duration,
    ) -> Result<Option<Bytes>, BusError> {
        let agreed = self.client.agreed(kind, name, life).await;
        agreed.map_err(agree_error)
    }

    fn audiences(&self, subject: &Subject) -> Vec<String> {
        let policy = self.client.policy();
        let audiences = policy.policy().requirements(subject).audiences;
        let names = policy.policy().audience_names(audiences);
        names.map(str::to_owned).collect()
    }

    fn policy_revision(&self) -> u64 {
        self.client.policy().revision()
    }

    fn objections(&self, routes: &RouteTable) -> Vec<Objection> {
        let policy = self.client.policy();
        objections(routes, policy.policy(), self.client.workload())
    }

    fn is_user_revoked(&self, principal: &str) -> bool {
        self.client.revocations().is_user_revoked(principal)
    }

    fn is_token_revoked(&self, id: &str) -> bool {
        self.client.revocations().is_token_revoked(id)
    }

    async fn hide_claims(
        &self,
        txn: &str,
        user: &str,
        claims: &mut Map<String, Value>,
    ) -> Result<Option<Value>, BusError> {
        self.client
            .hide_claims(txn, user, claims)
            .await
            .map_err(|error| {
                tracing::warn!(error = error.code(), "private claims cannot be encrypted");
                BusError::Disconnected
            })
    }

    fn ready(&self) -> bool {
        self.client.is_connected() && self.token_key().is_some()
    }

    fn token_key(&self) -> Option<TokenKey> {
        // Of a user who is revoked meanwhile nobody would tell it.
        self.client.standing().ok()?;
        let (id, ends) = self.client.signing_key();
        (ends > clock::now().saturating_add(MARGIN)).then(|| TokenKey {
            kid: id.to_hex(),
            ends,
        })
    }

    fn audit(&self) -> AuditLog {
        self.client.audit().clone()
    }

    async fn flush(&self) {
        if let Err(error) = self.client.flush().await {
            log("messages were lost at the end", &error);
        }
        self.client.drain().await;
    }
}

/// A message as an event, with its number in the stream that stores it.
pub(crate) fn event(message: &Message, place: Option<u64>) -> BusEvent {
    let content_type = message.content_type().as_str();
    BusEvent::new(content_type, message.payload().clone(), place)
}

fn outgoing(client: &Client, message: BusMessage) -> Outgoing<'_> {
    let content_type = ContentType::parse(&message.content_type);
    let mut outgoing = client
        .message(message.subject.as_str())
        .bytes(content_type, message.payload);
    if let Some(trace) = message.traceparent {
        outgoing = outgoing.traceparent(trace);
    }
    for (name, value) in message.headers {
        outgoing = outgoing.header(name, value);
    }
    if let Some(original) = &message.original {
        outgoing = outgoing.original_token(original.as_str());
    }
    match message.token {
        Some(token) => outgoing.minted_token(token),
        None => outgoing.without_user(),
    }
}

fn request_error(error: RequestError) -> BusError {
    let outcome = match &error {
        RequestError::Send(error) => send_error(error),
        RequestError::NoResponders { .. } => BusError::NoResponders,
        RequestError::Timeout { .. } | RequestError::UnsoundReply { .. } => BusError::Timeout,
        RequestError::RefusedByServer { .. } => BusError::Denied { decision: None },
        RequestError::Service(error) => service_error(error),
        RequestError::Refused { decision } => BusError::Denied {
            decision: Some(decision.clone()),
        },
        // What a later version adds is a reply that this one cannot use.
        _ => BusError::BadReply,
    };
    log("the request failed", &error);
    outcome
}

fn publish_error(error: PublishError) -> BusError {
    let outcome = match &error {
        PublishError::Send(error) => send_error(error),
        PublishError::EarlierRefused { .. } => BusError::Denied { decision: None },
        _ => BusError::Disconnected,
    };
    log("the publish failed", &error);
    outcome
}

fn append_error(error: AppendError) -> BusError {
    let outcome = match &error {
        AppendError::Send(error) => send_error(error),
        AppendError::RefusedByServer { .. } => BusError::Denied { decision: None },
        AppendError::Unconfirmed { .. } => BusError::Timeout,
        // A stream that is full or is not what the policy says: nothing that the client
        // can change.
        _ => BusError::Disconnected,
    };
    log("the append failed", &error);
    outcome
}

pub(crate) fn consume_error(error: &ConsumeError) -> BusError {
    let outcome = match error {
        ConsumeError::Denied { id, .. } => BusError::Denied {
            decision: Some(id.to_string()),
        },
        _ => BusError::Disconnected,
    };
    log("the stream cannot be read", error);
    outcome
}

fn agree_error(error: AgreeError) -> BusError {
    tracing::warn!(error = error.code(), "the bus does not remember");
    BusError::Disconnected
}

pub(crate) fn subscribe_error(error: &SubscribeError) -> BusError {
    let outcome = match error {
        SubscribeError::Denied { id, .. } => BusError::Denied {
            decision: Some(id.to_string()),
        },
        SubscribeError::RefusedByServer { .. } => BusError::Denied { decision: None },
        _ => BusError::Disconnected,
    };
    log("the subscription failed", error);
    outcome
}

fn send_error(error: &SendError) -> BusError {
    match error {
        SendError::Denied { id, .. } => BusError::Denied {
            decision: Some(id.to_string()),
        },
        SendError::TooLarge { .. } => BusError::TooLarge,
        SendError::User { .. } | SendError::Original { .. } => BusError::Denied { decision: None },
        SendError::Link(LinkError::Timeout) => BusError::Timeout,
        SendError::Link(LinkError::NoResponders) => BusError::NoResponders,
        SendError::Link(LinkError::Refused) => BusError::Denied { decision: None },
        // Nothing that the client can change: a credential that has run out, a
        // subject that asks for what this version cannot give.
        _ => BusError::Disconnected,
    }
}

fn service_error(error: &ServiceError) -> BusError {
    let kind = match error.code() {
        ServiceErrorCode::Invalid => ServiceFault::Invalid,
        ServiceErrorCode::NotFound => ServiceFault::NotFound,
        ServiceErrorCode::Conflict => ServiceFault::Conflict,
        ServiceErrorCode::Forbidden => ServiceFault::Forbidden,
        ServiceErrorCode::Unavailable => ServiceFault::Unavailable,
        _ => ServiceFault::Internal,
    };
    BusError::Service {
        kind,
        message: error.message().to_owned(),
    }
}

/// The full reason stays inside.
fn log(what: &'static str, error: &(dyn StdError + 'static)) {
    tracing::debug!(error, "{what}");
}

/// A credential that ends sooner is no use any more: a token under it would have
/// ended before it arrives.
const MARGIN: Duration = Duration::from_secs(2);

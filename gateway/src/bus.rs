//! What the edge needs of the bus, and nothing of how the bus does it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::{Subject, UnixMillis};
use bulla_process::Zeroizing;
use bulla_sdk::audit::AuditLog;
use bulla_sdk::{MintedToken, TraceParent};
use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::event_content::EventContent;
use crate::routes::RouteTable;
use crate::under_policy::Objection;

/// A message to send: what is left of an HTTP request.
#[derive(Clone)]
pub struct BusMessage {
    /// Where to.
    pub subject: Subject,
    /// The body.
    pub payload: Bytes,
    /// Its content type, without parameters.
    pub content_type: String,
    /// Signed application headers, in order.
    pub headers: Vec<(String, String)>,
    /// The transaction token of the user; none on a public route.
    pub token: Option<MintedToken>,
    /// The client's own token, where the route hands it on.
    pub original: Option<Zeroizing<String>>,
    /// W3C trace context.
    pub traceparent: Option<TraceParent>,
}

/// A verified event of a subject that somebody listens to.
#[derive(Debug, Clone)]
pub struct BusEvent(Arc<Told>);

/// What it says; one for all who listen, whose channels hold no more than where it is.
#[derive(Debug)]
struct Told {
    content: EventContent,
    place: Option<u64>,
}

impl BusEvent {
    /// An event with this body; `place` is its number in the stream that stores it, none
    /// of what is not stored.
    #[must_use]
    pub fn new(content_type: &str, payload: Bytes, place: Option<u64>) -> Self {
        Self(Arc::new(Told {
            content: EventContent::of(content_type, payload),
            place,
        }))
    }

    /// What it says, as a client is sent it.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        match &self.0.content {
            EventContent::Text(bytes) | EventContent::Binary(bytes) => bytes,
        }
    }

    pub(crate) fn content(&self) -> &EventContent {
        &self.0.content
    }

    pub(crate) fn place(&self) -> Option<u64> {
        self.0.place
    }
}

/// A verified reply.
#[derive(Clone, Default)]
pub struct BusReply {
    /// The body.
    pub payload: Bytes,
    /// Its content type.
    pub content_type: String,
    /// Signed application headers.
    pub headers: Vec<(String, String)>,
}

/// Shows what kind of reply it is, never what it says.
impl fmt::Debug for BusReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusReply")
            .field("content_type", &self.content_type)
            .field("payload_len", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// How sending ended if not well. The edge answers each with one HTTP status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusError {
    /// Nobody serves the subject.
    NoResponders,
    /// No reply in time.
    Timeout,
    /// A policy said no: here before sending, or at the receiver.
    Denied {
        /// The id of the decision, where the full reason is logged.
        decision: Option<String>,
    },
    /// The sealed message would be larger than the bus takes.
    TooLarge,
    /// The service answered with an error of its own.
    Service {
        /// What kind.
        kind: ServiceFault,
        /// For people; says nothing secret.
        message: String,
    },
    /// The reply could not be verified or read.
    BadReply,
    /// Not connected, or no valid credential.
    Disconnected,
}

/// The kinds of errors that a service answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceFault {
    /// The content is wrong.
    Invalid,
    /// The thing asked for does not exist.
    NotFound,
    /// It conflicts with what is there.
    Conflict,
    /// The user may not.
    Forbidden,
    /// A dependency of the service is missing.
    Unavailable,
    /// The service failed.
    Internal,
}

/// The sealed bus, as the edge sees it.
///
/// `bulla_sdk::Client` implements it; tests of the edge alone bring their own.
pub trait Bus: Send + Sync + 'static {
    /// Sends a request and waits for its verified reply, `deadline` at most.
    fn request(
        &self,
        message: BusMessage,
        deadline: Duration,
    ) -> impl Future<Output = Result<BusReply, BusError>> + Send;

    /// Sends an event; returns after `deadline` at most. Where a stream stores the subject
    /// it returns when the stream has it, elsewhere when it is on its way.
    ///
    /// `id` names it to the stream, which stores one of an id: it must be one that nobody
    /// else can foresee. That it is there already is a success.
    fn publish(
        &self,
        message: BusMessage,
        id: Option<[u8; 16]>,
        deadline: Duration,
    ) -> impl Future<Output = Result<(), BusError>> + Send;

    /// For how long the stream that stores a subject knows ids; none if nothing stores it.
    fn knows_ids_for(&self, subject: &Subject) -> Option<Duration>;

    /// Listens to events on a subject; where a stream stores them, from its `after`th on.
    /// The receiver ends when there are none any more, and, where nothing stores them,
    /// when they are taken more slowly than they come; dropping it ends the listening.
    fn listen(
        &self,
        subject: &Subject,
        after: Option<u64>,
    ) -> impl Future<Output = Result<mpsc::Receiver<BusEvent>, BusError>> + Send;

    /// Whether the policy that is in force lets the edge listen to a subject.
    fn may_listen(&self, _subject: &Subject) -> bool {
        true
    }

    /// Writes a value under a name for `life`, for all nodes of the edge; if one stands
    /// there already it stays, and is the answer.
    fn agree(
        &self,
        kind: &str,
        name: &[&[u8]],
        value: &[u8],
        life: Duration,
    ) -> impl Future<Output = Result<Option<Bytes>, BusError>> + Send;

    /// What stands under a name that is written for `life`.
    fn agreed(
        &self,
        kind: &str,
        name: &[&[u8]],
        life: Duration,
    ) -> impl Future<Output = Result<Option<Bytes>, BusError>> + Send;

    /// The audiences that the policy gives this subject: what a route's tokens
    /// reach where it says nothing itself.
    fn audiences(&self, subject: &Subject) -> Vec<String>;

    /// The revision of the policy that decides at this moment.
    fn policy_revision(&self) -> u64;

    /// What the policy that is in force has against these routes; nothing where there is
    /// no policy.
    fn objections(&self, _routes: &RouteTable) -> Vec<Objection> {
        Vec::new()
    }

    /// Whether the user is revoked: nothing is minted for him then.
    fn is_user_revoked(&self, principal: &str) -> bool;

    /// Whether a token is revoked by its own id, whoever its user is.
    fn is_token_revoked(&self, id: &str) -> bool;

    /// Takes the claims that the policy calls private out of `claims`, and gives them
    /// encrypted to their readers, for the token of `txn` and `user`.
    fn hide_claims(
        &self,
        txn: &str,
        user: &str,
        claims: &mut Map<String, Value>,
    ) -> impl Future<Output = Result<Option<Value>, BusError>> + Send;

    /// Whether a message could be sent now.
    fn ready(&self) -> bool;

    /// The credential under which the token key is published at this moment. None
    /// while there is no valid one.
    fn token_key(&self) -> Option<TokenKey>;

    /// This process's chain of the audit log; none where there is no bus.
    fn audit(&self) -> AuditLog {
        AuditLog::off()
    }

    /// Sends what is still buffered, before the process ends.
    fn flush(&self) -> impl Future<Output = ()> + Send;
}

/// The credential that publishes the edge's token key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenKey {
    /// Its key id: the `kid` of the next transaction token.
    pub kid: String,
    /// When it ends; no receiver accepts a token that lives longer.
    pub ends: UnixMillis,
}

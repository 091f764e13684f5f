//! What a handler gets: a message that passed every check.

use std::fmt;
use std::sync::Arc;

use bulla_envelope::{LeafHash, MessageId, TraceParent};
use bulla_identity::{Subject, UnixMillis, WorkloadId};
use bulla_keyring::KeyId;
use bulla_policy::Permit;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::chains::{Hop, Past};
use crate::content::{ContentType, PayloadError};
use crate::context::Context;
use crate::original::OriginalToken;
use crate::origins::Origin;
use crate::user::User;

/// A verified message with payload `T`; raw [`Bytes`] unless it was decoded.
///
/// One exists only after signature, subject, times, user and policy were
/// checked and the replay window has taken it: it holds the policy's
/// [`Permit`], which nothing else can make.
#[derive(Clone)]
pub struct Message<T = Bytes> {
    pub(crate) payload: T,
    pub(crate) id: MessageId,
    pub(crate) facts: Arc<Facts>,
}

/// What the messages of an envelope have in common.
pub(crate) struct Facts {
    pub(crate) origin: Arc<Origin>,
    pub(crate) user: Option<User>,
    pub(crate) original: Option<OriginalToken>,
    pub(crate) leaf: LeafHash,
    pub(crate) content_type: ContentType,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) issued_at: UnixMillis,
    /// Until when its sender waits, by this process's clock.
    pub(crate) deadline: Option<UnixMillis>,
    pub(crate) traceparent: Option<TraceParent>,
    pub(crate) permit: Permit,
    /// The message that led to it, by its sender's word.
    pub(crate) parent: Option<LeafHash>,
    /// The messages that led to it, as far as they are proven.
    pub(crate) hops: Vec<Hop>,
    pub(crate) past: Option<Arc<Past>>,
}

/// Which workload sent a message, proven by its signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Sender {
    pub(crate) workload: WorkloadId,
    pub(crate) key_id: KeyId,
}

impl Sender {
    /// The workload.
    #[must_use]
    pub fn workload(&self) -> &WorkloadId {
        &self.workload
    }

    /// The id of the credential that the message was signed under.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.workload, self.key_id.to_hex())
    }
}

impl<T> Message<T> {
    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// The payload by value.
    #[must_use]
    pub fn into_payload(self) -> T {
        self.payload
    }

    /// Which workload sent it.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.facts.origin.sender
    }

    /// The user on whose behalf it was sent.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        self.facts.user.as_ref()
    }

    /// The token that the user's client itself sent to the edge, where its route
    /// hands it on (`carry = "original"`). It came encrypted from the workload that
    /// minted the user's token, and goes on with nothing that is sent.
    #[must_use]
    pub fn original_token(&self) -> Option<&OriginalToken> {
        self.facts.original.as_ref()
    }

    /// The subject that it was sent to, which is the one that it arrived on.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.facts.origin.subject
    }

    /// Its 16-byte random id.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// How the payload is encoded.
    #[must_use]
    pub fn content_type(&self) -> &ContentType {
        &self.facts.content_type
    }

    /// The signed application header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.facts.headers, name)
    }

    /// All signed application headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.facts
            .headers
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// When the sender sealed it, by the sender's clock.
    #[must_use]
    pub fn issued_at(&self) -> UnixMillis {
        self.facts.issued_at
    }

    /// Until when the sender of a request waits for its reply, by this process's
    /// clock; none for events. A handler of `serve` is stopped then, and what it
    /// asks of others in between waits no longer than that.
    #[must_use]
    pub fn deadline(&self) -> Option<UnixMillis> {
        self.facts.deadline
    }

    /// The proof that the policy let it through, with the rule that did.
    #[must_use]
    pub fn permit(&self) -> &Permit {
        &self.facts.permit
    }

    /// The messages that led to this one, the nearest first: with
    /// `chain = "proven"` all of them back to the workload that minted the user's
    /// token, each proven; elsewhere at most the one that the sender reports.
    #[must_use]
    pub fn via(&self) -> Vec<Hop> {
        let facts = &self.facts;
        match (facts.hops.is_empty(), facts.parent) {
            (true, Some(message)) => vec![Hop::Reported { message }],
            _ => facts.hops.clone(),
        }
    }

    /// The causal context for what is sent because of this message. Handlers of
    /// `serve` run in it already; a loop over a subscription enters it with
    /// [`Context::scope`].
    #[must_use]
    pub fn context(&self) -> Context {
        Context {
            user: self.facts.user.clone(),
            parent: Some(self.facts.leaf),
            traceparent: self.facts.traceparent,
            past: self.facts.past.clone(),
            deadline: self.facts.deadline,
        }
    }
}

impl Message<Bytes> {
    /// Decodes the payload by its content type.
    ///
    /// # Errors
    /// [`PayloadError`] if it is not a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        self.facts.content_type.decode(&self.payload)
    }

    /// The same message with its payload decoded.
    ///
    /// # Errors
    /// [`PayloadError`] if it is not a `T`.
    pub fn typed<T: DeserializeOwned>(self) -> Result<Message<T>, PayloadError> {
        Ok(Message {
            payload: self.decode()?,
            id: self.id,
            facts: self.facts,
        })
    }
}

/// Shows where a message came from, never its payload.
impl<T> fmt::Debug for Message<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("subject", &self.facts.origin.subject)
            .field("sender", &self.facts.origin.sender)
            .field("user", &self.facts.user)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What a handler answers, when a plain value is not enough.
#[derive(Clone)]
pub struct Reply {
    pub(crate) content_type: ContentType,
    pub(crate) body: Bytes,
    pub(crate) headers: Vec<(String, String)>,
}

impl Reply {
    /// Encodes `value`.
    ///
    /// # Errors
    /// [`PayloadError`] if it does not encode as `content_type`.
    pub fn encode<T: Serialize + ?Sized>(
        content_type: &ContentType,
        value: &T,
    ) -> Result<Self, PayloadError> {
        Ok(Self::bytes(
            content_type.clone(),
            content_type.encode(value)?,
        ))
    }

    /// Bytes as they are.
    #[must_use]
    pub fn bytes(content_type: ContentType, body: impl Into<Bytes>) -> Self {
        Self {
            content_type,
            body: body.into(),
            headers: Vec::new(),
        }
    }

    /// Adds a signed application header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// What a handler may return: any value that serializes, or a [`Reply`].
pub trait IntoReply {
    /// The reply, encoded as the request was.
    ///
    /// # Errors
    /// [`PayloadError`] if it does not encode.
    fn into_reply(self, content_type: &ContentType) -> Result<Reply, PayloadError>;
}

impl IntoReply for Reply {
    fn into_reply(self, _: &ContentType) -> Result<Reply, PayloadError> {
        Ok(self)
    }
}

impl<T: Serialize> IntoReply for T {
    fn into_reply(self, content_type: &ContentType) -> Result<Reply, PayloadError> {
        Reply::encode(content_type, &self)
    }
}

/// A verified reply to a request.
pub struct Response {
    pub(crate) body: Bytes,
    pub(crate) content_type: ContentType,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) sender: Sender,
}

impl Response {
    /// The payload's bytes.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// How the payload is encoded.
    #[must_use]
    pub fn content_type(&self) -> &ContentType {
        &self.content_type
    }

    /// The signed application header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    /// All signed application headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Which workload replied.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Decodes the payload by its content type.
    ///
    /// # Errors
    /// [`PayloadError`] if it is not a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        self.content_type.decode(&self.body)
    }
}

/// Shows who replied, never what.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("sender", &self.sender)
            .field("content_type", &self.content_type)
            .finish_non_exhaustive()
    }
}

fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(k, _)| k == name)
        .map(|(_, v)| v.as_str())
}

//! A message that may leave and is not sealed yet. It owns what it says, so
//! that it can wait for its batch without its sender.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{
    AppHeaders, Draft, Encryption, ErrorReport, LeafHash, MessageId, ReplyBinding, Sealer,
    TraceParent,
};
use bulla_identity::{Subject, UnixMillis};
use bytes::Bytes;

use crate::append::Slot;
use crate::content::ContentType;
use crate::user::User;
use crate::vault::KeyInUse;

/// What is going to be an envelope.
pub(crate) struct Letter {
    pub(crate) purpose: Purpose,
    pub(crate) subject: Subject,
    pub(crate) body: Bytes,
    pub(crate) content_type: Option<ContentType>,
    pub(crate) headers: AppHeaders,
    pub(crate) user: Option<User>,
    pub(crate) parent: Option<LeafHash>,
    pub(crate) traceparent: Option<TraceParent>,
    pub(crate) policy_revision: Option<u64>,
    pub(crate) issued_at: UnixMillis,
    /// At most; the credential's end may be nearer.
    pub(crate) life: Duration,
    /// The credential that it must be sealed under, where that is not the one
    /// in use: all replies to one request are under one key.
    pub(crate) under: Option<Arc<Sealer>>,
    /// Under which it is encrypted, where the subject asks for it.
    pub(crate) key: Option<Arc<KeyInUse>>,
    /// Whether the user token stays readable nevertheless.
    pub(crate) open_token: bool,
    id: MessageId,
}

/// What it is for.
#[derive(Clone)]
pub(crate) enum Purpose {
    Event,
    /// An event that its sender itself hands to a stream.
    Append(Arc<Slot>),
    Request {
        reply_to: Subject,
    },
    Reply(ReplyBinding),
    Error {
        request: LeafHash,
        index: u32,
        report: ErrorReport,
    },
}

/// What a unit of weight holds, see [`Letter::weight`].
const UNIT: usize = 1_024;

impl Letter {
    pub(crate) fn new(
        purpose: Purpose,
        subject: Subject,
        body: Bytes,
        issued_at: UnixMillis,
        life: Duration,
    ) -> Self {
        Self {
            purpose,
            subject,
            body,
            content_type: None,
            headers: AppHeaders::new(),
            user: None,
            parent: None,
            traceparent: None,
            policy_revision: None,
            issued_at,
            life,
            under: None,
            key: None,
            open_token: false,
            id: MessageId(rand::random()),
        }
    }

    /// Takes an id that somebody chose in place of a random one.
    pub(crate) fn set_id(&mut self, id: MessageId) {
        self.id = id;
    }

    pub(crate) const fn id(&self) -> MessageId {
        self.id
    }

    /// What the sealer is to seal under a credential that ends then.
    pub(crate) fn draft(&self, credential_ends: UnixMillis) -> Draft<'_> {
        let (to, at) = (&self.subject, self.issued_at);
        let until = at.saturating_add(self.life).min(credential_ends);
        let mut draft = match &self.purpose {
            Purpose::Event | Purpose::Append(_) => Draft::event(to, at, until, &self.body),
            Purpose::Request { reply_to } => Draft::request(to, reply_to, at, until, &self.body),
            Purpose::Reply(binding) => Draft::reply(to, *binding, at, until, &self.body),
            Purpose::Error {
                request,
                index,
                report,
            } => Draft::error(to, *request, *index, *report, at, until),
        };
        draft.content_type = self.content_type.as_ref().map(ContentType::as_str);
        draft.token = self.user.as_ref().map(|user| user.token().as_bytes());
        draft.parent = self.parent;
        draft.traceparent = self.traceparent;
        draft.policy_revision = self.policy_revision;
        draft.encryption = self.key.as_ref().map(|in_use| Encryption {
            key: &in_use.key,
            inline_wraps: in_use.inline_wraps(),
            open_token: self.open_token,
            process: std::process::id(),
        });
        draft.app_headers = Some(&self.headers).filter(|headers| !headers.is_empty());
        draft
    }

    pub(crate) fn reply_to(&self) -> Option<&Subject> {
        match &self.purpose {
            Purpose::Request { reply_to } => Some(reply_to),
            _ => None,
        }
    }

    /// How much room it takes while it waits: one, and one for each KiB of
    /// what an application can make long.
    pub(crate) fn weight(&self) -> u32 {
        let token = self.user.as_ref().map_or(0, |user| user.token().len());
        u32::try_from(1 + (self.body.len() + token) / UNIT).unwrap_or(u32::MAX)
    }
}

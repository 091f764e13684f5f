//! What an envelope is to say, before it is sealed.

use std::fmt;

use bulla_identity::{Subject, UnixMillis};

use crate::data_key::SealingKey;
use crate::format::{Field, FieldSet, Kind, Suite};
use crate::header::{self, ErrorReport, ReplyBinding};
use crate::limits::{MAX_LIFE, MAX_LIMITS, MAX_TOKEN};
use crate::{Ancestry, AppHeaders, LeafHash, Limits, MessageId, SealError, TraceParent};

/// What one envelope is to say. Made by [`Draft::event`], [`Draft::request`],
/// [`Draft::reply`] or [`Draft::error`]; the optional fields are set afterwards.
#[derive(Clone)]
pub struct Draft<'a> {
    /// What the envelope is.
    pub kind: Kind,
    /// The subject that it will be published to, exactly.
    pub subject: &'a Subject,
    /// The reply subject that it will be published with, exactly.
    pub reply_to: Option<&'a Subject>,
    /// Now.
    pub issued_at: UnixMillis,
    /// From when on nobody may accept it; not after the credential's end.
    pub expires_at: UnixMillis,
    /// How the body is encoded, for example `application/msgpack`.
    pub content_type: Option<&'a str>,
    /// The user's token, unchanged.
    pub token: Option<&'a [u8]>,
    /// What narrows the user's authority, as [`Limits::encode`] gives it; only
    /// beside a token.
    pub limits: Option<&'a [u8]>,
    /// The token that the user's client itself sent, for handlers that ask for it;
    /// only beside a token, and only encrypted.
    pub original: Option<&'a [u8]>,
    /// What a reply answers.
    pub binding: Option<ReplyBinding>,
    /// The envelope in whose handling this one is sent.
    pub parent: Option<LeafHash>,
    /// What proves the chain that led to this, where the subject asks for it; its
    /// nearest is the parent. Only of events and requests.
    pub ancestry: Option<&'a Ancestry>,
    /// W3C trace context.
    pub traceparent: Option<TraceParent>,
    /// The sender's policy revision, informational.
    pub policy_revision: Option<u64>,
    /// The application's headers.
    pub app_headers: Option<&'a AppHeaders>,
    /// What an error reply says.
    pub error: Option<ErrorReport>,
    /// Encrypts body and token; without it they are signed and can be read.
    pub encryption: Option<Encryption<'a>>,
    /// The data key that a wrapped key's record is about.
    pub wrapped: Option<&'a SealingKey>,
    /// The body. Empty for an error, and for a frame, whose messages bring theirs.
    pub body: &'a [u8],
}

/// How one envelope is encrypted.
#[derive(Debug, Clone, Copy)]
pub struct Encryption<'a> {
    /// Under which data key.
    pub key: &'a SealingKey,
    /// Whether the wrapped key rides along, for receivers that cannot have it yet.
    pub inline_wraps: bool,
    /// Whether the user token stays readable for everybody.
    pub open_token: bool,
    /// The process that seals. One that was forked from the key's own is refused:
    /// it would repeat nonces.
    pub process: u32,
}

/// One message of a frame.
#[derive(Clone, Copy)]
pub struct FrameMessage<'a> {
    /// 16 random bytes.
    pub id: MessageId,
    /// The body.
    pub body: &'a [u8],
}

/// Shows where it is to go and how long its parts are, never tokens or body.
impl fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("kind", &self.kind)
            .field("subject", &self.subject)
            .field("reply_to", &self.reply_to)
            .field("issued_at", &self.issued_at)
            .field("expires_at", &self.expires_at)
            .field("content_type", &self.content_type)
            .field("binding", &self.binding)
            .field("parent", &self.parent)
            .field("error", &self.error)
            .field("encryption", &self.encryption)
            .field("token_len", &self.token.map(<[u8]>::len))
            .field("original_len", &self.original.map(<[u8]>::len))
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Shows which it is and how long, never its body.
impl fmt::Debug for FrameMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameMessage")
            .field("id", &self.id)
            .field("body_len", &self.body.len())
            .finish()
    }
}

impl<'a> Draft<'a> {
    /// A message without an answer.
    #[must_use]
    pub const fn event(
        subject: &'a Subject,
        issued_at: UnixMillis,
        expires_at: UnixMillis,
        body: &'a [u8],
    ) -> Self {
        Self {
            kind: Kind::Event,
            subject,
            reply_to: None,
            issued_at,
            expires_at,
            content_type: None,
            token: None,
            limits: None,
            original: None,
            binding: None,
            parent: None,
            ancestry: None,
            traceparent: None,
            policy_revision: None,
            app_headers: None,
            error: None,
            encryption: None,
            wrapped: None,
            body,
        }
    }

    /// A message that asks for replies on `reply_to`.
    #[must_use]
    pub const fn request(
        subject: &'a Subject,
        reply_to: &'a Subject,
        issued_at: UnixMillis,
        expires_at: UnixMillis,
        body: &'a [u8],
    ) -> Self {
        let mut draft = Self::event(subject, issued_at, expires_at, body);
        draft.kind = Kind::Request;
        draft.reply_to = Some(reply_to);
        draft
    }

    /// An answer; `subject` is the request's reply subject.
    #[must_use]
    pub const fn reply(
        subject: &'a Subject,
        binding: ReplyBinding,
        issued_at: UnixMillis,
        expires_at: UnixMillis,
        body: &'a [u8],
    ) -> Self {
        let mut draft = Self::event(subject, issued_at, expires_at, body);
        draft.kind = Kind::Reply;
        draft.binding = Some(binding);
        draft
    }

    /// The last answer to a request that failed after `index` replies.
    #[must_use]
    pub const fn error(
        subject: &'a Subject,
        request: LeafHash,
        index: u32,
        report: ErrorReport,
        issued_at: UnixMillis,
        expires_at: UnixMillis,
    ) -> Self {
        let mut draft = Self::event(subject, issued_at, expires_at, &[]);
        draft.kind = Kind::Error;
        draft.binding = Some(ReplyBinding {
            request,
            index,
            is_final: true,
        });
        draft.error = Some(report);
        draft
    }

    /// The record that carries `key` to its recipients; `subject` is where it
    /// will lie.
    #[must_use]
    pub fn key_wrap(
        subject: &'a Subject,
        key: &'a SealingKey,
        issued_at: UnixMillis,
        expires_at: UnixMillis,
    ) -> Self {
        let mut draft = Self::event(subject, issued_at, expires_at, key.wraps());
        draft.kind = Kind::KeyWrap;
        draft.wrapped = Some(key);
        draft
    }

    /// The data key that the header names.
    pub(crate) fn data_key(&self) -> Option<&'a SealingKey> {
        let used = self.encryption.map(|encryption| encryption.key);
        used.or(self.wrapped)
    }

    pub(crate) fn suite(&self) -> Suite {
        let key = self.data_key();
        key.map_or(Suite::Signed, |key| Suite::Encrypted(key.suite()))
    }

    pub(crate) fn inline_wraps(&self) -> Option<&'a [u8]> {
        let encryption = self.encryption.filter(|e| e.inline_wraps)?;
        Some(encryption.key.wraps())
    }

    /// The token as it stands beside the header.
    pub(crate) fn outer_token(&self) -> Option<&'a [u8]> {
        let is_open = self.encryption.is_none_or(|e| e.open_token);
        self.token.filter(|_| is_open)
    }

    /// The token as it stands in the encrypted content (ENV-17).
    pub(crate) fn inner_token(&self) -> Option<&'a [u8]> {
        let is_open = self.encryption.is_none_or(|e| e.open_token);
        self.token.filter(|_| !is_open)
    }

    /// Checks all that does not depend on the sealer, and tells which fields it will
    /// have.
    pub(crate) fn check(&self) -> Result<FieldSet, SealError> {
        if self.wrapped.is_some() != (self.kind == Kind::KeyWrap)
            || (self.wrapped.is_some() && self.encryption.is_some())
        {
            return Err(SealError::KeyOfKind);
        }
        let fields = header::fields_of(self);
        fields.check(self.kind, self.suite())?;
        if let Some(ancestry) = self.ancestry {
            ancestry.check_child(self.kind, self.parent)?;
        }
        if let Some(encryption) = self.encryption
            && self.issued_at > encryption.key.expires_at()
        {
            return Err(SealError::KeyRetired);
        }
        if self.expires_at < self.issued_at
            || self.expires_at > self.issued_at.saturating_add(MAX_LIFE)
        {
            return Err(SealError::InvalidField {
                field: Field::ExpiresAt,
            });
        }
        if self
            .content_type
            .is_some_and(|text| !header::is_content_type(text))
        {
            return Err(SealError::InvalidField {
                field: Field::ContentType,
            });
        }
        if let Some(limits) = self.limits {
            if limits.len() > MAX_LIMITS {
                return Err(SealError::FieldTooLong {
                    field: Field::Limits,
                    limit: MAX_LIMITS,
                    actual: limits.len(),
                });
            }
            Limits::decode(limits).map_err(|_| SealError::InvalidField {
                field: Field::Limits,
            })?;
        }
        for token in [self.token, self.original].into_iter().flatten() {
            if token.len() > MAX_TOKEN {
                return Err(SealError::TokenTooLong {
                    limit: MAX_TOKEN,
                    actual: token.len(),
                });
            }
        }
        if self.kind == Kind::Error {
            if !self.body.is_empty() {
                return Err(SealError::ErrorWithBody);
            }
            if self.binding.is_some_and(|binding| !binding.is_final) {
                return Err(SealError::InvalidField {
                    field: Field::Final,
                });
            }
        }
        Ok(fields)
    }
}

//! The words of the wire format: version, kinds, fields and which goes with which.

/// The version of the envelope that this crate writes and reads.
pub(crate) const VERSION: u8 = 1;
/// No encryption. The only suite that this version opens.
pub(crate) const SUITE_SIGNED: u64 = 0;

/// What an envelope is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A message without an answer (the reply subject, if any, is for JetStream).
    Event,
    /// A message that asks for replies on its reply subject.
    Request,
    /// One of the answers to a request.
    Reply,
    /// A refused or failed request: a code and a decision id, nothing else.
    Error,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Event, Self::Request, Self::Reply, Self::Error];

    pub(crate) const fn code(self) -> u64 {
        match self {
            Self::Event => 0,
            Self::Request => 1,
            Self::Reply => 2,
            Self::Error => 3,
            // 4 is `keywrap`, reserved for the encryption suites.
        }
    }

    pub(crate) fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The kind's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Request => "request",
            Self::Reply => "reply",
            Self::Error => "error",
        }
    }
}

/// All that a peer learns from an error reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The receiver did not accept the request; it does not say why.
    Refused,
    /// The receiver cannot take requests now.
    Unavailable,
    /// The handler failed.
    Failed,
    /// The reply is larger than the server's `max_payload`.
    TooLarge,
    /// The request's time ran out before there was a reply.
    Deadline,
}

impl ErrorCode {
    pub(crate) const ALL: [Self; 5] = [
        Self::Refused,
        Self::Unavailable,
        Self::Failed,
        Self::TooLarge,
        Self::Deadline,
    ];

    pub(crate) const fn code(self) -> u64 {
        match self {
            Self::Refused => 1,
            Self::Unavailable => 2,
            Self::Failed => 3,
            Self::TooLarge => 4,
            Self::Deadline => 5,
        }
    }

    pub(crate) fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.code() == code)
    }

    /// The code's name, for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
            Self::TooLarge => "too_large",
            Self::Deadline => "deadline",
        }
    }
}

/// A field of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Field {
    /// How body and token are protected.
    Suite = 0,
    /// What the envelope is.
    Kind = 1,
    /// Which credential signs.
    KeyId = 2,
    /// Which run of the sequence counter.
    Epoch = 3,
    /// The counter's value for the first message.
    Sequence = 4,
    /// 16 bytes for each message.
    Ids = 5,
    /// The NATS subject that it is published to.
    Subject = 6,
    /// Milliseconds since 1970.
    IssuedAt = 7,
    /// Milliseconds since 1970.
    ExpiresAt = 8,
    /// The NATS reply subject that it is published with.
    ReplyTo = 9,
    /// How the body is encoded.
    ContentType = 10,
    /// SHA-256 of the user token.
    TokenHash = 11,
    /// What narrows the user's authority.
    Limits = 12,
    /// The leaf of the request that this answers.
    Request = 13,
    /// Which of several replies.
    ReplyIndex = 14,
    /// Whether it is the last reply.
    Final = 15,
    /// The leaf of the envelope in whose handling this was sent.
    Parent = 16,
    /// W3C trace context.
    TraceParent = 17,
    /// The policy revision of the sender, informational.
    PolicyRevision = 18,
    /// The application's own headers.
    AppHeaders = 19,
    /// Why there is no reply.
    ErrorCode = 20,
    /// Under which id the audit log says more.
    Decision = 21,
}

impl Field {
    const ALL: [Self; 22] = [
        Self::Suite,
        Self::Kind,
        Self::KeyId,
        Self::Epoch,
        Self::Sequence,
        Self::Ids,
        Self::Subject,
        Self::IssuedAt,
        Self::ExpiresAt,
        Self::ReplyTo,
        Self::ContentType,
        Self::TokenHash,
        Self::Limits,
        Self::Request,
        Self::ReplyIndex,
        Self::Final,
        Self::Parent,
        Self::TraceParent,
        Self::PolicyRevision,
        Self::AppHeaders,
        Self::ErrorCode,
        Self::Decision,
    ];

    pub(crate) const fn key(self) -> u64 {
        self as u64
    }

    pub(crate) fn from_key(key: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(key).ok()?).copied()
    }

    /// The field's name, for messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suite => "suite",
            Self::Kind => "kind",
            Self::KeyId => "key id",
            Self::Epoch => "epoch",
            Self::Sequence => "sequence",
            Self::Ids => "ids",
            Self::Subject => "subject",
            Self::IssuedAt => "issued-at",
            Self::ExpiresAt => "expires-at",
            Self::ReplyTo => "reply-to",
            Self::ContentType => "content type",
            Self::TokenHash => "token hash",
            Self::Limits => "limits",
            Self::Request => "request",
            Self::ReplyIndex => "reply index",
            Self::Final => "final",
            Self::Parent => "parent",
            Self::TraceParent => "traceparent",
            Self::PolicyRevision => "policy revision",
            Self::AppHeaders => "application headers",
            Self::ErrorCode => "error code",
            Self::Decision => "decision id",
        }
    }

    const fn bit(self) -> u32 {
        1 << (self as u32)
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The set of fields in a header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FieldSet(u32);

/// A header whose fields do not go with its kind (ENV-12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A field that every envelope of this kind has is not there.
    #[error("`{field}` is missing")]
    Missing {
        /// Which.
        field: Field,
    },
    /// A field that has no meaning in this kind is there.
    #[error("`{field}` has no place here")]
    Unexpected {
        /// Which.
        field: Field,
    },
}

impl FieldSet {
    pub(crate) fn insert(&mut self, field: Field) {
        self.0 |= field.bit();
    }

    pub(crate) const fn contains(self, field: Field) -> bool {
        self.0 & field.bit() != 0
    }

    pub(crate) const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Checks that these fields make an envelope of that kind.
    pub(crate) fn check(self, kind: Kind) -> Result<(), ShapeError> {
        for field in Field::ALL {
            match (rule(kind, field), self.contains(field)) {
                (Rule::Required, false) => return Err(ShapeError::Missing { field }),
                (Rule::Forbidden, true) => return Err(ShapeError::Unexpected { field }),
                _ => {}
            }
        }
        // Limits narrow a user: without one they mean nothing.
        if self.contains(Field::Limits) && !self.contains(Field::TokenHash) {
            return Err(ShapeError::Unexpected {
                field: Field::Limits,
            });
        }
        Ok(())
    }
}

enum Rule {
    Required,
    Optional,
    Forbidden,
}

const fn rule(kind: Kind, field: Field) -> Rule {
    match field {
        Field::Suite
        | Field::Kind
        | Field::KeyId
        | Field::Epoch
        | Field::Sequence
        | Field::Ids
        | Field::Subject
        | Field::IssuedAt
        | Field::ExpiresAt => Rule::Required,
        Field::Parent | Field::TraceParent | Field::PolicyRevision => Rule::Optional,
        Field::ReplyTo => match kind {
            Kind::Event => Rule::Optional,
            Kind::Request => Rule::Required,
            Kind::Reply | Kind::Error => Rule::Forbidden,
        },
        Field::TokenHash | Field::Limits => match kind {
            Kind::Event | Kind::Request => Rule::Optional,
            Kind::Reply | Kind::Error => Rule::Forbidden,
        },
        Field::ContentType | Field::AppHeaders => match kind {
            Kind::Event | Kind::Request | Kind::Reply => Rule::Optional,
            Kind::Error => Rule::Forbidden,
        },
        Field::Request | Field::ReplyIndex | Field::Final => match kind {
            Kind::Event | Kind::Request => Rule::Forbidden,
            Kind::Reply | Kind::Error => Rule::Required,
        },
        Field::ErrorCode | Field::Decision => match kind {
            Kind::Event | Kind::Request | Kind::Reply => Rule::Forbidden,
            Kind::Error => Rule::Required,
        },
    }
}

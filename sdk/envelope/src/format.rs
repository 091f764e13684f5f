//! The words of the wire format: version, suites, kinds, fields and which goes
//! with which.

use bulla_keyring::{CipherSuite, KemSuite};

/// The version of the envelope that this crate writes and reads.
pub(crate) const VERSION: u8 = 1;
/// How body and user token are protected (ENV-11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Signed, not encrypted.
    Signed,
    /// Encrypted: with which KEM the data key is wrapped, and with which cipher the
    /// body is encrypted under it.
    Encrypted(CipherSuite),
}

impl Suite {
    pub(crate) const fn code(self) -> u64 {
        match self {
            Self::Signed => 0,
            Self::Encrypted(suite) => suite.code() as u64,
        }
    }

    pub(crate) fn from_code(code: u64) -> Option<Self> {
        match code {
            0 => Some(Self::Signed),
            _ => {
                let suite = CipherSuite::from_code(u8::try_from(code).ok()?)?;
                Some(Self::Encrypted(suite))
            }
        }
    }

    /// KEM and cipher of an encrypting suite.
    #[must_use]
    pub const fn ciphers(self) -> Option<CipherSuite> {
        match self {
            Self::Signed => None,
            Self::Encrypted(suite) => Some(suite),
        }
    }

    /// Whether this protects at least as much as the suites with the KEM `minimum`, or as
    /// no encryption. Ciphers protect as well as each other.
    #[must_use]
    pub fn is_at_least(self, minimum: Option<KemSuite>) -> bool {
        self.ciphers().map(|suite| suite.kem) >= minimum
    }

    /// The suite's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Encrypted(suite) => suite.as_str(),
        }
    }

    const fn is_encrypting(self) -> bool {
        matches!(self, Self::Encrypted(_))
    }
}

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

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
    /// A data key, wrapped to each of its recipients: a record, not a message.
    KeyWrap,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Event,
        Self::Request,
        Self::Reply,
        Self::Error,
        Self::KeyWrap,
    ];

    pub(crate) const fn code(self) -> u64 {
        match self {
            Self::Event => 0,
            Self::Request => 1,
            Self::Reply => 2,
            Self::Error => 3,
            Self::KeyWrap => 4,
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
            Self::KeyWrap => "keywrap",
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
    /// Hash of the keys that the data key is wrapped to.
    RecipientSet = 22,
    /// Names the data key, and commits to it.
    DataKeyId = 23,
    /// The AEAD's nonce.
    Nonce = 24,
    /// The wrapped data key, where it rides along.
    Wraps = 25,
    /// SHA-256 of the token that the user's client itself sent.
    OriginalHash = 26,
}

impl Field {
    pub(crate) const ALL: [Self; 27] = [
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
        Self::RecipientSet,
        Self::DataKeyId,
        Self::Nonce,
        Self::Wraps,
        Self::OriginalHash,
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
            Self::RecipientSet => "recipient set",
            Self::DataKeyId => "data-key id",
            Self::Nonce => "nonce",
            Self::Wraps => "wraps",
            Self::OriginalHash => "original token hash",
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
    /// A kind that does not exist in this suite.
    #[error("the suite `{suite}` has no kind `{}`", kind.as_str())]
    SuiteOfKind {
        /// What it is.
        kind: Kind,
        /// How it is protected.
        suite: Suite,
    },
}

impl FieldSet {
    /// What every header has.
    pub(crate) const ALWAYS: Self = Self::of([
        Field::Suite,
        Field::Kind,
        Field::KeyId,
        Field::Epoch,
        Field::Sequence,
        Field::Ids,
        Field::Subject,
        Field::IssuedAt,
        Field::ExpiresAt,
    ]);

    pub(crate) const fn of<const N: usize>(fields: [Field; N]) -> Self {
        let mut set = Self(0);
        let mut rest: &[Field] = &fields;
        while let [field, others @ ..] = rest {
            set.insert(*field);
            rest = others;
        }
        set
    }

    pub(crate) const fn insert(&mut self, field: Field) {
        self.0 |= field.bit();
    }

    /// The same, and this one if it is there.
    pub(crate) const fn with(self, field: Field, is_there: bool) -> Self {
        Self(self.0 | ((is_there as u32) << (field as u32)))
    }

    pub(crate) const fn contains(self, field: Field) -> bool {
        self.0 & field.bit() != 0
    }

    pub(crate) const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether every rule holds; if not, [`FieldSet::check`] finds which one.
    fn is_shape(self, kind: Kind, is_encrypted: bool) -> bool {
        let shape = Shape::ALL.get(kind as usize);
        shape
            .and_then(|of_kind| of_kind.get(usize::from(is_encrypted)))
            .is_some_and(|shape| {
                self.0 & shape.required == shape.required && self.0 & !shape.allowed == 0
            })
    }

    /// Checks that these fields make an envelope of that kind and suite.
    pub(crate) fn check(self, kind: Kind, suite: Suite) -> Result<(), ShapeError> {
        let is_encrypted = suite.is_encrypting();
        match (kind, is_encrypted) {
            // An error has nothing to hide, a wrapped key nothing else to say.
            (Kind::Error, true) | (Kind::KeyWrap, false) => {
                return Err(ShapeError::SuiteOfKind { kind, suite });
            }
            _ => {}
        }
        if !self.is_shape(kind, is_encrypted) {
            for field in Field::ALL {
                match (rule(kind, is_encrypted, field), self.contains(field)) {
                    (Rule::Required, false) => return Err(ShapeError::Missing { field }),
                    (Rule::Forbidden, true) => return Err(ShapeError::Unexpected { field }),
                    _ => {}
                }
            }
        }
        // What says something of a user means nothing without one.
        for field in [Field::Limits, Field::OriginalHash] {
            if self.contains(field) && !self.contains(Field::TokenHash) {
                return Err(ShapeError::Unexpected { field });
            }
        }
        Ok(())
    }
}

/// The fields that a kind must have in a suite, and those that it may have.
#[derive(Clone, Copy)]
struct Shape {
    required: u32,
    allowed: u32,
}

impl Shape {
    /// By kind, in the order of their declaration, and whether it is encrypted.
    const ALL: [[Self; 2]; 5] = [
        Self::of_kind(Kind::Event),
        Self::of_kind(Kind::Request),
        Self::of_kind(Kind::Reply),
        Self::of_kind(Kind::Error),
        Self::of_kind(Kind::KeyWrap),
    ];

    const fn of_kind(kind: Kind) -> [Self; 2] {
        [Self::of(kind, false), Self::of(kind, true)]
    }

    const fn of(kind: Kind, is_encrypted: bool) -> Self {
        let (mut required, mut allowed) = (0, 0);
        let mut fields: &[Field] = &Field::ALL;
        while let [field, rest @ ..] = fields {
            match rule(kind, is_encrypted, *field) {
                Rule::Required => {
                    required |= field.bit();
                    allowed |= field.bit();
                }
                Rule::Optional => allowed |= field.bit(),
                Rule::Forbidden => {}
            }
            fields = rest;
        }
        Self { required, allowed }
    }
}

enum Rule {
    Required,
    Optional,
    Forbidden,
}

/// The table of ENV-10: all encrypting suites have the same fields.
const fn rule(kind: Kind, is_encrypted: bool, field: Field) -> Rule {
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
        Field::PolicyRevision => Rule::Optional,
        Field::Parent | Field::TraceParent => match kind {
            Kind::Event | Kind::Request | Kind::Reply | Kind::Error => Rule::Optional,
            Kind::KeyWrap => Rule::Forbidden,
        },
        Field::ReplyTo => match kind {
            Kind::Event => Rule::Optional,
            Kind::Request => Rule::Required,
            Kind::Reply | Kind::Error | Kind::KeyWrap => Rule::Forbidden,
        },
        Field::TokenHash | Field::Limits => match kind {
            Kind::Event | Kind::Request => Rule::Optional,
            Kind::Reply | Kind::Error | Kind::KeyWrap => Rule::Forbidden,
        },
        Field::ContentType | Field::AppHeaders => match kind {
            Kind::Event | Kind::Request | Kind::Reply => Rule::Optional,
            Kind::Error | Kind::KeyWrap => Rule::Forbidden,
        },
        Field::Request | Field::ReplyIndex | Field::Final => match kind {
            Kind::Event | Kind::Request | Kind::KeyWrap => Rule::Forbidden,
            Kind::Reply | Kind::Error => Rule::Required,
        },
        Field::ErrorCode | Field::Decision => match kind {
            Kind::Event | Kind::Request | Kind::Reply | Kind::KeyWrap => Rule::Forbidden,
            Kind::Error => Rule::Required,
        },
        Field::RecipientSet | Field::DataKeyId => match is_encrypted {
            false => Rule::Forbidden,
            true => Rule::Required,
        },
        Field::Nonce => match (is_encrypted, kind) {
            (false, _) | (_, Kind::KeyWrap) => Rule::Forbidden,
            _ => Rule::Required,
        },
        Field::Wraps => match (is_encrypted, kind) {
            (false, _) | (_, Kind::KeyWrap) => Rule::Forbidden,
            _ => Rule::Optional,
        },
        Field::OriginalHash => match (is_encrypted, kind) {
            (true, Kind::Event | Kind::Request) => Rule::Optional,
            _ => Rule::Forbidden,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table is the rules, for every set of fields of each kind.
    #[test]
    fn shapes_are_what_the_rules_say() {
        for kind in Kind::ALL {
            for is_encrypted in [false, true] {
                let least = Field::ALL
                    .into_iter()
                    .filter(|field| matches!(rule(kind, is_encrypted, *field), Rule::Required));
                let mut fields = FieldSet::default();
                least.for_each(|field| fields.insert(field));
                assert!(fields.is_shape(kind, is_encrypted));
                for field in Field::ALL {
                    let other = FieldSet(fields.0 ^ field.bit());
                    let optional = matches!(rule(kind, is_encrypted, field), Rule::Optional);
                    assert_eq!(
                        other.is_shape(kind, is_encrypted),
                        optional,
                        "{kind:?} {field:?}"
                    );
                }
            }
        }
    }
}

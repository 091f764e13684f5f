//! The header: one integer-keyed map, keys ascending. SPEC.md, ENV-10 to ENV-15.

use bulla_identity::UnixMillis;
use bulla_keyring::{DataKeyId, KeyId, NONCE_LEN};

use crate::app_headers;
use crate::format::{ErrorCode, Field, FieldSet, Kind, Suite};
use crate::limits::{MAX_CONTENT_TYPE, MAX_FRAME, MAX_HEADER, MAX_LIMITS};
use crate::reader::{Place, Reader, Span, utf8};
use crate::sealer::Stamp;
use crate::writer::{self, Sink};
use crate::{DecisionId, DecodeError, Draft, Epoch, LeafHash, Limits, RecipientSet, TraceParent};

/// What a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyBinding {
    /// The leaf of the request.
    pub request: LeafHash,
    /// Which of several replies, from 0.
    pub index: u32,
    /// Whether no other follows.
    pub is_final: bool,
}

/// Why there is no reply: all that a peer learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorReport {
    /// What happened, coarsely.
    pub code: ErrorCode,
    /// Under which id the receiver's audit log says more.
    pub decision: DecisionId,
}

/// A decoded header. Spans and places point into the envelope's bytes: every
/// message has one, and few have more than half of its fields.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    present: FieldSet,
    pub(crate) suite: Suite,
    pub(crate) kind: Kind,
    pub(crate) key_id: KeyId,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
    pub(crate) issued_at: UnixMillis,
    pub(crate) expires_at: UnixMillis,
    pub(crate) ids: Span,
    pub(crate) subject: Span,
    pub(crate) policy_revision: Option<u64>,
    reply_index: u32,
    is_final: bool,
    error_code: Option<ErrorCode>,
    reply_to: Span,
    content_type: Span,
    limits: Span,
    app_headers: Span,
    wraps: Span,
    token_hash: Option<Place<32>>,
    original_hash: Option<Place<32>>,
    request: Option<Place<32>>,
    parent: Option<Place<32>>,
    traceparent: Option<Place<{ TraceParent::LEN }>>,
    decision: Option<Place<16>>,
    recipients: Option<Place<32>>,
    data_key: Option<Place<32>>,
    nonce: Option<Place<NONCE_LEN>>,
}

/// What an encrypting suite adds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyFields {
    pub(crate) recipients: RecipientSet,
    pub(crate) data_key: DataKeyId,
}

/// Bytes of one message id.
pub(crate) const ID_LEN: usize = 16;

impl Header {
    /// How many messages the envelope carries.
    pub(crate) const fn messages(&self) -> usize {
        self.ids.len() / ID_LEN
    }

    /// Whether the body is ciphertext; the body of a wrapped key's record is not.
    pub(crate) const fn is_encrypted(&self) -> bool {
        self.nonce.is_some()
    }

    pub(crate) const fn has_token(&self) -> bool {
        self.token_hash.is_some()
    }

    pub(crate) const fn has_parent(&self) -> bool {
        self.parent.is_some()
    }

    // What follows is asked with the bytes that the header was decoded from.

    pub(crate) fn reply_to<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        self.span(Field::ReplyTo, self.reply_to)
            .map(|span| span.of(bytes))
    }

    pub(crate) fn content_type<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        self.span(Field::ContentType, self.content_type)
            .map(|span| span.str_of(bytes))
    }

    pub(crate) fn limits(&self) -> Option<Span> {
        self.span(Field::Limits, self.limits)
    }

    pub(crate) fn app_headers(&self) -> Option<Span> {
        self.span(Field::AppHeaders, self.app_headers)
    }

    /// The wrapped data key, if it rides along.
    pub(crate) fn wraps(&self) -> Option<Span> {
        self.span(Field::Wraps, self.wraps)
    }

    pub(crate) fn token_hash<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8; 32]> {
        self.token_hash.map(|place| place.of(bytes))
    }

    pub(crate) fn original_hash<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8; 32]> {
        self.original_hash.map(|place| place.of(bytes))
    }

    pub(crate) fn binding(&self, bytes: &[u8]) -> Option<ReplyBinding> {
        Some(ReplyBinding {
            request: LeafHash(*self.request?.of(bytes)),
            index: self.reply_index,
            is_final: self.is_final,
        })
    }

    pub(crate) fn parent(&self, bytes: &[u8]) -> Option<LeafHash> {
        self.parent.map(|place| LeafHash(*place.of(bytes)))
    }

    pub(crate) fn traceparent(&self, bytes: &[u8]) -> Option<TraceParent> {
        TraceParent::from_bytes(*self.traceparent?.of(bytes))
    }

    pub(crate) fn error(&self, bytes: &[u8]) -> Option<ErrorReport> {
        Some(ErrorReport {
            code: self.error_code?,
            decision: DecisionId(*self.decision?.of(bytes)),
        })
    }

    pub(crate) fn key(&self, bytes: &[u8]) -> Option<KeyFields> {
        Some(KeyFields {
            recipients: RecipientSet(*self.recipients?.of(bytes)),
            data_key: DataKeyId(*self.data_key?.of(bytes)),
        })
    }

    /// None in a wrapped key's own record.
    pub(crate) fn nonce<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8; NONCE_LEN]> {
        self.nonce.map(|place| place.of(bytes))
    }

    fn span(&self, field: Field, span: Span) -> Option<Span> {
        self.present.contains(field).then_some(span)
    }

    pub(crate) fn decode(bytes: &[u8], span: Span) -> Result<Self, DecodeError> {
        let mut reader = Reader::within(bytes, span);
        let mut header = Self {
            present: FieldSet::default(),
            suite: Suite::Signed,
            kind: Kind::Event,
            key_id: KeyId([0; 16]),
            epoch: Epoch([0; 8]),
            sequence: 0,
            issued_at: UnixMillis::default(),
            expires_at: UnixMillis::default(),
            ids: Span::default(),
            subject: Span::default(),
            policy_revision: None,
            reply_index: 0,
            is_final: false,
            error_code: None,
            reply_to: Span::default(),
            content_type: Span::default(),
            limits: Span::default(),
            app_headers: Span::default(),
            wraps: Span::default(),
            token_hash: None,
            original_hash: None,
            request: None,
            parent: None,
            traceparent: None,
            decision: None,
            recipients: None,
            data_key: None,
            nonce: None,
        };
        let mut kind = None;
        let mut least = 0;
        let count = reader.map(usize::MAX)?;
        for _ in 0..count {
            let key = reader.uint()?;
            let field = Field::from_key(key).ok_or(DecodeError::UnknownField { key })?;
            if key < least {
                return Err(DecodeError::FieldOrder { field });
            }
            least = key + 1;
            match field {
                // Judged when all is read: what is wrong with the encoding is told first.
                Field::Kind => kind = Some(reader.uint()?),
                field => header.read_value(field, &mut reader)?,
            }
            header.present.insert(field);
        }
        reader.finish()?;
        if let Some(kind) = kind {
            header.kind = Kind::from_code(kind).ok_or(DecodeError::UnsupportedKind { kind })?;
        }
        header.check()?;
        Ok(header)
    }

    fn read_value(&mut self, field: Field, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let bytes = reader.bytes();
        let invalid = DecodeError::InvalidField { field };
        match field {
            Field::Suite => {
                let suite = reader.uint()?;
                self.suite =
                    Suite::from_code(suite).ok_or(DecodeError::UnsupportedSuite { suite })?;
            }
            // Its caller's.
            Field::Kind => {}
            Field::KeyId => self.key_id = KeyId(reader.bin_of()?),
            Field::Epoch => self.epoch = Epoch(reader.bin_of()?),
            Field::Sequence => self.sequence = reader.uint()?,
            Field::Ids => {
                self.ids = reader.bin(MAX_FRAME * ID_LEN)?;
                if self.ids.len() == 0 || !self.ids.len().is_multiple_of(ID_LEN) {
                    return Err(invalid);
                }
            }
            Field::Subject => self.subject = subject(reader, invalid)?,
            Field::IssuedAt => self.issued_at = UnixMillis::from_millis(reader.uint()?),
            Field::ExpiresAt => self.expires_at = UnixMillis::from_millis(reader.uint()?),
            Field::ReplyTo => self.reply_to = subject(reader, invalid)?,
            Field::ContentType => {
                let (span, text) = reader.text(MAX_CONTENT_TYPE)?;
                if text.is_empty() || !is_printable(text) {
                    // What is printable is UTF-8 too; only the rest is asked.
                    utf8(text)?;
                    return Err(invalid);
                }
                self.content_type = span;
            }
            Field::TokenHash => self.token_hash = Some(reader.bin_at()?),
            Field::Limits => {
                self.limits = reader.bin(MAX_LIMITS)?;
                Limits::decode(self.limits.of(bytes))?;
            }
            Field::Request => self.request = Some(reader.bin_at()?),
            Field::ReplyIndex => {
                self.reply_index = u32::try_from(reader.uint()?).map_err(|_| invalid)?;
            }
            Field::Final => self.is_final = reader.boolean()?,
            Field::Parent => self.parent = Some(reader.bin_at()?),
            Field::TraceParent => {
                let place = reader.bin_at()?;
                TraceParent::from_bytes(*place.of(bytes)).ok_or(invalid)?;
                self.traceparent = Some(place);
            }
            Field::PolicyRevision => self.policy_revision = Some(reader.uint()?),
            Field::AppHeaders => {
                self.app_headers = app_headers::check(reader)?.ok_or(invalid)?;
            }
            Field::ErrorCode => {
                self.error_code = Some(ErrorCode::from_code(reader.uint()?).ok_or(invalid)?);
            }
            Field::Decision => self.decision = Some(reader.bin_at()?),
            Field::RecipientSet => self.recipients = Some(reader.bin_at()?),
            Field::DataKeyId => self.data_key = Some(reader.bin_at()?),
            Field::Nonce => self.nonce = Some(reader.bin_at()?),
            Field::Wraps => self.wraps = reader.bin(MAX_HEADER)?,
            Field::OriginalHash => self.original_hash = Some(reader.bin_at()?),
        }
        Ok(())
    }

    /// Whether its fields fit together.
    fn check(&self) -> Result<(), DecodeError> {
        let invalid = |field| Err(DecodeError::InvalidField { field });
        self.present.check(self.kind, self.suite)?;
        let messages = self.messages();
        if messages > 1 && !is_framable(self.kind, self.present) {
            return Err(DecodeError::NotFramable);
        }
        if self.sequence.checked_add(messages as u64).is_none() {
            return invalid(Field::Sequence);
        }
        if self.expires_at < self.issued_at {
            return invalid(Field::ExpiresAt);
        }
        if self.kind == Kind::Error && !self.is_final {
            return invalid(Field::Final);
        }
        Ok(())
    }
}

/// Several messages share a frame only if nobody answers them (ENV-13).
pub(crate) fn is_framable(kind: Kind, present: FieldSet) -> bool {
    kind == Kind::Event && !present.contains(Field::ReplyTo)
}

/// Whether a header can name this content type: 1 to [`MAX_CONTENT_TYPE`]
/// printable ASCII characters (ENV-10).
#[must_use]
pub fn is_content_type(text: &str) -> bool {
    (1..=MAX_CONTENT_TYPE).contains(&text.len()) && is_printable(text.as_bytes())
}

/// Looks at all of them, so that many are compared at a time.
fn is_printable(text: &[u8]) -> bool {
    text.iter()
        .fold(true, |all, byte| all & matches!(byte, b' '..=b'~'))
}

/// A subject's bytes. Its grammar is not looked at: what counts is that it
/// equals the subject on which the message came (ENV-30).
fn subject(reader: &mut Reader<'_>, invalid: DecodeError) -> Result<Span, DecodeError> {
    let (span, text) = reader.string(bulla_identity::MAX_SUBJECT_LEN)?;
    if text.is_empty() {
        Err(invalid)
    } else {
        Ok(span)
    }
}

/// The fields that a draft will have.
pub(crate) fn fields_of(draft: &Draft<'_>) -> FieldSet {
    let key = draft.data_key().is_some();
    FieldSet::ALWAYS
        .with(Field::ReplyTo, draft.reply_to.is_some())
        .with(Field::ContentType, draft.content_type.is_some())
        .with(Field::TokenHash, draft.token.is_some())
        .with(Field::Limits, draft.limits.is_some())
        .with(Field::Request, draft.binding.is_some())
        .with(Field::ReplyIndex, draft.binding.is_some())
        .with(Field::Final, draft.binding.is_some())
        .with(Field::Parent, draft.parent.is_some())
        .with(Field::TraceParent, draft.traceparent.is_some())
        .with(Field::PolicyRevision, draft.policy_revision.is_some())
        .with(Field::AppHeaders, has_app_headers(draft))
        .with(Field::ErrorCode, draft.error.is_some())
        .with(Field::Decision, draft.error.is_some())
        .with(Field::RecipientSet, key)
        .with(Field::DataKeyId, key)
        .with(Field::Nonce, draft.encryption.is_some())
        .with(Field::Wraps, draft.inline_wraps().is_some())
        .with(Field::OriginalHash, draft.original.is_some())
}

fn has_app_headers(draft: &Draft<'_>) -> bool {
    draft.app_headers.is_some_and(|headers| !headers.is_empty())
}

/// Writes a header that [`Header::decode`] reads.
pub(crate) fn encode(out: &mut impl Sink, draft: &Draft<'_>, stamp: &Stamp<'_>) {
    let key = |out: &mut _, field: Field| writer::uint(out, field.key());
    writer::map(out, fields_of(draft).len());
    key(out, Field::Suite);
    writer::uint(out, draft.suite().code());
    key(out, Field::Kind);
    writer::uint(out, draft.kind.code());
    key(out, Field::KeyId);
    writer::bin(out, stamp.key_id.as_bytes());
    key(out, Field::Epoch);
    writer::bin(out, stamp.epoch.as_bytes());
    key(out, Field::Sequence);
    writer::uint(out, stamp.sequence);
    key(out, Field::Ids);
    writer::bin_header(out, stamp.messages.len() * ID_LEN);
    for message in stamp.messages {
        out.put(message.id.as_bytes());
    }
    key(out, Field::Subject);
    writer::string(out, draft.subject.as_str());
    key(out, Field::IssuedAt);
    writer::uint(out, draft.issued_at.as_millis());
    key(out, Field::ExpiresAt);
    writer::uint(out, draft.expires_at.as_millis());
    if let Some(reply_to) = draft.reply_to {
        key(out, Field::ReplyTo);
        writer::string(out, reply_to.as_str());
    }
    if let Some(content_type) = draft.content_type {
        key(out, Field::ContentType);
        writer::string(out, content_type);
    }
    if let Some(hash) = stamp.token_hash {
        key(out, Field::TokenHash);
        writer::bin(out, &hash);
    }
    if let Some(limits) = draft.limits {
        key(out, Field::Limits);
        writer::bin(out, limits);
    }
    if let Some(binding) = draft.binding {
        key(out, Field::Request);
        writer::bin(out, binding.request.as_bytes());
        key(out, Field::ReplyIndex);
        writer::uint(out, u64::from(binding.index));
        key(out, Field::Final);
        writer::boolean(out, binding.is_final);
    }
    if let Some(parent) = draft.parent {
        key(out, Field::Parent);
        writer::bin(out, parent.as_bytes());
    }
    if let Some(traceparent) = draft.traceparent {
        key(out, Field::TraceParent);
        writer::bin(out, traceparent.as_bytes());
    }
    if let Some(revision) = draft.policy_revision {
        key(out, Field::PolicyRevision);
        writer::uint(out, revision);
    }
    if let Some(headers) = draft.app_headers.filter(|headers| !headers.is_empty()) {
        key(out, Field::AppHeaders);
        headers.write(out);
    }
    if let Some(error) = draft.error {
        key(out, Field::ErrorCode);
        writer::uint(out, error.code.code());
        key(out, Field::Decision);
        writer::bin(out, error.decision.as_bytes());
    }
    if let Some(key) = draft.data_key() {
        bin_field(out, Field::RecipientSet, &key.recipients().0);
        bin_field(out, Field::DataKeyId, &key.id().0);
    }
    if let Some(nonce) = &stamp.nonce {
        bin_field(out, Field::Nonce, nonce);
    }
    if let Some(wraps) = draft.inline_wraps() {
        bin_field(out, Field::Wraps, wraps);
    }
    if let Some(hash) = &stamp.original_hash {
        bin_field(out, Field::OriginalHash, hash);
    }
}

fn bin_field(out: &mut impl Sink, field: Field, bytes: &[u8]) {
    writer::uint(out, field.key());
    writer::bin(out, bytes);
}

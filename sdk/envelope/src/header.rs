//! The header: one integer-keyed map, keys ascending. SPEC.md, ENV-10 to ENV-15.

use bulla_identity::UnixMillis;
use bulla_keyring::{DataKeyId, KeyId, NONCE_LEN};

use crate::app_headers;
use crate::format::{ErrorCode, Field, FieldSet, Kind, Suite};
use crate::limits::{MAX_CONTENT_TYPE, MAX_FRAME, MAX_HEADER, MAX_LIMITS};
use crate::reader::{Reader, Span};
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

/// A decoded header. Spans point into the envelope's bytes.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) suite: Suite,
    pub(crate) kind: Kind,
    pub(crate) key_id: KeyId,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
    pub(crate) ids: Span,
    pub(crate) subject: Span,
    pub(crate) issued_at: UnixMillis,
    pub(crate) expires_at: UnixMillis,
    pub(crate) reply_to: Option<Span>,
    pub(crate) content_type: Option<Span>,
    pub(crate) token_hash: Option<[u8; 32]>,
    pub(crate) limits: Option<Span>,
    pub(crate) original_hash: Option<[u8; 32]>,
    pub(crate) binding: Option<ReplyBinding>,
    pub(crate) parent: Option<LeafHash>,
    pub(crate) traceparent: Option<TraceParent>,
    pub(crate) policy_revision: Option<u64>,
    pub(crate) app_headers: Option<Span>,
    pub(crate) error: Option<ErrorReport>,
    pub(crate) key: Option<KeyFields>,
}

/// What an encrypting suite adds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyFields {
    pub(crate) recipients: RecipientSet,
    pub(crate) data_key: DataKeyId,
    /// None in a wrapped key's own record.
    pub(crate) nonce: Option<[u8; NONCE_LEN]>,
    pub(crate) wraps: Option<Span>,
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
        matches!(self.key, Some(KeyFields { nonce: Some(_), .. }))
    }

    pub(crate) fn decode(bytes: &[u8], span: Span) -> Result<Self, DecodeError> {
        let mut reader = Reader::within(bytes, span);
        let fields = Fields::read(&mut reader)?;
        reader.finish()?;
        fields.into_header()
    }
}

/// The fields as they come, before it is known whether they fit together.
#[derive(Default)]
struct Fields {
    present: FieldSet,
    suite: Option<Suite>,
    kind: u64,
    key_id: [u8; 16],
    epoch: [u8; 8],
    sequence: u64,
    ids: Span,
    subject: Span,
    issued_at: u64,
    expires_at: u64,
    reply_to: Span,
    content_type: Span,
    token_hash: [u8; 32],
    limits: Span,
    request: [u8; 32],
    reply_index: u32,
    is_final: bool,
    parent: [u8; 32],
    traceparent: Option<TraceParent>,
    policy_revision: u64,
    app_headers: Span,
    error_code: Option<ErrorCode>,
    decision: [u8; 16],
    recipients: [u8; 32],
    data_key: [u8; 32],
    nonce: [u8; NONCE_LEN],
    wraps: Span,
    original_hash: [u8; 32],
}

impl Fields {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut fields = Self::default();
        let mut least = 0;
        let count = reader.map(usize::MAX)?;
        for _ in 0..count {
            let key = reader.uint()?;
            let field = Field::from_key(key).ok_or(DecodeError::UnknownField { key })?;
            if key < least {
                return Err(DecodeError::FieldOrder { field });
            }
            least = key + 1;
            fields.read_value(field, reader)?;
            fields.present.insert(field);
        }
        Ok(fields)
    }

    fn read_value(&mut self, field: Field, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let bytes = reader.bytes();
        let invalid = DecodeError::InvalidField { field };
        match field {
            Field::Suite => {
                let suite = reader.uint()?;
                self.suite =
                    Some(Suite::from_code(suite).ok_or(DecodeError::UnsupportedSuite { suite })?);
            }
            Field::Kind => self.kind = reader.uint()?,
            Field::KeyId => self.key_id = reader.bin_of()?,
            Field::Epoch => self.epoch = reader.bin_of()?,
            Field::Sequence => self.sequence = reader.uint()?,
            Field::Ids => {
                self.ids = reader.bin(MAX_FRAME * ID_LEN)?;
                if self.ids.len() == 0 || !self.ids.len().is_multiple_of(ID_LEN) {
                    return Err(invalid);
                }
            }
            Field::Subject => self.subject = subject(reader, invalid)?,
            Field::IssuedAt => self.issued_at = reader.uint()?,
            Field::ExpiresAt => self.expires_at = reader.uint()?,
            Field::ReplyTo => self.reply_to = subject(reader, invalid)?,
            Field::ContentType => {
                let (span, text) = reader.string(MAX_CONTENT_TYPE)?;
                if !is_content_type(text) {
                    return Err(invalid);
                }
                self.content_type = span;
            }
            Field::TokenHash => self.token_hash = reader.bin_of()?,
            Field::Limits => {
                self.limits = reader.bin(MAX_LIMITS)?;
                Limits::decode(self.limits.of(bytes))?;
            }
            Field::Request => self.request = reader.bin_of()?,
            Field::ReplyIndex => {
                self.reply_index = u32::try_from(reader.uint()?).map_err(|_| invalid)?;
            }
            Field::Final => self.is_final = reader.boolean()?,
            Field::Parent => self.parent = reader.bin_of()?,
            Field::TraceParent => {
                self.traceparent = Some(TraceParent::from_bytes(reader.bin_of()?).ok_or(invalid)?);
            }
            Field::PolicyRevision => self.policy_revision = reader.uint()?,
            Field::AppHeaders => {
                self.app_headers = app_headers::check(reader)?.ok_or(invalid)?;
            }
            Field::ErrorCode => {
                self.error_code = Some(ErrorCode::from_code(reader.uint()?).ok_or(invalid)?);
            }
            Field::Decision => self.decision = reader.bin_of()?,
            Field::RecipientSet => self.recipients = reader.bin_of()?,
            Field::DataKeyId => self.data_key = reader.bin_of()?,
            Field::Nonce => self.nonce = reader.bin_of()?,
            Field::Wraps => self.wraps = reader.bin(MAX_HEADER)?,
            Field::OriginalHash => self.original_hash = reader.bin_of()?,
        }
        Ok(())
    }

    fn into_header(self) -> Result<Header, DecodeError> {
        let kind = if self.present.contains(Field::Kind) {
            Kind::from_code(self.kind).ok_or(DecodeError::UnsupportedKind { kind: self.kind })?
        } else {
            Kind::Event
        };
        let suite = self.suite.unwrap_or(Suite::Signed);
        self.present.check(kind, suite)?;
        let messages = self.ids.len() / ID_LEN;
        if messages > 1 && !is_framable(kind, self.present) {
            return Err(DecodeError::NotFramable);
        }
        if self.sequence.checked_add(messages as u64).is_none() {
            return Err(DecodeError::InvalidField {
                field: Field::Sequence,
            });
        }
        if self.expires_at < self.issued_at {
            return Err(DecodeError::InvalidField {
                field: Field::ExpiresAt,
            });
        }
        if kind == Kind::Error && !self.is_final {
            return Err(DecodeError::InvalidField {
                field: Field::Final,
            });
        }
        let present = self.present;
        let span = |field, span| present.contains(field).then_some(span);
        let key = present.contains(Field::DataKeyId).then_some(KeyFields {
            recipients: RecipientSet(self.recipients),
            data_key: DataKeyId(self.data_key),
            nonce: present.contains(Field::Nonce).then_some(self.nonce),
            wraps: span(Field::Wraps, self.wraps),
        });
        Ok(Header {
            suite,
            kind,
            key_id: KeyId(self.key_id),
            epoch: Epoch(self.epoch),
            sequence: self.sequence,
            ids: self.ids,
            subject: self.subject,
            issued_at: UnixMillis::from_millis(self.issued_at),
            expires_at: UnixMillis::from_millis(self.expires_at),
            reply_to: span(Field::ReplyTo, self.reply_to),
            content_type: span(Field::ContentType, self.content_type),
            token_hash: present
                .contains(Field::TokenHash)
                .then_some(self.token_hash),
            limits: span(Field::Limits, self.limits),
            original_hash: present
                .contains(Field::OriginalHash)
                .then_some(self.original_hash),
            binding: present.contains(Field::Request).then_some(ReplyBinding {
                request: LeafHash(self.request),
                index: self.reply_index,
                is_final: self.is_final,
            }),
            parent: present
                .contains(Field::Parent)
                .then_some(LeafHash(self.parent)),
            traceparent: self.traceparent,
            policy_revision: present
                .contains(Field::PolicyRevision)
                .then_some(self.policy_revision),
            app_headers: span(Field::AppHeaders, self.app_headers),
            error: self.error_code.map(|code| ErrorReport {
                code,
                decision: DecisionId(self.decision),
            }),
            key,
        })
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
    (1..=MAX_CONTENT_TYPE).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
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
    let mut fields = FieldSet::ALWAYS;
    for (field, present) in [
        (Field::ReplyTo, draft.reply_to.is_some()),
        (Field::ContentType, draft.content_type.is_some()),
        (Field::TokenHash, draft.token.is_some()),
        (Field::Limits, draft.limits.is_some()),
        (Field::Request, draft.binding.is_some()),
        (Field::ReplyIndex, draft.binding.is_some()),
        (Field::Final, draft.binding.is_some()),
        (Field::Parent, draft.parent.is_some()),
        (Field::TraceParent, draft.traceparent.is_some()),
        (Field::PolicyRevision, draft.policy_revision.is_some()),
        (Field::AppHeaders, has_app_headers(draft)),
        (Field::ErrorCode, draft.error.is_some()),
        (Field::Decision, draft.error.is_some()),
        (Field::RecipientSet, draft.data_key().is_some()),
        (Field::DataKeyId, draft.data_key().is_some()),
        (Field::Nonce, draft.encryption.is_some()),
        (Field::Wraps, draft.inline_wraps().is_some()),
        (Field::OriginalHash, draft.original.is_some()),
    ] {
        if present {
            fields.insert(field);
        }
    }
    fields
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

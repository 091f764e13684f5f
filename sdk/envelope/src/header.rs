//! The header: one integer-keyed map, keys ascending. SPEC.md, ENV-10 to ENV-15.

use bulla_identity::UnixMillis;
use bulla_keyring::{DataKeyId, KeyId, NONCE_LEN};

use crate::app_headers;
use crate::format::{ErrorCode, Field, FieldSet, Kind, Suite};
use crate::limits::{MAX_CONTENT_TYPE, MAX_FRAME, MAX_HEADER, MAX_LIMITS};
use crate::reader::{Place, Reader, Span, utf8};
use crate::sealer::Stamp;
use crate::writer::{self, Room, Sink};
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
        Self::decode_after(bytes, span, Start::read)
    }

    /// What `start` reads at a glance is not read value by value.
    fn decode_after(
        bytes: &[u8],
        span: Span,
        start: impl FnOnce(&mut Reader<'_>, usize) -> Option<Start>,
    ) -> Result<Self, DecodeError> {
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
        let mut count = reader.map(usize::MAX)?;
        if let Some(start) = start(&mut reader, count) {
            (header.suite, kind) = (start.suite, Some(start.kind));
            (header.key_id, header.epoch) = (start.key_id, start.epoch);
            header.present = Start::FIELDS;
            count -= Start::MANY;
            least = Field::Sequence.key();
        }
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

/// The first four fields, which lie in the same places in every header whose codes are
/// below 128: read at a glance. Whatever does not look so is read value by value.
struct Start {
    suite: Suite,
    kind: u64,
    key_id: KeyId,
    epoch: Epoch,
}

impl Start {
    const MANY: usize = 4;
    const FIELDS: FieldSet = FieldSet::of([Field::Suite, Field::Kind, Field::KeyId, Field::Epoch]);
    const LEN: usize = 34;

    /// As they are written.
    fn bytes(draft: &Draft<'_>, stamp: &Stamp<'_>) -> [u8; Self::LEN] {
        let mut start = [0; Self::LEN];
        let mut room = Room::new(&mut start);
        let small = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
        let key = |field: Field| small(field.key());
        let (suite, kind) = (small(draft.suite().code()), small(draft.kind.code()));
        room.put(&[key(Field::Suite), suite, key(Field::Kind), kind]);
        room.put(&[key(Field::KeyId)]);
        writer::bin(&mut room, stamp.key_id.as_bytes());
        room.put(&[key(Field::Epoch)]);
        writer::bin(&mut room, stamp.epoch.as_bytes());
        debug_assert!(room.is_full());
        start
    }

    /// Nothing is taken unless all of it is there, as the values one by one would be read.
    fn read(reader: &mut Reader<'_>, count: usize) -> Option<Self> {
        let start = reader.peek::<{ Self::LEN }>()?;
        let (codes, start) = start.split_first_chunk()?;
        let (key_id, start) = start.split_first_chunk()?;
        let (head, epoch) = start.split_first_chunk()?;
        let epoch = epoch.first_chunk()?;
        let [0, suite @ ..0x80, 1, kind @ ..0x80, 2, BIN, 16] = *codes else {
            return None;
        };
        if *head != [3, BIN, 8] || count < Self::MANY {
            return None;
        }
        let suite = Suite::from_code(u64::from(suite))?;
        reader.skip(Self::LEN);
        Some(Self {
            suite,
            kind: u64::from(kind),
            key_id: KeyId(*key_id),
            epoch: Epoch(*epoch),
        })
    }
}

/// How a byte string begins that is shorter than 256 bytes; its length follows.
const BIN: u8 = 0xc4;

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

/// Writes a header that [`Header::decode`] reads. What every header has goes in few pieces:
/// each is a look for room.
pub(crate) fn encode(out: &mut impl Sink, draft: &Draft<'_>, stamp: &Stamp<'_>) {
    let key = |out: &mut _, field: Field| writer::uint(out, field.key());
    writer::map(out, stamp.fields.len());
    out.put(&Start::bytes(draft, stamp));
    key(out, Field::Sequence);
    writer::uint(out, stamp.sequence);
    key(out, Field::Ids);
    writer::bin_header(out, stamp.messages.len() * ID_LEN);
    for message in stamp.messages {
        out.put(message.id.as_bytes());
    }
    key(out, Field::Subject);
    writer::string(out, draft.subject.as_str());
    let times = [
        (Field::IssuedAt, draft.issued_at),
        (Field::ExpiresAt, draft.expires_at),
    ];
    match long_times(times) {
        Some(bytes) => out.put(&bytes),
        None => {
            for (field, time) in times {
                key(out, field);
                writer::uint(out, time.as_millis());
            }
        }
    }
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

/// The times of a header, in one piece if each takes eight bytes, as all since 1970 but
/// its first weeks do.
fn long_times(times: [(Field, UnixMillis); 2]) -> Option<[u8; 20]> {
    let mut bytes = [0; 20];
    let mut room = Room::new(&mut bytes);
    for (field, time) in times {
        writer::uint(&mut room, field.key());
        let time = time.as_millis();
        if u32::try_from(time).is_ok() {
            return None;
        }
        writer::uint(&mut room, time);
    }
    debug_assert!(room.is_full());
    Some(bytes)
}

fn bin_field(out: &mut impl Sink, field: Field, bytes: &[u8]) {
    writer::uint(out, field.key());
    writer::bin(out, bytes);
}

#[cfg(test)]
mod tests {
    use bulla_identity::Subject;

    use super::*;
    use crate::{FrameMessage, MessageId};

    /// A header whole, cut off anywhere, and with any byte replaced by any other: among
    /// them every kind and suite.
    #[test]
    fn what_is_read_at_a_glance_is_what_is_read_value_by_value() {
        let to = Subject::parse("orders.created").unwrap();
        let now = UnixMillis::from_millis(1_750_000_000_000);
        let draft = Draft::event(&to, now, now, b"");
        let message = FrameMessage {
            id: MessageId([7; 16]),
            body: b"",
        };
        let stamp = Stamp {
            key_id: KeyId([8; 16]),
            epoch: Epoch([9; 8]),
            sequence: 300,
            token_hash: None,
            original_hash: None,
            nonce: None,
            fields: fields_of(&draft),
            messages: &[message],
        };
        let mut header = Vec::new();
        encode(&mut header, &draft, &stamp);
        let alike = |bytes: &[u8]| {
            let span = Span::new(0, bytes.len()).unwrap();
            let by_value = Header::decode_after(bytes, span, |_, _| None);
            let at_a_glance = Header::decode(bytes, span);
            assert_eq!(
                format!("{at_a_glance:?}"),
                format!("{by_value:?}"),
                "{bytes:?}"
            );
            at_a_glance.is_ok()
        };
        let mut reader = Reader::new(&header);
        let count = reader.map(usize::MAX).unwrap();
        assert!(Start::read(&mut reader, count).is_some());
        assert!(alike(&header));
        for len in 0..header.len() {
            assert!(!alike(&header[..len]));
        }
        let mut sound = 0;
        for at in 0..header.len() {
            for byte in 0..=u8::MAX {
                let mut other = header.clone();
                other[at] = byte;
                sound += u32::from(alike(&other));
            }
        }
        // What may be any byte may be.
        assert!(sound > 256 * (16 + 8 + 16), "{sound}");
    }
}

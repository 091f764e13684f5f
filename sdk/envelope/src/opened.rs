//! Authentic envelopes, the check that they were meant for here and now, and
//! what they hold.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use bulla_identity::{UnixMillis, Verified, WorkloadId};
use bulla_keyring::{DataKeyId, KeyId, TAG_LEN, constant_time_eq, sha256};

use crate::app_headers;
use crate::data_key::{KeyReference, OpeningKey};
use crate::limits::{MAX_ENVELOPE, MAX_LIFE, MAX_TOKEN};
use crate::reader::{Reader, Span};
use crate::sealed::{Parts, frame_bodies};
use crate::{
    DecodeError, Epoch, ErrorReport, Kind, LeafHash, MessageId, ReplyBinding, SealedEnvelope,
    Suite, TraceParent,
};

/// Who sealed an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The workload that the credential speaks for.
    pub workload: WorkloadId,
    /// The credential: one process of that workload.
    pub key_id: KeyId,
}

/// An envelope of a proven sender, not yet compared with where, when and how
/// it came. It becomes a [`CheckedEnvelope`] by [`AuthenticEnvelope::check`].
#[derive(Debug, Clone)]
pub struct AuthenticEnvelope {
    pub(crate) envelope: SealedEnvelope,
    pub(crate) leaf: LeafHash,
    pub(crate) sender: Verified<Sender>,
    pub(crate) credential_expires_at: UnixMillis,
}

/// What a receiver knows about a message besides its bytes.
#[derive(Debug, Clone)]
pub struct Expectation<'a> {
    /// The NATS subject on which it came.
    pub subject: &'a str,
    /// The NATS reply subject with which it came.
    pub reply_to: Option<&'a str>,
    /// The kinds that make sense here.
    pub kinds: &'a [Kind],
    /// The time.
    pub now: UnixMillis,
    /// By how much clocks may differ.
    pub skew: Duration,
    /// How old a message on this subject may be, whatever it says itself.
    pub max_age: Duration,
    /// Envelopes issued before are refused: where a replay from before the
    /// [`ReplayWindow`](crate::ReplayWindow) began to remember must not pass,
    /// the time when it was made plus the skew; zero where something else rules
    /// that out, as for replies.
    pub not_before: UnixMillis,
    /// The request that replies must answer. Without one no reply is accepted.
    pub request: Option<LeafHash>,
}

/// An envelope that is authentic and was meant for here and now, and whose
/// contents may still be encrypted.
///
/// It becomes an [`OpenedEnvelope`] by [`CheckedEnvelope::open_clear`] or
/// [`CheckedEnvelope::decrypt`], as [`CheckedEnvelope::key_reference`] tells.
#[derive(Debug, Clone)]
pub struct CheckedEnvelope {
    authentic: AuthenticEnvelope,
    skew: Duration,
}

/// An envelope that is authentic, was meant for here and now, and can be read.
///
/// What is left to the caller: the user's token, the policy, and the replay
/// window as the last step before the handler.
#[derive(Debug, Clone)]
pub struct OpenedEnvelope {
    authentic: AuthenticEnvelope,
}

/// Token and bodies in the clear, and the bytes that they lie in.
#[derive(Clone)]
pub(crate) struct Content {
    bytes: Bytes,
    token: Option<Span>,
    original: Option<Span>,
    body: Span,
    /// The messages' bodies if the frame has more than one.
    bodies: Vec<Span>,
}

/// Why the contents of a checked envelope cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is encrypted and was taken for clear.
    #[error("the envelope is encrypted")]
    Encrypted,
    /// It is clear and was taken for encrypted.
    #[error("the envelope is not encrypted")]
    NotEncrypted,
    /// The key is another one than the envelope names, or another sender's.
    #[error("the data key is not the one that the envelope names")]
    WrongKey,
    /// It was sealed after the key's time.
    #[error("the envelope was sealed after its data key had been retired")]
    KeyRetired,
    /// It does not decrypt: header or body were changed, or another key was used.
    #[error("the body does not decrypt")]
    BadCiphertext,
    /// What was encrypted is not strictly encoded.
    #[error("the encrypted contents are malformed")]
    Content(#[from] DecodeError),
    /// The token inside is not the one that was signed for.
    #[error("the user token is not the one that was signed for")]
    TokenMismatch,
    /// The client's own token inside is not the one that was signed for.
    #[error("the client's own token is not the one that was signed for")]
    OriginalMismatch,
}

impl OpenError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::NotEncrypted => "not_encrypted",
            Self::WrongKey => "wrong_data_key",
            Self::KeyRetired => "data_key_retired",
            Self::BadCiphertext => "bad_ciphertext",
            Self::Content(_) => "malformed_content",
            Self::TokenMismatch => "token_mismatch",
            Self::OriginalMismatch => "original_mismatch",
        }
    }
}

/// One message of an opened envelope.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The message's id.
    pub id: MessageId,
    /// Its place in the sender's epoch.
    pub sequence: u64,
    /// Its body, a slice of the envelope's bytes or of the decrypted ones.
    pub body: Bytes,
}

/// Shows which it is and how long, never its body.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("sequence", &self.sequence)
            .field("body_len", &self.body.len())
            .finish()
    }
}

/// Why an authentic envelope is not accepted here and now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// A kind that makes no sense here.
    #[error("the envelope's kind `{}` is not accepted here", kind.as_str())]
    WrongKind {
        /// What it is.
        kind: Kind,
    },
    /// It was sealed for another subject.
    #[error("the envelope was sealed for another subject")]
    WrongSubject,
    /// It was sealed with another reply subject.
    #[error("the envelope was sealed with another reply subject")]
    WrongReplyTo,
    /// It answers another request.
    #[error("the reply answers another request")]
    WrongRequest,
    /// It is from the future by more than the skew.
    #[error("the envelope was issued in the future")]
    Future,
    /// Its time is over.
    #[error("the envelope has expired")]
    Expired,
    /// It is older than this subject allows.
    #[error("the envelope is too old for this subject")]
    TooOld,
    /// It claims a longer life than any envelope may have.
    #[error("the envelope lives longer than {} minutes", MAX_LIFE.as_secs() / 60)]
    LivesTooLong,
    /// It is from before this receiver began to remember.
    #[error("the envelope was issued before this receiver started")]
    IssuedBeforeStart,
    /// It would be valid for longer than its sender's credential.
    #[error("the envelope outlives its sender's credential")]
    OutlivesCredential,
}

impl CheckError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::WrongKind { .. } => "wrong_kind",
            Self::WrongSubject => "wrong_subject",
            Self::WrongReplyTo => "wrong_reply_to",
            Self::WrongRequest => "wrong_request",
            Self::Future => "future",
            Self::Expired => "expired",
            Self::TooOld => "too_old",
            Self::LivesTooLong => "lives_too_long",
            Self::IssuedBeforeStart => "issued_before_start",
            Self::OutlivesCredential => "outlives_credential",
        }
    }
}

impl AuthenticEnvelope {
    /// Who sealed it.
    #[must_use]
    pub const fn sender(&self) -> &Verified<Sender> {
        &self.sender
    }

    /// What replies to it must be bound to.
    #[must_use]
    pub fn leaf(&self) -> LeafHash {
        self.leaf
    }

    /// Compares the envelope with how it came: ENV-31 to ENV-34.
    ///
    /// # Errors
    /// [`CheckError`] names the first thing that does not fit.
    pub fn check(self, expected: &Expectation<'_>) -> Result<CheckedEnvelope, CheckError> {
        self.check_place(expected)?;
        self.check_time(expected)?;
        Ok(CheckedEnvelope {
            authentic: self,
            skew: expected.skew,
        })
    }

    /// How it is protected.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.envelope.0.header.suite
    }

    fn key_reference(&self) -> Option<KeyReference> {
        let Parts { header, bytes, .. } = &*self.envelope.0;
        let key = header.key(bytes)?;
        Some(KeyReference {
            suite: header.suite.ciphers()?,
            sender: self.sender.workload.clone(),
            epoch: header.epoch,
            data_key: key.data_key,
            recipients: key.recipients,
        })
    }

    fn check_place(&self, expected: &Expectation<'_>) -> Result<(), CheckError> {
        let (header, bytes) = (&self.envelope.0.header, &self.envelope.0.bytes);
        if !expected.kinds.contains(&header.kind) {
            return Err(CheckError::WrongKind { kind: header.kind });
        }
        if header.subject.of(bytes) != expected.subject.as_bytes() {
            return Err(CheckError::WrongSubject);
        }
        let reply_to = header.reply_to(bytes);
        if reply_to != expected.reply_to.map(str::as_bytes) {
            return Err(CheckError::WrongReplyTo);
        }
        match (header.binding(bytes), expected.request) {
            (Some(binding), Some(request)) if binding.request == request => Ok(()),
            (Some(_), _) => Err(CheckError::WrongRequest),
            (None, _) => Ok(()),
        }
    }

    fn check_time(&self, expected: &Expectation<'_>) -> Result<(), CheckError> {
        let header = &self.envelope.0.header;
        let (issued_at, expires_at) = (header.issued_at, header.expires_at);
        if expires_at > self.credential_expires_at {
            return Err(CheckError::OutlivesCredential);
        }
        if expires_at > issued_at.saturating_add(MAX_LIFE) {
            return Err(CheckError::LivesTooLong);
        }
        if issued_at > expected.now.saturating_add(expected.skew) {
            return Err(CheckError::Future);
        }
        if issued_at < expected.not_before {
            return Err(CheckError::IssuedBeforeStart);
        }
        let earliest_now = expected.now.saturating_sub(expected.skew);
        if expires_at < earliest_now {
            return Err(CheckError::Expired);
        }
        if issued_at.saturating_add(expected.max_age) < earliest_now {
            return Err(CheckError::TooOld);
        }
        Ok(())
    }
}

impl CheckedEnvelope {
    pub(crate) fn sealed(&self) -> &Parts {
        &self.authentic.envelope.0
    }

    /// Who sealed it.
    #[must_use]
    pub const fn sender(&self) -> &Verified<Sender> {
        &self.authentic.sender
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.authentic.envelope.0.header.kind
    }

    /// How it is protected.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.authentic.suite()
    }

    /// What replies to it are bound to.
    #[must_use]
    pub fn leaf(&self) -> LeafHash {
        self.authentic.leaf
    }

    /// The reply subject that it was sealed with and came with.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        self.authentic.envelope.0.reply_to()
    }

    /// The data key that it is encrypted under, or that it carries to others;
    /// none if it is only signed.
    #[must_use]
    pub fn key_reference(&self) -> Option<KeyReference> {
        self.authentic.key_reference()
    }

    /// Names the data key that it is encrypted under, if it is; it is not yet known
    /// to be this sender's.
    #[must_use]
    pub fn data_key(&self) -> Option<DataKeyId> {
        let sealed = &*self.authentic.envelope.0;
        Some(sealed.header.key(&sealed.bytes)?.data_key)
    }

    /// Whether all that it says of its key is this.
    fn names(&self, reference: &KeyReference) -> bool {
        let Parts { header, bytes, .. } = &*self.authentic.envelope.0;
        header.key(bytes).is_some_and(|key| {
            key.data_key == reference.data_key
                && key.recipients == reference.recipients
                && header.suite == Suite::Encrypted(reference.suite)
                && header.epoch == reference.epoch
                && self.authentic.sender.workload == reference.sender
        })
    }

    /// The wrapped data key, if it rides along.
    #[must_use]
    pub fn inline_wraps(&self) -> Option<Bytes> {
        let sealed = &*self.authentic.envelope.0;
        sealed.header.wraps().map(|wraps| sealed.slice(wraps))
    }

    /// The contents of an envelope that is not encrypted.
    ///
    /// # Errors
    /// [`OpenError::Encrypted`].
    pub fn open_clear(self) -> Result<OpenedEnvelope, OpenError> {
        let sealed = &*self.authentic.envelope.0;
        if sealed.header.is_encrypted() {
            return Err(OpenError::Encrypted);
        }
        Ok(OpenedEnvelope {
            authentic: self.authentic,
        })
    }

    /// The contents of an encrypted envelope (ENV-16).
    ///
    /// # Errors
    /// [`OpenError`] names the first thing that does not fit.
    pub fn decrypt(self, key: &OpeningKey) -> Result<OpenedEnvelope, OpenError> {
        let sealed = &*self.authentic.envelope.0;
        let nonce = sealed
            .header
            .nonce(&sealed.bytes)
            .ok_or(OpenError::NotEncrypted)?;
        if !self.names(key.reference()) {
            return Err(OpenError::WrongKey);
        }
        if !key.covers(sealed.header.issued_at, self.skew) {
            return Err(OpenError::KeyRetired);
        }
        // Everything up to the end of the header.
        let aad = sealed.bytes.get(..sealed.header_span.range().end);
        let (ciphertext, tag) = sealed
            .body
            .of(&sealed.bytes)
            .split_last_chunk::<TAG_LEN>()
            .ok_or(OpenError::BadCiphertext)?;
        let mut plaintext = ciphertext.to_vec();
        key.decrypt(nonce, aad.unwrap_or_default(), &mut plaintext, tag)
            .map_err(|_| OpenError::BadCiphertext)?;
        let content = Content::of_plaintext(plaintext.into(), sealed)?;
        let mut authentic = self.authentic;
        authentic.envelope.0.decrypted = Some(Box::new(content));
        Ok(OpenedEnvelope { authentic })
    }
}

impl Content {
    fn of_plaintext(bytes: Bytes, sealed: &Parts) -> Result<Self, OpenError> {
        let mut reader = Reader::new(&bytes);
        let malformed = |error| OpenError::Content(DecodeError::Encoding(error));
        let original_hash = sealed.header.original_hash(&sealed.bytes);
        let elements = 2 + usize::from(original_hash.is_some());
        reader.array_of(elements).map_err(malformed)?;
        let inner = if reader.take_nil() {
            None
        } else {
            Some(reader.bin(MAX_TOKEN).map_err(malformed)?)
        };
        let body = reader.bin(MAX_ENVELOPE).map_err(malformed)?;
        let original = match original_hash {
            None => None,
            Some(hash) => {
                let original = reader.bin(MAX_TOKEN).map_err(malformed)?;
                if !constant_time_eq(&sha256(&[original.of(&bytes)]), hash) {
                    return Err(OpenError::OriginalMismatch);
                }
                Some(original)
            }
        };
        reader.finish().map_err(malformed)?;
        let bodies = frame_bodies(&bytes, body, sealed.header.messages())?;
        let is_open = sealed.token.is_some();
        match (inner, sealed.header.token_hash(&sealed.bytes)) {
            (None, None) => {}
            (None, Some(_)) if is_open => {}
            (Some(token), Some(hash)) if !is_open => {
                if !constant_time_eq(&sha256(&[token.of(&bytes)]), hash) {
                    return Err(OpenError::TokenMismatch);
                }
            }
            _ => return Err(OpenError::TokenMismatch),
        }
        Ok(Self {
            token: inner,
            original,
            body,
            bodies,
            bytes,
        })
    }

    fn slice(&self, span: Span) -> Bytes {
        self.bytes.slice(span.range())
    }
}

impl OpenedEnvelope {
    /// How it was protected.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.authentic.suite()
    }

    /// Who sealed it.
    #[must_use]
    pub const fn sender(&self) -> &Verified<Sender> {
        &self.authentic.sender
    }

    /// Whether its sender signed it. A code proves it to the receiver alone, who could have
    /// made it as well.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        !self.authentic.envelope.has_mac()
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.sealed().header.kind
    }

    /// The subject that it was sealed for and came on.
    #[must_use]
    pub fn subject(&self) -> &str {
        let sealed = self.sealed();
        sealed.header.subject.str_of(&sealed.bytes)
    }

    /// The reply subject that it was sealed with and came with.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        self.sealed().reply_to()
    }

    /// When it was sealed, by the sender's clock.
    #[must_use]
    pub fn issued_at(&self) -> UnixMillis {
        self.sealed().header.issued_at
    }

    /// When it expires, by the sender's word.
    #[must_use]
    pub fn expires_at(&self) -> UnixMillis {
        self.sealed().header.expires_at
    }

    /// How the body is encoded.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        let sealed = self.sealed();
        sealed.header.content_type(&sealed.bytes)
    }

    /// The user's token as the sender signed for it; not itself validated.
    #[must_use]
    pub fn token(&self) -> Option<Bytes> {
        let sealed = self.sealed();
        let inner = self.sealed().decrypted.as_ref().and_then(|content| {
            let token = content.token?;
            Some(content.slice(token))
        });
        inner.or_else(|| sealed.token.map(|span| sealed.slice(span)))
    }

    /// SHA-256 of the token, compared with it.
    #[must_use]
    pub fn token_hash(&self) -> Option<&[u8; 32]> {
        let sealed = self.sealed();
        sealed.header.token_hash(&sealed.bytes)
    }

    /// The token that the user's client itself sent, if the sender handed it on.
    #[must_use]
    pub fn original_token(&self) -> Option<Bytes> {
        let content = self.sealed().decrypted.as_ref()?;
        content.original.map(|span| content.slice(span))
    }

    /// What narrows the user's authority.
    #[must_use]
    pub fn limits(&self) -> Option<Bytes> {
        let sealed = self.sealed();
        sealed.header.limits().map(|span| sealed.slice(span))
    }

    /// What a reply or an error answers.
    #[must_use]
    pub fn binding(&self) -> Option<ReplyBinding> {
        let sealed = self.sealed();
        sealed.header.binding(&sealed.bytes)
    }

    /// What an error says.
    #[must_use]
    pub fn error(&self) -> Option<ErrorReport> {
        let sealed = self.sealed();
        sealed.header.error(&sealed.bytes)
    }

    /// The envelope in whose handling this one was sent, by the sender's word.
    #[must_use]
    pub fn parent(&self) -> Option<LeafHash> {
        let sealed = self.sealed();
        sealed.header.parent(&sealed.bytes)
    }

    /// W3C trace context.
    #[must_use]
    pub fn traceparent(&self) -> Option<TraceParent> {
        let sealed = self.sealed();
        sealed.header.traceparent(&sealed.bytes)
    }

    /// The sender's policy revision; informational, it never selects a policy.
    #[must_use]
    pub fn policy_revision(&self) -> Option<u64> {
        self.sealed().header.policy_revision
    }

    /// An application header.
    #[must_use]
    pub fn app_header(&self, name: &str) -> Option<&str> {
        self.app_headers()
            .find_map(|(n, value)| (n == name).then_some(value))
    }

    /// The application headers, ascending by name.
    pub fn app_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let sealed = self.sealed();
        app_headers::iter(&sealed.bytes, sealed.header.app_headers())
    }

    /// What replies to it are bound to.
    #[must_use]
    pub fn leaf(&self) -> LeafHash {
        self.authentic.leaf
    }

    /// The run of the sender's counter that [`Message::sequence`] belongs to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.sealed().header.epoch
    }

    /// How many messages the envelope carries: 1 to 64.
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.sealed().header.messages()
    }

    /// The first message, and the only one but in a frame of several.
    #[must_use]
    pub fn first_message(&self) -> Message {
        self.message(0)
    }

    /// The messages in the order in which they were sent.
    pub fn messages(&self) -> impl Iterator<Item = Message> {
        (0..self.message_count()).map(|index| self.message(index))
    }

    /// One of them by its place.
    #[must_use]
    pub fn message_at(&self, index: usize) -> Option<Message> {
        (index < self.message_count()).then(|| self.message(index))
    }

    fn message(&self, index: usize) -> Message {
        let sealed = self.sealed();
        let (bytes, bodies, whole) = match &self.sealed().decrypted {
            None => (&sealed.bytes, &sealed.bodies, sealed.body),
            Some(content) => (&content.bytes, &content.bodies, content.body),
        };
        let body = bodies.get(index).copied().unwrap_or(whole);
        Message {
            id: sealed.message_id(index),
            // Decoding refused a sequence that would overflow.
            sequence: sealed.header.sequence.saturating_add(index as u64),
            body: bytes.slice(body.range()),
        }
    }

    pub(crate) fn sealed(&self) -> &Parts {
        &self.authentic.envelope.0
    }
}

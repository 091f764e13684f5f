//! Decoding what came over the wire, and the proof that it is authentic.

use std::fmt;

use bytes::Bytes;

use bulla_identity::Verified;
use bulla_keyring::{DataKeyId, KeyId, MacKey, Signature, TAG_LEN, constant_time_eq, sha256};

use crate::ancestry::{self, AncestryError, LinkedAncestor};
use crate::format::{Field, Kind, ShapeError, Suite, VERSION};
use crate::header::{Header, ID_LEN};
use crate::limits::{MAX_ANCESTRY, MAX_BATCH, MAX_ENVELOPE, MAX_FRAME, MAX_HEADER, MAX_TOKEN};
use crate::opened::Content;
use crate::reader::{EncodingError, Place, Reader, Span};
use crate::roots::Claim;
use crate::tree::{self, NODE_LEN};
use crate::{
    AuthenticEnvelope, LeafHash, MessageId, RecipientSet, Sender, VerifiedCredential, VerifiedRoots,
};

/// An envelope that was decoded and is not yet trusted.
///
/// Everything in it is what somebody claims. It becomes an
/// [`AuthenticEnvelope`] by [`SealedEnvelope::verify`].
///
/// All of it lies behind one pointer: it is handed on by value from one proof to
/// the next.
#[derive(Clone)]
pub struct SealedEnvelope(pub(crate) Box<Parts>);

/// Where the parts of an envelope lie in its bytes.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) bytes: Bytes,
    pub(crate) header: Header,
    pub(crate) token: Option<Span>,
    /// As it was sent: in the clear, or ciphertext.
    pub(crate) body: Span,
    /// The messages' bodies if the frame has more than one and is in the clear.
    pub(crate) bodies: Vec<Span>,
    pub(crate) header_span: Span,
    /// The messages that led to this one, and their bytes.
    pub(crate) ancestors: Vec<LinkedAncestor>,
    pub(crate) ancestry: Option<Span>,
    pub(crate) proof_span: Span,
    proof: Proof,
    /// Its leaf, if that was computed ahead.
    leaf: Option<LeafHash>,
    /// What was encrypted, once that is open; otherwise the envelope holds it.
    pub(crate) decrypted: Option<Box<Content>>,
}

/// What makes an envelope authentic.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// A place in a batch, and the batch's signature.
    Batch(BatchProof),
    /// A code under a key that only sender and receiver have (ENV-26).
    Mac([u8; 32]),
}

#[derive(Debug, Clone)]
pub(crate) struct BatchProof {
    index: u32,
    count: u32,
    path: Span,
    signature: Place<64>,
}

/// Why bytes are not an envelope. Grouped by what went wrong: its size, a
/// version or algorithm of another time, its encoding, its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Larger than any envelope.
    #[error("{actual} bytes, more than the {limit} of the largest envelope")]
    TooLarge {
        /// [`MAX_ENVELOPE`].
        limit: usize,
        /// What came.
        actual: usize,
    },
    /// Another version of the format.
    #[error("envelope version {version} is not supported")]
    UnsupportedVersion {
        /// What it says.
        version: u64,
    },
    /// A suite that this version does not open.
    #[error("suite {suite} is not supported")]
    UnsupportedSuite {
        /// What it says.
        suite: u64,
    },
    /// A kind that this version does not know.
    #[error("kind {kind} is not supported")]
    UnsupportedKind {
        /// What it says.
        kind: u64,
    },
    /// Not strict MessagePack of the expected types.
    #[error("malformed envelope")]
    Encoding(#[from] EncodingError),
    /// A header key that does not exist.
    #[error("header key {key} is unknown")]
    UnknownField {
        /// The key.
        key: u64,
    },
    /// A header key that is repeated or not in ascending order.
    #[error("`{field}` is repeated or out of order")]
    FieldOrder {
        /// Which.
        field: Field,
    },
    /// A value that the field cannot have.
    #[error("`{field}` has an invalid value")]
    InvalidField {
        /// Which.
        field: Field,
    },
    /// Fields that do not go with the kind.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A token without its hash, or the other way round.
    #[error("a user token and its hash come together or not at all")]
    TokenPresence,
    /// Several messages where only one may be.
    #[error("only events without a reply subject share a frame")]
    NotFramable,
    /// The frame's body does not hold as many messages as it has ids.
    #[error("{actual} message bodies for {expected} ids")]
    FrameCount {
        /// How many ids there are.
        expected: usize,
        /// How many bodies there are.
        actual: usize,
    },
    /// An error reply has a body.
    #[error("an error reply has no body")]
    ErrorWithBody,
    /// An encrypted body that is shorter than what the AEAD adds.
    #[error("the encrypted body is too short")]
    BodyTooShort,
    /// A code where only a signature may be.
    #[error("only replies and errors are authenticated by a code")]
    MacKind,
    /// Ancestors that are not this envelope's.
    #[error("what it shows as its ancestors is not")]
    Ancestry(#[from] AncestryError),
    /// A batch that is empty or too large, or an index outside it.
    #[error("index {index} of {count} is no place in a batch")]
    BatchPlace {
        /// What it says.
        index: u64,
        /// What it says.
        count: u64,
    },
    /// A path whose length does not follow from index and count.
    #[error("a path of {actual} bytes where index and count need {expected}")]
    PathLength {
        /// What is needed.
        expected: usize,
        /// What came.
        actual: usize,
    },
}

impl DecodeError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::UnsupportedVersion { .. } => "unsupported_version",
            Self::UnsupportedSuite { .. } => "unsupported_suite",
            Self::UnsupportedKind { .. } => "unsupported_kind",
            Self::Encoding(error) => error.code(),
            Self::UnknownField { .. } => "unknown_field",
            Self::FieldOrder { .. } => "field_order",
            Self::InvalidField { .. } => "invalid_field",
            Self::Shape(ShapeError::Missing { .. }) => "missing_field",
            Self::Shape(ShapeError::Unexpected { .. }) => "unexpected_field",
            Self::Shape(ShapeError::SuiteOfKind { .. }) => "suite_of_kind",
            Self::TokenPresence => "token_presence",
            Self::NotFramable => "not_framable",
            Self::FrameCount { .. } => "frame_count",
            Self::ErrorWithBody => "error_with_body",
            Self::BodyTooShort => "body_too_short",
            Self::MacKind => "mac_kind",
            Self::Ancestry(error) => error.code(),
            Self::BatchPlace { .. } => "batch_place",
            Self::PathLength { .. } => "path_length",
        }
    }
}

/// Why a decoded envelope is not authentic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The envelope names another credential.
    #[error("the envelope names another credential")]
    WrongCredential,
    /// The signature is not by that credential over this envelope.
    #[error("the envelope's signature does not verify")]
    BadSignature,
    /// The code is not by the peer over this envelope.
    #[error("the envelope's code does not verify")]
    BadMac,
    /// A code where a signature is expected.
    #[error("the envelope is not signed")]
    NotSigned,
    /// A signature where a code is expected.
    #[error("the envelope has no code")]
    NotCoded,
    /// The token is not the one that the signature covers.
    #[error("the user token is not the one that was signed for")]
    TokenMismatch,
}

impl VerifyError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::WrongCredential => "wrong_credential",
            Self::BadSignature => "bad_signature",
            Self::BadMac => "bad_mac",
            Self::NotSigned => "not_signed",
            Self::NotCoded => "not_coded",
            Self::TokenMismatch => "token_mismatch",
        }
    }
}

impl SealedEnvelope {
    /// Decodes strictly: each envelope has exactly one encoding (ENV-1), and versions that
    /// are not known are refused as such, whatever follows (ENV-5, ENV-61).
    ///
    /// The bytes are kept and pointed into, never copied or encoded anew (ENV-3); work and memory are
    /// bounded by their length and by the format's limits.
    ///
    /// # Errors
    /// [`DecodeError`] names the first rule that is broken.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(DecodeError::TooLarge {
                limit: MAX_ENVELOPE,
                actual: bytes.len(),
            });
        }
        let mut reader = Reader::new(&bytes);
        // An array that begins with a version; how long it is depends on that.
        let elements = reader.array(usize::MAX)?;
        let version = reader.uint()?;
        if version != u64::from(VERSION) {
            return Err(DecodeError::UnsupportedVersion { version });
        }
        // With ancestors one more.
        if !matches!(elements, 5 | 6) {
            return Err(EncodingError::WrongLength {
                expected: 5,
                actual: elements,
            }
            .into());
        }
        let header_span = reader.bin(MAX_HEADER)?;
        let header = Header::decode(&bytes, header_span)?;
        let token = if reader.take_nil() {
            None
        } else {
            Some(reader.bin(MAX_TOKEN)?)
        };
        let is_encrypted = header.is_encrypted();
        match (token.is_some(), header.has_token()) {
            (true, true) | (false, false) => {}
            // It is inside.
            (false, true) if is_encrypted => {}
            _ => return Err(DecodeError::TokenPresence),
        }
        let body = reader.bin(MAX_ENVELOPE)?;
        if header.kind == Kind::Error && body.len() > 0 {
            return Err(DecodeError::ErrorWithBody);
        }
        let bodies = if is_encrypted {
            if body.len() < TAG_LEN {
                return Err(DecodeError::BodyTooShort);
            }
            Vec::new()
        } else {
            frame_bodies(&bytes, body, header.messages())?
        };
        let (ancestry, ancestors) = if elements == 6 {
            let span = reader.bin(MAX_ANCESTRY)?;
            (Some(span), ancestry::decode(&bytes, span, &header)?)
        } else {
            (None, Vec::new())
        };
        let proof_start = reader.position();
        let proof = Proof::read(&mut reader)?;
        let proof_span = Span::new(proof_start, reader.position())?;
        if matches!(proof, Proof::Mac(_)) && !matches!(header.kind, Kind::Reply | Kind::Error) {
            return Err(DecodeError::MacKind);
        }
        reader.finish()?;
        Ok(Self(Box::new(Parts {
            header,
            token,
            body,
            bodies,
            header_span,
            ancestors,
            ancestry,
            proof_span,
            proof,
            leaf: None,
            decrypted: None,
            bytes,
        })))
    }

    /// Which credential the envelope says it is sealed under. Needed to find
    /// that credential; proves nothing.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.0.header.key_id
    }

    /// The kind that the envelope claims.
    #[must_use]
    pub fn kind_unverified(&self) -> Kind {
        self.0.header.kind
    }

    /// The suite that the envelope claims.
    #[must_use]
    pub fn suite_unverified(&self) -> Suite {
        self.0.header.suite
    }

    /// The data key that the envelope claims to be sealed under, for diagnostics.
    /// Its sender is not known before the proof is verified; here it is left out.
    #[must_use]
    pub fn data_key_unverified(&self) -> Option<(DataKeyId, RecipientSet)> {
        let key = self.0.header.key(&self.0.bytes)?;
        Some((key.data_key, key.recipients))
    }

    /// Whether the wrapped data key rides along.
    #[must_use]
    pub fn has_inline_wraps(&self) -> bool {
        self.0.header.wraps().is_some()
    }

    /// Whether a code, not a signature, makes it authentic, for
    /// [`SealedEnvelope::verify_mac`].
    #[must_use]
    pub fn has_mac(&self) -> bool {
        matches!(self.0.proof, Proof::Mac(_))
    }

    /// The subject that the envelope claims, for diagnostics.
    #[must_use]
    pub fn subject_unverified(&self) -> &str {
        self.0.header.subject.str_of(&self.0.bytes)
    }

    /// The id of the first message that the envelope claims, for diagnostics.
    #[must_use]
    pub fn id_unverified(&self) -> MessageId {
        self.0.message_id(0)
    }

    /// How many messages the envelope claims to carry.
    #[must_use]
    pub fn messages_unverified(&self) -> usize {
        self.0.header.messages()
    }

    /// Proves that the holder of `credential` sealed exactly these bytes.
    ///
    /// # Errors
    /// [`VerifyError`] if the envelope names another credential, the signature
    /// does not verify, or the token is not the one that was signed for.
    pub fn verify(self, credential: &VerifiedCredential) -> Result<AuthenticEnvelope, VerifyError> {
        self.prove(credential, None)
    }

    /// The same, without a signature to verify if `roots` has seen the batch.
    ///
    /// Accepts and refuses exactly what [`SealedEnvelope::verify`] does.
    ///
    /// # Errors
    /// As [`SealedEnvelope::verify`].
    ///
    /// # Security
    /// `credential` is the one that counts now, looked up for this envelope:
    /// `roots` remembers signatures, not who is still trusted.
    pub fn verify_with(
        self,
        credential: &VerifiedCredential,
        roots: &VerifiedRoots,
    ) -> Result<AuthenticEnvelope, VerifyError> {
        self.prove(credential, Some(roots))
    }

    /// Proves that the holder of `credential` answered, with the code under the
    /// key that it shares with this process (ENV-26).
    ///
    /// # Errors
    /// [`VerifyError`].
    ///
    /// # Security
    /// `key` is agreed between the exchange key in `credential` and this
    /// process's own, in these roles. Whoever has this process's exchange secret
    /// can make such envelopes too.
    pub fn verify_mac(
        self,
        credential: &VerifiedCredential,
        key: &MacKey,
    ) -> Result<AuthenticEnvelope, VerifyError> {
        if self.0.header.key_id != credential.id() {
            return Err(VerifyError::WrongCredential);
        }
        let Proof::Mac(mac) = &self.0.proof else {
            return Err(VerifyError::NotCoded);
        };
        let leaf = self.leaf();
        key.verify(&[&leaf.0], mac)
            .map_err(|_| VerifyError::BadMac)?;
        self.into_authentic(credential, leaf)
    }

    /// Computes what both are signed by, ahead of their proofs: for two at once it
    /// takes little longer than for one. Proves nothing.
    pub fn hash_both(&mut self, other: &mut Self) {
        let [own, others] = tree::both_leaves(self.signed_parts(), other.signed_parts());
        (self.0.leaf, other.0.leaf) = (Some(own), Some(others));
    }

    /// Whether [`SealedEnvelope::hash_both`] has been here.
    #[must_use]
    pub fn is_hashed(&self) -> bool {
        self.0.leaf.is_some()
    }

    /// Header and body.
    fn signed_parts(&self) -> (&[u8], &[u8]) {
        let Parts { bytes, .. } = &*self.0;
        (self.0.header_span.of(bytes), self.0.body.of(bytes))
    }

    fn leaf(&self) -> LeafHash {
        let (header, body) = self.signed_parts();
        self.0.leaf.unwrap_or_else(|| tree::leaf(header, body))
    }

    fn prove(
        self,
        credential: &VerifiedCredential,
        roots: Option<&VerifiedRoots>,
    ) -> Result<AuthenticEnvelope, VerifyError> {
        if self.0.header.key_id != credential.id() {
            return Err(VerifyError::WrongCredential);
        }
        let Proof::Batch(proof) = &self.0.proof else {
            return Err(VerifyError::NotSigned);
        };
        let leaf = self.leaf();
        proof.verify(&self.0.bytes, &leaf, credential, roots)?;
        self.into_authentic(credential, leaf)
    }

    fn into_authentic(
        self,
        credential: &VerifiedCredential,
        leaf: LeafHash,
    ) -> Result<AuthenticEnvelope, VerifyError> {
        self.verify_token()?;
        let sender = Sender {
            workload: credential.workload().clone(),
            key_id: credential.id(),
        };
        Ok(AuthenticEnvelope {
            leaf,
            sender: Verified::danger_assert(sender),
            credential_expires_at: credential.expires_at(),
            envelope: self,
        })
    }

    /// The leaf does not cover the token but by the hash in the header.
    fn verify_token(&self) -> Result<(), VerifyError> {
        let matches = match (self.0.token, self.0.header.token_hash(&self.0.bytes)) {
            (None, None) => true,
            (Some(token), Some(hash)) => {
                constant_time_eq(&sha256(&[token.of(&self.0.bytes)]), hash)
            }
            // It is inside, and compared when that is opened.
            (None, Some(_)) => self.0.header.is_encrypted(),
            (Some(_), None) => false,
        };
        matches.then_some(()).ok_or(VerifyError::TokenMismatch)
    }
}

/// Shows what it is and how long, never token or body.
impl fmt::Debug for SealedEnvelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { bytes, header, .. } = &*self.0;
        f.debug_struct("SealedEnvelope")
            .field("kind", &header.kind)
            .field("suite", &header.suite)
            .field("key_id", &header.key_id)
            .field("subject", &self.subject_unverified())
            .field("messages", &header.messages())
            .field("len", &bytes.len())
            .finish_non_exhaustive()
    }
}

impl Parts {
    /// The id of a message of the frame.
    pub(crate) fn message_id(&self, index: usize) -> MessageId {
        let (ids, _) = self.header.ids.of(&self.bytes).as_chunks::<ID_LEN>();
        MessageId(ids.get(index).copied().unwrap_or_default())
    }

    /// The signed reply subject.
    pub(crate) fn reply_to(&self) -> Option<&str> {
        let reply_to = self.header.reply_to(&self.bytes)?;
        Some(std::str::from_utf8(reply_to).unwrap_or_default())
    }

    /// Zero-copy.
    pub(crate) fn slice(&self, span: Span) -> Bytes {
        self.bytes.slice(span.range())
    }
}

/// The bodies of a frame of several messages; nothing for a frame of one.
pub(crate) fn frame_bodies(
    bytes: &[u8],
    body: Span,
    messages: usize,
) -> Result<Vec<Span>, DecodeError> {
    if messages == 1 {
        return Ok(Vec::new());
    }
    let mut reader = Reader::within(bytes, body);
    let count = reader.array(MAX_FRAME)?;
    if count != messages {
        return Err(DecodeError::FrameCount {
            expected: messages,
            actual: count,
        });
    }
    let mut bodies = Vec::with_capacity(count);
    for _ in 0..count {
        bodies.push(reader.bin(MAX_ENVELOPE)?);
    }
    reader.finish()?;
    Ok(bodies)
}

impl BatchProof {
    /// Proves that the holder of `credential` signed a batch with this leaf.
    /// `bytes` are those that the proof was read from.
    pub(crate) fn verify(
        &self,
        bytes: &[u8],
        leaf: &LeafHash,
        credential: &VerifiedCredential,
        roots: Option<&VerifiedRoots>,
    ) -> Result<(), VerifyError> {
        let claim = Claim {
            credential: credential.credential().hash(),
            signature: &Signature::from_bytes(*self.signature.of(bytes)),
            index: self.index,
            count: self.count,
            path: self.path.of(bytes),
            leaf: tree::leaf_node(leaf),
        };
        if !roots.is_some_and(|roots| roots.recognise(&claim)) {
            let root = tree::root(claim.leaf, claim.index, claim.count, claim.path)
                .ok_or(VerifyError::BadSignature)?;
            credential
                .verify_batch(claim.count, &root, claim.signature)
                .map_err(|_| VerifyError::BadSignature)?;
            if let Some(roots) = roots {
                roots.danger_remember(&claim, root);
            }
        }
        Ok(())
    }
}

impl Proof {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.array(usize::MAX)? {
            1 => return Ok(Self::Mac(reader.bin_of()?)),
            4 => {}
            actual => {
                return Err(EncodingError::WrongLength {
                    expected: 4,
                    actual,
                }
                .into());
            }
        }
        let (raw_index, raw_count) = (reader.uint()?, reader.uint()?);
        let place = DecodeError::BatchPlace {
            index: raw_index,
            count: raw_count,
        };
        let index = u32::try_from(raw_index).map_err(|_| place)?;
        let count = u32::try_from(raw_count).map_err(|_| place)?;
        if index >= count || count as usize > MAX_BATCH {
            return Err(place);
        }
        let path = reader.bin(MAX_ENVELOPE)?;
        let expected = tree::path_len(index, count) * NODE_LEN;
        if path.len() != expected {
            return Err(DecodeError::PathLength {
                expected,
                actual: path.len(),
            });
        }
        Ok(Self::Batch(BatchProof {
            index,
            count,
            path,
            signature: reader.bin_at()?,
        }))
    }
}

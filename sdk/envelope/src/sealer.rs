//! Sealing: drafts become signed envelopes, one signature for a whole batch.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use bulla_identity::UnixMillis;
use bulla_keyring::{
    KeyId, MacKey, NONCE_LEN, Nonce, NonceError, Signature, SigningKey, TAG_LEN, Tag, sha256,
};

use crate::format::{Field, FieldSet, Kind, ShapeError, VERSION};
use crate::header;
use crate::limits::{MAX_BATCH, MAX_ENVELOPE, MAX_FRAME, MAX_HEADER};
use crate::tree::{self, NODE_LEN, Tree};
use crate::writer::{self, Length, Room, Sink};
use crate::{AncestryError, Credential, Draft, Epoch, FrameMessage, LeafHash, MessageId};

/// A sealed envelope, ready to be published.
#[derive(Clone)]
pub struct Sealed {
    /// The NATS payload.
    pub bytes: Bytes,
    /// What replies to it are bound to.
    pub leaf: LeafHash,
    /// The sequence of its first message.
    pub sequence: u64,
}

/// Seals one process's envelopes under its message credential.
///
/// May be shared by threads: the sequence counter is atomic.
#[derive(Debug)]
pub struct Sealer {
    key: SigningKey,
    key_id: KeyId,
    credential_hash: [u8; 32],
    expires_at: UnixMillis,
    epoch: Epoch,
    next: AtomicU64,
    buffers: Buffers,
}

/// Why a draft is not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key is not the one that the credential names, or the data key is
    /// another process's.
    #[error("the key is not this sender's")]
    ForeignKey,
    /// The sequence counter is at its end: a new epoch is needed.
    #[error("the sequence counter is exhausted")]
    Exhausted,
    /// Fields that do not go with the kind.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A value that its field cannot have.
    #[error("`{field}` has an invalid value")]
    InvalidField {
        /// Which.
        field: Field,
    },
    /// A field that is too long.
    #[error("`{field}` is {actual} bytes long, more than {limit}")]
    FieldTooLong {
        /// Which.
        field: Field,
        /// What is allowed.
        limit: usize,
        /// What it is.
        actual: usize,
    },
    /// The user token is too long.
    #[error("the user token is {actual} bytes long, more than {limit}")]
    TokenTooLong {
        /// [`MAX_TOKEN`](crate::MAX_TOKEN).
        limit: usize,
        /// What it is.
        actual: usize,
    },
    /// The header is too long.
    #[error("the header is {actual} bytes long, more than {limit}")]
    HeaderTooLong {
        /// [`MAX_HEADER`].
        limit: usize,
        /// What it is.
        actual: usize,
    },
    /// The envelope is too long.
    #[error("the envelope is {actual} bytes long, more than {limit}")]
    TooLarge {
        /// [`MAX_ENVELOPE`].
        limit: usize,
        /// What it is.
        actual: usize,
    },
    /// An error reply has no body.
    #[error("an error reply has no body")]
    ErrorWithBody,
    /// The envelope would be valid for longer than the credential.
    #[error("the envelope would outlive the sender's credential")]
    OutlivesCredential,
    /// A batch of no or too many envelopes.
    #[error("a batch has 1 to {limit} envelopes, not {actual}")]
    BatchSize {
        /// [`MAX_BATCH`].
        limit: usize,
        /// What it has.
        actual: usize,
    },
    /// A frame of no or too many messages.
    #[error("a frame has 1 to {limit} messages, not {actual}")]
    FrameSize {
        /// [`MAX_FRAME`].
        limit: usize,
        /// What it has.
        actual: usize,
    },
    /// Several messages in a frame that is no event, has a reply subject, or
    /// has a body beside its messages.
    #[error("only events without a reply subject share a frame")]
    NotFramable,
    /// A wrapped data key where none belongs, or none where one does.
    #[error("a data key is wrapped in a record of its own, and only there")]
    KeyOfKind,
    /// The data key's time is over: a new one is needed.
    #[error("the data key has been retired")]
    KeyRetired,
    /// No nonce is left under the data key, or the process was forked.
    #[error("no nonce can be taken")]
    Nonce(#[from] NonceError),
    /// Ancestors that are not this draft's.
    #[error("what it is to show as its ancestors is not")]
    Ancestry(#[from] AncestryError),
    /// Only answers may be authenticated to one peer alone.
    #[error("only replies and errors are authenticated by a code")]
    MacKind,
}

impl SealError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ForeignKey => "foreign_key",
            Self::Exhausted => "exhausted",
            Self::Shape(_) => "shape",
            Self::InvalidField { .. } => "invalid_field",
            Self::FieldTooLong { .. } => "field_too_long",
            Self::TokenTooLong { .. } => "token_too_long",
            Self::HeaderTooLong { .. } => "header_too_long",
            Self::TooLarge { .. } => "too_large",
            Self::ErrorWithBody => "error_with_body",
            Self::OutlivesCredential => "outlives_credential",
            Self::BatchSize { .. } => "batch_size",
            Self::FrameSize { .. } => "frame_size",
            Self::NotFramable => "not_framable",
            Self::KeyOfKind => "key_of_kind",
            Self::KeyRetired => "key_retired",
            Self::Nonce(error) => error.code(),
            Self::Ancestry(error) => error.code(),
            Self::MacKind => "mac_kind",
        }
    }
}

/// What the sealer adds to a draft.
pub(crate) struct Stamp<'a> {
    pub(crate) key_id: KeyId,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
    pub(crate) token_hash: Option<[u8; 32]>,
    pub(crate) original_hash: Option<[u8; 32]>,
    pub(crate) nonce: Option<[u8; NONCE_LEN]>,
    /// Those that the header has.
    pub(crate) fields: FieldSet,
    /// At least one.
    pub(crate) messages: &'a [FrameMessage<'a>],
}

impl Sealer {
    /// A sealer for the holder of `credential`, its counter at 0.
    ///
    /// # Errors
    /// [`SealError::ForeignKey`] if the credential names another key.
    ///
    /// # Security
    /// `epoch` must be random: two runs of the counter under one credential
    /// must not share it, or receivers take one for a clone of the other.
    pub fn new(credential: &Credential, key: SigningKey, epoch: Epoch) -> Result<Self, SealError> {
        if credential.request().signing_key() != key.verifying_key() {
            return Err(SealError::ForeignKey);
        }
        Ok(Self {
            key,
            key_id: credential.id(),
            credential_hash: *credential.hash(),
            expires_at: credential.expires_at(),
            epoch,
            next: AtomicU64::new(0),
            buffers: Buffers::default(),
        })
    }

    /// Signs how far this process's chain of the audit log goes; of the parts all but
    /// the last have a fixed length.
    #[must_use]
    pub fn sign_audit(&self, parts: &[&[u8]]) -> Signature {
        self.key.sign(Tag::AuditHead, parts)
    }

    /// The life of the process that this sealer belongs to.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The credential that this sealer seals under.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// When the credential ends, and with it this sealer's use.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMillis {
        self.expires_at
    }

    /// Checks a draft whose envelope is known to be short enough: all that
    /// [`Sealer::measure`] checks but lengths.
    ///
    /// # Errors
    /// [`SealError`] if the draft breaks a rule of the format.
    pub fn check(&self, draft: &Draft<'_>) -> Result<(), SealError> {
        let message = FrameMessage {
            id: MessageId([0; 16]),
            body: draft.body,
        };
        let messages = &[message];
        self.check_unit(&SealUnit { draft, messages }).map(drop)
    }

    /// Checks a draft and tells how long its envelope is at most if it is
    /// sealed alone: up to eight bytes more than it will be. In a batch it is at
    /// most [`Sealer::BATCH_ROOM`] longer.
    ///
    /// What passes is sealed, unless the credential or the counter ends first
    /// or the batch makes it longer than [`MAX_ENVELOPE`].
    ///
    /// # Errors
    /// [`SealError`] if the draft breaks a rule of the format.
    pub fn measure(&self, draft: &Draft<'_>) -> Result<usize, SealError> {
        let message = FrameMessage {
            id: MessageId([0; 16]),
            body: draft.body,
        };
        let unit = SealUnit {
            draft,
            messages: &[message],
        };
        let fields = self.check_unit(&unit)?;
        // The hash's bytes do not matter, the number of them does.
        let stamp = Stamp {
            key_id: self.key_id,
            epoch: self.epoch,
            sequence: u64::MAX,
            token_hash: draft.token.map(|_| [0; 32]),
            original_hash: draft.original.map(|_| [0; 32]),
            nonce: draft.encryption.map(|_| [0; NONCE_LEN]),
            fields,
            messages: unit.messages,
        };
        let mut headers = Vec::with_capacity(TYPICAL_HEADER);
        let room = ProofRoom::Batch { index: 0, count: 1 };
        Ok(Plan::new(&unit, &stamp, &mut headers, room)?.len)
    }

    /// By how many bytes a place in a batch can make an envelope longer: ten
    /// nodes, and larger numbers.
    pub const BATCH_ROOM: usize = Proof::MAX_LEN - (1 + 2 + 2 + 2 + 64);

    /// Seals one message: a batch of one, a frame of one.
    ///
    /// # Errors
    /// [`SealError`] if the draft breaks a rule of the format or the counter is
    /// at its end.
    pub fn seal(&self, draft: &Draft<'_>, id: MessageId) -> Result<Sealed, SealError> {
        let message = FrameMessage {
            id,
            body: draft.body,
        };
        self.seal_one(SealUnit {
            draft,
            messages: &[message],
        })
    }

    /// Seals one answer for one peer alone: with a code under a key that only
    /// both processes have, instead of a signature (ENV-26).
    ///
    /// # Errors
    /// As [`Sealer::seal`], and [`SealError::MacKind`] for anything but a reply
    /// or an error.
    ///
    /// # Security
    /// The peer could have made it too: it proves nothing to a third party.
    pub fn seal_with_mac(
        &self,
        draft: &Draft<'_>,
        id: MessageId,
        key: &MacKey,
    ) -> Result<Sealed, SealError> {
        if !matches!(draft.kind, Kind::Reply | Kind::Error) {
            return Err(SealError::MacKind);
        }
        let message = FrameMessage {
            id,
            body: draft.body,
        };
        let unit = SealUnit {
            draft,
            messages: &[message],
        };
        let fields = self.check_unit(&unit)?;
        let sequence = self.draw(1)?;
        let (stamp, nonce) = self.stamp(&unit, fields, sequence)?;
        let mut headers = Vec::with_capacity(TYPICAL_HEADER);
        let mut plan = Plan::new(&unit, &stamp, &mut headers, ProofRoom::Mac)?;
        plan.nonce = nonce;
        let mut buffer = Vec::with_capacity(plan.len);
        plan.write(&mut buffer, &headers);
        let leaf = plan.leaf(&buffer, &headers);
        let mut proof = Vec::with_capacity(plan.proof_len);
        writer::array(&mut proof, 1);
        writer::bin(&mut proof, &key.mac(&[&leaf.0]));
        buffer.truncate(plan.len - plan.proof_len);
        buffer.extend_from_slice(&proof);
        Ok(Sealed {
            bytes: buffer.into(),
            leaf,
            sequence,
        })
    }

    /// Seals 1 to 64 events for the same subject as one frame, in a batch of one.
    ///
    /// # Errors
    /// [`SealError`], [`SealError::NotFramable`] if they cannot share a frame.
    pub fn seal_frame(
        &self,
        draft: &Draft<'_>,
        messages: &[FrameMessage<'_>],
    ) -> Result<Sealed, SealError> {
        if !draft.body.is_empty() {
            return Err(SealError::NotFramable);
        }
        self.seal_one(SealUnit { draft, messages })
    }

    /// Seals several messages, to different subjects if need be, under one
    /// signature. The results are in the order of the drafts.
    ///
    /// # Errors
    /// [`SealError`] of the first draft that breaks a rule; nothing is sealed then.
    pub fn seal_batch(&self, drafts: &[(Draft<'_>, MessageId)]) -> Result<Vec<Sealed>, SealError> {
        let messages: Vec<[FrameMessage<'_>; 1]> = drafts
            .iter()
            .map(|(draft, id)| {
                [FrameMessage {
                    id: *id,
                    body: draft.body,
                }]
            })
            .collect();
        let units: Vec<SealUnit<'_>> = drafts
            .iter()
            .zip(&messages)
            .map(|((draft, _), messages)| SealUnit { draft, messages })
            .collect();
        self.seal_units(&units)
    }

    fn seal_one(&self, unit: SealUnit<'_>) -> Result<Sealed, SealError> {
        let mut sealed = self.seal_units(&[unit])?;
        sealed.pop().ok_or(SealError::BatchSize {
            limit: MAX_BATCH,
            actual: 0,
        })
    }

    /// Seals frames, each of one or more messages, to different subjects if need
    /// be, under one signature. The results are in the order of the units.
    ///
    /// # Errors
    /// [`SealError`] of the first unit that breaks a rule; nothing is sealed then.
    pub fn seal_units(&self, units: &[SealUnit<'_>]) -> Result<Vec<Sealed>, SealError> {
        let count = u32::try_from(units.len())
            .ok()
            .filter(|count| (1..=MAX_BATCH).contains(&(*count as usize)))
            .ok_or(SealError::BatchSize {
                limit: MAX_BATCH,
                actual: units.len(),
            })?;
        let checked = units.iter().map(|unit| self.check_unit(unit));
        let fields = checked.collect::<Result<Vec<_>, _>>()?;
        let messages = units.iter().map(|unit| unit.messages.len() as u64).sum();
        let mut sequence = self.draw(messages)?;
        // Headers first: all lengths are known then, and the batch lies in one
        // allocation of the right size.
        let mut headers = Vec::with_capacity(units.len() * TYPICAL_HEADER);
        let mut plans = Vec::with_capacity(units.len());
        let mut capacity = 0;
        for ((unit, fields), index) in units.iter().zip(fields).zip(0..count) {
            let (stamp, nonce) = self.stamp(unit, fields, sequence)?;
            let room = ProofRoom::Batch { index, count };
            let mut plan = Plan::new(unit, &stamp, &mut headers, room)?;
            plan.nonce = nonce;
            sequence += unit.messages.len() as u64;
            capacity += plan.len;
            plans.push(plan);
        }
        let mut buffer = self.buffers.take(capacity);
        let mut leaves: Vec<LeafHash> = Vec::with_capacity(plans.len());
        for pair in plans.chunks_mut(2) {
            for plan in &mut *pair {
                plan.write(&mut buffer, &headers);
            }
            match pair {
                [a, b] => leaves.extend(tree::both_leaves(
                    a.parts(&buffer, &headers),
                    b.parts(&buffer, &headers),
                )),
                rest => leaves.extend(rest.iter().map(|plan| plan.leaf(&buffer, &headers))),
            }
        }
        let tree = Tree::new(leaves.iter().map(tree::leaf_node).collect());
        let signature = self.key.sign(
            Tag::Batch,
            &[&self.credential_hash, &count.to_be_bytes(), &tree.root()],
        );
        let mut end = 0;
        for (plan, index) in plans.iter().zip(0..count) {
            end += plan.len;
            let start = end - plan.proof_len;
            let mut room = Room::new(buffer.get_mut(start..end).unwrap_or_default());
            Proof::write(&mut room, index, count, &tree, &signature);
            debug_assert!(room.is_full());
        }

        let buffer = Bytes::from(buffer);
        self.buffers.keep(&buffer);
        let mut start = 0;
        Ok(plans
            .iter()
            .zip(leaves)
            .map(|(plan, leaf)| {
                let bytes = buffer.slice(start..start + plan.len);
                start += plan.len;
                Sealed {
                    bytes,
                    leaf,
                    sequence: plan.sequence,
                }
            })
            .collect())
    }

    fn stamp<'a>(
        &self,
        unit: &SealUnit<'a>,
        fields: FieldSet,
        sequence: u64,
    ) -> Result<(Stamp<'a>, Option<Nonce>), SealError> {
        let nonce = match unit.draft.encryption {
            Some(encryption) => Some(encryption.key.take_nonce(encryption.process)?),
            None => None,
        };
        let stamp = Stamp {
            key_id: self.key_id,
            epoch: self.epoch,
            sequence,
            token_hash: unit.draft.token.map(|token| sha256(&[token])),
            original_hash: unit.draft.original.map(|token| sha256(&[token])),
            nonce: nonce.as_ref().map(|nonce| *nonce.as_bytes()),
            fields,
            messages: unit.messages,
        };
        Ok((stamp, nonce))
    }

    /// Finds what can be wrong with it; tells which fields its header has.
    fn check_unit(&self, unit: &SealUnit<'_>) -> Result<FieldSet, SealError> {
        let (draft, messages) = (unit.draft, unit.messages.len());
        let fields = draft.check()?;
        if draft.expires_at > self.expires_at {
            return Err(SealError::OutlivesCredential);
        }
        if draft
            .data_key()
            .is_some_and(|key| key.epoch() != self.epoch)
        {
            return Err(SealError::ForeignKey);
        }
        if !(1..=MAX_FRAME).contains(&messages) {
            return Err(SealError::FrameSize {
                limit: MAX_FRAME,
                actual: messages,
            });
        }
        if messages > 1 && !header::is_framable(draft.kind, fields) {
            return Err(SealError::NotFramable);
        }
        Ok(fields)
    }

    /// Takes `count` sequence numbers and returns the first.
    fn draw(&self, count: u64) -> Result<u64, SealError> {
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                next.checked_add(count)
            })
            .map_err(|_| SealError::Exhausted)
    }
}

/// Buffers of batches before, which are used again once their last envelope is written:
/// large ones would go back to the system each time, and come again as pages that have
/// to be mapped and cleared.
#[derive(Default)]
struct Buffers(Mutex<VecDeque<Bytes>>);

impl Buffers {
    /// Smaller ones the allocator has at hand.
    const LEAST: usize = 32 * 1_024;
    /// Larger ones are not held for long.
    const MOST: usize = 512 * 1_024;
    /// So many batches may be on their way to the connection before one is made anew.
    const MANY: usize = 4;

    /// An empty buffer with that much room.
    fn take(&self, room: usize) -> Vec<u8> {
        if room < Self::LEAST {
            return Vec::with_capacity(room);
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = kept.iter().position(Bytes::is_unique);
        let mut buffer = match free.and_then(|at| kept.remove(at)?.try_into_mut().ok()) {
            None => Vec::new(),
            Some(mut free) => {
                free.clear();
                Vec::from(free)
            }
        };
        drop(kept);
        buffer.reserve_exact(room);
        buffer
    }

    /// Keeps a buffer that is going to be sent.
    fn keep(&self, buffer: &Bytes) {
        if (Self::LEAST..=Self::MOST).contains(&buffer.len()) {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= Self::MANY {
                kept.pop_front();
            }
            kept.push_back(buffer.clone());
        }
    }
}

/// Shows which it is and how long: what is only signed can be read in its bytes.
impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed")
            .field("leaf", &self.leaf)
            .field("sequence", &self.sequence)
            .field("len", &self.bytes.len())
            .finish()
    }
}

/// Shows nothing of what was sealed.
impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffers")
    }
}

/// What one leaf of the tree covers: a frame of one or more messages.
#[derive(Debug, Clone, Copy)]
pub struct SealUnit<'a> {
    /// What they share. Its body is not looked at: the messages bring theirs.
    pub draft: &'a Draft<'a>,
    /// 1 to 64, more than one only for events without a reply subject.
    pub messages: &'a [FrameMessage<'a>],
}

/// Room for a header that most do not exceed.
const TYPICAL_HEADER: usize = 256;

/// Which proof there must be room for.
#[derive(Clone, Copy)]
enum ProofRoom {
    Batch { index: u32, count: u32 },
    Mac,
}

/// One envelope with all its lengths known.
struct Plan<'a> {
    draft: &'a Draft<'a>,
    messages: &'a [FrameMessage<'a>],
    sequence: u64,
    /// What the body is encrypted with, once.
    nonce: Option<Nonce>,
    /// Where the header lies among those of the batch.
    header: Range<usize>,
    /// What the messages take.
    content_len: usize,
    /// That, or what it takes encrypted.
    body_len: usize,
    /// Where that was written.
    body: Range<usize>,
    proof_len: usize,
    len: usize,
}

impl<'a> Plan<'a> {
    /// Writes the header to the end of `headers`.
    fn new(
        unit: &SealUnit<'a>,
        stamp: &Stamp<'_>,
        headers: &mut Vec<u8>,
        proof: ProofRoom,
    ) -> Result<Self, SealError> {
        let measure = |write: &dyn Fn(&mut Length)| {
            let mut length = Length::default();
            write(&mut length);
            length.0
        };
        let draft = unit.draft;
        let start = headers.len();
        header::encode(headers, draft, stamp);
        let header = start..headers.len();
        if header.len() > MAX_HEADER {
            return Err(SealError::HeaderTooLong {
                limit: MAX_HEADER,
                actual: header.len(),
            });
        }
        let content_len = measure(&|out| write_content(out, unit.messages));
        let proof_len = match proof {
            ProofRoom::Batch { index, count } => Proof::len(index, count),
            ProofRoom::Mac => Proof::MAC_LEN,
        };
        let mut plan = Self {
            draft,
            messages: unit.messages,
            sequence: stamp.sequence,
            nonce: None,
            header,
            content_len,
            body_len: content_len,
            body: 0..0,
            proof_len,
            len: 0,
        };
        if draft.encryption.is_some() {
            plan.body_len = measure(&|out| plan.write_plaintext(out)) + TAG_LEN;
        }
        let written = headers.get(plan.header.clone()).unwrap_or_default();
        let mut length = Length::default();
        plan.write_before_body(&mut length, written);
        plan.len = length.0 + plan.body_len + measure(&|out| plan.write_ancestry(out)) + proof_len;
        if plan.len > MAX_ENVELOPE {
            return Err(SealError::TooLarge {
                limit: MAX_ENVELOPE,
                actual: plan.len,
            });
        }
        Ok(plan)
    }

    /// Writes the envelope with room for the proof.
    fn write(&mut self, buffer: &mut Vec<u8>, headers: &[u8]) {
        let start = buffer.len();
        let header = headers.get(self.header.clone()).unwrap_or_default();
        self.write_before_body(buffer, header);
        let body = buffer.len();
        match (self.draft.encryption, self.nonce.take()) {
            (Some(encryption), Some(nonce)) => {
                self.write_plaintext(buffer);
                let (before, plaintext) = buffer.split_at_mut(body);
                let mut aad = Length::default();
                self.write_up_to_header(&mut aad, header);
                let aad = before.get(start..start + aad.0);
                let key = encryption.key;
                let tag = key.encrypt(nonce, aad.unwrap_or_default(), plaintext);
                buffer.extend_from_slice(&tag);
            }
            (None, _) => write_content(buffer, self.messages),
            // Never: `Sealer::stamp` takes a nonce for each encrypted draft. If
            // it did not, the body would be zeros, and not in the clear.
            (Some(_), None) => buffer.resize(body + self.body_len, 0),
        }
        self.body = body..body + self.body_len;
        self.write_ancestry(buffer);
        buffer.resize(buffer.len() + self.proof_len, 0);
    }

    /// Header and body as they were written.
    fn parts<'b>(&self, buffer: &'b [u8], headers: &'b [u8]) -> (&'b [u8], &'b [u8]) {
        let header = headers.get(self.header.clone());
        let body = buffer.get(self.body.clone());
        (header.unwrap_or_default(), body.unwrap_or_default())
    }

    fn leaf(&self, buffer: &[u8], headers: &[u8]) -> LeafHash {
        let (header, body) = self.parts(buffer, headers);
        tree::leaf(header, body)
    }

    /// Writes what a ciphertext is bound to: everything up to the header's end.
    fn write_up_to_header(&self, out: &mut impl Sink, header: &[u8]) {
        writer::array(out, 5 + u32::from(self.draft.ancestry.is_some()));
        writer::uint(out, u64::from(VERSION));
        writer::bin(out, header);
    }

    /// Writes everything before the body.
    fn write_before_body(&self, out: &mut impl Sink, header: &[u8]) {
        self.write_up_to_header(out, header);
        write_token(out, self.draft.outer_token());
        writer::bin_header(out, self.body_len);
    }

    fn write_ancestry(&self, out: &mut impl Sink) {
        if let Some(ancestry) = self.draft.ancestry {
            writer::bin(out, ancestry.as_bytes());
        }
    }

    /// What is encrypted: the token, the content, and the client's own token if it
    /// comes along (ENV-16, ENV-114).
    fn write_plaintext(&self, out: &mut impl Sink) {
        writer::array(out, 2 + u32::from(self.draft.original.is_some()));
        write_token(out, self.draft.inner_token());
        writer::bin_header(out, self.content_len);
        write_content(out, self.messages);
        if let Some(original) = self.draft.original {
            writer::bin(out, original);
        }
    }
}

fn write_token(out: &mut impl Sink, token: Option<&[u8]>) {
    match token {
        Some(token) => writer::bin(out, token),
        None => writer::nil(out),
    }
}

/// The body of a frame of one is the message's; of more, an array of theirs.
fn write_content(out: &mut impl Sink, messages: &[FrameMessage<'_>]) {
    if let [alone] = messages {
        out.put(alone.body);
    } else {
        writer::array(out, u32::try_from(messages.len()).unwrap_or(u32::MAX));
        for message in messages {
            writer::bin(out, message.body);
        }
    }
}

/// The proof as it is written: array of index, count, path, signature.
struct Proof;

impl Proof {
    /// Array head, a code.
    const MAC_LEN: usize = 1 + 2 + 32;

    /// Array head, two integers, ten nodes, a signature.
    const MAX_LEN: usize = 1 + 2 * 3 + 2 + 10 * NODE_LEN + 2 + 64;

    fn len(index: u32, count: u32) -> usize {
        let mut length = Length::default();
        Self::write_head(&mut length, index, count);
        length.0 + tree::path_len(index, count) * NODE_LEN + 2 + 64
    }

    fn write(out: &mut impl Sink, index: u32, count: u32, tree: &Tree, signature: &Signature) {
        Self::write_head(out, index, count);
        for node in tree.path(index as usize) {
            out.put(node);
        }
        writer::bin(out, signature.as_bytes());
    }

    fn write_head(out: &mut impl Sink, index: u32, count: u32) {
        writer::array(out, 4);
        writer::uint(out, u64::from(index));
        writer::uint(out, u64::from(count));
        writer::bin_header(out, tree::path_len(index, count) * NODE_LEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulla_identity::Subject;

    /// What is still to be written is never written over, whatever comes meanwhile;
    /// what was written gives its buffer back.
    #[test]
    fn a_buffer_is_used_again_when_nobody_holds_it() {
        let buffers = Buffers::default();
        let sealed = |byte, room| {
            let mut buffer = buffers.take(room);
            assert!(buffer.is_empty() && buffer.capacity() >= room);
            buffer.resize(room, byte);
            let buffer = Bytes::from(buffer);
            buffers.keep(&buffer);
            buffer
        };
        let room = Buffers::LEAST;
        let held: Vec<Bytes> = (0..20).map(|n| sealed(n, room).slice(7..9)).collect();
        for (n, held) in (0..).zip(&held) {
            assert_eq!(held[..], [n, n]);
        }
        drop(held);
        let first = sealed(1, room);
        let place = first.as_ptr();
        drop(first);
        let places: Vec<_> = (0..Buffers::MANY)
            .map(|_| sealed(2, room).as_ptr())
            .collect();
        assert!(places.contains(&place), "it was used again");
        // More room than it had.
        assert_eq!(sealed(3, Buffers::MOST).len(), Buffers::MOST);
        let small = sealed(4, room - 1);
        let large = sealed(5, Buffers::MOST + 1);
        assert!(small.is_unique() && large.is_unique(), "neither is kept");
        let kept = buffers.0.lock().unwrap();
        assert!(kept.len() <= Buffers::MANY);
    }

    /// The counter ends, it does not start again.
    #[test]
    fn exhaustion_is_an_error() {
        let sealer = Sealer {
            key: SigningKey::from_seed(&[1; 32]),
            key_id: KeyId([0; 16]),
            credential_hash: [0; 32],
            expires_at: UnixMillis::from_millis(10),
            epoch: Epoch([0; 8]),
            next: AtomicU64::new(u64::MAX - 3),
            buffers: Buffers::default(),
        };
        let to = Subject::parse("a").unwrap();
        let now = UnixMillis::from_millis(1);
        let draft = Draft::event(&to, now, now, b"");
        let id = MessageId([0; 16]);
        let batch = |count| {
            sealer
                .seal_batch(&vec![(draft.clone(), id); count])
                .map(drop)
        };
        assert_eq!(batch(4), Err(SealError::Exhausted));
        assert_eq!(batch(2), Ok(()));
        let last = sealer.seal(&draft, id).unwrap();
        assert_eq!(last.sequence, u64::MAX - 1);
        assert!(crate::SealedEnvelope::decode(last.bytes).is_ok());
        for _ in 0..3 {
            assert_eq!(sealer.seal(&draft, id).unwrap_err(), SealError::Exhausted);
        }
    }
}

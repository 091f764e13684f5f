//! The messages that led to one, which prove the chain of calls that a user's
//! token came through. SPEC.md, ENV-80 to ENV-88.
//!
//! ```text
//! edge ── A ──► orders ── B, parent = leaf(A), shows A ──► billing ── C, parent = leaf(B), shows B, A ──► bank
//! ```
//!
//! Of each ancestor the header, the hash of the body and the proof: enough for
//! its leaf, and thus for its signature. None of it is covered by the signature
//! of the envelope that carries it, and nothing could be put in its place: the
//! signed header names the parent's leaf, the parent's header that of its own
//! parent, and the last has none.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use bulla_identity::{UnixMillis, Verified};
use bulla_keyring::{KeyId, sha256};

use crate::format::Kind;
use crate::header::Header;
use crate::limits::{MAX_ANCESTORS, MAX_ANCESTRY, MAX_HEADER, MAX_LIFE};
use crate::reader::{Reader, Span};
use crate::sealed::{BatchProof, Parts, Proof};
use crate::tree;
use crate::writer::{self, Length, Sink};
use crate::{
    CheckedEnvelope, DecodeError, LeafHash, Limits, OpenedEnvelope, Sender, VerifiedCredential,
    VerifiedRoots, VerifyError,
};

/// Why bytes are not the ancestors of the envelope that shows them, or cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AncestryError {
    /// A kind of envelope that shows none.
    #[error("only events and requests show their ancestors")]
    Kind,
    /// The element is there and holds nothing.
    #[error("no ancestors where some are announced")]
    Empty,
    /// An ancestor that is neither an event nor a request.
    #[error("an ancestor is an event or a request")]
    AncestorKind,
    /// An ancestor without a signature.
    #[error("an ancestor is signed")]
    NotSigned,
    /// The leaf is not the one that the message after it names as its parent.
    #[error("an ancestor is not the parent of the message after it")]
    Unlinked,
    /// The last one has a parent, which is not shown.
    #[error("the first message of the chain is not shown")]
    Incomplete,
    /// One more would be too many.
    #[error("a chain of more than {limit} earlier messages")]
    TooMany {
        /// [`MAX_ANCESTORS`].
        limit: usize,
    },
    /// They would be too long.
    #[error("ancestors of {actual} bytes, more than {limit}")]
    TooLong {
        /// [`MAX_ANCESTRY`].
        limit: usize,
        /// What they take.
        actual: usize,
    },
}

impl AncestryError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Kind => "ancestry_kind",
            Self::Empty => "ancestry_empty",
            Self::AncestorKind => "ancestor_kind",
            Self::NotSigned => "ancestor_not_signed",
            Self::Unlinked => "ancestor_unlinked",
            Self::Incomplete => "ancestry_incomplete",
            Self::TooMany { .. } => "ancestry_too_many",
            Self::TooLong { .. } => "ancestry_too_long",
        }
    }
}

/// Why a chain does not prove what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The message carries no user: there is no token whose way could be proven.
    #[error("a message without a user has no chain")]
    NoUser,
    /// It names a parent and shows none.
    #[error("it was sent because of another message and does not show it")]
    Missing,
    /// Fewer or more are proven than are shown.
    #[error("not every ancestor is proven")]
    Unproven,
    /// An ancestor's proof does not verify.
    #[error("an ancestor is not authentic")]
    Verify(#[from] VerifyError),
    /// An ancestor that would have been valid for longer than its sender's
    /// credential, or than any envelope.
    #[error("an ancestor outlives what it may")]
    Outlives,
    /// An ancestor carries another token, or none.
    #[error("the user's token changes on the way")]
    TokenChanged,
    /// A message narrows the user less than the one before it.
    #[error("the user's limits widen on the way")]
    LimitsWidened,
    /// A message from before its parent.
    #[error("a message is older than the one that led to it")]
    OutOfOrder,
    /// A message from after its parent's end.
    #[error("a message was sent when the one that led to it was over")]
    ParentOver,
    /// The first message is not by the workload that the token was minted by.
    #[error("the chain does not begin where the user's token was minted")]
    ForeignStart,
}

impl ChainError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoUser => "chain_no_user",
            Self::Missing => "chain_missing",
            Self::Unproven => "chain_unproven",
            Self::Verify(_) => "chain_not_authentic",
            Self::Outlives => "chain_outlives",
            Self::TokenChanged => "chain_token_changed",
            Self::LimitsWidened => "chain_limits_widened",
            Self::OutOfOrder => "chain_out_of_order",
            Self::ParentOver => "chain_parent_over",
            Self::ForeignStart => "chain_foreign_start",
        }
    }
}

/// Ancestors as they travel, the nearest first. Made by [`Lineage::ancestry`].
#[derive(Clone)]
pub struct Ancestry {
    bytes: Bytes,
    nearest: LeafHash,
}

impl Ancestry {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes they take.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The message in whose handling the next one is sent.
    #[must_use]
    pub const fn nearest(&self) -> LeafHash {
        self.nearest
    }

    /// Whether an envelope of this kind and with this parent may show them.
    pub(crate) fn check_child(
        &self,
        kind: Kind,
        parent: Option<LeafHash>,
    ) -> Result<(), AncestryError> {
        check_kind(kind)?;
        if parent == Some(self.nearest) {
            Ok(())
        } else {
            Err(AncestryError::Unlinked)
        }
    }
}

/// What a received message has to be kept for: that messages sent in its
/// handling can show it. Points into the envelope's bytes, which it keeps alive.
#[derive(Clone)]
pub struct Lineage {
    bytes: Bytes,
    kind: Kind,
    leaf: LeafHash,
    header: Span,
    body: Span,
    proof: Span,
    ancestry: Option<Span>,
    ancestors: usize,
    is_complete: bool,
}

impl Lineage {
    /// What a message that is sent in its handling shows: this one, and what it
    /// showed itself. Hashes the body; costs no signature.
    ///
    /// # Errors
    /// [`AncestryError::AncestorKind`] of a reply; [`AncestryError::Incomplete`] if this message was sent because of another
    /// and does not show it; [`AncestryError::TooMany`] and
    /// [`AncestryError::TooLong`] at the end of what can be shown.
    pub fn ancestry(&self) -> Result<Ancestry, AncestryError> {
        check_kind(self.kind).map_err(|_| AncestryError::AncestorKind)?;
        if !self.is_complete {
            return Err(AncestryError::Incomplete);
        }
        let count = self.ancestors + 1;
        if count > MAX_ANCESTORS {
            let limit = MAX_ANCESTORS;
            return Err(AncestryError::TooMany { limit });
        }
        let body = sha256(&[self.body.of(&self.bytes)]);
        let mut length = Length::default();
        self.write(&mut length, count, &body);
        if length.0 > MAX_ANCESTRY {
            return Err(AncestryError::TooLong {
                limit: MAX_ANCESTRY,
                actual: length.0,
            });
        }
        let mut bytes = Vec::with_capacity(length.0);
        self.write(&mut bytes, count, &body);
        Ok(Ancestry {
            bytes: bytes.into(),
            nearest: self.leaf,
        })
    }

    fn write(&self, out: &mut impl Sink, count: usize, body: &[u8; 32]) {
        writer::array(out, u32::try_from(count).unwrap_or(u32::MAX));
        writer::array(out, 3);
        writer::bin(out, self.header.of(&self.bytes));
        writer::bin(out, body);
        // As it was received: index, count, path, signature.
        out.put(self.proof.of(&self.bytes));
        if let Some(earlier) = self.ancestry {
            // Without the head of their array, one byte for at most eight.
            let earlier = earlier.of(&self.bytes);
            out.put(earlier.get(1..).unwrap_or_default());
        }
    }
}

/// Shows which message, never what it says.
impl fmt::Debug for Ancestry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ancestry").field(&self.nearest).finish()
    }
}

/// Shows which message, never what it says.
impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lineage").field(&self.leaf).finish()
    }
}

/// An ancestor that was decoded and is linked to the message after it.
#[derive(Debug, Clone)]
pub(crate) struct LinkedAncestor {
    header: Header,
    proof: BatchProof,
    leaf: LeafHash,
}

/// Decodes the ancestors of an envelope with this header, strictly, and links
/// each to the one after it (ENV-81, ENV-82).
pub(crate) fn decode(
    bytes: &[u8],
    span: Span,
    child: &Header,
) -> Result<Vec<LinkedAncestor>, DecodeError> {
    check_kind(child.kind)?;
    let mut reader = Reader::within(bytes, span);
    let count = reader.array(MAX_ANCESTORS)?;
    if count == 0 {
        return Err(AncestryError::Empty.into());
    }
    let mut ancestors = Vec::with_capacity(count);
    let mut parent = child.parent(bytes);
    for _ in 0..count {
        reader.array_of(3)?;
        let header_span = reader.bin(MAX_HEADER)?;
        let header = Header::decode(bytes, header_span)?;
        let body = reader.bin_of()?;
        let proof = Proof::read(&mut reader)?;
        check_kind(header.kind).map_err(|_| AncestryError::AncestorKind)?;
        let Proof::Batch(proof) = proof else {
            return Err(AncestryError::NotSigned.into());
        };
        let leaf = tree::leaf_over(header_span.of(bytes), &body);
        if parent != Some(leaf) {
            return Err(AncestryError::Unlinked.into());
        }
        parent = header.parent(bytes);
        ancestors.push(LinkedAncestor {
            header,
            proof,
            leaf,
        });
    }
    reader.finish()?;
    if parent.is_some() {
        return Err(AncestryError::Incomplete.into());
    }
    Ok(ancestors)
}

fn check_kind(kind: Kind) -> Result<(), AncestryError> {
    match kind {
        Kind::Event | Kind::Request => Ok(()),
        Kind::Reply | Kind::Error | Kind::KeyWrap => Err(AncestryError::Kind),
    }
}

/// One ancestor of an authentic envelope: certainly the one that is meant, and
/// not yet proven to be authentic itself.
#[derive(Clone, Copy)]
pub struct Ancestor<'a> {
    bytes: &'a [u8],
    linked: &'a LinkedAncestor,
}

/// Shows which it is, not the envelope that shows it.
impl fmt::Debug for Ancestor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ancestor")
            .field("kind", &self.kind())
            .field("key_id", &self.key_id())
            .field("leaf", &self.linked.leaf)
            .finish_non_exhaustive()
    }
}

impl<'a> Ancestor<'a> {
    /// Which credential it says it was sealed under.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.linked.header.key_id
    }

    /// An event or a request.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.linked.header.kind
    }

    /// The subject that it was sealed for.
    #[must_use]
    pub fn subject(&self) -> &'a str {
        self.linked.header.subject.str_of(self.bytes)
    }

    /// When it was sealed, by its sender's clock.
    #[must_use]
    pub const fn issued_at(&self) -> UnixMillis {
        self.linked.header.issued_at
    }

    /// When it expired, by its sender's word.
    #[must_use]
    pub const fn expires_at(&self) -> UnixMillis {
        self.linked.header.expires_at
    }

    /// What names it, and what it is found by in an audit.
    #[must_use]
    pub const fn leaf(&self) -> LeafHash {
        self.linked.leaf
    }

    /// The message that led to it, and is shown next; none of the first.
    #[must_use]
    pub fn parent(&self) -> Option<LeafHash> {
        self.linked.header.parent(self.bytes)
    }

    /// What narrowed the user's authority.
    #[must_use]
    pub fn limits(&self) -> Option<&'a [u8]> {
        let span = self.linked.header.limits()?;
        Some(span.of(self.bytes))
    }

    /// Until when something may have been sent in its handling, where its subject
    /// allows messages of this age.
    #[must_use]
    pub fn over_at(&self, max_age: Duration) -> UnixMillis {
        self.issued_at()
            .saturating_add(max_age)
            .min(self.expires_at())
    }

    /// Proves that the holder of `credential` sealed it.
    ///
    /// # Errors
    /// [`ChainError::Verify`] if it did not, [`ChainError::Outlives`] if the
    /// ancestor was to be valid for longer than it may.
    ///
    /// # Security
    /// `credential` is what it was when the ancestor was issued, under the trust,
    /// the policy and the revocations of now.
    pub fn verify(
        &self,
        credential: &VerifiedCredential,
        roots: &VerifiedRoots,
    ) -> Result<Verified<Sender>, ChainError> {
        let LinkedAncestor {
            header,
            proof,
            leaf,
        } = self.linked;
        if header.key_id != credential.id() {
            return Err(VerifyError::WrongCredential.into());
        }
        proof.verify(self.bytes, leaf, credential, Some(roots))?;
        if header.expires_at > credential.expires_at()
            || header.expires_at > header.issued_at.saturating_add(MAX_LIFE)
        {
            return Err(ChainError::Outlives);
        }
        Ok(Verified::danger_assert(Sender {
            workload: credential.workload().clone(),
            key_id: credential.id(),
        }))
    }
}

fn shown(sealed: &Parts) -> impl ExactSizeIterator<Item = Ancestor<'_>> {
    sealed.ancestors.iter().map(|linked| Ancestor {
        bytes: &sealed.bytes,
        linked,
    })
}

impl CheckedEnvelope {
    /// As [`OpenedEnvelope::ancestors`], for who cannot read it.
    pub fn ancestors(&self) -> impl ExactSizeIterator<Item = Ancestor<'_>> {
        shown(self.sealed())
    }
}

impl OpenedEnvelope {
    /// The messages that led to this one, the nearest first, as far as it shows them.
    pub fn ancestors(&self) -> impl ExactSizeIterator<Item = Ancestor<'_>> {
        shown(self.sealed())
    }

    /// What messages that are sent in the handling of this one are made from.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        let sealed = self.sealed();
        Lineage {
            bytes: sealed.bytes.clone(),
            kind: sealed.header.kind,
            leaf: self.leaf(),
            header: sealed.header_span,
            body: sealed.body,
            proof: sealed.proof_span,
            ancestry: sealed.ancestry,
            ancestors: sealed.ancestors.len(),
            is_complete: !sealed.header.has_parent() || !sealed.ancestors.is_empty(),
        }
    }

    /// Checks that this message and its ancestors are one chain in which the
    /// user's token went from its minter to here (ENV-83 to ENV-86).
    ///
    /// `senders` are those of the ancestors, in their order, as
    /// [`Ancestor::verify`] has proven them; `minter` is the id of the workload that minted
    /// the user's token; `over_at` says until when something may have been sent in the
    /// handling of an ancestor. What each sender may do is not asked here.
    ///
    /// # Errors
    /// [`ChainError`] names the first thing that does not fit.
    pub fn check_chain(
        &self,
        senders: &[Verified<Sender>],
        minter: &str,
        skew: Duration,
        over_at: impl Fn(&Ancestor<'_>) -> UnixMillis,
    ) -> Result<(), ChainError> {
        let sealed = self.sealed();
        let Some(token) = sealed.header.token_hash(&sealed.bytes) else {
            return Err(ChainError::NoUser);
        };
        if sealed.ancestors.is_empty() && sealed.header.has_parent() {
            return Err(ChainError::Missing);
        }
        if senders.len() != sealed.ancestors.len() {
            return Err(ChainError::Unproven);
        }
        let mut child = &sealed.header;
        for ancestor in self.ancestors() {
            let parent = &ancestor.linked.header;
            if parent.token_hash(&sealed.bytes) != Some(token) {
                return Err(ChainError::TokenChanged);
            }
            let limits = child.limits().map(|span| span.of(&sealed.bytes));
            if !narrows(limits, ancestor.limits()) {
                return Err(ChainError::LimitsWidened);
            }
            if parent.issued_at > child.issued_at.saturating_add(skew) {
                return Err(ChainError::OutOfOrder);
            }
            if child.issued_at > over_at(&ancestor).saturating_add(skew) {
                return Err(ChainError::ParentOver);
            }
            child = parent;
        }
        let first = senders.last().unwrap_or_else(|| self.sender());
        if first.workload.as_str() == minter {
            Ok(())
        } else {
            Err(ChainError::ForeignStart)
        }
    }
}

/// Whether the limits of a message keep nothing that those of the one before it
/// took away (ENV-112). Both were decoded with their headers.
fn narrows(child: Option<&[u8]>, parent: Option<&[u8]>) -> bool {
    let Some(parent) = parent else { return true };
    let Some(child) = child else { return false };
    match (Limits::decode(child), Limits::decode(parent)) {
        (Ok(child), Ok(parent)) => child == parent || child.narrows(&parent),
        _ => false,
    }
}

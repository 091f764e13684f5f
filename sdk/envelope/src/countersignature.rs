//! By what a workload vouches for a statement about its keys. SPEC.md, ENV-50 and
//! ENV-120 to ENV-122.
//!
//! ```text
//! countersignature = [ nkey (32), signature (64) ]             by its nkey
//!                  | [ [ certificate … ], signature (64) ]     by its certificate
//! ```

use bulla_identity::{Nkey, NkeyKind, UnixMillis, WorkloadId};
use bulla_keyring::{
    Anchors, CertificateChain, CertificateError, CertifiedKey, MAX_CHAIN, MAX_CHAIN_BYTES,
    NkeySeed, Signature, SigningError, Tag, VerifyingKey,
};

use crate::reader::{EncodingError, Reader};
use crate::writer;

/// What vouches for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Countersignature {
    Nkey(NkeySignature),
    Certificate(CertificateSignature),
}

/// By one of the workload's own nkeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NkeySignature {
    nkey: Nkey,
    signature: Signature,
}

/// By the key of a certificate of the workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateSignature {
    chain: CertificateChain,
    signature: Signature,
}

/// Why nothing that the policy names vouches for a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CountersignatureError {
    /// The policy lets nothing vouch for that workload.
    #[error("the policy names nothing that vouches for the workload")]
    NoAnchor,
    /// There is none.
    #[error("the workload's countersignature is missing")]
    Missing,
    /// By an nkey that is not the workload's, or that does not vouch for it.
    #[error("the countersignature is by an nkey that does not vouch for the workload")]
    ForeignNkey,
    /// By a certificate, where the policy lists no authority for the workload.
    #[error("the policy lists no certificate authority for the workload")]
    NoAuthority,
    /// By a certificate that does not count.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It does not verify.
    #[error("the countersignature does not verify")]
    BadSignature,
}

impl CountersignatureError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoAnchor => "no_anchor",
            Self::Missing => "countersignature_missing",
            Self::ForeignNkey => "foreign_nkey",
            Self::NoAuthority => "no_authority",
            Self::Certificate(error) => error.code(),
            Self::BadSignature => "bad_countersignature",
        }
    }
}

/// What a request says, as far as a countersignature depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vouched<'a> {
    pub(crate) workload: &'a WorkloadId,
    pub(crate) statement: &'a [u8],
    pub(crate) requested_at: UnixMillis,
}

impl Countersignature {
    pub(crate) fn by_nkey(seed: &NkeySeed, statement: &[u8]) -> Self {
        Self::Nkey(NkeySignature::by(seed, Tag::Countersignature, statement))
    }

    pub(crate) fn by_certificate(
        key: &CertifiedKey,
        statement: &[u8],
    ) -> Result<Self, SigningError> {
        let signature = key.sign(Tag::CertificateCountersignature, &[statement])?;
        Ok(Self::Certificate(CertificateSignature {
            chain: key.chain().clone(),
            signature,
        }))
    }

    /// Proves that one of `anchors` vouches for the request, and tells until when
    /// it can: a certificate no longer than it is valid, an nkey without end.
    pub(crate) fn verify(
        this: Option<&Self>,
        request: Vouched<'_>,
        anchors: Anchors<'_>,
    ) -> Result<Option<UnixMillis>, CountersignatureError> {
        if anchors.is_empty() {
            return Err(CountersignatureError::NoAnchor);
        }
        let by = match this {
            Some(by) => by,
            // A broker has seen a proof that signs nothing (ENV-123).
            None if anchors.brokers => return Ok(None),
            None => return Err(CountersignatureError::Missing),
        };
        match by {
            Self::Nkey(by) => by
                .verify(Tag::Countersignature, request.statement, anchors.nkeys)
                .map(|()| None),
            Self::Certificate(by) => by.verify(request, anchors).map(Some),
        }
    }

    pub(crate) fn write(this: Option<&Self>, out: &mut Vec<u8>) {
        match this {
            Some(Self::Nkey(by)) => by.write(out),
            Some(Self::Certificate(by)) => by.write(out),
            None => writer::nil(out),
        }
    }

    /// How many bytes [`Self::write`] appends, about.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Nkey(_) => 100,
            Self::Certificate(by) => by.chain.iter().map(|der| der.len() + 3).sum::<usize>() + 70,
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, EncodingError> {
        if reader.take_nil() {
            return Ok(None);
        }
        reader.array_of(2)?;
        Ok(Some(if reader.is_array() {
            Self::Certificate(CertificateSignature {
                chain: read_chain(reader)?,
                signature: Signature::from_bytes(reader.bin_of()?),
            })
        } else {
            Self::Nkey(NkeySignature::read_pair(reader)?)
        }))
    }
}

/// One to four certificates, in 4 KiB together.
fn read_chain(reader: &mut Reader<'_>) -> Result<CertificateChain, EncodingError> {
    let count = reader.array(MAX_CHAIN)?;
    let mut certificates = Vec::with_capacity(count);
    let mut room = MAX_CHAIN_BYTES;
    for _ in 0..count {
        let bytes = reader.bin(room)?;
        room = room.saturating_sub(bytes.len());
        certificates.push(bytes.of(reader.bytes()).to_vec());
    }
    // What is left to refuse is an empty array.
    CertificateChain::new(certificates).map_err(|_| EncodingError::WrongLength {
        expected: 1,
        actual: count,
    })
}

impl NkeySignature {
    pub(crate) fn by(seed: &NkeySeed, tag: Tag, statement: &[u8]) -> Self {
        Self {
            nkey: seed.public(),
            signature: seed.sign(tag, &[statement]),
        }
    }

    pub(crate) const fn nkey(&self) -> &Nkey {
        &self.nkey
    }

    /// Proves that one of `anchors` signed the statement.
    pub(crate) fn verify(
        &self,
        tag: Tag,
        statement: &[u8],
        anchors: &[Nkey],
    ) -> Result<(), CountersignatureError> {
        if !anchors.contains(&self.nkey) {
            return Err(CountersignatureError::ForeignNkey);
        }
        VerifyingKey::from_nkey(&self.nkey)
            .map_err(|_| CountersignatureError::BadSignature)?
            .verify(tag, &[statement], &self.signature)
            .map_err(|_| CountersignatureError::BadSignature)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        writer::array(out, 2);
        writer::bin(out, self.nkey.bytes());
        writer::bin(out, self.signature.as_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, EncodingError> {
        if reader.take_nil() {
            return Ok(None);
        }
        reader.array_of(2)?;
        Self::read_pair(reader).map(Some)
    }

    fn read_pair(reader: &mut Reader<'_>) -> Result<Self, EncodingError> {
        Ok(Self {
            nkey: Nkey::from_bytes(NkeyKind::User, reader.bin_of()?),
            signature: Signature::from_bytes(reader.bin_of()?),
        })
    }
}

impl CertificateSignature {
    fn verify(
        &self,
        request: Vouched<'_>,
        anchors: Anchors<'_>,
    ) -> Result<UnixMillis, CountersignatureError> {
        if anchors.authorities.is_empty() {
            return Err(CountersignatureError::NoAuthority);
        }
        let leaf =
            self.chain
                .verify(request.workload, anchors.authorities, request.requested_at)?;
        let tag = Tag::CertificateCountersignature;
        leaf.verify_signature(tag, &[request.statement], &self.signature)
            .map_err(|_| CountersignatureError::BadSignature)?;
        Ok(leaf.not_after())
    }

    fn write(&self, out: &mut Vec<u8>) {
        writer::array(out, 2);
        writer::array(
            out,
            u32::try_from(self.chain.iter().len()).unwrap_or(u32::MAX),
        );
        for certificate in self.chain.iter() {
            writer::bin(out, certificate);
        }
        writer::bin(out, self.signature.as_bytes());
    }
}

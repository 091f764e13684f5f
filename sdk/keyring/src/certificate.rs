//! X.509 certificates by which a workload vouches: X.509-SVIDs ([SPIFFE X509-SVID]).
//!
//! A chain is what the workload shows, leaf first; the authorities are what the
//! policy names. Paths are verified by rustls-webpki; what it leaves to its
//! caller, the names, the key usage and the validity of all certificates over a
//! span of time, is verified here, by SPEC.md of the envelope, ENV-121.
//!
//! What is deliberately absent: revocation lists and OCSP. A workload, and one
//! of its keys, is revoked by the operator's own list, and an authority by a
//! policy that no longer names it.
//!
//! [SPIFFE X509-SVID]: https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use bulla_identity::{UnixMillis, WorkloadId};
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::aws_lc_rs as algorithms;
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519};
use x509_parser::prelude::FromDer as _;

use crate::{BadSignature, Signature, Tag, VerifyingKey, sha256};

/// Most certificates of a chain, the leaf included.
pub const MAX_CHAIN: usize = 4;
/// Most bytes of a chain, all certificates together.
pub const MAX_CHAIN_BYTES: usize = 4 * 1024;
/// Most certificates under one name in a policy.
pub const MAX_AUTHORITIES: usize = 16;

/// The certificate authorities that a policy has under one name.
#[derive(Clone)]
pub struct CertificateAuthorities {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// Why a text does not name certificate authorities. Never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    /// There is no certificate in it.
    #[error("there is no `-----BEGIN CERTIFICATE-----` in it")]
    Empty,
    /// Not PEM.
    #[error("the PEM is malformed")]
    Pem,
    /// A private key, a request, or what else PEM can hold.
    #[error("it holds something else than certificates")]
    NotOnlyCertificates,
    /// A private key, which has to be replaced now.
    #[error("it holds a private key")]
    PrivateKey,
    /// More than [`MAX_AUTHORITIES`].
    #[error("more than {MAX_AUTHORITIES} certificates")]
    TooMany,
    /// Not an X.509 certificate of version 3.
    #[error("certificate {place} is not an X.509 certificate")]
    Malformed {
        /// Which one, counted from 1.
        place: usize,
    },
    /// A certificate that may not issue others.
    #[error("certificate {place} is not a certificate authority's")]
    NotAnAuthority {
        /// Which one, counted from 1.
        place: usize,
    },
}

impl CertificateAuthorities {
    /// The certificates, each as DER, in their order.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(AsRef::as_ref)
    }

    /// Reads PEM: one certificate or several, each allowed to issue others.
    ///
    /// Whether they are still valid is not asked: an authority counts for as
    /// long as the policy names it ([RFC 5280 §6.2]).
    ///
    /// # Errors
    /// [`AuthoritiesError`] names the first thing that does not fit.
    ///
    /// [RFC 5280 §6.2]: https://www.rfc-editor.org/rfc/rfc5280#section-6.2
    pub fn from_pem(text: &str) -> Result<Self, AuthoritiesError> {
        let mut certificates = Vec::new();
        let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes());
        for (section, place) in sections.zip(1usize..) {
            let (kind, bytes) = section.map_err(|_| AuthoritiesError::Pem)?;
            match kind {
                SectionKind::Certificate => {}
                SectionKind::PrivateKey
                | SectionKind::RsaPrivateKey
                | SectionKind::EcPrivateKey => return Err(AuthoritiesError::PrivateKey),
                _ => return Err(AuthoritiesError::NotOnlyCertificates),
            }
            if place > MAX_AUTHORITIES {
                return Err(AuthoritiesError::TooMany);
            }
            certificates.push(CertificateDer::from(bytes));
        }
        if certificates.is_empty() {
            return Err(AuthoritiesError::Empty);
        }
        let mut anchors = Vec::with_capacity(certificates.len());
        for (certificate, place) in certificates.iter().zip(1..) {
            let malformed = AuthoritiesError::Malformed { place };
            let parsed = parse(certificate).ok_or(malformed)?;
            if !may_issue(&parsed).ok_or(malformed)? {
                return Err(AuthoritiesError::NotAnAuthority { place });
            }
            let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|_| malformed)?;
            anchors.push(anchor.to_owned());
        }
        Ok(Self {
            certificates,
            anchors,
        })
    }
}

impl PartialEq for CertificateAuthorities {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

impl Eq for CertificateAuthorities {}

impl fmt::Debug for CertificateAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthorities({})", self.certificates.len())
    }
}

/// Certificates as they came, the leaf first, bounded in number and size.
/// Proves nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificateChain(Vec<CertificateDer<'static>>);

/// More, or larger, certificates than a chain may have; or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chain has 1 to {MAX_CHAIN} certificates in at most {MAX_CHAIN_BYTES} bytes")]
pub struct ChainSize;

/// Why a chain of certificates does not vouch for a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// One of them does not parse.
    #[error("a certificate is malformed")]
    Malformed,
    /// Not exactly one URI among the leaf's names.
    #[error("the certificate does not name exactly one URI")]
    Names,
    /// The URI is another workload's.
    #[error("the certificate is another workload's")]
    OtherWorkload,
    /// Not a client's leaf that may sign, below certificates that may issue.
    #[error("the certificate is not for a client that signs")]
    Usage,
    /// The leaf's key is neither Ed25519 nor ECDSA P-256.
    #[error("the certificate's key is neither Ed25519 nor P-256")]
    Key,
    /// One of them is not valid at the time in question.
    #[error("a certificate was not valid at that time")]
    NotValid,
    /// Each must be issued by the next, the last by an authority.
    #[error("the certificates do not lead to an authority of the policy")]
    Untrusted,
}

impl CertificateError {
    /// A short stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "certificate_malformed",
            Self::Names => "certificate_names",
            Self::OtherWorkload => "certificate_of_another",
            Self::Usage => "certificate_usage",
            Self::Key => "certificate_key",
            Self::NotValid => "certificate_not_valid",
            Self::Untrusted => "certificate_untrusted",
        }
    }
}

/// The leaf of a chain that leads to an authority.
#[derive(Debug)]
pub struct VerifiedLeaf {
    key: LeafKey,
    hash: [u8; 32],
    not_after: UnixMillis,
}

/// A leaf's public key.
enum LeafKey {
    Ed25519(VerifyingKey),
    P256(Box<ParsedPublicKey>),
}

impl fmt::Debug for LeafKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519(_) => "Ed25519",
            Self::P256(_) => "P256",
        })
    }
}

impl CertificateChain {
    /// Bounds certificates, leaf first. They are not parsed.
    ///
    /// # Errors
    /// [`ChainSize`] if there is none, or too much of them.
    pub fn new(certificates: Vec<Vec<u8>>) -> Result<Self, ChainSize> {
        let bytes: usize = certificates.iter().map(Vec::len).sum();
        if !(1..=MAX_CHAIN).contains(&certificates.len()) || bytes > MAX_CHAIN_BYTES {
            return Err(ChainSize);
        }
        Ok(Self(
            certificates.into_iter().map(CertificateDer::from).collect(),
        ))
    }

    /// Reads certificates in PEM, one text each, leaf first.
    ///
    /// # Errors
    /// [`ChainSize`] if one of the texts is no certificate, or as
    /// [`CertificateChain::new`].
    pub fn from_pems<T: AsRef<[u8]>>(texts: &[T]) -> Result<Self, ChainSize> {
        if texts.len() > MAX_CHAIN {
            return Err(ChainSize);
        }
        let one = |text: &T| {
            let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_ref());
            match (sections.next(), sections.next()) {
                (Some(Ok((SectionKind::Certificate, der))), None) => Some(der),
                _ => None,
            }
        };
        let certificates = texts.iter().map(one).collect::<Option<_>>();
        Self::new(certificates.ok_or(ChainSize)?)
    }

    /// The one URI that the leaf names, of which nothing has been proven: only good
    /// for choosing the workload that [`CertificateChain::verify`] is asked about.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`] or [`CertificateError::Names`].
    pub fn claimed_uri(&self) -> Result<String, CertificateError> {
        let leaf = self.0.first().and_then(|leaf| parse(leaf));
        let leaf = leaf.ok_or(CertificateError::Malformed)?;
        only_uri(&leaf).map(str::to_owned)
    }

    /// The certificates' DER, leaf first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.0.iter().map(|certificate| certificate.as_ref())
    }

    /// SHA-256 of the leaf.
    pub(crate) fn leaf_hash(&self) -> [u8; 32] {
        sha256(&[self.0.first().map_or(&[], |leaf| leaf.as_ref())])
    }

    /// Proves that the leaf is `workload`'s, that it was valid at this time, and
    /// that it leads to one of the authorities. ENV-121 has the rules, in this
    /// order.
    ///
    /// # Errors
    /// [`CertificateError`] names the first rule that is broken.
    pub fn verify(
        &self,
        workload: &WorkloadId,
        authorities: &[Arc<CertificateAuthorities>],
        at: UnixMillis,
    ) -> Result<VerifiedLeaf, CertificateError> {
        let parsed = self
            .0
            .iter()
            .map(|certificate| parse(certificate))
            .collect::<Option<Vec<_>>>()
            .ok_or(CertificateError::Malformed)?;
        let (leaf, issuers) = parsed.split_first().ok_or(CertificateError::Malformed)?;
        if only_uri(leaf)? != workload.as_str() {
            return Err(CertificateError::OtherWorkload);
        }
        let usable = is_clients_leaf(leaf)? && issuers.iter().all(|i| may_issue(i) == Some(true));
        let purposes = parsed.iter().map(is_for_clients);
        if !usable || purposes.collect::<Result<Vec<_>, _>>()?.contains(&false) {
            return Err(CertificateError::Usage);
        }
        let key = leaf_key(leaf)?;
        let mut not_after = UnixMillis::from_millis(u64::MAX);
        for certificate in &parsed {
            let (begins, ends) = validity(certificate);
            if !(begins..=ends).contains(&at) {
                return Err(CertificateError::NotValid);
            }
            not_after = not_after.min(ends);
        }
        if !authorities.iter().any(|set| self.leads_to(set, at)) {
            return Err(CertificateError::Untrusted);
        }
        Ok(VerifiedLeaf {
            key,
            hash: self.leaf_hash(),
            not_after,
        })
    }

    /// Whether each certificate is issued by the next, and the last by one of
    /// these authorities. webpki would leave out what it does not need and bring
    /// the rest in order; that would make two chains of what is one.
    fn leads_to(&self, authorities: &CertificateAuthorities, at: UnixMillis) -> bool {
        let Some((leaf, issuers)) = self.0.split_first() else {
            return false;
        };
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_millis(at.as_millis()));
        let Ok(leaf) = EndEntityCert::try_from(leaf) else {
            return false;
        };
        let path = leaf.verify_for_usage(
            SIGNATURES,
            &authorities.anchors,
            issuers,
            at,
            KeyUsage::client_auth(),
            None,
            None,
        );
        path.is_ok_and(|path| {
            let used = path.intermediate_certificates().map(|used| used.der());
            used.eq(issuers.iter().cloned())
        })
    }
}

impl fmt::Debug for CertificateChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateChain({})", self.0.len())
    }
}

impl VerifiedLeaf {
    /// The last millisecond at which every certificate of the chain is valid.
    #[must_use]
    pub const fn not_after(&self) -> UnixMillis {
        self.not_after
    }

    /// Verifies a signature of the leaf's key over tag ‖ SHA-256(leaf) ‖ parts.
    ///
    /// # Errors
    /// [`BadSignature`] whatever is wrong with it.
    pub fn verify_signature(
        &self,
        tag: Tag,
        parts: &[&[u8]],
        signature: &Signature,
    ) -> Result<(), BadSignature> {
        let message = leaf_message(tag, &self.hash, parts);
        match &self.key {
            LeafKey::Ed25519(key) => key.verify_untagged(&message, signature),
            LeafKey::P256(key) => key
                .verify_sig(&message, signature.as_bytes())
                .map_err(|_| BadSignature),
        }
    }
}

/// What a leaf's key signs. The leaf is bound, so that a signature never counts
/// for another certificate of the same key.
pub(crate) fn leaf_message(tag: Tag, leaf: &[u8; 32], parts: &[&[u8]]) -> Vec<u8> {
    let mut all: Vec<&[u8]> = Vec::with_capacity(parts.len() + 1);
    all.push(leaf);
    all.extend_from_slice(parts);
    tag.message(&all)
}

/// An X.509 certificate of version 3 with nothing after it.
pub(crate) fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) if certificate.version().0 == 2 => Some(certificate),
        _ => None,
    }
}

/// The one URI among the names.
fn only_uri<'c>(certificate: &'c X509Certificate<'_>) -> Result<&'c str, CertificateError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateError::Malformed)?
        .ok_or(CertificateError::Names)?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri),
        _ => Err(CertificateError::Names),
    }
}

/// A leaf that may sign, and neither certificates nor lists (X509-SVID §4.3).
fn is_clients_leaf(certificate: &X509Certificate<'_>) -> Result<bool, CertificateError> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| CertificateError::Malformed)?;
    let usage = certificate
        .key_usage()
        .map_err(|_| CertificateError::Malformed)?;
    let is_ca = constraints.is_some_and(|c| c.value.ca);
    Ok(!is_ca
        && usage.is_some_and(|usage| {
            let usage = usage.value;
            usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
        }))
}

/// Whether a certificate may be a client's, or issue such: it says nothing of
/// purposes, or names this one.
fn is_for_clients(certificate: &X509Certificate<'_>) -> Result<bool, CertificateError> {
    let purposes = certificate
        .extended_key_usage()
        .map_err(|_| CertificateError::Malformed)?;
    Ok(purposes.is_none_or(|purposes| purposes.value.client_auth))
}

/// Whether a certificate may issue others; nothing if its extensions are
/// malformed.
fn may_issue(certificate: &X509Certificate<'_>) -> Option<bool> {
    let constraints = certificate.basic_constraints().ok()?;
    let usage = certificate.key_usage().ok()?;
    Some(
        constraints.is_some_and(|c| c.value.ca)
            && usage.is_none_or(|usage| usage.value.key_cert_sign()),
    )
}

/// From when until when it is valid, both included.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (UnixMillis, UnixMillis) {
    let millis = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or_default();
        UnixMillis::from_millis(seconds.saturating_mul(1_000))
    };
    let validity = certificate.validity();
    (
        millis(validity.not_before.timestamp()),
        millis(validity.not_after.timestamp()),
    )
}

fn leaf_key(certificate: &X509Certificate<'_>) -> Result<LeafKey, CertificateError> {
    match subject_key(certificate).ok_or(CertificateError::Key)? {
        SubjectKey::Ed25519(bytes) => {
            let key = VerifyingKey::from_bytes(bytes).map_err(|_| CertificateError::Key)?;
            Ok(LeafKey::Ed25519(key))
        }
        SubjectKey::P256(bytes) => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes)
            .map(|key| LeafKey::P256(Box::new(key)))
            .map_err(|_| CertificateError::Key),
    }
}

/// The bytes of a public key of one of the two kinds.
pub(crate) enum SubjectKey<'c> {
    Ed25519(&'c [u8; 32]),
    /// An uncompressed point.
    P256(&'c [u8; 65]),
}

pub(crate) fn subject_key<'c>(certificate: &'c X509Certificate<'_>) -> Option<SubjectKey<'c>> {
    let key = certificate.public_key();
    let bytes: &[u8] = &key.subject_public_key.data;
    let algorithm = &key.algorithm;
    if algorithm.algorithm == OID_SIG_ED25519 && algorithm.parameters.is_none() {
        return Some(SubjectKey::Ed25519(bytes.try_into().ok()?));
    }
    let curve = algorithm.parameters.as_ref()?.as_oid().ok()?;
    if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256 {
        let point: &[u8; 65] = bytes.try_into().ok()?;
        return point.starts_with(&[4]).then_some(SubjectKey::P256(point));
    }
    None
}

/// The algorithms of authorities' signatures.
const SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ED25519,
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];

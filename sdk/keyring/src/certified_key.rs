//! A workload's certificate with its private key, as files hold them.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use zeroize::Zeroizing;

use crate::certificate::{SubjectKey, leaf_message, parse, subject_key};
use crate::{CertificateChain, ChainSize, Signature, SigningKey, Tag};

/// A chain of certificates, and the key of its leaf.
pub struct CertifiedKey {
    chain: CertificateChain,
    leaf: [u8; 32],
    key: LeafSecret,
}

enum LeafSecret {
    Ed25519(Box<SigningKey>),
    P256(Box<EcdsaKeyPair>),
}

/// Why files do not hold a certificate with its key. Never repeats them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertifiedKeyError {
    /// Not PEM.
    #[error("the PEM is malformed")]
    Pem,
    /// No certificate there.
    #[error("there is no `-----BEGIN CERTIFICATE-----` in the certificate file")]
    NoCertificate,
    /// Too many or too large certificates.
    #[error(transparent)]
    Size(#[from] ChainSize),
    /// The leaf does not parse.
    #[error("the certificate is malformed")]
    Malformed,
    /// No private key there.
    #[error("there is no unencrypted private key in the key file")]
    NoKey,
    /// Another kind of key.
    #[error("the key is neither Ed25519 nor ECDSA P-256")]
    Kind,
    /// The key is not the certificate's.
    #[error("the private key is not the certificate's")]
    Mismatch,
}

/// AWS-LC could not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate's key did not sign")]
pub struct SigningError;

impl CertifiedKey {
    /// Reads a chain, leaf first, and the leaf's private key (PKCS#8, or SEC 1
    /// for P-256), both PEM.
    ///
    /// A self-signed certificate at the end is left out: receivers have their
    /// authorities from the policy.
    ///
    /// # Errors
    /// [`CertifiedKeyError`] names the first thing that does not fit.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertifiedKeyError> {
        let mut certificates = CertificateDer::pem_slice_iter(chain)
            .map(|certificate| certificate.map(|der| der.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CertifiedKeyError::Pem)?;
        if certificates.is_empty() {
            return Err(CertifiedKeyError::NoCertificate);
        }
        while certificates.len() > 1 && certificates.last().is_some_and(|last| is_root(last)) {
            certificates.pop();
        }
        let chain = CertificateChain::new(certificates)?;
        let key = LeafSecret::from_pem(key)?;
        let leaf = chain
            .iter()
            .next()
            .ok_or(CertifiedKeyError::NoCertificate)?;
        let leaf = parse(leaf).ok_or(CertifiedKeyError::Malformed)?;
        let fits = match (subject_key(&leaf).ok_or(CertifiedKeyError::Kind)?, &key) {
            (SubjectKey::Ed25519(public), LeafSecret::Ed25519(key)) => {
                key.verifying_key().as_bytes() == public
            }
            (SubjectKey::P256(public), LeafSecret::P256(key)) => {
                key.public_key().as_ref() == public
            }
            _ => false,
        };
        if !fits {
            return Err(CertifiedKeyError::Mismatch);
        }
        let leaf = chain.leaf_hash();
        Ok(Self { chain, leaf, key })
    }

    /// The certificates.
    #[must_use]
    pub const fn chain(&self) -> &CertificateChain {
        &self.chain
    }

    /// Signs tag ‖ SHA-256(leaf) ‖ parts.
    ///
    /// An ECDSA signature needs a number that nobody can guess and that never
    /// comes twice; AWS-LC draws it itself. This is the one place of the pure
    /// crates where something random is no argument.
    ///
    /// # Security
    /// The parts are concatenated: all but the last must have a fixed length
    /// or carry it.
    ///
    /// # Errors
    /// [`SigningError`] if the system gives no random bytes.
    pub fn sign(&self, tag: Tag, parts: &[&[u8]]) -> Result<Signature, SigningError> {
        let message = leaf_message(tag, &self.leaf, parts);
        match &self.key {
            LeafSecret::Ed25519(key) => Ok(key.sign_untagged(&message)),
            LeafSecret::P256(key) => {
                let signature = key.sign(&SystemRandom::new(), &message);
                let signature = signature.map_err(|_| SigningError)?;
                Signature::from_slice(signature.as_ref()).ok_or(SigningError)
            }
        }
    }
}

impl fmt::Debug for CertifiedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertifiedKey(of {:?})", self.chain)
    }
}

impl LeafSecret {
    /// The first private key of the text.
    fn from_pem(text: &[u8]) -> Result<Self, CertifiedKeyError> {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = section.map_err(|_| CertifiedKeyError::Pem)?;
            let der = Zeroizing::new(der);
            match kind {
                SectionKind::PrivateKey => return Self::from_pkcs8(&der),
                SectionKind::EcPrivateKey => return Self::p256(&der),
                SectionKind::RsaPrivateKey => return Err(CertifiedKeyError::Kind),
                _ => {}
            }
        }
        Err(CertifiedKeyError::NoKey)
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, CertifiedKeyError> {
        match Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            Ok(pair) => SigningKey::from_pair(pair)
                .map(|key| Self::Ed25519(Box::new(key)))
                .map_err(|_| CertifiedKeyError::Kind),
            Err(_) => Self::p256(der),
        }
    }

    fn p256(der: &[u8]) -> Result<Self, CertifiedKeyError> {
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .map(|pair| Self::P256(Box::new(pair)))
            .map_err(|_| CertifiedKeyError::Kind)
    }
}

/// Whether a certificate names itself as its issuer.
fn is_root(der: &[u8]) -> bool {
    parse(der).is_some_and(|c| c.subject().as_raw() == c.issuer().as_raw())
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;

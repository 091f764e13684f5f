//! Certificate authorities and certificates, from fixed seeds.

use std::collections::BTreeMap;

use bulla_identity::UnixMillis;
use bulla_keyring::sha256;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SignatureAlgorithm,
};
use time::OffsetDateTime;

use super::people::{DAY, at, seed};

/// An Ed25519 key for certificates.
pub fn pair(name: &str) -> KeyPair {
    let prefix = super::file::unhex("302e020100300506032b657004220420");
    let der = [&prefix[..], &seed(name)].concat();
    KeyPair::try_from(der).unwrap()
}

/// What a certificate says; a sound leaf of `orders` where nothing is changed.
pub struct Says {
    pub params: CertificateParams,
}

pub fn leaf() -> Says {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "orders");
    params.subject_alt_names = vec![uri("spiffe://shop.example/orders")];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    Says { params }.between(-DAY, DAY)
}

pub fn authority(name: &str) -> Says {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Says { params }.between(-30 * DAY, 30 * DAY)
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

/// An extension that nobody knows and nobody may ignore.
pub fn unknown_critical() -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
    extension.set_criticality(true);
    extension
}

/// Names constrained to URIs of this domain.
pub fn only_uris_of(host: &str) -> CustomExtension {
    let base = nested(0x86, host.as_bytes());
    let subtrees = nested(0xa0, &nested(0x30, &base));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], nested(0x30, &subtrees));
    extension.set_criticality(true);
    extension
}

/// DER of less than 128 bytes.
fn nested(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128);
    [&[tag, content.len() as u8][..], content].concat()
}

impl Says {
    /// Valid from then until then, milliseconds from `NOW`.
    pub fn between(mut self, from: i64, until: i64) -> Self {
        let date = |millis: UnixMillis| {
            OffsetDateTime::from_unix_timestamp((millis.as_millis() / 1000) as i64).unwrap()
        };
        self.params.not_before = date(at(from));
        self.params.not_after = date(at(until));
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }

    /// For the key of this name, by the authority of that one.
    pub fn issued(&self, key: &str, by: &str) -> Vec<u8> {
        self.issued_to(&pair(key), by)
    }

    pub fn issued_to(&self, key: &impl PublicKeyData, by: &str) -> Vec<u8> {
        let issuer = Issuer::new(authority(by).params, pair(by));
        let certificate = self.params.signed_by(key, &issuer).unwrap();
        certificate.der().to_vec()
    }
}

/// The self-signed certificate of an authority.
pub fn root(name: &str) -> Certificate {
    authority(name).params.self_signed(&pair(name)).unwrap()
}

/// An authority with another one's name and a key of its own.
pub fn impostor(name: &str, key: &str) -> Issuer<'static, KeyPair> {
    Issuer::new(authority(name).params, pair(key))
}

/// The authorities that vectors name.
pub fn authorities() -> BTreeMap<String, String> {
    let both = format!("{}{}", root("old root").pem(), root("mesh root").pem());
    [
        ("mesh", root("mesh root").pem()),
        ("other", root("other root").pem()),
        ("mesh in rotation", both),
    ]
    .map(|(name, pem)| (name.to_owned(), pem))
    .into()
}

/// A public key that is only named.
pub struct Named(pub Vec<u8>, pub &'static SignatureAlgorithm);

impl PublicKeyData for Named {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.1
    }
}

/// SHA-256 of a certificate.
pub fn hash(certificate: &[u8]) -> [u8; 32] {
    sha256(&[certificate])
}

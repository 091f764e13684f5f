//! Certificates and their keys as files hold them. What a chain has to be is told
//! by the vectors of the envelope, one by one.

use std::sync::Arc;

use bulla_identity::{UnixMillis, WorkloadId};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::*;
use crate::{BadSignature, CertificateAuthorities, CertificateError};

const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

fn authority() -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

fn leaf(issuer: &Issuer<'_, KeyPair>, key: &KeyPair) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(orders().as_str().try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.signed_by(key, issuer).unwrap().pem()
}

fn orders() -> WorkloadId {
    WorkloadId::parse("spiffe://acme.example/orders").unwrap()
}

fn read(chain: &str, key: &str) -> Result<CertifiedKey, CertifiedKeyError> {
    CertifiedKey::from_pem(chain.as_bytes(), key.as_bytes())
}

#[test]
fn both_kinds_of_keys_sign_and_verify() {
    let (issuer, ca) = authority();
    let authorities = [Arc::new(CertificateAuthorities::from_pem(&ca).unwrap())];
    for kind in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
        let key = KeyPair::generate_for(kind).unwrap();
        let own = read(&leaf(&issuer, &key), &key.serialize_pem()).unwrap();
        let verified = own.chain().verify(&orders(), &authorities, NOW).unwrap();
        let tag = Tag::CertificateCountersignature;
        let signature = own.sign(tag, &[b"one", b"two"]).unwrap();
        assert_eq!(
            verified.verify_signature(tag, &[b"one", b"two"], &signature),
            Ok(())
        );
        for (tag, parts) in [
            (Tag::Countersignature, &[&b"one"[..], b"two"][..]),
            (tag, &[b"one"]),
            (tag, &[b"one", b"too"]),
        ] {
            let verdict = verified.verify_signature(tag, parts, &signature);
            assert_eq!(verdict, Err(BadSignature));
        }
        for at in 0..64 {
            let mut bytes = *signature.as_bytes();
            bytes[at] ^= 1;
            let broken = Signature::from_bytes(bytes);
            let verdict = verified.verify_signature(tag, &[b"one", b"two"], &broken);
            assert_eq!(verdict, Err(BadSignature), "byte {at}");
        }
    }
}

#[test]
fn the_root_at_the_end_of_a_file_stays_at_home() {
    let (issuer, ca) = authority();
    let key = KeyPair::generate().unwrap();
    let chain = format!("{}{ca}", leaf(&issuer, &key));
    let own = read(&chain, &key.serialize_pem()).unwrap();
    assert_eq!(own.chain().iter().len(), 1);
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let (issuer, _) = authority();
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let pem = key.serialize_pem();
    let own = leaf(&issuer, &key);
    let refused = |chain: &str, key: &str| read(chain, key).unwrap_err();
    assert_eq!(refused("", &pem), CertifiedKeyError::NoCertificate);
    assert_eq!(refused(&own, ""), CertifiedKeyError::NoKey);
    assert_eq!(refused(&own, &own), CertifiedKeyError::NoKey);
    let cut = pem.replace("-----END", "");
    assert_eq!(refused(&own, &cut), CertifiedKeyError::Pem);
    for other in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256] {
        let other = KeyPair::generate_for(other).unwrap().serialize_pem();
        assert_eq!(refused(&own, &other), CertifiedKeyError::Mismatch);
    }
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(
        refused(&own, &p384.serialize_pem()),
        CertifiedKeyError::Kind
    );
    let theirs = leaf(&issuer, &p384);
    assert_eq!(refused(&theirs, &pem), CertifiedKeyError::Kind);
    let many = own.repeat(5);
    assert_eq!(refused(&many, &pem), CertifiedKeyError::Size(ChainSize));
}

#[test]
fn neither_key_nor_certificate_is_printed() {
    let (issuer, _) = authority();
    let key = KeyPair::generate().unwrap();
    let own = read(&leaf(&issuer, &key), &key.serialize_pem()).unwrap();
    assert_eq!(format!("{own:?}"), "CertifiedKey(of CertificateChain(1))");
}

/// Whatever comes is refused, and nothing panics.
#[test]
fn every_changed_byte_of_a_certificate_is_noticed() {
    let (issuer, ca) = authority();
    let authorities = [Arc::new(CertificateAuthorities::from_pem(&ca).unwrap())];
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let own = read(&leaf(&issuer, &key), &key.serialize_pem()).unwrap();
    let der = own.chain().iter().next().unwrap().to_vec();
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 0x11;
        let chain = CertificateChain::new(vec![changed]).unwrap();
        let verdict = chain.verify(&orders(), &authorities, NOW);
        assert!(verdict.is_err(), "byte {at}");
        let chain = CertificateChain::new(vec![der[..at].to_vec()]).unwrap();
        let verdict = chain.verify(&orders(), &authorities, NOW);
        assert_eq!(verdict.unwrap_err(), CertificateError::Malformed, "{at}");
    }
}

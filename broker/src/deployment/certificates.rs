//! A certificate authority for nats-server alone, and a certificate for each node:
//! for who has no other. Clients and brokers trust `tls/ca.pem` and nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bulla_process::{SecretFileError, secret_file};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

use super::plan::{Node, Plan};
use crate::provision::{self, ProvisionError};

/// Makes them in a directory, none of which exists.
pub(super) fn make(dir: &Path, plan: &Plan) -> Result<Vec<PathBuf>, CertificatesError> {
    let now = OffsetDateTime::now_utc();
    let mut made = Vec::new();
    let authority = authority(plan, now);
    let key = KeyPair::generate()?;
    let own = authority.self_signed(&key)?;
    made.push(secret(&dir.join("ca.key"), &key)?);
    made.push(public(&dir.join("ca.pem"), &own.pem())?);
    let issuer = Issuer::new(authority, key);
    for node in &plan.nodes {
        let (key, certificate) = of_node(node, &issuer, now)?;
        made.push(secret(&dir.join(format!("{}.key", node.name)), &key)?);
        made.push(public(
            &dir.join(format!("{}.pem", node.name)),
            &certificate.pem(),
        )?);
    }
    Ok(made)
}

/// Puts new keys and certificates, by the authority that is there, in the place of the
/// nodes'.
pub(super) fn renew(dir: &Path, plan: &Plan) -> Result<Vec<PathBuf>, CertificatesError> {
    let now = OffsetDateTime::now_utc();
    let key = secret_file::read_line(&dir.join("ca.key"))?;
    // Its name and its key are what a certificate names of an authority.
    let issuer = Issuer::new(authority(plan, now), KeyPair::from_pem(&key)?);
    let mut made = Vec::new();
    for node in &plan.nodes {
        let (key, certificate) = of_node(node, &issuer, now)?;
        let pem = bulla_process::Zeroizing::new(key.serialize_pem());
        for (name, text) in [("key", pem.as_str()), ("pem", &certificate.pem())] {
            let path = dir.join(format!("{}.{name}", node.name));
            provision::write(&path, text.as_bytes())?;
            made.push(path);
        }
    }
    Ok(made)
}

fn authority(plan: &Plan, now: OffsetDateTime) -> CertificateParams {
    let mut authority = CertificateParams::default();
    authority.distinguished_name = named(&format!("bus of {}", plan.domain));
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.not_before = now - CLOCKS;
    authority.not_after = now + AUTHORITY_LIFE;
    authority
}

fn of_node(
    node: &Node,
    issuer: &Issuer<'_, KeyPair>,
    now: OffsetDateTime,
) -> Result<(KeyPair, Certificate), CertificatesError> {
    let mut names = vec![node.host.clone()];
    // Whoever is on the machine itself.
    for local in ["localhost", "127.0.0.1"] {
        if node.host != local {
            names.push(local.to_owned());
        }
    }
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = named(&node.name);
    params.not_before = now - CLOCKS;
    params.not_after = now + NODE_LIFE;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Of a cluster each connects to the others.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((key, certificate))
}

fn named(name: &str) -> DistinguishedName {
    let mut out = DistinguishedName::new();
    out.push(DnType::CommonName, name);
    out
}

fn secret(path: &Path, key: &KeyPair) -> Result<PathBuf, CertificatesError> {
    let pem = bulla_process::Zeroizing::new(key.serialize_pem());
    secret_file::create(path, pem.as_bytes())?;
    Ok(path.to_owned())
}

fn public(path: &Path, pem: &str) -> Result<PathBuf, CertificatesError> {
    use std::io::Write as _;
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(pem.as_bytes()));
    written.map_err(|source| CertificatesError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(path.to_owned())
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificatesError {
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error(transparent)]
    Write(#[from] ProvisionError),
    #[error("cannot write `{}`", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// By so much clocks may differ.
const CLOCKS: Duration = Duration::from_secs(3_600);

const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// A year and a month.
const NODE_LIFE: Duration = Duration::from_secs(395 * 24 * 3_600);

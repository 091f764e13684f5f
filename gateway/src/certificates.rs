//! Clients that are known by the certificate of their connection alone.
//!
//! That it leads to an authority of `client_ca_file`, and that the client has its key, the
//! handshake has shown; who that is, the configuration says, name by name. So an authority
//! that issues to many lets in those that are listed and nobody else.
//!
//! # Security
//! A browser shows a certificate by itself, whatever page asks. So a request that a page of
//! another origin makes is refused, unless `[cors]` names that origin.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bulla_identity::{Claims, UnixMillis};
use bulla_keyring::CertificateNames;
use data_encoding::HEXLOWER;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};

use crate::document::Located;
use crate::route_fields::read_scopes;
use crate::section::Section;

/// The `idp` of users who are known by a certificate.
pub(crate) const ISSUER: &str = "urn:bulla:certificates";

/// What a client has shown in its handshake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// SHA-256 of the certificate.
    pub(crate) hash: [u8; 32],
    /// For whom it is; nothing if that cannot be read.
    names: Vec<Name>,
    /// When the first certificate of the chain ends.
    ends: UnixMillis,
}

impl Shown {
    /// Reads the chain, leaf first.
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let leaf = chain.first()?;
        let hash: [u8; 32] = Sha256::digest(leaf).into();
        let read: Option<Vec<_>> = chain.iter().map(|c| CertificateNames::read(c)).collect();
        let read = read.unwrap_or_default();
        let ends = read.iter().map(|c| c.not_after).min();
        let mut names = vec![Name::Hash(hash)];
        if let Some(leaf) = read.into_iter().next() {
            names.extend(leaf.uris.into_iter().map(Name::Uri));
            names.extend(leaf.hosts.into_iter().map(Name::Host));
            names.extend(leaf.mails.into_iter().map(Name::Mail));
        }
        Some(Self {
            hash,
            names,
            // Of what cannot be read nobody knows how long it counts.
            ends: ends.unwrap_or(UnixMillis::from_secs(0)),
        })
    }
}

/// By what a certificate is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Uri(String),
    Host(String),
    Mail(String),
    /// SHA-256 of the whole certificate.
    Hash([u8; 32]),
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let (kind, value) = text.split_once(':')?;
        if value.is_empty() || value.contains('*') || !value.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        Some(match kind {
            "uri" => Self::Uri(value.to_owned()),
            "dns" => Self::Host(value.to_ascii_lowercase()),
            "email" => Self::Mail(value.to_owned()),
            "sha256" => {
                let hex = value.replace(':', "").to_ascii_lowercase();
                Self::Hash(HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()?)
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(text) => write!(f, "uri:{text}"),
            Self::Host(text) => write!(f, "dns:{text}"),
            Self::Mail(text) => write!(f, "email:{text}"),
            Self::Hash(hash) => write!(f, "sha256:{}", HEXLOWER.encode(hash)),
        }
    }
}

/// One `[[certificate]]`: a client that is known by its certificate.
#[derive(Debug, Clone)]
pub(crate) struct CertificateClient {
    /// The user that stands for it on the bus.
    pub(crate) user: String,
    names: Vec<Name>,
    /// What is said of it: `sub`, `scope` and, as `client_id`, its first name.
    pub(crate) claims: Claims,
}

/// All clients that are known by their certificates.
#[derive(Debug, Clone, Default)]
pub struct CertificateClients {
    all: Vec<Arc<CertificateClient>>,
    by_name: HashMap<Name, usize>,
}

/// Why the certificate of a connection does not say who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateError {
    /// None was shown.
    NotShown,
    /// It ended while the connection was open.
    Expired,
    /// No client has one of its names.
    Unknown,
    /// Several clients have.
    Ambiguous,
}

impl CertificateError {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::NotShown => "no_certificate",
            Self::Expired => "certificate_expired",
            Self::Unknown => "certificate_unknown",
            Self::Ambiguous => "certificate_ambiguous",
        }
    }
}

/// A client and the certificate that it has shown.
#[derive(Debug, Clone)]
pub(crate) struct CertifiedClient {
    pub(crate) client: Arc<CertificateClient>,
    pub(crate) shown: Arc<Shown>,
}

impl CertifiedClient {
    pub(crate) fn ends(&self) -> UnixMillis {
        self.shown.ends
    }
}

impl CertificateClients {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The client that has shown this certificate.
    pub(crate) fn find(
        &self,
        shown: Option<&Arc<Shown>>,
        now: UnixMillis,
    ) -> Result<CertifiedClient, CertificateError> {
        let shown = shown.ok_or(CertificateError::NotShown)?;
        if now > shown.ends {
            return Err(CertificateError::Expired);
        }
        let mut found = None;
        for name in &shown.names {
            match (self.by_name.get(name), found) {
                (Some(one), Some(other)) if *one != other => {
                    return Err(CertificateError::Ambiguous);
                }
                (Some(one), _) => found = Some(*one),
                (None, _) => {}
            }
        }
        let client = found.and_then(|index| self.all.get(index));
        Ok(CertifiedClient {
            client: Arc::clone(client.ok_or(CertificateError::Unknown)?),
            shown: Arc::clone(shown),
        })
    }

    /// Whether a client that was let in still is one.
    pub(crate) fn still_allows(&self, known: &CertifiedClient, now: UnixMillis) -> bool {
        let found = self.find(Some(&known.shown), now);
        found.is_ok_and(|found| found.client.user == known.client.user)
    }

    fn add(&mut self, client: CertificateClient) -> Result<(), Name> {
        let index = self.all.len();
        for name in &client.names {
            if self.by_name.insert(name.clone(), index).is_some() {
                return Err(name.clone());
            }
        }
        self.all.push(Arc::new(client));
        Ok(())
    }
}

/// The `[[certificate]]`s.
pub(crate) fn read_certificates(root: &mut Section<'_>) -> CertificateClients {
    let mut clients = CertificateClients::default();
    for section in root.sections("certificate") {
        let span = section.span();
        let Some(client) = read_certificate(section) else {
            continue;
        };
        if let Err(name) = clients.add(client) {
            root.problem(&span, format!("certificate `{name}` is there twice"));
        }
    }
    clients
}

fn read_certificate(mut s: Section<'_>) -> Option<CertificateClient> {
    let texts = s.required_texts(
        "name",
        "which certificate: `uri:…`, `dns:…`, `email:…` or `sha256:…`",
    );
    let user = s
        .required_text("user", "who has it: the user of every request")
        .and_then(|user| plain(&s, user));
    let scopes = read_scopes(&mut s, "scope");
    let mut names = Vec::new();
    for text in texts.iter().flatten() {
        match Name::parse(&text.value) {
            Some(name) => names.push(name),
            None => s.problem(
                &text.span,
                format!(
                    "`{}` names no certificate: write one whole name as `uri:…`, `dns:…`, `email:…`, or `sha256:` and the certificate's hash",
                    text.value
                ),
            ),
        }
    }
    if texts.as_ref().is_some_and(Vec::is_empty) {
        s.problem(&s.span(), "`name` is empty: nobody would be known by it");
    }
    s.finish();
    let user = user?;
    let mut claims = Map::new();
    claims.insert("sub".to_owned(), json!(user));
    claims.insert("scope".to_owned(), json!(scopes.join(" ")));
    claims.insert("client_id".to_owned(), json!(names.first()?.to_string()));
    Some(CertificateClient {
        user,
        names,
        claims: Claims::from_map(claims),
    })
}

fn plain(s: &Section<'_>, user: Located<String>) -> Option<String> {
    let good = (1..=512).contains(&user.value.len()) && !user.value.chars().any(char::is_control);
    if !good {
        s.problem(
            &user.span,
            "`user` is empty, too long, or has control characters",
        );
    }
    good.then_some(user.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(user: &str, names: &[&str]) -> CertificateClient {
        CertificateClient {
            user: user.to_owned(),
            names: names.iter().map(|n| Name::parse(n).unwrap()).collect(),
            claims: Claims::from_map(Map::new()),
        }
    }

    fn shown(names: &[&str]) -> Arc<Shown> {
        Arc::new(Shown {
            hash: [0; 32],
            names: names.iter().map(|n| Name::parse(n).unwrap()).collect(),
            ends: UnixMillis::from_secs(100),
        })
    }

    #[test]
    fn a_client_is_who_has_one_of_its_names_and_nobody_elses() {
        let mut all = CertificateClients::default();
        all.add(client("a", &["uri:spiffe://x/a", "dns:A.example"]))
            .unwrap();
        all.add(client("b", &["email:b@x.example"])).unwrap();
        let at = |names: &[&str], secs| {
            let found = all.find(Some(&shown(names)), UnixMillis::from_secs(secs));
            found.map(|found| found.client.user.clone())
        };
        assert_eq!(at(&["dns:a.example"], 100), Ok("a".into()));
        assert_eq!(
            at(&["uri:spiffe://x/a", "dns:a.example"], 1),
            Ok("a".into())
        );
        assert_eq!(at(&["email:b@x.example", "dns:other"], 1), Ok("b".into()));
        assert_eq!(at(&["dns:a.example"], 101), Err(CertificateError::Expired));
        assert_eq!(at(&["dns:b.a.example"], 1), Err(CertificateError::Unknown));
        // The same text under another kind is another name.
        assert_eq!(at(&["uri:a.example"], 1), Err(CertificateError::Unknown));
        assert_eq!(
            at(&["dns:a.example", "email:b@x.example"], 1),
            Err(CertificateError::Ambiguous)
        );
        let none = all.find(None, UnixMillis::from_secs(1)).err();
        assert_eq!(none, Some(CertificateError::NotShown));
        assert!(all.add(client("c", &["dns:a.example"])).is_err());
    }

    #[test]
    fn a_name_is_one_whole_name() {
        let hash = "ab".repeat(32);
        for good in ["uri:x", "dns:a.b", "email:a@b", &format!("sha256:{hash}")] {
            assert_eq!(Name::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "a.b", "dns:", "dns:*.b", "cn:a", "dns:a b", "sha256:ab"] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }
}

//! `attest`: how a workload proves itself, and what vouches for its keys.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bulla_identity::{Nkey, NkeyKind};
use bulla_keyring::CertificateAuthorities;

use super::jwt::{Issuers, claim_text};
use super::reader::{self, Fields, Node};
use super::x509::Authorities;
use crate::error::Sink;
use crate::problem::{AttestProblem, Problem};
use crate::token_issuer::TokenIssuer;

/// What a workload's `attest` lists.
#[derive(Debug, Default)]
pub(crate) struct Attestors {
    /// With which it connects.
    pub(crate) nkeys: Vec<Nkey>,
    /// Those that vouch for credentials too.
    pub(crate) vouching: Vec<Nkey>,
    pub(crate) authorities: Vec<Arc<CertificateAuthorities>>,
    pub(crate) tokens: Vec<TokenSpec>,
}

/// A `{ jwt = … }`.
#[derive(Debug)]
pub(crate) struct TokenSpec {
    pub(crate) issuer: Arc<TokenIssuer>,
    /// What `sub` is; the workload's SPIFFE ID where nothing is said.
    pub(crate) subject: Option<Box<str>>,
    pub(crate) claims: Vec<(Box<str>, Box<str>)>,
    /// Whether a broker that saw the token vouches for credentials.
    pub(crate) vouches: bool,
    pub(crate) span: Range<usize>,
}

/// What attestors may name.
pub(super) struct Named<'n> {
    pub(super) authorities: &'n Authorities,
    pub(super) issuers: &'n Issuers,
}

/// Reads the list of one workload. `owners` are the nkeys of those before it.
pub(super) fn read(
    workload: &str,
    node: Node<'_>,
    known: &Named<'_>,
    owners: &mut BTreeMap<Nkey, String>,
    sink: &mut Sink<'_>,
) -> Attestors {
    let mut out = Attestors::default();
    let mut named: Vec<&str> = Vec::new();
    // Whatever is wrong with one of them is said there, and not again below.
    let mut complete = true;
    for node in reader::list("attest", "a list such as [{ nkey = \"U…\" }]", node, sink) {
        match attestor(node, known, sink) {
            Some(Attestor::Nkey { nkey, at, vouches }) => match owners.get(&nkey) {
                Some(owner) => {
                    let owner = owner.clone();
                    sink.report(&at, Problem::NkeyTwice { owner });
                    complete = false;
                }
                None => {
                    owners.insert(nkey, workload.to_owned());
                    out.nkeys.push(nkey);
                    if vouches {
                        out.vouching.push(nkey);
                    }
                }
            },
            Some(Attestor::X509(name)) if named.contains(&name) => {
                let name = name.to_owned();
                sink.report(&node.span(), Problem::X509Twice { name });
            }
            Some(Attestor::X509(name)) => match known.authorities.get(name) {
                Some(read) => {
                    named.push(name);
                    complete &= read.is_some();
                    out.authorities.extend(read.clone());
                }
                None => {
                    let all = known.authorities.keys().map(String::as_str);
                    let problem = Problem::UnknownX509 {
                        name: reader::printable(name),
                        similar: reader::similar(name, all).map(str::to_owned),
                    };
                    sink.report(&node.span(), problem);
                    complete = false;
                }
            },
            Some(Attestor::Jwt(token)) => out.tokens.push(token),
            None => complete = false,
        }
    }
    let listed = !out.nkeys.is_empty() || !out.authorities.is_empty() || !out.tokens.is_empty();
    let vouched = !out.vouching.is_empty()
        || !out.authorities.is_empty()
        || out.tokens.iter().any(|token| token.vouches);
    if complete && listed && !vouched {
        sink.report(&node.span(), Problem::NothingVouches);
    }
    out
}

/// One element of `attest`.
enum Attestor<'d> {
    Nkey {
        nkey: Nkey,
        at: Range<usize>,
        vouches: bool,
    },
    X509(&'d str),
    Jwt(TokenSpec),
}

fn attestor<'d>(node: Node<'d>, known: &Named<'_>, sink: &mut Sink<'_>) -> Option<Attestor<'d>> {
    const KEYS: &[&str] = &["nkey", "vouches", "x509", "jwt", "sub", "k8s", "claims"];
    let table = reader::table("attest", node, sink)?;
    let fields = Fields::new(table, node.span(), "an attestor", KEYS, &[], sink);
    let (nkey_at, x509, jwt) = (fields.get("nkey"), fields.get("x509"), fields.get("jwt"));
    let kinds = [nkey_at, x509, jwt];
    if kinds.iter().flatten().count() > 1 {
        // Where the second one stands.
        let second = kinds.iter().flatten().nth(1);
        sink.report(
            &second.map_or(node.span(), |n| n.span()),
            Problem::AttestorBoth,
        );
        return None;
    }
    if let Some(name) = jwt {
        return token(name, node, &fields, known, sink).map(Attestor::Jwt);
    }
    let mut sound = true;
    for key in ["sub", "k8s", "claims"] {
        if let Some(node) = fields.get(key) {
            sink.report(&node.span(), AttestProblem::Misplaced { key }.into());
            sound = false;
        }
    }
    let vouches = fields.get("vouches");
    let attestor = match (nkey_at, x509) {
        (None, None) => {
            // What is wrong with it may have been told already.
            if sound && table.keys().all(|key| KEYS.contains(&&**key.get_ref())) {
                fields.need("nkey", sink);
            }
            return None;
        }
        (None, Some(x509)) => {
            if let Some(vouches) = vouches {
                sink.report(&vouches.span(), Problem::AttestorBoth);
                return None;
            }
            reader::text("x509", x509, sink).map(Attestor::X509)
        }
        (Some(node), _) => {
            let vouches = match vouches {
                Some(node) => reader::boolean("vouches", node, sink)?,
                None => true,
            };
            let at = node.span();
            nkey(node, sink).map(|nkey| Attestor::Nkey { nkey, at, vouches })
        }
    };
    attestor.filter(|_| sound)
}

/// Which tokens of an issuer are this workload's.
fn token(
    name_at: Node<'_>,
    node: Node<'_>,
    fields: &Fields<'_>,
    known: &Named<'_>,
    sink: &mut Sink<'_>,
) -> Option<TokenSpec> {
    let name = reader::text("jwt", name_at, sink)?;
    let issuer = match known.issuers.get(name) {
        Some(read) => read.clone(),
        None => {
            let all = known.issuers.keys().map(String::as_str);
            let problem = AttestProblem::UnknownJwt {
                name: reader::printable(name),
                similar: reader::similar(name, all).map(str::to_owned),
            };
            sink.report(&name_at.span(), problem.into());
            None
        }
    };
    let subject = match (fields.get("sub"), fields.get("k8s")) {
        (Some(node), Some(_)) => {
            sink.report(&node.span(), AttestProblem::SubjectTwice.into());
            None
        }
        (Some(node), None) => claim_text("sub", node, sink).map(Some),
        (None, Some(node)) => service_account(node, sink).map(Some),
        (None, None) => Some(None),
    };
    let claims = match fields.get("claims") {
        None => Some(Vec::new()),
        Some(node) => claims(node, sink),
    };
    let vouches = match fields.get("vouches") {
        Some(node) => reader::boolean("vouches", node, sink),
        // A broker's word is less than a signature that everybody can check: it is
        // asked for.
        None => Some(false),
    };
    Some(TokenSpec {
        issuer: issuer?,
        subject: subject?,
        claims: claims?,
        vouches: vouches?,
        span: node.span(),
    })
}

/// What Kubernetes calls the service account `namespace/name`.
fn service_account(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Box<str>> {
    let text = reader::text("k8s", node, sink)?;
    // A label, and labels with dots between them ([RFC 1123 §2.1]): no colon.
    let is_label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    match text.split_once('/') {
        Some((namespace, name))
            if is_label(namespace) && name.len() <= 253 && name.split('.').all(is_label) =>
        {
            Some(format!("system:serviceaccount:{namespace}:{name}").into())
        }
        _ => {
            let text = reader::printable(text);
            sink.report(&node.span(), AttestProblem::ServiceAccount { text }.into());
            None
        }
    }
}

fn claims(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Vec<(Box<str>, Box<str>)>> {
    let table = reader::table("claims", node, sink)?;
    let mut out = Vec::new();
    let mut sound = true;
    for (key, node) in table {
        let name: &str = key.get_ref();
        match claim_text("claims", node, sink) {
            Some(value) => out.push((name.into(), value)),
            None => sound = false,
        }
    }
    out.sort();
    sound.then_some(out)
}

/// The public nkey of a user.
fn nkey(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Nkey> {
    let text = reader::text("nkey", node, sink)?;
    match Nkey::parse(text) {
        Ok(nkey) if nkey.kind() == NkeyKind::User => Some(nkey),
        Ok(_) => {
            let found = text.chars().next().unwrap_or('?');
            sink.report(&node.span(), Problem::NkeyKind { found });
            None
        }
        Err(e) => {
            sink.report(&node.span(), Problem::Nkey(e));
            None
        }
    }
}

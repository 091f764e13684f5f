//! `[jwt.NAME]`: the issuers of workloads' tokens that attestors name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::WorkloadName;
use serde_json::Value;

use super::reader::{self, Fields, Node};
use super::{NamedSpec, WorkloadSpec, subject};
use crate::error::Sink;
use crate::problem::{AttestProblem, Problem};
use crate::token_issuer::{
    ALGORITHMS, DEFAULT_MAX_LIFE, IssuerKeys, LONGEST_MAX_LIFE, TokenIssuer,
};

/// The issuers by name; nothing where one was refused, so that the name is known
/// all the same.
pub(super) type Issuers = BTreeMap<String, Option<Arc<TokenIssuer>>>;

pub(super) fn issuers(node: Option<Node<'_>>, sink: &mut Sink<'_>) -> Issuers {
    let mut out = Issuers::new();
    let Some(table) = node.and_then(|node| reader::table("jwt", node, sink)) else {
        return out;
    };
    for (key, node) in table {
        let name: &str = key.get_ref();
        if let Err(source) = WorkloadName::parse(name) {
            let problem = Problem::Name {
                name: name.to_owned(),
                source,
            };
            sink.report(&key.span(), problem);
        }
        let read = reader::table(name, node, sink).and_then(|table| {
            const KEYS: &[&str] = &[
                "issuer",
                "audience",
                "jwks_url",
                "jwks",
                "algorithms",
                "max_life",
                "ca",
            ];
            let fields = Fields::new(table, key.span(), "an issuer", KEYS, &[], sink);
            issuer(name, &fields, sink).map(Arc::new)
        });
        out.insert(name.to_owned(), read);
    }
    out
}

fn issuer(name: &str, fields: &Fields<'_>, sink: &mut Sink<'_>) -> Option<TokenIssuer> {
    // Everything that is wrong is told, so nothing returns before the end.
    let issuer = fields
        .need("issuer", sink)
        .and_then(|node| claim_text("issuer", node, sink));
    let audience = fields
        .need("audience", sink)
        .and_then(|node| claim_text("audience", node, sink));
    let keys = match (fields.get("jwks_url"), fields.get("jwks")) {
        (Some(_), Some(node)) => {
            sink.report(&node.span(), AttestProblem::KeysTwice.into());
            None
        }
        (Some(node), None) => url("jwks_url", node, sink).map(IssuerKeys::At),
        (None, Some(node)) => fixed(node, sink).map(IssuerKeys::Fixed),
        // It is fetched from what the issuer is called.
        (None, None) => match fields.get("issuer") {
            Some(node) => url("issuer", node, sink).map(|_| IssuerKeys::Discovered),
            None => None,
        },
    };
    let algorithms = match fields.get("algorithms") {
        None => Some(ALGORITHMS.map(Box::from).to_vec()),
        Some(node) => algorithms(node, sink),
    };
    let max_life = match fields.get("max_life") {
        None => Some(DEFAULT_MAX_LIFE),
        Some(node) => {
            let read = reader::text("max_life", node, sink).map(subject::duration);
            let bounds = Duration::from_secs(60)..=LONGEST_MAX_LIFE;
            match read {
                Some(Some(life)) if bounds.contains(&life) => Some(life),
                Some(_) => {
                    sink.report(&node.span(), AttestProblem::MaxLife.into());
                    None
                }
                None => None,
            }
        }
    };
    let ca = match fields.get("ca") {
        None => Some(None),
        Some(node) => reader::text("ca", node, sink).and_then(|text| {
            match bulla_keyring::CertificateAuthorities::from_pem(text) {
                Ok(_) => Some(Some(Box::from(text))),
                Err(error) => {
                    sink.report(&node.span(), Problem::Authorities(error));
                    None
                }
            }
        }),
    };
    Some(TokenIssuer {
        name: name.into(),
        issuer: issuer?,
        audience: audience?,
        keys: keys?,
        algorithms: algorithms?.into(),
        max_life: max_life?,
        ca: ca?,
    })
}

/// A text that a claim can be.
pub(super) fn claim_text(
    key: &'static str,
    node: Node<'_>,
    sink: &mut Sink<'_>,
) -> Option<Box<str>> {
    let text = reader::text(key, node, sink)?;
    if text.is_empty() || text.len() > 512 || text.chars().any(char::is_control) {
        sink.report(&node.span(), AttestProblem::Text { key }.into());
        return None;
    }
    Some(text.into())
}

/// What an https URL begins with, or an http one to loopback. The fetcher reads
/// the rest of it.
fn url(key: &'static str, node: Node<'_>, sink: &mut Sink<'_>) -> Option<Box<str>> {
    let text = reader::text(key, node, sink)?;
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_loopback = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    let is_sound = !host.is_empty()
        && !authority.contains('@')
        && text.len() <= 2_048
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && (scheme == "https" || (scheme == "http" && is_loopback));
    if !is_sound {
        let url = reader::printable(text);
        sink.report(&node.span(), AttestProblem::Url { key, url }.into());
        return None;
    }
    Some(text.into())
}

/// A key set, as far as it has to be looked at here: nobody's secrets, and
/// something that could be keys.
fn fixed(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Box<str>> {
    let text = reader::text("jwks", node, sink)?;
    let keys = serde_json::from_str::<Value>(text).ok().and_then(|set| {
        let keys = set.get("keys")?.as_array()?.clone();
        (!keys.is_empty() && keys.iter().all(Value::is_object)).then_some(keys)
    });
    let problem = match keys {
        None => AttestProblem::Keys,
        Some(keys)
            if keys
                .iter()
                .any(|key| key.get("d").is_some() || key.get("k").is_some()) =>
        {
            AttestProblem::SecretKeys
        }
        Some(_) => return Some(text.into()),
    };
    sink.report(&node.span(), problem.into());
    None
}

fn algorithms(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Vec<Box<str>>> {
    let mut out = Vec::new();
    let nodes = reader::list("algorithms", "a list such as [\"ES256\"]", node, sink);
    let mut sound = !nodes.is_empty();
    for node in nodes {
        match reader::text("algorithms", node, sink) {
            Some(name) if ALGORITHMS.contains(&name) => out.push(name.into()),
            Some(name) => {
                let name = reader::printable(name);
                sink.report(&node.span(), AttestProblem::Algorithm { name }.into());
                sound = false;
            }
            None => sound = false,
        }
    }
    sound.then_some(out)
}

/// The issuers, and whether a workload names them.
pub(super) fn used(
    node: Option<Node<'_>>,
    issuers: &Issuers,
    workloads: &[WorkloadSpec],
) -> Vec<NamedSpec> {
    let table = node.and_then(|node| node.get_ref().as_table());
    let all = table.into_iter().flat_map(|table| table.iter());
    all.map(|(key, _)| {
        let read = issuers.get(&**key.get_ref()).and_then(Option::as_ref);
        let mut named = workloads.iter().flat_map(|w| &w.attestors.tokens);
        NamedSpec {
            name: key.get_ref().to_string(),
            span: key.span(),
            used: read.is_some_and(|read| named.any(|one| Arc::ptr_eq(&one.issuer, read))),
        }
    })
    .collect()
}

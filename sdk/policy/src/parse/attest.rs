//! `attest`: how a workload proves itself, and what vouches for its keys.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bulla_identity::{Nkey, NkeyKind};
use bulla_keyring::CertificateAuthorities;

use super::reader::{self, Fields, Node};
use super::x509::Authorities;
use crate::error::Sink;
use crate::problem::Problem;

/// What a workload's `attest` lists.
#[derive(Debug, Default)]
pub(crate) struct Attestors {
    /// With which it connects.
    pub(crate) nkeys: Vec<Nkey>,
    /// Those that vouch for credentials too.
    pub(crate) vouching: Vec<Nkey>,
    pub(crate) authorities: Vec<Arc<CertificateAuthorities>>,
}

/// Reads the list of one workload. `owners` are the nkeys of those before it.
pub(super) fn read(
    workload: &str,
    node: Node<'_>,
    authorities: &Authorities,
    owners: &mut BTreeMap<Nkey, String>,
    sink: &mut Sink<'_>,
) -> Attestors {
    let mut out = Attestors::default();
    let mut named: Vec<&str> = Vec::new();
    // Whatever is wrong with one of them is said there, and not again below.
    let mut complete = true;
    for node in reader::list("attest", "a list such as [{ nkey = \"U…\" }]", node, sink) {
        match attestor(node, sink) {
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
            Some(Attestor::X509(name)) => match authorities.get(name) {
                Some(read) => {
                    named.push(name);
                    complete &= read.is_some();
                    out.authorities.extend(read.clone());
                }
                None => {
                    let known = authorities.keys().map(String::as_str);
                    let problem = Problem::UnknownX509 {
                        name: reader::printable(name),
                        similar: reader::similar(name, known).map(str::to_owned),
                    };
                    sink.report(&node.span(), problem);
                    complete = false;
                }
            },
            None => complete = false,
        }
    }
    let listed = !out.nkeys.is_empty() || !out.authorities.is_empty();
    if complete && listed {
        if out.nkeys.is_empty() {
            sink.report(&node.span(), Problem::X509Alone);
        } else if out.vouching.is_empty() && out.authorities.is_empty() {
            sink.report(&node.span(), Problem::NothingVouches);
        }
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
}

fn attestor<'d>(node: Node<'d>, sink: &mut Sink<'_>) -> Option<Attestor<'d>> {
    const LATER: &[(&str, &str)] = &[
        ("k8s", "attest with { nkey = \"U…\" }"),
        ("jwt", "attest with { nkey = \"U…\" }"),
    ];
    const KEYS: &[&str] = &["nkey", "vouches", "x509"];
    let table = reader::table("attest", node, sink)?;
    let fields = Fields::new(table, node.span(), "an attestor", KEYS, LATER, sink);
    let later = LATER.iter().any(|(name, _)| table.contains_key(*name));
    match (fields.get("nkey"), fields.get("x509")) {
        (None, None) if later => None,
        (None, None) => {
            fields.need("nkey", sink);
            None
        }
        (Some(_), Some(x509)) => {
            sink.report(&x509.span(), Problem::AttestorBoth);
            None
        }
        (None, Some(x509)) => {
            if let Some(vouches) = fields.get("vouches") {
                sink.report(&vouches.span(), Problem::AttestorBoth);
                return None;
            }
            reader::text("x509", x509, sink).map(Attestor::X509)
        }
        (Some(node), None) => {
            let vouches = match fields.get("vouches") {
                Some(node) => reader::boolean("vouches", node, sink)?,
                None => true,
            };
            let at = node.span();
            nkey(node, sink).map(|nkey| Attestor::Nkey { nkey, at, vouches })
        }
    }
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

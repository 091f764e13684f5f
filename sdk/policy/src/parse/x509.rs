//! `[x509.NAME]`: the certificate authorities that attestors name.

use std::collections::BTreeMap;
use std::sync::Arc;

use bulla_identity::WorkloadName;
use bulla_keyring::CertificateAuthorities;

use super::reader::{self, Fields, Node};
use super::{NamedSpec, WorkloadSpec};
use crate::error::Sink;
use crate::problem::Problem;

/// The authorities by name; nothing where a text was refused, so that the name
/// is known all the same.
pub(super) type Authorities = BTreeMap<String, Option<Arc<CertificateAuthorities>>>;

pub(super) fn authorities(node: Option<Node<'_>>, sink: &mut Sink<'_>) -> Authorities {
    let mut out = Authorities::new();
    let Some(table) = node.and_then(|node| reader::table("x509", node, sink)) else {
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
            let what = "an authority";
            let fields = Fields::new(table, key.span(), what, &["ca"], &[], sink);
            let node = fields.need("ca", sink)?;
            let text = reader::text("ca", node, sink)?;
            match CertificateAuthorities::from_pem(text) {
                Ok(read) => Some(Arc::new(read)),
                Err(error) => {
                    sink.report(&node.span(), Problem::Authorities(error));
                    None
                }
            }
        });
        out.insert(name.to_owned(), read);
    }
    out
}

/// The authorities, and whether a workload names them.
pub(super) fn used(
    node: Option<Node<'_>>,
    authorities: &Authorities,
    workloads: &[WorkloadSpec],
) -> Vec<NamedSpec> {
    let table = node.and_then(|node| node.get_ref().as_table());
    let all = table.into_iter().flat_map(|table| table.iter());
    all.map(|(key, _)| {
        let read = authorities.get(&**key.get_ref()).and_then(Option::as_ref);
        let mut named = workloads.iter().flat_map(|w| &w.attestors.authorities);
        NamedSpec {
            name: key.get_ref().to_string(),
            span: key.span(),
            used: read.is_some_and(|read| named.any(|one| Arc::ptr_eq(one, read))),
        }
    })
    .collect()
}

//! The files of a policy as one document.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::reader;
use crate::error::Sink;
use crate::problem::Problem;

/// Adds what one file says to what the files before it said. A name that two
/// files declare is refused, and both places are named.
pub(super) fn add<'d>(all: &mut DeTable<'d>, file: DeTable<'d>, sink: &mut Sink<'_>) {
    for (key, node) in file {
        let what = match &**key.get_ref() {
            "x509" => "the authority",
            "workload" => "the workload",
            "group" => "the group",
            "claims" => "the private claim",
            "subject" => "the subject",
            "stream" => "the stream",
            "bucket" => "the bucket",
            _ => "the key",
        };
        let Some(held) = all.get_mut(&**key.get_ref()) else {
            all.insert(key, node);
            continue;
        };
        let at = node.span();
        let is_lint = &**key.get_ref() == "lint";
        match (held.get_mut(), node.into_inner()) {
            (DeValue::Table(held), DeValue::Table(more)) if is_lint => lints(held, more),
            (DeValue::Table(held), DeValue::Table(more)) => tables(what, held, more, sink),
            (DeValue::Array(held), DeValue::Array(more)) => arrays(held, more),
            (held, more) if held.same_type(&more) => {
                if &**key.get_ref() == "trust_domain" && held.as_str() != more.as_str() {
                    let other = held.as_str().map(reader::printable).unwrap_or_default();
                    sink.report(&at, Problem::DomainDiffers { other });
                }
            }
            (held, more) => {
                let expected = match held {
                    DeValue::Table(_) => "a table",
                    DeValue::Array(_) => "a list of tables",
                    _ => "what another file says",
                };
                reader::wrong_type(key.get_ref(), expected, &Spanned::new(at, more), sink);
            }
        }
    }
}

fn tables<'d>(what: &'static str, held: &mut DeTable<'d>, more: DeTable<'d>, sink: &mut Sink<'_>) {
    for (key, node) in more {
        match held.get_key_value(&**key.get_ref()) {
            Some((first, _)) => {
                let problem = Problem::DeclaredTwice {
                    what,
                    name: reader::printable(key.get_ref()),
                    place: sink.place_of(first.span().start),
                };
                sink.report(&key.span(), problem);
            }
            None => {
                held.insert(key, node);
            }
        }
    }
}

/// What each file allows of lints counts for all of them.
fn lints<'d>(held: &mut DeTable<'d>, more: DeTable<'d>) {
    for (key, node) in more {
        let known = held.get_mut(&**key.get_ref()).map(Spanned::get_mut);
        match (known, node) {
            (Some(DeValue::Array(known)), node) if node.get_ref().is_array() => {
                if let DeValue::Array(more) = node.into_inner() {
                    arrays(known, more);
                }
            }
            // What is wrong with it is told where it is read.
            (_, node) => {
                held.insert(key, node);
            }
        }
    }
}

fn arrays<'d>(held: &mut DeArray<'d>, more: DeArray<'d>) {
    for node in more {
        held.push(node);
    }
}

/// Brings keys into one order, whatever order the text has: nothing of a policy may
/// depend on that.
pub(super) fn sort(table: &mut DeTable<'_>) {
    for (_, node) in table.iter_mut() {
        sort_value(node.get_mut());
    }
    if table.len() > 1 {
        let mut all: Vec<_> = std::mem::take(table).into_iter().collect();
        all.sort_by(|(one, _), (other, _)| one.get_ref().cmp(other.get_ref()));
        *table = all.into_iter().collect();
    }
}

// As deep as the TOML parser lets values nest.
fn sort_value(value: &mut DeValue<'_>) {
    match value {
        DeValue::Table(table) => sort(table),
        DeValue::Array(array) => {
            for node in array.iter_mut() {
                sort_value(node.get_mut());
            }
        }
        _ => {}
    }
}

/// The same table with every place `by` bytes further on.
pub(super) fn shifted(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    if by == 0 {
        return table;
    }
    table
        .into_iter()
        .map(|(key, node)| {
            let at = moved(key.span(), by);
            (Spanned::new(at, key.into_inner()), shifted_node(node, by))
        })
        .collect()
}

// As deep as the TOML parser lets values nest.
fn shifted_node(node: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let at = moved(node.span(), by);
    let value = match node.into_inner() {
        DeValue::Table(table) => DeValue::Table(shifted(table, by)),
        DeValue::Array(array) => {
            let nodes = array.into_iter().map(|node| shifted_node(node, by));
            DeValue::Array(nodes.collect())
        }
        plain => plain,
    };
    Spanned::new(at, value)
}

fn moved(span: Range<usize>, by: usize) -> Range<usize> {
    span.start + by..span.end + by
}

//! What the text allows of lints: `allow_lint` of a table, `[lint]` of the whole.

use super::reader::{self, Fields, Node};
use crate::error::Sink;
use crate::lint::{Allowance, LintCode};
use crate::problem::Problem;

/// The key of a table that allows lints about it.
pub(super) const KEY: &str = "allow_lint";

/// What a table allows.
pub(super) fn allowed(fields: &Fields<'_>, sink: &mut Sink<'_>) -> Vec<Allowance> {
    let node = fields.get(KEY);
    node.map(|node| codes(KEY, node, sink)).unwrap_or_default()
}

/// What `[lint]` allows.
pub(super) fn whole(node: Option<Node<'_>>, sink: &mut Sink<'_>) -> Vec<Allowance> {
    let Some(node) = node else { return Vec::new() };
    let Some(table) = reader::table("lint", node, sink) else {
        return Vec::new();
    };
    let fields = Fields::new(table, node.span(), "[lint]", &["allow"], &[], sink);
    let node = fields.need("allow", sink);
    node.map(|node| codes("allow", node, sink))
        .unwrap_or_default()
}

fn codes(key: &'static str, node: Node<'_>, sink: &mut Sink<'_>) -> Vec<Allowance> {
    let mut out = Vec::new();
    for node in reader::list(key, "a list of codes of lints", node, sink) {
        let Some(word) = reader::text(key, node, sink) else {
            continue;
        };
        match LintCode::parse(word) {
            Some(code) => out.push((code, node.span())),
            None => {
                let known = LintCode::ALL.iter().map(|code| code.as_str());
                let problem = Problem::UnknownLint {
                    code: reader::printable(word),
                    similar: reader::similar(word, known),
                };
                sink.report(&node.span(), problem);
            }
        }
    }
    out
}

//! `starts` of a workload, and `[claims.NAME]`.

use bulla_identity::is_reserved_claim;
use serde_json::Value;
use toml::de::DeValue;

use super::reader::{self, Fields, Node};
use super::workload::Names;
use super::{PrivateSpec, subject};
use crate::error::Sink;
use crate::exchange::{Starts, UserName};
use crate::problem::Problem;

/// On whose behalf a workload may start a chain of calls.
pub(super) fn starts(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Starts> {
    const KEYS: &[&str] = &["users", "scope", "reach", "claims"];
    let table = reader::table("starts", node, sink)?;
    let fields = Fields::new(table, node.span(), "`starts`", KEYS, &[], sink);
    let mut starts = Starts::default();
    if let Some(node) = fields.need("users", sink) {
        let expected = "a list of users such as [\"batch:*\"]";
        for node in reader::list("users", expected, node, sink) {
            if let Some(text) = reader::text("users", node, sink) {
                let (name, is_beginning) = match text.strip_suffix('*') {
                    Some(beginning) => (beginning, true),
                    None => (text, false),
                };
                if name.contains('*') || text.is_empty() {
                    let name = reader::printable(text);
                    sink.report(&node.span(), Problem::StartsUser { name });
                } else if is_beginning {
                    starts.users.push(UserName::BeginsWith(name.into()));
                } else {
                    starts.users.push(UserName::Is(name.into()));
                }
            }
        }
    }
    if let Some(node) = fields.get("scope") {
        starts.scopes = super::condition::scope_list(node, sink);
    }
    if let Some(node) = fields.get("reach") {
        starts.reach = subject::verticals(node, sink);
    }
    if let Some(table) = fields
        .get("claims")
        .and_then(|node| reader::table("claims", node, sink))
    {
        for (key, node) in table {
            let name: &str = key.get_ref();
            if is_reserved_claim(name) || name.is_empty() {
                let name = reader::printable(name);
                sink.report(&key.span(), Problem::ClaimReserved { name });
            } else if let Some(value) = value(name, node, sink) {
                starts.claims.insert(name.to_owned(), value);
            }
        }
    }
    Some(starts)
}

/// A fact about a user: a text, a whole number, a boolean, or a list of those.
fn value(name: &str, node: Node<'_>, sink: &mut Sink<'_>) -> Option<Value> {
    let plain = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(Value::String(text.to_string())),
        DeValue::Boolean(value) => Some(Value::Bool(*value)),
        DeValue::Integer(int) => i64::from_str_radix(int.as_str(), int.radix())
            .ok()
            .map(Value::from),
        _ => None,
    };
    let found = match node.get_ref() {
        DeValue::Array(list) => list
            .iter()
            .map(|node| plain(node.get_ref()))
            .collect::<Option<Vec<_>>>()
            .map(Value::Array),
        one => plain(one),
    };
    if found.is_none() {
        let expected = "a text, a whole number, true or false, or a list of those";
        reader::wrong_type(name, expected, node, sink);
    }
    found
}

/// Claims that only their readers can read.
pub(super) fn private_claims(
    node: Option<Node<'_>>,
    names: &Names,
    sink: &mut Sink<'_>,
) -> Vec<PrivateSpec> {
    let mut out = Vec::new();
    let Some(table) = node.and_then(|n| reader::table("claims", n, sink)) else {
        return out;
    };
    for (key, node) in table {
        let name: &str = key.get_ref();
        if is_reserved_claim(name) || name.is_empty() {
            let name = reader::printable(name);
            sink.report(&key.span(), Problem::ClaimReserved { name });
        }
        let Some(table) = reader::table(name, node, sink) else {
            continue;
        };
        let fields = Fields::new(table, key.span(), "a claim", &["readers"], &[], sink);
        if let Some(node) = fields.need("readers", sink) {
            out.push(PrivateSpec {
                name: name.into(),
                readers: names.who("readers", node, sink),
            });
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

/// Refuses conditions on claims that those who decide cannot read.
pub(super) fn unreadable(name: &str) -> Problem {
    Problem::ConditionOnPrivate {
        claim: reader::printable(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    #[test]
    fn a_fact_about_a_user_is_plain() {
        let text = "a = \"x\"\nb = 7\nc = true\nd = [\"x\", 1]\ne = 1.5\nf = [[1]]\ng = {}\n";
        let table = toml::de::DeTable::parse(text).unwrap();
        let mut sink = Sink::new(text);
        let mut read = Map::new();
        for (key, node) in table.get_ref() {
            if let Some(value) = value(key.get_ref(), node, &mut sink) {
                read.insert(key.get_ref().to_string(), value);
            }
        }
        let want = serde_json::json!({"a": "x", "b": 7, "c": true, "d": ["x", 1]});
        assert_eq!(Value::Object(read), want);
        assert!(!sink.is_empty());
    }
}

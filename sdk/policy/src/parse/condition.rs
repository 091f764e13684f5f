//! `user = { … }` of a rule.

use bulla_identity::SubjectPattern;
use toml::de::DeValue;

use super::reader::{self, Node};
use super::{PrivateSpec, user};
use crate::condition::{ClaimTest, Condition, Number, Operand, Test};
use crate::error::Sink;
use crate::problem::Problem;

/// Reads a condition; `on` are the rule's patterns, whose captures it may name.
///
/// What cannot be read is reported and left out: the policy does not load then.
pub(super) fn condition(
    node: Node<'_>,
    on: &[SubjectPattern],
    private: &[PrivateSpec],
    sink: &mut Sink<'_>,
) -> Condition {
    let mut tests = Vec::new();
    if let Some(table) = reader::table("user", node, sink) {
        if table.is_empty() {
            sink.report(&node.span(), Problem::EmptyCondition);
        }
        for (key, node) in table {
            let claim: &str = key.get_ref();
            if private.iter().any(|spec| *spec.name == *claim) {
                sink.report(&key.span(), user::unreadable(claim));
            }
            let test = if claim == "scope" {
                scopes(node, sink)
            } else {
                self::test(claim, node, on, sink)
            };
            if let Some(test) = test {
                tests.push(ClaimTest {
                    claim: claim.into(),
                    test,
                });
            }
        }
    }
    Condition {
        tests: tests.into(),
    }
}

/// One scope or a list of scopes.
pub(super) fn scope_list(node: Node<'_>, sink: &mut Sink<'_>) -> Vec<Box<str>> {
    match scopes(node, sink) {
        Some(Test::Scopes(scopes)) => scopes.into(),
        _ => Vec::new(),
    }
}

fn scopes(node: Node<'_>, sink: &mut Sink<'_>) -> Option<Test> {
    let one = |node: Node<'_>, sink: &mut Sink<'_>| -> Option<Box<str>> {
        let text = reader::text("scope", node, sink)?;
        // RFC 6749 §3.3: %x21 / %x23-5B / %x5D-7E
        let sound = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if !text.is_empty() && text.bytes().all(sound) && !text.contains(['{', '}']) {
            return Some(text.into());
        }
        let scope = reader::printable(text);
        sink.report(&node.span(), Problem::Scope { scope });
        None
    };
    match node.get_ref() {
        DeValue::String(_) => Some(Test::Scopes(Box::new([one(node, sink)?]))),
        _ => {
            let nodes = reader::list("scope", "a scope or a list of scopes", node, sink);
            let scopes: Vec<_> = nodes.into_iter().filter_map(|n| one(n, sink)).collect();
            Some(Test::Scopes(scopes.into()))
        }
    }
}

fn test(claim: &str, node: Node<'_>, on: &[SubjectPattern], sink: &mut Sink<'_>) -> Option<Test> {
    let table = match node.get_ref() {
        DeValue::Table(table) => table,
        DeValue::Array(_) => {
            let expected = "a value, { any = […] } or { all = […] }";
            reader::wrong_type(claim, expected, node, sink);
            return None;
        }
        _ => return operand(claim, node, on, sink).map(Test::Equals),
    };
    const OPERATORS: &[&str] = &["any", "all", "prefix", "min", "max", "present"];
    let fields = reader::Fields::new(table, node.span(), "a test", OPERATORS, &[], sink);
    if table.keys().any(|k| !OPERATORS.contains(&&**k.get_ref())) {
        return None;
    }
    let range = fields.get("min").is_some() || fields.get("max").is_some();
    let others = ["any", "all", "prefix", "present"];
    let count = others.iter().filter(|o| fields.get(o).is_some()).count() + usize::from(range);
    if count != 1 {
        let claim = reader::printable(claim);
        sink.report(&node.span(), Problem::Operators { claim });
        return None;
    }
    if let Some(node) = fields.get("any") {
        return operands(claim, "any", node, on, sink).map(Test::Any);
    }
    if let Some(node) = fields.get("all") {
        return operands(claim, "all", node, on, sink).map(Test::All);
    }
    if let Some(node) = fields.get("prefix") {
        let text = reader::text("prefix", node, sink)?;
        if text.is_empty() {
            sink.report(&node.span(), Problem::EmptyList { key: "prefix" });
        }
        if text.contains(['{', '}']) {
            let text = reader::printable(text);
            sink.report(&node.span(), Problem::Braces { text });
        }
        return Some(Test::Prefix(text.into()));
    }
    if let Some(node) = fields.get("present") {
        return reader::boolean("present", node, sink).map(Test::Present);
    }
    let bound = |key: &'static str, sink: &mut Sink<'_>| match fields.get(key) {
        Some(node) => number(key, node, sink).map(Some),
        None => Some(None),
    };
    let (min, max) = (bound("min", sink), bound("max", sink));
    let (min, max) = (min?, max?);
    if let (Some(a), Some(b)) = (min, max)
        && above(a, b)
    {
        let claim = reader::printable(claim);
        sink.report(&node.span(), Problem::EmptyRange { claim });
        return None;
    }
    Some(Test::Range { min, max })
}

fn operands(
    claim: &str,
    key: &'static str,
    node: Node<'_>,
    on: &[SubjectPattern],
    sink: &mut Sink<'_>,
) -> Option<Box<[Operand]>> {
    let nodes = reader::list(key, "a list of values", node, sink);
    let out: Vec<_> = nodes
        .into_iter()
        .filter_map(|n| operand(claim, n, on, sink))
        .collect();
    (!out.is_empty()).then(|| out.into())
}

fn operand(
    claim: &str,
    node: Node<'_>,
    on: &[SubjectPattern],
    sink: &mut Sink<'_>,
) -> Option<Operand> {
    match node.get_ref() {
        DeValue::String(text) if text.contains(['{', '}']) => capture(text, node, on, sink),
        DeValue::String(text) => Some(Operand::Text((&**text).into())),
        DeValue::Boolean(value) => Some(Operand::Bool(*value)),
        DeValue::Integer(_) | DeValue::Float(_) => number(claim, node, sink).map(Operand::Number),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            reader::wrong_type(claim, "a string, a number or a boolean", node, sink);
            None
        }
    }
}

fn capture(
    text: &str,
    node: Node<'_>,
    on: &[SubjectPattern],
    sink: &mut Sink<'_>,
) -> Option<Operand> {
    let name = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
    let sound =
        |n: &&str| !n.is_empty() && n.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let Some(name) = name.filter(sound) else {
        let text = reader::printable(text);
        sink.report(&node.span(), Problem::Braces { text });
        return None;
    };
    for pattern in on {
        if !pattern.capture_names().any(|n| n == name) {
            let problem = Problem::UnknownCapture {
                capture: name.to_owned(),
                pattern: pattern.to_string(),
            };
            sink.report(&node.span(), problem);
            return None;
        }
    }
    Some(Operand::Capture(name.into()))
}

fn number(key: &str, node: Node<'_>, sink: &mut Sink<'_>) -> Option<Number> {
    let (parsed, text) = match node.get_ref() {
        DeValue::Integer(int) => (
            i64::from_str_radix(int.as_str(), int.radix())
                .ok()
                .map(Number::Int),
            int.as_str(),
        ),
        DeValue::Float(float) => (
            float
                .as_str()
                .parse::<f64>()
                .ok()
                .filter(|f| f.is_finite())
                .map(Number::Float),
            float.as_str(),
        ),
        _ => {
            reader::wrong_type(key, "a number", node, sink);
            return None;
        }
    };
    if parsed.is_none() {
        let number = reader::printable(text);
        sink.report(&node.span(), Problem::Number { number });
    }
    parsed
}

fn above(a: Number, b: Number) -> bool {
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => a > b,
        (a, b) => a.to_f64() > b.to_f64(),
    }
}

//! A file of cases: `[user.NAME]` and `[[case]]`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bulla_identity::{Claims, SubjectPattern, UnixMillis, WorkloadName};
use serde_json::{Map, Value};
use toml::de::DeValue;

use super::reader::{self, Fields, Node};
use super::when;
use crate::cases::{Case, CaseUser, Cases, Expected};
use crate::error::{PolicyErrors, Sink};
use crate::problem::Problem;
use crate::rule::Verb;
use crate::source;

/// The largest file of cases that is read: 4 MiB.
pub const MAX_CASES_BYTES: usize = 4 << 20;

/// The most questions that one file of cases may ask.
pub const MAX_QUESTIONS: usize = 100_000;

const CASE: &[&str] = &[
    "name", "who", "may", "on", "user", "at", "from", "expect", "rule", "reason", "claim", "would",
];

/// What a user is called who is not there.
const NOBODY: &str = "nobody";

/// Reads a file of cases, or reports every error of it.
pub(crate) fn cases(name: &str, text: &str) -> Result<Cases, PolicyErrors> {
    if text.len() > MAX_CASES_BYTES {
        let mut sink = Sink::new("");
        let problem = Problem::CasesTooLarge {
            limit: MAX_CASES_BYTES,
            actual: text.len(),
        };
        sink.report(&(0..0), problem);
        return Err(sink.finish(name));
    }
    let sources = source::split(name, text);
    let mut sink = Sink::of(&sources);
    let mut out = Cases::default();
    for source in &sources {
        let Some(table) = super::read_toml(source, &mut sink) else {
            continue;
        };
        let table = super::merge::shifted(table, source.span.start);
        let start = source.span.start;
        const KEYS: &[&str] = &["policy", "user", "case"];
        let top = Fields::new(
            &table,
            start..start,
            "a file of cases",
            KEYS,
            &[],
            &mut sink,
        );
        if let Some(node) = top.get("policy") {
            out.policy = reader::text("policy", node, &mut sink).map(str::to_owned);
        }
        let users = users(top.get("user"), &mut sink);
        if let Some(node) = top.need("case", &mut sink) {
            read(node, &users, &mut out, &mut sink);
        }
    }
    if sink.is_empty() {
        Ok(out)
    } else {
        Err(sink.finish(name))
    }
}

type Users = BTreeMap<String, Claims>;

fn users(node: Option<Node<'_>>, sink: &mut Sink<'_>) -> Users {
    let mut out = Users::new();
    let Some(table) = node.and_then(|node| reader::table("user", node, sink)) else {
        return out;
    };
    for (key, node) in table {
        let name: &str = key.get_ref();
        if name == NOBODY {
            let problem = Problem::UnknownValue {
                key: "user",
                value: name.to_owned(),
                allowed: "any other name: `nobody` is a message without a user",
            };
            sink.report(&key.span(), problem);
        }
        if let Some(claims) = claims(name, node, sink) {
            out.insert(name.to_owned(), claims);
        }
    }
    out
}

fn claims(name: &str, node: Node<'_>, sink: &mut Sink<'_>) -> Option<Claims> {
    let table = reader::table(name, node, sink)?;
    let mut map = Map::new();
    for (key, node) in table {
        map.insert(key.get_ref().to_string(), value(key.get_ref(), node, sink)?);
    }
    Some(Claims::from_map(map))
}

/// A claim's value: what JSON has.
fn value(key: &str, node: Node<'_>, sink: &mut Sink<'_>) -> Option<Value> {
    let found = match node.get_ref() {
        DeValue::String(text) => Some(Value::from(&**text)),
        DeValue::Boolean(flag) => Some(Value::from(*flag)),
        DeValue::Integer(int) => i64::from_str_radix(int.as_str(), int.radix())
            .ok()
            .map(Value::from),
        DeValue::Float(float) => float
            .as_str()
            .parse::<f64>()
            .ok()
            .filter(|f| f.is_finite())
            .map(Value::from),
        DeValue::Array(list) => {
            let list = list.iter().map(|node| value(key, node, sink));
            return list.collect::<Option<Vec<_>>>().map(Value::Array);
        }
        DeValue::Table(table) => {
            let mut map = Map::new();
            for (key, node) in table {
                map.insert(key.get_ref().to_string(), value(key.get_ref(), node, sink)?);
            }
            return Some(Value::Object(map));
        }
        DeValue::Datetime(_) => None,
    };
    if found.is_none() {
        let expected = "a value that a token can hold: text, number, boolean, list or table";
        reader::wrong_type(key, expected, node, sink);
    }
    found
}

fn read(node: Node<'_>, users: &Users, out: &mut Cases, sink: &mut Sink<'_>) {
    let Some(array) = node.get_ref().as_array() else {
        reader::wrong_type("case", "a list of tables: write [[case]]", node, sink);
        return;
    };
    let mut questions = 0usize;
    for node in array.iter() {
        let Some(case) = case(node, users, sink) else {
            continue;
        };
        questions = questions.saturating_add(case.questions());
        if questions > MAX_QUESTIONS {
            let problem = Problem::TooManyQuestions {
                limit: MAX_QUESTIONS,
                actual: questions,
            };
            sink.report(&node.span(), problem);
            return;
        }
        out.cases.push(case);
    }
}

fn case(node: Node<'_>, users: &Users, sink: &mut Sink<'_>) -> Option<Case> {
    let table = reader::table("case", node, sink)?;
    let fields = Fields::new(table, node.span(), "a case", CASE, &[], sink);
    let who =
        several(
            "who",
            fields.need("who", sink),
            sink,
            |word, node, sink| match WorkloadName::parse(word) {
                Ok(name) => Some(name),
                Err(source) => {
                    let name = reader::printable(word);
                    sink.report(&node.span(), Problem::Name { name, source });
                    None
                }
            },
        );
    let verbs = several("may", fields.need("may", sink), sink, |word, node, sink| {
        let verb = Verb::parse(word);
        if verb.is_none() {
            let verb = reader::printable(word);
            sink.report(&node.span(), Problem::UnknownVerb { verb });
        }
        verb
    });
    let listens = verbs
        .iter()
        .all(|v| matches!(v, Verb::Subscribe | Verb::Serve));
    let on = several("on", fields.need("on", sink), sink, |word, node, sink| {
        let pattern = match SubjectPattern::parse(word) {
            Ok(pattern) => pattern,
            Err(source) => {
                let pattern = reader::printable(word);
                sink.report(&node.span(), Problem::Pattern { pattern, source });
                return None;
            }
        };
        if !listens && !pattern.is_literal() {
            let subject = pattern.to_string();
            sink.report(&node.span(), Problem::CaseSubject { subject });
        }
        Some(pattern)
    });
    let asked = match fields.get("user") {
        None => vec![CaseUser::nobody()],
        Some(node) if node.get_ref().as_table().is_some() => claims("user", node, sink)
            .into_iter()
            .map(CaseUser::of)
            .collect(),
        Some(node) => several("user", Some(node), sink, |word, node, sink| {
            let known = (word == NOBODY).then(CaseUser::nobody);
            let user = known.or_else(|| Some(CaseUser::named(word, users.get(word)?)));
            if user.is_none() {
                let problem = Problem::CaseUser {
                    name: reader::printable(word),
                    similar: reader::similar(word, users.keys().map(String::as_str))
                        .map(str::to_owned),
                };
                sink.report(&node.span(), problem);
            }
            user
        }),
    };
    let at: Option<UnixMillis> = fields
        .get("at")
        .and_then(|node| when::moment("at", node, sink));
    let from = fields.get("from").and_then(|node| {
        let word = reader::text("from", node, sink)?;
        let address = word.parse::<IpAddr>().ok();
        if address.is_none() {
            let text = reader::printable(word);
            sink.report(
                &node.span(),
                Problem::Network {
                    text,
                    network: None,
                },
            );
        }
        address
    });
    let word = |key: &'static str, sink: &mut Sink<'_>| {
        let node = fields.get(key)?;
        reader::text(key, node, sink).map(str::to_owned)
    };
    let verdict = |key: &'static str, sink: &mut Sink<'_>| {
        let node = fields.get(key)?;
        match reader::text(key, node, sink)? {
            "allow" => Some(true),
            "deny" => Some(false),
            other => {
                let problem = Problem::UnknownValue {
                    key,
                    value: reader::printable(other),
                    allowed: "`allow`, `deny`",
                };
                sink.report(&node.span(), problem);
                None
            }
        }
    };
    let _ = fields.need("expect", sink);
    let allow = verdict("expect", sink);
    if allow == Some(true) {
        for key in ["reason", "claim"] {
            if let Some(node) = fields.get(key) {
                sink.report(&node.span(), Problem::CaseReason { key });
            }
        }
    }
    let place = sink.place_of(node.span().start);
    let name = word("name", sink);
    Some(Case {
        name: name.unwrap_or_else(|| place.to_string()),
        place,
        who,
        verbs,
        on,
        users: asked,
        at,
        from,
        expect: Expected {
            allow: allow.unwrap_or_default(),
            rule: word("rule", sink),
            reason: word("reason", sink),
            claim: word("claim", sink),
            would: verdict("would", sink),
        },
    })
}

/// One word or a list of words.
fn several<'d, T>(
    key: &'static str,
    node: Option<Node<'d>>,
    sink: &mut Sink<'_>,
    mut read: impl FnMut(&'d str, Node<'d>, &mut Sink<'_>) -> Option<T>,
) -> Vec<T> {
    let Some(node) = node else {
        return Vec::new();
    };
    let nodes = match node.get_ref() {
        DeValue::String(_) => vec![node],
        _ => reader::list(key, "a text or a list of texts", node, sink),
    };
    let mut out = Vec::new();
    for node in nodes {
        if let Some(word) = reader::text(key, node, sink) {
            out.extend(read(word, node, sink));
        }
    }
    out
}

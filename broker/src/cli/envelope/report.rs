//! What there is to say about captured bytes, as text and as JSON.

use std::fmt::Write as _;

use bulla_envelope::{Limits, MAX_ENVELOPE, SealedEnvelope, wrapped_to};
use bulla_keyring::{CipherSuite, sha256};
use bytes::Bytes;
use rmpv::Value;
use serde_json::{Map, Value as Json, json};

use super::input::Input;
use super::outline::{Outline, next};
use super::{BAD, DIM, GOOD, STRONG, hex, span, statement, time};

/// What is said about one captured thing.
pub(super) struct Report {
    what: &'static str,
    len: usize,
    form: &'static str,
    /// Why it is malformed: a stable code, and words.
    fault: Option<(&'static str, String)>,
    sections: Vec<Section>,
}

pub(super) struct Section {
    name: &'static str,
    rows: Vec<Row>,
}

/// One fact, for people and for programs.
struct Row {
    key: String,
    label: String,
    json: Json,
    text: String,
}

impl Report {
    pub(super) fn of(input: &Input, body: bool) -> Self {
        let mut report = match statement::kind_of(&input.bytes) {
            Some(kind) => statement::report(kind, &input.bytes),
            None => envelope(&input.bytes, body),
        };
        report.form = input.form.as_str();
        report
    }

    pub(super) fn new(what: &'static str, len: usize) -> Self {
        Self {
            what,
            len,
            form: "raw",
            fault: None,
            sections: Vec::new(),
        }
    }

    pub(super) fn fault(&mut self, code: &'static str, error: &dyn std::error::Error) {
        self.fault = Some((code, super::chain(error)));
    }

    pub(super) const fn is_well_formed(&self) -> bool {
        self.fault.is_none()
    }

    pub(super) fn section(&mut self, name: &'static str, fill: impl FnOnce(&mut Section)) {
        let mut section = Section {
            name,
            rows: Vec::new(),
        };
        fill(&mut section);
        self.sections.push(section);
    }

    pub(super) fn to_json(&self) -> Json {
        let mut out = Map::new();
        out.insert("what".into(), json!(self.what));
        out.insert("bytes".into(), json!(self.len));
        out.insert("form".into(), json!(self.form));
        out.insert("well_formed".into(), json!(self.is_well_formed()));
        if let Some((code, text)) = &self.fault {
            out.insert("reason".into(), json!(code));
            out.insert("error".into(), json!(text));
        }
        for section in &self.sections {
            let rows = section.rows.iter();
            let rows: Map<String, Json> = rows.map(|r| (r.key.clone(), r.json.clone())).collect();
            out.insert(section.name.into(), Json::Object(rows));
        }
        Json::Object(out)
    }

    pub(super) fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = match &self.fault {
            None => writeln!(
                out,
                "{STRONG}{}{STRONG:#}  {} bytes, {GOOD}well-formed{GOOD:#}; nothing is verified",
                self.what, self.len
            ),
            Some((code, text)) => writeln!(
                out,
                "{STRONG}{}{STRONG:#}  {} bytes, {BAD}malformed{BAD:#} ({code}): {text}",
                self.what, self.len
            ),
        };
        for section in self.sections.iter().filter(|s| !s.rows.is_empty()) {
            let _ = writeln!(out, "\n{DIM}{}{DIM:#}", section.name);
            for row in &section.rows {
                let mut lines = row.text.lines();
                let first = lines.next().unwrap_or_default();
                let _ = writeln!(out, "  {:<22}  {first}", row.label);
                for line in lines {
                    let _ = writeln!(out, "  {:<22}  {line}", "");
                }
            }
        }
        out
    }
}

impl Section {
    pub(super) fn row(&mut self, label: &str, json: Json, text: impl Into<String>) {
        self.rows.push(Row {
            key: label.replace([' ', '-'], "_"),
            label: label.to_owned(),
            json,
            text: text.into(),
        });
    }

    pub(super) fn bytes(&mut self, label: &str, bytes: &[u8]) {
        self.row(label, json!(hex(bytes)), hex(bytes));
    }

    pub(super) fn text(&mut self, label: &str, text: &str) {
        self.row(label, json!(text), printable(text));
    }

    pub(super) fn number(&mut self, label: &str, number: u64) {
        self.row(label, json!(number), number.to_string());
    }

    pub(super) fn time(&mut self, label: &str, millis: u64) {
        self.row(label, json!(millis), time(millis));
    }
}

/// Text without what a terminal would act on.
fn printable(text: &str) -> String {
    let plain = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(plain).collect()
}

fn envelope(bytes: &[u8], body: bool) -> Report {
    let mut report = Report::new("envelope", bytes.len());
    if let Err(error) = SealedEnvelope::decode(Bytes::copy_from_slice(bytes)) {
        report.fault(error.code(), &error);
    }
    if bytes.len() > MAX_ENVELOPE {
        return report;
    }
    let outline = Outline::of(bytes);
    report.section("header", |section| header(section, &outline));
    report.section("contents", |section| contents(section, &outline, body));
    report.section("chain", |section| chain(section, &outline));
    report.section("proof", |section| proof(section, &outline));
    report
}

/// The messages that led to it, the nearest first.
fn chain(section: &mut Section, outline: &Outline) {
    for (fields, place) in outline.ancestors.iter().zip(1..) {
        let field = |key: u64| fields.iter().find(|(k, _)| *k == key).map(|(_, v)| v);
        let number = |key| field(key).and_then(Value::as_u64);
        let kind = name_of(&KINDS, number(1).unwrap_or(u64::MAX));
        let key_id = hex(field(2).and_then(Value::as_slice).unwrap_or_default());
        let subject = field(6).and_then(Value::as_str).unwrap_or("unknown");
        let issued = number(7).unwrap_or_default();
        section.row(
            &format!("ancestor {place}"),
            json!({ "kind": kind, "key_id": key_id, "subject": subject, "issued_at": issued }),
            format!(
                "{kind} to {}\nby key {key_id}\n{}",
                printable(subject),
                time(issued)
            ),
        );
    }
}

const KINDS: [&str; 5] = ["event", "request", "reply", "error", "keywrap"];
const ERRORS: [&str; 6] = [
    "",
    "refused",
    "unavailable",
    "failed",
    "too_large",
    "deadline",
];

fn name_of(names: &[&'static str], code: u64) -> &'static str {
    let name = usize::try_from(code).ok().and_then(|code| names.get(code));
    name.copied()
        .filter(|name| !name.is_empty())
        .unwrap_or("unknown")
}

fn header(section: &mut Section, outline: &Outline) {
    if let Some(version) = outline.version {
        section.number("version", version);
    }
    for (key, value) in &outline.fields {
        field(section, *key, value, outline);
    }
}

/// One field of SPEC.md, ENV-10.
fn field(section: &mut Section, key: u64, value: &Value, outline: &Outline) {
    match (key, value) {
        (0, Value::Integer(_)) => {
            let code = value.as_u64().and_then(|code| u8::try_from(code).ok());
            let (name, more) = match code.map(|code| (code, CipherSuite::from_code(code))) {
                Some((0, _)) => ("signed", " (not encrypted)".to_owned()),
                Some((_, Some(suite))) => {
                    let how = format!(" (body encrypted with {})", suite.cipher);
                    (suite.as_str(), how)
                }
                _ => ("unknown", String::new()),
            };
            section.row("suite", json!(name), format!("{name}{more}"));
        }
        (1, Value::Integer(_)) => {
            section.text("kind", name_of(&KINDS, value.as_u64().unwrap_or(u64::MAX)));
        }
        (2, Value::Binary(id)) => section.bytes("key id", id),
        (3, Value::Binary(epoch)) => section.bytes("epoch", epoch),
        (4, Value::Integer(_)) => section.number("sequence", value.as_u64().unwrap_or_default()),
        (5, Value::Binary(ids)) => {
            let ids: Vec<String> = ids.chunks(16).map(hex).collect();
            section.row("ids", json!(ids), ids.join("\n"));
        }
        (6, Value::String(text)) => section.text("subject", text.as_str().unwrap_or("not UTF-8")),
        (7, Value::Integer(_)) => section.time("issued at", value.as_u64().unwrap_or_default()),
        (8, Value::Integer(_)) => {
            let end = value.as_u64().unwrap_or_default();
            section.time("expires at", end);
            if let Some(life) = outline.uint(7).and_then(|start| end.checked_sub(start)) {
                let text = span(life);
                section.row("life", json!(life), text);
            }
        }
        (9, Value::String(text)) => section.text("reply to", text.as_str().unwrap_or("not UTF-8")),
        (10, Value::String(text)) => {
            section.text("content type", text.as_str().unwrap_or("not UTF-8"));
        }
        (11, Value::Binary(hash)) => section.bytes("token hash", hash),
        (12, Value::Binary(bytes)) => limits(section, bytes),
        (13, Value::Binary(leaf)) => section.bytes("request", leaf),
        (14, Value::Integer(_)) => {
            section.number("reply index", value.as_u64().unwrap_or_default());
        }
        (15, Value::Boolean(last)) => {
            section.row(
                "final",
                json!(last),
                if *last { "yes" } else { "no, more follow" },
            );
        }
        (16, Value::Binary(leaf)) => section.bytes("parent", leaf),
        (17, Value::Binary(trace)) if trace.len() == 25 => {
            let (id, rest) = trace.split_at(16);
            let (parent, flags) = rest.split_at(8);
            let text = format!("00-{}-{}-{}", hex(id), hex(parent), hex(flags));
            section.text("traceparent", &text);
        }
        (18, Value::Integer(_)) => {
            section.number("policy revision", value.as_u64().unwrap_or_default());
        }
        (19, Value::Map(entries)) => headers(section, entries),
        (20, Value::Integer(_)) => {
            section.text(
                "error",
                name_of(&ERRORS, value.as_u64().unwrap_or(u64::MAX)),
            );
        }
        (21, Value::Binary(id)) => section.bytes("decision id", id),
        (22, Value::Binary(set)) => section.bytes("recipient set", set),
        (23, Value::Binary(id)) => section.bytes("data-key id", id),
        (24, Value::Binary(nonce)) => section.bytes("nonce", nonce),
        (25, Value::Binary(wrapped)) => wraps(section, wrapped),
        (26, Value::Binary(hash)) => section.bytes("original hash", hash),
        (key, value) => {
            let mut text = value.to_string();
            if text.len() > 200 {
                text = format!("{} characters of MessagePack", text.len());
            }
            section.row(
                &format!("field {key}"),
                json!(text),
                format!(
                    "{}  {DIM}(not as the format has it){DIM:#}",
                    printable(&text)
                ),
            );
        }
    }
}

/// What is left of the user's authority (ENV-110), if they are limits as the format has
/// them.
fn limits(section: &mut Section, bytes: &[u8]) {
    let len = bytes.len();
    let entries = match Limits::decode(bytes) {
        Ok(_) => next(&mut &*bytes),
        Err(error) => {
            let text = format!("{len} bytes, {}", super::chain(&error));
            section.row("limits", json!({ "bytes": len, "error": text }), text);
            return;
        }
    };
    let entries = entries.as_ref().and_then(Value::as_map);
    let mut json = Map::from_iter([("bytes".to_owned(), json!(len))]);
    let mut lines = Vec::new();
    for (key, value) in entries.into_iter().flatten() {
        match key.as_u64() {
            Some(0) => kept(&mut json, &mut lines, "scopes", value),
            Some(1) => kept(&mut json, &mut lines, "reach", value),
            Some(2) => {
                let end = value.as_u64().unwrap_or_default();
                json.insert("until".to_owned(), json!(end));
                lines.push(format!("until {}", time(end)));
            }
            _ => {
                let mut claims = Map::new();
                for (claim, value) in value.as_map().into_iter().flatten() {
                    let claim = claim.as_str().unwrap_or("not text");
                    kept(&mut claims, &mut lines, claim, value);
                }
                json.insert("claims".to_owned(), Json::Object(claims));
            }
        }
    }
    section.row("limits", Json::Object(json), lines.join("\n"));
}

/// What limits keep of one thing.
fn kept(json: &mut Map<String, Json>, lines: &mut Vec<String>, name: &str, value: &Value) {
    let texts = value.as_array().into_iter().flatten();
    let texts: Vec<&str> = texts.filter_map(Value::as_str).collect();
    let shown = if texts.is_empty() {
        "nothing".to_owned()
    } else {
        printable(&texts.join(" "))
    };
    lines.push(format!("{}: {shown}", printable(name)));
    json.insert(name.to_owned(), json!(texts));
}

fn headers(section: &mut Section, entries: &[(Value, Value)]) {
    let texts: Vec<(String, String)> = entries
        .iter()
        .map(|(name, value)| {
            let text = |value: &Value| value.as_str().unwrap_or("not text").to_owned();
            (text(name), text(value))
        })
        .collect();
    let lines: Vec<String> = texts
        .iter()
        .map(|(name, value)| format!("{}: {}", printable(name), printable(value)))
        .collect();
    let json: Map<String, Json> = texts.into_iter().map(|(n, v)| (n, json!(v))).collect();
    section.row("headers", Json::Object(json), lines.join("\n"));
}

fn wraps(section: &mut Section, wrapped: &[u8]) {
    match wrapped_to(wrapped) {
        Ok((expires_at, ids)) => {
            let ids: Vec<String> = ids.iter().map(|id| hex(&id.0)).collect();
            section.time("data key expires at", expires_at.as_millis());
            section.row("wrapped to", json!(ids), ids.join("\n"));
        }
        Err(error) => {
            let text = format!("{} bytes, {}", wrapped.len(), super::chain(&error));
            section.row("wraps", json!(text), text.clone());
        }
    }
}

/// Token and body: never the token, the body only if that is asked for.
fn contents(section: &mut Section, outline: &Outline, show: bool) {
    let encrypted = outline.field(24).is_some();
    match &outline.token {
        Some(Value::Binary(token)) => {
            let is_signed = outline.bytes(11) == Some(&sha256(&[token]));
            let verdict = if is_signed {
                "the one of the header's hash"
            } else {
                "not the one of the header's hash"
            };
            let text = format!("{} bytes, not shown; {verdict}", token.len());
            section.row(
                "user token",
                json!({ "bytes": token.len(), "matches_hash": is_signed }),
                text,
            );
        }
        Some(_) if encrypted && outline.field(11).is_some() => {
            section.row("user token", json!("encrypted"), "encrypted with the body");
        }
        Some(_) => section.row("user token", Json::Null, "none"),
        None => {}
    }
    let Some(body) = &outline.body else { return };
    let len = body.len();
    if encrypted {
        let text = format!("{len} bytes, encrypted");
        section.row("body", json!({ "bytes": len, "encrypted": true }), text);
        return;
    }
    if outline.uint(1) == Some(4) {
        wraps(section, body);
        return;
    }
    section.row(
        "body",
        json!({ "bytes": len, "encrypted": false }),
        format!("{len} bytes"),
    );
    let messages = outline.bytes(5).map_or(1, |ids| ids.len() / 16);
    let bodies: Vec<Vec<u8>> = if messages > 1 {
        let array = next(&mut body.as_slice());
        let bodies = array.as_ref().and_then(Value::as_array).map(Vec::as_slice);
        let bodies = bodies.unwrap_or_default().iter();
        bodies
            .filter_map(Value::as_slice)
            .map(<[u8]>::to_vec)
            .collect()
    } else {
        vec![body.clone()]
    };
    if messages > 1 {
        let sizes: Vec<usize> = bodies.iter().map(Vec::len).collect();
        let text: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        section.row(
            "messages",
            json!(sizes),
            format!("{} of {} bytes", sizes.len(), text.join(", ")),
        );
    }
    if show {
        for (at, body) in bodies.iter().enumerate() {
            let label = if messages > 1 {
                format!("content {at}")
            } else {
                "content".to_owned()
            };
            let (json, text) = shown(body);
            section.row(&label, json, text);
        }
    }
}

/// A body as text if it is some, as hexadecimal digits if not; as much as is
/// fit for a screen.
fn shown(body: &[u8]) -> (Json, String) {
    const MOST: usize = 4096;
    match std::str::from_utf8(body) {
        Ok(text) => {
            let start: String = text.chars().take(MOST).collect();
            let more = if start.len() < text.len() {
                "\n…"
            } else {
                ""
            };
            let lines: Vec<String> = start.lines().map(printable).collect();
            (
                json!({ "text": text }),
                format!("{}{more}", lines.join("\n")),
            )
        }
        Err(_) => {
            let lines: Vec<String> = body.chunks(32).take(MOST / 32).map(hex).collect();
            let more = if body.len() > MOST { "\n…" } else { "" };
            (
                json!({ "hex": hex(body) }),
                format!("{}{more}", lines.join("\n")),
            )
        }
    }
}

fn proof(section: &mut Section, outline: &Outline) {
    match outline.proof.as_deref() {
        Some([index, count, path, Value::Binary(signature)]) => {
            if let (Some(index), Some(count)) = (index.as_u64(), count.as_u64()) {
                let place = json!({ "index": index, "count": count });
                let text = if count == 1 {
                    "alone under its signature".to_owned()
                } else {
                    format!(
                        "number {} of {count} under one signature",
                        index.saturating_add(1)
                    )
                };
                section.row("batch", place, text);
            }
            if let Some(path) = path.as_slice().filter(|path| !path.is_empty()) {
                let nodes: Vec<String> = path.chunks(24).map(hex).collect();
                section.row("path", json!(nodes), format!("{} nodes", nodes.len()));
            }
            section.bytes("signature", signature);
        }
        Some([Value::Binary(mac)]) => {
            section.row(
                "code",
                json!(hex(mac)),
                format!("{}  (for the requester alone, no signature)", hex(mac)),
            );
        }
        Some(_) => section.row(
            "proof",
            json!("not as the format has it"),
            "not as the format has it",
        ),
        None => {}
    }
    if let (Some(body), Ok(len)) = (&outline.body, u32::try_from(outline.header.len())) {
        let leaf = sha256(&[
            &[0x00, 0x01],
            &len.to_be_bytes(),
            &outline.header,
            &sha256(&[body]),
        ]);
        section.bytes("leaf", &leaf);
    }
}

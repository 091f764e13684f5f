//! What else is found on the bus: credentials, requests, KEM records, bundles, policies.

use bulla_envelope::{Credential, CredentialRequest, KemRecord};
use bulla_keyring::KemSuite;
use rmpv::Value;
use serde_json::json;

use super::hex;
use super::outline::next;
use super::report::{Report, Section};

/// Something signed that is no envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statement {
    Credential,
    Request,
    KemRecord,
    Bundle,
    Policy,
}

/// What these bytes seem to be, by their shape; nothing for an envelope.
pub(super) fn kind_of(bytes: &[u8]) -> Option<Statement> {
    let value = next(&mut &*bytes)?;
    let parts = value.as_array()?;
    if parts.len() == 4 && statement(parts).is_some() {
        return Some(Statement::Request);
    }
    if parts.len() != 2 {
        return None;
    }
    let inner = statement(parts)?;
    match (inner.len(), inner.get(1)?, inner.get(2)?) {
        (7, Value::Binary(_), _) => Some(Statement::Credential),
        // A head has as many elements, and a key here.
        (9, Value::String(_), Value::Integer(_)) => Some(Statement::Bundle),
        // As many as a credential's, which has no text at its end.
        (7, Value::String(_), Value::Binary(_)) if inner.last().is_some_and(Value::is_str) => {
            Some(Statement::Policy)
        }
        (5, ..) => Some(Statement::KemRecord),
        _ => None,
    }
}

fn statement(parts: &[Value]) -> Option<Vec<Value>> {
    let bytes = parts.first()?.as_slice()?;
    next(&mut &*bytes)?.as_array().cloned()
}

pub(super) fn report(kind: Statement, bytes: &[u8]) -> Report {
    match kind {
        Statement::Credential => credential(bytes),
        Statement::Request => request(bytes),
        Statement::KemRecord => kem_record(bytes),
        Statement::Bundle => bundle(bytes),
        Statement::Policy => policy(bytes),
    }
}

fn credential(bytes: &[u8]) -> Report {
    let mut report = Report::new("credential", bytes.len());
    match Credential::decode(bytes) {
        Ok(credential) => {
            report.section("claims", |section| {
                section.bytes("key id", credential.id().as_bytes());
                section.bytes("hash", credential.hash());
                asked(section, credential.request());
                section.time("not before", credential.not_before().as_millis());
                section.time("expires at", credential.expires_at().as_millis());
                section.bytes("serial", credential.serial());
            });
        }
        Err(error) => report.fault(error.code(), &error),
    }
    report
}

fn request(bytes: &[u8]) -> Report {
    let mut report = Report::new("request for a credential", bytes.len());
    match CredentialRequest::decode(bytes) {
        Ok(request) => report.section("statement", |section| asked(section, &request)),
        Err(error) => report.fault(error.code(), &error),
    }
    report
}

fn asked(section: &mut Section, request: &CredentialRequest) {
    section.text("workload", request.claimed_workload().as_str());
    section.bytes("message key", request.signing_key().as_bytes());
    match request.token_key() {
        Some(key) => section.bytes("token key", key.as_bytes()),
        None => section.row("token key", json!(null), "none: it mints no tokens"),
    }
    match request.process_keys() {
        Some(keys) => {
            section.bytes("xwing key id", &keys.xwing.id().0);
            section.bytes("x25519 key id", &keys.x25519.id().0);
            section.bytes("exchange key", keys.exchange.as_bytes());
        }
        None => section.row(
            "process keys",
            json!(null),
            "none: nothing encrypted is answered to it",
        ),
    }
    section.bytes("instance", request.instance());
    section.time("requested at", request.requested_at().as_millis());
}

fn kem_record(bytes: &[u8]) -> Report {
    let mut report = Report::new("KEM record", bytes.len());
    match KemRecord::decode(bytes) {
        Ok(record) => {
            report.section("statement", |section| {
                section.text("workload", record.claimed_workload().as_str());
                section.number("key version", record.version());
                section.text("nkey", &record.nkey().to_string());
                for suite in KemSuite::ALL {
                    let id = record.key(suite).id();
                    section.bytes(&format!("{suite} key id"), &id.0);
                }
            });
        }
        Err(error) => report.fault(error.code(), &error),
    }
    report
}

/// Bundles and policies are decoded only by who can prove them; here their
/// statement is shown as it stands.
fn bundle(bytes: &[u8]) -> Report {
    let mut report = Report::new("trust bundle", bytes.len());
    report.section("statement", |section| {
        bundle_statement(section, &parts(bytes))
    });
    report
}

fn bundle_statement(section: &mut Section, parts: &[Value]) {
    let [
        _,
        domain,
        version,
        issued_at,
        expires_at,
        root,
        former_roots,
        issuing,
        policy_keys,
    ] = parts
    else {
        return;
    };
    section.text("trust domain", domain.as_str().unwrap_or_default());
    section.number("version", version.as_u64().unwrap_or_default());
    section.time("issued at", issued_at.as_u64().unwrap_or_default());
    section.time("expires at", expires_at.as_u64().unwrap_or_default());
    let root = root.as_slice().map(hex).unwrap_or_default();
    section.text("root", &root);
    let former: Vec<String> = list(former_roots)
        .iter()
        .filter_map(|entry| Some(hex(entry.as_array()?.first()?.as_slice()?)))
        .collect();
    if !former.is_empty() {
        section.row("former roots", json!(former), former.join("\n"));
    }
    let issuing: Vec<(String, u64)> = list(issuing)
        .iter()
        .filter_map(|entry| match entry.as_array()?.as_slice() {
            [key, end] => Some((hex(key.as_slice()?), end.as_u64()?)),
            _ => None,
        })
        .collect();
    let lines: Vec<String> = issuing
        .iter()
        .map(|(key, end)| format!("{key} until {}", super::time(*end)))
        .collect();
    let keys: Vec<&String> = issuing.iter().map(|(key, _)| key).collect();
    section.row("issuing keys", json!(keys), lines.join("\n"));
    let keys: Vec<String> = list(policy_keys)
        .iter()
        .filter_map(|key| Some(hex(key.as_slice()?)))
        .collect();
    section.row("policy keys", json!(keys), keys.join("\n"));
}

fn policy(bytes: &[u8]) -> Report {
    let mut report = Report::new("signed policy", bytes.len());
    report.section("statement", |section| {
        policy_statement(section, &parts(bytes))
    });
    report
}

fn policy_statement(section: &mut Section, parts: &[Value]) {
    let [_, domain, key, revision, issued_at, comment, text] = parts else {
        return;
    };
    section.text("trust domain", domain.as_str().unwrap_or_default());
    section.bytes("policy key", key.as_slice().unwrap_or_default());
    section.number("revision", revision.as_u64().unwrap_or_default());
    section.time("signed at", issued_at.as_u64().unwrap_or_default());
    section.text("comment", comment.as_str().unwrap_or_default());
    let text = text.as_str().unwrap_or_default();
    section.row(
        "text",
        json!({ "bytes": text.len() }),
        format!("{} lines", text.lines().count()),
    );
}

fn parts(bytes: &[u8]) -> Vec<Value> {
    let value = next(&mut &*bytes);
    let parts = value.as_ref().and_then(Value::as_array);
    parts.and_then(|parts| statement(parts)).unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

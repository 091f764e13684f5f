//! Removed, altered, moved, forged, cut off: each is found.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use bulla_audit::{
    BundleInForce, Chain, Entry, Event, Gap, HeadStatement, Key, Report, Trust, Uses, Verifier,
    Writer,
};
use bulla_envelope::{
    CredentialIssuer, CredentialRequest, IssuingKey, RequestDraft, RequestExpectation, Terms,
    TrustBundle,
};
use bulla_identity::{NkeyKind, TrustDomain, UnixMillis, WorkloadId};
use bulla_keyring::{NkeySeed, SigningKey};
use bulla_policy::Policy;
use data_encoding::{BASE64, HEXLOWER};

const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);

fn later(seconds: u64) -> UnixMillis {
    NOW.saturating_add(Duration::from_secs(seconds))
}

fn domain() -> TrustDomain {
    TrustDomain::parse("acme.example").unwrap()
}

struct Keys {
    root: SigningKey,
    issuing: SigningKey,
    bundle: Vec<u8>,
}

impl Keys {
    fn new() -> Self {
        let (root, issuing) = (
            SigningKey::from_seed(&[1; 32]),
            SigningKey::from_seed(&[2; 32]),
        );
        let expires_at = later(86_400);
        let bundle = TrustBundle {
            trust_domain: domain(),
            version: 1,
            issued_at: NOW,
            expires_at,
            root: *root.verifying_key(),
            former_roots: Vec::new(),
            issuing: vec![IssuingKey {
                key: *issuing.verifying_key(),
                expires_at,
            }],
            policy_keys: Vec::new(),
        };
        let bundle = bundle.sign(&root).unwrap();
        Self {
            root,
            issuing,
            bundle,
        }
    }

    fn trust(&self) -> Trust {
        Trust::new(vec![*self.root.verifying_key()], domain())
    }
}

fn uses(n: u64) -> Event {
    Event::Uses(Uses {
        from: n,
        to: n,
        rules: Vec::new(),
        uncounted: n,
    })
}

/// A broker's chain of twelve entries: its bundle, its key, six entries, a head, two more,
/// a head.
fn log(keys: &Keys) -> Vec<String> {
    log_of(Writer::broker([7; 8]), keys, &keys.issuing)
}

fn log_of(writer: Writer, keys: &Keys, signing: &SigningKey) -> Vec<String> {
    let mut chain = Chain::new(writer);
    let name = *signing.verifying_key().as_bytes();
    let mut lines = Vec::new();
    let bundle = BundleInForce {
        version: 1,
        record: BASE64.encode(&keys.bundle),
    };
    lines.push(chain.append(NOW, &Event::Bundle(bundle)).unwrap());
    let key = Event::Key(Key::Issuing(HEXLOWER.encode(&name)));
    lines.push(chain.append(NOW, &key).unwrap());
    let seal = |chain: &mut Chain, at| {
        let sign = |head: &HeadStatement<'_>| Some(head.sign(signing));
        chain.seal(at, name, sign).unwrap().unwrap()
    };
    for n in 0..6 {
        lines.push(chain.append(later(n), &uses(n)).unwrap());
    }
    lines.push(seal(&mut chain, later(10)));
    for n in 11..13 {
        lines.push(chain.append(later(n), &uses(n)).unwrap());
    }
    lines.push(seal(&mut chain, later(20)));
    lines
}

fn verify(lines: &[String], keys: &Keys, head: Option<&str>) -> Report {
    let mut verifier = Verifier::new(Some(keys.trust()));
    if let Some(head) = head {
        verifier.expect(head.as_bytes()).unwrap();
    }
    for line in lines {
        verifier.entry(line.as_bytes(), None);
    }
    verifier.finish(true)
}

fn codes(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|f| f.fault.code()).collect()
}

/// Does it over again from entry `at` on, as somebody can who knows the format.
fn rechain(lines: &mut [String], at: usize) {
    for n in at..lines.len() {
        let before = bulla_audit::EntryHash::of(lines[n - 1].as_bytes()).to_string();
        let mut value: serde_json::Value = serde_json::from_str(&lines[n]).unwrap();
        value["prev"] = before.into();
        value["seq"] = ((n + 1) as u64).into();
        lines[n] = value.to_string();
    }
}

#[test]
fn aud_4_a_whole_log_is_good() {
    let keys = Keys::new();
    let report = verify(&log(&keys), &keys, None);
    assert_eq!(codes(&report), [""; 0]);
    let writer = &report.writers[0];
    assert_eq!((writer.first, writer.last, writer.head), (1, 12, Some(12)));
    assert!(report.keys_proven);
    // What is stored twice because an answer was lost is no finding.
    let mut lines = log(&keys);
    lines.insert(6, lines[5].clone());
    let report = verify(&lines, &keys, None);
    assert_eq!(codes(&report), [""; 0]);
    assert_eq!(report.writers[0].duplicates, 1);
}

#[test]
fn aud_4_a_removed_entry_is_found() {
    let keys = Keys::new();
    let mut lines = log(&keys);
    lines.remove(4);
    let report = verify(&lines, &keys, None);
    assert_eq!(codes(&report), ["removed"]);
    assert_eq!(report.findings[0].seq, 5);

    let mut lines = log(&keys);
    lines.drain(..3);
    let mut verifier = Verifier::new(None);
    for line in &lines {
        verifier.entry(line.as_bytes(), None);
    }
    let codes: Vec<_> = verifier
        .finish(true)
        .findings
        .iter()
        .map(|f| f.fault.code())
        .collect();
    assert_eq!(codes, ["unknown_key", "unknown_key", "missing_start"]);
}

#[test]
fn aud_4_an_altered_entry_is_found() {
    let keys = Keys::new();
    let mut lines = log(&keys);
    lines[4] = lines[4].replace("\"uncounted\":2", "\"uncounted\":9");
    let report = verify(&lines, &keys, None);
    assert_eq!(codes(&report), ["altered"]);
    assert_eq!(report.findings[0].seq, 5);
    // Who writes the chain anew from there cannot sign the heads.
    rechain(&mut lines, 5);
    assert_eq!(
        codes(&verify(&lines, &keys, None)),
        ["bad_head", "bad_head"]
    );
}

#[test]
fn aud_4_a_removal_is_not_hidden_by_counting_anew() {
    let keys = Keys::new();
    let mut lines = log(&keys);
    lines.remove(4);
    rechain(&mut lines, 4);
    assert_eq!(
        codes(&verify(&lines, &keys, None)),
        ["bad_head", "bad_head"]
    );
}

#[test]
fn aud_4_a_moved_entry_is_found() {
    let keys = Keys::new();
    let mut lines = log(&keys);
    let moved = lines.remove(4);
    lines.insert(7, moved);
    let report = verify(&lines, &keys, None);
    assert_eq!(codes(&report), ["reordered"]);
    assert_eq!(report.findings[0].seq, 5);
}

#[test]
fn aud_5_a_head_by_another_key_is_found() {
    let keys = Keys::new();
    let thief = SigningKey::from_seed(&[9; 32]);
    // It names its own key, so that every signature is right.
    let lines = log_of(Writer::broker([8; 8]), &keys, &thief);
    let report = verify(&lines, &keys, None);
    assert_eq!(codes(&report), ["unproven_key"]);
    // And under the broker's name, over the broker's own entries.
    let mut mixed = log(&keys);
    mixed.pop();
    let mut chain = Chain::new(Writer::broker([7; 8]));
    for line in &mixed {
        let entry = Entry::decode(line.as_bytes()).unwrap();
        assert_eq!(chain.append(entry.at, &entry.event).unwrap(), *line);
    }
    let name = *keys.issuing.verifying_key().as_bytes();
    let sign = |head: &HeadStatement<'_>| Some(head.sign(&thief));
    mixed.push(chain.seal(later(20), name, sign).unwrap().unwrap());
    assert_eq!(codes(&verify(&mixed, &keys, None)), ["bad_head"]);
}

#[test]
fn aud_5_a_head_is_for_one_writer_one_place_and_one_time() {
    let keys = Keys::new();
    for (from, to) in [
        ("broker.0707070707070707", "broker.0808080808080808"),
        ("\"at\":1800000020000", "\"at\":1800000021000"),
    ] {
        let lines: Vec<String> = log(&keys).iter().map(|l| l.replace(from, to)).collect();
        let found = codes(&verify(&lines, &keys, None));
        assert!(found.contains(&"bad_head"), "{found:?}");
    }
}

#[test]
fn aud_6_a_truncated_tail_is_found_by_an_exported_head() {
    let keys = Keys::new();
    let lines = log(&keys);
    let head = lines[11].as_str();
    let mut cut = lines.clone();
    cut.truncate(9);
    // By itself nothing is wrong with it.
    assert_eq!(codes(&verify(&cut, &keys, None)), [""; 0]);
    let mut verifier = Verifier::new(Some(keys.trust()));
    verifier.expect(lines[1].as_bytes()).unwrap();
    verifier.expect(head.as_bytes()).unwrap();
    for line in &cut {
        verifier.entry(line.as_bytes(), None);
    }
    assert_eq!(codes(&verifier.finish(true)), ["truncated"]);
    // All of it.
    let mut verifier = Verifier::new(None);
    verifier.expect(lines[1].as_bytes()).unwrap();
    verifier.expect(head.as_bytes()).unwrap();
    assert_eq!(codes(&verifier.finish(true)), ["truncated"]);
}

#[test]
fn aud_6_a_rewritten_chain_contradicts_an_exported_head() {
    let keys = Keys::new();
    let lines = log(&keys);
    // Whoever holds the writer's key can write everything anew, and is found by a head
    // that somebody has kept.
    let mut anew = log_of(Writer::broker([7; 8]), &keys, &keys.issuing);
    anew[4] = anew[4].replace("\"uncounted\":2", "\"uncounted\":9");
    let mut chain = Chain::new(Writer::broker([7; 8]));
    let name = *keys.issuing.verifying_key().as_bytes();
    for line in &mut anew {
        let entry = Entry::decode(line.as_bytes()).unwrap();
        *line = match &entry.event {
            Event::Head(_) => chain
                .seal(entry.at, name, |head| Some(head.sign(&keys.issuing)))
                .unwrap()
                .unwrap(),
            event => chain.append(entry.at, event).unwrap(),
        };
    }
    assert_eq!(codes(&verify(&anew, &keys, None)), [""; 0]);
    let mut verifier = Verifier::new(Some(keys.trust()));
    verifier.expect(lines[1].as_bytes()).unwrap();
    verifier.expect(lines[8].as_bytes()).unwrap();
    for line in &anew {
        verifier.entry(line.as_bytes(), None);
    }
    assert_eq!(codes(&verifier.finish(true)), ["contradicts_head"]);
}

#[test]
fn aud_7_a_gap_is_told() {
    let keys = Keys::new();
    let mut chain = Chain::new(Writer::broker([7; 8]));
    let gap = Gap {
        denies: 3,
        ..Gap::default()
    };
    let lines = vec![chain.append(NOW, &Event::Gap(gap)).unwrap()];
    let report = verify(&lines, &keys, None);
    assert_eq!(codes(&report), ["gap"]);
    assert!(!report.findings[0].fault.is_tampering());
    assert_eq!(report.writers[0].gap.denies, 3);
}

#[test]
fn aud_1_an_entry_under_anothers_subject_is_found() {
    let keys = Keys::new();
    let mut verifier = Verifier::new(Some(keys.trust()));
    let other = Writer::broker([9; 8]);
    verifier.entry(log(&keys)[0].as_bytes(), Some(&other));
    verifier.entry(b"rubbish", Some(&other));
    assert_eq!(
        codes(&verifier.finish(true)),
        ["foreign_writer", "malformed"]
    );
}

#[test]
fn aud_5_a_workloads_heads_are_by_its_own_credential() {
    let keys = Keys::new();
    let nkey = NkeySeed::from_random(NkeyKind::User, &[3; 32]).unwrap();
    let policy = |nkey: &NkeySeed| {
        let text = format!(
            "version = 1\ntrust_domain = \"acme.example\"\n[workload.orders]\nattest = [{{ nkey = \"{}\" }}]\n",
            nkey.public()
        );
        Policy::parse("p.toml", &text).unwrap()
    };
    let id = WorkloadId::parse("spiffe://acme.example/orders").unwrap();
    let message = SigningKey::from_seed(&[4; 32]);
    let request = RequestDraft {
        workload: &id,
        message_key: &message,
        process_keys: None,
        token_key: None,
        instance: [5; 16],
        challenge: [6; 32],
        requested_at: NOW,
    }
    .sign(Some(&nkey));
    let request = CredentialRequest::decode(&request).unwrap();
    let request = request
        .verify(&RequestExpectation {
            tag: id.tag(),
            challenge: &[6; 32],
            anchors: (&[nkey.public()]).into(),
            now: NOW,
            skew: Duration::ZERO,
            max_age: Duration::from_secs(60),
        })
        .unwrap();
    let terms = Terms {
        not_before: NOW,
        expires_at: later(3_600),
        serial: [8; 16],
    };
    let issuer = CredentialIssuer::new(SigningKey::from_seed(&[2; 32]));
    let credential = issuer.issue(&request, terms).unwrap();
    let key = Event::Key(Key::Credential(BASE64.encode(credential.as_bytes())));

    let write = |writer: Writer, key: &Event, at: UnixMillis| {
        let mut chain = Chain::new(writer);
        let first = chain.append(NOW, key).unwrap();
        let sign = |head: &HeadStatement<'_>| Some(head.sign(&message));
        let head = chain.seal(at, *credential.hash(), sign).unwrap().unwrap();
        [first, head]
    };
    let own = Writer::workload(id.tag(), [1; 16]);
    let judge = |lines: &[String; 2], policy: Option<Policy>| {
        let mut trust = keys.trust();
        trust.add_bundle(&keys.bundle).unwrap();
        if let Some(policy) = policy {
            trust.add_policy(policy);
        }
        let mut verifier = Verifier::new(Some(trust));
        for line in lines {
            verifier.entry(line.as_bytes(), None);
        }
        codes(&verifier.finish(true))
    };
    let good = write(own.clone(), &key, later(10));
    assert_eq!(judge(&good, Some(policy(&nkey))), [""; 0]);
    // Nobody's word but the broker's.
    assert_eq!(judge(&good, None), ["unproven_key"]);
    let other = NkeySeed::from_random(NkeyKind::User, &[33; 32]).unwrap();
    assert_eq!(judge(&good, Some(policy(&other))), ["unproven_key"]);
    // After its end.
    let late = write(own, &key, later(4_000));
    assert_eq!(judge(&late, Some(policy(&nkey))), ["unproven_key"]);
    // In another workload's chain.
    let tag = WorkloadId::parse("spiffe://acme.example/other")
        .unwrap()
        .tag();
    let foreign = write(Writer::workload(tag, [1; 16]), &key, later(10));
    assert_eq!(
        judge(&foreign, Some(policy(&nkey))),
        ["foreign_key", "unknown_key"]
    );
}

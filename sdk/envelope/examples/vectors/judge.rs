//! What this crate says about a vector.

use std::sync::Arc;
use std::time::Duration;

use bulla_envelope::{
    CheckedEnvelope, Comparison, Credential, CredentialRequest, Expectation, Head, KemRecord,
    KeyReference, Kind, LeafHash, Limits, Mark, OpenedEnvelope, OpeningKey, PolicyCandidate,
    ReplayLimits, ReplayWindow, RequestExpectation, RevocationList, SealedEnvelope, SignedPolicy,
    TrustBundle, VerifiedCredential, VerifiedRoots,
};
use bulla_identity::{Claims, Nkey, TrustDomain, UnixMillis, Verified, WorkloadId};
use bulla_keyring::{
    Anchors, CertificateAuthorities, ExchangeSecret, KemSecret, KemSuite, MacKey, VerifyingKey,
};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::file::{Chain, File, Octets, Vector, With, hex, unhex};

#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub verdict: &'static str,
    pub stage: Option<&'static str>,
    pub reason: Option<&'static str>,
    pub gives: Option<Value>,
}

type Verdict<T> = Result<T, (&'static str, &'static str)>;

/// Judges a vector by what the file says beside it.
pub fn judge(file: &File, vector: &Vector) -> Outcome {
    let with = vector.with.or(&file.defaults);
    let bytes = vector
        .bytes
        .as_ref()
        .map(Octets::to_vec)
        .unwrap_or_default();
    let verdict = match vector.what.as_str() {
        "envelope" => envelope(file, &with, &bytes),
        "credential" => credential(file, &with, &bytes),
        "credential-request" => request(file, &with, &bytes),
        "trust-bundle" => open_bundle(&with, &bytes).map(|bundle| bundle_json(&bundle)),
        "trust-bundle-succession" => bundle_succession(&with, &bytes),
        "policy" => open_policy(file, &with, &bytes).map(|policy| policy_json(&policy)),
        "policy-candidate" => open_candidate(file, &with, &bytes).map(|c| policy_json(&c.0)),
        "policy-succession" => policy_succession(file, &with, &bytes),
        "limits" => limits(&with, &bytes),
        "kem-record" => kem_record(&with, &bytes),
        "head" => open_head(file, &with, &bytes).map(|head| head_json(&head)),
        "head-about-revocations" => head_about(file, &with, &bytes),
        "revocations" => open_revocations(file, &with, &bytes).map(|list| revocations_json(&list)),
        "revocations-succession" => revocations_succession(file, &with, &bytes),
        "replay" => return replay(file, &with, vector),
        what => panic!("`{what}` is nothing that there are vectors of"),
    };
    match verdict {
        Ok(gives) => Outcome {
            verdict: "accept",
            stage: None,
            reason: None,
            gives: Some(gives),
        },
        Err((stage, reason)) => Outcome {
            verdict: "refuse",
            stage: Some(stage),
            reason: Some(reason),
            gives: None,
        },
    }
}

fn envelope(file: &File, with: &With, bytes: &[u8]) -> Verdict<Value> {
    let opened = open(file, with, bytes, None);
    // ENV-25: what is remembered changes no verdict, neither when it is put
    // there nor when it is found.
    let roots = VerifiedRoots::new();
    for _ in 0..2 {
        let with_roots = open(file, with, bytes, Some(&roots));
        assert_eq!(
            opened.as_ref().map(OpenedEnvelope::leaf),
            with_roots.as_ref().map(OpenedEnvelope::leaf)
        );
    }
    opened.map(|opened| envelope_json(&opened))
}

fn open(
    file: &File,
    with: &With,
    bytes: &[u8],
    roots: Option<&VerifiedRoots>,
) -> Verdict<OpenedEnvelope> {
    let credential = named_credential(file, with.credential.as_deref().unwrap());
    let sealed =
        SealedEnvelope::decode(Bytes::copy_from_slice(bytes)).map_err(|e| ("decode", e.code()))?;
    let authentic = match (&with.requester, roots) {
        (Some(requester), _) => {
            let key = code_key(file, &credential, requester);
            sealed.verify_mac(&credential, &key)
        }
        (None, Some(roots)) => sealed.verify_with(&credential, roots),
        (None, None) => sealed.verify(&credential),
    };
    let kinds: Vec<Kind> = with.kinds.iter().flatten().map(|name| kind(name)).collect();
    let checked = authentic
        .map_err(|e| ("verify", e.code()))?
        .check(&Expectation {
            subject: with.subject.as_deref().unwrap(),
            kinds: &kinds,
            ..expectation(with)
        })
        .map_err(|e| ("check", e.code()))?;
    let least = with.suite.as_deref().map(suite);
    if !checked.suite().is_at_least(least) {
        return Err(("suite", "weak_suite"));
    }
    if let (Some(used), Some(asked)) = (checked.suite().ciphers(), with.cipher.as_deref())
        && used.cipher.as_str() != asked
    {
        return Err(("suite", "other_cipher"));
    }
    let encrypted = checked.kind() != Kind::KeyWrap;
    match checked.key_reference().filter(|_| encrypted) {
        None => checked.open_clear(),
        Some(reference) => {
            let key = opening_key(file, with, &credential, &checked, reference)?;
            checked.decrypt(&key)
        }
    }
    .map_err(|e| ("open", e.code()))
    .and_then(|opened| match &with.chain {
        None => Ok(opened),
        Some(chain) => check_chain(file, with, chain, opened),
    })
}

/// ENV-83 to ENV-86.
fn check_chain(
    file: &File,
    with: &With,
    chain: &Chain,
    opened: OpenedEnvelope,
) -> Verdict<OpenedEnvelope> {
    let roots = VerifiedRoots::new();
    let senders: Result<Vec<_>, _> = opened
        .ancestors()
        .zip(&chain.senders)
        .map(|(ancestor, sender)| ancestor.verify(&named_credential(file, sender), &roots))
        .collect();
    let max_age = Duration::from_millis(with.max_age.unwrap());
    senders
        .and_then(|senders| {
            opened.check_chain(&senders, &chain.minter, skew(with), |ancestor| {
                ancestor.over_at(max_age)
            })
        })
        .map_err(|e| ("chain", e.code()))?;
    Ok(opened)
}

fn expectation(with: &With) -> Expectation<'_> {
    Expectation {
        subject: "",
        reply_to: with.reply_to.as_deref(),
        kinds: &[],
        now: now(with),
        skew: skew(with),
        max_age: Duration::from_millis(with.max_age.unwrap()),
        not_before: UnixMillis::from_millis(with.not_before.unwrap()),
        request: with
            .request
            .as_deref()
            .map(|leaf| LeafHash(unhex(leaf).try_into().unwrap())),
    }
}

fn code_key(file: &File, responder: &VerifiedCredential, requester: &str) -> MacKey {
    let seed = unhex(&file.exchange_keys[requester].seed)
        .try_into()
        .unwrap();
    let peer = responder.credential().request().process_keys().unwrap();
    ExchangeSecret::from_seed(&seed)
        .mac_key(
            &peer.exchange,
            responder.credential().hash(),
            named_credential(file, requester).credential().hash(),
        )
        .unwrap()
}

/// The data key, from the header or else from its record.
fn opening_key(
    file: &File,
    with: &With,
    credential: &VerifiedCredential,
    checked: &CheckedEnvelope,
    reference: KeyReference,
) -> Verdict<OpeningKey> {
    let record = with.record.as_ref().map(Octets::to_vec);
    let wraps = match (checked.inline_wraps(), record) {
        (Some(wraps), _) => wraps,
        (None, Some(record)) => key_record(with, credential, &record, &reference)?,
        (None, None) => return Err(("open", "data_key_missing")),
    };
    let own: Vec<_> = file
        .kem_keys
        .iter()
        .filter(|key| Some(&key.reader) == with.reader.as_ref())
        .collect();
    let workload = WorkloadId::parse(&own[0].workload).unwrap();
    let secrets: Vec<KemSecret> = own
        .iter()
        .map(|key| KemSecret::from_seed(suite(&key.suite), &unhex(&key.secret).try_into().unwrap()))
        .collect();
    let domain = TrustDomain::parse(with.trust_domain.as_deref().unwrap()).unwrap();
    OpeningKey::unwrap(reference, &wraps, &domain, &workload, |id| {
        secrets.iter().find(|secret| secret.public().id() == id)
    })
    .map_err(|e| ("open", e.code()))
}

/// ENV-76: the wraps in a record, which is an envelope of the same sender.
fn key_record(
    with: &With,
    credential: &VerifiedCredential,
    bytes: &[u8],
    reference: &KeyReference,
) -> Verdict<Bytes> {
    let refused = |reason| ("record", reason);
    let sealed =
        SealedEnvelope::decode(Bytes::copy_from_slice(bytes)).map_err(|e| refused(e.code()))?;
    let subject = sealed.subject_unverified().to_owned();
    let checked = sealed
        .verify(credential)
        .map_err(|e| refused(e.code()))?
        .check(&Expectation {
            subject: &subject,
            kinds: &[Kind::KeyWrap],
            ..expectation(with)
        })
        .map_err(|e| refused(e.code()))?;
    if checked.key_reference().as_ref() != Some(reference) {
        return Err(refused("wrong_data_key"));
    }
    let place = format!(
        "$BULLA.KEYS.{}.{}",
        credential.workload().tag().to_hex(),
        hex(&reference.data_key.0)
    );
    if subject != place {
        return Err(refused("wrong_subject"));
    }
    let opened = checked.open_clear().map_err(|e| refused(e.code()))?;
    Ok(opened.first_message().body)
}

fn kem_record(with: &With, bytes: &[u8]) -> Verdict<Value> {
    let workload = WorkloadId::parse(with.workload.as_deref().unwrap()).unwrap();
    let record = KemRecord::decode(bytes)
        .map_err(|e| ("decode", e.code()))?
        .verify(&workload, &nkeys(with.anchors.as_deref().unwrap()))
        .map_err(|e| ("verify", e.code()))?;
    Ok(json!({
        "workload": record.claimed_workload().as_str(),
        "version": record.version(),
        "nkey": record.nkey().to_string(),
        "xwing": hex(record.key(KemSuite::XWing).as_bytes()),
        "xwing_id": hex(&record.key(KemSuite::XWing).id().0),
        "x25519": hex(record.key(KemSuite::X25519).as_bytes()),
        "x25519_id": hex(&record.key(KemSuite::X25519).id().0),
    }))
}

fn named_credential(file: &File, name: &str) -> VerifiedCredential {
    let named = &file.credentials[name];
    // Found at a time when it was good: the vectors are about the envelope.
    let now = UnixMillis::from_millis(file.defaults.now.unwrap());
    Credential::decode(&named.bytes.to_vec())
        .unwrap()
        .verify(
            &file_bundle(file, &With::default()),
            &nkeys(&named.anchors),
            now,
            skew(&file.defaults),
        )
        .unwrap()
}

fn credential(file: &File, with: &With, bytes: &[u8]) -> Verdict<Value> {
    let credential = Credential::decode(bytes).map_err(|e| ("decode", e.code()))?;
    let verified = credential
        .verify(
            &file_bundle(file, with),
            Anchors {
                nkeys: &nkeys(with.anchors.as_deref().unwrap()),
                authorities: &authorities(file, with),
                brokers: with.brokers.unwrap_or_default(),
            },
            now(with),
            skew(with),
        )
        .map_err(|e| ("verify", e.code()))?;
    let credential = verified.credential();
    Ok(json!({
        "workload": verified.workload().as_str(),
        "hash": hex(credential.hash()),
        "key_id": verified.id().to_hex(),
        "message_key": hex(credential.request().signing_key().as_bytes()),
        "token_key": verified.token_key().map(|key| hex(key.as_bytes())),
        "process_keys": keys_json(credential.request()),
        "instance": hex(credential.request().instance()),
        "not_before": credential.not_before().as_millis(),
        "expires_at": credential.expires_at().as_millis(),
        "serial": hex(credential.serial()),
    }))
}

fn request(file: &File, with: &With, bytes: &[u8]) -> Verdict<Value> {
    let request = CredentialRequest::decode(bytes).map_err(|e| ("decode", e.code()))?;
    let challenge = unhex(with.challenge.as_deref().unwrap());
    let request = request
        .verify(&RequestExpectation {
            tag: WorkloadId::parse(with.workload.as_deref().unwrap())
                .unwrap()
                .tag(),
            challenge: &challenge.try_into().unwrap(),
            anchors: Anchors {
                nkeys: &nkeys(with.anchors.as_deref().unwrap()),
                authorities: &authorities(file, with),
                brokers: with.brokers.unwrap_or_default(),
            },
            now: now(with),
            skew: skew(with),
            max_age: Duration::from_millis(with.max_age.unwrap()),
        })
        .map_err(|e| ("verify", e.code()))?;
    Ok(json!({
        "workload": request.claimed_workload().as_str(),
        "message_key": hex(request.signing_key().as_bytes()),
        "token_key": request.token_key().map(|key| hex(key.as_bytes())),
        "process_keys": keys_json(&request),
        "instance": hex(request.instance()),
        "requested_at": request.requested_at().as_millis(),
    }))
}

/// The ids of the two KEM keys, and the exchange key.
fn keys_json(request: &CredentialRequest) -> Option<Value> {
    request.process_keys().map(|keys| {
        json!({
            "xwing_id": hex(&keys.xwing.id().0),
            "x25519_id": hex(&keys.x25519.id().0),
            "exchange": hex(keys.exchange.as_bytes()),
        })
    })
}

fn open_bundle(with: &With, bytes: &[u8]) -> Verdict<Verified<TrustBundle>> {
    let roots = with.roots.as_deref().unwrap().iter().map(|root| {
        let root = unhex(root).try_into().unwrap();
        VerifyingKey::from_bytes(&root).unwrap()
    });
    TrustBundle::open(
        bytes,
        &roots.collect::<Vec<_>>(),
        &TrustDomain::parse(with.trust_domain.as_deref().unwrap()).unwrap(),
        now(with),
        skew(with),
    )
    .map_err(|e| ("open", e.code()))
}

/// The bundle by which others are judged; it is opened when it was good.
fn file_bundle(file: &File, with: &With) -> Verified<TrustBundle> {
    let bytes = with.bundle.as_ref().unwrap_or(&file.bundle).to_vec();
    open_bundle(&file.defaults, &bytes).unwrap()
}

fn open_policy(file: &File, with: &With, bytes: &[u8]) -> Verdict<Verified<SignedPolicy>> {
    SignedPolicy::open(bytes, &file_bundle(file, with), now(with), skew(with))
        .map_err(|e| ("open", e.code()))
}

fn bundle_succession(with: &With, bytes: &[u8]) -> Verdict<Value> {
    let held = open_bundle(with, &with.held.as_ref().unwrap().to_vec()).unwrap();
    let offered = open_bundle(with, bytes).unwrap();
    offered
        .check_succession(&held)
        .map_err(|e| ("open", e.code()))?;
    Ok(json!({ "version": offered.version }))
}

fn policy_succession(file: &File, with: &With, bytes: &[u8]) -> Verdict<Value> {
    let held = open_policy(file, with, &with.held.as_ref().unwrap().to_vec()).unwrap();
    let offered = open_policy(file, with, bytes).unwrap();
    offered
        .check_succession(&held)
        .map_err(|e| ("open", e.code()))?;
    Ok(json!({ "revision": offered.revision }))
}

fn open_head(file: &File, with: &With, bytes: &[u8]) -> Verdict<Verified<Head>> {
    Head::open(bytes, &file_bundle(file, with), now(with), skew(with))
        .map_err(|e| ("open", e.code()))
}

fn open_revocations(file: &File, with: &With, bytes: &[u8]) -> Verdict<Verified<RevocationList>> {
    RevocationList::open(bytes, &file_bundle(file, with), now(with), skew(with))
        .map_err(|e| ("open", e.code()))
}

fn revocations_succession(file: &File, with: &With, bytes: &[u8]) -> Verdict<Value> {
    let held = open_revocations(file, with, &with.held.as_ref().unwrap().to_vec()).unwrap();
    let offered = open_revocations(file, with, bytes).unwrap();
    offered
        .check_succession(&held)
        .map_err(|e| ("open", e.code()))?;
    Ok(json!({ "sequence": offered.sequence }))
}

/// ENV-101: what a head says of the list that is held.
fn head_about(file: &File, with: &With, bytes: &[u8]) -> Verdict<Value> {
    let head = open_head(file, with, bytes)?;
    let record = with.held.as_ref().unwrap().to_vec();
    let held = open_revocations(file, with, &record).unwrap();
    let held = Mark::of(held.sequence, &record);
    match head.names.revocations.compare(&held) {
        Comparison::Same => Ok(json!({ "revocations": "same" })),
        Comparison::Behind => Ok(json!({ "revocations": "behind" })),
        Comparison::Ahead => Err(("open", "ahead")),
        Comparison::Contradiction => Err(("open", "contradiction")),
    }
}

/// ENV-111, ENV-112: what limits leave of a user, with those of the hop before.
fn limits(with: &With, bytes: &[u8]) -> Verdict<Value> {
    let decode = |bytes: &[u8]| Limits::decode(bytes).map_err(|e| ("decode", e.code()));
    let limits = decode(bytes)?;
    let earlier = match &with.held {
        Some(held) => decode(&held.to_vec())?,
        None => Limits::none(),
    };
    let both = limits.and(&earlier);
    let claims = with.claims.as_ref().unwrap().as_object().unwrap();
    let left = both.apply(&Claims::from_map(claims.clone()));
    Ok(json!({
        "limits": Octets::of(&both.encode().unwrap().unwrap()),
        "narrows": limits.narrows(&earlier),
        "claims": left.as_map(),
    }))
}

fn replay(file: &File, with: &With, vector: &Vector) -> Outcome {
    let mut window = ReplayWindow::new(ReplayLimits::default(), skew(with));
    for (at, step) in vector.steps.iter().enumerate() {
        // Judged at its issue: the scenario is about the window alone.
        let opened = open(file, with, &step.bytes.to_vec(), None).unwrap();
        let message = opened.messages().nth(step.message).unwrap();
        let verdict = window.commit(&opened, &message, UnixMillis::from_millis(step.now));
        let (verdict, reason) = match verdict {
            Ok(()) => ("accept", None),
            Err(error) => ("refuse", Some(error.code())),
        };
        assert_eq!(
            (verdict, reason),
            (step.verdict.as_str(), step.reason.as_deref()),
            "{}: step {at}",
            vector.name
        );
    }
    Outcome {
        verdict: "accept",
        stage: None,
        reason: None,
        gives: None,
    }
}

fn envelope_json(opened: &OpenedEnvelope) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            out.insert(name.to_owned(), value);
        }
    };
    put("workload", json!(opened.sender().workload.as_str()));
    put("kind", json!(opened.kind().as_str()));
    put("suite", json!(opened.suite().as_str()));
    put("leaf", json!(opened.leaf().to_hex()));
    put("epoch", json!(opened.epoch().to_hex()));
    put("issued_at", json!(opened.issued_at().as_millis()));
    put("expires_at", json!(opened.expires_at().as_millis()));
    put("subject", json!(opened.subject()));
    put("reply_to", json!(opened.reply_to()));
    put("content_type", json!(opened.content_type()));
    put("token", json!(opened.token().map(|t| Octets::of(&t))));
    put(
        "original_token",
        json!(opened.original_token().map(|t| Octets::of(&t))),
    );
    put("limits", json!(opened.limits().map(|l| Octets::of(&l))));
    if let Some(binding) = opened.binding() {
        put("request", json!(binding.request.to_hex()));
        put("reply_index", json!(binding.index));
        put("final", json!(binding.is_final));
    }
    let ancestors: Vec<_> = opened
        .ancestors()
        .map(|ancestor| {
            json!({
                "leaf": ancestor.leaf().to_hex(),
                "key_id": ancestor.key_id().to_hex(),
                "kind": ancestor.kind().as_str(),
                "subject": ancestor.subject(),
                "issued_at": ancestor.issued_at().as_millis(),
                "expires_at": ancestor.expires_at().as_millis(),
            })
        })
        .collect();
    if !ancestors.is_empty() {
        put("ancestors", json!(ancestors));
    }
    put("parent", json!(opened.parent().map(LeafHash::to_hex)));
    put(
        "traceparent",
        json!(opened.traceparent().map(|trace| trace.to_string())),
    );
    put("policy_revision", json!(opened.policy_revision()));
    let headers: Map<String, Value> = opened
        .app_headers()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    if !headers.is_empty() {
        put("headers", json!(headers));
    }
    if let Some(error) = opened.error() {
        put("error", json!(error.code.as_str()));
        put("decision", json!(error.decision.to_hex()));
    }
    let messages: Vec<Value> = opened
        .messages()
        .map(|message| {
            json!({
                "id": message.id.to_hex(),
                "sequence": message.sequence,
                "body": Octets::of(&message.body),
            })
        })
        .collect();
    put("messages", json!(messages));
    Value::Object(out)
}

fn bundle_json(bundle: &TrustBundle) -> Value {
    json!({
        "trust_domain": bundle.trust_domain.as_str(),
        "version": bundle.version,
        "issued_at": bundle.issued_at.as_millis(),
        "expires_at": bundle.expires_at.as_millis(),
        "root": hex(bundle.root.as_bytes()),
        "former_roots": bundle
            .former_roots
            .iter()
            .map(|former| hex(former.key().as_bytes()))
            .collect::<Vec<_>>(),
        "issuing": bundle.issuing.iter().map(|key| json!({
            "key": hex(key.key.as_bytes()),
            "expires_at": key.expires_at.as_millis(),
        })).collect::<Vec<_>>(),
        "policy_keys": bundle.policy_keys.iter().map(|key| hex(key.as_bytes())).collect::<Vec<_>>(),
    })
}

fn open_candidate(file: &File, with: &With, bytes: &[u8]) -> Verdict<Verified<PolicyCandidate>> {
    PolicyCandidate::open(bytes, &file_bundle(file, with), now(with), skew(with))
        .map_err(|e| ("open", e.code()))
}

fn policy_json(policy: &SignedPolicy) -> Value {
    json!({
        "trust_domain": policy.trust_domain.as_str(),
        "revision": policy.revision,
        "issued_at": policy.issued_at.as_millis(),
        "comment": policy.comment,
        "text": policy.text,
    })
}

fn head_json(head: &Head) -> Value {
    let mark = |mark: &Mark| json!({ "number": mark.number, "hash": hex(&mark.hash) });
    json!({
        "trust_domain": head.trust_domain.as_str(),
        "bundle": head.names.bundle,
        "policy": mark(&head.names.policy),
        "revocations": mark(&head.names.revocations),
        "time": head.time.as_millis(),
    })
}

fn revocations_json(list: &RevocationList) -> Value {
    json!({
        "trust_domain": list.trust_domain.as_str(),
        "sequence": list.sequence,
        "issued_at": list.issued_at.as_millis(),
        "entries": list.entries().iter().map(|entry| json!({
            "kind": entry.what.kind(),
            "value": entry.what.value(),
            "since": entry.since.as_millis(),
            "made_at": entry.made_at.as_millis(),
            "reason": entry.reason,
        })).collect::<Vec<_>>(),
    })
}

fn kind(name: &str) -> Kind {
    [
        Kind::Event,
        Kind::Request,
        Kind::Reply,
        Kind::Error,
        Kind::KeyWrap,
    ]
    .into_iter()
    .find(|kind| kind.as_str() == name)
    .unwrap()
}

fn suite(name: &str) -> KemSuite {
    KemSuite::ALL
        .into_iter()
        .find(|suite| suite.as_str() == name)
        .unwrap()
}

/// The authorities that the policy lists.
fn authorities(file: &File, with: &With) -> Vec<Arc<CertificateAuthorities>> {
    let names = with.authorities.iter().flatten();
    names
        .map(|name| authority(&file.authorities[name]))
        .collect()
}

fn authority(pem: &str) -> Arc<CertificateAuthorities> {
    Arc::new(CertificateAuthorities::from_pem(pem).unwrap())
}

/// Whether a certificate by this authority vouches for a credential.
pub fn countersigned(credential: &[u8], authority_pem: &str) -> bool {
    let bundle = super::people::bundle_bytes();
    let bundle = open_bundle(&super::people::file().defaults, &bundle).unwrap();
    let anchors = Anchors {
        nkeys: &[],
        authorities: &[authority(authority_pem)],
        brokers: false,
    };
    let credential = Credential::decode(credential).unwrap();
    credential
        .verify(&bundle, anchors, super::people::NOW, super::people::SKEW)
        .is_ok()
}

fn nkeys(texts: &[String]) -> Vec<Nkey> {
    texts
        .iter()
        .map(|text| Nkey::parse(text).unwrap())
        .collect()
}

fn now(with: &With) -> UnixMillis {
    UnixMillis::from_millis(with.now.unwrap())
}

fn skew(with: &With) -> Duration {
    Duration::from_millis(with.skew.unwrap())
}

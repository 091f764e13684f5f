//! What brokers and the streams of Bulla do, for the clients of one process: trust,
//! policy, credentials, records that are written once and read by anybody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode};
use bulla_envelope::{
    CredentialIssuer, CredentialRequest, Head, Holdings, IssuingKey, KemRecord, Mark,
    RequestExpectation, Revocation, RevocationError, RevocationList, Revoked, SignedPolicy, Terms,
    TrustBundle, TrustError,
};
use bulla_identity::{UnixMillis, WorkloadTag, reserved};
use bulla_keyring::{SigningKey, VerifyingKey};
use bulla_policy::Policy;
use bytes::Bytes;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::broker_protocol::{Challenge, Issued, Registered};
use crate::{clock, jetstream, secret};

/// How long bundle and issuing key count: longer than any test.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long credentials count, as by default.
const CREDENTIAL_LIFE: Duration = Duration::from_secs(3600);
/// How old a request for a credential may be.
const REQUEST_AGE: Duration = Duration::from_secs(30);
const SKEW: Duration = Duration::from_secs(2);
const DIRECT_GET: &str = "$JS.API.DIRECT.GET.";

/// One answer of the bus itself.
pub(crate) struct Answer {
    payload: Bytes,
    status: Option<StatusCode>,
    headers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn body(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            status: None,
            headers: None,
        }
    }

    pub(crate) fn status(status: StatusCode) -> Self {
        Self {
            payload: Bytes::new(),
            status: Some(status),
            headers: None,
        }
    }

    pub(crate) fn to(self, subject: async_nats::Subject) -> Message {
        Message {
            subject,
            reply: None,
            length: self.payload.len(),
            payload: self.payload,
            headers: self.headers,
            status: self.status,
            description: None,
        }
    }
}

/// A record of a stream that keeps one for each subject.
struct Record {
    payload: Bytes,
    stored_at: UnixMillis,
}

/// The keys of operator and broker, and what they have said so far.
pub(crate) struct Office {
    root: SigningKey,
    policy_key: SigningKey,
    issuing: SigningKey,
    issuer: CredentialIssuer,
    challenge: [u8; 32],
    policy: Arc<Policy>,
    revision: u64,
    revocations: Vec<Revocation>,
    revoked: u64,
    records: HashMap<String, Record>,
    sequence: u64,
    /// Not told yet.
    news: Vec<(String, Bytes)>,
}

impl Office {
    /// Opens with a trust bundle, this policy and a head on the control stream.
    pub(crate) fn open(policy: Arc<Policy>, text: &str) -> Result<Self, TrustError> {
        let issuing = secret::fresh();
        let mut office = Self {
            root: SigningKey::from_seed(&secret::fresh()),
            policy_key: SigningKey::from_seed(&secret::fresh()),
            issuing: SigningKey::from_seed(&issuing),
            issuer: CredentialIssuer::new(SigningKey::from_seed(&issuing)),
            challenge: *secret::fresh(),
            policy,
            revision: 0,
            revocations: Vec::new(),
            revoked: 0,
            records: HashMap::new(),
            sequence: 0,
            news: Vec::new(),
        };
        let now = clock::now();
        let bundle = TrustBundle {
            trust_domain: office.policy.trust_domain().clone(),
            version: 1,
            issued_at: now,
            expires_at: now.saturating_add(LIFE),
            root: *office.root.verifying_key(),
            former_roots: Vec::new(),
            issuing: vec![IssuingKey {
                key: *office.issuing.verifying_key(),
                expires_at: now.saturating_add(LIFE),
            }],
            policy_keys: vec![*office.policy_key.verifying_key()],
        };
        let bundle = bundle.sign(&office.root)?;
        office.put(reserved::CTL_BUNDLE, bundle.into());
        let policy = Arc::clone(&office.policy);
        office.apply(policy, text)?;
        Ok(office)
    }

    /// What clients pin.
    pub(crate) fn root(&self) -> VerifyingKey {
        *self.root.verifying_key()
    }

    /// Puts a policy in force.
    pub(crate) fn apply(&mut self, policy: Arc<Policy>, text: &str) -> Result<(), TrustError> {
        self.revision += 1;
        let signed = SignedPolicy {
            trust_domain: policy.trust_domain().clone(),
            revision: self.revision,
            issued_at: clock::now(),
            comment: String::new(),
            text: text.to_owned(),
        };
        let signed = signed.sign(&self.policy_key)?;
        self.policy = policy;
        self.announce(reserved::CTL_POLICY, reserved::NEWS_POLICY, signed.into());
        self.say_head();
        Ok(())
    }

    /// Takes back everything that somebody may do.
    pub(crate) fn revoke(&mut self, what: Revoked) -> Result<(), RevocationError> {
        let now = clock::now();
        self.revocations.push(Revocation {
            what,
            since: UnixMillis::default(),
            made_at: now,
            reason: None,
        });
        let domain = self.policy.trust_domain().clone();
        let entries = self.revocations.clone();
        let list = RevocationList::new(domain, self.revoked + 1, now, entries);
        let signed = list.sign(&self.policy_key)?;
        self.revoked += 1;
        let (stored, news) = (reserved::CTL_REVOCATIONS, reserved::NEWS_REVOCATIONS);
        self.announce(stored, news, signed.into());
        self.say_head();
        Ok(())
    }

    /// Says what is the newest at this moment.
    pub(crate) fn say_head(&mut self) {
        let mark = |number, subject: &str| {
            let record = self.records.get(subject);
            record.map_or_else(Mark::default, |record| Mark::of(number, &record.payload))
        };
        let head = Head {
            trust_domain: self.policy.trust_domain().clone(),
            names: Holdings {
                bundle: 1,
                policy: mark(self.revision, reserved::CTL_POLICY),
                revocations: mark(self.revoked, reserved::CTL_REVOCATIONS),
            },
            time: clock::now(),
        };
        let signed = head.sign(&self.issuing);
        self.announce(reserved::CTL_HEAD, reserved::NEWS_HEAD, signed.into());
    }

    pub(crate) fn take_news(&mut self) -> Vec<(String, Bytes)> {
        std::mem::take(&mut self.news)
    }

    /// What the bus itself answers to a message; nothing if it is somebody else's.
    pub(crate) fn answer(&mut self, subject: &str, payload: &Bytes) -> Option<Answer> {
        if let Some(wanted) = subject.strip_prefix(DIRECT_GET) {
            let (_, wanted) = wanted.split_once('.')?;
            return Some(self.look(wanted));
        }
        let mut tokens = subject.strip_prefix("$BULLA.")?.split('.');
        match tokens.next()? {
            "BROKER" => {
                let tag = WorkloadTag::parse(tokens.next()?).ok()?;
                let answer = match tokens.next()? {
                    "challenge" => self.challenge(),
                    "credential" => self.issue(tag, payload).encode(),
                    "kem" => self.register(tag, payload).encode(),
                    _ => return None,
                };
                Some(Answer::body(answer))
            }
            "KEYS" => Some(self.store_once(reserved::KEYS_STREAM, subject, payload)),
            "CLAIMS" => Some(self.store_once(reserved::CLAIMS_STREAM, subject, payload)),
            // What is said there is for operators, and nobody reads it here.
            "AUDIT" => {
                self.sequence += 1;
                Some(stored(reserved::AUDIT_STREAM, self.sequence))
            }
            "STATUS" => Some(Answer::status(StatusCode::OK)),
            _ => None,
        }
    }

    fn put(&mut self, subject: &str, payload: Bytes) {
        let stored_at = clock::now();
        let record = Record { payload, stored_at };
        self.records.insert(subject.to_owned(), record);
        self.sequence += 1;
    }

    fn announce(&mut self, subject: &str, news: &str, payload: Bytes) {
        self.put(subject, payload.clone());
        self.news.push((news.to_owned(), payload));
    }

    fn look(&self, subject: &str) -> Answer {
        let Some(record) = self.records.get(subject) else {
            return Answer::status(StatusCode::NOT_FOUND);
        };
        let nanos = i128::from(record.stored_at.as_millis()) * 1_000_000;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
        let headers = time
            .and_then(|time| time.format(&Rfc3339).ok())
            .map(|time| {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Time-Stamp", time);
                headers
            });
        Answer {
            headers,
            ..Answer::body(record.payload.clone())
        }
    }

    fn store_once(&mut self, stream: &str, subject: &str, payload: &Bytes) -> Answer {
        if self.records.contains_key(subject) {
            let error = json!({
                "code": 503,
                "err_code": jetstream::NOT_STORED,
                "description": jetstream::SUBJECT_TAKEN,
            });
            let answer = json!({ "error": error, "stream": stream, "seq": 0 });
            return Answer::body(answer.to_string());
        }
        self.put(subject, payload.clone());
        stored(stream, self.sequence)
    }

    fn challenge(&self) -> Vec<u8> {
        let challenge = Challenge {
            broker_id: "test".to_owned(),
            challenge: self.challenge,
            reauthorises: false,
        };
        challenge.encode()
    }

    fn issue(&mut self, tag: WorkloadTag, request: &[u8]) -> Issued {
        match self.try_issue(tag, request) {
            Ok(credential) => Issued::Credential(credential),
            Err(reason) => Issued::Refused(reason),
        }
    }

    fn try_issue(&mut self, tag: WorkloadTag, request: &[u8]) -> Result<Vec<u8>, String> {
        let (now, unknown) = (clock::now(), "the policy names no such workload");
        let workload = self.policy.workload_by_tag(tag).ok_or(unknown)?;
        let is_named = |entry: &Revocation| entry.what == Revoked::Workload(workload.id().clone());
        if self.revocations.iter().any(is_named) {
            return Err("the workload is revoked".to_owned());
        }
        let request = CredentialRequest::decode(request).map_err(|e| e.to_string())?;
        if request.token_key().is_some() && !workload.mints() {
            return Err("the policy does not let this workload mint".to_owned());
        }
        let expected = RequestExpectation {
            tag,
            challenge: &self.challenge,
            anchors: workload.anchors(),
            now,
            skew: SKEW,
            max_age: REQUEST_AGE,
        };
        let request = request.verify(&expected).map_err(|e| e.to_string())?;
        let terms = Terms {
            not_before: now.saturating_sub(SKEW),
            expires_at: now.saturating_add(CREDENTIAL_LIFE).min(request.longest()),
            serial: rand::random(),
        };
        let credential = self.issuer.issue(&request, terms);
        let credential = credential.map_err(|e| e.to_string())?;
        let id = credential.id().to_hex();
        let record = Bytes::copy_from_slice(credential.as_bytes());
        let news = format!("$BULLA.NEWS.CRED.{id}");
        self.announce(&reserved::ctl_credential(&id), &news, record);
        Ok(credential.as_bytes().to_vec())
    }

    fn register(&mut self, tag: WorkloadTag, record: &Bytes) -> Registered {
        let workload = self.policy.workload_by_tag(tag);
        let proven = KemRecord::decode(record).ok().zip(workload);
        let proven = proven
            .and_then(|(record, workload)| record.verify(workload.id(), workload.nkeys()).ok());
        let Some(proven) = proven else {
            return Registered::Refused("no record of this workload".to_owned());
        };
        let nkey = *proven.nkey();
        let (stored, news) = (
            reserved::ctl_kem(tag, &nkey),
            reserved::news_kem(tag, &nkey),
        );
        self.announce(&stored, &news, record.clone());
        Registered::Accepted
    }
}

/// JetStream's word that it has something.
fn stored(stream: &str, sequence: u64) -> Answer {
    Answer::body(json!({ "stream": stream, "seq": sequence }).to_string())
}

//! Who seals, and who opens what was sealed.

use std::time::{Duration, Instant};

use bulla_benches::nanos;
use bulla_envelope::{
    CredentialIssuer, CredentialRequest, Draft, Encryption, Epoch, Expectation, IssuingKey, Kind,
    MessageId, OpenedEnvelope, OpeningKey, RequestDraft, RequestExpectation, SealedEnvelope,
    Sealer, SealingKey, Terms, TrustBundle, VerifiedCredential, VerifiedRoots,
};
use bulla_identity::{NkeyKind, Subject, TrustDomain, UnixMillis, WorkloadId, WorkloadName};
use bulla_keyring::{NkeySeed, SigningKey};
use bytes::Bytes;

use crate::data_key::Readers;

/// Rounds of each row without a bus.
pub const ROUNDS: usize = 9;
/// Messages in such a round at least.
pub const MESSAGES: usize = 4_096;
pub const MINUTE: Duration = Duration::from_secs(60);
pub const NOW: UnixMillis = UnixMillis::from_millis(1_800_000_000_000);
const SUBJECTS: usize = 100;

/// What each message of a row says.
#[derive(Clone, Copy)]
pub struct Payload {
    pub size: usize,
    pub is_encrypted: bool,
}

impl Payload {
    pub fn body(self) -> Vec<u8> {
        vec![7; self.size]
    }
}

/// One who seals, and what a receiver knows of it.
pub struct Pair {
    pub sealer: Sealer,
    pub credential: VerifiedCredential,
    pub subjects: Vec<Subject>,
    sealing_key: SealingKey,
    opening_key: OpeningKey,
}

impl Pair {
    pub fn new() -> Self {
        let domain = TrustDomain::parse("bench.example").unwrap();
        let workload = WorkloadId::new(&domain, &WorkloadName::parse("ping").unwrap());
        let nkey = NkeySeed::from_random(NkeyKind::User, &[3; 32]).unwrap();
        let message_key = SigningKey::from_seed(&[4; 32]);
        let request = RequestDraft {
            workload: &workload,
            message_key: &message_key,
            process_keys: None,
            token_key: None,
            instance: [5; 16],
            challenge: [6; 32],
            requested_at: NOW,
        };
        let request = CredentialRequest::decode(&request.sign(Some(&nkey)))
            .unwrap()
            .verify(&RequestExpectation {
                tag: workload.tag(),
                challenge: &[6; 32],
                anchors: (&[nkey.public()]).into(),
                now: NOW,
                skew: MINUTE,
                max_age: MINUTE,
            })
            .unwrap();
        let issuing = SigningKey::from_seed(&[2; 32]);
        let expires_at = NOW.saturating_add(60 * MINUTE);
        let root = SigningKey::from_seed(&[1; 32]);
        let bundle = TrustBundle {
            trust_domain: domain.clone(),
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
        let bundle =
            TrustBundle::open(&bundle, &[*root.verifying_key()], &domain, NOW, MINUTE).unwrap();
        let terms = Terms {
            not_before: NOW,
            expires_at,
            serial: [7; 16],
        };
        let credential = CredentialIssuer::new(issuing)
            .issue(&request, terms)
            .unwrap();
        let sealer = Sealer::new(&credential, message_key, Epoch([8; 8])).unwrap();
        let credential = credential
            .verify(&bundle, &[nkey.public()], NOW, MINUTE)
            .unwrap();
        let subjects: Vec<_> = (0..SUBJECTS)
            .map(|n| Subject::parse(&format!("signed.{n}")).unwrap())
            .collect();
        let readers = Readers::new(1);
        let sealing_key = readers.wrap();
        Self {
            sealer,
            credential,
            subjects,
            opening_key: readers.unwrap(&sealing_key),
            sealing_key,
        }
    }

    pub fn draft<'a>(
        &'a self,
        subject: &'a Subject,
        body: &'a [u8],
        payload: Payload,
    ) -> Draft<'a> {
        let mut draft = draft(subject, body);
        draft.encryption = payload.is_encrypted.then(|| Encryption {
            key: &self.sealing_key,
            inline_wraps: false,
            open_token: false,
            process: std::process::id(),
        });
        draft
    }

    pub fn drafts<'a>(
        &'a self,
        count: usize,
        body: &'a [u8],
        payload: Payload,
    ) -> Vec<(Draft<'a>, MessageId)> {
        let subjects = self.subjects.iter().cycle();
        let drafts = subjects.zip(0..count).map(|(subject, n)| {
            let id = MessageId((n as u128).to_be_bytes());
            (self.draft(subject, body, payload), id)
        });
        drafts.collect()
    }

    pub fn batch(&self, count: usize, payload: Payload) -> Vec<(Bytes, &Subject)> {
        let body = payload.body();
        let drafts = self.drafts(count, &body, payload);
        let sealed = self.sealer.seal_batch(&drafts).unwrap();
        let subjects = self.subjects.iter().cycle();
        // As they come: each in a buffer of its own.
        sealed
            .into_iter()
            .map(|sealed| Bytes::copy_from_slice(&sealed.bytes))
            .zip(subjects)
            .collect()
    }

    pub fn open(
        &self,
        bytes: Bytes,
        subject: &Subject,
        roots: &VerifiedRoots,
        payload: Payload,
    ) -> OpenedEnvelope {
        let checked = SealedEnvelope::decode(bytes)
            .unwrap()
            .verify_with(&self.credential, roots)
            .unwrap()
            .check(&Expectation {
                subject: subject.as_str(),
                reply_to: None,
                kinds: &[Kind::Event],
                now: NOW,
                skew: MINUTE,
                max_age: MINUTE,
                not_before: UnixMillis::default(),
                request: None,
            })
            .unwrap();
        match payload.is_encrypted {
            false => checked.open_clear().unwrap(),
            true => checked.decrypt(&self.opening_key).unwrap(),
        }
    }
}

pub fn draft<'a>(subject: &'a Subject, body: &'a [u8]) -> Draft<'a> {
    let mut draft = Draft::event(subject, NOW, NOW.saturating_add(MINUTE / 2), body);
    draft.content_type = Some("application/octet-stream");
    draft.policy_revision = Some(7);
    draft
}

/// Nanoseconds for each of `messages`.
pub fn each(start: Instant, messages: usize) -> f64 {
    nanos(start) as f64 / messages as f64
}

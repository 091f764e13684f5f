//! A small trust domain: a root, a broker, and workloads with one process each.

use std::time::Duration;

use bulla_envelope::{
    AuthenticEnvelope, Credential, CredentialIssuer, CredentialRequest, Epoch, Expectation,
    IssuingKey, Kind, MessageId, OpenedEnvelope, ProcessKeys, RequestDraft, RequestExpectation,
    Sealed, SealedEnvelope, Sealer, Terms, TrustBundle, VerifiedCredential,
};
use bulla_identity::{
    Nkey, NkeyKind, Subject, TrustDomain, UnixMillis, Verified, WorkloadId, WorkloadName,
};
use bulla_keyring::{NkeySeed, SigningKey};

pub const NOW: UnixMillis = UnixMillis::from_millis(1_800_000_000_000);
pub const SKEW: Duration = Duration::from_secs(5);
pub const LIFE: Duration = Duration::from_secs(30);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const CHALLENGE: [u8; 32] = [0xc4; 32];
pub const ROOT: [u8; 32] = [1; 32];
pub const ISSUING: [u8; 32] = [2; 32];
pub const POLICY: [u8; 32] = [3; 32];

pub fn domain() -> TrustDomain {
    TrustDomain::parse("acme.example").unwrap()
}

pub fn workload(name: &str) -> WorkloadId {
    WorkloadId::new(&domain(), &WorkloadName::parse(name).unwrap())
}

pub fn subject(text: &str) -> Subject {
    Subject::parse(text).unwrap()
}

pub fn after(seconds: i64) -> UnixMillis {
    let span = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        NOW.saturating_sub(span)
    } else {
        NOW.saturating_add(span)
    }
}

pub fn id(n: u8) -> MessageId {
    MessageId([n; 16])
}

pub fn unsigned_bundle() -> TrustBundle {
    TrustBundle {
        trust_domain: domain(),
        version: 7,
        issued_at: after(-3600),
        expires_at: after(30 * 24 * 3600),
        root: *SigningKey::from_seed(&ROOT).verifying_key(),
        former_roots: Vec::new(),
        issuing: vec![IssuingKey {
            key: *SigningKey::from_seed(&ISSUING).verifying_key(),
            expires_at: after(5 * 24 * 3600),
        }],
        policy_keys: vec![*SigningKey::from_seed(&POLICY).verifying_key()],
    }
}

pub fn open_bundle(bundle: &TrustBundle) -> Verified<TrustBundle> {
    let root = SigningKey::from_seed(&ROOT);
    let bytes = bundle.sign(&root).unwrap();
    TrustBundle::open(&bytes, &[*root.verifying_key()], &domain(), NOW, SKEW).unwrap()
}

pub fn bundle() -> Verified<TrustBundle> {
    open_bundle(&unsigned_bundle())
}

/// One process of a workload, with all its secrets.
pub struct Process {
    pub workload: WorkloadId,
    pub nkey: NkeySeed,
    pub message_seed: [u8; 32],
    pub token_seed: Option<[u8; 32]>,
    pub process_keys: Option<ProcessKeys>,
}

impl Process {
    pub fn new(name: &str, n: u8) -> Self {
        Self {
            workload: workload(name),
            nkey: NkeySeed::from_random(NkeyKind::User, &[n; 32]).unwrap(),
            message_seed: [n ^ 0x55; 32],
            token_seed: None,
            process_keys: None,
        }
    }

    pub fn anchors(&self) -> Vec<Nkey> {
        vec![self.nkey.public()]
    }

    pub fn message_key(&self) -> SigningKey {
        SigningKey::from_seed(&self.message_seed)
    }

    pub fn request_bytes(&self, countersigner: Option<&NkeySeed>) -> Vec<u8> {
        let message_key = self.message_key();
        let token_key = self.token_seed.as_ref().map(SigningKey::from_seed);
        RequestDraft {
            workload: &self.workload,
            message_key: &message_key,
            process_keys: self.process_keys.as_ref(),
            token_key: token_key.as_ref(),
            instance: [9; 16],
            challenge: CHALLENGE,
            requested_at: NOW,
        }
        .sign(countersigner)
    }

    pub fn expectation<'a>(&self, anchors: &'a [Nkey]) -> RequestExpectation<'a> {
        RequestExpectation {
            tag: self.workload.tag(),
            challenge: &CHALLENGE,
            anchors: anchors.into(),
            now: NOW,
            skew: SKEW,
            max_age: Duration::from_secs(60),
        }
    }

    pub fn verified_request(&self) -> Verified<CredentialRequest> {
        CredentialRequest::decode(&self.request_bytes(Some(&self.nkey)))
            .unwrap()
            .verify(&self.expectation(&self.anchors()))
            .unwrap()
    }

    pub fn credential(&self) -> Credential {
        CredentialIssuer::new(SigningKey::from_seed(&ISSUING))
            .issue(&self.verified_request(), terms())
            .unwrap()
    }

    pub fn verified(&self) -> VerifiedCredential {
        self.credential()
            .verify(&bundle(), &self.anchors(), NOW, SKEW)
            .unwrap()
    }

    pub fn sealer(&self) -> Sealer {
        Sealer::new(&self.credential(), self.message_key(), Epoch([0xe0; 8])).unwrap()
    }
}

pub fn terms() -> Terms {
    Terms {
        not_before: NOW,
        expires_at: NOW.saturating_add(HOUR),
        serial: [0x5e; 16],
    }
}

pub fn orders() -> Process {
    Process::new("orders", 10)
}

pub fn billing() -> Process {
    Process::new("billing", 20)
}

/// What a receiver of a plain event on `subject` expects.
pub fn expect_event(subject: &str) -> Expectation<'_> {
    Expectation {
        subject,
        reply_to: None,
        kinds: &[Kind::Event],
        now: NOW,
        skew: SKEW,
        max_age: LIFE,
        not_before: UnixMillis::default(),
        request: None,
    }
}

pub fn authentic(sealed: &Sealed, credential: &VerifiedCredential) -> AuthenticEnvelope {
    SealedEnvelope::decode(sealed.bytes.clone())
        .unwrap()
        .verify(credential)
        .unwrap()
}

pub fn open(
    sealed: &Sealed,
    credential: &VerifiedCredential,
    expected: &Expectation<'_>,
) -> OpenedEnvelope {
    authentic(sealed, credential)
        .check(expected)
        .unwrap()
        .open_clear()
        .unwrap()
}

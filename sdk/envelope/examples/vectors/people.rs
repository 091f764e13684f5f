//! A small trust domain: a root, a broker, a policy key, and processes of workloads.

use std::collections::BTreeMap;
use std::time::Duration;

use bulla_envelope::{
    Credential, CredentialIssuer, CredentialRequest, Draft, Epoch, IssuingKey, MessageId,
    RequestDraft, RequestExpectation, Sealer, Terms, TrustBundle,
};
use bulla_identity::{
    NkeyKind, Subject, TrustDomain, UnixMillis, Verified, WorkloadId, WorkloadName,
};
use bulla_keyring::{NkeySeed, SigningKey, sha256};

use super::file::{File, Key, NamedCredential, Octets, With, hex};
use super::{reasons, secrets};

pub const NOW: UnixMillis = UnixMillis::from_millis(1_800_000_000_000);
pub const SKEW: Duration = Duration::from_secs(5);
/// The default `max_age`.
pub const MAX_AGE: Duration = Duration::from_secs(60);
/// The default life of an envelope.
pub const LIFE: i64 = 30_000;
pub const DOMAIN: &str = "shop.example";
pub const SUBJECT: &str = "orders.created";
pub const INBOX: &str = "_INBOX.4f1a.p.77";
pub const HOUR: i64 = 3_600_000;
pub const DAY: i64 = 24 * HOUR;

/// `NOW` and so many milliseconds.
pub fn at(millis: i64) -> UnixMillis {
    let span = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 {
        NOW.saturating_sub(span)
    } else {
        NOW.saturating_add(span)
    }
}

/// Every secret is the hash of its name.
pub fn seed(name: &str) -> [u8; 32] {
    sha256(&[b"bulla vectors: ", name.as_bytes()])
}

/// Bytes that look random.
pub fn filler<const N: usize>(name: &str) -> [u8; N] {
    std::array::from_fn(|at| seed(&format!("{name} {}", at / 32))[at % 32])
}

pub fn key(name: &str) -> SigningKey {
    SigningKey::from_seed(&seed(name))
}

pub fn nkey(name: &str) -> NkeySeed {
    NkeySeed::from_random(NkeyKind::User, &seed(name)).unwrap()
}

pub fn domain() -> TrustDomain {
    TrustDomain::parse(DOMAIN).unwrap()
}

pub fn workload(name: &str) -> WorkloadId {
    WorkloadId::new(&domain(), &WorkloadName::parse(name).unwrap())
}

pub fn subject(text: &str) -> Subject {
    Subject::parse(text).unwrap()
}

pub fn id(name: &str) -> MessageId {
    MessageId(filler(&format!("id {name}")))
}

pub fn epoch() -> Epoch {
    Epoch(filler("epoch"))
}

pub fn challenge() -> [u8; 32] {
    filler("challenge")
}

pub fn terms() -> Terms {
    Terms {
        not_before: NOW,
        expires_at: at(HOUR),
        serial: filler("serial"),
    }
}

pub fn unsigned_bundle() -> TrustBundle {
    TrustBundle {
        trust_domain: domain(),
        version: 7,
        issued_at: at(-HOUR),
        expires_at: at(30 * DAY),
        root: *key("root").verifying_key(),
        former_roots: Vec::new(),
        issuing: vec![
            IssuingKey {
                key: *key("issuing").verifying_key(),
                expires_at: at(5 * DAY),
            },
            IssuingKey {
                key: *key("issuing of another broker").verifying_key(),
                expires_at: at(6 * DAY),
            },
        ],
        policy_keys: vec![*key("policy").verifying_key()],
    }
}

pub fn bundle_bytes() -> Vec<u8> {
    unsigned_bundle().sign(&key("root")).unwrap()
}

pub fn issuer() -> CredentialIssuer {
    CredentialIssuer::new(key("issuing"))
}

/// One process of a workload, with all its secrets.
#[derive(Clone)]
pub struct Process {
    pub name: &'static str,
    pub workload: WorkloadId,
    /// Whether it mints tokens.
    pub mints: bool,
    /// Whether its credential names keys for encryption and agreement.
    pub keyed: bool,
}

impl Process {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            workload: workload(name),
            mints: false,
            keyed: false,
        }
    }

    pub fn nkey(&self) -> NkeySeed {
        nkey(&format!("{} nkey", self.name))
    }

    pub fn message_key(&self) -> SigningKey {
        key(&format!("{} message key", self.name))
    }

    pub fn token_key(&self) -> Option<SigningKey> {
        self.mints.then(|| key(&format!("{} token key", self.name)))
    }

    pub fn request_bytes(&self, countersigner: Option<&NkeySeed>) -> Vec<u8> {
        RequestDraft {
            workload: &self.workload,
            message_key: &self.message_key(),
            process_keys: self
                .keyed
                .then(|| secrets::process_keys(self.name))
                .as_ref(),
            token_key: self.token_key().as_ref(),
            instance: filler("instance"),
            challenge: challenge(),
            requested_at: NOW,
        }
        .sign(countersigner)
    }

    pub fn verified_request(&self) -> Verified<CredentialRequest> {
        CredentialRequest::decode(&self.request_bytes(Some(&self.nkey())))
            .unwrap()
            .verify(&RequestExpectation {
                tag: self.workload.tag(),
                challenge: &challenge(),
                anchors: (&[self.nkey().public()]).into(),
                now: NOW,
                skew: SKEW,
                max_age: MAX_AGE,
            })
            .unwrap()
    }

    pub fn credential(&self) -> Credential {
        issuer().issue(&self.verified_request(), terms()).unwrap()
    }

    pub fn sealer(&self) -> Sealer {
        Sealer::new(&self.credential(), self.message_key(), epoch()).unwrap()
    }

    fn named(&self) -> NamedCredential {
        NamedCredential {
            workload: self.workload.as_str().to_owned(),
            anchors: vec![self.nkey().public().to_string()],
            bytes: Octets::of(self.credential().as_bytes()),
        }
    }
}

pub fn orders() -> Process {
    Process::new("orders")
}

pub fn billing() -> Process {
    Process::new("billing")
}

/// Mints tokens.
pub fn gateway() -> Process {
    Process {
        mints: true,
        ..Process::new("gateway")
    }
}

/// Answers can be encrypted to it, and be authenticated to it alone.
pub fn keyed(process: Process) -> Process {
    Process {
        keyed: true,
        ..process
    }
}

/// An event on the default subject.
pub fn event<'a>(subject: &'a Subject, body: &'a [u8]) -> Draft<'a> {
    Draft::event(subject, NOW, at(LIFE), body)
}

/// The file without its vectors.
pub fn file() -> File {
    let signing = |name: &str| {
        let key = Key {
            seed: hex(&seed(name)),
            public: hex(key(name).verifying_key().as_bytes()),
            nkey: None,
        };
        (name.to_owned(), key)
    };
    let nkeys = ["orders nkey", "billing nkey", "gateway nkey", "mail nkey"].map(|name| {
        let public = nkey(name).public();
        let key = Key {
            seed: hex(&seed(name)),
            public: hex(public.bytes()),
            nkey: Some(public.to_string()),
        };
        (name.to_owned(), key)
    });
    let mut keys: BTreeMap<_, _> = [
        "root",
        "issuing",
        "issuing of another broker",
        "policy",
        "orders message key",
        "billing message key",
        "gateway message key",
        "gateway token key",
    ]
    .map(signing)
    .into();
    keys.extend(nkeys);
    let credentials = [
        ("orders", orders()),
        ("billing", billing()),
        ("gateway", gateway()),
        ("orders with process keys", keyed(orders())),
        ("billing with process keys", keyed(billing())),
    ]
    .map(|(name, process)| (name.to_owned(), process.named()))
    .into();
    File {
        about: ABOUT.iter().map(|&line| line.to_owned()).collect(),
        reasons: reasons::table(),
        keys,
        kem_keys: secrets::kem_keys(),
        exchange_keys: secrets::exchange_keys(),
        bundle: Octets::of(&bundle_bytes()),
        credentials,
        authorities: super::pki::authorities(),
        defaults: With {
            credential: Some("orders".to_owned()),
            subject: Some(SUBJECT.to_owned()),
            kinds: Some(vec!["event".to_owned()]),
            now: Some(NOW.as_millis()),
            skew: Some(SKEW.as_millis() as u64),
            max_age: Some(MAX_AGE.as_millis() as u64),
            not_before: Some(0),
            anchors: Some(vec![orders().nkey().public().to_string()]),
            workload: Some(orders().workload.as_str().to_owned()),
            challenge: Some(hex(&challenge())),
            roots: Some(vec![hex(key("root").verifying_key().as_bytes())]),
            trust_domain: Some(DOMAIN.to_owned()),
            ..With::default()
        },
        vectors: Vec::new(),
    }
}

const ABOUT: &[&str] = &[
    "Test vectors for the envelope format, version 1. SPEC.md has the rules that they name.",
    "Written by `cargo run -p bulla-envelope --example vectors`; do not edit.",
    "A vector's bytes are `what` says, and come `with` what it says, else with the defaults. \
     `verdict` is accept or refuse. A refused one names the stage at which, and the reason. An \
     accepted one tells what it gives.",
    "Bytes are hexadecimal digits, or a list of such and of runs of one byte.",
    "what = envelope: decode it, verify it by the credential (which verifies by bundle and \
     anchors), check it against how it came (subject, reply_to, kinds, now, skew, max_age, \
     not_before, request; no reply_to or request means there is none; it is refused if its suite \
     is weaker than `suite`). With a `requester` it comes to a process with that credential and \
     that exchange key, and must have a code. If it is encrypted, unwrap its data key with the KEM \
     keys of the `reader`, from its header or from the `record`, an envelope of the same sender, \
     and decrypt it. With a `chain` prove its ancestors, each sent by the holder of the credential \
     in the same place of `senders`, and judge the chain by `minter`, skew and max_age.",
    "what = credential: decode it, verify it by bundle, anchors and authorities at now with skew; with \
     `brokers` a broker's word is enough. \
     what = credential-request: decode it, verify it for workload, challenge, anchors, authorities, now, skew \
     and max_age. what = trust-bundle: open it with the pinned roots, trust_domain, now and skew. \
     what = policy: open it with bundle, now and skew. what = kem-record: decode it, verify it for \
     workload and anchors.",
    "what = head, revocations: open it with bundle, now and skew. what = head-about-revocations: \
     open the head; may one who holds the list go on by it?",
    "what = trust-bundle-succession, policy-succession, revocations-succession: both open; may the bytes replace what is \
     held? what = replay: the steps come to one replay window, one after the other, each having \
     passed all else.",
    "Times are milliseconds since 1970; skew and max_age are milliseconds.",
];

//! What the file looks like.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub const ACCEPT: &str = "accept";
pub const REFUSE: &str = "refuse";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct File {
    pub about: Vec<String>,
    /// What each reason means.
    pub reasons: BTreeMap<String, String>,
    /// Where keys come from: 32-byte seeds and what they make.
    pub keys: BTreeMap<String, Key>,
    /// What data keys are wrapped to: of workloads, from their nkey, and of processes.
    pub kem_keys: Vec<KemKey>,
    /// Of processes, by their credential.
    pub exchange_keys: BTreeMap<String, Key>,
    /// The trust bundle by which credentials and policies are judged.
    pub bundle: Octets,
    pub credentials: BTreeMap<String, NamedCredential>,
    /// Certificate authorities that policies may name, PEM.
    pub authorities: BTreeMap<String, String>,
    /// What holds where a vector's `with` does not say otherwise.
    pub defaults: With,
    pub vectors: Vec<Vector>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    pub seed: String,
    pub public: String,
    /// As NATS writes it, for nkeys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nkey: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KemKey {
    /// Who reads with it.
    pub reader: String,
    /// The workload that the reader is.
    pub workload: String,
    pub suite: String,
    /// The version and the nkey of the file's keys that it is derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nkey: Option<String>,
    pub secret: String,
    pub public: String,
    pub id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedCredential {
    pub workload: String,
    /// The workload's nkeys in the policy.
    pub anchors: Vec<String>,
    pub bytes: Octets,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vector {
    pub name: String,
    pub rules: Vec<String>,
    /// What the bytes are meant to be.
    pub what: String,
    pub about: String,
    #[serde(default, skip_serializing_if = "With::is_default")]
    pub with: With,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Octets>,
    /// Of a replay scenario.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    pub verdict: String,
    /// Where it is refused: decode, verify, check, suite, record, open, chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What an accepted one says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives: Option<Value>,
}

/// One message that comes to a replay window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub bytes: Octets,
    /// Which message of the frame.
    pub message: usize,
    /// The time, milliseconds.
    pub now: u64,
    pub verdict: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// By what a chain is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// The workload that minted the user's token.
    pub minter: String,
    /// The file's credentials of those who sent the ancestors, the nearest first.
    pub senders: Vec<String>,
}

/// What a receiver knows besides the bytes. Times are milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct With {
    /// Envelopes: which of the file's credentials the receiver found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skew: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
    /// The leaf of the request that was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The weakest suite that the receiver accepts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// The one cipher that the receiver accepts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cipher: Option<String>,
    /// Whose KEM keys unwrap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader: Option<String>,
    /// The file's credential of the process to which a code is addressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requester: Option<String>,
    /// Where the chain that led to it has to be proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<Chain>,
    /// Where the wrapped data key is, if not in the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<Octets>,
    /// Credentials and requests: the workload's nkeys in the policy that vouch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchors: Option<Vec<String>>,
    /// And which of the file's authorities it lists for the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorities: Option<Vec<String>>,
    /// Whether a broker's word is enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brokers: Option<bool>,
    /// Instead of the file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Octets>,
    /// Requests: whose tag is in the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
    /// Bundles: the pinned roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roots: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// Successions: what is held. Limits: those of the hop before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Octets>,
    /// Limits: of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Value>,
}

impl With {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// This, and where it is silent `defaults`.
    pub fn or(&self, defaults: &Self) -> Self {
        let this = self.clone();
        let other = defaults.clone();
        Self {
            credential: this.credential.or(other.credential),
            subject: this.subject.or(other.subject),
            reply_to: this.reply_to.or(other.reply_to),
            kinds: this.kinds.or(other.kinds),
            now: this.now.or(other.now),
            skew: this.skew.or(other.skew),
            max_age: this.max_age.or(other.max_age),
            not_before: this.not_before.or(other.not_before),
            request: this.request.or(other.request),
            suite: this.suite.or(other.suite),
            cipher: this.cipher.or(other.cipher),
            reader: this.reader.or(other.reader),
            requester: this.requester.or(other.requester),
            chain: this.chain.or(other.chain),
            record: this.record.or(other.record),
            anchors: this.anchors.or(other.anchors),
            authorities: this.authorities.or(other.authorities),
            brokers: this.brokers.or(other.brokers),
            bundle: this.bundle.or(other.bundle),
            workload: this.workload.or(other.workload),
            challenge: this.challenge.or(other.challenge),
            roots: this.roots.or(other.roots),
            trust_domain: this.trust_domain.or(other.trust_domain),
            held: this.held.or(other.held),
            claims: this.claims.or(other.claims),
        }
    }
}

/// Bytes: hexadecimal digits, or pieces of them where a byte repeats often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Octets {
    Hex(String),
    Pieces(Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Piece {
    Hex(String),
    Run { repeat: String, times: usize },
}

/// A run shorter than this is written out.
const LEAST_RUN: usize = 100;

impl Octets {
    pub fn of(bytes: &[u8]) -> Self {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let flush = |plain: &mut Vec<u8>, pieces: &mut Vec<Piece>| {
            if !plain.is_empty() {
                pieces.push(Piece::Hex(HEXLOWER.encode(plain)));
                plain.clear();
            }
        };
        for run in bytes.chunk_by(|a, b| a == b) {
            if run.len() < LEAST_RUN {
                plain.extend_from_slice(run);
            } else {
                flush(&mut plain, &mut pieces);
                pieces.push(Piece::Run {
                    repeat: HEXLOWER.encode(&run[..1]),
                    times: run.len(),
                });
            }
        }
        if pieces.is_empty() {
            return Self::Hex(HEXLOWER.encode(&plain));
        }
        flush(&mut plain, &mut pieces);
        Self::Pieces(pieces)
    }

    pub fn to_vec(&self) -> Vec<u8> {
        match self {
            Self::Hex(text) => unhex(text),
            Self::Pieces(pieces) => pieces
                .iter()
                .flat_map(|piece| match piece {
                    Piece::Hex(text) => unhex(text),
                    Piece::Run { repeat, times } => unhex(repeat).repeat(*times),
                })
                .collect(),
        }
    }
}

pub fn unhex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

impl Vector {
    pub fn accept(name: &str, what: &str, rules: &[&str], about: &str, bytes: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            rules: rules.iter().map(|rule| format!("ENV-{rule}")).collect(),
            what: what.to_owned(),
            about: about.to_owned(),
            with: With::default(),
            bytes: Some(Octets::of(bytes)),
            steps: Vec::new(),
            verdict: ACCEPT.to_owned(),
            stage: None,
            reason: None,
            gives: None,
        }
    }

    /// Refused at `stage/reason`.
    pub fn refuse(
        name: &str,
        what: &str,
        rules: &[&str],
        about: &str,
        bytes: &[u8],
        why: &str,
    ) -> Self {
        let (stage, reason) = why.split_once('/').unwrap();
        Self {
            verdict: REFUSE.to_owned(),
            stage: Some(stage.to_owned()),
            reason: Some(reason.to_owned()),
            ..Self::accept(name, what, rules, about, bytes)
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut With)) -> Self {
        change(&mut self.with);
        self
    }
}

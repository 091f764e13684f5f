//! Sealing and opening without a bus: nanoseconds for each message.
//!
//! `cargo bench -p bulla-benches --bench envelope [-- PART-OF-A-NAME …]`
//!
//! ```text
//! seal.batch.N         N messages of 256 bytes under one signature; with .1024 of 1 KiB
//! open.batch.N         decode, prove and check each of them, nothing remembered before
//! open.cached_root     a message of a batch of 256 whose signature is verified already
//! seal.frame.64, open.frame.64    64 messages in one envelope
//! chain.open.N         a request behind N proven hops: all of it, and the chain
//! chain.bytes.N        how long that request is, with 256 bytes of body
//! chain.show           putting together what the next message shows, behind one hop
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::{Duration, Instant};

use bulla_benches::{Report, Wanted, nanos};
use bulla_envelope::{
    Ancestry, CredentialIssuer, CredentialRequest, Draft, Epoch, Expectation, FrameMessage,
    IssuingKey, Kind, MessageId, OpenedEnvelope, RequestDraft, RequestExpectation, SealedEnvelope,
    Sealer, Terms, TrustBundle, VerifiedCredential, VerifiedRoots,
};
use bulla_identity::{NkeyKind, Subject, TrustDomain, UnixMillis, WorkloadId, WorkloadName};
use bulla_keyring::{NkeySeed, SigningKey};
use bytes::Bytes;

const ROUNDS: usize = 9;
/// Messages in a round at least.
const MESSAGES: usize = 4_096;
const SUBJECTS: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);
const NOW: UnixMillis = UnixMillis::from_millis(1_800_000_000_000);

fn main() {
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let wanted = Wanted::from_args();
    let mut report = Report::default();
    let pair = Pair::new();
    for (size, suffix) in [(256, ""), (1_024, ".1024")] {
        for count in [1, 16, 64, 256] {
            let name = format!("seal.batch.{count}{suffix}");
            if wanted.wants(&name) {
                let rounds = (0..ROUNDS).map(|_| seal(&pair, count, size)).collect();
                report.add(name, "ns", rounds);
            }
        }
        for count in [1, 16, 64, 256] {
            let name = format!("open.batch.{count}{suffix}");
            if wanted.wants(&name) {
                let rounds = (0..ROUNDS).map(|_| open(&pair, count, size)).collect();
                report.add(name, "ns", rounds);
            }
        }
        let name = format!("open.cached_root{suffix}");
        if wanted.wants(&name) {
            let rounds = (0..ROUNDS).map(|_| open_cached(&pair, size)).collect();
            report.add(name, "ns", rounds);
        }
    }
    if wanted.wants("seal.frame.64") {
        let rounds = (0..ROUNDS).map(|_| seal_frame(&pair)).collect();
        report.add("seal.frame.64", "ns", rounds);
    }
    if wanted.wants("open.frame.64") {
        let rounds = (0..ROUNDS).map(|_| open_frame(&pair)).collect();
        report.add("open.frame.64", "ns", rounds);
    }
    for hops in [0, 1, 2, 4, 8] {
        let name = format!("chain.open.{hops}");
        if wanted.wants(&name) {
            let rounds = (0..ROUNDS).map(|_| open_chain(&pair, hops)).collect();
            report.add(name, "ns", rounds);
        }
        let name = format!("chain.bytes.{hops}");
        if wanted.wants(&name) {
            report.add(name, "bytes", vec![chain(&pair, hops).len() as f64]);
        }
    }
    if wanted.wants("chain.show") {
        let rounds = (0..ROUNDS).map(|_| show(&pair)).collect();
        report.add("chain.show", "ns", rounds);
    }
    report.finish().unwrap();
}

/// One who seals, and what a receiver knows of it.
struct Pair {
    sealer: Sealer,
    credential: VerifiedCredential,
    subjects: Vec<Subject>,
}

impl Pair {
    fn new() -> Self {
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
        Self {
            sealer,
            credential,
            subjects: (0..SUBJECTS)
                .map(|n| Subject::parse(&format!("signed.{n}")).unwrap())
                .collect(),
        }
    }

    fn drafts<'a>(&'a self, count: usize, body: &'a [u8]) -> Vec<(Draft<'a>, MessageId)> {
        let subjects = self.subjects.iter().cycle();
        let drafts = subjects.zip(0..count).map(|(subject, n)| {
            let id = MessageId((n as u128).to_be_bytes());
            (draft(subject, body), id)
        });
        drafts.collect()
    }

    fn batch(&self, count: usize, size: usize) -> Vec<(Bytes, &Subject)> {
        let body = vec![7u8; size];
        let sealed = self.sealer.seal_batch(&self.drafts(count, &body)).unwrap();
        let subjects = self.subjects.iter().cycle();
        // As they come: each in a buffer of its own.
        sealed
            .into_iter()
            .map(|sealed| Bytes::copy_from_slice(&sealed.bytes))
            .zip(subjects)
            .collect()
    }

    fn open(&self, bytes: Bytes, subject: &Subject, roots: &VerifiedRoots) -> OpenedEnvelope {
        SealedEnvelope::decode(bytes)
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
            .unwrap()
            .open_clear()
            .unwrap()
    }
}

fn draft<'a>(subject: &'a Subject, body: &'a [u8]) -> Draft<'a> {
    let mut draft = Draft::event(subject, NOW, NOW.saturating_add(MINUTE / 2), body);
    draft.content_type = Some("application/octet-stream");
    draft.policy_revision = Some(7);
    draft
}

/// Nanoseconds for each of `messages`.
fn each(start: Instant, messages: usize) -> f64 {
    nanos(start) as f64 / messages as f64
}

fn seal(pair: &Pair, count: usize, size: usize) -> f64 {
    let body = vec![7u8; size];
    let drafts = pair.drafts(count, &body);
    let batches = (MESSAGES / count).min(512);
    let start = Instant::now();
    for _ in 0..batches {
        std::hint::black_box(pair.sealer.seal_batch(&drafts).unwrap());
    }
    each(start, batches * count)
}

fn open(pair: &Pair, count: usize, size: usize) -> f64 {
    let batches = (MESSAGES / count).min(512);
    let sealed: Vec<_> = (0..batches).flat_map(|_| pair.batch(count, size)).collect();
    let roots = VerifiedRoots::new();
    let start = Instant::now();
    for (bytes, subject) in sealed {
        std::hint::black_box(pair.open(bytes, subject, &roots));
    }
    each(start, batches * count)
}

/// The first of each batch is opened before, so that its root is known.
fn open_cached(pair: &Pair, size: usize) -> f64 {
    const COUNT: usize = 256;
    let roots = VerifiedRoots::new();
    let mut all = Vec::new();
    // As many batches as one credential's share of the memory holds.
    for _ in 0..8 {
        let mut batch = pair.batch(COUNT, size).into_iter();
        let (bytes, subject) = batch.next().unwrap();
        pair.open(bytes, subject, &roots);
        all.extend(batch);
    }
    let messages = all.len();
    let start = Instant::now();
    for (bytes, subject) in all {
        std::hint::black_box(pair.open(bytes, subject, &roots));
    }
    each(start, messages)
}

const FRAME: usize = 64;

fn frame(body: &[u8]) -> Vec<FrameMessage<'_>> {
    (0..FRAME)
        .map(|n| FrameMessage {
            id: MessageId((n as u128).to_be_bytes()),
            body,
        })
        .collect()
}

fn seal_frame(pair: &Pair) -> f64 {
    let body = [7u8; 256];
    let messages = frame(&body);
    let subject = pair.subjects.first().unwrap();
    let start = Instant::now();
    for _ in 0..MESSAGES / FRAME {
        let sealed = pair.sealer.seal_frame(&draft(subject, &[]), &messages);
        std::hint::black_box(sealed.unwrap());
    }
    each(start, MESSAGES)
}

fn open_frame(pair: &Pair) -> f64 {
    let body = [7u8; 256];
    let messages = frame(&body);
    let subject = pair.subjects.first().unwrap();
    let sealed: Vec<_> = (0..MESSAGES / FRAME)
        .map(|_| {
            let sealed = pair.sealer.seal_frame(&draft(subject, &[]), &messages);
            sealed.unwrap().bytes
        })
        .collect();
    let roots = VerifiedRoots::new();
    let start = Instant::now();
    for bytes in sealed {
        let opened = pair.open(bytes, subject, &roots);
        opened
            .messages()
            .for_each(|m| drop(std::hint::black_box(m)));
    }
    each(start, MESSAGES)
}

const INBOX: &str = "_INBOX.8f3a61c20b7d4e9950a1f6c3d2e47b18.p.1c9e.42";
/// About as long as a user's token is; it is no part of what is shown.
const TOKEN: [u8; 600] = [b't'; 600];

/// A request behind this many others, each sealed alone.
fn chain(pair: &Pair, hops: usize) -> Bytes {
    let mut last = request(pair, None);
    for _ in 0..hops {
        let opened = open_request(pair, last, &VerifiedRoots::new());
        last = request(pair, Some(&opened.lineage().ancestry().unwrap()));
    }
    last
}

fn request(pair: &Pair, shown: Option<&Ancestry>) -> Bytes {
    let inbox = Subject::parse(INBOX).unwrap();
    let subject = pair.subjects.first().unwrap();
    let mut draft = draft(subject, &[7; 256]);
    draft.kind = Kind::Request;
    draft.reply_to = Some(&inbox);
    draft.token = Some(&TOKEN);
    draft.parent = shown.map(Ancestry::nearest);
    draft.ancestry = shown;
    let sealed = pair.sealer.seal(&draft, MessageId([1; 16])).unwrap();
    Bytes::copy_from_slice(&sealed.bytes)
}

fn open_request(pair: &Pair, bytes: Bytes, roots: &VerifiedRoots) -> OpenedEnvelope {
    let subject = pair.subjects.first().unwrap();
    SealedEnvelope::decode(bytes)
        .unwrap()
        .verify_with(&pair.credential, roots)
        .unwrap()
        .check(&Expectation {
            subject: subject.as_str(),
            reply_to: Some(INBOX),
            kinds: &[Kind::Request],
            now: NOW,
            skew: MINUTE,
            max_age: MINUTE,
            not_before: UnixMillis::default(),
            request: None,
        })
        .unwrap()
        .open_clear()
        .unwrap()
}

fn open_chain(pair: &Pair, hops: usize) -> f64 {
    const COUNT: usize = 512;
    let all: Vec<_> = (0..COUNT).map(|_| chain(pair, hops)).collect();
    let minter = pair.credential.workload().as_str();
    let start = Instant::now();
    for bytes in all {
        let roots = VerifiedRoots::new();
        let opened = open_request(pair, bytes, &roots);
        let senders: Vec<_> = opened
            .ancestors()
            .map(|ancestor| ancestor.verify(&pair.credential, &roots).unwrap())
            .collect();
        opened
            .check_chain(&senders, minter, MINUTE, |a| a.over_at(MINUTE))
            .unwrap();
        std::hint::black_box(opened);
    }
    each(start, COUNT)
}

fn show(pair: &Pair) -> f64 {
    let opened = open_request(pair, chain(pair, 1), &VerifiedRoots::new());
    let start = Instant::now();
    for _ in 0..MESSAGES {
        std::hint::black_box(opened.lineage().ancestry().unwrap());
    }
    each(start, MESSAGES)
}

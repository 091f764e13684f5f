//! Requests at the end of a proven chain, without a bus.

use std::time::Instant;

use bulla_benches::{Report, Wanted};
use bulla_envelope::{
    Ancestry, Expectation, Kind, MessageId, OpenedEnvelope, SealedEnvelope, VerifiedRoots,
};
use bulla_identity::{Subject, UnixMillis};
use bytes::Bytes;

use crate::pair::{MESSAGES, MINUTE, NOW, Pair, ROUNDS, draft, each};

const INBOX: &str = "_INBOX.8f3a61c20b7d4e9950a1f6c3d2e47b18.p.1c9e.42";
/// About as long as a user's token is; it is no part of what is shown.
const TOKEN: [u8; 600] = [b't'; 600];

pub fn run(pair: &Pair, wanted: &Wanted, report: &mut Report) {
    for hops in [0, 1, 2, 4, 8] {
        let name = format!("chain.open.{hops}");
        if wanted.wants(&name) {
            let rounds = (0..ROUNDS).map(|_| open_chain(pair, hops)).collect();
            report.add(name, "ns", rounds);
        }
        let name = format!("chain.bytes.{hops}");
        if wanted.wants(&name) {
            report.add(name, "bytes", vec![chain(pair, hops).len() as f64]);
        }
    }
    if wanted.wants("chain.show") {
        let rounds = (0..ROUNDS).map(|_| show(pair)).collect();
        report.add("chain.show", "ns", rounds);
    }
}

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

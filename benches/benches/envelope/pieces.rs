//! Sealing and opening without a bus: nanoseconds for each message.

use std::time::Instant;

use bulla_benches::{Report, Wanted};
use bulla_envelope::{FrameMessage, MessageId, VerifiedRoots};

use crate::pair::{MESSAGES, Pair, Payload, ROUNDS, each};

const FRAME: usize = 64;

pub fn run(pair: &Pair, wanted: &Wanted, report: &mut Report) {
    for (suffix, size, is_encrypted) in [
        ("", 256, false),
        (".1024", 1_024, false),
        (".encrypted", 256, true),
        (".1024.encrypted", 1_024, true),
    ] {
        let payload = Payload { size, is_encrypted };
        for count in [1, 16, 64, 256] {
            let name = format!("seal.batch.{count}{suffix}");
            if wanted.wants(&name) {
                let rounds = (0..ROUNDS).map(|_| seal(pair, count, payload)).collect();
                report.add(name, "ns", rounds);
            }
        }
        for count in [1, 16, 64, 256] {
            let name = format!("open.batch.{count}{suffix}");
            if wanted.wants(&name) {
                let rounds = (0..ROUNDS).map(|_| open(pair, count, payload)).collect();
                report.add(name, "ns", rounds);
            }
        }
        let name = format!("open.cached_root{suffix}");
        if wanted.wants(&name) {
            let rounds = (0..ROUNDS).map(|_| open_cached(pair, payload)).collect();
            report.add(name, "ns", rounds);
        }
    }
    for (suffix, is_encrypted) in [("", false), (".encrypted", true)] {
        let size = 256;
        let payload = Payload { size, is_encrypted };
        let name = format!("seal.frame.{FRAME}{suffix}");
        if wanted.wants(&name) {
            let rounds = (0..ROUNDS).map(|_| seal_frame(pair, payload)).collect();
            report.add(name, "ns", rounds);
        }
        let name = format!("open.frame.{FRAME}{suffix}");
        if wanted.wants(&name) {
            let rounds = (0..ROUNDS).map(|_| open_frame(pair, payload)).collect();
            report.add(name, "ns", rounds);
        }
    }
}

fn seal(pair: &Pair, count: usize, payload: Payload) -> f64 {
    let body = payload.body();
    let drafts = pair.drafts(count, &body, payload);
    let batches = (MESSAGES / count).min(512);
    let start = Instant::now();
    for _ in 0..batches {
        std::hint::black_box(pair.sealer.seal_batch(&drafts).unwrap());
    }
    each(start, batches * count)
}

fn open(pair: &Pair, count: usize, payload: Payload) -> f64 {
    let batches = (MESSAGES / count).min(512);
    let sealed: Vec<_> = (0..batches)
        .flat_map(|_| pair.batch(count, payload))
        .collect();
    let roots = VerifiedRoots::new();
    let start = Instant::now();
    for (bytes, subject) in sealed {
        std::hint::black_box(pair.open(bytes, subject, &roots, payload));
    }
    each(start, batches * count)
}

/// The first of each batch is opened before, so that its root is known.
fn open_cached(pair: &Pair, payload: Payload) -> f64 {
    const COUNT: usize = 256;
    let roots = VerifiedRoots::new();
    let mut all = Vec::new();
    // As many batches as one credential's share of the memory holds.
    for _ in 0..8 {
        let mut batch = pair.batch(COUNT, payload).into_iter();
        let (bytes, subject) = batch.next().unwrap();
        pair.open(bytes, subject, &roots, payload);
        all.extend(batch);
    }
    let messages = all.len();
    let start = Instant::now();
    for (bytes, subject) in all {
        std::hint::black_box(pair.open(bytes, subject, &roots, payload));
    }
    each(start, messages)
}

fn frame(body: &[u8]) -> Vec<FrameMessage<'_>> {
    (0..FRAME)
        .map(|n| FrameMessage {
            id: MessageId((n as u128).to_be_bytes()),
            body,
        })
        .collect()
}

fn seal_frame(pair: &Pair, payload: Payload) -> f64 {
    let body = payload.body();
    let messages = frame(&body);
    let subject = pair.subjects.first().unwrap();
    let start = Instant::now();
    for _ in 0..MESSAGES / FRAME {
        let sealed = pair
            .sealer
            .seal_frame(&pair.draft(subject, &[], payload), &messages);
        std::hint::black_box(sealed.unwrap());
    }
    each(start, MESSAGES)
}

fn open_frame(pair: &Pair, payload: Payload) -> f64 {
    let body = payload.body();
    let messages = frame(&body);
    let subject = pair.subjects.first().unwrap();
    let sealed: Vec<_> = (0..MESSAGES / FRAME)
        .map(|_| {
            let sealed = pair
                .sealer
                .seal_frame(&pair.draft(subject, &[], payload), &messages);
            sealed.unwrap().bytes
        })
        .collect();
    let roots = VerifiedRoots::new();
    let start = Instant::now();
    for bytes in sealed {
        let opened = pair.open(bytes, subject, &roots, payload);
        opened
            .messages()
            .for_each(|m| drop(std::hint::black_box(m)));
    }
    each(start, MESSAGES)
}

//! What an envelope costs: sealing and opening alone, and sealed messages end to end
//! beside raw async-nats, in one run.
//!
//! `cargo bench -p bulla-benches --bench envelope [-- PART-OF-A-NAME …]`
//!
//! ```text
//! without a bus, nanoseconds for each message:
//! seal.batch.N         N messages of 256 bytes under one signature; with .1024 of 1 KiB
//! open.batch.N         decode, prove and check each of them, nothing remembered before
//! open.cached_root     a message of a batch of 256 whose signature is verified already
//! seal.frame.64, open.frame.64    64 messages in one envelope
//! ….encrypted          the same, encrypted under a data key that both have, with the
//!                      faster cipher of this processor
//! cipher.seal.CIPHER.N, cipher.open.CIPHER.N   N bytes and a header of 200, nothing else
//! key.wrap.N, key.unwrap.N    making a data key for N workloads; having it from its wraps
//! key.bytes.N          how long these wraps are
//! chain.open.N         a request behind N proven hops: all of it, and the chain
//! chain.bytes.N        how long that request is, with 256 bytes of body
//! chain.show           putting together what the next message shows, behind one hop
//!
//! end to end, beside raw:
//! pubsub.signed.N             N-byte events to 100 subjects in turn: one envelope each
//! pubsub.framed.N             N-byte events to one subject: frames
//! pubsub.encrypted.N, pubsub.framed_encrypted.N    the same, encrypted with the faster
//!                             cipher of this processor, which is what `cipher = "any"` does
//! pubsub.chacha20.N, pubsub.framed_chacha20.N      with ChaCha20-Poly1305
//! pubsub.….cpu                processor time of publisher and subscriber for each message
//! rr.signed.p50, rr.mac.p50   a request and its reply, one after the other
//! rr.signed.64way             64 callers at once, requests a second
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    missing_docs,
    reason = "a benchmark fails by panicking"
)]

mod bus;
mod chain;
mod data_key;
mod pair;
mod pieces;

use bulla_benches::{Report, Wanted};

use pair::Pair;

fn main() {
    // `cargo test --benches` passes this to see that it starts.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let wanted = Wanted::from_args();
    let mut report = Report::default();
    // First, and without a runtime, whose threads would take the cores from them.
    let pair = Pair::new();
    pieces::run(&pair, &wanted, &mut report);
    data_key::run(&wanted, &mut report);
    chain::run(&pair, &wanted, &mut report);
    drop(pair);
    let report = bus::run(&wanted, report);
    report.finish().unwrap();
}

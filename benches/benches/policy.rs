//! Decisions without a bus: nanoseconds for each question, beside other engines
//! that are asked the same.
//!
//! `cargo bench -p bulla-benches --bench policy [--features peers] [-- PART-OF-A-NAME …]`
//!
//! ```text
//! decide.N              of N rules: allowed, no condition, 256 subjects in turn
//! decide.random.N       the same with subjects of all rules, each asked once
//! decide.claims.N       three conditions: a scope, one of a list, equal to a capture
//! decide.deny.N         nothing grants it; with what came nearest
//! compile.N             from text to policy, in milliseconds
//! diff.1000             what changes between two policies, in milliseconds
//! permissions.N         the lists of one of the workloads, in microseconds
//! peer.NAME.N           another engine, the questions of decide.N
//! peer.NAME.claims.N    the questions of decide.claims.N
//! ```
//!
//! Rule `i` lets one of at most 64 workloads publish on `shop.r<i>.{tenant}.set`;
//! one deny rule in a hundred forbids a subject that nobody asks for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use bulla_benches::{Report, Wanted};
use bulla_identity::{
    Claims, Nkey, NkeyKind, Subject, TrustDomain, UnixMillis, WorkloadId, WorkloadName,
};
use bulla_policy::{Circumstances, Policy, PolicyDiff, Request, Verb};
use serde_json::json;

#[cfg(feature = "peers")]
#[path = "policy/peers.rs"]
mod peers;

/// Short and many, so that most are over before the machine does something else.
const ROUNDS: usize = 257;
/// Of what takes longer.
const LONG_ROUNDS: usize = 9;
/// Subjects that are asked about in turn.
const WORKING_SET: usize = 256;
/// Questions in a round.
const QUESTIONS: usize = 4_096;
/// Subjects of `decide.random`.
const RANDOM: usize = 65_536;
const WORKLOADS: usize = 64;
const NOW: UnixMillis = UnixMillis::from_secs(1_800_000_000);
const SIZES: [usize; 4] = [10, 1_000, 10_000, 100_000];

fn main() {
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let wanted = Wanted::from_args();
    let mut report = Report::default();
    for rules in SIZES {
        for kind in Kind::ALL {
            let name = format!("{}.{rules}", kind.name());
            if wanted.wants(&name) {
                let world = World::new(rules, kind);
                let rounds = (0..ROUNDS).map(|round| world.ask(round)).collect();
                report.add(name, "ns", rounds);
            }
        }
    }
    for rules in [1_000, 10_000, 100_000] {
        let name = format!("compile.{rules}");
        if wanted.wants(&name) {
            let text = text(rules, false);
            let rounds = (0..5).map(|_| compile(&text)).collect();
            report.add(name, "ms", rounds);
        }
        let name = format!("permissions.{rules}");
        if wanted.wants(&name) {
            let world = World::new(rules, Kind::Plain);
            let rounds = (0..LONG_ROUNDS).map(|_| world.permissions()).collect();
            report.add(name, "µs", rounds);
        }
    }
    if wanted.wants("diff.1000") {
        let before = Policy::parse("before.toml", &text(1_000, true)).unwrap();
        // Every tenth rule is about something else.
        let after = text(1_000, true).replace("0.{tenant}.set", "0.{tenant}.put");
        let after = Policy::parse("after.toml", &after).unwrap();
        let rounds = (0..LONG_ROUNDS).map(|_| diff(&before, &after)).collect();
        report.add("diff.1000", "ms", rounds);
    }
    #[cfg(feature = "peers")]
    peers::measure(&wanted, &mut report);
    report.finish().unwrap();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Random,
    Claims,
    Deny,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Plain, Self::Random, Self::Claims, Self::Deny];

    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "decide",
            Self::Random => "decide.random",
            Self::Claims => "decide.claims",
            Self::Deny => "decide.deny",
        }
    }
}

/// One question.
struct Question {
    workload: WorkloadId,
    subject: Subject,
    user: Claims,
}

struct World {
    policy: Policy,
    questions: Vec<Question>,
    asks_for_user: bool,
    allows: bool,
}

impl World {
    fn new(rules: usize, kind: Kind) -> Self {
        let claims = kind == Kind::Claims;
        let policy = Policy::parse("bench.toml", &text(rules, claims)).unwrap();
        let count = match kind {
            Kind::Random => RANDOM,
            _ => WORKING_SET,
        };
        let world = Self {
            policy,
            questions: questions(rules, count, kind == Kind::Deny),
            asks_for_user: claims,
            allows: kind != Kind::Deny,
        };
        for question in &world.questions {
            assert_eq!(world.decide(question), world.allows, "{}", question.subject);
        }
        world
    }

    fn decide(&self, question: &Question) -> bool {
        let decision = self.policy.decide(&Request {
            workload: &question.workload,
            verb: Verb::Publish,
            subject: &question.subject,
            user: self.asks_for_user.then_some(&question.user),
            now: NOW,
        });
        black_box(decision).is_allow()
    }

    /// Nanoseconds for one question; each round goes on where the last one ended.
    fn ask(&self, round: usize) -> f64 {
        let begin = round * QUESTIONS % self.questions.len();
        let asked = self.questions.iter().cycle().skip(begin);
        let started = Instant::now();
        for question in asked.take(QUESTIONS) {
            assert_eq!(self.decide(black_box(question)), self.allows);
        }
        per(started, QUESTIONS)
    }

    /// Microseconds for the lists of one workload.
    fn permissions(&self) -> f64 {
        let started = Instant::now();
        let circumstances = Circumstances::at(NOW);
        let count = 16;
        for workload in self.policy.workloads().iter().cycle().take(count) {
            let lists = self.policy.permissions(workload.id(), &circumstances);
            black_box(lists.unwrap());
        }
        per(started, count) / 1_000.0
    }
}

/// Milliseconds from text to policy.
fn compile(text: &str) -> f64 {
    let started = Instant::now();
    black_box(Policy::parse("bench.toml", text).unwrap());
    started.elapsed().as_secs_f64() * 1_000.0
}

/// Milliseconds for what one policy changes of another.
fn diff(before: &Policy, after: &Policy) -> f64 {
    let started = Instant::now();
    assert!(!black_box(PolicyDiff::between(before, after, NOW)).is_empty());
    started.elapsed().as_secs_f64() * 1_000.0
}

/// Nanoseconds for each of so many.
fn per(started: Instant, count: usize) -> f64 {
    started.elapsed().as_secs_f64() * 1e9 / count as f64
}

/// Questions about rules all over the policy: a small generator (xorshift64*)
/// with a fixed seed.
fn questions(rules: usize, count: usize, denied: bool) -> Vec<Question> {
    let domain = TrustDomain::parse("bench.example").unwrap();
    let mut state = 0x0B11_1AB0_111A_5EED_u64;
    let mut below = |limit: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    };
    (0..count)
        .map(|i| {
            let rule = below(rules);
            let name = WorkloadName::parse(&workload(rule)).unwrap();
            let tenant = format!("t{}", i % WORKING_SET);
            let end = if denied { "get" } else { "set" };
            let claims = json!({
                "sub": "alice",
                "scope": "openid shop:read shop:write",
                "roles": ["staff", "buyer"],
                "tenant": tenant,
            });
            Question {
                workload: WorkloadId::new(&domain, &name),
                subject: Subject::parse(&format!("shop.r{rule}.{tenant}.{end}")).unwrap(),
                user: Claims::from_map(claims.as_object().unwrap().clone()),
            }
        })
        .collect()
}

/// The workload that rule `i` is about.
fn workload(rule: usize) -> String {
    format!("w{}", rule % WORKLOADS)
}

fn text(rules: usize, claims: bool) -> String {
    let mut text = String::from("version = 1\ntrust_domain = \"bench.example\"\n");
    for i in 0..rules.min(WORKLOADS) {
        let nkey = nkey(u32::try_from(i).unwrap());
        writeln!(text, "workload.w{i}.attest = [{{ nkey = \"{nkey}\" }}]").unwrap();
    }
    let user = if claims {
        "user={scope=\"shop:write\",roles={any=[\"buyer\",\"admin\"]},tenant=\"{tenant}\"}\n"
    } else {
        ""
    };
    for i in 0..rules {
        writeln!(
            text,
            "[[allow]]\nid=\"r{i}\"\nwho=[\"{}\"]\nmay=[\"publish\"]\non=[\"shop.r{i}.{{tenant}}.set\"]\n{user}",
            workload(i)
        )
        .unwrap();
        if i % 100 == 99 {
            writeln!(
                text,
                "[[deny]]\nid=\"d{i}\"\nwho=[\"{}\"]\nmay=[\"publish\"]\non=[\"shop.*.closed.>\"]\nuser={{kind=\"robot\"}}",
                workload(i)
            )
            .unwrap();
        }
    }
    text
}

/// A sound public nkey for each number: not every 32 bytes are a curve point.
fn nkey(number: u32) -> String {
    let mut bytes = [0u8; 32];
    let (head, _) = bytes.split_first_chunk_mut::<4>().unwrap();
    *head = number.to_be_bytes();
    loop {
        let text = Nkey::from_bytes(NkeyKind::User, bytes).to_string();
        if Nkey::parse(&text).is_ok() {
            return text;
        }
        let (_, rest) = bytes.split_first_chunk_mut::<8>().unwrap();
        *rest.first_mut().unwrap() += 1;
    }
}

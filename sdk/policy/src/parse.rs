//! From TOML to resolved workloads, subjects and rules, with every error.

mod attest;
mod bucket;
mod cases;
mod condition;
mod jwt;
mod lint;
mod merge;
mod reader;
mod rule;
mod stream;
mod subject;
mod user;
mod when;
mod workload;
mod x509;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bulla_identity::{SubjectPattern, TrustDomain, WorkloadName};
use toml::de::{DeTable, DeValue};

use crate::bucket::Bucket;
use crate::circumstances::Networks;
use crate::error::Sink;
use crate::exchange::Starts;
use crate::lint::Allowance;
use crate::problem::Problem;
use crate::requirements::Stated;
use crate::rule::Rule;
use crate::source::{Place, Source};
use crate::stream::Retention;
use crate::token_issuer::Protocols;
pub(crate) use attest::Attestors;
pub(crate) use cases::cases;
pub use cases::{MAX_CASES_BYTES, MAX_QUESTIONS};
use reader::{Fields, Node};

/// The largest policy that is read, all of its files together: 16 MiB.
pub const MAX_POLICY_BYTES: usize = 16 << 20;

/// The most grants that one policy may spell out: for every rule its workloads
/// times its patterns.
pub const MAX_GRANTS: usize = 1_000_000;

/// A `[workload.NAME]`.
#[derive(Debug)]
pub(crate) struct WorkloadSpec {
    pub(crate) name: WorkloadName,
    pub(crate) span: Range<usize>,
    pub(crate) attestors: Attestors,
    pub(crate) mints: bool,
    /// What its tokens reach at most; everything where nothing is said.
    pub(crate) reach: Option<Vec<Box<str>>>,
    /// Whether it exchanges tokens for others.
    pub(crate) exchanges: bool,
    pub(crate) starts: Option<Starts>,
    pub(crate) starts_at: Option<Range<usize>>,
    /// Whether it answers discovery, and asks.
    pub(crate) discoverable: bool,
    pub(crate) discovers: bool,
    pub(crate) place: Place,
    pub(crate) allow_lint: Vec<Allowance>,
    /// From where it may connect, if not from everywhere.
    pub(crate) networks: Option<Networks>,
    pub(crate) protocols: Protocols,
}

/// What the text gives a name, and whether anything uses it.
#[derive(Debug)]
pub(crate) struct NamedSpec {
    pub(crate) name: String,
    pub(crate) span: Range<usize>,
    pub(crate) used: bool,
}

/// A `[claims.NAME]`.
#[derive(Debug)]
pub(crate) struct PrivateSpec {
    pub(crate) name: Box<str>,
    /// Workloads by index, sorted, each once.
    pub(crate) readers: Vec<u32>,
}

/// A `[subject."PATTERN"]`.
#[derive(Debug)]
pub(crate) struct SubjectSpec {
    pub(crate) pattern: SubjectPattern,
    pub(crate) span: Range<usize>,
    /// Where its `replay` stands, or the entry if it has none.
    pub(crate) replay_at: Range<usize>,
    /// Where its `max_age` stands, or the entry if it has none.
    pub(crate) max_age_at: Range<usize>,
    pub(crate) place: Place,
    pub(crate) stated: Stated,
    pub(crate) allow_lint: Vec<Allowance>,
}

/// A `[stream.NAME]`.
#[derive(Debug)]
pub(crate) struct StreamSpec {
    pub(crate) name: Arc<str>,
    pub(crate) span: Range<usize>,
    pub(crate) place: Place,
    pub(crate) allow_lint: Vec<Allowance>,
    /// What it stores, and where each stands.
    pub(crate) subjects: Vec<(SubjectPattern, Range<usize>)>,
    /// The stream that it copies, and where that is said.
    pub(crate) mirror: Option<(Arc<str>, Range<usize>)>,
    pub(crate) retention: Retention,
    pub(crate) max_age: Option<Duration>,
    pub(crate) duplicates: Duration,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) replicas: u64,
}

/// A `[bucket.NAME]`.
#[derive(Debug)]
pub(crate) struct BucketSpec {
    pub(crate) allow_lint: Vec<Allowance>,
    pub(crate) span: Range<usize>,
    pub(crate) bucket: Bucket,
}

/// An `[[allow]]` or `[[deny]]`, and where each of its patterns stands.
#[derive(Debug)]
pub(crate) struct RuleSpec {
    pub(crate) rule: Rule,
    pub(crate) span: Range<usize>,
    pub(crate) on_spans: Vec<Range<usize>>,
    pub(crate) allow_lint: Vec<Allowance>,
}

/// A whole policy, as far as it could be read.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) workloads: Vec<WorkloadSpec>,
    pub(crate) subjects: Vec<SubjectSpec>,
    /// What the subjects name as their audiences, sorted.
    pub(crate) audiences: Vec<Box<str>>,
    /// Claims that only their readers can read, sorted by name.
    pub(crate) private: Vec<PrivateSpec>,
    /// Sorted by name.
    pub(crate) streams: Vec<StreamSpec>,
    /// Sorted by name.
    pub(crate) buckets: Vec<BucketSpec>,
    /// Sorted by id, so that nothing depends on their order in the file.
    pub(crate) rules: Vec<RuleSpec>,
    pub(crate) groups: Vec<NamedSpec>,
    /// Certificate authorities.
    pub(crate) authorities: Vec<NamedSpec>,
    /// Issuers of tokens.
    pub(crate) issuers: Vec<NamedSpec>,
    /// What `[lint]` allows in the whole policy.
    pub(crate) lint_allow: Vec<Allowance>,
}

/// Reads a policy's files; the result is complete only if nothing was reported.
pub(crate) fn parse(sources: &[Source<'_>], sink: &mut Sink<'_>) -> Parsed {
    let mut parsed = Parsed::default();
    let mut document = DeTable::new();
    let mut sound = true;
    for source in sources {
        match read_toml(source, sink) {
            Some(table) => {
                let start = source.span.start;
                let table = merge::shifted(table, start);
                let top = Fields::new(&table, start..start, "the policy", KEYS, &[], sink);
                if let Some(node) = top.need("version", sink) {
                    check_version(node, sink);
                }
                merge::add(&mut document, table, sink);
            }
            None => sound = false,
        }
    }
    // What the rest means is unknown where a part cannot be read.
    if !sound {
        return parsed;
    }
    let start = sources.first().map_or(0, |source| source.span.start);
    let top = Fields::of_known(&document, start..start, "the policy");
    if let Some(node) = top.need("trust_domain", sink)
        && let Some(domain) = reader::text("trust_domain", node, sink)
    {
        match TrustDomain::parse(domain) {
            Ok(domain) => parsed.trust_domain = Some(domain),
            Err(e) => sink.report(&node.span(), Problem::TrustDomain(e)),
        }
    }
    let authorities = x509::authorities(top.get("x509"), sink);
    let issuers = jwt::issuers(top.get("jwt"), sink);
    let known = attest::Named {
        authorities: &authorities,
        issuers: &issuers,
    };
    parsed.workloads = workload::workloads(top.get("workload"), &known, sink);
    let names = workload::Names::resolve(&parsed.workloads, top.get("group"), sink);
    (parsed.subjects, parsed.audiences) = subject::subjects(top.get("subject"), sink);
    parsed.streams = stream::streams(top.get("stream"), sink);
    parsed.buckets = bucket::buckets(top.get("bucket"), sink);
    parsed.private = user::private_claims(top.get("claims"), &names, sink);
    let (allow, deny) = (top.get("allow"), top.get("deny"));
    parsed.rules = rule::rules(allow, deny, &names, &parsed.private, sink);
    parsed.groups = names.groups(top.get("group"));
    parsed.authorities = x509::used(top.get("x509"), &authorities, &parsed.workloads);
    parsed.issuers = jwt::used(top.get("jwt"), &issuers, &parsed.workloads);
    parsed.lint_allow = lint::whole(top.get("lint"), sink);
    parsed
}

const KEYS: &[&str] = &[
    "version",
    "trust_domain",
    "x509",
    "jwt",
    "workload",
    "group",
    "claims",
    "subject",
    "stream",
    "bucket",
    "allow",
    "deny",
    "lint",
];

fn read_toml<'d>(source: &Source<'d>, sink: &mut Sink<'_>) -> Option<DeTable<'d>> {
    let (text, start) = (source.text, source.span.start);
    let first = match DeTable::parse(text) {
        Ok(document) => {
            let mut table = document.into_inner();
            merge::sort(&mut table);
            return Some(table);
        }
        Err(e) => e,
    };
    let first_at = report_syntax(&first, start, text.len(), sink);
    // One slip would make the rest of the text look wrong. So each table is
    // also read by itself, and tells its own first error.
    for (at, section) in sections(text) {
        let start = start + at;
        if let Err(error) = DeTable::parse(section) {
            let at = error.span().map_or(section.len(), |s| s.start) + start;
            if at != first_at {
                report_syntax(&error, start, section.len(), sink);
            }
        }
    }
    None
}

/// Reports what the TOML parser says of a section that starts at `start`, and
/// returns where the error is.
fn report_syntax(error: &toml::de::Error, start: usize, len: usize, sink: &mut Sink<'_>) -> usize {
    let span = error.span().unwrap_or(len..len);
    let problem = Problem::Syntax {
        message: error.message().to_owned(),
    };
    sink.report(&(span.start + start..span.end + start), problem);
    span.start + start
}

/// The text cut before each line that looks like a table's header, with where
/// each piece starts.
fn sections(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut cuts = vec![0];
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let bare = line.split('#').next().unwrap_or_default().trim_end();
        if at > 0 && bare.starts_with('[') && bare.ends_with(']') && !bare.contains(['=', ',']) {
            cuts.push(at);
        }
        at += line.len();
    }
    cuts.push(text.len());
    let ends = cuts.clone().into_iter().skip(1);
    cuts.into_iter()
        .zip(ends)
        .filter_map(move |(from, to)| Some((from, text.get(from..to)?)))
}

fn check_version(node: Node<'_>, sink: &mut Sink<'_>) {
    match node.get_ref() {
        DeValue::Integer(number) if number.as_str() == "1" => {}
        DeValue::Integer(number) => sink.report(
            &node.span(),
            Problem::Version {
                found: number.to_string(),
            },
        ),
        _ => reader::wrong_type("version", "the number 1", node, sink),
    }
}

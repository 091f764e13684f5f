//! The policy: language, compiler, decisions. Pure.
//!
//! One TOML text says who may do what on which subject, for which users.
//! [`Policy::parse`] reads it, or reports *every* error with its place and a
//! remedy; the rules of the language are numbered in SPEC.md (`POL-1` …), and
//! code and tests cite them.
//!
//! ```text
//!              ┌── decide(who, verb, subject, user) ──► Permit | Denial   the endpoints
//! text ──► Policy ── permissions(who) ──► four lists                      nats-server
//!              └── requirements(subject) ──► protection, user, max_age    both ends
//! ```
//!
//! What is deliberately absent: clocks, I/O and keys; the signature around a
//! policy and its revisions (bulla-keyring and the broker); any choice at run
//! time that is not in the text.
//!
//! ```
//! use bulla_identity::{Claims, Subject, UnixMillis, WorkloadName};
//! use bulla_policy::{Decision, Policy, Reason, Request, Verb};
//!
//! let policy = Policy::parse(
//!     "shop.toml",
//!     r#"
//!     version = 1
//!     trust_domain = "acme.example"
//!
//!     [workload.checkout]
//!     attest = [{ nkey = "UAH42UG6PV552P5SWLWTBP3H3S5BHAVCO2IEKEXUANJXR75J63RQ5WM6" }]
//!
//!     [subject."orders.{tenant}.create"]
//!     user = "required"
//!
//!     [[allow]]
//!     id   = "checkout-creates-orders"
//!     who  = ["checkout"]
//!     may  = ["request"]
//!     on   = ["orders.{tenant}.create"]
//!     user = { scope = "orders:write", tenant = "{tenant}" }
//!     "#,
//! )?;
//!
//! let checkout = policy.workload(&WorkloadName::parse("checkout")?).ok_or("unknown")?;
//! let alice = Claims::from_map(serde_json::from_str(
//!     r#"{ "sub": "alice", "scope": "orders:write", "tenant": "acme" }"#,
//! )?);
//! let ask = |subject: &str| -> Result<Decision, Box<dyn std::error::Error>> {
//!     Ok(policy.decide(&Request {
//!         workload: checkout.id(),
//!         verb: Verb::Request,
//!         subject: &Subject::parse(subject)?,
//!         user: Some(&alice),
//!         now: UnixMillis::from_secs(1_700_000_000),
//!     }))
//! };
//! assert!(ask("orders.acme.create")?.is_allow());
//! let Decision::Deny(denial) = ask("orders.other.create")? else {
//!     return Err("another tenant's orders".into());
//! };
//! assert_eq!(denial.reason(), Reason::ConditionFailed);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod admission_change;
mod bucket;
mod cases;
mod check;
mod circumstances;
mod condition;
mod decide;
mod decision;
mod denial;
mod diff;
mod error;
mod excerpt;
mod exchange;
mod lint;
mod parse;
mod permissions;
mod policy;
mod problem;
mod question;
mod record;
mod requirements;
mod rule;
mod schedule;
mod shape;
mod source;
mod stream;
mod token_issuer;
mod trie;
mod warning;

pub use admission_change::AdmissionChange;
pub use bucket::Bucket;
pub use cases::{Asked, Case, Cases, Complaint, Coverage, RuleCoverage, TestReport};
pub use circumstances::{Circumstances, Networks, moment, parse_moment};
pub use condition::TestOutcome;
pub use decide::Request;
pub use decision::{Decision, Permit, Reason, Would};
pub use denial::{Denial, FailedCondition};
pub use diff::{
    Allowance, ChangeKind, Example, KeyChange, PermissionChange, PolicyDiff, RequirementChange,
    RightChange, RuleChange, SettingChange, SubjectSet, TokenFact,
};
pub use error::{PolicyError, PolicyErrors};
pub use excerpt::Excerpt;
pub use exchange::{EXCHANGE_ASKED, EXCHANGE_SERVED, Starts};
pub use lint::{Checked, Lint, LintCode, placeholder_nkey};
pub use parse::{MAX_CASES_BYTES, MAX_GRANTS, MAX_POLICY_BYTES, MAX_QUESTIONS};
pub use permissions::{ListEntry, ListName, MAX_PERMISSION_BYTES, PermissionError, Permissions};
pub use policy::{Grant, Policy, Workload};
pub use problem::{AttestProblem, BucketProblem, Problem, ReplayEntry};
pub use question::{Allowed, Answer, Bearing, Considered, Denied, NotLiteral, Question, Tested};
pub use record::{DecisionRecord, MAX_RECORDED_TEXT, RecordedUser, RuleUse, Verdict};
pub use requirements::{
    Audiences, Batch, Chain, Cipher, DEFAULT_MAX_AGE, Frames, LONGEST_MAX_AGE,
    LONGEST_STREAM_MAX_AGE, Protect, Replay, Replies, Requirements, SHORTEST_MAX_AGE, Suite,
    UserRule,
};
pub use rule::{About, Effect, Rule, Verb};
pub use schedule::Schedule;
pub use source::{Place, join as join_sources};
pub use stream::{APPEND_LIFE, Consumer, DEFAULT_DUPLICATES, Retention, Stream};
pub use token_issuer::{IssuerKeys, Protocols, TokenIssuer, TokenProof};
pub use warning::Warning;

//! Lints: what loads and deserves a second look (POL-141 to POL-144).
//!
//! A false alarm costs more than a miss, because it teaches people to look away:
//! each lint is defined exactly, in [`LintCode::explanation`] and SPEC.md, and is
//! silent where it cannot tell.

mod code;
mod rules;
mod unused;

use std::ops::Range;
use std::sync::Arc;

use bulla_identity::{Nkey, NkeyKind, UnixMillis, WorkloadName};
use sha2::{Digest, Sha256};

use crate::error::{PolicyErrors, Sink};
use crate::excerpt::Excerpt;
use crate::parse::Parsed;
use crate::policy::Policy;
use crate::warning::Warning;

pub use code::LintCode;

/// One thing that deserves a second look; the policy loads all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lint {
    code: LintCode,
    excerpt: Excerpt,
    message: String,
    remedy: String,
}

impl Lint {
    /// What it is about.
    #[must_use]
    pub fn code(&self) -> LintCode {
        self.code
    }

    /// Where it stands in the text.
    #[must_use]
    pub fn excerpt(&self) -> &Excerpt {
        &self.excerpt
    }

    /// What deserves the look, in one sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it, in one sentence.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

/// A policy that loads, and what deserves a second look in it.
#[derive(Debug)]
pub struct Checked {
    /// The policy.
    pub policy: Policy,
    /// By place; what the text allows is not among them.
    pub lints: Vec<Lint>,
    /// How many more there were that the text allows.
    pub allowed: usize,
}

impl Policy {
    /// Reads a policy as [`Policy::parse`] does, and looks for what loads and may
    /// not mean what its author thinks. `now` is for rules that expire.
    ///
    /// ```
    /// # use bulla_identity::UnixMillis;
    /// # use bulla_policy::{LintCode, Policy};
    /// let text = "version = 1\ntrust_domain = \"acme.example\"\n[group]\nweb = []\n";
    /// let checked = Policy::check("shop.toml", text, UnixMillis::from_secs(0))?;
    /// assert_eq!(checked.lints[0].code(), LintCode::UnusedGroup);
    /// # Ok::<(), bulla_policy::PolicyErrors>(())
    /// ```
    ///
    /// # Errors
    /// [`PolicyErrors`], as [`Policy::parse`].
    pub fn check(name: &str, text: &str, now: UnixMillis) -> Result<Checked, PolicyErrors> {
        let (policy, (lints, allowed)) = Self::read(name, text, |parsed, warnings, sink| {
            let mut found = rules::lints(parsed, now);
            found.extend(unused::lints(parsed));
            found.extend(placeholders(parsed));
            found.extend(warnings.iter().filter_map(|w| from_warning(w, parsed)));
            allow(found, parsed, name, sink)
        })?;
        Ok(Checked {
            policy,
            lints,
            allowed,
        })
    }
}

/// The public nkey that stands for the key that a workload does not have yet. It
/// is a hash, so nobody knows a private key of it: such a workload cannot connect.
#[must_use]
pub fn placeholder_nkey(workload: &WorkloadName) -> Nkey {
    let mut hash = Sha256::new();
    hash.update(b"bulla placeholder nkey: ");
    hash.update(workload.as_str().as_bytes());
    Nkey::from_bytes(NkeyKind::User, hash.finalize().into())
}

/// An allowance in the text: `allow_lint` of a table, or `allow` of `[lint]`.
pub(crate) type Allowance = (LintCode, Range<usize>);

/// What was found, before the text is asked whether it may stay.
#[derive(Debug)]
struct Found {
    code: LintCode,
    span: Range<usize>,
    home: Home,
    message: String,
    remedy: String,
}

/// The table that may allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Rule(usize),
    Workload(usize),
    Subject(usize),
    Stream(usize),
    Bucket(usize),
    /// Only the whole policy.
    Policy,
}

impl Home {
    fn allowances(self, parsed: &Parsed) -> &[Allowance] {
        let found = match self {
            Self::Rule(at) => parsed.rules.get(at).map(|s| &s.allow_lint),
            Self::Workload(at) => parsed.workloads.get(at).map(|s| &s.allow_lint),
            Self::Subject(at) => parsed.subjects.get(at).map(|s| &s.allow_lint),
            Self::Stream(at) => parsed.streams.get(at).map(|s| &s.allow_lint),
            Self::Bucket(at) => parsed.buckets.get(at).map(|s| &s.allow_lint),
            Self::Policy => None,
        };
        found.map_or(&[], Vec::as_slice)
    }
}

/// Takes out what the text allows, and adds allowances that allow nothing.
fn allow(
    mut found: Vec<Found>,
    parsed: &Parsed,
    name: &str,
    sink: &Sink<'_>,
) -> (Vec<Lint>, usize) {
    let mut met: Vec<Range<usize>> = Vec::new();
    let mut count = 0;
    let mut keep = |one: &Found| {
        let allowances = one.home.allowances(parsed).iter().chain(&parsed.lint_allow);
        let before = met.len();
        met.extend(
            allowances
                .filter(|(code, _)| *code == one.code)
                .map(|(_, at)| at.clone()),
        );
        count += usize::from(met.len() > before);
        met.len() == before
    };
    found.retain(&mut keep);
    let homes = (0..parsed.rules.len())
        .map(Home::Rule)
        .chain((0..parsed.workloads.len()).map(Home::Workload))
        .chain((0..parsed.subjects.len()).map(Home::Subject))
        .chain((0..parsed.streams.len()).map(Home::Stream))
        .chain((0..parsed.buckets.len()).map(Home::Bucket));
    let all = homes.flat_map(|home| home.allowances(parsed).iter().map(move |a| (home, a)));
    let all = all.chain(parsed.lint_allow.iter().map(|a| (Home::Policy, a)));
    let mut needless: Vec<Found> = all
        .filter(|(_, (code, at))| {
            !code.depends_on_time() && *code != LintCode::NeedlessAllow && !met.contains(at)
        })
        .map(|(home, (code, at))| Found {
            code: LintCode::NeedlessAllow,
            span: at.clone(),
            home,
            message: format!("`{code}` is allowed here, and does not occur"),
            remedy: "take it out".to_owned(),
        })
        .collect();
    needless.retain(|one| {
        let mut allowances = one.home.allowances(parsed).iter().chain(&parsed.lint_allow);
        let is_allowed = allowances.any(|(code, _)| *code == LintCode::NeedlessAllow);
        count += usize::from(is_allowed);
        !is_allowed
    });
    found.append(&mut needless);
    found.sort_by(|a, b| {
        (a.span.start, a.code, &a.message).cmp(&(b.span.start, b.code, &b.message))
    });
    let policy: Arc<str> = name.into();
    let lints = found.into_iter().filter_map(|one| {
        Some(Lint {
            code: one.code,
            excerpt: sink.excerpt(&policy, one.span)?,
            message: one.message,
            remedy: one.remedy,
        })
    });
    (lints.collect(), count)
}

fn from_warning(warning: &Warning, parsed: &Parsed) -> Option<Found> {
    let code = LintCode::parse(warning.code())?;
    let subject = || {
        let mut entries = parsed.subjects.iter().enumerate();
        let (at, spec) = entries.find(|(_, s)| s.place == *warning.place())?;
        Some((Home::Subject(at), spec.span.clone()))
    };
    let rule = || {
        let mut rules = parsed.rules.iter().enumerate();
        let (at, spec) = rules.find(|(_, s)| s.rule.place == *warning.place())?;
        Some((Home::Rule(at), spec.span.clone()))
    };
    let (home, span) = match code {
        LintCode::ChainCannotBeProven => rule().or_else(subject),
        _ => subject().or_else(rule),
    }?;
    Some(Found {
        code,
        span,
        home,
        message: warning.message(),
        remedy: warning.remedy().to_owned(),
    })
}

fn placeholders(parsed: &Parsed) -> impl Iterator<Item = Found> {
    let workloads = parsed.workloads.iter().enumerate();
    workloads
        .filter(|(_, spec)| spec.attestors.nkeys.contains(&placeholder_nkey(&spec.name)))
        .map(|(at, spec)| Found {
            code: LintCode::PlaceholderKey,
            span: spec.span.clone(),
            home: Home::Workload(at),
            message: format!(
                "the nkey of `{}` is a placeholder: nobody holds its private key",
                spec.name
            ),
            remedy: "put the public part of the workload's own key here".to_owned(),
        })
}

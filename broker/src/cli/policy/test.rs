//! `bulla policy test`: cases with what is expected of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bulla_identity::WorkloadId;
use bulla_policy::{Asked, Cases, Coverage, Policy, TestReport};
use serde_json::{Value, json};

use super::explain::Explanation;
use super::input::{load, now, read, read_file};
use super::junit::junit;
use super::print::{BAD, GOOD, PLACE, STRONG, WARN, place, plural, print_json, say};
use super::{Failure, NO, YES};

/// Test a policy: cases with what is expected, and how much of it they cover
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Test a policy with cases, each a question and what is expected of the answer.\n\n\
        A case asks about every one of its workloads, verbs, subjects and users, with the engine\n\
        that production uses. What fails is explained. Coverage is the share of rules that\n\
        applied to some question; rules that never did are listed, and so are tests of claims\n\
        that never held, or never kept anybody out.",
    after_help = "Examples:\n  \
        bulla policy test shop.cases.toml\n  \
        bulla policy test tests/*.cases.toml --policy policy.d/ --min-coverage 90\n  \
        bulla policy test shop.cases.toml --junit report.xml\n\n\
        A file of cases:\n  \
        policy = \"policy.toml\"             # beside this file; --policy goes before it\n\n  \
        [user.alice]                       # the claims of a user's token\n  \
        scope = \"orders:write\"\n\n  \
        [[case]]\n  \
        name   = \"who may write, creates orders\"\n  \
        who    = \"gateway\"                 # a workload, or a list, as in all of these\n  \
        may    = \"request\"\n  \
        on     = [\"orders.create\"]\n  \
        user   = \"alice\"                   # or { scope = \"…\" }; \"nobody\" where it is absent\n  \
        at     = 2026-11-27T10:00:00Z      # now where it is absent\n  \
        from   = \"10.1.2.3\"                # for rules with a network\n  \
        expect = \"allow\"                   # or \"deny\"\n  \
        rule   = \"edge-creates-orders\"     # the rule that decides or comes nearest\n\n  \
        With \"deny\" also reason = \"condition_failed\" and claim = \"scope\".\n\n\
        Exit code: 0 everything is as expected, 1 it is not, or too little is covered,\n\
        2 the policy or the cases do not load."
)]
pub(crate) struct TestArgs {
    /// Files of cases
    #[arg(value_name = "CASES", required = true, value_hint = clap::ValueHint::FilePath)]
    cases: Vec<PathBuf>,
    /// The policy, instead of the one that the cases name: a file or a directory
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    policy: Option<PathBuf>,
    /// Fail if fewer rules than so many in a hundred apply to some question
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    min_coverage: Option<u32>,
    /// Write the results as JUnit XML, which build servers read
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    junit: Option<PathBuf>,
    /// Name every question, not only those that fail
    #[arg(long, short)]
    verbose: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

/// The cases about one policy, and what came of them.
pub(super) struct Run {
    pub(super) policy_file: PathBuf,
    pub(super) policy: Policy,
    text: String,
    /// Each file, and what came of it.
    pub(super) reports: Vec<(PathBuf, TestReport)>,
    pub(super) coverage: Coverage,
}

pub(super) fn test(args: &TestArgs) -> Result<u8, Failure> {
    let runs = runs(args)?;
    if let Some(path) = &args.junit {
        std::fs::write(path, junit(&runs)).map_err(|source| Failure::Write {
            path: path.clone(),
            source,
        })?;
    }
    let enough = |run: &Run| {
        args.min_coverage
            .is_none_or(|min| run.coverage.percent() >= min)
    };
    let good = runs
        .iter()
        .all(|run| run.failures().next().is_none() && enough(run));
    if args.json {
        print_json(&json!({
            "ok": good,
            "policies": runs.iter().map(|run| run.json(args.min_coverage)).collect::<Vec<_>>(),
        }));
    } else {
        for run in &runs {
            run.print(args);
        }
    }
    Ok(if good { YES } else { NO })
}

/// The files of cases, by the policy that they are about.
fn runs(args: &TestArgs) -> Result<Vec<Run>, Failure> {
    let mut by_policy: BTreeMap<PathBuf, Vec<(PathBuf, Cases)>> = BTreeMap::new();
    for path in &args.cases {
        let text = read_file(path)?;
        let cases = Cases::parse(&path.display().to_string(), &text).map_err(Failure::Policy)?;
        let beside = |name: &str| path.parent().unwrap_or(Path::new("")).join(name);
        let policy = args
            .policy
            .clone()
            .or_else(|| cases.policy().map(beside))
            .or_else(|| std::env::var_os("BULLA_POLICY").map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(".bulla/policy.toml"));
        by_policy
            .entry(policy)
            .or_default()
            .push((path.clone(), cases));
    }
    let now = now();
    let runs = by_policy.into_iter().map(|(policy_file, files)| {
        let policy = load(&policy_file)?;
        let all: Vec<&Cases> = files.iter().map(|(_, cases)| cases).collect();
        let coverage = policy.test(&all, now).coverage;
        let reports = files
            .iter()
            .map(|(path, cases)| (path.clone(), policy.test(&[cases], now)))
            .collect();
        Ok(Run {
            text: read(&policy_file)?,
            policy_file,
            policy,
            reports,
            coverage,
        })
    });
    runs.collect()
}

impl Run {
    fn failures(&self) -> impl Iterator<Item = &Asked> {
        self.reports
            .iter()
            .flat_map(|(_, report)| report.failures())
    }

    fn print(&self, args: &TestArgs) {
        let (mut questions, mut cases) = (0, 0);
        for (path, report) in &self.reports {
            let mut last = None;
            for asked in &report.asked {
                questions += 1;
                if last != Some(&asked.place) {
                    cases += 1;
                    last = Some(&asked.place);
                }
                if !asked.passed() {
                    self.print_failure(path, asked);
                } else if args.verbose {
                    say!("{GOOD}✓{GOOD:#} {}  {}", asked.case, question(asked));
                }
            }
        }
        let failed = self.failures().count();
        let style = if failed == 0 { GOOD } else { BAD };
        let word = if failed == 0 { "ok" } else { "failed" };
        say!(
            "{style}{word}{style:#}  {}: {} in {}, {failed} not as expected",
            self.policy_file.display(),
            plural(questions, "question"),
            plural(cases, "case"),
        );
        self.print_coverage(args);
    }

    fn print_failure(&self, path: &Path, asked: &Asked) {
        say!(
            "{BAD}✗{BAD:#} {STRONG}{}{STRONG:#}  {PLACE}{}:{}{PLACE:#}",
            asked.case,
            path.display(),
            asked.place.line()
        );
        say!("  {}", question(asked));
        for complaint in &asked.complaints {
            say!("  {BAD}{complaint}{BAD:#}");
        }
        if let bulla_policy::Answer::Deny(denied) = &asked.answer {
            say!("  {denied}");
        }
        let workload = WorkloadId::new(self.policy.trust_domain(), &asked.workload);
        let explanation = Explanation {
            policy: &self.policy,
            file: &self.policy_file,
            text: &self.text,
            workload: &workload,
            verb: asked.verb,
            on: &asked.on,
            user: asked.claims.as_ref(),
            circumstances: asked.circumstances,
        };
        explanation.print_rules();
        say!("");
    }

    fn print_coverage(&self, args: &TestArgs) {
        let percent = self.coverage.percent();
        let (style, wanted) = match args.min_coverage {
            Some(min) if percent < min => (BAD, format!(", and {min} % are wanted")),
            _ => (GOOD, String::new()),
        };
        say!(
            "    {style}{percent} %{style:#} of {} applied{wanted}",
            plural(self.coverage.rules.len(), "rule"),
        );
        let file = self.policy_file.display().to_string();
        for rule in self.coverage.missing() {
            say!(
                "    {WARN}never applied{WARN:#}  {} {}  {PLACE}{}:{}{PLACE:#}",
                rule.effect,
                rule.id,
                place(&file, rule.place.file()),
                rule.place.line()
            );
        }
        // Of a rule that was not tried at all that is known.
        for rule in self.coverage.rules.iter().filter(|rule| rule.applied > 0) {
            for test in &rule.never_held {
                say!("    {WARN}never held{WARN:#}     {}: {test}", rule.id);
            }
            for test in &rule.never_failed {
                say!("    {WARN}never failed{WARN:#}   {}: {test}", rule.id);
            }
        }
    }

    fn json(&self, min: Option<u32>) -> Value {
        let files: Vec<Value> = self
            .reports
            .iter()
            .map(|(path, report)| {
                json!({
                    "file": path.display().to_string(),
                    "questions": report.asked.iter().map(asked_json).collect::<Vec<_>>(),
                })
            })
            .collect();
        let rules: Vec<Value> = self
            .coverage
            .rules
            .iter()
            .map(|rule| {
                json!({
                    "rule": rule.id,
                    "effect": rule.effect.to_string(),
                    "file": rule.place.file(),
                    "line": rule.place.line(),
                    "applied": rule.applied,
                    "never_held": rule.never_held,
                    "never_failed": rule.never_failed,
                })
            })
            .collect();
        let percent = self.coverage.percent();
        json!({
            "policy": self.policy_file.display().to_string(),
            "questions": self.reports.iter().map(|(_, r)| r.asked.len()).sum::<usize>(),
            "failed": self.failures().count(),
            "files": files,
            "coverage": {
                "percent": percent,
                "enough": min.is_none_or(|min| percent >= min),
                "rules": rules,
            },
        })
    }
}

fn asked_json(asked: &Asked) -> Value {
    let complaints: Vec<String> = asked.complaints.iter().map(ToString::to_string).collect();
    json!({
        "case": asked.case,
        "line": asked.place.line(),
        "workload": asked.workload.as_str(),
        "verb": asked.verb.as_str(),
        "subject": asked.on.as_str(),
        "user": asked.user,
        "at": bulla_policy::moment(asked.circumstances.now),
        "from": asked.circumstances.client,
        "decision": if asked.answer.is_allow() { "allow" } else { "deny" },
        "rule": asked.answer.rule(),
        "reason": asked.answer.code(),
        "passed": asked.passed(),
        "complaints": complaints,
    })
}

/// `gateway request orders.create as alice`.
pub(super) fn question(asked: &Asked) -> String {
    let mut out = format!("{} {} {}", asked.workload, asked.verb, asked.on);
    if asked.claims.is_some() {
        out.push_str(&format!(" as {}", asked.user));
    }
    if let Some(client) = asked.circumstances.client {
        out.push_str(&format!(" from {client}"));
    }
    out
}

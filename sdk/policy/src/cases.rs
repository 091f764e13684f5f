//! Tests of a policy: cases with what is expected of them (POL-155 to POL-158).
//!
//! A case asks one question for each of its workloads, verbs, subjects and
//! users. All are answered by the engine that production uses; the report says
//! which answers are not as expected, and which rules and tests of the policy no
//! question has tried.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bulla_identity::{Claims, Subject, SubjectPattern, UnixMillis, WorkloadId, WorkloadName};

use crate::circumstances::Circumstances;
use crate::condition::TestOutcome;
use crate::decide::Request;
use crate::error::PolicyErrors;
use crate::parse;
use crate::policy::Policy;
use crate::question::{Answer, Bearing, Denied, Question};
use crate::rule::{Effect, Verb};
use crate::source::Place;

/// A file of cases.
#[derive(Debug, Clone, Default)]
pub struct Cases {
    pub(crate) policy: Option<String>,
    pub(crate) cases: Vec<Case>,
}

/// One `[[case]]`.
#[derive(Debug, Clone)]
pub struct Case {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) who: Vec<WorkloadName>,
    pub(crate) verbs: Vec<Verb>,
    pub(crate) on: Vec<SubjectPattern>,
    pub(crate) users: Vec<CaseUser>,
    pub(crate) at: Option<UnixMillis>,
    pub(crate) from: Option<IpAddr>,
    pub(crate) expect: Expected,
}

/// For whom a case asks.
#[derive(Debug, Clone)]
pub(crate) struct CaseUser {
    name: String,
    claims: Option<Claims>,
}

/// What a case expects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    pub(crate) allow: bool,
    pub(crate) rule: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) claim: Option<String>,
    pub(crate) would: Option<bool>,
}

/// What came of a file of cases.
#[derive(Debug, Clone)]
pub struct TestReport {
    /// Each question with its answer, in the order of the file.
    pub asked: Vec<Asked>,
    /// What of the policy was tried.
    pub coverage: Coverage,
}

/// One question of a case.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The case's name, or where it stands.
    pub case: String,
    /// Where it stands.
    pub place: Place,
    /// Who.
    pub workload: WorkloadName,
    /// What.
    pub verb: Verb,
    /// On which subject or pattern.
    pub on: SubjectPattern,
    /// The user's name in the file; empty for nobody.
    pub user: String,
    /// The user's claims.
    pub claims: Option<Claims>,
    /// When and from where.
    pub circumstances: Circumstances,
    /// What the policy says.
    pub answer: Answer,
    /// What is wrong with that; nothing if it is as expected.
    pub complaints: Vec<Complaint>,
}

/// How an answer differs from what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Complaint {
    /// Denied, or allowed.
    #[error("expected {expected}, and the answer is {}", if *.got { "allow" } else { "deny" }, expected = if *.got { "deny" } else { "allow" })]
    Verdict {
        /// Whether the answer is allow.
        got: bool,
    },
    /// Another rule decided.
    #[error("expected rule `{expected}`, and {}", by(.got.as_deref()))]
    Rule {
        /// The rule expected.
        expected: String,
        /// The rule that decided.
        got: Option<String>,
    },
    /// Another reason.
    #[error("expected reason `{expected}`, and it is `{got}`")]
    Reason {
        /// The code expected.
        expected: String,
        /// The code.
        got: &'static str,
    },
    /// Another claim.
    #[error("expected the claim `{expected}` to fail, and {}", failed(.got.as_deref()))]
    Claim {
        /// The claim expected.
        expected: String,
        /// The claim that failed.
        got: Option<String>,
    },
    /// Shadow.
    #[error("expected that the rules in shadow would {}, and they would {}", verdict(*.expected), .got.map_or("change nothing", verdict))]
    Would {
        /// The verdict expected.
        expected: bool,
        /// What they would say, where that differs.
        got: Option<bool>,
    },
    /// The case names a workload that the policy does not have: it proves
    /// nothing.
    #[error("the policy names no workload `{0}`: the case tests nothing")]
    UnknownWorkload(WorkloadName),
    /// The case names a rule that the policy does not have.
    #[error("the policy has no rule `{0}`")]
    UnknownRule(String),
}

fn by(rule: Option<&str>) -> String {
    match rule {
        Some(rule) => format!("it is `{rule}`"),
        None => "no rule decided".to_owned(),
    }
}

fn failed(claim: Option<&str>) -> String {
    match claim {
        Some(claim) => format!("`{claim}` did"),
        None => "no test of a claim did".to_owned(),
    }
}

const fn verdict(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

/// What of a policy its tests have tried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Every rule, by id.
    pub rules: Vec<RuleCoverage>,
}

/// How far one rule was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCoverage {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub place: Place,
    /// Allow or deny.
    pub effect: Effect,
    /// How many questions it applied to.
    pub applied: usize,
    /// The tests of its condition that held for nobody.
    pub never_held: Vec<String>,
    /// The tests of its condition that failed for nobody: whether they keep
    /// anybody out is not shown.
    pub never_failed: Vec<String>,
}

impl Cases {
    /// Reads a file of cases. `name` only names it in errors.
    ///
    /// ```
    /// # use bulla_policy::Cases;
    /// let cases = Cases::parse(
    ///     "shop.cases.toml",
    ///     r#"
    ///     [user.alice]
    ///     scope = "orders:write"
    ///
    ///     [[case]]
    ///     who    = "checkout"
    ///     may    = "request"
    ///     on     = ["orders.acme.create", "orders.eu.create"]
    ///     user   = "alice"
    ///     expect = "allow"
    ///     "#,
    /// )?;
    /// assert_eq!(cases.questions(), 2);
    /// # Ok::<(), bulla_policy::PolicyErrors>(())
    /// ```
    ///
    /// # Errors
    /// [`PolicyErrors`] holds every error of the text.
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyErrors> {
        parse::cases(name, text)
    }

    /// The policy that the file says it is about, as it says it.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    /// How many cases there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// How many questions the cases ask.
    #[must_use]
    pub fn questions(&self) -> usize {
        self.cases.iter().map(Case::questions).sum()
    }
}

impl Case {
    /// One for each workload, verb, subject and user.
    pub(crate) fn questions(&self) -> usize {
        [
            self.who.len(),
            self.verbs.len(),
            self.on.len(),
            self.users.len(),
        ]
        .into_iter()
        .fold(1, usize::saturating_mul)
    }
}

impl CaseUser {
    pub(crate) const fn nobody() -> Self {
        Self {
            name: String::new(),
            claims: None,
        }
    }

    pub(crate) fn named(name: &str, claims: &Claims) -> Self {
        Self {
            name: name.to_owned(),
            claims: Some(claims.clone()),
        }
    }

    pub(crate) fn of(claims: Claims) -> Self {
        let name = claims.principal().unwrap_or("the case's user").to_owned();
        Self {
            name,
            claims: Some(claims),
        }
    }
}

impl Asked {
    /// Whether the answer is as expected.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.complaints.is_empty()
    }
}

impl TestReport {
    /// The questions whose answers are not as expected.
    pub fn failures(&self) -> impl Iterator<Item = &Asked> {
        self.asked.iter().filter(|asked| !asked.passed())
    }
}

impl Coverage {
    /// The share of rules that applied to some question, in percent, rounded
    /// down; 100 where there is no rule.
    #[must_use]
    pub fn percent(&self) -> u32 {
        let applied = self.rules.iter().filter(|rule| rule.applied > 0).count();
        let percent = (applied * 100).checked_div(self.rules.len());
        percent.map_or(100, |p| u32::try_from(p).unwrap_or(100))
    }

    /// The rules that applied to no question.
    pub fn missing(&self) -> impl Iterator<Item = &RuleCoverage> {
        self.rules.iter().filter(|rule| rule.applied == 0)
    }
}

impl Policy {
    /// Asks every question of the cases. Where a case does not say when, it is
    /// `now`.
    #[must_use]
    pub fn test(&self, cases: &[&Cases], now: UnixMillis) -> TestReport {
        let mut asked = Vec::new();
        let mut tried = Tried::default();
        for case in cases.iter().flat_map(|cases| &cases.cases) {
            let circumstances = Circumstances {
                now: case.at.unwrap_or(now),
                client: case.from,
            };
            for workload in &case.who {
                let id = WorkloadId::new(self.trust_domain(), workload);
                for verb in &case.verbs {
                    for (on, user) in case
                        .on
                        .iter()
                        .flat_map(|on| case.users.iter().map(move |user| (on, user)))
                    {
                        let question = Question {
                            workload: &id,
                            verb: *verb,
                            on,
                            user: user.claims.as_ref(),
                            circumstances,
                        };
                        // A pattern is refused where it is read.
                        let Ok(answer) = self.ask(&question) else {
                            continue;
                        };
                        tried.note(self, &question, &answer);
                        asked.push(Asked {
                            case: case.name.clone(),
                            place: case.place.clone(),
                            workload: workload.clone(),
                            verb: *verb,
                            on: on.clone(),
                            user: user.name.clone(),
                            claims: user.claims.clone(),
                            circumstances,
                            complaints: self.complaints(workload, &case.expect, &answer),
                            answer,
                        });
                    }
                }
            }
        }
        TestReport {
            asked,
            coverage: tried.coverage(self),
        }
    }

    fn complaints(
        &self,
        workload: &WorkloadName,
        expect: &Expected,
        answer: &Answer,
    ) -> Vec<Complaint> {
        let mut out = Vec::new();
        let means_unknown = expect.reason.as_deref() == Some("unknown_workload");
        if self.workload(workload).is_none() && !means_unknown {
            out.push(Complaint::UnknownWorkload(workload.clone()));
            return out;
        }
        let got = answer.is_allow();
        if got != expect.allow {
            out.push(Complaint::Verdict { got });
        }
        if let Some(expected) = &expect.rule {
            let got = answer.rule();
            if self.rule(expected).is_none() {
                out.push(Complaint::UnknownRule(expected.clone()));
            } else if got != Some(expected) {
                out.push(Complaint::Rule {
                    expected: expected.clone(),
                    got: got.map(str::to_owned),
                });
            }
        }
        // What did not happen at all needs no second complaint.
        let denied = match answer {
            Answer::Deny(denied) => Some(denied),
            Answer::Allow(_) => None,
        };
        if let (Some(expected), Some(denied)) = (&expect.reason, denied)
            && expected != denied.code()
        {
            out.push(Complaint::Reason {
                expected: expected.clone(),
                got: denied.code(),
            });
        }
        if let (Some(expected), Some(denied)) = (&expect.claim, denied) {
            let got = denied.condition().map(|c| c.claim());
            if got != Some(expected) {
                out.push(Complaint::Claim {
                    expected: expected.clone(),
                    got: got.map(str::to_owned),
                });
            }
        }
        if let Some(expected) = expect.would {
            let would = match answer {
                Answer::Allow(allowed) => allowed.would.as_ref(),
                Answer::Deny(Denied::Engine(denial)) => denial.would(),
                Answer::Deny(_) => None,
            };
            let got = would.map(|would| would.is_allow());
            if got != Some(expected) {
                out.push(Complaint::Would { expected, got });
            }
        }
        out
    }
}

/// What was tried of each rule, by id.
#[derive(Default)]
struct Tried {
    applied: BTreeMap<String, usize>,
    held: BTreeSet<(String, String)>,
    failed: BTreeSet<(String, String)>,
}

impl Tried {
    fn note(&mut self, policy: &Policy, question: &Question<'_>, answer: &Answer) {
        let Ok(subject) = Subject::parse(question.on.as_str()) else {
            // About a whole pattern, the rule that decided is what is known.
            if let Some(rule) = answer.rule() {
                *self.applied.entry(rule.to_owned()).or_default() += 1;
            }
            return;
        };
        let request = Request {
            workload: question.workload,
            verb: question.verb,
            subject: &subject,
            user: question.user,
            now: question.circumstances.now,
        };
        let mut counted = BTreeSet::new();
        for considered in policy.considered(&request, question.circumstances.client) {
            let id = considered.rule.id();
            let applies = considered.bearing == Bearing::Applies;
            if applies && counted.insert(id.to_owned()) {
                *self.applied.entry(id.to_owned()).or_default() += 1;
            }
            if !(applies || considered.bearing == Bearing::User) {
                continue;
            }
            for test in considered.tests {
                let key = (id.to_owned(), test.test);
                if test.outcome == TestOutcome::Holds {
                    self.held.insert(key);
                } else {
                    self.failed.insert(key);
                }
            }
        }
    }

    fn coverage(&self, policy: &Policy) -> Coverage {
        // Rules that no text wrote cannot be left out of it either.
        let written = policy.rules().iter().filter(|r| !r.id().starts_with('('));
        let rules = written.map(|rule| {
            let id = rule.id();
            let not_in = |seen: &BTreeSet<(String, String)>| -> Vec<String> {
                rule.tests()
                    .filter(|test| !seen.contains(&(id.to_owned(), test.clone())))
                    .collect()
            };
            RuleCoverage {
                id: id.to_owned(),
                place: rule.place().clone(),
                effect: rule.effect(),
                applied: self.applied.get(id).copied().unwrap_or_default(),
                never_held: not_in(&self.held),
                never_failed: not_in(&self.failed),
            }
        });
        Coverage {
            rules: rules.collect(),
        }
    }
}

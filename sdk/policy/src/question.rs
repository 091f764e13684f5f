//! A question as an operator asks it, and every rule that bears on it.
//!
//! The endpoints' decision and what nats-server admits are two enforcers; an
//! operator asks what both together do. [`Policy::ask`] says that, by the same
//! engine, and [`Policy::considered`] how each rule stands to it.

use std::fmt;
use std::net::IpAddr;

use bulla_identity::{Claims, Subject, SubjectPattern, WorkloadId};

use crate::circumstances::{Circumstances, Standing};
use crate::condition::{Scene, TestOutcome};
use crate::decide::Request;
use crate::decision::{Decision, Would};
use crate::denial::{Denial, FailedCondition};
use crate::policy::Policy;
use crate::requirements::Requirements;
use crate::rule::{About, Effect, Rule, Verb};

/// May this workload do this?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who.
    pub workload: &'a WorkloadId,
    /// What.
    pub verb: Verb,
    /// On which subject; for `subscribe` and `serve` it may be a pattern, for
    /// `consume` it is `STREAM.CONSUMER`, for `read` a key or a pattern of keys,
    /// which is the question whether it may hear of all of them.
    pub on: &'a SubjectPattern,
    /// The user of the message. For `subscribe`, `serve` and `consume`, without a
    /// user, the question is whether it may listen there at all.
    pub user: Option<&'a Claims>,
    /// When and, if that is to count, from where.
    pub circumstances: Circumstances,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Yes.
    Allow(Allowed),
    /// No.
    Deny(Denied),
}

/// Why it may.
#[derive(Debug, Clone, PartialEq)]
pub struct Allowed {
    /// The id of the rule that allows it; of several, the first by id.
    pub rule: String,
    /// What the message must be; `None` where it is not about a subject, and for
    /// patterns.
    pub requirements: Option<Requirements>,
    /// It is about listening, and not about one message.
    pub listens: bool,
    /// What rules in shadow would say, where that differs.
    pub would: Option<Would>,
}

/// Why it may not.
#[derive(Debug, Clone, PartialEq)]
pub enum Denied {
    /// The engine says so.
    Engine(Denial),
    /// An allow rule is there, but not for connections from this network.
    OtherNetwork {
        /// The rule's id.
        rule: String,
    },
    /// A deny rule for connections from this network.
    ThisNetwork {
        /// The rule's id.
        rule: String,
    },
}

/// A message is about one subject, and the question was about a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message has a literal subject: replace the wildcards and captures of the pattern")]
pub struct NotLiteral;

/// How one pattern of a rule stands to a question.
#[derive(Debug, Clone)]
pub struct Considered<'p> {
    /// The rule.
    pub rule: &'p Rule,
    /// The one of its patterns that matches.
    pub pattern: &'p SubjectPattern,
    /// Whether it applies, and if not, why not.
    pub bearing: Bearing,
    /// Each test of its condition on the user.
    pub tests: Vec<Tested>,
}

/// Why a rule whose pattern matches applies or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bearing {
    /// It applies.
    Applies,
    /// The user does not meet its condition.
    User,
    /// It counts at other times.
    OutsideTime,
    /// It counts no more.
    Expired,
    /// It counts for other networks, or for some, and the network is not known.
    Network,
    /// It is about other verbs.
    OtherVerb,
}

/// One test of a condition on the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tested {
    /// The claim.
    pub claim: String,
    /// What the rule asks of it.
    pub test: String,
    /// What came out.
    pub outcome: TestOutcome,
}

impl Answer {
    /// Whether it is yes.
    #[must_use]
    pub const fn is_allow(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The rule that decided, or that came nearest.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Allow(allowed) => Some(&allowed.rule),
            Self::Deny(denied) => denied.rule(),
        }
    }

    /// The stable code of a denial; empty for an allow.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Allow(_) => "",
            Self::Deny(denied) => denied.code(),
        }
    }
}

impl Denied {
    /// A stable name for the reason.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Engine(denial) => denial.reason().code(),
            Self::OtherNetwork { .. } => "other_network",
            Self::ThisNetwork { .. } => "denied_by_network",
        }
    }

    /// The rule that decided, or that came nearest.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Engine(denial) => denial.rule(),
            Self::OtherNetwork { rule } | Self::ThisNetwork { rule } => Some(rule),
        }
    }

    /// The test of the nearest rule that failed.
    #[must_use]
    pub fn condition(&self) -> Option<FailedCondition<'_>> {
        match self {
            Self::Engine(denial) => denial.condition(),
            Self::OtherNetwork { .. } | Self::ThisNetwork { .. } => None,
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(denial) => denial.fmt(f),
            Self::OtherNetwork { rule } => write!(
                f,
                "rule `{rule}` would allow it, but not for a connection from this network"
            ),
            Self::ThisNetwork { rule } => {
                write!(
                    f,
                    "rule `{rule}` denies it for connections from this network"
                )
            }
        }
    }
}

impl Bearing {
    /// A stable word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applies => "applies",
            Self::User => "condition_failed",
            Self::OutsideTime => "outside_time",
            Self::Expired => "rule_expired",
            Self::Network => "other_network",
            Self::OtherVerb => "other_verb",
        }
    }
}

impl Policy {
    /// What the endpoints and nats-server together make of it.
    ///
    /// # Errors
    /// [`NotLiteral`] for a pattern where a message is asked about.
    pub fn ask(&self, question: &Question<'_>) -> Result<Answer, NotLiteral> {
        let Question {
            workload,
            verb,
            on,
            user,
            circumstances,
        } = *question;
        let literal = Subject::parse(on.as_str()).ok();
        // Of keys under a pattern a workload hears, and asks for all of them at once.
        let hears = verb == Verb::Read && literal.is_none();
        let listens = hears || matches!(verb, Verb::Subscribe | Verb::Serve | Verb::Consume);
        let now = circumstances.now;
        if listens && user.is_none() {
            let answer = match self.may_listen(workload, verb, on, now) {
                Ok(rule) => Answer::Allow(Allowed {
                    rule: rule.to_owned(),
                    requirements: literal
                        .as_ref()
                        .filter(|_| verb.about() == About::Subjects)
                        .map(|s| self.requirements(s)),
                    listens: true,
                    would: None,
                }),
                Err(denial) => return Ok(Answer::Deny(Denied::Engine(denial))),
            };
            let networks = self.networks_of(workload, verb, |pattern| pattern.contains(on));
            return Ok(through(answer, &networks, circumstances.client));
        }
        let subject = literal.ok_or(NotLiteral)?;
        let request = Request {
            workload,
            verb,
            subject: &subject,
            user,
            now,
        };
        let answer = match self.decide(&request) {
            Decision::Allow(permit) => Answer::Allow(Allowed {
                rule: permit.rule().to_owned(),
                requirements: (verb.about() == About::Subjects).then(|| permit.requirements()),
                listens: false,
                would: permit.would().cloned(),
            }),
            Decision::Deny(denial) => return Ok(Answer::Deny(Denied::Engine(denial))),
        };
        let considered = self.considered(&request, None);
        let mut networks: Vec<&Rule> = considered
            .iter()
            .filter(|c| match c.rule.effect() {
                Effect::Allow => c.bearing == Bearing::Applies,
                Effect::Deny => c.bearing == Bearing::Network,
            })
            .map(|c| c.rule)
            .filter(|rule| !rule.is_shadow())
            .collect();
        networks.sort_by_key(|rule| rule.id());
        Ok(through(answer, &networks, circumstances.client))
    }

    /// Whether a message passes, of which the network is known: the decision, and
    /// what nats-server admits from there. With `shadow`, as if rules in shadow
    /// were enforced.
    pub(crate) fn passes(
        &self,
        request: &Request<'_>,
        client: Option<IpAddr>,
        shadow: bool,
    ) -> bool {
        let decision = self.decide(request);
        let would = decision.would().filter(|_| shadow);
        if !would.map_or(decision.is_allow(), Would::is_allow) {
            return false;
        }
        let considered = self.considered(request, client);
        let applies = |effect| {
            considered.iter().any(|c| {
                c.rule.effect() == effect
                    && (shadow || !c.rule.is_shadow())
                    && c.bearing == Bearing::Applies
            })
        };
        applies(Effect::Allow) && !applies(Effect::Deny)
    }

    /// The rules for `verb` that count now and whose pattern fits, by id.
    fn networks_of(
        &self,
        workload: &WorkloadId,
        verb: Verb,
        fits: impl Fn(&SubjectPattern) -> bool,
    ) -> Vec<&Rule> {
        let Some(index) = self.index_of(workload) else {
            return Vec::new();
        };
        self.rules()
            .iter()
            .filter(|rule| {
                rule.who.binary_search(&index).is_ok()
                    && rule.verbs.contains(verb)
                    && !rule.is_shadow()
                    && rule.on.iter().any(&fits)
            })
            .collect()
    }

    /// How every rule whose pattern matches the request's subject stands to it,
    /// by id. With the client's network, as nats-server sees it; without one, as
    /// the endpoints do.
    #[must_use]
    pub fn considered(&self, request: &Request<'_>, client: Option<IpAddr>) -> Vec<Considered<'_>> {
        let Some(trie) = self
            .index_of(request.workload)
            .and_then(|workload| self.rules_of(workload))
        else {
            return Vec::new();
        };
        let mut found = Vec::new();
        trie.matches(request.subject.as_str(), &mut |entry| {
            found.push((entry.rule, entry.pattern));
        });
        found.sort_unstable();
        let about = |rule: &Rule| {
            let mut verbs = rule.verbs.iter();
            verbs.any(|verb| verb.about() == request.verb.about())
        };
        found
            .into_iter()
            .filter_map(|(rule, pattern)| {
                let rule = self.rules().get(rule as usize)?;
                Some((rule, rule.on.get(pattern as usize)?))
            })
            .filter(|(rule, _)| about(rule))
            .map(|(rule, pattern)| consider(rule, pattern, request, client))
            .collect()
    }
}

fn consider<'p>(
    rule: &'p Rule,
    pattern: &'p SubjectPattern,
    request: &Request<'_>,
    client: Option<IpAddr>,
) -> Considered<'p> {
    let scene = Scene {
        user: request.user,
        pattern,
        subject: request.subject,
    };
    let tests: Vec<Tested> = rule
        .user
        .iter()
        .flat_map(|condition| condition.tests.iter())
        .map(|test| Tested {
            claim: test.claim.to_string(),
            test: test.to_string(),
            outcome: test.outcome(scene),
        })
        .collect();
    let met = match (rule.effect, &rule.user) {
        (_, None) => true,
        (Effect::Allow, Some(condition)) => condition.permits(scene),
        (Effect::Deny, Some(condition)) => {
            condition.denies(scene)
                || request.user.is_some_and(|user| {
                    condition.denies(Scene {
                        user: Some(user.whole()),
                        ..scene
                    })
                })
        }
    };
    let standing = rule
        .when
        .as_ref()
        .map_or(Standing::Counts, |when| when.standing(request.now));
    let outside = rule.networks().is_some_and(|networks| match client {
        Some(client) => !networks.contain(client),
        // The endpoints take nats-server's word for an allow rule.
        None => rule.effect == Effect::Deny,
    });
    let bearing = match standing {
        _ if !rule.verbs.contains(request.verb) => Bearing::OtherVerb,
        Standing::Expired => Bearing::Expired,
        Standing::OutsideTime => Bearing::OutsideTime,
        Standing::Counts if outside => Bearing::Network,
        Standing::Counts if !met => Bearing::User,
        Standing::Counts => Bearing::Applies,
    };
    Considered {
        rule,
        pattern,
        bearing,
        tests,
    }
}

/// What nats-server leaves of an allow, from where the client is. `rules` are
/// the allow rules that allow it and the deny rules for some network.
fn through(answer: Answer, rules: &[&Rule], client: Option<IpAddr>) -> Answer {
    let Some(client) = client else {
        return answer;
    };
    let from_there = |rule: &&&Rule| {
        rule.networks()
            .is_none_or(|networks| networks.contain(client))
    };
    let denies = rules
        .iter()
        .filter(|rule| rule.effect() == Effect::Deny && rule.networks().is_some())
        .find(from_there);
    if let Some(rule) = denies {
        return Answer::Deny(Denied::ThisNetwork {
            rule: rule.id().to_owned(),
        });
    }
    let allows = || rules.iter().filter(|rule| rule.effect() == Effect::Allow);
    match (answer, allows().find(from_there), allows().next()) {
        (Answer::Allow(allowed), Some(rule), _) => Answer::Allow(Allowed {
            rule: rule.id().to_owned(),
            ..allowed
        }),
        (Answer::Allow(_), None, Some(rule)) => Answer::Deny(Denied::OtherNetwork {
            rule: rule.id().to_owned(),
        }),
        (answer, _, _) => answer,
    }
}

//! Routes held against the policy: what of them it would never let happen.
//!
//! A route and a policy are written by different people and change at different times. What
//! a route does with a secret must be right whenever both are in force, so that is asked
//! before a configuration takes effect; what the policy merely does not allow is refused
//! with each request, and said here so that nobody has to find it out by trying.

use std::path::{Path, PathBuf};

use bulla_identity::{Subject, WorkloadId};
use bulla_policy::{Policy, Protect, UserRule, Verb, Workload};

use crate::document::{ConfigErrors, ConfigProblem, Place};
use crate::mapping::Source;
use crate::routes::{Mode, Rights, Route, RouteTable, SubjectTemplate};

/// Something of a route that the policy would never let happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objection {
    /// What it is, at the place of the route.
    pub problem: ConfigProblem,
    /// Whether the configuration must not take effect: a secret would travel unprotected
    /// if nothing else stopped it. Anything else is refused with each request.
    pub is_fatal: bool,
}

/// What `policy` has against `routes` if the edge is `workload`.
#[must_use]
pub fn objections(routes: &RouteTable, policy: &Policy, workload: &WorkloadId) -> Vec<Objection> {
    let Some(edge) = policy.workload_by_id(workload) else {
        let first = routes.iter().next();
        let unknown = |route: &Route| Objection {
            problem: route
                .place
                .problem(format!("the policy has no workload `{workload}`")),
            is_fatal: false,
        };
        return first.map(unknown).into_iter().collect();
    };
    let judge = Judge { policy, edge };
    let mut found = Vec::new();
    for route in routes.iter() {
        judge.route(route, &mut found);
    }
    found
}

/// Whether `policy` lets the edge listen to a subject if it is `workload`.
pub(crate) fn may_listen(policy: &Policy, workload: &WorkloadId, subject: &Subject) -> bool {
    policy.workload_by_id(workload).is_some_and(|edge| {
        let judge = Judge { policy, edge };
        judge.refused_verb(Mode::Stream, subject).is_none()
    })
}

/// Splits objections into what forbids that a configuration takes effect, and the rest,
/// which is logged.
///
/// # Errors
/// The fatal ones.
pub(crate) fn heed(objections: Vec<Objection>) -> Result<(), ConfigErrors> {
    let (fatal, rest): (Vec<_>, Vec<_>) = objections.into_iter().partition(|o| o.is_fatal);
    for objection in rest {
        tracing::warn!(problem = %objection.problem, "the policy does not let a route work");
    }
    if fatal.is_empty() {
        Ok(())
    } else {
        Err(ConfigErrors::new(
            fatal.into_iter().map(|o| o.problem).collect(),
        ))
    }
}

/// Why the files of a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyFileError {
    #[error("cannot read `{}`", file.display())]
    Unreadable {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("the policy does not load:\n{0}")]
    Wrong(#[from] bulla_policy::PolicyErrors),
}

/// Reads the policy that stands in these files; a folder stands for its `.toml` files.
pub(crate) fn read_policy(paths: &[PathBuf]) -> Result<Policy, PolicyFileError> {
    let mut texts = Vec::new();
    for path in paths {
        let unreadable = |file: &Path, source| PolicyFileError::Unreadable {
            file: file.to_owned(),
            source,
        };
        let files = if path.is_dir() {
            crate::config::toml_files(path).map_err(|e| unreadable(path, e))?
        } else {
            vec![path.clone()]
        };
        for file in files {
            let text = std::fs::read_to_string(&file).map_err(|e| unreadable(&file, e))?;
            texts.push((file.display().to_string(), text));
        }
    }
    let named: Vec<(&str, &str)> = texts.iter().map(|(n, t)| (&**n, &**t)).collect();
    Ok(match &*named {
        [(name, text)] => Policy::parse(name, text)?,
        several => Policy::parse_all("policy", several)?,
    })
}

struct Judge<'p> {
    policy: &'p Policy,
    edge: &'p Workload,
}

impl Judge<'_> {
    fn route(&self, route: &Route, found: &mut Vec<Objection>) {
        for (subject, place) in targets(route) {
            let mut object = |is_fatal, message: String| {
                found.push(Objection {
                    problem: place.problem(message),
                    is_fatal,
                });
            };
            let Some(sample) = subject.sample() else {
                continue;
            };
            let demands = self.policy.requirements(&sample);
            let carries = route.access.carries_original();
            if carries && (demands.protect != Protect::Encrypted || demands.open_token) {
                object(
                    true,
                    format!(
                        "`carry` hands the client's token on, and the policy does not have `{subject}` encrypted: write `protect = \"encrypted\"` there, without `open_token`"
                    ),
                );
            }
            if let Some(verb) = self.refused_verb(route.mode, &sample) {
                let edge = self.edge.name();
                object(
                    false,
                    format!("the policy does not let `{edge}` {verb} `{subject}`"),
                );
            }
            let Some(rights) = route.access.rights() else {
                if demands.user == UserRule::Required {
                    object(
                        false,
                        format!(
                            "the policy asks for a user on `{subject}`, and the route is public"
                        ),
                    );
                }
                continue;
            };
            for audience in self.out_of_reach(rights, &sample) {
                object(
                    false,
                    format!("the policy lets the edge mint no token that reaches `{audience}`"),
                );
            }
        }
        self.claims(route, found);
        if let Some(invalidation) = &route.invalidation
            && self
                .refused_verb(Mode::Stream, &invalidation.subject)
                .is_some()
        {
            let subject = &invalidation.subject;
            found.push(Objection {
                problem: route.place.problem(format!(
                    "the policy does not let the edge hear of `{subject}`, so nothing is kept that it invalidates"
                )),
                is_fatal: false,
            });
        }
    }

    /// The verb that the policy would have to allow and does not.
    fn refused_verb(&self, mode: Mode, subject: &Subject) -> Option<Verb> {
        let stored = self.policy.stream_of(subject);
        let verb = match (mode, stored) {
            (Mode::Request | Mode::Aggregate, _) => Verb::Request,
            (Mode::Publish, None) => Verb::Publish,
            (Mode::Publish, Some(_)) => Verb::Append,
            (Mode::Stream, None) => Verb::Subscribe,
            (Mode::Stream, Some(stream)) => {
                let own = |c: &bulla_policy::Consumer| {
                    let owner = self.policy.consumer_owner(c);
                    c.stream() == stream.name() && owner.is_some_and(|o| o.id() == self.edge.id())
                };
                let has_one = self.policy.consumers().iter().any(own);
                return (!has_one).then_some(Verb::Consume);
            }
        };
        let may = self.policy.may_ever(self.edge.id(), verb, subject);
        (!may).then_some(verb)
    }

    /// The audiences that the users' tokens are to reach and would not.
    fn out_of_reach(&self, rights: &Rights, subject: &Subject) -> Vec<String> {
        let wanted = rights.reach.clone().unwrap_or_else(|| {
            let audiences = self.policy.requirements(subject).audiences;
            let names = self.policy.audience_names(audiences);
            names.map(str::to_owned).collect()
        });
        let out = wanted.into_iter().filter(|name| !self.edge.may_reach(name));
        out.collect()
    }

    /// Claims that a route maps and the policy has encrypted.
    fn claims(&self, route: &Route, found: &mut Vec<Objection>) {
        for mapping in route.headers.iter().chain(&route.payload) {
            if let Source::Claim(claim) = &mapping.source
                && self.policy.readers_of(claim).is_some()
            {
                found.push(Objection {
                    problem: route.place.problem(format!(
                        "claim `{claim}` is private by the policy, and `{}` would tell it openly",
                        mapping.name
                    )),
                    is_fatal: false,
                });
            }
        }
    }
}

/// Where the messages of a route go, and where that is written.
fn targets(route: &Route) -> Vec<(&SubjectTemplate, &Place)> {
    if route.mode == Mode::Aggregate {
        let parts = route.parts.iter();
        return parts.map(|part| (&part.subject, &part.place)).collect();
    }
    let mut targets = vec![(&route.subject, &route.place)];
    if let Some(canary) = &route.canary {
        targets.push((&canary.subject, &canary.place));
    }
    targets
}

//! Exchanging users' tokens, and starting a chain of calls on a user's behalf.

use std::sync::Arc;

use bulla_identity::{SubjectPattern, reserved};
use serde_json::{Map, Value};

use crate::parse::{Parsed, RuleSpec};
use crate::requirements::{
    Audiences, Batch, Chain, Cipher, DEFAULT_MAX_AGE, Frames, Protect, Replay, Replies,
    Requirements, Suite, UserRule,
};
use crate::rule::{Effect, Rule, Verb, VerbSet};

/// The id of the rule that lets every workload ask for an exchange. No rule of a
/// text can have it.
pub const EXCHANGE_ASKED: &str = "(exchange)";
/// The id of the rule that lets the workload which exchanges answer.
pub const EXCHANGE_SERVED: &str = "(exchange-served)";

/// On whose behalf a workload may start a chain of calls, and what the token of
/// such a user says at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Starts {
    pub(crate) users: Vec<UserName>,
    pub(crate) scopes: Vec<Box<str>>,
    pub(crate) reach: Vec<Box<str>>,
    pub(crate) claims: Map<String, Value>,
}

/// A user's name, or how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UserName {
    Is(Box<str>),
    BeginsWith(Box<str>),
}

impl Starts {
    /// Whether it may be on this user's behalf.
    #[must_use]
    pub fn covers(&self, user: &str) -> bool {
        self.users.iter().any(|name| match name {
            UserName::Is(name) => **name == *user,
            UserName::BeginsWith(prefix) => user.starts_with(&**prefix),
        })
    }

    /// The users that it covers: names, and beginnings of names with a `*`.
    pub fn users(&self) -> impl Iterator<Item = String> {
        self.users.iter().map(|name| match name {
            UserName::Is(name) => name.to_string(),
            UserName::BeginsWith(prefix) => format!("{prefix}*"),
        })
    }

    /// The scopes that the token may have.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().map(|scope| &**scope)
    }

    /// The audiences that it may reach.
    pub fn reach(&self) -> impl Iterator<Item = &str> {
        self.reach.iter().map(|name| &**name)
    }

    /// What the policy says of such a user: facts that every such token has.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
}

/// What every message about an exchange must be, whatever `[subject]` says.
pub(crate) const REQUIREMENTS: Requirements = Requirements {
    protect: Protect::Encrypted,
    user: UserRule::Optional,
    max_age: DEFAULT_MAX_AGE,
    suite: Suite::XWing,
    cipher: Cipher::Any,
    open_token: false,
    frames: Frames::Off,
    batch: Batch::Shared,
    replies: Replies::Signed,
    replay: Some(Replay::Shared),
    audiences: Audiences::NONE,
    chain: Chain::Reported,
};

/// The rules that an exchanging workload brings with it (POL-80).
pub(crate) fn add_rules(parsed: &mut Parsed) {
    let all = 0u32..;
    let exchanger = parsed.workloads.iter().zip(all.clone());
    let Some((spec, index)) = exchanger.into_iter().find(|(spec, _)| spec.exchanges) else {
        return;
    };
    let (place, span) = (spec.place.clone(), spec.span.clone());
    let Ok(pattern) = SubjectPattern::parse(reserved::EXCHANGE) else {
        return;
    };
    let everybody: Vec<u32> = parsed.workloads.iter().zip(all).map(|(_, i)| i).collect();
    let rules = [
        (EXCHANGE_ASKED, Verb::Request, everybody),
        (EXCHANGE_SERVED, Verb::Serve, vec![index]),
    ];
    for (id, verb, who) in rules {
        let mut verbs = VerbSet::default();
        verbs.insert(verb);
        parsed.rules.push(RuleSpec {
            rule: Rule {
                id: Arc::from(id),
                place: place.clone(),
                effect: Effect::Allow,
                verbs,
                who,
                on: vec![pattern.clone()],
                user: None,
                when: None,
                break_glass: false,
                shadow: false,
            },
            span: span.clone(),
            on_spans: vec![span.clone()],
            allow_lint: Vec::new(),
        });
    }
    parsed.rules.sort_by(|a, b| a.rule.id.cmp(&b.rule.id));
}

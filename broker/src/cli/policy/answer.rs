//! How an answer of `can-i` is printed.

use std::path::Path;

use bulla_identity::{Claims, WorkloadId};
use bulla_policy::{Denial, Policy, Reason, Requirements, UserRule, Verb};
use serde_json::{Value, json};

use super::print::{BAD, GOOD, STRONG, known, print_json, say};

/// Yes.
pub(super) struct Allowed {
    pub(super) rule: String,
    pub(super) requirements: Option<Requirements>,
    /// It is about listening, and not about one message.
    pub(super) listens: bool,
}

/// What was asked.
pub(super) struct Question<'a> {
    pub(super) policy: &'a Policy,
    pub(super) file: &'a Path,
    pub(super) workload: &'a WorkloadId,
    pub(super) verb: Verb,
    pub(super) subject: &'a str,
    pub(super) claims: Option<&'a Claims>,
}

impl Question<'_> {
    pub(super) fn print_allowed(&self, allowed: &Allowed, json: bool) {
        let grant = self
            .policy
            .grants(self.workload)
            .find(|g| g.rule == allowed.rule);
        let line = grant.as_ref().map(|g| g.line);
        let conditional = grant.is_some_and(|g| g.conditional);
        if json {
            let requirements = allowed.requirements.map(|r| {
                json!({
                    "protect": r.protect.as_str(),
                    "user": r.user.as_str(),
                    "max_age_ms": u64::try_from(r.max_age.as_millis()).unwrap_or(u64::MAX),
                    "suite": r.suite.as_str(),
                    "open_token": r.open_token,
                    "frames": r.frames.as_str(),
                    "batch": r.batch.as_str(),
                    "replies": r.replies.as_str(),
                    "replay": r.replay_for(self.verb.is_queued()).as_str(),
                })
            });
            let more = json!({ "reason": "", "requirements": requirements });
            print_json(&self.json("allow", &allowed.rule, line, more));
            return;
        }
        say!(
            "{GOOD}allow{GOOD:#}  {} may {} {STRONG}{}{STRONG:#}",
            self.workload.path(),
            phrase(self.verb),
            self.subject
        );
        say!("  rule     {}", self.place(&allowed.rule, line));
        if let Some(r) = allowed.requirements {
            let user = match r.user {
                UserRule::None => "without a user",
                UserRule::Optional => "with or without a user",
                UserRule::Required => "with a user",
            };
            say!(
                "  message  {}, {user}, at most {} s old",
                r.protect,
                r.max_age.as_secs_f64()
            );
        }
        if allowed.listens && conditional {
            say!("  note     the rule tests the user of each message: ask again with --user");
        }
    }

    pub(super) fn print_denied(&self, denial: &Denial, json: bool) {
        if json {
            let condition = denial
                .condition()
                .map(|c| json!({ "claim": c.claim(), "test": c.test() }));
            let more = json!({
                "reason": denial.reason().code(),
                "explanation": denial.to_string(),
                "condition": condition,
            });
            let rule = denial.rule().unwrap_or_default();
            print_json(&self.json("deny", rule, denial.rule_line(), more));
            return;
        }
        say!(
            "{BAD}deny{BAD:#}  {} may not {} {STRONG}{}{STRONG:#}",
            self.workload.path(),
            phrase(self.verb),
            self.subject
        );
        say!("  reason   {denial}");
        if let Some(rule) = denial.rule() {
            say!("  rule     {}", self.place(rule, denial.rule_line()));
        }
        if self.policy.workload_by_id(self.workload).is_none() {
            say!("  known    {}", known(self.policy));
        } else if denial.reason() == Reason::UserRequired {
            say!("  note     ask again with --user CLAIMS.json");
        }
    }

    /// What both answers have, and `more`.
    fn json(&self, decision: &str, rule: &str, line: Option<u32>, more: Value) -> Value {
        let mut out = json!({
            "decision": decision,
            "workload": self.workload.as_str(),
            "verb": self.verb.as_str(),
            "subject": self.subject,
            "user": self.claims.and_then(Claims::principal).unwrap_or_default(),
            "rule": rule,
            "line": line,
        });
        if let (Value::Object(out), Value::Object(more)) = (&mut out, more) {
            out.extend(more);
        }
        out
    }

    fn place(&self, rule: &str, line: Option<u32>) -> String {
        match line {
            Some(line) => format!("{rule} ({}:{line})", self.file.display()),
            None => rule.to_owned(),
        }
    }
}

const fn phrase(verb: Verb) -> &'static str {
    match verb {
        Verb::Publish => "publish to",
        Verb::Subscribe => "subscribe to",
        Verb::Request => "request",
        Verb::Serve => "serve",
        Verb::Append => "append to",
        Verb::Consume => "consume as",
        Verb::Read => "read",
        Verb::Write => "write",
        Verb::Manage => "manage",
    }
}

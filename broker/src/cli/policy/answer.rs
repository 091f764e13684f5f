//! How an answer of `can-i` and `explain` is printed.

use bulla_identity::Claims;
use bulla_policy::{Allowed, Answer, Denied, Reason, Requirements, Rule, UserRule, Verb, Would};
use serde_json::{Value, json};

use super::asking::Asking;
use super::print::{BAD, GOOD, STRONG, WARN, known, place, say};

pub(super) fn print_answer(asking: &Asking, answer: &Answer) {
    let (word, style, may) = match answer {
        Answer::Allow(_) => ("allow", GOOD, "may"),
        Answer::Deny(_) => ("deny", BAD, "may not"),
    };
    say!(
        "{style}{word}{style:#}  {} {may} {} {STRONG}{}{STRONG:#}",
        asking.workload.path(),
        phrase(asking.verb),
        asking.subject
    );
    match answer {
        Answer::Allow(allowed) => print_allowed(asking, allowed),
        Answer::Deny(denied) => print_denied(asking, denied),
    }
}

fn print_allowed(asking: &Asking, allowed: &Allowed) {
    let rule = asking.policy.rule(&allowed.rule);
    say!("  rule     {}", at(asking, &allowed.rule, rule));
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
    let Some(rule) = rule else { return };
    if allowed.listens && rule.is_conditional() {
        say!("  note     the rule tests the user of each message: ask again with --as-user");
    }
    if rule.networks().is_some() && asking.circumstances.client.is_none() {
        say!("  note     only for connections from some networks: ask again with --from");
    }
    if let Some(end) = rule.expires() {
        say!("  until    {}", bulla_policy::moment(end));
    }
    if rule.is_break_glass() {
        say!("  {WARN}note{WARN:#}     the rule is a grant for an emergency");
    }
    print_would(allowed.would.as_ref());
}

fn print_denied(asking: &Asking, denied: &Denied) {
    say!("  reason   {denied}");
    if let Some(id) = denied.rule() {
        say!("  rule     {}", at(asking, id, asking.policy.rule(id)));
    }
    if asking.policy.workload_by_id(&asking.workload).is_none() {
        say!("  known    {}", known(&asking.policy));
    }
    if let Denied::Engine(denial) = denied {
        if denial.reason() == Reason::UserRequired {
            say!("  note     ask again with --as-user CLAIMS.json, or --claim NAME=VALUE");
        }
        print_would(denial.would());
    }
}

fn print_would(would: Option<&Would>) {
    if let Some(would) = would {
        let verdict = if would.is_allow() { "allow" } else { "deny" };
        let rule = would
            .rule()
            .map(|r| format!(", by rule {r}"))
            .unwrap_or_default();
        say!("  {WARN}shadow{WARN:#}   with the rules in shadow it would be {verdict}{rule}");
    }
}

pub(super) fn answer_json(asking: &Asking, answer: &Answer) -> Value {
    let rule = answer.rule().unwrap_or_default();
    let known = asking.policy.rule(rule);
    let mut out = json!({
        "decision": if answer.is_allow() { "allow" } else { "deny" },
        "workload": asking.workload.as_str(),
        "verb": asking.verb.as_str(),
        "subject": asking.subject,
        "user": asking.user.as_ref().and_then(Claims::principal).unwrap_or_default(),
        "rule": rule,
        "line": known.map(|rule| rule.place().line()),
        "file": known.and_then(|rule| rule.place().file()),
        "reason": answer.code(),
    });
    let more = match answer {
        Answer::Allow(allowed) => json!({
            "requirements": allowed.requirements.map(|r| requirements_json(&r, asking.verb)),
            "would": would_json(allowed.would.as_ref()),
        }),
        Answer::Deny(denied) => json!({
            "explanation": denied.to_string(),
            "condition": denied
                .condition()
                .map(|c| json!({ "claim": c.claim(), "test": c.test() })),
            "would": match denied {
                Denied::Engine(denial) => would_json(denial.would()),
                Denied::OtherNetwork { .. } | Denied::ThisNetwork { .. } => Value::Null,
            },
        }),
    };
    if let (Value::Object(out), Value::Object(more)) = (&mut out, more) {
        out.extend(more);
    }
    out
}

fn would_json(would: Option<&Would>) -> Value {
    would.map_or(Value::Null, |would| {
        json!({
            "decision": if would.is_allow() { "allow" } else { "deny" },
            "rule": would.rule(),
        })
    })
}

fn requirements_json(r: &Requirements, verb: Verb) -> Value {
    json!({
        "protect": r.protect.as_str(),
        "user": r.user.as_str(),
        "max_age_ms": u64::try_from(r.max_age.as_millis()).unwrap_or(u64::MAX),
        "suite": r.suite.as_str(),
        "cipher": r.cipher.as_str(),
        "open_token": r.open_token,
        "frames": r.frames.as_str(),
        "batch": r.batch.as_str(),
        "replies": r.replies.as_str(),
        "replay": r.replay_for(verb.is_queued()).as_str(),
    })
}

fn at(asking: &Asking, id: &str, rule: Option<&Rule>) -> String {
    match rule {
        Some(rule) => {
            let file = place(&asking.file.display().to_string(), rule.place().file());
            format!("{id} ({file}:{})", rule.place().line())
        }
        None => id.to_owned(),
    }
}

pub(super) const fn phrase(verb: Verb) -> &'static str {
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

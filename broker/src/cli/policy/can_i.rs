//! `bulla policy can-i`: may it, and which rule says so.

use bulla_policy::{Effect, Rule, Verb, moment};
use serde_json::{Value, json};

use super::answer::{answer_json, print_answer};
use super::asking::{AskArgs, Asking};
use super::input::{load, verb, workload};
use super::print::{BAD, GOOD, PLACE, WARN, known, place, print_json, say};
use super::{Failure, NO, YES};

/// Ask whether a workload may do something, and why
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Ask whether a workload may do something, and which rule decides.\n\n\
        The verbs are publish, subscribe, request, serve, append, consume, read, write and\n\
        manage. For publish, request and append the subject is literal, and the question is\n\
        asked for one message: with the user of --as-user and --claim, or without a user. For\n\
        subscribe, serve and read it may be a pattern; without a user the question is whether the\n\
        workload may listen there at all. For consume it is STREAM.CONSUMER, for read and write\n\
        BUCKET.KEY, for manage the name of a stream or of a bucket. --at and --from ask for another\n\
        time and network; --list shows everything that the rules say about a workload.",
    after_help = "Examples:\n  \
        bulla policy can-i orders publish orders.created\n  \
        bulla policy can-i gateway request orders.create --as-user alice.json\n  \
        bulla policy can-i gateway request orders.create --claim scope=orders:write\n  \
        bulla policy can-i billing subscribe 'orders.>' --policy shop.toml\n  \
        bulla policy can-i billing consume ORDERS.billing\n  \
        bulla policy can-i cart publish orders.repair.7 --at 2026-11-27T23:30:00Z --from 10.1.2.3\n  \
        bulla policy can-i orders --list\n\n\
        where alice.json holds the claims of a user's token:\n  \
        { \"sub\": \"alice\", \"scope\": \"orders:write\" }\n\n\
        Exit code: 0 allow, 1 deny, 2 no answer. `bulla policy explain` says more."
)]
pub(crate) struct CanIArgs {
    /// The workload, by its name in the policy or its SPIFFE ID
    workload: String,
    /// publish, subscribe, request, serve, append, consume, read, write or manage
    #[arg(required_unless_present = "list", value_parser = verb)]
    verb: Option<Verb>,
    /// The subject; quote patterns for the shell
    #[arg(required_unless_present = "list")]
    subject: Option<String>,
    #[command(flatten)]
    ask: AskArgs,
    /// List what the rules say about the workload instead
    #[arg(long, conflicts_with_all = ["verb", "subject", "user", "claims"])]
    list: bool,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn can_i(args: &CanIArgs) -> Result<u8, Failure> {
    let (Some(verb), Some(subject)) = (args.verb, &args.subject) else {
        return list(args);
    };
    let asking = Asking::new(&args.ask, &args.workload, verb, subject)?;
    let answer = asking.answer()?;
    if args.json {
        print_json(&answer_json(&asking, &answer));
    } else {
        print_answer(&asking, &answer);
    }
    Ok(if answer.is_allow() { YES } else { NO })
}

/// One verb on one pattern by one rule.
struct Line<'p> {
    rule: &'p Rule,
    verb: Verb,
    pattern: &'p str,
}

fn list(args: &CanIArgs) -> Result<u8, Failure> {
    let policy = load(&args.ask.policy)?;
    let workload = workload(&policy, &args.workload)?;
    if policy.workload_by_id(&workload).is_none() {
        return Err(Failure::Unlisted {
            path: args.ask.policy.clone(),
            workload,
            known: known(&policy),
        });
    }
    let mut lines: Vec<Line<'_>> = policy
        .grants(&workload)
        .filter_map(|grant| {
            Some(Line {
                rule: policy.rule(grant.rule)?,
                verb: grant.verb,
                pattern: grant.pattern.as_str(),
            })
        })
        .collect();
    // Verb by verb; what is denied after what it is taken from.
    lines.sort_by_key(|l| (l.verb, l.rule.effect(), l.pattern, l.rule.id()));
    if args.json {
        let grants: Vec<Value> = lines.iter().map(line_json).collect();
        print_json(&json!({ "workload": workload.as_str(), "grants": grants }));
        return Ok(YES);
    }
    if lines.is_empty() {
        say!("no rule names {}", workload.path());
    }
    print_lines(args, &lines);
    Ok(YES)
}

fn print_lines(args: &CanIArgs, lines: &[Line<'_>]) {
    let width = |text: &dyn Fn(&Line<'_>) -> usize| lines.iter().map(text).max().unwrap_or(0);
    let subjects = width(&|l| l.pattern.chars().count()).min(48);
    let rules = width(&|l| l.rule.id().chars().count()).min(40);
    let file = args.ask.policy.display().to_string();
    for line in lines {
        let rule = line.rule;
        let style = match rule.effect() {
            Effect::Allow => GOOD,
            Effect::Deny => BAD,
        };
        let at = place(&file, rule.place().file());
        say!(
            "{style}{:<5}{style:#}  {:<9}  {:<subjects$}  {:<rules$}  {PLACE}{at}:{}{PLACE:#}",
            rule.effect().to_string(),
            line.verb.as_str(),
            line.pattern,
            rule.id(),
            rule.place().line()
        );
        for condition in conditions(rule) {
            say!("                    {WARN}if{WARN:#} {condition}");
        }
        for note in notes(rule) {
            say!("                    {WARN}note{WARN:#} {note}");
        }
    }
}

/// Everything that has to hold for the rule to apply.
fn conditions(rule: &Rule) -> Vec<String> {
    let mut out: Vec<String> = rule.tests().collect();
    out.extend(rule.hours().map(|hours| format!("it is {hours}")));
    out.extend(
        rule.networks()
            .map(|nets| format!("the workload connects from {nets}")),
    );
    out.extend(
        rule.expires()
            .map(|end| format!("it is before {}", moment(end))),
    );
    out
}

fn notes(rule: &Rule) -> Vec<&'static str> {
    let mut out = Vec::new();
    if rule.is_shadow() {
        out.push("in shadow: told, not enforced");
    }
    if rule.is_break_glass() {
        out.push("a grant for an emergency");
    }
    out
}

fn line_json(line: &Line<'_>) -> Value {
    let rule = line.rule;
    json!({
        "effect": rule.effect().to_string(),
        "verb": line.verb.as_str(),
        "subject": line.pattern,
        "conditional": rule.is_conditional(),
        "conditions": conditions(rule),
        "tests": rule.tests().collect::<Vec<_>>(),
        "expires": rule.expires().map(moment),
        "hours": rule.hours().map(ToString::to_string),
        "networks": rule.networks().map(|n| n.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "shadow": rule.is_shadow(),
        "break_glass": rule.is_break_glass(),
        "rule": rule.id(),
        "file": rule.place().file(),
        "line": rule.place().line(),
    })
}

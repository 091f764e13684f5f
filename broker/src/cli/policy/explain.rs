//! `bulla policy explain`: why, with everything that bears on it.

use std::path::Path;

use anstyle::Style;
use bulla_identity::{Claims, Subject, SubjectPattern, WorkloadId};
use bulla_policy::{
    About, Answer, Bearing, Circumstances, Considered, Effect, ListEntry, ListName, Policy,
    Request, Rule, TestOutcome, Verb,
};
use serde_json::{Value, json};

use super::answer::{answer_json, print_answer};
use super::asking::{AskArgs, Asking};
use super::input::{read, verb};
use super::print::{BAD, GOOD, PLACE, STRONG, WARN, place, print_json, say};
use super::{Failure, NO, YES};

/// Explain a decision: every rule that bears on it, and what enforces it
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Explain a decision: the rule that decides, with its place and text; every other rule\n\
        whose pattern matches and what kept it from applying, each test of a claim by its name\n\
        (never a claim's value); what the message must be and which entries say so; and what\n\
        nats-server enforces of it by itself.",
    after_help = "Examples:\n  \
        bulla policy explain gateway request orders.create\n  \
        bulla policy explain gateway request orders.create --claim scope=orders:read\n  \
        bulla policy explain billing subscribe 'orders.>' --policy policy.d/\n  \
        bulla policy explain cart publish orders.repair.7 --at 2026-11-27T23:30:00+01:00 --from 10.1.2.3\n\n\
        Exit code: 0 allow, 1 deny, 2 no answer."
)]
pub(crate) struct ExplainArgs {
    /// The workload, by its name in the policy or its SPIFFE ID
    workload: String,
    /// publish, subscribe, request, serve, append, consume, read, write or manage
    #[arg(value_parser = verb)]
    verb: Verb,
    /// The subject; quote patterns for the shell
    subject: String,
    #[command(flatten)]
    ask: AskArgs,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn explain(args: &ExplainArgs) -> Result<u8, Failure> {
    let asking = Asking::new(&args.ask, &args.workload, args.verb, &args.subject)?;
    let answer = asking.answer()?;
    let text = read(&args.ask.policy)?;
    let explanation = Explanation {
        policy: &asking.policy,
        file: &args.ask.policy,
        text: &text,
        workload: &asking.workload,
        verb: args.verb,
        on: &asking.on,
        user: asking.user.as_ref(),
        circumstances: asking.circumstances,
    };
    if args.json {
        let mut out = answer_json(&asking, &answer);
        if let (Value::Object(out), Value::Object(more)) = (&mut out, explanation.json()) {
            out.extend(more);
        }
        print_json(&out);
    } else {
        print_answer(&asking, &answer);
        explanation.print(&answer);
    }
    Ok(if answer.is_allow() { YES } else { NO })
}

/// What bears on one question.
pub(super) struct Explanation<'a> {
    pub(super) policy: &'a Policy,
    pub(super) file: &'a Path,
    /// The policy's text.
    pub(super) text: &'a str,
    pub(super) workload: &'a WorkloadId,
    pub(super) verb: Verb,
    pub(super) on: &'a SubjectPattern,
    pub(super) user: Option<&'a Claims>,
    pub(super) circumstances: Circumstances,
}

impl<'a> Explanation<'a> {
    pub(super) fn print(&self, answer: &Answer) {
        if let Some(rule) = answer.rule().and_then(|id| self.policy.rule(id)) {
            self.print_source(rule);
        }
        if !self.considered().is_empty() {
            say!("\n{STRONG}rules on this subject{STRONG:#}");
            self.print_rules();
        }
        let entries = self.entries();
        if !entries.is_empty() {
            say!("\n{STRONG}what messages must be there, by{STRONG:#}");
            for (pattern, at) in &entries {
                say!("  [subject.\"{pattern}\"]  {at}");
            }
        }
        let lists = self.permissions();
        say!("\n{STRONG}nats-server{STRONG:#}");
        if lists.is_empty() {
            say!("  no entry of its lists speaks of this subject: it refuses by itself");
        }
        for entry in lists {
            let (name, style) = list_name(entry.list);
            let rule = entry.rule.unwrap_or("every workload");
            say!("  {style}{name:<15}{style:#} {:<40} {rule}", entry.text);
        }
    }

    /// How every rule whose pattern matches stands to the question.
    pub(super) fn print_rules(&self) {
        for one in self.considered() {
            self.print_considered(&one);
        }
    }

    fn print_considered(&self, considered: &Considered<'_>) {
        let rule = considered.rule;
        let (sign, style) = match (considered.bearing, rule.effect()) {
            (Bearing::Applies, Effect::Allow) => ("✓", GOOD),
            (Bearing::Applies, Effect::Deny) => ("✗", BAD),
            _ => ("·", WARN),
        };
        say!(
            "  {style}{sign}{style:#} {:<5} {:<32} {} {PLACE}{}{PLACE:#}",
            rule.effect().to_string(),
            rule.id(),
            bearing_text(considered),
            self.at(rule),
        );
        if rule.is_shadow() {
            say!("            it is in shadow: told, not enforced");
        }
        for test in &considered.tests {
            let (sign, style) = match test.outcome {
                TestOutcome::Holds => ("✓", GOOD),
                _ => ("✗", BAD),
            };
            let why = match test.outcome {
                TestOutcome::Holds | TestOutcome::Differs => String::new(),
                TestOutcome::Missing => format!(": there is no claim `{}`", test.claim),
                TestOutcome::WrongType => {
                    format!(": the claim `{}` is of another type", test.claim)
                }
            };
            say!("            {style}{sign}{style:#} {}{why}", test.test);
        }
    }

    /// The rule's text, with a caret under its id.
    fn print_source(&self, rule: &Rule) {
        let Some((first, lines)) = self.source(rule) else {
            return;
        };
        say!("  {PLACE}-->{PLACE:#} {}", self.at(rule));
        for (line, number) in lines.iter().zip(first..) {
            say!("  {PLACE}{number:>4} |{PLACE:#} {}", harmless(line));
            if number == rule.place().line() {
                let at = line.find(rule.id()).unwrap_or_default();
                let indent = line.get(..at).map_or(0, |s| s.chars().count());
                let carets = "^".repeat(rule.id().chars().count());
                say!(
                    "       {PLACE}|{PLACE:#} {}{STRONG}{carets}{STRONG:#}",
                    " ".repeat(indent)
                );
            }
        }
    }

    /// The lines of the rule's table, and the number of the first.
    fn source(&self, rule: &Rule) -> Option<(u32, Vec<&'a str>)> {
        let text = match rule.place().file() {
            None => self.text,
            Some(file) => {
                let mark = format!("#:file {file}\n");
                let from = self.text.find(&mark)? + mark.len();
                let rest = self.text.get(from..)?;
                rest.split("\n#:file ").next()?
            }
        };
        let lines: Vec<&str> = text.lines().collect();
        let at = usize::try_from(rule.place().line()).ok()?.checked_sub(1)?;
        let is_header = |line: &&str| line.trim_start().starts_with('[');
        let before = lines.get(..=at)?;
        let from = before.iter().rposition(is_header)?;
        let rest = lines.get(at + 1..)?;
        let to = rest.iter().position(is_header).unwrap_or(rest.len());
        let mut shown = lines.get(from..at + 1 + to)?.to_vec();
        // What stands after the rule's last line belongs to the next one.
        let idle = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
        while shown.last().is_some_and(idle) {
            shown.pop();
        }
        shown.truncate(MOST_LINES);
        Some((u32::try_from(from + 1).ok()?, shown))
    }

    pub(super) fn considered(&self) -> Vec<Considered<'a>> {
        let Ok(subject) = Subject::parse(self.on.as_str()) else {
            return Vec::new();
        };
        let request = Request {
            workload: self.workload,
            verb: self.verb,
            subject: &subject,
            user: self.user,
            now: self.circumstances.now,
        };
        self.policy.considered(&request, self.circumstances.client)
    }

    fn entries(&self) -> Vec<(String, String)> {
        let subject = Subject::parse(self.on.as_str()).ok();
        let subject = subject.filter(|_| self.verb.about() == About::Subjects);
        let Some(subject) = subject else {
            return Vec::new();
        };
        let entries = self.policy.entries_for(&subject);
        entries
            .map(|(pattern, at)| (pattern.to_string(), at.to_string()))
            .collect()
    }

    /// The entries of nats-server's lists that speak of the subject; of what is no
    /// subject, those that are due to its rules.
    fn permissions(&self) -> Vec<ListEntry<'a>> {
        let entries = self
            .policy
            .permission_entries(self.workload, &self.circumstances);
        let sends = matches!(self.verb, Verb::Publish | Verb::Request | Verb::Append);
        let rules: Vec<&str> = self.considered().iter().map(|c| c.rule.id()).collect();
        let speaks = |entry: &ListEntry<'_>| {
            if self.verb.about() != About::Subjects {
                return entry.rule.is_some_and(|rule| rules.contains(&rule));
            }
            let publishes = matches!(entry.list, ListName::PublishAllow | ListName::PublishDeny);
            // A queue group may follow.
            let pattern = entry.text.split(' ').next().unwrap_or_default();
            publishes == sends && SubjectPattern::parse(pattern).is_ok_and(|p| p.overlaps(self.on))
        };
        let entries = entries.unwrap_or_default();
        entries.into_iter().filter(|entry| speaks(entry)).collect()
    }

    fn at(&self, rule: &Rule) -> String {
        let file = place(&self.file.display().to_string(), rule.place().file());
        format!("{file}:{}", rule.place().line())
    }

    pub(super) fn json(&self) -> Value {
        let considered: Vec<Value> = self
            .considered()
            .iter()
            .map(|c| {
                let tests: Vec<Value> = c
                    .tests
                    .iter()
                    .map(|t| json!({ "claim": t.claim, "test": t.test, "outcome": outcome(t.outcome) }))
                    .collect();
                json!({
                    "rule": c.rule.id(),
                    "effect": c.rule.effect().to_string(),
                    "file": c.rule.place().file(),
                    "line": c.rule.place().line(),
                    "pattern": c.pattern.as_str(),
                    "bearing": c.bearing.as_str(),
                    "shadow": c.rule.is_shadow(),
                    "tests": tests,
                })
            })
            .collect();
        let entries: Vec<Value> = self
            .entries()
            .into_iter()
            .map(|(pattern, at)| json!({ "pattern": pattern, "place": at }))
            .collect();
        let lists: Vec<Value> = self
            .permissions()
            .into_iter()
            .map(|e| json!({ "list": list_name(e.list).0, "entry": e.text, "rule": e.rule }))
            .collect();
        json!({
            "considered": considered,
            "subject_entries": entries,
            "nats_permissions": lists,
        })
    }
}

const fn list_name(list: ListName) -> (&'static str, Style) {
    match list {
        ListName::PublishAllow => ("publish", GOOD),
        ListName::PublishDeny => ("deny publish", BAD),
        ListName::SubscribeAllow => ("subscribe", GOOD),
        ListName::SubscribeDeny => ("deny subscribe", BAD),
    }
}

fn bearing_text(considered: &Considered<'_>) -> String {
    let rule = considered.rule;
    match considered.bearing {
        Bearing::Applies => "applies".to_owned(),
        Bearing::User => "the user does not fit".to_owned(),
        Bearing::OutsideTime => match rule.hours() {
            Some(hours) => format!("not at this time: {hours}"),
            None => "not at this time".to_owned(),
        },
        Bearing::Expired => match rule.expires() {
            Some(end) => format!("expired {}", bulla_policy::moment(end)),
            None => "expired".to_owned(),
        },
        Bearing::Network => match rule.networks() {
            Some(networks) => format!("only from {networks}"),
            None => "not from this network".to_owned(),
        },
        Bearing::OtherVerb => {
            let verbs: Vec<&str> = rule.verbs().map(Verb::as_str).collect();
            format!("is about {}", verbs.join(", "))
        }
    }
}

pub(super) const fn outcome(outcome: TestOutcome) -> &'static str {
    match outcome {
        TestOutcome::Holds => "holds",
        TestOutcome::Differs => "differs",
        TestOutcome::Missing => "missing",
        TestOutcome::WrongType => "wrong_type",
    }
}

/// A line as it can go to a terminal.
fn harmless(line: &str) -> String {
    line.chars()
        .filter(|c| !c.is_control() || *c == '\t')
        .collect()
}

/// The most lines of a rule that are shown.
const MOST_LINES: usize = 24;

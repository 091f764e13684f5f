//! `bulla policy replay`: what was decided, decided again by a candidate.

use std::path::PathBuf;

use bulla_identity::UnixMillis;
use bulla_policy::Verdict;
use bulla_policy_tools::{Change, Count, Replay, ReplayReport};
use serde_json::{Value, json};

use super::input::load;
use super::print::{BAD, GOOD, STRONG, WARN, plural, print_json, say};
use super::{Failure, NO, YES};
use crate::cli::audit::{Place, each_entry};
use crate::cli::operator::{shown, time};

/// Decide recorded decisions again, by a policy that may come
#[derive(clap::Args, Debug)]
#[command(
    long_about = "Decide recorded decisions again, by a policy that may come.\n\n\
        Every refusal of the audit log and its samples of what was allowed are decided by the\n\
        candidate, with the user's claims that were recorded. What would change is listed by\n\
        workload, subject and rule, with the id of one decision each for `bulla audit explain`.\n\
        What the log does not hold is not guessed: it is counted as not judged.",
    after_help = "Examples:\n  \
        bulla policy replay next.toml\n  \
        bulla policy replay next.toml --since 7d\n  \
        bulla policy replay next.toml --file march.jsonl --json | jq '.changes[] | select(.to == \"deny\")'\n\n\
        Allows are sampled (one in a thousand of each grant, and the first in every minute), so\n\
        counts of allows count samples.\n\n\
        Exit code: 0 nothing changes, 1 something does, 2 an error."
)]
pub(crate) struct ReplayArgs {
    /// The candidate
    #[arg(value_name = "POLICY")]
    candidate: PathBuf,
    /// Decisions since then: a time, or how long ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<UnixMillis>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) fn replay(args: &ReplayArgs) -> Result<u8, Failure> {
    let candidate = load(&args.candidate)?;
    let mut replay = Replay::new(&candidate);
    each_entry(&args.place, args.since, |entry| {
        if let Some(decision) = entry.event.decision() {
            replay.decide(entry.at, decision);
        }
    })
    .map_err(Failure::Audit)?;
    let report = replay.finish();
    if args.json {
        print_json(&as_json(&report));
    } else {
        show(&report);
    }
    Ok(if report.changes.is_empty() { YES } else { NO })
}

fn as_json(report: &ReplayReport) -> Value {
    let count = |count: &Count| json!({ "count": count.count, "example": count.example, "at": shown(count.at) });
    let changes: Vec<Value> = report
        .changes
        .iter()
        .map(|change| {
            json!({
                "to": change.to.as_str(),
                "workload": change.workload,
                "verb": change.verb,
                "subject": change.subject,
                "rule_before": change.rule_before,
                "rule_now": change.rule_now,
                "reason": change.reason,
                "decisions": count(&change.count),
            })
        })
        .collect();
    let unjudged: Vec<Value> = report
        .unjudged
        .iter()
        .map(|(why, of)| json!({ "code": why.code(), "message": why.to_string(), "decisions": count(of) }))
        .collect();
    json!({
        "ok": report.changes.is_empty(),
        "same": report.same,
        "not_about_the_policy": report.others,
        "changes": changes,
        "not_judged": unjudged,
    })
}

fn show(report: &ReplayReport) {
    for change in &report.changes {
        say!("{}", line(change));
    }
    for (why, of) in &report.unjudged {
        let times = plural(usize::try_from(of.count).unwrap_or(usize::MAX), "decision");
        say!("{WARN}not judged{WARN:#}  {times}: {why}  {}", of.example);
    }
    let total: u64 = report.changes.iter().map(|change| change.count.count).sum();
    let same = report.same;
    match total {
        0 => say!("{GOOD}nothing changes{GOOD:#} for {same} recorded decisions"),
        n => say!(
            "{STRONG}{n} of {} recorded decisions change{STRONG:#}",
            n + same
        ),
    }
}

fn line(change: &Change) -> String {
    let (word, style) = match change.to {
        Verdict::Deny => ("would be denied ", BAD),
        Verdict::Allow => ("would be allowed", GOOD),
    };
    let Change {
        workload,
        verb,
        subject,
        ..
    } = change;
    let rule = |rule: &Option<String>| rule.clone().unwrap_or_else(|| "no rule".to_owned());
    let why = change.reason.as_deref().unwrap_or_default();
    format!(
        "{style}{word}{style:#}  {:>6} × {workload} {verb} {STRONG}{subject}{STRONG:#}\n                  {} → {}  {why}  {}",
        change.count.count,
        rule(&change.rule_before),
        rule(&change.rule_now),
        change.count.example
    )
}

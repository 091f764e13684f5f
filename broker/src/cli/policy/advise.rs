//! `bulla policy advise`: grants that nobody used.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bulla_audit::{Event, Uses, Writer, WriterKind};
use bulla_identity::{UnixMillis, WorkloadTag};
use bulla_policy_tools::{Advice, Advisor};
use serde_json::{Value, json};

use super::input::{load, now};
use super::print::{GOOD, STRONG, WARN, plural, print_json, say};
use super::{Failure, NO, YES};
use crate::cli::audit::{Place, each_entry};
use crate::cli::operator::{shown, time};

/// List grants that were not used
#[derive(clap::Args, Debug)]
#[command(
    long_about = "List grants that were not used in a window.\n\n\
        Every process counts the uses of its own grants, each by workload, rule, verb and\n\
        pattern, and tells the counts to the audit log once a minute. A grant is called unused\n\
        if its workload reported in the window and this grant is in no report: that is exact,\n\
        and does not rest on samples. Of a workload that reported nothing, nothing is known.",
    after_help = "Examples:\n  \
        bulla policy advise\n  \
        bulla policy advise --since 90d\n  \
        bulla policy advise --policy shop.toml --json | jq '.unused[] | select(.whole_rule) | .rule'\n\n\
        Something that is used once a year is unused in every shorter window: look before you cut.\n\n\
        Exit code: 0 every grant was used, 1 some were not, 2 an error."
)]
pub(crate) struct AdviseArgs {
    /// The policy [default: the one in force]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The window: a time, or how long ago [default: 30d]
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<UnixMillis>,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) fn advise(args: &AdviseArgs) -> Result<u8, Failure> {
    let since = args.since.unwrap_or_else(|| now().saturating_sub(WINDOW));
    let mut advisor = Advisor::default();
    let mut first: Option<UnixMillis> = None;
    let mut reports: Vec<(Writer, UnixMillis, Option<Uses>)> = Vec::new();
    let source = each_entry(&args.place, Some(since), |entry| {
        first = Some(first.map_or(entry.at, |first| first.min(entry.at)));
        match entry.event {
            Event::Uses(uses) => reports.push((entry.writer, entry.at, Some(uses))),
            Event::Start(_) | Event::Head(_) | Event::Stop(_) => {
                reports.push((entry.writer, entry.at, None));
            }
            _ => {}
        }
    })
    .map_err(Failure::Audit)?;
    let policy = match &args.policy {
        Some(path) => load(path)?,
        None => source.policy().ok_or(Failure::NoPolicy)?,
    };
    let names: HashMap<WorkloadTag, &str> = policy
        .workloads()
        .iter()
        .map(|workload| (workload.tag(), workload.name().as_str()))
        .collect();
    for (writer, at, uses) in reports {
        // Nobody tells of another's grants.
        let WriterKind::Workload(tag) = writer.kind() else {
            continue;
        };
        let Some(name) = names.get(&tag) else {
            continue;
        };
        match uses {
            None => advisor.heard(name, at),
            Some(mut uses) => {
                uses.rules.retain(|used| used.workload == *name);
                advisor.uses(name, at, &uses.rules, uses.uncounted);
            }
        }
    }
    let advice = advisor.advise(&policy);
    let from = first.unwrap_or(since).max(since);
    if args.json {
        print_json(&as_json(&advice, from));
    } else {
        show(&advice, from);
    }
    Ok(if advice.unused.is_empty() { YES } else { NO })
}

fn as_json(advice: &Advice, from: UnixMillis) -> Value {
    let unused: Vec<Value> = advice
        .unused
        .iter()
        .map(|grant| {
            json!({
                "rule": grant.rule,
                "line": grant.line,
                "workload": grant.workload,
                "verb": grant.verb,
                "pattern": grant.pattern,
                "whole_rule": grant.whole_rule,
            })
        })
        .collect();
    json!({
        "ok": advice.unused.is_empty(),
        "since": shown(from),
        "used": advice.used,
        "unused": unused,
        "not_counted": advice.uncountable,
        "silent_workloads": advice.silent,
        "uncounted_workloads": advice.uncounted,
    })
}

fn show(advice: &Advice, from: UnixMillis) {
    let width = |of: fn(&bulla_policy_tools::Unused) -> usize| {
        advice.unused.iter().map(of).max().unwrap_or_default()
    };
    let (rules, names) = (width(|u| u.rule.len()), width(|u| u.workload.len()));
    for grant in &advice.unused {
        let whole = if grant.whole_rule {
            "  the whole rule"
        } else {
            ""
        };
        say!(
            "{WARN}unused{WARN:#}  {STRONG}{:<rules$}{STRONG:#}  {:<names$}  {:<9} {}{whole}",
            grant.rule,
            grant.workload,
            grant.verb,
            grant.pattern
        );
    }
    if !advice.silent.is_empty() {
        say!(
            "{WARN}nothing is known{WARN:#} of {}: no process of theirs reported",
            advice.silent.join(", ")
        );
    }
    if advice.uncountable > 0 {
        say!(
            "{WARN}not counted{WARN:#}  {} of buckets and streams, which nats-server alone sees used",
            plural(
                usize::try_from(advice.uncountable).unwrap_or(usize::MAX),
                "grant"
            )
        );
    }
    if !advice.uncounted.is_empty() {
        say!(
            "{WARN}not all is counted{WARN:#} of {}: they use more grants than a process counts one by one",
            advice.uncounted.join(", ")
        );
    }
    let since = shown(from);
    match advice.unused.len() {
        0 => say!("{GOOD}every grant{GOOD:#} of who reported was used since {since}"),
        n => say!(
            "{STRONG}{} unused{STRONG:#} since {since}, {} used",
            plural(n, "grant"),
            advice.used
        ),
    }
}

const WINDOW: Duration = Duration::from_secs(30 * 24 * 3600);

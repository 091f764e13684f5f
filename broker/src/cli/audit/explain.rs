//! `bulla audit explain`: one decision, by its id.

use std::fmt::Write as _;
use std::ops::ControlFlow;

use bulla_audit::{Entry, Event};
use bulla_policy::{DecisionRecord, Verdict};
use serde_json::json;

use super::show::{BAD, BOLD, DIM, GOOD, named, visible};
use super::{Failure, NO, Place, Source, YES, print};
use crate::cli::operator::shown;

/// Arguments of `bulla audit explain`.
#[derive(clap::Args, Debug)]
pub(crate) struct ExplainArgs {
    /// The decision's id, or its first eight digits or more
    #[arg(value_parser = id)]
    id: String,
    /// Print JSON instead of text
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    place: Place,
}

fn id(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
    if (8..=32).contains(&text.len()) && digits {
        Ok(text)
    } else {
        Err(
            "a decision's id is 32 hexadecimal digits, of which the first eight are enough"
                .to_owned(),
        )
    }
}

/// Finds the decision and says all that is recorded of it.
pub(super) async fn explain(args: ExplainArgs) -> Result<u8, Failure> {
    let mut source = Source::open(&args.place, None).await?;
    let mut found: Vec<Entry> = Vec::new();
    source
        .each(|line| {
            // Cheap before dear: most lines are about something else.
            if line.text.contains(&args.id)
                && let Ok(entry) = Entry::decode(line.text.as_bytes())
                && entry
                    .event
                    .decision()
                    .is_some_and(|d| d.id.starts_with(&args.id))
                && !found
                    .iter()
                    .any(|known| known.writer == entry.writer && known.seq == entry.seq)
            {
                found.push(entry);
            }
            ControlFlow::Continue(())
        })
        .await?;
    if args.json {
        let list: Vec<_> = found.iter().filter_map(as_json).collect();
        print(&json!({ "ok": !list.is_empty(), "decisions": list }).to_string());
    } else if found.is_empty() {
        print(&format!(
            "no decision `{}` is recorded: of what is allowed the log holds samples, and what is older than it keeps is gone",
            args.id
        ));
    } else {
        for entry in &found {
            if let Event::Decision(decision) = &entry.event {
                print(&told(entry, decision));
            }
        }
    }
    Ok(if found.is_empty() { NO } else { YES })
}

fn as_json(entry: &Entry) -> Option<serde_json::Value> {
    let decision = entry.event.decision()?;
    Some(json!({
        "at": shown(entry.at),
        "writer": entry.writer.as_str(),
        "seq": entry.seq,
        "decision": decision,
    }))
}

fn told(entry: &Entry, decision: &DecisionRecord) -> String {
    let (word, style) = match decision.decision {
        Verdict::Allow => ("allowed", GOOD),
        Verdict::Deny => ("denied", BAD),
    };
    let mut out = format!("{style}{word}{style:#}  {}\n", visible(&decision.id));
    let mut row = |key: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "  {DIM}{key:<10}{DIM:#} {}", visible(value));
        }
    };
    row("when", &shown(entry.at));
    row("by", &decision.enforcer);
    let who = if decision.workload.is_empty() {
        "nobody who was proven"
    } else {
        &decision.workload
    };
    row("who", who);
    row("wanted", &decision.verb);
    row("on", &decision.subject);
    if let Some(user) = &decision.user {
        row("for", &named(user));
        for claim in &user.asked {
            let value = user.claims.get(claim);
            let value = value.map_or_else(|| "absent".to_owned(), ToString::to_string);
            row("", &format!("{claim} = {value}"));
        }
        if user.narrowed {
            row("", "under limits of a service before");
        }
    }
    row("rule", decision.rule.as_deref().unwrap_or_default());
    row("reason", decision.reason.as_deref().unwrap_or_default());
    if let Some(client) = decision.client {
        row("from", &client.to_string());
    }
    if decision.revision > 0 {
        row("policy", &format!("revision {}", decision.revision));
    }
    if let Some(would) = decision.would {
        row("would", would.as_str());
    }
    row("recorded", &format!("{} entry {}", entry.writer, entry.seq));
    if let Some(detail) = &decision.detail {
        let _ = write!(out, "\n  {BOLD}{}{BOLD:#}\n", visible(detail));
    }
    out
}

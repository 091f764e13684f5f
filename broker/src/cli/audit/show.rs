//! How entries are printed.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use bulla_audit::{Entry, Event, Key};
use bulla_policy::{DecisionRecord, RecordedUser, Verdict};

use super::{Line, print};
use crate::cli::operator::shown;

pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default();
pub(super) const WARN: Style = AnsiColor::Yellow.on_default();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const BOLD: Style = Style::new().bold();

/// One entry: the line as it was written, or for people.
pub(super) fn line(entry: &Entry, line: &Line<'_>, json: bool) {
    if json {
        print(line.text);
        return;
    }
    print(&text(entry));
}

fn text(entry: &Entry) -> String {
    // 2026-11-22T22:07:25.272Z
    let time = shown(entry.at);
    let (day, time) = time.split_once('T').unwrap_or(("", &time));
    let time = time.trim_end_matches('Z');
    let mut out = format!("{DIM}{day}{DIM:#} {time} ");
    match &entry.event {
        Event::Decision(decision) => decided(decision, &mut out),
        other => {
            let style = if matches!(other, Event::Gap(_)) {
                WARN
            } else {
                BOLD
            };
            let _ = write!(
                out,
                "{style}{:<16}{style:#} {}",
                other.name(),
                happened(other)
            );
        }
    }
    out
}

fn decided(decision: &DecisionRecord, out: &mut String) {
    let (word, style) = match decision.decision {
        Verdict::Allow => ("allow", GOOD),
        Verdict::Deny => ("deny ", BAD),
    };
    let _ = write!(
        out,
        "{style}{word}{style:#} {DIM}{:<9}{DIM:#} {} {}",
        visible(&decision.enforcer),
        visible(if decision.workload.is_empty() {
            "?"
        } else {
            &decision.workload
        }),
        visible(&decision.verb),
    );
    if !decision.subject.is_empty() {
        let _ = write!(out, " {BOLD}{}{BOLD:#}", visible(&decision.subject));
    }
    if let Some(user) = &decision.user {
        let _ = write!(out, " {DIM}for{DIM:#} {}", named(user));
    }
    if let Some(rule) = &decision.rule {
        let _ = write!(out, " {DIM}by rule{DIM:#} {}", visible(rule));
    }
    if let Some(client) = &decision.client {
        let _ = write!(out, " {DIM}from{DIM:#} {client}");
    }
    if let Some(would) = decision.would {
        let _ = write!(out, " {WARN}would {}{WARN:#}", would.as_str());
    }
    if let Some(reason) = &decision.reason {
        let _ = write!(
            out,
            "\n  {style}└ {}{style:#} {DIM}{}{DIM:#}",
            visible(reason),
            visible(&decision.id)
        );
    }
}

pub(super) fn named(user: &RecordedUser) -> String {
    match (&user.name, &user.pseudonym) {
        (Some(name), _) => visible(name),
        (None, Some(pseudonym)) => format!("user {}", visible(pseudonym)),
        (None, None) => "a user".to_owned(),
    }
}

fn happened(event: &Event) -> String {
    match event {
        Event::Start(start) if start.workload.is_empty() => {
            format!("a broker, version {}", visible(&start.version))
        }
        Event::Start(start) => format!(
            "{}, version {}",
            visible(&start.workload),
            visible(&start.version)
        ),
        Event::Key(Key::Credential(_)) => "a message credential".to_owned(),
        Event::Key(Key::Issuing(_)) => "an issuing key".to_owned(),
        Event::Bundle(bundle) => format!("trust bundle {} is in force", bundle.version),
        Event::Policy(policy) => format!("policy {} is in force", policy.revision),
        Event::Revocations(list) => {
            format!(
                "revocation list {} is in force, {} in it",
                list.sequence, list.entries
            )
        }
        Event::Gap(gap) => {
            let mut text = format!(
                "left out: {} refusals, {} sampled allows, {} others",
                gap.denies, gap.allows, gap.others
            );
            for (reason, count) in &gap.reasons {
                let _ = write!(text, "\n  └ {count} × {}", visible(reason));
            }
            text
        }
        Event::Uses(uses) => {
            let mut text = format!("{} grants were used", uses.rules.len());
            for used in &uses.rules {
                let _ = write!(
                    text,
                    "\n  └ {} × {} {} {} {DIM}by rule{DIM:#} {}",
                    used.count,
                    visible(&used.workload),
                    visible(&used.verb),
                    visible(&used.pattern),
                    visible(&used.rule)
                );
            }
            text
        }
        Event::Credential(issued) => format!(
            "{} got {} until {}",
            visible(&issued.workload),
            visible(&issued.key_id),
            shown(bulla_identity::UnixMillis::from_millis(issued.expires))
        ),
        Event::Token(token) => format!(
            "{} for user {}, to {}, scope `{}`, {} s",
            visible(&token.how),
            visible(&token.user),
            visible(&token.workload),
            visible(&token.scope),
            token.expires_in
        ),
        Event::ConnectionEnded(ended) => format!(
            "{} on {} ({}), {}",
            visible(&ended.workload),
            visible(&ended.server),
            ended.cid,
            visible(&ended.reason)
        ),
        Event::OverQuota(over) => format!(
            "{} has written {} bytes, and writes no more until {}",
            visible(&over.workload),
            over.wrote,
            shown(bulla_identity::UnixMillis::from_millis(over.until))
        ),
        Event::Head(_) => "signed".to_owned(),
        Event::Stop(_) => "as it should".to_owned(),
        Event::Decision(_) => String::new(),
    }
}

/// Without control characters: what a client sent must not drive the terminal.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
